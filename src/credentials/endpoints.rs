//! Where a credential comes from and where it may be sent: its provider, base URL and authorization server; revocation.
//!
//! Hazard: config.toml can be edited, and a stored key or refresh token would follow it to another host. Rule: the
//! values chosen at login are in the credential file and take precedence; another issuer in the configuration requires
//! a new login.

use anyhow::{Context, Result};

use super::{Credential, CredentialSource, Kind, origin};
use crate::http;
use crate::oauth::{AuthorizationServer, Endpoints, discovery, revoke};
use crate::paths;
use crate::platform::files::{self, Content, PendingFile, Privacy};
use crate::providers::{self, Overrides, Provider, QWEN, QWEN_HOST};

impl Credential {
    /// The base URL of requests with this credential.
    ///
    /// Errors: a URL that it must not be sent to.
    pub(crate) fn base_url(&self, provider: &Provider) -> Result<String> {
        match &self.base_url {
            Some(stored) => stored_base_url(stored),
            None => provider.base_url(self.resource_url.as_deref(), self.issuer.as_deref()),
        }
    }

    /// Fails where [`Credential::base_url`] fails, without reading the providers where that is not needed: parsing them
    /// would cost a warm `token` more than everything else it does.
    pub(crate) fn check_base_url(&self, overrides: &Overrides) -> Result<()> {
        if let Some(stored) = &self.base_url {
            return stored_base_url(stored).map(drop);
        }
        let usual = matches!(self.resource_url.as_deref(), None | Some(QWEN_HOST));
        if usual && self.provider_name() == QWEN && overrides.table.is_empty() {
            return Ok(());
        }
        self.base_url(&providers::find(self.provider_name(), overrides)?).map(drop)
    }
}

/// The model to name: the one chosen at login, else the provider's default.
pub(crate) fn model_of(source: &CredentialSource, credential: &Credential, provider: &Provider) -> Option<String> {
    chosen_model_of(source, credential).or_else(|| provider.default_model.clone())
}

/// The model that was chosen at login, if one was.
pub(crate) fn chosen_model_of(source: &CredentialSource, credential: &Credential) -> Option<String> {
    if source.store.is_shared() { chosen_beside(source) } else { credential.model.clone() }
}

/// The model chosen at the login whose file is Qwen Code's: it would drop a field of ours at its next renewal.
fn chosen_beside(source: &CredentialSource) -> Option<String> {
    match files::read(&paths::chosen_model(&source.paths.state), Privacy::Private) {
        Ok(Content::Bytes(bytes)) => std::str::from_utf8(&bytes).ok().filter(|id| !id.is_empty()).map(str::to_owned),
        _ => None,
    }
}

pub(super) fn keep_chosen_beside(source: &CredentialSource, model: Option<&str>) -> Result<()> {
    let path = paths::chosen_model(&source.paths.state);
    match model {
        Some(model) => PendingFile::reserve(&path, model.len(), Privacy::Private)?.write(model.as_bytes()),
        None => files::remove(&path, Privacy::Private).map(drop),
    }
}

fn stored_base_url(stored: &str) -> Result<String> {
    let url = http::endpoint(stored).context("the stored base URL")?;
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// The authorization server that issued `credential`, ready for requests.
pub(super) fn server_of(
    source: &CredentialSource,
    provider: &Provider,
    credential: &Credential,
) -> Result<AuthorizationServer> {
    let configured = provider.oauth.as_ref().and_then(|oauth| oauth.issuer.as_deref());
    if let (Some(found), Some(configured)) = (&credential.issuer, configured)
        && found.issuer.trim_end_matches('/') != configured.trim_end_matches('/')
    {
        return source.login_required(format!(
            "the login of `{}` came from `{}`, and config.toml now names `{configured}`",
            source.profile, found.issuer
        ));
    }
    with_secret(source, provider, provider.server(credential.issuer.as_deref())?)
}

/// The server of an unchanged built-in provider.
pub(super) fn built_in_server(provider: &Provider) -> Result<AuthorizationServer> {
    providers::find(&provider.name, &Overrides::default())?.server(None)
}

/// The authorization server of a login, found by discovery if only its issuer is known.
pub(crate) fn login_server(
    source: &CredentialSource,
    provider: &Provider,
) -> Result<(AuthorizationServer, Option<Endpoints>)> {
    let issuer = provider.oauth.as_ref().and_then(|oauth| oauth.issuer.as_deref());
    let found = issuer.map(|issuer| discovery::find(issuer, &source.network)).transpose()?;
    let server = provider.server(found.as_ref())?;
    origin::say_where(source, provider, &server);
    Ok((with_secret(source, provider, server)?, found))
}

fn with_secret(
    source: &CredentialSource,
    provider: &Provider,
    mut server: AuthorizationServer,
) -> Result<AuthorizationServer> {
    let variable = provider.oauth.as_ref().and_then(|oauth| oauth.client_secret_env.as_ref());
    let value = variable.and_then(|name| source.overrides.client_secrets.get(name));
    server.client_secret = provider.client_secret(value)?;
    Ok(server)
}

/// Revokes a removed login at its server: the refresh token, or else the access token.
///
/// `Ok(false)`: the server has no revocation endpoint. Errors: a sentence on why the login may still be valid.
pub(crate) fn revoke(source: &CredentialSource, credential: &Credential) -> Result<bool, String> {
    let provider = source.provider(credential).map_err(|error| format!("{error:#}"))?;
    if credential.kind == Kind::ApiKey || provider.oauth().is_none() {
        return Ok(false);
    }
    let server = server_of(source, &provider, credential).map_err(|error| format!("{error:#}"))?;
    let Some(url) = &server.revocation_endpoint else { return Ok(false) };
    origin::check(source, &provider, &server, credential).map_err(|error| format!("{error:#}"))?;
    origin::check_revocation(source, &provider, &server, credential)?;
    let connection = source.network.connect(url).map_err(|error| format!("{error:#}"))?;
    let (token, kind) = match &credential.refresh_token {
        Some(token) => (token, "refresh_token"),
        None => (&credential.access_token, "access_token"),
    };
    revoke::request(&server, &connection, token, kind).map(|()| true)
}
