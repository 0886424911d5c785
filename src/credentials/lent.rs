//! An access token that another machine renews: what the home of a login publishes for the other gateways of its team.
//!
//! Hazard: if two machines have a refresh token, it is used twice and the login is lost. Rule: only the access token is
//! published.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Credential, Kind};
use crate::secret::Secret;

/// Larger than any published token, in bytes.
const BUFFER_SIZE: usize = 64 * 1024;

/// The part of a login that an edge gets.
#[derive(Debug, Deserialize)]
pub(crate) struct Lent {
    provider: String,
    access_token: Secret,
    token_type: String,
    base_url: Option<String>,
    resource_url: Option<String>,
    model: Option<String>,
}

impl Lent {
    /// The part of `credential` that edges get, as JSON.
    pub(crate) fn of(credential: &Credential) -> Zeroizing<Vec<u8>> {
        #[derive(Serialize)]
        struct Shown<'credential> {
            provider: &'credential str,
            access_token: &'credential str,
            token_type: &'credential str,
            base_url: Option<&'credential str>,
            resource_url: Option<&'credential str>,
            model: Option<&'credential str>,
        }
        // Allocated once, because growing would leave a copy of the token in memory.
        let mut text = Zeroizing::new(Vec::with_capacity(BUFFER_SIZE));
        let shown = Shown {
            provider: credential.provider_name(),
            access_token: credential.access_token.expose(),
            token_type: &credential.token_type,
            base_url: credential.base_url.as_deref(),
            resource_url: credential.resource_url.as_deref(),
            model: credential.model.as_deref(),
        };
        // A structure of texts is always JSON.
        let _ = serde_json::to_writer(&mut *text, &shown);
        text
    }

    /// Whether `token` is its access token.
    pub(crate) fn is(&self, token: &Secret) -> bool {
        self.access_token == *token
    }

    pub(crate) fn into_credential(self, expires_at: SystemTime) -> Credential {
        Credential {
            token_type: self.token_type,
            expires_at: Some(expires_at),
            resource_url: self.resource_url,
            model: self.model,
            base_url: self.base_url,
            ..Credential::unstored(Kind::Oauth, self.access_token, self.provider)
        }
    }
}

impl Credential {
    /// Whether it is a login whose tokens are renewed by a refresh token.
    pub(crate) fn is_login(&self) -> bool {
        self.kind == Kind::Oauth && self.identity.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_has_no_refresh_token_and_comes_back_as_it_was() {
        let lent = Lent {
            provider: "corp".into(),
            access_token: Secret::new("an \"odd\" token".into()),
            token_type: "Bearer".into(),
            base_url: Some("https://api.corp.example/v1".into()),
            resource_url: None,
            model: Some("m".into()),
        };
        let now = SystemTime::now();
        let mut credential = lent.into_credential(now);
        credential.refresh_token = Some(Secret::new("spent-once".into()));
        let text = Lent::of(&credential);
        assert!(!String::from_utf8_lossy(&text).contains("spent-once"));
        let read: Lent = serde_json::from_slice(&text).unwrap();
        let read = read.into_credential(now);
        assert_eq!(read.access_token, credential.access_token);
        assert_eq!(
            (read.base_url, read.provider, read.model),
            (credential.base_url, credential.provider, credential.model)
        );
    }
}
