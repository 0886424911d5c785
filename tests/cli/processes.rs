//! One credential, many processes: one renewal for all, Qwen Code's lock respected, signals and kills survived.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::machine::{Machine, credential, possible, until, write_private};
use crate::refresh::holds_the_renewal;
use crate::run::Running;
use crate::server::{Ask, Gate, Reply};

const WAITING: &str = "qwenauth: waiting for another process that holds `{home}/.qwen/.oauth_creds.qwenauth-lock`\n";
const MAY_BE_RENEWING: &str = "qwenauth: waiting for Qwen Code, which may be renewing the login\n";
const QWEN_CODE_HOLDS: &str = "qwenauth: waiting for Qwen Code, which holds `{home}/.qwen/oauth_creds.lock`\n";

fn many(machine: &Machine, count: usize) -> Vec<Running> {
    (0..count).map(|_| machine.spawn(["token"])).collect()
}

/// A lock as Qwen Code makes it, of this age.
fn foreign_lock(path: &Path, age: Duration, ahead: bool) {
    fs::write(path, "3b241101-e2bb-4255-8caf-4136c566a962").unwrap();
    let now = SystemTime::now();
    let modified = if ahead { now + age } else { now - age };
    File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
}

#[test]
fn a_hundred_processes_share_one_renewal() {
    let gate = Gate::default();
    let machine = Machine::expired().refresh(Reply::tokens("2").after(&gate));
    let running = many(&machine, 100);
    for process in &running {
        process.wait_until_open(&machine.kernel_lock());
    }
    gate.open();
    for process in running {
        let outcome = process.finish().stdout("granted-access-2\n").any_stderr();
        assert!(["", WAITING].contains(&outcome.stderr.as_str()), "{outcome}");
    }
    holds_the_renewal(&machine, "granted-refresh-2");
}

#[test]
fn processes_that_wait_for_a_renewal_share_its_failure() {
    let gate = Gate::default();
    let machine = Machine::expired().refresh(Reply::html(503).after(&gate));
    machine.server.always(Ask::Refresh, || Reply::html(503));
    let running = many(&machine, 12);
    for process in &running {
        process.wait_until_open(&machine.kernel_lock());
    }
    gate.open();
    for process in running {
        drop(process.finish().exits(3).any_stderr());
    }
    assert_eq!(machine.server.asked(Ask::Refresh).len(), 3);
}

#[test]
fn refresh_adopts_a_renewal_made_since_its_start() {
    let gate = Gate::default();
    let machine = Machine::new().logged_in().refresh(Reply::tokens("2").after(&gate));
    let first = machine.spawn(["refresh"]);
    machine.server.wait_for(Ask::Refresh, 1);
    let second = machine.spawn(["refresh"]);
    second.wait_until_open(&machine.kernel_lock());
    gate.open();
    first.finish();
    drop(second.finish().any_stderr());
    holds_the_renewal(&machine, "granted-refresh-2");
}

#[test]
fn qwen_codes_fresh_lock_is_waited_for_and_its_token_adopted() {
    let machine = Machine::expired();
    foreign_lock(&machine.qwen_code_lock(), Duration::ZERO, false);
    let running = machine.spawn(["token"]);
    running.wait_until_open(&machine.kernel_lock());
    let mut renewed = credential("qwen-code");
    renewed["resource_url"] = json!(machine.server.url());
    write_private(&machine.file(), renewed.to_string());
    fs::remove_file(machine.qwen_code_lock()).unwrap();
    drop(running.finish().stdout("granted-access-qwen-code\n").any_stderr());
}

#[test]
fn qwen_codes_fresh_lock_is_waited_for_before_any_request() {
    let machine = Machine::expired().refresh(Reply::tokens("2"));
    foreign_lock(&machine.qwen_code_lock(), Duration::ZERO, false);
    let running = machine.spawn(["token"]);
    running.wait_for_stderr("waiting for Qwen Code");
    assert!(machine.server.requests().is_empty());
    let gone = Instant::now();
    fs::remove_file(machine.qwen_code_lock()).unwrap();
    // Whoever held it may be renewing still: another process of its kind may have removed its lock.
    running.finish().stdout("granted-access-2\n").stderr(&format!("{QWEN_CODE_HOLDS}{MAY_BE_RENEWING}"));
    assert!(gone.elapsed() >= Duration::from_secs(9), "{:?}", gone.elapsed());
}

/// Writes the login that a renewal of Qwen Code's brings.
fn qwen_code_saves(machine: &Machine) {
    let mut renewed = credential("qwen-code");
    renewed["resource_url"] = json!(machine.server.url());
    write_private(&machine.file(), renewed.to_string());
}

/// What any Qwen Code process does to the lock of whoever is refreshing when it ends.
fn lose_a_lock(machine: &Machine) {
    thread::sleep(Duration::from_millis(50));
    foreign_lock(&machine.qwen_code_lock(), Duration::ZERO, false);
    fs::remove_file(machine.qwen_code_lock()).unwrap();
}

#[test]
fn a_renewal_of_qwen_code_that_lost_its_lock_is_waited_for() {
    let machine = Machine::expired();
    lose_a_lock(&machine);
    let running = machine.spawn(["token"]);
    running.wait_for_stderr("qwenauth: waiting for Qwen Code, which may be renewing");
    qwen_code_saves(&machine);
    running.finish().stdout("granted-access-qwen-code\n").stderr(MAY_BE_RENEWING);
    assert!(machine.server.asked(Ask::Refresh).is_empty());
}

#[test]
fn a_renewal_of_qwen_code_whose_lock_disappears_is_waited_for() {
    let machine = Machine::expired();
    foreign_lock(&machine.qwen_code_lock(), Duration::ZERO, false);
    let running = machine.spawn(["token"]);
    running.wait_for_stderr("waiting for Qwen Code, which holds");
    fs::remove_file(machine.qwen_code_lock()).unwrap();
    running.wait_for_stderr("qwenauth: waiting for Qwen Code, which may be renewing");
    qwen_code_saves(&machine);
    running.finish().stdout("granted-access-qwen-code\n").stderr(&format!("{QWEN_CODE_HOLDS}{MAY_BE_RENEWING}"));
    assert!(machine.server.asked(Ask::Refresh).is_empty());
}

#[test]
fn a_valid_token_is_used_while_another_program_may_be_renewing() {
    let machine = Machine::new().logged_in();
    lose_a_lock(&machine);
    machine.run(["refresh"]);
    let machine = machine.expires_in(20);
    lose_a_lock(&machine);
    // Less than the usual margin of 30 s, more than 5 s; asked twice, for nothing may hide the trace.
    machine.run(["token"]).stdout("granted-access-1\n");
    machine.run(["token"]).stdout("granted-access-1\n");
    assert!(machine.server.asked(Ask::Refresh).is_empty());
}

#[test]
fn a_signal_ends_the_wait_for_another_renewal() {
    let machine = Machine::expired();
    lose_a_lock(&machine);
    let running = machine.spawn(["token"]);
    running.wait_for_stderr("qwenauth: waiting for Qwen Code, which may be renewing");
    running.signal(Signal::SIGTERM);
    drop(running.finish().dies_by(Signal::SIGTERM).any_stderr());
    assert!(machine.server.asked(Ask::Refresh).is_empty());
    assert!(!machine.qwen_code_lock().exists());
}

/// Who was interrupted has not failed: what it waited for is waited for by the next.
#[test]
fn processes_that_wait_for_an_interrupted_renewal_renew_themselves() {
    let machine = Machine::expired();
    lose_a_lock(&machine);
    let first = machine.spawn(["token"]);
    first.wait_for_stderr("qwenauth: waiting for Qwen Code, which may be renewing");
    let second = machine.spawn(["token"]);
    second.wait_for_stderr("qwenauth: waiting for another process that holds");
    first.signal(Signal::SIGTERM);
    drop(first.finish().dies_by(Signal::SIGTERM).any_stderr());
    second.wait_for_stderr("qwenauth: waiting for Qwen Code, which may be renewing");
    qwen_code_saves(&machine);
    drop(second.finish().stdout("granted-access-qwen-code\n").any_stderr());
    assert!(machine.server.asked(Ask::Refresh).is_empty());
}

/// Runs `command` on an expired login and fails if it waits for a renewal of Qwen Code's that nobody makes.
#[track_caller]
fn renews_at_once(machine: Machine, number: &str) -> Machine {
    let machine = machine.expires_in(-60).refresh(Reply::tokens(number)).variable("QWENAUTH_LOG", "info");
    let outcome = machine.run(["token"]).stdout(&format!("granted-access-{number}\n")).any_stderr();
    assert!(!outcome.stderr.contains("may be renewing"), "{outcome}");
    machine.without_variable("QWENAUTH_LOG")
}

#[test]
fn without_qwen_code_no_renewal_waits() {
    let machine = renews_at_once(Machine::expired(), "2");
    let machine = renews_at_once(machine, "3");
    // Qwen Code saves its settings.
    write_private(&machine.qwen().join("settings.json"), "{}");
    let machine = renews_at_once(machine, "4");
    // A renewal of our own is killed.
    let machine = machine.expires_in(-60).refresh(Reply::silence());
    let running = machine.spawn(["token"]);
    machine.server.wait_for(Ask::Refresh, 4);
    running.signal(Signal::SIGKILL);
    running.finish().dies_by(Signal::SIGKILL);
    let machine = renews_at_once(machine, "5");
    // One fails.
    let machine = machine.expires_in(-60).refresh(Reply::html(200));
    drop(machine.run(["token"]).exits(3).any_stderr());
    let machine = renews_at_once(machine, "6");
    // Our own lock is deleted, and made again.
    let lock = machine.qwen_code_lock();
    let reply = Reply::tokens("7").meanwhile(move || {
        fs::remove_file(&lock).unwrap();
        until("the lock is made again", || lock.exists());
    });
    let machine = machine.expires_in(-60).refresh(reply);
    machine.run(["token"]).stdout("granted-access-7\n");
    renews_at_once(machine, "8");
}

/// Runs `token` on an expired login and returns how often any of its threads slept.
fn sleeps(machine: &Machine, meanwhile: impl FnOnce(&Running)) -> usize {
    let log = machine.directory().join("calls");
    let mut strace = machine.other("strace");
    strace.args(["-f", "-qq", "-e", "signal=none", "-e", "trace=nanosleep,clock_nanosleep", "-o"]).arg(&log);
    strace.arg(machine.program()).arg("token");
    let running = machine.start(strace);
    meanwhile(&running);
    drop(running.finish().any_stdout().any_stderr());
    fs::read_to_string(log).unwrap().matches("nanosleep(").count()
}

/// Heeding Qwen Code costs those nothing who do not run it.
#[test]
fn without_qwen_code_a_renewal_never_sleeps() {
    let strace = Command::new("strace").args(["-f", "true"]).stderr(Stdio::null()).status();
    if !possible(strace.is_ok_and(|status| status.success()), "trace system calls") {
        return;
    }
    let machine = Machine::expired().refresh(Reply::tokens("2"));
    assert_eq!(sleeps(&machine, |_| ()), 0);
    let machine = machine.expires_in(-60).refresh(Reply::tokens("3"));
    write_private(&machine.qwen().join("settings.json"), "{}");
    assert_eq!(sleeps(&machine, |_| ()), 0, "beside a save of Qwen Code's settings");
    assert_eq!(machine.server.asked(Ask::Refresh).len(), 2);
    // A wait is seen, where there is one.
    let machine = machine.expires_in(-60);
    lose_a_lock(&machine);
    let waited = sleeps(&machine, |running| {
        running.wait_for_stderr("waiting for Qwen Code, which may be renewing");
        qwen_code_saves(&machine);
    });
    assert!(waited > 0);
}

#[test]
fn after_a_logout_and_a_login_no_renewal_waits() {
    let machine = renews_at_once(Machine::new().credential_is(credential("0")), "2");
    drop(machine.run(["logout", "--local"]).any_stderr());
    let machine = renews_at_once(machine.credential_is(credential("5")), "3");
    let reply = crate::login::grant(&machine);
    let code = crate::login::device_code(json!({}));
    let machine = machine.scripted(Ask::DeviceCode, code).scripted(Ask::Poll, reply);
    drop(machine.run(["login", "--force", "--no-verify", "--no-browser"]).any_stderr());
    renews_at_once(machine, "4");
}

#[test]
fn a_stale_lock_of_qwen_code_is_taken_over() {
    for ahead in [false, true] {
        let machine = Machine::expired().refresh(Reply::tokens("2"));
        foreign_lock(&machine.qwen_code_lock(), Duration::from_secs(36), ahead);
        machine.run(["token"]).stdout("granted-access-2\n");
        assert_eq!(machine.beside(), [".oauth_creds.qwenauth-lock", "oauth_creds.json"]);
    }
}

#[test]
fn a_lock_younger_than_qwen_codes_timeout_is_respected() {
    for ahead in [false, true] {
        let machine = Machine::expired();
        foreign_lock(&machine.qwen_code_lock(), Duration::from_secs(20), ahead);
        let running = machine.spawn(["token"]);
        running.wait_for_stderr("waiting for Qwen Code");
        assert!(machine.qwen_code_lock().exists());
        running.signal(Signal::SIGTERM);
        drop(running.finish().dies_by(Signal::SIGTERM).any_stderr());
        assert!(machine.qwen_code_lock().exists(), "another's lock is not removed");
    }
}

#[test]
fn during_a_renewal_qwen_codes_lock_is_held_in_its_format_and_removed_afterwards() {
    let (tell, told) = mpsc::channel();
    let machine = Machine::expired();
    let lock = machine.qwen_code_lock();
    let reply = Reply::tokens("2").meanwhile(move || tell.send(fs::read_to_string(lock)).unwrap());
    machine.refresh(reply).run(["token"]).stdout("granted-access-2\n");
    let id = told.recv().unwrap().unwrap();
    let groups: Vec<_> = id.split('-').map(str::len).collect();
    assert_eq!(groups, [8, 4, 4, 4, 12], "{id}");
}

#[test]
fn qwen_codes_lock_is_kept_fresh_during_a_renewal() {
    let (tell, told) = mpsc::channel();
    let machine = Machine::expired();
    let lock = machine.qwen_code_lock();
    let reply = Reply::tokens("2").meanwhile(move || {
        let modified = || fs::metadata(&lock).unwrap().modified().unwrap();
        let first = modified();
        until("the lock is touched", || modified() > first);
        tell.send(()).unwrap();
    });
    machine.refresh(reply).run(["token"]).stdout("granted-access-2\n");
    told.recv().unwrap();
}

#[test]
fn a_token_that_was_replaced_before_the_next_try_is_not_sent_again() {
    let machine = Machine::expired();
    let (file, mut other) = (machine.file(), credential("other"));
    other["expiry_date"] = json!(4_102_444_800_000_u64);
    other["resource_url"] = json!(machine.server.url());
    let reply = Reply::html(503).meanwhile(move || fs::write(file, other.to_string()).unwrap());
    machine.server.always(Ask::Refresh, || Reply::tokens("3"));
    let machine = machine.refresh(reply);
    machine.run(["token"]).stdout("granted-access-other\n");
    assert_eq!(machine.server.asked(Ask::Refresh).len(), 1);
}

#[test]
fn a_lock_deleted_by_another_is_made_again() {
    let (tell, told) = mpsc::channel();
    let machine = Machine::expired();
    let lock = machine.qwen_code_lock();
    let reply = Reply::tokens("2").meanwhile(move || {
        let id = fs::read_to_string(&lock).unwrap();
        fs::remove_file(&lock).unwrap();
        until("the lock is made again", || fs::read_to_string(&lock).is_ok_and(|again| again == id));
        tell.send(()).unwrap();
    });
    let machine = machine.refresh(reply);
    machine.run(["token"]).stdout("granted-access-2\n");
    told.recv().unwrap();
    holds_the_renewal(&machine, "granted-refresh-2");
    assert!(!machine.qwen_code_lock().exists());
}

#[test]
fn a_foreign_lock_that_replaces_ours_is_not_removed() {
    let machine = Machine::expired();
    let lock = machine.qwen_code_lock();
    let reply = Reply::tokens("2").meanwhile(move || {
        fs::remove_file(&lock).unwrap();
        let foreign = lock.with_extension("foreign");
        foreign_lock(&foreign, Duration::ZERO, false);
        fs::rename(foreign, &lock).unwrap();
    });
    let machine = machine.refresh(reply);
    machine.run(["token"]).stdout("granted-access-2\n");
    holds_the_renewal(&machine, "granted-refresh-2");
    assert_eq!(fs::read_to_string(machine.qwen_code_lock()).unwrap(), "3b241101-e2bb-4255-8caf-4136c566a962");
}

#[test]
fn a_killed_renewal_leaves_the_file_whole_and_its_lock_is_taken_over_at_once() {
    let machine = Machine::expired().refresh(Reply::silence());
    let before = machine.content();
    let running = machine.spawn(["token"]);
    machine.server.wait_for(Ask::Refresh, 1);
    running.signal(Signal::SIGKILL);
    running.finish().dies_by(Signal::SIGKILL);
    assert_eq!(machine.content(), before);
    assert!(machine.qwen_code_lock().exists(), "the killed process cannot have removed it");
    let machine = machine.refresh(Reply::tokens("2"));
    machine.run(["token"]).stdout("granted-access-2\n");
    holds_the_renewal(&machine, "granted-refresh-2");
    assert_eq!(machine.beside(), [".oauth_creds.qwenauth-lock", "oauth_creds.json"]);
}

#[test]
fn a_signal_during_a_renewal_waits_until_the_new_token_is_saved() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let gate = Gate::default();
        let machine = Machine::expired().refresh(Reply::tokens("2").after(&gate));
        let running = machine.spawn(["token"]);
        machine.server.wait_for(Ask::Refresh, 1);
        running.signal(signal);
        gate.open();
        drop(running.finish().dies_by(signal).any_stdout());
        holds_the_renewal(&machine, "granted-refresh-2");
        assert!(!machine.qwen_code_lock().exists());
    }
}

#[test]
fn a_signal_during_a_renewal_that_fails_ends_it_with_nothing_lost() {
    let gate = Gate::default();
    let machine = Machine::expired().refresh(Reply::html(503).after(&gate));
    let before = machine.content();
    let running = machine.spawn(["token"]);
    machine.server.wait_for(Ask::Refresh, 1);
    running.signal(Signal::SIGTERM);
    gate.open();
    drop(running.finish().dies_by(Signal::SIGTERM).any_stderr());
    assert_eq!(machine.content(), before);
    assert_eq!(machine.beside(), [".oauth_creds.qwenauth-lock", "oauth_creds.json"]);
}

#[test]
fn a_signal_that_was_ignored_stays_ignored_during_a_renewal() {
    let gate = Gate::default();
    // The second try tells a signal that was ignored from one that was noted and ends the tries.
    let machine = Machine::expired().refresh(Reply::html(503).after(&gate)).refresh(Reply::tokens("2"));
    let mut shell = machine.other("sh");
    shell.args(["-c", "trap '' HUP; exec $QWENAUTH token"]);
    let running = machine.start(shell);
    machine.server.wait_for(Ask::Refresh, 1);
    running.signal(Signal::SIGHUP);
    gate.open();
    running.finish().stdout("granted-access-2\n");
}

#[test]
fn a_signal_while_waiting_for_the_lock_ends_the_wait() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let machine = Machine::expired();
        let held = File::create(machine.kernel_lock()).unwrap();
        fs2::FileExt::lock_exclusive(&held).unwrap();
        let running = machine.spawn(["token"]);
        running.wait_until_open(&machine.kernel_lock());
        running.signal(signal);
        running.finish().dies_by(signal);
    }
}

#[test]
fn a_long_wait_for_the_lock_is_reported() {
    let machine = Machine::expired().refresh(Reply::tokens("2"));
    let held = File::create(machine.kernel_lock()).unwrap();
    fs2::FileExt::lock_exclusive(&held).unwrap();
    let running = machine.spawn(["token"]);
    running.wait_for_stderr("waiting for another process");
    fs2::FileExt::unlock(&held).unwrap();
    running.finish().stdout("granted-access-2\n").stderr(WAITING);
}

#[test]
fn a_reader_beside_a_writer_waits_for_it_before_it_reports_damage() {
    let machine = Machine::new().logged_in();
    let whole = machine.content();
    // As a file that cannot be replaced by a rename is while it is written.
    fs::write(machine.file(), &whole[..whole.len() / 2]).unwrap();
    let held = File::create(machine.kernel_lock()).unwrap();
    fs2::FileExt::lock_exclusive(&held).unwrap();
    let running = machine.spawn(["token"]);
    running.wait_until_open(&machine.kernel_lock());
    fs::write(machine.file(), whole).unwrap();
    fs2::FileExt::unlock(&held).unwrap();
    running.finish().stdout("granted-access-1\n");
}

#[test]
fn the_warm_path_waits_for_no_lock() {
    let machine = Machine::new().logged_in();
    let held = File::create(machine.kernel_lock()).unwrap();
    fs2::FileExt::lock_exclusive(&held).unwrap();
    foreign_lock(&machine.qwen_code_lock(), Duration::ZERO, false);
    machine.run(["token"]).stdout("granted-access-1\n");
    assert!(machine.qwen_code_lock().exists());
}

#[test]
fn a_login_takes_the_locks_only_to_store_its_tokens() {
    let machine = crate::login::polls([]).granted();
    fs::create_dir(machine.qwen()).unwrap();
    let held = File::create(machine.kernel_lock()).unwrap();
    fs2::FileExt::lock_exclusive(&held).unwrap();
    let running = machine.spawn(["login"]);
    machine.server.wait_for(Ask::Poll, 1);
    running.wait_until_open(&machine.kernel_lock());
    assert!(!machine.file().exists(), "stored without the lock");
    fs2::FileExt::unlock(&held).unwrap();
    drop(running.finish().exits(0).any_stderr());
    machine.holds_the_grant();
}

#[test]
fn a_login_during_a_renewal_is_not_overwritten_by_it() {
    let gate = Gate::default();
    let machine = crate::login::polls([]).granted().credential_is(credential("old")).expires_in(-60);
    let machine = machine.refresh(Reply::tokens("2").after(&gate));
    let renewal = machine.spawn(["token"]);
    machine.server.wait_for(Ask::Refresh, 1);
    let login = machine.spawn(["login", "--force"]);
    machine.server.wait_for(Ask::Poll, 1);
    login.wait_until_open(&machine.kernel_lock());
    gate.open();
    drop(renewal.finish().stdout("granted-access-2\n").any_stderr());
    drop(login.finish().exits(0).any_stderr());
    machine.holds_the_grant();
}

#[test]
fn a_logout_during_a_renewal_is_not_undone_by_it() {
    let gate = Gate::default();
    let machine = Machine::expired().refresh(Reply::tokens("2").after(&gate));
    let renewal = machine.spawn(["token"]);
    machine.server.wait_for(Ask::Refresh, 1);
    let logout = machine.spawn(["logout"]);
    logout.wait_until_open(&machine.kernel_lock());
    gate.open();
    drop(renewal.finish().stdout("granted-access-2\n").any_stderr());
    drop(logout.finish().any_stderr());
    assert!(!machine.file().exists());
}

#[test]
fn a_logout_takes_both_locks() {
    let machine = Machine::new().logged_in();
    foreign_lock(&machine.qwen_code_lock(), Duration::ZERO, false);
    let running = machine.spawn(["logout"]);
    running.wait_until_open(&machine.kernel_lock());
    running.wait_for_stderr("waiting for Qwen Code");
    assert!(machine.file().exists(), "removed without the lock");
    fs::remove_file(machine.qwen_code_lock()).unwrap();
    drop(running.finish().any_stderr().any_stdout());
    assert!(!machine.file().exists());
}

#[test]
fn a_process_that_starts_after_a_failure_does_not_share_it() {
    let machine = Machine::expired().refresh(Reply::html(200)).refresh(Reply::tokens("2"));
    drop(machine.run(["token"]).exits(3).any_stderr());
    machine.run(["token"]).stdout("granted-access-2\n");
    holds_the_renewal(&machine, "granted-refresh-2");
}

#[test]
fn a_foreign_lock_is_respected_after_a_renewal_of_our_own() {
    let machine = Machine::expired().refresh(Reply::tokens("2"));
    machine.run(["token"]).stdout("granted-access-2\n");
    let machine = machine.expires_in(-60);
    foreign_lock(&machine.qwen_code_lock(), Duration::ZERO, false);
    let running = machine.spawn(["token"]);
    running.wait_for_stderr("waiting for Qwen Code");
    assert_eq!(machine.server.asked(Ask::Refresh).len(), 1);
    qwen_code_saves(&machine);
    fs::remove_file(machine.qwen_code_lock()).unwrap();
    running.finish().stdout("granted-access-qwen-code\n").stderr(QWEN_CODE_HOLDS);
}
