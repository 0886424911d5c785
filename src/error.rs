//! Failures a script can act on; the only place with exit codes.
//!
//! Hazard: an error contains text from elsewhere (a server, a file name), and terminals obey control characters. Rule:
//! all of it passes through [`printable`], once, in [`Report`].

use std::path::Path;
use std::{fmt, io};

use anyhow::Error;

use crate::say::{self, Screen, Style};

/// What a script should do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Anything else: permission, disk full, a rejected URL, an OAuth error that is not about the login.
    Other,
    /// The command line is invalid, or its options exclude each other.
    Usage,
    /// Network, 429, 5xx, HTML instead of JSON, lock wait over: the same command may work later.
    Temporary,
    /// No credential, a rejected refresh token, a damaged file, a denied or expired login.
    LoginRequired,
    /// The requested `--min-ttl` cannot be met even by renewing.
    Lifetime,
    /// `exec`: the program is there but cannot be run.
    CannotRun,
    /// `exec`: no such program.
    NotFound,
}

impl Failure {
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Other => 1,
            Self::Usage => 2,
            Self::Temporary => 3,
            Self::LoginRequired => 4,
            Self::Lifetime => 5,
            Self::CannotRun => 126,
            Self::NotFound => 127,
        }
    }

    /// The inverse of [`Self::exit_code`], for a failure that another process recorded.
    pub(crate) fn from_exit_code(code: u8) -> Self {
        [Self::Usage, Self::Temporary, Self::LoginRequired, Self::Lifetime, Self::CannotRun, Self::NotFound]
            .into_iter()
            .find(|failure| failure.exit_code() == code)
            .unwrap_or(Self::Other)
    }

    /// The `kind` of a `--json` error event.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Usage => "usage",
            Self::Temporary => "temporary",
            Self::LoginRequired => "login_required",
            Self::Lifetime => "lifetime",
            Self::CannotRun => "cannot_run",
            Self::NotFound => "not_found",
        }
    }
}

/// A failure with its message and, where there is one, its remedy.
#[derive(Debug, Clone)]
pub(crate) struct Failed {
    pub(crate) failure: Failure,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Failed {
    pub(crate) fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self { failure, message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, as a result: `return Failed::new(…).err()`.
    pub(crate) fn err<T>(self) -> anyhow::Result<T> {
        Err(self.into())
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Failed {}

/// The message of an error and the exit code of the program.
pub(crate) struct Report {
    pub(crate) failure: Failure,
    /// One sentence, control characters removed.
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Report {
    pub(crate) fn of(error: &Error) -> Self {
        let failed = error.chain().find_map(|cause| cause.downcast_ref::<Failed>()).or_else(|| error.downcast_ref());
        Self {
            failure: failed.map_or(Failure::Other, |failed| failed.failure),
            message: shown(&format!("{error:#}")),
            hint: match failed {
                // A remedy may hold a place for user info to be filled in.
                Some(failed) => failed.hint.as_deref().map(printable),
                None => error.chain().find_map(|cause| cause.downcast_ref()).and_then(remedy).map(str::to_owned),
            },
        }
    }
}

/// `EMFILE` of every Unix; on Windows the number is that of a bad length, which no file gives.
const EMFILE: i32 = 24;

/// `EIO` of every Unix; on Windows the number is that of a denied access, which has a kind of its own.
const EIO: i32 = 5;

/// What helps where the limit of open files is reached.
pub(crate) const FEW_DESCRIPTORS: &str = "raise the limit of open files: `ulimit -n 1024`";

/// The remedy where the system denies access to a file, whichever file it is.
fn remedy(error: &io::Error) -> Option<&'static str> {
    Some(match error.kind() {
        io::ErrorKind::StorageFull => "free space on that disk, then retry",
        io::ErrorKind::QuotaExceeded => "your disk quota is used up: free space, then retry",
        io::ErrorKind::ReadOnlyFilesystem => {
            "that file system is read-only: mount it writable, or set `QWEN_HOME` or `QWENAUTH_HOME` to another"
        }
        io::ErrorKind::PermissionDenied => {
            "check the owner and mode of the file and its directory, or run `qwenauth doctor`"
        }
        _ if error.raw_os_error() == Some(EMFILE) => FEW_DESCRIPTORS,
        _ if error.raw_os_error() == Some(EIO) => "disk I/O error; see `dmesg`",
        _ => return None,
    })
}

impl Report {
    /// The report as `screen` shows it.
    pub(crate) fn shown(&self, screen: Screen) -> String {
        let mut shown = screen.message(Some((Style::Error, "error")), &self.message);
        if let Some(hint) = &self.hint {
            shown += &screen.message(Some((Style::Hint, "hint")), hint);
        }
        shown
    }
}

/// Prints a message on stderr that is neither the answer nor an error. Never a secret.
pub(crate) fn note(text: &str) {
    say::note(&shown(text));
}

/// The one of `known` that `typed` was probably meant to be.
pub(crate) fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(typed, name), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, name)| name)
}

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

/// `text` as a person sees it: printable, and without user info in URLs.
pub(crate) fn shown(text: &str) -> String {
    without_urls_user_info(&printable(text))
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

/// The same for a path.
pub(crate) fn path_for_sh(path: &Path) -> String {
    for_sh(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_failure_is_found_under_its_context() {
        let error = Err::<(), _>(Failed::new(Failure::Temporary, "no answer").hint("try again"))
            .context("renewing")
            .unwrap_err();
        let report = Report::of(&error);
        assert_eq!(report.failure, Failure::Temporary);
        assert_eq!(report.message, "renewing: no answer");
        assert_eq!(report.hint.as_deref(), Some("try again"));
    }

    #[test]
    fn a_failure_is_found_above_its_cause() {
        let error = Err::<(), _>(io::Error::other("cause"))
            .context(Failed::new(Failure::LoginRequired, "damaged"))
            .unwrap_err();
        assert_eq!(Report::of(&error).failure, Failure::LoginRequired);
    }

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

    #[test]
    fn exit_codes_and_failures_agree() {
        for failure in [Failure::Other, Failure::Usage, Failure::Temporary, Failure::LoginRequired, Failure::Lifetime] {
            assert_eq!(Failure::from_exit_code(failure.exit_code()), failure);
        }
    }
}
