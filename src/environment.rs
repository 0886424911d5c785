//! The environment: the one place that reads it.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::{Failed, Failure, is_variable_name};
use crate::platform::system;
use crate::say::{Language, Preferences};
use crate::secret::Secret;

/// The variables that name a profile, a key, a directory or a server, read once; others are read by [`variable`]. An empty
/// value counts as not set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    pub(crate) home: Option<OsString>,
    pub(crate) profile: Option<OsString>,
    pub(crate) api_key: Option<OsString>,
    pub(crate) api_key_file: Option<OsString>,
    pub(crate) provider: Option<OsString>,
    pub(crate) region: Option<OsString>,
    pub(crate) base_url: Option<OsString>,
    pub(crate) qwenauth_home: Option<OsString>,
    pub(crate) qwen_home: Option<OsString>,
    pub(crate) config_home: Option<OsString>,
    pub(crate) data_home: Option<OsString>,
    pub(crate) state_home: Option<OsString>,
    pub(crate) qwen_oauth_url: Option<OsString>,
    pub(crate) ca_file: Option<OsString>,
    pub(crate) log: Option<OsString>,
    pub(crate) shared_url: Option<OsString>,
}

impl Environment {
    pub(crate) fn read() -> Self {
        Self {
            home: variable(system::HOME),
            profile: variable("QWENAUTH_PROFILE"),
            api_key: variable(API_KEY),
            api_key_file: variable(API_KEY_FILE),
            provider: variable("QWENAUTH_PROVIDER"),
            region: variable("QWENAUTH_REGION"),
            base_url: variable("QWENAUTH_BASE_URL"),
            qwenauth_home: directory("QWENAUTH_HOME"),
            qwen_home: directory("QWEN_HOME"),
            config_home: variable(system::CONFIG.0),
            data_home: variable(system::DATA.0),
            state_home: variable(system::STATE.0),
            qwen_oauth_url: variable("QWENAUTH_QWEN_OAUTH_URL"),
            ca_file: variable("QWENAUTH_CA_FILE"),
            log: variable("QWENAUTH_LOG"),
            shared_url: variable(SHARED_URL),
        }
    }
}

/// The directory of the sandbox that this process runs in. It wins over what names the directories below it, because
/// the start-up files of a shell may set that again.
pub(crate) const SANDBOX: &str = "QWENAUTH_SANDBOX";

/// Directories of a sandbox, by the variables that name them elsewhere.
pub(crate) const SANDBOX_DIRECTORIES: [(&str, &str); 5] = [
    ("QWENAUTH_HOME", "qwenauth"),
    ("QWEN_HOME", "qwen"),
    ("CODEX_HOME", "codex"),
    ("CLAUDE_CONFIG_DIR", "claude"),
    ("OPENCODE_CONFIG_DIR", "opencode"),
];

/// The directory of the sandbox, inside one.
pub(crate) fn sandbox() -> Option<PathBuf> {
    variable(SANDBOX).map(PathBuf::from)
}

/// The directory that the variable `name` names, inside a sandbox always the sandbox's own.
pub(crate) fn directory(name: &str) -> Option<OsString> {
    let below = |sandbox: PathBuf| {
        let (_, directory) = SANDBOX_DIRECTORIES.iter().find(|(known, _)| *known == name)?;
        Some(sandbox.join(directory).into_os_string())
    };
    sandbox().map_or_else(|| variable(name), below)
}

/// The credential in the environment.
pub(crate) const API_KEY: &str = "QWENAUTH_API_KEY";
pub(crate) const API_KEY_FILE: &str = "QWENAUTH_API_KEY_FILE";

/// Where the gateways of a team count together, with its password: never an argument, which others could read.
pub(crate) const SHARED_URL: &str = "QWENAUTH_SHARED_URL";

/// What the environment says about screens. An empty `NO_COLOR` counts as not set.
pub(crate) fn screen_preferences() -> Preferences {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable).unwrap_or_default();
    let locale = locale.to_string_lossy().to_ascii_lowercase();
    let utf8 = locale.contains("utf-8") || locale.contains("utf8");
    let chosen = variable("QWENAUTH_LANG");
    // Text that a locale cannot show is English, unless it was asked for by name.
    let language =
        chosen.clone().or_else(|| utf8.then(|| ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter().find_map(variable))?);
    Preferences {
        no_color: variable("NO_COLOR").is_some(),
        force_color: variable("CLICOLOR_FORCE").is_some_and(|value| value != "0"),
        dumb: variable("TERM").is_some_and(|value| value == "dumb"),
        columns: variable("COLUMNS").and_then(|value| value.to_str()?.parse().ok()),
        utf8,
        language: language.map(|name| Language::of_locale(&name.to_string_lossy())).unwrap_or_default(),
        language_everywhere: chosen.is_some(),
    }
}

/// One environment variable, where a command needs to know of others' (`OPENAI_API_KEY`, `CI`, `SSH_TTY` …).
#[expect(clippy::disallowed_methods, reason = "the one home of environment variables")]
pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The same, where an empty value is not the same as none: of the proxies' variables it hides those that come after.
#[expect(clippy::disallowed_methods, reason = "the one home of environment variables")]
pub(crate) fn variable_or_empty(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Of a variable that `option` was given and that has no value. What is no name may be a secret, and is not repeated.
#[expect(clippy::disallowed_methods, reason = "the one home of environment variables")]
pub(crate) fn without_value(name: &str, option: &str) -> Failed {
    let (message, hint) = if !is_variable_name(name) {
        let hint = format!("`{option}` takes the name of a variable, not its value");
        ("the given value is not a variable name".to_owned(), hint)
    } else if std::env::var_os(name).is_some() {
        let hint = "in CI, a secret that is missing may become an empty variable".to_owned();
        (format!("the variable `{name}` is empty"), hint)
    } else {
        (format!("the variable `{name}` is not set"), format!("`export {name}=…`, or name another variable"))
    };
    Failed::new(Failure::Usage, message).hint(hint)
}

/// The variables in which `secret` is.
pub(crate) fn names_holding(secret: &Secret) -> Vec<OsString> {
    let holds = |value: &OsString| !secret.expose().is_empty() && value.to_string_lossy().contains(secret.expose());
    std::env::vars_os().filter(|(_, value)| holds(value)).map(|(name, _)| name).collect()
}
