//! One run of the program: configuration, environment and profile, resolved once.

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Result;

use crate::cli::{Environment, Global, variable};
use crate::config::Config;
use crate::credentials::{Account, Credential, model_of};
use crate::http::Network;
use crate::platform::system;
use crate::profile::ProfileName;
use crate::providers::{Ci, Provider};

/// What every command that touches a credential starts from.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) config: Config,
    pub(crate) environment: Environment,
    pub(crate) profile: ProfileName,
}

impl Session {
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
            profile,
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
        let base_url = credential.base_url(&provider)?;
        Ok(Self { base_url, model: model.or_else(|| model_of(account, credential, &provider)) })
    }
}

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
            graphical: system::IS_GRAPHICAL || set("DISPLAY") || set("WAYLAND_DISPLAY") || set("BROWSER"),
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
