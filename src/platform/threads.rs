//! Work on a thread of its own.
//!
//! Hazard: the system refuses a thread (`ulimit -u`, the process limit of a container), where `thread::spawn` and tokio's
//! `spawn_blocking` end the program with all its streams. Rule: a thread is started here or by a `Builder`, and a refusal is
//! an error.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::Result;
use tokio::sync::oneshot;

use crate::error::{FEW_THREADS, Failed, Failure};

/// Stack size in bytes of what a gateway waits for: it reads files, names and what servers answer.
const STACK: usize = 512 * 1024;

/// How many threads [`finished`] runs at once: names that do not resolve must not fill the machine with waiting threads.
const MAX_AWAITED: usize = 512;

static AWAITED: AtomicUsize = AtomicUsize::new(0);

/// Starts `work`.
///
/// Errors: temporary if the system refuses a thread.
pub(crate) fn start(work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Failed> {
    thread::Builder::new().spawn(work).map_err(|error| refused(&error))
}

/// Starts `work`, whose result arrives at the receiver. It runs to its end even if the receiver is dropped.
///
/// Errors: as [`start`].
pub(crate) fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<Receiver<T>, Failed> {
    let (sender, receiver) = mpsc::channel();
    start(move || drop(sender.send(work())))?;
    Ok(receiver)
}

/// The result of `work`, which runs to its end even if it is no longer awaited.
///
/// Errors: those of `work`, and as [`start`].
pub(crate) async fn finished<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let counted = Counted::new().ok_or_else(|| refused(&io::ErrorKind::ResourceBusy.into()))?;
    let (sender, receiver) = oneshot::channel();
    let work = move || {
        let _counted = counted;
        drop(sender.send(work()));
    };
    thread::Builder::new().stack_size(STACK).spawn(work).map_err(|error| refused(&error))?;
    receiver.await?
}

/// The same for what must not be lost: where the system refuses a thread, `work` is done on this one. Returns `None` if it
/// ended early.
pub(crate) async fn finished_or_here<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let here = Arc::new(Mutex::new(Some(work)));
    let there = Arc::clone(&here);
    let finished = finished(move || Ok(take(&there).map(|work| work()))).await;
    finished.unwrap_or_else(|_| take(&here).map(|work| work()))
}

fn take<T>(from: &Mutex<Option<T>>) -> Option<T> {
    from.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// One of [`AWAITED`].
struct Counted;

impl Counted {
    fn new() -> Option<Self> {
        let next = |count| (count < MAX_AWAITED).then_some(count + 1);
        AWAITED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok().map(|_| Self)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        AWAITED.fetch_sub(1, Ordering::Relaxed);
    }
}

fn refused(error: &io::Error) -> Failed {
    Failed::new(Failure::Temporary, format!("cannot start a thread: {error}")).hint(FEW_THREADS)
}
