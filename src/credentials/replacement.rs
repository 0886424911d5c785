//! A credential in the place of another: the locks, room for the new file, login, stored key, removal.
//!
//! Hazards and rule: see [`super`].

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use zeroize::Zeroizing;

use super::document::{self, Document};
use super::{Account, Credential, Stored, refused};
use crate::error::{Failed, Report, note};
use crate::oauth::{Endpoints, Grant};
use crate::platform::files::{self, Content, Privacy, Room};
use crate::platform::lock::{Kernel, PATIENCE, QwenCode};
use crate::platform::signals::Held;
use crate::providers::Provider;
use crate::secret::Secret;

/// Bytes a renewal may add to a credential file. Tokens are some hundred bytes to a few thousand.
const GROWTH: usize = 64 * 1024;

/// An API key as a login stores it.
pub(crate) struct NewKey {
    pub(crate) secret: Secret,
    pub(crate) base_url: String,
    pub(crate) region: Option<String>,
    pub(crate) model: Option<String>,
}

/// The locks of one credential. Fields are dropped in this order: Qwen Code's first, then ours.
pub(super) struct Lock {
    pub(super) qwen_code: Option<QwenCode>,
    pub(super) kernel: Kernel,
}

impl Account {
    /// Fails if a login could not be stored, before a person is sent to approve it. Leaves nothing behind.
    pub(crate) fn check_writable(&self) -> Result<()> {
        files::check_writable(&files::resolve(&self.path)?)?;
        let lock = self.kernel_lock_path()?;
        if lock.exists() { files::open_kept(&lock).map(drop) } else { Ok(()) }
    }

    /// Stores what a login granted, in one step under the locks. A damaged file is set aside.
    pub(crate) fn log_in(
        &self,
        provider: &Provider,
        grant: &Grant,
        found: Option<&Endpoints>,
        model: Option<&str>,
    ) -> Result<Credential> {
        let stored = self.replace(|document| {
            document.log_in(grant, (self.clock)());
            if self.qwen_code_lock.is_none() {
                document.set("provider", Some(&provider.name));
            }
            if let Some(found) = found {
                document.set_issuer(found);
            }
            document.set("model", model);
        });
        stored.map_err(|error| self.unsaved(&error, "the login was granted", grant).into())
    }

    /// Stores an API key with the base URL it belongs to, as [`Account::log_in`] does. `now` is RFC 3339.
    pub(crate) fn store_key(&self, provider: &Provider, key: &NewKey, now: Option<&str>) -> Result<Credential> {
        self.replace(|document| {
            document.forget();
            document.set("provider", Some(&provider.name));
            document.set("api_key", Some(key.secret.expose()));
            document.set("base_url", Some(&key.base_url));
            document.set("region", key.region.as_deref());
            document.set("model", key.model.as_deref());
            document.set("created_at", now);
        })
    }

    fn replace(&self, change: impl FnOnce(&mut Document)) -> Result<Credential> {
        let lock = self.lock()?;
        let _held = Held::new();
        let old = match self.load()? {
            Stored::Damaged(why) => Err(why),
            Stored::Missing | Stored::Present(_) => Document::parse(&self.bytes()?),
        };
        let mut document = match old {
            Ok(document) => document,
            Err(why) => {
                let aside = files::set_aside(&self.path)?;
                note(&format!("the credential file was damaged ({why}) and is now `{}`", aside.display()));
                Document::default()
            }
        };
        change(&mut document);
        save(&lock, self.reserve(None)?, &document)?;
        self.require()
    }

    /// Removes the credential. Says what there was, if anything.
    pub(crate) fn remove(&self) -> Result<Option<Stored>> {
        if matches!(self.load(), Ok(Stored::Missing)) {
            return Ok(None);
        }
        let _lock = self.lock()?;
        let _held = Held::new();
        let was = self.load().unwrap_or_else(|error| Stored::Damaged(format!("{error:#}")));
        files::remove_left(&self.path)?;
        let removed = files::remove(&self.path).context("cannot log out")?;
        Ok(removed.then_some(was))
    }

    /// Both locks, for the final change of `login` and `logout`.
    fn lock(&self) -> Result<Lock> {
        let deadline = Instant::now() + PATIENCE;
        let directory = files::resolve(&self.path)?.parent().map(Path::to_owned).unwrap_or_default();
        files::make_directory(&directory)?;
        let mut kernel = self.lock_kernel(deadline)?;
        let qwen_code = match &self.qwen_code_lock {
            Some(path) => QwenCode::acquire(path, &mut kernel, deadline, || Ok(false))?,
            None => None,
        };
        Ok(Lock { qwen_code, kernel })
    }

    fn kernel_lock_path(&self) -> Result<PathBuf> {
        let target = files::resolve(&self.path)?;
        let stem = target.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(target.with_file_name(format!(".{stem}.qwenauth-lock")))
    }

    pub(super) fn lock_kernel(&self, deadline: Instant) -> Result<Kernel> {
        let path = self.kernel_lock_path()?;
        Kernel::acquire(files::open_kept(&path)?, &path, deadline)
    }

    /// Space for the next version of the file, taken before anything is spent. `spent`: the token it will replace, by which
    /// [`Account::recover`] finds it.
    pub(super) fn reserve(&self, spent: Option<&Secret>) -> Result<Room> {
        let length = std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        let name = spent.map(refused::name_of);
        Room::reserve_named(&self.path, usize::try_from(length)? + GROWTH, Privacy::Private, name.as_deref())
    }

    /// The file that [`Account::recover`] would look into.
    pub(crate) fn successor(&self) -> Option<PathBuf> {
        let Ok(Stored::Present(Credential { refresh_token: Some(token), .. })) = self.load() else { return None };
        let path = files::leftover(&files::resolve(&self.path).ok()?, &refused::name_of(&token));
        path.exists().then_some(path)
    }

    /// Puts the successor of `spent` in its place that another process was granted and wrote, but was killed before the
    /// rename: the server takes `spent` no more. `None`: there is none, or not the whole of it.
    pub(super) fn recover(&self, spent: &Secret, lock: &Lock) -> Result<Option<Credential>> {
        let name = refused::name_of(spent);
        let Some(bytes) = files::left_in(&self.path, &name) else { return Ok(None) };
        let Ok(Some(successor)) = document::read(&bytes) else { return Ok(None) };
        if successor.refresh_token.as_ref().is_none_or(|token| token == spent) {
            return Ok(None);
        }
        let current = self.require()?;
        if current.refresh_token.as_ref() != Some(spent) {
            return Ok(Some(current));
        }
        let _held = Held::new();
        log::warn!("a renewal was killed before its token was in place; that is done now");
        put(lock, Room::reopen(&self.path, &name)?, &bytes)?;
        self.require().map(Some)
    }

    pub(super) fn bytes(&self) -> Result<Zeroizing<Vec<u8>>> {
        Ok(match files::read(&self.path, Privacy::Private)? {
            Content::Bytes(bytes) => bytes,
            Content::Missing | Content::Unfit(_) => Zeroizing::default(),
        })
    }

    /// The server has granted what the disk does not take.
    pub(super) fn unsaved(&self, error: &anyhow::Error, granted: &str, grant: &Grant) -> Failed {
        let report = Report::of(error);
        let hint = match grant.refresh_token {
            Some(_) => format!("mend that, then {}: the server may know older tokens no more", self.login_hint()),
            None => "nothing was lost: mend that, then run it again".into(),
        };
        let message = format!("{granted}, but could not be saved: {}", report.message);
        Failed::new(report.failure, message).hint(hint)
    }
}

/// The only writing of a credential file; without the lock it does not compile.
pub(super) fn save(lock: &Lock, room: Room, document: &Document) -> Result<()> {
    put(lock, room, &document.to_bytes()?)
}

fn put(_lock: &Lock, room: Room, bytes: &[u8]) -> Result<()> {
    room.write(bytes)
}
