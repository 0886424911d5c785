//! `status`: show where the login stands.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Result;
use serde_json::{Value, json};

use super::{print, print_document, rfc3339};
use crate::cli::{StatusArgs, variable};
use crate::credentials::{
    Account, Credential, GivenKey, Kind, State, Stored, Verification, api_refusal, check_origin, verify,
};
use crate::error::{Failure, Report, printable};
use crate::gateway;
use crate::limits::{Exhausted, exhausted};
use crate::paths;
use crate::say::{Screen, Style, cell};
use crate::session::{Endpoint, Session};

/// Variables of the user that tools obey instead of the stored credential.
const OVERRIDES: [&str; 3] = ["OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE"];

pub(crate) fn run(args: &StatusArgs, session: &Session) -> Result<u8> {
    let given = match session.given_key()? {
        Some(_) => Some(session.account()?),
        None => None,
    };
    let has_given = given.is_some();
    let profiles = match (args.all, &given) {
        (true, _) => session.profiles()?,
        (false, Some(_)) => Vec::new(),
        (false, None) => vec![session.profile.clone()],
    };
    let stored =
        profiles.iter().map(|profile| (session.account_of(profile), !has_given && *profile == session.profile));
    let accounts = given.into_iter().map(|account| (account, true)).chain(stored);
    let rows =
        accounts.map(|(account, active)| Row::of(&account, active, session, args.check)).collect::<Result<Vec<_>>>()?;
    if args.json {
        let value = json!({"schema": 1, "profiles": rows.iter().map(Row::json).collect::<Vec<_>>()});
        print_document(&value)?;
    } else if rows.is_empty() {
        print("no stored profile; log in with `qwenauth login`\n")?;
    } else if rows.iter().all(|row| row.state == State::Missing) && session.config.paths.profiles()?.is_empty() {
        let hint = "run `qwenauth login`, or try `qwenauth sandbox --tour` without an account";
        print(&format!("not logged in to any provider\n{}\n", Screen::stdout().wrap(hint, 0, 0).join("\n")))?;
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
    kind: Kind,
    active: bool,
    state: State,
    expires_at: Option<String>,
    left: Option<Duration>,
    /// When an API key was stored.
    created_at: Option<String>,
    base_url: Option<String>,
    model: Option<String>,
    path: Option<String>,
    /// Where tokens come from, if none is stored.
    identity: Option<String>,
    /// The variable that holds the key.
    variable: Option<&'static str>,
    problems: Vec<String>,
    /// Limits that the provider reported as used up.
    limits: Vec<Exhausted>,
    overridden_by: Vec<&'static str>,
    /// What the API said, with `--check`.
    checked: Option<&'static str>,
}

impl Row {
    fn of(account: &Account, active: bool, session: &Session, check: bool) -> Result<Self> {
        let profile = &account.profile;
        let stored = account.load()?;
        let mut state = account.state_of(&stored);
        let mut row = Self {
            profile: profile.clone(),
            provider: profile.clone(),
            kind: Kind::Oauth,
            active,
            state,
            expires_at: None,
            left: None,
            created_at: None,
            base_url: None,
            model: None,
            path: account
                .given
                .as_ref()
                .map_or(Some(account.path()), GivenKey::named_file)
                .map(|path| path.display().to_string()),
            identity: None,
            variable: account.given.as_ref().and_then(GivenKey::variable),
            problems: Vec::new(),
            limits: Vec::new(),
            overridden_by: Vec::new(),
            checked: None,
        };
        match &stored {
            Stored::Missing => row.problems.push(match session.account() {
                Err(error) if row.active => Report::of(&error).message,
                _ => format!("not logged in; {}", account.login_hint()),
            }),
            Stored::Damaged(why) => row.problems.push(format!("the credential file is damaged: {why}")),
            Stored::Present(credential) => {
                row.kind = credential.kind;
                row.expires_at = credential.expires_at.and_then(rfc3339);
                row.identity = credential.identity.as_ref().map(|identity| identity.place());
                row.created_at.clone_from(&credential.created_at);
                row.left = credential.left((account.clock)());
                credential.provider_name().clone_into(&mut row.provider);
                match Endpoint::of(account, credential, None) {
                    Ok(endpoint) => {
                        row.overridden_by = overridden_by(credential, &endpoint.base_url);
                        row.base_url = Some(endpoint.base_url);
                        row.model = endpoint.model;
                    }
                    Err(error) => row.problems.push(Report::of(&error).message),
                }
                if let Ok(provider) = account.provider(credential) {
                    let owner = gateway::account_id(&provider, credential, account.path());
                    row.limits = exhausted(&session.config.paths.state, &provider.name, &owner, (account.clock)());
                }
                if let Err(error) = check_origin(account, credential) {
                    row.problems.push(Report::of(&error).message);
                }
                let hint = account.login_hint();
                if let Some(refusal) = api_refusal(account, credential).filter(|_| !check) {
                    row.left = None;
                    row.problems.push(format!("the API refuses the credential: {}", refusal.reason));
                } else if state == State::Refused && row.base_url.is_some() && !check {
                    row.problems.push(match row.left {
                        Some(left) => format!("the login is over in {}; {hint}", in_words(left)),
                        None => format!("the server refused the refresh token; {hint}"),
                    });
                }
                if let Some(identity) = &credential.identity {
                    row.problems.extend(identity.problem(account).map(|failed| failed.message));
                } else if state == State::Expired && credential.refresh_token.is_none() {
                    row.problems.push(format!("the token has expired and cannot be renewed; {hint}"));
                }
                let usable = row.left.is_some()
                    || credential.is_lasting()
                    || state == State::Refreshable && row.identity.is_some();
                if check && usable && row.base_url.is_some() {
                    row.checked = Some(match verify(account, credential)? {
                        Verification::Accepted => "accepted",
                        Verification::Refused(why) => {
                            row.problems.push(format!("the API refuses the credential: {why}"));
                            "refused"
                        }
                        Verification::Exhausted(why) => {
                            row.problems.push(format!("the account cannot be used: {why}"));
                            "exhausted"
                        }
                        Verification::Unclear(why) | Verification::Unverifiable(why) => {
                            row.problems.push(format!("the API could not be checked: {why}"));
                            "unclear"
                        }
                    });
                    state = account.state_of(&stored);
                }
            }
        }
        row.state = state;
        Ok(row)
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

    /// A line for the profile and one for each fact. On a terminal a path below the home directory is shortened.
    fn text(&self, screen: Screen, home: &Path) -> String {
        let title = format!("{}{}", self.profile, if self.active { " (active)" } else { "" });
        let (style, mark) = match self.state {
            State::Valid | State::Refreshable => (Style::Success, "✓ "),
            _ => (Style::Error, "✗ "),
        };
        let mark = if screen.shows_marks() { screen.paint(style, mark) } else { String::new() };
        let mut lines = vec![mark + &screen.paint(Style::Bold, &title)];
        let state = match (self.state, self.left) {
            (State::Valid | State::Refused, Some(left)) => format!("{}, {} left", name(self.state), in_words(left)),
            (State::Refreshable, _) if self.identity.is_some() => "no token is stored; each use gets one".into(),
            (State::Refreshable, _) => "expired; renews automatically on next use".into(),
            _ => name(self.state).into(),
        };
        let mut fact = |label: &str, value: &str| {
            let mut wrapped = screen.wrap(&printable(value), 12, 12).into_iter();
            let first = wrapped.next().unwrap_or_default();
            lines.push(format!("  {}{first}", screen.paint(Style::Dim, &cell(label, 10))).trim_end().to_owned());
            lines.extend(wrapped);
        };
        fact("provider", &self.provider);
        fact("state", if self.kind == Kind::ApiKey && self.state == State::Valid { "stored API key" } else { &state });
        for (label, value) in [("stored", &self.created_at), ("base URL", &self.base_url), ("model", &self.model)] {
            if let Some(value) = value {
                fact(label, value);
            }
        }
        if let Some(path) = &self.path {
            let below =
                Path::new(path).strip_prefix(home).ok().filter(|_| screen.width().is_some() && home.parent().is_some());
            fact("file", &below.map_or_else(|| path.clone(), |below| format!("~/{}", below.display())));
        }
        if let Some(identity) = &self.identity {
            fact("from", identity);
        }
        if let Some(variable) = self.variable {
            fact("from", &format!("`{variable}` in the environment, used before any stored credential"));
        }
        if let Some(checked) = self.checked {
            fact("API", checked);
        }
        for limit in &self.limits {
            let model = limit.model.as_deref().map(|model| format!(" of {model}")).unwrap_or_default();
            let resets = resets_at(limit).map(|at| format!(", resets {at}")).unwrap_or_default();
            fact("limit", &format!("{}{model}: used up{resets}", limit.cause.limit_name()));
        }
        for problem in &self.problems {
            fact("problem", problem);
        }
        if !self.overridden_by.is_empty() {
            fact("note", &format!("set in your shell, and take precedence: {}", self.overridden_by.join(", ")));
        }
        lines.join("\n") + "\n"
    }
}

fn resets_at(limit: &Exhausted) -> Option<String> {
    rfc3339(UNIX_EPOCH + Duration::from_secs(limit.resets_at?))
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

/// `5 h 59 min`, `12 min`, `40 s`.
fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 86400, seconds / 3600, seconds / 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {} min", minutes % 60),
        (days, hours, _) => format!("{days} d {} h", hours % 24),
    }
}
