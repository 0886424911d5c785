//! A cache in front of the stored credential: calls `fresh` and `renew` without blocking requests.
//!
//! Hazard: the file may change between any two requests (a renewal by another process, a login, a logout), and reading
//! it involves locks, disk and network.
//! Rule: the cached credential is used as long as the file's metadata is unchanged and the token is valid. Everything
//! else runs on a separate thread, once for all waiting requests, and is never cancelled. A file that names a key and is
//! being replaced may hold none for a moment: the last key stays in force as long as there is a file.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use hyper::header::{HeaderName, HeaderValue};
use tokio::sync::{Mutex, oneshot};

use super::edge::{Edge, NoToken};
use crate::credentials::{
    ApiMark, Credential, CredentialSource, GivenKey, Lifetime, MARGIN, Stored, Why, fresh, renew,
};
use crate::error::{Failed, Failure, Report, Trouble};
use crate::gateway::request::anthropic::Endpoint;
use crate::gateway::upstream::Origin;
use crate::http;
use crate::platform::disk::Version;
use crate::providers::Provider;

/// After a failed renewal, a token that is still valid is used this long before the next attempt.
const RENEWAL_RETRY_AFTER: Duration = Duration::from_secs(5);

/// How long a rejected credential makes the gateway not ready: a load balancer sends it no request that could show the
/// contrary.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// How long a renewed token that is rejected is not renewed again: another one would be rejected as well.
const RENEWED_FOR: Duration = Duration::from_secs(10);

/// How long the file counts as unchanged after a look at it: less than a process needs to end and another to send a request.
/// Under load a look costs a twentieth of a request.
const UNSEEN: Duration = Duration::from_millis(1);

/// How long a file with a key may be unusable before that is reported: a program that writes another key empties it first.
const UNUSABLE_FOR: Duration = Duration::from_secs(1);

/// What the thread found, or another machine published.
pub(in crate::gateway) struct Found {
    pub(in crate::gateway) credential: Credential,
    pub(in crate::gateway) provider: Provider,
    pub(in crate::gateway) base_url: String,
    pub(in crate::gateway) stamp: Option<Version>,
    pub(in crate::gateway) mark: ApiMark,
    /// Of a token that another machine renews.
    pub(super) generation: Option<u64>,
}

/// A credential with everything that a request needs.
pub(in crate::gateway) struct ReadyCredential {
    pub(in crate::gateway) credential: Credential,
    pub(in crate::gateway) provider: Provider,
    pub(in crate::gateway) authorization: HeaderValue,
    /// The endpoint for Anthropic's protocol, on the same origin.
    pub(in crate::gateway) messages: Option<Endpoint>,
    pub(in crate::gateway) origin: Rc<Origin>,
    /// The path of the base URL; it replaces `/v1` of the client's path.
    pub(in crate::gateway) base_path: String,
    stamp: Option<Version>,
    /// Of a token that another machine renews.
    pub(super) generation: Option<u64>,
    /// Records whether the API accepts the credential.
    pub(in crate::gateway) mark: ApiMark,
    /// `None`: until the file changes.
    good_until: Option<SystemTime>,
    /// The provider's headers for the last `User-Agent`.
    headers: RefCell<Option<(HeaderValue, Headers)>>,
}

/// What stands for the client's `User-Agent` in the provider's headers.
const USER_AGENT: &str = "{user-agent}";

pub(in crate::gateway) type Headers = Rc<Vec<(HeaderName, HeaderValue)>>;

impl ReadyCredential {
    /// The provider's own headers for a request with this `User-Agent`.
    pub(in crate::gateway) fn headers(&self, user_agent: &HeaderValue) -> Headers {
        if let Some((known, headers)) = &*self.headers.borrow()
            && known == user_agent
        {
            return Rc::clone(headers);
        }
        // Inserted as bytes, which need not be text.
        let valid = |(name, template): (String, String)| {
            let parts: Vec<&[u8]> = template.split(USER_AGENT).map(str::as_bytes).collect();
            let value = HeaderValue::from_bytes(&parts.join(user_agent.as_bytes()));
            Some((HeaderName::try_from(name).ok()?, value.ok()?))
        };
        let headers = Rc::new(self.provider.headers(USER_AGENT).into_iter().filter_map(valid).collect::<Vec<_>>());
        *self.headers.borrow_mut() = Some((user_agent.clone(), Rc::clone(&headers)));
        headers
    }

    /// Whether a rejected token can be renewed.
    pub(in crate::gateway) fn is_renewable(&self) -> bool {
        self.generation.is_some() || is_renewable(&self.credential, &self.provider)
    }
}

/// Whether another credential can take its place by itself.
pub(crate) fn is_renewable(credential: &Credential, provider: &Provider) -> bool {
    credential.identity.is_some()
        || credential.command.is_some()
        || provider.oauth().is_some() && credential.refresh_token.is_some()
}

/// What a credential is wanted for.
enum Wanted {
    /// It is valid for this long, if possible.
    Lasting(Duration),
    /// The API rejected the token of this one.
    Other(Box<Credential>),
}

struct Job {
    /// When the request began to wait.
    since: Instant,
    wanted: Wanted,
    reply: oneshot::Sender<Result<Found, Failed>>,
}

/// One profile's credential.
pub(in crate::gateway) struct CredentialCache {
    /// The file that is watched for another credential.
    watched: Option<PathBuf>,
    /// Where the login is another machine's: what that publishes.
    edge: Option<Edge>,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    cached: RefCell<Option<Rc<ReadyCredential>>>,
    /// When the file was last seen to be that of the cached credential.
    unchanged_at: Cell<Option<SystemTime>>,
    gate: Mutex<()>,
    /// The last failure: when, why, and for which version of the file.
    failed: Cell<Option<(Instant, Failure, Option<Version>)>>,
    /// Whether the last look found no login.
    was_missing: Arc<AtomicBool>,
    /// When the provider rejected the credential that was sent last, if it did.
    refused_at: Cell<Option<Instant>>,
    /// When a token that was rejected was last renewed.
    renewed_at: Cell<Option<Instant>>,
    /// Whether it was reported that renewed tokens are rejected.
    has_ended: Cell<bool>,
}

impl CredentialCache {
    pub(in crate::gateway) fn start(source: CredentialSource) -> Result<Self> {
        let watched = source.watched().map(Path::to_owned);
        let (jobs, queue) = mpsc::channel();
        let was_missing = Arc::<AtomicBool>::default();
        let missing = Arc::clone(&was_missing);
        let work = move || {
            let mut failure: Option<(Instant, Failed)> = None;
            let mut last_key = source.given.as_ref().and_then(GivenKey::file).map(|_| LastKey::default());
            for Job { since, wanted, reply } in queue {
                // A request that waited during the failure shares it instead of trying again.
                let found = match &failure {
                    Some((at, failed)) if since < *at => Err(failed.clone()),
                    _ => {
                        let found = find(&source, &wanted);
                        let found = match &mut last_key {
                            Some(last_key) => last_key.unless(found, &source, &wanted),
                            None => found,
                        };
                        failure = found.as_ref().err().map(|failed| (Instant::now(), failed.clone()));
                        let is_missing = found.is_err() && matches!(source.load_record(), Ok(Stored::Missing));
                        missing.store(is_missing, Ordering::Relaxed);
                        found
                    }
                };
                // The request may have been cancelled; the renewed credential is in the file.
                drop(reply.send(found));
            }
        };
        let thread = std::thread::Builder::new().name("credential".to_owned()).spawn(work)?;
        let mut cache = Self::new(watched, None);
        (cache.jobs, cache.thread, cache.was_missing) = (Some(jobs), Some(thread), was_missing);
        Ok(cache)
    }

    fn new(watched: Option<PathBuf>, edge: Option<Edge>) -> Self {
        Self {
            watched,
            edge,
            jobs: None,
            thread: None,
            cached: RefCell::default(),
            unchanged_at: Cell::new(None),
            gate: Mutex::new(()),
            failed: Cell::new(None),
            was_missing: Arc::default(),
            refused_at: Cell::new(None),
            renewed_at: Cell::new(None),
            has_ended: Cell::new(false),
        }
    }

    /// The credential of a login that another machine has.
    pub(super) fn of_edge(edge: Edge) -> Self {
        Self::new(None, Some(edge))
    }

    /// Why there is no token of another machine's login, where that is so.
    pub(in crate::gateway) fn trouble(&self) -> Option<NoToken> {
        self.edge.as_ref()?.trouble()
    }

    /// Looks whether another machine has published another token, or none any more. Called about once a second.
    pub(in crate::gateway) async fn look(&self) {
        if let Some(edge) = &self.edge
            && edge.look().await
        {
            self.forget();
            self.failed.set(None);
        }
    }

    /// Whether there is no file.
    pub(super) fn is_missing(&self) -> bool {
        self.watched.as_deref().is_some_and(|path| path.symlink_metadata().is_err())
    }

    /// Whether the last look found no login, as in a file that a logout has emptied because it cannot be removed.
    pub(super) fn was_missing(&self) -> bool {
        self.was_missing.load(Ordering::Relaxed)
    }

    /// The credential, renewed now if it lasts less than `lifetime`. If that fails, the current one.
    pub(in crate::gateway) async fn ahead(&self, lifetime: Duration) -> Result<Rc<ReadyCredential>, Failed> {
        let since = Instant::now();
        let _alone = self.gate.lock().await;
        let lasts =
            |ready: &Rc<ReadyCredential>| ready.credential.left(SystemTime::now()).is_some_and(|left| left >= lifetime);
        if let Some(ready) = self.current().filter(lasts) {
            return Ok(ready);
        }
        self.ask(since, Wanted::Lasting(lifetime)).await
    }

    /// The credential in the file now, renewed if necessary.
    pub(in crate::gateway) async fn fresh(&self) -> Result<Rc<ReadyCredential>, Failed> {
        match self.current() {
            Some(ready) => Ok(ready),
            // Boxed: it is long, and seldom needed.
            None => Box::pin(self.found()).await,
        }
    }

    async fn found(&self) -> Result<Rc<ReadyCredential>, Failed> {
        let since = Instant::now();
        let _alone = self.gate.lock().await;
        if let Some(ready) = self.current() {
            return Ok(ready);
        }
        self.ask(since, Wanted::Lasting(MARGIN)).await
    }

    /// A credential other than `refused`: one that another process obtained meanwhile, or a renewed one.
    pub(in crate::gateway) async fn renewed(&self, refused: &ReadyCredential) -> Result<Rc<ReadyCredential>, Failed> {
        let since = Instant::now();
        let _alone = self.gate.lock().await;
        self.unchanged_at.set(None);
        if let Some(ready) = self.current()
            && ready.credential.access_token != refused.credential.access_token
        {
            return Ok(ready);
        }
        let renewed = match (&self.edge, refused.generation) {
            (Some(edge), Some(generation)) => edge.renewed(generation).await.and_then(|found| self.keep(found)),
            _ => self.ask(since, Wanted::Other(Box::new(refused.credential.clone()))).await,
        };
        if renewed.is_ok() {
            self.renewed_at.set(Some(Instant::now()));
        }
        renewed
    }

    /// Whether `refused` is the current credential although a rejected one was renewed just before.
    pub(in crate::gateway) fn was_just_renewed(&self, refused: &ReadyCredential) -> bool {
        self.unchanged_at.set(None);
        is_within(RENEWED_FOR, self.renewed_at.get())
            && self.current().is_some_and(|ready| ready.credential.access_token == refused.credential.access_token)
    }

    /// Makes the next request read the file again.
    pub(in crate::gateway) fn forget(&self) {
        self.unchanged_at.set(None);
        self.cached.borrow_mut().take();
    }

    /// Whether a credential is available, or why not, for `/readyz`. Anyone may ask, so a failure is examined again
    /// only after [`RENEWAL_RETRY_AFTER`], or once another machine has published something.
    pub(in crate::gateway) async fn is_ready(&self) -> Result<(), &'static str> {
        let found = match self.failed.get() {
            Some((at, failure, version)) if at.elapsed() < RENEWAL_RETRY_AFTER && version == self.version() => {
                Err(failure)
            }
            _ => self.fresh().await.map(drop).map_err(|failed| failed.failure),
        };
        let found = found.map_err(|failure| self.trouble().map_or(failure.name(), NoToken::code));
        // Asked last: another credential in the file takes the place of the one that was rejected, and a gateway that is
        // not ready may get no request that would find it.
        if is_within(REFUSED_FOR, self.refused_at.get()) { Err("refused") } else { found }
    }

    /// The provider rejected the credential.
    pub(in crate::gateway) fn note_refused(&self) {
        self.refused_at.set(Some(Instant::now()));
    }

    /// The provider's last response was not about the credential.
    pub(in crate::gateway) fn note_accepted(&self) {
        self.refused_at.set(None);
        self.has_ended.set(false);
    }

    /// Renewed tokens are rejected as well. Returns whether that is news.
    pub(in crate::gateway) fn note_ended(&self) -> bool {
        !self.has_ended.replace(true)
    }

    fn version(&self) -> Option<Version> {
        Version::of(self.watched.as_deref()?).ok()
    }

    /// The cached credential, if it is still valid.
    fn current(&self) -> Option<Rc<ReadyCredential>> {
        let cached = self.cached.borrow();
        let (ready, now) = (cached.as_ref()?, SystemTime::now());
        let lasts = ready.good_until.is_none_or(|until| now < until);
        (lasts && self.is_unchanged(ready, now)).then(|| Rc::clone(ready))
    }

    /// Whether the file is that of `ready`, which is cached: see [`UNSEEN`].
    fn is_unchanged(&self, ready: &ReadyCredential, now: SystemTime) -> bool {
        if self.watched.is_none() {
            return true;
        }
        // A clock that was set back says nothing.
        let passed = self.unchanged_at.get().and_then(|at| now.duration_since(at).ok());
        if passed.is_some_and(|passed| passed < UNSEEN) {
            return true;
        }
        let is_unchanged = ready.stamp.is_some() && self.version() == ready.stamp;
        self.unchanged_at.set(is_unchanged.then_some(now));
        is_unchanged
    }

    async fn ask(&self, since: Instant, wanted: Wanted) -> Result<Rc<ReadyCredential>, Failed> {
        let version = self.version();
        let found = match &self.edge {
            Some(edge) => edge.fresh().await,
            None => self.ask_thread(since, wanted).await,
        };
        let found = found.and_then(|found| self.keep(found));
        self.failed.set(found.as_ref().err().map(|failed| (Instant::now(), failed.failure, version)));
        found
    }

    async fn ask_thread(&self, since: Instant, wanted: Wanted) -> Result<Found, Failed> {
        let over = || Failed::new(Failure::Temporary, "the gateway is shutting down");
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(over)?;
        jobs.send(Job { since, wanted, reply }).map_err(|_| over())?;
        answer.await.unwrap_or_else(|_| Err(over()))
    }

    fn keep(&self, found: Found) -> Result<Rc<ReadyCredential>, Failed> {
        let old = self.cached.borrow_mut().take();
        self.unchanged_at.set(None);
        let ready = Rc::new(ready(found, old.as_deref()).map_err(|error| failed(&error))?);
        if old.is_none_or(|old| old.credential.access_token != ready.credential.access_token) {
            self.refused_at.set(None);
        }
        *self.cached.borrow_mut() = Some(Rc::clone(&ready));
        Ok(ready)
    }
}

/// Whether no more than `time` has passed since `at`.
fn is_within(time: Duration, at: Option<Instant>) -> bool {
    at.is_some_and(|at| at.elapsed() < time)
}

impl Drop for CredentialCache {
    /// Waits for a running renewal, because cancelling it would lose the login.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The last key that a file held, in force while the file holds none.
#[derive(Default)]
struct LastKey {
    found: Option<(Credential, Provider, String)>,
    unusable_since: Option<Instant>,
    trouble: Trouble,
}

impl LastKey {
    /// What was found in the file, else the last key. The user is told once.
    fn unless(
        &mut self,
        found: Result<Found, Failed>,
        source: &CredentialSource,
        wanted: &Wanted,
    ) -> Result<Found, Failed> {
        match found {
            Ok(found) => {
                self.unusable_since = None;
                self.trouble.end();
                self.found = Some((found.credential.clone(), found.provider.clone(), found.base_url.clone()));
                Ok(found)
            }
            Err(failed) => {
                let (found, complaint) = self.instead(source, wanted, failed, Instant::now());
                if let Some(complaint) = complaint {
                    self.trouble.note(&complaint);
                }
                found
            }
        }
    }

    /// What is used because of `failed`, and what the user is told of it. A file that was removed is a logout, and a key
    /// that the API has rejected is not used again for the same request.
    fn instead(
        &mut self,
        source: &CredentialSource,
        wanted: &Wanted,
        failed: Failed,
        now: Instant,
    ) -> (Result<Found, Failed>, Option<String>) {
        let profile = &source.profile;
        let is_there = source.watched().is_some_and(Path::exists);
        let last = self.found.as_ref().filter(|_| is_there && matches!(wanted, Wanted::Lasting(_)));
        let Some((credential, provider, base_url)) = last.cloned() else {
            let complaint = format!("cannot use the key of profile `{profile}`: {failed}");
            return (Err(failed), Some(complaint));
        };
        let since = *self.unusable_since.get_or_insert(now);
        let is_lasting = now.duration_since(since) >= UNUSABLE_FOR;
        let complaint = is_lasting.then(|| format!("profile `{profile}` is still using its old key: {failed}"));
        let mark = ApiMark::of(source, &credential);
        // Without a version: the file is read again for the next request.
        (Ok(Found { credential, provider, base_url, stamp: None, mark, generation: None }), complaint)
    }
}

/// Runs on the thread.
fn find(source: &CredentialSource, wanted: &Wanted) -> Result<Found, Failed> {
    let find = || {
        let version = || source.watched().and_then(|path| Version::of(path).ok());
        let mut stamp = version();
        let credential = match wanted {
            Wanted::Lasting(lifetime) => fresh(source, Lifetime::Preferably(*lifetime))?,
            Wanted::Other(refused) => {
                source.note_refusal(refused);
                let current = source.require()?;
                if current.access_token == refused.access_token {
                    let renewed = renew(source, &current, Why::Refused)?;
                    stamp = None;
                    renewed
                } else {
                    fresh(source, Lifetime::Preferably(MARGIN))?
                }
            }
        };
        let provider = source.provider(&credential)?;
        let base_url = credential.base_url(&provider)?;
        // After a renewal, the version is that of the new file, if this process wrote it.
        let stamp = stamp.or_else(|| {
            let stamp = version();
            source.require().is_ok_and(|now| now.access_token == credential.access_token).then_some(stamp).flatten()
        });
        let mark = ApiMark::of(source, &credential);
        Ok(Found { credential, provider, base_url, stamp, mark, generation: None })
    };
    find().map_err(|error| failed(&error))
}

pub(in crate::gateway) fn failed(error: &anyhow::Error) -> Failed {
    Report::of(error).into()
}

fn ready(found: Found, old: Option<&ReadyCredential>) -> Result<ReadyCredential> {
    let Found { credential, provider, base_url, stamp, mark, generation } = found;
    let url = http::endpoint(&base_url)?;
    let unusable =
        |_| Failed::new(Failure::LoginRequired, "the stored token cannot be sent: it contains control characters");
    let authorization = http::bearer(&credential.access_token).map_err(unusable)?;
    let messages = Endpoint::of(&provider, &base_url, &credential.access_token).map_err(unusable)?;
    // Connections are kept across renewals.
    let origin = match old.filter(|old| old.origin.serves(&url)) {
        Some(old) => Rc::clone(&old.origin),
        None => Rc::new(Origin::new(&url).context("the base URL cannot be used")?),
    };
    let now = SystemTime::now();
    let good_until = credential.expires_at.map(|expires_at| good_until(expires_at, now));
    let base_path = url.path().trim_end_matches('/').to_owned();
    Ok(ReadyCredential {
        credential,
        provider,
        authorization,
        messages,
        origin,
        base_path,
        stamp,
        generation,
        mark,
        good_until,
        headers: RefCell::default(),
    })
}

/// Until when a token is used without a look for another: until it is due for renewal, or, once it is, until the next
/// attempt.
fn good_until(expires_at: SystemTime, now: SystemTime) -> SystemTime {
    let early = expires_at.checked_sub(MARGIN).filter(|early| *early > now);
    early.unwrap_or_else(|| expires_at.min(now + RENEWAL_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Network;
    use crate::paths::Paths;
    use crate::platform::disk;
    use crate::profile::ProfileName;
    use crate::providers::Overrides;

    #[test]
    fn a_rejected_credential_is_not_ready_for_a_while_and_then_tried_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let cache = CredentialCache::new(None, None);
        let is_ready = || runtime.block_on(cache.is_ready());
        cache.note_refused();
        assert_eq!(is_ready(), Err("refused"));
        cache.refused_at.set(Instant::now().checked_sub(REFUSED_FOR));
        // It is looked for again, and this cache is shutting down.
        assert_eq!(is_ready(), Err("temporary"));
        cache.note_refused();
        cache.note_accepted();
        assert_eq!(is_ready(), Err("temporary"));
    }

    fn write(path: &Path, text: &str) {
        let file = disk::create_new(path).or_else(|_| disk::open_to_write(path)).unwrap();
        file.set_len(0).unwrap();
        disk::write_all_at(&file, text.as_bytes(), 0).unwrap();
    }

    /// The profile `groq`, whose key is in a file.
    fn source(directory: &Path, file: &Path) -> CredentialSource {
        let overrides = Overrides::default();
        let [config, data, state] = ["config", "data", "state"].map(|name| directory.join(name));
        let paths = Paths { config, data, state, qwen: None };
        let profile = ProfileName::parse("groq").unwrap();
        let clock = SystemTime::now;
        let network = Network::default();
        let mut source = CredentialSource::new(&profile, &paths, overrides, network, clock, |_| None);
        source.given = Some(GivenKey::configured("groq", file.to_owned(), &source.overrides));
        source
    }

    #[test]
    fn the_last_key_stays_in_force_while_its_file_holds_none_and_ends_with_the_file() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        write(&file, "granted-first-key");
        let cache = CredentialCache::start(source(directory.path(), &file)).unwrap();
        let sent = || {
            let ready = runtime.block_on(cache.fresh()).map_err(|failed| failed.failure)?;
            Ok(ready.credential.access_token.expose().to_owned())
        };
        let first = || Ok("granted-first-key".to_owned());
        assert_eq!(sent(), first());
        for text in ["", "two words", "granted-\u{7f}-key"] {
            write(&file, text);
            assert_eq!(sent(), first(), "{text:?}");
            assert_eq!(runtime.block_on(cache.is_ready()), Ok(()), "{text:?}");
        }
        write(&file, "granted-second-key");
        assert_eq!(sent(), Ok("granted-second-key".to_owned()));
        disk::remove_file(&file).unwrap();
        assert_eq!(sent(), Err(Failure::LoginRequired));
    }

    #[test]
    fn an_unusable_key_is_complained_of_once_it_has_stayed_so_for_a_second() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        let source = source(directory.path(), &file);
        let wanted = Wanted::Lasting(MARGIN);
        let mut last = LastKey::default();
        let now = Instant::now();
        let complaint = |last: &mut LastKey, after: u64| {
            let failed = find(&source, &wanted).err().unwrap();
            last.instead(&source, &wanted, failed, now + Duration::from_millis(after)).1
        };
        write(&file, "");
        assert!(
            complaint(&mut last, 0).unwrap().starts_with("cannot use the key of profile `groq`: "),
            "there was none"
        );
        write(&file, "granted-key");
        assert!(last.unless(find(&source, &wanted), &source, &wanted).is_ok());
        write(&file, "");
        assert_eq!([0, 999].map(|after| complaint(&mut last, after)), [None, None], "it may be being replaced");
        assert!(complaint(&mut last, 1000).unwrap().starts_with("profile `groq` is still using its old key: "));
        // The API has rejected the last key: it is none for that request.
        let current = last.found.clone().unwrap().0;
        let failed = find(&source, &wanted).err().unwrap();
        assert!(last.instead(&source, &Wanted::Other(Box::new(current)), failed, now).0.is_err());
    }

    #[test]
    fn that_an_account_has_ended_is_news_once_until_it_serves_again() {
        let cache = CredentialCache::new(None, None);
        assert_eq!([cache.note_ended(), cache.note_ended()], [true, false]);
        cache.note_accepted();
        assert!(cache.note_ended());
    }

    #[test]
    fn a_token_is_used_until_it_is_due_and_then_until_the_next_attempt_or_its_end() {
        let now = SystemTime::now();
        let second = Duration::from_secs(1);
        for (left, used) in [
            (MARGIN + 2 * second, 2 * second),
            (MARGIN, RENEWAL_RETRY_AFTER),
            (MARGIN.saturating_sub(second), RENEWAL_RETRY_AFTER),
            (2 * second, 2 * second),
            (Duration::ZERO, Duration::ZERO),
        ] {
            assert_eq!(good_until(now + left, now), now + used, "{left:?}");
        }
    }
}
