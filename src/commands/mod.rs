//! One file per subcommand, each with `run`: translate arguments into calls, print the answer.

pub(crate) mod completions;
pub(crate) mod env;
pub(crate) mod exec;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod man;
pub(crate) mod refresh;
pub(crate) mod sandbox;
pub(crate) mod status;
pub(crate) mod token;

use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::cli::{Environment, Global};
use crate::config::{Config, ProfileName};
use crate::credentials::{Account, Credential};
use crate::http::Network;
use crate::providers::Provider;

/// What every command that touches a credential starts from.
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
