//! API keys that were typed where none belongs: as an argument, or in a variable that takes no key.
//!
//! Hazard: an error quotes the word it does not know, and that word may be a key. Rule: each word of the command line and
//! of the variables `QWENAUTH_…` that looks like a key is known here, and no message contains it.

use std::env::{args_os, vars_os};
use std::ffi::{OsStr, OsString};

use super::{Failed, Failure, printable};

/// What the keys of providers and gateways begin with. A test compares this with the built-in providers.
const PREFIXES: [&str; 13] =
    ["sk-", "sk_", "gsk_", "csk-", "fw_", "tgp_v1_", "hf_", "ms-", "qa_", "AIza", "eyJ", "xai-", "nvapi-"];

/// Least length of a run of letters and digits that is random behind a known prefix. Names have shorter words.
const RANDOM_AFTER_PREFIX: usize = 12;

/// The same without a prefix: that of 128 bits in hexadecimal digits.
const RANDOM: usize = 32;

/// What to do instead of typing a key as an argument.
pub(crate) const HOW_TO_GIVE_A_KEY: &str =
    "run `qwenauth login` and paste the key when it asks, or use `--api-key-stdin` or `--api-key-env VAR`";

/// Where a key was given that does not belong there.
#[derive(Clone)]
enum Place {
    Argument,
    Variable(String),
}

/// What to say instead of a message and its hint that quote such a key.
pub(super) fn quoted_in(message: &str, hint: Option<&str>) -> Option<Failed> {
    let is_quoted = |key: &str| [Some(message), hint].into_iter().flatten().any(|text| find(text, key).is_some());
    Some(match keys().find(|(_, key)| is_quoted(key))?.0 {
        Place::Argument => {
            Failed::new(Failure::Usage, "an API key was given as an argument; it is not shown").hint(HOW_TO_GIVE_A_KEY)
        }
        Place::Variable(name) => Failed::new(Failure::Usage, format!("`{name}` contains an API key; it is not shown"))
            .hint("set `QWENAUTH_API_KEY` to the key and `QWENAUTH_PROVIDER` to its provider"),
    })
}

/// `text` without the keys that were typed where none belongs.
pub(super) fn without_keys(mut text: String) -> String {
    for (_, key) in keys() {
        while let Some(at) = find(&text, &key) {
            text.replace_range(at..at + key.len(), "…");
        }
    }
    text
}

/// A host name, for example, is repeated in lower case.
fn find(text: &str, key: &str) -> Option<usize> {
    text.as_bytes().windows(key.len()).position(|part| part.eq_ignore_ascii_case(key.as_bytes()))
}

/// The keys in the command line and in variables that take none.
fn keys() -> impl Iterator<Item = (Place, String)> {
    let takes_none =
        |name: &OsStr| name.to_str().is_some_and(|name| name.starts_with("QWENAUTH_") && name != "QWENAUTH_API_KEY");
    let named = |(name, value): (OsString, OsString)| (Place::Variable(name.to_string_lossy().into_owned()), value);
    let arguments = args_os().skip(1).map(|argument| (Place::Argument, argument));
    let variables = vars_os().filter(move |(name, _)| takes_none(name)).map(named);
    arguments
        .chain(variables)
        .flat_map(|(place, word)| keys_in(&word.to_string_lossy()).into_iter().map(move |key| (place.clone(), key)))
}

/// The parts of a word that look like keys. Parts of a path or URL are identifiers unless they begin as keys do.
fn keys_in(word: &str) -> Vec<String> {
    let word = printable(word);
    let is_path = word.contains('/');
    let parts = word.split(|character: char| !(character.is_ascii_alphanumeric() || "-_.".contains(character)));
    parts.filter(|part| begins_as_key(part) || !is_path && is_random(part, RANDOM)).map(str::to_owned).collect()
}

/// Whether `word` looks like an API key by its beginning.
fn begins_as_key(word: &str) -> bool {
    let is_digit = |character: char| character.is_ascii_digit();
    // Local servers have short keys such as `sk-1234`; names such as `sk-work2` are no keys.
    let own = word.strip_prefix("sk-").unwrap_or_default();
    own.starts_with(is_digit) || own.len() > 16 && own.contains(is_digit) || is_random_key(word)
}

/// Whether `word` is a known prefix with random letters and digits behind it.
pub(crate) fn is_random_key(word: &str) -> bool {
    PREFIXES.iter().any(|prefix| word.strip_prefix(prefix).is_some_and(|rest| is_random(rest, RANDOM_AFTER_PREFIX)))
}

/// Whether a run of at least `length` letters and digits mixes both.
fn is_random(text: &str, length: usize) -> bool {
    let runs = text.split(|character: char| !character.is_ascii_alphanumeric());
    runs.filter(|run| run.len() >= length).any(|run| {
        let digits = run.bytes().filter(u8::is_ascii_digit).count();
        (1..run.len()).contains(&digits)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_recognized_wherever_they_stand_in_a_word() {
        for (word, key) in [
            ("sk-1234", "sk-1234"),
            ("sk-1234567890abcdef1234", "sk-1234567890abcdef1234"),
            ("--api-key-stdin=sk-or-v1-0123456789abcdef", "sk-or-v1-0123456789abcdef"),
            ("dashscope:sk-sp-0123456789abcdef", "sk-sp-0123456789abcdef"),
            ("https://host.example/v1?key=gsk_0123456789abcdefABCD", "gsk_0123456789abcdefABCD"),
            ("'hf_0123456789abcdefABCDEF'", "hf_0123456789abcdefABCDEF"),
            ("ms-01234567-89ab-cdef-0123-456789abcdef", "ms-01234567-89ab-cdef-0123-456789abcdef"),
            ("AIzaSyA0123456789-abcdefghijklmnopq_rst", "AIzaSyA0123456789-abcdefghijklmnopq_rst"),
            ("0123456789abcdef0123456789abcdef.ABCDEFGH", "0123456789abcdef0123456789abcdef.ABCDEFGH"),
        ] {
            assert_eq!(keys_in(word), [key], "{word}");
        }
    }

    #[test]
    fn names_models_and_addresses_are_no_keys() {
        for word in [
            "dashscope",
            "--api-key-stdin",
            "sk-learn",
            "sk-work2",
            "qa_environment-of-production_2",
            "ms-windows-server-2022",
            "hf_models_2025",
            "work.2",
            "qwen3-coder-480b-a35b-instruct",
            "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8",
            "accounts/fireworks/models/qwen3-235b-a22b-instruct-2507",
            "claude-sonnet-4-5-20250929",
            "01234567-89ab-cdef-0123-456789abcdef",
            "https://api.cloudflare.com/client/v4/accounts/0123456789abcdef0123456789abcdef/ai/v1",
            "http://127.0.0.1:8000/v1",
            "op read op://Private/Qwen/key",
            "DASHSCOPE_API_KEY",
            "/run/user/1000/qwenauth-0123456789ab/key",
        ] {
            assert_eq!(keys_in(word), [""; 0], "{word}");
        }
    }

    #[test]
    fn the_prefix_of_each_built_in_provider_is_known() {
        for name in crate::providers::names(&crate::providers::Overrides::default()) {
            let provider = crate::providers::find(&name, &crate::providers::Overrides::default()).unwrap();
            if let Some(prefix) = provider.key.and_then(|key| key.prefix) {
                assert!(begins_as_key(&format!("{prefix}0123456789abcdef")), "{name}");
            }
        }
    }
}
