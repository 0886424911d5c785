//! The login keychain of macOS.

use security_framework::base::Error;
use security_framework::os::macos::keychain::SecKeychain;
use security_framework::passwords::{delete_generic_password, get_generic_password, set_generic_password};
use zeroize::Zeroizing;

use super::limited::limited;
use super::{DIALOG_TIMEOUT, Entry, TIMEOUT, Trouble, has_person};

pub(crate) const NAME: &str = "the Keychain";

/// It has no limit that is documented. More than this is no credential.
pub(crate) const MAX_VALUE: usize = 1024 * 1024;

const SERVICE: &str = "qwenauth";

/// `errSecItemNotFound`
const NOT_FOUND: i32 = -25300;

/// `errSecInteractionNotAllowed`
const NO_DIALOG: i32 = -25308;

/// `errSecUserCanceled` and `errSecAuthFailed`
const DENIED: [i32; 2] = [-128, -25293];

/// `errSecNotAvailable` and `errSecNoDefaultKeychain`
const MISSING: [i32; 2] = [-25291, -25307];

pub(super) fn read(entry: Entry) -> Result<Option<Zeroizing<Vec<u8>>>, Trouble> {
    let account = account(entry);
    ask(move || match get_generic_password(SERVICE, &account) {
        Ok(secret) => Ok(Some(Zeroizing::new(secret))),
        Err(error) if error.code() == NOT_FOUND => Ok(None),
        Err(error) => Err(error),
    })
}

pub(super) fn write(entry: Entry, secret: &[u8]) -> Result<(), Trouble> {
    let (account, secret) = (account(entry), Zeroizing::new(secret.to_vec()));
    ask(move || set_generic_password(SERVICE, &account, &secret))
}

pub(super) fn remove(entry: Entry) -> Result<(), Trouble> {
    let account = account(entry);
    ask(move || match delete_generic_password(SERVICE, &account) {
        Err(error) if error.code() != NOT_FOUND => Err(error),
        _ => Ok(()),
    })
}

/// What an item is found by, here and with `security find-generic-password -s qwenauth -a NAME/…`.
fn account(entry: Entry) -> String {
    format!("{}/{}", entry.profile, entry.name)
}

/// Without a user, the Keychain must not open a dialog.
fn ask<T: Send + 'static>(call: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Trouble> {
    let has_person = has_person();
    let (limit, late) = if has_person { (DIALOG_TIMEOUT, Trouble::NotUnlocked) } else { (TIMEOUT, Trouble::Silent) };
    limited(limit, late, move || {
        let _without_dialog = if has_person { None } else { SecKeychain::disable_user_interaction().ok() };
        call().map_err(trouble)
    })
}

fn trouble(error: Error) -> Trouble {
    match error.code() {
        NO_DIALOG => Trouble::Locked,
        code if DENIED.contains(&code) => Trouble::Denied,
        code if MISSING.contains(&code) => Trouble::Missing("there is no keychain".into()),
        _ => Trouble::Failed(error.to_string()),
    }
}
