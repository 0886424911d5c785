//! A run of the program: what it has printed so far, how it ends.
//!
//! Silence is the rule: a run is expected to end with 0 and to print nothing, unless the test says otherwise;
//! no secret but what was asked for is ever printed, whatever the test says.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use super::machine::until;
use super::server::PATIENCE;

/// What a process has printed so far, and whether it can print more.
#[derive(Clone)]
pub(crate) struct Stream(Arc<(Mutex<Printed>, Condvar)>);

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

    /// The first lines, once they are there; nothing once it has ended with fewer.
    pub(crate) fn lines(&self, count: usize) -> Option<Vec<String>> {
        let are_there = |said: &str| said.matches('\n').count() >= count;
        let said = self.once(are_there).filter(|said| are_there(said))?;
        Some(said.lines().take(count).map(str::to_owned).collect())
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

/// With `QWENAUTH_TEST_LOG=LEVEL` in the environment of the tests, every program they start logs at that level. The lines
/// are searched for secrets and otherwise taken away, so that the same sentences hold.
pub(crate) fn log_level() -> Option<String> {
    std::env::var("QWENAUTH_TEST_LOG").ok()
}

/// `text` without the log lines that nobody but [`log_level`] asked for: `[INFO  qwenauth::lock] …`.
fn without_log(text: &str) -> String {
    let logged = |line: &&str| line.starts_with('[') && line.contains(" qwenauth") && line.contains("] ");
    text.split_inclusive('\n').filter(|line| !logged(line)).collect()
}

/// Starts a program that a test may have written this moment: another test's thread that was just starting a program of
/// its own holds a copy of the descriptor until then, and the kernel runs no file that is open for writing.
pub(crate) fn spawn(command: &mut Command) -> Child {
    let mut child = command.spawn();
    until("the program can be run", || {
        let is_busy = child.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ExecutableFileBusy);
        if is_busy {
            child = command.spawn();
        }
        !is_busy
    });
    child.unwrap()
}

/// A run that has begun.
pub(crate) struct Running {
    child: Option<Child>,
    stdout: Stream,
    stderr: Stream,
    names: [(String, &'static str); 4],
    /// Whether nobody but [`log_level`] asked for the log.
    hides_log: bool,
}

impl Running {
    /// `names`: what stands for texts that differ from run to run.
    pub(crate) fn start(mut command: Command, names: [(String, &'static str); 4], hides_log: bool) -> Self {
        let mut child = spawn(&mut command);
        let stdout = Stream::of(child.stdout.take());
        let stderr = Stream::of(child.stderr.take());
        Self { child: Some(child), stdout, stderr, names, hides_log }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id().try_into().unwrap()), signal).unwrap();
    }

    #[track_caller]
    pub(crate) fn stop(&self) {
        let id = Pid::from_raw(self.id().try_into().unwrap());
        kill(id, Signal::SIGSTOP).unwrap();
        assert_eq!(waitpid(id, Some(WaitPidFlag::WUNTRACED)), Ok(WaitStatus::Stopped(id, Signal::SIGSTOP)));
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    /// For another thread that reads while it runs.
    pub(crate) fn stdout(&self) -> Stream {
        self.stdout.clone()
    }

    /// Whether it prints so many lines; `false` once it has ended with fewer.
    pub(crate) fn has_lines(&self, count: usize) -> bool {
        self.stdout.lines(count).is_some()
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

    /// What it has said so far on stderr.
    pub(crate) fn said(&self) -> String {
        let said = self.stderr.once(|_| true).unwrap_or_default();
        if self.hides_log { without_log(&said) } else { said }
    }

    pub(crate) fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// The first lines of stdout, once they are there.
    #[track_caller]
    pub(crate) fn first_lines(&self, count: usize) -> Vec<String> {
        self.stdout.lines(count).unwrap_or_else(|| {
            let said = [&self.stdout, &self.stderr].map(|stream| stream.once(|_| true).unwrap_or_default());
            panic!("{count} lines awaited, but this came: {}{}", said[0], said[1])
        })
    }

    /// Waits until it has that lock file open (or has ended). Where this user may not look into a process that keeps
    /// others out, the kernel's table of locks tells.
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
            Err(_) if Path::new(&format!("/proc/{}/exe", self.id())).symlink_metadata().is_err() => true,
            Err(_) => {
                let process = self.id().to_string();
                let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
                locks.split_whitespace().any(|word| word == process)
            }
        });
    }

    #[track_caller]
    pub(crate) fn finish(mut self) -> Outcome {
        let all = |stream: &Stream| {
            stream.once(|_| false).unwrap_or_else(|| panic!("the run does not end:\n{}", threads(self.id())))
        };
        let (stdout, stderr) = (all(&self.stdout), all(&self.stderr));
        let status = self.child.take().unwrap().wait().unwrap();
        // What `env --format github` asks the runner to mask is the one secret that is said there.
        let is_secret = |line: &str| line.contains("granted-") && !line.starts_with("::add-mask::");
        assert!(!stderr.lines().any(is_secret), "a secret on stderr: {stderr}");
        Outcome {
            stdout: self.named(&stdout),
            stderr: self.named(&if self.hides_log { without_log(&stderr) } else { stderr }),
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
        self.kill();
    }
}

/// What the threads of a process do, where the kernel shows it.
fn threads(id: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let lines = tasks.map(|task| {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let masks = read("status");
        let masks: Vec<_> = masks.lines().filter(|line| line.contains("Sig") || line.contains("ShdPnd")).collect();
        format!("{} {} {}\n", read("comm").trim(), read("syscall").trim(), masks.join(" "))
    });
    lines.collect()
}

/// A run that has ended. What the test does not speak of must be: exit code 0, nothing printed.
pub(crate) struct Outcome {
    status: ExitStatus,
    /// With `{server}`, `{address}`, `{home}` and `{machine}` for what differs from run to run
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

    /// The test looks at the end itself.
    pub(crate) fn any_end(mut self) -> Self {
        self.expected_status = true;
        self
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

    pub(crate) fn died_by(&self, signal: Signal) -> bool {
        self.status.signal() == Some(signal as i32)
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
        for secret in ["granted-refresh", "granted-device"] {
            assert!(!self.stdout.contains(secret), "a secret on stdout: {self}");
        }
    }
}
