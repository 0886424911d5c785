//! How the scripts get a limit.

use redis::Cmd;
use serde_json::{Map, Value, json};

use super::names::Names;
use crate::limits::together::{Kind, Limit, quota_slice, slice};

impl Limit {
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
