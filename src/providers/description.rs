//! One provider's description: its fields, and the headers that follow from them.

mod anthropic;
mod authorization;
mod pages;
mod urls;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub(super) use self::anthropic::Anthropic;
pub(crate) use self::anthropic::KeyHeader;
pub(crate) use self::pages::{Page, in_words};
use super::error::Cause;
use crate::oauth::{ClientAuth, Dialect};

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
    pub(super) anthropic: Option<Anthropic>,
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
    /// How it is paid for.
    #[serde(default)]
    pub(crate) payment: Payment,
    #[serde(default)]
    pub(crate) use_for: String,
    #[serde(default)]
    pub(crate) ci: Ci,
    /// What the provider was tested against.
    #[serde(default)]
    pub(crate) tested: String,
    /// Sent with every API request; see [`Provider::headers`].
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// How a provider is paid for, in the order in which `providers` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Payment {
    PerToken,
    FreeWithinLimits,
    Subscription,
    /// A server of the user's own, or one that config.toml describes.
    #[default]
    Own,
    /// It no longer accepts new accounts.
    Ended,
}

impl Payment {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::PerToken => "pay as you go",
            Self::FreeWithinLimits => "free within limits",
            Self::Subscription => "subscription",
            Self::Own => "your own server",
            Self::Ended => "ended",
        }
    }
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
    /// Whether the server may accept requests without a key.
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
    /// Default audience of the ID token.
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
    /// Then the credential's validity is unknown.
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
    /// The OAuth login, if one is set up: a provider that requires the user's own registration has none before that.
    pub(crate) fn oauth(&self) -> Option<&Oauth> {
        self.oauth.as_ref().filter(|oauth| oauth.client_id.is_some())
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

    /// Those headers by name, with `{user-agent}` as it is in the data.
    pub(crate) fn header_templates(&self) -> &BTreeMap<String, String> {
        &self.headers
    }

    /// Whether nothing but its base URL is known: a server of the user's own.
    pub(crate) fn is_own_server(&self) -> bool {
        self.base_url.is_empty() || !super::is_built_in(&self.name)
    }

    /// The provider in a sentence. The title of a server that no description knows says what any such server is, so it has
    /// its base URL instead, or its name where that is not known (an empty `base_url`).
    pub(crate) fn called(&self, base_url: &str) -> String {
        match (self.base_url.is_empty() && super::is_built_in(&self.name), base_url) {
            (false, _) => self.title.clone(),
            (true, "") => format!("`{}`", self.name),
            (true, base_url) => base_url.to_owned(),
        }
    }

    pub(crate) fn label(&self) -> &str {
        self.label.as_deref().unwrap_or(&self.title)
    }
}
