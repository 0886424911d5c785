//! What the system knows: the clock that only runs forward, the boot, the user's home, and the file behind stdout.

#![expect(unsafe_code, reason = "clocks, the registry and the path of an open file have no safe interface")]

use std::ffi::OsString;
use std::io;
use std::os::windows::ffi::OsStringExt;
use std::os::windows::io::AsRawHandle;
use std::path::PathBuf;
use std::ptr;
use std::time::Duration;

use windows_sys::Win32::Storage::FileSystem::{FILE_TYPE_DISK, GetFileType, GetFinalPathNameByHandleW};
use windows_sys::Win32::System::Console::FlushConsoleInputBuffer;
use windows_sys::Win32::System::Performance::{QueryPerformanceCounter, QueryPerformanceFrequency};
use windows_sys::Win32::System::Registry::{
    HKEY_LOCAL_MACHINE, RRF_RT_REG_DWORD, RRF_RT_REG_SZ, RRF_SUBKEY_WOW6464KEY, RegGetValueW,
};
use windows_sys::Win32::System::SystemInformation::{ComputerNameDnsHostname, GetComputerNameExW};

use super::access::wide;

/// The variable that names the user's home directory. `HOME` is that of a Unix shell on Windows, in its own spelling.
pub(crate) const HOME: &str = "USERPROFILE";

/// Why [`home`] finds none.
pub(crate) const NO_HOME: &str = "the user has no profile directory";

/// The variables of the directories for configuration, data and state, and where those are below the home directory if
/// the variable is not set. Only the configuration may travel with the user to another machine.
pub(crate) const CONFIG: (&str, &str) = ("APPDATA", "AppData/Roaming");
pub(crate) const DATA: (&str, &str) = ("LOCALAPPDATA", "AppData/Local");
pub(crate) const STATE: (&str, &str) = DATA;

pub(crate) const SET_CLOCK: &str = "w32tm /resync";

/// The home directory of the user's profile, for where the variable is not set.
pub(crate) fn home() -> Option<PathBuf> {
    std::env::home_dir()
}

/// What this machine calls itself.
pub(crate) fn host_name() -> Option<String> {
    // In UTF-16 units; a name has 63 at most.
    let (mut name, mut length) = ([0; 256], 256);
    // SAFETY: the buffer is as long as is said.
    let found = unsafe { GetComputerNameExW(ComputerNameDnsHostname, name.as_mut_ptr(), &raw mut length) };
    let name = name.get(..usize::try_from(length).ok()?).filter(|_| found != 0)?;
    String::from_utf16(name).ok().filter(|name| !name.is_empty())
}

/// The user of this process and the machine: `ann@BUILD-1`.
#[expect(clippy::disallowed_methods, reason = "the system's own variables, which are no settings of ours")]
pub(crate) fn who() -> String {
    let of = |name: &str| std::env::var_os(name).unwrap_or_default().to_string_lossy().into_owned();
    format!("{}@{}", of("USERNAME"), of("COMPUTERNAME"))
}

/// Time since the boot, the same for all processes; setting the time of day does not change it.
pub(crate) fn monotonic() -> Duration {
    let (mut count, mut frequency) = (0, 0);
    // SAFETY: both write a number. They cannot fail since Windows XP.
    unsafe {
        QueryPerformanceCounter(&raw mut count);
        QueryPerformanceFrequency(&raw mut frequency);
    }
    let nanoseconds = i128::from(count) * 1_000_000_000 / i128::from(frequency.max(1));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or_default())
}

/// Drops what was typed at the console that is stdin and not yet read.
pub(crate) fn discard_typed_ahead() {
    // SAFETY: the handle outlives the call. One that is not a console is an error without effect.
    unsafe { FlushConsoleInputBuffer(io::stdin().as_raw_handle()) };
}

/// Identifies this machine until its system is reinstalled. `None` if the system has no such id.
pub(crate) fn machine_id() -> Option<Vec<u8>> {
    // A program of 32 bits would be shown another part of the registry.
    let id = registry(r"SOFTWARE\Microsoft\Cryptography", "MachineGuid", RRF_RT_REG_SZ | RRF_SUBKEY_WOW6464KEY);
    (!id.is_empty()).then_some(id)
}

/// Identifies one boot of the machine, in which [`monotonic`] starts again; empty if the system has no such id.
pub(crate) fn boot() -> Vec<u8> {
    let key = r"SYSTEM\CurrentControlSet\Control\Session Manager\Memory Management\PrefetchParameters";
    registry(key, "BootId", RRF_RT_REG_DWORD)
}

/// A short value of the registry of the machine, as its bytes; empty where there is none of that type.
fn registry(key: &str, name: &str, kind: u32) -> Vec<u8> {
    let (key, name) = (wide(key), wide(name));
    let mut value = vec![0; 128];
    let mut length = 128;
    // SAFETY: both names end with a zero, and the buffer is as long as is said.
    let error = unsafe {
        RegGetValueW(
            HKEY_LOCAL_MACHINE,
            key.as_ptr(),
            name.as_ptr(),
            kind,
            ptr::null_mut(),
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    value.truncate(if error == 0 { usize::try_from(length).unwrap_or_default() } else { 0 });
    value
}

/// A debugger of the same user is allowed to read, and there is no mark against it.
pub(crate) fn guard_memory() {}

/// Whether a hangup means the end of the terminal: here it always does, for only a console sends one.
pub(crate) fn has_terminal() -> bool {
    true
}

/// Whether a browser could be shown, unless there is a reason against it.
pub(crate) const IS_GRAPHICAL: bool = true;

/// The regular file that stdout is redirected to, if it is one that still exists.
pub(crate) fn file_behind_stdout() -> Option<PathBuf> {
    let stdout = io::stdout().as_raw_handle();
    // The maximum length of a path, in UTF-16 units.
    let mut path = vec![0; 32_768];
    // SAFETY: the handle of stdout is open or null, and the buffer is as long as is said.
    let length = unsafe {
        if GetFileType(stdout) != FILE_TYPE_DISK {
            return None;
        }
        GetFinalPathNameByHandleW(stdout, path.as_mut_ptr(), 32_768, 0)
    };
    let path = PathBuf::from(OsString::from_wide(path.get(..usize::try_from(length).ok()?)?));
    path.is_file().then_some(path)
}

/// As on Unix; here the system does it by itself.
pub(crate) fn keep_freed_memory() {}
