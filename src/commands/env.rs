//! `qwenauth env`: print statements that export the credential.
//!
//! Hazard: `eval` of nothing succeeds, and the script continues with the variables it had before. Rule: if anything
//! fails, stdout gets a statement that fails too, where the format has one.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;
use clap::{CommandFactory, ValueEnum};

use super::{group, native_names, print};
use crate::cli::{Cli, EnvArgs, EnvFormat};
use crate::environment::variable;
use crate::error::{Failed, Failure, Report, note};
use crate::platform::{processes, system};
use crate::secret::Secret;
use crate::session::Session;
use crate::shell::{self, Variable};

pub(crate) fn run(args: &EnvArgs, session: impl FnOnce() -> Result<Session>) -> Result<()> {
    let format = args.format.map_or_else(format_of_shell, Ok)?;
    let result = text(args, format, session);
    let answer = match &result {
        Ok(text) => text.expose(),
        Err(error) => &failure(format, Report::of(error).failure.exit_code()),
    };
    print(answer)?;
    result?;
    if format == EnvFormat::Dotenv {
        hint_at_git();
    }
    Ok(())
}

fn text(args: &EnvArgs, format: EnvFormat, session: impl FnOnce() -> Result<Session>) -> Result<Secret> {
    check(args, format)?;
    let mut group = if args.unset {
        let own = if args.native { native_names(session()) } else { Vec::new() };
        let removed = own.into_iter().map(|name| Variable { name: name.into(), value: None });
        shell::openai_removed().into_iter().chain(removed).collect()
    } else {
        group(&session()?, args.min_ttl, args.model.clone(), args.short_lived, false, args.native)?
    };
    if format == EnvFormat::Github {
        // An empty variable is not quite a removed one: none is made where there is nothing to remove.
        group.retain(|entry| entry.value.is_some() || variable(&entry.name).is_some());
        if let Some(key) =
            group.iter().find(|entry| entry.name == "OPENAI_API_KEY").and_then(|entry| entry.value.as_ref())
        {
            io::stderr().write_all(shell::github_mask(key).expose().as_bytes())?;
        }
    }
    match format {
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

/// The format that the shell which runs this program reads.
fn format_of_shell() -> Result<EnvFormat> {
    // Set by Git Bash, MSYS2 and Cygwin, whose shells Windows does not know as such.
    let is_posix = variable("MSYSTEM").is_some()
        || variable("SHELL").is_some_and(|shell| {
            let name = Path::new(&shell).file_stem().unwrap_or_default().to_string_lossy().into_owned();
            ["sh", "bash", "dash", "ash", "ksh", "mksh", "zsh"].contains(&name.as_str())
        });
    match processes::calling_shell(is_posix) {
        Some("sh" | "bash" | "dash" | "zsh") => Ok(EnvFormat::Sh),
        Some("fish") => Ok(EnvFormat::Fish),
        Some("powershell" | "pwsh") => Ok(EnvFormat::Powershell),
        Some("cmd") => Ok(EnvFormat::Cmd),
        Some("nu") => Ok(EnvFormat::Nushell),
        Some("elvish") => Ok(EnvFormat::Elvish),
        _ => Failed::new(Failure::Usage, "cannot tell which shell will read the output")
            .hint("name it: `--format powershell`, `--format cmd`, `--format sh` …")
            .err(),
    }
}

/// Prints the failing statement after a command line that was not understood, if it was one of `env`.
pub(crate) fn not_understood(arguments: &[OsString]) {
    let understood = Cli::command().ignore_errors(true).try_get_matches_from(arguments);
    if !understood.is_ok_and(|understood| understood.subcommand_name() == Some("env")) {
        return;
    }
    // clap stops at the first invalid argument, and the format may come after it.
    let typed: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    let apart = typed.windows(2).find_map(|pair| (pair[0] == "--format").then_some(&*pair[1]));
    let format = apart.or_else(|| typed.iter().find_map(|argument| argument.strip_prefix("--format=")));
    let format = format.and_then(|format| EnvFormat::from_str(format, false).ok());
    let Ok(format) = format.map_or_else(format_of_shell, Ok) else { return };
    // Ignored: stdout is closed, and the error is printed on stderr anyway.
    let _ = print(&failure(format, Failure::Usage.exit_code()));
}

/// Rejects what cannot work, before a credential is read or renewed for it.
fn check(args: &EnvArgs, format: EnvFormat) -> Result<()> {
    if format == EnvFormat::Github && variable("GITHUB_ACTIONS").is_none_or(|value| value != "true") {
        return Failed::new(Failure::Usage, "`--format github` works only in a GitHub Actions job")
            .hint("choose another format; `GITHUB_ACTIONS` is not `true` here")
            .err();
    }
    if format == EnvFormat::Dotenv && args.unset {
        return Failed::new(Failure::Usage, "`--unset` is not supported with `--format dotenv`")
            .hint("delete the `OPENAI_…` lines from the file")
            .err();
    }
    Ok(())
}

/// The text on stdout when there are no variables to print.
fn failure(format: EnvFormat, code: u8) -> String {
    match format {
        EnvFormat::Sh => shell::sh_failure(code),
        EnvFormat::Fish => shell::fish_failure(),
        _ => String::new(),
    }
}

/// Warns if the file that was just written would be committed. Only a hint: failures here are not reported.
fn hint_at_git() {
    let Some(file) = system::file_behind_stdout() else { return };
    if is_committable(&file) == Some(true) {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        note(&format!("hint: git does not ignore `{name}`, which contains a secret: add it to `.gitignore`"));
    }
}

/// `git` exits with 0 for an ignored path, 1 for any other, 128 outside a work tree.
fn is_committable(file: &Path) -> Option<bool> {
    let status = Command::new("git")
        // A repository from somewhere else may name a program of its own here.
        .args(["-c", "core.fsmonitor=false", "-C"])
        // A missing object is not fetched, by whatever program the repository names for that.
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_ALLOW_PROTOCOL", "none")
        .args([file.parent()?, Path::new("check-ignore"), Path::new("--quiet"), Path::new("--"), file])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .ok()?;
    Some(status.code()? == 1)
}
