//! The key of a person or job at one request: whether it allows the request, and its slot under all limits.
//!
//! Hazard: a client whose body the gateway does not read spends without a limit. Rule: if the limits of a key depend on the
//! model or on tokens, its requests are read completely, and bodies that cannot be read are rejected.

use std::rc::Rc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, HeaderMap};

use super::estimate::{Estimate, RequestFields};
use super::grant::HeldGrant;
use super::key_limits;
use super::team::Team;
use crate::gateway::admission::shown_keys;
use crate::gateway::forward::fallback::Reason;
use crate::gateway::forward::rejection::{DeferredResponse, Unserved};
use crate::gateway::forward::slot::{PendingRequest, quota_fallback};
use crate::gateway::profiles::pacing::{LONG_WAIT, MAX_QUEUE_TIME};
use crate::gateway::request::client_request::ClientRequest;
use crate::gateway::request::request_body::Broken;
use crate::gateway::response::refusal::{RETRY_SOON, Refusal};
use crate::keys::{KeyRecord, KeyText, Money, State};
use crate::limits::{Demand, KeyDecision, Left, Refused};

/// How often a request starts over because its key was changed in the meantime.
const MAX_CHANGES: u32 = 5;

/// A shorter delay is not reported as a wait: the next tick of the timer where the limits made it wait, and a decision
/// that took its time where they did not.
const MIN_WAIT: Duration = Duration::from_millis(1);
const MIN_DECISION: Duration = Duration::from_millis(50);

/// Log message of a request that the limits of its key delayed or stopped.
const KEY_LIMITED: &str = "the limits of the key apply";

/// The key of one request.
pub(in crate::gateway) struct KeyAdmission<'gateway> {
    team: &'gateway Team,
    key: Rc<KeyRecord>,
    /// As the client sent it; `None` for the token of a job.
    shown: Option<KeyText>,
    /// What is left of its limits.
    left: Option<Left>,
}

impl<'gateway> KeyAdmission<'gateway> {
    /// `request`: the one that `key` came with.
    pub(in crate::gateway) fn new(team: &'gateway Team, key: Rc<KeyRecord>, request: &ClientRequest) -> Self {
        if depends_on_body(&key) {
            request.body.require();
        }
        Self { team, shown: Team::shown(&key, shown_keys(&request.headers)), key, left: None }
    }

    /// The most that the request may use; nothing if no limit of its key depends on that.
    ///
    /// Errors: the key does not allow the request.
    pub(in crate::gateway) async fn check(&mut self, pending: &mut PendingRequest<'_>) -> Result<Estimate, Unserved> {
        match self.examine(pending).await {
            Err(_) if self.takes_changed_key().await => self.examine(pending).await,
            examined => examined,
        }
    }

    /// Whether the key that forbids the request was changed after it was read: then the current one applies.
    async fn takes_changed_key(&mut self) -> bool {
        let Ok(Some(now)) = self.team.engine.look_up_now(&self.key.id).await else { return false };
        let is_usable = matches!(now.state(self.team.engine.now()), State::Active | State::Rotating);
        let has_changed = is_usable && self.is_shown(&now) && !now.is_same_for_all(&self.key);
        if has_changed {
            self.key = now;
        }
        has_changed
    }

    /// Whether what the client showed is still the key of a record that has changed.
    fn is_shown(&self, record: &KeyRecord) -> bool {
        self.shown.as_ref().is_none_or(|shown| self.team.still_is(record, shown))
    }

    async fn examine(&mut self, pending: &mut PendingRequest<'_>) -> Result<Estimate, Unserved> {
        let key = Rc::clone(&self.key);
        let name = &key.name;
        if !key.allows_profile(&pending.account.profile) {
            let profile = &pending.account.profile;
            return Err(self.deny(format!("the key `{name}` may not use profile `{profile}`")).await);
        }
        let request = pending.request;
        if !request.has_body() || !depends_on_body(&key) {
            return Ok(Estimate::default());
        }
        if !request.body.keep_all().await {
            return Err(not_kept(request, name).into());
        }
        let body = request.body.kept().concat();
        let is_plain = !request.headers.contains_key(CONTENT_ENCODING);
        let asked = is_plain.then(|| RequestFields::read(&body)).flatten().unwrap_or_default();
        // After a move to another profile the model is the one that the user configured there, for the model that was
        // checked.
        if depends_on_model(&key) && !pending.usage.has_moved() {
            let Some(model) = asked.model() else {
                let message = format!(
                    "the key `{name}` has limits that depend on the model: the request must name exactly one model, in uncompressed JSON"
                );
                return Err(self.deny(message).await);
            };
            let has_price = key.limits.budget.is_none() || self.team.prices.of(model).is_some();
            let message = if !key.allows_model(model) {
                Some(format!("the key `{name}` may not use model `{model}`"))
            } else if !has_price {
                Some(format!("the key `{name}` has a budget, but `[prices]` of the gateway has no price for `{model}`"))
            } else {
                None
            };
            if let Some(message) = message {
                return Err(self.deny(message).await);
            }
            pending.usage.model = Some(model.to_owned());
        }
        Ok(asked.estimate(body.len() as u64, request.path()))
    }

    async fn deny(&mut self, message: String) -> Unserved {
        self.team.count("not_allowed");
        self.left = Some(self.team.engine.left(&self.key).await);
        key_limits::not_allowed(message).into()
    }

    /// Why the key may not use this profile and model.
    pub(in crate::gateway) fn forbids(&self, profile: &str, model: &str) -> Option<&'static str> {
        if !self.key.allows_profile(profile) {
            return Some("the key may not use the profile that would serve it");
        }
        let is_unpriced = self.key.limits.budget.is_some() && self.team.prices.of(model).is_none();
        is_unpriced.then_some("the key has a budget, but the model that would serve it has no price")
    }

    /// Waits for a slot under the limits of the key and of the account, both at once. Returns what a further attempt is
    /// granted.
    pub(in crate::gateway) async fn take_slot(
        &mut self,
        pending: &mut PendingRequest<'_>,
        estimate: Estimate,
    ) -> Result<Option<Box<HeldGrant>>, Unserved> {
        let repeats = pending.usage.grant.is_some();
        let since = tokio::time::Instant::now();
        let (wait, held) = self.admit(pending, estimate, repeats).await?;
        if !wait.is_zero() {
            pending.request.body.while_reading(tokio::time::sleep(wait)).await;
            // It may have been revoked or replaced in the meantime.
            if let Some(reason) = self.is_revoked().await {
                drop(held);
                return Err(self.not_granted(pending, reason).await);
            }
        }
        let waited = since.elapsed();
        if waited > MIN_WAIT && !wait.is_zero() || waited > MIN_DECISION {
            pending.usage.note_wait(waited, KEY_LIMITED);
        }
        pending.request.check_length()?;
        self.team.count("go");
        if repeats {
            return Ok(Some(Box::new(held)));
        }
        pending.usage.grant = Some(held);
        Ok(None)
    }

    /// What the limits grant, and after which wait. `repeats`: the request was granted something before.
    async fn admit(
        &mut self,
        pending: &mut PendingRequest<'_>,
        mut estimate: Estimate,
        repeats: bool,
    ) -> Result<(Duration, HeldGrant), Unserved> {
        let (team, account) = (self.team, pending.account);
        let counted = account.pacing.is_counting.then(|| Rc::clone(account));
        let longest_wait = if account.waits { MAX_QUEUE_TIME } else { Duration::ZERO };
        let mut changes = 0;
        loop {
            let price = pending.usage.model.as_deref().and_then(|model| team.prices.of(model));
            let demand = Demand {
                key: Rc::clone(&self.key),
                tokens: estimate.tokens(),
                cost: if self.key.limits.budget.is_some() { estimate.cost(price) } else { Money::default() },
                longest_wait,
                repeats,
            };
            let windows = counted.as_ref().map(|account| account.pacing.windows());
            match pending.request.body.while_reading(team.engine.admit(&demand, windows)).await {
                KeyDecision::Go { wait, spread, grant, left } => {
                    self.left = Some(left);
                    // Released if the client disconnects during the wait.
                    let held = HeldGrant::new(Rc::clone(&team.engine), grant, counted, &team.prices, price, estimate);
                    if wait > LONG_WAIT {
                        let (name, seconds) = (&self.key.name, wait.as_secs());
                        account.pacing.say(&format!("request of key `{name}` delayed {seconds} s by its limits"));
                    }
                    let spread = if wait.is_zero() { wait } else { spread.mul_f64(rand::random::<f64>()) };
                    return Ok((wait + spread, held));
                }
                KeyDecision::Refused { reason, left } => {
                    self.left = Some(left);
                    return Err(self.not_granted(pending, reason).await);
                }
                KeyDecision::Changed(_) if changes == MAX_CHANGES => {
                    return Err(self.not_granted(pending, Refused::Unavailable).await);
                }
                KeyDecision::Changed(record) => {
                    changes += 1;
                    if !self.is_shown(&record) {
                        return Err(self.not_granted(pending, Refused::Unknown).await);
                    }
                    self.key = record;
                    if !repeats {
                        estimate = self.check(pending).await?;
                    }
                }
            }
        }
    }

    /// Why a key that allowed a request does not any more.
    async fn is_revoked(&self) -> Option<Refused> {
        let now = match self.team.engine.look_up_now(&self.key.id).await {
            Ok(Some(now)) => now,
            Ok(None) => return Some(Refused::Unknown),
            Err(_) => return Some(Refused::Unavailable),
        };
        match now.state(self.team.engine.now()) {
            State::Active | State::Rotating => (!self.is_shown(&now)).then_some(Refused::Unknown),
            State::Expired => Some(Refused::Expired),
            State::Revoked => Some(Refused::Unknown),
        }
    }

    async fn not_granted(&self, pending: &mut PendingRequest<'_>, reason: Refused) -> Unserved {
        self.team.count_refused(reason);
        pending.await_model().await;
        pending.usage.reason = Some(KEY_LIMITED);
        let deferred = DeferredResponse::Own(key_limits::refused(reason, &self.key, &pending.account.profile));
        let (reason, occurrence) = match reason {
            Refused::AccountQuota(used_up) => quota_fallback(used_up),
            Refused::AccountDay { .. } => (Some(Reason::Day), pending.account.pacing.occurrence_of_day()),
            _ => (None, String::new()),
        };
        Unserved::movable(deferred, reason, occurrence)
    }

    /// States in a response what is left of the limits of the key.
    pub(in crate::gateway) fn stamp(&self, headers: &mut HeaderMap) {
        if let Some(left) = &self.left {
            key_limits::stamp(headers, &self.key, left, self.team.engine.now());
        }
    }
}

/// Rejects a request that the limits of its key can only judge by a body which is not there as a whole.
fn not_kept(request: &ClientRequest, key: &str) -> Refusal {
    if let Err(refusal) = request.check_length() {
        return refusal;
    }
    if let Some(broken @ (Broken::ByClient | Broken::Malformed)) = request.body.broken() {
        return Refusal::new(StatusCode::BAD_REQUEST, "request_incomplete", broken.to_string());
    }
    if request.body.is_over_budget() {
        let message = format!(
            "the limits of key `{key}` require that the whole request is read first, and other requests use the memory \
             for that"
        );
        return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "gateway_overloaded", message).after(RETRY_SOON);
    }
    let message = format!("the limits of key `{key}` require requests that fit into the gateway's `--replay-limit`");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message).finally()
}

/// Whether the limits of a key depend on the content of the request body.
fn depends_on_body(key: &KeyRecord) -> bool {
    let limits = &key.limits;
    depends_on_model(key) || limits.tokens_per_minute.is_some() || limits.tokens_per_day.is_some()
}

/// Whether they depend on the model in it.
fn depends_on_model(key: &KeyRecord) -> bool {
    !key.limits.models.is_empty() || key.limits.budget.is_some()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::keys::TeamSecret;

    #[test]
    fn only_limits_of_tokens_models_and_money_need_the_body() {
        let (plain, _) = KeyRecord::create("ann", &TeamSecret::new(), SystemTime::now());
        let with = |change: fn(&mut KeyRecord)| {
            let mut key = plain.clone();
            change(&mut key);
            (depends_on_body(&key), depends_on_model(&key))
        };
        assert_eq!(with(|_| ()), (false, false));
        assert_eq!(with(|key| key.limits.requests_per_minute = Some(1)), (false, false));
        assert_eq!(with(|key| key.limits.profiles = vec!["work".to_owned()]), (false, false));
        assert_eq!(with(|key| key.limits.tokens_per_minute = Some(1)), (true, false));
        assert_eq!(with(|key| key.limits.tokens_per_day = Some(1)), (true, false));
        assert_eq!(with(|key| key.limits.models = vec!["m*".to_owned()]), (true, true));
        assert_eq!(with(|key| key.limits.budget = "1 USD/day".parse().ok()), (true, true));
    }
}
