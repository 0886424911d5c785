//! What the limits of a key granted to one request, until it is known what the request used.
//!
//! Hazard: a client that disconnects before the response would get back what the provider may bill. Rule: from the moment a
//! request is being sent it counts, and costs the estimate until the provider says otherwise.

use std::rc::Rc;

use super::estimate::Estimate;
use crate::gateway::profiles::served_account::ServedAccount;
use crate::gateway::upstream::{Answer, SendError};
use crate::keys::{Price, Prices};
use crate::limits::{Engine, Grant, Used};

/// What a key was granted for one request. When dropped, it is released if the request was never sent, otherwise
/// settled.
pub(in crate::gateway) struct HeldGrant {
    engine: Rc<Engine>,
    grant: Grant,
    /// The account in whose windows the request counts, if any.
    account: Option<Rc<ServedAccount>>,
    prices: Rc<Prices>,
    /// The price of the model that was asked for.
    price: Option<Price>,
    estimate: Estimate,
    /// Whether an attempt is on its way, whose outcome is unknown.
    is_sending: bool,
    /// Whether an attempt before it was sent.
    was_sent: bool,
    /// What those attempts cost.
    bill: Bill,
}

/// What a request is charged.
enum Bill {
    /// Nothing: the provider rejected it or never received it.
    Nothing,
    /// The estimate: the provider may have processed it, and no response says what it used.
    Estimate,
    /// The usage in the response, and the price of the model that it names.
    Tokens(Estimate, Option<Price>),
}

impl HeldGrant {
    pub(in crate::gateway) fn new(
        engine: Rc<Engine>,
        grant: Grant,
        account: Option<Rc<ServedAccount>>,
        prices: &Rc<Prices>,
        price: Option<Price>,
        estimate: Estimate,
    ) -> Self {
        let prices = Rc::clone(prices);
        Self {
            engine,
            grant,
            account,
            prices,
            price,
            estimate,
            is_sending: false,
            was_sent: false,
            bill: Bill::Nothing,
        }
    }

    /// An attempt is being sent, or, with `false`, was not sent after all.
    pub(in crate::gateway) fn note_sending(&mut self, is_sending: bool) {
        self.is_sending = is_sending;
    }

    /// An attempt has ended in a response or without one. Returns whether any attempt was sent.
    pub(in crate::gateway) fn note_sent(&mut self, sent: &Result<Answer, SendError>) -> bool {
        let was_sent = std::mem::take(&mut self.is_sending);
        let may_be_billed = match sent {
            Ok(response) => response.status().is_success(),
            Err(SendError::Silent(_) | SendError::Lost(_)) => was_sent,
            Err(SendError::NotSent(_) | SendError::Client(_) | SendError::ClientSilent(_)) => false,
        };
        self.was_sent |= was_sent;
        self.bill = if may_be_billed { Bill::Estimate } else { Bill::Nothing };
        self.was_sent
    }

    /// The response of `model` states what the request used, or, unless that `is_final`, what it used until then.
    pub(in crate::gateway) fn charge(&mut self, mut tokens: Estimate, model: Option<&str>, is_final: bool) {
        if !is_final {
            tokens.completion = tokens.completion.max(self.estimate.completion);
        }
        self.bill = Bill::Tokens(tokens, model.and_then(|model| self.prices.of(model)));
    }

    /// Ends the grant of a further attempt: the windows count it, and the first grant has what the request costs.
    pub(in crate::gateway) fn keep_counted(mut self) {
        self.was_sent = true;
    }

    /// Releases it although the request was sent: another profile serves the request and counts it.
    pub(in crate::gateway) fn move_away(mut self) {
        self.was_sent = false;
        self.account = None;
    }

    /// What the key is charged if the request ends now; `None`: nothing was sent, and it is given back.
    pub(in crate::gateway) fn charged(&self) -> Option<Used> {
        if !self.was_sent && !self.is_sending {
            return None;
        }
        let (used, answered) = match self.bill {
            _ if self.is_sending => (self.estimate, None),
            Bill::Nothing => (Estimate::default(), None),
            Bill::Estimate => (self.estimate, None),
            Bill::Tokens(tokens, price) => (tokens, price),
        };
        // A server may choose the model, so the dearer one counts.
        let cost = used.cost(self.price).max(used.cost(answered));
        Some(Used { tokens: used.tokens(), cost })
    }
}

impl Drop for HeldGrant {
    fn drop(&mut self) {
        if let Some(used) = self.charged() {
            return self.engine.settle(&self.grant, used);
        }
        let rate = self.account.as_ref().map(|account| account.pacing.windows());
        self.engine.give_back(&self.grant, rate);
    }
}
