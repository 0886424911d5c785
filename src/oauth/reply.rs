//! One reading of a token endpoint's reply, for the device flow and for renewals alike.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{ASSUMED_LIFETIME, Grant};
use crate::http::Reply;
use crate::secret::{Secret, quoted};

/// What a reply of a token endpoint is.
pub(crate) enum Answer {
    Grant(Grant),
    /// Qwen's `{"status":"pending"}` with a 2xx.
    Pending,
    /// An OAuth error (RFC 6749 §5.2), with any status below 500.
    Error(OauthError),
    /// 5xx, 429, HTML of a firewall, broken JSON: it says nothing about the grant.
    NotOauth(String),
}

/// `error` and `error_description` of a reply.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct OauthError {
    #[serde(rename = "error")]
    pub(crate) code: String,
    #[serde(rename = "error_description")]
    pub(crate) description: Option<String>,
}

impl OauthError {
    /// The error as a person reads it. A server may echo what it was sent: `secrets` are masked.
    pub(crate) fn sentence(&self, secrets: &[&Secret]) -> String {
        let code = quoted(&self.code, secrets);
        match &self.description {
            Some(description) => format!("`{code}`: {}", quoted(description, secrets)),
            None => format!("`{code}`"),
        }
    }
}

#[derive(Deserialize)]
struct Tokens {
    access_token: Option<Secret>,
    refresh_token: Option<Secret>,
    // Whatever a server makes of these must not lose the tokens beside them: the old refresh token is spent.
    token_type: Option<Value>,
    expires_in: Option<Value>,
    scope: Option<Value>,
    resource_url: Option<Value>,
    status: Option<Value>,
}

/// Reads a reply. A 5xx is never an OAuth error, whatever it carries: the server is in trouble, not the grant.
pub(crate) fn read(reply: &Reply) -> Answer {
    let status = describe(reply.status);
    if reply.status >= 500 {
        return Answer::NotOauth(format!("the server answered {status}"));
    }
    if let Some(error) = error_in(reply) {
        return match error.code.as_str() {
            "temporarily_unavailable" | "server_error" => {
                Answer::NotOauth(format!("the server answered `{}`", error.code))
            }
            _ => Answer::Error(error),
        };
    }
    if reply.status == 429 {
        return Answer::NotOauth(format!("the server answered {status}"));
    }
    if reply.is_html() {
        return Answer::NotOauth(format!("the server answered {status} with HTML, as a firewall or login page does"));
    }
    if !(200..300).contains(&reply.status) {
        return Answer::NotOauth(format!("the server answered {status} without an OAuth error"));
    }
    match serde_json::from_slice::<Tokens>(&reply.body) {
        Ok(tokens) => granted(tokens),
        Err(_) => Answer::NotOauth("the server's reply is not the JSON it should be".into()),
    }
}

fn granted(tokens: Tokens) -> Answer {
    let filled = |secret: Option<Secret>| secret.filter(|secret| !secret.expose().is_empty());
    let text = |value: Option<Value>| value?.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    if let Some(access_token) = filled(tokens.access_token) {
        // No header can carry it, and a file that holds it counts as damaged.
        if access_token.expose().contains(char::is_control) {
            return Answer::NotOauth("the server's reply has an access token with control characters".into());
        }
        return Answer::Grant(Grant {
            access_token,
            refresh_token: filled(tokens.refresh_token),
            token_type: text(tokens.token_type),
            expires_in: tokens.expires_in.as_ref().and_then(seconds).unwrap_or(ASSUMED_LIFETIME),
            scope: text(tokens.scope),
            resource_url: text(tokens.resource_url),
        });
    }
    if tokens.status.as_ref().and_then(Value::as_str) == Some("pending") {
        return Answer::Pending;
    }
    Answer::NotOauth("the server's reply has no access token".into())
}

/// The OAuth error in a reply, if it is one. An `error` that is an object is another protocol's.
pub(crate) fn error_in(reply: &Reply) -> Option<OauthError> {
    serde_json::from_slice::<OauthError>(&reply.body).ok().filter(|error| !error.code.is_empty())
}

/// A positive number of seconds, as a number or as digits in a text; at most a century, so that sums do not overflow.
pub(super) fn seconds(value: &Value) -> Option<Duration> {
    const CENTURY: f64 = 100.0 * 365.25 * 86400.0;
    let seconds = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?;
    (seconds > 0.0).then(|| Duration::from_secs_f64(seconds.min(CENTURY)))
}

/// `502 Bad Gateway`.
pub(super) fn describe(status: u16) -> String {
    let reason = match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => return status.to_string(),
    };
    format!("{status} {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, content_type: &str, body: &str) -> Reply {
        Reply { status, content_type: content_type.into(), date: None, body: body.as_bytes().to_vec().into() }
    }

    #[test]
    fn an_error_in_a_5xx_says_nothing_about_the_grant() {
        assert!(matches!(read(&reply(503, "", r#"{"error":"invalid_grant"}"#)), Answer::NotOauth(_)));
        assert!(matches!(read(&reply(400, "", r#"{"error":"invalid_grant"}"#)), Answer::Error(_)));
        assert!(matches!(read(&reply(400, "", r#"{"error":"temporarily_unavailable"}"#)), Answer::NotOauth(_)));
        assert!(matches!(read(&reply(400, "", r#"{"error":"server_error"}"#)), Answer::NotOauth(_)));
        assert!(matches!(read(&reply(200, "", r#"{"error":"invalid_grant"}"#)), Answer::Error(_)));
        assert!(matches!(read(&reply(401, "", r#"{"error":{"code":"x"}}"#)), Answer::NotOauth(_)));
    }

    #[test]
    fn only_a_status_that_says_so_is_pending() {
        assert!(matches!(read(&reply(200, "", r#"{"status":"pending"}"#)), Answer::Pending));
        for body in [r#"{"status":"success"}"#, r#"{"access_token":""}"#, "{}"] {
            assert!(matches!(read(&reply(200, "", body)), Answer::NotOauth(_)), "{body}");
        }
    }

    #[test]
    fn a_status_is_said_with_its_reason() {
        let said = [400, 401, 403, 404, 429, 500, 502, 503, 504, 418].map(describe);
        let reasons = "400 Bad Request, 401 Unauthorized, 403 Forbidden, 404 Not Found, 429 Too Many Requests, \
                       500 Internal Server Error, 502 Bad Gateway, 503 Service Unavailable, 504 Gateway Timeout, 418";
        assert_eq!(said.join(", "), reasons);
    }

    #[test]
    fn seconds_are_positive_and_bounded() {
        assert_eq!(seconds(&"21600".into()), Some(Duration::from_secs(21600)));
        assert_eq!(seconds(&0.into()), None);
        assert_eq!(seconds(&(-5).into()), None);
        assert!(seconds(&f64::MAX.into()).is_some());
    }

    #[test]
    fn what_was_sent_is_masked_in_what_comes_back() {
        let error =
            OauthError { code: "invalid_grant".into(), description: Some("token rt-1 is dead\u{1b}[2J.".into()) };
        assert_eq!(error.sentence(&[&Secret::new("rt-1".into())]), "`invalid_grant`: token … is dead[2J");
    }
}
