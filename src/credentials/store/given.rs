//! An API key that is not stored but is in the environment or in a file named by config.toml: its provider, where it
//! may be sent, and its detected region.
//!
//! Hazard: a key in the environment would be sent to the provider of whichever profile is active, and a key in a file
//! may be replaced at any time. Rule: its provider is named explicitly, a key with another provider's prefix is
//! rejected, it is sent only to its provider's own hosts, and a file is read again for each use.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::super::key::parse_key;
use super::super::refused::hash_of;
use super::super::verification::{Verification, VerificationRequest};
use super::super::{Credential, CredentialSource, Kind, Stored};
use crate::error::{Failed, Failure};
use crate::paths::StateDirectory;
use crate::platform::files::{self, Content, PendingFile, Privacy};
use crate::providers::{self, Overrides, Provider, QWEN, in_words};
use crate::secret::Secret;

/// Where the key is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The variable that holds it or names its file.
    Variable(&'static str),
    /// `key_file` of the provider in config.toml.
    Config,
}

/// The key itself, or the file that contains it.
#[derive(Clone)]
enum Place {
    Value(Secret),
    File(PathBuf),
}

/// The key and its settings.
#[derive(Clone)]
pub(crate) struct GivenKey {
    pub(crate) holder: Holder,
    place: Place,
    /// Its provider, or why that is unknown.
    owner: Result<Owner, Failed>,
    overrides: Overrides,
}

#[derive(Clone)]
struct Owner {
    provider: Provider,
    /// From `QWENAUTH_BASE_URL` or `QWENAUTH_REGION`.
    base_url: Option<String>,
}

impl GivenKey {
    /// A key in a variable. `place`: `QWENAUTH_REGION` and `QWENAUTH_BASE_URL`.
    ///
    /// Errors: usage, for settings that contradict each other.
    pub(crate) fn new(
        variable: &'static str,
        text: Secret,
        provider: Provider,
        place: (Option<&str>, Option<&str>),
        overrides: &Overrides,
    ) -> Result<Self> {
        Self::in_environment(variable, Place::Value(text), provider, place, overrides)
    }

    /// A key in the file that a variable names, or in a pipe, which is read now.
    ///
    /// Errors: usage, for settings that contradict each other and for an unreadable file.
    pub(crate) fn in_file(
        variable: &'static str,
        path: &Path,
        provider: Provider,
        place: (Option<&str>, Option<&str>),
        overrides: &Overrides,
    ) -> Result<Self> {
        let key = if std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
            Place::File(path.to_owned())
        } else {
            Place::Value(read_file(Holder::Variable(variable), path, Failure::Usage)?)
        };
        Self::in_environment(variable, key, provider, place, overrides)
    }

    fn in_environment(
        variable: &'static str,
        key: Place,
        provider: Provider,
        place: (Option<&str>, Option<&str>),
        overrides: &Overrides,
    ) -> Result<Self> {
        let holder = Holder::Variable(variable);
        let owner = owner_in_environment(variable, provider, place)?;
        let given = Self { holder, place: key, owner: Ok(owner), overrides: overrides.clone() };
        given.secret()?;
        Ok(given)
    }

    /// The key of `key_file` in `[providers.NAME]`.
    pub(crate) fn configured(name: &str, path: PathBuf, overrides: &Overrides) -> Self {
        let owner = owner_in_config(name, overrides).map_err(|error| {
            error.downcast::<Failed>().unwrap_or_else(|error| Failed::new(Failure::Other, format!("{error:#}")))
        });
        Self { holder: Holder::Config, place: Place::File(path), owner, overrides: overrides.clone() }
    }

    /// The file that is read for each use.
    pub(crate) fn file(&self) -> Option<&Path> {
        match &self.place {
            Place::Value(_) => None,
            Place::File(path) => Some(path),
        }
    }

    /// The file, if config.toml names it.
    pub(crate) fn named_file(&self) -> Option<&Path> {
        self.file().filter(|_| self.holder == Holder::Config)
    }

    /// The variable, if one holds or names the key.
    pub(crate) fn variable(&self) -> Option<&'static str> {
        match self.holder {
            Holder::Variable(variable) => Some(variable),
            Holder::Config => None,
        }
    }

    /// What replaces a key that is missing or not valid.
    pub(in super::super) fn remedy(&self) -> String {
        match &self.place {
            Place::File(path) => format!("put a valid key into `{}`", path.display()),
            Place::Value(_) => format!("replace the key in `{0}`, or `unset {0}`", self.shown()),
        }
    }

    /// The setting that selects the region of the key.
    pub(crate) fn region_setting(&self) -> &'static str {
        match self.holder {
            Holder::Variable(_) => "QWENAUTH_REGION",
            Holder::Config => "default_region",
        }
    }

    fn owner(&self) -> Result<&Owner> {
        self.owner.as_ref().map_err(|failed| failed.clone().into())
    }

    /// The name of the holder in messages.
    fn shown(&self) -> String {
        match (self.holder, &self.place) {
            (Holder::Variable(variable), _) => (*variable).to_owned(),
            (Holder::Config, Place::File(path)) => path.display().to_string(),
            (Holder::Config, Place::Value(_)) => "config.toml".to_owned(),
        }
    }

    /// The current key.
    ///
    /// Errors: usage for a variable; login required for a file that is missing or has no key of the provider.
    fn secret(&self) -> Result<Secret> {
        let failure = match self.holder {
            Holder::Variable(_) => Failure::Usage,
            Holder::Config => Failure::LoginRequired,
        };
        let text = match &self.place {
            Place::Value(text) => text.clone(),
            Place::File(path) => read_file(self.holder, path, failure)?,
        };
        let shown = self.shown();
        let provider = &self.owner()?.provider;
        let secret =
            parse_key(text.expose()).map_err(|why| Failed::new(failure, format!("the key in `{shown}` {why}")))?;
        let Some(foreign) = providers::foreign_key(&secret, provider, &self.overrides) else { return Ok(secret) };
        let (prefix, names) = (&foreign.prefix, foreign.owners());
        let message = format!(
            "the key in `{shown}` starts with `{prefix}`, so it belongs to {names}, not to `{}`",
            provider.name
        );
        match self.holder {
            Holder::Variable(_) => {
                Failed::new(failure, message).hint(format!("set `QWENAUTH_PROVIDER={}`", foreign.owner()))
            }
            Holder::Config => Failed::new(failure, message)
                .hint(format!("write `key_file` under `[providers.{}]` in config.toml", foreign.owner())),
        }
        .err()
    }

    /// The current credential, without a request.
    pub(in super::super) fn load(&self, source: &CredentialSource) -> Result<Stored> {
        match self.offline(source) {
            Ok(credential) => Ok(Stored::Present(credential)),
            // For a profile of config.toml, the file is what a stored credential is for others.
            Err(error) if self.holder == Holder::Config && self.owner.is_ok() => {
                let is_missing = self.file().is_some_and(|path| !path.exists());
                Ok(if is_missing { Stored::Missing } else { Stored::Damaged(format!("{error:#}")) })
            }
            Err(error) => Err(error),
        }
    }

    /// The credential, with its base URL if that is known without a request.
    fn offline(&self, source: &CredentialSource) -> Result<Credential> {
        let (secret, owner) = (self.secret()?, self.owner()?);
        let base_url = owner.base_url.clone().or_else(|| remembered(&secret, owner, source));
        Ok(credential(secret, owner, base_url))
    }

    /// The credential with its base URL, found by querying each region once.
    ///
    /// Errors: login required if every region rejects the key; temporary if one cannot be queried.
    pub(in super::super) fn resolve(&self, source: &CredentialSource) -> Result<Credential> {
        let (secret, owner) = (self.secret()?, self.owner()?);
        if let Some(base_url) = owner.base_url.clone().or_else(|| remembered(&secret, owner, source)) {
            return Ok(credential(secret, owner, Some(base_url)));
        }
        let region = self.find_region(&secret, &owner.provider, source)?;
        if let Err(error) = remember(&secret, source, &region) {
            log::warn!("the region of the key is not remembered: {error:#}");
        }
        let base_url = owner.provider.regions.get(&region).map(|region| region.base_url.clone());
        Ok(credential(secret, owner, base_url))
    }

    fn find_region(&self, secret: &Secret, provider: &Provider, source: &CredentialSource) -> Result<String> {
        let shown = self.shown();
        let mut names: Vec<&String> = provider.regions.keys().collect();
        names.sort_by_key(|name| provider.default_region.as_ref() != Some(name));
        let mut rejected = String::new();
        let mut unclear = None;
        for name in &names {
            let request = VerificationRequest {
                provider,
                base_url: &provider.regions[*name].base_url,
                token: secret,
                model: provider.default_model.as_deref(),
                network: &source.network,
            };
            match request.ask()? {
                Verification::Refused(why) if rejected.is_empty() => rejected = why,
                Verification::Refused(_) => {}
                Verification::Unclear(why) => unclear = unclear.or(Some((name, why))),
                Verification::Accepted | Verification::Exhausted(_) | Verification::Unverifiable(_) => {
                    return Ok((*name).clone());
                }
            }
        }
        if let Some((name, why)) = unclear {
            let message = |why: &str| format!("cannot find the region of the key in `{shown}`: region `{name}`: {why}");
            let hint = match self.holder {
                Holder::Variable(_) => "set `QWENAUTH_REGION`, or retry later",
                Holder::Config => "set `default_region` next to `key_file`, or retry later",
            };
            return why.reworded(message).or_hint(hint).err();
        }
        let tried = names.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let failed = Failed::new(
            Failure::LoginRequired,
            format!("{} rejected the key in `{shown}` in regions {tried}: {rejected}", provider.title),
        );
        match in_words(&provider.key_pages(None)) {
            Some(pages) => failed.hint(format!("check the key at {pages}")),
            None => failed,
        }
        .err()
    }
}

/// Errors: usage, for settings that contradict each other.
fn owner_in_environment(variable: &str, provider: Provider, place: (Option<&str>, Option<&str>)) -> Result<Owner> {
    let usage = |message: String| Failed::new(Failure::Usage, message);
    if takes_no_key(&provider) {
        return usage(format!("{} does not accept API keys, but `{variable}` is set", provider.title))
            .hint(format!("`unset {variable}`, or name another provider in `QWENAUTH_PROVIDER`"))
            .err();
    }
    let base_url = match place {
        (Some(_), Some(_)) => {
            return usage("`QWENAUTH_REGION` and `QWENAUTH_BASE_URL` are both set".into())
                .hint("unset one of them")
                .err();
        }
        (Some(_), None) if provider.regions.is_empty() => {
            return usage(format!("{} has no regions, but `QWENAUTH_REGION` is set", provider.called("")))
                .hint("unset it")
                .err();
        }
        (Some(region), None) => Some(provider.region(region)?.1.base_url.clone()),
        (None, Some(given)) => {
            let base_url = providers::base_url(given)?;
            if !provider.owns(&base_url) {
                return usage(format!(
                    "`QWENAUTH_BASE_URL` is `{base_url}`, which is not a host of {}",
                    provider.title
                ))
                .hint("set `QWENAUTH_PROVIDER=custom` for a server of your own")
                .err();
            }
            Some(base_url)
        }
        (None, None) if provider.regions.is_empty() => {
            if provider.base_url.is_empty() {
                return usage(format!("provider `{}` needs `QWENAUTH_BASE_URL`", provider.name))
                    .hint("for example `QWENAUTH_BASE_URL=http://127.0.0.1:8000/v1`")
                    .err();
            }
            Some(provider.own_base_url()?)
        }
        (None, None) => None,
    };
    Ok(Owner { provider, base_url })
}

/// The settings in `[providers.NAME]`: `base_url`, else `default_region`, else the region is detected by requests.
fn owner_in_config(name: &str, overrides: &Overrides) -> Result<Owner> {
    let provider = providers::find(name, overrides)?;
    let failed = |what: String| Failed::new(Failure::Other, format!("`[providers.{name}]` in config.toml {what}"));
    if takes_no_key(&provider) {
        return failed("has a `key_file`, but the provider does not accept API keys".into())
            .hint("remove `key_file`")
            .err();
    }
    let own = |key: &str| overrides.table.get(name).and_then(|own| own.get(key)).and_then(toml::Value::as_str);
    let base_url = match (own("base_url"), own("default_region")) {
        (Some(given), _) => Some(providers::base_url(given)?),
        (None, Some(_)) => provider.default_region().map(|region| region.base_url.clone()),
        (None, None) if !provider.regions.is_empty() => None,
        (None, None) if provider.base_url.is_empty() => {
            return failed("has a `key_file` but no `base_url`".into()).hint("add `base_url = \"https://…/v1\"`").err();
        }
        (None, None) => Some(provider.own_base_url()?),
    };
    Ok(Owner { provider, base_url })
}

fn takes_no_key(provider: &Provider) -> bool {
    provider.name == QWEN || provider.key.is_none() && provider.oauth().is_some()
}

/// The key in a file or named pipe owned by the user or root, or in a file descriptor.
fn read_file(holder: Holder, path: &Path, failure: Failure) -> Result<Secret> {
    let named = match holder {
        Holder::Variable(variable) => format!("`{variable}`"),
        Holder::Config => "`key_file`".to_owned(),
    };
    let failed = |why: String| Failed::new(failure, format!("{named}: cannot read `{}`: {why}", path.display()));
    let bytes = match files::read_named(path, Privacy::Secret).with_context(|| named.clone())? {
        Content::Bytes(bytes) => bytes,
        Content::Missing => return failed("it is missing".into()).err(),
        Content::Unfit(why) => return failed(why).err(),
    };
    text_of(&bytes).ok_or_else(|| failed("it is not text".into()).into())
}

fn text_of(bytes: &[u8]) -> Option<Secret> {
    std::str::from_utf8(bytes).ok().map(|text| Secret::new(text.to_owned()))
}

/// How long the region of a key is remembered once there are others: in CI each job may have a key of its own.
const REGION_KEPT: Duration = Duration::from_secs(40 * 86400);

fn note_path(secret: &Secret, source: &CredentialSource) -> PathBuf {
    StateDirectory::Regions.below(&source.paths.state).join(hash_of(secret))
}

fn remembered(secret: &Secret, owner: &Owner, source: &CredentialSource) -> Option<String> {
    let Ok(Content::Bytes(bytes)) = files::read(&note_path(secret, source), Privacy::Private) else { return None };
    let region = owner.provider.regions.get(std::str::from_utf8(&bytes).ok()?.trim())?;
    Some(region.base_url.clone())
}

fn remember(secret: &Secret, source: &CredentialSource, region: &str) -> Result<()> {
    let directory = StateDirectory::Regions.below(&source.paths.state);
    files::make_directory(&directory)?;
    files::remove_older(&directory, REGION_KEPT);
    PendingFile::reserve_unlocked(&note_path(secret, source), region.len(), Privacy::Private)?.write(region.as_bytes())
}

fn credential(access_token: Secret, owner: &Owner, base_url: Option<String>) -> Credential {
    Credential { base_url, ..Credential::unstored(Kind::ApiKey, access_token, owner.provider.name.clone()) }
}
