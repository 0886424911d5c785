//! The login of another machine: its access tokens, published encrypted by its home on the team's server.
//!
//! Hazard: a server that was emptied, restored or is failing over returns no token or an old one, and an unreachable
//! server returns nothing. Rule: a token is used from memory until it expires, an older one never replaces it, and an
//! edge whose token was rejected asks the home for a newer one instead of renewing.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use super::credential::Found;
use super::fleet::{Fleet, Opened};
use crate::credentials::{ApiMark, Credential, CredentialSource};
use crate::error::{Failed, Failure, printable};
use crate::gateway::Gateway;
use crate::gateway::reload::LOOK;
use crate::limits::shared::{GONE_AFTER, Looked, Shared};

/// How long a request whose token was rejected waits for the home.
const WAIT: Duration = Duration::from_secs(20);

/// Poll interval of that wait.
const POLL: Duration = Duration::from_millis(100);

/// The token that this edge has.
enum Held {
    /// There has never been one.
    Nothing,
    /// The token on the server was encrypted with another secret.
    Foreign,
    /// The home has logged out.
    Gone,
    Token(Box<Credential>),
}

/// Why there is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum NoToken {
    /// See [`Held::Foreign`].
    SecretMismatch,
    /// See [`Held::Gone`].
    LoggedOut,
    /// It has expired, and its home has not responded for this long.
    HomeSilent(Duration),
    Expired,
    NoHome,
}

impl NoToken {
    /// For programs.
    pub(in crate::gateway) fn code(self) -> &'static str {
        match self {
            Self::SecretMismatch => "secret_mismatch",
            Self::LoggedOut => "login_required",
            Self::HomeSilent(_) => "home_silent",
            Self::Expired => "token_expired",
            Self::NoHome => "no_home",
        }
    }
}

/// Looks about once a second what the homes of other machines' logins have published.
pub(in crate::gateway) async fn look_at_homes(gateway: Rc<Gateway>) {
    loop {
        for served in gateway.profiles.all() {
            served.cache.look().await;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// One profile whose login is on another machine.
pub(in crate::gateway) struct Edge {
    source: CredentialSource,
    shared: Rc<Shared>,
    fleet: Rc<Fleet>,
    held: RefCell<Held>,
    generation: Cell<u64>,
    /// The home as last seen, and how long it had been silent by then.
    home: RefCell<Option<(String, Duration)>>,
}

impl Edge {
    pub(in crate::gateway) fn new(source: CredentialSource, shared: Rc<Shared>, fleet: Rc<Fleet>) -> Self {
        Self {
            source,
            shared,
            fleet,
            held: RefCell::new(Held::Nothing),
            generation: Cell::new(0),
            home: RefCell::default(),
        }
    }

    fn profile(&self) -> &str {
        &self.source.profile
    }

    /// Reads the server. Returns `true` if that changed what this edge has.
    pub(in crate::gateway) async fn look(&self) -> bool {
        // If its token has expired, any other is better.
        let known =
            if self.token().is_some() || matches!(*self.held.borrow(), Held::Gone) { self.generation.get() } else { 0 };
        let Some(looked) = self.shared.token_of(self.profile()).look(known).await else { return false };
        let Looked { generation, sealed, left, home, silent } = looked;
        *self.home.borrow_mut() = home.map(|home| (home, Duration::from_millis(silent)));
        let Some(sealed) = sealed.filter(|_| generation > known) else { return false };
        let left = Duration::from_millis(left);
        let held = match self.fleet.open(self.profile(), generation, &sealed) {
            None => Held::Foreign,
            Some(Opened::Gone) => Held::Gone,
            // It expired because no home renewed it.
            Some(Opened::Token(_)) if left.is_zero() => return false,
            Some(Opened::Token(lent)) => Held::Token(Box::new(lent.into_credential(SystemTime::now() + left))),
        };
        if let (Held::Foreign, Held::Token(_)) = (&held, &*self.held.borrow())
            && self.token().is_some()
        {
            // The token in memory is still valid.
            return false;
        }
        self.generation.set(if let Held::Foreign = held { 0 } else { generation });
        *self.held.borrow_mut() = held;
        true
    }

    /// The token in memory and its generation, unless it has expired.
    fn token(&self) -> Option<(Credential, u64)> {
        match &*self.held.borrow() {
            Held::Token(credential) if credential.left(SystemTime::now()).is_some() => {
                Some((Credential::clone(credential), self.generation.get()))
            }
            _ => None,
        }
    }

    /// The current token.
    pub(in crate::gateway) async fn fresh(&self) -> Result<Found, Failed> {
        self.look().await;
        let (credential, generation) = self.token().ok_or_else(|| self.failed())?;
        self.found(credential, generation)
    }

    /// A newer token than that of `generation`, which the API rejected.
    pub(in crate::gateway) async fn renewed(&self, generation: u64) -> Result<Found, Failed> {
        let since = Instant::now();
        loop {
            self.look().await;
            match self.token() {
                Some((credential, newer)) if newer > generation => return self.found(credential, newer),
                None => return Err(self.failed()),
                Some(_) => {}
            }
            let why = if self.shared.token_of(self.profile()).want(generation).await.is_none() {
                let why = "the team's server, through which its home could be asked for a new one, is unreachable";
                Some(why.to_owned())
            } else if since.elapsed() > WAIT {
                Some(format!("its home did not renew it within {} s", WAIT.as_secs()))
            } else {
                None
            };
            if let Some(why) = why {
                let message = format!("`{}`: its token was rejected, and {why}", self.profile());
                return Err(Failed::new(Failure::Temporary, message));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn found(&self, credential: Credential, generation: u64) -> Result<Found, Failed> {
        let find = || {
            let provider = self.source.provider(&credential)?;
            let base_url = credential.base_url(&provider)?;
            Ok((provider, base_url))
        };
        let (provider, base_url) = find().map_err(|error| super::credential::failed(&error))?;
        let mark = ApiMark::of(&self.source, &credential);
        Ok(Found { credential, provider, base_url, stamp: None, mark, generation: Some(generation) })
    }

    pub(in crate::gateway) fn trouble(&self) -> Option<NoToken> {
        let silence = self.home.borrow().as_ref().map(|(_, silence)| *silence).filter(|silence| *silence >= GONE_AFTER);
        match (&*self.held.borrow(), silence) {
            (Held::Token(_), _) if self.token().is_some() => None,
            (Held::Foreign, _) => Some(NoToken::SecretMismatch),
            (Held::Gone, _) => Some(NoToken::LoggedOut),
            (Held::Token(_), Some(silence)) => Some(NoToken::HomeSilent(silence)),
            (Held::Token(_), None) => Some(NoToken::Expired),
            (Held::Nothing, _) => Some(NoToken::NoHome),
        }
    }

    fn failed(&self) -> Failed {
        let profile = self.profile();
        let home = self.home.borrow();
        let named = home.as_ref().map(|(home, _)| format!("`{}`", printable(home)));
        let at_home = named.map_or_else(|| "its home".to_owned(), |home| format!("its home {home}"));
        match self.trouble() {
            Some(NoToken::SecretMismatch) => Failed::new(
                Failure::Temporary,
                format!("the token of `{profile}` cannot be decrypted: it was encrypted with another team secret"),
            )
            .hint("use the same `secret_file` on every machine of the team"),
            Some(NoToken::LoggedOut) => {
                Failed::new(Failure::LoginRequired, format!("`{profile}` is logged out at {at_home}"))
                    .hint("log in there again")
            }
            Some(NoToken::Expired) => Failed::new(
                Failure::Temporary,
                format!("the token of `{profile}` has expired, and {at_home} has not published another"),
            ),
            Some(NoToken::HomeSilent(silence)) => Failed::new(
                Failure::Temporary,
                format!(
                    "the token of `{profile}` has expired, and {at_home} has not responded for {}",
                    crate::gateway::response::refusal::duration(silence)
                ),
            ),
            Some(NoToken::NoHome) | None => Failed::new(
                Failure::Temporary,
                format!("there is no token of `{profile}`: no gateway of this team has published one"),
            )
            .hint("start `qwenauth gateway --shared` where the profile is logged in"),
        }
    }
}
