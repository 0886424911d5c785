//! `refresh`: renew the access token now.

use anyhow::Result;

use super::Setting;
use crate::credentials::Kind;
use crate::error::note;

pub(crate) fn run(setting: &Setting) -> Result<()> {
    let account = setting.account();
    let credential = account.require()?;
    if credential.kind == Kind::ApiKey {
        note(&format!("`{}` is an API key: there is nothing to renew", account.profile));
        return Ok(());
    }
    account.renew(&credential)?;
    Ok(())
}
