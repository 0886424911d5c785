//! Who may ask.

use std::fs;

use nix::sys::signal::Signal;

use super::upstream::{Client, Gateway, Upstream, fine, logged_in, until_closed};
use crate::machine::{Machine, mode, until, write_private};

#[test]
fn no_request_is_served_without_the_key() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let mut gateway = Gateway::start(&machine, &["--metrics"]);
    assert!(gateway.key.strip_prefix("sk-").is_some_and(|random| random.len() == 43), "{}", gateway.key);
    let whole = gateway.key.clone();
    let other = |at: usize| {
        let mut other = whole.clone().into_bytes();
        other[at] = if other[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(other).unwrap()
    };
    let wrong =
        [String::new(), "wrong".to_owned(), "granted-access-1".to_owned(), whole[..45].to_owned(), whole.clone() + "A"];
    for key in wrong.into_iter().chain([other(0), other(20), other(45), whole.to_uppercase()]) {
        key.clone_into(&mut gateway.key);
        for name in ["x-api-key", "api-key"] {
            gateway.send("GET /v1/models", &format!("{name}: {key}\r\n"), b"").got().is(401);
        }
        for line in ["GET /v1/models", "POST /v1/chat/completions", "GET /metrics", "GET /", "OPTIONS /v1/models"] {
            let got = gateway.send(line, "", b"").got();
            assert_eq!((got.status, got.code().as_str()), (401, "invalid_api_key"), "{line}");
        }
    }
    assert!(upstream.asked().is_empty());
}

#[test]
fn the_key_is_accepted_in_each_header_that_a_protocol_uses() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let mut gateway = Gateway::start(&machine, &[]);
    let key = std::mem::replace(&mut gateway.key, "of-another".into());
    for more in [format!("x-api-key: {key}\r\n"), format!("api-key: {key}\r\n"), format!("X-API-Key: {key}\r\n")] {
        gateway.send("GET /v1/models", &more, b"").got().is(200);
    }
    let address = &gateway.address;
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let head = format!("GET /v1/models HTTP/1.1\r\nHost: {address}\r\nAuthorization: {scheme} {key}\r\n\r\n");
        Client::send(address, head.as_bytes()).got().is(200);
    }
    for value in [
        format!("Basic {key}"),
        format!("Apikey {key}"),
        key.clone(),
        format!("Bearer{key}"),
        format!("Bearer x {key}"),
    ] {
        let head = format!("GET /v1/models HTTP/1.1\r\nHost: {address}\r\nAuthorization: {value}\r\n\r\n");
        Client::send(address, head.as_bytes()).got().is(401);
    }
}

#[test]
fn the_health_check_needs_no_key() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let mut gateway = Gateway::start(&machine, &[]);
    gateway.key.clear();
    assert_eq!(gateway.send("GET /healthz", "", b"").got().text(), "{\"status\":\"ok\"}\n");
}

#[test]
fn only_host_headers_of_the_local_machine_are_accepted() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &["--allow-host", "box.example"]);
    for host in ["localhost", "127.0.0.1:1", "[::1]:80", "LOCALHOST:8080", "box.example:443"] {
        gateway.send("GET /v1/models", &format!("Host: {host}\r\n"), b"").got().is(200);
    }
    for host in [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "evil-localhost",
        "evil.127.0.0.1",
        "evil.box.example",
        "localhost:evil.example",
        "[::2]",
        "",
    ] {
        for line in ["GET /v1/models", "GET /healthz"] {
            gateway.send(line, &format!("Host: {host}\r\n"), b"").got().is(403);
        }
    }
    gateway.send("GET http://evil.example/v1/models", "", b"").got().is(403);
    let without = format!("GET /v1/models HTTP/1.0\r\nAuthorization: Bearer {}\r\n\r\n", gateway.key);
    Client::send(&gateway.address, without.as_bytes()).got().is(403);
    assert_eq!(upstream.asked().len(), 5);
}

#[test]
fn requests_from_pages_of_other_origins_are_rejected() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    for origin in ["https://evil.example", "null", "http://localhost.evil.example", "chrome-extension://abc"] {
        for line in ["POST /v1/chat/completions", "OPTIONS /v1/chat/completions"] {
            let got = gateway.send(line, &format!("Origin: {origin}\r\n"), b"").got();
            got.is(403);
            assert_eq!(got.header("access-control-allow-origin"), "");
        }
    }
    gateway.send("GET /v1/models", "Origin: http://localhost:3000\r\n", b"").got().is(200);
}

#[test]
fn only_paths_below_v1_are_forwarded() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    for path in ["/", "/models", "/v1/../api/v1/oauth2/token", "/v1/%2e%2e/x", "/p/qwen/v1/models", "/metrics"] {
        gateway.send(&format!("GET {path}"), "", b"").got().is(404);
    }
    assert!(upstream.asked().is_empty());
}

#[test]
fn a_key_file_keeps_the_key_across_restarts() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let file = machine.directory().join("key");
    let arguments = ["--api-key-file", file.to_str().unwrap()];
    let key = Gateway::start(&machine, &arguments).key.clone();
    assert_eq!(mode(&file), 0o600);
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("{key}\n"));
    let again = Gateway::start(&machine, &arguments);
    assert_eq!(again.key, key);
    again.get().is(200);
    fs::write(&file, "short\n").unwrap();
    machine.run([&["gateway"], &arguments[..]].concat()).fails(
        1,
        "`{machine}/key` does not contain a key",
        "delete it to have a key created, or write a key of at least 16 letters and digits",
    );
}

#[test]
fn a_changed_key_file_applies_without_a_restart_and_an_invalid_one_changes_nothing() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let (file, new) = (machine.directory().join("key"), machine.directory().join("new"));
    let mut gateway = Gateway::start(&machine, &["--api-key-file", file.to_str().unwrap()]);
    let old = gateway.key.clone();
    gateway.get().is(200);
    let replace = |gateway: &mut Gateway, key: &str| {
        write_private(&new, format!("{key}\n"));
        fs::rename(&new, &file).unwrap();
        key.clone_into(&mut gateway.key);
    };
    replace(&mut gateway, "another-key-0123456789");
    until("the new key is in force", || gateway.get().status == 200);
    let another = std::mem::replace(&mut gateway.key, old);
    gateway.get().is(401);
    gateway.key = another;
    // What cannot be a key, and then none at all: the one before stays.
    fs::write(&file, "short\n").unwrap();
    gateway.running.wait_for_stderr("still using the old key: `");
    fs::remove_file(&file).unwrap();
    gateway.running.wait_for_stderr("` is missing");
    gateway.get().is(200);
    for key in ["third-key-0123456789", "fourth-key-0123456789"] {
        replace(&mut gateway, key);
        until("the next key is in force", || gateway.get().status == 200);
    }
    gateway.running.signal(Signal::SIGTERM);
    let outcome = gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout().any_stderr();
    assert!(!outcome.stderr.contains("0123456789"), "{outcome}");
}

#[test]
fn with_an_option_every_stored_profile_has_a_path() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let work = machine.home().join(".local/share/qwenauth/credentials");
    fs::create_dir_all(&work).unwrap();
    let mut credential = machine.credential();
    credential["provider"] = "qwen".into();
    write_private(&work.join("work.json"), credential.to_string());
    let gateway = Gateway::start(&machine, &["--all-profiles"]);
    for path in ["/v1/models", "/p/qwen/v1/models", "/p/work/v1/models"] {
        gateway.send(&format!("GET {path}"), "", b"").got().is(200);
    }
    gateway.send("GET /p/other/v1/models", "", b"").got().is(404);
    assert!(upstream.asked().iter().all(|asked| asked.line == "GET /v1/models HTTP/1.1"));
    // This test's second copy of the credential is no leak.
    fs::remove_dir_all(work).unwrap();
}

#[test]
fn a_signal_ends_the_gateway_after_its_requests_finish() {
    let gate = crate::server::Gate::default();
    let opened = gate.clone();
    let upstream = Upstream::start(move |_, _, connection| {
        gate.pass();
        std::io::Write::write_all(connection, &fine())
    });
    let machine = logged_in(&upstream);
    let free = super::listener::free_address();
    let gateway = Gateway::start(&machine, &["--metrics-listen", &free]);
    let ready = || {
        let request = format!("GET /readyz HTTP/1.1\r\nHost: {free}\r\nConnection: close\r\n\r\n");
        Client::send(&free, request.as_bytes()).got()
    };
    assert!(ready().is(200).json().get("draining").is_none());
    // Its connection is closed, and for a moment there is none.
    let mut before = gateway.send("GET /healthz", "", b"");
    before.next().is(200);
    assert_eq!(std::io::Read::read(&mut before.reader, &mut [0]).unwrap(), 0);
    let client = gateway.send("GET /v1/models", "", b"");
    upstream.wait_for(1);
    gateway.running.signal(Signal::SIGINT);
    until("the gateway stops listening", || std::net::TcpStream::connect(&gateway.address).is_err());
    let draining = serde_json::json!({"ready": false, "credential": "valid", "draining": true});
    assert_eq!(ready().is(503).json(), draining);
    opened.open();
    client.got().is(200);
    drop(gateway.running.finish().dies_by(Signal::SIGINT).any_stdout());
}

/// A gateway with a request that never ends, which was told to end and no longer listens.
fn ending(machine: &Machine, upstream: &Upstream, drain: &str) -> (Gateway, Client) {
    let gateway = Gateway::start(machine, &["--drain", drain]);
    let client = gateway.send("GET /v1/models", "", b"");
    upstream.wait_for(1);
    gateway.running.signal(Signal::SIGTERM);
    until("the gateway stops listening", || std::net::TcpStream::connect(&gateway.address).is_err());
    (gateway, client)
}

#[test]
fn a_request_that_does_not_end_delays_the_end_of_the_gateway_only_for_a_limited_time() {
    let upstream = Upstream::start(|_, _, connection| until_closed(connection));
    let machine = logged_in(&upstream);
    let (gateway, _client) = ending(&machine, &upstream, "1s");
    drop(gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout());
}

#[test]
fn a_connection_without_a_request_does_not_delay_the_end_of_the_gateway() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &["--drain", "1h"]);
    let head = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.address);
    let mut client = Client::send(&gateway.address, head.as_bytes());
    client.next().is(200);
    gateway.running.signal(Signal::SIGTERM);
    drop(gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout());
}

#[test]
fn a_second_signal_ends_the_gateway_at_once() {
    let upstream = Upstream::start(|_, _, connection| until_closed(connection));
    let machine = logged_in(&upstream);
    let (gateway, _client) = ending(&machine, &upstream, "1h");
    gateway.running.signal(Signal::SIGINT);
    drop(gateway.running.finish().dies_by(Signal::SIGINT).any_stdout());
}

#[test]
fn the_gateway_needs_a_login() {
    Machine::new().run(["gateway"]).fails(
        4,
        "not logged in: there is no credential for `qwen`",
        "run `qwenauth login`",
    );
}

#[test]
fn under_nohup_a_hangup_does_not_end_the_gateway() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let mut shell = machine.other("sh");
    shell.args(["-c", "trap '' HUP; exec $QWENAUTH gateway"]);
    let gateway = Gateway::of(machine.start(shell));
    gateway.running.signal(Signal::SIGHUP);
    gateway.chat().is(200);
    gateway.running.signal(Signal::SIGTERM);
    drop(gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout());
}
