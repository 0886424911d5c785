//! Temporary entry of the branch `sandbox`.
mod cli;
mod commands {
    pub(crate) mod sandbox;
}
mod error;
mod sandbox;
use clap::Parser;
fn main() -> std::process::ExitCode {
    env_logger::init_from_env("QWENAUTH_LOG");
    let cli::Command::Sandbox(args) = cli::Cli::parse().command else { return 1.into() };
    match commands::sandbox::run(&args) {
        Ok(code) => code.into(),
        Err(error) => {
            use std::io::Write;
            let report = error::Report::of(&error);
            let _ = write!(std::io::stderr(), "{report}");
            report.failure.exit_code().into()
        }
    }
}
