//! The real program in a home directory of its own, with a server of its own on loopback.
//!
//! Silence is the rule: a run is expected to end with 0 and to print nothing, unless the test says otherwise, and no
//! run may show a secret or leave one in a file other than the credential file. All tokens here start with `granted-`
//! so that this can be checked after every run and every test.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::server::{Ask, PATIENCE, Reply, Server};

/// A user without privileges, for tests that run as root.
pub(crate) const NOBODY: u32 = 65534;

pub(crate) struct Sandbox {
    pub(crate) server: Server,
    directory: TempDir,
    environment: BTreeMap<OsString, OsString>,
    /// Runs as this user, when the tests run as root
    user: Option<u32>,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("qwenauth-test-").tempdir().unwrap();
        let server = Server::start();
        let home = directory.path().join("home");
        fs::DirBuilder::new().mode(0o700).create(&home).unwrap();
        let sandbox = Self { server, directory, environment: BTreeMap::new(), user: None };
        let url = sandbox.server.url();
        sandbox.variable("HOME", home).variable("PATH", "/usr/bin:/bin").variable("QWENAUTH_QWEN_OAUTH_URL", url)
    }

    /// A login with an hour left, written as Qwen Code writes it.
    pub(crate) fn logged_in(self) -> Self {
        self.credential_is(credential("1"))
    }

    /// A login whose access token ended a minute ago.
    pub(crate) fn expired() -> Self {
        Self::new().logged_in().expires_in(-60)
    }

    pub(crate) fn expires_in(self, seconds: i64) -> Self {
        self.field("expiry_date", json!(now_ms() + seconds * 1000))
    }

    /// `null` removes the field.
    pub(crate) fn field(self, name: &str, value: Value) -> Self {
        let mut credential = self.credential();
        let fields = credential.as_object_mut().unwrap();
        if value.is_null() {
            fields.shift_remove(name);
        } else {
            fields.insert(name.to_owned(), value);
        }
        self.credential_is(credential)
    }

    pub(crate) fn credential_is(self, mut credential: Value) -> Self {
        if credential["resource_url"] == "{server}" {
            credential["resource_url"] = json!(self.server.url());
        }
        self.file_is(serde_json::to_string_pretty(&credential).unwrap())
    }

    pub(crate) fn file_is(self, content: impl AsRef<[u8]>) -> Self {
        write_private(&self.file(), content);
        self
    }

    pub(crate) fn variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    pub(crate) fn without_variable(mut self, name: &str) -> Self {
        self.environment.remove(OsStr::new(name));
        self
    }

    /// Runs as a user for whom modes and owners count; for root they do not.
    pub(crate) fn unprivileged(mut self) -> Self {
        if nix::unistd::geteuid().is_root() {
            self.user = Some(NOBODY);
            self.own_everything();
        }
        self
    }

    /// After changes made as root: all of it belongs to the unprivileged user again.
    pub(crate) fn own_everything(&self) {
        if let Some(user) = self.user {
            each_path(self.directory.path(), &mut |path| {
                std::os::unix::fs::lchown(path, Some(user), Some(user)).unwrap();
            });
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    pub(crate) fn qwen(&self) -> PathBuf {
        self.home().join(".qwen")
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.qwen().join("oauth_creds.json")
    }

    pub(crate) fn qwen_code_lock(&self) -> PathBuf {
        self.qwen().join("oauth_creds.lock")
    }

    pub(crate) fn kernel_lock(&self) -> PathBuf {
        self.qwen().join(".oauth_creds.qwenauth-lock")
    }

    pub(crate) fn content(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    #[track_caller]
    pub(crate) fn credential(&self) -> Value {
        serde_json::from_str(&self.content()).unwrap()
    }

    pub(crate) fn scripted(self, ask: Ask, reply: Reply) -> Self {
        self.server.script(ask, reply);
        self
    }

    pub(crate) fn refresh(self, reply: Reply) -> Self {
        self.scripted(Ask::Refresh, reply)
    }

    /// The program, by a path that any user can reach.
    pub(crate) fn program(&self) -> PathBuf {
        let built = assert_cmd::cargo::cargo_bin!("qwenauth").to_owned();
        if self.user.is_none() {
            return built;
        }
        let reachable = self.directory.path().join("qwenauth");
        if !reachable.exists() {
            fs::set_permissions(self.directory.path(), Permissions::from_mode(0o755)).unwrap();
            // Copied by another process: a child forked meanwhile would hold our copy open for writing, and it could not run.
            assert!(Command::new("cp").arg(built).arg(&reachable).status().unwrap().success());
        }
        reachable
    }

    /// The program, ready to run: nothing in its environment but what the sandbox gave it.
    pub(crate) fn command<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Command {
        let mut command = self.other(self.program());
        command.args(arguments);
        command
    }

    /// Another program in the sandbox's environment.
    pub(crate) fn other(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(&self.environment).env("QWENAUTH", self.program()).current_dir(self.directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// A shell script, `$QWENAUTH` being the program.
    pub(crate) fn shell(&self, script: &str) -> Outcome {
        let mut shell = self.other("sh");
        shell.args(["-c", script]);
        self.start(shell).finish()
    }

    pub(crate) fn run<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Outcome {
        self.spawn(arguments).finish()
    }

    pub(crate) fn spawn<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Running {
        self.start(self.command(arguments))
    }

    pub(crate) fn start(&self, mut command: Command) -> Running {
        let mut child = command.spawn().unwrap();
        let stdout = Stream::of(child.stdout.take());
        let stderr = Stream::of(child.stderr.take());
        let names = [
            (self.server.url(), "{server}"),
            (self.server.address().to_owned(), "{address}"),
            (self.home().display().to_string(), "{home}"),
            (self.directory.path().display().to_string(), "{sandbox}"),
        ];
        Running { child: Some(child), stdout, stderr, names }
    }

    /// Names of all that lies beside the credential file, sorted.
    pub(crate) fn beside(&self) -> Vec<String> {
        let names = fs::read_dir(self.qwen()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

impl Drop for Sandbox {
    /// No secret in a stray file, no lock or temporary file left behind.
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        let credential = fs::canonicalize(self.file()).unwrap_or_else(|_| self.file());
        each_path(&self.home(), &mut |path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            assert!(!name.contains("tmp"), "{} was left", path.display());
            let large = path.metadata().map_or(0, |metadata| metadata.len()) > 4 << 20;
            let content = if large { Vec::new() } else { fs::read(path).unwrap_or_default() };
            let secret = content.windows(8).any(|bytes| bytes == b"granted-");
            assert!(!secret || fs::canonicalize(path).unwrap() == credential, "a secret in {}", path.display());
        });
    }
}

pub(crate) fn each_path(path: &Path, act: &mut impl FnMut(&Path)) {
    act(path);
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            each_path(&entry.unwrap().path(), act);
        }
    }
}

/// The numbered credential, with an hour left, whose API is the sandbox's server.
pub(crate) fn credential(number: &str) -> Value {
    json!({
        "access_token": format!("granted-access-{number}"),
        "refresh_token": format!("granted-refresh-{number}"),
        "token_type": "Bearer",
        "resource_url": "{server}",
        "expiry_date": now_ms() + 3_600_000,
    })
}

pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// As another program puts a credential there: whole, by a rename.
pub(crate) fn write_private(path: &Path, content: impl AsRef<[u8]>) {
    let directory = path.parent().unwrap();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).unwrap();
    let temporary = directory.join("another-program.tmp");
    fs::write(&temporary, content).unwrap();
    fs::set_permissions(&temporary, Permissions::from_mode(0o600)).unwrap();
    fs::rename(temporary, path).unwrap();
}

pub(crate) fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Waits for what cannot be waited for as an event: the state of another process or a file it changes.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// For what this machine may not allow: says so and skips, but never where a skipped test would go unnoticed.
pub(crate) fn possible(holds: bool, what: &str) -> bool {
    let strict = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(holds || !strict, "this machine cannot {what}, and CI must");
    if !holds {
        println!("skipped: this machine cannot {what}");
    }
    holds
}

/// What a process has printed so far, and whether it can print more.
#[derive(Clone)]
struct Stream(Arc<(Mutex<Printed>, Condvar)>);

/// The bytes, and whether they are all.
type Printed = (Vec<u8>, bool);

impl Stream {
    fn of(source: Option<impl Read + Send + 'static>) -> Self {
        let stream = Self(Arc::new((Mutex::new((Vec::new(), source.is_none())), Condvar::new())));
        if let Some(mut source) = source {
            let stream = stream.clone();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                loop {
                    let count = source.read(&mut buffer).unwrap_or(0);
                    let mut state = stream.0.0.lock().unwrap();
                    state.0.extend_from_slice(&buffer[..count]);
                    state.1 = count == 0;
                    stream.0.1.notify_all();
                    if count == 0 {
                        return;
                    }
                }
            });
        }
        stream
    }

    /// The text, once it is complete or satisfies the condition; nothing when neither comes.
    fn once(&self, enough: impl Fn(&str) -> bool) -> Option<String> {
        let text = |state: &Printed| String::from_utf8_lossy(&state.0).into_owned();
        let state = self.0.0.lock().unwrap();
        let (state, waited) =
            self.0.1.wait_timeout_while(state, PATIENCE, |state| !state.1 && !enough(&text(state))).unwrap();
        (!waited.timed_out()).then(|| text(&state))
    }
}

/// A run that has begun.
pub(crate) struct Running {
    child: Option<Child>,
    stdout: Stream,
    stderr: Stream,
    names: [(String, &'static str); 4],
}

impl Running {
    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id().try_into().unwrap()), signal).unwrap();
    }

    #[track_caller]
    pub(crate) fn wait_for_stderr(&self, text: &str) {
        let said = self.stderr.once(|said| said.contains(text)).expect("neither the text nor an end");
        assert!(said.contains(text), "`{text}` awaited, but the run ended with: {said}");
    }

    #[track_caller]
    pub(crate) fn wait_for_stdout(&self, text: &str) {
        let said = self.stdout.once(|said| said.contains(text)).expect("neither the text nor an end");
        assert!(said.contains(text), "`{text}` awaited, but the run ended with: {said}");
    }

    /// The first lines of stdout, once they are there.
    #[track_caller]
    pub(crate) fn first_lines(&self, count: usize) -> Vec<String> {
        let said = self.stdout.once(|said| said.matches('\n').count() >= count).expect("neither the lines nor an end");
        assert!(said.matches('\n').count() >= count, "{count} lines awaited, but the run ended with: {said}");
        said.lines().take(count).map(str::to_owned).collect()
    }

    /// Waits until it has that file open (or has ended).
    #[track_caller]
    pub(crate) fn wait_until_open(&self, path: &Path) {
        let path = fs::canonicalize(path.parent().unwrap()).unwrap().join(path.file_name().unwrap());
        let descriptors = format!("/proc/{}/fd", self.id());
        until("a process has the file open", || match fs::read_dir(&descriptors) {
            Ok(entries) => {
                let mut open = 0;
                let mut found = false;
                for entry in entries.flatten() {
                    open += 1;
                    found |= fs::read_link(entry.path()).is_ok_and(|target| target == path);
                }
                found || open == 0
            }
            Err(_) => true,
        });
    }

    #[track_caller]
    pub(crate) fn finish(mut self) -> Outcome {
        let stdout = self.stdout.once(|_| false).expect("the run does not end");
        let stderr = self.stderr.once(|_| false).expect("the run does not end");
        let status = self.child.take().unwrap().wait().unwrap();
        Outcome {
            stdout: self.named(&stdout),
            stderr: self.named(&stderr),
            status,
            expected_status: false,
            expected_stdout: false,
            expected_stderr: false,
        }
    }

    fn named(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (value, name)| text.replace(value, name))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A run that has ended. What the test does not speak of must be: exit code 0, nothing printed.
pub(crate) struct Outcome {
    status: ExitStatus,
    /// With `{server}`, `{address}`, `{home}` and `{sandbox}` for what differs from run to run
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    expected_status: bool,
    expected_stdout: bool,
    expected_stderr: bool,
}

impl Outcome {
    #[track_caller]
    pub(crate) fn exits(mut self, code: i32) -> Self {
        self.expected_status = true;
        assert_eq!(self.status.code(), Some(code), "{self}");
        self
    }

    #[track_caller]
    pub(crate) fn dies_by(mut self, signal: Signal) -> Self {
        self.expected_status = true;
        assert_eq!(self.status.signal(), Some(signal as i32), "{self}");
        self
    }

    #[track_caller]
    pub(crate) fn stdout(mut self, text: &str) -> Self {
        self.expected_stdout = true;
        assert_eq!(self.stdout, text, "{self}");
        self
    }

    #[track_caller]
    pub(crate) fn stderr(mut self, text: &str) -> Self {
        self.expected_stderr = true;
        assert_eq!(self.stderr, text, "{self}");
        self
    }

    /// For a text with a number in it that time changes.
    #[track_caller]
    pub(crate) fn stderr_one_of(mut self, texts: impl IntoIterator<Item = String>) -> Self {
        self.expected_stderr = true;
        assert!(texts.into_iter().any(|text| text == self.stderr), "{self}");
        self
    }

    /// One error, at most one hint (empty: none), nothing else on stderr.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, error: &str, hint: &str) -> Self {
        let error = format!("qwenauth: error: {error}\n");
        let hint = if hint.is_empty() { String::new() } else { format!("qwenauth: hint: {hint}\n") };
        self.exits(code).stderr(&(error + &hint))
    }

    /// The test looks at stdout itself.
    pub(crate) fn any_stdout(mut self) -> Self {
        self.expected_stdout = true;
        self
    }

    /// The test looks at stderr itself.
    pub(crate) fn any_stderr(mut self) -> Self {
        self.expected_stderr = true;
        self
    }

    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Stdout, one JSON value a line.
    #[track_caller]
    pub(crate) fn json_lines(&mut self) -> Vec<Value> {
        self.expected_stdout = true;
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{self}"))).collect()
    }

    /// Stdout, one JSON value.
    #[track_caller]
    pub(crate) fn json(&mut self) -> Value {
        self.expected_stdout = true;
        serde_json::from_str(&self.stdout).unwrap_or_else(|_| panic!("{self}"))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}\nstdout: {}\nstderr: {}", self.status, self.stdout, self.stderr)
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        assert!(self.expected_status || self.status.success(), "{self}");
        assert!(self.expected_stdout || self.stdout.is_empty(), "{self}");
        assert!(self.expected_stderr || self.stderr.is_empty(), "{self}");
        assert!(!self.stderr.contains("granted-"), "a secret on stderr: {self}");
        for secret in ["granted-refresh", "granted-device"] {
            assert!(!self.stdout.contains(secret), "a secret on stdout: {self}");
        }
    }
}
