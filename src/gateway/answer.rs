//! What the client receives: the provider's response, inspected where it must be classified, or an error of the
//! gateway.
//!
//! Hazard: after a byte has reached the client, nothing can be retried.
//! Rule: a response is forwarded once its first chunk has arrived; if it fails before, the gateway answers with an
//! error of its own.

use std::future::poll_fn;
use std::time::{Duration, SystemTime};

use hyper::body::Bytes;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::credential::ReadyCredential;
use super::fallback::Reason;
use super::forward::ProxiedRequest;
use super::headers;
use super::meter::Meter;
use super::refusal::{self, Refusal};
use super::response_body::{ForwardedBody, ResponseBody};
use super::team::{self, Bill};
use super::upstream::{Answer, AnswerBody, SendError};
use crate::compression;
use crate::providers::error::{ApiError, Response as ErrorResponse};

/// How much of an error's body is read to classify it, for at most [`ERROR_BODY_TIMEOUT`].
const MAX_ERROR_SIZE: usize = 64 * 1024;
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The same limit after decompression.
const MAX_DECOMPRESSED_ERROR_SIZE: u64 = 1024 * 1024;

/// How long the head of an event stream is held for its first event: a stream that fails at once can still become a
/// 502, and the client soon sees that there is a stream.
const FIRST_EVENT_TIMEOUT: Duration = Duration::from_millis(250);

const WAIT_MS: HeaderName = HeaderName::from_static("x-qwenauth-wait-ms");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-qwenauth-attempts");
const PROFILE: HeaderName = HeaderName::from_static("x-qwenauth-profile");
const FALLBACK: HeaderName = HeaderName::from_static("x-qwenauth-fallback");

/// A response whose body was read as far as necessary.
pub(super) struct InspectedResponse {
    response: Answer,
    /// The part of the body that was read, or all of it.
    first: Bytes,
    /// Why the body was aborted, if it was.
    broken: Option<String>,
}

impl InspectedResponse {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Classifies it for a request of `model` with `credential`.
    pub(super) fn error(&self, model: Option<&str>, credential: &ReadyCredential) -> ApiError {
        let headers = self.response.headers();
        let header = |name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
        let encoding = header(CONTENT_ENCODING.as_str()).unwrap_or_default();
        let body = compression::decoded(&self.first, &encoding, MAX_DECOMPRESSED_ERROR_SIZE);
        let response = ErrorResponse {
            status: self.response.status().as_u16(),
            header: &header,
            body: &body,
            model,
            secrets: &[&credential.credential.access_token],
            now: SystemTime::now(),
        };
        ApiError::read(&response, &credential.provider.errors)
    }
}

/// The response for the client if no other profile serves the request.
pub(super) enum DeferredResponse {
    Own(Refusal),
    Provider { inspected: Box<InspectedResponse>, error: Box<ApiError>, attempts: u32 },
}

/// A request that this profile did not serve.
pub(super) struct Unserved {
    pub(super) deferred: DeferredResponse,
    /// Why another profile may serve it.
    pub(super) reason: Option<Reason>,
    /// Identifies the outage or limit, so that it is reported once.
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

impl ProxiedRequest<'_> {
    /// Builds the response to a request that no profile served.
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

    /// Forwards the provider's response to the client.
    pub(super) async fn pass(
        &mut self,
        ready: &ReadyCredential,
        mut response: Answer,
    ) -> Result<Response<ResponseBody>, Refusal> {
        self.request_body.stop_keeping();
        let is_stream = is_event_stream(kind(response.headers()));
        let limit = if is_stream { FIRST_EVENT_TIMEOUT } else { self.gateway.options.timeout };
        let first = match self.request_body.while_reading(first_piece(response.body_mut(), limit)).await {
            Ok(first) => first,
            Err(NoChunk::Late) if is_stream => Bytes::new(),
            Err(NoChunk::Late) => return Err(self.lost(ready, SendError::Silent(limit))),
            Err(NoChunk::Broken(why)) => return Err(self.lost(ready, SendError::Lost(why))),
        };
        Ok(self.pass_on(InspectedResponse { response, first, broken: None }))
    }

    /// Forwards a response that was inspected.
    pub(super) fn pass_inspected(
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
        let InspectedResponse { response, first, broken } = inspected;
        let (mut head, answer) = response.into_parts();
        self.note_model();
        if let Some(entry) = &mut self.record.entry {
            entry.outcome.status = Some(head.status);
        }
        self.request_body.stop_keeping();
        headers::clean_response(&mut head.headers);
        self.stamp(&mut head.headers);
        let kind = kind(&head.headers);
        if let Some(entry) = &mut self.record.entry {
            entry.outcome.is_stream = is_event_stream(kind);
        }
        let is_text = kind.is_empty() || [&b"json"[..], b"event-stream"].iter().any(|part| contains(kind, part));
        let encoding = head.headers.get(CONTENT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let meter = (is_text && head.status.is_success()).then(|| Meter::new(encoding));
        self.served_model.clone_from(&self.record.model);
        if let Some(grant) = self.record.grant.as_mut().filter(|_| head.status.is_success()) {
            grant.bill = Bill::Estimate;
        }
        let record = self.record.take();
        let limit = self.gateway.options.timeout;
        let first = Some(first).filter(|first| !first.is_empty());
        let body = ForwardedBody::new(first, broken, answer, record, limit, meter);
        Response::from_parts(head, ResponseBody::Passing(Box::new(body)))
    }

    fn stamp(&self, headers: &mut HeaderMap) {
        let waited = u64::try_from(self.record.waited.as_millis()).unwrap_or(u64::MAX);
        headers.insert(WAIT_MS, small(waited));
        headers.insert(ATTEMPTS, small(self.record.tries()));
        if let Some(name) = &self.served.header {
            headers.insert(PROFILE, name.clone());
        }
        if let (Some(key), Some(left)) = (&self.key, &self.left) {
            team::stamp(headers, key, left);
        }
        if let Some(reason) = self.moved {
            headers.insert(FALLBACK, HeaderValue::from_static(reason.name()));
        }
    }
}

/// A number that is nearly always 0 or 1.
fn small(number: u64) -> HeaderValue {
    match number {
        0 => HeaderValue::from_static("0"),
        1 => HeaderValue::from_static("1"),
        _ => HeaderValue::from(number),
    }
}

/// In letters of any case.
fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part))
}

fn is_event_stream(kind: &[u8]) -> bool {
    const NAME: &[u8] = b"text/event-stream";
    kind.get(..NAME.len()).is_some_and(|start| start.eq_ignore_ascii_case(NAME))
}

/// The content type, in its original case.
fn kind(headers: &HeaderMap) -> &[u8] {
    headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default()
}

/// Why the first chunk of a body is missing.
enum NoChunk {
    Late,
    Broken(String),
}

/// The first chunk of a response's body, empty if there is none. It is sent together with the head, and a body that
/// fails at once can still become an error of the gateway.
async fn first_piece(answer: &mut AnswerBody, limit: Duration) -> Result<Bytes, NoChunk> {
    let first = tokio::time::timeout(limit, poll_fn(|context| answer.poll_data(context)));
    match first.await {
        Ok(Some(Ok(first))) => Ok(first),
        Ok(Some(Err(why))) => Err(NoChunk::Broken(why)),
        Ok(None) => Ok(Bytes::new()),
        Err(_) => Err(NoChunk::Late),
    }
}

/// Reads an error's body up to its limits of size and time.
pub(super) async fn inspect(mut response: Answer) -> InspectedResponse {
    let mut text = Vec::new();
    let mut broken = None;
    let read = async {
        while text.len() < MAX_ERROR_SIZE {
            match poll_fn(|context| response.body_mut().poll_data(context)).await {
                Some(Ok(piece)) => text.extend_from_slice(&piece),
                Some(Err(why)) => return broken = Some(why),
                None => return,
            }
        }
    };
    let _ = tokio::time::timeout(ERROR_BODY_TIMEOUT, read).await;
    InspectedResponse { response, first: text.into(), broken }
}
