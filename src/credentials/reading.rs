//! Reads a credential file: Qwen Code's format, an API key, or where the secret is if it is not in the file.
//!
//! Hazard: a file that is damaged, or a field that another program put there under a name of ours, is taken for a credential.
//! Rule: what does not have the form of its field is an error, which never repeats the content. In Qwen Code's file only the
//! fields of its format are read.

use std::time::SystemTime;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::document::CredentialDocument;
use super::{Credential, Identity, Kind};
use crate::http;
use crate::oauth::{ClientAuth, Endpoints};
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
    let tokens: Tokens = fields_of(bytes)?;
    let fields = match format {
        Format::Own => fields_of(bytes)?,
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

/// A field that occurs twice counts where it occurs last, as for the `JSON.parse` of Qwen Code.
fn fields_of<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).or_else(|error| {
        let document = CredentialDocument::parse(bytes).ok();
        let once = document.and_then(|document| document.to_bytes().ok());
        once.and_then(|once| serde_json::from_slice(&once).ok()).ok_or_else(|| problem(&error))
    })
}

/// Editors of other systems put it before the text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

pub(super) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

/// Placeholders that test set-ups and templates use for a token. They are not secret and may be shown.
fn is_placeholder(token: &Secret) -> bool {
    let token = token.expose().to_ascii_lowercase();
    let plain = token.len() <= 40 && token.bytes().all(|byte| byte.is_ascii_alphabetic() || b"_-".contains(&byte));
    plain && ["dummy", "placeholder", "your_", "your-"].iter().any(|start| token.starts_with(start))
}

/// Where and how the JSON is wrong, without repeating any of it.
pub(super) fn problem(error: &serde_json::Error) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_field_that_occurs_twice_counts_where_it_occurs_last() {
        let bytes = br#"{"access_token":1,"expiry_date":1,"access_token":"at","x":1,"expiry_date":2000,"x":2}"#;
        for format in [Format::Own, Format::QwenCode] {
            let credential = read(bytes, format).unwrap().unwrap();
            assert_eq!(credential.access_token.expose(), "at");
            assert_eq!(credential.expires_at, Some(from_milliseconds(2000.0)));
        }
        let wrong = br#"{"access_token":"at","access_token":1}"#;
        assert!(read(wrong, Format::Own).unwrap_err().starts_with("a field has the wrong type"));
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

    proptest::proptest! {
        #[test]
        fn reading_never_panics_and_never_repeats(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = read(&bytes, Format::Own);
        }
    }
}
