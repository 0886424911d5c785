//! `qwenauth man DIRECTORY`: write the manual pages, one per command and per command of a command.
//!
//! The text is that of `--help`, so that it is written once; only what does not fit into help is here.

use std::path::Path;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::Cli;
use crate::platform::files::{PendingFile, Privacy};

/// Sections of the main page, in the form of the help's own: a heading, then terms and texts.
const MAIN: &str = "\
Files:
  $QWEN_HOME/oauth_creds.json
      the Qwen OAuth login (default: `~/.qwen/oauth_creds.json`), shared with Qwen Code
  $XDG_DATA_HOME/qwenauth/credentials/NAME.json
      every other profile (default: below `~/.local/share`)
  $XDG_CONFIG_HOME/qwenauth/config.toml
      the configuration (default: below `~/.config`)
  $XDG_STATE_HOME/qwenauth/
      pending logins and the markers of rejected tokens (default: below `~/.local/state`)

With `QWENAUTH_HOME` set, the last three are in its directories `data`, `config` and `state`.
Directories are created with mode 0700 and files with 0600, regardless of the umask.

Examples:
  qwenauth sandbox --tour           a tour without an account or network
  qwenauth login                    then, in any shell or script:
  qwenauth exec -- opencode
  eval $(qwenauth env)
  qwenauth exec -- sh -c 'qwenauth token --format header |
    curl -H @- \"$OPENAI_BASE_URL/models\"'";

pub(crate) fn run(directory: &Path) -> Result<()> {
    let main = main_command();
    std::fs::create_dir_all(directory).with_context(|| format!("cannot create `{}`", directory.display()))?;
    let commands = with_a_page(&main);
    for command in &commands {
        let others = commands.iter().map(|other| page_name(other)).filter(|other| *other != page_name(command));
        let text = page(command, &others.collect::<Vec<_>>())?;
        let path = directory.join(format!("{}.1", page_name(command)));
        PendingFile::reserve(&path, text.len(), Privacy::Open)?.write(text.as_bytes())?;
    }
    Ok(())
}

fn main_command() -> Command {
    let mut main = Cli::command().disable_help_subcommand(true).subcommand_help_heading("COMMANDS");
    main.build();
    main
}

fn with_a_page(main: &Command) -> Vec<&Command> {
    let is_shown = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    let mut commands = vec![main];
    for command in main.get_subcommands().filter(is_shown) {
        commands.push(command);
        commands.extend(command.get_subcommands().filter(is_shown));
    }
    commands
}

/// `qwenauth-login` for `qwenauth login`.
fn page_name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn page(command: &Command, see_also: &[&str]) -> Result<String> {
    let is_main = page_name(command) == "qwenauth";
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let usage = command.clone().render_usage().to_string();
    let mut page = Roff::new();
    // No date: the page is the same whenever it is made. (A `Roff` control would drop the empty argument.)
    let title = format!(
        ".TH {} 1 \"\" \"qwenauth {}\" \"User Commands\"\n",
        page_name(command).to_uppercase(),
        env!("CARGO_PKG_VERSION")
    );
    page.control("SH", ["NAME"]).text([roman(format!("{} - {about}", page_name(command)))]);
    page.control("SH", ["SYNOPSIS"]).text([roman(usage.trim_start_matches("Usage: "))]);
    page.control("SH", ["DESCRIPTION"]).text([roman(format!("{about}."))]);
    let long = command.get_long_about().map(ToString::to_string).unwrap_or_default();
    sections(&mut page, long.lines().skip(1));
    let help = command.get_after_long_help().or_else(|| command.get_after_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    // Prose comes before the first heading, and options between the two.
    let headed = help.lines().position(is_heading).unwrap_or(usize::MAX);
    if headed > 0 && !help.is_empty() {
        page.control("PP", []);
    }
    sections(&mut page, help.lines().take(headed));

    // Of an option that `-h` leaves out, a page would have no text.
    let man = Man::new(command.clone().mut_args(|option| option.hide_short_help(false)));
    let mut options = Vec::new();
    man.render_options_section(&mut options)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut options)?;
    }

    let mut rest = Roff::new();
    sections(&mut rest, help.lines().skip(headed));
    if is_main {
        sections(&mut rest, MAIN.lines());
    }
    rest.control("SH", ["SEE ALSO"]);
    for (index, other) in see_also.iter().enumerate() {
        let comma = if index + 1 < see_also.len() { "," } else { "" };
        rest.text([bold(*other), roman(format!("(1){comma}"))]);
    }

    // Each part begins with the same definitions; a page needs them once.
    let definitions = Roff::new().render();
    let body = [page.render(), String::from_utf8(options)?, rest.render()].concat().replace(&definitions, "");
    Ok([definitions, title, embolden(&body)].concat())
}

/// The headings of help. Another line that ends in a colon introduces the lines below it.
const HEADINGS: [&str; 4] = ["Environment:", "Examples:", "Exit codes:", "Files:"];

fn is_heading(line: &str) -> bool {
    HEADINGS.contains(&line)
}

/// Help text: headings, examples and other code unchanged, prose, and lists of terms indented by two spaces, each with its
/// text after two more spaces or on lines indented further.
fn sections<'a>(page: &mut Roff, lines: impl Iterator<Item = &'a str>) {
    let mut in_code = false;
    let mut after_blank = false;
    for line in lines {
        if in_code && !line.starts_with(' ') && !line.is_empty() {
            page.control("fi", []);
            in_code = false;
        }
        if is_heading(line) {
            let title = if line == "Exit codes:" { "EXIT STATUS" } else { line.trim_end_matches(':') };
            page.control("SH", [title.to_uppercase().as_str()]);
            in_code = line == "Examples:";
            if in_code {
                page.control("nf", []);
            }
        } else if in_code {
            if !line.is_empty() {
                page.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
            }
        } else if let Some(entry) = line.strip_prefix("  ").filter(|entry| !entry.starts_with(' ')) {
            let (term, text) = entry.split_once("  ").unwrap_or((entry, ""));
            page.control("TP", []).text([bold(term)]);
            if !text.is_empty() {
                page.text([roman(text.trim_start())]);
            }
        } else if !line.is_empty() {
            if after_blank {
                page.control("PP", []);
            }
            page.text([roman(line.trim_start())]);
            in_code = line.ends_with(':') && !line.starts_with(' ');
            if in_code {
                page.control("nf", []);
            }
        }
        after_blank = line.is_empty();
    }
    if in_code {
        page.control("fi", []);
    }
}

/// Literals in backticks become bold, as usual in manual pages; a backtick would be rendered as a quotation mark.
fn embolden(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    for line in page.lines() {
        if line.starts_with('.') || line.matches('`').count() % 2 == 1 {
            text.push_str(line);
        } else {
            for (index, part) in line.split('`').enumerate() {
                let font = if index == 0 {
                    ""
                } else if index % 2 == 1 {
                    "\\fB"
                } else {
                    "\\fR"
                };
                text.push_str(font);
                text.push_str(part);
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Letters and digits, which neither fonts nor escapes nor line breaks change.
    fn plain(text: &str) -> String {
        let text = ["\\fB", "\\fI", "\\fR", "\\*(Aq"].iter().fold(text.to_owned(), |text, font| text.replace(font, ""));
        text.chars().filter(|character| character.is_alphanumeric()).collect()
    }

    #[test]
    fn no_option_is_without_a_text_and_a_page_has_all_that_help_has() {
        let main = main_command();
        for command in with_a_page(&main) {
            let name = page_name(command);
            let page = plain(&page(command, &[]).unwrap());
            let about = command.get_long_about().or_else(|| command.get_about());
            let after = command.get_after_long_help().or_else(|| command.get_after_help());
            let mut texts: Vec<String> = about.into_iter().chain(after).map(ToString::to_string).collect();
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let text = argument.get_long_help().or_else(|| argument.get_help());
                texts.push(text.unwrap_or_else(|| panic!("{name}: {} has no text", argument.get_id())).to_string());
            }
            for line in texts.iter().flat_map(|text| text.lines()).filter(|line| !is_heading(line)) {
                assert!(page.contains(&plain(line)), "{name} lacks: {line}");
            }
        }
    }

    #[test]
    fn a_line_that_introduces_others_is_no_heading() {
        let mut page = Roff::new();
        sections(
            &mut page,
            ["In a file:", "  a = 1", "", "Exit codes:", "  0  done,", "     that is:", "     no error"].into_iter(),
        );
        let text = page.render();
        assert!(
            text.ends_with(
                "In a file:\n.nf\na = 1\n.fi\n.SH \"EXIT STATUS\"\n.TP\n\\fB0\\fR\ndone,\nthat is:\nno error\n"
            ),
            "{text}"
        );
    }
}
