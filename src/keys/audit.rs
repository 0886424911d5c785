//! audit.jsonl: one line for each change of a key. It never contains a key.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::KeyRecord;
use crate::platform::{disk, files, system};

/// How much of the end of the file is also sent to the shared server, if it is not there yet.
const SHARED: u64 = 256 * 1024;

/// The last lines, each with the revision of keys.json that it produced.
pub(crate) fn last_lines(path: &Path) -> Vec<(u64, String)> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = disk::open_to_read(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(SHARED)))?;
        let mut end = Vec::new();
        file.take(SHARED).read_to_end(&mut end)?;
        Ok(end)
    };
    let end = read().unwrap_or_default();
    let line = |line: &[u8]| {
        let text = std::str::from_utf8(line).ok()?;
        let fields: Value = serde_json::from_str(text).ok()?;
        Some((fields["revision"].as_u64()?, text.to_owned()))
    };
    end.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// One change: who did what to which key.
pub(crate) struct Audit<'change> {
    /// The revision of keys.json after it.
    pub(crate) revision: u64,
    pub(crate) verb: &'static str,
    pub(crate) key: &'change KeyRecord,
    /// What differs from before, with the field names of keys.json.
    pub(crate) changes: Value,
}

impl Audit<'_> {
    /// The line without its newline.
    fn line(&self, now: SystemTime) -> String {
        let time = jiff::Timestamp::try_from(now).map(|time| format!("{time:.3}")).unwrap_or_default();
        let Self { revision, verb, key, changes } = self;
        json!({
            "time": time,
            "revision": revision,
            "who": system::who(),
            "verb": verb,
            "key": key.id,
            "name": key.name,
            "changes": changes,
        })
        .to_string()
    }

    /// Appends the line durably: the change without a trace would be the one that an auditor looks for.
    pub(super) fn write(&self, path: &Path, now: SystemTime) -> Result<()> {
        let mut file = files::open_to_append(path)?;
        // Starts with a newline, so that a line that a full disk truncated does not corrupt it.
        let line = format!("\n{}\n", self.line(now));
        file.write_all(line.as_bytes())
            .and_then(|()| file.sync_data())
            .with_context(|| format!("cannot append to `{}`", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_the_whole_ones_of_the_last_256_kib() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        assert_eq!(last_lines(&path), []);
        let line = |revision: u64| format!("{{\"revision\":{revision},\"verb\":\"{}\"}}", "x".repeat(1000));
        let text: String = (1..=500).map(|revision| format!("\n{}\n", line(revision))).collect();
        let file = disk::create_new(&path).unwrap();
        disk::write_all_at(&file, format!("{text}{{\"rev").as_bytes(), 0).unwrap();
        let revisions: Vec<u64> = last_lines(&path).iter().map(|(revision, _)| *revision).collect();
        // Of the first line the newline before it may be missing.
        let whole = (256 * 1024 - 5 + 1) / (line(500).len() as u64 + 2);
        assert_eq!(revisions, (501 - whole..=500).collect::<Vec<_>>());
        assert_eq!(last_lines(&path).pop(), Some((500, line(500))));
    }
}
