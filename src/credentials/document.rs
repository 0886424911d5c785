//! The credential file: Qwen Code's format or an API key, read strictly and rewritten without losing what others put there.
//!
//! Hazard: several programs write this file, and a field lost or emptied logs one of them out; a field that another
//! program put there under a name of ours is not ours.
//! Rule: a new version is the old one with the granted fields replaced; nothing granted, nothing replaced. In Qwen Code's
//! file only the fields of its format are read.

use std::time::SystemTime;

use anyhow::Result;
use serde::Deserialize;
use serde_json::{Map, Value};
use zeroize::{Zeroize, Zeroizing};

use super::{Credential, Identity, Kind};
use crate::http;
use crate::oauth::{ClientAuth, Endpoints, TokenResponse};
use crate::profile::SecretStore;
use crate::secret::Secret;

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Shared with Qwen Code.
    QwenCode,
    Own,
}

/// The fields that Qwen Code writes. It requires the first three and a number in `expiry_date`.
#[derive(Deserialize)]
struct Tokens {
    access_token: Option<Secret>,
    refresh_token: Option<Secret>,
    token_type: Option<String>,
    /// Milliseconds since 1970. `null` is what Qwen Code writes when a reply had no `expires_in`.
    expiry_date: Option<f64>,
    resource_url: Option<String>,
}

/// What only our own files have.
#[derive(Default, Deserialize)]
struct Fields {
    provider: Option<String>,
    model: Option<String>,
    /// Of an API key, which has none of the fields above but `provider` and `model`.
    api_key: Option<Secret>,
    base_url: Option<String>,
    created_at: Option<String>,
    /// Where the secret is, if not here.
    store: Option<String>,
    /// What prints the key.
    api_key_command: Option<String>,
    /// The name of the secret in the keyring.
    entry: Option<String>,
    /// Where the file was written, as a hash.
    machine: Option<String>,
    /// For a login at an issuer found by discovery: renewals go to the server that the login came from.
    issuer: Option<String>,
    token_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    client_auth: Option<ClientAuth>,
    /// Of a login that stores no secret.
    workload_identity: Option<Identity>,
}

/// Reads a credential; `Ok(None)` for `{}`, which a logout leaves in a file that cannot be removed.
///
/// Errors: a sentence on what is wrong. It never repeats the content.
pub(crate) fn read(bytes: &[u8], format: Format) -> Result<Option<Credential>, String> {
    let bytes = without_mark(bytes);
    if bytes.trim_ascii().is_empty() {
        return Err("it is empty".into());
    }
    let tokens: Tokens = serde_json::from_slice(bytes).map_err(|error| problem(&error))?;
    let fields = match format {
        Format::Own => serde_json::from_slice(bytes).map_err(|error| problem(&error))?,
        Format::QwenCode => Fields::default(),
    };
    let filled = |secret: Option<Secret>| secret.filter(|secret| !secret.expose().is_empty());
    let text = |text: Option<String>| text.filter(|text| !text.is_empty());
    let identity = fields.workload_identity.map(Box::new);
    let secret_store = match text(fields.store) {
        None => SecretStore::File,
        Some(name) => SecretStore::named(&name).ok_or("its secret is in a store that this version does not support")?,
    };
    let (command, entry) = (text(fields.api_key_command), text(fields.entry));
    let is_elsewhere = match secret_store {
        SecretStore::File => false,
        SecretStore::Keyring => entry.is_some(),
        SecretStore::Command => command.is_some(),
    };
    let (kind, access_token) = match (filled(fields.api_key), filled(tokens.access_token)) {
        _ if identity.is_some() => (Kind::Oauth, Secret::new(String::new())),
        (Some(key), _) => (Kind::ApiKey, key),
        (None, Some(token)) => (Kind::Oauth, token),
        (None, None) if is_elsewhere => {
            (if tokens.expiry_date.is_some() { Kind::Oauth } else { Kind::ApiKey }, Secret::new(String::new()))
        }
        (None, None) if bytes.trim_ascii() == b"{}" => return Ok(None),
        (None, None) => return Err("it has no access token".into()),
    };
    if access_token.expose().chars().any(char::is_control) {
        return Err("its access token has control characters".into());
    }
    if kind == Kind::Oauth && is_placeholder(&access_token) {
        return Err(format!("its access token is a placeholder, `{}`", access_token.expose()));
    }
    let issuer = match (text(fields.issuer), text(fields.token_endpoint)) {
        (Some(issuer), Some(token_endpoint)) => {
            let url =
                |text: &str| http::endpoint(text).map_err(|_| "it names an endpoint that must not receive tokens");
            Some(Box::new(Endpoints {
                issuer,
                device_authorization_endpoint: None,
                token_endpoint: url(&token_endpoint)?,
                revocation_endpoint: text(fields.revocation_endpoint).as_deref().map(url).transpose()?,
                client_auth: fields.client_auth.unwrap_or_default(),
            }))
        }
        _ => None,
    };
    Ok(Some(Credential {
        kind,
        access_token,
        refresh_token: filled(tokens.refresh_token),
        token_type: text(tokens.token_type).unwrap_or_else(|| "Bearer".into()),
        expires_at: tokens.expiry_date.map(from_milliseconds),
        resource_url: text(tokens.resource_url),
        provider: text(fields.provider),
        model: text(fields.model),
        base_url: text(fields.base_url),
        created_at: text(fields.created_at),
        machine: text(fields.machine),
        secret_store,
        command,
        entry,
        issuer,
        identity,
    }))
}

/// Editors of other systems put it before the text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

/// Placeholders that test set-ups and templates use for a token. They are not secret and may be shown.
fn is_placeholder(token: &Secret) -> bool {
    let token = token.expose().to_ascii_lowercase();
    let plain = token.len() <= 40 && token.bytes().all(|byte| byte.is_ascii_alphabetic() || b"_-".contains(&byte));
    plain && ["dummy", "placeholder", "your_", "your-"].iter().any(|start| token.starts_with(start))
}

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

/// Where and how the JSON is wrong, without repeating any of it.
fn problem(error: &serde_json::Error) -> String {
    let at = format!("line {}, column {}", error.line(), error.column());
    match error.classify() {
        serde_json::error::Category::Eof => format!("it is truncated ({at})"),
        serde_json::error::Category::Data => format!("a field has the wrong type ({at})"),
        _ => format!("it is not valid JSON ({at})"),
    }
}

fn from_milliseconds(milliseconds: f64) -> SystemTime {
    /// Far beyond any token, well within what a `SystemTime` holds.
    const YEAR_9999: f64 = 253_402_300_799_000.0;
    let seconds = milliseconds.clamp(0.0, YEAR_9999) / 1000.0;
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs_f64(seconds)
}

fn to_milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A credential file in memory, wiped when dropped.
#[derive(Default)]
pub(crate) struct CredentialDocument(Map<String, Value>);

impl CredentialDocument {
    /// The old version, all of it: stricter than [`read`], which ignores what other programs add.
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
        self.0.insert("expiry_date".into(), to_milliseconds(now + grant.expires_in).into());
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
    fn damage_is_described_and_never_repeated() {
        let refused = |bytes: &[u8]| read(bytes, Format::Own).map(|_| ()).unwrap_err();
        assert_eq!(refused(b" "), "it is empty");
        assert_eq!(refused(br#"{"access_token":"sec"#), "it is truncated (line 1, column 20)");
        assert_eq!(refused(b"secret"), "it is not valid JSON (line 1, column 1)");
        assert_eq!(
            refused(br#"{"access_token":"secret","expiry_date":"1"}"#),
            "a field has the wrong type (line 1, column 42)"
        );
        assert_eq!(refused(br#"["secret"]"#), "a field has the wrong type (line 1, column 10)");
        assert_eq!(refused(br#"{"refresh_token":"secret"}"#), "it has no access token");
        assert!(read(b"{}", Format::Own).unwrap().is_none());
    }

    #[test]
    fn only_words_are_placeholders() {
        for (token, placeholder) in [
            ("dummy_access_token", true),
            ("DUMMY-TOKEN", true),
            ("placeholder", true),
            ("your_token_here", true),
            ("dummy7Qx", false),
            ("Yourself", false),
            ("at-1", false),
        ] {
            assert_eq!(is_placeholder(&Secret::new(token.into())), placeholder, "{token}");
        }
    }

    #[test]
    fn whatever_a_document_holds_is_wiped() {
        let mut value = serde_json::json!({"a": "1", "b": ["2", {"c": "3"}], "d": 4});
        wipe(&mut value);
        assert_eq!(value, serde_json::json!({"a": "", "b": ["", {"c": ""}], "d": 4}));
    }

    proptest::proptest! {
        #[test]
        fn reading_never_panics_and_never_repeats(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = read(&bytes, Format::Own);
        }
    }
}
