//! A refusal by the API is remembered until the API serves the credential again, or another one takes its place.

use std::fs::{self, File};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::login::{chat, device_code, grant};
use crate::machine::Machine;
use crate::server::{Ask, Reply};

const WARNING: &str = "qwenauth: warning: the API rejects the login of `qwen`: it answered 401: no access; use `qwenauth login dashscope` or `qwenauth login openrouter` instead; `qwenauth providers` compares them\n";

const INSTEAD: &str = "  fix         use `qwenauth login dashscope` or `qwenauth login openrouter` instead; `qwenauth providers` compares them\n";

fn no_access() -> Reply {
    Reply::json(401, json!({"error": {"message": "no access"}}))
}

/// A login that `status --check` has found to be refused.
fn refused() -> Machine {
    let machine = Machine::new().logged_in().granted_here().scripted(Ask::Chat, no_access());
    drop(machine.run(["status", "--check"]).exits(4).any_stdout());
    machine
}

#[track_caller]
fn state(machine: &Machine) -> Value {
    let mut outcome = machine.run(["status", "--json"]);
    let told = outcome.json()["profiles"][0].clone();
    let code = if told["state"] == "valid" { 0 } else { 4 };
    drop(outcome.exits(code));
    told
}

/// Makes what is remembered look older than `exec` lets it stand.
fn age(machine: &Machine) {
    let directory = machine.home().join(".local/state/qwenauth/refused-by-api");
    for entry in fs::read_dir(directory).unwrap() {
        let file = File::options().write(true).open(entry.unwrap().path()).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(601)).unwrap();
    }
}

#[test]
fn status_shows_the_rejection_without_a_time_left() {
    let machine = refused();
    let told = state(&machine);
    assert_eq!(told["state"], "refused", "{told}");
    // As long as `expires_at` says, with and without `--check`.
    assert!(told["expires_in"].as_u64() > Some(3500), "{told}");
    assert_eq!(told["problems"], json!(["the API rejects the credential: it answered 401: no access"]));
    let outcome = machine.run(["status"]).exits(4).any_stdout();
    assert!(!outcome.stdout.contains(" left"), "{outcome}");
    assert!(outcome.stdout.contains("  credential  rejected\n"), "{outcome}");
    assert!(outcome.stdout.contains(INSTEAD), "{outcome}");
    let machine = machine.scripted(Ask::Chat, no_access());
    let outcome = machine.run(["status", "--check"]).exits(4).any_stdout();
    assert!(outcome.stdout.contains("  credential  rejected\n  API         rejected\n"), "one word: {outcome}");
    assert!(outcome.stdout.contains(INSTEAD), "{outcome}");
}

#[test]
fn status_names_the_remedy_for_a_key_by_what_its_server_said() {
    let machine = Machine::new();
    let url = machine.server.url();
    machine.server.serve("/v1/models", |_| Reply::json(400, json!({"code": "Arrearage"})));
    let login = ["login", "custom", "--base-url", &format!("{url}/v1"), "--model", "m", "--api-key-stdin"];
    drop(machine.run_with_stdin(login, b"granted-key-1").exits(1).any_stderr());
    let told = |arguments: &[&str]| machine.run(arguments).exits(4).any_stdout().stdout.clone();
    let unpaid = "  fix         resolve this with the provider; you do not need to log in again\n";
    assert!(told(&["status", "--check"]).contains(unpaid));
    assert!(told(&["status"]).contains("  fix         run `qwenauth doctor --profile custom` for details\n"));
    machine.server.serve("/v1/models", |_| Reply::json(401, json!({})));
    assert!(told(&["status", "--check"]).contains("  fix         run `qwenauth login custom`\n"));
}

#[test]
fn token_env_and_exec_warn_with_one_line() {
    let machine = refused();
    machine.run(["token"]).stdout("granted-access-1\n").stderr(WARNING);
    drop(machine.run(["env"]).any_stdout().stderr(WARNING));
    machine.run(["exec", "--", "true"]).stderr(WARNING);
    assert_eq!(machine.server.asked(Ask::Chat).len(), 1, "none of them asks again");
}

#[test]
fn exec_checks_again_once_the_rejection_is_old() {
    let machine = refused().scripted(Ask::Chat, no_access());
    age(&machine);
    machine.run(["exec", "--", "true"]).stderr(WARNING);
    machine.run(["exec", "--", "true"]).stderr(WARNING);
    assert_eq!(machine.server.asked(Ask::Chat).len(), 2, "once in a while");
    let machine = machine.scripted(Ask::Chat, chat());
    age(&machine);
    machine.run(["exec", "--", "true"]);
    assert_eq!(state(&machine)["state"], "valid");
}

#[test]
fn doctor_fails_while_the_api_rejects_and_clears_the_rejection_when_it_serves() {
    let machine = refused().scripted(Ask::Chat, no_access());
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    let outcome = machine.run(["doctor"]).exits(1).any_stdout().any_stderr();
    assert!(
        outcome.stdout.contains("API          rejects the login of `qwen`: it answered 401: no access"),
        "{outcome}"
    );
    let instead =
        "→ use `qwenauth login dashscope` or `qwenauth login openrouter` instead; `qwenauth providers` compares them\n";
    assert!(outcome.stdout.contains(instead), "{outcome}");
    let machine = machine.scripted(Ask::Chat, chat());
    drop(machine.run(["doctor"]).any_stdout().any_stderr());
    assert_eq!(state(&machine)["state"], "valid");
}

#[test]
fn a_renewal_keeps_the_rejection() {
    let machine = refused().refresh(Reply::tokens("2"));
    machine.run(["refresh"]);
    assert_eq!(state(&machine)["state"], "refused");
    machine.run(["token"]).stdout("granted-access-2\n").stderr(WARNING);
}

#[test]
fn a_check_that_succeeds_clears_the_rejection() {
    let machine = refused().scripted(Ask::Chat, chat());
    drop(machine.run(["status", "--check"]).exits(0).any_stdout());
    assert_eq!(state(&machine)["state"], "valid");
    machine.run(["token"]).stdout("granted-access-1\n");
}

#[test]
fn an_unreachable_api_changes_nothing() {
    let machine = refused().scripted(Ask::Chat, Reply::html(503));
    let mut outcome = machine.run(["status", "--check", "--json"]).exits(4);
    let problems = outcome.json()["profiles"][0]["problems"].clone();
    assert_eq!(problems[1], "the API rejects the credential: it answered 401: no access", "{problems}");
    assert_eq!(state(&machine)["state"], "refused");
}

#[test]
fn a_check_says_why_a_login_is_refused_whose_access_token_the_api_accepts() {
    let machine = Machine::new().logged_in().granted_here().expires_in(300);
    let machine = machine.refresh(Reply::error(400, "invalid_grant")).scripted(Ask::Chat, chat());
    drop(machine.run(["refresh"]).exits(4).any_stderr());
    let mut outcome = machine.run(["status", "--check", "--json"]).exits(4);
    let told = outcome.json()["profiles"][0].clone();
    assert_eq!((&told["state"], &told["checked"]), (&json!("refused"), &json!("accepted")), "{told}");
    assert!(told["problems"][0].as_str().unwrap_or_default().starts_with("the login expires in "), "{told}");
}

#[test]
fn login_replaces_a_rejected_login_without_a_question() {
    let machine = refused();
    let reply = grant(&machine);
    let machine = machine.scripted(Ask::DeviceCode, device_code(json!({}))).scripted(Ask::Poll, reply);
    drop(machine.run(["login", "--no-browser", "--no-verify"]).exits(0).any_stderr());
    assert_eq!(machine.server.asked(Ask::Poll).len(), 1, "it logged in");
    assert_eq!(state(&machine)["state"], "valid");
}

#[test]
fn the_rejection_at_the_end_of_a_login_is_remembered() {
    let machine = Machine::new();
    let reply = grant(&machine);
    let machine = machine.scripted(Ask::DeviceCode, device_code(json!({}))).scripted(Ask::Poll, reply);
    let machine = machine.scripted(Ask::Chat, no_access());
    drop(machine.run(["login", "--no-browser"]).exits(1).any_stderr());
    assert_eq!(state(&machine)["state"], "refused");
}

#[test]
fn a_rejection_that_the_gateway_sees_is_remembered_for_every_command() {
    let agent = concat!("qwenauth/", env!("CARGO_PKG_VERSION"), " (linux; x)");
    let script = &format!(
        "curl -s -m 20 -A '{agent}' -o /dev/null -w '%{{http_code}}' -H \"Authorization: Bearer $OPENAI_API_KEY\" \
         -d '{{\"model\":\"coder-model\",\"max_tokens\":1}}' $OPENAI_BASE_URL/chat/completions"
    );
    if !crate::machine::possible(std::path::Path::new("/usr/bin/curl").exists(), "run curl") {
        return;
    }
    let serves = Arc::new(AtomicBool::new(false));
    let machine = Machine::new().logged_in().granted_here().refresh(Reply::tokens("2"));
    let switch = Arc::clone(&serves);
    let answer = move || if switch.load(Ordering::SeqCst) { chat() } else { no_access() };
    machine.server.serve("/v1/chat/completions", move |_| answer());
    let ask = |code: &str| {
        drop(machine.run(["exec", "--gateway", "--", "sh", "-c", script]).stdout(code).any_stderr());
        state(&machine)["state"].clone()
    };
    // The first 401 is answered by a renewal, the second is the end.
    assert_eq!(ask("401"), "refused");
    serves.store(true, Ordering::SeqCst);
    assert_eq!(ask("200"), "valid");
}

#[test]
fn an_unpaid_account_is_remembered_for_a_key_as_well() {
    let machine = Machine::new();
    let url = machine.server.url();
    machine.server.serve("/v1/models", |_| Reply::json(400, json!({"code": "Arrearage"})));
    let login = ["login", "custom", "--base-url", &format!("{url}/v1"), "--model", "m", "--api-key-stdin"];
    drop(machine.run_with_stdin(login, b"granted-key-1").exits(1).any_stderr());
    let told = state(&machine);
    assert_eq!((&told["profile"], &told["state"]), (&json!("custom"), &json!("refused")), "{told}");
    let outcome = machine.run(["token"]).stdout("granted-key-1\n").any_stderr();
    assert_eq!(outcome.stderr.matches("warning: the API rejects").count(), 1, "{outcome}");
    // Another key starts afresh.
    let mut login = login.to_vec();
    login.push("--no-verify");
    drop(machine.run_with_stdin(login, b"granted-key-2").exits(0).any_stderr());
    assert_eq!(state(&machine)["state"], "valid");
}

#[test]
fn a_login_for_a_foreign_host_is_reported_as_rejected() {
    let machine = Machine::new().logged_in().field("resource_url", json!("attacker.example"));
    assert_eq!(state(&machine)["state"], "refused");
}
