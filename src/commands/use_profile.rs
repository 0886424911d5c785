//! `use`: make a stored profile the active one.

use anyhow::Result;

use crate::cli::UseArgs;
use crate::error::{Failed, Failure, nearest, note, printable};
use crate::profile::ProfileName;
use crate::providers::name_of;
use crate::session::Session;

pub(crate) fn run(args: &UseArgs, session: &Session) -> Result<()> {
    let profile = ProfileName::parse(&args.name)?;
    let stored = session.profiles()?;
    if !stored.contains(&profile) {
        let failed = Failed::new(Failure::LoginRequired, format!("there is no stored profile `{profile}`"));
        // A name that means a provider is never a typing error for another one.
        let provider = name_of(&args.name, &session.config.overrides);
        let stored: Vec<&str> = stored.iter().map(ProfileName::as_str).collect();
        let near = match &provider {
            Some(provider) => stored.iter().find(|name| *name == provider).copied(),
            None => nearest(profile.as_str(), stored),
        };
        return match (near, provider) {
            (Some(near), _) => failed.hint(format!("did you mean `{near}`?")),
            (None, Some(provider)) => failed.hint(format!("run `qwenauth login {provider}`")),
            (None, None) => failed.hint(session.source_of(&profile).login_hint()),
        }
        .err();
    }
    let activation = session.activate(&profile)?;
    match activation.before {
        Some(before) => {
            let before = printable(&before);
            note(&format!("switched from `{before}` to `{profile}`"));
        }
        None => note(&format!("`{profile}` is already active")),
    }
    if let Some(why) = activation.overridden_by {
        note(&why);
    }
    Ok(())
}
