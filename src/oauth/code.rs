//! An authorization code from a browser: the loopback callback (RFC 8252 §7.3) and its exchange for an API key.
//!
//! Hazard: every program on the machine and every web page can connect to the callback's port, and every user can read
//! the arguments of the browser process. Rule: the callback's path has a nonce that is in no argument: the browser is
//! handed a page of its own that works once and redirects to the authorization URL. Requests with another `Host` or
//! `Origin`, or without the nonce, get 404 and change nothing. PKCE makes an intercepted code worthless.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::Url;
use zeroize::Zeroizing;

use super::fields::Fields;
use super::pkce::Pkce;
use super::{REQUEST_TIMEOUT, not_in_time};
use crate::epoch;
use crate::error::{Failed, Failure, Reason, printable};
use crate::http::{self, Network};
use crate::platform::threads;
use crate::secret::Secret;

/// A browser sends its request at once.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum size of a request head, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Connections served at the same time; more are closed unread.
const MAX_CONNECTIONS: usize = 16;

/// A listener on loopback that waits for one redirect.
pub(crate) struct Callback {
    listener: TcpListener,
    port: u16,
    nonce: String,
    entry: String,
}

impl Callback {
    pub(crate) fn listen() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
        let port = listener.local_addr()?.port();
        let nonce = || format!("{:032x}", rand::random::<u128>());
        Ok(Self { listener, port, nonce: nonce(), entry: nonce() })
    }

    /// Where the server sends the browser in the end.
    pub(crate) fn url(&self) -> String {
        format!("{}{}", origin(self.port), self.path())
    }

    /// The page for the browser: it works once and redirects to the authorization URL.
    pub(crate) fn entry(&self) -> String {
        format!("{}{}", origin(self.port), self.entry_path())
    }

    fn path(&self) -> String {
        format!("/callback/{}", self.nonce)
    }

    fn entry_path(&self) -> String {
        format!("/go/{}", self.entry)
    }

    /// Starts the listener: the one-time page, which redirects to `authorize`, and the redirect back.
    pub(crate) fn serve(self, authorize: &Url) -> Result<Redirect> {
        let (sender, receiver) = mpsc::channel();
        let site = Site {
            path: self.path(),
            entry: self.entry_path(),
            host: format!("127.0.0.1:{}", self.port),
            origins: [origin(self.port), authorize.origin().ascii_serialization()],
            authorize: authorize.to_string(),
            is_entered: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        };
        let listener = self.listener;
        // It ends with the process: nothing else can end a blocking accept.
        threads::start(move || accept(&listener, &Arc::new(site), &sender))?;
        Ok(Redirect(receiver))
    }
}

fn origin(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// Waits for the redirect.
pub(crate) struct Redirect(Receiver<Outcome>);

impl Redirect {
    /// The code of the first redirect with the nonce.
    ///
    /// Errors: login required, when access was denied or `deadline` has passed.
    pub(crate) fn wait(self, deadline: Instant) -> Result<Secret> {
        match self.0.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Outcome::Code(code)) => Ok(code),
            Ok(Outcome::Error(reason, error)) => {
                Failed::new(Failure::LoginRequired, format!("the login was rejected: {}", printable(&error)))
                    .because(reason)
                    .err()
            }
            Err(_) => not_in_time().err(),
        }
    }
}

/// What a redirect contains (RFC 6749 §4.1.2).
pub(crate) enum Outcome {
    Code(Secret),
    Error(Reason, String),
}

/// What the listener serves, and to which requests.
struct Site {
    path: String,
    entry: String,
    /// The only accepted `Host`: a page that rebinds its name to loopback has another.
    host: String,
    /// The only accepted `Origin`s, if a request has one: a navigation has none.
    origins: [String; 2],
    authorize: String,
    is_entered: AtomicBool,
    is_over: AtomicBool,
}

fn accept(listener: &TcpListener, site: &Arc<Site>, sender: &Sender<Outcome>) {
    let open = Arc::new(AtomicUsize::new(0));
    for connection in listener.incoming() {
        let Ok(connection) = connection else { continue };
        if open.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (served, site, sender) = (Arc::clone(&open), Arc::clone(site), sender.clone());
        let started = threads::start(move || {
            if let Some(outcome) = site.serve(&connection) {
                let _ = sender.send(outcome);
            }
            served.fetch_sub(1, Ordering::SeqCst);
        });
        if started.is_err() {
            open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Site {
    /// Answers one request. Only the first with the nonce and a `code` or `error` has an outcome.
    fn serve(&self, connection: &TcpStream) -> Option<Outcome> {
        let head = read_head(connection)?;
        if !self.is_for_us(&head) {
            respond(connection, "404 Not Found", "", NOTHING);
            return None;
        }
        if target_of(&head).is_some_and(|target| target == self.entry) {
            if self.is_entered.swap(true, Ordering::SeqCst) {
                respond(connection, "410 Gone", "", "This page works once. Open the address shown in the terminal.");
            } else {
                let location = format!("Location: {}\r\n", self.authorize);
                respond(connection, "303 See Other", &location, "The login continues at the provider.");
            }
            return None;
        }
        let outcome = outcome_of(&head, &self.path).filter(|_| !self.is_over.swap(true, Ordering::SeqCst));
        let (status, text) = match &outcome {
            Some(Outcome::Code(_)) => ("200 OK", "You are logged in. This tab can be closed."),
            Some(Outcome::Error(..)) => ("200 OK", "The login was rejected. This tab can be closed."),
            None => ("404 Not Found", NOTHING),
        };
        respond(connection, status, "", text);
        outcome
    }

    /// Whether a browser sent this by navigating to this listener.
    fn is_for_us(&self, head: &str) -> bool {
        let values = |wanted: &str| {
            let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
            let values = fields.filter(|(name, _)| name.trim().eq_ignore_ascii_case(wanted));
            values.map(|(_, value)| value.trim()).collect::<Vec<_>>()
        };
        values("host") == [self.host.as_str()]
            && values("origin").iter().all(|origin| self.origins.iter().any(|known| known == origin))
    }
}

const NOTHING: &str = "There is nothing here.";

/// `fields`: further header lines, each with its line end.
fn respond(connection: &TcpStream, status: &str, fields: &str, text: &str) {
    let page =
        format!("<!doctype html><html lang=en><meta charset=utf-8><title>qwenauth</title><p>{text}</p></html>\n");
    let response = format!(
        "HTTP/1.1 {status}\r\n{fields}Content-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n\r\n{page}",
        page.len()
    );
    let mut writer = connection;
    // A browser that has closed the connection has delivered its code anyway.
    let _ = writer.write_all(response.as_bytes()).and_then(|()| writer.flush());
    let _ = connection.shutdown(std::net::Shutdown::Write);
}

fn read_head(mut connection: &TcpStream) -> Option<String> {
    let until = Instant::now() + READ_TIMEOUT;
    let mut head = Vec::new();
    let mut buffer = [0; 2048];
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        connection.set_read_timeout(Some(left)).ok()?;
        let count = connection.read(&mut buffer).ok().filter(|&count| count > 0)?;
        head.extend_from_slice(&buffer[..count]);
        if head.len() > MAX_HEAD {
            return None;
        }
    }
    String::from_utf8(head).ok()
}

fn target_of(head: &str) -> Option<&str> {
    head.lines().next()?.strip_prefix("GET ")?.split(' ').next()
}

/// The query of a request with this head, if it is for `path`.
pub(crate) fn outcome_of(head: &str, path: &str) -> Option<Outcome> {
    let url = Url::parse("http://127.0.0.1").ok()?.join(target_of(head)?).ok()?;
    if url.path() != path {
        return None;
    }
    let field = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    if let Some(error) = field("error") {
        let description = field("error_description").map(|text| format!(": {text}")).unwrap_or_default();
        let reason = if error == "access_denied" { Reason::Denied } else { Reason::Refused };
        return Some(Outcome::Error(reason, format!("`{error}`{description}").chars().take(300).collect()));
    }
    field("code").filter(|code| !code.is_empty()).map(|code| Outcome::Code(Secret::new(code)))
}

/// A login whose code a later process exchanges.
#[derive(Serialize, Deserialize)]
pub(crate) struct PendingCode {
    /// The provider's name.
    #[serde(default)]
    provider: String,
    pub(crate) url: String,
    exchange: String,
    verifier: Zeroizing<String>,
    /// Seconds since 1970.
    expires_at: f64,
}

impl PendingCode {
    pub(crate) fn new(provider: &str, url: &Url, exchange: &str, pkce: &Pkce, expires_at: SystemTime) -> Self {
        Self {
            provider: provider.to_owned(),
            url: url.to_string(),
            exchange: exchange.to_owned(),
            verifier: Zeroizing::new(pkce.verifier.expose().to_owned()),
            expires_at: epoch::since(expires_at).as_secs_f64(),
        }
    }

    /// It contains the verifier: a secret.
    pub(crate) fn to_notes(&self) -> Zeroizing<Vec<u8>> {
        // A structure of texts and a number is always JSON.
        Zeroizing::new(serde_json::to_vec_pretty(self).unwrap_or_default())
    }

    /// The login that [`Self::to_notes`] described. Returns `None` for one that has expired or belongs to another server.
    pub(crate) fn from_notes(notes: &[u8], exchange: &str, now: SystemTime) -> Option<Self> {
        let pending: Self = serde_json::from_slice(notes).ok()?;
        (pending.exchange == exchange && !pending.left(now).is_zero()).then_some(pending)
    }

    pub(crate) fn left(&self, now: SystemTime) -> Duration {
        super::until(self.expires_at, now)
    }

    pub(crate) fn pkce(&self) -> Pkce {
        Pkce::of(Secret::new(self.verifier.to_string()))
    }
}

/// Where a person approves. Without `callback` the server shows the code for pasting.
pub(crate) fn authorize_url(base: &str, pkce: &Pkce, callback: Option<&str>, extra: &[(&str, String)]) -> Result<Url> {
    let mut url = http::endpoint(base)?;
    {
        let mut query = url.query_pairs_mut();
        if let Some(callback) = callback {
            query.append_pair("callback_url", callback);
        }
        query.append_pair("code_challenge", &pkce.challenge).append_pair("code_challenge_method", "S256");
        for (name, value) in extra {
            query.append_pair(name, value);
        }
    }
    Ok(url)
}

/// OpenRouter's exchange of a code for an API key.
///
/// Errors: login required if the code is wrong, used or expired; temporary if the response says nothing about the code.
pub(crate) fn exchange(url: &str, code: &Secret, pkce: &Pkce, network: &Network) -> Result<Secret> {
    let url = http::endpoint(url)?;
    let host = url.host_str().unwrap_or_default().to_owned();
    let body = json!({
        "code": code.expose(),
        "code_verifier": pkce.verifier.expose(),
        "code_challenge_method": "S256",
    });
    let not_exchanged = |why: &str| format!("`{host}` did not exchange the code for a key: {why}");
    let again = "log in again; codes are single-use";
    let reply = network
        .connect(&url)?
        .post_json(&url, &body, None, &[], REQUEST_TIMEOUT)
        .map_err(|trouble| trouble.failed(&host).reworded(not_exchanged).or_hint(again))?;
    if (200..300).contains(&reply.status)
        && let Some(key) = Fields::of(&reply.body).and_then(|fields| fields.secret("key"))
    {
        return Ok(key);
    }
    if matches!(reply.status, 400..=499) && reply.status != 429 && !reply.is_html() {
        return Failed::new(
            Failure::LoginRequired,
            format!("`{host}` rejected the code ({}): it is wrong, was already used, or has expired", reply.status),
        )
        .because(Reason::Refused)
        .hint("log in again for a new code")
        .err();
    }
    let why = format!("it answered {}", http::describe_status(reply.status));
    Failed::new(Failure::Temporary, not_exchanged(&why)).hint(again).err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_nonce_with_a_code_or_an_error_has_an_outcome() {
        let code = |target: &str| match outcome_of(&format!("GET {target} HTTP/1.1\r\n\r\n"), "/callback/n") {
            Some(Outcome::Code(code)) => Some(code.expose().to_owned()),
            _ => None,
        };
        assert_eq!(code("/callback/n?code=a%2Bb"), Some("a+b".into()));
        for target in [
            "/",
            "/callback/",
            "/callback/m?code=a",
            "/callback/n",
            "/callback/n?code=",
            "/callback/n/?code=a",
            "//callback/n?code=a",
        ] {
            assert!(outcome_of(&format!("GET {target} HTTP/1.1\r\n\r\n"), "/callback/n").is_none(), "{target}");
        }
        let refused = "GET /callback/n?error=denied&code=a HTTP/1.1\r\n\r\n";
        assert!(matches!(outcome_of(refused, "/callback/n"), Some(Outcome::Error(Reason::Refused, _))));
        let denied = "GET /callback/n?error=access_denied&error_description=no HTTP/1.1\r\n\r\n";
        assert!(matches!(outcome_of(denied, "/callback/n"), Some(Outcome::Error(Reason::Denied, _))));
        let posted = "POST /callback/n?code=a HTTP/1.1\r\n\r\n";
        assert!(outcome_of(posted, "/callback/n").is_none());
    }
}
