//! What gateways that count together say to the rest of the program, with or without the server of `shared/` in it.
//!
//! ```text
//! mod.rs      what a decision is, what a gateway does without its server, and what commands read from it
//! limit.rs    one limit of a request
//! account.rs  the limits of an account
//! ```

mod account;
mod limit;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

pub(crate) use self::account::{SharedAccount, kept, name_of_day, time};
pub(crate) use self::limit::{Kind, Limit, UNLIMITED, Unit, amount, quota_slice, slice};
use super::Left;
use crate::keys::KeyRecord;
use crate::providers::error::Cause;

/// Default of `[team] timeout`: the maximum time that a request waits for the server.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(250);

/// Requests that wait for the same moment are spread over this time, well below the extra time that windows are kept
/// between machines.
pub(crate) const SPREAD: Duration = Duration::from_millis(100);

/// The silence after which a gateway counts as gone: it reports at least once a second that it is alive.
pub(crate) const GONE_AFTER: Duration = Duration::from_secs(15);

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

/// The decision on a request.
#[derive(Debug)]
pub(crate) enum SharedDecision {
    /// It may be sent after `wait`.
    Go { wait: Duration, ticket: String },
    /// The limit of this index rejects it, for this long.
    Refused { limit: usize, wait: Duration },
    /// The record of the key has changed; without a record, there is no such key.
    Changed(Option<Rc<KeyRecord>>),
    /// The server is unreachable, and no decision is possible without it.
    Unavailable,
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Settlement {
    /// It was never sent.
    GivenBack,
    /// Its account did not serve it, and another account does under the same key: the key's slot is released.
    Moved,
    Used {
        tokens: u64,
        cost: u64,
    },
    /// It used exactly what was reserved.
    AsEstimated,
}

/// What a gateway with keys has of them.
pub(crate) struct KeysHere {
    /// [`crate::keys::TeamSecret::check`]
    pub(crate) check: String,
    /// Of keys.json, where it is on this machine.
    pub(crate) source: Option<String>,
}

/// The result of publishing keys.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "lowercase", tag = "outcome")]
pub(crate) enum Outcome {
    Published,
    /// The server already has these or later ones.
    Known,
    /// The complete set has to be sent.
    Wanted,
    /// The server has the keys of another keys.json, which is on `host`.
    Foreign {
        host: String,
    },
}

/// What the server knows of one key.
pub(crate) struct KeyStanding {
    pub(crate) left: Left,
    /// Seconds since 1970; 0: never.
    pub(crate) used_at: u64,
}

/// What all gateways counted of an account.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counted {
    pub(crate) lately: u64,
    pub(crate) today: u64,
    /// By the quota's window: used, and how long until there is room again.
    pub(crate) quotas: Vec<(Cause, u64, Duration)>,
}

/// Requests with the same owner are summed up together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) day: String,
    pub(crate) profile: String,
    pub(crate) provider: String,
    pub(crate) model: String,
    /// The id of the key; `None`: the gateway's own key.
    pub(crate) key: Option<String>,
    pub(crate) owner: Option<String>,
}

/// Sums by their names.
pub(crate) type Sums = BTreeMap<String, u64>;

/// What the home of a profile reads. Times are milliseconds.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Watched {
    /// The generation of the token on the server; 0: there is none.
    pub(crate) generation: u64,
    /// The generation that an edge's provider rejected; 0: none.
    pub(crate) wanted: u64,
    /// Another machine that claims to be the home.
    #[serde(default)]
    pub(crate) other: Option<String>,
}

/// What an edge reads.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Looked {
    pub(crate) generation: u64,
    /// Missing if the generation is the known one.
    #[serde(default)]
    pub(crate) sealed: Option<String>,
    /// How long the token is valid.
    #[serde(default)]
    pub(crate) left: u64,
    /// The home, and how long it has not reported.
    #[serde(default)]
    pub(crate) home: Option<String>,
    #[serde(default)]
    pub(crate) silent: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_configuration_and_of_readiness() {
        let words = ["share", "refuse", "open", "", "Share"].map(OnLoss::parse);
        assert_eq!(words, [Some(OnLoss::Share), Some(OnLoss::Refuse), Some(OnLoss::Open), None, None]);
        let names = [Health::Up, Health::Degraded, Health::Down].map(Health::name);
        assert_eq!(names, ["up", "degraded", "unreachable"]);
    }
}
