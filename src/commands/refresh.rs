//! `refresh`: renew the access token now.

use anyhow::Result;

use super::Setting;
use crate::error::note;

pub(crate) fn run(setting: &Setting) -> Result<()> {
    let account = setting.account();
    let credential = account.require()?;
    if account.provider(&credential)?.oauth.is_none() {
        note(&format!("`{}` is an API key: there is nothing to renew", account.profile));
        return Ok(());
    }
    account.renew(&credential)?;
    Ok(())
}
