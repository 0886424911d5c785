//! The decision on one request, by the server or alone while it is unreachable, and the end of the request.

use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::ask::{ADMIT, FINISH, Kind, Limit, Told, Unit, Verdict};
use super::standing::{Alone, amount};
use super::{HOLD, Health, OnLoss, Shared, State, milliseconds};
use crate::keys::KeyRecord;

/// Maximum number of settled requests that wait for the server. The oldest ones are dropped: their reservations
/// expire.
const MOST_PENDING: usize = 10_000;

/// The decision on a request.
#[derive(Debug)]
pub(crate) enum Decision {
    /// It may be sent after `wait`.
    Go { wait: Duration, ticket: String },
    /// The limit of this index rejects it, for this long.
    Refused { limit: usize, wait: Duration },
    /// The record of the key has changed; without a record, there is no such key.
    Changed(Option<Rc<KeyRecord>>),
    /// The server is unreachable, and no decision is possible without it.
    Unavailable,
}

/// The key of a request.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    pub(crate) id: String,
    /// From its record, as known here.
    pub(crate) version: String,
}

/// A request that was admitted and is in flight.
pub(super) struct Ticket {
    limits: Vec<Limit>,
    at: u64,
    held: Vec<u64>,
    /// The epoch it was counted in; `None`: it was admitted alone.
    epoch: Option<String>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ended {
    /// It was never sent.
    GivenBack,
    /// Its account did not serve it, and another account does under the same key: the key's slot is released.
    Moved,
    Used {
        tokens: u64,
        cost: u64,
    },
    /// It used exactly what was reserved.
    AsEstimated,
}

impl Ended {
    /// Whether nothing of it counts for `limit` any more.
    fn undoes(self, limit: &Limit) -> bool {
        match self {
            Self::GivenBack => true,
            Self::Moved => limit.is_of_key(),
            Self::Used { .. } | Self::AsEstimated => false,
        }
    }
}

impl Shared {
    /// Decides one request in a task of its own: if the caller leaves in the meantime, what was granted is released.
    ///
    /// `limits`: those at a time by the server's clock. `key`: the id of a key and the known version of its record.
    pub(crate) async fn admit(
        self: &Rc<Self>,
        key: Option<Asker>,
        limits: impl Fn(u64) -> Vec<Limit> + 'static,
        longest: Duration,
    ) -> Decision {
        let (reply, answer) = oneshot::channel();
        let shared = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let decision = shared.decide(key.as_ref(), &limits, milliseconds(longest)).await;
            if let Err(Decision::Go { ticket, .. }) = reply.send(decision) {
                shared.end(ticket, Ended::GivenBack);
            }
        });
        answer.await.unwrap_or(Decision::Unavailable)
    }

    async fn decide(&self, key: Option<&Asker>, limits: &impl Fn(u64) -> Vec<Limit>, longest: u64) -> Decision {
        let id = self.new_id();
        let mut at = self.now();
        let mut checks_record = true;
        // Each retry has another reason: the first corrects the clock, the second the wait, when the period was not
        // the current one.
        for _ in 0..4 {
            if self.state.get() != State::Up {
                break;
            }
            let limits = limits(at);
            let key = key.filter(|_| checks_record);
            let Some(told) = self.ask(&id, key, &limits, longest).await else { break };
            self.set_clock(told.now);
            match told.kind {
                Verdict::Go => return self.grant(id, limits, &told),
                Verdict::Refused => {
                    let index = told.limit.saturating_sub(1);
                    self.standing.borrow_mut().refused(&limits, index, told.now);
                    return Decision::Refused { limit: index, wait: Duration::from_millis(told.wait) };
                }
                Verdict::Period => at = told.at,
                Verdict::Record => {
                    let Some(key) = key else { return Decision::Unavailable };
                    return match self.remember(&key.id, &told.version, &told.record) {
                        Some(record) => Decision::Changed(Some(record)),
                        None => Decision::Unavailable,
                    };
                }
                Verdict::Unknown if told.complete => {
                    if let Some(key) = key {
                        self.records.borrow_mut().remove(&key.id);
                    }
                    return Decision::Changed(None);
                }
                // The records are being sent to a server that was emptied.
                Verdict::Unknown => {
                    if !key.is_none_or(|key| self.is_trusted(&key.id)) {
                        return Decision::Unavailable;
                    }
                    checks_record = false;
                }
                Verdict::Epoch => self.lose("it was emptied, or is another server"),
            }
        }
        self.decide_alone(id, key, &limits(self.now()), longest)
    }

    fn decide_alone(&self, id: String, key: Option<&Asker>, limits: &[Limit], longest: u64) -> Decision {
        if self.health() != Health::Degraded || !key.is_none_or(|key| self.is_trusted(&key.id)) {
            return Decision::Unavailable;
        }
        let now = self.now();
        if self.on_loss == OnLoss::Open {
            let ticket = Ticket { limits: Vec::new(), at: now, held: Vec::new(), epoch: None };
            self.tickets.borrow_mut().insert(id.clone(), ticket);
            return Decision::Go { wait: Duration::ZERO, ticket: id };
        }
        let mut held = Vec::new();
        match self.standing.borrow_mut().decide(&id, limits, now, longest, &mut held) {
            Alone::Go { at } => {
                let ticket = Ticket { limits: limits.to_vec(), at, held, epoch: None };
                self.tickets.borrow_mut().insert(id.clone(), ticket);
                Decision::Go { wait: Duration::from_millis(at - now), ticket: id }
            }
            Alone::Wait { limit, wait } => Decision::Refused { limit, wait: Duration::from_millis(wait) },
            Alone::Over => Decision::Unavailable,
        }
    }

    fn grant(&self, id: String, limits: Vec<Limit>, told: &Told) -> Decision {
        self.standing.borrow_mut().admitted(&id, &limits, told);
        let epoch = Some(self.epoch.borrow().clone());
        let ticket = Ticket { limits, at: told.at, held: told.held.clone(), epoch };
        self.tickets.borrow_mut().insert(id.clone(), ticket);
        Decision::Go { wait: Duration::from_millis(told.at.saturating_sub(told.now)), ticket: id }
    }

    async fn ask(&self, id: &str, key: Option<&Asker>, limits: &[Limit], longest: u64) -> Option<Told> {
        let mut keys = vec![self.names.epoch(), self.names.records(), self.names.used_at()];
        let asked: Vec<_> = limits.iter().map(|limit| limit.json(&self.names, &mut keys)).collect();
        let mut said = json!({
            "epoch": *self.epoch.borrow(),
            "id": id,
            "wait": longest,
            "hold": milliseconds(HOLD),
            "limits": asked,
        });
        if let Some(Asker { id, version }) = key {
            said["key"] = id.as_str().into();
            said["record"] = version.as_str().into();
        }
        let told: Option<Told> = self.run(&ADMIT, &keys, &said).await;
        if let Some(key) = key.filter(|_| told.as_ref().is_some_and(|told| told.kind == Verdict::Go)) {
            self.saw_record(&key.id);
        }
        told
    }

    fn new_id(&self) -> String {
        let number = self.next.replace(self.next.get() + 1);
        format!("{}-{number}", &self.instance[..12])
    }

    /// Ends an admitted request, once.
    pub(crate) fn end(self: &Rc<Self>, ticket: String, how: Ended) {
        let Some(found) = self.tickets.borrow_mut().remove(&ticket) else { return };
        self.standing.borrow_mut().ended(&ticket, &found.limits);
        let undone: Vec<Limit> = found.limits.iter().filter(|limit| how.undoes(limit)).cloned().collect();
        self.standing.borrow_mut().given_back(&undone, found.at, found.epoch.is_none());
        if self.is_ending.get() {
            self.pending.borrow_mut().push((ticket, found, how));
            return;
        }
        let shared = Rc::clone(self);
        self.ending.set(self.ending.get() + 1);
        tokio::task::spawn_local(async move {
            let frees = found.limits.iter().any(|limit| limit.kind == Kind::Parallel);
            shared.finish(ticket, found, how).await;
            if frees {
                shared.freed.notify_waiters();
            }
            shared.ending.set(shared.ending.get() - 1);
        });
    }

    /// Before the gateway stops: waits until the reports on ended requests have arrived, or timed out.
    pub(crate) async fn settle_all(&self) {
        self.is_ending.set(true);
        let since = Instant::now();
        while self.ending.get() > 0 && since.elapsed() < self.address.timeout() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// After the last request: sends what ended too late for that, and the usage not sent yet.
    pub(crate) async fn say_the_rest(&self) {
        self.is_ending.set(true);
        let has_rest = !self.pending.borrow().is_empty() || self.ledger.borrow().has_news();
        if has_rest && self.state.get() == State::Up {
            let said = self.say_over_another_connection().await;
            if let Err(error) = said {
                log::warn!("the server of the shared limits does not know the last of what was used: {error:#}");
            }
        }
    }

    async fn finish(&self, id: String, ticket: Ticket, how: Ended) {
        if ticket.epoch.is_none() && self.state.get() != State::Up {
            self.finish_alone(&ticket, how);
            return;
        }
        let matters = |limit: &Limit| {
            how.undoes(limit) || matches!(limit.kind, Kind::Tokens { .. } | Kind::Parallel | Kind::Spend { .. })
        };
        if !ticket.limits.iter().any(matters) {
            return;
        }
        let (keys, said) = self.finished(&id, &ticket, how);
        let told: Option<u64> =
            if self.state.get() == State::Up { self.run(&FINISH, &keys, &said).await } else { None };
        let mut pending = self.pending.borrow_mut();
        if told.is_none() && pending.len() < MOST_PENDING {
            pending.push((id, ticket, how));
        }
    }

    fn finish_alone(&self, ticket: &Ticket, how: Ended) {
        for (limit, held) in ticket.limits.iter().zip(&ticket.held) {
            if let Kind::Spend { unit, .. } = limit.kind {
                self.standing.borrow_mut().corrected(&limit.name, more(unit, *held, how));
            }
        }
    }

    pub(super) fn finished(&self, id: &str, ticket: &Ticket, how: Ended) -> (Vec<String>, Value) {
        let mut keys = vec![self.names.of(&format!("ended:{id}"))];
        // If the reservation itself counts as used, only the difference is reported.
        let is_reserved = ticket.epoch.as_ref() == Some(&*self.epoch.borrow());
        let said: Vec<_> = ticket
            .limits
            .iter()
            .enumerate()
            .map(|(index, limit)| {
                let mut said = limit.json(&self.names, &mut keys);
                let held = ticket.held.get(index).copied().unwrap_or_default();
                let used = match limit.kind {
                    Kind::Spend { unit, .. } if is_reserved => more(unit, held, how) + held.cast_signed(),
                    Kind::Spend { unit, .. } => more(unit, held, how),
                    Kind::Tokens { add, .. } => more(Unit::Tokens, add, how) + add.cast_signed(),
                    _ => 0,
                };
                said.insert("used".to_owned(), used.into());
                said.insert("undo".to_owned(), how.undoes(limit).into());
                if let Kind::Spend { ends, .. } = limit.kind {
                    said.insert("keep".to_owned(), ends.saturating_sub(self.now()).into());
                }
                said
            })
            .collect();
        (keys, json!({ "id": id, "at": ticket.at, "limits": said }))
    }
}

/// How much more than its reservation a request used.
fn more(unit: Unit, held: u64, how: Ended) -> i64 {
    let used = match how {
        Ended::GivenBack | Ended::Moved => 0,
        Ended::AsEstimated => held,
        Ended::Used { tokens, cost } => amount(unit, tokens, cost),
    };
    used.cast_signed().saturating_sub(held.cast_signed())
}
