//! A place for each request in the quotas that the user states.

use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use super::answer::{DeferredResponse, Unserved};
use super::fallback::Reason;
use super::forward::ProxiedRequest;
use super::pacing::BUSY;
use super::refusal;
use super::served_account::ServedAccount;
use crate::limits::{Place, UsedUp};

/// Given back when it is dropped before the request is sent.
pub(super) struct HeldPlace(Option<Rc<ServedAccount>>);

impl HeldPlace {
    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for HeldPlace {
    fn drop(&mut self) {
        if let Some(account) = self.0.take() {
            account.quotas.borrow_mut().give_back(SystemTime::now());
        }
    }
}

impl ProxiedRequest<'_> {
    /// Takes a place in all quotas, or none.
    pub(super) async fn place(&mut self, account: &Rc<ServedAccount>) -> Result<HeldPlace, Unserved> {
        if account.quotas.borrow().are_none() {
            return Ok(HeldPlace(None));
        }
        let since = Instant::now();
        loop {
            let place = account.quotas.borrow_mut().take(SystemTime::now(), since.elapsed() > BUSY);
            match place {
                Place::Taken => return Ok(HeldPlace(Some(Rc::clone(account)))),
                Place::UsedUp(used_up) => return Err(self.over_quota(used_up).await),
                Place::Busy => {
                    tokio::time::sleep(Duration::from_micros(200 + u64::from(rand::random::<u16>() / 64))).await;
                }
            }
        }
    }

    async fn over_quota(&mut self, used_up: UsedUp) -> Unserved {
        self.await_model().await;
        self.record.reason = Some("the user's own quota is used up");
        let refusal = refusal::over_quota(&self.served.profile, used_up.cause, used_up.ends);
        let (reason, occurrence) = moves(used_up);
        Unserved::movable(DeferredResponse::Own(refusal), reason, occurrence)
    }
}

/// Why a request beyond a quota may move to another profile, and what tells this occurrence from others.
pub(super) fn moves(UsedUp { cause, ends }: UsedUp) -> (Option<Reason>, String) {
    // In seconds, for the server of shared limits says how long it lasts from now on.
    let ends = ends.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    (Reason::of(cause), format!("quota/{cause:?}/{ends}"))
}
