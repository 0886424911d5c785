//! Gateways of several machines that count together, on a real server of Redis. The judge is the log of the
//! provider.

#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails where it stands, and plays the other programs that take part"
)]

mod cli {
    #[allow(dead_code, reason = "each test program uses its part of it")]
    pub(crate) mod support;
}
mod team {
    mod edges;
    mod jobs;
    mod keys;
    mod limits;
    mod lost;
    mod machine;
    mod provider;
    mod table;
}
