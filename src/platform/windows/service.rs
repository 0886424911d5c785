//! Services of the user: none that a program could make without the rights of an administrator.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::error::{Failed, Failure};

/// Whether there are any.
pub(crate) const IS_SUPPORTED: bool = false;

/// The program to run.
pub(crate) struct Service<'a> {
    pub(crate) command: &'a [String],
    pub(crate) environment: &'a [(String, String)],
}

/// The files of the user that a service is made of.
pub(crate) struct ServicePaths<'a> {
    pub(crate) home: &'a Path,
    pub(crate) config: &'a Path,
}

/// Whether a service is there, and runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Missing,
    #[expect(dead_code, reason = "the same names as on Unix")]
    Stopped,
    Running,
}

pub(crate) fn file(paths: &ServicePaths) -> PathBuf {
    paths.home.join("qwenauth-gateway")
}

pub(crate) fn messages() -> String {
    String::new()
}

pub(crate) fn set_variable(_name: &str) -> String {
    String::new()
}

pub(crate) fn ends_with_the_session() -> Option<String> {
    None
}

pub(crate) fn state(_places: &ServicePaths) -> State {
    State::Missing
}

pub(crate) fn install(service: &Service, paths: &ServicePaths) -> Result<(PathBuf, bool)> {
    let _ = (service.command, service.environment, paths.config);
    Failed::new(Failure::Other, "`--install` supports only systemd and launchd")
        .hint("use the Task Scheduler to start `qwenauth gateway` when you log on")
        .err()
}

pub(crate) fn uninstall(_places: &ServicePaths) -> Result<Option<PathBuf>> {
    Ok(None)
}
