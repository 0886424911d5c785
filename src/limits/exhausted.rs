//! Limits that a server reported as used up, and outages: recorded for one model or a whole account, shared by all
//! processes and kept across restarts.
//!
//! An entry applies until the time that the server stated or the known reset. Until then an occasional request is let
//! through anyway, because a plan can be extended and a message can be misread. A success removes the entry.
//!
//! Hazard: two processes record at once, one is killed, or the file is damaged. Rule: the whole text is written at
//! once under a lock that is only tried; an unreadable text counts as empty, which costs a request.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::busy::{Late, insist};
use super::local::file_name;
use crate::epoch;
use crate::paths::StateDirectory;
use crate::platform::lock::TryLock;
use crate::platform::{disk, files};
use crate::providers::error::Cause;

/// How often one request is let through although a limit is used up.
const PROBE: u64 = 300;

/// The same during an outage: the first, second … interval.
const OUTAGE_PROBES: [u64; 4] = [30, 60, 120, PROBE];

/// Maximum number of entries of one account. The one that ends first is dropped.
const MOST: usize = 256;

/// An expired entry is kept this long, to detect that waiting until the server's time did not help.
const KEPT: u64 = 3600;

/// While nothing is used up, how long what other processes may have recorded is not looked for: no longer than requests
/// are in flight anyway when a limit is reached. A look costs a thirtieth of a request.
const UNSEEN: Duration = Duration::from_millis(10);

/// The file of an account that reached no limit for this long is removed: longer than the longest limit lasts.
const FILE_KEPT: Duration = Duration::from_secs(400 * 86400);

/// Bytes of the file.
const MAX_FILE_SIZE: u64 = 256 * 1024;

/// A used-up limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exhausted {
    pub(crate) cause: Cause,
    /// `None`: all models of the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// Seconds since 1970, as all times here.
    pub(crate) since: u64,
    /// When it ends at the latest.
    pub(crate) until: u64,
    /// When it ends by the server's message or the provider's rules. `None` if neither states it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resets_at: Option<u64>,
    probe_at: u64,
    /// Attempts since it was recorded.
    #[serde(default)]
    probes: usize,
}

impl Exhausted {
    fn is_same(&self, other: &Self) -> bool {
        self.cause == other.cause && self.model == other.model
    }

    fn counts_for(&self, model: Option<&str>) -> bool {
        self.model.is_none() || self.model.as_deref() == model
    }

    /// Time until an attempt makes sense: the reset, or the next request that is let through.
    pub(crate) fn wait(&self, now: SystemTime) -> Duration {
        let at = self.resets_at.unwrap_or_else(|| self.probe_at.min(self.until));
        Duration::from_secs(at.saturating_sub(epoch::seconds(now)))
    }

    /// Distinguishes this occurrence from earlier ones, over all processes.
    pub(crate) fn id(&self) -> String {
        format!("{:?}/{}/{}", self.cause, self.model.as_deref().unwrap_or("*"), self.since)
    }

    fn interval(&self) -> u64 {
        if self.cause == Cause::Outage { OUTAGE_PROBES[self.probes.min(OUTAGE_PROBES.len() - 1)] } else { PROBE }
    }
}

/// What a response told about limits.
#[derive(Debug)]
enum Change {
    /// This one is used up.
    Note(Exhausted),
    /// None that counts for this model is.
    Clear(Option<String>),
}

impl Change {
    fn apply(&self, entries: &mut Vec<Exhausted>) {
        match self {
            Self::Note(entry) => drop(add(entries, entry)),
            Self::Clear(model) => entries.retain(|entry| !entry.counts_for(model.as_deref())),
        }
    }
}

/// The known used-up limits of one account.
pub(crate) struct Memory {
    directory: PathBuf,
    path: PathBuf,
    entries: Vec<Exhausted>,
    /// What [`Self::entries`] have and the file has not.
    late: Late<Change>,
    /// The file as last read.
    stamp: Option<(SystemTime, u64)>,
    looked_at: Option<Instant>,
}

impl Memory {
    pub(crate) fn open(state: &Path, provider: &str, account: &str) -> Self {
        let directory = StateDirectory::Limits.below(state);
        let path = directory.join(format!("{}.json", file_name(provider, account)));
        Self { directory, path, entries: Vec::new(), late: Late::default(), stamp: None, looked_at: None }
    }

    /// The entry that applies to `model`: the one that lasts longest.
    pub(crate) fn find(&mut self, model: Option<&str>, now: SystemTime) -> Option<Exhausted> {
        self.refresh();
        let now = epoch::seconds(now);
        let in_force = self.entries.iter().filter(|entry| now < entry.until && entry.counts_for(model));
        in_force.max_by_key(|entry| entry.until).cloned()
    }

    /// Whether there is any entry, as far as is known: see [`UNSEEN`].
    pub(crate) fn has_any(&mut self) -> bool {
        let was_empty_just_now = self.entries.is_empty() && self.looked_at.is_some_and(|at| at.elapsed() < UNSEEN);
        if !was_empty_just_now {
            self.refresh();
            self.looked_at = Some(Instant::now());
        }
        !self.entries.is_empty()
    }

    /// Whether an entry names a model, so that the model of a request must be known.
    pub(crate) fn depends_on_model(&mut self) -> bool {
        self.refresh();
        self.entries.iter().any(|entry| entry.model.is_some())
    }

    /// Whether the time that the server stated has passed and this limit is still used up.
    pub(crate) fn was_in_vain(&mut self, cause: Cause, model: Option<&str>, now: SystemTime) -> bool {
        self.refresh();
        let now = epoch::seconds(now);
        let same = |entry: &&Exhausted| entry.cause == cause && entry.model.as_deref() == model;
        self.entries.iter().any(|entry| same(&entry) && entry.until <= now && now - entry.until < KEPT)
    }

    /// Whether this request is the one let through although `entry` applies.
    pub(crate) fn takes_probe(&mut self, entry: &Exhausted, now: SystemTime) -> bool {
        let now = epoch::seconds(now);
        // A clock that was set back must not postpone the next attempt for hours.
        let is_due = |entry: &Exhausted| now >= entry.probe_at || entry.probe_at - now > entry.interval();
        is_due(entry)
            && self
                .change(|entries| {
                    let known = entries.iter_mut().find(|known| known.is_same(entry)).filter(|known| is_due(known));
                    known.is_some_and(|known| {
                        known.probes += 1;
                        known.probe_at = now + known.interval();
                        true
                    })
                })
                .unwrap_or(false)
    }

    /// Records that a limit is used up. `wait`: the time that the server stated; `reset`: when it ends by the
    /// provider's rules. Returns the entry and whether it is new.
    pub(crate) fn note(
        &mut self,
        cause: Cause,
        model: Option<&str>,
        wait: Option<Duration>,
        reset: Option<SystemTime>,
        now: SystemTime,
    ) -> (Exhausted, bool) {
        let in_vain = self.was_in_vain(cause, model, now);
        // Never earlier than the server stated.
        let stated = wait.map(|wait| epoch::seconds(now + wait) + 1);
        let now = epoch::seconds(now);
        let reset = reset.map(epoch::seconds);
        // A stated time that proved too short is not trusted again.
        let stated = stated.filter(|stated| !in_vain || *stated > now + PROBE);
        let resets_at = stated.or(reset);
        let longest = cause.length().map_or(PROBE, |length| length.as_secs());
        let until = resets_at.unwrap_or(now + longest);
        let mut entry =
            Exhausted { cause, model: model.map(str::to_owned), since: now, until, resets_at, probe_at: 0, probes: 0 };
        entry.probe_at = now + entry.interval();
        let noted = self.change(|entries| add(entries, &entry));
        noted.unwrap_or_else(|| {
            let noted = add(&mut self.entries, &entry);
            self.late.keep(Change::Note(entry), &self.path);
            noted
        })
    }

    /// A request for `model` was served: no limit that applied to it when it was sent is used up.
    pub(crate) fn clear(&mut self, model: Option<&str>) {
        if self.entries.iter().any(|entry| entry.counts_for(model)) {
            let clear = Change::Clear(model.map(str::to_owned));
            if self.change(|entries| clear.apply(entries)).is_none() {
                clear.apply(&mut self.entries);
                self.late.keep(clear, &self.path);
            }
        }
    }

    /// Writes what could not be written while another process held the file.
    pub(crate) fn catch_up(&mut self) {
        if !self.late.is_empty() {
            self.change(|_| ());
        }
    }

    /// The limits that are used up now.
    pub(crate) fn in_force(&mut self, now: SystemTime) -> impl Iterator<Item = &Exhausted> {
        self.refresh();
        let now = epoch::seconds(now);
        self.entries.iter().filter(move |entry| now < entry.until)
    }

    /// Reads the file again if it has changed.
    fn refresh(&mut self) {
        self.catch_up();
        let stamp = stamp(&self.path);
        if stamp == self.stamp {
            return;
        }
        self.stamp = stamp;
        self.entries = disk::open_to_read(&self.path).map(|file| read(&file)).unwrap_or_default();
        self.late.iter().for_each(|change| change.apply(&mut self.entries));
    }

    /// Applies `change` to the entries of all processes, or of this one if the file cannot be used. Returns `None` if
    /// another process holds it.
    fn change<T>(&mut self, change: impl FnOnce(&mut Vec<Exhausted>) -> T) -> Option<T> {
        let open = || -> Result<File> {
            files::make_directory(&self.directory)?;
            if !self.path.exists() {
                files::remove_older(&self.directory, FILE_KEPT);
            }
            files::open_private(&self.path)
        };
        let file = match open() {
            Ok(file) => file,
            Err(error) => return Some(self.change_alone(&error, change)),
        };
        let _lock = match TryLock::take(&file).context("cannot lock the record of reached limits") {
            Ok(lock) => lock?,
            Err(error) => return Some(self.change_alone(&error, change)),
        };
        let mut entries = read(&file);
        self.late.take().iter().for_each(|change| change.apply(&mut entries));
        let outcome = change(&mut entries);
        if let Err(error) = write(&file, &entries) {
            log::warn!("cannot write `{}`: {error:#}", self.path.display());
        }
        self.entries = entries;
        self.stamp = stamp(&self.path);
        Some(outcome)
    }

    fn change_alone<T>(&mut self, why: &anyhow::Error, change: impl FnOnce(&mut Vec<Exhausted>) -> T) -> T {
        log::warn!("only this process remembers reached limits: {why:#}");
        self.late.take();
        change(&mut self.entries)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if !self.late.is_empty() && insist(|| self.change(|_| ())).is_none() {
            log::warn!("`{}` is held by another process", self.path.display());
        }
    }
}

/// Adds `entry`, or what it says to the one of the same limit. Returns what is known then, and whether it is new.
fn add(entries: &mut Vec<Exhausted>, entry: &Exhausted) -> (Exhausted, bool) {
    let now = entry.since;
    entries.retain(|known| now < known.until.saturating_add(KEPT));
    match entries.iter_mut().find(|known| known.is_same(entry)) {
        Some(known) if now < known.until => {
            // Already recorded by another request or attempt: keep its start.
            known.until = entry.until.max(known.until.min(entry.resets_at.unwrap_or(known.until)));
            known.resets_at = entry.resets_at.or(known.resets_at);
            known.probe_at = known.probe_at.max(now + known.interval());
            (known.clone(), false)
        }
        Some(known) => {
            *known = entry.clone();
            (entry.clone(), true)
        }
        None => {
            if entries.len() >= MOST
                && let Some(first) = (0..entries.len()).min_by_key(|&index| entries[index].until)
            {
                entries.swap_remove(first);
            }
            entries.push(entry.clone());
            (entry.clone(), true)
        }
    }
}

/// What `usage` and `status` show: the limits that are used up now. Read-only.
pub(crate) fn exhausted(state: &Path, provider: &str, account: &str, now: SystemTime) -> Vec<Exhausted> {
    let mut memory = Memory::open(state, provider, account);
    memory.in_force(now).cloned().collect()
}

/// Removes the used-up limits of an account, for a new login.
pub(crate) fn forget(state: &Path, provider: &str, account: &str) {
    let mut memory = Memory::open(state, provider, account);
    memory.refresh();
    if !memory.entries.is_empty() && insist(|| memory.change(Vec::clear)).is_none() {
        log::warn!("`{}` is held by another process", memory.path.display());
    }
}

fn read(mut file: &File) -> Vec<Exhausted> {
    let mut text = Vec::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(MAX_FILE_SIZE).read_to_end(&mut text));
    read.ok().and_then(|_| serde_json::from_slice(text.trim_ascii_end()).ok()).unwrap_or_default()
}

/// A single write, never shorter than before: a process that is killed leaves the old text or the new one.
fn write(mut file: &File, entries: &[Exhausted]) -> Result<()> {
    let mut text = serde_json::to_vec(entries)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    text.resize(text.len().max(length), b' ');
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&text)?;
    Ok(())
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn at(after: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW + after)
    }

    fn memory(directory: &Path) -> Memory {
        Memory::open(directory, "p", "key")
    }

    #[test]
    fn it_lasts_until_the_servers_time_for_the_model_it_names_and_in_every_process() {
        let directory = tempfile::tempdir().unwrap();
        let (mut one, mut other) = (memory(directory.path()), memory(directory.path()));
        let wait = Some(Duration::from_secs(2));
        let (entry, is_news) = one.note(Cause::Day, Some("m"), wait, Some(at(9000)), at(0));
        assert_eq!((entry.resets_at, is_news), (Some(NOW + 3), true));
        assert!(!other.note(Cause::Day, Some("m"), wait, None, at(0)).1);
        assert_eq!(other.find(Some("m"), at(2)).map(|entry| entry.wait(at(2))), Some(Duration::from_secs(1)));
        assert_eq!(other.find(Some("other"), at(2)), None);
        assert_eq!(other.find(Some("m"), at(3)), None);
    }

    #[test]
    fn what_is_told_while_the_file_is_held_counts_here_at_once_and_everywhere_once_it_is_free() {
        let directory = tempfile::tempdir().unwrap();
        let (mut one, mut other) = (memory(directory.path()), memory(directory.path()));
        one.note(Cause::Day, Some("m"), None, Some(at(9000)), at(0));
        let file = files::open_private(&one.path).unwrap();
        let model = |memory: &mut Memory| memory.find(None, at(5)).map(|entry| entry.cause);
        let held = TryLock::take(&file).unwrap().unwrap();
        assert!(one.note(Cause::Week, None, None, Some(at(9000)), at(1)).1);
        assert!(!one.note(Cause::Week, None, None, Some(at(9000)), at(2)).1, "it is known");
        assert_eq!((model(&mut one), model(&mut other)), (Some(Cause::Week), None));
        drop(held);
        // The next look writes it.
        assert_eq!((model(&mut one), model(&mut other)), (Some(Cause::Week), Some(Cause::Week)));
        let held = TryLock::take(&file).unwrap().unwrap();
        one.clear(Some("m"));
        assert!(!one.has_any() && other.find(Some("m"), at(5)).is_some());
        // What others wrote is read as well, and what is late still counts.
        let more = Exhausted { model: Some("another".into()), ..other.entries[0].clone() };
        write(&file, &[&other.entries[..], &[more]].concat()).unwrap();
        let is_read = one.find(Some("another"), at(5)).is_some();
        assert!(is_read || disk::LOCKS_KEEP_READERS_OUT);
        assert_eq!((model(&mut one), one.find(Some("m"), at(5))), (None, None));
        drop(held);
        drop(one);
        assert_eq!(other.find(Some("m"), at(5)), None, "written at the end");
    }

    #[test]
    fn a_stated_time_that_was_in_vain_is_not_believed_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut memory = memory(directory.path());
        let wait = Some(Duration::from_secs(2));
        memory.note(Cause::Day, None, wait, Some(at(9000)), at(0));
        assert!(!memory.was_in_vain(Cause::Day, None, at(1)) && memory.was_in_vain(Cause::Day, None, at(3)));
        let (entry, is_news) = memory.note(Cause::Day, None, wait, Some(at(9000)), at(3));
        assert_eq!((entry.resets_at, is_news), (Some(NOW + 9000), true));
        // A longer stated time is believed.
        let long = Some(Duration::from_secs(4000));
        memory.note(Cause::Week, None, wait, None, at(0));
        assert_eq!(memory.note(Cause::Week, None, long, None, at(5)).0.resets_at, Some(NOW + 4006));
    }

    #[test]
    fn a_time_was_in_vain_for_an_hour_and_for_this_limit_and_model_only() {
        let directory = tempfile::tempdir().unwrap();
        let mut memory = memory(directory.path());
        let wait = Some(Duration::from_secs(2));
        memory.note(Cause::Day, Some("m"), wait, None, at(0));
        // What another limit is noted for does not end it.
        memory.note(Cause::Day, Some("n"), Some(Duration::from_secs(20)), None, at(10));
        assert_eq!(memory.in_force(at(11)).count(), 1);
        assert!(!memory.note(Cause::Day, Some("n"), None, None, at(12)).1);
        for (cause, model, after, in_vain) in [
            (Cause::Day, Some("m"), 3, true),
            (Cause::Day, Some("m"), 3 + KEPT - 1, true),
            (Cause::Day, Some("m"), 3 + KEPT, false),
            (Cause::Day, None, 3, false),
            (Cause::Week, Some("m"), 3, false),
        ] {
            assert_eq!(memory.was_in_vain(cause, model, at(after)), in_vain, "{cause:?} {model:?} {after}");
        }
    }

    #[test]
    fn a_limit_lasts_its_window_and_is_forgotten_an_hour_later_and_who_meets_it_postpones_the_next_try() {
        let directory = tempfile::tempdir().unwrap();
        let mut memory = memory(directory.path());
        let (entry, _) = memory.note(Cause::Month, None, None, None, at(0));
        assert_eq!(entry.until, NOW + 31 * 86400);
        let (entry, is_news) = memory.note(Cause::Month, None, None, None, at(200));
        assert!(!is_news && !memory.takes_probe(&entry, at(300)) && memory.takes_probe(&entry, at(500)));
        for (after, is_known) in [(entry.until - NOW + KEPT - 1, true), (entry.until - NOW + KEPT, false)] {
            memory.note(Cause::Day, Some("n"), None, None, at(after));
            assert_eq!(memory.entries.iter().any(|entry| entry.cause == Cause::Month), is_known);
        }
    }

    #[test]
    fn what_is_used_up_is_told_until_its_end_and_forgotten_when_that_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let mut memory = memory(directory.path());
        let (of_all, _) = memory.note(Cause::Day, None, Some(Duration::from_secs(9)), None, at(0));
        assert!(!memory.depends_on_model());
        let (of_one, _) = memory.note(Cause::Day, Some("m"), Some(Duration::from_secs(19)), None, at(0));
        assert!(memory.depends_on_model() && of_all.id() != of_one.id());
        for (after, count) in [(9, 2), (10, 1), (19, 1), (20, 0)] {
            assert_eq!(memory.in_force(at(after)).count(), count, "{after}");
            assert_eq!(exhausted(directory.path(), "p", "key", at(after)).len(), count, "{after}");
        }
        forget(directory.path(), "p", "another");
        assert_eq!(exhausted(directory.path(), "p", "key", at(0)).len(), 2);
        forget(directory.path(), "p", "key");
        assert!(exhausted(directory.path(), "p", "key", at(0)).is_empty());
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_postpone_the_next_try() {
        let directory = tempfile::tempdir().unwrap();
        let mut memory = memory(directory.path());
        let (entry, _) = memory.note(Cause::Month, None, None, None, at(100_000));
        assert!(!memory.takes_probe(&entry, at(100_000)));
        assert!(memory.takes_probe(&entry, at(50_000)));
    }

    #[test]
    fn one_request_in_five_minutes_may_try_and_a_success_ends_it() {
        let directory = tempfile::tempdir().unwrap();
        let (mut one, mut other) = (memory(directory.path()), memory(directory.path()));
        one.note(Cause::Month, None, None, None, at(0));
        let entry = one.find(Some("m"), at(299)).unwrap();
        assert!(!one.takes_probe(&entry, at(299)));
        assert!(one.takes_probe(&entry, at(300)));
        assert!(!other.takes_probe(&entry, at(301)), "it was taken by another process");
        let entry = other.find(None, at(600)).unwrap();
        assert!(other.takes_probe(&entry, at(600)));
        other.clear(Some("m"));
        assert_eq!(one.find(Some("m"), at(601)), None);
    }

    #[test]
    fn a_service_that_is_down_is_tried_again_at_growing_intervals() {
        let directory = tempfile::tempdir().unwrap();
        let mut memory = memory(directory.path());
        memory.note(Cause::Outage, Some("m"), None, None, at(0));
        let mut tried = Vec::new();
        for second in 0..900 {
            let Some(entry) = memory.find(Some("m"), at(second)) else { panic!("it ended after {second} s") };
            if memory.takes_probe(&entry, at(second)) {
                tried.push(second);
                memory.note(Cause::Outage, Some("m"), None, None, at(second));
            }
        }
        assert_eq!(tried, [30, 90, 210, 510, 810]);
    }

    #[test]
    fn a_success_of_another_model_ends_only_what_counts_for_both() {
        let directory = tempfile::tempdir().unwrap();
        let mut memory = memory(directory.path());
        memory.note(Cause::Day, Some("a"), None, None, at(0));
        memory.note(Cause::Week, None, None, None, at(0));
        memory.clear(Some("b"));
        assert_eq!(memory.entries.iter().map(|entry| entry.cause).collect::<Vec<_>>(), [Cause::Day]);
    }

    #[test]
    fn what_another_process_records_is_seen_by_the_next_look() {
        let directory = tempfile::tempdir().unwrap();
        let (mut one, mut other) = (memory(directory.path()), memory(directory.path()));
        assert!(!one.has_any());
        other.note(Cause::Day, None, None, None, at(0));
        one.looked_at = one.looked_at.and_then(|at| at.checked_sub(UNSEEN));
        assert!(one.has_any());
    }

    #[test]
    fn a_damaged_file_is_empty_and_is_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut memory = memory(directory.path());
        memory.note(Cause::Day, None, None, None, at(0));
        files::open_private(&memory.path).unwrap().set_len(9).unwrap();
        assert_eq!(memory.find(None, at(1)), None);
        memory.note(Cause::Day, None, None, None, at(2));
        assert!(memory.find(None, at(3)).is_some());
    }

    #[test]
    fn a_file_that_nobody_wrote_for_longer_than_a_limit_lasts_is_removed_with_the_next_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let open = |account| Memory::open(directory.path(), "p", account);
        let before = FILE_KEPT.checked_sub(Duration::from_secs(3600)).unwrap();
        let mut accounts = ["old", "used", "third", "old"].map(open);
        for memory in &mut accounts[..2] {
            memory.note(Cause::Month, None, None, None, at(0));
        }
        for (memory, age) in accounts.iter().zip([FILE_KEPT + Duration::from_secs(3600), before]) {
            files::open_private(&memory.path).unwrap().set_modified(SystemTime::now() - age).unwrap();
        }
        let mut known = |next: usize| {
            accounts[next].note(Cause::Month, None, None, None, at(0));
            ["old", "used", "third"].map(|account| open(account).path.exists())
        };
        // Only a file that is new makes one more.
        assert_eq!(known(1), [true, true, false]);
        assert_eq!(known(2), [false, true, true]);
        assert_eq!(known(3), [true; 3]);
    }

    #[test]
    fn entries_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let mut memory = memory(directory.path());
        for number in 0..2 * MOST {
            memory.note(Cause::Day, Some(&format!("m{number}")), None, None, at(number as u64));
        }
        assert_eq!(memory.entries.len(), MOST);
        assert!(memory.find(Some(&format!("m{}", 2 * MOST - 1)), at(600)).is_some());
    }
}
