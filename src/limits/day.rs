//! When the day of a provider starts and ends.

use std::time::SystemTime;

use anyhow::Result;
use jiff::civil::{Date, Time};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan};

use crate::error::{Failed, Failure};

/// The hour at which days start, and its time zone: `00:00 Asia/Shanghai`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Zone {
    begins: Time,
    zone: TimeZone,
}

/// Why a time and a zone were not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unread {
    Form,
    /// The zone may be right, but this system knows none.
    NoZones,
}

impl Unread {
    /// `wrong`: what is said of another form.
    fn failed(self, text: &str, key: &str, wrong: Failed) -> Failed {
        match self {
            Self::Form => wrong,
            Self::NoZones => {
                let message = format!("cannot use `{key} = \"{text}\"`: this system has no time zone database");
                Failed::new(Failure::Other, message)
                    .hint("install the package `tzdata`, or give the time in UTC: `00:00 UTC`")
            }
        }
    }
}

/// One day of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Day {
    pub(crate) date: Date,
    pub(crate) begins: SystemTime,
    /// When the next day starts.
    pub(crate) ends: SystemTime,
}

impl Zone {
    /// `text` as in `day_resets`; without it, days are UTC days.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self> {
        let Some(text) = text else { return Ok(Self::utc()) };
        Self::read(text, jiff::tz::db()).map_err(|unread| {
            let wrong = Failed::new(Failure::Other, format!("`day_resets = \"{text}\"` is not a time and a zone"));
            unread.failed(text, "day_resets", wrong.hint("write it like `00:00 Asia/Shanghai`")).into()
        })
    }

    fn read(text: &str, zones: &TimeZoneDatabase) -> Result<Self, Unread> {
        let (time, name) = text.split_once(' ').ok_or(Unread::Form)?;
        let (begins, name) = (time.parse().map_err(|_| Unread::Form)?, name.trim());
        match zones.get(name).ok().or_else(|| built_in(name)) {
            Some(zone) => Ok(Self { begins, zone }),
            None if zones.is_definitively_empty() => Err(Unread::NoZones),
            None => Err(Unread::Form),
        }
    }

    /// Days from midnight to midnight in UTC.
    pub(crate) fn utc() -> Self {
        Self { begins: Time::midnight(), zone: TimeZone::UTC }
    }

    /// The day of `now`.
    pub(crate) fn day_of(&self, now: SystemTime) -> Day {
        let timestamp = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
        let mut date = self.zone.to_datetime(timestamp).date();
        // Not by the hour, which comes twice when clocks are set back.
        if self.at(date).is_some_and(|begins| now < begins) {
            date = date.yesterday().unwrap_or(date);
        }
        let begins = self.at(date).unwrap_or(now);
        let ends = date.tomorrow().ok().and_then(|next| self.at(next)).unwrap_or(now);
        Day { date, begins, ends }
    }

    fn at(&self, date: Date) -> Option<SystemTime> {
        let begin = self.zone.to_ambiguous_timestamp(date.to_datetime(self.begins)).compatible().ok()?;
        Some(begin.into())
    }

    /// The day `count` days before that of `now`.
    pub(crate) fn days_before(&self, now: SystemTime, count: u32) -> Date {
        let date = self.day_of(now).date;
        date.checked_sub(i64::from(count).days()).unwrap_or(date)
    }
}

/// The zones of the built-in providers, by their rules since 2007, for a system without a database of zones, such as an image
/// made from scratch.
fn built_in(zone: &str) -> Option<TimeZone> {
    let rule = match zone {
        "Asia/Shanghai" => "CST-8",
        "America/Los_Angeles" => "PST8PDT,M3.2.0,M11.1.0",
        "UTC" => "UTC0",
        _ => return None,
    };
    TimeZone::posix(rule).ok()
}

/// When a provider's week starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Week {
    /// Days after Monday.
    day: i64,
    zone: Zone,
}

impl Week {
    /// `text` as in `week_resets`: `Mon 00:00 Asia/Shanghai`.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let read = || {
            let (day, rest) = text.split_once(' ').ok_or(Unread::Form)?;
            let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
            let day = (0..).zip(days).find(|(_, known)| day.eq_ignore_ascii_case(known)).ok_or(Unread::Form)?.0;
            Ok(Self { day, zone: Zone::read(rest, jiff::tz::db())? })
        };
        read().map_err(|unread: Unread| {
            let wrong = format!("`week_resets = \"{text}\"` is not a day, a time and a zone");
            let wrong = Failed::new(Failure::Other, wrong).hint("write it like `Mon 00:00 Asia/Shanghai`");
            unread.failed(text, "week_resets", wrong).into()
        })
    }

    /// When the week of `now` ends.
    pub(super) fn end(&self, now: SystemTime) -> SystemTime {
        let today = self.zone.day_of(now).date;
        let passed = (i64::from(today.weekday().to_monday_zero_offset()) - self.day).rem_euclid(7);
        let next = today.checked_add((7 - passed).days()).ok();
        next.and_then(|next| self.zone.at(next)).unwrap_or(now)
    }
}

/// When the week of `now` ends. `text` as in `week_resets`.
pub(crate) fn week_end(text: &str, now: SystemTime) -> Result<SystemTime> {
    Ok(Week::parse(text)?.end(now))
}

impl Day {
    pub(crate) fn contains(&self, now: SystemTime) -> bool {
        self.begins <= now && now < self.ends
    }

    /// A number that increases by one per day.
    pub(crate) fn number(&self) -> i32 {
        Date::constant(1970, 1, 1).until(self.date).map_or(0, |span| span.get_days())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write;

    use super::*;

    fn at(text: &str) -> SystemTime {
        text.parse::<Timestamp>().unwrap().into()
    }

    #[test]
    fn a_day_begins_by_the_clock_of_the_provider() {
        let zone = Zone::parse(Some("00:00 Asia/Shanghai")).unwrap();
        let day = zone.day_of(at("2026-11-21T15:59:59Z"));
        assert_eq!(day.date.to_string(), "2026-11-21");
        assert_eq!(day.ends, at("2026-11-21T16:00:00Z"));
        assert!(day.contains(day.begins) && day.contains(at("2026-11-21T15:59:59Z")));
        assert!(!day.contains(at("2026-11-20T15:59:59Z")) && !day.contains(at("2026-11-21T16:00:00Z")));
        let next = zone.day_of(at("2026-11-21T16:00:00Z"));
        assert_eq!(next.date.to_string(), "2026-11-22");
        assert_eq!(next.number(), day.number() + 1);
    }

    #[test]
    fn a_day_may_begin_at_another_hour_and_last_23_hours() {
        let zone = Zone::parse(Some("03:30 America/Los_Angeles")).unwrap();
        assert_eq!(zone.day_of(at("2026-03-07T11:29:59Z")).date.to_string(), "2026-03-06");
        let day = zone.day_of(at("2026-03-07T11:30:00Z"));
        assert_eq!(day.date.to_string(), "2026-03-07");
        // Daylight saving time begins on the 8th at 02:00.
        assert_eq!(day.ends, at("2026-03-08T10:30:00Z"));
    }

    #[test]
    fn a_day_that_begins_in_an_hour_that_comes_twice_begins_once() {
        let zone = Zone::parse(Some("01:30 America/Los_Angeles")).unwrap();
        // Daylight saving time ends on the 1st at 02:00, when it is 01:00 again.
        for (now, date) in [
            ("2026-11-01T08:29:59Z", "2026-10-31"),
            ("2026-11-01T08:30:00Z", "2026-11-01"),
            ("2026-11-01T09:10:00Z", "2026-11-01"),
            ("2026-11-02T09:29:59Z", "2026-11-01"),
            ("2026-11-02T09:30:00Z", "2026-11-02"),
        ] {
            let day = zone.day_of(at(now));
            assert!(day.date.to_string() == date && day.contains(at(now)), "{now}: {day:?}");
        }
    }

    #[test]
    fn days_are_counted_back_from_the_day_of_the_provider() {
        let zone = Zone::parse(Some("00:00 Asia/Shanghai")).unwrap();
        let now = at("2026-12-01T16:00:00Z");
        assert_eq!([0, 2].map(|count| zone.days_before(now, count).to_string()), ["2026-12-02", "2026-11-30"]);
    }

    #[test]
    fn a_week_ends_on_the_day_and_at_the_hour_of_the_provider() {
        let ends = |now: &str| week_end("Mon 00:00 Asia/Shanghai", at(now)).unwrap();
        // A Saturday, and the last second of a Sunday in Shanghai.
        assert_eq!(ends("2026-11-21T10:00:00Z"), at("2026-11-22T16:00:00Z"));
        assert_eq!(ends("2026-11-22T15:59:59Z"), at("2026-11-22T16:00:00Z"));
        assert_eq!(ends("2026-11-22T16:00:00Z"), at("2026-11-29T16:00:00Z"));
        let ends = |text: &str| week_end(text, at("2026-11-26T12:00:00Z")).unwrap();
        // It is a Thursday.
        for (day, end) in [("Wed", "2026-12-02"), ("thu", "2026-12-03"), ("Fri", "2026-11-27"), ("SUN", "2026-11-29")] {
            assert_eq!(ends(&format!("{day} 00:00 UTC")), at(&format!("{end}T00:00:00Z")), "{day}");
        }
        for bad in ["", "Mon", "Mon 00:00", "Someday 00:00 UTC", "Mon 00:00 Nowhere/Else"] {
            assert!(week_end(bad, at("2026-11-22T16:00:00Z")).is_err(), "{bad}");
        }
    }

    #[test]
    fn zones_of_built_in_providers_need_no_database() {
        let overrides = crate::providers::Overrides::default();
        let mut zones = BTreeMap::new();
        for name in crate::providers::names(&overrides) {
            let limits = crate::providers::find(&name, &overrides).unwrap().limits;
            for text in [limits.day_resets, limits.week_resets].into_iter().flatten() {
                zones.insert(text.rsplit(' ').next().unwrap().to_owned(), name.clone());
            }
        }
        assert!(zones.len() > 1, "{zones:?}");
        for (zone, name) in zones {
            let own = built_in(&zone).unwrap_or_else(|| panic!("{name}: {zone}"));
            let Ok(known) = TimeZone::get(&zone) else {
                let _ = writeln!(std::io::stdout(), "skipped: this system has no database of time zones");
                return;
            };
            for hours in 0..24 * 365 * 5 {
                let time = Timestamp::from_second(1_760_000_000 + hours * 3600).unwrap();
                assert_eq!(own.to_offset(time), known.to_offset(time), "{zone} at {time}");
            }
        }
    }

    #[test]
    fn a_system_without_zones_is_told_from_a_mistyped_zone() {
        let none = TimeZoneDatabase::none();
        assert_eq!(Zone::read("00:00 Europe/Berlin", &none).unwrap_err(), Unread::NoZones);
        assert_eq!(Zone::read("25:00 Europe/Berlin", &none).unwrap_err(), Unread::Form);
        for known in ["00:00 UTC", "00:00 Asia/Shanghai"] {
            assert!(Zone::read(known, &none).is_ok(), "{known}");
        }
        let zones = jiff::tz::db();
        if !zones.is_definitively_empty() {
            assert_eq!(Zone::read("00:00 Nowhere/Else", zones).unwrap_err(), Unread::Form);
        }
        let failed =
            Unread::NoZones.failed("00:00 Europe/Berlin", "day_resets", Failed::new(Failure::Other, "mistyped"));
        assert_eq!(
            failed.message,
            "cannot use `day_resets = \"00:00 Europe/Berlin\"`: this system has no time zone database"
        );
    }

    #[test]
    fn what_is_no_time_and_zone_is_refused() {
        for bad in ["", "00:00", "25:00 UTC", "00:00 Nowhere/Else"] {
            assert!(Zone::parse(Some(bad)).is_err(), "{bad}");
        }
    }
}
