//! The only renewal in the program: lock, read again, prepare the new file, ask, save.
//!
//! Hazards and rule: see [`super`].

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;

use super::document::Document;
use super::replacement::{Lock, save};
use super::{Account, Credential, Kind, Stored, refused};
use crate::error::{Failed, Failure, Report};
use crate::http::Connection;
use crate::oauth::refresh::{self, NotRenewed};
use crate::oauth::{Grant, Server};
use crate::platform::files::{self, Room};
use crate::platform::lock::{PATIENCE, QwenCode};
use crate::platform::signals::Held;
use crate::secret::Secret;

/// Qwen Code waits 28.9 s for its lock and then starts a device login, so a renewal is over before, all tries together.
const RENEWAL: Duration = Duration::from_secs(25);

/// Before the second and third try: long enough for a proxy to find its server again, short beside a person's patience.
const PAUSE: Duration = Duration::from_millis(500);

/// What came of sending a refresh token.
enum Spent {
    Renewed(Credential),
    /// It was refused or not even sent, for the file holds another by now.
    Superseded(Credential),
    /// `pause`: worth another try after a pause.
    Failed {
        failed: Failed,
        pause: bool,
    },
}

impl Account {
    /// Renews, unless another process has renewed since `seen` was loaded: then its result is adopted.
    ///
    /// Errors: temporary (nothing was lost), login required (the refresh token is dead), other.
    pub(crate) fn renew(&self, seen: &Credential) -> Result<Credential> {
        if seen.kind == Kind::ApiKey {
            return Ok(seen.clone());
        }
        let provider = self.provider(seen)?;
        let server = self.server(&provider, seen)?;
        let deadline = Instant::now() + PATIENCE;
        let mut lock = Lock { qwen_code: None, kernel: self.lock_kernel(deadline)? };
        let current = self.require()?;
        if changed(seen, &current) {
            drop(lock);
            return self.adopt(current);
        }
        if let Some(failed) = lock.kernel.shared_failure() {
            return Err(failed.into());
        }
        let outcome = self.renew_locked(seen, &server, &mut lock, deadline);
        if let Err(error) = &outcome {
            let report = Report::of(error);
            lock.kernel.share_failure(&Failed { failure: report.failure, message: report.message, hint: report.hint });
        }
        outcome
    }

    /// What another process wrote since this one looked is used as it is, unless it has expired again, as after a sleep
    /// of the machine between the two readings.
    fn adopt(&self, current: Credential) -> Result<Credential> {
        log::debug!("adopting what another process wrote");
        if current.left((self.clock)()).is_some() {
            return Ok(current);
        }
        self.renew(&current)
    }

    /// Under the kernel lock: Qwen Code's lock, read again, room, ask, save.
    fn renew_locked(
        &self,
        seen: &Credential,
        server: &Server,
        lock: &mut Lock,
        deadline: Instant,
    ) -> Result<Credential> {
        if let Some(path) = &self.qwen_code_lock {
            let enough = || Ok(changed(seen, &self.require()?));
            lock.qwen_code = QwenCode::acquire(path, &mut lock.kernel, deadline, enough)?;
            if lock.qwen_code.is_none() {
                return self.require();
            }
        }
        let over = Instant::now() + RENEWAL;
        let mut current = self.require()?;
        if changed(seen, &current) {
            return Ok(current);
        }
        let connection = self.network.connect(&server.token_endpoint)?;
        // At most three tries, the last of which is final.
        for again in [true, true, false] {
            let refresh_token = self.spendable(&current)?;
            match self.spend(&refresh_token, server, &connection, lock, over)? {
                Spent::Renewed(credential) => return Ok(credential),
                Spent::Superseded(other) if again && other.left((self.clock)()).is_none() => current = other,
                Spent::Superseded(other) => return Ok(other),
                Spent::Failed { failed, pause: true } if again && Instant::now() + PAUSE < over => {
                    log::warn!("renewing again in {} ms: {failed}", PAUSE.as_millis());
                    thread::sleep(PAUSE);
                    if Held::noted() {
                        return Err(failed.into());
                    }
                }
                Spent::Failed { failed, .. } => return Err(failed.into()),
            }
        }
        Failed::new(Failure::Temporary, "the refresh token changed three times during one renewal").err()
    }

    /// The refresh token of `current`, unless it is known to be dead.
    fn spendable(&self, current: &Credential) -> Result<Secret> {
        let Some(refresh_token) = current.refresh_token.clone() else {
            return self.login_required("the token has expired and the login has no refresh token".into());
        };
        if refused::is_marked(&self.state, &refresh_token) {
            return self.login_required("the login is over: the server refused its refresh token".into());
        }
        Ok(refresh_token)
    }

    /// One try. The new version has its room before the first byte is sent, and signals wait until it is in place.
    fn spend(
        &self,
        refresh_token: &Secret,
        server: &Server,
        connection: &Connection,
        lock: &Lock,
        over: Instant,
    ) -> Result<Spent> {
        if let Some(successor) = self.recover(refresh_token, lock)? {
            return Ok(Spent::Superseded(successor));
        }
        let room = self.reserve(Some(refresh_token))?;
        let before = self.bytes()?;
        if let Err(why) = Document::parse(&before) {
            return self.damaged(&why);
        }
        // Qwen Code's lock keeps nobody from writing, and the last reading may be a pause ago.
        let current = self.require()?;
        if current.refresh_token.as_ref() != Some(refresh_token) {
            return Ok(Spent::Superseded(current));
        }
        let _held = Held::new();
        let limit = refresh::LIMIT.min(over.saturating_duration_since(Instant::now()));
        let asked_at = (self.clock)();
        log::info!("renewing the token of `{}`", self.profile);
        let temporary = |message: String| {
            Failed::new(Failure::Temporary, format!("cannot renew the token: {message}"))
                .hint("nothing was lost; try again in a while")
        };
        match refresh::request(server, connection, refresh_token, limit) {
            Ok(grant) => self.save_renewed(room, lock, &grant, refresh_token, &before, asked_at).map(Spent::Renewed),
            Err(NotRenewed::Refused(why)) => self.after_refusal(refresh_token, &why).map(Spent::Superseded),
            Err(NotRenewed::Temporary { message, again }) => {
                Ok(Spent::Failed { failed: temporary(message), pause: again })
            }
            Err(NotRenewed::OauthError(why)) => Ok(Spent::Failed {
                failed: Failed::new(Failure::Other, format!("cannot renew the token: {why}"))
                    .hint("this is not about your login, which was kept"),
                pause: false,
            }),
        }
    }

    /// Saves a grant over the version that held `spent`, or over `before` if a program without our lock has removed it.
    /// If such a program has logged in meanwhile, its newer login stands and the grant of the old one is dropped.
    fn save_renewed(
        &self,
        mut room: Room,
        lock: &Lock,
        grant: &Grant,
        spent: &Secret,
        before: &[u8],
        asked_at: SystemTime,
    ) -> Result<Credential> {
        // From here a kill costs nothing: the next renewal finds the grant.
        let mut draft = Document::parse(before).unwrap_or_default();
        draft.renew(grant, asked_at);
        if let Err(error) = draft.to_bytes().and_then(|bytes| Ok(room.draft(&bytes)?)) {
            log::debug!("no draft of the next version: {error:#}");
        }
        // `spent` is gone: whatever goes wrong with reading the file again must not keep the grant from being saved.
        let document = match self.load() {
            Ok(Stored::Present(current)) if current.refresh_token.as_ref() == Some(spent) => {
                self.bytes().map_or_else(|_| Document::parse(before), |bytes| Document::parse(&bytes))
            }
            Ok(Stored::Present(current)) if current.left((self.clock)()).is_some() => {
                log::warn!("another program has logged in during the renewal; its login is kept");
                return Ok(current);
            }
            _ => Document::parse(before),
        };
        let mut document = document.or_else(|_| Document::parse(before)).unwrap_or_default();
        document.renew(grant, asked_at);
        save(lock, room, &document).map_err(|error| self.unsaved(&error, "the token was renewed", grant))?;
        self.require()
    }

    /// The server refused `refresh_token`. If the file holds another by now, that one counts. Else the token is marked,
    /// and the file goes if its access token is over too.
    fn after_refusal(&self, refresh_token: &Secret, why: &str) -> Result<Credential> {
        if let Stored::Present(current) = self.load()?
            && current.refresh_token.as_ref() != Some(refresh_token)
        {
            return Ok(current);
        }
        refused::mark(&self.state, refresh_token);
        if let Stored::Present(current) = self.load()?
            && current.refresh_token.as_ref() == Some(refresh_token)
            && current.left((self.clock)()).is_none()
        {
            files::remove(&self.path)?;
        }
        self.login_required(format!("the login is over: {why}"))
    }
}

/// Whether the file was rewritten since `seen` was loaded.
fn changed(seen: &Credential, current: &Credential) -> bool {
    seen.access_token != current.access_token || seen.refresh_token != current.refresh_token
}
