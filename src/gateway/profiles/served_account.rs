//! One account at a provider, as the gateway knows it: its limits, which of them are reached, and its usage.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::header::{HeaderMap, HeaderName};

use super::pacing::Pacing;
use crate::epoch;
use crate::gateway::telemetry::events::Events;
use crate::limits::shared::{Shared, SharedAccount};
use crate::limits::{Day, Exhausted, Memory, Quota, Quotas, Rate, Rule, week_end};
use crate::providers::Provider;
use crate::providers::error::{ApiError, Cause, Scope, delay, epoch};
use crate::sha256::short_sha256;
use crate::usage::{Counts, Event, KeyUser, Ledger, StatedLimit, UnwrittenCounts, cut_name};

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

pub(in crate::gateway) struct ServedAccount {
    pub(in crate::gateway) profile: Rc<str>,
    pub(in crate::gateway) provider: String,
    account_id: String,
    pub(in crate::gateway) pacing: Pacing,
    /// The limits that the server reported as reached.
    memory: RefCell<Memory>,
    week_resets: Option<String>,
    /// The user's own quotas of the plan.
    pub(in crate::gateway) quotas: RefCell<Quotas>,
    /// Whether requests wait for its limits.
    pub(in crate::gateway) waits: bool,
    events: Rc<Events>,
    ledger: RefCell<Ledger>,
    day: RefCell<(Day, Rc<str>)>,
}

impl ServedAccount {
    /// `shared`: the counters of all gateways together, and the account's name there.
    pub(in crate::gateway) fn open(
        profile: &Rc<str>,
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
            profile: Rc::clone(profile),
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
    pub(in crate::gateway) fn exhausted(
        &self,
        model: Option<&str>,
        counts: impl Fn(Cause) -> bool,
    ) -> Option<Exhausted> {
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
    pub(in crate::gateway) fn has_exhausted(&self) -> bool {
        self.waits && self.memory.borrow_mut().has_any()
    }

    pub(in crate::gateway) fn depends_on_model(&self) -> bool {
        self.waits && self.memory.borrow_mut().depends_on_model()
    }

    /// Whether this limit was still reached after the time that the server stated.
    pub(in crate::gateway) fn was_in_vain(&self, error: &ApiError, model: Option<&str>) -> bool {
        let model = model.filter(|_| error.scope == Scope::Model);
        self.memory.borrow_mut().was_in_vain(error.cause, model, SystemTime::now())
    }

    /// Records that the server reported a limit as reached.
    /// Returns the entry, and whether no process knew of it.
    pub(in crate::gateway) fn note_exhausted(&self, error: &ApiError, model: Option<&str>) -> (Exhausted, bool) {
        // A limit of one model does not block the account if the request did not name a model.
        let model = model.filter(|_| error.scope == Scope::Model);
        self.note(error.cause, model, error.wait, &error.message)
    }

    pub(in crate::gateway) fn note_outage(&self, model: Option<&str>, why: &str) -> Exhausted {
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
            let reset = entry.resets_at.and_then(|at| epoch::rfc3339(epoch::from_seconds(at)?));
            let event = Event::LimitReached {
                profile: self.profile.to_string(),
                provider: self.provider.clone(),
                model: model.map(str::to_owned),
                limit: cause,
                message: said.to_owned(),
                resets_at: reset,
            };
            self.events
                .emit(&event, &format!("{}/{}/{}", self.provider, short_sha256(&self.account_id, 16), entry.id()));
        }
        (entry, is_news)
    }

    /// Records that a request was served.
    pub(in crate::gateway) fn served(&self, model: Option<&str>) {
        self.memory.borrow_mut().clear(model);
    }

    /// Enters what one request used in the ledger.
    pub(in crate::gateway) fn enter(&self, user: Option<&Arc<KeyUser>>, model: &str, counts: &Counts) {
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
    pub(in crate::gateway) fn note_limits(&self, headers: &HeaderMap) {
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
            let now = SystemTime::now();
            let time = |reset: &str| epoch(reset).or_else(|| now.checked_add(delay(reset)?));
            let resets_at = Some(reset).filter(|reset| !reset.is_empty()).and_then(text).and_then(time);
            let at = epoch::seconds(now);
            let name = name.to_owned();
            self.ledger.borrow_mut().note_limit(StatedLimit {
                name,
                limit,
                remaining,
                resets_at: resets_at.map(epoch::seconds),
                at,
            });
        }
    }

    /// Emits an event once a day when `percent` of the day's limit are used.
    pub(in crate::gateway) fn warn(&self, percent: u8) {
        let ledger = self.ledger.borrow();
        // What was stated yesterday says nothing of today.
        let day = self.pacing.day();
        let is_of_today = |seen: &StatedLimit| epoch::from_seconds(seen.at).is_some_and(|at| day.contains(at));
        let stated = ledger.limits().find(|seen| seen.name == DAY_LABEL && is_of_today(seen));
        let stated = stated.map(|seen| (seen.limit, seen.remaining));
        let Some((used, limit, ends)) = self.pacing.warn(percent, stated) else { return };
        let event = Event::LimitNear {
            profile: self.profile.to_string(),
            provider: self.provider.clone(),
            used,
            limit,
            resets_at: epoch::rfc3339(ends),
        };
        self.events.emit(
            &event,
            &format!("{}/{}/{:?}", self.provider, short_sha256(&self.account_id, 16), epoch::rfc3339(ends)),
        );
    }

    /// Makes the changes that could not be made while another process held the account's files.
    pub(in crate::gateway) fn catch_up(&self) {
        self.pacing.catch_up();
        self.quotas.borrow_mut().catch_up();
        self.memory.borrow_mut().catch_up();
    }

    /// Takes what is to be written to the ledger.
    pub(in crate::gateway) fn take_pending(&self) -> Option<UnwrittenCounts> {
        let today = self.day();
        self.ledger.borrow_mut().take_pending(&today)
    }

    /// Whether something is to be written to the ledger.
    pub(super) fn has_pending(&self) -> bool {
        self.ledger.borrow().has_pending()
    }

    /// Keeps for the next time what was not written.
    pub(in crate::gateway) fn put_back(&self, pending: UnwrittenCounts) {
        self.ledger.borrow_mut().put_back(pending);
    }

    /// The last limits and remainders that the provider's headers stated.
    pub(in crate::gateway) fn stated_limits(&self) -> Vec<(String, u64)> {
        self.ledger.borrow().limits().map(|seen| (seen.name.clone(), seen.remaining)).collect()
    }

    /// The limits that are reached now, by limit and model.
    pub(in crate::gateway) fn exhausted_limits(&self) -> Vec<(&'static str, String)> {
        let now = SystemTime::now();
        let mut memory = self.memory.borrow_mut();
        let in_force = memory.in_force(now);
        let name = |entry: &Exhausted| cut_name(entry.model.as_deref().unwrap_or_default()).to_owned();
        in_force.map(|entry| (entry.cause.limit_name(), name(entry))).collect()
    }

    /// What was used since the gateway started, by model.
    pub(in crate::gateway) fn totals(&self) -> Vec<(String, Counts)> {
        self.ledger.borrow().totals.iter().map(|(model, counts)| (model.clone(), *counts)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::super::pacing::rule;
    use super::*;
    use crate::gateway::Tuning;
    use crate::hooks::{Commands, Hooks};
    use crate::providers::error::Response;
    use crate::providers::{self, Overrides};

    const WEEK: &str = "Mon 00:00 UTC";

    fn provider(name: &str) -> Provider {
        let mut provider = providers::find(name, &Overrides::default()).unwrap();
        provider.limits.week_resets = Some(WEEK.into());
        provider
    }

    fn account(state: &Path, pacing: bool) -> ServedAccount {
        let provider = provider("qwen");
        let rule = rule(&provider, &Tuning { rpm: None, rpd: None, pacing }).unwrap();
        let events = Rc::new(Events::new(Hooks::new(Commands::new(), state), BTreeSet::new()));
        ServedAccount::open(&"work".into(), &provider, "key-1".into(), state, rule, events, None)
    }

    fn limit(message: &str) -> ApiError {
        let body = format!(r#"{{"error":{{"message":"{message}"}}}}"#);
        let (body, model) = (body.as_bytes(), Some("m-1"));
        let response = Response { status: 429, header: &|_| None, body, model, secrets: &[], now: SystemTime::now() };
        ApiError::read(&response, &BTreeMap::new())
    }

    #[test]
    fn an_account_is_that_of_one_key_at_one_provider() {
        let directory = tempfile::tempdir().unwrap();
        let account = account(directory.path(), true);
        assert!(account.is_of(&provider("qwen"), "key-1"));
        assert!(!account.is_of(&provider("qwen"), "key-2") && !account.is_of(&provider("openrouter"), "key-1"));
    }

    #[test]
    fn a_used_up_limit_is_that_of_its_model_and_a_week_ends_as_the_provider_says() {
        let directory = tempfile::tempdir().unwrap();
        let account = account(directory.path(), true);
        let (week, is_new) = account.note_exhausted(&limit("weekly"), Some("m-1"));
        assert!(is_new && week.model.is_none());
        assert_eq!(week.resets_at, week_end(WEEK, SystemTime::now()).ok().map(epoch::seconds));
        assert!(!account.depends_on_model());
        let (day, is_new) = account.note_exhausted(&limit("m-1: daily"), Some("m-1"));
        assert!(is_new && day.model.is_some() && account.depends_on_model());
        assert!(!account.note_exhausted(&limit("m-1: daily"), Some("m-1")).1);
        let known = [("quota of the week", String::new()), ("requests per day", "m-1".to_owned())];
        assert_eq!(account.exhausted_limits(), known);
        // A request that was served ends those that applied to it.
        account.served(Some("m-2"));
        assert_eq!(account.exhausted_limits(), known[1..]);
        account.served(Some("m-1"));
        assert_eq!(account.exhausted_limits(), []);
    }

    #[test]
    fn a_gateway_that_does_not_pace_stops_for_no_limit() {
        let directory = tempfile::tempdir().unwrap();
        let account = account(directory.path(), false);
        account.note_exhausted(&limit("m-1: daily"), Some("m-1"));
        assert!(!account.depends_on_model() && !account.has_exhausted());
        assert_eq!(account.exhausted(Some("m-1"), |_| true), None);
    }

    #[test]
    fn limits_in_headers_are_kept_and_the_days_is_warned_about() {
        let directory = tempfile::tempdir().unwrap();
        let account = account(directory.path(), true);
        let headers = [
            ("x-ratelimit-limit", "100"),
            ("x-ratelimit-remaining", "100"),
            ("x-ratelimit-reset", "1800000000"),
            ("modelscope-ratelimit-requests-limit", "10"),
            ("modelscope-ratelimit-requests-remaining", "1"),
        ];
        let headers = headers.map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        account.note_limits(&headers.into_iter().collect());
        assert_eq!(account.stated_limits(), [("requests".to_owned(), 100), (DAY_LABEL.to_owned(), 1)]);
        let resets: Vec<_> = account.ledger.borrow().limits().map(|seen| seen.resets_at).collect();
        assert_eq!(resets, [Some(1_800_000_000), None]);
        account.warn(80);
        // It was said already.
        assert_eq!(account.pacing.warn(80, Some((10, 1))), None);
    }

    #[test]
    fn what_could_not_be_written_is_there_the_next_time() {
        let directory = tempfile::tempdir().unwrap();
        let account = account(directory.path(), true);
        let today = account.day();
        let yesterday = account.pacing.day().begins - Duration::from_secs(3600);
        let over = Day { ends: yesterday, ..account.pacing.day() };
        *account.day.borrow_mut() = (over, "yesterday".into());
        assert_eq!(account.day(), today);
        account.enter(None, "m-1", &Counts { requests: 3, ..Counts::default() });
        let pending = account.take_pending().unwrap();
        assert!(account.take_pending().is_none());
        account.put_back(pending);
        account.take_pending().unwrap().write().unwrap();
        let summary = crate::usage::Summary::read(directory.path(), "").unwrap();
        assert_eq!(summary.counts.values().map(|counts| counts.requests).sum::<u64>(), 3);
        assert_eq!(account.totals()[0].1.requests, 3);
    }
}
