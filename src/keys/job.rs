//! Keys of CI jobs: issued for a token of the job's service, for at most an hour, and not stored.
//!
//! Hazard: a key that is in no file cannot be revoked. Rule: it refers to a key of the team, is encrypted with the
//! team secret, and is valid only while that key is; revoking that key ends all job keys issued for it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::TeamSecret;
use crate::epoch;
use crate::secret::Secret;

/// The prefix of every job key.
const PREFIX: &str = "qj_";

/// Maximum lifetime.
pub(crate) const LIFETIME: Duration = Duration::from_secs(3600);

/// The purpose for which it is encrypted.
const PURPOSE: &str = "job key";

/// The content of a job key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobKey {
    /// The id of the key whose limits apply.
    pub(crate) key: String,
    pub(crate) owner: String,
    /// Seconds since 1970.
    until: u64,
}

impl JobKey {
    /// Valid for [`LIFETIME`], or until `ends` if that is earlier.
    pub(crate) fn new(key: &str, owner: &str, ends: Option<u64>, now: SystemTime) -> Self {
        let until = epoch::seconds(now + LIFETIME).min(ends.unwrap_or(u64::MAX));
        Self { key: key.to_owned(), owner: owner.to_owned(), until }
    }

    /// Remaining lifetime from `now` on.
    pub(crate) fn lasts(&self, now: SystemTime) -> Duration {
        (UNIX_EPOCH + Duration::from_secs(self.until)).duration_since(now).unwrap_or_default()
    }

    /// Its text.
    ///
    /// Errors: the system has no random numbers.
    pub(crate) fn seal(&self, secret: &TeamSecret) -> anyhow::Result<Secret> {
        let sealed = secret.seal(PURPOSE, b"", &serde_json::to_vec(self)?)?;
        Ok(Secret::new(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(sealed))))
    }

    /// Whether `text` looks like a job key.
    pub(crate) fn looks_like_one(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// Returns `None` if it is not one of this team, or has expired.
    pub(crate) fn open(text: &str, secret: &TeamSecret, now: SystemTime) -> Option<Self> {
        let sealed = BASE64_URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
        let key: Self = serde_json::from_slice(&secret.open(PURPOSE, b"", &sealed)?).ok()?;
        (!key.lasts(now).is_zero()).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_key_is_of_one_team_and_ends_within_the_hour() {
        let (secret, now) = (TeamSecret::new(), SystemTime::now());
        let key = JobKey::new("k7Qw2mXp", "corp/api", None, now);
        let text = key.seal(&secret).unwrap();
        let text = text.expose();
        assert!(!text.contains("corp") && text.starts_with("qj_"), "{text}");
        assert_eq!(JobKey::open(text, &secret, now).as_ref(), Some(&key));
        assert_eq!(JobKey::open(text, &secret, now + LIFETIME - Duration::from_secs(2)).as_ref(), Some(&key));
        assert_eq!(JobKey::open(text, &secret, now + LIFETIME), None);
        assert_eq!(JobKey::open(text, &TeamSecret::new(), now), None);
        // Two ciphertexts of the same content have nothing in common.
        assert_ne!(key.seal(&secret).unwrap().expose(), text);
        for at in 3..text.len() {
            let mut other = text.to_owned().into_bytes();
            other[at] = if other[at] == b'x' { b'y' } else { b'x' };
            assert_eq!(JobKey::open(std::str::from_utf8(&other).unwrap(), &secret, now), None, "{at}");
        }
        // A ciphertext made for another purpose is not a key.
        let sealed = secret.seal("token", b"", &serde_json::to_vec(&key).unwrap()).unwrap();
        let text = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(sealed));
        assert_eq!(JobKey::open(&text, &secret, now), None);
    }

    #[test]
    fn it_does_not_outlive_the_key_it_is_of() {
        let now = SystemTime::now();
        let key = JobKey::new("k7Qw2mXp", "corp/api", Some(epoch::seconds(now) + 60), now);
        assert!(key.lasts(now) <= Duration::from_secs(60), "{key:?}");
    }
}
