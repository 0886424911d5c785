//! The counters of many gateways together, kept by one Redis or Valkey server.
//!
//! ```text
//! mod.rs         what one gateway knows: the server's state, its clock, and the requests in flight
//! address.rs     the address of the server, and the connection to it
//! inspect.rs     whether a server can be used, and why it does not serve
//! link.rs        the connection: begun, used, lost, and probed for
//! catch_up.rs    what gateway and server tell each other apart from requests, also after an outage
//! names.rs       the names of what is stored there
//! script.rs      the scripts, and how they are called
//! arguments.rs   how scripts get a limit
//! told.rs        what the admission script answers
//! decide.rs      the decision on one request, by the server or alone
//! tickets.rs     the requests that were admitted
//! end.rs         the end of a request
//! standing.rs    what one gateway knows of the counters
//! counter.rs     one counter as one gateway knows it
//! alone.rs       a gateway that decides alone, within its share
//! counts.rs      what one gateway tells the server of its counters
//! keys.rs        the engine of keys: which limits apply to a request, and what a decision means for it
//! records.rs     the records of keys, as last read
//! published.rs   the records of keys on the server
//! secret.rs      whether the keys there are made under the same team secret
//! ledger.rs      the usage of all gateways, summed up
//! tokens.rs      access tokens of logins, published by their homes for the edges
//! remote.rs      the same server for commands, which query it once
//! clock.rs       the server's time as estimated here
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

mod address;
mod alone;
mod arguments;
mod catch_up;
mod clock;
mod counter;
mod counts;
mod decide;
mod end;
mod inspect;
mod keys;
mod ledger;
mod link;
mod names;
mod published;
mod records;
mod remote;
mod script;
mod secret;
mod standing;
mod tickets;
mod tokens;
mod told;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use rustls::ClientConfig;
use tokio::sync::Notify;

pub(crate) use self::address::Address;
use self::clock::Clock;
pub(crate) use self::keys::SharedKeys;
use self::ledger::Ledger;
use self::names::Names;
use self::records::Records;
use self::secret::SecretCheck;
use self::standing::Standing;
use self::tickets::Tickets;
pub(crate) use super::together::{
    Counted, Decision, Ended, Health, KeyStanding, KeysHere, Kind, Looked, OnLoss, Outcome, RETRY_AFTER, Row,
    SharedAccount, TIMEOUT, Watched, name_of_day,
};

/// A reservation or request in flight of a gateway that died expires after this.
const HOLD: Duration = Duration::from_secs(900);

/// Whether this program was built to count together with others.
#[expect(clippy::unnecessary_wraps, reason = "without the feature `team` it was not")]
pub(crate) fn available() -> anyhow::Result<()> {
    Ok(())
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

/// The counters that this gateway shares with others.
pub(crate) struct Shared {
    address: Address,
    tls: Arc<ClientConfig>,
    names: Names,
    on_loss: OnLoss,
    /// Distinguishes this gateway from others.
    instance: String,
    connection: RefCell<Option<MultiplexedConnection>>,
    state: Cell<State>,
    clock: Clock,
    /// Gateways that were alive at the last report.
    alive: Cell<u64>,
    /// Tells this server from one that was emptied.
    epoch: RefCell<Rc<str>>,
    standing: RefCell<Standing>,
    tickets: Tickets,
    records: Records,
    secret: SecretCheck,
    ledger: RefCell<Ledger>,
    /// The server was lost.
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
            clock: Clock::new(),
            alive: Cell::new(1),
            epoch: RefCell::new("".into()),
            standing: RefCell::default(),
            tickets: Tickets::default(),
            records: Records::default(),
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
        self.clock.now()
    }

    /// How many requests all gateways counted on a day, as far as known.
    pub(crate) fn count(&self, name: &str) -> Option<u64> {
        self.standing.borrow().count(name)
    }
}

#[cfg(test)]
mod tests;
