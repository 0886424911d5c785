//! OpenRouter's login: PKCE with a loopback callback, or by pasting a code.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::Url;

use crate::run::Running;
use crate::sandbox::{Sandbox, until};
use crate::server::{Reply, Request};

const KEY: &str = "sk-or-v1-granted-1";

const CONFIG: &str = r#"
[providers.openrouter]
base_url = "{server}/api/v1"
authorize = { url = "{server}/auth", exchange = "{server}/api/v1/auth/keys" }
"#;

/// OpenRouter as documented: the code `granted-code` is exchanged once, against the verifier of the challenge.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new().configured(CONFIG);
    sandbox.server.serve("/api/v1/auth/keys", |request| {
        let body: Value = serde_json::from_str(&request.body).unwrap();
        if request.method != "POST" || body["code_challenge_method"] != "S256" || !request.bearer().is_empty() {
            return Reply::json(400, json!({"error": {"code": 400, "message": "Invalid code_challenge_method"}}));
        }
        if body["code"] != "granted-code" {
            return Reply::json(403, json!({"error": {"code": 403, "message": "Invalid code or code_verifier"}}));
        }
        Reply::json(200, json!({"key": KEY, "user_id": null}))
    });
    sandbox.server.serve("/api/v1/key", |request| match request.bearer() {
        KEY => Reply::json(200, json!({"data": {"label": "qwenauth"}})),
        _ => Reply::json(401, json!({"error": {"code": 401, "message": "User not found."}})),
    });
    sandbox
}

/// A browser that only notes where it was sent.
fn with_browser(sandbox: Sandbox) -> (Sandbox, PathBuf) {
    let note = sandbox.directory().join("opened");
    let browser = sandbox.directory().join("browser");
    fs::write(&browser, format!("#!/bin/sh\nprintf '%s' \"$1\" > {0}.part && mv {0}.part {0}\n", note.display()))
        .unwrap();
    fs::set_permissions(&browser, fs::Permissions::from_mode(0o755)).unwrap();
    (sandbox.variable("BROWSER", browser), note)
}

fn opened(note: &PathBuf) -> Url {
    until("the browser is opened", || note.exists());
    fs::read_to_string(note).unwrap().parse().unwrap()
}

fn query(url: &Url, name: &str) -> String {
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned()).unwrap_or_default()
}

/// What a request for `target` at the callback is answered.
fn knock(callback: &Url, target: &str) -> String {
    let mut connection = TcpStream::connect((callback.host_str().unwrap(), callback.port().unwrap())).unwrap();
    write!(connection, "GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

fn started() -> (Sandbox, Running, Url, Url) {
    let (sandbox, note) = with_browser(sandbox());
    let running = sandbox.spawn(["login", "openrouter", "--key-label", "my laptop", "--limit", "5"]);
    let url = opened(&note);
    let callback = query(&url, "callback_url").parse().unwrap();
    (sandbox, running, url, callback)
}

fn exchanges(sandbox: &Sandbox) -> Vec<Request> {
    sandbox.server.at("/api/v1/auth/keys")
}

#[test]
fn a_login_in_the_browser_ends_with_a_stored_key() {
    let (sandbox, running, url, callback) = started();
    assert!(url.as_str().starts_with(&format!("{}/auth?", sandbox.server.url())), "{url}");
    assert_eq!(query(&url, "code_challenge_method"), "S256");
    assert_eq!((query(&url, "key_label"), query(&url, "limit")), ("my laptop".into(), "5".into()));
    assert_eq!(callback.host_str(), Some("127.0.0.1"));
    let page = knock(&callback, &format!("{}?code=granted-code", callback.path()));
    assert!(page.starts_with("HTTP/1.1 200 OK") && page.contains("This tab can be closed."), "{page}");
    let outcome = running.finish().any_stderr();
    assert!(
        outcome.stderr.ends_with("qwenauth: logged in: profile `openrouter`, {server}/api/v1\n"),
        "{}",
        outcome.stderr
    );
    let exchange: Value = serde_json::from_str(&exchanges(&sandbox)[0].body).unwrap();
    let verifier = exchange["code_verifier"].as_str().unwrap();
    assert!((43..=128).contains(&verifier.len()));
    assert_eq!(BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)), query(&url, "code_challenge"));
    assert_eq!(sandbox.profile("openrouter")["api_key"], KEY);
}

#[test]
fn a_request_that_takes_more_than_one_reading_is_read_to_its_end() {
    let (sandbox, running, _, callback) = started();
    let state = "x".repeat(5000);
    let page = knock(&callback, &format!("{}?state={state}&code=granted-code", callback.path()));
    assert!(page.starts_with("HTTP/1.1 200 OK"), "{page}");
    drop(running.finish().any_stderr());
    assert_eq!(sandbox.profile("openrouter")["api_key"], KEY);
}

#[test]
fn an_empty_key_is_none() {
    let (sandbox, running, _, callback) = started();
    sandbox.server.serve("/api/v1/auth/keys", |_| Reply::json(200, json!({"key": ""})));
    knock(&callback, &format!("{}?code=granted-code", callback.path()));
    let outcome = running.finish().exits(3).any_stderr();
    assert!(outcome.stderr.contains("did not exchange the code for a key"), "{}", outcome.stderr);
    assert_eq!(sandbox.profile("openrouter"), Value::Null);
}

#[test]
fn what_comes_without_the_nonce_changes_nothing() {
    let (sandbox, running, _, callback) = started();
    for target in [
        "/",
        "/?code=granted-code",
        "/callback?code=granted-code",
        "/callback/0123456789abcdef?code=granted-code",
        "/callback/?error=x",
    ] {
        assert!(knock(&callback, target).starts_with("HTTP/1.1 404 Not Found"), "{target}");
    }
    assert!(knock(&callback, callback.path()).starts_with("HTTP/1.1 404 Not Found"), "neither code nor error");
    assert!(exchanges(&sandbox).is_empty());
    drop(knock(&callback, &format!("{}?code=granted-code", callback.path())));
    drop(running.finish().any_stderr());
    assert_eq!(sandbox.profile("openrouter")["api_key"], KEY);
}

#[test]
fn the_first_redirect_counts_and_a_second_does_not() {
    let (sandbox, running, _, callback) = started();
    drop(knock(&callback, &format!("{}?code=granted-code", callback.path())));
    if let Ok(mut connection) = TcpStream::connect((callback.host_str().unwrap(), callback.port().unwrap())) {
        drop(write!(connection, "GET {}?code=granted-other HTTP/1.1\r\n\r\n", callback.path()));
    }
    drop(running.finish().any_stderr());
    assert_eq!(exchanges(&sandbox).len(), 1);
    assert_eq!(sandbox.profile("openrouter")["api_key"], KEY);
}

#[test]
fn a_slow_visitor_does_not_keep_the_browser_out() {
    let (sandbox, running, _, callback) = started();
    let silent = TcpStream::connect((callback.host_str().unwrap(), callback.port().unwrap())).unwrap();
    drop(knock(&callback, &format!("{}?code=granted-code", callback.path())));
    drop(running.finish().any_stderr());
    drop(silent);
    assert_eq!(sandbox.profile("openrouter")["api_key"], KEY);
}

#[test]
fn an_error_in_the_redirect_ends_the_login() {
    let (sandbox, running, _, callback) = started();
    let page = knock(&callback, &format!("{}?error=access_denied&error_description=no%1b%5b2J", callback.path()));
    assert!(page.contains("The login was refused."), "{page}");
    let outcome = running.finish().exits(4).any_stderr();
    assert!(
        outcome.stderr.ends_with(
            "qwenauth: error: the login was refused: `access_denied`: no[2J\n\
             qwenauth: hint: run `qwenauth login` again if that was a mistake\n"
        ),
        "{}",
        outcome.stderr
    );
    assert_eq!(sandbox.profile("openrouter"), Value::Null);
}

#[test]
fn a_redirect_that_never_comes_ends_with_the_time_allowed() {
    let (sandbox, _) = with_browser(sandbox());
    let outcome = sandbox.run(["login", "openrouter", "--timeout", "1s"]).exits(4).any_stderr();
    assert!(outcome.stderr.contains("error: the login was not approved in time\n"), "{}", outcome.stderr);
    assert_eq!(sandbox.profile("openrouter"), Value::Null);
}

#[test]
fn a_code_the_server_refuses_stores_nothing() {
    let (sandbox, running, _, callback) = started();
    drop(knock(&callback, &format!("{}?code=granted-wrong", callback.path())));
    let outcome = running.finish().exits(4).any_stderr();
    assert!(
        outcome
            .stderr
            .contains("error: `127.0.0.1` refused the code (403): it is wrong, was used before, or has expired\n"),
        "{}",
        outcome.stderr
    );
    assert_eq!(sandbox.profile("openrouter"), Value::Null);
}

#[test]
fn without_a_browser_the_code_is_pasted() {
    let sandbox = sandbox();
    let outcome = sandbox
        .run_with_stdin(["login", "openrouter", "--code-stdin", "--json"], b" granted-code\n")
        .any_stderr()
        .any_stdout();
    let events: Vec<Value> = outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events[0]["event"], "authorize_url");
    let url = Url::parse(&events[0]["url"].as_str().unwrap().replace("{server}", "http://server")).unwrap();
    assert_eq!(query(&url, "callback_url"), "", "the server shows a code where there is no callback");
    assert_eq!(query(&url, "key_label"), "qwenauth");
    assert_eq!((&events[1]["event"], &events[1]["verified"]), (&json!("logged_in"), &json!(true)));
    assert_eq!(sandbox.profile("openrouter")["api_key"], KEY);
}

#[test]
fn without_browser_and_terminal_the_login_says_what_to_do() {
    for variables in [vec![], vec![("SSH_CONNECTION", "1"), ("DISPLAY", ":0")], vec![("CI", "1"), ("BROWSER", "true")]]
    {
        let sandbox = variables.into_iter().fold(sandbox(), |sandbox, (name, value)| sandbox.variable(name, value));
        sandbox.run(["login", "openrouter"]).fails(
            2,
            "there is no browser to log in with, and no terminal to paste a code at",
            "give the code with `--code-stdin`, or a key with `--api-key-stdin` or `--api-key-env VAR`",
        );
    }
}

#[test]
fn an_empty_code_is_refused() {
    let outcome = sandbox().run_with_stdin(["login", "openrouter", "--code-stdin"], b"\n").exits(2).any_stderr();
    assert!(
        outcome.stderr.contains("error: that is no code: it is empty or has white space in it\n"),
        "{}",
        outcome.stderr
    );
}
