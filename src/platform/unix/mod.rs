//! Linux, macOS and other Unixes.

pub(crate) mod access;
#[cfg(all(target_os = "linux", target_env = "musl"))]
mod allocator;
pub(crate) mod disk;
pub(crate) mod processes;
pub(crate) mod service;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod supervisor;
pub(crate) mod system;
pub(crate) mod tools;
