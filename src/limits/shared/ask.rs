//! The requests to the server and its responses: scripts, their keys and their JSON.

use std::sync::LazyLock;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Script};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::providers::error::Cause;

pub(super) static ADMIT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("admit.lua")));
pub(super) static FINISH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("finish.lua")));
pub(super) static BEAT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("beat.lua")));
pub(super) static REJOIN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("rejoin.lua")));
pub(super) static PUBLISH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("publish.lua")));
pub(super) static LOOK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("look.lua")));
pub(super) static LEDGER: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("ledger.lua")));

/// Tokens are counted in slices of a window.
const SLICES: u64 = 60;

/// So are quotas, whose requests are too many to be listed: a place is free at most 1/128 of the window later.
const QUOTA_SLICES: u64 = 128;

/// The names of a namespace. All have the same hash tag, so that they are in one slot of a cluster.
#[derive(Debug, Clone)]
pub(crate) struct Names(String);

impl Names {
    pub(crate) fn new(namespace: &str) -> Self {
        Self(format!("{{qa:{namespace}}}"))
    }

    pub(crate) fn of(&self, rest: &str) -> String {
        format!("{}:{rest}", self.0)
    }

    pub(super) fn epoch(&self) -> String {
        self.of("epoch")
    }

    pub(super) fn gateways(&self) -> String {
        self.of("gateways")
    }

    /// The records of all keys by id. Fields that start with a colon say where the records are from.
    pub(super) fn records(&self) -> String {
        self.of("keys")
    }

    /// When each key was last used.
    pub(super) fn used_at(&self) -> String {
        self.of("used")
    }

    pub(super) fn audit(&self) -> String {
        self.of("audit")
    }

    /// What passed through all gateways on a day.
    pub(super) fn usage(&self, day: &str) -> String {
        self.of(&format!("usage:{day}"))
    }
}

/// One limit that applies to a request. Times are milliseconds since 1970 by the server's clock.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Limit {
    pub(crate) kind: Kind,
    /// Requests, tokens or nanodollars.
    pub(crate) most: u64,
    /// The counter's name, without the namespace.
    pub(crate) name: String,
    /// The user's own quota of a plan that it is.
    pub(crate) quota: Option<Cause>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// Requests in any `window`.
    Window { window: u64 },
    /// Requests in any `window`, counted in slices of it. Beyond it none waits.
    Quota { window: u64 },
    /// Estimated tokens in any `window`.
    Tokens { window: u64, add: u64 },
    /// Requests of a period.
    Day { begins: u64, ends: u64 },
    /// Requests in flight.
    Parallel,
    /// Tokens or money of a period; a request reserves the most it may use.
    Spend { unit: Unit, add: u64, begins: u64, ends: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Tokens,
    Nanodollars,
}

/// Prefix of the names of all counters of keys.
const OF_KEY: &str = "key:";

impl Limit {
    /// A limit of the key with this id.
    pub(super) fn of_key(id: &str, name: &str, kind: Kind, most: u64) -> Self {
        Self { kind, most, name: format!("{OF_KEY}{id}:{name}"), quota: None }
    }

    pub(super) fn is_of_key(&self) -> bool {
        self.name.starts_with(OF_KEY)
    }

    /// Its entry in the `limits` of a script; its names are added to `keys`.
    pub(super) fn json(&self, names: &Names, keys: &mut Vec<String>) -> Map<String, Value> {
        keys.push(names.of(&self.name));
        let mut json = match self.kind {
            Kind::Window { window } => json!({ "kind": "window", "window": window }),
            Kind::Quota { window } => json!({ "kind": "quota", "window": window, "slice": quota_slice(window) }),
            Kind::Tokens { window, add } => {
                json!({ "kind": "tokens", "window": window, "slice": slice(window), "add": add })
            }
            Kind::Day { begins, ends } => json!({ "kind": "day", "begins": begins, "ends": ends, "add": 1 }),
            Kind::Parallel => json!({ "kind": "parallel" }),
            Kind::Spend { add, begins, ends, .. } => {
                json!({ "kind": "spend", "begins": begins, "ends": ends, "add": add })
            }
        };
        json["limit"] = self.most.into();
        json["key"] = keys.len().into();
        if let Kind::Spend { .. } = self.kind {
            keys.push(names.of(&format!("{}:held", self.name)));
            json["held"] = keys.len().into();
        }
        match json {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

pub(super) fn slice(window: u64) -> u64 {
    (window / SLICES).max(1)
}

pub(super) fn quota_slice(window: u64) -> u64 {
    window.div_ceil(QUOTA_SLICES).max(1)
}

/// The result of the admission script.
#[derive(Debug, Deserialize)]
pub(super) struct Told {
    pub(super) kind: Verdict,
    /// The server's time.
    pub(super) now: u64,
    #[serde(default)]
    pub(super) at: u64,
    /// Index of the limit that rejects the request, from 1; 0 if unknown.
    #[serde(default)]
    pub(super) limit: usize,
    #[serde(default)]
    pub(super) wait: u64,
    /// Per limit: what is left, the last planned time, and what is reserved.
    #[serde(default, deserialize_with = "counts")]
    pub(super) left: Vec<u64>,
    #[serde(default)]
    pub(super) last: Vec<u64>,
    #[serde(default, deserialize_with = "counts")]
    pub(super) held: Vec<u64>,
    /// Per limit: the earliest time that still counts in a window.
    #[serde(default)]
    pub(super) first: Vec<u64>,
    #[serde(default)]
    pub(super) record: String,
    #[serde(default)]
    pub(super) version: String,
    #[serde(default)]
    pub(super) complete: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Go,
    Refused,
    /// The request named another period than the one of `at`, which counts.
    Period,
    /// The key has another record.
    Record,
    /// There is no such key.
    Unknown,
    /// The server was emptied, or is another one.
    Epoch,
}

/// A count as the scripts write it: an integer, as text. A negative count is zero.
pub(super) fn counts<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    Ok(Vec::<String>::deserialize(deserializer)?.iter().map(|text| count(text)).collect())
}

pub(super) fn count(text: &str) -> u64 {
    text.parse().unwrap_or_default()
}

/// Runs a script whose response is JSON.
pub(super) async fn run<T: DeserializeOwned>(
    connection: &mut MultiplexedConnection,
    script: &Script,
    keys: &[String],
    said: &Value,
) -> RedisResult<T> {
    let mut invocation = script.prepare_invoke();
    for key in keys {
        invocation.key(key);
    }
    let text: String = invocation.arg(said.to_string()).invoke_async(connection).await?;
    serde_json::from_str(&text).map_err(|_| (redis::ErrorKind::UnexpectedReturnType, "the answer is not JSON").into())
}
