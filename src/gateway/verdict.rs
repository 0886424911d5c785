//! What a refusal of the provider means: wait and try again, or tell the user at once.

use std::time::{Duration, SystemTime};

use hyper::header::{DATE, HeaderMap, RETRY_AFTER};
use hyper::{StatusCode, header};
use jiff::Timestamp;
use serde_json::Value;

/// The verdict on an answer with status 429 or 503.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// After this long, which the server named.
    After(Duration),
    /// It passes soon, nobody knows when.
    Soon,
    /// Tokens of a minute, as a rule: one try more, after a minute at most.
    OnceMore,
    /// The quota of the day; until when, if the server said so.
    DayOver(Option<SystemTime>),
    /// The plan, the free quota or the money is used up.
    PlanOver,
}

/// Words that tell a used-up plan from a full minute. OpenAI's own text for `insufficient_quota` is among them.
const PLAN: [&str; 16] = [
    "free tier",
    "freetier",
    "free allocated quota",
    "free quota",
    "check your plan",
    "billing",
    "your plan",
    "coding plan",
    "token plan",
    "subscription",
    "arrear",
    "balance",
    "credits",
    "weekly",
    "monthly",
    "package",
];

const DAY: [&str; 7] = ["per day", "per-day", "daily", "today", "tomorrow", "requests_per_day", "perday"];

/// Longest wait that is believed: more is a mistake, and added to a time it could be more than a time can be.
const LONGEST: Duration = Duration::from_secs(366 * 86400);

/// Longest that an epoch in a header is taken for: years of seconds, beyond that milliseconds.
const MILLISECONDS: i64 = 100_000_000_000;

pub(crate) fn judge(status: StatusCode, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Verdict {
    let named = retry_after(headers, now);
    if status != StatusCode::TOO_MANY_REQUESTS {
        return named.map_or(Verdict::Soon, Verdict::After);
    }
    let reply: Value = serde_json::from_slice(body).unwrap_or_default();
    let words = said(&reply).to_lowercase();
    let codes = codes(&reply).to_lowercase();
    let about = |known: &[&str]| known.iter().any(|word| words.contains(word) || codes.contains(word));
    if about(&DAY) {
        return Verdict::DayOver(reset(headers).or_else(|| named.map(|after| now + after)));
    }
    if about(&PLAN) {
        return Verdict::PlanOver;
    }
    if let Some(named) = named {
        return Verdict::After(named);
    }
    let quota = codes.contains("insufficient_quota") || codes.contains("allocationquota");
    if quota { Verdict::OnceMore } else { Verdict::Soon }
}

/// What an error says, for people.
pub(super) fn said(reply: &Value) -> &str {
    let error = &reply["error"];
    error["message"].as_str().or_else(|| error.as_str()).or_else(|| reply["message"].as_str()).unwrap_or_default()
}

/// Its `code`, `type` and whatever details there are.
pub(super) fn codes(reply: &Value) -> String {
    let error = &reply["error"];
    [&error["code"], &error["type"], &reply["code"], &error["details"], &error["metadata"]]
        .into_iter()
        .filter(|value| !value.is_null())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}

/// `retry-after-ms`, then `Retry-After` in seconds or as a date (RFC 9110 §10.2.3). A date is read by the server's own
/// clock where it told the time. At most [`LONGEST`].
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    if let Some(milliseconds) = headers.get("retry-after-ms").and_then(|value| number(value.to_str().ok()?.trim())) {
        return Some(wait(milliseconds / 1000.0));
    }
    let value = text(RETRY_AFTER)?;
    if let Some(seconds) = number(value) {
        return Some(wait(seconds));
    }
    let at = date(value)?;
    let now = text(DATE).and_then(date).unwrap_or(now);
    Some(at.duration_since(now).unwrap_or_default().min(LONGEST))
}

fn wait(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST).min(LONGEST)
}

/// The three forms of an HTTP date (RFC 9110 §5.6.7).
fn date(text: &str) -> Option<SystemTime> {
    let text = text.trim();
    let format = if text.ends_with("GMT") && text.contains('-') {
        "%A, %d-%b-%y %H:%M:%S"
    } else if text.ends_with("GMT") {
        "%a, %d %b %Y %H:%M:%S"
    } else {
        "%a %b %e %H:%M:%S %Y"
    };
    let text = text.trim_end_matches("GMT").trim_end();
    let civil = jiff::civil::DateTime::strptime(format, text).ok()?;
    Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().into())
}

/// `X-RateLimit-Reset` as OpenRouter sends it: an epoch in milliseconds or seconds.
fn reset(headers: &HeaderMap) -> Option<SystemTime> {
    let name = header::HeaderName::from_static("x-ratelimit-reset");
    epoch(headers.get(name)?.to_str().ok()?)
}

pub(super) fn epoch(text: &str) -> Option<SystemTime> {
    let number: i64 = text.trim().parse().ok()?;
    let timestamp =
        if number > MILLISECONDS { Timestamp::from_millisecond(number) } else { Timestamp::from_second(number) };
    // A small number is a delay or a count, not a time.
    timestamp.ok().filter(|_| number > 1_000_000_000).map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-21T10:00:00Z";

    fn now() -> SystemTime {
        NOW.parse::<Timestamp>().unwrap().into()
    }

    fn judged(headers: &[(&'static str, &'static str)], body: &str) -> Verdict {
        let map = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        judge(StatusCode::TOO_MANY_REQUESTS, &map, body.as_bytes(), now())
    }

    #[test]
    fn retry_after_is_read_in_every_form() {
        for (name, value, milliseconds) in [
            ("retry-after-ms", "1500", 1500),
            ("retry-after", "2", 2000),
            ("retry-after", "0.5", 500),
            ("retry-after", "Sat, 21 Nov 2026 10:00:03 GMT", 3000),
            ("retry-after", "Saturday, 21-Nov-26 10:00:03 GMT", 3000),
            ("retry-after", "Sat Nov 21 10:00:03 2026", 3000),
            ("retry-after", "Sat, 21 Nov 2026 09:00:00 GMT", 0),
        ] {
            assert_eq!(judged(&[(name, value)], ""), Verdict::After(Duration::from_millis(milliseconds)), "{value}");
        }
        let skewed = [("date", "Sat, 21 Nov 2026 12:00:00 GMT"), ("retry-after", "Sat, 21 Nov 2026 12:00:04 GMT")];
        assert_eq!(judged(&skewed, ""), Verdict::After(Duration::from_secs(4)));
        assert_eq!(judged(&[("retry-after", "soon")], ""), Verdict::Soon);
        assert_eq!(judged(&[("retry-after", "-1")], ""), Verdict::Soon);
    }

    #[test]
    fn a_full_minute_is_told_from_a_used_up_day_and_plan() {
        for (body, verdict) in [
            (r#"{"error":{"code":"limit_requests","message":"Requests rate limit exceeded"}}"#, Verdict::Soon),
            (r#"{"error":{"code":"limit_burst_rate","message":"Request rate increased too quickly"}}"#, Verdict::Soon),
            (r#"{"error":{"code":"insufficient_quota","message":"too many tokens"}}"#, Verdict::OnceMore),
            (
                r#"{"error":{"code":"Throttling.AllocationQuota","message":"allocated quota exceeded"}}"#,
                Verdict::OnceMore,
            ),
            (
                r#"{"error":{"code":"insufficient_quota","message":"Free allocated quota exceeded."}}"#,
                Verdict::PlanOver,
            ),
            (
                r#"{"error":{"type":"insufficient_quota","message":"You exceeded your current quota, please check your plan and billing details."}}"#,
                Verdict::PlanOver,
            ),
            (
                r#"{"error":{"code":429,"message":"Rate limit exceeded: free-models-per-day. Add 10 credits"}}"#,
                Verdict::DayOver(None),
            ),
            (r#"{"error":{"code":429,"message":"Rate limit exceeded: free-models-per-min."}}"#, Verdict::Soon),
            ("<html>", Verdict::Soon),
        ] {
            assert_eq!(judged(&[], body), verdict, "{body}");
        }
    }

    #[test]
    fn the_end_of_a_day_is_taken_from_the_server() {
        let body = r#"{"error":{"message":"free-models-per-day"}}"#;
        let ends = Verdict::DayOver(Some(now() + Duration::from_secs(60)));
        assert_eq!(judged(&[("x-ratelimit-reset", "1795255260000")], body), ends);
        assert_eq!(judged(&[("x-ratelimit-reset", "1795255260")], body), ends);
        assert_eq!(judged(&[("retry-after", "60")], body), ends);
    }
}
