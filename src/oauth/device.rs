//! The device authorization grant (RFC 8628), in the standard's form and Qwen's.
//!
//! Hazard: servers answer polls with anything from `slow_down` with any status to a firewall's HTML, and some never
//! send an interval. Rule: only an OAuth error (or Qwen's 401) ends a login; everything else is retried until the code
//! expires.

use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use url::Url;
use zeroize::Zeroizing;

use super::code::PendingCode;
use super::fields::Fields;
use super::pkce::Pkce;
use super::reply::{self, OauthError, TokenReply};
use super::{AuthorizationServer, Dialect, REQUEST_TIMEOUT, TokenResponse, not_in_time};
use crate::epoch;
use crate::error::{Failed, Failure, Reason, printable};
use crate::http::{self, Connection, HeaderValue, Network, Reply, is_loopback};
use crate::secret::Secret;

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// RFC 8628 §3.2: 5 s where the server names none. Qwen names none and its own client polls every 2 s.
const INTERVAL: Duration = Duration::from_secs(5);
const QWEN_INTERVAL: Duration = Duration::from_secs(2);

/// What a hostile or mistaken `interval` is held within.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(60);

/// RFC 8628 §3.5: each `slow_down` adds 5 s permanently.
const SLOW_DOWN: Duration = Duration::from_secs(5);

/// Even a practice server that allows an interval of 0 is not hammered.
const BREATH: Duration = Duration::from_millis(20);

/// RFC 8628 requires `expires_in`; where it is missing, a code lives this long: as long as Qwen's.
const ASSUMED_LIFETIME: Duration = Duration::from_secs(900);

const UNCHANGED: &str = "nothing was changed; retry later";

/// A device authorization that waits for a person.
pub(crate) struct Authorization {
    device_code: Secret,
    verifier: Option<Secret>,
    pub(crate) user_code: String,
    pub(crate) verification_uri: String,
    pub(crate) verification_uri_complete: Option<String>,
    pub(crate) expires_in: Duration,
    pub(crate) interval: Duration,
    connection: Connection,
}

/// A pending login as it is kept for a later process.
#[derive(Serialize, Deserialize)]
struct PendingNotes {
    /// The provider's name.
    #[serde(default)]
    provider: String,
    token_endpoint: String,
    client_id: String,
    device_code: Zeroizing<String>,
    verifier: Option<Zeroizing<String>>,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    /// Seconds since 1970.
    expires_at: f64,
    /// Seconds.
    interval: f64,
}

impl PendingNotes {
    /// Until the code expires.
    fn left(&self, now: SystemTime) -> Duration {
        super::until(self.expires_at, now)
    }
}

/// The provider of a login with these notes, of either kind.
pub(crate) fn provider_of(notes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        provider: String,
    }
    serde_json::from_slice::<Named>(notes).ok().map(|notes| notes.provider)
}

/// Whether these are the notes of a login, of this kind or by an authorization code, that has not expired.
pub(crate) fn may_be_approved(notes: &[u8], now: SystemTime) -> bool {
    serde_json::from_slice::<PendingNotes>(notes).is_ok_and(|notes| !notes.left(now).is_zero())
        || serde_json::from_slice::<PendingCode>(notes).is_ok_and(|notes| !notes.left(now).is_zero())
}

/// The reply of RFC 8628 §3.2, with the names that servers used before it.
pub(crate) struct DeviceReply {
    pub(crate) device_code: Secret,
    user_code: String,
    verification_uri: Option<String>,
    verification_uri_complete: Option<String>,
    expires_in: Option<Duration>,
    /// Seconds.
    interval: Option<f64>,
}

impl DeviceReply {
    /// Returns `None` without a device code and an address to open.
    fn of(fields: &Fields) -> Option<Self> {
        let text = |names| fields.text_of(names).map(|text| text.to_string());
        // Another scheme, such as `javascript:`, is not an address to send a person to.
        let web =
            |names: &[&str]| names.iter().filter_map(|name| fields.string(name)).find(|uri| is_web(&printable(uri)));
        let mut reply = Self {
            device_code: fields.secret("device_code")?,
            user_code: text(&["user_code"]).unwrap_or_default(),
            verification_uri: web(&["verification_uri", "verification_url"]),
            verification_uri_complete: web(&["verification_uri_complete", "verification_url_complete"]),
            expires_in: fields.seconds("expires_in"),
            interval: fields.number("interval"),
        };
        // An address that hides something is replaced by one that does not.
        let is_clean = |uri: &Option<String>| uri.as_ref().is_some_and(|uri| printable(uri) == *uri);
        if is_clean(&reply.verification_uri) && !is_clean(&reply.verification_uri_complete) {
            reply.verification_uri_complete = None;
        }
        (reply.verification_uri.is_some() || reply.verification_uri_complete.is_some()).then_some(reply)
    }

    /// How long the code may be approved.
    pub(crate) fn lifetime(&self) -> Duration {
        self.expires_in.unwrap_or(ASSUMED_LIFETIME)
    }

    /// Between two polls. `loopback`: whether the server is on this machine.
    pub(crate) fn interval(&self, dialect: Dialect, loopback: bool) -> Duration {
        let default = if dialect == Dialect::Qwen { QWEN_INTERVAL } else { INTERVAL };
        interval(self.interval, default, loopback)
    }
}

/// Requests a device code (RFC 8628 §3.1), with a PKCE challenge if the server supports it. This request and the polls
/// end early once `is_given_up`.
pub(crate) fn request(
    server: &AuthorizationServer,
    network: &Network,
    is_given_up: fn() -> bool,
) -> Result<Authorization> {
    let Some(url) = &server.device_authorization_endpoint else {
        return Failed::new(
            Failure::Other,
            format!("`{}` does not support the device flow", server.token_endpoint.host_str().unwrap_or_default()),
        )
        .hint(
            "its discovery document names no `device_authorization_endpoint` (RFC 8628); use an API key if the provider supports that",
        )
        .err();
    };
    let connection = network.connect(url)?.until(is_given_up);
    let pkce = server.pkce.then(Pkce::new);
    let mut fields = vec![("client_id", server.client_id.as_str())];
    if !server.scope.is_empty() {
        fields.push(("scope", server.scope.as_str()));
    }
    if let Some(pkce) = &pkce {
        fields.extend([("code_challenge", pkce.challenge.as_str()), ("code_challenge_method", "S256")]);
    }
    let mut headers = Vec::new();
    if server.dialect == Dialect::Qwen {
        let id = uuid::Uuid::new_v4().to_string();
        headers.extend(HeaderValue::try_from(id).map(|id| ("x-request-id", id)));
    }
    let reply = server
        .post(&connection, url, &fields, &headers, REQUEST_TIMEOUT)
        .map_err(|trouble| trouble.failed(host(server)).or_hint(UNCHANGED))?;
    let device = read(server, &reply)?;
    // The polls use the same connection, unless they go to another host: a connection is for one.
    let connection = if url.origin() == server.token_endpoint.origin() {
        connection
    } else {
        network.connect(&server.token_endpoint)?.until(is_given_up)
    };
    Ok(Authorization {
        expires_in: device.lifetime(),
        interval: device.interval(server.dialect, is_loopback(url)),
        device_code: device.device_code,
        verifier: pkce.map(|pkce| pkce.verifier),
        user_code: device.user_code,
        verification_uri: device.verification_uri.unwrap_or_default(),
        verification_uri_complete: device.verification_uri_complete,
        connection,
    })
}

pub(crate) fn read(server: &AuthorizationServer, reply: &Reply) -> Result<DeviceReply> {
    if reply.status < 500
        && reply.status != 429
        && let Some(error) = reply::error_in(reply)
    {
        return Failed::new(
            Failure::Other,
            format!("`{}` rejected the login request: {}", host(server), server.sentence(&error, &[])),
        )
        .because(Reason::Refused)
        .err();
    }
    let device = Fields::of(&reply.body).as_ref().and_then(DeviceReply::of);
    if let Some(device) = device.filter(|_| (200..300).contains(&reply.status)) {
        return Ok(device);
    }
    if reply.is_html() {
        return Err(temporary(&format!(
            "`{}` answered {} with HTML, probably from a firewall",
            host(server),
            http::describe_status(reply.status)
        )));
    }
    if !(200..300).contains(&reply.status) {
        return Err(temporary(&format!("`{}` answered {}", host(server), http::describe_status(reply.status))));
    }
    Err(temporary(&format!("the response of `{}` contains no device code", host(server))))
}

fn temporary(message: &str) -> anyhow::Error {
    Failed::new(Failure::Temporary, message).hint(UNCHANGED).into()
}

fn host(server: &AuthorizationServer) -> &str {
    server.token_endpoint.host_str().unwrap_or_default()
}

/// The server's interval within bounds; 0 is believed of this machine only.
fn interval(asked: Option<f64>, default: Duration, loopback: bool) -> Duration {
    match asked.filter(|seconds| !seconds.is_nan()) {
        Some(seconds) if seconds <= 0.0 && loopback => Duration::ZERO,
        Some(seconds) => {
            let seconds = seconds.clamp(SHORTEST_INTERVAL.as_secs_f64(), MAX_POLL_INTERVAL.as_secs_f64());
            Duration::from_secs_f64(seconds)
        }
        None => default,
    }
}

fn is_web(uri: &str) -> bool {
    Url::parse(uri).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some())
}

/// The outcome of one poll.
enum Poll {
    TokenResponse(TokenResponse),
    Pending,
    SlowDown,
    /// Not OAuth: logged and retried.
    Unclear(String),
    Over(Failed),
}

impl Authorization {
    /// The address a person should open: the one with the code in it, where there is one.
    pub(crate) fn url(&self) -> &str {
        self.verification_uri_complete.as_deref().unwrap_or(&self.verification_uri)
    }

    /// Whether [`Self::url`] is what it looks like, so that a browser may be sent there.
    pub(crate) fn may_be_opened(&self) -> bool {
        printable(self.url()) == self.url() && is_web(self.url())
    }

    /// Polls until the login is approved or denied, or `deadline` has passed. The first poll follows one interval,
    /// which `pause` waits for. Once `pause` returns `false`, the login is given up.
    pub(crate) fn wait(
        &self,
        server: &AuthorizationServer,
        deadline: Instant,
        pause: impl Fn(Duration) -> bool,
    ) -> Result<TokenResponse> {
        let mut interval = self.interval;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if !pause(interval.max(BREATH).min(left)) || Instant::now() >= deadline {
                return not_in_time().err();
            }
            match self.poll(server) {
                Poll::TokenResponse(grant) => return Ok(grant),
                Poll::Pending => log::info!("not approved yet; the server is asked every {} s", interval.as_secs()),
                Poll::SlowDown => {
                    interval += SLOW_DOWN;
                    log::info!("the server asks to poll less often: every {} s from now", interval.as_secs());
                }
                Poll::Unclear(what) => log::warn!("polling goes on: {what}"),
                Poll::Over(failed) => return Err(failed.into()),
            }
        }
    }

    /// What another process needs to finish this login at `server` of `provider`. It contains the device code: a secret.
    pub(crate) fn to_notes(&self, provider: &str, server: &AuthorizationServer, now: SystemTime) -> Zeroizing<Vec<u8>> {
        let expires_at = epoch::since(now + self.expires_in);
        let notes = PendingNotes {
            provider: provider.to_owned(),
            token_endpoint: server.token_endpoint.to_string(),
            client_id: server.client_id.clone(),
            device_code: Zeroizing::new(self.device_code.expose().to_owned()),
            verifier: self.verifier.as_ref().map(|verifier| Zeroizing::new(verifier.expose().to_owned())),
            user_code: self.user_code.clone(),
            verification_uri: self.verification_uri.clone(),
            verification_uri_complete: self.verification_uri_complete.clone(),
            expires_at: expires_at.as_secs_f64(),
            interval: self.interval.as_secs_f64(),
        };
        // A structure of texts and numbers is always JSON.
        Zeroizing::new(serde_json::to_vec_pretty(&notes).unwrap_or_default())
    }

    /// The login that [`Self::to_notes`] described, while it may still be approved. `None` for one at another server.
    pub(crate) fn from_notes(
        notes: &[u8],
        server: &AuthorizationServer,
        network: &Network,
        now: SystemTime,
        is_given_up: fn() -> bool,
    ) -> Result<Option<Self>> {
        let Ok(notes) = serde_json::from_slice::<PendingNotes>(notes) else { return Ok(None) };
        if notes.token_endpoint != server.token_endpoint.as_str() || notes.client_id != server.client_id {
            return Ok(None);
        }
        let left = notes.left(now);
        if left.is_zero() {
            return Ok(None);
        }
        let interval = Duration::try_from_secs_f64(notes.interval).unwrap_or(INTERVAL).min(MAX_POLL_INTERVAL);
        Ok(Some(Self {
            device_code: Secret::new(notes.device_code.to_string()),
            verifier: notes.verifier.map(|verifier| Secret::new(verifier.to_string())),
            user_code: notes.user_code,
            verification_uri: notes.verification_uri,
            verification_uri_complete: notes.verification_uri_complete,
            expires_in: left,
            interval,
            connection: network.connect(&server.token_endpoint)?.until(is_given_up),
        }))
    }

    fn poll(&self, server: &AuthorizationServer) -> Poll {
        let mut fields = vec![
            ("grant_type", GRANT_TYPE),
            ("client_id", server.client_id.as_str()),
            ("device_code", self.device_code.expose()),
        ];
        if let Some(verifier) = &self.verifier {
            fields.push(("code_verifier", verifier.expose()));
        }
        let reply = match server.post(&self.connection, &server.token_endpoint, &fields, &[], REQUEST_TIMEOUT) {
            Ok(reply) => reply,
            Err(trouble) => return Poll::Unclear(trouble.sentence(host(server))),
        };
        match reply::read(&reply) {
            TokenReply::Granted(grant) => Poll::TokenResponse(grant),
            TokenReply::NoToken(why) => {
                Poll::Over(Failed::new(Failure::Other, format!("the login was approved, but {why}")).hint(UNCHANGED))
            }
            TokenReply::Pending => Poll::Pending,
            TokenReply::Error(error) => self.judge(server, &error, reply.status),
            TokenReply::NotOauth(_) if reply.status == 429 => Poll::SlowDown,
            TokenReply::NotOauth(_) if reply.status == 401 && server.dialect == Dialect::Qwen && !reply.is_html() => {
                Poll::Over(expired())
            }
            TokenReply::NotOauth(what) => Poll::Unclear(what),
        }
    }

    /// RFC 8628 §3.5.
    fn judge(&self, server: &AuthorizationServer, error: &OauthError, status: u16) -> Poll {
        let mut secrets = vec![&self.device_code];
        secrets.extend(&self.verifier);
        let login = |message: &str| Failed::new(Failure::LoginRequired, message);
        match error.code.as_str() {
            "authorization_pending" => Poll::Pending,
            "slow_down" => Poll::SlowDown,
            _ if status == 429 => Poll::SlowDown,
            "access_denied" => Poll::Over(login("the login was denied").because(Reason::Denied)),
            "expired_token" => Poll::Over(expired()),
            "invalid_grant" => Poll::Over(login("the login is no longer valid").because(Reason::Expired)),
            _ if status == 401 && server.dialect == Dialect::Qwen => Poll::Over(expired()),
            _ => Poll::Over(
                Failed::new(
                    Failure::Other,
                    format!("the server ended the login with {}", server.sentence(error, &secrets)),
                )
                .because(Reason::Refused),
            ),
        }
    }
}

fn expired() -> Failed {
    Failed::new(Failure::LoginRequired, "the code has expired or was already used").because(Reason::Expired)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_held_within_bounds() {
        let seconds = |asked: f64, loopback| interval(Some(asked), INTERVAL, loopback).as_secs_f64();
        assert_eq!(interval(None, QWEN_INTERVAL, false), QWEN_INTERVAL);
        assert_eq!(seconds(0.0, true).to_bits(), 0.0_f64.to_bits());
        assert_eq!(seconds(0.0, false).to_bits(), 1.0_f64.to_bits());
        assert_eq!(seconds(-3.0, false).to_bits(), 1.0_f64.to_bits());
        assert_eq!(seconds(1e9, true).to_bits(), 60.0_f64.to_bits());
    }
}
