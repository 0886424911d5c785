//! `gateway`: serve an OpenAI-compatible API on this machine that keeps the credential to itself.

mod service;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result};
use serde_json::json;

use super::{print, print_json};
use crate::cli::GatewayArgs;
use crate::credentials::{Lifetime, MARGIN};
use crate::error::{Failed, Failure, Report, note};
use crate::gateway::{self, ProfileLookup, ReadKey, Served, key};
use crate::platform::signals;
use crate::profile::ProfileName;
use crate::secret::Secret;
use crate::session::{Endpoint, Session};

pub(crate) fn run(args: &GatewayArgs, session: &Session) -> Result<()> {
    if args.uninstall {
        return service::uninstall(args, session);
    }
    if !args.listen.ip().is_loopback() && !args.plain_http {
        let message =
            format!("`{}` can be reached from other machines, and nothing would encrypt the key", args.listen);
        return Failed::new(Failure::Usage, message)
            .hint("add `--plain-http` in a network you trust, or put a server with TLS before `127.0.0.1`")
            .err();
    }
    let fallback = session.fallback(&args.options)?;
    let account = session.account()?;
    match account.fresh(Lifetime::Preferably(MARGIN)) {
        Ok(credential) => drop(Endpoint::of(&account, &credential, None)?),
        Err(error) if args.all_profiles || Report::of(&error).failure == Failure::Temporary => {
            note(&format!("warning: {error:#}"));
        }
        Err(error) => return Err(error),
    }
    if args.install {
        return service::install(args, session);
    }
    let key = match &args.api_key_file {
        Some(path) => key::kept_in(path)?,
        None => key::new(),
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
    let read_key = args.api_key_file.clone().map(|path| -> ReadKey { Box::new(move || key::stored_in(&path)) });
    let is_under_nohup = signals::outlives_terminal();
    let ending =
        gateway::serve(listener, key, Served { account, accounts, read_key, fallback }, options, is_under_nohup)?;
    signals::die_of(ending).context("cannot end by the signal")
}

/// Finds profiles for as long as the gateway runs, those of later logins included.
fn accounts(session: &Session) -> ProfileLookup {
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
