//! Runs a program and outlives it: signals, job control and exit status, for `sandbox` and `exec --gateway`.
//!
//! Hazard: Ctrl-C reaches this process as well as the program; dying of it would leave the program without its gateway
//! or the sandbox's directories behind, and forwarding it would give the program two. Rule: signals are blocked in
//! every thread and read by one. A signal that a process sent is forwarded to the program; the program has already
//! received what was typed on the terminal. If this process represents the program, it stops when the program stops,
//! and both continue together.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::signals::ENDING;
use crate::error::{Failed, Failure};

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProgramEnd {
    Code(u8),
    /// By a signal, given by its number.
    Signal(i32),
}

impl ProgramEnd {
    fn of(status: ExitStatus) -> Self {
        if let Some(signal) = status.signal() {
            return Self::Signal(signal);
        }
        Self::Code(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    }

    pub(crate) const SUCCESS: Self = Self::Code(0);

    /// As a shell would put it.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}

/// Further signals that a process which represents its program forwards. Those that stop a process are blocked, too:
/// the program decides whether it stops (an editor first restores the terminal), and this process follows it.
const STANDING_IN: [Signal; 12] = [
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGPIPE,
    Signal::SIGWINCH,
    Signal::SIGCONT,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// Holds the signals from its start; to be started before any other thread.
pub(crate) struct Supervisor {
    state: Arc<Mutex<State>>,
    /// The signals that were blocked before.
    found: SigSet,
}

#[derive(Default)]
struct State {
    program: Option<Pid>,
    /// The first signal another process sent.
    sent: Option<Signal>,
    /// What was typed, so that the whole process group got it.
    typed: Vec<Signal>,
}

impl Supervisor {
    /// For a program next to work of our own: watches only the signals that end it.
    pub(crate) fn start() -> anyhow::Result<Self> {
        Self::watch(ENDING.into_iter().collect())
    }

    /// For a program that this process represents: a signal to either is meant for the other.
    pub(crate) fn stand_in() -> anyhow::Result<Self> {
        Self::watch(ENDING.into_iter().chain(STANDING_IN).collect())
    }

    fn watch(watched: SigSet) -> anyhow::Result<Self> {
        let found = watched.thread_swap_mask(SigmaskHow::SIG_BLOCK).context("blocking signals")?;
        let signals = Signals::new(watched).context("watching signals")?;
        let state = Arc::new(Mutex::new(State::default()));
        let noted = Arc::clone(&state);
        let watch = move || {
            while let Some((signal, typed)) = signals.next() {
                lock(&noted).note(signal, typed);
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(watch)?;
        Ok(Self { state, found })
    }

    /// Starts a program, which gets the signals as they were found.
    pub(crate) fn spawn(&self, command: &mut Command) -> anyhow::Result<Child> {
        unblock_in(command, self.found);
        self.start_in(command, spawn)
    }

    /// The same for a command that restores the signals itself, with the plain error.
    pub(crate) fn try_spawn(&self, command: &mut Command) -> io::Result<Child> {
        self.start_in(command, Command::spawn)
    }

    fn start_in<E>(
        &self,
        command: &mut Command,
        spawn: impl FnOnce(&mut Command) -> Result<Child, E>,
    ) -> Result<Child, E> {
        // Held until the child is known: a signal that arrives meanwhile is forwarded to it afterwards.
        let mut state = lock(&self.state);
        let child = spawn(command)?;
        state.program = i32::try_from(child.id()).ok().map(Pid::from_raw);
        if let (Some(program), Some(signal)) = (state.program, state.sent) {
            let _ = kill(program, signal);
        }
        Ok(child)
    }

    pub(crate) fn wait(&self, mut child: Child) -> anyhow::Result<ProgramEnd> {
        let status = child.wait().context("waiting for the program")?;
        // Numbers are given out in turn, so that the program's cannot be another's in the instant until here.
        lock(&self.state).program = None;
        Ok(ProgramEnd::of(status))
    }

    /// Waits, stopping and continuing together with the program.
    pub(crate) fn wait_as_one_job(&self, child: &mut Child) -> anyhow::Result<ProgramEnd> {
        let program = Pid::from_raw(i32::try_from(child.id())?);
        let ended = loop {
            match waitpid(program, Some(WaitPidFlag::WUNTRACED)) {
                Ok(WaitStatus::Exited(_, code)) => break ProgramEnd::Code(u8::try_from(code).unwrap_or(1)),
                Ok(WaitStatus::Signaled(_, signal, _)) => break ProgramEnd::Signal(signal as i32),
                Ok(WaitStatus::Stopped(..)) => {
                    let _ = raise(Signal::SIGSTOP);
                    // Continued: by a shell, which continues the whole group, or by a process that knows only this one;
                    // that signal is forwarded like any other. Another one from here could arrive late and undo the
                    // next stop.
                    #[cfg(not(any(target_os = "linux", target_os = "android")))]
                    let _ = kill(program, Signal::SIGCONT);
                }
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error).context("waiting for the program"),
            }
        };
        lock(&self.state).program = None;
        Ok(ended)
    }

    /// As the program ended: its code, or the signal that both of them got, or 128 and the signal's number.
    pub(crate) fn end_as(self, ended: ProgramEnd) -> u8 {
        let state = lock(&self.state);
        let of_both = |signal: &&Signal| ended == ProgramEnd::Signal(**signal as i32);
        if let Some(signal) = state.sent.iter().chain(&state.typed).find(of_both).copied() {
            die_of(signal);
        }
        ended.code()
    }

    /// Whether this process was asked to end, whatever the program inside does.
    pub(crate) fn is_interrupted(&self) -> bool {
        let state = lock(&self.state);
        state.sent.is_some() || !state.typed.is_empty()
    }

    /// For a program that has the terminal: Ctrl-C was for the program, and counts only if it ended the program.
    pub(crate) fn follow(self, ended: ProgramEnd) -> u8 {
        let state = lock(&self.state);
        let of_both = |signal: &&Signal| ended == ProgramEnd::Signal(**signal as i32);
        if let Some(signal) = state.sent.or(state.typed.iter().find(of_both).copied()) {
            die_of(signal);
        }
        ended.code()
    }

    /// For work of our own: any signal ends it.
    pub(crate) fn leave(self, ended: ProgramEnd) -> u8 {
        let state = lock(&self.state);
        if let Some(signal) = state.sent.or(state.typed.first().copied()) {
            die_of(signal);
        }
        ended.code()
    }
}

impl State {
    fn note(&mut self, signal: Signal, typed: bool) {
        if typed {
            if !self.typed.contains(&signal) {
                self.typed.push(signal);
            }
            return;
        }
        if ENDING.contains(&signal) {
            self.sent = self.sent.or(Some(signal));
        }
        if let Some(program) = self.program {
            // It may have ended just now.
            let _ = kill(program, signal);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(unsafe_code, reason = "a child inherits the mask, and only the child itself can change that")]
fn unblock_in(command: &mut Command, found: SigSet) {
    // SAFETY: between fork and exec only pthread_sigmask(3) is called, which is async-signal-safe.
    unsafe { command.pre_exec(move || found.thread_set_mask().map_err(Into::into)) };
}

/// Returns only where the signal is ignored.
fn die_of(signal: Signal) {
    let only: SigSet = [signal].into_iter().collect();
    if only.thread_unblock().is_ok() {
        let _ = raise(signal);
    }
}

/// Signals that a terminal sends to its whole foreground group, and a shell to a whole job. HUP is not one: when a
/// terminal is closed, the kernel signals one process and leaves the rest to it.
fn is_sent_by_terminal(signal: Signal) -> bool {
    matches!(
        signal,
        Signal::SIGINT
            | Signal::SIGQUIT
            | Signal::SIGWINCH
            | Signal::SIGCONT
            | Signal::SIGTSTP
            | Signal::SIGTTIN
            | Signal::SIGTTOU
    )
}

/// Reads blocked signals, each with whether the terminal sent it.
#[cfg(any(target_os = "linux", target_os = "android"))]
struct Signals(nix::sys::signalfd::SignalFd);

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Signals {
    fn new(watched: SigSet) -> nix::Result<Self> {
        use nix::sys::signalfd::{SfdFlags, SignalFd};
        SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC).map(Self)
    }

    fn next(&self) -> Option<(Signal, bool)> {
        loop {
            match self.0.read_signal() {
                Ok(Some(info)) => {
                    let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| number.try_into().ok())?;
                    // Above zero the kernel itself is the sender: the terminal.
                    return Some((signal, is_sent_by_terminal(signal) && info.ssi_code > 0));
                }
                Ok(None) | Err(nix::Error::EINTR) => (),
                Err(_) => return None,
            }
        }
    }
}

/// Elsewhere the sender is not known: INT and QUIT are assumed to be typed.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
struct Signals(SigSet);

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Signals {
    #[expect(clippy::unnecessary_wraps, reason = "the same shape as on Linux, where it can fail")]
    fn new(watched: SigSet) -> nix::Result<Self> {
        Ok(Self(watched))
    }

    fn next(&self) -> Option<(Signal, bool)> {
        let signal = self.0.wait().ok()?;
        Some((signal, is_sent_by_terminal(signal)))
    }
}

fn spawn(command: &mut Command) -> anyhow::Result<Child> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failed::new(Failure::NotFound, format!("`{program}` is not found")).into(),
        _ => Failed::new(Failure::CannotRun, format!("`{program}` cannot be run: {error}")).into(),
    })
}
