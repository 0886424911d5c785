//! The body of the provider's answer, read from its connection as it is asked for.
//!
//! Hazard: an answer cut short that looks complete, and a connection whose next answer is not that of the next request.
//! Rule: only an answer that ends as its framing says is complete, and only a connection on which nothing else is in
//! flight is kept.

use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName};
use hyper::{Response, Version};

use super::Origin;
use super::connection::{Connection, Received};
use super::framing::Framing;
use super::upload::{Upload, UploadError};

/// Servers close idle connections after 5 s (Node) to 75 s (nginx). A server that closes just when a request is sent
/// costs that request, so its `Keep-Alive` header counts, or else this.
const IDLE: Duration = Duration::from_secs(20);

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// The provider's response, of which the head has come.
pub(in crate::gateway) type Answer = Response<AnswerBody>;

pub(in crate::gateway) struct AnswerBody {
    /// `None` once it is of no more use here.
    connection: Option<Connection>,
    /// The rest of the request, if the answer came before it was sent.
    upload: Option<Upload>,
    /// When the last part of that was sent, if it was sent to its end.
    given_at: Option<Instant>,
    framing: Framing,
    /// What came with the head.
    first: Bytes,
    origin: Rc<Origin>,
    /// How long the connection may be kept afterwards; zero if not at all.
    idle: Duration,
    /// Why it was cut: an error is not followed by an end.
    broken: Option<String>,
}

/// `upload`: what is left to send of the request.
pub(super) fn answer(
    received: Received,
    connection: Connection,
    upload: Option<Upload>,
    origin: &Rc<Origin>,
) -> Answer {
    let Received { head, data: first } = received;
    let idle = if head.keeps_open { idle(&head.headers) } else { Duration::ZERO };
    let (framing, origin) = (head.framing, Rc::clone(origin));
    let connection = Some(connection);
    let mut body = AnswerBody { connection, upload, given_at: None, framing, first, origin, idle, broken: None };
    if body.framing.is_end() {
        body.end();
    }
    let mut answer = Response::new(body);
    *answer.status_mut() = head.status;
    *answer.version_mut() = Version::HTTP_11;
    *answer.headers_mut() = head.headers;
    if let Some(reason) = head.reason {
        answer.extensions_mut().insert(reason);
    }
    answer
}

impl AnswerBody {
    /// The next data, never empty; `None` at the end.
    ///
    /// Errors: why it was cut.
    pub(in crate::gateway) fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, String>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.first))));
        }
        let data = match ready!(self.poll_next(context)) {
            Ok(data) => data,
            Err(why) => {
                self.connection = None;
                self.broken = Some(why.clone());
                return Poll::Ready(Some(Err(why)));
            }
        };
        Poll::Ready(Some(data).filter(|data| !data.is_empty()).map(Ok))
    }

    /// The next data, empty at the end.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, String>> {
        loop {
            let Some(connection) = &mut self.connection else {
                return Poll::Ready(self.broken.clone().map_or(Ok(Bytes::new()), Err));
            };
            if let Some(upload) = &mut self.upload {
                match connection.poll_send(upload, context) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(())) => {
                        self.given_at = upload.given_at();
                        self.upload = None;
                    }
                    Poll::Ready(Err(UploadError::Client(broken))) => return Poll::Ready(Err(broken.to_string())),
                    // It answers although it takes no more of the request.
                    Poll::Ready(Err(UploadError::Connection(_))) => {
                        self.upload = None;
                        self.idle = Duration::ZERO;
                    }
                }
            }
            let framing = &mut self.framing;
            let read = connection.poll_read(context, |piece| {
                let decoded = framing.decode(piece)?;
                let is_alone = decoded.used == piece.len();
                Ok((Bytes::copy_from_slice(&piece[..decoded.data]), is_alone, piece.is_empty()))
            });
            let (data, is_alone, is_closed) =
                ready!(read).map_err(|error| error.to_string())?.map_err(|super::Malformed(why)| why.to_owned())?;
            if is_closed {
                self.framing.close().map_err(|super::Malformed(why)| why.to_owned())?;
                self.framing = Framing::Length(0);
            }
            if !is_alone || is_closed {
                self.idle = Duration::ZERO;
            }
            if self.framing.is_end() {
                self.end();
            }
            if !data.is_empty() {
                return Poll::Ready(Ok(data));
            }
        }
    }

    /// The answer is complete: its connection serves the next request, unless something is still in flight.
    fn end(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if self.upload.is_none() {
            self.origin.keep(connection, self.idle);
        }
    }

    /// Drops what is still to come.
    pub(in crate::gateway) fn end_here(&mut self) {
        (self.connection, self.upload) = (None, None);
        (self.framing, self.first) = (Framing::Length(0), Bytes::new());
    }

    /// When a part of the request was last sent after the head of the answer had come.
    pub(in crate::gateway) fn given_at(&self) -> Option<Instant> {
        self.upload.as_ref().map_or(self.given_at, Upload::given_at)
    }

    /// Whether all of it was taken.
    pub(in crate::gateway) fn is_end(&self) -> bool {
        self.first.is_empty() && self.framing.is_end()
    }

    /// Bytes that are still to come, where that is known.
    pub(in crate::gateway) fn left(&self) -> Option<u64> {
        Some(self.first.len() as u64 + self.framing.left()?)
    }
}

/// How long the server keeps this connection open while it is idle, less a second: a request needs time to arrive.
fn idle(headers: &HeaderMap) -> Duration {
    let Some(value) = headers.get(KEEP_ALIVE).and_then(|value| value.to_str().ok()) else { return IDLE };
    let seconds = value.split(',').find_map(|part| part.trim().strip_prefix("timeout=")?.parse::<u64>().ok());
    seconds.map_or(IDLE, |seconds| Duration::from_secs(seconds.saturating_sub(1)).min(IDLE))
}
