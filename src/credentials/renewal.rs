//! The only renewal in the program: lock, read again, reserve space, request, save.
//!
//! Hazards and rule: see [`super`].

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;

use super::document::CredentialDocument;
use super::origin::{self, Standing};
use super::store::{Found, Guard, Snapshot};
use super::{Credential, CredentialSource, Kind, api_refusal, endpoints, exchanged, login, machine, refused};
use crate::error::{Failed, Failure, Report};
use crate::http::Connection;
use crate::oauth::refresh::{self, NotRenewed};
use crate::oauth::{AuthorizationServer, TokenResponse};
use crate::platform::lock::LOCK_TIMEOUT;
use crate::platform::signals::DeferredSignals;
use crate::providers::Provider;
use crate::say::in_words;
use crate::secret::Secret;

/// Qwen Code waits 28.9 s for its lock and then starts a device login, so all attempts together must finish before
/// that.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(25);

/// Pauses before the second and third attempt: long enough for a proxy to reconnect, short enough for an interactive
/// user.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The hint where the refresh token was not sent, or where an error left it valid.
const NOT_SPENT: &str = "nothing was lost; retry later";

/// The outcome of sending a refresh token.
enum Spent {
    Renewed(Credential),
    /// Rejected, or never sent, because the file now holds a newer token.
    Superseded(Credential),
    /// `pause`: retry after a pause.
    Failed {
        failed: Failed,
        pause: bool,
    },
}

/// While Qwen Code may be renewing, its result is awaited for this long.
const FOREIGN_RENEWAL_TIMEOUT: Duration = Duration::from_secs(10);

/// A token that is valid for this long is used unchanged meanwhile.
const MIN_LIFETIME_MEANWHILE: Duration = Duration::from_secs(5);

/// What a renewal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The token expires soon, or the user requested another.
    Requested,
    /// The token must be valid for this long.
    Lifetime(Duration),
    /// The API rejects the token, however long it is valid.
    Refused,
}

impl Why {
    /// Remaining lifetime with which a token is used unchanged while another program may be renewing.
    fn sufficient_lifetime(self) -> Duration {
        match self {
            Self::Requested => MIN_LIFETIME_MEANWHILE,
            Self::Lifetime(asked) => asked.max(MIN_LIFETIME_MEANWHILE),
            Self::Refused => Duration::MAX,
        }
    }
}

/// Renews, unless another process has renewed since `seen` was loaded: then its result is adopted.
///
/// Errors: temporary (the hint says whether anything may be lost), login required (the refresh token was rejected),
/// other.
pub(crate) fn renew(source: &CredentialSource, seen: &Credential, why: Why) -> Result<Credential> {
    if seen.kind == Kind::ApiKey {
        return Ok(seen.clone());
    }
    if let Some(identity) = &seen.identity {
        return exchanged(source, seen, identity);
    }
    let provider = source.provider(seen)?;
    let server = endpoints::server_of(source, &provider, seen)?;
    origin::check(source, &provider, &server, seen)?;
    origin::say_where(source, &provider, &server);
    let deadline = Instant::now() + LOCK_TIMEOUT;
    let mut guard = source.store.lock(deadline)?;
    let current = source.require()?;
    if current.differs_from(seen) {
        drop(guard);
        return adopt(source, current, why);
    }
    if let (None, Some(left)) = (&current.refresh_token, current.left((source.clock)())) {
        return Err(not_renewable(source, left, why).into());
    }
    guard.knows(&current);
    if let Some(failed) = guard.locks.shared_failure() {
        return Err(failed.into());
    }
    let as_is = why.sufficient_lifetime();
    let outcome = renew_locked(source, seen, (&provider, &server), &mut guard, (as_is, deadline));
    // If this process was interrupted, that is not a failure for the processes that wait behind it.
    if let Err(error) = &outcome
        && !DeferredSignals::noted()
    {
        guard.locks.share_failure(&Report::of(error).into());
    }
    outcome
}

/// A token that is valid for `left` and has no refresh token.
fn not_renewable(source: &CredentialSource, left: Duration, why: Why) -> Failed {
    match why {
        Why::Lifetime(asked) => Failed::new(
            Failure::Lifetime,
            format!(
                "the token is valid for {}, less than the requested {}, and the login has no refresh token",
                in_words(left),
                in_words(asked)
            ),
        )
        .hint("use a smaller `--min-ttl`"),
        Why::Requested | Why::Refused => {
            Failed::new(Failure::LoginRequired, "the login has no refresh token").hint(source.login_hint())
        }
    }
}

/// Uses what another process has written since the credential was read, unless it has expired again, for example because
/// the machine was suspended between the two reads.
fn adopt(source: &CredentialSource, current: Credential, why: Why) -> Result<Credential> {
    log::debug!("adopting what another process wrote");
    if current.left((source.clock)()).is_some() { Ok(current) } else { renew(source, &current, why) }
}

/// Under our lock: takes Qwen Code's lock, then makes up to three attempts, each of which reads the file right before
/// its request.
fn renew_locked(
    source: &CredentialSource,
    seen: &Credential,
    (provider, server): (&Provider, &AuthorizationServer),
    guard: &mut Guard,
    (as_is, deadline): (Duration, Instant),
) -> Result<Credential> {
    let mut version = source.store.version();
    let is_renewed = || {
        let now = source.store.version();
        let is_new = now != std::mem::replace(&mut version, now);
        Ok(is_new && source.require()?.differs_from(seen))
    };
    // Before our own lock changes the directory.
    let has_traces = guard.locks.shows_foreign_renewal();
    if has_traces && seen.lasts(as_is, (source.clock)()) {
        return Ok(seen.clone());
    }
    if !guard.locks.lock_qwen_code(deadline, is_renewed)? {
        return source.require();
    }
    let over = Instant::now() + RENEWAL_TIMEOUT;
    if guard.locks.saw_a_lock_vanish() || has_traces {
        if !source.require()?.differs_from(seen) && seen.lasts(as_is, (source.clock)()) {
            return Ok(seen.clone());
        }
        if !guard.locks.await_change(version, FOREIGN_RENEWAL_TIMEOUT) && DeferredSignals::noted() {
            return Failed::new(Failure::Temporary, "interrupted while another program may be renewing").err();
        }
    }
    let connection = source.network.connect(&server.token_endpoint)?;
    let mut attempt = Attempt { source, provider, server, connection, guard, over };
    let mut current = seen.clone();
    // At most three attempts.
    for again in [true, true, false] {
        match attempt.spend(&current)? {
            Spent::Renewed(credential) => return Ok(credential),
            Spent::Superseded(other) if again && other.left((source.clock)()).is_none() => {
                attempt.guard.knows(&other);
                current = other;
            }
            Spent::Superseded(other) => return Ok(other),
            Spent::Failed { failed, pause: true } if again && Instant::now() + RETRY_PAUSE < over => {
                log::warn!("renewing again in {} ms: {failed}", RETRY_PAUSE.as_millis());
                thread::sleep(RETRY_PAUSE);
                if DeferredSignals::noted() {
                    return Err(failed.into());
                }
            }
            Spent::Failed { failed, .. } => return Err(failed.into()),
        }
    }
    Failed::new(Failure::Temporary, "the refresh token changed three times during one renewal").err()
}

/// One renewal under the locks.
struct Attempt<'a> {
    source: &'a CredentialSource,
    provider: &'a Provider,
    server: &'a AuthorizationServer,
    connection: Connection,
    guard: &'a mut Guard,
    over: Instant,
}

impl Attempt<'_> {
    /// One attempt. Space for the new version is reserved before the first byte is sent, and signals are deferred until
    /// it is installed.
    fn spend(&mut self, current: &Credential) -> Result<Spent> {
        let refresh_token = self.usable_refresh_token(current)?;
        if let Some(successor) = self.complete(&refresh_token)? {
            return Ok(Spent::Superseded(successor));
        }
        self.guard.reserve(Some(&refresh_token))?;
        // Qwen Code's lock does not keep any process from writing, and the last read may be as old as the wait.
        let before = self.source.snapshot()?;
        if before.credential.refresh_token.as_ref() != Some(&refresh_token) {
            return Ok(Spent::Superseded(before.credential));
        }
        if let Err(why) = before.document() {
            return self.source.damaged(&why);
        }
        let standing = origin::check(self.source, self.provider, self.server, &before.credential)?;
        let _held = DeferredSignals::new();
        let limit = refresh::REFRESH_TIMEOUT.min(self.over.saturating_duration_since(Instant::now()));
        let asked_at = (self.source.clock)();
        log::info!("renewing the token of `{}`", self.source.profile);
        match refresh::request(self.server, &self.connection, &refresh_token, limit) {
            Ok(grant) => self.save(&grant, &before, asked_at).map(Spent::Renewed),
            Err(NotRenewed::Refused(why)) => self.after_refusal(&refresh_token, standing, &why).map(Spent::Superseded),
            Err(NotRenewed::Temporary { failed, again, is_kept }) => {
                let failed = failed.reworded(|message| format!("cannot renew the token: {message}"));
                let failed = failed.or_hint(if is_kept { NOT_SPENT.to_owned() } else { self.perhaps_spent() });
                Ok(Spent::Failed { failed, pause: again })
            }
            Err(NotRenewed::OauthError(why)) => Ok(Spent::Failed {
                failed: Failed::new(Failure::Other, format!("cannot renew the token: {why}"))
                    .hint("your login is unaffected"),
                pause: false,
            }),
        }
    }

    fn perhaps_spent(&self) -> String {
        let login = self.source.login_hint();
        format!("retry later; if the server accepted the token without a response, {login}")
    }

    /// The token that a killed process received for `refresh_token` and could not install.
    fn complete(&mut self, refresh_token: &Secret) -> Result<Option<Credential>> {
        let _held = DeferredSignals::new();
        let source = self.source;
        self.guard.complete(refresh_token, |successor| origin::carry(source, refresh_token, successor))
    }

    /// The refresh token of `current`, unless it is known to be invalid.
    fn usable_refresh_token(&self, current: &Credential) -> Result<Secret> {
        let source = self.source;
        let Some(refresh_token) = current.refresh_token.clone() else {
            return source.login_required("the token has expired and the login has no refresh token".into());
        };
        if refused::is_marked(&source.paths.state, &refresh_token, &self.server.token_endpoint) {
            return source.login_required("the login has expired: the server rejected its refresh token".into());
        }
        Ok(refresh_token)
    }

    /// Saves new tokens over the version whose token they replace, or over `before` if a program without our lock has
    /// removed it. If another program has logged in meanwhile, its login is kept and these tokens are discarded.
    fn save(&mut self, grant: &TokenResponse, before: &Snapshot, asked_at: SystemTime) -> Result<Credential> {
        let source = self.source;
        let mut document = before.document().unwrap_or_default();
        document.renew(grant, asked_at);
        self.name_machine(&mut document);
        // From here a kill loses nothing: the next renewal finds the new tokens.
        if let Err(error) = self.guard.draft(&document) {
            log::debug!("no draft of the next version: {error:#}");
        }
        // The old token is no longer valid: a failure to read the file again must not keep the new tokens from being
        // saved.
        if let Ok(Found::Present(now)) = source.store.read() {
            if now.credential.refresh_token == before.credential.refresh_token {
                document = now.document().unwrap_or(document);
                document.renew(grant, asked_at);
                self.name_machine(&mut document);
            } else if now.credential.left((source.clock)()).is_some() {
                log::warn!("another program logged in during the renewal; its login was kept");
                return Ok(now.credential);
            }
        }
        let kept = before.credential.refresh_token.as_ref().filter(|_| !grant.has_unusable_refresh_token);
        let token = grant.refresh_token.as_ref().or(kept).unwrap_or(&grant.access_token);
        origin::remember(source, token, self.server);
        let saved = self.guard.replace(&document);
        if let (Ok(saved), Some(spent)) = (&saved, &before.credential.refresh_token)
            && saved.refresh_token.as_ref() != Some(spent)
        {
            origin::forget(source, spent);
            origin::forget_all_but(source, saved.record_token());
            if let Some(successor) = &saved.refresh_token {
                api_refusal::carry(source, spent, successor);
            }
        }
        saved.map_err(|error| login::unsaved(source, &error, "the token was renewed", grant).into())
    }

    /// A file of our own records the machine that wrote it last.
    fn name_machine(&self, document: &mut CredentialDocument) {
        if !self.source.store.is_shared() {
            document.set("machine", machine::hash().as_deref());
        }
    }

    /// The server rejected `refresh_token`. If the file now holds another, that one counts. Otherwise the token is
    /// marked, and the file is removed if its access token has expired too; only its own server's rejection has this
    /// effect.
    fn after_refusal(&mut self, refresh_token: &Secret, standing: Standing, why: &str) -> Result<Credential> {
        let source = self.source;
        let mark = || refused::mark(&source.paths.state, refresh_token, &self.server.token_endpoint);
        match source.store.read()? {
            Found::Present(current) => {
                let credential = current.credential;
                if credential.refresh_token.as_ref() != Some(refresh_token) {
                    return Ok(credential);
                }
                // Also where the file cannot be removed.
                mark();
                if standing == Standing::Granted && credential.left((source.clock)()).is_none() {
                    self.guard.remove()?;
                }
            }
            _ => mark(),
        }
        if standing == Standing::Trial {
            let host = self.server.token_endpoint.host_str().unwrap_or_default();
            return Failed::new(Failure::LoginRequired, format!("`{host}` does not know this login: {why}"))
                .hint("the login was kept; use the server that issued it, or log in again with this one")
                .err();
        }
        source.login_required(format!("the login has expired: {why}"))
    }
}
