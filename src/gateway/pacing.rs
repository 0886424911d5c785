//! Who waits for what: turns under the provider's limits.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};

use super::Tuning;
use crate::credentials::Credential;
use crate::error::{Failed, Failure, note};
use crate::limits::shared::{Decision, Ended, Kind, Limit, Shared};
use crate::limits::{Day, Rate, Reservation, Rule, Slot, Zone};
use crate::providers::Provider;

/// A limit without a window of its own is one for this long.
const MINUTE: Duration = Duration::from_secs(60);

/// A wait that passes this is explained on stderr, but not more often than every [`QUIET`].
const SILENCE: Duration = Duration::from_secs(2);
const QUIET: Duration = Duration::from_secs(10);

/// How long others may keep the file before this process counts alone. It is held for microseconds; only a process that
/// was stopped in just these keeps it longer.
pub(super) const BUSY: Duration = Duration::from_secs(5);

/// How much longer than 2 % a window is kept between machines: what a request needs from there to the provider differs.
const BETWEEN_MACHINES: Duration = Duration::from_millis(500);

/// Requests that wait for the same moment go out within this, well below [`BETWEEN_MACHINES`].
const SPREAD: Duration = Duration::from_millis(100);

/// A limit that is only counted. The server calculates in doubles.
const UNLIMITED: u64 = 1 << 52;

/// Longest that a request waits for its turn: as long as clients wait for an answer.
pub(super) const MAX_QUEUE_TIME: Duration = Duration::from_secs(600);

/// Why a request has no turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSlot {
    TooLong(Duration),
    DayOver {
        ends: SystemTime,
    },
    /// The shared counts are away, and there is no share of them left.
    Unavailable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waited {
    No,
    Yes,
}

/// The turns of one account.
pub(super) struct Pacing {
    rate: RefCell<Rate>,
    profile: String,
    said: Cell<Option<Instant>>,
    /// Where all gateways count together, and the account's name there.
    shared: Option<(Rc<Shared>, String)>,
}

/// What provider and user say about limits.
pub(crate) fn rule(provider: &Provider, tuning: &Tuning) -> Result<Rule> {
    let limits = &provider.limits;
    let window = match &limits.window {
        None => MINUTE,
        Some(text) => text
            .parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|window| Duration::try_from(window).ok())
            .filter(|window| !window.is_zero())
            .with_context(|| {
                Failed::new(Failure::Other, format!("`window = \"{text}\"` of `{}` is not a duration", provider.name))
            })?,
    };
    Ok(Rule {
        per_window: tuning.rpm.or(limits.requests_per_minute),
        // The user's own figure says all there is to say.
        burst: limits.burst.filter(|_| tuning.rpm.is_none()),
        window,
        per_day: tuning.rpd.or(limits.requests_per_day),
        // A built-in figure may be out of date: it only warns.
        day_refuses: tuning.pacing && (tuning.rpd.is_some() || limits.is_own("requests_per_day")),
        zone: Zone::parse(limits.day_resets.as_deref())?,
        waits: tuning.pacing,
    })
}

/// What tells one account from another: a hash of the key, or for a login, whose tokens change, the file it lies in.
pub(crate) fn account_id(provider: &Provider, credential: &Credential, path: &Path) -> String {
    if provider.oauth().is_some() && credential.refresh_token.is_some() {
        return path.to_string_lossy().into_owned();
    }
    credential.hash()
}

impl Pacing {
    pub(super) fn new(rate: Rate, profile: &str, shared: Option<(Rc<Shared>, String)>) -> Self {
        Self { rate: RefCell::new(rate), profile: profile.to_owned(), said: Cell::new(None), shared }
    }

    /// Waits for a turn. Dropped while it waits, it gives the turn back.
    pub(super) async fn turn(&self) -> Result<Waited, NoSlot> {
        if let Some((shared, account)) = &self.shared {
            return self.shared_turn(shared, account).await;
        }
        let (wait, step_length, step) = match self.take().await {
            Slot::Now => return Ok(Waited::No),
            Slot::TooLong { wait } => return Err(NoSlot::TooLong(wait)),
            Slot::DayOver { ends } => return Err(NoSlot::DayOver { ends }),
            Slot::Later { wait, step_length, step } => (wait, step_length, step),
        };
        let mut kept = Kept { pacing: self, step: Some(step) };
        if wait > MAX_QUEUE_TIME {
            return Err(NoSlot::TooLong(wait));
        }
        self.explain(wait);
        // Within the step, so that those who wait for the same one do not go out together.
        tokio::time::sleep(wait + step_length.mul_f64(rand::random::<f64>())).await;
        kept.step = None;
        Ok(Waited::Yes)
    }

    /// The same where all gateways count together.
    async fn shared_turn(&self, shared: &Rc<Shared>, account: &str) -> Result<Waited, NoSlot> {
        let rule = self.rate.borrow().rule().clone();
        let name = account.to_owned();
        let limits = move |at: u64| limits_of(&rule, &name, at);
        let (wait, mut granted) = match shared.admit(None, limits.clone(), MAX_QUEUE_TIME).await {
            Decision::Go { wait, ticket, .. } => (wait, Granted { shared, ticket, ended: Ended::GivenBack }),
            Decision::Refused { limit, wait } => {
                let is_day = matches!(limits(shared.now()).get(limit).map(|limit| limit.kind), Some(Kind::Day { .. }));
                let over = NoSlot::DayOver { ends: SystemTime::now() + wait };
                return Err(if is_day { over } else { NoSlot::TooLong(wait) });
            }
            Decision::Record(_) | Decision::Unavailable => return Err(NoSlot::Unavailable),
        };
        if !wait.is_zero() {
            self.explain(wait);
            tokio::time::sleep(wait + SPREAD.mul_f64(rand::random::<f64>())).await;
        }
        granted.ended = Ended::AsEstimated;
        Ok(if wait.is_zero() { Waited::No } else { Waited::Yes })
    }

    fn explain(&self, wait: Duration) {
        if wait > SILENCE {
            let limit = self.rate.borrow().rule().per_window.unwrap_or_default();
            let seconds = self.rate.borrow().rule().window.as_secs();
            let per = if seconds == 60 { "a minute".to_owned() } else { format!("in {seconds} s") };
            let profile = &self.profile;
            self.say(&format!("a request waits {} s: `{profile}` allows {limit} {per}", wait.as_secs()));
        }
    }

    /// The windows of the account, for a decision together with those of a key.
    pub(super) fn rate(&self) -> &RefCell<Rate> {
        &self.rate
    }

    async fn take(&self) -> Slot {
        let since = Instant::now();
        loop {
            let alone = since.elapsed() > BUSY;
            let taken = self.rate.borrow_mut().take(SystemTime::now(), alone);
            match taken {
                Reservation::Decided(turn) => return turn,
                Reservation::Busy => {
                    tokio::time::sleep(Duration::from_micros(200 + u64::from(rand::random::<u16>() / 64))).await;
                }
            }
        }
    }

    /// Says that a request waits, unless something of the kind was said just now.
    pub(super) fn say(&self, text: &str) {
        if self.said.get().is_none_or(|said| said.elapsed() > QUIET) {
            self.said.set(Some(Instant::now()));
            note(text);
        }
    }

    pub(super) fn day(&self) -> Day {
        self.rate.borrow_mut().day(SystemTime::now())
    }

    /// Says once a day that `percent` of the day's limit are used. `stated`: limit and rest, where the server told them.
    /// Returns what is used, the limit, and when it resets.
    pub(super) fn warn(&self, percent: u8, stated: Option<(u64, u64)>) -> Option<(u64, u64, SystemTime)> {
        let now = SystemTime::now();
        let mut rate = self.rate.borrow_mut();
        let counted = rate.rule().per_day.map(u64::from);
        let (limit, used) = match (stated, counted) {
            (Some((limit, remaining)), _) => (limit, limit.saturating_sub(remaining)),
            (None, Some(limit)) => {
                let day = rate.day(now);
                let shared = self.shared.as_ref();
                let counted =
                    shared.map(|(shared, account)| shared.count(&day_name(account, &day)).unwrap_or_default());
                (limit, counted.unwrap_or_else(|| u64::from(rate.count_of_day(now))))
            }
            (None, None) => return None,
        };
        let is_near = u128::from(used) * 100 >= u128::from(limit) * u128::from(percent);
        if !is_near || !rate.is_first_warning(now) {
            return None;
        }
        let day = rate.day(now);
        let ends = jiff::Timestamp::try_from(day.ends).map(|ends| ends.to_string()).unwrap_or_default();
        note(&format!("warning: {used} of {limit} requests of the day are used by `{}`; it ends {ends}", self.profile));
        Some((used, limit, day.ends))
    }
}

/// The limits of an account at a time of the server's, in milliseconds since 1970.
fn limits_of(rule: &Rule, account: &str, at: u64) -> Vec<Limit> {
    let mut limits = Vec::new();
    let mut window = |kind: &str, limit: u32, length: Duration| {
        let kept = length.mul_f64(1.02) + BETWEEN_MACHINES;
        let window = u64::try_from(kept.as_millis()).unwrap_or(u64::MAX);
        limits.push(Limit { kind: Kind::Window { window }, most: limit.into(), name: format!("{kind}:{account}") });
    };
    if let Some(limit) = rule.per_window.filter(|_| rule.waits) {
        window("window", limit, rule.window);
        if let Some(burst) = rule.burst.filter(|burst| *burst < limit) {
            window("burst", burst, rule.window.mul_f64(f64::from(burst) / f64::from(limit)));
        }
    }
    if let Some(limit) = rule.per_day {
        let day = rule.zone.day_of(SystemTime::UNIX_EPOCH + Duration::from_millis(at));
        let kind = Kind::Day { begins: since_epoch(day.begins), ends: since_epoch(day.ends) };
        // Without the user's word it is counted only.
        let limit = if rule.day_refuses { limit.into() } else { UNLIMITED };
        limits.push(Limit { kind, most: limit, name: day_name(account, &day) });
    }
    limits
}

fn day_name(account: &str, day: &Day) -> String {
    format!("day:{account}/{}", day.number())
}

/// Milliseconds.
fn since_epoch(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What all gateways granted to a request that may still leave.
struct Granted<'shared> {
    shared: &'shared Rc<Shared>,
    ticket: String,
    ended: Ended,
}

impl Drop for Granted<'_> {
    fn drop(&mut self) {
        self.shared.end(std::mem::take(&mut self.ticket), self.ended);
    }
}

/// A turn that was given out for later.
struct Kept<'pacing> {
    pacing: &'pacing Pacing,
    step: Option<u64>,
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        if let Some(step) = self.step {
            self.pacing.rate.borrow_mut().give_back(step);
        }
    }
}
