//! The route of one request: credential, slot, attempt, classification; then a retry, another profile, or the response.
//!
//! Hazard: a repeated request may be billed or processed twice.
//! Rule: only 401, 429, 503 and failed connections are retried, before any byte has reached the client and while the
//! request's body is still available. Everything else is forwarded unchanged.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, HeaderMap};
use hyper::{Method, Request, Response, StatusCode};

use super::admission::shown_keys;
use super::answer::{DeferredResponse, InspectedResponse, Unserved, inspect};
use super::credential::ReadyCredential;
use super::fallback::{self, Reason};
use super::headers;
use super::pacing::{NoSlot, Waited};
use super::quota;
use super::refusal::{self, Refusal};
use super::request_body::{Broken, Reader, RequestBody};
use super::response_body::ResponseBody;
use super::retry::{MAX_ATTEMPTS, Next, backoff, next};
use super::served_account::ServedAccount;
use super::served_profile::ServedProfile;
use super::team::{Bill, Estimate, Team};
use super::traffic::Entry;
use super::upstream::{Answer, SendError, Upload};
use super::usage_record::UsageRecord;
use super::{Gateway, anthropic};
use crate::error::note;
use crate::keys::{KeyRecord, KeyText};
use crate::limits::Left;
use crate::providers::error::{Action, ApiError, Cause};
use crate::usage::KeyUser;

/// How long the body of a request that is rejected at once is read to find its model.
const MODEL_TIMEOUT: Duration = Duration::from_secs(1);

/// One request in flight, at one profile.
pub(super) struct ProxiedRequest<'gateway> {
    pub(super) gateway: &'gateway Gateway,
    pub(super) served: Rc<ServedProfile>,
    pub(super) method: Method,
    /// What follows `/v1`, with the query.
    pub(super) rest: String,
    /// As the client sent them.
    pub(super) headers: HeaderMap,
    pub(super) request_body: RequestBody,
    pub(super) record: UsageRecord,
    /// Whether another profile may serve it, and why it moved from the first one.
    pub(super) may_move: bool,
    pub(super) moved: Option<Reason>,
    /// The model of a request whose response has begun.
    pub(super) served_model: Option<String>,
    /// The key of a person or job, and what is left of its limits.
    pub(super) key: Option<Rc<KeyRecord>>,
    pub(super) shown: Option<KeyText>,
    pub(super) left: Option<Left>,
}

/// `rest`: what follows `/v1` in the path.
pub(super) async fn forward(
    gateway: &Gateway,
    served: Rc<ServedProfile>,
    request: Request<Incoming>,
    rest: String,
    key: Option<Rc<KeyRecord>>,
    mut entry: Entry,
) -> Response<ResponseBody> {
    entry.outcome.profile = Some(served.profile.clone());

    let (head, body) = request.into_parts();
    let options = &gateway.options;
    let length = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > options.max_body) {
        let response = refusal::too_long(options.max_body).into_response();
        entry.answered(response.status());
        return response;
    }
    let shown = key.as_ref().and_then(|key| Team::shown(key, shown_keys(&head.headers)));
    let request_body = RequestBody::new(body, options.replay_limit, options.max_body, &gateway.bodies);
    let mut record = UsageRecord::begin(Some(entry));
    record.user = key.as_ref().map(|key| Arc::new(KeyUser { key: key.id.clone(), owner: key.owner.clone() }));
    let rest = headers::clean_query(&rest).into_owned();
    let may_move = gateway.fallback.as_ref().is_some_and(|fallback| fallback.may_move(&served, &head.method, &rest));
    gateway.budget.borrow_mut().note_request();
    let mut proxied = ProxiedRequest {
        gateway,
        served,
        method: head.method,
        rest,
        headers: head.headers,
        request_body,
        record,
        may_move,
        moved: None,
        served_model: None,
        key,
        shown,
        left: None,
    };
    match proxied.serve().await {
        Ok(response) => {
            if let Some(fallback) = gateway.fallback.as_ref().filter(|_| response.status().is_success()) {
                fallback.note_served(&proxied);
            }
            response
        }
        Err(unserved) if unserved.reason.is_some() && proxied.may_move => {
            // Boxed, as all that is long and seldom needed: each request would have its space.
            Box::pin(fallback::serve_elsewhere(&mut proxied, unserved)).await
        }
        Err(unserved) => proxied.finish(unserved.deferred),
    }
}

impl ProxiedRequest<'_> {
    pub(super) async fn serve(&mut self) -> Result<Response<ResponseBody>, Unserved> {
        let mut ready = self.ready().await?;
        if ready.messages.is_none() && anthropic::speaks(&self.rest) {
            return Err(anthropic::missing(&ready.provider).into());
        }
        let account = self.account(&ready)?;
        let estimate = if self.key.is_some() { Box::pin(self.check_key()).await? } else { Estimate::default() };
        self.check_exhausted(&account, &ready).await?;
        let mut was_renewed = false;
        // Whether the limit was still reached after a wait.
        let mut has_waited = false;
        // A retry after a renewal does not count as an attempt.
        let mut attempts = 0;
        loop {
            let place = self.place(&account).await?;
            self.turn(&account, &ready, estimate).await?;
            place.keep();
            attempts += 1;
            let response = match self.send(&ready).await {
                Ok(response) => response,
                Err(SendError::NotSent(why)) => {
                    Box::pin(self.pause_or(attempts, &account, &ready, why)).await?;
                    continue;
                }
                Err(trouble) => return Err(self.lost(&ready, trouble).into()),
            };
            account.note_limits(response.headers());
            match response.status() {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if ready.is_renewable() || self.may_move => {
                    let inspected = Box::pin(inspect(response)).await;
                    let error = self.read(&ready, &inspected);
                    if error.cause == Cause::FreeTier {
                        return Err(self.exhausted(&account, &ready, error, inspected, attempts));
                    }
                    if error.cause != Cause::Credential || !ready.is_renewable() {
                        self.note_account(&ready, &inspected, &error);
                        return self.give(&ready, inspected, error, attempts);
                    }
                    self.served.cache.note_refused(true);
                    if was_renewed {
                        self.note_account(&ready, &inspected, &error);
                        return Err(refusal::ended(&ready, &error.message).into());
                    }
                    if !self.request_body.can_be_read_again() {
                        return self.give(&ready, inspected, error, attempts);
                    }
                    drop(inspected);
                    ready = Box::pin(self.renewed(&ready)).await?;
                    was_renewed = true;
                    attempts -= 1;
                }
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                    let inspected = Box::pin(inspect(response)).await;
                    if let Some(response) =
                        Box::pin(self.wait_or_stop(&account, &ready, inspected, attempts, &mut has_waited)).await?
                    {
                        return Ok(response);
                    }
                }
                status if status.is_server_error() && (self.may_move || self.moved.is_some()) => {
                    let inspected = Box::pin(inspect(response)).await;
                    let error = self.read(&ready, &inspected);
                    return Err(self.failing(&account, error, inspected, attempts));
                }
                status if is_rejection(status) => {
                    let inspected = Box::pin(inspect(response)).await;
                    let error = self.read(&ready, &inspected);
                    self.note_account(&ready, &inspected, &error);
                    return self.give(&ready, inspected, error, attempts);
                }
                // Some services report an unpaid account with this status.
                StatusCode::BAD_REQUEST => {
                    let inspected = Box::pin(inspect(response)).await;
                    let error = self.read(&ready, &inspected);
                    self.note_account(&ready, &inspected, &error);
                    return Ok(self.pass_inspected(&ready, inspected)?);
                }
                status => {
                    self.served.cache.note_refused(false);
                    if status.is_success() {
                        ready.mark.served();
                        account.served(self.record.model.as_deref());
                    }
                    return Ok(self.pass(&ready, response).await?);
                }
            }
        }
    }

    async fn ready(&self) -> Result<Rc<ReadyCredential>, Unserved> {
        let ready = self.request_body.while_reading(self.served.ready()).await;
        ready.map_err(|failed| refusal::not_ready(&failed).coded(self.served.cache.trouble()).into())
    }

    async fn renewed(&self, refused: &ReadyCredential) -> Result<Rc<ReadyCredential>, Unserved> {
        log::info!("`{}` refused the token: it is renewed, unless it was meanwhile", self.served.profile);
        let renewed = self.request_body.while_reading(self.served.renewed(refused)).await;
        renewed.map_err(|failed| refusal::not_ready(&failed).coded(self.served.cache.trouble()).into())
    }

    fn account(&mut self, ready: &Rc<ReadyCredential>) -> Result<Rc<ServedAccount>, Refusal> {
        let account = self.served.account(ready).map_err(|failed| refusal::not_ready(&failed))?;
        self.record.belongs_to(&account);
        if let Some(entry) = self.record.entry.as_mut().filter(|entry| entry.is_read()) {
            entry.outcome.server = ready.origin.host.to_str().ok().map(str::to_owned);
        }
        Ok(account)
    }

    /// Finds the model in the part of the request's body that has arrived.
    pub(super) fn note_model(&mut self) {
        if self.record.model.is_none() {
            self.record.model = self.request_body.model();
        }
    }

    /// The same for a request that is not sent, so that its model is in the ledger.
    pub(super) async fn await_model(&mut self) {
        if self.record.model.is_none() {
            let _ = tokio::time::timeout(MODEL_TIMEOUT, self.request_body.keep_all()).await;
            self.note_model();
        }
    }

    /// Rejects a request whose limit the server has reported as reached.
    async fn check_exhausted(&mut self, account: &ServedAccount, ready: &ReadyCredential) -> Result<(), Unserved> {
        self.request_body.keep_arrived().await;
        self.note_model();
        if !account.has_exhausted() {
            return Ok(());
        }
        if self.record.model.is_none() && account.depends_on_model() && self.request_body.keep_all().await {
            self.note_model();
        }
        let is_one_of_several = self.may_move || self.moved.is_some();
        let counts = |cause: Cause| match cause {
            // These end with a payment, so each request may try, unless another profile serves it.
            Cause::FreeTier | Cause::Outage => is_one_of_several,
            Cause::Unpaid => false,
            _ => true,
        };
        let model = self.record.model.clone();
        let Some(entry) = account.exhausted(model.as_deref(), counts) else { return Ok(()) };
        self.await_model().await;
        self.record.reason = Some(entry.cause.sentence());
        let refusal = refusal::exhausted(&self.served.profile, &ready.provider.title, &entry, "");
        Err(Unserved::movable(DeferredResponse::Own(refusal), Reason::of(entry.cause), entry.id()))
    }

    /// Waits for a slot within the provider's limits.
    async fn turn(
        &mut self,
        account: &Rc<ServedAccount>,
        ready: &ReadyCredential,
        estimate: Estimate,
    ) -> Result<(), Unserved> {
        if self.key.is_some() {
            return Box::pin(self.keyed_turn(account, ready, estimate)).await;
        }
        if !self.gateway.options.is_counting(&ready.provider) {
            return Ok(());
        }
        let since = tokio::time::Instant::now();
        let turn = self.request_body.while_reading(account.pacing.turn()).await;
        if turn == Ok(Waited::Yes) {
            self.record.waited += since.elapsed();
            self.record.reason = Some("the limit of requests is kept to");
        }
        self.check_upload()?;
        if turn.is_err() {
            self.await_model().await;
        }
        turn.map(drop).map_err(|no_slot| {
            self.record.reason = Some("the limit of requests is kept to");
            let (reason, occurrence) = match no_slot {
                NoSlot::OverQuota(used_up) => quota::moves(used_up),
                NoSlot::DayOver { .. } => (Some(Reason::Day), account.pacing.occurrence_of_day()),
                NoSlot::TooLong(_) | NoSlot::Unavailable => (None, String::new()),
            };
            let deferred = DeferredResponse::Own(refusal::no_slot(&self.served.profile, no_slot));
            Unserved::movable(deferred, reason, occurrence)
        })
    }

    pub(super) fn check_upload(&self) -> Result<(), Refusal> {
        match self.request_body.broken() {
            Some(Broken::TooLong) => Err(refusal::too_long(self.gateway.options.max_body)),
            _ => Ok(()),
        }
    }

    async fn send(&mut self, ready: &ReadyCredential) -> Result<Answer, SendError> {
        let Some(reader) = self.request_body.reader() else {
            return Err(SendError::Client("the request cannot be sent again".into()));
        };
        let upload = self.upload(ready, reader).ok_or_else(|| SendError::NotSent("the path is invalid".into()))?;
        self.record.note_try();
        let limit = self.gateway.options.timeout;
        let since = Instant::now();
        let sent = tokio::time::timeout(limit, self.gateway.upstream.send(&ready.origin, upload));
        let sent = self.request_body.while_reading(sent).await.unwrap_or(Err(SendError::Silent(limit)));
        self.log_attempt(ready, &sent, since);
        if let Some(grant) = &mut self.record.grant {
            grant.was_sent |= !matches!(sent, Err(SendError::NotSent(_)));
            let may_be_billed = matches!(sent, Err(SendError::Silent(_) | SendError::Lost(_)));
            grant.bill = if may_be_billed { Bill::Estimate } else { Bill::Nothing };
        }
        sent
    }

    fn log_attempt(&self, ready: &ReadyCredential, sent: &Result<Answer, SendError>, since: Instant) {
        if !log::log_enabled!(log::Level::Debug) {
            return;
        }
        let outcome = match sent {
            Ok(response) => response.status().as_u16().to_string(),
            Err(trouble) => format!("{trouble:?}"),
        };
        let (method, host) = (&self.method, ready.origin.host.to_str().unwrap_or_default());
        let path = self.rest.split('?').next().unwrap_or_default();
        log::debug!(
            "{method} {host}{}{path} for `{}`: {outcome}, {} ms",
            ready.base_path,
            self.served.profile,
            since.elapsed().as_millis()
        );
    }

    fn upload(&self, ready: &ReadyCredential, reader: Reader) -> Option<Upload> {
        let messages = ready.messages.as_ref().filter(|_| anthropic::speaks(&self.rest));
        let base_path = messages.map_or(ready.base_path.as_str(), |endpoint| &endpoint.base_path);
        let mut headers = headers::clean_request(&self.headers);
        headers::address(&mut headers, ready, messages);
        Upload::new(self.method.clone(), &[base_path, self.rest.as_str()].concat(), &headers, reader)
    }

    /// Whether another attempt is allowed.
    fn may_repeat(&self, attempts: u32) -> bool {
        attempts < MAX_ATTEMPTS
            && self.request_body.can_be_read_again()
            && self.gateway.budget.borrow_mut().take_repetition()
    }

    /// Waits before another attempt if the provider cannot be reached, or gives up.
    async fn pause_or(
        &mut self,
        attempts: u32,
        account: &ServedAccount,
        ready: &ReadyCredential,
        why: String,
    ) -> Result<(), Unserved> {
        self.check_upload()?;
        if self.may_repeat(attempts) {
            self.wait(backoff(attempts), "the provider cannot be reached").await;
            return Ok(());
        }
        self.record.reason = Some("the provider cannot be reached");
        self.note_model();
        let note_outage = || account.note_outage(self.record.model.as_deref(), &why).id();
        let occurrence = self.may_move.then(note_outage).unwrap_or_default();
        let deferred = DeferredResponse::Own(refusal::trouble(ready, SendError::NotSent(why)));
        Err(Unserved::movable(deferred, Some(Reason::Outage), occurrence))
    }

    async fn wait(&mut self, wait: Duration, reason: &'static str) {
        self.request_body.while_reading(tokio::time::sleep(wait)).await;
        self.record.waited += wait;
        self.record.reason = Some(reason);
    }

    fn read(&mut self, ready: &ReadyCredential, inspected: &InspectedResponse) -> ApiError {
        self.note_model();
        inspected.error(self.record.model.as_deref(), ready)
    }

    /// Records whether the provider rejected this credential or its account. A rejected key may become valid again at the
    /// provider, and an account may be paid.
    fn note_account(&self, ready: &ReadyCredential, inspected: &InspectedResponse, error: &ApiError) {
        let status = inspected.status();
        let what = match error.cause {
            Cause::Unpaid => error.cause.sentence().to_owned(),
            Cause::Credential => format!("it answered {}", status.as_u16()),
            _ if status == StatusCode::UNAUTHORIZED => format!("it answered {}", status.as_u16()),
            _ => return self.served.cache.note_refused(false),
        };
        self.served.cache.note_refused(true);
        let said = if error.message.is_empty() { String::new() } else { format!(": {}", error.message) };
        ready.mark.refused_unless_known(&format!("{what}{said}"));
    }

    /// Waits and returns `None`, or returns the response for the client.
    async fn wait_or_stop(
        &mut self,
        account: &Rc<ServedAccount>,
        ready: &ReadyCredential,
        inspected: InspectedResponse,
        attempts: u32,
        has_waited: &mut bool,
    ) -> Result<Option<Response<ResponseBody>>, Unserved> {
        let status = inspected.status().as_u16();
        if status == 429 {
            self.record.note_rate_limited();
        }
        let error = self.read(ready, &inspected);
        let model = self.record.model.clone();
        let in_vain = *has_waited || account.was_in_vain(&error, model.as_deref());
        let next = next(&error, status, attempts, in_vain, self.gateway.options.max_wait);
        log::info!("`{}` answered {status}: {}; {next:?}", self.served.profile, error.cause.sentence());
        self.record.reason = Some(error.cause.sentence());
        match next {
            Next::After(wait) if self.may_repeat(attempts) => {
                drop(inspected);
                // The server did not state a backoff.
                *has_waited |= error.action(self.gateway.options.max_wait) != Action::Backoff;
                if wait > Duration::from_secs(2) {
                    let text = format!(
                        "a request waits {} s for `{}`: {}",
                        wait.as_secs(),
                        self.served.profile,
                        error.cause.sentence()
                    );
                    account.pacing.say(&text);
                }
                self.wait(wait, error.cause.sentence()).await;
                return Ok(None);
            }
            Next::Stop => return Err(self.exhausted(account, ready, error, inspected, attempts)),
            Next::Exhausted => drop(account.note_exhausted(&error, model.as_deref())),
            Next::After(_) if status != 429 && self.may_move => {
                return Err(self.failing(account, error, inspected, attempts));
            }
            Next::After(_) | Next::Forward => {}
        }
        self.give(ready, inspected, error, attempts).map(Some)
    }

    /// Forwards an error response, unless the request moved here from a profile whose response takes precedence.
    fn give(
        &mut self,
        ready: &ReadyCredential,
        inspected: InspectedResponse,
        error: ApiError,
        attempts: u32,
    ) -> Result<Response<ResponseBody>, Unserved> {
        if self.moved.is_some() {
            let deferred =
                DeferredResponse::Provider { inspected: Box::new(inspected), error: Box::new(error), attempts };
            return Err(Unserved::movable(deferred, None, String::new()));
        }
        let is_limit = matches!(inspected.status().as_u16(), 429 | 503);
        let mut response = self.pass_inspected(ready, inspected)?;
        if is_limit {
            refusal::settle_retry_after(response.headers_mut(), attempts);
        }
        Ok(response)
    }

    /// Handles a reached limit or an account that has ended.
    fn exhausted(
        &mut self,
        account: &ServedAccount,
        ready: &ReadyCredential,
        error: ApiError,
        inspected: InspectedResponse,
        attempts: u32,
    ) -> Unserved {
        let model = self.record.model.clone();
        let (entry, is_news) = account.note_exhausted(&error, model.as_deref());
        let refusal = refusal::exhausted(&self.served.profile, &ready.provider.title, &entry, &error.message);
        if is_news {
            note(&refusal.message);
        }
        let reason = Reason::of(error.cause);
        let is_limit = inspected.status() == StatusCode::TOO_MANY_REQUESTS;
        let deferred = if is_limit {
            DeferredResponse::Own(refusal)
        } else {
            DeferredResponse::Provider { inspected: Box::new(inspected), error: Box::new(error), attempts }
        };
        Unserved::movable(deferred, reason, entry.id())
    }

    /// Handles a server error.
    fn failing(
        &mut self,
        account: &ServedAccount,
        error: ApiError,
        inspected: InspectedResponse,
        attempts: u32,
    ) -> Unserved {
        let why = format!("it answered {}", inspected.status().as_u16());
        let occurrence = account.note_outage(self.record.model.as_deref(), &why).id();
        let deferred = DeferredResponse::Provider { inspected: Box::new(inspected), error: Box::new(error), attempts };
        Unserved::movable(deferred, Some(Reason::Error), occurrence)
    }

    /// Handles a connection that ended before a response.
    pub(super) fn lost(&self, ready: &ReadyCredential, trouble: SendError) -> Refusal {
        if let Err(refusal) = self.check_upload() {
            return refusal;
        }
        refusal::trouble(ready, trouble)
    }
}

/// Whether an error is about the profile rather than about the request.
fn is_rejection(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 402 | 403 | 429)
}
