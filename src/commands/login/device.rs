//! A login by the device flow: show the code, wait for a person, store, prove.

use std::io::{IsTerminal, stderr};
use std::time::{Instant, SystemTime};

use anyhow::Result;
use serde_json::json;

use super::Attempt;
use crate::cli::{LoginArgs, Qr, variable};
use crate::commands::{print_json, rfc3339};
use crate::error::{note, printable};
use crate::oauth::device::{self, Authorization};
use crate::terminal::{self, Countdown, Draw};

pub(super) fn log_in(attempt: &Attempt) -> Result<()> {
    let Attempt { args, account, provider, .. } = attempt;
    if let Some(text) = &provider.note {
        note(text);
    }
    let (server, found) = account.login_server(provider)?;
    let authorization = device::request(&server, account.network())?;
    let expires = Instant::now() + authorization.expires_in;
    let deadline = args.timeout.map_or(expires, |timeout| expires.min(Instant::now() + timeout));
    show(args, &authorization, server.token_endpoint.host_str().unwrap_or_default())?;
    attempt.open_browser(authorization.url());
    let countdown = Countdown::start("Waiting for your approval", deadline);
    let granted = authorization.wait(&server, deadline);
    drop(countdown);
    let credential = account.log_in(provider, &granted?, found.as_ref(), args.model.as_deref())?;
    attempt.activate()?;
    if args.no_verify {
        return attempt.finish(&credential, false);
    }
    attempt.conclude(&credential, account.prove(&credential)?)
}

fn show(args: &LoginArgs, authorization: &Authorization, host: &str) -> Result<()> {
    if args.json {
        let expires_at = rfc3339(SystemTime::now() + authorization.expires_in);
        print_json(&json!({
            "event": "device_code",
            "user_code": printable(&authorization.user_code),
            "verification_uri": printable(&authorization.verification_uri),
            "verification_uri_complete": authorization.verification_uri_complete.as_deref().map(printable),
            "expires_at": expires_at,
            "interval": authorization.interval.as_secs(),
        }))?;
    }
    let when = match args.qr {
        Qr::Auto => Draw::Auto,
        Qr::Always => Draw::Always,
        Qr::Never => Draw::Never,
    };
    let web = ["http://", "https://"].iter().any(|scheme| authorization.url().starts_with(scheme));
    if web {
        terminal::draw_qr(&printable(authorization.url()), when, coloured())?;
    }
    terminal::say("Open this address on any device:\n\n");
    terminal::say(authorization.url());
    if !authorization.user_code.is_empty() {
        terminal::say(&format!("\nCode: {}", printable(&authorization.user_code)));
    }
    terminal::say(&format!("\n{host} asks you to approve this login. Approve it only if you started this."));
    Ok(())
}

fn coloured() -> bool {
    variable("CLICOLOR_FORCE").is_some() || variable("NO_COLOR").is_none() && stderr().is_terminal()
}
