//! Whether a request may be sent to an account now: the limits that were reported as reached, the user's own quotas,
//! and a slot under the limits of the account or of a key.

use std::rc::Rc;
use std::time::{Instant, SystemTime};

use super::fallback::Reason;
use super::rejection::{DeferredResponse, Unserved};
use crate::epoch;
use crate::gateway::keys::estimate::Estimate;
use crate::gateway::keys::grant::HeldGrant;
use crate::gateway::keys::key_admission::KeyAdmission;
use crate::gateway::profiles::pacing::{Counted, NoSlot, Waited};
use crate::gateway::profiles::served_account::ServedAccount;
use crate::gateway::request::client_request::ClientRequest;
use crate::gateway::response::refusal;
use crate::gateway::telemetry::usage_record::UsageRecord;
use crate::limits::{BUSY, QuotaSlot, UsedUp, pause};
use crate::providers::error::Cause;

/// Why a request of an account with a limit waited, or was not sent.
const PACED: &str = "the rate limit applies";

/// A request that an account is to serve.
pub(in crate::gateway) struct PendingRequest<'request> {
    pub(in crate::gateway) request: &'request ClientRequest,
    pub(in crate::gateway) usage: &'request mut UsageRecord,
    pub(in crate::gateway) account: &'request Rc<ServedAccount>,
}

impl PendingRequest<'_> {
    fn note_model(&mut self) {
        self.usage.note_model(&self.request.body);
    }

    pub(in crate::gateway) async fn await_model(&mut self) {
        self.usage.await_model(&self.request.body).await;
    }

    /// Rejects a request whose limit the server has reported as reached. `title`: the provider's. `is_one_of_several`:
    /// whether other profiles may serve such requests.
    pub(super) async fn check_exhausted(&mut self, title: &str, is_one_of_several: bool) -> Result<(), Unserved> {
        let Self { request, account, .. } = *self;
        request.body.keep_arrived().await;
        let has_exhausted = account.has_exhausted();
        // What a key is charged depends on it. Otherwise it is looked for when there is time: while the request waits.
        if has_exhausted || self.usage.user.is_some() {
            self.note_model();
        }
        if !has_exhausted {
            return Ok(());
        }
        if self.usage.model.is_none() && account.depends_on_model() && request.body.keep_all().await {
            self.note_model();
        }
        let counts = |cause: Cause| match cause {
            // These end with a payment, so each request may try, unless another profile serves it.
            Cause::FreeTier | Cause::Outage => is_one_of_several,
            Cause::Unpaid => false,
            _ => true,
        };
        let Some(entry) = account.exhausted(self.usage.model.as_deref(), counts) else { return Ok(()) };
        self.await_model().await;
        self.usage.reason = Some(entry.cause.sentence());
        let refusal = refusal::exhausted(&account.profile, title, &entry, "");
        Err(Unserved::movable(DeferredResponse::Own(refusal), Reason::of(entry.cause), entry.id()))
    }

    /// Takes a place in all quotas, and waits for a slot under all limits.
    pub(in crate::gateway) async fn take_slot(
        &mut self,
        key: Option<&mut KeyAdmission<'_>>,
        estimate: Estimate,
    ) -> Result<HeldSlot, Unserved> {
        let mut slot = match HeldSlot::with_place(self.account).await {
            Ok(slot) => slot,
            Err(used_up) => return Err(self.over_quota(used_up).await),
        };
        match key {
            Some(key) => slot.repetition = Box::pin(key.take_slot(self, estimate)).await?,
            None if self.account.pacing.is_counting => self.wait_for_slot(&mut slot.counted).await?,
            None => {}
        }
        Ok(slot)
    }

    async fn over_quota(&mut self, used_up: UsedUp) -> Unserved {
        self.await_model().await;
        self.usage.reason = Some("the user's own quota is used up");
        let refusal = refusal::over_quota(&self.account.profile, used_up.cause, used_up.ends);
        let (reason, occurrence) = quota_fallback(used_up);
        Unserved::movable(DeferredResponse::Own(refusal), reason, occurrence)
    }

    /// Waits for a slot within the provider's limits.
    async fn wait_for_slot(&mut self, counted: &mut Option<Counted>) -> Result<(), Unserved> {
        let Self { request, ref mut usage, account } = *self;
        let note_model = || usage.note_model(&request.body);
        let slot = request.body.while_reading_and(account.pacing.turn(counted), note_model).await;
        if let Ok(Waited::For(waited)) = slot {
            self.usage.note_wait(waited, PACED);
        }
        request.check_length()?;
        let Err(no_slot) = slot else { return Ok(()) };
        self.await_model().await;
        self.usage.reason = Some(PACED);
        let (reason, occurrence) = match no_slot {
            NoSlot::OverQuota(used_up) => quota_fallback(used_up),
            NoSlot::DayOver { .. } => (Some(Reason::Day), account.pacing.occurrence_of_day()),
            NoSlot::TooLong(_) | NoSlot::Unavailable => (None, String::new()),
        };
        let deferred = DeferredResponse::Own(refusal::no_slot(&account.profile, no_slot));
        Err(Unserved::movable(deferred, reason, occurrence))
    }
}

/// What one attempt counts as at an account. When dropped, it is given back if the attempt was certainly not sent.
pub(in crate::gateway) struct HeldSlot {
    account: Rc<ServedAccount>,
    /// When it took a place in all quotas.
    place: Option<SystemTime>,
    counted: Option<Counted>,
    /// What the limits of the key granted to a further attempt.
    repetition: Option<Box<HeldGrant>>,
    /// Whether it is being sent or was.
    pub(in crate::gateway) was_sent: bool,
}

impl HeldSlot {
    async fn with_place(account: &Rc<ServedAccount>) -> Result<Self, UsedUp> {
        let account = Rc::clone(account);
        let mut slot = Self { account, place: None, counted: None, repetition: None, was_sent: false };
        if slot.account.quotas.borrow().are_none() {
            return Ok(slot);
        }
        let since = Instant::now();
        loop {
            let (now, busy) = (SystemTime::now(), since.elapsed());
            let place = slot.account.quotas.borrow_mut().take(now, busy > BUSY);
            match place {
                QuotaSlot::Taken => {
                    slot.place = Some(now);
                    return Ok(slot);
                }
                QuotaSlot::UsedUp(used_up) => return Err(used_up),
                QuotaSlot::Busy => tokio::time::sleep(pause(busy)).await,
            }
        }
    }
}

impl Drop for HeldSlot {
    fn drop(&mut self) {
        if let Some(counted) = self.counted.take() {
            self.account.pacing.end(counted, self.was_sent);
        }
        if let Some(taken) = self.place.filter(|_| !self.was_sent) {
            self.account.quotas.borrow_mut().give_back(taken);
        }
        if let Some(repetition) = self.repetition.take().filter(|_| self.was_sent) {
            repetition.keep_counted();
        }
    }
}

/// Why a request beyond a quota may move to another profile, and what tells this occurrence from others.
pub(in crate::gateway) fn quota_fallback(UsedUp { cause, ends }: UsedUp) -> (Option<Reason>, String) {
    // In seconds, for the server of shared limits says how long it lasts from now on.
    let ends = epoch::seconds(ends);
    (Reason::of(cause), format!("quota/{cause:?}/{ends}"))
}
