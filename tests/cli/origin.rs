//! A login belongs to the server that granted it: no other is sent its tokens, and no other ends it.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::machine::{Machine, credential};
use crate::server::{Ask, Reply, Server, tokens};

const VARIABLE: &str = "QWENAUTH_QWEN_OAUTH_URL";

/// A second server, which refuses every refresh token it gets.
fn stranger() -> Server {
    let server = Server::start();
    server.always(Ask::Refresh, || Reply::error(400, "invalid_grant"));
    server
}

fn records(machine: &Machine) -> Vec<PathBuf> {
    let mut records: Vec<PathBuf> =
        fs::read_dir(machine.origins()).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    records.sort();
    records
}

/// The provider `corp`, whose token endpoint is at `server`, and the credential of a login there.
fn corp(machine: Machine, server: &str) -> Machine {
    let config = format!(
        "[providers.corp]\nclient_id = \"f0304373b74a44d2b584a3fb70ca9e56\"\n\
         device_authorization_endpoint = \"{{server}}/device\"\ntoken_endpoint = \"{server}/api/v1/oauth2/token\"\n\
         revocation_endpoint = \"{server}/revoke\"\nbase_url = \"{{server}}/v1\"\ndefault_model = \"m\"\n"
    );
    machine.configured(&config)
}

fn corp_login(machine: &Machine, seconds: i64) {
    let mut login = credential("1");
    login["provider"] = json!("corp");
    login["expiry_date"] = json!(crate::machine::now_ms() + seconds * 1000);
    login.as_object_mut().unwrap().remove("resource_url");
    crate::machine::write_private(&machine.profiles().join("corp.json"), login.to_string());
}

#[test]
fn a_renewal_remembers_the_server_of_the_new_token_alone() {
    let machine = Machine::expired().refresh(Reply::tokens("2"));
    machine.run(["token"]).stdout("granted-access-2\n");
    let kept = records(&machine);
    assert_eq!(kept.len(), 1, "{kept:?}");
    let origin: Value = serde_json::from_slice(&fs::read(&kept[0]).unwrap()).unwrap();
    assert_eq!(origin["token_endpoint"], format!("{}/api/v1/oauth2/token", machine.server.url()));
    let machine = machine.expires_in(-60).refresh(Reply::tokens("3"));
    machine.run(["token"]).stdout("granted-access-3\n");
    assert_eq!(records(&machine).len(), 1);
    assert_ne!(records(&machine), kept);
}

#[test]
fn a_refresh_token_that_stays_keeps_its_record() {
    for mut answer in [tokens("1"), tokens("2")] {
        answer.as_object_mut().unwrap().remove("scope");
        if answer["refresh_token"] != "granted-refresh-1" {
            answer.as_object_mut().unwrap().remove("refresh_token");
        }
        let machine = Machine::expired().refresh(Reply::json(200, answer));
        drop(machine.run(["token"]).any_stdout());
        assert_eq!(records(&machine).len(), 1);
    }
}

#[test]
fn the_server_is_recorded_before_the_token_is_installed() {
    let machine = Machine::expired().refresh(Reply::tokens("2"));
    let strace = std::process::Command::new("strace").args(["-f", "true"]).stderr(std::process::Stdio::null()).status();
    if !crate::machine::possible(strace.is_ok_and(|status| status.success()), "trace system calls") {
        return;
    }
    let log = machine.directory().join("calls");
    let mut strace = machine.other("strace");
    strace.args(["-f", "-e", "trace=rename,renameat,renameat2,fsync", "-o"]).arg(&log);
    strace.arg(machine.program()).arg("token");
    machine.start(strace).finish().stdout("granted-access-2\n");
    let calls = fs::read_to_string(log).unwrap();
    let at = |what: &dyn Fn(&str) -> bool| calls.lines().position(what).expect(&calls);
    let durable = at(&|call| call.contains("fsync("));
    let record = at(&|call| call.contains("rename") && call.contains("/origins/"));
    let rename = at(&|call| call.contains("rename") && call.contains("oauth_creds.json\""));
    assert!(durable < record && record < rename, "{calls}");
}

#[test]
fn another_server_named_by_the_variable_is_sent_nothing_and_ends_nothing() {
    let other = stranger();
    let machine = Machine::expired().granted_here();
    let before = machine.content();
    let home = machine.server.address().to_owned();
    let machine = machine.variable(VARIABLE, other.url());
    let error = format!(
        "the login of `qwen` came from `{{address}}`, and `{VARIABLE}` names `{}`: nothing was sent",
        other.address()
    );
    for command in [&["token"][..], &["refresh"], &["exec", "--", "true"], &["exec", "--gateway", "--", "true"]] {
        machine.run(command).fails(4, &error, &format!("unset `{VARIABLE}`, or log in again there"));
    }
    let mut status = machine.run(["status", "--json"]).exits(4);
    let told = status.json()["profiles"][0].clone();
    assert_eq!(told["state"], "expired");
    assert!(told["problems"][0].as_str().unwrap().contains(VARIABLE), "{told}");
    assert!(other.requests().is_empty(), "the stranger was asked");
    assert_eq!(machine.content(), before);
    // Back at the server of the login all is well.
    let machine = machine.variable(VARIABLE, format!("http://{home}")).refresh(Reply::tokens("2"));
    machine.run(["token"]).stdout("granted-access-2\n");
}

#[test]
fn a_valid_token_is_printed_whatever_server_is_named() {
    let other = stranger();
    let machine = Machine::new().logged_in().granted_here().variable(VARIABLE, other.url());
    machine.run(["token"]).stdout("granted-access-1\n");
    let mut status = machine.run(["status", "--json"]);
    let told = status.json()["profiles"][0].clone();
    assert_eq!(told["state"], "valid");
    assert!(told["problems"][0].as_str().unwrap().contains(VARIABLE), "{told}");
    assert!(other.requests().is_empty());
}

#[test]
fn a_login_of_unknown_origin_is_sent_to_no_other_machine() {
    let machine = Machine::expired().variable(VARIABLE, "https://login.example.invalid");
    let before = machine.content();
    let error = format!(
        "the login of `qwen` came from `chat.qwen.ai`, and `{VARIABLE}` names `login.example.invalid`: nothing was sent"
    );
    machine.run(["token"]).fails(4, &error, &format!("unset `{VARIABLE}`, or log in again there"));
    assert_eq!(machine.content(), before);
}

#[test]
fn while_the_variable_names_another_machine_each_command_that_uses_it_says_so_once() {
    let elsewhere = "https://login.example.invalid";
    let machine = Machine::expired().granted_by(elsewhere).variable(VARIABLE, elsewhere);
    for command in [&["token"][..], &["refresh"], &["exec", "--", "true"]] {
        let outcome = machine.run(command).exits(3).any_stderr();
        let said =
            format!("qwenauth: warning: `{VARIABLE}` is set: tokens are requested from `login.example.invalid`\n");
        assert!(outcome.stderr.starts_with(&said), "{outcome}");
        assert_eq!(outcome.stderr.matches(VARIABLE).count(), 1, "{outcome}");
    }
}

#[test]
fn a_rejection_by_a_server_on_loopback_ends_no_login_of_unknown_origin() {
    let machine = Machine::expired().refresh(Reply::error(400, "invalid_grant"));
    let before = machine.content();
    let error = "`127.0.0.1` does not know this login: the server answered `invalid_grant`";
    let hint = "the login was kept; use the server that issued it, or log in again with this one";
    machine.run(["token"]).fails(4, error, hint);
    assert_eq!(machine.content(), before);
    // That server is not asked twice, and another may renew it.
    drop(machine.run(["token"]).exits(4).any_stderr());
    assert_eq!(machine.server.asked(Ask::Refresh).len(), 1);
    let other = Server::start();
    other.script(Ask::Refresh, Reply::tokens("2"));
    let machine = machine.variable(VARIABLE, other.url());
    let mut status = machine.run(["status", "--json"]).exits(0);
    assert_eq!(status.json()["profiles"][0]["state"], "refreshable");
    drop(machine.run(["refresh"]));
    assert_eq!(machine.credential()["refresh_token"], "granted-refresh-2");
}

#[test]
fn another_token_endpoint_in_the_configuration_is_sent_nothing_and_ends_nothing() {
    let other = stranger();
    let machine = Machine::new();
    let url = machine.server.url();
    let machine = corp(machine, &url);
    corp_login(&machine, -60);
    let machine = machine.refresh(Reply::tokens("2"));
    machine.run(["token", "--profile", "corp"]).stdout("granted-access-2\n");
    corp_expired(&machine);
    let before = machine.profile("corp");
    let machine = corp(machine, &other.url());
    let error = format!(
        "the login of `corp` came from `{{address}}`, and config.toml now names `{}`: nothing was sent",
        other.address()
    );
    for command in ["token", "refresh"] {
        let hint = "restore its `token_endpoint`, or run `qwenauth login corp`";
        machine.run([command, "--profile", "corp"]).fails(4, &error, hint);
    }
    assert_eq!(machine.profile("corp"), before);
    let outcome = machine.run(["logout", "--profile", "corp"]).any_stderr();
    assert!(outcome.stderr.contains("the server did not revoke it"), "{outcome}");
    assert!(other.requests().is_empty(), "the stranger was asked");
}

fn corp_expired(machine: &Machine) {
    let mut login = machine.profile("corp");
    login["expiry_date"] = json!(1);
    crate::machine::write_private(&machine.profiles().join("corp.json"), login.to_string());
}

#[test]
fn another_revocation_endpoint_in_the_configuration_is_sent_nothing() {
    let other = stranger();
    let machine = Machine::new();
    let url = machine.server.url();
    let machine = corp(machine, &url);
    corp_login(&machine, -60);
    let machine = machine.refresh(Reply::tokens("2"));
    machine.run(["token", "--profile", "corp"]).stdout("granted-access-2\n");
    let text = fs::read_to_string(machine.config()).unwrap();
    let moved = text.replace(&format!("{url}/revoke"), &format!("{}/revoke", other.url()));
    fs::write(machine.config(), moved).unwrap();
    let outcome = machine.run(["logout", "--profile", "corp"]).any_stderr();
    assert!(outcome.stderr.contains("config.toml now names another `revocation_endpoint`"), "{outcome}");
    assert!(other.requests().is_empty(), "the stranger was asked");
}

/// Without a record, a login counts as one of the provider's own server; without a refresh token, the access token is what
/// is revoked.
#[test]
fn another_revocation_endpoint_is_sent_nothing_of_a_login_without_record_or_refresh_token() {
    let other = stranger();
    let machine = Machine::new().logged_in();
    let config = format!("[providers.qwen]\nrevocation_endpoint = \"{}/revoke\"\n", other.url());
    let machine = machine.configured(&config);
    let outcome = machine.run(["logout"]).any_stderr();
    assert!(outcome.stderr.contains("config.toml now names another `revocation_endpoint`"), "{outcome}");
    drop(outcome);

    for moved in ["/revoke", "/token"] {
        let machine = Machine::new();
        let url = machine.server.url();
        let granted = json!({"access_token": "granted-access-1", "expires_in": 3600});
        let device = json!({
            "device_code": "granted-device-code", "user_code": "A", "verification_uri": "http://127.0.0.1/v",
            "interval": 0, "expires_in": 30,
        });
        machine.server.serve("/device", move |_| Reply::json(200, device.clone()));
        machine.server.serve("/token", move |_| Reply::json(200, granted.clone()));
        let machine = corp(machine, &url);
        let text = fs::read_to_string(machine.config()).unwrap();
        fs::write(machine.config(), text.replace("/api/v1/oauth2/token", "/token")).unwrap();
        drop(machine.run(["login", "corp", "--no-verify", "--qr", "never"]).any_stderr());
        assert_eq!(records(&machine).len(), 1, "the server of an access token is remembered");
        let text = fs::read_to_string(machine.config()).unwrap();
        fs::write(machine.config(), text.replace(&format!("{url}{moved}"), &format!("{}{moved}", other.url())))
            .unwrap();
        let outcome = machine.run(["logout", "--profile", "corp"]).any_stderr();
        assert!(outcome.stderr.contains("than at the login"), "{moved}: {outcome}");
        assert!(records(&machine).is_empty());
    }
    assert!(other.requests().is_empty(), "the stranger was asked");
}

#[test]
fn a_variable_that_is_gone_is_named_and_not_a_file() {
    let machine = Machine::expired().granted_here();
    let url = machine.server.url();
    let machine = machine.without_variable(VARIABLE);
    let error = format!(
        "the login of `qwen` came from `{{address}}`, and without `{VARIABLE}` the server is `chat.qwen.ai`: nothing was sent"
    );
    let hint = format!("set `{VARIABLE}={url}` again, or run `qwenauth login`").replace(&url, "{server}");
    machine.run(["refresh"]).fails(4, &error, &hint);
}
