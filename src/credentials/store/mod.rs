//! Where the credential of a profile lies: read it, lock it, replace it, remove it.
//!
//! Hazard: whoever writes without the lock, or over a version nobody read, loses a login. Rule: replacing and removing
//! take a [`Guard`], and a [`Guard`] is the lock.

mod given;
mod qwen_code;
mod traces;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use zeroize::Zeroizing;

pub(crate) use self::given::GivenKey;
pub(crate) use self::qwen_code::STALE;
use self::qwen_code::{POLL_INTERVAL, QwenCodeLock};
use super::Credential;
use super::document::{self, CredentialDocument, Format};
use super::refused::hash_of;
use crate::error::{Failed, note};
use crate::paths;
use crate::platform::disk::Version;
use crate::platform::files::{self, Content, PendingFile, Privacy};
use crate::platform::lock::{FileLock, LOCK_TIMEOUT, LockNotes, NOTICE_AFTER};
use crate::platform::signals::DeferredSignals;
use crate::secret::Secret;

/// Bytes a new version may have more than the old one. Tokens are some hundred bytes to a few thousand.
const GROWTH: usize = 64 * 1024;

/// What was found where a credential is kept.
pub(crate) enum Found {
    Missing,
    /// With the reason.
    Damaged(String),
    Present(Box<Snapshot>),
}

/// One version of a stored credential.
pub(crate) struct Snapshot {
    pub(crate) credential: Credential,
    bytes: Zeroizing<Vec<u8>>,
}

impl Snapshot {
    /// The whole of it, fields of other programs included.
    ///
    /// Errors: a sentence on what could not be written back.
    pub(super) fn document(&self) -> Result<CredentialDocument, String> {
        CredentialDocument::parse(&self.bytes)
    }
}

/// The place of one profile's credential.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    /// As configured; it may be a symlink.
    path: PathBuf,
    /// Qwen Code's lock, for the file shared with it.
    qwen_code_lock: Option<PathBuf>,
}

impl Store {
    /// `is_shared`: Qwen Code reads and writes the same file.
    pub(crate) fn new(path: PathBuf, is_shared: bool) -> Self {
        let qwen_code_lock = is_shared.then(|| paths::qwen_code_lock(&path));
        Self { path, qwen_code_lock }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn format(&self) -> Format {
        if self.qwen_code_lock.is_some() { Format::QwenCode } else { Format::Own }
    }

    pub(crate) fn read(&self) -> Result<Found> {
        Ok(match files::read(&self.path, Privacy::Private)? {
            Content::Missing => Found::Missing,
            Content::Unfit(why) => Found::Damaged(why),
            Content::Bytes(bytes) => self.understand(bytes),
        })
    }

    fn understand(&self, bytes: Zeroizing<Vec<u8>>) -> Found {
        match document::read(&bytes, self.format()) {
            Ok(Some(credential)) => Found::Present(Box::new(Snapshot { credential, bytes })),
            Ok(None) => Found::Missing,
            Err(why) => Found::Damaged(why),
        }
    }

    /// Tells this version from any other without reading it. `None`: there is none.
    pub(crate) fn version(&self) -> Option<Version> {
        Version::of(&self.path).ok()
    }

    /// Fails if a credential could not be stored, before a person is sent to approve a login. Leaves nothing behind.
    pub(crate) fn check_writable(&self) -> Result<()> {
        files::check_writable(&files::resolve(&self.path)?)?;
        let lock = self.lock_path()?;
        if lock.exists() { files::open_private(&lock).map(drop) } else { Ok(()) }
    }

    /// The file that [`Guard::complete`] would look into.
    pub(crate) fn unfinished(&self) -> Option<PathBuf> {
        let Ok(Found::Present(snapshot)) = self.read() else { return None };
        let token = snapshot.credential.refresh_token?;
        let path = files::unfinished_path(&files::resolve(&self.path).ok()?, &hash_of(&token));
        path.exists().then_some(path)
    }

    /// The lock file, beside the file that a symlink leads to.
    pub(crate) fn lock_path(&self) -> Result<PathBuf> {
        Ok(paths::kernel_lock(&files::resolve(&self.path)?))
    }

    /// Our own lock. [`Guard::lock_qwen_code`] takes the other.
    pub(super) fn lock(&self, deadline: Instant) -> Result<Guard> {
        let path = self.lock_path()?;
        let is_unresolved = self.is_unresolved_before(&path);
        let file_lock = FileLock::acquire(files::open_private(&path)?, &path, deadline)?;
        Ok(Guard { store: self.clone(), pending: None, qwen_code: None, file_lock, is_unresolved })
    }

    /// The same, if no process holds it.
    pub(super) fn try_lock(&self) -> Result<Option<Guard>> {
        let path = self.lock_path()?;
        let is_unresolved = self.is_unresolved_before(&path);
        let file_lock = FileLock::try_acquire(files::open_private(&path)?, &path)?;
        Ok(file_lock.map(|file_lock| Guard {
            store: self.clone(),
            pending: None,
            qwen_code: None,
            file_lock,
            is_unresolved,
        }))
    }

    /// Making the lock file, which happens once, changes the directory as well.
    fn is_unresolved_before(&self, lock: &Path) -> bool {
        !lock.exists() && self.shows_foreign_renewal(None)
    }

    /// Removes Qwen Code's lock if its holder is gone and no process of ours works on the credential. Says whether it did.
    pub(crate) fn remove_stale_lock(&self) -> Result<bool> {
        let (Some(lock), Some(mut guard)) = (&self.qwen_code_lock, self.try_lock()?) else { return Ok(false) };
        // What has changed before is not our doing.
        guard.shows_foreign_renewal();
        let is_removed = qwen_code::remove_stale(lock, &guard.file_lock)?;
        guard.note_directory();
        Ok(is_removed)
    }

    /// `noted`: how the directory stood after our last change there.
    fn shows_foreign_renewal(&self, noted: Option<SystemTime>) -> bool {
        let lock = self.qwen_code_lock.as_ref();
        lock.is_some_and(|lock| traces::show_foreign_renewal(lock, &self.path, noted))
    }

    /// Both locks, in a directory that is there, for the final change of `login` and `logout`.
    pub(super) fn lock_fully(&self) -> Result<Guard> {
        let deadline = Instant::now() + LOCK_TIMEOUT;
        if let Some(directory) = files::resolve(&self.path)?.parent() {
            files::make_directory(directory)?;
        }
        let mut guard = self.lock(deadline)?;
        guard.lock_qwen_code(deadline, || Ok(false))?;
        Ok(guard)
    }
}

/// The lock of one credential, and with it the right to change it.
pub(super) struct Guard {
    store: Store,
    pending: Option<PendingFile>,
    qwen_code: Option<QwenCodeLock>,
    file_lock: FileLock,
    /// A foreign renewal may be under way: how the directory stands is not noted as our doing.
    is_unresolved: bool,
}

impl Guard {
    /// Whether a renewal of Qwen Code's may be under way although no lock is there. Asked before our own lock changes
    /// the directory.
    pub(super) fn shows_foreign_renewal(&mut self) -> bool {
        let LockNotes { directory_changed, traces_seen, .. } = self.file_lock.notes();
        let (noted, seen) = (directory_changed.map(from_nanoseconds), traces_seen.map(from_nanoseconds));
        self.is_unresolved |= self.store.shows_foreign_renewal(noted);
        if self.is_unresolved {
            self.note_traces(to_nanoseconds(SystemTime::now()));
        } else if let Some(seen) = seen {
            // Seen by a process that could do without a renewal, and perhaps hidden by changes of our own since.
            self.is_unresolved = traces::is_open(seen, &self.store.path);
        }
        self.is_unresolved
    }

    fn note_traces(&mut self, seen: Option<u64>) {
        if seen.is_some() || self.file_lock.notes().traces_seen.is_some() {
            self.file_lock.change_notes(|notes| notes.traces_seen = seen);
        }
    }

    /// Whether a foreign lock went away while it was waited for, and left the file as it was.
    pub(super) fn saw_a_lock_vanish(&mut self) -> bool {
        let vanished = self.qwen_code.as_ref().is_some_and(|lock| lock.another_vanished);
        if vanished {
            self.is_unresolved = true;
            self.note_traces(to_nanoseconds(SystemTime::now()));
        }
        vanished
    }

    /// Waits until the file has another version than `before`. `false`: the time is over, or a signal has come.
    pub(super) fn await_change(&mut self, before: Option<Version>, limit: Duration) -> bool {
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

    /// What is changed by now is our own doing.
    fn note_directory(&mut self) {
        let Some(directory) = self.store.qwen_code_lock.as_ref().and_then(|lock| lock.parent()) else { return };
        if self.is_unresolved {
            return;
        }
        let changed = traces::modified(directory).and_then(to_nanoseconds);
        if changed != self.file_lock.notes().directory_changed {
            self.file_lock.change_notes(|notes| notes.directory_changed = changed);
        }
    }

    /// Takes Qwen Code's lock as well, where the file is shared with it.
    ///
    /// `Ok(false)`: `enough` ended the wait for another holder.
    pub(super) fn lock_qwen_code(&mut self, deadline: Instant, enough: impl FnMut() -> Result<bool>) -> Result<bool> {
        if let Some(path) = &self.store.qwen_code_lock {
            self.qwen_code = QwenCodeLock::acquire(path, &mut self.file_lock, deadline, enough)?;
            return Ok(self.qwen_code.is_some());
        }
        Ok(true)
    }

    /// The failure of the holder that this one waited behind.
    pub(super) fn shared_failure(&self) -> Option<Failed> {
        self.file_lock.shared_failure()
    }

    /// Leaves `failed` for those who wait behind this holder.
    pub(super) fn share_failure(&mut self, failed: &Failed) {
        self.file_lock.share_failure(failed);
    }

    /// Takes space for the next version, before `spent` is sent. What is drafted there is found by that token.
    pub(super) fn reserve(&mut self, spent: Option<&Secret>) -> Result<()> {
        let length = std::fs::metadata(&self.store.path).map_or(0, |metadata| metadata.len());
        let name = spent.map(hash_of);
        let bytes = usize::try_from(length)? + GROWTH;
        // The old room goes first: it would be taken for a leftover.
        self.pending = None;
        self.pending = Some(PendingFile::reserve_named(&self.store.path, bytes, Privacy::Private, name.as_deref())?);
        self.note_directory();
        Ok(())
    }

    /// Writes `document` where the next holder of the lock finds it if this process is killed before [`Guard::replace`].
    pub(super) fn draft(&mut self, document: &CredentialDocument) -> Result<()> {
        let Some(pending) = &mut self.pending else { return Ok(()) };
        Ok(pending.draft(&document.to_bytes()?)?)
    }

    /// The only writing of a credential: durable, whole, in one step.
    pub(super) fn replace(&mut self, document: &CredentialDocument) -> Result<Credential> {
        if self.pending.is_none() {
            self.reserve(None)?;
        }
        let bytes = document.to_bytes()?;
        if let Some(pending) = self.pending.take() {
            pending.write(&bytes)?;
        }
        self.written(bytes)
    }

    /// Puts in place what a process was granted for `spent` and wrote, but was killed before the rename: the server
    /// takes `spent` no more. `None`: there is nothing of the kind, or not the whole of it.
    /// `carry` is told the token that comes in its place, before it does.
    pub(super) fn complete(&mut self, spent: &Secret, carry: impl FnOnce(&Secret)) -> Result<Option<Credential>> {
        let name = hash_of(spent);
        let Some(bytes) = files::read_unfinished(&self.store.path, &name) else { return Ok(None) };
        let Ok(Some(successor)) = document::read(&bytes, self.store.format()) else { return Ok(None) };
        let Some(successor) = successor.refresh_token.filter(|token| token != spent) else { return Ok(None) };
        match self.store.read()? {
            Found::Present(now) if now.credential.refresh_token.as_ref() != Some(spent) => {
                return Ok(Some(now.credential));
            }
            _ => {}
        }
        log::warn!("a renewal was killed before its token was in place; that is done now");
        carry(&successor);
        PendingFile::reopen(&self.store.path, &name)?.write(&bytes)?;
        self.written(bytes).map(Some)
    }

    fn written(&self, bytes: Zeroizing<Vec<u8>>) -> Result<Credential> {
        match self.store.understand(bytes) {
            Found::Present(snapshot) => Ok(snapshot.credential),
            Found::Damaged(why) => anyhow::bail!("what was written cannot be read: {why}"),
            Found::Missing => anyhow::bail!("what was written holds no credential"),
        }
    }

    /// Renames a damaged file and says where it went.
    pub(super) fn set_aside(&mut self) -> Result<PathBuf> {
        files::set_aside(&self.store.path)
    }

    /// Removes the credential and whatever killed processes left beside it. Says whether there was one.
    pub(super) fn remove(&mut self) -> Result<bool> {
        self.pending = None;
        files::remove_unfinished(&self.store.path)?;
        files::remove(&self.store.path, Privacy::Private)
    }
}

fn from_nanoseconds(since: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(since)
}

fn to_nanoseconds(time: SystemTime) -> Option<u64> {
    u64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos()).ok()
}

impl Drop for Guard {
    /// In this order: a process that waits for ours finds Qwen Code's lock gone.
    fn drop(&mut self) {
        drop(self.pending.take());
        if self.qwen_code.is_some() {
            drop(self.qwen_code.take());
            self.note_directory();
        }
    }
}
