//! `refresh`: renew the access token now.

use std::io::{IsTerminal, stderr};

use anyhow::Result;

use crate::credentials::{Kind, Why, renew};
use crate::error::note;
use crate::say::in_words;
use crate::session::Session;

pub(crate) fn run(session: &Session) -> Result<()> {
    let source = session.source()?;
    let credential = source.require()?;
    if credential.kind == Kind::ApiKey {
        note(&format!("`{}` uses an API key; nothing to renew", source.profile));
        return Ok(());
    }
    if credential.identity.is_some() {
        note(&format!(
            "`{}` stores no token: each command requests its own, so there is nothing to renew",
            source.profile
        ));
        return Ok(());
    }
    let renewed = renew(&source, &credential, Why::Requested)?;
    if stderr().is_terminal() {
        note(&match renewed.left((source.clock)()) {
            Some(left) => format!("renewed, {} left", in_words(left)),
            None => "renewed".to_owned(),
        });
    }
    Ok(())
}
