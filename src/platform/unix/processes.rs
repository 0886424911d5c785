//! Programs: how they are found and started, and how this process becomes one.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::error::{Failed, Failure};

/// A command for `program`, which is found in `PATH` when it starts.
#[expect(clippy::unnecessary_wraps, reason = "the same shape as on Windows, where it is found here")]
pub(crate) fn command(program: &OsStr, _path: Option<&OsStr>) -> io::Result<Command> {
    Ok(Command::new(program))
}

/// `program`, which is found in the `PATH` of its command when it starts.
pub(crate) fn located(program: &OsStr, _path: &OsStr) -> OsString {
    program.to_owned()
}

/// Where the directories of `path` have `program`.
pub(crate) fn find(program: &OsStr, path: &OsStr) -> Option<PathBuf> {
    let runs = |path: &Path| {
        path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(path).map(|directory| directory.join(program)).find(|path| runs(path))
}

/// Becomes `command`; returns only if that is not possible.
pub(crate) fn become_program(command: &mut Command) -> io::Result<Infallible> {
    Err(command.exec())
}

/// A program that can be ended together with everything it starts.
pub(crate) struct Group {
    pub(crate) child: Child,
}

impl Group {
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        Ok(Self { child: command.process_group(0).spawn()? })
    }

    /// Kills the program and what it started. The program is still to be waited for.
    pub(crate) fn kill(&mut self) {
        let group = i32::try_from(self.child.id()).map(nix::unistd::Pid::from_raw);
        if let Ok(group) = group
            && let Err(error) = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL)
        {
            log::warn!("cannot end a process group: {error}");
        }
    }
}

/// The failure of a program that could not be started: 127 where there is none, 126 where it cannot be run, as shells
/// have it.
pub(crate) fn cannot_start(program: &OsStr, error: &io::Error) -> Failed {
    let name = program.to_string_lossy();
    if error.kind() != ErrorKind::NotFound {
        return Failed::new(Failure::CannotRun, format!("cannot run `{name}`: {error}"));
    }
    if name.contains('/') && Path::new(program).exists() {
        return Failed::new(Failure::CannotRun, format!("cannot run `{name}`: its interpreter is missing"));
    }
    Failed::new(Failure::NotFound, format!("`{name}` was not found")).hint("check its name and `PATH`")
}

/// The shell that reads what this program prints: POSIX, unless the user states another.
#[expect(clippy::unnecessary_wraps, reason = "the same shape as on Windows, which has no such rule")]
pub(crate) fn calling_shell(_is_posix: bool) -> Option<&'static str> {
    Some("sh")
}

/// `command` for whoever splits it as a POSIX shell does.
pub(crate) fn for_splitting(command: &str) -> String {
    command.to_owned()
}

/// Whether there are the shells and programs of Unix.
pub(crate) const IS_UNIX: bool = true;

/// The command that shows the variables.
pub(crate) const SHOW_VARIABLES: &str = "env";

/// The shell of the user.
pub(crate) const SHELL: (&str, &str) = ("SHELL", "/bin/sh");

/// Tells a process from a later one with the same id: its start time, in the system's own form. Returns `None` if there
/// is no such process.
#[cfg(target_os = "linux")]
pub(crate) fn started(process: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // proc_pid_stat(5): the 22nd field; the second is the name in parentheses, which may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}

/// Elsewhere it is only known whether there is a process with that id.
#[cfg(not(target_os = "linux"))]
pub(crate) fn started(process: u32) -> Option<String> {
    let process = nix::unistd::Pid::from_raw(process.try_into().ok()?);
    nix::sys::signal::kill(process, None).is_ok().then(|| "unknown".to_owned())
}
