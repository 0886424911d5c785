//! Writes what requests used to the ledger, while the gateway runs and at its end.

use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

use crate::gateway::Gateway;
use crate::limits::shared::Row;
use crate::platform::threads;
use crate::usage::{self, Use};

/// How often counts go to the ledger at least.
const FLUSH: Duration = Duration::from_secs(1);

/// How many times in a row counts are written as soon as a request ends, so that `usage` shows it at once, and how many
/// more times in each second. More would fill the ledger of a busy day.
const AT_ONCE: f64 = 20.0;
const REGAINED: f64 = 2.0;

/// Writes counts as requests end, until `ending`. Never cut short: what is on its way to the disk arrives there.
pub(in crate::gateway) async fn flush_regularly(gateway: Rc<Gateway>, ending: Rc<Notify>) {
    let state = gateway.options.state.clone();
    if let Err(error) = threads::finished(move || usage::settle(&state, SystemTime::now())).await {
        log::warn!("cannot summarize old usage: {error:#}");
    }
    let mut at_once = AtOnce(AT_ONCE);
    let mut last = Instant::now();
    loop {
        tokio::select! {
            () = gateway.events.news.notified() => {}
            () = ending.notified() => return,
            // Counts of other processes cause warnings too.
            () = tokio::time::sleep(FLUSH) => {}
        }
        let passed = last.elapsed();
        last = Instant::now();
        if !at_once.regain(passed) {
            tokio::select! {
                () = tokio::time::sleep(FLUSH) => {}
                () = ending.notified() => return,
            }
        }
        at_once.spend();
        flush(&gateway).await;
    }
}

/// How many times counts may still be written as soon as a request ends.
struct AtOnce(f64);

impl AtOnce {
    /// Adds what `passed` gives back, and returns whether there is one.
    fn regain(&mut self, passed: Duration) -> bool {
        self.0 = (self.0 + passed.as_secs_f64() * REGAINED).min(AT_ONCE);
        self.0 >= 1.0
    }

    fn spend(&mut self) {
        self.0 = (self.0 - 1.0).max(0.0);
    }
}

/// Writes counts to the ledger, and warns if that is requested.
pub(in crate::gateway) async fn flush(gateway: &Gateway) {
    if let Some(team) = &gateway.team {
        team.engine.tend();
    }
    for account in gateway.profiles.all().iter().flat_map(|served| served.all_accounts()) {
        account.catch_up();
        if let Some(percent) = gateway.options.warn_at {
            account.warn(percent);
        }
        let Some(mut pending) = account.take_pending() else { continue };
        // The disk may be slow, or away.
        let written = threads::finished_or_here(move || {
            let written = pending.write();
            (pending, written)
        });
        let Some((mut pending, written)) = written.await else { continue };
        if let Some(shared) = &gateway.shared {
            pending.take_written().into_iter().for_each(|(of, counts)| shared.enter(row(of), counts.named()));
        }
        match written {
            Ok(()) => gateway.usage_trouble.end(),
            Err(error) => {
                gateway.usage_trouble.note(&format!("cannot write the usage: {error:#}"));
                account.put_back(pending);
            }
        }
    }
    gateway.profiles.all().iter().for_each(|served| served.close_former());
}

/// Whose counts they are, for the sums of all gateways.
fn row(of: Use) -> Row {
    let Use { day, profile, provider, model, user } = of;
    let (key, owner) = user.map_or((None, None), |user| (Some(user.key), user.owner));
    Row { day, profile, provider, model, key, owner }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_written_at_once_twenty_times_in_a_row_and_then_twice_a_second() {
        let (none, half) = (Duration::ZERO, Duration::from_millis(500));
        let mut at_once = AtOnce(AT_ONCE);
        let mut in_a_row = |after: Duration| {
            let mut count = 0;
            while count < 100 && at_once.regain(if count == 0 { after } else { none }) {
                at_once.spend();
                count += 1;
            }
            count
        };
        assert_eq!([none, half, 3 * half, half / 2, half / 2].map(&mut in_a_row), [20, 1, 3, 0, 1]);
        // They do not add up beyond that.
        assert_eq!(in_a_row(Duration::from_secs(3600)), 20);
        at_once.spend();
        assert!(!at_once.regain(none) && at_once.regain(half));
    }
}
