//! Decides about a request: whether it is allowed, whose it is, and where it is sent.
//!
//! Hazard: any page open in a browser can send requests to a port of this machine, under a name of its own (DNS
//! rebinding), and any user of the machine can connect.
//! Rule: before anything else a request must name this machine as its host and come from no foreign page; nothing but
//! the two health checks, a page for members, which holds no secret, and the exchange of tokens is answered without the key.
//!
//! ```text
//! gateway_key.rs  the key that clients show, kept in a file where asked
//! route.rs        where the path of a request leads
//! own_pages.rs    what the gateway serves of its own: health, metrics, the page for members
//! well_known.rs   what sets a member's opencode up for this gateway
//! ```

pub(crate) mod gateway_key;
pub(super) mod own_pages;
mod route;
pub(super) mod well_known;

use std::rc::Rc;

use hyper::header::{
    ALLOW, AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, TRANSFER_ENCODING, UPGRADE,
};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use subtle::ConstantTimeEq;

use self::own_pages::{healthy, json, members_page, metrics_page, readiness, with};
use self::route::{is_of_account, route};
use super::Gateway;
use super::forward::forward;
use super::keys::exchange;
use super::keys::key_limits;
use super::profiles::served_profile::ServedProfile;
use super::request::client_body::ClientBody;
use super::response::refusal::Refusal;
use super::response::response_body::ResponseBody;
use super::server::{MAX_HEAD_SIZE, Peer};
use super::telemetry::traffic::Entry;
use crate::keys::KeyRecord;

/// Where other APIs have the key.
static KEY_HEADERS: [HeaderName; 2] = [HeaderName::from_static("x-api-key"), HeaderName::from_static("api-key")];

/// What is done with a request.
enum Admitted {
    /// The part of its path after `/v1` is sent to a profile.
    Forwarded {
        served: Rc<ServedProfile>,
        rest: String,
        key: Option<Rc<KeyRecord>>,
    },
    /// A token of a CI job is exchanged for a key.
    Exchanged,
    /// The gateway answers by itself.
    Answered(Response<ResponseBody>),
    Refused(Refusal),
}

impl From<Refusal> for Admitted {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

pub(super) async fn answer(gateway: &Gateway, peer: &Peer, request: Request<ClientBody>) -> Response<ResponseBody> {
    let mut entry = gateway.traffic.begin(request.method(), request.uri().path());
    match admit(gateway, peer, &request, &mut entry).await {
        Admitted::Forwarded { served, rest, key } => forward(gateway, served, request, rest, key, entry).await,
        Admitted::Exchanged => {
            let response = match &gateway.team {
                Some(team) => Box::pin(exchange::exchange(team, request, &mut entry)).await,
                None => key_limits::unknown_key().into_response(),
            };
            entry.answered(response.status());
            response
        }
        Admitted::Answered(response) => {
            entry.answered(response.status());
            response
        }
        Admitted::Refused(refusal) => refuse(&mut entry, refusal),
    }
}

/// The response, with the code of `refusal` as the reason in the log.
fn refuse(entry: &mut Entry, refusal: Refusal) -> Response<ResponseBody> {
    entry.refused(refusal.status, refusal.code);
    refusal.into_response()
}

async fn admit(gateway: &Gateway, peer: &Peer, request: &Request<ClientBody>, entry: &mut Entry) -> Admitted {
    if is_forbidden(request.method()) {
        let message = format!("the gateway does not forward {}", request.method());
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message).finally();
        let allowed = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
        return Admitted::Answered(with(refuse(entry, refusal), ALLOW, allowed));
    }
    if let Err(refusal) = check_source(gateway, gateway.checks_host, request) {
        return refusal.into();
    }
    match request.uri().path() {
        "/healthz" => return Admitted::Answered(healthy()),
        "/readyz" => return Admitted::Answered(Box::pin(readiness(gateway)).await),
        _ => {}
    }
    if let (Some(way), Some(members)) = (well_known::way(request.uri().path()), &gateway.members)
        && request.method() == Method::GET
    {
        return Admitted::Answered(members_page(way, members));
    }
    let exchanges = gateway.team.as_ref().is_some_and(|team| !team.issuers.is_empty());
    if exchanges && request.method() == Method::POST && request.uri().path() == exchange::PATH {
        return Admitted::Exchanged;
    }
    let key = match authenticate(gateway, request.headers(), entry).await {
        Ok(key) => key,
        Err(refusal) => return refusal.into(),
    };
    peer.is_known();
    if wants_websocket(request.headers()) {
        let message = "the gateway speaks HTTP/1.1 only, not WebSocket: send the request without `Upgrade`";
        let refusal = Refusal::new(StatusCode::UPGRADE_REQUIRED, "websocket_not_supported", message).finally();
        let response = with(refuse(entry, refusal), UPGRADE, "HTTP/1.1");
        return Admitted::Answered(with(response, CONNECTION, "upgrade"));
    }
    let is_get = request.method() == Method::GET;
    // A key of one person does not show what the others do.
    if request.uri().path() == "/metrics" && gateway.options.metrics && is_get && key.is_none() {
        return Admitted::Answered(Box::pin(metrics_page(gateway)).await);
    }
    if let (Some(team), Some(key)) = (&gateway.team, &key)
        && request.uri().path() == "/v1/key"
        && (is_get || request.method() == Method::HEAD)
    {
        let (left, now) = (team.engine.left(key).await, team.engine.now());
        let mut response = json(&key_limits::describe(key, &left, now));
        key_limits::stamp(response.headers_mut(), key, &left, now);
        return Admitted::Answered(response);
    }
    let Some((profile, rest)) = route(request.uri()) else {
        let message = "not found: the API is under `/v1`, or `/p/PROFILE/v1` with `--all-profiles`";
        return Refusal::new(StatusCode::NOT_FOUND, "not_found", message).into();
    };
    if key.is_some() && is_of_account(&rest) {
        let message =
            "not found: what the account has used is not shown with this key; `GET /v1/key` shows the key's own limits";
        return Refusal::new(StatusCode::NOT_FOUND, "not_found", message).into();
    }
    match gateway.profiles.find(profile.as_deref()) {
        Ok(served) => Admitted::Forwarded { served, rest, key },
        Err(message) => Refusal::new(StatusCode::NOT_FOUND, "profile_not_found", message).into(),
    }
}

/// Methods whose answers would carry the credential back (TRACE, and TRACK of old IIS; RFC 9110 §9.3.8) or turn the
/// connection into a tunnel (CONNECT). Servers compare them in other ways than by case.
fn is_forbidden(method: &Method) -> bool {
    ["TRACE", "TRACK", "CONNECT"].iter().any(|name| method.as_str().eq_ignore_ascii_case(name))
}

/// Whether a client offers to go on as a WebSocket. Any other offer may be ignored (RFC 9110 §7.8).
fn wants_websocket(headers: &HeaderMap) -> bool {
    let offers = headers.get_all(UPGRADE).into_iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let names = offers.filter_map(|offer| offer.split(|byte| *byte == b'/').next());
    names.into_iter().any(|name| name.trim_ascii().eq_ignore_ascii_case(b"websocket"))
}

/// How long a head is, about: hyper's bound is one of its buffer, which may have room for twice as much.
fn head_length(uri: &Uri, headers: &HeaderMap) -> usize {
    let line = uri.path_and_query().map_or(0, |path| path.as_str().len());
    line + headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>()
}

pub(super) fn check_source(gateway: &Gateway, checks_host: bool, request: &Request<ClientBody>) -> Result<(), Refusal> {
    let (uri, headers) = (request.uri(), request.headers());
    if head_length(uri, headers) > MAX_HEAD_SIZE {
        let message = format!("the request line and headers exceed {} KiB", MAX_HEAD_SIZE / 1024);
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(Refusal::new(status, "request_head_too_large", message).finally());
    }
    if request.version() == Version::HTTP_11 && !headers.contains_key(HOST) {
        let message = "the request has no `Host` header";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "invalid_host", message).finally());
    }
    if headers.get_all(HOST).iter().nth(1).is_some() {
        let message = "the request has more than one `Host` header";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "invalid_host", message).finally());
    }
    if !is_chunked_alone(headers) {
        let message = "the gateway accepts no transfer coding other than `chunked`: compress with `Content-Encoding`";
        return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "transfer_coding_not_supported", message).finally());
    }
    if checks_host {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let named = [host, uri.authority().map(hyper::http::uri::Authority::as_str)];
        if host.is_none() || !named.into_iter().flatten().all(|host| is_local(gateway, host)) {
            let message = "the `Host` header names another host: this gateway accepts `localhost`, `127.0.0.1`, `[::1]` and names given \
                with `--allow-host`";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "host_not_allowed", message).finally());
        }
    }
    for origin in headers.get_all(ORIGIN) {
        let host = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
        if !host.is_some_and(|host| is_local(gateway, host)) {
            let message =
                "the request comes from a page of another site: cross-origin browser requests are not allowed";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "origin_not_allowed", message).finally());
        }
    }
    Ok(())
}

/// Whether a body is framed in no other way than by its length or in chunks. The last coding is the only one that is
/// removed here (RFC 9112 §6.1).
fn is_chunked_alone(headers: &HeaderMap) -> bool {
    let codings: Vec<_> = headers.get_all(TRANSFER_ENCODING).iter().collect();
    codings.is_empty() || matches!(codings[..], [one] if one.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

/// `host` with or without a port.
fn is_local(gateway: &Gateway, host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|known| name.eq_ignore_ascii_case(known))
        || gateway.options.allow_hosts.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Whose key a request has: `None` is the gateway's own. The log gets its id, also of one that is not valid any more.
///
/// Errors: it has none that is valid.
async fn authenticate(
    gateway: &Gateway,
    headers: &HeaderMap,
    entry: &mut Entry,
) -> Result<Option<Rc<KeyRecord>>, Refusal> {
    let is_own = {
        let own = gateway.key.borrow();
        shown_keys(headers).any(|shown| shown.ct_eq(own.expose().as_bytes()).into())
    };
    if is_own {
        entry.note_own_key();
        return Ok(None);
    }
    let Some(team) = &gateway.team else {
        let message = "the gateway's key is missing or wrong: it was printed by `qwenauth gateway` or is in its `--api-key-file`; under \
            `qwenauth exec --gateway` it is `OPENAI_API_KEY`";
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message).finally());
    };
    for text in shown_keys(headers).filter_map(|shown| std::str::from_utf8(shown).ok()) {
        if let Some(key) = Box::pin(team.identify(text, &mut entry.outcome.key)).await? {
            return Ok(Some(key));
        }
    }
    Err(if shown_keys(headers).any(|shown| !shown.is_empty()) { team.unknown() } else { key_limits::no_key() })
}

/// The texts in all places of keys: the bearer token, or the headers of other APIs.
pub(super) fn shown_keys(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let bearer = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).and_then(|value| {
        let (scheme, key) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
    });
    let others = KEY_HEADERS.iter().filter_map(|name| headers.get(name)).map(HeaderValue::as_bytes);
    bearer.into_iter().chain(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_websocket_is_found_among_other_offers() {
        let offers = |values: &[&'static str]| -> HeaderMap {
            values.iter().map(|value| (UPGRADE, HeaderValue::from_static(value))).collect()
        };
        for values in [&["websocket"][..], &["WebSocket"], &["h2c, websocket"], &["h2c", "WEBSOCKET/13"]] {
            assert!(wants_websocket(&offers(values)), "{values:?}");
        }
        for values in [&[][..], &["h2c"], &["TLS/1.0"], &["websockets"], &["x-websocket"]] {
            assert!(!wants_websocket(&offers(values)), "{values:?}");
        }
    }
}
