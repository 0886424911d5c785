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
