//! What `setup` wrote into a tool's file, kept so that `--remove` undoes exactly that.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::document::Place;
use crate::files::{self, Content, Privacy, Room};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) companion: Option<Companion>,
}

/// One place that was set.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Written {
    #[serde(flatten)]
    pub(super) place: Place,
    pub(super) value: Value,
    /// What stood there before, if anything.
    pub(super) before: Option<Value>,
    /// How many of the objects above it were there before.
    pub(super) depth: usize,
}

/// A file of our own beside the tool's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Companion {
    pub(super) file: PathBuf,
    pub(super) written: String,
}

/// `None`: the tool was not set up, or what was noted cannot be read.
pub(crate) fn load(state: &Path, tool: &str) -> Result<Option<Record>> {
    Ok(match files::read(&path(state, tool), Privacy::Private)? {
        Content::Bytes(bytes) => serde_json::from_slice(&bytes).ok(),
        Content::Missing | Content::Unfit(_) => None,
    })
}

pub(super) fn save(record: &Record, state: &Path, tool: &str) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(record).context("cannot note what was written")?;
    Room::reserve(&path(state, tool), bytes.len(), Privacy::Private)?.write(&bytes)
}

pub(super) fn remove(state: &Path, tool: &str) -> Result<()> {
    files::remove(&path(state, tool)).map(drop)
}

fn path(state: &Path, tool: &str) -> PathBuf {
    state.join("setup").join(format!("{tool}.json"))
}

pub(super) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
