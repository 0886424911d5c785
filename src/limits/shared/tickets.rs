//! The requests that were admitted: in flight, and ended without the server knowing it yet.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::limits::together::{Kind, Limit, Settlement, Unit, amount};

/// Maximum number of settled requests that wait for the server. What comes later is lost: its reservations expire.
const MOST_PENDING: usize = 10_000;

/// A request that was admitted.
pub(super) struct Ticket {
    pub(super) limits: Vec<Limit>,
    /// When it is sent.
    pub(super) at: u64,
    /// What is reserved for each limit.
    pub(super) held: Vec<u64>,
    pub(super) by: CountedBy,
}

/// Who admitted a request.
pub(super) enum CountedBy {
    /// The server, in this epoch.
    Server(Rc<str>),
    /// This gateway alone, after so many reports to the server: the next one tells of it.
    Gateway(u64),
}

impl Ticket {
    /// What is reserved for each limit; a request that was admitted without limits has none.
    pub(super) fn held(&self) -> impl Iterator<Item = (&Limit, u64)> {
        self.limits.iter().zip(self.held.iter().copied().chain(std::iter::repeat(0)))
    }
}

impl Settlement {
    /// Whether nothing of it counts for `limit` any more.
    pub(super) fn undoes(self, limit: &Limit) -> bool {
        match self {
            Self::GivenBack => true,
            Self::Moved => limit.is_of_key(),
            Self::Used { .. } | Self::AsEstimated => false,
        }
    }

    /// Whether the server has to know of it for `limit`.
    pub(super) fn matters_to(self, limit: &Limit) -> bool {
        self.undoes(limit) || matches!(limit.kind, Kind::Tokens { .. } | Kind::Parallel | Kind::Spend { .. })
    }

    /// How much more a request used than was reserved for it.
    pub(super) fn more(self, unit: Unit, held: u64) -> i64 {
        let used = match self {
            Self::GivenBack | Self::Moved => 0,
            Self::AsEstimated => held,
            Self::Used { tokens, cost } => amount(unit, tokens, cost),
        };
        used.cast_signed().saturating_sub(held.cast_signed())
    }
}

/// A request that ended, until the server knows.
pub(super) type Report = (String, Ticket, Settlement);

#[derive(Default)]
pub(super) struct Tickets {
    next: Cell<u64>,
    in_flight: RefCell<BTreeMap<String, Ticket>>,
    pending: RefCell<Vec<Report>>,
    /// How many reports were lost since [`Tickets::say_lost`].
    lost: Cell<u64>,
    /// How many reports are under way.
    pub(super) under_way: Cell<usize>,
    /// The gateway is stopping: nothing more is reported until its last request has ended.
    pub(super) is_ending: Cell<bool>,
    /// A request of a key has ended: another one may be sent.
    pub(super) freed: Notify,
}

impl Tickets {
    /// An id that no other request has, of this gateway or of another one.
    pub(super) fn new_id(&self, instance: &str) -> String {
        let number = self.next.replace(self.next.get() + 1);
        format!("{}-{number}", &instance[..12])
    }

    pub(super) fn begin(&self, id: &str, ticket: Ticket) {
        self.in_flight.borrow_mut().insert(id.to_owned(), ticket);
    }

    /// The ticket of a request that ends; `None`: it has ended before.
    pub(super) fn take(&self, id: &str) -> Option<Ticket> {
        self.in_flight.borrow_mut().remove(id)
    }

    /// Keeps a report until the server can be reached.
    pub(super) fn postpone(&self, report: Report) {
        let mut pending = self.pending.borrow_mut();
        if pending.len() < MOST_PENDING {
            pending.push(report);
        } else {
            self.lost.set(self.lost.get() + 1);
        }
    }

    /// Once the others have arrived: what the server does not know, and budgets do not count.
    pub(super) fn say_lost(&self) {
        let lost = self.lost.take();
        if lost > 0 {
            log::warn!(
                "the server of the shared limits does not know what {lost} requests used: more than {MOST_PENDING} ended while it was \
                 away"
            );
        }
    }

    pub(super) fn next_postponed(&self) -> Option<Report> {
        self.pending.borrow_mut().pop()
    }

    pub(super) fn has_postponed(&self) -> bool {
        !self.pending.borrow().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket { limits: Vec::new(), at: 0, held: Vec::new(), by: CountedBy::Gateway(0) }
    }

    #[test]
    fn ids_differ_and_a_request_ends_once() {
        let tickets = Tickets::default();
        let [one, two] = [(); 2].map(|()| tickets.new_id("0123456789abcdef"));
        assert_eq!((one.as_str(), two.as_str()), ("0123456789ab-0", "0123456789ab-1"));
        tickets.begin(&one, ticket());
        assert!(tickets.take(&two).is_none() && tickets.take(&one).is_some() && tickets.take(&one).is_none());
    }

    #[test]
    fn no_more_reports_wait_than_ten_thousand() {
        let tickets = Tickets::default();
        assert!(!tickets.has_postponed() && tickets.next_postponed().is_none());
        for number in 0..MOST_PENDING + 3 {
            tickets.postpone((number.to_string(), ticket(), Settlement::AsEstimated));
        }
        assert!(tickets.has_postponed());
        assert_eq!(std::iter::from_fn(|| tickets.next_postponed()).count(), MOST_PENDING);
        assert!(!tickets.has_postponed());
        assert_eq!(tickets.lost.get(), 3);
        tickets.say_lost();
        assert_eq!(tickets.lost.get(), 0, "it is said once");
    }

    #[test]
    fn how_a_request_ended_decides_what_counts() {
        let spend = Kind::Spend { unit: Unit::Tokens, add: 9, begins: 0, ends: 9 };
        let of = |kind| (Limit::of_key("ann", "x", kind, 9), Limit { kind, most: 9, name: "x".into(), quota: None });
        let used = Settlement::Used { tokens: 3, cost: 40 };
        for (ended, undoes_of_key, undoes_of_account) in [
            (Settlement::GivenBack, true, true),
            (Settlement::Moved, true, false),
            (used, false, false),
            (Settlement::AsEstimated, false, false),
        ] {
            for (kind, always) in [
                (Kind::Window { window: 9 }, false),
                (Kind::Quota { window: 9 }, false),
                (Kind::Day { begins: 0, ends: 9 }, false),
                (Kind::Tokens { window: 9, add: 9 }, true),
                (Kind::Parallel, true),
                (spend, true),
            ] {
                let (of_key, of_account) = of(kind);
                assert_eq!((ended.undoes(&of_key), ended.undoes(&of_account)), (undoes_of_key, undoes_of_account));
                let matters = (ended.matters_to(&of_key), ended.matters_to(&of_account));
                assert_eq!(matters, (undoes_of_key || always, undoes_of_account || always), "{ended:?} {kind:?}");
            }
        }
        let more = |ended: Settlement| (ended.more(Unit::Tokens, 10), ended.more(Unit::Nanodollars, 10));
        assert_eq!(more(Settlement::GivenBack), (-10, -10));
        assert_eq!(more(Settlement::Moved), (-10, -10));
        assert_eq!(more(Settlement::AsEstimated), (0, 0));
        assert_eq!(more(used), (-7, 30));
    }
}
