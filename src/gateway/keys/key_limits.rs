//! The limits of a key, as a client is told of them: why a request is rejected, and what is left.

use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::epoch;
use crate::gateway::profiles::pacing::NoSlot;
use crate::gateway::response::refusal::{self, RETRY_SOON, Refusal, duration};
use crate::keys::{KeyRecord, Money};
use crate::limits::{Left, Refused};

const LIMIT_REQUESTS: HeaderName = HeaderName::from_static("x-ratelimit-limit-requests");
const REMAINING_REQUESTS: HeaderName = HeaderName::from_static("x-ratelimit-remaining-requests");
const RESET_REQUESTS: HeaderName = HeaderName::from_static("x-ratelimit-reset-requests");
const BUDGET_REMAINING: HeaderName = HeaderName::from_static("x-qwenauth-budget-remaining");

pub(in crate::gateway) fn unavailable() -> Refusal {
    let message = "the keys cannot be read at the moment";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "shared_state_unavailable", message).after(RETRY_SOON)
}

pub(in crate::gateway) fn expired(key: &KeyRecord) -> Refusal {
    let message = format!("the key `{}` has expired; its creator can extend it with `qwenauth keys set`", key.name);
    Refusal::new(StatusCode::FORBIDDEN, "key_expired", message).finally()
}

pub(in crate::gateway) fn unknown_key() -> Refusal {
    let message = "the key is unknown or revoked; create one with `qwenauth keys create` on the gateway's machine";
    Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message).finally()
}

/// The request has none.
pub(in crate::gateway) fn no_key() -> Refusal {
    let message = "the request has no API key: send yours in the header `Authorization: Bearer KEY`";
    Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message).finally()
}

pub(super) fn not_allowed(message: String) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "model_not_allowed", message).finally()
}

/// Rejects a request of `key`. `profile`: that of the account, whose limit it may be.
pub(in crate::gateway) fn refused(reason: Refused, key: &KeyRecord, profile: &str) -> Refusal {
    let name = &key.name;
    let until = |ends: SystemTime| ends.duration_since(SystemTime::now()).unwrap_or_default();
    let too_many = StatusCode::TOO_MANY_REQUESTS;
    match reason {
        Refused::Unknown => unknown_key(),
        Refused::Expired => expired(key),
        Refused::Unavailable => unavailable(),
        Refused::KeyRate { wait } => {
            let limits = limits_of(key.limits.requests_per_minute, key.limits.tokens_per_minute.map(u64::from));
            let message = format!(
                "the key `{name}` has reached its limit per minute ({limits}): this request would wait {}",
                duration(wait)
            );
            Refusal::new(too_many, "key_rate_limited", message).after(wait)
        }
        Refused::KeyParallel => {
            let most = key.limits.parallel.unwrap_or_default();
            let message = format!("the key `{name}` has reached its limit of {most} requests in flight");
            Refusal::new(too_many, "key_rate_limited", message).after(Duration::from_secs(1))
        }
        Refused::KeyReserved => {
            let message = format!(
                "the requests in flight of key `{name}` reserve the rest of its limit; try again when one has ended"
            );
            Refusal::new(too_many, "key_rate_limited", message).after(Duration::from_secs(1))
        }
        Refused::KeyDay { ends } => {
            let wait = until(ends);
            let limits = limits_of(key.limits.requests_per_day, key.limits.tokens_per_day);
            let message =
                format!("the key `{name}` has reached its limit for today ({limits}); it resets in {}", duration(wait));
            Refusal::new(too_many, "key_day_over", message).after(wait).finally()
        }
        Refused::KeyBudget { ends } => {
            let budget = key.limits.budget.map(|budget| budget.to_string()).unwrap_or_default();
            let wait = until(ends);
            let message = format!("the budget of key `{name}` ({budget}) is used up; it resets in {}", duration(wait));
            Refusal::new(too_many, "key_budget_exceeded", message).after(wait).finally()
        }
        Refused::AccountRate { wait } => refusal::no_slot(profile, NoSlot::TooLong(wait)),
        Refused::AccountDay { ends } => refusal::no_slot(profile, NoSlot::DayOver { ends }),
        Refused::AccountQuota(used_up) => refusal::no_slot(profile, NoSlot::OverQuota(used_up)),
    }
}

/// The limits of a minute or a day in words. Where there are two, either was reached.
fn limits_of(requests: Option<u32>, tokens: Option<u64>) -> String {
    let requests = requests.map(|most| format!("{most} requests"));
    let tokens = tokens.map(|most| format!("{most} tokens"));
    requests.into_iter().chain(tokens).collect::<Vec<_>>().join(", ")
}

/// States the limits of the key in a response.
pub(in crate::gateway) fn stamp(headers: &mut HeaderMap, key: &KeyRecord, left: &Left, now: SystemTime) {
    let limits = &key.limits;
    let minute = limits.requests_per_minute.map(|most| (most, left.requests_of_minute, left.minute_resets_in));
    let day = limits.requests_per_day.map(|most| (most, left.requests_of_day, rest_of_day(now)));
    let rest = |(most, used, _): &(u32, u64, Duration)| u64::from(*most).saturating_sub(*used);
    // The first of two with the same rest, which is that of the minute.
    if let Some(window) = minute.into_iter().chain(day).min_by_key(rest) {
        let (most, _, resets_in) = window;
        headers.insert(LIMIT_REQUESTS, HeaderValue::from(most));
        headers.insert(REMAINING_REQUESTS, HeaderValue::from(rest(&window)));
        if let Ok(reset) = HeaderValue::from_str(&format!("{}s", resets_in.as_secs_f64().ceil())) {
            headers.insert(RESET_REQUESTS, reset);
        }
    }
    if let Some(budget) = limits.budget
        && !left.is_spending_unknown
        && let Ok(rest) = HeaderValue::from_str(&left_of(budget.amount, left).to_string())
    {
        headers.insert(BUDGET_REMAINING, rest);
    }
}

/// What is neither spent nor reserved.
pub(in crate::gateway) fn left_of(budget: Money, left: &Left) -> Money {
    budget.minus(left.spent).minus(left.reserved)
}

/// Until the end of the day in UTC; without a calendar, because every response states it.
fn rest_of_day(now: SystemTime) -> Duration {
    const DAY: u64 = 86_400;
    let since = epoch::since(now);
    Duration::from_secs((since.as_secs() / DAY + 1) * DAY).saturating_sub(since)
}

/// The response to `GET /v1/key`: fields named as by OpenRouter, and the other limits.
pub(in crate::gateway) fn describe(key: &KeyRecord, left: &Left, now: SystemTime) -> Value {
    let limits = &key.limits;
    let rest = |most: Option<u64>, used: u64, resets_in: Duration| {
        most.map(|most| {
            json!({ "limit": most, "remaining": most.saturating_sub(used), "resets_in_seconds": resets_in.as_secs() })
        })
    };
    let (minute, day) = (left.minute_resets_in, rest_of_day(now));
    let time = |seconds: u64| epoch::rfc3339(epoch::from_seconds(seconds)?);
    json!({ "data": {
        "id": key.id,
        "label": key.name,
        "owner": key.owner,
        "expires_at": key.expires_at.and_then(time),
        "limit": limits.budget.map(|budget| budget.amount.dollars()),
        "limit_reset": limits.budget.map(|budget| budget.period.name()),
        "limit_resets_at": limits.budget.and_then(|budget| epoch::rfc3339(budget.period.ends(now))),
        "limit_remaining": limits.budget.map(|budget| left_of(budget.amount, left).dollars()),
        "usage": limits.budget.map(|_| left.spent.dollars()),
        "requests_per_minute": rest(limits.requests_per_minute.map(Into::into), left.requests_of_minute, minute),
        "requests_per_day": rest(limits.requests_per_day.map(Into::into), left.requests_of_day, day),
        "tokens_per_minute": rest(limits.tokens_per_minute.map(Into::into), left.tokens_of_minute, minute),
        "tokens_per_day": rest(limits.tokens_per_day, left.tokens_of_day, day),
        "parallel": limits.parallel.map(|most| json!({ "limit": most, "in_flight": left.parallel })),
        "models": limits.models,
        "profiles": limits.profiles,
    } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{Budget, TeamSecret};

    #[test]
    fn a_day_ends_at_midnight_in_utc() {
        let Ok(Budget { period: day, .. }) = "1 USD/day".parse() else { panic!("a budget") };
        let now = SystemTime::now();
        assert_eq!(rest_of_day(now), day.ends(now).duration_since(now).unwrap());
    }

    #[test]
    fn a_key_is_told_when_it_expires() {
        let (mut key, _) = KeyRecord::create("ann", &TeamSecret::new(), SystemTime::now());
        let describe = |key: &KeyRecord| describe(key, &Left::default(), SystemTime::now());
        assert_eq!(describe(&key)["data"]["expires_at"], Value::Null);
        key.expires_at = Some(1_800_000_000);
        assert_eq!(describe(&key)["data"]["expires_at"], "2027-01-15T08:00:00Z");
        key.expires_at = Some(u64::MAX);
        assert_eq!(describe(&key)["data"]["expires_at"], Value::Null);
    }

    #[test]
    fn the_limit_with_less_left_is_stated_and_a_rejection_names_it() {
        let (mut key, _) = KeyRecord::create("ci", &TeamSecret::new(), SystemTime::now());
        (key.limits.requests_per_minute, key.limits.requests_per_day) = (Some(60), Some(50));
        let stated = |requests_of_day| {
            let mut headers = HeaderMap::new();
            let left = Left { requests_of_minute: 10, requests_of_day, ..Left::default() };
            stamp(&mut headers, &key, &left, SystemTime::now());
            [LIMIT_REQUESTS, REMAINING_REQUESTS].map(|name| headers[name].to_str().unwrap().to_owned())
        };
        assert_eq!([stated(0), stated(1), stated(50)], [["60", "50"], ["50", "49"], ["50", "0"]]);
        assert_eq!(limits_of(Some(50), None), "50 requests");
        assert_eq!(limits_of(None, Some(1000)), "1000 tokens");
        assert_eq!(limits_of(Some(50), Some(1000)), "50 requests, 1000 tokens");
    }

    #[test]
    fn spending_that_is_not_known_is_not_stated() {
        let (mut key, _) = KeyRecord::create("ann", &TeamSecret::new(), SystemTime::now());
        key.limits.budget = "1 USD/day".parse().ok();
        let stated = |is_spending_unknown| {
            let mut headers = HeaderMap::new();
            let left = Left { spent: Money(250_000_000), is_spending_unknown, ..Left::default() };
            stamp(&mut headers, &key, &left, SystemTime::now());
            headers.get(BUDGET_REMAINING).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!((stated(false).as_deref(), stated(true)), (Some("0.75"), None));
    }
}
