//! One run of the program: configuration, environment and profile, resolved once.

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::cli::{Environment, Global, variable};
use crate::config::Config;
use crate::credentials::{Account, Credential, model_of};
use crate::error::{Failed, Failure};
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
    selected_by: SelectedBy,
}

/// What selected the active profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SelectedBy {
    /// `--profile`
    Option,
    /// `QWENAUTH_PROFILE`
    Variable,
    /// The rule of `[directories]` with this path.
    Directory(String),
    /// `profile = "…"` of config.toml, else the default.
    Config,
}

impl Session {
    pub(crate) fn load(global: &Global, environment: Environment) -> Result<Self> {
        let config = Config::load(&environment)?;
        let (profile, selected_by) = match &global.profile {
            Some(name) => (ProfileName::parse(name)?, SelectedBy::Option),
            None => match selected_outside(&config, &environment)? {
                Some(selected) => selected,
                None => (config.profile.clone().unwrap_or_else(ProfileName::qwen), SelectedBy::Config),
            },
        };
        log::info!(
            "profile `{profile}`, selected by {selected_by:?}, credential file `{}`",
            config.paths.credential(&profile).display()
        );
        Ok(Self { config, environment, profile, selected_by })
    }

    /// Makes `profile` the one that config.toml names.
    pub(crate) fn activate(&self, profile: &ProfileName) -> Result<Activation> {
        let before = self.config.activate(profile)?;
        let overridden_by = selected_outside(&self.config, &self.environment)?.filter(|(name, _)| name != profile);
        Ok(Activation { before, overridden_by: overridden_by.map(|(name, by)| by.overrides(&name)) })
    }

    /// The credential of the active profile.
    ///
    /// Errors: login required, where a rule of `[directories]` names a profile that is not stored.
    pub(crate) fn account(&self) -> Result<Account> {
        let account = self.account_of(&self.profile);
        if let SelectedBy::Directory(path) = &self.selected_by
            && account.path().symlink_metadata().is_err()
        {
            let profile = &self.profile;
            let message = format!(
                "`[directories]` of config.toml selects profile `{profile}` below `{path}`, which is not stored"
            );
            return Failed::new(Failure::LoginRequired, message).hint(account.login_hint()).err();
        }
        Ok(account)
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

/// What selects the profile whatever config.toml has as the active one: the variable, else a rule of `[directories]`.
fn selected_outside(config: &Config, environment: &Environment) -> Result<Option<(ProfileName, SelectedBy)>> {
    if let Some(name) = &environment.profile {
        let name = ProfileName::parse(&name.to_string_lossy()).context("`QWENAUTH_PROFILE`")?;
        return Ok(Some((name, SelectedBy::Variable)));
    }
    let rule = config.rule(environment)?;
    Ok(rule.map(|(path, profile)| (profile.clone(), SelectedBy::Directory(path.clone()))))
}

impl SelectedBy {
    /// Why `profile` is used although config.toml has another as the active one.
    fn overrides(&self, profile: &ProfileName) -> String {
        match self {
            Self::Option => format!("`--profile` selects `{profile}`"),
            Self::Variable => format!("`QWENAUTH_PROFILE` still selects `{profile}` in this shell"),
            Self::Directory(path) => format!("`[directories]` of config.toml still selects `{profile}` below `{path}`"),
            Self::Config => format!("config.toml selects `{profile}`"),
        }
    }
}

/// What came of making a profile the active one.
pub(crate) struct Activation {
    /// The active one before, if another.
    pub(crate) before: Option<ProfileName>,
    /// Why another is still used here.
    pub(crate) overridden_by: Option<String>,
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
