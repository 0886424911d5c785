//! Connections to the provider: kept open, with TLS and proxies.
//!
//! Connections are hyper's own, kept in a list of ours. This is the layer below reqwest's and hyper-util's clients, so
//! a request costs no more than needed, and it shows what those hide: whether a failed request was ever sent, which
//! decides whether it may be sent again. The connectors below it (names, proxies, SOCKS, TLS) are hyper-util's and
//! hyper-rustls's, which reqwest also uses.

use std::cell::RefCell;
use std::future::poll_fn;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::Result;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV4, SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Matcher;
use tower_service::Service;
use url::Url;

use super::request_body::Reader;
use crate::names::{Resolver, is_loopback};
use crate::{proxies, tls};

/// Until a connection is ready for a request: name, TCP, proxy and TLS.
const CONNECT: Duration = Duration::from_secs(10);

/// Servers close idle connections after 5 s (Node) to 75 s (nginx). A server that closes just when a request is sent
/// costs that request, so its `Keep-Alive` header counts, or else this.
const IDLE: Duration = Duration::from_secs(20);

/// A connection that was in use just now is taken for open.
const FRESH: Duration = Duration::from_micros(100);

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Idle connections kept to one origin.
const MAX_IDLE: usize = 64;

/// Where requests are sent: scheme, host and port, with the open connections.
pub(super) struct Origin {
    uri: Uri,
    pub(super) host: HeaderValue,
    is_loopback: bool,
    idle: RefCell<Vec<Idle>>,
}

struct Idle {
    sender: SendRequest<Reader>,
    since: Instant,
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
        })
    }

    pub(super) fn serves(&self, url: &Url) -> bool {
        self.uri.scheme_str() == Some(url.scheme()) && self.host == url.authority()
    }

    async fn take_idle(&self) -> Option<SendRequest<Reader>> {
        loop {
            let last = self.idle.borrow_mut().pop()?;
            let now = Instant::now();
            if now.duration_since(last.since) > FRESH {
                // If the server closed it before the request came, its task was woken first: let it notice that before it
                // costs the request.
                let_woken_tasks_run().await;
            }
            if last.until > now && !last.sender.is_closed() {
                return Some(last.sender);
            }
        }
    }
}

/// As [`tokio::task::yield_now`], without a call of the kernel for further events.
async fn let_woken_tasks_run() {
    let mut was_polled = false;
    poll_fn(|context| {
        if std::mem::replace(&mut was_polled, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A connection in use. Dropped, it is closed; [`LeasedConnection::give_back`] keeps it for the next request.
pub(super) struct LeasedConnection {
    origin: Rc<Origin>,
    sender: SendRequest<Reader>,
    idle: Duration,
}

impl LeasedConnection {
    pub(super) fn give_back(self) {
        let mut idle = self.origin.idle.borrow_mut();
        if !self.sender.is_closed() && !self.idle.is_zero() && idle.len() < MAX_IDLE {
            let since = Instant::now();
            idle.push(Idle { sender: self.sender, since, until: since + self.idle });
        }
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
}

pub(super) struct Upstream {
    connector: HttpConnector<Resolver>,
    proxies: Matcher,
    tls: RefCell<Option<Arc<rustls::ClientConfig>>>,
    ca_file: Option<PathBuf>,
}

impl Upstream {
    pub(super) fn new(ca_file: Option<PathBuf>) -> Self {
        let mut connector = HttpConnector::new_with_resolver(Resolver::new());
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_keepalive(Some(Duration::from_secs(30)));
        Self { connector, proxies: proxies::matcher(), tls: RefCell::default(), ca_file }
    }

    /// Sends a request over an open connection or a new one. A pooled connection found closed before sending is
    /// skipped.
    pub(super) async fn send(
        &self,
        origin: &Rc<Origin>,
        mut request: Request<Reader>,
    ) -> Result<(Response<Incoming>, LeasedConnection), SendError> {
        loop {
            let (mut sender, is_kept) = match origin.take_idle().await {
                Some(sender) => (sender, true),
                // Boxed: it is long, and seldom needed.
                None => (Box::pin(self.connect(origin)).await?, false),
            };
            if let Err(error) = sender.ready().await {
                if is_kept {
                    continue;
                }
                return Err(SendError::NotSent(innermost(&error)));
            }
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let idle = keep_alive(&response);
                    return Ok((response, LeasedConnection { origin: Rc::clone(origin), sender, idle }));
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if is_kept => request = unsent,
                    Some(_) => return Err(SendError::NotSent(innermost(error.error()))),
                    None if error.error().is_user() => return Err(SendError::Client(innermost(error.error()))),
                    None => return Err(SendError::Lost(innermost(error.error()))),
                },
            }
        }
    }

    async fn connect(&self, origin: &Origin) -> Result<SendRequest<Reader>, SendError> {
        match tokio::time::timeout(CONNECT, self.connect_unlimited(origin)).await {
            Ok(Ok(sender)) => Ok(sender),
            Ok(Err(error)) => Err(SendError::NotSent(innermost(&*error))),
            Err(_) => Err(SendError::NotSent(format!("no connection within {} s", CONNECT.as_secs()))),
        }
    }

    async fn connect_unlimited(&self, origin: &Origin) -> Result<SendRequest<Reader>, BoxError> {
        // Each way is boxed: a connection made in one of them would else take the space of the longest, and as much of what is
        // free after it stays with the process.
        let direct = self.connector.clone();
        let proxy = if origin.is_loopback { None } else { self.proxies.intercept(&origin.uri) };
        let Some(proxy) = proxy else { return Box::pin(self.open(direct, &origin.uri)).await };
        let (user, password) = proxy
            .raw_auth()
            .map_or((None, None), |(user, password)| (Some(user.to_owned()), Some(password.to_owned())));
        match proxy.uri().scheme_str() {
            Some("socks5" | "socks5h") => {
                let local = proxy.uri().scheme_str() == Some("socks5");
                let mut socks = SocksV5::new(proxy.uri().clone(), direct).local_dns(local);
                if let (Some(user), Some(password)) = (user, password) {
                    socks = socks.with_auth(user, password);
                }
                Box::pin(self.open(socks, &origin.uri)).await
            }
            Some("socks4" | "socks4a") => {
                let local = proxy.uri().scheme_str() == Some("socks4");
                Box::pin(self.open(SocksV4::new(proxy.uri().clone(), direct).local_dns(local), &origin.uri)).await
            }
            Some("https") => {
                let over_tls = HttpsConnector::from((direct, self.tls()?));
                Box::pin(self.open(tunnel(&proxy, over_tls), &origin.uri)).await
            }
            _ => Box::pin(self.open(tunnel(&proxy, direct), &origin.uri)).await,
        }
    }

    /// Connects by `connector`, with TLS above it if the origin requires it.
    async fn open<C>(&self, mut connector: C, uri: &Uri) -> Result<SendRequest<Reader>, BoxError>
    where
        C: Service<Uri> + Send,
        C::Response: Connection + hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
        C::Future: Send + 'static,
        C::Error: Into<BoxError>,
    {
        if uri.scheme_str() != Some("https") {
            poll_fn(|context| connector.poll_ready(context)).await.map_err(Into::into)?;
            let stream = connector.call(uri.clone()).await.map_err(Into::into)?;
            return handshake(stream).await;
        }
        let mut connector = HttpsConnector::from((connector, self.tls()?));
        poll_fn(|context| connector.poll_ready(context)).await?;
        handshake(connector.call(uri.clone()).await?).await
    }

    /// Reading the system's certificates takes milliseconds, so they are read when they are needed.
    fn tls(&self) -> Result<Arc<rustls::ClientConfig>, BoxError> {
        if let Some(config) = &*self.tls.borrow() {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(tls::client_config(self.ca_file.as_deref())?);
        Ok(Arc::clone(self.tls.borrow_mut().insert(config)))
    }

    /// Reads the certificates again, for connections made from now on.
    pub(super) fn reload_certificates(&self) -> Result<()> {
        if self.tls.borrow().is_some() {
            let config = Arc::new(tls::client_config(self.ca_file.as_deref())?);
            *self.tls.borrow_mut() = Some(config);
        }
        Ok(())
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn tunnel<C>(proxy: &hyper_util::client::proxy::matcher::Intercept, connector: C) -> Tunnel<C> {
    let tunnel = Tunnel::new(proxy.uri().clone(), connector);
    match proxy.basic_auth() {
        Some(authorization) => tunnel.with_auth(authorization.clone()),
        None => tunnel,
    }
}

async fn handshake<T>(stream: T) -> Result<SendRequest<Reader>, BoxError>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
{
    let (sender, connection) = http1::Builder::new().handshake(stream).await?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            log::debug!("a connection to the provider ended: {error}");
        }
    });
    Ok(sender)
}

/// How long the server lets this connection idle, less a second for the way.
fn keep_alive(response: &Response<Incoming>) -> Duration {
    let Some(value) = response.headers().get(KEEP_ALIVE).and_then(|value| value.to_str().ok()) else { return IDLE };
    let seconds = value.split(',').find_map(|part| part.trim().strip_prefix("timeout=")?.parse::<u64>().ok());
    seconds.map_or(IDLE, |seconds| Duration::from_secs(seconds.saturating_sub(1)).min(IDLE))
}

/// The most specific cause: the last of the chain.
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut current = error;
    while let Some(source) = current.source() {
        current = source;
    }
    current.to_string()
}
