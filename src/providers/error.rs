//! What an API's error response means: which limit or account state it reports, for whom, and until when.
//!
//! Hazard: error messages advertise, and an offer to upgrade "today" is not the end of a day.
//! Rule: codes decide first, then the server's own time, then the words for a limit; sentences that sell decide nothing.

mod time;
mod words;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use self::time::{delay, epoch, retry_after};
use self::words::{AMBIGUOUS_CODES, CODES, Normalized};
use crate::error::printable;
use crate::secret::{Secret, masked_in};

/// Length of a message that is read. Longer ones quote prompts or pages.
const MAX_TEXT_SIZE: usize = 8 * 1024;

/// Length of a message that is shown, in characters.
const SHOWN: usize = 300;

/// How deep errors are nested: relays quote the error of the API behind them as text.
const DEPTH: usize = 8;

/// Why an API rejects a request. Windows are ordered by their length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Cause {
    /// Not about limits: a policy, a wrong parameter.
    Other,
    /// No connection, or server errors.
    Outage,
    /// The credential was rejected.
    Credential,
    /// This request alone is larger than a limit; no wait helps.
    TooLarge,
    /// Passes soon; no limit is named.
    Busy,
    /// A limit per minute or second.
    Minute,
    Hour,
    #[serde(rename = "5h")]
    FiveHours,
    Day,
    Week,
    Month,
    /// A plan's quota whose window is not named.
    Plan,
    /// The free quota is used up.
    FreeTier,
    /// The account is unpaid or suspended.
    Unpaid,
}

/// What an error applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Request,
    Model,
    Account,
}

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Forward it: waiting does not help, or takes longer than allowed.
    Forward,
    /// Wait as long as the server states, and retry once.
    Wait(Duration),
    /// Retry once, within a minute.
    OnceMore,
    /// Retry with backoff.
    Backoff,
    /// The limit is used up, or the account: stop.
    Stop,
}

impl Cause {
    /// Whether it is a window that ends by itself, longer than a minute.
    pub(crate) fn is_window(self) -> bool {
        (Self::Hour..=Self::Plan).contains(&self)
    }

    pub(crate) fn is_account(self) -> bool {
        matches!(self, Self::FreeTier | Self::Unpaid)
    }

    /// The maximum length of such a window, if it is one.
    pub(crate) fn length(self) -> Option<Duration> {
        const HOUR: u64 = 3600;
        let hours = match self {
            Self::Minute => return Some(Duration::from_secs(60)),
            Self::Hour => 1,
            Self::FiveHours => 5,
            Self::Day => 24,
            Self::Week => 7 * 24,
            Self::Month | Self::Plan | Self::FreeTier | Self::Outage => 31 * 24,
            _ => return None,
        };
        Some(Duration::from_secs(hours * HOUR))
    }

    /// The limit's name, as `usage` lists it.
    pub(crate) fn limit_name(self) -> &'static str {
        match self {
            Self::Minute => "requests per minute",
            Self::Hour => "requests per hour",
            Self::FiveHours => "quota of 5 hours",
            Self::Day => "requests per day",
            Self::Week => "quota of the week",
            Self::Month => "quota of the month",
            Self::Plan => "quota of the plan",
            Self::FreeTier => "free quota",
            Self::Unpaid => "account",
            Self::Outage => "service",
            Self::Other | Self::Credential | Self::TooLarge | Self::Busy => "requests",
        }
    }

    /// What is reported, as a clause.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Self::Other => "the request was rejected",
            Self::Outage => "the service is down",
            Self::Credential => "the credential was rejected",
            Self::TooLarge => "the request is larger than the limit",
            Self::Busy => "the service is busy or receives too many requests",
            Self::Minute => "the limit per minute is reached",
            Self::Hour => "the hourly limit is reached",
            Self::FiveHours => "the 5-hour quota is used up",
            Self::Day => "the daily limit is reached",
            Self::Week => "the weekly quota is used up",
            Self::Month => "the monthly quota is used up",
            Self::Plan => "the quota of the plan is used up",
            Self::FreeTier => "the free quota is used up",
            Self::Unpaid => "the account is unpaid, suspended or out of credit",
        }
    }
}

/// An error response, its body decoded.
pub(crate) struct Response<'a> {
    pub(crate) status: u16,
    pub(crate) header: &'a dyn Fn(&str) -> Option<String>,
    pub(crate) body: &'a [u8],
    /// The model of the request.
    pub(crate) model: Option<&'a str>,
    /// What was sent and must not be repeated: some servers quote the key that they reject.
    pub(crate) secrets: &'a [&'a Secret],
    pub(crate) now: SystemTime,
}

/// The content of an error response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) cause: Cause,
    pub(crate) scope: Scope,
    /// The server's own time until another attempt makes sense.
    pub(crate) wait: Option<Duration>,
    /// The server's message, printable and shortened; may be empty.
    pub(crate) message: String,
    /// Whether a code names the cause: then a short `Retry-After` does not outweigh it.
    is_coded: bool,
    /// Whether a code names the credential, rather than the status alone.
    pub(crate) names_credential: bool,
    status: u16,
}

impl ApiError {
    /// Reads a response by the codes of its provider, then by those that mean the same everywhere, then by its words.
    pub(crate) fn read(response: &Response, codes: &BTreeMap<String, Cause>) -> Self {
        Self::read_with(response, codes, &words::Data::default())
    }

    fn read_with(response: &Response, codes: &BTreeMap<String, Cause>, data: &words::Data) -> Self {
        let said = Said::of(response.body);
        let text = Normalized::of(&said.text(), data);
        let own =
            |code: &String| codes.iter().find(|(known, _)| known.eq_ignore_ascii_case(code)).map(|(_, cause)| *cause);
        let common = |code: &String| data.code(CODES, code);
        let coded = said.codes.iter().filter_map(|code| own(code).or_else(|| common(code))).max();
        let coded = coded.max(said.quota(data));
        let by_words = text.cause(data).filter(|cause| may_explain(response.status, *cause));
        let by_status = match response.status {
            401 => Some(Cause::Credential),
            402 => Some(Cause::Unpaid),
            _ => None,
        };
        let ambiguous = || said.codes.iter().find_map(|code| data.code(AMBIGUOUS_CODES, code));
        let cause = match (coded, by_words) {
            // The plan's window is what the words add.
            (Some(Cause::Plan), Some(window)) if window.is_window() => window,
            (Some(coded), _) => coded,
            (None, words) => {
                by_status.or(words).or_else(|| ambiguous().filter(|_| response.status == 429)).unwrap_or(match response
                    .status
                {
                    429 | 500.. => Cause::Busy,
                    _ => Cause::Other,
                })
            }
        };
        let names_model =
            text.names_model(data) || said.model || response.model.is_some_and(|model| said.mentions(model));
        let scope = match cause {
            Cause::Other | Cause::TooLarge => Scope::Request,
            Cause::Busy | Cause::Minute | Cause::FreeTier => Scope::Model,
            _ if cause.is_window() && names_model => Scope::Model,
            _ => Scope::Account,
        };
        let wait = retry_after(response.header, response.now)
            .or(said.delay)
            .or_else(|| time::in_words(&said.text(), response.now))
            .or_else(|| time::reset_header(response.header, response.now))
            .filter(|wait| !wait.is_zero());
        let is_coded = coded.is_some_and(|coded| coded.is_window() || coded.is_account());
        let names_credential = coded == Some(Cause::Credential);
        let (message, status) = (said.shown(response.secrets), response.status);
        Self { cause, scope, wait, message, is_coded, names_credential, status }
    }

    /// What to do about it, in the order that the documentation of the gateway gives.
    pub(crate) fn action(&self, max_wait: Duration) -> Action {
        let may_wait = matches!(self.status, 429 | 503);
        if self.cause == Cause::TooLarge || !may_wait && !self.cause.is_account() {
            return Action::Forward;
        }
        match self.wait {
            Some(wait) if may_wait && !self.is_coded && wait <= max_wait => return Action::Wait(wait),
            Some(_) if matches!(self.cause, Cause::Busy | Cause::Minute) => return Action::Forward,
            _ => {}
        }
        match self.cause {
            Cause::Busy => Action::Backoff,
            Cause::Minute => Action::OnceMore,
            Cause::Other | Cause::Outage | Cause::Credential | Cause::TooLarge => Action::Forward,
            _ => Action::Stop,
        }
    }
}

/// Whether words count in a response with this status: other statuses are clear by themselves. A service that is down may
/// speak of daily maintenance or an overdue job.
fn may_explain(status: u16, cause: Cause) -> bool {
    match status {
        429 => true,
        503 => matches!(cause, Cause::TooLarge | Cause::Minute),
        403 | 412 => cause.is_account(),
        _ => false,
    }
}

/// The fields of an error body, wherever they are: in `error`, `errors`, arrays, a bare object, or a text.
#[derive(Default)]
struct Said {
    messages: Vec<String>,
    codes: Vec<String>,
    /// `quotaId` and `quotaMetric` of Google's details.
    quotas: Vec<String>,
    delay: Option<Duration>,
    /// A quota's dimensions name a model.
    model: bool,
}

impl Said {
    fn of(body: &[u8]) -> Self {
        let mut said = Self::default();
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        match serde_json::from_slice::<Value>(body) {
            Ok(value) => said.walk(&value, "error", 0),
            Err(_) => said.add_text(String::from_utf8_lossy(&body[..body.len().min(MAX_TEXT_SIZE)]).trim(), 0),
        }
        said
    }

    fn walk(&mut self, value: &Value, key: &str, depth: usize) {
        if depth > DEPTH {
            return;
        }
        match value {
            Value::Array(values) => values.iter().take(64).for_each(|value| self.walk(value, key, depth + 1)),
            Value::Object(fields) => {
                // The text meant for people comes first: it is the one that is shown.
                let (first, later): (Vec<_>, Vec<_>) =
                    fields.iter().partition(|(key, _)| key.eq_ignore_ascii_case("message"));
                for (key, value) in first.into_iter().chain(later).take(64) {
                    self.walk(value, key, depth + 1);
                }
            }
            Value::String(text) => self.field(key, text, depth),
            Value::Number(number) => self.field(key, &number.to_string(), depth),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn field(&mut self, key: &str, text: &str, depth: usize) {
        match key.to_ascii_lowercase().as_str() {
            "code" | "type" | "status" | "reason" | "status_code" | "error_code" | "error_type" => {
                self.codes.push(text.chars().take(128).collect());
            }
            "quotaid" | "quotametric" | "quota_id" | "quota_metric" => {
                self.quotas.push(text.chars().take(256).collect());
            }
            "retrydelay" | "retry_delay" | "retry_after" | "retryafter" => {
                self.delay = self.delay.or_else(|| delay(text));
            }
            "model" => self.model |= !text.is_empty(),
            "message" | "msg" | "detail" | "error" | "errors" | "error_description" | "error_msg" | "status_msg"
            | "raw" | "title" => self.add_text(text, depth),
            _ => {}
        }
    }

    /// A text, or JSON that a relay quotes as one.
    fn add_text(&mut self, text: &str, depth: usize) {
        let trimmed = text.trim();
        if trimmed.starts_with('<') || trimmed.is_empty() || self.messages.len() > 16 {
            return;
        }
        if trimmed.starts_with(['{', '['])
            && let Ok(value) = serde_json::from_str::<Value>(trimmed)
        {
            return self.walk(&value, "error", depth + 1);
        }
        self.messages.push(trimmed.chars().take(MAX_TEXT_SIZE).collect());
    }

    fn text(&self) -> String {
        self.messages.join("\n")
    }

    /// The longest window that Google's quotas name.
    fn quota(&self, data: &words::Data) -> Option<Cause> {
        let causes = self.quotas.iter().filter_map(|quota| Normalized::of(quota, data).cause(data));
        causes.filter(|cause| *cause == Cause::Minute || cause.is_window()).max()
    }

    fn mentions(&self, model: &str) -> bool {
        model.len() > 2 && self.messages.iter().any(|message| message.contains(model))
    }

    /// Masked before it is cut, because half a secret at the cut would not be found.
    fn shown(&self, secrets: &[&Secret]) -> String {
        let first = self.messages.first().map(String::as_str).unwrap_or_default();
        let cut: String = masked_in(&printable(first), secrets).chars().take(SHOWN).collect();
        cut.trim_end_matches(['.', ' ', '。']).to_owned()
    }
}

#[cfg(test)]
mod tests;
