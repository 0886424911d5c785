//! Owners and modes of files: whose files are trusted, and who may use ours.
//!
//! Hazard: a file, a directory or a symlink that another user made or may change decides where a login is stored, or
//! makes root change a file that is not a credential. Rule: every directory and symlink of a path is checked before it
//! is followed; a file is trusted if it is the user's own, or root's and not writable by others.

use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result};
use nix::unistd::geteuid;
use tempfile::TempDir;

use crate::error::{Failed, Failure, note, path_for_sh};
use crate::platform::files::{Privacy, directory_of, make_directory, open_private};
use crate::sha256::sha256;

/// The user that this process works for when it runs as root: see [`work_for`].
static WORK: OnceLock<Work> = OnceLock::new();

struct Work {
    /// Of the directories of the user in whose home root works.
    owners: Vec<u32>,
    /// Where it is recorded that a file was reported.
    reported: PathBuf,
}

/// Names the directories this process works in, whose owners root believes as it does itself, and the directory where it
/// is recorded which files were reported as readable by others. The first call counts.
pub(crate) fn work_for(homes: &[&Path], reported: PathBuf) {
    let owners =
        if geteuid().is_root() { homes.iter().filter_map(|home| owner_of(home)).collect() } else { Vec::new() };
    let _ = WORK.set(Work { owners, reported });
}

/// The owner of a directory that may not exist yet: then of the one it will be made in.
fn owner_of(path: &Path) -> Option<u32> {
    path.ancestors().find_map(|path| fs::metadata(path).ok()).map(|metadata| metadata.uid())
}

/// The user, or for root the user in whose home it works.
fn is_own(owner: u32) -> bool {
    let user = geteuid();
    owner == user.as_raw() || user.is_root() && WORK.get().is_some_and(|work| work.owners.contains(&owner))
}

/// Fails where `file` names a command that root is to run and another user may have written.
pub(crate) fn check_commands_in(file: &Path) -> Result<()> {
    let owner = fs::metadata(file).map_or(0, |metadata| metadata.uid());
    if !geteuid().is_root() || owner == 0 {
        return Ok(());
    }
    let message =
        format!("`{}` belongs to another user (uid {owner}), and root does not run commands from it", file.display());
    Failed::new(Failure::Other, message)
        .hint("run this as that user, or set `QWENAUTH_HOME` to a directory of root's own")
        .err()
}

/// Fails where root would change `named`, a path in the `file` of another user, which is not that user's.
pub(crate) fn check_changed_for(file: &Path, named: &Path) -> Result<()> {
    let owner = fs::metadata(file).map_or(0, |metadata| metadata.uid());
    if !geteuid().is_root() || owner == 0 || owner_of(named) == Some(owner) {
        return Ok(());
    }
    let message = format!(
        "`{}` of another user (uid {owner}) names `{}`, which that user does not own; nothing was changed",
        file.display(),
        named.display()
    );
    Failed::new(Failure::Other, message).hint("run this as that user").err()
}

/// Whether root works in the home of an ordinary user.
pub(crate) fn is_in_anothers_home() -> bool {
    WORK.get().is_some_and(|work| work.owners.iter().any(|owner| *owner != 0))
}

/// Root, or an owner that has no number in the user namespace of this process (see `user_namespaces(7)`): in a sandbox
/// that maps only its own user, the system's files have no known owner.
fn is_system(owner: u32) -> bool {
    owner == 0 || is_unmapped(owner)
}

#[cfg(target_os = "linux")]
fn is_unmapped(owner: u32) -> bool {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    if read("/proc/sys/kernel/overflowuid").trim().parse() != Ok(owner) {
        return false;
    }
    let map = read("/proc/self/uid_map");
    let ranges = map.lines().filter_map(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        Some((*numbers.first()?, *numbers.get(2)?))
    });
    let is_mapped = |(first, count)| (first..first + count).contains(&u64::from(owner));
    !map.is_empty() && !ranges.into_iter().any(is_mapped)
}

#[cfg(not(target_os = "linux"))]
fn is_unmapped(_owner: u32) -> bool {
    false
}

fn belongs_to_another(path: &Path, owner: u32) -> Failed {
    Failed::new(Failure::Other, format!("`{}` belongs to another user (uid {owner}) and is not used", path.display()))
        .hint("check who should own it; if it is yours, `chown` it to yourself")
}

/// Fails where root's own file has got another name in another user's directory: see `link(2)`.
fn check_hard_links(path: &Path, metadata: &Metadata) -> Result<()> {
    let is_roots_own = geteuid().is_root() && metadata.uid() == 0;
    if !is_roots_own || metadata.nlink() == 1 || owner_of(directory_of(path)) == Some(0) {
        return Ok(());
    }
    let message = format!("`{}` is a hard link to a file of root and is not used", path.display());
    Failed::new(Failure::Other, message).err()
}

/// Fails unless the user may change a file. Root may change any user's file in a directory that belongs to root.
pub(crate) fn check_owner(path: &Path, metadata: &Metadata) -> Result<()> {
    check_hard_links(path, metadata)?;
    let owner = metadata.uid();
    let is_in_roots = || fs::metadata(directory_of(path)).is_ok_and(|directory| directory.uid() == 0);
    if is_own(owner) || geteuid().is_root() && metadata.nlink() == 1 && is_in_roots() {
        return Ok(());
    }
    belongs_to_another(path, owner).err()
}

/// Fails unless a file is to be trusted: it is the user's own, or root's and not writable by others, as mounted secrets
/// are. `path` contains no symlink.
pub(crate) fn check_file(path: &Path, metadata: &Metadata, privacy: Privacy) -> Result<()> {
    let owner = metadata.uid();
    if is_own(owner) {
        return check_hard_links(path, metadata);
    }
    if is_system(owner) {
        if metadata.mode() & 0o022 == 0 || has_no_modes(path) {
            return Ok(());
        }
        let mode = metadata.mode() & 0o7777;
        return Failed::new(
            Failure::Other,
            format!(
                "`{}` belongs to root but can be changed by others (mode {mode:04o}), and is not used",
                path.display()
            ),
        )
        .hint(format!("as root, run `chmod go-w {}`", path_for_sh(path)))
        .err();
    }
    match privacy {
        Privacy::Private => check_owner(path, metadata),
        _ => belongs_to_another(path, owner).err(),
    }
}

/// The same for a FIFO, which no other user may write to either, or a device, whose mode does not tell what is read.
pub(crate) fn check_pipe(path: &Path, metadata: &Metadata, privacy: Privacy) -> Result<()> {
    let owner = metadata.uid();
    if !metadata.file_type().is_fifo() {
        let is_believed = is_own(owner) || is_system(owner);
        return if is_believed { Ok(()) } else { belongs_to_another(path, owner).err() };
    }
    check_file(path, metadata, privacy)?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        let message = format!("`{}` is writable by others (mode {mode:04o}) and is not used", path.display());
        return Failed::new(Failure::Other, message).hint(format!("run `chmod go-w {}`", path_for_sh(path))).err();
    }
    Ok(())
}

fn unused(directory: &Path, wanted: &Path, why: &str) -> Failed {
    let message = format!("`{}` {why}, so `{}` is not used", directory.display(), wanted.display());
    Failed::new(Failure::Other, message)
}

/// Fails unless a directory on the way to `wanted` is the user's or root's.
pub(crate) fn check_directory(directory: &Path, metadata: &Metadata, wanted: &Path) -> Result<()> {
    let owner = metadata.uid();
    if is_own(owner) || is_system(owner) {
        return Ok(());
    }
    unused(directory, wanted, &format!("belongs to another user (uid {owner})"))
        .hint("check who should own it; if it is yours, `chown` it to yourself")
        .err()
}

/// Fails unless a directory on the way to `wanted`, which is there, keeps other users from putting another in its place.
pub(crate) fn check_unwritable(directory: &Path, metadata: &Metadata, wanted: &Path) -> Result<()> {
    let mode = metadata.mode();
    if mode & 0o1002 == 0o002 && !has_no_modes(directory) {
        let why = format!("is writable by everyone (mode {:04o})", mode & 0o7777);
        return unused(directory, wanted, &why).hint(format!("run `chmod o-w {}`", path_for_sh(directory))).err();
    }
    Ok(())
}

/// Fails unless a symlink was made by the user or by root; for root, by root or by the owner of `target`.
pub(crate) fn check_link(path: &Path, metadata: &Metadata, target: &Path) -> Result<()> {
    let (user, owner) = (geteuid(), metadata.uid());
    if is_system(owner) || owner == user.as_raw() {
        return Ok(());
    }
    if !user.is_root() {
        let message = format!("`{}` is a symlink of another user and is not followed", path.display());
        return Failed::new(Failure::Other, message).err();
    }
    let of_target = fs::symlink_metadata(target).map(|metadata| metadata.uid()).ok().or_else(|| owner_of(target));
    if is_own(owner) && of_target == Some(owner) {
        return Ok(());
    }
    let message = format!(
        "`{}` is a symlink of another user (uid {owner}) to `{}`, which that user does not own; it is not followed",
        path.display(),
        target.display()
    );
    Failed::new(Failure::Other, message).hint("run this as that user").err()
}

/// Whether a file system has no owners and modes of its own: it shows the same for every file, and `chmod` does nothing.
#[cfg(target_os = "linux")]
fn has_no_modes(path: &Path) -> bool {
    // 9P (WSL's drives, virtual machines), FAT, exFAT, NTFS, CIFS, SMB: see linux/magic.h and statfs(2).
    const KINDS: [u64; 7] = [0x0102_1997, 0x4d44, 0x2011_bab0, 0x5346_544e, 0x7366_746e, 0xff53_4d42, 0xfe53_4d42];
    nix::sys::statfs::statfs(path).is_ok_and(|system| {
        #[expect(clippy::cast_sign_loss, reason = "a magic number of 32 bits")]
        #[allow(clippy::unnecessary_cast, reason = "its type differs from one C library to the next")]
        let kind = system.filesystem_type().0 as u64 & 0xffff_ffff;
        KINDS.contains(&kind)
    })
}

#[cfg(not(target_os = "linux"))]
fn has_no_modes(_path: &Path) -> bool {
    false
}

/// Makes a file private that others can access, with one line on stderr. `is_ours`: whether it certainly is a file of
/// ours; a file that may be another user's, reached by a symlink or by root in a user's home, keeps its mode.
pub(crate) fn tighten(path: &Path, file: &File, metadata: &Metadata, privacy: Privacy, is_ours: bool) {
    if !is_own(metadata.uid()) || !is_ours {
        return;
    }
    // The configuration of the owner of the home may name any file of root's as a key.
    if privacy == Privacy::Secret && metadata.uid() == 0 && is_in_anothers_home() {
        return;
    }
    if privacy == Privacy::Private && metadata.nlink() > 1 {
        note(&format!("`{}` has {} hard links: a renewal updates only this one", path.display(), metadata.nlink()));
    }
    let mode = metadata.mode() & 0o7777;
    let shown = path.display();
    let (loose, tight) = match privacy {
        Privacy::Private => (0o077, 0o600),
        Privacy::Secret => (0o077, mode & 0o600),
        Privacy::Config if mode & 0o002 == 0 => {
            if mode & 0o020 != 0 && !has_no_modes(path) {
                let quoted = path_for_sh(path);
                note(&format!(
                    "warning: other members of its group can change `{shown}`; run `chmod g-w {quoted}` if they should not"
                ));
            }
            return;
        }
        Privacy::Config => (0o022, mode & !0o022),
        Privacy::Open => return,
    };
    if mode & loose == 0 {
        return;
    }
    let changed = file.set_permissions(Permissions::from_mode(tight)).and_then(|()| file.metadata());
    let why = match changed {
        Ok(now) if now.mode() & loose == 0 => {
            note(&format!("tightened the mode of `{shown}` from {mode:04o} to {tight:04o}"));
            return;
        }
        Ok(_) => "its file system ignores `chmod`".to_owned(),
        Err(error) => error.to_string(),
    };
    let can = if privacy == Privacy::Config { "changed" } else { "read" };
    if is_first_report(path) {
        note(&format!("`{shown}` can be {can} by others (mode {mode:04o}), and its mode cannot be changed: {why}"));
    }
}

/// Whether a file is reported for the first time. Where that cannot be recorded, each time is the first.
fn is_first_report(path: &Path) -> bool {
    let Some(work) = WORK.get() else { return true };
    let record = work.reported.join(sha256(path.as_os_str().as_bytes()));
    if record.exists() {
        return false;
    }
    let made = make_directory(&work.reported).and_then(|()| open_private(&record));
    if let Err(error) = made {
        log::debug!("cannot record that a file was reported: {error:#}");
    }
    true
}

/// Gives a file of ours to the user alone.
pub(crate) fn restrict(file: &File) -> io::Result<()> {
    if file.metadata()?.mode() & 0o7777 == 0o600 {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(0o600))
}

/// Gives the next version of a configuration file the rights of the last, which is at `path`.
pub(crate) fn keep_mode(file: &File, path: &Path, old: &Metadata) -> io::Result<()> {
    // With an access list, the group's bits are the list's mask, and not what the group may do.
    let kept = if keep_access_list(file, path) { 0o777 } else { 0o707 };
    file.set_permissions(Permissions::from_mode(old.mode() & kept))
}

/// Gives `file` the access list (acl(5)) of the one at `path`. Returns `false` for one that cannot be kept.
#[cfg(target_os = "linux")]
fn keep_access_list(file: &File, path: &Path) -> bool {
    use rustix::fs::{XattrFlags, fsetxattr, getxattr};
    use rustix::io::Errno;

    /// Maximum size of an extended attribute, in bytes.
    const MAX_LIST: usize = 64 * 1024;
    let mut list = vec![0; MAX_LIST];
    match getxattr(path, ACCESS_LIST, &mut list[..]) {
        Ok(length) => fsetxattr(file, ACCESS_LIST, &list[..length], XattrFlags::empty()).is_ok(),
        Err(error) => matches!(error, Errno::NODATA | Errno::NOTSUP | Errno::NOSYS),
    }
}

/// Elsewhere the mode says what the group may do.
#[cfg(not(target_os = "linux"))]
fn keep_access_list(_file: &File, _path: &Path) -> bool {
    true
}

#[cfg(target_os = "linux")]
const ACCESS_LIST: &str = "system.posix_acl_access";

/// A file that root rewrites keeps its owner and mode.
pub(crate) fn keep_owner(file: &File, path: &Path, old: &Metadata) -> Result<()> {
    if !geteuid().is_root() || old.uid() == geteuid().as_raw() {
        return Ok(());
    }
    fchown(file, Some(old.uid()), Some(old.gid()))
        .and_then(|()| file.set_permissions(Permissions::from_mode(old.mode() & 0o700)))
        .with_context(|| format!("cannot preserve the owner of `{}`", path.display()))
}

/// Files that root creates in a user's directory are chowned to that user, who could not use them otherwise.
pub(crate) fn inherit_owner(file: &File, path: &Path) -> Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let parent = fs::metadata(directory_of(path))?;
    if parent.uid() != file.metadata()?.uid() {
        fchown(file, Some(parent.uid()), Some(parent.gid()))
            .with_context(|| format!("cannot change the owner of `{}` to that of its directory", path.display()))?;
    }
    Ok(())
}

/// Makes a directory for the user alone, whatever the umask.
pub(crate) fn create_directory(path: &Path) -> Result<()> {
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o700)))
        .with_context(|| format!("cannot create the directory `{}`", path.display()))?;
    inherit_owner(&File::open(path)?, path)
}

/// A new temporary directory for the user alone; it is removed when it is dropped.
pub(crate) fn private_temporary_directory(prefix: &str) -> io::Result<TempDir> {
    tempfile::Builder::new().prefix(prefix).permissions(Permissions::from_mode(0o700)).tempdir()
}

/// How others could read a file, if they can: for `doctor`, before a read tightens it.
pub(crate) fn readable_by_others(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok().filter(Metadata::is_file)?;
    let mode = metadata.mode() & 0o777;
    (mode & 0o077 != 0).then(|| format!("mode {mode:04o}"))
}

/// Other names of the same file.
pub(crate) fn has_hard_links(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.nlink() > 1)
}

/// How others could put files into a directory, if they can.
pub(crate) fn writable_by_others(directory: &Path) -> Option<String> {
    let mode = fs::metadata(directory).ok()?.mode() & 0o777;
    (mode & 0o022 != 0).then(|| format!("mode {mode:04o}"))
}

/// How others could read a directory of the user, if they can.
pub(crate) fn open_to_others(directory: &Path) -> Option<String> {
    let metadata = fs::metadata(directory).ok()?;
    let mode = metadata.mode() & 0o777;
    (mode & 0o077 != 0 && is_own(metadata.uid())).then(|| format!("mode {mode:04o}"))
}

/// Makes a directory of the user private.
pub(crate) fn restrict_directory(directory: &Path) -> io::Result<()> {
    let metadata = fs::metadata(directory)?;
    if !is_own(metadata.uid()) {
        return Err(io::Error::other("it belongs to another user"));
    }
    fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    if fs::metadata(directory)?.mode() & 0o077 != 0 {
        return Err(io::Error::other("its file system ignores `chmod`"));
    }
    Ok(())
}

/// The command that makes a directory private.
pub(crate) fn how_to_restrict(directory: &Path) -> String {
    format!("run `chmod 700 {}` or `qwenauth doctor --fix`", path_for_sh(directory))
}

/// What has become of a file that others could read.
pub(crate) fn how_tightened(path: &Path) -> String {
    match readable_by_others(path) {
        None => "its mode is now 0600; replace the key if other people use this machine".to_owned(),
        Some(_) => format!("run `chmod 600 {}`; replace the key if other people use this machine", path_for_sh(path)),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::fs::{XattrFlags, getxattr, setxattr};

    use super::*;

    #[test]
    fn a_new_version_has_the_access_list_of_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| directory.path().join(name));
        let (old_file, new_file) = (File::create(&old).unwrap(), File::create(&new).unwrap());
        old_file.set_permissions(Permissions::from_mode(0o600)).unwrap();
        // acl(5): the owner may read and write, a named user may read, the group nothing.
        let none = u32::MAX;
        let entries = [(1, 6, none), (2, 4, geteuid().as_raw()), (4, 0, none), (0x10, 4, none), (0x20, 0, none)];
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            let (tag, rights): (u16, u16) = (tag, rights);
            list.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
            list.extend(id.to_le_bytes());
        }
        if setxattr(&old, ACCESS_LIST, &list, XattrFlags::empty()).is_err() {
            return; // A file system without access lists.
        }
        keep_mode(&new_file, &old, &fs::metadata(&old).unwrap()).unwrap();
        let mut kept = vec![0; list.len()];
        assert_eq!(getxattr(&new, ACCESS_LIST, &mut kept[..]), Ok(list.len()));
        assert_eq!(kept, list);
    }
}
