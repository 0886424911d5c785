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
    /// What it admitted alone and the server does not know, what it is being told, and what it was told since the loss.
    pub(super) alone: Part,
    pub(super) sent: Part,
    pub(super) told: Part,
    /// How much more was used than it was told, by requests that ended since: reported when it decides again.
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
            alone: Part::default(),
            sent: Part::default(),
            told: Part::default(),
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
                Kind::Quota { .. } => true,
                _ => false,
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
            Kind::Day { .. } => self.alone.sum += 1,
            Kind::Quota { .. } => {
                self.alone.times.push_back((at, 1));
                self.alone.sum += 1;
            }
            Kind::Spend { .. } => {
                self.running.insert(id.to_owned());
                self.alone.sum += i64::try_from(reserved).unwrap_or(i64::MAX);
            }
        }
    }

    fn plan_alone(&mut self, at: u64, amount: u64) {
        plan(&mut self.own, at, amount);
        self.alone.times.push_back((at, amount));
        if at < self.shared_from {
            self.allowance = self.allowance.saturating_sub(amount);
        }
    }

    pub(super) fn forget_old(&mut self, now: u64) {
        if let Some(window) = self.window() {
            for times in [&mut self.own, &mut self.alone.times, &mut self.told.times] {
                while times.front().is_some_and(|(at, _)| at + window <= now) {
                    times.pop_front();
                }
            }
        }
    }

    /// What it admitted alone, whether or not the server was told of it.
    pub(super) fn alone_in_all(&self) -> i64 {
        self.alone.sum + self.sent.sum + self.told.sum + self.ended.sum
    }

    /// The server decides again: what it was told is a part of what all gateways counted.
    pub(super) fn found(&mut self) {
        let (told, ended) = (std::mem::take(&mut self.told), std::mem::take(&mut self.ended));
        match self.kind {
            Kind::Quota { window } => {
                let slice = quota_slice(window);
                told.times.iter().for_each(|(at, count)| *self.slices.entry(at / slice).or_default() += count);
                for (at, count) in ended.times {
                    self.slices.entry(at / slice).and_modify(|known| *known = known.saturating_sub(count));
                }
            }
            Kind::Day { .. } | Kind::Spend { .. } => self.seen = self.seen.saturating_add_signed(told.sum + ended.sum),
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
