//! `status` as a person sees it: a line for the profile and one for each fact.

use std::path::Path;
use std::time::SystemTime;

use super::{Row, resets_at};
use crate::commands::ago;
use crate::credentials::{Kind, State};
use crate::epoch;
use crate::error::printable;
use crate::say::{Screen, Style, cell, columns, in_words};

/// Columns of the labels, at least.
const LABEL: usize = 10;

impl Row {
    /// On a terminal a path below the home directory is shortened.
    pub(super) fn text(&self, screen: Screen, home: &Path) -> String {
        let facts = self.facts(screen, home);
        let labels: Vec<String> = facts.iter().map(|(label, _)| screen.translate(label)).collect();
        let width = labels.iter().map(|label| columns(label)).fold(LABEL, usize::max);
        let mut lines = vec![self.head(screen)];
        for ((label, value), shown) in facts.iter().zip(labels) {
            let value = screen.translate(&printable(value));
            let mut wrapped = screen.wrap(&value, width + 4, width + 4).into_iter();
            let first = wrapped.next().unwrap_or_default();
            let first = match (*label, self.checked) {
                ("API", Some("accepted")) => screen.paint(Style::Success, &first),
                ("API", Some(_)) => screen.paint(Style::Error, &first),
                ("file", _) => screen.paint(Style::Dim, &first),
                _ => screen.paint_literals(&first),
            };
            lines.push(format!("  {}  {first}", screen.paint(Style::Dim, &cell(&shown, width))).trim_end().to_owned());
            lines.extend(wrapped.map(|line| screen.paint_literals(&line)));
        }
        lines.join("\n") + "\n"
    }

    fn head(&self, screen: Screen) -> String {
        let usable = matches!(self.state, State::Valid | State::Refreshable) && self.problems.is_empty();
        let (style, sign) = if usable { (Style::Success, "✓ ") } else { (Style::Error, "✗ ") };
        let name = if self.active { format!("{} (active)", self.profile) } else { self.profile.clone() };
        let place = printable(self.place.as_deref().unwrap_or(&self.provider));
        let (mark, head) = if screen.shows_marks() {
            (screen.paint(style, sign), format!("{} · {}", screen.translate(&name), screen.translate(&place)))
        } else {
            (String::new(), screen.translate(&format!("{name}: {place}")))
        };
        let lines = screen.wrap(&head, columns(&mark).min(2), 2);
        mark + &lines.iter().map(|line| screen.paint(Style::Bold, line)).collect::<Vec<_>>().join("\n")
    }

    /// Each label with its value, in English.
    fn facts(&self, screen: Screen, home: &Path) -> Vec<(&'static str, String)> {
        let mut facts = vec![("credential", self.credential())];
        let is_kept = matches!(self.state, State::Valid | State::Refreshable);
        if let Some(checked) = self.checked {
            // `checked` of JSON has the older word.
            facts.push(("API", if checked == "refused" { "rejected" } else { checked }.to_owned()));
        } else if is_kept && self.problems.is_empty() {
            facts.push(("API", "not checked (use `--check`)".to_owned()));
        }
        for (label, value) in [("base URL", &self.base_url), ("model", &self.model)] {
            facts.extend(value.clone().map(|value| (label, value)));
        }
        if let Some(path) = &self.path {
            let below =
                Path::new(path).strip_prefix(home).ok().filter(|_| screen.width().is_some() && home.parent().is_some());
            facts.push(("file", below.map_or_else(|| path.clone(), |below| format!("~/{}", below.display()))));
        }
        facts.extend(self.identity.clone().map(|identity| ("from", identity)));
        if let Some(variable) = self.variable {
            facts.push(("from", format!("`{variable}` in the environment, used before any stored credential")));
        }
        for limit in &self.limits {
            let name = limit.cause.limit_name();
            let what = match &limit.model {
                Some(model) => format!("{name} of {model}: used up"),
                None => format!("{name}: used up"),
            };
            let resets = limit.resets_at.and_then(epoch::from_seconds);
            let left = resets.and_then(|at| at.duration_since(SystemTime::now()).ok());
            facts.push((
                "limit",
                match left.filter(|_| screen.width().is_some()) {
                    Some(left) => format!("{what}, resets in {}", in_words(left)),
                    None => resets_at(limit).map_or(what.clone(), |at| format!("{what}, resets {at}")),
                },
            ));
        }
        facts.extend(self.left_of.iter().map(|left| ("limit", left.clone())));
        facts.extend(self.problems.iter().map(|problem| ("problem", problem.clone())));
        facts.extend(self.fix.clone().map(|fix| ("fix", fix)));
        if !self.overridden_by.is_empty() {
            let names = self.overridden_by.join(", ");
            facts.push(("note", format!("set in your shell, and take precedence: {names}")));
        }
        facts
    }

    /// What is stored and how long it lasts.
    fn credential(&self) -> String {
        // What the API rejects is good for nothing, however long it lasts.
        let left = self.left.filter(|_| !self.is_rejected).map(in_words);
        let state = match self.state {
            // Its address is the problem: no server has rejected it.
            State::Refused if self.base_url.is_none() && (left.is_some() || self.kind == Kind::ApiKey) => State::Valid,
            State::Refused if self.base_url.is_none() => State::Expired,
            state => state,
        };
        match (state, left) {
            (State::Missing, _) => match self.store.as_deref() {
                Some("keyring") => "in the keyring, which cannot be read".to_owned(),
                Some(command) => format!("by {command}, which gave no key"),
                None => "not stored".to_owned(),
            },
            (State::Damaged, _) if self.is_unreadable => "cannot be read".to_owned(),
            (State::Damaged, _) => "damaged".to_owned(),
            (State::Refused, Some(left)) => format!("rejected, {left} left"),
            (State::Refused, None) => match &self.key {
                Some(key) => format!("API key {key}, rejected"),
                None => "rejected".to_owned(),
            },
            (State::Refreshable, _) if self.identity.is_some() => {
                "no token is stored; each command requests one".to_owned()
            }
            (State::Refreshable, _) => "access token, expired; renews automatically on next use".to_owned(),
            (State::Expired, _) => "access token, expired".to_owned(),
            (State::Valid, _) if self.kind == Kind::ApiKey => {
                let Some(key) = &self.key else { return "none (the server needs no key)".to_owned() };
                match self.created_at.as_deref().and_then(ago) {
                    Some(ago) => format!("API key {key}, stored {ago} ago"),
                    None => format!("API key {key}"),
                }
            }
            (State::Valid, Some(left)) if self.is_renewable => {
                format!("access token, {left} left; renews automatically")
            }
            (State::Valid, Some(left)) => format!("access token, {left} left; cannot be renewed"),
            (State::Valid, None) => "access token".to_owned(),
        }
    }
}
