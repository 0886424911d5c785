//! `login`: get a credential, store it, prove it.

mod choice;
mod device;
mod existing;
mod key;
mod key_input;
mod key_verification;
mod openrouter;
mod outcome;
mod screen;
mod target;
mod workload;

use anyhow::Result;
use serde_json::json;

use self::screen::ApprovalScreen;
use super::print_json;
use crate::cli::{Global, LoginArgs, StoreChoice};
use crate::credentials::{Credential, CredentialSource, Stored};
use crate::error::{Failed, Failure, Reason, Report, note};
use crate::platform::tools;
use crate::profile::{ProfileName, SecretStore};
use crate::providers::Provider;
use crate::session::{Session, Surroundings};
use crate::terminal;

pub(crate) fn run(args: &LoginArgs, global: &Global, session: impl FnOnce() -> Result<Session>) -> Result<()> {
    let outcome = session().and_then(|session| log_in(args, global, &session));
    // A key that was pasted too early is for no shell.
    terminal::discard_typed_ahead();
    if let (true, Err(error)) = (args.json, &outcome) {
        let report = Report::of(error);
        print_json(&json!({"event": "error", "kind": report.kind(), "message": report.message}))?;
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
    let surroundings = Surroundings::look();
    let (provider, profile) = choice::provider_and_profile(args, global, session, surroundings)?;
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
    screen::check_clipboard(args)?;
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
        Method::Device if attempt.changes_model_only() => {
            return device::change_model(&attempt).map_err(|error| attempt.with_another(error));
        }
        Method::Device | Method::OpenRouter => {}
    }
    if !attempt.asks_for_a_new_login() && attempt.keeps_existing()? {
        return Ok(());
    }
    attempt.check_writable(attempt.keep_in)?;
    let outcome = if method == Method::Device { device::log_in(&attempt) } else { openrouter::log_in(&attempt) };
    outcome.map_err(|error| attempt.with_another(error))
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

impl Attempt<'_> {
    fn approval_screen(&self) -> ApprovalScreen {
        ApprovalScreen::new(self.args, self.stored.is_some())
    }

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
            Failed::new(Failure::Usage, format!("{options} cannot be used with provider `{}`", provider.name)).hint(
                match &args.provider {
                    Some(_) => format!("see `qwenauth providers {}`", provider.name),
                    None => "name the provider: `qwenauth login PROVIDER …`; `qwenauth providers` lists them".into(),
                },
            )
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

    /// What to type for a login like this one.
    fn command_line(&self) -> String {
        let provider = &self.provider.name;
        if self.args.provider.is_none() && self.profile.is_qwen() {
            return "qwenauth login".to_owned();
        }
        let profile =
            if self.profile.as_str() == provider { String::new() } else { format!(" --profile {}", self.profile) };
        format!("qwenauth login {provider}{profile}")
    }

    /// What to type to complete this login once it is approved.
    fn line_to_resume(&self) -> String {
        let LoginArgs { model, store, no_verify, .. } = self.args;
        let mut line = self.command_line();
        if let Some(model) = model {
            line += &format!(" --model {}", tools::quoted(model));
        }
        if let Some(store) = store {
            line += &format!(" --store {}", SecretStore::from(*store).name());
        }
        if *no_verify {
            line += " --no-verify";
        }
        line + " --resume"
    }

    /// There is nothing to resume here.
    fn nothing_pending<T>(&self) -> Result<T> {
        let failed = Failed::new(Failure::LoginRequired, format!("no login of `{}` is pending", self.profile));
        match choice::pending(self.session).first() {
            Some(other) => {
                failed.hint(format!("run `qwenauth login --resume --profile {other}` for the login of `{other}`"))
            }
            None => failed.hint(self.source.hint_if_missing()),
        }
        .err()
    }

    /// What to type to log in to another provider instead, with the profile that was named.
    fn line_for(&self, provider: &str) -> String {
        let profile = self.session.named().map(|profile| format!(" --profile {profile}")).unwrap_or_default();
        let provider = tools::quoted(provider);
        format!("qwenauth login {provider}{profile}")
    }

    /// `error` with what to type for another attempt, if this one was denied or has expired.
    fn with_another(&self, error: anyhow::Error) -> anyhow::Error {
        let login = self.command_line();
        let hint = match error.downcast_ref::<Failed>().and_then(|failed| failed.reason) {
            Some(Reason::Denied) => format!("run `{login}` again if that was a mistake"),
            Some(Reason::Expired) => format!("run `{login}` again for a new code"),
            _ => return error,
        };
        Failed::from(Report::of(&error)).hint(hint).into()
    }

    /// Checks that the login could be stored, before anything is asked for it.
    fn check_writable(&self, store: SecretStore) -> Result<()> {
        let mut login = self.command_line();
        for (option, value) in [("--base-url", &self.args.base_url), ("--region", &self.args.region)] {
            if let Some(value) = value {
                login = format!("{login} {option} {}", tools::quoted(value));
            }
        }
        self.source.store.check_writable(store, &login)
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
