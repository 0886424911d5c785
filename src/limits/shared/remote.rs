//! The server for commands, which query it once and exit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use redis::aio::MultiplexedConnection;
use rustls::ClientConfig;

use super::Where;
use super::inspect::{check, failure};
use super::keys::{KEYS_OF_A_QUESTION, Look, answer_of, answer_of_account, question_of, question_of_account};
use super::ledger::read_day;
use super::names::Names;
use super::published::publish;
use super::script::{self, LOOK};
use crate::keys::{KeyRecord, Publication};
use crate::limits::together::{Counted, KeyStanding, Outcome, Row, SharedAccount, Sums};

/// Timeout of a command's request: nothing else waits for it.
const TIMEOUT: Duration = Duration::from_secs(5);

impl Where {
    /// Sends the request over a connection of its own.
    fn asked<T>(
        &self,
        tls: ClientConfig,
        ask: impl AsyncFnOnce(&mut MultiplexedConnection, &Names) -> redis::RedisResult<T>,
    ) -> Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let address = self.address.clone().with_timeout(TIMEOUT);
        let names = Names::new(&self.namespace);
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let mut connection = address.connect(&Arc::new(tls)).await?;
            check(&address, &mut connection).await?;
            ask(&mut connection, &names).await.map_err(|error| failure(&error, TIMEOUT))
        })
    }

    /// If the keys there are from another keys.json than `source`: the host that has it.
    pub(crate) fn foreign_host(&self, tls: ClientConfig, source: Option<&str>) -> Result<Option<String>> {
        self.asked(tls, async |connection, names| {
            let mut command = redis::cmd("HMGET");
            command.arg(names.records()).arg(":source").arg(":host");
            let (found, host): (Option<String>, Option<String>) = command.query_async(connection).await?;
            Ok(host.filter(|_| found.is_some_and(|found| Some(found.as_str()) != source)))
        })
    }

    /// Publishes keys.json to all gateways, with the changes to it.
    pub(crate) fn publish(
        &self,
        tls: ClientConfig,
        publication: &Publication,
        check: Option<&str>,
        changes: &[(u64, String)],
    ) -> Result<Outcome> {
        self.asked(tls, async |connection, names| publish(connection, names, publication, check, changes).await)
    }

    /// What each key used, counted by all gateways.
    pub(crate) fn standings(&self, tls: ClientConfig, keys: &[&KeyRecord]) -> Result<Vec<KeyStanding>> {
        self.asked(tls, async |connection, names| {
            let (seconds, _): (u64, u64) = redis::cmd("TIME").query_async(connection).await?;
            let used_at: BTreeMap<String, u64> =
                redis::cmd("HGETALL").arg(names.used_at()).query_async(connection).await?;
            let mut standings = Vec::new();
            for some in keys.chunks(KEYS_OF_A_QUESTION) {
                let (asked, said) = question_of(names, some, seconds * 1000);
                let look: Look = script::run(connection, &LOOK, &asked, &said).await?;
                for (key, left) in some.iter().zip(answer_of(some, seconds * 1000, look)) {
                    let used_at = used_at.get(&key.id).copied().unwrap_or_default() / 1000;
                    standings.push(KeyStanding { left, used_at });
                }
            }
            Ok(standings)
        })
    }

    /// What all gateways counted of accounts.
    pub(crate) fn counted(&self, tls: ClientConfig, accounts: &[SharedAccount]) -> Result<Vec<Counted>> {
        self.asked(tls, async |connection, names| {
            let (seconds, _): (u64, u64) = redis::cmd("TIME").query_async(connection).await?;
            let at = seconds * 1000;
            let mut counted = Vec::new();
            for account in accounts {
                let (asked, said) = question_of_account(names, account, at);
                let look: Look = script::run(connection, &LOOK, &asked, &said).await?;
                counted.push(answer_of_account(account, at, look));
            }
            Ok(counted)
        })
    }

    /// What passed through all gateways on `days`, and the names of keys by id.
    pub(crate) fn usage(
        &self,
        tls: ClientConfig,
        days: &[String],
    ) -> Result<(BTreeMap<Row, Sums>, BTreeMap<String, String>)> {
        self.asked(tls, async |connection, names| {
            let mut sums = BTreeMap::new();
            for day in days {
                let fields: Vec<(String, String)> =
                    redis::cmd("HGETALL").arg(names.usage(day)).query_async(connection).await?;
                read_day(day, fields, &mut sums);
            }
            let records: BTreeMap<String, String> =
                redis::cmd("HGETALL").arg(names.records()).query_async(connection).await?;
            let name = |text: &str| Some(serde_json::from_str::<KeyRecord>(text.split_once(' ')?.1).ok()?.name);
            let names = records.into_iter().filter_map(|(id, text)| Some((id, name(&text)?)));
            Ok((sums, names.collect()))
        })
    }
}
