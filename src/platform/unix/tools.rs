//! Other programs: where each keeps its configuration, and the command lines that they run.

use std::path::{Path, PathBuf};

use crate::error::for_sh;

/// Directories of the user's configuration that a program chooses by the system.
pub(crate) struct Places {
    pub(crate) crush: PathBuf,
    pub(crate) llm: PathBuf,
    pub(crate) zed: PathBuf,
}

impl Places {
    /// `config` is where programs look that follow the XDG base directories; the others are the system's own.
    pub(crate) fn new(config: &Path, home: &Path, _roaming: Option<PathBuf>, _local: Option<PathBuf>) -> Self {
        let of_system = if cfg!(target_os = "macos") { &home.join("Library/Application Support") } else { config };
        Self { crush: config.join("crush"), llm: of_system.join("io.datasette.llm"), zed: config.join("zed") }
    }
}

/// Settings of an administrator, which win over those of the user.
pub(crate) const CLAUDE_CODE_MANAGED: &str = if cfg!(target_os = "macos") {
    "/Library/Application Support/ClaudeCode/managed-settings.json"
} else {
    "/etc/claude-code/managed-settings.json"
};
pub(crate) const OPENCODE_MANAGED: &str = if cfg!(target_os = "macos") {
    "/Library/Application Support/opencode/opencode.json"
} else {
    "/etc/opencode/opencode.json"
};
pub(crate) const QWEN_CODE_SYSTEM: &str = if cfg!(target_os = "macos") {
    "/Library/Application Support/QwenCode/settings.json"
} else {
    "/etc/qwen-code/settings.json"
};

/// The same of Codex, whose own file is `_own`.
pub(crate) fn codex_managed(_own: &Path) -> PathBuf {
    "/etc/codex/managed_config.toml".into()
}

/// `word` as it is read by the shell that tools run a command line with.
pub(crate) fn quoted(word: &str) -> String {
    for_sh(word)
}

/// A program as the first word of a line to type.
pub(crate) fn typed(program: &str) -> String {
    quoted(program)
}

/// The command that prints a file.
pub(crate) fn print_file(file: &Path) -> Vec<String> {
    vec!["cat".into(), file.display().to_string()]
}

/// The command that prints a variable.
pub(crate) fn print_variable(name: &str) -> Vec<String> {
    vec!["printenv".into(), name.into()]
}

/// A command line that prints the variable with the credential of `exec`.
pub(crate) const PRINT_ACCESS_TOKEN: &str = "printf %s \"$QWENAUTH_ACCESS_TOKEN\"";

/// A line that starts `program` with a variable set to what a command line prints.
pub(crate) fn start_with(variable: &str, command_line: &str, program: &str) -> String {
    format!("{variable}=\"$({command_line})\" {program}")
}

/// A line for the start-up file of a shell: `name` runs `command` from then on.
pub(crate) fn alias(name: &str, command: &str) -> String {
    format!("alias {name}={}", for_sh(command))
}

/// A line that sets `NAME=value` in a file in a directory below the home directory, the value from a command line. The
/// other lines stay, as does the whole file if the command fails; what comes out is private.
pub(crate) fn write_variable(name: &str, command_line: &str, directory: &str, file: &str) -> String {
    format!(
        "(umask 077; cd ~/{directory} && value=$({command_line}) && touch {file} && rm -f {file}.new && {{ awk '!/^{name}=/' \
         {file} && printf '{name}=%s\\n' \"$value\"; }} > {file}.new && mv -f {file}.new {file})"
    )
}
