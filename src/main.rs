//! Log in to Qwen models once and hand the credential to any tool.
//!
//! ```text
//! main.rs         this picture, parse, one match, report
//! cli/            what can be typed: clap types and the environment variables, nothing else
//! commands/       one file per subcommand, each with `run`: translate arguments into calls, print the answer
//! providers/      what a provider is; built_in.toml holds the built-in ones as data
//! config.rs       config.toml and where files live
//! files/          private files, written whole: temp, fsync, rename, modes, symlinks, room first
//! credentials/    one credential: load, fresh, renew, login, remove: the only code that changes it
//! lock.rs         the one lock between processes, Qwen Code's protocol included
//! signals.rs      signals held back while a credential is replaced, and as they were found, for exec
//! oauth/          what an authorization server says: device and authorization code, PKCE, refresh, revoke, discovery
//! http.rs         the one blocking client: TLS, proxy, CA, time limits; what a failure means
//! shell.rs        variables as text for each shell
//! setup/          one file per tool that can be configured, and what other programs read from their environment
//! usage/          what was used and what limits leave, shared by all processes
//! gateway/        the local reverse proxy; async lives here and in sandbox/ only; `serve()` is a blocking function
//! sandbox/        the practice provider
//! supervisor.rs   a program run and outlived: signals, job control, how it ended
//! terminal.rs     what a person sees: prompts, spinner, QR, colour; never stdout, never a secret
//! error.rs        failures a script can act on; the only place with exit codes
//! secret.rs       a string that cannot be printed by accident
//!
//! main → cli, commands, files, signals · commands → everything below, never another command
//! credentials → lock, oauth, http, files, providers, signals · config → cli, providers, files, lock
//! providers → oauth, http, files · oauth → http · lock → files, signals · usage → files, lock
//! setup → files, lock, providers, used by its commands only
//! gateway → credentials, usage, providers, http, used by its commands only
//! sandbox → cli, supervisor, used by its command only
//! cli, files, http, shell, signals, supervisor, terminal, secret use nothing of ours but error and secret
//! ```
//!
//! How `qwenauth token` runs: `main` → `commands::token::run` → `Account::fresh` loads the file and returns what lasts long
//! enough: no lock, no network, no thread. Else `Account::renew`: lock, load again, good now? ask, save.

#![cfg_attr(all(not(test), any(target_env = "gnu", target_os = "macos")), no_main)]

mod cli;
mod commands;
mod config;
mod credentials;
mod error;
mod files;
mod gateway;
mod http;
mod lock;
mod oauth;
mod providers;
mod sandbox;
mod secret;
mod setup;
mod shell;
mod signals;
mod supervisor;
mod terminal;
mod usage;

#[cfg(test)]
#[path = "../tests/properties/mod.rs"]
mod properties;

use std::io::{ErrorKind, Write};

use crate::cli::{Cli, Command, Environment, Global};
use crate::commands::Setting;
use crate::error::Report;
use anyhow::Result;

#[cfg(not(unix))]
compile_error!("qwenauth needs Unix file locks, modes and signals; on Windows it runs in WSL");

// gcc's unwinder, which the standard library asks for, from the archive beside the compiler: with link-time optimisation
// the program then loads no `libgcc_s.so`, which costs a start more than a warm `token` does.
#[cfg(all(target_os = "linux", target_env = "gnu", not(debug_assertions)))]
#[link(name = "gcc_eh", kind = "static", modifiers = "-bundle")]
#[expect(unsafe_code, reason = "an empty block: it only names the library")]
unsafe extern "C" {}

/// What the progress line weighs its speed by. Only this would be loaded of the C library's libm, at each start.
#[cfg(all(target_os = "linux", target_env = "gnu", not(debug_assertions)))]
#[expect(unsafe_code, reason = "the name is the interface")]
#[unsafe(no_mangle)]
extern "C" fn pow(base: f64, exponent: f64) -> f64 {
    libm::pow(base, exponent)
}

/// The C `main`. Rust's own would set up a stack guard by reading `/proc/self/maps`, a fifth of what a warm `token` costs,
/// and hide from [`signals`] whether SIGPIPE was ignored.
#[cfg(all(not(test), any(target_env = "gnu", target_os = "macos")))]
#[expect(unsafe_code, reason = "the name is the interface")]
#[unsafe(no_mangle)]
extern "C" fn main() -> std::ffi::c_int {
    start().into()
}

#[cfg(not(all(not(test), any(target_env = "gnu", target_os = "macos"))))]
fn main() -> std::process::ExitCode {
    start().into()
}

fn start() -> u8 {
    secret::guard_memory();
    files::open_standard();
    signals::ignore_pipe();
    match Cli::read() {
        Ok(cli) => run(cli).unwrap_or_else(|error| if is_closed_pipe(&error) { 0 } else { report(&error) }),
        Err(error) => {
            if let Some(failed) = cli::usage_error(&error) {
                commands::env::not_understood(&std::env::args_os().collect::<Vec<_>>());
                return report(&failed.into());
            }
            // Help and version, asked for or, on stderr, offered.
            let _ = error.print();
            u8::try_from(error.exit_code()).unwrap_or(2)
        }
    }
}

fn report(error: &anyhow::Error) -> u8 {
    let report = Report::of(error);
    // Nobody can be told that stderr is gone.
    let _ = write!(std::io::stderr(), "{report}");
    report.failure.exit_code()
}

fn run(Cli { global, command }: Cli) -> Result<u8> {
    let environment = Environment::read();
    if let Some(level) = &environment.log {
        // Our own lines only: those of the HTTP libraries may carry what is sent.
        let level = level.to_string_lossy().parse().unwrap_or(log::LevelFilter::Info);
        env_logger::Builder::new().filter_module("qwenauth", level).init();
    }
    match command {
        Command::Token(args) => commands::token::run(&args, &Setting::load(&global, environment)?)?,
        command => return run_other(command, &global, environment),
    }
    Ok(0)
}

/// Apart from `token`, whose stack would otherwise have room for all of these, each page of it a page fault.
#[inline(never)]
fn run_other(command: Command, global: &Global, environment: Environment) -> Result<u8> {
    let setting = || Setting::load(global, environment);
    match command {
        Command::Token(args) => commands::token::run(&args, &setting()?)?,
        Command::Login(args) => commands::login::run(&args, global, &setting()?)?,
        Command::Status(args) => return commands::status::run(&args, &setting()?),
        Command::Refresh(_) => commands::refresh::run(&setting()?)?,
        Command::Logout(args) => commands::logout::run(&args, &setting()?)?,
        Command::Env(args) => commands::env::run(&args, setting)?,
        Command::Exec(args) => return commands::exec::run(&args, &setting()?),
        Command::Gateway(args) => commands::gateway::run(&args, &setting()?)?,
        Command::Usage(args) => commands::usage::run(&args, &setting()?)?,
        Command::Use(args) => commands::use_profile::run(&args, &setting()?)?,
        Command::Profiles(args) => commands::profiles::run(&args, &setting()?)?,
        Command::Providers(args) => commands::providers::run(&args, &setting()?)?,
        Command::Setup(args) => commands::setup::run(&args, &setting()?)?,
        Command::Doctor(args) => return commands::doctor::run(&args, setting),
        Command::Sandbox(args) => return commands::sandbox::run(&args),
        Command::Completions(args) => commands::completions::run(&args)?,
        Command::Complete { names } => commands::completions::complete(names, setting)?,
        Command::Man { directory } => commands::man::run(&directory)?,
    }
    Ok(0)
}

/// A reader that has seen enough is no failure of ours.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == ErrorKind::BrokenPipe)
}
