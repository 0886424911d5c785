//! How many requests went out lately, counted over all processes: who may send now, and who at which time.
//!
//! Time is cut into steps, [`STEPS`] to a window, and each step has a counter. A request goes into the first step, not
//! before the last one that somebody waits for, in which the window that ends there still has room; so a window is never
//! exceeded, a burst up to the limit is not delayed, and those who wait are served in the order they came. Steps are
//! counted by the clock that only runs forward, the same for all processes of a machine: changing the time of day moves
//! nothing but the day.
//!
//! Hazard: a process is killed, or stopped for good, while it holds the lock; the disk is full; the file is damaged.
//! Rule: the whole record is written by one `pwrite` over room taken before; the lock is tried, never waited for; and
//! whoever cannot have the file counts alone.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};
use sha2::{Digest, Sha256};

use super::day::{Day, Zone};
use crate::files;
use crate::lock::Brief;

/// How fine time is cut: a request waits at most 1/128 of a window longer than it must.
const STEPS: u64 = 128;

/// Steps kept: one window behind, and so many ahead that a wait of ten minutes can be given out for a minute's window.
const KEPT: usize = 1536;

/// How far ahead a request may be put.
const AHEAD: u64 = 1400;

/// The file: magic, boot, step length, newest step, four days of 16 bytes, then a counter for each step.
const MAGIC: [u8; 8] = *b"qwarate1";
const DAYS_AT: usize = 32;
const COUNTERS_AT: usize = DAYS_AT + 4 * 16;
const LENGTH: usize = COUNTERS_AT + 4 * KEPT;

/// A day that the server called over is asked again this often: a bought plan or a mistaken reading ends it early.
const PROBE: u32 = 300;

/// What a provider allows, or the user.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) per_window: Option<u32>,
    pub(crate) burst: Option<u32>,
    pub(crate) window: Duration,
    pub(crate) per_day: Option<u32>,
    /// Whether `per_day` is the user's word: only then is it a reason to refuse.
    pub(crate) day_refuses: bool,
    pub(crate) zone: Zone,
    /// Whether anyone waits; without, requests are only counted.
    pub(crate) waits: bool,
}

/// When a request may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Now,
    /// In the step `step`, which begins after `wait` and is `step_length` long.
    Later {
        wait: Duration,
        step_length: Duration,
        step: u64,
    },
    /// The queue is longer than anyone would wait; there is room after `wait`.
    TooLong {
        wait: Duration,
    },
    /// Nothing goes out until this time.
    DayOver {
        ends: SystemTime,
        by_server: bool,
    },
}

/// What became of asking.
pub(crate) enum Take {
    Turn(Turn),
    /// Another process holds the file just now: ask again in a moment.
    Busy,
}

/// What is known of a day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DayState {
    number: i32,
    pub(crate) count: u32,
    /// The user was told that the day's limit is near.
    warned: bool,
    /// The server said that the day is over.
    pub(crate) over: bool,
    /// Seconds since 1970, after which one request may try all the same.
    probe_at: u32,
}

/// The state of one account.
struct Record {
    boot: u64,
    /// Nanoseconds.
    step_length: u64,
    newest: u64,
    days: [DayState; 4],
    counters: Vec<u32>,
}

/// Turns taken from the file in advance, good within their step, so that thousands of requests a second do not each
/// open the file. Only a small part of what is left is ever taken.
#[derive(Default)]
struct Lease {
    step: u64,
    left: u32,
    size: u32,
}

/// The counters of one account, as this process sees them.
pub(crate) struct Rate {
    rule: Rule,
    path: PathBuf,
    file: Option<File>,
    /// Counts alone where the file cannot be had.
    own: Record,
    lease: Lease,
    today: Day,
    boot: u64,
}

impl Rate {
    /// `account`: what tells accounts apart, such as a key; only its hash is written.
    pub(crate) fn open(state: &Path, provider: &str, account: &str, rule: Rule) -> Self {
        let path = state.join("rate").join(name_of(provider, account));
        let file = match open(state, &path) {
            Ok(file) => Some(file),
            Err(error) => {
                log::warn!("requests are counted by this process alone: {error:#}");
                None
            }
        };
        let boot = boot();
        let own = Record::new(boot, step_length(rule.window));
        let today = rule.zone.day_of(SystemTime::now());
        Self { rule, path, file, own, lease: Lease::default(), today, boot }
    }

    pub(crate) fn rule(&self) -> &Rule {
        &self.rule
    }

    /// The provider's day of `now`.
    pub(crate) fn day(&mut self, now: SystemTime) -> Day {
        if !self.today.contains(now) {
            self.today = self.rule.zone.day_of(now);
        }
        self.today
    }

    /// Asks for a turn. `alone`: without the file, because it was busy for too long.
    pub(crate) fn take(&mut self, now: SystemTime, alone: bool) -> Take {
        let day = self.day(now);
        let step = self.step();
        if self.lease.left > 0 && self.lease.step == step {
            self.lease.left -= 1;
            return Take::Turn(Turn::Now);
        }
        let lease = std::mem::take(&mut self.lease);
        let rule = self.rule.clone();
        let taken = self.change(alone, |record| {
            record.give_back(lease.step, lease.left, day.number());
            record.take(&rule, step, &day, now, &lease)
        });
        let Some((turn, next)) = taken else {
            // What is left of it is given back by the next who gets through.
            self.lease = lease;
            return Take::Busy;
        };
        self.lease = next;
        Take::Turn(turn)
    }

    /// Gives back a turn that came to nothing, because the client left while it waited.
    pub(crate) fn give_back(&mut self, step: u64) {
        let day = self.today.number();
        self.change_soon(|record| record.give_back(step, 1, day));
    }

    /// The server said that the day is over (`true`), or served a request (`false`).
    pub(crate) fn set_day_over(&mut self, over: bool, now: SystemTime) {
        let number = self.day(now).number();
        self.change_soon(|record| {
            let day = record.day(number);
            day.over = over;
            day.probe_at = seconds(now).saturating_add(PROBE);
        });
    }

    /// Whether the user is to be told that the day's limit is near: once a day, whoever asks.
    pub(crate) fn is_first_warning(&mut self, now: SystemTime) -> bool {
        let number = self.day(now).number();
        self.change(false, |record| !std::mem::replace(&mut record.day(number).warned, true)).unwrap_or(false)
    }

    /// Requests of this day, by all processes.
    pub(crate) fn count_of_day(&mut self, now: SystemTime) -> u32 {
        let number = self.day(now).number();
        let unused = self.lease.left;
        self.change(false, |record| record.day(number).count).unwrap_or_default().saturating_sub(unused)
    }

    /// For what must not be asked again later: tries for some milliseconds.
    fn change_soon(&mut self, change: impl Fn(&mut Record)) {
        for _ in 0..50 {
            if self.change(false, &change).is_some() {
                return;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        log::warn!("`{}` is held by another process", self.path.display());
    }

    fn step(&self) -> u64 {
        u64::try_from(monotonic().as_nanos()).unwrap_or_default() / self.own.step_length
    }

    /// Applies `change` to the record under the lock. `None`: it is held by another process just now.
    fn change<T>(&mut self, alone: bool, change: impl FnOnce(&mut Record) -> T) -> Option<T> {
        let Some(file) = self.file.as_ref().filter(|_| !alone) else { return Some(change(&mut self.own)) };
        let lock = match Brief::take(file) {
            Ok(lock) => lock?,
            Err(error) => {
                log::warn!("cannot lock `{}`: {error}", self.path.display());
                return Some(change(&mut self.own));
            }
        };
        let mut record = Record::read(file, self.boot, self.own.step_length);
        let outcome = change(&mut record);
        let written = file.write_all_at(&record.to_bytes(), 0);
        drop(lock);
        if let Err(error) = written {
            log::warn!("cannot write `{}`: {error}", self.path.display());
        }
        Some(outcome)
    }
}

/// What `usage` shows of an account: requests within the window that ends now, and the day. Changes nothing.
pub(crate) fn standing(state: &Path, provider: &str, account: &str, rule: &Rule, now: SystemTime) -> (u32, DayState) {
    let path = state.join("rate").join(name_of(provider, account));
    let length = step_length(rule.window);
    // Opened only where there is something to read.
    let Some(file) = path.exists().then(|| files::open_kept(&path).ok()).flatten() else { return Default::default() };
    let mut record = Record::read(&file, boot(), length);
    let step = u64::try_from(monotonic().as_nanos()).unwrap_or_default() / length;
    let day = *record.day(rule.zone.day_of(now).number());
    (record.sum(step, STEPS + 1), day)
}

impl Record {
    fn new(boot: u64, step_length: u64) -> Self {
        Self { boot, step_length, newest: 0, days: Default::default(), counters: vec![0; KEPT] }
    }

    /// A record that is not one, of another boot or of another window begins anew; its days are kept.
    fn read(file: &File, boot: u64, step_length: u64) -> Self {
        let mut record = Self::new(boot, step_length);
        let mut bytes = [0; LENGTH];
        if file.read_exact_at(&mut bytes, 0).is_err() || bytes[..8] != MAGIC {
            return record;
        }
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let half = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        for (index, day) in record.days.iter_mut().enumerate() {
            let at = DAYS_AT + 16 * index;
            let flags = half(at + 8);
            *day = DayState {
                number: half(at).cast_signed(),
                count: half(at + 4),
                warned: flags & 1 != 0,
                over: flags & 2 != 0,
                probe_at: half(at + 12),
            };
        }
        if word(8) != boot || word(16) != step_length {
            return record;
        }
        record.newest = word(24);
        for (index, counter) in record.counters.iter_mut().enumerate() {
            *counter = half(COUNTERS_AT + 4 * index);
        }
        record
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.extend(MAGIC);
        for word in [self.boot, self.step_length, self.newest] {
            bytes.extend(word.to_le_bytes());
        }
        for day in &self.days {
            let flags = u32::from(day.warned) | u32::from(day.over) << 1;
            for half in [day.number.cast_unsigned(), day.count, flags, day.probe_at] {
                bytes.extend(half.to_le_bytes());
            }
        }
        for counter in &self.counters {
            bytes.extend(counter.to_le_bytes());
        }
        bytes
    }

    fn take(&mut self, rule: &Rule, step: u64, day: &Day, now: SystemTime, last: &Lease) -> (Turn, Lease) {
        if let Some(refused) = self.refuse_for_day(rule, day, now) {
            return (refused, Lease::default());
        }
        self.advance(step);
        let (place, room) = if rule.waits { self.place(rule, step) } else { (Some(step), 0) };
        let Some(place) = place else {
            let length = Duration::from_nanos(self.step_length);
            return (Turn::TooLong { wait: length * u32::try_from(AHEAD).unwrap_or(u32::MAX) }, Lease::default());
        };
        self.advance(place);
        let left_of_day = rule.per_day.filter(|_| rule.day_refuses).map_or(u32::MAX, |limit| {
            let count = self.day(day.number()).count;
            limit.saturating_sub(count)
        });
        // The first of a step takes one; whoever comes back for more takes twice as many, up to a 64th of what is left.
        let most = (room / 64).min(left_of_day / 64).max(1);
        let size = if place == step && last.step == step { last.size.saturating_mul(2).clamp(1, most) } else { 1 };
        *self.counter(place) = self.counter(place).saturating_add(size);
        let today = self.day(day.number());
        today.count = today.count.saturating_add(size);
        if place == step {
            return (Turn::Now, Lease { step, left: size - 1, size });
        }
        let begins = Duration::from_nanos(place.saturating_mul(self.step_length));
        let turn = Turn::Later {
            wait: begins.saturating_sub(monotonic()),
            step_length: Duration::from_nanos(self.step_length),
            step: place,
        };
        (turn, Lease::default())
    }

    fn refuse_for_day(&mut self, rule: &Rule, day: &Day, now: SystemTime) -> Option<Turn> {
        let today = self.day(day.number());
        if rule.day_refuses && rule.per_day.is_some_and(|limit| today.count >= limit) {
            return Some(Turn::DayOver { ends: day.ends, by_server: false });
        }
        if today.over && rule.waits {
            // A clock that was set back must not put the next try off for hours.
            let now = seconds(now);
            if now < today.probe_at && today.probe_at - now <= PROBE {
                return Some(Turn::DayOver { ends: day.ends, by_server: true });
            }
            today.probe_at = now.saturating_add(PROBE);
        }
        None
    }

    /// The first step with room, and how much room that is.
    fn place(&self, rule: &Rule, step: u64) -> (Option<u64>, u32) {
        let limit = rule.per_window.unwrap_or(u32::MAX);
        let queue_ends = (step..=self.newest).rev().find(|&step| self.count(step) > 0).unwrap_or(step);
        // A window of requests at once may spread over as many steps as it needs for the burst.
        let burst = rule.burst.filter(|&burst| burst < limit).map(|burst| {
            let steps = (u64::from(burst) * STEPS).div_ceil(u64::from(limit)) + 1;
            (steps, burst)
        });
        for place in queue_ends.max(step)..step + AHEAD {
            let room = limit.saturating_sub(self.sum(place, STEPS + 1));
            let bursts = burst.is_some_and(|(steps, burst)| self.sum(place, steps) >= burst);
            if room > 0 && !bursts {
                return (Some(place), if burst.is_some() { 1 } else { room });
            }
        }
        (None, 0)
    }

    /// Requests in the `steps` steps up to `last`.
    fn sum(&self, last: u64, steps: u64) -> u32 {
        (last.saturating_sub(steps - 1)..=last).fold(0, |sum: u32, step| sum.saturating_add(self.count(step)))
    }

    fn count(&self, step: u64) -> u32 {
        let known = step <= self.newest && step + KEPT as u64 > self.newest;
        if known { self.counters[index(step)] } else { 0 }
    }

    fn counter(&mut self, step: u64) -> &mut u32 {
        &mut self.counters[index(step)]
    }

    /// Makes room for the steps up to `step`.
    fn advance(&mut self, step: u64) {
        // Further ahead than anyone can be put: damage, or another idea of the time.
        if self.newest > step + 2 * AHEAD {
            self.counters.fill(0);
            self.newest = step;
        }
        for passed in (self.newest + 1).max((step + 1).saturating_sub(KEPT as u64))..=step {
            *self.counter(passed) = 0;
        }
        self.newest = self.newest.max(step);
    }

    fn give_back(&mut self, step: u64, count: u32, day: i32) {
        if count == 0 || step > self.newest || step + KEPT as u64 <= self.newest {
            return;
        }
        *self.counter(step) = self.counter(step).saturating_sub(count);
        let day = self.day(day);
        day.count = day.count.saturating_sub(count);
    }

    /// The entry of a day; the oldest one gives way. Four are kept, so that a clock set wrong and right loses none.
    fn day(&mut self, number: i32) -> &mut DayState {
        let known = self.days.iter().position(|day| day.number == number);
        let index = known.unwrap_or_else(|| {
            let oldest = (0..self.days.len()).min_by_key(|&index| self.days[index].number).unwrap_or_default();
            self.days[oldest] = DayState { number, ..DayState::default() };
            oldest
        });
        &mut self.days[index]
    }
}

fn index(step: u64) -> usize {
    usize::try_from(step % KEPT as u64).unwrap_or_default()
}

/// Windows are kept 2 % longer than nominal: clocks and networks differ.
fn step_length(window: Duration) -> u64 {
    let nanoseconds = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX / 200);
    (nanoseconds / 100 * 102 / STEPS).max(1)
}

fn name_of(provider: &str, account: &str) -> String {
    let digest = Sha256::digest(account);
    let hash = u64::from_be_bytes(std::array::from_fn(|index| digest[index]));
    let provider: String = provider.chars().filter(|letter| letter.is_ascii_alphanumeric() || *letter == '-').collect();
    format!("{provider}-{hash:016x}")
}

/// The file at its full length, so that a full disk is met now or never.
fn open(state: &Path, path: &Path) -> Result<File> {
    files::make_directory(&state.join("rate"))?;
    let file = files::open_kept(path)?;
    if file.metadata()?.len() < LENGTH as u64 {
        file.write_all_at(&vec![0; LENGTH], 0)?;
    }
    Ok(file)
}

/// Since the machine started, for all processes alike.
fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}

/// Tells one boot of the machine from another, after which [`monotonic`] begins anew.
fn boot() -> u64 {
    let id: io::Result<Vec<u8>> = std::fs::read("/proc/sys/kernel/random/boot_id");
    let digest = Sha256::digest(id.unwrap_or_default());
    u64::from_le_bytes(std::array::from_fn(|index| digest[index]))
}

fn seconds(time: SystemTime) -> u32 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u32::try_from(since.as_secs()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut record = Record::new(0, step_length(rule.window));
        let day = rule.zone.day_of(SystemTime::now());
        arrivals
            .map(|step| match record.take(rule, step, &day, SystemTime::now(), &Lease::default()).0 {
                Turn::Now => step,
                Turn::Later { step, .. } => step,
                turn => panic!("{turn:?}"),
            })
            .collect()
    }

    fn most_within(steps: u64, places: &[u64]) -> usize {
        let within = |&from: &u64| places.iter().filter(|&&place| (from..from + steps).contains(&place)).count();
        places.iter().map(within).max().unwrap_or(0)
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
    fn a_burst_is_spread_where_the_provider_wants_that() {
        let places = placed(&rule(60, Some(10)), std::iter::repeat_n(5_000, 60));
        assert_eq!(places.iter().filter(|&&place| place == 5_000).count(), 10);
        assert!(most_within(STEPS / 6, &places) <= 10);
    }

    #[test]
    fn a_queue_without_end_is_refused() {
        let rule = rule(1, None);
        let mut record = Record::new(0, step_length(rule.window));
        let day = rule.zone.day_of(SystemTime::now());
        let mut take = || record.take(&rule, 5_000, &day, SystemTime::now(), &Lease::default()).0;
        let turns: Vec<Turn> = (0..20).map(|_| take()).collect();
        assert!(turns.iter().any(|turn| matches!(turn, Turn::TooLong { .. })), "{turns:?}");
    }

    #[test]
    fn a_turn_given_back_is_had_by_the_next() {
        let rule = rule(1, None);
        let mut record = Record::new(0, step_length(rule.window));
        let day = rule.zone.day_of(SystemTime::now());
        let take = |record: &mut Record| record.take(&rule, 5_000, &day, SystemTime::now(), &Lease::default()).0;
        assert_eq!(take(&mut record), Turn::Now);
        let Turn::Later { step, .. } = take(&mut record) else { panic!("no room") };
        record.give_back(step, 1, day.number());
        assert!(matches!(take(&mut record), Turn::Later { step: again, .. } if again == step));
        assert_eq!(record.day(day.number()).count, 2);
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_anything_else_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rate");
        let file = files::open_kept(&path).unwrap();
        let mut record = Record::new(7, 9);
        record.advance(5_000);
        *record.counter(5_000) = 3;
        *record.day(20_000) = DayState { number: 20_000, count: 4, warned: true, over: true, probe_at: 5 };
        file.write_all_at(&record.to_bytes(), 0).unwrap();
        assert_eq!(Record::read(&file, 7, 9).to_bytes(), record.to_bytes());
        let mut other_boot = Record::read(&file, 8, 9);
        assert_eq!((other_boot.sum(5_000, STEPS), other_boot.day(20_000).count), (0, 4));
        file.write_all_at(b"garbage!", 0).unwrap();
        assert_eq!(Record::read(&file, 7, 9).day(20_000).count, 0);
    }

    #[test]
    fn a_clock_that_jumps_loses_no_day() {
        let mut record = Record::new(0, 1);
        for (number, count) in [(100, 5), (101, 7), (99, 1)] {
            record.day(number).count = count;
        }
        assert_eq!((record.day(100).count, record.day(101).count, record.day(99).count), (5, 7, 1));
    }
}
