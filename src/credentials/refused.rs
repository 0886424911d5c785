//! Marks of refresh tokens that a server rejected, so that no process sends one to it again.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use url::Url;

use super::Credential;
use crate::paths::StateDirectory;
use crate::platform::files::{self, Content, Privacy};
use crate::secret::Secret;
use crate::sha256::sha256;

/// The file of a token's mark: a line for each server that rejected it. The token itself is written nowhere.
fn mark_of(state: &Path, refresh_token: &Secret) -> PathBuf {
    StateDirectory::Refused.below(state).join(hash_of(refresh_token))
}

/// The SHA-256 of a token: the name of files about it.
pub(super) fn hash_of(refresh_token: &Secret) -> String {
    sha256(refresh_token.expose())
}

/// The files in a directory of ours that are called by the hash of a token or key.
pub(super) fn records(directory: &Path) -> Vec<PathBuf> {
    let is_record = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        name.len() == 64 && name.iter().all(u8::is_ascii_hexdigit)
    };
    let directory = files::resolve(directory);
    let entries =
        directory.ok().and_then(|directory| std::fs::read_dir(directory).ok()).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(is_record).collect()
}

/// The marks of other credentials than these: of logins that are over and gone, refused by their server or by the API.
///
/// One removed too many costs one more request that is refused, no login.
pub(crate) fn marks_of_others(state: &Path, credentials: &[Credential]) -> Vec<PathBuf> {
    let hashes = |credential: &Credential| {
        [Some(credential.hash()), credential.refresh_token.as_ref().map(hash_of)].into_iter().flatten()
    };
    let kept: Vec<String> = credentials.iter().flat_map(hashes).collect();
    let is_kept = |path: &PathBuf| kept.iter().any(|name| path.ends_with(name));
    let marks = [StateDirectory::Refused, StateDirectory::RefusedByApi];
    marks.iter().flat_map(|marks| records(&marks.below(state))).filter(|path| !is_kept(path)).collect()
}

/// Whether the server at `endpoint` has rejected `refresh_token`.
pub(super) fn is_marked(state: &Path, refresh_token: &Secret, endpoint: &Url) -> bool {
    match files::read(&mark_of(state, refresh_token), Privacy::Private) {
        Ok(Content::Bytes(bytes)) => {
            // A mark of an older version names no server and counts for all.
            bytes.is_empty() || bytes.split(|&byte| byte == b'\n').any(|line| line == endpoint.as_str().as_bytes())
        }
        _ => false,
    }
}

/// Whether any server has rejected it.
pub(super) fn is_marked_for_any(state: &Path, refresh_token: &Secret) -> bool {
    mark_of(state, refresh_token).exists()
}

/// A mark that cannot be made costs one more request, no login: it is only logged.
pub(super) fn mark(state: &Path, refresh_token: &Secret, endpoint: &Url) {
    let path = mark_of(state, refresh_token);
    let made = files::make_directory(&StateDirectory::Refused.below(state))
        .and_then(|()| files::open_to_append(&path))
        .and_then(|mut file| Ok(file.write_all(format!("{endpoint}\n").as_bytes())?));
    if let Err(error) = made {
        log::warn!("cannot mark a rejected token: {error:#}");
    }
}
