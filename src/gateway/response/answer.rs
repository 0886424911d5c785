//! The provider's response, read as far as necessary before it is forwarded or classified.
//!
//! Hazard: after a byte has reached the client, nothing can be retried.
//! Rule: a response is forwarded once its first chunk has arrived; if it fails before, the gateway answers with an
//! error of its own.

use std::borrow::Cow;
use std::future::poll_fn;
use std::time::{Duration, Instant, SystemTime};

use hyper::body::Bytes;
use hyper::ext::ReasonPhrase;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use memchr::memmem;

use super::response_body::{ForwardedBody, ResponseBody};
use crate::compression;
use crate::credentials::Credential;
use crate::gateway::profiles::credential::ReadyCredential;
use crate::gateway::telemetry::meter::Meter;
use crate::gateway::telemetry::usage_record::UsageRecord;
use crate::gateway::upstream::Answer;
use crate::providers::error::{ApiError, Response as ErrorResponse};

/// Shortest credential that is looked for, in bytes. A server of one's own may have `x` or `test` as its key, which would be
/// found in any header.
const SHORTEST_HIDDEN: usize = 8;

/// How much of an error's body is read to classify it, for at most [`ERROR_BODY_TIMEOUT`].
const MAX_ERROR_SIZE: usize = 64 * 1024;
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The same limit after decompression.
const MAX_DECOMPRESSED_ERROR_SIZE: u64 = 1024 * 1024;

/// How long the head of an event stream is held for its first event: a stream that fails at once can still become a
/// 502, and the client soon sees that there is a stream.
const FIRST_EVENT_TIMEOUT: Duration = Duration::from_millis(250);

/// A response whose body was read as far as necessary.
pub(in crate::gateway) struct InspectedResponse {
    response: Answer,
    /// The part of the body that was read, or all of it.
    first: Bytes,
    /// An error's `first` without its compression, if it has one.
    decompressed: Option<Vec<u8>>,
    /// Why the body was aborted, if it was.
    broken: Option<String>,
}

impl InspectedResponse {
    pub(in crate::gateway) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(in crate::gateway) fn headers_mut(&mut self) -> &mut HeaderMap {
        self.response.headers_mut()
    }

    /// Why there is nothing of it to forward, if the body was aborted before its first chunk.
    pub(in crate::gateway) fn is_lost(&self) -> Option<&str> {
        self.broken.as_deref().filter(|_| self.first.is_empty())
    }

    /// Overwrites the credential where the provider repeats it: in the head, and in what was read of an error.
    pub(in crate::gateway) fn hide(&mut self, credential: &Credential) {
        let secret = credential.access_token.expose().as_bytes();
        if secret.len() < SHORTEST_HIDDEN || credential.is_keyless() {
            return;
        }
        for value in self.response.headers_mut().values_mut() {
            if let Some(masked) = masked(value.as_bytes(), secret) {
                *value = HeaderValue::from_bytes(&masked).unwrap_or(HeaderValue::from_static("*"));
            }
        }
        let reason = self.response.extensions().get::<ReasonPhrase>();
        if reason.is_some_and(|reason| memmem::find(reason.as_bytes(), secret).is_some()) {
            self.response.extensions_mut().remove::<ReasonPhrase>();
        }
        if is_error(self.status()) {
            self.hide_in_body(secret);
        }
    }

    fn hide_in_body(&mut self, secret: &[u8]) {
        if let Some(masked) = masked(&self.first, secret) {
            self.first = masked.into();
            return;
        }
        let Some(masked) = self.decompressed.take().and_then(|plain| masked(&plain, secret)) else { return };
        self.first = masked.into();
        for name in [CONTENT_ENCODING, CONTENT_LENGTH] {
            self.response.headers_mut().remove(name);
        }
        // It would be the middle of what is compressed.
        self.response.body_mut().end_here();
    }

    /// The response for the client. `usage` is entered when it ends; `limit`: the timeout without a byte; `is_metered`:
    /// whether the request is one that uses a model.
    pub(in crate::gateway) fn forwarded(
        self,
        mut usage: UsageRecord,
        limit: Duration,
        is_metered: bool,
    ) -> Response<ResponseBody> {
        let encoding = encoding(self.response.headers()).to_owned();
        let (head, answer) = self.response.into_parts();
        let kind = kind(&head.headers);
        usage.note_response(head.status, is_event_stream(kind));
        let is_text = kind.is_empty() || [&b"json"[..], b"event-stream"].iter().any(|part| contains(kind, part));
        let meter = (is_metered && is_text && head.status.is_success()).then(|| Meter::new(&encoding));
        let first = Some(self.first).filter(|first| !first.is_empty());
        let body = ForwardedBody::new(first, self.broken, answer, usage, limit, meter);
        Response::from_parts(head, ResponseBody::Passing(Box::new(body)))
    }

    /// Classifies it for a request of `model` with `credential`.
    pub(in crate::gateway) fn error(&self, model: Option<&str>, credential: &ReadyCredential) -> ApiError {
        let headers = self.response.headers();
        let header = |name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
        let body = self.decompressed.as_deref().unwrap_or(&self.first);
        let response = ErrorResponse {
            status: self.response.status().as_u16(),
            header: &header,
            body,
            model,
            secrets: &[&credential.credential.access_token],
            now: SystemTime::now(),
        };
        ApiError::read(&response, &credential.provider.errors)
    }
}

pub(in crate::gateway) fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

fn encoding(headers: &HeaderMap) -> &str {
    headers.get(CONTENT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// `text` with `secret` overwritten; `None` if it is not in there.
fn masked(text: &[u8], secret: &[u8]) -> Option<Vec<u8>> {
    // Nearly all headers are shorter, and each response has some.
    if text.len() < secret.len() {
        return None;
    }
    let mut found = memmem::find_iter(text, secret).peekable();
    found.peek()?;
    let mut masked = text.to_vec();
    found.for_each(|at| masked[at..at + secret.len()].fill(b'*'));
    Some(masked)
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
pub(in crate::gateway) enum NoChunk {
    /// It did not arrive within this time.
    Late(Duration),
    Broken(String),
}

/// Reads the first chunk of a response's body, empty if there is none. It is sent together with the head, and a body that
/// fails at once can still become an error of the gateway.
pub(in crate::gateway) async fn begin(mut response: Answer, timeout: Duration) -> Result<InspectedResponse, NoChunk> {
    let is_stream = is_event_stream(kind(response.headers()));
    let mut left = if is_stream { FIRST_EVENT_TIMEOUT } else { timeout };
    loop {
        let first = tokio::time::timeout(left, poll_fn(|context| response.body_mut().poll_data(context))).await;
        let first = match first {
            Ok(Some(Ok(first))) => first,
            Ok(Some(Err(why))) => return Err(NoChunk::Broken(why)),
            Ok(None) => Bytes::new(),
            Err(_) if is_stream => Bytes::new(),
            Err(_) => {
                left = rest(timeout, response.body().given_at());
                if left.is_zero() {
                    return Err(NoChunk::Late(timeout));
                }
                continue;
            }
        };
        return Ok(InspectedResponse { response, first, decompressed: None, broken: None });
    }
}

/// How much is left of `limit` since `last`.
pub(in crate::gateway) fn rest(limit: Duration, last: Option<Instant>) -> Duration {
    last.map(|last| limit.saturating_sub(last.elapsed())).unwrap_or_default()
}

/// Reads an error's body up to its limits of size and time.
pub(in crate::gateway) async fn inspect(mut response: Answer) -> InspectedResponse {
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
    let decompressed = match compression::decoded(&text, encoding(response.headers()), MAX_DECOMPRESSED_ERROR_SIZE) {
        Cow::Owned(plain) => Some(plain),
        Cow::Borrowed(_) => None,
    };
    InspectedResponse { response, first: text.into(), decompressed, broken }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_type_is_text_or_a_stream_in_letters_of_any_case() {
        for (kind, is_json, is_stream) in [
            ("application/JSON; charset=utf-8", true, false),
            ("application/vnd.x+json", true, false),
            ("Text/Event-Stream", false, true),
            ("audio/mpeg", false, false),
            ("jso", false, false),
            ("text/event-strea", false, false),
        ] {
            let kind = kind.as_bytes();
            assert_eq!((contains(kind, b"json"), is_event_stream(kind)), (is_json, is_stream));
        }
    }
}
