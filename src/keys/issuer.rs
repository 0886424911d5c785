//! Issuers whose tokens count as keys: `[[team.issuers]]` of config.toml, and the claims a token must have.
//!
//! Hazard: an issuer such as GitHub signs tokens for every repository in the world. Rule: a rule names the audience
//! and at least one claim that distinguishes its own jobs from others; every claim that it names must be present and
//! equal.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

/// Claims that every token of an issuer has, or that are checked anyway: they do not distinguish one job from another.
const OF_EVERY_TOKEN: [&str; 7] = ["aud", "exp", "iat", "iss", "jti", "nbf", "typ"];

/// Claims that name the owner of a job if the rule names none: at GitHub, at GitLab, everywhere.
const OWNERS: [&str; 3] = ["repository", "project_path", "sub"];

/// Maximum length of a stored owner, in characters.
const MAX_OWNER: usize = 200;

/// Allowed difference between the clocks of issuer and gateway.
const SKEW: Duration = Duration::from_secs(60);

/// One entry of `[[team.issuers]]`.
#[derive(Debug, Clone)]
pub(crate) struct IssuerRule {
    /// Its URL, as in its tokens.
    pub(crate) issuer: String,
    pub(crate) audience: String,
    /// The required value of each claim.
    pub(crate) claims: BTreeMap<String, Value>,
    /// The name or id of the key whose limits apply.
    pub(crate) key: String,
    /// The claim that names the owner.
    pub(crate) owner: Option<String>,
}

impl IssuerRule {
    /// Whether it distinguishes some jobs of its issuer from others.
    pub(crate) fn is_narrow(&self) -> bool {
        self.claims.keys().any(|name| !OF_EVERY_TOKEN.contains(&name.as_str()))
    }

    /// The owner named by a token of this issuer. `now`: seconds since 1970.
    ///
    /// Errors: what is wrong with the token, for the client that sent it.
    pub(crate) fn check(&self, claims: &Map<String, Value>, now: u64) -> Result<String, String> {
        let is_audience = |value: &Value| value.as_str() == Some(self.audience.as_str());
        let is_for_us = match claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(is_audience),
            Some(one) => is_audience(one),
            None => false,
        };
        if !is_for_us {
            return Err("it is for another audience".to_owned());
        }
        let time =
            |name: &str| claims.get(name).map(|value| value.as_f64().ok_or(format!("its `{name}` is not a time")));
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
        let (now, skew) = (now as f64, SKEW.as_secs() as f64);
        match time("exp").transpose()? {
            None => return Err("it has no `exp`".to_owned()),
            Some(ends) if now >= ends + skew => return Err("it has expired".to_owned()),
            Some(_) => {}
        }
        if time("nbf").transpose()?.is_some_and(|begins| now + skew < begins) {
            return Err("it is not valid yet".to_owned());
        }
        for (name, expected) in &self.claims {
            if claims.get(name) != Some(expected) {
                return Err(format!("its claim `{name}` is not the one that this gateway accepts"));
            }
        }
        let named = |name: &str| claims.get(name).and_then(Value::as_str).filter(|owner| !owner.is_empty());
        let owner = match &self.owner {
            Some(name) => named(name).ok_or_else(|| format!("it has no claim `{name}`, which names the owner here"))?,
            None => OWNERS.iter().find_map(|name| named(name)).ok_or("it has no `sub`")?,
        };
        Ok(owner.chars().filter(|letter| !letter.is_control()).take(MAX_OWNER).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn rule() -> IssuerRule {
        IssuerRule {
            issuer: "https://issuer.example".into(),
            audience: "https://qwen.corp.example".into(),
            claims: [("repository_owner".to_owned(), json!("corp")), ("protected".to_owned(), json!(true))].into(),
            key: "ci".into(),
            owner: None,
        }
    }

    fn token(change: impl FnOnce(&mut Value)) -> Map<String, Value> {
        let mut claims = json!({
            "aud": "https://qwen.corp.example", "exp": NOW + 300, "nbf": NOW - 5, "sub": "repo:corp/api:ref:main",
            "repository": "corp/api", "repository_owner": "corp", "protected": true,
        });
        change(&mut claims);
        claims.as_object().unwrap().clone()
    }

    #[test]
    fn every_claim_has_to_be_there_and_equal() {
        assert_eq!(rule().check(&token(|_| ()), NOW).unwrap(), "corp/api");
        for (name, value) in [
            ("repository_owner", json!("corp2")),
            ("repository_owner", json!("Corp")),
            ("repository_owner", json!("corp ")),
            ("repository_owner", json!(["corp"])),
            ("repository_owner", json!(null)),
            ("protected", json!("true")),
            ("protected", json!(1)),
            ("aud", json!("https://qwen.corp.example/")),
            ("aud", json!(["https://other.example"])),
            ("aud", json!({})),
            ("aud", json!(null)),
            ("exp", json!(NOW - 60)),
            ("exp", json!("never")),
            ("exp", json!(null)),
            ("nbf", json!(NOW + 61)),
            ("nbf", json!("soon")),
        ] {
            assert!(rule().check(&token(|claims| claims[name] = value.clone()), NOW).is_err(), "{name}: {value}");
        }
        for name in ["repository_owner", "protected", "aud", "exp"] {
            let without = token(|claims| drop(claims.as_object_mut().unwrap().shift_remove(name)));
            assert!(rule().check(&without, NOW).is_err(), "{name}");
        }
        for (name, value) in [
            ("aud", json!(["https://other.example", "https://qwen.corp.example"])),
            ("exp", json!(NOW - 59)),
            ("nbf", json!(NOW + 60)),
        ] {
            assert!(rule().check(&token(|claims| claims[name] = value.clone()), NOW).is_ok(), "{name}: {value}");
        }
    }

    #[test]
    fn the_owner_is_the_claim_that_is_named_or_the_first_that_there_is() {
        let owner = |rule: &IssuerRule, names: &[&str]| {
            let claims = token(|claims| {
                for name in names {
                    claims.as_object_mut().unwrap().shift_remove(*name);
                }
            });
            rule.check(&claims, NOW)
        };
        assert_eq!(owner(&rule(), &["repository"]).unwrap(), "repo:corp/api:ref:main");
        assert!(owner(&rule(), &["repository", "sub"]).is_err());
        let named = IssuerRule { owner: Some("sub".into()), ..rule() };
        assert_eq!(owner(&named, &[]).unwrap(), "repo:corp/api:ref:main");
        assert!(owner(&named, &["sub"]).is_err());
        let long = token(|claims| claims["repository"] = json!(format!("a\n{}", "b".repeat(1000))));
        assert_eq!(rule().check(&long, NOW).unwrap().len(), MAX_OWNER);
    }

    #[test]
    fn a_rule_that_fits_every_job_of_an_issuer_is_none() {
        assert!(rule().is_narrow());
        for claims in [vec![], vec![("iss".to_owned(), json!("x"))], vec![("aud".to_owned(), json!("x"))]] {
            assert!(!IssuerRule { claims: claims.into_iter().collect(), ..rule() }.is_narrow());
        }
    }
}
