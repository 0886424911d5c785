//! The end of a request, once: what it used is settled, or what it was granted is released.

use std::rc::Rc;
use std::time::{Duration, Instant};

use redis::Cmd;

use super::script::{self, FINISH};
use super::tickets::Ticket;
use super::{Shared, State};
use crate::limits::together::{Ended, Kind, Unit, quota_slice, slice};

impl Shared {
    /// Ends an admitted request, once.
    pub(crate) fn end(self: &Rc<Self>, id: String, how: Ended) {
        let Some(ticket) = self.tickets.take(&id) else { return };
        self.standing.borrow_mut().ended(&id, &ticket.limits);
        let undone = ticket.limits.iter().filter(|limit| how.undoes(limit));
        self.standing.borrow_mut().given_back(undone, ticket.at, ticket.epoch.is_none());
        if self.tickets.is_ending.get() {
            self.tickets.postpone((id, ticket, how));
            return;
        }
        if self.is_settled_alone(&ticket, how) {
            return;
        }
        let shared = Rc::clone(self);
        self.tickets.under_way.set(self.tickets.under_way.get() + 1);
        tokio::task::spawn_local(async move {
            let frees = ticket.limits.iter().any(|limit| limit.kind == Kind::Parallel);
            shared.report(id, ticket, how).await;
            if frees {
                shared.tickets.freed.notify_waiters();
            }
            shared.tickets.under_way.set(shared.tickets.under_way.get() - 1);
        });
    }

    /// Whether the server need not know of it, now or later.
    fn is_settled_alone(&self, ticket: &Ticket, how: Ended) -> bool {
        if ticket.epoch.is_some() || self.state.get() == State::Up {
            return !ticket.limits.iter().any(|limit| how.matters_to(limit));
        }
        for (limit, held) in ticket.limits.iter().zip(&ticket.held) {
            if let Kind::Spend { unit, .. } = limit.kind {
                self.standing.borrow_mut().corrected(&limit.name, how.more(unit, *held));
            }
        }
        if ticket.limits.iter().any(|limit| limit.kind == Kind::Parallel) {
            self.tickets.freed.notify_waiters();
        }
        true
    }

    async fn report(&self, id: String, ticket: Ticket, how: Ended) {
        let told: Option<u64> = if self.state.get() == State::Up {
            self.call(&FINISH, &self.finishing(&id, &ticket, how)).await
        } else {
            None
        };
        if told.is_none() {
            self.tickets.postpone((id, ticket, how));
        }
    }

    /// The command that reports it.
    pub(super) fn finishing(&self, id: &str, ticket: &Ticket, how: Ended) -> Cmd {
        let matters = || ticket.limits.iter().zip(held_of(ticket)).filter(|(limit, _)| how.matters_to(limit));
        let keys = 1 + matters().map(|(limit, _)| limit.number_of_keys()).sum::<usize>();
        let mut command = script::command(&FINISH, keys);
        command.arg(self.names.of(&["ended:", id].concat()));
        for (limit, _) in matters() {
            limit.add_keys(&self.names, &mut command);
        }
        command.arg(id).arg(ticket.at);
        // If the reservation itself counts as used, only the difference is reported.
        let is_reserved = ticket.epoch.as_ref() == Some(&*self.epoch.borrow());
        for (limit, held) in matters() {
            let undo = u8::from(how.undoes(limit));
            let (kind, slice, added, used, keep) = match limit.kind {
                Kind::Window { .. } => ("window", 0, 1, 0, 0),
                Kind::Quota { window } => ("quota", quota_slice(window), 1, 0, 0),
                Kind::Tokens { window, add } => {
                    ("tokens", slice(window), add, how.more(Unit::Tokens, add) + add.cast_signed(), 0)
                }
                Kind::Day { .. } => ("day", 0, 1, 0, 0),
                Kind::Parallel => ("parallel", 0, 1, 0, 0),
                Kind::Spend { unit, add, ends, .. } => {
                    let used = how.more(unit, held) + if is_reserved { held.cast_signed() } else { 0 };
                    ("spend", 0, add, used, ends.saturating_sub(self.now()))
                }
            };
            command.arg(kind).arg(slice).arg(added).arg(undo).arg(used).arg(keep);
        }
        command
    }

    /// Before the gateway stops: waits until the reports on ended requests have arrived, or timed out.
    pub(crate) async fn settle_all(&self) {
        self.tickets.is_ending.set(true);
        let since = Instant::now();
        while self.tickets.under_way.get() > 0 && since.elapsed() < self.address.timeout() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// After the last request: sends what ended too late for that, and the usage not sent yet.
    pub(crate) async fn say_the_rest(&self) {
        self.tickets.is_ending.set(true);
        let has_rest = self.tickets.has_postponed() || self.ledger.borrow().has_news();
        if has_rest && self.state.get() == State::Up {
            let said = self.say_over_another_connection().await;
            if let Err(error) = said {
                log::warn!("the server of the shared limits does not know the last of what was used: {error:#}");
            }
        }
    }
}

/// What is reserved for each limit; a ticket of a request that was admitted without limits has none.
fn held_of(ticket: &Ticket) -> impl Iterator<Item = u64> {
    ticket.held.iter().copied().chain(std::iter::repeat(0))
}
