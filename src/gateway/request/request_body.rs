//! Request body: streamed to the provider, and buffered while a retry is possible.
//!
//! Hazard: a client can send much more slowly than announced, in chunks of a byte, over many connections at once. Rule:
//! the buffers of all requests together have one [`BodyBudget`]; a body beyond it is streamed and cannot be sent again. A
//! chunk costs the same wherever it is in the body.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::error::Error as _;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use hyper::body::{Body as _, Bytes};

use super::client_body::ClientBody;
use crate::gateway::telemetry::meter::RequestModel;

/// How much of a body is read to find the model, which is usually named here.
const HEAD_LENGTH: usize = 4096;

/// A body that must be kept and is no longer than this is kept beyond the budget, in bytes.
const SMALL: usize = 256 * 1024;

/// What all such bodies may have beyond the budget: of 64 requests at once.
const RESERVE: usize = 64 * SMALL;

/// Why a body broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Broken {
    /// It is longer than `--max-body`.
    TooLong,
    /// The client stopped sending.
    ByClient,
    /// The client sent what is no chunk.
    Malformed,
}

impl Broken {
    /// Why the client's own body cannot be read.
    fn of(error: &hyper::Error) -> Self {
        let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
        match cause {
            Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => Self::Malformed,
            _ => Self::ByClient,
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::TooLong => "the request is longer than the gateway accepts",
            Self::ByClient => "the client closed the connection before the end of its request",
            Self::Malformed => "the client sent a malformed chunk",
        })
    }
}

impl std::error::Error for Broken {}

/// What the bodies of all requests may keep in memory together, in bytes.
pub(in crate::gateway) struct BodyBudget {
    limit: usize,
    used: Cell<usize>,
}

impl BodyBudget {
    pub(in crate::gateway) fn new(limit: usize) -> Rc<Self> {
        Rc::new(Self { limit, used: Cell::new(0) })
    }

    fn is_exceeded_by(&self, reserve: usize) -> bool {
        self.used.get() > self.limit.saturating_add(reserve)
    }

    fn take(&self, cost: usize) {
        self.used.set(self.used.get() + cost);
    }

    fn give_back(&self, cost: usize) {
        self.used.set(self.used.get() - cost);
    }
}

/// What keeping a chunk costs: chunks of a byte are mostly administration.
fn cost(chunk: &Bytes) -> usize {
    chunk.len() + size_of::<Bytes>()
}

/// One request's body, read once from the client and given out to one reader after another.
#[derive(Clone)]
pub(in crate::gateway) struct RequestBody(Rc<RefCell<Source>>);

struct Source {
    /// `None` for a body that is whole from the start.
    incoming: Option<ClientBody>,
    /// The chunks that are kept, in order; the first of them is number `dropped`.
    kept: VecDeque<Bytes>,
    dropped: usize,
    /// The first bytes of the body, once the chunks they were in are dropped.
    head: Vec<u8>,
    /// Bytes received while all of them were kept.
    kept_length: usize,
    /// Whether all of it is kept for another reader: the body is within the limits, and [`RequestBody::stop_keeping`] was not
    /// called.
    keeps: bool,
    /// Whether the request cannot be served unless all of it is kept.
    is_required: bool,
    /// Whether it is not kept because of the other requests' bodies.
    is_over_budget: bool,
    has_reader: bool,
    /// How many chunks the newest reader gave out, and when it gave out the last one, if that was not the first.
    given: usize,
    given_at: Option<Instant>,
    length: u64,
    ended: bool,
    broken: Option<Broken>,
    /// The reader that waits for a chunk which [`RequestBody::while_reading`] may receive instead.
    waiting: Option<Waker>,
    replay_limit: usize,
    longest: u64,
    budget: Rc<BodyBudget>,
}

impl RequestBody {
    pub(in crate::gateway) fn new(
        incoming: ClientBody,
        replay_limit: usize,
        longest: u64,
        budget: &Rc<BodyBudget>,
    ) -> Self {
        let ended = incoming.is_end_stream();
        let mut source = Source::empty(replay_limit, longest, budget);
        source.incoming = Some(incoming);
        source.ended = ended;
        Self(Rc::new(RefCell::new(source)))
    }

    /// It must be kept to its end: a small one is kept although others have used the budget.
    pub(in crate::gateway) fn require(&self) {
        self.0.borrow_mut().is_required = true;
    }

    /// Whether it is not kept because of the other requests' bodies.
    pub(in crate::gateway) fn is_over_budget(&self) -> bool {
        self.0.borrow().is_over_budget
    }

    /// A body that is in memory already.
    pub(in crate::gateway) fn whole(chunks: Vec<Bytes>, budget: &Rc<BodyBudget>) -> Self {
        let mut source = Source::empty(usize::MAX, u64::MAX, budget);
        source.ended = true;
        for chunk in chunks {
            source.length += chunk.len() as u64;
            source.budget.take(cost(&chunk));
            source.kept.push_back(chunk);
        }
        Self(Rc::new(RefCell::new(source)))
    }

    /// A reader from the first byte on, if that is still there.
    pub(in crate::gateway) fn reader(&self) -> Option<Reader> {
        let mut source = self.0.borrow_mut();
        if source.has_reader && !source.keeps {
            return None;
        }
        source.has_reader = true;
        source.given = 0;
        source.given_at = None;
        source.waiting = None;
        Some(Reader { request_body: self.clone(), position: 0, given_length: 0 })
    }

    /// The chunks of the body so far, unless some of them are dropped.
    pub(in crate::gateway) fn kept(&self) -> Vec<Bytes> {
        let source = self.0.borrow();
        if source.dropped == 0 { source.kept.iter().cloned().collect() } else { Vec::new() }
    }

    /// Reads what the client sends until all of it is kept. Returns whether it is.
    pub(in crate::gateway) async fn keep_all(&self) -> bool {
        poll_fn(|context| {
            let mut source = self.0.borrow_mut();
            while source.keeps && !source.ended && source.broken.is_none() {
                ready!(source.poll_chunk(context));
            }
            Poll::Ready(source.keeps && source.ended && source.dropped == 0)
        })
        .await
    }

    /// Whether [`RequestBody::reader`] would find everything there.
    pub(in crate::gateway) fn can_be_read_again(&self) -> bool {
        self.0.borrow().keeps
    }

    /// There will be no further reader: the buffer is dropped now, or when the last reader has read it. A response may
    /// take minutes, and a request be megabytes.
    pub(in crate::gateway) fn stop_keeping(&self) {
        let mut source = self.0.borrow_mut();
        source.keeps = false;
        source.drop_given();
    }

    /// When a further part of it was last sent: what comes at once is not noted.
    pub(in crate::gateway) fn given_at(&self) -> Option<Instant> {
        self.0.borrow().given_at
    }

    /// Whether all that has come of it was sent, and the client is to send more.
    pub(in crate::gateway) fn waits_for_client(&self) -> bool {
        let source = self.0.borrow();
        source.waiting.is_some() && !source.ended && source.broken.is_none()
    }

    pub(in crate::gateway) fn broken(&self) -> Option<Broken> {
        self.0.borrow().broken
    }

    /// The most that it may have, in bytes.
    pub(in crate::gateway) fn longest(&self) -> u64 {
        self.0.borrow().longest
    }

    /// Whether the client sends none.
    pub(in crate::gateway) fn is_empty(&self) -> bool {
        let source = self.0.borrow();
        source.ended && source.length == 0
    }

    /// The model in what is kept of it, or was in its first bytes.
    pub(in crate::gateway) fn model(&self) -> Option<String> {
        let source = self.0.borrow();
        let found = if source.dropped == 0 {
            RequestModel::find(&source.kept)
        } else {
            let mut head = source.head.clone();
            source.kept.iter().take_while(|chunk| fill(&mut head, chunk)).for_each(drop);
            RequestModel::find([&head.into()])
        };
        found.map(|model| model.name)
    }

    /// Keeps what the client has sent already, without waiting for more.
    pub(in crate::gateway) async fn keep_arrived(&self) {
        poll_fn(|context| {
            self.0.borrow_mut().read_ahead(context);
            Poll::Ready(())
        })
        .await;
    }

    /// Works on `task` and meanwhile reads what the client sends, as far as it can be kept: a connection is seen to
    /// close only while it is read.
    pub(in crate::gateway) async fn while_reading<T>(&self, task: impl Future<Output = T>) -> T {
        self.while_reading_and(task, || {}).await
    }

    /// The same; does `also`, once, if it has to wait.
    pub(in crate::gateway) async fn while_reading_and<T>(
        &self,
        task: impl Future<Output = T>,
        also: impl FnOnce(),
    ) -> T {
        let mut task = pin!(task);
        let mut also = Some(also);
        poll_fn(|context| {
            if let Poll::Ready(outcome) = task.as_mut().poll(context) {
                return Poll::Ready(outcome);
            }
            self.0.borrow_mut().read_ahead(context);
            if let Some(also) = also.take() {
                also();
            }
            Poll::Pending
        })
        .await
    }
}

impl Source {
    fn empty(replay_limit: usize, longest: u64, budget: &Rc<BodyBudget>) -> Self {
        Self {
            incoming: None,
            kept: VecDeque::new(),
            dropped: 0,
            head: Vec::new(),
            kept_length: 0,
            keeps: true,
            is_required: false,
            is_over_budget: false,
            has_reader: false,
            given: 0,
            given_at: None,
            length: 0,
            ended: false,
            broken: None,
            waiting: None,
            replay_limit,
            longest,
            budget: Rc::clone(budget),
        }
    }

    /// How many chunks were received.
    fn received(&self) -> usize {
        self.dropped + self.kept.len()
    }

    /// Reads one chunk more from the client, and keeps it until it is given out for the last time.
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<()>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        loop {
            let Some(frame) = ready!(Pin::new(&mut *incoming).poll_frame(context)) else {
                self.ended = true;
                return Poll::Ready(None);
            };
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => {
                    self.broken = Some(Broken::of(&error));
                    return Poll::Ready(None);
                }
            };
            // Trailers stay behind.
            let Ok(chunk) = frame.into_data() else { continue };
            self.length += chunk.len() as u64;
            if self.length > self.longest {
                self.broken = Some(Broken::TooLong);
                return Poll::Ready(None);
            }
            self.ended = incoming.is_end_stream();
            self.keep(chunk);
            return Poll::Ready(Some(()));
        }
    }

    /// Keeps a chunk, for another reader too if the limits allow it.
    fn keep(&mut self, chunk: Bytes) {
        self.kept_length = self.kept_length.saturating_add(chunk.len());
        self.budget.take(cost(&chunk));
        self.kept.push_back(chunk);
        let is_too_long = self.kept_length > self.replay_limit;
        if is_too_long || self.exceeds_budget() {
            self.is_over_budget |= self.keeps && !is_too_long;
            self.keeps = false;
            self.drop_given();
        }
    }

    fn exceeds_budget(&self) -> bool {
        let is_small = self.is_required && self.kept_length <= SMALL;
        self.budget.is_exceeded_by(if is_small { RESERVE } else { 0 })
    }

    /// Reads what has arrived, as far as it can be kept.
    fn read_ahead(&mut self, context: &mut Context<'_>) {
        while self.keeps
            && !self.ended
            && self.broken.is_none()
            && self.kept_length < self.replay_limit
            && !self.exceeds_budget()
            && self.poll_chunk(context).is_ready()
        {
            if let Some(reader) = self.waiting.take() {
                reader.wake();
            }
        }
    }

    /// Drops the chunks that no reader needs any more.
    fn drop_given(&mut self) {
        while self.dropped < self.given
            && let Some(chunk) = self.kept.pop_front()
        {
            fill(&mut self.head, &chunk);
            self.budget.give_back(cost(&chunk));
            self.dropped += 1;
        }
        // Places of many small chunks are not kept for the rest of a long body.
        if self.kept.is_empty() && self.kept.capacity() > 1024 {
            self.kept = VecDeque::new();
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.budget.give_back(self.kept.iter().map(cost).sum());
    }
}

/// Appends what fits, and returns whether there is space for more.
fn fill(head: &mut Vec<u8>, chunk: &Bytes) -> bool {
    let room = HEAD_LENGTH - head.len();
    head.extend_from_slice(&chunk[..chunk.len().min(room)]);
    head.len() < HEAD_LENGTH
}

/// A body for one try.
pub(in crate::gateway) struct Reader {
    request_body: RequestBody,
    /// How many chunks were given out, and how many bytes.
    position: usize,
    given_length: u64,
}

impl Reader {
    /// The next data; `None` at the end of the body.
    pub(in crate::gateway) fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let mut source = self.request_body.0.borrow_mut();
        if self.position == source.received() {
            if let Some(broken) = source.broken {
                return Poll::Ready(Some(Err(broken)));
            }
            if source.ended {
                return Poll::Ready(None);
            }
            let Poll::Ready(chunk) = source.poll_chunk(context) else {
                source.waiting = Some(context.waker().clone());
                return Poll::Pending;
            };
            if chunk.is_none() {
                return Poll::Ready(source.broken.map(Err));
            }
        }
        // Chunks are kept for the newest reader only; an older one is not read any more.
        let kept = self.position.checked_sub(source.dropped).and_then(|place| source.kept.get(place)).cloned();
        let Some(chunk) = kept else { return Poll::Ready(Some(Err(Broken::ByClient))) };
        if self.position > 0 {
            source.given_at = Some(Instant::now());
        }
        source.waiting = None;
        self.position += 1;
        self.given_length += chunk.len() as u64;
        source.given = self.position;
        if !source.keeps {
            source.drop_given();
        }
        Poll::Ready(Some(Ok(chunk)))
    }

    /// See [`RequestBody::given_at`].
    pub(in crate::gateway) fn given_at(&self) -> Option<Instant> {
        self.request_body.given_at()
    }

    /// Whether all of it was given out.
    pub(in crate::gateway) fn has_ended(&self) -> bool {
        let source = self.request_body.0.borrow();
        source.ended && self.position >= source.received()
    }

    /// Bytes that are still to be given out, once the client has sent them all.
    pub(in crate::gateway) fn length(&self) -> Option<u64> {
        let source = self.request_body.0.borrow();
        source.ended.then(|| source.length - self.given_length)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::pending;

    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncWriteExt, DuplexStream};
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn each_part_after_the_first_is_noted_when_it_is_given_out() {
        let body =
            RequestBody::whole(vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")], &BodyBudget::new(usize::MAX));
        let mut reader = body.reader().unwrap();
        let mut is_noted = || {
            let _ = reader.poll_chunk(&mut Context::from_waker(Waker::noop()));
            body.given_at().is_some()
        };
        assert_eq!([is_noted(), is_noted()], [false, true]);
        // Another attempt begins anew.
        let _ = body.reader().unwrap();
        assert_eq!(body.given_at(), None);
    }

    fn source(is_required: bool, budget: &Rc<BodyBudget>) -> Source {
        let mut source = Source::empty(2 * SMALL, u64::MAX, budget);
        source.is_required = is_required;
        source
    }

    fn keep(source: &mut Source, length: usize) -> (bool, bool) {
        source.keep(Bytes::from(vec![0; length]));
        (source.keeps, source.is_over_budget)
    }

    #[test]
    fn a_small_body_that_must_be_kept_is_kept_whatever_others_use() {
        let budget = BodyBudget::new(SMALL);
        let mut large = source(false, &budget);
        assert_eq!(keep(&mut large, SMALL + 1), (false, true));
        assert_eq!(keep(&mut source(false, &budget), 1), (false, true));
        let mut small = source(true, &budget);
        assert_eq!(keep(&mut small, SMALL), (true, false));
        assert_eq!(keep(&mut small, 1), (false, true), "it is not small any more");
    }

    #[test]
    fn all_small_bodies_together_are_bounded_too() {
        let budget = BodyBudget::new(0);
        let mut kept: Vec<Source> = (0..80).map(|_| source(true, &budget)).collect();
        let count = kept.iter_mut().map(|source| keep(source, SMALL)).filter(|(keeps, _)| *keeps).count();
        assert_eq!(count, 63, "each chunk costs its administration as well");
        drop(kept);
        assert_eq!(budget.used.get(), 0);
    }

    #[test]
    fn a_body_beyond_the_replay_limit_is_too_long_for_any_budget() {
        let budget = BodyBudget::new(0);
        assert_eq!(keep(&mut source(true, &budget), 2 * SMALL + 1), (false, false));
    }

    fn whole(chunks: &[&'static str], budget: &Rc<BodyBudget>) -> RequestBody {
        RequestBody::whole(chunks.iter().map(|chunk| Bytes::from_static(chunk.as_bytes())).collect(), budget)
    }

    fn next(reader: &mut Reader) -> Option<Bytes> {
        match reader.poll_chunk(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(chunk) => chunk.map(Result::unwrap),
            Poll::Pending => panic!("it is whole"),
        }
    }

    /// What `test` makes of the body of a request, and the client's end of its connection.
    fn received(limit: usize, budget: &Rc<BodyBudget>, test: impl AsyncFnOnce(RequestBody, DuplexStream)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(1024);
            let (give, body) = oneshot::channel();
            let (give, unread) = (Cell::new(Some(give)), Rc::default());
            let service = service_fn(|request: Request<Incoming>| {
                let body = RequestBody::new(ClientBody::new(request.into_body(), &unread), limit, u64::MAX, budget);
                drop(give.take().unwrap().send(body));
                pending::<Result<Response<String>, Infallible>>()
            });
            let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
            client.write_all(head).await.unwrap();
            let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(server), service));
            let mut test = pin!(async { test(body.await.unwrap(), client).await });
            // The connection receives all that there is before the test goes on.
            poll_fn(|context| {
                let _ = connection.as_mut().poll(context);
                test.as_mut().poll(context)
            })
            .await;
        });
    }

    async fn sent(client: &mut DuplexStream, chunk: &str) {
        client.write_all(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes()).await.unwrap();
    }

    /// What is kept once everything has arrived that is read ahead.
    async fn kept(body: &RequestBody) -> String {
        for _ in 0..10 {
            body.keep_arrived().await;
            tokio::task::yield_now().await;
        }
        String::from_utf8(body.kept().concat()).unwrap()
    }

    #[test]
    fn a_body_is_read_ahead_as_far_as_it_can_be_kept() {
        received(5, &BodyBudget::new(usize::MAX), async |body, mut client| {
            for (chunk, all) in [("abc", "abc"), ("de", "abcde"), ("fg", "abcde")] {
                sent(&mut client, chunk).await;
                assert_eq!(kept(&body).await, all);
                assert!(body.can_be_read_again());
            }
            assert!(!body.keep_all().await && !body.can_be_read_again());
        });
        // The bodies of other requests leave no room for a second chunk.
        received(usize::MAX, &BodyBudget::new(size_of::<Bytes>()), async |body, mut client| {
            for chunk in ["abc", "de"] {
                sent(&mut client, chunk).await;
                assert_eq!(kept(&body).await, "abc");
            }
            assert!(!body.can_be_read_again());
        });
    }

    #[test]
    fn all_of_a_body_is_kept_or_it_is_not() {
        received(usize::MAX, &BodyBudget::new(usize::MAX), async |body, mut client| {
            sent(&mut client, "abc").await;
            sent(&mut client, "").await;
            assert!(body.keep_all().await && body.broken().is_none());
            assert_eq!(kept(&body).await, "abc");
        });
        received(usize::MAX, &BodyBudget::new(usize::MAX), async |body, mut client| {
            sent(&mut client, "abc").await;
            drop(client);
            assert!(!body.keep_all().await);
            assert_eq!(body.broken(), Some(Broken::ByClient));
        });
        received(usize::MAX, &BodyBudget::new(usize::MAX), async |body, mut client| {
            client.write_all(b"3\r\nabc\r\nno length\r\n").await.unwrap();
            assert!(!body.keep_all().await);
            assert_eq!(body.broken(), Some(Broken::Malformed));
        });
    }

    #[test]
    fn a_body_waits_for_its_client_once_all_that_came_was_given_out() {
        received(usize::MAX, &BodyBudget::new(usize::MAX), async |body, mut client| {
            let mut reader = body.reader().unwrap();
            let mut given = async || poll_fn(|context| Poll::Ready(reader.poll_chunk(context).is_ready())).await;
            sent(&mut client, "abc").await;
            assert_eq!(kept(&body).await, "abc");
            assert!(!body.waits_for_client());
            assert!(given().await && !body.waits_for_client());
            assert!(!given().await && body.waits_for_client());
            sent(&mut client, "de").await;
            assert_eq!(kept(&body).await, "abcde");
            assert!(!body.waits_for_client());
            assert!(given().await && !given().await && body.waits_for_client());
            sent(&mut client, "").await;
            assert!(body.keep_all().await && !body.waits_for_client());
        });
    }

    #[test]
    fn what_is_kept_of_all_bodies_counts_until_it_is_given_out_for_the_last_time() {
        let each = size_of::<Bytes>();
        let budget = BodyBudget::new(2 * each + 5);
        let body = whole(&["abc", "de"], &budget);
        assert_eq!((budget.used.get(), budget.is_exceeded_by(0)), (2 * each + 5, false));
        let other = whole(&[""], &budget);
        assert_eq!((budget.used.get(), budget.is_exceeded_by(0)), (3 * each + 5, true));
        drop(other);
        assert_eq!((budget.used.get(), budget.is_exceeded_by(0)), (2 * each + 5, false));
        let mut reader = body.reader().unwrap();
        assert_eq!((next(&mut reader).unwrap(), budget.used.get()), (Bytes::from_static(b"abc"), 2 * each + 5));
        body.stop_keeping();
        assert_eq!(budget.used.get(), each + 2);
        assert_eq!((next(&mut reader).unwrap(), budget.used.get()), (Bytes::from_static(b"de"), 0));
        assert!(body.reader().is_none());
    }

    #[test]
    fn a_reader_knows_what_it_has_yet_to_give_out() {
        let body = whole(&["abc", "de", "f"], &BodyBudget::new(0));
        let mut reader = body.reader().unwrap();
        for left in [6, 3, 1] {
            assert_eq!((reader.length(), reader.has_ended()), (Some(left), false));
            assert!(next(&mut reader).is_some());
        }
        assert_eq!((reader.length(), reader.has_ended(), next(&mut reader)), (Some(0), true, None));
        // The next one begins anew.
        let mut reader = body.reader().unwrap();
        assert_eq!((reader.length(), next(&mut reader).unwrap()), (Some(6), Bytes::from_static(b"abc")));
    }

    #[test]
    fn places_of_many_small_chunks_are_not_kept_for_the_rest_of_a_long_body() {
        let places = |chunks: usize, given: usize| {
            let budget = BodyBudget::new(usize::MAX);
            let body = RequestBody::whole(vec![Bytes::from_static(b"a"); chunks], &budget);
            let mut reader = body.reader().unwrap();
            body.stop_keeping();
            (0..given).for_each(|_| drop(next(&mut reader)));
            let source = body.0.borrow();
            (source.kept.len(), source.kept.capacity())
        };
        let (kept, capacity) = places(2000, 1999);
        assert!(kept == 1 && capacity >= 2000);
        assert_eq!(places(2000, 2000), (0, 0));
        // Those of few are used again.
        let (kept, capacity) = places(1024, 1024);
        assert!(kept == 0 && capacity == 1024, "{capacity}");
    }

    #[test]
    fn the_model_is_found_in_the_first_bytes_of_a_body_that_is_dropped() {
        let budget = BodyBudget::new(usize::MAX);
        let space: &'static str = Box::leak(" ".repeat(HEAD_LENGTH - 10).into_boxed_str());
        for (chunks, model) in [
            (&[r#"{"mod"#, r#"el":"#, r#""m"}"#][..], Some("m")),
            (&["{", space, r#""a":1,"model":"m"}"#], None),
            (&["{", space, " ", r#""model":"m"}"#], None),
        ] {
            for given in 0..=chunks.len() {
                let body = whole(chunks, &budget);
                let mut reader = body.reader().unwrap();
                body.stop_keeping();
                (0..given).for_each(|_| drop(next(&mut reader)));
                let found = if given == 0 { Some("m") } else { model };
                assert_eq!(body.model().as_deref(), found, "{given}");
                assert!(body.0.borrow().head.len() <= HEAD_LENGTH);
            }
        }
    }
}
