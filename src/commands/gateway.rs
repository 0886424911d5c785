//! `gateway`: serve an OpenAI-compatible API on this machine that keeps the credential to itself.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::{new_gateway_key, print, print_json};
use crate::cli::GatewayArgs;
use crate::credentials::{Lifetime, MARGIN};
use crate::error::{Failed, Failure, Report, note};
use crate::gateway::{self, Accounts, Served};
use crate::platform::files::{self, Content, Privacy, Room};
use crate::platform::signals;
use crate::profile::ProfileName;
use crate::secret::Secret;
use crate::session::{Endpoint, Session};

/// A key of the user's own making should not be guessed either.
const SHORTEST_KEY: usize = 16;

pub(crate) fn run(args: &GatewayArgs, session: &Session) -> Result<()> {
    let account = session.account();
    match account.fresh(Lifetime::Preferably(MARGIN)) {
        Ok(credential) => drop(Endpoint::of(&account, &credential, None)?),
        Err(error) if args.all_profiles || Report::of(&error).failure == Failure::Temporary => {
            note(&format!("warning: {error:#}"));
        }
        Err(error) => return Err(error),
    }
    let key = match &args.api_key_file {
        Some(path) => key_of(path)?,
        None => new_gateway_key(),
    };
    signals::allow_many_files(None);
    let listener = gateway::listen(args.listen)?;
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        note(&format!(
            "warning: `{address}` can be reached from other machines, over plain HTTP and with the key alone"
        ));
    }
    let base_url = format!("http://{address}/v1");
    if args.json {
        print_json(&json!({ "base_url": base_url, "api_key": key.expose() }))?;
    } else {
        print(&format!("{base_url}\n{}\n", key.expose()))?;
    }
    let mut options = session.gateway_options(&args.options);
    options.drain = args.drain;
    options.metrics = args.metrics;
    options.allow_hosts.clone_from(&args.allow_host);
    let accounts = args.all_profiles.then(|| accounts(session));
    let is_under_nohup = signals::outlives_terminal();
    let ending = gateway::serve(listener, key, Served { account, accounts }, options, is_under_nohup)?;
    signals::die_of(ending).context("cannot end by the signal")
}

/// Finds profiles for as long as the gateway runs, those of later logins included.
fn accounts(session: &Session) -> Accounts {
    let session = session.clone();
    Box::new(move |name| {
        let name = ProfileName::parse(name).ok()?;
        let stored = session.config.paths.profiles().ok()?;
        stored.contains(&name).then(|| session.account_of(&name))
    })
}

/// The key in `path`, made if there is none.
fn key_of(path: &Path) -> Result<Secret> {
    match files::read(path, Privacy::Secret)? {
        Content::Missing => {
            let key = new_gateway_key();
            Room::reserve(path, 64, Privacy::Private)?.write(format!("{}\n", key.expose()).as_bytes())?;
            Ok(key)
        }
        Content::Unfit(why) => Failed::new(Failure::Other, format!("cannot read `{}`: {why}", path.display())).err(),
        Content::Bytes(bytes) => {
            let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
            if text.len() < SHORTEST_KEY || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Failed::new(Failure::Other, format!("`{}` does not hold a key", path.display()))
                    .hint("remove it, and a key will be made; one of your own has 16 or more letters and digits")
                    .err();
            }
            Ok(Secret::new(text.to_owned()))
        }
    }
}
