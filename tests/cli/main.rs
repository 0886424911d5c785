#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]
//! The real program against a real home directory.

mod generated;
mod practice;
mod shells;
