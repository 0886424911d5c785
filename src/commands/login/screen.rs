//! What a person sees of a pending login: address, code and QR code, and what is copied to the terminal's clipboard.
//!
//! Hazard: a QR code whose first rows have scrolled off cannot be read. Rule: it is drawn if every row of this login
//! fits on the screen at once, including the cursor's and one for the outcome; otherwise one line states why it is not.

use std::io::{IsTerminal, stderr};

use anyhow::Result;
use unicode_width::UnicodeWidthStr;

use crate::cli::{LoginArgs, Qr};
use crate::environment::variable;
use crate::error::{Failed, Failure, note, printable};
use crate::say::{Screen, Style};
use crate::terminal::{self, Code, Multiplexer};

/// Columns between the code and the text next to it, and the minimum width of such a text.
const GAP: usize = 2;
const MIN_SIDE: usize = 28;

/// Rows for the countdown, which the cursor is on, and for the line that the login ends with.
const BELOW: usize = 2;

/// A login that waits for a person.
pub(super) struct Waiting<'a> {
    pub(super) url: &'a str,
    pub(super) user_code: &'a str,
    /// The server that approval is required for.
    pub(super) host: &'a str,
    /// Remarks to print first.
    pub(super) remarks: &'a [String],
}

/// Whether remarks can wait until the code is shown: a pipe gets them at once.
pub(super) fn shows_remarks() -> bool {
    stderr().is_terminal()
}

/// Errors: usage, if there is no terminal to copy anything to.
pub(super) fn check_clipboard(args: &LoginArgs) -> Result<()> {
    if args.clipboard && !stderr().is_terminal() {
        return Failed::new(Failure::Usage, "`--clipboard` requires a terminal, and stderr is not one")
            .hint("omit `--clipboard`")
            .err();
    }
    Ok(())
}

/// How a pending login is shown.
pub(super) struct ApprovalScreen {
    qr: Qr,
    clipboard: bool,
    /// Rows that this login has printed before its code is shown.
    rows_before: usize,
}

impl ApprovalScreen {
    /// `replaces`: whether this login may replace another.
    pub(super) fn new(args: &LoginArgs, replaces: bool) -> Self {
        let chosen = usize::from(args.provider.is_none());
        let asked = if replaces && !args.force { 2 } else { 0 };
        Self { qr: args.qr, clipboard: args.clipboard, rows_before: chosen + asked }
    }

    /// Copies a code or an address, if requested, and reports whether it was.
    pub(super) fn copy(&self, text: &str) -> bool {
        if !self.clipboard {
            return false;
        }
        let inside = |name: &str| variable(name).is_some();
        let multiplexer = match () {
            () if inside("TMUX") => Some(Multiplexer::Tmux),
            () if inside("STY") => Some(Multiplexer::Screen),
            () => None,
        };
        terminal::copy(&printable(text), multiplexer);
        true
    }

    /// Shows where to approve the login, with a QR code if all of it fits.
    pub(super) fn show(&self, waiting: &Waiting) -> Result<()> {
        let copied = self.copy(if waiting.user_code.is_empty() { waiting.url } else { waiting.user_code });
        let is_web = ["http://", "https://"].iter().any(|scheme| waiting.url.starts_with(scheme));
        let wanted = match self.qr {
            Qr::Never => None,
            Qr::Auto if !stderr().is_terminal() => None,
            Qr::Auto | Qr::Always => is_web.then(|| Code::of(&printable(waiting.url))).transpose()?,
        };
        if let Some(code) = &wanted
            && self.qr == Qr::Auto
        {
            if let Some(side) = self.beside(code, waiting, copied) {
                draw_with(code, waiting, &side);
                return Ok(());
            }
            if !self.fits_above(code, waiting) {
                say_remarks(waiting);
                say_text(waiting, copied);
                terminal::say("(the terminal is too small for the QR code; `--qr always` draws it anyway)");
                return Ok(());
            }
        }
        say_remarks(waiting);
        if let Some(code) = &wanted {
            code.lines(Screen::stderr().shows_color()).for_each(|line| terminal::print(&line));
        }
        say_text(waiting, copied);
        Ok(())
    }

    /// The text next to the code, if the screen has space for both and for what is above and below.
    fn beside(&self, code: &Code, waiting: &Waiting, copied: bool) -> Option<Vec<String>> {
        let (height, width) = terminal::size();
        let room = width.checked_sub(code.columns() + GAP + 1).filter(|room| *room >= MIN_SIDE)?;
        let screen = Screen::stderr().narrowed(room);
        let shown = |text: &str| screen.wrap(&screen.translate(text), 0, 0);
        let mut side = shown("Scan the code, or open the address above on any device.");
        if !waiting.user_code.is_empty() {
            let code = printable(waiting.user_code);
            let lines = shown(&code_line(&code, copied));
            side.push(String::new());
            side.extend(lines.into_iter().map(|line| line.replacen(&code, &screen.paint(Style::Bold, &code), 1)));
        }
        side.push(String::new());
        side.extend(shown(&approval(waiting.host)));
        for remark in waiting.remarks {
            side.push(String::new());
            side.extend(shown(&printable(remark)));
        }
        let rows = self.rows_before + url_rows(waiting, width) + code.rows().max(side.len()) + BELOW;
        (rows <= height && side.iter().all(|line| line.width() <= room + 8)).then_some(side)
    }

    /// Whether the code and the text below it fit.
    fn fits_above(&self, code: &Code, waiting: &Waiting) -> bool {
        let (height, width) = terminal::size();
        let screen = Screen::stderr();
        let remarks: usize = waiting.remarks.iter().map(|remark| screen.message(None, remark).lines().count()).sum();
        // The blank lines of `say_text` count as well.
        let approval = screen.translate(&approval(waiting.host));
        let text = 7 + url_rows(waiting, width) + screen.wrap(&approval, 0, 0).len();
        code.columns() < width && self.rows_before + remarks + code.rows() + text + BELOW <= height
    }
}

fn url_rows(waiting: &Waiting, width: usize) -> usize {
    printable(waiting.url).width().div_ceil(width.max(1))
}

fn code_line(code: &str, copied: bool) -> String {
    if copied { format!("Code: {code} (copied to the clipboard)") } else { format!("Code: {code}") }
}

fn approval(host: &str) -> String {
    format!("{host} asks you to approve this login. Approve only if you started this login.")
}

fn draw_with(code: &Code, waiting: &Waiting, side: &[String]) {
    terminal::print(&printable(waiting.url));
    let blank = " ".repeat(code.columns());
    let mut lines = code.lines(Screen::stderr().shows_color());
    for row in 0..code.rows().max(side.len()) {
        let left = lines.next().unwrap_or_else(|| blank.clone());
        let right = side.get(row).map(String::as_str).unwrap_or_default();
        terminal::print(format!("{left}{}{right}", " ".repeat(GAP)).trim_end());
    }
}

fn say_remarks(waiting: &Waiting) {
    for remark in waiting.remarks {
        note(remark);
    }
}

fn say_text(waiting: &Waiting, copied: bool) {
    terminal::say("Open this address on any device:\n\n");
    terminal::say(&printable(waiting.url));
    if !waiting.user_code.is_empty() {
        terminal::say(&format!("\n{}", code_line(&printable(waiting.user_code), copied)));
    }
    terminal::say(&format!("\n{}", approval(waiting.host)));
}
