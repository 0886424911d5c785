//! The counters of many gateways together, kept by one Redis or Valkey server.
//!
//! ```text
//! mod.rs         what one gateway knows: the server's state, its clock, and the requests in flight
//! decide.rs      the decision on one request, by the server or alone, and the end of the request
//! link.rs        the connection to the server: connect, lose, probe, and catch up after an outage
//! keys.rs        the engine of keys: which limits apply to a request, and what a decision means for it
//! records.rs     the records of keys, published from keys.json and read from the server
//! secret.rs      whether the keys there are made under the same team secret
//! account.rs     the limits of an account
//! ledger.rs      the usage of all gateways, summed up
//! remote.rs      the same server for commands, which query it once
//! address.rs     the address of the server, and the connection to it
//! ask.rs         the scripts, their keys and their JSON
//! tokens.rs      access tokens of logins, published by their homes for the edges
//! standing.rs    what one gateway knows of the counters, and its share of them
//! admit.lua      decides one request
//! finish.lua     settles or releases a request, once
//! beat.lua       reports that a gateway is alive
//! rejoin.lua     adds counts of an outage, or restores those of an emptied server
//! publish.lua    stores the records of keys, unless newer ones are there
//! look.lua       reads counters without counting
//! ledger.lua     adds usage, once per sequence number
//! publish_token.lua  stores a token of a login's home, unless a newer one is there
//! watch_token.lua    reports that the home of a login is alive, and reads what edges need
//! look_token.lua     reads the token of a login, for an edge
//! want_token.lua     asks for a newer token, for an edge
//! ```
//!
//! Hazard: the server is slow, stopped, read-only, full or emptied, and every request of a team waits for it. Rule: one
//! request waits for a response, by default for 250 ms. Then all gateways decide alone, each within its share, until a
//! background probe succeeds and the counts of the outage have been delivered. An emptied server admits nothing until
//! every gateway has returned its counts.

mod account;
mod address;
mod ask;
mod decide;
mod keys;
mod ledger;
mod link;
mod records;
mod remote;
mod secret;
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

pub(crate) use self::account::{SharedAccount, name_of_day};
pub(crate) use self::address::Address;
pub(crate) use self::ask::Kind;
use self::ask::Names;
use self::decide::Ticket;
pub(crate) use self::decide::{Decision, Ended};
pub(crate) use self::keys::{Counted, SharedKeys};
use self::ledger::Ledger;
pub(crate) use self::ledger::Row;
pub(crate) use self::link::KeysHere;
use self::records::Known;
pub(crate) use self::records::Outcome;
pub(crate) use self::remote::KeyStanding;
use self::secret::SecretCheck;
use self::standing::Standing;
pub(crate) use self::tokens::{Looked, Watched};
use crate::keys::Directory;

/// A reservation or request in flight of a gateway that died expires after this.
const HOLD: Duration = Duration::from_secs(900);

/// Default of `[team] timeout`: the maximum time that a request waits for the server.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(250);

/// The `Retry-After` of a rejected request while the server is unreachable.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What gateways do while the server is unreachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum OnLoss {
    /// Each takes its share of the limits.
    #[default]
    Share,
    /// None serves requests.
    Refuse,
    /// All serve requests without limits.
    Open,
}

impl OnLoss {
    const ALL: [(Self, &'static str); 3] = [(Self::Share, "share"), (Self::Refuse, "refuse"), (Self::Open, "open")];

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, name)| *name == text).map(|(on_loss, _)| *on_loss)
    }
}

/// The server, and the namespace of what is stored there.
#[derive(Debug, Clone)]
pub(crate) struct Where {
    pub(crate) address: Address,
    pub(crate) namespace: String,
    pub(crate) on_loss: OnLoss,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has never been reachable.
    Starting,
    Up,
    Lost,
}

/// The state that `/readyz` and the metrics report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    Up,
    /// Unreachable, and this gateway serves within its share or without limits.
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

/// The counters that this gateway shares with others.
pub(crate) struct Shared {
    address: Address,
    tls: Arc<ClientConfig>,
    names: Names,
    on_loss: OnLoss,
    instance: String,
    connection: RefCell<Option<MultiplexedConnection>>,
    state: Cell<State>,
    /// The server's clock minus ours, in milliseconds.
    ahead: Cell<i64>,
    began: Instant,
    alive: Cell<u64>,
    epoch: RefCell<String>,
    standing: RefCell<Standing>,
    tickets: RefCell<BTreeMap<String, Ticket>>,
    pending: RefCell<Vec<(String, Ticket, Ended)>>,
    next: Cell<u64>,
    /// Ended requests that are being reported.
    ending: Cell<usize>,
    /// Records of keys by id, as the server returned them.
    records: RefCell<BTreeMap<String, Known>>,
    /// keys.json, if it is on this machine, and the revision published last.
    directory: RefCell<Option<Directory>>,
    published: Cell<Option<u64>>,
    /// A request of a key has ended: another one may be sent.
    freed: Notify,
    /// The gateway is stopping: remaining reports are sent now.
    is_ending: Cell<bool>,
    secret: SecretCheck,
    ledger: RefCell<Ledger>,
    changed: Notify,
    /// The last reported reason why the server was not reachable at the start.
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
            secret: SecretCheck::default(),
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

    /// The server's time as estimated here, in milliseconds since 1970.
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
