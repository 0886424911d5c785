//! One file per subcommand, each with `run`: translate arguments into calls, print the answer.

pub(crate) mod completions;
pub(crate) mod env;
pub(crate) mod exec;
pub(crate) mod gateway;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod man;
pub(crate) mod refresh;
pub(crate) mod sandbox;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod usage;

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::cli::{Environment, GatewayOptions, Global};
use crate::config::{Config, ProfileName};
use crate::credentials::{Account, Credential, Lifetime};
use crate::gateway as proxy;
use crate::http::Network;
use crate::providers::Provider;
use crate::secret::Secret;
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

/// What `token --format json`, `env` and `exec` hand out beside the token.
pub(crate) struct Endpoint {
    pub(crate) base_url: String,
    pub(crate) model: Option<String>,
}

impl Endpoint {
    /// `model`: what the user asked for, before the profile's and the provider's.
    pub(crate) fn of(account: &Account, credential: &Credential, model: Option<String>) -> Result<Self> {
        let provider: Provider = account.provider(credential)?;
        let base_url = provider.base_url(credential.resource_url.as_deref())?;
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

/// A key for the clients of one gateway: 32 random bytes. Some clients insist on the beginning.
pub(crate) fn new_gateway_key() -> Secret {
    use base64::Engine;
    let bytes: [u8; 32] = rand::random();
    Secret::new(format!("sk-{}", base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(bytes)))
}

/// A program that reads the token once should start with one that lasts a while.
const PREFERRED: Duration = Duration::from_secs(600);

/// The variables that `env` prints and `exec` sets, with a token good for `min_ttl` or, unasked, [`PREFERRED`].
pub(crate) fn group(setting: &Setting, min_ttl: Option<Duration>, model: Option<String>) -> Result<[Variable; 6]> {
    let account = setting.account();
    let credential = account.fresh(Lifetime::new(min_ttl, PREFERRED))?;
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
