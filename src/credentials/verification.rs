//! Verifies a login with the smallest request for which the API really checks the credential.
//!
//! Hazard: some servers answer requests without a credential, so a 200 proves nothing. Rule: unless a provider is known
//! to check, the same request is sent without the credential; if both responses are the same, nothing is proved.

use std::time::SystemTime;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Credential, CredentialSource, endpoints, exchanged, remember_verification};
use crate::error::{Failed, Failure, Report};
use crate::http::{self, Connection, Network, Reply, TransportError};
use crate::oauth::REQUEST_TIMEOUT;
use crate::providers::error::{ApiError, Cause, Response};
use crate::providers::{Provider, WhenUnauthenticated};
use crate::secret::{Secret, quoted};

/// What the API's response means for a credential.
#[derive(Debug)]
pub(crate) enum Verification {
    Accepted,
    /// The API does not know this credential; with its reason.
    Refused(String),
    /// It knows the credential, but the account has nothing left: unpaid, or its quota is used up.
    Exhausted(String),
    /// Unreachable or failing; the credential's validity is unknown.
    Unclear(Failed),
    /// No request can tell a valid credential from another; with the reason.
    Unverifiable(String),
}

/// What is verified, and where.
pub(crate) struct VerificationRequest<'a> {
    pub(crate) provider: &'a Provider,
    pub(crate) base_url: &'a str,
    pub(crate) token: &'a Secret,
    pub(crate) model: Option<&'a str>,
    pub(crate) network: &'a Network,
}

/// Verifies the stored `credential` at its API, and records the outcome.
///
/// Errors: a base URL that the credential must not be sent to.
pub(crate) fn verify(source: &CredentialSource, credential: &Credential) -> Result<Verification> {
    let resolved = match (&credential.identity, &source.given) {
        (Some(identity), _) if credential.is_without_secret() => exchanged(source, credential, identity),
        // A key is known in one region only, and rejected by the others.
        (_, Some(given)) => given.resolve(source),
        _ => return prove_token(source, credential),
    };
    let verification = match resolved {
        Ok(credential) => return prove_token(source, &credential),
        Err(error) => {
            let report = Report::of(&error);
            if report.failure == Failure::LoginRequired {
                Verification::Refused(report.message)
            } else {
                Verification::Unclear(report.into())
            }
        }
    };
    remember_verification(source, credential, &verification);
    Ok(verification)
}

fn prove_token(source: &CredentialSource, credential: &Credential) -> Result<Verification> {
    let provider = source.provider(credential)?;
    let base_url = credential.base_url(&provider)?;
    let model = endpoints::model_of(source, credential, &provider);
    let credential = source.with_secret(credential.clone())?;
    let token = &credential.access_token;
    let network = &source.network;
    let request =
        VerificationRequest { provider: &provider, base_url: &base_url, token, model: model.as_deref(), network };
    let verification = request.ask()?;
    remember_verification(source, &credential, &verification);
    Ok(verification)
}

impl VerificationRequest<'_> {
    /// Errors: a URL that no request can be sent to.
    pub(crate) fn ask(&self) -> Result<Verification> {
        // Only the model API itself knows a login that is not a key.
        if self.provider.verify.get == "chat" || self.provider.oauth().is_some() {
            let Some(model) = self.model_to_ask() else {
                let why = "the test request needs a model; name one with `--model`";
                return Ok(Verification::Unverifiable(why.into()));
            };
            return self.chat(&model);
        }
        let url = http::endpoint(&self.location())?;
        let connection = self.network.connect(&url)?;
        let headers = self.headers();
        let reply = connection.get(&url, Some(self.token), &headers, REQUEST_TIMEOUT);
        let verification = self.judge(reply, &url);
        let (Verification::Accepted, Some(open)) = (&verification, self.provider.verify.open) else {
            return Ok(verification);
        };
        let is_open = matches!(
            connection.get(&url, None, &headers, REQUEST_TIMEOUT),
            Ok(reply) if (200..300).contains(&reply.status) && !reply.is_html()
        );
        let model = if is_open && open == WhenUnauthenticated::Chat { self.model_to_ask() } else { None };
        match (open, model) {
            _ if !is_open => Ok(verification),
            (WhenUnauthenticated::Fine, _) => Ok(verification),
            (WhenUnauthenticated::Chat, Some(model)) => self.chat(&model),
            (WhenUnauthenticated::Chat | WhenUnauthenticated::Unclear, _) => {
                Ok(Verification::Unverifiable("it also accepts requests without a key".into()))
            }
        }
    }

    /// A server that no description has a model of may list one.
    fn model_to_ask(&self) -> Option<String> {
        self.model.map(str::to_owned).or_else(|| self.models().into_iter().next())
    }

    /// A whole URL belongs to the provider's own base URL; a key for another one stays there.
    fn location(&self) -> String {
        let get = &self.provider.verify.get;
        if !get.contains("://") {
            return format!("{}/{get}", self.base_url);
        }
        if self.base_url == self.provider.base_url { get.clone() } else { format!("{}/models", self.base_url) }
    }

    fn headers(&self) -> Vec<(String, String)> {
        self.provider.headers(&http::user_agent())
    }

    /// Requests a response of one token.
    fn chat(&self, model: &str) -> Result<Verification> {
        let url = http::endpoint(&format!("{}/chat/completions", self.base_url))?;
        let body = json!({
            "model": model,
            "max_tokens": 1,
            "messages": [{"role": "system", "content": "Answer with one word."}, {"role": "user", "content": "hi"}],
        });
        let connection: Connection = self.network.connect(&url)?;
        let reply = connection.post_json(&url, &body, Some(self.token), &self.headers(), REQUEST_TIMEOUT);
        Ok(self.judge(reply, &url))
    }

    /// The models that the server lists, if it does; for a server without a description.
    pub(crate) fn models(&self) -> Vec<String> {
        let Ok(url) = http::endpoint(&format!("{}/models", self.base_url)) else { return Vec::new() };
        let reply = self
            .network
            .connect(&url)
            .ok()
            .and_then(|connection| connection.get(&url, Some(self.token), &self.headers(), REQUEST_TIMEOUT).ok());
        let Some(reply) = reply.filter(|reply| reply.status == 200) else { return Vec::new() };
        let list: Value = serde_json::from_slice(reply.text()).unwrap_or_default();
        let models = list["data"].as_array().into_iter().flatten();
        models.filter_map(|model| model["id"].as_str()).map(str::to_owned).collect()
    }

    fn judge(&self, reply: Result<Reply, TransportError>, url: &url::Url) -> Verification {
        let is_local = http::is_loopback(url) && self.provider.key.as_ref().is_some_and(|key| key.optional);
        match reply {
            Err(trouble) if is_local => Verification::Unclear(trouble.failed_locally(url)),
            Err(trouble) => Verification::Unclear(trouble.failed(host(url))),
            Ok(reply) if reply.is_html() => {
                unclear(format!("it answered {} with HTML, probably from a firewall", reply.status))
            }
            Ok(reply) => judge(self.provider, reply.status, &reply.body, self.token, self.model),
        }
    }
}

fn host(url: &url::Url) -> &str {
    url.host_str().unwrap_or_default()
}

/// What a response means for the credential, by the one reader of errors: the account or a window may be used up although
/// the credential is known.
fn judge(provider: &Provider, status: u16, body: &[u8], token: &Secret, model: Option<&str>) -> Verification {
    if (200..300).contains(&status) {
        return Verification::Accepted;
    }
    let secrets = &[token][..];
    let response = Response { status, header: &|_| None, body, model, secrets, now: SystemTime::now() };
    let error = ApiError::read(&response, &provider.errors);
    let said = quoted(&error.message, &[token]);
    let with_said = |what: String| if said.is_empty() { what } else { format!("{what}: {said}") };
    let answered = || with_said(format!("it answered {status}"));
    match error.cause {
        Cause::Credential => Verification::Refused(answered()),
        Cause::FreeTier | Cause::Unpaid => Verification::Exhausted(with_said(error.cause.sentence().into())),
        cause if cause.is_window() => Verification::Exhausted(with_said(cause.sentence().into())),
        _ if status == 403 || provider.verify.refused.contains(&status) => Verification::Refused(answered()),
        _ if status == 404 => unclear("it answered 404; base URLs usually end with `/v1`".into()),
        _ => unclear(answered()),
    }
}

fn unclear(why: String) -> Verification {
    Verification::Unclear(Failed::new(Failure::Temporary, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::{self, Overrides};

    #[test]
    fn an_answer_says_whether_the_key_or_the_account_is_at_fault() {
        let mut provider = providers::find("custom", &Overrides::default()).unwrap();
        provider.verify.refused = vec![400];
        let judged = |status, body: &str| judge(&provider, status, body.as_bytes(), &Secret::new("sk-1".into()), None);
        assert!(matches!(judged(200, "{}"), Verification::Accepted));
        assert!(
            matches!(judged(401, r#"{"error":{"message":"no"}}"#), Verification::Refused(why) if why == "it answered 401: no")
        );
        assert!(matches!(judged(403, r#"{"code":"AllocationQuota.FreeTierOnly"}"#), Verification::Exhausted(_)));
        assert!(matches!(
            judged(403, r#"{"error":{"code":"AllocationQuota.FreeTierOnly"}}"#),
            Verification::Exhausted(_)
        ));
        assert!(matches!(judged(400, r#"{"code":"Arrearage"}"#), Verification::Exhausted(_)));
        assert!(matches!(judged(402, "{}"), Verification::Exhausted(_)));
        assert!(matches!(judged(400, "{}"), Verification::Refused(_)));
        assert!(matches!(judged(429, r#"{"error":{"message":"slower"}}"#), Verification::Unclear(_)));
        assert!(matches!(judged(429, r#"{"error":{"code":"insufficient_quota"}}"#), Verification::Unclear(_)));
        assert!(matches!(judged(429, r#"{"errors":{"message":"Daily quota exceeded"}}"#), Verification::Exhausted(_)));
        assert!(matches!(
            judged(412, r#"{"error":{"message":"the account is suspended"}}"#),
            Verification::Exhausted(_)
        ));
        assert!(matches!(judged(404, ""), Verification::Unclear(why) if why.message.ends_with("end with `/v1`")));
        assert!(matches!(judged(502, ""), Verification::Unclear(_)));
        assert!(
            matches!(judged(401, r#"{"error":{"message":"bad sk-1"}}"#), Verification::Refused(why) if why.ends_with("bad …"))
        );
    }
}
