//! `doctor`: diagnoses login problems, one line per check, each with its fix.
//!
//! Hazard: its output is pasted into public threads. Rule: no check sees a secret it could print, and the home directory
//! is shown as `~`.

mod environment;
mod installed;
mod keys;
mod leftovers;
mod network;
mod providers;
mod proxy;
mod service;
mod storage;
mod team;

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::{print, print_document};
use crate::cli::DoctorArgs;
use crate::credentials::CredentialSource;
use crate::environment::Environment;
use crate::error::{Report, printable, shown};
use crate::paths::{self, Paths};
use crate::say::{Screen, Style, cell};
use crate::session::Session;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }

    /// `✓`, `!` or `✗` where they can be shown, else the name.
    fn mark(self, screen: Screen) -> String {
        let (style, mark) = match self {
            Self::Ok => (Style::Success, "✓"),
            Self::Warn => (Style::Warning, "!"),
            Self::Fail => (Style::Error, "✗"),
        };
        if screen.shows_marks() { screen.paint(style, mark) } else { screen.paint(style, &cell(self.name(), 5)) }
    }
}

/// The outcome of one check.
struct Check {
    name: &'static str,
    verdict: Verdict,
    message: String,
    remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, message: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, message: message.into(), remedy: None }
    }

    fn warn(name: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, message: message.into(), remedy: Some(remedy.into()) }
    }

    fn fail(name: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, message: message.into(), remedy: Some(remedy.into()) }
    }

    /// What was wrong and has been repaired.
    fn fixed(name: &'static str, message: impl Into<String>) -> Self {
        Self::ok(name, format!("fixed: {}", message.into()))
    }

    fn json(&self, home: &Path) -> Value {
        json!({
            "name": self.name,
            "status": self.verdict.name(),
            "message": without_home(&shown(&self.message), home),
            "remedy": self.remedy.as_ref().map(|remedy| without_home(&own(remedy), home)),
        })
    }

    /// Two lines: mark, name and message; the remedy.
    fn text(&self, home: &Path, screen: Screen) -> String {
        const NAME: usize = 12;
        let mark = self.verdict.mark(screen);
        let indent = if screen.shows_marks() { 2 } else { 6 } + NAME + 1;
        let message = screen.wrap(&without_home(&shown(&self.message), home), indent, indent).join("\n");
        let mut text = format!("{mark} {} {}\n", cell(self.name, NAME), screen.paint_literals(&message));
        if let Some(remedy) = &self.remedy {
            for (at, line) in screen.wrap(&without_home(&own(remedy), home), indent + 2, indent + 2).iter().enumerate()
            {
                let lead = if at == 0 { format!("{}→ ", " ".repeat(indent)) } else { String::new() };
                text += &format!("{lead}{}\n", screen.paint(Style::Hint, line));
            }
        }
        text
    }
}

/// `1 problem, 2 warnings`.
fn sum(checks: &[Check], screen: Screen) -> String {
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let said = |count: usize, what: &str| match count {
        0 => None,
        1 => Some(format!("1 {what}")),
        more => Some(format!("{more} {what}s")),
    };
    let (problems, warnings) = (said(count(Verdict::Fail), "problem"), said(count(Verdict::Warn), "warning"));
    let style = match (&problems, &warnings) {
        (Some(_), _) => Style::Error,
        (None, Some(_)) => Style::Warning,
        (None, None) => Style::Success,
    };
    let parts: Vec<String> = problems.into_iter().chain(warnings).collect();
    let sum = if parts.is_empty() { "no problem found".to_owned() } else { parts.join(", ") };
    format!("\n{}\n", screen.paint(style, &sum))
}

pub(crate) fn run(args: &DoctorArgs, session: impl FnOnce() -> Result<Session>) -> Result<u8> {
    let environment = Environment::read();
    let home = paths::home(&environment).unwrap_or_default();
    let directories = Paths::of(&environment).map(|paths| storage::directories(&paths, args.fix)).unwrap_or_default();
    let checks = match session() {
        Ok(session) => {
            let mut checks = vec![Check::ok("version", concat!("qwenauth ", env!("CARGO_PKG_VERSION")))];
            checks.extend(installed::check());
            let is_active =
                |source: &CredentialSource| Check::ok("config", format!("profile `{}` is active", source.profile));
            checks.extend(active(&session).as_ref().map(is_active));
            checks.extend(directories);
            checks.extend(storage::check(&session, args.fix));
            checks.extend(providers::check(&session, &checks));
            checks.extend(keys::check(&session));
            checks.extend(environment::check(&session));
            checks.extend(service::check(&session));
            checks.extend(network::check(&session));
            if args.team {
                checks.extend(team::check(&session));
            }
            checks
        }
        Err(error) => {
            let report = Report::of(&error);
            let remedy = report.hint.unwrap_or_else(|| "fix this first; the remaining checks were skipped".into());
            directories.into_iter().chain([Check::fail("config", report.message, remedy)]).collect()
        }
    };
    if args.json {
        let rows: Vec<Value> = checks.iter().map(|check| check.json(&home)).collect();
        print_document(&json!({"schema": 1, "checks": rows}))?;
    } else {
        let screen = Screen::stdout();
        let mut text: String = checks.iter().map(|check| check.text(&home, screen)).collect();
        if screen.width().is_some() {
            text += &sum(&checks, screen);
        }
        print(&text)?;
    }
    Ok(u8::from(checks.iter().any(|check| check.verdict == Verdict::Fail)))
}

/// What commands use: the credential in the environment, else the active profile. `None`: the one in the environment is
/// unusable, or nobody has logged in; each has a check of its own.
fn active(session: &Session) -> Option<CredentialSource> {
    if session.is_unused() {
        return None;
    }
    let stored = || session.credential_variable().is_none().then(|| session.source_of(&session.profile));
    session.source().ok().or_else(stored)
}

/// Every profile and the credential in the environment, each with whether commands use it.
fn sources(session: &Session) -> Result<Vec<(CredentialSource, bool)>> {
    let given = session.credential_variable();
    let mut names = session.profiles()?;
    if given.is_none() && !names.contains(&session.profile) {
        names.push(session.profile.clone());
    }
    let stored = names.iter().map(|name| (session.source_of(name), given.is_none() && *name == session.profile));
    Ok(stored.chain(given.and_then(|_| active(session)).map(|source| (source, true))).collect())
}

/// A remedy without the advice to run the command that is running.
fn own(remedy: &str) -> String {
    printable(remedy).replace(", as `qwenauth doctor` does", "").replace(", or run `qwenauth doctor`", "")
}

fn without_home(text: &str, home: &Path) -> String {
    match home.to_str().filter(|home| home.len() > 1) {
        // In quotes, a shell would not expand `~` to the home directory.
        Some(home) => {
            let text = text.replace(&format!("'{home}/"), "~/'").replace(&format!("{home}/"), "~/");
            // Not a part of another name: `/home/ann` of `/home/ann-data`.
            let ends = |at: usize| {
                text[at..].chars().next().is_none_or(|next| !next.is_alphanumeric() && !"-_.".contains(next))
            };
            let mut shown = String::new();
            let mut rest = 0;
            for (at, found) in text.match_indices(home).filter(|(at, found)| ends(at + found.len())) {
                shown += &text[rest..at];
                shown.push('~');
                rest = at + found.len();
            }
            shown + &text[rest..]
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_directory_is_shown_as_a_tilde_and_no_part_of_another_name() {
        let shown = |text: &str| without_home(text, Path::new("/home/ann"));
        for (text, expected) in [
            ("run `chmod 600 /home/ann/.qwen/a`", "run `chmod 600 ~/.qwen/a`"),
            ("run `rm '/home/ann/a b'`", "run `rm ~/'a b'`"),
            ("`/home/ann` is readable", "`~` is readable"),
            ("below /home/ann", "below ~"),
            ("`/home/ann-data/a`, `/home/anna`, /home/ann.old", "`/home/ann-data/a`, `/home/anna`, /home/ann.old"),
        ] {
            assert_eq!(shown(text), expected);
        }
        assert_eq!(without_home("/a", Path::new("/")), "/a");
    }
}
