//! The ways to send a request from the gateway to a provider, beside each other: `clients PORT KEY SECONDS`, run by
//! `benches/gateway/run`.
//!
//! Each sends the same small request over one kept connection to the same server on loopback and reads the answer, in
//! turns of a tenth of a second so that what else the machine does falls on all alike. Prints, for each, the CPU time of
//! this process and the median time of a request, in µs.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::resource::{UsageWho, getrusage};

const BODY: &str = r#"{"model":"coder-model","messages":[{"role":"user","content":"hello"}]}"#;
const TURN: Duration = Duration::from_millis(100);

/// What one way needed.
#[derive(Default)]
struct Times {
    cpu: Duration,
    requests: Vec<Duration>,
}

impl Times {
    async fn turn(&mut self, mut request: impl AsyncFnMut()) {
        let (began, cpu) = (Instant::now(), cpu());
        while began.elapsed() < TURN {
            let sent = Instant::now();
            request().await;
            self.requests.push(sent.elapsed());
        }
        self.cpu += self::cpu().saturating_sub(cpu);
    }

    fn print(mut self, name: &str) {
        let count = u32::try_from(self.requests.len()).unwrap();
        self.requests.sort();
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        println!(
            "| {name} | {:.1} | {:.1} |",
            micros(self.cpu / count),
            micros(self.requests[self.requests.len() / 2])
        );
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [port, key, seconds] = &arguments[..] else {
        return println!("see benches/gateway/run, which uses this");
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let address = format!("127.0.0.1:{port}");
    runtime.block_on(run(&address, &format!("Bearer {key}"), seconds.parse().expect("seconds")));
}

async fn run(address: &str, authorization: &str, seconds: u32) {
    let url = format!("http://{address}/v1/chat/completions");
    let request = |uri: &str| {
        Request::post(uri)
            .header("host", address)
            .header("content-type", "application/json")
            .header("authorization", authorization)
            .body(Full::new(Bytes::from_static(BODY.as_bytes())))
            .unwrap()
    };

    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let pooled = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let reqwest = reqwest::Client::builder().no_proxy().build().unwrap();

    let (mut of_hyper, mut of_util, mut of_reqwest) = (Times::default(), Times::default(), Times::default());
    for _ in 0..seconds * 10 / 3 {
        of_hyper
            .turn(async || {
                sender.ready().await.unwrap();
                let response = sender.send_request(request("/v1/chat/completions")).await.unwrap();
                assert_eq!(response.status(), 200);
                response.into_body().collect().await.unwrap();
            })
            .await;
        of_util
            .turn(async || {
                let response = pooled.request(request(&url)).await.unwrap();
                assert_eq!(response.status(), 200);
                response.into_body().collect().await.unwrap();
            })
            .await;
        of_reqwest
            .turn(async || {
                let request = reqwest
                    .post(&url)
                    .header("content-type", "application/json")
                    .header("authorization", authorization)
                    .body(BODY);
                let response = request.send().await.unwrap();
                assert_eq!(response.status(), 200);
                response.bytes().await.unwrap();
            })
            .await;
    }
    println!("| | CPU µs a request | median µs a request |\n|---|---|---|");
    of_hyper.print("hyper's connection");
    of_util.print("hyper-util's client");
    of_reqwest.print("reqwest's client");
}

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let time = |value: nix::sys::time::TimeVal| {
        Duration::new(value.tv_sec().try_into().unwrap(), u32::try_from(value.tv_usec()).unwrap() * 1000)
    };
    time(usage.user_time()) + time(usage.system_time())
}
