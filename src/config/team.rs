//! `[team]` of config.toml: the shared server, the team secret, and the issuers whose tokens count as keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{invalid, unknown_keys};
use crate::error::{Failed, Failure, printable};
use crate::http;
use crate::keys::IssuerRule;

/// The keys of `[team]`.
pub(super) const TEAM_KEYS: [&str; 8] =
    ["issuers", "namespace", "on_loss", "password_file", "plain_redis", "secret_file", "shared", "timeout"];

/// The keys of an entry of `[[team.issuers]]`.
pub(super) const ISSUER_KEYS: [&str; 5] = ["audience", "claims", "issuer", "key", "owner"];

/// Maximum of `timeout`: how long a request may wait for an unreachable server.
const MAX_TIMEOUT: Duration = Duration::from_secs(10);

/// What gateways may do while the server of `[team]` is unreachable.
const ON_LOSS: [&str; 3] = ["share", "refuse", "open"];

/// `[team]`: what the gateways of a team share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Team {
    /// The URL of a Redis or Valkey server, which holds the shared counters.
    pub(crate) shared: Option<String>,
    pub(crate) password_file: Option<PathBuf>,
    /// Whether the server may be on another machine without TLS.
    pub(crate) plain_redis: bool,
    /// Separates this team from others on the same server.
    pub(crate) namespace: Option<String>,
    /// Maximum time that a request waits for the server.
    pub(crate) timeout: Option<Duration>,
    /// One of [`ON_LOSS`]; the first by default.
    pub(crate) on_loss: Option<String>,
    /// The file with the secret with which keys of people and jobs are hashed.
    pub(crate) secret_file: Option<PathBuf>,
    /// `[[team.issuers]]`: the issuers whose tokens count as keys.
    pub(crate) issuers: Vec<IssuerRule>,
}

/// Reads `[team]`.
pub(super) fn team_of(value: toml::Value, path: &Path, warnings: &mut Vec<String>) -> Result<Team> {
    let wrong = |what: &str, hint: &str| invalid(what, path, hint);
    let toml::Value::Table(mut table) = value else { return wrong("team", "write `[team]`").err() };
    warnings.extend(unknown_keys(&table, &TEAM_KEYS, "team", path));
    let mut text = |name: &str| match table.remove(name) {
        None => Ok(None),
        Some(toml::Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(wrong(&format!("team.{name}"), &format!("write `{name} = \"…\"`"))),
    };
    let on_loss = text("on_loss")?;
    if !on_loss.as_ref().is_none_or(|word| ON_LOSS.contains(&word.as_str())) {
        return wrong("team.on_loss", "write `on_loss = \"share\"`, `\"refuse\"` or `\"open\"`").err();
    }
    let namespace = text("namespace")?;
    let is_plain = |name: &String| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    if !namespace.as_ref().is_none_or(is_plain) {
        return wrong("team.namespace", "use letters, digits, `.`, `_` and `-`").err();
    }
    let is_whole = |file: &PathBuf| file.is_absolute() || file.starts_with("~");
    let password_file = text("password_file")?.map(PathBuf::from);
    if !password_file.as_ref().is_none_or(is_whole) {
        return wrong("team.password_file", "write its full path, starting with `/` or `~/`").err();
    }
    let timeout = match text("timeout")? {
        None => None,
        Some(text) => {
            match text.parse::<jiff::SignedDuration>().ok().and_then(|timeout| Duration::try_from(timeout).ok()) {
                Some(timeout) if !timeout.is_zero() && timeout <= MAX_TIMEOUT => Some(timeout),
                _ => return wrong("team.timeout", "write `timeout = \"250ms\"`; the maximum is 10 s").err(),
            }
        }
    };
    let secret_file = text("secret_file")?.map(PathBuf::from);
    if !secret_file.as_ref().is_none_or(is_whole) {
        return wrong("team.secret_file", "write its full path, starting with `/` or `~/`").err();
    }
    let shared = text("shared")?;
    let plain_redis = match table.remove("plain_redis") {
        None => false,
        Some(toml::Value::Boolean(is_plain)) => is_plain,
        Some(_) => return wrong("team.plain_redis", "write `plain_redis = true` or `plain_redis = false`").err(),
    };
    let issuers = issuers_of(table.remove("issuers"), path, warnings)?;
    Ok(Team { shared, password_file, plain_redis, namespace, timeout, on_loss, secret_file, issuers })
}

/// Reads `[[team.issuers]]`.
///
/// Errors: a rule that would accept the jobs of anyone, or that is invalid.
fn issuers_of(value: Option<toml::Value>, path: &Path, warnings: &mut Vec<String>) -> Result<Vec<IssuerRule>> {
    let wrong = |what: &str, hint: &str| invalid(&format!("team.issuers{what}"), path, hint);
    let Some(value) = value else { return Ok(Vec::new()) };
    let tables: Option<Vec<toml::Table>> = value.try_into().ok();
    let mut rules = Vec::new();
    for mut table in tables.ok_or_else(|| wrong("", "write `[[team.issuers]]`"))? {
        warnings.extend(unknown_keys(&table, &ISSUER_KEYS, "[team.issuers]", path));
        let mut text = |name: &str| match table.remove(name) {
            None => Ok(None),
            Some(toml::Value::String(text)) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(wrong(&format!(".{name}"), &format!("write `{name} = \"…\"`"))),
        };
        let mut required = |name: &str| {
            text(name)?.ok_or_else(|| {
                let message = format!("an entry of `[[team.issuers]]` in `{}` has no `{name}`", path.display());
                Failed::new(Failure::Other, message).hint(format!("write `{name} = \"…\"`"))
            })
        };
        let (issuer, audience, key) = (required("issuer")?, required("audience")?, required("key")?);
        http::endpoint(&issuer).with_context(|| format!("`team.issuers` in `{}`", path.display()))?;
        let owner = text("owner")?;
        let claims = match table.remove("claims") {
            None => BTreeMap::new(),
            Some(value) => claims_of(value).ok_or_else(|| {
                wrong(".claims", "write `claims = { repository_owner = \"…\" }`, with strings, integers or booleans")
            })?,
        };
        let rule = IssuerRule { issuer, audience, claims, key, owner };
        if !rule.is_narrow() {
            let message = format!(
                "an entry of `[[team.issuers]]` in `{}` accepts every job of `{}`",
                path.display(),
                printable(&rule.issuer)
            );
            return Failed::new(Failure::Other, message)
                .hint("name a claim that only your own jobs have: `claims = { repository_owner = \"…\" }`")
                .err();
        }
        rules.push(rule);
    }
    Ok(rules)
}

/// Claims and their values. Returns `None` if a value has another type.
fn claims_of(value: toml::Value) -> Option<BTreeMap<String, serde_json::Value>> {
    let toml::Value::Table(table) = value else { return None };
    let value = |value| match value {
        toml::Value::String(text) => Some(text.into()),
        toml::Value::Integer(number) => Some(number.into()),
        toml::Value::Boolean(boolean) => Some(boolean.into()),
        _ => None,
    };
    table.into_iter().map(|(name, claim)| Some((name, value(claim)?))).collect()
}
