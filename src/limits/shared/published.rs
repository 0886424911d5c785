//! The records of keys on the server: published from keys.json, and read where that is not.

use std::rc::Rc;

use anyhow::Result;
use redis::aio::MultiplexedConnection;
use serde_json::json;

use super::link::Link;
use super::names::Names;
use super::records::Records;
use super::script::{self, PUBLISH};
use super::secret::{SecretCheck, sentence};
use crate::error::note;
use crate::keys::{Publication, Versioned};
use crate::limits::together::Outcome;
use crate::platform::system;

/// The record of the key cannot be determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Away;

/// The keys of a team, as this gateway knows them.
pub(super) struct PublishedKeys {
    link: Rc<Link>,
    pub(super) records: Records,
    pub(super) secret: SecretCheck,
}

impl PublishedKeys {
    pub(super) fn new(link: Rc<Link>) -> Rc<Self> {
        Rc::new(Self { link, records: Records::default(), secret: SecretCheck::default() })
    }

    /// Whether a decision may rely on this record although the server cannot confirm it now.
    pub(super) fn trusts(&self, key: Option<&Versioned>) -> bool {
        key.is_none_or(|key| self.records.is_trusted(&key.record.id, self.link.clock.own()))
    }

    /// Compares the secret with that of the keys `there`. Beside keys.json what the server has is replaced.
    pub(super) fn compare_secret(&self, there: Option<&str>) {
        if self.records.publication().is_none() && self.secret.compare(there) {
            note(&format!("warning: {}; every key is rejected", sentence(&self.link.address.shown())));
        }
    }

    /// The record of a key. `now`: as it is on the server, not as last read.
    pub(super) async fn record(&self, id: &str, now: bool) -> Result<Option<Versioned>, Away> {
        self.records.look();
        self.publish_changes().await;
        if let Some(own) = self.records.own(id) {
            return Ok(Some(own));
        }
        let is_up = self.link.is_up();
        if let Some(known) = self.records.known(id).filter(|_| is_up && !now) {
            return Ok(Some(known));
        }
        let trusted = || {
            let known = self.records.known(id).filter(|_| self.records.is_trusted(id, self.link.clock.own()));
            known.map(Some).ok_or(Away)
        };
        if is_up && let Some((record, is_complete)) = self.fetch(id).await {
            let Some((version, text)) = record.as_deref().and_then(|text| text.split_once(' ')) else {
                if is_complete {
                    self.records.forget(id);
                    return Ok(None);
                }
                // They are being sent to a server that was emptied.
                return trusted();
            };
            return self.records.remember(id, version, text, self.link.clock.own()).map(Some).ok_or(Away);
        }
        trusted()
    }

    /// The record of a key as it was read when its request was examined, for the decision, which checks whether it is still
    /// valid.
    pub(super) async fn record_read(&self, id: &str) -> Result<Option<Versioned>, Away> {
        let read = self.records.own(id).or_else(|| self.records.known(id));
        match read.filter(|_| self.link.is_up()) {
            Some(read) => Ok(Some(read)),
            None => self.record(id, false).await,
        }
    }

    /// The record of the key with this name or id, as last read; a decision checks whether it is still valid.
    pub(super) async fn record_named(&self, name: &str) -> Result<Option<Versioned>, Away> {
        self.records.look();
        self.publish_changes().await;
        if let Some(own) = self.records.own_named(name) {
            return Ok(Some(own));
        }
        let known = self.records.known_named(name);
        if !self.link.is_up() {
            return known
                .filter(|key| self.records.is_trusted(&key.record.id, self.link.clock.own()))
                .map(Some)
                .ok_or(Away);
        }
        if let Some(known) = known {
            return Ok(Some(known));
        }
        let id = match self.fetch(&format!(":name:{name}")).await {
            Some((Some(id), _)) => id,
            Some((None, _)) => name.to_owned(),
            None => return Err(Away),
        };
        self.record(&id, true).await
    }

    /// The record of a key, and whether the server has all keys.
    async fn fetch(&self, id: &str) -> Option<(Option<String>, bool)> {
        let mut connection = self.link.connection.borrow().clone()?;
        let mut command = redis::cmd("HMGET");
        command.arg(self.link.names.records()).arg(id).arg(":revision");
        let answer = command.query_async::<(Option<String>, Option<String>)>(&mut connection).await;
        self.link.kept(answer).map(|(record, revision)| (record, revision.is_some()))
    }

    /// Publishes keys.json if it has changed since it was last published.
    pub(super) async fn publish_changes(&self) {
        if !self.link.is_up() || self.records.is_published() {
            return;
        }
        let (Some(publication), Some(mut connection)) =
            (self.records.publication(), self.link.connection.borrow().clone())
        else {
            return;
        };
        if let Err(error) = self.publish_over(&mut connection, &publication).await {
            self.link.lose(&format!("{error:#}"));
        }
    }

    pub(super) async fn publish_over(
        &self,
        connection: &mut MultiplexedConnection,
        publication: &Publication,
    ) -> Result<()> {
        let lines = self.records.last_changes();
        let outcome = publish(connection, &self.link.names, publication, self.secret.own().as_deref(), &lines)
            .await
            .map_err(|error| self.link.failure(&error))?;
        self.records.published(publication.revision);
        if let Outcome::Foreign { host } = outcome {
            let shown = self.link.address.shown();
            note(&format!(
                "warning: the keys at `{shown}` are managed on `{host}`; the keys.json of this machine is not used"
            ));
            self.records.disregard_own();
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
    let outcome = script::run(connection, &PUBLISH, &keys, &said).await?;
    let Outcome::Wanted = outcome else { return Ok(outcome) };
    said["records"] = publication
        .records
        .iter()
        .map(|record| json!([record.id, record.version, record.text, record.name.as_deref().unwrap_or_default()]))
        .collect();
    said["lines"] = lines.iter().map(|(revision, line)| json!([revision, line])).collect();
    script::run(connection, &PUBLISH, &keys, &said).await
}
