//! `exec`: become a program that has the credential in its environment.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{Setting, group};
use crate::cli::{ExecArgs, variable};
use crate::error::{Failed, Failure, note};
use crate::signals;

/// Returns only if the program could not be started.
pub(crate) fn run(args: &ExecArgs, setting: &Setting) -> Result<()> {
    let Some((program, arguments)) = args.command.split_first() else {
        return Failed::new(Failure::Usage, "no program to run").err();
    };
    let mut command = Command::new(program);
    command.args(arguments);
    if args.preserve_env
        && ["OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE"].iter().any(|name| variable(name).is_some())
    {
        note("the environment has a key or base URL already, and it is left alone (`--preserve-env`)");
    } else {
        set_group(args, setting, &mut command)?;
    }
    signals::restore_in(&mut command);
    let error = command.exec();
    not_started(program, &error)
}

fn set_group(args: &ExecArgs, setting: &Setting, command: &mut Command) -> Result<()> {
    let mut replaced = Vec::new();
    for member in group(setting, args.min_ttl, args.model.clone(), args.short_lived)? {
        let value = member.value.as_ref().map(|value| OsStr::new(value.expose()));
        if variable(member.name).is_some_and(|found| Some(found.as_os_str()) != value) {
            replaced.push(member.name);
        }
        match value {
            Some(value) => command.env(member.name, value),
            None => command.env_remove(member.name),
        };
    }
    if !replaced.is_empty() {
        note(&format!("replaced for `{}`: {}", args.command[0].to_string_lossy(), replaced.join(", ")));
    }
    Ok(())
}

/// 127 where there is no such program, 126 where it cannot be run, as shells have it.
fn not_started(program: &OsStr, error: &std::io::Error) -> Result<()> {
    let name = program.to_string_lossy();
    if error.kind() != ErrorKind::NotFound {
        return Failed::new(Failure::CannotRun, format!("cannot run `{name}`: {error}")).err();
    }
    if program.to_string_lossy().contains('/') && Path::new(program).exists() {
        return Failed::new(Failure::CannotRun, format!("cannot run `{name}`: its interpreter is missing")).err();
    }
    Failed::new(Failure::NotFound, format!("`{name}` was not found")).hint("check its name and `PATH`").err()
}
