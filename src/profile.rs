//! A profile's name, and where its secret is kept.

use std::fmt;

use anyhow::Result;

use crate::error::{Failed, Failure, HOW_TO_GIVE_A_KEY, is_random_key, printable};
use crate::providers::QWEN;

/// A name of a profile: `[a-z0-9][a-z0-9._-]{0,62}`, so it is safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProfileName(String);

impl ProfileName {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let mut bytes = text.bytes();
        let good = text.len() <= 63
            && bytes.next().is_some_and(plain)
            && bytes.all(|byte| plain(byte) || matches!(byte, b'.' | b'_' | b'-'));
        if !good {
            return Failed::new(Failure::Usage, format!("invalid profile name `{}`", printable(text)))
                .hint("use 1 to 63 of `a-z 0-9 . _ -`, starting with a letter or digit")
                .err();
        }
        // It would be shown, and be the name of a file.
        if is_random_key(text) {
            return Failed::new(Failure::Usage, "a profile is named by an API key; it is not shown")
                .hint(HOW_TO_GIVE_A_KEY)
                .err();
        }
        Ok(Self(text.to_owned()))
    }

    pub(crate) fn qwen() -> Self {
        Self(QWEN.to_owned())
    }

    pub(crate) fn is_qwen(&self) -> bool {
        self.0 == QWEN
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Where a profile's secret is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum SecretStore {
    /// A private file
    #[default]
    File,
    /// The system's keyring
    Keyring,
    /// Not stored: the user's command prints it.
    Command,
}

impl SecretStore {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Keyring => "keyring",
            Self::Command => "command",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::File, Self::Keyring, Self::Command].into_iter().find(|store| store.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_profiles_are_safe_as_file_names() {
        for good in ["qwen", "a", "0", "work.2", "a_b-c", &"x".repeat(63)] {
            assert!(ProfileName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", "_a", "A", "a/b", "a b", "a\n", "ä", &"x".repeat(64), "../a"] {
            assert!(ProfileName::parse(bad).is_err(), "{bad}");
        }
    }
}
