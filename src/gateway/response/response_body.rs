//! What the client gets: a message of our own, or a forwarded response.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::time::Sleep;

use crate::gateway::telemetry::meter::Meter;
use crate::gateway::telemetry::usage_record::UsageRecord;
use crate::gateway::upstream::AnswerBody;

pub(in crate::gateway) enum ResponseBody {
    Whole(Bytes),
    Passing(Box<ForwardedBody>),
}

/// An error in the middle of a response: the connection to the client is aborted, so that a truncated body is not taken
/// for a complete one.
#[derive(Debug)]
pub(in crate::gateway) struct Interrupted(String);

impl std::fmt::Display for Interrupted {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Interrupted {}

/// The body of the provider's response, as it is forwarded.
pub(in crate::gateway) struct ForwardedBody {
    /// What was read ahead, to judge an error or to send it together with the headers.
    first: Option<Bytes>,
    /// Why the body was aborted, if it was.
    broken: Option<String>,
    answer: AnswerBody,
    meter: Option<Meter>,
    record: UsageRecord,
    /// Timeout without a byte, and when the wait for the next one began.
    limit: Duration,
    waiting: Option<Instant>,
    idle: Option<Pin<Box<Sleep>>>,
    ended: bool,
    /// Whether what was given out last may not have been sent to the client yet.
    is_buffered: bool,
}

impl ForwardedBody {
    pub(in crate::gateway) fn new(
        first: Option<Bytes>,
        broken: Option<String>,
        answer: AnswerBody,
        record: UsageRecord,
        limit: Duration,
        meter: Option<Meter>,
    ) -> Self {
        Self { first, broken, answer, meter, record, limit, waiting: None, idle: None, ended: false, is_buffered: true }
    }

    fn see(&mut self, piece: &Bytes) {
        if let Some(entry) = &mut self.record.entry {
            entry.note_chunk();
        }
        if let Some(meter) = &mut self.meter {
            meter.see(piece);
        }
    }

    /// An error makes hyper drop what it has not sent, so that is sent first.
    fn poll_cut(&mut self, why: String, context: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Interrupted>>> {
        if std::mem::take(&mut self.is_buffered) {
            self.broken = Some(why);
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.cut(why)
    }

    fn cut(&mut self, why: String) -> Poll<Option<Result<Frame<Bytes>, Interrupted>>> {
        log::warn!("a response of the provider was cut off: {why}");
        if let Some(entry) = &mut self.record.entry {
            entry.outcome.is_cut = true;
        }
        Poll::Ready(Some(Err(Interrupted(why))))
    }

    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Interrupted>>> {
        loop {
            let now = Instant::now();
            let waiting = *self.waiting.get_or_insert(now);
            let since = self.answer.given_at().map_or(waiting, |given_at| given_at.max(waiting));
            let rest = (since + self.limit).saturating_duration_since(now);
            if rest.is_zero() {
                return self.cut(format!("the provider sent no data for {} s", self.limit.as_secs()));
            }
            let idle = self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(rest)));
            ready!(idle.as_mut().poll(context));
            self.idle = None;
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Interrupted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Interrupted>>> {
        let body = match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Self::Whole(bytes) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Passing(body) => body,
        };
        if let Some(first) = body.first.take() {
            body.see(&first);
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if let Some(why) = body.broken.take() {
            return body.poll_cut(why, context);
        }
        match body.answer.poll_data(context) {
            Poll::Ready(Some(Ok(data))) => {
                body.waiting = None;
                body.is_buffered = true;
                body.see(&data);
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Poll::Ready(Some(Err(why))) => body.poll_cut(why, context),
            Poll::Ready(None) => {
                body.ended = true;
                Poll::Ready(None)
            }
            Poll::Pending => {
                body.is_buffered = false;
                body.poll_idle(context)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Passing(body) => body.first.is_none() && body.broken.is_none() && body.answer.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Passing(body) => {
                let first = body.first.as_ref().map_or(0, Bytes::len) as u64;
                body.answer.left().map_or_else(SizeHint::default, |left| SizeHint::with_exact(first + left))
            }
        }
    }
}

impl Drop for ForwardedBody {
    /// The end of every response: complete, aborted, or abandoned by the client.
    fn drop(&mut self) {
        let ended = self.ended || self.first.is_none() && self.broken.is_none() && self.answer.is_end();
        if let Some(meter) = &mut self.meter {
            self.record.note_usage(meter, ended);
        }
        if let Some(entry) = &mut self.record.entry {
            entry.outcome.complete = ended;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_page_of_the_gateway_has_its_length_and_ends_after_one_frame() {
        let mut body = ResponseBody::Whole(Bytes::from_static(b"page"));
        let mut context = Context::from_waker(Waker::noop());
        let mut next = |body: &mut ResponseBody| match Pin::new(body).poll_frame(&mut context) {
            Poll::Ready(frame) => frame.map(|frame| frame.unwrap().into_data().unwrap()),
            Poll::Pending => panic!("it is whole"),
        };
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(4), false));
        assert_eq!(next(&mut body), Some(Bytes::from_static(b"page")));
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(0), true));
        assert_eq!(next(&mut body), None);
    }
}
