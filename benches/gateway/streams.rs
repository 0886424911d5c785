//! Event streams for `benches/gateway/run`: a server of them, and clients that time them. Plain HTTP on loopback, one
//! thread each, so that what is measured between the two is what stands between them.
//!
//! ```text
//! streams serve EVENTS GAP_MS            prints its port; a request that says `idle` gets one event and then nothing
//! streams open PORT KEY AT_ONCE ROUNDS   prints JSON: times to the first event and gaps between events, in ms
//! ```

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used)]

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};

const EVENT: &str = "data: {\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"coder-model\",\
                     \"choices\":[{\"index\":0,\"delta\":{\"content\":\"word \"},\"finish_reason\":null}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match arguments[..] {
        ["serve", events, gap] => {
            let gap = Duration::from_millis(gap.parse().expect("milliseconds"));
            tokio::task::LocalSet::new().block_on(&runtime, serve(events.parse().expect("a number of events"), gap));
        }
        ["open", port, key, at_once, rounds] => {
            let number = |text: &str| text.parse().expect("a number");
            let address = format!("127.0.0.1:{port}");
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, open(address, key.to_owned(), number(at_once), number(rounds)));
        }
        _ => println!("see benches/gateway/run, which uses this"),
    }
}

async fn serve(events: u32, gap: Duration) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::task::spawn_local(async move {
            // Clients come and go.
            let _ = answer(stream, events, gap).await;
        });
    }
}

async fn answer(stream: TcpStream, events: u32, gap: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut text = Vec::new();
    loop {
        let idle = request(&stream, &mut text).await?;
        write(&stream, format!("{HEAD}{}", chunk(EVENT)).as_bytes()).await?;
        if idle {
            let mut rest = [0; 64];
            while read(&stream, &mut rest).await? > 0 {}
            return Ok(());
        }
        for _ in 1..events {
            tokio::time::sleep(gap).await;
            write(&stream, chunk(EVENT).as_bytes()).await?;
        }
        write(&stream, format!("{}0\r\n\r\n", chunk(DONE)).as_bytes()).await?;
    }
}

/// Reads one request; whether it asks for a stream that stays idle.
async fn request(stream: &TcpStream, text: &mut Vec<u8>) -> io::Result<bool> {
    let mut piece = [0; 4096];
    loop {
        if let Some(end) = position(text, b"\r\n\r\n").map(|at| at + 4) {
            let head = String::from_utf8_lossy(&text[..end]).to_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
            let whole = end + length.unwrap_or(0);
            if text.len() >= whole {
                let idle = position(&text[end..whole], b"idle").is_some();
                text.drain(..whole);
                return Ok(idle);
            }
        }
        match read(stream, &mut piece).await? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            length => text.extend_from_slice(&piece[..length]),
        }
    }
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// `at_once` clients, each with one stream after another; they begin evenly spread over the length of a stream.
async fn open(address: String, key: String, at_once: u32, rounds: u32) {
    let length = one(&address, &key).await.2;
    let clients: Vec<_> = (0..at_once)
        .map(|number| {
            let (address, key) = (address.clone(), key.clone());
            tokio::task::spawn_local(async move {
                tokio::time::sleep(length * number / at_once).await;
                let mut streams = Vec::new();
                for _ in 0..rounds {
                    let (first, gap, _) = one(&address, &key).await;
                    streams.push((first, gap));
                }
                streams
            })
        })
        .collect();
    let (mut firsts, mut gaps) = (Vec::new(), Vec::new());
    for client in clients {
        for (first, gap) in client.await.expect("every stream comes to its end") {
            firsts.push(first.as_secs_f64() * 1000.0);
            gaps.push(gap.as_secs_f64() * 1000.0);
        }
    }
    firsts.sort_by(f64::total_cmp);
    gaps.sort_by(f64::total_cmp);
    let (first_p50, first_p99) = (firsts[firsts.len() / 2], firsts[firsts.len() * 99 / 100]);
    let gap = gaps[gaps.len() - 1];
    println!("{{\"first_p50\":{first_p50:.4},\"first_p99\":{first_p99:.4},\"largest_gap\":{gap:.4}}}");
}

/// The time to the first event, the largest gap between two, and the time of the whole stream.
async fn one(address: &str, key: &str) -> (Duration, Duration, Duration) {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let body = r#"{"model":"coder-model","stream":true,"messages":[{"role":"user","content":"hello"}]}"#;
    let length = body.len();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    let began = Instant::now();
    write(&stream, head.as_bytes()).await.unwrap();
    let (mut first, mut largest, mut last) = (None, Duration::ZERO, began);
    let mut tail = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let length = read(&stream, &mut piece).await.unwrap();
        assert!(length > 0, "{address} cut a stream: {}", String::from_utf8_lossy(&tail));
        let now = Instant::now();
        if position(&piece[..length], b"data:").is_some() {
            match first {
                None => first = Some(now - began),
                Some(_) => largest = largest.max(now - last),
            }
            last = now;
        }
        tail.extend_from_slice(&piece[..length]);
        if position(&tail, DONE.trim_end().as_bytes()).is_some() {
            return (first.expect("an event"), largest, now - began);
        }
        tail.drain(..tail.len().saturating_sub(DONE.len()));
    }
}

async fn read(stream: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read(into) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            outcome => return outcome,
        }
    }
}

async fn write(stream: &TcpStream, mut text: &[u8]) -> io::Result<()> {
    while !text.is_empty() {
        match stream.try_write(text) {
            Ok(length) => text = &text[length..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn position(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}
