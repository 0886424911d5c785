//! A second `login`: whatever is given explicitly replaces what is stored, after its check and in one step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::keys::{KEY, answers, by_stdin, knows_the_key, machine, models, refusal};
use crate::login::polls;
use crate::machine::{Machine, write_private};
use crate::run::Outcome;
use crate::server::{Ask, Gate, Reply, Request};

const OTHER: &str = "granted-key-2";

/// Serves models to whoever brings one of the two keys.
fn knows_both(machine: Machine, path: &str) -> Machine {
    answers(machine, path, |request| if [KEY, OTHER].contains(&request.bearer()) { models() } else { refusal() })
}

/// A login with [`KEY`] at Groq.
fn at_groq() -> Machine {
    let machine = knows_both(machine(), "/groq/v1/models");
    drop(machine.run_with_stdin(by_stdin("groq", &[]), KEY.as_bytes()).any_stderr());
    machine
}

/// A login with [`KEY`] in region `cn`; `cn` and `us` know both keys, the other regions none.
fn at_dashscope() -> Machine {
    let machine = machine().variable("KEY", KEY);
    for region in ["intl", "hk"] {
        machine.server.serve(&format!("/{region}/v1/models"), |_| refusal());
    }
    let machine = knows_both(knows_both(machine, "/cn/v1/models"), "/us/v1/models");
    drop(machine.run(["login", "dashscope", "--api-key-env", "KEY", "--region", "cn"]).any_stderr());
    machine
}

/// The last event, with `…` for what differs from run to run.
fn event(outcome: &mut Outcome) -> Value {
    outcome.json_lines().pop().unwrap()
}

#[test]
fn another_key_replaces_the_stored_one() {
    for (name, give) in [("stdin", &["--api-key-stdin"][..]), ("variable", &["--api-key-env", "NEW"])] {
        let machine = at_groq().variable("NEW", OTHER);
        let arguments = [&["login", "groq", "--json"], give].concat();
        let mut outcome = machine.run_with_stdin(arguments, OTHER.as_bytes()).exits(0).any_stderr();
        let expected = json!({"event": "logged_in", "profile": "groq", "provider": "groq", "expires_at": null,
            "verified": true, "replaced": true});
        assert_eq!(event(&mut outcome), expected, "{name}");
        machine.run(["token"]).stdout("granted-key-2\n");
    }
}

#[test]
fn the_same_key_again_is_not_a_login_and_sends_nothing() {
    for arguments in [
        &["--api-key-stdin"][..],
        &["--api-key-env", "KEY"],
        &["--api-key-stdin", "--region", "cn"],
        &["--region", "cn"],
        &["--region", "beijing"],
        &[],
    ] {
        let machine = at_dashscope();
        let before = (machine.profile("dashscope"), machine.server.requests().len());
        let arguments = [&["login", "dashscope", "--json"], arguments].concat();
        let mut outcome = machine.run_with_stdin(&arguments, KEY.as_bytes()).exits(0).any_stderr();
        let expected =
            json!({"event": "already_logged_in", "profile": "dashscope", "provider": "dashscope", "expires_at": null});
        assert_eq!(event(&mut outcome), expected, "{arguments:?}");
        assert_eq!((machine.profile("dashscope"), machine.server.requests().len()), before, "{arguments:?}");
    }
}

#[test]
fn another_region_keeps_the_stored_key() {
    let machine = at_dashscope();
    let mut outcome = machine.run(["login", "dashscope", "--region", "us", "--json"]).any_stderr();
    assert_eq!(event(&mut outcome)["replaced"], true);
    let stored = machine.profile("dashscope");
    assert_eq!((&stored["api_key"], &stored["region"]), (&json!(KEY), &json!("us")));
    assert_eq!(stored["base_url"], format!("{}/us/v1", machine.server.url()));
}

#[test]
fn a_region_that_does_not_know_the_key_changes_nothing() {
    let machine = at_dashscope();
    let before = machine.profile("dashscope");
    drop(machine.run(["login", "dashscope", "--region", "hk"]).exits(4).any_stderr());
    assert_eq!(machine.profile("dashscope"), before);
}

#[test]
fn another_key_is_tried_in_the_stored_region_first() {
    let machine = at_dashscope();
    let before = machine.server.requests().len();
    drop(machine.run_with_stdin(by_stdin("dashscope", &[]), OTHER.as_bytes()).any_stderr());
    let asked: Vec<String> = machine.server.requests()[before..].iter().map(|r| r.place().to_owned()).collect();
    assert_eq!(asked, ["/cn/v1/models"]);
    assert_eq!(machine.profile("dashscope")["region"], "cn");
}

#[test]
fn another_base_url_or_model_replaces_the_stored_one() {
    let machine = knows_both(knows_both(machine(), "/own/v1/models"), "/own/v2/models");
    let url = |version| format!("{}/own/{version}", machine.server.url());
    let first = by_stdin("custom", &["--base-url"]);
    drop(machine.run_with_stdin([first, vec![&url("v1")]].concat(), KEY.as_bytes()).any_stderr());
    drop(machine.run(["login", "custom", "--base-url", &url("v2")]).any_stderr());
    let stored = machine.profile("custom");
    assert_eq!((&stored["base_url"], &stored["api_key"]), (&json!(url("v2")), &json!(KEY)), "same origin: same key");
    let mut outcome = machine.run(["login", "custom", "--model", "another", "--json"]).any_stderr();
    assert_eq!(event(&mut outcome)["replaced"], true);
    let stored = machine.profile("custom");
    assert_eq!((&stored["model"], &stored["base_url"]), (&json!("another"), &json!(url("v2"))));
    // A rotated key keeps the place and the model.
    drop(machine.run_with_stdin(by_stdin("custom", &[]), OTHER.as_bytes()).any_stderr());
    let stored = machine.profile("custom");
    assert_eq!(stored["api_key"], OTHER);
    assert_eq!((&stored["model"], &stored["base_url"]), (&json!("another"), &json!(url("v2"))));
}

#[test]
fn a_stored_key_does_not_move_to_another_host() {
    let machine = knows_the_key(machine(), "/own/v1/models");
    let url = format!("{}/own/v1", machine.server.url());
    drop(machine.run_with_stdin(by_stdin("custom", &["--base-url", &url]), KEY.as_bytes()).any_stderr());
    let foreign = crate::server::Server::start();
    foreign.serve("/v1/models", |request| if request.bearer().starts_with("granted") { models() } else { refusal() });
    let url = format!("{}/v1", foreign.url());
    drop(machine.run(["login", "custom", "--base-url", &url]).exits(4).any_stderr());
    assert!(foreign.requests().iter().all(|request| !request.bearer().contains("granted")), "the key went there");
    assert_eq!(machine.profile("custom")["api_key"], KEY);
}

#[test]
fn a_rejected_key_keeps_the_stored_login_and_its_activity() {
    let machine = at_groq();
    let before = machine.profile("groq");
    let mut outcome = machine.run_with_stdin(by_stdin("groq", &["--json"]), b"granted-key-3").exits(4).any_stderr();
    assert_eq!(event(&mut outcome)["event"], "error");
    assert_eq!(machine.profile("groq"), before);
}

#[test]
fn an_unreachable_api_keeps_the_stored_login() {
    for reply in [|_: &Request| Reply::html(503), |_: &Request| Reply::dropped(), |_: &Request| Reply::error(429, "x")]
    {
        let machine = at_groq();
        let before = machine.profile("groq");
        machine.server.serve("/groq/v1/models", reply);
        drop(machine.run_with_stdin(by_stdin("groq", &[]), OTHER.as_bytes()).exits(3).any_stderr());
        assert_eq!(machine.profile("groq"), before);
        drop(machine.run_with_stdin(by_stdin("groq", &["--no-verify"]), OTHER.as_bytes()).any_stderr());
        assert_eq!(machine.profile("groq")["api_key"], OTHER, "`--no-verify` stores it unseen");
    }
}

#[test]
fn invalid_options_are_a_usage_error_with_a_stored_login_too() {
    let machine = at_dashscope();
    let before = machine.profile("dashscope");
    for (arguments, named) in [
        (&["--api-key-env", "NOT_SET"][..], "NOT_SET"),
        (&["--region", "nowhere"], "nowhere"),
        (&["--api-key-env", "KEY", "--region", "nowhere"], "nowhere"),
        (&["--api-key-stdin"], "stdin is empty"),
        (&["--base-url", "https://dashscope.example/v1"], "dashscope.example"),
    ] {
        for json in [&[][..], &["--json"]] {
            let arguments = [&["login", "dashscope"], arguments, json].concat();
            let outcome = machine.run(&arguments).exits(2).any_stderr().any_stdout();
            assert!(outcome.stderr.contains(named), "{arguments:?}: {outcome}");
            assert!(!outcome.stdout.contains("logged_in"), "{outcome}");
        }
    }
    assert_eq!(machine.profile("dashscope"), before);
}

/// Every built-in provider with a key: rotation, and the same again.
#[test]
fn each_provider_takes_a_rotated_key() {
    let listed: Value = serde_json::from_str(&Machine::new().run(["providers", "--json"]).any_stdout().stdout).unwrap();
    let keyed = listed["providers"].as_array().unwrap().iter().filter(|provider| !provider["key"].is_null());
    let names: Vec<&str> = keyed.map(|provider| provider["provider"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 16);
    for name in names {
        let machine = Machine::new();
        let mut give = vec!["--no-verify"];
        if name == "custom" {
            give.extend(["--base-url", "http://127.0.0.1:9/v1"]);
        }
        drop(machine.run_with_stdin(by_stdin(name, &give), KEY.as_bytes()).any_stderr());
        drop(machine.run_with_stdin(by_stdin(name, &["--no-verify"]), OTHER.as_bytes()).any_stderr());
        assert_eq!(machine.profile(name)["api_key"], OTHER, "{name}");
        let mut outcome =
            machine.run_with_stdin(by_stdin(name, &["--no-verify", "--json"]), OTHER.as_bytes()).any_stderr();
        assert_eq!(event(&mut outcome)["event"], "already_logged_in", "{name}");
    }
}

#[test]
fn a_model_for_a_device_login_is_stored_without_a_new_login() {
    let machine = Machine::new().scripted(Ask::Chat, crate::login::chat());
    let mut stored = crate::machine::credential("1");
    (stored["provider"], stored["resource_url"]) = (json!("qwen"), json!(machine.server.url()));
    write_private(&machine.profiles().join("work.json"), stored.to_string());
    let change = ["login", "qwen", "--profile", "work", "--model", "vision-model", "--json"];
    let events = machine.run(change).any_stderr().json_lines();
    assert_eq!(events.len(), 1, "no code was asked for");
    assert_eq!((&events[0]["event"], &events[0]["replaced"]), (&json!("logged_in"), &json!(true)));
    assert_eq!(machine.profile("work")["refresh_token"], "granted-refresh-1");
    machine.shell("$QWENAUTH exec -- sh -c 'echo $OPENAI_MODEL'").stdout("vision-model\n");
    let events = machine.run(change).any_stderr().json_lines();
    assert_eq!(events[0]["event"], "already_logged_in");
    for (reply, code) in [(Reply::html(503), 3), (Reply::error(401, "x"), 4)] {
        machine.server.script(Ask::Chat, reply);
        let change = ["login", "qwen", "--profile", "work", "--model", "another"];
        drop(machine.run(change).exits(code).any_stderr());
        assert_eq!(machine.profile("work")["model"], "vision-model");
    }
}

#[test]
fn another_provider_in_a_profile_is_another_login() {
    let machine = at_groq();
    drop(machine.run(["login", "fireworks", "--profile", "groq"]).exits(2).any_stderr());
    let arguments = ["login", "fireworks", "--profile", "groq", "--api-key-stdin", "--no-verify", "--json"];
    let mut outcome = machine.run_with_stdin(arguments, OTHER.as_bytes()).any_stderr();
    assert_eq!(event(&mut outcome)["replaced"], true);
    assert_eq!(
        (&machine.profile("groq")["provider"], &machine.profile("groq")["api_key"]),
        (&json!("fireworks"), &json!(OTHER))
    );
}

#[test]
fn a_second_login_that_joins_reports_what_is_known() {
    let gate = Gate::default();
    let machine = polls([]);
    let reply = crate::login::grant(&machine).after(&gate);
    let machine = machine.scripted(Ask::Poll, reply);
    let machine = machine.scripted(Ask::Chat, crate::login::chat()).scripted(Ask::Chat, crate::login::chat());
    let first = machine.spawn(["login", "--json"]);
    machine.server.wait_for(Ask::Poll, 1);
    let second = machine.spawn(["login", "--json"]);
    second.wait_for_stdout("device_code");
    gate.open();
    for run in [first, second] {
        let mut outcome = run.finish().exits(0).any_stderr();
        assert_eq!(event(&mut outcome)["verified"], true);
    }
}

#[test]
fn without_a_model_no_chat_request_is_sent_and_the_login_is_not_verified() {
    let machine = answers(machine(), "/own/v1/models", |_| Reply::json(200, json!({"data": []})));
    let machine = answers(machine, "/own/v1/chat/completions", |_| panic!("a request without a model"));
    let url = format!("{}/own/v1", machine.server.url());
    let mut outcome =
        machine.run_with_stdin(by_stdin("custom", &["--base-url", &url, "--json"]), KEY.as_bytes()).any_stderr();
    assert_eq!(event(&mut outcome)["verified"], false);
    assert!(machine.server.at("/own/v1/chat/completions").is_empty());
}

#[test]
fn a_key_that_the_api_has_rejected_is_verified_again() {
    let serves = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&serves);
    let machine = answers(machine().variable("KEY", KEY), "/groq/v1/models", move |request| {
        if switch.load(Ordering::SeqCst) && request.bearer() == KEY { models() } else { refusal() }
    });
    drop(machine.run_with_stdin(by_stdin("groq", &[]), KEY.as_bytes()).any_stderr());
    let before = machine.profile("groq");
    serves.store(false, Ordering::SeqCst);
    drop(machine.run(["status", "--check"]).exits(4).any_stdout());
    for more in [&[][..], &["--api-key-stdin", "--json"], &["--api-key-env", "KEY"]] {
        let arguments = [&["login", "groq"], more].concat();
        let outcome = machine.run_with_stdin(&arguments, KEY.as_bytes()).exits(4).any_stdout().any_stderr();
        assert!(outcome.stderr.contains("rejected the key"), "{outcome}");
        assert_eq!(machine.profile("groq"), before, "{arguments:?}");
        drop(machine.run(["status"]).exits(4).any_stdout());
    }
    serves.store(true, Ordering::SeqCst);
    drop(machine.run(["login", "groq"]).exits(0).any_stderr());
    drop(machine.run(["status"]).exits(0).any_stdout());
}

#[test]
fn a_token_that_no_command_would_use_is_no_login() {
    let ending = || polls([]).granted().logged_in();
    for machine in [
        ending().field("refresh_token", Value::Null).expires_in(25),
        ending().granted_by("http://127.0.0.1:1").expires_in(10),
    ] {
        drop(machine.run(["token"]).exits(4).any_stderr());
        drop(machine.run(["login"]).exits(0).any_stderr());
        assert_eq!(machine.server.asked(Ask::Poll).len(), 1, "it logged in");
    }
}
