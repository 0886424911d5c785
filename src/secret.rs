//! A string that cannot be printed by accident: no `Display`, a masked `Debug`, wiped when dropped.

use std::fmt;

use serde::{Deserialize, Deserializer};
use url::form_urlencoded::byte_serialize;
use zeroize::Zeroizing;

use crate::error::printable;

/// An access token, refresh token, device code, PKCE verifier or API key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    pub(crate) fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The beginning `prefix` and the last four characters; `…` alone for one that is too short to show any of.
    pub(crate) fn masked(&self, prefix: &str) -> String {
        let text = self.expose();
        match text.char_indices().rev().nth(3) {
            Some((last, _)) if text.chars().count() >= SHORTEST_SHOWN => {
                let prefix = if text.starts_with(prefix) { prefix } else { "" };
                printable(&format!("{prefix}…{}", &text[last..]))
            }
            _ => "…".to_owned(),
        }
    }

    /// The secret itself. Each call is a place where a secret leaves the type: keep it in sight of its use.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

/// Shortest key of which anything is shown, in characters.
const SHORTEST_SHOWN: usize = 20;

/// Maximum length of a server's text in a message, in characters.
const MAX_QUOTED_LENGTH: usize = 200;

/// A server's message as it is repeated: it may be long, end like a sentence, and echo what it was sent. It is masked
/// before it is shortened, because a secret at the cut would not be found any more.
pub(crate) fn quoted(text: &str, secrets: &[&Secret]) -> String {
    let cut: String = masked_in(&printable(text), secrets).chars().take(MAX_QUOTED_LENGTH).collect();
    cut.trim_end_matches(['.', ' ']).to_owned()
}

/// `text` without any of `secrets`, plain or as a form has them.
pub(crate) fn masked_in(text: &str, secrets: &[&Secret]) -> String {
    let secrets = secrets.iter().map(|secret| secret.expose()).filter(|secret| !secret.is_empty());
    secrets.fold(text.to_owned(), |text, secret| {
        let in_form: Zeroizing<String> = Zeroizing::new(byte_serialize(secret.as_bytes()).collect());
        text.replace(secret, "…").replace(in_form.as_str(), "…")
    })
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
    fn of_a_key_its_beginning_and_its_last_four_characters_are_shown() {
        let masked = |text: &str, prefix: &str| Secret::new(text.into()).masked(prefix);
        assert_eq!(masked("sk-0123456789abcdef3f9a", "sk-"), "sk-…3f9a");
        assert_eq!(masked("0123456789abcdef3f9a", "sk-"), "…3f9a");
        for short in ["", "sk-1", "sk-0123456789abcdef"] {
            assert_eq!(masked(short, "sk-"), "…");
        }
    }

    #[test]
    fn a_secret_is_found_as_a_form_has_it() {
        let secret = Secret::new("rt/OLD+SECRET==part".into());
        assert_eq!(masked_in("a=b&refresh_token=rt%2FOLD%2BSECRET%3D%3Dpart&c", &[&secret]), "a=b&refresh_token=…&c");
    }

    #[test]
    fn what_is_quoted_is_printable_masked_and_cut_in_this_order() {
        let secret = Secret::new("hunter2".into());
        assert_eq!(quoted("no hun\u{7}ter2. ", &[&secret, &Secret::new(String::new())]), "no …");
        assert_eq!(
            quoted(&("x".repeat(MAX_QUOTED_LENGTH - 1) + "hunter2"), &[&secret]),
            "x".repeat(MAX_QUOTED_LENGTH - 1) + "…"
        );
    }
}
