//! The provider with refresh tokens that work once: it logs which token it gave for which, and when the response was out,
//! and its API refuses the access tokens it is told to.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cli::support::server::{DEVICE_CODE, PATIENCE, Reply, Request, Server as Provider, USER_CODE};

/// In every token here and in no other test's, which may run at the same time.
pub(crate) const MARKER: &str = "-of-chaos-";

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
    /// No reply to a refresh goes out while it is closed.
    open: bool,
    /// Before the reply and between its halves.
    delay: Duration,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

pub(crate) struct Server {
    shared: Arc<Shared>,
    provider: Arc<Provider>,
}

/// What is written into a credential file.
pub(crate) struct Tokens {
    pub(crate) access: String,
    pub(crate) refresh: String,
}

impl Server {
    pub(crate) fn on(provider: &Arc<Provider>) -> Self {
        let state = State {
            mood: Mood::Rotate,
            next: 0,
            refresh_tokens: HashMap::new(),
            refreshes: Vec::new(),
            asked: 0,
            refused: HashSet::new(),
            open: true,
            delay: Duration::ZERO,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let url = provider.url();
        let code = json!({
            "device_code": DEVICE_CODE, "user_code": USER_CODE, "verification_uri": format!("{url}/authorize"),
            "expires_in": 900, "interval": 0,
        });
        provider.serve("/api/v1/oauth2/device/code", move |_| Reply::json(200, code.clone()));
        let api = shared.clone();
        provider.serve("/v1/chat/completions", move |request| api.chat(request.bearer()));
        let tokens = shared.clone();
        provider.serve("/api/v1/oauth2/token", move |request| tokens.token(request, &url));
        Self { shared, provider: provider.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    pub(crate) fn url(&self) -> String {
        self.provider.url()
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
        drop(state);
        self.provider.forget();
    }

    /// Waits a moment for somebody to ask for tokens. Whether somebody has.
    pub(crate) fn await_request(&self) -> bool {
        let moment = Duration::from_millis(5);
        !self.shared.changed.wait_timeout_while(self.state(), moment, |state| state.asked == 0).unwrap().1.timed_out()
    }

    /// Waits until all that was sent so far has been read and answered.
    pub(crate) fn settle(&self) {
        self.provider.settle();
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

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chat(&self, access_token: &str) -> Reply {
        if self.lock().refused.contains(access_token) {
            let error = json!({"code": "invalid_api_key", "message": "invalid access token or token expired"});
            return Reply::json(401, json!({ "error": error }));
        }
        Reply::json(200, json!({"choices": [{"message": {"role": "assistant", "content": "ok"}}]}))
    }

    fn token(self: &Arc<Self>, request: &Request, api: &str) -> Reply {
        let mut state = self.lock();
        state.asked += 1;
        self.changed.notify_all();
        if request.field("grant_type") != "refresh_token" {
            return grant(&state.issue(), api).in_halves(state.delay);
        }
        let reply = state.refresh(request.field("refresh_token"), api);
        let index = state.refreshes.len() - 1;
        let (gate, log) = (self.clone(), self.clone());
        let pass = move || drop(gate.changed.wait_timeout_while(gate.lock(), PATIENCE, |state| !state.open));
        let reply = reply.in_halves(state.delay).meanwhile(pass);
        reply.afterwards(move || {
            if let Some(refresh) = log.lock().refreshes.get_mut(index) {
                refresh.replied = Some(Instant::now());
            }
        })
    }
}

impl State {
    fn issue(&mut self) -> Tokens {
        self.next += 1;
        let tokens = Tokens {
            access: format!("granted-access{MARKER}{}", self.next),
            refresh: format!("granted-refresh{MARKER}{}", self.next),
        };
        self.refresh_tokens.insert(tokens.refresh.clone(), true);
        tokens
    }

    /// Answers a refresh, which is logged as it arrives.
    fn refresh(&mut self, sent: &str, api: &str) -> Reply {
        let known = self.refresh_tokens.get(sent).copied();
        let good = known == Some(true) && self.mood != Mood::Fail;
        let tokens = good.then(|| self.issue());
        if good && self.mood == Mood::Rotate {
            self.refresh_tokens.insert(sent.to_owned(), false);
        }
        self.refreshes.push(Refresh {
            sent: sent.to_owned(),
            granted: tokens.as_ref().map(|tokens| tokens.refresh.clone()),
            reuse: known == Some(false),
            replied: None,
        });
        match tokens {
            Some(tokens) => grant(&tokens, api),
            None if self.mood == Mood::Fail => Reply::error(503, "temporarily_unavailable"),
            None => Reply::error(400, "invalid_grant"),
        }
    }
}

fn grant(tokens: &Tokens, api: &str) -> Reply {
    Reply::json(
        200,
        json!({
            "access_token": tokens.access, "refresh_token": tokens.refresh, "token_type": "Bearer",
            "expires_in": 21600, "resource_url": api,
        }),
    )
}
