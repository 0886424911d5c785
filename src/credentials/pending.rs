//! A device login that waits for approval, kept so that another process can finish it instead of starting a new one.
//!
//! Hazard: a device code can be redeemed once; if two processes poll, one gets an error. Rule: a process that polls
//! holds the login's lock, and one that waited for that lock first checks whether the login is complete.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;

use super::{Clock, CredentialSource};
use crate::http::Network;
use crate::oauth::AuthorizationServer;
use crate::oauth::code::PendingCode;
use crate::oauth::device::{self, Authorization};
use crate::paths::StateDirectory;
use crate::platform::files::{self, Content, PendingFile, Privacy};
use crate::platform::lock::{FileLock, LOCK_TIMEOUT};
use crate::platform::signals::DeferredSignals;
use crate::profile::ProfileName;

/// The state of a login that was waiting for approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pending {
    None,
    Waiting,
    /// It has expired.
    Over,
}

/// The place of one profile's login that waits.
pub(crate) struct PendingLogin<'a> {
    /// Holds all of them.
    directory: PathBuf,
    profile: &'a str,
    network: &'a Network,
    clock: Clock,
}

impl<'a> PendingLogin<'a> {
    pub(crate) fn of(source: &'a CredentialSource) -> Self {
        let CredentialSource { profile, network, clock, .. } = source;
        Self { directory: StateDirectory::Pending.below(&source.paths.state), profile, network, clock: *clock }
    }

    /// The profiles with a login that was left pending, expired or not.
    pub(crate) fn profiles(state: &Path) -> Vec<ProfileName> {
        let entries = fs::read_dir(StateDirectory::Pending.below(state)).into_iter().flatten().flatten();
        let name = |path: &Path| ProfileName::parse(path.file_name()?.to_str()?.strip_suffix(".json")?).ok();
        let mut names: Vec<ProfileName> = entries.filter_map(|entry| name(&entry.path())).collect();
        names.sort();
        names
    }

    /// The name of its provider, while it waits.
    pub(crate) fn provider(&self) -> Option<String> {
        match files::read(&self.path(), Privacy::Private) {
            Ok(Content::Bytes(notes)) if device::may_be_approved(&notes, (self.clock)()) => device::provider_of(&notes),
            _ => None,
        }
    }

    /// Whether a login waits for approval, at whatever server.
    pub(crate) fn state(&self) -> Result<Pending> {
        Ok(match files::read(&self.path(), Privacy::Private)? {
            Content::Missing => Pending::None,
            Content::Bytes(notes) if device::may_be_approved(&notes, (self.clock)()) => Pending::Waiting,
            Content::Bytes(_) | Content::Unfit(_) => Pending::Over,
        })
    }

    /// Removes the file of an expired login. Returns `false` if a process still uses it or another login is waiting
    /// now.
    pub(crate) fn forget_if_over(&self) -> Result<bool> {
        let path = self.lock_path("start")?;
        let Some(_start) = FileLock::try_acquire(files::open_private(&path)?, &path)? else { return Ok(false) };
        let Some(_poll) = self.try_lock_poll()? else { return Ok(false) };
        if self.state()? != Pending::Over {
            return Ok(false);
        }
        self.forget()?;
        Ok(true)
    }

    /// The login at `server` that waits for approval, if there is one. An expired login counts as none.
    pub(crate) fn read(&self, server: &AuthorizationServer) -> Result<Option<Authorization>> {
        match files::read(&self.path(), Privacy::Private)? {
            Content::Bytes(notes) => {
                Authorization::from_notes(&notes, server, self.network, (self.clock)(), DeferredSignals::noted)
            }
            Content::Missing | Content::Unfit(_) => Ok(None),
        }
    }

    pub(crate) fn keep(
        &self,
        provider: &str,
        server: &AuthorizationServer,
        authorization: &Authorization,
    ) -> Result<()> {
        let notes = authorization.to_notes(provider, server, (self.clock)());
        PendingFile::reserve(&self.path(), notes.len(), Privacy::Private)?.write(&notes)
    }

    /// The login by an authorization code that waits for its code, if one does, of the server with this `exchange`.
    pub(crate) fn read_code(&self, exchange: &str) -> Result<Option<PendingCode>> {
        match files::read(&self.path(), Privacy::Private)? {
            Content::Bytes(notes) => Ok(PendingCode::from_notes(&notes, exchange, (self.clock)())),
            Content::Missing | Content::Unfit(_) => Ok(None),
        }
    }

    pub(crate) fn keep_code(&self, pending: &PendingCode) -> Result<()> {
        let notes = pending.to_notes();
        PendingFile::reserve(&self.path(), notes.len(), Privacy::Private)?.write(&notes)
    }

    pub(crate) fn forget(&self) -> Result<()> {
        files::remove(&self.path(), Privacy::Private).map(drop)
    }

    /// Held while it is decided whether a login is joined or started.
    pub(crate) fn lock_start(&self) -> Result<FileLock> {
        let path = self.lock_path("start")?;
        FileLock::acquire(files::open_private(&path)?, &path, Instant::now() + LOCK_TIMEOUT)
    }

    /// Held while the login is polled for; `None` while another process does.
    pub(crate) fn try_lock_poll(&self) -> Result<Option<FileLock>> {
        let path = self.lock_path("poll")?;
        FileLock::try_acquire(files::open_private(&path)?, &path)
    }

    fn path(&self) -> PathBuf {
        self.directory.join(format!("{}.json", self.profile))
    }

    fn lock_path(&self, what: &str) -> Result<PathBuf> {
        files::make_directory(&self.directory)?;
        Ok(self.directory.join(format!(".{}.{what}.qwenauth-lock", self.profile)))
    }
}
