//! Anthropic's protocol: which requests use it, and the provider's endpoint for it.

use std::borrow::Cow;

use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue, InvalidHeaderValue};
use url::Url;

use crate::gateway::response::refusal::Refusal;
use crate::gateway::upstream::Fields;
use crate::http;
use crate::providers::{self, KeyHeader, Provider};
use crate::secret::Secret;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

const VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// The only version so far. Endpoints require one, and clients for other protocols send none.
const CURRENT_VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");

/// A provider's endpoint for the protocol, with the key in the form that it expects.
pub(in crate::gateway) struct Endpoint {
    /// Replaces `/v1` in the client's path.
    pub(in crate::gateway) base_path: String,
    key: (HeaderName, HeaderValue),
}

impl Endpoint {
    /// The endpoint for a credential whose other requests go to `base_url`; on the same host.
    pub(in crate::gateway) fn of(
        provider: &Provider,
        base_url: &str,
        token: &Secret,
    ) -> Result<Option<Self>, InvalidHeaderValue> {
        let Some(url) = provider.anthropic(base_url).and_then(|base| Url::parse(&base).ok()) else { return Ok(None) };
        let key = match provider.anthropic_auth() {
            KeyHeader::Bearer => (AUTHORIZATION, http::bearer(token)?),
            KeyHeader::XApiKey => (X_API_KEY, http::secret_value("", token)?),
        };
        Ok(Some(Self { base_path: format!("{}/v1", url.path().trim_end_matches('/')), key }))
    }

    /// Puts in the key and what else the endpoint requires.
    pub(in crate::gateway) fn address<'head>(&'head self, fields: &mut Fields<'head>) {
        let (name, value) = &self.key;
        fields.set(name.clone(), Cow::Borrowed(value));
        if fields.get(&VERSION).is_none() {
            fields.add(VERSION, Cow::Owned(CURRENT_VERSION));
        }
    }
}

/// Whether a request for `rest`, which follows `/v1`, uses Anthropic's protocol.
pub(in crate::gateway) fn speaks(rest: &str) -> bool {
    rest.strip_prefix("/messages").is_some_and(|more| more.is_empty() || more.starts_with(['/', '?']))
}

/// The response if `provider` has no endpoint for the protocol.
pub(in crate::gateway) fn missing(provider: &Provider) -> Refusal {
    let message = format!(
        "{} does not support Anthropic's protocol, so `/v1/messages` is not available; use a profile of one of {}",
        provider.title,
        providers::that_serve(Provider::has_anthropic)
    );
    Refusal::new(StatusCode::NOT_FOUND, "not_found", message).finally()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_what_is_below_them_speak_it() {
        for rest in ["/messages", "/messages?beta=true", "/messages/count_tokens", "/messages/batches/1"] {
            assert!(speaks(rest), "{rest}");
        }
        for rest in ["", "/", "/message", "/messages2", "/chat/messages", "?/messages"] {
            assert!(!speaks(rest), "{rest}");
        }
    }
}
