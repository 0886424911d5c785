//! `doctor`: each thing that keeps a login from working is found, with its remedy, and what is local is repaired.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::faults::preloaded;
use crate::key_places::dashscope;
use crate::keys::{KEY, knows_the_key};
use crate::login::{device_code, polls};
use crate::sandbox::{Sandbox, credential, mode, write_private};
use crate::server::{Ask, Gate, Reply};

fn healthy() -> Sandbox {
    let sandbox = Sandbox::new().logged_in().field("resource_url", json!("{server}"));
    sandbox.server.serve("/", |_| Reply::text(404, "{}"));
    sandbox.server.serve("/v1/chat/completions", |_| Reply::json(200, json!({"choices": []})));
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

/// No name resolves: servers that are not on this machine are not asked.
fn offline(sandbox: Sandbox) -> Option<Sandbox> {
    preloaded(sandbox, "HOSTS", ".nowhere")
}

pub(crate) fn aged(path: &Path, seconds: u64) {
    fs::File::open(path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

#[test]
fn a_healthy_login_has_nothing_to_repair() {
    let outcome = healthy().run(["doctor"]).exits(0).any_stdout();
    assert!(outcome.stdout.starts_with("ok    version      qwenauth "), "{outcome}");
    assert!(outcome.stdout.contains("ok    login        `qwen` has a valid token, 59 min left\n"), "{outcome}");
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
fn a_renewal_under_way_is_not_taken_for_an_interrupted_one() {
    let gate = Gate::default();
    let sandbox = healthy().refresh(Reply::tokens("2").after(&gate));
    let renewal = sandbox.spawn(["refresh"]);
    sandbox.server.wait_for(Ask::Refresh, 1);
    assert_eq!(found(&sandbox, &[], "leftovers"), []);
    renewal.signal(Signal::SIGKILL);
    drop(renewal.finish().dies_by(Signal::SIGKILL));
    assert_eq!(found(&sandbox, &[], "leftovers")[0].2, "`qwenauth refresh` completes it");
    let left = sandbox.beside().into_iter().find(|name| name.ends_with(".tmp")).unwrap();
    fs::remove_file(sandbox.qwen().join(left)).unwrap();
    gate.open();
}

#[test]
fn a_missing_or_damaged_login_names_the_remedy() {
    let Some(sandbox) = offline(Sandbox::new()) else { return };
    sandbox.server.serve("/", |_| Reply::text(404, "{}"));
    let missing = ("fail".to_owned(), "`qwen` is not logged in".to_owned(), "run `qwenauth login`".to_owned());
    assert_eq!(found(&sandbox, &[], "login"), [missing]);
    let damaged = found(&healthy().file_is("{"), &[], "login");
    assert!(damaged[0].1.starts_with("the file of `qwen` is damaged: "), "{damaged:?}");
}

#[test]
fn a_clock_that_is_off_is_told_by_the_servers_date() {
    let sandbox = Sandbox::new().logged_in();
    sandbox.server.serve("/v1/chat/completions", |_| Reply::json(200, json!({"choices": []})));
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
    assert_eq!(mode(&sandbox.qwen()), 0o700);
}

/// Every directory that holds credentials or state is named while others may look into it, and 0700 after `--fix`.
#[test]
fn directories_that_others_may_look_into_are_named_and_closed() {
    for place in [
        ".qwen",
        ".local/share/qwenauth",
        ".local/share/qwenauth/credentials",
        ".local/state/qwenauth",
        ".local/state/qwenauth/pending",
        ".local/state/qwenauth/refused",
        ".local/state/qwenauth/setup",
        ".local/state/qwenauth/usage",
        ".local/state/qwenauth/rate",
        ".local/state/qwenauth/reported",
    ] {
        for loose in [0o755, 0o711, 0o750, 0o777, 0o770] {
            let sandbox = healthy();
            let path = sandbox.home().join(place);
            DirBuilder::new().recursive(true).mode(0o700).create(&path).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(loose)).unwrap();
            let named = found(&sandbox, &[], "directories");
            assert!(
                named.first().is_some_and(|check| check.1.contains(&format!("`~/{place}`"))),
                "{place} {loose:o}: {named:?}"
            );
            assert!(named[0].1.ends_with(&format!("(mode 0{loose:o})")), "{named:?}");
            assert_eq!(found(&sandbox, &["--fix"], "directories"), [], "{place} {loose:o}");
            assert_eq!(mode(&path), 0o700, "{place} {loose:o}");
        }
    }
}

/// The lock that every renewal takes: beside the file that a symlink leads to.
#[test]
fn fix_takes_the_lock_of_the_file_that_a_symlink_leads_to() {
    let sandbox = healthy();
    let elsewhere = sandbox.home().join("dot");
    DirBuilder::new().mode(0o700).create(&elsewhere).unwrap();
    fs::rename(sandbox.file(), elsewhere.join("q.json")).unwrap();
    std::os::unix::fs::symlink("../dot/q.json", sandbox.file()).unwrap();
    fs::write(sandbox.qwen_code_lock(), "x").unwrap();
    aged(&sandbox.qwen_code_lock(), 7200);
    assert_eq!(found(&sandbox, &["--fix"], "lock"), []);
    assert!(elsewhere.join(".q.qwenauth-lock").exists() && !sandbox.kernel_lock().exists());
    assert!(!sandbox.qwen_code_lock().exists());
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
    assert_eq!(checks[0].2, "`export QWEN_HOME=/elsewhere` in your shell's start-up file");
}

#[test]
fn a_tool_that_is_set_up_for_another_address_is_found() {
    let Some(sandbox) = offline(healthy().field("resource_url", json!("https://portal.qwen.ai"))) else { return };
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

#[test]
fn the_lines_and_the_json_say_the_same() {
    let sandbox = healthy().variable("OPENAI_API_KEY", "mine").variable("SSL_CERT_FILE", "/nowhere/ca.pem");
    let mut outcome = sandbox.run(["doctor", "--json"]).exits(1).any_stderr();
    let report = outcome.json();
    let mut expected = String::new();
    for check in report["checks"].as_array().unwrap() {
        let text = |name: &str| check[name].as_str().unwrap().to_owned();
        expected += &format!("{:<5} {:<12} {}\n", text("status"), text("name"), text("message"));
        assert_eq!(check["remedy"].is_null(), check["status"] == "ok", "{check}");
        if !check["remedy"].is_null() {
            expected += &format!("{:<18} → {}\n", "", text("remedy"));
        }
        assert_eq!(check.as_object().unwrap().len(), 4, "{check}");
    }
    let without_times =
        |text: &str| text.lines().filter(|line| !line.contains(" answers in ")).collect::<Vec<_>>().join("\n");
    let lines = sandbox.run(["doctor"]).exits(1).any_stdout();
    assert_eq!(without_times(&lines.stdout), without_times(&expected));
    assert_eq!(report["schema"], 1);
}

#[test]
fn certificates_that_are_missing_unreadable_or_none_are_found() {
    let sandbox = healthy().unprivileged();
    let (closed, empty) = (sandbox.home().join("closed.pem"), sandbox.home().join("empty.pem"));
    fs::write(&closed, "").unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o000)).unwrap();
    fs::write(&empty, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    sandbox.own_everything();
    let missing = "cannot be read: No such file or directory (os error 2)";
    let none = "holds no PEM certificate that can be used";
    for name in ["QWENAUTH_CA_FILE", "SSL_CERT_FILE"] {
        for (file, why) in [
            ("{home}/no.pem", missing),
            ("{home}/closed.pem", "cannot be read: Permission denied (os error 13)"),
            ("{home}", "cannot be read: it is a directory"),
            ("{home}/empty.pem", none),
        ] {
            let path = file.replace("{home}", sandbox.home().to_str().unwrap());
            let script = format!("export {name}={path}; $QWENAUTH doctor | grep -A1 '^fail  cert'");
            let shown = file.replace("{home}", "~");
            let outcome = sandbox.shell(&script).any_stdout();
            let told = format!("fail  certificates `{name}` names `{shown}`, which {why}\n");
            assert!(outcome.stdout.starts_with(&told), "{outcome}");
            assert!(outcome.stdout.contains(&format!("`unset {name}`")), "{outcome}");
            sandbox
                .shell(&format!("export {name}={path}; unset {name}; $QWENAUTH doctor | grep -c cert"))
                .exits(1)
                .stdout("0\n");
        }
    }
    let script = "export SSL_CERT_DIR=/nowhere; $QWENAUTH doctor | grep '^fail'";
    sandbox.shell(script).stdout(&format!("fail  certificates `SSL_CERT_DIR` names `/nowhere`, which {missing}\n"));
}

#[test]
fn a_login_that_cannot_be_saved_is_found_before_it_ends() {
    let sandbox = healthy().unprivileged();
    fs::set_permissions(sandbox.qwen(), Permissions::from_mode(0o500)).unwrap();
    let login = found(&sandbox, &[], "login");
    fs::set_permissions(sandbox.qwen(), Permissions::from_mode(0o700)).unwrap();
    assert_eq!(login[0].1, "`qwen` cannot be renewed: cannot write in `~/.qwen`: Permission denied (os error 13)");
    fs::write(sandbox.kernel_lock(), "").unwrap();
    sandbox.own_everything();
    fs::set_permissions(sandbox.kernel_lock(), Permissions::from_mode(0o000)).unwrap();
    let login = found(&sandbox, &[], "login");
    let told =
        "`qwen` cannot be renewed: cannot open `~/.qwen/.oauth_creds.qwenauth-lock`: Permission denied (os error 13)";
    assert_eq!(login[0].1, told);
    fs::set_permissions(sandbox.kernel_lock(), Permissions::from_mode(0o600)).unwrap();
    assert_eq!(found(&sandbox, &[], "login"), []);
}

fn notes(sandbox: &Sandbox) -> PathBuf {
    sandbox.home().join(".local/state/qwenauth/pending/qwen.json")
}

#[test]
fn fix_removes_a_pending_login_that_nobody_can_complete_and_no_other() {
    let Some(sandbox) = offline(polls([])) else { return };
    sandbox.server.serve("/", |_| Reply::text(404, "{}"));
    sandbox.run(["login", "--no-wait"]).any_stderr();
    assert_eq!(found(&sandbox, &["--fix"], "leftovers"), []);
    assert!(notes(&sandbox).exists());
    let outcome = sandbox.run(["doctor"]).exits(1).any_stdout();
    let told = "ok    pending      a login of `qwen` waits for approval; `qwenauth login --resume --profile qwen` completes it\n";
    assert!(outcome.stdout.contains(told), "{outcome}");
    let mut expired: Value = serde_json::from_slice(&fs::read(notes(&sandbox)).unwrap()).unwrap();
    expired["expires_at"] = json!(1_000_000_000);
    for content in [expired.to_string(), "{".into()] {
        write_private(&notes(&sandbox), content);
        let left = found(&sandbox, &[], "leftovers");
        assert_eq!(left[0].1, "a login of `qwen` was begun and never completed");
        assert!(notes(&sandbox).exists());
        assert_eq!(left[0].2, "`qwenauth doctor --fix` removes it");
        assert_eq!(found(&sandbox, &["--fix"], "leftovers"), []);
        assert!(!notes(&sandbox).exists());
    }
}

#[test]
fn fix_leaves_the_pending_login_that_a_process_polls_for() {
    let sandbox = Sandbox::new().scripted(Ask::DeviceCode, device_code(json!({"interval": 60})));
    let Some(sandbox) = offline(sandbox) else { return };
    sandbox.server.serve("/", |_| Reply::text(404, "{}"));
    let running = sandbox.spawn(["login"]);
    running.wait_for_stderr("only if you started this login.\n");
    write_private(&notes(&sandbox), "{");
    assert_eq!(found(&sandbox, &["--fix"], "leftovers").len(), 1);
    assert!(notes(&sandbox).exists());
    running.signal(Signal::SIGTERM);
    drop(running.finish().dies_by(Signal::SIGTERM).any_stderr());
}

#[test]
fn fix_removes_the_marks_of_refused_tokens_that_are_gone_and_keeps_the_others() {
    let sandbox = healthy().expires_in(-60).scripted(Ask::Refresh, Reply::error(400, "invalid_grant"));
    // Refused while the access token lives: the file stays, and so must its mark.
    let sandbox = sandbox.expires_in(20);
    drop(sandbox.run(["refresh"]).exits(4).any_stderr());
    let marks = sandbox.home().join(".local/state/qwenauth/refused");
    let count = || fs::read_dir(&marks).unwrap().count();
    assert_eq!(count(), 1);
    assert_eq!(found(&sandbox, &["--fix"], "leftovers"), []);
    assert_eq!(count(), 1);
    write_private(&marks.join("not-a-mark"), "");
    let sandbox = sandbox.credential_is(credential("2"));
    let left = found(&sandbox, &[], "leftovers");
    assert_eq!(left[0].1, "marks of refused tokens and keys that are gone: 1");
    assert_eq!(count(), 2);
    assert_eq!(found(&sandbox, &["--fix"], "leftovers"), []);
    assert_eq!(count(), 1, "what is no mark stays");
}

/// Which server granted a token is forgotten with the token and no sooner.
#[test]
fn fix_removes_the_records_of_servers_whose_tokens_are_gone_and_keeps_the_others() {
    let sandbox = healthy().expires_in(-60).refresh(Reply::tokens("2"));
    drop(sandbox.run(["refresh"]).any_stderr());
    let records = sandbox.origins();
    let count = || fs::read_dir(&records).unwrap().count();
    assert_eq!(count(), 1);
    assert_eq!(found(&sandbox, &["--fix"], "leftovers"), []);
    assert_eq!(count(), 1, "the token is there");
    // Older versions did not say for which file a record is, and another home may hold its token.
    write_private(&records.join("0".repeat(64)), r#"{"token_endpoint":"https://a.example/token"}"#);
    let elsewhere = sandbox.directory().join("elsewhere.json");
    write_private(&elsewhere, "{\"refresh_token\":\"of another home\"}");
    let other = json!({"token_endpoint": "https://a.example/token", "file": &elsewhere});
    write_private(&records.join("1".repeat(64)), other.to_string());
    write_private(&records.join("not-a-record"), "");
    let sandbox = sandbox.file_is("{");
    assert_eq!(found(&sandbox, &["--fix"], "leftovers"), [], "a damaged file may hold any token");
    for is_there in [true, false] {
        if is_there {
            sandbox.file_written(credential("3").to_string());
        } else {
            fs::remove_file(sandbox.file()).unwrap();
        }
        let left = found(&sandbox, &[], "leftovers");
        assert_eq!(left[0].1, "records of the servers of tokens that are gone: 1");
        assert_eq!(count(), 4);
    }
    assert_eq!(found(&sandbox, &["--fix"], "leftovers"), []);
    assert_eq!(count(), 3);
    fs::remove_file(&elsewhere).unwrap();
    assert_eq!(found(&sandbox, &["--fix"], "leftovers"), []);
    assert_eq!(count(), 2, "the file that it was for is gone");
}

/// Its token is on its way into the file, and its record is there already.
#[test]
fn fix_leaves_the_records_of_a_renewal_under_way() {
    let gate = Gate::default();
    let sandbox = healthy().expires_in(-60).refresh(Reply::tokens("2").after(&gate));
    let record = json!({"token_endpoint": "https://a.example/token", "file": sandbox.file()});
    write_private(&sandbox.origins().join("2".repeat(64)), record.to_string());
    let renewing = sandbox.spawn(["refresh"]);
    sandbox.server.wait_for(Ask::Refresh, 1);
    let left = found(&sandbox, &["--fix"], "leftovers");
    assert!(left.iter().any(|check| check.1 == "records of the servers of tokens that are gone: 1"), "{left:?}");
    assert!(sandbox.origins().join("2".repeat(64)).exists());
    gate.open();
    drop(renewing.finish().any_stderr());
    assert!(!sandbox.origins().join("2".repeat(64)).exists(), "the renewal forgets what its file holds no more");
}

/// The renewal after it waits for nobody: that the lock went away was its own doing.
#[test]
fn a_lock_that_fix_removed_is_no_trace_of_a_foreign_renewal() {
    let sandbox = healthy().expires_in(-60).refresh(Reply::tokens("2"));
    fs::write(sandbox.qwen_code_lock(), "1234").unwrap();
    write_private(&sandbox.kernel_lock(), "");
    // What was made in the same moment would explain the change.
    std::thread::sleep(Duration::from_millis(50));
    for path in [sandbox.file(), sandbox.qwen_code_lock(), sandbox.qwen()] {
        aged(&path, 3600);
    }
    assert_eq!(found(&sandbox, &["--fix"], "lock"), []);
    assert!(!sandbox.qwen_code_lock().exists());
    let sandbox = sandbox.variable("QWENAUTH_LOG", "info");
    let outcome = sandbox.run(["token"]).stdout("granted-access-2\n");
    assert!(!outcome.stderr.contains("was changed by another program"), "{outcome}");
    drop(outcome.any_stderr());
}

/// Which token a damaged file held cannot be known: it may be the one that a mark keeps from being sent again.
#[test]
fn fix_keeps_the_marks_while_a_login_cannot_be_read() {
    let sandbox = healthy().expires_in(20).scripted(Ask::Refresh, Reply::error(400, "invalid_grant"));
    drop(sandbox.run(["refresh"]).exits(4).any_stderr());
    let Some(sandbox) = offline(sandbox.file_is("{")) else { return };
    assert_eq!(found(&sandbox, &["--fix"], "leftovers"), []);
    assert_eq!(fs::read_dir(sandbox.home().join(".local/state/qwenauth/refused")).unwrap().count(), 1);
}

#[test]
fn a_file_that_others_could_read_and_one_with_a_second_name_are_found() {
    let sandbox = healthy();
    fs::set_permissions(sandbox.file(), Permissions::from_mode(0o644)).unwrap();
    let told = "the file of `qwen` could be read by others (mode 0644)";
    assert_eq!(found(&sandbox, &[], "mode")[0].1, told);
    assert_eq!((found(&sandbox, &[], "mode"), mode(&sandbox.file())), (vec![], 0o600));
    let second = sandbox.qwen().join("second-name");
    fs::hard_link(sandbox.file(), &second).unwrap();
    let told = "the file of `qwen` has hard links: a renewal leaves the others behind";
    assert_eq!(found(&sandbox, &[], "copies")[0].1, told);
    fs::remove_file(second).unwrap();
}

#[test]
fn a_symlink_to_a_login_is_no_copy_of_it() {
    let sandbox = healthy();
    let elsewhere = sandbox.home().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(sandbox.file(), elsewhere.join("oauth_creds.json")).unwrap();
    assert_eq!(found(&sandbox.variable("QWEN_HOME", &elsewhere), &[], "copies"), []);
}

#[test]
fn fix_leaves_the_pending_login_while_another_begins() {
    let Some(sandbox) = offline(Sandbox::new().scripted(Ask::DeviceCode, Reply::silence())) else { return };
    sandbox.server.serve("/", |_| Reply::text(404, "{}"));
    let running = sandbox.spawn(["login"]);
    sandbox.server.wait_for(Ask::DeviceCode, 1);
    write_private(&notes(&sandbox), "{");
    assert_eq!(found(&sandbox, &["--fix"], "leftovers").len(), 1);
    assert!(notes(&sandbox).exists());
    running.signal(Signal::SIGTERM);
    drop(running.finish().dies_by(Signal::SIGTERM).any_stderr());
}

#[test]
fn fix_removes_old_temporary_files_wherever_they_are_written_and_no_young_ones() {
    let sandbox = healthy();
    let places = [
        ".config/qwenauth",
        ".local/share/qwenauth/credentials",
        ".local/state/qwenauth",
        ".local/state/qwenauth/pending",
    ];
    for place in places {
        let directory = sandbox.home().join(place);
        write_private(&directory.join(".a.json.qwenauth-old.tmp"), "");
        write_private(&directory.join(".a.json.qwenauth-young.tmp"), "");
        write_private(&directory.join(".mine.tmp"), "");
        aged(&directory.join(".a.json.qwenauth-old.tmp"), 3600);
        aged(&directory.join(".mine.tmp"), 3600);
    }
    assert_eq!(found(&sandbox, &[], "leftovers").len(), places.len());
    assert_eq!(found(&sandbox, &["--fix"], "leftovers"), []);
    for place in places {
        let directory = sandbox.home().join(place);
        assert!(!directory.join(".a.json.qwenauth-old.tmp").exists());
        fs::remove_file(directory.join(".a.json.qwenauth-young.tmp")).unwrap();
        fs::remove_file(directory.join(".mine.tmp")).unwrap();
    }
}

#[test]
fn a_key_that_its_region_refuses_is_found_and_its_remedy_finds_the_region() {
    let sandbox = dashscope();
    sandbox.server.serve("/", |_| Reply::text(404, "{}"));
    let stored = ["login", "dashscope", "--api-key-stdin", "--no-verify", "--region", "us"];
    drop(sandbox.run_with_stdin(stored, KEY.as_bytes()).any_stderr());
    let key = found(&sandbox, &[], "API");
    assert!(key[0].1.starts_with("rejects the login of `dashscope`: it answered 401"), "{key:?}");
    assert_eq!(key[0].2, "run `qwenauth login dashscope` with the key: it finds the region, where the key is good");
    let again = ["login", "dashscope", "--api-key-stdin", "--force"];
    drop(sandbox.run_with_stdin(again, KEY.as_bytes()).any_stderr());
    assert_eq!(found(&sandbox, &[], "API"), []);
}

/// Whatever `status --check` knows of a login, the doctor knows too.
#[test]
fn each_verdict_of_the_api_is_a_check() {
    let mut sandbox = knows_the_key(Sandbox::new(), "/v1/models");
    sandbox.server.serve("/", |_| Reply::text(404, "{}"));
    let base_url = format!("{}/v1", sandbox.server.url());
    let login = ["login", "custom", "--base-url", &base_url, "--api-key-stdin"];
    drop(sandbox.run_with_stdin(login, KEY.as_bytes()).any_stderr());
    for (status, code, verdict, said, remedy) in [
        (400, "Arrearage", "fail", "but the account cannot be used: the account is unpaid", "no new login is needed"),
        (500, "x", "warn", "could not be asked about the login of `custom`: it answered 500", "retry in a while"),
        (401, "x", "fail", "rejects the login of `custom`: it answered 401", "run `qwenauth login custom`"),
    ] {
        assert_eq!(found(&sandbox, &[], "API"), []);
        sandbox.server.serve("/v1/models", move |_| Reply::json(status, json!({"code": code, "message": "x"})));
        let api = found(&sandbox, &[], "API");
        sandbox = knows_the_key(sandbox, "/v1/models");
        assert!(api[0].0 == verdict && api[0].1.contains(said) && api[0].2.contains(remedy), "{code}: {api:?}");
    }
}

/// What is between backticks in a remedy is typed as it stands.
#[test]
fn the_remedies_that_are_commands_do_what_they_say() {
    let gone = |sandbox: &Sandbox, name: &str| {
        let before = found(sandbox, &[], name);
        let command = before[0].2.split('`').nth(1).unwrap_or_else(|| panic!("no command: {before:?}")).to_owned();
        let command = command.replace('~', sandbox.home().to_str().unwrap()).replace("qwenauth ", "$QWENAUTH ");
        let mut outcome = sandbox.shell(&format!("{command} >&2; exec $QWENAUTH doctor --json")).any_stderr();
        let after = outcome.json();
        drop(outcome.any_stdout().exits(i32::from(after.to_string().contains(r#""status":"fail""#))));
        let left: Vec<&Value> = after["checks"].as_array().unwrap().iter().collect();
        let left = left.into_iter().any(|check| check["message"].as_str() == Some(&before[0].1));
        assert!(!left, "`{command}` did not help against: {before:?}");
    };
    let sandbox = healthy();
    fs::set_permissions(sandbox.qwen(), Permissions::from_mode(0o777)).unwrap();
    gone(&sandbox, "directories");
    fs::write(sandbox.qwen_code_lock(), "1234").unwrap();
    aged(&sandbox.qwen_code_lock(), 3600);
    gone(&sandbox, "lock");
    write_private(&sandbox.qwen().join("oauth_creds.json.damaged-1"), "{");
    gone(&sandbox, "leftovers");
    gone(&healthy().variable("OPENAI_BASE_URL", "https://a.example/v1"), "variables");
    let both = healthy().variable("OPENAI_BASE_URL", "https://a.example/v1");
    gone(&both.variable("OPENAI_API_BASE", "https://b.example/v1"), "variables");
    gone(&healthy().variable("OPENAI_API_KEY", "granted-access-1"), "variables");
    let Some(sandbox) = offline(polls([]).granted()) else { return };
    sandbox.server.serve("/", |_| Reply::text(404, "{}"));
    sandbox.server.serve("/v1/chat/completions", |_| Reply::json(200, json!({"choices": []})));
    gone(&sandbox, "login");
    let sandbox = healthy();
    fs::write(sandbox.qwen().join(".env"), "QWEN_HOME='/elsewhere'\n").unwrap();
    gone(&sandbox, "QWEN_HOME");
    let Some(sandbox) = offline(healthy().field("resource_url", json!("https://portal.qwen.ai"))) else { return };
    sandbox.run(["setup", "codex"]).any_stderr();
    gone(&sandbox.field("resource_url", json!("https://dashscope.aliyuncs.com/compatible-mode")), "setup");
}

/// A copy of the program at `place` below the test's directory, which is a temporary one.
fn copied(sandbox: &Sandbox, place: &str) -> PathBuf {
    let copy = sandbox.directory().join(place);
    fs::create_dir_all(copy.parent().unwrap()).unwrap();
    assert!(Command::new("cp").arg(sandbox.program()).arg(&copy).status().unwrap().success());
    copy
}

#[test]
fn how_it_was_installed_is_told_with_what_upgrades_it_and_names_nothing_to_look_up() {
    let sandbox = healthy();
    let built = sandbox.run(["doctor"]).exits(0).any_stdout();
    let source = env!("CARGO_MANIFEST_DIR");
    let program = sandbox.program();
    let line = format!(
        "ok    installed    built from source: `{}`; upgrade with `git pull` and a new build in `{source}`\n",
        program.display()
    );
    assert!(built.stdout.contains(&line), "{built}");

    let runner = copied(&sandbox, "_npx/0123/node_modules/@qwenauth/linux-x64/bin/qwenauth");
    let mut command = sandbox.other(&runner);
    command.arg("doctor");
    let outcome = sandbox.start(command).finish().exits(0).any_stdout();
    assert!(outcome.stdout.contains("not installed, but run from the cache of npx"), "{outcome}");
}

#[test]
fn another_program_of_this_name_on_the_path_is_named() {
    let sandbox = healthy();
    let other = copied(&sandbox, "bin/qwenauth");
    let sandbox = sandbox.variable("PATH", other.parent().unwrap());
    let message = format!("`qwenauth` on `PATH` is another program than this one: `{}`", "{sandbox}/bin/qwenauth");
    let remedy = "remove one of the two, or put the directory of the other first".to_owned();
    assert_eq!(found(&sandbox, &[], "installed"), [("warn".to_owned(), message, remedy)]);
}
