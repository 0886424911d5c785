//! `login`: get a credential, store it, prove it.

use std::io::{IsTerminal, stderr};
use std::time::{Instant, SystemTime};

use anyhow::Result;
use serde_json::json;

use super::{Endpoint, Setting, print_json, rfc3339};
use crate::cli::{LoginArgs, Qr, variable};
use crate::credentials::{Account, Credential, Proof, State, Stored};
use crate::error::{Failed, Failure, Report, note, printable};
use crate::oauth::device::{self, Authorization};
use crate::providers::{self, Provider, QWEN};
use crate::terminal::{self, Countdown, Draw};

pub(crate) fn run(args: &LoginArgs, setting: &Setting) -> Result<()> {
    let outcome = log_in(args, setting);
    if let (true, Err(error)) = (args.json, &outcome) {
        let report = Report::of(error);
        print_json(&json!({"event": "error", "kind": report.failure.name(), "message": report.message}))?;
    }
    outcome
}

fn log_in(args: &LoginArgs, setting: &Setting) -> Result<()> {
    let provider = providers::find(args.provider.as_deref().unwrap_or(QWEN), &setting.config.overrides)?;
    let account = setting.account();
    if !args.force
        && let Some(credential) = existing(&account)?
    {
        let said = format!("already logged in to {} as profile `{}`", provider.title, account.profile);
        if !terminal::can_prompt() {
            note(&format!("{said}; `--force` logs in again"));
            return if args.json { announce(&account, &credential, false) } else { Ok(()) };
        }
        if !terminal::confirm(&format!("{said}. Log in again?"))? {
            return Ok(());
        }
    }
    account.check_writable()?;
    let credential = device_flow(args, &provider, &account)?;
    activate(setting)?;
    if args.no_verify {
        return finish(args, &account, &credential, false);
    }
    prove(args, &account, &provider, &credential)
}

/// A login that works: valid, or renewed just now. A renewal that fails leaves the question to a new login.
fn existing(account: &Account) -> Result<Option<Credential>> {
    let stored = account.load()?;
    let state = account.state_of(&stored);
    let Stored::Present(credential) = stored else { return Ok(None) };
    match state {
        State::Valid => Ok(Some(credential)),
        State::Refreshable => Ok(account.renew(&credential).ok()),
        _ => Ok(None),
    }
}

fn device_flow(args: &LoginArgs, provider: &Provider, account: &Account) -> Result<Credential> {
    let server = provider.server()?;
    if let Some(text) = &provider.note {
        note(text);
    }
    let authorization = device::request(&server, account.network())?;
    let expires = Instant::now() + authorization.expires_in;
    let deadline = args.timeout.map_or(expires, |timeout| expires.min(Instant::now() + timeout));
    show(args, &authorization, server.token_endpoint.host_str().unwrap_or_default())?;
    open_browser(args, &authorization);
    let countdown = Countdown::start("Waiting for your approval", deadline);
    let granted = authorization.wait(&server, deadline);
    drop(countdown);
    account.log_in(provider, &granted?, args.model.as_deref())
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

/// Only in a graphical session of this machine: not over SSH, not in CI, not where nobody looks.
fn open_browser(args: &LoginArgs, authorization: &Authorization) {
    let set = |name: &str| variable(name).is_some();
    let graphical = cfg!(target_os = "macos") || set("DISPLAY") || set("WAYLAND_DISPLAY") || set("BROWSER");
    let remote = set("SSH_CONNECTION") || set("SSH_TTY") || set("SSH_CLIENT");
    if args.no_browser || !graphical || remote || set("CI") {
        return;
    }
    if let Err(error) = terminal::open_browser(authorization.url()) {
        note(&format!("no browser opened ({error:#}); open the address yourself"));
    }
}

fn activate(setting: &Setting) -> Result<()> {
    if let Some(before) = setting.config.activate(&setting.profile)? {
        note(&format!("`{}` is the active profile now; it was `{before}`", setting.profile));
    }
    Ok(())
}

/// The last word on a login: does the API serve it?
fn prove(args: &LoginArgs, account: &Account, provider: &Provider, credential: &Credential) -> Result<()> {
    match account.prove(credential)? {
        Proof::Accepted => finish(args, account, credential, true),
        Proof::Unclear(why) => {
            note(&format!("warning: logged in, but the API could not be asked: {why}"));
            finish(args, account, credential, false)
        }
        Proof::Refused(why) => {
            finish(args, account, credential, false)?;
            let failed = Failed::new(
                Failure::Other,
                format!("the login to {} worked and is stored, but the API refuses it: {why}", provider.title),
            );
            match &provider.note {
                Some(text) => failed.hint(text.clone()).err(),
                None => failed.hint("check the account's plan and quota with the provider").err(),
            }
        }
    }
}

fn finish(args: &LoginArgs, account: &Account, credential: &Credential, verified: bool) -> Result<()> {
    if args.json {
        return announce(account, credential, verified);
    }
    let endpoint = Endpoint::of(account, credential, None)?;
    let proved = if verified { "logged in" } else { "logged in, not verified" };
    note(&format!("{proved}: profile `{}`, {}", account.profile, endpoint.base_url));
    Ok(())
}

fn announce(account: &Account, credential: &Credential, verified: bool) -> Result<()> {
    print_json(&json!({
        "event": "logged_in",
        "profile": account.profile,
        "provider": account.provider(credential)?.name,
        "expires_at": credential.expires_at.and_then(rfc3339),
        "verified": verified,
    }))
}
