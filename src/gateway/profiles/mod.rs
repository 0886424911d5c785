//! The profiles that a gateway serves: the one at `/v1`, those that serve when it cannot, and, if that is requested, each at
//! a path of its own.
//!
//! ```text
//! served_profile.rs  one profile: its credential, and the account that this belongs to now
//! served_account.rs  one account: its limits, which of them are reached, and its usage
//! credential.rs      a cache in front of the stored credential
//! pacing.rs          slots under the provider's limits
//! fleet.rs           whose login is renewed where, and the seal under which its tokens pass
//! home.rs            renews a login for a team and publishes its tokens
//! edge.rs            the tokens of a login that another machine renews
//! ```

pub(super) mod credential;
pub(super) mod edge;
pub(super) mod fleet;
pub(super) mod home;
pub(super) mod pacing;
pub(super) mod served_account;
pub(super) mod served_profile;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use anyhow::Result;

use self::fleet::Fleet;
use self::served_profile::{Common, ServedProfile};
use super::forward::fallback::{Fallback, Target};
use crate::credentials::CredentialSource;
use crate::error::Report;
use crate::usage::Counts;

/// Finds where the credential of a profile comes from; `None` if there is no such profile.
pub(crate) type ProfileLookup = Box<dyn Fn(&str) -> Option<CredentialSource> + Send>;

pub(super) struct Profiles {
    common: Rc<Common>,
    /// The one at `/v1`.
    pub(super) first: Rc<ServedProfile>,
    pub(super) fallback: Option<Fallback>,
    /// Present if every profile is served.
    lookup: Option<ProfileLookup>,
    /// Those that only a path of their own names, as far as requests named them.
    others: RefCell<BTreeMap<String, Rc<ServedProfile>>>,
}

impl Profiles {
    /// `fallback`: the profiles that serve when the first one cannot, in this order.
    pub(super) fn open(
        common: Common,
        first: CredentialSource,
        fallback: Vec<Target>,
        lookup: Option<ProfileLookup>,
    ) -> Result<Self> {
        let common = Rc::new(common);
        let open = |source| ServedProfile::open(source, Rc::clone(&common)).map(Rc::new);
        let first = open(first)?;
        let mut targets = Vec::new();
        for Target { source, models } in fallback {
            targets.push((open(source)?, models));
        }
        let fallback = (!targets.is_empty()).then(|| Fallback::new(&first.profile, targets));
        Ok(Self { common, first, fallback, lookup, others: RefCell::default() })
    }

    /// The profile of that name, or the one at `/v1`.
    pub(super) fn find(&self, profile: Option<&str>) -> Result<Rc<ServedProfile>, String> {
        let Some(profile) = profile else { return Ok(Rc::clone(&self.first)) };
        let Some(lookup) = &self.lookup else {
            return Err(
                "this gateway serves only one profile, at `/v1`; start it with `--all-profiles` to serve all".into()
            );
        };
        let targets = self.fallback.iter().flat_map(|fallback| &fallback.targets).map(|(served, _)| served);
        if let Some(served) = std::iter::once(&self.first).chain(targets).find(|served| *served.profile == *profile) {
            return Ok(Rc::clone(served));
        }
        if let Some(served) = self.others.borrow().get(profile) {
            return Ok(Rc::clone(served));
        }
        let source = lookup(profile).ok_or_else(|| "there is no such profile".to_owned())?;
        let served = ServedProfile::open(source, Rc::clone(&self.common));
        let served = Rc::new(served.map_err(|error| Report::of(&error).message)?);
        self.others.borrow_mut().insert(profile.to_owned(), Rc::clone(&served));
        Ok(served)
    }

    /// All that are open.
    pub(super) fn all(&self) -> Vec<Rc<ServedProfile>> {
        let targets = self.fallback.iter().flat_map(|fallback| &fallback.targets).map(|(served, _)| Rc::clone(served));
        std::iter::once(Rc::clone(&self.first)).chain(targets).chain(self.others.borrow().values().cloned()).collect()
    }

    /// What each used, by profile and model.
    pub(super) fn totals(&self) -> Vec<(String, String, Counts)> {
        let mut totals: BTreeMap<_, Counts> = BTreeMap::new();
        for served in self.all() {
            for (model, counts) in served.totals() {
                totals.entry((served.profile.to_string(), model)).or_default().add(&counts);
            }
        }
        totals.into_iter().map(|((profile, model), counts)| (profile, model, counts)).collect()
    }

    /// The team whose logins it renews or uses.
    pub(super) fn fleet(&self) -> Option<&Rc<Fleet>> {
        self.common.part.fleet.as_ref()
    }
}
