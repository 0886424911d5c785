//! The server as one gateway knows it: the connection, its clock, and what it counted.
//!
//! Hazard: requests find the server lost at the same moment, and each reports it, or one still waits for it. Rule: the first
//! error takes the connection away from all; from then on this gateway decides alone, until the server has caught up.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Result;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, RedisError, Script};
use rustls::ClientConfig;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Notify;

use super::clock::Clock;
use super::inspect::{failure, reason};
use super::names::Names;
use super::script;
use super::standing::Standing;
use super::{Address, Where};
use crate::error::note;
use crate::limits::together::{Health, OnLoss};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It has never been reachable.
    Starting,
    Up,
    Lost,
}

pub(super) struct Link {
    pub(super) address: Address,
    tls: Arc<ClientConfig>,
    pub(super) names: Names,
    pub(super) on_loss: OnLoss,
    /// Distinguishes this gateway from others.
    pub(super) instance: String,
    pub(super) connection: RefCell<Option<MultiplexedConnection>>,
    pub(super) state: Cell<State>,
    pub(super) clock: Clock,
    /// Gateways that were alive at the last report.
    pub(super) alive: Cell<u64>,
    /// Tells this server from one that was emptied.
    pub(super) epoch: RefCell<Rc<str>>,
    /// What all gateways counted, as far as it is known here.
    pub(super) standing: RefCell<Standing>,
    /// The server was lost.
    pub(super) changed: Notify,
}

impl Link {
    pub(super) fn new(place: Where, tls: ClientConfig) -> Self {
        Self {
            address: place.address,
            tls: Arc::new(tls),
            names: Names::new(&place.namespace),
            on_loss: place.on_loss,
            instance: uuid::Uuid::new_v4().simple().to_string(),
            connection: RefCell::default(),
            state: Cell::new(State::Starting),
            clock: Clock::new(),
            alive: Cell::new(1),
            epoch: RefCell::new("".into()),
            standing: RefCell::default(),
            changed: Notify::new(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.state.get() == State::Up
    }

    pub(super) fn health(&self) -> Health {
        match (self.state.get(), self.on_loss) {
            (State::Up, _) => Health::Up,
            (State::Lost, OnLoss::Share | OnLoss::Open) => Health::Degraded,
            _ => Health::Down,
        }
    }

    /// The server's time as estimated here, in milliseconds since 1970.
    pub(super) fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Another connection, which no request uses yet.
    pub(super) async fn connect(&self) -> Result<MultiplexedConnection> {
        self.address.connect(&self.tls).await
    }

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

    /// Why the server does not serve.
    pub(super) fn failure(&self, error: &RedisError) -> anyhow::Error {
        failure(error, self.address.timeout())
    }

    /// The server is unreachable: logged once, and recorded for all requests.
    pub(super) fn lose(&self, why: &str) {
        if !self.is_up() {
            return;
        }
        self.state.set(State::Lost);
        self.connection.borrow_mut().take();
        let alive = self.alive.get();
        self.standing.borrow_mut().lose(self.now(), alive);
        let consequence = match self.on_loss {
            OnLoss::Share => format!("this gateway serves its share of the limits, 1/{alive}"),
            OnLoss::Refuse => "requests are rejected until the server is available again".to_owned(),
            OnLoss::Open => "requests are served without limits until the server is available again".to_owned(),
        };
        note(&format!("warning: lost the shared limits at `{}`: {why}; {consequence}", self.address.shown()));
        self.changed.notify_one();
    }

    /// The server has caught up, and decides again: over this connection.
    pub(super) fn restore(&self, connection: MultiplexedConnection) {
        self.connection.replace(Some(connection));
        let before = self.state.replace(State::Up);
        self.standing.borrow_mut().found();
        if before == State::Lost {
            note(&format!("the shared limits at `{}` are available again", self.address.shown()));
        }
    }
}
