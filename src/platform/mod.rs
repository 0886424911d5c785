//! Everything that depends on the operating system: files, locks, signals, processes.
//!
//! ```text
//! files/          private files, written whole: temporary file, fsync, rename, modes, symlinks, space reserved first
//! lock.rs         the kernel lock between processes, and Qwen Code's lock
//! signals.rs      signals deferred while a credential is replaced, and given to a child as they were found
//! supervisor.rs   a child process that is outlived: signals, job control, how it ended
//! ```

pub(crate) mod files;
pub(crate) mod lock;
pub(crate) mod signals;
pub(crate) mod supervisor;
