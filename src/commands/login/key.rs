//! A login with an API key: read it, verify it at the endpoint that really checks it, and store it unless it is
//! rejected.

use std::io::{Read, stdin};
use std::time::SystemTime;

use anyhow::{Context, Result};
use url::Url;

use super::Attempt;
use super::target::{self, Target};
use crate::commands::rfc3339;
use crate::credentials::{
    NewKey, Stored, Verification, VerificationRequest, chosen_model_of, clean_key, key_of, not_a_key,
    remember_verification, store_key,
};
use crate::environment::{not_set, variable};
use crate::error::{Failed, Failure, note};
use crate::profile::SecretStore;
use crate::providers;
use crate::say::{Screen, columns};
use crate::secret::Secret;
use crate::session::Surroundings;
use crate::terminal;

/// The key that tools get if the server requires none: most tools insist on one.
const NO_KEY: &str = "no-key";

/// Maximum input from stdin, in bytes.
const MAX_INPUT: usize = 64 * 1024;

/// What is to be stored.
struct Change {
    secret: Secret,
    /// What printed it, and is stored in its place.
    command: Option<String>,
    /// The places to try, the likeliest first.
    targets: Vec<Target>,
    /// Whether the key came from the stored login.
    is_stored_key: bool,
}

/// Applies whatever was given: a key, a place, a model. The rest stays as it is stored.
pub(super) fn log_in(attempt: &Attempt) -> Result<()> {
    // What cannot work is reported before a person types a key.
    let place = target::given(attempt)?;
    let stored = stored_target(attempt)?;
    let given = given(attempt)?;
    let args = attempt.args;
    let is_given = given.is_some() || place.is_some() || args.model.is_some() || args.store.is_some();
    if !is_given && !attempt.args.force && attempt.keeps_existing()? {
        return Ok(());
    }
    let targets = match &place {
        Some(place) => vec![place.clone()],
        None => target::likely(&attempt.provider, stored.as_ref())?,
    };
    let reusable = if given.is_some() { None } else { reusable_key(attempt, place.as_ref(), stored.as_ref())? };
    let asks = attempt.args.force || !is_given || is_elsewhere(place.as_ref(), stored.as_ref());
    let (secret, is_stored_key) = match (given, reusable) {
        (Some(given), _) => (given, false),
        (None, Some(reusable)) if !(asks && terminal::can_prompt()) => (reusable, true),
        (None, reusable) => match ask_for(attempt, &targets, reusable.is_some())? {
            Some(typed) => (typed, false),
            None => match reusable {
                Some(reusable) => (reusable, true),
                None => (Secret::new(NO_KEY.into()), false),
            },
        },
    };
    let stored_command = attempt.stored_key().and_then(|stored| stored.command.clone());
    let command =
        args.api_key_command.clone().or_else(|| stored_command.filter(|_| is_stored_key && args.store.is_none()));
    store(attempt, Change { secret, command, targets, is_stored_key }, false)
}

/// Verifies and stores a key that the provider has made just now.
pub(super) fn store_granted(attempt: &Attempt, secret: Secret) -> Result<()> {
    store(attempt, new_key(attempt, secret)?, true)
}

/// Verifies and stores a key that a person gave.
pub(super) fn store_given(attempt: &Attempt, secret: Secret) -> Result<()> {
    store(attempt, new_key(attempt, secret)?, false)
}

fn new_key(attempt: &Attempt, secret: Secret) -> Result<Change> {
    let targets = target::likely(&attempt.provider, stored_target(attempt)?.as_ref())?;
    Ok(Change { secret, command: None, targets, is_stored_key: false })
}

fn stored_target(attempt: &Attempt) -> Result<Option<Target>> {
    attempt.stored_key().map(|stored| Target::of(&attempt.provider, stored)).transpose()
}

/// The stored key, where it may be used at the place that was given.
fn reusable_key(attempt: &Attempt, place: Option<&Target>, stored: Option<&Target>) -> Result<Option<Secret>> {
    let Some(key) = attempt.stored_key() else { return Ok(None) };
    let provider = &attempt.provider;
    let may_go = place.is_none_or(|place| stored.is_some_and(|stored| stored.shares_key_with(place, provider)));
    if !may_go || attempt.args.force {
        return Ok(None);
    }
    Ok(Some(attempt.source.with_secret(key.clone())?.access_token))
}

fn is_elsewhere(place: Option<&Target>, stored: Option<&Target>) -> bool {
    place.is_some_and(|place| stored.is_none_or(|stored| stored.base_url != place.base_url))
}

/// `granted`: the provider made the key for this login, so it is stored even if it cannot be verified now.
fn store(attempt: &Attempt, change: Change, granted: bool) -> Result<()> {
    let Change { secret, command, mut targets, is_stored_key } = change;
    if is_unchanged(attempt, &secret, command.as_deref(), &targets)?
        && let Some(stored) = attempt.stored_key()
    {
        note(&format!("already logged in with this key as profile `{}`", attempt.profile));
        return attempt.keep(stored);
    }
    let store = if command.is_some() { SecretStore::Command } else { attempt.keep_in };
    attempt.source.store.check_writable(store)?;
    attempt.warn_of_terms(secret.expose());
    let (target, verification) = if attempt.args.no_verify {
        (targets.remove(0), None)
    } else {
        let (target, verification) = verify(attempt, &secret, targets)?;
        (target, Some(verification))
    };
    if let (Some(Verification::Unclear(why)), Some(_), false) = (&verification, &attempt.stored, granted) {
        return Failed::new(Failure::Temporary, format!("cannot verify the login: {why}; nothing was changed"))
            .hint("retry later, or add `--no-verify` to store it unverified")
            .err();
    }
    if is_stored_key {
        check_not_replaced(attempt, &secret)?;
    }
    let model = model(attempt, &secret, &target, verification.as_ref());
    let key = NewKey { secret, base_url: target.base_url, region: target.region, model, command, store };
    let credential = store_key(&attempt.source, &attempt.provider, &key, rfc3339(SystemTime::now()).as_deref())?;
    if let Some(verification) = &verification {
        remember_verification(&attempt.source, &credential, verification);
    }
    attempt.conclude(&credential, verification)
}

/// Whether key, place and model are those that are stored.
fn is_unchanged(attempt: &Attempt, secret: &Secret, command: Option<&str>, targets: &[Target]) -> Result<bool> {
    let (Some(stored), false) = (attempt.stored_key(), attempt.args.force) else { return Ok(false) };
    let place = Target::of(&attempt.provider, stored)?;
    let same_place = targets.iter().any(|target| target.base_url == place.base_url);
    let same_model = attempt.args.model.is_none() || attempt.args.model == chosen_model_of(&attempt.source, stored);
    let same_key = match command {
        Some(_) => stored.command.as_deref() == command,
        None => stored.access_token == *secret && stored.secret_store == attempt.keep_in,
    };
    Ok(same_key && same_place && same_model)
}

/// Another process may have stored another key while this one verified the old one.
fn check_not_replaced(attempt: &Attempt, secret: &Secret) -> Result<()> {
    match attempt.source.load()? {
        Stored::Present(now) if now.access_token == *secret => Ok(()),
        Stored::Present(now)
            if now.command.is_some() && attempt.stored_key().is_some_and(|stored| stored.command == now.command) =>
        {
            Ok(())
        }
        _ if attempt.stored.is_none() => Ok(()),
        _ => Failed::new(Failure::Temporary, "another process has replaced the login; nothing was changed")
            .hint("run the same command again")
            .err(),
    }
}

/// The model to store: the given one, else the stored one, which a server that no description knows keeps only while the
/// place is the same.
fn model(attempt: &Attempt, secret: &Secret, target: &Target, verification: Option<&Verification>) -> Option<String> {
    if attempt.args.model.is_some() {
        return attempt.args.model.clone();
    }
    let stored = attempt.stored_key().filter(|stored| {
        attempt.provider.default_model.is_some()
            || stored.base_url(&attempt.provider).is_ok_and(|base_url| base_url == target.base_url)
    });
    let kept = stored.and_then(|stored| chosen_model_of(&attempt.source, stored));
    kept.or_else(|| only_model(attempt, secret, target, verification))
}

/// Verifies the key at each target until one accepts it.
///
/// Errors: login required if none does, with where the key belongs if that can be found out.
fn verify(attempt: &Attempt, secret: &Secret, targets: Vec<Target>) -> Result<(Target, Verification)> {
    let has_choice = targets.len() > 1;
    let regions: Vec<Option<String>> = targets.iter().map(|target| target.region.clone()).collect();
    let mut unclear = None;
    let mut rejected = None;
    for target in targets {
        match ask(attempt, secret, &target)? {
            Verification::Refused(why) => rejected = rejected.or(Some((target, why))),
            verification @ Verification::Unclear(_) => unclear = unclear.or(Some((target, verification))),
            verification => {
                if has_choice && target.region != attempt.provider.default_region {
                    note(&format!("the key belongs to region `{}`", target.region.as_deref().unwrap_or_default()));
                }
                return Ok((target, verification));
            }
        }
    }
    if let Some((target, verification)) = unclear {
        // Most servers have their API below it, and few people type it.
        return match with_version(attempt, secret, &target)? {
            Some(found) => Ok(found),
            None => Ok((target, verification)),
        };
    }
    let Some((target, why)) = rejected else {
        return Failed::new(Failure::Usage, "there is no base URL to verify the key with").err();
    };
    if !has_choice && let Some(region) = home_region(attempt, secret, &target)? {
        let message = match &target.region {
            Some(asked) => format!("the key belongs to region `{region}`, not to `{asked}`; nothing was stored"),
            None => format!("the key belongs to region `{region}`, not to `{}`; nothing was stored", target.base_url),
        };
        return Failed::new(Failure::LoginRequired, message).hint(format!("use `--region {region}`")).err();
    }
    let asked: &[Option<String>] = if has_choice { &regions } else { std::slice::from_ref(&target.region) };
    Failed::new(
        Failure::LoginRequired,
        format!("{} rejected the key: {why}; nothing was stored", attempt.provider.title),
    )
    .hint(remedy(attempt, secret, asked))
    .err()
}

/// The same server with `/v1`, where a base URL without a path was given and that is where it accepts the key.
fn with_version(attempt: &Attempt, secret: &Secret, target: &Target) -> Result<Option<(Target, Verification)>> {
    let is_bare = Url::parse(&target.base_url).is_ok_and(|url| url.path() == "/");
    if !is_bare || attempt.args.base_url.is_none() {
        return Ok(None);
    }
    let versioned = Target { base_url: format!("{}/v1", target.base_url), ..target.clone() };
    let verification = ask(attempt, secret, &versioned)?;
    if !matches!(verification, Verification::Accepted | Verification::Exhausted(_)) {
        return Ok(None);
    }
    note(&format!("the API is at `{}`", versioned.base_url));
    Ok(Some((versioned, verification)))
}

fn ask(attempt: &Attempt, secret: &Secret, target: &Target) -> Result<Verification> {
    let provider = &attempt.provider;
    let kept = attempt.stored_key().and_then(|stored| chosen_model_of(&attempt.source, stored));
    let model = attempt.args.model.as_deref().or(kept.as_deref()).or(provider.default_model.as_deref());
    let network = &attempt.source.network;
    VerificationRequest { provider, base_url: &target.base_url, token: secret, model, network }.ask()
}

/// The region that accepts a key which `refused` rejects.
fn home_region(attempt: &Attempt, secret: &Secret, refused: &Target) -> Result<Option<String>> {
    for (name, region) in &attempt.provider.regions {
        let target = Target { region: Some(name.clone()), base_url: region.base_url.clone() };
        if target.base_url != refused.base_url
            && matches!(ask(attempt, secret, &target)?, Verification::Accepted | Verification::Exhausted(_))
        {
            return Ok(Some(name.clone()));
        }
    }
    Ok(None)
}

/// What to do about a rejected key. By its prefix it may belong to another provider; that is only likely, so it is a
/// hint. `asked`: the regions that rejected it.
fn remedy(attempt: &Attempt, secret: &Secret, asked: &[Option<String>]) -> String {
    let provider = &attempt.provider;
    if let Some((prefix, owners)) = providers::owners_of(secret, &attempt.session.config.overrides)
        && !owners.contains(&provider.name)
    {
        let names = owners.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ");
        return format!("a key that starts with `{prefix}` belongs to {names}: run `qwenauth login {}`", owners[0]);
    }
    if secret.expose() == NO_KEY {
        return "the server requires a key: pass it with `--api-key-stdin` or `--api-key-env VAR`".into();
    }
    let tried = match asked {
        [_, _, ..] => {
            let names: Vec<&str> = asked.iter().flatten().map(String::as_str).collect();
            format!("tried regions {}; ", names.join(", "))
        }
        _ => String::new(),
    };
    let region = if let [Some(region)] = asked { Some(region.as_str()) } else { None };
    match providers::in_words(&provider.key_pages(region)) {
        Some(pages) => format!("{tried}check the key at {pages}"),
        None => "check that the key and the base URL belong together".into(),
    }
}

/// The model of a server without a description, if it lists a single one.
fn only_model(
    attempt: &Attempt,
    secret: &Secret,
    target: &Target,
    verification: Option<&Verification>,
) -> Option<String> {
    if attempt.provider.default_model.is_some() || !matches!(verification, Some(Verification::Accepted)) {
        return None;
    }
    let network = &attempt.source.network;
    let request = VerificationRequest {
        provider: &attempt.provider,
        base_url: &target.base_url,
        token: secret,
        model: None,
        network,
    };
    match request.models().as_slice() {
        [only] if !only.is_empty() && !only.chars().any(char::is_control) => {
            note(&format!("using model `{only}`, the only one that the server lists"));
            Some(only.clone())
        }
        [] | [_] => None,
        several => {
            note(&format!("the server lists {} models; choose one with `--model`", several.len()));
            None
        }
    }
}

/// The key in one of the provider's variables, if the user wants to use it.
pub(super) fn offered(attempt: &Attempt) -> Result<Option<Secret>> {
    let Some(name) = Surroundings::key_variable(&attempt.provider) else { return Ok(None) };
    if attempt.args.json || !terminal::can_prompt() || !terminal::confirm(&format!("Use the key in `{name}`?"))? {
        return Ok(None);
    }
    from_variable(&name).map(Some)
}

/// The key that an option names: from stdin, from a variable or from a command.
fn given(attempt: &Attempt) -> Result<Option<Secret>> {
    let args = attempt.args;
    if args.api_key_stdin {
        return from_stdin().map(Some);
    }
    if let Some(command) = &args.api_key_command {
        return key_of(&attempt.source, command, &attempt.provider).map(Some);
    }
    args.api_key_env.as_deref().map(from_variable).transpose()
}

/// A key that the user types instead of logging in through the browser.
pub(super) fn typed(attempt: &Attempt) -> Result<Secret> {
    show_pages(attempt, None);
    clean_key(terminal::hidden("API key (hidden)", false)?.expose())
}

/// Where keys are made.
fn show_pages(attempt: &Attempt, region: Option<&str>) {
    let screen = Screen::stderr();
    let [first, other] = ["Create a key at", "or"].map(|text| screen.translate(text));
    let indent = " ".repeat(columns(&first).saturating_sub(columns(&other)));
    for (number, page) in attempt.provider.key_pages(region).iter().enumerate() {
        let lead = if number == 0 { first.clone() } else { format!("{indent}{other}") };
        let place = page.place.map(|place| format!(" ({})", screen.translate(place))).unwrap_or_default();
        terminal::say(&format!("{lead} {}{place}", page.url));
    }
}

/// A key from a person. Returns `None` if the server needs none or the stored one stays.
fn ask_for(attempt: &Attempt, targets: &[Target], can_keep: bool) -> Result<Option<Secret>> {
    let provider = &attempt.provider;
    let optional = provider.key.as_ref().is_some_and(|key| key.optional);
    if terminal::can_prompt() {
        if let Some(found) = offered(attempt)? {
            return Ok(Some(found));
        }
        let region = if let [target] = targets { target.region.as_deref() } else { None };
        show_pages(attempt, region);
        let request = match (can_keep, optional) {
            (true, _) => "API key (hidden; empty keeps the stored one)",
            (false, true) => "API key (hidden; empty for none)",
            (false, false) => "API key (hidden)",
        };
        let typed = terminal::hidden(request, can_keep || optional)?;
        if (can_keep || optional) && typed.expose().trim().is_empty() {
            return Ok(None);
        }
        return clean_key(typed.expose()).map(Some);
    }
    if optional {
        return Ok(None);
    }
    let hint = match Surroundings::key_variable(provider) {
        Some(name) => format!("`{name}` is set: use `--api-key-env {name}`"),
        None => "pass the key with `--api-key-stdin`, `--api-key-env VAR` or `--api-key-command COMMAND`".into(),
    };
    Failed::new(
        Failure::Usage,
        format!("{} requires an API key, and there is no terminal to prompt for it", provider.title),
    )
    .hint(hint)
    .err()
}

fn from_stdin() -> Result<Secret> {
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(MAX_INPUT));
    stdin().lock().take(MAX_INPUT as u64).read_to_end(&mut bytes).context("cannot read stdin")?;
    match std::str::from_utf8(&bytes) {
        Ok(text) if text.trim().is_empty() => Failed::new(Failure::Usage, "stdin is empty")
            .hint("pipe the key in: `… | qwenauth login … --api-key-stdin`")
            .err(),
        Ok(text) => clean_key(text),
        Err(_) => not_a_key("is not text").err(),
    }
}

fn from_variable(name: &str) -> Result<Secret> {
    let Some(value) = variable(name) else {
        return Failed::new(Failure::Usage, not_set(name))
            .hint("`--api-key-env` takes the name of a variable, not a key")
            .err();
    };
    match value.into_string() {
        Ok(text) => clean_key(Secret::new(text).expose()),
        Err(_) => not_a_key("is not text").err(),
    }
}
