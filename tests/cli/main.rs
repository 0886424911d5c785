//! The real program against a real home directory and a server on loopback; every test is a sentence about it.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails where it stands, and plays the other programs that touch the files"
)]
#![cfg(unix)]

mod architecture;
mod env;
mod exec;
mod files;
mod login;
mod logout;
mod places;
mod processes;
mod qr;
mod refresh;
mod sandbox;
mod server;
mod status;
mod token;
