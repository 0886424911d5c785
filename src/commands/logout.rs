//! `logout`: remove stored credentials.

use anyhow::Result;
use serde_json::{Value, json};

use super::print_json;
use crate::cli::LogoutArgs;
use crate::credentials::{self, Credential, CredentialSource, Kind, Stored};
use crate::error::note;
use crate::profile::ProfileName;
use crate::providers::{Provider, in_words};
use crate::session::Session;
use crate::setup::{self, TOOLS};
use crate::sha256::sha256;
use crate::terminal;

pub(crate) fn run(args: &LogoutArgs, session: &Session) -> Result<()> {
    if let Some(variable) = session.credential_variable() {
        note(&format!("the key in `{variable}` is used in this shell until you `unset {variable}`"));
        if !args.all && session.named().is_none() {
            if args.json {
                return print_json(&outcome(session, None, false, false));
            }
            return Ok(());
        }
    }
    if !args.all {
        return remove(args, session, &session.profile);
    }
    let profiles = session.config.paths.profiles()?;
    if profiles.is_empty() {
        note("already logged out: there is no stored profile");
        return if args.json { print_json(&outcome(session, None, false, false)) } else { Ok(()) };
    }
    let names = profiles.iter().map(ProfileName::as_str).collect::<Vec<_>>().join(", ");
    if terminal::can_prompt() && !terminal::confirm(&format!("Log out of {names}?"))? {
        note("nothing was removed");
        return Ok(());
    }
    // A profile that cannot be removed is no reason to keep the others.
    let outcomes: Vec<Result<()>> = profiles.iter().map(|profile| remove(args, session, profile)).collect();
    outcomes.into_iter().collect()
}

/// One line of `--json`. `variable`: what holds a key that is used all the same.
fn outcome(session: &Session, profile: Option<&ProfileName>, removed: bool, revoked: bool) -> Value {
    let mut outcome = json!({"profile": profile.map(ProfileName::as_str), "removed": removed, "revoked": revoked});
    if let Some(variable) = session.credential_variable() {
        outcome["variable"] = variable.into();
    }
    outcome
}

fn remove(args: &LogoutArgs, session: &Session, profile: &ProfileName) -> Result<()> {
    // What is stored, also beside a `key_file`.
    let mut source = session.source_of(profile);
    source.given = None;
    if let Some(path) = session.key_file(profile) {
        let path = path.display();
        note(&format!("the key in `{path}` is used as long as config.toml names it: remove `key_file` there"));
    }
    let removed = credentials::remove(&source)?;
    let mut revoked = false;
    if let Some(Stored::Present(credential)) = &removed {
        if credential.kind == Kind::ApiKey {
            say_where_it_is_deleted(&source, credential);
        } else if !args.local {
            revoked = credentials::revoke(&source, credential).unwrap_or_else(|why| {
                note(&format!(
                    "warning: removed the login of `{profile}` from this machine, but the server did not revoke it: {why}"
                ));
                false
            });
        }
        credentials::forget(&source, credential);
    }
    if args.json {
        return print_json(&outcome(session, Some(profile), removed.is_some(), revoked));
    }
    let meant = if removed.is_some() { None } else { source.meant() };
    note(&match (removed.is_some(), revoked, meant) {
        (true, true, _) => format!("logged out of `{profile}`, and the server has revoked the login"),
        (true, false, _) => format!("logged out of `{profile}`"),
        (false, _, Some(meant)) => format!("there is no stored profile `{profile}`; did you mean `{meant}`?"),
        (false, _, None) => format!("already logged out of `{profile}`"),
    });
    if removed.is_some() {
        say_what_still_uses(args, session, profile)?;
    }
    Ok(())
}

/// Tools that still use the removed profile.
fn say_what_still_uses(args: &LogoutArgs, session: &Session, profile: &ProfileName) -> Result<()> {
    let record = |name| setup::recorded(&session.config.paths.state, name);
    for tool in &TOOLS {
        if record(tool.name)?.is_some_and(|record| record.profile == profile.as_str()) {
            let (title, name) = (tool.title, tool.name);
            note(&format!("{title} is still set up to use `{profile}`; `qwenauth setup {name} --remove` undoes it"));
        }
    }
    if !args.all
        && session.is_chosen(profile)?
        && let Some(other) = session.config.paths.profiles()?.iter().find(|other| *other != profile)
    {
        note(&format!("`{profile}` is still the active profile; `qwenauth use {other}` chooses another"));
    }
    Ok(())
}

/// A key outlives its removal from here until its owner deletes it there.
fn say_where_it_is_deleted(source: &CredentialSource, credential: &Credential) {
    if credential.is_without_secret() {
        return;
    }
    let Ok(provider) = source.provider(credential) else { return };
    let region = credential_region(&provider, credential);
    let Some(pages) = in_words(&provider.delete_pages(region.as_deref())) else { return };
    let pages = if pages.contains("{sha256}") {
        pages.replace("{sha256}", &sha256(credential.access_token.expose()))
    } else {
        pages
    };
    note(&format!("the key of `{}` is still valid; delete it at {pages}", source.profile));
}

fn credential_region(provider: &Provider, credential: &Credential) -> Option<String> {
    let base_url = credential.base_url(provider).ok()?;
    provider.region_of(&base_url).map(str::to_owned)
}
