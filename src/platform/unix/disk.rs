//! Opening, making and replacing files: never through a symlink, private from their first moment.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::libc::{EBUSY, O_NOFOLLOW, O_NONBLOCK};
use tempfile::NamedTempFile;

/// Fails if this many more descriptors cannot be opened. Sockets, because an image made from scratch may have no file to open.
pub(crate) fn check_free_descriptors(count: usize) -> io::Result<()> {
    (0..count).map(|_| UnixDatagram::unbound()).collect::<io::Result<Vec<_>>>().map(drop)
}

/// Opens for reading; neither follows a symlink nor waits for the writer of a FIFO.
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path)
}

/// Opens a FIFO or a device for reading, and waits for the writer; follows no symlink.
pub(crate) fn open_pipe(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(path)
}

/// Opens for reading and writing.
pub(crate) fn open_to_write(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path)
}

/// A FIFO would wait for its other end, at the next read if not now.
fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Opens a regular file for reading and writing, and makes it if it does not exist.
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(O_NOFOLLOW | O_NONBLOCK)
        .open(path)
        .and_then(regular)
}

/// Opens a regular file for appending; each `write` appends one line atomically.
pub(crate) fn open_to_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path).and_then(regular)
}

/// Makes a file that must not exist.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Makes a temporary file, private from the start.
pub(crate) fn temporary(builder: &mut tempfile::Builder<'_, '_>, directory: &Path) -> io::Result<NamedTempFile> {
    builder.permissions(Permissions::from_mode(0o600)).tempfile_in(directory)
}

/// Flushes what was renamed in a directory.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Replaces `target` by a temporary file.
pub(crate) fn replace(temporary: NamedTempFile, target: &Path) -> Result<(), tempfile::PersistError> {
    temporary.persist(target).map(drop)
}

/// A file that another program has open can be replaced.
#[expect(clippy::unnecessary_wraps, reason = "the same shape as on Windows, where it can fail")]
pub(crate) fn wait_until_replaceable(_target: &Path) -> io::Result<()> {
    Ok(())
}

/// Whether a file was not replaced because another program has it open.
pub(crate) fn is_in_use(_error: &io::Error) -> bool {
    false
}

/// Removes a file, even while it is open elsewhere.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    fs::remove_file(path)
}

/// Renames a file, even while it is open elsewhere.
#[expect(clippy::disallowed_methods, reason = "this is where files are renamed")]
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// A lock is advice: others can read the locked file.
pub(crate) const LOCKS_KEEP_READERS_OUT: bool = false;

/// Whether a file was not replaced or removed because it is a mount point.
pub(crate) fn is_mount_point_error(error: &io::Error) -> bool {
    error.raw_os_error() == Some(EBUSY)
}

/// Fails if the user may not make files in `directory`.
pub(crate) fn check_writable(directory: &Path) -> io::Result<()> {
    use nix::unistd::{AccessFlags, access};
    access(directory, AccessFlags::W_OK | AccessFlags::X_OK).map_err(io::Error::from)
}

/// Whether the owner may write into a file.
pub(crate) fn is_writable(metadata: &Metadata) -> bool {
    metadata.mode() & 0o200 != 0
}

/// What to type to make a file writable.
pub(crate) const MAKE_WRITABLE: &str = "chmod u+w";

/// Identifies a file, whatever its name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity(u64, u64);

impl Identity {
    /// Of the file at `path`, of a symlink itself.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        fs::symlink_metadata(path).map(|metadata| Self(metadata.dev(), metadata.ino()))
    }
}

/// Differs after each change of a file, its replacement included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Version {
    /// Of the file that `path` points to.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            changed: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// When an entry was created, where the file system says so. Follows no symlink.
#[cfg(target_os = "linux")]
pub(crate) fn created_at(path: &Path, _: &Metadata) -> Option<SystemTime> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

    // Not by the standard library, which does not ask for it where the C library is musl.
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME).ok()?;
    if found.stx_mask & StatxFlags::BTIME.bits() == 0 {
        return None;
    }
    let seconds = u64::try_from(found.stx_btime.tv_sec).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::new(seconds, found.stx_btime.tv_nsec))
}

/// When an entry was created, where the file system says so.
#[cfg(not(target_os = "linux"))]
pub(crate) fn created_at(_: &Path, metadata: &Metadata) -> Option<SystemTime> {
    metadata.created().ok()
}

/// When a file was written, renamed or had its mode changed.
pub(crate) fn changed_at(metadata: &Metadata) -> Option<SystemTime> {
    let seconds = u64::try_from(metadata.ctime()).ok()?;
    let nanoseconds = u32::try_from(metadata.ctime_nsec()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds))
}

/// Reads at `offset`, whatever else uses the file.
pub(crate) fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(bytes, offset)
}

/// Writes at `offset`, whatever else uses the file.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// Reserves space for a new file, which reads as zeros. An empty file needs none, and the system rejects a length of
/// zero.
#[cfg(target_os = "linux")]
pub(crate) fn allocate(file: &File, bytes: usize) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    let length = nix::libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    nix::fcntl::posix_fallocate(file, 0, length).map_err(io::Error::from)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn allocate(mut file: &File, bytes: usize) -> io::Result<()> {
    use std::io::Write;
    file.write_all(&vec![0; bytes])?;
    file.sync_all()
}

/// Reserves blocks behind the end of a file without changing its length; unsupported file systems are ignored. The
/// system rejects a length of zero.
#[cfg(target_os = "linux")]
pub(crate) fn reserve_blocks(file: &File, bytes: usize) -> io::Result<()> {
    use nix::errno::Errno;
    use nix::fcntl::{FallocateFlags, fallocate};
    if bytes == 0 {
        return Ok(());
    }
    let length = nix::libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length) {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "the same shape as on Linux, where it can fail")]
pub(crate) fn reserve_blocks(_file: &File, _bytes: usize) -> io::Result<()> {
    Ok(())
}

/// Whether a file is itself a mount point, as in a container that binds one file. Only Linux shows this in advance;
/// elsewhere the rename fails, see [`is_mount_point_error`].
#[cfg(target_os = "linux")]
pub(crate) fn is_mount_point(target: &Path) -> bool {
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
pub(crate) fn is_mount_point(_target: &Path) -> bool {
    false
}

/// `path` without symlinks.
pub(crate) fn canonical(path: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(path)
}

/// Makes `link` point to `target`.
pub(crate) fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}
