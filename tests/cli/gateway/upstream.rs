//! A provider's API on loopback, byte for byte as a test has it, and a client that sees every byte of an answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::machine::Machine;
use crate::run::Running;
use crate::server::PATIENCE;

#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) at: Instant,
    /// `POST /v1/chat/completions HTTP/1.1`
    pub(crate) line: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.all(name).first().copied().unwrap_or_default()
    }
}

type Script = dyn Fn(usize, &Asked, &mut TcpStream) -> io::Result<()> + Send + Sync;

#[derive(Default)]
struct Log {
    asked: Vec<Asked>,
    closed: Vec<Instant>,
    /// Bytes of bodies that have come, also of requests that have not ended.
    received: usize,
}

type Shared = Arc<(Mutex<Log>, Condvar)>;

/// Each connection has its thread; each request is noted, then answered by the script.
pub(crate) struct Upstream {
    pub(crate) address: String,
    log: Shared,
}

impl Upstream {
    /// `script` gets the number of the request, from 0, the request, and the connection to write to. An error of its
    /// ends the connection.
    pub(crate) fn start(
        script: impl Fn(usize, &Asked, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let log = Shared::default();
        let script: Arc<Script> = Arc::new(script);
        thread::spawn({
            let log = log.clone();
            move || {
                for connection in listener.incoming() {
                    let (Ok(connection), log, script) = (connection, log.clone(), script.clone()) else { return };
                    thread::spawn(move || serve(connection, &log, &*script));
                }
            }
        });
        Self { address, log }
    }

    /// Always the same answer.
    pub(crate) fn always(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |_, _, connection| connection.write_all(&answer))
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.log.0.lock().unwrap().asked.clone()
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, count: usize) {
        let log = self.log.0.lock().unwrap();
        let (log, waited) = self.log.1.wait_timeout_while(log, PATIENCE, |log| log.asked.len() < count).unwrap();
        assert!(!waited.timed_out(), "{count} requests awaited, {} came", log.asked.len());
    }

    /// Waits for so many bytes of bodies, of requests that may not have ended.
    #[track_caller]
    pub(crate) fn wait_for_body(&self, length: usize) {
        let log = self.log.0.lock().unwrap();
        let (log, waited) = self.log.1.wait_timeout_while(log, PATIENCE, |log| log.received < length).unwrap();
        assert!(!waited.timed_out(), "{length} bytes awaited, {} came", log.received);
    }

    /// When the first connection was closed by the other side.
    #[track_caller]
    pub(crate) fn first_close(&self) -> Instant {
        self.wait_for_closes(1)[0]
    }

    /// When so many connections had been closed.
    #[track_caller]
    pub(crate) fn wait_for_closes(&self, count: usize) -> Vec<Instant> {
        let log = self.log.0.lock().unwrap();
        let (log, waited) = self.log.1.wait_timeout_while(log, PATIENCE, |log| log.closed.len() < count).unwrap();
        assert!(!waited.timed_out(), "{count} closed connections awaited, {} were", log.closed.len());
        log.closed.clone()
    }
}

fn serve(connection: TcpStream, log: &Shared, script: &Script) {
    connection.set_nodelay(true).unwrap();
    let mut writer = connection.try_clone().unwrap();
    let mut reader = BufReader::new(connection);
    let mut note_received = |length| {
        log.0.lock().unwrap().received += length;
        log.1.notify_all();
    };
    while let Ok(asked) = read(&mut reader, &mut note_received) {
        let number = {
            let mut state = log.0.lock().unwrap();
            state.asked.push(asked.clone());
            state.asked.len() - 1
        };
        log.1.notify_all();
        if script(number, &asked, &mut writer).is_err() {
            let _ = writer.shutdown(Shutdown::Both);
            break;
        }
    }
    log.0.lock().unwrap().closed.push(Instant::now());
    log.1.notify_all();
}

/// Blocks until the other side closes.
pub(crate) fn until_closed(connection: &mut TcpStream) -> io::Result<()> {
    let mut rest = [0; 64];
    while connection.read(&mut rest)? > 0 {}
    Err(io::ErrorKind::ConnectionAborted.into())
}

fn read(reader: &mut impl BufRead, note_received: &mut dyn FnMut(usize)) -> io::Result<Asked> {
    let (line, headers) = head(reader)?;
    let asked = Asked { at: Instant::now(), line, headers, body: Vec::new() };
    let (body, whole) = body(reader, &asked, false, note_received);
    if !whole {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Asked { body, ..asked })
}

fn head(reader: &mut impl BufRead) -> io::Result<(String, Vec<(String, String)>)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let headers = lines[1..].iter().filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
    Ok((lines[0].clone(), headers))
}

/// A body and whether it came to its proper end.
fn body(
    reader: &mut impl BufRead,
    head: &Asked,
    to_the_end: bool,
    note_received: &mut dyn FnMut(usize),
) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    if head.header("transfer-encoding") == "chunked" {
        loop {
            let mut size = String::new();
            if reader.read_line(&mut size).unwrap_or(0) == 0 {
                return (body, false);
            }
            let Ok(size) = usize::from_str_radix(size.trim(), 16) else { return (body, false) };
            let mut chunk = vec![0; size + 2];
            if reader.read_exact(&mut chunk).is_err() {
                return (body, false);
            }
            if size == 0 {
                return (body, true);
            }
            body.extend_from_slice(&chunk[..size]);
            note_received(size);
        }
    }
    if let Ok(length) = head.header("content-length").parse::<u64>() {
        let read = reader.take(length).read_to_end(&mut body).unwrap_or(0);
        return (body, read as u64 == length);
    }
    let whole = !to_the_end || reader.read_to_end(&mut body).is_ok();
    (body, whole)
}

/// What a client got.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    head: Asked,
    pub(crate) body: Vec<u8>,
    /// Whether the answer came to its proper end.
    pub(crate) whole: bool,
    pub(crate) after: Duration,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.head.header(name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    #[track_caller]
    pub(crate) fn is(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{self:?} {}", self.text());
        self
    }

    /// The `code` of an error.
    #[track_caller]
    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// One connection of a client.
pub(crate) struct Client {
    pub(crate) reader: BufReader<TcpStream>,
    began: Instant,
}

impl Client {
    pub(crate) fn send(address: &str, bytes: &[u8]) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        // The gateway may answer, and close, before it has read all.
        let _ = stream.write_all(bytes);
        Self { reader: BufReader::new(stream), began: Instant::now() }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).unwrap();
    }

    #[track_caller]
    pub(crate) fn got(mut self) -> Got {
        self.next()
    }

    /// The next answer of a connection that stays open.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Got {
        let head = self.head();
        let status = head.line.split(' ').nth(1).unwrap().parse().unwrap();
        let (body, whole) = body(&mut self.reader, &head, true, &mut |_| ());
        Got { status, head, body, whole, after: self.began.elapsed() }
    }

    #[track_caller]
    pub(crate) fn head(&mut self) -> Asked {
        let (line, headers) = head(&mut self.reader).expect("an answer");
        Asked { at: Instant::now(), line, headers, body: Vec::new() }
    }

    /// Reads until `text` has come.
    #[track_caller]
    pub(crate) fn read_until(&mut self, text: &str) -> String {
        let mut read = Vec::new();
        while !String::from_utf8_lossy(&read).contains(text) {
            let mut byte = [0];
            assert_eq!(self.reader.read(&mut byte).unwrap(), 1, "ended after {}", String::from_utf8_lossy(&read));
            read.push(byte[0]);
        }
        String::from_utf8(read).unwrap()
    }
}

/// A gateway that runs.
pub(crate) struct Gateway {
    pub(crate) running: Running,
    pub(crate) address: String,
    pub(crate) key: String,
}

impl Gateway {
    pub(crate) fn start(machine: &Machine, arguments: &[&str]) -> Self {
        let running = machine.spawn([&["gateway"], arguments].concat());
        let file = arguments.iter().position(|argument| *argument == "--api-key-file").map(|at| arguments[at + 1]);
        match file.filter(|_| !arguments.contains(&"--show-key")) {
            Some(file) => {
                let address = Self::address_of(&running.first_lines(1)[0]);
                Self { running, address, key: std::fs::read_to_string(file).unwrap().trim().to_owned() }
            }
            None => Self::of(running),
        }
    }

    pub(crate) fn of(running: Running) -> Self {
        let lines = running.first_lines(2);
        Self { running, address: Self::address_of(&lines[0]), key: lines[1].clone() }
    }

    pub(crate) fn address_of(base_url: &str) -> String {
        base_url.strip_prefix("http://").unwrap().strip_suffix("/v1").unwrap().to_owned()
    }

    /// `more`: further headers, each with its line end.
    pub(crate) fn send(&self, line: &str, more: &str, body: &[u8]) -> Client {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let host = if more.contains("Host:") { String::new() } else { format!("Host: {}\r\n", self.address) };
        let key = &self.key;
        let head =
            format!("{line} HTTP/1.1\r\n{host}Connection: close\r\nAuthorization: Bearer {key}\r\n{more}{length}\r\n");
        Client::send(&self.address, &[head.as_bytes(), body].concat())
    }

    #[track_caller]
    pub(crate) fn get(&self) -> Got {
        self.send("GET /v1/models", "", b"").got()
    }

    #[track_caller]
    pub(crate) fn chat(&self) -> Got {
        self.send("POST /v1/chat/completions", "Content-Type: application/json\r\n", CHAT).got()
    }

    /// So many requests at once; their answers.
    pub(crate) fn many(&self, count: usize) -> Vec<Got> {
        thread::scope(|scope| {
            let clients: Vec<_> = (0..count).map(|_| scope.spawn(|| self.chat())).collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        })
    }
}

pub(crate) const CHAT: &[u8] = br#"{"model":"coder-model","messages":[{"role":"user","content":"hi"}]}"#;

/// A whole answer.
pub(crate) fn reply(status: &str, more: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{more}Content-Length: {length}\r\n\r\n{body}")
        .into()
}

pub(crate) fn fine() -> Vec<u8> {
    let usage = r#""usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}"#;
    reply("200 OK", "", &format!(r#"{{"model":"coder-model","choices":[{{"message":{{"content":"hi"}}}}],{usage}}}"#))
}

pub(crate) fn error(status: &str, more: &str, code: &str, message: &str) -> Vec<u8> {
    reply(status, more, &serde_json::json!({"error": {"code": code, "message": message}}).to_string())
}

/// The beginning of an event stream.
pub(crate) const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

pub(crate) fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into()
}

/// A login whose API is `upstream`.
pub(crate) fn logged_in(upstream: &Upstream) -> Machine {
    logged_in_at(&upstream.address)
}

pub(crate) fn logged_in_at(address: &str) -> Machine {
    let url = format!("http://{address}");
    Machine::new().logged_in().field("resource_url", serde_json::json!(url))
}

/// Adds to config.toml.
pub(crate) fn configured(machine: Machine, text: &str) -> Machine {
    let config = machine.home().join(".config/qwenauth");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("config.toml"), text).unwrap();
    machine
}
