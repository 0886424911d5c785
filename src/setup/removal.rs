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
        let lines =
            |value: &Value| -> Vec<String> { format!("{:#}", masked(value)).lines().map(str::to_owned).collect() };
        let (written, now) = (lines(&self.value), lines(&now.unwrap_or_default()));
        let gone = written.iter().filter(|line| !now.contains(line)).map(|line| format!("- {line}"));
        let come = now.iter().filter(|line| !written.contains(line)).map(|line| format!("+ {line}"));
        let mut lines = vec![format!("  {}", self.place.name())];
        lines.extend(gone.chain(come));
        lines
    }
}

/// `value` without what the user may have added to our own: a key.
fn masked(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let secret = |key: &str| {
                let key = key.to_ascii_lowercase();
                ["key", "token", "secret", "password", "authorization"].iter().any(|word| key.contains(word))
            };
            let mask = |(key, value): (&String, &Value)| {
                let masked = match value {
                    Value::String(_) if secret(key) && key != "envKey" => "…".into(),
                    _ => masked(value),
                };
                (key.clone(), masked)
            };
            Value::Object(fields.iter().map(mask).collect::<Map<_, _>>())
        }
        Value::Array(elements) => elements.iter().map(masked).collect(),
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_is_masked_at_any_depth_and_the_name_of_a_variable_is_not() {
        let edited = json!([{ "envKey": "NAME", "apiKey": "sk-1", "n": [[{ "Authorization": "sk-2", "tokens": 7 }]] }]);
        let shown = json!([{ "envKey": "NAME", "apiKey": "…", "n": [[{ "Authorization": "…", "tokens": 7 }]] }]);
        assert_eq!(masked(&edited), shown);
    }
}
