//! The route of one request: credential, slot, attempt, conclusion; then a retry, another profile, or the response.
//!
//! ```text
//! attempts.rs   the attempts to have one profile serve a request
//! slot.rs       whether a request may be sent to an account now: reached limits, the user's quotas, its slot
//! headers.rs    which headers pass
//! retry.rs      how often a rejected request is sent again, and after which wait
//! rejection.rs  requests that a profile did not serve
//! fallback.rs   other profiles of the user that serve when the first one's limit or plan is used up or its service is down
//! ```

mod attempts;
pub(super) mod fallback;
pub(super) mod headers;
pub(super) mod rejection;
pub(super) mod retry;
pub(super) mod slot;

use std::rc::Rc;
use std::sync::Arc;

use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderName};
use hyper::{Method, Request, Response};

use self::attempts::Attempts;
use self::rejection::{DeferredResponse, Unserved};
use super::Gateway;
use super::keys::key_admission::KeyAdmission;
use super::profiles::served_profile::ServedProfile;
use super::request::client_body::ClientBody;
use super::request::client_request::ClientRequest;
use super::request::request_body::{Broken, RequestBody};
use super::response::answer::InspectedResponse;
use super::response::refusal::{self, Refusal};
use super::response::response_body::ResponseBody;
use super::telemetry::traffic::Entry;
use super::telemetry::usage_record::UsageRecord;
use super::upstream::SendError;
use crate::keys::KeyRecord;
use crate::usage::KeyUser;

const PROFILE: HeaderName = HeaderName::from_static("x-qwenauth-profile");

/// One request in flight, whichever profile serves it.
pub(super) struct ProxiedRequest<'gateway> {
    pub(super) gateway: &'gateway Gateway,
    pub(super) request: ClientRequest,
    /// The key of a person or job.
    pub(super) key: Option<KeyAdmission<'gateway>>,
    pub(super) usage: UsageRecord,
    /// Whether another profile may serve it.
    pub(super) may_move: bool,
}

/// Answers a request. `rest`: what follows `/v1` in the path.
pub(super) async fn forward(
    gateway: &Gateway,
    served: Rc<ServedProfile>,
    request: Request<ClientBody>,
    rest: String,
    key: Option<Rc<KeyRecord>>,
    mut entry: Entry,
) -> Response<ResponseBody> {
    entry.outcome.profile = Some(Rc::clone(&served.profile));
    if let Err(refusal) = check_length(request.headers(), gateway.options.max_body) {
        entry.refused(refusal.status, refusal.code);
        return refusal.into_response();
    }
    let mut proxied = ProxiedRequest::begin(gateway, &served, request, rest, key, entry);
    match proxied.serve(&served).await {
        Ok(response) => response,
        Err(unserved) if unserved.reason.is_some() && proxied.may_move => {
            // Boxed, as all that is long and seldom needed: each request would have its space.
            Box::pin(fallback::serve_elsewhere(&mut proxied, &served, unserved)).await
        }
        Err(unserved) => proxied.finish(&served, unserved.deferred),
    }
}

/// Errors: the body is announced to be too long.
fn check_length(headers: &HeaderMap, most: u64) -> Result<(), Refusal> {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > most) { Err(refusal::too_long(most)) } else { Ok(()) }
}

impl<'gateway> ProxiedRequest<'gateway> {
    fn begin(
        gateway: &'gateway Gateway,
        served: &ServedProfile,
        request: Request<ClientBody>,
        rest: String,
        key: Option<Rc<KeyRecord>>,
        entry: Entry,
    ) -> Self {
        let (head, body) = request.into_parts();
        let (options, rest) = (&gateway.options, headers::clean_query(rest));
        let body = RequestBody::new(body, options.replay_limit, options.max_body, &gateway.bodies);
        let request = ClientRequest { method: head.method, rest, headers: head.headers, body };
        let mut usage = UsageRecord::begin(Some(entry));
        usage.user = key.as_ref().map(|key| Arc::new(KeyUser { key: key.id.clone(), owner: key.owner.clone() }));
        let key = key.zip(gateway.team.as_ref()).map(|(key, team)| KeyAdmission::new(team, key, &request));
        let may_move = gateway.profiles.fallback.as_ref().is_some_and(|fallback| fallback.may_move(served, &request));
        gateway.retries.borrow_mut().note_request();
        Self { gateway, request, key, usage, may_move }
    }

    /// Has one profile serve the request.
    pub(super) async fn serve(&mut self, served: &ServedProfile) -> Result<Response<ResponseBody>, Unserved> {
        let mut attempts = Attempts::begin(self, served).await?;
        let estimate = attempts.check().await?;
        loop {
            let slot = attempts.take_slot(estimate).await?;
            match attempts.send(slot).await {
                Ok(response) => {
                    if let Some(response) = attempts.conclude(response).await? {
                        return Ok(response);
                    }
                }
                Err(SendError::NotSent(why)) => Box::pin(attempts.pause_or_stop(why)).await?,
                Err(error) => return Err(attempts.no_response(error)),
            }
        }
    }

    /// Builds the response to a request that no profile served.
    pub(super) fn finish(&mut self, served: &ServedProfile, deferred: DeferredResponse) -> Response<ResponseBody> {
        match deferred {
            DeferredResponse::Own(refusal) => self.refuse(served, refusal),
            DeferredResponse::Provider(rejection) => {
                let mut response = self.forward_response(served, rejection.response);
                refusal::settle_retry_after(response.headers_mut(), rejection.attempts);
                response
            }
        }
    }

    pub(super) fn refuse(&mut self, served: &ServedProfile, refusal: Refusal) -> Response<ResponseBody> {
        self.usage.note_model(&self.request.body);
        match self.request.body.broken() {
            // Nobody gets it.
            Some(Broken::ByClient) => {}
            _ => self.usage.note_refused(refusal.status, refusal.code),
        }
        let mut response = refusal.into_response();
        self.stamp(served, response.headers_mut());
        response
    }

    /// Forwards the provider's response. Its body holds the record of the request from now on, and enters it at its end.
    pub(super) fn forward_response(
        &mut self,
        served: &ServedProfile,
        mut response: InspectedResponse,
    ) -> Response<ResponseBody> {
        self.usage.note_model(&self.request.body);
        self.request.body.stop_keeping();
        if let (Some(fallback), true) = (&self.gateway.profiles.fallback, response.status().is_success()) {
            fallback.note_served(self, served);
        }
        headers::clean_response(response.headers_mut());
        if self.key.is_some() {
            headers::hide_account(response.headers_mut());
        }
        self.stamp(served, response.headers_mut());
        // What was stored is read again without another use.
        let is_metered = self.request.method == Method::POST;
        response.forwarded(self.usage.take(), self.gateway.options.timeout, is_metered)
    }

    /// Adds the headers that state how the request was served.
    fn stamp(&self, served: &ServedProfile, headers: &mut HeaderMap) {
        self.usage.stamp(headers);
        if let Some(name) = &served.header {
            headers.insert(PROFILE, name.clone());
        }
        if let Some(key) = &self.key {
            key.stamp(headers);
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn a_request_whose_announced_length_is_beyond_the_limit_is_not_read() {
        let check = |length: &'static str| {
            check_length(&HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from_static(length))]), 10).is_ok()
        };
        assert_eq!(["0", "10", "11", "99999999999"].map(check), [true, true, false, false]);
        assert!(check_length(&HeaderMap::new(), 10).is_ok());
    }
}
