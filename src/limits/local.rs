//! Counts recent requests over all processes of the user, and decides when the next one may be sent.
//!
//! Times are those of the monotonic clock, which all processes of a machine share: a change of the system time affects
//! only the day.
//!
//! Hazard: a process is killed, or stopped permanently, while it holds the lock; the disk is full; the file is damaged.
//! Rule: the whole record is written by one `pwrite` into reserved space; the lock is tried and never waited for; a
//! process that cannot use the file counts alone.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use sha2::{Digest, Sha256};

use super::busy::{Late, insist};
use super::day::Day;
use super::window::{DayState, LENGTH, Lease, Rule, STEPS, Slot, WindowRecord, step_length};
use crate::error::Trouble;
use crate::paths::StateDirectory;
use crate::platform::lock::TryLock;
use crate::platform::{disk, files, system};

/// What it means that a file of counters cannot be used.
pub(super) const ALONE: &str = "requests are counted only by this process";

/// The result of a request for a slot.
pub(crate) enum Reservation {
    Decided(Slot),
    /// Another process holds the file: try again shortly.
    Busy,
}

/// The counters of one account, as seen by this process.
pub(crate) struct Rate {
    rule: Rule,
    counters: Counters,
    lease: Lease,
    today: Day,
}

/// The record of all processes in its file.
struct Counters {
    path: PathBuf,
    file: Option<File>,
    /// As it was read or written last. Counted alone if the file cannot be used.
    record: WindowRecord,
    /// Slots that are free again, by step and day.
    late: Late<(u64, i32)>,
    trouble: Trouble,
}

impl Rate {
    /// `account`: identifies the account, such as a key; only its hash is written.
    pub(crate) fn open(state: &Path, provider: &str, account: &str, rule: Rule) -> Self {
        let path = StateDirectory::Rate.below(state).join(file_name(provider, account));
        let trouble = Trouble::default();
        let file = open(state, &path).map_err(|error| trouble.note(&format!("{ALONE}: {error:#}"))).ok();
        let record = WindowRecord::new(boot(), step_length(rule.window));
        let today = rule.zone.day_of(SystemTime::now());
        Self {
            rule,
            counters: Counters { path, file, record, late: Late::default(), trouble },
            lease: Lease::default(),
            today,
        }
    }

    pub(crate) fn rule(&self) -> &Rule {
        &self.rule
    }

    /// The provider's day at `now`.
    pub(crate) fn day(&mut self, now: SystemTime) -> Day {
        if !self.today.contains(now) {
            self.today = self.rule.zone.day_of(now);
        }
        self.today
    }

    /// The number of the day for which the last slot was counted.
    pub(crate) fn counted_day(&self) -> i32 {
        self.today.number()
    }

    /// Requests a slot. `alone`: without the file, because it was busy for too long.
    pub(crate) fn take(&mut self, now: SystemTime, alone: bool) -> Reservation {
        let day = self.day(now);
        let step = self.step();
        if self.lease.left > 0 && self.lease.step == step && self.lease.day == day.number() {
            self.lease.left -= 1;
            return Reservation::Decided(Slot::Now { step });
        }
        let lease = std::mem::take(&mut self.lease);
        let taken = self.counters.change(alone, |record| {
            record.give_back(lease.step, lease.left, lease.day);
            record.take(&self.rule, step, &day, &lease)
        });
        let Some((turn, next)) = taken else {
            // The next successful call releases the remainder.
            self.lease = lease;
            return Reservation::Busy;
        };
        self.lease = next;
        Reservation::Decided(turn)
    }

    /// Releases the slot of a request that was not sent. `day`: the number of that for which it was counted.
    pub(crate) fn give_back(&mut self, step: u64, day: i32) {
        let counters = &mut self.counters;
        if counters.change(false, |record| record.give_back(step, 1, day)).is_none() {
            counters.late.keep((step, day), &counters.path);
        }
    }

    /// Releases the slots that could not be released while another process held the file, and those that were reserved for
    /// a step that is over.
    pub(crate) fn catch_up(&mut self) {
        let is_over = self.lease.left > 0 && self.lease.step != self.step();
        if is_over {
            self.release();
        } else if !self.counters.late.is_empty() {
            self.counters.change(false, |_| ());
        }
    }

    /// Releases what is reserved and not used. Returns `None` if another process holds the file.
    fn release(&mut self) -> Option<()> {
        let Lease { step, left, day, .. } = self.lease;
        self.counters.change(false, |record| record.give_back(step, left, day))?;
        self.lease.left = 0;
        Some(())
    }

    /// The same by the monotonic clock, in nanoseconds.
    pub(super) fn give_back_at(&mut self, time: u64, day: i32) {
        self.give_back(time / self.counters.record.step_length, day);
    }

    /// Reads the account's record and counts in it, while the caller does the same for a key. `alone`: without the
    /// file. Returns `None` if another process holds it.
    pub(super) fn together<T>(
        &mut self,
        now: SystemTime,
        alone: bool,
        look: impl FnOnce(Account<'_>) -> T,
    ) -> Option<T> {
        let (day, step) = (self.day(now), self.step());
        let lease = std::mem::take(&mut self.lease);
        let looked = self.counters.change(alone, |record| {
            record.give_back(lease.step, lease.left, lease.day);
            record.advance(step);
            look(Account { record, rule: &self.rule, day })
        });
        if looked.is_none() {
            self.lease = lease;
        }
        looked
    }

    /// Whether to warn that the day's limit is near: once a day for all processes.
    pub(crate) fn is_first_warning(&mut self, now: SystemTime) -> bool {
        let number = self.day(now).number();
        self.counters.change(false, |record| !std::mem::replace(&mut record.day(number).warned, true)).unwrap_or(false)
    }

    /// Requests on this day by all processes.
    pub(crate) fn count_of_day(&mut self, now: SystemTime) -> u32 {
        let number = self.day(now).number();
        let unused = if self.lease.day == number { self.lease.left } else { 0 };
        self.counters.change(false, |record| record.day(number).count).unwrap_or_default().saturating_sub(unused)
    }

    fn step(&self) -> u64 {
        u64::try_from(system::monotonic().as_nanos()).unwrap_or_default() / self.counters.record.step_length
    }
}

impl Counters {
    /// Applies `change` to the record under the lock. Returns `None` if another process holds it.
    fn change<T>(&mut self, alone: bool, change: impl FnOnce(&mut WindowRecord) -> T) -> Option<T> {
        let Self { path, file, record, late, trouble } = self;
        let lock = match file.as_ref().filter(|_| !alone).map(TryLock::take).transpose() {
            Ok(Some(lock)) => Some(lock?),
            Ok(None) => None,
            Err(error) => {
                trouble.note(&format!("{ALONE}: cannot lock `{}`: {error}", path.display()));
                None
            }
        };
        let Some((lock, file)) = lock.zip(file.as_ref()) else {
            // What others count meanwhile is read once the file can be used.
            record.forget();
            return Some(change(record));
        };
        record.refresh(file);
        late.take().into_iter().for_each(|(step, day)| record.give_back(step, 1, day));
        let outcome = change(record);
        let written = record.write(file);
        drop(lock);
        match written {
            Ok(()) => trouble.end(),
            Err(error) => trouble.note(&format!("{ALONE}: cannot write `{}`: {error}", path.display())),
        }
        Some(outcome)
    }
}

impl Drop for Rate {
    fn drop(&mut self) {
        if self.lease.left > 0 && insist(|| self.release()).is_none() {
            log::warn!("`{}` is held by another process", self.counters.path.display());
        }
    }
}

impl Drop for Counters {
    fn drop(&mut self) {
        if !self.late.is_empty() && insist(|| self.change(false, |_| ())).is_none() {
            log::warn!("`{}` is held by another process", self.path.display());
        }
    }
}

/// An account's record, under its lock.
pub(super) struct Account<'record> {
    record: &'record mut WindowRecord,
    rule: &'record Rule,
    day: Day,
}

impl Account<'_> {
    pub(super) fn refuse_for_day(&mut self) -> Option<Slot> {
        self.record.refuse_for_day(self.rule, &self.day)
    }

    /// See [`WindowRecord::earliest`].
    pub(super) fn earliest(&self, clock: u64, from: u64) -> Option<u64> {
        self.record.earliest(self.rule, clock, from, 1)
    }

    /// Returns the number of the day for which it is counted.
    pub(super) fn count_at(&mut self, time: u64) -> i32 {
        let day = self.day.number();
        self.record.count_at(time, 1, 1, day);
        day
    }

    pub(super) fn step_ends(&self, time: u64) -> u64 {
        self.record.step_ends(time)
    }

    /// How far ahead a request may be scheduled.
    pub(super) fn horizon(&self) -> Duration {
        self.record.horizon()
    }
}

/// For `usage`: requests within the current window and on this day. Changes nothing.
pub(crate) fn standing(state: &Path, provider: &str, account: &str, rule: &Rule, now: SystemTime) -> (u32, DayState) {
    let path = StateDirectory::Rate.below(state).join(file_name(provider, account));
    let length = step_length(rule.window);
    // Opened only if there is something to read.
    let Some(file) = path.exists().then(|| files::open_private(&path).ok()).flatten() else {
        return Default::default();
    };
    let mut record = WindowRecord::read(&file, boot(), length);
    let step = u64::try_from(system::monotonic().as_nanos()).unwrap_or_default() / length;
    let day = *record.day(rule.zone.day_of(now).number());
    (record.sum(step, STEPS + 1), day)
}

pub(super) fn file_name(provider: &str, account: &str) -> String {
    let digest = Sha256::digest(account);
    let hash = u64::from_be_bytes(std::array::from_fn(|index| digest[index]));
    let provider: String = provider.chars().filter(|letter| letter.is_ascii_alphanumeric() || *letter == '-').collect();
    format!("{provider}-{hash:016x}")
}

/// Extends the file to its full length, so that a full disk causes an error now or never.
fn open(state: &Path, path: &Path) -> Result<File> {
    files::make_directory(&StateDirectory::Rate.below(state))?;
    let file = files::open_private(path)?;
    // Done under the lock, because it would delete what another process has counted meanwhile. The holder writes the
    // whole record.
    if let Some(_lock) = TryLock::take(&file)?
        && file.metadata()?.len() < LENGTH as u64
    {
        disk::write_all_at(&file, &vec![0; LENGTH], 0)?;
    }
    Ok(file)
}

/// Identifies the boot, because [`system::monotonic`] starts again at each boot.
pub(super) fn boot() -> u64 {
    let digest = Sha256::digest(system::boot());
    u64::from_le_bytes(std::array::from_fn(|index| digest[index]))
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    fn rule() -> Rule {
        Rule {
            per_window: Some(1000),
            burst: None,
            window: Duration::from_secs(60),
            per_day: None,
            day_refuses: false,
            zone: super::super::Zone::parse(None).unwrap(),
            waits: true,
        }
    }

    fn path(state: &Path) -> PathBuf {
        StateDirectory::Rate.below(state).join(file_name("p", "key"))
    }

    #[test]
    fn what_was_counted_alone_is_not_written_once_the_file_can_be_used() {
        let directory = tempfile::tempdir().unwrap();
        // One slot at a time.
        let rule = Rule { per_window: Some(60), ..rule() };
        let mut rate = Rate::open(directory.path(), "p", "key", rule);
        let now = SystemTime::now();
        for alone in [false, true, true, false] {
            assert!(matches!(rate.take(now, alone), Reservation::Decided(Slot::Now { .. })));
        }
        assert_eq!(rate.count_of_day(now), 2);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test may panic")]
    fn of_many_that_open_a_new_file_at_once_each_is_counted() {
        const THREADS: usize = 8;
        for _ in 0..200 {
            let directory = tempfile::tempdir().unwrap();
            let barrier = Barrier::new(THREADS);
            thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        barrier.wait();
                        let mut rate = Rate::open(directory.path(), "p", "key", rule());
                        while matches!(rate.take(SystemTime::now(), false), Reservation::Busy) {
                            thread::yield_now();
                        }
                    });
                }
            });
            let (counted, _) = standing(directory.path(), "p", "key", &rule(), SystemTime::now());
            assert_eq!(counted as usize, THREADS);
        }
    }

    #[test]
    fn requests_count_for_the_next_day_once_a_day_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let mut rate = Rate::open(directory.path(), "p", "key", rule());
        let today = rate.day(SystemTime::now());
        assert_eq!([today.ends, today.begins].map(|at| rate.day(at).number() - today.number()), [1, 0]);
    }

    #[test]
    fn a_slot_that_is_given_back_while_the_file_is_held_is_free_once_it_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let counted = || standing(directory.path(), "p", "key", &rule(), SystemTime::now());
        // One slot at a time.
        let rule = Rule { per_window: Some(60), ..rule() };
        let mut rate = Rate::open(directory.path(), "p", "key", rule);
        let now = SystemTime::now();
        let day = rate.day(now).number();
        let take = |rate: &mut Rate| match rate.take(now, false) {
            Reservation::Decided(Slot::Now { step }) => step,
            _ => panic!("there is space"),
        };
        let [first, second, third] = [(); 3].map(|()| take(&mut rate));
        let file = files::open_private(&path(directory.path())).unwrap();
        let held = TryLock::take(&file).unwrap().unwrap();
        rate.give_back(first, day);
        drop(held);
        assert_eq!(counted().1.count, 3);
        rate.catch_up();
        assert_eq!((counted().0, counted().1.count), (2, 2));
        rate.catch_up();
        let held = TryLock::take(&file).unwrap().unwrap();
        rate.give_back(second, day);
        drop(held);
        // The next change makes it as well, and the end of the process.
        take(&mut rate);
        assert_eq!(counted().1.count, 2);
        let held = TryLock::take(&file).unwrap().unwrap();
        rate.give_back(third, day);
        drop(held);
        drop(rate);
        assert_eq!((counted().0, counted().1.count), (1, 1));
    }

    #[test]
    fn a_slot_is_given_back_to_the_day_for_which_it_was_counted() {
        let directory = tempfile::tempdir().unwrap();
        let mut rate = Rate::open(directory.path(), "p", "key", rule());
        let now = SystemTime::now();
        let (today, tomorrow) = (rate.day(now).number(), rate.day(now).ends);
        let Reservation::Decided(Slot::Now { step }) = rate.take(now, false) else { panic!("there is space") };
        assert!(matches!(rate.take(tomorrow, false), Reservation::Decided(_)));
        rate.give_back(step, today);
        assert_eq!((rate.count_of_day(now), rate.count_of_day(tomorrow)), (0, 1));
    }

    #[test]
    fn what_a_process_has_reserved_is_spent_once_and_in_its_step_only() {
        let directory = tempfile::tempdir().unwrap();
        // Steps of a minute, and room for many leases.
        let rule = Rule { per_window: Some(1_000_000), window: Duration::from_secs(7200), ..rule() };
        let mut rate = Rate::open(directory.path(), "p", "key", rule);
        for count in 1..=100 {
            assert!(matches!(rate.take(SystemTime::now(), false), Reservation::Decided(Slot::Now { .. })));
            assert_eq!(rate.count_of_day(SystemTime::now()), count);
        }
        assert!(rate.lease.left > 0);
        rate.lease.step = 0;
        assert!(matches!(rate.take(SystemTime::now(), false), Reservation::Decided(Slot::Now { .. })));
        assert_ne!(rate.lease.step, 0);
    }

    #[test]
    fn what_a_process_has_reserved_is_of_the_day_for_which_it_was_counted() {
        let directory = tempfile::tempdir().unwrap();
        // Steps of a minute, and room for many leases.
        let rule = Rule { per_window: Some(1_000_000), window: Duration::from_secs(7200), ..rule() };
        let mut rate = Rate::open(directory.path(), "p", "key", rule);
        let now = SystemTime::now();
        let next = rate.day(now).ends;
        for on_next in [false, true] {
            for _ in 0..50 {
                assert!(matches!(rate.take(now, false), Reservation::Decided(_)));
            }
            assert!(rate.lease.left > 0 && rate.counted_day() == rate.day(now).number());
            let counted = (rate.count_of_day(now), rate.count_of_day(next));
            if on_next {
                assert!(rate.together(next, false, |_| ()).is_some());
                assert_eq!((rate.count_of_day(now), rate.count_of_day(next)), counted);
            } else {
                assert!(matches!(rate.take(next, false), Reservation::Decided(_)));
                assert_eq!(rate.counted_day(), rate.day(next).number());
                assert_eq!((rate.count_of_day(now), rate.count_of_day(next)), (counted.0, counted.1 + 1));
            }
        }
        assert_eq!((rate.count_of_day(now), rate.count_of_day(next)), (100, 1));
    }

    #[test]
    fn what_is_reserved_and_not_used_is_released_with_its_step_and_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let counted = || standing(directory.path(), "p", "key", &rule(), SystemTime::now()).1.count;
        let open = |window| {
            let rule = Rule { per_window: Some(100_000_000), window, ..rule() };
            Rate::open(directory.path(), "p", "key", rule)
        };
        let reserve = |rate: &mut Rate| {
            let mut taken = 0;
            while taken == 0 || rate.lease.left == 0 {
                assert!(matches!(rate.take(SystemTime::now(), false), Reservation::Decided(Slot::Now { .. })));
                taken += 1;
            }
            taken
        };
        // Steps of a minute.
        let mut rate = open(Duration::from_secs(7200));
        let mut used = reserve(&mut rate);
        rate.catch_up();
        assert!(counted() > used, "its step is not over");
        drop(rate);
        assert_eq!(counted(), used);
        let mut rate = open(Duration::from_secs(1));
        used += reserve(&mut rate);
        while rate.step() == rate.lease.step {
            thread::yield_now();
        }
        rate.catch_up();
        assert_eq!(counted(), used);
    }

    #[test]
    fn a_file_is_named_by_letters_of_its_provider_and_a_hash_of_its_account() {
        // The first bytes of the account's SHA-256.
        assert_eq!(file_name("../own-1", "key"), "own-1-2c70e12b7a0646f9");
    }

    #[test]
    fn the_day_of_an_account_is_over_for_a_key_as_well() {
        let directory = tempfile::tempdir().unwrap();
        let mut rate = Rate::open(directory.path(), "p", "key", Rule { per_day: Some(1), day_refuses: true, ..rule() });
        let mut is_over = || {
            rate.together(SystemTime::now(), false, |mut account| {
                let is_over = account.refuse_for_day().is_some();
                account.count_at(u64::try_from(system::monotonic().as_nanos()).unwrap());
                is_over
            })
        };
        assert_eq!([is_over(), is_over()], [Some(false), Some(true)]);
    }

    #[test]
    fn usage_shows_the_whole_window_and_nothing_older() {
        let directory = tempfile::tempdir().unwrap();
        let rule = Rule { window: Duration::from_secs(10), ..rule() };
        let file = open(directory.path(), &path(directory.path())).unwrap();
        let length = step_length(rule.window);
        let step = u64::try_from(system::monotonic().as_nanos()).unwrap() / length;
        // One in each step of the window before, and in those that may begin until it is shown.
        let mut record = WindowRecord::new(boot(), length);
        for step in step.saturating_sub(2 * STEPS)..step + 1000 {
            record.count_at(step * length, 1, 0, 0);
        }
        record.write(&file).unwrap();
        let (shown, _) = standing(directory.path(), "p", "key", &rule, SystemTime::now());
        assert_eq!(u64::from(shown), STEPS + 1);
    }

    #[test]
    fn a_file_has_its_full_length_before_anything_is_counted_and_is_not_emptied_by_the_next_process() {
        let directory = tempfile::tempdir().unwrap();
        let length = || path(directory.path()).metadata().unwrap().len();
        let mut first = Rate::open(directory.path(), "p", "key", rule());
        assert_eq!(length(), LENGTH as u64);
        assert!(matches!(first.take(SystemTime::now(), false), Reservation::Decided(Slot::Now { .. })));
        // As a later version may write it.
        let file = std::fs::OpenOptions::new().write(true).open(path(directory.path())).unwrap();
        file.set_len(2 * LENGTH as u64).unwrap();
        let mut second = Rate::open(directory.path(), "p", "key", rule());
        assert_eq!((second.count_of_day(SystemTime::now()), length()), (1, 2 * LENGTH as u64));
    }

    #[test]
    fn a_boot_is_named_by_a_hash_of_its_id() {
        assert_eq!(boot().to_le_bytes(), Sha256::digest(system::boot())[..8]);
    }
}
