//! `doctor --team`: whether the team's gateway that the active profile asks can be reached and is ready, and until when its
//! certificate is good.

use std::time::{Duration, SystemTime};

use serde_json::Value;
use url::Url;

use super::{Check, active};
use crate::credentials::{CredentialSource, Stored};
use crate::epoch;
use crate::http::Reply;
use crate::session::{Endpoint, Session};
use crate::x509::Facts;

/// For the gateway: a doctor that hangs is no help.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long before it expires a certificate causes a warning.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

pub(super) fn check(session: &Session) -> Vec<Check> {
    let Some(source) = active(session) else { return Vec::new() };
    match gateway(&source) {
        Ok(url) => check_gateway(&source, &url),
        Err(check) => vec![check],
    }
}

/// The root of the gateway that the profile's requests go to.
fn gateway(source: &CredentialSource) -> Result<Url, Check> {
    let Ok(Stored::Present(credential)) = source.load() else {
        let what = format!("profile `{}` is not logged in to a gateway", source.profile);
        let remedy = "log in to one with `qwenauth login team --base-url https://GATEWAY/v1 --api-key-stdin`";
        return Err(Check::warn("team", what, remedy));
    };
    let base_url =
        Endpoint::of(source, &credential, None).ok().and_then(|endpoint| Url::parse(&endpoint.base_url).ok());
    let mut url = base_url.ok_or_else(|| Check::warn("team", "the profile has no base URL", "log in to a gateway"))?;
    let root = url.path().trim_end_matches('/').strip_suffix("/v1").unwrap_or_default().to_owned();
    url.set_path(&format!("{root}/readyz"));
    Ok(url)
}

fn check_gateway(source: &CredentialSource, url: &Url) -> Vec<Check> {
    let host = url.host_str().unwrap_or_default();
    let connection = match source.network.connect(url) {
        Ok(connection) => connection,
        Err(error) => return vec![Check::fail("team", format!("{error:#}"), "see the other checks")],
    };
    match connection.get(url, None, &[], TIMEOUT) {
        Err(trouble) => {
            vec![Check::fail("team", trouble.sentence(host), trouble.remedy().unwrap_or("check the address"))]
        }
        Ok(reply) => std::iter::once(readiness(host, &reply)).chain(certificate(host, &reply)).collect(),
    }
}

/// `/readyz` needs no key and reports what is missing.
fn readiness(host: &str, reply: &Reply) -> Check {
    let said: Value = serde_json::from_slice(reply.text()).unwrap_or_default();
    let Some(is_ready) = said["ready"].as_bool() else {
        return Check::warn(
            "team",
            format!("`{host}` answers {} and is not a qwenauth gateway", reply.status),
            "`--team` is for a profile that is logged in to a gateway; `qwenauth use NAME` selects one",
        );
    };
    if is_ready {
        return Check::ok("team", format!("the gateway at `{host}` is ready"));
    }
    let reasons: Vec<String> = said
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| *name != "ready")
        .map(|(name, reason)| format!("{name}: {}", reason.as_str().unwrap_or_default()))
        .collect();
    let what = format!("the gateway at `{host}` is not ready ({})", reasons.join(", "));
    Check::fail("team", what, "ask its operator to run `qwenauth status` on that machine")
}

fn certificate(host: &str, reply: &Reply) -> Option<Check> {
    let facts = Facts::of(reply.certificate.as_deref()?)?;
    let until = epoch::rfc3339(facts.expires_at).unwrap_or_default();
    let left = facts.expires_at.duration_since(SystemTime::now()).unwrap_or_default();
    let what = format!("the certificate of `{host}` is valid until {until}");
    Some(if left < SOON {
        Check::warn("certificate", what, "replace it on the gateway's machine; the gateway reloads it automatically")
    } else {
        Check::ok("certificate", what)
    })
}
