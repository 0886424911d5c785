//! What the gateway serves of its own: health, metrics, and the page for members.

use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::check_source;
use super::well_known::{self, Members, Way};
use crate::gateway::Gateway;
use crate::gateway::request::client_body::ClientBody;
use crate::gateway::response::refusal::{self, Refusal};
use crate::gateway::response::response_body::ResponseBody;
use crate::gateway::telemetry::metrics;
use crate::limits::shared::Health;

/// What is served at `--metrics-listen`.
pub(in crate::gateway) async fn answer_scraper(
    gateway: &Gateway,
    checks_host: bool,
    request: &Request<ClientBody>,
) -> Response<ResponseBody> {
    if let Err(refusal) = check_source(gateway, checks_host, request) {
        return refusal.into_response();
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let message = "metrics are read-only: use GET";
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message).finally();
        return with(refusal.into_response(), ALLOW, "GET, HEAD");
    }
    match request.uri().path() {
        "/metrics" => metrics_page(gateway).await,
        "/healthz" => healthy(),
        "/readyz" => readiness(gateway).await,
        _ => {
            let message = "not found: this address has `/metrics`, `/healthz` and `/readyz`";
            Refusal::new(StatusCode::NOT_FOUND, "not_found", message).into_response()
        }
    }
}

/// The process runs.
pub(super) fn healthy() -> Response<ResponseBody> {
    json(&json!({ "status": "ok" }))
}

pub(super) async fn metrics_page(gateway: &Gateway) -> Response<ResponseBody> {
    plain("text/plain; version=0.0.4", metrics::text(gateway).await)
}

/// What `opencode auth login` reads.
pub(super) fn members_page(way: Way, members: &Members) -> Response<ResponseBody> {
    let Some(page) = well_known::page(way, members) else {
        let message = "this gateway has no default model; set one with `qwenauth login … --model ID` on its machine";
        return Refusal::new(StatusCode::NOT_FOUND, "no_default_model", message).finally().into_response();
    };
    json(&page)
}

/// Whether a request would find a credential.
pub(super) async fn readiness(gateway: &Gateway) -> Response<ResponseBody> {
    let ready = gateway.profiles.first.cache.is_ready().await;
    let health = gateway.shared.as_ref().map(|shared| shared.health());
    let secret_differs = gateway.team.as_ref().is_some_and(|team| team.engine.secret_differs());
    let is_ready = ready.is_ok() && health != Some(Health::Down) && !secret_differs && !gateway.is_draining.get();
    let mut said = json!({ "ready": is_ready, "credential": ready.err().unwrap_or("valid") });
    if let Some(health) = health {
        said["shared"] = health.name().into();
    }
    if gateway.is_draining.get() {
        said["draining"] = true.into();
    }
    if secret_differs {
        said["keys"] = "secret_mismatch".into();
    }
    let mut response = json(&said);
    if !is_ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        if gateway.profiles.first.cache.trouble().is_some() {
            response.headers_mut().insert(RETRY_AFTER, refusal::seconds_of(refusal::RETRY_SOON));
        }
    }
    response
}

pub(in crate::gateway) fn with(
    mut response: Response<ResponseBody>,
    name: HeaderName,
    value: &'static str,
) -> Response<ResponseBody> {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}

pub(in crate::gateway) fn json(value: &Value) -> Response<ResponseBody> {
    plain("application/json", format!("{value}\n"))
}

fn plain(content_type: &'static str, text: String) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(text.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
