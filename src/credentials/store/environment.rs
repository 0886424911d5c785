//! An API key in the environment: whose it is, where it may go, and the region that was found for it.
//!
//! Hazard: a key in the environment would follow whatever profile is active to another provider. Rule: its provider is
//! named beside it, another provider's key is refused by its beginning, and it goes to that provider's own hosts only.

use std::path::PathBuf;

use anyhow::Result;

use super::super::key::clean_key;
use super::super::refused::hash_of;
use super::super::verification::{Verification, VerificationRequest};
use super::super::{Account, Credential, Kind};
use crate::error::{Failed, Failure};
use crate::paths::StateDirectory;
use crate::platform::files::{self, Content, PendingFile, Privacy};
use crate::providers::{self, Overrides, Provider, QWEN, in_words};
use crate::secret::Secret;

/// The key, with what is set beside it.
#[derive(Clone)]
pub(crate) struct GivenKey {
    /// The variable that holds it or names its file.
    pub(crate) variable: &'static str,
    secret: Secret,
    provider: Provider,
    /// From `QWENAUTH_BASE_URL` or `QWENAUTH_REGION`.
    base_url: Option<String>,
}

impl GivenKey {
    /// `text`: the key as it is set. `place`: `QWENAUTH_REGION` and `QWENAUTH_BASE_URL`.
    ///
    /// Errors: usage, for what cannot go together.
    pub(crate) fn new(
        variable: &'static str,
        text: &Secret,
        provider: Provider,
        place: (Option<&str>, Option<&str>),
        overrides: &Overrides,
    ) -> Result<Self> {
        let usage = |message: String| Failed::new(Failure::Usage, message);
        if provider.name == QWEN || provider.key.is_none() && provider.oauth().is_some() {
            return usage(format!("{} takes no API key, and `{variable}` is set", provider.title))
                .hint(format!("`unset {variable}`, or name another provider in `QWENAUTH_PROVIDER`"))
                .err();
        }
        let secret = clean_key(text.expose()).map_err(|error| usage(format!("`{variable}`: {error}")))?;
        if let Some((prefix, owners)) = providers::owners_of(&secret, overrides)
            && providers::is_telling(&prefix)
            && !owners.contains(&provider.name)
        {
            let names = owners.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ");
            let message = format!(
                "the key in `{variable}` begins with `{prefix}`, so it is one of {names}, not of `{}`",
                provider.name
            );
            return usage(message).hint(format!("set `QWENAUTH_PROVIDER={}`", owners[0])).err();
        }
        let base_url = match place {
            (Some(_), Some(_)) => {
                return usage("`QWENAUTH_REGION` and `QWENAUTH_BASE_URL` are both set".into())
                    .hint("unset one of them")
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
                Some(provider.base_url(None)?)
            }
            (None, None) => None,
        };
        Ok(Self { variable, secret, provider, base_url })
    }

    /// The credential, with its place as far as it is known without asking.
    pub(in super::super) fn offline(&self, account: &Account) -> Credential {
        self.credential(self.base_url.clone().or_else(|| self.remembered(account)))
    }

    /// The credential with its place, found by asking each region once.
    ///
    /// Errors: login required when every region rejects the key, temporary when one cannot be asked.
    pub(in super::super) fn resolve(&self, account: &Account) -> Result<Credential> {
        if let Some(base_url) = self.base_url.clone().or_else(|| self.remembered(account)) {
            return Ok(self.credential(Some(base_url)));
        }
        let region = self.find_region(account)?;
        if let Err(error) = self.remember(account, &region) {
            log::warn!("the region of the key is not remembered: {error:#}");
        }
        Ok(self.credential(self.provider.regions.get(&region).map(|region| region.base_url.clone())))
    }

    fn find_region(&self, account: &Account) -> Result<String> {
        let Self { variable, provider, .. } = self;
        let mut names: Vec<&String> = provider.regions.keys().collect();
        names.sort_by_key(|name| provider.default_region.as_ref() != Some(name));
        let mut rejected = String::new();
        let mut unclear = None;
        for name in &names {
            let request = VerificationRequest {
                provider,
                base_url: &provider.regions[*name].base_url,
                token: &self.secret,
                model: provider.default_model.as_deref(),
                network: &account.network,
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
            let message = format!("cannot find the region of the key in `{variable}`: region `{name}`: {why}");
            return Failed::new(Failure::Temporary, message).hint("set `QWENAUTH_REGION`, or try again later").err();
        }
        let tried = names.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let failed = Failed::new(
            Failure::LoginRequired,
            format!("{} rejected the key in `{variable}` in regions {tried}: {rejected}", provider.title),
        );
        match in_words(&provider.key_pages(None)) {
            Some(pages) => failed.hint(format!("check the key at {pages}")),
            None => failed,
        }
        .err()
    }

    fn note_path(&self, account: &Account) -> PathBuf {
        StateDirectory::Regions.below(&account.state).join(hash_of(&self.secret))
    }

    fn remembered(&self, account: &Account) -> Option<String> {
        let Ok(Content::Bytes(bytes)) = files::read(&self.note_path(account), Privacy::Private) else { return None };
        let region = self.provider.regions.get(std::str::from_utf8(&bytes).ok()?.trim())?;
        Some(region.base_url.clone())
    }

    fn remember(&self, account: &Account, region: &str) -> Result<()> {
        files::make_directory(&StateDirectory::Regions.below(&account.state))?;
        PendingFile::reserve(&self.note_path(account), region.len(), Privacy::Private)?.write(region.as_bytes())
    }

    fn credential(&self, base_url: Option<String>) -> Credential {
        Credential {
            kind: Kind::ApiKey,
            access_token: self.secret.clone(),
            refresh_token: None,
            token_type: "Bearer".into(),
            expires_at: None,
            resource_url: None,
            provider: Some(self.provider.name.clone()),
            model: None,
            base_url,
            created_at: None,
            machine: None,
            issuer: None,
            identity: None,
        }
    }
}
