//! Private files, written whole: temporary file, fsync, rename; modes, owners, symlinks; room first.
//!
//! Hazards: a torn write loses a login; a full disk is noticed only after the refresh token is spent; a file of someone
//! else, a FIFO or a 100 MB file stands where a credential should be.
//! Rule: [`Room::reserve`] takes the space before anything is spent, [`Room::write`] replaces the file in one step, and
//! [`read`] opens only regular files of the user, at most [`LARGEST`] long.

mod room;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use zeroize::Zeroizing;

pub(crate) use self::room::{Kept, Room, left_in, leftover, remove_left};
use self::room::{fill, open_in_place, temporary_prefix};
use crate::error::{Failed, Failure};
use crate::platform::{access, disk};

/// Longest file that is read, in bytes; a larger one is damaged.
pub(crate) const LARGEST: u64 = 1024 * 1024;

/// How many symlinks in a row are followed; Linux stops at 40.
const MOST_LINKS: usize = 40;

/// What stood where a file was expected.
pub(crate) enum Content {
    Missing,
    Bytes(Zeroizing<Vec<u8>>),
    /// Something that cannot be the file, with the reason: a directory, a device, more than [`LARGEST`] bytes.
    Unfit(String),
}

/// Who may know a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Privacy {
    /// A secret: 0600, and only the user's own. A looser mode is tightened, with one line on stderr.
    Private,
    /// A configuration: it keeps its mode and may belong to root.
    Open,
}

/// Reads a file of the user.
///
/// Errors: no permission, or a private file of another owner (root may read anybody's).
pub(crate) fn read(path: &Path, privacy: Privacy) -> Result<Content> {
    let resolved;
    let mut path = path;
    let file = match disk::open_to_read(path) {
        Err(error) if disk::is_symlink(&error) => {
            resolved = resolve(path)?;
            path = &resolved;
            disk::open_to_read(path)
        }
        opened => opened,
    };
    let mut file = match file {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Content::Missing);
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
    };
    let metadata = file.metadata().with_context(|| format!("cannot read `{}`", path.display()))?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a directory" } else { "not a regular file" };
        return Ok(Content::Unfit(format!("it is {what}")));
    }
    if privacy == Privacy::Private {
        access::check_owner(path, &metadata)?;
    }
    if metadata.len() > LARGEST {
        return Ok(Content::Unfit(format!("it has {} bytes, more than a credential can have", metadata.len())));
    }
    if privacy == Privacy::Private {
        access::tighten(path, &file, &metadata);
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len())? + 1));
    Read::by_ref(&mut file)
        .take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read `{}`", path.display()))?;
    if bytes.len() as u64 > LARGEST {
        return Ok(Content::Unfit("it grew past what a credential can have".into()));
    }
    Ok(Content::Bytes(bytes))
}

/// The file that `path` leads to, which need not exist. Only symlinks of the user or of root are followed.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => metadata,
            Ok(_) => return Ok(path),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(path);
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
        };
        access::check_link_owner(&path, &metadata)?;
        let target = fs::read_link(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        path = directory_of(&path).join(target);
    }
    Failed::new(Failure::Other, format!("`{}` leads through too many symlinks", path.display())).err()
}

/// Makes `directory` and what is missing above it, each 0700 whatever the umask.
pub(crate) fn make_directory(directory: &Path) -> Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_directory(parent)?;
    }
    match access::create_directory(directory) {
        // Another process has made it meanwhile.
        Err(_) if directory.is_dir() => Ok(()),
        made => made,
    }
}

/// Opens for reading and writing a small private file of ours that is never replaced, such as a lock file.
pub(crate) fn open_kept(path: &Path) -> Result<File> {
    let file = disk::open_or_create(path).with_context(|| format!("cannot open `{}`", path.display()))?;
    access::check_owner(path, &file.metadata()?)?;
    access::restrict(&file).with_context(|| format!("cannot set the mode of `{}`", path.display()))?;
    access::inherit_owner(&file, path)?;
    Ok(file)
}

/// Makes a private file that is never seen without its content; fails with [`io::ErrorKind::AlreadyExists`] where one is.
/// What a kill leaves of it looks like the leftover of a [`Room`] beside it, and goes with those.
pub(crate) fn create_whole(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let beside = path.with_extension("json");
    let mut builder = tempfile::Builder::new();
    let prefix = temporary_prefix(&beside);
    let mut temporary = disk::temporary(builder.prefix(&prefix).suffix(".tmp"), directory_of(path))?;
    temporary.as_file_mut().write_all(bytes)?;
    match temporary.persist_noclobber(path) {
        Ok(file) => Ok(file),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(error.error),
        // A file system with neither a rename that keeps what is there nor hard links.
        Err(_) => {
            let mut file = disk::create_new(path)?;
            file.write_all(bytes).inspect_err(|_| drop(fs::remove_file(path)))?;
            Ok(file)
        }
    }
}

/// Opens a private file of ours for adding lines; see [`open_kept`]. One `write` adds a line whole, whoever else adds.
pub(crate) fn open_to_append(path: &Path) -> Result<File> {
    drop(open_kept(path)?);
    disk::open_to_append(path).with_context(|| format!("cannot open `{}`", path.display()))
}

/// Fails if a file at `path` could not be made or replaced. Makes nothing.
pub(crate) fn check_writable(path: &Path) -> Result<()> {
    let mut directory = directory_of(path);
    while !directory.exists() {
        directory = directory_of(directory);
    }
    if !directory.is_dir() {
        return Failed::new(Failure::Other, format!("`{}` is not a directory", directory.display())).err();
    }
    disk::check_writable(directory).with_context(|| format!("cannot write in `{}`", directory.display()))
}

pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Removes the file that `path` leads to; a symlink stays. A mount point cannot go and is emptied to `{}` instead.
/// Says whether there was anything.
pub(crate) fn remove(path: &Path) -> Result<bool> {
    let path = resolve(path)?;
    match disk::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if disk::is_mount_point_error(&error) => open_in_place(&path, 0)
            .and_then(|mut file| fill(&mut file, b"{}"))
            .map(|()| true)
            .with_context(|| format!("cannot empty `{}`", path.display())),
        Err(error) => Err(error).with_context(|| format!("cannot remove `{}`", path.display())),
    }
}

/// Renames a damaged file to the first free `….damaged-N` and says where it went.
pub(crate) fn set_aside(path: &Path) -> Result<PathBuf> {
    let path = resolve(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let free = (1..10_000)
        .map(|number| path.with_file_name(format!("{name}.damaged-{number}")))
        .find(|candidate| fs::symlink_metadata(candidate).is_err())
        .with_context(|| format!("there are too many damaged versions of `{}`", path.display()))?;
    disk::rename(&path, &free).with_context(|| format!("cannot set `{}` aside", path.display()))?;
    Ok(free)
}
