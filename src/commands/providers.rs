//! `providers`: compare the known providers.

use anyhow::Result;
use serde_json::{Value, json};

use super::{login_columns, print, print_document, usual_login};
use crate::cli::ProvidersArgs;
use crate::error::{printable, without_user_info};
use crate::providers::{self, Ci, Overrides, Page, Provider, WhenUnauthenticated};
use crate::say::{Screen, Style, cell, cut};
use crate::session::{Session, Surroundings};

pub(crate) fn run(args: &ProvidersArgs, session: &Session) -> Result<()> {
    let surroundings = Surroundings::look();
    // The committed table describes the program, not a user's configuration.
    let none = Overrides::default();
    let overrides = if args.markdown { &none } else { &session.config.overrides };
    let names = match &args.name {
        Some(typed) => vec![providers::find_by_any_name(typed, overrides)?.name],
        None => providers::names(overrides),
    };
    let found = names.iter().map(|name| providers::find(name, overrides)).collect::<Result<Vec<Provider>>>()?;
    if args.markdown {
        return print(&found.iter().fold(MARKDOWN.to_owned(), |text, provider| text + &markdown(provider)));
    }
    if args.json {
        let rows: Vec<Value> = found.iter().map(|provider| object(provider, surroundings)).collect();
        return print_document(&json!({ "schema": 1, "providers": rows }));
    }
    match (&args.name, found.first()) {
        (Some(_), Some(provider)) => print(&in_full(provider, surroundings, Screen::stdout())),
        _ => print(&table(&found, surroundings, Screen::stdout())),
    }
}

const MARKDOWN: &str = "\
| provider | login | headless | CI | Claude Code | Codex | verified how | tested against |
|---|---|---|---|---|---|---|---|
";

fn markdown(provider: &Provider) -> String {
    format!(
        "| `{}` | {} | {} | {} | {} | {} | {} | {} |\n",
        provider.name,
        ways(provider).join(", "),
        headless(provider),
        ci(provider),
        if provider.has_anthropic() {
            "yes"
        } else if provider.base_url.is_empty() {
            "on this machine"
        } else {
            "no"
        },
        if provider.is_known_for_responses() {
            "yes"
        } else if provider.base_url.is_empty() {
            "assumed"
        } else {
            "no"
        },
        verified(provider),
        provider.tested
    )
}

/// The ways in, the usual one first.
fn ways(provider: &Provider) -> Vec<&'static str> {
    let mut ways = Vec::new();
    if provider.authorize.is_some() {
        ways.push("browser (PKCE)");
        ways.push("pasted code");
    }
    match &provider.key {
        Some(key) if key.optional => ways.push("API key, if the server requires one"),
        Some(_) => ways.push("API key"),
        None => {}
    }
    match &provider.oauth {
        Some(oauth) if oauth.client_id.is_some() => ways.push("device login"),
        Some(_) => ways.push("device login with a `client_id` of your own"),
        None if provider.key.is_none() => ways.push("API key"),
        None => {}
    }
    ways
}

/// No way in needs a browser on this machine; some need a person with one elsewhere.
fn headless(provider: &Provider) -> &'static str {
    match (&provider.key, &provider.authorize) {
        (None, _) if provider.oauth.is_some() => "yes, approved on another device",
        (_, Some(_)) => "yes, by pasting a code or a key",
        _ => "yes",
    }
}

fn ci(provider: &Provider) -> &'static str {
    match provider.ci {
        Ci::Allowed => "yes",
        Ci::Forbidden => "forbidden by its terms",
        Ci::Unclear => "unclear",
    }
}

fn verified(provider: &Provider) -> String {
    const CHAT: &str = "a chat request for one token";
    let verify = &provider.verify;
    let get = match verify.get.as_str() {
        "chat" => return CHAT.into(),
        url if url.contains("://") => format!("`GET {}`", url.trim_start_matches("https://")),
        path => format!("`GET …/{path}`"),
    };
    match verify.open {
        None => get,
        Some(WhenUnauthenticated::Chat) => format!("{get}; if that accepts any key, {CHAT}"),
        Some(WhenUnauthenticated::Unclear) => format!("{get}, unless that accepts any key"),
        Some(WhenUnauthenticated::Fine) => format!("{get}; servers without authentication need no key"),
    }
}

/// Columns of the provider's id, and of its first line up to the price.
const ID: usize = 12;
const TITLE: usize = 26;
const CI: usize = 4;

/// Columns that the beginning of a price needs to say something; a narrower screen has the price on a line of its own.
const MIN_PRICE: usize = 24;

fn table(found: &[Provider], surroundings: Surroundings, screen: Screen) -> String {
    // A pipe gets every text whole, so that `grep` finds it.
    let width = screen.width().unwrap_or(usize::MAX);
    let login = login_columns(screen);
    let price = width.saturating_sub(ID + TITLE + login + CI + 4);
    let has_price = price >= MIN_PRICE;
    let columns = [("PROVIDER", ID), ("NAME", TITLE), ("LOGIN", login), ("CI", CI)];
    let heads = columns.map(|(head, width)| cell(&screen.translate(head), width)).join(" ");
    let header = if has_price { format!("{heads} {}", screen.translate("PRICE")) } else { heads.trim_end().to_owned() };
    let mut lines = vec![screen.paint(Style::Dim, &header)];
    let mut ordered: Vec<&Provider> = found.iter().collect();
    ordered.sort_by_key(|provider| provider.payment);
    let mut group = None;
    for provider in ordered {
        if group.replace(provider.payment) != Some(provider.payment) {
            lines.push(screen.paint(Style::Dim, &screen.translate(provider.payment.title())));
        }
        let (ci, style) = match provider.ci {
            Ci::Allowed => ("yes", None),
            Ci::Forbidden => ("no", Some(Style::Error)),
            Ci::Unclear => ("?", Some(Style::Warning)),
        };
        let ci = cell(&screen.translate(ci), CI);
        let own = printable(price_in(provider));
        let first = format!(
            "{} {} {} {} {}",
            screen.paint(Style::Bold, &cell(&printable(&provider.name), ID)),
            cell(&screen.translate(&printable(&provider.title)), TITLE),
            cell(&screen.translate(usual_login(provider)), login),
            style.map_or(ci.clone(), |style| screen.paint(style, &ci)),
            if has_price { cut(&own, price) } else { String::new() }
        );
        lines.push(first.trim_end().to_owned());
        let limits = Some(&provider.limits.text).filter(|limits| !matches!(limits.as_str(), "" | "none"));
        let limits = limits.map(|limits| screen.translate(&format!("limits: {}", printable(limits))));
        for line in (!has_price).then_some(own).into_iter().chain(limits) {
            let line = screen.paint(Style::Dim, &cut(&line, width.saturating_sub(ID + 1)));
            lines.push(format!("{} {line}", " ".repeat(ID)));
        }
    }
    let there = [
        (surroundings.graphical, "a graphical session"),
        (surroundings.ssh, "SSH"),
        (surroundings.container, "a container"),
        (surroundings.ci, "CI"),
    ];
    let here = there.into_iter().filter(|(holds, _)| *holds).map(|(_, what)| screen.translate(what));
    let here = here.collect::<Vec<_>>().join(", ");
    let here = if here.is_empty() { screen.translate("no graphical session") } else { here };
    lines.push(String::new());
    for remark in [
        "CI: no: forbidden by the terms; ?: the terms do not say".to_owned(),
        format!("here: {here}; no login needs a browser on this machine"),
        "`qwenauth providers NAME` shows regions, models and where to get a key".to_owned(),
    ] {
        lines.extend(screen.wrap(&screen.translate(&remark), 0, 0).iter().map(|line| screen.paint(Style::Dim, line)));
    }
    lines.join("\n") + "\n"
}

/// The price below the title of its group, which says how it is paid for.
fn price_in(provider: &Provider) -> &str {
    let price =
        provider.price.strip_prefix(provider.payment.title()).map(|rest| rest.trim_start_matches([',', ';', ' ']));
    price.filter(|rest| !rest.is_empty()).unwrap_or(&provider.price)
}

fn in_full(provider: &Provider, surroundings: Surroundings, screen: Screen) -> String {
    let title = format!("{} ({})", printable(&provider.title), printable(&provider.name));
    let mut lines = vec![screen.paint(Style::Bold, &title)];
    let mut fact = |label: &str, value: &str| {
        if !value.is_empty() {
            let mut wrapped = screen.wrap(&printable(value), 13, 13).into_iter();
            let label = screen.paint(Style::Dim, &cell(label, 10));
            lines.push(format!("  {label} {}", wrapped.next().unwrap_or_default()).trim_end().to_owned());
            lines.extend(wrapped);
        }
    };
    fact("note", provider.note.as_deref().unwrap_or_default());
    fact("price", &provider.price);
    fact("limits", &provider.limits.text);
    fact("use for", &provider.use_for);
    fact("CI", ci(provider));
    fact("login", &ways(provider).join(", "));
    fact("login here", &surroundings.verdict(provider));
    fact("checked by", &verified(provider));
    fact("base URL", &without_user_info(&provider.base_url));
    for (name, region) in &provider.regions {
        fact("region", &format!("{name:<5} {} ({})", without_user_info(&region.base_url), region.title));
    }
    fact("Anthropic", &anthropic(provider));
    fact("Responses", responses(provider));
    let has_several = provider.regions.values().any(|region| region.key_page.is_some());
    let regions: Vec<Option<&str>> =
        if has_several { provider.regions.keys().map(|name| Some(name.as_str())).collect() } else { vec![None] };
    let page_of = |page: Page, region: Option<&str>| match region {
        Some(region) => format!("{} ({region})", page.url),
        None => page.url.to_owned(),
    };
    for &region in &regions {
        for page in provider.key_pages(region) {
            fact("key page", &page_of(page, region));
        }
    }
    for &region in &regions {
        let made = provider.key_pages(region);
        for page in provider.delete_pages(region) {
            if made.iter().all(|own| own.url != page.url) {
                fact("delete key", &page_of(page, region));
            }
        }
    }
    if let Some(key) = &provider.key {
        fact("variables", &key.variables.join(", "));
        if let Some(prefix) = &key.prefix {
            fact("key prefix", &format!("{prefix}…"));
        }
    }
    if provider.short_lived.is_some() {
        fact("also", "`--short-lived` keys, valid for at most 30 min");
    }
    if let Some(exchange) = &provider.token_exchange {
        let policy = if exchange.has_policy() { " --policy ID" } else { "" };
        fact("in CI", &format!("`login --workload-identity{policy}` needs no stored secret"));
    }
    for model in &provider.models {
        let default = if provider.default_model.as_deref() == Some(&model.id) { " (default)" } else { "" };
        let context = model.context.map(|tokens| format!(", {tokens} tokens of context")).unwrap_or_default();
        fact("model", &format!("{}{context}{default}", model.id));
    }
    if provider.models.is_empty() {
        fact("models", "those that `GET …/models` lists");
    }
    lines.join("\n") + "\n"
}

/// The endpoint that Claude Code needs.
fn anthropic(provider: &Provider) -> String {
    match provider.anthropic(&provider.base_url) {
        Some(url) => format!("{} (for Claude Code)", without_user_info(&url)),
        None if provider.base_url.is_empty() => "assumed of a server on this machine (for Claude Code)".to_owned(),
        None => "no (not for Claude Code)".to_owned(),
    }
}

/// The endpoint that Codex needs.
fn responses(provider: &Provider) -> &'static str {
    match provider.has_responses(&provider.base_url) {
        true if provider.base_url.is_empty() => "assumed (for Codex)",
        true => "yes (for Codex)",
        false => "no (not for Codex)",
    }
}

/// Masks the user info of each URL in `value`.
fn mask(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(text)
                        if matches!(name.as_str(), "base_url" | "anthropic_base_url" | "url" | "page" | "delete") =>
                    {
                        *text = without_user_info(text);
                    }
                    _ => mask(field),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(mask),
        _ => {}
    }
}

fn object(provider: &Provider, surroundings: Surroundings) -> Value {
    let mut object = json!({
        "provider": provider.name,
        "title": provider.title,
        "aliases": provider.aliases,
        "note": provider.note,
        "base_url": Some(&provider.base_url).filter(|url| !url.is_empty()),
        "default_region": provider.default_region,
        "regions": provider.regions,
        "default_model": provider.default_model,
        "models": provider.models,
        "anthropic_base_url": provider.anthropic(&provider.base_url),
        "responses": provider.has_responses(&provider.base_url),
        "login": ways(provider),
        "headless": true,
        "ci": provider.ci,
        "price": provider.price,
        "use_for": provider.use_for,
        "limits": provider.limits,
        "key": provider.key,
        "short_lived": provider.short_lived.is_some(),
        "token_exchange": provider.token_exchange,
        "verify": provider.verify,
        "headers": provider.headers("{user-agent}").into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        "tested": provider.tested,
        "here": surroundings.verdict(provider),
    });
    mask(&mut object);
    object
}
