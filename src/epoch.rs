//! Times as files, servers and responses state them: seconds or milliseconds since 1970, and RFC 3339.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time since 1970; zero before that.
pub(crate) fn since(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Whole seconds since 1970; 0 before that.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    since(time).as_secs()
}

/// Whole milliseconds since 1970; 0 before that.
pub(crate) fn milliseconds(time: SystemTime) -> u64 {
    whole_milliseconds(since(time))
}

pub(crate) fn whole_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The time so many seconds after 1970; `None` for one that no clock shows, as a damaged file may have it.
pub(crate) fn from_seconds(seconds: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// The same of milliseconds.
pub(crate) fn from_milliseconds(milliseconds: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds))
}

/// RFC 3339, in UTC, to the second.
pub(crate) fn rfc3339(time: SystemTime) -> Option<String> {
    Some(format!("{:.0}", jiff::Timestamp::try_from(time).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_to_the_second() {
        let times = [0, 1_792_000_000_999].map(|millis| rfc3339(UNIX_EPOCH + Duration::from_millis(millis)));
        assert_eq!(times.map(Option::unwrap), ["1970-01-01T00:00:00Z", "2026-10-14T17:46:40Z"]);
    }

    #[test]
    fn a_time_before_1970_is_zero_and_one_that_no_clock_shows_is_none() {
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!((since(before), seconds(before), milliseconds(before)), (Duration::ZERO, 0, 0));
        let after = UNIX_EPOCH + Duration::from_millis(7_900);
        assert_eq!((seconds(after), milliseconds(after)), (7, 7_900));
        assert_eq!(from_seconds(7), Some(UNIX_EPOCH + Duration::from_secs(7)));
        assert_eq!(from_milliseconds(7_900), Some(after));
        assert_eq!(from_seconds(u64::MAX), None);
        assert_eq!(whole_milliseconds(Duration::MAX), u64::MAX);
    }
}
