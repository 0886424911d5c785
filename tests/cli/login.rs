//! `login`: the device flow (RFC 8628) in Qwen's dialect, the proof at its end, and what is stored.

use std::fs;
use std::sync::mpsc;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::machine::{Machine, credential, mode, now_ms};
use crate::run::Outcome;
use crate::server::{Ask, DEVICE_CODE, Reply, USER_CODE, tokens};

pub(crate) const URL: &str = "https://chat.qwen.ai/authorize";
const COMPLETE_URL: &str = "https://chat.qwen.ai/authorize?user_code=WDJB-MJHT&client=qwen-code";

const ENDED: &str = "the free tier of Qwen OAuth ended on 2026-04-15: a login may succeed, but the API rejects every request; use an API key of Alibaba Cloud Model Studio or OpenRouter instead";

const ALREADY: &str = "qwenauth: already logged in to Qwen OAuth as profile `qwen`, the login Qwen Code uses too; `--force` logs in again\n";

pub(crate) const AGAIN: &str = "nothing was changed; retry later";

pub(crate) const MISTAKE: &str = "run `qwenauth login` again if that was a mistake";

pub(crate) const NEW_CODE: &str = "run `qwenauth login` again for a new code";

/// What is said before the first poll.
pub(crate) fn code_shown() -> String {
    format!(
        "qwenauth: {ENDED}\n\
         Open this address on any device:\n\n\
         {COMPLETE_URL}\n\n\
         Code: {USER_CODE}\n\n\
         127.0.0.1 asks you to approve this login. Approve only if you started this login.\n"
    )
}

/// An answer to the device request with these fields changed; `null` removes one.
#[expect(clippy::needless_pass_by_value, reason = "`json!` is written in place")]
pub(crate) fn device_code(changes: Value) -> Reply {
    let mut answer = json!({
        "device_code": DEVICE_CODE,
        "user_code": USER_CODE,
        "verification_uri": URL,
        "verification_uri_complete": COMPLETE_URL,
        "expires_in": 900,
        "interval": 0,
    });
    for (name, value) in changes.as_object().unwrap() {
        answer[name] = value.clone();
    }
    answer.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    Reply::json(200, answer)
}

/// A login whose polls are answered so; no poll comes after them.
pub(crate) fn polls<const N: usize>(replies: [Reply; N]) -> Machine {
    let machine = Machine::new().scripted(Ask::DeviceCode, device_code(json!({})));
    replies.into_iter().fold(machine, |machine, reply| machine.scripted(Ask::Poll, reply))
}

/// New tokens whose API is the machine's server.
pub(crate) fn grant(machine: &Machine) -> Reply {
    let mut granted = tokens("1");
    granted["resource_url"] = json!(machine.server.url());
    Reply::json(200, granted)
}

pub(crate) fn chat() -> Reply {
    Reply::json(200, json!({"choices": [{"message": {"role": "assistant", "content": "a"}}]}))
}

impl Machine {
    /// Scripts the end of a login: granted, and accepted by the API.
    pub(crate) fn granted(self) -> Self {
        let reply = grant(&self);
        self.scripted(Ask::Poll, reply).scripted(Ask::Chat, chat())
    }

    #[track_caller]
    pub(crate) fn holds_nothing(&self) {
        assert!(!self.file().exists(), "a credential was stored");
        assert!(!self.qwen_code_lock().exists());
    }

    #[track_caller]
    pub(crate) fn holds_the_grant(&self) {
        let mut credential = self.credential();
        let left = credential["expiry_date"].as_i64().unwrap() - now_ms();
        assert!((21_500_000..=21_600_000).contains(&left), "{left} ms left");
        credential["expiry_date"] = json!("…");
        let expected = json!({
            "access_token": "granted-access-1",
            "refresh_token": "granted-refresh-1",
            "token_type": "Bearer",
            "resource_url": self.server.url(),
            "expiry_date": "…",
        });
        assert_eq!(credential, expected);
    }
}

impl Outcome {
    #[track_caller]
    pub(crate) fn logs_in(self) -> Self {
        self.exits(0).stderr(&format!("{}qwenauth: logged in to Qwen OAuth, profile `qwen` (active)\n", code_shown()))
    }

    /// No code was shown; after the word on the free tier came this error.
    #[track_caller]
    pub(crate) fn does_not_begin(self, code: i32, error: &str, hint: &str) {
        let hint = if hint.is_empty() { String::new() } else { format!("qwenauth: hint: {hint}\n") };
        drop(self.exits(code).stderr(&format!("qwenauth: {ENDED}\nqwenauth: error: {error}\n{hint}")));
    }

    /// The code was shown, then came this and the login ended well.
    #[track_caller]
    fn warns(self, text: &str) {
        drop(self.exits(0).stderr(&format!("{}{text}", code_shown())));
    }

    /// The code was shown, then the login ended with this.
    #[track_caller]
    pub(crate) fn ends(self, code: i32, error: &str, hint: &str) -> Self {
        let hint = if hint.is_empty() { String::new() } else { format!("qwenauth: hint: {hint}\n") };
        self.exits(code).stderr(&format!("{}qwenauth: error: {error}\n{hint}", code_shown()))
    }
}

#[test]
fn a_login_is_stored_privately_in_qwen_codes_format() {
    let machine = polls([]).granted();
    machine.run(["login"]).logs_in();
    machine.holds_the_grant();
    let expiry = machine.credential()["expiry_date"].as_i64().unwrap();
    let expected = format!(
        "{{\n  \"access_token\": \"granted-access-1\",\n  \"refresh_token\": \"granted-refresh-1\",\n  \
         \"token_type\": \"Bearer\",\n  \"resource_url\": \"{}\",\n  \"expiry_date\": {expiry}\n}}",
        machine.server.url()
    );
    assert_eq!(machine.content(), expected);
    assert_eq!((mode(&machine.file()), mode(&machine.qwen())), (0o600, 0o700));
    assert_eq!(machine.beside(), [".oauth_creds.qwenauth-lock", "oauth_creds.json"]);
    let proof = &machine.server.asked(Ask::Chat)[0];
    assert_eq!(proof.header("Authorization"), "Bearer granted-access-1");
    assert_eq!(serde_json::from_str::<Value>(&proof.body).unwrap()["model"], "coder-model");
}

#[test]
fn a_stored_login_is_private_whatever_the_umask() {
    for umask in ["000", "277"] {
        let machine = polls([]).granted().unprivileged();
        machine.shell(&format!("umask {umask}; exec $QWENAUTH login")).logs_in();
        assert_eq!((mode(&machine.file()), mode(&machine.qwen())), (0o600, 0o700));
    }
}

#[test]
fn what_a_server_says_cannot_steer_the_terminal() {
    let escaped = json!({
        "user_code": "WDJB\u{1b}[2J\u{7}-MJHT",
        "verification_uri": "https://chat.qwen.ai/author\u{1b}]0;owned\u{7}ize",
        "verification_uri_complete": "https://chat.qwen.ai/authorize?user_code=WDJB-MJHT\r\n\u{202e}&client=qwen-code",
    });
    let machine = Machine::new().scripted(Ask::DeviceCode, device_code(escaped));
    let denial = json!({"error": "invalid_client", "error_description": "\u{1b}[31mno\u{1b}[0m\r\u{9b}way\n"});
    let outcome = machine.scripted(Ask::Poll, Reply::json(400, denial)).run(["login"]).exits(1).any_stderr();
    let steering = outcome.stderr.replace('\n', "").chars().any(|c| c.is_control() || c == '\u{202e}');
    assert!(!steering, "{:?}", outcome.stderr);
    for kept in ["WDJB[2J-MJHT", "[31mno[0mway"] {
        assert!(outcome.stderr.contains(kept), "{:?}", outcome.stderr);
    }
}

#[test]
fn json_events_tell_a_script_of_a_login() {
    let machine = polls([]).granted();
    let mut outcome = machine.run(["login", "--json"]).exits(0).any_stderr();
    let mut events = outcome.json_lines();
    for event in &mut events {
        let left =
            event["expires_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond() - now_ms();
        assert!((800_000..=21_600_000).contains(&left), "{left} ms left");
        event["expires_at"] = json!("…");
    }
    assert_eq!(
        events,
        [
            json!({"event": "device_code", "user_code": USER_CODE, "verification_uri": URL,
                "verification_uri_complete": COMPLETE_URL, "expires_at": "…", "interval": 0}),
            json!({"event": "logged_in", "profile": "qwen", "provider": "qwen", "expires_at": "…", "verified": true}),
        ]
    );
}

#[test]
fn json_events_tell_a_script_of_a_failure() {
    let machine = polls([Reply::error(400, "access_denied")]);
    let mut outcome = machine.run(["login", "--json"]).exits(4).any_stderr();
    let events = outcome.json_lines();
    assert_eq!(events[1], json!({"event": "error", "kind": "denied", "message": "the login was denied"}));
}

#[test]
fn the_kind_of_an_error_event_says_what_a_script_can_act_on() {
    let file_in_place_of_the_directory = Machine::new();
    fs::write(file_in_place_of_the_directory.qwen(), "").unwrap();
    let granted = polls([]);
    let reply = grant(&granted);
    let rejected_by_the_api = granted.scripted(Ask::Poll, reply).scripted(Ask::Chat, Reply::json(401, json!({})));
    let closed = Machine::new().variable("QWENAUTH_QWEN_OAUTH_URL", "http://127.0.0.1:1");
    for (machine, kind, code) in [
        (polls([Reply::error(400, "access_denied")]), "denied", 4),
        (polls([Reply::error(400, "expired_token")]), "expired", 4),
        (polls([Reply::error(400, "invalid_client")]), "refused", 1),
        (Machine::new().scripted(Ask::DeviceCode, Reply::error(400, "invalid_client")), "refused", 1),
        (rejected_by_the_api, "refused", 1),
        (closed, "network", 3),
        (Machine::new().scripted(Ask::DeviceCode, Reply::html(503)), "temporary", 3),
        (file_in_place_of_the_directory, "storage", 1),
        (Machine::new().configured("["), "other", 1),
        (Machine::new().variable("QWENAUTH_PROFILE", "A B"), "usage", 2),
        (Machine::new().variable("HOME", "relative"), "other", 1),
    ] {
        let mut outcome = machine.run(["login", "--json"]).exits(code).any_stderr();
        let told = format!("{outcome}");
        let event = outcome.json_lines().pop().expect(&told);
        assert_eq!((&event["event"], &event["kind"]), (&json!("error"), &json!(kind)), "{told}");
        assert!(told.contains(&format!("error: {}", event["message"].as_str().unwrap())), "{told}");
    }
}

#[test]
fn the_code_is_out_before_the_first_poll_even_into_a_pipe() {
    let machine = Machine::new().scripted(Ask::DeviceCode, device_code(json!({"interval": 60})));
    let running = machine.spawn(["login", "--json"]);
    running.wait_for_stdout("device_code");
    running.signal(Signal::SIGTERM);
    running.finish().dies_by(Signal::SIGTERM).any_stdout().any_stderr();
}

#[test]
fn nothing_is_written_before_the_login_is_complete() {
    let (tell, told) = mpsc::channel();
    let machine = Machine::new().scripted(Ask::DeviceCode, device_code(json!({})));
    let file = machine.file();
    let reply = Reply::error(400, "authorization_pending").meanwhile(move || tell.send(file.exists()).unwrap());
    let machine = machine.scripted(Ask::Poll, reply).granted();
    machine.run(["login"]).logs_in();
    assert!(!told.recv().unwrap());
}

#[test]
fn the_old_login_stays_until_the_new_one_is_complete() {
    let machine = polls([Reply::error(400, "access_denied")]).credential_is(credential("old")).expires_in(-60);
    let before = machine.content();
    machine.run(["login", "--force"]).ends(4, "the login was denied", MISTAKE);
    assert_eq!(machine.content(), before);
}

#[test]
fn a_login_replaces_an_expired_one() {
    let machine = polls([]).granted().credential_is(credential("old")).expires_in(-60);
    machine.run(["login", "--force"]).logs_in();
    machine.holds_the_grant();
}

#[test]
fn ctrl_c_while_waiting_writes_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let machine = Machine::new().scripted(Ask::DeviceCode, device_code(json!({"interval": 60})));
        let running = machine.spawn(["login"]);
        running.wait_for_stderr("only if you started this login.\n");
        running.signal(signal);
        running.finish().dies_by(signal).stderr(&code_shown());
        machine.holds_nothing();
    }
}

#[test]
fn a_valid_login_is_not_replaced_without_force() {
    let machine = Machine::new().logged_in();
    let before = machine.content();
    machine.run(["login"]).exits(0).stderr(ALREADY);
    assert_eq!(machine.content(), before);
}

#[test]
fn an_expired_login_that_can_be_renewed_is_a_valid_one() {
    let machine = Machine::expired().scripted(Ask::Refresh, Reply::tokens("2"));
    machine.run(["login"]).exits(0).stderr(ALREADY);
    assert_eq!(machine.credential()["refresh_token"], "granted-refresh-2");
}

#[test]
fn a_login_that_was_not_made_is_not_reported_as_one() {
    let mut outcome = Machine::new().logged_in().run(["login", "--json"]).exits(0).stderr(ALREADY);
    let events = outcome.json_lines();
    assert_eq!((events.len(), &events[0]["event"]), (1, &json!("already_logged_in")));
}

#[test]
fn force_replaces_a_valid_login() {
    let machine = polls([]).granted().credential_is(credential("old"));
    machine.run(["login", "--force"]).logs_in();
    machine.holds_the_grant();
}

#[test]
fn a_damaged_login_is_set_aside_by_a_completed_one() {
    let machine = polls([]).granted().file_is("{\"access_token\": \"gra");
    machine.run(["login"]).exits(0).any_stderr();
    machine.holds_the_grant();
    assert_eq!(
        fs::read_to_string(machine.qwen().join("oauth_creds.json.damaged-1")).unwrap(),
        "{\"access_token\": \"gra"
    );
}

#[test]
fn a_login_the_api_rejects_is_stored_and_says_what_replaces_it() {
    let machine = polls([]);
    let reply = grant(&machine);
    let refusal = json!({"error": {"code": "invalid_api_key", "message": "invalid access token granted-access-1 or token expired",
        "param": null, "type": "invalid_request_error"}, "request_id": "1"});
    let machine = machine.scripted(Ask::Poll, reply).scripted(Ask::Chat, Reply::json(401, refusal));
    machine.run(["login"]).exits(1).stderr(&format!("{}qwenauth: error: the login to Qwen OAuth worked and is stored, but the API rejects it: it answered 401: invalid access token … or token expired\nqwenauth: hint: use `qwenauth login dashscope` or `qwenauth login openrouter` instead; `qwenauth providers` compares them\n", code_shown()));
    machine.holds_the_grant();
}

#[test]
fn json_events_tell_of_a_login_the_api_rejects() {
    let machine = polls([]);
    let reply = grant(&machine);
    let machine = machine.scripted(Ask::Poll, reply).scripted(Ask::Chat, Reply::json(401, json!({})));
    let mut outcome = machine.run(["login", "--json"]).exits(1).any_stderr();
    let events = outcome.json_lines();
    assert_eq!(events[1]["event"], "logged_in");
    assert_eq!(events[1]["verified"], false);
    assert_eq!((&events[2]["event"], &events[2]["kind"], events.len()), (&json!("error"), &json!("refused"), 3));
}

#[test]
fn an_unreachable_api_only_warns() {
    let mut granted = tokens("1");
    granted["resource_url"] = json!("http://127.0.0.1:1");
    let machine = polls([Reply::json(200, granted)]);
    machine.run(["login"]).warns("qwenauth: warning: logged in, but the API could not be checked: cannot reach `127.0.0.1`: connection refused (os error 111)\nqwenauth: logged in to Qwen OAuth, not verified, profile `qwen` (active)\n");
    assert_eq!(machine.credential()["resource_url"], "http://127.0.0.1:1");
}

#[test]
fn an_api_that_is_down_only_warns() {
    let machine = polls([]);
    let reply = grant(&machine);
    let machine = machine.scripted(Ask::Poll, reply).scripted(Ask::Chat, Reply::html(503));
    machine.run(["login"]).warns("qwenauth: warning: logged in, but the API could not be checked: it answered 503 with HTML, probably from a firewall\nqwenauth: logged in to Qwen OAuth, not verified, profile `qwen` (active)\n");
    machine.holds_the_grant();
}

#[test]
fn no_verify_sends_no_request_to_the_api() {
    let machine = polls([]);
    let reply = grant(&machine);
    let machine = machine.scripted(Ask::Poll, reply);
    machine
        .run(["login", "--no-verify"])
        .warns("qwenauth: logged in to Qwen OAuth, not verified, profile `qwen` (active)\n");
    machine.holds_the_grant();
}

#[test]
fn a_grant_for_a_foreign_host_is_rejected_and_nothing_is_sent_there() {
    let mut granted = tokens("1");
    granted["resource_url"] = json!("https://qwen.ai.attacker.example");
    let machine = polls([Reply::json(200, granted)]);
    machine.run(["login"]).ends(1, "the login is stored, but cannot be used: the login's `resource_url` names `qwen.ai.attacker.example`, which is not a host of Qwen OAuth", "if you trust it, add `resource_hosts = [\"qwen.ai.attacker.example\"]` under `[providers.qwen]` in config.toml");
}

#[test]
fn no_secret_is_logged_at_any_level() {
    let machine = polls([Reply::error(400, "authorization_pending")]).granted().variable("QWENAUTH_LOG", "trace");
    let outcome = machine.run(["login"]).exits(0).any_stderr();
    assert!(!outcome.stderr.contains("granted-"), "{outcome}");
    let verifier = machine.server.asked(Ask::Poll)[0].field("code_verifier").to_owned();
    assert!(!outcome.stderr.contains(&verifier), "{outcome}");
}

#[test]
fn an_unknown_provider_is_not_logged_in_to() {
    Machine::new().run(["login", "qwne"]).fails(2, "unknown provider `qwne`", "did you mean `qwen`?");
}
