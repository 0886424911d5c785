//! One account at a provider, as the gateway knows it: its limits, which of them are reached, and its usage.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::header::{HeaderMap, HeaderName};

use super::events::Events;
use super::pacing::Pacing;
use super::served_profile::hash;
use crate::limits::shared::{Shared, SharedAccount};
use crate::limits::{Day, Exhausted, Memory, Quota, Quotas, Rate, Rule, week_end};
use crate::providers::Provider;
use crate::providers::error::{ApiError, Cause, Scope, epoch};
use crate::usage::{Counts, Event, KeyUser, Ledger, StatedLimit, UnwrittenCounts, cut_name, rfc3339, seconds};

/// Headers that state a limit, its remainder and its reset, with a label for it.
const LIMIT_HEADERS: [(&str, &str, &str, &str); 4] = [
    ("modelscope-ratelimit-requests-limit", "modelscope-ratelimit-requests-remaining", "", DAY_LABEL),
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
const DAY_LABEL: &str = "requests per day";

pub(super) struct ServedAccount {
    pub(super) profile: String,
    pub(super) provider: String,
    account_id: String,
    pub(super) pacing: Pacing,
    /// The limits that the server reported as reached.
    memory: RefCell<Memory>,
    week_resets: Option<String>,
    /// The user's own quotas of the plan.
    pub(super) quotas: RefCell<Quotas>,
    /// Whether requests wait for its limits.
    pub(super) waits: bool,
    events: Rc<Events>,
    ledger: RefCell<Ledger>,
    day: RefCell<(Day, Rc<str>)>,
}

impl ServedAccount {
    /// `shared`: the counters of all gateways together, and the account's name there.
    pub(super) fn open(
        profile: &str,
        provider: &Provider,
        account_id: String,
        state: &Path,
        rule: Rule,
        events: Rc<Events>,
        shared: Option<(Rc<Shared>, String)>,
    ) -> Self {
        let waits = rule.waits;
        let quotas = Quota::of(&provider.limits);
        // What all gateways count together is not counted here.
        let own_quotas = if shared.is_some() { Vec::new() } else { quotas.clone() };
        let shared = shared.map(|(shared, name)| (shared, SharedAccount::new(name, rule.clone(), quotas)));
        let pacing = Pacing::new(Rate::open(state, &provider.name, &account_id, rule), profile, shared);
        let day = pacing.day();
        Self {
            profile: profile.to_owned(),
            memory: RefCell::new(Memory::open(state, &provider.name, &account_id)),
            week_resets: provider.limits.week_resets.clone(),
            quotas: RefCell::new(Quotas::open(state, &provider.name, &account_id, own_quotas, waits)),
            waits,
            events,
            ledger: RefCell::new(Ledger::new(state, profile, &provider.name)),
            day: RefCell::new((day, day.date.to_string().into())),
            provider: provider.name.clone(),
            account_id,
            pacing,
        }
    }

    pub(super) fn is_of(&self, provider: &Provider, account_id: &str) -> bool {
        self.provider == provider.name && self.account_id == account_id
    }

    /// The reached limit for `model`, unless this request may try anyway.
    pub(super) fn exhausted(&self, model: Option<&str>, counts: impl Fn(Cause) -> bool) -> Option<Exhausted> {
        if !self.waits {
            return None;
        }
        let mut memory = self.memory.borrow_mut();
        let now = SystemTime::now();
        let entry = memory.find(model, now).filter(|entry| counts(entry.cause))?;
        if memory.takes_probe(&entry, now) {
            log::info!("`{}`: sending one request although {}", self.profile, entry.cause.sentence());
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

    /// Enters what one request used in the ledger.
    pub(super) fn enter(&self, user: Option<&Arc<KeyUser>>, model: &str, counts: &Counts) {
        let day = self.day();
        self.ledger.borrow_mut().add(&day, user, model, counts);
        self.events.news.notify_one();
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
        for (limit, remaining, reset, name) in LIMIT_HEADERS {
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

    /// Emits an event once a day when `percent` of the day's limit are used.
    pub(super) fn warn(&self, percent: u8) {
        let ledger = self.ledger.borrow();
        let stated = ledger.limits().find(|seen| seen.name == DAY_LABEL).map(|seen| (seen.limit, seen.remaining));
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

    /// Takes what is to be written to the ledger.
    pub(super) fn take_pending(&self) -> Option<UnwrittenCounts> {
        let today = self.day();
        self.ledger.borrow_mut().take_pending(&today)
    }

    /// Keeps for the next time what was not written.
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

    /// What was used since the gateway started, by model.
    pub(super) fn totals(&self) -> Vec<(String, Counts)> {
        self.ledger.borrow().totals.iter().map(|(model, counts)| (model.clone(), *counts)).collect()
    }
}
