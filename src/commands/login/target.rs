//! Where a key may belong: the region or base URL that was given, that of the login it replaces, or every region.
//!
//! Hazard: a key that is stored for one host would follow a new `--base-url` to another. Rule: a stored key is only
//! sent to the provider's own hosts and to the host it was stored for.

use anyhow::Result;
use url::Url;

use super::Attempt;
use crate::credentials::Credential;
use crate::error::{Failed, Failure};
use crate::http;
use crate::providers::{self, Provider};

/// A place where a key may belong.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) region: Option<String>,
    pub(super) base_url: String,
}

impl Target {
    /// The place of a stored key.
    pub(super) fn of(provider: &Provider, stored: &Credential) -> Result<Self> {
        let base_url = stored.base_url(provider)?;
        Ok(Self { region: provider.region_of(&base_url).map(str::to_owned), base_url })
    }

    /// Whether the key that is stored for `self` may be tried at `other`.
    pub(super) fn shares_key_with(&self, other: &Self, provider: &Provider) -> bool {
        let origin = |url: &str| Url::parse(url).ok().map(|url| url.origin());
        let is_loopback = Url::parse(&other.base_url).is_ok_and(|url| http::is_loopback(&url));
        origin(&self.base_url) == origin(&other.base_url)
            || !provider.base_url.is_empty() && !is_loopback && provider.owns(&other.base_url)
    }
}

/// What `--base-url` or `--region` names.
///
/// Errors: usage, for a host that is not the provider's or a region that it does not have.
pub(super) fn given(attempt: &Attempt) -> Result<Option<Target>> {
    let (args, provider) = (attempt.args, &attempt.provider);
    if let Some(given) = &args.base_url {
        let base_url = providers::base_url(given)?;
        if !provider.owns(&base_url) {
            return Failed::new(Failure::Usage, format!("`{base_url}` is not a host of {}", provider.title))
                .hint("log in with `qwenauth login custom --base-url …`")
                .err();
        }
        return Ok(Some(Target { region: provider.region_of(&base_url).map(str::to_owned), base_url }));
    }
    let Some(typed) = &args.region else { return Ok(None) };
    let (name, region) = provider.region(typed)?;
    Ok(Some(Target { region: Some(name.to_owned()), base_url: providers::base_url(&region.base_url)? }))
}

/// Where a new key may belong when nothing was given, the likeliest first. `stored`: the place of the key it replaces.
pub(super) fn likely(provider: &Provider, stored: Option<&Target>) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for (name, region) in &provider.regions {
        targets.push(Target { region: Some(name.clone()), base_url: providers::base_url(&region.base_url)? });
    }
    targets.sort_by_key(|target| target.region != provider.default_region);
    if let Some(stored) = stored {
        if !targets.iter().any(|target| target.base_url == stored.base_url) {
            // A domain of the user's own: the new key is for it as well.
            return Ok(vec![stored.clone()]);
        }
        targets.sort_by_key(|target| target.base_url != stored.base_url);
    }
    if !targets.is_empty() {
        return Ok(targets);
    }
    if provider.base_url.is_empty() {
        return Failed::new(Failure::Usage, format!("provider `{}` needs `--base-url`", provider.name))
            .hint("for example `--base-url http://127.0.0.1:8000/v1`")
            .err();
    }
    Ok(vec![Target { region: None, base_url: provider.own_base_url()? }])
}
