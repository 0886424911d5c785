//! Credential Manager of Windows.

#![expect(unsafe_code, reason = "Credential Manager has no safe interface")]

use std::io;

use windows_sys::Win32::Foundation::{ERROR_NO_SUCH_LOGON_SESSION, ERROR_NOT_FOUND};
use windows_sys::Win32::Security::Credentials::{
    CRED_MAX_CREDENTIAL_BLOB_SIZE, CRED_PERSIST_LOCAL_MACHINE, CRED_TYPE_GENERIC, CREDENTIALW, CredDeleteW, CredFree,
    CredReadW, CredWriteW,
};
use zeroize::Zeroizing;

use super::limited::limited;
use super::{Entry, TIMEOUT, Trouble};

pub(crate) const NAME: &str = "Credential Manager";

pub(crate) const MAX_VALUE: usize = CRED_MAX_CREDENTIAL_BLOB_SIZE as usize;

pub(super) fn read(entry: Entry) -> Result<Option<Zeroizing<Vec<u8>>>, Trouble> {
    let target = target(entry);
    limited(TIMEOUT, Trouble::Silent, move || {
        let mut found: *mut CREDENTIALW = std::ptr::null_mut();
        // SAFETY: `target` ends with a zero, and `found` is written only where the call succeeds.
        if unsafe { CredReadW(target.as_ptr(), CRED_TYPE_GENERIC, 0, &raw mut found) } == 0 {
            return missing_or_failed(None);
        }
        // SAFETY: the call succeeded, so that `found` points to a credential whose blob has the size it names, or no blob.
        // The system's copy is wiped before it is freed, and nothing refers to it afterwards.
        let secret = unsafe {
            let (blob, size) = ((*found).CredentialBlob, (*found).CredentialBlobSize as usize);
            let secret = if blob.is_null() || size == 0 {
                Vec::new()
            } else {
                let blob = std::slice::from_raw_parts_mut(blob, size);
                let secret = blob.to_vec();
                blob.fill(0);
                secret
            };
            CredFree(found.cast());
            secret
        };
        Ok(Some(Zeroizing::new(secret)))
    })
}

pub(super) fn write(entry: Entry, secret: &[u8]) -> Result<(), Trouble> {
    let (mut target, mut user) = (target(entry), wide(entry.profile));
    let mut secret = Zeroizing::new(secret.to_vec());
    limited(TIMEOUT, Trouble::Silent, move || {
        let size = u32::try_from(secret.len()).map_err(|error| Trouble::Failed(error.to_string()))?;
        let credential = CREDENTIALW {
            Type: CRED_TYPE_GENERIC,
            TargetName: target.as_mut_ptr(),
            CredentialBlobSize: size,
            CredentialBlob: secret.as_mut_ptr(),
            Persist: CRED_PERSIST_LOCAL_MACHINE,
            UserName: user.as_mut_ptr(),
            ..CREDENTIALW::default()
        };
        // SAFETY: both texts end with a zero, the blob has the size that is named, and all of them outlive the call.
        if unsafe { CredWriteW(&raw const credential, 0) } == 0 { missing_or_failed(()) } else { Ok(()) }
    })
}

pub(super) fn remove(entry: Entry) -> Result<(), Trouble> {
    let target = target(entry);
    limited(TIMEOUT, Trouble::Silent, move || {
        // SAFETY: `target` ends with a zero.
        if unsafe { CredDeleteW(target.as_ptr(), CRED_TYPE_GENERIC, 0) } == 0 { missing_or_failed(()) } else { Ok(()) }
    })
}

/// What the last error of this thread means. `missing`: what is returned where there is no such credential.
fn missing_or_failed<T>(missing: T) -> Result<T, Trouble> {
    let error = io::Error::last_os_error();
    match error.raw_os_error().and_then(|code| u32::try_from(code).ok()) {
        Some(ERROR_NOT_FOUND) => Ok(missing),
        Some(ERROR_NO_SUCH_LOGON_SESSION) => Err(Trouble::Missing("this session has none".into())),
        _ => Err(Trouble::Failed(error.to_string())),
    }
}

/// What a credential is found by: `cmdkey /list` shows it.
fn target(entry: Entry) -> Vec<u16> {
    wide(&format!("qwenauth/{}/{}", entry.profile, entry.name))
}

fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}
