//! A string that cannot be printed by accident: no `Display`, a masked `Debug`, wiped when dropped.

use std::fmt;

use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use crate::error::printable;

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

/// Longest text of a server that is repeated, in characters.
const LONGEST: usize = 200;

/// What a server said, as it is repeated: it may be long, end like a sentence, and echo what it was sent. Masked before it
/// is cut, for a secret that straddles the cut is not found any more.
pub(crate) fn quoted(text: &str, secrets: &[&Secret]) -> String {
    let mut text = printable(text);
    for secret in secrets.iter().filter(|secret| !secret.expose().is_empty()) {
        text = text.replace(secret.expose(), "…");
    }
    let cut: String = text.chars().take(LONGEST).collect();
    cut.trim_end_matches(['.', ' ']).to_owned()
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

    #[test]
    fn what_is_quoted_is_printable_masked_and_cut_in_this_order() {
        let secret = Secret::new("hunter2".into());
        assert_eq!(quoted("no hun\u{7}ter2. ", &[&secret, &Secret::new(String::new())]), "no …");
        assert_eq!(quoted(&("x".repeat(LONGEST - 1) + "hunter2"), &[&secret]), "x".repeat(LONGEST - 1) + "…");
    }
}
