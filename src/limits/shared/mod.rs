//! The counts of many gateways together, kept by one Redis or Valkey server.
//!
//! ```text
//! mod.rs         decides with the server or, while it is away, alone; what it missed goes to it when it is back
//! address.rs     where the server is, and the way there
//! ask.rs         the scripts, their keys and their JSON
//! standing.rs    what one gateway knows of the counters, and its share of them
//! admit.lua      one decision for one request
//! finish.lua     a request settled or given back, once
//! beat.lua       a gateway is alive
//! rejoin.lua     counts of a time without the server, and of an emptied one
//! ```
//!
//! Hazard: the server is slow, stopped, read-only, full or emptied, and every request of a team waits for it. Rule: one request
//! waits for an answer, for 250 ms by default; then all gateways decide alone at once, each within its share, until a probe in the background
//! got through and what was counted meanwhile has arrived. Nothing is admitted by an emptied server before every gateway
//! gave it back its counts.

mod address;
mod ask;
mod standing;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
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
use tokio::sync::{Notify, oneshot};

pub(crate) use self::address::Address;
use self::ask::{ADMIT, BEAT, FINISH, REJOIN, Told, Verdict};
pub(crate) use self::ask::{Kind, Limit, Names, Unit};
use self::standing::{Alone, Standing, amount};
use crate::error::{Failed, Failure, note};

/// A reservation, or a request in flight, of a gateway that died ends after this.
const HOLD: Duration = Duration::from_secs(900);

/// Longest that a request waits for the server, unless `[team] timeout` says otherwise.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(250);

/// How often a gateway says that it is alive, and after which silence it is not.
const BEAT_EVERY: Duration = Duration::from_secs(1);
const SILENT: Duration = Duration::from_secs(15);

/// Waits between probes of a server that is away: doubled up to the longest.
const PROBE_FIRST: Duration = Duration::from_secs(1);
const PROBE_LONGEST: Duration = Duration::from_secs(30);

/// How long an emptied server waits for the counts of gateways that have not come back: their probes may be that far apart.
const RESTORE: Duration = Duration::from_secs(31);

/// A record that was seen so long ago serves no more while the server is away.
const TRUST_RECORDS: Duration = Duration::from_secs(900);

/// What a client is told to wait while the server is away.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Settled requests that wait for the server. Beyond them the oldest are dropped: their reservations end by themselves.
const MOST_PENDING: usize = 10_000;

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

impl Where {
    /// Asks the server once, before anything is served.
    ///
    /// Errors: it is there but must not be used. One that is away is no error: a gateway waits for it.
    pub(crate) fn check(&self, tls: ClientConfig) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tls = Arc::new(tls);
        let checked = tokio::task::LocalSet::new().block_on(&runtime, async {
            let mut connection = self.address.connect(&tls).await?;
            check(&self.address, &mut connection).await
        });
        checked.or_else(|error| if error.is::<Failed>() { Err(error) } else { Ok(()) })
    }
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

/// What became of asking.
#[derive(Debug)]
pub(crate) enum Decision {
    /// It may be sent after `wait`. What is left, by limit.
    Go { wait: Duration, ticket: String, left: Vec<u64> },
    /// The limit of this index refuses, for so long.
    Refused { limit: usize, wait: Duration },
    /// The record of the key has changed; or, without one, there is no such key.
    Record(Option<Box<Record>>),
    /// The server is away, and nothing can be decided without it.
    Unavailable,
}

/// The record of a key as the server has it.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) version: String,
    /// JSON
    pub(crate) text: String,
    seen: Instant,
}

/// A request that was admitted and has not ended.
struct Ticket {
    limits: Vec<Limit>,
    at: u64,
    held: Vec<u64>,
    /// The epoch it was counted in; `None`: alone.
    epoch: Option<String>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ended {
    /// It was never sent.
    GivenBack,
    Used {
        tokens: u64,
        cost: u64,
    },
    /// As much as was reserved for it.
    AsEstimated,
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
    /// By the key's id.
    records: RefCell<BTreeMap<String, Record>>,
    changed: Notify,
    /// Why the server cannot be had at the start, as it was said last.
    said: RefCell<String>,
}

#[derive(Deserialize)]
struct Beat {
    now: u64,
    epoch: String,
    alive: u64,
    #[serde(default)]
    used: Vec<u64>,
    #[serde(default)]
    windows: Vec<Planned>,
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

    /// Decides one request, in a place of its own: whoever asks may leave meanwhile, and what was granted is given back.
    ///
    /// `limits` for a time of the server. `key`: the id of a key and the version of its record that is known.
    pub(crate) async fn admit(
        self: &Rc<Self>,
        key: Option<(String, String)>,
        limits: impl Fn(u64) -> Vec<Limit> + 'static,
        longest: Duration,
    ) -> Decision {
        let (reply, answer) = oneshot::channel();
        let shared = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let decision = shared.decide(key.as_ref(), &limits, milliseconds(longest)).await;
            if let Err(Decision::Go { ticket, .. }) = reply.send(decision) {
                shared.end(ticket, Ended::GivenBack);
            }
        });
        answer.await.unwrap_or(Decision::Unavailable)
    }

    async fn decide(
        &self,
        key: Option<&(String, String)>,
        limits: &impl Fn(u64) -> Vec<Limit>,
        longest: u64,
    ) -> Decision {
        let id = self.new_id();
        let mut at = self.now();
        let mut checks_record = true;
        // Each time another period was asked about than the one that counts: once for the clock, once for the wait.
        for _ in 0..4 {
            if self.state.get() != State::Up {
                break;
            }
            let limits = limits(at);
            let key = key.filter(|_| checks_record);
            let Some(told) = self.ask(&id, key, &limits, longest).await else { break };
            self.set_clock(told.now);
            match told.kind {
                Verdict::Go => return self.grant(id, limits, &told),
                Verdict::Refused => {
                    let index = told.limit.saturating_sub(1);
                    self.standing.borrow_mut().refused(&limits, index, told.now);
                    return Decision::Refused { limit: index, wait: Duration::from_millis(told.wait) };
                }
                Verdict::Period => at = told.at,
                Verdict::Record => {
                    let record = Record { version: told.version, text: told.record, seen: Instant::now() };
                    if let Some((key, _)) = key {
                        self.records.borrow_mut().insert(key.clone(), record.clone());
                    }
                    return Decision::Record(Some(Box::new(record)));
                }
                Verdict::Unknown if told.complete => {
                    if let Some((key, _)) = key {
                        self.records.borrow_mut().remove(key);
                    }
                    return Decision::Record(None);
                }
                // The records are on their way to a server that was emptied.
                Verdict::Unknown => {
                    if !self.is_trusted(key) {
                        return Decision::Unavailable;
                    }
                    checks_record = false;
                }
                Verdict::Epoch => self.lose("it was emptied, or is another server"),
            }
        }
        self.decide_alone(id, key, &limits(self.now()), longest)
    }

    fn decide_alone(&self, id: String, key: Option<&(String, String)>, limits: &[Limit], longest: u64) -> Decision {
        if self.health() != Health::Degraded || !self.is_trusted(key) {
            return Decision::Unavailable;
        }
        let now = self.now();
        if self.on_loss == OnLoss::Open {
            let ticket = Ticket { limits: Vec::new(), at: now, held: Vec::new(), epoch: None };
            self.tickets.borrow_mut().insert(id.clone(), ticket);
            return Decision::Go { wait: Duration::ZERO, ticket: id, left: Vec::new() };
        }
        let mut held = Vec::new();
        match self.standing.borrow_mut().decide(&id, limits, now, longest, &mut held) {
            Alone::Go { at } => {
                let ticket = Ticket { limits: limits.to_vec(), at, held, epoch: None };
                self.tickets.borrow_mut().insert(id.clone(), ticket);
                Decision::Go { wait: Duration::from_millis(at - now), ticket: id, left: Vec::new() }
            }
            Alone::Wait { limit, wait } => Decision::Refused { limit, wait: Duration::from_millis(wait) },
            Alone::Over => Decision::Unavailable,
        }
    }

    /// Whether the record of a key was seen lately enough to go without the server.
    fn is_trusted(&self, key: Option<&(String, String)>) -> bool {
        let records = self.records.borrow();
        key.is_none_or(|(id, _)| records.get(id).is_some_and(|record| record.seen.elapsed() < TRUST_RECORDS))
    }

    /// The record of a key that was seen last, without asking.
    pub(crate) fn known_record(&self, id: &str) -> Option<Record> {
        self.records.borrow().get(id).cloned()
    }

    fn grant(&self, id: String, limits: Vec<Limit>, told: &Told) -> Decision {
        self.standing.borrow_mut().admitted(&id, &limits, told);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts, and never below 0")]
        let left = told.left.iter().map(|left| left.max(0.0) as u64).collect();
        let epoch = Some(self.epoch.borrow().clone());
        let ticket = Ticket { limits, at: told.at, held: told.held.clone(), epoch };
        self.tickets.borrow_mut().insert(id.clone(), ticket);
        Decision::Go { wait: Duration::from_millis(told.at.saturating_sub(told.now)), ticket: id, left }
    }

    async fn ask(&self, id: &str, key: Option<&(String, String)>, limits: &[Limit], longest: u64) -> Option<Told> {
        let record = self.names.record(key.map_or("-", |(id, _)| id));
        let mut keys = vec![self.names.epoch(), record, self.names.complete()];
        let asked: Vec<_> = limits.iter().map(|limit| limit.json(&self.names, &mut keys)).collect();
        let mut said = json!({
            "epoch": *self.epoch.borrow(),
            "id": id,
            "wait": longest,
            "hold": milliseconds(HOLD),
            "limits": asked,
        });
        if let Some((id, version)) = key {
            said["record"] = version.as_str().into();
            if let Some(record) = self.records.borrow_mut().get_mut(id) {
                record.seen = Instant::now();
            }
        }
        self.run(&ADMIT, &keys, &said).await
    }

    fn new_id(&self) -> String {
        let number = self.next.replace(self.next.get() + 1);
        format!("{}-{number}", &self.instance[..12])
    }

    /// Ends a request that was admitted, once.
    pub(crate) fn end(self: &Rc<Self>, ticket: String, how: Ended) {
        let Some(found) = self.tickets.borrow_mut().remove(&ticket) else { return };
        self.standing.borrow_mut().ended(&ticket, &found.limits);
        if let Ended::GivenBack = how {
            self.standing.borrow_mut().given_back(&found.limits, found.at, found.epoch.is_none());
        }
        let shared = Rc::clone(self);
        self.ending.set(self.ending.get() + 1);
        tokio::task::spawn_local(async move {
            shared.finish(ticket, found, how).await;
            shared.ending.set(shared.ending.get() - 1);
        });
    }

    /// Before the gateway ends: what was said of requests that ended has arrived, or had the time to.
    pub(crate) async fn settle_all(&self) {
        let since = Instant::now();
        while self.ending.get() > 0 && since.elapsed() < self.address.timeout() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn finish(&self, id: String, ticket: Ticket, how: Ended) {
        if ticket.epoch.is_none() && self.state.get() != State::Up {
            self.finish_alone(&ticket, how);
            return;
        }
        let is_undone = matches!(how, Ended::GivenBack);
        let matters = |limit: &Limit| is_undone || !matches!(limit.kind, Kind::Window { .. } | Kind::Day { .. });
        if !ticket.limits.iter().any(matters) {
            return;
        }
        let (keys, said) = self.finished(&id, &ticket, how);
        let told: Option<u64> =
            if self.state.get() == State::Up { self.run(&FINISH, &keys, &said).await } else { None };
        let mut pending = self.pending.borrow_mut();
        if told.is_none() && pending.len() < MOST_PENDING {
            pending.push((id, ticket, how));
        }
    }

    fn finish_alone(&self, ticket: &Ticket, how: Ended) {
        for (limit, held) in ticket.limits.iter().zip(&ticket.held) {
            if let Kind::Spend { unit, .. } = limit.kind {
                self.standing.borrow_mut().corrected(&limit.name, more(unit, *held, how));
            }
        }
    }

    fn finished(&self, id: &str, ticket: &Ticket, how: Ended) -> (Vec<String>, Value) {
        let mut keys = vec![self.names.of(&format!("ended:{id}"))];
        // Where the reservation itself is counted as used, only the difference is left to say.
        let is_reserved = ticket.epoch.as_ref() == Some(&*self.epoch.borrow());
        let said: Vec<_> = ticket
            .limits
            .iter()
            .enumerate()
            .map(|(index, limit)| {
                let mut said = limit.json(&self.names, &mut keys);
                let held = ticket.held.get(index).copied().unwrap_or_default();
                let used = match limit.kind {
                    Kind::Spend { unit, .. } if is_reserved => more(unit, held, how) + held.cast_signed(),
                    Kind::Spend { unit, .. } => more(unit, held, how),
                    Kind::Tokens { add, .. } => more(Unit::Tokens, add, how) + add.cast_signed(),
                    _ => 0,
                };
                said.insert("used".to_owned(), used.into());
                if let Kind::Spend { ends, .. } = limit.kind {
                    said.insert("keep".to_owned(), ends.saturating_sub(self.now()).into());
                }
                said
            })
            .collect();
        let undo = matches!(how, Ended::GivenBack);
        (keys, json!({ "id": id, "at": ticket.at, "undo": undo, "limits": said }))
    }

    /// Runs a script. `None`: the server is lost, and everyone knows.
    async fn run<T: DeserializeOwned>(&self, script: &Script, keys: &[String], said: &Value) -> Option<T> {
        let mut connection = self.connection.borrow().clone()?;
        match ask::run(&mut connection, script, keys, said).await {
            Ok(told) => Some(told),
            Err(error) => {
                self.lose(&reason(&error, self.address.timeout()));
                None
            }
        }
    }

    /// The server is away: said once, and known to all requests.
    fn lose(&self, why: &str) {
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

    /// Keeps the connection for as long as the gateway runs.
    pub(crate) async fn keep(self: Rc<Self>) {
        let mut pause = PROBE_FIRST;
        loop {
            if self.state.get() == State::Up {
                pause = PROBE_FIRST;
                tokio::select! {
                    () = tokio::time::sleep(BEAT_EVERY) => {}
                    () = self.changed.notified() => continue,
                }
                self.beat().await;
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

    /// Connects the first time. A server that is away, or that must not be used, is tried again.
    pub(crate) async fn begin(&self) {
        if let Err(error) = self.probe().await {
            self.say_missing(&error);
        }
    }

    /// Says once for each reason that the server was never there.
    fn say_missing(&self, error: &anyhow::Error) {
        let why = format!("{error:#}");
        if self.said.replace(why.clone()) != why {
            let shown = self.address.shown();
            note(&format!("warning: the shared limits at `{shown}` cannot be had: {why}; it is tried again"));
        }
    }

    /// How many requests of a day all gateways counted, as far as it is known.
    pub(crate) fn count(&self, name: &str) -> Option<u64> {
        self.standing.borrow().count(name)
    }

    /// Connects, gives the server what it missed, and lets it decide again.
    async fn probe(&self) -> Result<()> {
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
        let pending = std::mem::take(&mut *self.pending.borrow_mut());
        for (id, ticket, how) in pending {
            let (keys, said) = self.finished(&id, &ticket, how);
            let _: u64 = ask::run(&mut connection, &FINISH, &keys, &said)
                .await
                .map_err(|error| failure(&error, self.address.timeout()))?;
        }
        self.connection.replace(Some(connection));
        let before = self.state.replace(State::Up);
        self.standing.borrow_mut().found();
        if before == State::Lost {
            note(&format!("the shared limits at `{}` are back", self.address.shown()));
        }
        Ok(())
    }

    /// An emptied server decides nothing before the other gateways gave back their counts, or had the time to.
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

    async fn beat(&self) {
        let Some(mut connection) = self.connection.borrow().clone() else { return };
        // Counted alone after the last word before the server was back.
        let has_news = self.standing.borrow().has_news();
        let told = if has_news { self.rejoin(&mut connection).await.map(drop) } else { Ok(()) };
        match (told, self.beat_over(&mut connection).await) {
            (Ok(()), Ok(beat)) if beat.epoch == *self.epoch.borrow() => self.set_clock(beat.now),
            (Ok(()), Ok(_)) => self.lose("it was emptied, or is another server"),
            (Err(error), _) | (_, Err(error)) => self.lose(&format!("{error:#}")),
        }
    }

    async fn beat_over(&self, connection: &mut MultiplexedConnection) -> Result<Beat> {
        let mut keys = vec![self.names.epoch(), self.names.gateways()];
        let (mut said, used, windows) = self.standing.borrow().asked(&self.names, &mut keys);
        said["instance"] = self.instance.as_str().into();
        said["keep"] = milliseconds(SILENT).into();
        said["hold"] = milliseconds(HOLD).into();
        let beat: Beat =
            ask::run(connection, &BEAT, &keys, &said).await.map_err(|error| failure(&error, self.address.timeout()))?;
        let is_same = beat.epoch == *self.epoch.borrow() && !beat.epoch.is_empty();
        let mut standing = self.standing.borrow_mut();
        // An emptied server knows less than this gateway, and one that comes back has not heard of what was counted alone.
        if is_same && !standing.is_lost() {
            used.iter().zip(&beat.used).for_each(|(name, used)| standing.heard(name, *used));
            windows
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

/// Errors: [`Failed`] where the server must not be used.
async fn check(address: &Address, connection: &mut MultiplexedConnection) -> Result<()> {
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

/// What a request used beyond what was reserved for it.
fn more(unit: Unit, held: u64, how: Ended) -> i64 {
    let used = match how {
        Ended::GivenBack => 0,
        Ended::AsEstimated => held,
        Ended::Used { tokens, cost } => amount(unit, tokens, cost),
    };
    used.cast_signed().saturating_sub(held.cast_signed())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Why the server does not serve, in words.
fn reason(error: &RedisError, timeout: Duration) -> String {
    match error.code() {
        Some("READONLY") => "it is read-only, as a replica is".to_owned(),
        Some("LOADING") => "it still loads its data".to_owned(),
        Some("MASTERDOWN") => "it is a replica that has lost its primary".to_owned(),
        Some("OOM") => "its memory is full".to_owned(),
        Some("NOAUTH" | "WRONGPASS") => "it refuses the password".to_owned(),
        _ if error.is_timeout() => format!("it does not answer within {} ms", timeout.as_millis()),
        _ => error.to_string(),
    }
}

fn failure(error: &RedisError, timeout: Duration) -> anyhow::Error {
    anyhow::anyhow!("{}", reason(error, timeout))
}

#[cfg(test)]
mod tests;
