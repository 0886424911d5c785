//! `status`: where the login stands, offline unless asked to check.

use serde_json::{Value, json};

use crate::machine::Machine;
use crate::server::{Ask, Reply};

/// The one profile of `status --json`, with what differs from run to run taken out.
#[track_caller]
fn profile(machine: &Machine, code: i32) -> Value {
    let mut outcome = machine.run(["status", "--json"]).exits(code);
    let status = outcome.json();
    assert_eq!(status["schema"], 1);
    assert_eq!(status["profiles"].as_array().unwrap().len(), 1, "{status}");
    status["profiles"][0].clone()
}

#[test]
fn status_reports_a_valid_login_in_full() {
    let machine = Machine::new().logged_in();
    let told = profile(&machine, 0);
    let at: jiff::Timestamp = told["expires_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(at.as_second(), machine.credential()["expiry_date"].as_i64().unwrap() / 1000);
    assert!((3580..=3600).contains(&told["expires_in"].as_i64().unwrap()), "{told}");
    let expected = json!({
        "profile": "qwen",
        "provider": "qwen",
        "kind": "oauth",
        "active": true,
        "state": "valid",
        "expires_at": told["expires_at"],
        "expires_in": told["expires_in"],
        "base_url": "{server}/v1",
        "model": "coder-model",
        "path": "{home}/.qwen/oauth_creds.json",
        "problems": [],
        "overridden_by": [],
    });
    assert_eq!(told, expected);
}

#[test]
fn a_login_that_can_be_renewed_is_refreshable() {
    assert_eq!(profile(&Machine::expired(), 0)["state"], "refreshable");
}

#[test]
fn a_login_that_can_no_longer_be_renewed_is_expired() {
    assert_eq!(profile(&Machine::expired().field("refresh_token", json!(null)), 4)["state"], "expired");
}

#[test]
fn without_a_login_the_state_is_missing() {
    let told = profile(&Machine::new(), 4);
    assert_eq!(
        (&told["state"], &told["expires_at"], &told["expires_in"]),
        (&json!("missing"), &json!(null), &json!(null))
    );
}

#[test]
fn the_state_of_a_damaged_file_is_damaged() {
    assert_eq!(profile(&Machine::new().file_is("{"), 4)["state"], "damaged");
}

#[test]
fn a_rejected_host_is_a_problem() {
    let told = profile_of_any_code(&Machine::new().logged_in().field("resource_url", json!("attacker.example")));
    assert_eq!(told["problems"].as_array().unwrap().len(), 1, "{told}");
    let outcome = Machine::new().logged_in().field("resource_url", json!("attacker.example")).run(["status"]);
    let outcome = outcome.exits(4).any_stdout();
    assert!(outcome.stdout.contains("credential  access token, 59 min left"), "no server rejected it: {outcome}");
    assert!(outcome.stdout.contains("Qwen OAuth; if you trust it, add `resource_hosts = "), "{outcome}");
}

fn profile_of_any_code(machine: &Machine) -> Value {
    let mut outcome = machine.run(["status", "--json"]);
    let code = outcome.code().unwrap();
    outcome = outcome.exits(code);
    outcome.json()["profiles"][0].clone()
}

#[test]
fn variables_that_take_precedence_over_the_profile_are_named() {
    let machine =
        Machine::new().logged_in().variable("OPENAI_API_KEY", "sk-own").variable("OPENAI_BASE_URL", "http://x");
    assert_eq!(profile(&machine, 0)["overridden_by"], json!(["OPENAI_API_KEY", "OPENAI_BASE_URL"]));
}

#[test]
fn the_table_shows_the_state_of_the_login() {
    let outcome = Machine::new().logged_in().run(["status"]).any_stdout();
    for word in ["qwen (active): Qwen OAuth", "access token, 59 min left", "{server}/v1"] {
        assert!(outcome.stdout.contains(word), "{outcome}");
    }
    let nobody =
        "not logged in to any provider\nrun `qwenauth login`, or try `qwenauth sandbox --tour` without an account\n";
    Machine::new().run(["status"]).exits(4).stdout(nobody);
    let machine = Machine::new().logged_in();
    let outcome = machine.run(["status", "--profile", "groq"]).exits(4).any_stdout();
    assert!(outcome.stdout.contains("not logged in"), "another profile is stored: {outcome}");
}

#[test]
fn all_shows_the_stored_profiles() {
    let mut outcome = Machine::new().logged_in().run(["status", "--all", "--json"]);
    let told = outcome.json();
    assert_eq!(told["profiles"].as_array().unwrap().len(), 1, "{told}");
}

#[test]
fn check_asks_the_api() {
    let machine = Machine::new().logged_in().scripted(Ask::Chat, Reply::json(200, json!({"choices": []})));
    let mut outcome = machine.run(["status", "--check", "--json"]).exits(0);
    assert_eq!(outcome.json()["profiles"][0]["state"], "valid");
    let machine =
        Machine::new().logged_in().scripted(Ask::Chat, Reply::json(401, json!({"error": {"code": "invalid_api_key"}})));
    let mut outcome = machine.run(["status", "--check", "--json"]).exits(4);
    let told = outcome.json();
    assert_eq!(told["profiles"][0]["state"], "refused", "{told}");
    assert_eq!(told["profiles"][0]["problems"].as_array().unwrap().len(), 1, "{told}");
}

#[test]
fn status_writes_nothing() {
    for machine in [Machine::new().logged_in(), Machine::expired()] {
        let before = (machine.content(), machine.beside());
        drop(machine.run(["status"]).any_stdout());
        assert_eq!((machine.content(), machine.beside()), before);
    }
    let machine = Machine::new();
    drop(machine.run(["status"]).exits(4).any_stdout().any_stderr());
    assert_eq!(std::fs::read_dir(machine.home()).unwrap().count(), 0);
}

#[test]
fn what_is_not_stored_is_of_the_kind_that_its_provider_has() {
    let mut outcome = Machine::new().run(["status", "--json", "--profile", "groq"]).exits(4);
    let told = outcome.json()["profiles"][0].clone();
    assert_eq!((&told["provider"], &told["kind"]), (&json!("groq"), &json!("api_key")), "{told}");
}
