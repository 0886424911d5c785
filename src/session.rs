//! One run of the program: configuration, environment and profile, resolved once.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::cli::Global;
use crate::config::Config;
use crate::credentials::{Answers, Credential, CredentialSource, GivenKey, model_of};
use crate::environment::{API_KEY, API_KEY_FILE, Environment, variable};
use crate::error::{Failed, Failure};
use crate::http::Network;
use crate::platform::{system, tools};
use crate::profile::ProfileName;
use crate::providers::{self, Ci, Provider, QWEN};
use crate::secret::Secret;

/// What every command that touches a credential starts from.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) config: Config,
    pub(crate) environment: Environment,
    pub(crate) profile: ProfileName,
    selected_by: SelectedBy,
    /// The key in the environment, read once: a pipe has nothing more.
    given: Arc<OnceLock<Option<(ProfileName, GivenKey)>>>,
    /// What key commands have printed in this run.
    answers: Answers,
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
                None => (config.profile.clone()?.unwrap_or_else(ProfileName::qwen), SelectedBy::Config),
            },
        };
        log::info!(
            "profile `{profile}`, selected by {selected_by:?}, credential file `{}`",
            config.paths.credential(&profile).display()
        );
        Ok(Self { config, environment, profile, selected_by, given: Arc::default(), answers: Answers::default() })
    }

    /// The profile that `--profile` names.
    pub(crate) fn named(&self) -> Option<&ProfileName> {
        (self.selected_by == SelectedBy::Option).then_some(&self.profile)
    }

    /// Makes `profile` the one that config.toml names.
    pub(crate) fn activate(&self, profile: &ProfileName) -> Result<Activation> {
        let before = self.config.activate(profile)?;
        let selected = selected_outside(&self.config, &self.environment)?.filter(|(name, _)| name != profile);
        let overridden_by = match self.credential_variable() {
            Some(variable) => Some(format!("the key in `{variable}` is still used in this shell")),
            None => selected.map(|(name, by)| by.overrides(&name)),
        };
        Ok(Activation { before, overridden_by })
    }

    /// The key in the environment, if there is one, and the profile it counts as.
    ///
    /// Errors: usage, for a key whose provider is not named as well or that cannot be of that provider.
    pub(crate) fn given_key(&self) -> Result<Option<(ProfileName, GivenKey)>> {
        if let Some(given) = self.given.get() {
            return Ok(given.clone());
        }
        let given = self.read_given_key()?;
        Ok(self.given.get_or_init(|| given).clone())
    }

    fn read_given_key(&self) -> Result<Option<(ProfileName, GivenKey)>> {
        let Environment { api_key, api_key_file, provider, region, base_url, .. } = &self.environment;
        let variable = match (api_key, api_key_file) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                return Failed::new(Failure::Usage, format!("`{API_KEY}` and `{API_KEY_FILE}` are both set"))
                    .hint("unset one of them")
                    .err();
            }
            (Some(_), None) => API_KEY,
            (None, Some(_)) => API_KEY_FILE,
        };
        let provider = match (provider, &self.environment.profile) {
            (Some(name), _) => providers::find(text_of("QWENAUTH_PROVIDER", name)?.expose(), &self.config.overrides)
                .context("`QWENAUTH_PROVIDER`")?,
            (None, Some(name)) => self.provider_of(&ProfileName::parse(&name.to_string_lossy())?).ok_or_else(|| {
                Failed::new(
                    Failure::Usage,
                    format!("`{variable}` is set, but the provider of profile `{}` is unknown", name.display()),
                )
                .hint("name it in `QWENAUTH_PROVIDER`")
            })?,
            (None, None) => {
                return Failed::new(
                    Failure::Usage,
                    format!("`{variable}` is set, but the provider of the key is not named"),
                )
                .hint("set `QWENAUTH_PROVIDER`, for example to `dashscope`")
                .err();
            }
        };
        let of_same = |name: &ProfileName| self.provider_of(name).is_some_and(|other| other.name == provider.name);
        if self.selected_by == SelectedBy::Option && !of_same(&self.profile) {
            let message =
                format!("`{variable}` contains a key of `{}`, but `--profile` selects another provider", provider.name);
            return Failed::new(Failure::Usage, message)
                .hint(format!("`unset {variable}` to use the stored profile"))
                .err();
        }
        let named = matches!(self.selected_by, SelectedBy::Option | SelectedBy::Variable) && of_same(&self.profile);
        let profile = if named { self.profile.clone() } else { ProfileName::parse(&provider.name.to_lowercase())? };
        let region = region.as_ref().map(|region| region.to_string_lossy());
        let base_url = base_url.as_ref().map(|base_url| base_url.to_string_lossy());
        let place = (region.as_deref(), base_url.as_deref());
        let overrides = &self.config.overrides;
        let key = match (api_key, api_key_file) {
            (Some(key), _) => GivenKey::new(variable, text_of(variable, key)?, provider, place, overrides)?,
            (None, file) => {
                let file = Path::new(file.as_deref().unwrap_or_default());
                GivenKey::in_file(variable, file, provider, place, overrides)?
            }
        };
        Ok(Some((profile, key)))
    }

    /// The variable that holds a credential or names its file, whatever is in it.
    pub(crate) fn credential_variable(&self) -> Option<&'static str> {
        let Environment { api_key, api_key_file, .. } = &self.environment;
        api_key.as_ref().map(|_| API_KEY).or_else(|| api_key_file.as_ref().map(|_| API_KEY_FILE))
    }

    /// What to type to store the key in the environment as it is used now. What is not known of it is left to be filled in.
    pub(crate) fn line_to_store_given_key(&self) -> String {
        let Environment { api_key_file, region, base_url, .. } = &self.environment;
        let mut login = match (self.given_key(), self.provider()) {
            (Ok(Some((profile, _))), Some(provider)) => {
                let is_other = profile.as_str() != provider.name;
                let profile = if is_other { format!(" --profile {profile}") } else { String::new() };
                let provider = tools::quoted(&provider.name);
                format!("qwenauth login {provider}{profile}")
            }
            _ => "qwenauth login PROVIDER".to_owned(),
        };
        for (option, value) in [("--region", region), ("--base-url", base_url)] {
            if let Some(value) = value {
                login += &format!(" {option} {}", tools::quoted(&value.to_string_lossy()));
            }
        }
        match api_key_file.as_ref().map(Path::new) {
            Some(file) if file.is_file() => {
                let print: Vec<String> = tools::print_file(file).iter().map(|word| tools::quoted(word)).collect();
                format!("{} | {login} --api-key-stdin", print.join(" "))
            }
            // A pipe has nothing more.
            Some(_) => format!("{login} --api-key-stdin"),
            None => format!("{login} --api-key-env {API_KEY}"),
        }
    }

    /// The provider of the active profile or of the credential in the environment, as far as it is known.
    pub(crate) fn provider(&self) -> Option<Provider> {
        let name = self.environment.provider.as_ref().filter(|_| self.credential_variable().is_some());
        match name {
            Some(name) => providers::find(name.to_str()?, &self.config.overrides).ok(),
            None => self.provider_of(&self.profile),
        }
    }

    /// Whether nobody has logged in and nothing names a profile or the server of `qwen`, so that nothing is known of what
    /// the user wants.
    pub(crate) fn is_unused(&self) -> bool {
        self.selected_by == SelectedBy::Config
            && matches!(self.config.profile, Ok(None))
            && self.config.overrides.qwen_oauth_url.is_none()
            && !self.config.overrides.table.contains_key(QWEN)
            && self.credential_variable().is_none()
            && self.profiles().is_ok_and(|stored| stored.is_empty())
    }

    /// Whether `profile` is the active one without `--profile` and `QWENAUTH_PROFILE`, which may name it for one command.
    pub(crate) fn is_chosen(&self, profile: &ProfileName) -> Result<bool> {
        let rule = self.config.rule(&self.environment)?.map(|(_, profile)| profile.clone());
        let named = self.config.profile.as_ref().ok().map(|named| named.clone().unwrap_or_else(ProfileName::qwen));
        Ok(rule.or(named).is_some_and(|chosen| chosen == *profile))
    }

    /// Whether `--profile` names the profile.
    /// The provider of a profile: of the stored credential, else the one of that name.
    fn provider_of(&self, profile: &ProfileName) -> Option<Provider> {
        self.source_of(profile).known_provider()
    }

    /// The credential of the active profile, or the one in the environment.
    ///
    /// Errors: usage, for a credential in the environment that is not complete; login required, where a rule of
    /// `[directories]` names a profile that is not stored.
    pub(crate) fn source(&self) -> Result<CredentialSource> {
        if let Some((profile, key)) = self.given_key()? {
            let mut source = self.source_of(&profile);
            source.given = Some(key);
            return Ok(source);
        }
        let source = self.source_of(&self.profile);
        if let SelectedBy::Directory(path) = &self.selected_by
            && source.given.is_none()
            && source.store.path().symlink_metadata().is_err()
        {
            let profile = &self.profile;
            let message = format!(
                "`[directories]` of config.toml selects profile `{profile}` below `{path}`, which is not stored"
            );
            return Failed::new(Failure::LoginRequired, message).hint(source.hint_if_missing()).err();
        }
        Ok(source)
    }

    pub(crate) fn source_of(&self, profile: &ProfileName) -> CredentialSource {
        let paths = &self.config.paths;
        let mut source = CredentialSource::new(
            profile,
            paths,
            self.config.overrides.clone(),
            self.network(),
            SystemTime::now,
            variable,
        );
        source.answers = self.answers.clone();
        let overrides = &self.config.overrides;
        source.given = self.key_file(profile).map(|path| GivenKey::configured(profile.as_str(), path, overrides));
        source
    }

    /// How servers are reached.
    pub(crate) fn network(&self) -> Network {
        Network { ca_file: self.environment.ca_file.as_ref().map(PathBuf::from) }
    }

    /// The file that config.toml names for the key of the provider of this name.
    pub(crate) fn key_file(&self, profile: &ProfileName) -> Option<PathBuf> {
        self.config.key_files.get(profile.as_str()).cloned()
    }

    /// Every profile: those that are stored, then those whose key is in a file that config.toml names.
    pub(crate) fn profiles(&self) -> Result<Vec<ProfileName>> {
        let mut profiles = self.config.paths.profiles()?;
        for name in self.config.key_files.keys() {
            let name = ProfileName::parse(name)?;
            if !profiles.contains(&name) {
                profiles.push(name);
            }
        }
        Ok(profiles)
    }
}

fn text_of(name: &str, value: &OsStr) -> Result<Secret> {
    match value.to_str() {
        Some(text) => Ok(Secret::new(text.to_owned())),
        None => Failed::new(Failure::Usage, format!("`{name}` is not text")).err(),
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

/// The outcome of making a profile the active one.
pub(crate) struct Activation {
    /// The active one before, if another.
    pub(crate) before: Option<String>,
    /// Why another is still used here.
    pub(crate) overridden_by: Option<String>,
}

/// What `token --format json`, `env` and `exec` return in addition to the token.
pub(crate) struct Endpoint {
    pub(crate) base_url: String,
    pub(crate) model: Option<String>,
}

impl Endpoint {
    /// `model`: the user's choice, which precedes the profile's and the provider's. An empty one is no model at all.
    pub(crate) fn of(source: &CredentialSource, credential: &Credential, model: Option<String>) -> Result<Self> {
        let provider: Provider = source.provider(credential)?;
        let base_url = credential.base_url(&provider)?;
        let model = model.or_else(|| model_of(source, credential, &provider)).filter(|model| !model.is_empty());
        Ok(Self { base_url, model })
    }
}

/// The surroundings of this run: where a browser opens and which variables are set.
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
        let is_there = |path: &str| Path::new(path).exists();
        Self {
            graphical: system::IS_GRAPHICAL
                || set("DISPLAY")
                || set("WAYLAND_DISPLAY")
                || set("BROWSER")
                || set("WSL_INTEROP"),
            ssh: set("SSH_CONNECTION") || set("SSH_TTY") || set("SSH_CLIENT"),
            container: set("container") || is_there("/.dockerenv") || is_there("/run/.containerenv"),
            ci: set("CI"),
        }
    }

    /// Only in a graphical session of the local machine: not over SSH, not in CI, not where no person looks.
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
            return "device login".into();
        }
        if provider.authorize.is_some() && !self.ci {
            return if self.has_browser() { "in the browser".into() } else { "paste a code".into() };
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
