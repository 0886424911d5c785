//! A home directory with one credential, and the real program in it, which a scenario may kill.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::server::{PATIENCE, Server, Tokens};

/// Every token of the server begins so.
const MARKER: &str = "chaotic-";

pub(crate) struct Machine {
    pub(crate) server: Server,
    directory: TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("qwenauth-chaos-").tempdir().unwrap();
        fs::create_dir_all(directory.path().join(".qwen")).unwrap();
        fs::set_permissions(directory.path().join(".qwen"), fs::Permissions::from_mode(0o700)).unwrap();
        Self { server: Server::start(), directory }
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.path().join(".qwen")
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.directory().join("oauth_creds.json")
    }

    /// Puts a credential there as another program does: whole, by a rename. `left`: seconds.
    pub(crate) fn store(&self, tokens: &Tokens, left: i64) {
        let expiry = milliseconds() + left * 1000;
        self.put(&json!({
            "access_token": tokens.access, "refresh_token": tokens.refresh, "token_type": "Bearer",
            "resource_url": self.server.url, "expiry_date": expiry, "of_another_program": {"kept": [1, 2.5, null]},
        }));
    }

    fn put(&self, credential: &Value) {
        let temporary = self.directory().join("another-program.part");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary).unwrap();
        std::io::Write::write_all(&mut file, credential.to_string().as_bytes()).unwrap();
        fs::rename(temporary, self.file()).unwrap();
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
        credential["expiry_date"] = json!(milliseconds() + left);
        self.put(&credential);
    }

    /// What the file holds: `None` where there is none.
    ///
    /// Errors: it is not whole, or not private.
    pub(crate) fn credential(&self) -> Result<Option<Value>, String> {
        let bytes = match fs::read(self.file()) {
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
        let mode = fs::metadata(self.file()).map_err(|error| error.to_string())?.mode() & 0o777;
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
        assert_eq!(ended.code(), Some(0), "{told}the next renewal failed: {}", ended.stderr);
        assert!(ended.after < Duration::from_secs(20), "{told}the next renewal took {:?}", ended.after);
        assert!(!ended.stderr.contains("waiting for"), "{told}the next renewal waited: {}", ended.stderr);
        assert_eq!(self.leftovers(), [""; 0], "{told}left after the next renewal");
    }

    /// Whether the next renewal puts in place what a killed one was granted, and asks for nothing.
    pub(crate) fn completes(&self, told: &str) -> bool {
        let asked = self.server.refreshes().len();
        let ended = self.start(&["refresh"]).end();
        let token = self.refresh_token().unwrap_or_else(|error| panic!("{told}the file is not whole: {error}"));
        // The process beside the killed one may have been told already that the token is spent.
        let is_known_to_be_spent =
            ended.code() == Some(4) && ended.stderr.contains("the server rejected its refresh token");
        if self.server.refreshes().len() > asked || is_known_to_be_spent {
            return false;
        }
        assert_eq!(ended.code(), Some(0), "{told}the next renewal failed: {}", ended.stderr);
        assert_eq!(self.leftovers(), [""; 0], "{told}left after the next renewal");
        token.is_some_and(|token| self.server.is_good(&token))
    }

    /// What lies beside the credential and should not.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let names =
            fs::read_dir(self.directory()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "oauth_creds.json" && name != ".oauth_creds.qwenauth-lock").collect()
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Process {
        self.spawn(Command::new(program()), arguments)
    }

    /// The same, killed when a thread of it makes its so many-th system call of that kind.
    pub(crate) fn start_killed_at(&self, kind: &str, number: usize, arguments: &[&str]) -> Process {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qqq", "-o", "/dev/null", "-e", &format!("inject={kind}:signal=KILL:when={number}")]);
        strace.arg(program());
        self.spawn(strace, arguments)
    }

    fn spawn(&self, mut command: Command, arguments: &[&str]) -> Process {
        command.args(arguments).env_clear().env("HOME", self.directory.path()).env("PATH", "/usr/bin:/bin");
        command.env("QWENAUTH_QWEN_OAUTH_URL", &self.server.url).env("QWENAUTH_LOG", "trace");
        command.current_dir(self.directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Read while it runs: what a gateway logs in its life fills a pipe.
        let mut stderr = child.stderr.take().unwrap();
        let reading = thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).map(|_| text).unwrap_or_default()
        });
        Process { child, reading, started: Instant::now() }
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

fn program() -> OsString {
    std::env::var_os("QWENAUTH").unwrap_or_else(|| env!("CARGO_BIN_EXE_qwenauth").into())
}

fn milliseconds() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

pub(crate) struct Process {
    child: Child,
    reading: JoinHandle<String>,
    pub(crate) started: Instant,
}

/// How a process ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) after: Duration,
    pub(crate) at: Instant,
}

impl Ended {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub(crate) fn died_by(&self, signal: Signal) -> bool {
        self.status.signal() == Some(signal as i32)
    }
}

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended by itself, but not been waited for, so the number is still its own.
        let _ = kill(Pid::from_raw(self.id().try_into().unwrap()), signal);
    }

    /// For whoever reads while it runs; its end then tells nothing of it.
    pub(crate) fn take_stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("nobody took it before")
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the end; a process that does not end in time is killed and reported.
    pub(crate) fn end(self) -> Ended {
        self.end_of("")
    }

    /// `told`: which one it is.
    pub(crate) fn end_of(mut self, told: &str) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let id = self.child.id();
                println!("{}", threads(id));
                drop(self.child.kill());
                let stderr = self.reading.join().expect("stderr can be read");
                panic!("{told}process {id} does not end\n{stderr}");
            }
            thread::sleep(Duration::from_micros(500));
        };
        let at = Instant::now();
        let after = at - self.started;
        let mut stdout = String::new();
        if let Some(mut pipe) = self.child.stdout.take() {
            pipe.read_to_string(&mut stdout).unwrap();
        }
        let stderr = self.reading.join().expect("stderr can be read");
        assert!(!stderr.contains(MARKER), "a secret on stderr:\n{stderr}");
        for secret in ["chaotic-refresh", "chaotic-device"] {
            assert!(!stdout.contains(secret), "a secret on stdout:\n{stdout}");
        }
        Ended { status, stdout, stderr, after, at }
    }
}

/// What the threads of a process do.
fn threads(id: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let lines = tasks.map(|task| {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let masks: Vec<_> = read("status")
            .lines()
            .filter(|line| line.contains("Sig") || line.contains("ShdPnd"))
            .map(str::to_owned)
            .collect();
        format!("{} {} {}\n", read("comm").trim(), read("syscall").trim(), masks.join(" "))
    });
    lines.collect()
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
