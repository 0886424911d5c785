//! `gateway`: serve an OpenAI-compatible API on this machine that keeps the credential to itself.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use zeroize::Zeroizing;

use super::{new_gateway_key, print, print_json};
use crate::cli::GatewayArgs;
use crate::credentials::{Lifetime, MARGIN};
use crate::error::{Failed, Failure, Report, note};
use crate::gateway::{self, Accounts, ReadKey, Served};
use crate::platform::files::{self, Content, Privacy};
use crate::platform::signals;
use crate::profile::ProfileName;
use crate::secret::Secret;
use crate::session::{Endpoint, Session};

/// A key of the user's own making should not be guessed either.
const SHORTEST_KEY: usize = 16;

pub(crate) fn run(args: &GatewayArgs, session: &Session) -> Result<()> {
    if !args.listen.ip().is_loopback() && !args.plain_http {
        let message =
            format!("`{}` can be reached from other machines, and nothing would encrypt the key", args.listen);
        return Failed::new(Failure::Usage, message)
            .hint("add `--plain-http` in a network you trust, or put a server with TLS before `127.0.0.1`")
            .err();
    }
    let account = session.account()?;
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
    announce(args, &format!("http://{}/v1", usable(address)), &key)?;
    let mut options = session.gateway_options(&args.options);
    options.drain = args.drain;
    options.metrics = args.metrics;
    options.allow_hosts.clone_from(&args.allow_host);
    let accounts = args.all_profiles.then(|| accounts(session));
    let read_key = args.api_key_file.clone().map(|path| -> ReadKey { Box::new(move || stored_key(&path)) });
    let is_under_nohup = signals::outlives_terminal();
    let ending = gateway::serve(listener, key, Served { account, accounts, read_key }, options, is_under_nohup)?;
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

/// Prints where the gateway is and, unless it is in a file, the key.
fn announce(args: &GatewayArgs, base_url: &str, key: &Secret) -> Result<()> {
    let file = args.api_key_file.as_ref().filter(|_| !args.show_key);
    match (args.json, file) {
        (true, Some(file)) => print_json(&json!({ "base_url": base_url, "api_key_file": file })),
        (true, None) => print_json(&json!({ "base_url": base_url, "api_key": key.expose() })),
        (false, Some(_)) => print(&format!("{base_url}\n")),
        (false, None) => print(&format!("{base_url}\n{}\n", key.expose())),
    }
}

/// `address` as a client can use it: where all addresses are listened on, the one by which this machine reaches others.
fn usable(address: SocketAddr) -> SocketAddr {
    if !address.ip().is_unspecified() {
        return address;
    }
    // Nothing is sent: connecting a UDP socket only chooses the route. The addresses are those of documentation.
    let (own, other): (IpAddr, IpAddr) = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    };
    let routed = UdpSocket::bind((own, 0)).and_then(|socket| {
        socket.connect((other, 9))?;
        socket.local_addr()
    });
    let loopback = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    SocketAddr::new(routed.map_or(loopback, |routed| routed.ip()), address.port())
}

/// The key in `path`, made if there is none. Of two that start at once, one makes it and both have it.
fn key_of(path: &Path) -> Result<Secret> {
    let path = &files::resolve(path)?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        files::make_directory(parent)?;
    }
    let key = new_gateway_key();
    let line = Zeroizing::new(format!("{}\n", key.expose()));
    if !path.exists() {
        match files::create_whole(path, line.as_bytes()) {
            Ok(_) => return Ok(key),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot write `{}`", path.display())),
        }
    }
    stored_key(path)
}

/// The key in `path`.
fn stored_key(path: &Path) -> Result<Secret> {
    let failed = |what: &str| Failed::new(Failure::Other, format!("`{}` {what}", path.display()));
    match files::read(path, Privacy::Secret)? {
        Content::Missing => failed("is missing").hint("start the gateway again, and a key will be made").err(),
        Content::Unfit(why) => Failed::new(Failure::Other, format!("cannot read `{}`: {why}", path.display())).err(),
        Content::Bytes(bytes) => {
            let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
            if text.len() < SHORTEST_KEY || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                return failed("does not hold a key")
                    .hint("remove it, and a key will be made; one of your own has 16 or more letters and digits")
                    .err();
            }
            Ok(Secret::new(text.to_owned()))
        }
    }
}
