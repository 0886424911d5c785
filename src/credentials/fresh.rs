//! A credential whose token is valid for as long as the caller needs it: the stored one, else a renewed one.

use std::time::Duration;

use anyhow::Result;

use super::{Credential, CredentialSource, MARGIN, Why, machine, renew};
use crate::error::{Failed, Failure, Report, note};
use crate::say::in_words;

/// How long a token must be valid, and what happens if none is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lifetime {
    /// Required minimum; less is an error.
    AtLeast(Duration),
    /// Preferred minimum; any valid token is accepted.
    Preferably(Duration),
}

impl Lifetime {
    pub(crate) fn new(asked: Option<Duration>, preferred: Duration) -> Self {
        asked.map_or(Self::Preferably(preferred), Self::AtLeast)
    }

    fn duration(self) -> Duration {
        match self {
            Self::AtLeast(duration) | Self::Preferably(duration) => duration,
        }
    }
}

/// A credential whose access token is valid for `lifetime`, renewed if necessary.
pub(crate) fn fresh(source: &CredentialSource, lifetime: Lifetime) -> Result<Credential> {
    let credential = source.require()?;
    machine::warn_of_copy(source, &credential);
    let left = credential.left((source.clock)()).unwrap_or_default().as_secs();
    if credential.lasts(lifetime.duration(), (source.clock)()) {
        if credential.is_lasting() {
            log::info!("the API key of `{}` is used", source.profile);
        } else {
            log::info!("the token of `{}` is valid for {left} s more and is used", source.profile);
        }
        return Ok(credential);
    }
    log::info!(
        "the token of `{}` is valid for {left} s, less than the requested {} s: it has to be renewed",
        source.profile,
        lifetime.duration().as_secs()
    );
    let why = match lifetime {
        Lifetime::AtLeast(asked) => Why::Lifetime(asked),
        Lifetime::Preferably(_) => Why::Requested,
    };
    match renew(source, &credential, why) {
        Ok(renewed) => check_lifetime(source, renewed, lifetime),
        Err(error) => fall_back_to_current(source, credential, lifetime, error),
    }
}

fn check_lifetime(source: &CredentialSource, credential: Credential, lifetime: Lifetime) -> Result<Credential> {
    let left = credential.left((source.clock)()).unwrap_or_default();
    match lifetime {
        Lifetime::AtLeast(asked) if left < asked => Failed::new(
            Failure::Lifetime,
            format!("a new token is valid for {}, less than the requested {}", in_words(left), in_words(asked)),
        )
        .hint("use a smaller `--min-ttl`")
        .err(),
        _ => Ok(credential),
    }
}

/// After a failed renewal: if the current token is still valid and no minimum was required, it is used. One with
/// less than the usual margin left is used only if the failure may be temporary.
fn fall_back_to_current(
    source: &CredentialSource,
    credential: Credential,
    lifetime: Lifetime,
    error: anyhow::Error,
) -> Result<Credential> {
    let left = credential.left((source.clock)());
    let (Lifetime::Preferably(_), Some(left)) = (lifetime, left) else { return Err(error) };
    if left < MARGIN && Report::of(&error).failure != Failure::Temporary {
        return Err(error);
    }
    note(&format!("warning: {error:#}; the current token is valid for another {}", in_words(left)));
    Ok(credential)
}
