//! Machines of a team: a Redis server, gateways with homes of their own, and clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::provider::Provider;

/// Longest that anything here is waited for. Reached only by a failure.
const PATIENCE: Duration = Duration::from_secs(60);

#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn signal(process: &Child, signal: Signal) {
    kill(Pid::from_raw(process.id().cast_signed()), signal).unwrap();
}

/// A port below those that the system gives out: nobody else takes it before the server has it, or while that is down.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 100).unwrap() * 100;
    let ports = std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed) % 100);
    ports.take(100).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

/// Whether there is a server to test against. CI must have one.
pub(crate) fn has_redis() -> bool {
    let there = Command::new("redis-server").arg("--version").output().is_ok();
    let strict = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(there || !strict, "redis-server is not installed, and CI needs it");
    if !there {
        println!("skipped: redis-server is not installed");
    }
    there
}

pub(crate) struct Redis {
    process: Child,
    pub(crate) port: u16,
    directory: TempDir,
    options: Vec<String>,
}

impl Redis {
    pub(crate) fn start(options: &[&str]) -> Self {
        let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let process = Self::run(port, &directory, &options);
        let redis = Self { process, port, directory, options };
        redis.await_answer();
        redis
    }

    fn run(port: u16, directory: &TempDir, options: &[String]) -> Child {
        Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(directory.path())
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn await_answer(&self) {
        until("redis answers", || self.command(&["PING"]).trim() == "PONG");
    }

    pub(crate) fn replica(&self) -> Self {
        let port = self.port.to_string();
        let replica = Self::start(&["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"]);
        until("the replica is in step", || replica.command(&["INFO", "replication"]).contains("master_link_status:up"));
        replica
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What `redis-cli` prints.
    pub(crate) fn command(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Where it saves.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// What it holds, as it saves it.
    pub(crate) fn dump(&self) -> Vec<u8> {
        assert_eq!(self.command(&["SAVE"]).trim(), "OK");
        std::fs::read(self.directory.path().join("dump.rdb")).unwrap()
    }

    /// Each of `count` gateways has said that it is alive, and heard what all counted, since now: a beat begins after the
    /// answer to the one before.
    pub(crate) fn hear_of_each_other(&self, count: usize) {
        for _ in 0..2 {
            let time = self.command(&["TIME"]);
            let (seconds, microseconds) = time.trim().split_once('\n').unwrap();
            let now = format!("({}{:03}", seconds.trim(), microseconds.trim().parse::<u32>().unwrap() / 1000);
            let heard = || self.command(&["ZCOUNT", "{qa:default}:gateways", &now, "+inf"]);
            until("all gateways are heard", || heard().trim() == count.to_string());
        }
    }

    /// Empty, at the same port.
    pub(crate) fn start_again(&mut self) {
        self.process = Self::run(self.port, &self.directory, &self.options);
        self.await_answer();
    }

    /// With the data that it saved last, which it reads so slowly that it does not end by itself: it takes commands, and
    /// refuses nearly all of them.
    pub(crate) fn start_slowly(&mut self) {
        let slow = ["--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024"];
        let options: Vec<String> = self.options.iter().cloned().chain(slow.map(str::to_owned)).collect();
        self.process = Self::run(self.port, &self.directory, &options);
        until("redis reads its data", || self.command(&["INFO", "persistence"]).contains("loading:1"));
    }

    pub(crate) fn pause(&self) {
        signal(&self.process, Signal::SIGSTOP);
    }

    pub(crate) fn go_on(&self) {
        signal(&self.process, Signal::SIGCONT);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A home with a login at `provider`, as each machine has one.
#[derive(Clone)]
pub(crate) struct Home {
    directory: Arc<TempDir>,
    shared: Option<String>,
}

impl Home {
    pub(crate) fn new(provider: &Provider, config: &str, shared: Option<&str>) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let home = Self { directory, shared: shared.map(str::to_owned) };
        std::fs::create_dir_all(home.directory.path().join("config")).unwrap();
        std::fs::write(home.directory.path().join("config/config.toml"), config).unwrap();
        home.log_in("custom", &format!("http://127.0.0.1:{}/v1", provider.port), "sk-provider-0123456789");
        home
    }

    pub(crate) fn log_in(&self, provider: &str, url: &str, key: &str) {
        let mut login = self
            .command(&["login", provider, "--base-url", url, "--api-key-stdin", "--no-verify"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        login.stdin.take().unwrap().write_all(key.as_bytes()).unwrap();
        assert!(login.wait().unwrap().success());
    }

    /// A home where nobody has logged in.
    pub(crate) fn empty(config: &str, shared: Option<&str>) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(directory.path().join("config")).unwrap();
        std::fs::write(directory.path().join("config/config.toml"), config).unwrap();
        Self { directory, shared: shared.map(str::to_owned) }
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qwenauth"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.directory.path()).env("QWENAUTH_HOME", self.directory.path());
        if let Some(url) = &self.shared {
            command.env("QWENAUTH_SHARED_URL", url);
        }
        command.args(arguments);
        command
    }

    /// What a person sees on a terminal.
    pub(crate) fn on_a_terminal(&self, arguments: &str) -> String {
        let mut command = Command::new("script");
        command.env_clear();
        for (name, value) in self.command(&[]).get_envs() {
            command.envs(value.map(|value| (name, value)));
        }
        let words = format!("{} {arguments}", env!("CARGO_BIN_EXE_qwenauth"));
        let output = command.args(["-qec", &words, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        shown.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The same machine, where no server is named.
    pub(crate) fn without_server(&self) -> Self {
        Self { shared: None, ..self.clone() }
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }
}

pub(crate) struct Gateway {
    process: Child,
    pub(crate) port: u16,
    key: String,
    said: Arc<Mutex<String>>,
    pub(crate) home: Home,
}

impl Gateway {
    pub(crate) fn start(home: Home, arguments: &[&str]) -> Self {
        let (mut gateway, mut lines) = Self::run(home, arguments);
        gateway.key = lines.next().unwrap();
        gateway
    }

    /// One whose clients have keys of their own.
    pub(crate) fn start_keyed(home: Home, arguments: &[&str]) -> Self {
        Self::run(home, &[&["--keys", "--shared"], arguments].concat()).0
    }

    fn run(home: Home, arguments: &[&str]) -> (Self, impl Iterator<Item = String>) {
        let mut process = home
            .command(&["gateway"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (heard, stderr) = (Arc::clone(&said), process.stderr.take().unwrap());
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                *heard.lock().unwrap() += &format!("{line}\n");
            }
        });
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let url = lines.next().unwrap_or_else(|| panic!("no gateway: {}", said.lock().unwrap()));
        let port = url.trim_end_matches("/v1").rsplit(':').next().unwrap().parse().unwrap();
        (Self { process, port, key: String::new(), said, home }, lines)
    }

    /// A client with the key of a person or job.
    pub(crate) fn client_of(&self, key: &str) -> Client {
        Client { port: self.port, key: key.to_owned(), stream: None }
    }

    /// Ends it as an operator does. What it counted is written.
    pub(crate) fn stop(&mut self) {
        signal(&self.process, Signal::SIGTERM);
        self.process.wait().unwrap();
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    pub(crate) fn pause(&self) {
        signal(&self.process, Signal::SIGSTOP);
    }

    pub(crate) fn go_on(&self) {
        signal(&self.process, Signal::SIGCONT);
    }

    pub(crate) fn client(&self) -> Client {
        Client { port: self.port, key: self.key.clone(), stream: None }
    }

    pub(crate) fn chat(&self) -> Got {
        self.client().chat()
    }

    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, words: &str) {
        until(&format!("the gateway says {words}"), || self.said().contains(words));
    }

    pub(crate) fn get(&self, path: &str) -> Got {
        self.client().send("GET", path, "")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a chat asks for: three tokens at most, as it gets.
const CHAT: &str = r#"{"model":"m","messages":[],"max_tokens":3}"#;

pub(crate) struct Client {
    port: u16,
    key: String,
    stream: Option<TcpStream>,
}

#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
    pub(crate) took: Duration,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let line = self
            .head
            .lines()
            .find(|line| line.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(name)))?;
        line.split_once(':').map(|(_, value)| value.trim())
    }
}

impl Client {
    pub(crate) fn chat(&mut self) -> Got {
        self.send("POST", "/v1/chat/completions", CHAT)
    }

    /// The same, and the provider's log shows `word`.
    pub(crate) fn chat_about(&mut self, word: &str) -> Got {
        self.send("POST", &format!("/v1/chat/completions?about={word}"), CHAT)
    }

    /// Sends a request and reads the whole response.
    pub(crate) fn send(&mut self, method: &str, path: &str, body: &str) -> Got {
        let since = Instant::now();
        let stream = self.stream.take().unwrap_or_else(|| {
            let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
            stream.set_nodelay(true).unwrap();
            stream
        });
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.key,
            body.len()
        );
        (&stream).write_all(request.as_bytes()).unwrap();
        let mut reader = BufReader::new(&stream);
        let (mut head, mut length) = (String::new(), None);
        loop {
            let mut line = String::new();
            assert!(reader.read_line(&mut line).unwrap() > 0, "the gateway closed the connection");
            if line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse::<usize>().ok();
            }
            head += &line;
        }
        let mut body = vec![0; length.expect("every response here has a length")];
        reader.read_exact(&mut body).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        drop(reader);
        self.stream = Some(stream);
        Got { status, head, body: String::from_utf8_lossy(&body).into_owned(), took: since.elapsed() }
    }
}

impl Client {
    /// Sends a request and leaves before there is an answer, but after the gateway had the time to ask for its turn.
    pub(crate) fn leave(&mut self) {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let body = r#"{"model":"m","messages":[]}"#;
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.key,
            body.len()
        );
        (&stream).write_all(request.as_bytes()).unwrap();
    }
}
