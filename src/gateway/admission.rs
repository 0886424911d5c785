//! Decides about a request: whether it is allowed, whose it is, and where it is sent.
//!
//! Hazard: any page open in a browser can send requests to a port of this machine, under a name of its own (DNS
//! rebinding), and any user of the machine can connect.
//! Rule: before anything else a request must name this machine as its host and come from no foreign page; nothing but
//! the two health checks, a page for members, which holds no secret, and the exchange of tokens is answered without the key.

use std::rc::Rc;

use hyper::header::{
    ALLOW, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, RETRY_AFTER,
    UPGRADE,
};
use hyper::{Method, Request, Response, StatusCode, Uri};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;

use super::client_body::ClientBody;
use super::forward::forward;
use super::refusal::{self, Refusal};
use super::response_body::ResponseBody;
use super::served_profile::ServedProfile;
use super::server::{MAX_HEAD_SIZE, Peer};
use super::traffic::Entry;
use super::well_known::{self, Members, Way};
use super::{Gateway, exchange, key_limits, metrics};
use crate::keys::KeyRecord;
use crate::limits::shared::Health;

/// Where other APIs have the key.
static KEY_HEADERS: [HeaderName; 2] = [HeaderName::from_static("x-api-key"), HeaderName::from_static("api-key")];

/// What is done with a request.
enum Admitted {
    /// The part of its path after `/v1` is sent to a profile.
    Forwarded { served: Rc<ServedProfile>, rest: String, key: Option<Rc<KeyRecord>> },
    /// A token of a CI job is exchanged for a key.
    Exchanged,
    /// The gateway answers by itself.
    Answered(Response<ResponseBody>),
}

impl From<Refusal> for Admitted {
    fn from(refusal: Refusal) -> Self {
        Self::Answered(refusal.into_response())
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
    }
}

/// What is served at `--metrics-listen`.
pub(super) async fn answer_scraper(
    gateway: &Gateway,
    checks_host: bool,
    request: &Request<ClientBody>,
) -> Response<ResponseBody> {
    if let Err(refusal) = check_source(gateway, checks_host, request.uri(), request.headers()) {
        return refusal.into_response();
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let message = "metrics are read-only: use GET";
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message).finally();
        return with(refusal.into_response(), ALLOW, "GET, HEAD");
    }
    match request.uri().path() {
        "/metrics" => plain("text/plain; version=0.0.4", metrics::text(gateway).await),
        "/healthz" => json(&json!({ "status": "ok" })),
        "/readyz" => readiness(gateway).await,
        _ => {
            let message = "not found: this address has `/metrics`, `/healthz` and `/readyz`";
            Refusal::new(StatusCode::NOT_FOUND, "not_found", message).into_response()
        }
    }
}

async fn admit(gateway: &Gateway, peer: &Peer, request: &Request<ClientBody>, entry: &mut Entry) -> Admitted {
    if is_forbidden(request.method()) {
        let message = format!("the gateway does not forward {}", request.method());
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message).finally();
        let allowed = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
        return Admitted::Answered(with(refusal.into_response(), ALLOW, allowed));
    }
    if let Err(refusal) = check_source(gateway, gateway.checks_host, request.uri(), request.headers()) {
        return refusal.into();
    }
    match request.uri().path() {
        "/healthz" => return Admitted::Answered(json(&json!({ "status": "ok" }))),
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
    let key = match authenticate(gateway, request.headers()).await {
        Ok(key) => key,
        Err(refusal) => return refusal.into(),
    };
    entry.outcome.key = key.as_ref().map(|key| key.id.clone());
    peer.is_known();
    if wants_websocket(request.headers()) {
        let message = "the gateway speaks HTTP/1.1 only, not WebSocket: send the request without `Upgrade`";
        let refusal = Refusal::new(StatusCode::UPGRADE_REQUIRED, "websocket_not_supported", message).finally();
        let response = with(refusal.into_response(), UPGRADE, "HTTP/1.1");
        return Admitted::Answered(with(response, CONNECTION, "upgrade"));
    }
    let is_get = request.method() == Method::GET;
    // A key of one person does not show what the others do.
    if request.uri().path() == "/metrics" && gateway.options.metrics && is_get && key.is_none() {
        return Admitted::Answered(plain("text/plain; version=0.0.4", Box::pin(metrics::text(gateway)).await));
    }
    if let (Some(team), Some(key)) = (&gateway.team, &key)
        && request.uri().path() == "/v1/key"
        && is_get
    {
        let left = team.engine.left(key).await;
        let mut response = json(&key_limits::describe(key, &left));
        key_limits::stamp(response.headers_mut(), key, &left);
        return Admitted::Answered(response);
    }
    let Some((profile, rest)) = route(request.uri()) else {
        let message = "not found: the API is under `/v1`, or `/p/PROFILE/v1` with `--all-profiles`";
        return Refusal::new(StatusCode::NOT_FOUND, "not_found", message).into();
    };
    match gateway.profiles.find(profile.as_deref()) {
        Ok(served) => Admitted::Forwarded { served, rest, key },
        Err(message) => Refusal::new(StatusCode::NOT_FOUND, "profile_not_found", message).into(),
    }
}

/// What `opencode auth login` reads.
fn members_page(way: Way, members: &Members) -> Response<ResponseBody> {
    let Some(page) = well_known::page(way, members) else {
        let message = "this gateway has no default model; set one with `qwenauth login … --model ID` on its machine";
        return Refusal::new(StatusCode::NOT_FOUND, "no_default_model", message).finally().into_response();
    };
    json(&page)
}

/// Whether a request would find a credential.
async fn readiness(gateway: &Gateway) -> Response<ResponseBody> {
    let ready = gateway.profiles.first.cache.is_ready().await;
    let health = gateway.shared.as_ref().map(|shared| shared.health());
    let secret_differs = gateway.team.as_ref().is_some_and(|team| team.engine.secret_differs());
    let is_ready = ready.is_ok() && health != Some(Health::Down) && !secret_differs;
    let mut said = json!({ "ready": is_ready, "credential": ready.err().unwrap_or("valid") });
    if let Some(health) = health {
        said["shared"] = health.name().into();
    }
    if secret_differs {
        said["keys"] = "secret_mismatch".into();
    }
    let mut response = json(&said);
    if !is_ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        if gateway.profiles.first.cache.trouble().is_some() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(refusal::HOME_RETRY.as_secs()));
        }
    }
    response
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

/// The profile that a path names, and what follows `/v1` in it. A path that could leave it is rejected.
fn route(uri: &Uri) -> Option<(Option<String>, String)> {
    let whole = uri.path_and_query()?.as_str();
    if !is_plain(uri.path()) {
        return None;
    }
    let (profile, rest) = match whole.strip_prefix("/p/") {
        None => (None, whole),
        Some(rest) => {
            let end = rest.find('/')?;
            (Some(rest[..end].to_owned()), &rest[end..])
        }
    };
    let rest = rest.strip_prefix("/v1")?;
    (rest.is_empty() || rest.starts_with(['/', '?'])).then(|| (profile, rest.to_owned()))
}

/// Whether every server finds the same segments in `path`, and none of them goes up. Some cut a segment at `;`, at a NUL
/// or at white space, some decode twice, and some decode bytes that are not UTF-8 to a dot or a slash.
fn is_plain(path: &str) -> bool {
    // As nearly all paths are.
    if !path.bytes().any(|byte| matches!(byte, b'%' | b';' | b'.' | b'\\')) {
        return true;
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut percent = None;
    let mut rest = path.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        rest = more;
        if first == b'%' {
            let Some(byte) = more.get(..2).and_then(hexadecimal) else { return false };
            rest = &more[2..];
            // Dots need no encoding, and `%c0` and `%c1` begin no character.
            if byte.is_ascii_control() || matches!(byte, b'.' | b';' | 0xc0 | 0xc1) {
                return false;
            }
            if byte == b'%' {
                percent.get_or_insert(decoded.len());
            }
            decoded.push(byte);
        } else {
            decoded.push(first);
        }
    }
    let is_slash = |byte: &u8| matches!(byte, b'/' | b'\\');
    // A percent sign in a name is one only where nothing can follow it.
    let ambiguous = percent.is_some_and(|at| decoded[at..].iter().any(is_slash))
        || decoded.windows(3).any(|three| three[0] == b'%' && hexadecimal(&three[1..]).is_some());
    let leads_up = |segment: &[u8]| segment.trim_ascii() == b"..";
    !ambiguous && !decoded.contains(&b';') && !decoded.split(is_slash).any(leads_up)
}

/// The byte that two hexadecimal digits encode.
fn hexadecimal(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let [high, low] = digits else { return None };
    u8::try_from(16 * digit(*high)? + digit(*low)?).ok()
}

/// How long a head is, about: hyper's bound is one of its buffer, which may have room for twice as much.
fn head_length(uri: &Uri, headers: &HeaderMap) -> usize {
    let line = uri.path_and_query().map_or(0, |path| path.as_str().len());
    line + headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>()
}

fn check_source(gateway: &Gateway, checks_host: bool, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    if head_length(uri, headers) > MAX_HEAD_SIZE {
        let message = format!("the request line and headers exceed {} KiB", MAX_HEAD_SIZE / 1024);
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(Refusal::new(status, "request_head_too_large", message).finally());
    }
    if headers.get_all(HOST).iter().nth(1).is_some() {
        let message = "the request has more than one `Host` header";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "invalid_host", message).finally());
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

/// `host` with or without a port.
fn is_local(gateway: &Gateway, host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|known| name.eq_ignore_ascii_case(known))
        || gateway.options.allow_hosts.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Whose key a request has: `None` is the gateway's own.
///
/// Errors: it has none that is valid.
async fn authenticate(gateway: &Gateway, headers: &HeaderMap) -> Result<Option<Rc<KeyRecord>>, Refusal> {
    let is_own = {
        let own = gateway.key.borrow();
        shown_keys(headers).any(|shown| shown.ct_eq(own.expose().as_bytes()).into())
    };
    if is_own {
        return Ok(None);
    }
    let Some(team) = &gateway.team else {
        let message = "the gateway's key is missing or wrong: it was printed by `qwenauth gateway` or is in its `--api-key-file`; under \
            `qwenauth exec --gateway` it is `OPENAI_API_KEY`";
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message).finally());
    };
    for text in shown_keys(headers).filter_map(|shown| std::str::from_utf8(shown).ok()) {
        if let Some(key) = Box::pin(team.identify(text)).await? {
            return Ok(Some(key));
        }
    }
    Err(team.unknown())
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

fn with(mut response: Response<ResponseBody>, name: HeaderName, value: &'static str) -> Response<ResponseBody> {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}

pub(super) fn json(value: &Value) -> Response<ResponseBody> {
    plain("application/json", format!("{value}\n"))
}

fn plain(content_type: &'static str, text: String) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(text.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(path: &str) -> Option<(Option<String>, String)> {
        route(&path.parse().unwrap())
    }

    #[test]
    fn everything_below_v1_has_a_way() {
        for (path, rest) in [("/v1", ""), ("/v1/models", "/models"), ("/v1?x=1", "?x=1"), ("/v1/a?b=../c", "/a?b=../c")]
        {
            assert_eq!(routed(path), Some((None, rest.to_owned())), "{path}");
        }
        assert_eq!(routed("/p/work/v1/models"), Some((Some("work".into()), "/models".into())));
    }

    #[test]
    fn nothing_leads_out_of_v1() {
        for path in
            ["/", "/v10", "/v1x/a", "/models", "/v1/../admin", "/v1/%2e%2e/admin", "/v1/%2E./a", "/p/x", "/v1/..%2fa"]
        {
            assert_eq!(routed(path), None, "{path}");
        }
    }

    #[test]
    fn a_path_that_servers_read_in_different_ways_leads_nowhere() {
        for path in [
            "/v1/files/..;v=1/keys",
            "/v1/files/..;/keys",
            "/v1/files/..%3b/keys",
            "/v1/a;b",
            "/v1/files/..%00/keys",
            "/v1/files/..%09/keys",
            "/v1/files/..%20/keys",
            "/v1/files%00",
            "/v1/files/%252e%252e/keys",
            "/v1/files/%252e%252e",
            "/v1/files/..%252fkeys",
            "/v1/files/..%255ckeys",
            "/v1/100%25/keys",
            "/v1/100%25%2fkeys",
            "/v1/100%25/50%25",
            "/v1/files/%c0%ae%C0%AE/keys",
            "/v1/files/%u002e%u002e/keys",
            "/v1/files/%2",
            "/v1/files/%",
            "/v1/a/%2e/b",
            "/v1/files/..\\keys",
            "/v1/files/..%5Ckeys",
            "/p/work/v1/..;/x",
        ] {
            assert!(!path.parse::<Uri>().is_ok_and(|uri| route(&uri).is_some()), "{path}");
        }
        for path in [
            "/v1/models/Qwen/Qwen3.8-27B",
            "/v1/models/Qwen%2FQwen3.8-27B",
            "/v1/models/qwen%3A27b",
            "/v1/files/100%25",
            "/v1/files/a%20b",
            "/v1/files/%E9%80%9A",
            "/v1/a..b/...",
            "/v1/files?x=..;%2e%2e/%00",
        ] {
            assert!(routed(path).is_some(), "{path}");
        }
    }

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
