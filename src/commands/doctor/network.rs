//! The servers of the active profile: whether they answer, how fast, and what time they say it is.

use std::time::{Duration, Instant, SystemTime};

use jiff::fmt::rfc2822;
use url::Url;

use super::Check;
use super::environment::proxy_in_force;
use crate::commands::{Endpoint, Setting};
use crate::credentials::{Account, Stored};
use crate::error::Report;
use crate::http::is_loopback;
use crate::providers::{self, Provider};

/// For each server: a doctor that hangs is no help.
const LIMIT: Duration = Duration::from_secs(5);

/// Tokens are renewed when 30 s are left: a clock that is further off makes them end too late.
const SKEW: u64 = 30;

pub(super) fn check(setting: &Setting) -> Vec<Check> {
    let account = setting.account();
    let mut checks = Vec::new();
    for url in servers(&account, setting) {
        checks.extend(server(&account, &url));
    }
    checks
}

/// At most two: where logins are renewed, and where requests go.
fn servers(account: &Account, setting: &Setting) -> Vec<Url> {
    let stored = match account.load() {
        Ok(Stored::Present(credential)) => Some(credential),
        _ => None,
    };
    let provider: Option<Provider> = match &stored {
        Some(credential) => account.provider(credential).ok(),
        None => providers::find(setting.profile.as_str(), &setting.config.overrides).ok(),
    };
    let Some(provider) = provider else { return Vec::new() };
    let login = provider.server(None).ok().map(|server| server.token_endpoint);
    let api = match &stored {
        Some(credential) => Endpoint::of(account, credential, None).ok().map(|endpoint| endpoint.base_url),
        None => provider.base_url(None).ok(),
    };
    let mut servers = Vec::new();
    for url in [login, api.and_then(|api| Url::parse(&api).ok())].into_iter().flatten() {
        if let Ok(root) = url.join("/")
            && !servers.contains(&root)
        {
            servers.push(root);
        }
    }
    servers
}

fn server(account: &Account, url: &Url) -> Vec<Check> {
    let host = url.host_str().unwrap_or_default();
    let connection = match account.network().connect(url) {
        Ok(connection) => connection,
        Err(error) => {
            let report = Report::of(&error);
            return vec![Check::fail("network", report.message, report.hint.unwrap_or_default())];
        }
    };
    let started = Instant::now();
    match connection.get(url, None, &[], LIMIT) {
        Ok(reply) => {
            let took = started.elapsed().as_millis();
            let mut checks = vec![Check::ok("network", format!("`{host}` answers in {took} ms"))];
            checks.extend(clock(host, reply.date.as_deref()));
            checks
        }
        Err(trouble) => {
            let proxy = proxy_in_force().filter(|_| !is_loopback(url));
            let remedy = match proxy {
                Some((name, _)) => {
                    format!("the request went through the proxy of `{name}`: try with `{name}=` before the command")
                }
                None => "check the connection, or set `HTTPS_PROXY` if this network has a proxy".into(),
            };
            vec![Check::fail("network", trouble.sentence(host), remedy)]
        }
    }
}

fn clock(host: &str, date: Option<&str>) -> Option<Check> {
    let there = rfc2822::DateTimeParser::new().parse_timestamp(date?).ok()?;
    let here = jiff::Timestamp::try_from(SystemTime::now()).ok()?;
    let skew = here.as_second() - there.as_second();
    if skew.unsigned_abs() <= SKEW {
        return Some(Check::ok("clock", format!("within {SKEW} s of `{host}`'s")));
    }
    let direction = if skew > 0 { "ahead of" } else { "behind" };
    Some(Check::fail(
        "clock",
        format!(
            "this machine is {} s {direction} `{host}`: tokens end earlier or later than it thinks",
            skew.unsigned_abs()
        ),
        "set the clock: `timedatectl set-ntp true`",
    ))
}
