//! The way of one request: credential, turn, try, verdict, and again or down to the client.
//!
//! Hazard: a repeated request may be paid for twice, or acted upon twice.
//! Rule: only 401, 429, 503 and connections that never came about are tried again, before any byte went to the client
//! and while the body is still there; everything else passes as it is.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};

use super::answer::{Answer, Download};
use super::credential::Ready;
use super::headers;
use super::lane::{Known, Lane, Record};
use super::meter::Meter;
use super::pacing::Waited;
use super::refusal::{self, Refusal};
use super::traffic::Entry;
use super::upload::{Broken, Reader, Upload};
use super::upstream::{Leased, Trouble, innermost};
use super::verdict::{Verdict, codes, judge, retry_after, said};
use super::{Gateway, anthropic};
use crate::error::note;

/// Tries in all, the first included.
const MOST_TRIES: u32 = 3;

/// An error's body is read this far to understand it, for at most [`ERROR_PATIENCE`].
const ERROR_LENGTH: usize = 64 * 1024;
const ERROR_PATIENCE: Duration = Duration::from_secs(5);

/// Full jitter over half a second, doubled each time, up to this.
const BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(8);

/// How long the head of an event stream waits for its first event: a stream that fails at once can still be a 502, and
/// a client need not wait long to see that there is a stream.
const STREAM_HEAD: Duration = Duration::from_millis(250);

const WAIT_MS: HeaderName = HeaderName::from_static("x-qwenauth-wait-ms");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-qwenauth-attempts");

/// One request on its way.
struct Passage<'gateway> {
    gateway: &'gateway Gateway,
    lane: &'gateway Lane,
    method: Method,
    /// What follows `/v1`, with the query.
    rest: String,
    headers: HeaderMap,
    upload: Upload,
    record: Record,
}

/// An answer whose body was looked into.
struct Looked {
    response: Response<Incoming>,
    leased: Leased,
    /// What was read of it, or all of it.
    first: Bytes,
    /// Why there is no more, if it broke off.
    broken: Option<String>,
}

/// `rest`: what follows `/v1` in the path.
pub(super) async fn forward(
    gateway: &Gateway,
    lane: &Lane,
    request: Request<Incoming>,
    rest: String,
    mut entry: Entry,
) -> Response<Answer> {
    entry.outcome.profile = Some(lane.profile.clone());

    let (mut head, body) = request.into_parts();
    let options = &gateway.options;
    let length = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > options.max_body) {
        let response = refusal::too_long(options.max_body).into_response();
        entry.answered(response.status());
        return response;
    }
    headers::clean_request(&mut head.headers);
    let upload = Upload::new(body, options.replay_limit, options.max_body, &gateway.bodies);
    let record = Record::begin(&upload, Some(entry));
    let rest = headers::clean_query(&rest).into_owned();
    let mut passage = Passage { gateway, lane, method: head.method, rest, headers: head.headers, upload, record };
    gateway.budget.borrow_mut().note_request();
    let mut response = match passage.run().await {
        Ok(response) => return response,
        Err(refusal) => refusal.into_response(),
    };
    passage.stamp(response.headers_mut());
    if let Some(entry) = &mut passage.record.entry {
        entry.answered(response.status());
    }
    passage.record.note_model();
    response
}

impl Passage<'_> {
    async fn run(&mut self) -> Result<Response<Answer>, Refusal> {
        let mut ready =
            self.upload.while_reading(self.lane.bridge.fresh()).await.map_err(|failed| refusal::not_ready(&failed))?;
        if ready.messages.is_none() && anthropic::speaks(&self.rest) {
            return Err(anthropic::missing(&ready.provider));
        }
        let known = self.known(&ready)?;
        let mut was_renewed = false;
        // Renewals have a try of their own.
        let mut tries = 0;
        loop {
            self.turn(&known, &ready).await?;
            tries += 1;
            let (response, leased) = match self.send(&ready).await {
                Ok(answered) => answered,
                Err(Trouble::NotSent(why)) => {
                    self.pause_or(tries, || refusal::trouble(&ready, Trouble::NotSent(why))).await?;
                    continue;
                }
                Err(trouble) => return Err(self.lost(&ready, trouble)),
            };
            known.note_limits(response.headers());
            match response.status() {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if ready.is_renewable() => {
                    let looked = look(response, leased).await;
                    if !is_about_the_token(&looked) {
                        return self.pass_looked(&ready, looked);
                    }
                    self.lane.bridge.note_refused(true);
                    if was_renewed {
                        return Err(refusal::ended(&ready, &provider_said(&looked)));
                    }
                    if !self.upload.can_be_read_again() {
                        return self.pass_looked(&ready, looked);
                    }
                    drop(looked);
                    let renewal = self.lane.bridge.renewed(&ready);
                    ready = self.upload.while_reading(renewal).await.map_err(|failed| refusal::not_ready(&failed))?;
                    was_renewed = true;
                    tries -= 1;
                }
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                    let looked = look(response, leased).await;
                    if let Some(looked) = self.wait_or_pass(&known, &ready, looked, tries).await? {
                        let mut response = self.pass_looked(&ready, looked)?;
                        refusal::settle_retry_after(response.headers_mut(), tries);
                        return Ok(response);
                    }
                }
                status => {
                    // A key that is refused may be put right where it was made.
                    self.lane.bridge.note_refused(status == StatusCode::UNAUTHORIZED);
                    if status.is_success() && self.lane.is_day_over.replace(false) {
                        known.pacing.set_day_over(false);
                    }
                    return self.pass(&ready, response, leased).await;
                }
            }
        }
    }

    fn known(&mut self, ready: &Ready) -> Result<Rc<Known>, Refusal> {
        let known = self.lane.known(ready).map_err(|failed| refusal::not_ready(&failed))?;
        self.record.belongs_to(&known);
        Ok(known)
    }

    /// Waits under the provider's limits.
    async fn turn(&mut self, known: &Known, ready: &Ready) -> Result<(), Refusal> {
        if !self.gateway.options.is_counting(&ready.provider) {
            return Ok(());
        }
        let since = tokio::time::Instant::now();
        let turn = self.upload.while_reading(known.pacing.turn()).await;
        if turn == Ok(Waited::Yes) {
            self.record.waited += since.elapsed();
        }
        self.check_upload()?;
        turn.map(drop).map_err(|no_turn| refusal::no_turn(&self.lane.profile, no_turn))
    }

    fn check_upload(&self) -> Result<(), Refusal> {
        match self.upload.broken() {
            Some(Broken::TooLong) => Err(refusal::too_long(self.gateway.options.max_body)),
            _ => Ok(()),
        }
    }

    async fn send(&mut self, ready: &Ready) -> Result<(Response<Incoming>, Leased), Trouble> {
        let Some(reader) = self.upload.reader() else {
            return Err(Trouble::Client("the request cannot be sent again".into()));
        };
        let request = self.request(ready, reader).map_err(|error| Trouble::NotSent(error.to_string()))?;
        self.record.note_try();
        let limit = self.gateway.options.timeout;
        let sent = tokio::time::timeout(limit, self.gateway.upstream.send(&ready.origin, request));
        self.upload.while_reading(sent).await.unwrap_or(Err(Trouble::Silent(limit)))
    }

    fn request(&self, ready: &Ready, reader: Reader) -> Result<Request<Reader>, hyper::http::Error> {
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

    /// Whether one try more is allowed.
    fn may_repeat(&self, tries: u32) -> bool {
        tries < MOST_TRIES && self.upload.can_be_read_again() && self.gateway.budget.borrow_mut().take_repetition()
    }

    /// Before another try, or the refusal if there is to be none.
    async fn pause_or(&mut self, tries: u32, refusal: impl FnOnce() -> Refusal) -> Result<(), Refusal> {
        self.check_upload()?;
        if !self.may_repeat(tries) {
            return Err(refusal());
        }
        self.wait(backoff(tries)).await;
        Ok(())
    }

    async fn wait(&mut self, wait: Duration) {
        self.upload.while_reading(tokio::time::sleep(wait)).await;
        self.record.waited += wait;
    }

    /// Waits and returns nothing, or returns the answer that the client is to have.
    async fn wait_or_pass(
        &mut self,
        known: &Known,
        ready: &Ready,
        looked: Looked,
        tries: u32,
    ) -> Result<Option<Looked>, Refusal> {
        let status = looked.response.status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            self.record.note_rate_limited();
        }
        let most = self.gateway.options.max_wait;
        let verdict = judge(status, looked.response.headers(), &looked.first, SystemTime::now());
        let wait = match verdict {
            Verdict::After(named) if named > most => return Ok(Some(looked)),
            // Never less than the server said, and not all at the same moment.
            Verdict::After(named) => named + jitter(Duration::from_millis(100).max(named / 10).min(BACKOFF)),
            Verdict::Soon => backoff(tries),
            Verdict::OnceMore if tries > 1 => return Ok(Some(looked)),
            Verdict::OnceMore => most.min(Duration::from_secs(60)).mul_f64(0.5 + rand::random::<f64>() / 2.0),
            Verdict::DayOver(ends) => return Err(self.note_day_over(known, ends, &looked)),
            Verdict::PlanOver => {
                let ends_after = retry_after(looked.response.headers(), SystemTime::now());
                return Err(refusal::plan_over(ready, &provider_said(&looked), ends_after));
            }
        };
        if !self.may_repeat(tries) {
            return Ok(Some(looked));
        }
        drop(looked);
        if wait > Duration::from_secs(2) {
            known.pacing.say(&format!(
                "a request waits {} s: `{}` is over its limit",
                wait.as_secs(),
                self.lane.profile
            ));
        }
        self.wait(wait).await;
        Ok(None)
    }

    fn note_day_over(&self, known: &Known, ends: Option<SystemTime>, looked: &Looked) -> Refusal {
        known.pacing.set_day_over(true);
        self.lane.is_day_over.set(true);
        let ends = ends.unwrap_or_else(|| known.pacing.day().ends);
        let said = provider_said(looked);
        let refusal = refusal::day_over(&self.lane.profile, ends, true, &said);
        note(&refusal.message);
        refusal
    }

    /// The connection ended before an answer came.
    fn lost(&self, ready: &Ready, trouble: Trouble) -> Refusal {
        if let Err(refusal) = self.check_upload() {
            return refusal;
        }
        refusal::trouble(ready, trouble)
    }

    /// Hands the provider's answer to the client.
    async fn pass(
        &mut self,
        ready: &Ready,
        mut response: Response<Incoming>,
        leased: Leased,
    ) -> Result<Response<Answer>, Refusal> {
        self.upload.stop_keeping();
        let is_stream = kind(response.headers()).starts_with(b"text/event-stream");
        let limit = if is_stream { STREAM_HEAD } else { self.gateway.options.timeout };
        let first = match self.upload.while_reading(first_piece(response.body_mut(), limit)).await {
            Ok(first) => first,
            Err(NoPiece::Late) if is_stream => Bytes::new(),
            Err(NoPiece::Late) => return Err(self.lost(ready, Trouble::Silent(limit))),
            Err(NoPiece::Broken(why)) => return Err(self.lost(ready, Trouble::Lost(why))),
        };
        Ok(self.pass_on(Looked { response, leased, first, broken: None }))
    }

    /// The same for an answer that was looked into.
    fn pass_looked(&mut self, ready: &Ready, looked: Looked) -> Result<Response<Answer>, Refusal> {
        match looked.broken {
            Some(why) if looked.first.is_empty() => Err(self.lost(ready, Trouble::Lost(why))),
            _ => Ok(self.pass_on(looked)),
        }
    }

    fn pass_on(&mut self, looked: Looked) -> Response<Answer> {
        let Looked { response, leased, first, broken } = looked;
        let (mut head, incoming) = response.into_parts();
        self.record.note_model();
        self.upload.stop_keeping();
        headers::clean_response(&mut head.headers);
        self.stamp(&mut head.headers);
        // The client's connection has a version of its own, which hyper answers in.
        head.version = Version::HTTP_11;
        let kind = kind(&head.headers);
        let text = kind.is_empty() || kind.starts_with(b"application/json") || kind.starts_with(b"text/event-stream");
        let meter = (text && head.status.is_success()).then(Meter::default);
        let mut record = Record::begin(&self.upload, None);
        std::mem::swap(&mut record, &mut self.record);
        if let Some(entry) = &mut record.entry {
            entry.outcome.status = Some(head.status);
        }
        let limit = self.gateway.options.timeout;
        let first = Some(first).filter(|first| !first.is_empty());
        let download = Download::new(first, broken, incoming, leased, self.upload.clone(), record, limit, meter);
        Response::from_parts(head, Answer::Passing(Box::new(download)))
    }

    fn stamp(&self, headers: &mut HeaderMap) {
        let waited = u64::try_from(self.record.waited.as_millis()).unwrap_or(u64::MAX);
        headers.insert(WAIT_MS, HeaderValue::from(waited));
        headers.insert(ATTEMPTS, HeaderValue::from(self.record.tries()));
    }
}

/// The content type, in the letters it was sent in.
fn kind(headers: &HeaderMap) -> &[u8] {
    headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default()
}

/// Why there is no beginning of a body.
enum NoPiece {
    Late,
    Broken(String),
}

/// The beginning of an answer's body, empty if there is none. It goes out together with the head, and a body that fails
/// at once can still be an error of the gateway's own.
async fn first_piece(incoming: &mut Incoming, limit: Duration) -> Result<Bytes, NoPiece> {
    use http_body_util::BodyExt;
    let read = async {
        while let Some(frame) = incoming.frame().await {
            match frame.map(Frame::into_data) {
                Ok(Ok(piece)) if !piece.is_empty() => return Ok(piece),
                Ok(_) => {}
                Err(error) => return Err(NoPiece::Broken(innermost(&error))),
            }
        }
        Ok(Bytes::new())
    };
    tokio::time::timeout(limit, read).await.unwrap_or(Err(NoPiece::Late))
}

/// Reads an error's body, as far as it goes and does not tarry.
async fn look(mut response: Response<Incoming>, leased: Leased) -> Looked {
    use http_body_util::BodyExt;
    let mut text = Vec::new();
    let mut broken = None;
    let read = async {
        while text.len() < ERROR_LENGTH {
            match response.body_mut().frame().await {
                Some(Ok(frame)) => text.extend_from_slice(frame.data_ref().map_or(&[], |piece| &piece[..])),
                Some(Err(error)) => return broken = Some(innermost(&error)),
                None => return,
            }
        }
    };
    let _ = tokio::time::timeout(ERROR_PATIENCE, read).await;
    Looked { response, leased, first: text.into(), broken }
}

/// Whether a refusal means the token: any 401, and a 403 that says so in its code. Other 403 are policy.
fn is_about_the_token(looked: &Looked) -> bool {
    let reply = serde_json::from_slice(&looked.first).unwrap_or_default();
    looked.response.status() == StatusCode::UNAUTHORIZED || codes(&reply).to_lowercase().contains("invalid_api_key")
}

fn provider_said(looked: &Looked) -> String {
    let reply = serde_json::from_slice(&looked.first).unwrap_or_default();
    let said: String = said(&reply).chars().take(300).collect();
    crate::error::printable(said.trim_end_matches(['.', ' ']))
}

fn jitter(most: Duration) -> Duration {
    most.mul_f64(rand::random::<f64>())
}

fn backoff(tries: u32) -> Duration {
    jitter((BACKOFF * 2u32.saturating_pow(tries.saturating_sub(1))).min(LONGEST_BACKOFF))
}
