//! Running gateways, and clients that ask through them.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::machine::{Machine, Process};
use crate::cli::support::run::Stream;
use crate::cli::support::server::PATIENCE;

/// Before the first request it has a valid credential: it renews because of a request, not because it starts.
pub(crate) const GATEWAY: &[&str] = &["gateway", "--no-pacing"];

/// The argument that makes this program a client, to be run by `exec --gateway`.
pub(crate) const CLIENT: &str = "client";

/// Where a gateway listens and what it wants to hear.
#[derive(Clone)]
pub(crate) struct Address {
    host: String,
    key: String,
}

impl Address {
    /// What a gateway says first; `None` if it ends before.
    pub(crate) fn read(stdout: &Stream) -> Option<Self> {
        let [base_url, key] = stdout.lines(2)?.try_into().ok()?;
        Some(Self::of(&base_url, key))
    }

    fn of(base_url: &str, key: String) -> Self {
        let host = base_url.trim_start_matches("http://").trim_end_matches("/v1").to_owned();
        Self { host, key }
    }

    /// Sends a request; what is returned waits for the answer.
    pub(crate) fn send(&self) -> io::Result<Sent> {
        let mut connection = TcpStream::connect(&self.host)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        let body = r#"{"model":"coder-model","messages":[{"role":"user","content":"ping"}]}"#;
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.host,
            self.key,
            body.len()
        );
        connection.write_all(request.as_bytes())?;
        Ok(Sent(connection))
    }
}

/// A request under way.
pub(crate) struct Sent(TcpStream);

impl Sent {
    /// Waits for the status.
    pub(crate) fn status(mut self) -> io::Result<u16> {
        let mut answer = String::new();
        self.0.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.ok_or_else(|| io::Error::other(format!("no status in {answer:?}")))
    }
}

/// A gateway that serves.
pub(crate) struct Gateway {
    pub(crate) process: Process,
    pub(crate) address: Address,
}

impl Gateway {
    pub(crate) fn start(machine: &Machine) -> Self {
        let process = machine.start(GATEWAY);
        let address = Address::read(&process.stdout()).expect("the gateway serves");
        Self { process, address }
    }
}

/// Under `exec --gateway`: one request, and its status decides how this ends.
pub(crate) fn be_a_client() {
    let variable = |name: &str| std::env::var(name).expect("`exec --gateway` sets it");
    let address = Address::of(&variable("OPENAI_BASE_URL"), variable("OPENAI_API_KEY"));
    assert_eq!(address.send().and_then(Sent::status).expect("an answer"), 200);
}
