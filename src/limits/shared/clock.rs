//! The server's time as estimated here.

use std::cell::Cell;
use std::time::{Instant, SystemTime};

use crate::limits::together::{milliseconds, since_epoch};

/// Times are milliseconds.
pub(super) struct Clock {
    began: Instant,
    /// The server's clock minus ours.
    pub(super) ahead: Cell<i64>,
}

impl Clock {
    pub(super) fn new() -> Self {
        let clock = Self { began: Instant::now(), ahead: Cell::new(0) };
        // That of this machine, until the server has told its own.
        clock.set(since_epoch(SystemTime::now()));
        clock
    }

    /// Since 1970, by the server's clock.
    pub(super) fn now(&self) -> u64 {
        self.own().saturating_add(self.ahead.get()).max(0).cast_unsigned()
    }

    /// Since this gateway began.
    pub(super) fn own(&self) -> i64 {
        milliseconds(self.began.elapsed()).cast_signed()
    }

    pub(super) fn set(&self, now: u64) {
        self.ahead.set(now.cast_signed().saturating_sub(self.own()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_time_goes_on_here_and_a_gateways_own_begins_with_it() {
        let clock = Clock::new();
        let since = Instant::now();
        clock.set(5_000_000);
        while since.elapsed().as_millis() < 3 {}
        assert!((3..2000).contains(&clock.own()), "{}", clock.own());
        assert!((5_000_003..5_002_000).contains(&clock.now()), "{}", clock.now());
        clock.set(1_000);
        assert!((1_000..3_000).contains(&clock.now()), "{}", clock.now());
    }
}
