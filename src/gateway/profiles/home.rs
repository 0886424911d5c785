//! The home of a login: renews it well before it expires, and publishes its access tokens for the edges.
//!
//! Hazard: every edge that gets a 401 needs a renewal, and each renewal uses up a refresh token; a copied credential
//! file makes a second home, and both use the same token. Rule: only this machine renews, as it does without a team
//! and even if the server is unreachable; for edges it renews once per rejected generation; a second home is reported.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use super::credential::ReadyCredential;
use super::fleet::{Fleet, GONE, Opened};
use super::served_profile::ServedProfile;
use crate::credentials::Lent;
use crate::epoch;
use crate::error::{note, printable};
use crate::gateway::Gateway;
use crate::limits::shared::{Shared, Watched};
use crate::secret::Secret;

/// How often it checks for a new token and for requests of edges.
const TICK: Duration = Duration::from_millis(250);

/// It renews this long before a token expires, or at half of the token's lifetime if that is more, so that edges
/// survive an outage of the home.
const AHEAD: Duration = Duration::from_secs(600);

/// Pause before a failed early renewal is retried.
const AGAIN: Duration = Duration::from_secs(30);

/// Pause before an unavailable login is read again: each attempt may send its server a request.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Minimum time between renewals for edges: if an account has ended, every token is rejected.
const FOR_EDGES: Duration = Duration::from_secs(10);

/// How long the server keeps the note that a login was removed.
const GONE_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// What was last published of one profile.
#[derive(Default)]
struct Published {
    /// `None`: nothing yet. Empty: the note that the login was removed.
    token: Option<Secret>,
    generation: u64,
    /// Whether the server has confirmed it.
    is_shown: bool,
    /// Lifetime of its tokens.
    life: Duration,
    /// Time of the last early renewal and of the last one for edges.
    tried: Option<Instant>,
    served: Option<Instant>,
    /// When the login was last unavailable.
    failed: Option<Instant>,
    /// Whether it has reported that it is the home.
    is_known: bool,
    /// The other home that was reported.
    warned: Option<String>,
}

pub(in crate::gateway) struct Home {
    shared: Rc<Shared>,
    fleet: Rc<Fleet>,
    published: RefCell<BTreeMap<String, Published>>,
}

impl Home {
    pub(in crate::gateway) fn new(shared: Rc<Shared>, fleet: Rc<Fleet>) -> Self {
        Self { shared, fleet, published: RefCell::default() }
    }

    /// Runs until the gateway stops.
    pub(in crate::gateway) async fn keep(self, gateway: Rc<Gateway>) {
        loop {
            for served in gateway.profiles.all().iter().filter(|served| served.is_home()) {
                self.tend(served).await;
            }
            tokio::time::sleep(TICK).await;
        }
    }

    async fn tend(&self, served: &ServedProfile) {
        let profile = &*served.profile;
        let mut published = self.published.borrow_mut().remove(profile).unwrap_or_default();
        if served.cache.is_missing() {
            self.take_back(profile, &mut published).await;
        } else if published.failed.is_none_or(|at| at.elapsed() >= AFTER_FAILURE) {
            match self.current(served, &mut published).await {
                Some(ready) if ready.credential.is_login() => self.show(served, &ready, &mut published).await,
                Some(_) => {}
                None => {
                    published.failed = Some(Instant::now());
                    if served.cache.was_missing() {
                        self.take_back(profile, &mut published).await;
                    }
                }
            }
        }
        self.published.borrow_mut().insert(profile.to_owned(), published);
    }

    /// The token in the file, renewed early.
    async fn current(&self, served: &ServedProfile, published: &mut Published) -> Option<Rc<ReadyCredential>> {
        let ready = served.ready().await.ok()?;
        let left = ready.credential.left(SystemTime::now()).unwrap_or_default();
        let pause = AGAIN.min(published.life / 10);
        let may_try = published.tried.is_none_or(|at| at.elapsed() >= pause);
        if !ready.is_renewable() || published.life.is_zero() || left >= ahead(published.life) || !may_try {
            return Some(ready);
        }
        published.tried = Some(Instant::now());
        served.ahead(ahead(published.life)).await.ok()
    }

    async fn show(&self, served: &ServedProfile, ready: &Rc<ReadyCredential>, published: &mut Published) {
        let profile = &*served.profile;
        let token = &ready.credential.access_token;
        let left = ready.credential.left(SystemTime::now()).unwrap_or_default();
        if published.token.as_ref() != Some(token) {
            let adopted = if published.token.is_none() { self.generation_of(profile, token).await } else { None };
            published.generation = adopted.unwrap_or_else(|| next(published.generation));
            published.is_shown = adopted.is_some();
            published.token = Some(token.clone());
            published.life = left;
        }
        let Some(watched) = self.watch(profile, published).await else { return };
        // A second home of the same login may have renewed already.
        if watched.wanted == published.generation
            && watched.generation <= published.generation
            && ready.is_renewable()
            && published.served.is_none_or(|at| at.elapsed() >= FOR_EDGES)
        {
            published.served = Some(Instant::now());
            log::info!(
                "the token of `{profile}` was rejected at an edge; renewing it unless that has already been done"
            );
            // Its result is published at the next tick.
            drop(served.renewed(ready).await);
            return;
        }
        // What another home published is not replaced, unless there is a newer token here or edges had that one
        // rejected.
        let known = if published.is_shown { watched.wanted } else { watched.wanted.max(watched.generation) };
        if known > published.generation {
            published.generation = known.saturating_add(1);
        }
        if watched.generation < published.generation {
            let text = Lent::of(&ready.credential);
            published.is_shown |= self.publish(profile, published.generation, &text, left).await;
        }
    }

    /// The login was removed: edges stop using it.
    async fn take_back(&self, profile: &str, published: &mut Published) {
        if published.token.as_ref().is_some_and(|token| !token.expose().is_empty()) {
            published.token = Some(Secret::new(String::new()));
            published.is_shown = false;
            published.generation = next(published.generation);
        }
        if published.token.is_none() {
            return;
        }
        // Without a login this is not a home any more, and another machine may be.
        let Some(looked) = self.shared.token_of(profile).look(published.generation).await else { return };
        if !published.is_shown && looked.generation > published.generation {
            published.generation = looked.generation.saturating_add(1);
        }
        if looked.generation < published.generation {
            published.is_shown |= self.publish(profile, published.generation, GONE.as_bytes(), GONE_FOR).await;
        }
    }

    /// Whether the server has the current one.
    async fn publish(&self, profile: &str, generation: u64, text: &[u8], left: Duration) -> bool {
        let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        match self.fleet.seal(profile, generation, text) {
            Ok(sealed) => self.shared.token_of(profile).publish(generation, &sealed, left).await == Some(generation),
            Err(error) => {
                log::warn!("cannot publish the token of `{profile}`: {error:#}");
                false
            }
        }
    }

    /// The generation under which the server has this token: a home that restarts continues with it.
    async fn generation_of(&self, profile: &str, token: &Secret) -> Option<u64> {
        let looked = self.shared.token_of(profile).look(0).await?;
        let opened = self.fleet.open(profile, looked.generation, &looked.sealed?)?;
        matches!(opened, Opened::Token(lent) if lent.is(token)).then_some(looked.generation)
    }

    /// Reports that this is the home, and warns if another one has reported since.
    async fn watch(&self, profile: &str, published: &mut Published) -> Option<Watched> {
        let watched = self.shared.token_of(profile).watch(&self.fleet.id, &self.fleet.host).await?;
        let other = watched.other.as_ref().filter(|_| published.is_known);
        if let Some(other) = other
            && published.warned.as_ref() != Some(other)
        {
            published.warned = Some(other.clone());
            note(&format!(
                "warning: the login of `{profile}` is also renewed on `{}`, but its refresh token works only once: stop one of the two \
                 and log in again where the other runs",
                printable(other)
            ));
        }
        published.is_known = true;
        Some(watched)
    }
}

/// How long before expiry a token of this lifetime is renewed. A token that lasts no longer than [`AHEAD`] is used for
/// a quarter of its lifetime.
fn ahead(life: Duration) -> Duration {
    (life / 2).max(AHEAD.min(life * 3 / 4))
}

/// Higher than `generation` and those of earlier homes: milliseconds since 1970.
fn next(generation: u64) -> u64 {
    let now = epoch::since(SystemTime::now());
    u64::try_from(now.as_millis()).unwrap_or_default().max(generation.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_at_half_its_life_or_ten_minutes_before_it_expires() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        for (life, before) in [(360, 180), (60, 30), (20, 10), (15, 10), (12, 9), (4, 3)] {
            assert_eq!(ahead(minutes(life)), minutes(before), "{life}");
        }
    }

    #[test]
    fn generations_only_grow() {
        let first = next(0);
        assert!(next(first) > first && next(u64::MAX / 2) > u64::MAX / 2);
        // As a server may state it.
        assert_eq!(next(u64::MAX), u64::MAX);
    }
}
