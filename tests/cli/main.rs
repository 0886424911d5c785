//! The real program against a real home directory and a server on loopback; every test is a sentence about it.

#![cfg(unix)]
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test fails where it stands, and plays the other programs that touch the files"
)]

mod architecture;
mod believed;
mod ci;
mod claims;
mod completion;
mod copied;
mod device_flow;
mod directories;
mod doctor;
mod documents;
mod env;
mod environment_key;
mod exec;
mod faults;
mod files;
mod foreign_fields;
mod gateway;
mod generated;
mod granted;
mod help;
mod hosts;
mod issuer;
mod json_fields;
mod key_command;
mod key_file;
mod key_places;
mod keyring;
mod keys;
mod known_programs;
mod log;
mod login;
mod login_again;
mod login_choice;
mod logout;
mod memory;
mod messages;
mod names;
mod native;
mod openrouter;
mod origin;
mod pending;
mod places;
mod practice;
mod processes;
mod profiles;
mod prompts;
mod providers;
mod proxies;
mod published;
mod qr;
mod recipes;
mod refresh;
mod refresh_failures;
mod refused_by_api;
mod screens;
mod setup;
mod setup_files;
mod shells;
mod short_lived;
mod shown;
mod ssh;
mod status;
#[allow(dead_code, reason = "each test program uses its part of it")]
mod support;
mod team;
mod terminal;
mod token;
mod walk;
mod workload;

use support::{machine, pseudo_terminal, run, server};
