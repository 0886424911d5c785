//! Quotas of a plan that the user configures: requests per 5 hours, week and month, counted over all processes of the
//! user.
//!
//! 5 hours and a month are rolling windows; a week starts again when the provider says. A month is 31 days, the
//! longest one. Times are wall-clock times, because these windows outlast a reboot.
//!
//! Hazard and rule: as for the per-minute counters, see [`super::local`]. If the clock was changed, existing counts
//! are treated as made now: a slot becomes free later, never sooner.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use super::busy::{Late, insist};
use super::day::Week;
use super::local::{ALONE, file_name};
use crate::epoch;
use crate::error::Trouble;
use crate::paths::StateDirectory;
use crate::platform::lock::TryLock;
use crate::platform::{disk, files};
use crate::providers::Limits;
use crate::providers::error::Cause;

/// Resolution of a rolling window: a slot becomes free at most 1/128 of the window later than it could.
const STEPS: usize = 128;

/// Steps that count for a window: 2 % more than it has, plus the current one.
const COUNTED: usize = STEPS + 4;

/// The file: magic, then for each quota the start of its newest step and one counter per step, newest first.
const MAGIC: [u8; 8] = *b"qwaquot1";
const SLOT: usize = 8 + 4 * COUNTED;
const LENGTH: usize = MAGIC.len() + 3 * SLOT;

const HOUR: u64 = 3600;
const WEEK: u64 = 7 * 24 * HOUR;

/// A limit that the user configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Quota {
    pub(crate) cause: Cause,
    pub(crate) most: u32,
    /// When the window starts again. `None`: it is rolling.
    resets: Option<Week>,
}

/// A quota that has no slot left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UsedUp {
    pub(crate) cause: Cause,
    pub(crate) ends: SystemTime,
}

/// Result of a slot request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum QuotaSlot {
    Taken,
    UsedUp(UsedUp),
    /// Another process holds the file: retry shortly.
    Busy,
}

/// The quotas of one account as this process sees them.
pub(crate) struct Quotas {
    figures: Vec<Quota>,
    refuses: bool,
    path: PathBuf,
    file: Option<File>,
    /// Counts in this process only, if the file is not available.
    own: Record,
    /// When slots were taken that are free again.
    late: Late<SystemTime>,
    trouble: Trouble,
}

impl Quota {
    /// The limits that the user configured for a provider.
    pub(crate) fn of(limits: &Limits) -> Vec<Self> {
        let week = || limits.week_resets.as_deref().and_then(|text| Week::parse(text).ok());
        let quota = |cause, most: Option<u32>, resets| Some(Self { cause, most: most?, resets });
        let quotas = [
            quota(Cause::FiveHours, limits.requests_per_5h, None),
            quota(Cause::Week, limits.requests_per_week, week()),
            quota(Cause::Month, limits.requests_per_month, None),
        ];
        quotas.into_iter().flatten().collect()
    }

    /// Tells it from the others of an account.
    pub(crate) fn name(&self) -> &'static str {
        match self.cause {
            Cause::FiveHours => "5h",
            Cause::Week => "week",
            _ => "month",
        }
    }

    /// How long a rolling one is.
    pub(crate) fn length(&self) -> Duration {
        Duration::from_secs(self.seconds())
    }

    fn seconds(&self) -> u64 {
        match self.cause {
            Cause::FiveHours => 5 * HOUR,
            Cause::Week => WEEK,
            _ => 31 * 24 * HOUR,
        }
    }

    fn slot(&self) -> usize {
        match self.cause {
            Cause::FiveHours => 0,
            Cause::Week => 1,
            _ => 2,
        }
    }

    /// When the one of `now` began and when it ends, if it is not rolling.
    pub(crate) fn period(&self, now: SystemTime) -> Option<(SystemTime, SystemTime)> {
        let ends = self.end(now)?;
        // A week may be an hour longer or shorter.
        let begins = self.end(ends - Duration::from_secs(WEEK + 2 * HOUR))?;
        Some((begins, ends))
    }

    /// When it starts again, if it is not rolling.
    fn end(&self, now: SystemTime) -> Option<SystemTime> {
        Some(self.resets.as_ref()?.end(now))
    }
}

impl Quotas {
    /// `refuses`: reject requests over the limit; otherwise they are only counted.
    pub(crate) fn open(state: &Path, provider: &str, account: &str, quotas: Vec<Quota>, refuses: bool) -> Self {
        let path = path_of(state, provider, account);
        let open = || -> Result<File> {
            files::make_directory(&StateDirectory::Rate.below(state))?;
            files::open_private(&path)
        };
        let trouble = Trouble::default();
        let warn = |error| trouble.note(&format!("{ALONE}: {error:#}"));
        let file = if quotas.is_empty() { None } else { open().map_err(warn).ok() };
        Self { figures: quotas, refuses, path, file, own: Record::default(), late: Late::default(), trouble }
    }

    pub(crate) fn are_none(&self) -> bool {
        self.figures.is_empty()
    }

    /// Requests a slot in every quota. `alone`: without the file, because it was busy for too long.
    pub(crate) fn take(&mut self, now: SystemTime, alone: bool) -> QuotaSlot {
        let refuses = self.refuses;
        let taken = self.change(alone, |record, quotas| {
            let used_up =
                quotas.iter().filter_map(|quota| record.used_up(quota, now)).max_by_key(|used_up| used_up.ends);
            if let Some(used_up) = used_up.filter(|_| refuses) {
                return QuotaSlot::UsedUp(used_up);
            }
            for quota in quotas {
                record.add(quota, now);
            }
            QuotaSlot::Taken
        });
        taken.unwrap_or(QuotaSlot::Busy)
    }

    /// Releases the slot of a request that was not sent. `taken`: when it was taken.
    pub(crate) fn give_back(&mut self, taken: SystemTime) {
        if self.change(false, |record, quotas| record.give_back_all(quotas, taken)).is_none() {
            self.late.keep(taken, &self.path);
        }
    }

    /// Releases the slots that could not be released while another process held the file.
    pub(crate) fn catch_up(&mut self) {
        if !self.late.is_empty() {
            self.change(false, |_, _| ());
        }
    }

    /// Applies `change` to the record under the lock. Returns `None` if another process holds the lock.
    fn change<T>(&mut self, alone: bool, change: impl FnOnce(&mut Record, &[Quota]) -> T) -> Option<T> {
        let quotas = &self.figures;
        let Some(file) = self.file.as_ref().filter(|_| !alone) else { return Some(change(&mut self.own, quotas)) };
        let lock = match TryLock::take(file) {
            Ok(lock) => lock?,
            Err(error) => {
                self.trouble.note(&format!("{ALONE}: cannot lock `{}`: {error}", self.path.display()));
                return Some(change(&mut self.own, quotas));
            }
        };
        let mut record = Record::read(file);
        self.late.take().into_iter().for_each(|taken| record.give_back_all(quotas, taken));
        let outcome = change(&mut record, quotas);
        let written = disk::write_all_at(file, &record.to_bytes(), 0);
        drop(lock);
        match written {
            Ok(()) => self.trouble.end(),
            Err(error) => self.trouble.note(&format!("{ALONE}: cannot write `{}`: {error}", self.path.display())),
        }
        Some(outcome)
    }
}

impl Drop for Quotas {
    fn drop(&mut self) {
        if !self.late.is_empty() && insist(|| self.change(false, |_, _| ())).is_none() {
            log::warn!("`{}` is held by another process", self.path.display());
        }
    }
}

/// What `usage` shows of a quota: how many requests count for it, and when it starts again or has a free slot.
/// Read-only.
pub(crate) fn used(
    state: &Path,
    provider: &str,
    account: &str,
    quota: &Quota,
    now: SystemTime,
) -> (u32, Option<SystemTime>) {
    let path = path_of(state, provider, account);
    // Opened only if there is something to read.
    let file = path.exists().then(|| files::open_private(&path).ok()).flatten();
    let mut record = file.map(|file| Record::read(&file)).unwrap_or_default();
    let used = record.sum(quota, now);
    (used, quota.end(now).or_else(|| record.used_up(quota, now).map(|used_up| used_up.ends)))
}

fn path_of(state: &Path, provider: &str, account: &str) -> PathBuf {
    StateDirectory::Rate.below(state).join(format!("{}-quotas", file_name(provider, account)))
}

/// Counted requests.
#[derive(Clone)]
struct Record([Counts; 3]);

#[derive(Clone, Copy)]
struct Counts {
    /// Rolling window: the number of the newest step. Otherwise: when the window ends, in seconds since 1970.
    newest: u64,
    counters: [u32; COUNTED],
}

impl Default for Record {
    fn default() -> Self {
        Self([Counts { newest: 0, counters: [0; COUNTED] }; 3])
    }
}

impl Record {
    /// An unreadable file counts as empty, which loses a count, never a request.
    fn read(file: &File) -> Self {
        let mut record = Self::default();
        let mut bytes = [0; LENGTH];
        if disk::read_exact_at(file, &mut bytes, 0).is_err() || bytes[..MAGIC.len()] != MAGIC {
            return record;
        }
        for (counts, slot) in record.0.iter_mut().zip(bytes[MAGIC.len()..].chunks_exact(SLOT)) {
            counts.newest = u64::from_le_bytes(std::array::from_fn(|index| slot[index]));
            for (counter, four) in counts.counters.iter_mut().zip(slot[8..].chunks_exact(4)) {
                *counter = u32::from_le_bytes(std::array::from_fn(|index| four[index]));
            }
        }
        record
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for counts in &self.0 {
            bytes.extend(counts.newest.to_le_bytes());
            bytes.extend(counts.counters.iter().flat_map(|counter| counter.to_le_bytes()));
        }
        bytes
    }

    /// The current counters of a quota.
    fn now(&mut self, quota: &Quota, now: SystemTime) -> &mut [u32; COUNTED] {
        let counts = &mut self.0[quota.slot()];
        let end = quota.end(now);
        let newest = step_of(quota, now, end);
        let passed = if end.is_some() && newest != counts.newest {
            COUNTED
        } else {
            usize::try_from(newest.saturating_sub(counts.newest)).unwrap_or(COUNTED).min(COUNTED)
        };
        counts.newest = newest;
        counts.counters.copy_within(..COUNTED - passed, passed);
        counts.counters[..passed].fill(0);
        &mut counts.counters
    }

    fn sum(&mut self, quota: &Quota, now: SystemTime) -> u32 {
        self.now(quota, now).iter().fold(0, |sum, &count| sum.saturating_add(count))
    }

    fn add(&mut self, quota: &Quota, now: SystemTime) {
        let newest = &mut self.now(quota, now)[0];
        *newest = newest.saturating_add(1);
    }

    fn give_back_all(&mut self, quotas: &[Quota], taken: SystemTime) {
        for quota in quotas {
            self.give_back(quota, taken);
        }
    }

    /// Takes one from the step of `taken`, if that still counts.
    fn give_back(&mut self, quota: &Quota, taken: SystemTime) {
        let counts = &mut self.0[quota.slot()];
        let passed = counts
            .newest
            .checked_sub(step_of(quota, taken, quota.end(taken)))
            .and_then(|passed| usize::try_from(passed).ok());
        if let Some(counter) = passed.and_then(|passed| counts.counters.get_mut(passed)) {
            *counter = counter.saturating_sub(1);
        }
    }

    /// When a full quota has a free slot again.
    fn used_up(&mut self, quota: &Quota, now: SystemTime) -> Option<UsedUp> {
        let counters = *self.now(quota, now);
        let sum = |steps: usize| counters[..steps].iter().fold(0_u32, |sum, &count| sum.saturating_add(count));
        if sum(COUNTED) < quota.most {
            return None;
        }
        let ends = quota.end(now).unwrap_or_else(|| {
            let passed = (1..COUNTED).find(|passed| sum(COUNTED - passed) < quota.most).unwrap_or(COUNTED);
            let step = epoch::seconds(now) / step_length(quota) + passed as u64;
            UNIX_EPOCH + Duration::from_secs(step * step_length(quota))
        });
        Some(UsedUp { cause: quota.cause, ends })
    }
}

/// What [`Counts::newest`] is at `time`, when the quota's window ends at `end` or is rolling.
fn step_of(quota: &Quota, time: SystemTime, end: Option<SystemTime>) -> u64 {
    end.map_or_else(|| epoch::seconds(time) / step_length(quota), epoch::seconds)
}

/// Seconds of a step, rounded up so that a window is never shorter than configured.
fn step_length(quota: &Quota) -> u64 {
    quota.seconds().div_ceil(STEPS as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quota(cause: Cause, most: u32) -> Quota {
        Quota { cause, most, resets: None }
    }

    fn week(resets: &str, most: u32) -> Quota {
        Quota { resets: Some(Week::parse(resets).unwrap()), ..quota(Cause::Week, most) }
    }

    fn open(state: &Path, quotas: &[Quota]) -> Quotas {
        Quotas::open(state, "p", "account", quotas.to_vec(), true)
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_796_000_000 + seconds)
    }

    /// How many of `count` requests get a slot.
    fn taken(quotas: &mut Quotas, now: SystemTime, count: usize) -> usize {
        (0..count).filter(|_| quotas.take(now, false) == QuotaSlot::Taken).count()
    }

    #[test]
    fn each_quota_has_its_length_and_a_week_of_the_calendar_its_begin() {
        let lengths = [Cause::FiveHours, Cause::Week, Cause::Month].map(|cause| quota(cause, 1).length().as_secs());
        assert_eq!(lengths, [5 * 3600, 7 * 86400, 31 * 86400]);
        let names = [Cause::FiveHours, Cause::Week, Cause::Month].map(|cause| quota(cause, 1).name());
        assert_eq!(names, ["5h", "week", "month"]);
        let of_the_calendar = week("Mon 00:00 UTC", 1);
        let time = |text: &str| SystemTime::from(text.parse::<jiff::Timestamp>().unwrap());
        for now in ["2026-11-23T00:00:00Z", "2026-11-25T10:00:00Z", "2026-11-29T23:59:59Z"] {
            let week = (time("2026-11-23T00:00:00Z"), time("2026-11-30T00:00:00Z"));
            assert_eq!(of_the_calendar.period(time(now)), Some(week), "{now}");
        }
        // A week with the hour that daylight saving time takes, and one with the hour that it gives back.
        let there = week("Mon 00:00 America/Los_Angeles", 1);
        for (begins, ends) in
            [("2026-03-02T08:00:00Z", "2026-03-09T07:00:00Z"), ("2026-10-26T07:00:00Z", "2026-11-02T08:00:00Z")]
        {
            assert_eq!(there.period(time(begins)), Some((time(begins), time(ends))));
        }
        assert_eq!(quota(Cause::Week, 1).period(at(0)), None);
    }

    #[test]
    fn quotas_of_one_account_are_counted_apart() {
        let directory = tempfile::tempdir().unwrap();
        let mut quotas = open(directory.path(), &[quota(Cause::Week, 3), quota(Cause::Month, 5)]);
        assert_eq!(taken(&mut quotas, at(0), 9), 3);
        assert_eq!(taken(&mut quotas, at(8 * 24 * HOUR), 9), 2);
        let mut quotas = Quotas::open(
            directory.path(),
            "p",
            "another",
            vec![quota(Cause::FiveHours, 3), quota(Cause::Month, 5)],
            true,
        );
        assert_eq!(taken(&mut quotas, at(0), 9), 3);
        assert_eq!(taken(&mut quotas, at(6 * HOUR), 9), 2);
    }

    #[test]
    fn a_slot_that_is_given_back_while_the_file_is_held_is_free_once_it_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let week = quota(Cause::Week, 3);
        let mut quotas = open(directory.path(), std::slice::from_ref(&week));
        let counted = || used(directory.path(), "p", "account", &week, at(0)).0;
        assert_eq!(taken(&mut quotas, at(0), 3), 3);
        let file = files::open_private(&path_of(directory.path(), "p", "account")).unwrap();
        let give_back_while_held = |quotas: &mut Quotas| {
            let held = TryLock::take(&file).unwrap().unwrap();
            quotas.give_back(at(0));
            drop(held);
        };
        give_back_while_held(&mut quotas);
        assert_eq!(counted(), 3);
        quotas.catch_up();
        quotas.catch_up();
        assert_eq!(counted(), 2);
        give_back_while_held(&mut quotas);
        // The next change makes it as well, and the end of the process.
        assert_eq!((taken(&mut quotas, at(0), 1), counted()), (1, 2));
        give_back_while_held(&mut quotas);
        drop(quotas);
        assert_eq!(counted(), 1);
    }

    proptest! {
        /// Whatever the order of requests and processes, no 5-hour window contains more than the limit.
        #[test]
        fn no_window_of_five_hours_has_more_than_the_figure(
            waits in prop::collection::vec(0_u64..3 * HOUR, 1..60), most in 1_u32..8,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let quotas = [quota(Cause::FiveHours, most)];
            let (mut now, mut sent) = (0, Vec::new());
            let mut processes = [open(directory.path(), &quotas), open(directory.path(), &quotas)];
            for (number, wait) in waits.iter().enumerate() {
                now += wait;
                match processes[number % 2].take(at(now), false) {
                    QuotaSlot::Taken => sent.push(now),
                    QuotaSlot::UsedUp(used_up) => prop_assert!(used_up.ends > at(now) && used_up.ends <= at(now + 6 * HOUR)),
                    QuotaSlot::Busy => prop_assert!(false, "nobody holds it"),
                }
                let lately = sent.iter().filter(|&&at| at + 5 * HOUR >= now).count();
                prop_assert!(lately <= most as usize, "{lately} of {most}");
            }
        }

        /// A request that waits for the returned time gets a slot.
        #[test]
        fn when_it_ends_there_is_a_place(gaps in prop::collection::vec(0_u64..HOUR, 3), more in 0_u64..5 * HOUR) {
            let directory = tempfile::tempdir().unwrap();
            let mut quotas = open(directory.path(), &[quota(Cause::FiveHours, 3)]);
            let mut now = 0;
            for gap in gaps {
                now += gap;
                prop_assert_eq!(quotas.take(at(now), false), QuotaSlot::Taken);
            }
            if let QuotaSlot::UsedUp(used_up) = quotas.take(at(now + more), false) {
                prop_assert_eq!(quotas.take(used_up.ends - Duration::from_secs(1), false), QuotaSlot::UsedUp(used_up));
                prop_assert_eq!(quotas.take(used_up.ends, false), QuotaSlot::Taken);
            }
        }
    }

    #[test]
    fn a_week_begins_anew_when_the_provider_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let week = week("Mon 00:00 Asia/Shanghai", 2);
        let mut quotas = open(directory.path(), std::slice::from_ref(&week));
        let end = week.end(at(0)).unwrap();
        assert_eq!(taken(&mut quotas, end - Duration::from_secs(2), 3), 2);
        let used_up = UsedUp { cause: Cause::Week, ends: end };
        assert_eq!(quotas.take(end - Duration::from_secs(1), false), QuotaSlot::UsedUp(used_up));
        assert_eq!(taken(&mut quotas, end, 3), 2);
    }

    #[test]
    fn a_month_is_a_rolling_one_of_31_days() {
        let directory = tempfile::tempdir().unwrap();
        let mut quotas = open(directory.path(), &[quota(Cause::Month, 5)]);
        assert_eq!(taken(&mut quotas, at(0), 9), 5);
        assert_eq!(taken(&mut quotas, at(31 * 24 * HOUR), 9), 0);
        assert_eq!(taken(&mut quotas, at(33 * 24 * HOUR), 9), 5);
    }

    /// A request that one quota rejects is counted in none.
    #[test]
    fn the_quota_that_ends_last_is_named_and_the_others_count_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let both = [quota(Cause::FiveHours, 2), quota(Cause::Week, 4)];
        let mut quotas = open(directory.path(), &both);
        assert_eq!(taken(&mut quotas, at(0), 9), 2);
        assert!(matches!(quotas.take(at(0), false), QuotaSlot::UsedUp(UsedUp { cause: Cause::FiveHours, .. })));
        assert_eq!(taken(&mut quotas, at(6 * HOUR), 9), 2);
        assert!(matches!(quotas.take(at(6 * HOUR), false), QuotaSlot::UsedUp(UsedUp { cause: Cause::Week, .. })));
        let count = |quota: &Quota, hours: u64| used(directory.path(), "p", "account", quota, at(hours * HOUR)).0;
        assert_eq!((count(&both[0], 6), count(&both[1], 6)), (2, 4));
    }

    #[test]
    fn a_place_that_is_given_back_is_free_and_a_clock_that_is_wrong_frees_none() {
        let directory = tempfile::tempdir().unwrap();
        let mut quotas = open(directory.path(), &[quota(Cause::FiveHours, 1)]);
        assert_eq!(taken(&mut quotas, at(0), 2), 1);
        quotas.give_back(at(0));
        assert_eq!(taken(&mut quotas, at(0), 2), 1);
        // The clock is set a year ahead and back again: earlier requests then count as made now.
        assert_eq!(taken(&mut quotas, at(365 * 24 * HOUR), 2), 1);
        assert_eq!(taken(&mut quotas, at(0), 2), 0);
        assert_eq!(taken(&mut quotas, at(4 * HOUR), 2), 0);
        assert_eq!(taken(&mut quotas, at(6 * HOUR), 2), 1);
    }

    /// The request was about to be sent when the next step or week began.
    #[test]
    fn a_place_is_given_back_to_the_step_in_which_it_was_taken() {
        let directory = tempfile::tempdir().unwrap();
        let rolling = quota(Cause::FiveHours, 9);
        let week = week("Mon 00:00 UTC", 9);
        let mut quotas = open(directory.path(), &[rolling.clone(), week.clone()]);
        let before = SystemTime::from("2026-11-29T23:59:59Z".parse::<jiff::Timestamp>().unwrap());
        let after = before + Duration::from_secs(300);
        assert_eq!(taken(&mut quotas, before, 3), 3);
        assert_eq!(taken(&mut quotas, after, 2), 2);
        quotas.give_back(before);
        let count = |quota: &Quota, at| used(directory.path(), "p", "account", quota, at).0;
        assert_eq!((count(&rolling, after), count(&week, after)), (4, 2));
        // Of those that are left, two are of the later step.
        assert_eq!(count(&rolling, before + Duration::from_secs(5 * HOUR + 600)), 2);
        // A clock that was set back makes none free.
        quotas.give_back(after + Duration::from_secs(HOUR));
        assert_eq!(count(&rolling, after), 4);
    }

    #[test]
    fn without_pacing_requests_are_only_counted() {
        let directory = tempfile::tempdir().unwrap();
        let quota = quota(Cause::FiveHours, 1);
        let mut quotas = Quotas::open(directory.path(), "p", "account", vec![quota.clone()], false);
        assert_eq!(taken(&mut quotas, at(0), 3), 3);
        assert_eq!(used(directory.path(), "p", "account", &quota, at(0)).0, 3);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "another program damages the file")]
    fn a_file_of_another_format_or_cut_short_counts_as_empty() {
        let directory = tempfile::tempdir().unwrap();
        let quota = quota(Cause::FiveHours, 2);
        let mut quotas = open(directory.path(), std::slice::from_ref(&quota));
        assert_eq!(taken(&mut quotas, at(0), 9), 2);
        let path = path_of(directory.path(), "p", "account");
        let written = std::fs::read(&path).unwrap();
        let used = || used(directory.path(), "p", "account", &quota, at(0)).0;
        assert_eq!((written.len(), used()), (LENGTH, 2));
        let of_another_format = [b"qwaquot2", &written[MAGIC.len()..]].concat();
        for damaged in [&of_another_format[..], &written[..LENGTH - 1]] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(used(), 0);
        }
        assert_eq!(taken(&mut quotas, at(0), 9), 2);
    }
}
