//! The commands about the credential itself: log in and out, look, renew, print.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::value::{StoreChoice, amount, duration};

/// Headings of the options of `login`.
const KEY: &str = "Key";
const BROWSER: &str = "Browser and device";
const SCRIPTS: &str = "Scripts and CI";

/// `--profile` where it names what is stored. The option of the same name that every command has gets its value.
#[derive(Debug, Args, Default)]
pub(crate) struct StoredAs {
    /// Name under which the login is stored (default: the provider's name)
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
}

/// Log in and make the profile active
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qwenauth login                  choose a provider from a list
  qwenauth login qwen --no-browser
  qwenauth login openrouter       in a browser, or by pasting a code
  qwenauth login dashscope        asks for the API key, hidden
  qwenauth login dashscope --api-key-env DASHSCOPE_API_KEY --region cn
  pass show groq | qwenauth login groq --profile work --api-key-stdin
  qwenauth login dashscope --api-key-command 'op read op://Private/Qwen/key'
  qwenauth login dashscope --store keyring
  qwenauth login custom --base-url http://127.0.0.1:8000/v1 --model qwen3-32b
  qwenauth login openrouter --workload-identity --policy ID
                                  in a CI job, with no stored secret
  qwenauth login team --base-url https://qwen.example.com/v1 --model ID
                                  a server under a name of your choice
  qwenauth login --json           events for a script, one JSON object a line
  qwenauth login openrouter --no-wait
                                  print the address and exit
  qwenauth login --resume         finish that login after the approval

Running `login` again while one is pending shows the same code.")]
pub(crate) struct LoginArgs {
    /// Provider to log in to (default: choose from a list on a terminal, else `qwen`)
    pub(crate) provider: Option<String>,
    #[command(flatten)]
    pub(crate) stored_as: StoredAs,
    /// Log in even if already logged in
    #[arg(long)]
    pub(crate) force: bool,
    /// Read the API key from stdin; on a terminal, ask for it and do not show it
    #[arg(long, help_heading = KEY, conflicts_with = "api_key_env")]
    pub(crate) api_key_stdin: bool,
    /// Read the API key from this environment variable
    #[arg(long, help_heading = KEY, value_name = "VAR")]
    pub(crate) api_key_env: Option<String>,
    /// Command that prints the API key, run without a shell whenever the key is needed; only the command is stored
    #[arg(long, help_heading = KEY, value_name = "COMMAND", conflicts_with_all = ["api_key_stdin", "api_key_env", "store"])]
    pub(crate) api_key_command: Option<String>,
    /// Where to keep the secret (default: `store` in config.toml, else the current store, else `file`); without a key, move the
    /// stored secret there
    #[arg(long, help_heading = KEY, value_enum, value_name = "STORE")]
    pub(crate) store: Option<StoreChoice>,
    /// API base URL, for `custom` or a workspace-specific domain
    #[arg(long, help_heading = KEY, value_name = "URL")]
    pub(crate) base_url: Option<String>,
    /// Region of the key (default: detected)
    #[arg(long, help_heading = KEY, value_name = "REGION", conflicts_with = "base_url")]
    pub(crate) region: Option<String>,
    /// Log in as this CI job or pod, with its ID token instead of a secret
    #[arg(long, help_heading = SCRIPTS, conflicts_with_all = ["api_key_stdin", "api_key_env", "api_key_command", "store", "code_stdin", "key_label", "limit"])]
    pub(crate) workload_identity: bool,
    /// ID of the provider's policy that trusts this workload
    #[arg(long, help_heading = SCRIPTS, hide_short_help = true, value_name = "ID", requires = "workload_identity")]
    pub(crate) policy: Option<String>,
    /// Audience of the ID token that is requested from GitHub Actions
    #[arg(long, help_heading = SCRIPTS, hide_short_help = true, value_name = "AUDIENCE", requires = "workload_identity")]
    pub(crate) audience: Option<String>,
    /// File with the ID token, for example of a Kubernetes pod (default: request one from GitHub Actions)
    #[arg(long, help_heading = SCRIPTS, hide_short_help = true, value_name = "FILE", requires = "workload_identity", conflicts_with = "id_token_env")]
    pub(crate) id_token_file: Option<PathBuf>,
    /// Environment variable with the ID token, for example of GitLab CI
    #[arg(long, help_heading = SCRIPTS, hide_short_help = true, value_name = "VAR", requires = "workload_identity")]
    pub(crate) id_token_env: Option<String>,
    /// OpenRouter: read the code shown in the browser from stdin
    #[arg(long, help_heading = BROWSER, hide_short_help = true, conflicts_with_all = ["api_key_stdin", "api_key_env", "api_key_command"])]
    pub(crate) code_stdin: bool,
    /// OpenRouter: name of the new key
    #[arg(long, help_heading = BROWSER, hide_short_help = true, value_name = "NAME")]
    pub(crate) key_label: Option<String>,
    /// OpenRouter: spending limit of the new key, in US dollars
    #[arg(long, help_heading = BROWSER, hide_short_help = true, value_name = "USD", value_parser = amount)]
    pub(crate) limit: Option<String>,
    /// Do not open a browser
    #[arg(long, help_heading = BROWSER)]
    pub(crate) no_browser: bool,
    /// Draw the verification URL as a QR code on stderr
    #[arg(long, help_heading = BROWSER, value_enum, value_name = "WHEN", default_value_t = Qr::Auto)]
    pub(crate) qr: Qr,
    /// Copy the code, or the address if there is no code, to the terminal's clipboard (OSC 52)
    #[arg(long, help_heading = BROWSER, hide_short_help = true)]
    pub(crate) clipboard: bool,
    /// Skip the test request
    #[arg(long, help_heading = KEY, hide_short_help = true)]
    pub(crate) no_verify: bool,
    /// Print the code and exit; finish later with `--resume`
    #[arg(long, help_heading = SCRIPTS, conflicts_with_all = ["resume", "timeout"])]
    pub(crate) no_wait: bool,
    /// Finish a pending login instead of starting a new one
    #[arg(long, help_heading = SCRIPTS)]
    pub(crate) resume: bool,
    /// Give up after this long, for example `90s` or `5m` (default: until the code expires)
    #[arg(long, help_heading = SCRIPTS, hide_short_help = true, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Default model of this profile, exported by `env` and `exec`
    #[arg(long, value_name = "ID")]
    pub(crate) model: Option<String>,
    /// Print events as JSON, one object per line
    #[arg(long, help_heading = SCRIPTS)]
    pub(crate) json: bool,
}

impl LoginArgs {
    /// Whether the command line provides the API key.
    pub(crate) fn gives_key(&self) -> bool {
        self.api_key_stdin || self.api_key_env.is_some() || self.api_key_command.is_some()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Qr {
    /// If stderr is a terminal with enough room
    Auto,
    Always,
    Never,
}

/// Show login status
///
/// Exit code: 0 if every profile shown can be used, else 4.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qwenauth status
  qwenauth status --all --json
  qwenauth status --check         check that the API accepts the credential")]
pub(crate) struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Show every stored profile
    #[arg(long)]
    pub(crate) all: bool,
    /// Check with the API that it accepts the credential
    #[arg(long)]
    pub(crate) check: bool,
}

/// Renew the access token now
///
/// Rarely needed: `token`, `env` and `exec` renew automatically.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qwenauth refresh
  qwenauth refresh --profile work")]
pub(crate) struct RefreshArgs {}

/// Remove a stored credential and revoke it if the provider supports that
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

/// Print a valid access token, renewing it if necessary
#[derive(Debug, Args, Default)]
#[command(after_help = "Examples:
  qwenauth token
  qwenauth token --min-ttl 1h     exit code 5 if it cannot last that long
  qwenauth exec -- sh -c 'qwenauth token --format header |
    curl -H @- \"$OPENAI_BASE_URL/models\"'")]
pub(crate) struct TokenArgs {
    /// Minimum remaining lifetime of the token (default: 30s)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) min_ttl: Option<Duration>,
    /// Output format
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) format: TokenFormat,
    /// Use a short-lived key (at most 30 min) created from the stored one (`dashscope` only)
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
