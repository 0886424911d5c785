//! Private files, written whole: reserved space, temporary file, fsync, rename; modes, owners, symlinks.
//!
//! Hazards: a torn write loses a login; a full disk is noticed only after the refresh token is used; the credential
//! path may be another user's file, a FIFO or a huge file. Rule: [`PendingFile::reserve`] reserves the space before
//! anything is used, [`PendingFile::write`] replaces the file atomically, and [`read`] opens only regular files of the
//! user, at most [`MAX_FILE_SIZE`] long.

mod pending_file;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use zeroize::Zeroizing;

pub(crate) use self::pending_file::{Kept, PendingFile, read_unfinished, remove_unfinished, unfinished_path};
use self::pending_file::{fill, open_in_place, temporary_prefix};
use crate::error::{Failed, Failure, Reason};
use crate::platform::{access, disk, system};

/// Maximum size of a file, in bytes; a larger one counts as damaged.
pub(crate) const MAX_FILE_SIZE: u64 = 1024 * 1024;

/// How many symlinks in a row are followed; Linux stops at 40.
const MAX_LINKS: usize = 40;

/// What stood where a file was expected.
pub(crate) enum Content {
    Missing,
    Bytes(Zeroizing<Vec<u8>>),
    /// Something that cannot be the file, with the reason: a directory, a device, more than [`MAX_FILE_SIZE`] bytes.
    Unfit(String),
}

/// Who may know or change a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Privacy {
    /// A credential or state of ours: 0600. A looser mode is tightened, with one line on stderr.
    Private,
    /// A key or secret that the user or an administrator put there: taken away from others, never made writable.
    Secret,
    /// config.toml: only the user may change it.
    Config,
    /// A file of another program: it keeps its mode.
    Open,
}

/// For a file below a home directory that is not known.
pub(crate) fn no_home() -> Failed {
    let message = format!("there is no home directory: `{}` is not set and {}", system::HOME, system::NO_HOME);
    Failed::new(Failure::Other, message)
        .hint(format!("set `{}`, or both `QWENAUTH_HOME` and `QWEN_HOME`", system::HOME))
}

/// Reads a file whose content is to be believed. The empty path is that of a file without a known home directory.
///
/// Errors: no permission, or a file, a directory above it or a symlink that another user made or may change.
pub(crate) fn read(path: &Path, privacy: Privacy) -> Result<Content> {
    let Followed { resolved, is_linked, writable } = follow(path)?;
    let mut file = match disk::open_to_read(&resolved) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Content::Missing);
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", resolved.display())),
    };
    let metadata = file.metadata().with_context(|| format!("cannot read `{}`", resolved.display()))?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a directory" } else { "not a regular file" };
        return Ok(Content::Unfit(format!("it is {what}")));
    }
    access::check_file(&resolved, &metadata, privacy)?;
    // A file that does not exist yet does no harm, so this is checked last.
    if let Some(error) = writable {
        return Err(error);
    }
    let most = if privacy == Privacy::Private { "more than a credential file may have" } else { "more than 1 MiB" };
    if metadata.len() > MAX_FILE_SIZE {
        return Ok(Content::Unfit(format!("it has {} bytes, {most}", metadata.len())));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len())? + 1));
    Read::by_ref(&mut file)
        .take(MAX_FILE_SIZE + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read `{}`", resolved.display()))?;
    if bytes.len() as u64 > MAX_FILE_SIZE {
        return Ok(Content::Unfit(format!("it grew while it was read: {most}")));
    }
    let is_ours =
        !(is_linked || access::is_in_anothers_home()) || privacy != Privacy::Private || holds_credential(&bytes);
    access::tighten(&resolved, &file, &metadata, privacy, is_ours);
    Ok(Content::Bytes(bytes))
}

/// Reads what an option or a variable names: a file as [`read`] does, or a pipe, which has its content once. One with a name
/// is judged as a file is. A descriptor, such as that of `<(…)`, was passed by the process that started this program.
pub(crate) fn read_named(path: &Path, privacy: Privacy) -> Result<Content> {
    let is_pipe = |metadata: &fs::Metadata| !metadata.is_file() && !metadata.is_dir();
    let Ok(metadata) = fs::metadata(path) else { return read(path, privacy) };
    let Followed { resolved, writable, .. } = follow(path)?;
    let named = fs::symlink_metadata(&resolved).ok();
    let file = match &named {
        // A file that is there by this name, and is to be opened as it is.
        Some(_) if !is_pipe(&metadata) => return read(path, privacy),
        Some(found) => {
            // Before it is opened, because that waits for a writer.
            access::check_pipe(&resolved, found, privacy)?;
            if let Some(error) = writable {
                return Err(error);
            }
            disk::open_pipe(&resolved)
        }
        None => File::open(path),
    };
    let file = file.with_context(|| format!("cannot read `{}`", path.display()))?;
    if named.is_some() {
        access::check_pipe(&resolved, &file.metadata()?, privacy)?;
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(64 * 1024));
    file.take(MAX_FILE_SIZE + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read `{}`", path.display()))?;
    if bytes.len() as u64 > MAX_FILE_SIZE {
        return Ok(Content::Unfit("it has more than 1 MiB".into()));
    }
    Ok(Content::Bytes(bytes))
}

/// Whether `path` refers to a pipe or a device that has a name. A descriptor, such as that of `<(…)`, has none.
///
/// Errors: it is another user's, or others may write into it.
pub(crate) fn is_named_pipe(path: &Path, privacy: Privacy) -> Result<bool> {
    if !fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
        return Ok(false);
    }
    let Followed { resolved, writable, .. } = follow(path)?;
    let Ok(named) = fs::symlink_metadata(&resolved) else { return Ok(false) };
    access::check_pipe(&resolved, &named, privacy)?;
    writable.map_or(Ok(true), Err)
}

/// Whether these bytes, damaged or not, are of a credential or a login that was begun.
fn holds_credential(bytes: &[u8]) -> bool {
    const NAMES: [&str; 5] = ["access_token", "refresh_token", "api_key", "device_code", "expiry_date"];
    let text = String::from_utf8_lossy(bytes);
    text.trim() == "{}" || NAMES.iter().any(|name| text.contains(&format!("\"{name}")))
}

/// The file that `path` resolves to, which need not exist. Each directory and symlink of the path is checked: see
/// [`access`].
pub(crate) fn resolve(path: &Path) -> Result<PathBuf> {
    follow(path).map(|followed| followed.resolved)
}

/// The same for a directory that files are made in, which is judged as well.
fn resolve_directory(directory: &Path) -> Result<PathBuf> {
    let resolved = resolve(directory)?;
    if let Ok(metadata) = fs::symlink_metadata(&resolved)
        && metadata.is_dir()
    {
        access::check_directory(&resolved, &metadata, directory)?;
    }
    Ok(resolved)
}

/// What a path resolves to.
struct Followed {
    resolved: PathBuf,
    /// Whether the last part of the path is a symlink.
    is_linked: bool,
    /// That others may write in a directory on the way.
    writable: Option<anyhow::Error>,
}

fn follow(path: &Path) -> Result<Followed> {
    if path.as_os_str().is_empty() {
        return no_home().err();
    }
    let absolute = std::path::absolute(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let mut parts: Vec<OsString> = Vec::new();
    push_parts(&mut parts, &absolute);
    let (mut resolved, mut links, mut is_linked, mut writable) = (root_of(&absolute), 0, false, None);
    while let Some(part) = parts.pop() {
        if part == ".." {
            resolved.pop();
            continue;
        }
        let next = resolved.join(&part);
        let metadata = match fs::symlink_metadata(&next) {
            Ok(metadata) => metadata,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                resolved = next;
                resolved.extend(parts.drain(..).rev());
                break;
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", next.display())),
        };
        if metadata.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                let message = format!("`{}` has too many levels of symlinks", path.display());
                return Failed::new(Failure::Other, message).err();
            }
            let link = fs::read_link(&next).with_context(|| format!("cannot read `{}`", next.display()))?;
            access::check_link(&next, &metadata, &resolved.join(&link))?;
            is_linked |= parts.is_empty();
            if link.is_absolute() {
                resolved = root_of(&link);
            }
            push_parts(&mut parts, &link);
            continue;
        }
        if metadata.is_dir() && !parts.is_empty() {
            access::check_directory(&next, &metadata, path)?;
            writable = writable.or(access::check_unwritable(&next, &metadata, path).err());
        }
        resolved = next;
    }
    Ok(Followed { resolved, is_linked, writable })
}

/// Puts the parts of `path` on a stack, the first on top.
fn push_parts(parts: &mut Vec<OsString>, path: &Path) {
    let given = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    parts.extend(given.map(|part| part.as_os_str().to_owned()).rev());
}

fn root_of(path: &Path) -> PathBuf {
    path.components().take_while(|part| matches!(part, Component::Prefix(_) | Component::RootDir)).collect()
}

/// Creates `directory` and its missing parents, each 0700 whatever the umask.
pub(crate) fn make_directory(directory: &Path) -> Result<()> {
    make_resolved(&resolve_directory(directory)?)
}

fn make_resolved(directory: &Path) -> Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_resolved(parent)?;
    }
    match access::create_directory(directory) {
        // Another process has made it meanwhile.
        Err(_) if directory.is_dir() => Ok(()),
        made => made,
    }
}

/// Opens for reading and writing a small private file of ours that is never replaced, such as a lock file.
pub(crate) fn open_private(path: &Path) -> Result<File> {
    let path = &in_resolved_directory(path)?;
    let file = disk::open_or_create(path).with_context(|| format!("cannot open `{}`", path.display()))?;
    access::check_owner(path, &file.metadata()?)?;
    access::restrict(&file).with_context(|| format!("cannot set the mode of `{}`", path.display()))?;
    access::inherit_owner(&file, path)?;
    Ok(file)
}

/// The same as [`create_whole`], durably: for what has no second copy.
pub(crate) fn create_durable(path: &Path, bytes: &[u8]) -> io::Result<File> {
    create(path, bytes, File::sync_all).inspect(|_| flush_directory(directory_of(path)))
}

/// Creates a private file that never appears without its content; fails with [`io::ErrorKind::AlreadyExists`] if there
/// is one. Made by root, it belongs to the owner of its directory. If the process is killed, the partial file is cleaned up
/// with those of [`PendingFile`].
pub(crate) fn create_whole(path: &Path, bytes: &[u8]) -> io::Result<File> {
    create(path, bytes, |_| Ok(()))
}

fn create(path: &Path, bytes: &[u8], flush: fn(&File) -> io::Result<()>) -> io::Result<File> {
    let path = &in_resolved_directory(path).map_err(io::Error::other)?;
    let beside = path.with_extension("json");
    let mut builder = tempfile::Builder::new();
    let prefix = temporary_prefix(&beside);
    let mut temporary = disk::temporary(builder.prefix(&prefix).suffix(".tmp"), directory_of(path))?;
    access::inherit_owner(temporary.as_file(), path).map_err(io::Error::other)?;
    temporary.as_file_mut().write_all(bytes)?;
    flush(temporary.as_file())?;
    match temporary.persist_noclobber(path) {
        Ok(file) => Ok(file),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(error.error),
        // A file system that has neither hard links nor a rename that keeps an existing file.
        Err(_) => {
            let mut file = disk::create_new(path)?;
            access::inherit_owner(&file, path)
                .map_err(io::Error::other)
                .and_then(|()| file.write_all(bytes))
                .and_then(|()| flush(&file))
                .inspect_err(|_| drop(fs::remove_file(path)))?;
            Ok(file)
        }
    }
}

/// Makes durable that a file in `directory` was created or replaced. Not every file system can.
fn flush_directory(directory: &Path) {
    if let Err(error) = disk::sync_directory(directory) {
        log::warn!("cannot flush the directory `{}`: {error}", directory.display());
    }
}

/// Opens a private file of ours for appending; see [`open_private`]. Each `write` appends one line atomically.
pub(crate) fn open_to_append(path: &Path) -> Result<File> {
    drop(open_private(path)?);
    let path = &in_resolved_directory(path)?;
    disk::open_to_append(path).with_context(|| format!("cannot open `{}`", path.display()))
}

/// Fails if a file at `path` could not be made or replaced. Makes nothing.
pub(crate) fn check_writable(path: &Path) -> Result<()> {
    let mut directory = directory_of(path);
    while !directory.exists() {
        directory = directory_of(directory);
    }
    if !directory.is_dir() {
        return Failed::new(Failure::Other, format!("`{}` is not a directory", directory.display()))
            .because(Reason::Storage)
            .err();
    }
    disk::check_writable(directory).with_context(|| format!("cannot write in `{}`", directory.display()))
}

/// `path` with its directory resolved; the last component is not followed.
fn in_resolved_directory(path: &Path) -> Result<PathBuf> {
    let directory = resolve_directory(directory_of(path))?;
    Ok(directory.join(path.file_name().unwrap_or_default()))
}

pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Removes the file that `path` resolves to; a symlink stays. A mount point cannot be removed and is emptied to `{}`
/// instead. Returns whether there was anything.
///
/// Errors: for [`Privacy::Private`] also a file that a symlink leads to and that holds no credential.
pub(crate) fn remove(path: &Path, privacy: Privacy) -> Result<bool> {
    let Followed { resolved: target, is_linked, .. } = follow(path)?;
    if privacy == Privacy::Private && is_linked {
        check_removable(path, &target)?;
    }
    remove_resolved(&target)
}

/// The same for a credential. In another user's home, root removes nothing else in its place.
pub(crate) fn remove_credential(path: &Path) -> Result<bool> {
    let Followed { resolved: target, is_linked, .. } = follow(path)?;
    if is_linked || access::is_in_anothers_home() {
        check_removable(path, &target)?;
    }
    remove_resolved(&target)
}

/// Removes the files in `directory` that were not written for longer than `age`. What cannot be removed stays.
pub(crate) fn remove_older(directory: &Path, age: Duration) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let written = entry.metadata().and_then(|metadata| metadata.modified()).ok();
        if written.and_then(|at| at.elapsed().ok()).is_some_and(|since| since > age)
            && let Err(error) = remove(&entry.path(), Privacy::Private)
        {
            log::warn!("cannot remove an old file: {error:#}");
        }
    }
}

fn remove_resolved(target: &Path) -> Result<bool> {
    match disk::remove_file(target) {
        Ok(()) => {
            log::info!("removed `{}`", target.display());
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if disk::is_mount_point_error(&error) => open_in_place(target, 0)
            .and_then(|mut file| fill(&mut file, b"{}"))
            .map(|()| true)
            .with_context(|| format!("cannot empty `{}`", target.display())),
        Err(error) => Err(error).with_context(|| format!("cannot remove `{}`", target.display())),
    }
}

fn check_removable(path: &Path, target: &Path) -> Result<()> {
    let Ok(file) = disk::open_to_read(target) else { return Ok(()) };
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_FILE_SIZE).read_to_end(&mut bytes).with_context(|| format!("cannot read `{}`", target.display()))?;
    if bytes.trim_ascii().is_empty() || holds_credential(&bytes) {
        return Ok(());
    }
    let message = if target == path {
        format!("`{}` is not a credential and was kept", path.display())
    } else {
        format!("`{}` points to `{}`, which is not a credential and was kept", path.display(), target.display())
    };
    Failed::new(Failure::Other, message).hint("remove it yourself if it is not needed").err()
}

/// Renames a damaged file to the first free `….damaged-N` and returns that name. If a symlink points to what is not a
/// credential, the link itself is renamed.
pub(crate) fn set_aside(path: &Path) -> Result<PathBuf> {
    let Followed { resolved: target, is_linked, .. } = follow(path)?;
    let path = if is_linked && check_removable(path, &target).is_err() { in_resolved_directory(path)? } else { target };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let free = (1..10_000)
        .map(|number| path.with_file_name(format!("{name}.damaged-{number}")))
        .find(|candidate| fs::symlink_metadata(candidate).is_err())
        .with_context(|| format!("there are too many damaged versions of `{}`", path.display()))?;
    match disk::rename(&path, &free) {
        Err(error) if disk::is_mount_point_error(&error) => copy_aside(&path, &free),
        renamed => renamed,
    }
    .with_context(|| format!("cannot rename the damaged `{}`", path.display()))?;
    Ok(free)
}

/// The same for a file that is a mount point: it is copied, and written in place later.
fn copy_aside(path: &Path, free: &Path) -> io::Result<()> {
    let mut bytes = Zeroizing::new(Vec::new());
    disk::open_to_read(path)?.take(MAX_FILE_SIZE).read_to_end(&mut bytes)?;
    let mut copy = disk::create_new(free)?;
    copy.write_all(&bytes)?;
    copy.sync_all()
}
