//! Renewal: what is printed and what the file holds when it succeeds.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::issuer::issuer;
use crate::machine::{Machine, credential, now_ms, possible, write_private};
use crate::server::{Ask, Reply, tokens};

pub(crate) const LOGIN: &str = "run `qwenauth login`";

/// The renewed credential, field by field, with six hours left.
#[track_caller]
pub(crate) fn holds_the_renewal(machine: &Machine, refresh_token: &str) {
    let mut credential = machine.credential();
    let left = credential["expiry_date"].as_i64().unwrap() - now_ms();
    assert!((21_500_000..=21_600_000).contains(&left), "{left} ms left");
    credential["expiry_date"] = json!("…");
    let expected = json!({
        "access_token": "granted-access-2",
        "refresh_token": refresh_token,
        "token_type": "Bearer",
        "resource_url": machine.server.url(),
        "expiry_date": "…",
    });
    assert_eq!(credential, expected);
}

fn tokens_without(name: &str) -> Reply {
    let mut answer = tokens("2");
    answer.as_object_mut().unwrap().remove(name);
    Reply::json(200, answer)
}

fn tokens_with(name: &str, value: Value) -> Reply {
    let mut answer = tokens("2");
    answer[name] = value;
    Reply::json(200, answer)
}

#[test]
fn an_expired_token_is_renewed() {
    let machine = Machine::expired().refresh(Reply::tokens("2"));
    machine.run(["token"]).stdout("granted-access-2\n");
    holds_the_renewal(&machine, "granted-refresh-2");
    assert_eq!(machine.server.asked(Ask::Refresh)[0].field("refresh_token"), "granted-refresh-1");
}

#[test]
fn a_renewal_reads_the_credential_four_times_at_most() {
    let strace = Command::new("strace").args(["-f", "true"]).stderr(Stdio::null()).status();
    if !possible(strace.is_ok_and(|status| status.success()), "trace system calls") {
        return;
    }
    let machine = Machine::expired().refresh(Reply::tokens("2"));
    let log = machine.directory().join("calls");
    let mut strace = machine.other("strace");
    strace.args(["-f", "-e", "trace=open,openat", "-o"]).arg(&log).arg(machine.program()).arg("token");
    machine.start(strace).finish().stdout("granted-access-2\n");
    let calls = fs::read_to_string(log).unwrap();
    let reads = calls.lines().filter(|call| call.contains("/oauth_creds.json\"") && !call.contains("O_CREAT"));
    // Fresh? · under the lock · before it is sent · after the answer.
    assert_eq!(reads.count(), 4, "{calls}");
}

#[test]
fn a_renewal_of_another_profile_reads_its_credential_four_times_at_most() {
    let strace = Command::new("strace").args(["-f", "true"]).stderr(Stdio::null()).status();
    if !possible(strace.is_ok_and(|status| status.success()), "trace system calls") {
        return;
    }
    let machine = issuer(json!({}));
    drop(machine.run(["login", "corp", "--no-verify", "--qr", "never"]).any_stderr());
    let log = machine.directory().join("calls");
    let mut strace = machine.other("strace");
    strace.args(["-f", "-e", "trace=open,openat", "-o"]).arg(&log).arg(machine.program()).arg("refresh");
    machine.start(strace).finish().any_stderr();
    let calls = fs::read_to_string(log).unwrap();
    let reads = calls.lines().filter(|call| call.contains("/corp.json\"") && !call.contains("O_CREAT"));
    assert_eq!(reads.count(), 4, "{calls}");
}

#[test]
fn refresh_renews_a_valid_token_too() {
    let machine = Machine::new().logged_in().refresh(Reply::tokens("2"));
    machine.run(["refresh"]);
    holds_the_renewal(&machine, "granted-refresh-2");
}

#[test]
fn refresh_without_a_login_requires_one() {
    Machine::new().run(["refresh"]).fails(4, "not logged in: there is no credential for `qwen`", LOGIN);
}

#[test]
fn a_reply_without_refresh_token_keeps_the_old_one() {
    let machine = Machine::expired().refresh(tokens_without("refresh_token"));
    machine.run(["token"]).stdout("granted-access-2\n");
    holds_the_renewal(&machine, "granted-refresh-1");
}

#[test]
fn an_empty_refresh_token_never_replaces_a_good_one() {
    for empty in [json!(""), json!(null)] {
        let machine = Machine::expired().refresh(tokens_with("refresh_token", empty));
        machine.run(["token"]).stdout("granted-access-2\n");
        holds_the_renewal(&machine, "granted-refresh-1");
    }
}

#[test]
fn a_reply_without_resource_url_keeps_the_old_one() {
    let machine = Machine::expired().refresh(tokens_without("resource_url"));
    machine.run(["token"]).stdout("granted-access-2\n");
    holds_the_renewal(&machine, "granted-refresh-2");
}

#[test]
fn an_empty_resource_url_or_token_type_never_replaces_a_good_one() {
    for name in ["resource_url", "token_type"] {
        let machine = Machine::expired().refresh(tokens_with(name, json!("")));
        machine.run(["token"]).stdout("granted-access-2\n");
        holds_the_renewal(&machine, "granted-refresh-2");
    }
}

#[test]
fn a_new_resource_url_replaces_the_old_one() {
    let machine = Machine::expired().refresh(tokens_with("resource_url", json!("portal.qwen.ai")));
    machine.run(["token"]).stdout("granted-access-2\n");
    assert_eq!(machine.credential()["resource_url"], "portal.qwen.ai");
}

#[test]
fn a_reply_without_expires_in_still_makes_a_credential_qwen_code_can_read() {
    let machine = Machine::expired().refresh(tokens_without("expires_in"));
    machine.run(["token"]).stdout("granted-access-2\n");
    let renewed = machine.credential();
    assert_eq!(renewed["refresh_token"], "granted-refresh-2");
    assert!(renewed["expiry_date"].as_i64().unwrap() > now_ms());
}

#[test]
fn an_absurd_lifetime_is_survived() {
    for absurd in [json!(u64::MAX), json!(1e300), json!(-5)] {
        let machine = Machine::expired().refresh(tokens_with("expires_in", absurd));
        let outcome = machine.run(["refresh"]);
        let code = outcome.code();
        drop(outcome.any_stderr().exits(code.unwrap()));
        assert_eq!(machine.credential()["refresh_token"], "granted-refresh-2", "what was spent must be saved");
        assert!(machine.credential()["expiry_date"].is_i64());
    }
}

#[test]
fn a_lifetime_written_as_text_is_understood() {
    let machine = Machine::expired().refresh(tokens_with("expires_in", json!("21600")));
    machine.run(["token"]).stdout("granted-access-2\n");
    holds_the_renewal(&machine, "granted-refresh-2");
}

#[test]
fn fields_of_other_programs_survive_a_renewal() {
    let machine = Machine::expired().field("id_token", json!("x")).field("extra", json!({"a": [1, 2.5, null]}));
    let machine = machine.refresh(Reply::tokens("2"));
    machine.run(["token"]).stdout("granted-access-2\n");
    let renewed = machine.credential();
    assert_eq!((&renewed["id_token"], &renewed["extra"]), (&json!("x"), &json!({"a": [1, 2.5, null]})));
}

#[test]
fn a_malformed_optional_field_does_not_lose_the_tokens_of_the_response() {
    for (field, odd) in
        [("scope", json!(["openid"])), ("token_type", json!(5)), ("resource_url", json!({})), ("status", json!(1))]
    {
        let machine = Machine::expired().refresh(tokens_with(field, odd));
        machine.run(["token"]).stdout("granted-access-2\n");
        holds_the_renewal(&machine, "granted-refresh-2");
    }
}

#[test]
fn space_for_the_new_tokens_is_reserved_before_the_old_one_is_sent() {
    let (tell, told) = mpsc::channel();
    let machine = Machine::expired();
    let directory = machine.qwen();
    let reply = Reply::tokens("2").meanwhile(move || {
        let length = |entry: fs::DirEntry| {
            let temporary = entry.file_name().to_string_lossy().ends_with(".tmp");
            temporary.then(|| entry.metadata().unwrap()).map(|metadata| (metadata.len(), metadata.mode() & 0o7777))
        };
        tell.send(fs::read_dir(directory).unwrap().flatten().find_map(length)).unwrap();
    });
    machine.refresh(reply).run(["token"]).stdout("granted-access-2\n");
    let (length, mode) = told.recv().unwrap().expect("no temporary file");
    assert!(length > 1000, "{length}");
    assert_eq!(mode, 0o600);
}

#[test]
fn a_credential_removed_during_its_renewal_is_still_saved() {
    let machine = Machine::expired();
    let file = machine.file();
    let machine = machine.refresh(Reply::tokens("2").meanwhile(move || fs::remove_file(file).unwrap()));
    machine.run(["token"]).stdout("granted-access-2\n");
    holds_the_renewal(&machine, "granted-refresh-2");
}

#[test]
fn an_expired_login_written_during_a_renewal_does_not_replace_what_was_granted() {
    let machine = Machine::expired();
    let (file, mut other) = (machine.file(), credential("other"));
    other["resource_url"] = json!(machine.server.url());
    other["expiry_date"] = json!(now_ms() - 1000);
    let machine = machine.refresh(Reply::tokens("2").meanwhile(move || write_private(&file, other.to_string())));
    machine.run(["token"]).stdout("granted-access-2\n");
    holds_the_renewal(&machine, "granted-refresh-2");
}

#[test]
fn a_login_that_qwen_code_makes_during_a_renewal_is_kept() {
    let machine = Machine::expired();
    let (file, mut other) = (machine.file(), credential("other"));
    other["resource_url"] = json!(machine.server.url());
    let text = serde_json::to_string_pretty(&other).unwrap();
    let replaced = text.clone();
    let machine = machine.refresh(Reply::tokens("2").meanwhile(move || write_private(&file, replaced)));
    machine.run(["token"]).stdout("granted-access-other\n");
    assert_eq!(machine.content(), text);
}

#[test]
fn a_login_without_refresh_token_requires_a_new_login_once_it_has_expired() {
    let machine = Machine::expired().field("refresh_token", Value::Null);
    machine.run(["token"]).fails(4, "the token has expired and the login has no refresh token", LOGIN);
}

#[test]
fn a_valid_token_without_refresh_token_is_not_said_to_have_expired_or_to_renew() {
    let machine = Machine::new().logged_in().field("refresh_token", Value::Null).expires_in(299);
    machine.run(["refresh"]).fails(4, "the login has no refresh token", LOGIN);
    let outcome = machine.run(["token", "--min-ttl", "1h"]).exits(5).any_stderr();
    let said = "less than the requested 1 h 0 min, and the login has no refresh token\nqwenauth: hint: use a smaller `--min-ttl`\n";
    assert!(outcome.stderr.starts_with("qwenauth: error: the token is valid for 4 min"), "{outcome}");
    assert!(outcome.stderr.ends_with(said), "{outcome}");
    for command in [&["env"][..], &["exec", "--", "true"]] {
        let outcome = machine.run(command).exits(0).any_stdout().any_stderr();
        let said = "qwenauth: warning: the login has no refresh token; the current token is valid for another 4 min";
        assert!(outcome.stderr.starts_with(said), "{outcome}");
    }
    let outcome = machine.run(["status"]).any_stdout();
    let shown =
        |text: &str| outcome.stdout.lines().any(|line| line.contains("access token, 4 min") && line.ends_with(text));
    assert!(shown("left; cannot be renewed"), "{outcome}");
    assert!(machine.server.requests().is_empty());
}

#[test]
fn a_plain_http_server_elsewhere_is_rejected_before_anything_is_sent() {
    for url in ["http://chat.qwen.ai", "http://192.0.2.1:80", "http://localhost.attacker.example"] {
        let machine = Machine::expired().variable("QWENAUTH_QWEN_OAUTH_URL", url);
        let before = machine.content();
        machine.run(["refresh"]).fails(
            1,
            &format!("`QWENAUTH_QWEN_OAUTH_URL`: URL `{url}` rejected: plain `http` is allowed for loopback only"),
            "use `https`",
        );
        assert_eq!(machine.content(), before);
    }
}

#[test]
fn a_malformed_server_url_is_rejected() {
    for url in ["chat.qwen.ai", "ftp://chat.qwen.ai", "https://", "not a url"] {
        let machine = Machine::expired().variable("QWENAUTH_QWEN_OAUTH_URL", url);
        let outcome = machine.run(["refresh"]).exits(1).any_stderr();
        assert_eq!(outcome.stderr.matches("qwenauth: error:").count(), 1, "{outcome}");
    }
}

#[test]
fn a_proxy_sees_nothing_of_a_server_on_loopback() {
    // The proxy's server fails the test over any request.
    let proxy = Machine::new();
    let mut machine = Machine::expired().refresh(Reply::tokens("2"));
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"] {
        machine = machine.variable(name, proxy.server.url());
    }
    machine.run(["token"]).stdout("granted-access-2\n");
}

#[test]
fn an_expiry_far_ahead_written_by_a_wrong_clock_does_not_hinder_a_renewal() {
    let ahead = i64::try_from(Duration::from_hours(24 * 365 * 1000).as_secs()).unwrap();
    for seconds in [3600 * 7, ahead] {
        let machine = Machine::new().logged_in().expires_in(seconds).refresh(Reply::tokens("2"));
        machine.run(["token"]).stdout("granted-access-1\n");
        machine.run(["refresh"]);
        holds_the_renewal(&machine, "granted-refresh-2");
    }
}

#[test]
fn an_expiry_an_hour_behind_costs_one_renewal() {
    let machine = Machine::new().logged_in().expires_in(-3600).refresh(Reply::tokens("2"));
    machine.run(["token"]).stdout("granted-access-2\n");
    machine.run(["token"]).stdout("granted-access-2\n");
}

#[test]
fn no_secret_of_a_renewal_is_logged() {
    let machine = Machine::expired().refresh(Reply::html(503)).refresh(Reply::tokens("2"));
    let outcome = machine.variable("QWENAUTH_LOG", "trace").run(["token"]).stdout("granted-access-2\n").any_stderr();
    assert!(outcome.stderr.contains("503"), "nothing was logged: {outcome}");
}
