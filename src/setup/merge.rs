//! A plan merged into a tool's file, next to what its user keeps there.
//!
//! Hazard: a run that ends halfway leaves a file that cannot be restored. Rule: space for everything is reserved first,
//! and what will be written is recorded before it is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::document::ConfigDocument;
use super::record::{self, Restored, SetupRecord, Written};
use super::{Access, Companion, Plan, Tool, removal, target};
use crate::error::{Failed, Failure};
use crate::platform::files::{self, PendingFile, Privacy};
use crate::sha256::sha256;

/// The outcome of a merge.
pub(crate) struct Applied {
    pub(crate) changed: bool,
    /// Places where another host's key, host or model was, which `--remove` puts back.
    pub(crate) aside: Vec<String>,
    /// What the user has to know of single directories.
    pub(crate) notes: Vec<String>,
    /// What someone had edited of what an earlier run wrote, as the lines that differ, and the file that keeps that version.
    pub(crate) edits: Option<(Vec<String>, PathBuf)>,
}

/// The content that a merge would write.
struct Next {
    text: String,
    record: SetupRecord,
    /// The version before, to be kept.
    backup: Option<String>,
    /// What is lost of edits in that version, as the lines that differ.
    edits: Vec<String>,
}

impl Plan {
    /// Merges the plan into the tool's file.
    pub(crate) fn apply(&self, tool: &Tool, access: &Access, state: &Path) -> Result<Applied> {
        let _lock = target::lock(state)?;
        let old = match record::load(state, tool.name)? {
            Some(old) if old.file != self.file => leave(&old, tool, state)?,
            old => old,
        };
        let current = target::read(&self.file)?;
        let mut next = self.merge(old.as_ref(), current.as_deref())?;
        let kept = (!next.edits.is_empty()).then(|| target::kept(&self.file)).transpose()?;
        let mut applied =
            Applied { changed: false, aside: next.record.aside(), notes: self.check(&next.text)?, edits: None };
        next.record.profile.clone_from(&access.profile);
        next.record.base_url.clone_from(&access.base_url);
        let companions = self.companions(old.as_ref())?;
        next.record.companions = companions.iter().map(|(companion, _)| companion.noted()).collect();
        let (left, edited) = self.left(old.as_ref())?;
        for companion in edited {
            applied.notes.push(format!("`{}` has been edited and was kept", companion.file.display()));
            next.record.companions.push(companion);
        }
        let due: Vec<&Companion> = companions.iter().filter(|(_, due)| *due).map(|(companion, _)| *companion).collect();
        let is_same = current.as_deref() == Some(next.text.as_str());
        if is_same && due.is_empty() && left.is_empty() && old.is_some() {
            return Ok(applied);
        }
        target::check_writable(&self.file)?;
        let mut missing = target::missing(&self.file)?;
        for companion in &due {
            target::check_writable(&companion.file)?;
            missing.extend(target::missing(&companion.file)?);
        }
        if let Some(old) = old.as_ref().filter(|_| !left.is_empty()) {
            old.check_paths(state, tool.name)?;
            left.iter().try_for_each(|file| target::check_writable(file))?;
        }
        next.record.made = old.map(|old| old.made).unwrap_or_default();
        for path in &missing {
            if !next.record.made.contains(path) {
                next.record.made.push(path.clone());
            }
        }
        self.write(&next, kept.as_deref(), (&due, &left), (state, tool))
            .inspect_err(|_| target::remove_empty(&missing))?;
        applied.changed = true;
        applied.edits = kept.map(|kept| (next.edits, kept));
        Ok(applied)
    }

    /// Space is reserved for the tool's file first, which removes files named like its backup; it is written last. `kept`: for
    /// the version before, if someone has edited it. `left`: removed before anything is written, so that what is not
    /// removed is still recorded.
    fn write(
        &self,
        next: &Next,
        kept: Option<&Path>,
        (due, left): (&[&Companion], &[PathBuf]),
        (state, tool): (&Path, &Tool),
    ) -> Result<()> {
        let record = next.record.to_bytes()?;
        let mut writings: Vec<(PathBuf, &[u8], Privacy)> = Vec::new();
        writings.push((self.file.clone(), next.text.as_bytes(), Privacy::Open));
        for companion in due {
            writings.push((companion.file.clone(), companion.text.as_bytes(), Privacy::Open));
        }
        if let Some(before) = &next.backup {
            writings.push((target::backup(&self.file)?, before.as_bytes(), Privacy::Private));
            writings.extend(kept.map(|kept| (kept.to_owned(), before.as_bytes(), Privacy::Private)));
        }
        writings.push((record::path(state, tool.name), &record, Privacy::Private));
        let mut pending = Vec::new();
        for (path, bytes, privacy) in writings {
            pending.push((PendingFile::reserve(&path, bytes.len(), privacy)?, bytes));
        }
        for file in left {
            files::remove(file, Privacy::Open)?;
        }
        pending.into_iter().rev().try_for_each(|(file, bytes)| file.write(bytes))
    }

    /// The new text. Whatever an earlier run wrote is undone first, so that running twice is running once.
    fn merge(&self, old: Option<&SetupRecord>, current: Option<&str>) -> Result<Next> {
        let mut base = current.map(str::to_owned);
        let mut backup = base.clone();
        let mut clean = true;
        let mut unchanged: Vec<&Written> = Vec::new();
        let mut edits = Vec::new();
        if let Some(old) = old {
            match old.restored(current)? {
                // Only our own versions followed the backup, so it is still valid.
                Restored::Exactly(text) => (base, backup) = (text, None),
                Restored::Edited => {
                    let mut document = ConfigDocument::parse(current.unwrap_or_default(), self.syntax, &self.file)?;
                    // What would be written again stays, with the comments in it.
                    let is_there = |entry: &&Written| {
                        let planned = self.entries.iter().chain(&self.over).find(|(place, _)| *place == entry.place);
                        planned.is_some_and(|(place, value)| document.get(place).as_ref() == Some(value))
                    };
                    let (same, others) = old.entries.iter().partition::<Vec<_>, _>(is_there);
                    unchanged = same;
                    edits = others.iter().flat_map(|entry| entry.edits(&document)).collect();
                    for entry in others.iter().rev() {
                        entry.undo(&mut document)?;
                    }
                    base = Some(document.to_text());
                    clean = false;
                }
            }
        }
        let mut document = ConfigDocument::parse(base.as_deref().unwrap_or_default(), self.syntax, &self.file)?;
        let over: Vec<_> = self.over.iter().filter(|(place, _)| document.get(place).is_some()).collect();
        let mut entries = Vec::new();
        for (place, value) in self.entries.iter().chain(over) {
            if let Some(old) = unchanged.iter().find(|old| old.place == *place) {
                entries.push(Written { value: value.clone(), ..Written::clone(old) });
                continue;
            }
            let (before, depth) = (document.get(place), document.depth(place));
            document.set(place, value).with_context(|| format!("cannot edit `{}`", self.file.display()))?;
            entries.push(Written { place: place.clone(), value: value.clone(), before, depth });
        }
        let text = document.to_text();
        let record = SetupRecord {
            file: self.file.clone(),
            profile: String::new(),
            base_url: String::new(),
            written: sha256(text.as_bytes()),
            before: base.map(|base| sha256(base.as_bytes())),
            clean,
            entries,
            companions: Vec::new(),
            made: Vec::new(),
        };
        Ok(Next { text, record, backup, edits })
    }

    /// The companions of an earlier run that are none of this plan: the files as they were written, to be removed, and those
    /// that someone has edited.
    fn left(&self, old: Option<&SetupRecord>) -> Result<(Vec<PathBuf>, Vec<record::Companion>)> {
        let (mut left, mut edited) = (Vec::new(), Vec::new());
        for old in old.iter().flat_map(|old| &old.companions) {
            if self.companions.iter().any(|companion| companion.file == old.file) {
                continue;
            }
            match target::read(&old.file)? {
                Some(found) if sha256(found.as_bytes()) == old.written => left.push(old.file.clone()),
                Some(_) => edited.push(old.clone()),
                None => {}
            }
        }
        Ok((left, edited))
    }

    /// The companions that are ours, each with whether it has to be written.
    fn companions(&self, old: Option<&SetupRecord>) -> Result<Vec<(&Companion, bool)>> {
        let mut ours = Vec::new();
        for companion in &self.companions {
            let found = target::read(&companion.file)?;
            let is_as_written = |found: &String| old.is_some_and(|old| old.wrote(&companion.file, found));
            match found {
                Some(found) if found == companion.text => ours.push((companion, false)),
                Some(found) if !is_as_written(&found) => companion.give_way()?,
                _ => ours.push((companion, true)),
            }
        }
        Ok(ours)
    }
}

impl Companion {
    fn noted(&self) -> record::Companion {
        record::Companion { file: self.file.clone(), written: sha256(self.text.as_bytes()) }
    }

    /// There is one that is not ours.
    fn give_way(&self) -> Result<()> {
        if self.yields {
            return Ok(());
        }
        Failed::new(Failure::Other, format!("`{}` already exists with different content", self.file.display()))
            .hint("move it away and run the same command again")
            .err()
    }
}

/// The tool reads another file now: the previous one is restored.
fn leave(old: &SetupRecord, tool: &Tool, state: &Path) -> Result<Option<SetupRecord>> {
    if removal::undo(old, (state, tool), false)?.is_empty() {
        record::remove(state, tool.name)?;
        return Ok(None);
    }
    Failed::new(
        Failure::Other,
        format!("{} was configured in `{}`, which has been edited since", tool.title, old.file.display()),
    )
    .hint(format!("run `qwenauth setup {} --remove` to see the edit", tool.name))
    .err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::document::Syntax;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the file of another program")]
    fn a_file_beside_the_tools_is_replaced_if_it_is_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("companion");
        let plan = |yields: bool| Plan {
            file: directory.path().join("file"),
            syntax: Syntax::Json,
            entries: Vec::new(),
            over: Vec::new(),
            checks: Vec::new(),
            companions: vec![Companion { file: file.clone(), text: "new".into(), yields }],
            note: None,
        };
        let record = SetupRecord {
            file: directory.path().join("file"),
            profile: String::new(),
            base_url: String::new(),
            written: String::new(),
            before: None,
            clean: true,
            entries: Vec::new(),
            companions: vec![record::Companion { file: file.clone(), written: sha256(b"old") }],
            made: Vec::new(),
        };
        let ours = |found: Option<&str>, yields: bool| {
            drop(std::fs::remove_file(&file));
            if let Some(found) = found {
                std::fs::write(&file, found).unwrap();
            }
            let plan = plan(yields);
            let ours = plan.companions(Some(&record)).ok()?;
            Some(ours.iter().map(|(_, is_to_be_written)| *is_to_be_written).collect::<Vec<_>>())
        };
        for yields in [false, true] {
            assert_eq!(ours(None, yields), Some(vec![true]));
            assert_eq!(ours(Some("old"), yields), Some(vec![true]));
            assert_eq!(ours(Some("new"), yields), Some(vec![false]));
        }
        assert_eq!((ours(Some("theirs"), false), ours(Some("theirs"), true)), (None, Some(vec![])));
    }
}
