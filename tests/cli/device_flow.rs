//! The device flow (RFC 8628) in Qwen's dialect: every answer to the device request and to a poll.

use std::thread;

use serde_json::json;

use crate::login::{AGAIN, MISTAKE, NEW_CODE, URL, chat, device_code, polls};
use crate::sandbox::Sandbox;
use crate::server::{Ask, Reply, tokens};

/// A login answered so once must go on, and end well with the next answer.
#[track_caller]
fn is_waited_out(reply: Reply) {
    let sandbox = polls([reply]).granted();
    sandbox.run(["login"]).logs_in();
    sandbox.holds_the_grant();
}

/// A login answered so must end at once.
#[track_caller]
fn ends_the_login(reply: Reply, code: i32, error: &str, hint: &str) {
    let sandbox = polls([reply]);
    sandbox.run(["login"]).ends(code, error, hint);
    sandbox.holds_nothing();
}

#[test]
fn qwens_pending_status_is_waited_out() {
    is_waited_out(Reply::json(200, json!({"status": "pending"})));
}

#[test]
fn authorization_pending_is_waited_out() {
    is_waited_out(Reply::error(400, "authorization_pending"));
}

#[test]
fn authorization_pending_with_status_200_is_waited_out() {
    is_waited_out(Reply::error(200, "authorization_pending"));
}

/// Waits in milliseconds between the polls of a login that is answered so, then as pending, then granted.
fn waits(reply: Reply) -> [u128; 2] {
    let sandbox = polls([reply, Reply::error(400, "authorization_pending")]).granted();
    sandbox.run(["login"]).logs_in();
    let at: Vec<_> = sandbox.server.asked(Ask::Poll).iter().map(|request| request.at).collect();
    [(at[1] - at[0]).as_millis(), (at[2] - at[1]).as_millis()]
}

/// Each costs ten seconds, so they run side by side.
#[test]
fn slow_down_with_any_status_and_any_other_429_lengthen_the_interval_for_good() {
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
fn a_refused_client_ends_the_login_and_is_not_about_the_login() {
    let reply = Reply::json(400, json!({"error": "invalid_client", "error_description": "unknown client"}));
    ends_the_login(reply, 1, "the server ended the login with `invalid_client`: unknown client", "");
}

#[test]
fn any_other_oauth_error_ends_the_login() {
    ends_the_login(Reply::error(200, "invalid_scope"), 1, "the server ended the login with `invalid_scope`", "");
}

#[test]
fn a_server_error_is_waited_out() {
    is_waited_out(Reply::error(500, "server_error"));
}

#[test]
fn a_firewalls_page_is_waited_out() {
    is_waited_out(Reply::html(200));
}

#[test]
fn a_firewalls_403_page_is_waited_out() {
    is_waited_out(Reply::html(403));
}

#[test]
fn a_gateways_page_is_waited_out() {
    is_waited_out(Reply::html(502));
}

#[test]
fn broken_json_is_waited_out() {
    is_waited_out(Reply::text(200, "{\"access_token\": \"granted-"));
}

#[test]
fn half_an_answer_is_waited_out() {
    is_waited_out(Reply::half());
}

#[test]
fn a_dropped_connection_is_waited_out() {
    is_waited_out(Reply::dropped());
}

#[test]
fn an_answer_of_50_mb_is_waited_out() {
    is_waited_out(Reply::huge());
}

#[test]
fn a_redirect_is_not_followed_with_the_device_code() {
    let sandbox = polls([]);
    let elsewhere = format!("{}/elsewhere", sandbox.server.url());
    let sandbox = sandbox.scripted(Ask::Poll, Reply::html(307).header("Location", &elsewhere)).granted();
    sandbox.run(["login"]).logs_in();
    sandbox.holds_the_grant();
}

#[test]
fn nonsense_is_waited_out_one_interval_at_a_time() {
    let sandbox = Sandbox::new().scripted(Ask::DeviceCode, device_code(json!({"interval": 1})));
    let sandbox = sandbox.scripted(Ask::Poll, Reply::json(200, json!({}))).granted();
    sandbox.run(["login"]).logs_in();
    let at: Vec<_> = sandbox.server.requests().iter().map(|request| request.at).collect();
    assert!((at[1] - at[0]).as_millis() >= 1000, "the first poll comes after one interval");
    assert!((at[2] - at[1]).as_millis() >= 1000, "and so does the next");
}

#[test]
fn an_empty_or_misshapen_token_is_no_token() {
    for body in [json!({"access_token": ""}), json!({"access_token": 5}), json!([]), json!("granted"), json!(null)] {
        is_waited_out(Reply::json(200, body));
    }
}

#[test]
fn the_servers_wrapping_success_status_does_not_matter() {
    let sandbox = polls([]);
    let mut granted = tokens("1");
    granted["resource_url"] = json!(sandbox.server.url());
    granted["status"] = json!("success");
    let sandbox = sandbox.scripted(Ask::Poll, Reply::json(201, granted)).scripted(Ask::Chat, chat());
    sandbox.run(["login"]).logs_in();
    sandbox.holds_the_grant();
}

#[test]
fn a_code_ends_by_the_clock() {
    let sandbox = Sandbox::new().scripted(Ask::DeviceCode, device_code(json!({"interval": 1, "expires_in": 2})));
    sandbox.server.always(Ask::Poll, || Reply::error(400, "authorization_pending"));
    sandbox.run(["login"]).ends(4, "the login was not approved in time", NEW_CODE);
    sandbox.holds_nothing();
    assert!(sandbox.server.asked(Ask::Poll).len() <= 2);
}

#[test]
fn a_login_gives_up_after_its_timeout() {
    let sandbox = Sandbox::new().scripted(Ask::DeviceCode, device_code(json!({"interval": 60})));
    sandbox.run(["login", "--timeout", "1s"]).ends(4, "the login was not approved in time", NEW_CODE);
    sandbox.holds_nothing();
}

#[test]
fn an_answer_without_interval_is_polled_every_two_seconds() {
    for interval in [json!(null), json!("NaN")] {
        let sandbox = Sandbox::new().scripted(Ask::DeviceCode, device_code(json!({"interval": interval}))).granted();
        sandbox.run(["login"]).logs_in();
        let at: Vec<_> = sandbox.server.requests().iter().map(|request| request.at).collect();
        assert!((at[1] - at[0]).as_millis() >= 2000, "{:?}", at[1] - at[0]);
    }
}

#[test]
fn an_answer_without_expiry_still_makes_a_login() {
    let sandbox = Sandbox::new().scripted(Ask::DeviceCode, device_code(json!({"expires_in": null}))).granted();
    sandbox.run(["login"]).logs_in();
}

#[test]
fn an_answer_without_the_complete_url_shows_the_plain_one() {
    let sandbox =
        Sandbox::new().scripted(Ask::DeviceCode, device_code(json!({"verification_uri_complete": null}))).granted();
    let outcome = sandbox.run(["login"]).any_stderr();
    assert!(outcome.stderr.lines().any(|line| line.trim() == URL), "{outcome}");
}

#[test]
fn a_firewalls_page_instead_of_a_code_is_temporary() {
    let sandbox = Sandbox::new().scripted(Ask::DeviceCode, Reply::html(200));
    sandbox.run(["login"]).does_not_begin(3, "`127.0.0.1` answered 200 with HTML, as a firewall does", AGAIN);
    sandbox.holds_nothing();
}

#[test]
fn a_server_error_instead_of_a_code_is_temporary() {
    let sandbox = Sandbox::new().scripted(Ask::DeviceCode, Reply::html(503));
    sandbox.run(["login"]).does_not_begin(
        3,
        "`127.0.0.1` answered 503 Service Unavailable with HTML, as a firewall does",
        AGAIN,
    );
    sandbox.holds_nothing();
}

#[test]
fn a_rate_limit_instead_of_a_code_is_temporary() {
    let sandbox = Sandbox::new().scripted(Ask::DeviceCode, Reply::error(429, "rate_limited"));
    sandbox.run(["login"]).does_not_begin(3, "`127.0.0.1` answered 429 Too Many Requests", AGAIN);
}

#[test]
fn a_dropped_connection_instead_of_a_code_is_temporary() {
    let sandbox = Sandbox::new().scripted(Ask::DeviceCode, Reply::dropped());
    sandbox.run(["login"]).does_not_begin(
        3,
        "no usable answer from `127.0.0.1`: connection closed before message completed",
        AGAIN,
    );
}

#[test]
fn half_a_code_is_temporary() {
    let sandbox = Sandbox::new().scripted(Ask::DeviceCode, Reply::half());
    sandbox.run(["login"]).does_not_begin(
        3,
        "no usable answer from `127.0.0.1`: it broke off: end of file before message length reached",
        AGAIN,
    );
}

#[test]
fn a_code_of_50_mb_is_temporary() {
    let sandbox = Sandbox::new().scripted(Ask::DeviceCode, Reply::huge());
    sandbox.run(["login"]).does_not_begin(3, "no usable answer from `127.0.0.1`: it is longer than 1 MiB", AGAIN);
}

#[test]
fn an_unreachable_server_is_temporary() {
    let sandbox = Sandbox::new().variable("QWENAUTH_QWEN_OAUTH_URL", "http://127.0.0.1:1");
    sandbox.run(["login"]).does_not_begin(3, "cannot reach `127.0.0.1`: connection refused (os error 111)", AGAIN);
}

#[test]
fn an_oauth_error_instead_of_a_code_is_told() {
    let reply = json!({"error": "invalid_client", "error_description": "this client is not welcome"});
    for status in [200, 400, 401] {
        let sandbox = Sandbox::new().scripted(Ask::DeviceCode, Reply::json(status, reply.clone()));
        sandbox.run(["login"]).does_not_begin(
            1,
            "`127.0.0.1` refused to start a login: `invalid_client`: this client is not welcome",
            "",
        );
        sandbox.holds_nothing();
    }
}

#[test]
fn an_answer_without_a_code_is_no_login() {
    let sandbox = Sandbox::new().scripted(Ask::DeviceCode, device_code(json!({"device_code": null})));
    sandbox.run(["login"]).does_not_begin(3, "`127.0.0.1` answered without a device code", AGAIN);
}
