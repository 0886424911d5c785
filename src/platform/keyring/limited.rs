//! Keyrings that are called as functions, on a thread that is abandoned after a timeout.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::Trouble;

/// The result of `call`, if it comes within `limit`; else `late`.
pub(super) fn limited<T: Send + 'static>(
    limit: Duration,
    late: Trouble,
    call: impl FnOnce() -> Result<T, Trouble> + Send + 'static,
) -> Result<T, Trouble> {
    let (sender, receiver) = mpsc::channel();
    let started = thread::Builder::new().name("keyring".to_owned()).spawn(move || drop(sender.send(call())));
    if let Err(error) = started {
        return Err(Trouble::Failed(error.to_string()));
    }
    receiver.recv_timeout(limit).unwrap_or_else(|error| match error {
        RecvTimeoutError::Timeout => Err(late),
        RecvTimeoutError::Disconnected => Err(Trouble::Failed("it exited without a response".into())),
    })
}
