//! The limits of an account that all gateways count together.

use std::cell::RefCell;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use super::limit::{Kind, Limit, UNLIMITED};
use crate::limits::{Day, Quota, Rule};

/// How much longer than 2 % a window is kept between machines: the time from there to the provider varies.
const BETWEEN_MACHINES: Duration = Duration::from_millis(500);

/// How long a window of `length` is kept, in milliseconds.
pub(crate) fn kept(length: Duration) -> u64 {
    milliseconds(length.mul_f64(1.02) + BETWEEN_MACHINES)
}

/// An account whose requests all gateways count together.
#[derive(Debug, Clone)]
pub(crate) struct SharedAccount {
    /// What the server calls it.
    pub(crate) name: String,
    pub(crate) rule: Rule,
    /// The user's own figures of its plan.
    pub(crate) quotas: Vec<Quota>,
    /// Its limits, and the time within which they are the same.
    current: RefCell<(Range<u64>, Vec<Limit>)>,
}

impl SharedAccount {
    pub(crate) fn new(name: String, rule: Rule, quotas: Vec<Quota>) -> Self {
        Self { name, rule, quotas, current: RefCell::new((0..0, Vec::new())) }
    }

    /// Its limits at a time of the server's, in milliseconds since 1970.
    pub(crate) fn limits(&self, at: u64) -> Vec<Limit> {
        let mut current = self.current.borrow_mut();
        if !current.0.contains(&at) {
            let mut limits = limits_of(&self.rule, &self.name, at);
            limits.extend(self.quotas.iter().map(|quota| limit_of(quota, &self.name, self.rule.waits, at)));
            let periods = limits.iter().filter_map(|limit| match limit.kind {
                Kind::Day { begins, ends } => Some(begins..ends),
                _ => None,
            });
            let common = |one: Range<u64>, other: Range<u64>| one.start.max(other.start)..one.end.min(other.end);
            *current = (periods.fold(0..u64::MAX, common), limits);
        }
        current.1.clone()
    }
}

/// `refuses`: else requests are only counted.
fn limit_of(quota: &Quota, account: &str, refuses: bool, at: u64) -> Limit {
    let most = if refuses { quota.most.into() } else { UNLIMITED };
    let name = format!("quota:{}:{account}", quota.name());
    let (kind, name) = match quota.period(time(at)) {
        None => (Kind::Quota { window: kept(quota.length()) }, name),
        Some((begins, ends)) => {
            let (begins, ends) = (since_epoch(begins), since_epoch(ends));
            (Kind::Day { begins, ends }, format!("{name}/{}", ends / 1000))
        }
    };
    Limit { kind, most, name: name.into(), quota: Some(quota.cause) }
}

fn limits_of(rule: &Rule, account: &str, at: u64) -> Vec<Limit> {
    let mut limits = Vec::new();
    let mut window = |kind: &str, limit: u32, length: Duration| {
        let (kind, name) = (Kind::Window { window: kept(length) }, format!("{kind}:{account}"));
        limits.push(Limit { kind, most: limit.into(), name: name.into(), quota: None });
    };
    if let Some(limit) = rule.per_window.filter(|_| rule.waits) {
        window("window", limit, rule.window);
        if let Some(burst) = rule.burst.filter(|burst| *burst < limit) {
            window("burst", burst, rule.window.mul_f64(f64::from(burst) / f64::from(limit)));
        }
    }
    if let Some(limit) = rule.per_day {
        let day = rule.zone.day_of(time(at));
        // Only counted, unless the user configured the limit.
        let limit = if rule.day_refuses { limit.into() } else { UNLIMITED };
        limits.push(Limit {
            kind: kind_of_day(&day),
            most: limit,
            name: name_of_day(account, &day).into(),
            quota: None,
        });
    }
    limits
}

/// The name of the counter of an account's requests on a day.
pub(crate) fn name_of_day(account: &str, day: &Day) -> String {
    format!("day:{account}/{}", day.number())
}

pub(crate) fn kind_of_day(day: &Day) -> Kind {
    Kind::Day { begins: since_epoch(day.begins), ends: since_epoch(day.ends) }
}

pub(crate) fn time(at: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(at)
}

/// Milliseconds.
pub(crate) fn since_epoch(time: SystemTime) -> u64 {
    milliseconds(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
