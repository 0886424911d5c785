//! What is noted of one request for the ledger, the log and the metrics.
//!
//! Hazard: the client leaves in the middle, and what was used until then is lost. Rule: what is known is written when the
//! record is dropped, wherever that happens.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::meter::{Meter, Tokens};
use super::served_account::ServedAccount;
use super::team::{Bill, Estimate, HeldGrant};
use super::traffic::Entry;
use crate::usage::{Counts, KeyUser};

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
        account.enter(self.user.as_ref(), self.model.as_deref().unwrap_or_default(), &self.counts);
    }
}
