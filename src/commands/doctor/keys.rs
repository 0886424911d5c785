//! The keys of people and jobs that are made on this machine: their file and the team secret, and the server where gateways
//! count together.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use super::Check;
use crate::error::{Failed, Report};
use crate::keys::{Keys, TeamSecret};
use crate::platform::access;
use crate::session::Session;

pub(super) fn check(session: &Session) -> Vec<Check> {
    let places = session.config.team_places();
    let has_keys = places.keys.symlink_metadata().is_ok();
    let has_secret = places.is_secret_given || places.secret.symlink_metadata().is_ok();
    let mut checks = Vec::new();
    if has_keys {
        let keys = read(&places.keys, "the file of the keys", Keys::read, &mut checks);
        if let Some(keys) = &keys {
            for field in keys.unknown_fields(&places.keys) {
                checks.push(Check::warn("keys", field, "correct the name, or remove the field"));
            }
            let count = keys.iter().filter(|key| key.revoked_at.is_none()).count();
            checks.push(Check::ok("keys", format!("keys of people and jobs: {count}")));
        }
        let has_budget = |keys: &Keys| keys.iter().any(|key| key.revoked_at.is_none() && key.limits.budget.is_some());
        if session.config.prices.is_empty() && keys.as_ref().is_some_and(has_budget) {
            checks.push(Check::warn(
                "keys",
                "keys have a budget, and config.toml has no `[prices]`: the gateway rejects their requests",
                "add `[prices.\"MODEL\"]` with `input` and `output`, or remove the budgets: `qwenauth keys set NAME --budget none`",
            ));
        }
    }
    if has_keys || has_secret {
        read(&places.secret, "the team secret", TeamSecret::read, &mut checks);
    }
    checks.extend(shared(session));
    checks
}

/// The server that `[team] shared` names, which is asked once.
fn shared(session: &Session) -> Option<Check> {
    let failed = |error: &anyhow::Error, remedy: &str| {
        let report = Report::of(error);
        Check::fail("team", report.message, report.hint.unwrap_or_else(|| remedy.into()))
    };
    let place = match session.shared_if_named() {
        Ok(place) => place?,
        Err(error) => return Some(failed(&error, "correct `[team]` in config.toml")),
    };
    let (shown, begun) = (place.address.shown(), Instant::now());
    let asked = session.shared_tls(&place).and_then(|tls| place.foreign_host(tls, None));
    Some(match asked {
        Ok(_) => {
            Check::ok("team", format!("the shared server `{shown}` responds in {} ms", begun.elapsed().as_millis()))
        }
        // Its message names the server.
        Err(error) if error.is::<Failed>() => failed(&error, "correct `[team]` in config.toml"),
        Err(error) => failed(
            &error.context(format!("the shared server `{shown}` cannot be used")),
            "check the server, and `shared` and `password_file` under `[team]` in config.toml",
        ),
    })
}

/// Reading makes a file private, as every command does.
fn read<T>(path: &Path, what: &str, read: fn(&Path) -> Result<T>, checks: &mut Vec<Check>) -> Option<T> {
    let readable = access::readable_by_others(path);
    let content = read(path);
    if let Some(how) = readable {
        let message = format!("{what} is readable by other users ({how})");
        checks.push(Check::warn("mode", message, access::how_tightened(path)));
    }
    content
        .map_err(|error| {
            let report = Report::of(&error);
            let remedy = report.hint.unwrap_or_else(|| "check the mode and owner of that file".into());
            checks.push(Check::fail("keys", report.message, remedy));
        })
        .ok()
}
