//! The keys of people and jobs at a gateway: whose key a client has shown.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use hyper::StatusCode;

use super::issuers::{Accepted, Issuers};
use super::key_limits::{expired, unavailable, unknown_key};
use crate::error::note;
use crate::gateway::response::refusal::Refusal;
use crate::http::Network;
use crate::keys::{IssuerRule, JobKey, KeyRecord, KeyText, Prices, Shown, State, TeamSecret};
use crate::limits::shared::Shared;
use crate::limits::{Engine, Refused};
use crate::oauth::jwt;
use crate::platform::threads;
use crate::secret::Secret;

/// Opens the engine, with the shared server if there is one.
pub(crate) type OpenEngine = Box<dyn FnOnce(Option<&Rc<Shared>>) -> anyhow::Result<Engine> + Send>;

/// The settings of a gateway with keys.
pub(crate) struct Keyed {
    /// Opened by the gateway's own thread.
    pub(crate) engine: OpenEngine,
    pub(crate) secret: TeamSecret,
    /// Where it was read.
    pub(crate) secret_file: PathBuf,
    pub(crate) prices: Prices,
    /// Whether metrics have a line for each key.
    pub(crate) metrics: bool,
    /// The issuers whose tokens count as keys, and how they are reached.
    pub(crate) issuers: Vec<IssuerRule>,
    pub(crate) network: Network,
}

/// The keys of a gateway.
pub(in crate::gateway) struct Team {
    pub(in crate::gateway) engine: Rc<Engine>,
    secret: RefCell<TeamSecret>,
    secret_file: PathBuf,
    pub(in crate::gateway) issuers: Issuers,
    pub(super) prices: Rc<Prices>,
    pub(in crate::gateway) shows_keys: bool,
    /// How often each decision was made: `go`, and each refusal.
    pub(in crate::gateway) decisions: RefCell<BTreeMap<&'static str, u64>>,
}

impl Team {
    pub(in crate::gateway) fn open(keyed: Keyed, shared: Option<&Rc<Shared>>) -> anyhow::Result<Self> {
        let Keyed { engine, secret, secret_file, prices, metrics, issuers, network } = keyed;
        let engine = Rc::new(engine(shared)?);
        let issuers = Issuers::new(issuers, network);
        Ok(Self {
            engine,
            secret: RefCell::new(secret),
            secret_file,
            issuers,
            prices: Rc::new(prices),
            shows_keys: metrics,
            decisions: RefCell::default(),
        })
    }

    /// Reads the team secret again. One that cannot be read stays as it was.
    pub(in crate::gateway) async fn reload_secret(&self) {
        let path = self.secret_file.clone();
        match threads::finished(move || TeamSecret::read(&path)).await {
            Ok(secret) if secret.bytes() == self.secret.borrow().bytes() => {}
            Ok(secret) => {
                self.engine.use_secret(&secret);
                self.secret.replace(secret);
                note("the team secret has changed: keys that were created with the old one are rejected from now on");
            }
            Err(error) => note(&format!("warning: still using the old team secret: {error:#}")),
        }
    }

    /// The key that a client sent, or the one whose limits apply to its token. `None`: it is not a key of the team.
    /// `id` gets that of a key that is known, also if it has expired or was revoked. Of a revoked key no more than the id is
    /// known, so that is what the client states.
    ///
    /// Errors: an expired key, a rejected token, or the issuer or server cannot be queried.
    pub(in crate::gateway) async fn identify(
        &self,
        text: &str,
        id: &mut Option<String>,
    ) -> Result<Option<Rc<KeyRecord>>, Refusal> {
        let found = self.find(text, id).await?;
        if let Some(key) = &found {
            *id = Some(key.id.clone());
        }
        Ok(found)
    }

    async fn find(&self, text: &str, id: &mut Option<String>) -> Result<Option<Rc<KeyRecord>>, Refusal> {
        if JobKey::looks_like_one(text) {
            let Some(job) = JobKey::open(text, &self.secret.borrow(), self.engine.now()) else { return Ok(None) };
            *id = Some(job.key.clone());
            return self.named(&job.key, &job.owner).await.map(Some);
        }
        if !self.issuers.is_empty() && jwt::looks_like_one(text) {
            let Accepted { key, owner } = self.issuers.accept(text, self.engine.now()).await?;
            return self.named(&key, &owner).await.map(Some);
        }
        let Some(key) = KeyText::parse(text) else { return Ok(None) };
        let Some(record) = self.engine.look_up(key.id()).await.map_err(|_| unavailable())? else { return Ok(None) };
        let mut shown = Shown::of(Some(record), &key, &self.secret.borrow(), self.engine.now());
        if !matches!(shown, Shown::Valid(_)) {
            // The record that was read earlier may be outdated.
            let record = self.engine.look_up_now(key.id()).await.map_err(|_| unavailable())?;
            if let Some(revoked) = record.as_ref().filter(|record| record.revoked_at.is_some()) {
                *id = Some(revoked.id.clone());
            }
            shown = Shown::of(record, &key, &self.secret.borrow(), self.engine.now());
        }
        match shown {
            Shown::Valid(record) => Ok(Some(record)),
            Shown::Expired(record) => {
                *id = Some(record.id.clone());
                Err(expired(&record))
            }
            Shown::Unknown => Ok(None),
        }
    }

    /// Nothing that a client showed is a key of the team.
    pub(in crate::gateway) fn unknown(&self) -> Refusal {
        if !self.engine.secret_differs() {
            return unknown_key();
        }
        let message =
            "this gateway does not have the team secret that the keys were created with, so it accepts no key";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "secret_mismatch", message).finally()
    }

    /// The key with this name or id, with `owner` as its owner.
    async fn named(&self, name: &str, owner: &str) -> Result<Rc<KeyRecord>, Refusal> {
        let record = self.engine.find(name).await.map_err(|_| unavailable())?;
        let missing = || {
            let message = format!("the key `{name}`, whose limits would apply, is unknown or revoked");
            Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message).finally()
        };
        let mut record = record.ok_or_else(missing)?;
        if record.state(self.engine.now()) == State::Expired {
            // It may have been extended since it was seen.
            let now = self.engine.look_up_now(&record.id).await.map_err(|_| unavailable())?;
            record = now.ok_or_else(missing)?;
        }
        match record.state(self.engine.now()) {
            State::Active | State::Rotating => {
                let mut record = KeyRecord::clone(&record);
                record.owner = Some(owner.to_owned());
                Ok(Rc::new(record))
            }
            State::Expired => Err(expired(&record)),
            State::Revoked => Err(missing()),
        }
    }

    /// Issues a key for an hour for the token `text` of a job.
    ///
    /// Errors: those of a request with that token.
    pub(in crate::gateway) async fn exchange(&self, text: &str) -> Result<(Rc<KeyRecord>, Secret, Duration), Refusal> {
        let Accepted { key, owner } = self.issuers.accept(text, self.engine.now()).await?;
        let record = self.named(&key, &owner).await?;
        let now = self.engine.now();
        let job = JobKey::new(&record.id, &owner, record.expires_at, now);
        let sealed = job.seal(&self.secret.borrow()).map_err(|_| unavailable())?;
        Ok((record, sealed, job.lasts(now)))
    }

    /// Which of the texts that a client sent is the key of `record`.
    pub(in crate::gateway) fn shown<'text>(
        record: &KeyRecord,
        texts: impl Iterator<Item = &'text [u8]>,
    ) -> Option<KeyText> {
        let mut keys = texts.filter_map(|text| KeyText::parse(std::str::from_utf8(text).ok()?));
        keys.find(|key| key.id() == record.id)
    }

    /// Whether `shown` is still the key of a record that has changed.
    pub(super) fn still_is(&self, record: &KeyRecord, shown: &KeyText) -> bool {
        record.is(shown, &self.secret.borrow(), self.engine.now())
    }

    pub(in crate::gateway) fn count(&self, decision: &'static str) {
        *self.decisions.borrow_mut().entry(decision).or_default() += 1;
    }

    pub(super) fn count_refused(&self, reason: Refused) {
        self.count(decision_name(reason));
    }
}

/// The name of a refusal in metrics.
fn decision_name(reason: Refused) -> &'static str {
    match reason {
        Refused::Unknown => "unknown",
        Refused::Expired => "expired",
        Refused::KeyRate { .. } => "key_rate",
        Refused::KeyParallel => "key_parallel",
        Refused::KeyReserved => "key_reserved",
        Refused::KeyDay { .. } => "key_day",
        Refused::KeyBudget { .. } => "key_budget",
        Refused::AccountRate { .. } => "account_rate",
        Refused::AccountDay { .. } => "account_day",
        Refused::AccountQuota(_) => "account_quota",
        Refused::Unavailable => "unavailable",
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "the test writes what a user would")]

    use std::time::SystemTime;

    use super::*;
    use crate::limits::Files;

    #[test]
    fn keys_are_those_of_the_secret_that_was_read_last() {
        let directory = tempfile::tempdir().unwrap();
        let (state, file) = (directory.path().to_owned(), directory.path().join("secret"));
        let write = |secret: &TeamSecret| std::fs::write(&file, secret.bytes()).unwrap();
        let (secret, other, now) = (TeamSecret::new(), TeamSecret::new(), SystemTime::now());
        let (record, key) = KeyRecord::create("ann", &secret, now);
        write(&secret);
        let keyed = Keyed {
            engine: Box::new(move |_| Ok(Engine::Files(Box::new(Files::open(&state, &state.join("keys.json"))?)))),
            secret,
            secret_file: file.clone(),
            prices: Prices::default(),
            metrics: false,
            issuers: Vec::new(),
            network: Network::default(),
        };
        let team = Team::open(keyed, None).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let is_valid_after = |reads: usize| {
            (0..reads).for_each(|_| runtime.block_on(team.reload_secret()));
            team.still_is(&record, &key)
        };
        assert!(is_valid_after(0) && is_valid_after(1));
        std::fs::write(&file, "short").unwrap();
        assert!(is_valid_after(1), "what cannot be read stays as it was");
        write(&other);
        assert!(is_valid_after(0) && !is_valid_after(1));
    }

    #[test]
    fn of_all_that_a_client_sent_the_key_of_the_record_is_found() {
        let (secret, now) = (TeamSecret::new(), SystemTime::now());
        let (record, key) = KeyRecord::create("ann", &secret, now);
        let (_, other) = KeyRecord::create("bob", &secret, now);
        let (key, other) = (key.secret(), other.secret());
        let shown = |texts: &[&str]| {
            Team::shown(&record, texts.iter().map(|text| text.as_bytes()))
                .is_some_and(|key| record.is(&key, &secret, now))
        };
        assert!(shown(&["sk-x", other.expose(), key.expose()]));
        assert!(!shown(&["sk-x", other.expose()]) && !shown(&[]));
    }

    #[test]
    fn each_refusal_has_its_name_in_the_metrics() {
        let (wait, ends) = (Duration::from_secs(1), SystemTime::UNIX_EPOCH);
        for (reason, name) in [
            (Refused::Unknown, "unknown"),
            (Refused::Expired, "expired"),
            (Refused::KeyRate { wait }, "key_rate"),
            (Refused::KeyParallel, "key_parallel"),
            (Refused::KeyReserved, "key_reserved"),
            (Refused::KeyDay { ends }, "key_day"),
            (Refused::KeyBudget { ends }, "key_budget"),
            (Refused::AccountRate { wait }, "account_rate"),
            (Refused::AccountDay { ends }, "account_day"),
            (Refused::Unavailable, "unavailable"),
        ] {
            assert_eq!(decision_name(reason), name);
        }
    }
}
