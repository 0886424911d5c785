//! Keys of people and jobs for one gateway: what they look like, what is stored of them, what each may use.
//!
//! ```text
//! mod.rs        one key's record: owner, limits, state
//! format.rs     the text of a key: prefix, id, secret, checksum
//! team.rs       the team secret, which turns a key into what is stored, and seals
//! job.rs        keys of CI jobs, for an hour
//! issuer.rs     issuers whose tokens count as keys, and what a token must say
//! store.rs      keys.json: the one place that writes it, and its readers
//! audit.rs      one line for each change
//! money.rs      amounts, budgets and prices
//! pattern.rs    names of models with wildcards
//! ```
//!
//! Hazard: anyone who can read a file of ours can use every key in it; two commands change the keys at once; one is
//! killed. Rule: a key is shown once and never stored, only an HMAC of it with the team secret; a change reads, edits
//! and replaces keys.json atomically under a kernel lock.

mod audit;
mod format;
mod issuer;
mod job;
mod money;
mod pattern;
mod store;
mod team;

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use audit::Audit;
pub(crate) use audit::last_lines;
pub(crate) use format::KeyText;
pub(crate) use issuer::IssuerRule;
pub(crate) use job::JobKey;
pub(crate) use money::{Budget, Money, Price, Prices};
pub(crate) use pattern::matches;
pub(crate) use store::{Change, Directory, Keys, Places, Publication, Published, Shown, Versioned};
pub(crate) use team::TeamSecret;

use crate::epoch;
use crate::error::nearest;
use crate::sha256::short_sha256;

/// The fields of a key that a person may edit.
const FIELDS: [&str; 11] = [
    "budget",
    "expires_at",
    "models",
    "name",
    "owner",
    "parallel",
    "profiles",
    "requests_per_day",
    "requests_per_minute",
    "tokens_per_day",
    "tokens_per_minute",
];

/// What is stored of one key. Its counters are stored elsewhere, by its id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeyRecord {
    /// Part of the key, but not secret: logs and the ledger contain it.
    pub(crate) id: String,
    /// Unique among the keys that are not revoked.
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<String>,
    /// HMAC-SHA-256 of the key's secret under the team secret, in hexadecimal; empty once it is revoked.
    hash: String,
    /// The previous key after a rotation, while both are valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    former: Option<Former>,
    /// The keys before that one, while they are still valid after earlier rotations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<Former>,
    /// Seconds since 1970, as all times here.
    pub(crate) created_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revoked_at: Option<u64>,
    /// How often its spending was reset: earlier spending no longer counts.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) resets: u32,
    #[serde(flatten)]
    pub(crate) limits: KeyLimits,
    /// Fields written by a later version.
    #[serde(flatten)]
    others: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Former {
    hash: String,
    until: u64,
}

/// What one key may use. An unset field means no limit of its own; the account's limits apply to every key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct KeyLimits {
    #[serde(deserialize_with = "above_zero", skip_serializing_if = "Option::is_none")]
    pub(crate) requests_per_minute: Option<u32>,
    #[serde(deserialize_with = "above_zero", skip_serializing_if = "Option::is_none")]
    pub(crate) requests_per_day: Option<u32>,
    #[serde(deserialize_with = "above_zero", skip_serializing_if = "Option::is_none")]
    pub(crate) tokens_per_minute: Option<u32>,
    #[serde(deserialize_with = "above_zero", skip_serializing_if = "Option::is_none")]
    pub(crate) tokens_per_day: Option<u64>,
    /// Length of its minute in seconds, if not 60; for tests.
    #[serde(deserialize_with = "above_zero", skip_serializing_if = "Option::is_none")]
    pub(crate) window: Option<u32>,
    /// Maximum number of requests in flight.
    #[serde(deserialize_with = "above_zero", skip_serializing_if = "Option::is_none")]
    pub(crate) parallel: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) budget: Option<Budget>,
    /// Patterns of the allowed models; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) models: Vec<String>,
    /// The allowed profiles; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) profiles: Vec<String>,
}

/// A limit of 0 is an error, as a negative one is: neither allows a request.
fn above_zero<'de, D, N>(deserializer: D) -> Result<Option<N>, D::Error>
where
    D: serde::Deserializer<'de>,
    N: Deserialize<'de> + Default + PartialEq,
{
    let limit = Option::deserialize(deserializer)?;
    if limit == Some(N::default()) {
        return Err(serde::de::Error::custom("a limit is 0, and the lowest is 1"));
    }
    Ok(limit)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Active,
    /// A key before the last rotation is still valid too.
    Rotating,
    Expired,
    Revoked,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Rotating => "rotating",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl KeyRecord {
    /// A new key and its record.
    pub(crate) fn create(name: &str, secret: &TeamSecret, now: SystemTime) -> (Self, KeyText) {
        let key = KeyText::new();
        let record = Self {
            id: key.id().to_owned(),
            name: name.to_owned(),
            owner: None,
            hash: secret.hash(&key),
            former: None,
            earlier: Vec::new(),
            created_at: epoch::seconds(now),
            expires_at: None,
            revoked_at: None,
            resets: 0,
            limits: KeyLimits::default(),
            others: serde_json::Map::new(),
        };
        (record, key)
    }

    /// Gives the key another secret under the same id. With `overlap`, the old one stays valid for that time, and those of
    /// earlier rotations for theirs; without it, none does.
    pub(crate) fn rotate(&mut self, secret: &TeamSecret, overlap: Duration, now: SystemTime) -> KeyText {
        let key = KeyText::with_id(&self.id);
        let old = std::mem::replace(&mut self.hash, secret.hash(&key));
        let until = epoch::seconds(now).saturating_add(overlap.as_secs());
        let former = self.former.replace(Former { hash: old, until });
        self.earlier.extend(former);
        self.earlier.retain(|former| epoch::seconds(now) < former.until);
        if overlap.is_zero() {
            (self.former, self.earlier) = (None, Vec::new());
        }
        key
    }

    /// Makes it invalid for good. Its hashes are not needed any more, and leave the room that the time takes: a key can be
    /// revoked however many there are.
    pub(crate) fn revoke(&mut self, now: SystemTime) {
        self.revoked_at = Some(epoch::seconds(now));
        self.hash.clear();
        (self.former, self.earlier) = (None, Vec::new());
    }

    /// Whether `key` is the current one, or a previous one while both are valid.
    pub(crate) fn is(&self, key: &KeyText, secret: &TeamSecret, now: SystemTime) -> bool {
        // All are compared, so that the time reveals nothing.
        let is_new = secret.verifies(key, &self.hash);
        let is_old = self.old_keys(now).fold(false, |found, former| found | secret.verifies(key, &former.hash));
        self.id == key.id() && (is_new | is_old)
    }

    /// The keys before the current one that are still valid.
    fn old_keys(&self, now: SystemTime) -> impl Iterator<Item = &Former> {
        self.former.iter().chain(&self.earlier).filter(move |former| epoch::seconds(now) < former.until)
    }

    pub(crate) fn state(&self, now: SystemTime) -> State {
        let has_passed = |at: u64| at <= epoch::seconds(now);
        if self.revoked_at.is_some() {
            State::Revoked
        } else if self.expires_at.is_some_and(has_passed) {
            State::Expired
        } else if self.old_keys(now).next().is_some() {
            State::Rotating
        } else {
            State::Active
        }
    }

    /// The name of its spending counters: after a reset another name starts at zero.
    pub(crate) fn spending_period(&self, now: SystemTime) -> Option<String> {
        let budget = self.limits.budget.as_ref()?;
        Some(format!("{}/{}", budget.period.name_at(now), self.resets))
    }

    /// Whether `other` is the same key, whatever its owner: jobs use the key of their rule with an owner of their own.
    pub(crate) fn is_same_for_all<'a>(&'a self, other: &'a Self) -> bool {
        if std::ptr::eq(self, other) {
            return true;
        }
        let all_but_the_owner = |record: &'a Self| {
            let Self {
                id,
                name,
                owner: _,
                hash,
                former,
                earlier,
                created_at,
                expires_at,
                revoked_at,
                resets,
                limits,
                others,
            } = record;
            (id, name, hash, former, earlier, (created_at, expires_at, revoked_at, resets), limits, others)
        };
        all_but_the_owner(self) == all_but_the_owner(other)
    }

    /// The record as gateways on other machines get it.
    pub(crate) fn published(&self) -> Published {
        let text = serde_json::to_string(self).unwrap_or_default();
        let version = short_sha256(&text, 16);
        let name = self.revoked_at.is_none().then(|| self.name.clone());
        Published { id: self.id.clone(), version, text, name }
    }

    /// A warning for each field that means nothing here: a mistyped limit does not apply.
    fn unknown_fields(&self, file: &str) -> impl Iterator<Item = String> {
        self.others.keys().map(move |field| {
            let near = nearest(field, FIELDS).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            format!("field `{field}` of key `{}` in `{file}` is unknown and has no effect{near}", self.name)
        })
    }

    /// Whether it allows this profile.
    pub(crate) fn allows_profile(&self, profile: &str) -> bool {
        let profiles = &self.limits.profiles;
        profiles.is_empty() || profiles.iter().any(|known| known == profile)
    }

    /// Whether it allows this model.
    pub(crate) fn allows_model(&self, model: &str) -> bool {
        let models = &self.limits.models;
        models.is_empty() || models.iter().any(|pattern| matches(pattern, model))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotated_key_and_the_one_before_it_work_for_the_overlap_only() {
        let (secret, now) = (TeamSecret::new(), SystemTime::now());
        let (mut record, first) = KeyRecord::create("ci", &secret, now);
        assert!(record.is(&first, &secret, now));
        let second = record.rotate(&secret, Duration::from_secs(60), now);
        assert_eq!(record.state(now), State::Rotating);
        assert!(record.is(&first, &secret, now) && record.is(&second, &secret, now));
        assert!(record.is(&first, &secret, now + Duration::from_secs(59)));
        for seconds in [60, 61] {
            let later = now + Duration::from_secs(seconds);
            assert_eq!(record.state(later), State::Active);
            assert!(!record.is(&first, &secret, later) && record.is(&second, &secret, later));
        }
        let mut other = record.clone();
        other.id = "another0".to_owned();
        assert!(!other.is(&second, &secret, now), "the record of another key");
        let third = record.rotate(&secret, Duration::ZERO, now);
        assert!(!record.is(&second, &secret, now) && record.is(&third, &secret, now));
        assert!(!record.is(&third, &TeamSecret::new(), now));
    }

    #[test]
    fn a_rotation_does_not_shorten_the_overlap_of_another() {
        let (secret, now) = (TeamSecret::new(), SystemTime::now());
        let (mut record, first) = KeyRecord::create("ci", &secret, now);
        let second = record.rotate(&secret, Duration::from_secs(60), now);
        let third = record.rotate(&secret, Duration::from_secs(10), now);
        let valid = |record: &KeyRecord, after: u64| {
            let at = now + Duration::from_secs(after);
            ([&first, &second, &third].map(|key| record.is(key, &secret, at)), record.state(at))
        };
        assert_eq!(valid(&record, 9), ([true; 3], State::Rotating));
        assert_eq!(valid(&record, 10), ([true, false, true], State::Rotating));
        assert_eq!(valid(&record, 60), ([false, false, true], State::Active));
        drop(record.rotate(&secret, Duration::from_secs(5), now + Duration::from_secs(60)));
        assert!(record.earlier.is_empty(), "they have ended");
        drop(record.rotate(&secret, Duration::ZERO, now));
        assert_eq!(valid(&record, 0), ([false; 3], State::Active));
    }

    #[test]
    fn a_record_is_kept_as_a_later_version_wrote_it() {
        let (record, _) = KeyRecord::create("ci", &TeamSecret::new(), SystemTime::now());
        let mut value = serde_json::to_value(&record).unwrap();
        value["of_a_later_version"] = serde_json::json!({ "x": [1] });
        let read: KeyRecord = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), value);
        let warnings: Vec<String> = read.unknown_fields("f").collect();
        assert_eq!(warnings, ["field `of_a_later_version` of key `ci` in `f` is unknown and has no effect"]);
        assert_eq!(record.unknown_fields("f").next(), None);
        assert!(value.get("resets").is_none(), "earlier versions do not know it");
        let reset = KeyRecord { resets: 1, ..record };
        assert_eq!(serde_json::to_value(&reset).unwrap()["resets"], 1);
    }

    #[test]
    fn a_limit_of_zero_is_as_invalid_as_a_negative_one_and_a_mistyped_limit_is_reported() {
        let (record, _) = KeyRecord::create("ci", &TeamSecret::new(), SystemTime::now());
        let read = |field: &str, value: i64| {
            let mut fields = serde_json::to_value(&record).unwrap();
            fields[field] = value.into();
            serde_json::from_value::<KeyRecord>(fields)
        };
        let limits =
            ["requests_per_minute", "requests_per_day", "tokens_per_minute", "tokens_per_day", "parallel", "window"];
        for limit in limits {
            assert!(read(limit, 1).is_ok_and(|record| record.unknown_fields("f").next().is_none()), "{limit}");
            assert!(read(limit, -1).is_err(), "{limit}");
            let error = read(limit, 0).unwrap_err().to_string();
            assert_eq!(error, "a limit is 0, and the lowest is 1", "{limit}");
        }
        let warnings: Vec<String> = read("requests_per_minut", 60).unwrap().unknown_fields("f").collect();
        assert_eq!(
            warnings,
            [
                "field `requests_per_minut` of key `ci` in `f` is unknown and has no effect; did you mean `requests_per_minute`?"
            ]
        );
    }

    #[test]
    fn a_key_is_the_same_for_all_owners_and_another_after_any_change() {
        let (record, _) = KeyRecord::create("ci", &TeamSecret::new(), SystemTime::now());
        let of_a_job = KeyRecord { owner: Some("corp/api".to_owned()), ..record.clone() };
        assert!(record.is_same_for_all(&record) && record.is_same_for_all(&record.clone()));
        assert!(record.is_same_for_all(&of_a_job) && of_a_job.is_same_for_all(&record));
        let renamed = KeyRecord { name: "cd".to_owned(), ..record.clone() };
        let mut limited = record.clone();
        limited.limits.parallel = Some(1);
        assert!(!record.is_same_for_all(&renamed) && !record.is_same_for_all(&limited));
        let revoked = KeyRecord { revoked_at: Some(1), ..of_a_job };
        assert!(!record.is_same_for_all(&revoked));
    }

    #[test]
    fn a_record_holds_nothing_of_the_secret() {
        let (record, key) = KeyRecord::create("ci", &TeamSecret::new(), SystemTime::now());
        let text = format!("{record:?}{}", serde_json::to_string(&record).unwrap());
        let key = key.secret().expose();
        assert!(!(0..key.len() - 8).any(|at| text.contains(&key[at..at + 8]) && at >= 3 + 8));
    }
}
