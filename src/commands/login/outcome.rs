//! The end of a login: what becomes active, what is reported, and the exit code that follows from the verification.

use anyhow::Result;
use serde_json::{Value, json};

use super::Attempt;
use crate::commands::print_json;
use crate::credentials::{Credential, Verification};
use crate::epoch;
use crate::error::{Failed, Failure, Reason, note, printable};
use crate::profile::SecretStore;
use crate::providers::{self, Ci, Provider};
use crate::say::{Screen, Style};
use crate::secret::Secret;
use crate::terminal;
use crate::{gateway, limits};

impl Attempt<'_> {
    /// A login that is kept as it is.
    pub(super) fn keep(&self, credential: &Credential) -> Result<()> {
        self.activate();
        if self.args.json {
            return print_json(&self.event("already_logged_in", credential));
        }
        Ok(())
    }

    /// The end of a login whose credential is stored. `proof`: what its verification found, if there was one.
    pub(super) fn conclude(&self, credential: &Credential, verification: Option<Verification>) -> Result<()> {
        let verified = matches!(verification, Some(Verification::Accepted));
        // What was used up before may have been bought since.
        let account = gateway::account_id(&self.provider, credential, self.source.store.path());
        limits::forget(&self.session.config.paths.state, &self.provider.name, &account);
        match &verification {
            Some(Verification::Unclear(failed)) => {
                let why = failed.sentence();
                note(&format!("warning: logged in, but the API could not be checked: {why}"));
            }
            Some(Verification::Unverifiable(why)) => {
                note(&format!("warning: logged in, but the API could not be checked: {why}"));
            }
            Some(Verification::Refused(_) | Verification::Exhausted(_)) => {
                self.activate();
                if self.args.json {
                    self.announce(credential, false)?;
                }
                return Err(self.not_served(verification).into());
            }
            Some(Verification::Accepted) | None => {}
        }
        if self.args.json {
            self.activate();
            return self.announce(credential, verified);
        }
        let place = place(&self.source.provider(credential)?, credential)?;
        let mut done = match self.stored_key() {
            Some(_) => format!("updated the login to {place}"),
            None => format!("logged in to {place}"),
        };
        if !verified {
            done = format!("{done}, not verified");
        }
        let (is_active, remarks) = self.active();
        let profile = &self.profile;
        let screen = Screen::stderr();
        if screen.shows_marks() {
            let mark = screen.paint(Style::Success, "✓");
            let done = if is_active {
                format!("{done} · profile {profile} (active)")
            } else {
                format!("{done} · profile {profile}")
            };
            let done = screen.translate(&printable(&done));
            terminal::print(&format!("{mark} {}", screen.wrap(&done, 2, 2).join("\n")));
        } else {
            note(&if is_active {
                format!("{done}, profile `{profile}` (active)")
            } else {
                format!("{done}, profile `{profile}`")
            });
        }
        for remark in remarks {
            note(&remark);
        }
        Ok(())
    }

    /// The login or key is valid and stored, but the API rejects it.
    fn not_served(&self, verification: Option<Verification>) -> Failed {
        let title = &self.provider.title;
        let instead = self.provider.instead.as_deref();
        match verification {
            Some(Verification::Exhausted(why)) if self.provider.oauth().is_none() => Failed::new(
                Failure::Other,
                format!("the key is valid and was stored, but the account cannot be used: {why}"),
            )
            .because(Reason::Refused)
            .hint("resolve this with the provider; you do not need to log in again"),
            Some(Verification::Exhausted(why) | Verification::Refused(why)) => Failed::new(
                Failure::Other,
                format!("the login to {title} worked and is stored, but the API rejects it: {why}"),
            )
            .because(Reason::Refused)
            .hint(instead.unwrap_or("check the account's plan and quota with the provider")),
            _ => Failed::new(Failure::Other, format!("the login to {title} is stored")),
        }
    }

    /// Makes the profile the active one; reports what a person has to know about it.
    pub(super) fn activate(&self) {
        for remark in self.active().1 {
            note(&remark);
        }
    }

    /// Makes the profile the active one. Returns whether it is in force, with the remarks on that.
    fn active(&self) -> (bool, Vec<String>) {
        let profile = &self.profile;
        match self.session.activate(profile) {
            Err(error) => {
                let warning = format!("warning: the login is stored, but its profile cannot be made active: {error:#}");
                (false, vec![warning, format!("use it with `--profile {profile}`")])
            }
            Ok(activation) => {
                let stored = self.session.config.paths.profiles().unwrap_or_default();
                let before = activation.before.filter(|before| stored.iter().any(|name| name.as_str() == before));
                let before = before
                    .map(|name| format!("the active profile was `{name}`; `qwenauth use {name}` switches back to it"));
                (activation.overridden_by.is_none(), before.into_iter().chain(activation.overridden_by).collect())
            }
        }
    }

    pub(super) fn announce(&self, credential: &Credential, verified: bool) -> Result<()> {
        let mut event = self.event("logged_in", credential);
        event["verified"] = verified.into();
        if self.stored.is_some() {
            event["replaced"] = true.into();
        }
        print_json(&event)
    }

    fn event(&self, name: &str, credential: &Credential) -> Value {
        let mut event = json!({
            "event": name,
            "profile": self.source.profile,
            "provider": credential.provider_name(),
            "expires_at": credential.expires_at.and_then(epoch::rfc3339),
        });
        if credential.secret_store != SecretStore::File {
            event["store"] = credential.secret_store.name().into();
        }
        event
    }

    /// Warns where the provider's terms forbid unattended use.
    pub(super) fn warn_of_terms(&self, key: &Secret) {
        let overrides = &self.session.config.overrides;
        let forbidden = self.provider.ci == Ci::Forbidden || providers::is_forbidden_in_ci(key, overrides);
        if forbidden && self.surroundings.ci {
            note(crate::commands::FORBIDDEN);
        }
    }
}

/// Who is logged in to: the provider with its region, or the host of a base URL that is the user's own.
pub(super) fn place(provider: &Provider, credential: &Credential) -> Result<String> {
    let base_url = credential.base_url(provider)?;
    if provider.base_url.is_empty() {
        return Ok(base_url);
    }
    let region = provider.region_of(&base_url).map(|region| format!(" ({region})"));
    Ok(format!("{}{}", provider.title, region.unwrap_or_default()))
}
