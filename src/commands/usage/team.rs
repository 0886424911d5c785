//! `usage --team`: what each key, owner, profile or model used, or what was used each day.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use serde_json::{Value, json};

use crate::cli::{UsageArgs, UsageBy};
use crate::commands::{print, print_document};
use crate::error::printable;
use crate::keys::{Keys, Money};
use crate::say::cell;
use crate::session::Session;
use crate::usage::{Counts, Summary, Use};

/// Columns of what is counted apart, and of the owner beside a key.
const GROUP: usize = 20;
const OWNER: usize = 20;

/// What stands for requests with the key of the gateway itself.
const OWN: &str = "(gateway's own key)";

/// One row.
#[derive(Default)]
struct Sum {
    counts: Counts,
    /// By the prices of the configuration, where they cover everything.
    cost: Option<Money>,
    owner: Option<String>,
}

pub(super) fn run(args: &UsageArgs, summary: &Summary, session: &Session) -> Result<()> {
    let by = args.by.unwrap_or(UsageBy::Key);
    let keys = Keys::read(&session.config.team_places().keys)?;
    let prices = &session.config.prices;
    let mut sums: BTreeMap<Option<String>, Sum> = BTreeMap::new();
    for (of, counts) in &summary.counts {
        let sum = sums.entry(group(of, by)).or_insert_with(|| Sum { cost: Some(Money::default()), ..Sum::default() });
        sum.counts.add(counts);
        let cost = prices.of(&of.model).map(|price| price.of(counts.prompt_tokens, counts.completion_tokens));
        sum.cost = sum.cost.zip(cost).map(|(sum, cost)| sum.plus(cost));
        if by == UsageBy::Key {
            // The newest line says who it is now.
            sum.owner = of.user.as_ref().and_then(|user| user.owner.clone()).or(sum.owner.take());
        }
    }
    let name = |id: &str| keys.find(id).map_or_else(|| id.to_owned(), |key| key.name.clone());
    if args.json {
        let rows: Vec<Value> = sums.iter().map(|(group, sum)| as_json(by, group.as_deref(), sum, name)).collect();
        let by = by.name();
        return print_document(
            &json!({ "schema": 1, "counted": "gateway", "days": args.days, "by": by, "usage": rows }),
        );
    }
    print(&as_text(by, &sums, !prices.is_empty(), name))
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
) -> String {
    if sums.is_empty() {
        return "nothing passed through the gateway in these days\n".to_owned();
    }
    let owner = |text: &str| if by == UsageBy::Key { cell(text, OWNER) + "  " } else { String::new() };
    let cost = |text: &str| if has_prices { format!(" {text:>12}") } else { String::new() };
    let mut text = format!(
        "{}  {}{:>9} {:>12} {:>12} {:>6}{}\n",
        cell(by.name(), GROUP),
        owner("owner"),
        "requests",
        "prompt",
        "completion",
        "429s",
        cost("USD")
    );
    for (group, sum) in sums {
        let shown = match group {
            Some(id) if by == UsageBy::Key => name(id),
            Some(group) => group.clone(),
            None if by == UsageBy::Owner => "(nobody named)".to_owned(),
            None => OWN.to_owned(),
        };
        let Counts { requests, prompt_tokens, completion_tokens, rate_limited, .. } = sum.counts;
        let _ = writeln!(
            text,
            "{}  {}{requests:>9} {prompt_tokens:>12} {completion_tokens:>12} {rate_limited:>6}{}",
            cell(&printable(&shown), GROUP),
            owner(&printable(sum.owner.as_deref().unwrap_or("-"))),
            cost(&sum.cost.map_or_else(|| "?".to_owned(), |cost| format!("{:.4}", cost.dollars())))
        );
    }
    text
}
