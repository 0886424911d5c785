//! What the tool will see of a set-up: read back as the tool reads it, with its other files that would take precedence.
//!
//! Hazard: a set-up that is written and ignored looks complete. Rule: nothing is written that the tool would not use.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use super::Plan;
use super::document::{ConfigDocument, KeyPath};
use super::target::{self, syntax_of};
use crate::error::{Failed, Failure, printable};

/// A setting of the tool's that decides whether ours counts.
pub(super) struct Check {
    pub(super) file: PathBuf,
    pub(super) place: KeyPath,
    pub(super) rule: Rule,
    /// The file counts in one directory only: the user is informed, and the set-up continues.
    pub(super) is_local: bool,
}

pub(super) enum Rule {
    /// If there is such a list, it has to contain this.
    Lists(&'static str),
    /// If there is such a list, it must not contain this.
    DoesNotList(&'static str),
    /// If it is set, it has to be this.
    Is(Value),
    Unset,
}

impl Plan {
    /// Errors: the tool would ignore what is to be written. Returns what the user has to know about single directories.
    pub(super) fn check(&self, text: &str) -> Result<Vec<String>> {
        let document = ConfigDocument::parse(text, self.syntax, &self.file)?;
        for (place, value) in &self.entries {
            if document.get(place).as_ref() != Some(value) {
                let sentence = format!("`{}` in `{}` cannot be set", place.name(), self.file.display());
                return Failed::new(Failure::Other, sentence).hint("paste what `--print` shows").err();
            }
        }
        let mut notes = Vec::new();
        for check in &self.checks {
            let found = if check.file == self.file { document.get(&check.place) } else { check.found() };
            let Some(what) = found.and_then(|found| check.rule.broken_by(&found)) else { continue };
            let sentence = format!("`{}` in `{}` {what}", check.place.name(), check.file.display());
            if check.is_local {
                notes.push(format!("in this directory the tool ignores the configuration: {sentence}"));
                continue;
            }
            return Failed::new(
                Failure::Other,
                format!("{sentence}: the configuration would be ignored; nothing was changed"),
            )
            .hint(check.rule.remedy())
            .err();
        }
        Ok(notes)
    }
}

impl Check {
    pub(super) fn new(file: &Path, path: &[&str], rule: Rule) -> Self {
        Self { file: file.to_owned(), place: KeyPath::key(path), rule, is_local: false }
    }

    /// A file that cannot be read as the tool reads it decides nothing.
    fn found(&self) -> Option<Value> {
        let text = target::read(&self.file).ok().flatten()?;
        ConfigDocument::parse(&text, syntax_of(&self.file), &self.file).ok()?.get(&self.place)
    }
}

impl Rule {
    /// What is wrong with `found`.
    fn broken_by(&self, found: &Value) -> Option<String> {
        let lists = |name: &str| found.as_array().is_some_and(|list| list.iter().any(|entry| entry == name));
        match self {
            Self::Lists(name) if found.is_array() && !lists(name) => Some(format!("does not list `{name}`")),
            Self::DoesNotList(name) if lists(name) => Some(format!("lists `{name}`")),
            Self::Is(wanted) if found != wanted => Some(format!("is `{}`", shown(found))),
            Self::Unset if found != "" => Some("is set and takes precedence".into()),
            _ => None,
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::Lists(name) => format!("add `{name}` to that list, or remove the list"),
            Self::DoesNotList(name) => format!("remove `{name}` from that list"),
            Self::Is(wanted) => format!("remove that setting, or set it to `{}`", shown(wanted)),
            Self::Unset => "remove that setting".into(),
        }
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), printable)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_setting_that_wins_is_named_with_what_to_do() {
        let wanted = json!("ours");
        for (rule, fine, broken, why, remedy) in [
            (
                Rule::Lists("q"),
                json!(["q", "x"]),
                json!(["x"]),
                "does not list `q`",
                "add `q` to that list, or remove the list",
            ),
            (Rule::DoesNotList("q"), json!(["x"]), json!(["q"]), "lists `q`", "remove `q` from that list"),
            (
                Rule::Is(wanted),
                json!("ours"),
                json!("theirs"),
                "is `theirs`",
                "remove that setting, or set it to `ours`",
            ),
            (Rule::Unset, json!(""), json!("x"), "is set and takes precedence", "remove that setting"),
        ] {
            assert_eq!(rule.broken_by(&fine), None);
            assert_eq!(rule.broken_by(&broken).as_deref(), Some(why));
            assert_eq!(rule.remedy(), remedy);
        }
    }
}
