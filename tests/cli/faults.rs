//! Disks that fill up or break, file systems without locks, clocks that jump, names that resolve slowly.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use nix::libc::{EAGAIN, EDQUOT, EFBIG, EIO, ENOLCK, ENOSPC, ENOTSUP};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::doctor::aged;
use crate::login::{grant, polls};
use crate::machine::{Machine, credential, possible, until, write_private};
use crate::refresh::holds_the_renewal;
use crate::server::{Ask, Gate, Reply, tokens};

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;

/// An expired login whose program has its faults preloaded.
pub(crate) fn faulty(name: &str, value: &str) -> Option<Machine> {
    preloaded(Machine::expired(), name, value)
}

/// Preloads faults.c, which is told what to do by this variable.
pub(crate) fn preloaded(machine: Machine, name: &str, value: &str) -> Option<Machine> {
    static COMPILED: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let compiled = COMPILED.get_or_init(compiled);
    if !possible(compiled.is_some(), "compile C") {
        return None;
    }
    let library = machine.directory().join("faults.so");
    fs::write(&library, compiled.as_ref().unwrap()).unwrap();
    Some(machine.variable("LD_PRELOAD", library).variable(name, value))
}

/// The library that faults.c is the source of; nothing where there is no compiler.
fn compiled() -> Option<Vec<u8>> {
    let directory = tempfile::tempdir().unwrap();
    let library = directory.path().join("faults.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/faults.c");
    let ran =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").output().ok()?;
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    Some(fs::read(library).unwrap())
}

/// Nothing changed, nothing is left.
#[track_caller]
fn is_as_before(machine: &Machine, before: &str) {
    assert_eq!(machine.content(), before);
    assert_eq!(machine.beside(), [".oauth_creds.qwenauth-lock", "oauth_creds.json"]);
}

fn said(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}

/// What is said where nothing but the disk has failed.
fn remedy(errno: i32) -> &'static str {
    match errno {
        ENOSPC => "free space on that disk, then retry",
        EDQUOT => "your disk quota is used up: free space, then retry",
        EIO => "disk I/O error; see `dmesg`",
        other => panic!("{other}"),
    }
}

/// What is said where the server has granted new tokens already.
const SPENT: &str = "fix that, then run `qwenauth login`: older tokens may no longer be valid";

/// The same where the new version is complete beside the old one.
const COMPLETED: &str = "nothing was lost: fix that, and the next command completes it";

fn kept(errno: i32) -> String {
    not_saved("the token was renewed", errno).replace("be saved: ", "be saved: it is kept for the next command: ")
}

fn not_saved(granted: &str, errno: i32) -> String {
    format!("{granted}, but could not be saved: cannot write `{{home}}/.qwen/oauth_creds.json`: {}", said(errno))
}

#[test]
fn without_space_for_the_new_tokens_the_old_one_is_not_sent() {
    for errno in [ENOSPC, EDQUOT, EIO] {
        let Some(machine) = faulty("FAULT", &format!("fallocate:{errno}:.tmp")) else { return };
        let before = machine.content();
        let told = format!("cannot prepare a new version of `{{home}}/.qwen/oauth_creds.json`: {}", said(errno));
        machine.run(["token"]).fails(1, &told, remedy(errno));
        assert!(machine.server.requests().is_empty());
        is_as_before(&machine, &before);
    }
}

#[test]
fn a_disk_that_breaks_while_the_new_tokens_are_written_leaves_the_old_version_whole() {
    for call in ["write", "fsync"] {
        for errno in [ENOSPC, EDQUOT, EIO] {
            let Some(machine) = faulty("FAULT", &format!("{call}:{errno}:.tmp")) else { return };
            let granted = machine.directory().join("granted");
            let machine = machine.variable("FAULT_FROM", &granted);
            let begins = granted.clone();
            let machine = machine.refresh(Reply::tokens("2").meanwhile(move || drop(File::create(begins).unwrap())));
            let before = machine.content();
            if call == "write" {
                machine.run(["token"]).fails(1, &not_saved("the token was renewed", errno), SPENT);
                is_as_before(&machine, &before);
            } else {
                machine.run(["token"]).fails(1, &kept(errno), COMPLETED);
                assert_eq!(machine.content(), before);
                fs::remove_file(granted).unwrap();
                machine.run(["token"]).stdout("granted-access-2\n");
                assert_eq!(machine.server.asked(Ask::Refresh).len(), 1, "the token is not sent again");
            }
        }
    }
}

#[test]
fn a_directory_that_cannot_be_flushed_costs_nothing() {
    let Some(machine) = faulty("FAULT", &format!("fsync:{EIO}:.qwen")) else { return };
    let machine = machine.refresh(Reply::tokens("2"));
    machine.run(["token"]).stdout("granted-access-2\n");
    holds_the_renewal(&machine, "granted-refresh-2");
}

#[test]
fn without_locks_nothing_is_renewed() {
    let hint = "the file system does not support locks; move the credential with `QWEN_HOME` or `QWENAUTH_HOME`";
    for errno in [ENOLCK, ENOTSUP] {
        let Some(machine) = faulty("FAULT", &format!("flock:{errno}:qwenauth-lock")) else { return };
        let before = machine.content();
        let told = format!("cannot lock `{{home}}/.qwen/.oauth_creds.qwenauth-lock`: {}", said(errno));
        for command in ["token", "refresh", "logout"] {
            machine.run([command]).fails(1, &told, hint);
        }
        assert!(machine.server.requests().is_empty());
        is_as_before(&machine, &before);
    }
}

#[test]
fn a_valid_login_is_used_without_locks() {
    let Some(machine) = faulty("FAULT", &format!("flock:{ENOLCK}:qwenauth-lock")) else { return };
    machine.expires_in(HOUR).run(["token"]).stdout("granted-access-1\n");
}

/// Ctrl-Z, a debugger, a frozen container: the time that passes meanwhile is not the server's.
#[test]
fn a_renewal_stopped_for_longer_than_its_limit_saves_what_it_was_granted() {
    let Some(machine) = faulty("JUMP", "") else { return };
    let jumped = machine.directory().join("jumped");
    let (gate, (answered, answer)) = (Gate::default(), std::sync::mpsc::channel());
    let reply = Reply::tokens("2").after(&gate).afterwards(move || answered.send(()).unwrap());
    // A renewal waits 20 s for its answer.
    let machine = machine.variable("JUMP", format!("{}:1:21", jumped.display())).refresh(reply);
    let running = machine.spawn(["token"]);
    machine.server.wait_for(Ask::Refresh, 1);
    running.stop();
    File::create(jumped).unwrap();
    gate.open();
    answer.recv().unwrap();
    running.signal(Signal::SIGCONT);
    running.finish().stdout("granted-access-2\n");
    holds_the_renewal(&machine, "granted-refresh-2");
}

/// The clock is so far ahead from the moment the server reads the request.
#[track_caller]
fn a_jump_costs_one_renewal(clock: i32, seconds: i64) {
    let Some(machine) = faulty("JUMP", "") else { return };
    let [jumped, seen] = ["jumped", "seen"].map(|name| machine.directory().join(name));
    let machine =
        machine.variable("JUMP", format!("{}:{clock}:{seconds}", jumped.display())).variable("JUMP_SEEN", &seen);
    let reply = Reply::tokens("2").meanwhile(move || {
        File::create(jumped).unwrap();
        until("the program looks at the clock while it waits", || seen.exists());
    });
    let machine = machine.refresh(reply);
    machine.run(["token"]).stdout("granted-access-2\n");
    holds_the_renewal(&machine, "granted-refresh-2");
    assert_eq!(machine.beside(), [".oauth_creds.qwenauth-lock", "oauth_creds.json"]);
    assert_eq!(machine.server.asked(Ask::Refresh).len(), 1);
}

#[test]
fn a_clock_that_jumps_during_a_renewal_costs_nothing() {
    for seconds in [HOUR, -HOUR, YEAR, -YEAR] {
        a_jump_costs_one_renewal(0, seconds);
    }
}

#[test]
fn a_gap_in_monotonic_time_during_a_renewal_costs_nothing() {
    a_jump_costs_one_renewal(1, HOUR);
}

#[test]
fn a_clock_that_is_wrong_from_the_start_costs_one_renewal_at_most() {
    for seconds in [HOUR, -HOUR, YEAR, -YEAR] {
        let Some(machine) = faulty("JUMP", &format!("/:0:{seconds}")) else { return };
        let machine = machine.expires_in(120);
        machine.server.always(Ask::Refresh, || Reply::tokens("2"));
        let first = machine.run(["token"]).any_stdout();
        assert!(["granted-access-1\n", "granted-access-2\n"].contains(&first.stdout.as_str()), "{first}");
        let second = machine.run(["token"]).any_stdout();
        assert_eq!(second.stdout, first.stdout);
        assert!(machine.server.asked(Ask::Refresh).len() <= 1);
    }
}

#[test]
fn a_name_that_does_not_resolve_in_time_is_temporary() {
    for (seconds, told) in [
        (
            "0",
            "cannot renew the token: no usable response from `slow.example`: failed to lookup address information: Temporary failure in name resolution",
        ),
        ("60", "cannot renew the token: no usable response from `slow.example`: operation timed out"),
    ] {
        let Some(machine) = faulty("SLOW_DNS", seconds) else { return };
        let machine =
            machine.granted_by("https://slow.example").variable("QWENAUTH_QWEN_OAUTH_URL", "https://slow.example");
        let before = machine.content();
        let warned = "warning: `QWENAUTH_QWEN_OAUTH_URL` is set: tokens are requested from `slow.example`";
        let said =
            format!("qwenauth: {warned}\nqwenauth: error: {told}\nqwenauth: hint: nothing was lost; retry later\n");
        machine.run(["token"]).exits(3).stderr(&said);
        is_as_before(&machine, &before);
    }
}

/// `ulimit -u`, the process limit of a container: whichever thread is refused, nothing is lost and nothing left behind.
#[test]
fn a_renewal_without_one_of_its_threads_is_temporary() {
    for number in 1.. {
        let Some(machine) = faulty("FAULT", &format!("pthread_create:{EAGAIN}:/{number}")) else { return };
        let machine = machine.refresh(Reply::tokens("2"));
        let before = machine.content();
        let outcome = machine.run(["token"]).any_stdout().any_stderr();
        if outcome.code() == Some(0) {
            assert!(number > 3, "its threads were refused: {outcome}");
            drop(outcome.exits(0));
            break;
        }
        assert!(outcome.stderr.contains("Resource temporarily unavailable"), "{number}: {outcome}");
        drop(outcome.exits(3));
        is_as_before(&machine, &before);
        let machine = machine.without_variable("LD_PRELOAD");
        machine.run(["token"]).stdout("granted-access-2\n").stderr("");
        assert_eq!(machine.server.asked(Ask::Refresh).len(), 1);
    }
}

#[test]
fn a_key_command_a_login_and_the_doctor_without_threads_end_with_an_error() {
    let machine = crate::keys::machine();
    drop(machine.run(["login", "groq", "--no-verify", "--api-key-command", "echo granted-key-0"]).any_stderr());
    let Some(machine) = preloaded(machine, "FAULT", &format!("pthread_create:{EAGAIN}:*")) else { return };
    for (command, code) in [("token", 3), ("login openrouter --no-browser", 3), ("doctor", 1)] {
        let outcome = machine.run(command.split(' ')).any_stdout().any_stderr();
        assert!(format!("{outcome}").contains("Resource temporarily unavailable"), "{outcome}");
        drop(outcome.exits(code));
    }
}

#[test]
fn a_rename_that_fails_leaves_the_new_version_to_the_next_command() {
    if !possible(std::path::Path::new("/usr/bin/strace").exists(), "run strace") {
        return;
    }
    let machine = Machine::expired().refresh(Reply::tokens("2"));
    let before = machine.content();
    let script = "exec strace -f -qqq -o /dev/null -e trace=rename,renameat,renameat2 \
                  -e inject=rename,renameat,renameat2:error=EIO $QWENAUTH token";
    machine.shell(script).fails(1, &kept(EIO), COMPLETED);
    assert_eq!(machine.content(), before);
    machine.run(["token"]).stdout("granted-access-2\n");
    assert_eq!(machine.server.asked(Ask::Refresh).len(), 1, "the token is not sent again");
    assert_eq!(machine.beside(), [".oauth_creds.qwenauth-lock", "oauth_creds.json"]);
}

#[test]
fn a_rejected_token_is_marked_although_its_file_cannot_be_removed() {
    if !possible(std::path::Path::new("/usr/bin/strace").exists(), "run strace") {
        return;
    }
    let machine = Machine::expired().granted_here();
    machine.server.always(Ask::Refresh, || Reply::error(400, "invalid_grant"));
    let script = "exec strace -f -qqq -o /dev/null -P $HOME/.qwen/oauth_creds.json \
                  -e inject=unlink,unlinkat:error=EIO $QWENAUTH token";
    drop(machine.shell(script).exits(1).any_stderr());
    drop(machine.run(["token"]).exits(4).any_stderr());
    assert_eq!(machine.server.asked(Ask::Refresh).len(), 1, "the token is not sent again");
}

/// Without it, every key that was made with it is lost.
#[test]
fn the_team_secret_is_on_the_disk_before_the_first_key_is_made() {
    let fault = format!("fsync:{EIO}:*/.secret.json.qwenauth-");
    let Some(machine) = preloaded(Machine::new(), "FAULT", &fault) else { return };
    let outcome = machine.run(["keys", "create", "ann"]).exits(1).any_stderr();
    assert!(outcome.stderr.contains("team/secret`: "), "{outcome}");
    assert!(!machine.home().join(".local/share/qwenauth/team/keys.json").exists());
}

#[test]
fn a_login_that_was_granted_and_cannot_be_saved_says_so() {
    for errno in [ENOSPC, EIO] {
        let machine = polls([]);
        let reply = grant(&machine);
        let Some(machine) = preloaded(machine, "FAULT", &format!("write:{errno}:.tmp")) else { return };
        let granted = machine.directory().join("granted");
        let machine = machine.variable("FAULT_FROM", &granted);
        let machine = machine.scripted(Ask::Poll, reply.meanwhile(move || drop(File::create(granted).unwrap())));
        // The lock is the first thing that is written.
        let told =
            "the login succeeded, but could not be saved: cannot create the lock `{home}/.qwen/oauth_creds.lock`";
        machine.run(["login"]).ends(1, &format!("{told}: {}", said(errno)), SPENT);
        machine.holds_nothing();
        assert!(!machine.home().join(".local/state/qwenauth/pending/qwen.json").exists(), "its code is spent");
    }
}

#[test]
fn a_renewal_that_keeps_the_refresh_token_loses_nothing_with_the_disk() {
    let Some(machine) = faulty("FAULT", &format!("write:{EIO}:.tmp")) else { return };
    let granted = machine.directory().join("granted");
    let machine = machine.variable("FAULT_FROM", &granted);
    let reply = Reply::json(200, json!({"access_token": "granted-access-2", "token_type": "Bearer", "expires_in": 60}));
    let machine = machine.refresh(reply.meanwhile(move || drop(File::create(granted).unwrap())));
    let before = machine.content();
    let hint = "nothing was lost: fix that, then run it again";
    machine.run(["token"]).fails(1, &not_saved("the token was renewed", EIO), hint);
    is_as_before(&machine, &before);
}

/// Where something is written that is no credential: the pending login, the configuration, a tool's file.
#[test]
fn a_full_disk_is_reported_with_its_remedy_wherever_it_is_met() {
    let full = |machine| preloaded(machine, "FAULT", &format!("fallocate:{ENOSPC}:.tmp"));
    let hint = format!("qwenauth: hint: {}\n", remedy(ENOSPC));
    let Some(pending) = full(polls([])) else { return };
    let Some(config) = full(Machine::new().logged_in()) else { return };
    let Some(tool) = full(Machine::new().logged_in()) else { return };
    write_private(&config.profiles().join("work.json"), r#"{"provider":"groq","api_key":"granted-key"}"#);
    for (machine, arguments) in [(pending, &["login"][..]), (config, &["use", "work"]), (tool, &["setup", "codex"])] {
        let outcome = machine.run(arguments).exits(1).any_stderr();
        assert!(outcome.stderr.contains("qwenauth: error: cannot prepare a new version of `{home}/"), "{outcome}");
        assert!(outcome.stderr.ends_with(&hint), "{outcome}");
    }
    Machine::new().logged_in().shell("exec $QWENAUTH token > /dev/full").fails(
        1,
        &format!("cannot write to stdout: {}", said(ENOSPC)),
        remedy(ENOSPC),
    );
}

#[test]
fn a_limit_of_file_sizes_is_an_error_and_leaves_no_file() {
    let machine = Machine::expired();
    let before = machine.content();
    let told = |path: &str| format!("cannot prepare a new version of `{{home}}/{path}`: {}", said(EFBIG));
    // First the lock fails, then the file.
    for blocks in [0, 1] {
        let refresh = machine.shell(&format!("ulimit -f {blocks}; exec $QWENAUTH refresh")).exits(1).any_stderr();
        assert!(refresh.stderr.contains(&said(EFBIG)), "{refresh}");
        is_as_before(&machine, &before);
    }
    let login = "echo granted-key | (ulimit -f 0; exec $QWENAUTH login groq --api-key-stdin --no-verify)";
    machine
        .shell(login)
        .exits(1)
        .stderr(&format!("qwenauth: error: {}\n", told(".local/share/qwenauth/credentials/groq.json")));
    let setup = Machine::new().logged_in();
    let outcome = setup.shell("ulimit -f 0; exec $QWENAUTH setup codex").exits(1).any_stderr();
    assert!(outcome.stderr.contains(&told(".codex/config.toml")), "{outcome}");
    for machine in [machine, setup] {
        drop(machine.shell("find . -name '*.tmp'"));
    }
}

#[test]
fn a_forbidden_port_is_not_reported_as_a_file_error() {
    let from = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if !possible(from.trim().parse().is_ok_and(|port: u16| port > 1), "keep ports from its users") {
        return;
    }
    let machine = Machine::new().logged_in().unprivileged();
    let told = "cannot listen on `127.0.0.1:1`: Permission denied (os error 13)";
    machine.run(["gateway", "--listen", "127.0.0.1:1"]).fails(1, told, "");
}

/// Killed when the new tokens were written and not in place yet, and next time left alone. The program's only
/// temporary file.
fn killed_before_the_rename() -> Option<(Machine, PathBuf)> {
    let machine = faulty("FAULT", "fsync:-9:*/.oauth_creds.json.qwenauth-")?;
    let machine = machine.field("of_another_program", json!([1, "kept"])).refresh(Reply::tokens("2"));
    drop(machine.run(["token"]).dies_by(Signal::SIGKILL));
    assert_eq!(machine.credential()["refresh_token"], "granted-refresh-1");
    let left = machine.beside().into_iter().find(|name| name.ends_with(".tmp")).expect("what it wrote");
    let left = machine.qwen().join(left);
    Some((machine.variable("FAULT", ""), left))
}

#[test]
fn a_renewal_killed_before_its_token_was_in_place_is_completed_by_the_next() {
    let Some((machine, _)) = killed_before_the_rename() else { return };
    machine.run(["token"]).stdout("granted-access-2\n");
    assert_eq!(machine.server.asked(Ask::Refresh).len(), 1);
    let credential = machine.credential();
    assert_eq!(credential["refresh_token"], "granted-refresh-2");
    assert_eq!(credential["of_another_program"], json!([1, "kept"]));
    assert_eq!(machine.beside(), [".oauth_creds.qwenauth-lock", "oauth_creds.json"]);
}

#[test]
fn an_incomplete_new_version_is_not_installed() {
    let whole = serde_json::to_vec(&credential("other")).unwrap();
    for part in 0..4 {
        let Some(machine) = faulty("FAULT", "fallocate:-9:.tmp") else { return };
        drop(machine.run(["token"]).dies_by(Signal::SIGKILL));
        let left = machine.beside().into_iter().find(|name| name.ends_with(".tmp")).expect("its room");
        let torn = [&whole[..whole.len() * part / 4], &[0; 1000]].concat();
        write_private(&machine.qwen().join(left), torn);
        let machine = machine.variable("FAULT", "").refresh(Reply::tokens("2"));
        machine.run(["token"]).stdout("granted-access-2\n");
        assert_eq!(machine.beside(), [".oauth_creds.qwenauth-lock", "oauth_creds.json"]);
    }
}

#[test]
fn the_new_version_of_another_login_is_not_installed() {
    let Some((machine, _)) = killed_before_the_rename() else { return };
    let machine = machine.field("refresh_token", json!("granted-refresh-of-another")).refresh(Reply::tokens("3"));
    machine.run(["token"]).stdout("granted-access-3\n");
    assert_eq!(machine.beside(), [".oauth_creds.qwenauth-lock", "oauth_creds.json"]);
}

#[test]
fn a_logout_removes_what_a_killed_renewal_left() {
    let Some((machine, _)) = killed_before_the_rename() else { return };
    drop(machine.run(["logout"]).any_stderr());
    assert_eq!(machine.beside(), [".oauth_creds.qwenauth-lock"]);
}

#[test]
fn the_doctor_leaves_what_the_next_renewal_needs() {
    let Some((machine, left)) = killed_before_the_rename() else { return };
    let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
    File::options().write(true).open(&left).unwrap().set_modified(an_hour_ago).unwrap();
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    let outcome = machine.run(["doctor", "--fix"]).any_stderr();
    assert!(outcome.stdout.contains("`qwenauth refresh` completes it"), "{outcome}");
    drop(outcome.any_stdout());
    machine.run(["token"]).stdout("granted-access-2\n");
    assert_eq!(machine.server.asked(Ask::Refresh).len(), 1);
}

/// The calls that write a small file of ours. One that a file needs not is one at which nobody is killed.
const CALLS: [&str; 4] = ["write", "ftruncate", "fsync", "fallocate"];

/// Runs a command that is killed at `call` on a file with `part` in its path, if it makes that call at all. Afterwards
/// nothing is preloaded.
fn killed_at(call: &str, part: &str, machine: Machine, arguments: &[&str]) -> Option<Machine> {
    let machine = preloaded(machine, "FAULT", &format!("{call}:-9:*{part}"))?;
    machine.run(arguments).any_stdout().any_stderr().any_end();
    Some(machine.without_variable("LD_PRELOAD"))
}

/// The removal of our own lock changes the directory: unless that is noted, it looks like another program's renewal.
#[test]
fn a_signal_while_a_lock_is_removed_delays_no_later_renewal() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGKILL] {
        let machine = Machine::expired().refresh(Reply::html(200)).refresh(Reply::tokens("2"));
        let fault = format!("unlink:-{}:oauth_creds.lock", signal as i32);
        let Some(machine) = preloaded(machine, "FAULT", &fault) else { return };
        drop(machine.run(["refresh"]).any_stdout().any_stderr().dies_by(signal));
        let machine = machine.without_variable("LD_PRELOAD");
        // It says that it waits for Qwen Code, if it does.
        machine.run(["refresh"]).any_stdout().stderr("");
    }
}

#[test]
fn a_kill_while_fix_removes_a_lock_delays_no_later_renewal() {
    let machine = Machine::expired().refresh(Reply::tokens("2"));
    fs::write(machine.qwen_code_lock(), "1234").unwrap();
    write_private(&machine.kernel_lock(), "");
    for path in [machine.file(), machine.qwen_code_lock(), machine.qwen()] {
        aged(&path, 3600);
    }
    let Some(machine) = preloaded(machine, "FAULT", "unlink:-9:*.qwen/.oauth_creds.") else { return };
    drop(machine.run(["doctor", "--fix"]).any_stdout().any_stderr().dies_by(Signal::SIGKILL));
    assert!(!machine.qwen_code_lock().exists());
    machine.without_variable("LD_PRELOAD").run(["refresh"]).any_stdout().stderr("");
}

/// They say which lock of Qwen Code's is our own: without them a killed process's lock would be awaited for 35 s.
#[test]
fn notes_of_the_lock_survive_a_kill_while_they_are_written() {
    for call in CALLS {
        let machine = Machine::expired();
        machine.server.always(Ask::Refresh, || Reply::tokens("2"));
        let id = "4b5f6a0e-0000-4000-8000-000000000000";
        let long = format!("{{\"qwen_code_lock\":\"{id}\",\"of_another_version\":\"{}\"}}", "x".repeat(500));
        write_private(&machine.kernel_lock(), &long);
        let Some(machine) = killed_at(call, ".oauth_creds.qwenauth-lock", machine, &["token"]) else { return };
        let text = fs::read_to_string(machine.kernel_lock()).unwrap();
        let first = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>().next();
        let notes =
            first.unwrap_or_else(|| panic!("{call}: nothing is left")).unwrap_or_else(|why| panic!("{call}: {why}"));
        let noted = notes["qwen_code_lock"].as_str().unwrap_or_else(|| panic!("{call}: {text}"));
        // What a process that is killed next would leave, and the next one takes over at once.
        fs::write(machine.qwen_code_lock(), noted).unwrap();
        let machine = machine.expires_in(-60);
        drop(machine.run(["token"]).any_stdout());
        assert!(!machine.qwen_code_lock().exists(), "{call}");
    }
}

/// A record that is written anew, because the server has another place for revocations by now.
#[test]
fn the_record_of_a_tokens_server_survives_a_kill_while_it_is_written() {
    for call in CALLS {
        let mut answer = tokens("1");
        answer.as_object_mut().unwrap().remove("refresh_token");
        let machine = Machine::expired().granted_here();
        machine.server.always(Ask::Refresh, move || Reply::json(200, answer.clone()));
        let record = fs::read_dir(machine.origins()).unwrap().next().unwrap().unwrap().path();
        let old: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
        let longer = json!({"token_endpoint": old["token_endpoint"], "revocation_endpoint": "x".repeat(500)});
        write_private(&record, longer.to_string());
        let Some(machine) = killed_at(call, "/origins/", machine, &["token"]) else { return };
        let now: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap_or_default();
        assert_eq!(now["token_endpoint"], old["token_endpoint"], "{call}");
        // What the kill left goes with the next of its kind; the machine minds any that stays.
        let machine = machine.expires_in(-60);
        drop(machine.run(["token"]).any_stdout());
    }
}

#[test]
fn a_remembered_rejection_survives_a_kill_while_it_is_written() {
    for call in CALLS {
        let machine = Machine::new().logged_in().granted_here();
        machine.server.always(Ask::Chat, || Reply::json(401, json!({"error": {"message": "no access"}})));
        drop(machine.run(["status", "--check"]).exits(4).any_stdout().any_stderr());
        let marks = machine.home().join(".local/state/qwenauth/refused-by-api");
        let mark = fs::read_dir(&marks).unwrap().next().unwrap().unwrap().path();
        let said = "the API refused it".repeat(100);
        write_private(&mark, &said);
        let Some(machine) = killed_at(call, "/refused-by-api/", machine, &["status", "--check"]) else { return };
        let now = fs::read_to_string(&mark).unwrap();
        assert!(now == said || !now.is_empty() && !now.contains("the API refused it"), "{call}: {now}");
        drop(machine.run(["status"]).exits(4).any_stdout());
        // What the kill left goes with the next of its kind once no process can be writing it; the machine minds any that stays.
        for entry in fs::read_dir(&marks).unwrap() {
            aged(&entry.unwrap().path(), 660);
        }
        drop(machine.run(["status", "--check"]).exits(4).any_stdout().any_stderr());
    }
}
