//! `keys`: make, list, change, rotate and revoke the keys of people and jobs.

mod list;
mod server;

use std::io::{IsTerminal, stderr};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use serde_json::{Map, Value, json};

use self::server::Server;
use super::{print, print_json};
use crate::cli::{Bound, CreateKeyArgs, KeyLimitOptions, KeysCommand, RevokeKeyArgs, RotateKeyArgs, SetKeyArgs};
use crate::epoch;
use crate::error::{Failed, Failure, note};
use crate::keys::{Budget, Change, KeyRecord, KeyText, Keys, Places, State, TeamSecret};
use crate::platform::signals;
use crate::profile::ProfileName;
use crate::say::in_words;
use crate::session::Session;
use crate::terminal;

/// Maximum length of the name of a key and of its owner, in characters.
const MAX_NAME_LENGTH: usize = 63;
const MAX_OWNER_LENGTH: usize = 200;

pub(crate) fn run(command: &KeysCommand, session: &Session) -> Result<()> {
    let places = session.config.team_places();
    if let KeysCommand::Secret(_) = command {
        return secret(&places);
    }
    let server = Server::named(session)?;
    match command {
        KeysCommand::Create(args) => create(args, session, &places, server.as_ref()),
        KeysCommand::List(args) => list::run(args.json, session, &places, server.as_ref()),
        KeysCommand::Set(args) => set(args, session, &places, server.as_ref()),
        KeysCommand::Rotate(args) => rotate(args, &places, server.as_ref()),
        KeysCommand::Reset(args) => reset(&args.name, &places, server.as_ref()),
        KeysCommand::Revoke(args) => revoke(args, &places, server.as_ref()),
        KeysCommand::Secret(_) => Ok(()),
    }
}

fn create(args: &CreateKeyArgs, session: &Session, places: &Places, server: Option<&Server>) -> Result<()> {
    check_name(&args.name)?;
    check_stdout()?;
    let now = SystemTime::now();
    let edits = edits(&args.limits, session, now)?;
    let secret = places.team_secret()?;
    let (mut record, key) = KeyRecord::create(&args.name, &secret, now);
    for edit in &edits {
        edit(&mut record);
    }
    let shown = record.clone();
    server::change(places, server, now, |keys| {
        let change = Change { verb: "create", id: record.id.clone(), changes: changes(None, &record) };
        keys.add(record)?;
        Ok(((), change))
    })?;
    hand_out(&shown, &key, args.json, &format!("key `{}` is now valid; it is shown only once", shown.name))
}

fn set(args: &SetKeyArgs, session: &Session, places: &Places, server: Option<&Server>) -> Result<()> {
    let now = SystemTime::now();
    let edits = edits(&args.limits, session, now)?;
    if edits.is_empty() {
        return Failed::new(Failure::Usage, "no change was given")
            .hint(format!("give a limit, for example `qwenauth keys set {} --rpm 60`", args.name))
            .err();
    }
    let record = server::change(places, server, now, |keys| {
        let record = keys.live(&args.name)?;
        let before = record.clone();
        for edit in &edits {
            edit(record);
        }
        let change = Change { verb: "set", id: record.id.clone(), changes: changes(Some(&before), record) };
        Ok((record.clone(), change))
    })?;
    if args.json {
        return print_json(&list::facts(&record, now).into());
    }
    say(&format!("key `{}`: {}", record.name, list::limits(&record).join(", ")));
    Ok(())
}

fn rotate(args: &RotateKeyArgs, places: &Places, server: Option<&Server>) -> Result<()> {
    check_stdout()?;
    let now = SystemTime::now();
    let secret = places.team_secret()?;
    let (record, key) = server::change(places, server, now, |keys| {
        let record = keys.live(&args.name)?;
        if record.state(now) == State::Expired {
            return Failed::new(
                Failure::Other,
                format!("the key `{}` has expired, and its successor would be expired too", record.name),
            )
            .hint(format!("extend it first: `qwenauth keys set {} --expires 30d`", record.name))
            .err();
        }
        let key = record.rotate(&secret, args.overlap, now);
        let changes = json!({ "old_key_until": epoch::rfc3339(now + args.overlap) });
        let change = Change { verb: "rotate", id: record.id.clone(), changes };
        Ok(((record.clone(), key), change))
    })?;
    let old = match args.overlap {
        Duration::ZERO => "the old key is no longer valid".to_owned(),
        overlap => format!("the old key is valid for another {}", in_words(overlap)),
    };
    hand_out(
        &record,
        &key,
        args.json,
        &format!("key `{}` is replaced; the new key is shown only once; {old}", record.name),
    )
}

fn reset(name: &str, places: &Places, server: Option<&Server>) -> Result<()> {
    let now = SystemTime::now();
    let name = server::change(places, server, now, |keys| {
        let record = keys.live(name)?;
        if record.limits.budget.is_none() {
            return Failed::new(Failure::Other, format!("the key `{}` has no budget", record.name))
                .hint(format!("set one with `qwenauth keys set {} --budget '20 USD/month'`", record.name))
                .err();
        }
        record.resets = record.resets.wrapping_add(1);
        let change = Change { verb: "reset", id: record.id.clone(), changes: json!({ "resets": record.resets }) };
        Ok((record.name.clone(), change))
    })?;
    say(&format!("the whole budget of key `{name}` is available again"));
    Ok(())
}

fn revoke(args: &RevokeKeyArgs, places: &Places, server: Option<&Server>) -> Result<()> {
    let now = SystemTime::now();
    // Before the question: there may be nothing to ask.
    let name = Keys::read(&places.keys)?.live(&args.name)?.name.clone();
    if !args.yes {
        if !terminal::can_prompt() {
            return Failed::new(
                Failure::Usage,
                "there is no terminal to confirm the revocation on; nothing was changed",
            )
            .hint(format!("run `qwenauth keys revoke {name} --yes` to revoke it without confirmation"))
            .err();
        }
        if !terminal::confirm(&format!("Revoke the key `{name}` permanently?"))? {
            note("nothing was changed");
            return Ok(());
        }
    }
    server::change(places, server, now, |keys| {
        let record = keys.live(&args.name)?;
        record.revoke(now);
        Ok(((), Change { verb: "revoke", id: record.id.clone(), changes: json!({}) }))
    })?;
    say(&match server {
        None => format!("key `{name}` is revoked; gateways reject its next request"),
        Some(_) => format!(
            "key `{name}` is revoked; gateways reject its next request, and one that cannot reach the \
             shared server may accept it for up to 15 min"
        ),
    });
    Ok(())
}

fn secret(places: &Places) -> Result<()> {
    if TeamSecret::make(&places.secret)? {
        say("the team secret was created; copy it to the machines of other gateways over a confidential channel");
    } else {
        drop(TeamSecret::read(&places.secret)?);
        note("the team secret already exists and was kept");
    }
    print(&format!("{}\n", places.secret.display()))
}

/// Before a key is made: it could not be shown.
fn check_stdout() -> Result<()> {
    if signals::was_stdout_closed() {
        return Failed::new(Failure::Other, "stdout is closed, so the key could not be shown; nothing was changed")
            .err();
    }
    Ok(())
}

/// Prints the key, once.
fn hand_out(record: &KeyRecord, key: &KeyText, is_json: bool, said: &str) -> Result<()> {
    let printed = if is_json {
        let mut facts = json!({ "key": key.secret().expose() });
        for (name, fact) in list::facts(record, SystemTime::now()) {
            facts[name] = fact;
        }
        print_json(&facts)
    } else {
        say(said);
        print(&zeroize::Zeroizing::new(format!("{}\n", key.secret().expose())))
    };
    // A closed pipe is a failure here too: the key cannot be shown again.
    printed.or_else(|error| {
        let name = &record.name;
        Failed::new(Failure::Other, format!("key `{name}` is now valid, but it was not shown: {error:#}"))
            .hint(format!("run `qwenauth keys rotate {name}` for another key"))
            .err()
    })
}

/// For a person; a script has the exit code.
fn say(text: &str) {
    if stderr().is_terminal() {
        note(text);
    }
}

fn check_name(name: &str) -> Result<()> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_name = name.bytes().all(is_plain) && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if is_name && name.len() <= MAX_NAME_LENGTH {
        return Ok(());
    }
    Failed::new(Failure::Usage, "invalid key name")
        .hint("use 1 to 63 letters, digits, `.`, `_` and `-`, with a letter or digit first")
        .err()
}

/// What is another than `before`, by the names of keys.json.
fn changes(before: Option<&KeyRecord>, after: &KeyRecord) -> Value {
    let fields = |record: &KeyRecord| {
        let mut fields = match serde_json::to_value(&record.limits) {
            Ok(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        fields.insert("owner".into(), record.owner.clone().into());
        fields.insert("expires_at".into(), record.expires_at.and_then(shown).into());
        fields
    };
    let (mut before, after) = (before.map(fields).unwrap_or_default(), fields(after));
    let names: Vec<String> = before.keys().chain(after.keys()).cloned().collect();
    let mut changes = Map::new();
    for name in names {
        let (old, new) = (before.remove(&name).unwrap_or_default(), after.get(&name).cloned().unwrap_or_default());
        if old != new {
            changes.insert(name, new);
        }
    }
    changes.into()
}

fn shown(seconds: u64) -> Option<String> {
    epoch::rfc3339(epoch::from_seconds(seconds)?)
}

/// The word that removes a limit.
fn is_none(text: &str) -> bool {
    text.eq_ignore_ascii_case("none")
}

/// One change of a record.
type Edit = Box<dyn Fn(&mut KeyRecord)>;

/// The changes that options ask for.
///
/// Errors: usage.
fn edits(options: &KeyLimitOptions, session: &Session, now: SystemTime) -> Result<Vec<Edit>> {
    let mut edits: Vec<Edit> = Vec::new();
    if let Some(owner) = &options.owner {
        let owner = Some(owner.clone()).filter(|owner| !is_none(owner));
        if let Some(owner) = &owner
            && (owner.is_empty() || owner.chars().count() > MAX_OWNER_LENGTH || owner.chars().any(char::is_control))
        {
            return usage("invalid owner").hint("write one line of at most 200 characters").err();
        }
        edits.push(Box::new(move |key| key.owner.clone_from(&owner)));
    }
    if let Some(most) = small("--rpm", options.rpm)? {
        edits.push(Box::new(move |key| key.limits.requests_per_minute = most));
    }
    if let Some(most) = small("--rpd", options.rpd)? {
        edits.push(Box::new(move |key| key.limits.requests_per_day = most));
    }
    if let Some(most) = small("--tpm", options.tpm)? {
        edits.push(Box::new(move |key| key.limits.tokens_per_minute = most));
    }
    if let Some(Bound(most)) = options.tpd {
        edits.push(Box::new(move |key| key.limits.tokens_per_day = most));
    }
    if let Some(most) = small("--parallel", options.parallel)? {
        edits.push(Box::new(move |key| key.limits.parallel = most));
    }
    if let Some(text) = &options.budget {
        let budget = budget(text, session)?;
        edits.push(Box::new(move |key| key.limits.budget = budget));
    }
    if let Some(models) = list_of(&options.models) {
        if models.iter().any(|model| model.trim().is_empty()) {
            return usage("`--models` contains an empty name").hint("`none` allows all models").err();
        }
        edits.push(Box::new(move |key| key.limits.models.clone_from(&models)));
    }
    if let Some(profiles) = list_of(&options.profiles) {
        let stored = session.config.paths.profiles()?;
        for name in &profiles {
            let name = ProfileName::parse(name)?;
            if !stored.contains(&name) && !session.config.key_files.contains_key(name.as_str()) {
                note(&format!("warning: profile `{name}` is not stored here"));
            }
        }
        edits.push(Box::new(move |key| key.limits.profiles.clone_from(&profiles)));
    }
    if let Some(text) = &options.expires {
        let at = if is_none(text) { None } else { Some(expiry(text, now)?) };
        edits.push(Box::new(move |key| key.expires_at = at));
    }
    Ok(edits)
}

fn usage(message: impl Into<String>) -> Failed {
    Failed::new(Failure::Usage, message)
}

#[expect(clippy::option_option, reason = "not given, given as none, given as a number")]
fn small(name: &str, bound: Option<Bound>) -> Result<Option<Option<u32>>> {
    let Some(Bound(most)) = bound else { return Ok(None) };
    let Some(most) = most else { return Ok(Some(None)) };
    match u32::try_from(most) {
        Ok(most) => Ok(Some(Some(most))),
        Err(_) => usage(format!("`{name}` is larger than {}", u32::MAX)).hint("`none` means no limit").err(),
    }
}

fn list_of(given: &[String]) -> Option<Vec<String>> {
    match given {
        [] => None,
        [only] if is_none(only) => Some(Vec::new()),
        _ => Some(given.to_vec()),
    }
}

fn budget(text: &str, session: &Session) -> Result<Option<Budget>> {
    if is_none(text) {
        return Ok(None);
    }
    let budget = text.parse().map_err(|why| usage(format!("invalid `--budget`: {why}")))?;
    if session.config.prices.is_empty() {
        return usage("a budget requires model prices, and config.toml has none")
            .hint(
                "write `[prices.\"MODEL\"]` and below it `input = 1.0` and `output = 5.0`, US dollars per million tokens; \
                 or limit tokens with `--tpd`",
            )
            .err();
    }
    Ok(Some(budget))
}

/// When a key ends, in seconds since 1970.
fn expiry(text: &str, now: SystemTime) -> Result<u64> {
    let wrong = || {
        usage(format!("invalid `--expires` `{text}`")).hint(
            "write a duration, such as `30d` or `12h`, the last valid day, such as `2027-01-31`, or a time, such as \
                 `2027-01-31T18:00Z`",
        )
    };
    // The parser takes the date of any time, even of one without a zone.
    let day = text.parse::<jiff::civil::Date>().ok().filter(|date| date.to_string() == text);
    let at = if let Some(date) = day {
        let end = date.tomorrow().ok().and_then(|next| next.to_zoned(jiff::tz::TimeZone::UTC).ok());
        epoch::seconds(end.ok_or_else(wrong)?.timestamp().into())
    } else if let Ok(time) = text.parse::<jiff::Timestamp>() {
        epoch::seconds(time.into())
    } else {
        let span: jiff::Span = text.parse().map_err(|_| wrong())?;
        let start = jiff::Timestamp::try_from(now)?.to_zoned(jiff::tz::TimeZone::UTC);
        epoch::seconds(start.checked_add(span).map_err(|_| wrong())?.timestamp().into())
    };
    if at <= epoch::seconds(now) {
        return usage(format!("`--expires {text}` is not in the future")).hint("choose a later time").err();
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_ends_after_a_while_or_with_a_day() {
        let now: SystemTime = "2026-12-30T12:00:00Z".parse::<jiff::Timestamp>().unwrap().into();
        for (text, at) in [
            ("30d", "2027-01-29T12:00:00Z"),
            ("12h", "2026-12-31T00:00:00Z"),
            ("2026-12-31", "2027-01-01T00:00:00Z"),
            ("2026-12-30", "2026-12-31T00:00:00Z"),
            ("2026-12-30T13:00:00Z", "2026-12-30T13:00:00Z"),
            ("2026-12-30T13:00Z", "2026-12-30T13:00:00Z"),
            ("2026-12-31T00:30:00+08:00", "2026-12-30T16:30:00Z"),
        ] {
            let at: SystemTime = at.parse::<jiff::Timestamp>().unwrap().into();
            assert_eq!(expiry(text, now).unwrap(), epoch::seconds(at), "{text}");
        }
        for bad in [
            "",
            "soon",
            "-1d",
            "0s",
            "2026-12-29",
            "30",
            "2026-13-01",
            "2026-12-31T10:00",
            "2026-12-31 10:00",
            "2026-12-30T10:00:00Z",
            "2026-12-31T00:00:01+14:00",
        ] {
            assert!(expiry(bad, now).is_err(), "{bad}");
        }
    }
}
