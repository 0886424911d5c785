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

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: usize) -> Row {
        let text = |what: &str| what.to_owned();
        let (profile, provider, model) = (text("p"), text("custom"), format!("m{number:04}"));
        Row { day: "2026-01-01".into(), profile, provider, model, key: Some("ann".into()), owner: None }
    }

    fn entered(unsent: &mut Unsent, number: usize, sums: &[(&str, u64)]) {
        let known = unsent.waiting.entry(row(number)).or_default();
        known.extend(sums.iter().map(|(name, sum)| ((*name).to_owned(), *sum)));
    }

    #[test]
    fn a_row_is_read_back_by_its_name() {
        assert_eq!(row(1).name(), r#"["p","custom","m0001","ann",null]"#);
        let read = Row::read("2026-01-01", &format!("requests {}", row(1).name()));
        assert_eq!(read, Some((row(1), "requests".to_owned())));
        for bad in ["requests", "", "requests [1]"] {
            assert_eq!(Row::read("2026-01-01", bad), None, "{bad}");
        }
    }

    #[test]
    fn a_report_is_repeated_under_its_number_until_it_is_confirmed() {
        let mut unsent = Unsent::default();
        assert!(!unsent.has_news() && unsent.next_rows().is_none());
        for number in 0..=AT_ONCE {
            entered(&mut unsent, number, &[("requests", 1)]);
        }
        assert!(unsent.has_news());
        let (first, rows) = unsent.next_rows().unwrap();
        assert_eq!((first, rows.len(), &rows[0].0), (1, AT_ONCE, &row(0)));
        entered(&mut unsent, 0, &[("requests", 5)]);
        assert_eq!(unsent.next_rows(), Some((first, rows)), "what came later waits");
        unsent.sent = None;
        let (second, rows) = unsent.next_rows().unwrap();
        let requests = |count: u64| Sums::from([("requests".to_owned(), count)]);
        assert_eq!((second, rows), (2, vec![(row(0), requests(5)), (row(AT_ONCE), requests(1))]));
        assert!(unsent.has_news(), "until it is confirmed");
        unsent.sent = None;
        assert!(!unsent.has_news() && unsent.next_rows().is_none());
    }

    #[test]
    fn what_the_server_has_of_a_day_is_summed_up_by_row() {
        let field = |sum: &str, number: usize| format!("{sum} {}", row(number).name());
        let fields =
            vec![(field("requests", 1), "3".into()), ("other".into(), "9".into()), (field("requests", 2), "1".into())];
        let mut sums = BTreeMap::new();
        read_day("2026-01-01", fields.clone(), &mut sums);
        read_day("2026-01-01", fields, &mut sums);
        assert_eq!(sums.len(), 2);
        assert_eq!(sums[&row(1)], BTreeMap::from([("requests".to_owned(), 6)]));
    }
}
