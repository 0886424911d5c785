//! Which provider and profile a login is for: as typed, as the profile says, or chosen from a list.

use anyhow::{Context, Result};

use crate::cli::{Global, LoginArgs};
use crate::commands::{login_columns, usual_login};
use crate::credentials::{Pending, PendingLogin, Stored};
use crate::error::{Failed, Failure, printable};
use crate::platform::tools;
use crate::profile::ProfileName;
use crate::providers::{self, CUSTOM, Ci, Overrides, Provider, QWEN};
use crate::say::{Screen, cell};
use crate::session::{Session, Surroundings};
use crate::terminal;

/// Errors: usage, if nothing was chosen, a name is unknown, or provider and profile do not belong together.
pub(super) fn provider_and_profile(
    args: &LoginArgs,
    global: &Global,
    session: &Session,
    surroundings: Surroundings,
) -> Result<(Provider, ProfileName)> {
    let named = global.profile.as_deref().map(ProfileName::parse).transpose()?;
    let named = match named {
        None if args.resume && args.provider.is_none() => the_pending_one(session)?,
        named => named,
    };
    let own = own_name(args, session)?;
    let provider = match &own {
        Some(_) => providers::find(CUSTOM, &session.config.overrides)?,
        None => choose(args, named.as_ref(), session, surroundings)?,
    };
    let profile = profile_for(named.or(own), &provider)?;
    Ok((provider, profile))
}

/// The profiles with a login that waits for approval.
pub(super) fn pending(session: &Session) -> Vec<ProfileName> {
    let mut names = PendingLogin::profiles(&session.config.paths.state);
    names.retain(|name| matches!(PendingLogin::of(&session.source_of(name)).state(), Ok(Pending::Waiting)));
    names
}

/// The profile whose login `--resume` without a provider completes: `qwen`, which is the default of the command that left it
/// pending, else the only one that waits.
///
/// Errors: usage, if several wait.
fn the_pending_one(session: &Session) -> Result<Option<ProfileName>> {
    let pending = pending(session);
    match &pending[..] {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        _ if pending.iter().any(ProfileName::is_qwen) => Ok(None),
        [first, ..] => {
            let names = pending.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            Failed::new(Failure::Usage, format!("several logins are pending: {names}"))
                .hint(format!("name one: `qwenauth login --resume --profile {first}`"))
                .err()
        }
    }
}

/// The name that the user gives to a server of their own by `login NAME --base-url URL`: one that means nothing else.
fn own_name(args: &LoginArgs, session: &Session) -> Result<Option<ProfileName>> {
    let overrides = &session.config.overrides;
    let Some(typed) = args.provider.as_deref().filter(|_| args.base_url.is_some()) else { return Ok(None) };
    // A known name that is mistyped is no name for another server: its key would go there.
    if providers::name_of(typed, overrides).is_some() || providers::nearest(typed, overrides).is_some() {
        return Ok(None);
    }
    ProfileName::parse(typed).map(Some)
}

/// The provider asked for; else the one the named profile belongs to; else, on a terminal, the one chosen from a list.
fn choose(
    args: &LoginArgs,
    named: Option<&ProfileName>,
    session: &Session,
    surroundings: Surroundings,
) -> Result<Provider> {
    let overrides = &session.config.overrides;
    if let Some(typed) = &args.provider {
        let named = named.map_or(typed.as_str(), ProfileName::as_str);
        let own = args.base_url.as_ref().filter(|_| ProfileName::parse(named).is_ok());
        let own = own.map(|url| format!("qwenauth login {CUSTOM} --profile {named} --base-url {}", tools::quoted(url)));
        return find(typed, own.as_deref(), session);
    }
    if let Some(profile) = named {
        let source = session.source_of(profile);
        if args.resume
            && let Some(provider) =
                PendingLogin::of(&source).provider().and_then(|name| providers::name_of(&name, overrides))
        {
            return providers::find(&provider, overrides);
        }
        if let Stored::Present(credential) = source.load_record()? {
            return source.provider(&credential);
        }
        if providers::is_built_in(profile.as_str()) || overrides.table.contains_key(profile.as_str()) {
            return providers::find(profile.as_str(), overrides);
        }
    }
    if !terminal::can_prompt() || args.resume || args.json {
        if !(args.no_wait || args.resume || args.json || named.is_some()) {
            check_no_key_is_meant(overrides)?;
        }
        return providers::find(QWEN, overrides);
    }
    let mut all = all(overrides)?;
    if args.no_wait {
        all.retain(|provider| provider.authorize.is_some() || provider.oauth().is_some());
    }
    let rows: Vec<terminal::Row> = all.iter().map(|provider| row(provider, surroundings)).collect();
    let chosen = terminal::choose("Log in to", &rows)?.and_then(|index| all.into_iter().nth(index));
    let Some(provider) = chosen else { return Failed::new(Failure::Usage, "no provider was chosen").err() };
    terminal::say(&format!("? Log in to  {} ({})", provider.title, provider.name));
    Ok(provider)
}

fn all(overrides: &Overrides) -> Result<Vec<Provider>> {
    providers::names(overrides).iter().map(|name| providers::find(name, overrides)).collect()
}

/// A key for Qwen models in the environment means that provider rather than the login that is the default.
///
/// Errors: usage, with the line to type.
fn check_no_key_is_meant(overrides: &Overrides) -> Result<()> {
    for provider in all(overrides)?.iter().filter(|provider| provider.qwen_only) {
        if let Some(name) = Surroundings::key_variable(provider) {
            return Failed::new(
                Failure::Usage,
                format!("`{name}` is set, and `login` without a provider would not use it"),
            )
            .hint(format!("run `qwenauth login {} --api-key-env {name}`, or `qwenauth login qwen`", provider.name))
            .err();
        }
    }
    Ok(())
}

/// One line of the list: name, title, how to log in, price.
fn row(provider: &Provider, surroundings: Surroundings) -> terminal::Row {
    let cost = match Surroundings::key_variable(provider) {
        _ if surroundings.ci && provider.ci == Ci::Forbidden => "not in CI".to_owned(),
        Some(name) => format!("key in {name}"),
        None => provider.cost.clone(),
    };
    let screen = Screen::stderr();
    let [title, method, cost] = [provider.label(), usual_login(provider), &cost].map(|text| screen.translate(text));
    // The price is of more use than the end of a long title.
    let title = cell(&title, if terminal::size().1 < 78 { 18 } else { 32 });
    let shown = format!("{} {title} {} {cost}", cell(&provider.name, 12), cell(&method, login_columns(screen)));
    terminal::Row { shown, names: format!("{} {}", provider.title, provider.aliases.join(" ")) }
}

/// The provider known as `typed`. A stored profile of that name takes precedence over an alias. `own`: what to type if it
/// is a server of the user's own.
fn find(typed: &str, own: Option<&str>, session: &Session) -> Result<Provider> {
    let overrides = &session.config.overrides;
    let is_name = providers::names(overrides).iter().any(|name| name == typed);
    if !is_name && session.config.paths.profiles()?.iter().any(|stored| stored.as_str() == typed) {
        return Failed::new(Failure::Usage, format!("unknown provider `{}`", printable(typed)))
            .hint(format!("`{typed}` is a stored profile: `qwenauth login --profile {typed}`"))
            .err();
    }
    if providers::name_of(typed, overrides).is_none()
        && providers::nearest(typed, overrides).is_none()
        && ProfileName::parse(typed).is_ok()
    {
        return Failed::new(Failure::Usage, format!("unknown provider `{}`", printable(typed)))
            .hint("run `qwenauth providers` to list them; for a server of your own add `--base-url URL`")
            .err();
    }
    if let (None, Some(near), Some(own)) =
        (providers::name_of(typed, overrides), providers::nearest(typed, overrides), own)
    {
        return Failed::new(Failure::Usage, format!("unknown provider `{}`", printable(typed)))
            .hint(format!("{near} for a server of your own: `{own}`"))
            .err();
    }
    providers::find_by_any_name(typed, overrides)
}

/// The profile of the login: the named one, else that of the provider's name.
fn profile_for(named: Option<ProfileName>, provider: &Provider) -> Result<ProfileName> {
    let profile = match named {
        Some(profile) => profile,
        None => ProfileName::parse(&provider.name).context("name a profile with `--profile`")?,
    };
    if profile.is_qwen() && provider.name != QWEN {
        return Failed::new(
            Failure::Usage,
            format!("the profile `{QWEN}` belongs to the provider `{QWEN}`, not to `{}`", provider.name),
        )
        .hint("omit `--profile`, or choose another name")
        .err();
    }
    Ok(profile)
}
