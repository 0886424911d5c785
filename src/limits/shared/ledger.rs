//! The usage of all gateways, summed up for the team.
//!
//! Hazard: a response is lost and the same usage is added twice, or the server is unreachable for a day. Rule: each
//! report has a number that the server accepts once, and what it has not accepted waits here, summed up by key.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::{Value, json};

use super::link::Link;
use super::script::{self, LEDGER};
use crate::limits::together::{Row, Sums};

/// Days that sums are kept: a year and a month, the same as for revoked keys.
const KEPT: u64 = 400 * 86_400_000;

/// Rows per report.
const AT_ONCE: usize = 500;

/// Larger counts are errors, and the server calculates in doubles.
const MOST: u64 = 1 << 50;

impl Row {
    /// Its name on the server, without the day.
    fn name(&self) -> String {
        let Self { day: _, profile, provider, model, key, owner } = self;
        json!([profile, provider, model, key, owner]).to_string()
    }

    /// The row of this name, and of the sum.
    pub(super) fn read(day: &str, name: &str) -> Option<(Self, String)> {
        let (sum, of) = name.split_once(' ')?;
        let (profile, provider, model, key, owner) = serde_json::from_str(of).ok()?;
        Some((Self { day: day.to_owned(), profile, provider, model, key, owner }, sum.to_owned()))
    }
}

/// What is still to be reported.
#[derive(Default)]
pub(super) struct Unsent {
    waiting: BTreeMap<Row, Sums>,
    /// The last report, under its number, until the server confirms it.
    sent: Option<(u64, Vec<(Row, Sums)>)>,
    sequence: u64,
}

impl Unsent {
    #[cfg(test)]
    pub(super) fn put_back(&mut self, sent: Option<(u64, Vec<(Row, Sums)>)>) {
        self.sent = sent;
    }

    /// What is to be sent next: the last report until the server confirms it.
    pub(super) fn next_rows(&mut self) -> Option<(u64, Vec<(Row, Sums)>)> {
        if self.sent.is_none() && !self.waiting.is_empty() {
            self.sequence += 1;
            let rows = std::iter::from_fn(|| self.waiting.pop_first()).take(AT_ONCE).collect();
            self.sent = Some((self.sequence, rows));
        }
        self.sent.clone()
    }

    fn has_news(&self) -> bool {
        self.sent.is_some() || !self.waiting.is_empty()
    }
}

/// The ledger of the team on the server.
pub(super) struct Ledger {
    link: Rc<Link>,
    pub(super) unsent: RefCell<Unsent>,
}

impl Ledger {
    pub(super) fn new(link: Rc<Link>) -> Self {
        Self { link, unsent: RefCell::default() }
    }

    /// Whether there is anything to send.
    pub(super) fn has_news(&self) -> bool {
        self.unsent.borrow().has_news()
    }

    /// Adds to the sums of the team.
    pub(super) fn enter(&self, row: Row, sums: impl IntoIterator<Item = (&'static str, u64)>) {
        let mut unsent = self.unsent.borrow_mut();
        let known = unsent.waiting.entry(row).or_default();
        for (name, amount) in sums.into_iter().filter(|(_, amount)| *amount > 0) {
            let sum = known.entry(name.to_owned()).or_default();
            *sum = sum.saturating_add(amount).min(MOST);
        }
    }

    /// Sends what waits.
    pub(super) async fn send(&self) {
        while self.link.is_up() {
            let Some((sequence, rows)) = self.unsent.borrow_mut().next_rows() else { return };
            let mut keys = vec![self.link.names.of(&format!("ledger:{}", self.link.instance))];
            let rows: Vec<Value> = rows
                .iter()
                .map(|(row, sums)| {
                    let day = self.link.names.usage(&row.day);
                    let index = keys.iter().position(|key| *key == day).unwrap_or_else(|| {
                        keys.push(day);
                        keys.len() - 1
                    });
                    json!({ "key": index + 1, "of": row.name(), "counts": sums })
                })
                .collect();
            let said = json!({ "sequence": sequence, "keep": KEPT, "rows": rows });
            let Some::<u64>(_) = self.link.run(&LEDGER, &keys, &said).await else { return };
            self.unsent.borrow_mut().sent = None;
        }
    }
}

/// Reads what the server has for a day.
pub(super) fn read_day(day: &str, fields: Vec<(String, String)>, sums: &mut BTreeMap<Row, Sums>) {
    for (name, amount) in fields {
        if let Some((row, sum)) = Row::read(day, &name) {
            *sums.entry(row).or_default().entry(sum).or_default() += script::count(&amount);
        }
    }
}
