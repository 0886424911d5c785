//! What a client may not do to the gateway: methods and paths, lengths, credentials of its own, and how much it may cost.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::upstream::{CHAT, Client, Gateway, Upstream, chunk, fine, logged_in, logged_in_at, reply};
use crate::machine::until;

#[test]
fn methods_that_would_show_or_tunnel_the_credential_are_rejected() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    for line in [
        "TRACE /v1/models",
        "Trace /v1/models",
        "trace /v1/models",
        "TRACK /v1/models",
        "track /v1/chat/completions",
        "CONNECT /v1/files",
        "CONNECT example.com:443",
        "connect /v1/files",
        "TRACE /p/qwen/v1/models",
        "TRACE http://localhost/v1/models",
        "TRACE *",
    ] {
        let got = gateway.send(line, "Max-Forwards: 0\r\n", b"").got();
        assert_eq!((got.status, got.code().as_str()), (405, "method_not_allowed"), "{line}");
        assert!(got.header("allow").contains("POST"), "{line}");
    }
    assert!(upstream.asked().is_empty());
}

#[test]
fn a_websocket_is_rejected_and_not_counted_as_a_request() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    for more in [
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
        "connection: keep-alive, upgrade\r\nupgrade: WebSocket\r\n",
        "Upgrade: h2c, websocket\r\n",
        "Upgrade: h2c\r\nUpgrade: websocket/13\r\n",
    ] {
        for line in ["GET /v1/responses", "GET /v1/realtime?model=m", "GET /p/qwen/v1/x"] {
            let got = gateway.send(line, more, b"").got();
            assert_eq!((got.status, got.header("upgrade")), (426, "HTTP/1.1"), "{line} {more}");
        }
    }
    assert!(upstream.asked().is_empty());
    let used = machine.run(["usage", "--json"]).json()["usage"].clone();
    assert_eq!(used, serde_json::json!([]));
}

#[test]
fn other_upgrades_are_ignored_and_not_forwarded() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    for more in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Upgrade: TLS/1.0\r\n",
        "HTTP2-Settings: AAMAAABk\r\nUpgrade: h2c\r\n",
    ] {
        gateway.send("POST /v1/chat/completions", more, CHAT).got().is(200);
        let asked = upstream.asked().pop().unwrap();
        for name in ["upgrade", "connection", "http2-settings"] {
            assert!(asked.all(name).is_empty(), "{name}");
        }
    }
}

#[test]
fn a_request_with_more_than_one_host_is_rejected() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    for arguments in [&[][..], &["--listen", "127.0.0.2:0"]] {
        let gateway = Gateway::start(&machine, arguments);
        let here = &gateway.address;
        for hosts in [
            format!("Host: {here}\r\nHost: localhost\r\n"),
            format!("Host: {here}\r\nhost: {here}\r\n"),
            "Host: localhost\r\nHost:\r\n".into(),
        ] {
            for line in ["GET /v1/models", "GET /healthz"] {
                gateway.send(line, &hosts, b"").got().is(400);
            }
        }
    }
    assert!(upstream.asked().is_empty());
}

#[test]
fn a_request_of_http_1_1_without_a_host_is_rejected() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    for arguments in [&[][..], &["--listen", "127.0.0.2:0"]] {
        let Gateway { running: _running, address, key } = Gateway::start(&machine, arguments);
        let head = format!("GET /v1/models HTTP/1.1\r\nAuthorization: Bearer {key}\r\n\r\n");
        assert_eq!(Client::send(&address, head.as_bytes()).next().is(400).code(), "invalid_host");
    }
    assert!(upstream.asked().is_empty());
}

#[test]
fn a_request_whose_coding_would_be_lost_is_rejected() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    let send = |codings: &str| {
        let lines: String = codings.split('|').map(|coding| format!("Transfer-Encoding: {coding}\r\n")).collect();
        let mut client = gateway.send("POST /v1/chat/completions", &lines, b"");
        client.write(b"2\r\n{}\r\n0\r\n\r\n");
        client.got()
    };
    for codings in ["gzip, chunked", "deflate,chunked", "gzip|chunked", "chunked, chunked"] {
        assert_eq!(send(codings).is(501).code(), "transfer_coding_not_supported", "{codings}");
    }
    assert!(upstream.asked().is_empty());
    send("Chunked").is(200);
}

#[test]
fn paths_that_servers_read_in_different_ways_are_not_forwarded() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &["--all-profiles"]);
    for path in [
        "/v1/files/..;v=1/keys",
        "/v1/files/..%00/keys",
        "/v1/files/%252e%252e/keys",
        "/v1/files/%2e/keys",
        "/v1/a%25/b",
        "/v1/files/..%c0%af/keys",
        "/p/qwen/v1/..;/keys",
    ] {
        gateway.send(&format!("GET {path}"), "", b"").got().is(404);
    }
    assert!(upstream.asked().is_empty());
}

#[test]
fn a_chunked_response_with_a_length_is_forwarded_whole() {
    for (length, chunked_first) in [(4, false), (4, true), (400, false), (400, true), (0, false)] {
        let upstream = Upstream::start(move |_, _, connection| {
            let (length, chunked) = (format!("Content-Length: {length}\r\n"), "Transfer-Encoding: chunked\r\n");
            let lengths = if chunked_first { format!("{chunked}{length}") } else { format!("{length}{chunked}") };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{lengths}\r\n");
            connection.write_all(&[head.as_bytes(), &chunk("hello world"), b"0\r\n\r\n"].concat())
        });
        let machine = logged_in(&upstream);
        let got = Gateway::start(&machine, &[]).get();
        assert_eq!((got.is(200).text().as_str(), got.whole), ("hello world", true), "{length} {chunked_first}");
        assert_eq!(got.header("content-length"), "");
    }
}

#[test]
fn a_response_that_fails_before_the_first_byte_of_its_body_is_a_502() {
    // An extension that no parser takes, a size that is none, and an end where the body should be.
    let extension = format!("5;{}\r\nhello\r\n", "x".repeat(100_000));
    for (kind, body) in [
        ("text/event-stream", extension.clone()),
        ("application/json", extension),
        ("application/json", "zz\r\n".into()),
        ("application/json", String::new()),
    ] {
        let upstream = Upstream::start(move |_, _, connection| {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n");
            let _ = connection.write_all(&[head.as_bytes(), body.as_bytes()].concat());
            Err(std::io::ErrorKind::ConnectionReset.into())
        });
        let machine = logged_in(&upstream);
        let got = Gateway::start(&machine, &[]).chat();
        assert_eq!((got.is(502).code().as_str(), upstream.asked().len()), ("upstream_error", 1), "{kind}");
    }
}

#[test]
fn the_head_of_a_response_is_sent_with_the_first_byte_of_its_body() {
    let upstream = Upstream::start(|_, _, connection| {
        connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n")?;
        super::upstream::until_closed(connection)
    });
    let machine = logged_in(&upstream);
    let got = Gateway::start(&machine, &["--timeout", "1s"]).chat();
    assert_eq!(got.is(504).code(), "upstream_timeout");
}

#[test]
fn the_response_of_an_http_1_0_provider_is_forwarded_as_1_1() {
    for body in ["Content-Length: 2\r\n\r\n{}", "\r\n{}"] {
        let upstream = Upstream::start(move |_, _, connection| {
            write!(connection, "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n{body}")?;
            Err(std::io::ErrorKind::ConnectionAborted.into())
        });
        let machine = logged_in(&upstream);
        let gateway = Gateway::start(&machine, &[]);
        let (address, key) = (&gateway.address, &gateway.key);
        let head = format!("GET /v1/models HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n\r\n");
        let mut client = Client::send(address, head.as_bytes());
        let answer = client.head();
        assert_eq!(answer.line, "HTTP/1.1 200 OK");
        assert_ne!(answer.header("connection"), "close");
    }
}

#[test]
fn no_credential_of_the_client_reaches_the_provider() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    let headers = [
        "X-Api-Key",
        "Api-Key",
        "ApiKey",
        "X-Goog-Api-Key",
        "Anthropic-Api-Key",
        "X-Anthropic-Api-Key",
        "OpenAI-Api-Key",
        "X-OpenAI-Api-Key",
        "OpenAI-Organization",
        "OpenAI-Project",
        "X-Goog-User-Project",
        "Ocp-Apim-Subscription-Key",
        "X-Auth-Token",
        "X-Access-Token",
        "X-Amz-Security-Token",
        "XI-API-Key",
        "Private-Token",
        "CF-AIG-Authorization",
        "Helicone-Auth",
        "X-Client-Secret",
        "X-Password",
        "X-Functions-Key",
        "X-Subscription-Token",
        "X-Portkey-Virtual-Key",
        "Cookie",
        "Proxy-Authorization",
        "X-Forwarded-For",
    ];
    let sent: String = headers.iter().map(|name| format!("{name}: mine\r\n")).collect();
    let kept = "Idempotency-Key: 1\r\nX-Stainless-Lang: js\r\nOpenAI-Beta: b\r\nX-Max-Tokens: 5\r\nX-DashScope-SSE: enable\r\n";
    let query = "key=mine&api_key=mine&API-KEY=mine&%6bey=mine&access_token=mine&token=mine&alt=sse&next_token=2&after=key&x=a%2Fb&key[]=mine&y=1;key=mine;z=2&a;token=mine";
    gateway.send(&format!("POST /v1/chat/completions?{query}"), &(sent + kept), CHAT).got().is(200);
    let asked = upstream.asked().pop().unwrap();
    assert_eq!(asked.line, "POST /v1/chat/completions?alt=sse&next_token=2&after=key&x=a%2Fb&y=1;z=2&a HTTP/1.1");
    for name in headers {
        assert!(asked.all(name).is_empty(), "{name}");
    }
    for (name, value) in [
        ("idempotency-key", "1"),
        ("x-stainless-lang", "js"),
        ("openai-beta", "b"),
        ("x-max-tokens", "5"),
        ("x-dashscope-sse", "enable"),
    ] {
        assert_eq!(asked.all(name), [value], "{name}");
    }
    gateway.send("GET /v1/models?key=mine", "", b"").got().is(200);
    assert_eq!(upstream.asked().pop().unwrap().line, "GET /v1/models HTTP/1.1");
}

/// A connection that has sent the beginning of a head and goes on with none.
fn stranger(address: &str, length: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // The gateway may have closed it already.
    let _ = write!(stream, "POST /v1/x HTTP/1.1\r\nHost: localhost\r\nCookie: {}", "c".repeat(length));
    stream
}

fn is_closed(mut stream: &TcpStream) -> bool {
    use std::io::Read;
    stream.set_nonblocking(true).unwrap();
    let mut rest = [0; 4096];
    loop {
        match stream.read(&mut rest) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

fn resident(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn connections_without_a_key_are_limited_in_number_and_memory_and_do_not_block_clients() {
    const COUNT: usize = 500;
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    // One that has shown the key and keeps its connection.
    let (address, key) = (&gateway.address, &gateway.key);
    let head = format!("GET /v1/models HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n\r\n");
    let mut known = Client::send(address, head.as_bytes());
    known.head();
    let strangers: Vec<_> = (0..COUNT).map(|_| stranger(address, 60_000)).collect();
    until("the oldest strangers are gone", || strangers[..COUNT - 256].iter().all(is_closed));
    assert!(strangers[COUNT - 256..].iter().all(|stream| !is_closed(stream)), "the newest ones were closed");
    let used = resident(gateway.running.id());
    // A test build of the program is larger than what is released.
    assert!(used < 64 << 20, "{used} bytes resident");
    gateway.chat().is(200);
    known.write(head.as_bytes());
    assert!(known.read_until("200 OK").ends_with("200 OK"));
}

/// Whoever asks and is refused, over and over on one connection.
#[test]
fn a_rejected_key_does_not_lift_the_limits_of_connections_without_a_key() {
    const COUNT: usize = 300;
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    let address = &gateway.address;
    let began = Instant::now();
    let head = format!("GET /v1/models HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer sk-of-another\r\n\r\n");
    let strangers: Vec<TcpStream> = (0..COUNT)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            // The gateway may have closed it already.
            let _ = stream.write_all(head.as_bytes());
            stream
        })
        .collect();
    until("the oldest strangers are gone", || strangers[..COUNT - 256].iter().all(is_closed));
    assert!(began.elapsed() < Duration::from_secs(50), "closed as clients that are idle for 60 s");
    gateway.chat().is(200);
}

#[test]
fn a_head_of_more_than_64_kib_is_rejected() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    gateway.send("GET /v1/models", &format!("X-Long: {}\r\n", "x".repeat(60_000)), b"").got().is(200);
    gateway.send("GET /v1/models", &format!("X-Long: {}\r\n", "x".repeat(70_000)), b"").got().is(431);
    assert_eq!(upstream.asked().len(), 1);
}

/// Sends the head of a request, and its body of 3 MB only after the whole answer has come; then a request on the same
/// connection.
fn answered_before_the_body(gateway: &Gateway, line: &str, key: &str, length: usize) -> u16 {
    let host = &gateway.address;
    let head = format!(
        "{line} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    let mut client = Client::send(host, head.as_bytes());
    let status = client.next().status;
    for piece in [length / 3, length / 3, length - 2 * (length / 3)] {
        client.write(&vec![b'x'; piece]);
    }
    client.write(format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
    client.next().is(200);
    status
}

#[test]
fn a_client_that_still_sends_a_rejected_request_gets_the_response_and_keeps_its_connection() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &["--max-body", "2MiB"]);
    let key = &gateway.key;
    for (line, key, status) in [
        ("POST /v1/chat/completions", "sk-of-another", 401),
        ("POST /v1/chat/completions", key, 413),
        ("POST /elsewhere", key, 404),
        ("TRACE /v1/models", key, 405),
        ("POST /healthz", key, 200),
    ] {
        assert_eq!(answered_before_the_body(&gateway, line, key, 3_000_000), status, "{line}");
    }
    assert!(upstream.asked().is_empty());
}

#[test]
fn a_client_that_still_sends_when_the_provider_responds_keeps_its_connection() {
    let provider = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = provider.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for connection in provider.incoming() {
            let mut connection = connection.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                connection.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            connection.write_all(&fine()).unwrap();
            thread::spawn(move || std::io::copy(&mut connection, &mut std::io::sink()));
        }
    });
    let machine = logged_in_at(&address);
    let gateway = Gateway::start(&machine, &[]);
    for length in [300, 3_000_000] {
        let status = answered_before_the_body(&gateway, "POST /v1/chat/completions", &gateway.key, length);
        assert_eq!(status, 200, "{length}");
    }
}

#[test]
fn a_client_that_still_sends_a_malformed_request_gets_the_response() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    let chunked = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        gateway.address, gateway.key
    );
    for (sent, status) in
        [(format!("GET / HTTP/1.1\r\nX-Long: {}", "x".repeat(66_000)), 431), ("\0\r\n\r\n".into(), 400), (chunked, 400)]
    {
        let mut client = Client::send(&gateway.address, sent.as_bytes());
        client.next().is(status);
        for _ in 0..20 {
            client.write(&vec![b'x'; 100_000]);
        }
    }
}

/// Without the spaces after the colons the head is shorter than what the gateway counts, so the HTTP parser, which has
/// a limit of its own, accepts it.
#[test]
fn the_limit_of_a_head_is_exact_and_the_refusal_says_so() {
    const MAX: usize = 64 * 1024;
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    let path = "/v1/models?a=b";
    let head_of = |counted: usize| {
        let (address, key) = (&gateway.address, &gateway.key);
        let mut headers = vec![
            ("Host".to_owned(), address.clone()),
            ("Connection".to_owned(), "close".to_owned()),
            ("Authorization".to_owned(), format!("Bearer {key}")),
        ];
        headers.extend((10..99).map(|number| (format!("X-{number}"), "y".repeat(700))));
        let count = |(name, value): &(String, String)| name.len() + value.len() + 4;
        let rest = counted - path.len() - headers.iter().map(count).sum::<usize>() - "X-Rest".len() - 4;
        headers.push(("X-Rest".to_owned(), "z".repeat(rest)));
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\r\n")).collect();
        format!("GET {path} HTTP/1.1\r\n{lines}\r\n")
    };
    for (counted, status) in [(MAX - 1, 200), (MAX, 200), (MAX + 1, 431), (MAX + 60, 431)] {
        let head = head_of(counted);
        assert!(head.len() < MAX, "the parser would reject it");
        let got = Client::send(&gateway.address, head.as_bytes()).got();
        assert_eq!(got.status, status, "{counted}");
        if status == 431 {
            assert_eq!(got.code(), "request_head_too_large");
            assert!(got.text().contains(" 64 KiB"), "{}", got.text());
        }
    }
    assert_eq!(upstream.asked().len(), 2);
}

/// Nanoseconds of CPU a process has used.
fn cpu(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/schedstat")).unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn the_cost_of_an_upload_grows_with_its_length_whatever_its_chunks() {
    let upstream = Upstream::start(|_, _, connection| connection.write_all(&fine()));
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &["--replay-limit", "64KiB"]);
    let mut used = Vec::new();
    for kibibytes in [512, 2048] {
        let chunks = chunk(&"x".repeat(32)).repeat(kibibytes << 5);
        let before = cpu(gateway.running.id());
        let mut client = gateway.send("POST /v1/chat/completions", "Transfer-Encoding: chunked\r\n", b"");
        client.write(&chunks);
        client.write(b"0\r\n\r\n");
        client.got().is(200);
        used.push(cpu(gateway.running.id()) - before);
        assert_eq!(upstream.asked().pop().unwrap().body.len(), kibibytes << 10);
    }
    // Four times the bytes; in proportion to their square it would be sixteen.
    assert!(used[1] < 7 * used[0], "{used:?} ns");
}

#[test]
fn bodies_kept_for_a_retry_share_one_memory_budget() {
    let upstream = Upstream::start(|_, _, connection| connection.write_all(&fine()));
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &[]);
    let mut clients: Vec<_> =
        (0..30).map(|_| gateway.send("POST /v1/chat/completions", "Transfer-Encoding: chunked\r\n", b"")).collect();
    let piece = chunk(&"x".repeat(7 << 20));
    thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| client.write(&piece));
        }
    });
    upstream.wait_for_body(30 * (7 << 20));
    let used = resident(gateway.running.id());
    assert!(used < 200 << 20, "{used} bytes resident");
    for mut client in clients {
        client.write(b"0\r\n\r\n");
        client.got().is(200);
    }
    // And there is room again afterwards.
    until("the kept bodies are gone", || resident(gateway.running.id()) < 200 << 20);
    gateway.chat().is(200);
}

#[test]
fn a_request_beyond_the_memory_budget_is_forwarded_but_not_retried() {
    let upstream = Upstream::always(reply("503 Service Unavailable", "Retry-After: 0\r\n", "{}"));
    let machine = logged_in(&upstream);
    let gateway = Gateway::start(&machine, &["--replay-limit", "1GiB", "--max-body", "1GiB"]);
    let piece = chunk(&"x".repeat(8 << 20));
    let mut large = gateway.send("POST /v1/chat/completions", "Transfer-Encoding: chunked\r\n", b"");
    for _ in 0..17 {
        large.write(&piece);
    }
    large.write(b"0\r\n\r\n");
    assert_eq!(large.got().is(503).header("x-qwenauth-attempts"), "1");
    assert_eq!(gateway.chat().is(503).header("x-qwenauth-attempts"), "3");
}
