//! A device login that waits for approval, kept so that a later or second process goes on with it instead of starting another.
//!
//! Hazard: a device code is granted once; of two processes that poll it, one is told that it never was. Rule: who polls
//! holds the login's kernel lock, and who waited for that lock looks first whether the login is done.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;

use super::Account;
use crate::oauth::Server;
use crate::oauth::device::{self, Authorization};
use crate::platform::files::{self, Content, Privacy, Room};
use crate::platform::lock::{Kernel, PATIENCE};
use crate::platform::signals::Held;

/// What is kept of a login that waited for approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pending {
    None,
    Waiting,
    /// Nobody can complete it any more.
    Over,
}

impl Account {
    /// Whether a login waits for approval, at whatever server.
    pub(crate) fn pending_state(&self) -> Result<Pending> {
        Ok(match files::read(&self.pending_path(), Privacy::Private)? {
            Content::Missing => Pending::None,
            Content::Bytes(notes) if device::may_be_approved(&notes, (self.clock)()) => Pending::Waiting,
            Content::Bytes(_) | Content::Unfit(_) => Pending::Over,
        })
    }

    /// Removes what is kept of a login that is over. `false`: a process is still at it, or another login waits by now.
    pub(crate) fn forget_if_over(&self) -> Result<bool> {
        let path = self.pending_lock("start")?;
        let Some(_start) = Kernel::try_acquire(files::open_kept(&path)?, &path)? else { return Ok(false) };
        let Some(_poll) = self.try_lock_poll()? else { return Ok(false) };
        if self.pending_state()? != Pending::Over {
            return Ok(false);
        }
        self.forget_pending()?;
        Ok(true)
    }

    /// The login at `server` that waits for approval, if one does. One that is over is as good as none.
    pub(crate) fn pending(&self, server: &Server) -> Result<Option<Authorization>> {
        match files::read(&self.pending_path(), Privacy::Private)? {
            Content::Bytes(notes) => {
                Authorization::from_notes(&notes, server, &self.network, (self.clock)(), Held::noted)
            }
            Content::Missing | Content::Unfit(_) => Ok(None),
        }
    }

    pub(crate) fn keep_pending(&self, server: &Server, authorization: &Authorization) -> Result<()> {
        let notes = authorization.to_notes(server, (self.clock)());
        Room::reserve(&self.pending_path(), notes.len(), Privacy::Private)?.write(&notes)
    }

    pub(crate) fn forget_pending(&self) -> Result<()> {
        files::remove(&self.pending_path()).map(drop)
    }

    /// Held while it is decided whether a login is joined or started.
    pub(crate) fn lock_start(&self) -> Result<Kernel> {
        let path = self.pending_lock("start")?;
        Kernel::acquire(files::open_kept(&path)?, &path, Instant::now() + PATIENCE)
    }

    /// Held while the login is polled for; `None` while another process does.
    pub(crate) fn try_lock_poll(&self) -> Result<Option<Kernel>> {
        let path = self.pending_lock("poll")?;
        Kernel::try_acquire(files::open_kept(&path)?, &path)
    }

    fn pending_path(&self) -> PathBuf {
        self.state.join("pending").join(format!("{}.json", self.profile))
    }

    fn pending_lock(&self, what: &str) -> Result<PathBuf> {
        let directory = self.state.join("pending");
        files::make_directory(&directory)?;
        Ok(directory.join(format!(".{}.{what}.qwenauth-lock", self.profile)))
    }
}
