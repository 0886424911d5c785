//! Keys of people and jobs at the gateway: whose key a request has, what the key allows, what the request may cost,
//! and what is left.
//!
//! Hazard: a request that names two models, or names one in a field that only the provider reads, is checked for one
//! model and served by another; a client whose body the gateway does not read spends without a limit. Rule: if the
//! limits of a key depend on the model or on tokens, its requests are read completely, as a JSON parser reads them,
//! and other bodies are rejected.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};

use super::issuers::{Accepted, Issuers};
use super::pacing::NoSlot;
use super::refusal::{self, Refusal, duration};
use super::served_account::ServedAccount;
use crate::http::Network;
use crate::keys::{IssuerRule, JobKey, KeyRecord, KeyText, Money, Price, Prices, Shown, State, TeamSecret};
use crate::limits::shared::Shared;
use crate::limits::{Engine, Grant, Left, Refused, Used};
use crate::oauth::jwt;
use crate::secret::Secret;

/// Assumed tokens of a completion if the request sets no maximum.
const USUAL_COMPLETION: u64 = 4096;

/// Bytes per token of a prompt, for the estimate.
const BYTES_PER_TOKEN: u64 = 4;

/// Paths of requests whose response has completion tokens.
const GENERATING: [&str; 4] = ["/chat/completions", "/completions", "/responses", "/messages"];

const LIMIT_REQUESTS: HeaderName = HeaderName::from_static("x-ratelimit-limit-requests");
const REMAINING_REQUESTS: HeaderName = HeaderName::from_static("x-ratelimit-remaining-requests");
const RESET_REQUESTS: HeaderName = HeaderName::from_static("x-ratelimit-reset-requests");
const BUDGET_REMAINING: HeaderName = HeaderName::from_static("x-qwenauth-budget-remaining");

/// Opens the engine, with the shared server if there is one.
pub(crate) type OpenEngine = Box<dyn FnOnce(Option<&Rc<Shared>>) -> anyhow::Result<Engine> + Send>;

/// The settings of a gateway with keys.
pub(crate) struct Keyed {
    /// Opened by the gateway's own thread.
    pub(crate) engine: OpenEngine,
    pub(crate) secret: TeamSecret,
    pub(crate) prices: Prices,
    /// Whether metrics have a line for each key.
    pub(crate) metrics: bool,
    /// The issuers whose tokens count as keys, and how they are reached.
    pub(crate) issuers: Vec<IssuerRule>,
    pub(crate) network: Network,
}

/// The keys of a gateway.
pub(super) struct Team {
    pub(super) engine: Rc<Engine>,
    secret: TeamSecret,
    pub(super) issuers: Issuers,
    pub(super) prices: Prices,
    pub(super) shows_keys: bool,
    /// How often each refusal occurred.
    pub(super) decisions: RefCell<BTreeMap<&'static str, u64>>,
}

impl Team {
    pub(super) fn open(keyed: Keyed, shared: Option<&Rc<Shared>>) -> anyhow::Result<Self> {
        let Keyed { engine, secret, prices, metrics, issuers, network } = keyed;
        let engine = Rc::new(engine(shared)?);
        let issuers = Issuers::new(issuers, network);
        Ok(Self { engine, secret, issuers, prices, shows_keys: metrics, decisions: RefCell::default() })
    }

    /// The key that a client sent, or the one whose limits apply to its token. `None`: it is not a key of the team.
    ///
    /// Errors: an expired key, a rejected token, or the issuer or server cannot be queried.
    pub(super) async fn identify(&self, text: &str) -> Result<Option<Rc<KeyRecord>>, Refusal> {
        if JobKey::looks_like_one(text) {
            let Some(job) = JobKey::open(text, &self.secret, SystemTime::now()) else { return Ok(None) };
            return self.named(&job.key, &job.owner).await.map(Some);
        }
        if !self.issuers.is_empty() && jwt::looks_like_one(text) {
            let Accepted { key, owner } = self.issuers.accept(text).await?;
            return self.named(&key, &owner).await.map(Some);
        }
        let Some(key) = KeyText::parse(text) else { return Ok(None) };
        let record = self.engine.look_up(key.id()).await.map_err(|_| unavailable())?;
        let mut shown = Shown::of(record, &key, &self.secret, SystemTime::now());
        if !matches!(shown, Shown::Valid(_)) {
            // The record that was read earlier may be outdated.
            let record = self.engine.look_up_now(key.id()).await.map_err(|_| unavailable())?;
            shown = Shown::of(record, &key, &self.secret, SystemTime::now());
        }
        match shown {
            Shown::Valid(record) => Ok(Some(record)),
            Shown::Expired(record) => Err(expired(&record)),
            Shown::Unknown => Ok(None),
        }
    }

    /// Nothing that a client showed is a key of the team.
    pub(super) fn unknown(&self) -> Refusal {
        if !self.engine.secret_differs() {
            return unknown_key();
        }
        let message =
            "this gateway has another team secret than the one under which the keys are made, and accepts none";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "secret_mismatch", message).finally()
    }

    /// The key with this name or id, with `owner` as its owner.
    async fn named(&self, name: &str, owner: &str) -> Result<Rc<KeyRecord>, Refusal> {
        let record = self.engine.find(name).await.map_err(|_| unavailable())?;
        let missing = || {
            let message = format!("the key `{name}`, whose limits would apply, is unknown or revoked");
            Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message).finally()
        };
        let mut record = record.ok_or_else(missing)?;
        if record.state(SystemTime::now()) == State::Expired {
            // It may have been extended since it was seen.
            let now = self.engine.look_up_now(&record.id).await.map_err(|_| unavailable())?;
            record = now.ok_or_else(missing)?;
        }
        match record.state(SystemTime::now()) {
            State::Active | State::Rotating => {
                let mut record = KeyRecord::clone(&record);
                record.owner = Some(owner.to_owned());
                Ok(Rc::new(record))
            }
            State::Expired => Err(expired(&record)),
            State::Revoked => Err(missing()),
        }
    }

    /// Issues a key for an hour for the token `text` of a job.
    ///
    /// Errors: those of a request with that token.
    pub(super) async fn exchange(&self, text: &str) -> Result<(Rc<KeyRecord>, Secret, Duration), Refusal> {
        let Accepted { key, owner } = self.issuers.accept(text).await?;
        let record = self.named(&key, &owner).await?;
        let now = SystemTime::now();
        let job = JobKey::new(&record.id, &owner, record.expires_at, now);
        let sealed = job.seal(&self.secret).map_err(|_| unavailable())?;
        Ok((record, sealed, job.lasts(now)))
    }

    /// Which of the texts that a client sent is the key of `record`.
    pub(super) fn shown<'text>(record: &KeyRecord, texts: impl Iterator<Item = &'text [u8]>) -> Option<KeyText> {
        let mut keys = texts.filter_map(|text| KeyText::parse(std::str::from_utf8(text).ok()?));
        keys.find(|key| key.id() == record.id)
    }

    /// Whether `shown` is still the key of a record that has changed.
    pub(super) fn still_is(&self, record: &KeyRecord, shown: &KeyText) -> bool {
        record.is(shown, &self.secret, SystemTime::now())
    }

    pub(super) fn count(&self, decision: &'static str) {
        *self.decisions.borrow_mut().entry(decision).or_default() += 1;
    }
}

/// The name of a refusal in metrics.
pub(super) fn decision_name(reason: Refused) -> &'static str {
    match reason {
        Refused::Unknown => "unknown",
        Refused::Expired => "expired",
        Refused::KeyRate { .. } => "key_rate",
        Refused::KeyParallel => "key_parallel",
        Refused::KeyDay { .. } => "key_day",
        Refused::KeyBudget { .. } => "key_budget",
        Refused::AccountRate { .. } => "account_rate",
        Refused::AccountDay { .. } => "account_day",
        Refused::AccountQuota(_) => "account_quota",
        Refused::Unavailable => "unavailable",
    }
}

/// Whether the limits of a key depend on the content of the request body.
pub(super) fn depends_on_body(key: &KeyRecord) -> bool {
    let limits = &key.limits;
    depends_on_model(key) || limits.tokens_per_minute.is_some() || limits.tokens_per_day.is_some()
}

/// Whether they depend on the model in it.
pub(super) fn depends_on_model(key: &KeyRecord) -> bool {
    !key.limits.models.is_empty() || key.limits.budget.is_some()
}

/// The most that a request may use, as estimated before it is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Estimate {
    pub(super) prompt: u64,
    pub(super) completion: u64,
}

impl Estimate {
    pub(super) fn tokens(self) -> u64 {
        self.prompt.saturating_add(self.completion)
    }

    pub(super) fn cost(self, price: Option<Price>) -> Money {
        price.map(|price| price.of(self.prompt, self.completion)).unwrap_or_default()
    }
}

/// The model and the size of a request, from its body.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// All values of fields that some server could read as the model.
    models: Vec<Option<String>>,
    most: Option<u64>,
    copies: u64,
}

impl Asked {
    /// Reads the whole body. Returns `None` if it is not a JSON object.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        serde_json::Deserializer::from_slice(body).deserialize_map(AskedVisitor).ok()
    }

    /// The model, if it names exactly one.
    pub(super) fn model(&self) -> Option<&str> {
        match self.models.as_slice() {
            [Some(model)] => Some(model),
            _ => None,
        }
    }

    pub(super) fn estimate(&self, length: u64, path: &str) -> Estimate {
        let completion = if GENERATING.contains(&path) { self.most.unwrap_or(USUAL_COMPLETION) } else { 0 };
        Estimate { prompt: length.div_ceil(BYTES_PER_TOKEN), completion: completion.saturating_mul(self.copies.max(1)) }
    }
}

struct AskedVisitor;

impl<'de> Visitor<'de> for AskedVisitor {
    type Value = Asked;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a request")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Asked, A::Error> {
        let mut asked = Asked::default();
        while let Some(name) = map.next_key::<String>()? {
            // Some servers ignore the case of field names.
            match name.to_ascii_lowercase().as_str() {
                "model" => asked.models.push(map.next_value::<Lenient>()?.0.as_str().map(str::to_owned)),
                "max_tokens" | "max_completion_tokens" | "max_output_tokens" => {
                    asked.most = asked.most.max(map.next_value::<Lenient>()?.0.as_u64());
                }
                "n" | "best_of" => {
                    asked.copies = asked.copies.max(map.next_value::<Lenient>()?.0.as_u64().unwrap_or(1));
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(asked)
    }
}

/// A string or a number; other values are ignored.
struct Lenient(Value);

impl<'de> serde::Deserialize<'de> for Lenient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("any value")
            }

            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(text.into())
            }

            fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
                Ok(number.into())
            }

            fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "held within the range")]
                Ok((number.clamp(0.0, 1e15) as u64).into())
            }

            fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Value::Null)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Value::Null)
            }
        }
        deserializer.deserialize_any(Any).map(Self)
    }
}

/// What a key was granted for one request. When dropped, it is released if the request was never sent, otherwise
/// settled.
pub(super) struct HeldGrant {
    engine: Rc<Engine>,
    grant: Grant,
    /// The account in whose windows the request counts, if any.
    account: Option<Rc<ServedAccount>>,
    price: Option<Price>,
    estimate: Estimate,
    pub(super) was_sent: bool,
    pub(super) bill: Bill,
}

/// What a request is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bill {
    /// Nothing: the provider rejected it or never received it.
    Nothing,
    /// The estimate: the provider may have processed it, and no response says what it used.
    Estimate,
    /// The usage in the response.
    Tokens(Estimate),
}

impl HeldGrant {
    pub(super) fn new(
        engine: Rc<Engine>,
        grant: Grant,
        account: Option<Rc<ServedAccount>>,
        price: Option<Price>,
        estimate: Estimate,
    ) -> Self {
        Self { engine, grant, account, price, estimate, was_sent: false, bill: Bill::Nothing }
    }

    /// Releases it although the request was sent: another profile serves the request and counts it.
    pub(super) fn move_away(mut self) {
        self.was_sent = false;
        self.account = None;
    }
}

impl Drop for HeldGrant {
    fn drop(&mut self) {
        if !self.was_sent {
            let rate = self.account.as_ref().map(|account| account.pacing.windows());
            return self.engine.give_back(&self.grant, rate);
        }
        let used = match self.bill {
            Bill::Nothing => Estimate::default(),
            Bill::Estimate => self.estimate,
            Bill::Tokens(tokens) => tokens,
        };
        self.engine.settle(&self.grant, Used { tokens: used.tokens(), cost: used.cost(self.price) });
    }
}

fn unavailable() -> Refusal {
    let message = "the keys cannot be looked up just now";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "shared_state_unavailable", message).after(Duration::from_secs(5))
}

fn expired(key: &KeyRecord) -> Refusal {
    let message = format!("the key `{}` has expired; whoever made it can extend it with `qwenauth keys set`", key.name);
    Refusal::new(StatusCode::FORBIDDEN, "key_expired", message).finally()
}

pub(super) fn unknown_key() -> Refusal {
    let message = "the key is unknown or revoked; `qwenauth keys create` on the gateway's machine makes one";
    Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message).finally()
}

pub(super) fn not_allowed(message: String) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "model_not_allowed", message).finally()
}

/// Rejects a request of `key`. `profile`: that of the account, whose limit it may be.
pub(super) fn refused(reason: Refused, key: &KeyRecord, profile: &str) -> Refusal {
    let name = &key.name;
    let until = |ends: SystemTime| ends.duration_since(SystemTime::now()).unwrap_or_default();
    let too_many = StatusCode::TOO_MANY_REQUESTS;
    match reason {
        Refused::Unknown => unknown_key(),
        Refused::Expired => expired(key),
        Refused::Unavailable => unavailable(),
        Refused::KeyRate { wait } => {
            let message =
                format!("the key `{name}` is at its limit per minute: this request would wait {}", duration(wait));
            Refusal::new(too_many, "key_rate_limited", message).after(wait)
        }
        Refused::KeyParallel => {
            let most = key.limits.parallel.unwrap_or_default();
            let message = format!("the key `{name}` has {most} requests in flight, as many as it may have");
            Refusal::new(too_many, "key_rate_limited", message).after(Duration::from_secs(1))
        }
        Refused::KeyDay { ends } => {
            let wait = until(ends);
            let message = format!("the limit of key `{name}` for this day is reached; it resets in {}", duration(wait));
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

/// Replaces the provider's rate-limit headers of a response, which describe the account, by those of the key.
pub(super) fn stamp(headers: &mut HeaderMap, key: &KeyRecord, left: &Left) {
    let limits = &key.limits;
    let minute = limits.requests_per_minute.map(|most| (most, left.requests_of_minute, left.minute_resets_in));
    let day = || limits.requests_per_day.map(|most| (most, left.requests_of_day, rest_of_day()));
    if let Some((most, used, resets_in)) = minute.or_else(day) {
        headers.insert(LIMIT_REQUESTS, HeaderValue::from(most));
        headers.insert(REMAINING_REQUESTS, HeaderValue::from(u64::from(most).saturating_sub(used)));
        if let Ok(reset) = HeaderValue::from_str(&format!("{}s", resets_in.as_secs_f64().ceil())) {
            headers.insert(RESET_REQUESTS, reset);
        }
    }
    if let Some(budget) = limits.budget
        && let Ok(rest) = HeaderValue::from_str(&left_of(budget.amount, left).to_string())
    {
        headers.insert(BUDGET_REMAINING, rest);
    }
}

/// What is neither spent nor reserved.
pub(super) fn left_of(budget: Money, left: &Left) -> Money {
    budget.minus(left.spent).minus(left.reserved)
}

/// Until the end of the day in UTC; without a calendar, because every response states it.
fn rest_of_day() -> Duration {
    const DAY: u64 = 86_400;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs((since.as_secs() / DAY + 1) * DAY).saturating_sub(since)
}

/// The response to `GET /v1/key`: fields named as by OpenRouter, and the other limits.
pub(super) fn describe(key: &KeyRecord, left: &Left) -> Value {
    let limits = &key.limits;
    let now = SystemTime::now();
    let rest = |most: Option<u64>, used: u64, resets_in: Duration| {
        most.map(|most| {
            json!({ "limit": most, "remaining": most.saturating_sub(used), "resets_in_seconds": resets_in.as_secs() })
        })
    };
    let (minute, day) = (left.minute_resets_in, rest_of_day());
    let time = |seconds: u64| super::served_profile::rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    json!({ "data": {
        "id": key.id,
        "label": key.name,
        "owner": key.owner,
        "expires_at": key.expires_at.and_then(time),
        "limit": limits.budget.map(|budget| budget.amount.dollars()),
        "limit_reset": limits.budget.map(|budget| budget.period.name()),
        "limit_resets_at": limits.budget.and_then(|budget| super::served_profile::rfc3339(budget.period.ends(now))),
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

    fn model(body: &str) -> Option<String> {
        Asked::read(body.as_bytes())?.model().map(str::to_owned)
    }

    #[test]
    fn a_request_names_one_model_however_it_is_spelled() {
        for (body, name) in [
            (r#"{"model":"m","messages":[{"model":"x"}]}"#, Some("m")),
            (r#"{"\u006dodel":"m"}"#, Some("m")),
            (r#"{"Model":"m"}"#, Some("m")),
            (r#"{"model":"m","model":"n"}"#, None),
            (r#"{"model":"m","\u006dodel":"n"}"#, None),
            (r#"{"model":"m","MODEL":"n"}"#, None),
            (r#"{"model":["m"]}"#, None),
            (r#"{"model":null,"model":"m"}"#, None),
            (r#"{"messages":[]}"#, None),
            (r#"["model"]"#, None),
            ("--x\r\nname=\"model\"", None),
        ] {
            assert_eq!(model(body).as_deref(), name, "{body}");
        }
    }

    #[test]
    fn the_largest_bound_counts_and_4096_where_there_is_none() {
        for (body, completion) in [
            (r#"{"model":"m"}"#, 4096),
            (r#"{"model":"m","max_tokens":10}"#, 10),
            (r#"{"model":"m","max_tokens":10,"max_completion_tokens":30}"#, 30),
            (r#"{"model":"m","max_output_tokens":7.0}"#, 7),
            (r#"{"model":"m","max_tokens":10,"n":3}"#, 30),
            (r#"{"model":"m","max_tokens":-1}"#, 4096),
        ] {
            let asked = Asked::read(body.as_bytes()).unwrap();
            let estimate = asked.estimate(400, "/chat/completions");
            assert_eq!(estimate, Estimate { prompt: 100, completion }, "{body}");
        }
        let asked = Asked::read(br#"{"model":"m"}"#).unwrap();
        assert_eq!(asked.estimate(10, "/embeddings"), Estimate { prompt: 3, completion: 0 });
    }
}
