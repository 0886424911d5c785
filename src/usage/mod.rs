//! What passed through the gateways: a ledger of requests and tokens, and the limits that providers stated.
//!
//! Hazard: twenty processes append at once, any of them is killed at any time, the disk is full. Rule: each change is
//! one appended line; nothing is flushed to disk, and a failed write loses a count, never a request.

mod event;
mod ledger;

pub(crate) use event::Event;
pub(crate) use ledger::{
    Counts, KeyUser, Ledger, StatedLimit, Summary, UnwrittenCounts, Use, add_total, cut_name, settle,
};
