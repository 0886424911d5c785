//! Renewal: every answer a token endpoint can give, what is printed, what the file holds afterwards, how often was asked.

use std::os::unix::fs::MetadataExt;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::sandbox::{Sandbox, credential, now_ms, write_private};
use crate::server::{Ask, Reply, tokens};

const LOGIN: &str = "run `qwenauth login`";
const NOT_NOW: &str = "nothing was lost; try again in a while";
const NOT_THE_LOGIN: &str = "this is not about your login, which was kept";

/// The renewed credential, field by field, with six hours left.
#[track_caller]
pub(crate) fn holds_the_renewal(sandbox: &Sandbox, refresh_token: &str) {
    let mut credential = sandbox.credential();
    let left = credential["expiry_date"].as_i64().unwrap() - now_ms();
    assert!((21_500_000..=21_600_000).contains(&left), "{left} ms left");
    credential["expiry_date"] = json!("…");
    let expected = json!({
        "access_token": "granted-access-2",
        "refresh_token": refresh_token,
        "token_type": "Bearer",
        "resource_url": sandbox.server.url(),
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

/// A renewal answered so costs nothing: the file stays, and this often was asked.
#[track_caller]
fn keeps_the_file(reply: impl Fn() -> Reply + Send + 'static, requests: usize, code: i32, error: &str, hint: &str) {
    let sandbox = Sandbox::expired();
    sandbox.server.always(Ask::Refresh, reply);
    let before = sandbox.content();
    sandbox.run(["token"]).fails(code, &format!("cannot renew the token: {error}"), hint);
    assert_eq!(sandbox.content(), before);
    assert_eq!(sandbox.server.asked(Ask::Refresh).len(), requests);
    assert!(!sandbox.qwen_code_lock().exists());
}

/// A refresh token answered so is dead: login required, and it is never sent again.
#[track_caller]
fn refuses_the_refresh_token(reply: Reply, said: &str) {
    let sandbox = Sandbox::expired().refresh(reply);
    sandbox.run(["token"]).fails(4, &format!("the login is over: the server answered {said}"), LOGIN);
    assert!(!sandbox.file().exists(), "neither token is of use any more");
    sandbox.run(["token"]).fails(4, "not logged in: there is no credential for `qwen`", LOGIN);
    let sandbox = sandbox.credential_is(credential("1")).expires_in(-60);
    sandbox.run(["token"]).fails(4, "the login is over: the server refused its refresh token", LOGIN);
    assert_eq!(sandbox.server.asked(Ask::Refresh).len(), 1, "a refused token is not sent again");
}

#[test]
fn an_expired_token_is_renewed() {
    let sandbox = Sandbox::expired().refresh(Reply::tokens("2"));
    sandbox.run(["token"]).stdout("granted-access-2\n");
    holds_the_renewal(&sandbox, "granted-refresh-2");
    assert_eq!(sandbox.server.asked(Ask::Refresh)[0].field("refresh_token"), "granted-refresh-1");
}

#[test]
fn refresh_renews_a_valid_token_too() {
    let sandbox = Sandbox::new().logged_in().refresh(Reply::tokens("2"));
    sandbox.run(["refresh"]);
    holds_the_renewal(&sandbox, "granted-refresh-2");
}

#[test]
fn refresh_without_a_login_requires_one() {
    Sandbox::new().run(["refresh"]).fails(4, "not logged in: there is no credential for `qwen`", LOGIN);
}

#[test]
fn a_reply_without_refresh_token_keeps_the_old_one() {
    let sandbox = Sandbox::expired().refresh(tokens_without("refresh_token"));
    sandbox.run(["token"]).stdout("granted-access-2\n");
    holds_the_renewal(&sandbox, "granted-refresh-1");
}

#[test]
fn an_empty_refresh_token_never_replaces_a_good_one() {
    for empty in [json!(""), json!(null)] {
        let sandbox = Sandbox::expired().refresh(tokens_with("refresh_token", empty));
        sandbox.run(["token"]).stdout("granted-access-2\n");
        holds_the_renewal(&sandbox, "granted-refresh-1");
    }
}

#[test]
fn a_reply_without_resource_url_keeps_the_old_one() {
    let sandbox = Sandbox::expired().refresh(tokens_without("resource_url"));
    sandbox.run(["token"]).stdout("granted-access-2\n");
    holds_the_renewal(&sandbox, "granted-refresh-2");
}

#[test]
fn an_empty_resource_url_or_token_type_never_replaces_a_good_one() {
    for name in ["resource_url", "token_type"] {
        let sandbox = Sandbox::expired().refresh(tokens_with(name, json!("")));
        sandbox.run(["token"]).stdout("granted-access-2\n");
        holds_the_renewal(&sandbox, "granted-refresh-2");
    }
}

#[test]
fn a_new_resource_url_replaces_the_old_one() {
    let sandbox = Sandbox::expired().refresh(tokens_with("resource_url", json!("portal.qwen.ai")));
    sandbox.run(["token"]).stdout("granted-access-2\n");
    assert_eq!(sandbox.credential()["resource_url"], "portal.qwen.ai");
}

#[test]
fn a_reply_without_expires_in_still_makes_a_credential_qwen_code_can_read() {
    let sandbox = Sandbox::expired().refresh(tokens_without("expires_in"));
    sandbox.run(["token"]).stdout("granted-access-2\n");
    let renewed = sandbox.credential();
    assert_eq!(renewed["refresh_token"], "granted-refresh-2");
    assert!(renewed["expiry_date"].as_i64().unwrap() > now_ms());
}

#[test]
fn an_absurd_lifetime_is_survived() {
    for absurd in [json!(u64::MAX), json!(1e300), json!(-5)] {
        let sandbox = Sandbox::expired().refresh(tokens_with("expires_in", absurd));
        let outcome = sandbox.run(["refresh"]);
        let code = outcome.code();
        drop(outcome.any_stderr().exits(code.unwrap()));
        assert_eq!(sandbox.credential()["refresh_token"], "granted-refresh-2", "what was spent must be saved");
        assert!(sandbox.credential()["expiry_date"].is_i64());
    }
}

#[test]
fn a_lifetime_written_as_text_is_understood() {
    let sandbox = Sandbox::expired().refresh(tokens_with("expires_in", json!("21600")));
    sandbox.run(["token"]).stdout("granted-access-2\n");
    holds_the_renewal(&sandbox, "granted-refresh-2");
}

#[test]
fn fields_of_other_programs_survive_a_renewal() {
    let sandbox = Sandbox::expired().field("id_token", json!("x")).field("extra", json!({"a": [1, 2.5, null]}));
    let sandbox = sandbox.refresh(Reply::tokens("2"));
    sandbox.run(["token"]).stdout("granted-access-2\n");
    let renewed = sandbox.credential();
    assert_eq!((&renewed["id_token"], &renewed["extra"]), (&json!("x"), &json!({"a": [1, 2.5, null]})));
}

#[test]
fn an_odd_side_field_does_not_lose_the_tokens_that_came_with_it() {
    for (field, odd) in
        [("scope", json!(["openid"])), ("token_type", json!(5)), ("resource_url", json!({})), ("status", json!(1))]
    {
        let sandbox = Sandbox::expired().refresh(tokens_with(field, odd));
        sandbox.run(["token"]).stdout("granted-access-2\n");
        holds_the_renewal(&sandbox, "granted-refresh-2");
    }
}

#[test]
fn room_for_the_new_tokens_is_taken_before_the_old_one_is_sent() {
    let (tell, told) = mpsc::channel();
    let sandbox = Sandbox::expired();
    let directory = sandbox.qwen();
    let reply = Reply::tokens("2").meanwhile(move || {
        let length = |entry: std::fs::DirEntry| {
            let temporary = entry.file_name().to_string_lossy().ends_with(".tmp");
            temporary.then(|| entry.metadata().unwrap()).map(|metadata| (metadata.len(), metadata.mode() & 0o7777))
        };
        tell.send(std::fs::read_dir(directory).unwrap().flatten().find_map(length)).unwrap();
    });
    sandbox.refresh(reply).run(["token"]).stdout("granted-access-2\n");
    let (length, mode) = told.recv().unwrap().expect("no temporary file");
    assert!(length > 1000, "{length}");
    assert_eq!(mode, 0o600);
}

#[test]
fn a_credential_removed_during_its_renewal_is_still_saved() {
    let sandbox = Sandbox::expired();
    let file = sandbox.file();
    let sandbox = sandbox.refresh(Reply::tokens("2").meanwhile(move || std::fs::remove_file(file).unwrap()));
    sandbox.run(["token"]).stdout("granted-access-2\n");
    holds_the_renewal(&sandbox, "granted-refresh-2");
}

#[test]
fn a_login_that_qwen_code_made_during_a_renewal_stands() {
    let sandbox = Sandbox::expired();
    let (file, mut other) = (sandbox.file(), credential("other"));
    other["resource_url"] = json!(sandbox.server.url());
    let text = serde_json::to_string_pretty(&other).unwrap();
    let replaced = text.clone();
    let sandbox = sandbox.refresh(Reply::tokens("2").meanwhile(move || write_private(&file, replaced)));
    sandbox.run(["token"]).stdout("granted-access-other\n");
    assert_eq!(sandbox.content(), text);
}

#[test]
fn a_firewalls_page_is_temporary_and_is_not_asked_for_again() {
    keeps_the_file(
        || Reply::html(200),
        1,
        3,
        "the server answered 200 with HTML, as a firewall or login page does",
        NOT_NOW,
    );
}

#[test]
fn a_firewalls_error_page_is_temporary_and_is_not_asked_for_again() {
    for (status, said) in
        [(400, "400 Bad Request"), (401, "401 Unauthorized"), (403, "403 Forbidden"), (404, "404 Not Found")]
    {
        let said = format!("the server answered {said} with HTML, as a firewall or login page does");
        keeps_the_file(move || Reply::html(status), 1, 3, &said, NOT_NOW);
    }
}

#[test]
fn broken_json_is_temporary() {
    keeps_the_file(
        || Reply::text(200, "{\"access_token\":"),
        1,
        3,
        "the server's reply is not the JSON it should be",
        NOT_NOW,
    );
}

#[test]
fn half_an_answer_is_temporary() {
    keeps_the_file(
        Reply::half,
        1,
        3,
        "no usable answer from `127.0.0.1`: it broke off: end of file before message length reached",
        NOT_NOW,
    );
}

#[test]
fn an_answer_of_50_mb_is_temporary() {
    keeps_the_file(Reply::huge, 1, 3, "no usable answer from `127.0.0.1`: it is longer than 1 MiB", NOT_NOW);
}

#[test]
fn a_dropped_connection_is_temporary_and_not_retried() {
    keeps_the_file(
        Reply::dropped,
        1,
        3,
        "no usable answer from `127.0.0.1`: connection closed before message completed",
        NOT_NOW,
    );
}

#[test]
fn a_server_that_never_answers_is_temporary_and_not_retried() {
    keeps_the_file(Reply::silence, 1, 3, "no usable answer from `127.0.0.1`: none came within 20 s", NOT_NOW);
}

#[test]
fn an_answer_without_a_token_is_temporary() {
    for body in [json!({}), json!({"access_token": ""}), json!({"access_token": null}), json!({"status": "pending"})] {
        keeps_the_file(move || Reply::json(200, body.clone()), 1, 3, "the server's reply has no access token", NOT_NOW);
    }
    for body in [json!([]), json!(null), json!({"access_token": 5})] {
        let said = "the server's reply is not the JSON it should be";
        keeps_the_file(move || Reply::json(200, body.clone()), 1, 3, said, NOT_NOW);
    }
}

#[test]
fn a_redirect_is_not_followed_with_the_refresh_token() {
    let redirect = || Reply::html(307).header("Location", "/api/v1/oauth2/elsewhere");
    keeps_the_file(redirect, 1, 3, "the server answered 307 with HTML, as a firewall or login page does", NOT_NOW);
}

#[test]
fn a_server_error_is_tried_three_times_and_is_temporary() {
    keeps_the_file(
        || Reply::error(500, "server_error"),
        3,
        3,
        "the server answered 500 Internal Server Error",
        NOT_NOW,
    );
}

#[test]
fn a_gateways_page_is_tried_three_times_and_is_temporary() {
    keeps_the_file(|| Reply::html(503), 3, 3, "the server answered 503 Service Unavailable", NOT_NOW);
}

#[test]
fn a_rate_limit_is_tried_three_times_and_is_temporary() {
    keeps_the_file(|| Reply::html(429), 3, 3, "the server answered 429 Too Many Requests", NOT_NOW);
}

#[test]
fn a_server_error_that_passes_is_not_noticed() {
    let sandbox = Sandbox::expired().refresh(Reply::html(502)).refresh(Reply::html(429)).refresh(Reply::tokens("2"));
    sandbox.run(["token"]).stdout("granted-access-2\n");
    holds_the_renewal(&sandbox, "granted-refresh-2");
}

#[test]
fn an_unreachable_server_is_temporary() {
    let sandbox = Sandbox::expired().variable("QWENAUTH_QWEN_OAUTH_URL", "http://127.0.0.1:1");
    let before = sandbox.content();
    sandbox.run(["token"]).fails(
        3,
        "cannot renew the token: cannot reach `127.0.0.1`: connection refused (os error 111)",
        NOT_NOW,
    );
    assert_eq!(sandbox.content(), before);
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
fn qwens_refusal_of_a_refresh_token_requires_a_login() {
    for status in [400, 401] {
        let refusal = json!({"error": "invalid_request", "error_description": "Invalid refresh token or client_id"});
        refuses_the_refresh_token(
            Reply::json(status, refusal),
            "`invalid_request`: Invalid refresh token or client_id",
        );
    }
}

#[test]
fn an_invalid_request_about_something_else_is_no_refusal() {
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
fn a_refused_client_is_not_about_the_login() {
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
fn a_401_without_an_oauth_error_is_no_refusal() {
    keeps_the_file(
        || Reply::json(401, json!({"message": "unauthorized"})),
        1,
        3,
        "the server answered 401 Unauthorized without an OAuth error",
        NOT_NOW,
    );
}

#[test]
fn a_refused_refresh_token_keeps_an_access_token_that_still_lives() {
    let sandbox = Sandbox::new().logged_in().refresh(Reply::error(400, "invalid_grant"));
    let before = sandbox.content();
    sandbox.run(["refresh"]).fails(4, "the login is over: the server answered `invalid_grant`", LOGIN);
    assert_eq!(sandbox.content(), before);
    sandbox.run(["token"]).stdout("granted-access-1\n");
    let mut status = sandbox.run(["status", "--json"]).exits(4);
    assert_eq!(status.json()["profiles"][0]["state"], "refused");
}

#[test]
fn another_processs_token_is_used_when_the_old_one_is_refused() {
    let sandbox = Sandbox::expired();
    let (file, mut other) = (sandbox.file(), credential("other"));
    other["resource_url"] = json!(sandbox.server.url());
    let text = serde_json::to_string_pretty(&other).unwrap();
    let replaced = text.clone();
    let reply = Reply::error(400, "invalid_grant").meanwhile(move || write_private(&file, replaced));
    let sandbox = sandbox.refresh(reply);
    sandbox.run(["token"]).stdout("granted-access-other\n");
    assert_eq!(sandbox.content(), text, "the file of another process is not removed");
}

#[test]
fn another_processs_expired_token_is_renewed_when_the_old_one_is_refused() {
    let sandbox = Sandbox::expired();
    let (file, mut other) = (sandbox.file(), credential("other"));
    other["resource_url"] = json!(sandbox.server.url());
    other["expiry_date"] = json!(now_ms() - 1000);
    let text = serde_json::to_string_pretty(&other).unwrap();
    let reply = Reply::error(400, "invalid_grant").meanwhile(move || write_private(&file, text));
    let sandbox = sandbox.refresh(reply).refresh(Reply::tokens("2"));
    sandbox.run(["token"]).stdout("granted-access-2\n");
    assert_eq!(sandbox.server.asked(Ask::Refresh)[1].field("refresh_token"), "granted-refresh-other");
}

#[test]
fn a_login_without_refresh_token_requires_a_new_one_once_it_is_over() {
    let sandbox = Sandbox::expired().field("refresh_token", Value::Null);
    sandbox.run(["token"]).fails(4, "the token has expired and the login has no refresh token", LOGIN);
}

#[test]
fn a_plain_http_server_elsewhere_is_refused_before_anything_is_sent() {
    for url in ["http://chat.qwen.ai", "http://192.0.2.1:80", "http://localhost.attacker.example"] {
        let sandbox = Sandbox::expired().variable("QWENAUTH_QWEN_OAUTH_URL", url);
        let before = sandbox.content();
        sandbox.run(["refresh"]).fails(
            1,
            &format!(
                "`QWENAUTH_QWEN_OAUTH_URL`: refused the URL `{url}`: plain `http` is accepted for this machine only"
            ),
            "use `https`",
        );
        assert_eq!(sandbox.content(), before);
    }
}

#[test]
fn a_server_url_that_is_none_is_refused() {
    for url in ["chat.qwen.ai", "ftp://chat.qwen.ai", "https://", "not a url"] {
        let sandbox = Sandbox::expired().variable("QWENAUTH_QWEN_OAUTH_URL", url);
        let outcome = sandbox.run(["refresh"]).exits(1).any_stderr();
        assert_eq!(outcome.stderr.matches("qwenauth: error:").count(), 1, "{outcome}");
    }
}

#[test]
fn a_proxy_sees_nothing_of_a_server_on_loopback() {
    // The proxy's server fails the test over any request.
    let proxy = Sandbox::new();
    let mut sandbox = Sandbox::expired().refresh(Reply::tokens("2"));
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"] {
        sandbox = sandbox.variable(name, proxy.server.url());
    }
    sandbox.run(["token"]).stdout("granted-access-2\n");
}

#[test]
fn an_expiry_far_ahead_written_by_a_wrong_clock_does_not_hinder_a_renewal() {
    let ahead = i64::try_from(Duration::from_hours(24 * 365 * 1000).as_secs()).unwrap();
    for seconds in [3600 * 7, ahead] {
        let sandbox = Sandbox::new().logged_in().expires_in(seconds).refresh(Reply::tokens("2"));
        sandbox.run(["token"]).stdout("granted-access-1\n");
        sandbox.run(["refresh"]);
        holds_the_renewal(&sandbox, "granted-refresh-2");
    }
}

#[test]
fn an_expiry_an_hour_behind_costs_one_renewal() {
    let sandbox = Sandbox::new().logged_in().expires_in(-3600).refresh(Reply::tokens("2"));
    sandbox.run(["token"]).stdout("granted-access-2\n");
    sandbox.run(["token"]).stdout("granted-access-2\n");
}

#[test]
fn nothing_of_a_renewal_is_logged_that_is_secret() {
    let sandbox = Sandbox::expired().refresh(Reply::html(503)).refresh(Reply::tokens("2"));
    let outcome = sandbox.variable("QWENAUTH_LOG", "trace").run(["token"]).stdout("granted-access-2\n").any_stderr();
    assert!(outcome.stderr.contains("503"), "nothing was logged: {outcome}");
}

#[test]
fn a_token_that_the_server_repeats_is_not_repeated_by_us() {
    let said = json!({"error": "invalid_client", "error_description": "granted-refresh-1 is not yours"});
    let reply = move || Reply::json(400, said.clone());
    keeps_the_file(reply, 1, 1, "the server answered `invalid_client`: … is not yours", NOT_THE_LOGIN);
}
