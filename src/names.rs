//! Host names: which are the local machine's, and how both HTTP clients turn them into addresses.
//!
//! Hazard: the C library queries DNS for `api.localhost`, and the server that responds gets a key in clear text. Rule:
//! `localhost` and names that end in `.localhost` are 127.0.0.1 and `::1` (RFC 6761 §6.3) and are never looked up.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::vec::IntoIter;

use anyhow::Result;
use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;
use url::{Host, Url};

use crate::platform::threads;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Whether this program may only connect to the local machine.
static LOOPBACK_ONLY: AtomicBool = AtomicBool::new(false);

/// From now on no request leaves this machine: a sandbox is for practice.
pub(crate) fn confine_to_loopback() {
    LOOPBACK_ONLY.store(true, Ordering::Relaxed);
}

pub(crate) fn is_confined() -> bool {
    LOOPBACK_ONLY.load(Ordering::Relaxed)
}

/// Whether a URL points to the local machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => is_loopback_name(name),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// In any spelling, with or without the dot that ends a whole name.
fn is_loopback_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

fn loopback(port: u16) -> [SocketAddr; 2] {
    [(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
}

/// The addresses of a host; this waits.
pub(crate) fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if is_loopback_name(host) {
        return Ok(loopback(port).to_vec());
    }
    // A name would be asked for elsewhere.
    if is_confined() && host.parse::<IpAddr>().is_err() {
        return Err(io::Error::other("names are not looked up in the sandbox"));
    }
    Ok((host, port).to_socket_addrs()?.collect())
}

/// What both clients resolve names with.
#[derive(Clone, Copy)]
pub(crate) struct Resolver;

impl Service<Name> for Resolver {
    type Response = IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Lookup;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Lookup {
        if is_loopback_name(name.as_str()) {
            return Lookup::Known;
        }
        Lookup::Asked(Box::pin(threads::finished(move || Ok(addresses(name.as_str(), 0)?))))
    }
}

impl reqwest::dns::Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        Box::pin(Boxed(Name::from_str(name.as_str()).map(|name| Self.call(name)).ok()))
    }
}

/// The addresses of one name. A port of 0 is replaced by that of the request.
pub(crate) enum Lookup {
    Known,
    Asked(Pin<Box<dyn Future<Output = Result<Vec<SocketAddr>>> + Send>>),
}

impl Future for Lookup {
    type Output = io::Result<IntoIter<SocketAddr>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Known => Poll::Ready(Ok(loopback(0).to_vec().into_iter())),
            Self::Asked(asked) => asked.as_mut().poll(context).map_ok(Vec::into_iter).map_err(io::Error::other),
        }
    }
}

/// A [`Lookup`] in reqwest's form; `None` for text that cannot be a name.
struct Boxed(Option<Lookup>);

impl Future for Boxed {
    type Output = Result<reqwest::dns::Addrs, BoxError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(lookup) = &mut self.0 else { return Poll::Ready(Err("not a host name".into())) };
        Pin::new(lookup).poll(context).map(|found| match found {
            Ok(addresses) => Ok(Box::new(addresses) as reqwest::dns::Addrs),
            Err(error) => Err(error.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_are_known_in_every_spelling() {
        for name in ["localhost", "LOCALHOST", "localhost.", "api.localhost", "A.b.LocalHost."] {
            assert!(is_loopback_name(name), "{name}");
            assert_eq!(addresses(name, 80).unwrap(), ["127.0.0.1:80", "[::1]:80"].map(|text| text.parse().unwrap()));
        }
        for name in ["", ".", "localhost..", "notlocalhost", "localhost.example", "localhost.localdomain"] {
            assert!(!is_loopback_name(name), "{name}");
        }
        for url in ["http://LOCALHOST:1/", "http://api.localhost./", "http://127.8.9.1/", "http://[::1]/"] {
            assert!(is_loopback(&Url::parse(url).unwrap()), "{url}");
        }
        for url in ["http://localhost.example/", "http://128.0.0.1/", "http://[::2]/", "unix:/x"] {
            assert!(!is_loopback(&Url::parse(url).unwrap()), "{url}");
        }
    }
}
