//! The program's own sources, taken in by path, and what must hold for any bytes that reach them.

#![expect(dead_code, unused_imports, clippy::disallowed_methods, reason = "only what reads foreign bytes is used here")]

#[path = "../../src/credentials/mod.rs"]
mod credentials;
#[path = "../../src/error.rs"]
mod error;
#[path = "../../src/files/mod.rs"]
mod files;
#[path = "../../src/http.rs"]
mod http;
#[path = "../../src/lock.rs"]
mod lock;
#[path = "../../src/oauth/mod.rs"]
mod oauth;
#[path = "../../src/providers/mod.rs"]
mod providers;
#[path = "../../src/secret.rs"]
mod secret;
#[path = "../../src/signals.rs"]
mod signals;

use std::time::SystemTime;

use credentials::document::{self, Document};
use oauth::code;
use oauth::reply::{self, Answer};

/// Damage is described in words of our own; a file that can be read survives a renewal and can be read again.
pub fn credential_file(bytes: &[u8]) {
    match document::read(bytes) {
        Err(said) => assert!(said.len() < 200 && !said.contains('\n')),
        Ok(None) => {}
        Ok(Some(_)) => {
            let Answer::Grant(grant) = token_reply_of(200, br#"{"access_token":"a","refresh_token":"r"}"#) else {
                unreachable!("a grant");
            };
            let mut document = Document::parse(bytes);
            document.renew(&grant, SystemTime::UNIX_EPOCH);
            let written = document.to_bytes().expect("what was read can be written");
            let again = document::read(&written).expect("what was written can be read").expect("a credential");
            assert_eq!(again.access_token.expose(), "a");
        }
    }
}

fn token_reply_of(status: u16, body: &[u8]) -> Answer {
    reply::read(&http::Reply { status, content_type: "application/json".into(), body: body.to_vec().into(), date: None })
}

/// The first two bytes are the status. A grant has a token; an error says nothing that a terminal obeys.
pub fn token_reply(bytes: &[u8]) {
    let Some((status, body)) = bytes.split_first_chunk::<2>() else { return };
    match token_reply_of(u16::from_le_bytes(*status), body) {
        Answer::Grant(grant) => {
            assert!(!grant.access_token.expose().is_empty());
            let _ = SystemTime::now() + grant.expires_in;
        }
        Answer::Error(error) => assert!(!error.sentence(&[]).chars().any(char::is_control)),
        Answer::Pending | Answer::NotOauth(_) => {}
    }
}

/// Only the path with the nonce has an outcome.
pub fn callback(bytes: &[u8]) {
    let Ok(target) = std::str::from_utf8(bytes) else { return };
    let path = "/callback/nonce";
    if code::outcome_of(target, path).is_some() {
        assert!(target.contains("callback") || target.contains('%'), "{target}");
    }
}
