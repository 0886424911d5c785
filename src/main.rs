//! placeholder until the core lands
#![allow(dead_code)]
mod cli;
mod commands;
mod error;
mod secret;
mod shell;

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    let cli = cli::Cli::parse();
    let result = match &cli.command {
        cli::Command::Env(args) => commands::env::run(args, || account(args)),
        cli::Command::Completions(args) => commands::completions::run(args),
        cli::Command::Man { directory } => commands::man::run(directory),
        _ => Ok(()),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            let report = error::Report::of(&error);
            use std::io::Write as _;
            let _ = write!(std::io::stderr(), "{report}");
            std::process::ExitCode::from(report.failure.exit_code())
        }
    }
}

fn account(args: &cli::EnvArgs) -> anyhow::Result<[shell::Variable; 6]> {
    let login = || error::Failed::new(error::Failure::LoginRequired, "not logged in");
    let path = std::path::PathBuf::from(cli::variable("HOME").ok_or_else(login)?).join(".qwen/oauth_creds.json");
    let text = std::fs::read(path).map_err(|_| login())?;
    let file: serde_json::Value = serde_json::from_slice(&text).map_err(|_| login())?;
    let key = secret::Secret::new(file["access_token"].as_str().unwrap_or_default().to_owned());
    Ok(shell::openai(&key, "https://portal.qwen.ai/v1", Some(args.model.as_deref().unwrap_or("coder-model"))))
}
