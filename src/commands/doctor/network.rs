//! The servers of the active profile: whether they respond, by which route, how fast, and what their clock shows.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use url::Url;

use super::proxy::{self, Proxy, ProxyRoute};
use super::{Check, Verdict, active};
use crate::credentials::{Credential, CredentialSource, Kind, Stored, Verification, api_refusal, verify};
use crate::error::Report;
use crate::http::{Connection, Network, Reply, TransportError, is_loopback};
use crate::platform::system;
use crate::providers::{self, Provider};
use crate::say::in_words;
use crate::session::{Endpoint, Session};

/// Timeout for each server: a doctor that hangs is no help.
const SERVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Tokens are renewed when 30 s are left: a clock that is further off makes them end too late.
const SKEW: u64 = 30;

/// A server, and whether it is the one that programs send their requests to.
struct CheckedServer {
    url: Url,
    is_api: bool,
}

pub(super) fn check(session: &Session) -> Vec<Check> {
    let Some(source) = active(session) else { return Vec::new() };
    let stored = source.load();
    let credential = match &stored {
        Ok(Stored::Present(credential)) => Some(credential),
        _ => None,
    };
    let servers = servers(&source, credential);
    let network = &source.network;
    // In parallel, because a server that does not respond takes its whole timeout.
    let mut checks: Vec<Check> = thread::scope(|scope| {
        let start = |server| thread::Builder::new().spawn_scoped(scope, move || check_server(network, server));
        let running: Vec<_> = servers.iter().map(|server| (server, start(server))).collect();
        let finished = running.into_iter().flat_map(|(server, running)| match running {
            Ok(running) => running.join().unwrap_or_default(),
            // The system refuses a thread.
            Err(_) => check_server(network, server),
        });
        finished.collect()
    });
    // A server that does not respond is not asked again.
    let is_reached =
        !checks.iter().any(|check| matches!(check.name, "network" | "proxy") && check.verdict == Verdict::Fail);
    checks.extend(credential.and_then(|credential| verified(&source, credential, is_reached)));
    checks
}

/// At most two: where logins are renewed, and where requests are sent.
fn servers(source: &CredentialSource, stored: Option<&Credential>) -> Vec<CheckedServer> {
    let provider: Option<Provider> = match stored {
        Some(credential) => source.provider(credential).ok(),
        None => providers::find(&source.profile, &source.overrides).ok(),
    };
    let Some(provider) = provider else { return Vec::new() };
    let login = provider.server(None).ok().map(|server| server.token_endpoint);
    let api = match stored {
        Some(credential) => Endpoint::of(source, credential, None).ok().map(|endpoint| endpoint.base_url),
        None => provider.own_base_url().ok(),
    };
    let api = api.and_then(|api| Url::parse(&api).ok()).and_then(|url| url.join("/").ok());
    let login = login.and_then(|url| url.join("/").ok()).filter(|login| Some(login) != api.as_ref());
    let login = login.map(|url| CheckedServer { url, is_api: false });
    login.into_iter().chain(api.map(|url| CheckedServer { url, is_api: true })).collect()
}

fn check_server(network: &Network, server: &CheckedServer) -> Vec<Check> {
    let url = &server.url;
    let mut checks: Vec<Check> = proxy::describe_route(url, server.is_api).into_iter().collect();
    let trouble = match ask(network.connect(url), url) {
        Ok((reply, took)) => {
            let host = url.host_str().unwrap_or_default();
            checks.push(Check::ok("network", format!("`{host}` responds in {took} ms")));
            checks.extend(clock(host, reply.date));
            return checks;
        }
        Err(Unasked::NoClient(check)) => {
            checks.push(check);
            return checks;
        }
        Err(Unasked::NoReply(trouble)) => trouble,
    };
    checks.push(match proxy::route_to(url) {
        ProxyRoute::Through(proxy) => broken_proxy(network, url, &proxy, &trouble),
        ProxyRoute::Direct | ProxyRoute::Excepted(_) => no_answer(server, &trouble),
    });
    checks
}

enum Unasked {
    /// Nothing could be sent at all.
    NoClient(Check),
    NoReply(TransportError),
}

/// The response, and after how many milliseconds.
fn ask(connection: anyhow::Result<Connection>, url: &Url) -> Result<(Reply, u128), Unasked> {
    let connection = connection.map_err(|error| {
        let report = Report::of(&error);
        Unasked::NoClient(Check::fail("network", report.message, report.hint.unwrap_or_default()))
    })?;
    let started = Instant::now();
    let reply = connection.get(url, None, &[], SERVER_TIMEOUT).map_err(Unasked::NoReply)?;
    Ok((reply, started.elapsed().as_millis()))
}

fn no_answer(CheckedServer { url, is_api }: &CheckedServer, trouble: &TransportError) -> Check {
    let failed = if *is_api && is_loopback(url) {
        trouble.failed_locally(url)
    } else {
        trouble.failed(url.host_str().unwrap_or_default())
    };
    let remedy = failed.hint.unwrap_or_else(|| {
        "check the connection; behind a proxy set `HTTPS_PROXY`; behind a TLS-inspecting proxy set `QWENAUTH_CA_FILE`"
            .to_owned()
    });
    Check::fail("network", failed.message, remedy)
}

/// A request that went through `proxy` has failed: is it the proxy, and would it work without?
fn broken_proxy(network: &Network, url: &Url, proxy: &Proxy, trouble: &TransportError) -> Check {
    let host = url.host_str().unwrap_or_default();
    let variable = proxy.variable;
    let what = match proxy.trouble(url) {
        Some(why) => format!("the proxy of `{variable}`, {}, {why}", proxy.address()),
        None => format!("{}, through the proxy of `{variable}`", trouble.sentence(host)),
    };
    match ask(network.connect_directly(url), url) {
        Ok((_, took)) => Check::fail(
            "proxy",
            format!("{what}; `{host}` responds directly in {took} ms"),
            format!("`unset {variable}`, or add `{host}` to `NO_PROXY`; {}", proxy.remedy()),
        ),
        Err(_) => Check::fail(
            "proxy",
            format!("{what}; `{host}` cannot be reached directly either"),
            format!("{}; for a TLS-inspecting proxy set `QWENAUTH_CA_FILE`", proxy.remedy()),
        ),
    }
}

fn clock(host: &str, there: Option<SystemTime>) -> Option<Check> {
    let seconds = |time| jiff::Timestamp::try_from(time).ok().map(jiff::Timestamp::as_second);
    let skew = seconds(SystemTime::now())? - seconds(there?)?;
    if skew.unsigned_abs() <= SKEW {
        return Some(Check::ok("clock", format!("within {SKEW} s of the clock of `{host}`")));
    }
    let direction = if skew > 0 { "ahead of" } else { "behind" };
    Some(Check::fail(
        "clock",
        format!(
            "the clock is {} {direction} `{host}`, so the expiry of tokens is computed wrongly",
            in_words(Duration::from_secs(skew.unsigned_abs()))
        ),
        format!("set the clock: `{}`", system::SET_CLOCK),
    ))
}

/// What the API says of the stored login, as with `status --check`. `is_reached`: it can be asked.
fn verified(source: &CredentialSource, credential: &Credential, is_reached: bool) -> Option<Check> {
    let profile = &source.profile;
    let is_usable = credential.is_lasting() || credential.left((source.clock)()).is_some();
    // A command that prints the key may ask a person.
    let verification = (is_reached && is_usable && credential.command.is_none()).then(|| verify(source, credential));
    Some(match (verification, api_refusal(source, credential)) {
        (Some(Ok(Verification::Accepted)), _) => Check::ok("API", format!("accepts the login of `{profile}`")),
        (Some(Ok(Verification::Refused(why))), _) => rejected(source, credential, &why),
        (Some(Ok(Verification::Exhausted(why))), _) => {
            let provider = source.provider(credential).ok().filter(|provider| !provider.base_url.is_empty());
            let whom = provider.map_or_else(|| "the owner of the server".to_owned(), |provider| provider.title);
            let what = format!("accepts the login of `{profile}`, but the account cannot be used: {why}");
            Check::fail("API", what, format!("resolve this with {whom}; you do not need to log in again"))
        }
        (_, Some(refusal)) => rejected(source, credential, &refusal.reason),
        (Some(Ok(Verification::Unclear(failed))), None) => {
            let what = format!("could not check the login of `{profile}`: {failed}");
            Check::warn("API", what, failed.hint.unwrap_or_else(|| "the login may be valid; retry later".into()))
        }
        (Some(Ok(Verification::Unverifiable(why))), None) => {
            Check::ok("API", format!("cannot tell whether the login of `{profile}` is valid: {why}"))
        }
        // Another check has reported why it was not asked.
        (Some(Err(_)) | None, None) => return None,
    })
}

/// A key works in one region of its provider only, and nothing but its API knows in which.
fn rejected(source: &CredentialSource, credential: &Credential, why: &str) -> Check {
    let has_regions = source.provider(credential).is_ok_and(|provider| !provider.regions.is_empty());
    let mut remedy = source.instead(credential).unwrap_or_else(|| source.login_hint());
    if credential.kind == Kind::ApiKey && has_regions {
        remedy += &match &source.given {
            Some(given) => format!("; `{}` selects its region", given.region_setting()),
            None => " with the key: this detects the region where the key is valid".to_owned(),
        };
    }
    Check::fail("API", format!("rejects the login of `{}`: {why}", source.profile), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_differs_is_said_to_be_ahead_or_behind() {
        let hour = Duration::from_secs(3600);
        let said = |there: SystemTime| clock("host", Some(there)).unwrap().message;
        assert!(said(SystemTime::now()).starts_with("within "));
        assert!(said(SystemTime::now() - hour).contains(" ahead of `host`"));
        assert!(said(SystemTime::now() + hour).contains(" behind `host`"));
    }
}
