//! What the admission script answers.

use super::script::count;
use crate::limits::together::{Kind, Limit};

/// The answer, and the server's time.
#[derive(Debug, PartialEq)]
pub(super) struct AdmissionReply {
    pub(super) now: u64,
    pub(super) verdict: Verdict,
}

#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Go(Admitted),
    /// By the limit of this index, for so many milliseconds.
    Refused {
        limit: usize,
        wait: u64,
    },
    /// The request named another period than the one of `at`, which counts.
    Period {
        at: u64,
    },
    /// The key has another record.
    Record {
        version: String,
        record: String,
    },
    /// There is no such key; not `is_complete`: or the keys have not been sent yet.
    Unknown {
        is_complete: bool,
    },
    /// The server was emptied, or is another one.
    Epoch,
}

/// A request that is counted, and sent at `at`.
#[derive(Debug, PartialEq)]
pub(super) struct Admitted {
    pub(super) at: u64,
    /// In the order of its limits.
    pub(super) counts: Vec<Count>,
}

/// What a limit looks like with the request in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) left: u64,
    /// Of a window: the last planned time, and the earliest that still counts.
    pub(super) last: u64,
    pub(super) first: u64,
    /// What is reserved.
    pub(super) held: u64,
}

impl Count {
    fn of(limit: &Limit, numbers: &mut impl Iterator<Item = u64>) -> Option<Self> {
        let mut count = Self { left: numbers.next()?, ..Self::default() };
        match limit.kind {
            Kind::Window { .. } => (count.last, count.first) = (numbers.next()?, numbers.next()?),
            Kind::Spend { .. } => count.held = numbers.next()?,
            _ => {}
        }
        Some(count)
    }
}

impl AdmissionReply {
    /// `text`: as `admit.lua` says, for these limits. `None`: it is not such an answer.
    pub(super) fn parse(text: &str, limits: &[Limit]) -> Option<Self> {
        let (kind, rest) = text.split_once(' ')?;
        let (now, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let mut numbers = rest.split_ascii_whitespace().map(count);
        let verdict = match kind {
            "go" => {
                let at = numbers.next()?;
                let counts: Option<Vec<Count>> = limits.iter().map(|limit| Count::of(limit, &mut numbers)).collect();
                Verdict::Go(Admitted { at, counts: counts? })
            }
            "refused" => {
                // From 1; 0 if it is unknown which.
                let limit = usize::try_from(numbers.next()?).ok()?.saturating_sub(1);
                Verdict::Refused { limit, wait: numbers.next()? }
            }
            "period" => Verdict::Period { at: numbers.next()? },
            "record" => {
                let (version, record) = rest.split_once(' ')?;
                Verdict::Record { version: version.to_owned(), record: record.to_owned() }
            }
            "unknown" => Verdict::Unknown { is_complete: numbers.next()? == 1 },
            "epoch" => Verdict::Epoch,
            _ => return None,
        };
        Some(Self { now: now.parse().ok()?, verdict })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::together::Unit;

    fn limit(kind: Kind) -> Limit {
        Limit { kind, most: 9, name: "x".into(), quota: None }
    }

    #[test]
    fn each_answer_is_read_and_anything_else_is_none() {
        let spend = Kind::Spend { unit: Unit::Tokens, add: 70, begins: 0, ends: 9 };
        let limits = [limit(Kind::Window { window: 2 }), limit(Kind::Parallel), limit(spend)];
        let verdict = |text: &str| AdmissionReply::parse(text, &limits).map(|reply| (reply.now, reply.verdict));
        // What is left may be less than nothing, after a limit was lowered.
        let counts = vec![
            Count { left: 5, last: 9, first: 8, held: 0 },
            Count::default(),
            Count { left: 3, held: 70, ..Count::default() },
        ];
        assert_eq!(verdict("go 7 9 5 9 8 -2 3 70"), Some((7, Verdict::Go(Admitted { at: 9, counts }))));
        assert_eq!(verdict("refused 7 2 300"), Some((7, Verdict::Refused { limit: 1, wait: 300 })));
        assert_eq!(verdict("refused 7 0 300"), Some((7, Verdict::Refused { limit: 0, wait: 300 })));
        assert_eq!(verdict("period 7 8"), Some((7, Verdict::Period { at: 8 })));
        let record = Verdict::Record { version: "v1".into(), record: "{\"a\": 1}".into() };
        assert_eq!(verdict("record 7 v1 {\"a\": 1}"), Some((7, record)));
        assert_eq!(verdict("unknown 7 1"), Some((7, Verdict::Unknown { is_complete: true })));
        assert_eq!(verdict("epoch 7"), Some((7, Verdict::Epoch)));
        for bad in ["", "go", "go x", "gone 7", "go 7", "go 7 9 5 9 8 4 3", "refused 7", "epoch x", "record 7 v1"] {
            assert_eq!(verdict(bad), None, "{bad}");
        }
    }
}
