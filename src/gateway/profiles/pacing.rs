//! Delays requests so that an account stays within its provider's limits.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};

use crate::credentials::Credential;
use crate::error::{Failed, Failure, note};
use crate::gateway::Tuning;
use crate::limits::shared::{Kind, SPREAD, Settlement, Shared, SharedAccount, SharedDecision, name_of_day};
use crate::limits::{AccountWindows, BUSY, Day, Rate, Reservation, Rule, Slot, UsedUp, Zone, pause};
use crate::providers::Provider;
use crate::sha256::short_sha256;

/// Window of a limit that does not state one.
const MINUTE: Duration = Duration::from_secs(60);

/// The longest window, a year: its times are counted in nanoseconds.
const MAX_WINDOW: Duration = Duration::from_secs(366 * 86400);

/// A longer wait is reported on stderr, but not more often than every [`QUIET`].
pub(in crate::gateway) const LONG_WAIT: Duration = Duration::from_secs(2);
const QUIET: Duration = Duration::from_secs(10);

/// Maximum time a request waits for a slot: clients wait about this long for a response.
pub(in crate::gateway) const MAX_QUEUE_TIME: Duration = Duration::from_secs(600);

/// Why a request gets no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum NoSlot {
    TooLong(Duration),
    DayOver {
        ends: SystemTime,
    },
    OverQuota(UsedUp),
    /// The shared counters cannot be reached, and this gateway's share is used up.
    Unavailable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Waited {
    No,
    For(Duration),
}

/// What a request is counted as, until it is sent.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Counted {
    /// In this step, and on the day with this number.
    Step { step: u64, day: i32 },
    /// By the shared counters, under this ticket.
    Ticket(String),
}

/// The rate limiter of one account.
pub(in crate::gateway) struct Pacing {
    windows: AccountWindows,
    profile: String,
    /// Whether there is any limit to count for.
    pub(in crate::gateway) is_counting: bool,
    said: Cell<Option<Instant>>,
    /// The counters shared by all gateways.
    shared: Option<Rc<Shared>>,
}

/// The limits stated by the provider and the user.
pub(crate) fn rule(provider: &Provider, tuning: &Tuning) -> Result<Rule> {
    let limits = &provider.limits;
    let window = match &limits.window {
        None => MINUTE,
        Some(text) => text
            .parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|window| Duration::try_from(window).ok())
            .filter(|window| !window.is_zero() && *window <= MAX_WINDOW)
            .with_context(|| {
                Failed::new(Failure::Other, format!("`window = \"{text}\"` of `{}` is not a duration", provider.name))
                    .hint("write a duration of at least 1 s, such as `60s`")
            })?,
    };
    Ok(Rule {
        per_window: tuning.rpm.or(limits.requests_per_minute),
        // The user's own figure takes precedence.
        burst: limits.burst.filter(|_| tuning.rpm.is_none()),
        window,
        per_day: tuning.rpd.or(limits.requests_per_day),
        // A built-in figure may be outdated, so it rejects nothing.
        day_refuses: tuning.pacing && (tuning.rpd.is_some() || limits.is_own("requests_per_day")),
        zone: Zone::parse(limits.day_resets.as_deref())
            .with_context(|| format!("`[providers.{}]` in config.toml", provider.name))?,
        waits: tuning.pacing,
    })
}

/// Identifies an account: a hash of its key, or the path of its file if its tokens change: those of a login, and what a
/// command prints.
pub(crate) fn account_id(provider: &Provider, credential: &Credential, path: &Path) -> String {
    let is_login = provider.oauth().is_some() && credential.refresh_token.is_some();
    if is_login || credential.command.is_some() {
        return path.to_string_lossy().into_owned();
    }
    credential.hash()
}

/// What the server of shared limits calls an account. `login`: the profile, where it is a login, whose file has another path
/// on each machine.
pub(crate) fn shared_name(provider: &str, account_id: &str, login: Option<&str>) -> String {
    match login {
        Some(profile) => format!("{provider}/login/{profile}"),
        None => format!("{provider}/{}", short_sha256(account_id, 16)),
    }
}

impl Pacing {
    pub(in crate::gateway) fn new(rate: Rate, profile: &str, shared: Option<(Rc<Shared>, SharedAccount)>) -> Self {
        let (shared, account) = shared.unzip();
        let rule = rate.rule();
        let has_shared_quotas = account.as_ref().is_some_and(|account| !account.quotas.is_empty());
        let is_counting = rule.per_window.is_some() || rule.per_day.is_some() || has_shared_quotas;
        let windows = AccountWindows { rate: RefCell::new(rate), shared: account.map(Rc::new) };
        Self { windows, profile: profile.to_owned(), is_counting, said: Cell::new(None), shared }
    }

    /// Waits for a slot. `counted` is set before the wait, and to be ended by [`Pacing::end`] also if the future is dropped.
    pub(in crate::gateway) async fn turn(&self, counted: &mut Option<Counted>) -> Result<Waited, NoSlot> {
        if let (Some(shared), Some(account)) = (&self.shared, &self.windows.shared) {
            return self.shared_turn(shared, account, counted).await;
        }
        let slot = self.take().await;
        let count = |step| Some(Counted::Step { step, day: self.windows.rate.borrow().counted_day() });
        let (wait, step_length) = match slot {
            Slot::Now { step } => {
                *counted = count(step);
                return Ok(Waited::No);
            }
            Slot::TooLong { wait } => return Err(NoSlot::TooLong(wait)),
            Slot::DayOver { ends } => return Err(NoSlot::DayOver { ends }),
            Slot::Later { wait, step_length, step } => {
                *counted = count(step);
                (wait, step_length)
            }
        };
        if wait > MAX_QUEUE_TIME {
            return Err(NoSlot::TooLong(wait));
        }
        self.explain(wait);
        // Spread over the step, so that requests that wait for the same step are not sent together.
        let since = tokio::time::Instant::now();
        tokio::time::sleep(wait + step_length.mul_f64(rand::random::<f64>())).await;
        Ok(Waited::For(since.elapsed()))
    }

    /// The same with counters shared by all gateways.
    async fn shared_turn(
        &self,
        shared: &Rc<Shared>,
        account: &Rc<SharedAccount>,
        counted: &mut Option<Counted>,
    ) -> Result<Waited, NoSlot> {
        let since = tokio::time::Instant::now();
        let asked = Rc::clone(account);
        let wait = match shared.admit(move |at| asked.limits(at), MAX_QUEUE_TIME).await {
            SharedDecision::Go { wait, ticket } => {
                *counted = Some(Counted::Ticket(ticket));
                wait
            }
            SharedDecision::Refused { limit, wait } => {
                let ends = SystemTime::now() + wait;
                let limits = account.limits(shared.now());
                return Err(match limits.get(limit).map(|limit| (limit.quota, limit.kind)) {
                    Some((Some(cause), _)) => NoSlot::OverQuota(UsedUp { cause, ends }),
                    Some((None, Kind::Day { .. })) => NoSlot::DayOver { ends },
                    _ => NoSlot::TooLong(wait),
                });
            }
            SharedDecision::Changed(_) | SharedDecision::Unavailable => return Err(NoSlot::Unavailable),
        };
        if wait.is_zero() {
            return Ok(Waited::No);
        }
        self.explain(wait);
        tokio::time::sleep(wait + SPREAD.mul_f64(rand::random::<f64>())).await;
        Ok(Waited::For(since.elapsed()))
    }

    /// The request was sent and stays counted, or its slot is free again.
    pub(in crate::gateway) fn end(&self, counted: Counted, was_sent: bool) {
        match (counted, &self.shared) {
            (Counted::Step { step, day }, _) if !was_sent => self.windows.rate.borrow_mut().give_back(step, day),
            (Counted::Ticket(ticket), Some(shared)) => {
                shared.end(ticket, if was_sent { Settlement::AsEstimated } else { Settlement::GivenBack });
            }
            _ => {}
        }
    }

    /// Releases the slots that could not be released while another process held the file.
    pub(in crate::gateway) fn catch_up(&self) {
        self.windows.rate.borrow_mut().catch_up();
    }

    fn explain(&self, wait: Duration) {
        if wait > LONG_WAIT {
            let limit = self.windows.rate.borrow().rule().per_window.unwrap_or_default();
            let seconds = self.windows.rate.borrow().rule().window.as_secs();
            let per = if seconds == 60 { "a minute".to_owned() } else { format!("in {seconds} s") };
            let profile = &self.profile;
            self.say(&format!("request delayed {} s: `{profile}` allows {limit} {per}", wait.as_secs()));
        }
    }

    /// The account's windows, for a decision together with those of a key.
    pub(in crate::gateway) fn windows(&self) -> &AccountWindows {
        &self.windows
    }

    async fn take(&self) -> Slot {
        let mut busy_since: Option<Instant> = None;
        loop {
            let busy = busy_since.map_or(Duration::ZERO, |since| since.elapsed());
            let taken = self.windows.rate.borrow_mut().take(SystemTime::now(), busy > BUSY);
            match taken {
                Reservation::Decided(turn) => return turn,
                Reservation::Busy => {
                    busy_since.get_or_insert_with(Instant::now);
                    tokio::time::sleep(pause(busy)).await;
                }
            }
        }
    }

    /// Reports that a request waits, unless a similar message was printed just before.
    pub(in crate::gateway) fn say(&self, text: &str) {
        if self.said.get().is_none_or(|said| said.elapsed() > QUIET) {
            self.said.set(Some(Instant::now()));
            note(text);
        }
    }

    pub(in crate::gateway) fn day(&self) -> Day {
        self.windows.rate.borrow_mut().day(SystemTime::now())
    }

    /// Tells the end of this day's requests from that of other days.
    pub(in crate::gateway) fn occurrence_of_day(&self) -> String {
        format!("day/{}", self.day().date)
    }

    /// Reports once a day that `percent` of the day's limit are used. `stated`: limit and remainder, if the server
    /// reported them.
    /// Returns the used number, the limit, and when it resets.
    pub(in crate::gateway) fn warn(&self, percent: u8, stated: Option<(u64, u64)>) -> Option<(u64, u64, SystemTime)> {
        let now = SystemTime::now();
        let mut rate = self.windows.rate.borrow_mut();
        let counted = rate.rule().per_day.map(u64::from);
        let (limit, used) = match (stated, counted) {
            (Some((limit, remaining)), _) => (limit, limit.saturating_sub(remaining)),
            (None, Some(limit)) => {
                let day = rate.day(now);
                let shared = self.shared.as_ref().zip(self.windows.shared.as_ref());
                let counted =
                    shared.map(|(shared, account)| shared.count(&name_of_day(&account.name, &day)).unwrap_or_default());
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
        note(&format!(
            "warning: `{}` has used {used} of {limit} requests today; the limit resets at {ends}",
            self.profile
        ));
        Some((used, limit, day.ends))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Lent;
    use crate::gateway::profiles::credential::is_renewable;
    use crate::providers::{self, Overrides};
    use crate::secret::Secret;

    fn pacing(state: &Path, rule: Rule) -> Pacing {
        Pacing::new(Rate::open(state, "p", "key", rule), "work", None)
    }

    #[test]
    fn only_the_users_own_limit_of_the_day_refuses_and_only_where_requests_are_paced() {
        let mut provider = providers::find("qwen", &Overrides::default()).unwrap();
        provider.limits.requests_per_day = Some(1000);
        provider.limits.burst = Some(7);
        let rule = |tuning: Tuning| rule(&provider, &tuning).unwrap();
        let built_in = rule(Tuning { rpm: None, rpd: None, pacing: true });
        assert!(built_in.waits && !built_in.day_refuses);
        assert_eq!((built_in.per_day, built_in.burst), (Some(1000), Some(7)));
        let own = rule(Tuning { rpm: Some(9), rpd: Some(10), pacing: true });
        assert_eq!((own.per_window, own.per_day, own.burst, own.day_refuses), (Some(9), Some(10), None, true));
        let unpaced = rule(Tuning { rpm: None, rpd: Some(10), pacing: false });
        assert!(!unpaced.waits && !unpaced.day_refuses);
    }

    #[test]
    fn a_window_is_a_duration_of_at_most_a_year() {
        let mut provider = providers::find("qwen", &Overrides::default()).unwrap();
        for (window, is_valid) in [("8784h", true), ("8785h", false), ("0s", false), ("soon", false)] {
            provider.limits.window = Some(window.into());
            let rule = rule(&provider, &Tuning { rpm: None, rpd: None, pacing: true });
            assert_eq!(rule.is_ok(), is_valid, "{window}");
        }
    }

    #[test]
    fn an_account_has_one_name_on_the_server_and_a_login_has_that_of_its_profile() {
        assert_eq!(shared_name("qwen", "/home/a/login.json", Some("work")), "qwen/login/work");
        let [first, second] = ["key-1", "key-2"].map(|account| shared_name("qwen", account, None));
        assert!(first.starts_with("qwen/") && !first.contains("key-1") && first != second, "{first} {second}");
    }

    fn slow(per_day: Option<u32>) -> Rule {
        Rule {
            per_window: Some(1),
            burst: None,
            window: Duration::from_secs(3600),
            per_day,
            day_refuses: false,
            zone: Zone::utc(),
            waits: true,
        }
    }

    #[test]
    fn a_request_waits_at_most_ten_minutes_and_gives_its_place_back() {
        let directory = tempfile::tempdir().unwrap();
        let pacing = pacing(directory.path(), slow(Some(10)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            assert_eq!(pacing.turn(&mut None).await, Ok(Waited::No));
            let mut counted = None;
            let second = tokio::time::timeout(Duration::from_secs(5), pacing.turn(&mut counted)).await;
            let Ok(Err(NoSlot::TooLong(wait))) = second else { panic!("{second:?}") };
            assert!(wait > MAX_QUEUE_TIME, "{wait:?}");
            pacing.end(counted.unwrap(), false);
        });
        assert_eq!(pacing.windows.rate.borrow_mut().count_of_day(SystemTime::now()), 1);
    }

    #[test]
    fn a_request_that_is_not_sent_counts_neither_for_its_window_nor_for_its_day() {
        let directory = tempfile::tempdir().unwrap();
        let pacing = pacing(directory.path(), slow(Some(10)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for was_sent in [false, true] {
            let mut counted = None;
            assert_eq!(runtime.block_on(pacing.turn(&mut counted)), Ok(Waited::No));
            pacing.end(counted.unwrap(), was_sent);
            let count = pacing.windows.rate.borrow_mut().count_of_day(SystemTime::now());
            assert_eq!(count, u32::from(was_sent));
        }
    }

    #[test]
    fn the_limit_of_the_day_is_warned_about_from_the_percentage_on_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let pacing = pacing(directory.path(), slow(None));
        assert_eq!(pacing.warn(80, None), None);
        let warned = |left| pacing.warn(80, Some((200, left))).map(|(used, limit, _)| (used, limit));
        assert_eq!([warned(200), warned(41), warned(40), warned(0)], [None, None, Some((160, 200)), None]);
        assert_eq!(pacing.occurrence_of_day(), format!("day/{}", pacing.day().date));
    }

    #[test]
    fn a_login_that_renews_its_tokens_and_a_command_that_prints_them_are_known_by_their_file() {
        let path = Path::new("/login.json");
        let [oauth, keys] = ["qwen", "dashscope"].map(|name| providers::find(name, &Overrides::default()).unwrap());
        let credential = |refresh: Option<&str>| {
            let text = r#"{"provider":"p","access_token":"granted","token_type":"Bearer"}"#;
            let mut credential = serde_json::from_str::<Lent>(text).unwrap().into_credential(SystemTime::now());
            credential.refresh_token = refresh.map(|token| Secret::new(token.into()));
            credential
        };
        for (provider, refresh, is_login) in
            [(&oauth, Some("r"), true), (&oauth, None, false), (&keys, Some("r"), false), (&keys, None, false)]
        {
            let credential = credential(refresh);
            assert_eq!(account_id(provider, &credential, path) == "/login.json", is_login, "{}", provider.name);
            assert_eq!(is_renewable(&credential, provider), is_login, "{}", provider.name);
        }
        let mut printed = credential(None);
        printed.command = Some("vault token".into());
        // As it is stored, and with what the command has printed.
        for token in ["", "first", "second"] {
            printed.access_token = Secret::new(token.into());
            assert_eq!(account_id(&keys, &printed, path), "/login.json", "{token}");
            assert!(is_renewable(&printed, &keys));
        }
    }
}
