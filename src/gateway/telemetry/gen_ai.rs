//! Durations and tokens under the names that OpenTelemetry has for clients of generative AI, so that dashboards made for
//! other programs show the gateway's requests.
//!
//! Hazard: clients name the models, and each new name would be a series that stays for as long as the process.
//! Rule: the names of [`MOST_MODELS`] models are kept, each as far as the ledger keeps it; further ones share `_other`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use hyper::Method;

use super::metrics::{Histogram, escaped};
use crate::usage::cut_name;

/// The conventions are in development and move: these are those of this version.
const CONVENTIONS: &str = "OpenTelemetry semantic conventions 1.41.0, in development";

/// Pairs of a requested and an answering model that have series of their own.
const MOST_MODELS: usize = 100;
const OTHER: &str = "_other";

/// Upper bounds, as the conventions have them: seconds, and tokens.
const SECONDS: [f64; 14] = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
const TOKENS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// What a request does, in the conventions' word; `None` for what is no use of a model.
pub(super) fn operation(method: &Method, path: &str) -> Option<&'static str> {
    if *method != Method::POST {
        return None;
    }
    let path = path.split('?').next().unwrap_or_default().trim_end_matches('/');
    match path.rsplit_once("/v1").map_or(path, |(_, rest)| rest) {
        "/chat/completions" | "/messages" | "/responses" => Some("chat"),
        "/embeddings" => Some("embeddings"),
        "/completions" => Some("text_completion"),
        _ => None,
    }
}

/// One finished request.
pub(in crate::gateway) struct Call<'entry> {
    pub(super) operation: &'static str,
    pub(in crate::gateway) provider: &'entry str,
    pub(in crate::gateway) server: &'entry str,
    pub(super) request_model: &'entry str,
    pub(super) response_model: &'entry str,
    /// The status of an error, or how the answer ended early; `None`: it was served.
    pub(in crate::gateway) error: Option<&'entry str>,
    pub(in crate::gateway) took: Duration,
    /// Of a stream.
    pub(super) first_chunk: Option<Duration>,
    pub(super) input_tokens: u64,
    pub(super) output_tokens: u64,
}

/// By labels.
type Series = BTreeMap<String, Histogram>;

#[derive(Default)]
struct Seen {
    models: BTreeSet<(String, String)>,
    durations: Series,
    first_chunks: Series,
    tokens: Series,
}

#[derive(Default)]
pub(in crate::gateway) struct GenAi(RefCell<Seen>);

impl GenAi {
    #[expect(clippy::cast_precision_loss, reason = "no request has 2^53 tokens")]
    pub(in crate::gateway) fn count(&self, call: &Call<'_>) {
        let seen = &mut *self.0.borrow_mut();
        let mut models = (cut_name(call.request_model).to_owned(), cut_name(call.response_model).to_owned());
        if !seen.models.contains(&models) {
            if seen.models.len() < MOST_MODELS {
                seen.models.insert(models.clone());
            } else {
                models = (OTHER.to_owned(), OTHER.to_owned());
            }
        }
        let mut labels =
            format!("gen_ai_operation_name=\"{}\",gen_ai_provider_name=\"{}\"", call.operation, escaped(call.provider));
        for (name, value) in [
            ("gen_ai_request_model", models.0.as_str()),
            ("gen_ai_response_model", models.1.as_str()),
            ("server_address", without_port(call.server)),
        ] {
            if !value.is_empty() {
                let _ = write!(labels, ",{name}=\"{}\"", escaped(value));
            }
        }
        let with_error = match call.error {
            Some(error) => format!("{labels},error_type=\"{}\"", escaped(error)),
            None => labels.clone(),
        };
        add(&mut seen.durations, with_error, &SECONDS, call.took.as_secs_f64());
        if let Some(first_chunk) = call.first_chunk {
            add(&mut seen.first_chunks, labels.clone(), &SECONDS, first_chunk.as_secs_f64());
        }
        for (kind, tokens) in [("input", call.input_tokens), ("output", call.output_tokens)] {
            if tokens > 0 {
                add(&mut seen.tokens, format!("{labels},gen_ai_token_type=\"{kind}\""), &TOKENS, tokens as f64);
            }
        }
    }

    pub(in crate::gateway) fn text(&self) -> String {
        let seen = self.0.borrow();
        let mut text = String::new();
        for (name, help, series) in [
            ("operation_duration_seconds", "Duration of requests in seconds, including waits.", &seen.durations),
            (
                "operation_time_to_first_chunk_seconds",
                "Seconds from a request to the first chunk of a stream.",
                &seen.first_chunks,
            ),
            ("token_usage", "Tokens of a request, as reported by the provider.", &seen.tokens),
        ] {
            let name = format!("gen_ai_client_{name}");
            let _ = writeln!(text, "# HELP {name} {help} {CONVENTIONS}.\n# TYPE {name} histogram");
            for (labels, histogram) in series {
                histogram.write(&mut text, &name, labels);
            }
        }
        text
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn add(series: &mut Series, labels: String, bounds: &'static [f64], value: f64) {
    series.entry(labels).or_insert_with(|| Histogram::new(bounds)).add(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(model: &str) -> Call<'_> {
        Call {
            operation: "chat",
            provider: "qwen",
            server: "api.example",
            request_model: model,
            response_model: "",
            error: None,
            took: Duration::from_millis(50),
            first_chunk: None,
            input_tokens: 3,
            output_tokens: 0,
        }
    }

    #[test]
    fn a_value_counts_in_every_bucket_from_its_own_on() {
        let metrics = GenAi::default();
        metrics.count(&call("a\"b"));
        let text = metrics.text();
        let labels = r#"gen_ai_operation_name="chat",gen_ai_provider_name="qwen",gen_ai_request_model="a\"b",server_address="api.example""#;
        for line in [
            format!("gen_ai_client_operation_duration_seconds_bucket{{{labels},le=\"0.04\"}} 0\n"),
            format!("gen_ai_client_operation_duration_seconds_bucket{{{labels},le=\"0.08\"}} 1\n"),
            format!("gen_ai_client_operation_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 1\n"),
            format!("gen_ai_client_operation_duration_seconds_sum{{{labels}}} 0.05\n"),
            format!("gen_ai_client_token_usage_bucket{{{labels},gen_ai_token_type=\"input\",le=\"4\"}} 1\n"),
        ] {
            assert!(text.contains(&line), "{line}\n{text}");
        }
        assert!(!text.contains("output"), "{text}");
    }

    #[test]
    fn clients_cannot_make_series_without_end() {
        let metrics = GenAi::default();
        for number in 0..10 * MOST_MODELS {
            metrics.count(&call(&format!("model-{number}")));
        }
        let text = metrics.text();
        assert_eq!(text.matches("duration_seconds_count").count(), MOST_MODELS + 1);
        assert!(text.contains(&format!("gen_ai_request_model=\"{OTHER}\"")));
        metrics.count(&call("model-0"));
        assert!(metrics.text().contains("gen_ai_request_model=\"model-0\",server_address=\"api.example\"} 2"));
    }

    #[test]
    fn a_host_is_named_without_its_port() {
        for (host, name) in [
            ("api.example:443", "api.example"),
            ("api.example", "api.example"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }

    #[test]
    fn an_operation_is_known_by_its_path() {
        for (path, expected) in [
            ("/v1/chat/completions", Some("chat")),
            ("/p/mine/v1/messages?beta=true", Some("chat")),
            ("/v1/responses/", Some("chat")),
            ("/v1/embeddings", Some("embeddings")),
            ("/v1/completions", Some("text_completion")),
            ("/v1/models", None),
            ("/readyz", None),
        ] {
            assert_eq!(operation(&Method::POST, path), expected, "{path}");
            // What was stored is read again.
            assert_eq!(operation(&Method::GET, path), None, "{path}");
        }
    }
}
