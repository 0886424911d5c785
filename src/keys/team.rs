//! The team secret: 32 random bytes with which keys are hashed, so that a copy of keys.json alone verifies nothing,
//! and with which data is encrypted that only gateways of the team may read.

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use zeroize::Zeroizing;

use super::KeyText;
use crate::error::{Failed, Failure, path_for_sh};
use crate::platform::files::{self, Content, Privacy};

const LENGTH: usize = 32;

/// The team secret.
#[derive(Clone)]
pub(crate) struct TeamSecret(Zeroizing<[u8; LENGTH]>);

impl fmt::Debug for TeamSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TeamSecret(…)")
    }
}

impl TeamSecret {
    pub(crate) fn new() -> Self {
        Self(Zeroizing::new(rand::random()))
    }

    /// The secret in `path`: 32 bytes, raw, in hexadecimal or in base 64.
    ///
    /// Errors: the file is missing, is owned by another user, or contains something else.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let failed = |what: String| Failed::new(Failure::Other, format!("the team secret `{}` {what}", path.display()));
        match files::read(path, Privacy::Secret)? {
            Content::Missing => failed("is missing".into())
                .hint("copy it from the machine where the keys are managed, or create one with `qwenauth keys secret`")
                .err(),
            Content::Unfit(why) => failed(format!("cannot be read: {why}")).err(),
            Content::Bytes(bytes) => match Self::of(&bytes) {
                Some(secret) => Ok(secret),
                None => failed("does not contain exactly 32 bytes".into())
                    .hint(format!("create a new one with `openssl rand -out {} 32`", path_for_sh(path)))
                    .err(),
            },
        }
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        let whole = |bytes: &[u8]| bytes.try_into().ok().map(|bytes| Self(Zeroizing::new(bytes)));
        if let Some(secret) = whole(bytes) {
            return Some(secret);
        }
        let text = std::str::from_utf8(bytes).ok()?.trim();
        if text.len() == 2 * LENGTH && text.is_ascii() {
            let digits: Option<Vec<u8>> =
                (0..LENGTH).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()).collect();
            return whole(&Zeroizing::new(digits?));
        }
        let text = text.trim_end_matches('=');
        let decoded = BASE64_URL_SAFE_NO_PAD.decode(text).or_else(|_| BASE64_STANDARD_NO_PAD.decode(text));
        whole(&Zeroizing::new(decoded.ok()?))
    }

    /// Writes a new secret to `path` unless the file exists. Returns whether it did.
    pub(crate) fn make(path: &Path) -> Result<bool> {
        let path = &files::resolve(path)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            files::make_directory(parent)?;
        }
        let line = Zeroizing::new(format!("{}\n", *Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(Self::new().bytes()))));
        if path.exists() {
            return Ok(false);
        }
        match files::create_durable(path, line.as_bytes()) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot write `{}`", path.display())),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }

    fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.bytes())
    }

    /// By which gateways know that they have the same one. It says nothing else of it.
    pub(crate) fn check(&self) -> String {
        hexadecimal(&hmac::sign(&self.hmac(), b"qwenauth check").as_ref()[..16])
    }

    /// The stored hash of a key.
    pub(super) fn hash(&self, key: &KeyText) -> String {
        hexadecimal(hmac::sign(&self.hmac(), key.secret_part().as_bytes()).as_ref())
    }

    /// A separate key for each purpose, so that data encrypted for one cannot be decrypted as another.
    fn sealing_key(&self, purpose: &str) -> Result<LessSafeKey> {
        let tag = hmac::sign(&self.hmac(), format!("qwenauth seal: {purpose}").as_bytes());
        let key = UnboundKey::new(&AES_256_GCM, tag.as_ref()).map_err(|_| anyhow::anyhow!("cannot create a key"))?;
        Ok(LessSafeKey::new(key))
    }

    /// Encrypts `plain` for holders of this secret, and binds it to `context`. The nonce comes first; nonces are
    /// random, which is safe for some billions of messages with one secret (NIST SP 800-38D §8.3).
    pub(crate) fn seal(&self, purpose: &str, context: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut text = Zeroizing::new(Vec::with_capacity(plain.len() + AES_256_GCM.tag_len()));
        text.extend_from_slice(plain);
        self.sealing_key(purpose)?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut *text)
            .map_err(|_| anyhow::anyhow!("cannot seal"))?;
        Ok([&nonce[..], &text].concat())
    }

    /// Decrypts. Returns `None` if the data has another secret, purpose or context, or was changed.
    pub(crate) fn open(&self, purpose: &str, context: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = Zeroizing::new(text.to_vec());
        let length = self.sealing_key(purpose).ok()?.open_in_place(nonce, Aad::from(context), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }

    /// Whether `hash` is that of `key`, in constant time.
    pub(super) fn verifies(&self, key: &KeyText, hash: &str) -> bool {
        use subtle::ConstantTimeEq;
        self.hash(key).as_bytes().ct_eq(hash.as_bytes()).into()
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_read_as_bytes_hexadecimal_and_base_64() {
        let bytes: [u8; 32] = std::array::from_fn(|at| u8::try_from(at * 8).unwrap());
        let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let url = BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let padded = format!("{}=\n", BASE64_STANDARD_NO_PAD.encode(bytes));
        for text in [
            &bytes[..],
            hexadecimal.as_bytes(),
            format!("{hexadecimal}\n").as_bytes(),
            url.as_bytes(),
            padded.as_bytes(),
        ] {
            assert_eq!(TeamSecret::of(text).unwrap().bytes(), &bytes);
        }
        for bad in [&b""[..], b"short", &bytes[1..], &[b'x'; 64], &[b'!'; 43]] {
            assert!(TeamSecret::of(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test may panic")]
    fn of_all_that_make_the_secret_at_once_one_writes_it() {
        for _ in 0..50 {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("secret");
            let barrier = std::sync::Barrier::new(8);
            let made: Vec<bool> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8)
                    .map(|_| {
                        scope.spawn(|| {
                            barrier.wait();
                            TeamSecret::make(&path).unwrap()
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(made.into_iter().filter(|made| *made).count(), 1);
            assert!(TeamSecret::read(&path).is_ok());
        }
    }

    #[test]
    fn a_secret_is_made_once_with_its_directory_and_not_where_it_cannot_be_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("of/the/team/secret");
        assert!(TeamSecret::make(&path).unwrap() && !TeamSecret::make(&path).unwrap());
        let error = TeamSecret::make(&directory.path().join("s".repeat(250))).unwrap_err();
        assert!(format!("{error:#}").starts_with("cannot write `"), "{error:#}");
    }

    #[test]
    fn gateways_know_by_the_check_whether_they_have_the_same_secret() {
        let secret = TeamSecret::new();
        assert_eq!(secret.check(), secret.clone().check());
        assert_ne!(secret.check(), TeamSecret::new().check());
    }

    #[test]
    fn nothing_of_the_secret_is_printed_by_accident() {
        assert_eq!(format!("{:?}", TeamSecret::new()), "TeamSecret(…)");
    }

    #[test]
    fn the_hash_is_hmac_sha_256_of_the_secret_letters() {
        // Computed with Python's `hmac`.
        let key = KeyText::parse(KNOWN).unwrap();
        assert_eq!(TeamSecret(Zeroizing::new([0; 32])).hash(&key), HASH);
    }

    #[test]
    fn what_is_sealed_opens_with_the_same_secret_purpose_and_context_only() {
        let secret = TeamSecret::new();
        let sealed = secret.seal("a", b"x", b"plain").unwrap();
        assert_eq!(secret.open("a", b"x", &sealed).unwrap().as_slice(), b"plain");
        assert!(!sealed.windows(5).any(|window| window == b"plain"));
        assert!(secret.open("b", b"x", &sealed).is_none());
        assert!(secret.open("a", b"y", &sealed).is_none());
        assert!(TeamSecret::new().open("a", b"x", &sealed).is_none());
        assert!((0..sealed.len()).all(|length| secret.open("a", b"x", &sealed[..length]).is_none()));
    }

    const KNOWN: &str = "qa_k7Qw2mXp0123456789abcdefghijklmnopqrstuvwxyzABCDEFG45b3QB";
    const HASH: &str = "b9051f67fdff7bba688301e62c799832a71cdae75bbeb6ff2b989b4bbbe80b63";
}
