//! Runs a gateway: on this thread until a signal, or on a thread of its own until it is stopped.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::sync::{Notify, oneshot};

use super::Gateway;
use super::options::{GatewayOptions, Served};
use super::profiles::edge::look_at_homes;
use super::profiles::home::Home;
use super::reload::{reload, watch_files};
use super::server;
use super::server::listener::{Accepting, Listener};
use super::telemetry::flush::{flush, flush_regularly};
use crate::error::{FEW_DESCRIPTORS, Failed, Failure};
use crate::platform::disk;
use crate::platform::signals::{Ending, Endings};
use crate::platform::system;
use crate::secret::Secret;

/// Serves until INT, TERM or, unless the terminal is to be outlived, HUP, and says which one it was. `announce` is called
/// once these are watched: a program that reads the announcement may send one at once.
pub(crate) fn serve(
    listener: Listener,
    key: Secret,
    served: Served,
    options: GatewayOptions,
    outlives_terminal: bool,
    announce: impl FnOnce() -> Result<()>,
) -> Result<Ending> {
    let caught = Rc::new(Cell::new(Ending::Terminate));
    let catches = Rc::clone(&caught);
    let begin = || {
        let endings = Endings::watch().context("cannot watch signals")?;
        // Asked now: a terminal that was closed is gone by the time that its hangup arrives.
        let has_terminal = system::has_terminal();
        announce().map(|()| (endings, has_terminal))
    };
    run(listener, key, served, options, begin, |gateway, listener, (endings, has_terminal)| async move {
        let endings = tokio::sync::Mutex::new(endings);
        let ends = || async {
            let mut endings = endings.lock().await;
            loop {
                let ending = endings.next().await;
                if ending == Ending::Hangup && !has_terminal {
                    reload(&gateway).await;
                } else if ending != Ending::Hangup || !outlives_terminal {
                    catches.set(ending);
                    break;
                }
            }
        };
        server::serve(Rc::clone(&gateway), listener, ends).await;
        Ok(())
    })?;
    Ok(caught.get())
}

/// A gateway that runs on a thread of its own.
pub(crate) struct Background {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Background {
    /// Returns once the gateway serves.
    ///
    /// Errors: it cannot be opened, for example for its log or too few descriptors.
    pub(crate) fn start(listener: Listener, key: Secret, served: Served, options: GatewayOptions) -> Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (open, opened) = oneshot::channel();
        let serve = move || {
            let begin = || {
                let _ = open.send(());
                Ok(())
            };
            run(listener, key, served, options, begin, |gateway, listener, ()| async move {
                let stopped = RefCell::new(Some(stopped));
                let ends = || {
                    let stopped = stopped.borrow_mut().take();
                    async {
                        // The second time no request can arrive any more: the program has ended.
                        if let Some(stopped) = stopped {
                            drop(stopped.await);
                        }
                    }
                };
                server::serve(gateway, listener, ends).await;
                Ok(())
            })
        };
        let thread = std::thread::Builder::new().name("gateway".to_owned()).spawn(serve)?;
        let background = Self { stop: Some(stop), thread: Some(thread) };
        if opened.blocking_recv().is_err() {
            background.stop()?;
            anyhow::bail!("cannot start the gateway");
        }
        Ok(background)
    }

    /// Stops it; a renewal in progress is finished, and the counts are written.
    pub(crate) fn stop(mut self) -> Result<()> {
        drop(self.stop.take());
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            _ => Ok(()),
        }
    }
}

/// Descriptors that the runtime needs for its event loop and its signals, and one connection.
const RUNTIME_DESCRIPTORS: usize = 8;

fn run<B, F: Future<Output = Result<()>> + 'static>(
    mut listener: Listener,
    key: Secret,
    mut served: Served,
    options: GatewayOptions,
    begin: impl FnOnce() -> Result<B>,
    serve: impl FnOnce(Rc<Gateway>, Accepting, B) -> F,
) -> Result<()> {
    // What watches for signals panics where it gets none.
    disk::check_free_descriptors(RUNTIME_DESCRIPTORS)
        .with_context(|| Failed::new(Failure::Other, "cannot start the gateway").hint(FEW_DESCRIPTORS))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_stack_size(512 * 1024)
        .build()
        .context("cannot start the gateway")?;
    system::keep_freed_memory();
    let local = tokio::task::LocalSet::new();
    let metrics = served.metrics.take();
    let gateway = Rc::new(Gateway::open(&mut listener, key, served, options, metrics.is_some())?);
    let outcome = local.block_on(&runtime, async {
        let listener = listener.accepting()?;
        let begun = begin()?;
        if let Some(shared) = &gateway.shared {
            shared.begin().await;
            tokio::task::spawn_local(Rc::clone(shared).maintain());
            if let Some(fleet) = gateway.profiles.fleet() {
                let home = Home::new(Rc::clone(shared), Rc::clone(fleet));
                tokio::task::spawn_local(home.keep(Rc::clone(&gateway)));
                tokio::task::spawn_local(look_at_homes(Rc::clone(&gateway)));
            }
        }
        let ending = Rc::new(Notify::new());
        let flushing = tokio::task::spawn_local(flush_regularly(Rc::clone(&gateway), Rc::clone(&ending)));
        let watching = tokio::task::spawn_local(watch_files(Rc::clone(&gateway)));
        if let Some(metrics) = metrics {
            let checks_host = metrics.can_be_rebound();
            let serving = server::serve_metrics(Rc::clone(&gateway), metrics.accepting()?, checks_host);
            drop(tokio::task::spawn_local(serving));
        }
        // In a task of its own, because this one is polled whenever any task was woken.
        let outcome = tokio::task::spawn_local(serve(Rc::clone(&gateway), listener, begun)).await?;
        watching.abort();
        ending.notify_one();
        let _ = flushing.await;
        if let Some(shared) = &gateway.shared {
            shared.settle_all().await;
        }
        outcome
    });
    // Requests that outlived the time to finish go here, and are counted.
    drop(local);
    runtime.block_on(flush(&gateway));
    if let Some(shared) = &gateway.shared {
        tokio::task::LocalSet::new().block_on(&runtime, shared.send_final_reports());
    }
    outcome
}
