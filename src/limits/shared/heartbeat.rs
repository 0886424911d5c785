//! Keeps the connection to the server: begun, kept alive, lost, and probed for in the background.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::Shared;
use super::catch_up::CatchUp;
use super::inspect::check;
use super::link::State;
use super::script::{ADMIT, FINISH};
use crate::error::note;

/// How often a gateway reports that it is alive.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// Pauses between probes of an unreachable server: doubled up to the maximum.
const PROBE_FIRST: Duration = Duration::from_secs(1);
const PROBE_LONGEST: Duration = Duration::from_secs(30);

impl Shared {
    /// Connects the first time. A server that is unreachable, or that must not be used, is retried.
    pub(crate) async fn begin(&self) {
        if let Err(error) = self.probe().await {
            self.say_missing(&error);
        }
    }

    /// Keeps the connection while the gateway runs.
    pub(crate) async fn maintain(self: Rc<Self>) {
        let mut pause = PROBE_FIRST;
        loop {
            if self.link.is_up() {
                tokio::select! {
                    () = tokio::time::sleep(BEAT_EVERY) => {}
                    () = self.link.changed.notified() => continue,
                }
                self.keys.publish_changes().await;
                self.beat().await;
                if self.link.is_up() {
                    // Only step by step: a server whose memory is nearly full permits a probe, and is lost again.
                    pause = (pause / 2).max(PROBE_FIRST);
                }
                self.ledger.send().await;
                continue;
            }
            if self.link.state.get() == State::Lost {
                tokio::time::sleep(pause).await;
            }
            match self.probe().await {
                Ok(()) => {}
                Err(error) if self.link.state.get() == State::Starting => {
                    self.say_missing(&error);
                    tokio::time::sleep(pause).await;
                }
                Err(error) => log::info!("the shared limits are still unavailable: {error:#}"),
            }
            pause = (pause * 2).min(PROBE_LONGEST);
        }
    }

    /// Reports once per reason that the server has never been reachable.
    fn say_missing(&self, error: &anyhow::Error) {
        let why = format!("{error:#}");
        if self.said.replace(why.clone()) != why {
            let shown = self.link.address.shown();
            note(&format!("warning: the shared limits at `{shown}` are not available: {why}; retrying"));
        }
    }

    /// Connects, sends the server what it missed, and returns decisions to it.
    pub(super) async fn probe(&self) -> Result<()> {
        let mut connection = self.link.connect().await?;
        check(&self.link.address, &mut connection).await?;
        for script in [&ADMIT, &FINISH] {
            script.load_async(&mut connection).await.map_err(|error| self.link.failure(&error))?;
        }
        let mut catch_up = CatchUp { shared: self, connection };
        catch_up.run().await?;
        self.link.restore(catch_up.connection);
        Ok(())
    }

    /// Reports that this gateway is alive, and learns what all have counted.
    pub(super) async fn beat(&self) {
        let Some(connection) = self.link.connection.borrow().clone() else { return };
        let mut exchange = CatchUp { shared: self, connection };
        match (exchange.tell_the_rest().await, exchange.beat().await) {
            (Ok(()), Ok(beat)) if beat.is_same => self.link.clock.set(beat.now),
            (Ok(()), Ok(_)) => self.link.lose("it was emptied, or is another server"),
            (Err(error), _) | (_, Err(error)) => self.link.lose(&format!("{error:#}")),
        }
    }

    /// After the last request: sends what ended too late, and the usage not sent yet.
    pub(crate) async fn send_final_reports(&self) {
        self.admissions.tickets.is_ending.set(true);
        let has_news = self.link.standing.borrow().has_news();
        let has_rest = has_news || self.admissions.tickets.has_postponed() || self.ledger.has_news();
        if has_rest {
            let is_up = self.link.is_up();
            let said = if is_up { self.say_over_another_connection().await } else { Err(anyhow!("it is unreachable")) };
            if let Err(error) = said {
                log::warn!("the server of the shared limits did not receive the last usage: {error:#}");
            }
        }
    }

    /// The runtime of the previous connection has ended, and the connection with it.
    async fn say_over_another_connection(&self) -> Result<()> {
        let connection = self.link.connect().await?;
        let mut exchange = CatchUp { shared: self, connection };
        exchange.tell_the_rest().await?;
        self.link.connection.replace(Some(exchange.connection));
        self.ledger.send().await;
        Ok(())
    }
}
