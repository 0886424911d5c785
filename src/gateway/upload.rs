//! The body of a request on its way up: streamed as it comes, and kept as long as it may have to be sent again.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

/// Why a body broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// It is longer than `--max-body`.
    TooLong,
    /// The client stopped sending.
    ByClient,
}

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::TooLong => "the request is longer than the gateway takes",
            Self::ByClient => "the client stopped in the middle of its request",
        })
    }
}

impl std::error::Error for Broken {}

/// One request's body, read once from the client and given out to one reader after another.
#[derive(Clone)]
pub(super) struct Upload(Rc<RefCell<Source>>);

struct Source {
    incoming: Incoming,
    /// What came so far, unless it is no longer kept.
    kept: Vec<Bytes>,
    kept_length: usize,
    /// Whether readers may still come; see [`Upload::stop_keeping`].
    keeps: bool,
    /// More came than is kept: whoever reads first takes the pieces away.
    is_over: bool,
    has_reader: bool,
    /// How many pieces the newest reader gave out.
    given: usize,
    /// How many pieces came.
    pieces: usize,
    length: u64,
    ended: bool,
    broken: Option<Broken>,
    /// The reader that waits for a piece which [`Upload::while_reading`] may get instead.
    waiting: Option<Waker>,
    replay_limit: usize,
    longest: u64,
}

impl Upload {
    pub(super) fn new(incoming: Incoming, replay_limit: usize, longest: u64) -> Self {
        let ended = incoming.is_end_stream();
        Self(Rc::new(RefCell::new(Source {
            incoming,
            kept: Vec::new(),
            kept_length: 0,
            keeps: true,
            is_over: false,
            has_reader: false,
            given: 0,
            pieces: 0,
            length: 0,
            ended,
            broken: None,
            waiting: None,
            replay_limit,
            longest,
        })))
    }

    /// A reader from the first byte on, if that is still there.
    pub(super) fn reader(&self) -> Option<Reader> {
        let mut source = self.0.borrow_mut();
        if source.has_reader && (source.is_over || !source.keeps) {
            return None;
        }
        source.has_reader = true;
        source.given = 0;
        Some(Reader { upload: self.clone(), position: 0 })
    }

    /// Whether [`Upload::reader`] would find everything there.
    pub(super) fn can_be_read_again(&self) -> bool {
        let source = self.0.borrow();
        source.keeps && !source.is_over
    }

    /// No further reader will come: what was kept goes now, or when the last one has given it out. An answer may take
    /// minutes, and a request be megabytes.
    pub(super) fn stop_keeping(&self) {
        let mut source = self.0.borrow_mut();
        source.keeps = false;
        source.is_over = true;
        let given = source.given;
        source.kept.iter_mut().take(given).for_each(|piece| drop(std::mem::take(piece)));
    }

    pub(super) fn broken(&self) -> Option<Broken> {
        self.0.borrow().broken
    }

    pub(super) fn has_ended(&self) -> bool {
        self.0.borrow().ended
    }

    /// The first bytes, where the model is named as a rule.
    pub(super) fn first(&self) -> Option<Bytes> {
        self.0.borrow().kept.first().cloned()
    }

    /// Works on `task` and meanwhile reads what the client sends, as far as it can be kept: a connection is seen to
    /// close only while it is read.
    pub(super) async fn while_reading<T>(&self, task: impl Future<Output = T>) -> T {
        let mut task = pin!(task);
        poll_fn(|context| {
            if let Poll::Ready(outcome) = task.as_mut().poll(context) {
                return Poll::Ready(outcome);
            }
            let mut source = self.0.borrow_mut();
            while !source.is_over
                && !source.ended
                && source.broken.is_none()
                && source.kept_length < source.replay_limit
            {
                if source.poll_piece(context).is_pending() {
                    break;
                }
                if let Some(reader) = source.waiting.take() {
                    reader.wake();
                }
            }
            Poll::Pending
        })
        .await
    }
}

impl Source {
    /// Reads one piece more from the client.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            let Some(frame) = ready!(Pin::new(&mut self.incoming).poll_frame(context)) else {
                self.ended = true;
                return Poll::Ready(None);
            };
            let Ok(frame) = frame else {
                self.broken = Some(Broken::ByClient);
                return Poll::Ready(None);
            };
            // Trailers stay behind.
            let Ok(piece) = frame.into_data() else { continue };
            self.length += piece.len() as u64;
            if self.length > self.longest {
                self.broken = Some(Broken::TooLong);
                return Poll::Ready(None);
            }
            self.pieces += 1;
            self.ended = self.incoming.is_end_stream();
            self.kept_length += piece.len();
            if self.kept_length > self.replay_limit {
                self.is_over = true;
            }
            self.kept.push(piece.clone());
            return Poll::Ready(Some(piece));
        }
    }
}

/// A body for one try.
pub(super) struct Reader {
    upload: Upload,
    /// How many pieces were given out.
    position: usize,
}

impl Body for Reader {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let upload = self.upload.clone();
        let mut source = upload.0.borrow_mut();
        if self.position < source.pieces {
            // A reader that is behind is the newest one: pieces are kept for it.
            let is_over = source.is_over;
            let Some(piece) = source.kept.get_mut(self.position) else {
                return Poll::Ready(Some(Err(Broken::ByClient)));
            };
            let piece = if is_over { std::mem::take(piece) } else { piece.clone() };
            self.position += 1;
            source.given = self.position;
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if let Some(broken) = source.broken {
            return Poll::Ready(Some(Err(broken)));
        }
        if source.ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(piece) = source.poll_piece(context) else {
            source.waiting = Some(context.waker().clone());
            return Poll::Pending;
        };
        self.position = source.pieces;
        source.given = self.position;
        if source.is_over {
            // Only the places of the pieces are kept.
            source.kept.iter_mut().for_each(|piece| drop(std::mem::take(piece)));
        }
        Poll::Ready(match (piece, source.broken) {
            (Some(piece), _) => Some(Ok(Frame::data(piece))),
            (None, Some(broken)) => Some(Err(broken)),
            (None, None) => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        let source = self.upload.0.borrow();
        source.ended && self.position >= source.pieces
    }

    fn size_hint(&self) -> SizeHint {
        let source = self.upload.0.borrow();
        if source.ended {
            let kept: usize = source.kept.iter().skip(self.position).map(Bytes::len).sum();
            return SizeHint::with_exact(kept as u64);
        }
        SizeHint::new()
    }
}
