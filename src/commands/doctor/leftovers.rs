//! What other runs left behind: temporary files, abandoned logins, marks of tokens that are gone.
//!
//! Hazard: what looks left over may be in use at this moment, and what was renamed may be needed. Rule: only what no
//! process works on and no program can use is removed, and only by `--fix`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::storage::age;
use super::{Check, sources};
use crate::credentials::{CredentialSource, Pending, PendingLogin, Stored, marks_of_others, stray_origins};
use crate::error::path_for_sh;
use crate::profile::ProfileName;
use crate::session::Session;

/// No write takes this long: the process of a temporary file this old is gone.
const LEFT: Duration = Duration::from_secs(600);

const REMEDY: &str = "`qwenauth doctor --fix` removes it";

pub(super) fn temporary_files(directories: &[PathBuf], session: &Session, fix: bool) -> Vec<Check> {
    let mut checks = Vec::new();
    // The token that a killed renewal was granted is the only one that the server still accepts.
    let successors: Vec<(CredentialSource, PathBuf)> = sources(session)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(source, _)| source.store.unfinished().map(|path| (source, path)))
        .collect();
    let entries = directories.iter().filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some((source, _)) = successors.iter().find(|(_, successor)| *successor == path) {
            // The renewal that has it open is in progress, or has ended in the meantime.
            if source.store.is_in_use() || !path.exists() {
                continue;
            }
            let message = format!("`{}` was left by an interrupted renewal", path.display());
            checks.push(Check::warn("leftovers", message, "`qwenauth refresh` completes it"));
            continue;
        }
        let temporary = name.starts_with('.')
            && name.contains(".qwenauth-")
            && path.extension().is_some_and(|extension| extension == "tmp");
        if temporary && age(&path).is_some_and(|age| age > LEFT) {
            let message = format!("`{}` was left by a process that was killed", path.display());
            checks.push(removed(message, fix && fs::remove_file(&path).is_ok()));
        }
        if is_set_aside(&name) {
            let message = format!("`{}` is a damaged credential that was set aside", path.display());
            let remedy = format!("it may contain a secret; `rm {}` when you no longer need it", path_for_sh(&path));
            checks.push(Check::warn("leftovers", message, remedy));
        }
    }
    checks
}

/// `work.json.damaged-1`, and not the file of a profile that is called `work.damaged-1`.
fn is_set_aside(name: &str) -> bool {
    name.rsplit_once(".damaged-").is_some_and(|(_, number)| number.parse::<u32>().is_ok())
}

fn removed(message: String, is_removed: bool) -> Check {
    if is_removed { Check::fixed("leftovers", message) } else { Check::warn("leftovers", message, REMEDY) }
}

pub(super) fn pending_logins(session: &Session, fix: bool) -> Vec<Check> {
    let names = PendingLogin::profiles(&session.config.paths.state);
    names.iter().filter_map(|name| pending_login(name, session, fix)).collect()
}

fn pending_login(name: &ProfileName, session: &Session, fix: bool) -> Option<Check> {
    let source = session.source_of(name);
    let pending = PendingLogin::of(&source);
    match pending.state() {
        Ok(Pending::None) => None,
        Ok(Pending::Waiting) => {
            let resume = format!("`qwenauth login --resume --profile {name}` completes it");
            let message = format!("a login of `{name}` waits for approval; {resume}");
            Some(Check::ok("pending", message))
        }
        Ok(Pending::Over) => {
            let message = format!("a login of `{name}` was started and never completed");
            Some(removed(message, fix && pending.forget_if_over().unwrap_or(false)))
        }
        Err(error) => Some(Check::fail("pending", format!("{error:#}"), "check the mode and owner of that file")),
    }
}

/// A mark keeps a rejected token from being sent again, or records that the API rejected a credential; a record states
/// which server issued a token. Each is useless once its token or key is gone.
pub(super) fn records_of_tokens(session: &Session, fix: bool) -> Vec<Check> {
    // A login that is not found may be the one that a record is for.
    let Ok(sources) = sources(session) else { return Vec::new() };
    let sources: Vec<CredentialSource> = sources.into_iter().map(|(source, _)| source).collect();
    let state = &session.config.paths.state;
    let mut checks: Vec<Check> = marks(state, &sources, fix).into_iter().collect();
    let found = stray_origins(state, &sources, false).len();
    if found > 0 {
        let message = format!("obsolete records of which server issued a token: {found}");
        checks.push(removed(message, fix && stray_origins(state, &sources, true).is_empty()));
    }
    checks
}

fn marks(state: &Path, sources: &[CredentialSource], fix: bool) -> Option<Check> {
    let mut credentials = Vec::new();
    // Beside a given key there may be a login.
    let loaded = sources.iter().flat_map(|source| [source.load(), source.store.read().map(Stored::from)]);
    for stored in loaded {
        match stored {
            // Which key the command prints is not known without running it.
            Ok(Stored::Present(credential)) if credential.command.is_some() => return None,
            Ok(Stored::Present(credential)) => credentials.push(credential),
            Ok(Stored::Missing) => {}
            // A login that cannot be read may be the one that a mark is for.
            Ok(Stored::Damaged(_)) | Err(_) => return None,
        }
    }
    let marks = marks_of_others(state, &credentials);
    if marks.is_empty() {
        return None;
    }
    let message = format!("obsolete markers of rejected tokens and keys: {}", marks.len());
    Some(removed(message, fix && marks.iter().all(|mark| fs::remove_file(mark).is_ok())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_aside_is_told_by_its_end() {
        for name in ["work.json.damaged-1", "oauth_creds.json.damaged-12", "a.damaged-1.json.damaged-2"] {
            assert!(is_set_aside(name), "{name}");
        }
        for name in ["a.damaged-1.json", "work.json", "a.damaged-x.json", ".a.damaged-1.qwenauth-lock", "a.damaged-"] {
            assert!(!is_set_aside(name), "{name}");
        }
    }
}
