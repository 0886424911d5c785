//! The connection to the server: begun, used, lost, and probed for in the background.

use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use redis::{Cmd, FromRedisValue, RedisError, Script};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::catch_up::CatchUp;
use super::inspect::{check, failure, reason};
use super::script::{self, ADMIT, FINISH};
use super::{Shared, State};
use crate::error::note;
use crate::limits::together::OnLoss;

/// How often a gateway reports that it is alive.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// Pauses between probes of an unreachable server: doubled up to the maximum.
const PROBE_FIRST: Duration = Duration::from_secs(1);
const PROBE_LONGEST: Duration = Duration::from_secs(30);

impl Shared {
    /// Runs a script with an argument and an answer in JSON. `None`: the connection is lost, and this was recorded for all
    /// requests.
    pub(super) async fn run<T: DeserializeOwned>(&self, script: &Script, keys: &[String], said: &Value) -> Option<T> {
        let mut connection = self.connection.borrow().clone()?;
        self.kept(script::run(&mut connection, script, keys, said).await)
    }

    /// Calls a script by its complete command; otherwise the same.
    pub(super) async fn call<T: FromRedisValue>(&self, script: &Script, command: &Cmd) -> Option<T> {
        let mut connection = self.connection.borrow().clone()?;
        self.kept(script::call(&mut connection, script, command).await)
    }

    /// An answer; an error loses the connection.
    pub(super) fn kept<T>(&self, answer: Result<T, RedisError>) -> Option<T> {
        answer.map_err(|error| self.lose(&reason(&error, self.address.timeout()))).ok()
    }

    /// The server is unreachable: logged once, and recorded for all requests.
    pub(super) fn lose(&self, why: &str) {
        if self.state.get() != State::Up {
            return;
        }
        self.state.set(State::Lost);
        self.connection.borrow_mut().take();
        let alive = self.alive.get();
        self.standing.borrow_mut().lose(self.now(), alive);
        let consequence = match self.on_loss {
            OnLoss::Share => format!("this gateway serves its share of the limits, one of {alive}"),
            OnLoss::Refuse => "requests are refused until it is back".to_owned(),
            OnLoss::Open => "requests are served without limits until it is back".to_owned(),
        };
        note(&format!("warning: the shared limits at `{}` are lost: {why}; {consequence}", self.address.shown()));
        self.changed.notify_one();
    }

    /// Keeps the connection while the gateway runs.
    pub(crate) async fn keep(self: Rc<Self>) {
        let mut pause = PROBE_FIRST;
        loop {
            if self.state.get() == State::Up {
                pause = PROBE_FIRST;
                tokio::select! {
                    () = tokio::time::sleep(BEAT_EVERY) => {}
                    () = self.changed.notified() => continue,
                }
                self.publish_changes().await;
                self.beat().await;
                self.send_ledger().await;
                continue;
            }
            if self.state.get() == State::Lost {
                tokio::time::sleep(pause).await;
            }
            match self.probe().await {
                Ok(()) => {}
                Err(error) if self.state.get() == State::Starting => {
                    self.say_missing(&error);
                    tokio::time::sleep(pause).await;
                }
                Err(error) => log::info!("the shared limits are still away: {error:#}"),
            }
            pause = (pause * 2).min(PROBE_LONGEST);
        }
    }

    /// Connects the first time. A server that is unreachable, or that must not be used, is retried.
    pub(crate) async fn begin(&self) {
        if let Err(error) = self.probe().await {
            self.say_missing(&error);
        }
    }

    /// Reports once per reason that the server has never been reachable.
    fn say_missing(&self, error: &anyhow::Error) {
        let why = format!("{error:#}");
        if self.said.replace(why.clone()) != why {
            let shown = self.address.shown();
            note(&format!("warning: the shared limits at `{shown}` cannot be had: {why}; it is tried again"));
        }
    }

    /// Connects, sends the server what it missed, and returns decisions to it.
    pub(super) async fn probe(&self) -> Result<()> {
        let mut connection = self.address.connect(&self.tls).await?;
        check(&self.address, &mut connection).await?;
        for script in [&ADMIT, &FINISH] {
            script.load_async(&mut connection).await.map_err(|error| failure(&error, self.address.timeout()))?;
        }
        let mut catch_up = CatchUp { shared: self, connection };
        catch_up.run().await?;
        self.connection.replace(Some(catch_up.connection));
        let before = self.state.replace(State::Up);
        self.standing.borrow_mut().found();
        if before == State::Lost {
            note(&format!("the shared limits at `{}` are back", self.address.shown()));
        }
        Ok(())
    }

    /// Reports that this gateway is alive, and learns what all have counted.
    pub(super) async fn beat(&self) {
        let Some(connection) = self.connection.borrow().clone() else { return };
        let mut exchange = CatchUp { shared: self, connection };
        // Admitted alone between the last report and the server's return.
        let has_news = self.standing.borrow().has_news();
        let told = if has_news { exchange.rejoin().await.map(drop) } else { Ok(()) };
        match (told, exchange.beat().await) {
            (Ok(()), Ok(beat)) if beat.is_same => self.clock.set(beat.now),
            (Ok(()), Ok(_)) => self.lose("it was emptied, or is another server"),
            (Err(error), _) | (_, Err(error)) => self.lose(&format!("{error:#}")),
        }
    }

    /// The runtime of the previous connection has ended, and the connection with it.
    pub(super) async fn say_over_another_connection(&self) -> Result<()> {
        let connection = self.address.connect(&self.tls).await?;
        let mut exchange = CatchUp { shared: self, connection };
        exchange.report_postponed().await?;
        self.connection.replace(Some(exchange.connection));
        self.send_ledger().await;
        Ok(())
    }
}
