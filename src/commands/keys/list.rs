//! `keys list`: what each key may use and has used.

use std::time::SystemTime;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::server::Server;
use crate::commands::{print, print_document, print_message};
use crate::epoch;
use crate::error::{note, printable};
use crate::keys::{KeyRecord, Keys, Places, State};
use crate::limits::key_standing;
use crate::limits::shared::KeyStanding;
use crate::say::{Screen, Style, cell};
use crate::session::Session;

/// Columns of the name, the owner and the state.
const NAME: usize = 16;
const OWNER: usize = 18;
const STATE: usize = 8;

/// Columns of what was used today, of a date, and of when a key was used last.
const TODAY: usize = 13;
const DATE: usize = 10;

pub(super) fn run(is_json: bool, session: &Session, places: &Places, server: Option<&Server>) -> Result<()> {
    let now = SystemTime::now();
    let keys = Keys::read(&places.keys)?;
    for field in keys.unknown_fields(&places.keys) {
        note(&format!("warning: {field}"));
    }
    let state = &session.config.paths.state;
    let all: Vec<&KeyRecord> = keys.iter().collect();
    // The server's answer to an empty list is of no use, and it may have the keys of another machine.
    let host = server.filter(|_| all.is_empty()).and_then(|server| server.foreign_host_if_known(&keys));
    let known: Vec<(&KeyRecord, Option<KeyStanding>)> = if let Some(server) = server.filter(|_| !all.is_empty()) {
        let unavailable = server.publish(places)?;
        let mut standings = server.standings(&all, unavailable).into_iter().flatten();
        all.into_iter().map(|key| (key, standings.next())).collect()
    } else {
        let standing = |key| {
            let (left, used_at) = key_standing(state, key, now);
            KeyStanding { left, used_at }
        };
        all.into_iter().map(|key| (key, Some(standing(key)))).collect()
    };
    if is_json {
        let keys: Vec<Value> = known.iter().map(|(key, standing)| json(key, standing.as_ref(), now)).collect();
        return print_document(&json!({ "schema": 1, "keys": keys }));
    }
    match host {
        Some(host) => {
            print_message(&format!("there are no keys on this machine; the keys of this team are managed on `{host}`"))
        }
        None if known.is_empty() => print_message("there are no keys; create one with `qwenauth keys create NAME`"),
        None => print(&table(&known, now, Screen::stdout())),
    }
}

/// What is known of a key without its counters.
pub(super) fn facts(key: &KeyRecord, now: SystemTime) -> Map<String, Value> {
    let mut facts = Map::new();
    facts.insert("id".into(), key.id.clone().into());
    facts.insert("name".into(), key.name.clone().into());
    facts.insert("owner".into(), key.owner.clone().into());
    facts.insert("state".into(), key.state(now).name().into());
    facts.insert("created_at".into(), shown(Some(key.created_at)).into());
    facts.insert("expires_at".into(), shown(key.expires_at).into());
    facts.insert("revoked_at".into(), shown(key.revoked_at).into());
    let limits = serde_json::to_value(&key.limits).unwrap_or_default();
    facts.insert("limits".into(), limits);
    facts
}

/// `standing`: `None` if it is not known.
fn json(key: &KeyRecord, standing: Option<&KeyStanding>, now: SystemTime) -> Value {
    let mut facts = facts(key, now);
    let used = standing.map(|KeyStanding { left, .. }| {
        json!({
            "requests_today": left.requests_of_day,
            "tokens_today": left.tokens_of_day,
            "in_flight": left.parallel,
            "spent_usd": key.limits.budget.map(|_| left.spent.dollars()),
        })
    });
    facts.insert("used".into(), used.into());
    facts.insert("last_used_at".into(), shown(standing.and_then(last_used)).into());
    facts.into()
}

fn last_used(standing: &KeyStanding) -> Option<u64> {
    Some(standing.used_at).filter(|at| *at > 0)
}

fn shown(seconds: Option<u64>) -> Option<String> {
    epoch::rfc3339(epoch::from_seconds(seconds?)?)
}

fn date_of(seconds: Option<u64>) -> String {
    shown(seconds).map_or_else(|| "-".to_owned(), |time| time[..DATE].to_owned())
}

/// The limits in words.
pub(super) fn limits(key: &KeyRecord) -> Vec<String> {
    let limits = &key.limits;
    let mut words = Vec::new();
    let mut add = |most: Option<u64>, unit: &str| words.extend(most.map(|most| format!("{most} {unit}")));
    add(limits.requests_per_minute.map(Into::into), "rpm");
    add(limits.requests_per_day.map(Into::into), "rpd");
    add(limits.tokens_per_minute.map(Into::into), "tpm");
    add(limits.tokens_per_day, "tpd");
    words.extend(limits.parallel.map(|most| format!("{most} parallel")));
    words.extend(limits.budget.map(|budget| budget.to_string()));
    if !limits.models.is_empty() {
        words.push(format!("models {}", limits.models.join(" ")));
    }
    if !limits.profiles.is_empty() {
        words.push(format!("profiles {}", limits.profiles.join(" ")));
    }
    if words.is_empty() {
        words.push("no limits of its own".to_owned());
    }
    words
}

/// Two lines a key: who and when, then limits and what is spent; columns that a narrow screen has no room for go to the
/// second.
fn table(known: &[(&KeyRecord, Option<KeyStanding>)], now: SystemTime, screen: Screen) -> String {
    let width = screen.width().unwrap_or(120);
    let has_owner = width >= 2 + NAME + 2 + OWNER + 2 + STATE + 2 + TODAY + 2 + DATE;
    let has_last = width >= 2 + NAME + 2 + OWNER + 2 + STATE + 2 + TODAY + 2 + DATE + 2 + DATE;
    let shown = |text: &str, width: usize| cell(&screen.translate(text), width);
    let mut head = vec![shown("NAME", NAME)];
    head.extend(has_owner.then(|| shown("OWNER", OWNER)));
    head.extend([shown("STATE", STATE), shown("USED TODAY", TODAY), shown("EXPIRES", DATE)]);
    head.extend(has_last.then(|| shown("LAST USED", DATE)));
    let mut text = screen.paint(Style::Dim, head.join("  ").trim_end()) + "\n";
    for (key, standing) in known {
        let state = key.state(now);
        let shade = match state {
            State::Active => Style::Success,
            State::Rotating => Style::Warning,
            State::Expired | State::Revoked => Style::Error,
        };
        let owner = key.owner.as_deref().map(printable);
        let mut row = vec![screen.paint(Style::Bold, &cell(&printable(&key.name), NAME))];
        row.extend(has_owner.then(|| cell(owner.as_deref().unwrap_or("-"), OWNER)));
        row.push(screen.paint(shade, &shown(state.name(), STATE)));
        let today = standing.as_ref().map(|standing| {
            let requests = standing.left.requests_of_day;
            format!("{requests} {}", screen.translate(if requests == 1 { "request" } else { "requests" }))
        });
        let unknown = || screen.translate("unknown");
        row.push(cell(&today.unwrap_or_else(unknown), TODAY));
        row.push(cell(&date_of(key.expires_at), DATE));
        let last = standing.as_ref().map(last_used);
        row.extend(has_last.then(|| cell(&last.map_or_else(unknown, date_of), DATE)));
        text += row.join("  ").trim_end();
        text.push('\n');
        let mut words = limits(key);
        if let Some(KeyStanding { left, .. }) = standing {
            words.extend(key.limits.budget.map(|budget| format!("spent {} of {} USD", left.spent, budget.amount)));
            words.extend((left.tokens_of_day > 0).then(|| format!("{} tokens today", left.tokens_of_day)));
        }
        words.extend(owner.filter(|_| !has_owner).map(|owner| format!("owner {owner}")));
        let last = last.flatten().filter(|_| !has_last);
        words.extend(last.map(|at| format!("last used {}", date_of(Some(at)))));
        let words: Vec<String> = words.iter().map(|words| screen.translate(&printable(words))).collect();
        for (at, line) in screen.wrap(&words.join(", "), 2, 2).iter().enumerate() {
            text += &format!("{}{}\n", if at == 0 { "  " } else { "" }, screen.paint(Style::Dim, line));
        }
    }
    text
}
