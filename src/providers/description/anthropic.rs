//! A provider's endpoint of Anthropic's protocol, beside the one of OpenAI's.

use serde::Deserialize;
use url::Url;

use super::Provider;
use crate::error::{Failed, Failure};
use crate::http::is_loopback;

/// The provider's endpoint of Anthropic's protocol.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(in crate::providers) enum Anthropic {
    /// Its path on the host of the base URL; the key is sent as a bearer token.
    Path(String),
    Endpoint(Endpoint),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::providers) struct Endpoint {
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

impl Anthropic {
    fn path(&self) -> &str {
        match self {
            Self::Path(path) | Self::Endpoint(Endpoint { path, .. }) => path,
        }
    }

    fn auth(&self) -> KeyHeader {
        match self {
            Self::Path(_) => KeyHeader::default(),
            Self::Endpoint(endpoint) => endpoint.auth,
        }
    }
}

impl Provider {
    /// The base of Anthropic's protocol for a credential whose requests go to `base_url`. Servers on the local machine
    /// (Ollama, vLLM, LM Studio, the practice provider) support it in addition to `OpenAI`'s.
    pub(crate) fn anthropic(&self, base_url: &str) -> Option<String> {
        let mut url = Url::parse(base_url).ok()?;
        match &self.anthropic {
            Some(anthropic) => url.set_path(anthropic.path()),
            None if is_loopback(&url) => url.set_path(url.path().to_owned().trim_end_matches("/v1")),
            None => return None,
        }
        Some(url.as_str().trim_end_matches('/').to_owned())
    }

    /// Whether it has that endpoint at its own base URL.
    pub(crate) fn has_anthropic(&self) -> bool {
        self.anthropic(&self.base_url).is_some()
    }

    /// What to say where a tool needs that endpoint of a server of the user's own: only the user knows whether it has one.
    pub(crate) fn unknown_anthropic(&self, tool: &str, profile: &str) -> Failed {
        let message =
            format!("{tool} needs an Anthropic endpoint, and none is known of the server of profile `{profile}`");
        Failed::new(Failure::Other, message)
            .hint(format!("if it has one, write `anthropic = \"/\"` under `[providers.{}]` in config.toml", self.name))
    }

    /// How the endpoint of [`Self::anthropic`] expects the key.
    pub(crate) fn anthropic_auth(&self) -> KeyHeader {
        self.anthropic.as_ref().map(Anthropic::auth).unwrap_or_default()
    }
}
