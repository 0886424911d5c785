//! Keyrings that are called as functions, on a thread that is abandoned after a timeout.

use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use super::Trouble;
use crate::platform::threads;

/// The result of `call`, if it comes within `limit`; else `late`.
pub(super) fn limited<T: Send + 'static>(
    limit: Duration,
    late: Trouble,
    call: impl FnOnce() -> Result<T, Trouble> + Send + 'static,
) -> Result<T, Trouble> {
    let receiver = threads::run(call).map_err(|failed| Trouble::Failed(failed.message))?;
    receiver.recv_timeout(limit).unwrap_or_else(|error| match error {
        RecvTimeoutError::Timeout => Err(late),
        RecvTimeoutError::Disconnected => Err(Trouble::Failed("it exited without a response".into())),
    })
}
