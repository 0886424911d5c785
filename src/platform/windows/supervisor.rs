//! Runs a program and outlives it: console events and exit status, for `sandbox` and `exec --gateway`.
//!
//! Hazard: Ctrl-C reaches this process as well as the program; ending by it would leave the program without its gateway
//! or the sandbox's directories behind. Rule: console events are recorded and otherwise left to the program, which has
//! also received them. The program is in a job that ends with this process.

use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{io, process};

use anyhow::Context;

use super::console;
use super::job::Job;
use super::processes::cannot_start;

/// How a program ended: its code, of 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProgramEnd(u32);

impl ProgramEnd {
    pub(crate) const SUCCESS: Self = Self(0);

    /// The code as a shell on Unix would have it.
    pub(crate) fn code(self) -> u8 {
        u8::try_from(self.0).unwrap_or(u8::MAX)
    }

    pub(super) fn of(status: process::ExitStatus) -> Self {
        // The system's codes are unsigned, as in `0xC000013A`.
        Self(status.code().map_or(1, i32::cast_unsigned))
    }

    /// Ends this process with the whole of the code.
    pub(super) fn end_by(self) -> ! {
        #[expect(clippy::exit, reason = "a code of 32 bits does not fit into what `main` returns")]
        process::exit(self.0.cast_signed())
    }
}

/// Watches the console from its start.
pub(crate) struct Supervisor {
    /// The first event of the console.
    event: Arc<Mutex<Option<u32>>>,
    job: Job,
}

impl Supervisor {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let event = Arc::new(Mutex::new(None));
        let noted = Arc::clone(&event);
        console::watch(Box::new(move |event| {
            lock(&noted).get_or_insert(event);
        }));
        Ok(Self { event, job: Job::new().context("cannot create a job object")? })
    }

    /// The same: a console event is sent to the program by Windows.
    pub(crate) fn stand_in() -> anyhow::Result<Self> {
        Self::start()
    }

    pub(crate) fn spawn(&self, command: &mut Command) -> anyhow::Result<Child> {
        self.try_spawn(command).map_err(|error| cannot_start(command.get_program(), &error).into())
    }

    /// The same with the plain error.
    pub(crate) fn try_spawn(&self, command: &mut Command) -> io::Result<Child> {
        self.job.spawn(command)
    }

    /// Ends what the program left in the background too: it holds files in the directories that are removed next.
    pub(crate) fn wait(&self, mut child: Child) -> anyhow::Result<ProgramEnd> {
        let ended = child.wait().map(ProgramEnd::of).context("waiting for the program");
        self.job.kill();
        ended
    }

    pub(crate) fn wait_as_one_job(&self, child: &mut Child) -> anyhow::Result<ProgramEnd> {
        child.wait().map(ProgramEnd::of).context("waiting for the program")
    }

    /// As the program ended.
    pub(crate) fn end_as(self, ended: ProgramEnd) -> u8 {
        self.job.release();
        ended.end_by()
    }

    /// Whether this process was asked to end, whatever the program inside does.
    pub(crate) fn is_interrupted(&self) -> bool {
        lock(&self.event).is_some()
    }

    /// For a program that has the terminal: Ctrl-C was for the program.
    pub(crate) fn follow(self, ended: ProgramEnd) -> u8 {
        ended.end_by()
    }

    /// For work of our own: any event ends it.
    pub(crate) fn leave(self, ended: ProgramEnd) -> u8 {
        if lock(&self.event).is_some() {
            console::end_by();
        }
        ended.end_by()
    }
}

fn lock(event: &Mutex<Option<u32>>) -> MutexGuard<'_, Option<u32>> {
    event.lock().unwrap_or_else(PoisonError::into_inner)
}
