//! An authorization server with single-use refresh tokens that logs every rotation and when its reply was out, and an API
//! that refuses the access tokens it is told to.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a scenario waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What the token endpoint does with a refresh.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// The token is spent when the request has been read, as strict servers do.
    Rotate,
    /// The old token stays good: a server with a period of grace.
    KeepOld,
    /// 503, nothing is done.
    Fail,
}

/// One refresh, as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Refresh {
    pub(crate) sent: String,
    /// The token given for it, if it was good.
    pub(crate) granted: Option<String>,
    /// It had been spent before.
    pub(crate) reuse: bool,
    /// When the last byte of the reply was handed to the kernel.
    pub(crate) replied: Option<Instant>,
}

struct State {
    mood: Mood,
    next: u64,
    /// Every refresh token there ever was → still good.
    refresh_tokens: HashMap<String, bool>,
    refreshes: Vec<Refresh>,
    /// Requests to the token endpoint.
    asked: usize,
    /// Access tokens that the API takes no more.
    refused: HashSet<String>,
    /// No reply goes out while it is closed.
    open: bool,
    /// Before the reply and between its halves.
    delay: Duration,
    /// Connections that are being served.
    busy: usize,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

pub(crate) struct Server {
    shared: Arc<Shared>,
    pub(crate) url: String,
}

/// What is written into a credential file.
pub(crate) struct Tokens {
    pub(crate) access: String,
    pub(crate) refresh: String,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = State {
            mood: Mood::Rotate,
            next: 0,
            refresh_tokens: HashMap::new(),
            refreshes: Vec::new(),
            asked: 0,
            refused: HashSet::new(),
            open: true,
            delay: Duration::ZERO,
            busy: 0,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let (accepting, api) = (shared.clone(), url.clone());
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (shared, api) = (accepting.clone(), api.clone());
                let count = |shared: &Shared, change: isize| {
                    let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
                    state.busy = state.busy.saturating_add_signed(change);
                    shared.changed.notify_all();
                };
                count(&shared, 1);
                thread::spawn(move || {
                    // A client that was killed is what this is about.
                    drop(answer(&connection, &shared, &api));
                    count(&shared, -1);
                });
            }
        });
        Self { shared, url }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A login made elsewhere.
    pub(crate) fn issue(&self) -> Tokens {
        self.state().issue()
    }

    pub(crate) fn mood(&self, mood: Mood) {
        self.state().mood = mood;
    }

    pub(crate) fn delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    pub(crate) fn close_gate(&self) {
        self.state().open = false;
    }

    pub(crate) fn open_gate(&self) {
        self.state().open = true;
        self.shared.changed.notify_all();
    }

    pub(crate) fn is_good(&self, refresh_token: &str) -> bool {
        self.state().refresh_tokens.get(refresh_token).copied().unwrap_or(false)
    }

    /// From now on the API answers 401 to this token.
    pub(crate) fn refuse(&self, access_token: &str) {
        self.state().refused.insert(access_token.to_owned());
    }

    pub(crate) fn refreshes(&self) -> Vec<Refresh> {
        self.state().refreshes.clone()
    }

    /// Forgets what was; tokens stay what they are.
    pub(crate) fn forget(&self) {
        let mut state = self.state();
        state.refreshes.clear();
        state.asked = 0;
    }

    /// Waits a moment for somebody to ask for tokens. Whether somebody has.
    pub(crate) fn await_request(&self) -> bool {
        let moment = Duration::from_millis(5);
        !self.shared.changed.wait_timeout_while(self.state(), moment, |state| state.asked == 0).unwrap().1.timed_out()
    }

    /// Waits until all that was sent so far has been read and dealt with, by whomever it was sent: connections are
    /// accepted in their order.
    pub(crate) fn settle(&self) {
        let mut last = TcpStream::connect(self.url.trim_start_matches("http://")).unwrap();
        last.write_all(b"GET /settle HTTP/1.1\r\n\r\n").unwrap();
        last.read_to_end(&mut Vec::new()).unwrap();
        let (state, waited) =
            self.shared.changed.wait_timeout_while(self.state(), PATIENCE, |state| state.busy > 0).unwrap();
        assert!(!waited.timed_out(), "{} connections are served for ever", state.busy);
    }

    pub(crate) fn wait_for_refreshes(&self, count: usize) {
        let (state, waited) = self
            .shared
            .changed
            .wait_timeout_while(self.state(), PATIENCE, |state| state.refreshes.len() < count)
            .unwrap();
        assert!(!waited.timed_out(), "{count} refreshes awaited, {} came", state.refreshes.len());
    }
}

impl State {
    fn issue(&mut self) -> Tokens {
        self.next += 1;
        let tokens = Tokens {
            access: format!("chaotic-access-{}", self.next),
            refresh: format!("chaotic-refresh-{}", self.next),
        };
        self.refresh_tokens.insert(tokens.refresh.clone(), true);
        tokens
    }

    /// Status and body for a refresh, which is logged as it arrives.
    fn refresh(&mut self, sent: &str, api: &str) -> (u16, String) {
        let known = self.refresh_tokens.get(sent).copied();
        let good = known == Some(true) && self.mood != Mood::Fail;
        let tokens = good.then(|| self.issue());
        if good && self.mood == Mood::Rotate {
            self.refresh_tokens.insert(sent.to_owned(), false);
        }
        self.asked += 1;
        self.refreshes.push(Refresh {
            sent: sent.to_owned(),
            granted: tokens.as_ref().map(|tokens| tokens.refresh.clone()),
            reuse: known == Some(false),
            replied: None,
        });
        match tokens {
            Some(tokens) => (200, grant(&tokens, api)),
            None if self.mood == Mood::Fail => (503, r#"{"error":"temporarily_unavailable"}"#.into()),
            None => (400, r#"{"error":"invalid_grant"}"#.into()),
        }
    }
}

fn grant(tokens: &Tokens, api: &str) -> String {
    format!(
        r#"{{"access_token":"{}","refresh_token":"{}","token_type":"Bearer","expires_in":21600,"resource_url":"{api}"}}"#,
        tokens.access, tokens.refresh
    )
}

fn answer(connection: &TcpStream, shared: &Shared, api: &str) -> io::Result<()> {
    let Asked { path, bearer, body } = read(connection)?;
    let field = |name: &str| {
        let form = url::form_urlencoded::parse(body.as_bytes());
        form.into_iter().find(|(key, _)| key == name).map(|(_, value)| value.into_owned()).unwrap_or_default()
    };
    let lock = || shared.state.lock().unwrap_or_else(PoisonError::into_inner);
    if path == "/api/v1/oauth2/device/code" {
        let page = format!("{api}/authorize");
        let code = format!(
            r#"{{"device_code":"chaotic-device-code","user_code":"WDJB-MJHT","verification_uri":"{page}","expires_in":900,"interval":0}}"#
        );
        return send(connection, 200, &code, Duration::ZERO);
    }
    if path == "/v1/chat/completions" {
        let (status, body) = if lock().refused.contains(&bearer) {
            (401, r#"{"error":{"code":"invalid_api_key","message":"invalid access token or token expired"}}"#)
        } else {
            (200, r#"{"choices":[{"message":{"role":"assistant","content":"ok"}}]}"#)
        };
        return send(connection, status, body, Duration::ZERO);
    }
    if path != "/api/v1/oauth2/token" {
        return send(connection, 404, "{}", Duration::ZERO);
    }
    if field("grant_type") != "refresh_token" {
        let (granted, delay) = {
            let mut state = lock();
            state.asked += 1;
            shared.changed.notify_all();
            (state.issue(), state.delay)
        };
        return send(connection, 200, &grant(&granted, api), delay);
    }
    let mut state = lock();
    let (status, body) = state.refresh(&field("refresh_token"), api);
    let index = state.refreshes.len() - 1;
    shared.changed.notify_all();
    let state = shared.changed.wait_timeout_while(state, PATIENCE, |state| !state.open).unwrap().0;
    let delay = state.delay;
    drop(state);
    send(connection, status, &body, delay)?;
    if let Some(refresh) = lock().refreshes.get_mut(index) {
        refresh.replied = Some(Instant::now());
    }
    Ok(())
}

struct Asked {
    path: String,
    bearer: String,
    body: String,
}

fn read(connection: &TcpStream) -> io::Result<Asked> {
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut length, mut bearer) = (0, String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap_or(0);
        }
        if name.eq_ignore_ascii_case("authorization") {
            value.trim().trim_start_matches("Bearer ").clone_into(&mut bearer);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Asked { path, bearer, body: String::from_utf8_lossy(&body).into_owned() })
}

/// In two halves, so that a kill can come between them.
fn send(mut connection: &TcpStream, status: u16, body: &str, delay: Duration) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} Chaos\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    thread::sleep(delay);
    connection.write_all(head.as_bytes())?;
    connection.write_all(&body.as_bytes()[..body.len() / 2])?;
    thread::sleep(delay);
    connection.write_all(&body.as_bytes()[body.len() / 2..])
}
