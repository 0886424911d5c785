//! The key that clients show to the gateway: made for one run, or kept in a file.
//!
//! Hazard: a program that writes a new key into the file empties it first, and a gateway that reads then finds none. Rule: only a
//! key replaces the one in force; what is none is complained of when the file has stayed as it is for a second look, once.

use std::cell::Cell;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use zeroize::Zeroizing;

use crate::error::{Failed, Failure};
use crate::platform::disk::Version;
use crate::platform::files::{self, Content, Privacy};
use crate::platform::threads;
use crate::secret::Secret;

/// A key of the user's own making should not be guessed either.
const SHORTEST_KEY: usize = 16;

/// A key for the clients of one gateway: 32 random bytes. Some clients insist on the beginning.
pub(crate) fn new() -> Secret {
    use base64::Engine;
    let bytes: [u8; 32] = rand::random();
    Secret::new(format!("sk-{}", base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(bytes)))
}

/// The key in `path`, made if there is none. Of two that start at once, one makes it and both have it.
pub(crate) fn kept_in(path: &Path) -> Result<Secret> {
    let path = &files::resolve(path)?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        files::make_directory(parent)?;
    }
    let key = new();
    let line = Zeroizing::new(format!("{}\n", key.expose()));
    if !path.exists() {
        match files::create_durable(path, line.as_bytes()) {
            Ok(_) => return Ok(key),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot write `{}`", path.display())),
        }
    }
    stored_in(path)
}

/// The key in `path`.
fn stored_in(path: &Path) -> Result<Secret> {
    let failed = |what: &str| Failed::new(Failure::Other, format!("`{}` {what}", path.display()));
    match files::read(path, Privacy::Secret)? {
        Content::Missing => failed("is missing").hint("restart the gateway to create a key").err(),
        Content::Unfit(why) => Failed::new(Failure::Other, format!("cannot read `{}`: {why}", path.display())).err(),
        Content::Bytes(bytes) => {
            let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
            if text.len() < SHORTEST_KEY || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                return failed("does not contain a key")
                    .hint("delete it to have a key created, or write a key of at least 16 letters and digits")
                    .err();
            }
            Ok(Secret::new(text.to_owned()))
        }
    }
}

/// The file as one look found it; `None` where it was missing.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen(Option<Version>);

/// The file with the clients' key, while the gateway runs.
pub(in crate::gateway) struct KeyFile {
    path: PathBuf,
    /// The file that was read last; before the first look none, so that no change since the start is missed.
    read: Cell<Option<Seen>>,
    /// One that holds no key and may be in the middle of a change.
    doubted: Cell<Option<Seen>>,
}

impl KeyFile {
    pub(in crate::gateway) fn new(path: PathBuf) -> Self {
        Self { path, read: Cell::new(None), doubted: Cell::new(None) }
    }

    /// The key, where the file has changed. Called about once a second.
    ///
    /// Errors: the file has changed and holds none; once for each change.
    pub(in crate::gateway) async fn look(&self) -> Result<Option<Secret>> {
        let now = Some(Seen(Version::of(&self.path).ok()));
        if now == self.read.get() {
            return Ok(None);
        }
        match self.stored().await {
            Ok(key) => {
                self.read.set(now);
                Ok(Some(key))
            }
            Err(_) if self.doubted.replace(now) != now => Ok(None),
            Err(error) => {
                self.read.set(now);
                Err(error)
            }
        }
    }

    /// The key as it is in the file now.
    pub(in crate::gateway) async fn stored(&self) -> Result<Secret> {
        let path = self.path.clone();
        // The disk may be slow.
        threads::finished(move || stored_in(&path)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::disk;

    /// A file with this text, and whether it is a key.
    fn holds(text: &str) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        disk::create_new(&path).unwrap();
        write(&path, text);
        stored_in(&path).is_ok()
    }

    fn write(path: &Path, text: &str) {
        let file = disk::open_to_write(path).unwrap();
        file.set_len(0).unwrap();
        disk::write_all_at(&file, text.as_bytes(), 0).unwrap();
    }

    #[test]
    fn a_key_is_one_word_of_sixteen_letters_or_more() {
        for key in ["0123456789abcdef", " 0123456789abcdef\r\n", "sk-0123456789/+=_-"] {
            assert!(holds(key), "{key:?}");
        }
        for text in [
            "",
            "0123456789abcde",
            "0123456789 abcdef",
            "0123456789abcdef\nx",
            "0123456789abcdef\u{7f}",
            "héhéhéhéhéhéhéhé",
        ] {
            assert!(!holds(text), "{text:?}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test may panic")]
    fn of_gateways_that_start_at_once_one_makes_the_key_and_all_have_it() {
        for _ in 0..50 {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("key");
            let barrier = std::sync::Barrier::new(8);
            let keys: Vec<Secret> = std::thread::scope(|scope| {
                let gateways: Vec<_> = (0..8)
                    .map(|_| {
                        scope.spawn(|| {
                            barrier.wait();
                            kept_in(&path).unwrap()
                        })
                    })
                    .collect();
                gateways.into_iter().map(|gateway| gateway.join().unwrap()).collect()
            });
            assert!(keys.iter().all(|key| *key == keys[0]));
        }
    }

    #[test]
    fn a_key_is_made_with_its_directory_and_not_where_it_cannot_be_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("of/the/gateway/key");
        assert_eq!(kept_in(&path).unwrap(), kept_in(&path).unwrap());
        let error = kept_in(&directory.path().join("k".repeat(250))).unwrap_err();
        assert!(format!("{error:#}").starts_with("cannot write `"), "{error:#}");
    }

    #[test]
    fn what_holds_no_key_is_complained_of_at_the_second_look_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let first = kept_in(&path).unwrap();
        let file = KeyFile::new(path.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let look = || runtime.block_on(file.look());
        assert_eq!(look().unwrap(), Some(first));
        assert_eq!(look().unwrap(), None);
        write(&path, "");
        assert_eq!(look().unwrap(), None, "it may be in the middle of a change");
        assert!(look().is_err());
        assert_eq!(look().unwrap(), None);
        write(&path, "another-key-of-0123456789");
        assert_eq!(look().unwrap().unwrap().expose(), "another-key-of-0123456789");
    }
}
