//! Gateways of several machines that count together, on a real server of Redis. The judge is the log of a provider that is a
//! process of its own.

#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::exit,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails where it stands, and plays the other programs that take part"
)]

mod edges;
mod jobs;
mod keys;
mod limits;
mod lost;
mod machine;
mod provider;
mod table;
