//! What a provider is; providers.toml holds the built-in ones as data.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use url::Url;

use crate::error::{Failed, Failure, printable};
use crate::http::{self, USER_AGENT, is_loopback};
use crate::oauth::{Dialect, Server};

const BUILT_IN: &str = include_str!("providers.toml");

/// The provider of the profile of the same name, whose credential file is Qwen Code's own.
pub(crate) const QWEN: &str = "qwen";

/// How to authenticate and where the API lives.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Provider {
    #[serde(skip)]
    pub(crate) name: String,
    pub(crate) title: String,
    /// Said once before a login.
    pub(crate) note: Option<String>,
    /// OpenAI-compatible, without a trailing slash.
    pub(crate) base_url: String,
    /// Hosts that a `resource_url` may name, themselves or below.
    #[serde(default)]
    pub(crate) resource_hosts: Vec<String>,
    pub(crate) default_model: Option<String>,
    pub(crate) oauth: Option<Oauth>,
    #[serde(default)]
    pub(crate) limits: Limits,
    /// Sent with every API request; see [`Provider::headers`].
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Oauth {
    device_authorization_endpoint: String,
    token_endpoint: String,
    pub(crate) client_id: String,
    pub(crate) scope: String,
    /// Whether the device request carries a PKCE challenge.
    #[serde(default)]
    pkce: bool,
    #[serde(default)]
    dialect: Dialect,
}

/// What the provider lets one account do.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    pub(crate) requests_per_minute: Option<u32>,
    /// How many of these may go out at once; all of them if absent.
    pub(crate) burst: Option<u32>,
    pub(crate) requests_per_day: Option<u32>,
    /// When the day begins: `00:00 Asia/Shanghai`.
    pub(crate) day_resets: Option<String>,
    /// How long the "minute" of `requests_per_minute` is, if not 60 s.
    pub(crate) window: Option<String>,
}

/// What the user's configuration and environment say about providers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    /// `[providers]` of config.toml.
    pub(crate) table: toml::Table,
    /// `QWENAUTH_QWEN_OAUTH_URL`: replaces scheme and host of both OAuth endpoints of `qwen`.
    pub(crate) qwen_oauth_url: Option<String>,
}

/// The provider called `name`: the built-in one under the user's `[providers.NAME]`.
pub(crate) fn find(name: &str, overrides: &Overrides) -> Result<Provider> {
    let mut built_in: toml::Table = toml::from_str(BUILT_IN).context("the built-in providers cannot be read")?;
    let mut known: Vec<String> = built_in.keys().chain(overrides.table.keys()).cloned().collect();
    known.dedup();
    let mut table = match built_in.remove(name) {
        Some(toml::Value::Table(table)) => table,
        _ => toml::Table::new(),
    };
    match overrides.table.get(name) {
        Some(toml::Value::Table(own)) => merge(&mut table, own),
        Some(_) => bail!("`[providers.{name}]` in config.toml is not a table"),
        None if table.is_empty() => return unknown(name, &known),
        None => {}
    }
    let mut provider: Provider = table.try_into().map_err(|error: toml::de::Error| {
        Failed::new(Failure::Other, format!("provider `{name}`: {}", error.message()))
    })?;
    name.clone_into(&mut provider.name);
    if name == QWEN
        && let Some(url) = &overrides.qwen_oauth_url
    {
        provider.move_oauth_to(url).context("`QWENAUTH_QWEN_OAUTH_URL`")?;
    }
    Ok(provider)
}

fn merge(into: &mut toml::Table, from: &toml::Table) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

fn unknown<T>(name: &str, known: &[String]) -> Result<T> {
    let failed = Failed::new(Failure::Usage, format!("there is no provider `{}`", printable(name)));
    let failed = match crate::error::nearest(name, known.iter().map(String::as_str)) {
        Some(near) => failed.hint(format!("did you mean `{near}`?")),
        None => failed.hint(format!("known are: {}", known.join(", "))),
    };
    failed.err()
}

impl Provider {
    fn move_oauth_to(&mut self, url: &str) -> Result<()> {
        let base = http::endpoint(url)?;
        let Some(oauth) = &mut self.oauth else { return Ok(()) };
        for endpoint in [&mut oauth.device_authorization_endpoint, &mut oauth.token_endpoint] {
            let path = Url::parse(endpoint)?.path().to_owned();
            *endpoint = base.join(&path)?.into();
        }
        Ok(())
    }

    /// The authorization server, its URLs checked.
    pub(crate) fn server(&self) -> Result<Server> {
        let Some(oauth) = &self.oauth else { bail!("provider `{}` has no OAuth", self.name) };
        Ok(Server {
            device_authorization_endpoint: http::endpoint(&oauth.device_authorization_endpoint)?,
            token_endpoint: http::endpoint(&oauth.token_endpoint)?,
            client_id: oauth.client_id.clone(),
            scope: oauth.scope.clone(),
            pkce: oauth.pkce,
            dialect: oauth.dialect,
        })
    }

    /// Headers every API request of this provider carries, with `user_agent` where they repeat it.
    pub(crate) fn headers(&self, user_agent: &str) -> Vec<(String, String)> {
        self.headers.iter().map(|(name, value)| (name.clone(), value.replace("{user-agent}", user_agent))).collect()
    }

    /// Our own `User-Agent`, as [`http::Network`] sends it.
    pub(crate) fn own_user_agent() -> String {
        format!("{USER_AGENT} ({}; {})", std::env::consts::OS, std::env::consts::ARCH)
    }

    /// The base URL for a credential: from its `resource_url` (contract §3), else the provider's own.
    ///
    /// Errors: user info, plain `http`, or a host that is not the provider's: such a URL would carry the token off.
    pub(crate) fn base_url(&self, resource_url: Option<&str>) -> Result<String> {
        let Some(resource) = resource_url.map(str::trim).filter(|resource| !resource.is_empty()) else {
            return Ok(self.base_url.trim_end_matches('/').to_owned());
        };
        let with_scheme = match resource.split_once("://") {
            Some(_) => resource.to_owned(),
            None => format!("https://{resource}"),
        };
        let url = http::endpoint(&with_scheme).context("the login's `resource_url`")?;
        if url.query().is_some() || url.fragment().is_some() || !self.may_serve(&url)? {
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
        let trimmed = url.as_str().trim_end_matches('/');
        Ok(if trimmed.ends_with("/v1") { trimmed.to_owned() } else { format!("{trimmed}/v1") })
    }

    /// Loopback may serve only what a token endpoint on loopback granted.
    fn may_serve(&self, url: &Url) -> Result<bool> {
        if is_loopback(url) {
            return Ok(is_loopback(&self.server()?.token_endpoint));
        }
        let Some(host) = url.domain() else { return Ok(false) };
        Ok(self
            .resource_hosts
            .iter()
            .any(|known| host == known || host.strip_suffix(known.as_str()).is_some_and(|front| front.ends_with('.'))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qwen() -> Provider {
        find(QWEN, &Overrides::default()).unwrap()
    }

    #[test]
    fn a_resource_url_becomes_a_base_url() {
        for (resource, base) in [
            ("portal.qwen.ai", "https://portal.qwen.ai/v1"),
            ("https://portal.qwen.ai/", "https://portal.qwen.ai/v1"),
            ("https://portal.qwen.ai/v1", "https://portal.qwen.ai/v1"),
            ("portal.qwen.ai/v1//", "https://portal.qwen.ai/v1"),
            ("qwen.ai", "https://qwen.ai/v1"),
            ("https://dashscope.aliyuncs.com/compatible-mode", "https://dashscope.aliyuncs.com/compatible-mode/v1"),
            ("", "https://portal.qwen.ai/v1"),
        ] {
            assert_eq!(qwen().base_url(Some(resource)).unwrap(), base, "{resource}");
        }
        assert_eq!(qwen().base_url(None).unwrap(), "https://portal.qwen.ai/v1");
    }

    #[test]
    fn a_resource_url_cannot_carry_the_token_off() {
        for resource in [
            "evil.example",
            "https://notqwen.ai",
            "https://qwen.ai.evil.example",
            "http://portal.qwen.ai",
            "https://qwen.ai@evil.example",
            "https://user:pass@portal.qwen.ai",
            "https://evil.example/?qwen.ai",
            "https://portal.qwen.ai/?next=x",
            "http://127.0.0.1:1",
            "https://127.0.0.1",
            "ftp://portal.qwen.ai",
            "https://",
        ] {
            assert!(qwen().base_url(Some(resource)).is_err(), "{resource}");
        }
    }

    #[test]
    fn loopback_serves_what_loopback_granted() {
        let overrides = Overrides { qwen_oauth_url: Some("http://127.0.0.1:9".into()), ..Overrides::default() };
        let provider = find(QWEN, &overrides).unwrap();
        assert_eq!(provider.base_url(Some("http://127.0.0.1:9")).unwrap(), "http://127.0.0.1:9/v1");
        assert_eq!(provider.server().unwrap().token_endpoint.as_str(), "http://127.0.0.1:9/api/v1/oauth2/token");
    }

    #[test]
    fn a_configured_host_is_trusted() {
        let table = toml::from_str("[qwen]\nresource_hosts = [\"corp.example\"]").unwrap();
        let provider = find(QWEN, &Overrides { table, ..Overrides::default() }).unwrap();
        assert!(provider.base_url(Some("https://api.corp.example")).is_ok());
    }

    #[test]
    fn an_unknown_provider_is_told_the_nearest() {
        let report = crate::error::Report::of(&find("qwne", &Overrides::default()).unwrap_err());
        assert_eq!(report.hint.as_deref(), Some("did you mean `qwen`?"));
        assert_eq!(report.failure, Failure::Usage);
    }
}
