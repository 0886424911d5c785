//! Programs of the user that gateways run when something happens: `[hooks]` of config.toml.
//!
//! Hazard: a hook hangs, fails, or runs once in each of twenty gateways.
//! Rule: it never holds up a request; it gets its event as JSON on stdin, no secret, and 10 s, after which it is ended with
//! everything it started; of all processes of the user the first to see an event runs it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use serde_json::{Value, json};

use crate::environment::variable;
use crate::error::{Trouble, note};
use crate::paths::StateDirectory;
use crate::platform::{files, processes};
use crate::sha256::short_sha256;
use crate::usage::Event;

/// The events that can have a hook.
pub(crate) const NAMES: [&str; 5] = ["limit_near", "limit_reached", "login_required", "renewed", "fallback"];

/// Time limit of a hook.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long the gateway waits at its end for hooks that still run.
const GRACE: Duration = Duration::from_secs(2);

/// How often a running hook is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Markers of events are kept for longer than any window.
const KEPT: Duration = Duration::from_secs(40 * 86400);

/// Program and arguments by the name of the event.
pub(crate) type Commands = BTreeMap<String, Vec<String>>;

/// The hooks of one gateway.
pub(crate) struct Hooks {
    commands: Commands,
    /// Where events that were seen are marked.
    directory: PathBuf,
    running: Vec<(JoinHandle<()>, mpsc::Sender<()>)>,
    /// By the name of the event.
    troubles: BTreeMap<String, Arc<Trouble>>,
}

impl Hooks {
    pub(crate) fn new(commands: Commands, state: &Path) -> Self {
        let directory = StateDirectory::Events.below(state);
        if !commands.is_empty() {
            files::remove_older(&directory, KEPT);
        }
        let troubles = commands.keys().map(|name| (name.clone(), Arc::default())).collect();
        Self { commands, directory, running: Vec::new(), troubles }
    }

    /// Runs the hook of an event, if there is one and no process has run it for this `occurrence`. `withheld`: variables
    /// that it does not get.
    pub(crate) fn run(&mut self, event: &Event, occurrence: &str, withheld: &BTreeSet<OsString>) {
        let name = event.name();
        let Some(command) = self.commands.get(name).filter(|command| !command.is_empty()) else { return };
        match self.is_first(name, occurrence) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => log::warn!("the hook `{name}` may run in several processes: {error:#}"),
        }
        let input = input_of(event);
        let withheld = withheld.clone();
        let (stop, stopped) = mpsc::channel();
        let (name, command) = (name.to_owned(), command.clone());
        let trouble = self.troubles.get(&name).cloned().unwrap_or_default();
        let run = move || match run(&command, &withheld, &input, &stopped) {
            Ok(()) => trouble.end(),
            Err(error) => trouble.note(&format!("the hook `{name}` failed: {error:#}")),
        };
        match std::thread::Builder::new().name("hook".to_owned()).spawn(run) {
            Ok(thread) => self.running.push((thread, stop)),
            Err(error) => note(&format!("warning: cannot run a hook: {error}")),
        }
        self.running.retain(|(thread, _)| !thread.is_finished());
    }

    /// Marks an event. Returns whether it was unmarked before.
    fn is_first(&self, name: &str, occurrence: &str) -> Result<bool> {
        files::make_directory(&self.directory)?;
        let marker = short_sha256(format!("{name}/{occurrence}"), 32);
        match files::create_whole(&self.directory.join(marker), b"") {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Hooks {
    /// Hooks that just started may finish; one that hangs is ended.
    fn drop(&mut self) {
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline && self.running.iter().any(|(thread, _)| !thread.is_finished()) {
            std::thread::sleep(POLL_INTERVAL);
        }
        for (thread, stop) in self.running.drain(..) {
            drop(stop);
            let _ = thread.join();
        }
    }
}

fn input_of(event: &Event) -> String {
    let mut input = json!({ "schema": 1 });
    if let (Value::Object(input), Ok(Value::Object(fields))) = (&mut input, serde_json::to_value(event)) {
        let now = jiff::Timestamp::try_from(SystemTime::now()).map(|now| now.to_string());
        input.insert("time".into(), now.unwrap_or_default().into());
        input.extend(fields);
    }
    format!("{input}\n")
}

/// Runs a hook to its end, its time limit, or until `stopped`.
fn run(command: &[String], withheld: &BTreeSet<OsString>, input: &str, stopped: &Receiver<()>) -> Result<()> {
    let (program, arguments) = command.split_first().ok_or_else(|| anyhow::anyhow!("it names no program"))?;
    let mut command = processes::command(program.as_ref(), variable("PATH").as_deref())?;
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    for name in withheld {
        command.env_remove(name);
    }
    let mut group = processes::Group::spawn(&mut command)?;
    // A hook need not read its input.
    if let Some(mut stdin) = group.child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes());
    }
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(status) = group.child.try_wait()? {
            anyhow::ensure!(status.success(), "it ended with {status}");
            return Ok(());
        }
        let is_stopped = matches!(stopped.recv_timeout(POLL_INTERVAL), Err(RecvTimeoutError::Disconnected));
        if is_stopped || Instant::now() >= deadline {
            group.kill();
            group.child.wait()?;
            anyhow::bail!("it was stopped after {} s", if is_stopped { GRACE } else { TIMEOUT }.as_secs());
        }
    }
}
