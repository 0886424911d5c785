//! The route of one request: credential, slot, attempt, classification, and again, to another profile or down to the client.
//!
//! Hazard: a repeated request may be paid for twice, or acted upon twice.
//! Rule: only 401, 429, 503 and connections that never came about are tried again, before any byte went to the client
//! and while the body is still there; everything else passes as it is.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};

use super::credential::ReadyCredential;
use super::fallback::{self, Reason};
use super::headers;
use super::meter::{Meter, RequestModel};
use super::pacing::{NoSlot, Waited};
use super::refusal::{self, Refusal};
use super::request_body::{Broken, Reader, RequestBody};
use super::response_body::{ForwardedBody, ResponseBody};
use super::retry::{MAX_ATTEMPTS, Next, backoff, next};
use super::served_profile::{ServedAccount, ServedProfile, UsageRecord};
use super::team::{self, Bill, Estimate};
use super::traffic::Entry;
use super::upstream::{LeasedConnection, SendError, innermost};
use super::{Gateway, anthropic};
use crate::compression;
use crate::error::note;
use crate::keys::KeyRecord;
use crate::limits::Left;
use crate::providers::error::{Action, ApiError, Cause, Response as ErrorResponse};
use crate::usage::KeyUser;

/// An error's body is read this far to understand it, for at most [`ERROR_BODY_TIMEOUT`].
const MAX_ERROR_SIZE: usize = 64 * 1024;
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The same once it is decompressed.
const MAX_DECOMPRESSED_ERROR_SIZE: u64 = 1024 * 1024;

/// How long the head of an event stream waits for its first event: a stream that fails at once can still be a 502, and
/// a client need not wait long to see that there is a stream.
const FIRST_EVENT_TIMEOUT: Duration = Duration::from_millis(250);

/// How long a request that is refused at once is read on, to know its model.
const MODEL_TIMEOUT: Duration = Duration::from_secs(1);

const WAIT_MS: HeaderName = HeaderName::from_static("x-qwenauth-wait-ms");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-qwenauth-attempts");
const PROFILE: HeaderName = HeaderName::from_static("x-qwenauth-profile");
const FALLBACK: HeaderName = HeaderName::from_static("x-qwenauth-fallback");

/// One request in flight, at one profile.
pub(super) struct ProxiedRequest<'gateway> {
    pub(super) gateway: &'gateway Gateway,
    pub(super) served: Rc<ServedProfile>,
    pub(super) method: Method,
    /// What follows `/v1`, with the query.
    pub(super) rest: String,
    pub(super) headers: HeaderMap,
    pub(super) request_body: RequestBody,
    pub(super) record: UsageRecord,
    /// Whether another profile may serve it, and why this one is not the first.
    pub(super) may_move: bool,
    pub(super) moved: Option<Reason>,
    /// The model of a request whose response began.
    served_model: Option<String>,
    /// The key of a person or job, and what its limits leave.
    pub(super) key: Option<Rc<KeyRecord>>,
    pub(super) left: Option<Left>,
}

impl InspectedResponse {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }
}

/// A response whose body was read as far as it is needed.
pub(super) struct InspectedResponse {
    response: Response<Incoming>,
    leased: LeasedConnection,
    /// What was read of it, or all of it.
    first: Bytes,
    /// Why there is no more, if it broke off.
    broken: Option<String>,
}

/// What the client gets if no other profile serves the request.
pub(super) enum DeferredResponse {
    Own(Refusal),
    Provider { inspected: Box<InspectedResponse>, error: Box<ApiError>, attempts: u32 },
}

/// A request that a profile did not serve.
pub(super) struct Unserved {
    pub(super) deferred: DeferredResponse,
    /// Why another profile may serve it.
    pub(super) reason: Option<Reason>,
    /// Tells what began it from earlier occurrences.
    pub(super) occurrence: String,
}

impl From<Refusal> for Unserved {
    fn from(refusal: Refusal) -> Self {
        Self { deferred: DeferredResponse::Own(refusal), reason: None, occurrence: String::new() }
    }
}

impl Unserved {
    pub(super) fn movable(deferred: DeferredResponse, reason: Option<Reason>, occurrence: String) -> Self {
        Self { deferred, reason, occurrence }
    }
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

    let (mut head, body) = request.into_parts();
    let options = &gateway.options;
    let length = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > options.max_body) {
        let response = refusal::too_long(options.max_body).into_response();
        entry.answered(response.status());
        return response;
    }
    headers::clean_request(&mut head.headers);
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
            fallback::serve_elsewhere(&mut proxied, unserved).await
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
        let estimate = self.check_key().await?;
        self.check_exhausted(&account, &ready).await?;
        let mut was_renewed = false;
        // A wait for this limit did not help.
        let mut has_waited = false;
        // Renewals have an attempt of their own.
        let mut attempts = 0;
        loop {
            let place = self.place(&account).await?;
            self.turn(&account, &ready, estimate).await?;
            place.keep();
            attempts += 1;
            let (response, leased) = match self.send(&ready).await {
                Ok(answered) => answered,
                Err(SendError::NotSent(why)) => {
                    self.pause_or(attempts, &account, &ready, why).await?;
                    continue;
                }
                Err(trouble) => return Err(self.lost(&ready, trouble).into()),
            };
            account.note_limits(response.headers());
            match response.status() {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if ready.is_renewable() || self.may_move => {
                    let inspected = inspect(response, leased).await;
                    let error = self.read(&ready, &inspected);
                    if error.cause == Cause::FreeTier {
                        return Err(self.exhausted(&account, &ready, error, inspected, attempts));
                    }
                    if error.cause != Cause::Credential || !ready.is_renewable() {
                        return self.give(&ready, inspected, error, attempts);
                    }
                    self.served.cache.note_refused(true);
                    if was_renewed {
                        ready.mark.refused(&format!("it answered 401: {}", error.message));
                        return Err(refusal::ended(&ready, &error.message).into());
                    }
                    if !self.request_body.can_be_read_again() {
                        return self.give(&ready, inspected, error, attempts);
                    }
                    drop(inspected);
                    ready = self.renewed(&ready).await?;
                    was_renewed = true;
                    attempts -= 1;
                }
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                    let inspected = inspect(response, leased).await;
                    if let Some(response) =
                        self.wait_or_stop(&account, &ready, inspected, attempts, &mut has_waited).await?
                    {
                        return Ok(response);
                    }
                }
                status if status.is_server_error() && (self.may_move || self.moved.is_some()) => {
                    let inspected = inspect(response, leased).await;
                    let error = self.read(&ready, &inspected);
                    return Err(self.failing(&account, error, inspected, attempts));
                }
                status if is_rejection(status) && self.moved.is_some() => {
                    let inspected = inspect(response, leased).await;
                    let error = self.read(&ready, &inspected);
                    return self.give(&ready, inspected, error, attempts);
                }
                status => {
                    // A key that is refused may be put right where it was made.
                    self.served.cache.note_refused(status == StatusCode::UNAUTHORIZED);
                    if status == StatusCode::UNAUTHORIZED {
                        ready.mark.refused("it answered 401");
                    }
                    if status.is_success() {
                        ready.mark.served();
                        let model = self.record.model.clone();
                        account.served(model.as_deref());
                    }
                    return Ok(self.pass(&ready, response, leased).await?);
                }
            }
        }
    }

    async fn ready(&self) -> Result<Rc<ReadyCredential>, Unserved> {
        let ready = self.request_body.while_reading(self.served.ready()).await;
        ready.map_err(|failed| refusal::not_ready(&failed).into())
    }

    async fn renewed(&self, refused: &ReadyCredential) -> Result<Rc<ReadyCredential>, Unserved> {
        log::info!("`{}` refused the token: it is renewed, unless it was meanwhile", self.served.profile);
        let renewed = self.request_body.while_reading(self.served.renewed(refused)).await;
        renewed.map_err(|failed| refusal::not_ready(&failed).into())
    }

    fn account(&mut self, ready: &ReadyCredential) -> Result<Rc<ServedAccount>, Refusal> {
        let account = self.served.account(ready).map_err(|failed| refusal::not_ready(&failed))?;
        self.record.belongs_to(&account);
        if let Some(entry) = &mut self.record.entry {
            entry.outcome.server = ready.origin.host.to_str().ok().map(str::to_owned);
        }
        Ok(account)
    }

    /// The model that the request names, as far as its body is there.
    pub(super) fn note_model(&mut self) {
        if self.record.model.is_none() {
            let mut body = self.request_body.kept();
            if body.is_empty() {
                body.extend(self.request_body.first());
            }
            self.record.model = RequestModel::find(&body).map(|model| model.name);
        }
    }

    /// The same for a request that is not sent: its model stands in the ledger all the same.
    pub(super) async fn await_model(&mut self) {
        if self.record.model.is_none() {
            let _ = tokio::time::timeout(MODEL_TIMEOUT, self.request_body.keep_all()).await;
            self.note_model();
        }
    }

    /// Stops a request for which the server has reported the limit as used up.
    async fn check_exhausted(&mut self, account: &ServedAccount, ready: &ReadyCredential) -> Result<(), Unserved> {
        self.note_model();
        if self.record.model.is_none() && account.depends_on_model() && self.request_body.keep_all().await {
            self.note_model();
        }
        let is_one_of_several = self.may_move || self.moved.is_some();
        let counts = |cause: Cause| match cause {
            // These end when somebody pays: each request may find out, unless another profile serves it.
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

    /// Waits under the provider's limits.
    async fn turn(
        &mut self,
        account: &Rc<ServedAccount>,
        ready: &ReadyCredential,
        estimate: Estimate,
    ) -> Result<(), Unserved> {
        if self.key.is_some() {
            return self.keyed_turn(account, ready, estimate).await;
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
            let reason = matches!(no_slot, NoSlot::DayOver { .. }).then_some(Reason::Day);
            let deferred = DeferredResponse::Own(refusal::no_slot(&self.served.profile, no_slot));
            Unserved::movable(deferred, reason, format!("day/{}", account.pacing.day().date))
        })
    }

    pub(super) fn check_upload(&self) -> Result<(), Refusal> {
        match self.request_body.broken() {
            Some(Broken::TooLong) => Err(refusal::too_long(self.gateway.options.max_body)),
            _ => Ok(()),
        }
    }

    async fn send(&mut self, ready: &ReadyCredential) -> Result<(Response<Incoming>, LeasedConnection), SendError> {
        let Some(reader) = self.request_body.reader() else {
            return Err(SendError::Client("the request cannot be sent again".into()));
        };
        let request = self.request(ready, reader).map_err(|error| SendError::NotSent(error.to_string()))?;
        self.record.note_try();
        let limit = self.gateway.options.timeout;
        let since = Instant::now();
        let sent = tokio::time::timeout(limit, self.gateway.upstream.send(&ready.origin, request));
        let sent = self.request_body.while_reading(sent).await.unwrap_or(Err(SendError::Silent(limit)));
        self.log_attempt(ready, &sent, since.elapsed());
        if let Some(grant) = &mut self.record.grant {
            grant.was_sent |= !matches!(sent, Err(SendError::NotSent(_)));
            let may_be_billed = matches!(sent, Err(SendError::Silent(_) | SendError::Lost(_)));
            grant.bill = if may_be_billed { Bill::Estimate } else { Bill::Nothing };
        }
        sent
    }

    fn log_attempt(
        &self,
        ready: &ReadyCredential,
        sent: &Result<(Response<Incoming>, LeasedConnection), SendError>,
        took: Duration,
    ) {
        if !log::log_enabled!(log::Level::Debug) {
            return;
        }
        let outcome = match sent {
            Ok((response, _)) => response.status().as_u16().to_string(),
            Err(trouble) => format!("{trouble:?}"),
        };
        let (method, host) = (&self.method, ready.origin.host.to_str().unwrap_or_default());
        let path = self.rest.split('?').next().unwrap_or_default();
        log::debug!(
            "{method} {host}{}{path} for `{}`: {outcome}, {} ms",
            ready.base_path,
            self.served.profile,
            took.as_millis()
        );
    }

    fn request(&self, ready: &ReadyCredential, reader: Reader) -> Result<Request<Reader>, hyper::http::Error> {
        let messages = ready.messages.as_ref().filter(|_| anthropic::speaks(&self.rest));
        let base_path = messages.map_or(&ready.base_path, |endpoint| &endpoint.base_path);
        let path = format!("{base_path}{}", self.rest);
        let uri = Uri::from(PathAndQuery::try_from(path)?);
        let mut request = Request::new(reader);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        headers::address(request.headers_mut(), ready, messages);
        Ok(request)
    }

    /// Whether one attempt more is allowed.
    fn may_repeat(&self, attempts: u32) -> bool {
        attempts < MAX_ATTEMPTS
            && self.request_body.can_be_read_again()
            && self.gateway.budget.borrow_mut().take_repetition()
    }

    /// Waits before another attempt at a provider that cannot be reached, or gives up.
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
        let headers = inspected.response.headers();
        let header = |name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
        let encoding = header(CONTENT_ENCODING.as_str()).unwrap_or_default();
        let body = compression::decoded(&inspected.first, &encoding, MAX_DECOMPRESSED_ERROR_SIZE);
        let response = ErrorResponse {
            status: inspected.response.status().as_u16(),
            header: &header,
            body: &body,
            model: self.record.model.as_deref(),
            now: SystemTime::now(),
        };
        ApiError::read(&response, &ready.provider.errors)
    }

    /// Waits and returns nothing, or returns the response that the client is to have.
    async fn wait_or_stop(
        &mut self,
        account: &Rc<ServedAccount>,
        ready: &ReadyCredential,
        inspected: InspectedResponse,
        attempts: u32,
        has_waited: &mut bool,
    ) -> Result<Option<Response<ResponseBody>>, Unserved> {
        let status = inspected.response.status().as_u16();
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
                // A backoff is nobody's word.
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

    /// Forwards an error response, unless there is another profile that said something before this one.
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

    /// A limit is used up, or the account.
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
        let is_limit = inspected.response.status() == StatusCode::TOO_MANY_REQUESTS;
        let deferred = if is_limit {
            DeferredResponse::Own(refusal)
        } else {
            DeferredResponse::Provider { inspected: Box::new(inspected), error: Box::new(error), attempts }
        };
        Unserved::movable(deferred, reason, entry.id())
    }

    /// The service fails.
    fn failing(
        &mut self,
        account: &ServedAccount,
        error: ApiError,
        inspected: InspectedResponse,
        attempts: u32,
    ) -> Unserved {
        let why = format!("it answered {}", inspected.response.status().as_u16());
        let occurrence = account.note_outage(self.record.model.as_deref(), &why).id();
        let deferred = DeferredResponse::Provider { inspected: Box::new(inspected), error: Box::new(error), attempts };
        Unserved::movable(deferred, Some(Reason::Error), occurrence)
    }

    /// The connection ended before an answer came.
    fn lost(&self, ready: &ReadyCredential, trouble: SendError) -> Refusal {
        if let Err(refusal) = self.check_upload() {
            return refusal;
        }
        refusal::trouble(ready, trouble)
    }

    pub(super) fn record_model(&self) -> Option<String> {
        self.served_model.clone()
    }

    /// What the client gets of a request that no profile served.
    pub(super) fn finish(&mut self, deferred: DeferredResponse) -> Response<ResponseBody> {
        match deferred {
            DeferredResponse::Own(refusal) => self.refuse(refusal),
            DeferredResponse::Provider { inspected, attempts, .. } => {
                let mut response = self.pass_on(*inspected);
                refusal::settle_retry_after(response.headers_mut(), attempts);
                response
            }
        }
    }

    pub(super) fn refuse(&mut self, refusal: Refusal) -> Response<ResponseBody> {
        self.note_model();
        if let Some(entry) = &mut self.record.entry {
            entry.answered(refusal.status);
        }
        self.record.reason = self.record.reason.or(Some(refusal.code));
        let mut response = refusal.into_response();
        self.stamp(response.headers_mut());
        response
    }

    /// Hands the provider's answer to the client.
    async fn pass(
        &mut self,
        ready: &ReadyCredential,
        mut response: Response<Incoming>,
        leased: LeasedConnection,
    ) -> Result<Response<ResponseBody>, Refusal> {
        self.request_body.stop_keeping();
        let is_stream = kind(response.headers()).to_ascii_lowercase().starts_with(b"text/event-stream");
        let limit = if is_stream { FIRST_EVENT_TIMEOUT } else { self.gateway.options.timeout };
        let first = match self.request_body.while_reading(first_piece(response.body_mut(), limit)).await {
            Ok(first) => first,
            Err(NoChunk::Late) if is_stream => Bytes::new(),
            Err(NoChunk::Late) => return Err(self.lost(ready, SendError::Silent(limit))),
            Err(NoChunk::Broken(why)) => return Err(self.lost(ready, SendError::Lost(why))),
        };
        Ok(self.pass_on(InspectedResponse { response, leased, first, broken: None }))
    }

    /// The same for an answer that was looked into.
    fn pass_inspected(
        &mut self,
        ready: &ReadyCredential,
        inspected: InspectedResponse,
    ) -> Result<Response<ResponseBody>, Refusal> {
        match inspected.broken {
            Some(why) if inspected.first.is_empty() => Err(self.lost(ready, SendError::Lost(why))),
            _ => Ok(self.pass_on(inspected)),
        }
    }

    fn pass_on(&mut self, inspected: InspectedResponse) -> Response<ResponseBody> {
        let InspectedResponse { response, leased, first, broken } = inspected;
        let (mut head, incoming) = response.into_parts();
        self.note_model();
        if let Some(entry) = &mut self.record.entry {
            entry.outcome.status = Some(head.status);
        }
        self.request_body.stop_keeping();
        headers::clean_response(&mut head.headers);
        self.stamp(&mut head.headers);
        // The client's connection has a version of its own, which hyper answers in.
        head.version = Version::HTTP_11;
        let kind = kind(&head.headers).to_ascii_lowercase();
        if let Some(entry) = &mut self.record.entry {
            entry.outcome.is_stream = kind.starts_with(b"text/event-stream");
        }
        let is_text = kind.is_empty() || [&b"json"[..], b"event-stream"].iter().any(|part| contains(&kind, part));
        let encoding = head.headers.get(CONTENT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let meter = (is_text && head.status.is_success()).then(|| Meter::new(encoding));
        self.served_model.clone_from(&self.record.model);
        if let Some(grant) = self.record.grant.as_mut().filter(|_| head.status.is_success()) {
            grant.bill = Bill::Estimate;
        }
        let record = self.record.take();
        let limit = self.gateway.options.timeout;
        let first = Some(first).filter(|first| !first.is_empty());
        let body = ForwardedBody::new(first, broken, incoming, leased, self.request_body.clone(), record, limit, meter);
        Response::from_parts(head, ResponseBody::Passing(Box::new(body)))
    }

    fn stamp(&self, headers: &mut HeaderMap) {
        let waited = u64::try_from(self.record.waited.as_millis()).unwrap_or(u64::MAX);
        headers.insert(WAIT_MS, HeaderValue::from(waited));
        headers.insert(ATTEMPTS, HeaderValue::from(self.record.tries()));
        if let Ok(profile) = HeaderValue::from_str(&self.served.profile) {
            headers.insert(PROFILE, profile);
        }
        if let (Some(key), Some(left)) = (&self.key, &self.left) {
            team::stamp(headers, key, left);
        }
        if let Some(reason) = self.moved {
            headers.insert(FALLBACK, HeaderValue::from_static(reason.name()));
        }
    }
}

/// Whether an error is about the profile rather than about the request.
fn is_rejection(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 402 | 403 | 429)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// The content type, in the letters it was sent in.
fn kind(headers: &HeaderMap) -> &[u8] {
    headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default()
}

/// Why there is no beginning of a body.
enum NoChunk {
    Late,
    Broken(String),
}

/// The beginning of an answer's body, empty if there is none. It goes out together with the head, and a body that fails
/// at once can still be an error of the gateway's own.
async fn first_piece(incoming: &mut Incoming, limit: Duration) -> Result<Bytes, NoChunk> {
    use http_body_util::BodyExt;
    let read = async {
        while let Some(frame) = incoming.frame().await {
            match frame.map(Frame::into_data) {
                Ok(Ok(piece)) if !piece.is_empty() => return Ok(piece),
                Ok(_) => {}
                Err(error) => return Err(NoChunk::Broken(innermost(&error))),
            }
        }
        Ok(Bytes::new())
    };
    tokio::time::timeout(limit, read).await.unwrap_or(Err(NoChunk::Late))
}

/// Reads an error's body, as far as it goes and does not tarry.
async fn inspect(mut response: Response<Incoming>, leased: LeasedConnection) -> InspectedResponse {
    use http_body_util::BodyExt;
    let mut text = Vec::new();
    let mut broken = None;
    let read = async {
        while text.len() < MAX_ERROR_SIZE {
            match response.body_mut().frame().await {
                Some(Ok(frame)) => text.extend_from_slice(frame.data_ref().map_or(&[], |piece| &piece[..])),
                Some(Err(error)) => return broken = Some(innermost(&error)),
                None => return,
            }
        }
    };
    let _ = tokio::time::timeout(ERROR_BODY_TIMEOUT, read).await;
    InspectedResponse { response, leased, first: text.into(), broken }
}
