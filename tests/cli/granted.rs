//! Replies as OAuth servers send them in the wild: what was granted is stored and used, a denial ends a login at once.

use std::fs;

use serde_json::{Value, json};

use crate::machine::Machine;
use crate::server::{Reply, Request};

const UNUSABLE: &str =
    "qwenauth: the server sent a refresh token that is not a string; the login ends when its access token expires\n";

/// How a body that means the same can be sent.
fn guises(body: &Value) -> Vec<(String, Reply)> {
    let text = body.to_string();
    let mut guises: Vec<(String, Reply)> = ["text/html; charset=UTF-8", "text/plain", "application/octet-stream", ""]
        .into_iter()
        .map(|content_type| (format!("as {content_type:?}"), Reply::text_as(200, content_type, &text)))
        .collect();
    guises.push(("after a byte order mark".into(), Reply::text(200, &format!("\u{feff}{text}"))));
    guises.push(("in white space".into(), Reply::text(200, &format!("\r\n\t {text}\n\n"))));
    let odd = [
        ("scope", json!(7)),
        ("scope", json!(["openid"])),
        ("token_type", json!({})),
        ("resource_url", json!(false)),
        ("expires_in", json!("3600")),
        ("expires_in", json!(3600.5)),
        ("error", json!("")),
        ("error", json!(null)),
        ("error_description", json!([1])),
        ("id_token", json!(1e300)),
    ];
    for (name, value) in odd {
        let mut body = body.clone();
        body[name] = value.clone();
        guises.push((format!("with {name} {value}"), Reply::json(200, body)));
    }
    for beside in [r#""other":"\ud800""#, r#""other":1e999"#, r#""access_token":"""#, r#""scope":"a","scope":"b""#] {
        guises.push((format!("beside {beside}"), Reply::text(200, &text.replacen('{', &format!("{{{beside},"), 1))));
    }
    guises
}

fn device() -> Value {
    json!({
        "device_code": "granted-device-code", "user_code": "AB-CD", "verification_uri": "http://127.0.0.1/v",
        "expires_in": 20, "interval": 0,
    })
}

fn tokens(number: u8, expires_in: u32) -> Value {
    json!({
        "access_token": format!("granted-access-{number}"), "refresh_token": format!("granted-refresh-{number}"),
        "token_type": "Bearer", "expires_in": expires_in,
    })
}

/// A provider of the user's own whose server answers so.
fn machine(device: Reply, token: impl Fn(&Request) -> Reply + Send + 'static) -> Machine {
    let machine = Machine::new().configured(
        "[providers.corp]\nclient_id = \"q\"\ndevice_authorization_endpoint = \"{server}/device\"\n\
         token_endpoint = \"{server}/token\"\nbase_url = \"{server}/v1\"\ndefault_model = \"m\"\n",
    );
    let device = std::sync::Mutex::new(Some(device));
    machine.server.serve("/device", move |_| device.lock().unwrap().take().unwrap());
    machine.server.serve("/token", token);
    machine
}

fn log_in(machine: &Machine) -> crate::run::Outcome {
    machine.run(["login", "corp", "--no-verify", "--timeout", "5s", "--qr", "never"]).any_stderr()
}

fn sent(machine: &Machine, refresh_token: &str) -> usize {
    machine.server.at("/token").iter().filter(|request| request.field("refresh_token") == refresh_token).count()
}

#[test]
fn a_login_stores_what_was_granted_whatever_surrounds_it() {
    for (what, reply) in guises(&tokens(1, 3600)) {
        let reply = std::sync::Mutex::new(Some(reply));
        let machine = machine(Reply::json(200, device()), move |_| reply.lock().unwrap().take().unwrap());
        let outcome = log_in(&machine);
        assert_eq!(outcome.code(), Some(0), "{what}: {outcome}");
        drop(outcome.exits(0));
        assert_eq!(machine.profile("corp")["refresh_token"], "granted-refresh-1", "{what}");
        machine.run(["token"]).stdout("granted-access-1\n");
    }
}

#[test]
fn a_renewal_stores_what_was_granted_whatever_surrounds_it() {
    for (what, reply) in guises(&tokens(2, 3600)) {
        let reply = std::sync::Mutex::new(Some(reply));
        let machine = machine(Reply::json(200, device()), move |request| {
            if request.field("refresh_token").is_empty() {
                return Reply::json(200, tokens(1, 1));
            }
            reply.lock().unwrap().take().unwrap()
        });
        drop(log_in(&machine).exits(0));
        for _ in 0..2 {
            machine.run(["token"]).stdout("granted-access-2\n");
        }
        assert_eq!(machine.profile("corp")["refresh_token"], "granted-refresh-2", "{what}");
        assert_eq!(sent(&machine, "granted-refresh-1"), 1, "{what}: a used token is not sent again");
    }
}

#[test]
fn a_token_that_is_a_number_is_stored_as_its_digits() {
    let machine = machine(Reply::json(200, device()), |request| {
        let (number, lifetime) = if request.field("refresh_token").is_empty() { (1, 1) } else { (2, 3600) };
        let granted = json!({"access_token": 12340 + number, "refresh_token": 67890 + number, "expires_in": lifetime});
        Reply::json(200, granted)
    });
    drop(log_in(&machine).exits(0));
    machine.run(["token"]).stdout("12342\n");
    assert_eq!((sent(&machine, "67891"), &machine.profile("corp")["refresh_token"]), (1, &json!("67892")));
}

#[test]
fn a_refresh_token_that_is_not_a_text_is_dropped_with_a_line() {
    for odd in [json!({"token": "x"}), json!(["x"]), json!(true), json!("line\nbreak"), json!("文")] {
        let mut granted = tokens(1, 3600);
        granted["refresh_token"] = odd.clone();
        let login = machine(Reply::json(200, device()), {
            let granted = granted.clone();
            move |_| Reply::json(200, granted.clone())
        });
        let outcome = log_in(&login).exits(0);
        assert!(outcome.stderr.contains(UNUSABLE), "{odd}: {outcome}");
        assert_eq!(login.profile("corp")["refresh_token"], Value::Null, "{odd}");
        login.run(["token"]).stdout("granted-access-1\n");

        let renewal = machine(Reply::json(200, device()), move |request| {
            let is_login = request.field("refresh_token").is_empty();
            Reply::json(200, if is_login { tokens(2, 1) } else { granted.clone() })
        });
        drop(log_in(&renewal).exits(0));
        renewal.run(["token"]).stdout("granted-access-1\n").stderr(UNUSABLE);
        renewal.run(["token"]).stdout("granted-access-1\n");
        assert_eq!(sent(&renewal, "granted-refresh-2"), 1, "{odd}: a used token is not sent again");
    }
}

#[test]
fn a_device_reply_is_read_whatever_surrounds_it() {
    let mut replies: Vec<(String, Reply)> = Vec::new();
    for changes in [
        json!({"verification_url": "http://127.0.0.1/v"}),
        json!({"verification_url": "http://127.0.0.1/v", "verification_uri": null}),
        json!({"verification_url": "http://127.0.0.1/v", "verification_uri": 5}),
        json!({"verification_uri_complete": {}}),
        json!({"user_code": 123_456}),
        json!({"expires_in": "20"}),
        json!({"expires_in": null, "interval": "0"}),
        json!({"interval": {}, "scope": 1, "error": "", "expires_in": []}),
    ] {
        let mut body = device();
        for (name, value) in changes.as_object().unwrap() {
            body[name] = value.clone();
        }
        replies.push((changes.to_string(), Reply::json(200, body)));
    }
    let text = device().to_string();
    replies.push(("as HTML".into(), Reply::text_as(200, "text/html; charset=UTF-8", &text)));
    replies.push(("after a byte order mark".into(), Reply::text(200, &format!("\u{feff}{text}"))));
    for (what, reply) in replies {
        let machine = machine(reply, |_| Reply::json(200, tokens(1, 3600)));
        let outcome = machine.run(["login", "corp", "--no-verify", "--timeout", "20s", "--qr", "never"]).any_stderr();
        assert_eq!(outcome.code(), Some(0), "{what}: {outcome}");
        drop(outcome.exits(0));
    }
}

#[test]
fn a_denial_ends_a_login_at_once_whatever_surrounds_it() {
    let odd = [json!({"x": 1}), json!(5), json!(null), json!(["a"])];
    let bodies = odd.map(|description| json!({"error": "access_denied", "error_description": description}).to_string());
    let broken = r#"{"error":"access_denied","error_description":"\ud800"}"#.to_owned();
    for body in bodies.iter().chain([&broken, &format!("\u{feff}{broken}")]) {
        for content_type in ["application/json", "text/html"] {
            let answer = body.clone();
            let machine = machine(Reply::json(200, device()), move |_| Reply::text_as(400, content_type, &answer));
            let outcome = log_in(&machine).exits(4);
            let end = "qwenauth: error: the login was denied\n\
                       qwenauth: hint: run `qwenauth login corp` again if that was a mistake\n";
            assert!(outcome.stderr.ends_with(end), "{body}: {outcome}");
            assert_eq!(machine.server.at("/token").len(), 1, "{body}");
        }
    }
}

#[test]
fn a_rejected_refresh_token_is_recognized_whatever_surrounds_it() {
    for body in [
        json!({"error": "invalid_grant", "error_description": 7}).to_string(),
        format!("\u{feff}{}", json!({"error": "invalid_grant"})),
    ] {
        let machine = machine(Reply::json(200, device()), move |request| {
            if request.field("refresh_token").is_empty() {
                return Reply::json(200, tokens(1, 1));
            }
            Reply::text_as(400, "text/html", &body)
        });
        drop(log_in(&machine).exits(0));
        drop(machine.run(["token"]).exits(4).any_stderr());
        drop(machine.run(["token"]).exits(4).any_stderr());
        assert_eq!(sent(&machine, "granted-refresh-1"), 1);
    }
}

#[test]
fn a_revocation_is_understood_whatever_surrounds_it() {
    for (reply, said) in [
        (Reply::text_as(204, "text/html", ""), ""),
        (
            Reply::text_as(400, "text/html", "\u{feff}{\"error\":\"invalid_token\",\"error_description\":{}}"),
            "`invalid_token`",
        ),
    ] {
        let reply = std::sync::Mutex::new(Some(reply));
        let machine = Machine::new().configured(
            "[providers.corp]\nclient_id = \"q\"\ndevice_authorization_endpoint = \"{server}/device\"\n\
             token_endpoint = \"{server}/token\"\nrevocation_endpoint = \"{server}/revoke\"\n\
             base_url = \"{server}/v1\"\ndefault_model = \"m\"\n",
        );
        machine.server.serve("/device", |_| Reply::json(200, device()));
        machine.server.serve("/token", |_| Reply::json(200, tokens(1, 3600)));
        machine.server.serve("/revoke", move |_| reply.lock().unwrap().take().unwrap());
        drop(log_in(&machine).exits(0));
        let outcome = machine.run(["logout"]).any_stdout().any_stderr();
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        assert!(
            outcome.stderr.contains(said) && (said.is_empty() != outcome.stderr.contains("it answered")),
            "{outcome}"
        );
        drop(outcome.exits(0));
        assert!(!fs::exists(machine.profiles().join("corp.json")).unwrap());
    }
}
