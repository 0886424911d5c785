//! An access token that another machine renews: what the home of a login hands to the other gateways of its team.
//!
//! Hazard: a refresh token that two machines hold is spent twice, and the login is lost. Rule: what is handed over has none.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Credential, Kind};
use crate::secret::Secret;

/// Longer than what is handed over, in bytes.
const ROOM: usize = 64 * 1024;

/// What an edge gets of a login.
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
        // With room for all of it, so that it does not move and leave a copy of the token behind.
        let mut text = Zeroizing::new(Vec::with_capacity(ROOM));
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

    /// Whether it is this token.
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
