//! Where a credential goes: to its own host, over TLS that can be trusted, through no redirect.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::machine::{Machine, possible, until};
use crate::refresh::holds_the_renewal;
use crate::server::{Ask, Reply, tokens};

const NOT_NOW: &str = "nothing was lost; retry later";

#[test]
fn a_redirect_to_another_host_is_not_followed_with_the_refresh_token() {
    for status in [301, 302, 303, 307, 308] {
        let elsewhere = Machine::new();
        let location = format!("{}/api/v1/oauth2/token", elsewhere.server.url());
        let reply = move || Reply::text(status, "{}").header("Location", &location);
        let machine = Machine::expired();
        machine.server.always(Ask::Refresh, reply);
        let before = machine.content();
        let said = format!("cannot renew the token: the server answered {status} without an OAuth error");
        machine.run(["token"]).fails(3, &said, NOT_NOW);
        assert!(elsewhere.server.requests().is_empty(), "the other host was asked");
        assert_eq!(machine.content(), before);
    }
}

/// An OpenSSL server that speaks one version of TLS and grants the first refresh it is asked for.
struct Tls {
    child: Child,
    port: u16,
}

impl Tls {
    /// Certificates: `ca.pem`, a CA of its own, and `server.pem`, which that CA gave to `name`. `presented`: which of the two
    /// clients get.
    fn start(machine: &Machine, name: &str, version: &str, presented: &str) -> Self {
        let script = format!(
            "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca &&
             openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN={name} &&
             printf 'subjectAltName=DNS:{name}\\nbasicConstraints=CA:FALSE\\n' > extensions &&
             openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -out server.pem -days 2 -extfile extensions"
        );
        let made = Command::new("sh").args(["-c", &script]).current_dir(machine.directory()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        // The port is free for a moment only, but nobody else here asks the system for this very one.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut child = Command::new("openssl")
            .args([
                "s_server",
                "-quiet",
                "-cert",
                &format!("{presented}.pem"),
                "-key",
                &format!("{presented}.key"),
                version,
            ])
            .args(["-cipher", "DEFAULT:@SECLEVEL=0", "-accept", &format!("127.0.0.1:{port}")])
            .current_dir(machine.directory())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (mut asked, mut answer) = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
        std::thread::spawn(move || {
            let (mut text, mut part) = (String::new(), [0; 1024]);
            while !text.contains("client_id=") {
                match asked.read(&mut part) {
                    Ok(count) if count > 0 => text.push_str(&String::from_utf8_lossy(&part[..count])),
                    _ => return,
                }
            }
            let body = tokens("2").to_string();
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: ";
            drop(write!(answer, "{head}{}\r\n\r\n{body}", body.len()));
            // It ends the connection when it has nothing more to send.
            drop(asked.read(&mut part));
        });
        let server = Self { child, port };
        until("the TLS server listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        server
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An expired login whose OAuth host is this server.
fn beside(name: &str, version: &str) -> Option<(Machine, Tls)> {
    presenting(name, version, "server")
}

fn presenting(name: &str, version: &str, presented: &str) -> Option<(Machine, Tls)> {
    if !possible(Command::new("openssl").arg("version").output().is_ok(), "run openssl") {
        return None;
    }
    let machine = Machine::expired();
    let server = Tls::start(&machine, name, version, presented);
    let (url, ca) = (format!("https://localhost:{}", server.port), machine.directory().join("ca.pem"));
    let machine = machine.variable("QWENAUTH_QWEN_OAUTH_URL", url).variable("QWENAUTH_CA_FILE", ca);
    Some((machine, server))
}

/// Reaches it, which fails so, and nothing changes.
#[track_caller]
fn is_refused(machine: &Machine, said: &str, hint: &str) {
    let before = machine.content();
    let said = format!("cannot renew the token: no usable response from `localhost`: {said}");
    machine.run(["token"]).fails(3, &said, hint);
    assert_eq!(machine.content(), before);
}

#[test]
fn tls_1_2_and_1_3_with_a_certificate_of_our_own_ca_are_trusted() {
    for version in ["-tls1_2", "-tls1_3"] {
        let Some((machine, _server)) = beside("localhost", version) else { return };
        machine.run(["token"]).stdout("granted-access-2\n");
        holds_the_renewal(&machine, "granted-refresh-2");
    }
}

#[test]
fn tls_1_1_is_rejected() {
    let Some((machine, server)) = beside("localhost", "-tls1_1") else { return };
    let client = ["s_client", "-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0", "-connect"];
    let address = format!("127.0.0.1:{}", server.port);
    let spoken = Command::new("openssl").args(client).arg(address).stdin(Stdio::null()).output().unwrap();
    assert!(String::from_utf8_lossy(&spoken.stdout).contains("TLSv1.1"), "the server does not speak TLS 1.1");
    is_refused(&machine, "received fatal alert: ProtocolVersion", NOT_NOW);
}

const UNTRUSTED: &str =
    "if you trust the authority that issued it, set `QWENAUTH_CA_FILE` to that authority's PEM file";

#[test]
fn a_certificate_of_an_unknown_authority_is_rejected() {
    let Some((machine, _server)) = beside("localhost", "-tls1_3") else { return };
    is_refused(&machine.without_variable("QWENAUTH_CA_FILE"), "its certificate is not trusted", UNTRUSTED);
}

#[test]
fn a_certificate_for_another_name_is_rejected() {
    let Some((machine, _server)) = beside("elsewhere.example", "-tls1_3") else { return };
    let hint = "use the name that is in the certificate";
    is_refused(&machine, "its certificate is for another name", hint);
}

/// As `openssl req -x509` makes it.
#[test]
fn the_certificate_of_an_authority_is_none_of_a_server() {
    let Some((machine, _server)) = presenting("localhost", "-tls1_3", "ca") else { return };
    let hint = "give the server a certificate with `CA:FALSE`, and set `QWENAUTH_CA_FILE` to its authority's PEM file";
    is_refused(&machine, "its certificate is invalid", hint);
}

#[test]
fn every_command_that_asks_a_server_says_what_is_wrong_with_its_certificate() {
    let Some((machine, server)) = beside("localhost", "-tls1_3") else { return };
    let machine = machine.without_variable("QWENAUTH_CA_FILE");
    let url = format!("https://localhost:{}", server.port);
    let said = "no usable response from `localhost`: its certificate is not trusted";
    let mut login = machine.run(["login", "--force", "--json"]).exits(3).any_stderr();
    let event = json!({"event": "error", "kind": "network", "message": said});
    assert_eq!(login.json_lines(), [event]);
    assert!(login.stderr.ends_with(&format!("qwenauth: error: {said}\nqwenauth: hint: {UNTRUSTED}\n")), "{login}");
    let by_key = |key: &str, more: &[&str]| {
        let base_url = format!("{url}/v1");
        let login = [&["login", "custom", "--api-key-stdin", "--model", "m", "--base-url", &base_url], more].concat();
        machine.run_with_stdin(login, key.as_bytes())
    };
    let warned = by_key("granted-key-1", &[]).any_stderr();
    assert!(warned.stderr.contains(&format!("could not be checked: {said}; {UNTRUSTED}\n")), "{warned}");
    let message = format!("cannot verify the login: {said}; nothing was changed");
    by_key("granted-key-2", &[]).fails(3, &message, UNTRUSTED);
    let status = machine.run(["status", "--check"]).any_stdout();
    assert!(status.stdout.contains(&format!("the API could not be checked: {said}; {UNTRUSTED}\n")), "{status}");
    let doctor = machine.run(["doctor"]).exits(1).any_stdout().any_stderr();
    assert!(doctor.stdout.contains(&format!("fail  network      {said}\n")), "{doctor}");
    assert!(doctor.stdout.contains(&format!("→ {UNTRUSTED}\n")), "{doctor}");
}

#[test]
fn a_ca_file_without_a_certificate_is_reported_before_anything_is_sent() {
    let hint = "set it to a readable PEM file";
    let machine = Machine::expired().variable("QWENAUTH_QWEN_OAUTH_URL", "https://localhost:1");
    let file = machine.directory().join("ca.pem");
    let machine = machine.variable("QWENAUTH_CA_FILE", &file);
    let said = "cannot use the certificates of `QWENAUTH_CA_FILE`, `{machine}/ca.pem`";
    machine.run(["token"]).fails(1, &format!("{said}: No such file or directory (os error 2)"), hint);
    fs::write(&file, "no certificate\n").unwrap();
    machine.run(["token"]).fails(1, said, hint);
    fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    drop(machine.run(["token"]).exits(1).any_stderr());
}

#[test]
fn a_proxy_that_rejects_the_connection_is_temporary() {
    let closed_to = || Machine::expired().variable("QWENAUTH_QWEN_OAUTH_URL", "https://chat.qwen.ai");
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
        let machine = closed_to().variable(name, "http://127.0.0.1:1");
        let before = machine.content();
        drop(machine.run(["token"]).exits(3).any_stderr());
        assert_eq!(machine.content(), before);
    }
    // A proxy that answers, and refuses.
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in proxy.incoming().flatten() {
            let mut connection = connection;
            let mut asked = [0; 1024];
            let count = connection.read(&mut asked).unwrap_or(0);
            assert!(asked[..count].starts_with(b"CONNECT chat.qwen.ai:443 "), "the proxy is asked for a tunnel only");
            let answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
            drop(connection.write_all(answer));
        }
    });
    let machine = closed_to().variable("HTTPS_PROXY", address);
    let before = machine.content();
    let said =
        "cannot renew the token: no usable response from `chat.qwen.ai`: tunnel error: proxy authorization required";
    machine.run(["token"]).fails(3, said, NOT_NOW);
    assert_eq!(machine.content(), before);
}

#[test]
fn a_server_on_ipv6_only_is_reached() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        assert!(!possible(false, "listen on ::1"));
        return;
    };
    let port = listener.local_addr().unwrap().port();
    let machine = Machine::expired().refresh(Reply::tokens("2"));
    let target = machine.server.address().to_owned();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let onward = TcpStream::connect(&target).unwrap();
            let (mut from, mut to) = (connection.try_clone().unwrap(), onward.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            let (mut from, mut to) = (onward, connection);
            drop(std::io::copy(&mut from, &mut to));
            drop(to.shutdown(std::net::Shutdown::Both));
        }
    });
    let machine = machine.variable("QWENAUTH_QWEN_OAUTH_URL", format!("http://[::1]:{port}"));
    machine.run(["token"]).stdout("granted-access-2\n");
    holds_the_renewal(&machine, "granted-refresh-2");
}
