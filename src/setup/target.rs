//! A tool's file on disk: read, rejected if it is not the user's to change, its backup, and the directories created for
//! it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;

use super::document::Syntax;
use crate::error::{Failed, Failure};
use crate::paths::StateDirectory;
use crate::platform::files::{self, Content, Privacy};
use crate::platform::lock::{FileLock, LOCK_TIMEOUT};
use crate::platform::{access, disk};

/// The suffix of the one backup, next to the file.
const BACKUP: &str = "qwenauth-backup";

pub(super) fn syntax_of(file: &Path) -> Syntax {
    if file.extension().is_some_and(|extension| extension == "toml") { Syntax::Toml } else { Syntax::Json }
}

/// Next to the file that a symlink points to, so that it is on the same disk and has the same readers.
pub(super) fn backup(file: &Path) -> Result<PathBuf> {
    let target = files::resolve(file)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(target.with_file_name(format!("{name}.{BACKUP}")))
}

/// A new file next to the backup, for a version that someone has edited; nothing removes it.
pub(super) fn kept(file: &Path) -> Result<PathBuf> {
    let backup = backup(file)?;
    let mut number = 1;
    loop {
        let kept = backup.with_extension(format!("qwenauth-edited-{number}"));
        if fs::symlink_metadata(&kept).is_err() {
            return Ok(kept);
        }
        number += 1;
    }
}

pub(super) fn read(file: &Path) -> Result<Option<String>> {
    let refused = |why: &str| Failed::new(Failure::Other, format!("cannot edit `{}`: {why}", file.display()));
    match files::read(file, Privacy::Open)? {
        Content::Missing => Ok(None),
        Content::Unfit(why) => refused(&why).err(),
        Content::Bytes(bytes) => match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => refused("it is not UTF-8").err(),
        },
    }
}

/// A file that its owner made read-only, or that is another user's, is kept unchanged: a rename would replace it
/// anyway.
pub(super) fn check_writable(file: &Path) -> Result<()> {
    let target = files::resolve(file)?;
    files::check_writable(&target)?;
    let Ok(metadata) = fs::metadata(&target) else { return Ok(()) };
    access::check_owner(&target, &metadata)?;
    if !disk::is_writable(&metadata) {
        return Failed::new(Failure::Other, format!("`{}` is read-only and was not changed", target.display()))
            .hint(format!("make it writable (`{}`), or paste what `--print` shows", disk::MAKE_WRITABLE))
            .err();
    }
    Ok(())
}

/// `file` and the directories above it that are not there, the uppermost first.
pub(super) fn missing(file: &Path) -> Result<Vec<PathBuf>> {
    let target = files::resolve(file)?;
    let mut missing: Vec<PathBuf> = target.ancestors().take_while(|path| !path.exists()).map(Path::to_owned).collect();
    missing.reverse();
    Ok(missing)
}

/// Removes those of the directories in `made` that are empty; a directory with a user's file is kept.
pub(super) fn remove_empty(made: &[PathBuf]) {
    for path in made.iter().rev() {
        if let Err(error) = fs::remove_dir(path) {
            log::debug!("`{}` stays: {error}", path.display());
        }
    }
}

/// Two runs at once would each drop the other's edit.
pub(super) fn lock(state: &Path) -> Result<FileLock> {
    let directory = StateDirectory::Setup.below(state);
    files::make_directory(&directory)?;
    let path = directory.join(".setup.qwenauth-lock");
    FileLock::acquire(files::open_private(&path)?, &path, Instant::now() + LOCK_TIMEOUT)
}
