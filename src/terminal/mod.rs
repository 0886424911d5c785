//! What a person sees: prompts, spinner, QR, colour; never stdout, never a secret.

mod qr;

use std::io::{self, IsTerminal, Write, stderr, stdin};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dialoguer::console::{Key, Term};
use indicatif::ProgressStyle;
use zeroize::Zeroizing;

pub(crate) use self::qr::Code;
use crate::error::printable;
use crate::platform::signals::PromptSignals;
use crate::platform::{system, threads};
use crate::say::{Screen, Style, cut, redraws};
use crate::secret::Secret;

/// Prompts need both: someone who reads stderr and someone who types.
pub(crate) fn can_prompt() -> bool {
    stdin().is_terminal() && stderr().is_terminal()
}

/// Says something to a person on stderr, in their language, wrapped at words. Text of a server has its control characters
/// removed.
pub(crate) fn say(text: &str) {
    let screen = Screen::stderr();
    let mut stderr = stderr().lock();
    for line in text.lines() {
        for line in screen.wrap(&screen.translate(&printable(line)), 0, 0) {
            // Ignore errors: stderr is closed and there is nowhere else to report it.
            let _ = writeln!(stderr, "{line}");
        }
    }
}

/// Prints a line that may be colored. Whatever others wrote into it has to be [`printable`].
pub(crate) fn print(line: &str) {
    // Ignored: stderr is closed and there is nowhere else to report it.
    let _ = writeln!(stderr().lock(), "{line}");
}

/// Asks a yes-or-no question; the default is no. `y` or `yes` and Enter mean yes: a key that is pasted does not. Input
/// typed before the question does not answer it, and input typed behind the answer is discarded.
pub(crate) fn confirm(question: &str) -> Result<bool> {
    let _restored = PromptSignals::of_keys();
    discard_typed_ahead();
    let term = Term::stderr();
    let screen = Screen::stderr();
    let mut lines = screen.wrap(&format!("{} [y/N]", screen.translate(&printable(question))), 0, 0);
    // The last line is drawn again.
    let asked = lines.pop().unwrap_or_default();
    lines.iter().try_for_each(|line| term.write_line(line))?;
    term.write_str(&format!("{asked} "))?;
    let mut typed = Zeroizing::new(String::new());
    loop {
        match term.read_key().context("cannot read the answer")? {
            Key::Enter => break,
            Key::Backspace => {
                typed.clear();
                clear_line(&term)?;
                term.write_str(&format!("{asked} "))?;
            }
            Key::Char(character) if !character.is_control() => {
                typed.extend(character.to_lowercase());
                // Nothing else is shown: it may be a key.
                if ["yes", "no"].iter().any(|answer| answer.starts_with(typed.as_str())) {
                    term.write_str(&character.to_string())?;
                }
            }
            _ => {}
        }
    }
    let answer = matches!(typed.as_str(), "y" | "yes");
    clear_line(&term)?;
    let answered = screen.translate(if answer { "yes" } else { "no" });
    term.write_line(&asked.replace("[y/N]", &answered))?;
    discard_typed_ahead();
    Ok(answer)
}

/// Clears the line with the cursor; a terminal that cannot begins another.
fn clear_line(term: &Term) -> io::Result<()> {
    if redraws() { term.clear_line() } else { term.write_line("") }
}

/// Clears the last lines; on a terminal that cannot, they stay.
fn clear_last_lines(term: &Term, count: usize) -> io::Result<()> {
    if redraws() { term.clear_last_lines(count) } else { Ok(()) }
}

/// Discards input that was typed and not yet read, so that it answers no prompt and no shell runs it.
pub(crate) fn discard_typed_ahead() {
    if can_prompt() {
        system::discard_typed_ahead();
    }
}

/// Asks for a secret, which is not shown. What was typed before the echo went off was shown and is discarded, as
/// `getpass` does.
pub(crate) fn hidden(question: &str, may_be_empty: bool) -> Result<Secret> {
    let _restored = PromptSignals::of_line();
    discard_typed_ahead();
    let term = Term::stderr();
    let screen = Screen::stderr();
    let question = screen.wrap(&format!("{}:", screen.translate(&printable(question))), 0, 0).join("\n");
    loop {
        term.write_str(&format!("{question} "))?;
        let typed = Secret::new(term.read_secure_line().context("cannot read the answer")?);
        discard_typed_ahead();
        if may_be_empty || !typed.expose().is_empty() {
            return Ok(typed);
        }
    }
}

/// A row of a list.
pub(crate) struct Row {
    pub(crate) shown: String,
    /// What the filter looks in besides.
    pub(crate) names: String,
}

/// Lets one of `rows` be chosen, with arrows and by typing a part of it; `None` when none is. Nothing of the list stays.
pub(crate) fn choose(question: &str, rows: &[Row]) -> Result<Option<usize>> {
    let _restored = PromptSignals::of_keys();
    discard_typed_ahead();
    let term = Term::stderr();
    let mut filter = String::new();
    let mut at = 0;
    let mut drawn = 0;
    let chosen = loop {
        let wanted = filter.to_lowercase();
        let fits = |row: &Row| format!("{} {}", row.shown, row.names).to_lowercase().contains(&wanted);
        let found: Vec<usize> = (0..rows.len()).filter(|&row| fits(&rows[row])).collect();
        at = at.min(found.len().saturating_sub(1));
        let lines = list(question, &filter, rows, &found, at, term.size());
        clear_last_lines(&term, drawn)?;
        for line in &lines {
            term.write_line(line)?;
        }
        drawn = lines.len();
        match term.read_key().context("cannot read the answer")? {
            Key::ArrowUp => at = at.checked_sub(1).unwrap_or(found.len().saturating_sub(1)),
            Key::ArrowDown | Key::Tab => at = if at + 1 < found.len() { at + 1 } else { 0 },
            Key::Enter if !found.is_empty() => break Some(found[at]),
            Key::Escape => break None,
            Key::Backspace => drop(filter.pop()),
            Key::Char(character) if !character.is_control() => {
                filter.push(character);
                at = 0;
            }
            _ => {}
        }
    };
    clear_last_lines(&term, drawn)?;
    discard_typed_ahead();
    Ok(chosen)
}

/// The question and as many rows as fit on the terminal, none of them wider than it.
fn list(question: &str, filter: &str, rows: &[Row], found: &[usize], at: usize, size: (u16, u16)) -> Vec<String> {
    let screen = Screen::stderr();
    let (height, width) = (usize::from(size.0), usize::from(size.1).saturating_sub(1));
    let room = height.saturating_sub(2).max(1);
    let from = (at + 1).saturating_sub(room).min(found.len().saturating_sub(room));
    let keys = if filter.is_empty() { "[arrows to move, Enter to choose, type to filter]" } else { "" };
    let keys = screen.translate(keys);
    let head = cut(&format!("? {}  {filter}{keys}", screen.translate(question)), width);
    let mut lines = vec![head.replace(&keys, &screen.paint(Style::Dim, &keys))];
    for (number, &row) in found.iter().enumerate().skip(from).take(room) {
        let shown = cut(&format!("{} {}", if number == at { '>' } else { ' ' }, printable(&rows[row].shown)), width);
        lines.push(if number == at { screen.paint(Style::Hint, &shown) } else { shown });
    }
    if found.is_empty() {
        lines.push(cut(&screen.translate("  no match; press Backspace to edit the filter"), width));
    }
    lines
}

/// Rows and columns of the terminal on stderr.
pub(crate) fn size() -> (usize, usize) {
    let (rows, columns) = Term::stderr().size();
    (usize::from(rows), usize::from(columns))
}

/// Copies `text` to the clipboard of the terminal, by way of SSH too (OSC 52). `multiplexer`: the one that has to pass it
/// on.
pub(crate) fn copy(text: &str, multiplexer: Option<Multiplexer>) {
    let sequence = format!("\x1b]52;c;{}\x07", STANDARD.encode(text));
    let sequence = match multiplexer {
        None => sequence,
        Some(Multiplexer::Tmux) => format!("\x1bPtmux;{}\x1b\\", sequence.replace('\x1b', "\x1b\x1b")),
        Some(Multiplexer::Screen) => format!("\x1bP{sequence}\x1b\\"),
    };
    let mut stderr = stderr().lock();
    // Ignored: stderr is closed and there is nowhere else to report it.
    let _ = stderr.write_all(sequence.as_bytes()).and_then(|()| stderr.flush());
}

/// A program between this one and the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Multiplexer {
    Tmux,
    Screen,
}

/// A line on stderr that counts down during a wait; nothing where stderr is not a terminal, or a dumb one.
pub(crate) struct Countdown {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Countdown {
    pub(crate) fn start(what: &str, deadline: Instant) -> Self {
        if !redraws() {
            return Self { stop: None, thread: None };
        }
        let (stop, stopped) = mpsc::channel::<()>();
        let what = printable(what);
        let screen = Screen::stderr();
        let drawn = threads::start(move || {
            // Drawn here: a progress bar estimates its end by libm, which every start of the program would then load.
            let term = Term::buffered_stderr();
            let spinner = ProgressStyle::default_spinner();
            for turn in 0.. {
                let left = deadline.saturating_duration_since(Instant::now()).as_secs();
                let (minutes, seconds) = (left / 60, left % 60);
                let said = screen.translate(&format!("{what} ({minutes}:{seconds:02} left)"));
                let line = cut(
                    &format!("{} {said}", spinner.get_tick_str(turn)),
                    usize::from(term.size().1).saturating_sub(1),
                );
                // Ignored, as below: the terminal is gone and there is nowhere else to show it.
                let _ = term.clear_line().and_then(|()| term.write_str(&line)).and_then(|()| term.flush());
                if stopped.recv_timeout(Duration::from_millis(120)) != Err(mpsc::RecvTimeoutError::Timeout) {
                    break;
                }
            }
            let _ = term.clear_line().and_then(|()| term.flush());
        });
        Self { stop: Some(stop), thread: drawn.ok() }
    }
}

impl Drop for Countdown {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Opens a browser in the background. Only `http(s)` URLs are opened; the caller reports a failure.
pub(crate) fn open_browser(url: &str) -> Result<()> {
    let parsed = url::Url::parse(url).context("not a URL")?;
    anyhow::ensure!(matches!(parsed.scheme(), "http" | "https"), "only `http` and `https` URLs are opened");
    let mut options = webbrowser::BrowserOptions::new();
    options.with_suppress_output(true);
    webbrowser::open_browser_with_options(webbrowser::Browser::Default, parsed.as_str(), &options)
        .context("cannot open a browser")
}
