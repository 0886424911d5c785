//! Where a credential comes from and where it may go: its provider, base URL and authorization server; revocation.
//!
//! Hazard: config.toml can be edited, and a stored key or refresh token would follow it to another host. Rule: what was
//! decided at login stands in the credential file and wins; another issuer in the configuration needs a new login.

use anyhow::{Context, Result};

use super::{Account, Credential, Kind};
use crate::http;
use crate::oauth::{Endpoints, Server, discovery, revoke};
use crate::providers::{self, Provider, QWEN, QWEN_HOST};

impl Account {
    pub(crate) fn provider(&self, credential: &Credential) -> Result<Provider> {
        providers::find(credential.provider_name(), &self.overrides)
    }

    /// Where requests with `credential` go.
    ///
    /// Errors: a URL that it must not be sent to.
    pub(crate) fn base_url(credential: &Credential, provider: &Provider) -> Result<String> {
        match &credential.base_url {
            Some(stored) => stored_place(stored),
            None => provider.base_url(credential.resource_url.as_deref()),
        }
    }

    /// Fails where [`Account::base_url`] does, without a look at the providers where none is needed: parsing them would
    /// cost a warm `token` more than all else it does.
    pub(crate) fn check_place(&self, credential: &Credential) -> Result<()> {
        if let Some(stored) = &credential.base_url {
            return stored_place(stored).map(drop);
        }
        let usual = matches!(credential.resource_url.as_deref(), None | Some(QWEN_HOST));
        if usual && credential.provider_name() == QWEN && self.overrides.table.is_empty() {
            return Ok(());
        }
        self.provider(credential)?.base_url(credential.resource_url.as_deref()).map(drop)
    }

    /// The authorization server that `credential` came from, ready to be asked.
    pub(super) fn server(&self, provider: &Provider, credential: &Credential) -> Result<Server> {
        let configured = provider.oauth.as_ref().and_then(|oauth| oauth.issuer.as_deref());
        if let (Some(found), Some(configured)) = (&credential.issuer, configured)
            && found.issuer.trim_end_matches('/') != configured.trim_end_matches('/')
        {
            return self.login_required(format!(
                "the login of `{}` came from `{}`, and config.toml now names `{configured}`",
                self.profile, found.issuer
            ));
        }
        self.with_secret(provider, provider.server(credential.issuer.as_deref())?)
    }

    /// The authorization server that a login asks, found by discovery where only its issuer is known.
    pub(crate) fn login_server(&self, provider: &Provider) -> Result<(Server, Option<Endpoints>)> {
        let issuer = provider.oauth.as_ref().and_then(|oauth| oauth.issuer.as_deref());
        let found = issuer.map(|issuer| discovery::find(issuer, &self.network)).transpose()?;
        let server = provider.server(found.as_ref())?;
        Ok((self.with_secret(provider, server)?, found))
    }

    fn with_secret(&self, provider: &Provider, mut server: Server) -> Result<Server> {
        let variable = provider.oauth.as_ref().and_then(|oauth| oauth.client_secret_env.as_ref());
        let value = variable.and_then(|name| self.overrides.client_secrets.get(name));
        server.client_secret = provider.client_secret(value)?;
        Ok(server)
    }

    /// The model to name: the one chosen at login, else the provider's default.
    pub(crate) fn model(credential: &Credential, provider: &Provider) -> Option<String> {
        credential.model.clone().or_else(|| provider.default_model.clone())
    }

    /// Asks the server of a removed login to forget it: the refresh token, or else the access token.
    ///
    /// `Ok(false)`: it has no way to. Errors: a sentence on why the login may still be good.
    pub(crate) fn revoke(&self, credential: &Credential) -> Result<bool, String> {
        let provider = self.provider(credential).map_err(|error| format!("{error:#}"))?;
        if credential.kind == Kind::ApiKey || provider.oauth().is_none() {
            return Ok(false);
        }
        let server = self.server(&provider, credential).map_err(|error| format!("{error:#}"))?;
        let Some(url) = &server.revocation_endpoint else { return Ok(false) };
        let connection = self.network.connect(url).map_err(|error| format!("{error:#}"))?;
        let (token, kind) = match &credential.refresh_token {
            Some(token) => (token, "refresh_token"),
            None => (&credential.access_token, "access_token"),
        };
        revoke::request(&server, &connection, token, kind).map(|()| true)
    }
}

fn stored_place(stored: &str) -> Result<String> {
    let url = http::endpoint(stored).context("the stored base URL")?;
    Ok(url.as_str().trim_end_matches('/').to_owned())
}
