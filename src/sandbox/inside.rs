//! The surroundings of a program inside the sandbox: directories of its own and an environment that points to the
//! practice provider.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use tempfile::TempDir;

use super::PracticeProvider;
use crate::environment::variable;
use crate::error::note;
use crate::paths::SANDBOX;
use crate::platform::{access, files, processes};
use crate::providers::{self, Overrides, Practice};

/// Variables for the configuration of tools that `setup` writes, so that it does not change the user's files.
const TOOLS: [(&str, &str); 3] =
    [("CODEX_HOME", "codex"), ("CLAUDE_CONFIG_DIR", "claude"), ("OPENCODE_CONFIG_DIR", "opencode")];

/// What stays of our own variables: how much is logged, and in which language.
const KEPT: [&str; 2] = ["QWENAUTH_LOG", "QWENAUTH_LANG"];

/// Variables that name another host or hold another key.
const FAMILIES: [&str; 2] = ["OPENAI_", "ANTHROPIC_"];

const LOOPBACK: &str = "127.0.0.1,localhost,::1";

/// The temporary home of one sandbox.
pub(crate) struct Inside {
    directory: TempDir,
    url: String,
    path: OsString,
}

impl Inside {
    /// Directories for what runs inside, and the file that makes them a sandbox of `provider`.
    pub(crate) fn new(provider: &PracticeProvider) -> anyhow::Result<Self> {
        let directory = private_directory().context("cannot create a temporary directory")?;
        let file = directory.path().join("qwenauth").join("state").join(SANDBOX);
        files::create_whole(&file, &Practice::file(provider.url(), provider.approval())?)
            .with_context(|| format!("cannot write `{}`", file.display()))?;
        let program = env::current_exe().context("cannot find this program")?;
        let own = program.parent().map(PathBuf::from);
        let path = variable("PATH").unwrap_or_default();
        let path = env::join_paths(own.into_iter().chain(env::split_paths(&path)))
            .context("cannot add this program's directory to `PATH`")?;
        Ok(Self { directory, url: provider.url().to_owned(), path })
    }

    /// `program` with the environment of the sandbox, found by the sandbox's `PATH`.
    pub(crate) fn command(&self, program: &OsStr) -> Command {
        let mut command = Command::new(processes::located(program, &self.path));
        let keys = key_variables();
        let is_foreign = |name: &str| {
            let ours = name.starts_with("QWENAUTH_") && !KEPT.contains(&name);
            ours || FAMILIES.iter().any(|family| name.starts_with(family)) || keys.iter().any(|key| key == name)
        };
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(is_foreign) {
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
        // Either spelling starts from whichever the user had set, since programs differ in which they read first.
        let [upper, lower] = ["NO_PROXY", "no_proxy"].map(variable);
        command.env("NO_PROXY", without_proxy(upper.clone().or_else(|| lower.clone())));
        command.env("no_proxy", without_proxy(lower.or(upper)));
        command
    }

    /// The user's shell, with `(sandbox)` in front of its prompt.
    ///
    /// Errors: the files that set the prompt cannot be written.
    pub(crate) fn shell(&self) -> anyhow::Result<Command> {
        let shell = shell();
        let mut command = self.command(&shell);
        let name = Path::new(&shell).file_stem().unwrap_or_default().to_owned();
        let write = |name: &str, text: &str| -> anyhow::Result<PathBuf> {
            let path = self.directory.path().join(name);
            files::create_whole(&path, text.as_bytes())
                .with_context(|| format!("cannot write `{}`", path.display()))?;
            Ok(path)
        };
        match name.to_str() {
            Some("bash") => {
                let file = write("bashrc", "[ -f ~/.bashrc ] && . ~/.bashrc\nPS1=\"(sandbox) $PS1\"\n")?;
                command.arg("--rcfile").arg(file);
            }
            Some("zsh") => {
                let own = variable("ZDOTDIR").map_or_else(|| "$HOME".to_owned(), |path| quoted(&path));
                let text = format!(
                    "ZDOTDIR={own}\n[ -f \"$ZDOTDIR/.zshrc\" ] && . \"$ZDOTDIR/.zshrc\"\nPROMPT=\"(sandbox) $PROMPT\"\n"
                );
                write(".zshrc", &text)?;
                command.env("ZDOTDIR", self.directory.path());
            }
            Some("fish") => {
                let prompt = "functions -q fish_prompt; and functions -c fish_prompt sandbox_prompt; \
                    function fish_prompt; echo -n '(sandbox) '; functions -q sandbox_prompt; and sandbox_prompt; end";
                command.args(["-C", prompt]);
            }
            _ => {
                command.env("PS1", "(sandbox) $ ");
            }
        }
        Ok(command)
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
    for name in ["qwen", "qwenauth", "qwenauth/state"].into_iter().chain(TOOLS.map(|(_, name)| name)) {
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

/// The variables of all providers that hold a key: a real one has no use inside.
fn key_variables() -> Vec<String> {
    let overrides = Overrides::default();
    let of = |name: &String| providers::find(name, &overrides).ok()?.key.map(|key| key.variables);
    providers::names(&overrides).iter().filter_map(of).flatten().collect()
}

/// For sh and its kin.
fn quoted(text: &OsStr) -> String {
    format!("'{}'", text.to_string_lossy().replace('\'', r"'\''"))
}

/// The shell of the user.
fn shell() -> OsString {
    let (name, default) = processes::SHELL;
    variable(name).unwrap_or_else(|| default.into())
}
