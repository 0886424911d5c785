//! The practice provider's HTTP server, in a thread of its own that ends when [`PracticeProvider`] is dropped.
//!
//! Hazard: a name that another site resolves to 127.0.0.1 makes a browser take this server for that site's. Rule: only
//! `127.0.0.1` and `localhost` with our port are accepted as `Host`; everything a client sends has a limit.

mod routes;

use std::convert::Infallible;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, oneshot};

use super::keys;
use super::oauth::{Authority, Settings};
use crate::platform::disk;
use crate::secret::Secret;

/// Time limit for sending a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use serde_json::Value;

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
        let body = format!("client_id={}", "x".repeat(routes::LARGEST_FORM));
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
