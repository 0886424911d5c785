//! Which headers pass, which stay, which are replaced.

use std::borrow::Cow;
use std::sync::LazyLock;

use hyper::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, SET_COOKIE,
    TRANSFER_ENCODING, USER_AGENT, VIA,
};
use url::form_urlencoded;

use crate::compression::KNOWN;
use crate::gateway::profiles::credential::ReadyCredential;
use crate::gateway::request::anthropic::Endpoint;
use crate::gateway::upstream::Fields;
use crate::http::user_agent;

/// Parts of header names in which some API accepts a credential: `x-goog-api-key`, `ocp-apim-subscription-key`,
/// `cf-aig-authorization`, `x-amz-security-token`, …
const CREDENTIAL: [&str; 16] = [
    "authorization",
    "api-key",
    "apikey",
    "api_key",
    "access-key",
    "subscription-key",
    "secret",
    "credential",
    "password",
    "access-token",
    "api-token",
    "auth-token",
    "id-token",
    "private-token",
    "security-token",
    "session-token",
];

/// The same for parameters of a query, in small letters and without `-` and `_`. `key` is Gemini's.
const CREDENTIAL_PARAMETERS: [&str; 20] = [
    "accesskey",
    "accesskeyid",
    "accesstoken",
    "apikey",
    "apitoken",
    "auth",
    "authorization",
    "authtoken",
    "bearertoken",
    "clientsecret",
    "idtoken",
    "key",
    "password",
    "secret",
    "secretkey",
    "sessiontoken",
    "subscriptionkey",
    "token",
    "xapikey",
    "xgoogapikey",
];

const VIA_US: HeaderValue = HeaderValue::from_static("1.1 qwenauth");

/// For clients that send none.
static OWN_USER_AGENT: LazyLock<Option<HeaderValue>> = LazyLock::new(|| HeaderValue::try_from(user_agent()).ok());

/// A request's headers as they are forwarded, except for the credential.
pub(in crate::gateway) fn clean_request(headers: &HeaderMap) -> Fields<'_> {
    let named = named_by_connection(headers);
    let mut fields = Fields::of(headers, |name| {
        !is_of_one_hop(name) && !is_callers(name) && !holds_credential(name) && !named.contains(name)
    });
    keep_known_encodings(&mut fields);
    fields.add(VIA, Cow::Owned(VIA_US));
    if let (Some(own), None) = (&*OWN_USER_AGENT, fields.get(&USER_AGENT)) {
        fields.add(USER_AGENT, Cow::Borrowed(own));
    }
    fields
}

/// For one hop only (RFC 9110 §7.6.1, RFC 7540 §3.2.1).
fn is_of_one_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Beginnings of names with what a proxy in front knows of the client: `x-forwarded-user`, `x-auth-request-email` …
const CALLERS: [&str; 5] =
    ["x-amzn-oidc-", "x-auth-request-", "x-forwarded-", "x-goog-authenticated-user-", "x-ms-client-principal"];

/// The client's address, name and accounts, which are never forwarded. `Expect` is answered here, and the host is another.
fn is_callers(name: &HeaderName) -> bool {
    let is_known = matches!(
        name.as_str(),
        "cf-connecting-ip"
            | "cf-connecting-ipv6"
            | "cf-ipcountry"
            | "cf-pseudo-ipv4"
            | "client-ip"
            | "cookie"
            | "expect"
            | "fastly-client-ip"
            | "fly-client-ip"
            | "forwarded"
            | "from"
            | "host"
            // These choose the account to bill, by a key that is not sent.
            | "openai-organization"
            | "openai-project"
            | "x-goog-user-project"
            | "remote-user"
            | "true-client-ip"
            | "x-auth-email"
            | "x-auth-key"
            | "x-client-ip"
            | "x-cluster-client-ip"
            | "x-envoy-external-address"
            | "x-forwarded"
            | "x-original-forwarded-for"
            | "x-real-ip"
            | "x-remote-user"
    );
    is_known || CALLERS.iter().any(|beginning| name.as_str().starts_with(beginning))
}

fn holds_credential(name: &HeaderName) -> bool {
    let name = name.as_str();
    // Most names have none of these letters in a row, and need not be compared with all.
    let may =
        name.as_bytes().windows(3).any(|three| matches!(three, b"key" | b"tok" | b"aut" | b"sec" | b"cre" | b"pas"));
    may && (CREDENTIAL.iter().any(|part| name.contains(part))
        || ["-auth", "-key", "-token"].iter().any(|end| name.ends_with(end)) && !is_no_credential(name)
        || name == "token")
}

/// Names that end like that of a credential and tell one request from another.
fn is_no_credential(name: &str) -> bool {
    name.contains("idempotency") || name.contains("cache")
}

/// `rest`, a path with its query, without the parameters in which some API accepts a credential. The rest is unchanged.
pub(super) fn clean_query(rest: String) -> String {
    let Some((path, query)) = rest.split_once('?') else { return rest };
    // `key[]` is `key` to some servers.
    let is_credential = |parameter: &&str| {
        let name = form_urlencoded::parse(parameter.as_bytes()).next().map(|(name, _)| name).unwrap_or_default();
        let name = name.split('[').next().unwrap_or_default();
        let plain: String = name.chars().filter(|character| !matches!(character, '-' | '_')).collect();
        let plain = plain.to_ascii_lowercase();
        CREDENTIAL_PARAMETERS.contains(&plain.as_str()) || plain.starts_with("xamz")
    };
    // Some servers end a parameter at `;` as well.
    if !query.split(['&', ';']).any(|parameter| is_credential(&parameter)) {
        return rest;
    }
    let without = |parameters: &str| {
        let kept: Vec<&str> = parameters.split(';').filter(|parameter| !is_credential(parameter)).collect();
        (!kept.is_empty()).then(|| kept.join(";"))
    };
    let kept: Vec<String> = query.split('&').filter_map(without).collect();
    if kept.is_empty() {
        return path.to_owned();
    }
    format!("{path}?{}", kept.join("&"))
}

/// Adds the headers of the provider and its credential. `messages`: the endpoint of Anthropic's protocol, if the
/// request is sent there.
pub(in crate::gateway) fn address<'head>(
    fields: &mut Fields<'head>,
    ready: &'head ReadyCredential,
    messages: Option<&'head Endpoint>,
) {
    fields.set(HOST, Cow::Borrowed(&ready.origin.host));
    match messages {
        Some(endpoint) => endpoint.address(fields),
        None => fields.set(AUTHORIZATION, Cow::Borrowed(&ready.authorization)),
    }
    let Some(user_agent) = fields.get(&USER_AGENT) else { return };
    for (name, value) in ready.headers(user_agent).iter() {
        fields.set(name.clone(), Cow::Owned(value.clone()));
    }
}

/// A response's headers as they are forwarded: without the provider's cookies, headers that open the gateway to pages of a
/// browser, and those that only a gateway states.
pub(super) fn clean_response(headers: &mut HeaderMap) {
    // With both, the length is wrong (RFC 9112 §6.3), and would truncate the body or leave it open.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    let named = named_by_connection(headers);
    let stays = |name: &&HeaderName| {
        is_of_one_hop(name)
            || *name == SET_COOKIE
            || ["access-control-", "x-qwenauth-"].iter().any(|beginning| name.as_str().starts_with(beginning))
            || named.contains(name)
    };
    let stay: Vec<HeaderName> = headers.keys().filter(stays).cloned().collect();
    for name in stay {
        headers.remove(name);
    }
    headers.append(VIA, VIA_US);
}

/// Removes what a response states of the account that all keys share: its limits and whose it is. `Retry-After` stays, which
/// is of this request.
pub(super) fn hide_account(headers: &mut HeaderMap) {
    let is_accounts = |name: &&HeaderName| {
        let name = name.as_str();
        // OpenAI's, Anthropic's, ModelScope's and others', those of RFC drafts, Together's and LiteLLM's.
        ["ratelimit", "rate-limit", "tokenlimit", "organization", "openai-project", "x-litellm-key-"]
            .iter()
            .any(|part| name.contains(part))
    };
    let accounts: Vec<HeaderName> = headers.keys().filter(is_accounts).cloned().collect();
    for name in accounts {
        headers.remove(name);
    }
}

/// Errors and `usage` are read as they pass, so only encodings that can be read are requested.
fn keep_known_encodings(fields: &mut Fields<'_>) {
    let Some(value) = fields.get(&ACCEPT_ENCODING) else { return };
    let name = |part: &str| part.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_known = |part: &&str| KNOWN.contains(&name(part).as_str()) || name(part) == "identity";
    let known: Vec<&str> = value.to_str().unwrap_or_default().split(',').filter(is_known).map(str::trim).collect();
    let kept = if known.is_empty() { "identity".to_owned() } else { known.join(", ") };
    if let Ok(kept) = HeaderValue::try_from(kept) {
        fields.set(ACCEPT_ENCODING, Cow::Owned(kept));
    }
}

/// The headers that `Connection` says are for one hop only. `close` and `keep-alive` alone name none, and are what nearly
/// everyone sends.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(CONNECTION).iter().filter(|value| *value != "close" && *value != "keep-alive");
    let names = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    names.filter_map(|name| HeaderName::try_from(name.trim()).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_encoding_is_asked_for_that_cannot_be_read() {
        for (asked, kept) in [
            ("gzip", "gzip"),
            ("gzip, deflate, br, zstd", "gzip, deflate, zstd"),
            ("br;q=1.0, GZIP;q=0.5, *;q=0.1", "GZIP;q=0.5"),
            ("br", "identity"),
            ("*", "identity"),
            ("identity;q=1, br;q=0", "identity;q=1"),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(asked))]);
            let fields = clean_request(&headers);
            assert_eq!(fields.get(&ACCEPT_ENCODING).unwrap(), kept, "{asked}");
        }
        assert!(clean_request(&HeaderMap::new()).get(&ACCEPT_ENCODING).is_none());
    }

    #[test]
    fn a_provider_states_nothing_in_the_name_of_the_gateway() {
        let value = HeaderValue::from_static;
        let names = ["x-qwenauth-fallback", "x-qwenauth-budget-remaining", "set-cookie", "x-own", "x-qwen"];
        let mut headers: HeaderMap =
            names.map(|name| (HeaderName::from_static(name), value("1"))).into_iter().collect();
        clean_response(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["via", "x-own", "x-qwen"]);
    }

    #[test]
    fn a_key_is_told_nothing_of_the_account() {
        let accounts = [
            "x-ratelimit-limit-requests",
            "x-ratelimit-remaining-tokens",
            "x-ratelimit-reset",
            "ratelimit",
            "ratelimit-policy",
            "x-rate-limit-limit",
            "x-tokenlimit-remaining",
            "modelscope-ratelimit-model-requests-remaining",
            "anthropic-ratelimit-unified-5h-utilization",
            "anthropic-organization-id",
            "openai-organization",
            "openai-project",
            "x-litellm-key-spend",
        ];
        let kept =
            ["content-type", "openai-processing-ms", "openai-version", "retry-after", "retry-after-ms", "x-request-id"];
        let names = accounts.into_iter().chain(kept);
        let mut headers: HeaderMap =
            names.map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1"))).collect();
        hide_account(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, kept);
    }

    #[test]
    fn headers_of_one_hop_stay_behind() {
        let headers: HeaderMap = [
            ("connection", "close, X-Named"),
            ("x-named", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("cookie", "a=b"),
            ("x-api-key", "k"),
            ("authorization", "Bearer k"),
            ("expect", "100-continue"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-user", "ann"),
            ("x-forwarded-email", "ann@example.com"),
            ("x-forwarded-preferred-username", "ann"),
            ("x-real-ip", "192.0.2.1"),
            ("x-client-ip", "192.0.2.1"),
            ("x-envoy-external-address", "192.0.2.1"),
            ("true-client-ip", "192.0.2.1"),
            ("cf-connecting-ip", "192.0.2.1"),
            ("fly-client-ip", "192.0.2.1"),
            ("x-auth-request-email", "ann@example.com"),
            ("remote-user", "ann"),
            ("x-own", "stays"),
            ("user-agent", "client/1"),
        ]
        .into_iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect();
        let fields = clean_request(&headers);
        let mut left: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        left.sort_unstable();
        assert_eq!(left, ["user-agent", "via", "x-own"]);
    }
}
