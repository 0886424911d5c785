//! The server's time as estimated here.

use std::cell::Cell;
use std::time::{Instant, SystemTime};

use crate::epoch;

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
        clock.set(epoch::milliseconds(SystemTime::now()));
        clock
    }

    /// Since 1970, by the server's clock.
    pub(super) fn now(&self) -> u64 {
        self.own().saturating_add(self.ahead.get()).max(0).cast_unsigned()
    }

    /// Since this gateway began.
    pub(super) fn own(&self) -> i64 {
        epoch::whole_milliseconds(self.began.elapsed()).cast_signed()
    }

    pub(super) fn set(&self, now: u64) {
        self.ahead.set(now.cast_signed().saturating_sub(self.own()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_servers_time_goes_on_here_and_a_gateways_own_begins_with_it() {
        let began = Instant::now().checked_sub(Duration::from_millis(700)).unwrap();
        let clock = Clock { began, ahead: Cell::new(0) };
        // What has passed since then, however long this process was stopped.
        let passed = |read: &dyn Fn() -> u64, from: u64| {
            let (least, now, most) = (began.elapsed(), read(), began.elapsed());
            (from + epoch::whole_milliseconds(least)..=from + epoch::whole_milliseconds(most)).contains(&now)
        };
        assert!(passed(&|| clock.own().cast_unsigned(), 0) && clock.own() >= 700);
        clock.set(5_000_000);
        let set_at = 5_000_000 - clock.ahead.get().cast_unsigned();
        assert!((700..=epoch::whole_milliseconds(began.elapsed())).contains(&set_at));
        assert!(passed(&|| clock.now(), 5_000_000 - set_at));
        clock.set(1_000_000);
        assert!(clock.now() < 5_000_000);
    }
}
