//! Private files, written whole: temporary file, fsync, rename; modes, owners, symlinks; room first.
//!
//! Hazards: a torn write loses a login; a full disk is noticed only after the refresh token is spent; a file of someone
//! else, a FIFO or a 100 MB file stands where a credential should be.
//! Rule: [`Room::reserve`] takes the space before anything is spent, [`Room::write`] replaces the file in one step, and
//! [`read`] opens only regular files of the user, at most [`LARGEST`] long.

mod room;

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::unistd::geteuid;
use zeroize::Zeroizing;

pub(crate) use self::room::{Room, left_in, leftover, remove_left};
use self::room::{fill, open_in_place, temporary_prefix};
use crate::error::{Failed, Failure, note};

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
    let file = match open_to_read(path) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => {
            resolved = resolve(path)?;
            path = &resolved;
            open_to_read(path)
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
        check_owner(path, &metadata)?;
    }
    if metadata.len() > LARGEST {
        return Ok(Content::Unfit(format!("it has {} bytes, more than a credential can have", metadata.len())));
    }
    if privacy == Privacy::Private {
        tighten(path, &file, &metadata);
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

/// Opens without following a symlink (see [`resolve`]) and without waiting for the writer of a FIFO.
fn open_to_read(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(path)
}

/// Root may use anybody's file; anyone else only their own.
pub(crate) fn check_owner(path: &Path, metadata: &Metadata) -> Result<()> {
    let user = geteuid();
    if user.is_root() || metadata.uid() == user.as_raw() {
        return Ok(());
    }
    Failed::new(
        Failure::Other,
        format!("`{}` belongs to another user (uid {}) and is not used", path.display(), metadata.uid()),
    )
    .hint("check who should own it; `chown` it to yourself if it is yours")
    .err()
}

fn tighten(path: &Path, file: &File, metadata: &Metadata) {
    if metadata.nlink() > 1 {
        note(&format!("`{}` has {} hard links: each of them is the same credential", path.display(), metadata.nlink()));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 == 0 {
        return;
    }
    match file.set_permissions(Permissions::from_mode(0o600)) {
        Ok(()) => note(&format!("tightened the mode of `{}` from {mode:04o} to 0600", path.display())),
        Err(error) => {
            note(&format!(
                "`{}` can be read by others (mode {mode:04o}), and that cannot be changed: {error}",
                path.display()
            ));
        }
    }
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
        let user = geteuid();
        if !user.is_root() && metadata.uid() != 0 && metadata.uid() != user.as_raw() {
            return Failed::new(
                Failure::Other,
                format!("`{}` is a symlink of another user and is not followed", path.display()),
            )
            .err();
        }
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
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot make the directory `{}`", directory.display()));
        }
    }
    fs::set_permissions(directory, Permissions::from_mode(0o700))
        .with_context(|| format!("cannot set the mode of `{}`", directory.display()))?;
    inherit_owner(&File::open(directory)?, directory)
}

/// Opens for reading and writing a small private file of ours that is never replaced, such as a lock file.
pub(crate) fn open_kept(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
        .with_context(|| format!("cannot open `{}`", path.display()))?;
    let metadata = file.metadata()?;
    check_owner(path, &metadata)?;
    if metadata.mode() & 0o7777 != 0o600 {
        file.set_permissions(Permissions::from_mode(0o600))
            .with_context(|| format!("cannot set the mode of `{}`", path.display()))?;
    }
    inherit_owner(&file, path)?;
    Ok(file)
}

/// Makes a private file that is never seen without its content; fails with [`io::ErrorKind::AlreadyExists`] where one is.
/// What a kill leaves of it looks like the leftover of a [`Room`] beside it, and goes with those.
pub(crate) fn create_whole(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let beside = path.with_extension("json");
    let mut temporary = tempfile::Builder::new()
        .prefix(&temporary_prefix(&beside))
        .suffix(".tmp")
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(directory_of(path))?;
    temporary.as_file_mut().write_all(bytes)?;
    match temporary.persist_noclobber(path) {
        Ok(file) => Ok(file),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(error.error),
        // A file system with neither a rename that keeps what is there nor hard links.
        Err(_) => {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(bytes).inspect_err(|_| drop(fs::remove_file(path)))?;
            Ok(file)
        }
    }
}

/// Opens a private file of ours for adding lines; see [`open_kept`]. One `write` adds a line whole, whoever else adds.
pub(crate) fn open_to_append(path: &Path) -> Result<File> {
    drop(open_kept(path)?);
    OpenOptions::new()
        .append(true)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
        .with_context(|| format!("cannot open `{}`", path.display()))
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
    nix::unistd::access(directory, nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK)
        .map_err(io::Error::from)
        .with_context(|| format!("cannot write in `{}`", directory.display()))
}

/// What root makes in somebody's directory belongs to that somebody, who could not use it otherwise.
fn inherit_owner(file: &File, path: &Path) -> Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let parent = fs::metadata(directory_of(path))?;
    let made = file.metadata()?;
    if parent.uid() != made.uid() {
        fchown(file, Some(parent.uid()), Some(parent.gid()))
            .with_context(|| format!("cannot give `{}` to the owner of its directory", path.display()))?;
    }
    Ok(())
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Removes the file that `path` leads to; a symlink stays. A mount point cannot go and is emptied to `{}` instead.
/// Says whether there was anything.
pub(crate) fn remove(path: &Path) -> Result<bool> {
    let path = resolve(path)?;
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => open_in_place(&path, 0)
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
    #[expect(clippy::disallowed_methods, reason = "this is where files are renamed")]
    fs::rename(&path, &free).with_context(|| format!("cannot set `{}` aside", path.display()))?;
    Ok(free)
}
