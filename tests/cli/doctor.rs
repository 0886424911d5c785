//! `doctor`: each thing that keeps a login from working is found, with its remedy, and what is local is repaired.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::sandbox::{Sandbox, credential, mode, write_private};
use crate::server::Reply;

fn healthy() -> Sandbox {
    let sandbox = Sandbox::new().logged_in().field("resource_url", json!("{server}"));
    sandbox.server.serve("/", |_| Reply::text(404, "{}"));
    sandbox
}

/// The checks of one name that are not ok: status, message, remedy.
#[track_caller]
fn found(sandbox: &Sandbox, arguments: &[&str], name: &str) -> Vec<(String, String, String)> {
    let mut outcome = sandbox.run([&["doctor", "--json"], arguments].concat()).any_stderr();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let outcome_json = outcome.json();
    let checks = outcome_json["checks"].as_array().unwrap();
    let failed = checks.iter().any(|check| check["status"] == "fail");
    drop(outcome.exits(i32::from(failed)));
    let wrong = checks.iter().filter(|check| check["name"] == name && check["status"] != "ok");
    wrong.map(|check| (text(&check["status"]), text(&check["message"]), text(&check["remedy"]))).collect()
}

fn aged(path: &std::path::Path, seconds: u64) {
    let file = fs::File::options().append(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

#[test]
fn a_healthy_login_has_nothing_to_repair() {
    let outcome = healthy().run(["doctor"]).exits(0).any_stdout();
    assert!(outcome.stdout.starts_with("ok    version      qwenauth "), "{outcome}");
    assert!(outcome.stdout.contains("ok    login        `qwen` is valid\n"), "{outcome}");
    assert!(outcome.stdout.lines().all(|line| line.starts_with("ok ")), "{outcome}");
}

#[test]
fn what_is_printed_has_no_secret_and_no_home() {
    let sandbox = healthy().variable("OPENAI_API_KEY", "granted-access-1").variable("SSL_CERT_FILE", "{home}/no.pem");
    let missing = sandbox.home().join("no.pem");
    let sandbox = sandbox.variable("SSL_CERT_FILE", missing);
    let outcome = sandbox.run(["doctor"]).exits(1).any_stdout();
    assert!(!outcome.stdout.contains("granted-") && !outcome.stdout.contains("{home}"), "{outcome}");
    assert!(outcome.stdout.contains("fail  certificates `SSL_CERT_FILE` names `~/no.pem`"), "{outcome}");
}

#[test]
fn a_missing_or_damaged_login_names_the_remedy() {
    let sandbox = Sandbox::new();
    sandbox.server.serve("/", |_| Reply::text(404, "{}"));
    let missing = ("fail".to_owned(), "`qwen` is not logged in".to_owned(), "run `qwenauth login`".to_owned());
    // The API of a profile without a login is the provider's own, which is not on this machine.
    assert_eq!(found(&sandbox.variable("HTTPS_PROXY", "http://127.0.0.1:9"), &[], "login"), [missing]);
    let damaged = found(&healthy().file_is("{"), &[], "login");
    assert!(damaged[0].1.starts_with("the file of `qwen` is damaged: "), "{damaged:?}");
}

#[test]
fn a_proxy_that_does_not_answer_is_named_with_its_variable() {
    let sandbox =
        healthy().field("resource_url", json!("https://portal.qwen.ai")).variable("HTTPS_PROXY", "http://127.0.0.1:9");
    let network = found(&sandbox, &[], "network");
    assert_eq!(network.len(), 1, "{network:?}");
    assert!(network[0].2.contains("`HTTPS_PROXY`"), "{network:?}");
    let sandbox = healthy().variable("HTTPS_PROXY", "http://[::bad");
    let proxy = found(&sandbox, &[], "proxy");
    assert_eq!(proxy[0].1, "`HTTPS_PROXY` is no address of a proxy");
}

#[test]
fn a_clock_that_is_off_is_told_by_the_servers_date() {
    let sandbox = Sandbox::new().logged_in();
    sandbox.server.serve("/", |_| Reply::text(404, "{}").header("Date", "Sat, 01 Jan 2000 00:00:00 GMT"));
    let clock = found(&sandbox, &[], "clock");
    assert!(clock[0].0 == "fail" && clock[0].1.contains(" s ahead of `127.0.0.1`"), "{clock:?}");
}

#[test]
fn openai_variables_that_would_send_a_key_astray_are_found() {
    for (variables, expected) in [
        (&[("OPENAI_BASE_URL", "https://a.example/v1"), ("OPENAI_API_BASE", "https://b.example/v1")][..], "disagree"),
        (
            &[("OPENAI_API_KEY", "granted-access-1"), ("OPENAI_BASE_URL", "https://a.example/v1")],
            "would be sent to `a.example`",
        ),
        (&[("OPENAI_API_KEY", "granted-access-1")], "would be sent to `api.openai.com`"),
        (&[("OPENAI_API_KEY", "sk-or-v1-1234")], "another provider's key"),
        (&[("OPENAI_API_KEY", "mine"), ("OPENAI_BASE_URL", "https://a.example/v1")], "goes to `a.example`"),
        (&[("OPENAI_BASE_URL", "https://a.example/v1")], "without `OPENAI_API_KEY`"),
    ] {
        let sandbox = variables.iter().fold(healthy(), |sandbox, (name, value)| sandbox.variable(*name, *value));
        let checks = found(&sandbox, &[], "variables");
        assert!(checks.iter().any(|check| check.1.contains(expected)), "{expected}: {checks:?}");
    }
}

#[test]
fn a_key_of_another_plan_and_an_old_key_are_found() {
    let key = json!({
        "provider": "dashscope", "api_key": "sk-sp-1234", "base_url": "https://dashscope.aliyuncs.com/compatible-mode/v1",
        "created_at": "2020-01-01T00:00:00Z",
    });
    let sandbox = healthy().variable("CI", "true");
    write_private(&sandbox.home().join(".local/share/qwenauth/credentials/dashscope.json"), key.to_string());
    let checks = found(&sandbox, &[], "key");
    for expected in ["goes to pay-as-you-go host `dashscope.aliyuncs.com`", "forbid unattended use", " days ago"] {
        assert!(checks.iter().any(|check| check.1.contains(expected)), "{expected}: {checks:?}");
    }
}

#[test]
fn fix_repairs_stale_locks_leftovers_and_directories() {
    let sandbox = healthy();
    let (lock, leftover) = (sandbox.qwen_code_lock(), sandbox.qwen().join(".oauth_creds.json.qwenauth-abc.tmp"));
    fs::write(&lock, "1234").unwrap();
    fs::write(&leftover, "").unwrap();
    aged(&lock, 3600);
    aged(&leftover, 3600);
    fs::set_permissions(sandbox.qwen(), Permissions::from_mode(0o777)).unwrap();
    for name in ["lock", "leftovers", "directories"] {
        assert_eq!(found(&sandbox, &[], name).len(), 1, "{name}");
    }
    assert!(lock.exists() && leftover.exists());
    for name in ["lock", "leftovers", "directories"] {
        assert_eq!(found(&sandbox, &["--fix"], name), [], "{name}");
    }
    assert!(!lock.exists() && !leftover.exists());
    assert_eq!(mode(&sandbox.qwen()), 0o755);
}

#[test]
fn fix_leaves_a_lock_that_is_in_use() {
    let sandbox = healthy();
    fs::write(sandbox.qwen_code_lock(), "1234").unwrap();
    assert_eq!(found(&sandbox, &["--fix"], "lock"), []);
    assert!(sandbox.qwen_code_lock().exists());
    fs::remove_file(sandbox.qwen_code_lock()).unwrap();
}

#[test]
fn two_copies_of_one_login_are_found() {
    let sandbox = healthy();
    let elsewhere = sandbox.home().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let sandbox = sandbox.variable("QWEN_HOME", &elsewhere);
    write_private(&elsewhere.join("oauth_creds.json"), sandbox.content());
    let copies = found(&sandbox, &[], "copies");
    assert_eq!(copies.len(), 1, "{copies:?}");
    assert!(copies[0].1.ends_with("are copies of one login"), "{copies:?}");
    write_private(&elsewhere.join("oauth_creds.json"), credential("2").to_string());
    assert_eq!(found(&sandbox, &[], "copies"), []);
    fs::remove_file(elsewhere.join("oauth_creds.json")).unwrap();
}

#[test]
fn a_qwen_home_that_only_qwen_code_sees_is_found() {
    let sandbox = healthy();
    fs::write(sandbox.qwen().join(".env"), "# mine\nexport QWEN_HOME=/elsewhere\n").unwrap();
    let checks = found(&sandbox, &[], "QWEN_HOME");
    assert_eq!(checks[0].1, "`~/.qwen/.env` sets `QWEN_HOME` for Qwen Code alone: its login is not the one used here");
}

#[test]
fn a_tool_that_is_set_up_for_another_address_is_found() {
    let sandbox =
        healthy().field("resource_url", json!("https://portal.qwen.ai")).variable("HTTPS_PROXY", "http://127.0.0.1:9");
    sandbox.run(["setup", "codex"]).any_stderr();
    assert_eq!(found(&sandbox, &[], "setup"), []);
    let sandbox = sandbox.field("resource_url", json!("https://dashscope.aliyuncs.com/compatible-mode"));
    let checks = found(&sandbox, &[], "setup");
    assert_eq!(checks[0].2, "`qwenauth setup codex --profile qwen`", "{checks:?}");
}

#[test]
fn a_configuration_that_does_not_parse_is_a_check_that_fails() {
    let sandbox = Sandbox::new();
    write_private(&sandbox.home().join(".config/qwenauth/config.toml"), "profile = \n");
    let outcome = sandbox.run(["doctor"]).exits(1).any_stdout();
    assert!(outcome.stdout.starts_with("fail  config       `"), "{outcome}");
}
