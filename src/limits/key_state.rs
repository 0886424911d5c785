//! The counters of one key, in one small file that all processes of this machine share.
//!
//! Two records as accounts have them (requests, and tokens), then twice the sums: money, tokens of the day, and what is
//! reserved for requests in flight.
//!
//! Hazard: a process is killed in the middle of a write. Rule: counters are overwritten in place, where any mixture of old
//! and new is off by a request; the sums are written to the older of two slots, and the newer one that is whole counts.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::day::{Day, Zone};
use super::engine::{Left, RESERVED_FOR};
use super::local::boot;
use super::window::{LENGTH, Rule, STEPS, WindowRecord, step_length};
use crate::keys::{KeyRecord, Money};
use crate::paths::StateDirectory;
use crate::platform::lock::TryLock;
use crate::platform::{disk, files, system};

const MINUTE: Duration = Duration::from_secs(60);

const TOKENS_AT: u64 = LENGTH as u64;
const SLOTS_AT: u64 = 2 * LENGTH as u64;

/// Room of one slot: more requests in flight than a gateway has connections.
const SLOT: u32 = 256 * 1024;

/// Sequence, length and checksum before the text of a slot.
const HEAD: usize = 16;

/// How many former periods and days are kept.
const FORMER: usize = 4;

/// A request in flight.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Reserved {
    id: String,
    /// When it expires unless it is extended, in seconds of the monotonic clock.
    until: u64,
    #[serde(default)]
    tokens: u64,
    #[serde(default)]
    cost: Money,
}

/// What is summed up.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Sums {
    boot: u64,
    /// The period that `spent` is for.
    period: String,
    pub(super) spent: Money,
    /// The day that `tokens_of_day` is for.
    day: i32,
    pub(super) tokens_of_day: u64,
    /// The last ones before, and what was spent in them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    former_periods: Vec<(String, Money)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    former_days: Vec<(i32, u64)>,
    reserved: Vec<Reserved>,
    /// Seconds since 1970.
    pub(super) used_at: u64,
}

/// The state of one key under its lock.
pub(super) struct KeyState {
    pub(super) requests: WindowRecord,
    pub(super) tokens: WindowRecord,
    pub(super) sums: Sums,
    sequence: u64,
}

/// The file of one key.
pub(super) struct KeyFile {
    file: File,
    path: PathBuf,
    boot: u64,
}

impl KeyFile {
    pub(super) fn open(state: &Path, id: &str) -> Result<Self> {
        let directory = StateDirectory::Keys.below(state);
        files::make_directory(&directory)?;
        let path = directory.join(id);
        Ok(Self { file: files::open_private(&path)?, path, boot: boot() })
    }

    /// The lock of the file; `None`: another process has it just now.
    pub(super) fn lock(&self) -> Result<Option<TryLock<'_>>> {
        TryLock::take(&self.file).with_context(|| format!("cannot lock `{}`", self.path.display()))
    }

    /// The caller holds the lock.
    ///
    /// Errors: the file is damaged, and what was spent is unknown.
    pub(super) fn read(&self, key: &KeyRecord, now: SystemTime) -> Result<KeyState> {
        let length = step_length(minute(key));
        let requests = WindowRecord::read_at(&self.file, 0, self.boot, length);
        let tokens = WindowRecord::read_at(&self.file, TOKENS_AT, self.boot, length);
        let (sequence, mut sums) = self.newest_slot()?;
        let clock = system::monotonic().as_secs();
        if sums.boot != self.boot {
            // Whoever had requests in flight is gone.
            sums.reserved.clear();
            sums.boot = self.boot;
        }
        sums.reserved.retain(|reserved| reserved.until > clock);
        let period = key.spending_period(now).unwrap_or_default();
        turn(&mut sums.period, &mut sums.spent, &mut sums.former_periods, period);
        turn(&mut sums.day, &mut sums.tokens_of_day, &mut sums.former_days, day_of(now).number());
        Ok(KeyState { requests, tokens, sums, sequence })
    }

    /// The caller holds the lock, and `standing` was read under it.
    pub(super) fn write(&self, standing: &KeyState) -> Result<()> {
        let failed = || format!("cannot write `{}`", self.path.display());
        let text = serde_json::to_vec(&standing.sums)?;
        anyhow::ensure!(
            u32::try_from(text.len() + HEAD).is_ok_and(|length| length <= SLOT),
            "the key has too many requests in flight"
        );
        let sequence = standing.sequence + 1;
        let mut slot = Vec::with_capacity(HEAD + text.len());
        slot.extend(sequence.to_le_bytes());
        slot.extend(u32::try_from(text.len())?.to_le_bytes());
        slot.extend(checksum(sequence, &text).to_le_bytes());
        slot.extend(text);
        // The sums first: what they hold is money.
        disk::write_all_at(&self.file, &slot, SLOTS_AT + sequence % 2 * u64::from(SLOT)).with_context(failed)?;
        disk::write_all_at(&self.file, &standing.requests.to_bytes(), 0).with_context(failed)?;
        disk::write_all_at(&self.file, &standing.tokens.to_bytes(), TOKENS_AT).with_context(failed)
    }

    /// Empty if there is none: nothing was ever written, or a power failure tore the first write.
    fn newest_slot(&self) -> Result<(u64, Sums)> {
        let mut slots: Vec<(u64, u64)> = (0..2)
            .filter_map(|slot| {
                let at = SLOTS_AT + slot * u64::from(SLOT);
                let mut head = [0; 8];
                disk::read_exact_at(&self.file, &mut head, at).ok()?;
                Some((u64::from_le_bytes(head), at))
            })
            .collect();
        slots.sort_unstable_by_key(|(sequence, _)| std::cmp::Reverse(*sequence));
        let are_both_used = slots.len() == 2 && slots.iter().all(|(sequence, _)| *sequence > 0);
        match slots.into_iter().find_map(|(_, at)| self.slot(at)) {
            Some(newest) => Ok(newest),
            None if are_both_used => {
                anyhow::bail!("`{}` is damaged; remove it to count the key from zero", self.path.display())
            }
            None => Ok(Default::default()),
        }
    }

    fn slot(&self, at: u64) -> Option<(u64, Sums)> {
        let mut head = [0; HEAD];
        disk::read_exact_at(&self.file, &mut head, at).ok()?;
        let sequence = u64::from_le_bytes(head[..8].try_into().ok()?);
        let length = u32::from_le_bytes(head[8..12].try_into().ok()?);
        let sum = u32::from_le_bytes(head[12..].try_into().ok()?);
        if sequence == 0 || length > SLOT {
            return None;
        }
        let mut text = vec![0; length as usize];
        disk::read_exact_at(&self.file, &mut text, at + HEAD as u64).ok()?;
        (checksum(sequence, &text) == sum).then_some(())?;
        Some((sequence, serde_json::from_slice(&text).ok()?))
    }
}

/// Makes `now` the current period, and `sum` its sum. Those before are kept for a while: a clock that is wrong for one request, or a
/// budget that is changed and changed back, must not begin at zero what was spent.
fn turn<P: PartialEq, S: Default>(current: &mut P, sum: &mut S, former: &mut Vec<(P, S)>, now: P) {
    if *current == now {
        return;
    }
    let known = former.iter().position(|(period, _)| *period == now).map(|at| former.remove(at).1);
    former.push((std::mem::replace(current, now), std::mem::replace(sum, known.unwrap_or_default())));
    if former.len() > FORMER {
        former.remove(0);
    }
}

fn checksum(sequence: u64, text: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&sequence.to_le_bytes());
    sum.update(text);
    sum.finalize()
}

/// Days of keys are those of UTC, on every machine.
pub(super) fn day_of(now: SystemTime) -> Day {
    Zone::utc().day_of(now)
}

/// How long the minute of this key is.
fn minute(key: &KeyRecord) -> Duration {
    key.limits.window.map_or(MINUTE, |seconds| Duration::from_secs(seconds.into()))
}

impl KeyState {
    /// The rules of the key's windows: requests, and tokens.
    pub(super) fn rules(key: &KeyRecord) -> (Rule, Rule) {
        let rule = |per_window, per_day| Rule {
            per_window,
            burst: None,
            window: minute(key),
            per_day,
            day_refuses: true,
            zone: Zone::utc(),
            waits: true,
        };
        let limits = &key.limits;
        (rule(limits.requests_per_minute, limits.requests_per_day), rule(limits.tokens_per_minute, None))
    }

    pub(super) fn requests_of_day(&mut self) -> u64 {
        let day = self.sums.day;
        self.requests.day(day).count.into()
    }

    /// Counted, and reserved on top of it.
    pub(super) fn tokens_of_day(&self) -> u64 {
        let reserved = self.sums.reserved.iter().map(|reserved| reserved.tokens);
        reserved.fold(self.sums.tokens_of_day, u64::saturating_add)
    }

    pub(super) fn reserved_money(&self) -> Money {
        self.sums.reserved.iter().fold(Money::default(), |sum, reserved| sum.plus(reserved.cost))
    }

    pub(super) fn in_flight(&self) -> u32 {
        u32::try_from(self.sums.reserved.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn reserve(&mut self, id: &str, tokens: u64, cost: Money) {
        let until = reserved_until();
        self.sums.reserved.push(Reserved { id: id.to_owned(), until, tokens, cost });
    }

    pub(super) fn extend(&mut self, ids: &[String]) {
        let until = reserved_until();
        let own = self.sums.reserved.iter_mut().filter(|reserved| ids.contains(&reserved.id));
        own.for_each(|reserved| reserved.until = until);
    }

    pub(super) fn release(&mut self, id: &str) {
        self.sums.reserved.retain(|reserved| reserved.id != id);
    }

    /// Adds what was used, to the period and the day it was admitted in, if they are not over.
    pub(super) fn charge(&mut self, tokens: u64, cost: Money, period: Option<&str>, day: i32) {
        if period.is_some_and(|period| period == self.sums.period) {
            self.sums.spent = self.sums.spent.plus(cost);
        }
        if day == self.sums.day {
            self.sums.tokens_of_day = self.sums.tokens_of_day.saturating_add(tokens);
        }
    }

    pub(super) fn left(&mut self) -> Left {
        let now = system::monotonic();
        let length = self.requests.step_length;
        let step = u64::try_from(now.as_nanos()).unwrap_or_default() / length;
        let first = self.requests.first_counted(step);
        let resets_at = first.map(|first| Duration::from_nanos((first + STEPS + 1).saturating_mul(length)));
        Left {
            requests_of_minute: self.requests.sum(step, STEPS + 1).into(),
            tokens_of_minute: self.tokens.sum(step, STEPS + 1).into(),
            minute_resets_in: resets_at.unwrap_or(now).saturating_sub(now),
            requests_of_day: self.requests_of_day(),
            tokens_of_day: self.tokens_of_day(),
            parallel: self.in_flight(),
            spent: self.sums.spent,
            reserved: self.reserved_money(),
            is_spending_unknown: false,
        }
    }
}

fn reserved_until() -> u64 {
    (system::monotonic() + RESERVED_FOR).as_secs()
}

/// What `keys list` shows of a key: what it used, and when it was used last (seconds since 1970; 0: never).
pub(crate) fn key_standing(state: &Path, key: &KeyRecord, now: SystemTime) -> (Left, u64) {
    let path = StateDirectory::Keys.below(state).join(&key.id);
    if !path.exists() {
        return (Left::default(), 0);
    }
    let Ok(file) = KeyFile::open(state, &key.id) else { return (Left::default(), 0) };
    // Without the lock if it is not available: a figure that is off by one request does no harm.
    let _lock = file.lock();
    match file.read(key, now) {
        Ok(mut standing) => (standing.left(), standing.sums.used_at),
        Err(_) => (Left { is_spending_unknown: true, ..Left::default() }, 0),
    }
}

#[cfg(test)]
impl KeyFile {
    /// One that cannot be written.
    pub(super) fn open_to_read(state: &Path, id: &str) -> Result<Self> {
        let path = StateDirectory::Keys.below(state).join(id);
        Ok(Self { file: disk::open_to_read(&path)?, path, boot: boot() })
    }
}

/// Waits if the day is about to end: a test would find what it has counted gone.
#[cfg(test)]
pub(super) fn stay_in_the_day() {
    let now = SystemTime::now();
    let left = day_of(now).ends.duration_since(now).unwrap();
    if left < Duration::from_secs(30) {
        std::thread::sleep(left);
    }
}

#[cfg(test)]
impl KeyState {
    /// The requests in flight, and when the reservation of each ends.
    pub(super) fn reserved_until(&mut self) -> impl Iterator<Item = (&str, &mut u64)> {
        self.sums.reserved.iter_mut().map(|reserved| (reserved.id.as_str(), &mut reserved.until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::TeamSecret;

    fn key() -> KeyRecord {
        stay_in_the_day();
        let (mut key, _) = KeyRecord::create("ann", &TeamSecret::new(), SystemTime::now());
        key.limits.budget = "1 USD/month".parse().ok();
        key
    }

    fn changed(file: &KeyFile, key: &KeyRecord, change: impl FnOnce(&mut KeyState)) {
        let mut standing = file.read(key, SystemTime::now()).unwrap();
        change(&mut standing);
        file.write(&standing).unwrap();
    }

    #[test]
    fn a_torn_write_leaves_the_sums_before_it() {
        let (directory, key) = (tempfile::tempdir().unwrap(), key());
        let file = KeyFile::open(directory.path(), &key.id).unwrap();
        for spent in 1..=3 {
            changed(&file, &key, |standing| standing.sums.spent = Money(spent));
        }
        assert_eq!(file.read(&key, SystemTime::now()).unwrap().sums.spent, Money(3));
        // The third is in the second slot; half of the fourth goes to the first.
        disk::write_all_at(&file.file, &4_u64.to_le_bytes(), SLOTS_AT).unwrap();
        assert_eq!(file.read(&key, SystemTime::now()).unwrap().sums.spent, Money(3));
        changed(&file, &key, |standing| standing.sums.spent = Money(4));
        assert_eq!(file.read(&key, SystemTime::now()).unwrap().sums.spent, Money(4));
    }

    #[test]
    fn where_both_slots_are_damaged_nobody_knows_what_was_spent() {
        let (directory, key) = (tempfile::tempdir().unwrap(), key());
        let file = KeyFile::open(directory.path(), &key.id).unwrap();
        let damage = |slot: u64| disk::write_all_at(&file.file, b"?", SLOTS_AT + slot * u64::from(SLOT) + 20).unwrap();
        changed(&file, &key, |standing| standing.sums.spent = Money(1));
        damage(1);
        assert_eq!(file.read(&key, SystemTime::now()).unwrap().sums.spent, Money(0), "the first write was torn");
        for spent in 2..=3 {
            changed(&file, &key, |standing| standing.sums.spent = Money(spent));
        }
        damage(0);
        damage(1);
        let error = file.read(&key, SystemTime::now()).err().unwrap().to_string();
        assert!(error.ends_with(" is damaged; remove it to count the key from zero"), "{error}");
        assert!(key_standing(directory.path(), &key, SystemTime::now()).0.is_spending_unknown);
    }

    #[test]
    fn a_reservation_that_nobody_extends_ends() {
        let (directory, key) = (tempfile::tempdir().unwrap(), key());
        let file = KeyFile::open(directory.path(), &key.id).unwrap();
        changed(&file, &key, |standing| {
            standing.reserve("dead", 7, Money(1));
            standing.reserve("alive", 9, Money(2));
            standing.sums.reserved[0].until = system::monotonic().as_secs();
        });
        let mut standing = file.read(&key, SystemTime::now()).unwrap();
        assert_eq!((standing.in_flight(), standing.reserved_money(), standing.left().tokens_of_day), (1, Money(2), 9));
        // Processes that had requests in flight before the reboot are gone.
        changed(&file, &key, |standing| standing.sums.boot += 1);
        assert_eq!(file.read(&key, SystemTime::now()).unwrap().in_flight(), 0);
    }

    #[test]
    fn what_is_left_is_told_of_the_whole_window_and_when_its_first_request_leaves_it() {
        let (directory, key) = (tempfile::tempdir().unwrap(), key());
        let file = KeyFile::open(directory.path(), &key.id).unwrap();
        let mut standing = file.read(&key, SystemTime::now()).unwrap();
        let (length, day) = (standing.requests.step_length, standing.sums.day);
        let clock = || u64::try_from(system::monotonic().as_nanos()).unwrap();
        assert!(standing.left().minute_resets_in.is_zero());
        // Not at the end of a step.
        let (before, first) = loop {
            let before = clock();
            if before % length < length / 2 {
                break (before, before / length - STEPS);
            }
        };
        standing.requests.count_at(first * length, 2, 3, day);
        standing.tokens.count_at(first * length, 30, 0, day);
        let left = standing.left();
        assert_eq!((left.requests_of_minute, left.tokens_of_minute, left.requests_of_day), (2, 30, 3));
        let ends = (first + STEPS + 1) * length;
        let resets_in = u64::try_from(left.minute_resets_in.as_nanos()).unwrap();
        assert!((ends - clock()..=ends - before).contains(&resets_in), "{resets_in} ns");
    }

    #[test]
    fn a_use_is_charged_to_the_period_and_day_it_began_in_and_a_reservation_is_its_own() {
        let (directory, key) = (tempfile::tempdir().unwrap(), key());
        let file = KeyFile::open(directory.path(), &key.id).unwrap();
        let mut standing = file.read(&key, SystemTime::now()).unwrap();
        let (period, day) = (standing.sums.period.clone(), standing.sums.day);
        standing.charge(5, Money(7), Some(&period), day);
        standing.charge(50, Money(70), None, day - 1);
        standing.charge(500, Money(700), Some("another"), day + 1);
        assert_eq!((standing.tokens_of_day(), standing.sums.spent), (5, Money(7)));
        for id in ["one", "two"] {
            standing.reserve(id, 9, Money(1));
        }
        let now = system::monotonic().as_secs();
        standing.sums.reserved.iter_mut().for_each(|reserved| reserved.until = now);
        standing.extend(&["one".to_owned()]);
        let until: Vec<bool> = standing.sums.reserved.iter().map(|reserved| reserved.until > now).collect();
        assert_eq!(until, [true, false]);
        standing.release("one");
        assert_eq!((standing.in_flight(), standing.sums.reserved[0].id.as_str()), (1, "two"));
    }

    #[test]
    fn another_period_begins_at_zero() {
        let (directory, mut key) = (tempfile::tempdir().unwrap(), key());
        let file = KeyFile::open(directory.path(), &key.id).unwrap();
        changed(&file, &key, |standing| (standing.sums.spent, standing.sums.tokens_of_day) = (Money(5), 7));
        let month = Duration::from_secs(32 * 86400);
        let mut ahead = file.read(&key, SystemTime::now() + month).unwrap();
        assert_eq!(ahead.sums.spent, Money(0));
        // The clock was wrong.
        (ahead.sums.spent, ahead.sums.tokens_of_day) = (Money(1), 10);
        file.write(&ahead).unwrap();
        let spent = |after| {
            let sums = file.read(&key, SystemTime::now() + after).unwrap().sums;
            (sums.spent, sums.tokens_of_day)
        };
        assert_eq!((spent(Duration::ZERO), spent(month)), ((Money(5), 7), (Money(1), 10)));
        key.resets += 1;
        assert_eq!(file.read(&key, SystemTime::now()).unwrap().sums.spent, Money(0));
    }
}
