//! Other programs: where each keeps its configuration, and the command lines that they run.
//!
//! Programs of Node and Python run a command line by `cmd`; lines for a person are for PowerShell.

use std::path::{Path, PathBuf};

/// Directories of the user's configuration that a program chooses by the system.
pub(crate) struct Places {
    pub(crate) crush: PathBuf,
    pub(crate) llm: PathBuf,
    pub(crate) zed: PathBuf,
}

impl Places {
    /// `roaming` is `%APPDATA%`, `local` is `%LOCALAPPDATA%`.
    pub(crate) fn new(_config: &Path, home: &Path, roaming: Option<PathBuf>, local: Option<PathBuf>) -> Self {
        let roaming = roaming.unwrap_or_else(|| home.join("AppData").join("Roaming"));
        let local = local.unwrap_or_else(|| home.join("AppData").join("Local"));
        Self { crush: local.join("crush"), llm: roaming.join("io.datasette.llm"), zed: roaming.join("Zed") }
    }
}

/// Settings of an administrator, which win over those of the user.
pub(crate) const CLAUDE_CODE_MANAGED: &str = r"C:\Program Files\ClaudeCode\managed-settings.json";
pub(crate) const OPENCODE_MANAGED: &str = r"C:\ProgramData\opencode\opencode.json";
pub(crate) const QWEN_CODE_SYSTEM: &str = r"C:\ProgramData\qwen-code\settings.json";

/// The same of Codex, which has it beside its `own` file here.
pub(crate) fn codex_managed(own: &Path) -> PathBuf {
    own.with_file_name("managed_config.toml")
}

/// `word` as `cmd` reads it, and PowerShell where it is an argument.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || br"_./:\@+,-".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("\"{}\"", word.replace('"', "\\\""))
}

/// The command that prints a file.
pub(crate) fn print_file(file: &Path) -> Vec<String> {
    vec!["cmd".into(), "/c".into(), "type".into(), file.display().to_string()]
}

/// The command that prints a variable.
pub(crate) fn print_variable(name: &str) -> Vec<String> {
    vec!["cmd".into(), "/c".into(), "echo".into(), format!("%{name}%")]
}

/// A command line that prints the variable with the credential of `exec`.
pub(crate) const PRINT_ACCESS_TOKEN: &str = "echo %QWENAUTH_ACCESS_TOKEN%";

/// A line that starts `program` with a variable set to what a command line prints.
pub(crate) fn start_with(variable: &str, command_line: &str, program: &str) -> String {
    format!("$env:{variable} = {}; {program}", called(command_line))
}

/// A line for the start-up file of a shell: `name` runs `command` from then on.
pub(crate) fn alias(name: &str, command: &str) -> String {
    format!("function {name} {{ {} @args }}", called(command))
}

/// A line that sets `NAME=value` in a file in a directory below the home directory, the value from a command line. The
/// other lines stay, as does the whole file if the command fails.
pub(crate) fn write_variable(name: &str, command_line: &str, directory: &str, file: &str) -> String {
    let (command, file) = (called(command_line), format!("~/{directory}/{file}"));
    format!(
        "$value = {command}; if ($LASTEXITCODE -eq 0) {{ Set-Content {file} \
         (@(@(Get-Content {file} -ErrorAction Ignore) -notmatch '^{name}=') + \"{name}=$value\") }}"
    )
}

/// A program as the first word of a line to type.
pub(crate) fn typed(program: &str) -> String {
    called(&quoted(program))
}

/// PowerShell runs a quoted name only behind `&`.
fn called(command_line: &str) -> String {
    if command_line.starts_with('"') { format!("& {command_line}") } else { command_line.to_owned() }
}
