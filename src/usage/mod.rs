//! What was used and what limits leave, shared by all processes of the user.
//!
//! ```text
//! day.rs      when a provider's day begins and ends
//! window.rs   who may send when: windows, bursts and days
//! rate.rs     the same over all processes: a small file under a kernel lock, asked before each request
//! ledger.rs   what was used: lines of JSON, added to once a second and read by `usage`
//! ```
//!
//! Hazard: twenty processes count at once, any of them is killed at any time, the disk is full.
//! Rule: one `pwrite` or one appended line makes a change; nothing here is flushed to the disk or waits for it, and what
//! cannot be written costs a figure, never a request.

mod day;
mod ledger;
mod rate;
mod window;

pub(crate) use day::{Day, Zone};
pub(crate) use ledger::{Counts, Ledger, Pending, Seen, Summary, seconds, settle};
pub(crate) use rate::{Rate, Take, standing};
pub(crate) use window::{Rule, Turn};
