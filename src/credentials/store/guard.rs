//! Every change to a stored credential.
//!
//! Hazard: a writer without the lock, or one that overwrites a version it has not read, loses a login. Rule: replacing
//! and removing require a [`Guard`], and a [`Guard`] holds the locks.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use anyhow::Result;
use zeroize::Zeroizing;

use super::keyring::{self, Seal};
use super::locks::Locks;
use super::{Found, Store};
use crate::credentials::Credential;
use crate::credentials::document::CredentialDocument;
use crate::credentials::reading::{self, Format};
use crate::credentials::refused::hash_of;
use crate::error::note;
use crate::platform::files::{self, Content, Kept, PendingFile, Privacy};
use crate::platform::keyring::Trouble;
use crate::platform::signals::DeferredSignals;
use crate::secret::Secret;

/// Bytes by which a new version may be longer. Tokens have from a few hundred to a few thousand bytes.
const GROWTH: usize = 64 * 1024;

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

/// The right to change one credential: its locks, and what is prepared under them.
pub(in crate::credentials) struct Guard {
    store: Store,
    pending: Option<PendingFile>,
    /// Encrypts the next token in the draft, if the secret is kept in the keyring.
    seal: Option<Seal>,
    /// The version that was drafted.
    next: Option<Next>,
    /// The name of the secret in the keyring, as far as it is known.
    known: Known,
    pub(in crate::credentials) locks: Locks,
}

impl Guard {
    pub(super) fn new(store: &Store, locks: Locks) -> Self {
        store.is_guarded.store(true, Ordering::Relaxed);
        Self { store: store.clone(), pending: None, seal: None, next: None, known: Known::NotRead, locks }
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

    /// Reserves space for the next version before `spent` is sent. The draft in it is found by that token.
    pub(in crate::credentials) fn reserve(&mut self, spent: Option<&Secret>) -> Result<()> {
        let length = std::fs::metadata(&self.store.path).map_or(0, |metadata| metadata.len());
        let name = spent.map(hash_of);
        let bytes = usize::try_from(length)? + GROWTH;
        // Remove the old reservation first, because it would be taken for a leftover.
        self.pending = None;
        self.pending = Some(PendingFile::reserve_named(&self.store.path, bytes, Privacy::Private, name.as_deref())?);
        self.locks.note_directory();
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
        self.locks.own.change_notes(|notes| change(&mut notes.keyring));
    }

    /// All names that the keyring may contain for this profile.
    fn entries(&self) -> Vec<String> {
        let mut names = self.locks.own.notes().keyring.clone();
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
            _ => anyhow::bail!("`{}` does not contain what was written", self.store.path.display()),
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
        let Ok(Some(successor)) = reading::read(&whole, self.store.format()) else { return Ok(None) };
        let Some(successor) = successor.refresh_token.filter(|token| token != spent) else { return Ok(None) };
        match self.store.read()? {
            Found::Present(now) if now.credential.refresh_token.as_ref() != Some(spent) => {
                return Ok(Some(now.credential));
            }
            _ => {}
        }
        log::warn!("completed a renewal that was interrupted before its token was saved");
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
        let Ok(Some(record)) = reading::read(draft, self.store.format()) else { return Ok(None) };
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
            Found::Damaged(why) => anyhow::bail!("cannot read back the file that was just written: {why}"),
            Found::Missing => anyhow::bail!("the file that was just written contains no credential"),
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
                let failed = keyring::failed(&keyring::login_of(&profile), "clear", trouble);
                note(&format!("warning: the secret of `{profile}` stays in the keyring: {failed}"));
            }
            Err(trouble) => return keyring::failed(&keyring::login_of(&profile), "clear", trouble).err(),
        }
        files::remove_unfinished(&self.store.path)?;
        files::remove_credential(&self.store.path)
    }
}

impl Drop for Guard {
    /// Drafts and keyring entries are removed under the locks, and no signal comes between the two.
    fn drop(&mut self) {
        let _deferred = DeferredSignals::new();
        drop(self.pending.take());
        if let Some(seal) = self.seal.take() {
            self.remove_outdated(&[seal.name]);
        }
        self.locks.release_qwen_code();
        self.store.is_guarded.store(false, Ordering::Relaxed);
    }
}
