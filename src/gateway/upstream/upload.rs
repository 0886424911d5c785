//! A request on its way to the provider: its head, then its body as it comes from the client.
//!
//! Hazard: the head holds the credential, as bytes. Rule: it is written once into space that is large enough for all of
//! it, and wiped with that.

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use hyper::Method;
use hyper::body::{Buf, Bytes};
use hyper::header::CONTENT_LENGTH;
use zeroize::Zeroizing;

use super::connection::Io;
use super::fields::Fields;
use crate::gateway::request::request_body::{Broken, Reader};

/// The longest line before a chunk: 16 digits and its end.
const CHUNK_LINE: usize = 18;

/// The longest header that is added for the body.
const BODY_HEADER: usize = "content-length: \r\n".len() + 20;

pub(in crate::gateway) struct Upload {
    pub(super) method: Method,
    /// What is to be written: the head or a chunk's line, the data, and what ends them.
    line: Zeroizing<Vec<u8>>,
    written: usize,
    data: Bytes,
    end: &'static [u8],
    body: Reader,
    framing: Framing,
    has_begun: bool,
    /// Whether the body was read to its end.
    is_whole: bool,
}

enum Framing {
    /// Bytes that are still to come.
    Length(u64),
    Chunked,
}

/// Why a request cannot be sent to its end.
#[derive(Debug)]
pub(super) enum UploadError {
    /// The client's own body broke off.
    Client(Broken),
    Connection(io::Error),
}

impl Upload {
    /// `target`: path and query. The fields about the body are those of `fields`, or else added. `None` if it would be
    /// another request in the eyes of the server.
    pub(in crate::gateway) fn new(method: Method, target: &str, fields: &Fields<'_>, body: Reader) -> Option<Self> {
        if !target.starts_with('/') || target.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return None;
        }
        let stated = fields.get(&CONTENT_LENGTH).map(|value| value.to_str().ok()?.parse().ok());
        let framing = match stated {
            Some(length) => Framing::Length(length?),
            None => body.length().map_or(Framing::Chunked, Framing::Length),
        };
        let length: usize = fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        let size =
            method.as_str().len() + target.len() + " HTTP/1.1\r\n\r\n ".len() + length + BODY_HEADER + CHUNK_LINE;
        let mut line = Zeroizing::new(Vec::with_capacity(size));
        for part in [method.as_str(), " ", target, " HTTP/1.1\r\n"] {
            line.extend_from_slice(part.as_bytes());
        }
        for (name, value) in fields.iter() {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                line.extend_from_slice(part);
            }
        }
        match framing {
            Framing::Chunked => line.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Framing::Length(length) if stated.is_none() && length > 0 => {
                write!(*line, "content-length: {length}\r\n").ok()?;
            }
            Framing::Length(_) => {}
        }
        line.extend_from_slice(b"\r\n");
        let is_whole = matches!(framing, Framing::Length(0));
        Some(Self { method, line, written: 0, data: Bytes::new(), end: b"", body, framing, has_begun: false, is_whole })
    }

    /// Whether a byte of it may have been sent.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Sends what there is. Ready when all of it is sent.
    pub(super) fn poll(&mut self, io: &mut dyn Io, context: &mut Context<'_>) -> Poll<Result<(), UploadError>> {
        loop {
            // The first data go out together with the head.
            if self.data.is_empty() && self.end.is_empty() && !self.is_whole {
                self.load(context)?;
            }
            if self.is_written() {
                ready!(Pin::new(&mut *io).poll_flush(context)).map_err(UploadError::Connection)?;
                return if self.is_whole { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            self.has_begun = true;
            match ready!(self.poll_write(io, context)) {
                Ok(0) => return Poll::Ready(Err(UploadError::Connection(io::ErrorKind::WriteZero.into()))),
                Ok(count) => self.advance(count),
                Err(error) => return Poll::Ready(Err(UploadError::Connection(error))),
            }
        }
    }

    /// When a further part of the body was last taken.
    pub(super) fn given_at(&self) -> Option<Instant> {
        self.body.given_at()
    }

    pub(super) fn is_sent(&self) -> bool {
        self.is_whole && self.is_written()
    }

    fn is_written(&self) -> bool {
        self.written == self.line.len() && self.data.is_empty() && self.end.is_empty()
    }

    /// Takes the next data of the body, if they have come.
    fn load(&mut self, context: &mut Context<'_>) -> Result<(), UploadError> {
        let data = match self.body.poll_chunk(context) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Some(data)) => data.map_err(UploadError::Client)?,
            Poll::Ready(None) => {
                self.is_whole = true;
                return match self.framing {
                    Framing::Length(0) => Ok(()),
                    Framing::Length(_) => Err(UploadError::Client(Broken::ByClient)),
                    Framing::Chunked => {
                        self.end = b"0\r\n\r\n";
                        Ok(())
                    }
                };
            }
        };
        match &mut self.framing {
            // Empty data would end the body.
            Framing::Chunked if data.is_empty() => {}
            Framing::Chunked => {
                if self.written == self.line.len() {
                    self.line = Zeroizing::default();
                    self.written = 0;
                }
                let _ = write!(*self.line, "{:x}\r\n", data.len());
                self.is_whole = self.body.has_ended();
                self.end = if self.is_whole { b"\r\n0\r\n\r\n" } else { b"\r\n" };
            }
            Framing::Length(left) => {
                // More than was announced would be the next request.
                *left = left.checked_sub(data.len() as u64).ok_or(UploadError::Client(Broken::ByClient))?;
                self.is_whole = *left == 0;
            }
        }
        self.data = data;
        Ok(())
    }

    fn poll_write(&self, io: &mut dyn Io, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let parts = [&self.line[self.written..], &self.data, self.end];
        if io.is_write_vectored() {
            return Pin::new(io).poll_write_vectored(context, &parts.map(IoSlice::new));
        }
        let next = parts.into_iter().find(|part| !part.is_empty()).unwrap_or_default();
        Pin::new(io).poll_write(context, next)
    }

    fn advance(&mut self, count: usize) {
        let of_line = count.min(self.line.len() - self.written);
        self.written += of_line;
        let of_data = (count - of_line).min(self.data.len());
        self.data.advance(of_data);
        self.end = &self.end[count - of_line - of_data..];
    }
}
