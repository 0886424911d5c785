//! The credential file as it is rewritten: Qwen Code's format or an API key, without losing what others put there.
//!
//! Hazard: several programs write this file, and a field lost or emptied logs one of them out.
//! Rule: a new version is the old one with the granted fields replaced; nothing granted, nothing replaced.

use std::time::SystemTime;

use anyhow::Result;
use serde_json::{Map, Value};
use zeroize::{Zeroize, Zeroizing};

use super::Identity;
use super::reading::{Format, problem, without_mark};
use crate::epoch;
use crate::oauth::{ClientAuth, Endpoints, TokenResponse};
use crate::profile::SecretStore;
use crate::secret::Secret;

/// Fields that a login writes into either file, and that the next login removes.
const LOGIN: [&str; 7] =
    ["access_token", "refresh_token", "token_type", "resource_url", "scope", "id_token", "expiry_date"];

/// Fields that are stored in the keyring instead of the file.
const SECRETS: [&str; 4] = ["access_token", "refresh_token", "id_token", "api_key"];

/// A copy of what the keyring has, under a key that was removed from there once it had it.
const SEALED: [&str; 2] = ["sealed", "sealed_by"];

/// Fields that it also writes into a file of our own.
const OWN_LOGIN: [&str; 17] = [
    "provider",
    "model",
    "api_key",
    "base_url",
    "region",
    "created_at",
    "machine",
    "issuer",
    "token_endpoint",
    "revocation_endpoint",
    "client_auth",
    "workload_identity",
    "store",
    "api_key_command",
    "entry",
    "sealed",
    "sealed_by",
];

/// A credential file in memory, wiped when dropped.
#[derive(Default)]
pub(crate) struct CredentialDocument(Map<String, Value>);

impl CredentialDocument {
    /// The old version, all of it: stricter than `reading::read`, which ignores what other programs add.
    ///
    /// Errors: a sentence on what cannot be kept, such as a number that is too large or a text that is not Unicode.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(without_mark(bytes)).map(Self).map_err(|error| problem(&error))
    }

    /// Takes over a token response received at `now`. Fields that the response omits keep their value.
    pub(crate) fn renew(&mut self, grant: &TokenResponse, now: SystemTime) {
        self.set("access_token", Some(grant.access_token.expose()));
        self.set("refresh_token", grant.refresh_token.as_ref().map(Secret::expose));
        if grant.has_unusable_refresh_token {
            // The old one is used up, and must not be sent again.
            if let Some(mut old) = self.0.insert("refresh_token".into(), Value::Null) {
                wipe(&mut old);
            }
        }
        self.set("token_type", grant.token_type.as_deref());
        if self.0.get("token_type").and_then(Value::as_str).is_none_or(str::is_empty) {
            self.set("token_type", Some("Bearer"));
        }
        self.set("resource_url", grant.resource_url.as_deref());
        // Qwen Code writes no scope, so its file gets none either; an existing scope is updated.
        if self.0.contains_key("scope") {
            self.set("scope", grant.scope.as_deref());
        }
        self.0.insert("expiry_date".into(), epoch::milliseconds(now + grant.expires_in).into());
    }

    /// Starts over with what a login granted: the tokens and host of an earlier account must not mix with it.
    pub(super) fn log_in(&mut self, grant: &TokenResponse, now: SystemTime, format: Format) {
        self.forget(format);
        self.renew(grant, now);
    }

    /// Removes the fields of an earlier login.
    pub(super) fn forget(&mut self, format: Format) {
        let own: &[&str] = if format == Format::Own { &OWN_LOGIN } else { &[] };
        for &field in LOGIN.iter().chain(own) {
            if let Some(mut old) = self.0.shift_remove(field) {
                wipe(&mut old);
            }
        }
    }

    /// Where renewals and the revocation of this login are sent.
    pub(super) fn set_issuer(&mut self, found: &Endpoints) {
        self.set("issuer", Some(&found.issuer));
        self.set("token_endpoint", Some(found.token_endpoint.as_str()));
        self.set("revocation_endpoint", found.revocation_endpoint.as_ref().map(url::Url::as_str));
        let auth = if found.client_auth == ClientAuth::Basic { "basic" } else { "post" };
        self.set("client_auth", Some(auth));
    }

    /// How the tokens of this login are got.
    pub(super) fn set_identity(&mut self, identity: &Identity) -> Result<()> {
        self.0.insert("workload_identity".into(), serde_json::to_value(identity)?);
        Ok(())
    }

    pub(super) fn set(&mut self, field: &str, value: Option<&str>) {
        let Some(value) = value else { return };
        if let Some(mut old) = self.0.insert(field.to_owned(), value.into()) {
            wipe(&mut old);
        }
    }

    /// Says where the secret is to be.
    pub(super) fn set_store(&mut self, store: SecretStore) {
        self.0.shift_remove("store");
        if store != SecretStore::File {
            self.set("store", Some(store.name()));
        }
        if store != SecretStore::Command {
            self.0.shift_remove("api_key_command");
        }
        if store != SecretStore::Keyring {
            self.0.shift_remove("entry");
        }
    }

    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.0.get(field).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    pub(super) fn is_for_keyring(&self) -> bool {
        self.text("store") == Some(SecretStore::Keyring.name())
    }

    /// The file without its secrets, which name their `entry`, and those: an API key as it is, so that other programs can
    /// read it, tokens as JSON.
    pub(super) fn parted(&self, entry: &str) -> Result<(Self, Zeroizing<Vec<u8>>)> {
        let (mut record, mut secrets) = (Self::default(), Self::default());
        for (name, value) in &self.0 {
            if SECRETS.contains(&name.as_str()) {
                secrets.0.insert(name.clone(), value.clone());
            } else if !SEALED.contains(&name.as_str()) {
                record.0.insert(name.clone(), value.clone());
            }
        }
        record.set("entry", Some(entry));
        let bytes = match secrets.text("api_key") {
            Some(key) if !self.is_oauth() => Zeroizing::new(key.as_bytes().to_vec()),
            _ => secrets.to_compact_bytes()?,
        };
        Ok((record, bytes))
    }

    /// Takes the secrets back in.
    ///
    /// Errors: a sentence on why they cannot be those.
    pub(super) fn unite(&mut self, secret: &[u8]) -> Result<(), String> {
        if !self.is_oauth() {
            let key = std::str::from_utf8(secret).map_err(|_| "its key in the keyring is not text")?;
            self.set("api_key", Some(key.trim()));
            return Ok(());
        }
        let secrets = Self::parse(secret).map_err(|why| format!("its entry in the keyring is damaged: {why}"))?;
        for name in SECRETS {
            self.set(name, secrets.text(name));
        }
        Ok(())
    }

    fn is_oauth(&self) -> bool {
        self.0.contains_key("expiry_date")
    }

    fn to_compact_bytes(&self) -> Result<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
        serde_json::to_writer(&mut *bytes, &self.0)?;
        Ok(bytes)
    }

    /// As Qwen Code writes it: two spaces, no newline at the end.
    pub(crate) fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
        serde_json::to_writer_pretty(&mut *bytes, &self.0)?;
        Ok(bytes)
    }
}

impl Drop for CredentialDocument {
    fn drop(&mut self) {
        self.0.values_mut().for_each(wipe);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(wipe),
        Value::Object(map) => map.values_mut().for_each(wipe),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn grant() -> TokenResponse {
        TokenResponse {
            access_token: Secret::new("at-2".into()),
            refresh_token: None,
            has_unusable_refresh_token: false,
            token_type: None,
            expires_in: Duration::from_secs(60),
            scope: None,
            resource_url: None,
        }
    }

    #[test]
    fn a_renewal_keeps_what_the_reply_leaves_out() {
        let mut document = CredentialDocument::parse(
            br#"{"access_token":"at-1","refresh_token":"rt-1","token_type":"bearer","resource_url":"portal.qwen.ai","expiry_date":1,"x":{"y":[1]}}"#,
        )
        .unwrap();
        document.renew(&grant(), SystemTime::UNIX_EPOCH);
        let text = String::from_utf8(document.to_bytes().unwrap().to_vec()).unwrap();
        assert_eq!(
            text,
            "{\n  \"access_token\": \"at-2\",\n  \"refresh_token\": \"rt-1\",\n  \"token_type\": \"bearer\",\n  \
             \"resource_url\": \"portal.qwen.ai\",\n  \"expiry_date\": 60000,\n  \"x\": {\n    \"y\": [\n      1\n    ]\n  }\n}"
        );
    }

    #[test]
    fn a_login_leaves_nothing_of_the_account_before() {
        let mut document = CredentialDocument::parse(
            br#"{"access_token":"a","refresh_token":"r","resource_url":"h","id_token":"i","x":1}"#,
        )
        .unwrap();
        document.log_in(&grant(), SystemTime::UNIX_EPOCH, Format::Own);
        let text = String::from_utf8(document.to_bytes().unwrap().to_vec()).unwrap();
        assert!(
            !text.contains("refresh_token") && !text.contains("resource_url") && !text.contains("id_token"),
            "{text}"
        );
        assert!(text.contains("\"x\": 1"), "{text}");
    }

    #[test]
    fn whatever_a_document_holds_is_wiped() {
        let mut value = serde_json::json!({"a": "1", "b": ["2", {"c": "3"}], "d": 4});
        wipe(&mut value);
        assert_eq!(value, serde_json::json!({"a": "", "b": ["", {"c": ""}], "d": 4}));
    }
}
