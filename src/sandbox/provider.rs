//! The practice provider's HTTP server, in a thread of its own that ends when [`PracticeProvider`] is dropped.
//!
//! Hazard: a name that another site resolves to 127.0.0.1 makes a browser take this server for that site's. Rule: only
//! `127.0.0.1` and `localhost` with our port are accepted as `Host`; everything a client sends has a limit.

use std::convert::Infallible;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{self, HeaderMap};
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use tokio::sync::{Semaphore, oneshot};

use super::oauth::{Answer, Authority, Decision, Form, Settings};
use super::{keys, messages, model, page};
use crate::platform::disk;
use crate::providers;
use crate::secret::Secret;

type Response = hyper::Response<Full<Bytes>>;

/// Time limit for sending a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Prompts of coding tools reach a few MB.
const LARGEST_PROMPT: usize = 16 << 20;
const LARGEST_FORM: usize = 64 << 10;
/// More wait in the kernel's queue; each costs a file descriptor.
const MAX_CONNECTIONS: usize = 256;

/// How the practice provider behaves.
pub(crate) struct SandboxOptions {
    /// Approve every login at once.
    pub(crate) approve: bool,
    /// How long an access token is valid, in whole seconds.
    pub(crate) token_lifetime: Duration,
}

/// A running practice provider.
pub(crate) struct PracticeProvider {
    url: String,
    approval: Secret,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl PracticeProvider {
    /// Listens on a free port of 127.0.0.1 and serves until dropped.
    pub(crate) fn start(options: &SandboxOptions) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening on 127.0.0.1")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let url = format!("http://127.0.0.1:{port}");
        let settings = Settings {
            url: url.clone(),
            approve: options.approve,
            // With a person to wait for, a second is brisk; without one there is nothing to wait for.
            interval: Duration::from_secs(u64::from(!options.approve)),
            token_lifetime: options.token_lifetime,
        };
        let hosts = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
        let approval = Secret::new(format!("{:032x}", rand::random::<u128>()));
        let server = Arc::new(PracticeServer {
            hosts,
            approval: approval.clone(),
            authority: Mutex::new(Authority::new(settings)),
            authorizations: Mutex::default(),
        });
        disk::check_free_descriptors(8)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            runtime.spawn(serve(listener, server));
            // The runtime ends with this thread, and all connections with it.
            let _ = runtime.block_on(stopped);
        };
        let thread = std::thread::Builder::new().name("practice provider".to_owned()).spawn(serve)?;
        Ok(Self { url, approval, stop: Some(stop), thread: Some(thread) })
    }

    /// Scheme, host and port: the OAuth server, and `resource_url` of its tokens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// What a process of the sandbox shows to approve a login without a browser.
    pub(crate) fn approval(&self) -> &Secret {
        &self.approval
    }
}

impl Drop for PracticeProvider {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed already.
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, server: Arc<PracticeServer>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return log::error!("practice provider: {error}"),
    };
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or a client that left again: others may be served in a moment.
                log::warn!("practice provider: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let server = Arc::clone(&server);
                async move { Ok::<_, Infallible>(server.answer(request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIMEOUT)
                .serve_connection(TokioIo::new(stream), answer);
            if let Err(error) = connection.await {
                log::debug!("practice provider: {error}");
            }
            drop(place);
        });
    }
}

struct PracticeServer {
    /// The accepted values of `Host`.
    hosts: [String; 2],
    approval: Secret,
    authority: Mutex<Authority>,
    authorizations: Mutex<keys::Authorizations>,
}

/// A request that has been read whole.
struct Call {
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
}

impl PracticeServer {
    async fn answer<B: Body>(&self, request: Request<B>) -> Response
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
            Err(_) => json_reply(StatusCode::REQUEST_TIMEOUT, &api_error("timeout", "the body did not come in time")),
        };
        log::info!("{line}: {}", response.status().as_u16());
        response
    }

    fn route(&self, call: &Call, now: Instant) -> Response {
        let host = call.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if !self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host)) {
            return html_reply(StatusCode::FORBIDDEN, page::refused("this is not the host it was asked for"));
        }
        if let Some((name, rest)) = keys::split(&call.path) {
            return match keys::provider(name) {
                Some(provider) => self.of_provider(&provider, rest, call),
                None => html_reply(StatusCode::NOT_FOUND, page::refused("there is no provider of that name")),
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
            _ => html_reply(StatusCode::NOT_FOUND, page::refused("there is nothing at this address")),
        }
    }
}

impl PracticeServer {
    /// A login approved or denied on its own terminal.
    fn approve(&self, authority: &mut Authority, form: &Form, now: Instant) -> Response {
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let known: bool = field("approval").as_bytes().ct_eq(self.approval.expose().as_bytes()).into();
        let Some(login) = authority.login(field("user_code"), now).filter(|_| known) else {
            return json_reply(StatusCode::FORBIDDEN, &api_error("forbidden", "only the sandbox itself approves so"));
        };
        login.decision = if field("decision") == "deny" { Decision::Denied } else { Decision::Approved };
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
                    return html_reply(StatusCode::BAD_REQUEST, page::refused("the callback is not on this machine"));
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
            let message = format!("the practice provider accepts keys that begin with `{}`", providers::KEY_PREFIX);
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
    json_reply(StatusCode::NOT_FOUND, &api_error("not_found", "the practice model has no such endpoint"))
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    struct Reply {
        status: u16,
        head: String,
        body: String,
    }

    impl Reply {
        fn field(&self, name: &str) -> String {
            let value: Value = serde_json::from_str(&self.body).expect("JSON");
            value[name].as_str().unwrap_or_default().to_owned()
        }
    }

    fn send(provider: &PracticeProvider, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let address = provider.url().strip_prefix("http://").expect("a URL");
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
        let own_host = [("Host", address)];
        let host = if headers.iter().any(|(name, _)| *name == "Host") { &[][..] } else { &own_host };
        let lines: Vec<_> = host.iter().chain(headers).map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n");
        // The provider may respond and close before it has read everything.
        let _ = stream.write_all(format!("{head}{}\r\n{body}", lines.concat()).as_bytes());
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("a reply");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn provider(approve: bool) -> PracticeProvider {
        PracticeProvider::start(&SandboxOptions { approve, token_lifetime: Duration::from_secs(60) })
            .expect("a provider")
    }

    /// RFC 7636 appendix B.
    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    fn ask(provider: &PracticeProvider, agent: &str) -> Reply {
        let body = format!("client_id=c&scope=openid+%3Cb%3E&code_challenge={CHALLENGE}&code_challenge_method=S256");
        send(provider, "POST", "/api/v1/oauth2/device/code", &[("User-Agent", agent)], &body)
    }

    fn poll(provider: &PracticeProvider, device_code: &str) -> Reply {
        let grant = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code";
        let body = format!("grant_type={grant}&client_id=c&device_code={device_code}&code_verifier={VERIFIER}");
        send(provider, "POST", "/api/v1/oauth2/token", &[], &body)
    }

    fn form_token(html: &str) -> String {
        let start = html.split("name=\"form_token\" value=\"").nth(1).expect("a form token");
        start.split('"').next().unwrap_or_default().to_owned()
    }

    #[test]
    fn a_login_is_approved_on_the_page_and_its_token_opens_the_model() {
        let provider = provider(false);
        let asked = ask(&provider, "test");
        let (device_code, user_code) = (asked.field("device_code"), asked.field("user_code"));
        assert_eq!(poll(&provider, &device_code).field("error"), "authorization_pending");

        let page = send(&provider, "GET", &format!("/device?user_code={user_code}"), &[], "");
        assert!(page.body.contains(&user_code));
        let form = format!("user_code={user_code}&form_token={}&decision=approve", form_token(&page.body));
        let approved = send(&provider, "POST", "/device", &[("Origin", provider.url())], &form);
        assert_eq!(approved.status, 303);
        let shown = send(&provider, "GET", &format!("/device?user_code={user_code}"), &[], "");
        assert!(shown.body.contains("<h1>Approved</h1>"));

        let tokens = poll(&provider, &device_code);
        assert_eq!(tokens.status, 200);
        assert!(tokens.head.contains("cache-control: no-store"));
        let bearer = format!("Bearer {}", tokens.field("access_token"));
        let chat = r#"{"messages":[{"role":"user","content":"hello"}]}"#;
        let answer = send(&provider, "POST", "/v1/chat/completions", &[("Authorization", &bearer)], chat);
        assert_eq!(answer.status, 200);
        assert!(answer.body.contains("You said: hello"));
        for path in ["/v1/chat/completions", "/v1/responses", "/v1/messages"] {
            let other = r#"{"model":"gpt-5.6-terra","messages":[],"input":"x"}"#;
            let refused = send(&provider, "POST", path, &[("Authorization", &bearer)], other);
            assert_eq!(refused.status, 404, "{path}");
            assert!(refused.body.contains("The model `gpt-5.6-terra` does not exist"), "{}", refused.body);
        }
        let models = send(&provider, "GET", "/v1/models", &[("Authorization", &bearer)], "");
        assert!(models.body.contains("coder-model"));
        let stream = format!("{}{}", r#"{"stream":true,"#, &chat[1..]);
        let events = send(&provider, "POST", "/v1/chat/completions", &[("Authorization", &bearer)], &stream);
        assert!(events.head.contains("content-type: text/event-stream"));
        assert!(events.body.ends_with("data: [DONE]\n\n"));
    }

    #[test]
    fn a_token_of_nobody_is_refused_in_qwens_words() {
        let provider = provider(true);
        for headers in [&[][..], &[("Authorization", "Bearer wrong")], &[("Authorization", "Basic wrong")]] {
            let reply = send(&provider, "POST", "/v1/chat/completions", headers, "{}");
            assert_eq!(reply.status, 401);
            let body: Value = serde_json::from_str(&reply.body).expect("JSON");
            assert_eq!(body["error"]["code"], "invalid_api_key");
            assert_eq!(body["error"]["message"], "invalid access token or token expired");
            assert!(body["request_id"].is_string());
        }
    }

    #[test]
    fn another_host_is_not_answered() {
        let provider = provider(true);
        let port = provider.url().rsplit(':').next().unwrap_or_default().to_owned();
        for host in ["evil.example", "127.0.0.1", &format!("evil.example:{port}"), "localhost:1", ""] {
            assert_eq!(send(&provider, "GET", "/device", &[("Host", host)], "").status, 403, "{host}");
        }
        assert_eq!(send(&provider, "GET", "/device", &[("Host", &format!("localhost:{port}"))], "").status, 200);
    }

    #[test]
    fn another_site_cannot_decide() {
        let provider = provider(false);
        let asked = ask(&provider, "test");
        let (device_code, user_code) = (asked.field("device_code"), asked.field("user_code"));
        let page = send(&provider, "GET", &format!("/device?user_code={user_code}"), &[], "");
        let token = form_token(&page.body);
        let guessed = format!("user_code={user_code}&form_token=guess&decision=approve");
        let known = format!("user_code={user_code}&form_token={token}&decision=approve");
        assert_eq!(send(&provider, "POST", "/device", &[("Origin", provider.url())], &guessed).status, 403);
        assert_eq!(send(&provider, "POST", "/device", &[("Origin", "https://evil.example")], &known).status, 403);
        assert_eq!(send(&provider, "POST", "/device", &[("Origin", "null")], &known).status, 403);
        assert_eq!(poll(&provider, &device_code).field("error"), "authorization_pending");
    }

    #[test]
    fn a_strangers_text_is_shown_as_text() {
        let provider = provider(false);
        let user_code = ask(&provider, "<script>alert(1)</script>").field("user_code");
        let page = send(&provider, "GET", &format!("/device?user_code={user_code}"), &[], "");
        assert!(page.body.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert!(page.body.contains("openid &lt;b&gt;"));
        assert!(!page.body.contains("<script"));
        assert!(page.head.contains("content-security-policy: default-src 'none'"));
        let unknown = send(&provider, "GET", "/device?user_code=%3Cimg%3E", &[], "");
        assert_eq!(unknown.status, 404);
        assert!(unknown.body.contains("&lt;img&gt;"));
        assert!(!unknown.body.contains("<img"));
    }

    #[test]
    fn a_large_form_is_refused() {
        let provider = provider(true);
        let body = format!("client_id={}", "x".repeat(LARGEST_FORM));
        assert_eq!(send(&provider, "POST", "/api/v1/oauth2/token", &[], &body).status, 413);
    }

    #[test]
    fn nothing_answers_once_the_provider_is_dropped() {
        let provider = provider(true);
        let address = provider.url().strip_prefix("http://").expect("a URL").to_owned();
        assert!(TcpStream::connect(&address).is_ok());
        drop(provider);
        assert!(TcpStream::connect(&address).is_err());
    }
}
