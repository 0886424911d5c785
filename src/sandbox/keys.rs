//! Providers with API keys, as the practice provider serves them, each below `/practice/NAME`.
//!
//! Any key that begins with `practice-` is accepted, any other is rejected; an unknown model is rejected in the
//! provider's own form.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::Url;

use crate::providers::{self, KEY_PREFIX, Overrides, Provider};

/// The name of one provider, which a dot and the name of a region may follow, and the rest of a request's path.
pub(super) fn split(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/practice/")?;
    let (place, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    Some((place.split_once('.').map_or(place, |(name, _)| name), rest))
}

/// The built-in provider of that name, with its own data.
pub(super) fn provider(name: &str) -> Option<Provider> {
    providers::find(name, &Overrides::default()).ok()
}

/// A key that the practice provider accepts.
pub(super) fn new_key() -> String {
    format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 9]>()))
}

/// Whether `provider` accepts `key`; a server of this machine may do without.
pub(super) fn accepts(provider: &Provider, key: &str) -> bool {
    let optional = provider.key.as_ref().is_some_and(|key| key.optional);
    key.len() > KEY_PREFIX.len() && key.starts_with(KEY_PREFIX) || optional && key.is_empty()
}

/// The models that `provider` serves; a server without a description serves one.
pub(super) fn models(provider: &Provider) -> Vec<String> {
    let mut models: Vec<String> = provider.models.iter().map(|model| model.id.clone()).collect();
    models.extend(provider.default_model.clone().filter(|model| !models.contains(model)));
    if models.is_empty() {
        models.push("practice-model".to_owned());
    }
    models
}

/// The list of models, as `GET /v1/models` shows it.
pub(super) fn list(provider: &Provider) -> Value {
    let row = |id: &String| json!({ "id": id, "object": "model", "created": 1_776_211_200, "owned_by": provider.name });
    json!({ "object": "list", "data": models(provider).iter().map(row).collect::<Vec<_>>() })
}

/// The model that a request names and `provider` does not serve.
pub(super) fn unknown_model(provider: &Provider, body: &[u8]) -> Option<String> {
    let request: Value = serde_json::from_slice(body).ok()?;
    let model = request.get("model")?.as_str().unwrap_or_default().to_owned();
    (!models(provider).contains(&model)).then_some(model)
}

/// Logins in a browser that wait for their exchange: the challenge of each code.
#[derive(Default)]
pub(super) struct Authorizations(HashMap<String, String>);

/// More are forgotten: each is worth one practice key.
const MAX_AUTHORIZATIONS: usize = 1000;

impl Authorizations {
    /// Approves at once. Returns where the browser goes next: the loopback callback of the request, with a code.
    pub(super) fn approve(&mut self, query: &HashMap<String, String>) -> Option<Url> {
        let mut callback = Url::parse(query.get("callback_url")?).ok()?;
        if callback.scheme() != "http" || callback.host_str() != Some("127.0.0.1") {
            return None;
        }
        let code = self.code(query)?;
        callback.query_pairs_mut().append_pair("code", &code);
        Some(callback)
    }

    /// A code, to be redeemed with the challenge's verifier.
    pub(super) fn code(&mut self, query: &HashMap<String, String>) -> Option<String> {
        let challenge = query.get("code_challenge")?;
        if self.0.len() >= MAX_AUTHORIZATIONS {
            self.0.clear();
        }
        let code = format!("practice-code-{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 12]>()));
        self.0.insert(code.clone(), challenge.clone());
        Some(code)
    }

    /// A key for a code and its verifier, once.
    pub(super) fn exchange(&mut self, body: &[u8]) -> Option<Value> {
        let request: Value = serde_json::from_slice(body).ok()?;
        let challenge = self.0.remove(request["code"].as_str()?)?;
        let verifier = request["code_verifier"].as_str()?;
        let matches = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)) == challenge;
        matches.then(|| json!({ "key": new_key() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_practice_keys_are_accepted() {
        let dashscope = provider("dashscope").unwrap();
        assert!(accepts(&dashscope, &new_key()));
        for refused in ["", "sk-0123456789", "practice-", "Practice-1"] {
            assert!(!accepts(&dashscope, refused), "{refused}");
        }
        assert!(accepts(&provider("ollama").unwrap(), ""));
    }

    #[test]
    fn a_model_that_the_provider_does_not_name_is_unknown() {
        let dashscope = provider("dashscope").unwrap();
        assert_eq!(unknown_model(&dashscope, br#"{"model":"gpt-5"}"#).as_deref(), Some("gpt-5"));
        let known = json!({ "model": dashscope.default_model }).to_string();
        assert_eq!(unknown_model(&dashscope, known.as_bytes()), None);
    }

    #[test]
    fn a_code_is_worth_one_key_for_its_verifier_only() {
        let mut authorizations = Authorizations::default();
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest("verifier"));
        let query = |callback: &str| {
            HashMap::from([
                ("callback_url".to_owned(), callback.to_owned()),
                ("code_challenge".to_owned(), challenge.clone()),
            ])
        };
        for foreign in ["https://example.com/", "http://example.com/", "http://127.0.0.1.example.com/"] {
            assert_eq!(authorizations.approve(&query(foreign)), None, "{foreign}");
        }
        let url = authorizations.approve(&query("http://127.0.0.1:9/callback/x")).unwrap();
        let code = url.query_pairs().next().unwrap().1.into_owned();
        let body = |verifier: &str| json!({ "code": code, "code_verifier": verifier }).to_string();
        assert!(authorizations.exchange(body("verifier").as_bytes()).is_some());
        assert!(authorizations.exchange(body("verifier").as_bytes()).is_none());
        let code = authorizations.code(&query("http://127.0.0.1:9/")).unwrap();
        let body = json!({ "code": code, "code_verifier": "another" }).to_string();
        assert!(authorizations.exchange(body.as_bytes()).is_none());
    }
}
