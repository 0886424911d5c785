//! Schedules requests: counts them by time, and applies windows, bursts and days.
//!
//! Time is divided into steps, [`STEPS`] to a window, and each step has a counter. A request takes the earliest step at
//! or after the end of the queue whose trailing window still has space. So a window's limit is never exceeded, a burst
//! up to the limit is not delayed, and waiting requests are served in order.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use super::day::{Day, Zone};
use crate::platform::{disk, system};

/// Resolution: a request waits at most 1/128 of a window longer than necessary.
pub(super) const STEPS: u64 = 128;

/// Number of steps kept: one past window, and enough future steps for a wait of ten minutes with a window of a minute.
const KEPT: usize = 1536;

/// How far ahead a request may be scheduled.
const AHEAD: u64 = 1400;

/// File format: magic, boot, step length, newest step, four days of 16 bytes, then one counter for each step. The last
/// four bytes of the first two days are the revision.
const MAGIC: [u8; 8] = *b"qwarate1";
const DAYS_AT: usize = 32;
const REVISION_AT: [usize; 2] = [DAYS_AT + 12, DAYS_AT + 16 + 12];
const COUNTERS_AT: usize = DAYS_AT + 4 * 16;
pub(super) const LENGTH: usize = COUNTERS_AT + 4 * KEPT;

/// The limits of a provider or of the user.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) per_window: Option<u32>,
    pub(crate) burst: Option<u32>,
    pub(crate) window: Duration,
    pub(crate) per_day: Option<u32>,
    /// Whether the user set `per_day`: only then requests are rejected.
    pub(crate) day_refuses: bool,
    pub(crate) zone: Zone,
    /// Whether requests wait; otherwise they are only counted.
    pub(crate) waits: bool,
}

/// When a request may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// In the step `step`, which is the current one.
    Now { step: u64 },
    /// In the step `step`, which begins after `wait` and has the length `step_length`.
    Later { wait: Duration, step_length: Duration, step: u64 },
    /// The queue is longer than clients wait; there is space after `wait`.
    TooLong { wait: Duration },
    /// Nothing may be sent until this time.
    DayOver { ends: SystemTime },
}

/// The counts of a day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DayState {
    number: i32,
    pub(crate) count: u32,
    /// Whether the user was warned that the day's limit is near.
    pub(super) warned: bool,
}

/// The state of one account.
pub(super) struct WindowRecord {
    boot: u64,
    /// Nanoseconds.
    pub(super) step_length: u64,
    newest: u64,
    days: [DayState; 4],
    counters: Vec<u32>,
    /// When it was written, in nanoseconds of the monotonic clock: no two writes have the same. 0: that is not known, or
    /// an earlier version wrote it.
    revision: u64,
    /// The counters that may differ from those in the file, by their places.
    changed: Range<usize>,
}

/// Slots reserved from the file in advance and valid within their step, so that not each of thousands of requests a
/// second opens the file. Only a small part of the remainder is reserved.
#[derive(Default)]
pub(super) struct Lease {
    pub(super) step: u64,
    /// The number of the day for which they are counted.
    pub(super) day: i32,
    pub(super) left: u32,
    pub(super) size: u32,
}

impl WindowRecord {
    pub(super) fn new(boot: u64, step_length: u64) -> Self {
        let (days, counters) = (Default::default(), vec![0; KEPT]);
        Self { boot, step_length, newest: 0, days, counters, revision: 0, changed: 0..KEPT }
    }

    /// Returns a new record if this one is damaged, or of another boot or window; its days are kept.
    pub(super) fn read(file: &File, boot: u64, step_length: u64) -> Self {
        Self::read_at(file, 0, boot, step_length)
    }

    /// The same for a record at `offset` bytes in the file.
    pub(super) fn read_at(file: &File, offset: u64, boot: u64, step_length: u64) -> Self {
        let mut record = Self::new(boot, step_length);
        let mut bytes = [0; LENGTH];
        if disk::read_exact_at(file, &mut bytes, offset).is_err() || bytes[..8] != MAGIC {
            return record;
        }
        let word = |at: usize| word(&bytes, at);
        let half = |at: usize| half(&bytes, at);
        for (index, day) in record.days.iter_mut().enumerate() {
            let at = DAYS_AT + 16 * index;
            let flags = half(at + 8);
            *day = DayState { number: half(at).cast_signed(), count: half(at + 4), warned: flags & 1 != 0 };
        }
        if word(8) != boot || word(16) != step_length {
            return record;
        }
        record.newest = word(24);
        for (counter, bytes) in record.counters.iter_mut().zip(bytes[COUNTERS_AT..].as_chunks().0) {
            *counter = u32::from_le_bytes(*bytes);
        }
        record.revision = revision(&bytes);
        record.changed = 0..0;
        record
    }

    /// Makes this what is in the file: all of it is read only if it was written since this record was read from there
    /// or written. The caller holds the file's lock.
    pub(super) fn refresh(&mut self, file: &File) {
        let mut head = [0; COUNTERS_AT];
        let is_known = disk::read_exact_at(file, &mut head, 0).is_ok()
            && head[..8] == MAGIC
            && word(&head, 8) == self.boot
            && word(&head, 16) == self.step_length
            && self.revision != 0
            && revision(&head) == self.revision;
        if !is_known {
            *self = Self::read(file, self.boot, self.step_length);
        }
    }

    /// Writes what has changed since [`WindowRecord::refresh`], the head last: a process that is killed in between has
    /// counted a request which it never sent, or has not counted it. The caller holds the file's lock.
    pub(super) fn write(&mut self, file: &File) -> io::Result<()> {
        let changed = std::mem::take(&mut self.changed);
        if !changed.is_empty() {
            let counters = self.counters[changed.clone()].iter().flat_map(|counter| counter.to_le_bytes());
            let at = COUNTERS_AT + 4 * changed.start;
            if let Err(error) = disk::write_all_at(file, &counters.collect::<Vec<_>>(), at as u64) {
                self.forget();
                return Err(error);
            }
        }
        let clock = u64::try_from(system::monotonic().as_nanos()).unwrap_or_default();
        // Later than the one before, however coarse the clock is.
        self.revision = clock.max(self.revision.saturating_add(1));
        disk::write_all_at(file, &self.head(), 0).inspect_err(|_| self.forget())
    }

    /// The next [`WindowRecord::refresh`] reads the whole file.
    pub(super) fn forget(&mut self) {
        self.revision = 0;
    }

    fn head(&self) -> [u8; COUNTERS_AT] {
        let mut head = [0; COUNTERS_AT];
        head[..8].copy_from_slice(&MAGIC);
        for (index, word) in [self.boot, self.step_length, self.newest].into_iter().enumerate() {
            head[8 + 8 * index..][..8].copy_from_slice(&word.to_le_bytes());
        }
        for (index, day) in self.days.iter().enumerate() {
            for (part, half) in [day.number.cast_unsigned(), day.count, u32::from(day.warned)].into_iter().enumerate() {
                head[DAYS_AT + 16 * index + 4 * part..][..4].copy_from_slice(&half.to_le_bytes());
            }
        }
        for (at, half) in REVISION_AT.into_iter().zip(self.revision.to_le_bytes().as_chunks::<4>().0) {
            head[at..at + 4].copy_from_slice(half);
        }
        head
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.extend(self.head());
        bytes.resize(LENGTH, 0);
        for (counter, bytes) in self.counters.iter().zip(bytes[COUNTERS_AT..].as_chunks_mut().0) {
            *bytes = counter.to_le_bytes();
        }
        bytes
    }

    pub(super) fn take(&mut self, rule: &Rule, step: u64, day: &Day, last: &Lease) -> (Slot, Lease) {
        if let Some(refused) = self.refuse_for_day(rule, day) {
            return (refused, Lease::default());
        }
        self.advance(step);
        let (place, room) = if rule.waits { self.place(rule, step, 1) } else { (Some(step), 0) };
        let Some(place) = place else {
            let length = Duration::from_nanos(self.step_length);
            return (Slot::TooLong { wait: length * u32::try_from(AHEAD).unwrap_or(u32::MAX) }, Lease::default());
        };
        self.advance(place);
        let left_of_day = rule.per_day.filter(|_| rule.day_refuses).map_or(u32::MAX, |limit| {
            let count = self.day(day.number()).count;
            limit.saturating_sub(count)
        });
        // The first call in a step reserves one slot; each further call reserves twice as many, up to 1/64 of the
        // remainder.
        let most = (room / 64).min(left_of_day / 64).max(1);
        let size = if place == step && last.step == step { last.size.saturating_mul(2).clamp(1, most) } else { 1 };
        *self.counter(place) = self.counter(place).saturating_add(size);
        let today = self.day(day.number());
        today.count = today.count.saturating_add(size);
        if place == step {
            return (Slot::Now { step }, Lease { step, day: day.number(), left: size - 1, size });
        }
        let begins = Duration::from_nanos(place.saturating_mul(self.step_length));
        let turn = Slot::Later {
            wait: begins.saturating_sub(system::monotonic()),
            step_length: Duration::from_nanos(self.step_length),
            step: place,
        };
        (turn, Lease::default())
    }

    pub(super) fn refuse_for_day(&mut self, rule: &Rule, day: &Day) -> Option<Slot> {
        let today = self.day(day.number());
        let is_over = rule.day_refuses && rule.per_day.is_some_and(|limit| today.count >= limit);
        is_over.then_some(Slot::DayOver { ends: day.ends })
    }

    /// The earliest time from `time` on (nanoseconds; `clock` is now) with space for `count` more, if it is near enough
    /// to be scheduled. `count` never exceeds the whole limit.
    pub(super) fn earliest(&self, rule: &Rule, clock: u64, time: u64, count: u32) -> Option<u64> {
        let step = time / self.step_length;
        let count = count.min(rule.per_window.unwrap_or(u32::MAX));
        let place = if rule.waits { self.place(rule, step, count).0? } else { step };
        let is_near = place < clock / self.step_length + AHEAD;
        is_near.then_some(if place == step { time } else { place * self.step_length })
    }

    /// How far ahead requests are counted.
    pub(super) fn horizon(&self) -> Duration {
        Duration::from_nanos(self.step_length.saturating_mul(AHEAD))
    }

    /// Makes space for counts from `clock` on.
    pub(super) fn advance_to(&mut self, clock: u64) {
        self.advance(clock / self.step_length);
    }

    /// Counts `count` at `time`, and `of_day` of them for `day`.
    pub(super) fn count_at(&mut self, time: u64, count: u32, of_day: u32, day: i32) {
        let step = time / self.step_length;
        self.advance(step);
        let counter = self.counter(step);
        *counter = counter.saturating_add(count);
        let day = self.day(day);
        day.count = day.count.saturating_add(of_day);
    }

    /// Replaces `counted` by `used` at `time`, if that time is still recorded.
    pub(super) fn correct(&mut self, time: u64, counted: u32, used: u32) {
        let step = time / self.step_length;
        if step <= self.newest && step + KEPT as u64 > self.newest {
            let counter = self.counter(step);
            *counter = counter.saturating_sub(counted).saturating_add(used);
        }
    }

    /// Until when a request sent at `time` counts for the same step.
    pub(super) fn step_ends(&self, time: u64) -> u64 {
        (time / self.step_length + 1) * self.step_length
    }

    /// The first step with a request within the window that ends with `step`.
    pub(super) fn first_counted(&self, step: u64) -> Option<u64> {
        (step.saturating_sub(STEPS)..=step).find(|&step| self.count(step) > 0)
    }

    /// The first step with space for `need`, and how much space it has.
    fn place(&self, rule: &Rule, step: u64, need: u32) -> (Option<u64>, u32) {
        let limit = rule.per_window.unwrap_or(u32::MAX);
        let queue_ends = (step..=self.newest).rev().find(|&step| self.count(step) > 0).unwrap_or(step);
        // A whole window of requests may need several steps because of the burst.
        let burst = rule.burst.filter(|&burst| burst < limit).map(|burst| {
            let steps = (u64::from(burst) * STEPS).div_ceil(u64::from(limit)) + 1;
            (steps, burst)
        });
        for place in queue_ends.max(step)..step + AHEAD {
            let room = limit.saturating_sub(self.sum(place, STEPS + 1));
            let bursts = burst.is_some_and(|(steps, burst)| self.sum(place, steps) >= burst);
            if room >= need && !bursts {
                return (Some(place), if burst.is_some() { 1 } else { room });
            }
        }
        (None, 0)
    }

    /// Requests in the `steps` steps up to `last`.
    pub(super) fn sum(&self, last: u64, steps: u64) -> u32 {
        (last.saturating_sub(steps - 1)..=last).fold(0, |sum: u32, step| sum.saturating_add(self.count(step)))
    }

    fn count(&self, step: u64) -> u32 {
        let known = step <= self.newest && step + KEPT as u64 > self.newest;
        if known { self.counters[index(step)] } else { 0 }
    }

    fn counter(&mut self, step: u64) -> &mut u32 {
        let place = index(step);
        self.changed = if self.changed.is_empty() {
            place..place + 1
        } else {
            self.changed.start.min(place)..self.changed.end.max(place + 1)
        };
        &mut self.counters[place]
    }

    /// Makes space for the steps up to `step`.
    pub(super) fn advance(&mut self, step: u64) {
        // Too far ahead: the record is damaged, or was written with another clock.
        if self.newest > step + 2 * AHEAD {
            self.counters.fill(0);
            self.changed = 0..KEPT;
            self.newest = step;
        }
        for passed in (self.newest + 1).max((step + 1).saturating_sub(KEPT as u64))..=step {
            *self.counter(passed) = 0;
        }
        self.newest = self.newest.max(step);
    }

    pub(super) fn give_back(&mut self, step: u64, count: u32, day: i32) {
        if count == 0 || step > self.newest || step + KEPT as u64 <= self.newest {
            return;
        }
        *self.counter(step) = self.counter(step).saturating_sub(count);
        let day = self.day(day);
        day.count = day.count.saturating_sub(count);
    }

    /// The entry of a day; it replaces the oldest one. Four are kept, so that setting the clock wrong and right again
    /// loses none.
    pub(super) fn day(&mut self, number: i32) -> &mut DayState {
        let known = self.days.iter().position(|day| day.number == number);
        let index = known.unwrap_or_else(|| {
            let oldest = (0..self.days.len()).min_by_key(|&index| self.days[index].number).unwrap_or_default();
            self.days[oldest] = DayState { number, ..DayState::default() };
            oldest
        });
        &mut self.days[index]
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

fn revision(head: &[u8]) -> u64 {
    let [low, high] = REVISION_AT.map(|at| u64::from(half(head, at)));
    low | high << 32
}

fn index(step: u64) -> usize {
    usize::try_from(step % KEPT as u64).unwrap_or_default()
}

/// Windows are extended by 2 %, because clocks and networks differ.
pub(super) fn step_length(window: Duration) -> u64 {
    let nanoseconds = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX / 200);
    (nanoseconds / 100 * 102 / STEPS).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::files;

    fn rule(per_window: u32, burst: Option<u32>) -> Rule {
        Rule {
            per_window: Some(per_window),
            burst,
            window: Duration::from_secs(60),
            per_day: None,
            day_refuses: false,
            zone: Zone::parse(None).unwrap(),
            waits: true,
        }
    }

    /// The steps that requests get which come at these steps.
    fn placed(rule: &Rule, arrivals: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut record = WindowRecord::new(0, step_length(rule.window));
        let day = rule.zone.day_of(SystemTime::now());
        arrivals
            .map(|step| match record.take(rule, step, &day, &Lease::default()).0 {
                Slot::Now { step } | Slot::Later { step, .. } => step,
                turn => panic!("{turn:?}"),
            })
            .collect()
    }

    fn most_within(steps: u64, places: &[u64]) -> usize {
        let within = |&from: &u64| places.iter().filter(|&&place| (from..from + steps).contains(&place)).count();
        places.iter().map(within).max().unwrap_or(0)
    }

    #[test]
    fn windows_are_kept_two_percent_longer_than_nominal() {
        for (window, least) in [(1, 1.0199), (60, 61.199), (18_000, 18_359.9)] {
            let kept = Duration::from_nanos(step_length(Duration::from_secs(window)) * STEPS).as_secs_f64();
            assert!(kept > least && kept < least * 1.001, "{kept} s for {window} s");
        }
    }

    #[test]
    fn a_window_is_never_exceeded_and_the_order_is_kept() {
        for seed in 0..20_u64 {
            let mut step = 10_000;
            let arrivals = (0..600).map(|number: u64| {
                step += (number * 7919 + seed * 104_729) % 5 / 3;
                step
            });
            let places = placed(&rule(60, None), arrivals);
            assert!(most_within(STEPS + 1, &places) <= 60);
            assert!(places.is_sorted(), "first come, first served");
        }
    }

    #[test]
    fn thirty_at_once_pass_and_the_last_of_ninety_waits_a_minute() {
        let places = placed(&rule(60, None), std::iter::repeat_n(5_000, 90));
        assert_eq!(places.iter().filter(|&&place| place == 5_000).count(), 60);
        let length = Duration::from_nanos(step_length(Duration::from_secs(60)));
        let earliest = length * u32::try_from(places[89] - 5_000 - 1).unwrap();
        let latest = length * u32::try_from(places[89] - 5_000 + 1).unwrap();
        assert!(earliest >= Duration::from_secs(60) && latest <= Duration::from_secs(63), "{earliest:?} {latest:?}");
    }

    #[test]
    fn the_first_that_waits_goes_in_the_step_after_the_window() {
        assert_eq!(placed(&rule(60, None), std::iter::repeat_n(5_000, 61))[60], 5_000 + STEPS + 1);
        // A sixth of the window, rounded up, and one step.
        assert_eq!(placed(&rule(60, Some(10)), std::iter::repeat_n(5_000, 11))[10], 5_000 + 22 + 1);
    }

    #[test]
    fn leases_double_within_a_step_up_to_a_64th_of_what_is_left() {
        let sizes = |rule: &Rule, steps: &[u64]| -> Vec<u32> {
            let mut record = WindowRecord::new(0, step_length(rule.window));
            let day = rule.zone.day_of(SystemTime::now());
            let mut lease = Lease::default();
            let take = |&step: &u64| {
                let slot;
                (slot, lease) = record.take(rule, step, &day, &lease);
                assert!(slot == Slot::Now { step } && lease.left + 1 == lease.size && lease.step == step);
                lease.size
            };
            steps.iter().map(take).collect()
        };
        let same = [5_000; 9];
        assert_eq!(sizes(&rule(6_400, None), &same), [1, 2, 4, 8, 16, 32, 64, 98, 96]);
        assert_eq!(sizes(&rule(6_400, Some(6_400)), &same), [1, 2, 4, 8, 16, 32, 64, 98, 96]);
        assert_eq!(sizes(&rule(6_400, Some(3_200)), &same), [1; 9]);
        assert_eq!(sizes(&rule(6_400, None), &[5_000, 5_000, 5_000, 5_001, 5_001]), [1, 2, 4, 1, 2]);
        let of_a_day = Rule { per_day: Some(640), day_refuses: true, ..rule(6_400, None) };
        assert_eq!(sizes(&of_a_day, &same), [1, 2, 4, 8, 9, 9, 9, 9, 9]);
    }

    #[test]
    fn a_day_refuses_only_where_the_user_has_limited_it() {
        for (per_day, day_refuses, refused) in [(Some(2), true, true), (Some(2), false, false), (None, true, false)] {
            let rule = Rule { per_day, day_refuses, ..rule(60, None) };
            let mut record = WindowRecord::new(0, step_length(rule.window));
            let day = rule.zone.day_of(SystemTime::now());
            let mut take = || record.take(&rule, 5_000, &day, &Lease::default()).0;
            let now = Slot::Now { step: 5_000 };
            assert_eq!([take(), take()], [now; 2]);
            assert_eq!(take(), if refused { Slot::DayOver { ends: day.ends } } else { now });
        }
    }

    #[test]
    fn times_are_those_of_steps_and_what_is_too_far_ahead_is_not_scheduled() {
        let rule = rule(2, None);
        let length = step_length(rule.window);
        let mut record = WindowRecord::new(0, length);
        let clock = 5_000 * length + 7;
        assert_eq!(record.horizon(), Duration::from_nanos(1_400 * length));
        assert_eq!(record.step_ends(clock), 5_001 * length);
        assert_eq!(record.first_counted(5_000), None);
        assert_eq!(record.earliest(&rule, clock, clock, 2), Some(clock));
        record.count_at(clock, 1, 3, 100);
        assert_eq!((record.sum(5_000, 1), record.day(100).count), (1, 3));
        assert_eq!(record.earliest(&rule, clock, clock, 1), Some(clock));
        // More than the limit is never asked for at once.
        assert_eq!(record.earliest(&rule, clock, clock, 3), Some((5_000 + STEPS + 1) * length));
        for (step, first) in [(4_999, None), (5_000, Some(5_000)), (5_128, Some(5_000)), (5_129, None)] {
            assert_eq!(record.first_counted(step), first, "{step}");
        }
        let unpaced = Rule { waits: false, ..rule };
        let far = clock + 1_399 * length;
        assert_eq!(record.earliest(&unpaced, clock, far, 1), Some(far));
        assert_eq!(record.earliest(&unpaced, clock, far + length, 1), None);
    }

    #[test]
    fn a_queue_without_end_is_refused_with_how_far_it_was_looked_ahead() {
        let rule = rule(1, None);
        let mut record = WindowRecord::new(0, step_length(rule.window));
        let day = rule.zone.day_of(SystemTime::now());
        let mut turn = Slot::Now { step: 0 };
        while !matches!(turn, Slot::TooLong { .. }) {
            turn = record.take(&rule, 5_000, &day, &Lease::default()).0;
        }
        assert_eq!(turn, Slot::TooLong { wait: record.horizon() });
    }

    #[test]
    fn a_step_that_is_no_longer_kept_is_neither_counted_nor_changed() {
        const LENGTH: u64 = 3;
        let kept = KEPT as u64;
        let at = |step: u64| step * LENGTH + 1;
        let mut record = WindowRecord::new(0, LENGTH);
        record.count_at(at(5_000), 4, 4, 100);
        record.advance_to(at(5_000 + kept - 1));
        assert_eq!(record.newest, 5_000 + kept - 1);
        record.correct(at(5_000), 4, 5);
        record.give_back(5_000, 2, 100);
        assert_eq!((record.sum(5_000, 1), record.day(100).count), (3, 2));
        // The same counter.
        record.count_at(at(5_000 + kept), 9, 9, 100);
        record.correct(at(5_000), 4, 5);
        record.give_back(5_000, 2, 100);
        // Nor is one to come.
        record.correct(at(5_001 + kept), 0, 5);
        record.give_back(5_001 + kept, 2, 100);
        assert_eq!((record.sum(5_000, 1), record.sum(5_000 + kept, 1), record.day(100).count), (0, 9, 11));
        record.advance_to(at(5_001 + kept));
        assert_eq!((record.sum(5_001 + kept, 1), record.sum(5_000 + kept, 1)), (0, 9));
    }

    #[test]
    fn steps_without_requests_delay_nobody_and_those_of_another_clock_are_forgotten() {
        let rule = rule(60, None);
        let day = rule.zone.day_of(SystemTime::now());
        let mut record = WindowRecord::new(0, step_length(rule.window));
        record.advance(5_000 + 2 * AHEAD);
        *record.counter(5_000 + 2 * AHEAD) = 60;
        record.advance(5_000);
        assert_eq!(record.newest, 5_000 + 2 * AHEAD);
        record.advance(4_999);
        assert_eq!((record.newest, record.sum(5_000 + 2 * AHEAD, 1)), (4_999, 0));
        record.advance(6_000);
        assert_eq!(record.take(&rule, 5_900, &day, &Lease::default()).0, Slot::Now { step: 5_900 });
        assert_eq!(record.sum(5_900, 1), 1);
    }

    #[test]
    fn a_burst_is_spread_where_the_provider_wants_that() {
        let places = placed(&rule(60, Some(10)), std::iter::repeat_n(5_000, 60));
        assert_eq!(places.iter().filter(|&&place| place == 5_000).count(), 10);
        assert!(most_within(STEPS / 6, &places) <= 10);
    }

    #[test]
    fn a_turn_given_back_is_had_by_the_next() {
        let rule = rule(1, None);
        let mut record = WindowRecord::new(0, step_length(rule.window));
        let day = rule.zone.day_of(SystemTime::now());
        let take = |record: &mut WindowRecord| record.take(&rule, 5_000, &day, &Lease::default()).0;
        assert_eq!(take(&mut record), Slot::Now { step: 5_000 });
        let Slot::Later { step, .. } = take(&mut record) else { panic!("no room") };
        record.give_back(step, 1, day.number());
        assert!(matches!(take(&mut record), Slot::Later { step: again, .. } if again == step));
        assert_eq!(record.day(day.number()).count, 2);
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_anything_else_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rate");
        let file = files::open_private(&path).unwrap();
        let mut record = WindowRecord::new(7, 9);
        record.advance(5_000);
        *record.counter(5_000) = 3;
        *record.day(20_000) = DayState { number: 20_000, count: 4, warned: true };
        disk::write_all_at(&file, &record.to_bytes(), 0).unwrap();
        assert_eq!(WindowRecord::read(&file, 7, 9).to_bytes(), record.to_bytes());
        let mut other_boot = WindowRecord::read(&file, 8, 9);
        assert_eq!((other_boot.sum(5_000, STEPS), other_boot.day(20_000).count), (0, 4));
        disk::write_all_at(&file, b"garbage!", 0).unwrap();
        assert_eq!(WindowRecord::read(&file, 7, 9).day(20_000).count, 0);
    }

    #[test]
    fn each_of_several_processes_knows_what_is_in_the_file_whoever_wrote_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = files::open_private(&directory.path().join("rate")).unwrap();
        let read = || WindowRecord::read(&file, 7, 9).to_bytes();
        let mut processes: [WindowRecord; 3] = std::array::from_fn(|_| WindowRecord::new(7, 9));
        let (mut random, mut time) = (1_u64, 9 * 5_000);
        for _ in 0..3_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let part = |shift: u32, of: u64| (random >> shift) % of;
            let record = &mut processes[usize::try_from(part(8, 3)).unwrap()];
            record.refresh(&file);
            assert_eq!(record.to_bytes(), read(), "what it knows is what is there");
            let count = u32::try_from(part(16, 5)).unwrap();
            match part(24, 8) {
                0 => record.advance_to(time + 9 * part(32, 2 * KEPT as u64)),
                1 => record.give_back(time / 9, count, 3),
                2 => record.correct(time, count, 2),
                3 => time += 9 * part(32, 300),
                4 => record.day(i32::from(part(40, 6) > 2)).warned = true,
                5 => {
                    // It counts alone, and nobody else learns of that.
                    record.count_at(time, 1, 1, 3);
                    record.forget();
                    continue;
                }
                6 => {
                    // An earlier version writes all, and no revision.
                    record.count_at(time, 1, 1, 3);
                    record.forget();
                    disk::write_all_at(&file, &record.to_bytes(), 0).unwrap();
                    continue;
                }
                _ => record.count_at(time, count, count, 3),
            }
            record.write(&file).unwrap();
            assert_eq!(read(), record.to_bytes(), "what is there is what it wrote");
        }
    }

    #[test]
    fn a_revision_is_later_than_the_one_before_although_the_clock_stands() {
        let directory = tempfile::tempdir().unwrap();
        let file = files::open_private(&directory.path().join("rate")).unwrap();
        let mut record = WindowRecord::new(7, 9);
        // The clock does not come to it.
        record.revision = u64::MAX / 2;
        for later in 1..=2 {
            record.write(&file).unwrap();
            assert_eq!(WindowRecord::read(&file, 7, 9).revision, u64::MAX / 2 + later);
        }
    }

    #[test]
    fn a_record_that_could_not_be_written_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rate");
        let file = files::open_private(&path).unwrap();
        let read_only = File::open(&path).unwrap();
        let mut record = WindowRecord::new(7, 9);
        record.count_at(9 * 5_000, 1, 1, 3);
        record.write(&file).unwrap();
        for is_counter in [true, false] {
            record.refresh(&file);
            if is_counter {
                record.count_at(9 * 5_000, 1, 1, 3);
            } else {
                record.day(3).count += 1;
            }
            assert!(record.write(&read_only).is_err());
            record.refresh(&file);
            assert_eq!((record.sum(5_000, 1), record.day(3).count), (1, 1));
        }
    }

    #[test]
    fn a_clock_that_jumps_loses_no_day() {
        let mut record = WindowRecord::new(0, 1);
        for (number, count) in [(100, 5), (101, 7), (99, 1)] {
            record.day(number).count = count;
        }
        assert_eq!((record.day(100).count, record.day(101).count, record.day(99).count), (5, 7, 1));
    }
}
