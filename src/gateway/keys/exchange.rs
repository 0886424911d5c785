//! `POST /v1/token`: exchanges the token of a CI job for a key that is valid for an hour (RFC 8693), because such
//! tokens expire within minutes.
//!
//! Hazard: any client may send a request, with a body of any length. Rule: the body has the maximum size of a token
//! and a timeout, and a job key is issued only for an issuer's token, never for another key.

use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde_json::json;
use url::form_urlencoded;

use super::team::Team;
use crate::gateway::admission::own_pages::json;
use crate::gateway::request::client_body::ClientBody;
use crate::gateway::response::refusal::{Refusal, seconds_of};
use crate::gateway::response::response_body::ResponseBody;
use crate::gateway::telemetry::traffic::Entry;
use crate::oauth::exchange::{GRANT_TYPE, ID_TOKEN, JWT};
use crate::oauth::jwt::MAX_LENGTH;
use crate::secret::Secret;

/// The path, if the gateway accepts tokens of issuers.
pub(in crate::gateway) const PATH: &str = "/v1/token";

/// Maximum body size in bytes: a token with each character percent-encoded, and the other fields.
const MAX_BODY: usize = 3 * MAX_LENGTH + 4096;

/// Timeout of the whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Handles such a request.
pub(in crate::gateway) async fn exchange(
    team: &Team,
    request: Request<ClientBody>,
    entry: &mut Entry,
) -> Response<ResponseBody> {
    let read = tokio::time::timeout(BODY_TIMEOUT, Limited::new(request.into_body(), MAX_BODY).collect()).await;
    let Ok(Ok(body)) = read else {
        return failed(StatusCode::BAD_REQUEST, "invalid_request", "the body is too long or incomplete", None);
    };
    let token = match ExchangeForm::read(&body.to_bytes()).token() {
        Ok(token) => token,
        Err((error, description)) => return failed(StatusCode::BAD_REQUEST, error, description, None),
    };
    match team.exchange(token.expose()).await {
        Ok((key, job_key, lasts)) => {
            entry.outcome.key = Some(key.id.clone());
            let mut response = json(&json!({
                "access_token": job_key.expose(),
                "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
                "token_type": "Bearer",
                "expires_in": lasts.as_secs(),
            }));
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Err(refusal) => {
            entry.outcome.reason = Some(refusal.code);
            of_refusal(&refusal)
        }
    }
}

/// The fields of an exchange request that are used.
#[derive(Default)]
struct ExchangeForm {
    grant_type: String,
    token_type: String,
    token: Option<Secret>,
}

impl ExchangeForm {
    fn read(body: &[u8]) -> Self {
        let mut form = Self::default();
        for (name, value) in form_urlencoded::parse(body) {
            match &*name {
                "grant_type" => form.grant_type = value.into_owned(),
                "subject_token_type" => form.token_type = value.into_owned(),
                "subject_token" => form.token = Some(Secret::new(value.into_owned())),
                _ => {}
            }
        }
        form
    }

    /// Errors: the code of RFC 6749 §5.2, and what is missing.
    fn token(self) -> Result<Secret, (&'static str, &'static str)> {
        if self.grant_type != GRANT_TYPE {
            let description = "`grant_type` must be `urn:ietf:params:oauth:grant-type:token-exchange`, in a form";
            return Err(("unsupported_grant_type", description));
        }
        if ![JWT, ID_TOKEN].contains(&self.token_type.as_str()) {
            return Err(("invalid_request", "`subject_token_type` must be `urn:ietf:params:oauth:token-type:jwt`"));
        }
        self.token.ok_or(("invalid_request", "`subject_token` is missing"))
    }
}

/// A rejected token is an invalid request (RFC 8693 §2.2.2); an error that may be retried keeps its status.
fn of_refusal(refusal: &Refusal) -> Response<ResponseBody> {
    if refusal.status.is_server_error() {
        return failed(refusal.status, "temporarily_unavailable", &refusal.message, refusal.retry_after);
    }
    failed(StatusCode::BAD_REQUEST, "invalid_request", &refusal.message, None)
}

fn failed(status: StatusCode, error: &str, description: &str, after: Option<Duration>) -> Response<ResponseBody> {
    let mut response = json(&json!({ "error": error, "error_description": description }));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(after) = after {
        headers.insert(hyper::header::RETRY_AFTER, seconds_of(after));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_try_again_is_never_earlier_than_the_truth() {
        let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "x", "x").after(Duration::from_millis(4900));
        assert_eq!(of_refusal(&refusal).headers()["retry-after"], "5");
    }
}
