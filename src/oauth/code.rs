//! An authorization code by way of a browser: the loopback callback (RFC 8252 §7.3) and its exchange for an API key.
//!
//! Hazard: anything on this machine, any web page too, can knock at the callback's port. Rule: the path carries a nonce
//! that only the authorization URL knew; whatever comes without it gets 404 and changes nothing, and PKCE makes a code
//! worthless to whoever overhears it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::REQUEST_LIMIT;
use super::pkce::Pkce;
use crate::error::{Failed, Failure, printable};
use crate::http::Network;
use crate::secret::Secret;

/// A browser sends its request at once; whoever takes longer is no browser.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// Longest request head that is read, in bytes.
const LONGEST_HEAD: usize = 16 * 1024;

/// Connections served at the same time; more are closed unread.
const MOST_CONNECTIONS: usize = 16;

/// A listener on this machine that waits for one redirect.
pub(crate) struct Callback {
    listener: TcpListener,
    nonce: String,
    port: u16,
}

impl Callback {
    pub(crate) fn listen() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on this machine")?;
        let port = listener.local_addr()?.port();
        let nonce = format!("{:032x}", rand::random::<u128>());
        Ok(Self { listener, nonce, port })
    }

    /// Where the browser is to be sent in the end.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/callback/{}", self.port, self.nonce)
    }

    /// The code of the first redirect that knows the nonce.
    ///
    /// Errors: login required, when access was denied or `deadline` is over.
    pub(crate) fn wait(self, deadline: Instant) -> Result<Secret> {
        let (sender, receiver) = mpsc::channel();
        let path = format!("/callback/{}", self.nonce);
        let listener = self.listener;
        // It ends with the process: nothing else can end a blocking accept.
        thread::spawn(move || accept(&listener, &path, &sender));
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Outcome::Code(code)) => Ok(code),
            Ok(Outcome::Error(error)) => {
                Failed::new(Failure::LoginRequired, format!("the login was refused: {}", printable(&error)))
                    .hint("run `qwenauth login` again if that was a mistake")
                    .err()
            }
            Err(_) => Failed::new(Failure::LoginRequired, "the login was not approved in time")
                .hint("run `qwenauth login` again")
                .err(),
        }
    }
}

/// What a redirect brings (RFC 6749 §4.1.2).
pub(crate) enum Outcome {
    Code(Secret),
    Error(String),
}

fn accept(listener: &TcpListener, path: &str, sender: &Sender<Outcome>) {
    let open = Arc::new(AtomicUsize::new(0));
    let over = Arc::new(AtomicBool::new(false));
    for connection in listener.incoming() {
        let Ok(connection) = connection else { continue };
        if open.fetch_add(1, Ordering::SeqCst) >= MOST_CONNECTIONS {
            open.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (open, over, path, sender) = (Arc::clone(&open), Arc::clone(&over), path.to_owned(), sender.clone());
        thread::spawn(move || {
            if let Some(outcome) = serve(&connection, &path, &over) {
                let _ = sender.send(outcome);
            }
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Answers one request; only the first with the nonce and a `code` or `error` has an outcome.
fn serve(connection: &TcpStream, path: &str, over: &AtomicBool) -> Option<Outcome> {
    let head = read_head(connection)?;
    let outcome = outcome_of(&head, path).filter(|_| !over.swap(true, Ordering::SeqCst));
    let (status, text) = match &outcome {
        Some(Outcome::Code(_)) => ("200 OK", "You are logged in. This tab can be closed."),
        Some(Outcome::Error(_)) => ("200 OK", "The login was refused. This tab can be closed."),
        None => ("404 Not Found", "There is nothing here."),
    };
    let page =
        format!("<!doctype html><html lang=en><meta charset=utf-8><title>qwenauth</title><p>{text}</p></html>\n");
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Referrer-Policy: no-referrer\r\nConnection: close\r\n\r\n{page}",
        page.len()
    );
    let mut writer = connection;
    // A browser that has gone has brought its code all the same.
    let _ = writer.write_all(answer.as_bytes()).and_then(|()| writer.flush());
    let _ = connection.shutdown(std::net::Shutdown::Write);
    outcome
}

fn read_head(mut connection: &TcpStream) -> Option<String> {
    let until = Instant::now() + READ_LIMIT;
    let mut head = Vec::new();
    let mut buffer = [0; 2048];
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        connection.set_read_timeout(Some(left)).ok()?;
        let count = connection.read(&mut buffer).ok().filter(|&count| count > 0)?;
        head.extend_from_slice(&buffer[..count]);
        if head.len() > LONGEST_HEAD {
            return None;
        }
    }
    String::from_utf8(head).ok()
}

/// What a request brings whose head this is, if it asks for `path`.
pub(crate) fn outcome_of(head: &str, path: &str) -> Option<Outcome> {
    let target = head.lines().next()?.strip_prefix("GET ")?.split(' ').next()?;
    let url = Url::parse("http://127.0.0.1").ok()?.join(target).ok()?;
    if url.path() != path {
        return None;
    }
    let field = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    if let Some(error) = field("error") {
        let description = field("error_description").map(|text| format!(": {text}")).unwrap_or_default();
        return Some(Outcome::Error(format!("`{error}`{description}").chars().take(300).collect()));
    }
    field("code").filter(|code| !code.is_empty()).map(|code| Outcome::Code(Secret::new(code)))
}

/// Where a person approves. Without `callback` the server shows the code for pasting.
pub(crate) fn authorize_url(base: &str, pkce: &Pkce, callback: Option<&str>, extra: &[(&str, String)]) -> Result<Url> {
    let mut url = crate::http::endpoint(base)?;
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

#[derive(Deserialize)]
struct Exchanged {
    key: Secret,
}

/// OpenRouter's exchange of a code for an API key.
///
/// Errors: login required when the code is wrong, used or expired; temporary when the server says nothing of it.
pub(crate) fn exchange(url: &str, code: &Secret, pkce: &Pkce, network: &Network) -> Result<Secret> {
    let url = crate::http::endpoint(url)?;
    let host = url.host_str().unwrap_or_default().to_owned();
    let body = json!({
        "code": code.expose(),
        "code_verifier": pkce.verifier.expose(),
        "code_challenge_method": "S256",
    });
    let temporary = |why: &str| {
        Failed::new(Failure::Temporary, format!("`{host}` did not exchange the code for a key: {why}"))
            .hint("run the login again; a code can be used once")
    };
    let reply = network
        .connect(&url)?
        .post_json(&url, &body, None, &[], REQUEST_LIMIT)
        .map_err(|trouble| temporary(&trouble.sentence(&host)))?;
    if matches!(reply.status, 400..=499) && reply.status != 429 && !reply.is_html() {
        return Failed::new(
            Failure::LoginRequired,
            format!("`{host}` refused the code ({}): it is wrong, was used before, or has expired", reply.status),
        )
        .hint("run the login again for a new code")
        .err();
    }
    let exchanged: Option<Exchanged> = serde_json::from_slice(&reply.body).ok();
    match exchanged {
        Some(exchanged) if reply.status == 200 && !exchanged.key.expose().is_empty() => Ok(exchanged.key),
        _ => temporary(&format!("it answered {}", super::reply::describe(reply.status))).err(),
    }
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
        assert!(matches!(outcome_of(refused, "/callback/n"), Some(Outcome::Error(_))));
        let posted = "POST /callback/n?code=a HTTP/1.1\r\n\r\n";
        assert!(outcome_of(posted, "/callback/n").is_none());
    }
}
