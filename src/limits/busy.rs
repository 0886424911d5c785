//! What is done while another process holds a file of counters.
//!
//! Hazard: a file is held for microseconds, unless its holder is stopped in just these; a gateway has one thread for all
//! requests. Rule: nothing on that thread sleeps. A request that needs the file tries again later, and a change that no
//! request waits for is kept and made together with the next one. Commands, and a gateway that ends, wait a few
//! milliseconds.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

/// How long a file may be busy before an account's is left out and a key's is given up. Only a process that was stopped
/// while it held the file keeps it longer.
pub(crate) const BUSY: Duration = Duration::from_secs(5);

/// The longest addition to a pause: what a request waits at most once the file is free again.
const MAX_ADDED: Duration = Duration::from_millis(50);

/// Maximum number of changes that are kept: more than requests are in flight.
const MAX_LATE: usize = 4096;

/// The pause of a request before it tries a busy file again. Random, so that those who wait do not try together, and
/// longer the longer it was busy: hundreds of requests may wait for a holder that was stopped.
pub(crate) fn pause(busy_for: Duration) -> Duration {
    Duration::from_micros(200 + u64::from(rand::random::<u16>() / 64)) + (busy_for / 4).min(MAX_ADDED)
}

/// Repeats `attempt` for about ten milliseconds. Not to be called on a gateway's thread while it serves.
pub(super) fn insist<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    for _ in 0..50 {
        if let Some(done) = attempt() {
            return Some(done);
        }
        #[cfg(test)]
        WAITS.set(WAITS.get() + 1);
        std::thread::sleep(Duration::from_micros(200));
    }
    None
}

#[cfg(test)]
thread_local! {
    /// How often this thread has waited for a file.
    pub(super) static WAITS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// Changes of a file that are made once it is free.
#[derive(Debug)]
pub(super) struct Late<T>(VecDeque<T>);

impl<T> Default for Late<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Late<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Beyond the maximum the oldest change is lost: it costs a figure.
    pub(super) fn keep(&mut self, change: T, path: &Path) {
        if self.0.len() >= MAX_LATE {
            self.0.pop_front();
            log::warn!("`{}` is held by another process", path.display());
        }
        self.0.push_back(change);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }

    /// Removes all; the oldest is the first.
    pub(super) fn take(&mut self) -> VecDeque<T> {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_short_at_first_and_bounded_however_long_the_file_is_busy() {
        let micros = Duration::from_micros;
        for (busy_for, added) in [(0, 0), (4_000, 1_000), (10_000_000, 50_000)] {
            let pauses: Vec<Duration> = (0..200).map(|_| pause(micros(busy_for))).collect();
            let range = micros(added + 200)..micros(added + 200 + 1024);
            assert!(pauses.iter().all(|pause| range.contains(pause)), "{busy_for}: {pauses:?}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        }
    }

    #[test]
    fn of_too_many_changes_the_oldest_are_lost() {
        let mut late = Late::default();
        assert!(late.is_empty());
        (0..MAX_LATE + 2).for_each(|number| late.keep(number, Path::new("file")));
        assert_eq!(late.iter().count(), MAX_LATE);
        assert_eq!(late.take().front(), Some(&2));
        assert!(late.is_empty());
    }

    #[test]
    fn an_attempt_is_repeated_until_it_succeeds_and_not_for_ever() {
        let mut left = 3;
        let mut attempt = || {
            left -= 1;
            (left == 0).then_some("done")
        };
        assert_eq!(insist(&mut attempt), Some("done"));
        assert_eq!((insist(&mut attempt), left, WAITS.get()), (None, -50, 52));
    }
}
