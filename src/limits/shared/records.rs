//! The records of keys: made on one machine, where keys.json is, and read by the gateways of all others.
//!
//! Hazard: a key is revoked while a gateway cannot reach the server, or the server is emptied and knows no key. Rule:
//! keys.json is authoritative, and the server has a copy of it with a revision, which only a later one replaces.
//! Records that a gateway has read are valid for 15 minutes without the server; on the machine of keys.json, as long
//! as the file has them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::keys::{Directory, KeyRecord, Publication, Versioned};

/// While the server is unreachable, a record read longer ago than this is not used. In milliseconds.
const TRUST_RECORDS: i64 = 900_000;

/// The record of a key, as the server had it.
#[derive(Debug, Clone)]
struct Known {
    key: Versioned,
    seen: i64,
}

/// What is known here of the keys, as last read. `now`: by the gateway's own clock, in milliseconds.
#[derive(Default)]
pub(super) struct Records {
    /// By id, as the server returned them.
    known: RefCell<BTreeMap<String, Known>>,
    /// keys.json, if it is on this machine, and the revision published last.
    directory: RefCell<Option<Directory>>,
    published: Cell<Option<u64>>,
}

impl Records {
    pub(super) fn begin_with(&self, directory: Directory) {
        self.directory.replace(Some(directory));
    }

    /// Reads keys.json again if it has changed. Everything else here is as it was at the last look.
    pub(super) fn look(&self) {
        if let Some(directory) = &mut *self.directory.borrow_mut() {
            directory.look();
        }
    }

    /// From keys.json of this machine.
    pub(super) fn own(&self, id: &str) -> Option<Versioned> {
        let directory = self.directory.borrow();
        let own = directory.as_ref()?.find(id)?;
        // The server may know a later one, from a copy of the file that was changed on another machine.
        let known = if self.is_published() { self.known(id) } else { None };
        Some(known.unwrap_or_else(|| own.clone()))
    }

    pub(super) fn own_named(&self, name: &str) -> Option<Versioned> {
        let id = self.directory.borrow().as_ref()?.find_named(name)?.record.id.clone();
        self.own(&id)
    }

    /// As the server returned it.
    pub(super) fn known(&self, id: &str) -> Option<Versioned> {
        self.known.borrow().get(id).map(|known| known.key.clone())
    }

    pub(super) fn known_named(&self, name: &str) -> Option<Versioned> {
        let is_it = |key: &KeyRecord| (key.name == name || key.id == name) && key.revoked_at.is_none();
        self.known.borrow().values().find(|known| is_it(&known.key.record)).map(|known| known.key.clone())
    }

    /// Keeps a record that the server returned. `None`: it is invalid.
    pub(super) fn remember(&self, id: &str, version: &str, text: &str, now: i64) -> Option<Versioned> {
        match serde_json::from_str::<KeyRecord>(text) {
            Ok(record) => {
                let key = Versioned { record: Rc::new(record), version: version.into() };
                self.known.borrow_mut().insert(id.to_owned(), Known { key: key.clone(), seen: now });
                Some(key)
            }
            Err(error) => {
                log::warn!("the record of key `{id}` is invalid: {error}");
                None
            }
        }
    }

    /// The server confirmed the record that is known here.
    pub(super) fn saw(&self, id: &str, now: i64) {
        if let Some(known) = self.known.borrow_mut().get_mut(id) {
            known.seen = now;
        }
    }

    /// The server has no such key.
    pub(super) fn forget(&self, id: &str) {
        self.known.borrow_mut().remove(id);
    }

    /// Whether a key may be used although the server cannot confirm it now.
    pub(super) fn is_trusted(&self, id: &str, now: i64) -> bool {
        let is_own = self.directory.borrow().as_ref().is_some_and(|directory| directory.find(id).is_some());
        let is_fresh = |known: &Known| now - known.seen < TRUST_RECORDS;
        is_own || self.known.borrow().get(id).is_some_and(is_fresh)
    }

    pub(super) fn all(&self) -> Vec<Rc<KeyRecord>> {
        let mut keys: BTreeMap<String, Rc<KeyRecord>> = BTreeMap::new();
        if let Some(directory) = &*self.directory.borrow() {
            keys.extend(directory.all().map(|key| (key.id.clone(), Rc::clone(key))));
        }
        let known = self.known.borrow();
        keys.extend(known.iter().map(|(id, known)| (id.clone(), Rc::clone(&known.key.record))));
        keys.into_values().collect()
    }

    /// What is to be published of keys.json.
    pub(super) fn publication(&self) -> Option<Rc<Publication>> {
        self.directory.borrow().as_ref()?.publication().map(Rc::clone)
    }

    /// Whether the current keys.json was published, or there is none.
    pub(super) fn is_published(&self) -> bool {
        let directory = self.directory.borrow();
        let revision = directory.as_ref().and_then(Directory::publication).map(|publication| publication.revision);
        revision.is_none() || revision == self.published.get()
    }

    /// The last lines of the audit log, each with the revision that it produced.
    pub(super) fn last_changes(&self) -> Vec<(u64, String)> {
        self.directory.borrow().as_ref().map(Directory::last_changes).unwrap_or_default()
    }

    /// The server has this revision: its earlier records are outdated.
    pub(super) fn published(&self, revision: u64) {
        self.known.borrow_mut().clear();
        self.published.set(Some(revision));
    }

    /// The server has the keys of another keys.json, and the one here is not used.
    pub(super) fn disregard_own(&self) {
        self.directory.replace(None);
    }

    #[cfg(test)]
    pub(super) fn age(&self, id: &str, by: i64) {
        if let Some(known) = self.known.borrow_mut().get_mut(id) {
            known.seen -= by;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::keys::{Change, Keys, Places, TeamSecret};
    use crate::paths;

    fn record(name: &str) -> KeyRecord {
        KeyRecord::create(name, &TeamSecret::new(), SystemTime::now()).0
    }

    fn remember(records: &Records, record: &KeyRecord, now: i64) {
        let published = record.published();
        let kept = records.remember(&record.id, &published.version, &published.text, now).unwrap();
        assert_eq!((&*kept.record, &*kept.version), (record, published.version.as_str()));
    }

    #[test]
    fn a_record_is_found_by_id_or_name_until_it_is_forgotten_or_revoked() {
        let (records, ann, bob) = (Records::default(), record("ann"), record("bob"));
        assert!(records.known(&ann.id).is_none() && records.all().is_empty());
        remember(&records, &ann, 0);
        remember(&records, &bob, 0);
        let named = |name: &str| records.known_named(name).map(|key| key.record.id.clone());
        assert_eq!((named("ann"), named(&bob.id), named("carl")), (Some(ann.id.clone()), Some(bob.id.clone()), None));
        assert_eq!(records.known(&ann.id).map(|key| key.record.name.clone()).as_deref(), Some("ann"));
        let mut all: Vec<String> = records.all().iter().map(|key| key.name.clone()).collect();
        all.sort_unstable();
        assert_eq!(all, ["ann", "bob"]);
        let mut revoked = ann.clone();
        revoked.revoked_at = Some(1);
        remember(&records, &revoked, 0);
        assert_eq!((named("ann"), named(&ann.id)), (None, None));
        records.forget(&bob.id);
        assert!(records.known(&bob.id).is_none() && records.known(&ann.id).is_some());
        assert!(records.remember(&bob.id, "v", "{}", 0).is_none(), "no record");
        assert!(records.known(&bob.id).is_none());
    }

    #[test]
    fn a_record_is_trusted_for_15_minutes_after_the_server_confirmed_it() {
        let (records, ann) = (Records::default(), record("ann"));
        assert!(!records.is_trusted(&ann.id, 0));
        remember(&records, &ann, 1_000);
        assert!(records.is_trusted(&ann.id, 900_999) && !records.is_trusted(&ann.id, 901_000));
        records.saw(&ann.id, 5_000);
        assert!(records.is_trusted(&ann.id, 904_999) && !records.is_trusted(&ann.id, 905_000));
        records.saw("none", 5_000);
        assert!(!records.is_trusted("none", 5_000));
        // What the server has now is later than all that was read.
        assert!(records.is_published());
        records.published(3);
        assert!(!records.is_trusted(&ann.id, 5_000) && records.is_published() && records.publication().is_none());
        assert!(records.own(&ann.id).is_none() && records.own_named("ann").is_none());
        assert!(records.last_changes().is_empty());
    }

    #[test]
    fn beside_keys_json_its_keys_are_found_by_name_and_its_last_changes_are_published() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (keys, audit, secret) = (path("keys.json"), path(paths::AUDIT), path("secret"));
        let places = Places { keys, audit, secret, is_secret_given: false };
        let ids = ["ann", "bob"].map(|name| {
            let record = record(name);
            let id = record.id.clone();
            let change = || Change { verb: "create", id: id.clone(), changes: serde_json::Value::Null };
            Keys::change(&places, SystemTime::now(), |keys| keys.add(record).map(|()| ((), change()))).unwrap();
            id
        });
        let records = Records::default();
        records.begin_with(Directory::open(&places.keys).unwrap());
        let named = |name: &str| records.own_named(name).map(|key| key.record.id.clone());
        assert_eq!(["ann", "bob", "carl"].map(named), [Some(ids[0].clone()), Some(ids[1].clone()), None]);
        let changes = records.last_changes();
        assert!(changes.len() == 2 && changes.iter().zip(&ids).all(|((_, line), id)| line.contains(id)), "{changes:?}");
        assert_eq!(changes[1].0, records.publication().unwrap().revision);
    }
}
