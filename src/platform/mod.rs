//! Everything that depends on the operating system: files, locks, signals, processes.
//!
//! ```text
//! files/     private files, written whole: temporary file, fsync, rename, modes, symlinks, space reserved first
//! lock.rs    the kernel lock between processes
//! unix/      what differs, as Unix has it
//! ```
//!
//! Of what differs, with the same names for each system:
//!
//! ```text
//! access.rs      owners, modes and access lists
//! disk.rs        opening, making, comparing and replacing files
//! processes.rs   programs: found, started, become
//! signals.rs     signals deferred while a credential is replaced, and given to a child as they were found
//! supervisor.rs  a child process that is outlived: signals, job control, how it ended
//! system.rs      clocks, home directory, memory, stdout
//! ```

pub(crate) mod files;
pub(crate) mod lock;
mod unix;

pub(crate) use self::unix::{access, disk, processes, signals, supervisor, system};
