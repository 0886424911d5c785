//! Programs: how they are found and started, how this process hands over to one, and which shell started this one.

#![expect(unsafe_code, reason = "the list of processes has no safe interface")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use windows_sys::Win32::Foundation::{FILETIME, INVALID_HANDLE_VALUE, WAIT_OBJECT_0};
use windows_sys::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, PROCESSENTRY32W, Process32FirstW, Process32NextW, TH32CS_SNAPPROCESS,
};
use windows_sys::Win32::System::Threading::{
    GetProcessTimes, OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_SYNCHRONIZE, WaitForSingleObject,
};

use super::console;
use super::job::Job;
use super::supervisor::ProgramEnd;
use crate::error::{Failed, Failure};

/// What `PATHEXT` is where it is not set.
const EXTENSIONS: &str = ".COM;.EXE;.BAT;.CMD";

/// How many ancestors are searched for a shell; process ids are reused, so that a chain could be endless.
const MAX_ANCESTORS: usize = 16;

/// A command for `program`, found as a shell finds it: `foo` is `foo.exe`, but also `foo.cmd`, the form in which npm
/// installs tools.
///
/// Not in the working directory, whose files may come from a repository. The standard library quotes arguments of a
/// `.cmd` or `.bat` file for `cmd`, and rejects those that cannot be quoted.
pub(crate) fn command(program: &OsStr, path: Option<&OsStr>) -> io::Result<Command> {
    find(program, path.unwrap_or_default()).map(Command::new).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// `program` where `path` has it, else as it was named.
pub(crate) fn located(program: &OsStr, path: &OsStr) -> OsString {
    find(program, path).map_or_else(|| program.to_owned(), PathBuf::into_os_string)
}

/// Where the directories of `path` have `program`; one that is named with a directory is only there.
pub(crate) fn find(program: &OsStr, path: &OsStr) -> Option<PathBuf> {
    let named = Path::new(program);
    let extensions = extensions();
    if named.components().count() > 1 || named.has_root() {
        return with_extension(named, &extensions);
    }
    std::env::split_paths(path)
        .filter(|directory| directory.is_absolute())
        .find_map(|directory| with_extension(&directory.join(named), &extensions))
}

/// The endings of programs.
fn extensions() -> String {
    #[expect(clippy::disallowed_methods, reason = "only Windows has it, and what it says is only of use here")]
    let set = std::env::var("PATHEXT").ok();
    set.filter(|set| !set.is_empty()).unwrap_or_else(|| EXTENSIONS.to_owned())
}

/// `path` itself if its extension makes it a program, else `path` with the first extension that does.
fn with_extension(path: &Path, extensions: &str) -> Option<PathBuf> {
    let mut extensions = extensions.split(';').filter(|extension| extension.len() > 1);
    let own = path.extension().map(|own| format!(".{}", own.to_string_lossy()));
    let is_program = own.is_some_and(|own| extensions.clone().any(|extension| extension.eq_ignore_ascii_case(&own)));
    if is_program && path.is_file() {
        return Some(path.to_owned());
    }
    extensions.find_map(|extension| {
        let mut name = path.as_os_str().to_owned();
        name.push(extension.to_ascii_lowercase());
        Some(PathBuf::from(name)).filter(|path| path.is_file())
    })
}

/// The error of a program that could not be started: 127 where it was not found, 126 where it cannot be run.
pub(crate) fn cannot_start(program: &OsStr, error: &io::Error) -> Failed {
    let name = program.to_string_lossy();
    match error.kind() {
        io::ErrorKind::NotFound if Path::new(program).is_file() => {
            Failed::new(Failure::CannotRun, format!("cannot run `{name}`: it is not a program"))
                .hint(format!("program names end in one of `{}` (`PATHEXT`)", extensions()))
        }
        io::ErrorKind::NotFound => {
            Failed::new(Failure::NotFound, format!("`{name}` was not found")).hint("check its name and `PATH`")
        }
        io::ErrorKind::InvalidInput => Failed::new(
            Failure::CannotRun,
            format!("cannot run `{name}`: an argument cannot be quoted safely for a batch file"),
        )
        .hint("run the program that it starts (`node SCRIPT`), or omit quotes, `%` and line breaks"),
        _ => Failed::new(Failure::CannotRun, format!("cannot run `{name}`: {error}")),
    }
}

/// Represents a program until it ends, and ends with its code; returns only if it could not be started.
///
/// Windows cannot replace a process. The program receives the console's events itself and ends with this process.
pub(crate) fn become_program(command: &mut Command) -> io::Result<Infallible> {
    console::watch(Box::new(|_| ()));
    let job = Job::new()?;
    let status = job.spawn(command)?.wait()?;
    job.release();
    ProgramEnd::of(status).end_by()
}

/// A program that can be ended together with everything it starts.
pub(crate) struct Group {
    pub(crate) child: Child,
    job: Job,
}

impl Group {
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        let job = Job::new()?;
        Ok(Self { child: job.spawn(command)?, job })
    }

    /// Kills the program and what it started. The program is still to be waited for.
    pub(crate) fn kill(&mut self) {
        self.job.kill();
    }
}

/// `command` for whoever splits it as a POSIX shell does: a backslash is part of a path here and quotes nothing.
pub(crate) fn for_splitting(command: &str) -> String {
    let mut escaped = String::with_capacity(command.len());
    let (mut in_single, mut in_double) = (false, false);
    for character in command.chars() {
        match character {
            '\'' if !in_double => in_single = !in_single,
            '"' if !in_single => in_double = !in_double,
            '\\' if !in_single => escaped.push('\\'),
            _ => {}
        }
        escaped.push(character);
    }
    escaped
}

/// Whether there are the shells and programs of Unix.
pub(crate) const IS_UNIX: bool = false;

/// The command that shows the variables.
pub(crate) const SHOW_VARIABLES: &str = "cmd /c set";

/// Tells a process from a later one with the same id: its start time, in the system's own form. Returns `None` if there
/// is no such process.
pub(crate) fn started(process: u32) -> Option<String> {
    let (mut created, mut other) = (FILETIME::default(), [FILETIME::default(); 3]);
    let [exited, kernel, user] = &mut other;
    // SAFETY: the handle is checked and owned by nobody else, and each time is written where it belongs.
    unsafe {
        let process = OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_SYNCHRONIZE, 0, process);
        if process.is_null() {
            return None;
        }
        let process = OwnedHandle::from_raw_handle(process);
        // A process that has ended still exists while it is open elsewhere.
        let ended = WaitForSingleObject(process.as_raw_handle(), 0) == WAIT_OBJECT_0;
        if ended || GetProcessTimes(process.as_raw_handle(), &raw mut created, exited, kernel, user) == 0 {
            return None;
        }
    }
    Some(format!("{:08x}{:08x}", created.dwHighDateTime, created.dwLowDateTime))
}

/// The shell of the user.
pub(crate) const SHELL: (&str, &str) = ("ComSpec", "cmd.exe");

/// The shell that reads what this program prints: a POSIX one if the environment says so, otherwise the nearest
/// ancestor that is a shell. Between the two there may be a launcher, such as that of npm.
pub(crate) fn calling_shell(is_posix: bool) -> Option<&'static str> {
    const SHELLS: [&str; 10] = ["pwsh", "powershell", "cmd", "nu", "elvish", "fish", "bash", "zsh", "dash", "sh"];
    if is_posix {
        return Some("sh");
    }
    let processes = processes().unwrap_or_default();
    let mut process = std::process::id();
    for _ in 0..MAX_ANCESTORS {
        let (parent, _) = processes.get(&process)?;
        let (_, name) = processes.get(parent)?;
        let name = name.trim_end_matches(".exe");
        if let Some(shell) = SHELLS.iter().find(|shell| **shell == name) {
            return Some(shell);
        }
        process = *parent;
    }
    None
}

/// Each process with its parent and its file name.
fn processes() -> io::Result<HashMap<u32, (u32, String)>> {
    let mut processes = HashMap::new();
    // SAFETY: the snapshot is checked and owned by nobody else; the entry carries its own size, as the interface asks.
    unsafe {
        let snapshot = CreateToolhelp32Snapshot(TH32CS_SNAPPROCESS, 0);
        if snapshot == INVALID_HANDLE_VALUE {
            return Err(io::Error::last_os_error());
        }
        let snapshot = OwnedHandle::from_raw_handle(snapshot);
        let dw_size = u32::try_from(size_of::<PROCESSENTRY32W>()).unwrap_or(0);
        let mut entry = PROCESSENTRY32W { dwSize: dw_size, ..Default::default() };
        let mut more = Process32FirstW(snapshot.as_raw_handle(), &raw mut entry);
        while more != 0 {
            let name = entry.szExeFile.split(|&unit| unit == 0).next().unwrap_or_default();
            let name = OsString::from(String::from_utf16_lossy(name)).to_string_lossy().to_lowercase();
            processes.insert(entry.th32ProcessID, (entry.th32ParentProcessID, name));
            more = Process32NextW(snapshot.as_raw_handle(), &raw mut entry);
        }
    }
    Ok(processes)
}
