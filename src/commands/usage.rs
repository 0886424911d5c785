//! `usage`: show gateway usage and remaining limits.

mod screen;
mod team;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use serde_json::{Value, json};

use super::{OPENROUTER, key_endpoint, print, print_document};
use crate::cli::UsageArgs;
use crate::credentials::{Credential, CredentialSource, Stored};
use crate::epoch;
use crate::error::{Failed, Failure, note};
use crate::gateway::{self, Tuning};
use crate::limits::shared::{Counted, SharedAccount};
use crate::limits::{Day, Quota, Rule, Zone, exhausted, standing, used};
use crate::providers::Provider;
use crate::say::Screen;
use crate::session::Session;
use crate::usage::{Counts, StatedLimit, Summary, Use};

pub(crate) fn run(args: &UsageArgs, session: &Session) -> Result<()> {
    let now = SystemTime::now();
    let is_shown = |profile: &str| session.named().is_none_or(|named| named.as_str() == profile);
    let mut accounts = accounts(session)?;
    accounts.retain(|account| is_shown(&account.profile));
    // Days are those of each provider's own zone, which differ from UTC's by one at most.
    let utc = Zone::parse(None)?;
    let mut summary = Summary::read(&session.config.paths.state, &utc.days_before(now, args.days).to_string())?;
    summary.limits.retain(|(profile, _), _| is_shown(profile));
    summary.counts.retain(|Use { day, profile, .. }, _| {
        let zone =
            accounts.iter().find(|account| account.profile == *profile).map_or(&utc, |account| &account.rule.zone);
        is_shown(profile) && *day >= zone.days_before(now, args.days - 1).to_string()
    });
    if args.team {
        return team::run(args, &summary, session);
    }
    // What a profile used that was logged out since is shown.
    if let Some(named) = session.named()
        && summary.counts.is_empty()
        && summary.limits.is_empty()
        && !session.profiles()?.contains(named)
    {
        let failed = Failed::new(Failure::LoginRequired, format!("there is no stored profile `{named}`"));
        return match session.source_of(named).meant() {
            Some(name) => failed.hint(format!("did you mean `{name}`?")),
            None => failed.hint("run `qwenauth profiles` to list the stored profiles"),
        }
        .err();
    }
    let counted = counted_together(&accounts, session);
    let all = accounts.iter().zip(counted.into_iter().chain(std::iter::repeat(Counted::default())));
    let mut limits: Vec<Limit> = all.flat_map(|(account, counted)| account.limits(session, &counted, now)).collect();
    limits.extend(summary.limits.iter().filter_map(|((profile, _), seen)| {
        let zone =
            accounts.iter().find(|account| account.profile == *profile).map_or(&utc, |account| &account.rule.zone);
        Limit::stated(profile, seen, &zone.day_of(now), now)
    }));
    for account in &accounts {
        account.mark_exhausted(&mut limits, session, now);
    }
    if args.check {
        limits.extend(accounts.iter().filter_map(ProfileLimits::check).flatten());
    }
    if args.json {
        return print_document(&as_json(args, &summary, &limits));
    }
    print(&screen::text(&summary, &limits, Screen::stdout(), now))
}

/// What was used of each model on each day, by all keys together.
fn by_model(summary: &Summary) -> BTreeMap<(&str, &str, &str, &str), Counts> {
    let mut sums: BTreeMap<_, Counts> = BTreeMap::new();
    for (Use { day, profile, provider, model, .. }, counts) in &summary.counts {
        sums.entry((day.as_str(), profile.as_str(), provider.as_str(), model.as_str())).or_default().add(counts);
    }
    sums
}

/// What all gateways counted of each account, where a server of shared limits is named.
fn counted_together(accounts: &[ProfileLimits], session: &Session) -> Vec<Counted> {
    let shared: Vec<SharedAccount> = accounts.iter().map(ProfileLimits::shared).collect();
    let has_limits = shared.iter().any(|account| !account.limits(0).is_empty());
    let counted = match session.shared_if_named() {
        Ok(Some(place)) if has_limits => session.shared_tls(&place).and_then(|tls| place.counted(tls, &shared)),
        Ok(_) => return Vec::new(),
        Err(error) => Err(error),
    };
    counted.unwrap_or_else(|error| {
        note(&format!("warning: cannot read the counts that the gateways share: {error:#}"));
        Vec::new()
    })
}

/// A stored profile with its provider's limits.
struct ProfileLimits {
    profile: String,
    provider: Provider,
    account: String,
    credential: Credential,
    source: CredentialSource,
    base_url: String,
    rule: Rule,
}

/// Those that can be read, and the one of a key in the environment; `status` reports the others.
fn accounts(session: &Session) -> Result<Vec<ProfileLimits>> {
    let mut known = Vec::new();
    let given = session.credential_variable().and_then(|_| session.source().ok());
    let stored = session.profiles()?.into_iter().map(|profile| session.source_of(&profile));
    let name = given.as_ref().map(|given| given.profile.clone());
    let is_used = |source: &CredentialSource| name.as_ref() != Some(&source.profile);
    for source in stored.filter(is_used).chain(given) {
        let Ok(Stored::Present(credential)) = source.load() else { continue };
        let Ok(provider) = source.provider(&credential) else { continue };
        let Ok(base_url) = credential.base_url(&provider) else { continue };
        let rule = match gateway::rule(&provider, &Tuning { rpm: None, rpd: None, pacing: true }) {
            Ok(rule) => rule,
            Err(error) => {
                note(&format!("warning: the limits of `{}` are not shown: {error:#}", source.profile));
                continue;
            }
        };
        known.push(ProfileLimits {
            profile: source.profile.clone(),
            rule,
            base_url,
            account: gateway::account_id(&provider, &credential, source.store.path()),
            provider,
            credential,
            source,
        });
    }
    Ok(known)
}

/// What a limit leaves.
struct Limit {
    profile: String,
    name: String,
    /// The model it counts for, if not for all.
    model: Option<String>,
    /// The limit and how much of it is used, if known.
    figure: Option<(u64, u64)>,
    resets_at: Option<SystemTime>,
    /// The source: `counted` here, or stated by the `provider`.
    source: &'static str,
    /// The provider has rejected requests since the last reset.
    is_over: bool,
}

impl Limit {
    /// `today`: the provider's day. Returns `None` if it has reset since it was stated.
    fn stated(profile: &str, seen: &StatedLimit, today: &Day, now: SystemTime) -> Option<Self> {
        let resets_at = seen.resets_at.and_then(epoch::from_seconds);
        let holds = match resets_at {
            Some(at) => at > now,
            None => epoch::from_seconds(seen.at).is_some_and(|at| today.contains(at)),
        };
        holds.then(|| Self {
            profile: profile.to_owned(),
            name: seen.name.clone(),
            model: None,
            figure: Some((seen.limit, seen.limit.saturating_sub(seen.remaining))),
            resets_at,
            source: "provider",
            is_over: seen.remaining == 0,
        })
    }

    fn json(&self) -> Value {
        json!({
            "profile": self.profile,
            "name": self.name,
            "model": self.model,
            "limit": self.figure.map(|(most, _)| most),
            "used": self.figure.map(|(_, used)| used),
            "remaining": self.left(),
            "resets_at": self.resets_at.and_then(epoch::rfc3339),
            "source": self.source,
            "reached": self.is_over,
        })
    }

    /// Nothing is left of what the provider rejects, whatever was counted.
    fn left(&self) -> Option<u64> {
        match self.figure {
            Some((most, used)) => Some(most.saturating_sub(used)),
            None => self.is_over.then_some(0),
        }
    }
}

impl ProfileLimits {
    fn shared(&self) -> SharedAccount {
        let login = gateway::is_renewable(&self.credential, &self.provider).then_some(self.profile.as_str());
        let name = gateway::shared_name(&self.provider.name, &self.account, login);
        SharedAccount::new(name, self.rule.clone(), Quota::of(&self.provider.limits))
    }

    /// The limits that are counted here, or by all gateways together.
    fn limits(&self, session: &Session, together: &Counted, now: SystemTime) -> Vec<Limit> {
        let state = &session.config.paths.state;
        let (lately, today) = standing(state, &self.provider.name, &self.account, &self.rule, now);
        let most = |here: u32, together: u64| here.max(u32::try_from(together).unwrap_or(u32::MAX));
        let (lately, today) = (most(lately, together.lately), most(today.count, together.today));
        let limit = |name: String, limit: u32, used: u32, resets_at, is_over| Limit {
            profile: self.profile.clone(),
            name,
            model: None,
            figure: Some((limit.into(), used.into())),
            resets_at,
            source: "counted",
            is_over,
        };
        let window = self.rule.window;
        let is_minute = window == Duration::from_secs(60);
        let per =
            if is_minute { "requests per minute".into() } else { format!("requests in {} s", window.as_secs_f64()) };
        let minute = self.rule.per_window.map(|most| limit(per, most, lately, None, lately >= most));
        let ends = self.rule.zone.day_of(now).ends;
        let day =
            self.rule.per_day.map(|most| limit("requests per day".into(), most, today, Some(ends), today >= most));
        let quota = |quota: &Quota| {
            let (here, ends) = used(state, &self.provider.name, &self.account, quota, now);
            let shared = together.quotas.iter().find(|(cause, ..)| *cause == quota.cause);
            let (used, ends) = match shared.filter(|(_, used, _)| *used > here.into()) {
                Some((_, used, ends_in)) => (most(here, *used), (*used >= quota.most.into()).then(|| now + *ends_in)),
                None => (here, ends),
            };
            limit(quota.cause.limit_name().into(), quota.most, used, ends, used >= quota.most)
        };
        let quotas = Quota::of(&self.provider.limits);
        minute.into_iter().chain(day).chain(quotas.iter().map(quota)).collect()
    }

    /// Adds what the provider reported as used up to the limits that are known.
    fn mark_exhausted(&self, limits: &mut Vec<Limit>, session: &Session, now: SystemTime) {
        for entry in exhausted(&session.config.paths.state, &self.provider.name, &self.account, now) {
            let resets_at = entry.resets_at.and_then(epoch::from_seconds);
            let name = entry.cause.limit_name();
            let is_same = |limit: &&mut Limit| {
                limit.profile == self.profile
                    && limit.name == name
                    && limit.source == "counted"
                    && entry.model.is_none()
            };
            match limits.iter_mut().find(is_same) {
                Some(known) => {
                    known.is_over = true;
                    known.resets_at = resets_at.or(known.resets_at);
                }
                None => limits.push(Limit {
                    profile: self.profile.clone(),
                    name: name.to_owned(),
                    model: entry.model,
                    figure: None,
                    resets_at,
                    source: "provider",
                    is_over: true,
                }),
            }
        }
    }

    /// OpenRouter states what is left of a key. Returns `None` if the provider has no such endpoint.
    fn check(&self) -> Option<Vec<Limit>> {
        if self.provider.name != OPENROUTER {
            return None;
        }
        let asked = self
            .source
            .with_secret(self.credential.clone())
            .and_then(|credential| key_endpoint(&self.base_url, &credential, &self.source.network));
        match asked {
            Ok(reply) => Some(self.of_key(&reply["data"])),
            Err(error) => {
                note(&format!("cannot query the remaining quota of `{}`: {error:#}", self.profile));
                None
            }
        }
    }

    /// Reads leniently: fields were added in 2026, and others are announced to be removed.
    fn of_key(&self, data: &Value) -> Vec<Limit> {
        let mut limits = Vec::new();
        let mut add = |name: &str, limit: Option<f64>, remaining: Option<f64>| {
            let (Some(limit), Some(remaining)) = (limit, remaining) else { return };
            let whole = |number: f64| format!("{:.0}", number.max(0.0)).parse().unwrap_or_default();
            limits.push(Limit {
                profile: self.profile.clone(),
                name: name.to_owned(),
                model: None,
                figure: Some((whole(limit), whole(limit - remaining))),
                resets_at: None,
                source: "provider",
                is_over: remaining <= 0.0,
            });
        };
        add("credits of the key, in cents", cents(&data["limit"]), cents(&data["limit_remaining"]));
        let free = &data["free_model_daily_requests"];
        add("requests per day, free models", free["limit"].as_f64(), free["remaining"].as_f64());
        limits
    }
}

fn cents(dollars: &Value) -> Option<f64> {
    Some(dollars.as_f64()? * 100.0)
}

fn as_json(args: &UsageArgs, summary: &Summary, limits: &[Limit]) -> Value {
    let days: Vec<Value> = by_model(summary)
        .iter()
        .map(|((day, profile, provider, model), counts)| {
            json!({
                "day": day,
                "profile": profile,
                "provider": provider,
                "model": model,
                "requests": counts.requests,
                "tries": counts.tries,
                "prompt_tokens": counts.prompt_tokens,
                "completion_tokens": counts.completion_tokens,
                "rate_limited": counts.rate_limited,
                "wait_ms": counts.wait_ms,
            })
        })
        .collect();
    let limits: Vec<Value> = limits.iter().map(Limit::json).collect();
    json!({ "schema": 1, "counted": "gateway", "days": args.days, "usage": days, "limits": limits })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stated_limit_holds_until_it_resets_or_until_the_end_of_its_day() {
        // 2026-12-01T12:00:00Z
        let (noon, midnight) = (1_796_126_400, 1_796_083_200);
        let now = epoch::from_seconds(noon).unwrap();
        let today = Zone::parse(None).unwrap().day_of(now);
        for (resets_at, at, holds) in [
            (Some(noon + 1), midnight - 1, true),
            (Some(noon), noon - 60, false),
            (None, midnight, true),
            (None, midnight - 1, false),
        ] {
            let seen = StatedLimit { name: "requests".into(), limit: 10, remaining: 4, resets_at, at };
            let limit = Limit::stated("work", &seen, &today, now);
            assert_eq!(limit.map(|limit| limit.figure), holds.then_some(Some((10, 6))), "{resets_at:?} {at}");
        }
    }
}
