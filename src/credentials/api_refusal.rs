//! Rejections by the provider's API, remembered until it accepts the credential again.
//!
//! Hazard: a login can succeed while the API rejects every request, and nothing in the credential shows it. Rule: every
//! request to the API with a stored credential records its outcome under the credential's hash; a renewal carries the
//! record over, another credential has none.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::refused::hash_of;
use super::{Credential, CredentialSource, Kind, Verification};
use crate::paths::StateDirectory;
use crate::platform::files::{self, Content, PendingFile, Privacy};
use crate::secret::Secret;

/// How long `exec` relies on a rejection before it checks again.
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// The record of one credential.
#[derive(Debug)]
pub(crate) struct ApiRefusal {
    path: PathBuf,
    /// The API's message, or why there was no response.
    pub(crate) reason: String,
}

impl ApiRefusal {
    /// Whether it is time to check again.
    pub(crate) fn is_old(&self) -> bool {
        let modified = std::fs::metadata(&self.path).and_then(|metadata| metadata.modified());
        modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age >= ASK_AGAIN))
    }
}

impl CredentialSource {
    /// What to use instead of a login that succeeded and that the API rejects, if its provider says so.
    pub(crate) fn instead(&self, credential: &Credential) -> Option<String> {
        let is_login = credential.kind != Kind::ApiKey;
        is_login.then(|| self.provider(credential).ok()?.instead).flatten()
    }

    /// What helps against a rejection that was recorded. Whether the key or its account is at fault is not.
    pub(crate) fn hint_if_rejected(&self, credential: &Credential) -> String {
        let doctor = || format!("run `qwenauth doctor --profile {}` for details", self.profile);
        self.instead(credential).unwrap_or_else(doctor)
    }
}

/// By the token that identifies the credential across renewals, or by the key.
fn path_of(source: &CredentialSource, credential: &Credential) -> PathBuf {
    match &credential.refresh_token {
        Some(token) => path_for(source, &hash_of(token)),
        None => path_for(source, &credential.hash()),
    }
}

fn path_for(source: &CredentialSource, hash: &str) -> PathBuf {
    StateDirectory::RefusedByApi.below(&source.paths.state).join(hash)
}

/// The API's message when it last rejected `credential`, unless it has accepted it since.
pub(crate) fn api_refusal(source: &CredentialSource, credential: &Credential) -> Option<ApiRefusal> {
    // Mostly there is none at all, and the first hash asks the processor what it can, which takes a virtual machine
    // microseconds.
    if !StateDirectory::RefusedByApi.below(&source.paths.state).exists() {
        return None;
    }
    let path = path_of(source, credential);
    match files::read(&path, Privacy::Private) {
        Ok(Content::Bytes(bytes)) => Some(ApiRefusal { path, reason: String::from_utf8_lossy(&bytes).into_owned() }),
        _ => None,
    }
}

/// Records `verification`; an unclear one changes nothing.
pub(crate) fn remember_verification(source: &CredentialSource, credential: &Credential, verification: &Verification) {
    let mark = ApiMark::of(source, credential);
    match verification {
        Verification::Accepted => mark.served(),
        Verification::Refused(why) | Verification::Exhausted(why) => mark.refused(why),
        Verification::Unclear(_) | Verification::Unverifiable(_) => {}
    }
}

/// Moves the record of `spent` to the token that replaced it.
pub(super) fn carry(source: &CredentialSource, spent: &Secret, successor: &Secret) {
    let path = path_for(source, &hash_of(spent));
    if let Ok(Content::Bytes(bytes)) = files::read(&path, Privacy::Private) {
        write(&path_for(source, &hash_of(successor)), &bytes);
        remove(&path);
    }
}

/// Removes the record of a credential that is removed.
pub(super) fn forget(source: &CredentialSource, credential: &Credential) {
    remove(&path_of(source, credential));
}

/// Where rejections of one credential are recorded, for a caller that sees many responses.
pub(crate) struct ApiMark {
    path: PathBuf,
    is_set: Cell<bool>,
}

impl ApiMark {
    pub(crate) fn of(source: &CredentialSource, credential: &Credential) -> Self {
        let path = path_of(source, credential);
        let is_set = Cell::new(path.exists());
        Self { path, is_set }
    }

    pub(crate) fn served(&self) {
        if self.is_set.replace(false) {
            remove(&self.path);
        }
    }

    /// The same for one of many responses, of which one in a row is recorded.
    pub(crate) fn refused_unless_known(&self, why: &str) {
        if !(self.is_set.get() && self.path.exists()) {
            self.refused(why);
        }
    }

    pub(crate) fn refused(&self, why: &str) {
        self.is_set.set(true);
        write(&self.path, why.as_bytes());
    }
}

/// A mark that cannot be made or removed costs a line too few or too many: it is only logged.
fn write(path: &Path, bytes: &[u8]) {
    let written = PendingFile::reserve_unlocked(path, bytes.len(), Privacy::Private).and_then(|room| room.write(bytes));
    if let Err(error) = written {
        log::warn!("cannot remember a refusal: {error:#}");
    }
}

fn remove(path: &Path) {
    if let Err(error) = files::remove(path, Privacy::Private) {
        log::warn!("cannot forget a refusal: {error:#}");
    }
}
