//! `doctor`: look for what keeps a login from working, one line a check, each with its remedy.
//!
//! Hazard: its output is pasted into public threads. Rule: no check sees a secret it could print, and the home directory
//! is shown as `~`.

mod environment;
mod network;
mod proxy;
mod remains;
mod storage;

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::print;
use crate::cli::DoctorArgs;
use crate::error::{Report, printable};
use crate::paths;
use crate::session::Session;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// The outcome of one check.
struct Check {
    name: &'static str,
    verdict: Verdict,
    message: String,
    remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, message: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, message: message.into(), remedy: None }
    }

    fn warn(name: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, message: message.into(), remedy: Some(remedy.into()) }
    }

    fn fail(name: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, message: message.into(), remedy: Some(remedy.into()) }
    }

    /// What was wrong and has been repaired.
    fn fixed(name: &'static str, message: impl Into<String>) -> Self {
        Self::ok(name, format!("fixed: {}", message.into()))
    }

    fn json(&self, home: &Path) -> Value {
        json!({
            "name": self.name,
            "status": self.verdict.name(),
            "message": without_home(&self.message, home),
            "remedy": self.remedy.as_ref().map(|remedy| without_home(remedy, home)),
        })
    }

    fn text(&self, home: &Path) -> String {
        let line = format!("{:<5} {:<12} {}\n", self.verdict.name(), self.name, without_home(&self.message, home));
        match &self.remedy {
            Some(remedy) => line + &format!("{:<18} → {}\n", "", without_home(remedy, home)),
            None => line,
        }
    }
}

pub(crate) fn run(args: &DoctorArgs, session: impl FnOnce() -> Result<Session>) -> Result<u8> {
    let mut home = std::path::PathBuf::new();
    let checks = match session() {
        Ok(session) => {
            home = paths::home(&session.environment).unwrap_or_default();
            let mut checks = vec![Check::ok("version", concat!("qwenauth ", env!("CARGO_PKG_VERSION")))];
            checks.extend(storage::check(&session, args.fix));
            checks.extend(environment::check(&session));
            checks.extend(network::check(&session));
            checks
        }
        Err(error) => {
            let report = Report::of(&error);
            let remedy = report.hint.unwrap_or_else(|| "nothing else was checked; mend this first".into());
            vec![Check::fail("config", report.message, remedy)]
        }
    };
    if args.json {
        let rows: Vec<Value> = checks.iter().map(|check| check.json(&home)).collect();
        print(&format!("{:#}\n", json!({"schema": 1, "checks": rows})))?;
    } else {
        print(&checks.iter().map(|check| check.text(&home)).collect::<String>())?;
    }
    Ok(u8::from(checks.iter().any(|check| check.verdict == Verdict::Fail)))
}

fn without_home(text: &str, home: &Path) -> String {
    let text = printable(text);
    match home.to_str().filter(|home| home.len() > 1) {
        Some(home) => text.replace(home, "~"),
        None => text,
    }
}
