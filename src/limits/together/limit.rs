//! One limit that applies to a request.

use std::rc::Rc;

use crate::providers::error::Cause;

/// Tokens are counted in slices of a window.
const SLICES: u64 = 60;

/// So are quotas, whose requests are too many to be listed: a place is free at most 1/128 of the window later.
const QUOTA_SLICES: u64 = 128;

/// A limit that is counted, never enforced. The server calculates in doubles.
pub(crate) const UNLIMITED: u64 = 1 << 52;

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
    pub(crate) fn of_key(id: &str, name: &str, kind: Kind, most: u64) -> Self {
        Self { kind, most, name: [OF_KEY, id, ":", name].concat().into(), quota: None }
    }

    pub(crate) fn is_of_key(&self) -> bool {
        self.name.starts_with(OF_KEY)
    }
}

pub(crate) fn slice(window: u64) -> u64 {
    (window / SLICES).max(1)
}

pub(crate) fn quota_slice(window: u64) -> u64 {
    window.div_ceil(QUOTA_SLICES).max(1)
}

/// How much of a request counts in `unit`.
pub(crate) fn amount(unit: Unit, tokens: u64, cost: u64) -> u64 {
    match unit {
        Unit::Tokens => tokens,
        Unit::Nanodollars => cost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_cut_into_slices_of_a_millisecond_at_least() {
        assert_eq!((slice(61_700), slice(120), slice(59), slice(0)), (1028, 2, 1, 1));
        assert_eq!((quota_slice(12_800), quota_slice(12_801), quota_slice(0)), (100, 101, 1));
    }

    #[test]
    fn a_limit_of_a_key_has_its_name_and_counts_in_its_unit() {
        let limit = Limit::of_key("ann", "window", Kind::Parallel, 7);
        assert_eq!((&*limit.name, limit.most, limit.quota, limit.is_of_key()), ("key:ann:window", 7, None, true));
        assert!(!Limit { name: "window:ann".into(), ..limit }.is_of_key());
        assert_eq!((amount(Unit::Tokens, 3, 4), amount(Unit::Nanodollars, 3, 4)), (3, 4));
    }
}
