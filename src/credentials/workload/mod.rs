//! Logins without a stored secret: what is stored is how to get a token, and each token is requested when it is needed.
//!
//! Hazard: with the ID token of a job anyone can get a token of the provider, and config.toml can be edited. Rule: the
//! endpoint chosen at login is in the credential file, and an ID token is sent nowhere else. The tokens that are issued
//! are not written anywhere.

mod id_token;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use self::id_token::NoIdToken;
pub(crate) use self::id_token::Variables;
use super::{Credential, CredentialSource, Kind};
use crate::error::{Failed, Failure, Reason};
use crate::oauth::REQUEST_TIMEOUT;
use crate::oauth::exchange::{self, NotGranted};
use crate::providers::Provider;
use crate::secret::Secret;
use crate::sha256::sha256;

/// Timeout of all attempts for one token together.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Pause before the second and third attempt.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// How a workload proves who it is, as it is stored. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Where ID tokens are exchanged.
    pub(crate) endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) audience: Option<String>,
    /// The file with the ID token, as Kubernetes mounts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id_token_file: Option<PathBuf>,
    /// The variable with the ID token, as GitLab sets it. If neither this nor the file is set, it is requested from
    /// GitHub Actions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id_token_env: Option<String>,
}

/// Where ID tokens come from.
#[derive(Debug, Clone, Copy)]
enum IdTokenSource<'a> {
    File(&'a Path),
    Variable(&'a str),
    GitHub,
}

impl Identity {
    fn id_token_source(&self) -> IdTokenSource<'_> {
        match (&self.id_token_file, &self.id_token_env) {
            (Some(file), _) => IdTokenSource::File(file),
            (None, Some(name)) => IdTokenSource::Variable(name),
            (None, None) => IdTokenSource::GitHub,
        }
    }

    /// Where the ID token comes from, in a few words.
    pub(crate) fn place(&self) -> String {
        match self.id_token_source() {
            IdTokenSource::File(file) => format!("ID token in `{}`", file.display()),
            IdTokenSource::Variable(name) => format!("ID token in `{name}`"),
            IdTokenSource::GitHub => "ID token of GitHub Actions".into(),
        }
    }

    /// The variables that let a child process get tokens as this one does.
    pub(crate) fn variables(&self) -> Vec<&str> {
        match self.id_token_source() {
            IdTokenSource::File(_) => Vec::new(),
            IdTokenSource::Variable(name) => vec![name],
            IdTokenSource::GitHub => vec![id_token::REQUEST_URL, id_token::REQUEST_TOKEN],
        }
    }

    /// Identifies this identity across all its tokens.
    pub(crate) fn hash(&self) -> String {
        sha256(serde_json::to_string(self).unwrap_or_default())
    }

    /// Why there is no ID token here, as far as that is known without a request.
    pub(crate) fn problem(&self, source: &CredentialSource) -> Option<Failed> {
        id_token::look(self.id_token_source(), source.variable).err().map(Failed::from)
    }
}

/// The credential of a workload identity, before a token is requested.
pub(crate) fn identified(provider: &Provider, identity: Identity, base_url: String) -> Credential {
    Credential {
        base_url: Some(base_url),
        identity: Some(Box::new(identity)),
        ..Credential::unstored(Kind::Oauth, Secret::new(String::new()), provider.name.clone())
    }
}

/// A token for `credential`, which is not stored.
///
/// Errors: login required if there is no ID token or it is rejected; temporary; other.
pub(crate) fn exchanged(source: &CredentialSource, credential: &Credential, identity: &Identity) -> Result<Credential> {
    let provider = source.provider(credential)?;
    let exchange = provider.exchange(&credential.base_url(&provider)?, identity.policy.as_deref())?;
    if exchange.endpoint.as_str() != identity.endpoint {
        return source.login_required(format!(
            "the login of `{}` is for `{}`, and `token_exchange` of `{}` now names `{}`",
            source.profile, identity.endpoint, provider.name, exchange.endpoint
        ));
    }
    let connection = source.network.connect(&exchange.endpoint)?;
    let over = Instant::now() + TIMEOUT;
    let mut tries_left = 3;
    loop {
        tries_left -= 1;
        let asked_at = (source.clock)();
        let outcome =
            id_token::get(source, identity.id_token_source(), identity.audience.as_deref()).and_then(|id_token| {
                log::info!("exchanging the ID token of the workload for a token of `{}`", source.profile);
                let limit = REQUEST_TIMEOUT.min(over.saturating_duration_since(Instant::now()));
                exchange::request(&exchange, &connection, &id_token, limit)
                    .map_err(|error| not_granted(error, identity))
            });
        match outcome {
            Ok(grant) => {
                return Ok(Credential {
                    access_token: grant.access_token,
                    token_type: grant.token_type.unwrap_or_else(|| "Bearer".into()),
                    expires_at: Some(asked_at + grant.expires_in),
                    ..credential.clone()
                });
            }
            Err(error) if error.is_temporary() && tries_left > 0 && Instant::now() + RETRY_PAUSE < over => {
                log::warn!("asking again in {} ms: {}", RETRY_PAUSE.as_millis(), Failed::from(error));
                thread::sleep(RETRY_PAUSE);
            }
            Err(error) => return Failed::from(error).err(),
        }
    }
}

fn not_granted(error: NotGranted, identity: &Identity) -> NoIdToken {
    let not_exchanged = |why: &str| format!("the exchange of the ID token failed: {why}");
    NoIdToken(match error {
        NotGranted::Temporary(failed) => failed.reworded(not_exchanged).or_hint("nothing was lost; retry later"),
        NotGranted::OauthError(why) => {
            Failed::new(Failure::Other, not_exchanged(&why)).hint("see `token_exchange` of the provider")
        }
        NotGranted::Refused(why) => {
            let message = format!("the ID token was rejected: {why}");
            let policy = if identity.policy.is_some() { "the policy ID, " } else { "" };
            let audience = match &identity.audience {
                Some(audience) => format!("audience `{audience}`"),
                None => "the audience (`--audience`)".into(),
            };
            Failed::new(Failure::LoginRequired, message)
                .because(Reason::Refused)
                .hint(format!("compare {policy}subject and {audience} with what the server expects"))
        }
    })
}
