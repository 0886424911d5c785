//! Where events of the gateway are sent: the log, the hooks and the metrics.

use std::cell::RefCell;
use std::collections::BTreeMap;

use tokio::sync::Notify;

use crate::hooks::Hooks;
use crate::secret::Secret;
use crate::usage::Event;

/// The receivers of this gateway's events.
pub(super) struct Events {
    hooks: RefCell<Hooks>,
    /// Credentials of the profiles, which no hook may find in its environment.
    secrets: RefCell<Vec<Secret>>,
    /// A request ended: there is something to write.
    pub(super) news: Notify,
    /// How often requests moved, by profile, target and reason.
    pub(super) moved: RefCell<BTreeMap<(String, String, &'static str), u64>>,
}

impl Events {
    pub(super) fn new(hooks: Hooks) -> Self {
        Self { hooks: RefCell::new(hooks), secrets: RefCell::default(), news: Notify::new(), moved: RefCell::default() }
    }

    pub(super) fn withhold(&self, secret: &Secret) {
        let mut secrets = self.secrets.borrow_mut();
        if !secrets.contains(secret) {
            secrets.push(secret.clone());
        }
    }

    /// A request was served by another profile than the first.
    pub(super) fn count_moved(&self, from: &str, to: &str, reason: &'static str) {
        *self.moved.borrow_mut().entry((from.to_owned(), to.to_owned(), reason)).or_default() += 1;
    }

    /// `occurrence` distinguishes this event from earlier ones of its kind, over all processes.
    pub(super) fn emit(&self, event: &Event, occurrence: &str) {
        log::info!("{}", event.line());
        self.hooks.borrow_mut().run(event, occurrence, &self.secrets.borrow());
    }
}
