//! `gateway --install` and `--uninstall`: the gateway as a service of the user.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use crate::cli::{GATEWAY_ADDRESS, GatewayArgs, Listen};
use crate::commands::{absolute, print, print_json};
use crate::environment::variable;
use crate::error::{Failed, Failure, note, path_for_sh};
use crate::gateway::gateway_key;
use crate::installation::Installation;
use crate::paths;
use crate::platform::service::{self, Service, ServicePaths, State};
use crate::session::Session;

/// A service is started by another process, and the first start of a program reads it from the disk.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// How often it is looked whether the service answers.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What the shell that installs the service knows and the service would not.
const VARIABLES: [&str; 19] = [
    "QWENAUTH_HOME",
    "QWEN_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "QWENAUTH_CA_FILE",
    "QWENAUTH_LOG",
    "QWENAUTH_QWEN_OAUTH_URL",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "PATH",
];

/// Variables whose value is a file or a directory.
const PATHS: [&str; 3] = ["QWENAUTH_CA_FILE", "SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Options that are written with their effective value.
const REWRITTEN: [&str; 7] =
    ["--listen", "--api-key-file", "--log", "--profile", "--tls-cert", "--tls-key", "--tls-client-ca"];

/// `certified`: the first name of the gateway's certificate.
pub(super) fn install(args: &GatewayArgs, session: &Session, certified: Option<String>) -> Result<()> {
    if let Some(variable) = session.credential_variable() {
        return Failed::new(
            Failure::Usage,
            format!("a service cannot use `{variable}`, because it runs without this shell's variables"),
        )
        .hint(format!("store the key with `{}`, then unset the variable", session.line_to_store_given_key()))
        .err();
    }
    let program = lasting_program()?;
    let listen = address(args)?;
    let key_file = key_file(args, session)?;
    drop(gateway_key::kept_in(&key_file)?);
    let home = paths::home(&session.environment)?;
    let config = paths::config_base(&session.environment)?;
    let paths = ServicePaths { home: &home, config: &config };
    let is_running = service::state(&paths) == State::Running;
    if !is_running && let Err(error) = TcpListener::bind(listen) {
        return Failed::new(Failure::Other, format!("cannot listen on `{listen}`: {error}"))
            .hint("stop the program that uses this address, or choose another with `--listen`")
            .err();
    }
    let command = command(&program, args, session, listen, &key_file)?;
    let environment = environment()?;
    let (file, is_new) = service::install(&Service { command: &command, environment: &environment }, &paths)?;
    wait_for(listen, args.tls_cert.is_some())?;
    let base_url = super::base_url_at(args, listen, certified);
    if args.json {
        let (file, key_file) = (file.display().to_string(), key_file.display().to_string());
        return print_json(&json!({
            "event": "installed", "changed": is_new, "file": file, "base_url": base_url, "api_key_file": key_file,
        }));
    }
    let done = if is_new { "runs now and after each login" } else { "is already installed and runs" };
    note(&format!("the gateway {done}: `{}`", file.display()));
    note(&format!("its key is in `{}`; its messages: `{}`", key_file.display(), service::messages()));
    if let Some(when) = service::ends_with_the_session() {
        note(&when);
    }
    print(&format!("{base_url}\n"))
}

pub(super) fn uninstall(args: &GatewayArgs, session: &Session) -> Result<()> {
    let home = paths::home(&session.environment)?;
    let config = paths::config_base(&session.environment)?;
    let removed = service::uninstall(&ServicePaths { home: &home, config: &config })?;
    let key_file = key_file(args, session)?;
    if args.json {
        return print_json(&json!({ "event": "uninstalled", "changed": removed.is_some(), "file": removed }));
    }
    let Some(file) = removed else {
        note("the gateway is not installed as a service; nothing was changed");
        return Ok(());
    };
    note(&format!("the gateway is no longer a service; removed `{}`", file.display()));
    if key_file.exists() {
        note(&format!(
            "its key remains in `{}`: tools configured with it cannot connect until a gateway uses it again; `rm {}` deletes it",
            key_file.display(),
            path_for_sh(&key_file)
        ));
    }
    Ok(())
}

/// This program, if it stays where it is.
fn lasting_program() -> Result<PathBuf> {
    let own = Installation::of_this_program().context("cannot find this program's own file")?;
    if !own.stays() {
        return Failed::new(Failure::Other, format!("this program is {own}, so a service could not start it later"))
            .hint("install it, then run `qwenauth gateway --install` again")
            .err();
    }
    Ok(own.lasting_path())
}

/// A service needs an address that stays: without `--listen` the one that `setup --gateway` writes.
fn address(args: &GatewayArgs) -> Result<SocketAddr> {
    let Listen::Tcp(address) = args.listen else {
        return Failed::new(Failure::Usage, "`--install` cannot be used with `--listen unix:…`")
            .hint("name an address, such as `--listen 127.0.0.1:8399`")
            .err();
    };
    if address.port() != 0 {
        return Ok(address);
    }
    let port = GATEWAY_ADDRESS.parse::<SocketAddr>().context("the default address")?.port();
    Ok(SocketAddr::new(address.ip(), port))
}

fn key_file(args: &GatewayArgs, session: &Session) -> Result<PathBuf> {
    match &args.api_key_file {
        Some(file) => absolute(file),
        None => Ok(session.config.paths.gateway_key()),
    }
}

/// The command line of the service: the options of this one, with addresses and files in full.
fn command(
    program: &Path,
    args: &GatewayArgs,
    session: &Session,
    listen: SocketAddr,
    key_file: &Path,
) -> Result<Vec<String>> {
    let typed = std::env::args_os().skip(1).map(|word| text(&word)).collect::<Result<Vec<_>>>()?;
    let mut command = vec![text(program.as_os_str())?];
    command.extend(kept(&typed));
    for (name, value) in [
        ("--profile", session.profile.to_string()),
        ("--listen", listen.to_string()),
        ("--api-key-file", text(key_file.as_os_str())?),
    ] {
        command.extend([name.to_owned(), value]);
    }
    for (name, file) in
        [("--tls-cert", &args.tls_cert), ("--tls-key", &args.tls_key), ("--tls-client-ca", &args.tls_client_ca)]
    {
        if let Some(file) = file {
            command.extend([name.to_owned(), text(absolute(file)?.as_os_str())?]);
        }
    }
    match args.options.log.as_deref() {
        // Its output goes to the same place as its messages.
        Some(log) if log == Path::new("-") => command.extend(["--log".to_owned(), "-".to_owned()]),
        Some(log) => command.extend(["--log".to_owned(), text(absolute(log)?.as_os_str())?]),
        None => {}
    }
    Ok(command)
}

/// What is kept of the words that were typed.
fn kept(typed: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = typed.iter();
    while let Some(word) = words.next() {
        if REWRITTEN.contains(&word.as_str()) {
            words.next();
            continue;
        }
        let is_rewritten = word.split_once('=').is_some_and(|(name, _)| REWRITTEN.contains(&name));
        if !is_rewritten && !matches!(word.as_str(), "--install" | "--json" | "--show-key") {
            kept.push(word.clone());
        }
    }
    kept
}

fn text(word: &OsStr) -> Result<String> {
    match word.to_str() {
        Some(word) => Ok(word.to_owned()),
        None => {
            Failed::new(Failure::Usage, format!("`{}` is not UTF-8, which a service needs", word.to_string_lossy()))
                .err()
        }
    }
}

/// The variables that matter to the service. A password in a proxy's address is not written to a file.
fn environment() -> Result<Vec<(String, String)>> {
    let mut environment = Vec::new();
    for name in VARIABLES {
        let Some(value) = variable(name) else { continue };
        let value = text(&value)?;
        if name.to_lowercase().ends_with("_proxy") && value.contains('@') {
            note(&format!(
                "warning: `{name}` contains a password and is not passed to the service; set it there with `{}`",
                service::set_variable(name)
            ));
            continue;
        }
        let value = if PATHS.contains(&name) { text(absolute(Path::new(&value))?.as_os_str())? } else { value };
        environment.push((name.to_owned(), value));
    }
    Ok(environment)
}

/// Waits until the gateway answers; with TLS, until it listens.
fn wait_for(listen: SocketAddr, has_tls: bool) -> Result<()> {
    let deadline = Instant::now() + START_TIMEOUT;
    let address = super::reachable_here(listen);
    while Instant::now() < deadline {
        if answers(address, has_tls).unwrap_or(false) {
            return Ok(());
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Failed::new(Failure::Other, format!("the service was started, but does not respond at `{address}`"))
        .hint(format!("run `{}` to see why; the service restarts every 10 s", service::messages()))
        .err()
}

fn answers(address: SocketAddr, has_tls: bool) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    if has_tls {
        return Ok(true);
    }
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200") && answer.contains("\"status\":\"ok\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_kept_but_for_those_that_are_written_anew() {
        let typed =
            "gateway --install --rpm 40 --listen=127.0.0.1:1 --all-profiles --log x --profile a --json --metrics"
                .split(' ')
                .map(str::to_owned)
                .collect::<Vec<_>>();
        assert_eq!(kept(&typed), ["gateway", "--rpm", "40", "--all-profiles", "--metrics"]);
    }
}
