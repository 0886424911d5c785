//! Logins for scripts and agents: a login that waits for approval is kept, completed by another process, and never doubled.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::login::{NEW_CODE, chat, code_shown, device_code, grant, polls};
use crate::sandbox::{Sandbox, mode};
use crate::server::{Ask, Gate, Reply};

const JOINS: &str = "qwenauth: a login is already pending; showing the same code\n";

impl Sandbox {
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
    let sandbox = polls([]);
    let mut outcome = sandbox.run(["login", "--no-wait", "--json"]).exits(0).any_stderr();
    let events = outcome.json_lines();
    assert_eq!((events.len(), &events[0]["event"]), (1, &json!("device_code")));
    assert!(outcome.stderr.ends_with("qwenauth: waiting for approval; finish with `qwenauth login --resume`\n"));
    assert_eq!(mode(&sandbox.pending()), 0o600);
    sandbox.holds_nothing();
    let sandbox = sandbox.granted();
    let events = sandbox.run(["login", "--resume", "--json"]).exits(0).any_stderr().json_lines();
    assert_eq!(events[1]["event"], "logged_in");
    sandbox.holds_the_grant();
    assert!(!sandbox.pending().exists());
    assert_eq!(sandbox.server.asked(Ask::DeviceCode).len(), 1);
}

#[test]
fn a_login_joins_the_one_that_is_pending() {
    let sandbox = polls([]);
    sandbox.run(["login", "--no-wait"]).any_stderr();
    let sandbox = sandbox.granted();
    sandbox
        .run(["login"])
        .exits(0)
        .stderr(&format!("{}qwenauth: logged in to Qwen OAuth, profile `qwen` (active)\n", joined()));
    assert_eq!(sandbox.server.asked(Ask::DeviceCode).len(), 1);
}

#[test]
fn of_two_logins_at_once_one_stores_and_the_other_sees_it() {
    let gate = Gate::default();
    let sandbox = polls([]);
    let reply = grant(&sandbox).after(&gate);
    let sandbox = sandbox.scripted(Ask::Poll, reply);
    let first = sandbox.spawn(["login", "--no-verify"]);
    sandbox.server.wait_for(Ask::Poll, 1);
    let second = sandbox.spawn(["login", "--no-verify"]);
    second.wait_for_stderr("only if you started this login.\n");
    gate.open();
    first.finish().exits(0).any_stderr();
    let done = "qwenauth: another process completed this login\nqwenauth: logged in to Qwen OAuth, not verified, profile `qwen` (active)\n";
    second.finish().exits(0).stderr(&(joined() + done));
    assert_eq!(sandbox.server.asked(Ask::Poll).len(), 1);
    sandbox.holds_the_grant();
}

#[test]
fn a_login_whose_process_was_killed_goes_on_with_the_next() {
    let sandbox = Sandbox::new().scripted(Ask::DeviceCode, device_code(json!({"interval": 1})));
    sandbox.server.always(Ask::Poll, || Reply::error(400, "authorization_pending"));
    let killed = sandbox.spawn(["login"]);
    killed.wait_for_stderr("only if you started this login.\n");
    killed.signal(Signal::SIGKILL);
    drop(killed.finish().dies_by(Signal::SIGKILL).any_stderr());
    let sandbox = sandbox.granted();
    sandbox.run(["login"]).exits(0).any_stderr();
    sandbox.holds_the_grant();
    assert_eq!(sandbox.server.asked(Ask::DeviceCode).len(), 1);
}

#[test]
fn without_a_pending_login_there_is_nothing_to_resume() {
    Sandbox::new().run(["login", "--resume"]).fails(4, "no login of `qwen` is pending", "run `qwenauth login`");
}

#[test]
fn an_expired_pending_login_is_none() {
    let sandbox = polls([]);
    sandbox.run(["login", "--no-wait"]).any_stderr();
    let mut notes: serde_json::Value = serde_json::from_slice(&std::fs::read(sandbox.pending()).unwrap()).unwrap();
    notes["expires_at"] = json!(1_000_000_000);
    crate::sandbox::write_private(&sandbox.pending(), notes.to_string());
    sandbox.run(["login", "--resume"]).fails(4, "no login of `qwen` is pending", "run `qwenauth login`");
    let sandbox = sandbox.scripted(Ask::DeviceCode, device_code(json!({}))).granted();
    sandbox.run(["login"]).logs_in();
}

#[test]
fn a_damaged_pending_login_is_none() {
    let sandbox = polls([]);
    crate::sandbox::write_private(&sandbox.pending(), "{");
    let sandbox = sandbox.granted();
    sandbox.run(["login"]).logs_in();
}

#[test]
fn a_denied_login_is_not_pending_any_more() {
    let sandbox = polls([Reply::error(400, "access_denied")]);
    sandbox.run(["login"]).exits(4).any_stderr();
    assert!(!sandbox.pending().exists());
}

#[test]
fn a_resumed_login_stays_pending_when_its_own_time_is_over() {
    let sandbox = polls([]);
    sandbox.run(["login", "--no-wait"]).any_stderr();
    let outcome = sandbox.run(["login", "--resume", "--timeout", "0"]).exits(4).any_stderr();
    let end = format!("qwenauth: error: the login was not approved in time\nqwenauth: hint: {NEW_CODE}\n");
    assert!(outcome.stderr.ends_with(&end), "{outcome}");
    assert!(sandbox.pending().exists());
    let sandbox = sandbox.granted();
    sandbox.run(["login", "--resume"]).exits(0).any_stderr();
}

const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// A login whose server keeps silent when it is polled.
fn silent_polls() -> Sandbox {
    polls([Reply::silence()])
}

#[test]
fn a_signal_while_a_poll_is_under_way_ends_the_login_and_forgets_it() {
    for signal in SIGNALS {
        let sandbox = silent_polls();
        let running = sandbox.spawn(["login"]);
        sandbox.server.wait_for(Ask::Poll, 1);
        assert!(sandbox.pending().exists());
        let began = std::time::Instant::now();
        running.signal(signal);
        drop(running.finish().dies_by(signal).stderr(&code_shown()));
        // A poll may take 20 s.
        assert!(began.elapsed().as_secs() < 15, "{:?}", began.elapsed());
        assert!(!sandbox.pending().exists(), "{signal}");
        sandbox.holds_nothing();
    }
}

#[test]
fn a_signal_while_a_code_is_asked_for_ends_the_login_and_keeps_nothing() {
    for signal in SIGNALS {
        let sandbox = Sandbox::new().scripted(Ask::DeviceCode, Reply::silence());
        let running = sandbox.spawn(["login"]);
        sandbox.server.wait_for(Ask::DeviceCode, 1);
        running.signal(signal);
        drop(running.finish().dies_by(signal).any_stderr());
        assert!(!sandbox.pending().exists(), "{signal}");
    }
}

#[test]
fn a_resumed_login_that_is_interrupted_can_be_resumed_again() {
    for signal in SIGNALS {
        let sandbox = silent_polls();
        sandbox.run(["login", "--no-wait"]).any_stderr();
        let running = sandbox.spawn(["login", "--resume"]);
        sandbox.server.wait_for(Ask::Poll, 1);
        let began = std::time::Instant::now();
        running.signal(signal);
        drop(running.finish().dies_by(signal).stderr(&joined()));
        assert!(began.elapsed().as_secs() < 15, "{:?}", began.elapsed());
        assert!(sandbox.pending().exists(), "{signal}");
        let sandbox = sandbox.granted();
        sandbox.run(["login", "--resume"]).exits(0).any_stderr();
        sandbox.holds_the_grant();
    }
}

/// The code is spent by then: to drop its tokens would cost the login.
#[test]
fn tokens_that_were_on_their_way_when_a_signal_came_are_stored() {
    for signal in SIGNALS {
        let sandbox = polls([]);
        sandbox.run(["login", "--no-wait"]).any_stderr();
        let (sent, signalled) = std::sync::mpsc::channel::<()>();
        let reply = grant(&sandbox).meanwhile(move || {
            signalled.recv().unwrap();
            // The program has seen the signal by then, and nobody outside can see that it has.
            std::thread::sleep(std::time::Duration::from_millis(250));
        });
        let sandbox = sandbox.scripted(Ask::Poll, reply);
        let running = sandbox.spawn(["login", "--resume"]);
        sandbox.server.wait_for(Ask::Poll, 1);
        running.signal(signal);
        sent.send(()).unwrap();
        drop(running.finish().dies_by(signal).stderr(&joined()));
        sandbox.holds_the_grant();
        assert!(!sandbox.pending().exists());
    }
}

#[test]
fn whoever_joined_goes_on_when_the_one_who_began_is_interrupted_or_killed() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGKILL] {
        let sandbox = silent_polls();
        let first = sandbox.spawn(["login"]);
        sandbox.server.wait_for(Ask::Poll, 1);
        let second = sandbox.spawn(["login"]);
        second.wait_for_stderr("only if you started this login.\n");
        let reply = grant(&sandbox);
        let sandbox = sandbox.scripted(Ask::Poll, reply).scripted(Ask::Chat, chat());
        first.signal(signal);
        drop(first.finish().dies_by(signal).any_stderr());
        second.finish().exits(0).stderr(&(joined() + "qwenauth: logged in to Qwen OAuth, profile `qwen` (active)\n"));
        sandbox.holds_the_grant();
        assert!(!sandbox.pending().exists());
        assert_eq!(sandbox.server.asked(Ask::DeviceCode).len(), 1);
    }
}

#[test]
fn an_ignored_hangup_does_not_end_a_login() {
    let gate = Gate::default();
    let sandbox = polls([]);
    let reply = grant(&sandbox).after(&gate);
    let sandbox = sandbox.scripted(Ask::Poll, reply);
    let mut shell = sandbox.other("sh");
    shell.args(["-c", "trap '' HUP; exec $QWENAUTH login --no-verify"]);
    let running = sandbox.start(shell);
    sandbox.server.wait_for(Ask::Poll, 1);
    running.signal(Signal::SIGHUP);
    gate.open();
    drop(running.finish().exits(0).any_stderr());
    sandbox.holds_the_grant();
}

/// Its device code belongs to the server it came from.
#[test]
fn a_pending_login_at_another_server_is_not_joined() {
    let sandbox = polls([]);
    sandbox.run(["login", "--no-wait"]).any_stderr();
    let other = polls([]);
    let reply = grant(&sandbox);
    let other = other.scripted(Ask::Poll, reply);
    let sandbox = sandbox.variable("QWENAUTH_QWEN_OAUTH_URL", other.server.url());
    sandbox.run(["login", "--no-verify"]).exits(0).any_stderr();
    assert_eq!(other.server.asked(Ask::DeviceCode).len(), 1);
}

#[test]
fn whoever_waits_for_another_to_poll_ends_by_a_signal_and_harms_nothing() {
    let gate = Gate::default();
    let sandbox = polls([]);
    let reply = grant(&sandbox).after(&gate);
    let sandbox = sandbox.scripted(Ask::Poll, reply);
    let first = sandbox.spawn(["login", "--no-verify"]);
    sandbox.server.wait_for(Ask::Poll, 1);
    for signal in SIGNALS {
        let second = sandbox.spawn(["login"]);
        second.wait_for_stderr("only if you started this login.\n");
        second.signal(signal);
        drop(second.finish().dies_by(signal).stderr(&joined()));
        assert!(sandbox.pending().exists(), "{signal}");
    }
    gate.open();
    drop(first.finish().exits(0).any_stderr());
    sandbox.holds_the_grant();
}
