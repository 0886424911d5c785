//! What is noted of requests: the log, metrics, events, the ledger.
//!
//! ```text
//! traffic.rs       how requests ended: the log of requests, statuses, durations
//! metrics.rs       counters for Prometheus
//! gen_ai.rs        durations and tokens under OpenTelemetry's names
//! meter.rs         tokens read while an answer passes
//! usage_record.rs  what is noted of one request for the ledger, the log and the metrics
//! flush.rs         writes what requests used to the ledger
//! events.rs        where events go: log, hooks, metrics
//! ```

pub(super) mod events;
pub(super) mod flush;
mod gen_ai;
pub(super) mod meter;
pub(super) mod metrics;
pub(super) mod traffic;
pub(super) mod usage_record;
