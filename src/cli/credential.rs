//! The commands about the credential itself: log in and out, look, renew, print.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::value::{amount, duration};

/// Log in and make the profile active
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qwenauth login                  choose a provider, or log in to Qwen
  qwenauth login qwen --no-browser
  qwenauth login openrouter       in a browser, or by pasting a code
  qwenauth login dashscope        asks for the API key, hidden
  qwenauth login dashscope --api-key-env DASHSCOPE_API_KEY --region cn
  pass show groq | qwenauth login groq --profile work --api-key-stdin
  qwenauth login custom --base-url http://127.0.0.1:8000/v1 --model qwen3-coder
  qwenauth login --json           events for a script, one JSON object a line
  qwenauth login --no-wait --json then, once it is approved: qwenauth login --resume

A login that waits for approval is joined by a second one: both show the same code.")]
pub(crate) struct LoginArgs {
    /// The provider to log in to; without one, chosen on a terminal, else `qwen`
    pub(crate) provider: Option<String>,
    /// Log in again although a valid login exists
    #[arg(long)]
    pub(crate) force: bool,
    /// Read the API key from stdin
    #[arg(long, conflicts_with = "api_key_env")]
    pub(crate) api_key_stdin: bool,
    /// Take the API key from this environment variable
    #[arg(long, value_name = "VAR")]
    pub(crate) api_key_env: Option<String>,
    /// Where the API lives, for `custom` or a workspace's own domain
    #[arg(long, value_name = "URL")]
    pub(crate) base_url: Option<String>,
    /// The region the key belongs to (default: found out)
    #[arg(long, value_name = "REGION", conflicts_with = "base_url")]
    pub(crate) region: Option<String>,
    /// OpenRouter: read the code that the browser shows from stdin
    #[arg(long, conflicts_with_all = ["api_key_stdin", "api_key_env"])]
    pub(crate) code_stdin: bool,
    /// OpenRouter: the name of the new key
    #[arg(long, value_name = "NAME")]
    pub(crate) key_label: Option<String>,
    /// OpenRouter: the most that the new key may spend, in US dollars
    #[arg(long, value_name = "USD", value_parser = amount)]
    pub(crate) limit: Option<String>,
    /// Do not open a browser
    #[arg(long)]
    pub(crate) no_browser: bool,
    /// Draw the verification URL as a QR code on stderr
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Qr::Auto)]
    pub(crate) qr: Qr,
    /// Copy the code, or the address where there is none, to the clipboard of the terminal (OSC 52)
    #[arg(long)]
    pub(crate) clipboard: bool,
    /// Do not prove the login with a request to the API
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// Show the code, keep the login pending and leave: for scripts and agents
    #[arg(long, conflicts_with_all = ["resume", "timeout"])]
    pub(crate) no_wait: bool,
    /// Wait for the pending login; start none
    #[arg(long)]
    pub(crate) resume: bool,
    /// Give up after this long, for example `90s` or `5m`
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// The model that `env` and `exec` name for this profile
    #[arg(long, value_name = "ID")]
    pub(crate) model: Option<String>,
    /// Print events for a script, one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Qr {
    /// When stderr is a terminal large enough
    Auto,
    Always,
    Never,
}

/// Show where the login stands
#[derive(Debug, Args)]
#[command(after_help = "Exit code: 0 if every profile shown can be used, else 4.

Examples:
  qwenauth status
  qwenauth status --all --json
  qwenauth status --check         ask the API whether it accepts the credential")]
pub(crate) struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Show every stored profile
    #[arg(long)]
    pub(crate) all: bool,
    /// Ask the API whether it accepts the credential
    #[arg(long)]
    pub(crate) check: bool,
}

/// Renew the access token now
#[derive(Debug, Args)]
#[command(after_help = "Seldom needed: `token`, `env` and `exec` renew by themselves.

Examples:
  qwenauth refresh
  qwenauth refresh --profile work")]
pub(crate) struct RefreshArgs {}

/// Remove a stored credential, revoking it where the provider can
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qwenauth logout
  qwenauth logout --all
  qwenauth logout --local         do not ask the provider to revoke")]
pub(crate) struct LogoutArgs {
    /// Remove every stored profile
    #[arg(long)]
    pub(crate) all: bool,
    /// Do not ask the provider to revoke the credential
    #[arg(long)]
    pub(crate) local: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Print an access token that is good for a while
#[derive(Debug, Args, Default)]
#[command(after_help = "Examples:
  qwenauth token
  qwenauth token --min-ttl 1h     exit code 5 if it cannot last that long
  curl -H \"$(qwenauth token --format header)\" https://portal.qwen.ai/v1/models")]
pub(crate) struct TokenArgs {
    /// How long the token must be good for (default: 30s)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) min_ttl: Option<Duration>,
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) format: TokenFormat,
    /// Hand out a key of at most 30 minutes minted from the stored one (`dashscope`)
    #[arg(long)]
    pub(crate) short_lived: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(crate) enum TokenFormat {
    /// The token alone
    #[default]
    Raw,
    /// An object with token, expiry, base URL and model
    Json,
    /// `Authorization: Bearer …`
    Header,
}
