//! What is noted of one request for the ledger, the log and the metrics.
//!
//! Hazard: the client leaves in the middle, and what was used until then is lost. Rule: what is known is written when the
//! record is dropped, wherever that happens.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::meter::{Meter, Tokens};
use super::traffic::Entry;
use crate::gateway::keys::estimate::Estimate;
use crate::gateway::keys::grant::HeldGrant;
use crate::gateway::profiles::served_account::ServedAccount;
use crate::gateway::request::request_body::RequestBody;
use crate::gateway::upstream::{Answer, SendError};
use crate::limits::Used;
use crate::usage::{Counts, KeyUser};

/// How long the body of a request that is rejected at once is read to find its model.
const MODEL_TIMEOUT: Duration = Duration::from_secs(1);

const WAIT_MS: HeaderName = HeaderName::from_static("x-qwenauth-wait-ms");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-qwenauth-attempts");
const FALLBACK: HeaderName = HeaderName::from_static("x-qwenauth-fallback");

/// One request, written to the ledger when it has finished.
pub(in crate::gateway) struct UsageRecord {
    account: Option<Rc<ServedAccount>>,
    pub(in crate::gateway) counts: Counts,
    /// Attempts made, also those of which nothing could be sent.
    pub(in crate::gateway) attempts: u64,
    waited: Duration,
    /// The model's name at this profile.
    pub(in crate::gateway) model: Option<String>,
    /// Why it waited or was not served.
    pub(in crate::gateway) reason: Option<&'static str>,
    /// Why it moved to this profile.
    pub(in crate::gateway) fallback: Option<&'static str>,
    /// Its entry in the log and metrics.
    pub(in crate::gateway) entry: Option<Entry>,
    /// The owner of its key, if it is the key of a person or job.
    pub(in crate::gateway) user: Option<Arc<KeyUser>>,
    /// What the key's limits granted to it.
    pub(in crate::gateway) grant: Option<HeldGrant>,
}

impl UsageRecord {
    pub(in crate::gateway) fn begin(entry: Option<Entry>) -> Self {
        Self {
            account: None,
            counts: Counts { requests: 1, ..Counts::default() },
            attempts: 0,
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
    pub(in crate::gateway) fn take(&mut self) -> Self {
        let mut empty = Self::begin(None);
        empty.counts.requests = 0;
        std::mem::replace(self, empty)
    }

    /// Continues the request under another record; what was done so far is recorded without it.
    pub(in crate::gateway) fn split(&mut self) -> Self {
        let mut next = Self::begin(self.entry.take());
        next.waited = std::mem::take(&mut self.waited);
        next.user.clone_from(&self.user);
        self.counts.requests = 0;
        std::mem::replace(self, next)
    }

    /// Makes this the record of the client's request again, after it was split from `other`.
    pub(in crate::gateway) fn resume(mut self, other: &mut Self) -> Self {
        self.counts.requests = 1;
        self.entry = other.entry.take();
        self.take()
    }

    /// `host`: where the account's requests go.
    pub(in crate::gateway) fn note_account(&mut self, account: &Rc<ServedAccount>, host: &HeaderValue) {
        self.account = Some(Rc::clone(account));
        if let Some(entry) = self.entry.as_mut().filter(|entry| entry.is_read()) {
            entry.outcome.server = host.to_str().ok().map(str::to_owned);
        }
    }

    /// Whether another profile than the first serves the request.
    pub(in crate::gateway) fn has_moved(&self) -> bool {
        self.fallback.is_some()
    }

    /// Finds the model in the part of the request's body that has arrived.
    pub(in crate::gateway) fn note_model(&mut self, body: &RequestBody) {
        if self.model.is_none() {
            self.model = body.model();
        }
    }

    /// The same for a request that is not sent, so that its model is in the ledger.
    pub(in crate::gateway) async fn await_model(&mut self, body: &RequestBody) {
        if self.model.is_none() {
            let _ = tokio::time::timeout(MODEL_TIMEOUT, body.keep_all()).await;
            self.note_model(body);
        }
    }

    pub(in crate::gateway) fn note_wait(&mut self, waited: Duration, reason: &'static str) {
        self.waited += waited;
        self.reason = Some(reason);
    }

    /// A grant of which nothing was sent is released: the next attempt gets one of its own.
    pub(in crate::gateway) fn note_sent(&mut self, sent: &Result<Answer, SendError>) {
        self.grant.take_if(|grant| !grant.note_sent(sent));
    }

    /// The gateway answers by itself.
    pub(in crate::gateway) fn note_refused(&mut self, status: StatusCode, code: &'static str) {
        if let Some(entry) = &mut self.entry {
            entry.answered(status);
        }
        self.reason = self.reason.or(Some(code));
    }

    /// The provider's response begins.
    pub(in crate::gateway) fn note_response(&mut self, status: StatusCode, is_stream: bool) {
        if let Some(entry) = &mut self.entry {
            entry.outcome.status = Some(status);
            entry.outcome.is_stream = is_stream;
        }
    }

    /// Adds the headers that state how the request was served.
    pub(in crate::gateway) fn stamp(&self, headers: &mut HeaderMap) {
        let waited = u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX);
        headers.insert(WAIT_MS, small(waited));
        headers.insert(ATTEMPTS, small(self.attempts));
        if let Some(reason) = self.fallback {
            headers.insert(FALLBACK, HeaderValue::from_static(reason));
        }
    }

    pub(in crate::gateway) fn note_rate_limited(&mut self) {
        self.counts.rate_limited += 1;
    }

    /// `has_ended`: whether the response came to its end.
    pub(in crate::gateway) fn note_usage(&mut self, meter: &mut Meter, has_ended: bool) {
        meter.end();
        let tokens = meter.tokens();
        self.counts.prompt_tokens = tokens.prompt;
        self.counts.completion_tokens = tokens.completion;
        let is_read = self.entry.as_ref().is_some_and(Entry::is_read);
        let is_needed = is_read || self.model.is_none() || self.grant.is_some();
        let answered = if is_needed { meter.model() } else { None };
        if self.model.is_none() {
            self.model.clone_from(&answered);
        }
        if let Some(entry) = &mut self.entry {
            entry.outcome.response_model.clone_from(&answered);
        }
        if let Some(grant) = self.grant.as_mut().filter(|_| tokens != Tokens::default()) {
            let used = Estimate { prompt: tokens.prompt, completion: tokens.completion };
            grant.charge(used, answered.as_deref(), has_ended || meter.is_final());
        }
    }
}

/// A number that is nearly always 0 or 1.
fn small(number: u64) -> HeaderValue {
    match number {
        0 => HeaderValue::from_static("0"),
        1 => HeaderValue::from_static("1"),
        _ => HeaderValue::from(number),
    }
}

impl Drop for UsageRecord {
    fn drop(&mut self) {
        let charged = self.grant.as_ref().and_then(HeldGrant::charged);
        if let Some(Used { tokens, cost }) = charged {
            (self.counts.charged_tokens, self.counts.charged_nanodollars) = (tokens, cost.0);
        }
        if let Some(entry) = &mut self.entry {
            let outcome = &mut entry.outcome;
            outcome.charged = charged;
            if let Some(account) = &self.account {
                outcome.profile = Some(Rc::clone(&account.profile));
            }
            (outcome.tries, outcome.waited) = (self.attempts, self.waited);
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
