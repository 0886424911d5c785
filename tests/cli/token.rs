//! `token`: formats, how long it must last, and what happens when it cannot be renewed.

use std::io;
use std::process::Stdio;

use serde_json::json;

use crate::machine::Machine;
use crate::refresh::holds_the_renewal;
use crate::server::{Ask, Reply, tokens};

#[test]
fn a_valid_token_is_printed_without_a_request() {
    let machine = Machine::new().logged_in();
    machine.run(["token"]).exits(0).stdout("granted-access-1\n").stderr("");
    assert_eq!(machine.beside(), ["oauth_creds.json"], "the warm path takes no lock");
}

#[test]
fn a_token_with_more_than_half_a_minute_left_is_not_renewed() {
    Machine::new().logged_in().expires_in(45).run(["token"]).stdout("granted-access-1\n");
}

#[test]
fn a_token_with_less_than_half_a_minute_left_is_renewed() {
    let machine = Machine::new().logged_in().expires_in(25).refresh(Reply::tokens("2"));
    machine.run(["token"]).stdout("granted-access-2\n");
}

#[test]
fn a_fraction_of_a_millisecond_in_the_expiry_is_understood() {
    let machine = Machine::new().logged_in();
    let expiry = machine.credential()["expiry_date"].as_f64().unwrap() + 0.5;
    machine.field("expiry_date", json!(expiry)).run(["token"]).stdout("granted-access-1\n");
}

#[test]
fn the_header_format_is_a_header() {
    Machine::new().logged_in().run(["token", "--format", "header"]).stdout("Authorization: Bearer granted-access-1\n");
}

#[test]
fn the_json_format_has_all_a_client_needs() {
    let machine = Machine::new().logged_in();
    let expiry = jiff::Timestamp::from_millisecond(machine.credential()["expiry_date"].as_i64().unwrap()).unwrap();
    let mut outcome = machine.run(["token", "--format", "json"]);
    let told = outcome.json();
    let at: jiff::Timestamp = told["expires_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(at.as_second(), expiry.as_second());
    let expected = json!({
        "access_token": "granted-access-1",
        "token_type": "Bearer",
        "expires_at": told["expires_at"],
        "base_url": "{server}/v1",
        "model": "coder-model",
        "profile": "qwen",
    });
    assert_eq!(told, expected);
    assert!(outcome.stdout.ends_with("}\n"));
}

#[test]
fn a_token_is_renewed_to_be_valid_for_the_requested_time() {
    let machine = Machine::new().logged_in().refresh(Reply::tokens("2"));
    machine.run(["token", "--min-ttl", "2h"]).stdout("granted-access-2\n");
    holds_the_renewal(&machine, "granted-refresh-2");
}

#[test]
fn a_token_that_is_not_valid_for_the_requested_time_is_not_printed() {
    let machine = Machine::new().logged_in().refresh(Reply::tokens("2"));
    machine.run(["token", "--min-ttl", "7h"]).exits(5).stderr(
        "qwenauth: error: a new token is valid for 5 h 59 min, less than the requested 7 h 0 min\n\
         qwenauth: hint: use a smaller `--min-ttl`\n",
    );
    holds_the_renewal(&machine, "granted-refresh-2");
}

#[test]
fn a_failed_renewal_of_a_token_that_is_still_valid_only_warns() {
    let machine = Machine::new().logged_in().expires_in(20).refresh(Reply::html(200));
    let before = machine.content();
    machine.run(["token"]).stdout("granted-access-1\n").stderr_one_of((10..20).map(|left| {
        format!("qwenauth: warning: cannot renew the token: the server answered 200 with HTML, probably from a firewall or login page; the current token is valid for another {left} s\n")
    }));
    assert_eq!(machine.content(), before);
}

#[test]
fn a_failed_renewal_is_an_error_if_a_lifetime_is_required() {
    let machine = Machine::new().logged_in().refresh(Reply::html(200));
    machine.run(["token", "--min-ttl", "2h"]).fails(
        3,
        "cannot renew the token: the server answered 200 with HTML, probably from a firewall or login page",
        "retry later; if the server accepted the token without a response, run `qwenauth login`",
    );
}

#[test]
fn a_valid_token_is_printed_although_the_server_rejects_the_client() {
    // An OAuth error that is not about the login is no temporary failure.
    let machine = Machine::new().logged_in().expires_in(20).refresh(Reply::error(400, "invalid_client"));
    machine.run(["token"]).fails(
        1,
        "cannot renew the token: the server answered `invalid_client`",
        "your login is unaffected",
    );
}

#[test]
fn a_renewal_that_came_with_too_short_a_life_is_still_saved() {
    let mut short = tokens("2");
    short["expires_in"] = json!(10);
    let machine = Machine::expired().refresh(Reply::json(200, short));
    machine.run(["token"]).stdout("granted-access-2\n").any_stderr();
    assert_eq!(machine.credential()["refresh_token"], "granted-refresh-2");
}

#[test]
fn a_token_with_a_control_character_is_not_printed() {
    for token in ["granted-access-1\nX-Injected: 1", "granted\u{1b}[2J", "granted\u{0}"] {
        let machine = Machine::new().logged_in().field("access_token", json!(token));
        let outcome = machine.run(["token", "--format", "header"]).any_stderr();
        assert_ne!(outcome.code(), Some(0));
        let code = outcome.code().unwrap();
        drop(outcome.exits(code));
    }
}

#[test]
fn a_closed_stdout_pipe_is_not_an_error() {
    for command in [&["token"][..], &["token", "--format", "json"], &["env"], &["status", "--json"], &["--help"]] {
        let machine = Machine::new().logged_in();
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut command = machine.command(command);
        command.stdout(writer);
        machine.start(command).finish().exits(0);
    }
}

#[test]
fn a_full_stdout_is_an_error() {
    let machine = Machine::new().logged_in();
    let mut command = machine.command(["token"]);
    command.stdout(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let told = "cannot write to stdout: No space left on device (os error 28)";
    machine.start(command).finish().fails(1, told, "free space on that disk, then retry");
}

#[test]
fn closed_standard_streams_harm_nothing() {
    let machine = Machine::expired().refresh(Reply::tokens("2"));
    machine.shell("exec $QWENAUTH token <&-").stdout("granted-access-2\n");
    let machine = machine.expires_in(-60).refresh(Reply::tokens("2"));
    let before_types = machine.credential()["token_type"].clone();
    let code = machine.shell("$QWENAUTH token <&- >&- 2>&-; echo $?");
    drop(code.any_stdout());
    assert_eq!(machine.credential()["token_type"], before_types);
    holds_the_renewal(&machine, "granted-refresh-2");
}

#[test]
fn login_needs_no_stdin() {
    let machine = crate::login::polls([]).granted();
    drop(machine.shell("exec $QWENAUTH login <&-").exits(0).any_stderr());
    machine.holds_the_grant();
}

#[test]
fn an_unknown_option_is_a_usage_error() {
    let outcome = Machine::new().run(["token", "--min-tll", "5m"]).exits(2).any_stderr();
    assert!(outcome.stderr.contains("--min-ttl"), "{outcome}");
    drop(Machine::new().run(["token", "--min-ttl", "soon"]).exits(2).any_stderr());
    drop(Machine::new().run(["token", "--profile", "../x"]).exits(2).any_stderr());
}

#[test]
fn an_unknown_profile_is_not_logged_in() {
    Machine::new().logged_in().run(["token", "--profile", "work"]).fails(
        4,
        "not logged in: there is no credential for `work`",
        "run `qwenauth login PROVIDER --profile work`",
    );
    Machine::new().logged_in().variable("QWENAUTH_PROFILE", "work").run(["token"]).fails(
        4,
        "not logged in: there is no credential for `work`",
        "run `qwenauth login PROVIDER --profile work`",
    );
}

#[test]
fn the_profile_option_goes_before_the_variable() {
    let machine = Machine::new().logged_in().variable("QWENAUTH_PROFILE", "work");
    machine.run(["token", "--profile", "qwen"]).stdout("granted-access-1\n");
}

#[test]
fn the_warm_path_opens_no_socket_and_starts_no_thread() {
    let strace = std::process::Command::new("strace").args(["-f", "true"]).stderr(Stdio::null()).status();
    if !crate::machine::possible(strace.is_ok_and(|status| status.success()), "trace system calls") {
        return;
    }
    let machine = Machine::new().logged_in();
    let log = machine.directory().join("calls");
    let mut strace = machine.other("strace");
    strace.args(["-f", "-e", "trace=socket,connect,clone,clone3,fork,vfork,flock", "-o"]).arg(&log);
    strace.arg(machine.program()).arg("token");
    machine.start(strace).finish().stdout("granted-access-1\n");
    let calls = std::fs::read_to_string(log).unwrap();
    assert!(!calls.contains('('), "{calls}");
}

#[test]
fn one_renewal_serves_every_command() {
    let machine = Machine::expired().refresh(Reply::tokens("2"));
    machine.run(["exec", "--", "sh", "-c", "echo $OPENAI_API_KEY"]).stdout("granted-access-2\n");
    machine.run(["token"]).stdout("granted-access-2\n");
    assert_eq!(machine.server.asked(Ask::Refresh).len(), 1);
}
