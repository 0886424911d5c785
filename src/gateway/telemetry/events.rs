//! Where events of the gateway are sent: the log, the hooks and the metrics.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use tokio::sync::Notify;

use crate::environment::names_holding;
use crate::hooks::Hooks;
use crate::secret::Secret;
use crate::usage::Event;

/// The receivers of this gateway's events.
pub(in crate::gateway) struct Events {
    hooks: RefCell<Hooks>,
    /// The variables of this process that hold a credential of a profile, which no hook gets. The credentials themselves are
    /// not kept: a gateway runs for weeks and renews every few hours.
    withheld: RefCell<BTreeSet<OsString>>,
    /// A request ended: there is something to write.
    pub(in crate::gateway) news: Notify,
    /// How often requests moved, by profile, target and reason.
    pub(in crate::gateway) moved: RefCell<BTreeMap<(String, String, &'static str), u64>>,
}

impl Events {
    pub(in crate::gateway) fn new(hooks: Hooks, withheld: BTreeSet<OsString>) -> Self {
        Self {
            hooks: RefCell::new(hooks),
            withheld: RefCell::new(withheld),
            news: Notify::new(),
            moved: RefCell::default(),
        }
    }

    pub(in crate::gateway) fn withhold(&self, secret: &Secret) {
        self.withheld.borrow_mut().extend(names_holding(secret));
    }

    /// A request was served by another profile than the first.
    pub(in crate::gateway) fn count_moved(&self, from: &str, to: &str, reason: &'static str) {
        *self.moved.borrow_mut().entry((from.to_owned(), to.to_owned(), reason)).or_default() += 1;
    }

    /// `occurrence` distinguishes this event from earlier ones of its kind, over all processes.
    pub(in crate::gateway) fn emit(&self, event: &Event, occurrence: &str) {
        log::info!("{}", event.line());
        self.hooks.borrow_mut().run(event, occurrence, &self.withheld.borrow());
    }
}
