//! What `/metrics` says: counters of this process as Prometheus reads them.

use std::fmt::Write;
use std::time::SystemTime;

use crate::gateway::Gateway;
use crate::gateway::keys::key_limits::left_of;
use crate::gateway::server::identity::Identity;
use crate::limits::shared::Health;
use crate::usage::Counts;

type Read = fn(&Counts) -> f64;

/// Name, help and value of each counter. Counts stay far below where `f64` would lose one.
#[expect(clippy::cast_precision_loss, reason = "no process counts to 2^53")]
const COUNTERS: [(&str, &str, Read); 6] = [
    ("requests", "Requests of clients.", |counts| counts.requests as f64),
    ("tries", "Requests sent to the provider, including retries.", |counts| counts.tries as f64),
    ("prompt_tokens", "Prompt tokens reported by the provider.", |counts| counts.prompt_tokens as f64),
    ("completion_tokens", "Completion tokens reported by the provider.", |counts| counts.completion_tokens as f64),
    ("rate_limited", "Responses with status 429 from the provider.", |counts| counts.rate_limited as f64),
    ("wait_seconds", "Seconds that requests waited in the gateway.", |counts| counts.wait_ms as f64 / 1000.0),
];

pub(in crate::gateway) async fn text(gateway: &Gateway) -> String {
    let mut text = String::new();
    let totals = gateway.profiles.totals();
    for (name, help, read) in COUNTERS {
        head(&mut text, &format!("{name}_total"), "counter", help);
        for (profile, model, counts) in &totals {
            let labels = format!("profile=\"{}\",model=\"{}\"", escaped(profile), escaped(model));
            let _ = writeln!(text, "qwenauth_{name}_total{{{labels}}} {}", read(counts));
        }
    }
    moved(&mut text, gateway);
    keys(&mut text, gateway).await;
    state(&mut text, gateway);
    if let Some(own) = &gateway.identity {
        identity(&mut text, own);
    }
    text + &gateway.traffic.metrics()
}

pub(in crate::gateway) fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP qwenauth_{name} {help}\n# TYPE qwenauth_{name} {kind}");
}

/// Requests that moved to another profile.
fn moved(text: &mut String, gateway: &Gateway) {
    let events = &gateway.events;
    head(text, "fallback_total", "counter", "Requests served by another profile than the first.");
    for ((from, to, reason), count) in events.moved.borrow().iter() {
        let labels = format!("from=\"{}\",to=\"{}\",reason=\"{reason}\"", escaped(from), escaped(to));
        let _ = writeln!(text, "qwenauth_fallback_total{{{labels}}} {count}");
    }
}

/// The gateway's own certificate.
fn identity(text: &mut String, identity: &Identity) {
    if let Some(expires_at) = identity.expires_at() {
        head(text, "tls_certificate_expires_seconds", "gauge", "Seconds until the served certificate expires.");
        let left = expires_at.duration_since(SystemTime::now()).unwrap_or_default().as_secs();
        let _ = writeln!(text, "qwenauth_tls_certificate_expires_seconds {left}");
    }
    for (name, help, count) in [
        (
            "tls_failed_reloads_total",
            "Changed certificates that did not match their key.",
            identity.failed_reloads.get(),
        ),
        ("tls_failed_handshakes_total", "Connections whose TLS handshake failed.", identity.failed_handshakes.get()),
    ] {
        head(text, name, "counter", help);
        let _ = writeln!(text, "qwenauth_{name} {count}");
    }
}

/// What was decided for keys of people and jobs, and what their budgets leave.
async fn keys(text: &mut String, gateway: &Gateway) {
    let Some(team) = &gateway.team else { return };
    head(
        text,
        "admissions_total",
        "counter",
        "Decisions of the limits of keys and accounts, one for each try of a request with a key.",
    );
    for (decision, count) in team.decisions.borrow().iter() {
        let _ = writeln!(text, "qwenauth_admissions_total{{decision=\"{decision}\"}} {count}");
    }
    if !team.shows_keys {
        return;
    }
    head(
        text,
        "key_budget_remaining_usd",
        "gauge",
        "Remaining budget of a key in US dollars, without what is reserved.",
    );
    let mut keys = team.engine.records();
    keys.retain(|key| key.limits.budget.is_some() && key.revoked_at.is_none());
    for (key, left) in keys.iter().zip(team.engine.left_of_each(&keys).await) {
        let Some(budget) = key.limits.budget else { continue };
        let rest = left_of(budget.amount, &left).dollars();
        let labels = format!("key=\"{}\",name=\"{}\"", escaped(&key.id), escaped(&key.name));
        let _ = writeln!(text, "qwenauth_key_budget_remaining_usd{{{labels}}} {rest}");
    }
}

/// What is the case now.
fn state(text: &mut String, gateway: &Gateway) {
    let served_profiles = gateway.profiles.all();
    head(text, "credential_expires_seconds", "gauge", "Seconds until the access token expires; none for keys.");
    for served in &served_profiles {
        let expires_at = served.last_ready().and_then(|ready| ready.credential.expires_at);
        let Some(expires_at) = expires_at else { continue };
        let left = expires_at.duration_since(SystemTime::now()).unwrap_or_default().as_secs();
        let _ =
            writeln!(text, "qwenauth_credential_expires_seconds{{profile=\"{}\"}} {left}", escaped(&served.profile));
    }
    if let Some(shared) = &gateway.shared {
        head(text, "shared_up", "gauge", "1 while the server of the shared limits responds.");
        let _ = writeln!(text, "qwenauth_shared_up {}", u8::from(shared.health() == Health::Up));
    }
    head(text, "limit_remaining", "gauge", "What is left of a limit, as last reported in the provider's headers.");
    for served in &served_profiles {
        for (name, left) in served.last_account().map(|account| account.stated_limits()).unwrap_or_default() {
            let labels = format!("profile=\"{}\",limit=\"{}\"", escaped(&served.profile), escaped(&name));
            let _ = writeln!(text, "qwenauth_limit_remaining{{{labels}}} {left}");
        }
    }
    head(text, "limit_exhausted", "gauge", "1 for each limit that the provider reported as used up.");
    for served in &served_profiles {
        for (limit, model) in served.last_account().map(|account| account.exhausted_limits()).unwrap_or_default() {
            let labels =
                format!("profile=\"{}\",limit=\"{limit}\",model=\"{}\"", escaped(&served.profile), escaped(&model));
            let _ = writeln!(text, "qwenauth_limit_exhausted{{{labels}}} 1");
        }
    }
}

/// How values are distributed.
pub(in crate::gateway) struct Histogram {
    bounds: &'static [f64],
    /// By upper bound, the last without one.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    pub(in crate::gateway) fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    pub(in crate::gateway) fn add(&mut self, value: f64) {
        let place = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.counts[place] += 1;
        self.sum += value;
    }

    pub(in crate::gateway) fn write(&self, text: &mut String, name: &str, labels: &str) {
        let mut total = 0;
        let bounds = self.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&self.counts) {
            total += count;
            let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {total}");
        }
        let _ = writeln!(text, "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {total}", self.sum);
    }
}

pub(super) fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
