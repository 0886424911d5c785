//! The practice provider's responses: who may send a request, how large it may be, and what it gets.

use std::sync::PoisonError;
use std::time::Instant;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{self, HeaderMap};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;

use super::super::oauth::{Answer, ApprovalState, Authority, Form};
use super::super::{keys, messages, model, page};
use super::{PracticeServer, REQUEST_TIMEOUT};
use crate::providers;

type Response = hyper::Response<Full<Bytes>>;

/// Prompts of coding tools reach a few MB.
const LARGEST_PROMPT: usize = 16 << 20;
pub(super) const LARGEST_FORM: usize = 64 << 10;

/// A request that has been read whole.
struct Call {
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
}

impl PracticeServer {
    pub(super) async fn answer<B: Body>(&self, request: Request<B>) -> Response
    where
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let is_prompt = path.contains("/v1/") && !path.contains("/oauth2/");
        let limit = if is_prompt { LARGEST_PROMPT } else { LARGEST_FORM };
        let read = tokio::time::timeout(REQUEST_TIMEOUT, Limited::new(body, limit).collect()).await;
        let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
        let (method, headers) = (head.method, head.headers);
        // Never the query or the body: they contain codes and tokens.
        let line = format!("practice provider: {method} {path}");
        let response = match read {
            Ok(Ok(body)) => self.route(&Call { method, path, query, headers, body: body.to_bytes() }, Instant::now()),
            Ok(Err(_)) => {
                json_reply(StatusCode::PAYLOAD_TOO_LARGE, &api_error("invalid_request", "the body is too large"))
            }
            Err(_) => json_reply(StatusCode::REQUEST_TIMEOUT, &api_error("timeout", "the body did not arrive in time")),
        };
        log::info!("{line}: {}", response.status().as_u16());
        response
    }

    fn route(&self, call: &Call, now: Instant) -> Response {
        let host = call.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if !self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host)) {
            return html_reply(StatusCode::FORBIDDEN, page::refused("the request names another host"));
        }
        if let Some((name, rest)) = keys::split(&call.path) {
            return match keys::provider(name) {
                Some(provider) => self.of_provider(&provider, rest, call),
                None => html_reply(StatusCode::NOT_FOUND, page::refused("there is no provider with that name")),
            };
        }
        let mut authority = self.authority.lock().unwrap_or_else(PoisonError::into_inner);
        match (call.method.as_str(), call.path.as_str()) {
            ("POST", "/api/v1/oauth2/device/code") => {
                oauth_reply(&authority.device_code(&call.form(), call.header(header::USER_AGENT), now))
            }
            ("POST", "/api/v1/oauth2/token") => oauth_reply(&authority.token(&call.form(), now)),
            ("POST", "/api/v1/oauth2/revoke") => oauth_reply(&authority.revoke(&call.form())),
            ("GET" | "HEAD", "/" | "/device") => show(&mut authority, call, now),
            ("POST", "/device") => decide(&mut authority, call, now),
            ("POST", "/approve") => self.approve(&mut authority, &call.form(), now),
            ("GET" | "HEAD", "/keys") => html_reply(StatusCode::OK, page::key(&keys::new_key())),
            (_, path) if path.starts_with("/v1/") => {
                if !authority.accepts(call.bearer(), now) {
                    let message = "invalid access token or token expired";
                    return json_reply(StatusCode::UNAUTHORIZED, &api_error("invalid_api_key", message));
                }
                drop(authority);
                match model::unknown(&call.body) {
                    Some(model) => no_such_model(&model),
                    None => ask_model(call, &call.path),
                }
            }
            _ => html_reply(StatusCode::NOT_FOUND, page::refused("not found")),
        }
    }

    /// A login approved or denied on its own terminal.
    fn approve(&self, authority: &mut Authority, form: &Form, now: Instant) -> Response {
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let known: bool = field("approval").as_bytes().ct_eq(self.approval.expose().as_bytes()).into();
        let Some(login) = authority.login(field("user_code"), now).filter(|_| known) else {
            return json_reply(
                StatusCode::FORBIDDEN,
                &api_error("forbidden", "only the sandbox itself can approve this way"),
            );
        };
        login.approval = if field("decision") == "deny" { ApprovalState::Denied } else { ApprovalState::Approved };
        json_reply(StatusCode::OK, &json!({}))
    }

    /// The response of a provider with API keys at `rest` below its own path.
    fn of_provider(&self, provider: &providers::Provider, rest: &str, call: &Call) -> Response {
        let query: Form = parse_form(call.query.as_bytes());
        let mut authorizations = self.authorizations.lock().unwrap_or_else(PoisonError::into_inner);
        match (call.method.as_str(), rest) {
            ("GET", "/authorize") if query.contains_key("callback_url") => {
                let url = authorizations.approve(&query).and_then(|url| url.as_str().parse().ok());
                let Some(location) = url else {
                    return html_reply(
                        StatusCode::BAD_REQUEST,
                        page::refused("the callback is not a loopback address"),
                    );
                };
                let mut response = html_reply(StatusCode::SEE_OTHER, String::new());
                response.headers_mut().insert(header::LOCATION, location);
                return response;
            }
            ("GET", "/authorize") => {
                return match authorizations.code(&query) {
                    Some(code) => html_reply(StatusCode::OK, page::code(&code)),
                    None => html_reply(StatusCode::BAD_REQUEST, page::refused("`code_challenge` is missing")),
                };
            }
            ("POST", "/exchange") => {
                return match authorizations.exchange(&call.body) {
                    Some(key) => json_reply(StatusCode::OK, &key),
                    None => json_reply(StatusCode::FORBIDDEN, &api_error("invalid_code", "the code is not valid")),
                };
            }
            _ => drop(authorizations),
        }
        if !keys::accepts(provider, call.key()) {
            let message = format!("the practice provider accepts keys that start with `{}`", providers::KEY_PREFIX);
            return json_reply(StatusCode::UNAUTHORIZED, &api_error("invalid_api_key", &message));
        }
        if call.method == Method::GET {
            return match rest {
                "/v1/models" => json_reply(StatusCode::OK, &keys::list(provider)),
                _ if rest.ends_with(provider.verify.path()) => json_reply(StatusCode::OK, &json!({ "data": {} })),
                _ => no_such_endpoint(),
            };
        }
        if let Some(model) = keys::unknown_model(provider, &call.body) {
            return no_such_model(&model);
        }
        ask_model(call, rest)
    }
}

fn show(authority: &mut Authority, call: &Call, now: Instant) -> Response {
    let query = parse_form(call.query.as_bytes());
    let Some(code) = query.get("user_code").filter(|code| !code.is_empty()) else {
        return html_reply(StatusCode::OK, page::enter_code(None));
    };
    match authority.login(code, now) {
        Some(login) => html_reply(StatusCode::OK, page::login(login)),
        None => html_reply(StatusCode::NOT_FOUND, page::enter_code(Some(code))),
    }
}

/// After a decision the browser is sent to the page that shows it, so that reloading submits nothing twice.
fn decide(authority: &mut Authority, call: &Call, now: Instant) -> Response {
    let form = call.form();
    let code = form.get("user_code").map(String::as_str).unwrap_or_default();
    let Some(login) = authority.login(code, now) else {
        return html_reply(StatusCode::NOT_FOUND, page::enter_code(Some(code)));
    };
    if let Err(status) = page::decide(login, &form, call.is_own_origin()) {
        return html_reply(status, page::refused("the form did not come from this page"));
    }
    let mut response = html_reply(StatusCode::SEE_OTHER, String::new());
    if let Ok(location) = format!("/device?user_code={}", login.user_code).parse() {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn ask_model(call: &Call, path: &str) -> Response {
    let output = match (call.method.as_str(), path) {
        ("GET", "/v1/models") => Ok(model::Output::Json(model::models())),
        ("POST", "/v1/chat/completions") => model::chat(&call.body),
        ("POST", "/v1/messages") => messages::messages(&call.body),
        ("POST", "/v1/messages/count_tokens") => messages::count_tokens(&call.body),
        ("POST", "/v1/responses") => model::responses(&call.body),
        _ => return no_such_endpoint(),
    };
    match output {
        Ok(model::Output::Json(value)) => json_reply(StatusCode::OK, &value),
        Ok(model::Output::Events(events)) => reply(StatusCode::OK, "text/event-stream", events),
        Err(message) => json_reply(StatusCode::BAD_REQUEST, &api_error("invalid_request", &message)),
    }
}

/// In the provider's own words, so that a wrong model shows here as it would there.
fn no_such_model(model: &str) -> Response {
    let message = format!("The model `{model}` does not exist or you do not have access to it.");
    json_reply(StatusCode::NOT_FOUND, &api_error("model_not_found", &message))
}

fn no_such_endpoint() -> Response {
    json_reply(StatusCode::NOT_FOUND, &api_error("not_found", "the practice model does not support this endpoint"))
}

impl Call {
    fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn bearer(&self) -> &str {
        let (scheme, token) = self.header(header::AUTHORIZATION).split_once(' ').unwrap_or_default();
        if scheme.eq_ignore_ascii_case("bearer") { token.trim() } else { "" }
    }

    /// The API key, in whichever of the two headers.
    fn key(&self) -> &str {
        match self.header(header::HeaderName::from_static("x-api-key")) {
            "" => self.bearer(),
            key => key,
        }
    }

    fn form(&self) -> Form {
        parse_form(&self.body)
    }

    /// Browsers name the origin of every form; a request without an origin is not from a browser.
    fn is_own_origin(&self) -> bool {
        let origin = self.headers.get(header::ORIGIN);
        origin.is_none_or(|origin| origin.as_bytes() == format!("http://{}", self.header(header::HOST)).as_bytes())
    }
}

fn parse_form(text: &[u8]) -> Form {
    url::form_urlencoded::parse(text).into_owned().collect()
}

/// An error as Qwen's API words it.
fn api_error(code: &str, message: &str) -> Value {
    let error = json!({ "code": code, "message": message, "param": null, "type": "invalid_request_error" });
    json!({ "error": error, "request_id": format!("practice-{:016x}", rand::random::<u64>()) })
}

fn oauth_reply((status, answer): &Answer) -> Response {
    json_reply(*status, answer)
}

fn json_reply(status: StatusCode, value: &Value) -> Response {
    reply(status, "application/json", value.to_string())
}

fn html_reply(status: StatusCode, html: String) -> Response {
    let mut response = reply(status, "text/html; charset=utf-8", html);
    if let Ok(policy) = page::content_security_policy().parse() {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    // Not `no-referrer`: with it a browser sends `Origin: null` even to its own page's server.
    headers.insert(header::REFERRER_POLICY, header::HeaderValue::from_static("same-origin"));
    response
}
