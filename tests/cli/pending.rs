//! Logins for scripts and agents: a login that waits for approval is kept, completed by another process, and never doubled.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::json_fields::assert_listed;
use crate::login::{NEW_CODE, chat, code_shown, device_code, grant, polls};
use crate::machine::{Machine, mode, until};
use crate::server::{Ask, Gate, Reply};

const JOINS: &str = "qwenauth: a login is already pending; showing the same code\n";

impl Machine {
    fn pending(&self) -> std::path::PathBuf {
        self.home().join(".local/state/qwenauth/pending/qwen.json")
    }
}

/// What a login says that joins: the code, not the word on the free tier.
fn joined() -> String {
    JOINS.to_owned() + code_shown().split_once('\n').unwrap().1
}

#[test]
fn a_login_that_does_not_wait_is_completed_by_another() {
    let machine = polls([]);
    let mut outcome = machine.run(["login", "--no-wait", "--json"]).exits(0).any_stderr();
    let events = outcome.json_lines();
    assert_eq!((events.len(), &events[0]["event"]), (1, &json!("device_code")));
    assert_listed("login --json", "device_code", &events[0]);
    assert!(outcome.stderr.ends_with("qwenauth: waiting for approval; finish with `qwenauth login --resume`\n"));
    assert_eq!(mode(&machine.pending()), 0o600);
    machine.holds_nothing();
    let machine = machine.granted();
    let events = machine.run(["login", "--resume", "--json"]).exits(0).any_stderr().json_lines();
    assert_eq!(events[1]["event"], "logged_in");
    machine.holds_the_grant();
    assert!(!machine.pending().exists());
    assert_eq!(machine.server.asked(Ask::DeviceCode).len(), 1);
}

#[test]
fn the_line_that_completes_a_login_names_its_profile_and_what_it_stores() {
    let machine = polls([]);
    let outcome =
        machine.run(["login", "qwen", "--profile", "work", "--model", "m", "--no-verify", "--no-wait"]).any_stderr();
    let line = outcome.stderr.lines().last().unwrap().split('`').nth(1).unwrap();
    assert_eq!(line, "qwenauth login qwen --profile work --model m --no-verify --resume");
    let reply = grant(&machine);
    let machine = machine.scripted(Ask::Poll, reply);
    machine.shell(&line.replace("qwenauth ", "$QWENAUTH ")).exits(0).any_stderr();
    assert_eq!(machine.profile("work")["model"], "m");
}

#[test]
fn a_login_joins_the_one_that_is_pending() {
    let machine = polls([]);
    machine.run(["login", "--no-wait"]).any_stderr();
    let machine = machine.granted();
    machine
        .run(["login"])
        .exits(0)
        .stderr(&format!("{}qwenauth: logged in to Qwen OAuth, profile `qwen` (active)\n", joined()));
    assert_eq!(machine.server.asked(Ask::DeviceCode).len(), 1);
}

#[test]
fn of_two_logins_at_once_one_stores_and_the_other_sees_it() {
    let gate = Gate::default();
    let machine = polls([]);
    let reply = grant(&machine).after(&gate);
    let machine = machine.scripted(Ask::Poll, reply);
    let first = machine.spawn(["login", "--no-verify"]);
    machine.server.wait_for(Ask::Poll, 1);
    let second = machine.spawn(["login", "--no-verify"]);
    second.wait_for_stderr("only if you started this login.\n");
    gate.open();
    first.finish().exits(0).any_stderr();
    let done = "qwenauth: another process completed this login\nqwenauth: logged in to Qwen OAuth, not verified, profile `qwen` (active)\n";
    second.finish().exits(0).stderr(&(joined() + done));
    assert_eq!(machine.server.asked(Ask::Poll).len(), 1);
    machine.holds_the_grant();
}

#[test]
fn a_login_whose_process_was_killed_continues_with_the_next_command() {
    let machine = Machine::new().scripted(Ask::DeviceCode, device_code(json!({"interval": 1})));
    machine.server.always(Ask::Poll, || Reply::error(400, "authorization_pending"));
    let killed = machine.spawn(["login"]);
    killed.wait_for_stderr("only if you started this login.\n");
    killed.signal(Signal::SIGKILL);
    drop(killed.finish().dies_by(Signal::SIGKILL).any_stderr());
    let machine = machine.granted();
    machine.run(["login"]).exits(0).any_stderr();
    machine.holds_the_grant();
    assert_eq!(machine.server.asked(Ask::DeviceCode).len(), 1);
}

#[test]
fn without_a_pending_login_there_is_nothing_to_resume() {
    Machine::new().run(["login", "--resume"]).fails(4, "no login of `qwen` is pending", "run `qwenauth login`");
}

#[test]
fn an_expired_pending_login_is_ignored() {
    let machine = polls([]);
    machine.run(["login", "--no-wait"]).any_stderr();
    let mut notes: serde_json::Value = serde_json::from_slice(&std::fs::read(machine.pending()).unwrap()).unwrap();
    notes["expires_at"] = json!(1_000_000_000);
    crate::machine::write_private(&machine.pending(), notes.to_string());
    machine.run(["login", "--resume"]).fails(4, "no login of `qwen` is pending", "run `qwenauth login`");
    let machine = machine.scripted(Ask::DeviceCode, device_code(json!({}))).granted();
    machine.run(["login"]).logs_in();
}

#[test]
fn a_damaged_pending_login_is_ignored() {
    let machine = polls([]);
    crate::machine::write_private(&machine.pending(), "{");
    let machine = machine.granted();
    machine.run(["login"]).logs_in();
}

#[test]
fn a_denied_login_is_not_pending_any_more() {
    let machine = polls([Reply::error(400, "access_denied")]);
    machine.run(["login"]).exits(4).any_stderr();
    assert!(!machine.pending().exists());
}

#[test]
fn a_resumed_login_stays_pending_when_its_own_time_is_over() {
    let machine = polls([]);
    machine.run(["login", "--no-wait"]).any_stderr();
    let outcome = machine.run(["login", "--resume", "--timeout", "0"]).exits(4).any_stderr();
    let end = format!("qwenauth: error: the login was not approved in time\nqwenauth: hint: {NEW_CODE}\n");
    assert!(outcome.stderr.ends_with(&end), "{outcome}");
    assert!(machine.pending().exists());
    let machine = machine.granted();
    machine.run(["login", "--resume"]).exits(0).any_stderr();
}

const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// A login whose server keeps silent when it is polled.
fn silent_polls() -> Machine {
    polls([Reply::silence()])
}

#[test]
fn a_signal_during_a_poll_ends_the_login_and_removes_it() {
    for signal in SIGNALS {
        let machine = silent_polls();
        let running = machine.spawn(["login"]);
        machine.server.wait_for(Ask::Poll, 1);
        assert!(machine.pending().exists());
        let began = std::time::Instant::now();
        running.signal(signal);
        drop(running.finish().dies_by(signal).stderr(&code_shown()));
        // A poll may take 20 s.
        assert!(began.elapsed().as_secs() < 15, "{:?}", began.elapsed());
        assert!(!machine.pending().exists(), "{signal}");
        machine.holds_nothing();
    }
}

#[test]
fn a_signal_during_the_device_request_ends_the_login_and_stores_nothing() {
    for signal in SIGNALS {
        let machine = Machine::new().scripted(Ask::DeviceCode, Reply::silence());
        let running = machine.spawn(["login"]);
        machine.server.wait_for(Ask::DeviceCode, 1);
        running.signal(signal);
        drop(running.finish().dies_by(signal).any_stderr());
        assert!(!machine.pending().exists(), "{signal}");
    }
}

#[test]
fn a_resumed_login_that_is_interrupted_can_be_resumed_again() {
    for signal in SIGNALS {
        let machine = silent_polls();
        machine.run(["login", "--no-wait"]).any_stderr();
        let running = machine.spawn(["login", "--resume"]);
        machine.server.wait_for(Ask::Poll, 1);
        let began = std::time::Instant::now();
        running.signal(signal);
        drop(running.finish().dies_by(signal).stderr(&joined()));
        assert!(began.elapsed().as_secs() < 15, "{:?}", began.elapsed());
        assert!(machine.pending().exists(), "{signal}");
        let machine = machine.granted();
        machine.run(["login", "--resume"]).exits(0).any_stderr();
        machine.holds_the_grant();
    }
}

/// Whether a signal was sent to this process and has not reached it.
fn is_pending(process: u32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
    u64::from_str_radix(pending.trim(), 16).unwrap() >> (signal as i32 - 1) & 1 == 1
}

/// The code is spent by then: to drop its tokens would cost the login.
#[test]
fn tokens_in_flight_when_a_signal_arrives_are_stored() {
    for signal in SIGNALS {
        let machine = polls([]);
        machine.run(["login", "--no-wait"]).any_stderr();
        let (sent, signalled) = std::sync::mpsc::channel();
        let reply = grant(&machine).meanwhile(move || {
            let process = signalled.recv().unwrap();
            until("the program has seen the signal", || !is_pending(process, signal));
        });
        let machine = machine.scripted(Ask::Poll, reply);
        let running = machine.spawn(["login", "--resume"]);
        machine.server.wait_for(Ask::Poll, 1);
        running.signal(signal);
        sent.send(running.id()).unwrap();
        drop(running.finish().dies_by(signal).stderr(&joined()));
        machine.holds_the_grant();
        assert!(!machine.pending().exists());
    }
}

#[test]
fn a_joined_login_continues_when_the_process_that_began_it_is_interrupted_or_killed() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGKILL] {
        let machine = silent_polls();
        let first = machine.spawn(["login"]);
        machine.server.wait_for(Ask::Poll, 1);
        let second = machine.spawn(["login"]);
        second.wait_for_stderr("only if you started this login.\n");
        let reply = grant(&machine);
        let machine = machine.scripted(Ask::Poll, reply).scripted(Ask::Chat, chat());
        first.signal(signal);
        drop(first.finish().dies_by(signal).any_stderr());
        second.finish().exits(0).stderr(&(joined() + "qwenauth: logged in to Qwen OAuth, profile `qwen` (active)\n"));
        machine.holds_the_grant();
        assert!(!machine.pending().exists());
        assert_eq!(machine.server.asked(Ask::DeviceCode).len(), 1);
    }
}

#[test]
fn an_ignored_hangup_does_not_end_a_login() {
    let gate = Gate::default();
    let machine = polls([]);
    let reply = grant(&machine).after(&gate);
    let machine = machine.scripted(Ask::Poll, reply);
    let mut shell = machine.other("sh");
    shell.args(["-c", "trap '' HUP; exec $QWENAUTH login --no-verify"]);
    let running = machine.start(shell);
    machine.server.wait_for(Ask::Poll, 1);
    running.signal(Signal::SIGHUP);
    gate.open();
    drop(running.finish().exits(0).any_stderr());
    machine.holds_the_grant();
}

/// Its device code belongs to the server it came from.
#[test]
fn a_pending_login_at_another_server_is_not_joined() {
    let machine = polls([]);
    machine.run(["login", "--no-wait"]).any_stderr();
    let other = polls([]);
    let reply = grant(&machine);
    let other = other.scripted(Ask::Poll, reply);
    let machine = machine.variable("QWENAUTH_QWEN_OAUTH_URL", other.server.url());
    machine.run(["login", "--no-verify"]).exits(0).any_stderr();
    assert_eq!(other.server.asked(Ask::DeviceCode).len(), 1);
}

#[test]
fn a_process_that_waits_for_another_to_poll_ends_by_a_signal_and_changes_nothing() {
    let gate = Gate::default();
    let machine = polls([]);
    let reply = grant(&machine).after(&gate);
    let machine = machine.scripted(Ask::Poll, reply);
    let first = machine.spawn(["login", "--no-verify"]);
    machine.server.wait_for(Ask::Poll, 1);
    for signal in SIGNALS {
        let second = machine.spawn(["login"]);
        second.wait_for_stderr("only if you started this login.\n");
        second.signal(signal);
        drop(second.finish().dies_by(signal).stderr(&joined()));
        assert!(machine.pending().exists(), "{signal}");
    }
    gate.open();
    drop(first.finish().exits(0).any_stderr());
    machine.holds_the_grant();
}
