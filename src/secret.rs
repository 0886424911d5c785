//! A string that cannot be printed by accident: no `Display`, a masked `Debug`, wiped when dropped.

use std::fmt;

use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

/// An access token, refresh token, device code, PKCE verifier or API key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    pub(crate) fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself. Each call is a place where a secret leaves the type: keep it in sight of its use.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

/// Keeps this process out of core dumps and of the reach of the user's other processes (`/proc/PID/mem`, debuggers).
/// A program it becomes by `exec` is an ordinary one again: the kernel resets the mark.
pub(crate) fn guard_memory() {
    // Without the mark everything works as before, so a kernel that refuses it is no reason to stop.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_dumpable(false);
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_the_secret() {
        assert_eq!(format!("{:?}", Secret::new("hunter2".into())), "Secret(…)");
    }
}
