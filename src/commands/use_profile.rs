//! `use`: make a stored profile the active one.

use anyhow::Result;

use crate::cli::UseArgs;
use crate::error::{Failed, Failure, note, printable};
use crate::profile::ProfileName;
use crate::providers::name_of;
use crate::session::Session;

pub(crate) fn run(args: &UseArgs, session: &Session) -> Result<()> {
    let profile = ProfileName::parse(&args.name)?;
    let stored = session.profiles()?;
    if !stored.contains(&profile) {
        let failed = Failed::new(Failure::LoginRequired, format!("there is no stored profile `{profile}`"));
        let source = session.source_of(&profile);
        return match (source.meant(), name_of(&args.name, &session.config.overrides)) {
            (None, Some(provider)) => failed.hint(format!("run `qwenauth login {provider}`")),
            _ => failed.hint(source.hint_if_missing()),
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
