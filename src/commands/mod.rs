//! One file per subcommand, each with `run`: translate arguments into calls, print the answer.

pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod env;
pub(crate) mod exec;
pub(crate) mod gateway;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod man;
pub(crate) mod profiles;
pub(crate) mod providers;
pub(crate) mod refresh;
pub(crate) mod sandbox;
pub(crate) mod setup;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod usage;
pub(crate) mod use_profile;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::cli::{Environment, GatewayOptions, Global, variable};
use crate::config::{self, Config, ProfileName};
use crate::credentials::{Account, Credential, Lifetime};
use crate::error::note;
use crate::gateway as proxy;
use crate::http::Network;
use crate::providers::{Ci, Provider};
use crate::secret::Secret;
use crate::setup::Places;
use crate::shell::{self, Variable};

/// What every command that touches a credential starts from.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) config: Config,
    pub(crate) environment: Environment,
    pub(crate) profile: ProfileName,
}

impl Setting {
    pub(crate) fn load(global: &Global, environment: Environment) -> Result<Self> {
        let config = Config::load(&environment)?;
        let profile = config.active(global.profile.as_deref(), &environment)?;
        Ok(Self { config, environment, profile })
    }

    /// The credential of the active profile.
    pub(crate) fn account(&self) -> Account {
        self.account_of(&self.profile)
    }

    pub(crate) fn account_of(&self, profile: &ProfileName) -> Account {
        let paths = &self.config.paths;
        Account::new(
            profile.to_string(),
            paths.credential(profile),
            paths.state.clone(),
            self.config.overrides.clone(),
            Network { ca_file: self.environment.ca_file.as_ref().map(PathBuf::from) },
            SystemTime::now,
        )
    }
}

/// Where the tools keep their files.
pub(crate) fn tool_places(setting: &Setting) -> Result<Places> {
    let home = config::home(&setting.environment)?;
    let absolute = |value: Option<OsString>| value.map(PathBuf::from).filter(|path| path.is_absolute());
    Ok(Places {
        config: absolute(setting.environment.config_home.clone()).unwrap_or_else(|| home.join(".config")),
        qwen: setting.config.paths.qwen.clone(),
        opencode_config: absolute(variable("OPENCODE_CONFIG")),
        opencode_directory: absolute(variable("OPENCODE_CONFIG_DIR")),
        codex_home: absolute(variable("CODEX_HOME")),
        claude_config: absolute(variable("CLAUDE_CONFIG_DIR")),
        home,
    })
}

/// What `token --format json`, `env` and `exec` hand out beside the token.
pub(crate) struct Endpoint {
    pub(crate) base_url: String,
    pub(crate) model: Option<String>,
}

impl Endpoint {
    /// `model`: what the user asked for, before the profile's and the provider's.
    pub(crate) fn of(account: &Account, credential: &Credential, model: Option<String>) -> Result<Self> {
        let provider: Provider = account.provider(credential)?;
        let base_url = Account::base_url(credential, &provider)?;
        Ok(Self { base_url, model: model.or_else(|| Account::model(credential, &provider)) })
    }
}

impl Setting {
    /// What `gateway` and `exec --gateway` have in common.
    pub(crate) fn gateway_options(&self, args: &GatewayOptions) -> proxy::Options {
        proxy::Options {
            tuning: proxy::Tuning { rpm: args.rpm, rpd: args.rpd, pacing: !args.no_pacing },
            max_body: args.max_body,
            replay_limit: usize::try_from(args.replay_limit).unwrap_or(usize::MAX),
            timeout: args.timeout,
            max_wait: args.max_wait,
            drain: Duration::ZERO,
            warn_at: args.warn_at,
            metrics: false,
            allow_hosts: Vec::new(),
            state: self.config.paths.state.clone(),
            ca_file: self.environment.ca_file.as_ref().map(PathBuf::from),
        }
    }
}

/// Said where a key whose terms forbid it is used unattended.
const FORBIDDEN: &str = "warning: `CI` is set, and the terms of this plan forbid unattended use: such a key may be suspended; use a pay-as-you-go key";

/// What this run has around it: where a browser opens and what is set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings {
    pub(crate) graphical: bool,
    pub(crate) ssh: bool,
    pub(crate) container: bool,
    pub(crate) ci: bool,
}

impl Surroundings {
    pub(crate) fn look() -> Self {
        let set = |name: &str| variable(name).is_some();
        let is_there = |path: &str| std::path::Path::new(path).exists();
        Self {
            graphical: cfg!(target_os = "macos") || set("DISPLAY") || set("WAYLAND_DISPLAY") || set("BROWSER"),
            ssh: set("SSH_CONNECTION") || set("SSH_TTY") || set("SSH_CLIENT"),
            container: set("container") || is_there("/.dockerenv") || is_there("/run/.containerenv"),
            ci: set("CI"),
        }
    }

    /// Only in a graphical session of this machine: not over SSH, not in CI, not where nobody looks.
    pub(crate) fn has_browser(self) -> bool {
        self.graphical && !self.ssh && !self.ci
    }

    /// The variable that holds a key of `provider`, the preferred one first.
    pub(crate) fn key_variable(provider: &Provider) -> Option<String> {
        let variables = provider.key.as_ref().map(|key| key.variables.as_slice()).unwrap_or_default();
        variables.iter().find(|name| variable(name).is_some()).cloned()
    }

    /// Whether and how `provider` works here, in a few words.
    pub(crate) fn verdict(self, provider: &Provider) -> String {
        if self.ci && provider.ci == Ci::Forbidden {
            return "not in CI: its terms forbid it".into();
        }
        if let Some(name) = Self::key_variable(provider) {
            return format!("yes: `{name}` is set");
        }
        if provider.oauth().is_some() {
            return "yes: approve on any device".into();
        }
        if provider.authorize.is_some() && !self.ci {
            return if self.has_browser() { "yes: in the browser".into() } else { "yes: by pasting a code".into() };
        }
        if provider.base_url.is_empty() {
            return "with `--base-url`".into();
        }
        match &provider.key {
            Some(key) if key.optional => "while the server runs".into(),
            _ => "with a key".into(),
        }
    }
}

/// A key for the clients of one gateway: 32 random bytes. Some clients insist on the beginning.
pub(crate) fn new_gateway_key() -> Secret {
    use base64::Engine;
    let bytes: [u8; 32] = rand::random();
    Secret::new(format!("sk-{}", base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(bytes)))
}

/// A program that reads the token once should start with one that lasts a while.
const PREFERRED: Duration = Duration::from_secs(600);

/// The variables that `env` prints and `exec` sets, with a token good for `min_ttl` or, unasked, [`PREFERRED`].
/// `short_lived`: a key minted from the stored one in its place.
pub(crate) fn group(
    setting: &Setting,
    min_ttl: Option<Duration>,
    model: Option<String>,
    short_lived: bool,
) -> Result<[Variable; 6]> {
    let account = setting.account();
    let lifetime = Lifetime::new(min_ttl, PREFERRED);
    let mut credential = account.fresh(lifetime)?;
    if short_lived {
        credential = account.short_lived(&credential, lifetime)?;
    }
    if variable("CI").is_some() && account.provider(&credential)?.ci == Ci::Forbidden {
        note(FORBIDDEN);
    }
    let endpoint = Endpoint::of(&account, &credential, model)?;
    Ok(shell::openai(&credential.access_token, &endpoint.base_url, endpoint.model.as_deref()))
}

/// Prints the answer. A closed pipe is `main`'s to judge.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to stdout")
}

/// Prints one JSON object on a line of its own.
pub(crate) fn print_json(value: &Value) -> Result<()> {
    print(&format!("{value}\n"))
}

/// RFC 3339, in UTC, to the second.
pub(crate) fn rfc3339(time: SystemTime) -> Option<String> {
    let time = jiff::Timestamp::try_from(time).ok()?;
    Some(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}
