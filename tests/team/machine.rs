//! Machines of a team: a Redis server, gateways with homes of their own, and clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::provider::Provider;
use crate::cli::support::machine::{Machine, has_programs, until};
use crate::cli::support::pseudo_terminal::PseudoTerminal;
use crate::cli::support::run::{Outcome, Running};

/// A port below those that the system gives out: nobody else takes it before the server has it, or while that is down.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 100).unwrap() * 100;
    let ports = std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed) % 100);
    ports.take(100).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

/// Whether there is a server to test against. CI must have one.
pub(crate) fn has_redis() -> bool {
    has_programs(&["redis-server", "redis-cli"])
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

    /// How often it was called so far, with this command.
    pub(crate) fn calls(&self, command: &str) -> u32 {
        let said = self.command(&["INFO", "commandstats"]);
        let calls =
            said.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls="))?.split(',').next());
        calls.map_or(0, |calls| calls.parse().unwrap())
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
        self.signal(Signal::SIGSTOP);
    }

    pub(crate) fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A machine of the team: a home with a login at `provider`.
#[derive(Clone)]
pub(crate) struct Home {
    machine: Arc<Machine>,
    shared: Option<String>,
}

impl Home {
    pub(crate) fn new(provider: &Provider, config: &str, shared: Option<&str>) -> Self {
        let home = Self::of(Machine::at(provider.server.clone()), config, shared);
        home.log_in("custom", &format!("{}/v1", provider.server.url()), "sk-provider-0123456789");
        home
    }

    /// A home where nobody has logged in.
    pub(crate) fn empty(config: &str, shared: Option<&str>) -> Self {
        Self::of(Machine::new(), config, shared)
    }

    fn of(machine: Machine, config: &str, shared: Option<&str>) -> Self {
        let home = machine.home();
        std::fs::create_dir(home.join("config")).unwrap();
        std::fs::write(home.join("config/config.toml"), config).unwrap();
        let machine = machine.with_kills().variable("QWENAUTH_HOME", home);
        Self { machine: Arc::new(machine), shared: shared.map(str::to_owned) }
    }

    pub(crate) fn log_in(&self, provider: &str, url: &str, key: &str) {
        let login = ["login", provider, "--base-url", url, "--api-key-stdin", "--no-verify"];
        drop(self.machine.run_with_stdin(login, key.as_bytes()).exits(0).any_stderr());
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.machine.home()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.machine.command(arguments);
        command.envs(self.shared.as_ref().map(|url| ("QWENAUTH_SHARED_URL", url)));
        command
    }

    /// What a person sees on a terminal.
    pub(crate) fn on_a_terminal(&self, arguments: &[&str]) -> String {
        let (terminal, near) = PseudoTerminal::open((60, 120));
        let mut command = self.command(arguments);
        // A person sees no log, whatever the tests are run with.
        near.controls(command.env_remove("QWENAUTH_LOG"));
        drop(self.machine.start(command).finish());
        terminal.end().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The same machine, where no server is named.
    pub(crate) fn without_server(&self) -> Self {
        Self { shared: None, ..self.clone() }
    }

    /// A run that has ended, at whose end and output the test looks itself.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        self.machine.start(self.command(arguments)).finish().any_stdout().any_stderr().any_end()
    }
}

pub(crate) struct Gateway {
    running: Running,
    pub(crate) port: u16,
    key: String,
    pub(crate) home: Home,
}

impl Gateway {
    pub(crate) fn start(home: Home, arguments: &[&str]) -> Self {
        let mut gateway = Self::run(home, arguments);
        gateway.key = gateway.running.first_lines(2).remove(1);
        gateway
    }

    /// One whose clients have keys of their own.
    pub(crate) fn start_keyed(home: Home, arguments: &[&str]) -> Self {
        Self::run(home, &[&["--keys", "--shared"], arguments].concat())
    }

    fn run(home: Home, arguments: &[&str]) -> Self {
        let running = home.machine.start(home.command(&[&["gateway"], arguments].concat()));
        let url = running.first_lines(1).remove(0);
        let port = url.trim_end_matches("/v1").rsplit(':').next().unwrap().parse().unwrap();
        Self { running, port, key: String::new(), home }
    }

    /// A client with the key of a person or job.
    pub(crate) fn client_of(&self, key: &str) -> Client {
        Client { port: self.port, key: key.to_owned(), stream: None }
    }

    /// Ends it as an operator does. What it counted is written.
    pub(crate) fn stop(self) {
        self.running.signal(Signal::SIGTERM);
        drop(self.running.finish().any_stdout().any_stderr().any_end());
    }

    pub(crate) fn kill(&mut self) {
        self.running.kill();
    }

    pub(crate) fn pause(&self) {
        self.running.signal(Signal::SIGSTOP);
    }

    pub(crate) fn go_on(&self) {
        self.running.signal(Signal::SIGCONT);
    }

    pub(crate) fn client(&self) -> Client {
        Client { port: self.port, key: self.key.clone(), stream: None }
    }

    pub(crate) fn chat(&self) -> Got {
        self.client().chat()
    }

    pub(crate) fn said(&self) -> String {
        self.running.said()
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, words: &str) {
        self.running.wait_for_stderr(words);
    }

    pub(crate) fn get(&self, path: &str) -> Got {
        self.client().send("GET", path, "")
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
    /// Sends a chat that the provider's log shows as one about `word`. The client leaves when what is returned is dropped.
    pub(crate) fn ask_about(&self, word: &str) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let request = format!(
            "POST /v1/chat/completions?about={word} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
             Content-Length: {}\r\n\r\n{CHAT}",
            self.key,
            CHAT.len()
        );
        (&stream).write_all(request.as_bytes()).unwrap();
        stream
    }
}
