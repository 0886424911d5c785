//! A cache in front of the stored credential: `Account::fresh` and `renew`, asked without holding up a request.
//!
//! Hazard: the file may change between any two requests (a renewal by another process, a login, a logout), and asking
//! means locks, disk and network.
//! Rule: what was read last is used as long as the file is the same by its metadata and the token lasts; anything else
//! goes to a thread of its own, once for all requests that wait, and is never cut short.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use hyper::header::{HeaderName, HeaderValue};
use tokio::sync::{Mutex, oneshot};

use super::anthropic::Endpoint;
use super::upstream::Origin;
use crate::credentials::{Account, ApiMark, Credential, Lifetime, MARGIN, Why, renew};
use crate::error::{Failed, Failure, Report};
use crate::http;
use crate::platform::disk::Version;
use crate::providers::Provider;

/// A token that could not be renewed but still lives is used for so long before a renewal is tried again.
const RENEWAL_RETRY_AFTER: Duration = Duration::from_secs(5);

/// What the thread brings.
struct Found {
    credential: Credential,
    provider: Provider,
    base_url: String,
    stamp: Option<Version>,
    mark: ApiMark,
}

/// A credential with all that a request needs of it.
pub(super) struct ReadyCredential {
    pub(super) credential: Credential,
    pub(super) provider: Provider,
    pub(super) authorization: HeaderValue,
    /// Where Anthropic's protocol is spoken, on the same origin.
    pub(super) messages: Option<Endpoint>,
    pub(super) origin: Rc<Origin>,
    /// The path of the base URL; `/v1` of the client's path is replaced by it.
    pub(super) base_path: String,
    stamp: Option<Version>,
    /// Where it is noted whether the API serves the credential.
    pub(super) mark: ApiMark,
    /// `None`: until the file changes.
    good_until: Option<SystemTime>,
    /// The provider's headers for the `User-Agent` that was sent last.
    headers: RefCell<Option<(HeaderValue, Headers)>>,
}

pub(super) type Headers = Rc<Vec<(HeaderName, HeaderValue)>>;

impl ReadyCredential {
    /// The provider's own headers, for a request of this `User-Agent`.
    pub(super) fn headers(&self, user_agent: &HeaderValue) -> Headers {
        if let Some((known, headers)) = &*self.headers.borrow()
            && known == user_agent
        {
            return Rc::clone(headers);
        }
        let text = user_agent.to_str().unwrap_or_default();
        let valid = |(name, value): (String, String)| {
            Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
        };
        let headers = Rc::new(self.provider.headers(text).into_iter().filter_map(valid).collect::<Vec<_>>());
        *self.headers.borrow_mut() = Some((user_agent.clone(), Rc::clone(&headers)));
        headers
    }

    /// Whether a refused token may be replaced by a new one.
    pub(super) fn is_renewable(&self) -> bool {
        let credential = &self.credential;
        credential.identity.is_some()
            || credential.command.is_some()
            || self.provider.oauth().is_some() && credential.refresh_token.is_some()
    }
}

struct Job {
    /// When the request that asks began to wait.
    since: Instant,
    /// A credential whose token the API refused.
    refused: Option<Box<Credential>>,
    reply: oneshot::Sender<Result<Found, Failed>>,
}

/// One profile's credential.
pub(super) struct CredentialCache {
    /// The file whose change is another credential.
    watched: Option<PathBuf>,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    cached: RefCell<Option<Rc<ReadyCredential>>>,
    gate: Mutex<()>,
    /// When none could be found last, why, and in which version of the file.
    failed: Cell<Option<(Instant, Failure, Option<Version>)>>,
    /// Whether the provider refused the credential that was sent last.
    is_refused: Cell<bool>,
}

impl CredentialCache {
    pub(super) fn start(account: Account) -> Result<Self> {
        let watched = account.watched().map(Path::to_owned);
        let (jobs, queue) = mpsc::channel();
        let work = move || {
            let mut failure: Option<(Instant, Failed)> = None;
            for Job { since, refused, reply } in queue {
                // Whoever waited while it failed shares the failure instead of asking in turn.
                let found = match &failure {
                    Some((at, failed)) if since < *at => Err(failed.clone()),
                    _ => {
                        let found = find(&account, refused.as_deref());
                        failure = found.as_ref().err().map(|failed| (Instant::now(), failed.clone()));
                        found
                    }
                };
                // Whoever asked may have left; what was renewed for them is in the file.
                drop(reply.send(found));
            }
        };
        let thread = std::thread::Builder::new().name("credential".to_owned()).spawn(work)?;
        Ok(Self {
            watched,
            jobs: Some(jobs),
            thread: Some(thread),
            cached: RefCell::default(),
            gate: Mutex::new(()),
            failed: Cell::new(None),
            is_refused: Cell::new(false),
        })
    }

    /// The credential as the file has it now, renewed if it must be.
    pub(super) async fn fresh(&self) -> Result<Rc<ReadyCredential>, Failed> {
        if let Some(ready) = self.current() {
            return Ok(ready);
        }
        let since = Instant::now();
        let _alone = self.gate.lock().await;
        if let Some(ready) = self.current() {
            return Ok(ready);
        }
        self.ask(since, None).await
    }

    /// Another credential than `refused`: the one that somebody else got meanwhile, or a new one.
    pub(super) async fn renewed(&self, refused: &ReadyCredential) -> Result<Rc<ReadyCredential>, Failed> {
        let since = Instant::now();
        let _alone = self.gate.lock().await;
        if let Some(ready) = self.current()
            && ready.credential.access_token != refused.credential.access_token
        {
            return Ok(ready);
        }
        self.ask(since, Some(Box::new(refused.credential.clone()))).await
    }

    /// The next request reads the file again.
    pub(super) fn forget(&self) {
        self.cached.borrow_mut().take();
    }

    /// Whether a credential is available, or why not: what `/readyz` says. Asked by anybody, so a failure is looked into
    /// again only after [`RENEWAL_RETRY_AFTER`].
    pub(super) async fn is_ready(&self) -> Result<(), &'static str> {
        if self.is_refused.get() {
            return Err("refused");
        }
        if let Some((at, failure, version)) = self.failed.get()
            && at.elapsed() < RENEWAL_RETRY_AFTER
            && version == self.version()
        {
            return Err(failure.name());
        }
        self.fresh().await.map(drop).map_err(|failed| failed.failure.name())
    }

    /// What the provider said last of the credential itself.
    pub(super) fn note_refused(&self, is_refused: bool) {
        self.is_refused.set(is_refused);
    }

    fn version(&self) -> Option<Version> {
        Version::of(self.watched.as_deref()?).ok()
    }

    /// What was read last, if it still holds.
    fn current(&self) -> Option<Rc<ReadyCredential>> {
        let cached = self.cached.borrow();
        let ready = cached.as_ref()?;
        let lasts = ready.good_until.is_none_or(|until| SystemTime::now() < until);
        let is_unchanged = self.watched.is_none() || ready.stamp.is_some() && self.version() == ready.stamp;
        (lasts && is_unchanged).then(|| Rc::clone(ready))
    }

    async fn ask(&self, since: Instant, refused: Option<Box<Credential>>) -> Result<Rc<ReadyCredential>, Failed> {
        let over = || Failed::new(Failure::Temporary, "the gateway is ending");
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(over)?;
        jobs.send(Job { since, refused, reply }).map_err(|_| over())?;
        let version = self.version();
        let found = answer.await.unwrap_or_else(|_| Err(over())).and_then(|found| self.keep(found));
        self.failed.set(found.as_ref().err().map(|failed| (Instant::now(), failed.failure, version)));
        found
    }

    fn keep(&self, found: Found) -> Result<Rc<ReadyCredential>, Failed> {
        let old = self.cached.borrow_mut().take();
        let ready = Rc::new(ready(found, old.as_deref()).map_err(|error| failed(&error))?);
        if old.is_none_or(|old| old.credential.access_token != ready.credential.access_token) {
            self.is_refused.set(false);
        }
        *self.cached.borrow_mut() = Some(Rc::clone(&ready));
        Ok(ready)
    }
}

impl Drop for CredentialCache {
    /// Waits for a renewal under way: cut short, it would lose the login.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// On the thread. `refused`: a credential whose token the API refused.
fn find(account: &Account, refused: Option<&Credential>) -> Result<Found, Failed> {
    let find = || {
        let version = || account.watched().and_then(|path| Version::of(path).ok());
        let mut stamp = version();
        let credential = match refused {
            None => account.fresh(Lifetime::Preferably(MARGIN))?,
            Some(refused) => {
                account.note_refusal(refused);
                let current = account.require()?;
                if current.access_token == refused.access_token {
                    let renewed = renew(account, &current, Why::Refused)?;
                    stamp = None;
                    renewed
                } else {
                    account.fresh(Lifetime::Preferably(MARGIN))?
                }
            }
        };
        let provider = account.provider(&credential)?;
        let base_url = credential.base_url(&provider)?;
        // After a renewal the stamp is that of the new file, if it is still this process's.
        let stamp = stamp.or_else(|| {
            let stamp = version();
            account.require().is_ok_and(|now| now.access_token == credential.access_token).then_some(stamp).flatten()
        });
        let mark = ApiMark::of(account, &credential);
        Ok(Found { credential, provider, base_url, stamp, mark })
    };
    find().map_err(|error| failed(&error))
}

fn failed(error: &anyhow::Error) -> Failed {
    let report = Report::of(error);
    Failed { failure: report.failure, message: report.message, hint: report.hint }
}

fn ready(found: Found, old: Option<&ReadyCredential>) -> Result<ReadyCredential> {
    let Found { credential, provider, base_url, stamp, mark } = found;
    let url = http::endpoint(&base_url)?;
    let unusable =
        |_| Failed::new(Failure::LoginRequired, "the stored token cannot be sent: it has control characters");
    let authorization = http::bearer(&credential.access_token).map_err(unusable)?;
    let messages = Endpoint::of(&provider, &base_url, &credential.access_token).map_err(unusable)?;
    // Connections are kept over renewals.
    let origin = match old.filter(|old| old.origin.serves(&url)) {
        Some(old) => Rc::clone(&old.origin),
        None => Rc::new(Origin::new(&url).context("the base URL cannot be used")?),
    };
    let now = SystemTime::now();
    let good_until = credential.expires_at.map(|expires_at| {
        let early = expires_at.checked_sub(MARGIN).filter(|early| *early > now);
        early.unwrap_or_else(|| expires_at.min(now + RENEWAL_RETRY_AFTER))
    });
    let base_path = url.path().trim_end_matches('/').to_owned();
    Ok(ReadyCredential {
        credential,
        provider,
        authorization,
        messages,
        origin,
        base_path,
        stamp,
        mark,
        good_until,
        headers: RefCell::default(),
    })
}
