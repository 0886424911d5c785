//! OpenRouter's login: PKCE in a browser that ends with an API key, by a loopback callback or by pasting a code.
//!
//! Hazard: pasted text is sent to the provider as a code, and a person who has a key pastes it. Rule: text that begins
//! like a known key is never sent as a code.

use std::io::{BufRead, stdin};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use serde_json::json;
use url::Url;

use super::{Attempt, key, key_input};
use crate::commands::print_json;
use crate::credentials::{PendingLogin, clean_key};
use crate::epoch;
use crate::error::{Failed, Failure, Reason, note};
use crate::oauth::code::{self, Callback, PendingCode};
use crate::oauth::pkce::Pkce;
use crate::platform::threads;
use crate::providers::{self, Authorize};
use crate::say::{Screen, Style};
use crate::secret::Secret;
use crate::terminal::{self, Countdown, Row};

/// Lifetime of OpenRouter's codes, as documented.
const LIFETIME: Duration = Duration::from_secs(600);

/// What a person brought back from the browser, or had already.
enum Granted {
    Code(Secret),
    Key(Secret),
}

pub(super) fn log_in(attempt: &Attempt) -> Result<()> {
    let args = attempt.args;
    let Some(authorize) = &attempt.provider.authorize else { return key::log_in(attempt) };
    if args.resume {
        return resume(attempt, authorize);
    }
    if args.no_wait {
        return begin(attempt, authorize);
    }
    if !args.code_stdin
        && let Some(found) = key_input::offered(attempt)?
    {
        return key::store_given(attempt, found);
    }
    if attempt.opens_browser() && !args.code_stdin && !args.json && terminal::can_prompt() && asks_for_key()? {
        return key::store_given(attempt, key_input::typed(attempt)?);
    }
    let pkce = Pkce::new();
    let deadline = Instant::now() + args.timeout.map_or(LIFETIME, |timeout| timeout.min(LIFETIME));
    let can_paste = args.code_stdin || terminal::can_prompt();
    let granted = if attempt.opens_browser() && !args.code_stdin || !can_paste && (args.json || args.no_browser) {
        Granted::Code(by_callback(attempt, authorize, &pkce, deadline)?)
    } else if can_paste {
        let url = code::authorize_url(&authorize.url, &pkce, None, &extra(attempt))?;
        show(attempt, url.as_str(), deadline)?;
        read(attempt, deadline)?
    } else {
        return no_way_to_paste("no browser available, and no terminal to paste a code into");
    };
    complete(attempt, authorize, granted, &pkce)
}

/// Whether a person who has a browser would rather give a key.
fn asks_for_key() -> Result<bool> {
    let screen = Screen::stderr();
    let ways = ["in a browser", "paste an API key"];
    let rows = ways.map(|way| Row { shown: screen.translate(way), names: way.to_owned() });
    let Some(chosen) = terminal::choose("How", &rows)? else {
        return Failed::new(Failure::Usage, "no login method was chosen").err();
    };
    terminal::print(&format!("? {}  {}", screen.translate("How"), screen.paint(Style::Hint, &rows[chosen].shown)));
    Ok(chosen == 1)
}

/// Shows where to approve the login and leaves it pending.
fn begin(attempt: &Attempt, authorize: &Authorize) -> Result<()> {
    let login = PendingLogin::of(&attempt.source);
    let _lock = login.lock_start()?;
    let now = SystemTime::now();
    let pending = if let Some(pending) = login.read_code(&authorize.exchange)? {
        note("a login is already pending; its address is shown again");
        pending
    } else {
        let pkce = Pkce::new();
        let url = code::authorize_url(&authorize.url, &pkce, None, &extra(attempt))?;
        let pending = PendingCode::new(&attempt.provider.name, &url, &authorize.exchange, &pkce, now + LIFETIME);
        login.keep_code(&pending)?;
        pending
    };
    show(attempt, &pending.url, Instant::now() + pending.left(now))?;
    note(&format!("the login is pending; `{}` completes it", attempt.line_to_resume()));
    Ok(())
}

/// Completes a pending login with the code that its page showed.
fn resume(attempt: &Attempt, authorize: &Authorize) -> Result<()> {
    let source = &attempt.source;
    let login = PendingLogin::of(source);
    let Some(pending) = login.read_code(&authorize.exchange)? else {
        return attempt.nothing_pending();
    };
    if !attempt.args.code_stdin && !terminal::can_prompt() {
        return no_way_to_paste("the pending login requires its code, and there is no terminal to paste it into");
    }
    let Some(_lock) = login.try_lock_poll()? else {
        return Failed::new(Failure::Temporary, "another process is completing this login").err();
    };
    let left = pending.left(SystemTime::now());
    let deadline = Instant::now() + attempt.args.timeout.map_or(left, |timeout| timeout.min(left));
    show(attempt, &pending.url, deadline)?;
    let granted = read(attempt, deadline)?;
    complete(attempt, authorize, granted, &pending.pkce())?;
    login.forget()
}

fn complete(attempt: &Attempt, authorize: &Authorize, granted: Granted, pkce: &Pkce) -> Result<()> {
    match granted {
        Granted::Key(key) => key::store_given(attempt, key),
        Granted::Code(code) => {
            let secret = code::exchange(&authorize.exchange, &code, pkce, &attempt.source.network)?;
            key::store_granted(attempt, clean_key(secret.expose())?)
        }
    }
}

fn no_way_to_paste<T>(message: &str) -> Result<T> {
    Failed::new(Failure::Usage, message)
        .hint("pass the code with `--code-stdin`, or a key with `--api-key-stdin` or `--api-key-env VAR`")
        .err()
}

fn by_callback(attempt: &Attempt, authorize: &Authorize, pkce: &Pkce, deadline: Instant) -> Result<Secret> {
    let callback = Callback::listen()?;
    let url = code::authorize_url(&authorize.url, pkce, Some(&callback.url()), &extra(attempt))?;
    let entry = callback.entry();
    let redirect = callback.serve(&url)?;
    show(attempt, url.as_str(), deadline)?;
    attempt.open_browser(&entry);
    let _countdown = Countdown::start("Waiting for your approval in the browser", deadline);
    redirect.wait(deadline)
}

/// A code or a key, from a person or from stdin.
fn read(attempt: &Attempt, deadline: Instant) -> Result<Granted> {
    let text = if attempt.args.code_stdin {
        read_line(deadline)?
    } else {
        terminal::hidden("Code (valid for 10 minutes) or API key", false)?
    };
    let typed = clean_key(text.expose())?;
    match providers::owners_of(&typed, &attempt.session.config.overrides) {
        None => Ok(Granted::Code(typed)),
        Some((_, owners)) if owners.contains(&attempt.provider.name) => Ok(Granted::Key(typed)),
        Some((prefix, _)) if !providers::is_telling(&prefix) => {
            let message =
                format!("text that starts with `{prefix}` is an API key of another provider; it was not sent");
            Failed::new(Failure::Usage, message).hint("paste the code, or a key of OpenRouter").err()
        }
        Some((prefix, owners)) => {
            let names = owners.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ");
            let message = format!("text that starts with `{prefix}` is an API key of {names}; it was not sent");
            Failed::new(Failure::Usage, message).hint(format!("run `{}`", attempt.line_for(&owners[0]))).err()
        }
    }
}

/// What the page learns about the key it creates.
fn extra(attempt: &Attempt) -> Vec<(&'static str, String)> {
    let label = attempt.args.key_label.clone().unwrap_or_else(|| "qwenauth".into());
    let mut extra = vec![("key_label", label)];
    extra.extend(attempt.args.limit.clone().map(|limit| ("limit", limit)));
    extra
}

fn show(attempt: &Attempt, url: &str, deadline: Instant) -> Result<()> {
    if attempt.args.json {
        let expires_at = epoch::rfc3339(SystemTime::now() + deadline.saturating_duration_since(Instant::now()));
        print_json(&json!({"event": "authorize_url", "url": url, "expires_at": expires_at}))?;
    }
    let host = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    terminal::say(if attempt.approval_screen().copy(url) {
        "Open this address in a browser (copied to the clipboard):\n\n"
    } else {
        "Open this address in a browser:\n\n"
    });
    terminal::say(url);
    terminal::say(&format!("\n{host} asks you to approve this login. Approve only if you started this login."));
    Ok(())
}

/// One line of stdin; reading it cannot be interrupted, so a thread waits for it.
fn read_line(deadline: Instant) -> Result<Secret> {
    let receiver = threads::run(|| {
        let mut line = String::new();
        stdin().lock().read_line(&mut line).map(|_| Secret::new(line))
    })?;
    match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(line) => Ok(line?),
        Err(_) => Failed::new(Failure::LoginRequired, "timed out waiting for the code").because(Reason::Expired).err(),
    }
}
