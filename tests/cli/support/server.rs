//! An OAuth server and model API on loopback: says what a test scripts, holds every request against the protocol,
//! remembers it, and fails the test over a request nobody scripted or a scripted reply nobody asked for.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// How long a test waits for what must come: twice as long as the program waits for a lock.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) const CLIENT_ID: &str = "f0304373b74a44d2b584a3fb70ca9e56";
pub(crate) const DEVICE_CODE: &str = "granted-device-code";
pub(crate) const USER_CODE: &str = "WDJB-MJHT";

/// What a client may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ask {
    DeviceCode,
    /// The token endpoint, for the device grant
    Poll,
    /// The token endpoint, for the refresh grant
    Refresh,
    Chat,
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) ask: Option<Ask>,
    pub(crate) method: String,
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
    pub(crate) form: Vec<(String, String)>,
    pub(crate) at: Instant,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    /// The path without its query
    pub(crate) fn place(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }

    /// The key or token it carries
    pub(crate) fn bearer(&self) -> &str {
        self.header("Authorization").strip_prefix("Bearer ").unwrap_or_default()
    }

    pub(crate) fn field(&self, name: &str) -> &str {
        self.form.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    fn fields(&self) -> Vec<&str> {
        self.form.iter().map(|(key, _)| key.as_str()).collect()
    }
}

enum Body {
    Whole(String),
    /// In two halves, with a pause before each, so that a kill can come between them
    Halves(String, Duration),
    /// All headers, half of the body, then the end of the connection
    Half(String),
    /// 50 MB of valid JSON
    Huge,
    /// The connection ends without a byte
    Dropped,
    /// No byte until the test ends
    Silence,
}

/// One scripted answer.
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Body,
    meanwhile: Vec<Box<dyn FnOnce() + Send>>,
    afterwards: Option<Box<dyn FnOnce() + Send>>,
}

impl Reply {
    fn new(status: u16, content_type: &str, body: Body) -> Self {
        Self {
            status,
            headers: vec![("Content-Type", content_type.into())],
            body,
            meanwhile: Vec::new(),
            afterwards: None,
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "`json!` is written in place")]
    pub(crate) fn json(status: u16, body: Value) -> Self {
        Self::new(status, "application/json", Body::Whole(body.to_string()))
    }

    pub(crate) fn text(status: u16, body: &str) -> Self {
        Self::new(status, "application/json", Body::Whole(body.into()))
    }

    pub(crate) fn text_as(status: u16, content_type: &str, body: &str) -> Self {
        Self::new(status, content_type, Body::Whole(body.into()))
    }

    pub(crate) fn html(status: u16) -> Self {
        Self::new(status, "text/html", Body::Whole("<!doctype html><html><body>Access denied</body></html>".into()))
    }

    /// An OAuth error (RFC 6749 §5.2).
    pub(crate) fn error(status: u16, error: &str) -> Self {
        Self::json(status, json!({ "error": error }))
    }

    pub(crate) fn half() -> Self {
        Self::new(200, "application/json", Body::Half(tokens("never").to_string()))
    }

    pub(crate) fn huge() -> Self {
        Self::new(200, "application/json", Body::Huge)
    }

    pub(crate) fn dropped() -> Self {
        Self::new(200, "", Body::Dropped)
    }

    pub(crate) fn silence() -> Self {
        Self::new(200, "", Body::Silence)
    }

    /// New tokens, numbered: `granted-access-2`, `granted-refresh-2`, good for six hours.
    pub(crate) fn tokens(number: &str) -> Self {
        Self::json(200, tokens(number))
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// In two halves, with a pause before each.
    pub(crate) fn in_halves(mut self, pause: Duration) -> Self {
        if let Body::Whole(body) = self.body {
            self.body = Body::Halves(body, pause);
        }
        self
    }

    /// Whether a refresh token answered so is spent.
    fn renews(&self) -> bool {
        matches!(&self.body, Body::Whole(body) if self.status == 200 && body.contains("granted-refresh-"))
    }

    /// Does this when the request has come, before a byte of the answer goes out.
    pub(crate) fn meanwhile(mut self, act: impl FnOnce() + Send + 'static) -> Self {
        self.meanwhile.push(Box::new(act));
        self
    }

    /// Does this when the whole answer has gone out.
    pub(crate) fn afterwards(mut self, act: impl FnOnce() + Send + 'static) -> Self {
        self.afterwards = Some(Box::new(act));
        self
    }

    /// Holds the answer back until the gate opens.
    pub(crate) fn after(self, gate: &Gate) -> Self {
        let gate = gate.clone();
        self.meanwhile(move || gate.pass())
    }
}

pub(crate) fn tokens(number: &str) -> Value {
    json!({
        "access_token": format!("granted-access-{number}"),
        "refresh_token": format!("granted-refresh-{number}"),
        "token_type": "Bearer",
        "scope": "openid profile email model.completion",
        "expires_in": 21600,
    })
}

/// Something a reply can wait for.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }

    pub(crate) fn pass(&self) {
        let open = lock(&self.0.0);
        drop(self.0.1.wait_timeout_while(open, PATIENCE, |open| !*open));
    }
}

type Script = Box<dyn Fn() -> Reply + Send>;

type Handler = Box<dyn Fn(&Request) -> Reply + Send>;

#[derive(Default)]
struct State {
    scripted: HashMap<Ask, VecDeque<Reply>>,
    always: HashMap<Ask, Script>,
    /// By path, for other providers than Qwen
    handlers: HashMap<String, Handler>,
    requests: Vec<Request>,
    problems: Vec<String>,
    challenge: String,
    /// Refresh tokens that were answered with new ones: such a server knows them no more
    spent: HashSet<String>,
    /// Connections that are being served
    busy: usize,
    over: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

pub(crate) struct Server {
    shared: Arc<Shared>,
    address: String,
    /// Kept until the end, so that no other process has the port while its own clients may still come.
    _listener: TcpListener,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let kept = listener.try_clone().unwrap();
        let shared = Arc::new(Shared::default());
        let accepting = thread::spawn({
            let shared = shared.clone();
            move || {
                for connection in listener.incoming() {
                    if lock(&shared.state).over {
                        return;
                    }
                    let Ok(connection) = connection else { continue };
                    let shared = shared.clone();
                    lock(&shared.state).busy += 1;
                    thread::spawn(move || {
                        // A connection that breaks is the client's business: the test sees it in the client.
                        drop(answer(&connection, &shared));
                        lock(&shared.state).busy -= 1;
                        shared.changed.notify_all();
                    });
                }
            }
        });
        Self { shared, address, _listener: kept, accepting: Some(accepting) }
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn script(&self, ask: Ask, reply: Reply) {
        lock(&self.shared.state).scripted.entry(ask).or_default().push_back(reply);
    }

    /// Once the scripted replies are used up (there need not be any), every further request gets this, be there any or not.
    pub(crate) fn always(&self, ask: Ask, reply: impl Fn() -> Reply + Send + 'static) {
        lock(&self.shared.state).always.insert(ask, Box::new(reply));
    }

    /// Answers whatever is asked at this path, query aside, by looking at the request.
    pub(crate) fn serve(&self, path: &str, handler: impl Fn(&Request) -> Reply + Send + 'static) {
        lock(&self.shared.state).handlers.insert(path.to_owned(), Box::new(handler));
    }

    /// The requests at a served path.
    pub(crate) fn at(&self, path: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.place() == path).collect()
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        lock(&self.shared.state).requests.clone()
    }

    pub(crate) fn asked(&self, ask: Ask) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.ask == Some(ask)).collect()
    }

    /// Waits until this many such requests have come.
    #[track_caller]
    pub(crate) fn wait_for(&self, ask: Ask, count: usize) {
        let come = |state: &State| state.requests.iter().filter(|request| request.ask == Some(ask)).count();
        let (state, waited) = self
            .shared
            .changed
            .wait_timeout_while(lock(&self.shared.state), PATIENCE, |state| come(state) < count)
            .unwrap();
        assert!(!waited.timed_out(), "{count} × {ask:?} awaited, {} came", come(&state));
    }

    /// Waits until all that was sent so far has been read and answered, by whomever it was sent: connections are accepted
    /// in their order.
    pub(crate) fn settle(&self) {
        let mut last = TcpStream::connect(&self.address).unwrap();
        last.shutdown(Shutdown::Write).unwrap();
        last.read_to_end(&mut Vec::new()).unwrap();
        let state = lock(&self.shared.state);
        let (state, waited) = self.shared.changed.wait_timeout_while(state, PATIENCE, |state| state.busy > 0).unwrap();
        assert!(!waited.timed_out(), "{} connections are served for ever", state.busy);
    }

    /// Forgets the requests that came.
    pub(crate) fn forget(&self) {
        lock(&self.shared.state).requests.clear();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        lock(&self.shared.state).over = true;
        self.shared.changed.notify_all();
        // Wakes the accepting thread.
        drop(TcpStream::connect(&self.address));
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
        if thread::panicking() {
            return;
        }
        let state = lock(&self.shared.state);
        assert!(state.problems.is_empty(), "the server was asked wrongly:\n{}", state.problems.join("\n"));
        for (ask, left) in &state.scripted {
            assert!(left.is_empty(), "{} scripted replies to {ask:?} were never asked for", left.len());
        }
    }
}

/// A test that failed elsewhere must not fail here again.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn answer(connection: &TcpStream, shared: &Shared) -> io::Result<()> {
    let request = read(connection)?;
    let reply = {
        let mut state = lock(&shared.state);
        if let Err(problem) = check(&request, &mut state) {
            state.problems.push(format!("{} {} {}: {problem}", request.method, request.path, request.body));
        }
        let reply = request.ask.and_then(|ask| {
            let scripted = state.scripted.get_mut(&ask).and_then(VecDeque::pop_front);
            scripted.or_else(|| state.always.get(&ask).map(|script| script()))
        });
        let reply = reply.or_else(|| state.handlers.get(request.place()).map(|handler| handler(&request)));
        if reply.is_none() {
            state.problems.push(format!("{} {} {}: nobody scripted this", request.method, request.path, request.body));
        }
        if request.ask == Some(Ask::Refresh) && reply.as_ref().is_some_and(Reply::renews) {
            state.spent.insert(request.field("refresh_token").to_owned());
        }
        state.requests.push(request);
        shared.changed.notify_all();
        reply.unwrap_or_else(|| Reply::text(500, "unexpected"))
    };
    send(connection, reply, shared)
}

fn read(connection: &TcpStream) -> io::Result<Request> {
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        // Who connects and asks nothing is none of the program under test.
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut request =
        Request { ask: None, method, path, headers, body: String::new(), form: Vec::new(), at: Instant::now() };
    let mut body = vec![0; request.header("Content-Length").parse().unwrap_or(0)];
    reader.read_exact(&mut body)?;
    request.body = String::from_utf8_lossy(&body).into_owned();
    if request.header("Content-Type") == "application/x-www-form-urlencoded" {
        request.form = url::form_urlencoded::parse(&body).into_owned().collect();
    }
    request.ask = match (request.path.as_str(), request.field("grant_type")) {
        ("/api/v1/oauth2/device/code", _) => Some(Ask::DeviceCode),
        ("/api/v1/oauth2/token", "urn:ietf:params:oauth:grant-type:device_code") => Some(Ask::Poll),
        ("/api/v1/oauth2/token", "refresh_token") => Some(Ask::Refresh),
        ("/v1/chat/completions", _) => Some(Ask::Chat),
        _ => None,
    };
    Ok(request)
}

/// Holds a request against RFC 8628 §3.1 and §3.4, RFC 6749 §6, RFC 7636 and Qwen's dialect of them.
fn check(request: &Request, state: &mut State) -> Result<(), String> {
    let hold = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
    let agent = request.header("User-Agent");
    hold(agent.starts_with(concat!("qwenauth/", env!("CARGO_PKG_VERSION"), " (linux; ")), "an untrue User-Agent")?;
    if state.handlers.contains_key(request.place()) {
        return Ok(());
    }
    hold(request.method == "POST", "not a POST")?;
    if request.ask == Some(Ask::Chat) {
        return check_chat(request);
    }
    hold(request.header("Content-Type") == "application/x-www-form-urlencoded", "not a form")?;
    hold(request.header("Accept") == "application/json", "does not ask for JSON")?;
    hold(request.header("Authorization").is_empty(), "an Authorization header")?;
    hold(request.field("client_id") == CLIENT_ID, "another client")?;
    match request.ask {
        Some(Ask::DeviceCode) => {
            let fields = ["client_id", "scope", "code_challenge", "code_challenge_method"];
            hold(request.fields() == fields, "not the fields of a device request")?;
            hold(request.field("scope") == "openid profile email model.completion", "another scope")?;
            hold(request.field("code_challenge_method") == "S256", "not S256")?;
            request.field("code_challenge").clone_into(&mut state.challenge);
            hold(BASE64_URL_SAFE_NO_PAD.decode(&state.challenge).is_ok_and(|hash| hash.len() == 32), "no challenge")
        }
        Some(Ask::Poll) => {
            let fields = ["grant_type", "client_id", "device_code", "code_verifier"];
            hold(request.fields() == fields, "not the fields of a poll")?;
            hold(request.field("device_code") == DEVICE_CODE, "another device code")?;
            let verifier = request.field("code_verifier");
            hold((43..=128).contains(&verifier.len()), "a verifier of the wrong length")?;
            let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
            hold(challenge == state.challenge, "the verifier does not belong to the challenge")
        }
        Some(Ask::Refresh) => {
            hold(request.fields() == ["grant_type", "refresh_token", "client_id"], "not the fields of a refresh")?;
            hold(!state.spent.contains(request.field("refresh_token")), "a refresh token that was spent already")
        }
        Some(Ask::Chat) | None => Err("no such endpoint".into()),
    }
}

fn check_chat(request: &Request) -> Result<(), String> {
    let body: Value = serde_json::from_str(&request.body).map_err(|error| error.to_string())?;
    let facts = [
        (request.header("Content-Type"), "application/json"),
        (request.header("X-DashScope-AuthType"), "qwen-oauth"),
        (request.header("X-DashScope-CacheControl"), "enable"),
        (request.header("X-DashScope-UserAgent"), request.header("User-Agent")),
    ];
    for (is, must) in facts {
        if is != must {
            return Err(format!("`{is}` instead of `{must}`"));
        }
    }
    if body["max_tokens"] != 1 || body["model"].as_str().is_none_or(str::is_empty) {
        return Err("not the cheapest request".into());
    }
    if !request.header("Authorization").starts_with("Bearer granted-access-") {
        return Err("no access token".into());
    }
    Ok(())
}

fn send(mut connection: &TcpStream, reply: Reply, shared: &Shared) -> io::Result<()> {
    for act in reply.meanwhile {
        act();
    }
    let headers: Vec<_> = reply.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("HTTP/1.1 {} Scripted\r\nConnection: close\r\n{}", reply.status, headers.concat());
    match reply.body {
        Body::Whole(body) => write!(connection, "{head}Content-Length: {}\r\n\r\n{body}", body.len()),
        Body::Halves(body, pause) => {
            let (first, second) = body.split_at(body.len() / 2);
            thread::sleep(pause);
            write!(connection, "{head}Content-Length: {}\r\n\r\n{first}", body.len())?;
            thread::sleep(pause);
            connection.write_all(second.as_bytes())
        }
        Body::Half(body) => {
            write!(connection, "{head}Content-Length: {}\r\n\r\n{}", body.len(), &body[..body.len() / 2])
        }
        Body::Huge => {
            let (start, padding) = (r#"{"access_token":"granted-access-huge","padding":""#, vec![b'x'; 1 << 20]);
            write!(connection, "{head}Content-Length: {}\r\n\r\n{start}", start.len() + 50 * padding.len() + 2)?;
            (0..50).try_for_each(|_| connection.write_all(&padding))?;
            connection.write_all(b"\"}")
        }
        Body::Dropped => Ok(()),
        Body::Silence => {
            let state = lock(&shared.state);
            drop(shared.changed.wait_timeout_while(state, PATIENCE, |state| !state.over));
            Ok(())
        }
    }?;
    if let Some(act) = reply.afterwards {
        act();
    }
    Ok(())
}
