//! Text from elsewhere as it is shown: without what a terminal obeys, without passwords in URLs, as a word of a shell.

use std::path::Path;

use super::misplaced::without_keys;

/// `text` without what a terminal or a reader's eye would obey: control characters, line ends of Unicode, marks that turn
/// the direction of writing, and characters that show nothing.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|&character| !is_obeyed(character)).collect()
}

fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}'
                | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
                | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}'
        )
}

/// A text in JSON with all that [`printable`] removes escaped instead, so that it means the same. Line ends and tabs
/// between its tokens stay.
pub(crate) fn json_for_terminal(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    let mut characters = json.chars().peekable();
    while let Some(character) = characters.next() {
        let is_layout = matches!(character, '\n' | '\t') || character == '\r' && characters.peek() == Some(&'\n');
        if is_obeyed(character) && !is_layout {
            for unit in character.encode_utf16(&mut [0; 2]) {
                escaped += &format!("\\u{unit:04x}");
            }
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// `text` as a string of TOML or YAML in double quotes, with all that [`printable`] removes escaped. Their escape of a
/// character beyond U+FFFF is not that of JSON.
pub(crate) fn quoted_for_terminal(text: &str) -> String {
    let escaped = |character: char| match u32::from(character) {
        _ if !is_obeyed(character) => character.to_string(),
        number @ 0x1_0000.. => format!("\\U{number:08x}"),
        number => format!("\\u{number:04x}"),
    };
    serde_json::Value::from(text).to_string().chars().map(escaped).collect()
}

/// `text` as a person sees it: printable, without user info in URLs and without keys that were typed.
pub(crate) fn shown(text: &str) -> String {
    without_keys(without_urls_user_info(&printable(text)))
}

/// `text` as one word of a command that a person may paste into a POSIX shell. Control characters are removed.
pub(crate) fn for_sh(text: &str) -> String {
    let text = printable(text);
    // Fewer characters than shells leave unchanged: `{`, `!`, `~`, `=` and `^` have a meaning in some of them, at least
    // interactively.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_./:@%+,-".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Whether a shell could set a variable of this name.
pub(crate) fn is_variable_name(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A path as such a word.
pub(crate) fn path_for_sh(path: &Path) -> String {
    for_sh(&path.to_string_lossy())
}

/// Splits the raw text of a URL into scheme, user info and the rest. The user info is everything before the last `@`,
/// because a password may contain characters that end it for a parser. Returns `None` if there is no user info.
pub(crate) fn split_user_info(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.rsplit_once('@')?;
    let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
    let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let is_whole = scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(is_scheme);
    let at = if is_whole { scheme.len() + "://".len() } else { 0 };
    Some((&before[..at], &before[at..], rest))
}

/// Whether the raw text of a URL has user info, or looks so: what follows the last `@` is a host. Paths such as `/run/@cf/m`
/// are met in addresses of APIs.
pub(crate) fn has_user_info(text: &str) -> bool {
    let Some((scheme, _, rest)) = split_user_info(text) else { return false };
    let host = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    scheme.is_empty() || host.contains(['.', ':', '[']) || host.eq_ignore_ascii_case("localhost")
}

/// The raw text of a URL with its user info masked: it may be a password.
pub(crate) fn without_user_info(text: &str) -> String {
    match split_user_info(text) {
        Some((scheme, _, rest)) => format!("{scheme}…@{rest}"),
        None => text.to_owned(),
    }
}

/// `text` with the user info of each URL in it masked: the last net, for what was quoted without [`without_user_info`].
fn without_urls_user_info(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        let end = after.find(|character: char| character.is_whitespace() || "`\"<>".contains(character));
        let (url, next) = after.split_at(end.unwrap_or(after.len()));
        shown.push_str(before);
        shown.push_str(&url.rsplit_once('@').map_or(url.to_owned(), |(_, host)| format!("…@{host}")));
        rest = next;
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_not_obeyed() {
        assert_eq!(printable("a\u{1b}[2Jb\r\nc\u{202e}d\u{9b}e"), "a[2Jbcde");
        // What shows nothing (the property `Default_Ignorable_Code_Point`) can hide a word in another.
        assert_eq!(printable("a\u{34f}\u{115f}\u{3164}\u{ffa0}\u{e0001}\u{e01ef}b"), "ab");
    }

    #[test]
    fn what_shows_nothing_or_turns_the_text_is_removed_and_escaped_in_json() {
        let marks = "\u{ad}\u{61c}\u{180e}\u{200b}\u{200d}\u{200e}\u{2028}\u{2029}\u{202e}\u{2060}\u{2066}\u{feff}\u{fff9}\u{e0001}\u{7f}\u{9b}";
        assert_eq!(printable(&format!("a{marks}b")), "ab");
        let value = serde_json::json!({ "text": format!("é漢{marks}") });
        let escaped = json_for_terminal(&format!("{value:#}\n"));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
        assert_eq!(printable(&escaped.replace('\n', "")), escaped.replace('\n', ""));
        assert!(escaped.contains("é漢") && escaped.contains("\\udb40\\udc01"), "{escaped}");
    }

    #[test]
    fn a_word_for_sh_is_one_word() {
        for (text, word) in [
            ("plain-1.0_/x:y@z%+,", "plain-1.0_/x:y@z%+,"),
            ("", "''"),
            ("m$(id)", "'m$(id)'"),
            ("it's", r"'it'\''s'"),
            ("{a,b}", "'{a,b}'"),
            ("~/x", "'~/x'"),
            ("a!b", "'a!b'"),
            ("文|x", "'文|x'"),
            ("a\u{1b}[7m\nb", "'a[7mb'"),
        ] {
            assert_eq!(for_sh(text), word);
        }
    }

    #[test]
    fn user_info_ends_at_the_last_at_sign_of_the_raw_text() {
        for (text, masked) in [
            ("http://bob:blue?#green@127.0.0.1:3128", "http://…@127.0.0.1:3128"),
            ("https://bob:blue/#green@host.example/v1", "https://…@host.example/v1"),
            ("bob:blue@host", "…@host"),
            ("http:/bob:bl//ue@host", "…@host"),
            ("http:\\\\bob:blue@host", "…@host"),
            ("1http://bob@host", "…@host"),
            ("https://a@b:c@host/@x", "https://…@x"),
            ("https://host.example/v1", "https://host.example/v1"),
        ] {
            assert_eq!(without_user_info(text), masked);
        }
        assert_eq!(shown("cannot use `https://bob:blue/#green@host`: no"), "cannot use `https://…@host`: no");
        assert_eq!(shown("a https://x/ b http://u:p@h c"), "a https://x/ b http://…@h c");
    }
}
