//! Limits, shared by all processes and shown on the log of the server, at a twentieth of their length.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::upstream::{Asked, CHAT, Gateway, Upstream, configured, error, fine, logged_in, logged_in_at};
use crate::machine::{Machine, has_programs, keeps_the_limit};

/// A window of 3 s instead of a minute.
const SCALED: &str = "[providers.qwen.limits]\nwindow = \"3s\"\nrequests_per_day = 1000\n";

/// A limit that warns and does not refuse.
const OF_THE_DAY: &str = "[providers.qwen.limits]\nrequests_per_day = 1000\n";

fn scaled(upstream: &Upstream) -> Machine {
    configured(logged_in(upstream), SCALED)
}

/// 60 requests in 3 s.
#[track_caller]
fn keeps_the_scaled_limit(asked: &[Asked], start: Instant) {
    keeps_the_limit(asked.iter().map(|asked| asked.at), start, 60, Duration::from_secs(3));
}

#[test]
fn a_burst_within_the_limit_is_not_delayed_and_further_requests_wait_for_the_next_window() {
    let upstream = Upstream::always(fine());
    let machine = scaled(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    let start = Instant::now();
    let got = gateway.many(90);
    assert_eq!(got.iter().filter(|got| got.is(200).header("x-qwenauth-wait-ms") == "0").count(), 60);
    let asked = upstream.asked();
    keeps_the_scaled_limit(&asked, start);
}

#[test]
fn a_limit_holds_across_processes_although_one_is_killed() {
    if !has_programs(&["curl"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let machine = scaled(&upstream);
    let gateways: Vec<Gateway> = (0..2).map(|_| Gateway::start(&machine, &[])).collect();
    let script = r#"for i in 1 2 3 4 5 6 7 8 9 10; do
        curl -sf -o /dev/null -H "Authorization: Bearer $OPENAI_API_KEY" $OPENAI_BASE_URL/models || exit 9; done"#;
    let start = Instant::now();
    let exec = machine.spawn(["exec", "--gateway", "--", "sh", "-c", script]);
    gateways[0].many(40);
    gateways[0].running.signal(Signal::SIGKILL);
    for got in gateways[1].many(40) {
        got.is(200);
    }
    drop(exec.finish().any_stderr());
    let asked = upstream.asked();
    assert_eq!(asked.len(), 90);
    keeps_the_scaled_limit(&asked, start);
}

#[test]
fn twenty_busy_processes_keep_the_limit_and_count_every_request() {
    let upstream = Upstream::always(fine());
    let machine = scaled(&upstream);
    let gateways: Vec<Gateway> = (0..20).map(|_| Gateway::start(&machine, &[])).collect();
    let start = Instant::now();
    thread::scope(|scope| {
        for gateway in &gateways {
            scope.spawn(|| gateway.many(6).iter().for_each(|got| assert_eq!(got.status, 200)));
        }
    });
    let asked = upstream.asked();
    assert_eq!(asked.len(), 120);
    keeps_the_scaled_limit(&asked, start);
    for gateway in gateways {
        gateway.running.signal(Signal::SIGTERM);
        drop(gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout().any_stderr());
    }
    let mut usage = machine.run(["usage", "--json"]);
    let usage = usage.json();
    assert_eq!(usage["usage"][0]["requests"], 120);
    assert_eq!(usage["limits"][1]["used"], 120);
}

#[test]
fn a_client_that_disconnects_in_the_queue_releases_its_slot() {
    let upstream = Upstream::always(fine());
    let machine = configured(logged_in(&upstream), OF_THE_DAY);
    let gateway = Gateway::start(&machine, &["--rpm", "2"]);
    gateway.many(2);
    let waiting: Vec<_> = (0..10).map(|_| gateway.send("POST /v1/chat/completions", "", CHAT)).collect();
    // Each waits a minute or more: once the gateway says so, they are in the queue.
    gateway.running.wait_for_stderr("request delayed");
    drop(waiting);
    let used = || {
        let mut usage = machine.run(["usage", "--json"]);
        usage.json()["limits"][1]["used"].clone()
    };
    crate::machine::until("the turns are given back", || used() == 2);
    assert_eq!(upstream.asked().len(), 2);
    gateway.running.signal(Signal::SIGTERM);
    let ended = gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout().any_stderr();
    // Said once for all that wait.
    let said: Vec<&str> = ended.stderr.lines().filter(|line| line.contains("request delayed")).collect();
    assert!(said.len() == 1 && said[0].ends_with(": `qwen` allows 2 a minute"), "{said:?}");
}

#[test]
fn no_pacing_counts_and_does_not_wait() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &["--rpm", "5", "--no-pacing"]);
    for got in gateway.many(20) {
        assert_eq!(got.is(200).header("x-qwenauth-wait-ms"), "0");
    }
}

#[test]
fn the_users_daily_limit_is_enforced_across_processes() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    for number in 0..3 {
        let gateway = Gateway::start(&machine, &["--rpd", "2"]);
        let got = gateway.chat();
        if number < 2 {
            got.is(200);
            continue;
        }
        assert_eq!((got.is(429).code().as_str(), got.header("x-should-retry")), ("daily_limit_reached", "false"));
        let wait: u64 = got.header("retry-after").parse().unwrap();
        assert!(wait <= 24 * 3600, "{wait}");
    }
    assert_eq!(upstream.asked().len(), 2);
}

/// The user's own figures for a plan, one after the other: in each the third request of three gateways is refused.
#[test]
fn the_users_plan_quotas_are_enforced_across_processes_and_shown() {
    for (key, name, hours) in [
        ("requests_per_5h", "quota of 5 hours", 6),
        ("requests_per_week", "quota of the week", 24 * 8),
        ("requests_per_month", "quota of the month", 24 * 33),
    ] {
        let upstream = Upstream::always(fine());
        let machine = configured(logged_in(&upstream), &format!("[providers.qwen.limits]\n{key} = 2\n"));
        for number in 0..3 {
            let gateway = Gateway::start(&machine, &[]);
            let got = gateway.chat();
            if number < 2 {
                got.is(200);
                continue;
            }
            assert_eq!((got.is(429).code().as_str(), got.header("x-should-retry")), ("insufficient_quota", "false"));
            let message = got.json()["error"]["message"].as_str().unwrap().to_owned();
            assert!(
                message.starts_with(&format!("your {name} is used up (profile `qwen`); it resets in ")),
                "{message}"
            );
            let wait: u64 = got.header("retry-after").parse().unwrap();
            assert!(wait > (hours - hours / 4) * 3600 / 2 && wait <= hours * 3600, "{key}: {wait}");
            // Without pacing requests are counted and not refused.
            Gateway::start(&machine, &["--no-pacing"]).chat().is(200);
        }
        assert_eq!(upstream.asked().len(), 3, "{key}");
        let mut usage = machine.run(["usage", "--json"]);
        let usage = usage.json();
        let limits = usage["limits"].as_array().unwrap();
        let quota = limits.iter().find(|limit| limit["name"] == name).unwrap_or_else(|| panic!("{key}: {limits:?}"));
        assert_eq!(
            (&quota["limit"], &quota["used"], &quota["remaining"], &quota["reached"], &quota["source"]),
            (&2.into(), &3.into(), &0.into(), &true.into(), &"counted".into()),
        );
        assert!(quota["resets_at"].is_string(), "{quota}");
        let machine = configured(machine, &format!("[providers.qwen.limits]\n{key} = 4\n"));
        Gateway::start(&machine, &[]).chat().is(200);
    }
}

/// What the provider refuses or never got is counted once for each attempt; a client that leaves while it waits, not at all.
#[test]
fn a_request_that_is_not_sent_does_not_count_against_a_quota() {
    let upstream = Upstream::always(fine());
    let config = "[providers.qwen.limits]\nrequests_per_5h = 9\nrequests_per_minute = 1\nburst = 1\n";
    let machine = configured(logged_in(&upstream), config);
    let gateway = Gateway::start(&machine, &[]);
    gateway.chat().is(200);
    let used = || {
        let mut usage = machine.run(["usage", "--json"]);
        let limits = usage.json()["limits"].as_array().unwrap().clone();
        limits.iter().find(|limit| limit["name"] == "quota of 5 hours").unwrap()["used"].clone()
    };
    let waiting = gateway.send("POST /v1/chat/completions", "", CHAT);
    crate::machine::until("it waits and has its place", || used() == 2);
    drop(waiting);
    crate::machine::until("the place is given back", || used() == 1);
}

/// Nothing listens there.
#[test]
fn an_attempt_that_finds_no_provider_counts_against_no_limit() {
    let config = "[providers.qwen.limits]\nrequests_per_5h = 9\nrequests_per_day = 9\nrequests_per_minute = 9\n";
    let machine = configured(logged_in_at("127.0.0.1:1"), config);
    let gateway = Gateway::start(&machine, &[]);
    assert_eq!(gateway.chat().is(502).header("x-qwenauth-attempts"), "3");
    let mut usage = machine.run(["usage", "--json"]);
    let limits = usage.json()["limits"].as_array().unwrap().clone();
    let used: Vec<_> = limits.iter().map(|limit| (limit["name"].as_str().unwrap(), limit["used"].as_u64())).collect();
    let names = ["requests per minute", "requests per day", "quota of 5 hours"];
    assert_eq!(used, names.map(|name| (name, Some(0))));
}

#[test]
fn after_the_server_reports_the_daily_limit_no_request_is_sent_that_day() {
    let over = error("429 Too Many Requests", "", "429", "Rate limit exceeded: free-models-per-day");
    let upstream = Upstream::always(over);
    let machine = configured(logged_in(&upstream), OF_THE_DAY);
    for _ in 0..2 {
        let gateway = Gateway::start(&machine, &[]);
        assert_eq!(gateway.chat().is(429).code(), "daily_limit_reached");
    }
    assert_eq!(upstream.asked().len(), 1);
    let mut usage = machine.run(["usage", "--json"]);
    let limits = usage.json()["limits"].clone();
    let reached = limits.as_array().unwrap().iter().find(|limit| limit["reached"] == true).unwrap();
    // Other models may be free of it, for all that was said.
    assert_eq!((&reached["name"], &reached["model"]), (&"requests per day".into(), &"coder-model".into()));
    assert!(reached["resets_at"].is_string());
}

#[test]
fn a_daily_limit_without_an_end_does_not_crash_the_gateway() {
    let upstream = Upstream::always(error("429 Too Many Requests", "Retry-After: 1e300\r\n", "429", "per day"));
    let machine = configured(logged_in(&upstream), OF_THE_DAY);
    let gateway = Gateway::start(&machine, &[]);
    for _ in 0..2 {
        assert_eq!(gateway.chat().is(429).code(), "daily_limit_reached");
    }
}

#[test]
fn the_daily_limit_is_warned_about_once() {
    let upstream = Upstream::always(fine());
    let machine = configured(logged_in(&upstream), "[providers.qwen.limits]\nrequests_per_day = 10\n");
    let gateway = Gateway::start(&machine, &["--warn-at", "80%"]);
    gateway.many(8);
    gateway.running.wait_for_stderr("`qwen` has used 8 of 10 requests today");
    let other = Gateway::start(&machine, &["--warn-at", "80%"]);
    other.many(3);
    other.running.signal(Signal::SIGTERM);
    drop(other.running.finish().dies_by(Signal::SIGTERM).any_stdout());
}

/// Refuses the first so many requests, then serves.
fn refusing(count: usize, answer: Vec<u8>) -> Upstream {
    Upstream::start(move |number, _, connection| {
        connection.write_all(&if number < count { answer.clone() } else { fine() })
    })
}

const BUSY: &str = "429 Too Many Requests";

#[test]
fn retry_after_is_respected() {
    for (header, least) in [("Retry-After: 1\r\n", 1000), ("retry-after-ms: 300\r\nRetry-After: 9\r\n", 300)] {
        let upstream = refusing(1, error(BUSY, header, "limit_requests", "slower"));
        let machine = logged_in(&upstream);
        let got = Gateway::start(&machine, &[]).chat();
        assert_eq!(got.is(200).header("x-qwenauth-attempts"), "2");
        let asked = upstream.asked();
        assert!(asked[1].at - asked[0].at >= Duration::from_millis(least), "{header}");
        assert!(got.header("x-qwenauth-wait-ms").parse::<u64>().unwrap() >= least);
    }
}

#[test]
fn a_retry_after_beyond_the_allowed_wait_is_returned_to_the_client() {
    let upstream = refusing(1, error(BUSY, "Retry-After: 61\r\n", "limit_requests", "slower"));
    let machine = logged_in(&upstream);
    let got = Gateway::start(&machine, &[]).chat();
    assert_eq!((got.is(429).header("retry-after"), got.header("x-qwenauth-attempts")), ("61", "1"));
    assert_eq!(got.code(), "limit_requests");
}

#[test]
fn a_persistent_rejection_is_returned_after_three_attempts() {
    for (status, named, retry) in [(BUSY, "Retry-After: 0\r\n", ""), (BUSY, "", "false"), ("503 Busy", "", "false")] {
        let upstream = refusing(usize::MAX, error(status, named, "limit_requests", "slower"));
        let machine = logged_in(&upstream);
        let got = Gateway::start(&machine, &[]).chat();
        assert_eq!(got.status.to_string(), status[..3]);
        assert_eq!((got.header("x-qwenauth-attempts"), got.header("x-should-retry")), ("3", retry), "{status} {named}");
        assert_eq!(upstream.asked().len(), 3);
    }
}

#[test]
fn retries_stay_within_their_budget() {
    let upstream = refusing(usize::MAX, error(BUSY, "Retry-After: 0\r\n", "limit_requests", "slower"));
    let machine = logged_in(&upstream);
    Gateway::start(&machine, &[]).many(40);
    let tries = upstream.asked().len();
    assert!((43..=40 + 3 + 8).contains(&tries), "{tries}");
}

#[test]
fn errors_that_waiting_does_not_cure_are_not_retried() {
    for status in ["500 Oops", "400 Bad", "408 Late", "502 Bad", "404 No"] {
        let upstream = refusing(1, error(status, "", "x", "y"));
        let machine = logged_in(&upstream);
        let got = Gateway::start(&machine, &[]).chat();
        assert_eq!(got.status.to_string(), status[..3]);
        assert_eq!(upstream.asked().len(), 1);
    }
}

#[test]
fn a_limit_of_tokens_per_minute_is_retried_once() {
    let upstream = refusing(usize::MAX, error(BUSY, "", "insufficient_quota", "tokens"));
    let machine = logged_in(&upstream);
    let got = Gateway::start(&machine, &["--max-wait", "1s"]).chat();
    assert_eq!((got.is(429).code().as_str(), got.header("x-qwenauth-attempts")), ("insufficient_quota", "2"));
    assert!(got.after >= Duration::from_millis(500));
}

#[test]
fn a_used_up_plan_is_reported_at_once() {
    let upstream = refusing(1, error(BUSY, "", "insufficient_quota", "Free allocated quota exceeded."));
    let machine = logged_in(&upstream);
    let got = Gateway::start(&machine, &[]).chat();
    assert_eq!((got.is(429).code().as_str(), got.header("x-should-retry")), ("insufficient_quota", "false"));
    assert!(got.text().contains("Free allocated quota exceeded"), "{}", got.text());
    assert_eq!(upstream.asked().len(), 1);
}

#[test]
fn limits_stated_by_the_provider_are_shown() {
    let more = "modelscope-ratelimit-requests-limit: 2000\r\nmodelscope-ratelimit-requests-remaining: 500\r\n";
    let upstream = Upstream::always(super::upstream::reply("200 OK", more, "{}"));
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    gateway.get().is(200);
    gateway.running.signal(Signal::SIGTERM);
    drop(gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout());
    let mut usage = machine.run(["usage", "--json"]);
    let limits = usage.json()["limits"].clone();
    let stated = limits.as_array().unwrap().iter().find(|limit| limit["source"] == "provider").unwrap();
    assert_eq!((&stated["limit"], &stated["remaining"]), (&2000.into(), &500.into()));
}

#[test]
fn requests_pass_while_the_state_cannot_be_written() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let state = machine.home().join(".local/state");
    std::fs::create_dir_all(state.parent().unwrap()).unwrap();
    std::fs::write(state, "in the way").unwrap();
    let gateway = Gateway::start(&machine, &[]);
    for got in gateway.many(5) {
        got.is(200);
    }
    for what in ["requests are counted only by this process: ", "cannot write the usage: "] {
        gateway.running.wait_for_stderr(&format!("qwenauth: warning: {what}"));
        assert_eq!(gateway.running.said().matches(what).count(), 1, "{}", gateway.running.said());
    }
}

/// In place of a file of the gateway.
fn fifo(machine: &Machine, directory: &str, name: &str) {
    let directory = machine.home().join(".local/state/qwenauth").join(directory);
    std::fs::create_dir_all(&directory).unwrap();
    nix::unistd::mkfifo(&directory.join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
}

#[test]
fn a_pipe_in_place_of_a_state_file_holds_up_no_request_and_no_end() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    // The names of the account's files.
    Gateway::start(&machine, &[]).chat().is(200);
    let state = machine.home().join(".local/state/qwenauth");
    let names = |directory: &str| -> Vec<String> {
        let entries = std::fs::read_dir(state.join(directory)).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let usage = names("usage");
    let rate = names("rate");
    std::fs::remove_dir_all(&state).unwrap();
    for name in &usage {
        fifo(&machine, "usage", name);
    }
    for name in &rate {
        fifo(&machine, "rate", name);
        fifo(&machine, "limits", &format!("{name}.json"));
    }
    let gateway = Gateway::start(&machine, &[]);
    gateway.chat().is(200);
    gateway.running.wait_for_stderr("it is not a regular file");
    gateway.running.signal(Signal::SIGTERM);
    drop(gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout().any_stderr());
    drop(machine.run(["usage"]).any_end().any_stdout().any_stderr());
}

#[test]
fn a_limit_that_allows_no_request_or_cannot_be_read_stops_the_gateway_at_its_start() {
    let upstream = Upstream::always(fine());
    for (setting, said, hint) in [
        (
            "week_resets = \"Monday 00:00 UTC\"",
            "`week_resets = \"Monday 00:00 UTC\"` is not a day, a time and a zone",
            "write it like `Mon 00:00 Asia/Shanghai`",
        ),
        (
            "day_resets = \"24:00 UTC\"",
            "`[providers.qwen]` in config.toml: `day_resets = \"24:00 UTC\"` is not a time and a zone",
            "write it like `00:00 Asia/Shanghai`",
        ),
        (
            "window = \"0s\"",
            "`window = \"0s\"` of `qwen` is not a duration",
            "write a duration of at least 1 s, such as `60s`",
        ),
        (
            "requests_per_minute = 0",
            "`requests_per_minute = 0` of `qwen` allows no request",
            "write at least 1 in config.toml, or remove it",
        ),
        ("burst = 0", "`burst = 0` of `qwen` allows no request", "write at least 1 in config.toml, or remove it"),
        (
            "requests_per_week = 0",
            "`requests_per_week = 0` of `qwen` allows no request",
            "write at least 1 in config.toml, or remove it",
        ),
    ] {
        let machine = configured(logged_in(&upstream), &format!("[providers.qwen.limits]\n{setting}\n"));
        machine.run(["gateway"]).fails(1, said, hint);
    }
}

#[test]
fn requests_pass_with_a_damaged_state() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    Gateway::start(&machine, &[]).chat().is(200);
    let rate = machine.home().join(".local/state/qwenauth/rate");
    for entry in std::fs::read_dir(rate).unwrap() {
        std::fs::write(entry.unwrap().path(), vec![0xff; 6240]).unwrap();
    }
    Gateway::start(&machine, &[]).chat().is(200);
}
