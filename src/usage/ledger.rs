//! Recorded usage: lines of JSON, one file a day, appended about once a second and read by `usage`.
//!
//! Hazard: a kill or a full disk in the middle of a line. Rule: every entry begins with a newline, so a torn entry
//! cannot corrupt the next one; what could not be written stays in memory and is written with the next.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::paths::StateDirectory;
use crate::platform::files::{self, PendingFile, Privacy};

/// Age in days from which a file is no longer appended to, and is summed up if it has grown.
const SETTLED: i64 = 3;

/// Bytes from which on a settled file is worth summing up.
const GROWN: u64 = 64 * 1024;

/// Maximum size of the file of a day. Reached by a hundred thousand entries, a day's worth of one a second.
const MAX_FILE_SIZE: u64 = 256 * 1024 * 1024;

/// Models that are counted each under its own name by one process, and the longest name in characters.
const MAX_NAMES: usize = 100;
const MAX_NAME_LENGTH: usize = 80;

/// The name of a model as far as it is kept.
pub(crate) fn cut_name(model: &str) -> &str {
    model.char_indices().nth(MAX_NAME_LENGTH).map_or(model, |(end, _)| &model[..end])
}

/// Counts of what passed through the gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    /// Requests sent to the provider, repeated ones included.
    pub(crate) tries: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
    /// Responses with status 429 from the provider.
    pub(crate) rate_limited: u64,
    pub(crate) wait_ms: u64,
    /// What the keys of people and jobs were charged, estimates included: tokens, and nanodollars at the prices of that time.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) charged_tokens: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) charged_nanodollars: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        // Token counts are whatever a server states.
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut self.requests, other.requests);
        add(&mut self.tries, other.tries);
        add(&mut self.prompt_tokens, other.prompt_tokens);
        add(&mut self.completion_tokens, other.completion_tokens);
        add(&mut self.rate_limited, other.rate_limited);
        add(&mut self.wait_ms, other.wait_ms);
        add(&mut self.charged_tokens, other.charged_tokens);
        add(&mut self.charged_nanodollars, other.charged_nanodollars);
    }
}

impl Counts {
    /// Each by its name.
    pub(crate) fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("requests", self.requests),
            ("tries", self.tries),
            ("prompt_tokens", self.prompt_tokens),
            ("completion_tokens", self.completion_tokens),
            ("rate_limited", self.rate_limited),
            ("wait_ms", self.wait_ms),
            ("charged_tokens", self.charged_tokens),
            ("charged_nanodollars", self.charged_nanodollars),
        ]
    }

    /// Of counts by their names.
    pub(crate) fn of(named: impl Fn(&str) -> u64) -> Self {
        Self {
            requests: named("requests"),
            tries: named("tries"),
            prompt_tokens: named("prompt_tokens"),
            completion_tokens: named("completion_tokens"),
            rate_limited: named("rate_limited"),
            wait_ms: named("wait_ms"),
            charged_tokens: named("charged_tokens"),
            charged_nanodollars: named("charged_nanodollars"),
        }
    }
}

/// A limit as the provider's own headers stated it last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StatedLimit {
    /// What is limited, in words: `requests per day`.
    pub(crate) name: String,
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    /// Seconds since 1970.
    pub(crate) resets_at: Option<u64>,
    /// Seconds since 1970.
    pub(crate) at: u64,
}

/// Whose request it was, where a gateway has keys of people and jobs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct KeyUser {
    /// The id of the key.
    pub(crate) key: String,
    pub(crate) owner: Option<String>,
}

/// Counts by whose key it was and by model.
type Uses = BTreeMap<Option<Arc<KeyUser>>, BTreeMap<String, Counts>>;

/// One line.
#[derive(Serialize, Deserialize)]
struct Entry {
    profile: String,
    provider: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(flatten)]
    counts: Counts,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    limits: Vec<StatedLimit>,
}

/// What one process counted for one profile and has not written yet, and its totals.
pub(crate) struct Ledger {
    directory: PathBuf,
    profile: String,
    provider: String,
    /// By day (`2026-11-21`).
    pending: BTreeMap<String, Uses>,
    seen: BTreeMap<String, StatedLimit>,
    has_news: bool,
    pub(crate) totals: BTreeMap<String, Counts>,
}

impl Ledger {
    pub(crate) fn new(state: &Path, profile: &str, provider: &str) -> Self {
        Self {
            directory: directory_of(state),
            profile: profile.to_owned(),
            provider: provider.to_owned(),
            pending: BTreeMap::new(),
            seen: BTreeMap::new(),
            has_news: false,
            totals: BTreeMap::new(),
        }
    }

    pub(crate) fn add(&mut self, day: &str, user: Option<&Arc<KeyUser>>, model: &str, counts: &Counts) {
        let model = label(&self.totals, model);
        if !self.pending.contains_key(day) {
            self.pending.insert(day.to_owned(), Uses::new());
        }
        let Some(uses) = self.pending.get_mut(day) else { return };
        let models = uses.entry(user.cloned()).or_default();
        match models.get_mut(model) {
            Some(known) => known.add(counts),
            None => drop(models.insert(model.to_owned(), *counts)),
        }
        add_total(&mut self.totals, model, counts);
    }

    pub(crate) fn note_limit(&mut self, seen: StatedLimit) {
        self.has_news = true;
        self.seen.insert(seen.name.clone(), seen);
    }

    pub(crate) fn limits(&self) -> impl Iterator<Item = &StatedLimit> {
        self.seen.values()
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty() || self.has_news
    }

    /// Takes what is to be written, each text with its file; [`write`] writes it.
    pub(crate) fn take_pending(&mut self, today: &str) -> Option<UnwrittenCounts> {
        if !self.has_pending() {
            return None;
        }
        let pending = std::mem::take(&mut self.pending);
        let limits =
            if std::mem::take(&mut self.has_news) { self.seen.values().cloned().collect() } else { Vec::new() };
        Some(UnwrittenCounts {
            directory: self.directory.clone(),
            profile: self.profile.clone(),
            provider: self.provider.clone(),
            counts: pending,
            limits,
            today: today.to_owned(),
            written: Vec::new(),
        })
    }

    /// What could not be written waits for the next time.
    pub(crate) fn put_back(&mut self, pending: UnwrittenCounts) {
        for (day, uses) in pending.counts {
            let known = self.pending.entry(day).or_default();
            for (user, models) in uses {
                let known = known.entry(user).or_default();
                for (model, counts) in models {
                    known.entry(model).or_default().add(&counts);
                }
            }
        }
        self.has_news = self.has_news || !pending.limits.is_empty();
    }
}

/// Adds to the counts by model.
pub(crate) fn add_total(totals: &mut BTreeMap<String, Counts>, model: &str, counts: &Counts) {
    let model = label(totals, model);
    match totals.get_mut(model) {
        Some(known) => known.add(counts),
        None => drop(totals.insert(model.to_owned(), *counts)),
    }
}

/// The name that a model is counted under. Names are the client's, so they are bounded in number and length.
fn label<'name>(totals: &BTreeMap<String, Counts>, model: &'name str) -> &'name str {
    match cut_name(model) {
        "" | "unknown" => "unknown",
        name if totals.len() < MAX_NAMES || totals.contains_key(name) => name,
        _ => "other",
    }
}

/// Counts on their way to the disk.
pub(crate) struct UnwrittenCounts {
    directory: PathBuf,
    profile: String,
    provider: String,
    counts: BTreeMap<String, Uses>,
    limits: Vec<StatedLimit>,
    today: String,
    written: Vec<(Use, Counts)>,
}

impl UnwrittenCounts {
    /// What has been written.
    pub(crate) fn take_written(&mut self) -> Vec<(Use, Counts)> {
        std::mem::take(&mut self.written)
    }

    /// After an error, what is left is what was not written.
    pub(crate) fn write(&mut self) -> Result<()> {
        files::make_directory(&self.directory)?;
        let directory = self.directory.clone();
        let open = |day: &str| files::open_to_append(&directory.join(format!("{day}.jsonl")));
        self.write_to(open).with_context(|| format!("cannot append to `{}`", self.directory.display()))
    }

    /// One entry at a time, so that it is known of each whether it is there.
    fn write_to<W: Write>(&mut self, open: impl Fn(&str) -> Result<W>) -> Result<()> {
        if !self.limits.is_empty() {
            let text = self.line(None, None, Counts::default(), self.limits.clone())?;
            append(&mut open(&self.today)?, &text)?;
            self.limits.clear();
        }
        while let Some((day, uses)) = self.counts.pop_first() {
            let each = |(user, models): (Option<Arc<KeyUser>>, BTreeMap<String, Counts>)| {
                models.into_iter().map(move |(model, counts)| (user.clone(), model, counts))
            };
            let mut left = uses.into_iter().flat_map(each).collect::<Vec<_>>();
            let (profile, provider, today) = (self.profile.clone(), self.provider.clone(), day.clone());
            let mut all_written = std::mem::take(&mut self.written);
            let written = open(&day).and_then(|mut file| {
                while let Some((user, model, counts)) = left.last() {
                    append(&mut file, &self.line(user.as_deref(), Some(model), *counts, Vec::new())?)?;
                    let (day, profile, provider) = (today.clone(), profile.clone(), provider.clone());
                    let user = user.as_deref().cloned();
                    all_written.push((Use { day, profile, provider, model: model.clone(), user }, *counts));
                    left.pop();
                }
                Ok(())
            });
            self.written = all_written;
            if written.is_err() {
                let unwritten = self.counts.entry(day).or_default();
                for (user, model, counts) in left {
                    unwritten.entry(user).or_default().insert(model, counts);
                }
                return written;
            }
        }
        Ok(())
    }

    fn line(
        &self,
        user: Option<&KeyUser>,
        model: Option<&String>,
        counts: Counts,
        limits: Vec<StatedLimit>,
    ) -> Result<String> {
        let entry = Entry {
            profile: self.profile.clone(),
            provider: self.provider.clone(),
            model: model.cloned(),
            key: user.map(|user| user.key.clone()),
            owner: user.and_then(|user| user.owner.clone()),
            counts,
            limits,
        };
        Ok(format!("\n{}\n", serde_json::to_string(&entry)?))
    }
}

/// An entry that lacks only its last line break is whole: the next one begins with a line break.
fn append(file: &mut impl Write, text: &str) -> Result<()> {
    let written = file.write(text.as_bytes())?;
    anyhow::ensure!(written + 1 >= text.len(), "the disk is full");
    Ok(())
}

fn directory_of(state: &Path) -> PathBuf {
    StateDirectory::Usage.below(state)
}

/// What is counted apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Use {
    pub(crate) day: String,
    pub(crate) profile: String,
    pub(crate) provider: String,
    pub(crate) model: String,
    /// `None`: the key of the gateway itself.
    pub(crate) user: Option<KeyUser>,
}

/// What all processes wrote, summed up.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) counts: BTreeMap<Use, Counts>,
    /// The newest statement of each provider's limits, by profile and name.
    pub(crate) limits: BTreeMap<(String, String), StatedLimit>,
}

impl Summary {
    /// From the day `first` (`2026-11-15`) on. Invalid lines are skipped.
    pub(crate) fn read(state: &Path, first: &str) -> Result<Self> {
        let mut summary = Self::default();
        for (day, path) in days(&directory_of(state))? {
            if day.as_str() >= first {
                summary.read_day(&day, &path)?;
            }
        }
        Ok(summary)
    }

    fn read_day(&mut self, day: &str, path: &Path) -> Result<()> {
        use std::io::Read;
        let mut text = Vec::new();
        let file = files::open_private(path)?;
        file.take(MAX_FILE_SIZE).read_to_end(&mut text).with_context(|| format!("cannot read `{}`", path.display()))?;
        for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            let Ok(entry) = serde_json::from_slice::<Entry>(line) else { continue };
            for seen in entry.limits {
                let newest =
                    self.limits.entry((entry.profile.clone(), seen.name.clone())).or_insert_with(|| seen.clone());
                if newest.at <= seen.at {
                    *newest = seen;
                }
            }
            if let Some(model) = entry.model {
                let user = entry.key.map(|key| KeyUser { key, owner: entry.owner });
                let (profile, provider) = (entry.profile, entry.provider);
                let of = Use { day: day.to_owned(), profile, provider, model, user };
                self.counts.entry(of).or_default().add(&entry.counts);
            }
        }
        Ok(())
    }
}

/// The files there are, by day.
fn days(directory: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", directory.display())),
    };
    let mut days: Vec<(String, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let day = name.strip_suffix(".jsonl")?;
            day.parse::<jiff::civil::Date>().ok()?;
            Some((day.to_owned(), entry.path()))
        })
        .collect();
    days.sort();
    Ok(days)
}

/// Sums up the files of past days, which are no longer appended to. Two processes that do so write the same.
pub(crate) fn settle(state: &Path, now: SystemTime) -> Result<()> {
    let today = jiff::Timestamp::try_from(now)?.to_zoned(jiff::tz::TimeZone::UTC).date();
    let last = today.checked_sub(jiff::Span::new().days(SETTLED))?.to_string();
    for (day, path) in days(&directory_of(state))? {
        if day >= last || std::fs::metadata(&path)?.len() < GROWN {
            continue;
        }
        let mut summary = Summary::default();
        summary.read_day(&day, &path)?;
        let mut text = String::new();
        for (Use { profile, provider, model, user, .. }, counts) in summary.counts {
            let (key, owner) = user.map_or((None, None), |user| (Some(user.key), user.owner));
            let entry = Entry { profile, provider, model: Some(model), key, owner, counts, limits: Vec::new() };
            text.push_str(&serde_json::to_string(&entry)?);
            text.push('\n');
        }
        PendingFile::reserve_unlocked(&path, text.len(), Privacy::Private)?.write(text.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "tests lay out their own files")]

    use std::cell::RefCell;

    use super::*;

    /// A disk with this many bytes of free space.
    struct Disk<'disk> {
        text: &'disk RefCell<Vec<u8>>,
        room: &'disk RefCell<usize>,
    }

    impl Write for Disk<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let length = bytes.len().min(self.room.replace_with(|room| room.saturating_sub(bytes.len())));
            if length == 0 {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.text.borrow_mut().extend_from_slice(&bytes[..length]);
            Ok(length)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn names_of_models_are_bounded_and_every_request_is_counted() {
        let mut ledger = Ledger::new(Path::new("/nowhere"), "work", "qwen");
        let one = Counts { requests: 1, ..Counts::default() };
        for number in 0..1000 {
            ledger.add("2026-11-20", None, &format!("{number}{}", "ü".repeat(200)), &one);
        }
        ledger.add("2026-11-20", None, "", &one);
        assert_eq!(ledger.totals.len(), MAX_NAMES + 2, "with those for other and unknown ones");
        assert_eq!((ledger.totals["other"].requests, ledger.totals["unknown"].requests), (900, 1));
        assert!(ledger.totals.keys().all(|name| name.chars().count() <= MAX_NAME_LENGTH));
        let pending = ledger.take_pending("2026-11-20").unwrap();
        assert_eq!(pending.counts["2026-11-20"][&None].values().map(|counts| counts.requests).sum::<u64>(), 1001);
    }

    #[test]
    fn wherever_the_disk_is_full_everything_is_counted_once() {
        for room in 0..900 {
            let mut ledger = Ledger::new(Path::new("/nowhere"), "work", "qwen");
            let user = Arc::new(KeyUser { key: "k".into(), owner: Some("ann".into()) });
            for (day, user, model, requests) in [
                ("2026-11-20", None, "a", 1),
                ("2026-11-20", None, "b", 2),
                ("2026-11-21", None, "a", 4),
                ("2026-11-21", Some(&user), "a", 8),
            ] {
                ledger.add(day, user, model, &Counts { requests, ..Counts::default() });
            }
            let (text, left) = (RefCell::default(), RefCell::new(room));
            let disk = |_: &str| Ok(Disk { text: &text, room: &left });
            let mut pending = ledger.take_pending("2026-11-21").unwrap();
            if pending.write_to(disk).is_err() {
                ledger.put_back(pending);
                left.replace(usize::MAX);
                ledger.take_pending("2026-11-21").unwrap().write_to(disk).unwrap();
            }
            let text = text.into_inner();
            let entries =
                text.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice::<Entry>(line).ok());
            assert_eq!(entries.map(|entry| entry.counts.requests).sum::<u64>(), 15, "with room for {room} bytes");
        }
    }

    const DAY: &str = "2026-11-20";

    fn stated(remaining: u64, at: u64) -> StatedLimit {
        StatedLimit { name: "requests per day".into(), limit: 1000, remaining, resets_at: None, at }
    }

    fn written(ledger: &mut Ledger) {
        ledger.take_pending(DAY).unwrap().write().unwrap();
    }

    #[test]
    fn the_newest_statement_of_a_limit_counts_and_is_written_when_there_is_a_new_one() {
        let state = tempfile::tempdir().unwrap();
        let [mut first, mut second] = ["qwen", "qwen"].map(|provider| Ledger::new(state.path(), "work", provider));
        assert!(first.take_pending(DAY).is_none(), "there is nothing to write");
        first.note_limit(stated(7, 20));
        first.note_limit(stated(6, 30));
        assert_eq!(first.limits().collect::<Vec<_>>(), [&stated(6, 30)]);
        written(&mut first);
        assert!(first.take_pending(DAY).is_none(), "it was written");
        second.note_limit(stated(9, 10));
        written(&mut second);
        let newest = || Summary::read(state.path(), DAY).unwrap().limits.into_values().collect::<Vec<_>>();
        assert_eq!(newest(), [stated(6, 30)]);
        // At the same second what comes later counts.
        second.note_limit(stated(5, 30));
        let unwritten = second.take_pending(DAY).unwrap();
        second.put_back(unwritten);
        written(&mut second);
        assert_eq!(newest(), [stated(5, 30)]);
        first.add(DAY, None, "m", &Counts { requests: 1, ..Counts::default() });
        let unwritten = first.take_pending(DAY).unwrap();
        assert!(unwritten.limits.is_empty(), "the statement is in the file");
        first.put_back(unwritten);
        assert!(first.take_pending(DAY).unwrap().limits.is_empty());
    }

    #[test]
    fn usage_is_read_from_a_day_on_and_invalid_lines_and_other_files_are_skipped() {
        let state = tempfile::tempdir().unwrap();
        assert!(Summary::read(state.path(), "").unwrap().counts.is_empty(), "there is no directory yet");
        let mut ledger = Ledger::new(state.path(), "work", "qwen");
        for (day, requests) in [("2026-11-19", 1), (DAY, 2), ("2026-11-21", 4)] {
            ledger.add(day, None, "m", &Counts { requests, ..Counts::default() });
        }
        let mut unwritten = ledger.take_pending(DAY).unwrap();
        unwritten.write().unwrap();
        let uses = unwritten.take_written();
        assert_eq!(
            uses.iter().map(|(of, counts)| (of.day.as_str(), counts.requests)).collect::<Vec<_>>(),
            [("2026-11-19", 1), (DAY, 2), ("2026-11-21", 4)]
        );
        let directory = directory_of(state.path());
        std::fs::write(directory.join("2026-11-22.jsonl"), "{\n\nnonsense\n").unwrap();
        std::fs::write(
            directory.join("2026-11-23.jsonl.old"),
            std::fs::read(directory.join("2026-11-21.jsonl")).unwrap(),
        )
        .unwrap();
        let since =
            |first| Summary::read(state.path(), first).unwrap().counts.values().map(|counts| counts.requests).sum();
        let sums: [u64; 3] = [since("2026-11-19"), since(DAY), since("2026-11-22")];
        assert_eq!(sums, [7, 6, 0]);
        // A directory that cannot be read is not an empty one.
        std::fs::remove_dir_all(&directory).unwrap();
        std::fs::write(&directory, "").unwrap();
        assert!(Summary::read(state.path(), DAY).is_err());
    }

    #[test]
    fn charges_are_summed_up_and_a_line_without_them_is_read() {
        let state = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::new(state.path(), "work", "qwen");
        let charged = |tokens, nanodollars| Counts {
            requests: 1,
            charged_tokens: tokens,
            charged_nanodollars: nanodollars,
            ..Counts::default()
        };
        for counts in [charged(0, 0), charged(4114, 20_498_000), charged(6, 7)] {
            ledger.add(DAY, None, "m", &counts);
            written(&mut ledger);
        }
        let text = std::fs::read_to_string(directory_of(state.path()).join(format!("{DAY}.jsonl"))).unwrap();
        assert_eq!(text.matches("charged_").count(), 4, "what charged nothing does not say so: {text}");
        let sum = Summary::read(state.path(), DAY).unwrap().counts.into_values().next().unwrap();
        assert_eq!(sum, Counts { requests: 3, ..charged(4120, 20_498_007) });
    }

    #[test]
    fn a_file_is_summed_up_once_it_is_three_days_old_and_has_grown() {
        let state = tempfile::tempdir().unwrap();
        let now: jiff::Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        let entry = |model: &str| {
            format!("\n{{\"profile\":\"work\",\"provider\":\"qwen\",\"model\":\"{model}\",\"requests\":1}}\n")
        };
        let size = entry("m").len();
        let directory = directory_of(state.path());
        files::make_directory(&directory).unwrap();
        let entries = usize::try_from(GROWN).unwrap() / size;
        let filling = usize::try_from(GROWN).unwrap() - entries * size;
        for (day, filling) in
            [("2026-11-16", filling - 1), ("2026-11-15", filling), ("2026-11-14", filling + 1), ("2026-11-17", filling)]
        {
            let text = entry("m").repeat(entries) + &"\n".repeat(filling);
            std::fs::write(directory.join(format!("{day}.jsonl")), text).unwrap();
        }
        let before = Summary::read(state.path(), "").unwrap().counts;
        settle(state.path(), now.into()).unwrap();
        assert_eq!(Summary::read(state.path(), "").unwrap().counts, before);
        let is_summed_up = |day: &str| {
            let lines = std::fs::read_to_string(directory.join(format!("{day}.jsonl"))).unwrap();
            lines.lines().filter(|line| !line.is_empty()).count() == 1
        };
        assert!(is_summed_up("2026-11-14") && is_summed_up("2026-11-15"));
        assert!(!is_summed_up("2026-11-16"), "it is smaller");
        assert!(!is_summed_up("2026-11-17"), "a gateway may append to it");
    }

    #[test]
    fn counts_are_the_same_by_their_names() {
        let counts = Counts {
            requests: 1,
            tries: 2,
            prompt_tokens: 3,
            completion_tokens: 4,
            rate_limited: 5,
            wait_ms: 6,
            charged_tokens: 7,
            charged_nanodollars: 8,
        };
        let named = counts.named();
        assert_eq!(named[5..], [("wait_ms", 6), ("charged_tokens", 7), ("charged_nanodollars", 8)]);
        let value = |name: &str| named.iter().find(|(known, _)| *known == name).unwrap().1;
        assert_eq!(Counts::of(value), counts);
    }
}
