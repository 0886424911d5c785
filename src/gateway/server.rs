//! The connections of clients: accepted, secured, bounded in number, and closed at the end.
//!
//! Hazard: any user of the machine can connect, as often as they like.
//! Rule: connections that have not shown a key are few and cheap.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Notify, watch};

use super::Gateway;
use super::admission::{answer, answer_scraper};
use super::listener::{Accepting, Stream};

/// Timeout for a client that connects and sends no complete head.
const HEADERS: Duration = Duration::from_secs(60);

/// Maximum size of a request's head. Clients send less than 8 KiB; tokens of a single sign-on can be larger.
pub(super) const MAX_HEAD_SIZE: usize = 64 * 1024;

/// Maximum number of connections that have not shown a key. With heads of [`MAX_HEAD_SIZE`] they use about 16 MiB.
const MAX_UNAUTHENTICATED: usize = 256;

/// Pause after `accept` failed because of missing descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The number of open connections, for the shutdown to wait for.
#[derive(Default)]
struct OpenConnections {
    count: Cell<usize>,
    all_closed: Notify,
}

struct Guard(Rc<OpenConnections>);

impl Guard {
    fn new(open: &Rc<OpenConnections>) -> Self {
        open.count.set(open.count.get() + 1);
        Self(Rc::clone(open))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        if self.0.count.get() == 0 {
            self.0.all_closed.notify_one();
        }
    }
}

/// The connections that have not shown a key, oldest first.
#[derive(Default)]
struct Strangers {
    next: Cell<u64>,
    waiting: RefCell<BTreeMap<u64, Rc<Notify>>>,
}

/// A connection until it shows a key or ends.
pub(super) struct Stranger {
    all: Rc<Strangers>,
    number: u64,
    is_evicted: Rc<Notify>,
}

impl Stranger {
    /// Counts a new connection, and closes the oldest one if there are too many.
    fn new(all: &Rc<Strangers>) -> Self {
        let number = all.next.replace(all.next.get() + 1);
        let is_evicted = Rc::new(Notify::new());
        let mut waiting = all.waiting.borrow_mut();
        waiting.insert(number, Rc::clone(&is_evicted));
        if waiting.len() > MAX_UNAUTHENTICATED
            && let Some((_, oldest)) = waiting.pop_first()
        {
            oldest.notify_one();
        }
        Self { all: Rc::clone(all), number, is_evicted }
    }

    /// Call this once the connection has shown a key.
    pub(super) fn is_known(&self) {
        self.all.waiting.borrow_mut().remove(&self.number);
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.is_known();
    }
}

/// Serves until `ends`. Then waits for requests in flight for as long as the options allow, or until `ends` again.
pub(super) async fn serve<F: Future<Output = ()>>(gateway: Rc<Gateway>, listener: Accepting, ends: impl Fn() -> F) {
    let (ending, ended) = watch::channel(false);
    let open = Rc::new(OpenConnections::default());
    tokio::select! {
        () = accept(&gateway, Door::Clients, &listener, &open, &ended) => {}
        () = ends() => {}
    }
    drop(listener);
    let _ = ending.send(true);
    if open.count.get() == 0 {
        return;
    }
    tokio::select! {
        () = open.all_closed.notified() => {}
        () = tokio::time::sleep(gateway.options.drain) => {}
        () = ends() => {}
    }
}

/// Serves metrics and health checks without a key for as long as the gateway runs.
pub(super) async fn serve_metrics(gateway: Rc<Gateway>, listener: Accepting, checks_host: bool) {
    let (_ending, ended) = watch::channel(false);
    accept(&gateway, Door::Metrics { checks_host }, &listener, &Rc::default(), &ended).await;
}

/// What a listener serves.
#[derive(Clone, Copy)]
enum Door {
    Clients,
    Metrics { checks_host: bool },
}

async fn accept(
    gateway: &Rc<Gateway>,
    door: Door,
    listener: &Accepting,
    open: &Rc<OpenConnections>,
    ended: &watch::Receiver<bool>,
) {
    let strangers = Rc::new(Strangers::default());
    loop {
        match listener.accept().await {
            Ok(stream) => {
                let (gateway, stranger) = (Rc::clone(gateway), Rc::new(Stranger::new(&strangers)));
                let guard = Guard::new(open);
                tokio::task::spawn_local(connection(gateway, door, stream, ended.clone(), guard, stranger));
            }
            Err(error) => {
                log::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    gateway: Rc<Gateway>,
    door: Door,
    stream: Stream,
    mut ended: watch::Receiver<bool>,
    _guard: Guard,
    stranger: Rc<Stranger>,
) {
    stream.send_at_once();
    let stream = tokio::select! {
        secured = secured(&gateway, door, stream) => match secured {
            Some(stream) => stream,
            None => return,
        },
        () = stranger.is_evicted.notified() => return,
        _ = ended.changed() => return,
    };
    let service = service_fn(|request| {
        let (gateway, stranger) = (Rc::clone(&gateway), Rc::clone(&stranger));
        // Boxed, it is freed when the response begins; hyper would keep its space for as long as the connection is
        // open.
        Box::pin(async move {
            Ok::<_, Infallible>(match door {
                Door::Clients => answer(&gateway, &stranger, request).await,
                Door::Metrics { checks_host } => answer_scraper(&gateway, checks_host, &request).await,
            })
        })
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(MAX_HEAD_SIZE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut is_ending = false;
    loop {
        tokio::select! {
            served = connection.as_mut() => {
                if let Err(error) = served {
                    log::debug!("a client's connection ended: {error}");
                }
                return;
            }
            () = stranger.is_evicted.notified() => return,
            _ = ended.changed(), if !is_ending => {
                is_ending = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Adds TLS to the stream if the gateway uses it.
async fn secured(gateway: &Gateway, door: Door, stream: Stream) -> Option<Stream> {
    let Some(identity) = gateway.identity.as_ref().filter(|_| matches!(door, Door::Clients)) else {
        return Some(stream);
    };
    // Boxed, it is freed when the handshake ends.
    match Box::pin(stream.secured(identity.config())).await {
        Ok(stream) => Some(stream),
        Err(why) => {
            identity.failed_handshakes.set(identity.failed_handshakes.get() + 1);
            log::debug!("a client got no TLS connection: {why}");
            None
        }
    }
}
