//! Where clients come in: TCP, plain or with TLS, or a socket in the file system.
//!
//! Hazard: a stranger who connects and says nothing, or begins a handshake and does not end it, holds memory. Rule: a
//! handshake has [`HANDSHAKE`] to end, and counts as a stranger's connection from its first byte.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::StatusCode;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::identity::Identity;
use crate::error::{Failed, Failure};
use crate::gateway::request::client_body::LINGER;
use crate::gateway::response::refusal::Refusal;
use crate::platform::socket::{self, Socket};

/// Two round trips and a signature. A phone on a bad line needs a few seconds.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Said to a request without TLS where TLS is spoken.
const NO_TLS: &str = "this address requires HTTPS: use https:// instead of http://";

/// What a gateway listens on.
pub(crate) struct Listener {
    socket: Bound,
    pub(in crate::gateway) identity: Option<Identity>,
}

enum Bound {
    Tcp(std::net::TcpListener),
    Local(Socket),
}

/// Where clients find a [`Listener`].
pub(crate) enum ListenAddress {
    Tcp(SocketAddr),
    Local(PathBuf),
}

impl Listener {
    /// Listens, so that clients may connect from now on.
    pub(crate) fn tcp(address: SocketAddr) -> Result<Self> {
        let listener = std::net::TcpListener::bind(address).map_err(|error| {
            let failed = Failed::new(Failure::Other, format!("cannot listen on `{address}`: {error}"));
            match error.kind() {
                io::ErrorKind::AddrInUse => failed.hint(format!(
                    "stop the program that uses this address, or use a free port with `--listen {}`",
                    SocketAddr::new(address.ip(), 0)
                )),
                _ => failed,
            }
        })?;
        listener.set_nonblocking(true)?;
        Ok(Self { socket: Bound::Tcp(listener), identity: None })
    }

    /// Listens on a free port of this machine.
    pub(crate) fn on_loopback() -> Result<(Self, SocketAddr)> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on `127.0.0.1`")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((Self { socket: Bound::Tcp(listener), identity: None }, address))
    }

    /// Listens on a socket in the file system, for programs of this user.
    pub(crate) fn local(path: &Path) -> Result<Self> {
        Ok(Self { socket: Bound::Local(Socket::bind(path)?), identity: None })
    }

    pub(crate) fn with_tls(self, identity: Identity) -> Self {
        Self { identity: Some(identity), ..self }
    }

    pub(crate) fn address(&self) -> io::Result<ListenAddress> {
        match &self.socket {
            Bound::Tcp(listener) => listener.local_addr().map(ListenAddress::Tcp),
            Bound::Local(socket) => Ok(ListenAddress::Local(socket.path().to_owned())),
        }
    }

    /// The host that a URL for clients names where it is not the address itself: the certificate's first name.
    pub(crate) fn certified_host(&self) -> Option<String> {
        self.identity.as_ref().and_then(Identity::host)
    }

    pub(crate) fn has_tls(&self) -> bool {
        self.identity.is_some()
    }

    /// Whether a page in a browser of this machine could send requests here under a name of its own: neither a socket nor
    /// a server whose name the browser has checked.
    pub(in crate::gateway) fn can_be_rebound(&self) -> bool {
        !self.has_tls() && matches!(self.address(), Ok(ListenAddress::Tcp(address)) if address.ip().is_loopback())
    }

    /// Whether what passes can be read on no network.
    pub(crate) fn is_private(&self) -> bool {
        let is_local = |place| match place {
            ListenAddress::Tcp(address) => address.ip().is_loopback(),
            ListenAddress::Local(_) => true,
        };
        self.has_tls() || self.address().is_ok_and(is_local)
    }

    /// Within the runtime that serves. What is returned is all that listens.
    pub(in crate::gateway) fn accepting(self) -> Result<Accepting> {
        let accepting = match self.socket {
            Bound::Tcp(listener) => tokio::net::TcpListener::from_std(listener).map(Accepting::Tcp),
            Bound::Local(socket) => socket.accepting().map(Accepting::Local),
        };
        accepting.context("cannot listen")
    }
}

/// A [`Listener`] within a runtime.
pub(in crate::gateway) enum Accepting {
    Tcp(tokio::net::TcpListener),
    Local(socket::Accepting),
}

impl Accepting {
    pub(in crate::gateway) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Transport::Tcp(stream)),
            Self::Local(listener) => listener.accept().await.map(Transport::Local),
        }
        .map(|transport| Stream { transport, is_strangers: Rc::new(Cell::new(true)) })
    }
}

/// A client's connection.
pub(in crate::gateway) struct Stream {
    transport: Transport,
    /// Until a key is shown, no more than [`STRANGERS_PIECE`] is read at once: a reader that gets what it asked for asks
    /// for twice as much, and would keep 128 KiB for a head of 64 KiB.
    pub(super) is_strangers: Rc<Cell<bool>>,
}

const STRANGERS_PIECE: usize = 4096;

enum Transport {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Local(socket::Stream),
}

impl Stream {
    /// Events are small and go out at once.
    pub(super) fn send_at_once(&self) {
        if let Transport::Tcp(stream) = &self.transport {
            let _ = stream.set_nodelay(true);
        }
    }

    /// Closes a connection so that the client sees it aborted: to HTTP/1.0 the end of a connection is that of the body
    /// (RFC 9112 §6.3). A socket in the file system has no other end.
    pub(in crate::gateway) fn reset(self) {
        let stream = match &self.transport {
            Transport::Tcp(stream) => stream,
            Transport::Tls(stream) => stream.get_ref().0,
            Transport::Local(_) => return,
        };
        let _ = stream.set_zero_linger();
    }

    /// Closes a connection whose client may still be sending what was refused already.
    pub(super) async fn linger(mut self) {
        let _ = tokio::time::timeout(LINGER, read_out(&mut self)).await;
    }

    /// The same connection after its TLS handshake.
    ///
    /// Errors: why there is none, for the log.
    pub(super) async fn secured(self, config: Arc<ServerConfig>) -> Result<Self, String> {
        let Transport::Tcp(mut stream) = self.transport else { return Ok(self) };
        let handshake = async {
            if is_plain_http(&stream).await {
                let body = Refusal::new(StatusCode::BAD_REQUEST, "tls_only", NO_TLS).text();
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
                     Connection: close\r\n\r\n"
                );
                let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
                let _ = read_out(&mut stream).await;
                return Err("it sent a request without TLS".to_owned());
            }
            TlsAcceptor::from(config).accept(stream).await.map_err(|error| error.to_string())
        };
        match tokio::time::timeout(HANDSHAKE, handshake).await {
            Ok(stream) => stream.map(|stream| Self { transport: Transport::Tls(Box::new(stream)), ..self }),
            Err(_) => Err(format!("its handshake took longer than {} s", HANDSHAKE.as_secs())),
        }
    }
}

/// Ends the sending side, then reads what the client still sends until it closes the connection: one that is closed with
/// bytes unread is reset, and the client may see that in place of the answer.
async fn read_out(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    stream.shutdown().await?;
    let mut space = [0; 1024];
    while stream.read(&mut space).await? > 0 {}
    Ok(())
}

/// Whether the first byte is that of a method; one of TLS is 22 (RFC 8446 §5.1).
async fn is_plain_http(stream: &TcpStream) -> bool {
    let mut first = [0];
    matches!(stream.peek(&mut first).await, Ok(1) if first[0].is_ascii_uppercase())
}

impl Transport {
    fn poll_read(&mut self, context: &mut TaskContext<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Local(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { transport, is_strangers } = self.get_mut();
        if !is_strangers.get() {
            return transport.poll_read(context, buffer);
        }
        let mut piece = [0; STRANGERS_PIECE];
        let length = buffer.remaining().min(STRANGERS_PIECE);
        let mut piece = ReadBuf::new(&mut piece[..length]);
        ready!(transport.poll_read(context, &mut piece))?;
        buffer.put_slice(piece.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut TaskContext<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Local(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Transport::Local(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Tcp(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
            Transport::Local(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(context),
            Transport::Local(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Local(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_is_read_in_small_pieces_and_a_client_as_it_sends() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (listener, address) = Listener::on_loopback().unwrap();
            let accepting = listener.accepting().unwrap();
            let mut client = TcpStream::connect(address).await.unwrap();
            let mut stream = accepting.accept().await.unwrap();
            let sent = vec![b'x'; 4 * STRANGERS_PIECE];
            client.write_all(&sent).await.unwrap();
            let mut buffer = vec![0; sent.len()];
            let Transport::Tcp(socket) = &stream.transport else { panic!("not TCP") };
            while socket.peek(&mut buffer).await.unwrap() < sent.len() {}
            assert_eq!(stream.read(&mut buffer).await.unwrap(), STRANGERS_PIECE);
            stream.is_strangers.set(false);
            assert_eq!(stream.read(&mut buffer).await.unwrap(), 3 * STRANGERS_PIECE);
        });
    }
}
