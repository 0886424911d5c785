//! Revoking a token (RFC 7009): one request that may fail without harm.

use std::time::Duration;

use super::AuthorizationServer;
use super::reply;
use crate::http::{self, Connection};
use crate::secret::Secret;

/// Limit of the request.
const REVOCATION_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks the server to forget `token`, and with a refresh token all that came from it (RFC 7009 §2.1).
///
/// Errors: a sentence on why it may still be good.
pub(crate) fn request(
    server: &AuthorizationServer,
    connection: &Connection,
    token: &Secret,
    kind: &str,
) -> Result<(), String> {
    let Some(url) = &server.revocation_endpoint else { return Err("the server has no revocation endpoint".into()) };
    let fields = [("token", token.expose()), ("token_type_hint", kind), ("client_id", server.client_id.as_str())];
    let reply = server
        .post(connection, url, &fields, &[], REVOCATION_TIMEOUT)
        .map_err(|trouble| trouble.sentence(url.host_str().unwrap_or_default()))?;
    if (200..300).contains(&reply.status) {
        return Ok(());
    }
    match reply::error_in(&reply) {
        Some(error) => Err(format!("it answered {}", server.sentence(&error, &[token]))),
        None => Err(format!("it answered {}", http::describe_status(reply.status))),
    }
}
