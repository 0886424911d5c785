//! keys.json: the only code that writes it, and its readers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Audit, KeyRecord, State, TeamSecret};
use crate::epoch;
use crate::error::{Failed, Failure, note, path_for_sh};
use crate::paths;
use crate::platform::disk::Version;
use crate::platform::files::{self, Content, MAX_FILE_SIZE, PendingFile, Privacy};
use crate::platform::lock::{FileLock, LOCK_TIMEOUT};

/// How long a revoked key is listed, so that usage of a year ago still has a name; shorter where room is short.
const KEPT_REVOKED: u64 = 400 * 86400;

/// Maximum size of the file with another key. The rest up to [`MAX_FILE_SIZE`] is for changes of the keys that are there:
/// an expiry takes 24 bytes, a record without limits 150.
const MAX_SIZE_WITH_NEW: u64 = MAX_FILE_SIZE / 8 * 7;

/// Where the files of a team's keys are.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) keys: PathBuf,
    pub(crate) audit: PathBuf,
    /// `secret_file` of the configuration, else next to the keys.
    pub(crate) secret: PathBuf,
    pub(crate) is_secret_given: bool,
}

impl Places {
    /// The team secret. It is created if no file is configured and no existing key needs another one.
    pub(crate) fn team_secret(&self) -> Result<TeamSecret> {
        if !self.is_secret_given && !self.secret.exists() && Keys::read(&self.keys)?.is_empty() {
            TeamSecret::make(&self.secret)?;
        }
        TeamSecret::read(&self.secret)
    }
}

/// The content of keys.json.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "named as the file has them")]
pub(crate) struct Keys {
    keys: Vec<KeyRecord>,
    /// Time of the last change in milliseconds since 1970, always higher than before: it identifies older copies.
    #[serde(default)]
    revision: u64,
    /// Distinguishes this file and its copies from others, because the keys of one team are made in one place.
    #[serde(default)]
    source: Option<String>,
    /// Fields written by a later version.
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl Keys {
    /// Errors: an invalid file, which is never treated as an empty one.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let damaged = |why: String| {
            Failed::new(Failure::Other, format!("`{}` is invalid: {why}", path.display()))
                .hint(format!("nothing was changed; restore it from a backup, or fix {}", path_for_sh(path)))
        };
        match files::read(path, Privacy::Private)? {
            Content::Missing => Ok(Self::default()),
            Content::Unfit(why) => damaged(why).err(),
            Content::Bytes(bytes) => serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()).into()),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &KeyRecord> {
        self.keys.iter()
    }

    /// What of the file has no effect, for people who edit it.
    pub(crate) fn unknown_fields(&self, path: &Path) -> Vec<String> {
        let file = path.display().to_string();
        self.keys.iter().flat_map(|key| key.unknown_fields(&file)).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// By name or id; a revoked key of the same name is found last.
    pub(crate) fn find(&self, name: &str) -> Option<&KeyRecord> {
        let named = || self.keys.iter().filter(|key| key.name == name || key.id == name);
        named().find(|key| key.revoked_at.is_none()).or_else(|| named().next_back())
    }

    /// The same, to change it.
    ///
    /// Errors: there is no such key, or it is revoked.
    pub(crate) fn live(&mut self, name: &str) -> Result<&mut KeyRecord> {
        let found = self.find(name).map(|key| (key.id.clone(), key.revoked_at.is_some()));
        let Some((id, is_revoked)) = found else {
            let names: Vec<&str> = self.keys.iter().map(|key| key.name.as_str()).collect();
            let near = crate::error::nearest(name, names).map(|near| format!("did you mean `{near}`?"));
            return Failed::new(Failure::Other, format!("there is no key `{name}`"))
                .hint(near.unwrap_or_else(|| "run `qwenauth keys list` to see the keys".to_owned()))
                .err();
        };
        if is_revoked {
            return Failed::new(Failure::Other, format!("the key `{name}` is revoked"))
                .hint(format!("create a new one with `qwenauth keys create {name}`"))
                .err();
        }
        self.keys.iter_mut().find(|key| key.id == id).with_context(|| format!("there is no key `{name}`"))
    }

    /// Errors: a key of this name is in use.
    pub(crate) fn add(&mut self, record: KeyRecord) -> Result<()> {
        let is_taken = |key: &&KeyRecord| key.name == record.name && key.revoked_at.is_none();
        if let Some(key) = self.keys.iter().find(is_taken) {
            let name = &key.name;
            return Failed::new(Failure::Other, format!("key `{name}` already exists"))
                .hint(format!(
                    "`qwenauth keys rotate {name}` replaces it, `qwenauth keys set {name}` changes its limits"
                ))
                .err();
        }
        self.keys.push(record);
        Ok(())
    }

    /// Changes the keys, entirely under the lock: reads them, calls `change`, adds what it returns to the audit log
    /// and replaces the file. If `change` fails, nothing is changed.
    pub(crate) fn change<T>(
        places: &Places,
        now: SystemTime,
        change: impl FnOnce(&mut Self) -> Result<(T, Change)>,
    ) -> Result<T> {
        let path = files::resolve(&places.keys)?;
        files::make_directory(path.parent().unwrap_or(Path::new(".")))?;
        let lock = paths::kernel_lock(&path);
        let _lock = FileLock::acquire(files::open_private(&lock)?, &lock, Instant::now() + LOCK_TIMEOUT)?;
        let mut keys = Self::read(&path)?;
        let count = keys.keys.len();
        let (outcome, Change { verb, id, changes }) = change(&mut keys)?;
        keys.source = keys.source().or_else(|| Some(uuid::Uuid::new_v4().simple().to_string()));
        keys.revision = epoch::milliseconds(now).max(keys.revision + 1);
        let oldest = epoch::seconds(now).saturating_sub(KEPT_REVOKED);
        let most = if keys.keys.len() > count { MAX_SIZE_WITH_NEW } else { MAX_FILE_SIZE };
        keys.keys.retain(|key| key.revoked_at.is_none_or(|at| at >= oldest));
        let text = keys.text_within(most, &id)?;
        let room = PendingFile::reserve(&path, text.len(), Privacy::Private)?;
        // The audit log is written first: a line for a change that a full disk prevented is better than a change
        // without a line.
        if let Some(key) = keys.keys.iter().find(|key| key.id == id) {
            Audit { revision: keys.revision, verb, key, changes }.write(&places.audit, now)?;
        }
        room.write(text.as_bytes())?;
        Ok(outcome)
    }

    /// The identity of this file. A file of a version that did not write one is identified by its first key.
    pub(crate) fn source(&self) -> Option<String> {
        self.source.clone().or_else(|| self.keys.first().map(|key| format!("{}{}", key.id, key.created_at)))
    }

    /// What gateways without this file need to know; `None`: there are no keys.
    pub(crate) fn publication(&self) -> Option<Publication> {
        let records = self.keys.iter().map(KeyRecord::published).collect();
        Some(Publication { source: self.source()?, revision: self.revision, records })
    }

    /// The file's text of at most `most` bytes. Where room is short, the keys that were revoked first are dropped, but not
    /// `changed`.
    ///
    /// Errors: the other keys are too many.
    fn text_within(&mut self, most: u64, changed: &str) -> Result<String> {
        let text = self.text()?;
        let mut excess = (text.len() as u64).saturating_sub(most);
        if excess == 0 {
            return Ok(text);
        }
        let is_spare = |key: &&KeyRecord| key.revoked_at.is_some() && key.id != changed;
        let mut spare: Vec<&KeyRecord> = self.keys.iter().filter(is_spare).collect();
        spare.sort_by_key(|key| key.revoked_at);
        let mut dropped = BTreeSet::new();
        for key in spare {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(serde_json::to_string(key)?.len() as u64);
            dropped.insert(key.id.clone());
        }
        if excess > 0 {
            let size = most / 1024;
            return Failed::new(Failure::Other, format!("there are too many keys: their file would exceed {size} KiB"))
                .hint("revoke unused keys; `qwenauth keys list` shows when each was last used")
                .err();
        }
        self.keys.retain(|key| !dropped.contains(&key.id));
        self.text()
    }

    /// One key per line.
    fn text(&self) -> Result<String> {
        let mut text = format!("{{\"schema\":1,\"revision\":{}", self.revision);
        if let Some(source) = &self.source {
            text += &format!(",\"source\":{}", Value::from(source.as_str()));
        }
        for (name, value) in self.others.iter().filter(|(name, _)| *name != "schema") {
            text += &format!(",{}:{value}", Value::from(name.as_str()));
        }
        text += ",\"keys\":[";
        for (at, key) in self.keys.iter().enumerate() {
            text += if at == 0 { "\n" } else { ",\n" };
            text += &serde_json::to_string(key)?;
        }
        text += "\n]}\n";
        Ok(text)
    }
}

/// The keys as gateways on other machines get them: the identity of their file, the time of the last change, and the
/// records.
#[derive(Debug, Clone)]
pub(crate) struct Publication {
    pub(crate) source: String,
    pub(crate) revision: u64,
    pub(crate) records: Vec<Published>,
}

/// A record as it is published.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) id: String,
    /// Differs whenever `text` differs.
    pub(crate) version: String,
    /// JSON
    pub(crate) text: String,
    /// The name that finds it, unless it is revoked, because another key may have the name.
    pub(crate) name: Option<String>,
}

/// What a change did, for the audit log.
pub(crate) struct Change {
    pub(crate) verb: &'static str,
    /// Of the key.
    pub(crate) id: String,
    /// What differs from before.
    pub(crate) changes: Value,
}

/// The keys as a gateway reads them: again when the file changes, which [`Directory::look`] notices.
pub(crate) struct Directory {
    path: PathBuf,
    version: Option<Version>,
    keys: BTreeMap<String, Versioned>,
    publication: Option<Rc<Publication>>,
}

/// A record, and its version as it is published: another one whenever the record differs.
#[derive(Debug, Clone)]
pub(crate) struct Versioned {
    pub(crate) record: Rc<KeyRecord>,
    pub(crate) version: Rc<str>,
}

impl Directory {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut directory = Self { path: path.to_owned(), version: None, keys: BTreeMap::new(), publication: None };
        directory.read()?;
        Ok(directory)
    }

    fn read(&mut self) -> Result<()> {
        // Read before the content, so that a change in between is noticed later.
        let version = Version::of(&self.path).ok();
        let keys = Keys::read(&self.path)?;
        for field in keys.unknown_fields(&self.path) {
            note(&format!("warning: {field}"));
        }
        self.publication = keys.publication().map(Rc::new);
        let own = |key: KeyRecord| Versioned { version: key.published().version.into(), record: Rc::new(key) };
        self.keys = keys.keys.into_iter().map(|key| (key.id.clone(), own(key))).collect();
        self.version = version;
        Ok(())
    }

    /// The record with this id, as last read.
    pub(crate) fn find(&self, id: &str) -> Option<&Versioned> {
        self.keys.get(id)
    }

    /// The record with this name or id, as last read; a revoked key of the same name is found last.
    pub(crate) fn find_named(&self, name: &str) -> Option<&Versioned> {
        let named = || self.keys.values().filter(|key| key.record.name == name || key.record.id == name);
        named().find(|key| key.record.revoked_at.is_none()).or_else(|| named().next())
    }

    /// What gateways on other machines need to know, as last read; `None`: the keys are made on another machine.
    pub(crate) fn publication(&self) -> Option<&Rc<Publication>> {
        self.publication.as_ref()
    }

    /// Reads the file again if it has changed. To be called once for each request: it costs a system call.
    pub(crate) fn look(&mut self) {
        let version = Version::of(&self.path).ok();
        if version == self.version {
            return;
        }
        let was_there = self.version.is_some();
        match self.read() {
            Ok(()) if was_there && self.version.is_none() => {
                let shown = self.path.display();
                note(&format!("warning: the file of the keys, `{shown}`, was removed; restore it from a backup"));
            }
            Ok(()) => {}
            Err(error) => {
                // Until the file changes again. qwenauth never writes an unreadable one.
                self.version = version;
                note(&format!("warning: still using the keys that were read last: {error:#}"));
            }
        }
    }

    /// The last lines of the audit log, each with the revision that it produced.
    pub(crate) fn last_changes(&self) -> Vec<(u64, String)> {
        super::last_lines(&self.path.with_file_name(paths::AUDIT))
    }

    /// All keys as last read.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Rc<KeyRecord>> {
        self.keys.values().map(|key| &key.record)
    }
}

/// A key that a client sent.
#[derive(Debug, Clone)]
pub(crate) enum Shown {
    Valid(Rc<KeyRecord>),
    Expired(Rc<KeyRecord>),
    Unknown,
}

impl Shown {
    /// Whether `key` is that of `record`, which was found by its id.
    pub(crate) fn of(
        record: Option<Rc<KeyRecord>>,
        key: &super::KeyText,
        secret: &TeamSecret,
        now: SystemTime,
    ) -> Self {
        let Some(record) = record.filter(|record| record.is(key, secret, now)) else { return Self::Unknown };
        match record.state(now) {
            State::Active | State::Rotating => Self::Valid(record),
            State::Expired => Self::Expired(record),
            State::Revoked => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "the test writes what an earlier version did")]

    use std::time::Duration;

    use super::*;
    use crate::keys::KeyText;

    fn places(directory: &Path) -> Places {
        let path = |name: &str| directory.join(name);
        Places { keys: path("keys.json"), audit: path(paths::AUDIT), secret: path("secret"), is_secret_given: false }
    }

    fn create(places: &Places, name: &str, now: SystemTime) -> Result<String> {
        let (record, _) = KeyRecord::create(name, &TeamSecret::new(), now);
        let id = record.id.clone();
        Keys::change(places, now, |keys| {
            keys.add(record)?;
            Ok((id.clone(), Change { verb: "create", id, changes: Value::Null }))
        })
    }

    #[test]
    fn changes_at_once_are_all_kept_each_with_a_revision_and_a_line_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let places = places(directory.path());
        let now = SystemTime::now();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let places = &places;
                scope.spawn(move || {
                    for number in 0..4 {
                        create(places, &format!("key-{thread}-{number}"), now).unwrap();
                    }
                });
            }
        });
        let keys = Directory::open(&places.keys).unwrap();
        assert_eq!(keys.all().count(), 32);
        let first = u64::try_from(now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap();
        let lines = keys.last_changes();
        let revisions: Vec<u64> = lines.iter().map(|(revision, _)| *revision).collect();
        assert_eq!(revisions, (first..first + 32).collect::<Vec<_>>());
        for (_, line) in lines {
            let line: Value = serde_json::from_str(&line).unwrap();
            let record = &keys.find(line["key"].as_str().unwrap()).unwrap().record;
            assert_eq!((&line["verb"], &line["name"]), (&"create".into(), &record.name.as_str().into()));
        }
    }

    #[test]
    fn a_file_keeps_the_identity_that_its_first_change_gave_it() {
        let directory = tempfile::tempdir().unwrap();
        let places = places(directory.path());
        let now = SystemTime::now();
        let id = create(&places, "ann", now).unwrap();
        let source = || Keys::read(&places.keys).unwrap().publication().unwrap().source;
        let first = format!("{id}{}", epoch::seconds(now));
        assert_eq!(source(), first);
        Keys::change(&places, now, |keys| {
            keys.keys.clear();
            Ok(((), Change { verb: "clear", id, changes: Value::Null }))
        })
        .unwrap();
        assert_eq!(source(), first);
        create(&places, "bob", now).unwrap();
        assert_eq!(source(), first);
        assert!(Keys::default().publication().is_none());
    }

    #[test]
    fn a_secret_is_made_only_where_no_key_needs_another_and_none_is_configured() {
        let directory = tempfile::tempdir().unwrap();
        let own = places(directory.path());
        let given = Places { is_secret_given: true, ..own.clone() };
        assert!(given.team_secret().is_err() && !own.secret.exists());
        create(&own, "ann", SystemTime::now()).unwrap();
        assert!(own.team_secret().is_err() && !own.secret.exists(), "that of the keys is elsewhere");
        std::fs::remove_file(&own.keys).unwrap();
        let made = own.team_secret().unwrap();
        create(&own, "ann", SystemTime::now()).unwrap();
        assert_eq!(own.team_secret().unwrap().bytes(), made.bytes());
        assert_eq!(given.team_secret().unwrap().bytes(), made.bytes());
    }

    #[test]
    fn a_revoked_key_is_kept_for_400_days() {
        let directory = tempfile::tempdir().unwrap();
        let places = places(directory.path());
        let now = SystemTime::now();
        let of_the_past = |days: u64, more: u64| epoch::seconds(now) - days * 86400 - more;
        let revoked = [of_the_past(0, 0), of_the_past(400, 0), of_the_past(400, 1), of_the_past(1000, 0)];
        for (number, at) in revoked.into_iter().enumerate() {
            let id = create(&places, &format!("key-{number}"), now).unwrap();
            Keys::change(&places, now, |keys| {
                keys.keys.iter_mut().filter(|key| key.id == id).for_each(|key| key.revoked_at = Some(at));
                Ok(((), Change { verb: "revoke", id, changes: Value::Null }))
            })
            .unwrap();
        }
        let keys = Keys::read(&places.keys).unwrap();
        assert_eq!(keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["key-0", "key-1"]);
    }

    #[test]
    fn a_file_that_could_not_be_read_again_is_not_written() {
        let padded = |length: usize| {
            let mut keys = Keys::default();
            keys.others.insert("of_a_later_version".to_owned(), "x".repeat(length).into());
            keys.text_within(MAX_FILE_SIZE, "")
        };
        let rest = usize::try_from(MAX_FILE_SIZE).unwrap() - padded(0).unwrap().len();
        assert_eq!(padded(rest).unwrap().len() as u64, MAX_FILE_SIZE);
        assert!(padded(rest + 1).is_err() && padded(2 * rest).is_err());
    }

    #[test]
    fn keys_of_a_full_file_can_be_revoked_and_make_room() {
        let directory = tempfile::tempdir().unwrap();
        let places = places(directory.path());
        let now = SystemTime::now();
        let (record, _) = KeyRecord::create("key-0000", &TeamSecret::new(), now);
        let mut full = Keys { revision: epoch::milliseconds(now) - 1, source: Some(String::new()), ..Keys::default() };
        let rest = |keys: &Keys| usize::try_from(MAX_FILE_SIZE).unwrap() - keys.text().unwrap().len();
        let each = serde_json::to_string(&record).unwrap().len() + 2;
        full.keys = vec![record; rest(&full) / each];
        for (number, key) in full.keys.iter_mut().enumerate() {
            (key.id, key.name) = (format!("id{number:06}"), format!("key-{number:04}"));
        }
        full.source = Some("x".repeat(rest(&full)));
        std::fs::write(&places.keys, full.text().unwrap()).unwrap();
        let ids: Vec<String> = full.keys.iter().map(|key| key.id.clone()).collect();
        let change = |id: &str, change: &dyn Fn(&mut KeyRecord)| {
            Keys::change(&places, now, |keys| {
                change(keys.live(id)?);
                Ok(((), Change { verb: "change", id: id.to_owned(), changes: Value::Null }))
            })
        };
        let own = |key: &mut KeyRecord| key.owner = Some("x".repeat(130));
        let error = change(&ids[9], &own).unwrap_err();
        assert_eq!(error.to_string(), "there are too many keys: their file would exceed 1024 KiB");
        let revoked = &ids[..3];
        for (number, id) in revoked.iter().enumerate() {
            change(id, &|key| key.revoke(now + Duration::from_secs(number as u64))).unwrap();
        }
        let known = || {
            let keys = Keys::read(&places.keys).unwrap();
            revoked.iter().map(|id| keys.find(id).map(|key| key.revoked_at.is_some())).collect::<Vec<_>>()
        };
        assert_eq!(known(), [Some(true); 3]);
        // The one that was revoked first gives way.
        change(&ids[9], &own).unwrap();
        assert_eq!(known(), [None, Some(true), Some(true)]);
        let error = create(&places, "new", now).unwrap_err();
        assert_eq!(error.to_string(), "there are too many keys: their file would exceed 896 KiB");
        assert_eq!(Keys::read(&places.keys).unwrap().keys.len(), ids.len() - 1);
    }

    #[test]
    fn a_key_that_expired_is_told_apart_and_one_that_is_revoked_or_of_another_is_unknown() {
        let (secret, now) = (TeamSecret::new(), SystemTime::now());
        let (record, key) = KeyRecord::create("ann", &secret, now);
        let shown = |record: &KeyRecord, key: &KeyText| match Shown::of(
            Some(Rc::new(record.clone())),
            key,
            &secret,
            now + Duration::from_secs(60),
        ) {
            Shown::Valid(_) => "valid",
            Shown::Expired(_) => "expired",
            Shown::Unknown => "unknown",
        };
        assert_eq!(shown(&record, &key), "valid");
        assert_eq!(shown(&record, &KeyText::new()), "unknown");
        let at = Some(epoch::seconds(now) + 30);
        let expired = KeyRecord { expires_at: at, ..record.clone() };
        assert_eq!(shown(&expired, &key), "expired");
        assert_eq!(shown(&KeyRecord { revoked_at: at, ..record }, &key), "unknown");
        assert_eq!(shown(&KeyRecord { revoked_at: at, ..expired }, &key), "unknown");
        assert!(matches!(Shown::of(None, &key, &secret, now), Shown::Unknown));
    }
}
