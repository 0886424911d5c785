//! Access tokens on the server: published, encrypted, by the home of a login, for the edges that use them.
//!
//! Hazard: a server that was emptied, restored or failed over returns an older token than the gateways have. Rule:
//! each token has a generation; a lower one never replaces a higher one, here or at an edge.

use std::sync::LazyLock;

use redis::Script;
use serde_json::json;

use super::Shared;
use super::link::Link;
use crate::limits::together::{Looked, Watched};

static PUBLISH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("publish_token.lua")));
static WATCH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("watch_token.lua")));
static LOOK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("look_token.lua")));
static WANT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("want_token.lua")));

/// The tokens of one profile's login.
pub(crate) struct SharedToken<'shared> {
    link: &'shared Link,
    token: String,
    want: String,
    home: String,
}

impl Shared {
    pub(crate) fn token_of(&self, profile: &str) -> SharedToken<'_> {
        let name = |kind: &str| self.link.names.of(&[kind, ":", profile].concat());
        SharedToken { link: &self.link, token: name("tok"), want: name("want"), home: name("home") }
    }
}

impl SharedToken<'_> {
    /// Publishes a token unless a newer one is there. `left`: its remaining lifetime in milliseconds. `None`: the
    /// server is unreachable.
    pub(crate) async fn publish(self, generation: u64, sealed: &str, left: u64) -> Option<u64> {
        let said = json!({ "generation": generation, "sealed": sealed, "left": left });
        self.link.run(&PUBLISH, &[self.token], &said).await
    }

    /// Reports that this machine, `home`, is the home of a profile, and reads what edges need. `id` distinguishes it
    /// from others.
    pub(crate) async fn watch(self, id: &str, home: &str) -> Option<Watched> {
        let names = [self.token, self.want, self.home];
        self.link.run(&WATCH, &names, &json!({ "id": id, "home": home })).await
    }

    /// Requests the token. `known`: a generation that need not be sent again.
    pub(crate) async fn look(self, known: u64) -> Option<Looked> {
        self.link.run(&LOOK, &[self.token, self.home], &json!({ "known": known })).await
    }

    /// Requests a newer token from the home than that of `generation`.
    pub(crate) async fn want(self, generation: u64) -> Option<u64> {
        self.link.run(&WANT, &[self.want], &json!({ "generation": generation })).await
    }
}
