//! How often a rejected request is sent again, and after which wait.
//!
//! Hazard: when a provider is down, a repetition of everything is the last thing it needs.
//! Rule: few attempts for one request, and a budget for all of them together.

use std::time::{Duration, Instant};

use crate::providers::error::{Action, ApiError};

/// Attempts for one request, the first included.
pub(super) const MAX_ATTEMPTS: u32 = 3;

/// Full jitter over half a second, doubled each time, up to [`MAX_BACKOFF`].
const BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(8);

/// A limit per minute recovers within this.
const MINUTE: Duration = Duration::from_secs(60);

/// What becomes of a rejected request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Next {
    /// Send it again after this long.
    After(Duration),
    /// The provider's response is forwarded to the client.
    Forward,
    /// The provider's response is forwarded to the client, and the limit counts as used up.
    Exhausted,
    /// The limit is used up: a message of the gateway's own says so.
    Stop,
}

/// `attempts`: those made. `in_vain`: a wait for this limit did not help, in this request or before.
pub(in crate::gateway) fn next(
    error: &ApiError,
    status: u16,
    attempts: u32,
    in_vain: bool,
    max_wait: Duration,
) -> Next {
    let is_limit = status == 429;
    match error.action(max_wait) {
        // Never less than the server stated, and not all at the same moment.
        Action::Wait(wait) if !(is_limit && in_vain) => {
            Next::After(wait + jitter(Duration::from_millis(100).max(wait / 10).min(BACKOFF)))
        }
        Action::OnceMore if !in_vain => Next::After(max_wait.min(MINUTE).mul_f64(0.5 + rand::random::<f64>() / 2.0)),
        Action::Backoff => Next::After(backoff(attempts)),
        Action::Wait(_) | Action::OnceMore if error.cause.is_window() => Next::Stop,
        Action::Wait(_) | Action::OnceMore => Next::Exhausted,
        Action::Forward if is_limit && error.wait.is_some() => Next::Exhausted,
        Action::Forward => Next::Forward,
        Action::Stop => Next::Stop,
    }
}

pub(super) fn backoff(attempts: u32) -> Duration {
    jitter((BACKOFF * 2u32.saturating_pow(attempts.saturating_sub(1))).min(MAX_BACKOFF))
}

fn jitter(most: Duration) -> Duration {
    most.mul_f64(rand::random::<f64>())
}

/// How many requests may be sent again: a fifth of those of the last ten seconds, and three.
#[derive(Default)]
pub(in crate::gateway) struct RetryBudget {
    /// Second, requests and repetitions.
    seconds: [(u64, u32, u32); 10],
    since: Option<Instant>,
}

impl RetryBudget {
    pub(super) fn note_request(&mut self) {
        self.now().1 += 1;
    }

    /// Whether one more repetition is within the budget, which it then is taken from.
    pub(super) fn take_repetition(&mut self) -> bool {
        let second = self.now().0;
        let recent = self.seconds.iter().filter(|entry| entry.0 + 10 > second);
        let (requests, repetitions) =
            recent.fold((0, 0), |(requests, repetitions), entry| (requests + entry.1, repetitions + entry.2));
        let allowed = repetitions < 3 + requests / 5;
        if allowed {
            self.now().2 += 1;
        }
        allowed
    }

    fn now(&mut self) -> &mut (u64, u32, u32) {
        let since = *self.since.get_or_insert_with(Instant::now);
        let second = since.elapsed().as_secs();
        let entry = &mut self.seconds[usize::try_from(second % 10).unwrap_or_default()];
        if entry.0 != second {
            *entry = (second, 0, 0);
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    use super::*;
    use crate::providers::error::Response;

    const MAX_WAIT: Duration = Duration::from_secs(30);

    fn error(status: u16, retry_after: Option<&str>, message: &str) -> ApiError {
        let header = |name: &str| retry_after.filter(|_| name == "retry-after").map(str::to_owned);
        let body = format!(r#"{{"error":{{"message":"{message}"}}}}"#);
        let (body, now) = (body.as_bytes(), SystemTime::now());
        let response = Response { status, header: &header, body, model: None, secrets: &[], now };
        ApiError::read(&response, &BTreeMap::new())
    }

    #[test]
    fn a_stated_wait_is_kept_and_a_second_one_for_the_same_limit_is_not_trusted() {
        let waits =
            |status, seconds: &str, in_vain| next(&error(status, Some(seconds), ""), status, 1, in_vain, MAX_WAIT);
        for (status, in_vain) in [(429, false), (503, false), (503, true)] {
            for (stated, most) in [("1", 1.1), ("3", 3.3), ("20", 20.5)] {
                let least = stated.parse().unwrap();
                for _ in 0..100 {
                    let Next::After(wait) = waits(status, stated, in_vain) else { panic!("{status} {stated}") };
                    assert!((least..=most).contains(&wait.as_secs_f64()), "{stated}: {wait:?}");
                }
            }
        }
        assert_eq!(waits(429, "3", true), Next::Exhausted);
        // Longer than a request waits: the client gets it, and only a limit is remembered.
        assert_eq!(waits(429, "40", false), Next::Exhausted);
        assert_eq!(waits(503, "40", false), Next::Forward);
        assert_eq!(next(&error(400, None, ""), 400, 1, false, MAX_WAIT), Next::Forward);
        assert_eq!(next(&error(429, None, "daily"), 429, 1, false, MAX_WAIT), Next::Stop);
    }

    #[test]
    fn a_minute_is_waited_for_once_and_longer_backoffs_follow_shorter_ones() {
        let minute = |max_wait, in_vain| next(&error(429, None, "per minute"), 429, 1, in_vain, max_wait);
        for (max_wait, most) in [(MAX_WAIT, 30.0), (MINUTE * 2, 60.0)] {
            for _ in 0..100 {
                let Next::After(wait) = minute(max_wait, false) else { panic!("a minute is waited for") };
                assert!((most / 2.0..=most).contains(&wait.as_secs_f64()), "{wait:?}");
            }
        }
        assert_eq!(minute(MAX_WAIT, true), Next::Exhausted);
        for (attempts, most) in [(1, 0.5), (2, 1.0), (3, 2.0), (9, 8.0)] {
            let longest = (0..200).map(|_| backoff(attempts)).max().unwrap_or_default().as_secs_f64();
            assert!((most * 0.8..=most).contains(&longest), "{attempts}: {longest}");
        }
    }

    #[test]
    fn repetitions_are_a_fifth_of_the_requests_and_three() {
        let mut budget = RetryBudget::default();
        assert_eq!((0..10).filter(|_| budget.take_repetition()).count(), 3);
        (0..100).for_each(|_| budget.note_request());
        assert_eq!((0..100).filter(|_| budget.take_repetition()).count(), 20);
    }
}
