//! A request as the client sent it, and its body.
//!
//! ```text
//! client_request.rs  a request as the client sent it
//! client_body.rs     the body of a request, read to its end even if nobody wants it any more
//! request_body.rs    the body of a request, kept while it may have to be sent again
//! anthropic.rs       which requests speak Anthropic's protocol, and where they go
//! ```

pub(super) mod anthropic;
pub(super) mod client_body;
pub(super) mod client_request;
pub(super) mod request_body;
