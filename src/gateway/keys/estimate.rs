//! What a request asks for, read from its body: the model, and the most that it may use.
//!
//! Hazard: a request that names two models, or names one in a field that only the provider reads, is checked for one
//! model and served by another. Rule: bodies are read completely, as a JSON parser reads them, and each name that some
//! server could take for the model counts.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::gateway::forward::fallback::GENERATING;
use crate::keys::{Money, Price};

/// Requests that only count the tokens of what they contain. Providers charge nothing for them, and their responses state
/// no usage.
const COUNTING: [&str; 2] = ["/messages/count_tokens", "/responses/input_tokens"];

/// Assumed tokens of a completion if the request sets no maximum.
const USUAL_COMPLETION: u64 = 4096;

/// Bytes per token of a prompt, for the estimate.
const BYTES_PER_TOKEN: u64 = 4;

/// The most that a request may use, as estimated before it is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::gateway) struct Estimate {
    pub(in crate::gateway) prompt: u64,
    pub(in crate::gateway) completion: u64,
}

impl Estimate {
    pub(in crate::gateway) fn tokens(self) -> u64 {
        self.prompt.saturating_add(self.completion)
    }

    pub(in crate::gateway) fn cost(self, price: Option<Price>) -> Money {
        price.map(|price| price.of(self.prompt, self.completion)).unwrap_or_default()
    }
}

/// The model and the size of a request, from its body.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::gateway) struct RequestFields {
    /// Different values of the field `model`, and of fields with models that some servers take instead; at most two.
    models: Vec<Option<String>>,
    has_model: bool,
    most: Option<u64>,
    copies: u64,
}

impl RequestFields {
    /// Reads the whole body. Returns `None` if it is not a JSON object.
    pub(in crate::gateway) fn read(body: &[u8]) -> Option<Self> {
        serde_json::Deserializer::from_slice(body).deserialize_map(RequestFieldsVisitor).ok()
    }

    /// The model, if it names exactly one.
    pub(in crate::gateway) fn model(&self) -> Option<&str> {
        match self.models.as_slice() {
            [Some(model)] if self.has_model => Some(model),
            _ => None,
        }
    }

    fn add(&mut self, model: Option<&str>) {
        if self.models.len() < 2 && !self.models.iter().any(|known| known.as_deref() == model) {
            self.models.push(model.map(str::to_owned));
        }
    }

    pub(in crate::gateway) fn estimate(&self, length: u64, path: &str) -> Estimate {
        if COUNTING.contains(&path) {
            return Estimate::default();
        }
        let completion = if GENERATING.contains(&path) { self.most.unwrap_or(USUAL_COMPLETION) } else { 0 };
        Estimate { prompt: length.div_ceil(BYTES_PER_TOKEN), completion: completion.saturating_mul(self.copies.max(1)) }
    }
}

struct RequestFieldsVisitor;

impl<'de> Visitor<'de> for RequestFieldsVisitor {
    type Value = RequestFields;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a request")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RequestFields, A::Error> {
        let mut fields = RequestFields::default();
        while let Some(name) = map.next_key::<String>()? {
            // Some servers ignore the case of field names.
            match name.to_ascii_lowercase().as_str() {
                "model" => {
                    fields.has_model = true;
                    fields.add(map.next_value::<Lenient>()?.0.as_str());
                }
                // OpenRouter's and LiteLLM's. A preset of OpenRouter can name any model.
                "models" | "preset" => map.next_value_seed(Alternatives(&mut fields))?,
                name if name.ends_with("fallbacks") => map.next_value_seed(Alternatives(&mut fields))?,
                "max_tokens" | "max_completion_tokens" | "max_output_tokens" => {
                    fields.most = fields.most.max(map.next_value::<Lenient>()?.0.as_u64());
                }
                "n" | "best_of" => {
                    fields.copies = fields.copies.max(map.next_value::<Lenient>()?.0.as_u64().unwrap_or(1));
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(fields)
    }
}

/// Names of further models: a string, an object with `model`, or lists of them. Another value could name any model.
struct Alternatives<'fields>(&'fields mut RequestFields);

impl<'de> DeserializeSeed<'de> for Alternatives<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Alternatives<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_str<E>(self, name: &str) -> Result<(), E> {
        self.0.add(Some(name));
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.0.add(None);
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.0.add(None);
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.0.add(None);
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.0.add(None);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Alternatives(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut has_model = false;
        while let Some(name) = map.next_key::<String>()? {
            if name.eq_ignore_ascii_case("model") {
                has_model = true;
                map.next_value_seed(Alternatives(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        if !has_model {
            self.0.add(None);
        }
        Ok(())
    }
}

/// A string or a number; other values are ignored.
struct Lenient(Value);

impl<'de> Deserialize<'de> for Lenient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?.get();
        // A list or an object may be long, and is not built.
        if text.starts_with(['[', '{']) {
            return Ok(Self(Value::Null));
        }
        let value: Value = serde_json::from_str(text).map_err(D::Error::custom)?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "held within the range")]
        let rounded = || value.as_f64().filter(|_| !value.is_i64()).map(|number| number.clamp(0.0, 1e15) as u64);
        let number = value.as_u64().or_else(rounded);
        Ok(Self(number.map_or(value, Value::from)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(body: &str) -> Option<String> {
        RequestFields::read(body.as_bytes())?.model().map(str::to_owned)
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
            (r#"{"model":"m","models":["n"]}"#, None),
            (r#"{"models":["m","n"],"model":"m"}"#, None),
            (r#"{"model":"m","models":"n"}"#, None),
            (r#"{"model":"m","Models":[{"MODEL":"n"}]}"#, None),
            (r#"{"model":"m","models":["m",{"model":"m"}],"fallbacks":[]}"#, Some("m")),
            (r#"{"model":"m","models":null,"fallbacks":null}"#, Some("m")),
            (r#"{"model":"m","fallbacks":["n"]}"#, None),
            (r#"{"model":"m","fallbacks":[{"model":"n","max_tokens":1}]}"#, None),
            (r#"{"model":"m","fallbacks":[{"m":["n"]}]}"#, None),
            (r#"{"model":"m","fallbacks":[1]}"#, None),
            (r#"{"model":"m","context_window_fallbacks":["n"]}"#, None),
            (r#"{"model":"m","preset":"n"}"#, None),
            (r#"{"models":["m"]}"#, None),
            (r#"{"fallbacks":["m"],"messages":[]}"#, None),
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
            (r#"{"model":"m","max_tokens":{"a":[1]}}"#, 4096),
            (r#"{"model":"m","max_tokens":true,"n":[2]}"#, 4096),
            (r#"{"model":"m","max_tokens":"9","n":null}"#, 4096),
            (r#"{"model":"m","max_tokens":-1.5,"n":2.9}"#, 0),
        ] {
            let fields = RequestFields::read(body.as_bytes()).unwrap();
            let estimate = fields.estimate(400, "/chat/completions");
            assert_eq!(estimate, Estimate { prompt: 100, completion }, "{body}");
        }
        let fields = RequestFields::read(br#"{"model":"m"}"#).unwrap();
        assert_eq!(fields.estimate(10, "/embeddings"), Estimate { prompt: 3, completion: 0 });
        for path in COUNTING {
            assert_eq!(fields.estimate(200_000, path), Estimate::default(), "{path}");
        }
    }
}
