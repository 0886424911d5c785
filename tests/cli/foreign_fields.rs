//! Qwen Code's file: fields of other programs are neither read nor lost, whatever they are called.

use serde_json::{Value, json};

use crate::login::{device_code, grant};
use crate::machine::{Machine, credential};
use crate::server::{Ask, Reply};

/// Names that files of our own use, and some that nobody does.
const NAMES: [&str; 12] = [
    "api_key",
    "provider",
    "model",
    "base_url",
    "region",
    "created_at",
    "issuer",
    "token_endpoint",
    "revocation_endpoint",
    "client_auth",
    "store",
    "account",
];

fn values() -> [Value; 6] {
    [json!("x"), json!("https://evil.example/v1"), json!(5), json!({"name": "x"}), json!(["x"]), json!(null)]
}

/// A login that is approved at once, and again as often as it is asked for.
fn approved(machine: Machine) -> Machine {
    let reply = grant(&machine);
    machine.scripted(Ask::DeviceCode, device_code(json!({}))).scripted(Ask::Poll, reply)
}

/// The login of these tests with every foreign field at once.
fn with_all(value: &Value) -> Value {
    let mut all = credential("1");
    for name in NAMES {
        all[name] = value.clone();
    }
    all
}

#[test]
fn no_foreign_field_changes_what_is_printed() {
    for value in values() {
        for name in NAMES {
            let mut file = credential("1");
            file[name] = value.clone();
            let machine = Machine::new().credential_is(file);
            machine.run(["token"]).stdout("granted-access-1\n");
        }
        let machine = Machine::new().credential_is(with_all(&value));
        let mut outcome = machine.run(["status", "--json"]).exits(0);
        let told = outcome.json()["profiles"][0].clone();
        assert_eq!(told["provider"], "qwen");
        assert_eq!((&told["kind"], &told["state"]), (&json!("oauth"), &json!("valid")), "{told}");
        assert_eq!((&told["base_url"], &told["model"]), (&json!("{server}/v1"), &json!("coder-model")), "{told}");
    }
}

#[test]
fn every_foreign_field_survives_a_renewal() {
    for value in values() {
        let machine = Machine::new().credential_is(with_all(&value)).expires_in(-60).refresh(Reply::tokens("2"));
        machine.run(["token"]).stdout("granted-access-2\n");
        let renewed = machine.credential();
        assert!(NAMES.iter().all(|name| renewed.get(name) == Some(&value)), "{renewed}");
    }
}

#[test]
fn every_foreign_field_survives_a_login() {
    for value in values() {
        let mut before = with_all(&value);
        before["access_token"] = json!("granted-access-before");
        let machine = approved(Machine::new().credential_is(before));
        drop(machine.run(["login", "--force", "--no-verify", "--no-browser"]).any_stderr());
        let stored = machine.credential();
        assert_eq!(stored["access_token"], "granted-access-1");
        assert!(NAMES.iter().all(|name| stored.get(name) == Some(&value)), "{stored}");
    }
}

#[test]
fn the_model_of_a_login_is_stored_next_to_the_file_and_removed_by_the_next_login() {
    let machine = approved(Machine::new());
    drop(machine.run(["login", "--no-verify", "--no-browser", "--model", "my-model"]).any_stderr());
    assert_eq!(machine.credential().get("model"), None);
    let model = |machine: &Machine| machine.run(["status", "--json"]).json()["profiles"][0]["model"].clone();
    assert_eq!(model(&machine), "my-model");
    let machine = approved(machine);
    drop(machine.run(["login", "--force", "--no-verify", "--no-browser"]).any_stderr());
    assert_eq!(model(&machine), "coder-model");
}

#[test]
fn a_byte_order_mark_is_skipped_and_gone_after_a_renewal() {
    let machine = Machine::new().logged_in();
    let marked = format!("\u{feff}{}", machine.content());
    let machine = machine.file_is(marked);
    machine.run(["token"]).stdout("granted-access-1\n");
    let machine = machine.refresh(Reply::tokens("2"));
    machine.run(["refresh"]);
    assert!(machine.content().starts_with('{'), "Qwen Code cannot read the mark");
    machine.run(["token"]).stdout("granted-access-2\n");
}

#[test]
fn an_expiry_that_is_not_a_number_is_damage_as_it_is_to_qwen_code() {
    let machine = Machine::new().logged_in().field("expiry_date", json!("9999999999999"));
    let outcome = machine.run(["token"]).exits(4).any_stderr();
    assert!(outcome.stderr.contains("is damaged: a field has the wrong type"), "{outcome}");
}

#[test]
fn a_placeholder_is_not_a_login_and_is_named() {
    for (access, refresh) in [("dummy_access_token", "dummy_refresh_token"), ("placeholder", "granted-refresh-1")] {
        let file = json!({
            "access_token": access, "refresh_token": refresh, "token_type": "Bearer",
            "expiry_date": 9_999_999_999_999_u64, "resource_url": "{server}",
        });
        let machine = Machine::new().credential_is(file);
        machine.server.serve("/", |_| Reply::text(404, "{}"));
        let error = format!(
            "the credential file `{{home}}/.qwen/oauth_creds.json` is damaged: its access token is a placeholder, `{access}`"
        );
        for command in [&["token"][..], &["refresh"], &["exec", "--", "true"], &["gateway"]] {
            machine.run(command).fails(4, &error, "run `qwenauth login`");
        }
        drop(machine.run(["env"]).stdout("(exit 4);\n").any_stderr().exits(4));
        let mut outcome = machine.run(["status", "--json"]).exits(4);
        assert_eq!(outcome.json()["profiles"][0]["state"], "damaged");
        let outcome = machine.run(["doctor"]).any_stdout().any_stderr();
        assert!(outcome.stdout.contains(&format!("placeholder, `{access}`")), "{outcome}");
        drop(outcome.exits(1));
        let sent = |text: &str| text.contains(access) || text.contains(refresh);
        let requests = machine.server.requests();
        assert!(
            !requests.iter().any(|request| sent(&request.body) || sent(request.bearer())),
            "a placeholder was sent"
        );
    }
}

/// As `JSON.parse` reads it, so that Qwen Code and this program see the same login.
#[test]
fn a_field_that_occurs_twice_counts_where_it_occurs_last() {
    let machine = Machine::new().logged_in();
    let text = machine.content().replacen('{', "{\"expiry_date\": 1, \"other\": 1, \"access_token\": 5,", 1);
    machine.file_written(text);
    machine.run(["token"]).stdout("granted-access-1\n");
    let machine = machine.refresh(Reply::tokens("2"));
    machine.run(["refresh"]);
    assert_eq!(
        (machine.credential()["access_token"].clone(), machine.credential()["other"].clone()),
        ("granted-access-2".into(), 1.into())
    );
}
