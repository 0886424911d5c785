//! The one lock between processes, Qwen Code's protocol included.
//!
//! Two locks guard a credential. Ours is a kernel lock ([`Kernel`]): it frees itself when its holder dies, and its file is
//! never renamed or deleted, so every waiter waits on the same inode. Qwen Code's ([`QwenCode`]) is a file made with
//! `O_EXCL`, which is no mutual exclusion; it is kept so that Qwen Code waits for us, never relied upon for our own safety.
//! Order: kernel lock, read again, Qwen Code's lock, read again, ask; released in reverse.
//!
//! How Qwen Code's hazards (measured on 0.1.4 to 0.24.4) are met:
//! - **R1, R2** any Qwen Code process that exits or is interrupted unlinks the lock, whoever holds it. The holder's
//!   heartbeat finds the path gone and makes it again within 500 ms. Among our own processes the kernel lock holds.
//! - **R3** two processes that judge one lock stale can rename away each other's new lock. We judge and take over only
//!   under the kernel lock, compare inode and content after the rename, and put back what was not judged.
//! - **R4** versions up to 0.15 break a lock after 10 s though 0.24 may hold it for 30 s. The heartbeat keeps the mtime
//!   younger than 0.5 s; a lock that has become another's is neither touched nor removed.
//! - **R5** a killed holder's lock makes 0.24 wait 28.9 s and then start a device login. A lock that bears the id noted in
//!   the kernel lock file was left by a killed process of ours and is taken over at once by the next; ours is never held
//!   longer than the renewal's 25 s.
//! - **R6–R9** concern the credential file: see credentials.
//! - **R10** ages compare a file's mtime with the wall clock. A lock dated more than 35 s ahead counts as stale too, so a
//!   clock set back cannot block renewals for ever.
//!
//! And the pains of others: released only when held and only while it bears our id (a lock removed by one who never had it
//! lets two renew at once); waiting outlasts the renewal (60 s against 25 s); a directory that cannot be locked is an error
//! at once, not a wait; nothing is ever renewed without the lock.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Failed, Failure, note};
use crate::platform::disk::{self, Identity};
use crate::platform::files;
use crate::platform::signals::Held;

/// How long the locks are waited for, in all: more than two renewals can take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A wait that passes this is explained on stderr.
const SILENCE: Duration = Duration::from_secs(2);

/// Qwen Code's lock is stale at this age since 0.21.2 (10 s before; its holder may legally take 30 s).
const STALE: Duration = Duration::from_secs(35);

/// A twentieth of the age at which the oldest Qwen Code breaks a lock.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// How often another's Qwen Code lock is looked at; Qwen Code itself looks every 0.1 to 2 s.
const LOOK: Duration = Duration::from_millis(50);

/// A failure noted by the last holder is shared by those who waited behind it for this long.
const SHARED: Duration = Duration::from_secs(2);

/// What the kernel lock file holds. One that cannot be read is empty: it is written before what it describes.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Notes {
    /// The id last written into Qwen Code's lock.
    qwen_code_lock: Option<String>,
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

/// The kernel lock. Held until dropped, or until the process ends in whatever way.
pub(crate) struct Kernel {
    file: File,
    notes: Notes,
    waited_since: SystemTime,
}

impl Kernel {
    /// Takes the lock, waiting until `deadline`. `file` is the lock file, opened for reading and writing.
    ///
    /// Errors: temporary when the wait is over; other when the file system has no locks.
    pub(crate) fn acquire(file: File, path: &Path, deadline: Instant) -> Result<Self> {
        let waited_since = SystemTime::now();
        let file = match fs2::FileExt::try_lock_exclusive(&file) {
            Ok(()) => file,
            Err(error) if error.kind() == fs2::lock_contended_error().kind() => wait(file, path, deadline)?,
            Err(error) => return Err(cannot_lock(&error, path)),
        };
        let mut kernel = Self { file, notes: Notes::default(), waited_since };
        kernel.notes = kernel.read().unwrap_or_default();
        Ok(kernel)
    }

    /// Takes the lock if it is free.
    pub(crate) fn try_acquire(file: File, path: &Path) -> Result<Option<Self>> {
        match fs2::FileExt::try_lock_exclusive(&file) {
            Ok(()) => Ok(Some(Self { file, notes: Notes::default(), waited_since: SystemTime::now() })),
            Err(error) if error.kind() == fs2::lock_contended_error().kind() => Ok(None),
            Err(error) => Err(cannot_lock(&error, path)),
        }
    }

    fn read(&mut self) -> Result<Notes> {
        let mut text = String::new();
        self.file.rewind()?;
        (&self.file).take(64 * 1024).read_to_string(&mut text)?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Notes are a help for others, not a condition: one that cannot be written costs a wait or a request at most.
    fn write(&mut self) {
        let written = serde_json::to_vec(&self.notes).map_err(io::Error::other).and_then(|bytes| {
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.file.write_all(&bytes)
        });
        if let Err(error) = written {
            log::warn!("cannot write the notes of the lock: {error}");
        }
    }

    /// The failure of the holder this one waited behind.
    pub(crate) fn shared_failure(&self) -> Option<Failed> {
        let failure = self.notes.failure.clone()?;
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(failure.at);
        let age = SystemTime::now().duration_since(at).ok()?;
        (at >= self.waited_since && age <= SHARED).then(|| Failed {
            failure: Failure::from_exit_code(failure.exit_code),
            message: failure.message,
            hint: failure.hint,
        })
    }

    /// Leaves `failed` for those who wait behind this holder.
    pub(crate) fn share_failure(&mut self, failed: &Failed) {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.notes.failure = Some(NotedFailure {
            at: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
            exit_code: failed.failure.exit_code(),
            message: failed.message.clone(),
            hint: failed.hint.clone(),
        });
        self.write();
    }
}

/// A lock held for some microseconds, where nobody may wait.
pub(crate) struct Brief<'file>(&'file File);

impl<'file> Brief<'file> {
    /// `None`: another process holds it just now.
    pub(crate) fn take(file: &'file File) -> io::Result<Option<Self>> {
        match fs2::FileExt::try_lock_exclusive(file) {
            Ok(()) => Ok(Some(Self(file))),
            Err(error) if error.kind() == fs2::lock_contended_error().kind() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Brief<'_> {
    fn drop(&mut self) {
        // It goes with the file at the latest.
        let _ = fs2::FileExt::unlock(self.0);
    }
}

/// A blocking lock has no time limit, so a thread blocks and this one counts. A thread given up on frees the lock as
/// soon as it gets it.
fn wait(file: File, path: &Path, deadline: Instant) -> Result<File> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let locked = fs2::FileExt::lock_exclusive(&file).map(|()| file);
        let _ = sender.send(locked);
    });
    let limit = |until: Duration| until.min(deadline.saturating_duration_since(Instant::now()));
    let mut outcome = receiver.recv_timeout(limit(SILENCE));
    if outcome.is_err() && Instant::now() < deadline {
        note(&format!("waiting for another process that holds `{}`", path.display()));
        outcome = receiver.recv_timeout(limit(PATIENCE));
    }
    match outcome {
        Ok(Ok(file)) => Ok(file),
        Ok(Err(error)) => Err(cannot_lock(&error, path)),
        Err(_) => Err(wait_over(path)),
    }
}

fn cannot_lock(error: &io::Error, path: &Path) -> anyhow::Error {
    Failed::new(Failure::Other, format!("cannot lock `{}`: {error}", path.display()))
        .hint("the file system has no locks; keep the credential on one that has: set `QWEN_HOME` or `QWENAUTH_HOME`")
        .into()
}

fn wait_over(path: &Path) -> anyhow::Error {
    Failed::new(
        Failure::Temporary,
        format!("another process has held `{}` for {} s", path.display(), PATIENCE.as_secs()),
    )
    .hint("nothing was lost; try again, and look for a stopped process if it stays so")
    .into()
}

/// Qwen Code's lock. Removed when dropped, if it is still ours.
pub(crate) struct QwenCode {
    stop: Option<Sender<()>>,
    heart: Option<JoinHandle<()>>,
    path: PathBuf,
    id: String,
    /// Dropped last: a signal that came meanwhile is acted upon when the lock is gone.
    _held: Held,
}

impl QwenCode {
    /// Takes Qwen Code's lock at `path`, waiting until `deadline` while another holds it.
    /// `enough` is asked now and then during the wait and ends it early, with `None`.
    pub(crate) fn acquire(
        path: &Path,
        kernel: &mut Kernel,
        deadline: Instant,
        mut enough: impl FnMut() -> Result<bool>,
    ) -> Result<Option<Self>> {
        let id = lock_id();
        let started = Instant::now();
        let mut told = false;
        loop {
            let held = Held::new();
            if let Some(file) = Self::create(path, &id, kernel)? {
                return Ok(Some(Self::hold(path.to_owned(), id, file, held)));
            }
            drop(held);
            if let Some(judged) = stale(path, kernel.notes.qwen_code_lock.as_deref()) {
                take_over(path, &judged)?;
                continue;
            }
            if enough()? {
                return Ok(None);
            }
            if Instant::now() >= deadline {
                return Err(wait_over(path));
            }
            if !told && started.elapsed() >= SILENCE {
                note(&format!("waiting for Qwen Code, which holds `{}`", path.display()));
                told = true;
            }
            thread::sleep(LOOK);
        }
    }

    /// Makes the lock file, or `None` where one stands. Its id is noted first, so that a kill at any moment leaves
    /// either no lock or one that the next holder of the kernel lock knows for ours.
    fn create(path: &Path, id: &str, kernel: &mut Kernel) -> Result<Option<File>> {
        let previous = kernel.notes.qwen_code_lock.clone();
        if fs::symlink_metadata(path).is_ok() {
            return Ok(None);
        }
        kernel.notes.qwen_code_lock = Some(id.to_owned());
        kernel.write();
        match create_with_id(path, id) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                kernel.notes.qwen_code_lock = previous;
                kernel.write();
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("cannot make the lock `{}`", path.display())),
        }
    }

    fn hold(path: PathBuf, id: String, file: File, held: Held) -> Self {
        let (stop, stopped) = mpsc::channel();
        let beat = (path.clone(), id.clone());
        let heart = thread::spawn(move || {
            let mut file = file;
            while stopped.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
                let _ = file.set_modified(SystemTime::now());
                let gone = fs::symlink_metadata(&beat.0).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
                if gone && let Ok(again) = create_with_id(&beat.0, &beat.1) {
                    file = again;
                }
            }
        });
        Self { stop: Some(stop), heart: Some(heart), path, id, _held: held }
    }
}

impl Drop for QwenCode {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(heart) = self.heart.take() {
            let _ = heart.join();
        }
        if read_id(&self.path).as_deref() == Some(&self.id)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("cannot remove the lock `{}`: {error}", self.path.display());
        }
    }
}

/// What Qwen Code writes: a UUID version 4, without a newline.
fn lock_id() -> String {
    Uuid::new_v4().to_string()
}

/// In one step: a kill between making the file and writing the id would leave a lock that bears nobody's id, and block
/// every renewal until it is stale.
fn create_with_id(path: &Path, id: &str) -> io::Result<File> {
    files::create_whole(path, id.as_bytes())
}

/// The first 64 bytes of a lock, or `None` where there is no regular file to read.
fn read_id(path: &Path) -> Option<String> {
    let file = disk::open_to_read(path).ok()?;
    let mut bytes = Vec::new();
    file.take(64).read_to_end(&mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}

/// What was judged: only this very file may be taken over.
#[derive(PartialEq, Eq)]
struct Judged {
    identity: Option<Identity>,
    content: Option<String>,
}

/// The lock at `path`, if its holder is gone: it bears `ours`, the id of a killed process of ours (we hold the kernel
/// lock, so none is alive in it), or its age is beyond [`STALE`] in either direction.
fn stale(path: &Path, ours: Option<&str>) -> Option<Judged> {
    let metadata = fs::symlink_metadata(path).ok()?;
    let judged = Judged { identity: Identity::of(path).ok(), content: read_id(path) };
    let left_by_us = ours.is_some() && judged.content.as_deref() == ours;
    let modified = metadata.modified().ok()?;
    let age = SystemTime::now().duration_since(modified).unwrap_or_else(|ahead| ahead.duration());
    (left_by_us || age > STALE).then_some(judged)
}

/// Renames a stale lock away and removes it. If what was renamed is not what was judged, it goes back. What a kill leaves
/// of this goes with the leftovers of the next new version of the credential.
fn take_over(path: &Path, judged: &Judged) -> Result<()> {
    let aside = files::leftover(&path.with_extension("json"), &lock_id());
    #[expect(clippy::disallowed_methods, reason = "a lock is not a file with content to keep")]
    match fs::rename(path, &aside) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot take over the stale lock `{}`", path.display()));
        }
    }
    let moved = Judged { identity: Identity::of(&aside).ok(), content: read_id(&aside) };
    if moved == *judged {
        log::info!("took over the stale lock `{}`", path.display());
    } else {
        log::info!("the lock `{}` changed hands while it was judged; it is put back", path.display());
        let _ = fs::hard_link(&aside, path);
    }
    let _ = fs::remove_file(&aside).or_else(|_| fs::remove_dir(&aside));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_not_the_one_judged_is_put_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("oauth_creds.lock");
        create_with_id(&path, "theirs").unwrap();
        take_over(&path, &Judged { identity: None, content: Some("theirs".into()) }).unwrap();
        assert_eq!(read_id(&path).as_deref(), Some("theirs"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_lock_made_by_another_in_our_place_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("oauth_creds.lock");
        let lock = QwenCode::hold(path.clone(), "ours".into(), create_with_id(&path, "ours").unwrap(), Held::new());
        fs::remove_file(&path).unwrap();
        create_with_id(&path, "theirs").unwrap();
        drop(lock);
        assert_eq!(read_id(&path).as_deref(), Some("theirs"));
    }
}
