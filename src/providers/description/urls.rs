//! Where a provider's API is, and which URLs its credentials may be sent to.
//!
//! Hazard: a credential file or a person names any host. Rule: a token is sent to the provider's own hosts, and a key to
//! those and to the local machine.

use anyhow::{Context, Result};
use url::Url;

use super::{Provider, Region};
use crate::error::{Failed, Failure};
use crate::http::{self, is_loopback};
use crate::oauth::Endpoints;

impl Provider {
    /// The base URL for a credential: from its `resource_url`, or else the provider's own. `found`: what discovery found at
    /// its login.
    ///
    /// Errors: user info, plain `http`, or a host that is not the provider's: the token would be sent there.
    pub(crate) fn base_url(&self, resource_url: Option<&str>, found: Option<&Endpoints>) -> Result<String> {
        let Some(resource) = resource_url.map(str::trim).filter(|resource| !resource.is_empty()) else {
            return self.own_base_url();
        };
        let with_scheme = match resource.split_once("://") {
            Some(_) => resource.to_owned(),
            None => format!("https://{resource}"),
        };
        let url = http::endpoint(&with_scheme).context("the login's `resource_url`")?;
        if !self.may_serve(&url, found)? {
            let host = url.host_str().unwrap_or_default();
            return Failed::new(
                Failure::Other,
                format!("the login's `resource_url` names `{host}`, which is not a host of {}", self.title),
            )
            .hint(format!(
                "if you trust it, add `resource_hosts = [\"{host}\"]` under `[providers.{}]` in config.toml",
                self.name
            ))
            .err();
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Failed::new(Failure::Other, "the login's `resource_url` has a query or a fragment").err();
        }
        let trimmed = url.as_str().trim_end_matches('/');
        Ok(if trimmed.ends_with("/v1") { trimmed.to_owned() } else { format!("{trimmed}/v1") })
    }

    /// Whether `/responses` is served at `base_url`. What a person configured and servers of this machine may serve it.
    pub(crate) fn has_responses(&self, base_url: &str) -> bool {
        let is_local = Url::parse(base_url).is_ok_and(|url| is_loopback(&url));
        self.responses.unwrap_or(is_local || self.base_url.is_empty() || !crate::providers::is_built_in(&self.name))
    }

    /// Whether it is known to serve `/responses` at its own base URL.
    pub(crate) fn is_known_for_responses(&self) -> bool {
        !self.base_url.is_empty() && self.has_responses(&self.base_url)
    }

    pub(crate) fn own_base_url(&self) -> Result<String> {
        if self.base_url.is_empty() {
            return Failed::new(Failure::Other, format!("provider `{}` has no `base_url`", self.name))
                .hint(format!("set it under `[providers.{}]` in config.toml", self.name))
                .err();
        }
        let url = http::endpoint(&self.base_url).with_context(|| format!("`base_url` of provider `{}`", self.name))?;
        Ok(url.as_str().trim_end_matches('/').to_owned())
    }

    /// Loopback may serve only what a token endpoint on loopback granted, or what the user configured.
    fn may_serve(&self, url: &Url, found: Option<&Endpoints>) -> Result<bool> {
        if self.is_trusted(url) || Url::parse(&self.base_url).is_ok_and(|own| own.origin() == url.origin()) {
            return Ok(true);
        }
        if !is_loopback(url) {
            return Ok(false);
        }
        let configured = self.oauth.as_ref().and_then(|oauth| oauth.token_endpoint.as_deref());
        let configured = configured.map(http::endpoint).transpose()?;
        Ok(configured.as_ref().or(found.map(|found| &found.token_endpoint)).is_some_and(is_loopback))
    }

    /// Whether `resource_hosts` names the host: a name with all below it, an address for itself.
    fn is_trusted(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        let is_below = |known: &str| host.strip_suffix(known).is_some_and(|front| front.ends_with('.'));
        self.resource_hosts.iter().any(|known| host == known || url.domain().is_some() && is_below(known))
    }

    /// Whether this provider's keys may be sent to `base_url`, which a person entered: its own hosts and the local
    /// machine.
    pub(crate) fn owns(&self, base_url: &str) -> bool {
        let Ok(url) = Url::parse(base_url) else { return false };
        let own = std::iter::once(&self.base_url).chain(self.regions.values().map(|region| &region.base_url));
        self.base_url.is_empty()
            || is_loopback(&url)
            || self.is_trusted(&url)
            || own.filter_map(|own| Url::parse(own).ok()).any(|own| own.origin() == url.origin())
    }

    /// The name of the region that `base_url` is in: its address, or a host below that names the region.
    pub(crate) fn region_of(&self, base_url: &str) -> Option<&str> {
        let host = Url::parse(base_url).ok().and_then(|url| url.domain().map(str::to_owned)).unwrap_or_default();
        let is_named = |region: &Region| region.aliases.iter().any(|alias| host.split('.').any(|label| label == alias));
        let exact = self.regions.iter().find(|(_, region)| region.base_url == base_url);
        exact.or_else(|| self.regions.iter().find(|(_, region)| is_named(region))).map(|(name, _)| name.as_str())
    }
}
