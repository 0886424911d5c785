//! What a person sees: prompts, spinner, QR, colour; never stdout, never a secret.

use std::io::{IsTerminal, Write, stderr, stdin};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use qrcode::{Color, EcLevel, QrCode};

use crate::error::{Failed, Failure, printable};
use crate::platform::system;
use crate::secret::Secret;

/// Light modules around a code, which scanners need (ISO/IEC 18004 §9.1 asks for four; two are read by all tried, and
/// every column counts on a small terminal).
const QUIET: usize = 2;

/// Prompts need both: someone who reads stderr and someone who types.
pub(crate) fn can_prompt() -> bool {
    stdin().is_terminal() && stderr().is_terminal()
}

/// Says something to a person on stderr. Text of a server has its control characters removed.
pub(crate) fn say(text: &str) {
    let mut stderr = stderr().lock();
    for line in text.lines() {
        // Nobody can be told that stderr is gone.
        let _ = writeln!(stderr, "{}", printable(line));
    }
}

/// Prints a line that may be colored. Whatever others wrote into it has to be [`printable`].
pub(crate) fn print(line: &str) {
    // Ignored: stderr is closed and there is nowhere else to report it.
    let _ = writeln!(stderr().lock(), "{line}");
}

/// Asks a yes-or-no question; no is the default, and only Enter answers. What was typed before does not, and what is
/// typed behind the answer reaches nobody.
pub(crate) fn confirm(question: &str) -> Result<bool> {
    discard_typed_ahead();
    let answer = dialoguer::Confirm::new()
        .with_prompt(printable(question))
        .default(false)
        .wait_for_newline(true)
        .interact_on(&dialoguer::console::Term::stderr())
        .context("cannot read the answer")?;
    discard_typed_ahead();
    Ok(answer)
}

/// Drops what was typed and not yet read, so that it answers no prompt and no shell runs it.
pub(crate) fn discard_typed_ahead() {
    if can_prompt() {
        system::discard_typed_ahead();
    }
}

/// Asks for a secret; nothing of it is shown.
pub(crate) fn hidden(question: &str, may_be_empty: bool) -> Result<Secret> {
    discard_typed_ahead();
    let typed = dialoguer::Password::new()
        .with_prompt(printable(question))
        .allow_empty_password(may_be_empty)
        .interact_on(&dialoguer::console::Term::stderr())
        .context("cannot read the answer")?;
    discard_typed_ahead();
    Ok(Secret::new(typed))
}

/// Lets one of `rows` be chosen; `None` when none is.
pub(crate) fn choose(question: &str, rows: &[String]) -> Result<Option<usize>> {
    let width = usize::from(dialoguer::console::Term::stderr().size().1).saturating_sub(4);
    // A row that wraps confuses the redrawing.
    let rows: Vec<String> =
        rows.iter().map(|row| dialoguer::console::truncate_str(&printable(row), width, "…").into_owned()).collect();
    dialoguer::Select::new()
        .with_prompt(printable(question))
        .items(&rows)
        .default(0)
        .interact_on_opt(&dialoguer::console::Term::stderr())
        .context("cannot read the answer")
}

/// When a QR code is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Draw {
    /// On a terminal that is large enough.
    Auto,
    Always,
    Never,
}

/// Draws `text` as a QR code on stderr, two modules a character. Colours make it dark on light whatever the terminal's
/// own are; without colour it relies on a dark background, and most scanners read the inverse as well.
pub(crate) fn draw_qr(text: &str, when: Draw, coloured: bool) -> Result<()> {
    if when == Draw::Never || when == Draw::Auto && !stderr().is_terminal() {
        return Ok(());
    }
    let code = QrCode::with_error_correction_level(text, EcLevel::L)
        .map_err(|error| Failed::new(Failure::Other, format!("the URL does not fit into a QR code: {error}")))?;
    let side = code.width() + 2 * QUIET;
    if when == Draw::Auto && !fits(side, side.div_ceil(2)) {
        say("(the terminal is too small for the QR code; `--qr always` draws it all the same)");
        return Ok(());
    }
    let mut stderr = stderr().lock();
    for line in half_blocks(&code) {
        if coloured {
            writeln!(stderr, "\x1b[97;40m{line}\x1b[0m")?;
        } else {
            writeln!(stderr, "{line}")?;
        }
    }
    Ok(())
}

/// Leaves room for the lines said around the code.
fn fits(columns: usize, rows: usize) -> bool {
    let (height, width) = dialoguer::console::Term::stderr().size();
    usize::from(width) >= columns && usize::from(height) >= rows + 4
}

/// One text a line: light modules are painted, dark ones left out.
fn half_blocks(code: &QrCode) -> Vec<String> {
    let width = code.width();
    let light = |row: usize, column: usize| {
        let inside = (QUIET..QUIET + width).contains(&row) && (QUIET..QUIET + width).contains(&column);
        !inside || code[(column - QUIET, row - QUIET)] == Color::Light
    };
    let side = width + 2 * QUIET;
    (0..side)
        .step_by(2)
        .map(|row| {
            (0..side)
                .map(|column| match (light(row, column), row + 1 < side && light(row + 1, column)) {
                    (true, true) => '█',
                    (true, false) => '▀',
                    (false, true) => '▄',
                    (false, false) => ' ',
                })
                .collect()
        })
        .collect()
}

/// A line on stderr that counts down while something is waited for; nothing where stderr is no terminal.
pub(crate) struct Countdown {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Countdown {
    pub(crate) fn start(what: &str, deadline: Instant) -> Self {
        if !stderr().is_terminal() {
            return Self { stop: None, thread: None };
        }
        let (stop, stopped) = mpsc::channel::<()>();
        let what = printable(what);
        let thread = thread::spawn(move || {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            loop {
                let left = deadline.saturating_duration_since(Instant::now()).as_secs();
                bar.set_message(format!("{what} ({}:{:02} left)", left / 60, left % 60));
                bar.tick();
                if stopped.recv_timeout(Duration::from_millis(120)) != Err(mpsc::RecvTimeoutError::Timeout) {
                    break;
                }
            }
            bar.finish_and_clear();
        });
        Self { stop: Some(stop), thread: Some(thread) }
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

/// Opens a browser in the background. Only `http(s)` URLs are opened; a failure is somebody else's to mention.
pub(crate) fn open_browser(url: &str) -> Result<()> {
    let parsed = url::Url::parse(url).context("not a URL")?;
    anyhow::ensure!(matches!(parsed.scheme(), "http" | "https"), "only `http` and `https` URLs are opened");
    let mut options = webbrowser::BrowserOptions::new();
    options.with_suppress_output(true);
    webbrowser::open_browser_with_options(webbrowser::Browser::Default, parsed.as_str(), &options)
        .context("cannot open a browser")
}
