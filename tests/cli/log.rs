//! `QWENAUTH_LOG`: for each command, a wait and a failure can be explained from the log alone, and no secret is in it.

use std::fs::{self, File};
use std::io::Write;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::gateway::upstream::{Gateway, Upstream, error, fine, logged_in};
use crate::login::polls;
use crate::machine::Machine;
use crate::run::Outcome;
use crate::server::{Ask, Reply};

/// The lines of the log, without what else is on stderr.
fn lines(outcome: &Outcome) -> Vec<&str> {
    outcome.stderr.lines().filter(|line| line.starts_with('[') && line.contains(" qwenauth")).collect()
}

#[track_caller]
fn has(outcome: &Outcome, texts: &[&str]) {
    let lines = lines(outcome);
    for text in texts {
        assert!(lines.iter().any(|line| line.contains(text)), "`{text}` is not in the log:\n{}", outcome.stderr);
    }
    assert!(!outcome.stderr.contains("granted-"), "a secret in the log: {}", outcome.stderr);
}

fn logging(machine: Machine, level: &str) -> Machine {
    machine.variable("QWENAUTH_LOG", level)
}

/// Runs a command that has to wait for the lock of the credential, which another process holds.
fn waits_for_the_lock(machine: &Machine, arguments: &[&str]) {
    let held = File::create(machine.kernel_lock()).unwrap();
    fs2::FileExt::lock_exclusive(&held).unwrap();
    let running = machine.spawn(arguments);
    running.wait_for_stderr("waiting for the lock");
    fs2::FileExt::unlock(&held).unwrap();
    let outcome = running.finish().exits(0).any_stdout().any_stderr();
    has(&outcome, &["waiting for the lock `{home}/.qwen/.oauth_creds.qwenauth-lock`", "waited ", "profile `qwen`"]);
}

#[test]
fn every_command_that_renews_or_stores_logs_its_wait_for_another_process() {
    for arguments in [&["token"][..], &["env"], &["exec", "--", "true"], &["refresh"]] {
        let machine = logging(Machine::expired().refresh(Reply::tokens("2")), "info");
        waits_for_the_lock(&machine, arguments);
    }
    let machine = logging(Machine::new().logged_in(), "info");
    waits_for_the_lock(&machine, &["logout"]);
    let machine = logging(polls([]).granted(), "info");
    fs::create_dir(machine.qwen()).unwrap();
    waits_for_the_lock(&machine, &["login"]);
}

#[test]
fn a_renewal_that_fails_is_explained_by_its_requests() {
    for arguments in [&["token"][..], &["env"], &["exec", "--", "true"], &["refresh"], &["gateway"]] {
        let machine = logging(Machine::expired(), "debug");
        machine.server.always(Ask::Refresh, || Reply::html(503));
        let running = machine.spawn(arguments);
        let outcome = if arguments == ["gateway"] {
            // It serves, and answers 503 until there is a token again.
            running.first_lines(2);
            running.signal(Signal::SIGTERM);
            running.finish().dies_by(Signal::SIGTERM).any_stdout().any_stderr()
        } else {
            running.finish().exits(3).any_stdout().any_stderr()
        };
        if arguments != ["refresh"] {
            has(&outcome, &["the token of `qwen` is valid for 0 s, less than "]);
        }
        has(
            &outcome,
            &["renewing the token of `qwen`", "POST {address}/api/v1/oauth2/token: 503 in ", "renewing again in "],
        );
    }
}

#[test]
fn a_host_that_cannot_be_reached_is_named() {
    let machine = logging(Machine::expired(), "debug").variable("QWENAUTH_QWEN_OAUTH_URL", "http://127.0.0.1:9");
    let outcome = machine.run(["token"]).exits(3).any_stdout().any_stderr();
    has(&outcome, &["POST 127.0.0.1:9/api/v1/oauth2/token: failed after "]);
}

#[test]
fn at_level_info_only_decisions_are_logged() {
    let machine = logging(Machine::new().logged_in(), "info");
    let outcome = machine.run(["token"]).stdout("granted-access-1\n").any_stderr();
    let lines = lines(&outcome);
    assert_eq!(lines.len(), 2, "{}", outcome.stderr);
    has(&outcome, &["credential file `{home}/.qwen/oauth_creds.json`", "s more and is used"]);
}

#[test]
fn a_device_login_logs_its_waits_and_its_end() {
    let machine = polls([Reply::error(400, "authorization_pending"), Reply::error(400, "access_denied")]);
    let machine = logging(machine, "debug");
    let outcome = machine.run(["login"]).exits(4).any_stdout().any_stderr();
    has(
        &outcome,
        &[
            "POST {address}/api/v1/oauth2/device/code: 200 in ",
            "POST {address}/api/v1/oauth2/token: 400 in ",
            "not approved yet; the server is asked every ",
        ],
    );
}

#[test]
fn a_key_login_logs_its_requests_and_what_it_wrote() {
    let machine = logging(crate::keys::knows_the_key(crate::keys::machine(), "/groq/v1/models"), "debug");
    let outcome = machine.run_with_stdin(crate::keys::by_stdin("groq", &[]), b"granted-key-1\n").exits(0).any_stderr();
    has(
        &outcome,
        &["GET {address}/groq/v1/models: 200 in ", "wrote `{home}/.local/share/qwenauth/credentials/groq.json`"],
    );
    let machine = logging(crate::keys::refuses(crate::keys::machine(), "/groq/v1/models"), "debug");
    let outcome = machine.run_with_stdin(crate::keys::by_stdin("groq", &[]), b"granted-key-1\n").exits(4).any_stderr();
    has(&outcome, &["GET {address}/groq/v1/models: 401 in "]);
}

#[test]
fn status_doctor_and_usage_log_their_requests() {
    let machine = logging(Machine::new().logged_in(), "debug");
    machine.server.always(Ask::Chat, || Reply::html(502));
    let outcome = machine.run(["status", "--check"]).any_stdout().any_stderr();
    has(&outcome, &["POST {address}/v1/chat/completions: 502 in "]);
    drop(outcome);
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    let outcome = machine.run(["doctor"]).any_stdout().any_stderr();
    has(&outcome, &["GET {address}/: 404 in "]);
    drop(outcome.exits(0));
    let machine = Machine::new().configured("[providers.openrouter]\nbase_url = \"{server}/api/v1\"\n");
    machine.server.serve("/api/v1/key", |_| Reply::json(200, json!({"data": {"limit": 5.0, "limit_remaining": 1.25}})));
    drop(machine.run_with_stdin(crate::keys::by_stdin("openrouter", &[]), b"granted-key-1\n").exits(0).any_stderr());
    let outcome = logging(machine, "debug").run(["usage", "--check"]).any_stdout().any_stderr();
    has(&outcome, &["GET {address}/api/v1/key: 200 in "]);
}

#[test]
fn commands_without_requests_log_what_they_read_and_wrote() {
    let machine = logging(Machine::new().logged_in(), "info");
    let outcome = machine.run(["setup", "qwen-code"]).any_stdout().any_stderr();
    has(&outcome, &["wrote `{home}/.qwen/settings.json`"]);
    drop(outcome.exits(0));
    for arguments in [&["profiles"][..], &["use", "qwen"], &["usage"], &["status"], &["logout"]] {
        let outcome = machine.run(arguments).any_stdout().any_stderr();
        has(&outcome, &["profile `qwen`"]);
        drop(outcome.exits(0));
    }
}

#[test]
fn header_names_are_logged_at_level_trace_and_their_values_never() {
    let machine = logging(Machine::new().logged_in(), "trace");
    machine.server.always(Ask::Chat, || Reply::json(200, json!({"choices": []})));
    let outcome = machine.run(["status", "--check"]).any_stdout().any_stderr();
    has(&outcome, &["POST {address}/v1/chat/completions: headers accept, content-type, "]);
    let line = lines(&outcome).into_iter().find(|line| line.contains(": headers ")).unwrap();
    assert!(line.contains("authorization") && !line.to_lowercase().contains("bearer"), "{line}");
}

#[test]
fn an_unknown_log_level_is_reported_and_logs_at_info() {
    let machine = logging(Machine::new().logged_in(), "loud");
    let outcome = machine.run(["token"]).any_stdout().any_stderr();
    has(
        &outcome,
        &["`QWENAUTH_LOG` is not one of off, error, warn, info, debug, trace; `info` is used", "profile `qwen`"],
    );
}

/// What a gateway logs while a client sends one request, which is answered with `status`.
fn of_a_gateway(machine: Machine, level: &str, arguments: &[&str], requests: usize, status: u16) -> Outcome {
    let machine = logging(machine, level);
    let gateway = Gateway::start(&machine, arguments);
    for _ in 0..requests {
        gateway.chat().is(status);
    }
    gateway.running.signal(Signal::SIGTERM);
    gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout().any_stderr()
}

#[test]
fn a_gateway_logs_why_a_request_waited_or_was_rejected() {
    let upstream = Upstream::start(|number, _, connection| {
        let busy = error("429 Too Many Requests", "Retry-After: 1\r\n", "x", "requests per minute");
        connection.write_all(&if number == 0 { busy } else { fine() })
    });
    let outcome = of_a_gateway(logged_in(&upstream), "info", &[], 1, 200);
    has(&outcome, &["`qwen` answered 429: ", "After(1"]);
    let upstream = Upstream::always(error("429 Too Many Requests", "", "x", "requests per day: the limit is reached"));
    let outcome = of_a_gateway(logged_in(&upstream), "info", &[], 1, 429);
    has(&outcome, &["`qwen` answered 429: "]);
}

#[test]
fn a_gateway_logs_a_rejected_token_and_its_renewal() {
    let upstream = Upstream::start(|_, asked, connection| {
        let old = asked.header("authorization") == "Bearer granted-access-1";
        let refused = error("401 Unauthorized", "", "invalid_api_key", "no");
        connection.write_all(&if old { refused } else { fine() })
    });
    let outcome = of_a_gateway(logged_in(&upstream).refresh(Reply::tokens("2")), "debug", &[], 1, 200);
    has(
        &outcome,
        &[
            "`qwen` rejected the token; renewing it unless that has already been done",
            "renewing the token of `qwen`",
            "POST {address}/api/v1/oauth2/token: 200 in ",
        ],
    );
}

#[test]
fn queries_of_urls_are_not_logged() {
    let machine = Machine::new().configured(
        "[providers.mine]\nbase_url = \"{server}/v1\"\nkey = { variables = [\"MINE\"] }\nverify = { get = \"{server}/who?token=in-the-query\" }\n",
    );
    machine.server.serve("/who", |_| Reply::json(200, json!({})));
    machine.server.serve("/v1/models", |_| Reply::json(404, json!({})));
    let outcome = logging(machine, "trace")
        .run_with_stdin(crate::keys::by_stdin("mine", &["--model", "m"]), b"granted-key-1\n")
        .any_stdout()
        .any_stderr();
    has(&outcome, &["GET {address}/who: 200 in "]);
    assert!(!outcome.stderr.contains("in-the-query"), "{outcome}");
}
