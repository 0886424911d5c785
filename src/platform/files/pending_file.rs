//! The next version of a file: its space is reserved first, and it replaces the old one by a rename.
//!
//! Hazards and rule: see [`super`].

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::{NamedTempFile, TempPath};
use zeroize::Zeroizing;

use super::{Content, Privacy, directory_of, flush_directory, make_directory, read, resolve};
use crate::error::{Failed, Failure};
use crate::platform::{access, disk};

/// No write takes this long.
const ABANDONED: Duration = Duration::from_secs(600);

/// Space for a new version of a file, taken before the new version is known.
/// Dropped without [`PendingFile::write`], it leaves nothing behind.
pub(crate) struct PendingFile {
    temporary: NamedTempFile,
    target: PathBuf,
    /// Set if the target is a mount point: it cannot be replaced by a rename, so space is reserved in it as well.
    in_place: Option<File>,
    /// Whether [`read_unfinished`] finds what is written here, so that it is kept if it cannot be installed.
    is_named: bool,
    /// What [`PendingFile::draft`] has written.
    drafted: Zeroizing<Vec<u8>>,
}

impl PendingFile {
    /// Reserves `bytes` of space next to the file that `target` resolves to, for its next version.
    ///
    /// The caller holds the lock of `target`: temporary files found next to it were left by a killed process and are
    /// removed.
    pub(crate) fn reserve(target: &Path, bytes: usize, privacy: Privacy) -> Result<Self> {
        Self::reserve_named(target, bytes, privacy, None)
    }

    /// The same without a lock, where it does not matter whose version is the last: the temporary files of other processes
    /// stay, and only those that no process can be writing any more are removed.
    pub(crate) fn reserve_unlocked(target: &Path, bytes: usize, privacy: Privacy) -> Result<Self> {
        Self::reserve_as(target, bytes, privacy, None, ABANDONED)
    }

    /// The same, under a `name` by which [`read_unfinished`] finds what its process wrote if it is killed before the rename.
    pub(crate) fn reserve_named(target: &Path, bytes: usize, privacy: Privacy, name: Option<&str>) -> Result<Self> {
        Self::reserve_as(target, bytes, privacy, name, Duration::ZERO)
    }

    /// `abandoned`: how old a temporary file must be to be removed.
    fn reserve_as(
        target: &Path,
        bytes: usize,
        privacy: Privacy,
        name: Option<&str>,
        abandoned: Duration,
    ) -> Result<Self> {
        let target = resolve(target)?;
        let directory = directory_of(&target);
        make_directory(directory)?;
        let prefix = temporary_prefix(&target);
        remove_leftovers(directory, &prefix, abandoned);
        let failed = || format!("cannot prepare a new version of `{}`", target.display());
        disk::wait_until_replaceable(&target).map_err(|error| not_replaced(error, &target)).with_context(failed)?;
        let is_named = name.is_some();
        let (prefix, random) = match name {
            Some(name) => (prefix + name, 0),
            None => (prefix, 6),
        };
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix(&prefix).rand_bytes(random).suffix(".tmp");
        let temporary = disk::temporary(builder, directory).with_context(failed)?;
        access::restrict(temporary.as_file()).with_context(failed)?;
        match fs::metadata(&target) {
            Ok(old) => {
                access::keep_owner(temporary.as_file(), &target, &old)?;
                if matches!(privacy, Privacy::Config | Privacy::Open) {
                    access::keep_mode(temporary.as_file(), &target, &old).with_context(failed)?;
                }
            }
            Err(_) => access::inherit_owner(temporary.as_file(), &target)?,
        }
        disk::allocate(temporary.as_file(), bytes).with_context(failed)?;
        let in_place = in_place_of(&target, bytes).with_context(failed)?;
        Ok(Self { temporary, target, in_place, is_named, drafted: Zeroizing::default() })
    }

    /// The pending file of this name that a killed process left, with `bytes` in it, which are kept until they are
    /// installed.
    pub(crate) fn reopen(target: &Path, name: &str, bytes: &[u8]) -> Result<Self> {
        let target = resolve(target)?;
        let path = unfinished_path(&target, name);
        let reopen = || {
            let file = disk::open_to_write(&path)?;
            let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
            let mut temporary = NamedTempFile::from_parts(file, TempPath::try_from_path(&path)?);
            temporary.disable_cleanup(true);
            Ok::<_, io::Error>((temporary, in_place_of(&target, length)?))
        };
        let (temporary, in_place) = reopen().with_context(|| format!("cannot use `{}`", path.display()))?;
        Ok(Self { temporary, target, in_place, is_named: true, drafted: Zeroizing::new(bytes.to_vec()) })
    }

    /// Writes `bytes` where [`read_unfinished`] finds them if this process is killed now; usually the same bytes later
    /// passed to [`PendingFile::write`]. Not yet durable or visible.
    pub(crate) fn draft(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = self.temporary.as_file_mut();
        file.rewind()?;
        file.write_all(bytes)?;
        self.drafted = Zeroizing::new(bytes.to_vec());
        Ok(())
    }

    /// Leaves what was drafted for [`read_unfinished`], durably, because it cannot be put in place now.
    pub(crate) fn keep_draft(mut self) -> io::Result<()> {
        self.temporary.as_file_mut().sync_all()?;
        self.temporary.disable_cleanup(true);
        Ok(())
    }

    /// Replaces the file by `bytes`, durably and atomically. After an error the old version is unchanged.
    pub(crate) fn write(mut self, bytes: &[u8]) -> Result<()> {
        let target = self.target;
        let is_named = self.is_named;
        // By its name the next process finds the new version and puts it in place.
        let kept = |mut draft: NamedTempFile, error: anyhow::Error| {
            draft.disable_cleanup(is_named);
            let failed = error.context(format!("cannot write `{}`", target.display()));
            Err(if is_named { failed.context(Kept) } else { failed })
        };
        let draft = self.temporary.as_file_mut();
        complete(draft, &self.drafted, bytes).with_context(|| format!("cannot write `{}`", target.display()))?;
        if let Err(error) = settle(draft, bytes) {
            return kept(self.temporary, error.into());
        }
        let persisted = match self.in_place {
            Some(mut file) => {
                if let Err(error) = fill(&mut file, bytes) {
                    return kept(self.temporary, error.into());
                }
                forget(self.temporary);
                log::info!("wrote `{}` in place", target.display());
                return Ok(());
            }
            None => disk::replace(self.temporary, &target),
        };
        match persisted {
            Ok(()) => {}
            Err(error) if disk::is_mount_point_error(&error.error) => {
                let filled = open_in_place(&target, bytes.len()).and_then(|mut file| fill(&mut file, bytes));
                if let Err(failed) = filled {
                    return kept(error.file, failed.into());
                }
                forget(error.file);
                return Ok(());
            }
            Err(error) => return kept(error.file, not_replaced(error.error, &target)),
        }
        flush_directory(directory_of(&target));
        log::info!("wrote `{}`", target.display());
        Ok(())
    }
}

/// What it means that `target` was not replaced: a program that has it open will close it.
fn not_replaced(error: io::Error, target: &Path) -> anyhow::Error {
    if !disk::is_in_use(&error) {
        return error.into();
    }
    Failed::new(Failure::Temporary, format!("another program has `{}` open", target.display()))
        .hint("close that program or wait until it is done, then retry")
        .into()
}

/// In the error chain of [`PendingFile::write`]: the new version is complete and durable next to the file.
#[derive(Debug)]
pub(crate) struct Kept;

impl fmt::Display for Kept {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("it is kept for the next command")
    }
}

/// For a target that cannot be replaced by a rename: reserves `bytes` in the target itself.
fn in_place_of(target: &Path, bytes: usize) -> io::Result<Option<File>> {
    if disk::is_mount_point(target) { open_in_place(target, bytes).map(Some) } else { Ok(None) }
}

pub(super) fn temporary_prefix(target: &Path) -> String {
    format!(".{}.qwenauth-", target.file_name().unwrap_or_default().to_string_lossy())
}

/// A name next to `target` for a file that may be removed whenever a [`PendingFile`] for `target` is reserved.
pub(crate) fn unfinished_path(target: &Path, name: &str) -> PathBuf {
    target.with_file_name(format!("{}{name}.tmp", temporary_prefix(target)))
}

/// What a killed process wrote into the pending file of this name, as far as it got.
pub(crate) fn read_unfinished(target: &Path, name: &str) -> Option<Zeroizing<Vec<u8>>> {
    let path = unfinished_path(&resolve(target).ok()?, name);
    let Ok(Content::Bytes(mut bytes)) = read(&path, Privacy::Private) else { return None };
    // The space that was taken reads as zeros.
    let end = bytes.iter().rposition(|&byte| byte != 0)?;
    bytes.truncate(end + 1);
    Some(bytes)
}

/// Removes what killed processes left next to `target`, whose lock the caller holds.
pub(crate) fn remove_unfinished(target: &Path) -> Result<()> {
    let target = resolve(target)?;
    remove_leftovers(directory_of(&target), &temporary_prefix(&target), Duration::ZERO);
    Ok(())
}

fn remove_leftovers(directory: &Path, prefix: &str, abandoned: Duration) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_abandoned = || {
            let modified = entry.metadata().and_then(|metadata| metadata.modified()).ok();
            modified.and_then(|at| at.elapsed().ok()).is_some_and(|age| age > abandoned)
        };
        if name.starts_with(prefix) && name.ends_with(".tmp") && (abandoned.is_zero() || is_abandoned()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

pub(super) fn open_in_place(target: &Path, bytes: usize) -> io::Result<File> {
    let file = disk::open_to_write(target)?;
    disk::reserve_blocks(&file, bytes)?;
    Ok(file)
}

/// Removes what has been copied to where it belongs.
fn forget(temporary: NamedTempFile) {
    if let Err(error) = temporary.close() {
        log::warn!("a copy was left next to the file: {error}");
    }
}

/// Writes `bytes` into a file that may already contain `drafted`. Different content is never written over it in parts,
/// because a mixture could parse.
fn complete(file: &mut File, drafted: &[u8], bytes: &[u8]) -> io::Result<()> {
    if drafted == bytes {
        return Ok(());
    }
    file.rewind()?;
    file.write_all(&[0])?;
    file.write_all(bytes.get(1..).unwrap_or_default())?;
    file.rewind()?;
    file.write_all(bytes.get(..1).unwrap_or_default())
}

/// Ends the file after `bytes`, and makes it durable.
fn settle(file: &File, bytes: &[u8]) -> io::Result<()> {
    file.set_len(bytes.len() as u64)?;
    file.sync_all()
}

pub(super) fn fill(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.rewind()?;
    file.write_all(bytes)?;
    settle(file, bytes)
}
