//! One profile served by the gateway: its credential, its rate limiter and its usage.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use super::Tuning;
use super::credential::{CredentialCache, ReadyCredential};
use super::edge::Edge;
use super::events::Events;
use super::fleet::{Part, Role};
use super::meter::{Meter, Tokens};
use super::pacing::{self, Pacing};
use super::team::{Bill, Estimate, HeldGrant};
use super::traffic::Entry;
use crate::credentials::Account;
use crate::error::{Failed, Failure};
use crate::limits::shared::{Shared, SharedAccount};
use crate::limits::{Day, Exhausted, Memory, Quota, Quotas, Rate, week_end};
use crate::providers::error::{ApiError, Cause, Scope, epoch};
use crate::usage::{Counts, Event, KeyUser, Ledger, StatedLimit, UnwrittenCounts, cut_name, seconds};

pub(super) struct ServedProfile {
    pub(super) profile: String,
    /// Its name for `x-qwenauth-profile`.
    pub(super) header: Option<HeaderValue>,
    path: PathBuf,
    state: PathBuf,
    tuning: Rc<Tuning>,
    pub(super) cache: CredentialCache,
    /// The account, and the credential that was found to belong to it.
    account: RefCell<Option<(Rc<ReadyCredential>, Rc<ServedAccount>)>>,
    former: RefCell<Vec<Rc<ServedAccount>>>,
    last_ready: RefCell<Option<Rc<ReadyCredential>>>,
    /// The hash of the last token that was available.
    last_token: RefCell<Option<String>>,
    /// The last report of a missing login.
    missed: RefCell<Option<String>>,
    events: Rc<Events>,
    shared: Option<Rc<Shared>>,
    is_home: bool,
}

/// What is known once there is a credential: the account and its provider.
pub(super) struct ServedAccount {
    profile: String,
    provider: String,
    account_id: String,
    pub(super) pacing: Pacing,
    /// The limits that the server reported as reached.
    memory: RefCell<Memory>,
    week_resets: Option<String>,
    /// The user's own quotas of the plan.
    pub(super) quotas: RefCell<Quotas>,
    waits: bool,
    events: Rc<Events>,
    ledger: RefCell<Ledger>,
    day: RefCell<(Day, Rc<str>)>,
}

impl ServedProfile {
    pub(super) fn open(
        account: Account,
        state: PathBuf,
        tuning: Rc<Tuning>,
        events: Rc<Events>,
        shared: Option<Rc<Shared>>,
        part: &Part,
    ) -> Result<Self> {
        let (profile, path) = (account.profile.clone(), account.store.path().to_owned());
        let role = part.of(&account)?;
        let cache = match (role, &shared, &part.fleet) {
            (Role::Edge, Some(shared), Some(fleet)) => {
                CredentialCache::of_edge(Edge::new(account, Rc::clone(shared), Rc::clone(fleet)))
            }
            _ => CredentialCache::start(account)?,
        };
        Ok(Self {
            header: HeaderValue::from_str(&profile).ok(),
            profile,
            path,
            state,
            tuning,
            cache,
            is_home: role == Role::Home,
            account: RefCell::default(),
            former: RefCell::default(),
            last_ready: RefCell::default(),
            last_token: RefCell::default(),
            missed: RefCell::default(),
            events,
            shared,
        })
    }

    /// Whether its login is renewed here for a team.
    pub(super) fn is_home(&self) -> bool {
        self.is_home
    }

    /// The credential, renewed ahead of time.
    pub(super) async fn ahead(&self, lifetime: Duration) -> Result<Rc<ReadyCredential>, Failed> {
        let ready = self.cache.ahead(lifetime).await;
        self.observe(&ready);
        ready
    }

    /// The account that `ready` belongs to; another login may have changed it.
    pub(super) fn account(&self, ready: &Rc<ReadyCredential>) -> Result<Rc<ServedAccount>, Failed> {
        if let Some((of, account)) = &*self.account.borrow()
            && Rc::ptr_eq(of, ready)
        {
            return Ok(Rc::clone(account));
        }
        let account = self.account_of(ready)?;
        let former = self.account.borrow_mut().replace((Rc::clone(ready), Rc::clone(&account)));
        self.former
            .borrow_mut()
            .extend(former.map(|(_, former)| former).filter(|former| !Rc::ptr_eq(former, &account)));
        Ok(account)
    }

    fn account_of(&self, ready: &ReadyCredential) -> Result<Rc<ServedAccount>, Failed> {
        // The tokens of another machine's login change as those of a login here do.
        let account_id = match ready.generation {
            Some(_) => self.path.to_string_lossy().into_owned(),
            None => pacing::account_id(&ready.provider, &ready.credential, &self.path),
        };
        if let Some((_, account)) = &*self.account.borrow()
            && account.provider == ready.provider.name
            && account.account_id == account_id
        {
            return Ok(Rc::clone(account));
        }
        let rule = pacing::rule(&ready.provider, &self.tuning).map_err(|error| {
            let report = crate::error::Report::of(&error);
            Failed { failure: report.failure, message: report.message, hint: report.hint }
        })?;
        let provider = ready.provider.name.clone();
        let quotas = Quota::of(&ready.provider.limits);
        let shared = self.shared.as_ref().map(|shared| {
            let name =
                pacing::shared_name(&provider, &account_id, ready.is_renewable().then_some(self.profile.as_str()));
            (Rc::clone(shared), SharedAccount::new(name, rule.clone(), quotas.clone()))
        });
        // What all gateways count together is not counted here.
        let own_quotas = if shared.is_some() { Vec::new() } else { quotas };
        let rate = Rate::open(&self.state, &provider, &account_id, rule);
        let pacing = Pacing::new(rate, &self.profile, shared);
        let day = pacing.day();
        Ok(Rc::new(ServedAccount {
            profile: self.profile.clone(),
            memory: RefCell::new(Memory::open(&self.state, &provider, &account_id)),
            week_resets: ready.provider.limits.week_resets.clone(),
            quotas: RefCell::new(Quotas::open(&self.state, &provider, &account_id, own_quotas, self.tuning.pacing)),
            waits: self.tuning.pacing,
            events: Rc::clone(&self.events),
            ledger: RefCell::new(Ledger::new(&self.state, &self.profile, &provider)),
            day: RefCell::new((day, day.date.to_string().into())),
            provider,
            account_id,
            pacing,
        }))
    }

    /// The credential in the file now, renewed if necessary.
    pub(super) async fn ready(&self) -> Result<Rc<ReadyCredential>, Failed> {
        let ready = self.cache.fresh().await;
        self.observe(&ready);
        ready
    }

    /// A credential other than `refused`.
    pub(super) async fn renewed(&self, refused: &ReadyCredential) -> Result<Rc<ReadyCredential>, Failed> {
        let ready = self.cache.renewed(refused).await;
        self.observe(&ready);
        ready
    }

    /// The credential of the last request.
    pub(super) fn last_ready(&self) -> Option<Rc<ReadyCredential>> {
        self.last_ready.borrow().clone()
    }

    /// Reports a renewal or a missing login.
    fn observe(&self, ready: &Result<Rc<ReadyCredential>, Failed>) {
        match ready {
            Ok(ready) => {
                let last = self.last_ready.borrow().clone();
                if last.as_ref().is_some_and(|last| Rc::ptr_eq(last, ready)) {
                    return;
                }
                *self.last_ready.borrow_mut() = Some(Rc::clone(ready));
                let token = &ready.credential.access_token;
                *self.last_token.borrow_mut() = Some(hash(token.expose()));
                self.events.withhold(token);
                let is_new = last.is_some_and(|last| last.credential.access_token != *token);
                // Of what another machine renewed, that machine says so.
                if is_new && ready.is_renewable() && ready.generation.is_none() {
                    let event = Event::Renewed {
                        profile: self.profile.clone(),
                        provider: ready.provider.name.clone(),
                        expires_at: ready.credential.expires_at.and_then(rfc3339),
                    };
                    self.events.emit(&event, &format!("{}/{}", self.profile, hash(token.expose())));
                }
            }
            Err(failed) if failed.failure == Failure::LoginRequired => {
                // One event for each version of the credential file, and one when the file is missing after a version.
                let version = std::fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok();
                let occurrence = format!("{}/{version:?}/{:?}", self.profile, self.last_token.borrow());
                self.last_ready.borrow_mut().take();
                if self.missed.borrow().as_ref() == Some(&occurrence) {
                    return;
                }
                let event = Event::LoginRequired { profile: self.profile.clone(), message: failed.message.clone() };
                self.events.emit(&event, &occurrence);
                *self.missed.borrow_mut() = Some(occurrence);
            }
            Err(_) => {}
        }
    }

    /// All accounts that this profile had while the gateway ran, because their usage must be written.
    pub(super) fn all_accounts(&self) -> Vec<Rc<ServedAccount>> {
        self.former.borrow().iter().cloned().chain(self.last_account()).collect()
    }

    pub(super) fn last_account(&self) -> Option<Rc<ServedAccount>> {
        self.account.borrow().as_ref().map(|(_, account)| Rc::clone(account))
    }
}

/// Headers that state a limit, its remainder and its reset, with a label for it.
const STATED: [(&str, &str, &str, &str); 4] = [
    ("modelscope-ratelimit-requests-limit", "modelscope-ratelimit-requests-remaining", "", "requests per day"),
    (
        "modelscope-ratelimit-model-requests-limit",
        "modelscope-ratelimit-model-requests-remaining",
        "",
        "requests per day of one model",
    ),
    ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests", "requests"),
    ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "requests"),
];

/// The label of the day's limit in a warning.
const OF_THE_DAY: &str = "requests per day";

impl ServedAccount {
    /// The reached limit for `model`, unless this request may try anyway.
    pub(super) fn exhausted(&self, model: Option<&str>, counts: impl Fn(Cause) -> bool) -> Option<Exhausted> {
        if !self.waits {
            return None;
        }
        let mut memory = self.memory.borrow_mut();
        let now = SystemTime::now();
        let entry = memory.find(model, now).filter(|entry| counts(entry.cause))?;
        if memory.takes_probe(&entry, now) {
            log::info!("`{}`: one request tries although {}", self.profile, entry.cause.sentence());
            return None;
        }
        Some(entry)
    }

    /// Whether any limit is known to be reached.
    pub(super) fn has_exhausted(&self) -> bool {
        self.waits && self.memory.borrow_mut().has_any()
    }

    pub(super) fn depends_on_model(&self) -> bool {
        self.waits && self.memory.borrow_mut().depends_on_model()
    }

    /// Whether this limit was still reached after the time that the server stated.
    pub(super) fn was_in_vain(&self, error: &ApiError, model: Option<&str>) -> bool {
        let model = model.filter(|_| error.scope == Scope::Model);
        self.memory.borrow_mut().was_in_vain(error.cause, model, SystemTime::now())
    }

    /// Records that the server reported a limit as reached.
    /// Returns the entry, and whether no process knew of it.
    pub(super) fn note_exhausted(&self, error: &ApiError, model: Option<&str>) -> (Exhausted, bool) {
        // A limit of one model does not block the account if the request did not name a model.
        let model = model.filter(|_| error.scope == Scope::Model);
        self.note(error.cause, model, error.wait, &error.message)
    }

    pub(super) fn note_outage(&self, model: Option<&str>, why: &str) -> Exhausted {
        self.note(Cause::Outage, model, None, why).0
    }

    fn note(&self, cause: Cause, model: Option<&str>, wait: Option<Duration>, said: &str) -> (Exhausted, bool) {
        let now = SystemTime::now();
        let reset = match cause {
            Cause::Day => Some(self.pacing.day().ends),
            Cause::Week => self.week_resets.as_deref().and_then(|text| week_end(text, now).ok()),
            _ => None,
        };
        let (entry, is_news) = self.memory.borrow_mut().note(cause, model, wait, reset, now);
        if is_news {
            let reset = entry.resets_at.and_then(|at| rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(at)));
            let event = Event::LimitReached {
                profile: self.profile.clone(),
                provider: self.provider.clone(),
                model: model.map(str::to_owned),
                limit: cause,
                message: said.to_owned(),
                resets_at: reset,
            };
            self.events.emit(&event, &format!("{}/{}/{}", self.provider, hash(&self.account_id), entry.id()));
        }
        (entry, is_news)
    }

    /// Records that a request was served.
    pub(super) fn served(&self, model: Option<&str>) {
        self.memory.borrow_mut().clear(model);
    }

    /// The day's name in the ledger.
    fn day(&self) -> Rc<str> {
        let now = SystemTime::now();
        let mut day = self.day.borrow_mut();
        if !day.0.contains(now) {
            let new = self.pacing.day();
            *day = (new, new.date.to_string().into());
        }
        Rc::clone(&day.1)
    }

    /// Records what the provider's headers state about limits.
    pub(super) fn note_limits(&self, headers: &HeaderMap) {
        // Most responses state none, and a look at each name costs less than one at each place where one could be.
        let states_limit = |name: &HeaderName| {
            ["x-ratelimit-", "modelscope-ratelimit-"].iter().any(|start| name.as_str().starts_with(start))
        };
        if !headers.keys().any(states_limit) {
            return;
        }
        for (limit, remaining, reset, name) in STATED {
            let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
            let (Some(limit), Some(remaining)) = (text(limit), text(remaining)) else { continue };
            let (Ok(limit), Ok(remaining)) = (limit.parse(), remaining.parse()) else { continue };
            let resets_at = Some(reset).filter(|reset| !reset.is_empty()).and_then(text).and_then(epoch);
            let at = seconds(SystemTime::now());
            let name = name.to_owned();
            self.ledger.borrow_mut().note_limit(StatedLimit {
                name,
                limit,
                remaining,
                resets_at: resets_at.map(seconds),
                at,
            });
        }
    }

    pub(super) fn warn(&self, percent: u8) {
        let ledger = self.ledger.borrow();
        let stated = ledger.limits().find(|seen| seen.name == OF_THE_DAY).map(|seen| (seen.limit, seen.remaining));
        let Some((used, limit, ends)) = self.pacing.warn(percent, stated) else { return };
        let event = Event::LimitNear {
            profile: self.profile.clone(),
            provider: self.provider.clone(),
            used,
            limit,
            resets_at: rfc3339(ends),
        };
        self.events.emit(&event, &format!("{}/{}/{:?}", self.provider, hash(&self.account_id), rfc3339(ends)));
    }

    pub(super) fn take_pending(&self) -> Option<UnwrittenCounts> {
        let today = self.day();
        self.ledger.borrow_mut().take_pending(&today)
    }

    pub(super) fn put_back(&self, pending: UnwrittenCounts) {
        self.ledger.borrow_mut().put_back(pending);
    }

    /// The last limits and remainders that the provider's headers stated.
    pub(super) fn stated_limits(&self) -> Vec<(String, u64)> {
        self.ledger.borrow().limits().map(|seen| (seen.name.clone(), seen.remaining)).collect()
    }

    /// The limits that are reached now, by limit and model.
    pub(super) fn exhausted_limits(&self) -> Vec<(&'static str, String)> {
        let now = SystemTime::now();
        let mut memory = self.memory.borrow_mut();
        let in_force = memory.in_force(now);
        let name = |entry: &Exhausted| cut_name(entry.model.as_deref().unwrap_or_default()).to_owned();
        in_force.map(|entry| (entry.cause.limit_name(), name(entry))).collect()
    }

    pub(super) fn totals(&self) -> Vec<(String, Counts)> {
        self.ledger.borrow().totals.iter().map(|(model, counts)| (model.clone(), *counts)).collect()
    }
}

/// One request, written to the ledger when it has finished.
pub(super) struct UsageRecord {
    account: Option<Rc<ServedAccount>>,
    counts: Counts,
    pub(super) waited: Duration,
    /// The model's name at this profile.
    pub(super) model: Option<String>,
    /// Why it waited or was not served.
    pub(super) reason: Option<&'static str>,
    /// Why it moved to this profile.
    pub(super) fallback: Option<&'static str>,
    /// Its entry in the log and metrics.
    pub(super) entry: Option<Entry>,
    /// The owner of its key, if it is the key of a person or job.
    pub(super) user: Option<Arc<KeyUser>>,
    /// What the key's limits granted to it.
    pub(super) grant: Option<HeldGrant>,
}

impl UsageRecord {
    pub(super) fn begin(entry: Option<Entry>) -> Self {
        Self {
            account: None,
            counts: Counts { requests: 1, ..Counts::default() },
            waited: Duration::ZERO,
            model: None,
            reason: None,
            fallback: None,
            entry,
            user: None,
            grant: None,
        }
    }

    /// Takes the record and leaves an empty one.
    pub(super) fn take(&mut self) -> Self {
        let mut empty = Self::begin(None);
        empty.counts.requests = 0;
        std::mem::replace(self, empty)
    }

    /// Continues the request under another record; what was done so far is recorded without it.
    pub(super) fn split(&mut self) -> Self {
        let mut next = Self::begin(self.entry.take());
        next.waited = std::mem::take(&mut self.waited);
        next.user.clone_from(&self.user);
        self.counts.requests = 0;
        std::mem::replace(self, next)
    }

    /// Makes this the record of the client's request again, after it was split from `other`.
    pub(super) fn resume(mut self, other: &mut Self) -> Self {
        self.counts.requests = 1;
        self.entry = other.entry.take();
        self.take()
    }

    pub(super) fn belongs_to(&mut self, account: &Rc<ServedAccount>) {
        self.account = Some(Rc::clone(account));
    }

    pub(super) fn note_try(&mut self) {
        self.counts.tries += 1;
    }

    pub(super) fn tries(&self) -> u64 {
        self.counts.tries
    }

    pub(super) fn note_rate_limited(&mut self) {
        self.counts.rate_limited += 1;
    }

    pub(super) fn see(&mut self, meter: &Meter) {
        let tokens = meter.tokens();
        self.counts.prompt_tokens = tokens.prompt;
        self.counts.completion_tokens = tokens.completion;
        let is_read = self.entry.as_ref().is_some_and(Entry::is_read);
        let answered = if is_read || self.model.is_none() { meter.model() } else { None };
        if self.model.is_none() {
            self.model.clone_from(&answered);
        }
        if let Some(entry) = &mut self.entry {
            entry.outcome.response_model = answered;
        }
        if let Some(grant) = self.grant.as_mut().filter(|_| tokens != Tokens::default()) {
            grant.bill = Bill::Tokens(Estimate { prompt: tokens.prompt, completion: tokens.completion });
        }
    }
}

impl Drop for UsageRecord {
    fn drop(&mut self) {
        if let Some(entry) = &mut self.entry {
            let outcome = &mut entry.outcome;
            if let Some(account) = &self.account {
                outcome.profile.get_or_insert_default().clone_from(&account.profile);
            }
            (outcome.tries, outcome.waited) = (self.counts.tries, self.waited);
            (outcome.reason, outcome.fallback) = (self.reason, self.fallback);
            outcome.prompt_tokens = self.counts.prompt_tokens;
            outcome.completion_tokens = self.counts.completion_tokens;
        }
        if let Some(entry) = self.entry.as_mut().filter(|entry| entry.is_read()) {
            entry.outcome.provider = self.account.as_ref().map(|account| account.provider.clone());
            entry.outcome.model.clone_from(&self.model);
        }
        let Some(account) = &self.account else { return };
        if self.counts.requests == 0 && self.counts.tries == 0 {
            return;
        }
        self.counts.wait_ms = u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX);
        let day = account.day();
        account.ledger.borrow_mut().add(
            &day,
            self.user.as_ref(),
            self.model.as_deref().unwrap_or_default(),
            &self.counts,
        );
        account.events.news.notify_one();
    }
}

/// Distinguishes secrets in logs and files.
pub(super) fn hash(secret: &str) -> String {
    Sha256::digest(secret)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn rfc3339(time: SystemTime) -> Option<String> {
    Some(jiff::Timestamp::try_from(time).ok()?.to_string())
}
