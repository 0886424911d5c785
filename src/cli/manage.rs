//! The commands that arrange things: providers, profiles, tools, shells, the doctor, the sandbox.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};

use super::value::{duration, own_address, public_url, variable_name};

/// `--profile` for commands that do not use it: accepted as everywhere, but not in the help.
#[derive(Debug, Args)]
pub(crate) struct NoProfile {
    /// Use this profile instead of the active one
    #[arg(long, hide = true, value_name = "NAME")]
    profile: Option<String>,
}

/// Compare the known providers: price, limits, CI, login methods available here
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qwenauth providers
  qwenauth providers dashscope    regions, models, where to get a key")]
pub(crate) struct ProvidersArgs {
    #[command(flatten)]
    pub(crate) no_profile: NoProfile,
    /// Show all details of this provider
    pub(crate) name: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the Markdown table of docs/providers.md: login methods, and how they were tested
    #[arg(long, hide = true, conflicts_with_all = ["json", "name"])]
    pub(crate) markdown: bool,
}

/// List the stored profiles
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qwenauth profiles
  qwenauth profiles --json")]
pub(crate) struct ProfilesArgs {
    #[command(flatten)]
    pub(crate) no_profile: NoProfile,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Make a stored profile the active one
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qwenauth use openrouter
  qwenauth use qwen")]
pub(crate) struct UseArgs {
    #[command(flatten)]
    pub(crate) no_profile: NoProfile,
    /// The profile, as `qwenauth profiles` lists it
    pub(crate) name: String,
}

/// Configure a tool to use the active profile
///
/// Configured automatically: opencode, qwen-code, codex, claude-code. Comments, order and your settings are kept, and no
/// key is written, only the command that prints one. Printed for you to paste: aider, llm, crush, goose, continue, zed,
/// cline.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qwenauth setup                  list the tools and how they are configured
  qwenauth setup opencode
  qwenauth setup codex --print    show what would be written
  qwenauth setup codex --remove   undo it
  qwenauth setup opencode --gateway
                                  through `qwenauth gateway`
  qwenauth setup opencode --gateway-url https://qwen.example.com --model ID
                                  through a team's gateway, with the key in
                                  `QWENAUTH_TEAM_KEY`")]
pub(crate) struct SetupArgs {
    /// The tool (default: list them)
    pub(crate) tool: Option<String>,
    /// Print what would be written and change nothing
    #[arg(long, requires = "tool")]
    pub(crate) print: bool,
    /// Undo what was written
    #[arg(long, requires = "tool", conflicts_with_all = ["print", "model", "gateway", "gateway_url"])]
    pub(crate) remove: bool,
    /// With `--remove`: also discard later manual edits
    #[arg(long, requires = "remove", conflicts_with_all = ["print", "model", "gateway", "gateway_url"])]
    pub(crate) force: bool,
    /// The model the tool starts with
    #[arg(long, value_name = "ID", requires = "tool")]
    pub(crate) model: Option<String>,
    /// Use a gateway at this address; its key is kept in a file
    #[arg(long, value_name = "ADDR", requires = "tool", num_args = 0..=1, require_equals = true, default_missing_value = GATEWAY_ADDRESS, value_parser = own_address)]
    pub(crate) gateway: Option<std::net::SocketAddr>,
    /// Use the gateway of a team at this URL, with the key of its `--key-env` or `--key-file`; needs `--model`
    #[arg(long, value_name = "URL", requires = "tool", conflicts_with = "gateway", value_parser = public_url)]
    pub(crate) gateway_url: Option<String>,
    /// Variable from which the tool reads the team's key (default: `QWENAUTH_TEAM_KEY`)
    #[arg(long, value_name = "VAR", requires = "gateway_url", conflicts_with_all = ["key_file", "gateway", "remove"], value_parser = variable_name)]
    pub(crate) key_env: Option<String>,
    /// File with the team's key
    #[arg(long, value_name = "FILE", requires = "gateway_url", conflicts_with_all = ["gateway", "remove"], value_hint = ValueHint::FilePath)]
    pub(crate) key_file: Option<PathBuf>,
    /// Print the list as JSON
    #[arg(long, conflicts_with = "tool")]
    pub(crate) json: bool,
}

/// Default variable for the key of a team's gateway.
pub(crate) const TEAM_KEY: &str = "QWENAUTH_TEAM_KEY";

/// Address of the gateway for tools that are set up with `--gateway`: 7936 spells `QWEN` on a telephone.
pub(crate) const GATEWAY_ADDRESS: &str = "127.0.0.1:7936";

/// Diagnose login problems
///
/// Checks files, locks, the environment, the clock and the servers of the active profile. If a proxy fails, the server is
/// also tried directly. The output contains no secrets and is safe to share. Exit code: 1 if a check fails, otherwise 0.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qwenauth doctor
  qwenauth doctor --fix           fix file modes, stale locks, leftover files
  qwenauth doctor --team          check the gateway of the team as well
  qwenauth doctor --json")]
pub(crate) struct DoctorArgs {
    /// Fix local problems: file modes, stale locks, leftover files, abandoned logins
    #[arg(long)]
    pub(crate) fix: bool,
    /// Check the team's gateway that the active profile is logged in to: reachable, ready, its certificate
    #[arg(long)]
    pub(crate) team: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Try qwenauth with a local practice provider: no account, no network
///
/// Inside the sandbox every `qwenauth …` uses the practice provider; your files and logins are not touched.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qwenauth sandbox --tour         watch login, status, exec, token and others
  qwenauth sandbox                a shell to try things in
  qwenauth sandbox -- sh -c 'qwenauth login && qwenauth exec -- env'

On a terminal a login waits for your approval, there or in a browser; otherwise it is approved immediately.")]
pub(crate) struct SandboxArgs {
    #[command(flatten)]
    pub(crate) no_profile: NoProfile,
    /// Show each command with its real output, then exit
    #[arg(long, conflicts_with = "command")]
    pub(crate) tour: bool,
    /// Never approve automatically; wait for the approval page
    #[arg(long, conflicts_with = "tour")]
    pub(crate) no_approve: bool,
    /// Lifetime of the practice provider's access tokens
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    pub(crate) expires_in: Duration,
    /// The program to run inside (default: your shell)
    #[arg(trailing_var_arg = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<OsString>,
}

/// Print a shell completion script
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mkdir -p ~/.local/share/bash-completion/completions
  qwenauth completions bash > \\
    ~/.local/share/bash-completion/completions/qwenauth

Without the package bash-completion, in ~/.bashrc:
  eval \"$(qwenauth completions bash)\"

In fish:
  mkdir -p ~/.config/fish/completions
  qwenauth completions fish > ~/.config/fish/completions/qwenauth.fish

With `fpath+=~/.zfunc` in ~/.zshrc, before `compinit`:
  mkdir -p ~/.zfunc
  qwenauth completions zsh > ~/.zfunc/_qwenauth

In the start-up file of PowerShell, elvish or nushell:
  qwenauth completions powershell | Out-String | Invoke-Expression
  eval (qwenauth completions elvish | slurp)
  qwenauth completions nushell | save -f ~/.qwenauth.nu; source ~/.qwenauth.nu")]
pub(crate) struct CompletionsArgs {
    #[command(flatten)]
    pub(crate) no_profile: NoProfile,
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
    Powershell,
    Elvish,
    Nushell,
}
