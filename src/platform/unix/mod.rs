//! Linux, macOS and other Unixes.

pub(crate) mod access;
// The tests of every Linux build run it.
#[cfg(all(target_os = "linux", any(target_env = "musl", test)))]
mod allocator;
pub(crate) mod disk;
pub(crate) mod processes;
pub(crate) mod service;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod supervisor;
pub(crate) mod system;
pub(crate) mod tools;
