//! What `setup` wrote into a tool's file, kept so that `--remove` undoes exactly that.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::document::{ConfigDocument, KeyPath};
use super::target;
use crate::paths::StateDirectory;
use crate::platform::access;
use crate::platform::files::{self, Content, Privacy};
use crate::sha256::sha256;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SetupRecord {
    pub(crate) file: PathBuf,
    pub(crate) profile: String,
    pub(crate) base_url: String,
    /// SHA-256 of the file as written: while it is the same, the version before can be put back byte by byte.
    pub(super) written: String,
    /// SHA-256 of the version before, which the backup holds; none where there was no file.
    pub(super) before: Option<String>,
    /// Whether the version before was free of anything of ours.
    pub(super) clean: bool,
    pub(super) entries: Vec<Written>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) companions: Vec<Companion>,
    /// Files and directories that were not there before the first run, each after the one that holds it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) made: Vec<PathBuf>,
}

/// One place that was set.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Written {
    #[serde(flatten)]
    pub(super) place: KeyPath,
    pub(super) value: Value,
    /// What stood there before, if anything.
    pub(super) before: Option<Value>,
    /// How many of the objects above it were there before.
    pub(super) depth: usize,
}

/// A file of our own next to the tool's, with the SHA-256 of what was written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Companion {
    pub(super) file: PathBuf,
    pub(super) written: String,
}

/// Whether the previous version of the file can be restored byte by byte.
pub(super) enum Restored {
    /// `None`: there was no file.
    Exactly(Option<String>),
    /// Someone has changed it since.
    Edited,
}

impl SetupRecord {
    pub(super) fn restored(&self, current: Option<&str>) -> Result<Restored> {
        if !self.clean || current.is_none_or(|current| sha256(current.as_bytes()) != self.written) {
            return Ok(Restored::Edited);
        }
        let Some(before) = &self.before else { return Ok(Restored::Exactly(None)) };
        let kept = target::read(&target::backup(&self.file)?)?;
        Ok(match kept {
            Some(kept) if sha256(kept.as_bytes()) == *before => Restored::Exactly(Some(kept)),
            _ => Restored::Edited,
        })
    }

    /// Whether `text` is what was written into the companion `file`.
    pub(super) fn wrote(&self, file: &Path, text: &str) -> bool {
        let written = |companion: &&Companion| companion.file == file;
        self.companions.iter().find(written).is_some_and(|companion| companion.written == sha256(text.as_bytes()))
    }

    /// The places where something else was before: a key, host or model of another service, kept in this record.
    pub(super) fn aside(&self) -> Vec<String> {
        let is_group = |written: &&Written| {
            let first = written.place.path.first();
            first.is_some_and(|first| ["env", "apiKeyHelper", "agent", "mode"].contains(&first.as_str()))
        };
        let had =
            |written: &&Written| written.before.as_ref().is_some_and(|before| *before != written.value && before != "");
        self.entries.iter().filter(is_group).filter(had).map(|written| written.place.name()).collect()
    }

    /// Whether `path` was not there before the first run.
    pub(super) fn has_made(&self, path: &Path) -> bool {
        files::resolve(path).is_ok_and(|path| self.made.contains(&path))
    }

    /// Fails where the record of another user would make root change a file that is not that user's.
    pub(super) fn check_paths(&self, state: &Path, tool: &str) -> Result<()> {
        let record = path(state, tool);
        let named = self.companions.iter().map(|companion| &companion.file).chain(&self.made).chain([&self.file]);
        for named in named {
            access::check_changed_for(&record, &files::resolve(named)?)?;
        }
        Ok(())
    }

    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self).context("cannot record what was written")
    }
}

impl Written {
    /// Puts back what stood there before.
    pub(super) fn undo(&self, document: &mut ConfigDocument) -> Result<()> {
        match &self.before {
            None => document.remove(&self.place, self.depth),
            Some(before) if document.get(&self.place).as_ref() != Some(before) => document.set(&self.place, before)?,
            Some(_) => {}
        }
        Ok(())
    }
}

/// Returns `None` if the tool was not set up, or if the record cannot be read.
pub(crate) fn load(state: &Path, tool: &str) -> Result<Option<SetupRecord>> {
    Ok(match files::read(&path(state, tool), Privacy::Private)? {
        Content::Bytes(bytes) => serde_json::from_slice(&bytes).ok(),
        Content::Missing | Content::Unfit(_) => None,
    })
}

pub(super) fn remove(state: &Path, tool: &str) -> Result<()> {
    files::remove(&path(state, tool), Privacy::Private).map(drop)
}

pub(super) fn path(state: &Path, tool: &str) -> PathBuf {
    StateDirectory::Setup.below(state).join(format!("{tool}.json"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_another_value_of_the_key_its_host_and_model_was_moved_aside() {
        let written = |path: &[&str], before: Option<Value>| Written {
            place: KeyPath::key(path),
            value: json!("ours"),
            before,
            depth: 0,
        };
        let record = SetupRecord {
            file: PathBuf::new(),
            profile: String::new(),
            base_url: String::new(),
            written: String::new(),
            before: None,
            clean: true,
            entries: vec![
                written(&["env", "A"], Some(json!("theirs"))),
                written(&["env", "B"], Some(json!("ours"))),
                written(&["env", "C"], Some(json!(""))),
                written(&["env", "D"], None),
                written(&["model"], Some(json!("theirs"))),
            ],
            companions: Vec::new(),
            made: Vec::new(),
        };
        assert_eq!(record.aside(), [KeyPath::key(&["env", "A"]).name()]);
    }
}
