//! Token exchange (RFC 8693): an ID token of a workload for an access token of the provider; one request.
//!
//! Hazard: an ID token proves who a job is to whoever is its audience. Rule: it goes to the one endpoint of the provider,
//! as every secret does: over TLS, past redirects, and never into a message.

use std::time::Duration;

use url::Url;

use super::TokenResponse;
use super::reply::{self, OauthError, TokenReply};
use crate::error::{Failed, Failure};
use crate::http::{self, Connection};
use crate::secret::{Secret, quoted};

pub(crate) const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// What an ID token is, where the provider's data say nothing else (RFC 8693 §3).
pub(crate) const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// The same under the other name that it may have there.
pub(crate) const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";

/// Where and how tokens are exchanged.
pub(crate) struct Exchange {
    pub(crate) endpoint: Url,
    pub(crate) subject_token_type: String,
    /// The fields that this endpoint wants besides.
    pub(crate) parameters: Vec<(String, String)>,
}

/// Why nothing was granted, by what to do next.
#[derive(Debug)]
pub(crate) enum NotGranted {
    /// The endpoint does not accept this workload.
    Refused(String),
    /// An OAuth error that is not about the workload, such as `invalid_scope`.
    OauthError(String),
    /// Says nothing about the workload.
    Temporary(Failed),
}

/// Exchanges `id_token`. What is exchanged is not spent, so a failure may be tried again.
pub(crate) fn request(
    exchange: &Exchange,
    connection: &Connection,
    id_token: &Secret,
    limit: Duration,
) -> Result<TokenResponse, NotGranted> {
    let mut fields = vec![
        ("grant_type", GRANT_TYPE),
        ("subject_token_type", exchange.subject_token_type.as_str()),
        ("subject_token", id_token.expose()),
    ];
    fields.extend(exchange.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let host = exchange.endpoint.host_str().unwrap_or_default();
    let reply = connection
        .post_form(&exchange.endpoint, &fields, &[], limit)
        .map_err(|trouble| NotGranted::Temporary(trouble.failed(host)))?;
    let temporary = |message: String| NotGranted::Temporary(Failed::new(Failure::Temporary, message));
    match reply::read(&reply) {
        TokenReply::Granted(grant) => Ok(grant),
        TokenReply::Pending => Err(temporary("the server's response contains no access token".into())),
        TokenReply::Error(error) => {
            let sentence = format!("`{host}` answered {}", error.sentence(&[id_token]));
            Err(match reply.status {
                // Some servers name an error of the request when there were too many.
                429 => temporary(sentence),
                _ if is_refusal(&error) => NotGranted::Refused(sentence),
                _ => NotGranted::OauthError(sentence),
            })
        }
        TokenReply::NotOauth(_) if matches!(reply.status, 401 | 403) && !reply.is_html() => {
            Err(NotGranted::Refused(format!("`{host}` answered {}", http::describe_status(reply.status))))
        }
        TokenReply::NotOauth(message) | TokenReply::NoToken(message) => Err(temporary(quoted(&message, &[id_token]))),
    }
}

/// Whether the error is about the ID token, the policy it was sent to or what the two may have (RFC 8693 §2.2.2).
fn is_refusal(error: &OauthError) -> bool {
    let about_the_workload = [
        "access_denied",
        "invalid_client",
        "invalid_grant",
        "invalid_request",
        "invalid_target",
        "invalid_token",
        "unauthorized_client",
    ];
    about_the_workload.contains(&error.code.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_about_the_workload_is_a_refusal() {
        for (code, refusal) in [
            ("invalid_grant", true),
            ("invalid_request", true),
            ("invalid_target", true),
            ("unsupported_grant_type", false),
            ("invalid_scope", false),
            ("slow_down", false),
        ] {
            assert_eq!(is_refusal(&OauthError { code: code.into(), description: None }), refusal, "{code}");
        }
    }
}
