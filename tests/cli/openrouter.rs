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

use crate::machine::{Machine, until};
use crate::run::Running;
use crate::server::{Reply, Request};
use crate::terminal::Terminal;

pub(crate) const KEY: &str = "sk-or-v1-granted-1";

const CONFIG: &str = r#"
[providers.openrouter]
base_url = "{server}/api/v1"
authorize = { url = "{server}/auth", exchange = "{server}/api/v1/auth/keys" }
"#;

/// OpenRouter as documented: the code `granted-code` is exchanged once, against the verifier of the challenge.
pub(crate) fn machine() -> Machine {
    let machine = Machine::new().configured(CONFIG);
    machine.server.serve("/api/v1/auth/keys", |request| {
        let body: Value = serde_json::from_str(&request.body).unwrap();
        if request.method != "POST" || body["code_challenge_method"] != "S256" || !request.bearer().is_empty() {
            return Reply::json(400, json!({"error": {"code": 400, "message": "Invalid code_challenge_method"}}));
        }
        if body["code"] != "granted-code" {
            return Reply::json(403, json!({"error": {"code": 403, "message": "Invalid code or code_verifier"}}));
        }
        Reply::json(200, json!({"key": KEY, "user_id": null}))
    });
    machine.server.serve("/api/v1/key", |request| match request.bearer() {
        KEY => Reply::json(200, json!({"data": {"label": "qwenauth"}})),
        _ => Reply::json(401, json!({"error": {"code": 401, "message": "User not found."}})),
    });
    machine
}

/// A browser that only notes where it was sent.
fn with_browser(machine: Machine) -> (Machine, PathBuf) {
    let note = machine.directory().join("opened");
    let browser = machine.directory().join("browser");
    fs::write(&browser, format!("#!/bin/sh\nprintf '%s' \"$1\" > {0}.part && mv {0}.part {0}\n", note.display()))
        .unwrap();
    fs::set_permissions(&browser, fs::Permissions::from_mode(0o755)).unwrap();
    (machine.variable("BROWSER", browser), note)
}

fn opened(note: &PathBuf) -> Url {
    until("the browser is opened", || note.exists());
    fs::read_to_string(note).unwrap().parse().unwrap()
}

fn query(url: &Url, name: &str) -> String {
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned()).unwrap_or_default()
}

/// What a browser's request for `target` at the callback is answered.
fn knock(callback: &Url, target: &str) -> String {
    let host = format!("Host: 127.0.0.1:{}\r\n", callback.port().unwrap());
    request(callback, &format!("GET {target} HTTP/1.1\r\n{host}\r\n"))
}

fn request(callback: &Url, head: &str) -> String {
    let mut connection = TcpStream::connect((callback.host_str().unwrap(), callback.port().unwrap())).unwrap();
    connection.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

/// Where the one-time page leads.
fn follow(entry: &Url) -> Url {
    let answer = knock(entry, entry.path());
    let location = answer.lines().find_map(|line| line.strip_prefix("Location: "));
    location.unwrap_or_else(|| panic!("{answer}")).parse().unwrap()
}

fn started() -> (Machine, Running, Url, Url) {
    let (machine, note) = with_browser(machine());
    let running = machine.spawn(["login", "openrouter", "--key-label", "my laptop", "--limit", "5"]);
    let url = follow(&opened(&note));
    let callback = query(&url, "callback_url").parse().unwrap();
    (machine, running, url, callback)
}

fn exchanges(machine: &Machine) -> Vec<Request> {
    machine.server.at("/api/v1/auth/keys")
}

#[test]
fn a_login_in_the_browser_ends_with_a_stored_key() {
    let (machine, running, url, callback) = started();
    assert!(url.as_str().starts_with(&format!("{}/auth?", machine.server.url())), "{url}");
    assert_eq!(query(&url, "code_challenge_method"), "S256");
    assert_eq!((query(&url, "key_label"), query(&url, "limit")), ("my laptop".into(), "5".into()));
    assert_eq!(callback.host_str(), Some("127.0.0.1"));
    let page = knock(&callback, &format!("{}?code=granted-code", callback.path()));
    assert!(page.starts_with("HTTP/1.1 200 OK") && page.contains("This tab can be closed."), "{page}");
    let outcome = running.finish().any_stderr();
    assert!(
        outcome.stderr.ends_with("qwenauth: logged in to OpenRouter, profile `openrouter` (active)\n"),
        "{}",
        outcome.stderr
    );
    let exchange: Value = serde_json::from_str(&exchanges(&machine)[0].body).unwrap();
    let verifier = exchange["code_verifier"].as_str().unwrap();
    assert!((43..=128).contains(&verifier.len()));
    assert_eq!(BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)), query(&url, "code_challenge"));
    assert_eq!(machine.profile("openrouter")["api_key"], KEY);
}

#[test]
fn a_request_that_takes_more_than_one_reading_is_read_to_its_end() {
    let (machine, running, _, callback) = started();
    let state = "x".repeat(5000);
    let page = knock(&callback, &format!("{}?state={state}&code=granted-code", callback.path()));
    assert!(page.starts_with("HTTP/1.1 200 OK"), "{page}");
    drop(running.finish().any_stderr());
    assert_eq!(machine.profile("openrouter")["api_key"], KEY);
}

#[test]
fn an_empty_key_is_rejected() {
    let (machine, running, _, callback) = started();
    machine.server.serve("/api/v1/auth/keys", |_| Reply::json(200, json!({"key": ""})));
    knock(&callback, &format!("{}?code=granted-code", callback.path()));
    let outcome = running.finish().exits(3).any_stderr();
    assert!(outcome.stderr.contains("did not exchange the code for a key"), "{}", outcome.stderr);
    assert_eq!(machine.profile("openrouter"), Value::Null);
}

#[test]
fn a_redirect_without_the_nonce_changes_nothing() {
    let (machine, running, _, callback) = started();
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
    assert!(exchanges(&machine).is_empty());
    drop(knock(&callback, &format!("{}?code=granted-code", callback.path())));
    drop(running.finish().any_stderr());
    assert_eq!(machine.profile("openrouter")["api_key"], KEY);
}

#[test]
fn the_first_redirect_counts_and_a_second_does_not() {
    let (machine, running, _, callback) = started();
    drop(knock(&callback, &format!("{}?code=granted-code", callback.path())));
    if let Ok(mut connection) = TcpStream::connect((callback.host_str().unwrap(), callback.port().unwrap())) {
        drop(write!(
            connection,
            "GET {}?code=granted-other HTTP/1.1\r\nHost: {}\r\n\r\n",
            callback.path(),
            callback.authority()
        ));
    }
    drop(running.finish().any_stderr());
    assert_eq!(exchanges(&machine).len(), 1);
    assert_eq!(machine.profile("openrouter")["api_key"], KEY);
}

#[test]
fn a_slow_visitor_does_not_keep_the_browser_out() {
    let (machine, running, _, callback) = started();
    let silent = TcpStream::connect((callback.host_str().unwrap(), callback.port().unwrap())).unwrap();
    drop(knock(&callback, &format!("{}?code=granted-code", callback.path())));
    drop(running.finish().any_stderr());
    drop(silent);
    assert_eq!(machine.profile("openrouter")["api_key"], KEY);
}

#[test]
fn an_error_in_the_redirect_ends_the_login() {
    let (machine, running, _, callback) = started();
    let page = knock(&callback, &format!("{}?error=access_denied&error_description=no%1b%5b2J", callback.path()));
    assert!(page.contains("The login was rejected."), "{page}");
    let outcome = running.finish().exits(4).any_stderr();
    assert!(
        outcome.stderr.ends_with(
            "qwenauth: error: the login was rejected: `access_denied`: no[2J\n\
             qwenauth: hint: run `qwenauth login openrouter` again if that was a mistake\n"
        ),
        "{}",
        outcome.stderr
    );
    assert_eq!(machine.profile("openrouter"), Value::Null);
}

#[test]
fn a_redirect_that_never_arrives_times_out() {
    let (machine, _) = with_browser(machine());
    let outcome = machine.run(["login", "openrouter", "--timeout", "1s"]).exits(4).any_stderr();
    assert!(outcome.stderr.contains("error: the login was not approved in time\n"), "{}", outcome.stderr);
    assert_eq!(machine.profile("openrouter"), Value::Null);
}

#[test]
fn a_code_the_server_rejects_stores_nothing() {
    let (machine, running, _, callback) = started();
    drop(knock(&callback, &format!("{}?code=granted-wrong", callback.path())));
    let outcome = running.finish().exits(4).any_stderr();
    assert!(
        outcome
            .stderr
            .contains("error: `127.0.0.1` rejected the code (403): it is wrong, was already used, or has expired\n"),
        "{}",
        outcome.stderr
    );
    assert_eq!(machine.profile("openrouter"), Value::Null);
}

#[test]
fn without_a_browser_the_code_is_pasted() {
    let machine = machine();
    let outcome = machine
        .run_with_stdin(["login", "openrouter", "--code-stdin", "--json"], b" granted-code\n")
        .any_stderr()
        .any_stdout();
    let events: Vec<Value> = outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events[0]["event"], "authorize_url");
    let url = Url::parse(&events[0]["url"].as_str().unwrap().replace("{server}", "http://server")).unwrap();
    assert_eq!(query(&url, "callback_url"), "", "the server shows a code where there is no callback");
    assert_eq!(query(&url, "key_label"), "qwenauth");
    assert_eq!((&events[1]["event"], &events[1]["verified"]), (&json!("logged_in"), &json!(true)));
    assert_eq!(machine.profile("openrouter")["api_key"], KEY);
}

#[test]
fn without_browser_and_terminal_the_login_says_what_to_do() {
    for variables in [vec![], vec![("SSH_CONNECTION", "1"), ("DISPLAY", ":0")], vec![("CI", "1"), ("BROWSER", "true")]]
    {
        let machine = variables.into_iter().fold(machine(), |machine, (name, value)| machine.variable(name, value));
        machine.run(["login", "openrouter"]).fails(
            2,
            "no browser available, and no terminal to paste a code into",
            "pass the code with `--code-stdin`, or a key with `--api-key-stdin` or `--api-key-env VAR`",
        );
    }
}

#[test]
fn an_empty_code_is_a_usage_error() {
    for code in [&b"\n"[..], b"a b\n", b""] {
        let outcome = machine().run_with_stdin(["login", "openrouter", "--code-stdin"], code).exits(2).any_stderr();
        assert!(outcome.stderr.contains("error: the "), "{}", outcome.stderr);
    }
}

/// Everybody can read the arguments of a process.
#[test]
fn the_browser_gets_a_page_that_works_once_without_the_nonce_of_the_callback() {
    let (machine, note) = with_browser(machine());
    let running = machine.spawn(["login", "openrouter"]);
    let entry = opened(&note);
    assert_eq!((entry.scheme(), entry.host_str(), entry.query()), ("http", Some("127.0.0.1"), None));
    assert!(entry.path().starts_with("/go/") && entry.path().len() >= 4 + 32, "{entry}");
    let url = follow(&entry);
    assert!(url.as_str().starts_with(&format!("{}/auth?", machine.server.url())), "{url}");
    let callback: Url = query(&url, "callback_url").parse().unwrap();
    assert_eq!(callback.port(), entry.port());
    assert_ne!(callback.path().rsplit('/').next(), entry.path().rsplit('/').next());
    let again = knock(&entry, entry.path());
    assert!(again.starts_with("HTTP/1.1 410 Gone\r\n") && !again.contains("Location"), "{again}");
    // Its nonce is worth nothing at the callback.
    let stolen = entry.path().replacen("/go/", "/callback/", 1);
    for target in [format!("{stolen}?error=denied"), format!("{}?error=denied", entry.path())] {
        assert!(knock(&callback, &target).starts_with("HTTP/1.1 404 "), "{target}");
    }
    drop(knock(&callback, &format!("{}?code=granted-code", callback.path())));
    drop(running.finish().any_stderr());
    assert_eq!(machine.profile("openrouter")["api_key"], KEY);
}

#[test]
fn a_request_with_a_foreign_host_or_origin_changes_nothing() {
    let (machine, note) = with_browser(machine());
    let running = machine.spawn(["login", "openrouter"]);
    let entry = opened(&note);
    let own = entry.authority().to_owned();
    let foreign = [
        "Host: attacker.example\r\n".to_owned(),
        format!("Host: attacker.example:{}\r\n", entry.port().unwrap()),
        "Host: 127.0.0.1\r\n".to_owned(),
        format!("Host: {own}\r\nHost: attacker.example\r\n"),
        String::new(),
        format!("Host: {own}\r\nOrigin: https://attacker.example\r\n"),
        format!("host: {own}\r\norigin: null\r\n"),
        format!("Host: {own}\r\nOrigin: http://{own}\r\nOrigin: https://attacker.example\r\n"),
    ];
    for fields in &foreign {
        let answer = request(&entry, &format!("GET {} HTTP/1.1\r\n{fields}\r\n", entry.path()));
        assert!(answer.starts_with("HTTP/1.1 404 "), "{fields}: {answer}");
    }
    let callback: Url = query(&follow(&entry), "callback_url").parse().unwrap();
    for fields in &foreign {
        for outcome in ["error=denied", "code=granted-foreign"] {
            let target = format!("{}?{outcome}", callback.path());
            let answer = request(&callback, &format!("GET {target} HTTP/1.1\r\n{fields}\r\n"));
            assert!(answer.starts_with("HTTP/1.1 404 "), "{fields}: {answer}");
        }
    }
    let target = format!("{}?code=granted-code", callback.path());
    let fields = format!("Host: {own}\r\nOrigin: {}\r\n", machine.server.url());
    drop(request(&callback, &format!("GET {target} HTTP/1.1\r\n{fields}\r\n")));
    drop(running.finish().any_stderr());
    assert_eq!(exchanges(&machine).len(), 1);
    assert_eq!(machine.profile("openrouter")["api_key"], KEY);
}

#[test]
fn a_key_pasted_instead_of_a_code_is_stored_and_never_sent_as_a_code() {
    for given in ["sk-or-v1-granted-1\n", "\"sk-or-v1-granted-1\"", "Bearer sk-or-v1-granted-1"] {
        let machine = machine();
        let arguments = ["login", "openrouter", "--code-stdin"];
        drop(machine.run_with_stdin(arguments, given.as_bytes()).any_stderr());
        assert!(exchanges(&machine).is_empty(), "{given}");
        assert_eq!(machine.profile("openrouter")["api_key"], KEY, "{given}");
    }
    let machine = machine();
    let arguments = ["login", "openrouter", "--code-stdin"];
    drop(machine.run_with_stdin(arguments, b"sk-or-v1-granted-wrong").exits(4).any_stderr());
    for foreign in ["gsk_granted", "sk-granted", "sk-sp-granted", "hf_granted"] {
        let outcome = machine.run_with_stdin(arguments, foreign.as_bytes()).exits(2).any_stderr();
        assert!(outcome.stderr.contains("; it was not sent\n"), "{foreign}: {outcome}");
    }
    assert!(exchanges(&machine).is_empty());
    assert_eq!(machine.profile("openrouter"), Value::Null);
}

#[test]
fn without_a_terminal_the_url_is_printed_as_json_and_the_redirect_awaited() {
    let machine = machine();
    let running = machine.spawn(["login", "openrouter", "--json", "--no-browser"]);
    let event: Value = serde_json::from_str(&running.first_lines(1)[0]).unwrap();
    assert_eq!(event["event"], "authorize_url");
    let callback: Url = query(&event["url"].as_str().unwrap().parse().unwrap(), "callback_url").parse().unwrap();
    drop(knock(&callback, &format!("{}?code=granted-code", callback.path())));
    let outcome = running.finish().any_stderr().any_stdout();
    assert!(outcome.stdout.contains(r#""event":"logged_in""#), "{outcome}");
    assert_eq!(machine.profile("openrouter")["api_key"], KEY);
}

#[test]
fn a_login_that_does_not_wait_is_completed_by_its_code_or_by_a_key() {
    for given in ["granted-code", KEY] {
        let machine = machine();
        let mut outcome = machine.run(["login", "openrouter", "--no-wait", "--json"]).any_stderr();
        let event = outcome.json_lines().pop().unwrap();
        assert_eq!(event["event"], "authorize_url");
        assert!(event["expires_at"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
        let url: Url = event["url"].as_str().unwrap().replace("{server}", "http://server").parse().unwrap();
        assert_eq!(query(&url, "callback_url"), "");
        assert!(
            outcome
                .stderr
                .ends_with("qwenauth: the login is pending; `qwenauth login openrouter --resume` completes it\n"),
            "{outcome}"
        );
        let again =
            machine.run(["login", "openrouter", "--no-wait", "--json"]).any_stderr().json_lines().pop().unwrap();
        assert_eq!(again["url"], event["url"], "a second one shows the same address");
        let pending = machine.home().join(".local/state/qwenauth/pending/openrouter.json");
        assert_eq!(crate::machine::mode(&pending), 0o600);
        let resume = ["login", "openrouter", "--resume", "--code-stdin"];
        drop(machine.run_with_stdin(resume, b"granted-wrong").exits(4).any_stderr());
        assert!(pending.exists(), "a wrong code is no end");
        drop(machine.run_with_stdin(resume, given.as_bytes()).any_stderr());
        if given == "granted-code" {
            let exchange: Value = serde_json::from_str(&exchanges(&machine).last().unwrap().body).unwrap();
            let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(exchange["code_verifier"].as_str().unwrap()));
            assert_eq!(challenge, query(&url, "code_challenge"));
        }
        assert_eq!(machine.profile("openrouter")["api_key"], KEY);
        assert!(!pending.exists());
    }
}

#[test]
fn resume_without_a_provider_completes_the_one_pending_login() {
    for (login, resume) in [
        (&["login", "openrouter"][..], &["login"][..]),
        (&["login", "openrouter", "--profile", "work"], &["login"]),
        // The line of `doctor`.
        (&["login", "openrouter", "--profile", "work"], &["login", "--profile", "work"]),
    ] {
        let machine = machine();
        drop(machine.run([login, &["--no-wait"]].concat()).any_stderr());
        let resume = [resume, &["--resume", "--code-stdin"]].concat();
        drop(machine.run_with_stdin(resume, b"granted-code").exits(0).any_stderr());
        assert_eq!(machine.profile(login.last().unwrap())["api_key"], KEY);
    }
}

#[test]
fn resume_names_the_line_for_the_login_that_is_pending() {
    let machine = machine();
    drop(machine.run(["login", "openrouter", "--profile", "work", "--no-wait"]).any_stderr());
    machine.run(["login", "openrouter", "--resume"]).fails(
        4,
        "no login of `openrouter` is pending",
        "run `qwenauth login --resume --profile work` for the login of `work`",
    );
    drop(machine.run(["login", "openrouter", "--no-wait"]).any_stderr());
    machine.run(["login", "--resume"]).fails(
        2,
        "several logins are pending: `openrouter`, `work`",
        "name one: `qwenauth login --resume --profile openrouter`",
    );
}

#[test]
fn there_is_nothing_to_resume_without_a_pending_login_or_a_code() {
    machine().run_with_stdin(["login", "openrouter", "--resume", "--code-stdin"], b"granted-code").fails(
        4,
        "no login of `openrouter` is pending",
        "run `qwenauth login openrouter`",
    );
    let machine = machine();
    drop(machine.run(["login", "openrouter", "--no-wait"]).any_stderr());
    machine.run(["login", "openrouter", "--resume"]).fails(
        2,
        "the pending login requires its code, and there is no terminal to paste it into",
        "pass the code with `--code-stdin`, or a key with `--api-key-stdin` or `--api-key-env VAR`",
    );
    drop(machine.run(["login", "groq", "--resume"]).exits(2).any_stderr());
    drop(machine.run(["login", "groq", "--no-wait"]).exits(2).any_stderr());
}

#[test]
fn where_there_is_a_browser_a_person_chooses_it_or_pastes_a_key() {
    let (machine, note) = with_browser(machine());
    let mut terminal = Terminal::run(&machine, &["login", "openrouter", "--timeout", "30s"], (24, 80));
    terminal.wait_for("paste an API key");
    terminal.types("paste");
    terminal.wait_for("> paste an API key");
    terminal.types("\r");
    terminal.wait_for("API key (hidden)");
    terminal.wait_until_hidden();
    terminal.types(&format!("{KEY}\r"));
    let seen = terminal.exits(0);
    assert!(seen.contains("openrouter.ai/settings/keys") && seen.contains("? How  "), "{seen}");
    assert!(exchanges(&machine).is_empty() && !note.exists());
    assert_eq!(machine.profile("openrouter")["api_key"], KEY);
    let mut terminal = Terminal::run(&machine, &["login", "openrouter", "--force", "--timeout", "30s"], (24, 80));
    terminal.wait_for("> in a browser");
    terminal.types("\r");
    let entry = opened(&note);
    let target = follow(&entry);
    let callback = Url::parse(&query(&target, "callback_url")).unwrap();
    drop(knock(&callback, &format!("{}?code=granted-code", callback.path())));
    drop(terminal.exits(0));
    assert_eq!(exchanges(&machine).len(), 1);
}

#[test]
fn status_with_check_shows_the_remaining_credit_of_the_key() {
    let machine = machine();
    machine.server.serve("/api/v1/key", |_| Reply::json(200, json!({"data": {"limit": 5, "limit_remaining": 4.2}})));
    drop(machine.run_with_stdin(["login", "openrouter", "--api-key-stdin"], KEY.as_bytes()).any_stderr());
    let outcome = machine.run(["status", "--check"]).any_stdout();
    assert!(outcome.stdout.contains("  limit       $4.20 of $5.00 left\n"), "{outcome}");
    assert!(!machine.run(["status"]).any_stdout().stdout.contains("left"));
}
