//! One decision for one request: the key's limits and the account's together, wherever they are counted.
//!
//! ```text
//! admit       a place in all windows at once, and a reservation of tokens and money; or why not
//! give_back   the request was never sent: its place and its reservation are free again
//! settle      the response ended: what it really used takes the place of the reservation, once
//! look_up     the record of a key, as the engine knows it now
//! ```
//!
//! Hazard: a limit that is checked first and counted later lets everyone through who comes in between; a turn at the key
//! that waits for one at the account is late in its own window. Rule: all windows are looked at and counted in one step
//! under one lock, and a request that waits has its place in every one of them at the same time.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use super::busy::{BUSY, pause};
use super::files::{Files, Step};
use super::local::Rate;
use super::quota::UsedUp;
use super::shared::{SharedAccount, SharedKeys};
use crate::keys::{KeyRecord, Money, TeamSecret};

/// A reservation whose gateway died ends after this; living gateways extend theirs.
pub(crate) const RESERVED_FOR: Duration = Duration::from_secs(900);

/// What one request asks for.
pub(crate) struct Demand {
    /// The key, whose limits apply in addition to those of the account.
    pub(crate) key: Rc<KeyRecord>,
    /// Prompt and completion, as estimated; 0 if the request generates nothing.
    pub(crate) tokens: u64,
    /// What they cost at most, as estimated.
    pub(crate) cost: Money,
    /// A longer wait than this is refused.
    pub(crate) longest_wait: Duration,
    /// A further attempt of a request that has its reservation: only the windows count it.
    pub(crate) repeats: bool,
}

/// What was granted to a request: its place in the windows, and what is reserved for it until it is settled.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    /// Tells this reservation from all others, of other gateways too.
    pub(crate) id: String,
    pub(crate) key: Rc<KeyRecord>,
    /// The place, by the clock of the engine, in nanoseconds.
    pub(crate) at: u64,
    /// The key's day it is counted for, by the clock of the engine.
    pub(crate) day: i32,
    /// The provider's day it is counted for in the windows of the account, where the engine needs to know it.
    pub(crate) account_day: i32,
    /// [`KeyRecord::spending_period`], where there is a budget.
    pub(crate) period: Option<String>,
    pub(crate) tokens: u64,
    /// See [`Demand::repeats`]: there is nothing to settle.
    pub(crate) repeats: bool,
}

/// What became of a demand.
pub(crate) enum KeyDecision {
    /// It may be sent after `wait`, within `spread` from then on, so that those who wait do not go out together.
    Go {
        wait: Duration,
        spread: Duration,
        grant: Grant,
        left: Left,
    },
    Refused {
        reason: Refused,
        left: Left,
    },
    /// The record of the key is another than the demand says: what it allows is to be looked at again.
    Changed(Rc<KeyRecord>),
}

/// The windows of an account.
pub(crate) struct AccountWindows {
    pub(crate) rate: RefCell<Rate>,
    /// Where gateways of several machines count together.
    pub(crate) shared: Option<Rc<SharedAccount>>,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The key is revoked or gone.
    Unknown,
    Expired,
    /// Its place in the key's windows is further away than a wait may be.
    KeyRate {
        wait: Duration,
    },
    /// As many requests of the key are in flight as it may have.
    KeyParallel,
    /// Those in flight reserve the rest of its tokens of the day or of its budget: some of it is free once they have ended.
    KeyReserved,
    /// Requests or tokens of the day.
    KeyDay {
        ends: SystemTime,
    },
    KeyBudget {
        ends: SystemTime,
    },
    /// The windows of the account.
    AccountRate {
        wait: Duration,
    },
    AccountDay {
        ends: SystemTime,
    },
    /// The user's own quota of the account's plan.
    AccountQuota(UsedUp),
    /// The counters are not available.
    Unavailable,
}

/// What a key has left, for response headers and `GET /v1/key`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Left {
    /// Requests of the minute that ends now, and tokens.
    pub(crate) requests_of_minute: u64,
    pub(crate) tokens_of_minute: u64,
    /// Until the oldest request of the minute leaves it.
    pub(crate) minute_resets_in: Duration,
    pub(crate) requests_of_day: u64,
    pub(crate) tokens_of_day: u64,
    /// In flight.
    pub(crate) parallel: u32,
    /// Spent in this period, and reserved on top of it.
    pub(crate) spent: Money,
    pub(crate) reserved: Money,
    /// What other gateways spent is not known here.
    pub(crate) is_spending_unknown: bool,
}

/// What a response used. Unknown usage is charged as it was estimated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    pub(crate) tokens: u64,
    pub(crate) cost: Money,
}

/// Who keeps the counts.
pub(crate) enum Engine {
    /// Files of this machine.
    Files(Box<Files>),
    /// A server, together with other gateways.
    Shared(SharedKeys),
}

/// The counters or the keys are not available now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unavailable;

impl Engine {
    /// The time that decides whether a key has expired: the same at all gateways that count together, however wrong the
    /// clock of one is.
    pub(crate) fn now(&self) -> SystemTime {
        match self {
            Self::Files(_) => SystemTime::now(),
            Self::Shared(keys) => keys.now(),
        }
    }

    /// The record of the key with this id; `None`: there is none now. A record may be one that was seen before: a decision
    /// tells whether it is still in force.
    pub(crate) async fn look_up(&self, id: &str) -> Result<Option<Rc<KeyRecord>>, Unavailable> {
        match self {
            Self::Files(files) => Ok(files.look_up(id)),
            Self::Shared(keys) => keys.look_up(id, false).await,
        }
    }

    /// The same as it is now, wherever keys are kept.
    pub(crate) async fn look_up_now(&self, id: &str) -> Result<Option<Rc<KeyRecord>>, Unavailable> {
        match self {
            Self::Files(files) => Ok(files.look_up(id)),
            Self::Shared(keys) => keys.look_up(id, true).await,
        }
    }

    /// The record of the key with this name or id that is not revoked; else of a revoked one; `None`: there is none.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<Rc<KeyRecord>>, Unavailable> {
        match self {
            Self::Files(files) => Ok(files.find(name)),
            Self::Shared(keys) => keys.find(name).await,
        }
    }

    /// Decides one request, with the windows of its account, if that has any.
    ///
    /// Dropped before it has decided, it leaves nothing counted.
    pub(crate) async fn admit(&self, demand: &Demand, account: Option<&AccountWindows>) -> KeyDecision {
        let files = match self {
            Self::Files(files) => files,
            Self::Shared(keys) => return keys.admit(demand, account).await,
        };
        let account = account.map(|account| &account.rate);
        let since = Instant::now();
        let mut busy_since = None;
        loop {
            let busy = busy_since.map_or(Duration::ZERO, |since: Instant| since.elapsed());
            if busy > 2 * BUSY {
                return KeyDecision::Refused { reason: Refused::Unavailable, left: Left::default() };
            }
            let wait = match files.admit(demand, account, busy > BUSY, since.elapsed()) {
                Step::Decided(decision) => return decision,
                Step::Later(wait) => {
                    busy_since = None;
                    wait
                }
                Step::Busy => {
                    busy_since.get_or_insert_with(Instant::now);
                    pause(busy)
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// The request of this grant was never sent. `account`: as it was admitted with, or `None` where its windows count the
    /// request all the same.
    pub(crate) fn give_back(&self, grant: &Grant, account: Option<&AccountWindows>) {
        match self {
            Self::Files(files) => files.give_back(grant, account.map(|account| &account.rate)),
            Self::Shared(keys) => keys.give_back(grant, account.is_none()),
        }
    }

    /// The request of this grant has ended. To be called once.
    pub(crate) fn settle(&self, grant: &Grant, used: Used) {
        match self {
            // The windows have counted a further attempt, and there is nothing else of it.
            Self::Files(_) if grant.repeats => {}
            Self::Files(files) => files.settle(grant, used),
            Self::Shared(keys) => keys.settle(grant, used),
        }
    }

    /// Keeps the reservations of this gateway alive. To be called every few seconds.
    pub(crate) fn tend(&self) {
        match self {
            Self::Files(files) => files.tend(),
            // As it says that the gateway is alive.
            Self::Shared(_) => {}
        }
    }

    /// From now on this is the gateway's team secret.
    pub(crate) fn use_secret(&self, secret: &TeamSecret) {
        match self {
            Self::Files(_) => {}
            Self::Shared(keys) => keys.use_secret(secret),
        }
    }

    /// Whether the keys are made under another team secret than the gateway's.
    pub(crate) fn secret_differs(&self) -> bool {
        match self {
            Self::Files(_) => false,
            Self::Shared(keys) => keys.secret_differs(),
        }
    }

    /// What a key has left now.
    pub(crate) async fn left(&self, key: &Rc<KeyRecord>) -> Left {
        match self {
            Self::Files(files) => files.left(key),
            Self::Shared(keys) => keys.left(key).await,
        }
    }

    /// What each of these keys has left now.
    pub(crate) async fn left_of_each(&self, keys: &[Rc<KeyRecord>]) -> Vec<Left> {
        match self {
            Self::Files(files) => keys.iter().map(|key| files.left(key)).collect(),
            Self::Shared(shared) => shared.left_of_each(keys).await,
        }
    }

    /// The keys that are known, for metrics.
    pub(crate) fn records(&self) -> Vec<Rc<KeyRecord>> {
        match self {
            Self::Files(files) => files.records(),
            Self::Shared(keys) => keys.records(),
        }
    }
}
