//! What an authorization server says: device code, PKCE, refresh, revoke; no policy, no files.

pub(crate) mod device;
pub(crate) mod pkce;
pub(crate) mod refresh;
mod reply;

use std::time::Duration;

use url::Url;

use crate::secret::Secret;

/// Limit of device, poll and verification requests (contract §3).
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(20);

/// Lifetime of an access token whose reply leaves out `expires_in` (RFC 6749 §5.1 allows it): short enough to renew
/// early rather than late.
const ASSUMED_LIFETIME: Duration = Duration::from_secs(3600);

/// An authorization server and this program's registration there.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) device_authorization_endpoint: Url,
    pub(crate) token_endpoint: Url,
    pub(crate) client_id: String,
    pub(crate) scope: String,
    /// Whether the device request carries a PKCE challenge, S256 (RFC 7636).
    pub(crate) pkce: bool,
    pub(crate) dialect: Dialect,
}

/// What a server says differently from the RFCs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dialect {
    #[default]
    Standard,
    /// chat.qwen.ai: `{"status":"pending"}` with 200, `slow_down` with 429, any 401 for a dead device code,
    /// `invalid_request` for a dead refresh token, an `x-request-id` on the device request.
    Qwen,
}

/// What a token endpoint grants (RFC 6749 §5.1). An empty text counts as left out.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) access_token: Secret,
    pub(crate) refresh_token: Option<Secret>,
    pub(crate) token_type: Option<String>,
    pub(crate) expires_in: Duration,
    pub(crate) scope: Option<String>,
    /// Qwen's: the host of the API, with or without scheme.
    pub(crate) resource_url: Option<String>,
}
