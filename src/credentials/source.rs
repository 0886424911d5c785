//! Where one profile's credential comes from: the store or a given key, its provider, and the error if there is none.

use std::path::Path;

use anyhow::Result;

use super::store::{Answers, Found, GivenKey, Snapshot, Store, key_of};
use super::{Clock, Credential, Variables};
use crate::error::{Failed, Failure, nearest};
use crate::http::Network;
use crate::paths::Paths;
use crate::platform::access;
use crate::profile::ProfileName;
use crate::providers::{self, Overrides, Provider, QWEN};

/// The content of the credential file.
#[expect(clippy::large_enum_variant, reason = "one at a time, and not for long")]
pub(crate) enum Stored {
    Missing,
    /// With the reason.
    Damaged(String),
    Present(Credential),
}

impl From<Found> for Stored {
    fn from(found: Found) -> Self {
        match found {
            Found::Missing => Self::Missing,
            Found::Damaged(why) => Self::Damaged(why),
            Found::Present(snapshot) => Self::Present(snapshot.credential),
        }
    }
}

/// Where one profile's credential comes from, and what is needed to use and renew it.
pub(crate) struct CredentialSource {
    pub(crate) profile: String,
    pub(crate) store: Store,
    pub(super) paths: Paths,
    pub(crate) overrides: Overrides,
    pub(crate) network: Network,
    pub(crate) clock: Clock,
    pub(crate) variable: Variables,
    /// A key in the environment or in a file that config.toml names, which is used instead of what is stored.
    pub(crate) given: Option<GivenKey>,
    /// What key commands have printed in this run.
    pub(crate) answers: Answers,
}

impl CredentialSource {
    pub(crate) fn new(
        profile: &ProfileName,
        paths: &Paths,
        overrides: Overrides,
        network: Network,
        clock: Clock,
        variable: Variables,
    ) -> Self {
        Self {
            profile: profile.to_string(),
            store: Store::new(paths.credential(profile), profile.is_qwen()),
            paths: paths.clone(),
            overrides,
            network,
            clock,
            variable,
            given: None,
            answers: Answers::default(),
        }
    }

    /// The file whose change means another credential. `None`: it cannot change while this process runs.
    pub(crate) fn watched(&self) -> Option<&Path> {
        match &self.given {
            Some(given) => given.file(),
            None => Some(self.store.path()),
        }
    }

    /// The stored credential, as it is now. Without a key that a command prints.
    pub(crate) fn load(&self) -> Result<Stored> {
        if let Some(given) = &self.given {
            return given.load(self);
        }
        Ok(self.store.read()?.into())
    }

    /// What the file contains, without a secret that is stored elsewhere: for lists, and if the keyring does not respond.
    pub(crate) fn load_record(&self) -> Result<Stored> {
        match &self.given {
            Some(given) => given.load(self),
            None => Ok(self.store.read_record()?.into()),
        }
    }

    /// The stored credential, or the error that a login is required.
    pub(crate) fn require(&self) -> Result<Credential> {
        if let Some(given) = &self.given {
            return given.resolve(self);
        }
        self.snapshot().and_then(|snapshot| self.with_secret(snapshot.credential))
    }

    /// `credential` with the key that its command prints.
    pub(crate) fn with_secret(&self, mut credential: Credential) -> Result<Credential> {
        if let Some(command) = credential.command.as_deref().filter(|_| credential.is_without_secret()) {
            credential.access_token = if let Some(answer) = self.answers.get(command) {
                answer
            } else {
                access::check_commands_in(self.store.path())?;
                key_of(self, command, &self.provider(&credential)?)?
            };
        }
        Ok(credential)
    }

    /// The key of this credential was rejected: its command is run again.
    pub(crate) fn note_refusal(&self, refused: &Credential) {
        if let Some(command) = &refused.command {
            self.answers.refuse(command);
        }
    }

    pub(super) fn snapshot(&self) -> Result<Snapshot> {
        match self.store.read()? {
            Found::Present(snapshot) => Ok(*snapshot),
            Found::Missing => {
                let message = format!("not logged in: there is no credential for `{}`", self.profile);
                let Some((provider, name)) = self.key_for_qwen_models().filter(|_| self.profile == QWEN) else {
                    return Failed::new(Failure::LoginRequired, message).hint(self.hint_if_missing()).err();
                };
                Failed::new(Failure::LoginRequired, message)
                    .hint(format!(
                        "run `qwenauth login {} --api-key-env {name}`, or `qwenauth login qwen`",
                        provider.name
                    ))
                    .err()
            }
            Found::Damaged(why) => self.damaged(&why),
        }
    }

    pub(super) fn damaged<T>(&self, why: &str) -> Result<T> {
        self.login_required(format!("the credential file `{}` is damaged: {why}", self.store.path().display()))
    }

    pub(super) fn login_required<T>(&self, message: String) -> Result<T> {
        Failed::new(Failure::LoginRequired, message).hint(self.login_hint()).err()
    }

    pub(crate) fn provider(&self, credential: &Credential) -> Result<Provider> {
        providers::find(credential.provider_name(), &self.overrides)
    }

    /// The provider of the stored credential, else the one of the profile's name.
    pub(crate) fn known_provider(&self) -> Option<Provider> {
        match self.load_record() {
            Ok(Stored::Present(credential)) => self.provider(&credential).ok(),
            _ => providers::find(&self.profile, &self.overrides).ok(),
        }
    }

    /// What gives this profile a valid credential again: the command that logs it in, or where its key is given.
    pub(crate) fn login_hint(&self) -> String {
        if let Some(given) = &self.given {
            return given.remedy();
        }
        if self.profile == QWEN {
            return "run `qwenauth login`".into();
        }
        if let Ok(Stored::Present(credential)) = self.load_record()
            && credential.provider_name() != self.profile
        {
            return format!("run `qwenauth login --profile {}`", self.profile);
        }
        if providers::is_built_in(&self.profile) || self.overrides.table.contains_key(&self.profile) {
            return format!("run `qwenauth login {}`", self.profile);
        }
        format!("run `qwenauth login PROVIDER --profile {}`", self.profile)
    }

    /// What to do where this profile is not stored: name the one that was meant, or log in to it.
    pub(crate) fn hint_if_missing(&self) -> String {
        self.meant().map_or_else(|| self.login_hint(), |name| format!("did you mean `{name}`?"))
    }

    /// The stored profile that was probably meant by the name of this one, which is not stored.
    pub(crate) fn meant(&self) -> Option<String> {
        let stored = self.paths.profiles().ok()?;
        // A key in a file that config.toml names is a profile as well.
        let in_files = self.overrides.table.iter().filter(|(_, provider)| provider.get("key_file").is_some());
        let in_files = in_files.map(|(name, _)| name.as_str());
        let known: Vec<&str> = stored.iter().map(ProfileName::as_str).chain(in_files).collect();
        if self.given.is_some() || known.contains(&self.profile.as_str()) {
            return None;
        }
        let meant = match providers::name_of(&self.profile, &self.overrides) {
            // A name that means a provider is never a typing error for another one.
            Some(provider) => known.into_iter().find(|name| *name == provider),
            None => nearest(&self.profile, known),
        };
        meant.map(str::to_owned)
    }

    /// The provider of Qwen models alone whose key is in the environment, and the variable: it is what was meant rather
    /// than the login that is the default.
    fn key_for_qwen_models(&self) -> Option<(Provider, String)> {
        providers::names(&self.overrides).into_iter().find_map(|name| {
            let provider = providers::find(&name, &self.overrides).ok().filter(|provider| provider.qwen_only)?;
            let variables = &provider.key.as_ref()?.variables;
            let variable = variables.iter().find(|name| (self.variable)(name).is_some())?.clone();
            Some((provider, variable))
        })
    }
}
