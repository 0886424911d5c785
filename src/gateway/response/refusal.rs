//! Responses of the gateway itself, in the form of OpenAI's and of Anthropic's protocol.
//!
//! Hazard: clients retry on their own, and their retries would multiply with the gateway's. Rule: a response that no
//! retry can help says so, and responses to retried requests state when a further retry makes sense.

use std::borrow::Cow;
use std::path::Path;
use std::time::{Duration, SystemTime};

use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::json;

use super::response_body::ResponseBody;
use crate::error::{Failed, Failure, note, printable};
use crate::gateway::profiles::credential::ReadyCredential;
use crate::gateway::profiles::pacing::NoSlot;
use crate::gateway::upstream::SendError;
use crate::limits::{Exhausted, UsedUp};
use crate::providers::error::{Cause, retry_after};

const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// A message of our own.
pub(in crate::gateway) struct Refusal {
    pub(in crate::gateway) status: StatusCode,
    /// For programs: `code` of the error.
    pub(in crate::gateway) code: &'static str,
    pub(in crate::gateway) message: String,
    pub(in crate::gateway) retry_after: Option<Duration>,
    /// Whether the client should try again by itself; `None`: as it thinks right.
    should_retry: Option<bool>,
}

impl Refusal {
    pub(in crate::gateway) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None, should_retry: None }
    }

    /// Trying again will not help.
    pub(in crate::gateway) fn finally(mut self) -> Self {
        self.should_retry = Some(false);
        self
    }

    pub(in crate::gateway) fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// With a code that says more.
    pub(in crate::gateway) fn coded(mut self, code: Option<&'static str>) -> Self {
        self.code = code.unwrap_or(self.code);
        self
    }

    /// The body of the response.
    pub(in crate::gateway) fn text(&self) -> String {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            400..500 => "invalid_request_error",
            _ => "server_error",
        };
        let error = json!({ "message": self.message, "type": kind, "param": null, "code": self.code });
        // Clients of Anthropic's protocol read the `type` next to it.
        json!({ "type": "error", "error": error }).to_string()
    }

    pub(in crate::gateway) fn into_response(self) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::Whole(self.text().into()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(wait) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds_of(wait));
        }
        if let Some(should_retry) = self.should_retry {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static(if should_retry { "true" } else { "false" }));
        }
        response
    }
}

/// The value of `Retry-After`. Rounded up: never earlier than the truth.
pub(in crate::gateway) fn seconds_of(wait: Duration) -> HeaderValue {
    HeaderValue::from(rounded_up(wait))
}

fn rounded_up(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

pub(in crate::gateway) fn too_long(most: u64) -> Refusal {
    let message = format!("the request body exceeds {most} bytes (`--max-body`)");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message).finally()
}

/// The `Retry-After` where nothing says when what is missing is there again: a credential, the shared limits, memory.
pub(in crate::gateway) const RETRY_SOON: Duration = Duration::from_secs(5);

/// There is no credential to send.
pub(in crate::gateway) fn not_ready(failed: &Failed) -> Refusal {
    let hint = failed.hint.as_deref().map(|hint| format!("; {hint}")).unwrap_or_default();
    let message = without_directories(&format!("qwenauth: {}{hint}", failed.message));
    match failed.failure {
        Failure::Temporary => {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "credential_unavailable", message).after(RETRY_SOON)
        }
        Failure::LoginRequired => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "login_required", message).finally(),
        _ => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "credential_unavailable", message).finally(),
    }
}

/// The text with the names of files alone: the client may be on another machine, or another user.
fn without_directories(text: &str) -> String {
    let name = |part: &str| Some(Path::new(part).file_name()?.to_str()?.to_owned());
    let mut parts: Vec<Cow<'_, str>> = text.split('`').map(Cow::Borrowed).collect();
    for part in parts.iter_mut().skip(1).step_by(2) {
        if Path::new(&**part).is_absolute()
            && let Some(name) = name(part)
        {
            *part = Cow::Owned(name);
        }
    }
    parts.join("`")
}

/// There was no response.
pub(in crate::gateway) fn no_response(ready: &ReadyCredential, error: SendError) -> Refusal {
    let title = &ready.provider.title;
    match error {
        SendError::Client(why) => Refusal::new(StatusCode::BAD_REQUEST, "request_incomplete", why),
        SendError::ClientSilent(limit) => {
            let message = format!("the client sent no more of its request within {} s", limit.as_secs());
            Refusal::new(StatusCode::REQUEST_TIMEOUT, "client_timeout", message)
        }
        SendError::NotSent(why) => {
            Refusal::new(StatusCode::BAD_GATEWAY, "upstream_unreachable", format!("cannot reach {title}: {why}"))
        }
        SendError::Silent(limit) => {
            let message = format!("{title}: no response within {} s", limit.as_secs());
            Refusal::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", message)
        }
        SendError::Lost(why) => {
            let message = format!("the connection to {title} closed before a response arrived: {why}");
            Refusal::new(StatusCode::BAD_GATEWAY, "upstream_error", message)
        }
    }
}

/// The limits of `profile` give no slot.
pub(in crate::gateway) fn no_slot(profile: &str, no_slot: NoSlot) -> Refusal {
    match no_slot {
        NoSlot::DayOver { ends } => day_over(profile, ends),
        NoSlot::OverQuota(UsedUp { cause, ends }) => over_quota(profile, cause, ends),
        NoSlot::Unavailable => {
            let message =
                "the limits that the gateways of this team share are not available: their server is unreachable";
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "shared_state_unavailable", message).after(RETRY_SOON)
        }
        NoSlot::TooLong(wait) => {
            let seconds = rounded_up(wait);
            let message = format!("the queue of `{profile}` is full: this request would wait {seconds} s");
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message).after(wait)
        }
    }
}

/// A token that was just renewed was rejected: no login helps. `said`: the provider's message; `is_news`: whether it is to be
/// reported on stderr.
pub(in crate::gateway) fn ended(ready: &ReadyCredential, said: &str, is_news: bool) -> Refusal {
    let provider = &ready.provider;
    let said = if said.is_empty() { String::new() } else { format!(" (it said: {said})") };
    let note_of_provider = provider.note.as_deref().map(|note| format!("; {note}")).unwrap_or_default();
    let message = format!(
        "{} rejected a token that was just renewed: the plan or account has ended, and logging in again will not \
         help{said}{note_of_provider}; log in to another provider with `qwenauth login`",
        provider.title
    );
    if is_news {
        note(&message);
    }
    Refusal::new(StatusCode::UNAUTHORIZED, "account_ended", message).finally()
}

/// A limit that the server reported as used up, or a service that is down. `said`: the server's message.
pub(in crate::gateway) fn exhausted(profile: &str, title: &str, entry: &Exhausted, said: &str) -> Refusal {
    let (status, code) = match entry.cause {
        Cause::Outage => (StatusCode::BAD_GATEWAY, "upstream_unreachable"),
        Cause::Day => (StatusCode::TOO_MANY_REQUESTS, "daily_limit_reached"),
        Cause::Busy | Cause::Minute | Cause::Hour => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded"),
        _ => (StatusCode::TOO_MANY_REQUESTS, "insufficient_quota"),
    };
    let model = entry.model.as_deref().map(|model| format!(", model `{}`", printable(model))).unwrap_or_default();
    let wait = entry.wait(SystemTime::now());
    let ends = match entry.resets_at {
        Some(_) => format!("; it resets in {}", duration(wait)),
        None if entry.cause.is_account() => String::new(),
        None => format!("; next attempt in {}", duration(wait)),
    };
    let said = if said.is_empty() { String::new() } else { format!("; the provider said: {said}") };
    let sentence = entry.cause.sentence();
    let message = format!("{title}: {sentence} (profile `{profile}`{model}){ends}{said}");
    let refusal = Refusal::new(status, code, message);
    let refusal = if entry.cause.is_account() { refusal } else { refusal.after(wait) };
    if matches!(entry.cause, Cause::Busy | Cause::Minute) { refusal } else { refusal.finally() }
}

/// The user's own limit of the day is reached.
fn day_over(profile: &str, ends: SystemTime) -> Refusal {
    let left = ends.duration_since(SystemTime::now()).unwrap_or_default();
    let message =
        format!("your limit of requests per day is reached (profile `{profile}`); it resets in {}", duration(left));
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, "daily_limit_reached", message).after(left).finally()
}

/// A quota that the user states is used up.
pub(in crate::gateway) fn over_quota(profile: &str, cause: Cause, ends: SystemTime) -> Refusal {
    let left = ends.duration_since(SystemTime::now()).unwrap_or_default();
    let name = cause.limit_name();
    let message = format!("your {name} is used up (profile `{profile}`); it resets in {}", duration(left));
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", message).after(left).finally()
}

/// In its two largest units.
pub(in crate::gateway) fn duration(wait: Duration) -> String {
    let seconds = rounded_up(wait);
    match (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, _, _) => format!("{days} d {hours} h"),
    }
}

/// A last refusal without a time of the server's: the client is not to repeat what was repeated here already.
pub(in crate::gateway) fn settle_retry_after(headers: &mut HeaderMap, tries: u32) {
    let header = |name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
    if tries > 1 && retry_after(&header, SystemTime::now()).is_none() && !headers.contains_key(&SHOULD_RETRY) {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rounded_up_and_never_earlier_than_the_truth() {
        for (wait, seconds, words) in [
            (Duration::ZERO, "0", "0 s"),
            (Duration::from_millis(1), "1", "1 s"),
            (Duration::from_secs(3), "3", "3 s"),
            (Duration::from_millis(59_100), "60", "1 min 0 s"),
            (Duration::from_secs(3 * 3600 + 61), "10861", "3 h 1 min"),
            (Duration::from_secs(49 * 3600), "176400", "2 d 1 h"),
        ] {
            let response = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "x", "x").after(wait).into_response();
            assert_eq!(response.headers()[RETRY_AFTER], seconds);
            assert_eq!(duration(wait), words);
        }
    }

    #[test]
    fn a_client_gets_the_name_of_a_file_and_not_where_it_is() {
        for (text, without) in [
            (
                "the key in `/run/secrets/pkey` is empty; put a key into `/run/secrets/pkey`",
                "the key in `pkey` is empty; put a key into `pkey`",
            ),
            ("`key_file`: cannot read `/pkey`: it is `odd", "`key_file`: cannot read `pkey`: it is `odd"),
            (
                "not `/`, run `qwenauth login` at https://example.com/key",
                "not `/`, run `qwenauth login` at https://example.com/key",
            ),
        ] {
            assert_eq!(without_directories(text), without);
        }
        let failed = Failed::new(Failure::LoginRequired, "the key in `/run/key` is empty").hint("fill `/run/key`");
        let message = text(&not_ready(&failed).into_response())["error"]["message"].clone();
        assert_eq!(message, "qwenauth: the key in `key` is empty; fill `key`");
    }

    fn text(response: &Response<ResponseBody>) -> serde_json::Value {
        let ResponseBody::Whole(body) = response.body() else { panic!("a message of our own is whole") };
        serde_json::from_slice(body).unwrap()
    }

    #[test]
    fn an_error_has_the_type_of_its_status_in_both_protocols() {
        for (status, kind) in [
            (401, "authentication_error"),
            (403, "permission_error"),
            (404, "not_found_error"),
            (413, "request_too_large"),
            (429, "rate_limit_error"),
            (400, "invalid_request_error"),
            (421, "invalid_request_error"),
            (502, "server_error"),
        ] {
            let response = Refusal::new(StatusCode::from_u16(status).unwrap(), "why", "said").into_response();
            assert_eq!(
                (response.status().as_u16(), &response.headers()[CONTENT_TYPE]),
                (status, &"application/json".parse().unwrap())
            );
            let error = json!({ "message": "said", "type": kind, "param": null, "code": "why" });
            assert_eq!(text(&response), json!({ "type": "error", "error": error }));
        }
    }

    #[test]
    fn a_used_up_limit_says_when_it_is_asked_again_and_an_account_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let mut memory = crate::limits::Memory::open(directory.path(), "p", "key");
        let mut refused = |cause, wait: Option<u64>| {
            let (entry, _) = memory.note(cause, Some("m"), wait.map(Duration::from_secs), None, SystemTime::now());
            let refusal = exhausted("work", "Provider", &entry, "no more");
            (
                refusal.status.as_u16(),
                refusal.code,
                refusal.message,
                refusal.retry_after.is_some(),
                refusal.should_retry,
            )
        };
        for (cause, status, code, should_retry) in [
            (Cause::Outage, 502, "upstream_unreachable", Some(false)),
            (Cause::Day, 429, "daily_limit_reached", Some(false)),
            (Cause::Busy, 429, "rate_limit_exceeded", None),
            (Cause::Minute, 429, "rate_limit_exceeded", None),
            (Cause::Hour, 429, "rate_limit_exceeded", Some(false)),
            (Cause::Week, 429, "insufficient_quota", Some(false)),
        ] {
            let got = refused(cause, None);
            assert!(got.2.contains("(profile `work`, model `m`); next attempt in "), "{}", got.2);
            assert!(got.2.ends_with("; the provider said: no more"), "{}", got.2);
            assert_eq!((got.0, got.1, got.3, got.4), (status, code, true, should_retry), "{cause:?}");
        }
        let got = refused(Cause::Month, Some(7200));
        assert!(got.2.contains("; it resets in 2 h 0 min") && got.3, "{}", got.2);
        for cause in [Cause::FreeTier, Cause::Unpaid] {
            let got = refused(cause, None);
            assert_eq!((got.0, got.1, got.3, got.4), (429, "insufficient_quota", false, Some(false)), "{cause:?}");
            assert!(!got.2.contains(" in "), "{}", got.2);
        }
    }

    #[test]
    fn a_client_repeats_no_request_that_was_repeated_and_has_no_time() {
        let should_retry = |tries, headers: &[(HeaderName, &'static str)]| {
            let values = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            let mut headers: HeaderMap = values.collect();
            settle_retry_after(&mut headers, tries);
            headers.get(SHOULD_RETRY).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(should_retry(2, &[]).as_deref(), Some("false"));
        assert_eq!(should_retry(1, &[]), None);
        assert_eq!(should_retry(3, &[(RETRY_AFTER, "7")]), None);
        assert_eq!(should_retry(3, &[(SHOULD_RETRY, "true")]).as_deref(), Some("true"));
    }
}
