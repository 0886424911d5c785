//! A socket in the file system that programs of this user connect to.
//!
//! Hazards: any user could connect between the creation of the socket and its `chmod`; a socket that a killed process left
//! keeps the next one from listening; and one that is taken for such a leftover may be served.
//! Rule: the socket is created without rights for others; an existing one is replaced only if it is the user's own and
//! nothing answers at it, under a lock of its directory; and at the end only the own one is removed.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::stat::{Mode, umask};

use crate::error::{Failed, Failure};
use crate::platform::access;
use crate::platform::disk::Identity;
use crate::platform::files;

/// Another gateway that starts at the same path needs milliseconds; any reader of the directory can lock it for longer.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A connection to [`Socket`].
pub(crate) type Stream = tokio::net::UnixStream;

/// A listening socket, closed when dropped.
pub(crate) struct Socket {
    listener: UnixListener,
    file: OwnFile,
}

impl Socket {
    /// Listens at `path`, for this user alone. To be called before there are threads that make files.
    pub(crate) fn bind(path: &Path) -> Result<Self> {
        let path = files::resolve(path)?;
        let failed = || format!("cannot listen on `unix:{}`", path.display());
        let _lock = lock_directory_of(&path).with_context(failed)?;
        remove_leftover(&path)?;
        // Of the process: no other thread makes a file now.
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(&path);
        umask(before);
        let listener = bound.with_context(failed)?;
        listener.set_nonblocking(true)?;
        let identity = Identity::of(&path).with_context(failed)?;
        Ok(Self { listener, file: OwnFile { path, identity } })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.file.path
    }

    /// Within a runtime.
    pub(crate) fn accepting(self) -> io::Result<Accepting> {
        let Self { file, listener } = self;
        Ok(Accepting { listener: tokio::net::UnixListener::from_std(listener)?, _file: file })
    }
}

/// The socket's file, removed when dropped.
struct OwnFile {
    path: PathBuf,
    identity: Identity,
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        if Identity::of(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A [`Socket`] within a runtime.
pub(crate) struct Accepting {
    listener: tokio::net::UnixListener,
    _file: OwnFile,
}

impl Accepting {
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

fn lock_directory_of(path: &Path) -> io::Result<File> {
    let directory = File::open(files::directory_of(path))?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match fs2::FileExt::try_lock_exclusive(&directory) {
            Ok(()) => return Ok(directory),
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                thread::sleep(POLL_INTERVAL);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Removes a socket of this user that nothing answers at.
fn remove_leftover(path: &Path) -> Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
    };
    let kept = |why: &str| Failed::new(Failure::Other, format!("cannot listen on `unix:{}`: {why}", path.display()));
    if !metadata.file_type().is_socket() {
        return kept("another file already exists there")
            .hint("move it away, or name another path with `--listen`")
            .err();
    }
    access::check_owner(path, &metadata)?;
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        _ => {
            return kept("another program listens there").hint("end it, or name another path with `--listen`").err();
        }
    }
    log::info!("`{}` was left by a process that has ended, and is removed", path.display());
    fs::remove_file(path).with_context(|| format!("cannot remove `{}`", path.display()))
}
