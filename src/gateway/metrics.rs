//! What `/metrics` says: counters of this process as Prometheus reads them.

use std::fmt::Write;

use super::Gateway;
use crate::usage::Counts;

type Read = fn(&Counts) -> f64;

/// Name, help and value of each counter. Counts stay far below where `f64` would lose one.
#[expect(clippy::cast_precision_loss, reason = "no process counts to 2^53")]
const COUNTERS: [(&str, &str, Read); 6] = [
    ("requests", "Requests of clients.", |counts| counts.requests as f64),
    ("tries", "Requests sent to the provider, repetitions included.", |counts| counts.tries as f64),
    ("prompt_tokens", "Tokens of prompts, as answers state them.", |counts| counts.prompt_tokens as f64),
    ("completion_tokens", "Tokens of completions, as answers state them.", |counts| counts.completion_tokens as f64),
    ("rate_limited", "Answers with status 429 from the provider.", |counts| counts.rate_limited as f64),
    ("wait_seconds", "Seconds that requests waited in the gateway.", |counts| counts.wait_ms as f64 / 1000.0),
];

pub(super) fn text(gateway: &Gateway) -> String {
    let mut text = String::new();
    let totals = gateway.totals();
    for (name, help, read) in COUNTERS {
        let _ = writeln!(text, "# HELP qwenauth_{name}_total {help}\n# TYPE qwenauth_{name}_total counter");
        for (profile, model, counts) in &totals {
            let labels = format!("profile=\"{}\",model=\"{}\"", escaped(profile), escaped(model));
            let _ = writeln!(text, "qwenauth_{name}_total{{{labels}}} {}", read(counts));
        }
    }
    text + &gateway.traffic.metrics()
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
