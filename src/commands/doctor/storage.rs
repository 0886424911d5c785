//! Files on disk: directories, credential files, locks, leftovers, and what `setup` wrote.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Check, leftovers, sources};
use crate::commands::{ago, masked_key};
use crate::credentials::{
    Credential, CredentialSource, GivenKey, Kind, STALE, State, Store, Stored, api_refusal, program_of, state_of,
};
use crate::environment::variable;
use crate::error::Report;
use crate::paths::{self, Paths};
use crate::platform::{access, files, processes};
use crate::profile::{ProfileName, SecretStore};
use crate::providers::{self, is_forbidden_in_ci};
use crate::say::in_words;
use crate::secret::Secret;
use crate::session::{Endpoint, Session};
use crate::setup::{self, TOOLS};

/// A key this old is due for a new one.
const OLD_KEY_DAYS: i64 = 90;

/// The plans of Alibaba Cloud, whose keys its pay-as-you-go hosts reject.
const PLANS: [&str; 2] = ["coding-plan", "token-plan"];

/// The directories, which are judged before anything in them is read.
pub(super) fn directories(paths: &Paths, fix: bool) -> Vec<Check> {
    let is_config = |directory: &Path| directory == paths.config;
    paths.directories().iter().filter_map(|path| directory_is_private(path, !is_config(path), fix)).collect()
}

pub(super) fn check(session: &Session, fix: bool) -> Vec<Check> {
    let paths = &session.config.paths;
    let mut checks = profiles(session);
    checks.extend(copies(session));
    checks.extend(lock(&session.source_of(&ProfileName::qwen()).store, fix));
    let directories: Vec<PathBuf> =
        paths.directories().iter().filter_map(|directory| files::resolve(directory).ok()).collect();
    checks.extend(leftovers::temporary_files(&directories, session, fix));
    checks.extend(leftovers::pending_logins(session, fix));
    checks.extend(leftovers::records_of_tokens(session, fix));
    checks.extend(set_up(session));
    checks
}

fn directory_is_private(directory: &Path, holds_secrets: bool, fix: bool) -> Option<Check> {
    let resolved = match files::resolve(directory) {
        Ok(resolved) => resolved,
        Err(error) => {
            let report = Report::of(&error);
            return Some(Check::fail("directories", report.message, report.hint.unwrap_or_default()));
        }
    };
    let directory = resolved.as_path();
    let metadata = fs::metadata(directory).ok()?;
    let shown = directory.display();
    let (message, is_writable) = match (access::writable_by_others(directory), access::open_to_others(directory)) {
        (Some(how), _) => (format!("`{shown}` is writable by other users ({how})"), true),
        (None, Some(how)) if holds_secrets => (format!("`{shown}` is readable by other users ({how})"), false),
        _ => {
            let judged = access::check_directory(directory, &metadata, directory)
                .and_then(|()| access::check_unwritable(directory, &metadata, directory));
            let report = Report::of(&judged.err()?);
            return Some(Check::fail("directories", report.message, report.hint.unwrap_or_default()));
        }
    };
    if fix && access::restrict_directory(directory).is_ok() {
        return Some(Check::fixed("directories", message));
    }
    let remedy = access::how_to_restrict(directory);
    let check = if is_writable { Check::fail } else { Check::warn };
    Some(check("directories", message, remedy))
}

fn profiles(session: &Session) -> Vec<Check> {
    if session.is_unused() {
        let remedy = session.source_of(&session.profile).login_hint();
        return vec![Check::fail("login", "not logged in to any provider", remedy)];
    }
    match sources(session) {
        Ok(sources) => sources.iter().flat_map(|(source, is_active)| profile(source, *is_active)).collect(),
        Err(error) => {
            vec![Check::fail("profiles", format!("{error:#}"), "check the mode and owner of that directory")]
        }
    }
}

fn profile(source: &CredentialSource, is_active: bool) -> Vec<Check> {
    let (name, path) = (&source.profile, source.store.path());
    let is_stored = given_by(source).is_none();
    // Loading makes the file private, as every command does, and reports that on stderr.
    let readable = access::readable_by_others(path).filter(|_| is_stored);
    let stored = source.load();
    let mut checks = Vec::new();
    if let Some(how) = readable {
        let what = format!("the file of `{name}` is readable by other users ({how})");
        checks.push(Check::warn("mode", what, access::how_tightened(path)));
    }
    if is_stored && access::has_hard_links(path) {
        let what = format!("the file of `{name}` has hard links, which a renewal does not update");
        checks.push(Check::warn("copies", what, "keep one, and replace the others with symlinks"));
    }
    let wrong = |name, error: &anyhow::Error| {
        let report = Report::of(error);
        Check::fail(name, report.message, report.hint.unwrap_or_else(|| source.login_hint()))
    };
    let (found, credential) = match &stored {
        Ok(found @ Stored::Present(credential)) => (found, credential),
        Ok(found) => {
            checks.push(login(source, found, is_active));
            return checks;
        }
        Err(error) => {
            checks.push(wrong("login", error));
            return checks;
        }
    };
    match Endpoint::of(source, credential, None) {
        Ok(endpoint) => {
            checks.push(login(source, found, is_active));
            checks.extend(key(source, credential, &endpoint));
        }
        // No server has rejected the login.
        Err(error) => checks.push(wrong("address", &error)),
    }
    checks.extend(is_replaceable(source, credential));
    checks
}

/// The variable that holds the key or names its file, so that nothing is stored.
fn given_by(source: &CredentialSource) -> Option<&'static str> {
    source.given.as_ref().and_then(GivenKey::variable)
}

fn login(source: &CredentialSource, stored: &Stored, is_active: bool) -> Check {
    let name = &source.profile;
    let mut state = state_of(source, stored);
    if let Stored::Present(credential) = stored
        && let Some(refusal) = api_refusal(source, credential)
    {
        if !is_active {
            let what = format!("the API rejects the login of `{name}`: {}", refusal.reason);
            return Check::fail("login", what, source.instead(credential).unwrap_or_else(|| source.login_hint()));
        }
        // The API of the active profile is queried by a check of its own.
        state = State::Valid;
    }
    match (state, stored) {
        (State::Valid, Stored::Present(credential)) if credential.command.is_some() => key_command(name, credential),
        (State::Valid, Stored::Present(credential)) if credential.secret_store == SecretStore::Keyring => {
            Check::ok("login", format!("`{name}` is valid; its secret is in the keyring"))
        }
        (State::Valid, Stored::Present(credential)) if credential.is_keyless() => {
            Check::ok("login", format!("`{name}` has no API key: the server needs none"))
        }
        (State::Valid, Stored::Present(credential)) if credential.kind == Kind::ApiKey => {
            let stored = credential.created_at.as_deref().and_then(ago).map(|ago| format!(", stored {ago} ago"));
            let from = given_by(source).map(|variable| format!(", from `{variable}`"));
            let key = masked_key(credential, &source.overrides);
            Check::ok("login", format!("`{name}` has the API key {key}{}", from.or(stored).unwrap_or_default()))
        }
        (State::Valid, Stored::Present(credential)) => {
            let left = credential.left((source.clock)()).map(|left| format!(", {} left", in_words(left)));
            Check::ok("login", format!("`{name}` has a valid token{}", left.unwrap_or_default()))
        }
        (State::Refreshable, Stored::Present(Credential { identity: Some(identity), .. })) => {
            Check::ok("login", format!("`{name}` requests a token for each command, with the {}", identity.place()))
        }
        (State::Expired, Stored::Present(Credential { identity: Some(identity), .. })) => {
            let problem = identity.problem(source);
            let remedy = problem.as_ref().and_then(|failed| failed.hint.clone()).unwrap_or_else(|| source.login_hint());
            let why = problem.map(|failed| failed.message).unwrap_or_default();
            Check::fail("login", format!("`{name}` cannot get a token: {why}"), remedy)
        }
        (State::Refreshable, _) => Check::ok("login", format!("`{name}` has expired and is renewed at its next use")),
        (State::Expired, _) => {
            Check::fail("login", format!("`{name}` has expired and cannot be renewed"), source.login_hint())
        }
        (State::Refused, _) => {
            Check::fail("login", format!("the server rejected the refresh token of `{name}`"), source.login_hint())
        }
        (_, Stored::Damaged(why)) if source.given.is_some() => Check::fail("login", why, source.login_hint()),
        (_, Stored::Damaged(why)) => {
            Check::fail("login", format!("the file of `{name}` is damaged: {why}"), source.login_hint())
        }
        _ => Check::fail("login", format!("`{name}` is not logged in"), source.hint_if_missing()),
    }
}

/// Whether the program of a key command is there. It is not run: it may ask a person.
fn key_command(name: &str, credential: &Credential) -> Check {
    let program = program_of(credential.command.as_deref().unwrap_or_default());
    let path = variable("PATH").unwrap_or_default();
    let is_there = Path::new(&program).components().count() > 1 && Path::new(&program).exists()
        || processes::find(program.as_ref(), &path).is_some();
    if is_there {
        return Check::ok("login", format!("the key of `{name}` is printed by the command `{program}`"));
    }
    let what = format!("the key of `{name}` is printed by the command `{program}`, which is not in `PATH`");
    Check::fail("login", what, "install it, or log in again with another key")
}

/// A login that cannot be saved cannot be renewed either.
fn is_replaceable(source: &CredentialSource, credential: &Credential) -> Option<Check> {
    if credential.is_lasting() || credential.identity.is_some() {
        return None;
    }
    let error = source.store.check_writable(SecretStore::File, "").err()?;
    let report = Report::of(&error);
    let what = format!("`{}` cannot be renewed: {}", source.profile, report.message);
    Some(Check::fail("login", what, report.hint.unwrap_or_else(|| "check the mode and owner of that directory".into())))
}

fn key(source: &CredentialSource, credential: &Credential, endpoint: &Endpoint) -> Vec<Check> {
    let name = &source.profile;
    let mut checks = Vec::new();
    if credential.kind != Kind::ApiKey || credential.is_without_secret() || credential.is_keyless() {
        return checks;
    }
    let owners = providers::owners_of(&credential.access_token, &source.overrides);
    let plan = owners.is_some_and(|(_, owners)| owners.iter().any(|owner| PLANS.contains(&owner.as_str())));
    let host =
        url::Url::parse(&endpoint.base_url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    let plan_host = host.starts_with("coding") || host.starts_with("token-plan");
    if host.ends_with(".aliyuncs.com") && plan != plan_host {
        let (kind, place) =
            if plan { ("a plan key", "the pay-as-you-go") } else { ("a pay-as-you-go key", "the plan") };
        let what = format!("the key of `{name}` is {kind}, but is sent to {place} host `{host}`, which rejects it");
        let provider = if plan { "coding-plan` or `qwenauth login token-plan" } else { "dashscope" };
        checks.push(Check::fail("key", what, format!("`qwenauth login {provider}`")));
    }
    if is_forbidden_in_ci(&credential.access_token, &source.overrides) && variable("CI").is_some() {
        let what = format!("`CI` is set, and the terms of the plan of `{name}` forbid unattended use");
        checks.push(Check::fail("key", what, "use a pay-as-you-go key: `qwenauth login dashscope`"));
    }
    let created = credential.created_at.as_ref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    if let (Some(created), Ok(now)) = (created, jiff::Timestamp::try_from((source.clock)())) {
        let days = (now - created).total(jiff::Unit::Hour).unwrap_or_default() / 24.0;
        #[expect(clippy::cast_possible_truncation, reason = "days of a human's key")]
        let days = days as i64;
        if days > OLD_KEY_DAYS {
            let what = format!("the key of `{name}` was stored {days} days ago");
            checks.push(Check::warn("key", what, "create a new key, log in with it, then delete the old one"));
        }
    }
    checks
}

/// A refresh token works once: of two files with one login, the slower loses it.
fn copies(session: &Session) -> Vec<Check> {
    let paths = &session.config.paths;
    let mut files: Vec<(PathBuf, Secret)> = Vec::new();
    let mut checks = Vec::new();
    let mut sources: Vec<CredentialSource> =
        paths.profiles().unwrap_or_default().iter().map(|name| session.source_of(name)).collect();
    if let Ok(home) = paths::home(&session.environment) {
        let default = home.join(".qwen/oauth_creds.json");
        if default != paths.credential(&ProfileName::qwen()) {
            let mut other = session.source_of(&ProfileName::qwen());
            other.store = Store::new(default, true);
            sources.push(other);
        }
    }
    for source in sources {
        let Ok(Stored::Present(credential)) = source.load() else { continue };
        let Some(token) = credential.refresh_token else { continue };
        let same = files.iter().find(|(path, known)| {
            *known == token && fs::canonicalize(path).ok() != fs::canonicalize(source.store.path()).ok()
        });
        if let Some((other, _)) = same {
            let what =
                format!("`{}` and `{}` are copies of the same login", other.display(), source.store.path().display());
            checks.push(Check::fail(
                "copies",
                what,
                "the next renewal invalidates one of them: keep only one, or log in separately",
            ));
        }
        files.push((source.store.path().to_owned(), token));
    }
    checks
}

fn lock(store: &Store, fix: bool) -> Option<Check> {
    let path = paths::qwen_code_lock(store.path());
    let age = age(&path)?;
    if age < STALE {
        return Some(Check::ok("lock", "a program is renewing the login right now"));
    }
    let message = format!("`{}` was left {} ago by a process that was killed", path.display(), in_words(age));
    if fix && store.remove_stale_lock().unwrap_or(false) {
        return Some(Check::fixed("lock", message));
    }
    Some(Check::warn("lock", message, "the next renewal takes it over; `qwenauth doctor --fix` removes it now"))
}

pub(super) fn age(path: &Path) -> Option<Duration> {
    let modified = fs::symlink_metadata(path).ok()?.modified().ok()?;
    Some(SystemTime::now().duration_since(modified).unwrap_or_default())
}

/// A tool that was set up keeps the address of that day.
fn set_up(session: &Session) -> Vec<Check> {
    let mut checks = Vec::new();
    for tool in &TOOLS {
        let Ok(Some(record)) = setup::recorded(&session.config.paths.state, tool.name) else { continue };
        let Ok(profile) = ProfileName::parse(&record.profile) else { continue };
        let source = session.source_of(&profile);
        let again = format!("`qwenauth setup {} --profile {profile}`", tool.name);
        let Ok(Stored::Present(credential)) = source.load() else {
            let what = format!("{} is configured for `{profile}`, which is not logged in", tool.title);
            checks.push(Check::fail("setup", what, source.login_hint()));
            continue;
        };
        let now = Endpoint::of(&source, &credential, None).map(|endpoint| endpoint.base_url).unwrap_or_default();
        let is_gateway = url::Url::parse(&record.base_url).is_ok_and(|url| crate::http::is_loopback(&url));
        if record.base_url != now && !is_gateway {
            let what =
                format!("{} is configured for `{}`, but `{profile}` now uses `{now}`", tool.title, record.base_url);
            checks.push(Check::fail("setup", what, again));
        } else {
            checks.push(Check::ok("setup", format!("{} uses `{profile}`", tool.title)));
        }
    }
    checks
}
