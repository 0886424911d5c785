//! Files of ours that a known program is pointed to, and what it shares with the user's own directory.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{KnownProgram, Surroundings, Values};
use crate::paths::StateDirectory;
use crate::platform::disk;
use crate::platform::files::{self, Content, PendingFile, Privacy};
use crate::secret::Secret;
use crate::sha256::short_sha256;

/// What is linked into our directory from the program's own, so that it keeps its history.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Share {
    from: String,
    names: Vec<String>,
    directories: Vec<String>,
}

impl KnownProgram {
    /// Writes the files and returns their directory; `None` where the program needs none.
    ///
    /// The directory is named by the content, so that runs with other hosts or models do not disturb each other.
    pub(super) fn write_support(&self, values: &Values, around: &Surroundings) -> Result<Option<PathBuf>> {
        if self.support.is_empty() {
            return Ok(None);
        }
        let filled = |directory: &Path| -> Vec<(&String, Secret)> {
            let fill = |text: &str| values.fill(text.trim_start(), Some(directory));
            self.support.iter().filter_map(|(name, text)| Some((name, fill(text)?))).collect()
        };
        let texts = filled(Path::new(""));
        let pieces = texts.iter().flat_map(|(name, text)| [name.as_str(), "\n", text.expose()]);
        let whole = Zeroizing::new(pieces.collect::<Vec<_>>().concat());
        let name =
            format!("{}-{}", self.title.to_ascii_lowercase().replace(' ', "-"), short_sha256(whole.as_bytes(), 12));
        let directory = StateDirectory::Exec.below(around.state).join(name);
        files::make_directory(&directory)?;
        for (name, text) in filled(&directory) {
            write(&directory.join(name), text.expose())?;
        }
        if let Some(share) = &self.share {
            share.link(&directory, around);
        }
        Ok(Some(directory))
    }
}

/// A file that holds the text already is not written again. Some programs write it anew, readable for others: nothing is said
/// of that, for no secret is in it, and the directory is private.
fn write(file: &Path, text: &str) -> Result<()> {
    if let Content::Bytes(bytes) = files::read(file, Privacy::Open)?
        && bytes.as_slice() == text.as_bytes()
    {
        return Ok(());
    }
    let pending = PendingFile::reserve_unlocked(file, text.len(), Privacy::Private)?;
    pending.write(text.as_bytes()).with_context(|| format!("cannot write `{}`", file.display()))
}

impl Share {
    /// What cannot be linked is left out: the program then keeps it in our directory.
    ///
    /// A file is linked before it exists, and the program makes it through the link: a history that began in our directory
    /// would be seen by no other run.
    fn link(&self, directory: &Path, around: &Surroundings) {
        let from = self.from.replace("{llm}", &around.tool_paths.places.llm.display().to_string());
        let from = Path::new(&from);
        let has_place = files::make_directory(from).is_ok();
        let is_there = |name: &&String| from.join(name).exists();
        let names = self.names.iter().filter(|name| has_place || is_there(name));
        for name in names.chain(self.directories.iter().filter(is_there)) {
            let (theirs, ours) = (from.join(name), directory.join(name));
            if ours.symlink_metadata().is_err() {
                let linked = disk::symlink(&theirs, &ours);
                log::debug!("`{}` linked from `{}`: {linked:?}", ours.display(), theirs.display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::ToolPaths;

    #[test]
    fn a_file_of_another_text_is_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        for text in ["a", "b", "b"] {
            write(&file, text).unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        }
    }

    #[cfg(unix)]
    #[test]
    #[expect(clippy::disallowed_methods, reason = "the files of another program")]
    fn a_file_is_linked_before_it_is_there_and_what_is_there_stays() {
        let directory = tempfile::tempdir().unwrap();
        let [theirs, ours] = ["theirs", "ours"].map(|name| directory.path().join(name));
        for directory in [&theirs, &ours] {
            std::fs::create_dir(directory).unwrap();
        }
        std::fs::write(theirs.join("linked"), "").unwrap();
        std::fs::write(theirs.join("kept"), "").unwrap();
        std::fs::write(ours.join("kept"), "ours").unwrap();
        let names = ["linked", "kept", "missing"].map(str::to_owned).to_vec();
        let directories = vec!["directory".to_owned()];
        let share = Share { from: theirs.display().to_string(), names, directories };
        let tool_paths = ToolPaths::of(directory.path(), directory.path());
        let around =
            Surroundings { tool_paths: &tool_paths, state: directory.path(), merged: None, allow_files: false };
        share.link(&ours, &around);
        assert_eq!(ours.join("linked").read_link().unwrap(), theirs.join("linked"));
        assert_eq!(std::fs::read_to_string(ours.join("kept")).unwrap(), "ours");
        std::fs::write(ours.join("missing"), "new").unwrap();
        assert_eq!(std::fs::read_to_string(theirs.join("missing")).unwrap(), "new");
        assert!(ours.join("directory").symlink_metadata().is_err(), "no program makes a directory through a link");
    }
}
