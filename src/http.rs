//! The one blocking client: TLS, proxy, CA, time limits; what a failure means.
//!
//! Hazards: a proxy variable sends a loopback request abroad; a redirect hands a token to another host; a server trickles
//! or never ends. Rules: no proxy for loopback, no redirects, [`LARGEST`] bytes, and each exchange has one limit in all,
//! name resolution and body included.

use std::io::Read;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::blocking::{Client, RequestBuilder};
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue};
use url::{Host, Url};
use zeroize::Zeroizing;

use crate::error::{Failed, Failure};
use crate::secret::Secret;

/// Longest reply that is read, in bytes (contract §3).
const LARGEST: u64 = 1024 * 1024;

const CONNECT: Duration = Duration::from_secs(10);

/// How this program introduces itself: truthfully.
pub(crate) const USER_AGENT: &str = concat!("qwenauth/", env!("CARGO_PKG_VERSION"));

/// A URL that credentials may be sent to: `https`, or `http` to this machine; without user info.
pub(crate) fn endpoint(text: &str) -> Result<Url> {
    let refused =
        |why: &str| Failed::new(Failure::Other, format!("refused the URL `{}`: {why}", without_user_info(text)));
    let url = Url::parse(text).map_err(|error| refused(&error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return refused("it carries user info").err();
    }
    match url.scheme() {
        "https" if url.host().is_some() => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => refused("plain `http` is accepted for this machine only").hint("use `https`").err(),
        scheme => refused(&format!("`{scheme}` is not `https`")).err(),
    }
}

/// `text` with what stands between `//` and `@` masked: it may be a password.
pub(crate) fn without_user_info(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("//") else { return text.to_owned() };
    let authority = rest.find(['/', '?', '#']).map_or(rest, |end| &rest[..end]);
    match authority.rfind('@') {
        Some(at) => format!("{scheme}//…{}", &rest[at..]),
        None => text.to_owned(),
    }
}

/// Whether a URL leads to this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// A reply, whatever its status.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    /// The server's clock (RFC 9110 §6.6.1), as it says it.
    pub(crate) date: Option<String>,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl Reply {
    pub(crate) fn is_html(&self) -> bool {
        self.content_type.starts_with("text/html") || self.body.trim_ascii_start().starts_with(b"<")
    }
}

/// Why there is no reply.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Nobody listens there: the request was certainly not read.
    Refused(String),
    /// The request may have been read, and acted upon.
    Unknown(String),
}

impl Trouble {
    /// The trouble with `host`, as a person reads it.
    pub(crate) fn sentence(&self, host: &str) -> String {
        match self {
            Self::Refused(message) => format!("cannot reach `{host}`: {message}"),
            Self::Unknown(message) => format!("no usable answer from `{host}`: {message}"),
        }
    }
}

/// How servers are reached; the same for every request of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Network {
    /// Certificates to trust beside the system's (`QWENAUTH_CA_FILE`).
    pub(crate) ca_file: Option<PathBuf>,
}

impl Network {
    /// A connection to the host of `url`, kept over requests.
    pub(crate) fn connect(&self, url: &Url) -> Result<Connection> {
        let mut builder = Client::builder()
            .user_agent(format!("{USER_AGENT} ({}; {})", std::env::consts::OS, std::env::consts::ARCH))
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(None);
        if is_loopback(url) {
            builder = builder.no_proxy();
        }
        if url.scheme() == "https" {
            // A second call finds the provider installed, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
            if let Some(path) = &self.ca_file {
                builder = builder.tls_certs_merge(certificates(path)?);
            }
        } else {
            // Reading the system's certificates takes milliseconds that plain loopback has no use for.
            let _ = rustls::crypto::ring::default_provider().install_default();
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().context("cannot set up the HTTP client")?;
        Ok(Connection { client })
    }
}

fn certificates(path: &PathBuf) -> Result<Vec<reqwest::Certificate>> {
    let failed = || {
        Failed::new(Failure::Other, format!("cannot use the certificates of `QWENAUTH_CA_FILE`, `{}`", path.display()))
            .hint("it must be a readable PEM file")
    };
    let pem = std::fs::read(path).with_context(failed)?;
    let certificates = reqwest::Certificate::from_pem_bundle(&pem).with_context(failed)?;
    if certificates.is_empty() {
        return Err(failed().into());
    }
    Ok(certificates)
}

pub(crate) struct Connection {
    client: Client,
}

impl Connection {
    /// Posts a form, as OAuth endpoints take it (RFC 6749 §4.1.3). `limit` is for the whole exchange.
    pub(crate) fn post_form(
        &self,
        url: &Url,
        fields: &[(&str, &str)],
        headers: &[(&'static str, String)],
        limit: Duration,
    ) -> Result<Reply, Trouble> {
        let mut request = self.client.post(url.clone()).header("accept", "application/json").form(fields);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        exchange(request, limit)
    }

    /// Gets, with a bearer token (RFC 6750 §2.1) or without. `limit` is for the whole exchange.
    pub(crate) fn get(
        &self,
        url: &Url,
        token: Option<&Secret>,
        headers: &[(String, String)],
        limit: Duration,
    ) -> Result<Reply, Trouble> {
        let request = self.client.get(url.clone()).header("accept", "application/json");
        exchange(with_headers(request, headers, token), limit)
    }

    /// Posts JSON, with a bearer token (RFC 6750 §2.1) or without. `limit` is for the whole exchange.
    pub(crate) fn post_json(
        &self,
        url: &Url,
        body: &serde_json::Value,
        token: Option<&Secret>,
        headers: &[(String, String)],
        limit: Duration,
    ) -> Result<Reply, Trouble> {
        let request = self
            .client
            .post(url.clone())
            .header("accept", "application/json")
            .header(CONTENT_TYPE, "application/json")
            .body(body.to_string());
        exchange(with_headers(request, headers, token), limit)
    }
}

fn with_headers(request: RequestBuilder, headers: &[(String, String)], token: Option<&Secret>) -> RequestBuilder {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            map.insert(name, value);
        }
    }
    let request = request.headers(map);
    match token {
        Some(token) => request.bearer_auth(token.expose()),
        None => request,
    }
}

/// The client's own time limit restarts with each piece of the body, so the exchange has a thread and a clock of its own.
fn exchange(request: RequestBuilder, limit: Duration) -> Result<Reply, Trouble> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let _ = sender.send(send(request));
    });
    match receiver.recv_timeout(limit) {
        Ok(outcome) => outcome,
        Err(_) => Err(Trouble::Unknown(format!("none came within {} s", limit.as_secs()))),
    }
}

fn send(request: RequestBuilder) -> Result<Reply, Trouble> {
    let response = request.send().map_err(trouble)?;
    let header =
        |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned);
    let status = response.status().as_u16();
    let content_type = header(CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase();
    let date = header(DATE);
    let mut body = Zeroizing::new(Vec::new());
    response
        .take(LARGEST + 1)
        .read_to_end(&mut body)
        .map_err(|error| Trouble::Unknown(format!("it broke off: {}", innermost(&error))))?;
    if body.len() as u64 > LARGEST {
        return Err(Trouble::Unknown("it is longer than 1 MiB".into()));
    }
    Ok(Reply { status, content_type, date, body })
}

fn trouble(error: reqwest::Error) -> Trouble {
    let error = error.without_url();
    let message = innermost(&error);
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(current) = cause {
        let refused = current
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
        if refused {
            return Trouble::Refused(message);
        }
        cause = current.source();
    }
    Trouble::Unknown(message)
}

/// The cause that says most: the last of the chain.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut current = error;
    while let Some(source) = current.source() {
        current = source;
    }
    let text = current.to_string();
    let first = text.chars().next().map(|first| first.to_lowercase().collect::<String>()).unwrap_or_default();
    first + &text.chars().skip(1).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_only() {
        for good in ["https://chat.qwen.ai", "http://127.0.0.1:80", "http://[::1]/x", "http://localhost:8080"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in
            ["http://chat.qwen.ai", "ftp://localhost", "http://127.0.0.1.evil.example", "file:///etc/passwd", "x"]
        {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_in_a_refused_url_is_not_repeated() {
        let message = endpoint("https://me:hunter2@example.com/x").unwrap_err().to_string();
        assert!(!message.contains("hunter2"), "{message}");
        let message = endpoint("http://me:hunter2@example.com:99999/x").unwrap_err().to_string();
        assert!(!message.contains("hunter2"), "{message}");
    }
}
