//! Renewing an access token (RFC 6749 §6): one request and what its response means.

use std::time::Duration;

use super::reply::{self, OauthError, TokenReply};
use super::{AuthorizationServer, Dialect, TokenResponse};
use crate::error::{Failed, Failure};
use crate::http::{Connection, TransportError};
use crate::secret::Secret;

/// Limit of one request.
pub(crate) const REFRESH_TIMEOUT: Duration = Duration::from_secs(20);

/// Why there are no new tokens, by what to do next.
#[derive(Debug)]
pub(crate) enum NotRenewed {
    /// The refresh token is dead; only a new login helps.
    Refused(String),
    /// An OAuth error that is not about the token, such as `invalid_client`. The token stays.
    OauthError(String),
    /// The token's validity is unknown.
    Temporary {
        failed: Failed,
        /// Whether an immediate retry is harmless: the server reported that it did nothing, or no process was there to
        /// read the request. After a timeout the token may already be used up.
        again: bool,
        /// Whether the token is certainly not used up.
        is_kept: bool,
    },
}

/// Exchanges `refresh_token` for new tokens.
pub(crate) fn request(
    server: &AuthorizationServer,
    connection: &Connection,
    refresh_token: &Secret,
    limit: Duration,
) -> Result<TokenResponse, NotRenewed> {
    let fields = [
        ("grant_type", "refresh_token"),
        ("refresh_token", refresh_token.expose()),
        ("client_id", server.client_id.as_str()),
    ];
    let reply = server.post(connection, &server.token_endpoint, &fields, &[], limit).map_err(|trouble| {
        let host = server.token_endpoint.host_str().unwrap_or_default();
        NotRenewed::Temporary {
            failed: trouble.failed(host),
            again: matches!(trouble, TransportError::Refused(_)),
            is_kept: !matches!(trouble, TransportError::Unknown(_)),
        }
    })?;
    match reply::read(&reply) {
        TokenReply::Granted(grant) => Ok(grant),
        TokenReply::Pending => {
            let failed = Failed::new(Failure::Temporary, "the server's response contains no access token");
            Err(NotRenewed::Temporary { failed, again: false, is_kept: false })
        }
        TokenReply::NotOauth(message) | TokenReply::NoToken(message) => {
            let again = reply.status >= 500 || reply.status == 429;
            // A server that fails may have accepted the token before, and a proxy that lost its server passed the request
            // on. A server that says it is too busy (RFC 9110 §15.6.4) did not begin.
            let is_kept = matches!(reply.status, 300..=499 | 503);
            Err(NotRenewed::Temporary { failed: Failed::new(Failure::Temporary, message), again, is_kept })
        }
        TokenReply::Error(error) => {
            let sentence = format!("the server answered {}", server.sentence(&error, &[refresh_token]));
            if is_refusal(server.dialect, &error, reply.status) {
                return Err(NotRenewed::Refused(sentence));
            }
            if reply.status == 429 {
                let failed = Failed::new(Failure::Temporary, sentence);
                return Err(NotRenewed::Temporary { failed, again: true, is_kept: true });
            }
            Err(NotRenewed::OauthError(sentence))
        }
    }
}

/// `invalid_grant` (RFC 6749 §5.2); from Qwen also 400 or 401 `invalid_request` about the refresh token (its own words: `Invalid refresh token or
/// client_id`).
fn is_refusal(dialect: Dialect, error: &OauthError, status: u16) -> bool {
    let about_the_token = || {
        error.description.as_deref().is_some_and(|text| text.to_lowercase().replace('_', " ").contains("refresh token"))
    };
    error.code == "invalid_grant"
        || dialect == Dialect::Qwen
            && matches!(status, 400 | 401)
            && error.code == "invalid_request"
            && about_the_token()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_dead_refresh_token_is_a_refusal() {
        let about = "Invalid refresh token or client_id";
        for (dialect, status, code, description, refusal) in [
            (Dialect::Standard, 400, "invalid_grant", "", true),
            (Dialect::Qwen, 500, "invalid_grant", "", true),
            (Dialect::Qwen, 400, "invalid_request", about, true),
            (Dialect::Qwen, 401, "invalid_request", "the refresh_token is unknown", true),
            (Dialect::Standard, 400, "invalid_request", about, false),
            (Dialect::Qwen, 403, "invalid_request", about, false),
            (Dialect::Qwen, 400, "invalid_client", about, false),
            (Dialect::Qwen, 400, "invalid_request", "client_id is missing", false),
        ] {
            let error = OauthError { code: code.into(), description: Some(description.into()) };
            assert_eq!(is_refusal(dialect, &error, status), refusal, "{dialect:?} {status} {code}: {description}");
        }
    }
}
