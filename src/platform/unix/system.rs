//! Facts about the system: the monotonic clock, the boot, the user's home, and who may read this process's memory.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::termios::{FlushArg, tcflush};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{User, gethostname, getuid};

/// The variable that names the user's home directory.
pub(crate) const HOME: &str = "HOME";

/// Why [`home`] finds none.
pub(crate) const NO_HOME: &str = "the user has no passwd entry";

/// The variables of the directories for configuration, data and state, and where those are below the home directory if
/// the variable is not set: the XDG base directories.
pub(crate) const CONFIG: (&str, &str) = ("XDG_CONFIG_HOME", ".config");
pub(crate) const DATA: (&str, &str) = ("XDG_DATA_HOME", ".local/share");
pub(crate) const STATE: (&str, &str) = ("XDG_STATE_HOME", ".local/state");

/// What sets the clock, as a line to type.
pub(crate) const SET_CLOCK: &str =
    if cfg!(target_os = "macos") { "sudo sntp -sS time.apple.com" } else { "timedatectl set-ntp true" };

/// The home directory of the passwd entry, for where the variable is not set.
pub(crate) fn home() -> Option<PathBuf> {
    let user = User::from_uid(getuid()).ok()??;
    user.dir.is_absolute().then_some(user.dir)
}

/// The user of this process and the machine: `1000@build-1`.
pub(crate) fn who() -> String {
    let host = gethostname().unwrap_or_default();
    format!("{}@{}", getuid(), host.to_string_lossy())
}

/// Time since the boot, the same for all processes; setting the time of day does not change it.
pub(crate) fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}

/// Tells this machine from others, for as long as its system is not installed anew. `None`: nothing does.
#[cfg(not(target_os = "macos"))]
pub(crate) fn machine_id() -> Option<Vec<u8>> {
    let read = |path: &str| std::fs::read(path).ok().map(|id| id.trim_ascii().to_vec()).filter(|id| !id.is_empty());
    ["/etc/machine-id", "/var/lib/dbus/machine-id", "/etc/hostid"].into_iter().find_map(read)
}

/// What this machine calls itself.
pub(crate) fn host_name() -> Option<String> {
    gethostname().ok()?.into_string().ok().filter(|name| !name.is_empty())
}

/// The hardware UUID, which `ioreg` shows as `IOPlatformUUID`.
#[cfg(target_os = "macos")]
#[expect(unsafe_code, reason = "gethostuuid(2) has no safe interface")]
pub(crate) fn machine_id() -> Option<Vec<u8>> {
    let (mut id, at_once) = ([0; 16], nix::libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: the buffer has the 16 bytes of a UUID, and both outlive the call.
    let failed = unsafe { nix::libc::gethostuuid(id.as_mut_ptr(), &raw const at_once) };
    (failed == 0 && id != [0; 16]).then(|| id.to_vec())
}

/// Tells one boot of the machine from another, after which [`monotonic`] begins anew; empty where nothing does.
#[cfg(not(target_os = "macos"))]
pub(crate) fn boot() -> Vec<u8> {
    std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// The UUID that the kernel makes at each boot; unlike the time of the boot it stays the same when the clock is set.
#[cfg(target_os = "macos")]
#[expect(unsafe_code, reason = "sysctlbyname(3) has no safe interface")]
pub(crate) fn boot() -> Vec<u8> {
    let (mut id, mut length) = (vec![0_u8; 64], 64);
    // SAFETY: the name ends with a zero, the buffer is as long as is said, and nothing is set.
    let failed = unsafe {
        nix::libc::sysctlbyname(
            c"kern.bootsessionuuid".as_ptr(),
            id.as_mut_ptr().cast(),
            &raw mut length,
            std::ptr::null_mut(),
            0,
        )
    };
    id.truncate(if failed == 0 { length } else { 0 });
    id
}

/// Keeps this process out of core dumps and of the reach of the user's other processes (`/proc/PID/mem`, debuggers).
/// A program it becomes by `exec` is an ordinary one again: the kernel resets the mark.
pub(crate) fn guard_memory() {
    // Without the flag everything else works, so a kernel that rejects it is no reason to stop.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_dumpable(false);
}

/// Whether this process has a controlling terminal, which sends a hangup signal when it is closed.
pub(crate) fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// Drops what was typed at the terminal that is stdin and not yet read.
pub(crate) fn discard_typed_ahead() {
    // Nothing is lost if the terminal does not: it is then read as it was typed.
    let _ = tcflush(std::io::stdin(), FlushArg::TCIFLUSH);
}

/// Whether a browser could be shown, unless there is a reason against it.
pub(crate) const IS_GRAPHICAL: bool = cfg!(target_os = "macos");

/// The regular file that stdout is redirected to, if it is one that still exists.
#[cfg(target_os = "linux")]
pub(crate) fn file_behind_stdout() -> Option<PathBuf> {
    // A pipe or a terminal is not the path of a regular file; a deleted file has no path.
    std::fs::read_link("/proc/self/fd/1").ok().filter(|path| path.is_file())
}

/// Elsewhere a file in the working directory is found by its inode.
#[cfg(not(target_os = "linux"))]
pub(crate) fn file_behind_stdout() -> Option<PathBuf> {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    let stdout = std::fs::File::from(std::io::stdout().as_fd().try_clone_to_owned().ok()?).metadata().ok()?;
    let here = std::env::current_dir().ok()?;
    std::fs::read_dir(here).ok()?.flatten().map(|entry| entry.path()).find(|path| {
        let is_same =
            |file: std::fs::Metadata| file.is_file() && file.dev() == stdout.dev() && file.ino() == stdout.ino();
        path.symlink_metadata().is_ok_and(is_same)
    })
}

/// Keeps small pieces of memory that this thread frees for its next ones, where the C library does not do that by itself.
pub(crate) fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "musl"))]
    super::allocator::keep_freed();
}
