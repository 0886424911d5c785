//! `gateway`, `exec --gateway` and `usage`, against a provider that behaves and one that does not.

mod access;
mod anthropic;
mod beside;
mod credential;
mod fallback;
mod faults;
mod hardening;
mod hooks;
pub(crate) mod issuers;
mod limits;
mod listener;
mod network;
mod passing;
mod refusals;
mod running;
mod service;
pub(crate) mod team_keys;
pub(crate) mod upstream;
