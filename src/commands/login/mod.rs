//! `login`: get a credential, store it, prove it.

mod device;
mod key;
mod openrouter;
mod outcome;
mod screen;
mod target;
mod workload;

use anyhow::{Context, Result};
use serde_json::json;

use super::print_json;
use crate::cli::{Global, LoginArgs, StoreChoice};
use crate::credentials::{
    self, Credential, CredentialSource, Kind, State, Stored, Why, chosen_model_of, renew, state_of,
};
use crate::error::{Failed, Failure, Report, note, printable};
use crate::profile::ProfileName;
use crate::profile::SecretStore;
use crate::providers::{self, CUSTOM, Ci, Overrides, Provider, QWEN};
use crate::say::{Screen, cell};
use crate::session::{Session, Surroundings};
use crate::terminal;

pub(crate) fn run(args: &LoginArgs, global: &Global, session: &Session) -> Result<()> {
    let outcome = log_in(args, global, session);
    // A key that was pasted too early is for no shell.
    terminal::discard_typed_ahead();
    if let (true, Err(error)) = (args.json, &outcome) {
        let report = Report::of(error);
        print_json(&json!({"event": "error", "kind": report.failure.name(), "message": report.message}))?;
    }
    outcome
}

/// One login in progress.
struct Attempt<'a> {
    args: &'a LoginArgs,
    session: &'a Session,
    provider: Provider,
    profile: ProfileName,
    source: CredentialSource,
    /// The credential that this login may replace.
    stored: Option<Credential>,
    /// Where it keeps its secret.
    keep_in: SecretStore,
    surroundings: Surroundings,
}

/// How a provider is logged in to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Device,
    Key,
    OpenRouter,
    Workload,
}

fn log_in(args: &LoginArgs, global: &Global, session: &Session) -> Result<()> {
    let named = global.profile.as_deref().map(ProfileName::parse).transpose()?;
    let surroundings = Surroundings::look();
    let own = own_name(args, session)?;
    let provider = match &own {
        Some(_) => providers::find(CUSTOM, &session.config.overrides)?,
        None => choose(args, named.as_ref(), session, surroundings)?,
    };
    let profile = profile_for(named.or(own), &provider)?;
    if let Some(path) = session.key_file(&profile) {
        let message = format!("the key of profile `{profile}` is in `{}`, which config.toml names", path.display());
        return Failed::new(Failure::Usage, message)
            .hint(format!("replace the key in that file, or log in to another profile: `--profile {profile}-2`"))
            .err();
    }
    let source = session.source_of(&profile);
    let stored = match stored(args, &source)? {
        Stored::Present(credential) => Some(credential),
        Stored::Missing | Stored::Damaged(_) => None,
    };
    let keep_in = secret_store(args, &profile, session, stored.as_ref())?;
    let attempt = Attempt { args, session, provider, profile, source, stored, keep_in, surroundings };
    let method = attempt.method()?;
    attempt.check_clipboard()?;
    if (args.no_wait || args.resume) && matches!(method, Method::Key | Method::Workload) {
        return Failed::new(
            Failure::Usage,
            "`--no-wait` and `--resume` only work with logins that you approve in a browser",
        )
        .hint(format!("see `qwenauth providers {}`", attempt.provider.name))
        .err();
    }
    if let Some(store) = attempt.moves_to() {
        return attempt.move_to(store);
    }
    match method {
        Method::Key => return key::log_in(&attempt),
        Method::Workload => return workload::log_in(&attempt),
        Method::Device if attempt.changes_model_only() => return device::change_model(&attempt),
        Method::Device | Method::OpenRouter => {}
    }
    if !attempt.asks_for_a_new_login() && attempt.keeps_existing()? {
        return Ok(());
    }
    attempt.source.store.check_writable(attempt.keep_in)?;
    if method == Method::Device { device::log_in(&attempt) } else { openrouter::log_in(&attempt) }
}

/// The name that the user gives to a server of their own by `login NAME --base-url URL`: one that means nothing else.
fn own_name(args: &LoginArgs, session: &Session) -> Result<Option<ProfileName>> {
    let overrides = &session.config.overrides;
    let Some(typed) = args.provider.as_deref().filter(|_| args.base_url.is_some()) else { return Ok(None) };
    // A known name that is mistyped is no name for another server: its key would go there.
    if providers::name_of(typed, overrides).is_some() || providers::nearest(typed, overrides).is_some() {
        return Ok(None);
    }
    ProfileName::parse(typed).map(Some)
}

/// What is stored. A keyring that does not give its secret out is no obstacle where another takes its place.
fn stored(args: &LoginArgs, source: &CredentialSource) -> Result<Stored> {
    match source.load() {
        Err(_) if args.gives_key() || args.force => source.load_record(),
        stored => stored,
    }
}

impl From<StoreChoice> for SecretStore {
    fn from(choice: StoreChoice) -> Self {
        match choice {
            StoreChoice::File => Self::File,
            StoreChoice::Keyring => Self::Keyring,
        }
    }
}

/// Where the secret is to be kept: as asked, as config.toml says, as it is.
fn secret_store(
    args: &LoginArgs,
    profile: &ProfileName,
    session: &Session,
    stored: Option<&Credential>,
) -> Result<SecretStore> {
    let asked = args.store.map(SecretStore::from);
    if profile.is_qwen() {
        if asked == Some(SecretStore::Keyring) {
            return Failed::new(
                Failure::Usage,
                "the login of `qwen` is always stored in a file, which it shares with Qwen Code",
            )
            .hint("omit `--store`")
            .err();
        }
        return Ok(SecretStore::File);
    }
    let present = stored.map(|stored| stored.secret_store).filter(|store| *store != SecretStore::Command);
    Ok(asked.or(session.config.store).or(present).unwrap_or_default())
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
        let source = session.source_of(profile);
        if let Stored::Present(credential) = source.load_record()? {
            return source.provider(&credential);
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
    let rows: Vec<terminal::Row> = all.iter().map(|provider| row(provider, surroundings)).collect();
    let chosen = terminal::choose("Log in to", &rows)?.and_then(|index| all.into_iter().nth(index));
    let Some(provider) = chosen else { return Failed::new(Failure::Usage, "no provider was chosen").err() };
    terminal::say(&format!("? Log in to  {} ({})", provider.title, provider.name));
    Ok(provider)
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
fn row(provider: &Provider, surroundings: Surroundings) -> terminal::Row {
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
    let screen = Screen::stderr();
    let [title, method, cost] = [provider.label(), method, &cost].map(|text| screen.translate(text));
    // The price is of more use than the end of a long title.
    let title = cell(&title, if terminal::size().1 < 78 { 18 } else { 32 });
    let shown = format!("{} {title} {} {cost}", cell(&provider.name, 12), cell(&method, 8));
    terminal::Row { shown, names: format!("{} {}", provider.title, provider.aliases.join(" ")) }
}

/// The provider known as `typed`. A stored profile of that name takes precedence over an alias.
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
        .hint("omit `--profile`, or choose another name")
        .err();
    }
    Ok(profile)
}

impl Attempt<'_> {
    /// By what the provider has and what was asked for.
    fn method(&self) -> Result<Method> {
        let args = self.args;
        let provider = &self.provider;
        if args.workload_identity {
            return Ok(Method::Workload);
        }
        let key_options = args.gives_key() || args.region.is_some() || args.base_url.is_some();
        let code_options = args.code_stdin || args.key_label.is_some() || args.limit.is_some();
        let has_key = provider.key.is_some() || provider.oauth.is_none();
        let unsuitable = |options: &str| {
            Failed::new(Failure::Usage, format!("{options} cannot be used with provider `{}`", provider.name))
                .hint(format!("see `qwenauth providers {}`", provider.name))
        };
        let keeps_key = args.model.is_some() && !args.force && !code_options && self.stored_key().is_some();
        let method = if has_key && (key_options || keeps_key) {
            Method::Key
        } else if provider.oauth().is_some() || !has_key {
            Method::Device
        } else if provider.authorize.is_some() {
            Method::OpenRouter
        } else {
            Method::Key
        };
        if key_options && method != Method::Key {
            return unsuitable("`--api-key-…`, `--region` and `--base-url`").err();
        }
        if code_options && method != Method::OpenRouter {
            return unsuitable("`--code-stdin`, `--key-label` and `--limit`").err();
        }
        Ok(method)
    }

    /// The stored key of this provider.
    fn stored_key(&self) -> Option<&Credential> {
        let is_ours =
            |stored: &&Credential| stored.kind == Kind::ApiKey && stored.provider_name() == self.provider.name;
        self.stored.as_ref().filter(is_ours)
    }

    /// The new store of the existing login, if `--store` is the only change.
    fn moves_to(&self) -> Option<SecretStore> {
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

    fn move_to(&self, store: SecretStore) -> Result<()> {
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
    fn asks_for_a_new_login(&self) -> bool {
        let args = self.args;
        args.force || args.resume || args.code_stdin || args.key_label.is_some() || args.limit.is_some()
    }

    /// Whether `--model` is the only difference from an existing device login.
    fn changes_model_only(&self) -> bool {
        let args = self.args;
        let differs = |stored: &Credential| {
            stored.provider_name() == self.provider.name && chosen_model_of(&self.source, stored) != args.model
        };
        args.model.is_some()
            && !(args.force || args.resume || args.no_wait)
            && self.stored.as_ref().is_some_and(differs)
    }

    /// Whether a login that works is there and is kept. It becomes the active one.
    fn keeps_existing(&self) -> Result<bool> {
        if self.stored.as_ref().is_none_or(|stored| stored.provider_name() != self.provider.name) {
            return Ok(false);
        }
        let Some(credential) = existing(&self.source)? else { return Ok(false) };
        let provider = self.source.provider(&credential)?;
        let shared = if self.profile.is_qwen() { ", the login Qwen Code uses too" } else { "" };
        if terminal::can_prompt() && !self.args.json {
            let key = match credential.kind {
                Kind::ApiKey if credential.command.is_some() => ", key from a command".to_owned(),
                Kind::ApiKey => format!(", key {}", self.masked(&credential)),
                Kind::Oauth => String::new(),
            };
            terminal::say(&format!(
                "{} is logged in: {}{key}{shared}",
                self.profile,
                outcome::place(&provider, &credential)?
            ));
            if terminal::confirm("Replace it?")? {
                return Ok(false);
            }
        } else {
            let place = outcome::place(&provider, &credential)?;
            note(&format!(
                "already logged in to {place} as profile `{}`{shared}; `--force` logs in again",
                self.profile
            ));
        }
        self.keep(&credential)?;
        Ok(true)
    }

    /// A key as it may be shown: its known beginning and its last four characters.
    fn masked(&self, credential: &Credential) -> String {
        let owners = providers::owners_of(&credential.access_token, &self.session.config.overrides);
        credential.access_token.masked(&owners.map(|(prefix, _)| prefix).unwrap_or_default())
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
fn existing(source: &CredentialSource) -> Result<Option<Credential>> {
    let stored = source.load()?;
    let state = state_of(source, &stored);
    let Stored::Present(credential) = stored else { return Ok(None) };
    match state {
        State::Valid => Ok(Some(credential)),
        State::Refreshable => Ok(renew(source, &credential, Why::Asked).ok()),
        _ => Ok(None),
    }
}
