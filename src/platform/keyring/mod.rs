//! The keyring of the system: Secret Service, Keychain, Credential Manager; one secret by profile and name.
//!
//! Hazard: a keyring may be missing, locked, silent or slow, and a dialog that no one sees blocks a script forever.
//! Rule: each of these is a [`Trouble`] of its own, an answer is awaited for [`TIMEOUT`], and a dialog opens only where a
//! person is at a terminal.
//!
//! ```text
//! dbus.rs                as much of D-Bus as is needed
//! secret_service.rs      Linux and other Unixes
//! keychain.rs            macOS
//! credential_manager.rs  Windows
//! ```

#[cfg(windows)]
mod credential_manager;
#[cfg(target_os = "linux")]
mod dbus;
#[cfg(target_os = "macos")]
mod keychain;
#[cfg(any(windows, target_os = "macos"))]
mod limited;
#[cfg(all(unix, not(any(target_os = "linux", target_os = "macos"))))]
mod none;
#[cfg(target_os = "linux")]
mod secret_service;

#[cfg(windows)]
use self::credential_manager as of_system;
#[cfg(target_os = "macos")]
use self::keychain as of_system;
#[cfg(all(unix, not(any(target_os = "linux", target_os = "macos"))))]
use self::none as of_system;
#[cfg(target_os = "linux")]
use self::secret_service as of_system;

use std::time::Duration;

use zeroize::Zeroizing;

pub(crate) use self::of_system::{MAX_VALUE, NAME};

/// How long a keyring may take to answer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(3);

/// How long a person may take to unlock it.
pub(crate) const DIALOG_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a keyring did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// There is none here, with the reason.
    Missing(String),
    /// No user can unlock it here.
    #[cfg_attr(
        not(any(target_os = "linux", target_os = "macos")),
        expect(dead_code, reason = "no dialog is ever open")
    )]
    Locked,
    /// It was not unlocked in time.
    #[cfg_attr(
        not(any(target_os = "linux", target_os = "macos")),
        expect(dead_code, reason = "no dialog is ever open")
    )]
    NotUnlocked,
    /// The person said no.
    #[cfg_attr(
        not(any(target_os = "linux", target_os = "macos")),
        expect(dead_code, reason = "no dialog is ever open")
    )]
    Denied,
    /// It did not answer in time.
    Silent,
    /// Anything else, with the reason.
    Failed(String),
}

/// The name of a secret.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) profile: &'a str,
    pub(crate) name: &'a str,
}

/// Reads a secret; `None` where there is none of that name.
pub(crate) fn read(entry: Entry) -> Result<Option<Zeroizing<Vec<u8>>>, Trouble> {
    of_system::read(entry)
}

/// Stores a secret of at most [`MAX_VALUE`] bytes, replacing an older one of that name.
pub(crate) fn write(entry: Entry, secret: &[u8]) -> Result<(), Trouble> {
    of_system::write(entry, secret)
}

/// Removes a secret, if there is one of that name.
pub(crate) fn remove(entry: Entry) -> Result<(), Trouble> {
    of_system::remove(entry)
}

/// Whether a person can answer a dialog.
#[cfg(any(target_os = "linux", target_os = "macos"))]
fn has_person() -> bool {
    use std::io::IsTerminal as _;
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}
