//! Properties that must hold for any bytes that others write or send, run by `cargo test` and by fuzz/.
//!
//! The feature `internals` makes this module public, so that fuzz/ can reach what no user of the program can.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a property that does not hold panics")]

#[cfg(test)]
mod cases;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hyper::Method;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};
use url::Url;

use crate::config::{Config, Fallback, Team, with_profile};
use crate::credentials::document::CredentialDocument;
use crate::credentials::reading::{self, Format};
use crate::error::{Failure, Report, printable};
use crate::gateway::Meter;
use crate::gateway::upstream::whole::read_answer;
use crate::http::{Reply, is_loopback};
use crate::keys::Prices;
use crate::oauth::code::{self, Outcome};
use crate::oauth::device;
use crate::oauth::reply::{self, TokenReply};
use crate::oauth::{AuthorizationServer, ClientAuth, Dialect, TokenResponse, discovery};
use crate::paths::Paths;
use crate::profile::ProfileName;
use crate::providers::error::{self, Action, ApiError};
use crate::providers::{self, Overrides};
use crate::secret::Secret;

pub type Property = fn(&[u8]);

/// By the name of the fuzz target and of the directory of seeds.
pub const PROPERTIES: [(&str, Property); 10] = [
    ("credential_file", credential_file),
    ("token_reply", token_reply),
    ("device_reply", device_reply),
    ("discovery_reply", discovery_reply),
    ("error_reply", error_reply),
    ("config", config),
    ("callback", callback),
    ("retry_after", retry_after),
    ("usage_stream", usage_stream),
    ("answer", answer),
];

const YEAR: Duration = Duration::from_secs(366 * 86400);
const CENTURY: Duration = Duration::from_secs(36525 * 86400);

/// What a renewal may change in a credential file.
const GRANTED: [&str; 6] = ["access_token", "refresh_token", "token_type", "resource_url", "scope", "expiry_date"];

/// A file that can be renewed means the same once it is written again, and a renewal changes what was granted and no more.
fn credential_file(bytes: &[u8]) {
    let credential = match reading::read(bytes, Format::Own) {
        Err(said) => return assert!(said.len() < 200 && !said.contains('\n'), "{said}"),
        Ok(None) => return,
        Ok(Some(credential)) => credential,
    };
    assert!(!credential.access_token.expose().is_empty());
    let mut document = match CredentialDocument::parse(bytes) {
        Err(said) => return assert!(said.len() < 200 && !said.contains('\n'), "{said}"),
        Ok(document) => document,
    };
    let written = document.to_bytes().unwrap();
    let again = reading::read(&written, Format::Own).expect("what was written can be read").expect("a credential");
    assert_eq!(format!("{credential:?}"), format!("{again:?}"));
    assert_eq!(credential.access_token, again.access_token);
    assert_eq!(credential.refresh_token, again.refresh_token);
    assert_eq!(fields(bytes), fields(&written));

    document.renew(&grant(None), SystemTime::UNIX_EPOCH);
    let renewed = document.to_bytes().unwrap();
    let mut foreign = [fields(bytes), fields(&renewed)];
    assert_eq!(foreign[1]["access_token"], "at-2");
    let kept = |fields: &Map<String, Value>| fields.get("refresh_token").filter(|token| !token.is_null()).cloned();
    assert_eq!(kept(&foreign[0]), kept(&foreign[1]));
    for fields in &mut foreign {
        fields.retain(|name, _| !GRANTED.contains(&name.as_str()));
    }
    let [before, after] = foreign.map(Vec::from_iter);
    assert_eq!(before, after, "in this order");

    document.renew(&grant(Some("rt-2")), SystemTime::UNIX_EPOCH);
    // A key has no expiry and stays the same, whatever else is in its file.
    let renewed = reading::read(&document.to_bytes().unwrap(), Format::Own).expect("readable").expect("a credential");
    assert_eq!(renewed.refresh_token.as_ref().map(Secret::expose), Some("rt-2"));
    assert_eq!(renewed.expires_at, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(60)));
}

fn fields(bytes: &[u8]) -> Map<String, Value> {
    serde_json::from_slice(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)).expect("an object")
}

fn grant(refresh_token: Option<&str>) -> TokenResponse {
    TokenResponse {
        access_token: Secret::new("at-2".into()),
        refresh_token: refresh_token.map(|token| Secret::new(token.into())),
        has_unusable_refresh_token: false,
        token_type: None,
        expires_in: Duration::from_secs(60),
        scope: None,
        resource_url: None,
    }
}

/// `STATUS CONTENT-TYPE`, a newline, the body.
fn reply_of(bytes: &[u8]) -> Option<Reply> {
    let at = bytes.iter().position(|&byte| byte == b'\n')?;
    let (status, content_type) = std::str::from_utf8(&bytes[..at]).ok()?.split_once(' ')?;
    let body = bytes[at + 1..].to_vec().into();
    Some(Reply { status: status.parse().ok()?, content_type: content_type.into(), date: None, certificate: None, body })
}

/// A token response can be stored and read again; the message about anything else has nothing that a terminal obeys.
fn token_reply(bytes: &[u8]) {
    let Some(reply) = reply_of(bytes) else { return };
    match reply::read(&reply) {
        TokenReply::Granted(grant) => {
            assert!((200..300).contains(&reply.status) && !reply.is_html());
            assert!(!grant.expires_in.is_zero() && grant.expires_in <= CENTURY);
            let mut document = CredentialDocument::default();
            document.renew(&grant, SystemTime::UNIX_EPOCH);
            let stored =
                reading::read(&document.to_bytes().unwrap(), Format::Own).expect("readable").expect("a credential");
            assert_eq!(stored.access_token, grant.access_token);
            assert_eq!(stored.refresh_token, grant.refresh_token);
        }
        TokenReply::Error(error) => {
            assert!(reply.status < 500);
            assert!(!error.sentence(&[]).contains(char::is_control));
        }
        TokenReply::Pending => assert!((200..300).contains(&reply.status)),
        TokenReply::NotOauth(why) | TokenReply::NoToken(why) => {
            assert!(why.len() < 200 && !why.contains(char::is_control), "{why}");
        }
    }
}

fn server(dialect: Dialect) -> AuthorizationServer {
    AuthorizationServer {
        device_authorization_endpoint: None,
        token_endpoint: Url::parse("https://issuer.example/token").unwrap(),
        revocation_endpoint: None,
        client_id: "client".into(),
        client_secret: None,
        client_auth: ClientAuth::Basic,
        scope: String::new(),
        resource: None,
        audience: None,
        pkce: false,
        dialect,
    }
}

/// A login that starts has a code, ends, and polls neither like a hammer nor never.
fn device_reply(bytes: &[u8]) {
    let Some(reply) = reply_of(bytes) else { return };
    for dialect in [Dialect::Standard, Dialect::Qwen] {
        match device::read(&server(dialect), &reply) {
            Ok(device) => {
                assert!((200..300).contains(&reply.status));
                assert!(!device.device_code.expose().is_empty());
                assert!(!device.lifetime().is_zero() && device.lifetime() <= CENTURY);
                let seconds = Duration::from_secs(1)..=Duration::from_secs(60);
                assert!(seconds.contains(&device.interval(dialect, false)));
                assert!(device.interval(dialect, true) <= *seconds.end());
            }
            Err(error) => {
                let report = Report::of(&error);
                assert!(matches!(report.failure, Failure::Temporary | Failure::Other));
                assert!(report.message.chars().count() < 400, "{}", report.message);
            }
        }
    }
}

/// Only the requested issuer is trusted, and it cannot send tokens in clear text or to the local machine.
fn discovery_reply(bytes: &[u8]) {
    let Some(reply) = reply_of(bytes) else { return };
    let Ok(document) = discovery::read(&reply) else { return };
    for issuer in ["https://issuer.example", "http://127.0.0.1:8080/realm"] {
        let url = Url::parse(issuer).unwrap();
        let found = match discovery::check(issuer, &url, &document) {
            Ok(found) => found,
            Err(error) => {
                assert_eq!(Report::of(&error).failure, Failure::Other);
                continue;
            }
        };
        assert_eq!(found.issuer, issuer);
        if let Ok(said) = serde_json::from_slice::<Value>(&reply.body) {
            assert_eq!(said["issuer"].as_str().unwrap().trim_end_matches('/'), issuer);
        }
        let endpoints = [&found.device_authorization_endpoint, &found.revocation_endpoint];
        for endpoint in endpoints.into_iter().flatten().chain([&found.token_endpoint]) {
            assert!(endpoint.scheme() == "https" || is_loopback(endpoint), "{endpoint}");
            assert!(!is_loopback(endpoint) || is_loopback(&url), "{endpoint}");
            assert!(endpoint.username().is_empty() && endpoint.password().is_none(), "{endpoint}");
        }
    }
}

/// A secret that was sent and comes back in an error is not repeated, not even in part. `$` is replaced by the secret.
fn error_reply(bytes: &[u8]) {
    const SECRET: &str = "rt-0123456789-abcdefghijklmnopqrstuvwxyz";
    const PART: &str = "rt-012345678";
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let reply = |text: String| Reply {
        status: 400,
        content_type: String::new(),
        date: None,
        certificate: None,
        body: text.into_bytes().into(),
    };
    let Some(error) = reply::error_in(&reply(text.replace('$', SECRET))) else { return };
    // Text that a server makes up itself is not an echo, also where only the echo makes its text valid JSON.
    if text.contains(PART) {
        return;
    }
    if reply::error_in(&reply(text.to_owned())).is_some_and(|error| error.sentence(&[]).contains(PART)) {
        return;
    }
    let said = error.sentence(&[&Secret::new(SECRET.into())]);
    assert!(!said.contains(PART), "{said}");
    assert_eq!(said, printable(&said));
    assert!(said.chars().count() < 500);
}

/// Whatever config.toml contains, no credential is sent in clear text; a change of the profile changes nothing else.
fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let nowhere = PathBuf::new;
    let paths = Paths { config: nowhere(), data: nowhere(), state: nowhere(), qwen: Some(nowhere()) };
    let mut config = Config {
        paths,
        text: None,
        profile: Ok(None),
        store: None,
        directories: Vec::new(),
        overrides: Overrides::default(),
        key_files: BTreeMap::default(),
        hooks: BTreeMap::default(),
        fallback: Fallback::default(),
        team: Team::default(),
        prices: Prices::default(),
    };
    let mut warnings = Vec::new();
    if let Err(error) = config.understand(text, Path::new("config.toml"), &mut warnings) {
        assert!(!printable(&format!("{error:#}")).is_empty());
        return;
    }
    for name in config.overrides.table.keys() {
        let Ok(provider) = providers::find(name, &config.overrides) else { continue };
        let server = provider.server(None).ok();
        let urls = server.map(|server| {
            [Some(server.token_endpoint), server.device_authorization_endpoint, server.revocation_endpoint]
        });
        let bases =
            [None, Some("evil.example"), Some("http://127.0.0.1:1")].map(|base| provider.base_url(base, None).ok());
        let bases = bases.into_iter().flatten().map(|base| Url::parse(&base).expect("a URL"));
        for url in urls.into_iter().flatten().flatten().chain(bases) {
            assert!(url.scheme() == "https" || is_loopback(&url), "{url}");
            assert!(url.username().is_empty() && url.password().is_none(), "{url}");
        }
    }
    let name = ProfileName::parse("another").unwrap();
    if let Ok(Some((_, edited))) = with_profile(text, &name) {
        let parse = |text: &str| toml::from_str::<toml::Table>(text).expect("what was edited can be read");
        let [mut before, mut after] = [parse(text), parse(&edited)];
        assert_eq!(after.remove("profile"), Some("another".into()));
        before.remove("profile");
        // As text: a NaN is not equal to itself.
        assert_eq!(format!("{before:?}"), format!("{after:?}"));
        assert!(with_profile(&edited, &name).unwrap().is_none());
    }
}

/// Only who knows the nonce has an outcome, and only by GET.
fn callback(bytes: &[u8]) {
    let Ok(head) = std::str::from_utf8(bytes) else { return };
    let Some(outcome) = code::outcome_of(head, "/callback/nonce") else { return };
    let line = head.lines().next().unwrap_or_default();
    assert!(line.starts_with("GET "));
    assert!(line.replace('\t', "").contains("nonce"), "{line}");
    assert!(code::outcome_of(head, "/callback/nonsense").is_none());
    match outcome {
        Outcome::Code(code) => assert!(!code.expose().is_empty() && line.contains("code")),
        Outcome::Error(_, error) => assert!(error.chars().count() <= 300 && line.contains("error")),
    }
}

/// Lines of headers, then a body: a wait is never longer than a year, and its end is a time.
fn retry_after(bytes: &[u8]) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_255_200);
    let mut headers = HeaderMap::new();
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|&byte| byte == b'\n') {
        let line = &rest[..at];
        rest = &rest[at + 1..];
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { break };
        let value = HeaderValue::from_bytes(&line[colon + 1..]);
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&line[..colon]), value) {
            headers.insert(name, value);
        }
    }
    let header = |name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
    let named = error::retry_after(&header, now);
    assert!(named.is_none_or(|named| named <= YEAR), "{named:?}");
    for status in [429, 503] {
        let response = error::Response { status, header: &header, body: rest, model: None, secrets: &[], now };
        let read = ApiError::read(&response, &BTreeMap::new());
        let waits = named.filter(|named| !named.is_zero());
        assert!(read.wait.is_none_or(|wait| wait <= YEAR) && (waits.is_none() || read.wait == waits), "{read:?}");
        assert!(jiff::Timestamp::try_from(now + read.wait.unwrap_or_default()).is_ok());
        if let Action::Wait(wait) = read.action(YEAR) {
            assert_eq!(Some(wait), read.wait);
        }
    }
}

/// The same tokens and model, however the response is split into chunks. `~` is replaced by a thousand bytes.
fn usage_stream(bytes: &[u8]) {
    let answer: Vec<u8> = bytes
        .iter()
        .take(2000)
        .flat_map(|&byte| if byte == b'~' { vec![b'y'; 1000] } else { vec![byte] })
        .take(20_000)
        .collect();
    let metered = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut meter = Meter::default();
        pieces.for_each(|piece| meter.see(piece));
        (meter.tokens(), meter.model())
    };
    let whole = metered(&mut std::iter::once(answer.as_slice()));
    for size in [1, 100, 1023, 4096, 4097] {
        assert_eq!(metered(&mut answer.chunks(size)), whole, "in pieces of {size}");
    }
    let first = bytes.first().map_or(0, |&byte| usize::from(byte)).min(answer.len());
    let (head, tail) = answer.split_at(first);
    assert_eq!(metered(&mut std::iter::once(head).chain(tail.chunks(5000))), whole, "after the first {first}");
}

/// The same head and body, and the same judgment of both, however the answer is cut.
fn answer(bytes: &[u8]) {
    for method in [Method::POST, Method::HEAD] {
        let whole = read_answer(std::iter::once(bytes), &method);
        assert!(whole.as_ref().is_none_or(|answer| answer.body.len() <= bytes.len()));
        for size in [1, 2, 3, 16, 100] {
            assert_eq!(read_answer(bytes.chunks(size), &method), whole, "in pieces of {size}");
        }
        let first = bytes.first().map_or(0, |&byte| usize::from(byte)).min(bytes.len());
        let (head, tail) = bytes.split_at(first);
        assert_eq!(read_answer([head, tail].into_iter(), &method), whole, "after the first {first}");
    }
}

/// Checks the property called `name` on `bytes`.
///
/// # Panics
/// If it does not hold.
pub fn check(name: &str, bytes: &[u8]) {
    let (_, property) = PROPERTIES.into_iter().find(|(known, _)| *known == name).expect("a property");
    property(bytes);
}
