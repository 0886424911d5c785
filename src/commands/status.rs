//! `status`: show the login status.

mod screen;

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::{OPENROUTER, key_endpoint, print, print_document, print_message, shown_key};
use crate::cli::StatusArgs;
use crate::credentials::{
    Credential, CredentialSource, GivenKey, Kind, State, Stored, Verification, api_refusal, check_origin, program_of,
    state_of, verify,
};
use crate::environment::variable;
use crate::epoch;
use crate::error::{Failed, Failure, Report};
use crate::gateway;
use crate::limits::{Exhausted, Zone, exhausted};
use crate::paths;
use crate::profile::SecretStore;
use crate::providers::Provider;
use crate::say::{Screen, in_words};
use crate::session::{Endpoint, Session};
use crate::usage::Summary;

/// Variables of the user that tools obey instead of the stored credential.
const OVERRIDES: [&str; 3] = ["OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE"];

pub(crate) fn run(args: &StatusArgs, session: &Session) -> Result<u8> {
    let given = match session.given_key()? {
        Some(_) => Some(session.source()?),
        None => None,
    };
    let has_given = given.is_some();
    let profiles = match (args.all, &given) {
        (true, _) => session.profiles()?,
        (false, Some(_)) => Vec::new(),
        (false, None) => vec![session.profile.clone()],
    };
    let stored = profiles.iter().map(|profile| (session.source_of(profile), !has_given && *profile == session.profile));
    let sources = given.into_iter().map(|source| (source, true)).chain(stored);
    let rows: Vec<Row> = sources.map(|(source, active)| Row::of(&source, active, session, args.check)).collect();
    if args.json {
        let value = json!({"schema": 1, "profiles": rows.iter().map(Row::json).collect::<Vec<_>>()});
        print_document(&value)?;
    } else if rows.is_empty() {
        print_message("no stored profile; log in with `qwenauth login`")?;
    } else if rows.iter().all(|row| row.state == State::Missing) && session.profiles()?.is_empty() {
        let screen = Screen::stdout();
        let nobody = screen.translate("not logged in to any provider");
        let hint = screen.translate("run `qwenauth login`, or try `qwenauth sandbox --tour` without an account");
        print(&format!("{nobody}\n{}\n", screen.wrap(&hint, 0, 0).join("\n")))?;
    } else {
        let screen = Screen::stdout();
        let home = paths::home(&session.environment).unwrap_or_default();
        print(&rows.iter().map(|row| row.text(screen, &home)).collect::<Vec<_>>().join("\n"))?;
    }
    let usable = !rows.is_empty() && rows.iter().all(|row| matches!(row.state, State::Valid | State::Refreshable));
    Ok(if usable { 0 } else { Failure::LoginRequired.exit_code() })
}

/// One profile as it is shown.
struct Row {
    profile: String,
    provider: String,
    /// The provider's title and the region, as far as they are known.
    place: Option<String>,
    /// The key, masked.
    key: Option<String>,
    kind: Kind,
    active: bool,
    state: State,
    is_unreadable: bool,
    expires_at: Option<String>,
    left: Option<Duration>,
    is_renewable: bool,
    /// When an API key was stored.
    created_at: Option<String>,
    base_url: Option<String>,
    model: Option<String>,
    path: Option<String>,
    /// Where tokens come from, if none is stored.
    identity: Option<String>,
    /// Where the secret is, if not in the file.
    store: Option<String>,
    /// The variable that holds the key.
    variable: Option<&'static str>,
    problems: Vec<String>,
    /// Whether the API rejects the credential.
    is_rejected: bool,
    /// What helps against that.
    fix: Option<String>,
    /// Limits that the provider reported as used up.
    limits: Vec<Exhausted>,
    /// What is left of others, as the provider stated it, in words.
    left_of: Vec<String>,
    overridden_by: Vec<&'static str>,
    /// The API's response, with `--check`.
    checked: Option<&'static str>,
}

impl Row {
    /// What is wrong with one profile is a problem in its row: it does not hide the others.
    fn of(source: &CredentialSource, active: bool, session: &Session, check: bool) -> Self {
        let (stored, trouble) = loaded(source);
        let state = match (&stored, &trouble) {
            (Stored::Present(_), Some(_)) => State::Missing,
            _ => state_of(source, &stored),
        };
        let known = if matches!(stored, Stored::Present(_)) { None } else { source.known_provider() };
        let mut row = Self {
            profile: source.profile.clone(),
            provider: known.as_ref().map_or_else(|| source.profile.clone(), |provider| provider.name.clone()),
            place: None,
            key: None,
            kind: if known.is_some_and(|provider| provider.oauth().is_none()) { Kind::ApiKey } else { Kind::Oauth },
            active,
            state,
            is_unreadable: trouble.is_some() && matches!(stored, Stored::Damaged(_)),
            expires_at: None,
            left: None,
            is_renewable: false,
            created_at: None,
            base_url: None,
            model: None,
            path: source
                .given
                .as_ref()
                .map_or(Some(source.store.path()), GivenKey::named_file)
                .map(|path| path.display().to_string()),
            identity: None,
            store: None,
            variable: source.given.as_ref().and_then(GivenKey::variable),
            problems: Vec::new(),
            is_rejected: false,
            fix: None,
            limits: Vec::new(),
            left_of: Vec::new(),
            overridden_by: Vec::new(),
            checked: None,
        };
        match stored {
            Stored::Missing => row.problems.push(match session.source() {
                Err(error) if row.active => Report::of(&error).message,
                _ => format!("not logged in; {}", source.hint_if_missing()),
            }),
            Stored::Damaged(why) => {
                row.problems.push(trouble.unwrap_or_else(|| match &source.given {
                    Some(_) => format!("{why}; {}", source.login_hint()),
                    None => format!("the credential file is damaged: {why}"),
                }));
            }
            Stored::Present(credential) => {
                row.problems.extend(trouble);
                row.describe(source, session, &credential);
                let usable = row.left.is_some()
                    || credential.is_lasting()
                    || state == State::Refreshable && row.identity.is_some();
                let asks = check && usable && state != State::Missing && row.base_url.is_some();
                let credential = if asks { row.check(source, credential) } else { credential };
                row.judge(source, &credential);
            }
        }
        row
    }

    /// What the credential says of itself.
    fn describe(&mut self, source: &CredentialSource, session: &Session, credential: &Credential) {
        self.kind = credential.kind;
        self.store = store_of(credential);
        self.expires_at = credential.expires_at.and_then(epoch::rfc3339);
        self.identity = credential.identity.as_ref().map(|identity| identity.place());
        self.created_at.clone_from(&credential.created_at);
        self.left = credential.left((source.clock)());
        self.is_renewable = credential.refresh_token.is_some();
        credential.provider_name().clone_into(&mut self.provider);
        match Endpoint::of(source, credential, None) {
            Ok(endpoint) => {
                self.overridden_by = overridden_by(credential, &endpoint.base_url);
                self.base_url = Some(endpoint.base_url);
                self.model = endpoint.model;
            }
            Err(error) => self.problems.push(sentence(&error)),
        }
        self.key = shown_key(credential, &session.config.overrides);
        if let Ok(provider) = source.provider(credential) {
            self.place = Some(place(&provider, self.base_url.as_deref()));
            let owner = gateway::account_id(&provider, credential, source.store.path());
            self.limits = exhausted(&session.config.paths.state, &provider.name, &owner, (source.clock)());
        }
        self.left_of = stated(source, session).unwrap_or_else(|error| {
            log::warn!("cannot read what is left of limits: {error:#}");
            Vec::new()
        });
        if let Err(error) = check_origin(source, credential) {
            self.problems.push(Report::of(&error).message);
        }
    }

    /// Adds why the credential is not good for long, unless the API has said so just now.
    fn judge(&mut self, source: &CredentialSource, credential: &Credential) {
        let hint = source.login_hint();
        if let Some(refusal) = api_refusal(source, credential) {
            self.is_rejected = true;
            self.fix.get_or_insert_with(|| source.hint_if_rejected(credential));
            if !matches!(self.checked, Some("refused" | "exhausted")) {
                self.problems.push(format!("the API rejects the credential: {}", refusal.reason));
            }
        } else if self.state == State::Refused && self.base_url.is_some() {
            self.problems.push(match self.left {
                Some(left) => format!("the login expires in {}; {hint}", in_words(left)),
                None => format!("the server rejected the refresh token; {hint}"),
            });
        }
        if let Some(identity) = &credential.identity {
            self.problems.extend(identity.problem(source).map(|failed| failed.message));
        } else if self.state == State::Expired && credential.refresh_token.is_none() {
            self.problems.push(format!("the token has expired and cannot be renewed; {hint}"));
        }
    }

    /// Asks the API about the login. Returns it with the key that its command printed.
    fn check(&mut self, source: &CredentialSource, credential: Credential) -> Credential {
        let credential = match source.with_secret(credential.clone()) {
            Ok(credential) => credential,
            Err(error) => {
                self.problems.push(sentence(&error));
                self.state = State::Missing;
                return credential;
            }
        };
        let verification =
            verify(source, &credential).unwrap_or_else(|error| Verification::Unclear(Report::of(&error).into()));
        self.checked = Some(match verification {
            Verification::Accepted => {
                self.left_of.extend(allowance(source, &credential, self.base_url.as_deref()));
                "accepted"
            }
            Verification::Refused(why) => {
                self.fix = Some(source.instead(&credential).unwrap_or_else(|| source.login_hint()));
                self.problems.push(format!("the API rejects the credential: {why}"));
                "refused"
            }
            Verification::Exhausted(why) => {
                let whose = "resolve this with the provider; you do not need to log in again";
                self.fix = Some(source.instead(&credential).unwrap_or_else(|| whose.to_owned()));
                self.problems.push(format!("the account cannot be used: {why}"));
                "exhausted"
            }
            Verification::Unclear(failed) => {
                let why = failed.sentence();
                self.problems.push(format!("the API could not be checked: {why}"));
                "unclear"
            }
            Verification::Unverifiable(why) => {
                self.problems.push(format!("the API could not be checked: {why}"));
                "unclear"
            }
        });
        self.state = state_of(source, &Stored::Present(credential.clone()));
        credential
    }

    fn json(&self) -> Value {
        let mut value = json!({
            "profile": self.profile,
            "provider": self.provider,
            "kind": if self.kind == Kind::ApiKey { "api_key" } else { "oauth" },
            "active": self.active,
            "state": name(self.state),
            "expires_at": self.expires_at,
            "expires_in": self.left.map(|left| left.as_secs()),
            "base_url": self.base_url,
            "model": self.model,
            "path": self.path,
            "problems": self.problems,
            "overridden_by": self.overridden_by,
        });
        if let Some(store) = &self.store {
            value["store"] = store.split(' ').next().into();
        }
        if let Some(variable) = self.variable {
            value["variable"] = variable.into();
        }
        if let Some(identity) = &self.identity {
            value["workload_identity"] = identity.as_str().into();
        }
        if let Some(created_at) = &self.created_at {
            value["created_at"] = created_at.as_str().into();
        }
        if let Some(checked) = self.checked {
            value["checked"] = checked.into();
        }
        if !self.limits.is_empty() {
            let limit = |limit: &Exhausted| json!({ "name": limit.cause.limit_name(), "model": limit.model, "resets_at": resets_at(limit) });
            value["limits_reached"] = self.limits.iter().map(limit).collect();
        }
        value
    }
}

/// What is left of the limits that responses to the gateway stated, as long as they hold.
fn stated(source: &CredentialSource, session: &Session) -> Result<Vec<String>> {
    let now = (source.clock)();
    let yesterday = Zone::parse(None)?.days_before(now, 1).to_string();
    let summary = Summary::read(&session.config.paths.state, &yesterday)?;
    let own = summary.limits.iter().filter(|((profile, _), _)| *profile == source.profile);
    let left = own.filter_map(|(_, limit)| {
        let resets = epoch::from_seconds(limit.resets_at?)?.duration_since(now).ok()?;
        let (left, most, name) = (limit.remaining, limit.limit, &limit.name);
        Some(format!("{left} of {most} left: {name}, resets in {}", in_words(resets)))
    });
    Ok(left.collect())
}

/// What is left of the money that a key may spend, where its provider says so.
fn allowance(source: &CredentialSource, credential: &Credential, base_url: Option<&str>) -> Option<String> {
    let provider = source.provider(credential).ok().filter(|provider| provider.name == OPENROUTER)?;
    let credential = source.with_secret(credential.clone()).ok()?;
    let reply = key_endpoint(base_url.unwrap_or(&provider.base_url), &credential, &source.network).ok()?;
    let (left, most) = (reply["data"]["limit_remaining"].as_f64()?, reply["data"]["limit"].as_f64()?);
    Some(format!("${left:.2} of ${most:.2} left"))
}

fn place(provider: &Provider, base_url: Option<&str>) -> String {
    match base_url.and_then(|base_url| provider.region_of(base_url)) {
        Some(region) => format!("{}, region {region}", provider.title),
        None => provider.title.clone(),
    }
}

/// What is stored, without its secret and with the reason where the keyring or the file cannot be read.
fn loaded(source: &CredentialSource) -> (Stored, Option<String>) {
    match source.load() {
        Ok(stored) => (stored, None),
        Err(error) => {
            let trouble = sentence(&error);
            (source.load_record().unwrap_or_else(|_| Stored::Damaged(String::new())), Some(trouble))
        }
    }
}

/// An error and its remedy in one line.
fn sentence(error: &anyhow::Error) -> String {
    Failed::from(Report::of(error)).sentence()
}

/// Where the secret is, if not in the file. Of a command its program only: its arguments may say more.
fn store_of(credential: &Credential) -> Option<String> {
    match credential.secret_store {
        SecretStore::File => None,
        SecretStore::Keyring => Some("keyring".to_owned()),
        SecretStore::Command => {
            Some(format!("command `{}`", credential.command.as_deref().map(program_of).unwrap_or_default()))
        }
    }
}

fn resets_at(limit: &Exhausted) -> Option<String> {
    epoch::rfc3339(epoch::from_seconds(limit.resets_at?)?)
}

fn name(state: State) -> &'static str {
    match state {
        State::Valid => "valid",
        State::Refreshable => "refreshable",
        State::Expired => "expired",
        State::Missing => "missing",
        State::Damaged => "damaged",
        State::Refused => "refused",
    }
}

/// The variables that are set to something else than this credential.
fn overridden_by(credential: &Credential, base_url: &str) -> Vec<&'static str> {
    let ours = |name: &str| if name == "OPENAI_API_KEY" { credential.access_token.expose() } else { base_url };
    OVERRIDES.into_iter().filter(|name| variable(name).is_some_and(|value| value != ours(name))).collect()
}
