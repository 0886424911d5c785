//! A provider that fails, in every way it can.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use super::upstream::{CHAT, Gateway, STREAM, Upstream, chunk, fine, logged_in, logged_in_at, until_closed};
use crate::machine::{Machine, until};

fn reset() -> io::Result<()> {
    Err(io::ErrorKind::ConnectionReset.into())
}

/// Its renewals, its look-ups of names and what it writes each have a thread.
#[test]
fn a_gateway_that_is_refused_every_thread_serves_and_counts_on() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let refused = format!("pthread_create:{}:*", nix::libc::EAGAIN);
    let Some(machine) = crate::faults::preloaded(machine, "FAULT", &refused) else { return };
    let none = machine.directory().join("none");
    let machine = machine.variable("FAULT_FROM", &none);
    let gateway = Gateway::start(&machine, &[]);
    std::fs::write(&none, "").unwrap();
    gateway.chat().is(200);
    until("it is counted", || machine.run(["usage", "--json"]).json()["usage"][0]["requests"] == 1);
    let _machine = machine.expires_in(-3600);
    gateway.chat().is(503);
}

#[test]
fn a_gateway_that_cannot_summarize_old_usage_at_its_start_counts_on() {
    let upstream = Upstream::always(fine());
    // The first is for renewals.
    let second = format!("pthread_create:{}:/2", nix::libc::EAGAIN);
    let Some(machine) = crate::faults::preloaded(logged_in(&upstream), "FAULT", &second) else { return };
    let gateway = Gateway::start(&machine, &[]);
    gateway.chat().is(200);
    until("it is counted", || machine.run(["usage", "--json"]).json()["usage"][0]["requests"] == 1);
}

#[test]
fn a_connection_closed_before_the_response_is_an_error_and_not_retried() {
    let upstream = Upstream::start(|_, _, _| reset());
    let machine = logged_in(&upstream);
    let got = Gateway::start(&machine, &[]).chat();
    assert_eq!((got.is(502).code().as_str(), upstream.asked().len()), ("upstream_error", 1));
}

#[test]
fn a_response_truncated_in_the_headers_or_in_a_chunk_is_truncated_for_the_client() {
    let upstream = Upstream::start(|_, _, connection| {
        connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Ty")?;
        reset()
    });
    let machine = logged_in(&upstream);
    Gateway::start(&machine, &[]).chat().is(502);
    let upstream = Upstream::start(|_, _, connection| {
        connection.write_all(STREAM)?;
        connection.write_all(b"ff\r\ndata: ha")?;
        reset()
    });
    let machine = logged_in(&upstream);
    let got = Gateway::start(&machine, &[]).chat();
    assert_eq!((got.status, got.whole), (200, false));
}

#[test]
fn a_slow_response_is_forwarded_as_it_arrives() {
    let upstream = Upstream::start(|_, _, connection| {
        connection.write_all(STREAM)?;
        for _ in 0..25 {
            connection.write_all(&chunk("data: x\n\n"))?;
            thread::sleep(Duration::from_millis(90));
        }
        connection.write_all(b"0\r\n\r\n")
    });
    let machine = logged_in(&upstream);
    let got = Gateway::start(&machine, &["--timeout", "2s"]).chat();
    assert_eq!((got.is(200).body.len(), got.whole), (225, true));
    assert!(got.after > Duration::from_secs(2), "longer in all than between two pieces");
}

#[test]
fn a_request_may_take_longer_than_the_timeout_without_a_byte() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &["--timeout", "2s"]);
    let mut client = gateway.send("POST /v1/chat/completions", "Transfer-Encoding: chunked\r\n", b"");
    for length in 1..=25 {
        client.write(&chunk("x"));
        upstream.wait_for_body(length);
        thread::sleep(Duration::from_millis(90));
    }
    client.write(b"0\r\n\r\n");
    let got = client.got();
    assert!(got.is(200).after > Duration::from_secs(2), "longer in all than between two pieces");
}

/// The provider sends the head of its response at once, and the rest after the request.
#[test]
fn a_request_may_take_longer_than_the_timeout_after_the_head_of_its_response() {
    const BODY: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
    let take = |begins: &str| {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let machine = logged_in_at(&server.local_addr().unwrap().to_string());
        let gateway = Gateway::start(&machine, &["--timeout", "2s"]);
        let length = format!("Content-Length: {}\r\n", BODY.len());
        let mut client = gateway.send("POST /v1/chat/completions", &length, b"");
        client.write(&BODY[..1]);
        let (mut connection, _) = server.accept().unwrap();
        let mut received = Vec::new();
        let mut receive = |connection: &mut TcpStream, end: &[u8]| {
            while !received.ends_with(end) {
                let mut piece = [0; 4096];
                let length = connection.read(&mut piece).unwrap();
                assert!(length > 0, "the request was cut off: {}", String::from_utf8_lossy(&received));
                received.extend_from_slice(&piece[..length]);
            }
        };
        receive(&mut connection, b"\r\n\r\na");
        write!(connection, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{begins}")
            .unwrap();
        for part in BODY[1..].chunks(1) {
            thread::sleep(Duration::from_millis(90));
            client.write(part);
            receive(&mut connection, part);
        }
        connection.write_all(&b"{}"[begins.len()..]).unwrap();
        let got = client.got();
        assert_eq!((got.is(200).text().as_str(), got.whole), ("{}", true));
        assert!(got.after > Duration::from_secs(2), "longer in all than between two pieces");
    };
    thread::scope(|scope| {
        ["", "{"].map(|begins| scope.spawn(move || take(begins))).map(|taking| taking.join().unwrap())
    });
}

/// It accepts the connection and does not answer the handshake.
#[test]
fn a_provider_without_a_connection_in_time_is_unreachable() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", server.local_addr().unwrap());
    let machine = Machine::new().logged_in().field("resource_url", serde_json::json!(url));
    // A body that is not kept is sent once.
    let got = Gateway::start(&machine, &["--timeout", "1s", "--replay-limit", "1"]).chat();
    assert_eq!(got.is(502).code(), "upstream_unreachable");
    assert!(got.text().contains("no connection within 1 s"), "{}", got.text());
}

#[test]
fn a_response_that_never_begins_times_out() {
    let upstream = Upstream::start(|_, _, connection| until_closed(connection));
    let machine = logged_in(&upstream);
    let got = Gateway::start(&machine, &["--timeout", "1s"]).chat();
    assert_eq!((got.is(504).code().as_str(), upstream.asked().len()), ("upstream_timeout", 1));
    upstream.first_close();
}

#[test]
fn a_client_that_stalls_in_its_request_is_told_so() {
    let upstream = Upstream::start(|_, _, connection| until_closed(connection));
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &["--timeout", "1s"]);
    let mut client = gateway.send("POST /v1/chat/completions", "Content-Length: 60\r\n", b"");
    client.write(b"half");
    let got = client.got();
    assert_eq!(got.is(408).code(), "client_timeout");
    assert!(got.text().contains("the client sent no more of its request within 1 s"), "{}", got.text());
}

#[test]
fn a_response_that_stalls_is_truncated() {
    let upstream = Upstream::start(|_, _, connection| {
        connection.write_all(STREAM)?;
        connection.write_all(&chunk("data: 1\n\n"))?;
        until_closed(connection)
    });
    let machine = logged_in(&upstream);
    let got = Gateway::start(&machine, &["--timeout", "1s"]).chat();
    assert_eq!((got.is(200).text().as_str(), got.whole), ("data: 1\n\n", false));
    // The client of this test would leave by itself much later.
    assert!(got.after < Duration::from_secs(20), "the gateway did not end it: {:?}", got.after);
    upstream.first_close();
}

#[test]
fn an_unreachable_provider_is_reported() {
    let machine = Machine::new().logged_in().field("resource_url", serde_json::json!("http://127.0.0.1:9"));
    let got = Gateway::start(&machine, &[]).chat();
    assert_eq!((got.is(502).code().as_str(), got.header("x-qwenauth-attempts")), ("upstream_unreachable", "3"));
}

#[test]
fn two_hundred_clients_that_disconnect_at_once_leave_no_connection() {
    let upstream = Upstream::start(
        |number, _, connection| {
            if number < 200 { until_closed(connection) } else { connection.write_all(&fine()) }
        },
    );
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &["--rpm", "100000"]);
    let clients: Vec<_> = (0..200).map(|_| gateway.send("POST /v1/chat/completions", "", CHAT)).collect();
    upstream.wait_for(200);
    drop(clients);
    let descriptors = format!("/proc/{}/fd", gateway.running.id());
    until("all connections are closed", || std::fs::read_dir(&descriptors).unwrap().count() < 30);
    gateway.chat().is(200);
}

#[test]
fn an_idle_connection_that_was_closed_fails_no_request() {
    // Closes after each answer without having said so.
    let upstream = Upstream::start(|_, _, connection| {
        connection.write_all(&fine())?;
        reset()
    });
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    for number in 1..=20 {
        gateway.chat().is(200);
        upstream.wait_for_closes(number);
    }
}
