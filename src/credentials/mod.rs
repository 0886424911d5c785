//! One credential: load, fresh, renew, login, remove; the only code that changes it.
//!
//! Hazard: a refresh token works once. Two processes that send the same one, a kill between the server's answer and the
//! file, a full disk, or a file written by another program meanwhile each lose the login for good.
//! Rule: [`Account::renew`] is the only renewal in the program. It takes the locks, reads again, prepares the new file,
//! asks, and saves; saving needs the [`Lock`].
//!
//! How the known hazards of Qwen Code's file (R1–R10, see lock for R1–R5 and R10) are met:
//! - **R6** a 400 for a token that was rotated already makes Qwen Code unlink good tokens: a refusal here is followed by
//!   reading again, another token is used instead, and the file goes only while it holds the refused one and its access
//!   token has expired too.
//! - **R7** N processes that see one 401 renew N times: a renewal made since the caller loaded its credential is adopted,
//!   never repeated.
//! - **R8** a reply without a refresh token writes back one captured before the lock: the token sent and the document kept
//!   are both read under the lock.
//! - **R9** a login during a renewal is overwritten by the old account's tokens: `login` and `logout` take the same locks
//!   for their final change, and a renewal saves only over the token it spent.
//!
//! And of its users: expiry alone is never trusted over the file (a good refresh token on disk is used whatever is in
//! memory); nothing ever replaces a good value by an empty one; no older token is tried after a newer one; a file that
//! cannot be parsed is reported, not read as "empty"; the directory is proved writable, with room, before a token is
//! spent; a wait always outlasts a renewal; and a login that was made elsewhere is seen, since nothing is cached.

pub(crate) mod document;
mod origin;
mod pending;
mod proof;
mod refused;
mod short_lived;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use zeroize::Zeroizing;

use self::document::Document;
pub(crate) use self::pending::Pending;
pub(crate) use self::proof::{Proof, Question};
pub(crate) use self::refused::marks_of_others;
use crate::error::{Failed, Failure, Report, note};
use crate::files::{self, Content, Privacy, Room};
use crate::http::{Connection, Network};
use crate::lock::{Kernel, PATIENCE, QwenCode};
use crate::oauth::refresh::{self, NotRenewed};
use crate::oauth::{Endpoints, Grant, Server};
use crate::providers::{self, Overrides, Provider, QWEN};
use crate::secret::Secret;
use crate::signals::Held;

/// Qwen Code renews when less than this is left, in every version; the same margin keeps both programs in step.
pub(crate) const MARGIN: Duration = Duration::from_secs(30);

/// Qwen Code waits 28.9 s for its lock and then starts a device login, so a renewal is over before, all tries together.
const RENEWAL: Duration = Duration::from_secs(25);

/// Before the second and third try: long enough for a proxy to find its server again, short beside a person's patience.
const PAUSE: Duration = Duration::from_millis(500);

/// Bytes a renewal may add to a credential file. Tokens are some hundred bytes to a few thousand.
const GROWTH: usize = 64 * 1024;

/// The clock: a parameter, so that time is asked for where it matters and nowhere else.
pub(crate) type Clock = fn() -> SystemTime;

/// How a credential came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Oauth,
    /// It lasts until its owner deletes it.
    ApiKey,
}

/// What a credential file holds.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    pub(crate) kind: Kind,
    /// Or the API key.
    pub(crate) access_token: Secret,
    pub(crate) refresh_token: Option<Secret>,
    pub(crate) token_type: String,
    /// `None`: unknown, which counts as over, except of an API key.
    pub(crate) expires_at: Option<SystemTime>,
    pub(crate) resource_url: Option<String>,
    /// The provider it belongs to; the file shared with Qwen Code does not say.
    provider: Option<String>,
    /// The model chosen at login.
    model: Option<String>,
    /// Where the credential may go, as decided at login: config.toml cannot send a stored key elsewhere.
    base_url: Option<String>,
    /// When an API key was stored, RFC 3339.
    pub(crate) created_at: Option<String>,
    issuer: Option<Box<Endpoints>>,
}

impl Credential {
    /// Whether the access token is good for `lifetime` from `now`.
    fn lasts(&self, lifetime: Duration, now: SystemTime) -> bool {
        self.is_lasting() || self.left(now).is_some_and(|left| left >= lifetime)
    }

    pub(crate) fn provider_name(&self) -> &str {
        self.provider.as_deref().unwrap_or(QWEN)
    }

    /// Whether it is good until somebody deletes it.
    pub(crate) fn is_lasting(&self) -> bool {
        self.kind == Kind::ApiKey && self.expires_at.is_none()
    }

    /// How long the access token is still good; `None` when it is not.
    pub(crate) fn left(&self, now: SystemTime) -> Option<Duration> {
        self.expires_at?.duration_since(now).ok().filter(|left| !left.is_zero())
    }
}

/// How long a token must be good for, and what happens when it cannot be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lifetime {
    /// Asked for by the user: less is an error.
    AtLeast(Duration),
    /// A wish: less will do, as long as the token lives.
    Preferably(Duration),
}

impl Lifetime {
    pub(crate) fn new(asked: Option<Duration>, preferred: Duration) -> Self {
        asked.map_or(Self::Preferably(preferred), Self::AtLeast)
    }

    fn duration(self) -> Duration {
        match self {
            Self::AtLeast(duration) | Self::Preferably(duration) => duration,
        }
    }
}

/// Where a credential stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Valid,
    /// Expired, with a refresh token that was not refused.
    Refreshable,
    Expired,
    Missing,
    Damaged,
    /// The refresh token was refused: only a new login helps once the access token expires.
    Refused,
}

/// What stands in the credential file.
pub(crate) enum Stored {
    Missing,
    /// With the reason.
    Damaged(String),
    Present(Credential),
}

/// An API key as a login stores it.
pub(crate) struct NewKey {
    pub(crate) secret: Secret,
    pub(crate) base_url: String,
    pub(crate) region: Option<String>,
    pub(crate) model: Option<String>,
}

/// The locks of one credential. Fields are dropped in this order: Qwen Code's first, then ours.
struct Lock {
    qwen_code: Option<QwenCode>,
    kernel: Kernel,
}

/// What came of sending a refresh token.
enum Spent {
    Renewed(Credential),
    /// It was refused, but the file holds another by now.
    Superseded(Credential),
    /// `pause`: worth another try after a pause.
    Failed {
        failed: Failed,
        pause: bool,
    },
}

/// One stored credential: where it lies and how it is renewed.
pub(crate) struct Account {
    pub(crate) profile: String,
    /// As configured; it may be a symlink.
    pub(crate) path: PathBuf,
    /// Qwen Code's lock, for the file shared with it.
    qwen_code_lock: Option<PathBuf>,
    state: PathBuf,
    overrides: Overrides,
    network: Network,
    pub(crate) clock: Clock,
}

impl Account {
    pub(crate) fn new(
        profile: String,
        path: PathBuf,
        state: PathBuf,
        overrides: Overrides,
        network: Network,
        clock: Clock,
    ) -> Self {
        let qwen_code_lock = (profile == QWEN).then(|| path.with_file_name("oauth_creds.lock"));
        Self { profile, path, qwen_code_lock, state, overrides, network, clock }
    }

    /// What the file says now.
    pub(crate) fn load(&self) -> Result<Stored> {
        Ok(match files::read(&self.path, Privacy::Private)? {
            Content::Missing => Stored::Missing,
            Content::Unfit(why) => Stored::Damaged(why),
            Content::Bytes(bytes) => match document::read(&bytes) {
                Ok(Some(credential)) => Stored::Present(credential),
                Ok(None) => Stored::Missing,
                Err(why) => Stored::Damaged(why),
            },
        })
    }

    /// The stored credential, or the error that asks for a login.
    pub(crate) fn require(&self) -> Result<Credential> {
        match self.load()? {
            Stored::Present(credential) => Ok(credential),
            Stored::Missing => {
                self.login_required(format!("not logged in: there is no credential for `{}`", self.profile))
            }
            Stored::Damaged(why) => {
                self.login_required(format!("the credential file `{}` is damaged: {why}", self.path.display()))
            }
        }
    }

    fn login_required<T>(&self, message: String) -> Result<T> {
        Failed::new(Failure::LoginRequired, message).hint(self.login_hint()).err()
    }

    /// What brings this profile's login back.
    pub(crate) fn login_hint(&self) -> String {
        if self.profile == QWEN {
            return "run `qwenauth login`".into();
        }
        if providers::is_built_in(&self.profile) || self.overrides.table.contains_key(&self.profile) {
            return format!("run `qwenauth login {}`", self.profile);
        }
        format!("run `qwenauth login PROVIDER --profile {}`", self.profile)
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    pub(crate) fn state_of(&self, stored: &Stored) -> State {
        let credential = match stored {
            Stored::Missing => return State::Missing,
            Stored::Damaged(_) => return State::Damaged,
            Stored::Present(credential) => credential,
        };
        if credential.is_lasting() {
            return State::Valid;
        }
        match &credential.refresh_token {
            Some(token) if refused::is_marked(&self.state, token) => State::Refused,
            _ if credential.left((self.clock)()).is_some() => State::Valid,
            Some(_) => State::Refreshable,
            None => State::Expired,
        }
    }

    /// A credential whose access token is good for `lifetime`, renewed if it must be.
    pub(crate) fn fresh(&self, lifetime: Lifetime) -> Result<Credential> {
        let credential = self.require()?;
        if credential.lasts(lifetime.duration(), (self.clock)()) {
            return Ok(credential);
        }
        match self.renew(&credential) {
            Ok(renewed) => self.check_lifetime(renewed, lifetime),
            Err(error) => self.make_do(credential, lifetime, error),
        }
    }

    fn check_lifetime(&self, credential: Credential, lifetime: Lifetime) -> Result<Credential> {
        let left = credential.left((self.clock)()).unwrap_or_default();
        match lifetime {
            Lifetime::AtLeast(asked) if left < asked => Failed::new(
                Failure::Lifetime,
                format!("a new token is good for {} s, less than the {} s asked for", left.as_secs(), asked.as_secs()),
            )
            .hint("ask for less with `--min-ttl`")
            .err(),
            _ => Ok(credential),
        }
    }

    /// A renewal failed: a token that still lives serves whoever did not insist on more. One with less than the usual
    /// margin left does so only if the failure may pass.
    fn make_do(&self, credential: Credential, lifetime: Lifetime, error: anyhow::Error) -> Result<Credential> {
        let left = credential.left((self.clock)());
        let (Lifetime::Preferably(_), Some(left)) = (lifetime, left) else { return Err(error) };
        if left < MARGIN && Report::of(&error).failure != Failure::Temporary {
            return Err(error);
        }
        note(&format!("warning: {error:#}; the one at hand is good for {} s more", left.as_secs()));
        Ok(credential)
    }

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

    fn kernel_lock_path(&self) -> Result<PathBuf> {
        let target = files::resolve(&self.path)?;
        let stem = target.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(target.with_file_name(format!(".{stem}.qwenauth-lock")))
    }

    fn lock_kernel(&self, deadline: Instant) -> Result<Kernel> {
        let path = self.kernel_lock_path()?;
        Kernel::acquire(files::open_kept(&path)?, &path, deadline)
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
        let room = self.reserve()?;
        let before = self.bytes()?;
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

    /// Space for the next version of the file, taken before anything is spent.
    fn reserve(&self) -> Result<Room> {
        let length = std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        Room::reserve(&self.path, usize::try_from(length)? + GROWTH, Privacy::Private)
    }

    /// Saves a grant over the version that held `spent`, or over `before` if a program without our lock has removed it.
    /// If such a program has logged in meanwhile, its newer login stands and the grant of the old one is dropped.
    fn save_renewed(
        &self,
        room: Room,
        lock: &Lock,
        grant: &Grant,
        spent: &Secret,
        before: &[u8],
        asked_at: SystemTime,
    ) -> Result<Credential> {
        // `spent` is gone: whatever goes wrong with reading the file again must not keep the grant from being saved.
        let mut document = match self.load() {
            Ok(Stored::Present(current)) if current.refresh_token.as_ref() == Some(spent) => {
                self.bytes().map_or_else(|_| Document::parse(before), |bytes| Document::parse(&bytes))
            }
            Ok(Stored::Present(current)) if current.left((self.clock)()).is_some() => {
                log::warn!("another program has logged in during the renewal; its login is kept");
                return Ok(current);
            }
            _ => Document::parse(before),
        };
        document.renew(grant, asked_at);
        save(lock, room, &document).map_err(|error| self.unsaved(&error, "the token was renewed", grant))?;
        self.require()
    }

    /// The server has granted what the disk does not take.
    fn unsaved(&self, error: &anyhow::Error, granted: &str, grant: &Grant) -> Failed {
        let report = Report::of(error);
        let hint = match grant.refresh_token {
            Some(_) => format!("mend that, then {}: the server may know older tokens no more", self.login_hint()),
            None => "nothing was lost: mend that, then run it again".into(),
        };
        let message = format!("{granted}, but could not be saved: {}", report.message);
        Failed::new(report.failure, message).hint(hint)
    }

    fn bytes(&self) -> Result<Zeroizing<Vec<u8>>> {
        Ok(match files::read(&self.path, Privacy::Private)? {
            Content::Bytes(bytes) => bytes,
            Content::Missing | Content::Unfit(_) => Zeroizing::default(),
        })
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
        let mut document = match self.load()? {
            Stored::Damaged(why) => {
                let aside = files::set_aside(&self.path)?;
                note(&format!("the credential file was damaged ({why}) and is now `{}`", aside.display()));
                Document::default()
            }
            Stored::Missing | Stored::Present(_) => Document::parse(&self.bytes()?),
        };
        change(&mut document);
        save(&lock, self.reserve()?, &document)?;
        self.require()
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

    /// Removes the credential. Says what there was, if anything.
    pub(crate) fn remove(&self) -> Result<Option<Stored>> {
        if matches!(self.load(), Ok(Stored::Missing)) {
            return Ok(None);
        }
        let _lock = self.lock()?;
        let _held = Held::new();
        let was = self.load().unwrap_or_else(|error| Stored::Damaged(format!("{error:#}")));
        let removed = files::remove(&self.path).context("cannot log out")?;
        Ok(removed.then_some(was))
    }
}

/// The only writing of a credential file; without the lock it does not compile.
fn save(_lock: &Lock, room: Room, document: &Document) -> Result<()> {
    room.write(&document.to_bytes()?)
}

/// Whether the file was rewritten since `seen` was loaded.
fn changed(seen: &Credential, current: &Credential) -> bool {
    seen.access_token != current.access_token || seen.refresh_token != current.refresh_token
}
