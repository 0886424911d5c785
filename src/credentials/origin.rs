//! Which server issued a token: it is sent to no other server, and no other server ends the login.
//!
//! Hazard: a variable or an edited config.toml names another server. It would receive a token that is not its own, and
//! its rejection would end a valid login. Rule: the endpoint that issued or last renewed a token is recorded under the
//! token's hash before the token is installed. A token without a record (a login made by Qwen Code or an older version)
//! counts as the default endpoint's; a server on loopback may try it, but its rejection ends nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use url::Url;

use super::refused::{hash_of, records};
use super::store::{Found, Store};
use super::{Credential, CredentialSource, endpoints};
use crate::error::{Failed, Failure, note};
use crate::http;
use crate::oauth::AuthorizationServer;
use crate::paths::StateDirectory;
use crate::platform::files::{self, Content, PendingFile, Privacy};
use crate::providers::{self, Provider, QWEN};
use crate::secret::Secret;

/// The server that issued a token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    token_endpoint: String,
    revocation_endpoint: Option<String>,
    /// The credential file that was to hold the token; an older version's record does not say.
    #[serde(default)]
    file: Option<PathBuf>,
}

impl Origin {
    fn of(server: &AuthorizationServer, source: &CredentialSource) -> Self {
        Self {
            token_endpoint: server.token_endpoint.to_string(),
            revocation_endpoint: server.revocation_endpoint.as_ref().map(Url::to_string),
            file: Some(source.store.path().to_owned()),
        }
    }
}

/// What a server may do with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The token is its own: its refusal is the end of the login.
    Granted,
    /// On loopback, with a token of unknown origin: its refusal counts for itself alone.
    Trial,
}

/// Remembers that `server` granted `token`; called before the token is in place.
pub(super) fn remember(source: &CredentialSource, token: &Secret, server: &AuthorizationServer) {
    let origin = Origin::of(server, source);
    if read(source, token).as_ref() != Some(&origin) {
        write(source, token, &origin);
    }
}

/// Copies the record of `spent` to the token that replaced it.
pub(super) fn carry(source: &CredentialSource, spent: &Secret, successor: &Secret) {
    if let Some(origin) = read(source, spent) {
        write(source, successor, &origin);
    }
}

/// Without a record the token counts as the default server's: it is saved anyway.
fn write(source: &CredentialSource, token: &Secret, origin: &Origin) {
    let write = || -> Result<()> {
        let bytes = serde_json::to_vec(origin)?;
        // In one step: a kill must not leave a record that was there already without its content.
        PendingFile::reserve(&path_for(source, token), bytes.len(), Privacy::Private)?.write(&bytes)
    };
    if let Err(error) = write() {
        log::warn!("cannot remember where a token came from: {error:#}");
    }
}

/// A record left behind costs nothing but its place, so a failure is only logged.
pub(super) fn forget(source: &CredentialSource, token: &Secret) {
    if let Err(error) = files::remove(&path_for(source, token), Privacy::Private) {
        log::warn!("cannot remove the record of a token's origin: {error:#}");
    }
}

/// Forgets the tokens that the file of `source` held before `kept`, those that another program has renewed included.
/// The caller holds the lock of the file.
pub(super) fn forget_all_but(source: &CredentialSource, kept: &Secret) {
    for path in strays_of(&source.paths.state, source.store.path(), Some(kept)) {
        if let Err(error) = fs::remove_file(&path) {
            log::warn!("cannot remove the record `{}`: {error}", path.display());
        }
    }
}

/// The records of tokens that are no longer in their credential file.
fn strays_of(state: &Path, file: &Path, kept: Option<&Secret>) -> Vec<PathBuf> {
    let kept = kept.map(hash_of);
    let is_kept = |path: &Path| kept.as_ref().is_some_and(|name| path.ends_with(name));
    let records = records(&StateDirectory::Origins.below(state)).into_iter().filter(|path| !is_kept(path));
    records.filter(|path| read_at(path).is_some_and(|origin| origin.file.as_deref() == Some(file))).collect()
}

/// The records of tokens that neither a credential of `sources` holds nor a file that is there. With `fix` they are
/// removed, where no process works on that file, and what is returned could not be.
pub(crate) fn strays(state: &Path, sources: &[CredentialSource], fix: bool) -> Vec<PathBuf> {
    let records = records(&StateDirectory::Origins.below(state));
    let mut files: Vec<PathBuf> = records.iter().filter_map(|path| read_at(path)?.file).collect();
    files.sort();
    files.dedup();
    let strays = |file: &PathBuf| {
        let source = sources.iter().find(|source| source.store.path() == file);
        let store = source.map_or_else(|| Store::new(file.clone(), false), |source| source.store.clone());
        strays_in(state, &store, source.is_some(), fix)
    };
    files.iter().flat_map(strays).collect()
}

fn strays_in(state: &Path, store: &Store, is_known: bool, fix: bool) -> Vec<PathBuf> {
    let find = || {
        let kept = match store.read() {
            Ok(Found::Missing) => None,
            Ok(Found::Present(snapshot)) if is_known => Some(snapshot.credential.record_token().clone()),
            // It may hold any of them.
            _ => return Vec::new(),
        };
        strays_of(state, store.path(), kept.as_ref())
    };
    let found = find();
    if !fix || found.is_empty() {
        return found;
    }
    // Under the lock, because a renewal in progress writes the record of its token before the token itself.
    let Ok(Some(_guard)) = store.try_lock() else { return found };
    find().into_iter().filter(|path| fs::remove_file(path).is_err()).collect()
}

fn path_for(source: &CredentialSource, token: &Secret) -> PathBuf {
    StateDirectory::Origins.below(&source.paths.state).join(hash_of(token))
}

fn read(source: &CredentialSource, token: &Secret) -> Option<Origin> {
    read_at(&path_for(source, token))
}

fn read_at(path: &Path) -> Option<Origin> {
    match files::read(path, Privacy::Private) {
        Ok(Content::Bytes(bytes)) => serde_json::from_slice(&bytes).ok(),
        _ => None,
    }
}

/// What `server` may do with the refresh token of `credential`.
///
/// Errors: login required, when the token belongs to another server: nothing may be sent.
pub(super) fn check(
    source: &CredentialSource,
    provider: &Provider,
    server: &AuthorizationServer,
    credential: &Credential,
) -> Result<Standing> {
    let Some(token) = &credential.refresh_token else { return Ok(Standing::Granted) };
    let record = read(source, token);
    let granted_at = match &record {
        Some(origin) => origin.token_endpoint.clone(),
        None => default_endpoint(provider, server, credential)?,
    };
    if granted_at == server.token_endpoint.as_str() {
        return Ok(Standing::Granted);
    }
    if record.is_none() && http::is_loopback(&server.token_endpoint) {
        return Ok(Standing::Trial);
    }
    let theirs = Url::parse(&granted_at)?;
    let (from, to) = shown(&theirs, &server.token_endpoint);
    let is_usual =
        endpoints::built_in_server(provider).is_ok_and(|usual| usual.token_endpoint == server.token_endpoint);
    let (named_by, remedy) = if is_moved(source, provider) {
        ("`QWENAUTH_QWEN_OAUTH_URL` names", "unset `QWENAUTH_QWEN_OAUTH_URL`, or log in again there".to_owned())
    } else if is_usual && provider.name == QWEN && theirs.path() == server.token_endpoint.path() {
        let (origin, login) = (theirs.origin().ascii_serialization(), source.login_hint());
        (
            "without `QWENAUTH_QWEN_OAUTH_URL` the server is",
            format!("set `QWENAUTH_QWEN_OAUTH_URL={origin}` again, or {login}"),
        )
    } else {
        ("config.toml now names", format!("restore its `token_endpoint`, or {}", source.login_hint()))
    };
    Failed::new(
        Failure::LoginRequired,
        format!("the login of `{}` came from `{from}`, and {named_by} `{to}`: nothing was sent", source.profile),
    )
    .hint(remedy)
    .err()
}

/// The same for the revocation, which config.toml can send elsewhere by itself, and which an access token is sent to where
/// there is no refresh token.
pub(super) fn check_revocation(
    source: &CredentialSource,
    provider: &Provider,
    server: &AuthorizationServer,
    credential: &Credential,
) -> Result<(), String> {
    let granted_at = match (read(source, credential.record_token()), &credential.issuer) {
        (Some(origin), _) if origin.token_endpoint != server.token_endpoint.as_str() => {
            return Err("another `token_endpoint` is set now than at the login".into());
        }
        (Some(origin), _) => origin.revocation_endpoint,
        (None, Some(found)) => found.revocation_endpoint.as_ref().map(Url::to_string),
        (None, None) if providers::is_built_in(&provider.name) => {
            let usual = endpoints::built_in_server(provider).map_err(|error| format!("{error:#}"))?;
            usual.revocation_endpoint.as_ref().map(Url::to_string)
        }
        (None, None) => return Ok(()),
    };
    if granted_at.as_deref() == server.revocation_endpoint.as_ref().map(Url::as_str) {
        return Ok(());
    }
    Err("config.toml now names another `revocation_endpoint` than at the login".into())
}

/// Fails where a renewal of `credential` would, because another server is configured now.
pub(crate) fn check_origin(source: &CredentialSource, credential: &Credential) -> Result<()> {
    if credential.refresh_token.is_none() {
        return Ok(());
    }
    let provider = source.provider(credential)?;
    let server = provider.server(credential.issuer.as_deref())?;
    check(source, &provider, &server, credential).map(drop)
}

/// The server that a token without a record counts for.
fn default_endpoint(provider: &Provider, server: &AuthorizationServer, credential: &Credential) -> Result<String> {
    let endpoint = if let Some(found) = &credential.issuer {
        found.token_endpoint.clone()
    } else if providers::is_built_in(&provider.name) {
        endpoints::built_in_server(provider)?.token_endpoint
    } else {
        server.token_endpoint.clone()
    };
    Ok(endpoint.into())
}

/// Both by host; by the whole URL where they have it in common.
fn shown(theirs: &Url, named: &Url) -> (String, String) {
    let authority = |url: &Url| match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or_default().to_owned(),
    };
    let hosts = (authority(theirs), authority(named));
    if hosts.0 == hosts.1 { (theirs.to_string(), named.to_string()) } else { hosts }
}

/// Whether the environment names the server of `provider`.
fn is_moved(source: &CredentialSource, provider: &Provider) -> bool {
    provider.name == QWEN && source.overrides.qwen_oauth_url.is_some()
}

/// Warns once that the environment sends the requests of a login to another machine.
pub(super) fn say_where(source: &CredentialSource, provider: &Provider, server: &AuthorizationServer) {
    static SAID: Once = Once::new();
    if !is_moved(source, provider) || http::is_loopback(&server.token_endpoint) {
        return;
    }
    let usual = endpoints::built_in_server(provider).map(|server| server.token_endpoint);
    if usual.as_ref().is_ok_and(|usual| usual.host() != server.token_endpoint.host()) {
        let host = server.token_endpoint.host_str().unwrap_or_default();
        SAID.call_once(|| {
            note(&format!("warning: `QWENAUTH_QWEN_OAUTH_URL` is set: tokens are requested from `{host}`"));
        });
    }
}
