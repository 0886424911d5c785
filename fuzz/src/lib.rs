//! The program's own sources and the properties of its tests, taken in by path: the program has no library by design.

#![expect(dead_code, unused_imports, clippy::disallowed_methods, reason = "only what reads foreign bytes is used here")]

#[path = "../../src/cli/mod.rs"]
mod cli;
#[path = "../../src/config.rs"]
mod config;
#[path = "../../src/credentials/mod.rs"]
mod credentials;
#[path = "../../src/error.rs"]
mod error;
#[path = "../../src/files/mod.rs"]
mod files;
/// Those of its files that read what a provider sends.
#[path = "../../src/gateway"]
mod gateway {
    pub(crate) mod meter;
    pub(crate) mod verdict;
}
#[path = "../../src/http.rs"]
mod http;
#[path = "../../src/lock.rs"]
mod lock;
#[path = "../../src/oauth/mod.rs"]
mod oauth;
#[path = "../../tests/properties/mod.rs"]
mod properties;
#[path = "../../src/providers/mod.rs"]
mod providers;
#[path = "../../src/secret.rs"]
mod secret;
#[path = "../../src/signals.rs"]
mod signals;

/// Panics where the property called `name` does not hold for `bytes`.
pub fn check(name: &str, bytes: &[u8]) {
    let (_, property) = properties::PROPERTIES.into_iter().find(|(known, _)| *known == name).expect("a property");
    property(bytes);
}
