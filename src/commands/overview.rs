//! What `qwenauth` alone shows: where to start, on one screen of 80x24.

use std::io::Write;

use clap::CommandFactory;

use crate::cli::Cli;
use crate::say::{Screen, Style, cell};

/// The commands that a newcomer needs.
const FIRST: [&str; 7] = ["login", "status", "exec", "setup", "providers", "doctor", "sandbox"];

/// Columns of the names.
const NAME: usize = 10;

pub(crate) fn run() {
    // Ignored: stderr is closed and there is nowhere else to report it.
    let _ = std::io::stderr().write_all(text(Screen::stderr()).as_bytes());
}

fn text(screen: Screen) -> String {
    let root = Cli::command();
    let said = |text: &str, lead: usize| screen.wrap(&screen.translate(text), lead, lead).join("\n") + "\n";
    let about = |command: &clap::Command| command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut text = said(&about(&root), 0) + "\n";
    for command in FIRST.into_iter().filter_map(|name| root.find_subcommand(name)) {
        let name = screen.paint(Style::Bold, &cell(command.get_name(), NAME));
        text += &format!("  {name} {}", said(&about(command), NAME + 3));
    }
    text.push('\n');
    for remark in [
        "Start with `qwenauth login`, or without an account: `qwenauth sandbox --tour`.",
        "All commands: `qwenauth --help`",
    ] {
        text += &screen.paint_literals(&said(remark, 0));
    }
    text
}
