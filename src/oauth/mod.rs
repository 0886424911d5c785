//! What an authorization server says: device code, authorization code, PKCE, refresh, exchange, revoke, discovery, signed tokens; no policy, no files.

pub(crate) mod code;
pub(crate) mod device;
pub(crate) mod discovery;
pub(crate) mod exchange;
pub(crate) mod fields;
pub(crate) mod jwt;
pub(crate) mod pkce;
pub(crate) mod refresh;
pub(crate) mod reply;
pub(crate) mod revoke;

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use url::Url;
use url::form_urlencoded::byte_serialize;
use zeroize::Zeroizing;

pub(crate) use self::discovery::Endpoints;
use self::reply::OauthError;
use crate::epoch;
use crate::error::{Failed, Failure, Reason};
use crate::http::{self, Connection, HeaderValue, Reply, TransportError};
use crate::secret::Secret;

/// Nobody approved the login before its code, or the time for it, ended.
pub(crate) fn not_in_time() -> Failed {
    Failed::new(Failure::LoginRequired, "the login was not approved in time").because(Reason::Expired)
}

/// How long until `expires_at`, in seconds since 1970 as noted by a pending login.
fn until(expires_at: f64, now: SystemTime) -> Duration {
    Duration::try_from_secs_f64(expires_at).unwrap_or_default().saturating_sub(epoch::since(now))
}

/// Limit of device, poll and verification requests.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Lifetime of an access token whose reply leaves out `expires_in` (RFC 6749 §5.1 allows it): short enough to renew
/// early rather than late.
const ASSUMED_LIFETIME: Duration = Duration::from_secs(3600);

/// An authorization server and this program's registration there.
#[derive(Debug, Clone)]
pub(crate) struct AuthorizationServer {
    /// Needed for a login only.
    pub(crate) device_authorization_endpoint: Option<Url>,
    pub(crate) token_endpoint: Url,
    pub(crate) revocation_endpoint: Option<Url>,
    pub(crate) client_id: String,
    /// Of a confidential client.
    pub(crate) client_secret: Option<Secret>,
    pub(crate) client_auth: ClientAuth,
    pub(crate) scope: String,
    /// RFC 8707 §2.
    pub(crate) resource: Option<String>,
    pub(crate) audience: Option<String>,
    /// Whether the device request has a PKCE challenge, S256 (RFC 7636).
    pub(crate) pkce: bool,
    pub(crate) dialect: Dialect,
}

impl AuthorizationServer {
    /// Posts a form to one of this server's endpoints, with the client's authentication and the tokens' audience.
    fn post(
        &self,
        connection: &Connection,
        url: &Url,
        fields: &[(&str, &str)],
        headers: &[(&'static str, HeaderValue)],
        limit: Duration,
    ) -> Result<Reply, TransportError> {
        let mut fields = fields.to_vec();
        let mut headers = headers.to_vec();
        for (name, value) in [("resource", &self.resource), ("audience", &self.audience)] {
            fields.extend(value.as_ref().map(|value| (name, value.as_str())));
        }
        match (&self.client_secret, self.client_auth) {
            (Some(secret), ClientAuth::Post) => fields.push(("client_secret", secret.expose())),
            (Some(secret), ClientAuth::Basic) => {
                // No text is without a value.
                let value = http::secret_value("Basic ", &basic(&self.client_id, secret));
                headers.extend(value.map(|value| ("authorization", value)));
            }
            (None, _) => {}
        }
        connection.post_form(url, &fields, &headers, limit)
    }

    /// `error` as a person reads it, without `sent` and the secret of this client, which a server may echo.
    fn sentence(&self, error: &OauthError, sent: &[&Secret]) -> String {
        let pair = self.client_secret.as_ref().map(|secret| basic(&self.client_id, secret));
        let secrets: Vec<&Secret> = sent.iter().copied().chain(&self.client_secret).chain(&pair).collect();
        error.sentence(&secrets)
    }
}

/// RFC 6749 §2.3.1: both halves are form-encoded first.
fn basic(client_id: &str, secret: &Secret) -> Secret {
    // At most three bytes for each, so that the buffer never moves and leaves a copy behind.
    let mut pair = Zeroizing::new(String::with_capacity(3 * (client_id.len() + secret.expose().len()) + 1));
    pair.extend(byte_serialize(client_id.as_bytes()));
    pair.push(':');
    pair.extend(byte_serialize(secret.expose().as_bytes()));
    Secret::new(STANDARD.encode(pair.as_bytes()))
}

/// How a confidential client proves itself at the token endpoint (RFC 6749 §2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ClientAuth {
    /// `client_secret_basic`, the default if a server names no method (RFC 8414 §2).
    #[default]
    Basic,
    /// `client_secret_post`
    Post,
}

/// How a server deviates from the RFCs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dialect {
    #[default]
    Standard,
    /// chat.qwen.ai: `{"status":"pending"}` with 200, `slow_down` with 429, any 401 for a dead device code,
    /// `invalid_request` for a dead refresh token, an `x-request-id` on the device request.
    Qwen,
}

/// The successful response of a token endpoint (RFC 6749 §5.1). An empty text counts as omitted.
#[derive(Debug, Clone)]
pub(crate) struct TokenResponse {
    pub(crate) access_token: Secret,
    pub(crate) refresh_token: Option<Secret>,
    /// The reply has a refresh token that cannot be sent back, such as an object. The one that was sent may be used up.
    pub(crate) has_unusable_refresh_token: bool,
    pub(crate) token_type: Option<String>,
    pub(crate) expires_in: Duration,
    pub(crate) scope: Option<String>,
    /// Qwen's: the host of the API, with or without scheme.
    pub(crate) resource_url: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_form_of_a_secret_that_a_server_echoes_is_repeated() {
        let url = Url::parse("https://corp.example/t").unwrap();
        let server = AuthorizationServer {
            device_authorization_endpoint: None,
            token_endpoint: url,
            revocation_endpoint: None,
            client_id: "c".into(),
            client_secret: Some(Secret::new("top secret".into())),
            client_auth: ClientAuth::Basic,
            scope: String::new(),
            resource: None,
            audience: None,
            pkce: false,
            dialect: Dialect::Standard,
        };
        let said = "client_secret=top+secret top secret Basic Yzp0b3Arc2VjcmV0 dc";
        let body = format!(r#"{{"error":"e","error_description":"{said}"}}"#);
        let reply = Reply {
            status: 400,
            content_type: String::new(),
            date: None,
            certificate: None,
            body: body.into_bytes().into(),
        };
        let error = reply::error_in(&reply).unwrap();
        assert_eq!(server.sentence(&error, &[&Secret::new("dc".into())]), "`e`: client_secret=… … Basic … …");
        let message = device::read(&server, &reply).map(|_| ()).unwrap_err().to_string();
        assert!(message.ends_with("`e`: client_secret=… … Basic … dc"), "{message}");
    }
}
