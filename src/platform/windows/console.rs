//! What the console asks this process to do: Ctrl-C, Ctrl-Break, and the end of the window, the session or the system.
//!
//! Hazard: each handler runs in a thread of its own; after the event of a closed window, Windows ends the process as soon
//! as the handler returns, and after 5 s in any case.
//! Rule: one handler for the whole program. An event is deferred while a credential is replaced, else it belongs to the
//! watcher, else to Windows, which ends the process.

#![expect(unsafe_code, reason = "console handlers have no safe interface")]

use std::sync::{Condvar, Mutex, MutexGuard, Once, PoisonError};

use windows_sys::Win32::Foundation::STATUS_CONTROL_C_EXIT;
use windows_sys::Win32::System::Console::{CTRL_BREAK_EVENT, CTRL_C_EVENT, SetConsoleCtrlHandler};

/// Receives each event that is not deferred.
pub(super) type Watcher = Box<dyn Fn(u32) + Send>;

struct State {
    holders: usize,
    deferred: Option<u32>,
    watcher: Option<Watcher>,
}

static STATE: Mutex<State> = Mutex::new(State { holders: 0, deferred: None, watcher: None });

/// Notified when the last holder is gone.
static FREE: Condvar = Condvar::new();

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the process goes on after the event; after any other, Windows ends it when the handler returns.
fn is_sent_by_terminal(event: u32) -> bool {
    matches!(event, CTRL_C_EVENT | CTRL_BREAK_EVENT)
}

unsafe extern "system" fn handle(event: u32) -> i32 {
    let mut state = state();
    if state.holders > 0 {
        state.deferred.get_or_insert(event);
        if is_sent_by_terminal(event) {
            return 1;
        }
        while state.holders > 0 {
            state = FREE.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
    let Some(watcher) = &state.watcher else { return 0 };
    watcher(event);
    drop(state);
    while !is_sent_by_terminal(event) {
        // The watcher ends the process; returning would end it at once.
        std::thread::park();
    }
    1
}

fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: the handler runs in a thread of its own, where locks and allocation are allowed.
        if unsafe { SetConsoleCtrlHandler(Some(handle), 1) } == 0 {
            log::warn!("cannot watch the console: {}", std::io::Error::last_os_error());
        }
    });
}

/// Sends events to `watcher` from now on.
pub(super) fn watch(watcher: Watcher) {
    install();
    state().watcher = Some(watcher);
}

pub(super) fn is_watched() -> bool {
    state().watcher.is_some()
}

/// Defers events until [`release`] has been called as often.
pub(super) fn hold() {
    install();
    state().holders += 1;
}

pub(super) fn is_deferred() -> bool {
    state().deferred.is_some()
}

/// Delivers a deferred event once events are no longer deferred.
pub(super) fn release() {
    let mut state = state();
    state.holders -= 1;
    if state.holders > 0 {
        return;
    }
    FREE.notify_all();
    // The handler of a closed window waits for this and delivers its event itself.
    let Some(event) = state.deferred.take().filter(|&event| is_sent_by_terminal(event)) else { return };
    match &state.watcher {
        Some(watcher) => watcher(event),
        None => end_by(),
    }
}

/// Ends as Windows ends a program at such an event.
pub(super) fn end_by() -> ! {
    #[expect(clippy::exit, reason = "there is no signal to die of")]
    std::process::exit(STATUS_CONTROL_C_EXIT)
}
