//! A key that a command prints: run without a shell, one at a time, for a bounded time, its answer stored nowhere.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::gateway::upstream::{Gateway, Upstream, error, fine};
use crate::keys::{KEY, knows_the_key, machine};
use crate::machine::{Machine, possible, until};

const HINT: &str = "run it yourself to see why, or log in again with another key";

/// Logged in to `groq` by this command, which is not asked for its key yet.
fn by(machine: Machine, command: &str) -> Machine {
    drop(machine.run(["login", "groq", "--no-verify", "--api-key-command", "echo granted-key-0"]).any_stderr());
    let file = machine.profiles().join("groq.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    record["api_key_command"] = json!(command);
    fs::write(file, record.to_string()).unwrap();
    machine
}

/// A command that counts how often it runs.
fn counting(machine: &Machine, then: &str) -> String {
    format!("sh -c 'echo run >>{}; {then}'", machine.directory().join("runs").display())
}

fn runs(machine: &Machine) -> usize {
    fs::read_to_string(machine.directory().join("runs")).unwrap_or_default().lines().count()
}

#[test]
fn only_the_command_is_stored_and_its_key_is_checked_like_a_typed_one() {
    let machine = knows_the_key(machine(), "/groq/v1/models");
    let command = counting(&machine, &format!("echo {KEY}"));
    drop(machine.run(["login", "groq", "--api-key-command", &command]).any_stderr());
    let record = machine.profile("groq");
    assert_eq!((&record["store"], &record["api_key_command"]), (&json!("command"), &json!(command)));
    assert_eq!(record["api_key"], Value::Null);
    assert_eq!(runs(&machine), 1);
    machine.run(["token"]).stdout(&format!("{KEY}\n"));
    drop(machine.run(["exec", "--", "true"]));
    assert_eq!(runs(&machine), 3);
    for words in [["status"], ["profiles"]] {
        drop(machine.run(words).any_stdout());
    }
    assert_eq!(runs(&machine), 3);
    let wrong = machine.run(["login", "groq", "--api-key-command", "echo another"]).exits(4).any_stderr();
    assert!(wrong.stderr.contains("rejected the key"), "{wrong}");
    assert_eq!(machine.profile("groq")["api_key_command"], json!(command));
}

#[test]
fn a_key_command_is_split_into_words_without_a_shell() {
    let machine = by(machine(), "printf %s 'granted-$HOME;'\"-`id`\"");
    let message = "the key command `printf` printed no key: it contains quotes";
    let hint = "make it print only the key, for example `--api-key-command 'sh -c \"pass show qwen | head -n 1\"'`";
    machine.run(["token"]).fails(4, message, hint);
    let machine = by(machine, "printf %s 'granted-$HOME;'");
    machine.run(["token"]).stdout("granted-$HOME;\n");
    machine.run(["login", "groq", "--api-key-command", "echo 'x"]).fails(
        2,
        "the key command has a quote that is not closed",
        "quote it as in a shell, for example `--api-key-command 'op read \"op://Private/Qwen/key\"'`",
    );
}

#[test]
fn the_value_of_a_variable_before_a_key_command_is_not_shown() {
    let hint = "write `env` in front, as in `--api-key-command 'env NAME=… op read \"op://Private/Qwen/key\"'`";
    let words = ["login", "groq", "--no-verify", "--api-key-command", "OP_TOKEN=secret-1 op read x"];
    let message = "the key command starts with an assignment, which needs a shell or `env`";
    machine().run(words).fails(2, message, hint);
    let status = by(machine(), "OP_TOKEN=secret-1 op read x").run(["status"]).any_stdout();
    assert!(!status.stdout.contains("secret-1") && status.stdout.contains("`OP_TOKEN`"), "{status}");
}

#[test]
fn a_key_command_that_fails_is_named_and_ends_with_4() {
    let machine = by(machine(), "sh -c 'echo granted-key-9; exit 7'");
    machine.run(["token"]).fails(4, "the key command `sh` failed: it ended with code 7", HINT);
    let machine = by(machine, "no-such-program granted");
    machine.run(["token"]).fails(
        4,
        "the key command `no-such-program` failed: `no-such-program` was not found",
        "check its name and `PATH`",
    );
    let machine = by(machine, "printf 'granted-key-1\\nuser: me\\n'");
    let hint = "make it print only the key, for example `--api-key-command 'sh -c \"pass show qwen | head -n 1\"'`";
    machine.run(["token"]).fails(4, "the key command `printf` printed no key: it contains whitespace", hint);
    let machine = by(machine, "true");
    machine.run(["token"]).fails(4, "the key command `true` printed no key: it is empty", hint);
}

#[test]
fn a_key_command_that_takes_longer_than_ten_seconds_is_ended_with_what_it_started() {
    let machine = machine();
    let process = machine.directory().join("process");
    let machine = by(machine, &format!("sh -c 'sleep 1000 & echo $! >{}; wait'", process.display()));
    let started = Instant::now();
    machine.run(["token"]).fails(
        3,
        "the key command `sh` did not end within 10 s",
        "run it yourself to see what it waits for",
    );
    assert!(started.elapsed() >= Duration::from_secs(10));
    await_end(&fs::read_to_string(process).unwrap());
}

/// Waits for the end of a process.
fn await_end(id: &str) {
    let stat = format!("/proc/{}/stat", id.trim());
    // Nobody may be there to bury it.
    until("it has ended", || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")));
}

#[test]
fn a_signal_ends_a_key_command_with_what_it_started() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let machine = machine();
        let process = machine.directory().join("process");
        let command = format!("sh -c 'sleep 1000 & echo $! >{0}.new; mv {0}.new {0}; wait'", process.display());
        let machine = by(machine, &command);
        let running = machine.spawn(["token"]);
        until("the command runs", || process.exists());
        running.signal(signal);
        running.finish().dies_by(signal);
        await_end(&fs::read_to_string(&process).unwrap());
    }
}

#[test]
fn a_key_command_does_not_see_the_keys_of_the_environment() {
    let machine = by(machine(), "sh -c 'echo granted-${GROQ_API_KEY-1}-${OPENAI_API_KEY-2}-${QWENAUTH_API_KEY-3}'");
    let machine = machine.variable("GROQ_API_KEY", "granted-a").variable("OPENAI_API_KEY", "granted-b");
    machine.run(["token"]).stdout("granted-1-2-3\n");
}

#[test]
fn a_key_command_that_calls_qwenauth_for_the_same_profile_is_rejected_at_once() {
    let machine = machine();
    let program = machine.program().display().to_string();
    let machine = by(machine, &format!("{program} token --profile groq"));
    let started = Instant::now();
    let outcome = machine.run(["token"]).exits(4).any_stderr();
    assert!(outcome.stderr.contains("the key command of `groq` calls qwenauth for the same profile"), "{outcome}");
    assert!(outcome.stderr.contains("failed: it ended with code 1"), "{outcome}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_key_command_may_take_its_key_from_another_profile() {
    let machine = machine();
    let program = machine.program().display().to_string();
    drop(
        machine.run_with_stdin(["login", "openrouter", "--api-key-stdin", "--no-verify"], KEY.as_bytes()).any_stderr(),
    );
    by(machine, &format!("{program} token --profile openrouter")).run(["token"]).stdout(&format!("{KEY}\n"));
}

#[test]
fn ten_processes_run_a_key_command_one_at_a_time() {
    let machine = machine();
    let busy = machine.directory().join("busy");
    let then = format!("mkdir {0} || exit 9; sleep 0.05; rmdir {0}; echo {KEY}", busy.display());
    let command = counting(&machine, &then);
    let machine = by(machine, &command);
    let running: Vec<_> = (0..10).map(|_| machine.spawn(["token"])).collect();
    for running in running {
        running.finish().stdout(&format!("{KEY}\n")).any_stderr();
    }
    assert_eq!(runs(&machine), 10);
}

#[test]
fn a_gateway_runs_a_key_command_once_and_again_when_its_key_is_rejected() {
    let upstream = Upstream::start(|_, asked, connection| {
        let refused = error("401 Unauthorized", "", "invalid_api_key", "invalid api key");
        let is_first = asked.header("authorization") == "Bearer granted-key-1";
        std::io::Write::write_all(connection, &if is_first && asked.line.contains("refuse") { refused } else { fine() })
    });
    let machine = Machine::new();
    let machine = machine.configured(&format!("[providers.groq]\nbase_url = \"http://{}/v1\"\n", upstream.address));
    let command = counting(&machine, &format!("echo granted-key-$(wc -l <{}/runs)", machine.directory().display()));
    let machine = by(machine, &command);
    let gateway = Gateway::start(&machine, &[]);
    for _ in 0..3 {
        gateway.send("POST /v1/chat/completions", "", crate::gateway::upstream::CHAT).got().is(200);
    }
    assert_eq!(runs(&machine), 1);
    gateway.send("POST /v1/chat/completions?refuse", "", crate::gateway::upstream::CHAT).got().is(200);
    assert_eq!(runs(&machine), 2);
    assert_eq!(upstream.asked().last().unwrap().header("authorization"), "Bearer granted-key-2");
}

/// `pass` with a key that is made for the test.
#[test]
fn the_password_manager_pass_can_hold_the_key() {
    let has = |program: &str| Path::new("/usr/bin").join(program).exists();
    if !possible(has("pass") && has("gpg"), "run pass") {
        return;
    }
    // The sockets of GnuPG's agent need a short path.
    let home = tempfile::Builder::new().prefix("qa-gpg-").tempdir_in("/tmp").unwrap();
    fs::DirBuilder::new().mode(0o700).create(home.path().join("gnupg")).unwrap();
    let machine = machine()
        .variable("GNUPGHOME", home.path().join("gnupg"))
        .variable("PASSWORD_STORE_DIR", home.path().join("store"));
    let run = |words: &[&str], input: &str| {
        let mut command: Command = machine.other(words[0]);
        let mut child = command.args(&words[1..]).stdin(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run(
        &[
            "gpg",
            "--batch",
            "--quiet",
            "--passphrase",
            "",
            "--quick-generate-key",
            "test",
            "default",
            "default",
            "never",
        ],
        "",
    );
    run(&["pass", "init", "test"], "");
    run(&["pass", "insert", "--echo", "groq"], &format!("{KEY}\n"));
    drop(machine.run(["login", "groq", "--no-verify", "--api-key-command", "pass show groq"]).any_stderr());
    machine.run(["token"]).stdout(&format!("{KEY}\n"));
    run(&["gpgconf", "--kill", "all"], "");
}

#[test]
fn status_says_what_is_wrong_with_a_key_command_beside_the_other_profiles() {
    let machine = by(machine(), "false").logged_in().expires_in(-60).field("refresh_token", Value::Null);
    let mut outcome = machine.run(["status", "--all", "--check", "--json"]).exits(4);
    let told = outcome.json();
    let [qwen, groq] = ["qwen", "groq"]
        .map(|name| told["profiles"].as_array().unwrap().iter().find(|told| told["profile"] == name).unwrap());
    assert_eq!((&qwen["state"], &groq["state"]), (&json!("expired"), &json!("missing")), "{told}");
    assert!(groq["problems"][0].as_str().unwrap().contains("the key command `false`"), "{told}");
    let outcome = machine.run(["status", "--check", "--profile", "groq"]).exits(4).any_stdout();
    assert!(outcome.stdout.contains("credential  by command `false`, which gave no key\n"), "{outcome}");
}

#[test]
fn a_key_of_a_command_that_the_api_rejects_is_rejected_in_its_check() {
    let machine = by(crate::keys::refuses(machine(), "/groq/v1/models"), &format!("echo {KEY}"));
    let mut outcome = machine.run(["status", "--check", "--json"]).exits(4);
    assert_eq!(outcome.json()["profiles"][0]["state"], "refused", "{outcome}");
}
