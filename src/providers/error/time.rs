//! When a server says that another attempt makes sense: in headers, in fields and in words.

use std::time::{Duration, SystemTime};

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::http;

/// Longer waits are mistakes, and could overflow `SystemTime`.
const MAX_WAIT: Duration = Duration::from_secs(366 * 86400);

/// An epoch above this is in milliseconds: as seconds it would be the year 5138.
const MILLISECONDS: i64 = 100_000_000_000;

type Header<'a> = &'a dyn Fn(&str) -> Option<String>;

/// `retry-after-ms`, then `Retry-After` in seconds or as a date (RFC 9110 §10.2.3). A date is compared with the server's
/// own clock where it states the time.
pub(crate) fn retry_after(header: Header, now: SystemTime) -> Option<Duration> {
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    let text = |name: &str| header(name).map(|value| value.trim().to_owned());
    if let Some(milliseconds) = text("retry-after-ms").and_then(|value| number(&value)) {
        return Some(seconds(milliseconds / 1000.0));
    }
    let value = text("retry-after")?;
    if let Some(stated) = number(&value) {
        return Some(seconds(stated));
    }
    let at = http::parse_date(&value)?;
    let now = text("date").and_then(|value| http::parse_date(&value)).unwrap_or(now);
    Some(at.duration_since(now).unwrap_or_default().min(MAX_WAIT))
}

/// `X-RateLimit-Reset` as OpenRouter sends it: an epoch.
pub(super) fn reset_header(header: Header, now: SystemTime) -> Option<Duration> {
    let at = epoch(&header("x-ratelimit-reset")?)?;
    Some(at.duration_since(now).ok()?.min(MAX_WAIT))
}

/// An epoch in milliseconds or seconds. Small numbers are delays or counts.
pub(crate) fn epoch(text: &str) -> Option<SystemTime> {
    let number: i64 = text.trim().parse().ok()?;
    let timestamp =
        if number > MILLISECONDS { Timestamp::from_millisecond(number) } else { Timestamp::from_second(number) };
    timestamp.ok().filter(|_| number > 1_000_000_000).map(SystemTime::from)
}

/// A field such as Google's `retryDelay` or a header such as Groq's: `"34.07s"`, `"2m59.56s"`, or plain seconds.
pub(crate) fn delay(text: &str) -> Option<Duration> {
    let text = text.trim();
    match duration_at(text) {
        Some((stated, "")) => Some(stated),
        _ => text.parse::<f64>().ok().filter(|number| *number >= 0.0).map(seconds),
    }
}

/// `try again in 9m38s`, `resets at 2026-12-01 12:00:00`, `30 秒后重试`.
pub(super) fn in_words(text: &str, now: SystemTime) -> Option<Duration> {
    let lower = text.to_lowercase();
    in_a_while(&lower).or_else(|| at_a_time(&lower, now))
}

/// Words right before a delay.
const BEFORE_DELAY: [&str; 12] = [
    "again in",
    "again after",
    "retry in",
    "retry after",
    "retry after:",
    "wait",
    "wait for",
    "resets in",
    "reset in",
    "reset after",
    "available in",
    "available after",
];

/// Words near a time of reset.
const BEFORE_TIME: [&str; 7] = ["reset", "until", "available", "重置", "恢复", "刷新", "解除"];

fn in_a_while(lower: &str) -> Option<Duration> {
    starts_of_numbers(lower).find_map(|at| {
        let (stated, rest) = duration_at(&lower[at..])?;
        let before = lower[..at].trim_end();
        let is_announced = BEFORE_DELAY.iter().any(|phrase| before.ends_with(phrase));
        let after = rest.trim_start();
        let is_followed =
            after.starts_with('后') && ["重试", "再试", "恢复", "重置"].iter().any(|word| lower.contains(word));
        (is_announced || is_followed).then_some(stated)
    })
}

fn at_a_time(lower: &str, now: SystemTime) -> Option<Duration> {
    if !BEFORE_TIME.iter().any(|word| lower.contains(word)) {
        return None;
    }
    let is_chinese = BEFORE_TIME[3..].iter().any(|word| lower.contains(word));
    let default = if is_chinese { TimeZone::fixed(jiff::tz::offset(8)) } else { TimeZone::UTC };
    let at = starts_of_numbers(lower).find_map(|at| moment_at(&lower[at..], &default, now))?;
    let wait = SystemTime::from(at).duration_since(now).ok()?;
    (wait <= MAX_WAIT).then_some(wait)
}

/// Where numbers begin.
fn starts_of_numbers(text: &str) -> impl Iterator<Item = usize> + '_ {
    let bytes = text.as_bytes();
    let is_inside =
        |at: usize| at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || matches!(bytes[at - 1], b'.' | b'-'));
    (0..bytes.len()).filter(move |&at| bytes[at].is_ascii_digit() && !is_inside(at))
}

/// Units, longest spellings first.
const UNITS: [(&str, f64); 23] = [
    ("milliseconds", 0.001),
    ("millisecond", 0.001),
    ("seconds", 1.0),
    ("second", 1.0),
    ("minutes", 60.0),
    ("minute", 60.0),
    ("hours", 3600.0),
    ("hour", 3600.0),
    ("days", 86400.0),
    ("day", 86400.0),
    ("mins", 60.0),
    ("min", 60.0),
    ("secs", 1.0),
    ("sec", 1.0),
    ("ms", 0.001),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
    ("d", 86400.0),
    ("小时", 3600.0),
    ("分钟", 60.0),
    ("秒", 1.0),
    ("天", 86400.0),
];

/// One or more numbers with units, and what follows them.
fn duration_at(text: &str) -> Option<(Duration, &str)> {
    let mut total = 0.0;
    let mut rest = text;
    let mut found = false;
    loop {
        let trimmed =
            rest.trim_start_matches([' ', ',']).strip_prefix("and ").unwrap_or(rest.trim_start_matches([' ', ',']));
        let end = trimmed.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(trimmed.len());
        let Ok(number) = trimmed[..end].parse::<f64>() else { break };
        let after = trimmed[end..].trim_start();
        let unit = UNITS.iter().find(|(name, _)| {
            let next = after.strip_prefix(name).and_then(|rest| rest.chars().next());
            after.starts_with(name) && (!name.is_ascii() || next.is_none_or(|next| !next.is_ascii_alphabetic()))
        });
        let Some((name, length)) = unit else { break };
        total += number * length;
        found = true;
        rest = &after[name.len()..];
    }
    found.then(|| (seconds(total), rest))
}

/// A date with a time of day at the beginning of `text`: with or without a year, an offset or a zone.
fn moment_at(text: &str, default: &TimeZone, now: SystemTime) -> Option<Timestamp> {
    let mut numbers = [0_i32; 6];
    let mut count = 0;
    let mut rest = text;
    let mut first_length = 0;
    let mut separators: &[char] = &['-', '/', ':', 't', ' '];
    while count < 6 {
        let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let Ok(number) = rest[..end].parse() else { break };
        if count == 0 {
            first_length = end;
        }
        numbers[count] = number;
        count += 1;
        rest = &rest[end..];
        // What follows a time of day with another sign is its offset.
        if rest.starts_with(':') {
            separators = &[':'];
        }
        let Some(next) = rest.strip_prefix(separators).filter(|next| next.starts_with(|l: char| l.is_ascii_digit()))
        else {
            break;
        };
        rest = next;
    }
    let has_year = first_length == 4;
    let numbers = &numbers[..count];
    let this_year = Zoned::new(Timestamp::try_from(now).ok()?, default.clone()).year();
    let (year, clock) = match (has_year, numbers) {
        (true, [year, month, day, clock @ ..]) if clock.len() >= 2 => {
            (i16::try_from(*year).ok()?, (*month, *day, clock))
        }
        (false, [month, day, clock @ ..]) if clock.len() >= 2 && first_length <= 2 => {
            (this_year, (*month, *day, clock))
        }
        _ => return None,
    };
    let (month, day, clock) = clock;
    let small = |number: i32| i8::try_from(number).ok();
    let time = Time::new(small(clock[0])?, small(clock[1])?, small(clock.get(2).copied().unwrap_or(0))?, 0).ok()?;
    let date = Date::new(year, small(month)?, small(day)?).ok()?;
    let rest =
        rest.strip_prefix('.').map_or(rest, |rest| rest.trim_start_matches(|letter: char| letter.is_ascii_digit()));
    let at = DateTime::from_parts(date, time).to_zoned(zone_at(rest.trim_start(), default)).ok()?.timestamp();
    // Without a year it is the next such day.
    let half_a_year = jiff::Span::new().hours(182 * 24);
    let is_last_year = !has_year && at < Timestamp::try_from(now).ok()?.checked_sub(half_a_year).ok()?;
    if is_last_year { at.checked_add(jiff::Span::new().hours(365 * 24)).ok() } else { Some(at) }
}

fn zone_at(text: &str, default: &TimeZone) -> TimeZone {
    let text = text.trim_start_matches('(');
    let text = text
        .strip_prefix("utc")
        .or_else(|| text.strip_prefix("gmt"))
        .map_or(text, |rest| if rest.starts_with(['+', '-']) { rest } else { "z" });
    if text.starts_with('z') {
        return TimeZone::UTC;
    }
    let Some(sign) = text.chars().next().filter(|sign| matches!(sign, '+' | '-')) else { return default.clone() };
    let digits: String = text[1..]
        .chars()
        .take_while(|letter| letter.is_ascii_digit() || *letter == ':')
        .filter(char::is_ascii_digit)
        .collect();
    let (hours, minutes) = digits.split_at(digits.len().min(2));
    let seconds = hours.parse::<i32>().unwrap_or(0) * 3600 + minutes.parse::<i32>().unwrap_or(0) * 60;
    let offset = jiff::tz::Offset::from_seconds(if sign == '-' { -seconds } else { seconds });
    offset.map_or_else(|_| default.clone(), TimeZone::fixed)
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(MAX_WAIT).min(MAX_WAIT)
}
