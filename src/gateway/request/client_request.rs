//! A request as the client sent it, and what of it goes to a provider.

use std::rc::Rc;

use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{CONTENT_LENGTH, HeaderMap};

use super::anthropic;
use super::request_body::{BodyBudget, Broken, RequestBody};
use crate::gateway::forward::headers;
use crate::gateway::profiles::credential::ReadyCredential;
use crate::gateway::response::refusal::{self, Refusal};
use crate::gateway::upstream::{SendError, Upload};

pub(in crate::gateway) struct ClientRequest {
    pub(in crate::gateway) method: Method,
    /// What follows `/v1`, with the query.
    pub(in crate::gateway) rest: String,
    pub(in crate::gateway) headers: HeaderMap,
    pub(in crate::gateway) body: RequestBody,
}

/// `rest` below `base_path`. The path of `/v1` itself is never empty (RFC 9112 §3.2.1).
fn target(base_path: &str, rest: &str) -> String {
    let has_path = !base_path.is_empty() || rest.starts_with('/');
    [base_path, if has_path { "" } else { "/" }, rest].concat()
}

impl ClientRequest {
    /// What follows `/v1`, without the query.
    pub(in crate::gateway) fn path(&self) -> &str {
        self.rest.split('?').next().unwrap_or_default()
    }

    pub(in crate::gateway) fn speaks_anthropic(&self) -> bool {
        anthropic::speaks(&self.rest)
    }

    /// Whether there is a body, or may still be one. Some servers read the body of a GET.
    pub(in crate::gateway) fn has_body(&self) -> bool {
        [Method::POST, Method::PUT, Method::PATCH].contains(&self.method) || !self.body.is_empty()
    }

    /// Errors: the client has sent more than a request may have.
    pub(in crate::gateway) fn check_length(&self) -> Result<(), Refusal> {
        match self.body.broken() {
            Some(Broken::TooLong) => Err(refusal::too_long(self.body.longest())),
            _ => Ok(()),
        }
    }

    /// Begins to send it, with `ready` in place of the client's key.
    pub(in crate::gateway) fn upload(&self, ready: &ReadyCredential) -> Result<Upload, SendError> {
        let Some(reader) = self.body.reader() else {
            return Err(SendError::Client("the request cannot be sent again".into()));
        };
        let messages = ready.messages.as_ref().filter(|_| self.speaks_anthropic());
        let base_path = messages.map_or(ready.base_path.as_str(), |endpoint| &endpoint.base_path);
        let mut fields = headers::clean_request(&self.headers);
        headers::address(&mut fields, ready, messages);
        Upload::new(self.method.clone(), &target(base_path, &self.rest), &fields, reader)
            .ok_or_else(|| SendError::Client("the path of the request is invalid".into()))
    }

    /// The same request with another body, for a provider other than that of `first`.
    pub(in crate::gateway) fn elsewhere(
        &self,
        first: Option<&ReadyCredential>,
        body: Vec<Bytes>,
        bodies: &Rc<BodyBudget>,
    ) -> Self {
        let mut headers = self.headers.clone();
        headers.remove(CONTENT_LENGTH);
        if let Some(first) = first {
            first.provider.header_templates().keys().for_each(|name| drop(headers.remove(name)));
        }
        Self { method: self.method.clone(), rest: self.rest.clone(), headers, body: RequestBody::whole(body, bodies) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_a_path_also_where_the_base_url_has_none() {
        for (base_path, rest, expected) in [
            ("", "", "/"),
            ("", "?a=b", "/?a=b"),
            ("", "/models", "/models"),
            ("/v1", "", "/v1"),
            ("/v1", "?a=b", "/v1?a=b"),
            ("/v1", "/models", "/v1/models"),
        ] {
            assert_eq!(target(base_path, rest), expected);
        }
    }
}
