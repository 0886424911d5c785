//! An API key as a person or a script passes it: what surrounds it is removed, and text that cannot be a key is
//! rejected.

use anyhow::Result;

use crate::error::{Failed, Failure};
use crate::secret::Secret;

/// Maximum size of a key, in bytes.
const MAX_KEY: usize = 4096;

pub(crate) fn not_a_key(why: &str) -> Failed {
    Failed::new(Failure::Usage, format!("the key {why}, and nothing was stored")).hint("copy only the key")
}

/// The key that a person gives to be stored.
///
/// Errors: usage, with what is wrong.
pub(crate) fn clean_key(text: &str) -> Result<Secret> {
    parse_key(text).map_err(|why| not_a_key(why).into())
}

/// Returns the intended key: without white space, quotes and `Bearer` around it.
///
/// Errors: what is wrong with it, as the rest of a sentence about the key.
pub(crate) fn parse_key(text: &str) -> Result<Secret, &'static str> {
    let mut key = text.trim();
    for prefix in ["Authorization:", "authorization:", "Bearer ", "bearer "] {
        key = key.strip_prefix(prefix).unwrap_or(key).trim_start();
    }
    for quote in ['"', '\'', '`'] {
        key = key.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)).unwrap_or(key).trim();
    }
    key = key.strip_prefix("Bearer ").unwrap_or(key).trim();
    let half = &key.as_bytes()[..key.len() / 2];
    let halves: Vec<&str> = key.split_whitespace().collect();
    let twice = key.len() >= 32 && key.len().is_multiple_of(2) && half == &key.as_bytes()[key.len() / 2..]
        || halves.len() == 2 && halves[0] == halves[1];
    let name = key.split_once('=').map_or("", |(name, _)| name.trim_start_matches("export "));
    let assigned = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    Err(match () {
        () if key.is_empty() => "is empty",
        () if twice => "was pasted twice",
        () if assigned => "looks like a shell assignment",
        () if key.chars().any(char::is_whitespace) => "contains whitespace",
        () if key.chars().any(char::is_control) => "contains control characters",
        () if key.contains(['"', '\'', '`']) => "contains quotes",
        () if !key.is_ascii() => "contains characters that are not allowed in a key",
        () if key.len() > MAX_KEY => "is too long",
        () => return Ok(Secret::new(key.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_surrounds_a_key_is_trimmed() {
        for text in [
            "sk-1",
            " sk-1\n",
            "\"sk-1\"",
            "'sk-1'",
            "Bearer sk-1",
            "bearer  sk-1\r\n",
            "Authorization: Bearer sk-1",
            "\"Bearer sk-1\"",
        ] {
            assert_eq!(clean_key(text).unwrap().expose(), "sk-1", "{text:?}");
        }
        assert_eq!(clean_key("sk-1==").unwrap().expose(), "sk-1==");
        assert_eq!(clean_key("abab").unwrap().expose(), "abab");
    }

    #[test]
    fn what_is_no_key_is_refused_with_the_reason() {
        let twice = "sk-0123456789abcdef".repeat(2);
        for (text, why) in [
            ("", "is empty"),
            ("  \n", "is empty"),
            ("\"\"", "is empty"),
            ("sk-1 sk-2", "contains whitespace"),
            ("sk-1\nsk-2", "contains whitespace"),
            ("sk-1\nsk-1", "was pasted twice"),
            (&twice, "was pasted twice"),
            ("sk-\u{1}1", "contains control characters"),
            ("sk-\u{1b}[2J", "contains control characters"),
            ("sk-\"1", "contains quotes"),
            ("sk-1\u{201d}", "contains characters that are not allowed in a key"),
            ("OPENAI_API_KEY=sk-1", "looks like a shell assignment"),
            ("export OPENAI_API_KEY=sk-1", "looks like a shell assignment"),
            (&"x".repeat(5000), "was pasted twice"),
            (&(0..5000).map(|n| char::from(b'a' + u8::try_from(n % 7).unwrap())).collect::<String>(), "is too long"),
        ] {
            assert_eq!(
                clean_key(text).unwrap_err().to_string(),
                format!("the key {why}, and nothing was stored"),
                "{text:?}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn a_cleaned_key_is_one_printable_word(text in ".{0,80}") {
            if let Ok(key) = clean_key(&text) {
                proptest::prop_assert!(!key.expose().is_empty() && key.expose().bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }
}
