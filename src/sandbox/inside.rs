//! The surroundings of a program inside the sandbox: directories of its own and an environment that points to the
//! practice provider.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use tempfile::TempDir;

use super::PracticeProvider;
use crate::environment::{self, SANDBOX_DIRECTORIES, variable};
use crate::error::{is_variable_name, note};
use crate::paths::SANDBOX;
use crate::platform::{access, files, processes};
use crate::providers::{self, Overrides, Practice};

/// What stays of our own variables: how much is logged, and in which language.
const KEPT: [&str; 2] = ["QWENAUTH_LOG", "QWENAUTH_LANG"];

/// Our own variables, and those that name another host or hold another key.
const FAMILIES: [&str; 3] = ["QWENAUTH_", "OPENAI_", "ANTHROPIC_"];

const LOOPBACK: &str = "127.0.0.1,localhost,::1";

/// The temporary home of one sandbox.
pub(crate) struct Inside {
    directory: TempDir,
    url: String,
    /// The directory of this program.
    program: Option<PathBuf>,
    path: OsString,
    /// The variables that no program inside sees, besides [`FAMILIES`].
    removed: Vec<String>,
}

impl Inside {
    /// Directories for what runs inside, and the file that makes them a sandbox of `provider`.
    ///
    /// `overrides`: the user's, whose keys are not visible inside.
    pub(crate) fn new(provider: &PracticeProvider, overrides: Overrides) -> anyhow::Result<Self> {
        let directory = private_directory().context("cannot create a temporary directory")?;
        let file = directory.path().join("qwenauth").join("state").join(SANDBOX);
        files::create_whole(&file, &Practice::file(provider.url(), provider.approval())?)
            .with_context(|| format!("cannot write `{}`", file.display()))?;
        let program = env::current_exe().context("cannot find this program")?;
        let own = program.parent().map(PathBuf::from);
        let path = variable("PATH").unwrap_or_default();
        let path = env::join_paths(own.iter().cloned().chain(env::split_paths(&path)))
            .context("cannot add this program's directory to `PATH`")?;
        let removed = removed(overrides);
        Ok(Self { directory, url: provider.url().to_owned(), program: own, path, removed })
    }

    /// `program` with the environment of the sandbox, found by the sandbox's `PATH`.
    pub(crate) fn command(&self, program: &OsStr) -> Command {
        let mut command = Command::new(processes::located(program, &self.path));
        let is_foreign = |name: &str| {
            let is_of_family = FAMILIES.iter().any(|family| name.starts_with(family)) && !KEPT.contains(&name);
            is_of_family || self.removed.iter().any(|removed| removed == name)
        };
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(is_foreign) {
                command.env_remove(name);
            }
        }
        command.env("PATH", &self.path).envs(self.variables());
        command
    }

    fn variables(&self) -> Vec<(&'static str, OsString)> {
        let directory = self.directory.path();
        let mut variables = vec![
            (environment::SANDBOX, directory.as_os_str().to_owned()),
            ("QWENAUTH_QWEN_OAUTH_URL", self.url.clone().into()),
        ];
        variables.extend(SANDBOX_DIRECTORIES.map(|(name, below)| (name, directory.join(below).into_os_string())));
        // Either spelling starts from whichever the user had set, since programs differ in which they read first.
        let [upper, lower] = ["NO_PROXY", "no_proxy"].map(variable);
        variables.push(("NO_PROXY", without_proxy(upper.clone().or_else(|| lower.clone()))));
        variables.push(("no_proxy", without_proxy(lower.or(upper))));
        variables
    }

    /// The variables once more, for sh and its kin: the user's own start-up file, which is read before, may set others.
    fn again_for_sh(&self) -> String {
        let listed: String =
            FAMILIES.iter().map(|family| format!(r" -e 's/^\({family}[A-Za-z0-9_]*\)=.*/\1/p'")).collect();
        let mut text = format!(
            "for sandbox_name in $(env | sed -n{listed}); do\n\
             case $sandbox_name in {}) ;; *) unset \"$sandbox_name\" ;; esac\ndone\nunset sandbox_name {}\n",
            KEPT.join("|"),
            self.removed.join(" ")
        );
        if let Some(program) = &self.program {
            text += &format!("export PATH={}:\"$PATH\"\n", quoted(program.as_os_str()));
        }
        for (name, value) in self.variables() {
            text += &format!("export {name}={}\n", quoted(&value));
        }
        text
    }

    /// The same for fish, whose universal variables remain behind those of a session.
    fn again_for_fish(&self) -> String {
        let names = format!("^(?:(?:{}).*|{})$", FAMILIES.join("|"), self.removed.join("|"));
        let mut text = format!(
            "for name in (set -nx | string match -r '{names}'); contains -- $name {}; and continue; set -eg $name; \
             set -qx $name; and set -gx $name ''; end\n",
            KEPT.join(" ")
        );
        if let Some(program) = &self.program {
            text += &format!("set -gx PATH {} $PATH\n", fish_quoted(program.as_os_str()));
        }
        for (name, value) in self.variables() {
            text += &format!("set -gx {name} {}\n", fish_quoted(&value));
        }
        text
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
                let again = self.again_for_sh();
                let text = format!("[ -f ~/.bashrc ] && . ~/.bashrc\n{again}PS1=\"(sandbox) $PS1\"\n");
                let file = write("bashrc", &text)?;
                command.arg("--rcfile").arg(file);
            }
            Some("zsh") => {
                let own = variable("ZDOTDIR").map_or_else(|| "$HOME".to_owned(), |path| quoted(&path));
                let text = format!(
                    "ZDOTDIR={own}\n[ -f \"$ZDOTDIR/.zshrc\" ] && . \"$ZDOTDIR/.zshrc\"\n{}PROMPT=\"(sandbox) $PROMPT\"\n",
                    self.again_for_sh()
                );
                write(".zshrc", &text)?;
                command.env("ZDOTDIR", self.directory.path());
            }
            Some("fish") => {
                let prompt = "functions -q fish_prompt; and functions -c fish_prompt sandbox_prompt; \
                    function fish_prompt; echo -n '(sandbox) '; functions -q sandbox_prompt; and sandbox_prompt; end";
                command.arg("-C").arg(self.again_for_fish() + prompt);
            }
            _ => {
                // sh reads the file that `ENV` names, which may set the variables again.
                command.env("PS1", "(sandbox) $ ").env_remove("ENV");
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
    for name in SANDBOX_DIRECTORIES.map(|(_, name)| name).into_iter().chain(["qwenauth/state"]) {
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

/// The variables that hold a key of a provider or the secret of a client, which have no use inside, and the one that
/// names another file of opencode.
fn removed(mut overrides: Overrides) -> Vec<String> {
    // In a sandbox inside another, no provider has any.
    overrides.practice = None;
    let of = |name: &String| providers::find(name, &overrides).ok()?.key.map(|key| key.variables);
    let keys = providers::names(&overrides).iter().filter_map(of).flatten().collect::<Vec<_>>();
    let all = keys.into_iter().chain(overrides.client_secrets.into_keys()).chain(["OPENCODE_CONFIG".to_owned()]);
    all.filter(|name| is_variable_name(name)).collect()
}

/// For sh and its kin.
fn quoted(text: &OsStr) -> String {
    format!("'{}'", text.to_string_lossy().replace('\'', r"'\''"))
}

fn fish_quoted(text: &OsStr) -> String {
    format!("'{}'", text.to_string_lossy().replace('\\', r"\\").replace('\'', r"\'"))
}

/// The shell of the user.
fn shell() -> OsString {
    let (name, default) = processes::SHELL;
    variable(name).unwrap_or_else(|| default.into())
}
