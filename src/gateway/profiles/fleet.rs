//! Which gateways of a team renew a login and which use its tokens, and how these tokens are encrypted.
//!
//! Hazard: anyone who can read the team's server would have the tokens, and a token copied to another place would be
//! accepted. Rule: tokens are encrypted with the team secret for one namespace, profile and generation; refresh tokens
//! are never published.

use std::rc::Rc;

use anyhow::Result;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::credentials::{CredentialSource, Lent, Stored};
use crate::keys::TeamSecret;

/// The purpose for which tokens are encrypted.
const PURPOSE: &str = "token of a login";

/// Published instead of a token after a logout.
pub(super) const GONE: &str = "gone";

/// The role of this gateway for the login of one profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It uses the login stored here, for itself only.
    Alone,
    /// It renews the login here and publishes its tokens.
    Home,
    /// It uses the tokens published by another gateway.
    Edge,
}

/// The role of a gateway for the logins that it serves.
#[derive(Clone, Default)]
pub(crate) struct Part {
    /// `None`: it belongs to no team.
    pub(crate) fleet: Option<Rc<Fleet>>,
    /// As configured; by default it is the home of the logins stored here and an edge of all others.
    pub(crate) asked: Option<Role>,
}

impl Part {
    /// Errors: the store cannot be read.
    pub(crate) fn of(&self, source: &CredentialSource) -> Result<Role> {
        if self.fleet.is_none() {
            return Ok(Role::Alone);
        }
        Ok(match (source.load_record()?, self.asked) {
            // A key is never renewed, and every machine may have it.
            (Stored::Present(credential), _) if !credential.is_login() => Role::Alone,
            (_, Some(role)) => role,
            (Stored::Missing, None) => Role::Edge,
            (_, None) => Role::Home,
        })
    }
}

/// The team of this gateway: what homes and edges share.
#[derive(Debug, Clone)]
pub(crate) struct Fleet {
    pub(crate) secret: TeamSecret,
    pub(crate) namespace: String,
    /// Distinguishes this home from others: the machine's name, and a hash that its ID and data path go into.
    pub(crate) host: String,
    pub(crate) id: String,
}

impl Fleet {
    fn context(&self, profile: &str, generation: u64) -> Vec<u8> {
        // None of them contains a NUL.
        format!("{}\0{profile}\0{generation}", self.namespace).into_bytes()
    }

    pub(in crate::gateway) fn seal(&self, profile: &str, generation: u64, text: &[u8]) -> Result<String> {
        let sealed = self.secret.seal(PURPOSE, &self.context(profile, generation), text)?;
        Ok(BASE64_STANDARD.encode(sealed))
    }

    /// Decrypts what was published for this profile and generation. `None`: this team did not encrypt it.
    pub(in crate::gateway) fn open(&self, profile: &str, generation: u64, sealed: &str) -> Option<Opened> {
        let sealed = BASE64_STANDARD.decode(sealed).ok()?;
        let text = self.secret.open(PURPOSE, &self.context(profile, generation), &sealed)?;
        if text.as_slice() == GONE.as_bytes() {
            return Some(Opened::Gone);
        }
        serde_json::from_slice(&text).ok().map(|lent| Opened::Token(Box::new(lent)))
    }
}

pub(in crate::gateway) enum Opened {
    Token(Box<Lent>),
    Gone,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(secret: &TeamSecret, namespace: &str) -> Fleet {
        Fleet { secret: secret.clone(), namespace: namespace.into(), host: "build-1".into(), id: "a".into() }
    }

    #[test]
    fn a_token_opens_for_its_team_profile_and_generation_only() {
        let secret = TeamSecret::new();
        let home = fleet(&secret, "ml");
        let text = r#"{"provider":"corp","access_token":"granted","token_type":"Bearer"}"#;
        let sealed = home.seal("corp", 7, text.as_bytes()).unwrap();
        assert!(matches!(home.open("corp", 7, &sealed), Some(Opened::Token(_))));
        assert!(home.open("corp", 8, &sealed).is_none());
        assert!(home.open("other", 7, &sealed).is_none());
        assert!(fleet(&secret, "other").open("corp", 7, &sealed).is_none());
        assert!(fleet(&TeamSecret::new(), "ml").open("corp", 7, &sealed).is_none());
        let gone = home.seal("corp", 9, GONE.as_bytes()).unwrap();
        assert!(matches!(home.open("corp", 9, &gone), Some(Opened::Gone)));
    }
}
