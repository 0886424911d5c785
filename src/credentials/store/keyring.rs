//! Secrets in the system's keyring: each version has its own name, is split if it is too long, and is read back.
//!
//! Hazard: a kill or a locked keyring between two steps leaves half a secret, or none. Rule: a name is used only once,
//! its first entry is written last, and the file names the secret only after the keyring has returned it.

use anyhow::Result;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rand::RngExt;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::error::{Failed, Failure, Reason};
use crate::platform::keyring::{self, DIALOG_TIMEOUT, Entry, MAX_VALUE, NAME, TIMEOUT, Trouble};

/// Prefix of the first entry of a split secret, before the number of its parts. Secrets contain no space.
const PARTS: &str = "qwenauth-parts ";

/// Maximum number of parts; the longest credential has fewer.
const MAX_PARTS: usize = 1024;

/// Returns a name that has never been used.
pub(super) fn new_name() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// Stores a secret and reads it back.
pub(super) fn write(profile: &str, name: &str, secret: &[u8]) -> Result<()> {
    try_write(profile, name, secret).map_err(|trouble| failed(&login_of(profile), "write to", trouble).into())
}

fn try_write(profile: &str, name: &str, secret: &[u8]) -> Result<(), Trouble> {
    split(secret, MAX_VALUE, |part, bytes| keyring::write(Entry { profile, name: &named(name, part) }, bytes))?;
    match try_read(profile, name)? {
        Some(stored) if *stored == *secret => Ok(()),
        _ => Err(Trouble::Failed("it does not return what was stored".into())),
    }
}

/// The secret of that name. Returns `None` if it is missing or incomplete.
pub(super) fn read(profile: &str, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>> {
    try_read(profile, name).map_err(|trouble| failed(&login_of(profile), "read", trouble).into())
}

fn try_read(profile: &str, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Trouble> {
    joined(|part| keyring::read(Entry { profile, name: &named(name, part) }))
}

/// Stores a value and removes it. `login`: the command line of the login that needs it.
pub(super) fn check_writable(profile: &str, login: &str) -> Result<()> {
    let name = new_name();
    try_write(profile, &name, b"can this be stored?")
        .and_then(|()| remove(profile, &name))
        .map_err(|trouble| failed(login, "write to", trouble).into())
}

/// The command line that changes the login of a stored profile.
pub(super) fn login_of(profile: &str) -> String {
    format!("qwenauth login --profile {profile}")
}

/// Removes the secret of that name, starting with its first entry.
pub(super) fn remove(profile: &str, name: &str) -> Result<(), Trouble> {
    let first = keyring::read(Entry { profile, name })?;
    keyring::remove(Entry { profile, name })?;
    // A secret without its first entry may be the result of a kill.
    let parts = first.as_ref().map_or(MAX_PARTS, |first| count(first).unwrap_or(0));
    for part in 1..=parts {
        let name = named(name, part);
        let entry = Entry { profile, name: &name };
        if first.is_none() && (MAX_VALUE > MAX_WHOLE || keyring::read(entry)?.is_none()) {
            break;
        }
        keyring::remove(entry)?;
    }
    Ok(())
}

/// Values of any length are accepted, so nothing is split.
const MAX_WHOLE: usize = 64 * 1024;

/// The name of a part's entry; the first part uses the name itself.
fn named(name: &str, part: usize) -> String {
    if part == 0 { name.to_owned() } else { format!("{name}.{part}") }
}

/// Writes a secret in entries of at most `max` bytes: parts 1 and later first, then the first entry with their number.
fn split<E>(secret: &[u8], max: usize, mut write: impl FnMut(usize, &[u8]) -> Result<(), E>) -> Result<(), E> {
    if secret.len() <= max {
        return write(0, secret);
    }
    let mut parts = 0;
    for bytes in secret.chunks(max.max(1)) {
        parts += 1;
        write(parts, bytes)?;
    }
    write(0, format!("{PARTS}{parts}").as_bytes())
}

fn joined<E>(
    mut read: impl FnMut(usize) -> Result<Option<Zeroizing<Vec<u8>>>, E>,
) -> Result<Option<Zeroizing<Vec<u8>>>, E> {
    let Some(first) = read(0)? else { return Ok(None) };
    let Some(parts) = count(&first) else { return Ok(Some(first)) };
    let mut whole = Zeroizing::new(Vec::with_capacity(parts.min(MAX_PARTS) * MAX_VALUE.min(MAX_WHOLE)));
    for part in 1..=parts {
        let Some(bytes) = read(part)? else { return Ok(None) };
        whole.extend_from_slice(&bytes);
    }
    Ok(Some(whole))
}

fn count(first: &[u8]) -> Option<usize> {
    let number = std::str::from_utf8(first).ok()?.strip_prefix(PARTS)?;
    number.parse().ok().filter(|parts| *parts <= MAX_PARTS)
}

/// Converts a keyring's error for the user and the exit code. `login`: the command line that logs in again. `what`: the
/// attempted action.
pub(super) fn failed(login: &str, what: &str, trouble: Trouble) -> Failed {
    let cannot = |failure, why: &str| {
        Failed::new(failure, format!("cannot {what} the keyring ({NAME}): {why}")).because(Reason::Storage)
    };
    let elsewhere = format!(
        "without a desktop, run `{login} --api-key-command COMMAND`, or set `QWENAUTH_API_KEY_FILE` to a key file"
    );
    match trouble {
        Trouble::Missing(why) => {
            cannot(Failure::LoginRequired, &why).hint(format!("run this in your desktop session; {elsewhere}"))
        }
        Trouble::Locked => cannot(Failure::LoginRequired, "it is locked").hint(format!("unlock it; {elsewhere}")),
        Trouble::NotUnlocked => {
            let why = format!("it was not unlocked within {} s", DIALOG_TIMEOUT.as_secs());
            cannot(Failure::LoginRequired, &why).hint(format!("unlock it; {elsewhere}"))
        }
        Trouble::Denied => cannot(Failure::LoginRequired, "its dialog was dismissed")
            .hint("run the command again and allow the access"),
        Trouble::Silent => cannot(Failure::Temporary, &format!("it did not answer within {} s", TIMEOUT.as_secs()))
            .hint("retry; if it still does not respond, restart the keyring or your desktop session"),
        Trouble::Failed(why) => cannot(Failure::Other, &why),
    }
}

/// A key in the keyring that encrypts a secret in a file until the keyring has the secret.
pub(super) struct Seal {
    pub(super) name: String,
    key: Zeroizing<[u8; 32]>,
}

impl Seal {
    /// Creates a key and stores it in an entry of `size` bytes, so that there is space for the next secret.
    pub(super) fn new(profile: &str, name: String, size: usize) -> Result<Self> {
        let mut key = Zeroizing::new([0; 32]);
        rand::rng().fill(&mut key[..]);
        let mut value = Zeroizing::new(String::with_capacity(size + 64));
        BASE64_STANDARD.encode_string(*key, &mut value);
        value.push(' ');
        while value.len() < size {
            value.push('.');
        }
        write(profile, &name, value.as_bytes())?;
        Ok(Self { name, key })
    }

    /// The key of that name. Returns `None` if the keyring does not have it.
    pub(super) fn of(profile: &str, name: &str) -> Result<Option<Self>> {
        let Some(value) = read(profile, name)? else { return Ok(None) };
        let encoded = value.split(|&byte| byte == b' ').next().unwrap_or_default();
        let decoded = BASE64_STANDARD.decode(encoded).map(Zeroizing::new).unwrap_or_default();
        let Ok(key) = <[u8; 32]>::try_from(decoded.as_slice()) else { return Ok(None) };
        Ok(Some(Self { name: name.to_owned(), key: Zeroizing::new(key) }))
    }

    fn cipher(&self) -> Option<LessSafeKey> {
        UnboundKey::new(&CHACHA20_POLY1305, &*self.key).ok().map(LessSafeKey::new)
    }

    /// Encrypts `secret`, which will be stored as `entry`; only this key decrypts it.
    pub(super) fn close(&self, entry: &str, secret: &[u8]) -> Option<String> {
        let mut nonce = [0; NONCE_LEN];
        rand::rng().fill(&mut nonce[..]);
        // With room for the tag, so that it does not move and leave the secret behind.
        let mut sealed = Zeroizing::new(Vec::with_capacity(secret.len() + CHACHA20_POLY1305.tag_len()));
        sealed.extend_from_slice(secret);
        let aad = Aad::from(entry.as_bytes());
        self.cipher()?.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut *sealed).ok()?;
        Some(BASE64_STANDARD.encode([nonce.as_slice(), sealed.as_slice()].concat()))
    }

    pub(super) fn open(&self, entry: &str, sealed: &str) -> Option<Zeroizing<Vec<u8>>> {
        let bytes = BASE64_STANDARD.decode(sealed).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let mut secret = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let length = self.cipher()?.open_in_place(nonce, Aad::from(entry.as_bytes()), &mut secret).ok()?.len();
        secret.truncate(length);
        Some(secret)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    type Entries = BTreeMap<usize, Vec<u8>>;

    /// The entries after `writes` calls and then a kill.
    fn written(secret: &[u8], max: usize, writes: usize) -> Entries {
        let mut entries = Entries::new();
        let _ = split(secret, max, |part, bytes| {
            assert!(bytes.len() <= max);
            if entries.len() == writes {
                return Err(());
            }
            entries.insert(part, bytes.to_vec());
            Ok(())
        });
        entries
    }

    fn read(entries: &Entries) -> Option<Vec<u8>> {
        let whole = joined(|part| Ok::<_, ()>(entries.get(&part).map(|bytes| Zeroizing::new(bytes.clone()))));
        whole.unwrap().map(|whole| whole.to_vec())
    }

    #[test]
    fn a_secret_that_is_too_long_for_an_entry_is_whole_or_not_there_wherever_it_is_cut_short() {
        let secret: Vec<u8> = (0..7001u32).map(|number| b'a' + u8::try_from(number % 26).unwrap()).collect();
        for writes in 0..4 {
            assert_eq!(read(&written(&secret, 2560, writes)), None, "{writes}");
        }
        let whole = written(&secret, 2560, 4);
        assert_eq!(whole.len(), 4);
        assert_eq!(read(&whole).unwrap(), secret);
        assert_eq!(read(&written(b"sk-1", 2560, 1)).unwrap(), b"sk-1");
    }

    #[test]
    fn what_is_sealed_opens_with_its_key_for_its_entry_and_nothing_else() {
        let seal = |byte| Seal { name: "k".into(), key: Zeroizing::new([byte; 32]) };
        let sealed = seal(1).close("one", b"secret").unwrap();
        assert!(!sealed.contains("secret"));
        assert_eq!(seal(1).open("one", &sealed).unwrap().as_slice(), b"secret");
        assert!(seal(1).open("two", &sealed).is_none());
        assert!(seal(2).open("one", &sealed).is_none());
        assert!(seal(1).open("one", &sealed[4..]).is_none());
        assert!(seal(1).open("one", "").is_none());
    }

    #[test]
    fn a_script_can_tell_what_is_wrong_with_the_keyring() {
        for (trouble, failure) in [
            (Trouble::Missing("x".into()), Failure::LoginRequired),
            (Trouble::Locked, Failure::LoginRequired),
            (Trouble::NotUnlocked, Failure::LoginRequired),
            (Trouble::Denied, Failure::LoginRequired),
            (Trouble::Silent, Failure::Temporary),
            (Trouble::Failed("x".into()), Failure::Other),
        ] {
            assert_eq!(failed("work", "read", trouble.clone()).failure, failure, "{trouble:?}");
        }
    }
}
