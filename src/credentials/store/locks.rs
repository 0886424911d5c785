//! The two locks of a credential, and the signs that Qwen Code may be renewing although its lock is gone.
//!
//! Hazard: any Qwen Code process that exits removes the lock of one that is renewing. Rule: the directory shows that a
//! file was removed ([`traces`]), so every change of ours is recorded in our own lock file, and an unexplained one means
//! that another program may be renewing.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;

use super::qwen_code::{POLL_INTERVAL, QwenCodeLock};
use super::{Store, qwen_code, traces};
use crate::error::{Failed, note};
use crate::platform::disk::Version;
use crate::platform::lock::{FileLock, LockNotes, NOTICE_AFTER};
use crate::platform::signals::DeferredSignals;

/// How long the removal of a lock may take. Only if it is killed, a change by another program in this time is missed.
const RELEASE_TIME: Duration = Duration::from_millis(100);

/// Our own lock of one credential, and Qwen Code's as well once it is taken.
pub(in crate::credentials) struct Locks {
    store: Store,
    qwen_code: Option<QwenCodeLock>,
    pub(super) own: FileLock,
    /// Whether another program may be renewing; then the state of the directory is not recorded as ours.
    is_unresolved: bool,
}

impl Locks {
    pub(super) fn new(store: &Store, own: FileLock, is_unresolved: bool) -> Self {
        Self { store: store.clone(), qwen_code: None, own, is_unresolved }
    }

    /// Whether Qwen Code may be renewing although there is no lock. Call it before our own lock changes the directory.
    pub(in crate::credentials) fn shows_foreign_renewal(&mut self) -> bool {
        let LockNotes { directory_changed, traces_seen, .. } = self.own.notes();
        let (noted, seen) = (directory_changed.map(from_nanoseconds), traces_seen.map(from_nanoseconds));
        self.is_unresolved |= self.store.shows_foreign_renewal(noted);
        if self.is_unresolved {
            self.note_traces(to_nanoseconds(SystemTime::now()));
        } else if let Some(seen) = seen {
            // Seen by a process that did not need to renew, and possibly hidden by changes of ours since then.
            self.is_unresolved = traces::is_open(seen, &self.store.path);
        }
        self.is_unresolved
    }

    fn note_traces(&mut self, seen: Option<u64>) {
        if seen.is_some() || self.own.notes().traces_seen.is_some() {
            self.own.change_notes(|notes| notes.traces_seen = seen);
        }
    }

    /// Whether another program's lock vanished during the wait and the file did not change.
    pub(in crate::credentials) fn saw_a_lock_vanish(&mut self) -> bool {
        let vanished = self.qwen_code.as_ref().is_some_and(|lock| lock.another_vanished);
        if vanished {
            self.is_unresolved = true;
            self.note_traces(to_nanoseconds(SystemTime::now()));
        }
        vanished
    }

    /// Waits until the file differs from `before`. Returns `false` on timeout or on a signal.
    pub(in crate::credentials) fn await_change(&mut self, before: Option<Version>, limit: Duration) -> bool {
        let started = Instant::now();
        let mut told = false;
        while started.elapsed() < limit && !DeferredSignals::noted() {
            if self.store.version() != before {
                self.resolve();
                return true;
            }
            if !told && started.elapsed() >= NOTICE_AFTER {
                note("waiting for Qwen Code, which may be renewing the login");
                told = true;
            }
            thread::sleep(POLL_INTERVAL);
        }
        if !DeferredSignals::noted() {
            self.resolve();
        }
        false
    }

    fn resolve(&mut self) {
        self.is_unresolved = false;
        self.note_traces(None);
    }

    /// Records that all changes to the directory so far are ours.
    pub(super) fn note_directory(&mut self) {
        let Some(directory) = self.store.qwen_code_lock.as_ref().and_then(|lock| lock.parent()) else { return };
        if self.is_unresolved {
            return;
        }
        let changed = traces::modified(directory).and_then(to_nanoseconds);
        if changed != self.own.notes().directory_changed {
            self.own.change_notes(|notes| notes.directory_changed = changed);
        }
    }

    /// Records in advance that Qwen Code's lock is removed now: if this process is killed before [`Self::note_directory`],
    /// the change is known to be ours.
    pub(super) fn note_release(&mut self) {
        if !self.is_unresolved {
            let until = to_nanoseconds(SystemTime::now() + RELEASE_TIME);
            self.own.change_notes(|notes| notes.directory_changed = until);
        }
    }

    /// Also takes Qwen Code's lock, if the file is shared with it.
    ///
    /// Returns `Ok(false)` if `enough` ended the wait for another holder.
    pub(in crate::credentials) fn lock_qwen_code(
        &mut self,
        deadline: Instant,
        enough: impl FnMut() -> Result<bool>,
    ) -> Result<bool> {
        if let Some(path) = &self.store.qwen_code_lock {
            self.qwen_code = QwenCodeLock::acquire(path, &mut self.own, deadline, enough)?;
            if let Some(failed) = self.qwen_code.as_mut().and_then(|lock| lock.refused.take()) {
                self.release_qwen_code();
                return failed.err();
            }
            return Ok(self.qwen_code.is_some());
        }
        Ok(true)
    }

    /// The failure of the holder that this process waited for.
    pub(in crate::credentials) fn shared_failure(&self) -> Option<Failed> {
        self.own.shared_failure()
    }

    /// Records `failed` for the processes that wait for this holder.
    pub(in crate::credentials) fn share_failure(&mut self, failed: &Failed) {
        self.own.share_failure(failed);
    }

    /// Removes Qwen Code's lock if its holder is gone. Returns whether it did.
    pub(super) fn remove_stale_lock(&mut self) -> Result<bool> {
        let Some(path) = self.store.qwen_code_lock.clone() else { return Ok(false) };
        // Earlier changes are not ours.
        self.shows_foreign_renewal();
        let _deferred = DeferredSignals::new();
        self.note_release();
        let is_removed = qwen_code::remove_stale(&path, &self.own);
        self.note_directory();
        is_removed
    }

    /// Removes Qwen Code's lock, if it is ours. Afterwards the directory is recorded as changed by this process.
    ///
    /// A signal waits until the end: the removal would look like that of another program's lock.
    pub(super) fn release_qwen_code(&mut self) {
        if self.qwen_code.is_none() {
            return;
        }
        let _deferred = DeferredSignals::new();
        self.note_release();
        drop(self.qwen_code.take());
        self.note_directory();
    }
}

impl Drop for Locks {
    /// The order matters: a process that waits for our lock must find Qwen Code's lock gone.
    fn drop(&mut self) {
        self.release_qwen_code();
    }
}

fn from_nanoseconds(since: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(since)
}

pub(super) fn to_nanoseconds(time: SystemTime) -> Option<u64> {
    u64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos()).ok()
}
