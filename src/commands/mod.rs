//! One file per subcommand, each with `run`: translate arguments into calls, print the answer.
//!
//! `serving.rs` and `variables.rs` are not subcommands: they contain what several of these share. `overview.rs` is what
//! `qwenauth` alone shows.

pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod env;
pub(crate) mod exec;
pub(crate) mod gateway;
pub(crate) mod keys;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod man;
pub(crate) mod overview;
pub(crate) mod profiles;
pub(crate) mod providers;
pub(crate) mod refresh;
pub(crate) mod sandbox;
pub(crate) mod setup;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod usage;
pub(crate) mod use_profile;

mod serving;
mod variables;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use serde_json::Value;
use zeroize::Zeroizing;

pub(crate) use self::variables::{group, native_group, native_names};
use crate::credentials::{self, Credential, CredentialSource, Kind, program_of};
use crate::environment::{self, directory, variable};
use crate::error::{json_for_terminal, note};
use crate::http::{self, Network};
use crate::paths;
use crate::platform::tools::Places;
use crate::profile::SecretStore;
use crate::providers::{Overrides, Provider, owners_of};
use crate::say::{Screen, columns, in_words};
use crate::session::Session;
use crate::setup::ToolPaths;

/// Where the tools keep their files.
pub(crate) fn tool_paths(session: &Session) -> Result<ToolPaths> {
    let home = paths::home(&session.environment)?;
    let absolute = |value: Option<OsString>| value.map(PathBuf::from).filter(|path| path.is_absolute());
    let sandbox = environment::sandbox();
    let config = absolute(variable("XDG_CONFIG_HOME")).unwrap_or_else(|| home.join(".config"));
    let [roaming, local] = [&session.environment.config_home, &session.environment.data_home].map(Clone::clone);
    Ok(ToolPaths {
        places: Places::new(&config, &home, absolute(roaming), absolute(local)),
        // What is written for a tool inside a sandbox ends with it.
        config: sandbox.as_ref().map_or(config, |sandbox| sandbox.join("config")),
        qwen: session.config.paths.qwen(),
        opencode_config: absolute(variable("OPENCODE_CONFIG")).filter(|_| sandbox.is_none()),
        opencode_directory: absolute(directory("OPENCODE_CONFIG_DIR")),
        codex_home: absolute(directory("CODEX_HOME")),
        claude_config: absolute(directory("CLAUDE_CONFIG_DIR")),
        work: std::env::current_dir().unwrap_or_else(|_| home.clone()),
        home,
    })
}

/// The usual way to log in, in one word or two.
fn usual_login(provider: &Provider) -> &'static str {
    match &provider.key {
        _ if provider.authorize.is_some() => "browser",
        Some(key) if key.optional && provider.base_url.is_empty() => "any",
        Some(key) if key.optional => "none",
        None if provider.oauth.is_some() => "device",
        Some(_) | None => "API key",
    }
}

/// Columns that the longest [`usual_login`] takes in the language of `screen`, and one more.
fn login_columns(screen: Screen) -> usize {
    let ways = ["browser", "device", "any", "none", "API key"];
    ways.into_iter().map(|way| columns(&screen.translate(way)) + 1).fold(0, usize::max)
}

/// The warning for a key that is used unattended against its plan's terms.
const FORBIDDEN: &str =
    "warning: this plan's terms forbid use in CI (`CI` is set), and the key may be suspended; use a pay-as-you-go key";

/// One line if the API rejected `credential` when it was last verified. `asks`: whether it is verified again after a
/// while.
pub(crate) fn warn_of_refusal(source: &CredentialSource, credential: &Credential, asks: bool) {
    let Some(refusal) = credentials::api_refusal(source, credential) else { return };
    if asks && refusal.is_old() {
        // The outcome is recorded in any case; an unreachable API is reported elsewhere.
        let _ = credentials::verify(source, credential);
        return warn_of_refusal(source, credential, false);
    }
    let profile = &source.profile;
    note(&format!(
        "warning: the API rejects the login of `{profile}`: {}; {}",
        refusal.reason,
        source.hint_if_rejected(credential)
    ));
}

/// Prints the answer. `main` handles a closed pipe.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to stdout")
}

/// Prints a sentence as the answer, in the reader's language.
pub(crate) fn print_message(text: &str) -> Result<()> {
    let screen = Screen::stdout();
    print(&(screen.wrap(&screen.translate(text), 0, 0).join("\n") + "\n"))
}

/// Prints one JSON object on a line of its own.
pub(crate) fn print_json(value: &Value) -> Result<()> {
    print(&Zeroizing::new(json_for_terminal(&format!("{value}\n"))))
}

/// Prints one JSON document on as many lines as needed.
pub(crate) fn print_document(value: &Value) -> Result<()> {
    print(&json_for_terminal(&format!("{value:#}\n")))
}

/// How long ago an RFC 3339 time was; `None` if it is not one, or is to come.
fn ago(time: &str) -> Option<String> {
    let time: jiff::Timestamp = time.parse().ok()?;
    let passed = SystemTime::now().duration_since(time.into()).ok()?;
    Some(in_words(passed))
}

/// A path that is used again from other directories.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot use `{}`", path.display()))
}

/// The prefix and the last characters of a key.
fn masked_key(credential: &Credential, overrides: &Overrides) -> String {
    let owners = owners_of(&credential.access_token, overrides);
    credential.access_token.masked(&owners.map(|(prefix, _)| prefix).unwrap_or_default())
}

/// A key as a person may see it, and where it comes from, if not from the file. `None` where it is no key.
fn shown_key(credential: &Credential, overrides: &Overrides) -> Option<String> {
    if let Some(command) = &credential.command {
        return Some(format!("by command `{}`", program_of(command)));
    }
    if credential.kind != Kind::ApiKey || credential.is_keyless() {
        return None;
    }
    if credential.is_in_keyring_alone() {
        return Some("in the keyring".to_owned());
    }
    let key = masked_key(credential, overrides);
    Some(if credential.secret_store == SecretStore::Keyring { format!("{key} in the keyring") } else { key })
}

/// The provider that states what is left of a key.
const OPENROUTER: &str = "openrouter";

/// Timeout of that statement.
const KEY_TIMEOUT: Duration = Duration::from_secs(20);

/// What the provider says about the key itself.
fn key_endpoint(base_url: &str, credential: &Credential, network: &Network) -> Result<Value> {
    let url = http::endpoint(&format!("{base_url}/key"))?;
    let reply = network
        .connect(&url)?
        .get(&url, Some(&credential.access_token), &[], KEY_TIMEOUT)
        .map_err(|trouble| trouble.failed(url.host_str().unwrap_or_default()))?;
    anyhow::ensure!(reply.status == 200, "it answered {}", reply.status);
    Ok(serde_json::from_slice(reply.text())?)
}
