//! Text for a person: wrapped at words to the terminal's width, colored where the terminal shows color.
//!
//! Hazard: a terminal breaks a long line in mid-word, and a script that reads a pipe expects each message on one line.
//! Rule: [`Screen`] knows the width and the colors of one stream; a stream that is not a terminal has neither.

mod language;
mod table;

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use textwrap::core::Word;
use textwrap::{Options, WordSeparator, WordSplitter};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

pub(crate) use self::language::Language;
pub(crate) use self::table::{Table, short};

/// What the environment says about screens.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Preferences {
    /// `NO_COLOR` is set and not empty.
    pub(crate) no_color: bool,
    /// `CLICOLOR_FORCE` is set and not `0`.
    pub(crate) force_color: bool,
    /// `TERM` is `dumb`.
    pub(crate) dumb: bool,
    /// `COLUMNS`, which outranks the terminal's own width.
    pub(crate) columns: Option<usize>,
    /// Whether the locale's character set is UTF-8.
    pub(crate) utf8: bool,
    /// The language of messages, and whether it was chosen for pipes as well.
    pub(crate) language: Language,
    pub(crate) language_everywhere: bool,
}

static PREFERENCES: OnceLock<Preferences> = OnceLock::new();

/// Stores the environment's preferences, once, at the start.
pub(crate) fn prefer(preferences: Preferences) {
    let _ = PREFERENCES.set(preferences);
}

/// How a part of a text is set apart. Without it the text means the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Error,
    Warning,
    Hint,
    Success,
    /// Labels, paths and remarks.
    Dim,
    /// What can be typed.
    Bold,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Error => "31;1",
            Self::Warning => "33",
            Self::Hint => "36",
            Self::Success => "32",
            Self::Dim => "2",
            Self::Bold => "1",
        }
    }
}

/// One output stream as a person sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    color: bool,
    /// Columns of the terminal; `None` if the stream is not a terminal.
    width: Option<usize>,
    utf8: bool,
    language: Language,
}

impl Screen {
    pub(crate) fn stdout() -> Self {
        Self::new(io::stdout().is_terminal(), || terminal_size::terminal_size_of(io::stdout()))
    }

    pub(crate) fn stderr() -> Self {
        Self::new(io::stderr().is_terminal(), || terminal_size::terminal_size_of(io::stderr()))
    }

    fn new(is_terminal: bool, size: impl Fn() -> Option<(terminal_size::Width, terminal_size::Height)>) -> Self {
        let wanted = PREFERENCES.get().copied().unwrap_or_default();
        let own = || size().map_or(80, |(width, _)| usize::from(width.0));
        let width = is_terminal.then(|| wanted.columns.unwrap_or_else(own).max(20));
        let color = !wanted.no_color && (wanted.force_color || is_terminal && !wanted.dumb);
        let is_translated = is_terminal || wanted.language_everywhere;
        let language = if is_translated { wanted.language } else { Language::English };
        Self { color, width, utf8: is_terminal && wanted.utf8, language }
    }

    /// The same, as wide as a part of it.
    pub(crate) fn narrowed(self, width: usize) -> Self {
        Self { width: self.width.map(|_| width), ..self }
    }

    /// Columns of the terminal; `None` if the stream is not a terminal.
    pub(crate) fn width(self) -> Option<usize> {
        self.width
    }

    pub(crate) fn shows_color(self) -> bool {
        self.color
    }

    /// Whether marks such as `✓` can be shown: on a terminal with a UTF-8 locale.
    pub(crate) fn shows_marks(self) -> bool {
        self.utf8
    }

    /// `text`, which is English, in the language of the reader.
    pub(crate) fn translate(self, text: &str) -> String {
        self.language.translate(text)
    }

    /// `text` in a style, where the stream shows color.
    pub(crate) fn paint(self, style: Style, text: &str) -> String {
        if self.color && !text.is_empty() { format!("\x1b[{}m{text}\x1b[0m", style.code()) } else { text.to_owned() }
    }

    /// `text` with its literals in backticks bold, where the stream shows color.
    pub(crate) fn paint_literals(self, text: &str) -> String {
        if !self.color {
            return text.to_owned();
        }
        let mut painted = String::new();
        for (at, piece) in text.split('`').enumerate() {
            let is_literal = at % 2 == 1;
            painted += &if is_literal { format!("`{}`", self.paint(Style::Bold, piece)) } else { piece.to_owned() };
        }
        painted
    }

    /// The lines of `text` at this width, those after the first indented by `indent` columns. `lead` is already on the
    /// first line. A URL, a path or a literal in backticks is never broken: one that is wider than the screen gets a
    /// line of its own, without indent.
    pub(crate) fn wrap(self, text: &str, lead: usize, indent: usize) -> Vec<String> {
        let Some(width) = self.width else { return vec![text.to_owned()] };
        let (lead, indent) = (" ".repeat(lead), " ".repeat(indent));
        let options = Options::new(width)
            .initial_indent(&lead)
            .subsequent_indent(&indent)
            .break_words(false)
            .word_separator(WordSeparator::Custom(words))
            .word_splitter(WordSplitter::NoHyphenation);
        let text = keep_literals_whole(text);
        let wrapped = textwrap::wrap(&text, options);
        let mut lines = Vec::new();
        for (at, line) in wrapped.iter().enumerate() {
            let line = line.replace(JOINED, " ");
            let is_wider = line.width() > width;
            if at == 0 && is_wider && !lead.is_empty() {
                // The first line has the lead alone.
                lines.push(String::new());
            }
            let own = if at == 0 { line.strip_prefix(lead.as_str()).unwrap_or(&line) } else { &line };
            lines.push(if is_wider { own.trim_start().to_owned() } else { own.to_owned() });
        }
        lines
    }

    /// `qwenauth: LABEL: TEXT`, translated and wrapped, with a newline at the end.
    pub(crate) fn message(self, label: Option<(Style, &str)>, text: &str) -> String {
        let label = label.map(|(style, label)| (style, self.translate(label)));
        let lead = "qwenauth: ".len() + label.as_ref().map_or(0, |(_, label)| label.width() + 2);
        let mut message = String::from("qwenauth: ");
        if let Some((style, label)) = label {
            message += &format!("{} ", self.paint(style, &format!("{label}:")));
        }
        let mut lines = self.wrap(&self.translate(text), lead, "qwenauth: ".len()).into_iter();
        message += &self.paint_literals(&lines.next().unwrap_or_default());
        for line in lines {
            message.push('\n');
            message += &self.paint_literals(&line);
        }
        message.push('\n');
        message
    }
}

/// Whether stderr is a terminal on which a line can be drawn again.
pub(crate) fn redraws() -> bool {
    io::stderr().is_terminal() && !PREFERENCES.get().is_some_and(|wanted| wanted.dumb)
}

/// `text` in at most `width` columns; truncated text ends in `…`.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    for character in text.chars() {
        if cut.width() + character.width().unwrap_or(0) + 1 > width {
            break;
        }
        cut.push(character);
    }
    cut.trim_end().to_owned() + "…"
}

/// Columns that `text` takes.
pub(crate) fn columns(text: &str) -> usize {
    text.width()
}

/// `text` in exactly `width` columns: padded on the right, or cut.
pub(crate) fn cell(text: &str, width: usize) -> String {
    let text = cut(text, width);
    let padding = width.saturating_sub(text.width());
    text + &" ".repeat(padding)
}

/// The words of a line: parted by spaces, and Chinese ones by what may begin or end a line. What is in backticks is whole.
fn words(line: &str) -> Box<dyn Iterator<Item = Word<'_>> + '_> {
    let mut words = Vec::new();
    let (mut from, mut inside) = (0, false);
    let mut characters = line.char_indices().peekable();
    while let Some((_, character)) = characters.next() {
        inside ^= character == '`';
        let Some(&(next_at, next)) = characters.peek() else { break };
        let is_wide = |character: char| character.width() == Some(2);
        // A backtick may begin a line where it begins a literal.
        let is_literal = next == '`' && !inside;
        let is_joined = NO_LINE_END.contains(character) || NO_LINE_START.contains(next) && !is_literal;
        let may_part =
            (is_wide(character) || is_wide(next)) && !is_joined && !inside && character != ' ' && next != ' ';
        if may_part || character == ' ' && next != ' ' {
            words.push(Word::from(&line[from..next_at]));
            from = next_at;
        }
    }
    words.extend((from < line.len()).then(|| Word::from(&line[from..])));
    Box::new(words.into_iter())
}

/// What no line of Chinese begins with, and what none ends with.
const NO_LINE_START: &str = "，。；：！？、）》」”…`,.;:!?)";
const NO_LINE_END: &str = "（《「“(";

/// `5 h 59 min`, `12 min`, `40 s`.
pub(crate) fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 86400, seconds / 3600, seconds / 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {} min", minutes % 60),
        (days, hours, _) => format!("{days} d {} h", hours % 24),
    }
}

/// Stands for a space that no line ends at. It is a noncharacter, which no text contains.
const JOINED: char = '\u{fdd0}';

/// `text` with the spaces inside backticks joined, as long as the literal is short enough to stay whole.
fn keep_literals_whole(text: &str) -> String {
    let closed = text.matches('`').count().is_multiple_of(2);
    let mut inside = false;
    let join = |character: char| {
        inside ^= character == '`';
        if inside && closed && character == ' ' { JOINED } else { character }
    };
    text.chars().map(join).collect()
}

/// Prints a message on stderr that is neither the answer nor an error. `text` is printable and holds no secret. A text
/// that begins with `warning: ` is shown as a warning.
pub(crate) fn note(text: &str) {
    let screen = Screen::stderr();
    let message = match text.strip_prefix("warning: ") {
        Some(warning) => screen.message(Some((Style::Warning, "warning")), warning),
        None => screen.message(None, text),
    };
    // Ignored: stderr is closed and there is nowhere else to report it.
    let _ = write_or_wait(message.as_bytes(), usize::MAX);
}

/// What waits to be written to stderr; `None` unless a [`Quiet`] exists.
static WAITING: Mutex<Option<Vec<u8>>> = Mutex::new(None);

/// Bytes of log lines that may wait; lines beyond it are dropped. Notices are few and always kept.
const MAX_WAITING: usize = 4 * 1024 * 1024;

/// As long as it exists, notices and log lines wait instead of being written into the screen of another program. Dropped,
/// it writes them all, in order.
pub(crate) struct Quiet(());

impl Quiet {
    pub(crate) fn new() -> Self {
        waiting().get_or_insert_default();
        Self(())
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let text = waiting().take().unwrap_or_default();
        let _ = io::stderr().write_all(&text);
    }
}

fn waiting() -> MutexGuard<'static, Option<Vec<u8>>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `limit`: bytes that may wait, these included.
fn write_or_wait(bytes: &[u8], limit: usize) -> io::Result<()> {
    match &mut *waiting() {
        Some(text) if text.len() + bytes.len() <= limit => text.extend_from_slice(bytes),
        Some(_) => {}
        None => io::stderr().write_all(bytes)?,
    }
    Ok(())
}

/// Stderr for log lines, which may have to wait; see [`Quiet`].
pub(crate) struct LogLines;

impl Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_or_wait(bytes, MAX_WAITING).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NARROW: Screen = Screen { color: false, width: Some(40), utf8: false, language: Language::English };

    #[test]
    fn lines_break_at_words_and_never_inside_a_literal() {
        let message =
            NARROW.message(Some((Style::Hint, "hint")), "set it with `export QWEN_HOME=/srv/qwen` and run it again");
        assert_eq!(
            message,
            "qwenauth: hint: set it with\n          `export QWEN_HOME=/srv/qwen`\n          and run it again\n"
        );
        assert!(message.lines().all(|line| line.width() <= 40), "{message}");
    }

    #[test]
    fn what_is_wider_than_the_screen_stands_alone_and_unindented() {
        let url = "https://chat.qwen.ai/authorize?user_code=K3Q9ZL7P&client=qwen-code";
        let message = NARROW.message(None, &format!("open {url} now"));
        assert_eq!(message, format!("qwenauth: open\n{url}\n          now\n"));
    }

    #[test]
    fn wide_characters_count_twice() {
        let screen = Screen { color: false, width: Some(20), utf8: true, language: Language::English };
        assert_eq!(screen.wrap("百炼百炼 百炼百炼 百炼", 0, 2), ["百炼百炼 百炼百炼 百", "  炼"]);
    }

    #[test]
    fn chinese_breaks_between_characters_but_not_before_punctuation_nor_inside_a_literal() {
        let screen = Screen { width: Some(20), utf8: true, ..NARROW };
        assert_eq!(screen.wrap("未登录：没有凭证，请登录", 0, 0), ["未登录：没有凭证，请", "登录"]);
        assert_eq!(screen.wrap("没有可用的浏览器，好", 0, 0), ["没有可用的浏览器，好"]);
        assert_eq!(screen.wrap("也没有可用的浏览览器，好", 0, 0), ["也没有可用的浏览览", "器，好"]);
        assert_eq!(screen.wrap("请再次运行 `a b 百炼`", 0, 0), ["请再次运行", "`a b 百炼`"]);
        assert_eq!(screen.wrap("请删除重复的行：`/home/ann/x`", 0, 0), ["请删除重复的行：", "`/home/ann/x`"]);
        assert_eq!(screen.wrap("（`/home/ann/file`）。请删除", 0, 0), ["（`/home/ann/file`）。", "请删除"]);
    }

    #[test]
    fn a_pipe_gets_one_line_without_color() {
        let pipe = Screen { color: false, width: None, utf8: false, language: Language::English };
        let text = "word ".repeat(60);
        assert_eq!(pipe.message(Some((Style::Error, "error")), text.trim()).lines().count(), 1);
    }

    #[test]
    fn color_changes_no_text() {
        let screen = Screen { color: true, width: Some(60), utf8: true, language: Language::English };
        let message = screen.message(Some((Style::Error, "error")), "cannot read `/a b/c`: no permission");
        assert_eq!(message, "qwenauth: \x1b[31;1merror:\x1b[0m cannot read `\x1b[1m/a b/c\x1b[0m`: no permission\n");
    }

    #[test]
    fn a_cell_has_its_width_whatever_it_holds() {
        for text in ["", "short", "exactly ten", "百炼百炼百炼百炼", "a\u{301}bcdefghijklm"] {
            assert_eq!(cell(text, 10).width(), 10, "{text}");
        }
        assert_eq!(cut("one two three", 9), "one two…");
        assert_eq!(cut("百炼百炼", 6), "百炼…");
    }

    #[test]
    fn a_backtick_that_is_not_closed_joins_nothing() {
        assert_eq!(keep_literals_whole("a ` b c"), "a ` b c");
    }
}
