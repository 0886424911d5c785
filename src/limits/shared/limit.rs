//! One limit that applies to a request, and how the scripts get it.

use std::rc::Rc;

use redis::Cmd;
use serde_json::{Map, Value, json};

use super::names::Names;
use crate::providers::error::Cause;

/// Tokens are counted in slices of a window.
const SLICES: u64 = 60;

/// So are quotas, whose requests are too many to be listed: a place is free at most 1/128 of the window later.
const QUOTA_SLICES: u64 = 128;

/// Times are milliseconds since 1970 by the server's clock.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Limit {
    pub(crate) kind: Kind,
    /// Requests, tokens or nanodollars.
    pub(crate) most: u64,
    /// The counter's name, without the namespace.
    pub(crate) name: Rc<str>,
    /// The user's own quota of a plan that it is.
    pub(crate) quota: Option<Cause>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// Requests in any `window`.
    Window { window: u64 },
    /// Requests in any `window`, counted in slices of it. Beyond it none waits.
    Quota { window: u64 },
    /// Estimated tokens in any `window`.
    Tokens { window: u64, add: u64 },
    /// Requests of a period.
    Day { begins: u64, ends: u64 },
    /// Requests in flight.
    Parallel,
    /// Tokens or money of a period; a request reserves the most it may use.
    Spend { unit: Unit, add: u64, begins: u64, ends: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Tokens,
    Nanodollars,
}

/// Prefix of the names of all counters of keys.
const OF_KEY: &str = "key:";

impl Limit {
    /// A limit of the key with this id.
    pub(super) fn of_key(id: &str, name: &str, kind: Kind, most: u64) -> Self {
        Self { kind, most, name: [OF_KEY, id, ":", name].concat().into(), quota: None }
    }

    pub(super) fn is_of_key(&self) -> bool {
        self.name.starts_with(OF_KEY)
    }

    /// How many keys of a script it takes.
    pub(super) fn number_of_keys(&self) -> usize {
        if matches!(self.kind, Kind::Spend { .. }) { 2 } else { 1 }
    }

    /// These keys: its counter and, of what is spent, what is reserved beside it.
    pub(super) fn add_keys(&self, names: &Names, command: &mut Cmd) {
        command.arg(names.of(&self.name));
        if let Kind::Spend { .. } = self.kind {
            command.arg(held_beside(&self.name, names));
        }
    }

    /// Its five arguments of the script `admit`.
    pub(super) fn add_arguments(&self, command: &mut Cmd) {
        let (kind, first, second, add) = match self.kind {
            Kind::Window { window } => ("window", window, 0, 1),
            Kind::Quota { window } => ("quota", window, quota_slice(window), 1),
            Kind::Tokens { window, add } => ("tokens", window, slice(window), add),
            Kind::Day { begins, ends } => ("day", begins, ends, 1),
            Kind::Parallel => ("parallel", 0, 0, 1),
            Kind::Spend { add, begins, ends, .. } => ("spend", begins, ends, add),
        };
        command.arg(kind).arg(self.most).arg(first).arg(second).arg(add);
    }

    /// Its entry in the `limits` of the script `look`; its names are added to `keys`.
    pub(super) fn json(&self, names: &Names, keys: &mut Vec<String>) -> Map<String, Value> {
        keys.push(names.of(&self.name));
        let mut json = match self.kind {
            Kind::Window { window } => json!({ "kind": "window", "window": window }),
            Kind::Quota { window } => json!({ "kind": "quota", "window": window, "slice": quota_slice(window) }),
            Kind::Tokens { window, .. } => json!({ "kind": "tokens", "window": window, "slice": slice(window) }),
            Kind::Day { .. } => json!({ "kind": "day" }),
            Kind::Parallel => json!({ "kind": "parallel" }),
            Kind::Spend { .. } => json!({ "kind": "spend" }),
        };
        json["key"] = keys.len().into();
        if let Kind::Spend { .. } = self.kind {
            keys.push(held_beside(&self.name, names));
            json["held"] = keys.len().into();
        }
        match json {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

/// Where the reservations of a counter are.
pub(super) fn held_beside(name: &str, names: &Names) -> String {
    names.of(&[name, ":held"].concat())
}

pub(super) fn slice(window: u64) -> u64 {
    (window / SLICES).max(1)
}

pub(super) fn quota_slice(window: u64) -> u64 {
    window.div_ceil(QUOTA_SLICES).max(1)
}

/// How much of a request counts in `unit`.
pub(super) fn amount(unit: Unit, tokens: u64, cost: u64) -> u64 {
    match unit {
        Unit::Tokens => tokens,
        Unit::Nanodollars => cost,
    }
}
