//! The final change of a login and a logout, each made atomically under the locks.

use anyhow::{Context, Result, bail};

use super::document::CredentialDocument;
use super::reading::Format;
use super::store::Found;
use super::{Credential, CredentialSource, Stored, api_refusal, endpoints, machine, origin};
use crate::error::{Failed, Failure, Report, note};
use crate::oauth::{AuthorizationServer, Endpoints, TokenResponse};
use crate::platform::files::Kept;
use crate::platform::signals::DeferredSignals;
use crate::profile::SecretStore;
use crate::providers::Provider;
use crate::secret::Secret;

/// An API key as a login stores it.
pub(crate) struct NewKey {
    pub(crate) secret: Secret,
    pub(crate) base_url: String,
    pub(crate) region: Option<String>,
    pub(crate) model: Option<String>,
    /// What prints the key and is stored instead of it.
    pub(crate) command: Option<String>,
    pub(crate) store: SecretStore,
}

/// Stores the tokens of a login. A damaged file is renamed and kept.
pub(crate) fn store_grant(
    source: &CredentialSource,
    provider: &Provider,
    grant: &TokenResponse,
    (server, found): (&AuthorizationServer, Option<&Endpoints>),
    model: Option<&str>,
    store: SecretStore,
) -> Result<Credential> {
    let format = source.store.format();
    let stored = replace(source, Change::Login, |document| {
        origin::remember(source, grant.refresh_token.as_ref().unwrap_or(&grant.access_token), server);
        document.log_in(grant, (source.clock)(), format);
        if format == Format::Own {
            document.set("provider", Some(&provider.name));
            document.set("model", model);
            document.set_store(store);
        }
        if let Some(found) = found {
            document.set_issuer(found);
        }
    });
    if stored.is_ok()
        && source.store.is_shared()
        && let Err(error) = endpoints::keep_chosen_beside(source, model)
    {
        note(&format!("warning: cannot save the model: {error:#}"));
    }
    stored.map_err(|error| unsaved(source, &error, "the login succeeded", grant).into())
}

/// Stores an API key with the base URL it belongs to, as [`store_grant`] does. `now` is RFC 3339.
pub(crate) fn store_key(
    source: &CredentialSource,
    provider: &Provider,
    key: &NewKey,
    now: Option<&str>,
) -> Result<Credential> {
    replace(source, Change::Login, |document| {
        document.forget(Format::Own);
        document.set("provider", Some(&provider.name));
        match &key.command {
            Some(command) => document.set("api_key_command", Some(command)),
            None => document.set("api_key", Some(key.secret.expose())),
        }
        document.set_store(key.store);
        document.set("base_url", Some(&key.base_url));
        document.set("region", key.region.as_deref());
        document.set("model", key.model.as_deref());
        document.set("created_at", now);
    })
}

/// Stores how a workload gets its tokens, and none of them.
pub(crate) fn store_identity(
    source: &CredentialSource,
    credential: &Credential,
    model: Option<&str>,
) -> Result<Credential> {
    let Some(identity) = &credential.identity else { bail!("the credential is not a workload identity") };
    let mut written = Ok(());
    let stored = replace(source, Change::Login, |document| {
        document.forget(Format::Own);
        document.set("provider", credential.provider.as_deref());
        document.set("base_url", credential.base_url.as_deref());
        document.set("model", model);
        written = document.set_identity(identity);
    })?;
    written.map(|()| stored)
}

/// Changes the model of the existing login.
pub(crate) fn store_model(source: &CredentialSource, model: &str) -> Result<Credential> {
    if source.store.is_shared() {
        endpoints::keep_chosen_beside(source, Some(model))?;
        return source.require();
    }
    replace(source, Change::Detail, |document| document.set("model", Some(model)))
}

/// Moves the secret of the existing login: it is written and read back, then the old copy is removed.
pub(crate) fn move_to(source: &CredentialSource, store: SecretStore) -> Result<Credential> {
    let mut guard = source.store.lock_fully()?;
    let _held = DeferredSignals::new();
    let before = source.snapshot()?;
    let mut document = before.document().map_err(|why| Failed::new(Failure::LoginRequired, why))?;
    document.set_store(store);
    guard.replace(&document)
}

/// How much of the stored credential is replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    /// The whole login.
    Login,
    Detail,
}

fn replace(
    source: &CredentialSource,
    what: Change,
    change: impl FnOnce(&mut CredentialDocument),
) -> Result<Credential> {
    let mut guard = source.store.lock_fully()?;
    let _held = DeferredSignals::new();
    let mut before = None;
    let found = match source.store.read() {
        // An unreadable old secret in the keyring does not prevent a new login.
        Err(_) if what == Change::Login => source.store.read_record()?,
        found => found?,
    };
    let old = match found {
        Found::Missing => Ok(CredentialDocument::default()),
        Found::Damaged(why) => Err(why),
        Found::Present(snapshot) => {
            let document = snapshot.document();
            before = Some(snapshot.credential);
            document
        }
    };
    let mut document = match old {
        Ok(document) => document,
        Err(why) => {
            let aside = guard.set_aside()?;
            note(&format!("the credential file was damaged ({why}) and is now `{}`", aside.display()));
            CredentialDocument::default()
        }
    };
    change(&mut document);
    if source.store.format() == Format::Own {
        document.set("machine", machine::hash().as_deref());
    }
    let stored = guard.replace(&document)?;
    if let Some(before) = before {
        forget_what_is_known(source, &before, Some(&stored));
    }
    Ok(stored)
}

/// Removes the records of a credential that is removed. If the same credential was logged in again, only its rejection
/// is removed.
fn forget_what_is_known(source: &CredentialSource, gone: &Credential, stored: Option<&Credential>) {
    api_refusal::forget(source, gone);
    if stored.is_none_or(|stored| stored.record_token() != gone.record_token()) {
        origin::forget(source, gone.record_token());
    }
}

/// Removes the credential and returns what was stored, if anything. Call [`forget`] once it was revoked.
pub(crate) fn remove(source: &CredentialSource) -> Result<Option<Stored>> {
    if matches!(source.load(), Ok(Stored::Missing)) {
        return Ok(None);
    }
    let mut guard = source.store.lock_fully()?;
    let _held = DeferredSignals::new();
    let was = source.load().unwrap_or_else(|error| Stored::Damaged(format!("{error:#}")));
    let removed = guard.remove().context("cannot log out")?;
    Ok(removed.then_some(was))
}

/// Removes what was remembered of a credential that was removed and revoked.
pub(crate) fn forget(source: &CredentialSource, gone: &Credential) {
    forget_what_is_known(source, gone, None);
}

/// The server issued tokens that could not be saved.
pub(super) fn unsaved(
    source: &CredentialSource,
    error: &anyhow::Error,
    granted: &str,
    grant: &TokenResponse,
) -> Failed {
    let report = Report::of(error);
    let hint = match grant.refresh_token {
        Some(_) if error.is::<Kept>() => "nothing was lost: fix that, and the next command completes it".into(),
        Some(_) => format!("fix that, then {}: older tokens may no longer be valid", source.login_hint()),
        None => "nothing was lost: fix that, then run it again".into(),
    };
    Failed::from(report).reworded(|why| format!("{granted}, but could not be saved: {why}")).hint(hint)
}
