//! What can be typed: clap types and the environment variables, and nothing else.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Failed, Failure};
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const ENVIRONMENT: &str = "\
Environment:
  QWENAUTH_PROFILE         the active profile, unless `--profile` names one
  QWENAUTH_HOME            one directory for config, data and state (default: the XDG directories)
  QWEN_HOME                where Qwen Code keeps `oauth_creds.json` (default: `~/.qwen`)
  QWENAUTH_QWEN_OAUTH_URL  the Qwen OAuth server (default: https://chat.qwen.ai)
  QWENAUTH_LOG             log to stderr: error, warn, info, debug or trace
  QWENAUTH_CA_FILE         certificates (PEM) to trust beside the system's
  SSL_CERT_FILE, SSL_CERT_DIR
                           certificates (PEM) to trust instead of the system's
  HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY
                           proxies; never used for a server on this machine
  BROWSER                  the browser that `login` opens
  NO_COLOR, CLICOLOR_FORCE
                           colour never, colour always

Exit codes:
  0  done
  1  anything else: no permission, disk full, a refused URL
  2  usage
  3  temporary: the same command may work later, nothing was lost
  4  login required: `qwenauth login`
  5  the asked `--min-ttl` cannot be met
  126, 127  `exec`: cannot run, not found";

/// Log in to Qwen models once and hand the credential to any tool
#[derive(Debug, Parser)]
#[command(name = "qwenauth", version, styles = STYLES, after_help = "Start with `qwenauth login`, or without an account: `qwenauth sandbox --tour`.", after_long_help = ENVIRONMENT, subcommand_required = true, arg_required_else_help = true, max_term_width = 100, disable_help_subcommand = false)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// What was typed. `qwenauth token` alone, which other programs call again and again, needs no parser.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        let mut arguments = std::env::args_os().skip(1);
        if arguments.next().is_some_and(|first| first == "token") && arguments.next().is_none() {
            return Ok(Self { global: Global::default(), command: Command::Token(TokenArgs::default()) });
        }
        Self::try_parse()
    }
}

/// What is wrong with the command line, in the words of every other error; `None` for help and version.
pub(crate) fn usage_error(error: &clap::Error) -> Option<Failed> {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    if matches!(error.kind(), DisplayHelp | DisplayHelpOnMissingArgumentOrSubcommand | DisplayVersion) {
        return None;
    }
    let text = error.render().to_string();
    let (said, usage) = text.split_once("\n\n").unwrap_or((&text, ""));
    let literals = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").replace('\'', "`");
    let tip = usage.lines().find_map(|line| line.trim().strip_prefix("tip: ")).map(literals);
    let hint = tip.unwrap_or_else(|| match usage.lines().find_map(|line| line.strip_prefix("Usage: ")) {
        Some(usage) => format!("usage: `{}`; more with `--help`", usage.trim()),
        None => "`--help` behind the command says what it takes".into(),
    });
    Some(Failed::new(Failure::Usage, literals(said.trim_start_matches("error: "))).hint(hint))
}

/// Options of every command.
#[derive(Debug, Args, Default)]
pub(crate) struct Global {
    /// Use this profile instead of the active one
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) profile: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Login(LoginArgs),
    Status(StatusArgs),
    Refresh(RefreshArgs),
    Logout(LogoutArgs),
    Token(TokenArgs),
    Env(EnvArgs),
    Exec(ExecArgs),
    Gateway(GatewayArgs),
    Usage(UsageArgs),
    Providers(ProvidersArgs),
    Profiles(ProfilesArgs),
    Use(UseArgs),
    Setup(SetupArgs),
    Doctor(DoctorArgs),
    Sandbox(SandboxArgs),
    Completions(CompletionsArgs),
    /// Print names for a completion script
    #[command(name = "__complete", hide = true)]
    Complete {
        names: Names,
    },
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Man {
        directory: PathBuf,
    },
}

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

/// Print shell statements that export the credential
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  eval $(qwenauth env)                                 bash, dash, zsh
  eval \"$(qwenauth env)\"                               any POSIX shell
  eval $(qwenauth env --unset)
  qwenauth env --format fish | source
  qwenauth env --format powershell | Out-String | Invoke-Expression
  qwenauth env --format nushell | from json | load-env
  eval (qwenauth env --format elvish | slurp)          elvish
  for /f \"delims=\" %i in ('qwenauth env --format cmd') do @%i
  qwenauth env --format dotenv > .env                  the file holds a secret
  qwenauth env --format github >> \"$GITHUB_ENV\"")]
pub(crate) struct EnvArgs {
    /// The shell or file that will read it
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = EnvFormat::Sh)]
    pub(crate) format: EnvFormat,
    /// Print statements that remove the variables
    #[arg(long)]
    pub(crate) unset: bool,
    /// The model to name in `OPENAI_MODEL`
    #[arg(long, value_name = "ID")]
    pub(crate) model: Option<String>,
    /// How long the token must be good for (default: 10m if it can be had)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) min_ttl: Option<Duration>,
    /// Hand out a key of at most 30 minutes minted from the stored one (`dashscope`)
    #[arg(long)]
    pub(crate) short_lived: bool,
}

// The completion script of fish holds the help of values in double quotes: a `$` here would be expanded as it loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EnvFormat {
    /// bash, dash, zsh; quoted, any POSIX shell
    Sh,
    Fish,
    Powershell,
    /// A record for `from json | load-env`
    Nushell,
    Elvish,
    /// For a `for /f` loop
    Cmd,
    /// An `.env` file
    Dotenv,
    /// An object of names and values, null for what is to be removed
    Json,
    /// Lines for the file `GITHUB_ENV` of a GitHub Actions job, the key masked
    Github,
}

/// Run a program with the credential in its environment
#[derive(Debug, Args)]
#[command(
    after_help = "Sets OPENAI_API_KEY, OPENAI_BASE_URL, OPENAI_API_BASE and OPENAI_MODEL; removes OPENAI_ORG_ID and
OPENAI_PROJECT. On Unix the program takes this process over: same PID, signals, terminal, exit code.

With `--gateway` the program gets a key and a URL that are good for this run only, and a gateway beside it keeps the
credential fresh, within the provider's limits and to itself.

Examples:
  qwenauth exec -- opencode
  qwenauth exec --gateway -- opencode
  qwenauth exec --model coder-model -- aider"
)]
pub(crate) struct ExecArgs {
    /// Keep the credential in a gateway that lives as long as the program
    #[arg(long)]
    pub(crate) gateway: bool,
    /// Leave key and base URL alone if either is set already
    #[arg(long)]
    pub(crate) preserve_env: bool,
    /// The model to name in `OPENAI_MODEL`
    #[arg(long, value_name = "ID")]
    pub(crate) model: Option<String>,
    /// How long the token must be good for (default: 10m if it can be had)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) min_ttl: Option<Duration>,
    #[command(flatten)]
    pub(crate) gateway_options: GatewayOptions,
    /// Hand out a key of at most 30 minutes minted from the stored one (`dashscope`)
    #[arg(long)]
    pub(crate) short_lived: bool,
    /// Say which variables were set
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<OsString>,
}

/// What the gateway does with requests, alone or under `exec --gateway`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Gateway")]
pub(crate) struct GatewayOptions {
    /// Requests a minute, instead of what is known of the provider
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rpm: Option<u32>,
    /// Requests a day, after which the gateway refuses
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rpd: Option<u32>,
    /// Count requests, but let none wait
    #[arg(long)]
    pub(crate) no_pacing: bool,
    /// Longest wait that the provider may ask for before it is asked again
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub(crate) max_wait: Duration,
    /// Longest time until an answer begins, and between two pieces of it
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "300s")]
    pub(crate) timeout: Duration,
    /// Longest request
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "64MiB")]
    pub(crate) max_body: u64,
    /// Longest request that is kept to be sent again
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "8MiB")]
    pub(crate) replay_limit: u64,
    /// Say so, once a day, when this much of the day's limit is used
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub(crate) warn_at: Option<u8>,
}

/// Serve an OpenAI-compatible API on this machine that keeps the credential to itself
#[derive(Debug, Args)]
#[command(
    after_help = "Prints the base URL and the key, then serves until Ctrl-C. Clients get the key; the credential stays here, is renewed
as needed, and requests wait where they would break a limit of the provider. `/healthz` answers without the key.

Examples:
  qwenauth gateway
  qwenauth gateway --listen 127.0.0.1:8399 --api-key-file ~/.config/gateway-key
  qwenauth gateway --all-profiles --metrics
  qwenauth exec --gateway -- opencode      one program, with a gateway of its own"
)]
pub(crate) struct GatewayArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", value_parser = address, default_value = "127.0.0.1:0")]
    pub(crate) listen: std::net::SocketAddr,
    /// Keep the key in this file over restarts
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Answer to this host name as well; can be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) allow_host: Vec<String>,
    /// Serve every stored profile, at `/p/NAME/v1`
    #[arg(long)]
    pub(crate) all_profiles: bool,
    /// Serve counters for Prometheus at `/metrics`, behind the key
    #[arg(long)]
    pub(crate) metrics: bool,
    /// How long requests may take to finish after Ctrl-C
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s")]
    pub(crate) drain: Duration,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) options: GatewayOptions,
}

/// Show what passed through the gateway and what limits leave
#[derive(Debug, Args)]
#[command(
    after_help = "Counts what passed through the gateway, of all processes; what else uses the account is not seen.

Examples:
  qwenauth usage
  qwenauth usage --days 30 --json
  qwenauth usage --check          ask the provider what is left, where it can be asked"
)]
pub(crate) struct UsageArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// How many days, today included
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=3660))]
    pub(crate) days: u32,
    /// Ask the provider what is left, where it can be asked
    #[arg(long)]
    pub(crate) check: bool,
}

/// Compare the known providers: price, limits, CI, what works here
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qwenauth providers
  qwenauth providers dashscope    regions, models, where to get a key")]
pub(crate) struct ProvidersArgs {
    /// Show this one in full
    pub(crate) name: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the Markdown table of the README: how each is logged in to, and how far that was tried
    #[arg(long, hide = true, conflicts_with_all = ["json", "name"])]
    pub(crate) markdown: bool,
}

/// List the stored profiles
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qwenauth profiles
  qwenauth profiles --json")]
pub(crate) struct ProfilesArgs {
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
    /// The profile, as `qwenauth profiles` lists it
    pub(crate) name: String,
}

/// Set up a tool to use the active profile
#[derive(Debug, Args)]
#[command(
    after_help = "Written: opencode, qwen-code, codex, claude-code. Their files keep comments, order and what is yours; a key is
never written, only how to ask for one. Printed, to paste: aider, llm, crush, goose, continue, zed, cline.

Examples:
  qwenauth setup                  what is installed, what is set up
  qwenauth setup opencode
  qwenauth setup codex --print    show what would be written
  qwenauth setup codex --remove   undo it
  qwenauth setup opencode --gateway
                                  through `qwenauth gateway`, which paces and renews"
)]
pub(crate) struct SetupArgs {
    /// The tool (default: list them)
    pub(crate) tool: Option<String>,
    /// Print what would be written and change nothing
    #[arg(long, requires = "tool")]
    pub(crate) print: bool,
    /// Undo what was written
    #[arg(long, requires = "tool", conflicts_with_all = ["print", "model", "gateway"])]
    pub(crate) remove: bool,
    /// With `--remove`: also what was edited by hand since
    #[arg(long, requires = "remove")]
    pub(crate) force: bool,
    /// The model the tool starts with
    #[arg(long, value_name = "ID", requires = "tool")]
    pub(crate) model: Option<String>,
    /// Use a gateway on this address, whose key stays in a file
    #[arg(long, value_name = "ADDR", requires = "tool", num_args = 0..=1, require_equals = true, default_missing_value = GATEWAY)]
    pub(crate) gateway: Option<std::net::SocketAddr>,
    /// Print the list as JSON
    #[arg(long, conflicts_with = "tool")]
    pub(crate) json: bool,
}

/// Where tools that are set up with `--gateway` look for it: 7936 spells `QWEN` on a telephone.
const GATEWAY: &str = "127.0.0.1:7936";

/// Look for what keeps a login from working
#[derive(Debug, Args)]
#[command(
    after_help = "Looks at files, locks, the environment, the clock and the servers of the active profile. A server that a proxy does not
lead to is asked without the proxy as well. What is printed has no secret in it and can be pasted. Exit code: 1 if something is
broken, else 0.

Examples:
  qwenauth doctor
  qwenauth doctor --fix           repair modes, stale locks and leftovers on this machine
  qwenauth doctor --json"
)]
pub(crate) struct DoctorArgs {
    /// Repair what is local: modes, stale locks, leftover files, logins nobody completed
    #[arg(long)]
    pub(crate) fix: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Try everything against a practice provider on this machine: no account, no network
#[derive(Debug, Args)]
#[command(after_help = "Inside the sandbox every `qwenauth …` uses the practice provider; nothing of yours is touched.

Examples:
  qwenauth sandbox --tour         watch login, status, exec, refresh, token, env and logout
  qwenauth sandbox                a shell to try things in
  qwenauth sandbox -- sh -c 'qwenauth login && qwenauth exec -- env'

A login waits for your approval in a browser where there is a terminal, and is approved at once where there is none.")]
pub(crate) struct SandboxArgs {
    /// Show each command with its real output, then leave
    #[arg(long, conflicts_with = "command")]
    pub(crate) tour: bool,
    /// Approve nothing by itself, even without a terminal: every login waits for the page
    #[arg(long, conflicts_with = "tour")]
    pub(crate) no_approve: bool,
    /// How long access tokens of the practice provider live
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    pub(crate) expires_in: Duration,
    /// The program to run inside (default: your shell)
    #[arg(trailing_var_arg = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<OsString>,
}

/// Print a completion script
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qwenauth completions bash > ~/.local/share/bash-completion/completions/qwenauth
  qwenauth completions zsh > \"${fpath[1]}/_qwenauth\"
  qwenauth completions fish > ~/.config/fish/completions/qwenauth.fish")]
pub(crate) struct CompletionsArgs {
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

/// What a completion script asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Names {
    Profiles,
    Providers,
    Tools,
}

/// `30s`, `10m`, `1h 30m`, or a bare number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let parsed: jiff::SignedDuration =
        text.parse().map_err(|_| "not a duration; write it like `30s`, `10m` or `1h30m`".to_owned())?;
    Duration::try_from(parsed).map_err(|_| "a duration cannot be negative".to_owned())
}

/// `64MiB`, `8 MB`, `512k`, or a bare number of bytes; a unit stands for a power of 1024.
fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return Err("not a size; write it like `64MiB`".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "not a size; write it like `64MiB`".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

/// `80%` or `80`.
fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim().parse().ok();
    number.filter(|number| (1..=100).contains(number)).ok_or_else(|| "not a percentage; write it like `80%`".to_owned())
}

/// `127.0.0.1:8399`, `[::1]:8399`, `localhost:8399`, `:8399`, `8399` or an address with port 0 left out.
fn address(text: &str) -> Result<std::net::SocketAddr, String> {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    if let Ok(address) = text.replacen("localhost", "127.0.0.1", 1).parse() {
        return Ok(address);
    }
    if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse() {
        return Ok(SocketAddr::new(loopback, port));
    }
    let ip = text.trim_start_matches('[').trim_end_matches(']').replace("localhost", "127.0.0.1");
    ip.parse().map(|ip| SocketAddr::new(ip, 0)).map_err(|_| "not an address; write it like `127.0.0.1:8399`".to_owned())
}

/// A positive amount of money.
fn amount(text: &str) -> Result<String, String> {
    match text.parse::<f64>() {
        Ok(amount) if amount > 0.0 && amount.is_finite() => Ok(text.to_owned()),
        _ => Err("not an amount above 0, such as `5` or `2.50`".to_owned()),
    }
}

/// The environment variables the program reads, all of them, read once.
/// An empty value counts as not set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    pub(crate) home: Option<OsString>,
    pub(crate) profile: Option<OsString>,
    pub(crate) qwenauth_home: Option<OsString>,
    pub(crate) qwen_home: Option<OsString>,
    pub(crate) config_home: Option<OsString>,
    pub(crate) data_home: Option<OsString>,
    pub(crate) state_home: Option<OsString>,
    pub(crate) qwen_oauth_url: Option<OsString>,
    pub(crate) ca_file: Option<OsString>,
    pub(crate) log: Option<OsString>,
}

impl Environment {
    pub(crate) fn read() -> Self {
        Self {
            home: variable("HOME"),
            profile: variable("QWENAUTH_PROFILE"),
            qwenauth_home: variable("QWENAUTH_HOME"),
            qwen_home: variable("QWEN_HOME"),
            config_home: variable("XDG_CONFIG_HOME"),
            data_home: variable("XDG_DATA_HOME"),
            state_home: variable("XDG_STATE_HOME"),
            qwen_oauth_url: variable("QWENAUTH_QWEN_OAUTH_URL"),
            ca_file: variable("QWENAUTH_CA_FILE"),
            log: variable("QWENAUTH_LOG"),
        }
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_addresses_and_percentages_are_read() {
        for (text, bytes) in [("7", 7), ("1k", 1024), ("64MiB", 64 << 20), ("8 mb", 8 << 20)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        assert!(size("x").is_err() && size("-1").is_err() && size("99999999999G").is_err());
        for text in ["127.0.0.1:80", "localhost:80", ":80", "80"] {
            assert_eq!(address(text).unwrap().to_string(), "127.0.0.1:80", "{text}");
        }
        assert_eq!(address("::1").unwrap().to_string(), "[::1]:0");
        assert!(address("example.com:80").is_err() && address("").is_err());
        assert_eq!((percent("80%"), percent("80")), (Ok(80), Ok(80)));
        assert!(percent("0").is_err() && percent("101%").is_err());
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert!(duration("-1s").is_err());
        assert!(duration("soon").is_err());
    }
}
