//! What one gateway knows of the counters: the totals of all gateways as last seen, and its own part. While the server
//! is unreachable it decides from these alone.
//!
//! Hazard: the server fails, and each of N gateways continues with the whole limit, N times too much; or all of them
//! stop. Rule: each takes its share. What was left when the server was lost is divided by the number of gateways alive
//! then; a window is divided only after everything that others may have planned in it has passed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};

use super::account::UNLIMITED;
use super::ask::{Kind, Limit, Names, Told, Unit, quota_slice, slice};

/// Counters are kept this long after their period, in milliseconds.
const DAY: u64 = 86_400_000;

/// A counter that no request used for this long is removed, unless its period is still running.
const IDLE: u64 = 3_600_000;

/// One counter as this gateway knows it. Times are milliseconds by the server's clock.
#[derive(Debug)]
struct Counter {
    kind: Kind,
    limit: u64,
    /// Of all gateways: planned requests of a window, requests of a day, money or tokens spent and reserved.
    seen: u64,
    /// The same of a quota, by slice of its window.
    slices: BTreeMap<u64, u64>,
    /// Whether others may have counted what was never seen here: then nothing of the rest is this gateway's.
    is_unknown: bool,
    /// The earliest time that still counts in a window, and the latest one planned.
    first: u64,
    last: u64,
    /// When this gateway's own requests are sent, and their tokens.
    own: VecDeque<(u64, u64)>,
    /// Those that it admitted alone.
    alone: VecDeque<(u64, u64)>,
    /// What it admitted alone of a day, or spent.
    alone_sum: i64,
    /// The part of it that is being reported to the server.
    sent: Vec<(u64, u64)>,
    sent_sum: i64,
    /// In flight.
    running: BTreeSet<String>,
    /// While the server is unreachable: until then only `allowance` more are sent.
    shared_from: u64,
    allowance: u64,
    asked: u64,
}

/// The names of the counters that a beat asks about.
#[derive(Debug, Default)]
pub(super) struct AskedAbout {
    pub(super) used: Vec<String>,
    pub(super) windows: Vec<String>,
    pub(super) quotas: Vec<String>,
}

/// Why a gateway that decides alone does not admit a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alone {
    Go {
        at: u64,
    },
    /// The limit of this index: there is a free slot after `wait` milliseconds.
    Wait {
        limit: usize,
        wait: u64,
    },
    /// This gateway's share of what was left is used up.
    Over,
}

#[derive(Debug, Default)]
pub(super) struct Standing {
    counters: BTreeMap<String, Counter>,
    /// When the server was lost, and how many gateways share what was left.
    lost: Option<(u64, u64)>,
}

impl Counter {
    fn new(limit: &Limit, now: u64, lost: Option<(u64, u64)>) -> Self {
        let mut counter = Self {
            kind: limit.kind,
            limit: limit.most,
            seen: 0,
            slices: BTreeMap::new(),
            is_unknown: false,
            first: 0,
            last: 0,
            own: VecDeque::new(),
            alone: VecDeque::new(),
            alone_sum: 0,
            sent: Vec::new(),
            sent_sum: 0,
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
    fn seen(&self, now: u64) -> u64 {
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
    fn learn(&mut self, used: u64, at: u64, now: u64) {
        self.is_unknown = false;
        match self.kind {
            Kind::Quota { window } => {
                let more = used.saturating_sub(self.seen(now));
                *self.slices.entry(at / quota_slice(window)).or_default() += more;
            }
            _ => self.seen = used,
        }
    }

    fn window(&self) -> Option<u64> {
        match self.kind {
            Kind::Window { window } | Kind::Tokens { window, .. } => Some(window),
            _ => None,
        }
    }

    fn lose(&mut self, now: u64, alive: u64) {
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

    fn share(&self, alive: u64) -> u64 {
        (self.limit / alive).max(1)
    }

    /// The first time from `at` on at which this gateway's share of the window has room for `add`.
    fn room(&self, at: u64, add: u64, alive: u64) -> u64 {
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

    fn forget_old(&mut self, now: u64) {
        if let Some(window) = self.window() {
            while self.own.front().is_some_and(|(at, _)| at + window <= now) {
                self.own.pop_front();
            }
            while self.alone.front().is_some_and(|(at, _)| at + window <= now) {
                self.alone.pop_front();
            }
        }
    }

    /// What of the period's rest is this gateway's.
    fn share_of_rest(&self, now: u64, alive: u64) -> u64 {
        if self.is_unknown && self.limit < UNLIMITED {
            return 0;
        }
        self.limit.saturating_sub(self.seen(now)) / alive
    }

    /// Whether beats ask about it.
    fn is_followed(&self, now: u64) -> bool {
        matches!(self.kind, Kind::Quota { .. }) || now <= self.asked + IDLE || !self.running.is_empty()
    }

    fn is_over(&self, now: u64) -> bool {
        match self.kind {
            Kind::Day { ends, .. } | Kind::Spend { ends, .. } => now > ends + DAY,
            Kind::Quota { window } => now > self.asked + window,
            _ => now > self.asked + IDLE && self.running.is_empty(),
        }
    }
}

impl Standing {
    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    fn counter(&mut self, limit: &Limit, now: u64) -> &mut Counter {
        let lost = self.lost;
        let counter = self.counters.entry(limit.name.clone()).or_insert_with(|| Counter::new(limit, now, lost));
        (counter.limit, counter.asked, counter.kind) = (limit.most, now, limit.kind);
        counter
    }

    /// The server admitted a request.
    pub(super) fn admitted(&mut self, id: &str, limits: &[Limit], told: &Told) {
        for (index, limit) in limits.iter().enumerate() {
            let counter = self.counter(limit, told.now);
            counter.forget_old(told.now);
            let left = told.left.get(index).copied().unwrap_or_default();
            counter.learn(limit.most.saturating_sub(left), told.at, told.now);
            match limit.kind {
                Kind::Window { .. } => {
                    counter.first = told.first.get(index).copied().unwrap_or_default();
                    counter.last = told.last.get(index).copied().unwrap_or_default();
                    plan(&mut counter.own, told.at, 1);
                }
                Kind::Tokens { add, .. } => {
                    counter.last = told.at;
                    plan(&mut counter.own, told.at, add);
                }
                Kind::Parallel | Kind::Spend { .. } => drop(counter.running.insert(id.to_owned())),
                Kind::Day { .. } | Kind::Quota { .. } => {}
            }
        }
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
        (counter.seen(now).saturating_add_signed(counter.alone_sum + counter.sent_sum), 0)
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

    /// Decides alone, and counts what is admitted. `held` gets what is reserved for each limit.
    pub(super) fn decide(&mut self, id: &str, limits: &[Limit], now: u64, longest: u64, held: &mut Vec<u64>) -> Alone {
        let (_, alive) = self.lost.unwrap_or((now, 1));
        let mut at = now;
        let mut binding = 0;
        let mut reserved = Vec::with_capacity(limits.len());
        for (index, limit) in limits.iter().enumerate() {
            let counter = self.counter(limit, now);
            counter.forget_old(now);
            reserved.push(0);
            match limit.kind {
                Kind::Window { .. } | Kind::Tokens { .. } => {}
                Kind::Parallel => {
                    if counter.running.len() as u64 >= counter.share(alive) {
                        return Alone::Wait { limit: index, wait: 0 };
                    }
                }
                Kind::Day { .. } | Kind::Spend { .. } | Kind::Quota { .. } => {
                    let used = u64::try_from(counter.alone_sum + counter.sent_sum).unwrap_or_default();
                    let left = counter.share_of_rest(now, alive).saturating_sub(used);
                    if left == 0 {
                        return Alone::Over;
                    }
                    let add = if let Kind::Spend { add, .. } = limit.kind { add } else { 1 };
                    reserved[index] = add.min(left);
                }
            }
        }
        loop {
            let before = at;
            for (index, limit) in limits.iter().enumerate() {
                let earliest = at;
                let counter = self.counter(limit, now);
                match limit.kind {
                    Kind::Window { .. } => at = counter.room(at, 1, alive),
                    Kind::Tokens { add, .. } => at = counter.room(at, add, alive),
                    _ => {}
                }
                if at > earliest {
                    binding = index;
                }
            }
            if at == before {
                break;
            }
        }
        if at - now > longest {
            return Alone::Wait { limit: binding, wait: at - now };
        }
        for (index, limit) in limits.iter().enumerate() {
            let counter = self.counter(limit, now);
            match limit.kind {
                Kind::Window { .. } => {
                    plan(&mut counter.own, at, 1);
                    counter.alone.push_back((at, 1));
                    if at < counter.shared_from {
                        counter.allowance = counter.allowance.saturating_sub(1);
                    }
                }
                Kind::Tokens { add, .. } => {
                    plan(&mut counter.own, at, add);
                    counter.alone.push_back((at, add));
                    if at < counter.shared_from {
                        counter.allowance = counter.allowance.saturating_sub(add);
                    }
                }
                Kind::Parallel => drop(counter.running.insert(id.to_owned())),
                Kind::Day { .. } => counter.alone_sum += 1,
                Kind::Quota { .. } => {
                    counter.alone.push_back((at, 1));
                    counter.alone_sum += 1;
                }
                Kind::Spend { .. } => {
                    counter.running.insert(id.to_owned());
                    counter.alone_sum += i64::try_from(reserved[index]).unwrap_or(i64::MAX);
                }
            }
        }
        *held = reserved;
        Alone::Go { at }
    }

    /// A request ended and is no longer in flight.
    pub(super) fn ended(&mut self, id: &str, limits: &[Limit]) {
        for limit in limits.iter().filter(|limit| matches!(limit.kind, Kind::Parallel | Kind::Spend { .. })) {
            if let Some(counter) = self.counters.get_mut(&limit.name) {
                counter.running.remove(id);
            }
        }
    }

    /// A request that was planned at `at` will not be sent.
    pub(super) fn given_back(&mut self, limits: &[Limit], at: u64, was_alone: bool) {
        for limit in limits {
            let Some(counter) = self.counters.get_mut(&limit.name) else { continue };
            let amount = if let Kind::Tokens { add, .. } = limit.kind { add } else { 1 };
            if let Some(index) = counter.own.iter().rposition(|entry| *entry == (at, amount)) {
                counter.own.remove(index);
            }
            if was_alone {
                if let Some(index) = counter.alone.iter().rposition(|entry| *entry == (at, amount)) {
                    counter.alone.remove(index);
                }
                if let Kind::Day { .. } | Kind::Quota { .. } = limit.kind {
                    counter.alone_sum -= 1;
                }
            }
        }
    }

    /// The difference between what a request used that was admitted alone and what was reserved.
    pub(super) fn corrected(&mut self, name: &str, more: i64) {
        if let Some(counter) = self.counters.get_mut(name) {
            counter.alone_sum += more;
        }
    }

    /// What a beat asks about: keys after `keys`, and the numbers of them.
    pub(super) fn asked(&self, names: &Names, keys: &mut Vec<String>, now: u64) -> (Value, AskedAbout) {
        let of = |wanted: fn(&Kind) -> bool| {
            self.counters.iter().filter(move |(_, counter)| wanted(&counter.kind) && counter.is_followed(now))
        };
        let AskedAbout { mut used, mut windows, mut quotas } = AskedAbout::default();
        let mut holding = Vec::new();
        for (name, _) in of(|kind| matches!(kind, Kind::Day { .. })) {
            keys.push(names.of(name));
            used.push(name.clone());
        }
        let days = used.len();
        for (name, counter) in of(|kind| matches!(kind, Kind::Spend { .. })) {
            holding.push(&counter.running);
            keys.push(names.of(name));
            keys.push(names.of(&format!("{name}:held")));
            used.push(name.clone());
        }
        for (name, _) in of(|kind| matches!(kind, Kind::Window { .. })) {
            keys.push(names.of(name));
            windows.push(name.clone());
        }
        for (name, _) in of(|kind| matches!(kind, Kind::Quota { .. })) {
            keys.push(names.of(name));
            quotas.push(name.clone());
        }
        let mut running = Vec::new();
        for (name, counter) in of(|kind| *kind == Kind::Parallel) {
            keys.push(names.of(name));
            running.push(&counter.running);
        }
        let spent = used.len() - days;
        let numbers = json!({
            "days": days,
            "spent": spent,
            "holding": holding,
            "windows": windows.len(),
            "quotas": quotas.len(),
            "running": running,
        });
        (numbers, AskedAbout { used, windows, quotas })
    }

    pub(super) fn count(&self, name: &str) -> Option<u64> {
        let counter = self.counters.get(name)?;
        Some(counter.seen.saturating_add_signed(counter.alone_sum + counter.sent_sum))
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

    /// Whether anything was counted alone that the server does not know yet.
    pub(super) fn has_news(&self) -> bool {
        self.counters.values().any(|counter| !counter.alone.is_empty() || counter.alone_sum != 0)
    }

    /// What a server that is reachable again gets: `counters` of the script, and its keys.
    pub(super) fn tell(&mut self, names: &Names, keys: &mut Vec<String>, now: u64, hold: u64) -> Vec<Value> {
        let mut counters = Vec::new();
        for (name, counter) in &mut self.counters {
            counter.sent.extend(counter.alone.drain(..));
            counter.sent_sum += std::mem::take(&mut counter.alone_sum);
            let mut entry = match counter.kind {
                Kind::Window { window } => json!({
                    "kind": "window",
                    "window": window,
                    "times": counter.own.iter().map(|(at, _)| at).collect::<Vec<_>>(),
                    "added": counter.sent.iter().map(|(at, _)| at).collect::<Vec<_>>(),
                }),
                Kind::Tokens { window, .. } => json!({
                    "kind": "tokens",
                    "window": window,
                    "slice": slice(window),
                    "times": counter.own,
                    "added": counter.sent,
                }),
                Kind::Quota { window } => json!({
                    "kind": "quota",
                    "window": window,
                    "slice": quota_slice(window),
                    "seen": counter.slices.iter().collect::<Vec<_>>(),
                    "added": counter.sent,
                }),
                Kind::Parallel => json!({ "kind": "parallel", "ids": counter.running, "keep": hold }),
                Kind::Day { ends, .. } | Kind::Spend { ends, .. } => json!({
                    "kind": if matches!(counter.kind, Kind::Day { .. }) { "day" } else { "spend" },
                    "seen": counter.seen,
                    "add": counter.sent_sum,
                    "keep": ends.saturating_sub(now) + DAY,
                }),
            };
            keys.push(names.of(name));
            entry["key"] = keys.len().into();
            keys.push(names.of(&format!("{name}:base")));
            entry["base"] = keys.len().into();
            counters.push(entry);
        }
        counters
    }

    /// The server has received what [`Self::tell`] returned, and all gateways see it.
    pub(super) fn arrived(&mut self, now: u64) {
        self.counters.retain(|_, counter| !counter.is_over(now));
        for counter in self.counters.values_mut() {
            let (sent, sum) = (std::mem::take(&mut counter.sent), std::mem::take(&mut counter.sent_sum));
            if let Kind::Quota { window } = counter.kind {
                for (at, count) in sent {
                    *counter.slices.entry(at / quota_slice(window)).or_default() += count;
                }
            }
            if let Kind::Day { .. } | Kind::Spend { .. } = counter.kind {
                counter.seen = counter.seen.saturating_add_signed(sum);
            }
        }
    }

    /// The server decides again.
    pub(super) fn found(&mut self) {
        self.lost = None;
        self.counters.values_mut().for_each(|counter| counter.is_unknown = false);
    }
}

/// Adds a time and its amount, in order.
fn plan(times: &mut VecDeque<(u64, u64)>, at: u64, amount: u64) {
    let index = times.iter().rposition(|(time, _)| *time <= at).map_or(0, |index| index + 1);
    times.insert(index, (at, amount));
}

/// How much of a request counts in `unit`.
pub(super) fn amount(unit: Unit, tokens: u64, cost: u64) -> u64 {
    match unit {
        Unit::Tokens => tokens,
        Unit::Nanodollars => cost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(limit: u64) -> Limit {
        Limit { kind: Kind::Window { window: 1000 }, most: limit, name: "w".into(), quota: None }
    }

    fn go(standing: &mut Standing, limits: &[Limit], now: u64) -> Alone {
        standing.decide("id", limits, now, 100_000, &mut Vec::new())
    }

    fn told(now: u64, at: u64, left: f64, last: u64) -> Told {
        let text = json!({ "kind": "go", "now": now, "at": at, "left": [left.to_string()], "last": [last] });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn at_a_loss_a_gateway_has_its_share_of_what_was_left_and_then_of_each_window() {
        let limits = [window(20)];
        let mut standing = Standing::default();
        // Eight of twenty are used, one of them by this gateway.
        standing.admitted("a", &limits, &told(5000, 5000, 12.0, 5000));
        standing.lose(5100, 4);
        let at: Vec<Alone> = (0..9).map(|_| go(&mut standing, &limits, 5100)).collect();
        assert_eq!(at[..3], [Alone::Go { at: 5100 }; 3]);
        assert_eq!(at[3..8], [Alone::Go { at: 6100 }; 5].map(|_| Alone::Go { at: 6100 }));
        assert_eq!(at[8], Alone::Go { at: 7100 });
    }

    #[test]
    fn where_others_wait_a_gateway_alone_begins_after_them() {
        let limits = [window(20)];
        let mut standing = Standing::default();
        standing.admitted("a", &limits, &told(5000, 9000, 0.0, 9000));
        standing.lose(5100, 4);
        assert_eq!(go(&mut standing, &limits, 5100), Alone::Go { at: 11_000 });
    }

    #[test]
    fn of_what_was_left_of_a_day_each_gateway_has_a_part_and_no_more() {
        let limit = Limit { kind: Kind::Day { begins: 0, ends: 1_000_000 }, most: 100, name: "d".into(), quota: None };
        let mut standing = Standing::default();
        standing.admitted("a", std::slice::from_ref(&limit), &told(10, 10, 10.0, 0));
        standing.lose(20, 4);
        let decisions: Vec<Alone> = (0..3).map(|_| go(&mut standing, std::slice::from_ref(&limit), 20)).collect();
        assert_eq!(decisions, [Alone::Go { at: 20 }, Alone::Go { at: 20 }, Alone::Over]);
        standing.given_back(std::slice::from_ref(&limit), 20, true);
        assert_eq!(go(&mut standing, &[limit], 20), Alone::Go { at: 20 });
    }

    /// Other gateways may have used all of it.
    #[test]
    fn of_a_day_that_was_never_asked_about_nothing_is_left_unless_it_begins_after_the_loss() {
        let day = |begins: u64| Limit {
            kind: Kind::Day { begins, ends: begins + 1_000_000 },
            most: 100,
            name: format!("d{begins}"),
            quota: None,
        };
        let mut standing = Standing::default();
        standing.lose(20, 4);
        assert_eq!(go(&mut standing, &[day(0)], 30), Alone::Over);
        assert_eq!(go(&mut standing, &[day(1_000_000)], 1_000_010), Alone::Go { at: 1_000_010 });
        // What only counts stops nobody.
        let counted = Limit { most: UNLIMITED, ..day(0) };
        assert_eq!(go(&mut standing, &[Limit { name: "c".into(), ..counted }], 30), Alone::Go { at: 30 });
        // Nor is what was not asked about for so long that nobody told of it any more.
        let mut standing = Standing::default();
        standing.admitted("a", &[day(0)], &told(10, 10, 90.0, 0));
        standing.lose(20 + IDLE, 4);
        assert_eq!(go(&mut standing, &[day(0)], 30 + IDLE), Alone::Over);
        standing.found();
        standing.admitted("b", &[day(0)], &told(40 + IDLE, 40 + IDLE, 80.0, 0));
        standing.lose(50 + IDLE, 4);
        assert_eq!(go(&mut standing, &[day(0)], 60 + IDLE), Alone::Go { at: 60 + IDLE });
    }

    #[test]
    fn a_reservation_is_cut_to_the_share_of_what_is_left() {
        let kind = Kind::Spend { unit: Unit::Tokens, add: 50, begins: 0, ends: 1_000_000 };
        let limit = Limit { kind, most: 100, name: "s".into(), quota: None };
        let mut standing = Standing::default();
        standing.admitted("a", std::slice::from_ref(&limit), &told(10, 10, 60.0, 0));
        standing.lose(20, 2);
        let mut held = Vec::new();
        assert_eq!(standing.decide("b", std::slice::from_ref(&limit), 20, 0, &mut held), Alone::Go { at: 20 });
        assert_eq!(held, [30]);
        standing.corrected("s", -20);
        standing.decide("c", std::slice::from_ref(&limit), 20, 0, &mut held);
        assert_eq!(held, [20]);
    }

    #[test]
    fn a_share_is_at_least_one() {
        let limits = [window(2)];
        let mut standing = Standing::default();
        standing.lose(0, 16);
        assert_eq!(go(&mut standing, &limits, 0), Alone::Go { at: 2000 });
        assert_eq!(go(&mut standing, &limits, 0), Alone::Go { at: 3000 });
    }
}
