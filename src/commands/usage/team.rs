//! `usage --team`: what each key, owner, profile or model used, or what was used each day.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use serde_json::{Value, json};

use super::screen::{NOTHING, count};
use crate::cli::{UsageArgs, UsageBy};
use crate::commands::{print, print_document};
use crate::error::{note, printable};
use crate::keys::{Keys, Money};
use crate::limits::Zone;
use crate::limits::shared::Row;
use crate::say::{Screen, Table};
use crate::session::Session;
use crate::usage::{Counts, KeyUser, Summary, Use};

/// Name of the row for requests with the gateway's own key.
const OWN: &str = "(gateway's own key)";

/// One row.
#[derive(Default)]
struct Sum {
    counts: Counts,
    /// By the prices of the configuration, where they cover everything.
    cost: Option<Money>,
    owner: Option<String>,
}

/// Of a machine's own gateways, or of all that count together.
struct Used {
    counts: BTreeMap<Use, Counts>,
    /// Of keys that are made on another machine, by id.
    names: BTreeMap<String, String>,
    is_of_all: bool,
}

impl Used {
    fn of_this_machine(summary: &Summary) -> Self {
        Self { counts: summary.counts.clone(), names: BTreeMap::new(), is_of_all: false }
    }

    /// What the server of the shared limits has, where one is named.
    fn of_all(args: &UsageArgs, session: &Session) -> Result<Option<Self>> {
        let Some(place) = session.shared_if_named()? else { return Ok(None) };
        // Tomorrow has begun where days begin earlier than in UTC.
        let (utc, now) = (Zone::utc(), SystemTime::now());
        let mut days: Vec<String> = (0..args.days).map(|ago| utc.days_before(now, ago).to_string()).collect();
        days.push(utc.days_before(now + Duration::from_secs(86_400), 0).to_string());
        match place.usage(session.shared_tls(&place)?, &days) {
            Ok((sums, names)) => {
                let counts = sums.into_iter().map(|(row, sums)| {
                    let Row { day, profile, provider, model, key, owner } = row;
                    let user = key.map(|key| KeyUser { key, owner });
                    let counts = Counts::of(|name| sums.get(name).copied().unwrap_or_default());
                    (Use { day, profile, provider, model, user }, counts)
                });
                Ok(Some(Self { counts: counts.collect(), names, is_of_all: true }))
            }
            Err(error) => {
                let shown = place.address.shown();
                note(&format!("warning: `{shown}`: {error:#}; the totals include only the gateways of this machine"));
                Ok(None)
            }
        }
    }
}

pub(super) fn run(args: &UsageArgs, summary: &Summary, session: &Session) -> Result<()> {
    let by = args.by.unwrap_or(UsageBy::Key);
    let keys = Keys::read(&session.config.team_places().keys)?;
    let prices = &session.config.prices;
    let mut used = Used::of_all(args, session)?.unwrap_or_else(|| Used::of_this_machine(summary));
    if let Some(named) = session.named() {
        used.counts.retain(|of, _| of.profile == named.as_str());
    }
    let mut sums: BTreeMap<Option<String>, Sum> = BTreeMap::new();
    for (of, counts) in &used.counts {
        let sum = sums.entry(group(of, by)).or_insert_with(|| Sum { cost: Some(Money::default()), ..Sum::default() });
        sum.counts.add(counts);
        // Without tokens nothing is charged, whatever the model: a list of models has none.
        let is_free = counts.prompt_tokens == 0 && counts.completion_tokens == 0;
        let cost = prices.of(&of.model).map(|price| price.of(counts.prompt_tokens, counts.completion_tokens));
        let cost = cost.or_else(|| is_free.then(Money::default));
        sum.cost = sum.cost.zip(cost).map(|(sum, cost)| sum.plus(cost));
        if by == UsageBy::Key {
            // The newest line says who it is now.
            sum.owner = of.user.as_ref().and_then(|user| user.owner.clone()).or(sum.owner.take());
        }
    }
    let name = |id: &str| {
        let known = || used.names.get(id).cloned().unwrap_or_else(|| id.to_owned());
        keys.find(id).map_or_else(known, |key| key.name.clone())
    };
    if args.json {
        let rows: Vec<Value> = sums.iter().map(|(group, sum)| as_json(by, group.as_deref(), sum, name)).collect();
        let by = by.name();
        return print_document(
            &json!({ "schema": 1, "counted": if used.is_of_all { "all gateways" } else { "gateway" }, "days": args.days, "by": by, "usage": rows }),
        );
    }
    print(&as_text(by, &sums, !prices.is_empty(), name, Screen::stdout()))
}

fn group(of: &Use, by: UsageBy) -> Option<String> {
    match by {
        UsageBy::Key => of.user.as_ref().map(|user| user.key.clone()),
        UsageBy::Owner => of.user.as_ref().and_then(|user| user.owner.clone()),
        UsageBy::Profile => Some(of.profile.clone()),
        UsageBy::Model => Some(of.model.clone()),
        UsageBy::Day => Some(of.day.clone()),
    }
}

fn as_json(by: UsageBy, group: Option<&str>, sum: &Sum, name: impl Fn(&str) -> String) -> Value {
    let counts = &sum.counts;
    let mut row = json!({
        by.name(): group,
        "requests": counts.requests,
        "tries": counts.tries,
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "rate_limited": counts.rate_limited,
        "wait_ms": counts.wait_ms,
        "cost_usd": sum.cost.map(Money::dollars),
        "charged_tokens": counts.charged_tokens,
        "charged_usd": Money(counts.charged_nanodollars).dollars(),
    });
    if by == UsageBy::Key {
        row["name"] = group.map(name).into();
        row["owner"] = sum.owner.clone().into();
    }
    row
}

fn as_text(
    by: UsageBy,
    sums: &BTreeMap<Option<String>, Sum>,
    has_prices: bool,
    name: impl Fn(&str) -> String,
    screen: Screen,
) -> String {
    if sums.is_empty() {
        return screen.wrap(&screen.translate(NOTHING), 0, 0).join("\n") + "\n";
    }
    let mut table = Table::new().text(match by {
        UsageBy::Key => "KEY",
        UsageBy::Owner => "OWNER",
        UsageBy::Profile => "PROFILE",
        UsageBy::Model => "MODEL",
        UsageBy::Day => "DAY",
    });
    if by == UsageBy::Key {
        table = table.text("OWNER");
    }
    table = ["REQUESTS", "IN", "OUT", "429"].into_iter().fold(table, Table::number);
    if has_prices {
        table = table.number("USD");
    }
    let has_charges = sums.values().any(|sum| sum.counts.charged_nanodollars > 0);
    if has_charges {
        table = table.number("CHARGED");
    }
    for (group, sum) in sums {
        let shown = match group {
            Some(id) if by == UsageBy::Key => name(id),
            Some(group) => group.clone(),
            None if by == UsageBy::Owner => "(no owner)".to_owned(),
            None => OWN.to_owned(),
        };
        let Counts { requests, prompt_tokens, completion_tokens, rate_limited, charged_nanodollars, .. } = sum.counts;
        let mut row = vec![printable(&shown)];
        row.extend((by == UsageBy::Key).then(|| printable(sum.owner.as_deref().unwrap_or("-"))));
        row.extend([requests, prompt_tokens, completion_tokens, rate_limited].map(|number| count(number, screen)));
        row.extend(
            has_prices.then(|| sum.cost.map_or_else(|| "?".to_owned(), |cost| format!("{:.4}", cost.dollars()))),
        );
        row.extend(has_charges.then(|| format!("{:.4}", Money(charged_nanodollars).dollars())));
        table.row(row);
    }
    table.lines(screen).join("\n") + "\n"
}
