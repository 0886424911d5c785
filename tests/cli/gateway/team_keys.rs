//! `gateway --keys`: keys of people and jobs, each within its limits, counted over all gateways of the machine.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::upstream::{
    CHAT, Client, Gateway, Got, Upstream, configured, error, fine, logged_in, logged_in_at, reply, until_closed,
};
use crate::json_fields::assert_listed;
use crate::machine::{Machine, each_path, has_programs, keeps_the_limit, until};

/// A dollar for a million tokens of a prompt, a hundred dollars for a million of a completion.
const PRICES: &str = "[prices.\"coder-model\"]\ninput = 1.0\noutput = 100.0\n";

/// No limit of the account is in the way.
const UNPACED: &str = "[providers.qwen.limits]\nrequests_per_minute = 100000\nrequests_per_day = 100000\n";

fn priced(upstream: &Upstream) -> Machine {
    configured(logged_in(upstream), &format!("{PRICES}{UNPACED}"))
}

/// What a command prints.
#[track_caller]
pub(super) fn printed(machine: &Machine, arguments: &[&str]) -> String {
    let output = machine.command(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Makes a key.
#[track_caller]
pub(super) fn create(machine: &Machine, arguments: &[&str]) -> String {
    let key = printed(machine, &[&["keys", "create"], arguments].concat());
    assert!(key.starts_with("qa_") && key.len() == 61 && key.ends_with('\n'), "{key}");
    key.trim().to_owned()
}

#[test]
fn an_unencrypted_server_of_this_machine_needs_no_certificates() {
    let machine = configured(Machine::new(), "[team]\nshared = \"redis://127.0.0.1:1\"\n");
    let machine = machine.variable("SSL_CERT_DIR", "{machine}").variable("SSL_CERT_FILE", "");
    let created = machine.command(["keys", "create", "eve"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&created.stderr);
    assert!(created.status.success() && stderr.contains("do not know about this change yet"), "{stderr}");
}

#[test]
fn what_keys_used_is_unknown_while_the_shared_server_is_away() {
    let machine = configured(Machine::new(), &format!("{PRICES}[team]\nshared = \"redis://127.0.0.1:1\"\n"));
    let outcome = machine.run(["keys", "list"]).any_stdout().any_stderr();
    assert!(outcome.stderr.contains("are managed: `redis://127.0.0.1:1`: cannot connect: "), "{outcome}");
    drop(outcome);
    create(&machine, &["ann", "--budget", "1 USD/day"]);
    let output = machine.command(["keys", "list"]).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(stderr.lines().filter(|line| line.starts_with("qwenauth: ")).count(), 1, "{stderr}");
    assert!(stderr.contains("cannot read the usage of the keys: `redis://127.0.0.1:1`"), "{stderr}");
    assert!(stdout.contains("  unknown  ") && !stdout.contains("0 requests"), "{stdout}");
    assert!(stdout.contains("1 USD/day") && !stdout.contains("spent"), "{stdout}");
    let list: Value = serde_json::from_str(&printed(&machine, &["keys", "list", "--json"])).unwrap();
    assert_eq!((&list["keys"][0]["used"], &list["keys"][0]["last_used_at"]), (&Value::Null, &Value::Null));
}

#[test]
fn what_is_wrong_in_a_keys_file_that_was_edited_is_reported() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let key = create(&machine, &["ann", "--rpm", "60"]);
    let gateway = start(&machine, &[]);
    chat(&gateway, &key).is(200);
    let path = keys_file(&machine);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("requests_per_minute", "requests_per_minut")).unwrap();
    chat(&gateway, &key).is(200);
    let unknown = "field `requests_per_minut` of key `ann` in `";
    gateway.running.wait_for_stderr(unknown);
    gateway.running.wait_for_stderr("is unknown and has no effect; did you mean `requests_per_minute`?");
    let output = machine.command(["keys", "list"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains(unknown));
    fs::write(&path, text.replace("\"requests_per_minute\":60", "\"requests_per_minute\":0")).unwrap();
    chat(&gateway, &key).is(200);
    gateway.running.wait_for_stderr("a limit is 0, and the lowest is 1");
    fs::remove_file(&path).unwrap();
    chat(&gateway, &key).is(401);
    gateway.running.wait_for_stderr("was removed; restore it from a backup");
    let none = send(&gateway, "", "GET /v1/models", b"").is(401).json();
    let message = "the request has no API key: send yours in the header `Authorization: Bearer KEY`";
    assert_eq!(none["error"]["message"], message);
}

pub(crate) fn start(machine: &Machine, arguments: &[&str]) -> Gateway {
    let running = machine.spawn([&["gateway", "--keys"], arguments].concat());
    let address = Gateway::address_of(&running.first_lines(1)[0]);
    Gateway { running, address, key: String::new() }
}

/// A request with this key.
pub(super) fn chat(gateway: &Gateway, key: &str) -> Got {
    send(gateway, key, "POST /v1/chat/completions", CHAT)
}

pub(super) fn send(gateway: &Gateway, key: &str, line: &str, body: &[u8]) -> Got {
    ask(gateway, key, line, body).got()
}

fn ask(gateway: &Gateway, key: &str, line: &str, body: &[u8]) -> Client {
    let (address, length) = (&gateway.address, body.len());
    let head = format!(
        "{line} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    Client::send(address, &[head.as_bytes(), body].concat())
}

#[track_caller]
pub(super) fn is_refused(got: &Got, status: u16, code: &str) {
    got.is(status);
    assert_eq!(got.code(), code);
}

fn listed(machine: &Machine, name: &str) -> Value {
    let keys: Value = serde_json::from_str(&printed(machine, &["keys", "list", "--json"])).unwrap();
    keys["keys"].as_array().unwrap().iter().find(|key| key["name"] == name).unwrap().clone()
}

fn keys_file(machine: &Machine) -> std::path::PathBuf {
    machine.home().join(".local/share/qwenauth/team/keys.json")
}

/// Makes the minute of all keys 3 s long.
fn scale(machine: &Machine) {
    let path = keys_file(machine);
    let text =
        fs::read_to_string(&path).unwrap().replace("\"requests_per_minute\":", "\"window\":3,\"requests_per_minute\":");
    assert!(text.contains("\"window\":3"));
    crate::machine::write_private(&path, text);
}

#[test]
fn a_key_is_printed_once_and_is_in_no_file_log_or_process_list() {
    let upstream = Upstream::always(fine());
    let machine = priced(&upstream).variable("QWENAUTH_LOG", "trace");
    let key = create(&machine, &["ann", "--owner", "ann@example.com", "--budget", "20 USD/month", "--rpm", "60"]);
    let log = machine.directory().join("requests.jsonl");
    let gateway = start(&machine, &["--log", log.to_str().unwrap()]);
    chat(&gateway, &key).is(200);
    is_refused(&chat(&gateway, &key.replace("qa_", "qb_")), 401, "invalid_api_key");
    let commands =
        Command::new("ps").args(["-eww", "-o", "args"]).output().map(|output| output.stdout).unwrap_or_default();
    gateway.running.signal(Signal::SIGTERM);
    let outcome = gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout().any_stderr();
    let secret = &key[11..54];
    let mut texts = vec![format!("{outcome}"), String::from_utf8_lossy(&commands).into_owned()];
    texts.push(printed(&machine, &["keys", "list"]) + &printed(&machine, &["keys", "list", "--json"]));
    each_path(machine.directory(), &mut |path: &Path| {
        if path.is_file() {
            let bytes = fs::read(path).unwrap();
            texts.push(format!("{}\n{}", path.display(), String::from_utf8_lossy(&bytes)));
        }
    });
    for text in texts {
        assert!(!text.contains(secret), "{text}");
    }
    let lines: Vec<Value> =
        fs::read_to_string(&log).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["key"], key[3..11]);
    assert_eq!((&lines[1]["key"], &lines[1]["reason"]), (&Value::Null, &"invalid_api_key".into()));
}

#[test]
fn changes_of_a_key_apply_from_the_next_request_without_a_restart() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let first = create(&machine, &["ann"]);
    let gateway = start(&machine, &[]);
    chat(&gateway, &first).is(200);
    // A key that is made while the gateway runs.
    let other = create(&machine, &["bob"]);
    chat(&gateway, &other).is(200);
    printed(&machine, &["keys", "set", "bob", "--models", "another-*"]);
    is_refused(&chat(&gateway, &other), 403, "model_not_allowed");
    printed(&machine, &["keys", "set", "bob", "--models", "none"]);
    chat(&gateway, &other).is(200);
    let rotated = printed(&machine, &["keys", "rotate", "ann", "--overlap", "1h"]).trim().to_owned();
    assert_eq!((&rotated[..11], rotated == first), (&first[..11], false));
    chat(&gateway, &first).is(200);
    chat(&gateway, &rotated).is(200);
    let last = printed(&machine, &["keys", "rotate", "ann"]).trim().to_owned();
    is_refused(&chat(&gateway, &rotated), 401, "invalid_api_key");
    chat(&gateway, &last).is(200);
    printed(&machine, &["keys", "revoke", "ann", "--yes"]);
    is_refused(&chat(&gateway, &last), 401, "invalid_api_key");
    chat(&gateway, &other).is(200);
    assert_eq!(upstream.asked().len(), 7);
}

#[test]
fn each_rejection_has_its_status_code_and_headers() {
    let upstream = Upstream::always(fine());
    let machine = priced(&upstream);
    let gateway = start(&machine, &["--no-pacing"]);
    let rated = create(&machine, &["rated", "--rpm", "1"]);
    let got = chat(&gateway, &rated);
    got.is(200);
    let header = |got: &Got, name: &str| got.header(&format!("x-ratelimit-{name}-requests")).to_owned();
    assert_eq!((header(&got, "limit"), header(&got, "remaining")), ("1".into(), "0".into()));
    let got = chat(&gateway, &rated);
    is_refused(&got, 429, "key_rate_limited");
    let wait: u64 = got.header("retry-after").parse().unwrap();
    assert!((1..=63).contains(&wait), "{wait}");
    assert!(header(&got, "reset").ends_with('s') && got.header("x-should-retry").is_empty());

    let daily = create(&machine, &["daily", "--rpd", "1"]);
    chat(&gateway, &daily).is(200);
    let got = chat(&gateway, &daily);
    is_refused(&got, 429, "key_day_over");
    assert!(got.header("retry-after").parse::<u64>().unwrap() <= 86400);
    assert_eq!((got.header("x-should-retry"), header(&got, "remaining").as_str()), ("false", "0"));

    let tokens = create(&machine, &["tokens", "--tpd", "12"]);
    chat(&gateway, &tokens).is(200);
    is_refused(&chat(&gateway, &tokens), 429, "key_day_over");
    let tokens = create(&machine, &["tokens-of-a-minute", "--tpm", "12"]);
    chat(&gateway, &tokens).is(200);
    is_refused(&chat(&gateway, &tokens), 429, "key_rate_limited");

    let limited = create(&machine, &["limited", "--models", "qwen*", "--models", "other"]);
    is_refused(&chat(&gateway, &limited), 403, "model_not_allowed");
    let elsewhere = create(&machine, &["elsewhere", "--profiles", "another"]);
    is_refused(&chat(&gateway, &elsewhere), 403, "model_not_allowed");

    let gone = create(&machine, &["gone", "--expires", "1d"]);
    let text = fs::read_to_string(keys_file(&machine)).unwrap();
    let at = text.find("\"expires_at\":").unwrap() + 13;
    crate::machine::write_private(&keys_file(&machine), text[..at].to_owned() + "1" + &text[at + 10..]);
    is_refused(&chat(&gateway, &gone), 403, "key_expired");
    is_refused(&chat(&gateway, "qa_nothing"), 401, "invalid_api_key");
    is_refused(&chat(&gateway, ""), 401, "invalid_api_key");
}

#[test]
fn a_gateway_that_counts_alone_although_a_server_is_named_says_so() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream).configured("[team]\nshared = \"redis://127.0.0.1:9\"\n");
    let gateway = start(&machine, &[]);
    gateway.running.wait_for_stderr("`[team] shared` is set, but this gateway counts limits on this machine only");
}

#[test]
fn the_log_names_a_key_that_has_expired_or_was_revoked() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let log = machine.directory().join("requests.jsonl");
    let gateway = start(&machine, &["--log", log.to_str().unwrap()]);
    let [revoked, gone] = [create(&machine, &["old"]), create(&machine, &["gone", "--expires", "1d"])];
    printed(&machine, &["keys", "revoke", "old", "--yes"]);
    let text = fs::read_to_string(keys_file(&machine)).unwrap();
    let at = text.find("\"expires_at\":").unwrap() + 13;
    crate::machine::write_private(&keys_file(&machine), text[..at].to_owned() + "1" + &text[at + 10..]);
    is_refused(&chat(&gateway, &gone), 403, "key_expired");
    is_refused(&chat(&gateway, &revoked), 401, "invalid_api_key");
    let read = || fs::read_to_string(&log).unwrap_or_default();
    until("the requests are logged", || read().lines().count() == 2);
    let lines: Vec<Value> = read().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let named: Vec<_> = lines.iter().map(|line| (line["key"].as_str(), line["reason"].as_str())).collect();
    assert_eq!(named, [(Some(&gone[3..11]), Some("key_expired")), (Some(&revoked[3..11]), Some("invalid_api_key"))]);
}

#[test]
fn a_key_limited_by_model_cannot_hide_another_model_in_its_request() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = start(&machine, &[]);
    let key = create(&machine, &["ann", "--models", "coder-model"]);
    for body in [
        r#"{"model":"coder-model","model":"dear"}"#,
        r#"{"model":"coder-model","\u006dodel":"dear"}"#,
        r#"{"model":"coder-model","Model":"dear"}"#,
        r#"{"model":"coder-model","models":["dear"]}"#,
        r#"{"model":"coder-model","fallbacks":[{"model":"dear"}]}"#,
        r#"{"input":"no model"}"#,
        "--boundary\r\nname=\"model\"\r\n\r\ndear",
        "",
    ] {
        let got = send(&gateway, &key, "POST /v1/chat/completions", body.as_bytes());
        is_refused(&got, 403, "model_not_allowed");
    }
    // Some servers read the body of any method.
    for method in ["GET", "DELETE", "QUERY"] {
        let got = send(&gateway, &key, &format!("{method} /v1/chat/completions"), br#"{"model":"dear"}"#);
        is_refused(&got, 403, "model_not_allowed");
    }
    // What the provider would decode is not what was read here.
    let (address, length) = (&gateway.address, CHAT.len());
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
         Content-Encoding: gzip\r\nContent-Length: {length}\r\n\r\n"
    );
    let got = Client::send(address, &[head.as_bytes(), CHAT].concat()).got();
    is_refused(&got, 403, "model_not_allowed");
    chat(&gateway, &key).is(200);
    send(&gateway, &key, "GET /v1/models", b"").is(200);
    assert_eq!(upstream.asked().len(), 2);
}

#[test]
fn a_damaged_file_of_keys_is_reported_once_and_the_keys_stay() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let key = create(&machine, &["ann"]);
    let gateway = start(&machine, &[]);
    crate::machine::write_private(&keys_file(&machine), "damaged");
    for _ in 0..3 {
        chat(&gateway, &key).is(200);
    }
    let said = "qwenauth: warning: still using the keys that were read last: ";
    gateway.running.wait_for_stderr(said);
    assert_eq!(gateway.running.said().matches(said).count(), 1);
}

#[test]
fn a_key_that_cannot_be_printed_is_named_with_the_command_for_another() {
    let machine = Machine::new();
    let why = "cannot write to stdout: No space left on device (os error 28)";
    for command in ["create", "create --json", "rotate"] {
        let name = if command.contains("json") { "bob" } else { "ann" };
        machine.shell(&format!("exec $QWENAUTH keys {command} {name} > /dev/full")).fails(
            1,
            &format!("key `{name}` is now valid, but it was not shown: {why}"),
            &format!("run `qwenauth keys rotate {name}` for another key"),
        );
    }
}

#[test]
fn a_key_limited_by_model_cannot_send_what_is_not_kept_as_a_whole() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let log = machine.directory().join("log");
    let gateway = start(&machine, &["--replay-limit", "1KiB", "--log", log.to_str().unwrap()]);
    let (limited, free) = (create(&machine, &["ann", "--models", "coder-model"]), create(&machine, &["bob"]));
    let body = [CHAT, &[b' '; 4096]].concat();
    let send = |key: &str| send(&gateway, key, "POST /v1/chat/completions", &body);
    is_refused(&send(&limited), 413, "request_too_large");
    until("the rejection is logged", || {
        let lines = fs::read_to_string(&log).unwrap();
        lines.lines().any(|line| line.contains("\"status\":413"))
    });
    send(&free).is(200);
    assert_eq!(upstream.asked().len(), 1);
}

/// What a request gets whose key is changed by `change` while it waits for its turn.
fn queued_while(change: &[&str]) -> (Got, usize) {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let key = create(&machine, &["ann", "--rpm", "1"]);
    scale(&machine);
    let gateway = start(&machine, &[]);
    chat(&gateway, &key).is(200);
    let got = thread::scope(|scope| {
        let waiting = scope.spawn(|| chat(&gateway, &key));
        gateway.running.wait_for_stderr("request of key `ann` delayed");
        printed(&machine, change);
        waiting.join().unwrap()
    });
    (got, upstream.asked().len())
}

#[test]
fn a_queued_request_is_not_sent_after_its_key_is_revoked() {
    let (got, sent) = queued_while(&["keys", "revoke", "ann", "--yes"]);
    is_refused(&got, 401, "invalid_api_key");
    assert_eq!(sent, 1);
}

#[test]
fn a_queued_request_is_not_sent_after_its_key_is_replaced() {
    let (got, sent) = queued_while(&["keys", "rotate", "ann"]);
    is_refused(&got, 401, "invalid_api_key");
    assert_eq!(sent, 1);
}

#[test]
fn a_queued_request_is_sent_if_its_replaced_key_stays_valid_for_a_time() {
    let (got, sent) = queued_while(&["keys", "rotate", "ann", "--overlap", "1h"]);
    got.is(200);
    assert_eq!(sent, 2);
}

#[test]
fn a_key_is_told_its_own_limits_and_the_gateways_own_key_those_of_the_account() {
    let stated =
        "x-ratelimit-limit-requests: 5000\r\nx-ratelimit-remaining-tokens: 4242\r\nopenai-organization: org-1\r\n";
    let upstream = Upstream::start(move |number, _, connection| {
        let status = ["200 OK", "400 Bad Request", "429 Too Many Requests"][number % 3];
        connection.write_all(&reply(status, &format!("{stated}retry-after: 600\r\n"), r#"{"error":{"message":"no"}}"#))
    });
    let machine = logged_in(&upstream);
    let (ann, bob) = (create(&machine, &["ann"]), create(&machine, &["bob", "--rpm", "5"]));
    let own = machine.directory().join("own");
    let gateway = start(&machine, &["--no-pacing", "--api-key-file", own.to_str().unwrap()]);
    let own = fs::read_to_string(own).unwrap();
    let names = ["x-ratelimit-limit-requests", "x-ratelimit-remaining-tokens", "openai-organization", "retry-after"];
    let told = |key: &str| {
        let got = chat(&gateway, key);
        names.map(|name| got.header(name).to_owned())
    };
    for (key, expected) in [
        (own.trim(), ["5000", "4242", "org-1", "600"]),
        (ann.as_str(), ["", "", "", "600"]),
        (bob.as_str(), ["5", "", "", "600"]),
    ] {
        (0..3).for_each(|_| assert_eq!(told(key), expected));
    }
}

#[test]
fn a_budget_is_reserved_settled_by_the_response_used_up_and_reset() {
    let upstream = Upstream::always(fine());
    let machine = priced(&upstream);
    let gateway = start(
        &machine,
        &["--metrics", "--metrics-keys", "--api-key-file", machine.directory().join("own").to_str().unwrap()],
    );
    // 5 and 7 tokens a request: 0.000705 dollars.
    let key = create(&machine, &["ann", "--budget", "0.001 USD/month"]);
    let got = chat(&gateway, &key);
    got.is(200);
    assert_eq!(
        got.header("x-qwenauth-budget-remaining"),
        "0.00",
        "all of it is reserved for a completion of 4096 tokens"
    );
    until("it is settled", || listed(&machine, "ann")["used"]["spent_usd"] == 0.000_705);
    for page in ["GET /v1/key/", "GET /v1/auth/key", "GET /v1/%6bey", "GET /v1/credits"] {
        is_refused(&send(&gateway, &key, page, b""), 404, "not_found");
    }
    let described = send(&gateway, &key, "GET /v1/key", b"").json()["data"].clone();
    assert_eq!((&described["limit"], &described["usage"]), (&0.001.into(), &0.000_705.into()));
    assert_eq!((&described["limit_reset"], &described["label"]), (&"month".into(), &"ann".into()));
    let own = fs::read_to_string(machine.directory().join("own")).unwrap();
    let metrics = send(&gateway, own.trim(), "GET /metrics", b"").text();
    let line = format!("qwenauth_key_budget_remaining_usd{{key=\"{}\",name=\"ann\"}} 0.000295\n", &key[3..11]);
    assert!(metrics.contains(&line) && metrics.contains("qwenauth_admissions_total{decision=\"go\"} 1\n"), "{metrics}");
    // A key sees nothing of the others.
    send(&gateway, &key, "GET /metrics", b"").is(404);
    chat(&gateway, &key).is(200);
    until("it is settled", || listed(&machine, "ann")["used"]["spent_usd"] == 0.001_41);
    let got = chat(&gateway, &key);
    is_refused(&got, 429, "key_budget_exceeded");
    assert_eq!((got.header("x-should-retry"), got.header("x-qwenauth-budget-remaining")), ("false", "0.00"));
    let metrics = send(&gateway, own.trim(), "GET /metrics", b"").text();
    assert!(metrics.contains("qwenauth_admissions_total{decision=\"key_budget\"} 1\n"), "{metrics}");
    printed(&machine, &["keys", "reset", "ann"]);
    chat(&gateway, &key).is(200);
    until("it is settled", || listed(&machine, "ann")["used"]["spent_usd"] == 0.000_705);
    let other = send(&gateway, &key, "POST /v1/chat/completions", br#"{"model":"unpriced"}"#);
    is_refused(&other, 403, "model_not_allowed");
    assert_eq!(upstream.asked().len(), 3);
}

#[test]
fn a_response_of_a_dearer_model_costs_its_price() {
    let upstream = Upstream::always(fine());
    let prices = "[prices.cheap]\ninput = 1.0\noutput = 1.0\n";
    let machine = configured(logged_in(&upstream), &format!("{prices}{PRICES}{UNPACED}"));
    let gateway = start(&machine, &[]);
    let key = create(&machine, &["ann", "--models", "cheap", "--budget", "1 USD/day"]);
    send(&gateway, &key, "POST /v1/chat/completions", br#"{"model":"cheap"}"#).is(200);
    until("it is settled at the price of `coder-model`", || listed(&machine, "ann")["used"]["spent_usd"] == 0.000_705);
}

#[test]
fn a_rejected_request_costs_nothing_and_one_without_usage_costs_the_estimate() {
    let unknown = reply("200 OK", "", r#"{"model":"coder-model","choices":[]}"#);
    // Whatever it says of tokens.
    let usage = r#"{"error":{"message":"no"},"usage":{"prompt_tokens":5,"completion_tokens":7}}"#;
    let rejected = reply("400 Bad Request", "", usage);
    let upstream = Upstream::start(move |number, _, connection| match number {
        0 => connection.write_all(&rejected),
        _ => connection.write_all(&unknown),
    });
    let machine = priced(&upstream);
    let gateway = start(&machine, &[]);
    let key = create(&machine, &["ann", "--budget", "1 USD/day"]);
    let body = br#"{"model":"coder-model","max_tokens":100}"#;
    send(&gateway, &key, "POST /v1/chat/completions", body).is(400);
    until("it is settled", || listed(&machine, "ann")["used"]["in_flight"] == 0);
    assert_eq!(listed(&machine, "ann")["used"]["spent_usd"], 0.0);
    send(&gateway, &key, "POST /v1/chat/completions", body).is(200);
    // 40 bytes are 10 tokens.
    until("it is settled", || listed(&machine, "ann")["used"]["spent_usd"] == 0.010_01);
    send(&gateway, &key, "POST /v1/messages/count_tokens", body).is(200);
    assert_eq!(settled(&machine, "ann")["spent_usd"], 0.010_01, "counting is free");
    let usage = || -> Value {
        let usage: Value = serde_json::from_str(&printed(&machine, &["usage", "--team", "--json"])).unwrap();
        usage["usage"][0].clone()
    };
    until("it is in the ledger", || usage()["requests"] == 3);
    let row = usage();
    assert_eq!((&row["charged_usd"], &row["charged_tokens"]), (&0.010_01.into(), &110.into()), "{row}");
    assert_eq!((&row["cost_usd"], &row["completion_tokens"]), (&0.0.into(), &0.into()), "{row}");
    assert!(printed(&machine, &["usage", "--team"]).contains("CHARGED"));
}

/// A key, and what it has used once nothing of it is in flight.
fn settled(machine: &Machine, name: &str) -> Value {
    until("it is settled", || listed(machine, name)["used"]["in_flight"] == 0);
    listed(machine, name)["used"].clone()
}

#[test]
fn a_repeated_attempt_counts_for_the_minute_of_a_key_and_not_for_its_day_and_budget() {
    let upstream = Upstream::start(|number, _, connection| match number {
        0 => connection.write_all(&error("503 Busy", "retry-after-ms: 1\r\n", "x", "later")),
        _ => connection.write_all(&fine()),
    });
    let machine = priced(&upstream);
    let gateway = start(&machine, &[]);
    let key = create(&machine, &["ann", "--rpm", "10", "--rpd", "10", "--budget", "1 USD/day"]);
    for (asked, left) in [(2, 8), (3, 7)] {
        chat(&gateway, &key).is(200);
        assert_eq!(upstream.asked().len(), asked);
        let used = settled(&machine, "ann");
        assert_eq!(used["requests_today"], asked - 1);
        let described = send(&gateway, &key, "GET /v1/key", b"").json()["data"].clone();
        assert_eq!(described["requests_per_minute"]["remaining"], left);
    }
    assert_eq!(listed(&machine, "ann")["used"]["spent_usd"], 0.001_41);
}

#[test]
fn a_client_that_leaves_a_request_that_was_sent_is_charged_the_estimate() {
    let upstream = Upstream::start(|_, _, connection| until_closed(connection));
    let machine = priced(&upstream);
    let gateway = start(&machine, &[]);
    let key = create(&machine, &["ann", "--budget", "1 USD/day"]);
    let body = br#"{"model":"coder-model","max_tokens":100}"#;
    let client = ask(&gateway, &key, "POST /v1/chat/completions", body);
    upstream.wait_for(1);
    drop(client);
    let used = settled(&machine, "ann");
    assert_eq!((&used["requests_today"], &used["spent_usd"]), (&1.into(), &0.010_01.into()));
}

/// Anthropic's streams begin with a usage, of the prompt.
#[test]
fn a_client_that_leaves_a_stream_is_charged_the_estimate_unless_the_last_usage_had_come() {
    let start = r#"data: {"message":{"usage":{"input_tokens":25,"output_tokens":1}}}"#;
    let text = format!(r#"data: {{"delta":{{"text":"{}"}}}}"#, "word ".repeat(400));
    let end = r#"data: {"usage":{"output_tokens":50}}"#;
    let upstream = Upstream::start(move |number, _, connection| {
        connection.write_all(super::upstream::STREAM)?;
        let events = if number == 0 { vec![start, &text] } else { vec![start, &text, end] };
        events
            .into_iter()
            .try_for_each(|event| connection.write_all(&super::upstream::chunk(&format!("{event}\n\n"))))?;
        until_closed(connection)
    });
    let machine = priced(&upstream);
    let gateway = self::start(&machine, &[]);
    let body = br#"{"model":"coder-model","max_tokens":100}"#;
    for (name, last, spent) in [("ann", "word \"", 0.010_025), ("bob", "50}}", 0.005_025)] {
        let key = create(&machine, &[name, "--budget", "1 USD/day"]);
        let mut client = ask(&gateway, &key, "POST /v1/chat/completions", body);
        client.read_until(last);
        drop(client);
        assert_eq!(settled(&machine, name)["spent_usd"], spent, "{name}");
    }
}

#[test]
fn a_client_that_leaves_while_its_request_is_not_sent_is_charged_nothing() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", server.local_addr().unwrap());
    let machine = Machine::new().logged_in().field("resource_url", serde_json::json!(url));
    let machine = configured(machine, &format!("{PRICES}{UNPACED}"));
    let gateway = start(&machine, &[]);
    let key = create(&machine, &["ann", "--budget", "1 USD/day"]);
    let client = ask(&gateway, &key, "POST /v1/chat/completions", CHAT);
    // It is connected, and its TLS handshake is never answered.
    let (connection, _) = server.accept().unwrap();
    assert_eq!(listed(&machine, "ann")["used"]["requests_today"], 1);
    drop(client);
    let used = settled(&machine, "ann");
    assert_eq!((&used["requests_today"], &used["spent_usd"]), (&0.into(), &0.0.into()));
    drop(connection);
}

/// The provider answers once, that it is busy, and is gone.
#[test]
fn of_the_attempts_of_a_key_only_those_that_are_sent_count() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let machine = configured(logged_in_at(&server.local_addr().unwrap().to_string()), UNPACED);
    let gateway = start(&machine, &[]);
    let key = create(&machine, &["ann", "--rpd", "9"]);
    let client = ask(&gateway, &key, "POST /v1/chat/completions", CHAT);
    let (mut connection, _) = server.accept().unwrap();
    refuse_connections(server);
    // An answer to a request that has not begun would be nobody's.
    assert!(connection.read(&mut [0; 1024]).unwrap() > 0);
    connection.write_all(&error("503 Service Unavailable", "Connection: close\r\n", "busy", "busy")).unwrap();
    assert_eq!(client.got().is(502).header("x-qwenauth-attempts"), "3");
    chat(&gateway, &key).is(502);
    assert_eq!(settled(&machine, "ann")["requests_today"], 1);
    let mut usage = machine.run(["usage", "--json"]);
    let limits = usage.json()["limits"].as_array().unwrap().clone();
    let used: Vec<_> = limits.iter().map(|limit| limit["used"].as_u64()).collect();
    assert_eq!(used, [Some(1); 2], "{limits:?}");
    let counts = &usage.json()["usage"][0];
    assert_eq!((&counts["requests"], &counts["tries"]), (&2.into(), &1.into()));
}

/// Elsewhere the port is free for others from now on.
fn refuse_connections(server: TcpListener) {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        nix::sys::socket::shutdown(server.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
        std::mem::forget(server);
    }
    #[cfg(not(target_os = "linux"))]
    drop(server);
}

#[test]
fn a_response_that_breaks_off_before_its_body_costs_the_estimate() {
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n";
    let upstream = Upstream::start(|_, _, connection| {
        connection.write_all(HEAD)?;
        Err(std::io::ErrorKind::ConnectionAborted.into())
    });
    let machine = priced(&upstream);
    let gateway = start(&machine, &[]);
    let key = create(&machine, &["ann", "--budget", "1 USD/day"]);
    let body = br#"{"model":"coder-model","max_tokens":100}"#;
    is_refused(&send(&gateway, &key, "POST /v1/chat/completions", body), 502, "upstream_error");
    let used = settled(&machine, "ann");
    assert_eq!((&used["requests_today"], &used["spent_usd"]), (&1.into(), &0.010_01.into()));
}

#[test]
fn eight_gateways_keep_the_limit_of_a_key_together() {
    let upstream = Upstream::always(fine());
    let machine = priced(&upstream);
    let key = create(&machine, &["ann", "--rpm", "60"]);
    scale(&machine);
    let gateways: Vec<Gateway> = (0..8).map(|_| start(&machine, &[])).collect();
    let begin = Instant::now();
    thread::scope(|scope| {
        for gateway in &gateways {
            for _ in 0..16 {
                scope.spawn(|| chat(gateway, &key).is(200).status);
            }
        }
    });
    let asked = upstream.asked();
    assert_eq!(asked.len(), 128);
    keeps_the_limit(asked.iter().map(|asked| asked.at), begin, 60, Duration::from_secs(3));
    until("all is settled", || listed(&machine, "ann")["used"]["in_flight"] == 0);
    assert_eq!(listed(&machine, "ann")["used"]["requests_today"], 128);
}

#[test]
fn a_client_that_disconnects_in_the_queue_releases_its_slot() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let key = create(&machine, &["ann", "--rpm", "1", "--rpd", "3"]);
    scale(&machine);
    let gateway = start(&machine, &[]);
    chat(&gateway, &key).is(200);
    let (address, length) = (&gateway.address, CHAT.len());
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\nContent-Length: {length}\r\n\r\n"
    );
    let waiting = Client::send(address, &[head.as_bytes(), CHAT].concat());
    until("it waits", || listed(&machine, "ann")["used"]["requests_today"] == 2);
    drop(waiting);
    until("its turn is given back", || listed(&machine, "ann")["used"]["requests_today"] == 1);
    // Until the next window, and not until the one after that.
    let got = chat(&gateway, &key);
    let wait: u64 = got.is(200).header("x-qwenauth-wait-ms").parse().unwrap();
    assert!(wait < 4500, "{wait} ms");
}

#[test]
fn requests_in_flight_of_a_key_are_limited_and_the_next_starts_when_one_ends() {
    let gate = crate::server::Gate::default();
    let passes = gate.clone();
    let upstream = Upstream::start(move |_, _, connection| {
        passes.pass();
        connection.write_all(&fine())
    });
    let machine = logged_in(&upstream);
    let key = create(&machine, &["ann", "--parallel", "2"]);
    let gateways = [start(&machine, &[]), start(&machine, &[])];
    thread::scope(|scope| {
        let clients: Vec<_> = (0..5)
            .map(|at| {
                scope.spawn({
                    let (gateway, key) = (&gateways[at % 2], &key);
                    move || chat(gateway, key)
                })
            })
            .collect();
        upstream.wait_for(2);
        until("they are in flight", || listed(&machine, "ann")["used"]["in_flight"] == 2);
        assert_eq!(upstream.asked().len(), 2);
        gate.open();
        for client in clients {
            assert_eq!(client.join().unwrap().status, 200);
        }
    });
    assert_eq!(upstream.asked().len(), 5);
}

#[test]
fn usage_by_key_counts_what_the_provider_received() {
    const KEYS: usize = 20;
    let upstream = Upstream::always(fine());
    let machine = priced(&upstream);
    let keys: Vec<String> =
        (0..KEYS).map(|at| create(&machine, &[&format!("key-{at}"), "--owner", &format!("team-{}", at % 2)])).collect();
    let gateways = [start(&machine, &[]), start(&machine, &[])];
    thread::scope(|scope| {
        for (at, key) in keys.iter().enumerate() {
            let gateways = &gateways;
            scope.spawn(move || (0..=at).for_each(|number| assert_eq!(chat(&gateways[number % 2], key).status, 200)));
        }
    });
    assert_eq!(upstream.asked().len(), KEYS * (KEYS + 1) / 2);
    for gateway in gateways {
        gateway.running.signal(Signal::SIGTERM);
        drop(gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout());
    }
    let usage: Value = serde_json::from_str(&printed(&machine, &["usage", "--team", "--json"])).unwrap();
    let rows = usage["usage"].as_array().unwrap();
    assert_eq!(rows.len(), KEYS);
    for (at, key) in keys.iter().enumerate() {
        let row = rows.iter().find(|row| row["key"] == key[3..11]).unwrap();
        let requests = at as u64 + 1;
        assert_listed("usage --team --json", ".usage[]", row);
        assert_eq!((&row["name"], &row["requests"]), (&format!("key-{at}").into(), &requests.into()));
        assert_eq!((&row["tries"], &row["completion_tokens"]), (&requests.into(), &(7 * requests).into()));
    }
    let owners: Value =
        serde_json::from_str(&printed(&machine, &["usage", "--team", "--by", "owner", "--json"])).unwrap();
    let sums: Vec<u64> =
        owners["usage"].as_array().unwrap().iter().map(|row| row["requests"].as_u64().unwrap()).collect();
    assert_eq!(sums, [100, 110]);
    let text = printed(&machine, &["usage", "--team"]);
    assert!(text.contains("key-19") && text.contains("0.0141"), "{text}");
    // Without `--team` it is one sum.
    let all: Value = serde_json::from_str(&printed(&machine, &["usage", "--json"])).unwrap();
    assert_listed("usage --json", ".usage[]", &all["usage"][0]);
    assert_eq!(all["usage"][0]["requests"], 210);
}

#[test]
fn a_kill_at_any_call_of_a_change_loses_no_key() {
    if !has_programs(&["strace"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream).with_kills();
    let key = create(&machine, &["first"]);
    // What was killed, and whether its key is there.
    let mut killed = Vec::new();
    for call in ["flock", "write", "fsync", "rename", "renameat"] {
        for number in 1.. {
            let name = format!("{call}-{number}");
            let mut strace = machine.other("strace");
            strace.args(["-qqq", "-o", "/dev/null", "-e", &format!("inject={call}:signal=KILL:when={number}")]);
            let ended = strace.arg(machine.program()).args(["keys", "create", &name]).status().unwrap();
            let listed = printed(&machine, &["keys", "list"]);
            assert!(listed.contains("first"), "{name}: {listed}");
            if ended.success() {
                break;
            }
            killed.push((listed.contains(&name), name));
        }
    }
    let made = killed.iter().filter(|(is_made, _)| *is_made).count();
    assert!(made > 0 && killed.len() - made > 3, "before and after the key is there: {killed:?}");
    chat(&start(&machine, &[]), &key).is(200);
    create(&machine, &["last"]);
}

#[test]
fn a_killed_gateways_requests_count_for_the_day_and_its_slots_stay_reserved() {
    let gate = crate::server::Gate::default();
    let passes = gate.clone();
    let upstream = Upstream::start(move |_, _, connection| {
        passes.pass();
        connection.write_all(&fine())
    });
    let machine = priced(&upstream);
    let key = create(&machine, &["ann", "--budget", "1 USD/month"]);
    let gateway = start(&machine, &[]);
    let (address, length) = (&gateway.address, CHAT.len());
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\nContent-Length: {length}\r\n\r\n"
    );
    let client = Client::send(address, &[head.as_bytes(), CHAT].concat());
    upstream.wait_for(1);
    gateway.running.signal(Signal::SIGKILL);
    gateway.running.finish().any_stdout().any_stderr().any_end();
    drop(client);
    gate.open();
    let used = listed(&machine, "ann")["used"].clone();
    assert_eq!((&used["requests_today"], &used["in_flight"], &used["spent_usd"]), (&1.into(), &1.into(), &0.0.into()));
    // What is left serves others meanwhile.
    let gateway = start(&machine, &[]);
    chat(&gateway, &key).is(200);
}

#[test]
fn opencode_gets_its_configuration_without_the_key() {
    let upstream = Upstream::always(fine());
    let machine = priced(&upstream);
    let key = create(&machine, &["ann"]);
    let gateway = start(&machine, &[]);
    for (path, command) in [("/.well-known/opencode", "sh"), ("/qwenauth/.well-known/opencode", "qwenauth")] {
        let got = send(&gateway, "", &format!("GET {path}"), b"");
        let page: Value = serde_json::from_str(got.is(200).text().as_str()).unwrap();
        assert_eq!(page["auth"]["command"][0], command);
        assert_eq!(page["config"]["model"], "team/coder-model");
        assert_eq!(page["config"]["enabled_providers"], serde_json::json!(["team"]));
        let provider = &page["config"]["provider"]["team"];
        assert_eq!(provider["options"]["baseURL"], format!("http://{}/v1", gateway.address));
        let variable = page["auth"]["env"].as_str().unwrap();
        assert_eq!(provider["options"]["apiKey"], format!("{{env:{variable}}}"));
        assert!(provider["models"]["coder-model"]["limit"]["context"].as_u64().is_some(), "{page}");
        assert!(!got.text().contains("qa_") && !got.text().contains("granted"), "{page}");
        // It is read, and nothing else.
        is_refused(&send(&gateway, "", &format!("POST {path}"), b"{}"), 401, "invalid_api_key");
        send(&gateway, "", &format!("GET {path}/"), b"").is(401);
    }
    chat(&gateway, &key).is(200);
    assert_eq!(upstream.asked().len(), 1, "a stranger's question reached the provider");
}

#[test]
fn the_command_for_opencode_asks_for_the_key_on_the_terminal_without_echo() {
    if !has_programs(&["python3"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let machine = priced(&upstream);
    drop(create(&machine, &["ann"]));
    let gateway = start(&machine, &[]);
    let page: Value =
        serde_json::from_str(&send(&gateway, "", "GET /.well-known/opencode", b"").is(200).text()).unwrap();
    let command = page["auth"]["command"][2].as_str().unwrap();
    let asked = machine.directory().join("asked.sh");
    fs::write(&asked, command).unwrap();
    // As opencode starts it: no stdin, stdout read through a pipe, the terminal only as the controlling one.
    let script = r#"
import os, pty, sys
directory = sys.argv[1]
child, terminal = pty.fork()
if child == 0:
    os.execvp("sh", ["sh", "-c", 'sh "$0/asked.sh" < /dev/null > "$0/printed"; stty -a > "$0/after"', directory])
shown = b""
typed = False
while True:
    try:
        piece = os.read(terminal, 4096)
    except OSError:
        break
    if not piece:
        break
    shown += piece
    if not typed and b"Key: " in shown:
        os.write(terminal, b"qa_typed\n")
        typed = True
status = os.waitpid(child, 0)[1]
assert status == 0 and typed, (status, shown)
assert b"qa_typed" not in shown, shown
"#;
    let driver = machine.directory().join("driver.py");
    fs::write(&driver, script).unwrap();
    let mut python = machine.other("python3");
    python.arg(&driver).arg(machine.directory());
    drop(machine.start(python).finish().any_stdout().exits(0));
    assert_eq!(fs::read_to_string(machine.directory().join("printed")).unwrap(), "qa_typed\n");
    let after = fs::read_to_string(machine.directory().join("after")).unwrap();
    assert!(after.split_whitespace().any(|word| word == "echo"), "the terminal stays mute: {after}");
}

#[test]
fn opencode_gets_no_configuration_over_plain_http_or_without_keys() {
    let upstream = Upstream::always(fine());
    let machine = priced(&upstream);
    drop(create(&machine, &["ann"]));
    let without_keys = Gateway::start(&machine, &[]);
    send(&without_keys, "", "GET /.well-known/opencode", b"").is(401);
    let open = machine.spawn(["gateway", "--keys", "--listen", "0.0.0.0:0", "--plain-http"]);
    let url = open.first_lines(1)[0].clone();
    let port = url.trim_end_matches("/v1").rsplit_once(':').unwrap().1.to_owned();
    let request = format!("GET /.well-known/opencode HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    Client::send(&format!("127.0.0.1:{port}"), request.as_bytes()).got().is(401);
}
