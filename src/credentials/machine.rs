//! The machine that a credential was stored on, so that a copied login is noticed.
//!
//! Hazard: a refresh token works once, and a copy of a login on another machine ends the original at its first renewal.
//! Rule: every file of our own records a hash of the machine it was written on; a login that is renewed elsewhere
//! prints a warning.

use std::sync::Once;

use super::{Credential, CredentialSource};
use crate::error::note;
use crate::platform::system;
use crate::sha256::short_sha256;

/// Half of a SHA-256 is enough to tell machines apart. `None`: this one has no persistent ID.
pub(super) fn hash() -> Option<String> {
    let id = system::machine_id().filter(|id| !id.is_empty())?;
    Some(short_sha256([b"qwenauth machine ".as_slice(), &id].concat(), 32))
}

/// Warns once of a login that was made elsewhere. A renewal here makes it this machine's, and ends the other.
pub(super) fn warn_of_copy(source: &CredentialSource, credential: &Credential) {
    static SAID: Once = Once::new();
    let (Some(made_on), Some(_)) = (&credential.machine, &credential.refresh_token) else { return };
    if hash().is_some_and(|here| here != *made_on) {
        let (profile, remedy) = (&source.profile, source.login_hint());
        let said = format!(
            "warning: the login of `{profile}` was copied from another machine, and the copy and the original log each other out; {remedy}"
        );
        SAID.call_once(|| note(&said));
    }
}
