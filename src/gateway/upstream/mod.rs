//! Requests to the provider, over connections that are kept open.
//!
//! ```text
//! connect.rs     a new connection: name, proxy, TLS
//! connection.rs  one connection, polled by the task of the request that uses it
//! fields.rs      the header fields of a request
//! upload.rs      a request on its way
//! head.rs        the head of an answer
//! framing.rs     where the body of an answer ends
//! answer.rs      the body of an answer, read as it is asked for
//! whole.rs       an answer read at once, for tests of properties
//! ```
//!
//! HTTP/1.1 is spoken here rather than by hyper's client, which gives each connection a task, channels and buffers of its own:
//! a request costs no more than needed, an event stream that waits holds no buffer, and it is known whether a failed
//! request was ever sent, which decides whether it may be sent again. The connectors below (names, proxies, SOCKS, TLS) are
//! hyper-util's and hyper-rustls's, which reqwest also uses; heads are parsed by httparse, as hyper does.

mod answer;
mod connect;
mod connection;
mod fields;
mod framing;
mod head;
mod upload;
#[cfg(any(test, feature = "internals"))]
pub(crate) mod whole;

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use anyhow::Result;
use hyper::Uri;
use hyper::header::HeaderValue;
use url::Url;

pub(super) use self::answer::{Answer, AnswerBody};
use self::connect::Connector;
use self::connection::{AskError, Connection};
pub(super) use self::fields::Fields;
pub(super) use self::upload::Upload;
use crate::names::is_loopback;

/// Idle connections kept to one origin.
const MAX_IDLE: usize = 64;

/// What a server sent that is not HTTP/1, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Malformed(&'static str);

/// Where requests are sent: scheme, host and port, with the open connections.
pub(super) struct Origin {
    uri: Uri,
    pub(super) host: HeaderValue,
    is_loopback: bool,
    idle: RefCell<Vec<Idle>>,
    /// Whether [`close_expired`] looks after those.
    is_tended: Cell<bool>,
}

struct Idle {
    connection: Connection,
    until: Instant,
}

impl Origin {
    pub(super) fn new(url: &Url) -> Result<Self> {
        let authority = url.authority();
        Ok(Self {
            uri: format!("{}://{authority}/", url.scheme()).parse()?,
            host: HeaderValue::from_str(authority)?,
            is_loopback: is_loopback(url),
            idle: RefCell::default(),
            is_tended: Cell::new(false),
        })
    }

    pub(super) fn serves(&self, url: &Url) -> bool {
        self.uri.scheme_str() == Some(url.scheme()) && self.host == url.authority()
    }

    fn take_idle(&self) -> Option<Connection> {
        let last = self.idle.borrow_mut().pop()?;
        // The one last used is open the longest.
        (last.until > Instant::now()).then_some(last.connection)
    }

    /// Keeps a connection for the next request.
    fn keep(self: &Rc<Self>, connection: Connection, time: Duration) {
        let mut idle = self.idle.borrow_mut();
        if time.is_zero() || idle.len() >= MAX_IDLE {
            return;
        }
        idle.push(Idle { connection, until: Instant::now() + time });
        if !self.is_tended.replace(true) {
            tokio::task::spawn_local(close_expired(Rc::downgrade(self)));
        }
    }
}

/// Closes connections that were not used for too long, until none is left.
async fn close_expired(origin: Weak<Origin>) {
    loop {
        let next = {
            let Some(origin) = origin.upgrade() else { return };
            let mut idle = origin.idle.borrow_mut();
            let now = Instant::now();
            idle.retain(|idle| idle.until > now);
            let next = idle.iter().map(|idle| idle.until).min();
            origin.is_tended.set(next.is_some());
            next
        };
        let Some(next) = next else { return };
        tokio::time::sleep_until(next.into()).await;
    }
}

/// Why there is no response.
#[derive(Debug)]
pub(super) enum SendError {
    /// There was no connection: the request was certainly not sent.
    NotSent(String),
    /// No response within this time.
    Silent(Duration),
    /// The connection ended, and the request may have been acted upon.
    Lost(String),
    /// The client's own body broke off.
    Client(String),
    /// The client sent no more of its body within this time.
    ClientSilent(Duration),
}

pub(super) struct Upstream {
    connector: Connector,
}

impl Upstream {
    pub(super) fn new(ca_file: Option<PathBuf>) -> Self {
        Self { connector: Connector::new(ca_file) }
    }

    /// Sends a request over an open connection or a new one. A kept connection found closed before sending is skipped.
    /// `note_sending` learns that the request is being sent, or, with `false`, that it was not sent after all.
    pub(super) async fn send(
        &self,
        origin: &Rc<Origin>,
        mut upload: Upload,
        mut note_sending: impl FnMut(bool),
    ) -> Result<Answer, SendError> {
        loop {
            let (mut connection, is_kept) = match origin.take_idle() {
                Some(connection) => (connection, true),
                // Boxed: it is long, and seldom needed.
                None => (Box::pin(self.connector.connect(origin)).await.map_err(SendError::NotSent)?, false),
            };
            note_sending(true);
            let asked = connection.ask(&mut upload).await;
            if !upload.has_begun() {
                note_sending(false);
            }
            return match asked {
                Ok(received) => {
                    let rest = Some(upload).filter(|upload| !upload.is_sent());
                    Ok(answer::answer(received, connection, rest, origin))
                }
                Err(AskError::Unsent) if is_kept => continue,
                Err(AskError::Unsent) => Err(SendError::NotSent("it closed the connection before the request".into())),
                Err(AskError::Client(broken)) => Err(SendError::Client(broken.to_string())),
                Err(AskError::Lost(why)) => Err(SendError::Lost(why)),
            };
        }
    }

    /// Reads the certificates again, for connections made from now on.
    pub(super) async fn reload_certificates(&self) -> Result<()> {
        self.connector.reload_certificates().await
    }
}

/// The most specific cause: the last of the chain.
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut current = error;
    while let Some(source) = current.source() {
        current = source;
    }
    current.to_string()
}

#[cfg(test)]
mod tests;
