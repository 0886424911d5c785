//! A socket in the file system: not on Windows, where access to it could not be kept to the user.

use std::convert::Infallible;
use std::io;
use std::path::Path;

use anyhow::Result;

use crate::error::{Failed, Failure};

/// Never made here.
pub(crate) type Stream = tokio::net::TcpStream;

pub(crate) struct Socket(Infallible);

impl Socket {
    pub(crate) fn bind(_path: &Path) -> Result<Self> {
        Failed::new(Failure::Usage, "`--listen unix:…` is not supported on Windows")
            .hint("listen on `127.0.0.1:8399`")
            .err()
    }

    pub(crate) fn path(&self) -> &Path {
        match self.0 {}
    }

    pub(crate) fn accepting(self) -> io::Result<Accepting> {
        match self.0 {}
    }
}

pub(crate) struct Accepting(Infallible);

impl Accepting {
    #[expect(clippy::unused_async, reason = "the same shape as on Unix")]
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        match self.0 {}
    }
}
