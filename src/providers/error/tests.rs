//! The table of error responses, row by row, and what must hold for any of them.

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::Value;

use super::words::Data;
use super::*;
use crate::providers::{self, Overrides};

const TABLE: &str = include_str!("../../../tests/refusals.jsonl");

const MAX_WAIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Deserialize)]
struct Row {
    service: String,
    /// Whose codes count.
    provider: String,
    lang: String,
    status: u16,
    headers: BTreeMap<String, String>,
    model: String,
    body: Value,
    cause: Cause,
    action: String,
    wait: Option<f64>,
    scope: String,
}

impl Row {
    fn bytes(&self) -> Vec<u8> {
        self.body.as_str().map_or_else(|| self.body.to_string(), str::to_owned).into_bytes()
    }

    fn read(&self, data: &Data) -> ApiError {
        let header = |name: &str| {
            self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
        };
        let now: SystemTime = "2026-11-21T10:00:00Z".parse::<Timestamp>().unwrap().into();
        let (body, model) = (self.bytes(), Some(self.model.as_str()));
        let response = Response { status: self.status, header: &header, body: &body, model, secrets: &[], now };
        let codes = providers::find(&self.provider, &Overrides::default()).unwrap().errors;
        ApiError::read_with(&response, &codes, data)
    }

    /// What the row states, in the form of [`said`].
    fn stated(&self) -> String {
        let wait = self.wait.map(|wait| format!("{wait:.2}"));
        format!("{:?} {} {wait:?} {}", self.cause, self.action, self.scope)
    }
}

fn said(error: &ApiError) -> String {
    let action = match error.action(MAX_WAIT) {
        Action::Forward => "forward",
        Action::Wait(_) => "wait",
        Action::OnceMore => "once-more",
        Action::Backoff => "backoff",
        Action::Stop => "stop",
    };
    let wait = error.wait.map(|wait| format!("{:.2}", wait.as_secs_f64()));
    let scope = match error.scope {
        Scope::Request => "request",
        Scope::Model => "model",
        Scope::Account => "account",
    };
    format!("{:?} {action} {wait:?} {scope}", error.cause)
}

fn rows() -> Vec<Row> {
    TABLE.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn every_row_of_the_table_is_read_as_it_states() {
    for row in rows() {
        assert_eq!(said(&row.read(&Data::default())), row.stated(), "{}: {}", row.service, row.body);
    }
}

#[test]
fn every_row_of_the_data_decides_a_row_of_the_table() {
    let rows = rows();
    for left_out in Data::rows() {
        let data = Data { without: Some(left_out) };
        assert!(rows.iter().any(|row| said(&row.read(&data)) != row.stated()), "`{left_out}` decides nothing");
    }
}

#[test]
fn every_code_of_a_provider_decides_a_row_of_the_table() {
    let rows = rows();
    for provider in providers::names(&Overrides::default()) {
        for code in providers::find(&provider, &Overrides::default()).unwrap().errors.keys() {
            let decides = |row: &&Row| row.provider == provider && row.body.to_string().contains(code.as_str());
            let row = rows.iter().find(decides).unwrap_or_else(|| panic!("no row of `{provider}` has `{code}`"));
            let elsewhere = Row { provider: "custom".into(), ..row.clone() };
            let other = rows.iter().filter(decides).any(|row| {
                let elsewhere = Row { provider: "custom".into(), ..row.clone() };
                said(&elsewhere.read(&Data::default())) != row.stated()
            });
            assert!(other, "`{code}` of `{provider}`: {}", said(&elsewhere.read(&Data::default())));
        }
    }
}

#[test]
fn the_table_has_every_built_in_provider_and_a_third_of_others_or_in_chinese() {
    let rows = rows();
    for provider in providers::names(&Overrides::default()) {
        assert!(rows.iter().any(|row| row.provider == provider), "no row of `{provider}`");
    }
    let others = rows.iter().filter(|row| row.provider == "custom" || row.lang == "zh").count();
    assert!(others * 3 >= rows.len(), "{others} of {}", rows.len());
    for row in &rows {
        assert_eq!(row.body.to_string().chars().any(|letter| letter > '\u{2e80}'), row.lang == "zh", "{}", row.body);
    }
}

#[test]
fn no_message_of_the_table_is_in_the_source() {
    let source = [include_str!("../error.rs"), include_str!("words.rs"), include_str!("time.rs")].concat();
    for row in rows() {
        for message in Said::of(&row.bytes()).messages {
            assert!(!source.contains(&message), "{message}");
        }
    }
}

/// Offers of services, in sentences of their own: with words of limits, prices, times and links in them.
const OFFERS: [&str; 24] = [
    "Upgrade today for 10x daily limits.",
    "Add a payment method to raise your limits.",
    "Please check your plan and billing details.",
    "Get a bigger plan today!",
    "Want 1000 requests per day? Subscribe.",
    "Add credits at https://console.example/billing.",
    "Upgrade to Pro, with 600 requests per minute and a weekly bonus.",
    "You can increase your rate limit by adding a payment method: https://provider.example/account/billing.",
    "Buy credits; prices start at $5.",
    "Need more? Contact sales@provider.example about monthly plans.",
    "Your plan: Free. Subscription options are at https://provider.example/pricing#per-day.",
    "Credits never expire.",
    "Purchase the yearly package and save 20%.",
    "Unlock higher limits per month with a team.",
    "See https://provider.example/daily/quota for the billing of your subscription.",
    "Today only: half the price.",
    "The balance of your package is shown in the console.",
    "升级套餐即可每天调用一万次。",
    "充值后每分钟可用更多额度！",
    "今日特惠，购买每月套餐享八折。",
    "联系客服开通每周套餐；",
    "请前往控制台查看套餐与账单。",
    "更高档位每小时一千次。",
    "提升额度请访问 https://provider.example/每日/套餐 。",
];

fn with_offer(value: &Value, offer: &str, is_before: bool) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(key, value)| match value {
                    Value::String(text)
                        if matches!(key.as_str(), "message" | "detail" | "msg" | "status_msg")
                            && !text.starts_with('{') =>
                    {
                        let text = if is_before { format!("{offer} {text}") } else { format!("{text}. {offer}") };
                        (key.clone(), text.into())
                    }
                    value => (key.clone(), with_offer(value, offer, is_before)),
                })
                .collect(),
        ),
        Value::Array(values) => values.iter().map(|value| with_offer(value, offer, is_before)).collect(),
        value => value.clone(),
    }
}

proptest! {
    #[test]
    fn no_text_that_only_sells_changes_what_is_read(
        row in 0..rows().len(),
        offers in prop::collection::vec((0..OFFERS.len(), any::<bool>()), 1..4),
    ) {
        let row = rows().swap_remove(row);
        let body = offers.iter().fold(row.body.clone(), |body, (offer, is_before)| with_offer(&body, OFFERS[*offer], *is_before));
        let sold = Row { body, ..row.clone() };
        prop_assert_eq!(said(&sold.read(&Data::default())), row.stated(), "{}", sold.body);
    }

    #[test]
    fn any_bytes_are_read_without_harm(body in prop::collection::vec(any::<u8>(), 0..300), text in ".{0,80}", status in 400..600_u16) {
        let header = |name: &str| (name == "retry-after").then(|| text.clone());
        let now = SystemTime::now();
        for body in [&body[..], text.as_bytes(), format!("{{\"error\":{{\"message\":{text:?},\"retryDelay\":{text:?}}}}}").as_bytes()] {
            let response = Response { status, header: &header, body, model: Some("m"), secrets: &[], now };
            let error = ApiError::read(&response, &BTreeMap::new());
            prop_assert!(error.message.chars().count() <= SHOWN && !error.message.contains(char::is_control));
            prop_assert!(error.wait.is_none_or(|wait| now.checked_add(wait).is_some()));
        }
    }
}

#[test]
fn a_wait_is_read_in_every_form() {
    let now: SystemTime = "2026-11-21T10:00:00Z".parse::<Timestamp>().unwrap().into();
    for (name, value, milliseconds) in [
        ("retry-after-ms", "1500", Some(1500)),
        ("retry-after", "2", Some(2000)),
        ("retry-after", "0.5", Some(500)),
        ("retry-after", "Sat, 21 Nov 2026 10:00:03 GMT", Some(3000)),
        ("retry-after", "Saturday, 21-Nov-26 10:00:03 GMT", Some(3000)),
        ("retry-after", "Sat Nov 21 10:00:03 2026", Some(3000)),
        ("retry-after", "Sat, 21 Nov 2026 09:00:00 GMT", Some(0)),
        ("retry-after", "soon", None),
        ("retry-after", "-1", None),
        ("retry-after", "1e300", Some(366 * 86_400_000)),
    ] {
        let header = |asked: &str| (asked == name).then(|| value.to_owned());
        assert_eq!(retry_after(&header, now), milliseconds.map(Duration::from_millis), "{value}");
    }
    let skewed = |name: &str| match name {
        "date" => Some("Sat, 21 Nov 2026 12:00:00 GMT".to_owned()),
        "retry-after" => Some("Sat, 21 Nov 2026 12:00:04 GMT".to_owned()),
        _ => None,
    };
    assert_eq!(retry_after(&skewed, now), Some(Duration::from_secs(4)));
    for (text, wait) in [
        ("try again in 9m38s", Some(578.0)),
        ("Please retry in 45.5s.", Some(45.5)),
        ("wait for 350 ms", Some(0.35)),
        ("limit 5000 in 60 seconds", None),
        ("resets at 2026-11-21T18:00:00+08:00", Some(0.0)),
        ("will reset at 2026-11-21 11:30:00 UTC", Some(5400.0)),
        ("will reset at 2026-11-21 11:30", Some(5400.0)),
        ("available until 2026/11/21 10:00:30.250Z", Some(30.0)),
        ("reset at 01-02 00:00:00", Some(41.0 * 86400.0 + 14.0 * 3600.0)),
        ("reset at 2026-11-21 09:00:00", None),
        ("reset at 99-99 99:99:99", None),
        ("request 2026-12-01 12:00:00 failed", None),
        ("will reset at 2026-11-21 11:30:00:05", Some(5400.0)),
        ("resets at 2026-11-21T17:30:00+05:30", Some(7200.0)),
        ("resets at 2026-11-21T06:30:00-04:30", Some(3600.0)),
        ("resets at 2026-11-21T06:30-04:30", Some(3600.0)),
        // Dates without a time of day, in the last half year, and in an id.
        ("resets on 2026-12-01", None),
        ("reset at 11-21 01:00:00", None),
        ("reset at 11-10 10:00:00", None),
        ("reset of req-2026-12-01 12:00:00", None),
        ("wait 5 models", None),
    ] {
        let read = time::in_words(text, now).map(|wait| wait.as_secs_f64());
        assert_eq!(read, wait, "{text}");
    }
    for (text, wait) in [("34.07s", Some(34.07)), ("5", Some(5.0)), ("0", Some(0.0)), ("-1", None), ("2m of 3", None)] {
        assert_eq!(delay(text).map(|wait| wait.as_secs_f64()), wait, "{text}");
    }
}

#[test]
fn a_window_is_as_long_as_its_name_says() {
    const HOUR: u64 = 3600;
    for (cause, seconds) in [
        (Cause::Minute, Some(60)),
        (Cause::Hour, Some(HOUR)),
        (Cause::FiveHours, Some(5 * HOUR)),
        (Cause::Day, Some(24 * HOUR)),
        (Cause::Week, Some(168 * HOUR)),
        (Cause::Month, Some(744 * HOUR)),
        (Cause::Plan, Some(744 * HOUR)),
        (Cause::FreeTier, Some(744 * HOUR)),
        (Cause::Outage, Some(744 * HOUR)),
        (Cause::Busy, None),
        (Cause::Unpaid, None),
    ] {
        assert_eq!(cause.length(), seconds.map(Duration::from_secs), "{cause:?}");
    }
}

/// A response with status 429 to a request for `model`.
fn limited(body: &str, model: &str, codes: &BTreeMap<String, Cause>) -> ApiError {
    let (now, model) = (SystemTime::UNIX_EPOCH, Some(model));
    let response = Response { status: 429, header: &|_| None, body: body.as_bytes(), model, secrets: &[], now };
    ApiError::read(&response, codes)
}

#[test]
fn the_words_of_a_message_name_the_window_of_a_plan_and_nothing_shorter() {
    let codes = BTreeMap::from([("quota".to_owned(), Cause::Plan)]);
    let cause =
        |message: &str| limited(&format!(r#"{{"error":{{"code":"quota","message":"{message}"}}}}"#), "m", &codes).cause;
    assert_eq!(cause("weekly"), Cause::Week);
    assert_eq!(cause("per minute"), Cause::Plan);
    assert_eq!(cause("overdue"), Cause::Plan);
}

#[test]
fn a_rejected_credential_is_forwarded_with_any_status() {
    let error = limited(r#"{"error":{"code":"invalid_api_key"}}"#, "m", &BTreeMap::new());
    assert_eq!((error.cause, error.action(MAX_WAIT)), (Cause::Credential, Action::Forward));
}

#[test]
fn a_window_is_of_the_model_that_the_message_quotes() {
    for (message, model, scope) in [
        ("qwen-x: daily", "qwen-x", Scope::Model),
        ("o3x: daily", "o3x", Scope::Model),
        // Two letters are in other words.
        ("today it is daily", "da", Scope::Account),
        ("daily", "qwen-x", Scope::Account),
    ] {
        let body = format!(r#"{{"error":{{"message":"{message}"}}}}"#);
        assert_eq!(limited(&body, model, &BTreeMap::new()).scope, scope, "{message}");
    }
}

#[test]
fn a_message_is_read_to_a_depth_of_eight() {
    let shown = |body: &str| limited(body, "m", &BTreeMap::new()).message;
    let nested = |opens: &str, closes: &str, times: usize| {
        shown(&format!("{}\"deep\"{}", opens.repeat(times), closes.repeat(times)))
    };
    for (opens, closes) in [("[", "]"), (r#"{"error":"#, "}")] {
        assert_eq!([8, 9].map(|times| nested(opens, closes, times)), ["deep", ""], "{opens}");
    }
    // An empty text is none.
    assert_eq!(shown(r#"{"error":{"message":" ","detail":"shown"}}"#), "shown");
}
