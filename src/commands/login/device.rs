//! A login by the device flow: show the code, wait for a person, store, prove.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use serde_json::json;

use super::Attempt;
use super::existing::working_login;
use super::screen::{self, Waiting};
use crate::commands::print_json;
use crate::credentials::{
    Credential, CredentialSource, PendingLogin, Stored, Verification, VerificationRequest, login_server, store_grant,
    store_model, verify,
};
use crate::epoch;
use crate::error::{Failed, Failure, Reason, note, printable};
use crate::http::{self, Network};
use crate::oauth::device::{self, Authorization};
use crate::oauth::{AuthorizationServer, not_in_time};
use crate::platform::lock::FileLock;
use crate::platform::signals::DeferredSignals;
use crate::providers::Practice;
use crate::terminal::{self, Countdown};

/// How often a process that waits looks up: at signals, at the other process.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The practice provider is on this machine.
const APPROVAL_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn log_in(attempt: &Attempt) -> Result<()> {
    let Attempt { args, source, provider, keep_in, .. } = attempt;
    let (server, found) = login_server(source, provider)?;
    let before = stored(source)?;
    // From here to the stored login a signal is deferred, and handled when this is dropped: nothing is left half done.
    let held = DeferredSignals::new();
    let mut remarks = Vec::new();
    let (authorization, joined) = begin(attempt, &server, &mut remarks)?;
    let expires = Instant::now() + authorization.expires_in;
    let deadline = args.timeout.map_or(expires, |timeout| expires.min(Instant::now() + timeout));
    show(attempt, &authorization, server.token_endpoint.host_str().unwrap_or_default(), &remarks)?;
    if args.no_wait {
        note(&format!("waiting for approval; finish with `{}`", attempt.line_to_resume()));
        return Ok(());
    }
    let opened = !joined && authorization.may_be_opened() && attempt.open_browser(authorization.url());
    if let Some(practice) = &attempt.session.config.overrides.practice
        && !opened
        && terminal::can_prompt()
    {
        approve_here(practice, &source.network, &authorization)?;
    }
    let countdown = Countdown::start("Waiting for your approval", deadline);
    let lock = match wait_for_turn(attempt, &server, before.as_ref(), deadline)? {
        PollTurn::Ours(lock) => lock,
        PollTurn::Done(credential) => {
            drop(countdown);
            note("another process completed this login");
            return conclude(attempt, &credential);
        }
    };
    let granted = authorization.wait(&server, deadline, pause);
    drop(countdown);
    if granted.is_err() && DeferredSignals::noted() {
        if !joined {
            forget(source);
        }
        // A login that was there before stays for the next who resumes it.
        drop(lock);
        drop(held);
        return granted.map(drop);
    }
    if granted.is_err() && joined && Instant::now() >= deadline && deadline < expires {
        // Only this process's `--timeout` has passed; the login may still be approved.
        return granted.map(drop);
    }
    let stored = granted.and_then(|grant| {
        store_grant(source, provider, &grant, (&server, found.as_ref()), args.model.as_deref(), *keep_in)
    });
    // Not before it is stored: a process that waits for the lock expects one or the other.
    forget(source);
    drop(lock);
    let credential = stored?;
    drop(held);
    conclude(attempt, &credential)
}

fn conclude(attempt: &Attempt, credential: &Credential) -> Result<()> {
    credential.base_url(&attempt.provider).context("the login is stored, but cannot be used")?;
    let verification = if attempt.args.no_verify { None } else { Some(verify(&attempt.source, credential)?) };
    attempt.conclude(credential, verification)
}

/// Stores another model with a login that stays, once the API serves it.
pub(super) fn change_model(attempt: &Attempt) -> Result<()> {
    let Attempt { args, source, provider, .. } = attempt;
    let (Some(model), Some(mut credential)) = (args.model.as_deref(), working_login(source)?) else {
        return log_in(attempt);
    };
    if !args.no_verify {
        let base_url = credential.base_url(provider)?;
        let token = &credential.access_token;
        let request =
            VerificationRequest { provider, base_url: &base_url, token, model: Some(model), network: &source.network };
        match request.ask()? {
            Verification::Refused(why) | Verification::Exhausted(why) => {
                let message =
                    format!("{} does not serve `{model}` to this login: {why}; nothing was changed", provider.title);
                return Failed::new(Failure::LoginRequired, message)
                    .because(Reason::Refused)
                    .hint("add `--no-verify` to store it anyway")
                    .err();
            }
            Verification::Unclear(why) => {
                return why
                    .reworded(|why| format!("cannot verify the model: {why}; nothing was changed"))
                    .or_hint("retry later, or add `--no-verify` to store it unverified")
                    .err();
            }
            Verification::Accepted | Verification::Unverifiable(_) => {}
        }
    }
    credential = store_model(source, model)?;
    let verification = (!args.no_verify).then_some(Verification::Accepted);
    attempt.conclude(&credential, verification)
}

/// The pending login, or a new one. Returns whether it was pending.
fn begin(attempt: &Attempt, server: &AuthorizationServer, remarks: &mut Vec<String>) -> Result<(Authorization, bool)> {
    let Attempt { args, source, provider, .. } = attempt;
    let _lock = PendingLogin::of(source).lock_start()?;
    if let Some(pending) = PendingLogin::of(source).read(server)? {
        remark(remarks, "a login is already pending; showing the same code");
        return Ok((pending, true));
    }
    if args.resume {
        return attempt.nothing_pending();
    }
    if let Some(text) = &provider.note {
        remark(remarks, text);
    }
    let authorization = device::request(server, &source.network, DeferredSignals::noted)?;
    PendingLogin::of(source).keep(&provider.name, server, &authorization)?;
    Ok((authorization, false))
}

/// Prints a remark at once, or on a terminal together with the code.
fn remark(remarks: &mut Vec<String>, text: &str) {
    if screen::shows_remarks() { remarks.push(text.to_owned()) } else { note(text) }
}

enum PollTurn {
    /// This process polls, under the lock.
    Ours(FileLock),
    /// Another process has completed the login.
    Done(Credential),
}

/// Waits while another process polls for the same login.
fn wait_for_turn(
    attempt: &Attempt,
    server: &AuthorizationServer,
    before: Option<&Credential>,
    deadline: Instant,
) -> Result<PollTurn> {
    let source = &attempt.source;
    loop {
        let lock = PendingLogin::of(source).try_lock_poll()?;
        if PendingLogin::of(source).read(server)?.is_none()
            && let Some(credential) = stored(source)?
            && before.is_none_or(|before| before.access_token != credential.access_token)
        {
            return Ok(PollTurn::Done(credential));
        }
        if let Some(lock) = lock {
            return Ok(PollTurn::Ours(lock));
        }
        if DeferredSignals::noted() || Instant::now() >= deadline {
            return not_in_time().err();
        }
        thread::sleep(POLL_INTERVAL);
    }
}

fn stored(source: &CredentialSource) -> Result<Option<Credential>> {
    Ok(match source.load()? {
        Stored::Present(credential) => Some(credential),
        Stored::Missing | Stored::Damaged(_) => None,
    })
}

/// The outcome is already decided, so failing to delete the pending file is only a warning.
fn forget(source: &CredentialSource) {
    if let Err(error) = PendingLogin::of(source).forget() {
        note(&format!("warning: cannot remove the record of the pending login: {error:#}"));
    }
}

/// Waits; returns `false` as soon as a signal is deferred.
fn pause(time: Duration) -> bool {
    let end = Instant::now() + time;
    while !DeferredSignals::noted() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        thread::sleep(left.min(POLL_INTERVAL));
    }
    false
}

/// In a sandbox no other device can reach the page, so the login is approved on its own terminal.
fn approve_here(practice: &Practice, network: &Network, authorization: &Authorization) -> Result<()> {
    let approved = terminal::confirm("Approve it here, as the practice account?")?;
    let url = http::endpoint(&format!("{}/approve", practice.url))?;
    let fields = [
        ("user_code", authorization.user_code.as_str()),
        ("approval", practice.approval.expose()),
        ("decision", if approved { "approve" } else { "deny" }),
    ];
    let reply = network.connect(&url)?.post_form(&url, &fields, &[], APPROVAL_TIMEOUT);
    if !reply.is_ok_and(|reply| reply.status == 200) {
        note("the practice provider did not accept that; approve the login on its page");
    }
    Ok(())
}

fn show(attempt: &Attempt, authorization: &Authorization, host: &str, remarks: &[String]) -> Result<()> {
    if attempt.args.json {
        let expires_at = epoch::rfc3339(SystemTime::now() + authorization.expires_in);
        print_json(&json!({
            "event": "device_code",
            "user_code": printable(&authorization.user_code),
            "verification_uri": printable(&authorization.verification_uri),
            "verification_uri_complete": authorization.verification_uri_complete.as_deref().map(printable),
            "expires_at": expires_at,
            "interval": authorization.interval.as_secs(),
        }))?;
    }
    let waiting = Waiting { url: authorization.url(), user_code: &authorization.user_code, host, remarks };
    attempt.approval_screen().show(&waiting)
}
