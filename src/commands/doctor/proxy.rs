//! Proxies: which variable applies to a server, which are ignored, and what is wrong with a proxy that fails.
//!
//! Hazard: every program has rules of its own for these variables. Rule: the HTTP client's own matcher decides which
//! proxy applies; this module only reports which variable the decision comes from.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use url::Url;

use super::Check;
use crate::environment::variable;
use crate::names::{addresses, is_loopback};
use crate::platform::threads;
use crate::proxies::{ALL, EXCEPT, HTTP, HTTPS, first_set, intercept, is_cgi, value};

/// Timeout for a name lookup, a connection, and each part of a response.
const PROXY_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum length of a response's first line, in bytes.
const MAX_STATUS_LINE: u64 = 1024;

/// The route of requests to a server.
pub(super) enum ProxyRoute {
    Direct,
    /// A proxy is set, and this variable excepts the server.
    Excepted(&'static str),
    Through(Proxy),
}

pub(super) struct Proxy {
    pub(super) variable: &'static str,
    intercept: Intercept,
}

/// The route of requests to `url` by the variables.
fn by_variables(url: &Url) -> ProxyRoute {
    let own = if url.scheme() == "https" { HTTPS } else { HTTP };
    // As in the matcher: a value that is not an address is ignored, and the next group is used.
    let found = [own, ALL]
        .into_iter()
        .filter_map(first_set)
        .find_map(|(variable, value)| Some(Proxy { variable, intercept: intercept(&value, url)? }));
    let Some(proxy) = found.filter(|_| !is_cgi()) else { return ProxyRoute::Direct };
    let excepted = first_set(EXCEPT).filter(|(_, hosts)| {
        let matcher = Matcher::builder().all("http://proxy").no(hosts).build();
        url.as_str().parse().is_ok_and(|uri| matcher.intercept(&uri).is_none())
    });
    match excepted {
        Some((variable, _)) => ProxyRoute::Excepted(variable),
        None => ProxyRoute::Through(proxy),
    }
}

/// The route of this program's requests to `url`.
pub(super) fn route_to(url: &Url) -> ProxyRoute {
    if is_loopback(url) { ProxyRoute::Direct } else { by_variables(url) }
}

/// The way to `url` as a check, where any proxy is set.
pub(super) fn describe_route(url: &Url, is_api: bool) -> Option<Check> {
    let host = url.host_str().unwrap_or_default();
    if is_loopback(url) {
        let ProxyRoute::Through(proxy) = by_variables(url) else { return None };
        if !is_api {
            return None;
        }
        return Some(Check::warn(
            "proxy",
            format!("other programs reach `{host}` through the proxy in `{}`; qwenauth does not", proxy.variable),
            "`export NO_PROXY=127.0.0.1,localhost,::1 no_proxy=127.0.0.1,localhost,::1`, or `qwenauth exec --gateway`",
        ));
    }
    match route_to(url) {
        ProxyRoute::Direct => None,
        ProxyRoute::Excepted(variable) => {
            Some(Check::ok("proxy", format!("`{host}` is reached directly, because `{variable}` excludes it")))
        }
        ProxyRoute::Through(proxy) => {
            let others: Vec<String> = [HTTPS, ALL]
                .concat()
                .into_iter()
                .filter(|name| *name != proxy.variable && variable(name).is_some())
                .map(|name| format!("`{name}`"))
                .collect();
            let others = if others.is_empty() { String::new() } else { format!("; not used: {}", others.join(", ")) };
            let what = format!("`{host}` is reached through `{}`, {}{others}", proxy.variable, proxy.address());
            Some(Check::ok("proxy", what))
        }
    }
}

/// Variables that cannot be meant as they are.
pub(super) fn check() -> Vec<Check> {
    let mut checks = Vec::new();
    let Ok(any) = Url::parse("https://host.invalid/") else { return checks };
    for name in [HTTPS, HTTP, ALL].concat() {
        if value(name).is_some_and(|value| !value.is_empty() && intercept(&value, &any).is_none()) {
            checks.push(Check::fail(
                "proxy",
                format!("`{name}` is not a valid proxy address and is ignored"),
                format!("write it like `http://HOST:PORT` or `socks5h://HOST:PORT`, or `unset {name}`"),
            ));
        }
    }
    for [upper, lower] in [HTTPS, HTTP, ALL, EXCEPT] {
        if let (Some(first), Some(second)) = (value(upper), value(lower))
            && first != second
        {
            checks.push(Check::warn(
                "proxy",
                format!("`{upper}` and `{lower}` differ: qwenauth uses the first, curl and Python the second"),
                format!("`export {lower}=\"${upper}\"`, or the other way round"),
            ));
        }
    }
    if is_cgi() && [HTTPS, HTTP, ALL].concat().into_iter().any(|name| variable(name).is_some()) {
        checks.push(Check::warn(
            "proxy",
            "`REQUEST_METHOD` is set, as for a CGI program, so proxy variables are ignored",
            "`unset REQUEST_METHOD`",
        ));
    }
    checks
}

impl Proxy {
    /// Scheme, host and port, without a password.
    pub(super) fn address(&self) -> String {
        format!("`{}`", self.intercept.uri().to_string().trim_end_matches('/'))
    }

    /// Why requests to `url` fail, if the proxy is the cause. Returns `None` if the proxy connects to it.
    pub(super) fn trouble(&self, url: &Url) -> Option<String> {
        let uri = self.intercept.uri();
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_plain = uri.scheme_str() == Some("http");
        let port = uri.port_u16().unwrap_or_else(|| default_port(uri.scheme_str()));
        let mut stream = match connected(host, port) {
            Ok(stream) => stream,
            Err(why) => return Some(why),
        };
        if !is_plain {
            return None;
        }
        let asked = ask(&mut stream, url, &self.intercept).unwrap_or_default();
        let mut words = asked.trim().split(' ');
        match (words.next().is_some_and(|version| version.starts_with("HTTP/")), words.next()) {
            (true, Some("200")) => None,
            (true, Some("407")) => Some("requires a user name and password (407)".into()),
            (true, Some(status)) => {
                let reason = words.collect::<Vec<_>>().join(" ");
                Some(format!("refused to connect ({})", format!("{status} {reason}").trim_end()))
            }
            _ => Some("does not respond like a proxy".into()),
        }
    }

    /// What helps against [`Self::trouble`] if the proxy is to be used.
    pub(super) fn remedy(&self) -> String {
        let uri = self.intercept.uri();
        let (scheme, authority) =
            (uri.scheme_str().unwrap_or("http"), uri.authority().map(ToString::to_string).unwrap_or_default());
        format!("set its address and credentials with `export {}={scheme}://USER:PASSWORD@{authority}`", self.variable)
    }
}

fn default_port(scheme: Option<&str>) -> u16 {
    match scheme {
        Some("https") => 443,
        Some("http") => 80,
        _ => 1080,
    }
}

/// A connection to the proxy, or what is wrong with it.
fn connected(host: String, port: u16) -> Result<TcpStream, String> {
    // The resolver has no limit of its own.
    let receiver = threads::run(move || addresses(&host, port)).map_err(|failed| failed.message)?;
    let found = match receiver.recv_timeout(PROXY_TIMEOUT) {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(_)) => return Err("has a host name that does not resolve".into()),
        Err(_) => return Err(format!("has a host name that does not resolve within {} s", PROXY_TIMEOUT.as_secs())),
    };
    let mut why = "has a host name without an address".to_owned();
    for address in found {
        match TcpStream::connect_timeout(&address, PROXY_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                why = "refused the connection".into();
            }
            Err(error) => why = format!("cannot be reached: {error}"),
        }
    }
    Err(why)
}

/// Requests a tunnel to `url` (RFC 9110 §9.3.6) and returns the first line of the response.
fn ask(stream: &mut TcpStream, url: &Url, intercept: &Intercept) -> std::io::Result<String> {
    stream.set_read_timeout(Some(PROXY_TIMEOUT))?;
    stream.set_write_timeout(Some(PROXY_TIMEOUT))?;
    let target = format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(443));
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(authorization) = intercept.basic_auth() {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(authorization.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request)?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_STATUS_LINE)).read_line(&mut line)?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_has_the_port_of_its_scheme() {
        assert_eq!([Some("http"), Some("https"), Some("socks5"), None].map(default_port), [80, 443, 1080, 1080]);
    }

    #[test]
    fn only_a_refused_connection_is_called_one() {
        let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(connected("127.0.0.1".into(), refused.port()).unwrap_err(), "refused the connection");
        // No stream leads to a broadcast address.
        let why = connected("255.255.255.255".into(), 9).unwrap_err();
        assert!(why.starts_with("cannot be reached: "), "{why}");
    }
}
