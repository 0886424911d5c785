//! Limits of requests: who may send when, counted over all processes of the user.
//!
//! ```text
//! day.rs         when a provider's day begins and ends
//! window.rs      windows, bursts and days over counted requests
//! busy.rs        what is done while another process holds a file of counters
//! local.rs       the same over all processes of this machine: a small file under a kernel lock
//! engine.rs      one decision for one request of a key: its limits and the account's together
//! files.rs       that decision on this machine: keys.json and files of counters
//! key_state.rs   the counters of one key, in one file
//! together/      what gateways of several machines that count together say to the rest of the program
//! shared/        how they count, in Redis or Valkey; without_shared.rs is in its place without the feature `team`
//! quota.rs       quotas of 5 hours, a week and a month as the user states them
//! exhausted.rs   what a server reported as used up, until when, and for which model
//! ```
//!
//! Hazard: twenty processes count at once, any of them is killed at any time, the disk is full.
//! Rule: one `pwrite` makes a change; nothing is flushed to disk or waited for, and what cannot be written costs a figure,
//! never a request.

mod busy;
mod day;
pub(crate) mod engine;
mod exhausted;
mod files;
mod key_state;
mod local;
mod quota;
#[cfg(feature = "team")]
pub(crate) mod shared;
mod together;
mod window;
#[cfg(not(feature = "team"))]
pub(crate) mod without_shared;

#[cfg(not(feature = "team"))]
pub(crate) use self::without_shared as shared;

pub(crate) use busy::{BUSY, pause};
pub(crate) use day::{Day, Zone, week_end};
pub(crate) use engine::{AccountWindows, Demand, Engine, Grant, KeyDecision, Left, Refused, Used};
pub(crate) use exhausted::{Exhausted, Memory, exhausted, forget};
pub(crate) use files::Files;
pub(crate) use key_state::key_standing;
pub(crate) use local::{Rate, Reservation, standing};
pub(crate) use quota::{Quota, QuotaSlot, Quotas, UsedUp, used};
pub(crate) use window::{Rule, Slot};
