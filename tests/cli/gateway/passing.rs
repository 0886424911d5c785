//! What passes through, and how.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use super::upstream::{CHAT, Gateway, STREAM, Upstream, chunk, configured, fine, logged_in, reply, until_closed};
use crate::server::Gate;

#[test]
fn a_connection_to_the_provider_serves_the_next_request() {
    let peers = Arc::new(Mutex::new(Vec::new()));
    let seen = peers.clone();
    let upstream = Upstream::start(move |_, _, connection| {
        seen.lock().unwrap().push(connection.peer_addr()?);
        connection.write_all(&fine())
    });
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    for _ in 0..2 {
        gateway.chat().is(200);
    }
    let peers = peers.lock().unwrap();
    assert_eq!((peers.len(), peers[0]), (2, peers[1]));
}

#[test]
fn the_clients_credentials_are_replaced_and_hop_by_hop_headers_removed() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    let more = "User-Agent: client/1\r\nCookie: a=b\r\nx-api-key: mine\r\nX-Own: kept\r\nX-Named: 1\r\n\
                Connection: X-Named\r\nKeep-Alive: 5\r\nTE: trailers\r\nForwarded: for=me\r\n\
                X-Forwarded-Email: me@example.com\r\nCF-Connecting-IP: 192.0.2.1\r\n";
    gateway.send("POST /v1/chat/completions?a=b", more, CHAT).got().is(200);
    let asked = &upstream.asked()[0];
    assert_eq!(asked.line, "POST /v1/chat/completions?a=b HTTP/1.1");
    assert_eq!(asked.all("authorization"), ["Bearer granted-access-1"]);
    assert_eq!(asked.all("host"), [upstream.address.as_str()]);
    assert_eq!(asked.all("user-agent"), ["client/1"]);
    assert_eq!(asked.all("x-dashscope-useragent"), ["client/1"]);
    assert_eq!(asked.all("x-dashscope-authtype"), ["qwen-oauth"]);
    assert_eq!(asked.all("x-own"), ["kept"]);
    assert_eq!(asked.all("via"), ["1.1 qwenauth"]);
    for gone in [
        "cookie",
        "x-api-key",
        "x-named",
        "connection",
        "keep-alive",
        "te",
        "forwarded",
        "x-forwarded-email",
        "cf-connecting-ip",
    ] {
        assert!(asked.all(gone).is_empty(), "{gone}");
    }
    assert_eq!(asked.body, CHAT);
    // Those of another client are its own.
    for agent in ["client/2", "client/2", "client/1"] {
        gateway.send("POST /v1/chat/completions", &format!("User-Agent: {agent}\r\n"), CHAT).got().is(200);
        assert_eq!(upstream.asked().last().unwrap().all("x-dashscope-useragent"), [agent]);
    }
}

#[test]
fn headers_of_the_provider_can_be_replaced() {
    let upstream = Upstream::always(fine());
    let text = "[providers.qwen.headers]\nX-DashScope-CacheControl = \"disable\"\nX-More = \"1\"\n";
    let machine = configured(logged_in(&upstream), text);
    Gateway::start(&machine, &[]).chat().is(200);
    assert_eq!(upstream.asked()[0].header("x-dashscope-cachecontrol"), "disable");
    assert_eq!(upstream.asked()[0].header("x-more"), "1");
}

#[test]
fn a_user_agent_that_is_not_ascii_is_repeated_as_it_is() {
    let upstream = Upstream::always(fine());
    let text = "[providers.qwen.headers]\nX-Copy = \"{user-agent} (ü)\"\n";
    let machine = configured(logged_in(&upstream), text);
    Gateway::start(&machine, &[]).send("GET /v1/models", "User-Agent: Möbius/1\r\n", b"").got().is(200);
    let asked = &upstream.asked()[0];
    assert_eq!(asked.all("user-agent"), ["Möbius/1"]);
    assert_eq!(asked.all("x-copy"), ["Möbius/1 (ü)"]);
    assert_eq!(asked.all("x-dashscope-useragent"), ["Möbius/1"]);
}

#[test]
fn every_method_and_path_below_v1_is_forwarded() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    for line in ["GET /v1/models", "DELETE /v1/files/1", "POST /v1/responses", "PUT /v1/whatever/comes?x=%2F&y"] {
        gateway.send(line, "", b"").got().is(200);
        assert_eq!(upstream.asked().last().unwrap().line, format!("{line} HTTP/1.1"));
    }
}

#[test]
fn a_response_is_forwarded_unchanged_without_cookies_and_cors_headers() {
    let more = "Set-Cookie: a=b\r\nAccess-Control-Allow-Origin: *\r\nX-Named: 1\r\nConnection: X-Named\r\nX-Own: kept\r\n\
                Content-Encoding: gzip\r\n";
    let upstream = Upstream::always(reply("200 OK", more, "\u{1f}not really gzip\u{0}"));
    let machine = logged_in(&upstream);
    let got = Gateway::start(&machine, &[]).send("GET /v1/models", "Accept-Encoding: gzip\r\n", b"").got();
    assert_eq!(got.text(), "\u{1f}not really gzip\u{0}");
    assert_eq!(got.header("content-encoding"), "gzip");
    assert_eq!(got.header("x-own"), "kept");
    assert_eq!((got.header("x-qwenauth-attempts"), got.header("x-qwenauth-wait-ms")), ("1", "0"));
    for gone in ["set-cookie", "access-control-allow-origin", "x-named"] {
        assert_eq!(got.header(gone), "", "{gone}");
    }
    assert_eq!(upstream.asked()[0].header("accept-encoding"), "gzip");
}

#[test]
fn events_are_forwarded_one_by_one_and_unchanged() {
    let gate = Gate::default();
    let opened = gate.clone();
    let first = ": OPENROUTER PROCESSING\n\ndata: {\"model\":\"coder-model\"}\n\n";
    let second = "data: {\"error\":{\"message\":\"late\"}}\n\ndata: [DONE]\n\n";
    let upstream = Upstream::start(move |_, _, connection| {
        connection.write_all(STREAM)?;
        connection.write_all(&chunk(first))?;
        gate.pass();
        connection.write_all(&chunk(second))?;
        connection.write_all(b"0\r\n\r\n")
    });
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    let mut client = gateway.send("POST /v1/chat/completions", "", CHAT);
    client.head();
    assert!(client.read_until("model\"}\n\n").ends_with(first));
    opened.open();
    assert!(client.read_until("[DONE]\n\n").contains(second));
}

#[test]
fn the_head_of_a_stream_is_forwarded_although_its_first_event_is_late() {
    let gate = Gate::default();
    let opened = gate.clone();
    let upstream = Upstream::start(move |_, _, connection| {
        connection.write_all(STREAM)?;
        gate.pass();
        connection.write_all(&chunk("data: [DONE]\n\n"))?;
        connection.write_all(b"0\r\n\r\n")
    });
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    let mut client = gateway.send("POST /v1/chat/completions", "", CHAT);
    assert_eq!(client.head().line, "HTTP/1.1 200 OK");
    opened.open();
    client.read_until("[DONE]\n\n");
}

#[test]
fn small_chunks_are_sent_without_delay_on_either_side() {
    let strace = std::process::Command::new("strace").args(["-f", "true"]).stderr(std::process::Stdio::null()).status();
    if !crate::machine::possible(strace.is_ok_and(|status| status.success()), "trace system calls") {
        return;
    }
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let log = machine.directory().join("calls");
    let mut strace = machine.other("strace");
    strace.args(["-f", "-e", "trace=accept4,setsockopt", "-o"]).arg(&log).arg(machine.program()).arg("gateway");
    let gateway = Gateway::of(machine.start(strace));
    gateway.chat().is(200);
    // One connection of a client, and one to the provider.
    let calls = std::fs::read_to_string(&log).unwrap();
    let count = |text: &str| calls.lines().filter(|line| line.contains(text) && line.ends_with("= 0")).count();
    assert_eq!(calls.lines().filter(|line| line.contains("accept4(") && !line.contains("= -1")).count(), 1, "{calls}");
    assert_eq!(count("TCP_NODELAY, [1]"), 2, "{calls}");
    // strace ends with the gateway; killed, it would leave it behind.
    let strace = gateway.running.id();
    let children = std::fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).unwrap();
    let traced = children.split_whitespace().next().unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(traced), nix::sys::signal::Signal::SIGTERM).unwrap();
    drop(gateway.running.finish().dies_by(nix::sys::signal::Signal::SIGTERM).any_stdout());
}

#[test]
fn a_request_body_is_streamed_as_it_arrives() {
    let upstream = Upstream::start(|_, _, connection| connection.write_all(&fine()));
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    let mut client = gateway.send("POST /v1/chat/completions", "Transfer-Encoding: chunked\r\n", b"");
    for number in 1..=5 {
        client.write(&chunk(&"x".repeat(4_000_000)));
        // The client sends no more until all of this has come.
        upstream.wait_for_body(number * 4_000_000);
        assert!(upstream.asked().is_empty(), "the request has not ended");
    }
    client.write(b"0\r\n\r\n");
    client.got().is(200);
    assert_eq!(upstream.asked()[0].body.len(), 20_000_000);
}

#[test]
fn a_request_body_that_is_too_long_is_rejected() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &["--max-body", "1k"]);
    gateway.send("POST /v1/chat/completions", "", &[b'x'; 1024]).got().is(200);
    let got = gateway.send("POST /v1/chat/completions", "", &[b'x'; 1025]).got();
    assert_eq!((got.status, got.code().as_str()), (413, "request_too_large"));
    let mut client = gateway.send("POST /v1/chat/completions", "Transfer-Encoding: chunked\r\n", b"");
    client.write(&chunk(&"x".repeat(2000)));
    client.write(b"0\r\n\r\n");
    let got = client.got();
    assert!(got.is(413).text().contains("the request body exceeds 1024 bytes (`--max-body`)"), "{}", got.text());
    assert_eq!(upstream.asked().len(), 1);
}

#[test]
fn a_truncated_stream_is_truncated_for_the_client() {
    let upstream = Upstream::start(|_, _, connection| {
        connection.write_all(STREAM)?;
        connection.write_all(&chunk("data: 1\n\n"))?;
        Err(io::ErrorKind::ConnectionReset.into())
    });
    let machine = logged_in(&upstream);
    let got = Gateway::start(&machine, &[]).chat();
    assert_eq!((got.status, got.text().as_str(), got.whole), (200, "data: 1\n\n", false));
}

/// To HTTP/1.0 the end of the connection is the end of the body, and nginx speaks that by default.
#[test]
fn a_truncated_stream_is_truncated_for_a_client_of_http_1_0() {
    let upstream = Upstream::start(|_, _, connection| {
        connection.write_all(STREAM)?;
        connection.write_all(&chunk("data: 1\n\n"))?;
        Err(io::ErrorKind::ConnectionReset.into())
    });
    let machine = logged_in(&upstream);
    let Gateway { running: _running, address, key } = Gateway::start(&machine, &[]);
    let head = format!("GET /v1/models HTTP/1.0\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n\r\n");
    let got = super::upstream::Client::send(&address, head.as_bytes()).got();
    assert_eq!((got.status, got.text().as_str(), got.whole), (200, "data: 1\n\n", false));
}

#[test]
fn a_response_shorter_than_its_length_is_truncated_for_the_client() {
    let upstream = Upstream::start(|_, _, connection| {
        connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")?;
        Err(io::ErrorKind::ConnectionReset.into())
    });
    let machine = logged_in(&upstream);
    let got = Gateway::start(&machine, &[]).chat();
    assert!(!got.whole, "{got:?}");
}

#[test]
fn a_client_that_disconnects_during_a_response_closes_the_providers_connection() {
    let upstream = Upstream::start(|_, _, connection| {
        connection.write_all(STREAM)?;
        connection.write_all(&chunk("data: 1\n\n"))?;
        until_closed(connection)
    });
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    let mut client = gateway.send("POST /v1/chat/completions", "", CHAT);
    client.read_until("data: 1");
    drop(client);
    upstream.first_close();
}

#[test]
fn a_client_that_disconnects_before_the_first_byte_closes_the_providers_connection() {
    let upstream = Upstream::start(|_, _, connection| until_closed(connection));
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    let client = gateway.send("POST /v1/chat/completions", "", CHAT);
    upstream.wait_for(1);
    drop(client);
    upstream.first_close();
}

#[test]
fn a_request_body_is_freed_while_its_response_is_streamed() {
    const MIB: usize = 1024 * 1024;
    let upstream = Upstream::start(|_, _, connection| {
        connection.write_all(STREAM)?;
        connection.write_all(&chunk("data: 1\n\n"))?;
        until_closed(connection)
    });
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    let body = vec![b'x'; 8 * MIB];
    // One after the other: what is on its way at once is another matter.
    let clients: Vec<_> = (0..12)
        .map(|_| {
            let mut client = gateway.send("POST /v1/chat/completions", "", &body);
            client.read_until("data: 1");
            client
        })
        .collect();
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.running.id())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().split(' ').next()).unwrap();
    let resident: usize = resident.parse().unwrap();
    assert!(resident < clients.len() * 8 * 1024 / 2, "{resident} kB");
}

#[test]
fn usage_is_counted_by_model_from_responses_and_streams() {
    let upstream = Upstream::start(|number, _, connection| {
        if number == 0 {
            return connection.write_all(&fine());
        }
        connection.write_all(STREAM)?;
        connection.write_all(&chunk("data: {\"choices\":[]}\n\n"))?;
        connection
            .write_all(&chunk("data: {\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n"))?;
        connection.write_all(b"0\r\n\r\n")
    });
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &["--metrics"]);
    gateway.chat().is(200);
    gateway.chat().is(200);
    // What was stored uses no model again.
    gateway.send("GET /v1/responses/1", "", b"").got().is(200);
    let metrics = gateway.send("GET /metrics", "", b"").got().text();
    assert!(metrics.contains("qwenauth_prompt_tokens_total{profile=\"qwen\",model=\"coder-model\"} 6\n"), "{metrics}");
    gateway.running.signal(nix::sys::signal::Signal::SIGTERM);
    drop(gateway.running.finish().dies_by(nix::sys::signal::Signal::SIGTERM).any_stdout());
    let mut outcome = machine.run(["usage", "--json"]);
    let json = outcome.json();
    let entries = json["usage"].as_array().unwrap();
    assert_eq!(entries.iter().filter_map(|entry| entry["prompt_tokens"].as_u64()).sum::<u64>(), 6, "{entries:?}");
    let entry = entries.iter().find(|entry| entry["model"] == "coder-model").unwrap();
    assert_eq!((&entry["model"], &entry["profile"]), (&"coder-model".into(), &"qwen".into()));
    assert_eq!((&entry["requests"], &entry["tries"]), (&2.into(), &2.into()));
    assert_eq!((&entry["prompt_tokens"], &entry["completion_tokens"]), (&6.into(), &9.into()));
    assert_eq!(json["limits"][0]["remaining"], 57);
    let table = machine.run(["usage"]).any_stdout();
    assert!(table.stdout.contains("3 of 60 used") && table.stdout.contains("gateway traffic only"), "{table}");
}
