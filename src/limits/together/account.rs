//! The limits of an account that all gateways count together.

use std::cell::RefCell;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use super::limit::{Kind, Limit, UNLIMITED};
use crate::epoch;
use crate::limits::{Day, Quota, Rule};

/// How much longer than 2 % a window is kept between machines: the time from there to the provider varies.
const BETWEEN_MACHINES: Duration = Duration::from_millis(500);

/// How long a window of `length` is kept, in milliseconds.
pub(crate) fn kept(length: Duration) -> u64 {
    epoch::whole_milliseconds(length.mul_f64(1.02) + BETWEEN_MACHINES)
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
            let (begins, ends) = (epoch::milliseconds(begins), epoch::milliseconds(ends));
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
    Kind::Day { begins: epoch::milliseconds(day.begins), ends: epoch::milliseconds(day.ends) }
}

pub(crate) fn time(at: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Zone;
    use crate::providers::Limits;
    use crate::providers::error::Cause;

    const DAY: u64 = 86_400_000;

    fn rule(waits: bool, day_refuses: bool) -> Rule {
        let (per_window, burst, per_day) = (Some(60), Some(15), Some(900));
        let window = Duration::from_secs(60);
        Rule { per_window, burst, window, per_day, day_refuses, zone: Zone::utc(), waits }
    }

    fn told(account: &SharedAccount, at: u64) -> Vec<(String, Kind, u64)> {
        account.limits(at).iter().map(|limit| (limit.name.to_string(), limit.kind, limit.most)).collect()
    }

    #[test]
    fn an_account_has_the_limits_of_its_rule_and_each_day_a_counter_of_its_own() {
        let account = SharedAccount::new("a".into(), rule(true, true), Vec::new());
        let day = |number: u64| {
            let kind = Kind::Day { begins: number * DAY, ends: (number + 1) * DAY };
            (format!("day:a/{number}"), kind, 900)
        };
        let windows = || {
            let window = |name: &str, window, most| (name.to_owned(), Kind::Window { window }, most);
            vec![window("window:a", 61_700, 60), window("burst:a", 15_800, 15)]
        };
        for (at, number) in [(20_000 * DAY, 20_000), (20_001 * DAY - 1, 20_000), (20_001 * DAY, 20_001), (5, 0)] {
            assert_eq!(told(&account, at), [windows(), vec![day(number)]].concat(), "{at}");
        }
        // A burst of as many as the window allows says nothing more.
        let same = Rule { burst: Some(60), ..rule(true, true) };
        assert_eq!(told(&SharedAccount::new("a".into(), same, Vec::new()), 5).len(), 2);
        // Nothing waits, and the day is only counted.
        let counted = told(&SharedAccount::new("a".into(), rule(false, false), Vec::new()), 5);
        assert_eq!(counted, [(day(0).0, day(0).1, UNLIMITED)]);
    }

    #[test]
    fn quotas_of_an_account_are_rolling_or_end_when_the_provider_says() {
        let mut limits = Limits::default();
        (limits.requests_per_5h, limits.requests_per_week) = (Some(50), Some(70));
        limits.week_resets = Some("Mon 00:00 UTC".into());
        let none = |waits: bool| Rule { per_window: None, burst: None, per_day: None, ..rule(waits, true) };
        let account = |waits: bool| SharedAccount::new("a".into(), none(waits), Quota::of(&limits));
        // 1970-01-05 was a Monday.
        let (begins, ends) = (4 * DAY, 11 * DAY);
        let rolling = ("quota:5h:a".to_owned(), Kind::Quota { window: 18_360_500 });
        let week = (format!("quota:week:a/{}", ends / 1000), Kind::Day { begins, ends });
        for at in [begins, ends - 1] {
            let limits = account(true).limits(at);
            assert_eq!(limits[0].quota, Some(Cause::FiveHours));
            assert_eq!(limits[1].quota, Some(Cause::Week));
            assert_eq!((limits[0].most, limits[1].most), (50, 70));
            let limits = limits.iter().map(|limit| (limit.name.to_string(), limit.kind)).collect::<Vec<_>>();
            assert_eq!(limits, [rolling.clone(), week.clone()]);
        }
        assert!(account(false).limits(begins).iter().all(|limit| limit.most == UNLIMITED));
        // The week ends while the account is known.
        let account = account(true);
        assert_eq!(&*account.limits(ends - 1)[1].name, week.0);
        assert_eq!(account.limits(ends)[1].kind, Kind::Day { begins: ends, ends: ends + 7 * DAY });
    }
}
