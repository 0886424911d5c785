//! OpenRouter's login: PKCE in a browser that ends with an API key, by a loopback callback or by pasting a code.

use std::io::{BufRead, stdin};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use serde_json::json;
use url::Url;

use super::{Attempt, key};
use crate::commands::{print_json, rfc3339};
use crate::error::{Failed, Failure};
use crate::oauth::code::{self, Callback};
use crate::oauth::pkce::Pkce;
use crate::providers::Authorize;
use crate::secret::Secret;
use crate::terminal::{self, Countdown};

/// How long the codes of OpenRouter are good for, as documented.
const LIFETIME: Duration = Duration::from_secs(600);

pub(super) fn log_in(attempt: &Attempt) -> Result<()> {
    if let Some(found) = key::offered(attempt)? {
        return key::store(attempt, found);
    }
    let Some(authorize) = &attempt.provider.authorize else { return key::log_in(attempt) };
    let has_browser = attempt.surroundings.has_browser() && !attempt.args.no_browser && !attempt.args.code_stdin;
    if !has_browser && !attempt.args.code_stdin && !terminal::can_prompt() {
        return Failed::new(Failure::Usage, "there is no browser to log in with, and no terminal to paste a code at")
            .hint("give the code with `--code-stdin`, or a key with `--api-key-stdin` or `--api-key-env VAR`")
            .err();
    }
    let pkce = Pkce::new();
    let deadline = Instant::now() + attempt.args.timeout.map_or(LIFETIME, |timeout| timeout.min(LIFETIME));
    let code = if has_browser {
        by_callback(attempt, authorize, &pkce, deadline)?
    } else {
        by_pasting(attempt, authorize, &pkce, deadline)?
    };
    let secret = code::exchange(&authorize.exchange, &code, &pkce, &attempt.account.network)?;
    key::store(attempt, key::clean(secret.expose())?)
}

fn by_callback(attempt: &Attempt, authorize: &Authorize, pkce: &Pkce, deadline: Instant) -> Result<Secret> {
    let callback = Callback::listen()?;
    let url = code::authorize_url(&authorize.url, pkce, Some(&callback.url()), &extra(attempt))?;
    show(attempt, &url, deadline)?;
    attempt.open_browser(url.as_str());
    let _countdown = Countdown::start("Waiting for your approval in the browser", deadline);
    callback.wait(deadline)
}

fn by_pasting(attempt: &Attempt, authorize: &Authorize, pkce: &Pkce, deadline: Instant) -> Result<Secret> {
    let url = code::authorize_url(&authorize.url, pkce, None, &extra(attempt))?;
    show(attempt, &url, deadline)?;
    let code =
        if attempt.args.code_stdin { read_line(deadline)? } else { terminal::hidden("Code (10 minutes)", false)? };
    let code = code.expose().trim();
    if code.is_empty() || code.chars().any(|character| character.is_control() || character.is_whitespace()) {
        return Failed::new(Failure::Usage, "that is no code: it is empty or has white space in it")
            .hint("paste the code as the page shows it")
            .err();
    }
    Ok(Secret::new(code.to_owned()))
}

/// What the page is told of the key it makes.
fn extra(attempt: &Attempt) -> Vec<(&'static str, String)> {
    let label = attempt.args.key_label.clone().unwrap_or_else(|| "qwenauth".into());
    let mut extra = vec![("key_label", label)];
    extra.extend(attempt.args.limit.clone().map(|limit| ("limit", limit)));
    extra
}

fn show(attempt: &Attempt, url: &Url, deadline: Instant) -> Result<()> {
    if attempt.args.json {
        let expires_at = rfc3339(SystemTime::now() + deadline.saturating_duration_since(Instant::now()));
        print_json(&json!({"event": "authorize_url", "url": url.as_str(), "expires_at": expires_at}))?;
    }
    terminal::say("Open this address in a browser:\n\n");
    terminal::say(url.as_str());
    terminal::say(&format!(
        "\n{} asks you to approve this login. Approve it only if you started this.",
        url.host_str().unwrap_or_default()
    ));
    Ok(())
}

/// One line of stdin; reading it cannot be interrupted, so a thread waits for it.
fn read_line(deadline: Instant) -> Result<Secret> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let read = stdin().lock().read_line(&mut line);
        let _ = sender.send(read.map(|_| Secret::new(line)));
    });
    match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(line) => Ok(line?),
        Err(_) => Failed::new(Failure::LoginRequired, "no code came in time").hint("run the login again").err(),
    }
}
