//! One provider's description: its fields, and the URLs, headers and server that follow from them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use url::Url;

use super::error::Cause;
use crate::error::{Failed, Failure};
use crate::http::{self, USER_AGENT, is_loopback};
use crate::oauth::exchange::{Exchange, JWT};
use crate::oauth::{AuthorizationServer, ClientAuth, Dialect, Endpoints};
use crate::platform::files::{self, Content, Privacy};
use crate::secret::Secret;

/// How to authenticate and where the API lives.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Provider {
    #[serde(skip)]
    pub(crate) name: String,
    pub(crate) title: String,
    /// The title in a list, where it is another.
    label: Option<String>,
    /// Other names that people type.
    #[serde(default)]
    pub(crate) aliases: Vec<String>,
    /// Whether it serves no models but Qwen's, so that its key in the environment means Qwen.
    #[serde(default)]
    pub(crate) qwen_only: bool,
    /// The price in at most 21 columns.
    #[serde(default)]
    pub(crate) cost: String,
    /// Shown once before a login.
    pub(crate) note: Option<String>,
    /// The alternative if the API rejects a login that succeeded.
    pub(crate) instead: Option<String>,
    /// OpenAI-compatible, without a trailing slash; empty where the user must give one.
    #[serde(default)]
    pub(crate) base_url: String,
    /// Hosts that a `resource_url` or a given base URL may name, themselves or below.
    #[serde(default)]
    pub(crate) resource_hosts: Vec<String>,
    pub(crate) default_region: Option<String>,
    #[serde(default)]
    pub(crate) regions: BTreeMap<String, Region>,
    pub(crate) default_model: Option<String>,
    #[serde(default)]
    pub(crate) models: Vec<Model>,
    pub(crate) oauth: Option<Oauth>,
    pub(crate) key: Option<Key>,
    /// A login in a browser that ends with an API key.
    pub(crate) authorize: Option<Authorize>,
    /// How the ID token of a workload is exchanged for one of the provider (RFC 8693).
    pub(crate) token_exchange: Option<TokenExchange>,
    #[serde(default)]
    pub(crate) verify: Verify,
    anthropic: Option<Anthropic>,
    /// Whether it serves `/responses`, where that is known.
    responses: Option<bool>,
    /// Where a key of at most 30 minutes is issued, as a path on the host of the base URL.
    pub(crate) short_lived: Option<String>,
    #[serde(default)]
    pub(crate) limits: Limits,
    /// Codes of its errors that mean something else elsewhere, or nothing.
    #[serde(default)]
    pub(crate) errors: BTreeMap<String, Cause>,
    /// Whether it gives accounts something for free, which its terms forbid to pool.
    #[serde(default)]
    pub(crate) free_accounts: bool,
    /// Its terms forbid that one account serves several people or passes its API on.
    #[serde(default)]
    pub(crate) no_sharing: bool,
    /// What it costs, in words.
    #[serde(default)]
    pub(crate) price: String,
    #[serde(default)]
    pub(crate) use_for: String,
    #[serde(default)]
    pub(crate) ci: Ci,
    /// What the tests of this program hold the provider against.
    #[serde(default)]
    pub(crate) tested: String,
    /// Sent with every API request; see [`Provider::headers`].
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// The provider's endpoint of Anthropic's protocol.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Anthropic {
    /// Its path on the host of the base URL; the key is sent as a bearer token.
    Path(String),
    Endpoint(AnthropicEndpoint),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct AnthropicEndpoint {
    path: String,
    #[serde(default)]
    auth: KeyHeader,
}

/// The header in which an endpoint expects the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KeyHeader {
    /// `Authorization: Bearer`
    #[default]
    Bearer,
    XApiKey,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Region {
    #[serde(default)]
    pub(crate) title: String,
    /// Places and names of the region that people type.
    #[serde(default)]
    pub(crate) aliases: Vec<String>,
    pub(crate) base_url: String,
    /// Where its keys are made, if elsewhere.
    pub(crate) key_page: Option<String>,
    /// The region that `key_page` is for, while the region of a key is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    country: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Model {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) name: String,
    /// Tokens.
    pub(crate) context: Option<u64>,
    /// Maximum tokens of a response.
    pub(crate) output: Option<u64>,
    #[serde(default)]
    pub(crate) input: Vec<String>,
}

/// How an API key is known.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Key {
    /// Environment variables, the preferred one first.
    #[serde(default)]
    pub(crate) variables: Vec<String>,
    /// For a key variable, the variables from which its readers take the base URL.
    #[serde(default)]
    pub(crate) base_url_variables: BTreeMap<String, Vec<String>>,
    /// Where a person gets one.
    pub(crate) page: Option<String>,
    /// Where a person deletes one; `{sha256}` is replaced by the key's hash.
    pub(crate) delete: Option<String>,
    /// How keys usually begin. A hint, never a condition.
    pub(crate) prefix: Option<String>,
    /// Whether the server may do without.
    #[serde(default)]
    pub(crate) optional: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Authorize {
    pub(crate) url: String,
    pub(crate) exchange: String,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenExchange {
    /// A whole URL, or a path below the base URL.
    pub(crate) endpoint: String,
    /// For whom the ID token is made out, where `login` is not told.
    pub(crate) audience: Option<String>,
    subject_token_type: Option<String>,
    /// Fields of the request; `{policy}` stands for what `--policy` names.
    #[serde(default)]
    parameters: BTreeMap<String, String>,
}

impl TokenExchange {
    const POLICY: &'static str = "{policy}";

    /// Whether a request names a policy.
    pub(crate) fn has_policy(&self) -> bool {
        self.parameters.values().any(|value| value.contains(Self::POLICY))
    }
}

/// The cheapest request that really checks a credential.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Verify {
    /// `chat`: a response of one token. Otherwise what is fetched: a path below the base URL or an absolute URL.
    pub(crate) get: String,
    /// What to do if the response is the same without a credential; omitted where the API is known to check.
    pub(crate) open: Option<WhenUnauthenticated>,
    /// Statuses that reject the credential, in addition to 401 and 403.
    #[serde(default)]
    pub(crate) refused: Vec<u16>,
}

impl Verify {
    /// The path of what is fetched, below the base URL or of an absolute URL.
    pub(crate) fn path(&self) -> &str {
        match self.get.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("", |at| &rest[at..]),
            None => &self.get,
        }
    }
}

impl Default for Verify {
    fn default() -> Self {
        Self { get: "models".into(), open: Some(WhenUnauthenticated::Chat), refused: Vec::new() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WhenUnauthenticated {
    /// Request a response of one token.
    Chat,
    /// Then nothing is known of the credential.
    Unclear,
    /// Then no credential is needed.
    Fine,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    pub(crate) text: String,
    pub(crate) requests_per_minute: Option<u32>,
    /// Requests that may be sent at once; if omitted, the limit per minute.
    pub(crate) burst: Option<u32>,
    pub(crate) requests_per_day: Option<u32>,
    /// The quotas of a plan, as far as the user states them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) requests_per_5h: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) requests_per_week: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) requests_per_month: Option<u32>,
    /// `00:00 Asia/Shanghai`
    pub(crate) day_resets: Option<String>,
    /// How long the "minute" of `requests_per_minute` is, if not 60 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) window: Option<String>,
    /// `Mon 00:00 Asia/Shanghai`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) week_resets: Option<String>,
    /// The keys that the user's configuration sets.
    #[serde(skip)]
    pub(super) own: Vec<String>,
}

impl Limits {
    /// Whether the user's configuration sets this key.
    pub(crate) fn is_own(&self, key: &str) -> bool {
        self.own.iter().any(|own| own == key)
    }
}

/// Whether the terms allow unattended use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ci {
    Allowed,
    Forbidden,
    #[default]
    Unclear,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Oauth {
    /// Its endpoints are found by discovery.
    pub(crate) issuer: Option<String>,
    device_authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    /// This program's registration; where it is missing, the user must bring their own.
    pub(crate) client_id: Option<String>,
    client_secret_file: Option<String>,
    pub(crate) client_secret_env: Option<String>,
    client_auth: Option<ClientAuth>,
    #[serde(default)]
    pub(crate) scopes: Vec<String>,
    /// RFC 8707.
    resource: Option<String>,
    audience: Option<String>,
    /// Whether the device request has a PKCE challenge.
    #[serde(default)]
    pkce: bool,
    #[serde(default)]
    dialect: Dialect,
}

impl Provider {
    pub(super) fn move_oauth_to(&mut self, url: &str) -> Result<()> {
        let base = http::endpoint(url)?;
        let Some(oauth) = &mut self.oauth else { return Ok(()) };
        for endpoint in [&mut oauth.device_authorization_endpoint, &mut oauth.token_endpoint].into_iter().flatten() {
            let path = Url::parse(endpoint)?.path().to_owned();
            *endpoint = base.join(&path)?.into();
        }
        Ok(())
    }

    /// The OAuth login, if one is set up: a provider that requires the user's own registration has none before that.
    pub(crate) fn oauth(&self) -> Option<&Oauth> {
        self.oauth.as_ref().filter(|oauth| oauth.client_id.is_some())
    }

    /// The authorization server, its URLs checked. `found`: what discovery found, where there is an issuer.
    pub(crate) fn server(&self, found: Option<&Endpoints>) -> Result<AuthorizationServer> {
        let Some(oauth) = &self.oauth else { bail!("provider `{}` has no OAuth", self.name) };
        let missing = |key: &str| {
            Failed::new(Failure::Other, format!("provider `{}` has no `{key}`", self.name))
                .hint(format!("set it under `[providers.{}]` in config.toml", self.name))
        };
        let device = match (&oauth.device_authorization_endpoint, found) {
            (Some(url), _) => Some(http::endpoint(url)?),
            (None, Some(found)) => found.device_authorization_endpoint.clone(),
            (None, None) => None,
        };
        let token = match (&oauth.token_endpoint, found) {
            (Some(url), _) => http::endpoint(url)?,
            (None, Some(found)) => found.token_endpoint.clone(),
            (None, None) => return Err(missing("issuer").into()),
        };
        let revocation = match (&oauth.revocation_endpoint, found) {
            (Some(url), _) => Some(http::endpoint(url)?),
            (None, found) => found.and_then(|found| found.revocation_endpoint.clone()),
        };
        Ok(AuthorizationServer {
            device_authorization_endpoint: device,
            token_endpoint: token,
            revocation_endpoint: revocation,
            client_id: oauth.client_id.clone().ok_or_else(|| missing("client_id"))?,
            client_secret: None,
            client_auth: oauth.client_auth.or_else(|| found.map(|found| found.client_auth)).unwrap_or_default(),
            scope: oauth.scopes.join(" "),
            resource: oauth.resource.clone(),
            audience: oauth.audience.clone(),
            pkce: oauth.pkce,
            dialect: oauth.dialect,
        })
    }

    /// How this provider exchanges ID tokens, for a credential whose requests go to `base_url`.
    ///
    /// Errors: usage, where it does not.
    pub(crate) fn exchange(&self, base_url: &str, policy: Option<&str>) -> Result<Exchange> {
        let Some(setting) = &self.token_exchange else {
            return Failed::new(Failure::Usage, format!("{} has no workload identity", self.title))
                .hint("for example `qwenauth login openrouter --workload-identity --policy ID`")
                .err();
        };
        let text = match setting.endpoint.split_once("://") {
            Some(_) => setting.endpoint.clone(),
            None => format!("{base_url}/{}", setting.endpoint.trim_start_matches('/')),
        };
        let endpoint =
            http::endpoint(&text).with_context(|| format!("`token_exchange` of provider `{}`", self.name))?;
        let value = |text: &String| text.replace(TokenExchange::POLICY, policy.unwrap_or_default());
        Ok(Exchange {
            endpoint,
            subject_token_type: setting.subject_token_type.clone().unwrap_or_else(|| JWT.to_owned()),
            parameters: setting.parameters.iter().map(|(name, text)| (name.clone(), value(text))).collect(),
        })
    }

    /// The secret of a confidential client: from its file, else from its variable, whose value config has read.
    pub(crate) fn client_secret(&self, variable: Option<&Secret>) -> Result<Option<Secret>> {
        let Some(oauth) = &self.oauth else { return Ok(None) };
        let failed = |why: String| {
            Failed::new(Failure::Other, format!("the client secret of provider `{}` {why}", self.name))
                .hint(format!("see `client_secret_file` and `client_secret_env` under `[providers.{}]`", self.name))
        };
        let text = match (&oauth.client_secret_file, &oauth.client_secret_env) {
            (Some(file), _) => match files::read(Path::new(file), Privacy::Secret)? {
                Content::Bytes(bytes) => match std::str::from_utf8(&bytes) {
                    Ok(text) => Secret::new(text.to_owned()),
                    Err(_) => return failed(format!("in `{file}` is not UTF-8")).err(),
                },
                Content::Missing => return failed(format!("is missing: there is no `{file}`")).err(),
                Content::Unfit(why) => return failed(format!("in `{file}` cannot be read: {why}")).err(),
            },
            (None, Some(name)) => match variable {
                Some(secret) => secret.clone(),
                None => return failed(format!("is missing: `{name}` is not set")).err(),
            },
            (None, None) => return Ok(None),
        };
        let trimmed = text.expose().trim();
        if trimmed.is_empty() || trimmed.chars().any(char::is_control) {
            return failed("is empty or has control characters".into()).err();
        }
        Ok(Some(Secret::new(trimmed.to_owned())))
    }

    /// Headers of every API request to this provider, with `user_agent` where they repeat it.
    pub(crate) fn headers(&self, user_agent: &str) -> Vec<(String, String)> {
        let own = self.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("user-agent"));
        // What repeats the User-Agent repeats the one that is sent.
        let sent = own.map_or_else(|| user_agent.to_owned(), |(_, own)| own.replace("{user-agent}", user_agent));
        let is_own = |name: &String| own.is_some_and(|(own, _)| own == name);
        let value = |name, text: &str| if is_own(name) { sent.clone() } else { text.replace("{user-agent}", &sent) };
        self.headers.iter().map(|(name, text)| (name.clone(), value(name, text))).collect()
    }

    /// The names of those headers.
    pub(crate) fn header_names(&self) -> impl Iterator<Item = &str> {
        self.headers.keys().map(String::as_str)
    }

    /// The same with `{user-agent}` as it is in the data.
    pub(crate) fn header_templates(&self) -> &BTreeMap<String, String> {
        &self.headers
    }

    /// Our own `User-Agent`, as [`http::Network`] sends it.
    pub(crate) fn own_user_agent() -> String {
        format!("{USER_AGENT} ({}; {})", std::env::consts::OS, std::env::consts::ARCH)
    }

    /// The base URL for a credential: from its `resource_url`, or else the provider's own.
    ///
    /// Errors: user info, plain `http`, or a host that is not the provider's: the token would be sent there.
    pub(crate) fn base_url(&self, resource_url: Option<&str>) -> Result<String> {
        let Some(resource) = resource_url.map(str::trim).filter(|resource| !resource.is_empty()) else {
            return self.own_base_url();
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

    /// The base of Anthropic's protocol for a credential whose requests go to `base_url`. Servers on the local machine
    /// (Ollama, vLLM, LM Studio, the practice provider) support it in addition to `OpenAI`'s.
    pub(crate) fn anthropic(&self, base_url: &str) -> Option<String> {
        let mut url = Url::parse(base_url).ok()?;
        match &self.anthropic {
            Some(Anthropic::Path(path) | Anthropic::Endpoint(AnthropicEndpoint { path, .. })) => url.set_path(path),
            None if is_loopback(&url) => url.set_path(url.path().to_owned().trim_end_matches("/v1")),
            None => return None,
        }
        Some(url.as_str().trim_end_matches('/').to_owned())
    }

    /// Puts the endpoint of Anthropic's protocol, if there is one, at `path` on the host of the base URL.
    pub(super) fn move_anthropic_to(&mut self, path: &str) {
        self.anthropic = self.anthropic.take().map(|_| Anthropic::Path(path.to_owned()));
    }

    /// Whether its data name such an endpoint.
    pub(super) fn has_anthropic(&self) -> bool {
        self.anthropic.is_some()
    }

    /// How the endpoint of [`Self::anthropic`] expects the key.
    pub(crate) fn anthropic_auth(&self) -> KeyHeader {
        match &self.anthropic {
            Some(Anthropic::Endpoint(endpoint)) => endpoint.auth,
            _ => KeyHeader::default(),
        }
    }

    /// Whether `/responses` is served at `base_url`. What a person configured and servers of this machine may serve it.
    pub(crate) fn has_responses(&self, base_url: &str) -> bool {
        let is_local = Url::parse(base_url).is_ok_and(|url| is_loopback(&url));
        self.responses.unwrap_or(is_local || self.base_url.is_empty() || !super::is_built_in(&self.name))
    }

    fn own_base_url(&self) -> Result<String> {
        if self.base_url.is_empty() {
            return Failed::new(Failure::Other, format!("provider `{}` has no `base_url`", self.name))
                .hint(format!("set it under `[providers.{}]` in config.toml", self.name))
                .err();
        }
        let url = http::endpoint(&self.base_url).with_context(|| format!("`base_url` of provider `{}`", self.name))?;
        Ok(url.as_str().trim_end_matches('/').to_owned())
    }

    /// Loopback may serve only what a token endpoint on loopback granted.
    fn may_serve(&self, url: &Url) -> Result<bool> {
        if is_loopback(url) {
            let Some(endpoint) = self.oauth.as_ref().and_then(|oauth| oauth.token_endpoint.as_deref()) else {
                return Ok(false);
            };
            return Ok(is_loopback(&http::endpoint(endpoint)?));
        }
        Ok(url.domain().is_some_and(|host| self.is_trusted(host)))
    }

    fn is_trusted(&self, host: &str) -> bool {
        self.resource_hosts
            .iter()
            .any(|known| host == known || host.strip_suffix(known.as_str()).is_some_and(|front| front.ends_with('.')))
    }

    /// Whether this provider's keys may be sent to `base_url`, which a person entered: its own hosts and the local
    /// machine.
    pub(crate) fn owns(&self, base_url: &str) -> bool {
        let Ok(url) = Url::parse(base_url) else { return false };
        let own = std::iter::once(&self.base_url).chain(self.regions.values().map(|region| &region.base_url));
        self.base_url.is_empty()
            || is_loopback(&url)
            || url.domain().is_some_and(|host| self.is_trusted(host))
            || own.filter_map(|own| Url::parse(own).ok()).any(|own| own.origin() == url.origin())
    }

    /// The name of the region that `base_url` is in: its address, or a host below that names the region.
    pub(crate) fn region_of(&self, base_url: &str) -> Option<&str> {
        let host = Url::parse(base_url).ok().and_then(|url| url.domain().map(str::to_owned)).unwrap_or_default();
        let is_named = |region: &Region| region.aliases.iter().any(|alias| host.split('.').any(|label| label == alias));
        let exact = self.regions.iter().find(|(_, region)| region.base_url == base_url);
        exact.or_else(|| self.regions.iter().find(|(_, region)| is_named(region))).map(|(name, _)| name.as_str())
    }

    pub(crate) fn label(&self) -> &str {
        self.label.as_deref().unwrap_or(&self.title)
    }

    /// Where keys of `region` are made. Where the region is not known, each page with the people it is for.
    pub(crate) fn key_pages(&self, region: Option<&str>) -> Vec<Page<'_>> {
        self.pages(self.key.as_ref().and_then(|key| key.page.as_deref()), region)
    }

    /// Where a key of `region` is deleted. A page of the key itself is the same in all regions.
    pub(crate) fn delete_pages(&self, region: Option<&str>) -> Vec<Page<'_>> {
        let delete = self.key.as_ref().and_then(|key| key.delete.as_deref());
        match delete {
            Some(url) if url.contains("{sha256}") => vec![Page { url, place: None }],
            url => self.pages(url, region),
        }
    }

    fn pages<'a>(&'a self, own: Option<&'a str>, region: Option<&str>) -> Vec<Page<'a>> {
        if let Some(region) = region.and_then(|name| self.regions.get(name)) {
            return region.key_page.as_deref().or(own).map(|url| Page { url, place: None }).into_iter().collect();
        }
        let apart =
            |region: &'a Region| Some(Page { url: region.key_page.as_deref()?, place: region.country.as_deref() });
        let mut pages: Vec<Page> =
            self.regions.values().filter_map(apart).filter(|page| page.place.is_some()).collect();
        let place = (!pages.is_empty()).then_some("elsewhere");
        pages.extend(own.map(|url| Page { url, place }));
        pages
    }
}

/// A page of a provider's console.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page<'a> {
    pub(crate) url: &'a str,
    /// `China`, `elsewhere`; `None` where there is one page for all.
    pub(crate) place: Option<&'a str>,
}

impl std::fmt::Display for Page<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.place {
            Some(place) => write!(formatter, "{} ({place})", self.url),
            None => formatter.write_str(self.url),
        }
    }
}

/// `A`, or `A (China) or B (elsewhere)`; `None` where no page is known.
pub(crate) fn in_words(pages: &[Page]) -> Option<String> {
    (!pages.is_empty()).then(|| pages.iter().map(Page::to_string).collect::<Vec<_>>().join(" or "))
}
