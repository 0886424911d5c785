//! One reading of a token endpoint's reply, for the device flow and for renewals alike.

use super::fields::Fields;
use super::{ASSUMED_LIFETIME, TokenResponse};
use crate::error::note;
use crate::http::{self, Reply};
use crate::secret::{Secret, quoted};

/// What a reply of a token endpoint is.
pub(crate) enum TokenReply {
    Granted(TokenResponse),
    /// A grant whose access token is missing or cannot be used; with the reason.
    NoToken(String),
    /// Qwen's `{"status":"pending"}` with a 2xx.
    Pending,
    /// An OAuth error (RFC 6749 §5.2), with any status below 500.
    Error(OauthError),
    /// 5xx, 429, HTML of a firewall, broken JSON: the grant's validity is unknown.
    NotOauth(String),
}

/// `error` and `error_description` of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OauthError {
    pub(crate) code: String,
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

/// Reads a reply by its content, because servers send JSON with any content type. A 5xx is never an OAuth error,
/// whatever it contains: the server fails, not the grant.
pub(crate) fn read(reply: &Reply) -> TokenReply {
    let status = http::describe_status(reply.status);
    if reply.status >= 500 {
        return TokenReply::NotOauth(format!("the server answered {status}"));
    }
    let is_success = (200..300).contains(&reply.status);
    let fields = Fields::of(&reply.body);
    if let Some(fields) = fields.as_ref().filter(|_| is_success)
        && let Some(grant) = granted(fields)
    {
        return grant;
    }
    if let Some(error) = fields.as_ref().and_then(oauth_error) {
        return match error.code.as_str() {
            "temporarily_unavailable" | "server_error" => {
                TokenReply::NotOauth(format!("the server answered `{}`", error.code))
            }
            _ => TokenReply::Error(error),
        };
    }
    if reply.status == 429 {
        return TokenReply::NotOauth(format!("the server answered {status}"));
    }
    if reply.is_html() {
        return TokenReply::NotOauth(format!(
            "the server answered {status} with HTML, probably from a firewall or login page"
        ));
    }
    if !is_success {
        return TokenReply::NotOauth(format!("the server answered {status} without an OAuth error"));
    }
    match fields {
        Some(fields) if fields.string("status").as_deref() == Some("pending") => TokenReply::Pending,
        // Another object with a 2xx may come from a firewall.
        Some(fields) if GRANT.iter().any(|name| fields.names(name)) => {
            TokenReply::NoToken("the server's response contains no access token".into())
        }
        Some(_) => TokenReply::NotOauth("the server's response contains no access token".into()),
        None => TokenReply::NotOauth("the server's response is not valid JSON".into()),
    }
}

/// The fields of a grant (RFC 6749 §5.1).
const GRANT: [&str; 4] = ["access_token", "refresh_token", "token_type", "expires_in"];

/// The tokens of a reply. A number counts as a text. Only a missing access token is an error: an unusual field next to it
/// must not lose what the old refresh token was exchanged for.
fn granted(fields: &Fields) -> Option<TokenReply> {
    let access_token = fields.secret("access_token")?;
    if !is_sendable(&access_token) {
        return Some(TokenReply::NoToken(
            "the access token in the server's response contains characters that are not allowed in an HTTP \
            header"
                .into(),
        ));
    }
    let refresh_token = fields.secret("refresh_token").filter(is_sendable);
    let has_unusable_refresh_token = refresh_token.is_none() && fields.has("refresh_token");
    if has_unusable_refresh_token {
        note("the server sent a refresh token that is not a string; the login ends when its access token expires");
    }
    let text = |name| fields.text(name).map(|text| text.to_string());
    Some(TokenReply::Granted(TokenResponse {
        access_token,
        refresh_token,
        has_unusable_refresh_token,
        token_type: fields.string("token_type"),
        expires_in: fields.seconds("expires_in").unwrap_or(ASSUMED_LIFETIME),
        scope: text("scope"),
        resource_url: fields.string("resource_url"),
    }))
}

/// Whether a header can contain it (RFC 6750 §2.1), and every shell and file keeps it as it is.
pub(crate) fn is_sendable(token: &Secret) -> bool {
    token.expose().bytes().all(|byte| matches!(byte, 0x20..=0x7e))
}

/// The OAuth error in a reply, if it is one.
pub(crate) fn error_in(reply: &Reply) -> Option<OauthError> {
    Fields::of(&reply.body).as_ref().and_then(oauth_error)
}

/// An `error` that is an object belongs to another protocol. A description must be a string.
fn oauth_error(fields: &Fields) -> Option<OauthError> {
    Some(OauthError { code: fields.string("error")?, description: fields.string("error_description") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, content_type: &str, body: &str) -> Reply {
        Reply {
            status,
            content_type: content_type.into(),
            date: None,
            certificate: None,
            body: body.as_bytes().to_vec().into(),
        }
    }

    #[test]
    fn an_error_in_a_5xx_says_nothing_about_the_grant() {
        assert!(matches!(read(&reply(503, "", r#"{"error":"invalid_grant"}"#)), TokenReply::NotOauth(_)));
        assert!(matches!(read(&reply(400, "", r#"{"error":"invalid_grant"}"#)), TokenReply::Error(_)));
        assert!(matches!(read(&reply(400, "", r#"{"error":"temporarily_unavailable"}"#)), TokenReply::NotOauth(_)));
        assert!(matches!(read(&reply(400, "", r#"{"error":"server_error"}"#)), TokenReply::NotOauth(_)));
        assert!(matches!(read(&reply(200, "", r#"{"error":"invalid_grant"}"#)), TokenReply::Error(_)));
        assert!(matches!(read(&reply(401, "", r#"{"error":{"code":"x"}}"#)), TokenReply::NotOauth(_)));
    }

    #[test]
    fn only_a_status_that_says_so_is_pending() {
        assert!(matches!(read(&reply(200, "", r#"{"status":"pending"}"#)), TokenReply::Pending));
        for body in [r#"{"status":"success"}"#, "[]", "{}"] {
            assert!(matches!(read(&reply(200, "", body)), TokenReply::NotOauth(_)), "{body}");
        }
    }

    #[test]
    fn what_was_granted_is_read_whatever_surrounds_it() {
        for (content_type, body) in [
            ("text/html; charset=UTF-8", r#"{"access_token":"at"}"#),
            ("", "\u{feff}{\"access_token\":\"at\"}"),
            ("", r#" {"access_token":" at\n","token_type":5,"expires_in":{},"scope":7,"resource_url":[]}"#),
            ("", r#"{"access_token":"","access_token":"at","error":"","error_description":{}}"#),
            ("", r#"{"access_token":"at","error":null,"status":"pending"}"#),
            ("", r#"{"access_token":"at","error":"access_denied"}"#),
        ] {
            let TokenReply::Granted(grant) = read(&reply(200, content_type, body)) else { panic!("{body}") };
            assert_eq!((grant.access_token.expose(), grant.has_unusable_refresh_token), ("at", false), "{body}");
        }
    }

    #[test]
    fn a_number_is_a_token() {
        let TokenReply::Granted(grant) = read(&reply(200, "", r#"{"access_token":12345,"refresh_token":6789}"#)) else {
            panic!("not granted")
        };
        assert_eq!(grant.access_token.expose(), "12345");
        assert_eq!(grant.refresh_token.unwrap().expose(), "6789");
    }

    #[test]
    fn a_grant_without_a_usable_token_is_one_all_the_same() {
        for body in [
            r#"{"access_token":{}}"#,
            r#"{"access_token":" "}"#,
            r#"{"access_token":""}"#,
            r#"{"access_token":"文"}"#,
            r#"{"refresh_token":"rt","expires_in":3600}"#,
            r#"{"token_type":"Bearer"}"#,
        ] {
            assert!(matches!(read(&reply(200, "", body)), TokenReply::NoToken(_)), "{body}");
        }
        assert!(matches!(read(&reply(200, "", r#"{"status":"pending","access_token":null}"#)), TokenReply::Pending));
    }

    #[test]
    fn a_refresh_token_that_cannot_be_sent_is_dropped_and_the_access_token_kept() {
        for odd in ["{}", "[\"rt\"]", "true", "\"rt\\n2\"", "\"文\""] {
            let body = format!(r#"{{"access_token":"at","refresh_token":{odd}}}"#);
            let TokenReply::Granted(grant) = read(&reply(200, "", &body)) else { panic!("{body}") };
            assert!(grant.refresh_token.is_none() && grant.has_unusable_refresh_token, "{body}");
        }
        for absent in ["null", "\"\""] {
            let body = format!(r#"{{"access_token":"at","refresh_token":{absent}}}"#);
            let TokenReply::Granted(grant) = read(&reply(200, "", &body)) else { panic!("{body}") };
            assert!(grant.refresh_token.is_none() && !grant.has_unusable_refresh_token, "{body}");
        }
    }

    #[test]
    fn an_error_is_read_whatever_surrounds_it() {
        for body in [
            r#"{"error":"access_denied","error_description":{"x":1}}"#,
            "\u{feff}{\"error\":\"access_denied\",\"error_description\":5}",
            r#"{"error":"access_denied","error_description":"\ud800"}"#,
        ] {
            for content_type in ["text/html", "text/plain", "application/json"] {
                let TokenReply::Error(error) = read(&reply(400, content_type, body)) else { panic!("{body}") };
                assert_eq!(error, OauthError { code: "access_denied".into(), description: None }, "{body}");
            }
        }
    }

    #[test]
    fn what_was_sent_is_masked_in_what_comes_back() {
        let error =
            OauthError { code: "invalid_grant".into(), description: Some("token rt-1 is dead\u{1b}[2J.".into()) };
        assert_eq!(error.sentence(&[&Secret::new("rt-1".into())]), "`invalid_grant`: token … is dead[2J");
    }
}
