//! The counts of many gateways together, kept by one Redis or Valkey server.
//!
//! ```text
//! mod.rs         what one gateway has: the server's state, its clock, and what is in flight
//! decide.rs      one decision for one request, by the server or alone, and how the request ended
//! link.rs        the server found, lost and looked for; what it missed goes to it when it is back
//! keys.rs        the engine of keys: what limits a request of a key has, and what a decision means for it
//! records.rs     the records of keys, published from keys.json and read from the server
//! account.rs     the limits of an account
//! ledger.rs      what passed through the gateway, for the sums of all
//! remote.rs      the same server for commands, which ask once
//! address.rs     where the server is, and the way there
//! ask.rs         the scripts, their keys and their JSON
//! tokens.rs      access tokens of logins, published by their homes for the edges
//! standing.rs    what one gateway knows of the counters, and its share of them
//! admit.lua      one decision for one request
//! finish.lua     a request settled or given back, once
//! beat.lua       a gateway is alive
//! rejoin.lua     counts of a time without the server, and of an emptied one
//! publish.lua    the records of keys, if they are later than those that are there
//! look.lua       what is used, without counting
//! ledger.lua     usage, once by its sequence
//! publish_token.lua  a token of a login's home, unless a newer one is there
//! watch_token.lua    the home of a login is alive, and asks what edges want
//! look_token.lua     the token of a login, for an edge
//! want_token.lua     an edge wants a newer token
//! ```
//!
//! Hazard: the server is slow, stopped, read-only, full or emptied, and every request of a team waits for it. Rule: one request
//! waits for an answer, for 250 ms by default; then all gateways decide alone at once, each within its share, until a probe in the background
//! got through and what was counted meanwhile has arrived. Nothing is admitted by an emptied server before every gateway
//! gave it back its counts.

mod account;
mod address;
mod ask;
mod decide;
mod keys;
mod ledger;
mod link;
mod records;
mod remote;
mod standing;
mod tokens;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use rustls::ClientConfig;
use tokio::sync::Notify;

pub(crate) use self::account::{limits_of, name_of_day};
pub(crate) use self::address::Address;
pub(crate) use self::ask::Kind;
use self::ask::Names;
use self::decide::Ticket;
pub(crate) use self::decide::{Decision, Ended};
pub(crate) use self::keys::SharedKeys;
use self::ledger::Ledger;
pub(crate) use self::ledger::Row;
use self::records::Known;
pub(crate) use self::records::Outcome;
pub(crate) use self::remote::KeyStanding;
use self::standing::Standing;
pub(crate) use self::tokens::{Looked, Watched};
use crate::keys::Directory;

/// A reservation, or a request in flight, of a gateway that died ends after this.
const HOLD: Duration = Duration::from_secs(900);

/// Longest that a request waits for the server, unless `[team] timeout` says otherwise.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(250);

/// What a client is told to wait while the server is away.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What gateways do while the server is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum OnLoss {
    /// Each takes its share of the limits.
    #[default]
    Share,
    /// None serves.
    Refuse,
    /// All serve without limits.
    Open,
}

impl OnLoss {
    const ALL: [(Self, &'static str); 3] = [(Self::Share, "share"), (Self::Refuse, "refuse"), (Self::Open, "open")];

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, name)| *name == text).map(|(on_loss, _)| *on_loss)
    }
}

/// The server, and what is kept there under which name.
#[derive(Debug, Clone)]
pub(crate) struct Where {
    pub(crate) address: Address,
    pub(crate) namespace: String,
    pub(crate) on_loss: OnLoss,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It was never there.
    Starting,
    Up,
    Lost,
}

/// What `/readyz` and the metrics say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    Up,
    /// Away, and this gateway serves within its share or without limits.
    Degraded,
    Down,
}

impl Health {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Down => "unreachable",
        }
    }
}

/// The counts that this gateway shares with others.
pub(crate) struct Shared {
    address: Address,
    tls: Arc<ClientConfig>,
    names: Names,
    on_loss: OnLoss,
    instance: String,
    connection: RefCell<Option<MultiplexedConnection>>,
    state: Cell<State>,
    /// The server's clock less ours, in milliseconds.
    ahead: Cell<i64>,
    began: Instant,
    alive: Cell<u64>,
    epoch: RefCell<String>,
    standing: RefCell<Standing>,
    tickets: RefCell<BTreeMap<String, Ticket>>,
    pending: RefCell<Vec<(String, Ticket, Ended)>>,
    next: Cell<u64>,
    /// Requests whose end is being told.
    ending: Cell<usize>,
    /// Records of keys by id, as the server told them.
    records: RefCell<BTreeMap<String, Known>>,
    /// keys.json, where it is on this machine, and the revision of it that was published last.
    directory: RefCell<Option<Directory>>,
    published: Cell<Option<u64>>,
    /// A request of a key has ended: another may be sent.
    freed: Notify,
    /// The gateway ends: what is left to tell is told at last.
    is_ending: Cell<bool>,
    ledger: RefCell<Ledger>,
    changed: Notify,
    /// Why the server cannot be had at the start, as it was said last.
    said: RefCell<String>,
}

impl Shared {
    pub(crate) fn new(place: Where, tls: ClientConfig) -> Rc<Self> {
        Rc::new(Self {
            address: place.address,
            tls: Arc::new(tls),
            names: Names::new(&place.namespace),
            on_loss: place.on_loss,
            instance: uuid::Uuid::new_v4().simple().to_string(),
            connection: RefCell::default(),
            state: Cell::new(State::Starting),
            ahead: Cell::new(0),
            began: Instant::now(),
            alive: Cell::new(1),
            epoch: RefCell::default(),
            standing: RefCell::default(),
            tickets: RefCell::default(),
            pending: RefCell::default(),
            next: Cell::new(0),
            ending: Cell::new(0),
            records: RefCell::default(),
            directory: RefCell::default(),
            published: Cell::new(None),
            freed: Notify::new(),
            is_ending: Cell::new(false),
            ledger: RefCell::default(),
            changed: Notify::new(),
            said: RefCell::default(),
        })
    }

    pub(crate) fn health(&self) -> Health {
        match (self.state.get(), self.on_loss) {
            (State::Up, _) => Health::Up,
            (State::Lost, OnLoss::Share | OnLoss::Open) => Health::Degraded,
            _ => Health::Down,
        }
    }

    /// The server's time, as far as it is known here, in milliseconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        self.own_time().saturating_add_signed(self.ahead.get())
    }

    fn own_time(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn set_clock(&self, now: u64) {
        self.ahead.set(now.cast_signed().saturating_sub(self.own_time().cast_signed()));
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
