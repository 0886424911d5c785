//! Keys of people and jobs at the gateway: whose key a client has shown, and what its limits allow.
//!
//! ```text
//! team.rs           whose key a client has shown
//! issuers.rs        tokens of CI jobs as keys
//! exchange.rs       `POST /v1/token`: exchanges such a token for a key that is valid for an hour
//! key_admission.rs  the key at one request: whether it allows the request, and its slot
//! estimate.rs       the model that a request asks for, and the most that it may use
//! grant.rs          what the limits of a key granted to one request
//! key_limits.rs     what a client is told of the limits of its key: why a request is rejected, what is left
//! ```

pub(super) mod estimate;
pub(super) mod exchange;
pub(super) mod grant;
mod issuers;
pub(super) mod key_admission;
pub(super) mod key_limits;
pub(super) mod team;
