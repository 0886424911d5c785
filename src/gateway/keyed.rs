//! Applies the key of a person or job to one request: whether it is allowed, and its slot under all limits.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use hyper::header::CONTENT_ENCODING;

use super::answer::{DeferredResponse, Unserved};
use super::credential::ReadyCredential;
use super::fallback::Reason;
use super::forward::ProxiedRequest;
use super::pacing::MAX_QUEUE_TIME;
use super::quota;
use super::refusal::Refusal;
use super::request_body::Broken;
use super::served_account::ServedAccount;
use super::team::{self, Asked, Estimate, HeldGrant, Team};
use crate::keys::{KeyRecord, State};
use crate::limits::{Decision, Demand, Refused};

/// How often a request starts over because its key was changed in the meantime.
const MAX_CHANGES: u32 = 5;

/// Log message of a request that the limits of its key delayed or stopped.
const KEPT_TO: &str = "the limits of the key are kept to";

impl<'gateway> ProxiedRequest<'gateway> {
    fn keyed(&self) -> Option<(Rc<KeyRecord>, &'gateway Team)> {
        Some((self.key.clone()?, self.gateway.team.as_ref()?))
    }

    /// The most that the request may use; nothing if no limit of its key depends on that.
    ///
    /// Errors: the key does not allow the request.
    pub(super) async fn check_key(&mut self) -> Result<Estimate, Unserved> {
        match self.examine().await {
            Err(_) if self.takes_changed_key().await => self.examine().await,
            examined => examined,
        }
    }

    /// Whether the key that forbids the request was changed after it was read: then the current one applies.
    async fn takes_changed_key(&mut self) -> bool {
        let Some((key, team)) = self.keyed() else { return false };
        let Ok(Some(now)) = team.engine.look_up_now(&key.id).await else { return false };
        let is_usable = matches!(now.state(SystemTime::now()), State::Active | State::Rotating);
        let is_shown = self.shown.as_ref().is_none_or(|shown| team.still_is(&now, shown));
        let has_changed = is_usable && is_shown && !now.is_same_for_all(&key);
        if has_changed {
            self.key = Some(now);
        }
        has_changed
    }

    async fn examine(&mut self) -> Result<Estimate, Unserved> {
        let Some((key, team)) = self.keyed() else { return Ok(Estimate::default()) };
        let name = &key.name;
        if !key.allows_profile(&self.served.profile) {
            let profile = &self.served.profile;
            return Err(self.deny(&key, format!("the key `{name}` may not use profile `{profile}`")).await);
        }
        // A body is checked whatever the method: some servers read the body of a GET.
        let has_body = team::has_body(&self.method) || !self.request_body.is_empty();
        if !has_body || !team::depends_on_body(&key) {
            return Ok(Estimate::default());
        }
        if !self.request_body.keep_all().await {
            return Err(self.not_kept(name).into());
        }
        let body = self.request_body.kept().concat();
        let is_plain = !self.headers.contains_key(CONTENT_ENCODING);
        let asked = is_plain.then(|| Asked::read(&body)).flatten().unwrap_or_default();
        // After a move to another profile the model is the one that the user configured there, for the model that was
        // checked.
        if team::depends_on_model(&key) && self.moved.is_none() {
            let Some(model) = asked.model() else {
                let message = format!(
                    "the key `{name}` has limits by model, and the request does not name exactly one, in JSON that is \
                     not compressed"
                );
                return Err(self.deny(&key, message).await);
            };
            let has_price = key.limits.budget.is_none() || team.prices.of(model).is_some();
            let message = if !key.allows_model(model) {
                Some(format!("the key `{name}` may not use model `{model}`"))
            } else if !has_price {
                Some(format!("the key `{name}` has a budget, and `[prices]` of the gateway has no price of `{model}`"))
            } else {
                None
            };
            if let Some(message) = message {
                return Err(self.deny(&key, message).await);
            }
            self.record.model = Some(model.to_owned());
        }
        let path = self.rest.split('?').next().unwrap_or_default();
        Ok(asked.estimate(body.len() as u64, path))
    }

    async fn deny(&mut self, key: &Rc<KeyRecord>, message: String) -> Unserved {
        if let Some(team) = &self.gateway.team {
            team.count("not_allowed");
            self.left = Some(team.engine.left(key).await);
        }
        team::not_allowed(message).into()
    }

    fn not_kept(&self, name: &str) -> Refusal {
        if let Err(refusal) = self.check_upload() {
            return refusal;
        }
        if let Some(broken @ Broken::ByClient) = self.request_body.broken() {
            return Refusal::new(StatusCode::BAD_REQUEST, "request_incomplete", broken.to_string());
        }
        let message =
            format!("the limits of key `{name}` need requests that the gateway can keep; see `--replay-limit`");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message).finally()
    }

    /// Why the key may not use this profile and model.
    pub(super) fn key_forbids(&self, profile: &str, model: &str) -> Option<&'static str> {
        let (key, team) = self.keyed()?;
        if !key.allows_profile(profile) {
            return Some("the key may not use the profile that would serve it");
        }
        let is_unpriced = key.limits.budget.is_some() && team.prices.of(model).is_none();
        is_unpriced.then_some("the key has a budget, and the model that would serve it no price")
    }

    /// Waits for a slot under the limits of the key and of the account, both at once.
    pub(super) async fn keyed_turn(
        &mut self,
        account: &Rc<ServedAccount>,
        ready: &ReadyCredential,
        estimate: Estimate,
    ) -> Result<(), Unserved> {
        let Some((key, team)) = self.keyed() else { return Ok(()) };
        let options = &self.gateway.options;
        let counted = options.is_counting(&ready.provider).then(|| Rc::clone(account));
        let longest_wait = if options.tuning.pacing { MAX_QUEUE_TIME } else { Duration::ZERO };
        let repeats = self.record.grant.is_some();
        let since = tokio::time::Instant::now();
        let (mut key, mut estimate, mut changes) = (key, estimate, 0);
        let (wait, spread, grant, left, price) = loop {
            let price = self.record.model.as_deref().and_then(|model| team.prices.of(model));
            let demand = Demand {
                key: Rc::clone(&key),
                tokens: estimate.tokens(),
                cost: if key.limits.budget.is_some() { estimate.cost(price) } else { crate::keys::Money::default() },
                longest_wait,
                repeats,
            };
            let windows = counted.as_ref().map(|account| account.pacing.windows());
            match self.request_body.while_reading(team.engine.admit(&demand, windows)).await {
                Decision::Go { wait, spread, grant, left } => break (wait, spread, grant, left, price),
                Decision::Refused { reason, left } => {
                    self.left = Some(left);
                    return Err(self.not_granted(account, &key, reason).await);
                }
                Decision::Changed(_) if changes == MAX_CHANGES => {
                    return Err(self.not_granted(account, &key, Refused::Unavailable).await);
                }
                Decision::Changed(record) => {
                    changes += 1;
                    if self.shown.as_ref().is_some_and(|shown| !team.still_is(&record, shown)) {
                        return Err(self.not_granted(account, &key, Refused::Unknown).await);
                    }
                    key = record;
                    self.key = Some(Rc::clone(&key));
                    if !repeats {
                        estimate = self.check_key().await?;
                    }
                }
            }
        };
        self.left = Some(left);
        // Released if the client disconnects during the wait.
        let mut held = HeldGrant::new(Rc::clone(&team.engine), grant, counted, price, estimate);
        if !wait.is_zero() {
            if wait > Duration::from_secs(2) {
                account.pacing.say(&format!(
                    "a request of key `{}` waits {} s for its limits",
                    key.name,
                    wait.as_secs()
                ));
            }
            self.request_body.while_reading(tokio::time::sleep(wait + spread.mul_f64(rand::random::<f64>()))).await;
            // It may have been revoked in the meantime.
            let now = team.engine.look_up_now(&key.id).await;
            let refused = match now.map(|record| record.map(|record| record.state(SystemTime::now()))) {
                Ok(Some(State::Active | State::Rotating)) => None,
                Ok(Some(State::Expired)) => Some(Refused::Expired),
                Ok(Some(State::Revoked) | None) => Some(Refused::Unknown),
                Err(_) => Some(Refused::Unavailable),
            };
            if let Some(reason) = refused {
                drop(held);
                return Err(self.not_granted(account, &key, reason).await);
            }
        }
        if since.elapsed() > Duration::from_millis(1) && !wait.is_zero() || since.elapsed() > Duration::from_millis(50)
        {
            self.record.waited += since.elapsed();
            self.record.reason = Some(KEPT_TO);
        }
        self.check_upload()?;
        team.count("go");
        if repeats {
            // It is counted, and there is nothing to settle.
            held.was_sent = true;
        } else {
            self.record.grant = Some(held);
        }
        Ok(())
    }

    async fn not_granted(&mut self, account: &ServedAccount, key: &KeyRecord, reason: Refused) -> Unserved {
        if let Some(team) = &self.gateway.team {
            team.count(team::decision_name(reason));
        }
        self.await_model().await;
        self.record.reason = Some(KEPT_TO);
        let deferred = DeferredResponse::Own(team::refused(reason, key, &self.served.profile));
        let (moves, occurrence) = match reason {
            Refused::AccountQuota(used_up) => quota::moves(used_up),
            Refused::AccountDay { .. } => (Some(Reason::Day), account.pacing.occurrence_of_day()),
            _ => (None, String::new()),
        };
        Unserved::movable(deferred, moves, occurrence)
    }
}
