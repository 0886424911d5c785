//! Requests that another of the user's own profiles serves: two providers, each a process with a key and a model of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::upstream::{Client, Gateway, Got, chunk, error, reply};
use crate::machine::{Machine, has_programs, until};

const REQUEST: &[u8] = br#"{"messages":[{"role":"user","content":"model \"one\""}],"model":"one","n":1}"#;

const DIRECTORY: &str = "QWENAUTH_TEST_PROVIDER";

/// Not a test: what [`Provider::start`] runs, in a process of its own.
#[test]
#[ignore = "a provider that the other tests start"]
fn provider() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let directory = Path::new(&directory);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    fs::write(directory.join("address.new"), listener.local_addr().unwrap().to_string()).unwrap();
    fs::rename(directory.join("address.new"), directory.join("address")).unwrap();
    for connection in listener.incoming() {
        let directory = directory.to_owned();
        std::thread::spawn(move || serve(&connection.unwrap(), &directory));
    }
}

/// Logs a request with all its headers and answers as the file `answer` says now: what it does, a line break, the bytes.
fn serve(connection: &TcpStream, directory: &Path) -> Option<()> {
    let mut reader = BufReader::new(connection);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            (reader.read_line(&mut head).ok()? > 0).then_some(())?;
        }
        let length = head.to_ascii_lowercase();
        let length = length.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let line = json!({ "head": head, "body": String::from_utf8_lossy(&body) });
        let mut log = fs::OpenOptions::new().append(true).create(true).open(directory.join("log")).unwrap();
        log.write_all(format!("{line}\n").as_bytes()).unwrap();
        let answer = fs::read(directory.join("answer")).unwrap();
        let end = answer.iter().position(|byte| *byte == b'\n').unwrap();
        { connection }.write_all(&answer[end + 1..]).ok()?;
        if &answer[..end] == b"cut" {
            connection.shutdown(Shutdown::Both).ok()?;
            return None;
        }
    }
}

struct Provider {
    process: Child,
    directory: PathBuf,
    address: String,
}

impl Provider {
    fn start(machine: &Machine, name: &str) -> Self {
        let directory = machine.directory().join(name);
        fs::create_dir(&directory).unwrap();
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "gateway::fallback::provider", "--ignored", "--nocapture"])
            .env(DIRECTORY, &directory)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let provider = Self { process, address: String::new(), directory };
        let address = provider.directory.join("address");
        until("the provider listens", || address.exists());
        let provider = Self::with_address(provider, fs::read_to_string(address).unwrap());
        provider.answers("answer", &served(name));
        provider
    }

    fn with_address(mut self, address: String) -> Self {
        self.address = address;
        self
    }

    /// What it does from now on.
    fn answers(&self, action: &str, bytes: &[u8]) {
        let new = self.directory.join("answer.new");
        fs::write(&new, [action.as_bytes(), b"\n", bytes].concat()).unwrap();
        fs::rename(new, self.directory.join("answer")).unwrap();
    }

    /// What it was asked: each request with its head and body.
    fn asked(&self) -> Vec<Value> {
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// An answer that tells whose it is.
fn served(name: &str) -> Vec<u8> {
    let usage = r#""usage":{"prompt_tokens":5,"completion_tokens":7}"#;
    reply("200 OK", "", &format!(r#"{{"model":"of-{name}","choices":[],{usage}}}"#))
}

/// The plan of the first profile is over.
fn plan_over() -> Vec<u8> {
    error("429 Too Many Requests", "", "Throttling.AllocationQuota", "month allocated quota exceeded")
}

/// Two providers, and a profile with a key of its own at each.
struct Pair {
    machine: Machine,
    first: Provider,
    second: Provider,
}

const MAP: &str = "[fallback.models.\"one\"]\nsecond = \"two\"\n";

impl Pair {
    fn start() -> Self {
        Self::configured(MAP)
    }

    fn configured(config: &str) -> Self {
        let machine = Machine::new();
        let [first, second] = ["first", "second"].map(|name| Provider::start(&machine, name));
        for (profile, provider) in [("first", &first), ("second", &second)] {
            log_in(&machine, "custom", profile, &format!("http://{}/v1", provider.address));
        }
        Self { machine: machine.configured(config), first, second }
    }

    fn gateway(&self, more: &[&str]) -> Gateway {
        Gateway::start(&self.machine, &[&["--profile", "first", "--fallback", "second"], more].concat())
    }

    /// No key of one reached the other, in any header.
    #[track_caller]
    fn keeps_keys_apart(&self) {
        for (provider, own, other) in [
            (&self.first, "granted-key-of-first", "granted-key-of-second"),
            (&self.second, "granted-key-of-second", "granted-key-of-first"),
        ] {
            for request in provider.asked() {
                let text = request.to_string();
                assert!(text.contains(&format!("Bearer {own}")) || text.contains(&format!("bearer {own}")), "{text}");
                assert!(!text.contains(other), "{text}");
            }
        }
    }
}

fn log_in(machine: &Machine, provider: &str, profile: &str, base_url: &str) {
    let login = ["login", provider, "--profile", profile, "--base-url", base_url, "--no-verify", "--api-key-stdin"];
    drop(machine.run_with_stdin(login, format!("granted-key-of-{profile}\n").as_bytes()).exits(0).any_stderr());
}

fn ask(gateway: &Gateway) -> Got {
    gateway.send("POST /v1/chat/completions", "X-Own: kept\r\n", REQUEST).got()
}

/// With the key of a person or job.
fn ask_with(gateway: &Gateway, key: &str) -> Got {
    let (address, length) = (&gateway.address, REQUEST.len());
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nX-Api-Key: {key}\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    Client::send(address, &[head.as_bytes(), REQUEST].concat()).got()
}

fn create_key(pair: &Pair, name: &str, more: &[&str]) -> String {
    let mut made = pair.machine.run([&["keys", "create", name, "--json"], more].concat());
    made.json()["key"].as_str().unwrap().to_owned()
}

#[track_caller]
fn is_served_by(got: &Got, profile: &str, reason: &str) {
    got.is(200);
    assert_eq!((got.header("x-qwenauth-profile"), got.header("x-qwenauth-fallback")), (profile, reason));
    assert_eq!(got.json()["model"], format!("of-{profile}"));
}

/// Usage by profile: model, requests, tries.
fn usage(pair: &Pair) -> Vec<(String, String, u64, u64)> {
    let mut usage = pair.machine.run(["usage", "--json"]);
    let usage = usage.json()["usage"].clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let entry = |entry: &Value| {
        let count = |name: &str| entry[name].as_u64().unwrap();
        (text(&entry["profile"]), text(&entry["model"]), count("requests"), count("tries"))
    };
    usage.as_array().unwrap().iter().map(entry).collect()
}

#[test]
fn a_request_falls_back_at_once_when_the_plan_is_used_up_and_every_record_names_the_profile_that_served() {
    let pair = Pair::start();
    pair.first.answers("answer", &plan_over());
    let gateway = pair.gateway(&["--metrics"]);
    gateway.running.wait_for_stderr("fallback to `second` (Any OpenAI-compatible server): `one` → `two`");
    let got = ask(&gateway);
    is_served_by(&got, "second", "plan");
    assert!(got.after < Duration::from_secs(5), "{:?}", got.after);
    assert_eq!((pair.first.asked().len(), pair.second.asked().len()), (1, 1));
    // Nothing but the model changes.
    let (first, second) = (&pair.first.asked()[0], &pair.second.asked()[0]);
    let body = second["body"].as_str().unwrap();
    assert_eq!(body, first["body"].as_str().unwrap().replace(r#""model":"one""#, r#""model":"two""#));
    let head = second["head"].as_str().unwrap().to_ascii_lowercase();
    assert!(head.contains(&format!("content-length: {}\r\n", body.len())) && head.contains("x-own: kept"), "{head}");
    assert_eq!(head.matches("content-length").count(), 1);
    gateway.running.wait_for_stderr("fallback: `one` is served by `second` as `two`, no longer by `first` (plan)");
    // The next one does not ask the first again.
    is_served_by(&ask(&gateway), "second", "plan");
    assert_eq!((pair.first.asked().len(), pair.second.asked().len()), (1, 2));
    let metrics = gateway.send("GET /metrics", "", b"").got().text();
    assert!(metrics.contains("qwenauth_fallback_total{from=\"first\",to=\"second\",reason=\"plan\"} 2\n"), "{metrics}");
    pair.keeps_keys_apart();
    until("all is counted", || usage(&pair).iter().map(|entry| entry.2).sum::<u64>() == 2);
    let counted: Vec<_> = usage(&pair);
    let counted: Vec<(&str, &str, u64, u64)> = counted
        .iter()
        .map(|(profile, model, requests, tries)| (profile.as_str(), model.as_str(), *requests, *tries))
        .collect();
    assert_eq!(counted, [("first", "one", 0, 1), ("second", "two", 2, 2)]);
    let mut of_one = pair.machine.run(["usage", "--json", "--profile", "second"]);
    let profiles: Vec<Value> =
        of_one.json()["usage"].as_array().unwrap().iter().map(|row| row["profile"].clone()).collect();
    assert_eq!(profiles, ["second"]);
    let of_none = pair.machine.run(["usage", "--profile", "third"]);
    of_none.fails(4, "there is no stored profile `third`", "run `qwenauth profiles` to list the stored profiles");
}

#[test]
fn a_used_up_plan_stays_used_up_after_a_restart() {
    let pair = Pair::start();
    pair.first.answers("answer", &plan_over());
    is_served_by(&ask(&pair.gateway(&[])), "second", "plan");
    is_served_by(&ask(&pair.gateway(&[])), "second", "plan");
    assert_eq!(pair.first.asked().len(), 1);
}

#[test]
fn a_truncated_stream_and_a_connection_closed_early_cause_no_fallback() {
    let pair = Pair::start();
    let gateway = pair.gateway(&[]);
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    pair.first.answers("cut", &[&head[..], &chunk("data: 1\n\n")].concat());
    let got = ask(&gateway);
    assert_eq!((got.status, got.whole, got.header("x-qwenauth-profile")), (200, false, "first"));
    pair.first.answers("cut", b"");
    let got = ask(&gateway);
    assert_eq!((got.is(502).code().as_str(), got.header("x-qwenauth-profile")), ("upstream_error", "first"));
    assert_eq!((pair.first.asked().len(), pair.second.asked().len()), (2, 0));
}

#[test]
fn a_request_without_a_mapped_model_with_server_state_or_without_text_does_not_fall_back() {
    let pair = Pair::start();
    pair.first.answers("answer", &plan_over());
    let gateway = pair.gateway(&[]);
    for (line, more, body) in [
        ("POST /v1/chat/completions", "", r#"{"model":"unmapped"}"#),
        ("POST /v1/chat/completions", "", r#"{"model":"one","model":"one"}"#),
        ("POST /v1/chat/completions", "Content-Encoding: gzip\r\n", r#"{"model":"one"}"#),
        ("POST /v1/responses", "", r#"{"model":"one","previous_response_id":"r"}"#),
        ("POST /v1/embeddings", "", r#"{"model":"one"}"#),
        ("GET /v1/models", "", ""),
    ] {
        let got = gateway.send(line, more, body.as_bytes()).got();
        assert_eq!(
            (got.is(429).header("x-qwenauth-profile"), got.header("x-qwenauth-fallback")),
            ("first", ""),
            "{body}"
        );
        assert!(got.text().contains("the monthly quota is used up"), "{}", got.text());
    }
    assert_eq!(pair.second.asked().len(), 0);
}

#[test]
fn a_limit_per_minute_an_unpaid_account_and_a_rejected_key_cause_no_fallback() {
    let pair = Pair::start();
    let gateway = pair.gateway(&["--max-wait", "100ms"]);
    for (status, message) in [
        ("429 Too Many Requests", "the account is in arrears"),
        ("401 Unauthorized", "unknown key"),
        ("403 Forbidden", "not for you"),
        ("402 Payment Required", "pay"),
        ("400 Bad Request", "per day"),
        // Waited for once, then told.
        ("429 Too Many Requests", "requests per minute"),
    ] {
        pair.first.answers("answer", &error(status, "", "x", message));
        assert_eq!(ask(&gateway).status.to_string(), status[..3], "{message}");
    }
    assert_eq!(pair.second.asked().len(), 0);
}

#[test]
fn the_first_profile_serves_again_from_the_time_it_stated() {
    let pair = Pair::start();
    let weekly = error("429 Too Many Requests", "Retry-After: 2\r\n", "x", "the weekly quota of this plan is spent");
    pair.first.answers("answer", &weekly);
    let gateway = pair.gateway(&["--max-wait", "1s"]);
    let since = Instant::now();
    is_served_by(&ask(&gateway), "second", "plan");
    pair.first.answers("answer", &served("first"));
    let mut by_second = 0;
    until("the first serves again", || {
        let got = ask(&gateway);
        let is_back = got.header("x-qwenauth-profile") == "first";
        by_second += u32::from(!is_back);
        is_back
    });
    assert!(since.elapsed() >= Duration::from_secs(2) && by_second > 0, "{:?} {by_second}", since.elapsed());
    gateway.running.wait_for_stderr("`one` is served by `first` as `one`, no longer by `second` (back)");
    is_served_by(&ask(&gateway), "first", "");
}

#[test]
fn a_request_sent_to_the_fallback_profile_itself_changes_nothing() {
    let pair = Pair::start();
    pair.first.answers("answer", &plan_over());
    let gateway = pair.gateway(&["--all-profiles"]);
    is_served_by(&ask(&gateway), "second", "plan");
    is_served_by(&gateway.send("POST /p/second/v1/chat/completions", "", REQUEST).got(), "second", "");
    is_served_by(&ask(&gateway), "second", "plan");
    gateway.running.signal(Signal::SIGTERM);
    let outcome = gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout().any_stderr();
    assert_eq!(outcome.stderr.matches("no longer by").count(), 1, "{outcome}");
}

#[test]
fn a_fallback_that_fails_or_is_down_is_skipped() {
    let mut pair = Pair::start();
    pair.first.answers("answer", &error("500 Oops", "", "x", "broken"));
    let gateway = pair.gateway(&[]);
    is_served_by(&ask(&gateway), "second", "error");
    is_served_by(&ask(&gateway), "second", "outage");
    assert_eq!(pair.first.asked().len(), 1, "one request in half a minute asks it again");
    drop(gateway);
    // Another model, of which nothing is known yet, and nobody listens.
    pair.first.process.kill().unwrap();
    pair.first.process.wait().unwrap();
    let config = "[fallback]\nprofiles = [\"second\"]\n[fallback.models.\"three\"]\nsecond = \"two\"\n";
    let Pair { machine, second, .. } = pair;
    let machine = machine.configured(config);
    let gateway = Gateway::start(&machine, &["--profile", "first"]);
    let got = gateway.send("POST /v1/chat/completions", "", br#"{"model":"three"}"#).got();
    is_served_by(&got, "second", "outage");
    assert_eq!(second.asked().len(), 3);
}

#[test]
fn each_of_many_requests_at_the_end_of_a_plan_is_answered_once() {
    let pair = Pair::start();
    pair.first.answers("answer", &plan_over());
    let gateway = pair.gateway(&[]);
    let got: Vec<Got> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..64).map(|_| scope.spawn(|| ask(&gateway))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    for got in &got {
        is_served_by(got, "second", "plan");
    }
    assert_eq!(pair.second.asked().len(), 64);
    assert!(pair.first.asked().len() <= 64);
    pair.keeps_keys_apart();
}

#[test]
fn if_no_profile_serves_the_client_gets_the_first_response_and_the_list_of_attempts() {
    let pair = Pair::start();
    pair.first.answers("answer", &plan_over());
    pair.second.answers("answer", &error("429 Too Many Requests", "Retry-After: 90\r\n", "x", "daily limit"));
    let gateway = pair.gateway(&[]);
    let got = ask(&gateway);
    assert_eq!((got.is(429).code().as_str(), got.header("x-qwenauth-profile")), ("insufficient_quota", "first"));
    assert!(got.text().contains("the monthly quota is used up") && got.text().contains("`second`"), "{}", got.text());
    let wait: u64 = got.header("retry-after").parse().unwrap();
    assert!((80..=91).contains(&wait), "{wait}");
    pair.second.answers("answer", &error("401 Unauthorized", "", "x", "unknown key"));
    until("the limit of the second has passed or not", || true);
    pair.first.answers("answer", &error("503 Busy", "", "x", "later"));
    assert_eq!(ask(&gateway).header("x-qwenauth-profile"), "first");
    until("all is counted", || usage(&pair).iter().map(|entry| entry.2).sum::<u64>() == 2);
    pair.keeps_keys_apart();
}

#[test]
fn a_busy_service_moves_a_request_after_its_attempts_and_a_bad_request_is_the_answer_of_the_second() {
    let pair = Pair::start();
    let busy = error("503 Busy", "retry-after-ms: 1\r\n", "x", "later");
    pair.first.answers("answer", &busy);
    let gateway = pair.gateway(&[]);
    is_served_by(&ask(&gateway), "second", "error");
    assert_eq!((pair.first.asked().len(), pair.second.asked().len()), (3, 1));
    pair.second.answers("answer", &error("400 Bad Request", "", "x", "no such parameter"));
    let got = ask(&gateway);
    assert_eq!(got.is(400).header("x-qwenauth-profile"), "second");
    assert!(got.text().contains("no such parameter"), "{}", got.text());
}

#[test]
fn a_request_beyond_the_users_own_quota_moves() {
    let pair = Pair::configured(&format!("{MAP}[providers.custom.limits]\nrequests_per_5h = 1\n"));
    let gateway = pair.gateway(&[]);
    is_served_by(&ask(&gateway), "first", "");
    is_served_by(&ask(&gateway), "second", "plan");
    assert_eq!((pair.first.asked().len(), pair.second.asked().len()), (1, 1));
}

#[test]
fn a_service_that_is_busy_by_its_limit_is_not_left_for_another() {
    let pair = Pair::start();
    pair.first.answers("answer", &error("429 Too Many Requests", "", "x", "slow down"));
    let gateway = pair.gateway(&[]);
    assert_eq!(ask(&gateway).is(429).header("x-qwenauth-profile"), "first");
    assert_eq!((pair.first.asked().len(), pair.second.asked().len()), (3, 0));
}

#[test]
fn exec_falls_back_as_well_and_only_to_the_named_profiles() {
    if !has_programs(&["curl"]) {
        return;
    }
    let pair = Pair::start();
    pair.first.answers("answer", &plan_over());
    let script = r#"curl -s -o /dev/null -w '%{http_code} %header{x-qwenauth-profile}\n' \
        -H "Authorization: Bearer $OPENAI_API_KEY" -d '{"model":"one"}' "$OPENAI_BASE_URL/chat/completions""#;
    let run = |more: &[&str]| {
        let arguments = [&["exec", "--profile", "first", "--gateway"], more, &["--", "sh", "-c", script]].concat();
        let outcome = pair.machine.run(arguments).any_stderr().any_stdout();
        outcome.stdout.clone()
    };
    assert_eq!(run(&[]), "429 first\n");
    assert_eq!(run(&["--fallback", "second"]), "200 second\n");
}

#[test]
fn an_invalid_fallback_is_rejected_at_the_start() {
    let pair = Pair::configured("");
    let start =
        |machine: &Machine, fallback: &str| machine.run(["gateway", "--profile", "first", "--fallback", fallback]);
    start(&pair.machine, "second").fails(
        2,
        "fallback requires a mapping of models, and config.toml has none",
        "write `[fallback.models.\"MODEL\"]` and below it `second = \"MODEL THERE\"`",
    );
    let Pair { machine, first: _first, second: _second } = pair;
    let machine = machine.configured(MAP);
    start(&machine, "third").fails(
        4,
        "fallback names profile `third`, which is not logged in",
        "run `qwenauth login PROVIDER --profile third`, or omit it",
    );
    start(&machine, "first").fails(2, "fallback names profile `first` twice", "name each profile only once");
    for profile in ["third", "fourth"] {
        log_in(&machine, "openrouter", profile, "https://openrouter.ai/api/v1");
    }
    let pool = |arguments: &[&str]| {
        let outcome = machine.run([&["gateway"], arguments].concat());
        let error = "fallback names two profiles of OpenRouter, whose terms forbid pooling free accounts";
        outcome.exits(2).any_stderr().stderr.contains(error)
    };
    assert!(pool(&["--profile", "third", "--fallback", "fourth"]));
    assert!(pool(&["--profile", "first", "--fallback", "third,fourth"]));
}

/// Credentials in variables: of both profiles, of the server of shared limits, of a provider's client.
fn with_variables(machine: Machine, config: &str) -> Machine {
    let client = "[providers.corp]\nclient_secret_env = \"OF_CLIENT\"\n";
    [
        ("OF_FIRST", "granted-key-of-first"),
        ("OF_SECOND", "granted-key-of-second"),
        ("OF_CLIENT", "granted-key-of-client"),
        ("QWENAUTH_SHARED_URL", "redis://:granted-key@127.0.0.1:1/0"),
    ]
    .into_iter()
    .fold(machine.configured(&format!("{config}{client}")), |machine, (name, value)| machine.variable(name, value))
}

#[test]
fn the_program_beside_a_gateway_has_no_key_of_any_profile() {
    let Pair { machine, first: _first, second: _second } = Pair::start();
    let machine = with_variables(machine, MAP);
    let arguments = ["exec", "--profile", "first", "--gateway", "--fallback", "second", "--", "env"];
    let outcome = machine.run(arguments).exits(0).any_stdout().any_stderr();
    assert!(!outcome.stdout.contains("granted-key"), "{outcome}");
}

#[test]
fn a_hook_has_no_key_of_a_profile_that_no_request_named() {
    let Pair { machine, first, second: _second } = Pair::start();
    let seen = machine.directory().join("seen");
    let script = format!("env > '{0}.new'; mv '{0}.new' '{0}'", seen.display());
    let machine = with_variables(machine, &format!("[hooks]\nlimit_reached = [\"sh\", \"-c\", {script:?}]\n"));
    first.answers("answer", &plan_over());
    let gateway = Gateway::start(&machine, &["--profile", "first", "--all-profiles"]);
    ask(&gateway).is(429);
    until("the hook has run", || seen.exists());
    let variables = fs::read_to_string(&seen).unwrap();
    assert!(variables.contains("PATH=") && !variables.contains("granted-key"), "{variables}");
}

#[test]
fn hooks_run_once_for_all_processes_with_their_event_and_no_secret() {
    let mut pair = Pair::start();
    let seen = pair.machine.directory().join("seen");
    let hook = |name: &str| {
        // One write for each: they run at the same time.
        let write = r#"event=$(cat); printf '%s %s\n' $(env | grep -c gr[a]nted-key) "$event" >> "#;
        let script = format!("{write}'{}'", seen.display());
        format!("{name} = [\"sh\", \"-c\", {script:?}]\n")
    };
    let hooks: String = ["limit_reached", "fallback", "limit_near"].map(hook).concat();
    pair.machine = pair.machine.configured(&format!("{MAP}[hooks]\n{hooks}"));
    pair.machine = pair.machine.variable("KEPT_BY_THE_USER", "granted-key-of-first");
    // It is not asked before the first event.
    pair.machine = pair.machine.variable("OF_SECOND", "granted-key-of-second");
    pair.machine = pair.machine.variable("QWENAUTH_SHARED_URL", "redis://:granted-key@127.0.0.1:1/0");
    pair.machine = pair.machine.variable("QWENAUTH_API_KEY_FILE", "");
    let ends = error(
        "429 Too Many Requests",
        "Retry-After: 900\r\n",
        "Throttling.AllocationQuota",
        "month allocated quota exceeded",
    );
    pair.first.answers("answer", &ends);
    let gateways: Vec<Gateway> = (0..4).map(|_| pair.gateway(&["--rpd", "1000", "--warn-at", "1%"])).collect();
    std::thread::scope(|scope| {
        for gateway in &gateways {
            scope.spawn(|| (0..4).for_each(|_| is_served_by(&ask(gateway), "second", "plan")));
        }
    });
    let lines = || -> Vec<String> {
        let text = fs::read_to_string(&seen).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    until("the hooks have run", || lines().len() >= 3);
    for gateway in gateways {
        gateway.running.signal(Signal::SIGTERM);
        drop(gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout().any_stderr());
    }
    let lines = lines();
    let read = |line: &String| line.strip_prefix("0 ").and_then(|event| serde_json::from_str(event).ok());
    let events: Vec<Value> = lines.iter().map(|line| read(line).expect("one event and no secret")).collect();
    let of = |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    let [reached] = of("limit_reached")[..] else { panic!("{lines:?}") };
    assert_eq!(
        (&reached["profile"], &reached["limit"], &reached["schema"]),
        (&"first".into(), &"month".into(), &1.into())
    );
    assert!(reached["resets_at"].as_str() > reached["time"].as_str(), "{reached}");
    let [moved] = of("fallback")[..] else { panic!("{lines:?}") };
    assert_eq!(
        (&moved["from"], &moved["to"], &moved["target_model"]),
        (&"first".into(), &"second".into(), &"two".into())
    );
    assert!(lines.iter().all(|line| !line.contains("granted-key")), "{lines:?}");
}

#[test]
fn the_request_of_a_key_falls_back_only_to_profiles_it_may_use_and_models_with_a_price() {
    let pair = Pair::configured(&format!("{MAP}[prices.one]\ninput = 1.0\noutput = 1.0\n"));
    pair.first.answers("answer", &plan_over());
    let create = |name: &str, more: &[&str]| create_key(&pair, name, more);
    let [free, bound, paid] = [
        create("free", &["--models", "one", "--profiles", "first,second"]),
        create("bound", &["--profiles", "first"]),
        create("paid", &["--budget", "1 USD/month"]),
    ];
    let log = pair.machine.directory().join("requests.jsonl");
    let own = pair.machine.directory().join("own");
    let (own, log_name) = (own.to_str().unwrap(), log.to_str().unwrap());
    let gateway = pair.gateway(&["--keys", "--api-key-file", own, "--log", log_name]);
    let ask = |key: &str| ask_with(&gateway, key);
    is_served_by(&ask(&free), "second", "plan");
    for (key, reason) in [
        (&bound, "the key may not use the profile that would serve it"),
        (&paid, "the key has a budget, but the model that would serve it has no price"),
    ] {
        ask(key).is(429);
        until("it is logged", || {
            let text = fs::read_to_string(&log).unwrap();
            text.lines().any(|line| line.contains(&key[3..11]) && line.contains(reason))
        });
    }
    assert_eq!(pair.second.asked().len(), 1);
    // Nothing that was not served costs anything.
    let listed = pair.machine.run(["keys", "list", "--json"]).json()["keys"].clone();
    let used = &listed[2]["used"];
    assert_eq!((&used["spent_usd"], &used["in_flight"]), (&0.0.into(), &0.into()));
    // A request that fell back is one request.
    assert_eq!((&listed[0]["name"], &listed[0]["used"]["requests_today"]), (&"free".into(), &1.into()));
    pair.keeps_keys_apart();
}

/// Nothing listens at the first profile.
#[test]
fn the_request_of_a_key_that_falls_back_counts_only_where_it_was_sent() {
    let pair = Pair::configured(&format!("{MAP}[providers.custom.limits]\nrequests_per_day = 9\n"));
    log_in(&pair.machine, "custom", "first", "http://127.0.0.1:1/v1");
    let key = super::team_keys::create(&pair.machine, &["ann"]);
    let own = pair.machine.directory().join("own");
    let gateway = pair.gateway(&["--keys", "--api-key-file", own.to_str().unwrap()]);
    let got = super::team_keys::send(&gateway, &key, "POST /v1/chat/completions", REQUEST);
    is_served_by(&got, "second", "outage");
    let mut usage = pair.machine.run(["usage", "--json"]);
    let limits = usage.json()["limits"].as_array().unwrap().clone();
    let days = limits.iter().filter(|limit| limit["name"] == "requests per day");
    let used: Vec<_> = days.map(|day| (day["profile"].as_str().unwrap(), day["used"].as_u64())).collect();
    assert_eq!(used, [("first", Some(0)), ("second", Some(1))]);
}

#[test]
fn the_request_of_a_key_moves_when_the_day_of_the_account_is_over() {
    let pair = Pair::configured(&format!("{MAP}[providers.custom.limits]\nrequests_per_day = 1\n"));
    let key = create_key(&pair, "ann", &[]);
    let own = pair.machine.directory().join("own");
    let gateway = pair.gateway(&["--keys", "--api-key-file", own.to_str().unwrap()]);
    is_served_by(&ask_with(&gateway, &key), "first", "");
    is_served_by(&ask_with(&gateway, &key), "second", "day");
    let got = ask_with(&gateway, &key);
    assert_eq!((got.is(429).header("x-qwenauth-profile"), got.code().as_str()), ("first", "daily_limit_reached"));
    assert_eq!((pair.first.asked().len(), pair.second.asked().len()), (1, 1));
}
