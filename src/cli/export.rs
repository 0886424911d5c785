//! The commands that hand the credential out: to a shell, to a program, through the gateway.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};

use super::value::{Listen, address, duration, listen, number, percent, positive_duration, public_url, size};

/// Print shell statements that export the credential
#[derive(Debug, Default, Args)]
#[command(after_help = "Examples:
  eval $(qwenauth env)                                 bash, dash, zsh
  eval \"$(qwenauth env)\"                               any POSIX shell
  eval $(qwenauth env --unset)
  qwenauth env --format fish | source
  qwenauth env --format powershell | Out-String | Invoke-Expression
  qwenauth env --format nushell | from json | load-env
  eval (qwenauth env --format elvish | slurp)          elvish
  for /f \"delims=\" %i in ('qwenauth env --format cmd') do @%i
  qwenauth env --format dotenv > .env                  contains a secret
  qwenauth env --format github >> \"$GITHUB_ENV\"")]
pub(crate) struct EnvArgs {
    /// Output format (default: `sh`, on Windows that of the shell that runs qwenauth)
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) format: Option<EnvFormat>,
    /// Print statements that remove the variables
    #[arg(long)]
    pub(crate) unset: bool,
    /// Add the provider's own variables, such as `DASHSCOPE_API_KEY`, each with its base URL
    #[arg(long)]
    pub(crate) native: bool,
    /// Model to set in `OPENAI_MODEL`
    #[arg(long, value_name = "ID")]
    pub(crate) model: Option<String>,
    /// Minimum remaining lifetime of the token (default: 10m, best effort)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) min_ttl: Option<Duration>,
    /// Use a short-lived key (at most 30 min) created from the stored one (`dashscope` only)
    #[arg(long)]
    pub(crate) short_lived: bool,
}

/// The role of a gateway for the login of a team.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Serve {
    /// Renew the login of this machine and publish its access tokens
    Home,
    /// Use the access tokens that a home publishes
    Edge,
}

// The completion script of fish holds the help of values in double quotes: a `$` here would be expanded as it loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EnvFormat {
    /// bash, dash, zsh; quoted, any POSIX shell
    #[value(aliases = ["bash", "dash", "zsh"])]
    Sh,
    Fish,
    Powershell,
    /// A record for `from json | load-env`
    Nushell,
    Elvish,
    /// For a `for /f` loop
    Cmd,
    /// A `.env` file
    Dotenv,
    /// Object of names and values; null means unset
    Json,
    /// Lines for the file `GITHUB_ENV` of a GitHub Actions job, the key masked
    Github,
}

/// Run a program with the credential in its environment
///
/// Sets `OPENAI_API_KEY`, `OPENAI_BASE_URL`, `OPENAI_API_BASE` and `OPENAI_MODEL`; removes `OPENAI_ORG_ID`,
/// `OPENAI_PROJECT`, `OPENAI_PROJECT_ID` and `OPENAI_CUSTOM_HEADERS`. On Unix the program replaces this process: same PID,
/// signals, terminal and exit code.
///
/// A known program (opencode, qwen, codex, claude, aider, llm, goose, crush, cn, cline, pi) also gets the settings with
/// which it uses the profile's host and model, without a `setup`; this also works through npx, uvx, env, timeout and nice.
///
/// With `--gateway` the program gets a URL and key that are valid for this run only. The gateway renews the credential,
/// keeps it secret and respects the provider's limits.
#[derive(Debug, Default, Args)]
#[command(mut_group("GatewayOptions", |options| options.requires("gateway").conflicts_with("short_lived")))]
#[command(after_help = "Examples:
  qwenauth exec -- opencode
  qwenauth exec --gateway -- opencode
  qwenauth exec --model coder-model -- aider
  qwenauth exec -- npx opencode-ai run 'explain this repository'
  qwenauth exec --as claude -- ./my-claude")]
pub(crate) struct ExecArgs {
    /// Run the program behind its own gateway, so that it never sees the credential
    #[arg(long)]
    pub(crate) gateway: bool,
    /// Keep the key and base URL if either is already set, whatever their names
    #[arg(long)]
    pub(crate) preserve_env: bool,
    /// Add the provider's own variables, such as `DASHSCOPE_API_KEY`, each with its base URL
    #[arg(long)]
    pub(crate) native: bool,
    /// Model to set in `OPENAI_MODEL`
    #[arg(long, value_name = "ID")]
    pub(crate) model: Option<String>,
    /// Minimum remaining lifetime of the token (default: 10m, best effort)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) min_ttl: Option<Duration>,
    /// Use a short-lived key (at most 30 min) created from the stored one (`dashscope` only)
    #[arg(long, conflicts_with = "gateway")]
    pub(crate) short_lived: bool,
    /// Treat CMD as this known program, if its name does not show it
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) r#as: Option<String>,
    /// Start a known program even if one of its files or options overrides host or key
    #[arg(long)]
    pub(crate) allow_env_file: bool,
    /// Show which variables were set
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<OsString>,
    // Last, because its heading is that of everything behind it.
    #[command(flatten)]
    pub(crate) gateway_options: GatewayOptions,
}

/// What the gateway does with requests, alone or under `exec --gateway`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Gateway")]
pub(crate) struct GatewayOptions {
    /// Requests per minute (default: the provider's known limit)
    #[arg(long, value_name = "N", value_parser = number(1..=u32::MAX))]
    pub(crate) rpm: Option<u32>,
    /// Requests per day; further requests are rejected
    #[arg(long, value_name = "N", value_parser = number(1..=u32::MAX))]
    pub(crate) rpd: Option<u32>,
    /// Count requests without delaying any
    #[arg(long, hide_short_help = true)]
    pub(crate) no_pacing: bool,
    /// Longest `Retry-After` to honor; longer ones are forwarded to the client
    #[arg(long, hide_short_help = true, value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub(crate) max_wait: Duration,
    /// Timeout for the first byte of a response and between chunks
    #[arg(long, hide_short_help = true, value_name = "DURATION", value_parser = positive_duration, default_value = "300s")]
    pub(crate) timeout: Duration,
    /// Maximum size of a request body
    #[arg(long, hide_short_help = true, value_name = "SIZE", value_parser = size, default_value = "64MiB")]
    pub(crate) max_body: u64,
    /// Largest body kept in memory for retries
    #[arg(long, hide_short_help = true, value_name = "SIZE", value_parser = size, default_value = "8MiB")]
    pub(crate) replay_limit: u64,
    /// Write one JSON line per request to this file (`-`: stdout), never a body or a key
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) log: Option<PathBuf>,
    /// Profiles to use when the limit or plan of this one is used up or its service is down, for the models in
    /// `[fallback.models]` of config.toml
    #[arg(long, value_name = "PROFILE", value_delimiter = ',')]
    pub(crate) fallback: Vec<String>,
    /// Warn once a day, and run the hook `limit_near`, when this share of the daily limit is used (default: never)
    #[arg(long, hide_short_help = true, value_name = "PERCENT", value_parser = percent)]
    pub(crate) warn_at: Option<u8>,
}

/// As in the attributes above; a test compares them.
impl Default for GatewayOptions {
    fn default() -> Self {
        Self {
            rpm: None,
            rpd: None,
            no_pacing: false,
            max_wait: Duration::from_secs(60),
            timeout: Duration::from_secs(300),
            max_body: 64 << 20,
            replay_limit: 8 << 20,
            log: None,
            fallback: Vec::new(),
            warn_at: None,
        }
    }
}

/// Run a local OpenAI-compatible proxy that holds the credential
///
/// Prints the base URL and the key, then serves until Ctrl-C. Clients use that key. The gateway renews
/// the credential, never reveals it, and delays requests that would exceed a provider limit. Clients of Anthropic's
/// protocol use the URL without `/v1`. `/healthz` (the process is alive) and `/readyz` (a credential is available) need no
/// key.
///
/// With `--tls-cert` and `--tls-key` it serves HTTPS (TLS 1.2 and 1.3); without them, addresses other than loopback require
/// `--plain-http`. A changed certificate is used from the next connection on.
///
/// Without a controlling terminal, SIGHUP reloads the key file, the certificates and the credential, and reopens the log.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qwenauth gateway
  qwenauth gateway --listen 127.0.0.1:8399 --api-key-file ~/.gateway-key
  qwenauth gateway --log ~/gateway.jsonl
  qwenauth gateway --install       start it now and with each session
  qwenauth gateway --all-profiles --metrics
  qwenauth gateway --listen 0.0.0.0:8443 --tls-cert cert.pem --tls-key key.pem
  qwenauth gateway --listen unix:/run/user/1000/qwenauth.sock
  qwenauth gateway --keys          a key per person and job: `qwenauth keys`
  qwenauth exec --gateway -- opencode
                                   one program, with a gateway of its own")]
pub(crate) struct GatewayArgs {
    /// Address to listen on (port 0 picks a free port), or `unix:PATH` for a socket of this user (not on Windows)
    #[arg(long, value_name = "ADDR", value_parser = listen, default_value = "127.0.0.1:0")]
    pub(crate) listen: Listen,
    /// Serve HTTPS with the certificate in this PEM file (reloaded when it changes)
    #[arg(long, value_name = "FILE", requires = "tls_key", value_hint = ValueHint::FilePath)]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key of the certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert", value_hint = ValueHint::FilePath)]
    pub(crate) tls_key: Option<PathBuf>,
    /// Accept only clients with a certificate from a CA in this file
    #[arg(long, value_name = "FILE", requires = "tls_cert", value_hint = ValueHint::FilePath)]
    pub(crate) tls_client_ca: Option<PathBuf>,
    /// URL that clients use for the gateway (default: from the certificate's first name)
    #[arg(long, value_name = "URL", value_parser = public_url)]
    pub(crate) public_url: Option<String>,
    /// Allow unencrypted HTTP on addresses other than loopback
    #[arg(long)]
    pub(crate) plain_http: bool,
    /// Count limits together with other gateways, on the Redis or Valkey server in `[team] shared` of config.toml or in
    /// `QWENAUTH_SHARED_URL`
    #[arg(long)]
    pub(crate) shared: bool,
    /// With `--shared`: renew the login of this machine for the other gateways (`home`), or use the tokens of a gateway that
    /// does (`edge`) (default: `home` if the profile is logged in here, else `edge`)
    #[arg(long, value_name = "ROLE", requires = "shared")]
    pub(crate) serve: Option<Serve>,
    /// Persist the key in this file; it is not printed
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Print the key of `--api-key-file` as well
    #[arg(long, requires = "api_key_file")]
    pub(crate) show_key: bool,
    /// Accept the keys of `qwenauth keys`, each within its limits, which are counted on this machine or, with `--shared`,
    /// together with the other gateways
    #[arg(long)]
    pub(crate) keys: bool,
    /// With `--keys`: add a metric for the budget of each key
    #[arg(long, requires = "keys")]
    pub(crate) metrics_keys: bool,
    /// Also accept this `Host` header; can be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) allow_host: Vec<String>,
    /// Serve every stored profile, at `/p/NAME/v1`
    #[arg(long)]
    pub(crate) all_profiles: bool,
    /// Serve Prometheus metrics at `/metrics` (requires the key)
    #[arg(long)]
    pub(crate) metrics: bool,
    /// Also serve metrics, `/healthz` and `/readyz` at this address, without a key
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) metrics_listen: Option<std::net::SocketAddr>,
    /// Time for open requests to finish after Ctrl-C
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s")]
    pub(crate) drain: Duration,
    /// Install and start it as a user service with these options (systemd, launchd)
    #[arg(long, conflicts_with = "uninstall")]
    pub(crate) install: bool,
    /// Stop the service and remove it
    #[arg(long)]
    pub(crate) uninstall: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) options: GatewayOptions,
}

/// Show gateway usage and remaining limits
///
/// Counts gateway traffic of all processes; other use of the account is not included.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qwenauth usage
  qwenauth usage --days 30 --json
  qwenauth usage --check          query the provider for the remaining quota
  qwenauth usage --team           the usage of each key of `qwenauth keys`
  qwenauth usage --team --by owner --days 30 --json")]
pub(crate) struct UsageArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Number of days, including today
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = number(1..=3660))]
    pub(crate) days: u32,
    /// Query the provider for the remaining quota, if supported
    #[arg(long)]
    pub(crate) check: bool,
    /// Show the usage of the keys of people and jobs
    #[arg(long, conflicts_with = "check")]
    pub(crate) team: bool,
    /// With `--team`: group the usage by this (default: key)
    #[arg(long, value_enum, value_name = "WHAT", requires = "team", conflicts_with = "check")]
    pub(crate) by: Option<UsageBy>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum UsageBy {
    Key,
    Owner,
    Profile,
    Model,
    Day,
}

impl UsageBy {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Owner => "owner",
            Self::Profile => "profile",
            Self::Model => "model",
            Self::Day => "day",
        }
    }
}
