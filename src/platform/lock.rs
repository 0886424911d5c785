//! The kernel lock between processes of ours, and what its holders note for each other.
//!
//! It frees itself when its holder dies, and its file is never renamed or deleted, so every waiter waits on the same inode.
//! Waiting outlasts a renewal (60 s against 25 s); a directory that cannot be locked is an error at once, not a wait.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::epoch;
use crate::error::{Failed, Failure, Reason, note};
use crate::platform::{disk, files, threads};

/// Timeout of the locks together: more than two renewals can take.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// A wait that passes this is explained on stderr.
pub(crate) const NOTICE_AFTER: Duration = Duration::from_secs(2);

/// A failure that the last holder recorded is shared by those who waited behind it for this long.
const SHARED: Duration = Duration::from_secs(2);

/// What the kernel lock file holds. One that cannot be read is empty: it is written before what it describes.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LockNotes {
    /// The id last written into Qwen Code's lock.
    pub(crate) qwen_code_lock: Option<String>,
    /// How the directory of Qwen Code's lock stood after our last change there, in nanoseconds since 1970.
    pub(crate) directory_changed: Option<u64>,
    /// When traces of another program's renewal were seen without a result, likewise.
    pub(crate) traces_seen: Option<u64>,
    /// Names of secrets that the keyring may have of this profile, whether or not its file names them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) keyring: Vec<String>,
    failure: Option<NotedFailure>,
}

#[derive(Clone, Serialize, Deserialize)]
struct NotedFailure {
    /// Milliseconds since 1970.
    at: u64,
    exit_code: u8,
    message: String,
    hint: Option<String>,
}

/// The file of the notes, where they have one of their own.
fn notes_path(lock: &Path) -> Option<PathBuf> {
    disk::LOCKS_KEEP_READERS_OUT.then(|| lock.with_extension("qwenauth-notes"))
}

/// The kernel lock. Held until dropped, or until the process ends in whatever way.
pub(crate) struct FileLock {
    /// Holds the lock, and the notes unless they have a file of their own.
    file: File,
    /// Set where a lock keeps readers out, so that `doctor` and others can read the notes of a held lock.
    notes_file: Option<File>,
    notes: LockNotes,
    waited_since: SystemTime,
}

impl FileLock {
    /// Creates the lock file with notes in it, so that no process takes the lock without them.
    ///
    /// Errors: [`io::ErrorKind::AlreadyExists`] if there are notes.
    pub(crate) fn create(path: &Path, change: impl FnOnce(&mut LockNotes)) -> io::Result<()> {
        let mut notes = LockNotes::default();
        change(&mut notes);
        let bytes = serde_json::to_vec(&notes)?;
        files::create_whole(&notes_path(path).unwrap_or_else(|| path.to_owned()), &bytes)?;
        Ok(())
    }

    /// Acquires the lock, waiting until `deadline`. `file` is the lock file, opened for reading and writing.
    ///
    /// Errors: temporary if it timed out; other if the file system does not support locks.
    pub(crate) fn acquire(file: File, path: &Path, deadline: Instant) -> Result<Self> {
        let waited_since = SystemTime::now();
        let file = match fs2::FileExt::try_lock_exclusive(&file) {
            Ok(()) => file,
            Err(error) if is_contended(&error) => wait(file, path, deadline)?,
            Err(error) => return Err(cannot_lock(&error, path)),
        };
        Self::held(file, path, waited_since)
    }

    /// Takes the lock if it is free.
    pub(crate) fn try_acquire(file: File, path: &Path) -> Result<Option<Self>> {
        match fs2::FileExt::try_lock_exclusive(&file) {
            Ok(()) => Self::held(file, path, SystemTime::now()).map(Some),
            Err(error) if is_contended(&error) => Ok(None),
            Err(error) => Err(cannot_lock(&error, path)),
        }
    }

    fn held(file: File, path: &Path, waited_since: SystemTime) -> Result<Self> {
        let notes_file = notes_path(path).map(|path| files::open_private(&path)).transpose()?;
        let mut file_lock = Self { file, notes_file, notes: LockNotes::default(), waited_since };
        file_lock.notes = file_lock.read().unwrap_or_default();
        Ok(file_lock)
    }

    fn read(&self) -> Result<LockNotes> {
        let mut text = String::new();
        let mut file = self.notes_file.as_ref().unwrap_or(&self.file);
        file.rewind()?;
        file.take(64 * 1024).read_to_string(&mut text)?;
        // What follows the first value is of a longer one before, whose writer was killed.
        let mut values = serde_json::Deserializer::from_str(&text).into_iter();
        Ok(values.next().transpose()?.unwrap_or_default())
    }

    pub(crate) fn notes(&self) -> &LockNotes {
        &self.notes
    }

    /// Notes help other processes and are not required: a failure to write them costs a wait or a request at most. They
    /// are overwritten by one call and then truncated, so that a kill in between leaves the old or the new ones, never
    /// none.
    pub(crate) fn change_notes(&mut self, change: impl FnOnce(&mut LockNotes)) {
        change(&mut self.notes);
        let mut file = self.notes_file.as_ref().unwrap_or(&self.file);
        let written = serde_json::to_vec(&self.notes).map_err(io::Error::other).and_then(|bytes| {
            file.rewind()?;
            file.write_all(&bytes)?;
            file.set_len(bytes.len() as u64)
        });
        if let Err(error) = written {
            log::warn!("cannot write the notes of the lock: {error}");
        }
    }

    /// The failure of the holder this one waited behind.
    pub(crate) fn shared_failure(&self) -> Option<Failed> {
        let failure = self.notes.failure.clone()?;
        let at = epoch::from_milliseconds(failure.at)?;
        let age = SystemTime::now().duration_since(at).ok()?;
        let failed = Failed::new(Failure::from_exit_code(failure.exit_code), failure.message);
        let failed = failure.hint.into_iter().fold(failed, Failed::hint);
        (at >= self.waited_since && age <= SHARED).then_some(failed)
    }

    /// Leaves `failed` for those who wait behind this holder.
    pub(crate) fn share_failure(&mut self, failed: &Failed) {
        let failure = NotedFailure {
            at: epoch::milliseconds(SystemTime::now()),
            exit_code: failed.failure.exit_code(),
            message: failed.message.clone(),
            hint: failed.hint.clone(),
        };
        self.change_notes(|notes| notes.failure = Some(failure));
    }
}

/// Whether another process holds the lock. Windows has no kind of error for that, only a number.
fn is_contended(error: &io::Error) -> bool {
    error.raw_os_error() == fs2::lock_contended_error().raw_os_error()
}

/// A lock held for some microseconds, for callers that must not wait.
pub(crate) struct TryLock<'file>(&'file File);

impl<'file> TryLock<'file> {
    /// `None`: another process holds it just now.
    pub(crate) fn take(file: &'file File) -> io::Result<Option<Self>> {
        match fs2::FileExt::try_lock_exclusive(file) {
            Ok(()) => Ok(Some(Self(file))),
            Err(error) if is_contended(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for TryLock<'_> {
    fn drop(&mut self) {
        // The lock is released with the file at the latest.
        let _ = fs2::FileExt::unlock(self.0);
    }
}

/// A blocking lock has no time limit, so a thread blocks and this one counts. A thread given up on frees the lock as
/// soon as it gets it.
fn wait(file: File, path: &Path, deadline: Instant) -> Result<File> {
    let receiver = threads::run(move || fs2::FileExt::lock_exclusive(&file).map(|()| file))?;
    let limit = |until: Duration| until.min(deadline.saturating_duration_since(Instant::now()));
    let began = Instant::now();
    log::info!("waiting for the lock `{}`, which another process holds", path.display());
    let mut outcome = receiver.recv_timeout(limit(NOTICE_AFTER));
    if outcome.is_err() && Instant::now() < deadline {
        note(&format!("waiting for another process that holds `{}`", path.display()));
        outcome = receiver.recv_timeout(limit(LOCK_TIMEOUT));
    }
    log::info!("waited {} ms for the lock `{}`", began.elapsed().as_millis(), path.display());
    match outcome {
        Ok(Ok(file)) => Ok(file),
        Ok(Err(error)) => Err(cannot_lock(&error, path)),
        Err(_) => Err(wait_over(path)),
    }
}

fn cannot_lock(error: &io::Error, path: &Path) -> anyhow::Error {
    Failed::new(Failure::Other, format!("cannot lock `{}`: {error}", path.display()))
        .because(Reason::Storage)
        .hint("the file system does not support locks; move the credential with `QWEN_HOME` or `QWENAUTH_HOME`")
        .into()
}

pub(crate) fn wait_over(path: &Path) -> anyhow::Error {
    Failed::new(
        Failure::Temporary,
        format!("another process has held `{}` for {} s", path.display(), LOCK_TIMEOUT.as_secs()),
    )
    .hint("nothing was lost; retry, and if it persists look for a stopped process")
    .into()
}
