//! Files of ours that a known program is pointed to, and what it shares with the user's own directory.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{KnownProgram, Surroundings, Values};
use crate::paths::StateDirectory;
use crate::platform::disk;
use crate::platform::files::{self, Content, PendingFile, Privacy};
use crate::setup::record::digest;

/// What is linked into our directory from the program's own, so that it keeps its history.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Share {
    from: String,
    names: Vec<String>,
}

impl KnownProgram {
    /// Writes the files and returns their directory; `None` where the program needs none.
    ///
    /// The directory is named by the content, so that runs with other hosts or models do not disturb each other.
    pub(super) fn write_support(&self, values: &Values, around: &Surroundings) -> Result<Option<PathBuf>> {
        if self.support.is_empty() {
            return Ok(None);
        }
        let filled = |(name, text): (&String, &String)| Some((name.clone(), values.fill(text.trim_start(), None)?));
        let texts: Vec<_> = self.support.iter().filter_map(filled).collect();
        let pieces = texts.iter().flat_map(|(name, text)| [name.as_str(), "\n", text.expose()]);
        let whole = Zeroizing::new(pieces.collect::<Vec<_>>().concat());
        let name = format!("{}-{}", self.title.to_ascii_lowercase().replace(' ', "-"), &digest(whole.as_bytes())[..12]);
        let directory = StateDirectory::Exec.below(around.state).join(name);
        files::make_directory(&directory)?;
        for (name, text) in &texts {
            write(&directory.join(name), text.expose())?;
        }
        if let Some(share) = &self.share {
            share.link(&directory, around);
        }
        Ok(Some(directory))
    }
}

/// A file that holds the text already is not written again.
fn write(file: &Path, text: &str) -> Result<()> {
    if let Content::Bytes(bytes) = files::read(file, Privacy::Private)?
        && bytes.as_slice() == text.as_bytes()
    {
        return Ok(());
    }
    let pending = PendingFile::reserve_unlocked(file, text.len(), Privacy::Private)?;
    pending.write(text.as_bytes()).with_context(|| format!("cannot write `{}`", file.display()))
}

impl Share {
    /// What cannot be linked is left out: the program then keeps it in our directory.
    fn link(&self, directory: &Path, around: &Surroundings) {
        let from = self.from.replace("{llm}", &around.tool_paths.places.llm.display().to_string());
        for name in &self.names {
            let (theirs, ours) = (Path::new(&from).join(name), directory.join(name));
            if theirs.exists() && ours.symlink_metadata().is_err() {
                let linked = disk::symlink(&theirs, &ours);
                log::debug!("`{}` linked from `{}`: {linked:?}", ours.display(), theirs.display());
            }
        }
    }
}
