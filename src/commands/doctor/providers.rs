//! `[providers.NAME]` of config.toml: whether the gateway can use each, limits included.

use super::Check;
use crate::error::Report;
use crate::gateway::{self, Tuning};
use crate::providers;
use crate::session::Session;

/// `checks`: the ones so far, among which may be the same problem of a login.
pub(super) fn check(session: &Session, checks: &[Check]) -> Vec<Check> {
    let overrides = &session.config.overrides;
    let tuning = Tuning { rpm: None, rpd: None, pacing: true };
    let problems = overrides.table.keys().filter_map(|name| {
        let provider = providers::find(name, overrides);
        let usable = provider.and_then(|provider| {
            gateway::check_limits(&provider)?;
            gateway::rule(&provider, &tuning).map(drop)
        });
        let report = Report::of(&usable.err()?);
        let is_new = checks.iter().all(|check| check.message != report.message);
        is_new.then(|| Check::fail("config", report.message, report.hint.unwrap_or_else(|| "correct it".into())))
    });
    problems.collect()
}
