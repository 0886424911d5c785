//! The connections of clients: accepted, secured, bounded in number, and closed at the end.
//!
//! Hazard: any user of the machine can connect, as often as they like.
//! Rule: connections that have not shown a key are few and cheap.
//!
//! ```text
//! listener.rs  TCP, plain or with TLS, or a socket in the file system
//! identity.rs  the gateway's own certificate, read again when it changes
//! ```

pub(super) mod identity;
pub(super) mod listener;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Notify;

use self::listener::{Accepting, Stream};
use super::Gateway;
use super::admission::answer;
use super::admission::own_pages::answer_scraper;
use super::request::client_body::{ClientBody, Unread};

/// Timeout for a client that connects and sends no complete head.
const HEADERS: Duration = Duration::from_secs(60);

/// Maximum size of a request's head. Clients send less than 8 KiB; tokens of a single sign-on can be larger.
pub(super) const MAX_HEAD_SIZE: usize = 64 * 1024;

/// Maximum number of connections that have not shown a key. With heads of [`MAX_HEAD_SIZE`] they use about 16 MiB.
const MAX_UNAUTHENTICATED: usize = 256;

/// Pause after `accept` failed because of missing descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The open connections.
#[derive(Default)]
struct OpenConnections {
    next: Cell<u64>,
    all: RefCell<BTreeMap<u64, Rc<Closing>>>,
    /// Those that have not shown a key, oldest first.
    strangers: RefCell<BTreeMap<u64, Rc<Closing>>>,
    all_closed: Notify,
}

impl OpenConnections {
    fn close(&self) {
        self.all.borrow().values().for_each(|closing| closing.ask(CloseRequest::AfterRequest));
    }
}

/// What was asked of a connection from outside.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum CloseRequest {
    None,
    /// To end after the request in flight.
    AfterRequest,
    /// To end at once.
    Now,
}

/// How a connection learns that it has to end: it reads this whenever it is polled anyway, which costs nothing.
struct Closing {
    request: Cell<CloseRequest>,
    task: RefCell<Option<Waker>>,
}

impl Closing {
    fn ask(&self, request: CloseRequest) {
        self.request.set(request.max(self.request.get()));
        if let Some(task) = self.task.borrow_mut().take() {
            task.wake();
        }
    }

    /// What was asked; the task is woken when that changes.
    fn poll(&self, context: &Context<'_>) -> CloseRequest {
        let mut task = self.task.borrow_mut();
        if task.is_none() {
            *task = Some(context.waker().clone());
        }
        self.request.get()
    }
}

/// A connection of a client, a stranger's until it shows a key.
pub(super) struct Peer {
    open: Rc<OpenConnections>,
    number: u64,
    closing: Rc<Closing>,
    /// See [`Stream::is_strangers`].
    is_strangers: Rc<Cell<bool>>,
}

impl Peer {
    /// Counts a new connection, and closes the oldest stranger's if there are too many.
    fn new(open: &Rc<OpenConnections>, is_strangers: Rc<Cell<bool>>) -> Self {
        let number = open.next.replace(open.next.get() + 1);
        let closing = Rc::new(Closing { request: Cell::new(CloseRequest::None), task: RefCell::default() });
        open.all.borrow_mut().insert(number, Rc::clone(&closing));
        let mut strangers = open.strangers.borrow_mut();
        strangers.insert(number, Rc::clone(&closing));
        if strangers.len() > MAX_UNAUTHENTICATED
            && let Some((_, oldest)) = strangers.pop_first()
        {
            oldest.ask(CloseRequest::Now);
        }
        Self { open: Rc::clone(open), number, closing, is_strangers }
    }

    /// Call this once the connection has shown a key.
    pub(super) fn is_known(&self) {
        if self.is_strangers.replace(false) {
            self.open.strangers.borrow_mut().remove(&self.number);
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.is_known();
        let mut all = self.open.all.borrow_mut();
        all.remove(&self.number);
        if all.is_empty() {
            self.open.all_closed.notify_one();
        }
    }
}

/// Serves until `ends`. Then waits for requests in flight for as long as the options allow, or until `ends` again.
pub(super) async fn serve<F: Future<Output = ()>>(gateway: Rc<Gateway>, listener: Accepting, ends: impl Fn() -> F) {
    let open = Rc::new(OpenConnections::default());
    tokio::select! {
        () = accept(&gateway, Door::Clients, &listener, &open) => {}
        () = ends() => {}
    }
    gateway.is_draining.set(true);
    drop(listener);
    open.close();
    // A notice can be of a moment before, since when others have come.
    let all_closed = async {
        while !open.all.borrow().is_empty() {
            open.all_closed.notified().await;
        }
    };
    tokio::select! {
        () = all_closed => {}
        () = tokio::time::sleep(gateway.options.drain) => {}
        () = ends() => {}
    }
}

/// Serves metrics and health checks without a key for as long as the gateway runs.
pub(super) async fn serve_metrics(gateway: Rc<Gateway>, listener: Accepting, checks_host: bool) {
    accept(&gateway, Door::Metrics { checks_host }, &listener, &Rc::default()).await;
}

/// What a listener serves.
#[derive(Clone, Copy)]
enum Door {
    Clients,
    Metrics { checks_host: bool },
}

async fn accept(gateway: &Rc<Gateway>, door: Door, listener: &Accepting, open: &Rc<OpenConnections>) {
    loop {
        match listener.accept().await {
            Ok(stream) => {
                let peer = Rc::new(Peer::new(open, Rc::clone(&stream.is_strangers)));
                tokio::task::spawn_local(connection(Rc::clone(gateway), door, stream, peer));
                // Its first request has mostly come already, and is read before the next connection is looked for.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                log::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(gateway: Rc<Gateway>, door: Door, stream: Stream, peer: Rc<Peer>) {
    stream.send_at_once();
    let Some(stream) = secured(&gateway, door, stream, &peer.closing).await else { return };
    let unread = Rc::<Unread>::default();
    let is_older = Cell::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        let (gateway, peer) = (Rc::clone(&gateway), Rc::clone(&peer));
        is_older.set(request.version() == Version::HTTP_10);
        let request = request.map(|incoming| ClientBody::new(incoming, &unread));
        // Boxed, it is freed when the response begins; hyper would keep its space for as long as the connection is
        // open.
        Box::pin(async move {
            Ok::<_, Infallible>(match door {
                Door::Clients => answer(&gateway, &peer, request).await,
                Door::Metrics { checks_host } => answer_scraper(&gateway, checks_host, &request).await,
            })
        })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(MAX_HEAD_SIZE)
        .serve_connection(TokioIo::new(stream), service);
    let mut is_ending = false;
    let served = poll_fn(|context| {
        match peer.closing.poll(context) {
            CloseRequest::Now => return Poll::Ready(Ok(())),
            CloseRequest::AfterRequest if !is_ending => {
                is_ending = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            _ => {}
        }
        let served = Pin::new(&mut connection).poll(context);
        if served.is_pending() {
            unread.poll(context);
        }
        served
    });
    let served = served.await;
    if let Err(error) = &served {
        log::debug!("a client's connection ended: {error}");
    }
    // What cannot be read was answered as well.
    if is_older.get() && served.as_ref().is_err_and(hyper::Error::is_user) {
        connection.into_parts().io.into_inner().reset();
    } else if unread.is_malformed() || served.is_err_and(|error| error.is_parse()) {
        let stream = connection.into_parts().io.into_inner();
        let _ = unless_asked(&peer.closing, Box::pin(stream.linger())).await;
    }
}

/// What `task` returns; `None` if the connection is to end first.
async fn unless_asked<T>(closing: &Closing, mut task: Pin<Box<impl Future<Output = T>>>) -> Option<T> {
    poll_fn(|context| match closing.poll(context) {
        CloseRequest::None => task.as_mut().poll(context).map(Some),
        CloseRequest::AfterRequest | CloseRequest::Now => Poll::Ready(None),
    })
    .await
}

/// Adds TLS to the stream if the gateway uses it. `None`: there is no connection any more, or it is to end.
async fn secured(gateway: &Gateway, door: Door, stream: Stream, closing: &Closing) -> Option<Stream> {
    let Some(identity) = gateway.identity.as_ref().filter(|_| matches!(door, Door::Clients)) else {
        return Some(stream);
    };
    // Boxed, it is freed when the handshake ends.
    match unless_asked(closing, Box::pin(stream.secured(identity.config()))).await? {
        Ok(stream) => Some(stream),
        Err(why) => {
            identity.failed_handshakes.set(identity.failed_handshakes.get() + 1);
            log::debug!("a TLS handshake with a client failed: {why}");
            None
        }
    }
}
