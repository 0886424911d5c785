//! A key printed by a command of the user, such as `op read …`: only the command is stored.
//!
//! Hazards: the command hangs, prompts an absent user, calls qwenauth for the same profile and so itself, or is run by
//! ten processes at once, each with a dialog; or it outlives this process. Rule: it runs without a shell, one at a time
//! under the profile's lock, without the keys of the environment, and with a timeout; a signal that ends this process
//! ends it as well; a nested call is rejected; its output is kept in memory only.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{IsTerminal, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use zeroize::Zeroizing;

use super::super::CredentialSource;
use super::super::key::parse_key;
use crate::environment::{API_KEY, API_KEY_FILE, variable};
use crate::error::{Failed, Failure, is_variable_name};
use crate::platform::lock::LOCK_TIMEOUT;
use crate::platform::signals::{self, DeferredSignals};
use crate::platform::{files, processes, threads};
use crate::providers::Provider;
use crate::secret::Secret;

/// Timeout of a command.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout on a terminal, where the user may have to touch or type something.
const TIMEOUT_AT_TERMINAL: Duration = Duration::from_secs(60);

/// If a command prints a rejected key again, it is run again after this pause, not for each request.
const RERUN_PAUSE: Duration = Duration::from_secs(10);

/// How often a running command is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// After a command ends, its output is read for at most this long: a program that it started may keep the output open.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// How long a command on a terminal has to end after a signal; Ctrl-C reaches it as well.
const INTERRUPT_GRACE: Duration = Duration::from_secs(1);

/// Maximum size of the output, in bytes.
const MAX_OUTPUT: u64 = 64 * 1024;

/// The credential files whose key commands are ancestors of this process, to detect a command that calls qwenauth.
const RUNNING: &str = "QWENAUTH_KEY_COMMAND_OF";

/// The usual name of key variables of other providers.
const USUAL_KEY: &str = "OPENAI_API_KEY";

/// What the commands of this process have printed.
#[derive(Clone, Default)]
pub(crate) struct Answers(Arc<Mutex<BTreeMap<String, Answer>>>);

struct Answer {
    secret: Secret,
    is_refused: bool,
    /// When it was printed again although it was rejected.
    repeated_at: Option<Instant>,
}

impl Answers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Answer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in super::super) fn get(&self, command: &str) -> Option<Secret> {
        self.lock().get(command).filter(|answer| !answer.is_refused).map(|answer| answer.secret.clone())
    }

    fn keep(&self, command: &str, secret: &Secret) {
        let mut answers = self.lock();
        let is_repeated = answers.get(command).is_some_and(|old| old.is_refused && old.secret == *secret);
        let repeated_at = is_repeated.then(Instant::now);
        answers.insert(command.to_owned(), Answer { secret: secret.clone(), is_refused: false, repeated_at });
    }

    /// Runs the command again when its key is needed next.
    pub(in super::super) fn refuse(&self, command: &str) {
        if let Some(answer) = self.lock().get_mut(command)
            && answer.repeated_at.is_none_or(|at| at.elapsed() >= RERUN_PAUSE)
        {
            answer.is_refused = true;
        }
    }
}

/// The program of a command. It may be shown; the arguments may be secret, and the value of a variable before it.
pub(crate) fn program_of(command: &str) -> String {
    let first = words_of(command).ok().and_then(|words| words.into_iter().next()).unwrap_or_default();
    assigned(&first).map(str::to_owned).unwrap_or(first)
}

/// The variable that a shell would set by this word.
fn assigned(word: &str) -> Option<&str> {
    word.split_once('=').map(|(name, _)| name).filter(|name| is_variable_name(name))
}

fn words_of(command: &str) -> Result<Vec<String>, shell_words::ParseError> {
    shell_words::split(&processes::for_splitting(command))
}

/// Runs `command` and returns the key that it prints.
///
/// Errors: usage if it is not a valid command, temporary if it times out, login required if it fails.
pub(crate) fn key_of(source: &CredentialSource, command: &str, provider: &Provider) -> Result<Secret> {
    let words = match words_of(command) {
        Ok(words) if words.first().is_some_and(|first| assigned(first).is_some()) => {
            return Failed::new(
                Failure::Usage,
                "the key command starts with an assignment, which needs a shell or `env`",
            )
            .hint("write `env` in front, as in `--api-key-command 'env NAME=… op read \"op://Private/Qwen/key\"'`")
            .err();
        }
        Ok(words) if words.first().is_some_and(|program| !program.is_empty()) => words,
        Ok(_) => return Failed::new(Failure::Usage, "the key command is empty").err(),
        Err(_) => {
            return Failed::new(Failure::Usage, "the key command has a quote that is not closed")
                .hint("quote it as in a shell, for example `--api-key-command 'op read \"op://Private/Qwen/key\"'`")
                .err();
        }
    };
    let file = std::path::absolute(source.store.path())?.display().to_string();
    let above = variable(RUNNING).map(|set| set.to_string_lossy().into_owned()).unwrap_or_default();
    if above.lines().any(|line| line == file) {
        let message = format!("the key command of `{}` calls qwenauth for the same profile", source.profile);
        return Failed::new(Failure::Other, message).hint("use a command that gets the key from elsewhere").err();
    }
    if let Some(directory) = files::resolve(source.store.path())?.parent() {
        files::make_directory(directory)?;
    }
    let _alone = source.store.lock(Instant::now() + LOCK_TIMEOUT)?;
    // Another thread of this process may have run it while this one waited.
    if let Some(answer) = source.answers.get(command) {
        return Ok(answer);
    }
    let mut started = with_withheld(&words, provider)?;
    started.env(RUNNING, format!("{above}{file}\n"));
    log::info!("running the key command `{}` of `{}`", words[0], source.profile);
    let output = output_of(&words[0], &mut started)?;
    let text = std::str::from_utf8(&output).map_err(|_| not_a_key(&words[0], "it is not text"))?;
    let key = parse_key(text).map_err(|why| not_a_key(&words[0], &format!("it {why}")))?;
    source.answers.keep(command, &key);
    Ok(key)
}

fn not_a_key(program: &str, why: &str) -> Failed {
    Failed::new(Failure::LoginRequired, format!("the key command `{program}` printed no key: {why}"))
        .hint("make it print only the key, for example `--api-key-command 'sh -c \"pass show qwen | head -n 1\"'`")
}

/// The command without the variables that hold a key of this profile.
fn with_withheld(words: &[String], provider: &Provider) -> Result<Command> {
    let program: OsString = words[0].clone().into();
    let mut command = processes::command(&program, variable("PATH").as_deref())
        .map_err(|error| cannot_start(&words[0], &program, &error))?;
    command.args(&words[1..]).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let keys = provider.key.iter().flat_map(|key| key.variables.iter().map(String::as_str));
    for name in keys.chain([API_KEY, API_KEY_FILE, USUAL_KEY]) {
        command.env_remove(name);
    }
    Ok(command)
}

fn cannot_start(name: &str, program: &OsString, error: &std::io::Error) -> Failed {
    let why = processes::cannot_start(program, error);
    let failed = Failed::new(Failure::LoginRequired, format!("the key command `{name}` failed: {why}"));
    match why.hint {
        Some(hint) => failed.hint(hint),
        None => failed,
    }
}

/// A running command. On a terminal it stays in the foreground, where it can prompt; otherwise it is killed with all
/// processes that it started.
enum Running {
    Foreground(Child),
    Group(processes::Group),
}

impl Running {
    fn child(&mut self) -> &mut Child {
        match self {
            Self::Foreground(child) => child,
            Self::Group(group) => &mut group.child,
        }
    }

    fn end(&mut self) {
        match self {
            Self::Foreground(child) => drop(child.kill()),
            Self::Group(group) => group.kill(),
        }
        let _ = self.child().wait();
    }
}

fn output_of(name: &str, command: &mut Command) -> Result<Zeroizing<Vec<u8>>> {
    let is_at_terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    command.stdin(if is_at_terminal { Stdio::inherit() } else { Stdio::null() });
    let program = command.get_program().to_owned();
    // A server ends by itself after the signal, and waits for this.
    let _held = (!signals::are_watched()).then(DeferredSignals::new);
    let started = if is_at_terminal {
        command.spawn().map(Running::Foreground)
    } else {
        processes::Group::spawn(command).map(Running::Group)
    };
    let mut running = started.map_err(|error| cannot_start(name, &program, &error))?;
    let limit = if is_at_terminal { TIMEOUT_AT_TERMINAL } else { TIMEOUT };
    let mut deadline = Instant::now() + limit;
    let stdout = running.child().stdout.take();
    let read = move || -> std::io::Result<_> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
        if let Some(stdout) = stdout {
            stdout.take(MAX_OUTPUT).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    };
    let receiver = threads::run(read).inspect_err(|_| running.end())?;
    let late = || {
        Failed::new(Failure::Temporary, format!("the key command `{name}` did not end within {} s", limit.as_secs()))
            .hint("run it yourself to see what it waits for")
    };
    let status = loop {
        if let Some(status) = running.child().try_wait()? {
            break status;
        }
        if DeferredSignals::noted() {
            let grace = if is_at_terminal { INTERRUPT_GRACE } else { Duration::ZERO };
            deadline = deadline.min(Instant::now() + grace);
        }
        if Instant::now() >= deadline {
            running.end();
            return Err(late().into());
        }
        std::thread::sleep(POLL_INTERVAL);
    };
    check(name, status)?;
    match receiver.recv_timeout(OUTPUT_GRACE) {
        Ok(bytes) => Ok(bytes?),
        Err(RecvTimeoutError::Disconnected) => Ok(Zeroizing::default()),
        Err(RecvTimeoutError::Timeout) => {
            if let Running::Group(group) = &mut running {
                group.kill();
            }
            let message =
                format!("the key command `{name}` ended, but a program that it started still holds its output open");
            Failed::new(Failure::Temporary, message).hint("run it yourself to see what it leaves running").err()
        }
    }
}

fn check(name: &str, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let how = match status.code() {
        Some(code) => format!("it ended with code {code}"),
        None => format!("it was terminated ({status})"),
    };
    Failed::new(Failure::LoginRequired, format!("the key command `{name}` failed: {how}"))
        .hint("run it yourself to see why, or log in again with another key")
        .err()
}
