//! A login with an API key: read it, verify it at the endpoint that really checks it, and store it unless it is
//! rejected.

use std::time::SystemTime;

use anyhow::Result;

use super::Attempt;
use super::key_input::{ask_for, given};
use super::key_verification::{check_owner, model, verify};
use super::target::{self, Target};
use crate::credentials::{
    NO_KEY, NewKey, Stored, Verification, api_refusal, chosen_model_of, remember_verification, store_key,
};
use crate::epoch;
use crate::error::{Failed, Failure, note};
use crate::profile::SecretStore;
use crate::secret::Secret;
use crate::terminal;

/// What is to be stored.
struct Change {
    secret: Secret,
    /// What printed it, and is stored in its place.
    command: Option<String>,
    /// The places to try, the likeliest first.
    targets: Vec<Target>,
    /// Whether the key came from the stored login.
    is_stored_key: bool,
}

/// Applies whatever was given: a key, a place, a model. The rest stays as it is stored.
pub(super) fn log_in(attempt: &Attempt) -> Result<()> {
    // What cannot work is reported before a person types a key.
    let place = target::given(attempt)?;
    let stored = stored_target(attempt)?;
    let given = given(attempt)?;
    let args = attempt.args;
    let is_given = given.is_some() || place.is_some() || args.model.is_some() || args.store.is_some();
    if !is_given && !attempt.args.force && attempt.keeps_existing()? {
        return Ok(());
    }
    let targets = match &place {
        Some(place) => vec![place.clone()],
        None => target::likely(&attempt.provider, stored.as_ref())?,
    };
    let reusable = if given.is_some() { None } else { reusable_key(attempt, place.as_ref(), stored.as_ref())? };
    let asks = attempt.args.force || !is_given || is_elsewhere(place.as_ref(), stored.as_ref());
    let (secret, is_stored_key) = match (given, reusable) {
        (Some(given), _) => (given, false),
        (None, Some(reusable)) if !(asks && terminal::can_prompt()) => (reusable, true),
        (None, reusable) => match ask_for(attempt, &targets, reusable.is_some())? {
            Some(typed) => (typed, false),
            None => match reusable {
                Some(reusable) => (reusable, true),
                None => (Secret::new(NO_KEY.into()), false),
            },
        },
    };
    let stored_command = attempt.stored_key().and_then(|stored| stored.command.clone());
    let command =
        args.api_key_command.clone().or_else(|| stored_command.filter(|_| is_stored_key && args.store.is_none()));
    store(attempt, Change { secret, command, targets, is_stored_key }, false)
}

/// Verifies and stores a key that the provider has made just now.
pub(super) fn store_granted(attempt: &Attempt, secret: Secret) -> Result<()> {
    store(attempt, new_key(attempt, secret)?, true)
}

/// Verifies and stores a key that a person gave.
pub(super) fn store_given(attempt: &Attempt, secret: Secret) -> Result<()> {
    store(attempt, new_key(attempt, secret)?, false)
}

fn new_key(attempt: &Attempt, secret: Secret) -> Result<Change> {
    let targets = target::likely(&attempt.provider, stored_target(attempt)?.as_ref())?;
    Ok(Change { secret, command: None, targets, is_stored_key: false })
}

fn stored_target(attempt: &Attempt) -> Result<Option<Target>> {
    attempt.stored_key().map(|stored| Target::of(&attempt.provider, stored)).transpose()
}

/// The stored key, where it may be used at the place that was given.
fn reusable_key(attempt: &Attempt, place: Option<&Target>, stored: Option<&Target>) -> Result<Option<Secret>> {
    let Some(key) = attempt.stored_key() else { return Ok(None) };
    let provider = &attempt.provider;
    let may_go = place.is_none_or(|place| stored.is_some_and(|stored| stored.shares_key_with(place, provider)));
    if !may_go || attempt.args.force {
        return Ok(None);
    }
    Ok(Some(attempt.source.with_secret(key.clone())?.access_token))
}

fn is_elsewhere(place: Option<&Target>, stored: Option<&Target>) -> bool {
    place.is_some_and(|place| stored.is_none_or(|stored| stored.base_url != place.base_url))
}

/// `granted`: the provider made the key for this login, so it is stored even if it cannot be verified now.
fn store(attempt: &Attempt, change: Change, granted: bool) -> Result<()> {
    let Change { secret, command, mut targets, is_stored_key } = change;
    if is_unchanged(attempt, &secret, command.as_deref(), &targets)?
        && let Some(stored) = attempt.stored_key()
    {
        note(&format!("already logged in with this key as profile `{}`", attempt.profile));
        return attempt.keep(stored);
    }
    check_owner(attempt, &secret)?;
    let may_be_elsewhere = targets.len() > 1 && attempt.stored_key().is_none();
    let store = if command.is_some() { SecretStore::Command } else { attempt.keep_in };
    attempt.check_writable(store)?;
    attempt.warn_of_terms(&secret);
    let (target, verification) = if attempt.args.no_verify {
        (targets.remove(0), None)
    } else {
        let (target, verification) = verify(attempt, &secret, targets)?;
        (target, Some(verification))
    };
    if let (Some(Verification::Unclear(why)), Some(_), false) = (&verification, &attempt.stored, granted) {
        return why
            .clone()
            .reworded(|why| format!("cannot verify the login: {why}; nothing was changed"))
            .or_hint("retry later, or add `--no-verify` to store it unverified")
            .err();
    }
    if is_stored_key {
        check_not_replaced(attempt, &secret)?;
    }
    let model = model(attempt, &secret, &target, verification.as_ref());
    let key = NewKey { secret, base_url: target.base_url, region: target.region, model, command, store };
    let mut credential =
        store_key(&attempt.source, &attempt.provider, &key, epoch::rfc3339(SystemTime::now()).as_deref())?;
    // What is remembered of a key goes by the key, wherever it is stored.
    credential.access_token = key.secret;
    if let Some(verification) = &verification {
        remember_verification(&attempt.source, &credential, verification);
    }
    if may_be_elsewhere
        && let Some(region) = &key.region
        && !matches!(verification, Some(Verification::Accepted | Verification::Exhausted(_)))
    {
        let line = attempt.command_line();
        note(&format!(
            "the region was not detected: `{region}` is assumed; `{line} --region REGION` stores another one"
        ));
    }
    attempt.conclude(&credential, verification)
}

/// Whether key, place and model are those that are stored. A key that the API has rejected is verified again.
fn is_unchanged(attempt: &Attempt, secret: &Secret, command: Option<&str>, targets: &[Target]) -> Result<bool> {
    let (Some(stored), false) = (attempt.stored_key(), attempt.args.force) else { return Ok(false) };
    let place = Target::of(&attempt.provider, stored)?;
    let same_place = targets.iter().any(|target| target.base_url == place.base_url);
    let same_model = attempt.args.model.is_none() || attempt.args.model == chosen_model_of(&attempt.source, stored);
    let same_key = match command {
        Some(_) => stored.command.as_deref() == command,
        None => stored.access_token == *secret && stored.secret_store == attempt.keep_in,
    };
    let mut credential = stored.clone();
    credential.access_token = secret.clone();
    let is_rejected = !attempt.args.no_verify && api_refusal(&attempt.source, &credential).is_some();
    Ok(same_key && same_place && same_model && !is_rejected)
}

/// Another process may have stored another key while this one verified the old one.
fn check_not_replaced(attempt: &Attempt, secret: &Secret) -> Result<()> {
    match attempt.source.load()? {
        Stored::Present(now) if now.access_token == *secret => Ok(()),
        Stored::Present(now)
            if now.command.is_some() && attempt.stored_key().is_some_and(|stored| stored.command == now.command) =>
        {
            Ok(())
        }
        _ if attempt.stored.is_none() => Ok(()),
        _ => Failed::new(Failure::Temporary, "another process has replaced the login; nothing was changed")
            .hint("run the same command again")
            .err(),
    }
}
