//! The records of keys: made on one machine, where keys.json is, and read by the gateways of all others.
//!
//! Hazard: a key is revoked while a gateway cannot reach the server, or the server is emptied and knows no key. Rule:
//! keys.json is authoritative, and the server has a copy of it with a revision, which only a later one replaces.
//! Records that a gateway has read are valid for 15 minutes without the server; on the machine of keys.json, as long
//! as the file has them.

use std::rc::Rc;

use anyhow::Result;
use redis::aio::MultiplexedConnection;
use serde::Deserialize;
use serde_json::json;

use super::ask::{self, Names, PUBLISH};
use super::link::failure;
use super::{Shared, State};
use crate::error::note;
use crate::keys::{Directory, KeyRecord, Publication};
use crate::platform::system;

/// While the server is unreachable, a record read longer ago than this is not used. In milliseconds.
const TRUST_RECORDS: i64 = 900_000;

/// The record of a key, as the server had it.
#[derive(Debug, Clone)]
pub(super) struct Known {
    version: String,
    record: Rc<KeyRecord>,
    /// By the gateway's own clock, in milliseconds.
    pub(super) seen: i64,
}

/// A record, and its version, which distinguishes it from earlier ones of the same key.
pub(crate) type Versioned = (Rc<KeyRecord>, String);

/// The record of the key cannot be determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Away;

/// The result of publishing.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase", tag = "outcome")]
pub(crate) enum Outcome {
    Published,
    /// The server already has these or later ones.
    Known,
    /// The complete set has to be sent.
    Wanted,
    /// The server has the keys of another keys.json, which is on `host`.
    Foreign {
        host: String,
    },
}

impl Shared {
    /// On the machine of keys.json, a gateway also publishes it.
    pub(crate) fn begin_with(&self, directory: Directory) {
        *self.directory.borrow_mut() = Some(directory);
    }

    /// The record of a key. `now`: as it is on the server, not as last read.
    pub(crate) async fn record(&self, id: &str, now: bool) -> Result<Option<Versioned>, Away> {
        self.publish_changes().await;
        if let Some(own) = self.own_record(id) {
            return Ok(Some(own));
        }
        let known = || self.records.borrow().get(id).map(|known| (Rc::clone(&known.record), known.version.clone()));
        if let Some(known) = known().filter(|_| !now && self.state.get() == State::Up) {
            return Ok(Some(known));
        }
        if self.state.get() == State::Up
            && let Some((record, is_complete)) = self.fetch(id).await
        {
            return match record.and_then(|text| text.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()))) {
                Some((version, text)) => {
                    self.remember(id, &version, &text).map(|record| Some((record, version))).ok_or(Away)
                }
                None if is_complete => {
                    self.records.borrow_mut().remove(id);
                    Ok(None)
                }
                // They are being sent to a server that was emptied.
                None => known().filter(|_| self.is_trusted(id)).map(Some).ok_or(Away),
            };
        }
        known().filter(|_| self.is_trusted(id)).map(Some).ok_or(Away)
    }

    /// The record of the key with this name or id, as last read; a decision checks whether it is still valid.
    pub(crate) async fn record_named(&self, name: &str) -> Result<Option<Rc<KeyRecord>>, Away> {
        self.publish_changes().await;
        let own = self.directory.borrow_mut().as_mut().and_then(|directory| directory.find_named(name));
        if let Some(own) = own {
            return Ok(self.own_record(&own.id).map(|(record, _)| record));
        }
        let is_it = |record: &KeyRecord| (record.name == name || record.id == name) && record.revoked_at.is_none();
        let known = || self.known_keys().into_iter().find(|record| is_it(record));
        if self.state.get() != State::Up {
            return known().filter(|record| self.is_trusted(&record.id)).map(Some).ok_or(Away);
        }
        if let Some(known) = known() {
            return Ok(Some(known));
        }
        let id = match self.fetch(&format!(":name:{name}")).await {
            Some((Some(id), _)) => id,
            Some((None, _)) => name.to_owned(),
            None => return Err(Away),
        };
        Ok(self.record(&id, true).await?.map(|(record, _)| record))
    }

    /// From keys.json of this machine.
    fn own_record(&self, id: &str) -> Option<Versioned> {
        let record = self.directory.borrow_mut().as_mut()?.find(id)?;
        // The server may know a later one, from a copy of the file that was changed on another machine.
        let known = self.records.borrow().get(id).cloned().filter(|_| self.is_published());
        let version = record.published().version;
        Some(known.map_or((record, version), |known| (known.record, known.version)))
    }

    async fn fetch(&self, id: &str) -> Option<(Option<String>, bool)> {
        let mut connection = self.connection.borrow().clone()?;
        let mut command = redis::cmd("HMGET");
        command.arg(self.names.records()).arg(id).arg(":revision");
        match command.query_async::<(Option<String>, Option<String>)>(&mut connection).await {
            Ok((record, revision)) => Some((record, revision.is_some())),
            Err(error) => {
                self.lose(&super::link::reason(&error, self.address.timeout()));
                None
            }
        }
    }

    /// Keeps a record that the server returned. `None`: it is invalid.
    pub(super) fn remember(&self, id: &str, version: &str, text: &str) -> Option<Rc<KeyRecord>> {
        match serde_json::from_str::<KeyRecord>(text) {
            Ok(record) => {
                let record = Rc::new(record);
                let known = Known { version: version.to_owned(), record: Rc::clone(&record), seen: self.own_clock() };
                self.records.borrow_mut().insert(id.to_owned(), known);
                Some(record)
            }
            Err(error) => {
                log::warn!("the record of key `{id}` is invalid: {error}");
                None
            }
        }
    }

    /// The server confirmed the record that is known here.
    pub(super) fn saw_record(&self, id: &str) {
        if let Some(known) = self.records.borrow_mut().get_mut(id) {
            known.seen = self.own_clock();
        }
    }

    fn own_clock(&self) -> i64 {
        self.own_time().cast_signed()
    }

    /// Whether a key may be used although the server cannot confirm it now.
    pub(super) fn is_trusted(&self, id: &str) -> bool {
        let is_own = self.directory.borrow_mut().as_mut().is_some_and(|directory| directory.find(id).is_some());
        let is_fresh = |known: &Known| self.own_clock() - known.seen < TRUST_RECORDS;
        is_own || self.records.borrow().get(id).is_some_and(is_fresh)
    }

    /// All keys known here.
    pub(crate) fn known_keys(&self) -> Vec<Rc<KeyRecord>> {
        let mut keys: std::collections::BTreeMap<String, Rc<KeyRecord>> = std::collections::BTreeMap::new();
        if let Some(directory) = &*self.directory.borrow() {
            keys.extend(directory.all().map(|key| (key.id.clone(), Rc::clone(key))));
        }
        let records = self.records.borrow();
        keys.extend(records.iter().map(|(id, known)| (id.clone(), Rc::clone(&known.record))));
        keys.into_values().collect()
    }

    /// Publishes keys.json if it has changed since it was last published.
    pub(super) async fn publish_changes(&self) {
        let Some(publication) = self.publication() else { return };
        if self.is_published() || self.state.get() != State::Up {
            return;
        }
        let Some(mut connection) = self.connection.borrow().clone() else { return };
        if let Err(error) = self.publish_over(&mut connection, &publication).await {
            self.lose(&format!("{error:#}"));
        }
    }

    /// Whether the current keys.json was published.
    fn is_published(&self) -> bool {
        let now = self.publication().map(|publication| publication.revision);
        now.is_some() && now == self.published.get()
    }

    pub(super) fn publication(&self) -> Option<Rc<Publication>> {
        self.directory.borrow_mut().as_mut()?.publication()
    }

    pub(super) async fn publish_over(
        &self,
        connection: &mut MultiplexedConnection,
        publication: &Publication,
    ) -> Result<()> {
        let lines = self.directory.borrow().as_ref().map(Directory::last_changes).unwrap_or_default();
        let outcome = publish(connection, &self.names, publication, self.secret.own().as_deref(), &lines)
            .await
            .map_err(|error| failure(&error, self.address.timeout()))?;
        // The server's records are outdated now.
        self.records.borrow_mut().clear();
        self.published.set(Some(publication.revision));
        if let Outcome::Foreign { host } = outcome {
            let shown = self.address.shown();
            note(&format!(
                "warning: the keys at `{shown}` are made on `{host}`; the keys.json of this machine is not used"
            ));
            self.directory.borrow_mut().take();
        }
        Ok(())
    }
}

/// Publishes `publication` if it is later than what the server has, with those `lines` of the audit log that the
/// server lacks.
/// `check`: of the team secret.
pub(super) async fn publish(
    connection: &mut MultiplexedConnection,
    names: &Names,
    publication: &Publication,
    check: Option<&str>,
    lines: &[(u64, String)],
) -> redis::RedisResult<Outcome> {
    let keys = [names.records(), names.audit()];
    let mut said = json!({
        "source": publication.source,
        "host": system::host_name().unwrap_or_default(),
        "revision": publication.revision,
    });
    if let Some(check) = check {
        said["check"] = check.into();
    }
    let outcome = ask::run(connection, &PUBLISH, &keys, &said).await?;
    let Outcome::Wanted = outcome else { return Ok(outcome) };
    said["records"] = publication
        .records
        .iter()
        .map(|record| json!([record.id, record.version, record.text, record.name.as_deref().unwrap_or_default()]))
        .collect();
    said["lines"] = lines.iter().map(|(revision, line)| json!([revision, line])).collect();
    ask::run(connection, &PUBLISH, &keys, &said).await
}
