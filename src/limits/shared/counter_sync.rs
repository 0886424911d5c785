//! What one gateway reports to the server of its counters, and queries of them.

use std::rc::Rc;

use serde_json::{Value, json};

use super::arguments::held_beside;
use super::counter::DAY;
use super::names::Names;
use super::standing::Standing;
use crate::limits::together::{Kind, quota_slice, slice};

/// The names of the counters that a beat queries.
#[derive(Debug, Default)]
pub(super) struct QueriedCounters {
    pub(super) used: Vec<Rc<str>>,
    pub(super) windows: Vec<Rc<str>>,
    pub(super) quotas: Vec<Rc<str>>,
}

impl Standing {
    /// What a beat queries: keys after `keys`, and the numbers of them.
    pub(super) fn query(&self, names: &Names, keys: &mut Vec<String>, now: u64) -> (Value, QueriedCounters) {
        let of = |wanted: fn(&Kind) -> bool| {
            self.counters.iter().filter(move |(_, counter)| wanted(&counter.kind) && counter.is_followed(now))
        };
        let QueriedCounters { mut used, mut windows, mut quotas } = QueriedCounters::default();
        let mut holding = Vec::new();
        for (name, _) in of(|kind| matches!(kind, Kind::Day { .. })) {
            keys.push(names.of(name));
            used.push(Rc::clone(name));
        }
        let days = used.len();
        for (name, counter) in of(|kind| matches!(kind, Kind::Spend { .. })) {
            holding.push(&counter.running);
            keys.push(names.of(name));
            keys.push(held_beside(name, names));
            used.push(Rc::clone(name));
        }
        for (name, _) in of(|kind| matches!(kind, Kind::Window { .. })) {
            keys.push(names.of(name));
            windows.push(Rc::clone(name));
        }
        for (name, _) in of(|kind| matches!(kind, Kind::Quota { .. })) {
            keys.push(names.of(name));
            quotas.push(Rc::clone(name));
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
        (numbers, QueriedCounters { used, windows, quotas })
    }

    /// Whether anything was counted alone that the server does not know yet.
    pub(super) fn has_news(&self) -> bool {
        self.counters.values().any(|counter| !counter.unreported.times.is_empty() || counter.unreported.sum != 0)
    }

    /// What a server that is reachable again gets: `counters` of the script, and its keys.
    pub(super) fn take_unreported(&mut self, names: &Names, keys: &mut Vec<String>, now: u64, hold: u64) -> Vec<Value> {
        self.reports += 1;
        let mut counters = Vec::new();
        for (name, counter) in &mut self.counters {
            counter.reporting.take(&mut counter.unreported);
            let mut entry = match counter.kind {
                Kind::Window { window } => json!({
                    "kind": "window",
                    "window": window,
                    "times": counter.own.iter().map(|(at, _)| at).collect::<Vec<_>>(),
                    "added": counter.reporting.times.iter().map(|(at, _)| at).collect::<Vec<_>>(),
                }),
                Kind::Tokens { window, .. } => json!({
                    "kind": "tokens",
                    "window": window,
                    "slice": slice(window),
                    "times": counter.own,
                    "added": counter.reporting.times,
                }),
                Kind::Quota { window } => json!({
                    "kind": "quota",
                    "window": window,
                    "slice": quota_slice(window),
                    "seen": counter.slices.iter().collect::<Vec<_>>(),
                    "told": counter.reported.times,
                    "added": counter.reporting.times,
                }),
                Kind::Parallel => json!({ "kind": "parallel", "ids": counter.running, "keep": hold }),
                Kind::Day { ends, .. } | Kind::Spend { ends, .. } => json!({
                    "kind": if matches!(counter.kind, Kind::Day { .. }) { "day" } else { "spend" },
                    "seen": counter.seen,
                    "told": counter.reported.sum,
                    "add": counter.reporting.sum,
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

    /// The server has received what [`Self::take_unreported`] returned, and all gateways see it. While this gateway
    /// decides alone it remains a part of its share.
    pub(super) fn confirm_reported(&mut self, now: u64) {
        self.counters.retain(|_, counter| !counter.is_over(now));
        for counter in self.counters.values_mut() {
            counter.reported.take(&mut counter.reporting);
            if self.lost.is_none() {
                counter.found();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::admission_reply::{Admitted, Count};
    use super::*;
    use crate::limits::together::{Limit, Unit};

    fn limit(name: &str, kind: Kind) -> Limit {
        Limit { kind, most: 9, name: name.into(), quota: None }
    }

    fn admitted(limits: &[Limit]) -> Standing {
        let mut standing = Standing::default();
        let counts = vec![Count { left: 8, ..Count::default() }; limits.len()];
        standing.admitted("id", limits, 100, &Admitted { at: 100, counts });
        standing
    }

    #[test]
    fn a_beat_asks_about_each_counter_by_its_kind() {
        let standing = admitted(&[
            limit("d", Kind::Day { begins: 0, ends: 9000 }),
            limit("s", Kind::Spend { unit: Unit::Tokens, add: 1, begins: 0, ends: 9000 }),
            limit("w", Kind::Window { window: 1000 }),
            limit("q", Kind::Quota { window: 12_800 }),
            limit("p", Kind::Parallel),
            limit("t", Kind::Tokens { window: 1000, add: 1 }),
        ]);
        let (names, mut keys) = (Names::new("team"), Vec::new());
        let (numbers, queried) = standing.query(&names, &mut keys, 100);
        let expected = json!({
            "days": 1, "spent": 1, "holding": [["id"]], "windows": 1, "quotas": 1, "running": [["id"]],
        });
        assert_eq!(numbers, expected);
        assert_eq!(keys, ["d", "s", "s:held", "w", "q", "p"].map(|name| names.of(name)));
        let lists = [queried.used, queried.windows, queried.quotas].map(|names| names.join(" "));
        assert_eq!(lists, ["d s", "w", "q"]);
    }

    #[test]
    fn what_was_counted_alone_is_news_until_the_server_gets_it() {
        for kind in [Kind::Window { window: 1000 }, Kind::Day { begins: 0, ends: 9000 }, Kind::Quota { window: 12_800 }]
        {
            let limits = [limit("x", kind)];
            let mut standing = admitted(&limits);
            assert!(!standing.has_news() && !Standing::default().has_news(), "{kind:?}");
            for id in ["a", "b"] {
                standing.decide(id, &limits, 250, 0, &mut Vec::new());
            }
            assert!(standing.has_news(), "{kind:?}");
            standing.take_unreported(&Names::new("team"), &mut Vec::new(), 300, 900);
            assert!(!standing.has_news(), "{kind:?}");
            // While the gateway still decides alone, it remains a part of its share.
            standing.lose(300, 1);
            standing.confirm_reported(300);
            let counted = |standing: &Standing| {
                let counter = &standing.counters["x"];
                let parts = [&counter.unreported, &counter.reporting, &counter.reported]
                    .map(|part| (part.times.len(), part.sum));
                (parts, counter.seen(300))
            };
            let reported = match kind {
                Kind::Quota { .. } => (2, 2),
                Kind::Day { .. } => (0, 2),
                _ => (2, 0),
            };
            assert_eq!(counted(&standing), ([(0, 0), (0, 0), reported], 1), "{kind:?}");
            standing.found();
            let seen = if let Kind::Window { .. } = kind { 1 } else { 3 };
            assert_eq!(counted(&standing), ([(0, 0); 3], seen), "{kind:?}");
            // What is reported after that is at once a part of what all counted.
            standing.decide("c", &limits, 270, 0, &mut Vec::new());
            standing.take_unreported(&Names::new("team"), &mut Vec::new(), 300, 900);
            standing.confirm_reported(300);
            let seen = if let Kind::Window { .. } = kind { 1 } else { 4 };
            assert_eq!(counted(&standing), ([(0, 0); 3], seen), "{kind:?}");
            if let Kind::Quota { .. } = kind {
                assert_eq!(standing.counters["x"].slices, [(1, 1), (2, 3)].into());
            }
        }
    }
}
