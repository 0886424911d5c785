//! One profile of the gateway: its credential, its turns and what it used.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use hyper::header::HeaderMap;

use super::credential::{Bridge, Ready};
use super::meter::{self, Meter};
use super::pacing::{self, Pacing};
use super::traffic::Entry;
use super::upload::Upload;
use super::{Tuning, verdict};
use crate::credentials::Account;
use crate::error::Failed;
use crate::limits::{Day, Rate};
use crate::usage::{Counts, Ledger, Pending, Seen, seconds};

pub(super) struct Lane {
    pub(super) profile: String,
    path: PathBuf,
    state: PathBuf,
    tuning: Rc<Tuning>,
    pub(super) bridge: Bridge,
    known: RefCell<Option<Rc<Known>>>,
    pub(super) is_day_over: Cell<bool>,
}

/// What is known once a credential was found: the account and its provider.
pub(super) struct Known {
    provider: String,
    account: String,
    pub(super) pacing: Pacing,
    ledger: RefCell<Ledger>,
    day: RefCell<(Day, String)>,
}

impl Lane {
    pub(super) fn open(account: Account, state: PathBuf, tuning: Rc<Tuning>) -> Result<Self> {
        Ok(Self {
            profile: account.profile.clone(),
            path: account.path().to_owned(),
            state,
            tuning,
            bridge: Bridge::start(account)?,
            known: RefCell::default(),
            is_day_over: Cell::new(false),
        })
    }

    /// The account that `ready` belongs to; another login may have made it another one.
    pub(super) fn known(&self, ready: &Ready) -> Result<Rc<Known>, Failed> {
        let account = pacing::account_of(&ready.provider, &ready.credential, &self.path);
        if let Some(known) = &*self.known.borrow()
            && known.provider == ready.provider.name
            && known.account == account
        {
            return Ok(Rc::clone(known));
        }
        let rule = pacing::rule(&ready.provider, &self.tuning).map_err(|error| {
            let report = crate::error::Report::of(&error);
            Failed { failure: report.failure, message: report.message, hint: report.hint }
        })?;
        let provider = ready.provider.name.clone();
        let rate = Rate::open(&self.state, &provider, &account, rule);
        let pacing = Pacing::new(rate, &self.profile);
        let day = pacing.day();
        let known = Rc::new(Known {
            ledger: RefCell::new(Ledger::new(&self.state, &self.profile, &provider)),
            day: RefCell::new((day, day.date.to_string())),
            provider,
            account,
            pacing,
        });
        *self.known.borrow_mut() = Some(Rc::clone(&known));
        Ok(known)
    }

    pub(super) fn last_known(&self) -> Option<Rc<Known>> {
        self.known.borrow().clone()
    }
}

/// Names of headers that state a limit, its rest and its reset, with the words for it.
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

/// What is said of the day, for a warning.
const OF_THE_DAY: &str = "requests per day";

impl Known {
    /// The day's name, as the ledger has it.
    fn day(&self) -> String {
        let now = SystemTime::now();
        let mut day = self.day.borrow_mut();
        if !day.0.contains(now) {
            let new = self.pacing.day();
            *day = (new, new.date.to_string());
        }
        day.1.clone()
    }

    /// Notes what the provider's headers say about limits.
    pub(super) fn note_limits(&self, headers: &HeaderMap) {
        for (limit, remaining, reset, name) in STATED {
            let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
            let (Some(limit), Some(remaining)) = (text(limit), text(remaining)) else { continue };
            let (Ok(limit), Ok(remaining)) = (limit.parse(), remaining.parse()) else { continue };
            let resets_at = Some(reset).filter(|reset| !reset.is_empty()).and_then(text).and_then(verdict::epoch);
            let at = seconds(SystemTime::now());
            let name = name.to_owned();
            self.ledger.borrow_mut().note_limit(Seen { name, limit, remaining, resets_at: resets_at.map(seconds), at });
        }
    }

    pub(super) fn warn(&self, percent: u8) {
        let ledger = self.ledger.borrow();
        let stated = ledger.limits().find(|seen| seen.name == OF_THE_DAY).map(|seen| (seen.limit, seen.remaining));
        self.pacing.warn(percent, stated);
    }

    pub(super) fn take_pending(&self) -> Option<Pending> {
        let today = self.day();
        self.ledger.borrow_mut().take_pending(&today)
    }

    pub(super) fn put_back(&self, pending: Pending) {
        self.ledger.borrow_mut().put_back(pending);
    }

    pub(super) fn totals(&self) -> Vec<(String, Counts)> {
        self.ledger.borrow().totals.iter().map(|(model, counts)| (model.clone(), *counts)).collect()
    }
}

/// One request in the ledger, entered when it is over.
pub(super) struct Record {
    known: Option<Rc<Known>>,
    counts: Counts,
    pub(super) waited: Duration,
    model: Option<String>,
    upload: Upload,
    /// What is seen of it beside the ledger.
    pub(super) entry: Option<Entry>,
}

impl Record {
    pub(super) fn begin(upload: &Upload, entry: Option<Entry>) -> Self {
        let counts = Counts { requests: 1, ..Counts::default() };
        Self { known: None, counts, waited: Duration::ZERO, model: None, upload: upload.clone(), entry }
    }

    pub(super) fn belongs_to(&mut self, known: &Rc<Known>) {
        self.known = Some(Rc::clone(known));
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

    /// Before the request's body goes.
    pub(super) fn note_model(&mut self) {
        self.model = self.upload.first().and_then(|first| meter::model(&first[..first.len().min(4096)]));
    }

    pub(super) fn see(&mut self, meter: &Meter) {
        let tokens = meter.tokens();
        self.counts.prompt_tokens = tokens.prompt_tokens;
        self.counts.completion_tokens = tokens.completion_tokens;
        if self.model.is_none() {
            self.model = meter.model();
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(entry) = &mut self.entry {
            let outcome = &mut entry.outcome;
            outcome.provider = self.known.as_ref().map(|known| known.provider.clone());
            outcome.model.clone_from(&self.model);
            (outcome.tries, outcome.waited) = (self.counts.tries, self.waited);
            outcome.prompt_tokens = self.counts.prompt_tokens;
            outcome.completion_tokens = self.counts.completion_tokens;
        }
        let Some(known) = &self.known else { return };
        self.counts.wait_ms = u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX);
        let day = known.day();
        known.ledger.borrow_mut().add(&day, self.model.as_deref().unwrap_or_default(), &self.counts);
    }
}
