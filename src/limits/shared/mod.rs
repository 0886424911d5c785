//! The counters of many gateways together, kept by one Redis or Valkey server.
//!
//! ```text
//! mod.rs              what a gateway asks of it
//! link.rs             the server as one gateway knows it: the connection, its clock, what it counted
//! heartbeat.rs        the connection: begun, kept alive, lost, and probed for
//! address.rs          the address of the server, and the connection to it
//! inspect.rs          whether a server can be used, and why it does not serve
//! catch_up.rs         what gateway and server exchange apart from requests, also after an outage
//! names.rs            the names of what is stored there
//! script.rs           the scripts, and how they are called
//! arguments.rs        how scripts get a limit
//! admission_reply.rs  what the admission script answers
//! admissions.rs       the requests that are counted: decided by the server or alone, and ended
//! tickets.rs          the requests that were admitted
//! finish_command.rs   how the end of a request is reported
//! standing.rs         what one gateway knows of the counters
//! counter.rs          one counter as one gateway knows it
//! alone.rs            a gateway that decides alone, within its share
//! counter_sync.rs     what one gateway reports to the server of its counters, and queries of them
//! keys.rs             the engine of keys: which limits apply to a request, and what a decision means for it
//! records.rs          the records of keys, as last read
//! published.rs        the records of keys on the server
//! secret.rs           whether the keys there are made under the same team secret
//! ledger.rs           the usage of all gateways, summed up
//! tokens.rs           access tokens of logins, published by their homes for the edges
//! remote.rs           the same server for commands, which query it once
//! clock.rs            the server's time as estimated here
//! admit.lua           decides one request
//! finish.lua          settles or releases a request, once
//! beat.lua            reports that a gateway is alive
//! rejoin.lua          adds counts of an outage, or restores those of an emptied server
//! publish.lua         stores the records of keys, unless newer ones are there
//! look.lua            reads counters without counting
//! ledger.lua          adds usage, once per sequence number
//! publish_token.lua   stores a token of a login's home, unless a newer one is there
//! watch_token.lua     reports that the home of a login is alive, and reads what edges need
//! look_token.lua      reads the token of a login, for an edge
//! want_token.lua      asks for a newer token, for an edge
//! ```
//!
//! Hazard: the server is slow, stopped, read-only, full or emptied, and every request of a team waits for it. Rule: one
//! request waits for a response, by default for 250 ms. Then all gateways decide alone, each within its share, until a
//! background probe succeeds and the counts of the outage have been delivered. An emptied server admits nothing until
//! every gateway has returned its counts.

mod address;
mod admission_reply;
mod admissions;
mod alone;
mod arguments;
mod catch_up;
mod clock;
mod counter;
mod counter_sync;
mod finish_command;
mod heartbeat;
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

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use rustls::ClientConfig;

pub(crate) use self::address::Address;
use self::admissions::Admissions;
pub(crate) use self::keys::SharedKeys;
use self::ledger::Ledger;
use self::link::Link;
use self::published::PublishedKeys;
use super::engine::RESERVED_FOR;
use super::together::Limit;
pub(crate) use super::together::{
    Counted, GONE_AFTER, Health, KeyStanding, KeysHere, Kind, Looked, OnLoss, Outcome, Row, SPREAD, Settlement,
    SharedAccount, SharedDecision, TIMEOUT, Watched, name_of_day,
};

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

/// The counters that this gateway shares with others.
pub(crate) struct Shared {
    link: Rc<Link>,
    keys: Rc<PublishedKeys>,
    admissions: Rc<Admissions>,
    ledger: Ledger,
    /// The last reported reason why the server was not reachable at the start.
    said: RefCell<String>,
}

impl Shared {
    pub(crate) fn new(place: Where, tls: ClientConfig) -> Rc<Self> {
        let link = Rc::new(Link::new(place, tls));
        let keys = PublishedKeys::new(Rc::clone(&link));
        let admissions = Admissions::new(Rc::clone(&link), Rc::clone(&keys));
        let ledger = Ledger::new(Rc::clone(&link));
        Rc::new(Self { link, keys, admissions, ledger, said: RefCell::default() })
    }

    pub(crate) fn health(&self) -> Health {
        self.link.health()
    }

    /// The server's time as estimated here, in milliseconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        self.link.now()
    }

    /// How many requests all gateways counted on a day, as far as known.
    pub(crate) fn count(&self, name: &str) -> Option<u64> {
        self.link.standing.borrow().count(name)
    }

    /// Decides one request of an account. `limits`: those at a time by the server's clock.
    pub(crate) async fn admit(
        &self,
        limits: impl Fn(u64) -> Vec<Limit> + 'static,
        longest: Duration,
    ) -> SharedDecision {
        self.admissions.admit(None, limits, longest).await
    }

    /// Ends an admitted request, once.
    pub(crate) fn end(&self, id: String, how: Settlement) {
        self.admissions.end(id, how);
    }

    /// Before the gateway stops: waits until the reports on ended requests have arrived, or timed out.
    pub(crate) async fn settle_all(&self) {
        self.admissions.settle_all().await;
    }

    /// Adds to the usage of the team.
    pub(crate) fn enter(&self, row: Row, sums: impl IntoIterator<Item = (&'static str, u64)>) {
        self.ledger.enter(row, sums);
    }
}

#[cfg(test)]
mod tests;
