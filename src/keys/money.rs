//! Amounts of money, budgets over a period, and prices of models.
//!
//! Amounts are whole nanodollars: one token of the cheapest models costs some, and sums stay exact.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::matches;

const NANO: u64 = 1_000_000_000;

/// The maximum amount, far above any budget and exact in a double: 9 million dollars.
const MOST: u64 = 9_000_000 * NANO;

/// Nanodollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Money(pub(crate) u64);

impl Money {
    pub(crate) fn dollars(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let (whole, rest) = ((self.0 / NANO) as f64, (self.0 % NANO) as f64);
        whole + rest / 1e9
    }

    /// Rounded up, so that no use is free; a rounding error of doubles is not counted as use.
    fn of_nanodollars(amount: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "held within the range")]
        Self((amount - 1e-6).ceil().clamp(0.0, 9e15) as u64)
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// For example `0.25`, with as many decimals as it has.
impl fmt::Display for Money {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = format!("{:09}", self.0 % NANO);
        let decimals = decimals.trim_end_matches('0');
        write!(formatter, "{}.{decimals:0<2}", self.0 / NANO)
    }
}

impl FromStr for Money {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && text.len() <= 9;
        if whole.is_empty() || !is_number(whole) || !is_number(decimals) {
            return Err(());
        }
        let whole: u64 = whole.parse().map_err(drop)?;
        let decimals: u64 = format!("{decimals:0<9}").parse().map_err(drop)?;
        Some(whole * NANO + decimals).filter(|amount| *amount <= MOST).map(Self).ok_or(())
    }
}

/// The period of a budget, by the calendar in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Period {
    Day,
    Week,
    Month,
}

impl Period {
    const ALL: [(Self, &'static str); 3] = [(Self::Day, "day"), (Self::Week, "week"), (Self::Month, "month")];

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(period, _)| *period == self).map_or("month", |(_, name)| name)
    }

    fn begins(self, now: SystemTime) -> Date {
        let today = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(TimeZone::UTC).date();
        match self {
            Self::Day => today,
            Self::Week => {
                let passed = i64::from(today.weekday().to_monday_zero_offset());
                today.checked_sub(passed.days()).unwrap_or(today)
            }
            Self::Month => today.first_of_month(),
        }
    }

    /// Distinguishes the period of `now` from all others, of this kind and other kinds.
    pub(super) fn name_at(self, now: SystemTime) -> String {
        format!("{}-{}", self.name(), self.begins(now))
    }

    /// When the period of `now` started.
    pub(crate) fn began(self, now: SystemTime) -> SystemTime {
        self.begins(now).to_zoned(TimeZone::UTC).map_or(now, |begins| begins.timestamp().into())
    }

    pub(crate) fn ends(self, now: SystemTime) -> SystemTime {
        let begins = self.begins(now);
        let next = match self {
            Self::Day => begins.tomorrow(),
            Self::Week => begins.checked_add(7.days()),
            Self::Month => begins.checked_add(1.month()),
        };
        let next = next.ok().and_then(|next| next.to_zoned(TimeZone::UTC).ok());
        next.map_or(now + Duration::from_secs(86400), |next| next.timestamp().into())
    }
}

/// `20 USD/month`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) amount: Money,
    pub(crate) period: Period,
}

impl fmt::Display for Budget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amount = self.amount.to_string();
        write!(formatter, "{} USD/{}", amount.strip_suffix(".00").unwrap_or(&amount), self.period.name())
    }
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not a budget; write it like `20 USD/month` (or `/week`, `/day`)".to_owned();
        let (amount, period) = text.split_once('/').ok_or_else(wrong)?;
        let period = period.trim();
        let known = Period::ALL.iter().find(|(_, name)| period.eq_ignore_ascii_case(name));
        let amount = amount.trim();
        let digits = amount.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(amount.len());
        let (amount, currency) = amount.split_at(digits);
        if !currency.trim().eq_ignore_ascii_case("USD") {
            return Err("not in US dollars, the currency of the prices; write it like `20 USD/month`".to_owned());
        }
        let amount: Money = amount.parse().map_err(|()| wrong())?;
        if amount == Money::default() {
            return Err("a budget must be above 0".to_owned());
        }
        Ok(Self { amount, period: known.ok_or_else(wrong)?.0 })
    }
}

impl Serialize for Budget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Budget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// US dollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Price {
    pub(crate) input: f64,
    pub(crate) output: f64,
}

impl Price {
    pub(crate) fn is_amount(&self) -> bool {
        [self.input, self.output].iter().all(|price| price.is_finite() && (0.0..1e6).contains(price))
    }

    pub(crate) fn of(&self, prompt: u64, completion: u64) -> Money {
        #[expect(clippy::cast_precision_loss, reason = "no response has 2^53 tokens")]
        let (prompt, completion) = (prompt as f64, completion as f64);
        // One dollar per million tokens is a thousand nanodollars per token.
        Money::of_nanodollars(prompt * (self.input * 1e3) + completion * (self.output * 1e3))
    }
}

/// `[prices]`: by name or pattern of the model.
#[derive(Debug, Clone, Default)]
pub(crate) struct Prices(pub(crate) BTreeMap<String, Price>);

impl Prices {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The price under this exact name, else under the longest pattern that matches it.
    pub(crate) fn of(&self, model: &str) -> Option<Price> {
        let exact = self.0.get(model);
        let by_pattern = || self.0.iter().filter(|(pattern, _)| matches(pattern, model));
        exact.or_else(|| by_pattern().max_by_key(|(pattern, _)| pattern.len()).map(|(_, price)| price)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SystemTime {
        text.parse::<Timestamp>().unwrap().into()
    }

    #[test]
    fn budgets_are_read_and_written_back() {
        for (text, shown) in [
            ("20 USD/month", "20 USD/month"),
            ("0.5usd / day", "0.50 USD/day"),
            ("7.125 USD/week", "7.125 USD/week"),
            ("20.00 USD/Month", "20 USD/month"),
        ] {
            assert_eq!(text.parse::<Budget>().unwrap().to_string(), shown);
        }
        for bad in
            ["", "20", "20 USD", "20 EUR/month", "20/month", "-1 USD/day", "0 USD/day", "1e3 USD/day", "20 USD/year"]
        {
            assert!(bad.parse::<Budget>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_amount_has_nine_digits_at_most_on_either_side_and_nothing_else() {
        for (text, amount) in [("5", 5 * NANO), ("5.", 5 * NANO), ("0.000000001", 1), ("9000000.00", MOST)] {
            assert_eq!(text.parse(), Ok(Money(amount)), "{text}");
        }
        for bad in
            ["", ".5", "+5", "1.+5", "1.2.3", "0.1234567891", "9000000.000000001", "1234567890", "12345678901234567890"]
        {
            assert_eq!(bad.parse::<Money>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn periods_are_those_of_the_calendar_in_utc() {
        let now = at("2026-12-31T23:59:59Z");
        let known = |period: Period| (period.name_at(now), period.ends(now));
        assert_eq!(known(Period::Day), ("day-2026-12-31".into(), at("2027-01-01T00:00:00Z")));
        assert_eq!(known(Period::Week), ("week-2026-12-28".into(), at("2027-01-04T00:00:00Z")));
        assert_eq!(known(Period::Month), ("month-2026-12-01".into(), at("2027-01-01T00:00:00Z")));
    }

    #[test]
    fn a_price_is_for_a_million_tokens_and_rounded_up() {
        let price = Price { input: 1.0, output: 5.0 };
        assert_eq!(price.of(1_000_000, 200_000), Money(2 * NANO));
        assert_eq!(Price { input: 0.000_1, output: 0.0 }.of(1, 0), Money(1));
        assert_eq!(Money(1).to_string(), "0.000000001");
        assert_eq!(Money(2 * NANO).to_string(), "2.00");
    }

    #[test]
    fn a_price_is_finite_and_not_negative() {
        for (price, is_amount) in [
            (0.0, true),
            (999_999.0, true),
            (1e6, false),
            (-0.1, false),
            (f64::NAN, false),
            (f64::INFINITY, false),
            (f64::NEG_INFINITY, false),
        ] {
            assert_eq!(Price { input: price, output: 1.0 }.is_amount(), is_amount, "{price}");
            assert_eq!(Price { input: 1.0, output: price }.is_amount(), is_amount, "{price}");
        }
    }

    #[test]
    fn the_exact_name_is_before_the_longest_pattern() {
        let price = |input: f64| Price { input, output: 0.0 };
        let prices = [("*", 1.0), ("qwen*", 2.0), ("qwen3*", 3.0), ("qwen3", 4.0)];
        let prices = Prices(prices.into_iter().map(|(name, input)| (name.to_owned(), price(input))).collect());
        for (model, input) in [("x", 1.0), ("qwen2", 2.0), ("qwen3-max", 3.0), ("qwen3", 4.0)] {
            assert_eq!(prices.of(model), Some(price(input)), "{model}");
        }
        assert_eq!(Prices::default().of("x"), None);
    }
}
