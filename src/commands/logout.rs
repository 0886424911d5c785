//! `logout`: remove stored credentials.

use anyhow::Result;
use serde_json::json;

use super::{Setting, print_json};
use crate::cli::LogoutArgs;
use crate::config::ProfileName;
use crate::error::note;
use crate::terminal;

pub(crate) fn run(args: &LogoutArgs, setting: &Setting) -> Result<()> {
    if !args.all {
        return remove(args, setting, &setting.profile);
    }
    let profiles = setting.config.paths.profiles()?;
    if profiles.is_empty() {
        note("already logged out: there is no stored profile");
        return Ok(());
    }
    let names = profiles.iter().map(ProfileName::as_str).collect::<Vec<_>>().join(", ");
    if terminal::can_prompt() && !terminal::confirm(&format!("Log out of {names}?"))? {
        note("nothing was removed");
        return Ok(());
    }
    profiles.iter().try_for_each(|profile| remove(args, setting, profile))
}

fn remove(args: &LogoutArgs, setting: &Setting, profile: &ProfileName) -> Result<()> {
    let removed = setting.account_of(profile).remove()?;
    if args.json {
        return print_json(&json!({"profile": profile.as_str(), "removed": removed, "revoked": false}));
    }
    if removed {
        note(&format!("logged out of `{profile}`"));
    } else {
        note(&format!("already logged out of `{profile}`"));
    }
    Ok(())
}
