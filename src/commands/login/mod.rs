//! `login`: get a credential, store it, prove it.

mod device;
mod key;
mod openrouter;

use anyhow::{Context, Result};
use serde_json::json;

use super::{print_json, rfc3339};
use crate::cli::{Global, LoginArgs};
use crate::credentials::{Account, Credential, Proof, State, Stored, renew};
use crate::error::{Failed, Failure, Report, note, printable};
use crate::profile::ProfileName;
use crate::providers::{self, Ci, Overrides, Provider, QWEN};
use crate::session::{Endpoint, Session, Surroundings};
use crate::terminal;

pub(crate) fn run(args: &LoginArgs, global: &Global, session: &Session) -> Result<()> {
    let outcome = log_in(args, global, session);
    if let (true, Err(error)) = (args.json, &outcome) {
        let report = Report::of(error);
        print_json(&json!({"event": "error", "kind": report.failure.name(), "message": report.message}))?;
    }
    outcome
}

/// One login on its way.
struct Attempt<'a> {
    args: &'a LoginArgs,
    session: &'a Session,
    provider: Provider,
    profile: ProfileName,
    account: Account,
    surroundings: Surroundings,
}

/// How a provider is logged in to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Device,
    Key,
    OpenRouter,
}

fn log_in(args: &LoginArgs, global: &Global, session: &Session) -> Result<()> {
    let named = global.profile.as_deref().map(ProfileName::parse).transpose()?;
    let surroundings = Surroundings::look();
    let provider = choose(args, named.as_ref(), session, surroundings)?;
    let profile = profile_for(named, &provider)?;
    let account = session.account_of(&profile);
    let attempt = Attempt { args, session, provider, profile, account, surroundings };
    let way = attempt.way()?;
    if (args.no_wait || args.resume) && way == Way::Key {
        return Failed::new(Failure::Usage, "`--no-wait` and `--resume` are for logins that a person approves")
            .hint(format!("see `qwenauth providers {}`", attempt.provider.name))
            .err();
    }
    if !args.force && !args.resume && attempt.ends_with_existing()? {
        return Ok(());
    }
    attempt.account.store.check_writable()?;
    match way {
        Way::Device => device::log_in(&attempt),
        Way::Key => key::log_in(&attempt),
        Way::OpenRouter => openrouter::log_in(&attempt),
    }
}

/// The provider asked for; else the one the named profile belongs to; else, on a terminal, the one chosen from a list.
fn choose(
    args: &LoginArgs,
    named: Option<&ProfileName>,
    session: &Session,
    surroundings: Surroundings,
) -> Result<Provider> {
    let overrides = &session.config.overrides;
    if let Some(typed) = &args.provider {
        return find(typed, session);
    }
    if let Some(profile) = named {
        let account = session.account_of(profile);
        if let Stored::Present(credential) = account.load()? {
            return account.provider(&credential);
        }
        if providers::is_built_in(profile.as_str()) || overrides.table.contains_key(profile.as_str()) {
            return providers::find(profile.as_str(), overrides);
        }
    }
    let is_scripted = args.no_wait || args.resume || args.json;
    if !terminal::can_prompt() || is_scripted {
        if !is_scripted && named.is_none() {
            check_no_key_is_meant(overrides)?;
        }
        return providers::find(QWEN, overrides);
    }
    let all = all(overrides)?;
    let rows: Vec<String> = all.iter().map(|provider| row(provider, surroundings)).collect();
    match terminal::choose("Log in to", &rows)? {
        Some(index) => all.into_iter().nth(index).context("no such provider"),
        None => Failed::new(Failure::Usage, "no provider was chosen").err(),
    }
}

fn all(overrides: &Overrides) -> Result<Vec<Provider>> {
    providers::names(overrides).iter().map(|name| providers::find(name, overrides)).collect()
}

/// A key for Qwen models in the environment means that provider rather than the login that is the default.
///
/// Errors: usage, with the line to type.
fn check_no_key_is_meant(overrides: &Overrides) -> Result<()> {
    for provider in all(overrides)?.iter().filter(|provider| provider.qwen_only) {
        if let Some(name) = Surroundings::key_variable(provider) {
            return Failed::new(
                Failure::Usage,
                format!("`{name}` is set, and `login` without a provider would not use it"),
            )
            .hint(format!("run `qwenauth login {} --api-key-env {name}`, or `qwenauth login qwen`", provider.name))
            .err();
        }
    }
    Ok(())
}

/// One line of the list: name, title, how to log in, price.
fn row(provider: &Provider, surroundings: Surroundings) -> String {
    let method = match (&provider.authorize, provider.oauth(), &provider.key) {
        (Some(_), ..) => "browser",
        (_, Some(_), None) => "device",
        (.., Some(key)) if key.optional && provider.base_url.is_empty() => "any",
        (.., Some(key)) if key.optional => "none",
        _ => "API key",
    };
    let cost = match Surroundings::key_variable(provider) {
        _ if surroundings.ci && provider.ci == Ci::Forbidden => "not in CI".to_owned(),
        Some(name) => format!("key in {name}"),
        None => provider.cost.clone(),
    };
    format!("{}{}{method:<9}{cost}", terminal::padded(&provider.name, 13), terminal::padded(provider.label(), 33))
}

/// The provider known as `typed`. A stored profile of that name goes before an alias.
fn find(typed: &str, session: &Session) -> Result<Provider> {
    let overrides = &session.config.overrides;
    let is_name = providers::names(overrides).iter().any(|name| name == typed);
    if !is_name && session.config.paths.profiles()?.iter().any(|stored| stored.as_str() == typed) {
        return Failed::new(Failure::Usage, format!("unknown provider `{}`", printable(typed)))
            .hint(format!("`{typed}` is a stored profile: `qwenauth login --profile {typed}`"))
            .err();
    }
    providers::find_by_any_name(typed, overrides)
}

fn profile_for(named: Option<ProfileName>, provider: &Provider) -> Result<ProfileName> {
    let profile = match named {
        Some(profile) => profile,
        None => ProfileName::parse(&provider.name).context("name a profile with `--profile`")?,
    };
    if profile.is_qwen() && provider.name != QWEN {
        return Failed::new(
            Failure::Usage,
            format!("the profile `{QWEN}` belongs to the provider `{QWEN}`, not to `{}`", provider.name),
        )
        .hint("leave `--profile` out, or choose another name")
        .err();
    }
    Ok(profile)
}

impl Attempt<'_> {
    /// Which way in, by what the provider has and what was asked for.
    fn way(&self) -> Result<Way> {
        let args = self.args;
        let provider = &self.provider;
        let key_options =
            args.api_key_stdin || args.api_key_env.is_some() || args.region.is_some() || args.base_url.is_some();
        let code_options = args.code_stdin || args.key_label.is_some() || args.limit.is_some();
        let has_key = provider.key.is_some() || provider.oauth.is_none();
        let refused = |options: &str| {
            Failed::new(Failure::Usage, format!("{options} cannot be used with provider `{}`", provider.name))
                .hint(format!("see `qwenauth providers {}`", provider.name))
        };
        let way = if has_key && key_options {
            Way::Key
        } else if provider.oauth().is_some() || !has_key {
            Way::Device
        } else if provider.authorize.is_some() {
            Way::OpenRouter
        } else {
            Way::Key
        };
        if key_options && way != Way::Key {
            return refused("`--api-key-…`, `--region` and `--base-url`").err();
        }
        if code_options && way != Way::OpenRouter {
            return refused("`--code-stdin`, `--key-label` and `--limit`").err();
        }
        Ok(way)
    }

    /// Whether a login that works is there and nobody wants another. It becomes the active one.
    fn ends_with_existing(&self) -> Result<bool> {
        let Some(credential) = existing(&self.account)? else { return Ok(false) };
        let title = self.account.provider(&credential)?.title;
        let shared = if self.profile.is_qwen() { ", the login Qwen Code uses too" } else { "" };
        let said = format!("already logged in to {title} as profile `{}`{shared}", self.profile);
        if terminal::can_prompt() {
            if terminal::confirm(&format!("{said}. Log in again?"))? {
                return Ok(false);
            }
        } else {
            note(&format!("{said}; `--force` logs in again"));
        }
        self.activate()?;
        if self.args.json {
            self.announce(&credential, false)?;
        }
        Ok(true)
    }

    /// Says what the provider's terms hold against, where nobody watches.
    fn warn_of_terms(&self, key: &str) {
        let forbidden = self.provider.ci == Ci::Forbidden || key.starts_with("sk-sp-");
        if forbidden && self.surroundings.ci {
            note(super::FORBIDDEN);
        }
    }

    fn activate(&self) -> Result<()> {
        if let Some(before) = self.session.config.activate(&self.profile)? {
            note(&format!("`{}` is the active profile now; it was `{before}`", self.profile));
        }
        if let Some(named) = &self.session.environment.profile
            && named != self.profile.as_str()
        {
            note(&format!("`QWENAUTH_PROFILE` still names `{}` in this shell", named.to_string_lossy()));
        }
        Ok(())
    }

    /// The last word on a login that is stored already.
    fn conclude(&self, credential: &Credential, proof: Proof) -> Result<()> {
        match proof {
            Proof::Accepted => self.finish(credential, true),
            Proof::Unclear(why) => {
                note(&format!("warning: logged in, but the API could not be asked: {why}"));
                self.finish(credential, false)
            }
            Proof::Refused(why) | Proof::Exhausted(why) => {
                if self.args.json {
                    self.announce(credential, false)?;
                }
                let failed = Failed::new(
                    Failure::Other,
                    format!("the login to {} worked and is stored, but the API refuses it: {why}", self.provider.title),
                );
                let instead = self.provider.instead.as_deref();
                failed.hint(instead.unwrap_or("check the account's plan and quota with the provider")).err()
            }
        }
    }

    fn finish(&self, credential: &Credential, verified: bool) -> Result<()> {
        if self.args.json {
            return self.announce(credential, verified);
        }
        let endpoint = Endpoint::of(&self.account, credential, None)?;
        let proved = if verified { "logged in" } else { "logged in, not verified" };
        note(&format!("{proved}: profile `{}`, {}", self.profile, endpoint.base_url));
        Ok(())
    }

    fn announce(&self, credential: &Credential, verified: bool) -> Result<()> {
        print_json(&json!({
            "event": "logged_in",
            "profile": self.account.profile,
            "provider": self.account.provider(credential)?.name,
            "expires_at": credential.expires_at.and_then(rfc3339),
            "verified": verified,
        }))
    }

    /// What to type for a login like this one.
    fn command_line(&self) -> String {
        let provider = &self.provider.name;
        let profile =
            if self.profile.as_str() == provider { String::new() } else { format!(" --profile {}", self.profile) };
        format!("qwenauth login {provider}{profile}")
    }

    fn opens_browser(&self) -> bool {
        !self.args.no_browser && self.surroundings.has_browser()
    }

    /// A failure to open a browser is not the end of a login.
    fn open_browser(&self, url: &str) -> bool {
        if !self.opens_browser() {
            return false;
        }
        match terminal::open_browser(url) {
            Ok(()) => true,
            Err(error) => {
                note(&format!("no browser opened ({error:#}); open the address yourself"));
                false
            }
        }
    }
}

/// A login that works: valid, or renewed just now. A renewal that fails leaves the question to a new login.
fn existing(account: &Account) -> Result<Option<Credential>> {
    let stored = account.load()?;
    let state = account.state_of(&stored);
    let Stored::Present(credential) = stored else { return Ok(None) };
    match state {
        State::Valid => Ok(Some(credential)),
        State::Refreshable => Ok(renew(account, &credential).ok()),
        _ => Ok(None),
    }
}
