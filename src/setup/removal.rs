//! Undoes a set-up; and shows what has been edited since, as the lines that differ.
//!
//! Hazard: a manual edit is lost with the key that was edited, and may contain an API key. Rule: it is shown first,
//! masked, and is removed only with the user's consent.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value};

use super::document::ConfigDocument;
use super::record::{self, Restored, SetupRecord, Written};
use super::{Tool, target};
use crate::platform::files::{self, PendingFile, Privacy};

pub(crate) enum Removed {
    Done(PathBuf),
    /// There is nothing to undo.
    NotSetUp,
    /// Someone has edited what was written; the file was left alone.
    Edited(PathBuf, Vec<String>),
}

/// Undoes what [`super::Plan::apply`] did. `force`: also where someone has edited it since.
pub(crate) fn remove(tool: &Tool, state: &Path, force: bool) -> Result<Removed> {
    let _lock = target::lock(state)?;
    let Some(record) = record::load(state, tool.name)? else { return Ok(Removed::NotSetUp) };
    let edits = undo(&record, (state, tool), force)?;
    if !edits.is_empty() {
        return Ok(Removed::Edited(record.file, edits));
    }
    record::remove(state, tool.name)?;
    Ok(Removed::Done(record.file))
}

/// Undoes what `record` of a tool notes, or returns what someone has edited of it, with everything left as it is.
pub(super) fn undo(record: &SetupRecord, (state, tool): (&Path, &Tool), force: bool) -> Result<Vec<String>> {
    record.check_paths(state, tool.name)?;
    let current = target::read(&record.file)?;
    let mut edits = companion_edits(record)?;
    let text = match (record.restored(current.as_deref())?, &current) {
        (_, None) => None,
        (Restored::Exactly(text), _) => text,
        (Restored::Edited, Some(current)) => {
            let mut document = ConfigDocument::parse(current, target::syntax_of(&record.file), &record.file)?;
            edits.extend(record.entries.iter().flat_map(|entry| entry.edits(&document)));
            for entry in record.entries.iter().rev() {
                entry.undo(&mut document)?;
            }
            Some(document.to_text()).filter(|text| !record.has_made(&record.file) || !is_empty(text))
        }
    };
    if !edits.is_empty() && !force {
        return Ok(edits);
    }
    target::check_writable(&record.file)?;
    match text {
        Some(text) => PendingFile::reserve(&record.file, text.len(), Privacy::Open)?.write(text.as_bytes())?,
        None => drop(files::remove(&record.file, Privacy::Open)?),
    }
    for companion in &record.companions {
        files::remove(&companion.file, Privacy::Open)?;
    }
    files::remove(&target::backup(&record.file)?, Privacy::Open)?;
    target::remove_empty(&record.made);
    Ok(Vec::new())
}

/// Neither a key nor a comment.
fn is_empty(text: &str) -> bool {
    text.chars().all(|character| character.is_whitespace() || "{}".contains(character))
}

fn companion_edits(record: &SetupRecord) -> Result<Vec<String>> {
    let mut edits = Vec::new();
    for companion in &record.companions {
        if target::read(&companion.file)?.is_some_and(|text| !record.wrote(&companion.file, &text)) {
            edits.push(format!("  `{}` has been edited", companion.file.display()));
        }
    }
    Ok(edits)
}

impl Written {
    /// The lines in which the current values differ from what was written; none if nothing was edited.
    pub(super) fn edits(&self, document: &ConfigDocument) -> Vec<String> {
        let now = document.get(&self.place);
        if now.as_ref() == Some(&self.value) || now == self.before || now.is_none() {
            return Vec::new();
        }
        let lines = |value: &Value| -> Vec<String> { format!("{value:#}").lines().map(str::to_owned).collect() };
        let may_be_secret = self.place.path.iter().any(|name| may_hold_secret(name));
        let now = masked(&now.unwrap_or_default(), &texts_of(&self.value), may_be_secret);
        let (written, now) = (lines(&self.value), lines(&now));
        let gone = written.iter().filter(|line| !now.contains(line)).map(|line| format!("- {line}"));
        let come = now.iter().filter(|line| !written.contains(line)).map(|line| format!("+ {line}"));
        let mut lines = vec![format!("  {}", self.place.name())];
        lines.extend(gone.chain(come));
        lines
    }
}

/// `value` without what the user may have added to `ours`: a key, a header, a variable.
fn masked(value: &Value, ours: &[&str], may_be_secret: bool) -> Value {
    match value {
        Value::Object(fields) => {
            let mask = |(name, value): (&String, &Value)| {
                (name.clone(), masked(value, ours, may_be_secret || may_hold_secret(name)))
            };
            Value::Object(fields.iter().map(mask).collect::<Map<_, _>>())
        }
        Value::Array(elements) => elements.iter().map(|value| masked(value, ours, may_be_secret)).collect(),
        Value::String(text) if may_be_secret && !ours.contains(&text.as_str()) => "…".into(),
        _ => value.clone(),
    }
}

/// Whether texts in or below the field `name` may be secret: `env` is a tool's environment, `args` a command's.
fn may_hold_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let words = ["key", "token", "secret", "password", "authorization", "header", "query", "cookie"];
    name != "envkey" && (name == "env" || name == "args" || words.iter().any(|word| name.contains(word)))
}

/// All texts in `value`.
fn texts_of(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(fields) => fields.values().flat_map(texts_of).collect(),
        Value::Array(elements) => elements.iter().flat_map(texts_of).collect(),
        Value::String(text) => vec![text],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::setup::document::{KeyPath, Syntax};

    #[test]
    fn a_key_is_masked_at_any_depth_and_the_name_of_a_variable_is_not() {
        let edited = json!([{ "envKey": "NAME", "apiKey": "sk-1", "n": [[{ "Authorization": "sk-2", "tokens": 7 }]] }]);
        let shown = json!([{ "envKey": "NAME", "apiKey": "…", "n": [[{ "Authorization": "…", "tokens": 7 }]] }]);
        assert_eq!(masked(&edited, &[], false), shown);
    }

    #[test]
    fn a_secret_of_the_user_in_place_of_our_own_is_not_shown() {
        let edits = |place: &[&str], written: Value, now: &str| {
            let written = Written { place: KeyPath::key(place), value: written, before: None, depth: 0 };
            written.edits(&ConfigDocument::parse(now, Syntax::Json, Path::new("f")).unwrap())
        };
        let now = r#"{"env": {"ANTHROPIC_CUSTOM_HEADERS": "X: sk-1"}, "apiKeyHelper": "echo sk-2"}"#;
        assert_eq!(
            edits(&["env", "ANTHROPIC_CUSTOM_HEADERS"], json!(""), now),
            ["  env.ANTHROPIC_CUSTOM_HEADERS", "- \"\"", "+ \"…\""]
        );
        assert_eq!(edits(&["apiKeyHelper"], json!("ours"), now), ["  apiKeyHelper", "- \"ours\"", "+ \"…\""]);
        let now = r#"{"p": {"auth": {"command": "ours", "args": ["a", "sk-3"], "timeout_ms": 5}, "name": "N"}}"#;
        let written = json!({"auth": {"command": "ours", "args": ["a"], "timeout_ms": 1}, "name": "M"});
        let shown = edits(&["p"], written, now).join("\n");
        assert!(!shown.contains("sk-3"), "{shown}");
        assert!(shown.contains("+     \"timeout_ms\": 5") && shown.contains("+   \"name\": \"N\""), "{shown}");
    }
}
