//! The connection to the server: connect, lose, probe, and catch up after an outage.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use redis::aio::MultiplexedConnection;
use redis::{RedisError, Script};
use rustls::ClientConfig;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::ask::{self, ADMIT, BEAT, FINISH, Names, REJOIN};
use super::{Address, HOLD, OnLoss, Shared, State, Where, milliseconds, secret};
use crate::error::{Failed, Failure, note};

/// How often a gateway reports that it is alive, and the silence after which it counts as gone.
const BEAT_EVERY: Duration = Duration::from_secs(1);
const SILENT: Duration = Duration::from_secs(15);

/// Pauses between probes of an unreachable server: doubled up to the maximum.
const PROBE_FIRST: Duration = Duration::from_secs(1);
const PROBE_LONGEST: Duration = Duration::from_secs(30);

/// How long an emptied server waits for the counts of gateways that have not reconnected: the longest pause between
/// their probes.
const RESTORE: Duration = Duration::from_secs(31);

#[derive(Deserialize)]
struct Beat {
    now: u64,
    epoch: String,
    alive: u64,
    #[serde(default, deserialize_with = "ask::counts")]
    used: Vec<u64>,
    #[serde(default)]
    windows: Vec<Planned>,
    #[serde(default)]
    quotas: Vec<String>,
    /// Of the team secret under which the keys there are made.
    check: Option<String>,
}

#[derive(Deserialize)]
struct Planned {
    count: u64,
    last: u64,
}

#[derive(Deserialize)]
struct Rejoined {
    epoch: String,
    restored: u64,
}

/// What a gateway with keys has of them.
pub(crate) struct KeysHere {
    /// [`crate::keys::TeamSecret::check`]
    pub(crate) check: String,
    /// Of keys.json, where it is on this machine.
    pub(crate) source: Option<String>,
}

impl Where {
    /// Checks the server once, before the first request is served.
    ///
    /// Errors: it is there but must not be used, or it has keys that are made under another team secret. One that is away is
    /// no error: a gateway waits for it.
    pub(crate) fn check(&self, tls: ClientConfig, keys: Option<&KeysHere>) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tls = Arc::new(tls);
        let checked = tokio::task::LocalSet::new().block_on(&runtime, async {
            let mut connection = self.address.connect(&tls).await?;
            check(&self.address, &mut connection).await?;
            let Some(keys) = keys else { return Ok(()) };
            let mut command = redis::cmd("HMGET");
            command.arg(Names::new(&self.namespace).records()).arg(":check").arg(":source").arg(":host");
            let (check, source, host): (Option<String>, Option<String>, Option<String>) =
                command.query_async(&mut connection).await?;
            let is_own = source.is_some() && source == keys.source;
            match check.filter(|check| !is_own && *check != keys.check) {
                Some(_) => secret::refusal(&self.address.shown(), host.as_deref()).err(),
                None => Ok(()),
            }
        });
        checked.or_else(|error| if error.is::<Failed>() { Err(error) } else { Ok(()) })
    }
}

impl Shared {
    /// Runs a script. `None`: the connection is lost, and this was recorded for all requests.
    pub(super) async fn run<T: DeserializeOwned>(&self, script: &Script, keys: &[String], said: &Value) -> Option<T> {
        let mut connection = self.connection.borrow().clone()?;
        match ask::run(&mut connection, script, keys, said).await {
            Ok(told) => Some(told),
            Err(error) => {
                self.lose(&reason(&error, self.address.timeout()));
                None
            }
        }
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

    /// How many requests all gateways counted on a day, as far as known.
    pub(crate) fn count(&self, name: &str) -> Option<u64> {
        self.standing.borrow().count(name)
    }

    /// Connects, sends the server what it missed, and returns decisions to it.
    pub(super) async fn probe(&self) -> Result<()> {
        let mut connection = self.address.connect(&self.tls).await?;
        check(&self.address, &mut connection).await?;
        for script in [&ADMIT, &FINISH] {
            script.load_async(&mut connection).await.map_err(|error| failure(&error, self.address.timeout()))?;
        }
        let known_alive = self.alive.get();
        let beat = self.beat_over(&mut connection).await?;
        self.set_clock(beat.now);
        let was_emptied = beat.epoch.is_empty() || beat.epoch != *self.epoch.borrow();
        let told = self.rejoin(&mut connection).await?;
        self.epoch.replace(told.epoch);
        let expected = if self.state.get() == State::Lost { known_alive } else { 1 };
        if was_emptied && told.restored < expected {
            self.await_others(&mut connection, expected).await?;
        }
        self.publish_all(&mut connection).await?;
        self.tell_pending(&mut connection).await?;
        self.connection.replace(Some(connection));
        let before = self.state.replace(State::Up);
        self.standing.borrow_mut().found();
        if before == State::Lost {
            note(&format!("the shared limits at `{}` are back", self.address.shown()));
        }
        Ok(())
    }

    /// The runtime of the previous connection has ended, and the connection with it.
    pub(super) async fn say_over_another_connection(&self) -> Result<()> {
        let mut connection = self.address.connect(&self.tls).await?;
        self.tell_pending(&mut connection).await?;
        self.connection.replace(Some(connection));
        self.send_ledger().await;
        Ok(())
    }

    async fn tell_pending(&self, connection: &mut MultiplexedConnection) -> Result<()> {
        loop {
            let Some((id, ticket, how)) = self.pending.borrow_mut().pop() else { return Ok(()) };
            let (keys, said) = self.finished(&id, &ticket, how);
            if let Err(error) = ask::run::<u64>(connection, &FINISH, &keys, &said).await {
                self.pending.borrow_mut().push((id, ticket, how));
                return Err(failure(&error, self.address.timeout()));
            }
        }
    }

    /// Publishes keys.json, if it is on this machine, to a server that may have been emptied.
    async fn publish_all(&self, connection: &mut MultiplexedConnection) -> Result<()> {
        match self.publication() {
            Some(publication) => self.publish_over(connection, &publication).await,
            None => Ok(()),
        }
    }

    /// An emptied server decides nothing until the other gateways have returned their counts, or had the time to.
    async fn await_others(&self, connection: &mut MultiplexedConnection, expected: u64) -> Result<()> {
        let since = Instant::now();
        loop {
            let told = self.rejoin(connection).await?;
            if told.restored >= expected || since.elapsed() > RESTORE {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    async fn rejoin(&self, connection: &mut MultiplexedConnection) -> Result<Rejoined> {
        let mut keys = vec![self.names.epoch(), self.names.of("restored")];
        let counters = self.standing.borrow_mut().tell(&self.names, &mut keys, self.now(), milliseconds(HOLD));
        let said = json!({
            "instance": self.instance,
            "epoch": *self.epoch.borrow(),
            "new": uuid::Uuid::new_v4().simple().to_string(),
            "counters": counters,
        });
        let told: Rejoined = ask::run(connection, &REJOIN, &keys, &said)
            .await
            .map_err(|error| failure(&error, self.address.timeout()))?;
        self.standing.borrow_mut().arrived(self.now());
        Ok(told)
    }

    pub(super) async fn beat(&self) {
        let Some(mut connection) = self.connection.borrow().clone() else { return };
        // Admitted alone between the last report and the server's return.
        let has_news = self.standing.borrow().has_news();
        let told = if has_news { self.rejoin(&mut connection).await.map(drop) } else { Ok(()) };
        match (told, self.beat_over(&mut connection).await) {
            (Ok(()), Ok(beat)) if beat.epoch == *self.epoch.borrow() => self.set_clock(beat.now),
            (Ok(()), Ok(_)) => self.lose("it was emptied, or is another server"),
            (Err(error), _) | (_, Err(error)) => self.lose(&format!("{error:#}")),
        }
    }

    async fn beat_over(&self, connection: &mut MultiplexedConnection) -> Result<Beat> {
        let mut keys = vec![self.names.epoch(), self.names.gateways(), self.names.records()];
        let (mut said, asked) = self.standing.borrow().asked(&self.names, &mut keys, self.now());
        said["instance"] = self.instance.as_str().into();
        said["keep"] = milliseconds(SILENT).into();
        said["hold"] = milliseconds(HOLD).into();
        let beat: Beat =
            ask::run(connection, &BEAT, &keys, &said).await.map_err(|error| failure(&error, self.address.timeout()))?;
        self.compare_secret(beat.check.as_deref());
        let is_same = beat.epoch == *self.epoch.borrow() && !beat.epoch.is_empty();
        let mut standing = self.standing.borrow_mut();
        // An emptied server knows less than this gateway, and a server that returns does not know what was counted
        // alone.
        if is_same && !standing.is_lost() {
            asked.used.iter().zip(&beat.used).for_each(|(name, used)| standing.heard(name, *used));
            asked.quotas.iter().zip(&beat.quotas).for_each(|(name, said)| standing.heard_quota(name, said));
            asked
                .windows
                .iter()
                .zip(&beat.windows)
                .for_each(|(name, seen)| standing.heard_window(name, seen.count, seen.last));
            self.alive.set(beat.alive.max(1));
        } else if self.state.get() == State::Starting {
            self.alive.set(beat.alive.max(1));
        }
        Ok(beat)
    }
}

/// Errors: [`Failed`] if the server must not be used.
pub(super) async fn check(address: &Address, connection: &mut MultiplexedConnection) -> Result<()> {
    let info: String =
        redis::cmd("INFO").query_async(connection).await.map_err(|error| failure(&error, address.timeout()))?;
    let field = |name: &str| info.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
    let refused = |what: String, hint: &str| {
        Failed::new(Failure::Other, format!("`{}` {what}", address.shown())).hint(hint).err()
    };
    if field("redis_mode") == Some("sentinel") {
        return refused("is a Sentinel".into(), "name the server that moves to the new primary instead");
    }
    if field("cluster_enabled") == Some("1") {
        return refused("is part of a cluster".into(), "use one server, or one with replicas");
    }
    let version = field("redis_version").unwrap_or_default();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
    let number = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    if field("valkey_version").is_none() && number < (6, 2) {
        return refused(format!("is Redis {version}"), "Redis 6.2 and later work, and every Valkey");
    }
    let policy = field("maxmemory_policy").unwrap_or_default();
    if policy.starts_with("allkeys-") {
        let what = format!("forgets counts when its memory is full (`maxmemory-policy {policy}`)");
        return refused(what, "set `maxmemory-policy noeviction`");
    }
    Ok(())
}

/// Error codes of a server that responds but does not serve.
const REFUSALS: [&str; 2] = ["READONLY", "OOM"];

/// Why the server does not serve.
pub(super) fn reason(error: &RedisError, timeout: Duration) -> String {
    let within_script = || {
        // Redis 6.2 reports a rejected command of a script as an error of the script; the code of the command is
        // inside.
        let detail = error.detail()?;
        REFUSALS.into_iter().find(|code| detail.contains(&format!("-{code} ")))
    };
    match error.code().filter(|code| *code != "ERR").or_else(within_script) {
        Some("READONLY") => "it is read-only, as a replica is".to_owned(),
        Some("LOADING") => "it still loads its data".to_owned(),
        Some("MASTERDOWN") => "it is a replica that has lost its primary".to_owned(),
        Some("OOM") => "its memory is full".to_owned(),
        Some("NOAUTH" | "WRONGPASS") => "it refuses the password".to_owned(),
        _ if error.is_timeout() => format!("it does not answer within {} ms", timeout.as_millis()),
        _ => error.to_string(),
    }
}

pub(super) fn failure(error: &RedisError, timeout: Duration) -> anyhow::Error {
    anyhow::anyhow!("{}", reason(error, timeout))
}
