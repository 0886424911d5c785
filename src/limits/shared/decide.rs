//! The decision on one request, by the server or alone while it is unreachable.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::alone::Alone;
use super::script::{self, ADMIT};
use super::tickets::Ticket;
use super::told::{Admitted, Told, Verdict};
use super::{HOLD, Shared, State};
use crate::keys::Versioned;
use crate::limits::together::{Decision, Ended, Health, Limit, OnLoss, milliseconds};

/// A decision that is being made. If the caller leaves in the meantime, it is made all the same, and what was granted is
/// released.
struct Deciding {
    shared: Rc<Shared>,
    decision: Option<Pin<Box<dyn Future<Output = Decision>>>>,
}

impl Future for Deciding {
    type Output = Decision;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Decision> {
        let Some(decision) = &mut self.decision else { return Poll::Ready(Decision::Unavailable) };
        let decided = std::task::ready!(decision.as_mut().poll(context));
        self.decision = None;
        Poll::Ready(decided)
    }
}

impl Drop for Deciding {
    fn drop(&mut self) {
        // At the end of the gateway no task runs any more.
        let Some(decision) = self.decision.take().filter(|_| !self.shared.tickets.is_ending.get()) else { return };
        let shared = Rc::clone(&self.shared);
        tokio::task::spawn_local(async move {
            if let Decision::Go { ticket, .. } = decision.await {
                shared.end(ticket, Ended::GivenBack);
            }
        });
    }
}

impl Shared {
    /// Decides one request.
    ///
    /// `limits`: those at a time by the server's clock. `key`: the record of the key that asks, as known here.
    pub(crate) async fn admit(
        self: &Rc<Self>,
        key: Option<Versioned>,
        limits: impl Fn(u64) -> Vec<Limit> + 'static,
        longest: Duration,
    ) -> Decision {
        let shared = Rc::clone(self);
        let decision = async move { shared.decide(key.as_ref(), &limits, milliseconds(longest)).await };
        Deciding { shared: Rc::clone(self), decision: Some(Box::pin(decision)) }.await
    }

    async fn decide(&self, key: Option<&Versioned>, limits: &impl Fn(u64) -> Vec<Limit>, longest: u64) -> Decision {
        let id = self.tickets.new_id(&self.instance);
        let mut at = self.now();
        let mut checks_record = true;
        // Each retry has another reason: the first corrects the clock, the second the wait, when the period was not
        // the current one.
        for _ in 0..4 {
            if self.state.get() != State::Up {
                break;
            }
            let limits = limits(at);
            let Some(told) = self.ask(&id, key.filter(|_| checks_record), &limits, longest).await else { break };
            self.clock.set(told.now);
            match told.verdict {
                Verdict::Go(admitted) => return self.grant(id, limits, told.now, &admitted),
                Verdict::Refused { limit, wait } => {
                    self.standing.borrow_mut().refused(&limits, limit, told.now);
                    return Decision::Refused { limit, wait: Duration::from_millis(wait) };
                }
                Verdict::Period { at: current } => at = current,
                Verdict::Record { version, record } => {
                    let Some(key) = key else { return Decision::Unavailable };
                    let known = self.records.remember(&key.record.id, &version, &record, self.clock.own());
                    return known.map_or(Decision::Unavailable, |known| Decision::Changed(Some(known.record)));
                }
                Verdict::Unknown { is_complete: true } => {
                    if let Some(key) = key {
                        self.records.forget(&key.record.id);
                    }
                    return Decision::Changed(None);
                }
                // The records are being sent to a server that was emptied.
                Verdict::Unknown { is_complete: false } => {
                    if !self.trusts(key) {
                        return Decision::Unavailable;
                    }
                    checks_record = false;
                }
                Verdict::Epoch => self.lose("it was emptied, or is another server"),
            }
        }
        self.decide_alone(id, key, &limits(self.now()), longest)
    }

    fn trusts(&self, key: Option<&Versioned>) -> bool {
        key.is_none_or(|key| self.records.is_trusted(&key.record.id, self.clock.own()))
    }

    fn decide_alone(&self, id: String, key: Option<&Versioned>, limits: &[Limit], longest: u64) -> Decision {
        if self.health() != Health::Degraded || !self.trusts(key) {
            return Decision::Unavailable;
        }
        let now = self.now();
        if self.on_loss == OnLoss::Open {
            let ticket = Ticket { limits: Vec::new(), at: now, held: Vec::new(), epoch: None };
            self.tickets.begin(&id, ticket);
            return Decision::Go { wait: Duration::ZERO, ticket: id };
        }
        let mut held = Vec::new();
        match self.standing.borrow_mut().decide(&id, limits, now, longest, &mut held) {
            Alone::Go { at } => {
                self.tickets.begin(&id, Ticket { limits: limits.to_vec(), at, held, epoch: None });
                Decision::Go { wait: Duration::from_millis(at - now), ticket: id }
            }
            Alone::Wait { limit, wait } => Decision::Refused { limit, wait: Duration::from_millis(wait) },
            Alone::Over => Decision::Unavailable,
        }
    }

    fn grant(&self, id: String, limits: Vec<Limit>, now: u64, admitted: &Admitted) -> Decision {
        self.standing.borrow_mut().admitted(&id, &limits, now, admitted);
        let held = admitted.counts.iter().map(|count| count.held).collect();
        let epoch = Some(Rc::clone(&self.epoch.borrow()));
        self.tickets.begin(&id, Ticket { limits, at: admitted.at, held, epoch });
        Decision::Go { wait: Duration::from_millis(admitted.at.saturating_sub(now)), ticket: id }
    }

    async fn ask(&self, id: &str, key: Option<&Versioned>, limits: &[Limit], longest: u64) -> Option<Told> {
        let keys = 3 + limits.iter().map(Limit::number_of_keys).sum::<usize>();
        let mut command = script::command(&ADMIT, keys);
        command.arg(self.names.epoch()).arg(self.names.records()).arg(self.names.used_at());
        for limit in limits {
            limit.add_keys(&self.names, &mut command);
        }
        command.arg(&**self.epoch.borrow()).arg(id).arg(longest).arg(milliseconds(HOLD));
        let (asker, version) = key.map_or(("", ""), |key| (&key.record.id, &key.version));
        command.arg(asker).arg(version);
        for limit in limits {
            limit.add_arguments(&mut command);
        }
        let text: String = self.call(&ADMIT, &command).await?;
        let Some(told) = Told::parse(&text, limits) else {
            self.lose(&script::unreadable().to_string());
            return None;
        };
        if let (Some(key), Verdict::Go(_)) = (key, &told.verdict) {
            self.records.saw(&key.record.id, self.clock.own());
        }
        Some(told)
    }
}
