//! The login that is there already: kept, moved to another store, or given another model.

use anyhow::Result;

use super::{Attempt, outcome};
use crate::commands::masked_key;
use crate::credentials::{
    self, Credential, CredentialSource, Kind, MARGIN, State, Stored, Why, chosen_model_of, renew, state_of,
};
use crate::error::note;
use crate::profile::SecretStore;
use crate::terminal;

impl Attempt<'_> {
    /// The stored key of this provider.
    pub(super) fn stored_key(&self) -> Option<&Credential> {
        let is_ours =
            |stored: &&Credential| stored.kind == Kind::ApiKey && stored.provider_name() == self.provider.name;
        self.stored.as_ref().filter(is_ours)
    }

    /// The new store of the existing login, if `--store` is the only change.
    pub(super) fn moves_to(&self) -> Option<SecretStore> {
        let args = self.args;
        let asks_for_more = args.gives_key()
            || args.region.is_some()
            || args.base_url.is_some()
            || args.model.is_some()
            || args.no_wait;
        let stored = self.stored.as_ref().filter(|stored| {
            stored.provider_name() == self.provider.name
                && stored.secret_store != SecretStore::Command
                && stored.identity.is_none()
        });
        args.store.map(SecretStore::from).filter(|_| stored.is_some() && !asks_for_more && !self.asks_for_a_new_login())
    }

    pub(super) fn move_to(&self, store: SecretStore) -> Result<()> {
        let profile = &self.profile;
        let place = if store == SecretStore::Keyring { "the keyring" } else { "a file" };
        if let Some(stored) = self.stored.as_ref().filter(|stored| stored.secret_store == store) {
            note(&format!("the secret of `{profile}` is already in {place}"));
            return self.keep(stored);
        }
        let credential = credentials::move_to(&self.source, store)?;
        note(&format!("the secret of `{profile}` is now in {place}"));
        self.activate();
        if self.args.json { self.announce(&credential, false) } else { Ok(()) }
    }

    /// Whether what was typed cannot mean a login that exists.
    pub(super) fn asks_for_a_new_login(&self) -> bool {
        let args = self.args;
        args.force || args.resume || args.code_stdin || args.key_label.is_some() || args.limit.is_some()
    }

    /// Whether `--model` is the only difference from an existing device login.
    pub(super) fn changes_model_only(&self) -> bool {
        let args = self.args;
        let differs = |stored: &Credential| {
            stored.provider_name() == self.provider.name && chosen_model_of(&self.source, stored) != args.model
        };
        args.model.is_some()
            && !(args.force || args.resume || args.no_wait)
            && self.stored.as_ref().is_some_and(differs)
    }

    /// Whether a login that works is there and is kept. It becomes the active one.
    pub(super) fn keeps_existing(&self) -> Result<bool> {
        if self.stored.as_ref().is_none_or(|stored| stored.provider_name() != self.provider.name) {
            return Ok(false);
        }
        let Some(credential) = working_login(&self.source)? else { return Ok(false) };
        let provider = self.source.provider(&credential)?;
        if terminal::can_prompt() && !self.args.json {
            let (profile, place) = (&self.profile, outcome::place(&provider, &credential)?);
            terminal::say(&match credential.kind {
                Kind::ApiKey if credential.command.is_some() => {
                    format!("{profile} is logged in: {place}, key from a command")
                }
                Kind::ApiKey if !credential.is_keyless() => {
                    format!(
                        "{profile} is logged in: {place}, key {}",
                        masked_key(&credential, &self.session.config.overrides)
                    )
                }
                Kind::Oauth if profile.is_qwen() => {
                    format!("{profile} is logged in: {place}, the login Qwen Code uses too")
                }
                Kind::ApiKey | Kind::Oauth => format!("{profile} is logged in: {place}"),
            });
            if terminal::confirm("Replace it?")? {
                return Ok(false);
            }
        } else {
            let place = outcome::place(&provider, &credential)?;
            let shared = if self.profile.is_qwen() { ", the login Qwen Code uses too" } else { "" };
            note(&format!(
                "already logged in to {place} as profile `{}`{shared}; `--force` logs in again",
                self.profile
            ));
        }
        self.keep(&credential)?;
        Ok(true)
    }
}

/// A login that works: valid for the usual margin, or renewed just now. A renewal that fails leaves the question to a new login.
pub(super) fn working_login(source: &CredentialSource) -> Result<Option<Credential>> {
    let stored = source.load()?;
    let state = state_of(source, &stored);
    let Stored::Present(credential) = stored else { return Ok(None) };
    let lasts = credential.is_lasting() || credential.left((source.clock)()).is_some_and(|left| left >= MARGIN);
    match state {
        State::Valid if lasts => Ok(Some(credential)),
        State::Valid | State::Refreshable => Ok(renew(source, &credential, Why::Requested).ok()),
        _ => Ok(None),
    }
}
