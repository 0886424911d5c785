//! The requests that all gateways count: each is decided once, by the server or alone while it is unreachable, and ended
//! once, which settles what it used or releases what it was granted.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::RESERVED_FOR;
use super::admission_reply::{AdmissionReply, Admitted, Verdict};
use super::alone::Alone;
use super::finish_command::finish_command;
use super::link::Link;
use super::published::PublishedKeys;
use super::script::{self, ADMIT, FINISH};
use super::tickets::{CountedBy, Ticket, Tickets};
use crate::epoch;
use crate::keys::Versioned;
use crate::limits::together::{Health, Kind, Limit, OnLoss, Settlement, SharedDecision};

pub(super) struct Admissions {
    link: Rc<Link>,
    keys: Rc<PublishedKeys>,
    pub(super) tickets: Tickets,
}

/// A decision that is being made. If the caller leaves in the meantime, it is made all the same, and what was granted is
/// released.
struct Deciding {
    admissions: Rc<Admissions>,
    decision: Option<Pin<Box<dyn Future<Output = SharedDecision>>>>,
}

impl Future for Deciding {
    type Output = SharedDecision;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<SharedDecision> {
        let Some(decision) = &mut self.decision else { return Poll::Ready(SharedDecision::Unavailable) };
        let decided = std::task::ready!(decision.as_mut().poll(context));
        self.decision = None;
        Poll::Ready(decided)
    }
}

impl Drop for Deciding {
    fn drop(&mut self) {
        // At the end of the gateway no task runs any more.
        let Some(decision) = self.decision.take().filter(|_| !self.admissions.tickets.is_ending.get()) else { return };
        let admissions = Rc::clone(&self.admissions);
        tokio::task::spawn_local(async move {
            if let SharedDecision::Go { ticket, .. } = decision.await {
                admissions.end(ticket, Settlement::GivenBack);
            }
        });
    }
}

impl Admissions {
    pub(super) fn new(link: Rc<Link>, keys: Rc<PublishedKeys>) -> Rc<Self> {
        Rc::new(Self { link, keys, tickets: Tickets::default() })
    }

    /// Decides one request.
    ///
    /// `limits`: those at a time by the server's clock. `key`: the record of the key that asks, as known here.
    pub(super) async fn admit(
        self: &Rc<Self>,
        key: Option<Versioned>,
        limits: impl Fn(u64) -> Vec<Limit> + 'static,
        longest: Duration,
    ) -> SharedDecision {
        let admissions = Rc::clone(self);
        let decision =
            async move { admissions.decide(key.as_ref(), &limits, epoch::whole_milliseconds(longest)).await };
        Deciding { admissions: Rc::clone(self), decision: Some(Box::pin(decision)) }.await
    }

    async fn decide(
        &self,
        key: Option<&Versioned>,
        limits: &impl Fn(u64) -> Vec<Limit>,
        longest: u64,
    ) -> SharedDecision {
        let id = self.tickets.new_id(&self.link.instance);
        let mut at = self.link.now();
        let mut checks_record = true;
        // Each retry has another reason: the first corrects the clock, the second the wait, when the period was not
        // the current one.
        for _ in 0..4 {
            if !self.link.is_up() {
                break;
            }
            let limits = limits(at);
            let Some(reply) = self.ask(&id, key.filter(|_| checks_record), &limits, longest).await else { break };
            self.link.clock.set(reply.now);
            match reply.verdict {
                Verdict::Go(admitted) => return self.grant(id, limits, reply.now, &admitted),
                Verdict::Refused { limit, wait } => {
                    self.link.standing.borrow_mut().refused(&limits, limit, reply.now);
                    return SharedDecision::Refused { limit, wait: Duration::from_millis(wait) };
                }
                Verdict::Period { at: current } => at = current,
                Verdict::Record { version, record } => {
                    let Some(key) = key else { return SharedDecision::Unavailable };
                    let known = self.keys.records.remember(&key.record.id, &version, &record, self.link.clock.own());
                    return known
                        .map_or(SharedDecision::Unavailable, |known| SharedDecision::Changed(Some(known.record)));
                }
                Verdict::Unknown { is_complete: true } => {
                    if let Some(key) = key {
                        self.keys.records.forget(&key.record.id);
                    }
                    return SharedDecision::Changed(None);
                }
                // The records are being sent to a server that was emptied.
                Verdict::Unknown { is_complete: false } => {
                    if !self.keys.trusts(key) {
                        return SharedDecision::Unavailable;
                    }
                    checks_record = false;
                }
                Verdict::Epoch => self.link.lose("it was emptied, or is another server"),
            }
        }
        self.decide_alone(id, key, &limits(self.link.now()), longest)
    }

    fn decide_alone(&self, id: String, key: Option<&Versioned>, limits: &[Limit], longest: u64) -> SharedDecision {
        if self.link.health() != Health::Degraded || !self.keys.trusts(key) {
            return SharedDecision::Unavailable;
        }
        let now = self.link.now();
        if self.link.on_loss == OnLoss::Open {
            let ticket = Ticket { limits: Vec::new(), at: now, held: Vec::new(), by: CountedBy::Gateway(0) };
            self.tickets.begin(&id, ticket);
            return SharedDecision::Go { wait: Duration::ZERO, ticket: id };
        }
        let mut held = Vec::new();
        let mut standing = self.link.standing.borrow_mut();
        match standing.decide(&id, limits, now, longest, &mut held) {
            Alone::Go { at } => {
                let by = CountedBy::Gateway(standing.reports);
                self.tickets.begin(&id, Ticket { limits: limits.to_vec(), at, held, by });
                SharedDecision::Go { wait: Duration::from_millis(at - now), ticket: id }
            }
            Alone::Wait { limit, wait } => SharedDecision::Refused { limit, wait: Duration::from_millis(wait) },
            Alone::Over => SharedDecision::Unavailable,
        }
    }

    fn grant(&self, id: String, limits: Vec<Limit>, now: u64, admitted: &Admitted) -> SharedDecision {
        self.link.standing.borrow_mut().admitted(&id, &limits, now, admitted);
        let held = admitted.counts.iter().map(|count| count.held).collect();
        let by = CountedBy::Server(Rc::clone(&self.link.epoch.borrow()));
        self.tickets.begin(&id, Ticket { limits, at: admitted.at, held, by });
        SharedDecision::Go { wait: Duration::from_millis(admitted.at.saturating_sub(now)), ticket: id }
    }

    async fn ask(&self, id: &str, key: Option<&Versioned>, limits: &[Limit], longest: u64) -> Option<AdmissionReply> {
        let keys = 3 + limits.iter().map(Limit::number_of_keys).sum::<usize>();
        let mut command = script::command(&ADMIT, keys);
        command.arg(self.link.names.epoch()).arg(self.link.names.records()).arg(self.link.names.used_at());
        for limit in limits {
            limit.add_keys(&self.link.names, &mut command);
        }
        command.arg(&**self.link.epoch.borrow()).arg(id).arg(longest).arg(epoch::whole_milliseconds(RESERVED_FOR));
        let (asker, version) = key.map_or(("", ""), |key| (&key.record.id, &key.version));
        command.arg(asker).arg(version);
        for limit in limits {
            limit.add_arguments(&mut command);
        }
        let text: String = self.link.call(&ADMIT, &command).await?;
        let Some(reply) = AdmissionReply::parse(&text, limits) else {
            self.link.lose(&script::unreadable().to_string());
            return None;
        };
        if let (Some(key), Verdict::Go(_)) = (key, &reply.verdict) {
            self.keys.records.saw(&key.record.id, self.link.clock.own());
        }
        Some(reply)
    }

    /// Ends an admitted request, once.
    pub(super) fn end(self: &Rc<Self>, id: String, how: Settlement) {
        let Some(ticket) = self.tickets.take(&id) else { return };
        let is_told = self.link.standing.borrow_mut().end(&id, &ticket, how);
        let frees = ticket.limits.iter().any(|limit| limit.kind == Kind::Parallel);
        if !is_told || !ticket.limits.iter().any(|limit| how.matters_to(limit)) {
            if frees {
                self.tickets.freed.notify_waiters();
            }
            return;
        }
        if self.tickets.is_ending.get() {
            self.tickets.postpone((id, ticket, how));
            return;
        }
        let admissions = Rc::clone(self);
        self.tickets.under_way.set(self.tickets.under_way.get() + 1);
        tokio::task::spawn_local(async move {
            admissions.report(id, ticket, how).await;
            if frees {
                admissions.tickets.freed.notify_waiters();
            }
            admissions.tickets.under_way.set(admissions.tickets.under_way.get() - 1);
        });
    }

    async fn report(&self, id: String, ticket: Ticket, how: Settlement) {
        let reply: Option<u64> = if self.link.is_up() {
            self.link.call(&FINISH, &finish_command(&self.link, &id, &ticket, how)).await
        } else {
            None
        };
        if reply.is_none() {
            self.tickets.postpone((id, ticket, how));
        }
    }

    /// Before the gateway stops: waits until the reports on ended requests have arrived, or timed out.
    pub(super) async fn settle_all(&self) {
        self.tickets.is_ending.set(true);
        let since = Instant::now();
        while self.tickets.under_way.get() > 0 && since.elapsed() < self.link.address.timeout() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
