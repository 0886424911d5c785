//! A new connection to the provider: name, proxy and TLS.

use std::cell::RefCell;
use std::future::poll_fn;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use hyper::Uri;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV4, SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connection as Connected, HttpConnector};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use tower_service::Service;

use super::connection::Connection;
use super::{Origin, innermost};
use crate::names::Resolver;
use crate::platform::threads;
use crate::{proxies, tls};

/// Until a connection is ready for a request: name, TCP, proxy and TLS.
const CONNECT: Duration = Duration::from_secs(10);

pub(super) struct Connector {
    direct: HttpConnector<Resolver>,
    proxies: Matcher,
    tls: RefCell<Option<Arc<rustls::ClientConfig>>>,
    ca_file: Option<PathBuf>,
}

impl Connector {
    pub(super) fn new(ca_file: Option<PathBuf>) -> Self {
        let mut direct = HttpConnector::new_with_resolver(Resolver);
        direct.enforce_http(false);
        direct.set_nodelay(true);
        direct.set_keepalive(Some(Duration::from_secs(30)));
        Self { direct, proxies: proxies::matcher(), tls: RefCell::default(), ca_file }
    }

    /// Errors: why there is no connection.
    pub(super) async fn connect(&self, origin: &Origin) -> Result<Connection, String> {
        match tokio::time::timeout(CONNECT, self.connect_unlimited(origin)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => {
                Err(tls::Rejected::of(&*error).map_or_else(|| innermost(&*error), |rejected| rejected.why.to_owned()))
            }
            Err(_) => Err(format!("no connection within {} s", CONNECT.as_secs())),
        }
    }

    async fn connect_unlimited(&self, origin: &Origin) -> Result<Connection, BoxError> {
        // Each way is boxed: a connection made in one of them would else take the space of the longest, and as much of what is
        // free after it stays with the process.
        let direct = self.direct.clone();
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
    async fn open<C>(&self, mut connector: C, uri: &Uri) -> Result<Connection, BoxError>
    where
        C: Service<Uri> + Send,
        C::Response: Connected + hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
        C::Future: Send + 'static,
        C::Error: Into<BoxError>,
    {
        if uri.scheme_str() != Some("https") {
            poll_fn(|context| connector.poll_ready(context)).await.map_err(Into::into)?;
            let stream = connector.call(uri.clone()).await.map_err(Into::into)?;
            return Ok(Connection::new(TokioIo::new(stream)));
        }
        let mut connector = HttpsConnector::from((connector, self.tls()?));
        poll_fn(|context| connector.poll_ready(context)).await?;
        Ok(Connection::new(TokioIo::new(connector.call(uri.clone()).await?)))
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
    pub(super) async fn reload_certificates(&self) -> Result<()> {
        if self.tls.borrow().is_some() {
            // All streams would stand still meanwhile.
            let ca_file = self.ca_file.clone();
            let read = threads::finished(move || tls::client_config(ca_file.as_deref())).await?;
            *self.tls.borrow_mut() = Some(Arc::new(read));
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
