//! Log in to Qwen models once and use them from any tool.
//!
//! ```text
//! main.rs         hands over to the library
//! lib.rs          this overview, parse, one match, report
//! cli/            what can be typed: clap types
//! environment.rs  the environment variables, read in one place
//! commands/       one file per subcommand, each with `run`: translate arguments into calls, print the answer
//! session.rs      configuration, environment and profile, resolved once
//! paths.rs        every directory and file name, once
//! profile.rs      a profile's name, and where its secret is kept
//! config/         config.toml: reading and editing it
//! credentials/    one credential: load, renew, log in, remove; the only code that changes it
//! providers/      what a provider is; built_in.toml holds the built-in ones as data
//! oauth/          what an authorization server says: device and authorization code, PKCE, refresh, exchange, revoke, discovery, signed tokens
//! compression.rs  compressed bodies, read as far as a bound
//! http/           the one blocking client: time limits, no redirects; what a failure means
//! tls.rs          TLS for both clients, and the one reader of certificates
//! x509.rs         what a certificate says of itself: its names and when it expires
//! names.rs        names of hosts for both clients: which are of this machine, never looked up
//! proxies.rs      the proxies of the environment for both clients
//! keys/           keys of people and jobs: format, hash, limits of each, audit
//! limits/         limits of requests, counted over all processes: windows, bursts, days
//! hooks.rs        programs of the user that gateways run when something happens
//! usage/          the ledger of what passed through the gateways
//! gateway/        the local reverse proxy; async lives here, in limits/, in sandbox/ and in platform's signals and threads only; `serve()` is a blocking function
//! setup/          one file per tool that can be configured, and what other programs read from their environment
//! sandbox/        the practice provider
//! installation.rs how this program was installed, whether its file stays there, what upgrades it
//! platform/       what depends on the operating system: files, locks, signals, processes
//! shell.rs        variables as text for each shell
//! terminal/       what a person sees: prompts, spinner, QR, color; never stdout, never a secret
//! say/            text for a person: width, color and language of the stream it goes to; messages.toml has the translations
//! error/          failures a script can act on; the only place with exit codes
//! secret.rs       a string that cannot be printed by accident
//! sha256.rs       SHA-256 as text
//! epoch.rs        times as seconds or milliseconds since 1970, and as RFC 3339
//! internals/      properties of what is read from others, for tests and fuzzing
//!
//! main → lib
//! lib → cli, commands, environment, platform, say, session · commands → everything below, never another command
//! session → cli, config, credentials, environment, http, platform, profile, providers
//! credentials → environment, oauth, http, paths, platform, profile, providers, say
//! config → environment, hooks, http, keys, paths, profile, providers, platform · paths → environment, platform, profile · profile → providers
//! providers → oauth, http, platform · oauth → http, platform · limits → keys, names, paths, platform, providers · keys → paths, platform · usage → paths, platform, providers
//! hooks → environment, paths, platform, usage
//! setup → paths, platform, providers, used by its commands only
//! gateway → compression, credentials, environment, hooks, keys, limits, oauth, usage, platform, providers, http, names, proxies, tls, x509, used by its commands only
//! sandbox → environment, paths, platform, providers, say, used by its command only
//! error → say · environment → platform, say · terminal → platform, say · installation → platform
//! http → names, platform, proxies, tls · names → platform · tls → environment, platform · proxies → environment
//! platform, shell, secret, sha256, epoch, x509 use nothing of ours but error, secret, sha256 and epoch
//! ```
//!
//! How `qwenauth token` runs: `main` → `commands::token::run` → `credentials::fresh` loads the file and returns what lasts long
//! enough: no lock, no network, no thread. Else `credentials::renew`: lock, load again, good now? ask, save.

// What only gateways that count together need stays where it belongs.
#![cfg_attr(not(feature = "team"), allow(dead_code, unused_imports, reason = "only what is left out uses it"))]

mod cli;
mod commands;
mod compression;
mod config;
mod credentials;
mod environment;
mod epoch;
mod error;
mod gateway;
mod hooks;
mod http;
mod installation;
#[cfg(any(test, feature = "internals"))]
pub mod internals;
mod keys;
mod limits;
mod names;
mod oauth;
mod paths;
mod platform;
mod profile;
mod providers;
mod proxies;
mod sandbox;
mod say;
mod secret;
mod session;
mod setup;
mod sha256;
mod shell;
mod terminal;
mod tls;
mod usage;
mod x509;

use std::io::{ErrorKind, Write};

use anyhow::{Context, Result};

use crate::cli::{Cli, Command, Export};
use crate::environment::Environment;
use crate::error::{Failure, Report};
use crate::say::Screen;
use crate::session::Session;

pub use crate::platform::signals::before_main;

/// Runs the program: parses its command line, runs one command, reports what failed, and returns the exit code.
#[must_use]
pub fn run() -> u8 {
    platform::system::guard_memory();
    say::prefer(environment::screen_preferences());
    let ended = match Cli::read() {
        Ok(cli) => run_command(cli),
        Err(error) => match cli::usage_error(&error) {
            Some(failed) => {
                commands::env::not_understood(&std::env::args_os().collect::<Vec<_>>());
                Err(failed.into())
            }
            None if std::env::args_os().len() == 1 => {
                commands::overview::run();
                Ok(Failure::Usage.exit_code())
            }
            None => print_help(&error),
        },
    };
    ended.unwrap_or_else(|error| if is_closed_pipe(&error) { 0 } else { report(&error) })
}

/// Help and version, requested or, on stderr, offered.
fn print_help(help: &clap::Error) -> Result<u8> {
    let printed = help.print().and_then(|()| std::io::stdout().flush());
    if !help.use_stderr() {
        printed.context("cannot write to stdout")?;
    }
    Ok(u8::try_from(help.exit_code()).unwrap_or(2))
}

fn report(error: &anyhow::Error) -> u8 {
    let report = Report::of(error);
    // Ignored: stderr is closed and there is nowhere else to report it.
    let _ = std::io::stderr().write_all(report.shown(Screen::stderr()).as_bytes());
    report.failure.exit_code()
}

fn run_command(Cli { global, command }: Cli) -> Result<u8> {
    let environment = Environment::read();
    if let Some(level) = &environment.log {
        // Only our own lines: those of the HTTP libraries may contain what is sent.
        let known = level.to_string_lossy().parse();
        let level = known.as_ref().copied().unwrap_or(log::LevelFilter::Info);
        let target = env_logger::Target::Pipe(Box::new(say::LogLines));
        env_logger::Builder::new()
            .filter_module("qwenauth", level)
            .target(target)
            // On one line each, whatever others wrote into it.
            .format(|line, record| {
                let said = error::shown(&record.args().to_string());
                writeln!(line, "[{:<5} {}] {said}", record.level(), record.target())
            })
            .init();
        if known.is_err() {
            log::warn!("`QWENAUTH_LOG` is not one of off, error, warn, info, debug, trace; `info` is used");
        }
        log::debug!("qwenauth {} on {} {}", env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH);
    }
    let mut global = global;
    if let Command::Use(args) = &command {
        // Whatever config.toml names: that is what `use` changes.
        global.profile = Some(args.name.clone());
    }
    let session = || Session::load(&global, environment);
    match command {
        Command::Token(args) => commands::token::run(&args, &session()?)?,
        Command::Login(args) => commands::login::run(&args, &global, session)?,
        Command::Status(args) => return commands::status::run(&args, &session()?),
        Command::Refresh(_) => commands::refresh::run(&session()?)?,
        Command::Logout(args) => commands::logout::run(&args, &session()?)?,
        Command::Export(Export::Env(args)) => commands::env::run(&args, session)?,
        Command::Export(Export::Exec(args)) => return commands::exec::run(&args, &session()?),
        Command::Gateway(args) => commands::gateway::run(&args, &session()?)?,
        Command::Keys(args) => commands::keys::run(&args.command, &session()?)?,
        Command::Usage(args) => commands::usage::run(&args, &session()?)?,
        Command::Use(args) => commands::use_profile::run(&args, &session()?)?,
        Command::Profiles(args) => commands::profiles::run(&args, &session()?)?,
        Command::Providers(args) => commands::providers::run(&args, &session()?)?,
        Command::Setup(args) => commands::setup::run(&args, &session()?)?,
        Command::Doctor(args) => return commands::doctor::run(&args, session),
        Command::Sandbox(args) => return commands::sandbox::run(&args),
        Command::Completions(args) => commands::completions::run(&args)?,
        Command::Complete { words } => commands::completions::complete(&words, session)?,
        Command::Topic(text) => commands::print(text)?,
        Command::Man { directory } => commands::man::run(&directory)?,
    }
    Ok(0)
}

/// A reader that has read enough is not a failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == ErrorKind::BrokenPipe)
}
