//! What one gateway tells the server of its counters, and asks about them.

use std::rc::Rc;

use serde_json::{Value, json};

use super::arguments::held_beside;
use super::counter::DAY;
use super::names::Names;
use super::standing::Standing;
use crate::limits::together::{Kind, quota_slice, slice};

/// The names of the counters that a beat asks about.
#[derive(Debug, Default)]
pub(super) struct AskedAbout {
    pub(super) used: Vec<Rc<str>>,
    pub(super) windows: Vec<Rc<str>>,
    pub(super) quotas: Vec<Rc<str>>,
}

impl Standing {
    /// What a beat asks about: keys after `keys`, and the numbers of them.
    pub(super) fn asked(&self, names: &Names, keys: &mut Vec<String>, now: u64) -> (Value, AskedAbout) {
        let of = |wanted: fn(&Kind) -> bool| {
            self.counters.iter().filter(move |(_, counter)| wanted(&counter.kind) && counter.is_followed(now))
        };
        let AskedAbout { mut used, mut windows, mut quotas } = AskedAbout::default();
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
        (numbers, AskedAbout { used, windows, quotas })
    }

    /// Whether anything was counted alone that the server does not know yet.
    pub(super) fn has_news(&self) -> bool {
        self.counters.values().any(|counter| !counter.alone.times.is_empty() || counter.alone.sum != 0)
    }

    /// What a server that is reachable again gets: `counters` of the script, and its keys.
    pub(super) fn tell(&mut self, names: &Names, keys: &mut Vec<String>, now: u64, hold: u64) -> Vec<Value> {
        self.reports += 1;
        let mut counters = Vec::new();
        for (name, counter) in &mut self.counters {
            counter.sent.take(&mut counter.alone);
            let mut entry = match counter.kind {
                Kind::Window { window } => json!({
                    "kind": "window",
                    "window": window,
                    "times": counter.own.iter().map(|(at, _)| at).collect::<Vec<_>>(),
                    "added": counter.sent.times.iter().map(|(at, _)| at).collect::<Vec<_>>(),
                }),
                Kind::Tokens { window, .. } => json!({
                    "kind": "tokens",
                    "window": window,
                    "slice": slice(window),
                    "times": counter.own,
                    "added": counter.sent.times,
                }),
                Kind::Quota { window } => json!({
                    "kind": "quota",
                    "window": window,
                    "slice": quota_slice(window),
                    "seen": counter.slices.iter().collect::<Vec<_>>(),
                    "told": counter.told.times,
                    "added": counter.sent.times,
                }),
                Kind::Parallel => json!({ "kind": "parallel", "ids": counter.running, "keep": hold }),
                Kind::Day { ends, .. } | Kind::Spend { ends, .. } => json!({
                    "kind": if matches!(counter.kind, Kind::Day { .. }) { "day" } else { "spend" },
                    "seen": counter.seen,
                    "told": counter.told.sum,
                    "add": counter.sent.sum,
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

    /// The server has received what [`Self::tell`] returned, and all gateways see it. While this gateway decides alone it
    /// remains a part of its share.
    pub(super) fn arrived(&mut self, now: u64) {
        self.counters.retain(|_, counter| !counter.is_over(now));
        for counter in self.counters.values_mut() {
            counter.told.take(&mut counter.sent);
            if self.lost.is_none() {
                counter.found();
            }
        }
    }
}
