//! The lock of a credential, and every change to it.
//!
//! Hazard: a writer without the lock, or one that overwrites a version it has not read, loses a login. Rule: replacing
//! and removing require a [`Guard`], and a [`Guard`] is the lock.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use zeroize::Zeroizing;

use super::keyring::{self, Seal};
use super::qwen_code::{POLL_INTERVAL, QwenCodeLock};
use super::{Found, Store, traces};
use crate::credentials::Credential;
use crate::credentials::document::{self, CredentialDocument, Format};
use crate::credentials::refused::hash_of;
use crate::error::{Failed, note};
use crate::platform::disk::Version;
use crate::platform::files::{self, Content, Kept, PendingFile, Privacy};
use crate::platform::keyring::Trouble;
use crate::platform::lock::{FileLock, LockNotes, NOTICE_AFTER};
use crate::platform::signals::DeferredSignals;
use crate::secret::Secret;

/// Bytes by which a new version may be longer. Tokens have from a few hundred to a few thousand bytes.
const GROWTH: usize = 64 * 1024;

/// How long the removal of a lock may take. Only if it is killed, a change by another program in this time is missed.
const RELEASE: Duration = Duration::from_millis(100);

/// A version that is about to be written.
struct Next {
    whole: Zeroizing<Vec<u8>>,
    /// The file's content.
    record: Zeroizing<Vec<u8>>,
    /// The keyring's content, with its name there.
    secret: Option<(String, Zeroizing<Vec<u8>>)>,
}

/// Whether the file names a secret in the keyring.
enum Known {
    NotRead,
    No,
    Entry(String),
}

impl From<Option<&String>> for Known {
    fn from(entry: Option<&String>) -> Self {
        entry.map_or(Self::No, |entry| Self::Entry(entry.clone()))
    }
}

/// The lock of one credential, and the right to change it.
pub(in crate::credentials) struct Guard {
    store: Store,
    pending: Option<PendingFile>,
    /// Encrypts the next token in the draft, if the secret is kept in the keyring.
    seal: Option<Seal>,
    /// The version that was drafted.
    next: Option<Next>,
    /// The name of the secret in the keyring, as far as it is known.
    known: Known,
    qwen_code: Option<QwenCodeLock>,
    pub(super) file_lock: FileLock,
    /// Whether another program may be renewing; then the state of the directory is not recorded as ours.
    is_unresolved: bool,
}

impl Guard {
    pub(super) fn new(store: &Store, file_lock: FileLock, is_unresolved: bool) -> Self {
        let store = store.clone();
        let (pending, seal, next, qwen_code) = (None, None, None, None);
        Self { store, pending, seal, next, known: Known::NotRead, qwen_code, file_lock, is_unresolved }
    }

    /// Records that `credential` was read under this lock, so that the file is not read again for its entry.
    pub(in crate::credentials) fn knows(&mut self, credential: &Credential) {
        self.known = credential.entry.as_ref().into();
    }

    /// The name of the secret in the keyring, if it is there.
    fn entry(&self) -> Result<Option<String>> {
        match &self.known {
            Known::NotRead => self.store.entry(),
            Known::No => Ok(None),
            Known::Entry(entry) => Ok(Some(entry.clone())),
        }
    }

    /// Whether Qwen Code may be renewing although there is no lock. Call it before our own lock changes the directory.
    pub(in crate::credentials) fn shows_foreign_renewal(&mut self) -> bool {
        let LockNotes { directory_changed, traces_seen, .. } = self.file_lock.notes();
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
        if seen.is_some() || self.file_lock.notes().traces_seen.is_some() {
            self.file_lock.change_notes(|notes| notes.traces_seen = seen);
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
        if changed != self.file_lock.notes().directory_changed {
            self.file_lock.change_notes(|notes| notes.directory_changed = changed);
        }
    }

    /// Records in advance that Qwen Code's lock is removed now: if this process is killed before [`Self::note_directory`],
    /// the change is known to be ours.
    pub(super) fn note_release(&mut self) {
        if !self.is_unresolved {
            let until = to_nanoseconds(SystemTime::now() + RELEASE);
            self.file_lock.change_notes(|notes| notes.directory_changed = until);
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
            self.qwen_code = QwenCodeLock::acquire(path, &mut self.file_lock, deadline, enough)?;
            return Ok(self.qwen_code.is_some());
        }
        Ok(true)
    }

    /// The failure of the holder that this process waited for.
    pub(in crate::credentials) fn shared_failure(&self) -> Option<Failed> {
        self.file_lock.shared_failure()
    }

    /// Records `failed` for the processes that wait for this holder.
    pub(in crate::credentials) fn share_failure(&mut self, failed: &Failed) {
        self.file_lock.share_failure(failed);
    }

    /// Reserves space for the next version before `spent` is sent. The draft in it is found by that token.
    pub(in crate::credentials) fn reserve(&mut self, spent: Option<&Secret>) -> Result<()> {
        let length = std::fs::metadata(&self.store.path).map_or(0, |metadata| metadata.len());
        let name = spent.map(hash_of);
        let bytes = usize::try_from(length)? + GROWTH;
        // Remove the old reservation first, because it would be taken for a leftover.
        self.pending = None;
        self.pending = Some(PendingFile::reserve_named(&self.store.path, bytes, Privacy::Private, name.as_deref())?);
        self.note_directory();
        if spent.is_some() && self.seal.is_none() {
            self.reserve_in_keyring()?;
        }
        Ok(())
    }

    /// If the secret is in the keyring, makes sure that the next one can be stored there: writes an entry of its size,
    /// with the key that encrypts the draft.
    fn reserve_in_keyring(&mut self) -> Result<()> {
        /// Bytes by which a new token may be longer.
        const GROWTH: usize = 1024;
        let Some(entry) = self.entry()? else { return Ok(()) };
        let profile = self.store.profile();
        let size = keyring::read(&profile, &entry)?.map_or(0, |secret| secret.len()) + GROWTH;
        let name = keyring::new_name();
        self.note_entries(|names| names.push(name.clone()));
        self.seal = Some(Seal::new(&profile, name, size)?);
        Ok(())
    }

    /// Records which names the keyring may contain. Recorded before the keyring is changed.
    fn note_entries(&mut self, change: impl FnOnce(&mut Vec<String>)) {
        self.file_lock.change_notes(|notes| change(&mut notes.keyring));
    }

    /// All names that the keyring may contain for this profile.
    fn entries(&self) -> Vec<String> {
        let mut names = self.file_lock.notes().keyring.clone();
        if let Ok(Some(entry)) = self.entry()
            && !names.contains(&entry)
        {
            names.push(entry);
        }
        names
    }

    /// Removes these secrets from the keyring. Names that cannot be removed now stay recorded.
    fn remove_entries(&mut self, names: &[String]) -> Result<(), Trouble> {
        for name in names {
            keyring::remove(&self.store.profile(), name)?;
            self.note_entries(|noted| noted.retain(|noted| noted != name));
        }
        Ok(())
    }

    /// `document` in its stored form. If its secret is kept in the keyring, it has two parts, and the file also
    /// contains the encrypted secret if there is a key for that.
    fn next(&self, document: &CredentialDocument) -> Result<Next> {
        let whole = document.to_bytes()?;
        if self.store.format() != Format::Own || !document.is_for_keyring() {
            return Ok(Next { record: whole.clone(), whole, secret: None });
        }
        let entry = keyring::new_name();
        let (mut record, secret) = document.parted(&entry)?;
        if let Some(seal) = &self.seal {
            record.set("sealed", seal.close(&entry, &secret).as_deref());
            record.set("sealed_by", Some(&seal.name));
        }
        Ok(Next { whole, record: record.to_bytes()?, secret: Some((entry, secret)) })
    }

    /// Writes `document` where the next holder of the lock finds it if this process is killed before
    /// [`Guard::replace`].
    pub(in crate::credentials) fn draft(&mut self, document: &CredentialDocument) -> Result<()> {
        let next = self.next(document)?;
        let Some(pending) = &mut self.pending else { return Ok(()) };
        pending.draft(&next.record)?;
        self.next = Some(next);
        Ok(())
    }

    /// The only place that writes a credential: durably and atomically, by renaming the file. The keyring gets its
    /// secret before, and its outdated entries are removed last.
    pub(in crate::credentials) fn replace(&mut self, document: &CredentialDocument) -> Result<Credential> {
        if self.pending.is_none() {
            self.reserve(None)?;
        }
        let whole = document.to_bytes()?;
        let next = match self.next.take() {
            Some(next) if next.whole == whole => next,
            _ => self.next(document)?,
        };
        let outdated = self.entries();
        if let Some((entry, secret)) = &next.secret {
            self.note_entries(|names| names.push(entry.clone()));
            if let Err(error) = keyring::write(&self.store.profile(), entry, secret) {
                return Err(self.keep_draft(&next, error));
            }
        }
        if let Some(pending) = self.pending.take() {
            pending.write(&next.record)?;
        }
        self.known = next.secret.as_ref().map(|(entry, _)| entry).into();
        if !outdated.is_empty() {
            self.check_written(&next)?;
            self.remove_outdated(&outdated);
        }
        self.written(whole)
    }

    /// The keyring does not accept the new secret: it stays in the draft, which the next process completes.
    fn keep_draft(&mut self, next: &Next, error: anyhow::Error) -> anyhow::Error {
        if self.seal.take().is_none() {
            return error;
        }
        let Some(mut pending) = self.pending.take() else { return error };
        match pending.draft(&next.record).and_then(|()| pending.keep_draft()) {
            Ok(()) => error.context(Kept),
            Err(unsaved) => anyhow::Error::from(unsaved).context(error),
        }
    }

    /// Before an older copy is removed: checks that the file contains what was written last.
    fn check_written(&self, next: &Next) -> Result<()> {
        match files::read(&self.store.path, Privacy::Private)? {
            Content::Bytes(bytes) if bytes == next.record => Ok(()),
            _ => anyhow::bail!("`{}` does not have what was written", self.store.path.display()),
        }
    }

    fn remove_outdated(&mut self, names: &[String]) {
        self.seal = None;
        if let Err(trouble) = self.remove_entries(names) {
            log::warn!("an older secret stays in the keyring until the next change: {trouble:?}");
        }
    }

    /// Completes a renewal whose process was killed before the rename: installs the token that it had already written,
    /// because the server no longer accepts `spent`. Returns `None` if there is no such draft or it is incomplete.
    /// `carry` gets the new token before it is installed.
    pub(in crate::credentials) fn complete(
        &mut self,
        spent: &Secret,
        carry: impl FnOnce(&Secret),
    ) -> Result<Option<Credential>> {
        let name = hash_of(spent);
        let Some(bytes) = files::read_unfinished(&self.store.path, &name) else { return Ok(None) };
        let Some(whole) = self.unseal(&bytes)? else { return Ok(None) };
        let Ok(Some(successor)) = document::read(&whole, self.store.format()) else { return Ok(None) };
        let Some(successor) = successor.refresh_token.filter(|token| token != spent) else { return Ok(None) };
        match self.store.read()? {
            Found::Present(now) if now.credential.refresh_token.as_ref() != Some(spent) => {
                return Ok(Some(now.credential));
            }
            _ => {}
        }
        log::warn!("a renewal was killed before its token was in place; that is done now");
        carry(&successor);
        self.known = Known::NotRead;
        let mut outdated = self.entries();
        let written = self.written(whole)?;
        PendingFile::reopen(&self.store.path, &name, &bytes)?.write(&bytes)?;
        outdated.retain(|name| written.entry.as_ref() != Some(name));
        self.remove_outdated(&outdated);
        Ok(Some(written))
    }

    /// The content of a draft. Stores its secret in the keyring if that has not happened yet. Returns `None` if the
    /// draft is incomplete.
    fn unseal(&mut self, draft: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let Ok(Some(record)) = document::read(draft, self.store.format()) else { return Ok(None) };
        let Some(entry) = record.entry.filter(|_| record.access_token.expose().is_empty()) else {
            return Ok(Some(Zeroizing::new(draft.to_vec())));
        };
        let profile = self.store.profile();
        let Ok(mut document) = CredentialDocument::parse(draft) else { return Ok(None) };
        let secret = if let Some(secret) = keyring::read(&profile, &entry)? {
            secret
        } else {
            let (Some(name), Some(sealed)) = (document.text("sealed_by"), document.text("sealed")) else {
                return Ok(None);
            };
            let seal = Seal::of(&profile, name)?;
            let Some(secret) = seal.and_then(|seal| seal.open(&entry, sealed)) else { return Ok(None) };
            self.note_entries(|names| names.push(entry.clone()));
            keyring::write(&profile, &entry, &secret)?;
            secret
        };
        if document.unite(&secret).is_err() {
            return Ok(None);
        }
        document.to_bytes().map(Some)
    }

    fn written(&self, bytes: Zeroizing<Vec<u8>>) -> Result<Credential> {
        match self.store.understand(bytes) {
            Found::Present(snapshot) => Ok(snapshot.credential),
            Found::Damaged(why) => anyhow::bail!("what was written cannot be read: {why}"),
            Found::Missing => anyhow::bail!("what was written holds no credential"),
        }
    }

    /// Renames a damaged file and returns its new path.
    pub(in crate::credentials) fn set_aside(&mut self) -> Result<PathBuf> {
        files::set_aside(&self.store.path)
    }

    /// Removes the credential and the leftovers of killed processes. Returns whether there was one.
    ///
    /// The keyring is cleared first: without the file, its entries would never be found. If there is no keyring, its
    /// entries stay.
    pub(in crate::credentials) fn remove(&mut self) -> Result<bool> {
        self.pending = None;
        self.seal = None;
        let profile = self.store.profile();
        match self.remove_entries(&self.entries()) {
            Ok(()) => {}
            Err(trouble @ Trouble::Missing(_)) => {
                let failed = keyring::failed(&profile, "clear", trouble);
                note(&format!("warning: the secret of `{profile}` stays in the keyring: {failed}"));
            }
            Err(trouble) => return keyring::failed(&profile, "clear", trouble).err(),
        }
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
    /// The order matters: a process that waits for our lock must find Qwen Code's lock gone.
    ///
    /// A signal waits until the end of it: our lock's removal would look like that of another program's lock.
    fn drop(&mut self) {
        let _deferred = self.qwen_code.is_some().then(DeferredSignals::new);
        drop(self.pending.take());
        if let Some(seal) = self.seal.take() {
            self.remove_outdated(&[seal.name]);
        }
        if self.qwen_code.is_some() {
            self.note_release();
            drop(self.qwen_code.take());
            self.note_directory();
        }
    }
}
