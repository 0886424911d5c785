//! Tokens of CI jobs as keys: who issued them, whether they are genuine, and whose limits apply.
//!
//! Hazard: any client can send a token that names any key id, and each would make the gateway query the issuer. A key
//! that the issuer withdrew would be trusted forever. Rule: an issuer is queried only for tokens in its name that no known
//! key verifies, at most once a minute, and once for all waiting requests. Keys older than an hour are fetched again,
//! and after a day without a response no key is trusted. No part of a token is logged, stored or forwarded.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use hyper::StatusCode;
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use crate::epoch;
use crate::gateway::response::refusal::Refusal;
use crate::http::Network;
use crate::keys::IssuerRule;
use crate::oauth::jwt::{KeySet, MAX_LENGTH, NotVerified, Shown};
use crate::oauth::{REQUEST_TIMEOUT, discovery};
use crate::platform::threads;

/// Pause before an issuer is queried again for a key that it did not have, and after a failure.
const ASK_AGAIN: Duration = Duration::from_secs(60);
const ASK_AGAIN_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Keys are fetched again after this time; a withdrawn key is trusted at most this long.
const FRESH: Duration = Duration::from_secs(3600);

/// While the issuer is unreachable, keys are trusted for this long.
const BELIEVED: Duration = Duration::from_secs(24 * 3600);

/// One issuer, and the conditions of its rules.
struct Issuer {
    url: String,
    rules: Vec<IssuerRule>,
    keys: RefCell<Option<(Rc<KeySet>, Instant)>>,
    /// When it was last queried, and whether it responded.
    asked: Cell<Option<(Instant, bool)>>,
    gate: Mutex<()>,
}

/// The issuers whose tokens count as keys.
pub(in crate::gateway) struct Issuers {
    all: Vec<Rc<Issuer>>,
    network: Network,
}

/// Whose limits apply to a request with a token.
pub(in crate::gateway) struct Accepted {
    /// The name or id of the key.
    pub(in crate::gateway) key: String,
    pub(in crate::gateway) owner: String,
}

impl Issuers {
    pub(in crate::gateway) fn new(rules: Vec<IssuerRule>, network: Network) -> Self {
        let mut all: Vec<Issuer> = Vec::new();
        for rule in rules {
            let known = all.iter_mut().find(|issuer| is_same(&issuer.url, &rule.issuer));
            match known {
                Some(issuer) => issuer.rules.push(rule),
                None => all.push(Issuer {
                    url: rule.issuer.clone(),
                    rules: vec![rule],
                    keys: RefCell::default(),
                    asked: Cell::new(None),
                    gate: Mutex::new(()),
                }),
            }
        }
        Self { all: all.into_iter().map(Rc::new).collect(), network }
    }

    pub(in crate::gateway) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whose limits apply to the requests of a client that sends the token `text`.
    ///
    /// Errors: the token is rejected, with the reason, or its issuer cannot be queried now.
    pub(in crate::gateway) async fn accept(&self, text: &str, now: SystemTime) -> Result<Accepted, Refusal> {
        let shown = Shown::read(text).map_err(|why| not_verified(&why))?;
        let issuer = shown.issuer().unwrap_or_default();
        let Some(issuer) = self.all.iter().find(|known| is_same(&known.url, issuer)) else {
            return Err(rejected("its issuer is not in `[[team.issuers]]` of this gateway"));
        };
        let claims = issuer.verify(&shown, &self.network).await?;
        let now = epoch::seconds(now);
        let mut first = None;
        for rule in &issuer.rules {
            match rule.check(claims, now) {
                Ok(owner) => return Ok(Accepted { key: rule.key.clone(), owner }),
                Err(why) => drop(first.get_or_insert(why)),
            }
        }
        Err(rejected(first.unwrap_or_default()))
    }
}

/// Some issuers have a trailing slash in their tokens, and users omit it.
fn is_same(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

impl Issuer {
    /// The claims of `shown`, if the issuer signed it. Its keys are fetched if none that is known verifies it: it may have
    /// another one by now, of the same name too.
    async fn verify<'shown>(
        self: &Rc<Self>,
        shown: &'shown Shown<'_>,
        network: &Network,
    ) -> Result<&'shown Map<String, Value>, Refusal> {
        let mut verified = self.verified(shown);
        if let Some(Ok(claims)) = verified {
            // A request that can be served does not wait for the issuer.
            if !self.is_fresh() && self.may_ask() {
                self.asked.set(Some((Instant::now(), false)));
                let (issuer, network) = (Rc::clone(self), network.clone());
                tokio::task::spawn_local(async move { issuer.ask(&network).await });
            }
            return Ok(claims);
        }
        let _alone = self.gate.lock().await;
        // A request that waited may find its key now, or that the issuer does not have it.
        verified = self.verified(shown);
        if !matches!(verified, Some(Ok(_))) && self.may_ask() {
            self.ask(network).await;
            verified = self.verified(shown);
        }
        let Some(verified) = verified else {
            let message = format!("the keys of `{}` are not available at the moment", self.url);
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "issuer_unavailable", message)
                .after(ASK_AGAIN_AFTER_FAILURE));
        };
        verified.map_err(|why| not_verified(&why))
    }

    /// What the known keys say of `shown`; `None`: there are none that are still trusted.
    fn verified<'shown>(&self, shown: &'shown Shown<'_>) -> Option<Result<&'shown Map<String, Value>, NotVerified>> {
        let keys =
            self.keys.borrow().as_ref().filter(|(_, at)| at.elapsed() < BELIEVED).map(|(keys, _)| Rc::clone(keys));
        let keys = keys?;
        Some(shown.verified_by(&keys))
    }

    fn is_fresh(&self) -> bool {
        self.keys.borrow().as_ref().is_some_and(|(_, at)| at.elapsed() < FRESH)
    }

    fn may_ask(&self) -> bool {
        self.asked
            .get()
            .is_none_or(|(at, answered)| at.elapsed() >= if answered { ASK_AGAIN } else { ASK_AGAIN_AFTER_FAILURE })
    }

    async fn ask(&self, network: &Network) {
        // Recorded first, because the client may disconnect before there is a response.
        self.asked.set(Some((Instant::now(), false)));
        let (url, network) = (self.url.clone(), network.clone());
        let found = threads::finished(move || fetch(&url, &network)).await;
        self.asked.set(Some((Instant::now(), found.is_ok())));
        match found {
            Ok(keys) => *self.keys.borrow_mut() = Some((Rc::new(keys), Instant::now())),
            Err(error) => log::warn!("cannot get the keys of `{}`: {error:#}", self.url),
        }
    }
}

/// Runs on its own thread.
fn fetch(issuer: &str, network: &Network) -> anyhow::Result<KeySet> {
    let url = discovery::find_keys(issuer, network)?;
    let host = url.host_str().unwrap_or_default();
    let reply = network
        .connect(&url)?
        .get(&url, None, &[], REQUEST_TIMEOUT)
        .map_err(|trouble| anyhow::anyhow!("{}", trouble.sentence(host)))?;
    anyhow::ensure!(reply.status == 200, "`{host}` answered {}", reply.status);
    KeySet::read(&reply.body).ok_or_else(|| anyhow::anyhow!("`{host}` has no key for RS256, ES256 or EdDSA"))
}

fn not_verified(why: &NotVerified) -> Refusal {
    match why {
        NotVerified::Malformed => rejected("it is not a signed JWT"),
        NotVerified::TooLong => rejected(format!("it is longer than {} KiB", MAX_LENGTH / 1024)),
        NotVerified::Algorithm(name) => rejected(format!("its algorithm is `{name}`, not RS256, ES256 or EdDSA")),
        NotVerified::UnknownKey => rejected("its issuer has no key with that ID and algorithm"),
        NotVerified::Signature => rejected("its signature is invalid"),
    }
}

fn rejected(why: impl Display) -> Refusal {
    let message = format!("the ID token of this job was rejected: {why}");
    Refusal::new(StatusCode::UNAUTHORIZED, "invalid_token", message).finally()
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    fn rule(issuer: &str) -> IssuerRule {
        IssuerRule {
            issuer: issuer.to_owned(),
            audience: "a".into(),
            claims: [("sub".to_owned(), "b".into())].into(),
            key: "ci".into(),
            owner: None,
        }
    }

    /// A key as it is published under the name `k`, and a token that it signed: `{"alg":"EdDSA","kid":"k"}.{}`.
    fn signed(seed: u8) -> (String, String) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let text = "eyJhbGciOiJFZERTQSIsImtpZCI6ImsifQ.e30";
        let encoded = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let point = encoded(pair.public_key().as_ref());
        let published = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"k","x":"{point}"}}]}}"#);
        (published, format!("{text}.{}", encoded(pair.sign(text.as_bytes()).as_ref())))
    }

    /// Issuers of which nobody answers, and one of them, whose keys were fetched at a time.
    fn unreachable(published: &str, at: Instant) -> (Issuers, Rc<Issuer>) {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let issuers = Issuers::new(vec![rule(&format!("http://{nobody}"))], Network::default());
        let issuer = Rc::clone(&issuers.all[0]);
        *issuer.keys.borrow_mut() = KeySet::read(published.as_bytes()).map(|keys| (Rc::new(keys), at));
        (issuers, issuer)
    }

    /// The status of the refusal of a token, if it is refused.
    fn refused(issuers: &Issuers, token: &str) -> Option<StatusCode> {
        let shown = Shown::read(token).ok().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let verify = issuers.all[0].verify(&shown, &issuers.network);
        tokio::task::LocalSet::new().block_on(&runtime, verify).err().map(|refusal| refusal.status)
    }

    #[test]
    fn a_key_is_fetched_again_after_an_hour_and_trusted_for_a_day_at_most() {
        let (published, token) = signed(1);
        for (minutes, was_asked, is_trusted, asks) in [
            (59, false, true, false),
            (61, false, true, true),
            (61, true, true, false),
            (24 * 60 - 1, false, true, true),
            (24 * 60 + 1, false, false, true),
            (24 * 60 + 1, true, false, false),
        ] {
            let Some(at) = Instant::now().checked_sub(Duration::from_secs(60 * minutes)) else { continue };
            let (issuers, issuer) = unreachable(&published, at);
            let before = was_asked.then(|| (Instant::now(), false));
            issuer.asked.set(before);
            let status = (!is_trusted).then_some(StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(refused(&issuers, &token), status, "{minutes} min, {was_asked}");
            assert_eq!(issuer.asked.get() != before, asks, "{minutes} min, {was_asked}");
        }
    }

    #[test]
    fn an_issuer_is_asked_for_a_key_that_it_may_have_added_or_replaced_but_once_a_minute() {
        let (published, token) = signed(1);
        // {"alg":"EdDSA","kid":"n"}.{}: a name that is not known.
        for unverified in [signed(2).1, "eyJhbGciOiJFZERTQSIsImtpZCI6Im4ifQ.e30.AA".to_owned()] {
            let (issuers, issuer) = unreachable(&published, Instant::now());
            assert_eq!(refused(&issuers, &token), None);
            assert_eq!(issuer.asked.get(), None);
            assert_eq!(refused(&issuers, &unverified), Some(StatusCode::UNAUTHORIZED));
            assert!(issuer.asked.get().is_some(), "{unverified}");
            let answered = Some((Instant::now(), true));
            issuer.asked.set(answered);
            assert_eq!(refused(&issuers, &unverified), Some(StatusCode::UNAUTHORIZED));
            assert_eq!(issuer.asked.get(), answered, "{unverified}");
        }
    }

    #[test]
    fn an_issuer_is_asked_again_after_a_minute_or_soon_after_a_failure() {
        let issuers =
            Issuers::new(vec![rule("https://issuer.example"), rule("https://issuer.example/")], Network::default());
        let [issuer] = issuers.all.as_slice() else { panic!("two rules of one issuer") };
        assert!(issuer.may_ask());
        for (seconds, answered, may) in [
            (0, true, false),
            (59, true, false),
            (60, true, true),
            (0, false, false),
            (4, false, false),
            (5, false, true),
        ] {
            let Some(at) = Instant::now().checked_sub(Duration::from_secs(seconds)) else { continue };
            issuer.asked.set(Some((at, answered)));
            assert_eq!(issuer.may_ask(), may, "{seconds} s, {answered}");
        }
    }
}
