//! What the client gets: a sentence of our own, or an answer that passes through.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use super::lane::Record;
use super::meter::Meter;
use super::upload::Upload;
use super::upstream::Leased;

pub(super) enum Answer {
    Whole(Bytes),
    Passing(Box<Download>),
}

/// An error in the middle of an answer: the connection to the client is cut, so that nobody takes the rest for all.
#[derive(Debug)]
pub(super) struct Cut(String);

impl Cut {
    fn log(why: String) -> Self {
        log::warn!("an answer of the provider broke off: {why}");
        Self(why)
    }
}

impl std::fmt::Display for Cut {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Cut {}

/// The body of the provider's answer on its way down.
pub(super) struct Download {
    /// What was read ahead, to judge an error or to send it together with the headers.
    first: Option<Bytes>,
    /// Why there is no more after it, if the body broke off.
    broken: Option<String>,
    incoming: Incoming,
    leased: Option<Leased>,
    upload: Upload,
    meter: Option<Meter>,
    record: Record,
    /// Longest time without a byte, and when the last one came.
    limit: Duration,
    last: Instant,
    idle: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl Download {
    #[expect(clippy::too_many_arguments, reason = "one place makes it, of what it has at hand")]
    pub(super) fn new(
        first: Option<Bytes>,
        broken: Option<String>,
        incoming: Incoming,
        leased: Leased,
        upload: Upload,
        record: Record,
        limit: Duration,
        meter: Option<Meter>,
    ) -> Self {
        let last = Instant::now();
        let leased = Some(leased);
        Self { first, broken, incoming, leased, upload, meter, record, limit, last, idle: None, ended: false }
    }

    fn see(&mut self, piece: &Bytes) {
        if let Some(meter) = &mut self.meter {
            meter.see(piece);
        }
    }

    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        loop {
            let rest = (self.last + self.limit).saturating_duration_since(Instant::now());
            if rest.is_zero() {
                let cut = format!("the provider sent nothing for {} s", self.limit.as_secs());
                return Poll::Ready(Some(Err(Cut::log(cut))));
            }
            let idle = self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(rest)));
            ready!(idle.as_mut().poll(context));
            self.idle = None;
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let download = match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Self::Whole(bytes) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Passing(download) => download,
        };
        if let Some(first) = download.first.take() {
            download.see(&first);
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if let Some(why) = download.broken.take() {
            return Poll::Ready(Some(Err(Cut::log(why))));
        }
        match Pin::new(&mut download.incoming).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                download.last = Instant::now();
                if let Some(piece) = frame.data_ref() {
                    let piece = piece.clone();
                    download.see(&piece);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(Cut::log(error.to_string())))),
            Poll::Ready(None) => {
                download.ended = true;
                Poll::Ready(None)
            }
            Poll::Pending => download.poll_idle(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Passing(download) => {
                download.first.is_none() && download.broken.is_none() && download.incoming.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Passing(download) => {
                let first = download.first.as_ref().map_or(0, Bytes::len) as u64;
                match download.incoming.size_hint().exact() {
                    Some(rest) => SizeHint::with_exact(first + rest),
                    None => SizeHint::default(),
                }
            }
        }
    }
}

impl Drop for Download {
    /// The end of every answer, whole, cut, or left by the client.
    fn drop(&mut self) {
        if let Some(meter) = &self.meter {
            self.record.see(meter);
        }
        let ended = self.ended || self.first.is_none() && self.broken.is_none() && self.incoming.is_end_stream();
        if let Some(entry) = &mut self.record.entry {
            entry.outcome.complete = ended;
        }
        if let Some(leased) = self.leased.take().filter(|_| ended && self.upload.has_ended()) {
            leased.give_back();
        }
    }
}
