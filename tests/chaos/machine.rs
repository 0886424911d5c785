//! A home directory with one credential, and the real program in it, which a scenario may kill.

use std::collections::HashSet;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use serde_json::{Value, json};

use super::server::{MARKER, Server, Tokens};
use crate::cli::support::machine::{self, mode, now_ms};
use crate::cli::support::run::{Outcome, Running, Stream};

pub(crate) struct Machine {
    pub(crate) server: Server,
    machine: machine::Machine,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let machine = machine::Machine::new().with_kills().variable("QWENAUTH_LOG", "trace");
        Self { server: Server::on(&machine.server), machine }
    }

    /// Puts a credential there as another program does: whole, by a rename. `left`: seconds.
    pub(crate) fn store(&self, tokens: &Tokens, left: i64) {
        let expiry = now_ms() + left * 1000;
        self.put(&json!({
            "access_token": tokens.access, "refresh_token": tokens.refresh, "token_type": "Bearer",
            "resource_url": self.server.url(), "expiry_date": expiry, "of_another_program": {"kept": [1, 2.5, null]},
        }));
    }

    fn put(&self, credential: &Value) {
        self.machine.file_written(credential.to_string());
    }

    /// Lets the access token's time run out.
    pub(crate) fn expire(&self) {
        self.set_left(-60_000);
    }

    /// Gives the access token another hour.
    pub(crate) fn last(&self) {
        self.set_left(3_600_000);
    }

    fn set_left(&self, left: i64) {
        let mut credential = self.credential().unwrap().expect("a credential");
        credential["expiry_date"] = json!(now_ms() + left);
        self.put(&credential);
    }

    /// What the file holds: `None` where there is none.
    ///
    /// Errors: it is not whole, or not private.
    pub(crate) fn credential(&self) -> Result<Option<Value>, String> {
        let bytes = match fs::read(self.machine.file()) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&bytes)))?;
        for field in ["access_token", "refresh_token", "token_type", "expiry_date"] {
            if value[field].is_null() {
                return Err(format!("`{field}` is missing: {value}"));
            }
        }
        let mode = mode(&self.machine.file());
        if mode == 0o600 { Ok(Some(value)) } else { Err(format!("its mode is {mode:o}")) }
    }

    pub(crate) fn refresh_token(&self) -> Result<Option<String>, String> {
        Ok(self.credential()?.map(|credential| credential["refresh_token"].as_str().unwrap_or_default().to_owned()))
    }

    /// A credential that the server takes; where there is none yet, another program puts one there.
    pub(crate) fn log_in(&self) {
        let stored = self.refresh_token().unwrap_or_else(|error| panic!("{error}"));
        if !stored.is_some_and(|token| self.server.is_good(&token)) {
            self.store(&self.server.issue(), 3600);
        }
    }

    /// Lets the API refuse the stored access token, which looks good for another hour.
    pub(crate) fn refuse(&self) {
        let credential = self.credential().unwrap().expect("a credential");
        self.server.refuse(credential["access_token"].as_str().unwrap());
        self.last();
    }

    /// The next one renews at once, whatever locks and files a killed one left.
    pub(crate) fn goes_on(&self, told: &str) {
        let ended = self.start(&["refresh"]).end();
        assert_eq!(ended.outcome.code(), Some(0), "{told}the next renewal failed: {}", ended.outcome.stderr);
        assert!(ended.after < Duration::from_secs(20), "{told}the next renewal took {:?}", ended.after);
        assert!(
            !ended.outcome.stderr.contains("waiting for"),
            "{told}the next renewal waited: {}",
            ended.outcome.stderr
        );
        assert_eq!(self.leftovers(), [""; 0], "{told}left after the next renewal");
    }

    /// Whether the next renewal puts in place what a killed one was granted, and asks for nothing.
    pub(crate) fn completes(&self, told: &str) -> bool {
        let asked = self.server.refreshes().len();
        let ended = self.start(&["refresh"]).end();
        let token = self.refresh_token().unwrap_or_else(|error| panic!("{told}the file is not whole: {error}"));
        // The process beside the killed one may have been told already that the token is spent.
        let is_known_to_be_spent =
            ended.outcome.code() == Some(4) && ended.outcome.stderr.contains("the server rejected its refresh token");
        if self.server.refreshes().len() > asked || is_known_to_be_spent {
            return false;
        }
        assert_eq!(ended.outcome.code(), Some(0), "{told}the next renewal failed: {}", ended.outcome.stderr);
        assert_eq!(self.leftovers(), [""; 0], "{told}left after the next renewal");
        token.is_some_and(|token| self.server.is_good(&token))
    }

    /// What lies beside the credential and should not.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut names = self.machine.beside();
        names.retain(|name| name != "oauth_creds.json" && name != ".oauth_creds.qwenauth-lock");
        names
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Process {
        Process::of(self.machine.spawn(arguments))
    }

    /// The same, killed when a thread of it makes its so many-th system call of that kind.
    pub(crate) fn start_killed_at(&self, kind: &str, number: usize, arguments: &[&str]) -> Process {
        let mut strace = self.machine.other("strace");
        strace.args(["-f", "-qqq", "-o", "/dev/null", "-e", &format!("inject={kind}:signal=KILL:when={number}")]);
        strace.arg(self.machine.program()).args(arguments);
        Process::of(self.machine.start(strace))
    }
}

/// A background job of a script has INT ignored, one of `nohup` HUP, and so would all that is started here.
#[expect(unsafe_code, reason = "dispositions of signals have no safe interface")]
pub(crate) fn let_signals_come() {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGTERM] {
        // SAFETY: no handler is installed.
        unsafe { sigaction(signal, &action) }.unwrap();
    }
}

pub(crate) struct Process {
    running: Running,
    pub(crate) started: Instant,
}

/// How a process ended.
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    pub(crate) after: Duration,
    pub(crate) at: Instant,
}

impl Process {
    fn of(running: Running) -> Self {
        Self { running, started: Instant::now() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.running.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    pub(crate) fn stdout(&self) -> Stream {
        self.running.stdout()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.running.has_ended()
    }

    /// Waits for the end.
    pub(crate) fn end(self) -> Ended {
        let outcome = self.running.finish().any_stdout().any_stderr().any_end();
        let at = Instant::now();
        Ended { outcome, after: at - self.started, at }
    }
}

/// Which of these processes hold a file lock and which wait for one, by the kernel's own table. Each takes only one.
pub(crate) fn at_lock(processes: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let ours: HashSet<u32> = processes.iter().copied().collect();
    let table = fs::read_to_string("/proc/locks").unwrap_or_default();
    let (mut holding, mut waiting) = (Vec::new(), Vec::new());
    for line in table.lines() {
        // `1: FLOCK ADVISORY WRITE 4711 00:2a:1234 0 EOF`, with `->` after the number for one that waits.
        let process = line.split_whitespace().filter(|word| *word != "->").nth(4).and_then(|word| word.parse().ok());
        if let Some(process) = process.filter(|process| ours.contains(process)) {
            let list = if line.contains("->") { &mut waiting } else { &mut holding };
            list.push(process);
        }
    }
    (holding, waiting)
}

/// Reads all command lines of this machine as long as it lives: no secret may stand there.
pub(crate) struct Watch;

static WATCHING: AtomicBool = AtomicBool::new(false);
static COMMAND_LINES: AtomicU64 = AtomicU64::new(0);
static LEAKED: AtomicBool = AtomicBool::new(false);

impl Watch {
    pub(crate) fn start() -> Self {
        WATCHING.store(true, Ordering::SeqCst);
        thread::spawn(|| {
            while WATCHING.load(Ordering::SeqCst) {
                for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
                    let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
                    if line.windows(8).any(|bytes| bytes == b"qwenauth") {
                        COMMAND_LINES.fetch_add(1, Ordering::SeqCst);
                    }
                    if line.windows(MARKER.len()).any(|bytes| bytes == MARKER.as_bytes()) {
                        println!("a secret in a command line: {}", String::from_utf8_lossy(&line));
                        LEAKED.store(true, Ordering::SeqCst);
                    }
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self
    }

    /// How many command lines of `qwenauth` were read.
    #[expect(clippy::unused_self, reason = "a watch that has ended is gone")]
    pub(crate) fn end(self) -> u64 {
        WATCHING.store(false, Ordering::SeqCst);
        assert!(!LEAKED.load(Ordering::SeqCst), "a secret was an argument");
        COMMAND_LINES.load(Ordering::SeqCst)
    }
}
