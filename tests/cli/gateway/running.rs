//! The gateway as a program that runs: what it prints, its health, signals, notices, and the log of requests.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::upstream::{
    CHAT, Client, Gateway, STREAM, Upstream, chunk, configured, error, fine, logged_in, reply, until_closed,
};
use crate::json_fields::assert_listed;
use crate::machine::{Machine, has_programs, possible, until};
use crate::pseudo_terminal::PseudoTerminal;
use crate::run::Running;
use crate::server::{Ask, Reply};

#[test]
fn a_key_in_a_file_is_printed_only_with_show_key() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let file = machine.directory().join("deep/er/key");
    let path = file.to_str().unwrap();
    for (arguments, lines) in [
        (&["--api-key-file", path][..], &["http://"][..]),
        (&["--api-key-file", path, "--show-key"], &["http://", "sk-"]),
        (&[], &["http://", "sk-"]),
    ] {
        let gateway = Gateway::start(&machine, arguments);
        gateway.chat().is(200);
        gateway.running.signal(Signal::SIGTERM);
        let outcome = gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout();
        let begins: Vec<_> = outcome.stdout.lines().zip(lines).map(|(line, begin)| line.starts_with(begin)).collect();
        assert_eq!((begins, outcome.stdout.lines().count()), (vec![true; lines.len()], lines.len()), "{outcome}");
    }
    let printed = |more: &[&str]| -> Value {
        let running = machine.spawn([&["gateway", "--json"], more].concat());
        serde_json::from_str(&running.first_lines(1)[0]).unwrap()
    };
    let with_file = printed(&["--api-key-file", path]);
    assert_eq!((&with_file["api_key"], &with_file["api_key_file"]), (&Value::Null, &json!(path)));
    let key = fs::read_to_string(&file).unwrap();
    assert_eq!(printed(&["--api-key-file", path, "--show-key"])["api_key"], key.trim());
    assert!(printed(&[])["api_key"].as_str().unwrap().starts_with("sk-"));
}

#[test]
fn gateways_that_start_together_on_a_new_key_file_share_its_key() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let file = machine.directory().join("key");
    for _ in 0..5 {
        let _ = fs::remove_file(&file);
        let arguments = ["gateway", "--api-key-file", file.to_str().unwrap(), "--show-key"];
        let started: Vec<_> = (0..4).map(|_| machine.spawn(arguments)).collect();
        let gateways: Vec<_> = started.into_iter().map(Gateway::of).collect();
        let key = fs::read_to_string(&file).unwrap();
        for gateway in gateways {
            assert_eq!(gateway.key, key.trim());
            gateway.chat().is(200);
        }
    }
    let beside: Vec<_> = fs::read_dir(machine.directory()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!beside.iter().any(|name| name.to_string_lossy().contains("tmp")), "{beside:?}");
}

#[test]
fn plain_http_for_other_machines_is_warned_about_and_prints_a_usable_address() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    machine.run(["gateway", "--listen", "0.0.0.0:0"]).fails(
        2,
        "`0.0.0.0:0` is reachable from other machines, and the key would be sent unencrypted",
        "pass a certificate with `--tls-cert` and `--tls-key`, or add `--plain-http` on a trusted network",
    );
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let running = machine.spawn(["gateway", "--listen", listen, "--plain-http"]);
        running.wait_for_stderr("is reachable from other machines");
        let gateway = Gateway::of(running);
        assert!(!gateway.address.starts_with("0.0.0.0") && !gateway.address.starts_with("[::]"), "{}", gateway.address);
        gateway.chat().is(200);
    }
}

#[test]
fn readiness_is_whether_a_credential_is_available() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let mut gateway = Gateway::start(&machine, &[]);
    let key = std::mem::take(&mut gateway.key);
    let ready = |gateway: &Gateway| {
        let got = gateway.send("GET /readyz", "", b"").got();
        (got.status, got.json())
    };
    assert_eq!(ready(&gateway), (200, json!({"ready": true, "credential": "valid"})));
    // A logout elsewhere, and a login.
    let content = machine.content();
    fs::remove_file(machine.file()).unwrap();
    let gone = (503, json!({"ready": false, "credential": "login_required"}));
    assert_eq!((ready(&gateway), ready(&gateway)), (gone.clone(), gone));
    gateway.send("GET /healthz", "", b"").got().is(200);
    let machine = machine.file_is(content);
    gateway.key = key;
    gateway.chat().is(200);
    assert_eq!(ready(&gateway).0, 200);
    assert_eq!(upstream.asked().len(), 1);
    drop(machine);
}

#[test]
fn after_a_rejected_key_the_gateway_is_ready_once_a_request_succeeds_or_there_is_another_key() {
    let upstream = Upstream::start(|number, _, connection| {
        let refused = error("401 Unauthorized", "", "invalid_api_key", "no");
        connection.write_all(&if matches!(number, 0 | 2) { refused } else { fine() })
    });
    let base_url = format!("http://{}/v1", upstream.address);
    let machine = Machine::new();
    let log_in = |key: &[u8]| {
        let login = crate::keys::by_stdin("custom", &["--no-verify", "--base-url", &base_url, "--model", "m"]);
        drop(machine.run_with_stdin(login, key).exits(0).any_stderr());
    };
    log_in(b"granted-key-1\n");
    let gateway = Gateway::start(&machine, &[]);
    let ready = || gateway.send("GET /readyz", "", b"").got();
    ready().is(200);
    gateway.chat().is(401);
    assert_eq!(ready().is(503).json(), json!({"ready": false, "credential": "refused"}));
    gateway.chat().is(200);
    ready().is(200);
    // Or once there is another key: a gateway that is not ready may get no request.
    gateway.chat().is(401);
    ready().is(503);
    log_in(b"granted-key-1\n");
    ready().is(503);
    log_in(b"granted-key-2\n");
    ready().is(200);
    assert_eq!(upstream.asked().len(), 3);
}

#[test]
fn readiness_requests_without_a_key_cause_only_a_few_renewals() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    let machine = machine.expires_in(-60);
    machine.server.always(Ask::Refresh, || Reply::html(503));
    for _ in 0..20 {
        let got = gateway.send("GET /readyz", "", b"").got();
        assert_eq!(got.is(503).json()["credential"], "temporary");
    }
    assert!(machine.server.asked(Ask::Refresh).len() <= 3, "more than one renewal was tried");
}

/// A gateway without a controlling terminal.
fn detached(machine: &Machine, arguments: &[&str]) -> Running {
    let mut command = machine.command([&["gateway"], arguments].concat());
    #[expect(unsafe_code, reason = "the child becomes a session of its own")]
    // SAFETY: setsid(2) is async-signal-safe.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into))
    };
    machine.start(command)
}

#[test]
fn a_hangup_without_a_terminal_reads_the_key_and_the_login_again() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let (file, log) = (machine.directory().join("key"), machine.directory().join("log"));
    let arguments = ["--api-key-file", file.to_str().unwrap(), "--show-key", "--log", log.to_str().unwrap()];
    let mut gateway = Gateway::of(detached(&machine, &arguments));
    gateway.chat().is(200);
    until("the request is logged", || fs::read_to_string(&log).is_ok_and(|text| text.lines().count() == 1));
    fs::rename(&log, log.with_extension("1")).unwrap();
    let old = std::mem::replace(&mut gateway.key, "another-key-0123456789".into());
    fs::write(&file, "another-key-0123456789\n").unwrap();
    gateway.running.signal(Signal::SIGHUP);
    until("the new key is in force", || gateway.chat().status == 200);
    // What cannot be used changes nothing.
    fs::write(&file, "short\n").unwrap();
    gateway.running.signal(Signal::SIGHUP);
    gateway.running.wait_for_stderr("still using the old key: `");
    gateway.chat().is(200);
    until("the new file is used", || fs::read_to_string(&log).is_ok_and(|text| text.contains("chat/completions")));
    gateway.key = old;
    gateway.chat().is(401);
    gateway.running.signal(Signal::SIGTERM);
    drop(gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout().any_stderr());
}

#[test]
fn a_hangup_tells_that_config_toml_has_changed_or_is_invalid() {
    let upstream = Upstream::always(fine());
    let machine = configured(logged_in(&upstream), "# one\n");
    let gateway = Gateway::of(detached(&machine, &[]));
    let changed = "config.toml has changed since this gateway started; restart it to apply the changes";
    let hang_up = |text: &str, expected: &str| {
        fs::write(machine.config(), text).unwrap();
        gateway.running.signal(Signal::SIGHUP);
        gateway.running.wait_for_stderr(expected);
    };
    hang_up("# two\n", changed);
    hang_up("[prices\n", "still using the config.toml of the start: `");
    hang_up("[providers.x.limits]\nburst = -1\n", "`limits.burst`: expected a whole number from 1 to 4294967295");
    gateway.chat().is(200);
}

#[test]
fn a_hangup_right_after_the_address_is_printed_reloads() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::of(detached(&machine, &[]));
    gateway.running.signal(Signal::SIGHUP);
    gateway.chat().is(200);
}

/// A run on a terminal of its own, as in a terminal window.
fn on_a_terminal(machine: &Machine, arguments: &[&str]) -> (Running, PseudoTerminal) {
    let (terminal, near) = PseudoTerminal::open((40, 100));
    let mut command = machine.command(arguments);
    // A person sees no log, whatever the tests are run with.
    command.env_remove("QWENAUTH_LOG");
    near.controls(&mut command);
    (machine.start(command), terminal)
}

#[test]
fn a_hangup_of_its_terminal_ends_the_gateway() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let (running, mut terminal) = on_a_terminal(&machine, &["gateway"]);
    terminal.take_until("\r\n");
    drop(terminal);
    drop(running.finish().dies_by(Signal::SIGHUP));
}

#[test]
fn notices_wait_until_a_program_that_has_the_terminal_has_ended() {
    if !possible(Path::new("/usr/bin/curl").exists(), "run curl") {
        return;
    }
    let upstream = Upstream::always(error("429 Too Many Requests", "", "x", "requests per day: the limit is reached"));
    let machine = logged_in(&upstream);
    let ask = r#"curl -s -o /dev/null -H "Authorization: Bearer $OPENAI_API_KEY" -d "{}" "$OPENAI_BASE_URL/chat/completions""#;
    let program = format!("printf '\\033[?1049h[TUI]'; {ask}; {ask}; printf '[/TUI]\\033[?1049l'");
    let arguments = ["exec", "--gateway", "--rpd", "1", "--", "sh", "-c", &program];
    let (running, terminal) = on_a_terminal(&machine, &arguments);
    drop(running.finish());
    let said = terminal.end();
    let (screen, after) = said.split_once("\u{1b}[?1049l").expect(&said);
    assert!(screen.contains("[TUI][/TUI]") && !screen.contains("limit"), "{said:?}");
    assert!(after.contains("qwenauth: ") && after.contains("limit"), "{said:?}");
}

#[test]
fn notices_are_printed_at_once_if_stderr_is_not_a_terminal() {
    if !has_programs(&["curl"]) {
        return;
    }
    let upstream = Upstream::always(error("429 Too Many Requests", "", "x", "requests per day: the limit is reached"));
    let machine = logged_in(&upstream);
    let ask = r#"curl -s -o /dev/null -H "Authorization: Bearer $OPENAI_API_KEY" -d "{}" "$OPENAI_BASE_URL/chat/completions""#;
    let running =
        machine.spawn(["exec", "--gateway", "--rpd", "1", "--", "sh", "-c", &format!("{ask}; exec sleep 60")]);
    running.wait_for_stderr("limit");
    running.signal(Signal::SIGTERM);
    drop(running.finish().dies_by(Signal::SIGTERM).any_stderr());
}

/// The lines of `--log`, once there are so many.
fn logged(log: &Path, count: usize) -> Vec<Value> {
    let read = || fs::read_to_string(log).unwrap_or_default();
    until("the requests are logged", || read().lines().count() >= count);
    read().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn each_request_has_a_line_in_the_log_with_names_counts_and_times_and_no_secret() {
    let upstream = Upstream::start(|number, _, connection| match number {
        0 => connection.write_all(&reply("503 Service Unavailable", "Retry-After: 0\r\n", "{}")),
        1 => connection.write_all(&fine()),
        2 => connection.write_all(&error("400 Bad Request", "", "bad", "granted-nothing")),
        _ => {
            connection.write_all(STREAM)?;
            connection.write_all(&chunk("data: 1\n\n"))?;
            until_closed(connection)
        }
    });
    let machine = logged_in(&upstream);
    let log = machine.directory().join("log.jsonl");
    let gateway = Gateway::start(&machine, &["--log", log.to_str().unwrap()]);
    gateway.chat().is(200);
    gateway.send("POST /v1/chat/completions?key=granted-query&x=1", "", CHAT).got().is(400);
    let mut left = gateway.send("POST /v1/chat/completions", "", CHAT);
    left.read_until("data: 1");
    drop(left);
    let lines = logged(&log, 3);
    assert_listed("gateway --log FILE", ".", &lines[0]);
    let keys: Vec<_> = lines[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "time",
            "key",
            "profile",
            "provider",
            "model",
            "method",
            "path",
            "status",
            "complete",
            "tries",
            "wait_ms",
            "reason",
            "fallback",
            "prompt_tokens",
            "completion_tokens",
            "charged_tokens",
            "charged_usd",
            "ms"
        ]
    );
    let first = &lines[0];
    assert!(first["time"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{first}");
    for (name, value) in [
        ("profile", json!("qwen")),
        ("provider", json!("qwen")),
        ("model", json!("coder-model")),
        ("method", json!("POST")),
        ("path", json!("/v1/chat/completions")),
        ("status", json!(200)),
        ("complete", json!(true)),
        ("tries", json!(2)),
        ("prompt_tokens", json!(5)),
        ("completion_tokens", json!(7)),
    ] {
        assert_eq!(first[name], value, "{name}");
    }
    assert!(first["ms"].as_u64() >= first["wait_ms"].as_u64(), "{first}");
    assert_eq!((&lines[1]["status"], &lines[1]["path"]), (&json!(400), &json!("/v1/chat/completions")));
    assert_eq!((&lines[2]["status"], &lines[2]["complete"]), (&json!(200), &json!(false)));
    let text = fs::read_to_string(&log).unwrap();
    assert!(!text.contains("granted-") && !text.contains(&gateway.key) && !text.contains("\"hi\""), "{text}");
    assert_eq!(crate::machine::mode(&log), 0o600);
}

#[test]
fn requests_that_the_gateway_itself_rejects_are_logged() {
    let upstream = Upstream::start(|_, _, connection| until_closed(connection));
    let machine = logged_in(&upstream);
    let log = machine.directory().join("log.jsonl");
    let mut gateway = Gateway::start(&machine, &["--log", log.to_str().unwrap(), "--max-body", "1k"]);
    gateway.send("TRACE /v1/models", "", b"").got().is(405);
    gateway.send("GET /elsewhere", "", b"").got().is(404);
    gateway.send("POST /v1/chat/completions", "", &[b'x'; 2000]).got().is(413);
    let left = gateway.send("POST /v1/chat/completions", "", CHAT);
    upstream.wait_for(1);
    drop(left);
    logged(&log, 4);
    // And in the middle of its request.
    let mut left = gateway.send("POST /v1/chat/completions", "Transfer-Encoding: chunked\r\n", b"");
    left.write(&chunk("{"));
    upstream.wait_for_body(1);
    drop(left);
    logged(&log, 5);
    gateway.key = "wrong".into();
    gateway.get().is(401);
    let lines = logged(&log, 6);
    let statuses: Vec<_> = lines.iter().map(|line| line["status"].as_u64()).collect();
    assert_eq!(statuses, [Some(405), Some(404), Some(413), None, None, Some(401)]);
    let whole: Vec<_> = lines.iter().map(|line| line["complete"] == true).collect();
    assert_eq!(whole, [true, true, true, false, false, true]);
    let named: Vec<_> = lines.iter().map(|line| line["key"].is_string()).collect();
    assert_eq!(named, [false, true, true, true, true, false], "only who has shown the key is named by it");
    let reasons = [0, 1, 2, 5].map(|at| lines[at]["reason"].clone());
    assert_eq!(reasons, ["method_not_allowed", "not_found", "request_too_large", "invalid_api_key"]);
}

#[test]
fn a_log_on_stdout_is_complete_at_the_end() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &["--log", "-"]);
    for got in gateway.many(20) {
        got.is(200);
    }
    gateway.running.signal(Signal::SIGTERM);
    let outcome = gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout();
    assert_eq!(outcome.stdout.lines().filter(|line| line.starts_with('{')).count(), 20, "{outcome}");
}

#[test]
fn exec_with_a_gateway_logs_to_a_file_only() {
    if !has_programs(&["curl"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    machine.run(["exec", "--gateway", "--log", "-", "--", "echo", "started"]).fails(
        2,
        "`--log -` would mix log lines into the output of the program",
        "name a file, such as `--log gateway.jsonl`",
    );
    let log = machine.directory().join("log");
    let ask = r#"curl -sf -o /dev/null -H "Authorization: Bearer $OPENAI_API_KEY" "$OPENAI_BASE_URL/models""#;
    machine.run(["exec", "--gateway", "--log", log.to_str().unwrap(), "--", "sh", "-c", ask]).exits(0);
    assert_eq!(logged(&log, 1)[0]["path"], "/v1/models");
}

#[test]
fn requests_pass_while_the_log_cannot_be_written() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let before = crate::machine::mode(Path::new("/dev/full"));
    let gateway = Gateway::start(&machine, &["--log", "/dev/full", "--metrics"]);
    gateway.chat().is(200);
    gateway.chat().is(200);
    gateway.running.wait_for_stderr("qwenauth: warning: cannot write the request log: ");
    until("each line is counted", || {
        let metrics = gateway.send("GET /metrics", "", b"").got().text();
        !metrics.contains("\nqwenauth_log_dropped_total 0\n") && !metrics.contains("\nqwenauth_log_dropped_total 1\n")
    });
    assert_eq!(gateway.running.said().matches("cannot write the request log").count(), 1);
    assert_eq!(crate::machine::mode(Path::new("/dev/full")), before);
}

#[test]
fn an_existing_log_is_continued_and_keeps_its_mode() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let log = machine.directory().join("log");
    fs::write(&log, "{}\n").unwrap();
    fs::set_permissions(&log, fs::Permissions::from_mode(0o644)).unwrap();
    let gateway = Gateway::start(&machine, &["--log", log.to_str().unwrap()]);
    gateway.chat().is(200);
    assert_eq!(logged(&log, 2)[1]["status"], 200);
    assert_eq!(crate::machine::mode(&log), 0o644);
}

#[test]
fn metrics_have_statuses_durations_and_requests_in_flight() {
    let upstream = Upstream::start(|number, _, connection| {
        connection.write_all(&if number == 0 { fine() } else { error("400 Bad Request", "", "bad", "no") })
    });
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &["--metrics"]);
    gateway.chat().is(200);
    gateway.chat().is(400);
    let text = gateway.send("GET /metrics", "", b"").got().text();
    for line in [
        "qwenauth_answers_total{profile=\"qwen\",status=\"200\"} 1",
        "qwenauth_answers_total{profile=\"qwen\",status=\"400\"} 1",
        "qwenauth_request_duration_seconds_bucket{profile=\"qwen\",le=\"+Inf\"} 2",
        "qwenauth_request_duration_seconds_count{profile=\"qwen\"} 2",
        "qwenauth_in_flight 1",
        "# TYPE qwenauth_credential_expires_seconds gauge",
        concat!("qwenauth_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    assert!(text.contains("\nqwenauth_credential_expires_seconds{profile=\"qwen\"} "), "{text}");
    let _ = Client::send(&gateway.address, b"");
}
