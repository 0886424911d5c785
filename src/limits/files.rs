//! The engine for one machine: keys.json, and counters in files shared by all gateways of the user.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;

use super::busy::insist;
use super::engine::{Demand, Grant, KeyDecision, Left, RESERVED_FOR, Refused, Used};
use super::key_state::{KeyFile, KeyState, day_of};
use super::local::Rate;
use super::window::Slot;
use crate::epoch;
use crate::error::Trouble;
use crate::keys::{Directory, KeyRecord, Money, State};
use crate::platform::system;

/// How often reservations are extended, long before they expire.
const EXTEND: Duration = Duration::from_secs(RESERVED_FOR.as_secs() / 3);

/// Poll interval of a request that waits until another request of its key has ended.
const POLL: Duration = Duration::from_millis(50);

/// Result of one attempt to decide with the files.
pub(super) enum Step {
    Decided(KeyDecision),
    /// Another process holds one of the files.
    Busy,
    /// Not decided yet: retry after this time.
    Later(Duration),
}

/// The limits of keys, counted on this machine.
pub(crate) struct Files {
    state: PathBuf,
    directory: RefCell<Directory>,
    open: RefCell<BTreeMap<String, Rc<KeyFile>>>,
    /// Reservations of this process by key; it extends them while it runs.
    held: RefCell<BTreeMap<String, Vec<String>>>,
    extended: Cell<Instant>,
    /// Requests that ended while their key's file could not be changed, by key. The next change of the file records
    /// them as well, such as that which admits a request: they are never more than were in flight.
    late: RefCell<BTreeMap<String, Vec<LateSettlement>>>,
    trouble: Trouble,
}

/// A request that has ended.
struct LateSettlement {
    grant: Grant,
    /// `None` if it was never sent.
    used: Option<Used>,
}

/// How long a gateway that stops waits for files held by others, to record its last counts.
const LAST_WAIT: Duration = Duration::from_secs(2);

impl Drop for Files {
    fn drop(&mut self) {
        let since = Instant::now();
        while !self.late.borrow().is_empty() && since.elapsed() < LAST_WAIT {
            insist(|| {
                self.finish_late();
                self.late.borrow().is_empty().then_some(())
            });
        }
        for (id, late) in self.late.borrow().iter() {
            log::warn!("the usage of {} requests of key `{id}` is not counted: its file cannot be changed", late.len());
        }
    }
}

impl Files {
    /// `keys`: the path of keys.json.
    pub(crate) fn open(state: &Path, keys: &Path) -> Result<Self> {
        Ok(Self {
            state: state.to_owned(),
            directory: RefCell::new(Directory::open(keys)?),
            open: RefCell::default(),
            held: RefCell::default(),
            extended: Cell::new(Instant::now()),
            late: RefCell::default(),
            trouble: Trouble::default(),
        })
    }

    pub(super) fn look_up(&self, id: &str) -> Option<Rc<KeyRecord>> {
        let mut directory = self.directory.borrow_mut();
        directory.look();
        directory.find(id).map(|key| Rc::clone(&key.record))
    }

    pub(super) fn find(&self, name: &str) -> Option<Rc<KeyRecord>> {
        let mut directory = self.directory.borrow_mut();
        directory.look();
        directory.find_named(name).map(|key| Rc::clone(&key.record))
    }

    pub(super) fn records(&self) -> Vec<Rc<KeyRecord>> {
        self.directory.borrow().all().cloned().collect()
    }

    fn file(&self, id: &str) -> Result<Rc<KeyFile>> {
        if let Some(file) = self.open.borrow().get(id) {
            return Ok(Rc::clone(file));
        }
        let file = Rc::new(KeyFile::open(&self.state, id)?);
        self.open.borrow_mut().insert(id.to_owned(), Rc::clone(&file));
        Ok(file)
    }

    /// One attempt. `alone`: without the account's file, which was busy for too long; `waited`: how long the request
    /// has been waiting.
    pub(super) fn admit(
        &self,
        demand: &Demand,
        account: Option<&RefCell<Rate>>,
        alone: bool,
        waited: Duration,
    ) -> Step {
        let now = SystemTime::now();
        let Some(key) = self.look_up(&demand.key.id) else { return refused(Refused::Unknown, Left::default()) };
        match key.state(now) {
            State::Revoked => return refused(Refused::Unknown, Left::default()),
            State::Expired => return refused(Refused::Expired, Left::default()),
            State::Active | State::Rotating => {}
        }
        let unavailable = |error: &anyhow::Error| {
            log::warn!("cannot read the counters of key `{}`: {error:#}", key.id);
            refused(Refused::Unavailable, Left::default())
        };
        let file = match self.file(&key.id) {
            Ok(file) => file,
            Err(error) => return unavailable(&error),
        };
        let lock = match file.lock() {
            Ok(Some(lock)) => lock,
            Ok(None) => return Step::Busy,
            Err(error) => return unavailable(&error),
        };
        let mut standing = match file.read(&key, now) {
            Ok(standing) => standing,
            Err(error) => return unavailable(&error),
        };
        self.apply_late(&mut standing, &key.id);
        let mut rate = account.map(RefCell::borrow_mut);
        let step = match &mut rate {
            None => place(&mut standing, None, &key, demand, waited, now),
            Some(rate) => {
                let joint = |mut account: super::local::Account<'_>| {
                    place(&mut standing, Some(&mut account), &key, demand, waited, now)
                };
                match rate.together(now, alone, joint) {
                    Some(step) => step,
                    None => return Step::Busy,
                }
            }
        };
        if let Step::Decided(KeyDecision::Go { grant, .. }) = &step {
            if let Err(error) = file.write(&standing) {
                drop(lock);
                if let Some(rate) = &mut rate {
                    rate.give_back_at(grant.at, grant.account_day);
                }
                return unavailable(&error);
            }
            self.forget_late(&key.id);
            if !demand.repeats {
                self.held.borrow_mut().entry(key.id.clone()).or_default().push(grant.id.clone());
            }
        }
        drop(lock);
        step
    }

    /// The request was never sent.
    pub(super) fn give_back(&self, grant: &Grant, account: Option<&RefCell<Rate>>) {
        if let Some(rate) = account {
            rate.borrow_mut().give_back_at(grant.at, grant.account_day);
        }
        self.finish(grant, None);
    }

    /// The request has ended.
    pub(super) fn settle(&self, grant: &Grant, used: Used) {
        self.finish(grant, Some(used));
    }

    /// `used`: `None` if the request was never sent.
    fn finish(&self, grant: &Grant, used: Option<Used>) {
        self.release(grant);
        if !self.record(&grant.key, Some((grant, used))) {
            self.late
                .borrow_mut()
                .entry(grant.key.id.clone())
                .or_default()
                .push(LateSettlement { grant: grant.clone(), used });
        }
    }

    /// The reservation is no longer extended.
    fn release(&self, grant: &Grant) {
        let mut held = self.held.borrow_mut();
        let Some(ids) = held.get_mut(&grant.key.id) else { return };
        ids.retain(|id| *id != grant.id);
        if ids.is_empty() {
            held.remove(&grant.key.id);
        }
    }

    fn finish_late(&self) {
        let keys: Vec<Rc<KeyRecord>> =
            self.late.borrow().values().filter_map(|late| Some(Rc::clone(&late.first()?.grant.key))).collect();
        for key in &keys {
            self.record(key, None);
        }
    }

    /// Records how requests of a key ended, `ended` and those that are late, by one change of its file. Returns `false`
    /// if it cannot be changed now.
    fn record(&self, key: &Rc<KeyRecord>, ended: Option<(&Grant, Option<Used>)>) -> bool {
        let now = SystemTime::now();
        // Its own record, as of now: a period that was reset in the meantime no longer counts.
        let key = self.look_up(&key.id).unwrap_or_else(|| Rc::clone(key));
        let recorded = self.file(&key.id).and_then(|file| {
            let Some(_lock) = file.lock()? else { return Ok(false) };
            let mut standing = file.read(&key, now)?;
            self.apply_late(&mut standing, &key.id);
            if let Some((grant, used)) = ended {
                apply(&mut standing, grant, used);
            }
            standing.sums.used_at = epoch::seconds(now);
            file.write(&standing).map(|()| true)
        });
        match recorded {
            Ok(true) => {
                self.forget_late(&key.id);
                true
            }
            Ok(false) => false,
            Err(error) => {
                self.trouble.note(&format!("the usage of keys is recorded later: {error:#}"));
                false
            }
        }
    }

    fn apply_late(&self, standing: &mut KeyState, id: &str) {
        for LateSettlement { grant, used } in self.late.borrow().get(id).into_iter().flatten() {
            apply(standing, grant, *used);
        }
    }

    /// What was late of a key is in its file.
    fn forget_late(&self, id: &str) {
        let mut late = self.late.borrow_mut();
        if late.remove(id).is_some() && late.is_empty() {
            self.trouble.end();
        }
    }

    /// Extends the reservations of requests in flight, if it is time to.
    pub(super) fn tend(&self) {
        self.finish_late();
        if self.extended.get().elapsed() < EXTEND {
            return;
        }
        self.extended.set(Instant::now());
        let held = self.held.borrow().clone();
        for (id, ids) in &held {
            let (Some(key), Ok(file)) = (self.look_up(id), self.file(id)) else { continue };
            let Ok(Some(_lock)) = file.lock() else { continue };
            let Ok(mut standing) = file.read(&key, SystemTime::now()) else { continue };
            standing.extend(ids);
            if let Err(error) = file.write(&standing) {
                log::warn!("cannot extend the reservations of key `{id}`: {error:#}");
            }
        }
    }

    /// What a key has left now.
    pub(super) fn left(&self, key: &KeyRecord) -> Left {
        let left = self.file(&key.id).and_then(|file| {
            let _lock = file.lock();
            Ok(file.read(key, SystemTime::now())?.left())
        });
        left.unwrap_or(Left { is_spending_unknown: true, ..Left::default() })
    }
}

/// Replaces the reservation of a request by what it used; `None`: it was never sent.
fn apply(standing: &mut KeyState, grant: &Grant, used: Option<Used>) {
    let clamp = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
    standing.release(&grant.id);
    if let Some(used) = used {
        standing.charge(used.tokens, used.cost, grant.period.as_deref(), grant.day);
    } else {
        standing.requests.correct(grant.at, 1, 0);
        let day = standing.requests.day(grant.day);
        day.count = day.count.saturating_sub(u32::from(!grant.repeats));
    }
    let tokens = used.map_or(0, |used| used.tokens);
    standing.tokens.correct(grant.at, clamp(grant.tokens), clamp(tokens));
}

fn refused(reason: Refused, left: Left) -> Step {
    Step::Decided(KeyDecision::Refused { reason, left })
}

/// Checks all limits under their locks, and counts the request in all of them or in none.
fn place(
    standing: &mut KeyState,
    mut account: Option<&mut super::local::Account<'_>>,
    key: &Rc<KeyRecord>,
    demand: &Demand,
    waited: Duration,
    now: SystemTime,
) -> Step {
    let cost = match allowance(standing, key, demand, now) {
        Ok(cost) => cost,
        Err(reason) => return refused(reason, standing.left()),
    };
    if let Some(Slot::DayOver { ends }) = account.as_mut().and_then(|account| account.refuse_for_day()) {
        return refused(Refused::AccountDay { ends }, standing.left());
    }
    if !demand.repeats && key.limits.parallel.is_some_and(|most| standing.in_flight() >= most) {
        return if waited + POLL > demand.longest_wait {
            refused(Refused::KeyParallel, standing.left())
        } else {
            Step::Later(POLL)
        };
    }
    let clock = u64::try_from(system::monotonic().as_nanos()).unwrap_or_default();
    let count = if demand.repeats { 0 } else { u32::try_from(demand.tokens).unwrap_or(u32::MAX) };
    standing.requests.advance_to(clock);
    standing.tokens.advance_to(clock);
    let (at, by_account) = match first_turn(standing, account.as_deref(), key, clock, count) {
        Turn::At { at, by_account } => (at, by_account),
        // The slot is chosen closer to that time.
        Turn::TooFarAhead { wait } if waited + wait <= demand.longest_wait => return Step::Later(wait / 2 + POLL),
        Turn::TooFarAhead { wait } => return refused(Refused::KeyRate { wait }, standing.left()),
        Turn::None(reason) => return refused(reason, standing.left()),
    };
    let wait = Duration::from_nanos(at - clock);
    if waited + wait > demand.longest_wait && !wait.is_zero() {
        let reason = if by_account { Refused::AccountRate { wait } } else { Refused::KeyRate { wait } };
        return refused(reason, standing.left());
    }
    let mut step_ends = standing.requests.step_ends(at).min(standing.tokens.step_ends(at));
    let mut account_day = 0;
    if let Some(account) = &mut account {
        account_day = account.count_at(at);
        step_ends = step_ends.min(account.step_ends(at));
    }
    let grant = Grant { account_day, ..count_at(standing, key, demand, (at, count, cost), now) };
    let spread = if wait.is_zero() { Duration::ZERO } else { Duration::from_nanos(step_ends.saturating_sub(at)) };
    Step::Decided(KeyDecision::Go { wait, spread, grant, left: standing.left() })
}

/// What may be reserved of the key's budget, or which limit of its day or period is used up.
fn allowance(standing: &mut KeyState, key: &KeyRecord, demand: &Demand, now: SystemTime) -> Result<Money, Refused> {
    let limits = &key.limits;
    if demand.repeats {
        return Ok(demand.cost);
    }
    let requests_over = limits.requests_per_day.is_some_and(|most| standing.requests_of_day() >= most.into());
    let tokens_per_day = limits.tokens_per_day.filter(|_| demand.tokens > 0);
    if requests_over || tokens_per_day.is_some_and(|most| standing.sums.tokens_of_day >= most) {
        return Err(Refused::KeyDay { ends: day_of(now).ends });
    }
    if tokens_per_day.is_some_and(|most| standing.tokens_of_day() >= most) {
        return Err(Refused::KeyReserved);
    }
    let Some(budget) = limits.budget.filter(|_| demand.cost > Money::default()) else { return Ok(demand.cost) };
    let unspent = budget.amount.minus(standing.sums.spent);
    if unspent == Money::default() {
        return Err(Refused::KeyBudget { ends: budget.period.ends(now) });
    }
    let left = unspent.minus(standing.reserved_money());
    if left == Money::default() { Err(Refused::KeyReserved) } else { Ok(demand.cost.min(left)) }
}

/// When a request has its turn.
enum Turn {
    /// `by_account`: whether the account's windows have it wait longest.
    At {
        at: u64,
        by_account: bool,
    },
    /// The key's turn is too far ahead for the short windows of this account.
    TooFarAhead {
        wait: Duration,
    },
    None(Refused),
}

/// The first time at which all windows have room.
fn first_turn(
    standing: &mut KeyState,
    account: Option<&super::local::Account<'_>>,
    key: &KeyRecord,
    clock: u64,
    count: u32,
) -> Turn {
    let (requests, tokens) = KeyState::rules(key);
    // Each pass keeps the time or moves it later, so the loop ends.
    let (mut at, mut by_account) = (clock, false);
    loop {
        let before = at;
        let of_key = standing.requests.earliest(&requests, clock, at, 1);
        let of_key = of_key.and_then(|at| standing.tokens.earliest(&tokens, clock, at, count));
        let Some(of_key) = of_key else {
            return Turn::None(Refused::KeyRate { wait: standing.left().minute_resets_in });
        };
        by_account &= of_key == at;
        at = of_key;
        if let Some(account) = account {
            match account.earliest(clock, at) {
                Some(of_account) => {
                    by_account |= of_account > at;
                    at = of_account;
                }
                None if at > clock => return Turn::TooFarAhead { wait: Duration::from_nanos(at - clock) },
                None => return Turn::None(Refused::AccountRate { wait: account.horizon() }),
            }
        }
        if at == before {
            return Turn::At { at, by_account };
        }
    }
}

/// Counts the request in the key's windows, and reserves what it may use.
fn count_at(
    standing: &mut KeyState,
    key: &Rc<KeyRecord>,
    demand: &Demand,
    (at, tokens, cost): (u64, u32, Money),
    now: SystemTime,
) -> Grant {
    let day = day_of(now).number();
    standing.requests.count_at(at, 1, u32::from(!demand.repeats), day);
    let id = uuid::Uuid::new_v4().simple().to_string();
    if !demand.repeats {
        standing.tokens.count_at(at, tokens, 0, day);
        standing.reserve(&id, demand.tokens, cost);
        standing.sums.used_at = epoch::seconds(now);
    }
    Grant {
        id,
        key: Rc::clone(key),
        at,
        day,
        account_day: 0,
        period: key.spending_period(now),
        tokens: tokens.into(),
        repeats: demand.repeats,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Rule;
    use super::super::busy::WAITS;
    use super::super::day::Zone;
    use super::super::engine::{AccountWindows, Engine};
    use super::super::key_state::stay_in_the_day;
    use super::*;
    use crate::keys::{Change, Keys, Places, TeamSecret};

    const MINUTE: u64 = 60_000_000_000;

    fn engine(directory: &Path, limit: impl FnOnce(&mut KeyRecord)) -> (Files, Rc<KeyRecord>) {
        stay_in_the_day();
        let places = Places {
            keys: directory.join("keys.json"),
            audit: directory.join("audit.jsonl"),
            secret: directory.join("secret"),
            is_secret_given: false,
        };
        let (mut record, _) = KeyRecord::create("ann", &TeamSecret::new(), SystemTime::now());
        limit(&mut record);
        let id = record.id.clone();
        Keys::change(&places, SystemTime::now(), |keys| {
            keys.add(record)?;
            Ok(((), Change { verb: "create", id: id.clone(), changes: serde_json::Value::Null }))
        })
        .unwrap();
        let files = Files::open(directory, &places.keys).unwrap();
        let record = files.look_up(&id).unwrap();
        (files, record)
    }

    fn demand(key: &Rc<KeyRecord>, tokens: u64, cost: u64) -> Demand {
        let longest_wait = Duration::from_secs(600);
        Demand { key: Rc::clone(key), tokens, cost: Money(cost), longest_wait, repeats: false }
    }

    fn decide(files: &Files, demand: &Demand, account: Option<&RefCell<Rate>>) -> KeyDecision {
        match files.admit(demand, account, false, Duration::ZERO) {
            Step::Decided(decision) => decision,
            Step::Busy => panic!("busy"),
            Step::Later(_) => panic!("later"),
        }
    }

    fn granted(files: &Files, demand: &Demand, account: Option<&RefCell<Rate>>) -> Grant {
        match decide(files, demand, account) {
            KeyDecision::Go { grant, .. } => grant,
            KeyDecision::Refused { reason, .. } => panic!("{reason:?}"),
            KeyDecision::Changed(_) => panic!("changed"),
        }
    }

    fn refused_for(files: &Files, demand: &Demand) -> Refused {
        match decide(files, demand, None) {
            KeyDecision::Go { .. } | KeyDecision::Changed(_) => panic!("granted"),
            KeyDecision::Refused { reason, .. } => reason,
        }
    }

    fn most_in_a_minute(times: &[u64]) -> usize {
        times.iter().map(|from| times.iter().filter(|at| (*from..from + MINUTE).contains(*at)).count()).max().unwrap()
    }

    #[test]
    fn a_request_has_its_place_in_the_windows_of_key_and_account_at_the_same_time() {
        let directory = tempfile::tempdir().unwrap();
        let (files, key) = engine(directory.path(), |key| key.limits.requests_per_minute = Some(3));
        let rule = Rule {
            per_window: Some(5),
            burst: None,
            window: Duration::from_secs(60),
            per_day: None,
            day_refuses: false,
            zone: Zone::utc(),
            waits: true,
        };
        let rate = RefCell::new(Rate::open(directory.path(), "p", "account", rule));
        // Four requests of another client of the account come first.
        for _ in 0..4 {
            assert!(matches!(
                rate.borrow_mut().take(SystemTime::now(), false),
                super::super::Reservation::Decided(Slot::Now { .. })
            ));
        }
        let begin = u64::try_from(system::monotonic().as_nanos()).unwrap();
        let times: Vec<u64> = (0..12).map(|_| granted(&files, &demand(&key, 0, 0), Some(&rate)).at).collect();
        assert!(times.is_sorted(), "first come, first served");
        assert_eq!(most_in_a_minute(&times), 3);
        // One request had the last slot of the account's first minute; the others wait for the next minute.
        assert_eq!(times.iter().filter(|at| **at < begin + MINUTE).count(), 1);
        assert!(times[11] < begin + 6 * MINUTE, "{times:?}");
    }

    #[test]
    fn tokens_of_a_minute_wait_and_are_corrected_by_what_was_used() {
        let directory = tempfile::tempdir().unwrap();
        let (files, key) = engine(directory.path(), |key| key.limits.tokens_per_minute = Some(100));
        let first = granted(&files, &demand(&key, 5000, 0), None);
        files.settle(&first, Used { tokens: 40, cost: Money::default() });
        let second = granted(&files, &demand(&key, 60, 0), None);
        assert!(second.at < first.at + MINUTE, "there was room for it");
        assert!(granted(&files, &demand(&key, 1, 0), None).at >= first.at + MINUTE);
    }

    #[test]
    fn a_budget_is_never_reserved_twice_and_unlimited_requests_cost_what_they_use() {
        let directory = tempfile::tempdir().unwrap();
        let (files, key) = engine(directory.path(), |key| key.limits.budget = "1 USD/month".parse().ok());
        let half = 500_000_000;
        let first = granted(&files, &demand(&key, 0, half), None);
        // The request is granted what is left.
        let second = granted(&files, &demand(&key, 0, 2 * half), None);
        assert_eq!(refused_for(&files, &demand(&key, 0, 1)), Refused::KeyReserved);
        files.settle(&first, Used { tokens: 0, cost: Money(1) });
        files.give_back(&second, None);
        let left = files.left(&key);
        assert_eq!((left.spent, left.reserved, left.parallel), (Money(1), Money(0), 0));
    }

    #[test]
    fn a_request_that_is_given_back_leaves_no_count() {
        let directory = tempfile::tempdir().unwrap();
        let (files, key) = engine(directory.path(), |key| key.limits.requests_per_day = Some(1));
        let grant = granted(&files, &demand(&key, 10, 0), None);
        assert!(matches!(refused_for(&files, &demand(&key, 0, 0)), Refused::KeyDay { .. }));
        files.give_back(&grant, None);
        let left = files.left(&key);
        assert_eq!((left.requests_of_day, left.requests_of_minute, left.tokens_of_minute), (0, 0, 0));
        drop(granted(&files, &demand(&key, 0, 0), None));
    }

    #[test]
    fn a_request_of_the_account_is_given_back_to_the_day_for_which_it_was_counted() {
        let directory = tempfile::tempdir().unwrap();
        let (files, key) = engine(directory.path(), |_| {});
        let account = account(directory.path(), 10, 60);
        let now = SystemTime::now();
        let next = account.borrow_mut().day(now).ends;
        let grant = granted(&files, &demand(&key, 0, 0), Some(&account));
        assert_eq!(grant.account_day, account.borrow_mut().day(now).number());
        assert!(matches!(account.borrow_mut().take(next, false), super::super::Reservation::Decided(_)));
        files.give_back(&grant, Some(&account));
        assert_eq!([now, next].map(|day| account.borrow_mut().count_of_day(day)), [0, 1]);
    }

    /// The windows of an account that this directory counts.
    fn account(directory: &Path, per_window: u32, seconds: u64) -> RefCell<Rate> {
        RefCell::new(Rate::open(directory, "p", "account", account_rule(per_window, seconds)))
    }

    fn account_rule(per_window: u32, seconds: u64) -> Rule {
        Rule {
            per_window: Some(per_window),
            burst: None,
            window: Duration::from_secs(seconds),
            per_day: None,
            day_refuses: false,
            zone: Zone::utc(),
            waits: true,
        }
    }

    fn requests_of_account(directory: &Path, seconds: u64) -> u32 {
        super::super::local::standing(directory, "p", "account", &account_rule(1, seconds), SystemTime::now()).1.count
    }

    /// Lets another client of the account have its next turn.
    fn take(account: &RefCell<Rate>) -> Slot {
        match account.borrow_mut().take(SystemTime::now(), false) {
            super::super::Reservation::Decided(slot) => slot,
            super::super::Reservation::Busy => panic!("busy"),
        }
    }

    fn reason(step: &Step) -> Refused {
        match step {
            Step::Decided(KeyDecision::Refused { reason, .. }) => *reason,
            Step::Decided(_) => panic!("granted"),
            Step::Busy | Step::Later(_) => panic!("not decided"),
        }
    }

    #[test]
    fn what_was_used_is_recorded_once_the_file_of_the_key_is_free_again() {
        let directory = tempfile::tempdir().unwrap();
        let (files, key) = engine(directory.path(), |key| key.limits.budget = "1 USD/month".parse().ok());
        let [first, second] = [5, 6].map(|cost| granted(&files, &demand(&key, 0, cost), None));
        let other = KeyFile::open(directory.path(), &key.id).unwrap();
        let held = other.lock().unwrap().unwrap();
        files.settle(&first, Used { tokens: 0, cost: Money(7) });
        files.tend();
        drop(held);
        assert_eq!(files.left(&key).spent, Money(0));
        files.tend();
        assert_eq!((files.left(&key).spent, files.left(&key).parallel), (Money(7), 1));
        let held = other.lock().unwrap().unwrap();
        files.settle(&second, Used { tokens: 0, cost: Money(11) });
        drop(held);
        drop(files);
        let (left, _) = super::super::key_standing(directory.path(), &key, SystemTime::now());
        assert_eq!((left.spent, left.parallel), (Money(18), 0));
    }

    #[test]
    fn what_ended_while_the_file_was_held_is_recorded_with_the_next_request_of_its_key() {
        let directory = tempfile::tempdir().unwrap();
        let (files, key) = engine(directory.path(), |key| key.limits.budget = "1 USD/month".parse().ok());
        let grants: Vec<Grant> = (0..200).map(|_| granted(&files, &demand(&key, 1, 5), None)).collect();
        let other = KeyFile::open(directory.path(), &key.id).unwrap();
        let held = other.lock().unwrap().unwrap();
        let waits = WAITS.get();
        let (given_back, settled) = grants.split_at(50);
        for grant in given_back {
            files.give_back(grant, None);
        }
        for grant in settled {
            files.settle(grant, Used { tokens: 2, cost: Money(7) });
        }
        files.tend();
        assert_eq!(WAITS.get(), waits, "nothing waits for the file");
        assert!(files.held.borrow().is_empty(), "nothing is kept of a key that has no request");
        drop(held);
        drop(granted(&files, &demand(&key, 0, 0), None));
        let counts = |left: Left| (left.spent, left.parallel, left.requests_of_day, left.tokens_of_day);
        let all = (Money(7 * 150), 1, 151, 300);
        assert_eq!(counts(files.left(&key)), all);
        files.tend();
        assert_eq!(counts(files.left(&key)), all, "recorded once");
    }

    #[test]
    fn what_cannot_be_written_is_recorded_once_it_can() {
        let directory = tempfile::tempdir().unwrap();
        let (files, key) = engine(directory.path(), |key| key.limits.budget = "1 USD/month".parse().ok());
        let [first, second] = [(); 2].map(|()| granted(&files, &demand(&key, 0, 5), None));
        let writable = files.file(&key.id).unwrap();
        let exchange = |file| files.open.borrow_mut().insert(key.id.clone(), file);
        exchange(Rc::new(KeyFile::open_to_read(directory.path(), &key.id).unwrap()));
        files.settle(&first, Used { tokens: 0, cost: Money(7) });
        files.tend();
        assert_eq!(refused_for(&files, &demand(&key, 0, 5)), Refused::Unavailable);
        exchange(writable);
        assert_eq!(files.left(&key).spent, Money(0));
        files.settle(&second, Used { tokens: 0, cost: Money(11) });
        assert_eq!((files.left(&key).spent, files.left(&key).parallel), (Money(18), 0));
    }

    #[test]
    fn reservations_of_requests_in_flight_are_extended_in_time_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let (files, key) = engine(directory.path(), |_| {});
        let gateway = Files::open(directory.path(), &directory.path().join("keys.json")).unwrap();
        let of_another = granted(&gateway, &demand(&key, 0, 0), None);
        let [runs, ended, late] = [0; 3].map(|_| granted(&files, &demand(&key, 0, 0), None));
        files.settle(&ended, Used { tokens: 0, cost: Money(0) });
        let file = KeyFile::open(directory.path(), &key.id).unwrap();
        let soon = system::monotonic().as_secs() + 60;
        let all_end_soon = || {
            let mut standing = file.read(&key, SystemTime::now()).unwrap();
            standing.reserved_until().for_each(|(_, until)| *until = soon);
            file.write(&standing).unwrap();
        };
        let extended = || -> Vec<String> {
            let mut standing = file.read(&key, SystemTime::now()).unwrap();
            standing.reserved_until().filter(|(_, until)| **until > soon).map(|(id, _)| id.to_owned()).collect()
        };
        all_end_soon();
        files.tend();
        assert_eq!(extended(), Vec::<String>::new(), "it is not time to");
        files.extended.set(Instant::now().checked_sub(EXTEND).unwrap());
        files.tend();
        assert_eq!(extended(), [runs.id.clone(), late.id.clone()]);
        all_end_soon();
        files.tend();
        assert_eq!(extended(), Vec::<String>::new(), "it is not time to again");
        assert!(of_another.id != runs.id && files.left(&key).parallel == 3);
    }

    #[test]
    fn a_limit_of_the_day_or_a_budget_that_is_reached_refuses_only_what_counts_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let (files, key) = engine(directory.path(), |key| key.limits.tokens_per_day = Some(10));
        let grant = granted(&files, &demand(&key, 10, 0), None);
        assert_eq!(refused_for(&files, &demand(&key, 1, 0)), Refused::KeyReserved);
        files.settle(&grant, Used { tokens: 10, cost: Money(0) });
        assert!(matches!(refused_for(&files, &demand(&key, 1, 0)), Refused::KeyDay { .. }));
        drop(granted(&files, &demand(&key, 0, 0), None));
        let (directory, budget) = (tempfile::tempdir().unwrap(), "1 USD/month".parse().ok());
        let (files, key) = engine(directory.path(), |key| key.limits.budget = budget);
        let whole = granted(&files, &demand(&key, 0, 2_000_000_000), None);
        assert_eq!(files.left(&key).reserved, Money(1_000_000_000));
        assert_eq!(refused_for(&files, &demand(&key, 0, 1)), Refused::KeyReserved);
        drop(granted(&files, &demand(&key, 0, 0), None));
        files.settle(&whole, Used { tokens: 0, cost: Money(1_000_000_000) });
        assert!(matches!(refused_for(&files, &demand(&key, 0, 1)), Refused::KeyBudget { .. }));
    }

    #[test]
    fn a_further_attempt_counts_in_the_windows_and_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        let (files, key) = engine(directory.path(), |key| {
            key.limits.requests_per_day = Some(1);
            key.limits.tokens_per_day = Some(10);
            key.limits.parallel = Some(1);
            key.limits.budget = "1 USD/month".parse().ok();
        });
        let account = account(directory.path(), 10, 60);
        let first = granted(&files, &demand(&key, 10, 1_000_000_000), Some(&account));
        let again = Demand { repeats: true, ..demand(&key, 10, 1_000_000_000) };
        let second = granted(&files, &again, Some(&account));
        let counts = |left: Left| {
            (left.requests_of_minute, left.tokens_of_minute, left.requests_of_day, left.tokens_of_day, left.parallel)
        };
        assert_eq!(counts(files.left(&key)), (2, 10, 1, 10, 1));
        assert_eq!(requests_of_account(directory.path(), 60), 2);
        files.give_back(&second, Some(&account));
        assert_eq!(counts(files.left(&key)), (1, 10, 1, 10, 1));
        files.give_back(&first, Some(&account));
        assert_eq!(counts(files.left(&key)), (0, 0, 0, 0, 0));
        assert_eq!(requests_of_account(directory.path(), 60), 0);
    }

    #[test]
    fn a_request_waits_for_another_of_its_key_as_long_as_it_may() {
        let directory = tempfile::tempdir().unwrap();
        let (files, key) = engine(directory.path(), |key| key.limits.parallel = Some(1));
        drop(granted(&files, &demand(&key, 0, 0), None));
        let second = Demand { longest_wait: 2 * POLL, ..demand(&key, 0, 0) };
        let wait = |waited| files.admit(&second, None, false, waited);
        assert!(matches!(wait(POLL), Step::Later(POLL)));
        assert_eq!(reason(&wait(POLL + Duration::from_nanos(1))), Refused::KeyParallel);
    }

    #[test]
    fn a_request_whose_turn_is_later_than_it_may_wait_is_refused_with_the_time_until_then() {
        let directory = tempfile::tempdir().unwrap();
        let (files, key) = engine(directory.path(), |key| key.limits.requests_per_minute = Some(1));
        let second = demand(&key, 0, 0);
        // A turn that is now is had after any wait.
        let Step::Decided(KeyDecision::Go { wait, spread, .. }) =
            files.admit(&second, None, false, 2 * second.longest_wait)
        else {
            panic!("not granted");
        };
        assert!(wait.is_zero() && spread.is_zero());
        let is_a_minute = |wait: Duration| (50..63).contains(&wait.as_secs());
        let Refused::KeyRate { wait } = reason(&files.admit(&second, None, false, Duration::from_secs(570))) else {
            panic!("another reason");
        };
        assert!(is_a_minute(wait), "{wait:?}");
        let Step::Decided(KeyDecision::Go { wait, spread, grant, .. }) =
            files.admit(&second, None, false, Duration::from_secs(500))
        else {
            panic!("not granted");
        };
        assert!(is_a_minute(wait), "{wait:?}");
        let step = Duration::from_nanos(super::super::window::step_length(Duration::from_secs(60)));
        assert_eq!(spread, step);
        // An account whose steps are shorter has the shorter one.
        let half = account(directory.path(), 10, 30);
        let Step::Decided(KeyDecision::Go { spread, grant: next, .. }) =
            files.admit(&second, Some(&half), false, Duration::ZERO)
        else {
            panic!("not granted");
        };
        assert_eq!((spread, next.at > grant.at), (step / 2, true));
        // Ten turns and a few steps are all that is counted ahead.
        for _ in 0..7 {
            drop(granted(&files, &demand(&key, 0, 0), None));
        }
        let late = Demand { longest_wait: Duration::from_secs(3600), ..demand(&key, 0, 0) };
        drop(granted(&files, &late, None));
        let Refused::KeyRate { wait } = refused_for(&files, &late) else { panic!("another reason") };
        assert!(is_a_minute(wait), "until the first of them leaves the window: {wait:?}");
    }

    #[test]
    fn what_a_request_waits_for_longest_is_the_reason_for_its_refusal() {
        let refused = |window: u32, seconds| {
            let directory = tempfile::tempdir().unwrap();
            let (files, key) = engine(directory.path(), |key| {
                key.limits.requests_per_minute = Some(1);
                key.limits.window = Some(window);
            });
            let account = account(directory.path(), 1, seconds);
            drop(granted(&files, &demand(&key, 0, 0), Some(&account)));
            let second = Demand { longest_wait: Duration::from_secs(1), ..demand(&key, 0, 0) };
            reason(&files.admit(&second, Some(&account), false, Duration::ZERO))
        };
        let is_two_minutes = |wait: Duration| (110..125).contains(&wait.as_secs());
        assert!(matches!(refused(60, 120), Refused::AccountRate { wait } if is_two_minutes(wait)));
        assert!(matches!(refused(120, 60), Refused::KeyRate { wait } if is_two_minutes(wait)));
    }

    #[test]
    fn a_turn_that_is_too_far_ahead_for_the_account_is_looked_for_again_halfway() {
        let directory = tempfile::tempdir().unwrap();
        let (files, key) = engine(directory.path(), |key| key.limits.requests_per_minute = Some(1));
        let account = account(directory.path(), 1, 1);
        drop(granted(&files, &demand(&key, 0, 0), None));
        let next = demand(&key, 0, 0);
        // The time until the turn, before and after the look in between.
        let until_turn = || match reason(&files.admit(&next, Some(&account), false, Duration::from_secs(599))) {
            Refused::KeyRate { wait } => wait,
            reason => panic!("{reason:?}"),
        };
        let before = until_turn();
        let Step::Later(later) = files.admit(&next, Some(&account), false, Duration::from_secs(500)) else {
            panic!("decided")
        };
        let after = until_turn();
        assert!((after / 2 + POLL..=before / 2 + POLL).contains(&later), "{later:?} of {before:?}");
    }

    #[test]
    fn an_account_whose_queue_is_as_long_as_it_may_be_refuses_the_requests_of_all_keys() {
        let directory = tempfile::tempdir().unwrap();
        let (files, key) = engine(directory.path(), |_| {});
        let account = account(directory.path(), 1, 3600);
        while !matches!(take(&account), Slot::TooLong { .. }) {}
        let reason = reason(&files.admit(&demand(&key, 0, 0), Some(&account), false, Duration::ZERO));
        let step = Duration::from_nanos(super::super::window::step_length(Duration::from_secs(3600)));
        assert_eq!(reason, Refused::AccountRate { wait: 1400 * step });
    }

    #[test]
    fn the_engine_knows_keys_and_waits_for_the_files_that_another_process_holds() {
        let directory = tempfile::tempdir().unwrap();
        let (files, key) = engine(directory.path(), |key| key.limits.requests_per_minute = Some(9));
        let engine = Engine::Files(Box::new(files));
        let windows = AccountWindows { rate: account(directory.path(), 9, 60), shared: None };
        let other = KeyFile::open(directory.path(), &key.id).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            for found in [engine.look_up(&key.id).await, engine.look_up_now(&key.id).await, engine.find("ann").await] {
                assert!(found.is_ok_and(|found| found.is_some_and(|found| found.id == key.id)));
            }
            assert!(engine.look_up("another").await.is_ok_and(|found| found.is_none()));
            assert_eq!(engine.records().len(), 1);
            let first = demand(&key, 0, 0);
            let mut admitted = Box::pin(engine.admit(&first, Some(&windows)));
            let held = other.lock().unwrap().unwrap();
            let is_waiting = std::future::poll_fn(|context| admitted.as_mut().poll(context).is_pending().into()).await;
            assert!(is_waiting, "neither granted nor refused");
            drop(held);
            assert!(matches!(admitted.await, KeyDecision::Go { wait: Duration::ZERO, .. }));
        });
        assert_eq!(requests_of_account(directory.path(), 60), 1, "the account's file counts it");
    }

    #[test]
    fn a_further_attempt_has_nothing_to_settle_and_the_engine_records_what_is_late() {
        let directory = tempfile::tempdir().unwrap();
        let (files, key) = engine(directory.path(), |key| key.limits.budget = "1 USD/month".parse().ok());
        let first = granted(&files, &demand(&key, 0, 5), None);
        let again = granted(&files, &Demand { repeats: true, ..demand(&key, 0, 0) }, None);
        let engine = Engine::Files(Box::new(files));
        let other = KeyFile::open(directory.path(), &key.id).unwrap();
        let held = other.lock().unwrap().unwrap();
        engine.settle(&first, Used { tokens: 0, cost: Money(7) });
        drop(held);
        engine.settle(&again, Used { tokens: 0, cost: Money(9) });
        let spent = || super::super::key_standing(directory.path(), &key, SystemTime::now()).0.spent;
        assert_eq!(spent(), Money(0));
        engine.tend();
        assert_eq!(spent(), Money(7));
    }
}
