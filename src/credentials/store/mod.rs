//! The stored credential of a profile: reading it, and the lock that is required to change it ([`Guard`]).

mod command;
mod given;
mod guard;
mod keyring;
mod locks;
mod qwen_code;
mod traces;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use zeroize::Zeroizing;

pub(crate) use self::command::{Answers, key_of, program_of};
pub(crate) use self::given::GivenKey;
pub(super) use self::guard::Guard;
use self::locks::Locks;
pub(crate) use self::qwen_code::STALE;
use super::Credential;
use super::document::CredentialDocument;
use super::reading::{self, Format};
use super::refused::hash_of;
use crate::paths;
use crate::platform::disk::Version;
use crate::platform::files::{self, Content, Privacy};
use crate::platform::lock::{FileLock, LOCK_TIMEOUT};
use crate::profile::SecretStore;

/// How long a reader that finds damage waits for a writer. What looks damaged while it writes lasts milliseconds.
const WRITER_TIMEOUT: Duration = Duration::from_secs(5);

/// The result of reading a stored credential.
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
    /// The complete document, including fields of other programs.
    ///
    /// Errors: a sentence on what could not be written back.
    pub(super) fn document(&self) -> Result<CredentialDocument, String> {
        CredentialDocument::parse(&self.bytes)
    }
}

/// Where one profile's credential is stored.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    /// As configured; it may be a symlink.
    path: PathBuf,
    /// Qwen Code's lock, for the file shared with it.
    qwen_code_lock: Option<PathBuf>,
    /// Whether a [`Guard`] of this store holds the lock.
    is_guarded: Arc<AtomicBool>,
}

impl Store {
    /// `is_shared`: Qwen Code reads and writes the same file.
    pub(crate) fn new(path: PathBuf, is_shared: bool) -> Self {
        let qwen_code_lock = is_shared.then(|| paths::qwen_code_lock(&path));
        Self { path, qwen_code_lock, is_guarded: Arc::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether Qwen Code reads and writes the same file.
    pub(crate) fn is_shared(&self) -> bool {
        self.qwen_code_lock.is_some()
    }

    pub(super) fn format(&self) -> Format {
        if self.is_shared() { Format::QwenCode } else { Format::Own }
    }

    /// The credential, including its secret if that is in the keyring.
    pub(crate) fn read(&self) -> Result<Found> {
        self.unless_half_written(|| match self.record()? {
            Found::Present(snapshot) if snapshot.credential.is_in_keyring_alone() => self.unite(&snapshot),
            found => Ok(found),
        })
    }

    /// The file's content, without a secret that is kept elsewhere.
    pub(crate) fn read_record(&self) -> Result<Found> {
        self.unless_half_written(|| self.record())
    }

    /// What seems damaged is read again under the lock: a writer may have removed the secret of the record that was read
    /// before, or be in the middle of a file that cannot be replaced by a rename.
    fn unless_half_written(&self, read: impl Fn() -> Result<Found>) -> Result<Found> {
        let found = read()?;
        if !matches!(found, Found::Damaged(_)) || self.is_guarded.load(Ordering::Relaxed) {
            return Ok(found);
        }
        let lock = self.lock_path()?;
        // Every writer makes this file, and it stays.
        if !lock.exists() {
            return Ok(found);
        }
        let deadline = Instant::now() + WRITER_TIMEOUT;
        let _held = files::open_private(&lock).and_then(|file| FileLock::acquire(file, &lock, deadline));
        read()
    }

    fn record(&self) -> Result<Found> {
        Ok(match files::read(&self.path, Privacy::Private)? {
            Content::Missing => Found::Missing,
            Content::Unfit(why) => Found::Damaged(why),
            Content::Bytes(bytes) => self.understand(bytes),
        })
    }

    /// The secret's name in the keyring, if it is there. A file shared with Qwen Code is not read for this.
    fn entry(&self) -> Result<Option<String>> {
        if self.format() != Format::Own {
            return Ok(None);
        }
        Ok(match self.read_record()? {
            Found::Present(record) => record.credential.entry,
            Found::Missing | Found::Damaged(_) => None,
        })
    }

    fn unite(&self, record: &Snapshot) -> Result<Found> {
        let entry = record.credential.entry.as_deref().unwrap_or_default();
        let Some(secret) = keyring::read(&self.profile(), entry)? else {
            return Ok(Found::Damaged("its secret is not in the keyring".into()));
        };
        let united = record.document().and_then(|mut document| document.unite(&secret).map(|()| document));
        match united {
            Ok(document) => Ok(self.understand(document.to_bytes()?)),
            Err(why) => Ok(Found::Damaged(why)),
        }
    }

    /// The profile's name, under which the keyring knows its secrets.
    fn profile(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn understand(&self, bytes: Zeroizing<Vec<u8>>) -> Found {
        match reading::read(&bytes, self.format()) {
            Ok(Some(credential)) => Found::Present(Box::new(Snapshot { credential, bytes })),
            Ok(None) => Found::Missing,
            Err(why) => Found::Damaged(why),
        }
    }

    /// Identifies this version without reading it. Returns `None` if there is no file.
    pub(crate) fn version(&self) -> Option<Version> {
        Version::of(&self.path).ok()
    }

    /// Checks that a credential could be stored, before the user is asked to approve a login. Leaves no files.
    /// `login`: the command line of that login.
    pub(crate) fn check_writable(&self, secret: SecretStore, login: &str) -> Result<()> {
        files::check_writable(&files::resolve(&self.path)?)?;
        let lock = self.lock_path()?;
        if lock.exists() {
            drop(files::open_private(&lock)?);
        }
        if secret == SecretStore::Keyring { keyring::check_writable(&self.profile(), login) } else { Ok(()) }
    }

    /// The draft that [`Guard::complete`] would read.
    pub(crate) fn unfinished(&self) -> Option<PathBuf> {
        let Ok(Found::Present(snapshot)) = self.read() else { return None };
        let token = snapshot.credential.refresh_token?;
        let path = files::unfinished_path(&files::resolve(&self.path).ok()?, &hash_of(&token));
        path.exists().then_some(path)
    }

    /// Whether a process is using the credential.
    pub(crate) fn is_in_use(&self) -> bool {
        self.lock_path().is_ok_and(|path| path.exists()) && matches!(self.try_lock(), Ok(None))
    }

    /// The lock file, next to the file that a symlink points to.
    pub(crate) fn lock_path(&self) -> Result<PathBuf> {
        Ok(paths::kernel_lock(&files::resolve(&self.path)?))
    }

    /// Takes our own lock. [`Locks::lock_qwen_code`] takes the other one.
    pub(super) fn lock(&self, deadline: Instant) -> Result<Guard> {
        let path = self.lock_path()?;
        let (file, is_unresolved) = self.open_lock(&path)?;
        let file_lock = FileLock::acquire(file, &path, deadline)?;
        Ok(Guard::new(self, Locks::new(self, file_lock, is_unresolved)))
    }

    /// The same lock, if no process holds it.
    pub(super) fn try_lock(&self) -> Result<Option<Locks>> {
        let path = self.lock_path()?;
        let (file, is_unresolved) = self.open_lock(&path)?;
        let file_lock = FileLock::try_acquire(file, &path)?;
        Ok(file_lock.map(|file_lock| Locks::new(self, file_lock, is_unresolved)))
    }

    /// The lock file, and whether another program may be renewing.
    ///
    /// Creating the file, which happens once, also changes the directory. If that hides the traces of another program,
    /// the file contains from the beginning that they were seen: another process may be the first to take the lock.
    fn open_lock(&self, path: &Path) -> Result<(File, bool)> {
        let is_unresolved = !path.exists() && self.shows_foreign_renewal(None);
        if is_unresolved
            && let Err(error) =
                FileLock::create(path, |notes| notes.traces_seen = locks::to_nanoseconds(SystemTime::now()))
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            log::warn!("cannot create `{}` with its notes: {error}", path.display());
        }
        Ok((files::open_private(path)?, is_unresolved))
    }

    /// Removes Qwen Code's lock if its holder is gone and no qwenauth process uses the credential. Returns whether it
    /// did.
    pub(crate) fn remove_stale_lock(&self) -> Result<bool> {
        match self.try_lock()? {
            Some(mut locks) => locks.remove_stale_lock(),
            None => Ok(false),
        }
    }

    /// `noted`: the state of the directory after our last change.
    fn shows_foreign_renewal(&self, noted: Option<SystemTime>) -> bool {
        let lock = self.qwen_code_lock.as_ref();
        lock.is_some_and(|lock| traces::show_foreign_renewal(lock, &self.path, noted))
    }

    /// Creates the directory and takes both locks, for the final change of `login` and `logout`.
    pub(super) fn lock_fully(&self) -> Result<Guard> {
        let deadline = Instant::now() + LOCK_TIMEOUT;
        if let Some(directory) = files::resolve(&self.path)?.parent() {
            files::make_directory(directory)?;
        }
        let mut guard = self.lock(deadline)?;
        guard.locks.lock_qwen_code(deadline, || Ok(false))?;
        Ok(guard)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "the test plays the other program")]

    use std::fs;
    use std::time::Duration;

    use super::*;

    /// Creating the lock file changes the directory at the moment at which the traces would show.
    #[test]
    fn the_first_holder_of_a_new_lock_knows_what_its_creator_saw() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().join("oauth_creds.json"), true);
        fs::write(&store.path, "{}").unwrap();
        let saved = File::options().write(true).open(&store.path).unwrap();
        saved.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        let qwen_code_lock = store.qwen_code_lock.clone().unwrap();
        std::thread::sleep(Duration::from_millis(40));
        fs::write(&qwen_code_lock, "theirs").unwrap();
        fs::remove_file(&qwen_code_lock).unwrap();

        let (_creators, is_unresolved) = store.open_lock(&store.lock_path().unwrap()).unwrap();
        assert!(is_unresolved);
        let mut first = store.try_lock().unwrap().unwrap();
        assert!(first.shows_foreign_renewal());
    }
}
