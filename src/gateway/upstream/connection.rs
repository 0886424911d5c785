//! One HTTP/1.1 connection to the provider, polled by the task of the request that uses it.
//!
//! Hazard: a request that is sent again although the first was acted upon.
//! Rule: before the first byte is written the connection must be silent; from then on the request counts as sent.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Malformed;
use super::head::{Head, HeadReader};
use super::upload::{Upload, UploadError};
use crate::gateway::request::request_body::Broken;

/// How much is read at once, into the stack: a connection that waits for the next event holds no buffer.
const PIECE: usize = 16 * 1024;

pub(super) trait Io: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

pub(super) struct Connection(Box<dyn Io>);

/// The head of an answer, and what came of its body with it.
pub(super) struct Received {
    pub(super) head: Head,
    pub(super) data: Bytes,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum AskError {
    /// Nothing was sent: the server had closed the connection, or sent what nobody asked for.
    Unsent,
    /// The client's own body broke off.
    Client(Broken),
    Lost(String),
}

impl Connection {
    pub(super) fn new(io: impl Io + 'static) -> Self {
        Self(Box::new(io))
    }

    /// Sends a request and reads the head of its answer, which may come before all of the request is sent.
    pub(super) async fn ask(&mut self, upload: &mut Upload) -> Result<Received, AskError> {
        let mut reader = HeadReader::default();
        poll_fn(|context| self.poll_ask(upload, &mut reader, context)).await
    }

    fn poll_ask(
        &mut self,
        upload: &mut Upload,
        reader: &mut HeadReader,
        context: &mut Context<'_>,
    ) -> Poll<Result<Received, AskError>> {
        // What the kernel has told of this connection is known without another call of it.
        if !upload.has_begun() && self.poll_read(context, |_| ()).is_ready() {
            return Poll::Ready(Err(AskError::Unsent));
        }
        let broken = match self.poll_send(upload, context) {
            Poll::Ready(Err(UploadError::Client(broken))) => return Poll::Ready(Err(AskError::Client(broken))),
            // A server that has had enough may have said so before it closed the connection.
            Poll::Ready(Err(UploadError::Connection(error))) => Some(error),
            _ => None,
        };
        loop {
            let method = &upload.method;
            let received = self.poll_read(context, |piece| {
                if piece.is_empty() {
                    return Err(Malformed("it was closed"));
                }
                reader.read(piece, method)?.map(|(head, rest)| Received::new(head, rest)).transpose()
            });
            let lost = match (received, &broken) {
                (Poll::Ready(Ok(Ok(Some(received)))), _) => return Poll::Ready(Ok(received)),
                (Poll::Ready(Ok(Ok(None))), _) => continue,
                (Poll::Pending, None) => return Poll::Pending,
                (_, Some(error)) => error.to_string(),
                (Poll::Ready(Ok(Err(Malformed(why)))), None) => why.to_owned(),
                (Poll::Ready(Err(error)), None) => error.to_string(),
            };
            return Poll::Ready(Err(AskError::Lost(lost)));
        }
    }

    pub(super) fn poll_send(
        &mut self,
        upload: &mut Upload,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        upload.poll(&mut *self.0, context)
    }

    /// Gives what has come to `take`: nothing once the server has closed the connection.
    pub(super) fn poll_read<T>(
        &mut self,
        context: &mut Context<'_>,
        take: impl FnOnce(&mut [u8]) -> T,
    ) -> Poll<io::Result<T>> {
        let mut space = [MaybeUninit::uninit(); PIECE];
        let mut buffer = ReadBuf::uninit(&mut space);
        Pin::new(&mut *self.0).poll_read(context, &mut buffer).map_ok(|()| take(buffer.filled_mut()))
    }
}

impl Received {
    fn new(mut head: Head, rest: &mut [u8]) -> Result<Self, Malformed> {
        let decoded = head.framing.decode(rest)?;
        // Nobody asked for what follows: the next answer would be another's.
        head.keeps_open &= decoded.used == rest.len();
        Ok(Self { head, data: Bytes::copy_from_slice(&rest[..decoded.data]) })
    }
}
