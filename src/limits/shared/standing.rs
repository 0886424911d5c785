//! What one gateway knows of the counters of all gateways. While the server is unreachable it decides from these alone.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::admission_reply::Admitted;
use super::counter::{Counter, plan};
use crate::limits::together::{Kind, Limit};

#[derive(Debug, Default)]
pub(super) struct Standing {
    pub(super) counters: BTreeMap<Rc<str>, Counter>,
    /// When the server was lost, and how many gateways share what was left.
    pub(super) lost: Option<(u64, u64)>,
    /// When counters that are over were removed last.
    pruned: u64,
    /// How many reports of what was admitted alone were begun.
    pub(super) reports: u64,
}

/// How often counters that are over are looked for, in milliseconds: each day and period of each key has its own.
const PRUNE: u64 = 3_600_000;

impl Standing {
    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    pub(super) fn counter(&mut self, limit: &Limit, now: u64) -> &mut Counter {
        let lost = self.lost;
        let counter = self.counters.entry(Rc::clone(&limit.name)).or_insert_with(|| Counter::new(limit, now, lost));
        (counter.limit, counter.asked, counter.kind) = (limit.most, now, limit.kind);
        counter
    }

    /// The server admitted a request at its time `now`.
    pub(super) fn admitted(&mut self, id: &str, limits: &[Limit], now: u64, admission: &Admitted) {
        for (index, limit) in limits.iter().enumerate() {
            let counter = self.counter(limit, now);
            counter.forget_old(now);
            let count = admission.counts.get(index).copied().unwrap_or_default();
            counter.learn(limit.most.saturating_sub(count.left), admission.at, now);
            match limit.kind {
                Kind::Window { .. } => {
                    (counter.first, counter.last) = (count.first, count.last);
                    plan(&mut counter.own, admission.at, 1);
                }
                Kind::Tokens { add, .. } => {
                    counter.last = admission.at;
                    plan(&mut counter.own, admission.at, add);
                }
                Kind::Parallel | Kind::Spend { .. } => drop(counter.running.insert(id.to_owned())),
                Kind::Day { .. } | Kind::Quota { .. } => {}
            }
        }
    }

    /// Whether the server has told of this counter.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.counters.contains_key(name)
    }

    /// What is used of a limit, as known here, and when the oldest request leaves its window.
    pub(super) fn used(&self, limit: &Limit, now: u64) -> (u64, u64) {
        let Some(counter) = self.counters.get(&limit.name) else { return (0, 0) };
        if let Some(window) = counter.window() {
            let own: u64 = counter.own.iter().filter(|(at, _)| at + window > now).map(|(_, amount)| amount).sum();
            let first = if self.is_lost() { counter.own.front().map_or(0, |(at, _)| *at) } else { counter.first };
            return (if self.is_lost() { own } else { counter.seen.max(own) }, (first + window).saturating_sub(now));
        }
        if limit.kind == Kind::Parallel {
            return (counter.running.len() as u64, 0);
        }
        (counter.seen(now).saturating_add_signed(counter.alone_in_all()), 0)
    }

    /// The server rejected a request: the limit is used up.
    pub(super) fn refused(&mut self, limits: &[Limit], index: usize, now: u64) {
        let Some(limit) = limits.get(index) else { return };
        if let Kind::Day { .. } | Kind::Spend { .. } | Kind::Quota { .. } = limit.kind {
            self.counter(limit, now).learn(limit.most, now, now);
        }
    }

    /// From now on this gateway decides alone, as one of `alive`.
    pub(super) fn lose(&mut self, now: u64, alive: u64) {
        let alive = alive.max(1);
        self.lost = Some((now, alive));
        for counter in self.counters.values_mut() {
            counter.lose(now, alive);
        }
    }

    /// The server decides again.
    pub(super) fn found(&mut self) {
        self.lost = None;
        for counter in self.counters.values_mut() {
            counter.is_unknown = false;
            counter.found();
        }
    }

    /// Removes counters that are over, if it is time to.
    pub(super) fn prune(&mut self, now: u64) {
        if now >= self.pruned + PRUNE {
            self.pruned = now;
            self.counters.retain(|_, counter| !counter.is_over(now));
        }
    }

    pub(super) fn count(&self, name: &str) -> Option<u64> {
        let counter = self.counters.get(name)?;
        Some(counter.seen.saturating_add_signed(counter.alone_in_all()))
    }

    /// The server's response to the report.
    pub(super) fn heard(&mut self, name: &str, used: u64) {
        if let Some(counter) = self.counters.get_mut(name) {
            counter.seen = used;
        }
    }

    /// Of a quota: numbers of slices, each followed by its count.
    pub(super) fn heard_quota(&mut self, name: &str, said: &str) {
        if let Some(counter) = self.counters.get_mut(name) {
            let mut numbers = said.split_ascii_whitespace().map(|text| text.parse().unwrap_or_default());
            counter.slices.clear();
            while let (Some(slice), Some(count)) = (numbers.next(), numbers.next()) {
                counter.slices.insert(slice, count);
            }
        }
    }

    pub(super) fn heard_window(&mut self, name: &str, count: u64, last: u64) {
        if let Some(counter) = self.counters.get_mut(name) {
            (counter.seen, counter.last) = (count, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::admission_reply::Count;
    use super::super::counter::DAY;
    use super::super::tickets::{CountedBy, Ticket};
    use super::*;
    use crate::limits::together::{Settlement, Unit};

    const HOUR: u64 = 3_600_000;

    #[test]
    fn counters_of_past_days_and_of_keys_that_are_not_used_are_removed_hourly() {
        let mut standing = Standing::default();
        let limit = |name: &str, kind| Limit { name: name.into(), most: 9, kind, quota: None };
        let now = 100 * DAY;
        let day = |number: u64| Kind::Day { begins: number * DAY, ends: (number + 1) * DAY };
        standing.counter(&limit("day-98", day(98)), now);
        standing.counter(&limit("day-99", day(99)), now);
        standing.counter(&limit("minute", Kind::Window { window: 60_000 }), now);
        standing.counter(&limit("hours", Kind::Window { window: 5 * HOUR }), now);
        standing.counter(&limit("parallel", Kind::Parallel), now).running.insert("id".into());
        let mut left = |now| {
            standing.prune(now);
            standing.counters.keys().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(left(now), ["day-98", "day-99", "hours", "minute", "parallel"]);
        assert_eq!(left(now + HOUR - 1), ["day-98", "day-99", "hours", "minute", "parallel"]);
        assert_eq!(left(now + HOUR + 1), ["day-99", "hours", "parallel"]);
        assert_eq!(left(now + 2 * HOUR), ["day-99", "hours", "parallel"], "it is not time to");
        // A window longer than an hour may still hold what was sent in it.
        assert_eq!(left(now + 5 * HOUR), ["day-99", "hours", "parallel"]);
        assert_eq!(left(now + 6 * HOUR), ["day-99", "parallel"]);
        assert_eq!(left(now + DAY + 1), ["parallel"]);
    }

    fn limit(kind: Kind) -> Limit {
        Limit { kind, most: 20, name: "x".into(), quota: None }
    }

    fn ended(standing: &mut Standing, limit: &Limit) {
        let by = CountedBy::Server("epoch".into());
        let ticket = Ticket { limits: vec![limit.clone()], at: 5200, held: Vec::new(), by };
        assert!(standing.end("id", &ticket, Settlement::AsEstimated), "the server has to know");
    }

    fn admitted(limit: &Limit, at: u64, count: Count) -> Standing {
        let mut standing = Standing::default();
        standing.admitted("id", std::slice::from_ref(limit), 5000, &Admitted { at, counts: vec![count] });
        standing
    }

    #[test]
    fn of_a_window_the_greater_of_what_all_and_this_gateway_planned_is_used_and_alone_its_own() {
        let window = limit(Kind::Window { window: 1000 });
        let mut standing = admitted(&window, 5200, Count { left: 12, last: 5200, first: 4500, held: 0 });
        assert_eq!(standing.used(&window, 5100), (8, 400));
        assert_eq!(standing.used(&window, 5600), (8, 0));
        standing.heard_window("x", 0, 5200);
        assert_eq!((standing.used(&window, 6199), standing.used(&window, 6200)), ((1, 0), (0, 0)));
        standing.heard_window("x", 8, 5200);
        standing.lose(5100, 0);
        assert_eq!(standing.lost, Some((5100, 1)));
        assert_eq!((standing.used(&window, 5100), standing.used(&window, 6200)), ((1, 1100), (0, 0)));
        assert_eq!(standing.used(&Limit { name: "y".into(), ..window }, 5100), (0, 0));
    }

    #[test]
    fn tokens_in_flight_days_and_what_is_spent_are_used_as_the_server_said_and_as_counted_here() {
        let tokens = limit(Kind::Tokens { window: 1000, add: 7 });
        let standing = admitted(&tokens, 5200, Count { left: 20, ..Count::default() });
        assert_eq!((standing.used(&tokens, 5100).0, standing.counters["x"].last), (7, 5200));
        let parallel = limit(Kind::Parallel);
        let mut standing = admitted(&parallel, 5200, Count::default());
        assert_eq!(standing.used(&parallel, 5100), (1, 0));
        ended(&mut standing, &parallel);
        assert_eq!(standing.used(&parallel, 5100), (0, 0));
        let spend = limit(Kind::Spend { unit: Unit::Tokens, add: 7, begins: 0, ends: 9000 });
        for limit in [limit(Kind::Day { begins: 0, ends: 9000 }), spend, limit(Kind::Quota { window: 12_800 })] {
            let mut standing = admitted(&limit, 5200, Count { left: 12, ..Count::default() });
            assert_eq!(standing.used(&limit, 5200), (8, 0), "{limit:?}");
            standing.counter(&limit, 5200).unreported.sum = 3;
            assert_eq!(standing.used(&limit, 5200), (11, 0), "{limit:?}");
            // The server refuses: all of it is used.
            standing.refused(std::slice::from_ref(&limit), 0, 5200);
            assert_eq!(standing.used(&limit, 5200), (23, 0), "{limit:?}");
            ended(&mut standing, &limit);
            assert!(standing.counters["x"].running.is_empty());
        }
        // Of a window or of what is in flight a refusal says nothing.
        let mut standing = admitted(&parallel, 5200, Count::default());
        standing.refused(std::slice::from_ref(&parallel), 0, 5200);
        assert_eq!(standing.used(&parallel, 5200), (1, 0));
    }

    #[test]
    fn what_a_beat_says_is_kept_for_the_counters_that_are_known() {
        let day = limit(Kind::Day { begins: 0, ends: 9000 });
        let mut standing = admitted(&day, 5200, Count { left: 12, ..Count::default() });
        standing.heard("x", 9);
        standing.heard("y", 9);
        assert_eq!((standing.count("x"), standing.count("y")), (Some(9), None));
        standing.counter(&day, 5200).unreported.sum = -2;
        assert_eq!(standing.count("x"), Some(7));
        let quota = limit(Kind::Quota { window: 12_800 });
        let mut standing = admitted(&quota, 5200, Count { left: 12, ..Count::default() });
        standing.heard_quota("x", "51 4 52 5");
        assert_eq!(standing.used(&quota, 5300), (9, 0));
        standing.lose(5300, 3);
        assert!(standing.is_lost());
        standing.counter(&quota, 5300).is_unknown = true;
        standing.found();
        assert!(!standing.is_lost() && !standing.counters["x"].is_unknown);
    }
}
