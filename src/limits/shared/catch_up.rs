//! What a gateway and the server tell each other apart from requests: that it is alive, what others counted, what was
//! admitted during an outage, and what an emptied server had before.

use std::time::Duration;

use anyhow::Result;
use redis::aio::MultiplexedConnection;
use serde::Deserialize;
use serde_json::json;

use super::counter_sync::QueriedCounters;
use super::finish_command::finish_command;
use super::link::State;
use super::script::{self, BEAT, FINISH, REJOIN};
use super::{GONE_AFTER, RESERVED_FOR, Shared};
use crate::epoch;

/// How long an emptied server waits for the counts of gateways that have not reconnected, from the first one that has: the
/// longest pause between their probes.
const RESTORE: Duration = Duration::from_secs(31);

#[derive(Deserialize)]
struct Beat {
    now: u64,
    epoch: String,
    alive: u64,
    #[serde(default, deserialize_with = "script::counts")]
    used: Vec<u64>,
    #[serde(default)]
    windows: Vec<Planned>,
    #[serde(default)]
    quotas: Vec<String>,
    /// Of the team secret under which the keys there are made.
    check: Option<String>,
}

#[derive(Deserialize)]
struct Planned {
    count: u64,
    last: u64,
}

#[derive(Deserialize)]
pub(super) struct Rejoined {
    epoch: String,
    restored: u64,
    /// Whether the other gateways still have time to return their counts.
    is_waiting: bool,
}

/// What a gateway learns when it reports that it is alive.
pub(super) struct Alive {
    pub(super) now: u64,
    /// Whether the server is the same, and was not emptied.
    pub(super) is_same: bool,
}

/// Over one connection, which need not be the one that requests use.
pub(super) struct CatchUp<'shared> {
    pub(super) shared: &'shared Shared,
    pub(super) connection: MultiplexedConnection,
}

impl CatchUp<'_> {
    /// Brings a server that is reachable again up to date.
    pub(super) async fn run(&mut self) -> Result<()> {
        let link = &self.shared.link;
        let known_alive = link.alive.get();
        let beat = self.beat().await?;
        link.clock.set(beat.now);
        let expected = if link.state.get() == State::Lost { known_alive } else { 1 };
        // An emptied server decides nothing until the other gateways have returned their counts, or had the time to.
        loop {
            let rejoined = self.rejoin().await?;
            link.epoch.replace(rejoined.epoch.into());
            if rejoined.restored >= expected || !rejoined.is_waiting {
                break;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        self.publish().await?;
        self.report_postponed().await?;
        // What all have counted, lest the next loss begin with what this gateway knew at the last one.
        let (beat, queried) = self.ask().await?;
        anyhow::ensure!(self.is_same(&beat), "it was emptied, or is another server");
        link.standing.borrow_mut().found();
        self.hear(&beat, &queried);
        Ok(())
    }

    /// Adds what was admitted alone to the server's counters.
    pub(super) async fn rejoin(&mut self) -> Result<Rejoined> {
        let link = &self.shared.link;
        let mut keys = vec![link.names.epoch(), link.names.of("restored"), link.names.of("restoring")];
        let counters = link.standing.borrow_mut().take_unreported(
            &link.names,
            &mut keys,
            link.now(),
            epoch::whole_milliseconds(RESERVED_FOR),
        );
        let said = json!({
            "instance": link.instance,
            "epoch": &**link.epoch.borrow(),
            "new": uuid::Uuid::new_v4().simple().to_string(),
            "wait": epoch::whole_milliseconds(RESTORE),
            "counters": counters,
        });
        let rejoined: Rejoined =
            script::run(&mut self.connection, &REJOIN, &keys, &said).await.map_err(|error| link.failure(&error))?;
        link.standing.borrow_mut().confirm_reported(link.now());
        Ok(rejoined)
    }

    /// Reports that this gateway is alive, and learns what all have counted.
    pub(super) async fn beat(&mut self) -> Result<Alive> {
        let link = &self.shared.link;
        let (beat, queried) = self.ask().await?;
        let is_same = self.is_same(&beat);
        // An emptied server knows less than this gateway, and a server that returns does not know what was counted
        // alone.
        if is_same && !link.standing.borrow().is_lost() {
            self.hear(&beat, &queried);
            link.standing.borrow_mut().prune(beat.now);
            link.alive.set(beat.alive.max(1));
        } else if link.state.get() == State::Starting {
            link.alive.set(beat.alive.max(1));
        }
        Ok(Alive { now: beat.now, is_same })
    }

    async fn ask(&mut self) -> Result<(Beat, QueriedCounters)> {
        let link = &self.shared.link;
        let mut keys = vec![link.names.epoch(), link.names.gateways(), link.names.records()];
        let (mut said, queried) = link.standing.borrow().query(&link.names, &mut keys, link.now());
        said["instance"] = link.instance.as_str().into();
        said["keep"] = epoch::whole_milliseconds(GONE_AFTER).into();
        said["hold"] = epoch::whole_milliseconds(RESERVED_FOR).into();
        let beat: Beat =
            script::run(&mut self.connection, &BEAT, &keys, &said).await.map_err(|error| link.failure(&error))?;
        self.shared.keys.compare_secret(beat.check.as_deref());
        Ok((beat, queried))
    }

    fn is_same(&self, beat: &Beat) -> bool {
        beat.epoch == **self.shared.link.epoch.borrow() && !beat.epoch.is_empty()
    }

    fn hear(&self, beat: &Beat, queried: &QueriedCounters) {
        let mut standing = self.shared.link.standing.borrow_mut();
        queried.used.iter().zip(&beat.used).for_each(|(name, used)| standing.heard(name, *used));
        queried.quotas.iter().zip(&beat.quotas).for_each(|(name, said)| standing.heard_quota(name, said));
        queried
            .windows
            .iter()
            .zip(&beat.windows)
            .for_each(|(name, seen)| standing.heard_window(name, seen.count, seen.last));
    }

    /// Publishes keys.json, if it is on this machine, to a server that may have been emptied.
    async fn publish(&mut self) -> Result<()> {
        let keys = &self.shared.keys;
        keys.records.look();
        match keys.records.publication() {
            Some(publication) => keys.publish_over(&mut self.connection, &publication).await,
            None => Ok(()),
        }
    }

    /// Adds what was admitted alone, or ended, between the last report and the server's return.
    pub(super) async fn tell_the_rest(&mut self) -> Result<()> {
        let has_news = self.shared.link.standing.borrow().has_news();
        if has_news {
            self.rejoin().await?;
        }
        self.report_postponed().await
    }

    /// Reports the requests that ended during the outage.
    async fn report_postponed(&mut self) -> Result<()> {
        let link = &self.shared.link;
        let tickets = &self.shared.admissions.tickets;
        while let Some((id, ticket, how)) = tickets.next_postponed() {
            let command = finish_command(link, &id, &ticket, how);
            if let Err(error) = script::call::<u64>(&mut self.connection, &FINISH, &command).await {
                tickets.postpone((id, ticket, how));
                return Err(link.failure(&error));
            }
        }
        tickets.say_lost();
        Ok(())
    }
}
