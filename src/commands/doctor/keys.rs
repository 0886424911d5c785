//! The keys of people and jobs that are made on this machine: their file and the team secret.

use std::path::Path;

use anyhow::Result;

use super::Check;
use crate::error::Report;
use crate::keys::{Keys, TeamSecret};
use crate::platform::access;
use crate::session::Session;

pub(super) fn check(session: &Session) -> Vec<Check> {
    let places = session.config.team_places();
    let has_keys = places.keys.symlink_metadata().is_ok();
    let has_secret = places.is_secret_given || places.secret.symlink_metadata().is_ok();
    let mut checks = Vec::new();
    if has_keys {
        let count = |keys: &Keys| keys.iter().filter(|key| key.revoked_at.is_none()).count();
        let counted = read(&places.keys, "the file of the keys", Keys::read, &mut checks).map(|keys| count(&keys));
        checks.extend(counted.map(|count| Check::ok("keys", format!("keys of people and jobs: {count}"))));
    }
    if has_keys || has_secret {
        read(&places.secret, "the team secret", TeamSecret::read, &mut checks);
    }
    checks
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
