//! Opening, making and replacing files: never through a symlink, and despite other programs that have them open.
//!
//! Hazard: a file that another program has open without sharing its deletion can be neither replaced nor removed, and
//! virus scanners and indexers open each new file for a moment.
//! Rule: before something is spent for a new version, the old one is opened as a replacement would; what can still fail
//! afterwards is tried again.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::windows::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::os::windows::io::AsRawHandle;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tempfile::NamedTempFile;
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_CANT_RESOLVE_FILENAME, ERROR_LOCK_VIOLATION, ERROR_SHARING_VIOLATION,
    ERROR_USER_MAPPED_FILE,
};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, DELETE, FILE_ATTRIBUTE_REPARSE_POINT, FILE_FLAG_BACKUP_SEMANTICS,
    FILE_FLAG_OPEN_REPARSE_POINT, GetFileInformationByHandle,
};

/// Another program usually has a file open for some milliseconds.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// How long a file in use is waited for afterwards: as long as Qwen Code waits for a lock, less what a renewal takes.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(25);

/// How long a file in use is waited for before anything is spent.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// Opens a file and no reparse point in its place.
fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // A directory is opened too, so that it is called one and not a file without permission.
    let file = options.custom_flags(FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_BACKUP_SEMANTICS).open(path)?;
    if file.metadata()?.file_attributes() & FILE_ATTRIBUTE_REPARSE_POINT != 0 {
        return Err(io::Error::from_raw_os_error(ERROR_CANT_RESOLVE_FILENAME.cast_signed()));
    }
    Ok(file)
}

/// Windows has handles enough.
#[expect(clippy::unnecessary_wraps, reason = "the same shape as on Unix, where it can fail")]
pub(crate) fn check_free_descriptors(_count: usize) -> io::Result<()> {
    Ok(())
}

/// Opens for reading; does not follow a symlink.
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    patiently(|| open(OpenOptions::new().read(true), path))
}

/// Opens a named pipe or a device for reading.
pub(crate) fn open_pipe(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).open(path)
}

/// Opens for reading and writing.
pub(crate) fn open_to_write(path: &Path) -> io::Result<File> {
    open(OpenOptions::new().read(true).write(true), path)
}

/// Opens for reading and writing, and makes the file if it does not exist.
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    open(OpenOptions::new().read(true).write(true).create(true).truncate(false), path)
}

/// Opens for appending; each `write` appends one line atomically.
pub(crate) fn open_to_append(path: &Path) -> io::Result<File> {
    open(OpenOptions::new().append(true), path)
}

/// Makes a file that must not exist.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Makes a temporary file with the access list of its directory. Unlike what the builder makes by itself, it does not bear
/// the attribute of files that need not reach the disk.
pub(crate) fn temporary(builder: &tempfile::Builder<'_, '_>, directory: &Path) -> io::Result<NamedTempFile> {
    builder.make_in(directory, |path| OpenOptions::new().read(true).write(true).create_new(true).open(path))
}

/// NTFS keeps its own journal of names; there is nothing to flush.
#[expect(clippy::unnecessary_wraps, reason = "the same shape as on Unix, where it can fail")]
pub(crate) fn sync_directory(_directory: &Path) -> io::Result<()> {
    Ok(())
}

/// Replaces `target` by a temporary file, trying for [`REPLACE_TIMEOUT`] while another program has it open.
pub(crate) fn replace(mut temporary: NamedTempFile, target: &Path) -> Result<(), tempfile::PersistError> {
    let deadline = Instant::now() + REPLACE_TIMEOUT;
    loop {
        // Unlike the rename of `tempfile`, this one replaces a file that others have open and let be deleted.
        #[expect(clippy::disallowed_methods, reason = "this is where files are renamed")]
        match fs::rename(temporary.path(), target) {
            Ok(()) => {
                temporary.disable_cleanup(true);
                return Ok(());
            }
            // Windows may call it a denied access that another program has the target open.
            Err(error) if is_in_use(&error) || is(&error, ERROR_ACCESS_DENIED) => {
                if Instant::now() < deadline {
                    thread::sleep(POLL_INTERVAL);
                    continue;
                }
                let error = probe(target).err().filter(is_in_use).unwrap_or(error);
                return Err(tempfile::PersistError { error, file: temporary });
            }
            Err(error) => return Err(tempfile::PersistError { error, file: temporary }),
        }
    }
}

/// Fails where `target` could not be replaced because another program has it open and does not let go.
pub(crate) fn wait_until_replaceable(target: &Path) -> io::Result<()> {
    match patiently(|| probe(target)) {
        Err(error) if is_in_use(&error) => Err(error),
        // Anything else is told better by the attempt itself.
        _ => Ok(()),
    }
}

/// Opens `target` as its replacement would.
fn probe(target: &Path) -> io::Result<File> {
    OpenOptions::new().access_mode(DELETE).custom_flags(FILE_FLAG_OPEN_REPARSE_POINT).open(target)
}

/// Whether a file was not replaced because another program has it open.
pub(crate) fn is_in_use(error: &io::Error) -> bool {
    [ERROR_SHARING_VIOLATION, ERROR_LOCK_VIOLATION, ERROR_USER_MAPPED_FILE].iter().any(|&code| is(error, code))
}

fn is(error: &io::Error, code: u32) -> bool {
    error.raw_os_error() == Some(code.cast_signed())
}

/// Tries again while another program has a file open.
fn patiently<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match attempt() {
            Err(error) if is_in_use(&error) && Instant::now() < deadline => thread::sleep(POLL_INTERVAL),
            outcome => return outcome,
        }
    }
}

/// Removes a file, waiting a moment for a program that has it open.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    patiently(|| fs::remove_file(path))
}

/// Renames a file, waiting a moment for a program that has it open.
#[expect(clippy::disallowed_methods, reason = "this is where files are renamed")]
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    patiently(|| fs::rename(from, to))
}

/// No file is a mount point.
pub(crate) fn is_mount_point_error(_error: &io::Error) -> bool {
    false
}

pub(crate) fn is_mount_point(_target: &Path) -> bool {
    false
}

/// Fails if the user may not make files in `directory`: only an attempt tells.
pub(crate) fn check_writable(directory: &Path) -> io::Result<()> {
    tempfile::Builder::new().prefix(".qwenauth-").tempfile_in(directory).map(drop)
}

/// Whether a file may be written to.
pub(crate) fn is_writable(metadata: &Metadata) -> bool {
    !metadata.permissions().readonly()
}

/// What to type to make a file writable.
pub(crate) const MAKE_WRITABLE: &str = "attrib -r";

fn information(path: &Path, flags: u32) -> io::Result<BY_HANDLE_FILE_INFORMATION> {
    let file = OpenOptions::new().access_mode(0).custom_flags(flags | FILE_FLAG_BACKUP_SEMANTICS).open(path)?;
    let mut information = BY_HANDLE_FILE_INFORMATION::default();
    // SAFETY: the handle is open, and the structure is the one that is written.
    #[expect(unsafe_code, reason = "the index of a file has no safe interface")]
    let known = unsafe { GetFileInformationByHandle(file.as_raw_handle(), &raw mut information) };
    if known == 0 { Err(io::Error::last_os_error()) } else { Ok(information) }
}

/// Tells one file from another, whatever they are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity(u32, u32, u32);

impl Identity {
    /// Of the file at `path`, of a symlink itself.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        information(path, FILE_FLAG_OPEN_REPARSE_POINT).map(|file| Self::in_information(&file))
    }

    fn in_information(file: &BY_HANDLE_FILE_INFORMATION) -> Self {
        Self(file.dwVolumeSerialNumber, file.nFileIndexHigh, file.nFileIndexLow)
    }
}

/// Differs after each change of a file, its replacement included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    identity: Identity,
    length: (u32, u32),
    written: (u32, u32),
}

impl Version {
    /// Of the file that `path` points to.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let file = information(path, 0)?;
        Ok(Self {
            identity: Identity::in_information(&file),
            length: (file.nFileSizeHigh, file.nFileSizeLow),
            written: (file.ftLastWriteTime.dwHighDateTime, file.ftLastWriteTime.dwLowDateTime),
        })
    }
}

/// How many names a file has.
pub(super) fn links(path: &Path) -> io::Result<u32> {
    information(path, 0).map(|file| file.nNumberOfLinks)
}

/// When an entry was created.
pub(crate) fn created_at(_: &Path, metadata: &Metadata) -> Option<SystemTime> {
    metadata.created().ok()
}

/// When a file was written; a rename leaves no time of its own here.
pub(crate) fn changed_at(metadata: &Metadata) -> Option<SystemTime> {
    metadata.modified().ok()
}

/// Reads at `offset`.
pub(crate) fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    let (mut done, mut offset) = (0, offset);
    while done < bytes.len() {
        match file.seek_read(&mut bytes[done..], offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => (done, offset) = (done + length, offset + length as u64),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes at `offset`.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let (mut bytes, mut offset) = (bytes, offset);
    while !bytes.is_empty() {
        match file.seek_write(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => (bytes, offset) = (&bytes[length..], offset + length as u64),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Takes space for a new file, which reads as zeros.
pub(crate) fn allocate(mut file: &File, bytes: usize) -> io::Result<()> {
    use std::io::Write;
    file.write_all(&vec![0; bytes])?;
    file.sync_all()
}

/// A file is never rewritten in place.
#[expect(clippy::unnecessary_wraps, reason = "the same shape as on Linux, where it can fail")]
pub(crate) fn reserve_blocks(_file: &File, _bytes: usize) -> io::Result<()> {
    Ok(())
}

/// A lock keeps other processes from reading the locked file.
pub(crate) const LOCKS_KEEP_READERS_OUT: bool = true;

/// `path` without symlinks, as every program takes it: `cmd` starts nothing that begins with `\\?\`.
pub(crate) fn canonical(path: &Path) -> io::Result<PathBuf> {
    let real = fs::canonicalize(path)?;
    let plain = real.to_str().and_then(|real| real.strip_prefix(r"\\?\"));
    // A share of another machine begins with `UNC`, and a path of more than 260 characters has no other form.
    let plain = plain.filter(|plain| plain.as_bytes().get(1) == Some(&b':') && plain.len() < 260);
    Ok(plain.map(PathBuf::from).unwrap_or(real))
}

/// Makes `link` point to `target`.
pub(crate) fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    if target.is_dir() {
        std::os::windows::fs::symlink_dir(target, link)
    } else {
        std::os::windows::fs::symlink_file(target, link)
    }
}
