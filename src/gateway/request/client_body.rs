//! The body of a client's request, read to its end even if nobody wants it any more.
//!
//! Hazard: a request that is answered before all of it was sent. A connection that is closed while bytes of the client are
//! unread is reset, and the client may see that in place of the answer (RFC 9112 §9.6). Rule: what is left of a body is
//! read and dropped for [`LINGER`]; then the connection serves the next request.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming};
use tokio::time::Sleep;

/// How long the rest of a request that was answered is read, so that its client sees the answer.
pub(in crate::gateway) const LINGER: Duration = Duration::from_secs(10);

/// What is left of such a request, read by the task of its connection.
#[derive(Default)]
pub(in crate::gateway) struct Unread {
    left: RefCell<Option<Leftover>>,
    /// Whether a body could not be read: its connection serves no other request, and bytes may follow.
    is_malformed: Cell<bool>,
}

struct Leftover {
    incoming: Incoming,
    /// Starts when it is read for the first time: where it was dropped there may be no runtime any more.
    over: Option<Pin<Box<Sleep>>>,
}

impl Unread {
    /// Reads what has come and drops it. Call this whenever the connection waits.
    pub(in crate::gateway) fn poll(&self, context: &mut Context<'_>) {
        let mut left = self.left.borrow_mut();
        let Some(Leftover { incoming, over }) = &mut *left else { return };
        let over = over.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        loop {
            match Pin::new(&mut *incoming).poll_frame(context) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Pending if over.as_mut().poll(context).is_pending() => return,
                _ => break,
            }
        }
        *left = None;
    }

    pub(in crate::gateway) fn is_malformed(&self) -> bool {
        self.is_malformed.get()
    }
}

pub(in crate::gateway) struct ClientBody {
    /// `None` once it has ended or is broken.
    incoming: Option<Incoming>,
    unread: Rc<Unread>,
}

impl ClientBody {
    pub(in crate::gateway) fn new(incoming: Incoming, unread: &Rc<Unread>) -> Self {
        Self { incoming: Some(incoming), unread: Rc::clone(unread) }
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take().filter(|incoming| !incoming.is_end_stream()) {
            *self.unread.left.borrow_mut() = Some(Leftover { incoming, over: None });
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(incoming).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.unread.is_malformed.set(frame.is_some());
            self.incoming = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }
}
