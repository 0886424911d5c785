//! Console events deferred while a credential is replaced, and what ends a server, under the names of Unix's signals.

use std::process::Command;

use tokio::sync::mpsc;
use windows_sys::Win32::System::Console::{CTRL_BREAK_EVENT, CTRL_C_EVENT};

use super::console;

/// The event that ends this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Interrupt,
    Terminate,
    /// The window was closed: Windows ends this process 5 s later.
    Hangup,
}

impl Ending {
    fn of(event: u32) -> Self {
        match event {
            CTRL_C_EVENT => Self::Interrupt,
            CTRL_BREAK_EVENT => Self::Terminate,
            _ => Self::Hangup,
        }
    }
}

/// While one is alive, console events are only recorded.
pub(crate) struct DeferredSignals(());

impl DeferredSignals {
    pub(crate) fn new() -> Self {
        console::hold();
        Self(())
    }

    /// Whether an event waits: time to stop trying again.
    pub(crate) fn noted() -> bool {
        console::is_deferred()
    }
}

impl Drop for DeferredSignals {
    fn drop(&mut self) {
        console::release();
    }
}

/// A prompt here changes nothing of the console that outlives it.
pub(crate) struct PromptSignals(());

impl PromptSignals {
    pub(crate) fn of_keys() -> Self {
        Self(())
    }

    pub(crate) fn of_line() -> Self {
        Self(())
    }
}

/// There are no signals to record.
pub extern "C" fn before_main() {}

/// A process without a stdout has no console either, where anything would be missed.
pub(crate) fn was_stdout_closed() -> bool {
    false
}

/// A program starts with no signal changed.
pub(crate) fn restore_in(_command: &mut Command) {}

/// [`super::supervisor::Supervisor`] puts each program into a job that ends with this process.
pub(crate) fn bind_to_this_process(_command: &mut Command) {}

/// There is no limit to raise.
pub(crate) fn allow_many_files(_command: Option<&mut Command>) {}

/// A closed window ends what runs in it.
pub(crate) fn outlives_terminal() -> bool {
    false
}

/// Whether there are [`Endings`]: an event does not end this process.
pub(crate) fn are_watched() -> bool {
    console::is_watched()
}

/// The events that end a server, as they arrive.
pub(crate) struct Endings(mpsc::UnboundedReceiver<Ending>);

impl Endings {
    #[expect(clippy::unnecessary_wraps, reason = "the same shape as on Unix, where it can fail")]
    pub(crate) fn watch() -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let send = move |event| {
            // A server that is ending already has no receiver.
            let _ = sender.send(Ending::of(event));
        };
        console::watch(Box::new(send));
        Ok(Self(receiver))
    }

    pub(crate) async fn next(&mut self) -> Ending {
        // The sender lives as long as the process.
        self.0.recv().await.unwrap_or(Ending::Terminate)
    }
}

/// Ends the process as the event would have.
pub(crate) fn die_of(_ending: Ending) -> anyhow::Result<()> {
    console::end_by()
}
