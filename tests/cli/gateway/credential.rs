//! The credential behind the gateway: renewed, replaced, gone.

use std::fs::{self, File};
use std::io::Write;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::json;

use super::upstream::{CHAT, Gateway, Upstream, error, fine, logged_in};
use crate::faults::preloaded;
use crate::machine::{Machine, credential};
use crate::server::{Ask, Gate, Reply};

const OLD: &str = "Bearer granted-access-1";

/// Serves what is not the first token.
fn refusing_the_first() -> Upstream {
    Upstream::start(|_, asked, connection| {
        let refused = error("401 Unauthorized", "", "invalid_api_key", "invalid access token or token expired");
        connection.write_all(&if asked.header("authorization") == OLD { refused } else { fine() })
    })
}

#[test]
fn a_token_about_to_expire_is_renewed_before_the_request() {
    let upstream = refusing_the_first();
    let machine = logged_in(&upstream).expires_in(20).refresh(Reply::tokens("2"));
    let gateway = Gateway::start(&machine, &[]);
    assert_eq!(gateway.chat().is(200).header("x-qwenauth-attempts"), "1");
    assert_eq!(upstream.asked()[0].header("authorization"), "Bearer granted-access-2");
}

#[test]
fn requests_rejected_together_share_one_renewal_and_are_all_retried() {
    let upstream = refusing_the_first();
    let machine = logged_in(&upstream).refresh(Reply::tokens("2"));
    let gateway = Gateway::start(&machine, &[]);
    for got in gateway.many(30) {
        got.is(200);
    }
    assert_eq!(machine.server.asked(Ask::Refresh).len(), 1);
    assert_eq!(upstream.asked().last().unwrap().body, CHAT);
    assert_eq!(machine.credential()["access_token"], "granted-access-2");
}

#[test]
fn a_rejected_token_that_was_already_replaced_is_not_renewed() {
    let gate = Gate::default();
    let opened = gate.clone();
    let upstream = Upstream::start(move |number, asked, connection| {
        if number == 0 {
            gate.pass();
        }
        let refused = error("401 Unauthorized", "", "invalid_api_key", "invalid access token or token expired");
        connection.write_all(&if asked.header("authorization") == OLD { refused } else { fine() })
    });
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    let client = gateway.send("POST /v1/chat/completions", "", CHAT);
    upstream.wait_for(1);
    let mut other = credential("other");
    other["resource_url"] = json!(format!("http://{}", upstream.address));
    let machine = machine.credential_is(other);
    opened.open();
    client.got().is(200);
    assert_eq!(upstream.asked()[1].header("authorization"), "Bearer granted-access-other");
    assert!(machine.server.asked(Ask::Refresh).is_empty());
}

#[test]
fn a_retried_request_is_marked_in_its_response() {
    let upstream = refusing_the_first();
    let machine = logged_in(&upstream).refresh(Reply::tokens("2"));
    assert_eq!(Gateway::start(&machine, &[]).chat().is(200).header("x-qwenauth-attempts"), "2");
}

#[test]
fn a_request_too_long_to_keep_is_not_retried() {
    let upstream = refusing_the_first();
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &["--replay-limit", "10"]);
    assert_eq!(gateway.chat().is(401).code(), "invalid_api_key");
    assert_eq!(upstream.asked().len(), 1);
}

#[test]
fn a_token_rejected_right_after_its_renewal_means_the_account_is_rejected() {
    let refused = error("401 Unauthorized", "", "invalid_api_key", "invalid access token or token expired");
    let upstream = Upstream::always(refused);
    let machine = logged_in(&upstream).refresh(Reply::tokens("2"));
    let gateway = Gateway::start(&machine, &[]);
    let since = Instant::now();
    let got = gateway.chat();
    assert_eq!((got.is(401).code().as_str(), got.header("x-should-retry")), ("account_ended", "false"));
    let message = got.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("the plan or account has ended") && message.contains("qwenauth login"), "{message}");
    assert!(message.contains("invalid access token"), "{message}");
    assert_eq!(upstream.asked().len(), 2);
    // The next one is renewed after 10 s, and nothing is reported again.
    for _ in 0..3 {
        gateway.chat().is(401);
    }
    renews_every_ten_seconds(&machine, since);
    assert_eq!(stderr_of(gateway).matches("the plan or account has ended").count(), 1);
}

/// From `since` on: at once, and every 10 s at most.
#[track_caller]
fn renews_every_ten_seconds(machine: &Machine, since: Instant) {
    let renewals = machine.server.asked(Ask::Refresh).len() as u64;
    assert!((1..=1 + since.elapsed().as_secs() / 10).contains(&renewals), "{renewals}");
}

fn stderr_of(gateway: Gateway) -> String {
    gateway.running.signal(Signal::SIGTERM);
    gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout().any_stderr().stderr.clone()
}

/// One for administrators.
#[test]
fn a_path_that_rejects_each_token_says_nothing_of_the_account() {
    let upstream = Upstream::start(|_, asked, connection| {
        let refused = error("401 Unauthorized", "", "admins_only", "for administrators");
        connection.write_all(&if asked.line.contains("/admin") { refused } else { fine() })
    });
    let machine = logged_in(&upstream).refresh(Reply::tokens("2"));
    let gateway = Gateway::start(&machine, &[]);
    let since = Instant::now();
    for _ in 0..6 {
        assert_eq!(gateway.send("GET /v1/admin", "", b"").got().is(401).code(), "admins_only");
    }
    renews_every_ten_seconds(&machine, since);
    gateway.send("GET /readyz", "", b"").got().is(200);
    assert_ne!(machine.run(["status", "--json"]).json()["profiles"][0]["state"], "refused");
    gateway.chat().is(200);
    assert!(!stderr_of(gateway).contains("account"));
}

#[test]
fn a_403_is_about_policy_unless_its_code_names_the_token() {
    let upstream = Upstream::always(error("403 Forbidden", "", "access_denied", "not from this region"));
    let machine = logged_in(&upstream);
    assert_eq!(Gateway::start(&machine, &[]).chat().is(403).code(), "access_denied");
    assert_eq!(upstream.asked().len(), 1);

    let upstream = Upstream::start(|_, asked, connection| {
        let refused = error("403 Forbidden", "", "invalid_api_key", "no");
        connection.write_all(&if asked.header("authorization") == OLD { refused } else { fine() })
    });
    let machine = logged_in(&upstream).refresh(Reply::tokens("2"));
    Gateway::start(&machine, &[]).chat().is(200);
}

#[test]
fn a_login_made_elsewhere_serves_the_next_request() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    gateway.chat().is(200);
    let mut other = credential("other");
    other["resource_url"] = json!(format!("http://{}", upstream.address));
    let machine = machine.credential_is(other);
    gateway.chat().is(200);
    assert_eq!(upstream.asked()[1].header("authorization"), "Bearer granted-access-other");
    drop(machine);
}

#[test]
fn without_a_credential_the_gateway_returns_an_error_until_there_is_one() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    gateway.chat().is(200);
    let content = machine.content();
    fs::remove_file(machine.file()).unwrap();
    for _ in 0..2 {
        let got = gateway.chat();
        assert_eq!((got.is(503).code().as_str(), got.header("x-should-retry")), ("login_required", "false"));
        assert!(got.text().contains("run `qwenauth login`"), "{}", got.text());
    }
    let machine = machine.file_is(content);
    gateway.chat().is(200);
    drop(machine);
}

#[test]
fn a_temporarily_failed_renewal_fails_no_request_while_the_token_is_valid() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream).expires_in(25);
    machine.server.always(Ask::Refresh, || Reply::html(403));
    let gateway = Gateway::start(&machine, &[]);
    gateway.chat().is(200);
    gateway.chat().is(200);
}

#[test]
fn a_temporarily_failed_renewal_is_a_503_with_retry_after() {
    let upstream = refusing_the_first();
    let machine = logged_in(&upstream);
    machine.server.always(Ask::Refresh, || Reply::html(403));
    let got = Gateway::start(&machine, &[]).chat();
    assert_eq!((got.is(503).code().as_str(), got.header("retry-after")), ("credential_unavailable", "5"));
    assert_eq!(machine.credential()["refresh_token"], "granted-refresh-1");
}

#[test]
fn a_clock_that_jumps_by_an_hour_and_back_fails_no_request_and_causes_at_most_one_renewal() {
    for (seconds, renewals) in [(3600, 1), (-3600, 0)] {
        let upstream = Upstream::always(fine());
        let machine = logged_in(&upstream).expires_in(1800);
        let jumped = machine.directory().join("jumped");
        let jump = format!("{}:0:{seconds}", jumped.display());
        let Some(machine) = preloaded(machine, "JUMP", &jump) else { return };
        machine.server.always(Ask::Refresh, || Reply::tokens("2"));
        let gateway = Gateway::start(&machine, &["--rpm", "21"]);
        gateway.chat().is(200);
        File::create(&jumped).unwrap();
        for got in gateway.many(10) {
            got.is(200);
        }
        assert_eq!(machine.server.asked(Ask::Refresh).len(), renewals, "{seconds} s");
        fs::remove_file(&jumped).unwrap();
        for got in gateway.many(10) {
            assert_eq!(got.is(200).header("x-qwenauth-wait-ms"), "0");
        }
        assert_eq!(machine.server.asked(Ask::Refresh).len(), renewals, "{seconds} s, and back");
        // The minute is counted by another clock: it is as long as it was.
        let waiting = gateway.send("POST /v1/chat/completions", "", CHAT);
        gateway.running.wait_for_stderr("request delayed");
        drop(waiting);
        assert_eq!(upstream.asked().len(), 21);
    }
}

#[test]
fn a_request_that_waits_while_a_renewal_fails_shares_its_failure() {
    let gate = Gate::default();
    let upstream = refusing_the_first();
    let machine = logged_in(&upstream);
    machine.server.always(Ask::Refresh, || Reply::html(403));
    machine.server.script(Ask::Refresh, Reply::html(403).after(&gate));
    let gateway = Gateway::start(&machine, &[]);
    let first = gateway.send("POST /v1/chat/completions", "", CHAT);
    machine.server.wait_for(Ask::Refresh, 1);
    let second = gateway.send("POST /v1/chat/completions", "", CHAT);
    upstream.wait_for(2);
    // Answered by the same thread, after what came before.
    for _ in 0..3 {
        gateway.send("GET /healthz", "", b"").got().is(200);
    }
    gate.open();
    for client in [first, second] {
        assert_eq!(client.got().is(503).code(), "credential_unavailable");
    }
    assert_eq!(machine.server.asked(Ask::Refresh).len(), 1);
}
