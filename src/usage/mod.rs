//! What passed through the gateways: a ledger of requests and tokens, and the limits that providers stated.
//!
//! Hazard: twenty processes append at once, any of them is killed at any time, the disk is full.
//! Rule: one appended line makes a change; nothing is flushed to disk, and what cannot be written costs a figure, never a
//! request.

mod event;
mod ledger;

pub(crate) use event::Event;
pub(crate) use ledger::{Counts, KeyUser, Ledger, StatedLimit, Summary, UnwrittenCounts, Use, seconds, settle};
