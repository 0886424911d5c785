//! Renewals that fail: every answer that is no token, what is said, what the file holds afterwards, how often was asked.

use serde_json::json;

use crate::machine::{Machine, credential, now_ms, write_private};
use crate::refresh::{LOGIN, holds_the_renewal};
use crate::server::{Ask, Reply};

const NOT_NOW: &str = "nothing was lost; retry later";
const PERHAPS_SPENT: &str = "retry later; if the server accepted the token without a response, run `qwenauth login`";
const NOT_THE_LOGIN: &str = "your login is unaffected";

/// A renewal answered so costs nothing: the file stays, and this often was asked.
#[track_caller]
fn keeps_the_file(reply: impl Fn() -> Reply + Send + 'static, requests: usize, code: i32, error: &str, hint: &str) {
    let machine = Machine::expired();
    machine.server.always(Ask::Refresh, reply);
    let before = machine.content();
    machine.run(["token"]).fails(code, &format!("cannot renew the token: {error}"), hint);
    assert_eq!(machine.content(), before);
    assert_eq!(machine.server.asked(Ask::Refresh).len(), requests);
    assert!(!machine.qwen_code_lock().exists());
}

/// A refresh token answered so is dead: login required, and it is never sent again.
#[track_caller]
fn refuses_the_refresh_token(reply: Reply, said: &str) {
    let machine = Machine::expired().granted_here().refresh(reply);
    machine.run(["token"]).fails(4, &format!("the login has expired: the server answered {said}"), LOGIN);
    assert!(!machine.file().exists(), "neither token is of use any more");
    machine.run(["token"]).fails(4, "not logged in: there is no credential for `qwen`", LOGIN);
    let machine = machine.credential_is(credential("1")).expires_in(-60);
    machine.run(["token"]).fails(4, "the login has expired: the server rejected its refresh token", LOGIN);
    assert_eq!(machine.server.asked(Ask::Refresh).len(), 1, "a refused token is not sent again");
}

#[test]
fn a_firewalls_page_is_temporary_and_is_not_asked_for_again() {
    keeps_the_file(
        || Reply::html(200),
        1,
        3,
        "the server answered 200 with HTML, probably from a firewall or login page",
        PERHAPS_SPENT,
    );
}

#[test]
fn a_firewalls_error_page_is_temporary_and_is_not_asked_for_again() {
    for (status, said) in
        [(400, "400 Bad Request"), (401, "401 Unauthorized"), (403, "403 Forbidden"), (404, "404 Not Found")]
    {
        let said = format!("the server answered {said} with HTML, probably from a firewall or login page");
        keeps_the_file(move || Reply::html(status), 1, 3, &said, NOT_NOW);
    }
}

#[test]
fn broken_json_is_temporary() {
    keeps_the_file(
        || Reply::text(200, "{\"access_token\":"),
        1,
        3,
        "the server's response is not valid JSON",
        PERHAPS_SPENT,
    );
}

#[test]
fn a_truncated_response_is_temporary() {
    keeps_the_file(
        Reply::half,
        1,
        3,
        "no usable response from `127.0.0.1`: the connection closed early: end of file before message length reached",
        PERHAPS_SPENT,
    );
}

#[test]
fn a_response_of_50_mb_is_temporary() {
    keeps_the_file(Reply::huge, 1, 3, "no usable response from `127.0.0.1`: it exceeds 1 MiB", PERHAPS_SPENT);
}

#[test]
fn a_dropped_connection_is_temporary_and_not_retried() {
    keeps_the_file(
        Reply::dropped,
        1,
        3,
        "no usable response from `127.0.0.1`: connection closed before message completed",
        PERHAPS_SPENT,
    );
}

#[test]
fn a_server_that_never_answers_is_temporary_and_not_retried() {
    keeps_the_file(
        Reply::silence,
        1,
        3,
        "no usable response from `127.0.0.1`: none arrived within 20 s",
        PERHAPS_SPENT,
    );
}

#[test]
fn a_response_without_a_token_is_temporary() {
    for body in [
        json!({}),
        json!({"access_token": ""}),
        json!({"access_token": null}),
        json!({"access_token": {}}),
        json!({"status": "pending"}),
    ] {
        keeps_the_file(
            move || Reply::json(200, body.clone()),
            1,
            3,
            "the server's response contains no access token",
            PERHAPS_SPENT,
        );
    }
    for body in [json!([]), json!(null)] {
        let said = "the server's response is not valid JSON";
        keeps_the_file(move || Reply::json(200, body.clone()), 1, 3, said, PERHAPS_SPENT);
    }
}

#[test]
fn a_redirect_is_not_followed_with_the_refresh_token() {
    let redirect = || Reply::html(307).header("Location", "/api/v1/oauth2/elsewhere");
    keeps_the_file(
        redirect,
        1,
        3,
        "the server answered 307 with HTML, probably from a firewall or login page",
        NOT_NOW,
    );
}

#[test]
fn a_server_error_is_attempted_three_times_and_is_temporary() {
    keeps_the_file(
        || Reply::error(500, "server_error"),
        3,
        3,
        "the server answered 500 Internal Server Error",
        PERHAPS_SPENT,
    );
}

#[test]
fn a_gateways_page_is_attempted_three_times_and_is_temporary() {
    keeps_the_file(|| Reply::html(503), 3, 3, "the server answered 503 Service Unavailable", NOT_NOW);
}

#[test]
fn a_server_that_failed_or_a_proxy_that_lost_it_may_have_spent_the_token() {
    for (status, said) in [(502, "502 Bad Gateway"), (504, "504 Gateway Timeout"), (520, "520"), (524, "524")] {
        keeps_the_file(move || Reply::html(status), 3, 3, &format!("the server answered {said}"), PERHAPS_SPENT);
    }
}

#[test]
fn a_rate_limit_is_attempted_three_times_and_is_temporary() {
    keeps_the_file(|| Reply::html(429), 3, 3, "the server answered 429 Too Many Requests", NOT_NOW);
}

#[test]
fn a_server_error_that_passes_is_retried_in_silence() {
    let machine = Machine::expired().refresh(Reply::html(502)).refresh(Reply::html(429)).refresh(Reply::tokens("2"));
    machine.run(["token"]).stdout("granted-access-2\n");
    holds_the_renewal(&machine, "granted-refresh-2");
}

#[test]
fn an_unreachable_server_is_temporary() {
    let machine = Machine::expired().variable("QWENAUTH_QWEN_OAUTH_URL", "http://127.0.0.1:1");
    let before = machine.content();
    machine.run(["token"]).fails(
        3,
        "cannot renew the token: cannot reach `127.0.0.1`: connection refused (os error 111)",
        NOT_NOW,
    );
    assert_eq!(machine.content(), before);
}

#[test]
fn an_invalid_grant_requires_a_login() {
    refuses_the_refresh_token(Reply::error(400, "invalid_grant"), "`invalid_grant`");
}

#[test]
fn an_invalid_grant_with_status_200_requires_a_login() {
    refuses_the_refresh_token(Reply::error(200, "invalid_grant"), "`invalid_grant`");
}

#[test]
fn an_invalid_grant_with_status_401_requires_a_login() {
    refuses_the_refresh_token(Reply::error(401, "invalid_grant"), "`invalid_grant`");
}

#[test]
fn qwens_rejection_of_a_refresh_token_requires_a_login() {
    for status in [400, 401] {
        let refusal = json!({"error": "invalid_request", "error_description": "Invalid refresh token or client_id"});
        refuses_the_refresh_token(
            Reply::json(status, refusal),
            "`invalid_request`: Invalid refresh token or client_id",
        );
    }
}

#[test]
fn an_invalid_request_about_another_field_does_not_end_the_login() {
    let reply = json!({"error": "invalid_request", "error_description": "missing parameter"});
    keeps_the_file(
        move || Reply::json(400, reply.clone()),
        1,
        1,
        "the server answered `invalid_request`: missing parameter",
        NOT_THE_LOGIN,
    );
}

#[test]
fn a_rejected_client_is_not_about_the_login() {
    for status in [200, 400, 401] {
        let reply = json!({"error": "invalid_client", "error_description": "unknown client"});
        keeps_the_file(
            move || Reply::json(status, reply.clone()),
            1,
            1,
            "the server answered `invalid_client`: unknown client",
            NOT_THE_LOGIN,
        );
    }
}

#[test]
fn any_other_oauth_error_is_not_about_the_login() {
    for error in ["unauthorized_client", "unsupported_grant_type", "invalid_scope", "access_denied"] {
        keeps_the_file(
            move || Reply::error(403, error),
            1,
            1,
            &format!("the server answered `{error}`"),
            NOT_THE_LOGIN,
        );
    }
}

#[test]
fn a_401_without_an_oauth_error_does_not_end_the_login() {
    keeps_the_file(
        || Reply::json(401, json!({"message": "unauthorized"})),
        1,
        3,
        "the server answered 401 Unauthorized without an OAuth error",
        NOT_NOW,
    );
}

#[test]
fn an_access_token_that_is_still_valid_outlives_a_rejected_refresh_token() {
    let machine = Machine::new().logged_in().granted_here().refresh(Reply::error(400, "invalid_grant"));
    let before = machine.content();
    machine.run(["refresh"]).fails(4, "the login has expired: the server answered `invalid_grant`", LOGIN);
    assert_eq!(machine.content(), before);
    machine.run(["token"]).stdout("granted-access-1\n");
    let mut status = machine.run(["status", "--json"]).exits(4);
    assert_eq!(status.json()["profiles"][0]["state"], "refused");
}

#[test]
fn another_processs_token_is_used_when_the_old_one_is_rejected() {
    let machine = Machine::expired();
    let (file, mut other) = (machine.file(), credential("other"));
    other["resource_url"] = json!(machine.server.url());
    let text = serde_json::to_string_pretty(&other).unwrap();
    let replaced = text.clone();
    let reply = Reply::error(400, "invalid_grant").meanwhile(move || write_private(&file, replaced));
    let machine = machine.refresh(reply);
    machine.run(["token"]).stdout("granted-access-other\n");
    assert_eq!(machine.content(), text, "the file of another process is not removed");
}

#[test]
fn another_processs_expired_token_is_renewed_when_the_old_one_is_rejected() {
    let machine = Machine::expired();
    let (file, mut other) = (machine.file(), credential("other"));
    other["resource_url"] = json!(machine.server.url());
    other["expiry_date"] = json!(now_ms() - 1000);
    let text = serde_json::to_string_pretty(&other).unwrap();
    let reply = Reply::error(400, "invalid_grant").meanwhile(move || write_private(&file, text));
    let machine = machine.refresh(reply).refresh(Reply::tokens("2"));
    machine.run(["token"]).stdout("granted-access-2\n");
    assert_eq!(machine.server.asked(Ask::Refresh)[1].field("refresh_token"), "granted-refresh-other");
}

#[test]
fn a_token_quoted_by_the_server_is_not_printed() {
    let said = json!({"error": "invalid_client", "error_description": "granted-refresh-1 is not yours"});
    let reply = move || Reply::json(400, said.clone());
    keeps_the_file(reply, 1, 1, "the server answered `invalid_client`: … is not yours", NOT_THE_LOGIN);
}
