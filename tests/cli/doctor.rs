//! `doctor`: each thing that keeps a login from working is found, with its remedy, and what is local is repaired.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::faults::preloaded;
use crate::key_places::dashscope;
use crate::keys::{KEY, knows_the_key, machine, refuses};
use crate::login::{device_code, polls};
use crate::machine::{Machine, credential, mode, write_private};
use crate::server::{Ask, Gate, Reply};

fn healthy() -> Machine {
    let machine = Machine::new().logged_in().field("resource_url", json!("{server}"));
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    machine.server.serve("/v1/chat/completions", |_| Reply::json(200, json!({"choices": []})));
    machine
}

/// The checks of one name that are not ok: status, message, remedy.
#[track_caller]
fn found(machine: &Machine, arguments: &[&str], name: &str) -> Vec<(String, String, String)> {
    let mut outcome = machine.run([&["doctor", "--json"], arguments].concat()).any_stderr();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let outcome_json = outcome.json();
    let checks = outcome_json["checks"].as_array().unwrap();
    let failed = checks.iter().any(|check| check["status"] == "fail");
    drop(outcome.exits(i32::from(failed)));
    let wrong = checks.iter().filter(|check| check["name"] == name && check["status"] != "ok");
    wrong.map(|check| (text(&check["status"]), text(&check["message"]), text(&check["remedy"]))).collect()
}

/// No name resolves: servers that are not on this machine are not asked.
fn offline(machine: Machine) -> Option<Machine> {
    preloaded(machine, "HOSTS", ".nowhere")
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
    let machine = healthy().variable("OPENAI_API_KEY", "granted-access-1").variable("SSL_CERT_FILE", "{home}/no.pem");
    let missing = machine.home().join("no.pem");
    let machine = machine.variable("SSL_CERT_FILE", missing);
    let outcome = machine.run(["doctor"]).exits(1).any_stdout();
    assert!(!outcome.stdout.contains("granted-") && !outcome.stdout.contains("{home}"), "{outcome}");
    assert!(outcome.stdout.contains("fail  certificates `SSL_CERT_FILE` names `~/no.pem`"), "{outcome}");
}

#[test]
fn a_renewal_under_way_is_not_taken_for_an_interrupted_one() {
    let gate = Gate::default();
    let machine = healthy().refresh(Reply::tokens("2").after(&gate));
    let renewal = machine.spawn(["refresh"]);
    machine.server.wait_for(Ask::Refresh, 1);
    assert_eq!(found(&machine, &[], "leftovers"), []);
    renewal.signal(Signal::SIGKILL);
    drop(renewal.finish().dies_by(Signal::SIGKILL));
    assert_eq!(found(&machine, &[], "leftovers")[0].2, "`qwenauth refresh` completes it");
    let left = machine.beside().into_iter().find(|name| name.ends_with(".tmp")).unwrap();
    fs::remove_file(machine.qwen().join(left)).unwrap();
    gate.open();
}

#[test]
fn a_missing_or_damaged_login_names_the_remedy() {
    let Some(machine) = offline(Machine::new()) else { return };
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    let missing = ("fail".to_owned(), "`qwen` is not logged in".to_owned(), "run `qwenauth login`".to_owned());
    assert_eq!(found(&machine, &[], "login"), [missing]);
    let damaged = found(&healthy().file_is("{"), &[], "login");
    assert!(damaged[0].1.starts_with("the file of `qwen` is damaged: "), "{damaged:?}");
}

#[test]
fn a_login_that_has_ended_names_the_remedy() {
    let told = |machine: &Machine, what: &str| {
        let expected = ("fail".to_owned(), what.to_owned(), "run `qwenauth login`".to_owned());
        assert_eq!(found(machine, &[], "login"), [expected]);
    };
    told(&healthy().expires_in(-60).field("refresh_token", Value::Null), "`qwen` has expired and cannot be renewed");
    let machine = healthy().expires_in(-60).scripted(Ask::Refresh, Reply::error(400, "invalid_grant"));
    drop(machine.run(["token"]).exits(4).any_stderr());
    told(&machine, "the server rejected the refresh token of `qwen`");
}

#[test]
fn a_key_command_whose_program_is_not_there_is_found() {
    let Some(machine) = offline(Machine::new()) else { return };
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    let login = ["login", "groq", "--no-verify", "--api-key-command", "echo granted-key-0"];
    drop(machine.run(login).any_stderr());
    let file = machine.profiles().join("groq.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    // In the working directory: a name without a directory is not looked for there.
    fs::write(machine.directory().join("own-program"), "").unwrap();
    for (program, is_there) in [
        ("echo", true),
        ("/bin/echo", true),
        ("./own-program", true),
        ("own-program", false),
        ("no-such-program", false),
        ("/bin/no-such-program", false),
    ] {
        record["api_key_command"] = json!(format!("{program} x"));
        fs::write(&file, record.to_string()).unwrap();
        let missing = format!("the key of `groq` is printed by the command `{program}`, which is not in `PATH`");
        let remedy = "install it, or log in again with another key";
        let expected = (!is_there).then(|| ("fail".to_owned(), missing, remedy.to_owned()));
        assert_eq!(found(&machine, &[], "login"), expected.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_wrong_clock_is_detected_by_the_servers_date() {
    let machine = Machine::new().logged_in();
    machine.server.serve("/v1/chat/completions", |_| Reply::json(200, json!({"choices": []})));
    machine.server.serve("/", |_| Reply::text(404, "{}").header("Date", "Sat, 01 Jan 2000 00:00:00 GMT"));
    let clock = found(&machine, &[], "clock");
    assert!(clock[0].0 == "fail" && clock[0].1.contains(" h ahead of `127.0.0.1`"), "{clock:?}");
}

#[test]
fn openai_variables_that_would_send_a_key_to_another_host_are_found() {
    for (variables, expected) in [
        (&[("OPENAI_BASE_URL", "https://a.example/v1"), ("OPENAI_API_BASE", "https://b.example/v1")][..], "differ"),
        (
            &[("OPENAI_API_KEY", "granted-access-1"), ("OPENAI_BASE_URL", "https://a.example/v1")],
            "would be sent to `a.example`",
        ),
        (&[("OPENAI_API_KEY", "granted-access-1")], "would be sent to `api.openai.com`"),
        (&[("OPENAI_API_KEY", "sk-or-v1-1234")], "another provider's key"),
        (&[("OPENAI_API_KEY", "mine"), ("OPENAI_BASE_URL", "https://a.example/v1")], "goes to `a.example`"),
        (&[("OPENAI_BASE_URL", "https://a.example/v1")], "without `OPENAI_API_KEY`"),
        (&[("XDG_DATA_HOME", "data")], "`XDG_DATA_HOME` is a relative path and is ignored"),
    ] {
        let machine = variables.iter().fold(healthy(), |machine, (name, value)| machine.variable(*name, *value));
        let checks = found(&machine, &[], "variables");
        assert!(checks.iter().any(|check| check.1.contains(expected)), "{expected}: {checks:?}");
    }
}

#[test]
fn a_key_of_a_provider_of_config_toml_is_anothers_except_at_its_own_host() {
    let config = "[providers.NAME]\ntitle = \"T\"\nbase_url = \"URL\"\n[providers.NAME.key]\nprefix = \"PREFIX\"\n";
    let with = |pairs: &[[&str; 3]]| {
        let each = pairs
            .iter()
            .map(|[name, url, prefix]| config.replace("NAME", name).replace("URL", url).replace("PREFIX", prefix));
        healthy().configured(&each.collect::<String>())
    };
    let providers =
        [["mine", "https://api.mine.example/v1", "mine-"], ["openai", "https://api.openai.com/v1", "sk-o-"]];
    for (key, is_anothers) in [("mine-1", true), ("sk-o-1", false), ("sk-ws-1", true), ("x", false)] {
        let checks = found(&with(&providers).variable("OPENAI_API_KEY", key), &[], "variables");
        assert_eq!(
            checks.iter().any(|check| check.1.contains("another provider's key")),
            is_anothers,
            "{key}: {checks:?}"
        );
    }
}

#[test]
fn a_key_in_the_environment_that_cannot_be_used_is_found() {
    let variables = found(&healthy().variable("QWENAUTH_API_KEY", "granted-key-1"), &[], "variables");
    let said = "`QWENAUTH_API_KEY` is set, but the provider of the key is not named";
    assert!(variables.iter().any(|check| check.0 == "fail" && check.1 == said), "{variables:?}");
}

#[test]
fn a_key_of_another_plan_and_an_old_key_are_found() {
    let key = json!({
        "provider": "dashscope", "api_key": "sk-sp-1234", "base_url": "https://dashscope.aliyuncs.com/compatible-mode/v1",
        "created_at": "2020-01-01T00:00:00Z",
    });
    let machine = healthy().variable("CI", "true");
    write_private(&machine.home().join(".local/share/qwenauth/credentials/dashscope.json"), key.to_string());
    let days = || (std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() - 1_577_836_800) / 86400;
    let before = days();
    let checks = found(&machine, &[], "key");
    let stored = [before, days()].map(|days| format!("was stored {days} days ago"));
    assert!(checks.iter().any(|check| stored.iter().any(|stored| check.1.contains(stored))), "{checks:?}");
    for expected in ["is sent to the pay-as-you-go host `dashscope.aliyuncs.com`", "forbid unattended use"] {
        assert!(checks.iter().any(|check| check.1.contains(expected)), "{expected}: {checks:?}");
    }
}

#[test]
fn fix_repairs_stale_locks_leftovers_and_directories() {
    let machine = healthy();
    let (lock, leftover) = (machine.qwen_code_lock(), machine.qwen().join(".oauth_creds.json.qwenauth-abc.tmp"));
    fs::write(&lock, "1234").unwrap();
    fs::write(&leftover, "").unwrap();
    aged(&lock, 3600);
    aged(&leftover, 3600);
    fs::set_permissions(machine.qwen(), Permissions::from_mode(0o777)).unwrap();
    for name in ["lock", "leftovers", "directories"] {
        assert_eq!(found(&machine, &[], name).len(), 1, "{name}");
    }
    assert!(lock.exists() && leftover.exists());
    for name in ["lock", "leftovers", "directories"] {
        assert_eq!(found(&machine, &["--fix"], name), [], "{name}");
    }
    assert!(!lock.exists() && !leftover.exists());
    assert_eq!(mode(&machine.qwen()), 0o700);
}

/// Every directory that holds credentials or state is named while others may look into it, and 0700 after `--fix`.
#[test]
fn directories_open_to_others_are_reported_and_made_private() {
    for place in [
        ".qwen",
        ".local/share/qwenauth",
        ".local/share/qwenauth/credentials",
        ".local/state/qwenauth",
        ".local/state/qwenauth/pending",
        ".local/state/qwenauth/refused",
        ".local/state/qwenauth/origins",
        ".local/state/qwenauth/refused-by-api",
        ".local/state/qwenauth/setup",
        ".local/state/qwenauth/usage",
        ".local/state/qwenauth/rate",
        ".local/state/qwenauth/keys",
        ".local/state/qwenauth/limits",
        ".local/state/qwenauth/events",
        ".local/state/qwenauth/reported",
        ".local/state/qwenauth/regions",
        ".local/state/qwenauth/exec",
    ] {
        for loose in [0o755, 0o711, 0o750, 0o777, 0o770] {
            let machine = healthy();
            let path = machine.home().join(place);
            DirBuilder::new().recursive(true).mode(0o700).create(&path).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(loose)).unwrap();
            let named = found(&machine, &[], "directories");
            assert!(
                named.first().is_some_and(|check| check.1.contains(&format!("`~/{place}`"))),
                "{place} {loose:o}: {named:?}"
            );
            assert!(named[0].1.ends_with(&format!("(mode 0{loose:o})")), "{named:?}");
            assert_eq!(found(&machine, &["--fix"], "directories"), [], "{place} {loose:o}");
            assert_eq!(mode(&path), 0o700, "{place} {loose:o}");
        }
    }
}

/// The lock that every renewal takes: beside the file that a symlink leads to.
#[test]
fn fix_takes_the_lock_of_the_file_that_a_symlink_leads_to() {
    let machine = healthy();
    let elsewhere = machine.home().join("dot");
    DirBuilder::new().mode(0o700).create(&elsewhere).unwrap();
    fs::rename(machine.file(), elsewhere.join("q.json")).unwrap();
    std::os::unix::fs::symlink("../dot/q.json", machine.file()).unwrap();
    fs::write(machine.qwen_code_lock(), "x").unwrap();
    aged(&machine.qwen_code_lock(), 7200);
    assert_eq!(found(&machine, &["--fix"], "lock"), []);
    assert!(elsewhere.join(".q.qwenauth-lock").exists() && !machine.kernel_lock().exists());
    assert!(!machine.qwen_code_lock().exists());
}

#[test]
fn fix_leaves_a_lock_that_is_in_use() {
    let machine = healthy();
    fs::write(machine.qwen_code_lock(), "1234").unwrap();
    assert_eq!(found(&machine, &["--fix"], "lock"), []);
    assert!(machine.qwen_code_lock().exists());
    fs::remove_file(machine.qwen_code_lock()).unwrap();
}

#[test]
fn two_copies_of_one_login_are_found() {
    let machine = healthy();
    let elsewhere = machine.home().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let machine = machine.variable("QWEN_HOME", &elsewhere);
    write_private(&elsewhere.join("oauth_creds.json"), machine.content());
    let copies = found(&machine, &[], "copies");
    assert_eq!(copies.len(), 1, "{copies:?}");
    assert!(copies[0].1.ends_with("are copies of the same login"), "{copies:?}");
    write_private(&elsewhere.join("oauth_creds.json"), credential("2").to_string());
    assert_eq!(found(&machine, &[], "copies"), []);
    fs::remove_file(elsewhere.join("oauth_creds.json")).unwrap();
}

#[test]
fn a_qwen_home_that_only_qwen_code_sees_is_found() {
    let machine = healthy();
    fs::write(machine.qwen().join(".env"), "# mine\nexport QWEN_HOME=/elsewhere\n").unwrap();
    let checks = found(&machine, &[], "QWEN_HOME");
    assert_eq!(
        checks[0].1,
        "`~/.qwen/.env` sets `QWEN_HOME` only for Qwen Code, so Qwen Code uses another login than qwenauth"
    );
    assert_eq!(checks[0].2, "`export QWEN_HOME=/elsewhere` in your shell's start-up file");
}

#[test]
fn a_tool_that_is_set_up_for_another_address_is_found() {
    let Some(machine) = offline(healthy().field("resource_url", json!("https://portal.qwen.ai"))) else { return };
    machine.run(["setup", "codex"]).any_stderr();
    assert_eq!(found(&machine, &[], "setup"), []);
    let machine = machine.field("resource_url", json!("https://dashscope.aliyuncs.com/compatible-mode"));
    let checks = found(&machine, &[], "setup");
    assert_eq!(checks[0].2, "`qwenauth setup codex --profile qwen`", "{checks:?}");
}

#[test]
fn a_configuration_that_does_not_parse_is_a_check_that_fails() {
    let machine = Machine::new();
    write_private(&machine.home().join(".config/qwenauth/config.toml"), "profile = \n");
    let outcome = machine.run(["doctor"]).exits(1).any_stdout();
    assert!(outcome.stdout.starts_with("fail  config       `"), "{outcome}");
}

#[test]
fn the_lines_and_the_json_say_the_same() {
    let machine = healthy().variable("OPENAI_API_KEY", "mine").variable("SSL_CERT_FILE", "/nowhere/ca.pem");
    let mut outcome = machine.run(["doctor", "--json"]).exits(1).any_stderr();
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
        |text: &str| text.lines().filter(|line| !line.contains(" responds in ")).collect::<Vec<_>>().join("\n");
    let lines = machine.run(["doctor"]).exits(1).any_stdout();
    assert_eq!(without_times(&lines.stdout), without_times(&expected));
    assert_eq!(report["schema"], 1);
}

#[test]
fn what_is_no_regular_file_is_not_said_to_be_made_private() {
    let machine = healthy();
    let (directory, pipe) = (machine.profiles().join("custom.json"), machine.profiles().join("groq.json"));
    fs::create_dir_all(&directory).unwrap();
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(machine.profiles(), Permissions::from_mode(0o700)).unwrap();
    assert_eq!((found(&machine, &[], "mode"), found(&machine, &[], "copies")), (vec![], vec![]));
    assert_eq!(found(&machine, &[], "login").len(), 2);
    fs::remove_dir(directory).unwrap();
    fs::remove_file(pipe).unwrap();
}

#[test]
fn a_mode_is_said_to_be_changed_only_where_it_is() {
    let machine = healthy();
    fs::set_permissions(machine.file(), Permissions::from_mode(0o644)).unwrap();
    assert!(found(&machine, &[], "mode")[0].2.starts_with("its mode is now 0600; "));
    assert_eq!(mode(&machine.file()), 0o600);
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    // A file of another user is neither read nor changed.
    fs::set_permissions(machine.file(), Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::chown(machine.file(), Some(4711), None).unwrap();
    assert!(found(&machine, &[], "mode")[0].2.starts_with("run `chmod 600 "));
    assert_eq!(mode(&machine.file()), 0o644);
}

#[test]
fn no_remedy_is_the_command_that_is_running() {
    let machine = healthy().unprivileged();
    fs::set_permissions(machine.file(), Permissions::from_mode(0o000)).unwrap();
    machine.own_everything();
    let login = found(&machine, &[], "login");
    assert_eq!(login[0].2, "check the owner and mode of the file and its directory");
    let doctor = machine.run(["doctor"]).exits(1).any_stdout().any_stderr();
    assert!(!doctor.stdout.contains("`qwenauth doctor`"), "{doctor}");
}

#[test]
fn a_malformed_limit_is_no_reason_to_replace_the_key() {
    let acme = "profile = \"acme\"\n[providers.acme]\nbase_url = \"http://127.0.0.1:1/v1\"\nkey_file = \"~/key\"\n[providers.acme.limits]\n";
    let checks = |limit: &str, name: &str| {
        let machine = Machine::new().configured(&format!("{acme}{limit}\n"));
        write_private(&machine.home().join("key"), KEY.as_bytes());
        let found = found(&machine, &[], name);
        fs::remove_file(machine.home().join("key")).unwrap();
        found
    };
    let failed = |message: &str, remedy: &str| vec![("fail".to_owned(), message.to_owned(), remedy.to_owned())];
    let wrong =
        "`[providers.acme]` in config.toml: `limits.requests_per_minute`: expected a whole number from 1 to 4294967295";
    let text = "requests_per_minute = \"60\"";
    assert_eq!(checks(text, "login"), failed(wrong, "correct this key, or remove it"));
    assert_eq!(checks(text, "config"), [], "it is reported once");
    let zero = "`requests_per_minute = 0` of `acme` allows no request";
    let remedy = "write at least 1 in config.toml, or remove it";
    assert_eq!(checks("requests_per_minute = 0", "config"), failed(zero, remedy));
    let resets = "`[providers.acme]` in config.toml: `day_resets = \"25:00 Asia/Nowhere\"` is not a time and a zone";
    let remedy = "write it like `00:00 Asia/Shanghai`";
    assert_eq!(checks("day_resets = \"25:00 Asia/Nowhere\"", "config"), failed(resets, remedy));
}

#[test]
fn a_shared_server_that_cannot_be_used_is_found() {
    let checks = |team: &str| found(&healthy().configured(&format!("[team]\n{team}\n")), &[], "team");
    let [(verdict, message, remedy)] = &checks("shared = \"127.0.0.1:28301\"")[..] else { panic!("not one") };
    assert_eq!((verdict.as_str(), remedy.as_str()), ("fail", "write it like `rediss://cache.example.org:6379/0`"));
    assert!(message.contains("127.0.0.1:28301"), "{message}");
    let [(verdict, message, _)] = &checks("shared = \"redis://127.0.0.1:1\"")[..] else { panic!("not one") };
    assert_eq!(verdict, "fail");
    assert!(message.starts_with("the shared server `redis://127.0.0.1:1` cannot be used: cannot connect"), "{message}");
    let missing = "shared = \"redis://127.0.0.1:1\"\npassword_file = \"/nowhere/password\"";
    let [(_, message, _)] = &checks(missing)[..] else { panic!("not one") };
    assert_eq!(message, "`password_file` names `/nowhere/password`, which is missing");
}

#[test]
fn certificates_that_are_missing_unreadable_or_none_are_found() {
    let machine = healthy().unprivileged();
    let (closed, empty) = (machine.home().join("closed.pem"), machine.home().join("empty.pem"));
    fs::write(&closed, "").unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o000)).unwrap();
    fs::write(&empty, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    machine.own_everything();
    let missing = "cannot be read: No such file or directory (os error 2)";
    let none = "contains no usable PEM certificate";
    for name in ["QWENAUTH_CA_FILE", "SSL_CERT_FILE"] {
        for (file, why) in [
            ("{home}/no.pem", missing),
            ("{home}/closed.pem", "cannot be read: Permission denied (os error 13)"),
            ("{home}", "cannot be read: it is a directory"),
            ("{home}/empty.pem", none),
        ] {
            let path = file.replace("{home}", machine.home().to_str().unwrap());
            let script = format!("export {name}={path}; $QWENAUTH doctor | grep -A1 '^fail  cert'");
            let shown = file.replace("{home}", "~");
            let outcome = machine.shell(&script).any_stdout();
            let told = format!("fail  certificates `{name}` names `{shown}`, which {why}\n");
            assert!(outcome.stdout.starts_with(&told), "{outcome}");
            assert!(outcome.stdout.contains(&format!("`unset {name}`")), "{outcome}");
            machine
                .shell(&format!("export {name}={path}; unset {name}; $QWENAUTH doctor | grep -c cert"))
                .exits(1)
                .stdout("0\n");
        }
    }
    let script = "export SSL_CERT_DIR=/nowhere; $QWENAUTH doctor | grep '^fail'";
    machine.shell(script).stdout(&format!("fail  certificates `SSL_CERT_DIR` names `/nowhere`, which {missing}\n"));
}

#[test]
fn a_login_that_cannot_be_saved_is_found_before_it_ends() {
    let machine = healthy().unprivileged();
    fs::set_permissions(machine.qwen(), Permissions::from_mode(0o500)).unwrap();
    let login = found(&machine, &[], "login");
    fs::set_permissions(machine.qwen(), Permissions::from_mode(0o700)).unwrap();
    assert_eq!(login[0].1, "`qwen` cannot be renewed: cannot write in `~/.qwen`: Permission denied (os error 13)");
    fs::write(machine.kernel_lock(), "").unwrap();
    machine.own_everything();
    fs::set_permissions(machine.kernel_lock(), Permissions::from_mode(0o000)).unwrap();
    let login = found(&machine, &[], "login");
    let told =
        "`qwen` cannot be renewed: cannot open `~/.qwen/.oauth_creds.qwenauth-lock`: Permission denied (os error 13)";
    assert_eq!(login[0].1, told);
    fs::set_permissions(machine.kernel_lock(), Permissions::from_mode(0o600)).unwrap();
    assert_eq!(found(&machine, &[], "login"), []);
}

fn notes(machine: &Machine) -> PathBuf {
    machine.home().join(".local/state/qwenauth/pending/qwen.json")
}

#[test]
fn a_login_for_a_host_that_is_not_trusted_is_wrong_in_its_address_alone() {
    let Some(machine) = offline(Machine::new().logged_in().field("resource_url", json!("attacker.example"))) else {
        return;
    };
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    assert_eq!(found(&machine, &[], "login"), []);
    let address = found(&machine, &[], "address");
    assert!(address.len() == 1 && address[0].2.contains("resource_hosts"), "{address:?}");
}

#[test]
fn fix_removes_only_a_pending_login_that_cannot_be_completed() {
    let Some(machine) = offline(polls([])) else { return };
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    machine.run(["login", "--no-wait"]).any_stderr();
    assert_eq!(found(&machine, &["--fix"], "leftovers"), []);
    assert!(notes(&machine).exists());
    let outcome = machine.run(["doctor"]).exits(1).any_stdout();
    let told = "ok    pending      a login of `qwen` waits for approval; `qwenauth login --resume --profile qwen` completes it\n";
    assert!(outcome.stdout.contains(told), "{outcome}");
    let mut expired: Value = serde_json::from_slice(&fs::read(notes(&machine)).unwrap()).unwrap();
    expired["expires_at"] = json!(1_000_000_000);
    for content in [expired.to_string(), "{".into()] {
        write_private(&notes(&machine), content);
        let left = found(&machine, &[], "leftovers");
        assert_eq!(left[0].1, "a login of `qwen` was started and never completed");
        assert!(notes(&machine).exists());
        assert_eq!(left[0].2, "`qwenauth doctor --fix` removes it");
        assert_eq!(found(&machine, &["--fix"], "leftovers"), []);
        assert!(!notes(&machine).exists());
    }
}

#[test]
fn fix_leaves_the_pending_login_that_a_process_polls_for() {
    let machine = Machine::new().scripted(Ask::DeviceCode, device_code(json!({"interval": 1})));
    let Some(machine) = offline(machine) else { return };
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    machine.server.always(Ask::Poll, || Reply::error(400, "authorization_pending"));
    let running = machine.spawn(["login"]);
    machine.server.wait_for(Ask::Poll, 1);
    write_private(&notes(&machine), "{");
    assert_eq!(found(&machine, &["--fix"], "leftovers").len(), 1);
    assert!(notes(&machine).exists());
    running.signal(Signal::SIGTERM);
    drop(running.finish().dies_by(Signal::SIGTERM).any_stderr());
}

#[test]
fn fix_removes_the_marks_of_rejected_tokens_that_are_gone_and_keeps_the_others() {
    let machine = healthy().expires_in(-60).scripted(Ask::Refresh, Reply::error(400, "invalid_grant"));
    // Refused while the access token lives: the file stays, and so must its mark.
    let machine = machine.expires_in(20);
    drop(machine.run(["refresh"]).exits(4).any_stderr());
    let marks = machine.home().join(".local/state/qwenauth/refused");
    let count = || fs::read_dir(&marks).unwrap().count();
    assert_eq!(count(), 1);
    assert_eq!(found(&machine, &["--fix"], "leftovers"), []);
    assert_eq!(count(), 1);
    write_private(&marks.join("not-a-mark"), "");
    let machine = machine.credential_is(credential("2"));
    let left = found(&machine, &[], "leftovers");
    assert_eq!(left[0].1, "obsolete markers of rejected tokens and keys: 1");
    assert_eq!(count(), 2);
    assert_eq!(found(&machine, &["--fix"], "leftovers"), []);
    assert_eq!(count(), 1, "what is no mark stays");
}

#[test]
fn the_mark_of_a_rejected_key_that_is_not_stored_is_kept() {
    let marked = |key: &str, machine: Machine| {
        let machine = offline(machine)?;
        machine.server.serve("/", |_| Reply::text(404, "{}"));
        let hash: String = Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect();
        let mark = machine.home().join(".local/state/qwenauth/refused-by-api").join(hash);
        write_private(&mark, "invalid key");
        Some((machine, mark))
    };
    let is_kept = |key: &str, machine: Machine| {
        let Some((machine, mark)) = marked(key, machine) else { return };
        assert_eq!(found(&machine, &["--fix"], "leftovers"), []);
        assert!(mark.exists());
    };
    let machine = Machine::new().variable("QWENAUTH_API_KEY", KEY).variable("QWENAUTH_PROVIDER", "groq");
    is_kept(KEY, machine);
    let machine = Machine::new();
    let file = machine.directory().join("secret");
    write_private(&file, KEY);
    let machine = machine.configured(&format!("[providers.groq]\nkey_file = \"{}\"\n", file.display()));
    is_kept(KEY, machine);
    // Beside the file, what is stored counts too.
    let Some((machine, mark)) = marked("granted-stored-key", Machine::new()) else { return };
    let stored = json!({"provider": "groq", "api_key": "granted-stored-key"});
    write_private(&machine.profiles().join("groq.json"), stored.to_string());
    let file = machine.directory().join("secret");
    write_private(&file, KEY);
    let machine = machine.configured(&format!("[providers.groq]\nkey_file = \"{}\"\n", file.display()));
    assert_eq!(found(&machine, &["--fix"], "leftovers"), []);
    assert!(mark.exists());
    let machine = Machine::new();
    let login = ["login", "groq", "--no-verify", "--api-key-command", &format!("echo {KEY}")];
    drop(machine.run(login).any_stderr());
    is_kept(KEY, machine);
}

/// Which server granted a token is forgotten with the token and no sooner.
#[test]
fn fix_removes_the_records_of_servers_whose_tokens_are_gone_and_keeps_the_others() {
    let machine = healthy().expires_in(-60).refresh(Reply::tokens("2"));
    drop(machine.run(["refresh"]).any_stderr());
    let records = machine.origins();
    let count = || fs::read_dir(&records).unwrap().count();
    assert_eq!(count(), 1);
    assert_eq!(found(&machine, &["--fix"], "leftovers"), []);
    assert_eq!(count(), 1, "the token is there");
    // Older versions did not say for which file a record is, and another home may hold its token.
    write_private(&records.join("0".repeat(64)), r#"{"token_endpoint":"https://a.example/token"}"#);
    let elsewhere = machine.directory().join("elsewhere.json");
    write_private(&elsewhere, "{\"refresh_token\":\"of another home\"}");
    let other = json!({"token_endpoint": "https://a.example/token", "file": &elsewhere});
    write_private(&records.join("1".repeat(64)), other.to_string());
    write_private(&records.join("not-a-record"), "");
    let machine = machine.file_is("{");
    assert_eq!(found(&machine, &["--fix"], "leftovers"), [], "a damaged file may hold any token");
    for is_there in [true, false] {
        if is_there {
            machine.file_written(credential("3").to_string());
        } else {
            fs::remove_file(machine.file()).unwrap();
        }
        let left = found(&machine, &[], "leftovers");
        assert_eq!(left[0].1, "obsolete records of which server issued a token: 1");
        assert_eq!(count(), 4);
    }
    assert_eq!(found(&machine, &["--fix"], "leftovers"), []);
    assert_eq!(count(), 3);
    fs::remove_file(&elsewhere).unwrap();
    assert_eq!(found(&machine, &["--fix"], "leftovers"), []);
    assert_eq!(count(), 2, "the file that it was for is gone");
}

/// Its token is on its way into the file, and its record is there already.
#[test]
fn fix_leaves_the_records_of_a_renewal_under_way() {
    let gate = Gate::default();
    let machine = healthy().expires_in(-60).refresh(Reply::tokens("2").after(&gate));
    let record = json!({"token_endpoint": "https://a.example/token", "file": machine.file()});
    write_private(&machine.origins().join("2".repeat(64)), record.to_string());
    let renewing = machine.spawn(["refresh"]);
    machine.server.wait_for(Ask::Refresh, 1);
    let left = found(&machine, &["--fix"], "leftovers");
    assert!(left.iter().any(|check| check.1 == "obsolete records of which server issued a token: 1"), "{left:?}");
    assert!(machine.origins().join("2".repeat(64)).exists());
    gate.open();
    drop(renewing.finish().any_stderr());
    assert!(!machine.origins().join("2".repeat(64)).exists(), "the renewal forgets what its file holds no more");
}

/// The renewal after it waits for nobody: that the lock went away was its own doing.
#[test]
fn a_lock_that_fix_removed_is_no_trace_of_a_foreign_renewal() {
    let machine = healthy().expires_in(-60).refresh(Reply::tokens("2"));
    fs::write(machine.qwen_code_lock(), "1234").unwrap();
    write_private(&machine.kernel_lock(), "");
    // What was made in the same moment would explain the change.
    std::thread::sleep(Duration::from_millis(50));
    for path in [machine.file(), machine.qwen_code_lock(), machine.qwen()] {
        aged(&path, 3600);
    }
    assert_eq!(found(&machine, &["--fix"], "lock"), []);
    assert!(!machine.qwen_code_lock().exists());
    let machine = machine.variable("QWENAUTH_LOG", "info");
    let outcome = machine.run(["token"]).stdout("granted-access-2\n");
    assert!(!outcome.stderr.contains("was changed by another program"), "{outcome}");
    drop(outcome.any_stderr());
}

/// Which token a damaged file held cannot be known: it may be the one that a mark keeps from being sent again.
#[test]
fn fix_keeps_the_marks_while_a_login_cannot_be_read() {
    let machine = healthy().expires_in(20).scripted(Ask::Refresh, Reply::error(400, "invalid_grant"));
    drop(machine.run(["refresh"]).exits(4).any_stderr());
    let Some(machine) = offline(machine.file_is("{")) else { return };
    assert_eq!(found(&machine, &["--fix"], "leftovers"), []);
    assert_eq!(fs::read_dir(machine.home().join(".local/state/qwenauth/refused")).unwrap().count(), 1);
}

#[test]
fn a_file_that_others_could_read_and_one_with_a_second_name_are_found() {
    let machine = healthy();
    fs::set_permissions(machine.file(), Permissions::from_mode(0o644)).unwrap();
    let told = "the file of `qwen` is readable by other users (mode 0644)";
    assert_eq!(found(&machine, &[], "mode")[0].1, told);
    assert_eq!((found(&machine, &[], "mode"), mode(&machine.file())), (vec![], 0o600));
    let second = machine.qwen().join("second-name");
    fs::hard_link(machine.file(), &second).unwrap();
    let told = "the file of `qwen` has hard links, which a renewal does not update";
    assert_eq!(found(&machine, &[], "copies")[0].1, told);
    fs::remove_file(second).unwrap();
}

#[test]
fn a_symlink_to_a_login_is_not_a_copy_of_it() {
    let machine = healthy();
    let elsewhere = machine.home().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(machine.file(), elsewhere.join("oauth_creds.json")).unwrap();
    assert_eq!(found(&machine.variable("QWEN_HOME", &elsewhere), &[], "copies"), []);
}

#[test]
fn fix_leaves_the_pending_login_while_another_begins() {
    let Some(machine) = offline(Machine::new().scripted(Ask::DeviceCode, Reply::silence())) else { return };
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    let running = machine.spawn(["login"]);
    machine.server.wait_for(Ask::DeviceCode, 1);
    write_private(&notes(&machine), "{");
    assert_eq!(found(&machine, &["--fix"], "leftovers").len(), 1);
    assert!(notes(&machine).exists());
    running.signal(Signal::SIGTERM);
    drop(running.finish().dies_by(Signal::SIGTERM).any_stderr());
}

#[test]
fn fix_removes_old_temporary_files_wherever_they_are_written_and_no_young_ones() {
    let machine = healthy();
    let places = [
        ".config/qwenauth",
        ".local/share/qwenauth/credentials",
        ".local/state/qwenauth",
        ".local/state/qwenauth/pending",
    ];
    for place in places {
        let directory = machine.home().join(place);
        write_private(&directory.join(".a.json.qwenauth-old.tmp"), "");
        write_private(&directory.join(".a.json.qwenauth-young.tmp"), "");
        write_private(&directory.join(".mine.tmp"), "");
        aged(&directory.join(".a.json.qwenauth-old.tmp"), 3600);
        aged(&directory.join(".mine.tmp"), 3600);
    }
    assert_eq!(found(&machine, &[], "leftovers").len(), places.len());
    assert_eq!(found(&machine, &["--fix"], "leftovers"), []);
    for place in places {
        let directory = machine.home().join(place);
        assert!(!directory.join(".a.json.qwenauth-old.tmp").exists());
        fs::remove_file(directory.join(".a.json.qwenauth-young.tmp")).unwrap();
        fs::remove_file(directory.join(".mine.tmp")).unwrap();
    }
}

#[test]
fn a_key_that_its_region_rejects_is_found_and_its_remedy_finds_the_region() {
    let machine = dashscope();
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    let stored = ["login", "dashscope", "--api-key-stdin", "--no-verify", "--region", "us"];
    drop(machine.run_with_stdin(stored, KEY.as_bytes()).any_stderr());
    let key = found(&machine, &[], "API");
    assert!(key[0].1.starts_with("rejects the login of `dashscope`: it answered 401"), "{key:?}");
    assert_eq!(key[0].2, "run `qwenauth login dashscope` with the key: this detects the region where the key is valid");
    let again = ["login", "dashscope", "--api-key-stdin", "--force"];
    drop(machine.run_with_stdin(again, KEY.as_bytes()).any_stderr());
    assert_eq!(found(&machine, &[], "API"), []);
}

/// Whatever `status --check` knows of a login, the doctor knows too.
#[test]
fn each_verdict_of_the_api_is_a_check() {
    let mut machine = knows_the_key(Machine::new(), "/v1/models");
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    let base_url = format!("{}/v1", machine.server.url());
    let login = ["login", "custom", "--base-url", &base_url, "--api-key-stdin"];
    drop(machine.run_with_stdin(login, KEY.as_bytes()).any_stderr());
    for (status, code, verdict, said, remedy) in [
        (
            400,
            "Arrearage",
            "fail",
            "but the account cannot be used: the account is unpaid",
            "you do not need to log in again",
        ),
        (500, "x", "warn", "could not check the login of `custom`: it answered 500", "retry later"),
        (401, "x", "fail", "rejects the login of `custom`: it answered 401", "run `qwenauth login custom`"),
    ] {
        assert_eq!(found(&machine, &[], "API"), []);
        machine.server.serve("/v1/models", move |_| Reply::json(status, json!({"code": code, "message": "x"})));
        let api = found(&machine, &[], "API");
        machine = knows_the_key(machine, "/v1/models");
        assert!(api[0].0 == verdict && api[0].1.contains(said) && api[0].2.contains(remedy), "{code}: {api:?}");
        assert!(!api[0].2.contains("region"), "it has none: {api:?}");
    }
}

#[test]
fn a_profile_under_another_name_than_its_providers_is_named_in_the_remedy() {
    let machine = refuses(machine(), "/groq/v1/models");
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    let login = ["login", "groq", "--profile", "work", "--api-key-stdin", "--no-verify"];
    drop(machine.run_with_stdin(login, KEY.as_bytes()).any_stderr());
    assert_eq!(found(&machine, &[], "API")[0].2, "run `qwenauth login --profile work`");
    let machine = knows_the_key(machine, "/groq/v1/models");
    let again = ["login", "--profile", "work", "--api-key-stdin", "--force"];
    drop(machine.run_with_stdin(again, KEY.as_bytes()).any_stderr());
    assert_eq!(found(&machine, &[], "API"), []);
}

/// What is between backticks in a remedy is typed as it stands.
#[test]
fn the_remedies_that_are_commands_do_what_they_say() {
    let gone = |machine: &Machine, name: &str| {
        let before = found(machine, &[], name);
        let command = before[0].2.split('`').nth(1).unwrap_or_else(|| panic!("no command: {before:?}")).to_owned();
        let command = command.replace('~', machine.home().to_str().unwrap()).replace("qwenauth ", "$QWENAUTH ");
        let mut outcome = machine.shell(&format!("{command} >&2; exec $QWENAUTH doctor --json")).any_stderr();
        let after = outcome.json();
        drop(outcome.any_stdout().exits(i32::from(after.to_string().contains(r#""status":"fail""#))));
        let left: Vec<&Value> = after["checks"].as_array().unwrap().iter().collect();
        let left = left.into_iter().any(|check| check["message"].as_str() == Some(&before[0].1));
        assert!(!left, "`{command}` did not help against: {before:?}");
    };
    let machine = healthy();
    fs::set_permissions(machine.qwen(), Permissions::from_mode(0o777)).unwrap();
    gone(&machine, "directories");
    fs::write(machine.qwen_code_lock(), "1234").unwrap();
    aged(&machine.qwen_code_lock(), 3600);
    gone(&machine, "lock");
    write_private(&machine.qwen().join("oauth_creds.json.damaged-1"), "{");
    gone(&machine, "leftovers");
    gone(&healthy().variable("OPENAI_BASE_URL", "https://a.example/v1"), "variables");
    let both = healthy().variable("OPENAI_BASE_URL", "https://a.example/v1");
    gone(&both.variable("OPENAI_API_BASE", "https://b.example/v1"), "variables");
    gone(&healthy().variable("OPENAI_API_KEY", "granted-access-1"), "variables");
    let Some(machine) = offline(polls([]).granted()) else { return };
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    machine.server.serve("/v1/chat/completions", |_| Reply::json(200, json!({"choices": []})));
    gone(&machine, "login");
    let machine = healthy();
    fs::write(machine.qwen().join(".env"), "QWEN_HOME='/elsewhere'\n").unwrap();
    gone(&machine, "QWEN_HOME");
    let Some(machine) = offline(healthy().field("resource_url", json!("https://portal.qwen.ai"))) else { return };
    machine.run(["setup", "codex"]).any_stderr();
    gone(&machine.field("resource_url", json!("https://dashscope.aliyuncs.com/compatible-mode")), "setup");
}

/// A copy of the program at `place` below the test's directory, which is a temporary one.
fn copied(machine: &Machine, place: &str) -> PathBuf {
    let copy = machine.directory().join(place);
    fs::create_dir_all(copy.parent().unwrap()).unwrap();
    assert!(Command::new("cp").arg(machine.program()).arg(&copy).status().unwrap().success());
    copy
}

#[test]
fn doctor_reports_how_it_was_installed_and_what_upgrades_it() {
    let machine = healthy();
    let built = machine.run(["doctor"]).exits(0).any_stdout();
    let source = env!("CARGO_MANIFEST_DIR");
    let program = machine.program();
    let line = format!(
        "ok    installed    built from source: `{}`; upgrade with `git pull` and a new build in `{source}`\n",
        program.display()
    );
    assert!(built.stdout.contains(&line), "{built}");

    let runner = copied(&machine, "_npx/0123/node_modules/@qwenauth/linux-x64/bin/qwenauth");
    let mut command = machine.other(&runner);
    command.arg("doctor");
    let outcome = machine.start(command).finish().exits(0).any_stdout();
    assert!(outcome.stdout.contains("not installed, but run from the cache of npx"), "{outcome}");
}

#[test]
fn another_program_of_this_name_on_the_path_is_named() {
    let machine = healthy();
    let other = copied(&machine, "bin/qwenauth");
    let machine = machine.variable("PATH", other.parent().unwrap());
    let message = format!("`qwenauth` on `PATH` is not this program, but `{}`", "{machine}/bin/qwenauth");
    let remedy = "remove one of the two, or put the directory of the other first".to_owned();
    assert_eq!(found(&machine, &[], "installed"), [("warn".to_owned(), message, remedy)]);
}

#[test]
fn before_any_login_no_provider_is_taken_for_the_users() {
    let machine = Machine::new().without_variable("QWENAUTH_QWEN_OAUTH_URL");
    let missing = ("fail".to_owned(), "not logged in to any provider".to_owned(), "run `qwenauth login`".to_owned());
    assert_eq!(found(&machine, &[], "login"), [missing]);
    let outcome = machine.run(["doctor"]).exits(1).any_stdout();
    assert!(!outcome.stdout.contains("network") && !outcome.stdout.contains("is active"), "{outcome}");
}

#[test]
fn a_local_server_that_does_not_run_is_to_be_started() {
    let machine = Machine::new();
    let login = ["login", "custom", "--base-url", "http://localhost:9/v1", "--model", "m"];
    drop(machine.run([&login[..], &["--no-verify"]].concat()).any_stderr());
    let (down, remedy) = (
        "cannot reach `localhost:9`: connection refused (os error 111)",
        "start the server, or log in with another `--base-url`",
    );
    assert_eq!(found(&machine, &[], "network"), [("fail".to_owned(), down.to_owned(), remedy.to_owned())]);
    machine.run(["login", "custom", "--model", "n"]).fails(
        3,
        &format!("cannot verify the login: {down}; nothing was changed"),
        remedy,
    );
}
