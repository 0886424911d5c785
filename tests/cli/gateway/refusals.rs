//! What the gateway makes of error responses: a minute is waited for, a window is told at once and remembered as far as
//! it was said, in every container and encoding. How each text is read is tested in providers/error/.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::upstream::{Gateway, Upstream, configured, error, fine, logged_in, reply};
use crate::machine::{Machine, until};
use crate::server::{Ask, Reply};

const BUSY: &str = "429 Too Many Requests";

/// A login with a key at `upstream`, of a provider with no figures of its own.
fn custom(upstream: &Upstream) -> Machine {
    custom_with(upstream, "granted-key-1")
}

fn custom_with(upstream: &Upstream, key: &str) -> Machine {
    let machine = Machine::new();
    let url = format!("http://{}/v1", upstream.address);
    let login = ["login", "custom", "--base-url", &url, "--model", "m", "--no-verify", "--api-key-stdin"];
    drop(machine.run_with_stdin(login, format!("{key}\n").as_bytes()).exits(0).any_stderr());
    machine
}

fn ask(gateway: &Gateway, model: &str) -> super::upstream::Got {
    let body = format!(r#"{{"messages":[],"model":"{model}"}}"#);
    gateway.send("POST /v1/chat/completions", "", body.as_bytes()).got()
}

/// Rejects the first so many requests, then serves.
fn rejecting(count: usize, answer: Vec<u8>) -> Upstream {
    Upstream::start(move |number, _, connection| {
        connection.write_all(&if number < count { answer.clone() } else { fine() })
    })
}

#[track_caller]
fn limits(machine: &Machine) -> Vec<Value> {
    let mut usage = machine.run(["usage", "--json"]);
    usage.json()["limits"].as_array().unwrap().clone()
}

#[test]
fn a_limit_per_minute_is_retried_although_its_message_mentions_a_plan() {
    for (headers, body) in [
        (
            "Retry-After: 1\r\n",
            r#"{"error":{"message":"RPM reached. Upgrade today for 9000 requests per day","type":"credit_limit"}}"#,
        ),
        ("Retry-After: 1\r\n", r#"{"error":{"message":"Check plan and billing","code":"insufficient_quota"}}"#),
        ("retry-after-ms: 300\r\n", r#"{"errors":[{"message":"请求过于频繁，升级套餐每日可用一千次"}]}"#),
        ("", r#"[{"error":{"code":429,"message":"Check plan and billing","details":[{"retryDelay":"0.4s"}]}}]"#),
        ("", r#"{"detail":"slow down, try again in 300ms. Get a weekly bundle"}"#),
    ] {
        let upstream = rejecting(1, reply(BUSY, headers, body));
        let machine = custom(&upstream);
        let gateway = Gateway::start(&machine, &["--rpm", "40"]);
        let got = ask(&gateway, "m");
        assert_eq!(got.is(200).header("x-qwenauth-attempts"), "2", "{body}");
        assert!(got.header("x-qwenauth-wait-ms").parse::<u64>().unwrap() >= 300, "{body}");
        ask(&gateway, "m").is(200);
        assert_eq!(upstream.asked().len(), 3, "{body}");
    }
}

#[test]
fn a_credential_that_the_provider_repeats_does_not_reach_the_client() {
    let upstream = Upstream::start(|_, asked, connection| {
        let key = asked.header("authorization").strip_prefix("Bearer ").unwrap();
        let text = format!(r#"{{"error":{{"message":"{key} is wrong"}},"key":"{key}"}}"#);
        let mut body = text.clone().into_bytes();
        let mut more = format!("X-Echo: Bearer {key}\r\n");
        if asked.header("x-encoding") == "gzip" {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(text.as_bytes())?;
            body = encoder.finish()?;
            more += "Content-Encoding: gzip\r\n";
        }
        let (status, length) = (asked.header("x-status"), body.len());
        write!(connection, "HTTP/1.1 {status} no {key}\r\n{more}Content-Length: {length}\r\n\r\n")?;
        connection.write_all(&body)
    });
    let machine = custom(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    for status in [400, 401, 402, 403, 404, 418, 500] {
        for encoding in ["", "gzip"] {
            let more = format!("X-Status: {status}\r\nX-Encoding: {encoding}\r\n");
            let mut client = gateway.send("POST /v1/chat/completions", &more, br#"{"model":"m"}"#);
            let mut got = Vec::new();
            client.reader.read_to_end(&mut got).unwrap();
            let got = String::from_utf8_lossy(&got);
            assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{got}");
            assert!(got.contains("\r\nx-echo: Bearer *************\r\n"), "{got}");
            let body = r#"{"error":{"message":"************* is wrong"},"key":"*************"}"#;
            assert!(got.ends_with(body) && !got.contains("granted-key-1") && !got.contains("gzip"), "{got}");
        }
    }
}

/// A server of one's own may have a word as its key, which is in its answers for other reasons.
#[test]
fn a_key_of_less_than_8_bytes_is_not_looked_for_in_what_the_provider_answers() {
    for (key, is_hidden) in [("default", false), ("defaults", true)] {
        let upstream = Upstream::always(reply("404 Not Found", "X-Model-Set: defaults\r\n", "no model in defaults"));
        let machine = custom_with(&upstream, key);
        let got = ask(&Gateway::start(&machine, &[]), "m");
        let shown = if is_hidden { "********" } else { "defaults" };
        assert_eq!((got.is(404).header("x-model-set"), got.text()), (shown, format!("no model in {shown}")));
    }
}

#[test]
fn a_used_up_plan_window_is_reported_at_once_named_and_remembered_across_processes() {
    for (body, name, sentence) in [
        (
            r#"{"error":{"message":"hour allocated quota exceeded","code":"insufficient_quota"}}"#,
            "quota of 5 hours",
            "5-hour",
        ),
        (
            r#"{"code":"Throttling.AllocationQuota","message":"week allocated quota exceeded"}"#,
            "quota of the week",
            "weekly",
        ),
        (r#"{"error":"month allocated quota exceeded"}"#, "quota of the month", "monthly"),
        (r#"{"errors":{"message":"The daily quota of this account is exhausted"}}"#, "requests per day", "daily"),
        (
            r#"{"type":"error","error":{"type":"rate_limit_error","message":"5-hour usage limit reached"}}"#,
            "quota of 5 hours",
            "5-hour",
        ),
        (r#"{"error":{"message":"已达到每周使用上限"}}"#, "quota of the week", "weekly"),
    ] {
        let upstream = Upstream::always(reply(BUSY, "", body));
        let machine = custom(&upstream);
        let first = Gateway::start(&machine, &[]);
        let got = ask(&first, "m");
        assert_eq!(got.is(429).header("x-should-retry"), "false");
        assert!(got.text().contains(sentence) && got.text().contains("the provider said: "), "{}", got.text());
        for got in [ask(&first, "other"), ask(&Gateway::start(&machine, &[]), "m")] {
            assert_eq!(got.is(429).header("x-qwenauth-attempts"), "0");
            assert!(got.text().contains(sentence) && !got.header("retry-after").is_empty(), "{}", got.text());
        }
        assert_eq!(upstream.asked().len(), 1, "{body}");
        let known = limits(&machine);
        assert!(known.iter().any(|limit| limit["name"] == name && limit["reached"] == true), "{known:?}");
        assert!(machine.run(["usage"]).any_stdout().stdout.contains("reached"));
        assert!(machine.run(["status"]).any_stdout().stdout.contains(&format!("{name}: used up")));
        let mut status = machine.run(["status", "--json"]);
        assert_eq!(status.json()["profiles"][0]["limits_reached"][0]["name"], name);
    }
}

#[test]
fn a_limit_is_remembered_for_its_model_only_until_the_stated_time() {
    let limit = error(BUSY, "Retry-After: 1\r\n", "x", "tokens per day (TPD) for model `m`: 10 of 10 used");
    let upstream = Upstream::start(move |_, asked, connection| {
        let rejects = asked.body.ends_with(br#""model":"m"}"#) && asked.header("x-now") != "served";
        connection.write_all(&if rejects { limit.clone() } else { fine() })
    });
    let machine = custom(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    let since = Instant::now();
    // Waited for once, in vain.
    let got = ask(&gateway, "m");
    assert_eq!((got.is(429).code().as_str(), got.header("x-qwenauth-attempts")), ("daily_limit_reached", "2"));
    ask(&gateway, "other").is(200);
    assert_eq!(ask(&gateway, "m").is(429).header("x-qwenauth-attempts"), "0");
    let body = br#"{"model":"m"}"#;
    until("the stated time has passed", || {
        gateway.send("POST /v1/chat/completions", "x-now: served\r\n", body).got().status == 200
    });
    assert!(since.elapsed() >= Duration::from_secs(2), "a second for each time that it was stated");
    assert!(limits(&machine).iter().all(|limit| limit["reached"] == false), "a success ends it");
}

#[test]
fn compressed_errors_and_usage_are_read_like_plain_ones() {
    let plain = br#"{"error":{"message":"The daily quota of this account is exhausted"}}"#;
    let gzip = |text: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    };
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    zlib.write_all(plain).unwrap();
    let zstd = ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest);
    let answer = |status: &str, encoding: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Encoding: {encoding}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    for (encoding, body) in [("gzip", gzip(plain)), ("deflate", zlib.finish().unwrap()), ("zstd", zstd)] {
        let upstream = Upstream::always(answer(BUSY, encoding, &body));
        let machine = custom(&upstream);
        let more = format!("Accept-Encoding: br, {encoding}\r\n");
        let got = Gateway::start(&machine, &[]).send("POST /v1/chat/completions", &more, br#"{"model":"m"}"#).got();
        assert_eq!((got.is(429).code().as_str(), got.header("content-encoding")), ("daily_limit_reached", ""));
        assert!(got.text().contains("quota of this account"), "{}", got.text());
        assert_eq!(upstream.asked().len(), 1, "{encoding}");
        assert_eq!(upstream.asked()[0].header("accept-encoding"), encoding, "none that cannot be read");
    }
    let usage = gzip(br#"{"model":"m","usage":{"prompt_tokens":5,"completion_tokens":7}}"#);
    let upstream = Upstream::always(answer("200 OK", "gzip", &usage));
    let machine = custom(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    let got = gateway.send("POST /v1/chat/completions", "Accept-Encoding: gzip\r\n", br#"{"model":"m"}"#).got();
    assert_eq!((got.is(200).header("content-encoding"), &got.body), ("gzip", &usage), "it passes as it is");
    until("it is counted", || {
        let mut usage = machine.run(["usage", "--json"]);
        usage.json()["usage"][0]["prompt_tokens"] == 5
    });
}

#[test]
fn a_rejected_token_is_renewed_although_the_error_is_compressed() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(br#"{"error":{"message":"no","code":"invalid_api_key"}}"#).unwrap();
    let body = encoder.finish().unwrap();
    let head = format!("HTTP/1.1 403 Forbidden\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", body.len());
    let rejected = [head.as_bytes(), &body].concat();
    let upstream = Upstream::start(move |_, asked, connection| {
        let is_old = asked.header("authorization") == "Bearer granted-access-1";
        connection.write_all(&if is_old { rejected.clone() } else { fine() })
    });
    let machine = logged_in(&upstream).refresh(Reply::tokens("2"));
    let gateway = Gateway::start(&machine, &[]);
    gateway.send("GET /v1/models", "Accept-Encoding: gzip\r\n", b"").got().is(200);
    assert_eq!(machine.server.asked(Ask::Refresh).len(), 1);
}

#[test]
fn limits_set_by_the_user_are_enforced_and_built_in_ones_warn() {
    let own = "[providers.custom.limits]\nrequests_per_day = 2\n";
    for (config, option, served) in [
        (own, &[][..], 2),
        ("", &["--rpd", "2"][..], 2),
        (own, &["--rpd", "3"][..], 3),
        (own, &["--no-pacing"][..], 4),
        ("", &[][..], 4),
    ] {
        let upstream = Upstream::always(fine());
        let machine = custom(&upstream).configured(&format!("profile = \"custom\"\n{config}"));
        let gateway = Gateway::start(&machine, option);
        let statuses: Vec<u16> = (0..4).map(|_| ask(&gateway, "m").status).collect();
        let expected: Vec<u16> = (0..4).map(|number| if number < served { 200 } else { 429 }).collect();
        assert_eq!(statuses, expected, "{config} {option:?}");
        assert_eq!(upstream.asked().len(), served);
    }
}

#[test]
fn a_rejected_request_is_counted_under_its_model_as_soon_as_it_ends() {
    let upstream = Upstream::always(error(BUSY, "", "x", "month allocated quota exceeded"));
    let machine = custom(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    let long = format!(r#"{{"messages":[{{"content":"{}"}}],"model":"asked-for"}}"#, "x".repeat(200_000));
    for _ in 0..2 {
        gateway.send("POST /v1/chat/completions", "", long.as_bytes()).got().is(429);
    }
    until("both are counted", || {
        let mut usage = machine.run(["usage", "--json"]);
        let usage = usage.json()["usage"].clone();
        usage[0]["model"] == "asked-for" && usage[0]["requests"] == 2
    });
}

#[test]
fn another_key_starts_without_the_limits_of_the_first_and_both_are_counted() {
    let upstream = Upstream::start(move |_, asked, connection| {
        let is_first = asked.header("authorization") == "Bearer granted-key-1";
        connection.write_all(&if is_first { error(BUSY, "", "x", "daily limit") } else { fine() })
    });
    let machine = custom(&upstream);
    let gateway = Gateway::start(&machine, &["--metrics"]);
    for attempts in ["1", "0"] {
        assert_eq!(ask(&gateway, "m").is(429).header("x-qwenauth-attempts"), attempts);
    }
    let url = format!("http://{}/v1", upstream.address);
    let login = ["login", "custom", "--base-url", &url, "--model", "m", "--no-verify", "--api-key-stdin"];
    drop(machine.run_with_stdin(login, b"granted-key-2\n").exits(0).any_stderr());
    ask(&gateway, "m").is(200);
    let metrics = gateway.send("GET /metrics", "", b"").got().text();
    for (name, count) in [("requests", 3), ("tries", 2), ("rate_limited", 1)] {
        let line = format!("qwenauth_{name}_total{{profile=\"custom\",model=\"m\"}} {count}\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
    // A key of another host goes there only.
    let other = Upstream::always(fine());
    let url = format!("http://{}/v1", other.address);
    let login = ["login", "custom", "--base-url", &url, "--model", "m", "--no-verify", "--api-key-stdin"];
    drop(machine.run_with_stdin(login, b"granted-key-3\n").exits(0).any_stderr());
    ask(&gateway, "m").is(200);
    assert_eq!((upstream.asked().len(), other.asked().len()), (2, 1));
}

#[test]
fn names_of_models_are_limited_in_metrics_and_ledger() {
    let upstream = Upstream::always(reply("200 OK", "", "{}"));
    let machine = custom(&upstream);
    let gateway = Gateway::start(&machine, &["--metrics"]);
    for number in 0..150 {
        ask(&gateway, &format!("model-{number}-{}", "y".repeat(150))).is(200);
    }
    let metrics = gateway.send("GET /metrics", "", b"").got().text();
    let named = metrics.lines().filter(|line| line.starts_with("qwenauth_requests_total{")).count();
    assert_eq!(named, 101);
    assert!(metrics.contains("qwenauth_requests_total{profile=\"custom\",model=\"other\"} 50\n"), "{metrics}");
    let own = |line: &&str| line.starts_with("qwenauth_");
    assert!(metrics.lines().filter(own).all(|line| line.len() < 200), "{metrics}");
    let models = metrics.split("gen_ai_request_model=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let longest = models.map(str::len).max();
    assert_eq!(longest, Some(80), "{metrics}");
}

/// A request whose error quotes the credential that it was sent with.
fn quoting(status: &'static str, code: &'static str) -> Upstream {
    Upstream::start(move |_, asked, connection| {
        let message = format!("{}: sent {}", "The daily quota is exhausted", asked.header("authorization"));
        connection.write_all(&error(status, "", code, &message))
    })
}

/// What is said on stderr, logged and remembered has no secret either: see [`crate::machine`].
#[test]
fn a_credential_quoted_by_an_error_is_in_no_message_of_the_gateway() {
    for (status, code) in [
        ("429 Too Many Requests", "x"),
        ("401 Unauthorized", "invalid_api_key"),
        ("403 Forbidden", "invalid_api_key"),
        ("400 Bad Request", "Arrearage"),
    ] {
        let upstream = quoting(status, code);
        for machine in [custom(&upstream), logged_in(&upstream)] {
            machine.server.always(Ask::Refresh, || Reply::tokens("2"));
            let machine = machine.variable("QWENAUTH_LOG", "trace");
            let log = machine.home().join("log").display().to_string();
            let gateway = Gateway::start(&machine, &["--log", &log]);
            let got = gateway.chat();
            let is_own = ["daily_limit_reached", "account_ended"].contains(&got.code().as_str());
            assert!(!is_own || got.text().contains("sent Bearer …"), "{status}: {}", got.text());
            assert!(!is_own || !got.text().contains("granted-"), "{status}: {}", got.text());
            gateway.running.signal(Signal::SIGTERM);
            gateway.running.finish().any_stdout().any_stderr().any_end();
            machine.run(["status"]).any_stdout().any_stderr().any_end();
        }
    }
}

#[test]
fn a_rejected_key_or_unpaid_account_is_remembered_until_a_request_succeeds() {
    for (status, code, told) in [
        ("401 Unauthorized", "x", "it answered 401: no"),
        ("403 Forbidden", "invalid_api_key", "it answered 403: no"),
        ("400 Bad Request", "Arrearage", "the account is unpaid, suspended or out of credit: no"),
        ("402 Payment Required", "x", "the account is unpaid, suspended or out of credit: no"),
    ] {
        let upstream = rejecting(2, error(status, "", code, "no"));
        let machine = custom(&upstream);
        let gateway = Gateway::start(&machine, &[]);
        let code = status[..3].parse().unwrap();
        ask(&gateway, "m").is(code);
        ask(&gateway, "m").is(code);
        let mut outcome = machine.run(["status", "--json"]);
        let profile = outcome.json()["profiles"][0].clone();
        drop(outcome.exits(4));
        assert_eq!(profile["state"], "refused", "{status}");
        assert_eq!(profile["problems"][0], format!("the API rejects the credential: {told}"), "{status}");
        gateway.send("GET /readyz", "", b"").got().is(503);
        ask(&gateway, "m").is(200);
        drop(machine.run(["status", "--json"]).any_stdout());
        gateway.send("GET /readyz", "", b"").got().is(200);
    }
    // What only one request is told says nothing of the key.
    for (status, code) in [("400 Bad Request", "x"), ("403 Forbidden", "x"), ("404 Not Found", "model_not_found")] {
        let upstream = Upstream::always(error(status, "", code, "no"));
        let machine = custom(&upstream);
        ask(&Gateway::start(&machine, &[]), "m").is(status[..3].parse().unwrap());
        drop(machine.run(["status", "--json"]).any_stdout());
    }
}

/// A key for models need not be one for keys.
#[test]
fn a_401_at_a_path_that_not_every_key_may_use_says_nothing_of_the_key() {
    let upstream = Upstream::start(|_, asked, connection| {
        let refused = error("401 Unauthorized", "", "x", "not with this key");
        connection.write_all(&if asked.line.contains("/v1/keys") { refused } else { fine() })
    });
    let machine = custom(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    ask(&gateway, "m").is(200);
    gateway.send("GET /v1/keys", "", b"").got().is(401);
    gateway.send("GET /readyz", "", b"").got().is(200);
    drop(machine.run(["status", "--json"]).any_stdout());
}

#[test]
fn a_header_that_contains_the_user_agent_contains_the_one_that_is_sent() {
    let upstream = Upstream::always(fine());
    for (configured_agent, sent) in [("editor/1.2", "editor/1.2"), ("editor/1.2 {user-agent}", "editor/1.2 client/9")] {
        let text = format!("[providers.qwen.headers]\nuser-agent = \"{configured_agent}\"\n");
        let machine = configured(logged_in(&upstream), &text);
        let gateway = Gateway::start(&machine, &[]);
        gateway.send("GET /v1/models", "User-Agent: client/9\r\n", b"").got().is(200);
        let asked = upstream.asked().pop().unwrap();
        assert_eq!(asked.all("user-agent"), [sent]);
        assert_eq!(asked.all("x-dashscope-useragent"), [sent]);
    }
}

#[test]
fn without_a_fallback_a_free_quota_and_an_outage_are_asked_about_each_time() {
    for (status, code) in [("403 Forbidden", "AllocationQuota.FreeTierOnly"), ("500 Oops", "x")] {
        let upstream = Upstream::always(error(status, "", code, "no"));
        for machine in [logged_in(&upstream), custom(&upstream)] {
            let gateway = Gateway::start(&machine, &[]);
            let before = upstream.asked().len();
            for _ in 0..2 {
                ask(&gateway, "m").is(status[..3].parse().unwrap());
            }
            assert_eq!(upstream.asked().len(), before + 2, "{code}");
        }
    }
}

#[test]
fn a_rejection_that_breaks_off_before_its_body_is_an_error_of_the_gateway() {
    const HEAD: &[u8] = b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n";
    let upstream = Upstream::start(|_, _, connection| {
        connection.write_all(HEAD)?;
        Err(std::io::ErrorKind::ConnectionAborted.into())
    });
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    assert_eq!(gateway.chat().is(502).code(), "upstream_error");
}
