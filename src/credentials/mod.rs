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
mod fresh;
mod key;
mod lent;
mod login;
mod machine;
mod origin;
mod pending;
pub(crate) mod reading;
mod refused;
mod renewal;
mod short_lived;
mod source;
mod state;
mod store;
mod verification;
mod workload;

use std::time::{Duration, SystemTime};

pub(crate) use self::api_refusal::{ApiMark, api_refusal, remember_verification};
pub(crate) use self::endpoints::{chosen_model_of, login_server, model_of, revoke};
pub(crate) use self::fresh::{Lifetime, fresh};
pub(crate) use self::key::{clean_key, not_a_key};
pub(crate) use self::lent::Lent;
pub(crate) use self::login::{NewKey, forget, move_to, remove, store_grant, store_identity, store_key, store_model};
pub(crate) use self::origin::{check_origin, strays as stray_origins};
pub(crate) use self::pending::{Pending, PendingLogin};
pub(crate) use self::refused::marks_of_others;
pub(crate) use self::renewal::{Why, renew};
pub(crate) use self::short_lived::short_lived;
pub(crate) use self::source::{CredentialSource, Stored};
pub(crate) use self::state::{State, state_of};
pub(crate) use self::store::{Answers, GivenKey, STALE, Store, key_of, program_of};
pub(crate) use self::verification::{Verification, VerificationRequest, verify};
pub(crate) use self::workload::{Identity, Variables, exchanged, identified};
use crate::oauth::Endpoints;
use crate::profile::SecretStore;
use crate::providers::QWEN;
use crate::secret::Secret;

/// Qwen Code renews when less than this is left, in every version; the same margin keeps both programs in step.
pub(crate) const MARGIN: Duration = Duration::from_secs(30);

/// The key that tools get if the server requires none: most tools insist on one.
pub(crate) const NO_KEY: &str = "no-key";

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
    /// `None` if unknown; treated as expired unless it is an API key.
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
    /// The command that prints the key. Until it has run, the access token is empty.
    pub(crate) command: Option<String>,
    /// The name of the secret in the keyring.
    entry: Option<String>,
    issuer: Option<Box<Endpoints>>,
    /// How tokens are obtained if none is stored; until then [`Self::access_token`] is empty.
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

    /// The token that records of this login are named after: one that a renewal replaces changes the name.
    fn record_token(&self) -> &Secret {
        self.refresh_token.as_ref().unwrap_or(&self.access_token)
    }

    pub(crate) fn provider_name(&self) -> &str {
        self.provider.as_deref().unwrap_or(QWEN)
    }

    /// Whether it is valid until it is deleted.
    pub(crate) fn is_lasting(&self) -> bool {
        self.kind == Kind::ApiKey && self.expires_at.is_none()
    }

    /// Whether the secret is missing here: a command has to print it, or it is in the keyring.
    pub(crate) fn is_without_secret(&self) -> bool {
        self.access_token.expose().is_empty()
    }

    /// Whether the server needs no key, so that the stored one is [`NO_KEY`].
    pub(crate) fn is_keyless(&self) -> bool {
        self.kind == Kind::ApiKey && self.access_token.expose() == NO_KEY
    }

    /// Whether only what is not secret was read.
    pub(crate) fn is_in_keyring_alone(&self) -> bool {
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
