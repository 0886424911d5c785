//! The practice provider: everything `qwenauth` needs to be tried, on this machine, with no account.
//!
//! ```text
//! commands/sandbox.rs   provider · inside · a program or the tour · clean up
//! provider.rs           the HTTP server: who may ask, how much, which answer
//! oauth.rs              device codes, tokens, grants: Qwen's dialect of RFC 8628, without HTTP
//! keys.rs               providers with API keys: which keys, which models
//! page.rs               the page on which a person approves
//! model.rs              an OpenAI-compatible model that echoes; messages.rs: the same in Anthropic's words
//! inside.rs             directories and environment of what runs inside
//! tour.rs               every command with its real output
//! ```
//!
//! Hazard: any page open in the user's browser can send requests to a port of this machine.
//! Rule: `provider.rs` listens on 127.0.0.1 alone and answers only to its own `Host`; `page.rs` takes a decision only
//! from its own form.

mod inside;
mod keys;
mod messages;
mod model;
mod oauth;
mod page;
mod provider;
pub(crate) mod tour;

pub(crate) use inside::Inside;
pub(crate) use provider::{PracticeProvider, SandboxOptions};
