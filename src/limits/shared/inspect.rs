//! Whether a server can be used, and why it does not serve.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError};
use rustls::ClientConfig;

use super::names::Names;
use super::{Address, Where, secret};
use crate::error::{Failed, Failure};
use crate::limits::together::KeysHere;

impl Where {
    /// Checks the server once, before the first request is served.
    ///
    /// Errors: it is there but must not be used, or it has keys that are made under another team secret. One that is away is
    /// no error: a gateway waits for it.
    pub(crate) fn check(&self, tls: ClientConfig, keys: Option<&KeysHere>) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tls = Arc::new(tls);
        let checked = tokio::task::LocalSet::new().block_on(&runtime, async {
            let mut connection = self.address.connect(&tls).await?;
            check(&self.address, &mut connection).await?;
            let Some(keys) = keys else { return Ok(()) };
            let mut command = redis::cmd("HMGET");
            command.arg(Names::new(&self.namespace).records()).arg(":check").arg(":source").arg(":host");
            let (check, source, host): (Option<String>, Option<String>, Option<String>) =
                command.query_async(&mut connection).await?;
            let is_own = source.is_some() && source == keys.source;
            match check.filter(|check| !is_own && *check != keys.check) {
                Some(_) => secret::refusal(&self.address.shown(), host.as_deref()).err(),
                None => Ok(()),
            }
        });
        checked.or_else(|error| if error.is::<Failed>() { Err(error) } else { Ok(()) })
    }
}

/// Errors: [`Failed`] if the server must not be used.
pub(super) async fn check(address: &Address, connection: &mut MultiplexedConnection) -> Result<()> {
    let info: String =
        redis::cmd("INFO").query_async(connection).await.map_err(|error| failure(&error, address.timeout()))?;
    let field = |name: &str| info.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
    let refused = |what: String, hint: &str| {
        Failed::new(Failure::Other, format!("`{}` {what}", address.shown())).hint(hint).err()
    };
    if field("redis_mode") == Some("sentinel") {
        return refused("is a Sentinel".into(), "use a host name that moves to the new primary instead");
    }
    if field("cluster_enabled") == Some("1") {
        return refused("is part of a cluster".into(), "use a single server, or one with replicas");
    }
    let version = field("redis_version").unwrap_or_default();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
    let number = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    if field("valkey_version").is_none() && number < (6, 2) {
        return refused(format!("is Redis {version}"), "use Redis 6.2 or later, or Valkey");
    }
    // Each counter expires, so that the policies `volatile-…` forget counts as well.
    let policy = field("maxmemory_policy").unwrap_or("noeviction");
    if policy != "noeviction" {
        let what = format!("forgets counts when its memory is full (`maxmemory-policy {policy}`)");
        return refused(what, "set `maxmemory-policy noeviction`");
    }
    Ok(())
}

/// Error codes of a server that responds but does not serve.
const REFUSALS: [&str; 2] = ["READONLY", "OOM"];

/// Why the server does not serve.
pub(super) fn reason(error: &RedisError, timeout: Duration) -> String {
    let within_script = || {
        // Redis 6.2 reports a rejected command of a script as an error of the script; the code of the command is
        // inside.
        let detail = error.detail()?;
        REFUSALS.into_iter().find(|code| detail.contains(&format!("-{code} ")))
    };
    match error.code().filter(|code| *code != "ERR").or_else(within_script) {
        Some("READONLY") => "it is read-only, like a replica".to_owned(),
        Some("LOADING") => "it is still loading its data".to_owned(),
        Some("MASTERDOWN") => "it is a replica without its primary".to_owned(),
        Some("OOM") => "its memory is full".to_owned(),
        Some("NOAUTH" | "WRONGPASS") => "it rejected the password".to_owned(),
        _ if error.kind() == ErrorKind::AuthenticationFailed => "it rejected the password".to_owned(),
        _ if error.is_timeout() => format!("it did not respond within {} ms", timeout.as_millis()),
        _ => error.to_string(),
    }
}

pub(super) fn failure(error: &RedisError, timeout: Duration) -> anyhow::Error {
    anyhow::anyhow!("{}", reason(error, timeout))
}
