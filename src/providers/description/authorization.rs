//! A provider's authorization server and token exchange, with this program's registration there.

use std::path::Path;

use anyhow::{Context, Result, bail};
use url::Url;

use super::{Provider, TokenExchange};
use crate::error::{Failed, Failure, is_variable_name};
use crate::http;
use crate::oauth::exchange::{Exchange, JWT};
use crate::oauth::{AuthorizationServer, Endpoints};
use crate::platform::files::{self, Content, Privacy};
use crate::secret::Secret;

impl Provider {
    pub(in crate::providers) fn move_oauth_to(&mut self, url: &str) -> Result<()> {
        let base = http::endpoint(url)?;
        let Some(oauth) = &mut self.oauth else { return Ok(()) };
        for endpoint in [&mut oauth.device_authorization_endpoint, &mut oauth.token_endpoint].into_iter().flatten() {
            let path = Url::parse(endpoint)?.path().to_owned();
            *endpoint = base.join(&path)?.into();
        }
        Ok(())
    }

    /// The authorization server, its URLs checked. `found`: what discovery found, where there is an issuer.
    pub(crate) fn server(&self, found: Option<&Endpoints>) -> Result<AuthorizationServer> {
        let Some(oauth) = &self.oauth else { bail!("provider `{}` does not support OAuth", self.name) };
        let missing = |key: &str| {
            Failed::new(Failure::Other, format!("provider `{}` has no `{key}`", self.name))
                .hint(format!("set it under `[providers.{}]` in config.toml", self.name))
        };
        let device = match (&oauth.device_authorization_endpoint, found) {
            (Some(url), _) => Some(http::endpoint(url)?),
            (None, Some(found)) => found.device_authorization_endpoint.clone(),
            (None, None) => None,
        };
        let token = match (&oauth.token_endpoint, found) {
            (Some(url), _) => http::endpoint(url)?,
            (None, Some(found)) => found.token_endpoint.clone(),
            (None, None) => return Err(missing("issuer").into()),
        };
        let revocation = match (&oauth.revocation_endpoint, found) {
            (Some(url), _) => Some(http::endpoint(url)?),
            (None, found) => found.and_then(|found| found.revocation_endpoint.clone()),
        };
        Ok(AuthorizationServer {
            device_authorization_endpoint: device,
            token_endpoint: token,
            revocation_endpoint: revocation,
            client_id: oauth.client_id.clone().ok_or_else(|| missing("client_id"))?,
            client_secret: None,
            client_auth: oauth.client_auth.or_else(|| found.map(|found| found.client_auth)).unwrap_or_default(),
            scope: oauth.scopes.join(" "),
            resource: oauth.resource.clone(),
            audience: oauth.audience.clone(),
            pkce: oauth.pkce,
            dialect: oauth.dialect,
        })
    }

    /// How this provider exchanges ID tokens, for a credential whose requests go to `base_url`.
    ///
    /// Errors: usage, where it does not.
    pub(crate) fn exchange(&self, base_url: &str, policy: Option<&str>) -> Result<Exchange> {
        let Some(setting) = &self.token_exchange else {
            return Failed::new(
                Failure::Usage,
                format!("{} does not support workload identity", self.called(base_url)),
            )
            .hint("for example `qwenauth login openrouter --workload-identity --policy ID`")
            .err();
        };
        let text = match setting.endpoint.split_once("://") {
            Some(_) => setting.endpoint.clone(),
            None => format!("{base_url}/{}", setting.endpoint.trim_start_matches('/')),
        };
        let endpoint =
            http::endpoint(&text).with_context(|| format!("`token_exchange` of provider `{}`", self.name))?;
        let value = |text: &String| text.replace(TokenExchange::POLICY, policy.unwrap_or_default());
        Ok(Exchange {
            endpoint,
            subject_token_type: setting.subject_token_type.clone().unwrap_or_else(|| JWT.to_owned()),
            parameters: setting.parameters.iter().map(|(name, text)| (name.clone(), value(text))).collect(),
        })
    }

    /// The secret of a confidential client: from its file, else from its variable, whose value config has read.
    pub(crate) fn client_secret(&self, variable: Option<&Secret>) -> Result<Option<Secret>> {
        let Some(oauth) = &self.oauth else { return Ok(None) };
        let failed = |why: String| {
            Failed::new(Failure::Other, format!("the client secret of provider `{}` {why}", self.name))
                .hint(format!("see `client_secret_file` and `client_secret_env` under `[providers.{}]`", self.name))
        };
        let text = match (&oauth.client_secret_file, &oauth.client_secret_env) {
            // Its target must not depend on the working directory, which may be a cloned repository.
            // What is no path may be the secret itself, and is not repeated.
            (Some(file), _) if !Path::new(file).is_absolute() => {
                return failed("is missing: `client_secret_file` is not an absolute path".into())
                    .hint("start it with `/` or `~/`")
                    .err();
            }
            (Some(file), _) => match files::read(Path::new(file), Privacy::Secret)? {
                Content::Bytes(bytes) => match std::str::from_utf8(&bytes) {
                    Ok(text) => Secret::new(text.to_owned()),
                    Err(_) => return failed(format!("in `{file}` is not UTF-8")).err(),
                },
                Content::Missing => return failed(format!("is missing: there is no `{file}`")).err(),
                Content::Unfit(why) => return failed(format!("in `{file}` cannot be read: {why}")).err(),
            },
            (None, Some(name)) => match variable {
                Some(secret) => secret.clone(),
                None if is_variable_name(name) => return failed(format!("is missing: `{name}` is not set")).err(),
                None => return failed("is missing: `client_secret_env` is not the name of a variable".into()).err(),
            },
            (None, None) => return Ok(None),
        };
        let trimmed = text.expose().trim();
        if trimmed.is_empty() || trimmed.chars().any(char::is_control) {
            return failed("is empty or contains control characters".into()).err();
        }
        Ok(Some(Secret::new(trimmed.to_owned())))
    }
}
