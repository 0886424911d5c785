//! What a program inside the sandbox sees: directories of its own and an environment that leads to the practice provider.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use tempfile::TempDir;

use crate::cli::variable;
use crate::error::note;
use crate::platform::{access, processes};

/// Where the tools that `setup` writes look for their files, so that it writes none of the user's.
const TOOLS: [(&str, &str); 3] =
    [("CODEX_HOME", "codex"), ("CLAUDE_CONFIG_DIR", "claude"), ("OPENCODE_CONFIG_DIR", "opencode")];

const LOOPBACK: &str = "127.0.0.1,localhost,::1";

/// The temporary home of one sandbox.
pub(crate) struct Inside {
    directory: TempDir,
    url: String,
    path: OsString,
}

impl Inside {
    pub(crate) fn new(url: &str) -> anyhow::Result<Self> {
        let directory = private_directory().context("making a temporary directory")?;
        let program = env::current_exe().context("finding this program")?;
        let own = program.parent().map(PathBuf::from);
        let path = variable("PATH").unwrap_or_default();
        let path = env::join_paths(own.into_iter().chain(env::split_paths(&path)))
            .context("putting this program's directory into `PATH`")?;
        Ok(Self { directory, url: url.to_owned(), path })
    }

    /// `program` with the environment of the sandbox, found by the sandbox's `PATH`.
    pub(crate) fn command(&self, program: &OsStr) -> Command {
        let mut command = Command::new(program);
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("OPENAI_") || name == "QWENAUTH_PROFILE") {
                command.env_remove(name);
            }
        }
        command
            .env("QWENAUTH_QWEN_OAUTH_URL", &self.url)
            .env("QWEN_HOME", self.directory.path().join("qwen"))
            .env("QWENAUTH_HOME", self.directory.path().join("qwenauth"))
            .env("PATH", &self.path)
            .env_remove("OPENCODE_CONFIG");
        for (name, directory) in TOOLS {
            command.env(name, self.directory.path().join(directory));
        }
        for name in ["NO_PROXY", "no_proxy"] {
            command.env(name, without_proxy(variable(name)));
        }
        command
    }

    /// Removes what the sandbox held.
    pub(crate) fn remove(self) {
        let path = self.directory.path().to_owned();
        if let Err(error) = self.directory.close() {
            note(&format!("`{}` could not be removed: {error}", path.display()));
        }
    }
}

/// `qwen`, `qwenauth` and those of the tools in a new directory, all of them for this user alone.
fn private_directory() -> anyhow::Result<TempDir> {
    let directory = access::private_temporary_directory("qwenauth-sandbox-")?;
    for name in ["qwen", "qwenauth"].into_iter().chain(TOOLS.map(|(_, name)| name)) {
        access::create_directory(&directory.path().join(name))?;
    }
    Ok(directory)
}

fn without_proxy(before: Option<OsString>) -> OsString {
    let Some(mut hosts) = before else { return LOOPBACK.into() };
    hosts.push(",");
    hosts.push(LOOPBACK);
    hosts
}

/// The shell of the user.
pub(crate) fn shell() -> OsString {
    let (name, default) = processes::SHELL;
    variable(name).unwrap_or_else(|| default.into())
}
