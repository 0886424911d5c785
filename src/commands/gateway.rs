//! `gateway`: serve an OpenAI-compatible API on this machine that keeps the credential to itself.

mod service;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::Rc;

use anyhow::{Context, Result};
use serde_json::json;

use super::{print, print_json};
use crate::cli::{GatewayArgs, Listen, Serve};
use crate::credentials::{Credential, CredentialSource, Lifetime, MARGIN, Stored, fresh, model_of};
use crate::error::{Failed, Failure, Report, note};
use crate::gateway::{
    self, Fleet, Identity, Keyed, ListenAddress, Listener, Members, Part, ProfileLookup, Role, Served, Target,
    TlsFiles, gateway_key,
};
use crate::keys::{Keys, TeamSecret};
use crate::limits::shared::{KeysHere, SharedKeys};
use crate::limits::{Engine, Files};
use crate::platform::{signals, system};
use crate::profile::ProfileName;
use crate::say::Screen;
use crate::secret::Secret;
use crate::session::{Endpoint, Session};
use crate::sha256::short_sha256;

pub(crate) fn run(args: &GatewayArgs, session: &Session) -> Result<()> {
    if session.config.overrides.practice.is_some() && (args.install || args.uninstall) {
        return Failed::new(Failure::Usage, "the sandbox does not change services of this machine")
            .hint("leave the sandbox first: `exit`")
            .err();
    }
    if args.uninstall {
        return service::uninstall(args, session);
    }
    check_listen(args)?;
    let identity = identity(args)?;
    let fallback = session.fallback(&args.options)?;
    let source = session.source()?;
    let shared = if args.shared { Some(session.shared()?) } else { None };
    let serve = args.serve.map(|serve| if serve == Serve::Home { Role::Home } else { Role::Edge });
    let fleet = shared.as_ref().map(|shared| fleet(args, session, &shared.namespace)).transpose()?.flatten();
    let part = Part { fleet: fleet.clone().map(Rc::new), asked: serve };
    let is_edge = !args.all_profiles && part.of(&source)? == Role::Edge;
    if is_edge && serve.is_none() {
        let profile = &source.profile;
        note(&format!(
            "`{profile}` is not logged in here: this gateway uses the tokens that another gateway publishes (`--serve edge`)"
        ));
    }
    let fresh = || fresh(&source, Lifetime::Preferably(MARGIN));
    let credential = match (!is_edge).then(fresh).transpose() {
        Ok(credential) => {
            credential.as_ref().map(|credential| Endpoint::of(&source, credential, None)).transpose()?;
            credential
        }
        Err(error) if args.all_profiles || Report::of(&error).failure == Failure::Temporary => {
            note(&format!("warning: {error:#}"));
            None
        }
        Err(error) => return Err(error),
    };
    let (keyed, keys_here) = args.keys.then(|| keyed(args, session)).transpose()?.unzip();
    if keyed.is_some() {
        warn_of_terms(&source, &fallback);
        if args.metrics && args.metrics_listen.is_none() && args.api_key_file.is_none() {
            note(
                "warning: `/metrics` requires the gateway's own key, which `--keys` does not print: add `--metrics-listen \
                 127.0.0.1:9464` or `--api-key-file FILE`",
            );
        }
    }
    if args.install {
        return service::install(args, session, identity.and_then(|identity| identity.host()));
    }
    if shared.is_none() && session.config.team.shared.is_some() {
        note(
            "warning: `[team] shared` is set, but this gateway counts limits on this machine only; add `--shared` to count \
             them together with other gateways",
        );
    }
    if let Some(shared) = &shared {
        shared.check(session.shared_tls(shared)?, keys_here.as_ref())?;
    }
    let key = match &args.api_key_file {
        Some(path) => gateway_key::kept_in(path)?,
        None => gateway_key::new(),
    };
    signals::allow_many_files(None);
    let listener = listen(args, identity)?;
    let metrics = args.metrics_listen.map(Listener::tcp).transpose()?;
    let base_url = base_url(args, &listener)?;
    let members =
        if args.keys && listener.is_private() { members(session, &source, credential, base_url.clone()) } else { None };
    let mut options = session.gateway_options(&args.options);
    if !options.hooks.is_empty() {
        options.withheld = session.withheld(&source, &fallback, args.all_profiles);
    }
    options.drain = args.drain;
    options.shared = shared;
    options.fleet = fleet;
    options.serve = serve;
    options.metrics = args.metrics;
    options.allow_hosts.clone_from(&args.allow_host);
    let lookup = args.all_profiles.then(|| lookup(session));
    let config = session.config.clone();
    let config_check: Option<gateway::ConfigCheck> = Some(Box::new(move || config.has_changed()));
    let is_under_nohup = signals::outlives_terminal();
    let own_key = key.clone();
    let profile = source.profile.clone();
    let ending = gateway::serve(
        listener,
        key,
        Served { source, lookup, key_file: args.api_key_file.clone(), fallback, metrics, keyed, members, config_check },
        options,
        is_under_nohup,
        || {
            announce(args, &base_url, &own_key)?;
            explain(args, &profile);
            Ok(())
        },
    )?;
    signals::die_of(ending).context("cannot exit with the signal")
}

/// Errors: usage, for what nothing would encrypt, and for what cannot go together.
fn check_listen(args: &GatewayArgs) -> Result<()> {
    match &args.listen {
        Listen::Unix(_) if args.tls_cert.is_some() => Failed::new(
            Failure::Usage,
            "`--listen unix:…` does not support TLS, because it is not reachable from other machines",
        )
        .hint("omit `--tls-cert` and `--tls-key`, or listen on an address")
        .err(),
        Listen::Tcp(address) if !address.ip().is_loopback() && args.tls_cert.is_none() && !args.plain_http => {
            let message =
                format!("`{address}` is reachable from other machines, and the key would be sent unencrypted");
            Failed::new(Failure::Usage, message)
                .hint(
                    "pass a certificate with `--tls-cert` and `--tls-key`, or add `--plain-http` on a trusted network",
                )
                .err()
        }
        _ => Ok(()),
    }
}

fn listen(args: &GatewayArgs, identity: Option<Identity>) -> Result<Listener> {
    let address = match &args.listen {
        Listen::Unix(path) => return Listener::local(path),
        Listen::Tcp(address) => *address,
    };
    let listener = Listener::tcp(address)?;
    if let Some(identity) = identity {
        return Ok(listener.with_tls(identity));
    }
    if !address.ip().is_loopback() {
        note(&format!(
            "warning: `{address}` is reachable from other machines over plain HTTP, protected only by the key"
        ));
    }
    Ok(listener)
}

/// What members may be told without a key, where they can come by `base_url`.
fn members(
    session: &Session,
    source: &CredentialSource,
    credential: Option<Credential>,
    base_url: String,
) -> Option<Members> {
    // A credential that cannot be renewed now still has a provider.
    let stored = || match source.load() {
        Ok(Stored::Present(stored)) => Some(stored),
        _ => None,
    };
    if !base_url.starts_with("http") {
        return None;
    }
    let (provider, model) = if let Some(credential) = credential.or_else(stored) {
        let provider = source.provider(&credential).ok()?;
        let model = model_of(source, &credential, &provider);
        (provider, model)
    } else {
        // The login is another machine's.
        let provider = session.provider()?;
        let model = provider.default_model.clone();
        (provider, model)
    };
    Some(Members { base_url, title: provider.title.clone(), model, models: provider.models.clone() })
}

/// The certificate and key that are named.
fn identity(args: &GatewayArgs) -> Result<Option<Identity>> {
    let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) else { return Ok(None) };
    let (certificate, key, client_ca) = (certificate.clone(), key.clone(), args.tls_client_ca.clone());
    Identity::load(TlsFiles { certificate, key, client_ca }).map(Some)
}

/// The base URL as a client can use it.
fn base_url(args: &GatewayArgs, listener: &Listener) -> Result<String> {
    match listener.address()? {
        ListenAddress::Local(path) => Ok(match &args.public_url {
            Some(url) => format!("{url}/v1"),
            None => format!("unix:{}", path.display()),
        }),
        ListenAddress::Tcp(address) => Ok(base_url_at(args, address, listener.certified_host())),
    }
}

/// `certified`: the first name of the gateway's certificate.
fn base_url_at(args: &GatewayArgs, address: SocketAddr, certified: Option<String>) -> String {
    if let Some(url) = &args.public_url {
        return format!("{url}/v1");
    }
    let scheme = if args.tls_cert.is_some() { "https" } else { "http" };
    match certified.filter(|_| args.tls_cert.is_some()) {
        Some(host) => format!("{scheme}://{host}:{}/v1", address.port()),
        None => format!("{scheme}://{}/v1", usable(address)),
    }
}

/// Finds profiles for as long as the gateway runs, those of later logins included.
fn lookup(session: &Session) -> ProfileLookup {
    let session = session.clone();
    Box::new(move |name| {
        let name = ProfileName::parse(name).ok()?;
        let stored = session.profiles().ok()?;
        stored.contains(&name).then(|| session.source_of(&name))
    })
}

/// Says where the terms of a provider speak against several users.
fn warn_of_terms(source: &CredentialSource, fallback: &[Target]) {
    for source in std::iter::once(source).chain(fallback.iter().map(|target| &target.source)) {
        let Ok(Stored::Present(credential)) = source.load() else { continue };
        let Ok(provider) = source.provider(&credential) else { continue };
        if provider.no_sharing {
            let (title, use_for) = (&provider.title, &provider.use_for);
            note(&format!("warning: {title} is for {use_for}: a gateway with keys may violate its terms"));
        }
    }
}

/// The keys of people and jobs, as they are from now on.
fn keyed(args: &GatewayArgs, session: &Session) -> Result<(Keyed, KeysHere)> {
    let places = session.config.team_places();
    // Another secret than that of the other gateways would be of no use.
    let secret = if args.shared { TeamSecret::read(&places.secret)? } else { places.team_secret()? };
    let (state, keys) = (session.config.paths.state.clone(), places.keys);
    let here = KeysHere { check: secret.check(), source: Keys::read(&keys)?.source() };
    let of_team = secret.clone();
    let keyed = Keyed {
        engine: Box::new(move |shared| {
            Ok(match shared {
                None => Engine::Files(Box::new(Files::open(&state, &keys)?)),
                Some(shared) => Engine::Shared(SharedKeys::open(shared, &keys, &of_team)?),
            })
        }),
        secret,
        secret_file: places.secret,
        prices: session.config.prices.clone(),
        metrics: args.metrics_keys,
        issuers: session.config.team.issuers.clone(),
        network: session.network(),
    };
    Ok((keyed, here))
}

/// What gateways of a team need to share tokens. `None`: not requested, and there is no team secret.
fn fleet(args: &GatewayArgs, session: &Session, namespace: &str) -> Result<Option<Fleet>> {
    let places = session.config.team_places();
    if args.serve.is_none() && !places.is_secret_given && !places.secret.exists() {
        return Ok(None);
    }
    let secret = TeamSecret::read(&places.secret)?;
    let host = system::host_name().unwrap_or_else(|| "unknown".to_owned());
    // Machines may have one name.
    let place = format!("{host}\0{}\0", session.config.paths.state.display());
    let id = short_sha256([place.into_bytes(), system::machine_id().unwrap_or_default()].concat(), 16);
    Ok(Some(Fleet { secret, namespace: namespace.to_owned(), host, id }))
}

/// Prints the gateway's address and, unless it is in a file or not needed, the key.
fn announce(args: &GatewayArgs, base_url: &str, key: &Secret) -> Result<()> {
    let file = args.api_key_file.as_ref().filter(|_| !args.show_key);
    if args.keys && args.api_key_file.is_none() {
        // Each client has a key of its own.
        return if args.json { print_json(&json!({ "base_url": base_url })) } else { print(&format!("{base_url}\n")) };
    }
    match (args.json, file) {
        (true, Some(file)) => print_json(&json!({ "base_url": base_url, "api_key_file": file })),
        (true, None) => print_json(&json!({ "base_url": base_url, "api_key": key.expose() })),
        (false, Some(_)) => print(&format!("{base_url}\n")),
        (false, None) => print(Secret::new(format!("{base_url}\n{}\n", key.expose())).expose()),
    }
}

/// Tells a person what the lines of [`announce`] are.
fn explain(args: &GatewayArgs, profile: &str) {
    if args.json || Screen::stdout().width().is_none() || Screen::stderr().width().is_none() {
        return;
    }
    let has_key = if args.api_key_file.is_some() { args.show_key } else { !args.keys };
    note(&if has_key {
        format!("serving profile `{profile}` until Ctrl-C; above are the base URL and the key for clients")
    } else {
        format!("serving profile `{profile}` until Ctrl-C; above is the base URL for clients")
    });
}

/// `address` for programs of this machine.
fn reachable_here(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// `address` as a client can use it: where all addresses are listened on, the one by which this machine reaches others.
fn usable(address: SocketAddr) -> String {
    if !address.ip().is_unspecified() {
        return address.to_string();
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
    match (routed, system::host_name()) {
        (Ok(routed), _) => SocketAddr::new(routed.ip(), address.port()).to_string(),
        (Err(_), Some(host)) => format!("{host}:{}", address.port()),
        (Err(_), None) => reachable_here(address).to_string(),
    }
}
