//! A server's JSON object, read one field at a time.
//!
//! Hazard: strict parsing of the whole object loses issued tokens to one unusual field next to them: a number for a
//! text, a lone surrogate, a repeated name. Rule: an object is split into raw values first, and each value is parsed
//! separately.

use std::time::Duration;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Maximum accepted lifetime in seconds: a century, so that sums with it do not overflow.
const MAX_SECONDS: f64 = 100.0 * 365.25 * 86400.0;

/// The fields of one object. What the server sent is wiped when this is dropped.
pub(crate) struct Fields {
    text: Zeroizing<String>,
    /// Names, and where their values are in `text`. A name may occur twice.
    places: Vec<(String, std::ops::Range<usize>)>,
}

impl Fields {
    /// Reads an object, whatever its content type, with or without a byte order mark, in UTF-8 or nearly so.
    pub(crate) fn of(body: &[u8]) -> Option<Self> {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let text = Zeroizing::new(String::from_utf8_lossy(body).into_owned());
        let mut reader = serde_json::Deserializer::from_str(&text);
        let raw = reader.deserialize_map(Raw).ok()?;
        reader.end().ok()?;
        let start = text.as_ptr() as usize;
        let place = |value: &str| {
            let from = value.as_ptr() as usize - start;
            from..from + value.len()
        };
        let places = raw.into_iter().map(|(name, value)| (name, place(value.get()))).collect();
        Some(Self { text, places })
    }

    /// The values of `name`, as JSON. If a name is repeated, the last value comes first.
    fn raw<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.places.iter().rev().filter(move |(known, _)| known == name).map(|(_, place)| &self.text[place.clone()])
    }

    /// Whether `name` occurs, with any value.
    pub(crate) fn names(&self, name: &str) -> bool {
        self.raw(name).next().is_some()
    }

    /// Whether there is a value of `name` other than `null` and the empty text.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.raw(name).any(|raw| raw != "null" && raw != "\"\"")
    }

    /// A text that is not empty. A number counts as the text of its digits.
    pub(crate) fn text(&self, name: &str) -> Option<Zeroizing<String>> {
        self.raw(name).find_map(|raw| {
            let is_number = raw.starts_with(|first: char| first.is_ascii_digit() || first == '-');
            let text = if is_number { Zeroizing::new(raw.to_owned()) } else { serde_json::from_str(raw).ok()? };
            (!text.is_empty()).then_some(text)
        })
    }

    /// The same under the first of `names` that has one: servers differ over the name of a field.
    pub(crate) fn text_of(&self, names: &[&str]) -> Option<Zeroizing<String>> {
        names.iter().find_map(|name| self.text(name))
    }

    /// A text that is not empty and not a number.
    pub(crate) fn string(&self, name: &str) -> Option<String> {
        self.raw(name).find_map(|raw| serde_json::from_str(raw).ok().filter(|text: &String| !text.is_empty()))
    }

    pub(crate) fn secret(&self, name: &str) -> Option<Secret> {
        self.text(name).map(|text| Secret::new(text.trim().to_owned())).filter(|secret| !secret.expose().is_empty())
    }

    /// The texts of a list; `None` if the value is not a list.
    pub(crate) fn list(&self, name: &str) -> Option<Vec<String>> {
        self.raw(name).find_map(|raw| {
            let values: Vec<Value> = serde_json::from_str(raw).ok()?;
            Some(values.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        })
    }

    /// A finite number, or a text that is one.
    pub(crate) fn number(&self, name: &str) -> Option<f64> {
        let text = self.text(name)?;
        text.trim().parse().ok().filter(|number: &f64| number.is_finite())
    }

    /// A positive number of seconds, at most [`MAX_SECONDS`].
    pub(crate) fn seconds(&self, name: &str) -> Option<Duration> {
        let seconds = self.number(name).filter(|seconds| *seconds > 0.0)?;
        Some(Duration::from_secs_f64(seconds.min(MAX_SECONDS)))
    }
}

/// Reads names and raw values. Unlike a derived struct it does not mind a repeated name.
struct Raw;

impl<'de> Visitor<'de> for Raw {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(name) = map.next_key()? {
            fields.push((name, map.next_value()?));
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(body: &str) -> Fields {
        Fields::of(body.as_bytes()).unwrap()
    }

    #[test]
    fn only_an_object_is_read() {
        for body in ["", "null", "[]", "5", "\"a\"", "{", "{}x", "<html>"] {
            assert!(Fields::of(body.as_bytes()).is_none(), "{body}");
        }
        assert!(Fields::of(b"\xef\xbb\xbf {} \n").is_some());
    }

    #[test]
    fn an_odd_field_costs_no_other() {
        for odd in [
            r#""\ud800""#,
            "1e999",
            "{\"a\":[1]}",
            "[[]]",
            "true",
            "null",
            "\"\"",
            "-0",
            "123456789012345678901234567890",
        ] {
            let read = fields(&format!(r#"{{"odd":{odd},"good":"g","odd":{odd}}}"#));
            assert_eq!(read.string("good").as_deref(), Some("g"), "{odd}");
        }
        let broken = Fields::of(b"{\"odd\":\"\xff\",\"good\":\"g\"}").unwrap();
        assert_eq!(broken.string("good").as_deref(), Some("g"));
    }

    #[test]
    fn a_repeated_name_counts_where_it_was_last_filled() {
        let read = fields(r#"{"a":"1","a":"2","a":"","a":null}"#);
        assert_eq!(read.string("a").as_deref(), Some("2"));
    }

    #[test]
    fn numbers_are_texts_and_texts_are_numbers() {
        let read = fields(r#"{"code":123456,"big":12345678901234567890,"in":" 21600 ","none":true,"name":"5"}"#);
        assert_eq!(read.text("code").unwrap().as_str(), "123456");
        assert_eq!(read.text("big").unwrap().as_str(), "12345678901234567890");
        assert_eq!(read.seconds("in"), Some(Duration::from_secs(21600)));
        assert_eq!((read.text("none"), read.string("code")), (None, None));
        assert_eq!(read.string("name").as_deref(), Some("5"));
        assert_eq!(read.text_of(&["nothing", "none", "code"]).unwrap().as_str(), "123456");
    }

    #[test]
    fn seconds_are_positive_and_bounded() {
        for (body, expected) in [("0", None), ("-5", None), ("\"x\"", None), ("null", None), ("1e999", None)] {
            assert_eq!(fields(&format!("{{\"s\":{body}}}")).seconds("s"), expected, "{body}");
        }
        assert_eq!(fields("{\"s\":1e300}").seconds("s"), Some(Duration::from_secs_f64(MAX_SECONDS)));
    }
}
