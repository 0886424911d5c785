//! One profile served by the gateway: its credential, and the account that this belongs to now.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use hyper::header::HeaderValue;

use super::credential::{CredentialCache, ReadyCredential};
use super::edge::Edge;
use super::fleet::{Part, Role};
use super::pacing;
use super::served_account::ServedAccount;
use crate::credentials::CredentialSource;
use crate::epoch;
use crate::error::{Failed, Failure};
use crate::gateway::Tuning;
use crate::gateway::telemetry::events::Events;
use crate::limits::shared::Shared;
use crate::limits::week_end;
use crate::providers::Provider;
use crate::sha256::short_sha256;
use crate::usage::{Counts, Event, add_total};

/// What all profiles of a gateway have in common.
pub(in crate::gateway) struct Common {
    pub(in crate::gateway) state: PathBuf,
    pub(in crate::gateway) tuning: Tuning,
    pub(in crate::gateway) events: Rc<Events>,
    /// Where limits are counted together with other gateways.
    pub(in crate::gateway) shared: Option<Rc<Shared>>,
    pub(in crate::gateway) part: Part,
}

pub(in crate::gateway) struct ServedProfile {
    common: Rc<Common>,
    pub(in crate::gateway) profile: Rc<str>,
    /// Its name for `x-qwenauth-profile`.
    pub(in crate::gateway) header: Option<HeaderValue>,
    path: PathBuf,
    pub(in crate::gateway) cache: CredentialCache,
    /// The account, and the credential that was found to belong to it.
    account: RefCell<Option<(Rc<ReadyCredential>, Rc<ServedAccount>)>>,
    former: RefCell<FormerAccounts>,
    last_ready: RefCell<Option<Rc<ReadyCredential>>>,
    /// The hash of the last token that was available.
    last_token: RefCell<Option<String>>,
    /// The last report of a missing login.
    missed: RefCell<Option<String>>,
    is_home: bool,
}

impl ServedProfile {
    pub(in crate::gateway) fn open(source: CredentialSource, common: Rc<Common>) -> Result<Self> {
        let (profile, path) = (Rc::from(source.profile.as_str()), source.store.path().to_owned());
        // Otherwise each request would find out.
        if let Some(provider) = source.known_provider() {
            check_limits(&provider)?;
            pacing::rule(&provider, &common.tuning)?;
        }
        let role = common.part.of(&source)?;
        let cache = match (role, &common.shared, &common.part.fleet) {
            (Role::Edge, Some(shared), Some(fleet)) => {
                CredentialCache::of_edge(Edge::new(source, Rc::clone(shared), Rc::clone(fleet)))
            }
            _ => CredentialCache::start(source)?,
        };
        Ok(Self {
            common,
            header: HeaderValue::from_str(&profile).ok(),
            profile,
            path,
            cache,
            is_home: role == Role::Home,
            account: RefCell::default(),
            former: RefCell::default(),
            last_ready: RefCell::default(),
            last_token: RefCell::default(),
            missed: RefCell::default(),
        })
    }

    /// Whether its login is renewed here for a team.
    pub(super) fn is_home(&self) -> bool {
        self.is_home
    }

    /// The credential, renewed ahead of time.
    pub(in crate::gateway) async fn ahead(&self, lifetime: Duration) -> Result<Rc<ReadyCredential>, Failed> {
        let ready = self.cache.ahead(lifetime).await;
        self.observe(&ready);
        ready
    }

    /// The account that `ready` belongs to; another login may have changed it.
    pub(in crate::gateway) fn account(&self, ready: &Rc<ReadyCredential>) -> Result<Rc<ServedAccount>, Failed> {
        if let Some((of, account)) = &*self.account.borrow()
            && Rc::ptr_eq(of, ready)
        {
            return Ok(Rc::clone(account));
        }
        let account = self.account_of(ready)?;
        let former = self.account.borrow_mut().replace((Rc::clone(ready), Rc::clone(&account)));
        let former = former.map(|(_, former)| former).filter(|former| !Rc::ptr_eq(former, &account));
        self.former.borrow_mut().open.extend(former);
        Ok(account)
    }

    fn account_of(&self, ready: &ReadyCredential) -> Result<Rc<ServedAccount>, Failed> {
        // The tokens of another machine's login change as those of a login here do.
        let account_id = match ready.generation {
            Some(_) => self.path.to_string_lossy().into_owned(),
            None => pacing::account_id(&ready.provider, &ready.credential, &self.path),
        };
        if let Some((_, account)) = &*self.account.borrow()
            && account.is_of(&ready.provider, &account_id)
        {
            return Ok(Rc::clone(account));
        }
        if let Some(account) = self.former.borrow_mut().take(&ready.provider, &account_id) {
            return Ok(account);
        }
        let rule = pacing::rule(&ready.provider, &self.common.tuning)
            .map_err(|error| Failed::from(crate::error::Report::of(&error)))?;
        let name = || {
            let login = ready.is_renewable().then_some(&*self.profile);
            pacing::shared_name(&ready.provider.name, &account_id, login)
        };
        let shared = self.common.shared.as_ref().map(|shared| (Rc::clone(shared), name()));
        let (provider, events) = (&ready.provider, Rc::clone(&self.common.events));
        Ok(Rc::new(ServedAccount::open(&self.profile, provider, account_id, &self.common.state, rule, events, shared)))
    }

    /// The credential in the file now, renewed if necessary.
    pub(in crate::gateway) async fn ready(&self) -> Result<Rc<ReadyCredential>, Failed> {
        let ready = self.cache.fresh().await;
        self.observe(&ready);
        ready
    }

    /// A credential other than `refused`.
    pub(in crate::gateway) async fn renewed(&self, refused: &ReadyCredential) -> Result<Rc<ReadyCredential>, Failed> {
        let ready = self.cache.renewed(refused).await;
        self.observe(&ready);
        ready
    }

    /// The credential of the last request.
    pub(in crate::gateway) fn last_ready(&self) -> Option<Rc<ReadyCredential>> {
        self.last_ready.borrow().clone()
    }

    /// Reports a renewal or a missing login.
    fn observe(&self, ready: &Result<Rc<ReadyCredential>, Failed>) {
        match ready {
            Ok(ready) => {
                let last = self.last_ready.borrow().clone();
                if last.as_ref().is_some_and(|last| Rc::ptr_eq(last, ready)) {
                    return;
                }
                *self.last_ready.borrow_mut() = Some(Rc::clone(ready));
                let token = &ready.credential.access_token;
                *self.last_token.borrow_mut() = Some(short_sha256(token.expose(), 16));
                self.common.events.withhold(token);
                let is_new = last.is_some_and(|last| last.credential.access_token != *token);
                // Of what another machine renewed, that machine says so.
                if is_new && ready.is_renewable() && ready.generation.is_none() {
                    let event = Event::Renewed {
                        profile: self.profile.to_string(),
                        provider: ready.provider.name.clone(),
                        expires_at: ready.credential.expires_at.and_then(epoch::rfc3339),
                    };
                    self.common.events.emit(&event, &format!("{}/{}", self.profile, short_sha256(token.expose(), 16)));
                }
            }
            Err(failed) if failed.failure == Failure::LoginRequired => {
                // One event for each version of the credential file, and one when the file is missing after a version.
                let version = std::fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok();
                let occurrence = format!("{}/{version:?}/{:?}", self.profile, self.last_token.borrow());
                self.last_ready.borrow_mut().take();
                if self.missed.borrow().as_ref() == Some(&occurrence) {
                    return;
                }
                let event = Event::LoginRequired { profile: self.profile.to_string(), message: failed.message.clone() };
                self.common.events.emit(&event, &occurrence);
                *self.missed.borrow_mut() = Some(occurrence);
            }
            Err(_) => {}
        }
    }

    /// The account and those before it that are open, because their usage must be written.
    pub(in crate::gateway) fn all_accounts(&self) -> Vec<Rc<ServedAccount>> {
        self.former.borrow().open.iter().cloned().chain(self.last_account()).collect()
    }

    /// What all accounts that this profile had used since the gateway started, by model; a model may be there several
    /// times.
    pub(in crate::gateway) fn totals(&self) -> Vec<(String, Counts)> {
        let closed = self.former.borrow().totals.clone();
        closed.into_iter().chain(self.all_accounts().iter().flat_map(|account| account.totals())).collect()
    }

    /// Closes the accounts that are not used any more.
    pub(in crate::gateway) fn close_former(&self) {
        self.former.borrow_mut().close();
    }

    pub(in crate::gateway) fn last_account(&self) -> Option<Rc<ServedAccount>> {
        self.account.borrow().as_ref().map(|(_, account)| Rc::clone(account))
    }
}

/// The accounts that a profile had before the current one. A key that is replaced each hour makes many.
#[derive(Default)]
struct FormerAccounts {
    /// Those that a request uses, or whose usage is not written yet.
    open: Vec<Rc<ServedAccount>>,
    /// What the others used, by model.
    totals: BTreeMap<String, Counts>,
}

impl FormerAccounts {
    /// The account with this id, which is the current one again.
    fn take(&mut self, provider: &Provider, account_id: &str) -> Option<Rc<ServedAccount>> {
        let position = self.open.iter().position(|account| account.is_of(provider, account_id))?;
        Some(self.open.swap_remove(position))
    }

    fn close(&mut self) {
        let is_unused = |account: &mut Rc<ServedAccount>| Rc::strong_count(account) == 1 && !account.has_pending();
        for account in self.open.extract_if(.., is_unused) {
            for (model, counts) in account.totals() {
                add_total(&mut self.totals, &model, &counts);
            }
        }
    }
}

/// Errors: a limit that allows no request, or a reset at no time.
pub(crate) fn check_limits(provider: &Provider) -> Result<()> {
    let limits = &provider.limits;
    for (name, most) in [
        ("requests_per_minute", limits.requests_per_minute),
        ("burst", limits.burst),
        ("requests_per_day", limits.requests_per_day),
        ("requests_per_5h", limits.requests_per_5h),
        ("requests_per_week", limits.requests_per_week),
        ("requests_per_month", limits.requests_per_month),
    ] {
        if most == Some(0) {
            return Failed::new(Failure::Other, format!("`{name} = 0` of `{}` allows no request", provider.name))
                .hint("write at least 1 in config.toml, or remove it")
                .err();
        }
    }
    limits.week_resets.iter().try_for_each(|text| week_end(text, SystemTime::now()).map(drop))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::hooks::{Commands, Hooks};
    use crate::providers::{self, Overrides};

    #[test]
    fn a_former_account_is_closed_when_nothing_needs_it_and_its_usage_stays_in_the_totals() {
        let directory = tempfile::tempdir().unwrap();
        let provider = providers::find("qwen", &Overrides::default()).unwrap();
        let events = Rc::new(Events::new(Hooks::new(Commands::new(), directory.path()), BTreeSet::new()));
        let open = |id: &str| {
            let rule = pacing::rule(&provider, &Tuning { rpm: None, rpd: None, pacing: true }).unwrap();
            let (profile, events) = ("work".into(), Rc::clone(&events));
            Rc::new(ServedAccount::open(&profile, &provider, id.into(), directory.path(), rule, events, None))
        };
        let once = Counts { requests: 1, ..Counts::default() };
        let mut former = FormerAccounts { open: ["key-1", "key-2"].map(open).into(), ..FormerAccounts::default() };
        former.open.iter().for_each(|account| account.enter(None, "m", &once));
        former.close();
        assert_eq!(former.open.len(), 2, "their usage is not written");
        assert!(former.open.iter().all(|account| account.take_pending().is_some()));
        let by_a_request = Rc::clone(&former.open[0]);
        former.close();
        assert_eq!((former.open.len(), former.totals["m"].requests), (1, 1));
        drop(by_a_request);
        assert!(former.take(&provider, "key-2").is_none(), "it is closed");
        assert!(former.take(&provider, "key-1").is_some() && former.open.is_empty());
        former.open = vec![open("key-3")];
        former.open[0].enter(None, "m", &once);
        former.open[0].take_pending();
        former.close();
        assert_eq!((former.open.len(), former.totals["m"].requests), (0, 2));
    }
}
