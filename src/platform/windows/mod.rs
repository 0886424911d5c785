//! Windows 10 and later, under the names of `unix`.

pub(crate) mod access;
mod console;
pub(crate) mod disk;
mod job;
pub(crate) mod processes;
pub(crate) mod service;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod supervisor;
pub(crate) mod system;
pub(crate) mod tools;
