//! `qwenauth env`: print statements that export the credential.
//!
//! Hazard: `eval` of nothing succeeds, and the script goes on with the variables it had before.
//! Rule: whatever fails, stdout carries a statement that fails too, where the format has one.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;
use clap::{CommandFactory, ValueEnum};

use super::{group, print};
use crate::cli::{Cli, EnvArgs, EnvFormat, variable};
use crate::error::{Failed, Failure, Report, note};
use crate::platform::system;
use crate::secret::Secret;
use crate::session::Session;
use crate::shell::{self, Variable};

pub(crate) fn run(args: &EnvArgs, session: impl FnOnce() -> Result<Session>) -> Result<()> {
    let result = text(args, || group(&session()?, args.min_ttl, args.model.clone(), args.short_lived));
    let answer = match &result {
        Ok(text) => text.expose(),
        Err(error) => &failure(args.format, Report::of(error).failure.exit_code()),
    };
    print(answer)?;
    result?;
    if args.format == EnvFormat::Dotenv {
        hint_at_git();
    }
    Ok(())
}

fn text(args: &EnvArgs, group: impl FnOnce() -> Result<[Variable; 6]>) -> Result<Secret> {
    check(args)?;
    let mut group = if args.unset { shell::openai_removed() } else { group()? }.to_vec();
    if args.format == EnvFormat::Github {
        // An empty variable is not quite a removed one: none is made where there is nothing to remove.
        group.retain(|entry| entry.value.is_some() || variable(entry.name).is_some());
        if let Some(key) =
            group.iter().find(|entry| entry.name == "OPENAI_API_KEY").and_then(|entry| entry.value.as_ref())
        {
            io::stderr().write_all(shell::github_mask(key).expose().as_bytes())?;
        }
    }
    match args.format {
        EnvFormat::Sh => shell::sh(&group),
        EnvFormat::Fish => shell::fish(&group),
        EnvFormat::Powershell => shell::powershell(&group),
        EnvFormat::Nushell => shell::nushell(&group),
        EnvFormat::Elvish => shell::elvish(&group),
        EnvFormat::Cmd => shell::cmd(&group),
        EnvFormat::Dotenv => shell::dotenv(&group),
        EnvFormat::Json => shell::json(&group),
        EnvFormat::Github => shell::github(&group),
    }
}

/// Prints the failing statement after a command line that was not understood, if it was one of `env`.
pub(crate) fn not_understood(arguments: &[OsString]) {
    let understood = Cli::command().ignore_errors(true).try_get_matches_from(arguments);
    if !understood.is_ok_and(|understood| understood.subcommand_name() == Some("env")) {
        return;
    }
    // clap stops at the first thing it does not understand, and the format may stand behind it.
    let typed: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    let apart = typed.windows(2).find_map(|pair| (pair[0] == "--format").then_some(&*pair[1]));
    let format = apart.or_else(|| typed.iter().find_map(|argument| argument.strip_prefix("--format=")));
    let format = format.and_then(|format| EnvFormat::from_str(format, false).ok()).unwrap_or(EnvFormat::Sh);
    // Nobody can be told that stdout is gone; the error is on stderr already or about to be.
    let _ = print(&failure(format, Failure::Usage.exit_code()));
}

/// Refuses what cannot work, before a credential is read or renewed for it.
fn check(args: &EnvArgs) -> Result<()> {
    if args.format == EnvFormat::Github && variable("GITHUB_ACTIONS").is_none_or(|value| value != "true") {
        return Failed::new(Failure::Usage, "`--format github` works only in a GitHub Actions job")
            .hint("`GITHUB_ACTIONS` is not `true` here: choose another format")
            .err();
    }
    if args.format == EnvFormat::Dotenv && args.unset {
        return Failed::new(Failure::Usage, "`--unset` cannot be said in a `.env` file")
            .hint("delete the `OPENAI_…` lines from the file")
            .err();
    }
    Ok(())
}

/// What stands on stdout when there are no variables to print.
fn failure(format: EnvFormat, code: u8) -> String {
    match format {
        EnvFormat::Sh => shell::sh_failure(code),
        EnvFormat::Fish => shell::fish_failure(),
        _ => String::new(),
    }
}

/// Says so when the file that was just written would be committed. Only a hint: whatever goes wrong here goes unsaid.
fn hint_at_git() {
    let Some(file) = system::file_behind_stdout() else { return };
    if is_committable(&file) == Some(true) {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        note(&format!("hint: git does not ignore `{name}`, which holds a secret: add it to `.gitignore`"));
    }
}

/// `git` answers 0 for an ignored path, 1 for any other, 128 outside a work tree.
fn is_committable(file: &Path) -> Option<bool> {
    let status = Command::new("git")
        // A repository from somewhere else may name a program of its own here.
        .args(["-c", "core.fsmonitor=false", "-C"])
        .args([file.parent()?, Path::new("check-ignore"), Path::new("--quiet"), Path::new("--"), file])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .ok()?;
    Some(status.code()? == 1)
}
