//! One counter as one gateway knows it: the total of all gateways as last seen, and its own part.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::limits::together::{Kind, Limit, UNLIMITED, quota_slice};

/// Counters are kept this long after their period, in milliseconds.
pub(super) const DAY: u64 = 86_400_000;

/// A counter that no request used for this long is removed, unless its period is still running.
pub(super) const IDLE: u64 = 3_600_000;

/// Times are milliseconds by the server's clock.
#[derive(Debug)]
pub(super) struct Counter {
    pub(super) kind: Kind,
    pub(super) limit: u64,
    /// Of all gateways: planned requests of a window, requests of a day, money or tokens spent and reserved.
    pub(super) seen: u64,
    /// The same of a quota, by slice of its window.
    pub(super) slices: BTreeMap<u64, u64>,
    /// Whether others may have counted what was never seen here: then nothing of the rest is this gateway's.
    pub(super) is_unknown: bool,
    /// The earliest time that still counts in a window, and the latest one planned.
    pub(super) first: u64,
    pub(super) last: u64,
    /// When this gateway's own requests are sent, and their tokens.
    pub(super) own: VecDeque<(u64, u64)>,
    /// What it admitted alone: not yet reported to the server, being reported, and reported since the loss.
    pub(super) unreported: Part,
    pub(super) reporting: Part,
    pub(super) reported: Part,
    /// How much more was used than was reported, by requests that ended since: reported when it decides again.
    pub(super) ended: Part,
    /// In flight.
    pub(super) running: BTreeSet<String>,
    /// While the server is unreachable: until then only `allowance` more are sent.
    pub(super) shared_from: u64,
    pub(super) allowance: u64,
    pub(super) asked: u64,
}

/// What one gateway counted alone.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Of a window or a quota: when requests are sent, and how much each counts.
    pub(super) times: VecDeque<(u64, u64)>,
    /// Requests of a day or a quota, or what is spent.
    pub(super) sum: i64,
}

impl Part {
    /// Moves all of another part to this one.
    pub(super) fn take(&mut self, other: &mut Self) {
        self.times.extend(other.times.drain(..));
        self.sum += std::mem::take(&mut other.sum);
    }
}

impl Counter {
    pub(super) fn new(limit: &Limit, now: u64, lost: Option<(u64, u64)>) -> Self {
        let mut counter = Self {
            kind: limit.kind,
            limit: limit.most,
            seen: 0,
            slices: BTreeMap::new(),
            is_unknown: false,
            first: 0,
            last: 0,
            own: VecDeque::new(),
            unreported: Part::default(),
            reporting: Part::default(),
            reported: Part::default(),
            ended: Part::default(),
            running: BTreeSet::new(),
            shared_from: 0,
            allowance: 0,
            asked: now,
        };
        // Of what was never asked about nothing is known, unless it began after the loss.
        if let Some((at, _)) = lost {
            if let Some(window) = counter.window() {
                counter.shared_from = at + 2 * window;
            }
            counter.is_unknown = match limit.kind {
                Kind::Day { begins, .. } | Kind::Spend { begins, .. } => begins <= at,
                Kind::Quota { .. } | Kind::Window { .. } | Kind::Tokens { .. } => true,
                Kind::Parallel => false,
            };
        }
        counter
    }

    /// What all gateways counted, as far as it is known.
    pub(super) fn seen(&self, now: u64) -> u64 {
        match self.kind {
            Kind::Quota { window } => {
                let slice = quota_slice(window);
                let counts = |number: &u64| (number + 1) * slice + window > now;
                self.slices.iter().filter(|(number, _)| counts(number)).map(|(_, count)| count).sum()
            }
            _ => self.seen,
        }
    }

    /// All gateways together have counted `used`, the last of it at `at`.
    pub(super) fn learn(&mut self, used: u64, at: u64, now: u64) {
        self.is_unknown = false;
        match self.kind {
            Kind::Quota { window } => {
                let more = used.saturating_sub(self.seen(now));
                *self.slices.entry(at / quota_slice(window)).or_default() += more;
            }
            _ => self.seen = used,
        }
    }

    pub(super) fn window(&self) -> Option<u64> {
        match self.kind {
            Kind::Window { window } | Kind::Tokens { window, .. } => Some(window),
            _ => None,
        }
    }

    pub(super) fn lose(&mut self, now: u64, alive: u64) {
        let Some(window) = self.window() else {
            self.is_unknown |= !self.is_followed(now);
            return;
        };
        let is_queued = self.last > now;
        let left = self.limit.saturating_sub(self.seen);
        (self.shared_from, self.allowance) = if is_queued || left == 0 {
            // Other gateways may have planned more than this gateway saw, at most one window of it.
            (self.last.max(now) + window + if is_queued { window } else { 0 }, 0)
        } else {
            (now + window, left / alive)
        };
    }

    /// Whether others may have planned all of a window, and it has not passed yet.
    pub(super) fn may_be_full(&self, now: u64) -> bool {
        self.is_unknown && now < self.shared_from
    }

    pub(super) fn share(&self, alive: u64) -> u64 {
        (self.limit / alive).max(1)
    }

    /// The first time from `at` on at which this gateway's share of the window has room for `add`.
    pub(super) fn room(&self, at: u64, add: u64, alive: u64) -> u64 {
        let Some(window) = self.window() else { return at };
        let mut at = at;
        if at < self.shared_from && self.allowance < add {
            at = self.shared_from;
        }
        let share = self.share(alive);
        let mut sum: u64 = self.own.iter().map(|(_, amount)| amount).sum();
        for (begins, amount) in &self.own {
            if begins + window > at && sum > 0 && sum + add > share {
                at = begins + window;
            }
            if begins + window <= at {
                sum -= amount;
            }
        }
        at
    }

    /// Counts a request that this gateway admits alone, sent at `at`.
    pub(super) fn admit_alone(&mut self, id: &str, at: u64, reserved: u64) {
        match self.kind {
            Kind::Window { .. } => self.plan_alone(at, 1),
            Kind::Tokens { add, .. } => self.plan_alone(at, add),
            Kind::Parallel => drop(self.running.insert(id.to_owned())),
            Kind::Day { .. } => self.unreported.sum += 1,
            Kind::Quota { .. } => {
                self.unreported.times.push_back((at, 1));
                self.unreported.sum += 1;
            }
            Kind::Spend { .. } => {
                self.running.insert(id.to_owned());
                self.unreported.sum += i64::try_from(reserved).unwrap_or(i64::MAX);
            }
        }
    }

    fn plan_alone(&mut self, at: u64, amount: u64) {
        plan(&mut self.own, at, amount);
        self.unreported.times.push_back((at, amount));
        if at < self.shared_from {
            self.allowance = self.allowance.saturating_sub(amount);
        }
    }

    pub(super) fn forget_old(&mut self, now: u64) {
        if let Some(window) = self.window() {
            for times in [&mut self.own, &mut self.unreported.times, &mut self.reported.times] {
                while times.front().is_some_and(|(at, _)| at + window <= now) {
                    times.pop_front();
                }
            }
        }
    }

    /// What it admitted alone, whether or not it was reported to the server.
    pub(super) fn alone_in_all(&self) -> i64 {
        self.unreported.sum + self.reporting.sum + self.reported.sum + self.ended.sum
    }

    /// The server decides again: what was reported is a part of what all gateways counted.
    pub(super) fn found(&mut self) {
        let (reported, ended) = (std::mem::take(&mut self.reported), std::mem::take(&mut self.ended));
        match self.kind {
            Kind::Quota { window } => {
                let slice = quota_slice(window);
                reported.times.iter().for_each(|(at, count)| *self.slices.entry(at / slice).or_default() += count);
                for (at, count) in ended.times {
                    self.slices.entry(at / slice).and_modify(|known| *known = known.saturating_sub(count));
                }
            }
            Kind::Day { .. } | Kind::Spend { .. } => {
                self.seen = self.seen.saturating_add_signed(reported.sum + ended.sum);
            }
            _ => {}
        }
    }

    /// What of the period's rest is this gateway's.
    pub(super) fn share_of_rest(&self, now: u64, alive: u64) -> u64 {
        if self.is_unknown && self.limit < UNLIMITED {
            return 0;
        }
        self.limit.saturating_sub(self.seen(now)) / alive
    }

    /// Whether beats ask about it.
    pub(super) fn is_followed(&self, now: u64) -> bool {
        matches!(self.kind, Kind::Quota { .. }) || now <= self.asked + IDLE || !self.running.is_empty()
    }

    pub(super) fn is_over(&self, now: u64) -> bool {
        match self.kind {
            Kind::Day { ends, .. } | Kind::Spend { ends, .. } => now > ends + DAY,
            Kind::Quota { window } => now > self.asked + window,
            _ => now > self.asked + self.window().unwrap_or_default().max(IDLE) && self.running.is_empty(),
        }
    }
}

/// Adds a time and its amount, in order.
pub(super) fn plan(times: &mut VecDeque<(u64, u64)>, at: u64, amount: u64) {
    let index = times.iter().rposition(|(time, _)| *time <= at).map_or(0, |index| index + 1);
    times.insert(index, (at, amount));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::together::Unit;

    const WINDOW: Kind = Kind::Window { window: 1000 };
    const QUOTA: Kind = Kind::Quota { window: 12_800 };

    fn day(begins: u64) -> Kind {
        Kind::Day { begins, ends: begins + 1000 }
    }

    fn spend(begins: u64) -> Kind {
        Kind::Spend { unit: Unit::Tokens, add: 50, begins, ends: begins + 1000 }
    }

    fn counter(kind: Kind, most: u64, lost: Option<(u64, u64)>) -> Counter {
        Counter::new(&Limit { kind, most, name: "x".into(), quota: None }, 100, lost)
    }

    #[test]
    fn of_what_is_first_asked_about_after_a_loss_others_may_have_used_all() {
        for (kind, shared_from, is_unknown) in [
            (WINDOW, 2100, true),
            (Kind::Tokens { window: 500, add: 1 }, 1100, true),
            (Kind::Parallel, 0, false),
            (QUOTA, 0, true),
            (day(99), 0, true),
            (day(100), 0, true),
            (day(101), 0, false),
            (spend(100), 0, true),
            (spend(101), 0, false),
        ] {
            let of_a_loss = counter(kind, 20, Some((100, 2)));
            assert_eq!((of_a_loss.shared_from, of_a_loss.is_unknown), (shared_from, is_unknown), "{kind:?}");
            let before = counter(kind, 20, None);
            assert_eq!((before.shared_from, before.is_unknown, before.asked), (0, false, 100), "{kind:?}");
        }
    }

    #[test]
    fn a_slice_of_a_quota_counts_until_its_last_request_has_left_the_window() {
        let mut counter = counter(QUOTA, 20, None);
        counter.is_unknown = true;
        counter.learn(3, 599, 599);
        assert!(!counter.is_unknown);
        counter.learn(7, 700, 700);
        counter.learn(6, 900, 900);
        assert_eq!(counter.slices, BTreeMap::from([(5, 3), (7, 4), (9, 0)]));
        assert_eq!([0, 13_399, 13_400, 13_599, 13_600].map(|now| counter.seen(now)), [7, 7, 4, 4, 0]);
        // Of all others the last number counts.
        let mut counter = self::counter(day(0), 20, None);
        counter.learn(7, 0, 0);
        counter.learn(6, 0, 0);
        assert_eq!(counter.seen(0), 6);
    }

    #[test]
    fn what_a_gateway_may_send_of_a_window_at_a_loss_depends_on_what_others_may_have_planned() {
        for (seen, last, shared_from, allowance) in [
            (12, 5000, 6100, 2),
            (12, 5100, 6100, 2),
            (20, 5000, 6100, 0),
            (12, 9000, 11_000, 0),
            (20, 9000, 11_000, 0),
        ] {
            let mut counter = counter(WINDOW, 20, None);
            (counter.seen, counter.last) = (seen, last);
            counter.lose(5100, 4);
            assert_eq!((counter.shared_from, counter.allowance), (shared_from, allowance), "{seen} {last}");
        }
        for (was_unknown, now, is_unknown) in
            [(false, 100 + IDLE, false), (false, 101 + IDLE, true), (true, 100, true), (true, 101 + IDLE, true)]
        {
            let mut counter = counter(day(0), 20, None);
            counter.is_unknown = was_unknown;
            counter.lose(now, 4);
            assert_eq!((counter.is_unknown, counter.shared_from), (is_unknown, 0), "{was_unknown} {now}");
        }
    }

    #[test]
    fn a_share_of_a_window_has_room_when_enough_of_it_has_left() {
        let mut counter = counter(WINDOW, 4, None);
        assert_eq!((counter.share(2), counter.share(3), counter.share(9)), (2, 1, 1));
        counter.own.extend([(0, 1), (100, 1), (200, 1)]);
        assert_eq!((counter.room(150, 1, 2), counter.room(150, 1, 1), counter.room(150, 2, 1)), (1100, 150, 1000));
        assert_eq!((counter.room(1100, 1, 2), counter.room(1200, 2, 2), counter.room(9000, 1, 2)), (1100, 1200, 9000));
        // Until others have sent what they may have planned, no more than the allowance is sent.
        (counter.shared_from, counter.allowance) = (5000, 1);
        assert_eq!((counter.room(4000, 1, 2), counter.room(4000, 2, 2), counter.room(6000, 2, 2)), (4000, 5000, 6000));
        // One request alone always fits.
        let mut tokens = self::counter(Kind::Tokens { window: 1000, add: 1 }, 100, None);
        assert_eq!(tokens.room(0, 200, 1), 0);
        tokens.own.extend([(0, 60), (10, 0)]);
        assert_eq!((tokens.room(0, 40, 1), tokens.room(0, 41, 1), tokens.room(0, 200, 1)), (0, 1000, 1000));
        assert_eq!(self::counter(Kind::Parallel, 1, None).room(7, 9, 1), 7);
    }

    #[test]
    fn what_is_admitted_alone_is_counted_by_its_kind() {
        let admitted = |kind| {
            let mut counter = counter(kind, 20, None);
            (counter.shared_from, counter.allowance) = (50, 10);
            counter.admit_alone("id", 49, 7);
            counter.admit_alone("id", 50, 7);
            counter
        };
        for (kind, own, allowance) in [(WINDOW, 1, 9), (Kind::Tokens { window: 1000, add: 3 }, 3, 7)] {
            let counter = admitted(kind);
            assert_eq!(counter.own, [(49, own), (50, own)]);
            assert_eq!(counter.unreported.times, counter.own);
            assert_eq!((counter.unreported.sum, counter.allowance), (0, allowance), "{kind:?}");
            assert!(counter.running.is_empty());
        }
        for (kind, alone, sum, running) in
            [(Kind::Parallel, 0, 0, 1), (day(0), 0, 2, 0), (QUOTA, 2, 2, 0), (spend(0), 0, 14, 1)]
        {
            let mut counter = admitted(kind);
            let found =
                (counter.unreported.times.len(), counter.unreported.sum, counter.running.len(), counter.own.len());
            assert_eq!(found, (alone, sum, running, 0), "{kind:?}");
            (counter.reporting.sum, counter.reported.sum, counter.ended.sum) = (100, 1000, -7);
            assert_eq!(counter.alone_in_all(), sum + 1093);
        }
    }

    #[test]
    fn times_are_planned_in_order_and_forgotten_when_they_have_left_the_window() {
        let mut counter = counter(WINDOW, 20, None);
        for (at, amount) in [(20, 1), (10, 2), (20, 3), (5, 4), (30, 5)] {
            plan(&mut counter.own, at, amount);
        }
        assert_eq!(counter.own, [(5, 4), (10, 2), (20, 1), (20, 3), (30, 5)]);
        (counter.unreported.times, counter.reported.times) = (counter.own.clone(), counter.own.clone());
        counter.forget_old(1004);
        assert_eq!([&counter.own, &counter.unreported.times, &counter.reported.times].map(VecDeque::len), [5; 3]);
        counter.forget_old(1010);
        assert_eq!(counter.own, [(20, 1), (20, 3), (30, 5)]);
        assert_eq!([&counter.unreported.times, &counter.reported.times], [&counter.own; 2]);
        assert_eq!((counter.window(), self::counter(QUOTA, 1, None).window()), (Some(1000), None));
    }

    #[test]
    fn of_the_rest_each_has_its_part_and_nothing_of_what_is_unknown() {
        let mut known = counter(day(0), 100, None);
        known.seen = 90;
        assert_eq!((known.share_of_rest(0, 4), known.share_of_rest(0, 1)), (2, 10));
        known.is_unknown = true;
        assert_eq!(known.share_of_rest(0, 4), 0);
        known.limit = UNLIMITED;
        assert_eq!(known.share_of_rest(0, 2), (UNLIMITED - 90) / 2);
    }

    #[test]
    fn a_counter_is_followed_while_it_is_used_and_kept_until_nobody_needs_it() {
        let idle = 100 + IDLE;
        let mut parallel = counter(Kind::Parallel, 1, None);
        assert!(parallel.is_followed(idle) && !parallel.is_followed(idle + 1));
        assert!(!parallel.is_over(idle) && parallel.is_over(idle + 1));
        parallel.running.insert("id".into());
        assert!(parallel.is_followed(idle + 1) && !parallel.is_over(idle + 1));
        let quota = counter(QUOTA, 1, None);
        assert!(quota.is_followed(idle + 1) && !quota.is_over(12_900) && quota.is_over(12_901));
        for kind in [day(5), spend(5)] {
            let counter = counter(kind, 1, None);
            assert!(!counter.is_over(1005 + DAY) && counter.is_over(1006 + DAY), "{kind:?}");
        }
    }
}
