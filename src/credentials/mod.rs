//! One credential: read it, keep it fresh, renew it, log in, remove it; the only code that changes it.
//!
//! Hazard: a refresh token works once. Two processes that send the same one, a kill between the server's response and
//! the file, a full disk, or a file that another program writes meanwhile each lose the login for good. Rule: [`renew`]
//! is the only renewal in the program. It takes the locks, reads again, prepares the new file, requests tokens, and
//! saves; saving requires the [`store::Guard`], which is the lock. New tokens are written at once into a file named
//! after the token they replace: if the process is killed before the rename, the next renewal installs that file.
//!
//! How the known hazards of Qwen Code's file (R1–R10, see lock for R1–R5 and R10) are met:
//! - **R6** a 400 for a token that was already rotated makes Qwen Code unlink valid tokens: after a rejection we read again,
//!   use another token if there is one, and remove the file only while it holds the rejected token and its access token has
//!   expired too.
//! - **R7** N processes that see one 401 renew N times: a renewal made since the caller loaded its credential is adopted,
//!   never repeated.
//! - **R8** a reply without a refresh token writes back one captured before the lock: the token sent and the document kept
//!   are both read under the lock.
//! - **R9** a login during a renewal is overwritten by the old account's tokens: `login` and `logout` take the same locks
//!   for their final change, and a renewal saves only over the token it used.
//!
//! The following hold for users of the file: the file is trusted over expiry in memory (a valid refresh token on disk
//! is used whatever is in memory); an empty value never replaces a valid one; no older token is tried after a newer
//! one; a file that cannot be parsed is reported, not read as "empty"; the directory is checked to be writable, with
//! enough space, before a token is used; a wait always outlasts a renewal; and a login made elsewhere is seen, because
//! nothing is cached.

mod api_refusal;
pub(crate) mod document;
mod endpoints;
mod key;
mod lent;
mod login;
mod machine;
mod origin;
mod pending;
mod refused;
mod renewal;
mod short_lived;
mod store;
mod verification;
mod workload;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;

pub(crate) use self::api_refusal::{ApiMark, api_refusal, remember_verification};
pub(crate) use self::endpoints::{chosen_model_of, login_server, model_of, revoke};
pub(crate) use self::key::{clean_key, not_a_key};
pub(crate) use self::lent::Lent;
pub(crate) use self::login::{NewKey, forget, move_to, remove, store_grant, store_identity, store_key, store_model};
pub(crate) use self::origin::{check_origin, strays as stray_origins};
pub(crate) use self::pending::{Pending, PendingLogin};
pub(crate) use self::refused::marks_of_others;
pub(crate) use self::renewal::{Why, renew};
pub(crate) use self::short_lived::short_lived;
pub(crate) use self::store::{Answers, GivenKey, STALE, Store, program_of};
use self::store::{Found, Snapshot};
pub(crate) use self::verification::{Verification, VerificationRequest, verify};
pub(crate) use self::workload::{Identity, Variables, exchanged, identified};
use crate::error::{Failed, Failure, Report, note};
use crate::http::Network;
use crate::oauth::Endpoints;
use crate::platform::access;
use crate::profile::ProfileName;
use crate::profile::SecretStore;
use crate::providers::{self, Overrides, Provider, QWEN};
use crate::secret::Secret;

/// Qwen Code renews when less than this is left, in every version; the same margin keeps both programs in step.
pub(crate) const MARGIN: Duration = Duration::from_secs(30);

/// The clock: a parameter, so that time is read where it matters and nowhere else.
pub(crate) type Clock = fn() -> SystemTime;

/// How a credential was obtained.
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
    /// The provider it belongs to; the file shared with Qwen Code does not state it.
    provider: Option<String>,
    /// The model chosen at login.
    model: Option<String>,
    /// Where the credential may be sent, as decided at login: config.toml cannot send a stored key elsewhere.
    base_url: Option<String>,
    /// When an API key was stored, RFC 3339.
    pub(crate) created_at: Option<String>,
    /// The machine that stored it, as a hash; Qwen Code's file does not state it.
    machine: Option<String>,
    pub(crate) secret_store: SecretStore,
    /// What prints the key. Until it has, the access token is empty.
    pub(crate) command: Option<String>,
    /// The name of the secret in the keyring.
    entry: Option<String>,
    issuer: Option<Box<Endpoints>>,
    /// How tokens are got where none is stored; [`Self::access_token`] is empty then until one was.
    pub(crate) identity: Option<Box<Identity>>,
}

impl Credential {
    /// A credential of `provider` that no file describes. What else is known of it, the caller adds.
    fn unstored(kind: Kind, access_token: Secret, provider: String) -> Self {
        Self {
            kind,
            access_token,
            refresh_token: None,
            token_type: "Bearer".into(),
            expires_at: None,
            resource_url: None,
            provider: Some(provider),
            model: None,
            base_url: None,
            created_at: None,
            machine: None,
            secret_store: SecretStore::File,
            command: None,
            entry: None,
            issuer: None,
            identity: None,
        }
    }

    /// Whether the access token is valid for `lifetime` from `now`.
    fn lasts(&self, lifetime: Duration, now: SystemTime) -> bool {
        self.is_lasting() || self.left(now).is_some_and(|left| left >= lifetime)
    }

    /// Tells one key or token from another without showing it; a workload's tokens count as one.
    pub(crate) fn hash(&self) -> String {
        if let Some(identity) = &self.identity {
            return identity.hash();
        }
        refused::hash_of(&self.access_token)
    }

    pub(crate) fn provider_name(&self) -> &str {
        self.provider.as_deref().unwrap_or(QWEN)
    }

    /// Whether it is valid until it is deleted.
    pub(crate) fn is_lasting(&self) -> bool {
        self.kind == Kind::ApiKey && self.expires_at.is_none()
    }

    /// Whether the secret is not at hand: a command has to print it, or it was left in the keyring.
    pub(crate) fn is_without_secret(&self) -> bool {
        self.access_token.expose().is_empty()
    }

    fn is_in_keyring_alone(&self) -> bool {
        self.secret_store == SecretStore::Keyring && self.is_without_secret()
    }

    /// Whether it is another version than `other`.
    fn differs_from(&self, other: &Self) -> bool {
        self.access_token != other.access_token || self.refresh_token != other.refresh_token
    }

    /// How long the access token is still valid; `None` if it is not.
    pub(crate) fn left(&self, now: SystemTime) -> Option<Duration> {
        self.expires_at?.duration_since(now).ok().filter(|left| !left.is_zero())
    }
}

/// How long a token must be valid, and what happens if none is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lifetime {
    /// Required by the user: less is an error.
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

/// The state of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Valid,
    /// Expired, with a refresh token that was not rejected.
    Refreshable,
    Expired,
    Missing,
    Damaged,
    /// By the API, which serves nothing for it; or the refresh token was, and only a new login helps once the access
    /// token expires.
    Refused,
}

/// The content of the credential file.
#[expect(clippy::large_enum_variant, reason = "one at a time, and not for long")]
pub(crate) enum Stored {
    Missing,
    /// With the reason.
    Damaged(String),
    Present(Credential),
}

impl From<Found> for Stored {
    fn from(found: Found) -> Self {
        match found {
            Found::Missing => Self::Missing,
            Found::Damaged(why) => Self::Damaged(why),
            Found::Present(snapshot) => Self::Present(snapshot.credential),
        }
    }
}

/// One profile's credential, and what is needed to use and renew it.
pub(crate) struct Account {
    pub(crate) profile: String,
    pub(crate) store: Store,
    state: PathBuf,
    overrides: Overrides,
    pub(crate) network: Network,
    pub(crate) clock: Clock,
    pub(crate) variable: Variables,
    /// A key in the environment or in a file that config.toml names, which is used instead of what is stored.
    pub(crate) given: Option<GivenKey>,
    /// Where a login keeps its secret.
    pub(crate) keep_in: SecretStore,
    /// What key commands have printed in this run.
    pub(crate) answers: Answers,
}

impl Account {
    pub(crate) fn new(
        profile: &ProfileName,
        path: PathBuf,
        state: PathBuf,
        overrides: Overrides,
        network: Network,
        clock: Clock,
        variable: Variables,
    ) -> Self {
        Self {
            profile: profile.to_string(),
            store: Store::new(path, profile.is_qwen()),
            state,
            overrides,
            network,
            clock,
            variable,
            given: None,
            keep_in: SecretStore::File,
            answers: Answers::default(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.store.path()
    }

    /// The file whose change is another credential; `None`: nothing changes while this process runs.
    pub(crate) fn watched(&self) -> Option<&Path> {
        match &self.given {
            Some(given) => given.file(),
            None => Some(self.path()),
        }
    }

    /// Whether Qwen Code reads and writes the same file.
    fn is_shared(&self) -> bool {
        self.profile == QWEN
    }

    /// The stored credential, as it is now. Without a key that a command prints.
    pub(crate) fn load(&self) -> Result<Stored> {
        if let Some(given) = &self.given {
            return given.load(self);
        }
        Ok(self.store.read()?.into())
    }

    /// What the file says of it, without its secret if that is kept elsewhere: for lists, and where the keyring does not
    /// answer.
    pub(crate) fn load_record(&self) -> Result<Stored> {
        match &self.given {
            Some(given) => given.load(self),
            None => Ok(self.store.read_record()?.into()),
        }
    }

    /// The stored credential, or the error that a login is required.
    pub(crate) fn require(&self) -> Result<Credential> {
        if let Some(given) = &self.given {
            return given.resolve(self);
        }
        self.snapshot().and_then(|snapshot| self.with_secret(snapshot.credential))
    }

    /// `credential` with the key that its command prints.
    pub(crate) fn with_secret(&self, mut credential: Credential) -> Result<Credential> {
        if let Some(command) = credential.command.as_deref().filter(|_| credential.is_without_secret()) {
            credential.access_token = if let Some(answer) = self.answers.get(command) {
                answer
            } else {
                access::check_commands_in(self.path())?;
                store::key_of(self, command, &self.provider(&credential)?)?
            };
        }
        Ok(credential)
    }

    /// The key that a command prints; for a login that stores the command.
    pub(crate) fn key_of(&self, command: &str, provider: &Provider) -> Result<Secret> {
        store::key_of(self, command, provider)
    }

    /// The key of this credential was refused: its command is run again.
    pub(crate) fn note_refusal(&self, refused: &Credential) {
        if let Some(command) = &refused.command {
            self.answers.refuse(command);
        }
    }

    fn snapshot(&self) -> Result<Snapshot> {
        match self.store.read()? {
            Found::Present(snapshot) => Ok(*snapshot),
            Found::Missing => {
                self.login_required(format!("not logged in: there is no credential for `{}`", self.profile))
            }
            Found::Damaged(why) => self.damaged(&why),
        }
    }

    fn damaged<T>(&self, why: &str) -> Result<T> {
        self.login_required(format!("the credential file `{}` is damaged: {why}", self.path().display()))
    }

    fn login_required<T>(&self, message: String) -> Result<T> {
        Failed::new(Failure::LoginRequired, message).hint(self.login_hint()).err()
    }

    pub(crate) fn provider(&self, credential: &Credential) -> Result<Provider> {
        providers::find(credential.provider_name(), &self.overrides)
    }

    /// Fails where the credential's base URL is rejected; see [`Credential::check_base_url`].
    pub(crate) fn check_base_url(&self, credential: &Credential) -> Result<()> {
        credential.check_base_url(&self.overrides)
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

    pub(crate) fn state_of(&self, stored: &Stored) -> State {
        let credential = match stored {
            Stored::Missing => return State::Missing,
            Stored::Damaged(_) => return State::Damaged,
            Stored::Present(credential) => credential,
        };
        let place = self.provider(credential).map(|provider| credential.base_url(&provider));
        if api_refusal(self, credential).is_some() || place.is_ok_and(|place| place.is_err()) {
            return State::Refused;
        }
        if credential.is_lasting() {
            return State::Valid;
        }
        if let Some(identity) = &credential.identity {
            return if identity.problem(self).is_none() { State::Refreshable } else { State::Expired };
        }
        match &credential.refresh_token {
            Some(token) if refused::is_marked_for_any(&self.state, token) && self.is_refused(credential, token) => {
                State::Refused
            }
            _ if credential.left((self.clock)()).is_some() => State::Valid,
            Some(_) if check_origin(self, credential).is_err() => State::Expired,
            Some(_) => State::Refreshable,
            None => State::Expired,
        }
    }

    /// Whether the server that would receive it has rejected `token`.
    fn is_refused(&self, credential: &Credential, token: &Secret) -> bool {
        let server = self.provider(credential).and_then(|provider| provider.server(credential.issuer.as_deref()));
        server.is_ok_and(|server| refused::is_marked(&self.state, token, &server.token_endpoint))
    }

    /// A credential whose access token is valid for `lifetime`, renewed if necessary.
    pub(crate) fn fresh(&self, lifetime: Lifetime) -> Result<Credential> {
        let credential = self.require()?;
        machine::warn_of_copy(self, &credential);
        let left = credential.left((self.clock)()).unwrap_or_default().as_secs();
        if credential.lasts(lifetime.duration(), (self.clock)()) {
            if credential.is_lasting() {
                log::info!("the API key of `{}` is used", self.profile);
            } else {
                log::info!("the token of `{}` is valid for {left} s more and is used", self.profile);
            }
            return Ok(credential);
        }
        log::info!(
            "the token of `{}` is valid for {left} s, less than the {} s asked for: it has to be renewed",
            self.profile,
            lifetime.duration().as_secs()
        );
        let why = match lifetime {
            Lifetime::AtLeast(asked) => Why::Lifetime(asked),
            Lifetime::Preferably(_) => Why::Asked,
        };
        match renew(self, &credential, why) {
            Ok(renewed) => self.check_lifetime(renewed, lifetime),
            Err(error) => self.fall_back_to_current(credential, lifetime, error),
        }
    }

    fn check_lifetime(&self, credential: Credential, lifetime: Lifetime) -> Result<Credential> {
        let left = credential.left((self.clock)()).unwrap_or_default();
        match lifetime {
            Lifetime::AtLeast(asked) if left < asked => Failed::new(
                Failure::Lifetime,
                format!("a new token is good for {} s, less than the {} s asked for", left.as_secs(), asked.as_secs()),
            )
            .hint("use a smaller `--min-ttl`")
            .err(),
            _ => Ok(credential),
        }
    }

    /// After a failed renewal: if the current token is still valid and no minimum was required, it is used. One with
    /// less than the usual margin left is used only if the failure may be temporary.
    fn fall_back_to_current(
        &self,
        credential: Credential,
        lifetime: Lifetime,
        error: anyhow::Error,
    ) -> Result<Credential> {
        let left = credential.left((self.clock)());
        let (Lifetime::Preferably(_), Some(left)) = (lifetime, left) else { return Err(error) };
        if left < MARGIN && Report::of(&error).failure != Failure::Temporary {
            return Err(error);
        }
        note(&format!("warning: {error:#}; the one at hand is good for {} s more", left.as_secs()));
        Ok(credential)
    }
}
