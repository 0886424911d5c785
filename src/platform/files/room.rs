//! Room for the next version of a file, and that version in the place of the old one.
//!
//! Hazards and rule: see [`super`].

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::unistd::geteuid;
use tempfile::{NamedTempFile, TempPath};
use zeroize::Zeroizing;

use super::{Content, Privacy, directory_of, inherit_owner, make_directory, read, resolve};

/// Space for a new version of a file, taken before the new version is known.
/// Dropped without [`Room::write`], it leaves nothing behind.
pub(crate) struct Room {
    temporary: NamedTempFile,
    target: PathBuf,
    /// Set where the target is a mount point: it cannot be replaced by a rename, so its own room is taken as well.
    in_place: Option<File>,
    /// What [`Room::draft`] has written.
    drafted: Zeroizing<Vec<u8>>,
}

impl Room {
    /// Takes `bytes` of space beside the file that `target` leads to, for its next version.
    ///
    /// The caller holds the lock of `target`: temporary files found beside it are leftovers of a killed process and go.
    pub(crate) fn reserve(target: &Path, bytes: usize, privacy: Privacy) -> Result<Self> {
        Self::reserve_named(target, bytes, privacy, None)
    }

    /// The same, under a `name` by which [`left_in`] finds what its process wrote if it is killed before the rename.
    pub(crate) fn reserve_named(target: &Path, bytes: usize, privacy: Privacy, name: Option<&str>) -> Result<Self> {
        let target = resolve(target)?;
        let directory = directory_of(&target);
        make_directory(directory)?;
        let prefix = temporary_prefix(&target);
        remove_leftovers(directory, &prefix);
        let failed = || format!("cannot prepare a new version of `{}`", target.display());
        let (prefix, random) = match name {
            Some(name) => (prefix + name, 0),
            None => (prefix, 6),
        };
        let temporary = tempfile::Builder::new()
            .prefix(&prefix)
            .rand_bytes(random)
            .suffix(".tmp")
            .permissions(Permissions::from_mode(0o600))
            .tempfile_in(directory)
            .with_context(failed)?;
        temporary.as_file().set_permissions(Permissions::from_mode(0o600)).with_context(failed)?;
        match fs::metadata(&target) {
            Ok(old) => {
                keep_owner(temporary.as_file(), &target, &old)?;
                if privacy == Privacy::Open {
                    let mode = Permissions::from_mode(old.mode() & 0o777);
                    temporary.as_file().set_permissions(mode).with_context(failed)?;
                }
            }
            Err(_) => inherit_owner(temporary.as_file(), &target)?,
        }
        allocate(temporary.as_file(), bytes).with_context(failed)?;
        let in_place = in_place_of(&target, bytes).with_context(failed)?;
        Ok(Self { temporary, target, in_place, drafted: Zeroizing::default() })
    }

    /// The room of this name that a killed process left. What is in it stays until it is in place.
    pub(crate) fn reopen(target: &Path, name: &str) -> Result<Self> {
        let target = resolve(target)?;
        let path = leftover(&target, name);
        let reopen = || {
            let file = OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NOFOLLOW).open(&path)?;
            let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
            let mut temporary = NamedTempFile::from_parts(file, TempPath::try_from_path(&path)?);
            temporary.disable_cleanup(true);
            Ok::<_, io::Error>((temporary, in_place_of(&target, length)?))
        };
        let (temporary, in_place) = reopen().with_context(|| format!("cannot use `{}`", path.display()))?;
        Ok(Self { temporary, target, in_place, drafted: Zeroizing::default() })
    }

    /// Writes `bytes` where [`left_in`] finds them if this process is killed now, as a rule those that [`Room::write`] is
    /// given later. Until then nothing is durable or in place.
    pub(crate) fn draft(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = self.temporary.as_file_mut();
        file.rewind()?;
        file.write_all(bytes)?;
        self.drafted = Zeroizing::new(bytes.to_vec());
        Ok(())
    }

    /// Replaces the file by `bytes`, durably and in one step. On an error the old version still stands.
    pub(crate) fn write(mut self, bytes: &[u8]) -> Result<()> {
        let target = self.target;
        let failed = || format!("cannot write `{}`", target.display());
        finish(self.temporary.as_file_mut(), &self.drafted, bytes).with_context(failed)?;
        let persisted = match self.in_place {
            Some(mut file) => {
                fill(&mut file, bytes).with_context(failed)?;
                forget(self.temporary);
                return Ok(());
            }
            None => self.temporary.persist(&target),
        };
        match persisted {
            Ok(_) => {}
            Err(error) if error.error.raw_os_error() == Some(nix::libc::EBUSY) => {
                let mut file = open_in_place(&target, bytes.len()).with_context(failed)?;
                fill(&mut file, bytes).with_context(failed)?;
                forget(error.file);
                return Ok(());
            }
            Err(error) => return Err(error.error).with_context(failed),
        }
        let directory = directory_of(&target);
        if let Err(error) = File::open(directory).and_then(|directory| directory.sync_all()) {
            log::warn!("cannot flush the directory `{}`: {error}", directory.display());
        }
        Ok(())
    }
}

/// Where the target cannot be replaced by a rename: itself, with room for so many bytes.
fn in_place_of(target: &Path, bytes: usize) -> io::Result<Option<File>> {
    if is_mount_point(target) { open_in_place(target, bytes).map(Some) } else { Ok(None) }
}

pub(super) fn temporary_prefix(target: &Path) -> String {
    format!(".{}.qwenauth-", target.file_name().unwrap_or_default().to_string_lossy())
}

/// A name beside `target` for what may be removed whenever a [`Room`] for `target` is reserved.
pub(crate) fn leftover(target: &Path, name: &str) -> PathBuf {
    target.with_file_name(format!("{}{name}.tmp", temporary_prefix(target)))
}

/// What a killed process wrote into the room of this name, as far as it came.
pub(crate) fn left_in(target: &Path, name: &str) -> Option<Zeroizing<Vec<u8>>> {
    let path = leftover(&resolve(target).ok()?, name);
    let Ok(Content::Bytes(mut bytes)) = read(&path, Privacy::Private) else { return None };
    // The space that was taken reads as zeros.
    let end = bytes.iter().rposition(|&byte| byte != 0)?;
    bytes.truncate(end + 1);
    Some(bytes)
}

/// Removes what killed processes left beside `target`, whose lock the caller holds.
pub(crate) fn remove_left(target: &Path) -> Result<()> {
    let target = resolve(target)?;
    remove_leftovers(directory_of(&target), &temporary_prefix(&target));
    Ok(())
}

fn remove_leftovers(directory: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(prefix) && name.ends_with(".tmp") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A file that root rewrites keeps its owner and mode.
fn keep_owner(file: &File, path: &Path, old: &Metadata) -> Result<()> {
    if !geteuid().is_root() || old.uid() == geteuid().as_raw() {
        return Ok(());
    }
    fchown(file, Some(old.uid()), Some(old.gid()))
        .and_then(|()| file.set_permissions(Permissions::from_mode(old.mode() & 0o700)))
        .with_context(|| format!("cannot keep the owner of `{}`", path.display()))
}

#[cfg(target_os = "linux")]
fn allocate(file: &File, bytes: usize) -> io::Result<()> {
    let length = nix::libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    nix::fcntl::posix_fallocate(file, 0, length).map_err(io::Error::from)
}

#[cfg(not(target_os = "linux"))]
fn allocate(mut file: &File, bytes: usize) -> io::Result<()> {
    file.write_all(&vec![0; bytes])?;
    file.sync_all()
}

pub(super) fn open_in_place(target: &Path, bytes: usize) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NOFOLLOW).open(target)?;
    reserve_blocks(&file, bytes)?;
    Ok(file)
}

/// Takes blocks behind the end of a file without changing its length; a file system that cannot is no obstacle.
#[cfg(target_os = "linux")]
fn reserve_blocks(file: &File, bytes: usize) -> io::Result<()> {
    use nix::errno::Errno;
    use nix::fcntl::{FallocateFlags, fallocate};
    let length = nix::libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length) {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve_blocks(_file: &File, _bytes: usize) -> io::Result<()> {
    Ok(())
}

/// Whether a file is itself a mount point, as in a container that binds one file. Only Linux tells beforehand;
/// elsewhere the rename fails with `EBUSY`, which [`Room::write`] answers.
#[cfg(target_os = "linux")]
fn is_mount_point(target: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Ok(target) = fs::canonicalize(target) else { return false };
    let escaped: Vec<u8> = target
        .as_os_str()
        .as_bytes()
        .iter()
        .flat_map(|&byte| match byte {
            b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
            _ => vec![byte],
        })
        .collect();
    // proc_pid_mountinfo(5): the fifth field is the mount point, with white space and backslashes in octal.
    fs::read("/proc/self/mountinfo").is_ok_and(|table| {
        table.split(|&byte| byte == b'\n').any(|line| line.split(|&byte| byte == b' ').nth(4) == Some(&escaped))
    })
}

#[cfg(not(target_os = "linux"))]
fn is_mount_point(_target: &Path) -> bool {
    false
}

/// Removes what has been copied to where it belongs.
fn forget(temporary: NamedTempFile) {
    if let Err(error) = temporary.close() {
        log::warn!("a copy is left beside the file: {error}");
    }
}

/// Like [`fill`], where `drafted` may stand already. Something else is never laid over it in pieces: half of each might
/// look whole.
fn finish(file: &mut File, drafted: &[u8], bytes: &[u8]) -> io::Result<()> {
    if drafted != bytes {
        file.rewind()?;
        file.write_all(&[0])?;
        file.write_all(bytes.get(1..).unwrap_or_default())?;
        file.rewind()?;
        file.write_all(bytes.get(..1).unwrap_or_default())?;
    }
    file.set_len(bytes.len() as u64)?;
    file.sync_all()
}

pub(super) fn fill(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.rewind()?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()
}
