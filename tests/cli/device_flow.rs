//! The device flow (RFC 8628) in Qwen's dialect: every answer to the device request and to a poll.

use std::thread;

use serde_json::json;

use crate::login::{AGAIN, MISTAKE, NEW_CODE, URL, chat, device_code, polls};
use crate::machine::Machine;
use crate::server::{Ask, Reply, tokens};

/// A login answered so once must go on, and end well with the next answer.
#[track_caller]
fn is_waited_out(reply: Reply) {
    let machine = polls([reply]).granted();
    machine.run(["login"]).logs_in();
    machine.holds_the_grant();
}

/// A login answered so must end at once.
#[track_caller]
fn ends_the_login(reply: Reply, code: i32, error: &str, hint: &str) {
    let machine = polls([reply]);
    machine.run(["login"]).ends(code, error, hint);
    machine.holds_nothing();
}

#[test]
fn polling_continues_after_qwens_pending_status() {
    is_waited_out(Reply::json(200, json!({"status": "pending"})));
}

#[test]
fn polling_continues_after_authorization_pending() {
    is_waited_out(Reply::error(400, "authorization_pending"));
}

#[test]
fn polling_continues_after_authorization_pending_with_status_200() {
    is_waited_out(Reply::error(200, "authorization_pending"));
}

/// Waits in milliseconds between the polls of a login that is answered so, then as pending, then granted.
fn waits(reply: Reply) -> [u128; 2] {
    let machine = polls([reply, Reply::error(400, "authorization_pending")]).granted();
    machine.run(["login"]).logs_in();
    let at: Vec<_> = machine.server.asked(Ask::Poll).iter().map(|request| request.at).collect();
    [(at[1] - at[0]).as_millis(), (at[2] - at[1]).as_millis()]
}

/// Each costs ten seconds, so they run side by side.
#[test]
fn slow_down_with_any_status_and_any_other_429_lengthen_the_interval_permanently() {
    let replies = [
        ("as Qwen sends it", Reply::error(429, "slow_down")),
        ("as the RFC has it", Reply::error(400, "slow_down")),
        ("with status 200", Reply::error(200, "slow_down")),
        ("429 as HTML", Reply::html(429)),
        ("429 with another error", Reply::error(429, "rate_limited")),
    ];
    thread::scope(|scope| {
        let running = replies.map(|(name, reply)| (name, scope.spawn(|| waits(reply))));
        for (name, waits) in running {
            let [after_it, after_pending] = waits.join().unwrap();
            assert!(after_it >= 5000, "{name}: {after_it} ms");
            assert!(after_pending >= 5000, "{name}: a plain pending must not shorten it: {after_pending} ms");
        }
    });
}

#[test]
fn a_denied_login_ends_at_once() {
    ends_the_login(Reply::error(400, "access_denied"), 4, "the login was denied", MISTAKE);
}

#[test]
fn a_denial_with_status_200_ends_the_login_at_once() {
    ends_the_login(Reply::error(200, "access_denied"), 4, "the login was denied", MISTAKE);
}

#[test]
fn an_expired_code_ends_the_login_at_once() {
    ends_the_login(Reply::error(400, "expired_token"), 4, "the code has expired or was already used", NEW_CODE);
}

#[test]
fn an_invalid_grant_ends_the_login_at_once() {
    ends_the_login(Reply::error(400, "invalid_grant"), 4, "the login is no longer valid", NEW_CODE);
}

#[test]
fn qwens_401_with_an_oauth_error_ends_the_login_at_once() {
    ends_the_login(Reply::error(401, "invalid_token"), 4, "the code has expired or was already used", NEW_CODE);
}

#[test]
fn qwens_401_ends_the_login_at_once() {
    ends_the_login(
        Reply::json(401, json!({"message": "unauthorized"})),
        4,
        "the code has expired or was already used",
        NEW_CODE,
    );
}

#[test]
fn a_rejected_client_ends_the_login_and_is_not_reported_as_an_expired_login() {
    let reply = Reply::json(400, json!({"error": "invalid_client", "error_description": "unknown client"}));
    ends_the_login(reply, 1, "the server ended the login with `invalid_client`: unknown client", "");
}

#[test]
fn any_other_oauth_error_ends_the_login() {
    ends_the_login(Reply::error(200, "invalid_scope"), 1, "the server ended the login with `invalid_scope`", "");
}

#[test]
fn polling_continues_after_a_server_error() {
    is_waited_out(Reply::error(500, "server_error"));
}

#[test]
fn polling_continues_after_a_firewalls_page() {
    is_waited_out(Reply::html(200));
}

#[test]
fn polling_continues_after_a_firewalls_403_page() {
    is_waited_out(Reply::html(403));
}

#[test]
fn polling_continues_after_a_gateways_page() {
    is_waited_out(Reply::html(502));
}

#[test]
fn polling_continues_after_broken_json() {
    is_waited_out(Reply::text(200, "{\"access_token\": \"granted-"));
}

#[test]
fn polling_continues_after_a_truncated_response() {
    is_waited_out(Reply::half());
}

#[test]
fn polling_continues_after_a_dropped_connection() {
    is_waited_out(Reply::dropped());
}

#[test]
fn polling_continues_after_a_response_of_50_mb() {
    is_waited_out(Reply::huge());
}

#[test]
fn a_redirect_is_not_followed_with_the_device_code() {
    let machine = polls([]);
    let elsewhere = format!("{}/elsewhere", machine.server.url());
    let machine = machine.scripted(Ask::Poll, Reply::html(307).header("Location", &elsewhere)).granted();
    machine.run(["login"]).logs_in();
    machine.holds_the_grant();
}

#[test]
fn polling_keeps_its_interval_after_malformed_responses() {
    let machine = Machine::new().scripted(Ask::DeviceCode, device_code(json!({"interval": 1})));
    let machine = machine.scripted(Ask::Poll, Reply::json(200, json!({}))).granted();
    machine.run(["login"]).logs_in();
    let at: Vec<_> = machine.server.requests().iter().map(|request| request.at).collect();
    assert!((at[1] - at[0]).as_millis() >= 1000, "the first poll comes after one interval");
    assert!((at[2] - at[1]).as_millis() >= 1000, "and so does the next");
}

#[test]
fn polling_continues_after_json_that_is_no_grant() {
    for body in [json!({"status": "success"}), json!([]), json!("granted"), json!(null)] {
        is_waited_out(Reply::json(200, body));
    }
}

#[test]
fn a_grant_without_a_usable_token_ends_the_login_at_once() {
    for body in [
        json!({"access_token": ""}),
        json!({"access_token": {"token": "granted"}}),
        json!({"refresh_token": "granted-refresh-1", "token_type": "Bearer", "expires_in": 3600}),
    ] {
        let error = "the login was approved, but the server's response contains no access token";
        ends_the_login(Reply::json(200, body), 1, error, AGAIN);
    }
}

#[test]
fn the_servers_wrapping_success_status_does_not_matter() {
    let machine = polls([]);
    let mut granted = tokens("1");
    granted["resource_url"] = json!(machine.server.url());
    granted["status"] = json!("success");
    let machine = machine.scripted(Ask::Poll, Reply::json(201, granted)).scripted(Ask::Chat, chat());
    machine.run(["login"]).logs_in();
    machine.holds_the_grant();
}

#[test]
fn a_device_code_expires_by_the_clock() {
    let machine = Machine::new().scripted(Ask::DeviceCode, device_code(json!({"interval": 1, "expires_in": 2})));
    machine.server.always(Ask::Poll, || Reply::error(400, "authorization_pending"));
    machine.run(["login"]).ends(4, "the login was not approved in time", NEW_CODE);
    machine.holds_nothing();
    assert!(machine.server.asked(Ask::Poll).len() <= 2);
}

#[test]
fn a_login_gives_up_after_its_timeout() {
    let machine = Machine::new().scripted(Ask::DeviceCode, device_code(json!({"interval": 60})));
    machine.run(["login", "--timeout", "1s"]).ends(4, "the login was not approved in time", NEW_CODE);
    machine.holds_nothing();
}

#[test]
fn a_response_without_interval_is_polled_every_two_seconds() {
    for interval in [json!(null), json!("NaN")] {
        let machine = Machine::new().scripted(Ask::DeviceCode, device_code(json!({"interval": interval}))).granted();
        machine.run(["login"]).logs_in();
        let at: Vec<_> = machine.server.requests().iter().map(|request| request.at).collect();
        assert!((at[1] - at[0]).as_millis() >= 2000, "{:?}", at[1] - at[0]);
    }
}

#[test]
fn a_response_without_expiry_still_makes_a_login() {
    let machine = Machine::new().scripted(Ask::DeviceCode, device_code(json!({"expires_in": null}))).granted();
    machine.run(["login"]).logs_in();
}

#[test]
fn a_response_without_the_complete_url_shows_the_plain_one() {
    let machine =
        Machine::new().scripted(Ask::DeviceCode, device_code(json!({"verification_uri_complete": null}))).granted();
    let outcome = machine.run(["login"]).any_stderr();
    assert!(outcome.stderr.lines().any(|line| line.trim() == URL), "{outcome}");
}

#[test]
fn a_firewalls_page_instead_of_a_code_is_temporary() {
    let machine = Machine::new().scripted(Ask::DeviceCode, Reply::html(200));
    machine.run(["login"]).does_not_begin(3, "`127.0.0.1` answered 200 with HTML, probably from a firewall", AGAIN);
    machine.holds_nothing();
}

#[test]
fn a_server_error_instead_of_a_code_is_temporary() {
    let machine = Machine::new().scripted(Ask::DeviceCode, Reply::html(503));
    machine.run(["login"]).does_not_begin(
        3,
        "`127.0.0.1` answered 503 Service Unavailable with HTML, probably from a firewall",
        AGAIN,
    );
    machine.holds_nothing();
}

#[test]
fn a_rate_limit_instead_of_a_code_is_temporary() {
    let machine = Machine::new().scripted(Ask::DeviceCode, Reply::error(429, "rate_limited"));
    machine.run(["login"]).does_not_begin(3, "`127.0.0.1` answered 429 Too Many Requests", AGAIN);
}

#[test]
fn a_dropped_connection_instead_of_a_code_is_temporary() {
    let machine = Machine::new().scripted(Ask::DeviceCode, Reply::dropped());
    machine.run(["login"]).does_not_begin(
        3,
        "no usable response from `127.0.0.1`: connection closed before message completed",
        AGAIN,
    );
}

#[test]
fn a_truncated_device_code_response_is_temporary() {
    let machine = Machine::new().scripted(Ask::DeviceCode, Reply::half());
    machine.run(["login"]).does_not_begin(
        3,
        "no usable response from `127.0.0.1`: the connection closed early: end of file before message length reached",
        AGAIN,
    );
}

#[test]
fn a_device_code_response_of_50_mb_is_temporary() {
    let machine = Machine::new().scripted(Ask::DeviceCode, Reply::huge());
    machine.run(["login"]).does_not_begin(3, "no usable response from `127.0.0.1`: it exceeds 1 MiB", AGAIN);
}

#[test]
fn an_unreachable_server_is_temporary() {
    let machine = Machine::new().variable("QWENAUTH_QWEN_OAUTH_URL", "http://127.0.0.1:1");
    machine.run(["login"]).does_not_begin(3, "cannot reach `127.0.0.1`: connection refused (os error 111)", AGAIN);
}

#[test]
fn an_oauth_error_instead_of_a_code_is_reported() {
    let reply = json!({"error": "invalid_client", "error_description": "this client is not welcome"});
    for status in [200, 400, 401] {
        let machine = Machine::new().scripted(Ask::DeviceCode, Reply::json(status, reply.clone()));
        machine.run(["login"]).does_not_begin(
            1,
            "`127.0.0.1` rejected the login request: `invalid_client`: this client is not welcome",
            "",
        );
        machine.holds_nothing();
    }
}

#[test]
fn a_response_without_a_code_is_not_a_login() {
    let machine = Machine::new().scripted(Ask::DeviceCode, device_code(json!({"device_code": null})));
    machine.run(["login"]).does_not_begin(3, "the response of `127.0.0.1` contains no device code", AGAIN);
}
