//! The proof of a login: the smallest request that the API really checks.

use anyhow::Result;
use serde_json::{Value, json};

use super::{Account, Credential};
use crate::http;
use crate::oauth::REQUEST_LIMIT;
use crate::providers::Provider;

/// What the API says of a credential.
pub(crate) enum Proof {
    Accepted,
    /// It answered and does not serve this credential, with its reason.
    Refused(String),
    /// It cannot be reached or is in trouble, which says nothing about the credential.
    Unclear(String),
}

impl Account {
    /// Asks the API for one token of an answer.
    ///
    /// Errors: a base URL that the credential must not be sent to.
    pub(crate) fn prove(&self, credential: &Credential) -> Result<Proof> {
        let provider = self.provider(credential)?;
        let base = provider.base_url(credential.resource_url.as_deref())?;
        let url = http::endpoint(&format!("{base}/chat/completions"))?;
        let body = json!({
            "model": Self::model(credential, &provider),
            "max_tokens": 1,
            "messages": [{"role": "system", "content": "Answer with one word."}, {"role": "user", "content": "hi"}],
        });
        let headers = provider.headers(&Provider::own_user_agent());
        let connection = self.network.connect(&url)?;
        Ok(match connection.post_json(&url, &body, &credential.access_token, &headers, REQUEST_LIMIT) {
            Err(trouble) => Proof::Unclear(trouble.sentence(url.host_str().unwrap_or_default())),
            Ok(reply) if reply.is_html() => {
                Proof::Unclear(format!("it answered {} with HTML, as a firewall does", reply.status))
            }
            Ok(reply) => judge(reply.status, &reply.body, credential),
        })
    }
}

/// 401 and 403 refuse the credential, and so does a 429 that says the quota is used up rather than "slower".
fn judge(status: u16, body: &[u8], credential: &Credential) -> Proof {
    let reply: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &reply["error"];
    let message = error["message"].as_str().or_else(|| reply["message"].as_str()).unwrap_or_default();
    let code = error["code"].as_str().or_else(|| reply["code"].as_str()).unwrap_or_default();
    let quota = code == "insufficient_quota" || message.to_lowercase().contains("quota");
    let reason = || {
        let said: String = message.chars().take(200).collect();
        let said = said.replace(credential.access_token.expose(), "…");
        let said = said.trim_end_matches(['.', ' ']);
        if said.is_empty() { format!("it answered {status}") } else { format!("it answered {status}: {said}") }
    };
    match status {
        200..300 => Proof::Accepted,
        401 | 403 => Proof::Refused(reason()),
        429 if quota => Proof::Refused(reason()),
        _ => Proof::Unclear(reason()),
    }
}
