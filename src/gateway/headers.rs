//! Which headers pass, which stay, which are replaced.

use hyper::header::{
    AUTHORIZATION, CONNECTION, COOKIE, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT, VIA,
};

use super::anthropic::Endpoint;
use super::credential::Ready;

/// For one hop only (RFC 9110 §7.6.1).
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// The caller's own credentials and whereabouts, which are nobody else's business. `Expect` is answered here.
const CALLERS: [HeaderName; 10] = [
    AUTHORIZATION,
    COOKIE,
    EXPECT,
    FORWARDED,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];

const VIA_US: HeaderValue = HeaderValue::from_static("1.1 qwenauth");

/// A request's headers as they go up, but for the credential.
pub(super) fn clean_request(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    for name in &CALLERS {
        headers.remove(name);
    }
    headers.append(VIA, VIA_US);
    if !headers.contains_key(USER_AGENT)
        && let Ok(own) = HeaderValue::try_from(crate::providers::Provider::own_user_agent())
    {
        headers.insert(USER_AGENT, own);
    }
}

/// Puts in what belongs to the provider and its credential. `messages`: the endpoint of Anthropic's protocol, if the
/// request goes there.
pub(super) fn address(headers: &mut HeaderMap, ready: &Ready, messages: Option<&Endpoint>) {
    headers.insert(HOST, ready.origin.host.clone());
    match messages {
        Some(endpoint) => endpoint.address(headers),
        None => drop(headers.insert(AUTHORIZATION, ready.authorization.clone())),
    }
    let Some(user_agent) = headers.get(USER_AGENT) else { return };
    for (name, value) in ready.headers(user_agent).iter() {
        headers.insert(name.clone(), value.clone());
    }
}

/// An answer's headers as they go down: no cookies of the provider's, and nothing that opens the gateway to pages of a
/// browser.
pub(super) fn clean_response(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    headers.remove(SET_COOKIE);
    let cors: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("access-control-")).cloned().collect();
    for name in cors {
        headers.remove(name);
    }
    headers.append(VIA, VIA_US);
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // `close` and `keep-alive` alone name no header, and are what nearly everyone sends.
    let names_any = headers.get_all(CONNECTION).iter().any(|value| value != "close" && value != "keep-alive");
    if names_any {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::try_from(name.trim()).ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_one_hop_stay_behind() {
        let mut headers: HeaderMap = [
            ("connection", "close, X-Named"),
            ("x-named", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("cookie", "a=b"),
            ("x-api-key", "k"),
            ("authorization", "Bearer k"),
            ("expect", "100-continue"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-real-ip", "192.0.2.1"),
            ("x-own", "stays"),
            ("user-agent", "client/1"),
        ]
        .into_iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect();
        clean_request(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["user-agent", "via", "x-own"]);
    }
}
