//! What `[hooks]` of config.toml runs: once for all processes, with its event and no secret, for ten seconds at most.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::upstream::{Gateway, Upstream, error, fine, logged_in};
use crate::faults::preloaded;
use crate::json_fields::assert_listed;
use crate::machine::{Machine, until};
use crate::server::{Ask, Reply};

/// A login whose hooks of these names add a line each to a file: how many of their variables hold a secret, and the event.
fn hooked(machine: Machine, names: &[&str]) -> (Machine, PathBuf) {
    let seen = machine.directory().join("seen");
    let hook = |name: &&str| {
        // One write for each: they run at the same time.
        let write = r#"event=$(cat); printf '%s %s\n' $(env | grep -c gr[a]nted-) "$event" >> "#;
        let script = format!("{write}'{}'", seen.display());
        format!("{name} = [\"sh\", \"-c\", {script:?}]\n")
    };
    let hooks: String = names.iter().map(hook).collect();
    let machine = machine.configured(&format!("[hooks]\n{hooks}"));
    (machine.variable("KEPT_BY_THE_USER", "granted-access-1"), seen)
}

fn lines_of(seen: &Path) -> Vec<String> {
    fs::read_to_string(seen).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Ends the gateways, which wait for their hooks, and returns the one event that was seen.
#[track_caller]
fn only_event(gateways: Vec<Gateway>, seen: &Path) -> Value {
    until("a hook has run", || !lines_of(seen).is_empty());
    for gateway in gateways {
        gateway.running.signal(Signal::SIGTERM);
        drop(gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout().any_stderr());
    }
    let lines = lines_of(seen);
    let [line] = &lines[..] else { panic!("{lines:#?}") };
    let event: Value = serde_json::from_str(line.strip_prefix("0 ").expect("no secret")).unwrap();
    assert_eq!(event["schema"], 1);
    assert!(event["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{event}");
    assert_listed("hooks", event["event"].as_str().unwrap(), &event);
    event
}

/// Serves the first token until it is told not to.
fn serves_until(is_over: &Arc<AtomicBool>) -> Upstream {
    let is_over = is_over.clone();
    Upstream::start(move |_, asked, connection| {
        let is_old = asked.header("authorization") == "Bearer granted-access-1";
        let refused = error("401 Unauthorized", "", "invalid_api_key", "invalid access token or token expired");
        connection.write_all(&if is_old && is_over.load(Ordering::SeqCst) { refused } else { fine() })
    })
}

#[test]
fn a_renewal_runs_its_hook_once_for_all_gateways() {
    let is_over = Arc::new(AtomicBool::new(false));
    let upstream = serves_until(&is_over);
    let (machine, seen) = hooked(logged_in(&upstream).refresh(Reply::tokens("2")), &["renewed", "login_required"]);
    let gateways: Vec<Gateway> = (0..3).map(|_| Gateway::start(&machine, &[])).collect();
    for gateway in &gateways {
        gateway.chat().is(200);
    }
    is_over.store(true, Ordering::SeqCst);
    for gateway in gateways.iter().chain(&gateways) {
        gateway.chat().is(200);
    }
    assert_eq!(machine.server.asked(Ask::Refresh).len(), 1);
    let event = only_event(gateways, &seen);
    assert_eq!(
        (&event["event"], &event["profile"], &event["provider"]),
        (&"renewed".into(), &"qwen".into(), &"qwen".into())
    );
    let expires_at = event["expires_at"].as_str().unwrap();
    assert!(expires_at > event["time"].as_str().unwrap(), "{event}");
}

#[test]
fn an_expired_login_runs_its_hook_once_for_all_gateways() {
    let is_over = Arc::new(AtomicBool::new(false));
    let upstream = serves_until(&is_over);
    let (machine, seen) = hooked(logged_in(&upstream), &["renewed", "login_required"]);
    let gateways: Vec<Gateway> = (0..3).map(|_| Gateway::start(&machine, &[])).collect();
    for gateway in &gateways {
        gateway.chat().is(200);
    }
    drop(machine.run(["logout", "--local"]).any_stderr());
    for gateway in gateways.iter().chain(&gateways) {
        gateway.chat().is(503);
    }
    let event = only_event(gateways, &seen);
    assert_eq!((&event["event"], &event["profile"]), (&"login_required".into(), &"qwen".into()));
    assert_eq!(event["message"], "not logged in: there is no credential for `qwen`");
}

/// A login after that, and its end, are news again.
#[test]
fn each_expired_login_runs_its_hook() {
    let upstream = Upstream::always(fine());
    let (machine, seen) = hooked(logged_in(&upstream), &["login_required"]);
    let gateway = Gateway::start(&machine, &[]);
    let before = machine.content();
    for count in 1..=2 {
        gateway.chat().is(200);
        drop(machine.run(["logout", "--local"]).any_stderr());
        gateway.chat().is(503);
        until("the hook has run", || lines_of(&seen).len() == count);
        machine.file_written(before.replace("granted-access-1", &format!("granted-access-{}", count + 1)));
    }
}

#[test]
fn a_renewal_that_may_succeed_later_runs_no_hook_of_an_expired_login() {
    let upstream = Upstream::always(fine());
    let (machine, seen) = hooked(logged_in(&upstream), &["login_required"]);
    let gateway = Gateway::start(&machine, &[]);
    gateway.chat().is(200);
    let machine = machine.expires_in(-60);
    machine.server.always(Ask::Refresh, || Reply::html(503));
    gateway.chat().is(503);
    drop(machine.run(["logout", "--local"]).any_stderr());
    gateway.chat().is(503);
    let event = only_event(vec![gateway], &seen);
    assert_eq!(event["message"], "not logged in: there is no credential for `qwen`");
}

/// Whether a process runs; one that has ended may wait for its parent to notice.
fn runs(process: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[test]
fn a_hook_that_hangs_is_killed_after_ten_seconds_with_its_children() {
    let upstream = Upstream::always(error(
        "429 Too Many Requests",
        "",
        "Throttling.AllocationQuota",
        "month allocated quota exceeded",
    ));
    let machine = logged_in(&upstream);
    let (jumped, started) = (machine.directory().join("jumped"), machine.directory().join("started"));
    let script = format!("sleep 1000 & printf '%s %s\\n' $$ $! > '{}'; wait", started.display());
    let machine = machine.configured(&format!("[hooks]\nlimit_reached = [\"sh\", \"-c\", {script:?}]\n"));
    let Some(machine) = preloaded(machine, "JUMP", &format!("{}:1:10", jumped.display())) else { return };
    let machine = machine.variable("QWENAUTH_LOG", "warn");
    let gateway = Gateway::start(&machine, &[]);
    gateway.chat().is(429);
    until("the hook has begun", || lines_of(&started).len() == 1);
    let processes: Vec<String> = lines_of(&started)[0].split(' ').map(str::to_owned).collect();
    assert!(processes.len() == 2 && processes.iter().all(|process| runs(process)), "{processes:?}");
    // Meanwhile it holds up nobody.
    gateway.chat().is(429);
    File::create(jumped).unwrap();
    gateway.running.wait_for_stderr("the hook `limit_reached` failed: it was stopped after 10 s");
    until("all of it has ended", || !processes.iter().any(|process| runs(process)));
    gateway.chat().is(429);
}

#[test]
fn a_hook_whose_program_is_missing_is_reported() {
    let upstream =
        Upstream::always(error("429 Too Many Requests", "", "Throttling.AllocationQuota", "month allocated"));
    let machine = logged_in(&upstream).configured("[hooks]\nlimit_reached = [\"no-such-program\"]\n");
    let gateway = Gateway::start(&machine, &[]);
    gateway.chat().is(429);
    gateway.running.wait_for_stderr("qwenauth: warning: the hook `limit_reached` failed: ");
}

/// A gateway that ends waits for its hooks, and ends one that hangs.
#[test]
fn a_hook_that_hangs_does_not_outlive_its_gateway() {
    let upstream = Upstream::always(error(
        "429 Too Many Requests",
        "",
        "Throttling.AllocationQuota",
        "month allocated quota exceeded",
    ));
    let machine = logged_in(&upstream);
    let started = machine.directory().join("started");
    let script = format!("sleep 1000 & printf '%s %s\\n' $$ $! > '{}'; wait", started.display());
    let machine = machine.configured(&format!("[hooks]\nlimit_reached = [\"sh\", \"-c\", {script:?}]\n"));
    let gateway = Gateway::start(&machine, &[]);
    gateway.chat().is(429);
    until("the hook has begun", || lines_of(&started).len() == 1);
    let processes: Vec<String> = lines_of(&started)[0].split(' ').map(str::to_owned).collect();
    gateway.running.signal(Signal::SIGTERM);
    drop(gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout().any_stderr());
    until("all of it has ended", || !processes.iter().any(|process| runs(process)));
}
