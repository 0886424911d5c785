//! `use`: make a stored profile the active one.

use anyhow::Result;

use crate::cli::UseArgs;
use crate::error::{Failed, Failure, nearest, note};
use crate::profile::ProfileName;
use crate::session::Session;

pub(crate) fn run(args: &UseArgs, session: &Session) -> Result<()> {
    let profile = ProfileName::parse(&args.name)?;
    let stored = session.config.paths.profiles()?;
    if !stored.contains(&profile) {
        let failed = Failed::new(Failure::LoginRequired, format!("there is no stored profile `{profile}`"));
        return match nearest(profile.as_str(), stored.iter().map(ProfileName::as_str)) {
            Some(near) => failed.hint(format!("did you mean `{near}`?")),
            None => failed.hint(session.account_of(&profile).login_hint()),
        }
        .err();
    }
    match session.config.activate(&profile)? {
        Some(before) => note(&format!("`{profile}` is the active profile now; it was `{before}`")),
        None => note(&format!("`{profile}` is the active profile already")),
    }
    if let Some(named) = &session.environment.profile
        && named != profile.as_str()
    {
        note(&format!("`QWENAUTH_PROFILE` still names `{}` in this shell", named.to_string_lossy()));
    }
    Ok(())
}
