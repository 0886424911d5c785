//! What the limits of a key granted to one request, until it is known what the request used.

use std::rc::Rc;

use super::estimate::Estimate;
use super::served_account::ServedAccount;
use crate::keys::Price;
use crate::limits::{Engine, Grant, Used};

/// What a key was granted for one request. When dropped, it is released if the request was never sent, otherwise
/// settled.
pub(super) struct HeldGrant {
    engine: Rc<Engine>,
    grant: Grant,
    /// The account in whose windows the request counts, if any.
    account: Option<Rc<ServedAccount>>,
    price: Option<Price>,
    estimate: Estimate,
    pub(super) was_sent: bool,
    pub(super) bill: Bill,
}

/// What a request is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bill {
    /// Nothing: the provider rejected it or never received it.
    Nothing,
    /// The estimate: the provider may have processed it, and no response says what it used.
    Estimate,
    /// The usage in the response.
    Tokens(Estimate),
}

impl HeldGrant {
    pub(super) fn new(
        engine: Rc<Engine>,
        grant: Grant,
        account: Option<Rc<ServedAccount>>,
        price: Option<Price>,
        estimate: Estimate,
    ) -> Self {
        Self { engine, grant, account, price, estimate, was_sent: false, bill: Bill::Nothing }
    }

    /// Releases it although the request was sent: another profile serves the request and counts it.
    pub(super) fn move_away(mut self) {
        self.was_sent = false;
        self.account = None;
    }
}

impl Drop for HeldGrant {
    fn drop(&mut self) {
        if !self.was_sent {
            let rate = self.account.as_ref().map(|account| account.pacing.windows());
            return self.engine.give_back(&self.grant, rate);
        }
        let used = match self.bill {
            Bill::Nothing => Estimate::default(),
            Bill::Estimate => self.estimate,
            Bill::Tokens(tokens) => tokens,
        };
        self.engine.settle(&self.grant, Used { tokens: used.tokens(), cost: used.cost(self.price) });
    }
}
