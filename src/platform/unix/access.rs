//! Owners and modes of files: whose files are read, and who may use ours.

use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown};
use std::path::Path;

use anyhow::{Context, Result};
use nix::unistd::geteuid;
use tempfile::TempDir;

use crate::error::{Failed, Failure, note};
use crate::platform::files::directory_of;

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

/// Only symlinks of the user or of root are followed.
pub(crate) fn check_link_owner(path: &Path, metadata: &Metadata) -> Result<()> {
    let user = geteuid();
    if user.is_root() || metadata.uid() == 0 || metadata.uid() == user.as_raw() {
        return Ok(());
    }
    Failed::new(Failure::Other, format!("`{}` is a symlink of another user and is not followed", path.display())).err()
}

/// Takes a secret file away from group and others, with one line on stderr.
pub(crate) fn tighten(path: &Path, file: &File, metadata: &Metadata) {
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

/// Gives a file of ours to the user alone.
pub(crate) fn restrict(file: &File) -> io::Result<()> {
    if file.metadata()?.mode() & 0o7777 == 0o600 {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(0o600))
}

/// Gives the next version of a configuration file the mode of the last.
pub(crate) fn keep_mode(file: &File, old: &Metadata) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(old.mode() & 0o777))
}

/// A file that root rewrites keeps its owner and mode.
pub(crate) fn keep_owner(file: &File, path: &Path, old: &Metadata) -> Result<()> {
    if !geteuid().is_root() || old.uid() == geteuid().as_raw() {
        return Ok(());
    }
    fchown(file, Some(old.uid()), Some(old.gid()))
        .and_then(|()| file.set_permissions(Permissions::from_mode(old.mode() & 0o700)))
        .with_context(|| format!("cannot keep the owner of `{}`", path.display()))
}

/// What root makes in somebody's directory belongs to that somebody, who could not use it otherwise.
pub(crate) fn inherit_owner(file: &File, path: &Path) -> Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let parent = fs::metadata(directory_of(path))?;
    if parent.uid() != file.metadata()?.uid() {
        fchown(file, Some(parent.uid()), Some(parent.gid()))
            .with_context(|| format!("cannot give `{}` to the owner of its directory", path.display()))?;
    }
    Ok(())
}

/// Makes a directory for the user alone, whatever the umask.
pub(crate) fn create_directory(path: &Path) -> Result<()> {
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o700)))
        .with_context(|| format!("cannot make the directory `{}`", path.display()))?;
    inherit_owner(&File::open(path)?, path)
}

/// A new directory among the temporary ones for the user alone; it goes when it is dropped.
pub(crate) fn private_temporary_directory(prefix: &str) -> io::Result<TempDir> {
    tempfile::Builder::new().prefix(prefix).permissions(Permissions::from_mode(0o700)).tempdir()
}

/// How others could read a file, if they can: for `doctor`, before a read tightens it.
pub(crate) fn readable_by_others(path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.mode() & 0o777;
    (mode & 0o077 != 0).then(|| format!("mode {mode:04o}"))
}

/// Other names of the same file.
pub(crate) fn has_hard_links(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.nlink() > 1)
}

/// How others could put files into a directory, if they can.
pub(crate) fn writable_by_others(directory: &Path) -> Option<String> {
    let mode = fs::metadata(directory).ok()?.mode() & 0o777;
    // Others who may write could put a file or a symlink in the place of a credential; listing is no harm.
    (mode & 0o022 != 0).then(|| format!("mode {mode:04o}"))
}

/// Takes a directory away from others who may write in it.
pub(crate) fn restrict_directory(directory: &Path) -> io::Result<()> {
    let mode = fs::metadata(directory)?.mode() & 0o755;
    fs::set_permissions(directory, Permissions::from_mode(mode))
}

/// What to type to take a directory away from others.
pub(crate) fn how_to_restrict(directory: &Path) -> String {
    format!("`chmod go-w {}`, or `qwenauth doctor --fix`", directory.display())
}

/// What has become of a file that others could read.
pub(crate) const HOW_TIGHTENED: &str = "its mode is 0600 now; renew the key if others use this machine";
