//! What the client gets: the provider's response, or what the gateway says itself.
//!
//! ```text
//! answer.rs         the provider's response, read as far as necessary before it is forwarded or classified
//! response_body.rs  what the client gets
//! refusal.rs        what the gateway says itself
//! ```

pub(super) mod answer;
pub(super) mod refusal;
pub(super) mod response_body;
