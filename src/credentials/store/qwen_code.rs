//! Qwen Code's file: its lock, and the traces of its renewals (all measured with 0.1.4 to 0.24.4).
//!
//! Hazard: its lock is a file created with `O_EXCL`, which does not provide mutual exclusion. Rule: it is held only so
//! that Qwen Code waits for us; our own safety depends on the kernel lock. The order is: kernel lock, read again, Qwen
//! Code's lock, read again, request; the locks are released in reverse.
//!
//! - **R1, R2** any Qwen Code process that exits or is interrupted deletes the lock, even if another process holds it. Our
//!   heartbeat notices that the file is gone and creates it again within 500 ms. A renewal by Qwen Code that lost its lock
//!   this way leaves [`super::traces`], or its lock disappears while we wait ([`QwenCodeLock::another_vanished`]).
//! - **R3** two processes that consider one lock stale can rename each other's new lock. We examine and take over a lock
//!   only under the kernel lock, compare inode and content after the rename, and put another file back.
//! - **R4** versions up to 0.15 break a lock after 10 s, although 0.24 may hold it for 30 s. The heartbeat keeps its mtime
//!   younger than 0.5 s; a lock that now belongs to another process is neither touched nor removed.
//! - **R5** the lock of a killed holder makes 0.24 wait 28.9 s and then start a device login. A lock with the id recorded
//!   in the kernel lock file was left by a killed process of ours, and our next process takes it over at once; ours is
//!   never held longer than the 25 s of a renewal.
//! - **R10** ages compare a file's mtime with the wall clock. A lock dated more than 35 s in the future counts as stale
//!   too, so that a clock that was set back cannot block renewals forever.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use uuid::Uuid;

use crate::error::{Failed, note};
use crate::platform::disk::{self, Identity};
use crate::platform::files;
use crate::platform::lock::{FileLock, NOTICE_AFTER, wait_over};
use crate::platform::signals::DeferredSignals;
use crate::platform::threads;

/// Age at which Qwen Code's lock is stale, since 0.21.2 (10 s before; its holder may legitimately take 30 s).
pub(crate) const STALE: Duration = Duration::from_secs(35);

/// A twentieth of the age at which the oldest Qwen Code breaks a lock.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// How often the lock of another process is checked; Qwen Code itself checks every 0.1 to 2 s.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Qwen Code's lock. Removed when dropped, if it is still ours.
pub(super) struct QwenCodeLock {
    stop: Option<Sender<()>>,
    heart: Option<JoinHandle<()>>,
    /// Why it has no heartbeat: others would take it for stale.
    pub(super) refused: Option<Failed>,
    path: PathBuf,
    id: String,
    /// Whether another program's lock disappeared while this process waited for it.
    pub(super) another_vanished: bool,
    /// Dropped last: signals that arrived in the meantime are handled once the lock is gone.
    _held: DeferredSignals,
}

impl QwenCodeLock {
    /// Takes Qwen Code's lock at `path`, waiting until `deadline` while another process holds it. `enough` is polled
    /// during the wait; if it returns `true`, the wait ends with `None`.
    pub(super) fn acquire(
        path: &Path,
        file_lock: &mut FileLock,
        deadline: Instant,
        mut enough: impl FnMut() -> Result<bool>,
    ) -> Result<Option<Self>> {
        let id = lock_id();
        let started = Instant::now();
        let (mut logged, mut told, mut saw_another) = (false, false, false);
        loop {
            let held = DeferredSignals::new();
            if let Some(file) = Self::create(path, &id, file_lock)? {
                if logged {
                    log::info!("waited {} ms for the lock of Qwen Code", started.elapsed().as_millis());
                }
                let mut lock = Self::hold(path.to_owned(), id, file, held);
                lock.another_vanished = saw_another;
                return Ok(Some(lock));
            }
            drop(held);
            if let Some(judged) = stale(path, file_lock.notes().qwen_code_lock.as_deref()) {
                take_over(path, &judged)?;
                saw_another = false;
                continue;
            }
            saw_another = true;
            if enough()? {
                return Ok(None);
            }
            if Instant::now() >= deadline {
                return Err(wait_over(path));
            }
            if !logged {
                log::info!("waiting for the lock `{}`, which Qwen Code holds", path.display());
                logged = true;
            }
            if !told && started.elapsed() >= NOTICE_AFTER {
                note(&format!("waiting for Qwen Code, which holds `{}`", path.display()));
                told = true;
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Creates the lock file. Returns `None` if there is one. Its id is recorded first, so that a kill at any moment
    /// leaves either no lock or one that the next holder of the kernel lock recognizes as ours.
    fn create(path: &Path, id: &str, file_lock: &mut FileLock) -> Result<Option<File>> {
        let previous = file_lock.notes().qwen_code_lock.clone();
        if fs::symlink_metadata(path).is_ok() {
            return Ok(None);
        }
        file_lock.change_notes(|notes| notes.qwen_code_lock = Some(id.to_owned()));
        match create_with_id(path, id) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                file_lock.change_notes(|notes| notes.qwen_code_lock = previous);
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("cannot create the lock `{}`", path.display())),
        }
    }

    fn hold(path: PathBuf, id: String, file: File, held: DeferredSignals) -> Self {
        let (stop, stopped) = mpsc::channel();
        let beat = (path.clone(), id.clone());
        let heart = threads::start(move || {
            let mut file = file;
            while stopped.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
                let _ = file.set_modified(SystemTime::now());
                let gone = fs::symlink_metadata(&beat.0).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
                if gone && let Ok(again) = create_with_id(&beat.0, &beat.1) {
                    file = again;
                }
            }
        });
        let (heart, refused) = match heart {
            Ok(heart) => (Some(heart), None),
            Err(failed) => (None, Some(failed)),
        };
        Self { stop: Some(stop), heart, refused, path, id, another_vanished: false, _held: held }
    }
}

impl Drop for QwenCodeLock {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(heart) = self.heart.take() {
            let _ = heart.join();
        }
        if read_id(&self.path).as_deref() == Some(&self.id)
            && let Err(error) = disk::remove_file(&self.path)
        {
            log::warn!("cannot remove the lock `{}`: {error}", self.path.display());
        }
    }
}

/// The content that Qwen Code writes: a UUID version 4, without a newline.
fn lock_id() -> String {
    Uuid::new_v4().to_string()
}

/// Created atomically: a kill between creating the file and writing the id would leave a lock with no known id, which
/// blocks every renewal until it is stale.
fn create_with_id(path: &Path, id: &str) -> io::Result<File> {
    files::create_whole(path, id.as_bytes())
}

fn read_id(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    disk::open_to_read(path).ok()?.take(64).read_to_end(&mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}

/// The lock that was examined: only this file may be taken over.
#[derive(PartialEq, Eq)]
struct Judged {
    identity: Option<Identity>,
    content: Option<String>,
}

/// The lock at `path`, if its holder is gone: it has the id `ours` of a killed process of ours (we hold the kernel
/// lock, so no such process is alive), or its age exceeds [`STALE`] in either direction.
fn stale(path: &Path, ours: Option<&str>) -> Option<Judged> {
    let metadata = fs::symlink_metadata(path).ok()?;
    let judged = Judged { identity: Identity::of(path).ok(), content: read_id(path) };
    let left_by_us = ours.is_some() && judged.content.as_deref() == ours;
    let modified = metadata.modified().ok()?;
    let age = SystemTime::now().duration_since(modified).unwrap_or_else(|ahead| ahead.duration());
    (left_by_us || age > STALE).then_some(judged)
}

/// Removes the lock at `path` if it is stale. Returns whether it did.
pub(super) fn remove_stale(path: &Path, file_lock: &FileLock) -> Result<bool> {
    let Some(judged) = stale(path, file_lock.notes().qwen_code_lock.as_deref()) else { return Ok(false) };
    take_over(path, &judged)?;
    Ok(fs::symlink_metadata(path).is_err())
}

/// Renames a stale lock and removes it. If the renamed file is not the one that was examined, it is put back. If this
/// process is killed, the renamed file is removed with the leftovers of the next version of the credential.
fn take_over(path: &Path, judged: &Judged) -> Result<()> {
    let aside = files::unfinished_path(&path.with_extension("json"), &lock_id());
    match disk::rename(path, &aside) {
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
    let _ = disk::remove_file(&aside).or_else(|_| fs::remove_dir(&aside));
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
        let lock = QwenCodeLock::hold(
            path.clone(),
            "ours".into(),
            create_with_id(&path, "ours").unwrap(),
            DeferredSignals::new(),
        );
        fs::remove_file(&path).unwrap();
        create_with_id(&path, "theirs").unwrap();
        drop(lock);
        assert_eq!(read_id(&path).as_deref(), Some("theirs"));
    }
}
