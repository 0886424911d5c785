//! The server: accept, who may ask, which way.
//!
//! Hazard: any page open in a browser can send requests to a port of this machine, under a name of its own (DNS
//! rebinding), and any user of the machine can connect.
//! Rule: before anything else a request must name this machine as its host and come from no foreign page; and nothing
//! but `/healthz` is answered without the key.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, ORIGIN};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use super::answer::Answer;
use super::forward::forward;
use super::refusal::Refusal;
use super::{Gateway, metrics};

/// A client that connects and says nothing is let go.
const HEADERS: Duration = Duration::from_secs(60);

/// After an accept that failed for want of files or memory.
const BREATH: Duration = Duration::from_millis(50);

/// Connections that are open, so that the end can wait for them.
#[derive(Default)]
struct Open {
    count: Cell<usize>,
    all_closed: Notify,
}

struct Guard(Rc<Open>);

impl Guard {
    fn new(open: &Rc<Open>) -> Self {
        open.count.set(open.count.get() + 1);
        Self(Rc::clone(open))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        if self.0.count.get() == 0 {
            self.0.all_closed.notify_one();
        }
    }
}

/// Serves until `ends`; then lets requests under way finish for as long as the options say, or until `ends` comes again.
pub(super) async fn serve<F: Future<Output = ()>>(gateway: Rc<Gateway>, listener: TcpListener, ends: impl Fn() -> F) {
    let open = Rc::new(Open::default());
    let (ending, ended) = watch::channel(false);
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    tokio::task::spawn_local(connection(Rc::clone(&gateway), stream, ended.clone(), Guard::new(&open)));
                }
                Err(error) => {
                    log::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = ends() => {}
    }
    drop(listener);
    let _ = ending.send(true);
    if open.count.get() == 0 {
        return;
    }
    tokio::select! {
        () = open.all_closed.notified() => {}
        () = tokio::time::sleep(gateway.options.drain) => {}
        () = ends() => {}
    }
}

async fn connection(gateway: Rc<Gateway>, stream: TcpStream, mut ended: watch::Receiver<bool>, _guard: Guard) {
    // Events are small and go out at once.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let gateway = Rc::clone(&gateway);
        // Boxed, it goes when the answer begins; hyper would keep its room as long as the connection lives.
        Box::pin(async move { Ok::<_, Infallible>(answer(&gateway, request).await) })
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut is_ending = false;
    loop {
        tokio::select! {
            served = connection.as_mut() => {
                if let Err(error) = served {
                    log::debug!("a client's connection ended: {error}");
                }
                return;
            }
            _ = ended.changed(), if !is_ending => {
                is_ending = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

async fn answer(gateway: &Gateway, request: Request<Incoming>) -> Response<Answer> {
    if let Err(refusal) = check_source(gateway, request.uri(), request.headers()) {
        return refusal.into_response();
    }
    let path = request.uri().path();
    if path == "/healthz" {
        return plain("application/json", "{\"status\":\"ok\"}\n".to_owned());
    }
    if !has_key(gateway, request.headers()) {
        let message = "the gateway's key is missing or wrong: it is the second line that `qwenauth gateway` printed, \
                       and `OPENAI_API_KEY` under `qwenauth exec --gateway`";
        return Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message).finally().into_response();
    }
    if path == "/metrics" && gateway.options.metrics && request.method() == Method::GET {
        return plain("text/plain; version=0.0.4", metrics::text(gateway));
    }
    let Some((profile, rest)) = route(request.uri()) else {
        let message = "there is nothing here: the API is below `/v1`, or `/p/PROFILE/v1` with `--all-profiles`";
        return Refusal::new(StatusCode::NOT_FOUND, "not_found", message).into_response();
    };
    match gateway.lane(profile.as_deref()) {
        Ok(lane) => forward(gateway, &lane, request, rest).await,
        Err(message) => Refusal::new(StatusCode::NOT_FOUND, "profile_not_found", message).into_response(),
    }
}

/// The profile that a path names, and what follows `/v1` in it. A path that could lead out of there leads nowhere.
fn route(uri: &Uri) -> Option<(Option<String>, String)> {
    let whole = uri.path_and_query()?.as_str();
    let path = uri.path();
    let lower =
        path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/").replace('\\', "/");
    if lower.split('/').any(|segment| segment == "..") {
        return None;
    }
    let (profile, rest) = match whole.strip_prefix("/p/") {
        None => (None, whole),
        Some(rest) => {
            let end = rest.find('/')?;
            (Some(rest[..end].to_owned()), &rest[end..])
        }
    };
    let rest = rest.strip_prefix("/v1")?;
    (rest.is_empty() || rest.starts_with(['/', '?'])).then(|| (profile, rest.to_owned()))
}

fn check_source(gateway: &Gateway, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    if gateway.is_loopback {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let named = [host, uri.authority().map(hyper::http::uri::Authority::as_str)];
        if host.is_none() || !named.into_iter().flatten().all(|host| is_local(gateway, host)) {
            let message = "the request names a foreign host: this gateway answers to `localhost`, `127.0.0.1` and \
                           `[::1]`, and to names given by `--allow-host`";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "host_not_allowed", message).finally());
        }
    }
    for origin in headers.get_all(ORIGIN) {
        let host = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
        if !host.is_some_and(|host| is_local(gateway, host)) {
            let message = "the request comes from a page of another origin, and this gateway is not for pages";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "origin_not_allowed", message).finally());
        }
    }
    Ok(())
}

/// `host` with or without a port.
fn is_local(gateway: &Gateway, host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|known| name.eq_ignore_ascii_case(known))
        || gateway.options.allow_hosts.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// As a bearer token, or where other APIs have it.
fn has_key(gateway: &Gateway, headers: &HeaderMap) -> bool {
    let bearer = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).and_then(|value| {
        let (scheme, key) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
    });
    let others = ["x-api-key", "api-key"].into_iter().filter_map(|name| headers.get(name)).map(HeaderValue::as_bytes);
    let key = gateway.key.expose().as_bytes();
    bearer.into_iter().chain(others).any(|given| given.ct_eq(key).into())
}

fn plain(content_type: &'static str, text: String) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(text.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(path: &str) -> Option<(Option<String>, String)> {
        route(&path.parse().unwrap())
    }

    #[test]
    fn everything_below_v1_has_a_way() {
        for (path, rest) in [("/v1", ""), ("/v1/models", "/models"), ("/v1?x=1", "?x=1"), ("/v1/a?b=../c", "/a?b=../c")]
        {
            assert_eq!(routed(path), Some((None, rest.to_owned())), "{path}");
        }
        assert_eq!(routed("/p/work/v1/models"), Some((Some("work".into()), "/models".into())));
    }

    #[test]
    fn nothing_leads_out_of_v1() {
        for path in
            ["/", "/v10", "/v1x/a", "/models", "/v1/../admin", "/v1/%2e%2e/admin", "/v1/%2E./a", "/p/x", "/v1/..%2fa"]
        {
            assert_eq!(routed(path), None, "{path}");
        }
    }
}
