//! Keys of at most 30 minutes, issued for a stored key that is not passed on (Alibaba Cloud Model Studio,
//! `/api/v1/tokens`).

use std::time::{Duration, SystemTime};

use anyhow::Result;
use serde_json::Value;

use super::{Credential, CredentialSource, Lifetime};
use crate::error::{Failed, Failure};
use crate::http;
use crate::oauth::REQUEST_TIMEOUT;
use crate::oauth::fields::Fields;
use crate::oauth::reply::is_sendable;
use crate::say::in_words;
use crate::secret::Secret;

/// The documented maximum lifetime of such a key.
const MAX_LIFETIME: Duration = Duration::from_secs(1800);

struct Minted {
    token: Secret,
    /// Seconds since 1970.
    expires_at: Option<f64>,
}

/// A key that is valid for at most 30 minutes and replaces `credential`. It is not stored and cannot be revoked.
pub(crate) fn short_lived(
    source: &CredentialSource,
    credential: &Credential,
    lifetime: Lifetime,
) -> Result<Credential> {
    let provider = source.provider(credential)?;
    let Some(path) = &provider.short_lived else {
        return Failed::new(
            Failure::Usage,
            format!("{} has no short-lived keys", provider.called(&credential.base_url(&provider)?)),
        )
        .hint("omit `--short-lived`, or use a profile of `dashscope`")
        .err();
    };
    if let Lifetime::AtLeast(asked) = lifetime
        && asked > MAX_LIFETIME
    {
        return Failed::new(
            Failure::Lifetime,
            format!("a short-lived key is valid for at most {}", in_words(MAX_LIFETIME)),
        )
        .hint("use a smaller `--min-ttl`")
        .err();
    }
    let mut url = http::endpoint(&credential.base_url(&provider)?)?;
    url.set_path(path);
    url.set_query(Some(&format!("expire_in_seconds={}", MAX_LIFETIME.as_secs())));
    let asked_at = (source.clock)();
    let host = url.host_str().unwrap_or_default().to_owned();
    let not_issued = |why: &str| format!("`{host}` did not issue a short-lived key: {why}");
    let failed = |failure, why: &str| Failed::new(failure, not_issued(why));
    let reply = source
        .network
        .connect(&url)?
        .post_json(&url, &Value::Object(serde_json::Map::new()), Some(&credential.access_token), &[], REQUEST_TIMEOUT)
        .map_err(|trouble| trouble.failed(&host).reworded(not_issued))?;
    let minted = match reply.status {
        200 => Fields::of(&reply.body).and_then(|fields| {
            let token = fields.secret("token").filter(is_sendable)?;
            Some(Minted { token, expires_at: fields.number("expires_at") })
        }),
        401 | 403 if !reply.is_html() => {
            return failed(Failure::LoginRequired, &format!("it answered {} to the stored key", reply.status))
                .hint(format!("the key may have been deleted; {}", source.login_hint()))
                .err();
        }
        status => {
            return failed(Failure::Temporary, &format!("it answered {status}")).hint("retry later").err();
        }
    };
    let Some(minted) = minted else {
        return failed(Failure::Temporary, "its response contains no key").err();
    };
    let until = minted.expires_at.filter(|seconds| (0.0..1e11).contains(seconds));
    let until =
        until.map_or(asked_at + MAX_LIFETIME, |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds));
    Ok(Credential { access_token: minted.token, expires_at: Some(until), refresh_token: None, ..credential.clone() })
}
