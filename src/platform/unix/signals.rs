//! Signals deferred while a credential is replaced, the terminal restored by those that end a prompt, and the original
//! signal dispositions for `exec`.
//!
//! Hazard: Ctrl-C between "the server rotated the token" and "the file holds it" loses the login. Rule:
//! [`DeferredSignals`] records INT, TERM and HUP and raises them again when the file is safe.
//! Hazard: a program that dies at a prompt leaves the terminal without echo. Rule: no prompt without [`PromptSignals`].

#![expect(unsafe_code, reason = "signal dispositions have no safe interface; handlers here only use atomics and raise")]

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::libc::{
    F_GETFD, STDIN_FILENO, STDOUT_FILENO, TCSANOW, c_int, fcntl, getpgrp, tcgetattr, tcgetpgrp, tcsetattr, termios,
};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use tokio::signal::unix;

const DEFERRED: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// The signal recorded last, 0 for none.
static NOTED: AtomicI32 = AtomicI32::new(0);

/// Whether a [`DeferredSignals`] is alive and will check what is recorded.
static HOLDING: AtomicBool = AtomicBool::new(false);

/// How many [`DeferredSignals`] there are, and what the signals did before the first.
static HOLDERS: Mutex<(usize, Vec<(Signal, SigAction)>)> = Mutex::new((0, Vec::new()));

extern "C" fn note(signal: c_int) {
    NOTED.store(signal, Ordering::SeqCst);
    // A busy machine may stop this thread between the signal and here until the last holder has gone.
    if !HOLDING.load(Ordering::SeqCst) {
        raise_noted();
    }
}

/// Async-signal-safe. Raised inside the handler of the same signal, it is delivered when that returns, to the handler
/// installed by then.
fn raise_noted() {
    if let Ok(signal) = Signal::try_from(NOTED.swap(0, Ordering::SeqCst)) {
        let _ = raise(signal);
    }
}

extern "C" fn pass(_: c_int) {}

/// Installs one of the handlers here, and returns what was there before. A signal that is ignored stays ignored.
fn handle(signal: Signal, action: &SigAction) -> Option<(Signal, SigAction)> {
    // SAFETY: the handlers only call what is async-signal-safe.
    let old = unsafe { sigaction(signal, action) }.ok()?;
    if matches!(old.handler(), SigHandler::SigIgn) {
        put_back((signal, old));
        return None;
    }
    Some((signal, old))
}

fn put_back((signal, old): (Signal, SigAction)) {
    // SAFETY: puts back what was there.
    let _ = unsafe { sigaction(signal, &old) };
}

/// While one is alive, INT, TERM and HUP are only recorded. When the last one is dropped, a recorded signal is raised
/// again with its previous disposition. Signals that were ignored stay ignored.
pub(crate) struct DeferredSignals(());

impl DeferredSignals {
    pub(crate) fn new() -> Self {
        let mut holders = HOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
        if holders.0 == 0 {
            HOLDING.store(true, Ordering::SeqCst);
            let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
            holders.1 = DEFERRED.into_iter().filter_map(|signal| handle(signal, &action)).collect();
        }
        holders.0 += 1;
        Self(())
    }

    /// Whether a signal waits: time to stop trying again.
    pub(crate) fn noted() -> bool {
        NOTED.load(Ordering::SeqCst) != 0
    }
}

impl Drop for DeferredSignals {
    fn drop(&mut self) {
        let mut holders = HOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
        holders.0 -= 1;
        if holders.0 > 0 {
            return;
        }
        holders.1.drain(..).for_each(put_back);
        HOLDING.store(false, Ordering::SeqCst);
        drop(holders);
        raise_noted();
    }
}

/// The signals that end a program.
pub(super) const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// The terminal on stdin as it was before the first prompt.
static TERMINAL: OnceLock<termios> = OnceLock::new();

fn terminal() -> Option<termios> {
    let mut terminal = std::mem::MaybeUninit::uninit();
    // SAFETY: the result was written if the call returned 0. tcgetattr(3) is async-signal-safe.
    unsafe { (tcgetattr(STDIN_FILENO, terminal.as_mut_ptr()) == 0).then(|| terminal.assume_init()) }
}

fn set_terminal(terminal: &termios) {
    // SAFETY: the descriptor is a number, and the state is a whole one. tcsetattr(3) is async-signal-safe.
    unsafe { tcsetattr(STDIN_FILENO, TCSANOW, terminal) };
}

fn at_prompt() -> SigAction {
    // In the handler the signal has its default again and is not blocked.
    let flags = SaFlags::SA_RESTART | SaFlags::SA_RESETHAND | SaFlags::SA_NODEFER;
    SigAction::new(SigHandler::Handler(leave_prompt), flags, SigSet::empty())
}

/// Async-signal-safe. Restores the terminal, unless another program is in its foreground, and ends or stops as the signal
/// does. Returns when the stopped program continues.
extern "C" fn leave_prompt(signal: c_int) {
    let Ok(signal) = Signal::try_from(signal) else { return };
    // There is none after a hangup.
    let prompt = terminal();
    // SAFETY: both only return a number. There is no foreground on a terminal that does not control this process.
    let (foreground, own) = unsafe { (tcgetpgrp(STDIN_FILENO), getpgrp()) };
    if let (Some(before), Some(_)) = (TERMINAL.get(), &prompt)
        && (foreground == -1 || foreground == own)
    {
        set_terminal(before);
    }
    let _ = raise(signal);
    handle(signal, &at_prompt());
    if let Some(prompt) = &prompt {
        set_terminal(prompt);
    }
}

/// While one is alive, a signal that ends the program first restores the terminal as it was before the first prompt.
pub(crate) struct PromptSignals(Vec<(Signal, SigAction)>);

impl PromptSignals {
    /// For a prompt that reads single keys.
    pub(crate) fn of_keys() -> Self {
        Self::of(&ENDING)
    }

    /// For a prompt that reads a line: Ctrl-Z stops it, and restores the terminal too.
    pub(crate) fn of_line() -> Self {
        Self::of(&[&ENDING[..], &[Signal::SIGTSTP]].concat())
    }

    fn of(signals: &[Signal]) -> Self {
        if TERMINAL.get().is_none()
            && let Some(terminal) = terminal()
        {
            let _ = TERMINAL.set(terminal);
        }
        Self(signals.iter().filter_map(|&signal| handle(signal, &at_prompt())).collect())
    }
}

impl Drop for PromptSignals {
    fn drop(&mut self) {
        self.0.drain(..).for_each(put_back);
    }
}

/// Whether SIGPIPE was ignored when the program started.
static PIPE_IGNORED: AtomicBool = AtomicBool::new(false);

/// Whether SIGCHLD was.
static CHILD_IGNORED: AtomicBool = AtomicBool::new(false);

/// Whether stdout was closed when the program started.
static STDOUT_CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether what is printed is lost, because the program was started without a stdout.
pub(crate) fn was_stdout_closed() -> bool {
    STDOUT_CLOSED.load(Ordering::Relaxed)
}

/// Whether no file has this number.
fn is_closed(stream: c_int) -> bool {
    // SAFETY: reads a flag of a number, whether a file has it or not.
    unsafe { fcntl(stream, F_GETFD) == -1 }
}

/// Notes whether SIGPIPE and SIGCHLD are ignored and stdout is closed, and lets the program survive SIGXFSZ. Called before
/// Rust's runtime, which ignores SIGPIPE; where the program starts without that runtime (main.rs), does what is needed of it.
pub extern "C" fn before_main() {
    PIPE_IGNORED.store(is_ignored(Signal::SIGPIPE), Ordering::Relaxed);
    // While it is ignored, nobody learns how a child ended.
    let by_default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed.
    let found = unsafe { sigaction(Signal::SIGCHLD, &by_default) };
    let was_ignored = found.is_ok_and(|found| matches!(found.handler(), SigHandler::SigIgn));
    CHILD_IGNORED.store(was_ignored, Ordering::Relaxed);
    // Beyond the limit of a file's size a write is then an error like any other. A program that is started gets the default
    // by itself, which it would not if the signal were ignored.
    handle(Signal::SIGXFSZ, &SigAction::new(SigHandler::Handler(pass), SaFlags::SA_RESTART, SigSet::empty()));
    STDOUT_CLOSED.store(is_closed(STDOUT_FILENO), Ordering::Relaxed);
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    stand_in_for_runtime();
}

/// Ignores SIGPIPE, so that a closed pipe is an error like any other, and opens `/dev/null` for each standard stream that is
/// closed: else the next file has its number, and what is printed is written into that file.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn stand_in_for_runtime() {
    use nix::libc::{O_RDWR, open};
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed.
    let _ = unsafe { sigaction(Signal::SIGPIPE, &ignore) };
    for stream in 0..=2 {
        // SAFETY: the path ends with a zero. The file has the lowest free number, which is that of the stream.
        let is_closed = if stream == STDOUT_FILENO { was_stdout_closed() } else { is_closed(stream) };
        if is_closed && unsafe { open(c"/dev/null".as_ptr(), O_RDWR) } != stream {
            std::process::abort();
        }
    }
}

/// Makes `command` start with the signals as this process found them. The standard library sets SIGPIPE to its default,
/// and what it does to the mask differs between its ways of starting a program.
pub(crate) fn restore_in(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let mask = SigSet::thread_get_mask();
    let ignored = [(Signal::SIGPIPE, &PIPE_IGNORED), (Signal::SIGCHLD, &CHILD_IGNORED)];
    let ignored = ignored.map(|(signal, is_ignored)| (signal, is_ignored.load(Ordering::Relaxed)));
    let restore = move || {
        for (signal, _) in ignored.into_iter().filter(|(_, is_ignored)| *is_ignored) {
            let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
            // SAFETY: sigaction(2) is async-signal-safe.
            unsafe { sigaction(signal, &ignore) }?;
        }
        if let Ok(mask) = mask {
            mask.thread_set_mask()?;
        }
        Ok(())
    };
    // SAFETY: the closure calls only sigaction(2) and pthread_sigmask(3), and allocates nothing.
    unsafe { command.pre_exec(restore) };
}

/// Makes `command` die with this process, however this one ends. Call it in the thread that lives longest: the kernel
/// watches the thread that starts the program, not the process.
#[cfg(target_os = "linux")]
pub(crate) fn bind_to_this_process(command: &mut std::process::Command) {
    use nix::unistd::{getpid, getppid};
    use std::os::unix::process::CommandExt;
    let parent = getpid();
    let bind = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the kernel was told to watch it.
        if getppid() == parent { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
    };
    // SAFETY: prctl(2) and getppid(2) are async-signal-safe, and the closure allocates nothing.
    unsafe { command.pre_exec(bind) };
}

/// Elsewhere no kernel offers this.
#[cfg(not(target_os = "linux"))]
pub(crate) fn bind_to_this_process(_command: &mut std::process::Command) {}

/// Raises the limit of open files to the maximum, and lets `command`, if given, start with the old limit: programs that
/// still use `select` cannot count beyond 1024.
pub(crate) fn allow_many_files(command: Option<&mut std::process::Command>) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use std::os::unix::process::CommandExt;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    // Some systems allow no more than this, whatever they state.
    if setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536).max(soft), hard).is_err() {
        return;
    }
    if let Some(command) = command {
        let restore = move || setrlimit(Resource::RLIMIT_NOFILE, soft, hard).map_err(io::Error::from);
        // SAFETY: setrlimit(2) is async-signal-safe, and the closure allocates nothing.
        unsafe { command.pre_exec(restore) };
    }
}

/// Whether a signal is ignored.
fn is_ignored(signal: Signal) -> bool {
    let mut found = std::mem::MaybeUninit::<nix::libc::sigaction>::uninit();
    // SAFETY: nothing is changed, and the result was written if the call returned 0.
    unsafe {
        nix::libc::sigaction(signal as c_int, std::ptr::null(), found.as_mut_ptr()) == 0
            && found.assume_init().sa_sigaction == nix::libc::SIG_IGN
    }
}

/// Whether the program was started to outlive its terminal, as `nohup` does.
pub(crate) fn outlives_terminal() -> bool {
    is_ignored(Signal::SIGHUP)
}

/// The signal that ends this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Interrupt,
    Terminate,
    Hangup,
}

/// Whether there are [`Endings`]: a signal does not end this process.
static WATCHED: AtomicBool = AtomicBool::new(false);

pub(crate) fn are_watched() -> bool {
    WATCHED.load(Ordering::Relaxed)
}

/// The signals that end a server, as they arrive.
pub(crate) struct Endings {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hangup: unix::Signal,
}

impl Endings {
    /// Within the runtime of a server; from then on these signals do nothing else.
    pub(crate) fn watch() -> io::Result<Self> {
        use unix::{SignalKind, signal};
        WATCHED.store(true, Ordering::Relaxed);
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    pub(crate) async fn next(&mut self) -> Ending {
        tokio::select! {
            _ = self.interrupt.recv() => Ending::Interrupt,
            _ = self.terminate.recv() => Ending::Terminate,
            _ = self.hangup.recv() => Ending::Hangup,
        }
    }
}

/// Dies by the same signal, after restoring its default handler.
pub(crate) fn die_of(ending: Ending) -> nix::Result<()> {
    let signal = match ending {
        Ending::Interrupt => Signal::SIGINT,
        Ending::Terminate => Signal::SIGTERM,
        Ending::Hangup => Signal::SIGHUP,
    };
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler of ours is installed.
    unsafe { sigaction(signal, &action) }?;
    raise(signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_is_noted_when_nobody_holds_any_more_is_raised_all_the_same() {
        static CAME: AtomicBool = AtomicBool::new(false);
        extern "C" fn come(_: c_int) {
            CAME.store(true, Ordering::SeqCst);
        }
        let action = SigAction::new(SigHandler::Handler(come), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler only stores to an atomic.
        unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
        note(Signal::SIGUSR1 as c_int);
        // Another test may defer signals at the moment: then it is delivered after that.
        let started = std::time::Instant::now();
        while !CAME.load(Ordering::SeqCst) {
            assert!(started.elapsed().as_secs() < 10, "the signal is lost");
            std::thread::yield_now();
        }
    }
}
