//! `use`: make a stored profile the active one.

use anyhow::Result;

use super::Setting;
use crate::cli::UseArgs;
use crate::config::ProfileName;
use crate::error::{Failed, Failure, nearest, note};

pub(crate) fn run(args: &UseArgs, setting: &Setting) -> Result<()> {
    let profile = ProfileName::parse(&args.name)?;
    let stored = setting.config.paths.profiles()?;
    if !stored.contains(&profile) {
        let failed = Failed::new(Failure::LoginRequired, format!("there is no stored profile `{profile}`"));
        return match nearest(profile.as_str(), stored.iter().map(ProfileName::as_str)) {
            Some(near) => failed.hint(format!("did you mean `{near}`?")),
            None => failed.hint(setting.account_of(&profile).login_hint()),
        }
        .err();
    }
    match setting.config.activate(&profile)? {
        Some(before) => note(&format!("`{profile}` is the active profile now; it was `{before}`")),
        None => note(&format!("`{profile}` is the active profile already")),
    }
    if let Some(named) = &setting.environment.profile
        && named != profile.as_str()
    {
        note(&format!("`QWENAUTH_PROFILE` still names `{}` in this shell", named.to_string_lossy()));
    }
    Ok(())
}
