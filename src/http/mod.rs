//! The one blocking client: TLS, proxies, certificates, time limits.
//!
//! Hazards: a proxy variable sends a loopback request to another host; a redirect hands a token to another host; a
//! server sends slowly or without end. Rules: no proxy for loopback, no redirects, at most [`MAX_REPLY_SIZE`] bytes, and one
//! time limit for each exchange as a whole, name resolution and body included.

mod failure;

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use bytes::Bytes;
use hyper_util::client::proxy::matcher::Intercept;
use reqwest::blocking::{Client, ClientBuilder, Request, RequestBuilder};
pub(crate) use reqwest::header::HeaderValue;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderName, InvalidHeaderValue};
use reqwest::tls::TlsInfo;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

pub(crate) use self::failure::{TransportError, describe_status};
use self::failure::{innermost, transport_error};
use crate::error::{FEW_DESCRIPTORS, FEW_THREADS, Failed, Failure, has_user_info, printable, without_user_info};
use crate::names::{Resolver, is_confined};
pub(crate) use crate::names::{confine_to_loopback, is_loopback};
use crate::platform::{disk, threads};
use crate::secret::{Secret, quoted};
use crate::{proxies, tls};

/// Maximum size of a reply, in bytes.
const MAX_REPLY_SIZE: u64 = 1024 * 1024;

/// Most replies are shorter, in bytes.
const BODY_ROOM: usize = 64 * 1024;

/// Descriptors a client needs for its event loop, a name look-up and a connection.
const CLIENT_DESCRIPTORS: usize = 7;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How often an exchange checks whether it was given up or its process was stopped.
const TICK: Duration = Duration::from_millis(100);

/// If a tick lasts this much longer, the process was stopped; a busy machine delays it less.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a given-up request is still awaited: tokens may have been issued at this moment, and only once.
const GRACE: Duration = Duration::from_secs(1);

/// The honest `User-Agent` of this program.
pub(crate) fn user_agent() -> String {
    format!("qwenauth/{} ({}; {})", env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH)
}

/// A URL that credentials may be sent to: `https`, or `http` to this machine; without user info.
pub(crate) fn endpoint(text: &str) -> Result<Url> {
    // A server's document may name it.
    let shown = quoted(&without_user_info(text), &[]);
    let refused = |why: &str| Failed::new(Failure::Other, format!("URL `{shown}` rejected: {why}"));
    let url = Url::parse(text).map_err(|error| refused(&error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() || has_user_info(text) {
        return refused("it contains a user name or password").err();
    }
    // A `#` in user info ends the host for a parser, and RFC 6749 §3.1 allows no fragment either.
    if url.fragment().is_some() {
        return refused("it has a fragment (`#`)").err();
    }
    if is_confined() && !is_loopback(&url) {
        return refused("requests from the sandbox must not leave this machine")
            .hint("leave the sandbox first: `exit`")
            .err();
    }
    match url.scheme() {
        "https" if url.host().is_some() => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => refused("plain `http` is allowed for loopback only").hint("use `https`").err(),
        scheme => refused(&format!("`{scheme}` is not `https`")).err(),
    }
}

/// A reply, whatever its status.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    /// The server's clock (RFC 9110 §6.6.1), as its response states it.
    pub(crate) date: Option<SystemTime>,
    /// The server's own certificate, where TLS was spoken.
    pub(crate) certificate: Option<Vec<u8>>,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl Reply {
    /// The body without a byte order mark, which some servers send before JSON.
    pub(crate) fn text(&self) -> &[u8] {
        self.body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.body)
    }

    /// Judged by the content first: JSON is sent as `text/html` too.
    pub(crate) fn is_html(&self) -> bool {
        let content = self.text().trim_ascii_start();
        content.starts_with(b"<") || self.content_type.starts_with("text/html") && !content.starts_with(b"{")
    }
}

/// How servers are reached; the same for every request of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Network {
    /// Certificates to trust in addition to the system's (`QWENAUTH_CA_FILE`).
    pub(crate) ca_file: Option<PathBuf>,
}

/// Sends all requests of a client through `proxy`.
fn through(builder: ClientBuilder, proxy: Option<Intercept>) -> Result<ClientBuilder> {
    let Some(intercept) = proxy else { return Ok(builder) };
    let mut address = Url::parse(&intercept.uri().to_string())?;
    if let Some((user, password)) = intercept.raw_auth() {
        // What cannot have user info has none either.
        let _ = address.set_username(user).and_then(|()| address.set_password(Some(password)));
    }
    let mut proxy = reqwest::Proxy::all(address)?;
    if let Some(header) = intercept.basic_auth() {
        proxy = proxy.custom_http_auth(header.clone());
    }
    Ok(builder.proxy(proxy))
}

impl Network {
    /// A connection to the host of `url`, kept over requests. It is for that host only: proxies and certificates of another
    /// may differ.
    pub(crate) fn connect(&self, url: &Url) -> Result<Connection> {
        self.open(url, is_loopback(url))
    }

    /// The same without any proxy, to find out whether the proxy is what fails.
    pub(crate) fn connect_directly(&self, url: &Url) -> Result<Connection> {
        self.open(url, true)
    }

    fn open(&self, url: &Url, directly: bool) -> Result<Connection> {
        let mut builder = Client::builder()
            .user_agent(user_agent())
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Arc::new(Resolver))
            .tls_info(true)
            .timeout(None);
        // The client panics where it gets none for its signals and wake-ups.
        disk::check_free_descriptors(CLIENT_DESCRIPTORS)
            .with_context(|| Failed::new(Failure::Other, "cannot set up the HTTP client").hint(FEW_DESCRIPTORS))?;
        if directly {
            builder = builder.no_proxy();
        } else if let Some(matcher) = proxies::by_encoding() {
            builder = through(builder.no_proxy(), matcher.intercept(&url.as_str().parse()?))?;
        }
        // A second call finds the provider installed, which is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        builder = if url.scheme() == "https" {
            builder.tls_backend_preconfigured(tls::client_config(self.ca_file.as_deref())?)
        } else {
            // Reading the system's certificates takes milliseconds, and plain HTTP on loopback does not need them.
            builder.tls_certs_only([])
        };
        // All that can fail by now is what the system refuses: a thread, an event loop.
        let client = builder
            .build()
            .with_context(|| Failed::new(Failure::Temporary, "cannot set up the HTTP client").hint(FEW_THREADS))?;
        Ok(Connection { client, is_given_up: || false })
    }
}

pub(crate) struct Connection {
    client: Client,
    is_given_up: fn() -> bool,
}

impl Connection {
    /// Exchanges end early, with [`TransportError::Unknown`], once `is_given_up`.
    pub(crate) fn until(mut self, is_given_up: fn() -> bool) -> Self {
        self.is_given_up = is_given_up;
        self
    }

    /// Posts a form, as OAuth endpoints require (RFC 6749 §4.1.3). `limit` is for the whole exchange.
    pub(crate) fn post_form(
        &self,
        url: &Url,
        fields: &[(&str, &str)],
        headers: &[(&'static str, HeaderValue)],
        limit: Duration,
    ) -> Result<Reply, TransportError> {
        let mut request = self
            .client
            .post(url.clone())
            .header("accept", "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form(fields));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        self.exchange(request, limit)
    }

    /// Gets, with a bearer token (RFC 6750 §2.1) or without. `limit` is for the whole exchange.
    pub(crate) fn get(
        &self,
        url: &Url,
        token: Option<&Secret>,
        headers: &[(String, String)],
        limit: Duration,
    ) -> Result<Reply, TransportError> {
        let request = self.client.get(url.clone()).header("accept", "application/json");
        self.exchange(with_headers(request, headers, token), limit)
    }

    /// Posts JSON, with a bearer token (RFC 6750 §2.1) or without. `limit` is for the whole exchange.
    pub(crate) fn post_json(
        &self,
        url: &Url,
        body: &serde_json::Value,
        token: Option<&Secret>,
        headers: &[(String, String)],
        limit: Duration,
    ) -> Result<Reply, TransportError> {
        let request = self
            .client
            .post(url.clone())
            .header("accept", "application/json")
            .header(CONTENT_TYPE, "application/json")
            .body(body.to_string());
        self.exchange(with_headers(request, headers, token), limit)
    }

    /// The client's own time limit restarts with each chunk of the body, so the exchange has a thread and a clock of
    /// its own.
    fn exchange(&self, request: RequestBuilder, limit: Duration) -> Result<Reply, TransportError> {
        let (client, request) = request.build_split();
        let request = request.map_err(transport_error)?;
        let line = logged_line(&request);
        let began = Instant::now();
        let waiting = Arc::new(());
        let is_awaited = Arc::downgrade(&waiting);
        let receiver = threads::run(move || send(&client, request, &is_awaited))
            .map_err(|failed| TransportError::NotConnected(failed.message))?;
        let outcome = receive(&receiver, limit, self.is_given_up)
            .unwrap_or_else(|| Err(TransportError::Unknown(format!("none arrived within {} s", limit.as_secs()))));
        let took = began.elapsed().as_millis();
        match &outcome {
            Ok(reply) => log::debug!("{line}: {} in {took} ms", reply.status),
            Err(trouble) => log::debug!("{line}: failed after {took} ms: {}", printable(trouble.message())),
        }
        outcome
    }
}

/// `POST host/path`, and at the finest level the names of its headers. Queries and values may hold secrets.
fn logged_line(request: &Request) -> String {
    let url = request.url();
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let line = format!("{} {host}{port}{}", request.method(), url.path());
    if log::log_enabled!(log::Level::Trace) {
        let names: Vec<&str> = request.headers().keys().map(HeaderName::as_str).collect();
        log::trace!("{line}: headers {}", names.join(", "));
    }
    line
}

fn with_headers(request: RequestBuilder, headers: &[(String, String)], token: Option<&Secret>) -> RequestBuilder {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            map.insert(name, value);
        }
    }
    let request = request.headers(map);
    match token.map(bearer) {
        Some(Ok(value)) => request.header(AUTHORIZATION, value),
        // Fails where the request is sent.
        Some(Err(_)) => request.header(AUTHORIZATION, "\n"),
        None => request,
    }
}

/// `Bearer` and the token, as a header's value.
pub(crate) fn bearer(token: &Secret) -> Result<HeaderValue, InvalidHeaderValue> {
    secret_value("Bearer ", token)
}

/// A header's value with a secret in it. All copies share one buffer, which is wiped with the last of them.
pub(crate) fn secret_value(before: &str, secret: &Secret) -> Result<HeaderValue, InvalidHeaderValue> {
    let text = secret.expose();
    let mut buffer = Zeroizing::new(Vec::with_capacity(before.len() + text.len()));
    buffer.extend_from_slice(before.as_bytes());
    buffer.extend_from_slice(text.as_bytes());
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(buffer))?;
    value.set_sensitive(true);
    Ok(value)
}

/// `fields` as a form, in one buffer that is wiped when it was sent.
fn form(fields: &[(&str, &str)]) -> Bytes {
    // At most three bytes for each, so that the buffer never moves and leaves a copy behind.
    let most = fields.iter().map(|(name, value)| 3 * (name.len() + value.len()) + 2).sum();
    let mut text = Zeroizing::new(String::with_capacity(most));
    for (name, value) in fields {
        if !text.is_empty() {
            text.push('&');
        }
        text.extend(form_urlencoded::byte_serialize(name.as_bytes()));
        text.push('=');
        text.extend(form_urlencoded::byte_serialize(value.as_bytes()));
    }
    Bytes::from_owner(text)
}

/// Waits for `limit`, not counting the time that this process was stopped (Ctrl-Z, a frozen container): a reply that
/// arrived meanwhile is in the socket, and giving up on it would lose the tokens that replaced the old ones. Once
/// `is_given_up`, a response in flight has [`GRACE`].
fn receive<T>(receiver: &Receiver<T>, limit: Duration, is_given_up: fn() -> bool) -> Option<T> {
    let (mut left, mut stopped, mut over) = (limit, false, false);
    while stopped || !left.is_zero() {
        let tick = if stopped { TICK } else { left.min(TICK) };
        let began = Instant::now();
        if let Ok(received) = receiver.recv_timeout(tick) {
            return Some(received);
        }
        stopped = began.elapsed() > tick + PAUSE;
        left = left.saturating_sub(tick);
        if !over && is_given_up() {
            (over, left) = (true, left.min(GRACE));
        }
    }
    None
}

/// Parses an HTTP date in any of its three forms (RFC 9110 §5.6.7).
pub(crate) fn parse_date(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text.trim()).ok()
}

/// Once the exchange `is_awaited` by nobody, its body is read no further.
fn send(client: &Client, request: Request, is_awaited: &Weak<()>) -> Result<Reply, TransportError> {
    let response = client.execute(request).map_err(transport_error)?;
    let header =
        |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned);
    let status = response.status().as_u16();
    let content_type = header(CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase();
    let date = header(DATE).as_deref().and_then(parse_date);
    let tls = response.extensions().get::<TlsInfo>();
    let certificate = tls.and_then(TlsInfo::peer_certificate).map(<[u8]>::to_vec);
    // Large enough for usual responses, because growing would leave a copy of a token in memory.
    let mut body = Zeroizing::new(Vec::with_capacity(BODY_ROOM));
    Awaited { body: response, is_awaited }
        .take(MAX_REPLY_SIZE + 1)
        .read_to_end(&mut body)
        .map_err(|error| TransportError::Unknown(format!("the connection closed early: {}", innermost(&error))))?;
    if body.len() as u64 > MAX_REPLY_SIZE {
        return Err(TransportError::Unknown("it exceeds 1 MiB".into()));
    }
    Ok(Reply { status, content_type, date, certificate, body })
}

/// A body that ends with an error once nobody waits for it: a server may send a byte now and then, for good.
struct Awaited<'a, R> {
    body: R,
    is_awaited: &'a Weak<()>,
}

impl<R: Read> Read for Awaited<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.body.read(buffer)?;
        if self.is_awaited.strong_count() == 0 {
            return Err(io::Error::other("abandoned"));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn the_connection_to_a_server_that_sends_slowly_ends_with_the_exchange() {
        use std::io::Write;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let (sender, ended) = mpsc::channel();
        threads::start(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").unwrap();
            while stream.write_all(b" ").is_ok() {
                thread::sleep(Duration::from_millis(5));
            }
            sender.send(()).unwrap();
        })
        .unwrap();
        let connection = Network::default().connect(&url).unwrap();
        assert!(connection.get(&url, None, &[], Duration::from_millis(100)).is_err());
        ended.recv_timeout(Duration::from_secs(3)).expect("the connection is closed");
    }

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

    const LIMIT: Duration = Duration::from_millis(600);

    #[test]
    #[ignore = "a process of the test below, which stops it"]
    #[expect(clippy::print_stdout, reason = "says that it waits")]
    fn waits_for_an_answer() {
        let (sender, receiver) = mpsc::channel();
        let _ = threads::start(move || {
            println!("waiting");
            io::stdin().read_line(&mut String::new()).unwrap();
            thread::sleep(TICK / 2);
            sender.send(()).unwrap();
        });
        assert_eq!(receive(&receiver, LIMIT, || false), Some(()));
    }

    /// Ctrl-Z, a debugger, a frozen container: the time that passes meanwhile is not the server's.
    #[cfg(unix)]
    #[test]
    fn a_process_that_was_stopped_for_longer_than_its_limit_gets_the_answer() {
        use std::io::{BufRead, BufReader, Write};
        use std::process::{Command, Stdio};

        use nix::sys::signal::{Signal, kill};

        let waits = ["--exact", "http::tests::waits_for_an_answer", "--ignored", "--nocapture", "--test-threads", "1"];
        let mut waiting = Command::new(std::env::current_exe().unwrap());
        let mut waiting = waiting.args(waits).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(waiting.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(said.any(|line| line.contains("waiting")));
        let id = nix::unistd::Pid::from_raw(waiting.id().try_into().unwrap());
        kill(id, Signal::SIGSTOP).unwrap();
        thread::sleep(LIMIT + PAUSE);
        waiting.stdin.take().unwrap().write_all(b"\n").unwrap();
        kill(id, Signal::SIGCONT).unwrap();
        let said: Vec<String> = said.collect();
        assert!(waiting.wait().unwrap().success(), "{}", said.join("\n"));
    }
}
