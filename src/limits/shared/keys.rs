//! The engine of keys that all gateways count together: the limits of key and account in one request to the server.

use std::borrow::Borrow;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use serde::Deserialize;
use serde_json::json;

use super::Shared;
use super::names::Names;
use super::published::Away;
use super::script::{self, LOOK};
use crate::epoch;
use crate::keys::{Directory, KeyRecord, Money, State as KeyState, TeamSecret};
use crate::limits::UsedUp;
use crate::limits::engine::{AccountWindows, Demand, Grant, KeyDecision, Left, Refused, Unavailable, Used};
use crate::limits::together::{
    Counted, Kind, Limit, SPREAD, Settlement, SharedAccount, SharedDecision, UNLIMITED, Unit, kept, time,
};

const DAY: u64 = 86_400_000;

const MINUTE: Duration = Duration::from_secs(60);

/// Poll interval of a request that waits until another request of its key has ended, possibly at another gateway.
const POLL: Duration = Duration::from_millis(200);

/// The limits of keys, counted together with other gateways.
pub(crate) struct SharedKeys(Rc<Shared>);

/// The most that a request may use of its key.
#[derive(Clone, Copy)]
struct Wanted {
    tokens: u64,
    cost: Money,
    repeats: bool,
}

/// The limits that apply to one request.
#[derive(Clone)]
struct Limits {
    key: Rc<KeyRecord>,
    wanted: Wanted,
    account: Option<Rc<SharedAccount>>,
}

impl Limits {
    /// At a time by the server's clock. The key's limits come first.
    fn at(&self, at: u64) -> Vec<Limit> {
        let mut limits = limits_of_key(&self.key, self.wanted, at);
        if let Some(account) = &self.account {
            limits.extend(account.limits(at));
        }
        limits
    }
}

fn limits_of_key(key: &KeyRecord, wanted: Wanted, at: u64) -> Vec<Limit> {
    let day = UtcDay::of(at);
    let kind_of_day = Kind::Day { begins: day.begins, ends: day.ends };
    let of_key = |name: &str, kind: Kind, most: u64| Limit::of_key(&key.id, name, kind, most);
    let window = kept(key.limits.window.map_or(MINUTE, |seconds| Duration::from_secs(seconds.into())));
    let mut limits = Vec::new();
    if let Some(most) = key.limits.requests_per_minute {
        limits.push(of_key("window", Kind::Window { window }, most.into()));
    }
    if wanted.repeats {
        return limits;
    }
    // Counted without a limit too, for `keys list`.
    let most = key.limits.requests_per_day.map_or(UNLIMITED, Into::into);
    limits.push(of_key(&format!("day/{}", day.number), kind_of_day, most));
    if let Some(most) = key.limits.parallel {
        limits.push(of_key("parallel", Kind::Parallel, most.into()));
    }
    if let Some(most) = key.limits.tokens_per_minute.map(u64::from).filter(|_| wanted.tokens > 0) {
        // A single request always fits.
        limits.push(of_key("tokens", Kind::Tokens { window, add: wanted.tokens.min(most) }, most));
    }
    if let Some(most) = key.limits.tokens_per_day.filter(|_| wanted.tokens > 0) {
        let most = most.min(UNLIMITED);
        let (begins, ends) = (day.begins, day.ends);
        let kind = Kind::Spend { unit: Unit::Tokens, add: wanted.tokens.min(most), begins, ends };
        limits.push(of_key(&format!("tokens/{}", day.number), kind, most));
    }
    let now = time(at);
    if let (Some(budget), Some(period)) = (key.limits.budget, key.spending_period(now))
        && wanted.cost > Money::default()
    {
        let most = budget.amount.0.min(UNLIMITED);
        let (begins, ends) =
            (epoch::milliseconds(budget.period.began(now)), epoch::milliseconds(budget.period.ends(now)));
        let kind = Kind::Spend { unit: Unit::Nanodollars, add: wanted.cost.0.min(most), begins, ends };
        limits.push(of_key(&format!("spent/{period}"), kind, most));
    }
    limits
}

/// A day in UTC, in milliseconds.
struct UtcDay {
    /// Days since 1970.
    number: u64,
    begins: u64,
    ends: u64,
}

impl UtcDay {
    /// The day of a time. Without a calendar, because every request asks for it.
    fn of(at: u64) -> Self {
        let number = at / DAY;
        Self { number, begins: number * DAY, ends: (number + 1) * DAY }
    }
}

impl SharedKeys {
    /// `keys`: where keys.json is on the machine where the keys are managed.
    pub(crate) fn open(shared: &Rc<Shared>, keys: &Path, secret: &TeamSecret) -> Result<Self> {
        shared.keys.records.begin_with(Directory::open(keys)?);
        let keys = Self(Rc::clone(shared));
        keys.use_secret(secret);
        Ok(keys)
    }

    /// By the server's clock, as the counters.
    pub(crate) fn now(&self) -> SystemTime {
        time(self.0.now())
    }

    /// The team secret of this gateway.
    pub(crate) fn use_secret(&self, secret: &TeamSecret) {
        self.0.keys.secret.set(secret.check());
    }

    /// Whether no key can be valid here, for another team secret than this gateway's makes them so.
    pub(crate) fn secret_differs(&self) -> bool {
        self.0.keys.secret.differs()
    }

    pub(crate) async fn look_up(&self, id: &str, now: bool) -> Result<Option<Rc<KeyRecord>>, Unavailable> {
        match self.0.keys.record(id, now).await {
            Ok(found) => Ok(found.map(|key| key.record)),
            Err(Away) => Err(Unavailable),
        }
    }

    pub(crate) async fn find(&self, name: &str) -> Result<Option<Rc<KeyRecord>>, Unavailable> {
        match self.0.keys.record_named(name).await {
            Ok(found) => Ok(found.map(|key| key.record)),
            Err(Away) => Err(Unavailable),
        }
    }

    pub(crate) async fn admit(&self, demand: &Demand, account: Option<&AccountWindows>) -> KeyDecision {
        let refused = |reason| KeyDecision::Refused { reason, left: Left::default() };
        let key = match self.0.keys.record_read(&demand.key.id).await {
            Ok(Some(found)) => found,
            Ok(None) => return refused(Refused::Unknown),
            Err(Away) => return refused(Refused::Unavailable),
        };
        // It was changed after the request was examined.
        if !key.record.is_same_for_all(&demand.key) {
            return KeyDecision::Changed(key.record);
        }
        match key.record.state(self.now()) {
            KeyState::Revoked => return refused(Refused::Unknown),
            KeyState::Expired => return refused(Refused::Expired),
            KeyState::Active | KeyState::Rotating => {}
        }
        let account = account.and_then(|account| account.shared.clone());
        let wanted = Wanted { tokens: demand.tokens, cost: demand.cost, repeats: demand.repeats };
        let limits = Limits { key: Rc::clone(&key.record), wanted, account };
        let since = Instant::now();
        loop {
            let longest = demand.longest_wait.saturating_sub(since.elapsed());
            let freed = self.0.admissions.tickets.freed.notified();
            let asked = limits.clone();
            match self.0.admissions.admit(Some(key.clone()), move |at| asked.at(at), longest).await {
                SharedDecision::Go { wait, ticket } => return self.granted(&limits, wait, ticket),
                SharedDecision::Changed(Some(record)) => return KeyDecision::Changed(record),
                SharedDecision::Changed(None) => return refused(Refused::Unknown),
                SharedDecision::Unavailable => return refused(Refused::Unavailable),
                SharedDecision::Refused { limit, wait } => match self.reason(&limits, limit, wait) {
                    Refused::KeyParallel if longest > POLL => {
                        let _ = tokio::time::timeout(POLL, freed).await;
                    }
                    // Asked for, because only who is admitted is told of every limit.
                    reason => return KeyDecision::Refused { reason, left: self.left(&limits.key).await },
                },
            }
        }
    }

    fn granted(&self, limits: &Limits, wait: Duration, ticket: String) -> KeyDecision {
        let grant = Grant {
            id: ticket,
            key: Rc::clone(&limits.key),
            at: 0,
            day: 0,
            account_day: 0,
            period: None,
            tokens: limits.wanted.tokens,
            repeats: limits.wanted.repeats,
        };
        let spread = if wait.is_zero() { Duration::ZERO } else { SPREAD };
        KeyDecision::Go { wait, spread, grant, left: self.seen(&limits.key) }
    }

    /// Why the limit of this index rejects the request.
    fn reason(&self, limits: &Limits, index: usize, wait: Duration) -> Refused {
        let ends = SystemTime::now() + wait;
        let limits = limits.at(self.0.now());
        let Some(limit) = limits.get(index) else { return Refused::KeyRate { wait } };
        if let Some(cause) = limit.quota {
            return Refused::AccountQuota(UsedUp { cause, ends });
        }
        match (limit.is_of_key(), limit.kind) {
            (true, Kind::Window { .. } | Kind::Tokens { .. } | Kind::Quota { .. }) => Refused::KeyRate { wait },
            (true, Kind::Parallel) => Refused::KeyParallel,
            (true, Kind::Spend { .. }) if wait.is_zero() => Refused::KeyReserved,
            (true, Kind::Day { .. } | Kind::Spend { unit: Unit::Tokens, .. }) => Refused::KeyDay { ends },
            (true, Kind::Spend { unit: Unit::Nanodollars, .. }) => Refused::KeyBudget { ends },
            (false, Kind::Day { .. }) => Refused::AccountDay { ends },
            (false, _) => Refused::AccountRate { wait },
        }
    }

    /// What the key has left, as known here.
    fn seen(&self, key: &KeyRecord) -> Left {
        let now = self.0.now();
        let of_key = limits_of_key(key, ALL, now);
        let standing = self.0.link.standing.borrow();
        let seen = of_key.iter().map(|limit| {
            let (used, resets) = standing.used(limit, now);
            Seen { used, held: 0, resets }
        });
        let is_unknown = |limit: &Limit| {
            matches!(limit.kind, Kind::Spend { unit: Unit::Nanodollars, .. }) && !standing.knows(&limit.name)
        };
        Left { is_spending_unknown: of_key.iter().any(is_unknown), ..left(&of_key, seen) }
    }

    /// The request of this grant was never sent; with `moved`, it still counts in the windows of its account.
    pub(crate) fn give_back(&self, grant: &Grant, moved: bool) {
        self.0.admissions.end(grant.id.clone(), if moved { Settlement::Moved } else { Settlement::GivenBack });
    }

    pub(crate) fn settle(&self, grant: &Grant, used: Used) {
        let ended = if grant.repeats {
            Settlement::AsEstimated
        } else {
            Settlement::Used { tokens: used.tokens.min(UNLIMITED), cost: used.cost.0.min(UNLIMITED) }
        };
        self.0.admissions.end(grant.id.clone(), ended);
    }

    /// What the key has left now, by the server.
    pub(crate) async fn left(&self, key: &Rc<KeyRecord>) -> Left {
        self.left_of_each(std::slice::from_ref(key)).await.pop().unwrap_or_default()
    }

    /// The same of each of these keys.
    pub(crate) async fn left_of_each(&self, keys: &[Rc<KeyRecord>]) -> Vec<Left> {
        let mut all = Vec::new();
        for some in keys.chunks(KEYS_OF_A_QUESTION) {
            let (link, at) = (&self.0.link, self.0.now());
            let told: Option<Look> = if link.is_up() {
                let (asked, said) = question_of(&link.names, some, at);
                link.run(&LOOK, &asked, &said).await
            } else {
                None
            };
            if let Some(told) = told {
                link.clock.set(told.now);
                all.extend(answer_of(some, at, told));
            } else {
                all.extend(some.iter().map(|key| self.seen(key)));
            }
        }
        all
    }

    pub(crate) fn records(&self) -> Vec<Rc<KeyRecord>> {
        self.0.keys.records.all()
    }
}

/// Keys that one question to the server is about: it answers nothing else meanwhile, and the answers of several thousand,
/// one after another, take seconds.
pub(super) const KEYS_OF_A_QUESTION: usize = 100;

/// Everything a key can be limited in.
const ALL: Wanted = Wanted { tokens: 1, cost: Money(1), repeats: false };

/// What the server reports about limits.
#[derive(Deserialize)]
pub(super) struct Look {
    now: u64,
    #[serde(default)]
    seen: Vec<Seen>,
}

#[derive(Deserialize)]
struct Seen {
    #[serde(deserialize_with = "number")]
    used: u64,
    #[serde(deserialize_with = "number")]
    held: u64,
    /// Milliseconds until the oldest request leaves a window.
    resets: u64,
}

fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(script::count(&String::deserialize(deserializer)?))
}

pub(super) fn question_of_account(names: &Names, account: &SharedAccount, at: u64) -> (Vec<String>, serde_json::Value) {
    question(names, &account.limits(at))
}

/// Its answer.
pub(super) fn answer_of_account(account: &SharedAccount, at: u64, look: Look) -> Counted {
    let mut counted = Counted::default();
    for (limit, seen) in account.limits(at).iter().zip(look.seen) {
        match (limit.quota, limit.kind) {
            (Some(cause), Kind::Day { ends, .. }) => {
                counted.quotas.push((cause, seen.used, Duration::from_millis(ends.saturating_sub(at))));
            }
            (Some(cause), _) => counted.quotas.push((cause, seen.used, Duration::from_millis(seen.resets))),
            (None, Kind::Day { .. }) => counted.today = seen.used,
            (None, _) => counted.lately = counted.lately.max(seen.used),
        }
    }
    counted
}

/// The keys and the argument of the script `look`, for `limits`.
fn question(names: &Names, limits: &[Limit]) -> (Vec<String>, serde_json::Value) {
    let mut keys = Vec::new();
    let asked: Vec<_> = limits.iter().map(|limit| limit.json(names, &mut keys)).collect();
    (keys, json!({ "limits": asked }))
}

/// The same for everything that keys can be limited in, at a time by the server's clock.
pub(super) fn question_of(names: &Names, keys: &[impl Borrow<KeyRecord>], at: u64) -> (Vec<String>, serde_json::Value) {
    let limits: Vec<Limit> = keys.iter().flat_map(|key| limits_of_key(key.borrow(), ALL, at)).collect();
    question(names, &limits)
}

/// The response to it, for each key.
pub(super) fn answer_of(keys: &[impl Borrow<KeyRecord>], at: u64, look: Look) -> impl Iterator<Item = Left> {
    let mut seen = look.seen.into_iter();
    keys.iter().map(move |key| left(&limits_of_key(key.borrow(), ALL, at), &mut seen))
}

fn left(limits: &[Limit], seen: impl Iterator<Item = Seen>) -> Left {
    let mut left = Left::default();
    for (limit, seen) in limits.iter().zip(seen) {
        match limit.kind {
            Kind::Window { .. } => {
                left.requests_of_minute = seen.used;
                left.minute_resets_in = Duration::from_millis(seen.resets);
            }
            Kind::Tokens { .. } => left.tokens_of_minute = seen.used,
            Kind::Day { .. } => left.requests_of_day = seen.used,
            Kind::Quota { .. } => {}
            Kind::Parallel => left.parallel = u32::try_from(seen.used).unwrap_or(u32::MAX),
            Kind::Spend { unit: Unit::Tokens, .. } => left.tokens_of_day = seen.used.saturating_add(seen.held),
            Kind::Spend { unit: Unit::Nanodollars, .. } => {
                (left.spent, left.reserved) = (Money(seen.used), Money(seen.held));
            }
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::super::{Address, OnLoss, Where};
    use super::*;
    use crate::keys::{Change, Keys, Places};
    use crate::limits::Zone;

    #[test]
    fn a_key_expires_by_the_clock_of_the_server() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let places =
            Places { keys: path("keys.json"), audit: path("audit"), secret: path("secret"), is_secret_given: false };
        let (secret, now) = (TeamSecret::new(), SystemTime::now());
        let (mut record, _) = KeyRecord::create("ann", &secret, now);
        record.expires_at = Some(epoch::seconds(now) + 1800);
        let key = Rc::new(record.clone());
        Keys::change(&places, now, |keys| {
            keys.add(record)?;
            Ok(((), Change { verb: "create", id: key.id.clone(), changes: serde_json::Value::Null }))
        })
        .unwrap();
        let address = Address::parse("redis://127.0.0.1:1", None, MINUTE).unwrap();
        let place = Where { address, namespace: "test".into(), on_loss: OnLoss::Share };
        let shared = Shared::new(place, super::super::tests::tls());
        let engine = SharedKeys::open(&shared, &places.keys, &secret).unwrap();
        // Before the server has told its time it is that of this machine.
        assert!(engine.now() >= now - MINUTE && engine.now() < now + MINUTE);
        shared.link.clock.set(epoch::milliseconds(now) + 3_600_000);
        assert!(engine.now() > now + 59 * MINUTE);
        let demand = Demand { key, tokens: 0, cost: Money::default(), longest_wait: Duration::ZERO, repeats: false };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let decided = tokio::task::LocalSet::new().block_on(&runtime, engine.admit(&demand, None));
        assert!(matches!(decided, KeyDecision::Refused { reason: Refused::Expired, .. }));
    }

    #[test]
    fn each_key_of_a_question_gets_its_own_answer() {
        let record = |change: fn(&mut KeyRecord)| {
            let (mut key, _) = KeyRecord::create("ann", &TeamSecret::new(), SystemTime::now());
            change(&mut key);
            Rc::new(key)
        };
        let keys = [
            record(|_| ()),
            record(|key| key.limits.budget = "1 USD/day".parse().ok()),
            record(|key| key.limits.requests_per_minute = Some(1)),
        ];
        let (asked, _) = question_of(&Names::new("n"), &keys, 0);
        // Of the money what is reserved as well.
        assert_eq!(asked.len(), 1 + (1 + 2) + 2);
        let seen: Vec<_> = (1..=5).map(|used| json!({ "used": used.to_string(), "held": "0", "resets": 0 })).collect();
        let look: Look = serde_json::from_value(json!({ "now": 0, "seen": seen })).unwrap();
        let left: Vec<Left> = answer_of(&keys, 0, look).collect();
        let days: Vec<u64> = left.iter().map(|left| left.requests_of_day).collect();
        assert_eq!((days, left[1].spent, left[2].requests_of_minute), (vec![1, 2, 5], Money(3), 4));
    }

    #[test]
    fn a_utc_day_is_that_of_the_calendar() {
        for at in [0, DAY - 1, DAY, 1_709_164_800_000, 1_772_323_199_999] {
            let (day, calendar) = (UtcDay::of(at), Zone::utc().day_of(time(at)));
            assert_eq!(i64::from(calendar.number()), day.number.cast_signed());
            assert_eq!(
                (epoch::milliseconds(calendar.begins), epoch::milliseconds(calendar.ends)),
                (day.begins, day.ends)
            );
        }
    }
}
