//! Everything that depends on the operating system: files, locks, signals, processes.
//!
//! ```text
//! files/     private files, written whole: temporary file, fsync, rename, modes, symlinks, space reserved first
//! lock.rs    the kernel lock between processes
//! threads.rs work on a thread of its own
//! keyring/   the keyring of the system, by system
//! unix/      what differs, on Linux, macOS and other Unixes
//! windows/   the same on Windows
//! ```
//!
//! Of what differs, with the same names for each system:
//!
//! ```text
//! access.rs      owners, modes and access lists
//! disk.rs        opening, making, comparing and replacing files
//! processes.rs   programs: found, started, become
//! service.rs     a program as a service of the user
//! signals.rs     signals deferred while a credential is replaced, at a prompt, and given to a child as they were found
//! socket.rs      a socket in the file system that programs of the user connect to
//! supervisor.rs  a child process that is outlived: signals, job control, how it ended
//! system.rs      clocks, home directory, memory, stdout
//! tools.rs       other programs: where each keeps its files, and the command lines that they run
//! ```

pub(crate) mod files;
pub(crate) mod keyring;
pub(crate) mod lock;
pub(crate) mod threads;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use self::unix as of_system;
#[cfg(windows)]
use self::windows as of_system;

pub(crate) use self::of_system::{access, disk, processes, service, signals, socket, supervisor, system, tools};
