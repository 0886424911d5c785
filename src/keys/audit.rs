//! audit.jsonl: one line for each change of a key. Never a key.

use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::KeyRecord;
use crate::platform::{files, system};

/// One change: who did what to which key.
pub(crate) struct Audit<'change> {
    pub(crate) verb: &'static str,
    pub(crate) key: &'change KeyRecord,
    /// What is another than before, by the names of keys.json.
    pub(crate) changes: Value,
}

impl Audit<'_> {
    /// The line without its end, as it also goes to state that is shared.
    pub(crate) fn line(&self, now: SystemTime) -> String {
        let time = jiff::Timestamp::try_from(now).map(|time| format!("{time:.3}")).unwrap_or_default();
        let Self { verb, key, changes } = self;
        json!({
            "time": time,
            "who": system::who(),
            "verb": verb,
            "key": key.id,
            "name": key.name,
            "changes": changes,
        })
        .to_string()
    }

    /// Adds the line to the file, durably: a change that left no trace would be the one that somebody looks for.
    pub(super) fn write(&self, path: &Path, now: SystemTime) -> Result<()> {
        let mut file = files::open_to_append(path)?;
        // A line that a full disk cut short spoils no other.
        let line = format!("\n{}\n", self.line(now));
        file.write_all(line.as_bytes())
            .and_then(|()| file.sync_data())
            .with_context(|| format!("cannot add to `{}`", path.display()))
    }
}
