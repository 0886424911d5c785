//! Where clients come in: TLS with a certificate that is replaced, a socket in the file system, metrics without a key.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use nix::sys::signal::Signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::upstream::{CHAT, Client, Gateway, STREAM, Upstream, chunk, fine, logged_in};
use crate::machine::{Machine, has_programs, mode, until, write_private};
use crate::run::Running;
use crate::server::PATIENCE;

/// Makes a CA and certificates of it, `NAME.pem` and `NAME.key`, for the host `gateway.test`.
fn certify(machine: &Machine, names: &[&str]) {
    let mut script = "exec 2>&1 && set -e && curve='ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
        [ -e ca.pem ] || openssl req -x509 -newkey $curve -keyout ca.key -out ca.pem -subj /CN=ca -days 2\n"
        .to_owned();
    for name in names {
        script += &format!(
            "openssl req -newkey $curve -keyout {name}.key -out request.pem -subj /CN={name} \
                 -addext subjectAltName=DNS:*.gateway.test,DNS:gateway.test -addext basicConstraints=CA:FALSE
            openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -copy_extensions copy \
                 -days 2 -out {name}.pem\n"
        );
    }
    drop(machine.shell(&script).any_stdout().exits(0));
}

/// A gateway with TLS, by the certificate `NAME.pem` of the machine's directory.
struct Secured {
    running: Running,
    directory: PathBuf,
    port: u16,
    key: String,
}

impl Secured {
    fn start(machine: &Machine, name: &str, more: &[&str]) -> Self {
        let directory = machine.directory().to_owned();
        let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        let (certificate, key) = (path(&format!("{name}.pem")), path(&format!("{name}.key")));
        let named = ["gateway", "--listen", "127.0.0.1:0", "--tls-cert", &certificate, "--tls-key", &key];
        let running = machine.spawn([&named, more].concat());
        let lines = running.first_lines(2);
        let port = lines[0].strip_prefix("https://gateway.test:").and_then(|rest| rest.strip_suffix("/v1"));
        let port = port.unwrap_or_else(|| panic!("{lines:?}")).parse().unwrap();
        Self { running, directory, port, key: lines[1].clone() }
    }

    /// A client that trusts the CA, and shows the certificate of that name.
    fn connect(&self, client: Option<&str>) -> std::io::Result<Secure> {
        let pem = |name: &str| fs::read(self.directory.join(name)).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let chain = vec![CertificateDer::from_pem_slice(&pem(&format!("{name}.pem"))).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(&pem(&format!("{name}.key"))).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let host = ServerName::try_from("gateway.test").unwrap();
        let connection = ClientConnection::new(Arc::new(config), host).unwrap();
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Secure(BufReader::new(stream)))
    }

    fn chat(&self, client: Option<&str>) -> std::io::Result<String> {
        let mut secure = self.connect(client)?;
        secure.ask(self, "POST /v1/chat/completions", "Connection: close\r\n", CHAT)?;
        let mut answer = String::new();
        secure.0.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Whether the certificate `NAME.pem` is served to new connections.
    fn serves(&self, name: &str) -> bool {
        let expected = CertificateDer::from_pem_slice(&fs::read(self.directory.join(name)).unwrap()).unwrap();
        let secure = self.connect(None).unwrap();
        secure.0.get_ref().conn.peer_certificates().unwrap()[0] == expected
    }
}

struct Secure(BufReader<StreamOwned<ClientConnection, TcpStream>>);

impl Secure {
    fn ask(&mut self, gateway: &Secured, line: &str, more: &str, body: &[u8]) -> std::io::Result<()> {
        let (key, length) = (&gateway.key, body.len());
        let head = format!(
            "{line} HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer {key}\r\n{more}Content-Length: {length}\r\n\r\n"
        );
        let stream = self.0.get_mut();
        stream.write_all(&[head.as_bytes(), body].concat())?;
        stream.flush()
    }

    #[track_caller]
    fn read_until(&mut self, text: &str) {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the answer ended before `{text}`");
            if line.contains(text) {
                return;
            }
        }
    }
}

/// Waits until the other side has closed it; one that is still open when the wait is over is not closed.
#[track_caller]
fn is_closed(stream: &mut TcpStream) {
    match stream.read(&mut [0; 64]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("the connection is open: {other:?}"),
    }
}

pub(super) fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn tls_1_2_and_1_3_are_accepted_and_older_versions_are_not() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    certify(&machine, &["server"]);
    let gateway = Secured::start(&machine, "server", &[]);
    let hello = |version: &str| {
        let script = format!(
            "printf 'GET /healthz HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n' | openssl s_client -quiet \
             -ign_eof -CAfile ca.pem -servername gateway.test -{version} -cipher 'ALL:@SECLEVEL=0' \
             -connect 127.0.0.1:{} 2>&1 || true",
            gateway.port
        );
        machine.shell(&script).any_stdout().exits(0).stdout.contains("\"status\":\"ok\"")
    };
    let spoken = ["tls1", "tls1_1", "tls1_2", "tls1_3"].map(hello);
    assert_eq!(spoken, [false, false, true, true]);
    assert!(gateway.chat(None).unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(upstream.asked()[0].header("authorization"), "Bearer granted-access-1");
}

#[test]
fn a_request_without_tls_gets_an_error_that_names_https() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    certify(&machine, &["server"]);
    let gateway = Secured::start(&machine, "server", &[]);
    let head = b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n";
    let mut client = Client::send(&format!("127.0.0.1:{}", gateway.port), head);
    let answer = client.next();
    assert_eq!(answer.is(400).code(), "tls_only");
    // Clients of Anthropic's protocol read it.
    assert_eq!(answer.json()["type"], "error");
    for _ in 0..20 {
        client.write(&vec![b'x'; 100_000]);
    }
}

#[test]
fn a_new_certificate_is_served_without_interrupting_streams() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let may_end = Arc::new((Mutex::new(false), Condvar::new()));
    let upstream = Upstream::start({
        let may_end = Arc::clone(&may_end);
        move |_, _, connection| {
            connection.write_all(STREAM)?;
            connection.write_all(&chunk("data: first\n\n"))?;
            let (lock, changed) = &*may_end;
            drop(changed.wait_timeout_while(lock.lock().unwrap(), PATIENCE, |may_end| !*may_end).unwrap());
            connection.write_all(&[chunk("data: last\n\n"), chunk("")].concat())
        }
    });
    let machine = logged_in(&upstream);
    certify(&machine, &["server", "next"]);
    // As Kubernetes lays a Secret out: files are symlinks through a directory that is swapped.
    let at = |name: &str| machine.directory().join(name);
    for version in ["server", "next"] {
        fs::create_dir(at(&format!("of-{version}"))).unwrap();
        fs::copy(at(&format!("{version}.pem")), at(&format!("of-{version}/tls.pem"))).unwrap();
        fs::copy(at(&format!("{version}.key")), at(&format!("of-{version}/tls.key"))).unwrap();
    }
    symlink("of-server", at("data")).unwrap();
    symlink("data/tls.pem", at("mounted.pem")).unwrap();
    symlink("data/tls.key", at("mounted.key")).unwrap();
    let gateway = Secured::start(&machine, "mounted", &[]);
    let mut stream = gateway.connect(None).unwrap();
    stream.ask(&gateway, "POST /v1/chat/completions", "", CHAT).unwrap();
    stream.read_until("data: first");
    assert!(gateway.serves("server.pem"));
    symlink("of-next", at("new")).unwrap();
    fs::rename(at("new"), at("data")).unwrap();
    until("the new certificate is served", || gateway.serves("next.pem"));
    // The stream goes on in the connection that began with the old one.
    *may_end.0.lock().unwrap() = true;
    may_end.1.notify_all();
    stream.read_until("data: last");
    assert_eq!(upstream.asked().len(), 1);
}

#[test]
fn a_certificate_without_its_key_keeps_the_old_pair_in_force_and_is_reported_once() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    certify(&machine, &["server", "next"]);
    let metrics = free_address();
    let key_file = machine.directory().join("clients");
    let own = ["--api-key-file", key_file.to_str().unwrap(), "--show-key"];
    let mut gateway = Secured::start(&machine, "server", &[&["--metrics-listen", &metrics], &own[..]].concat());
    let first = machine.directory().join("first.pem");
    fs::copy(machine.directory().join("server.pem"), &first).unwrap();
    let replace = |from: &str, to: &str| {
        fs::copy(machine.directory().join(from), machine.directory().join("part")).unwrap();
        fs::rename(machine.directory().join("part"), machine.directory().join(to)).unwrap();
    };
    replace("next.key", "server.key");
    gateway.running.wait_for_stderr("warning: still using the old certificate: the private key in");
    assert!(gateway.serves("first.pem") && gateway.chat(None).unwrap().starts_with("HTTP/1.1 200"));
    // The key of the clients is looked at together with the pair: each change in force is another look at the same pair.
    for key in ["second-key-0123456789", "third-key-0123456789", "fourth-key-0123456789"] {
        write_private(&machine.directory().join("part"), format!("{key}\n"));
        fs::rename(machine.directory().join("part"), &key_file).unwrap();
        key.clone_into(&mut gateway.key);
        until("the key is in force", || gateway.chat(None).unwrap().starts_with("HTTP/1.1 200"));
    }
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {metrics}\r\nConnection: close\r\n\r\n");
    let counted = Client::send(&metrics, request.as_bytes()).got().text();
    assert!(counted.contains("qwenauth_tls_failed_reloads_total 1\n"), "{counted}");
    assert!(counted.contains("qwenauth_tls_certificate_expires_seconds 17"), "{counted}");
    replace("next.pem", "server.pem");
    until("the new certificate is served", || gateway.serves("next.pem"));
    gateway.running.signal(Signal::SIGTERM);
    let outcome = gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout().any_stderr();
    assert_eq!(outcome.stderr.matches("still using the old certificate").count(), 1, "{outcome}");
}

#[test]
fn with_a_client_ca_only_clients_with_its_certificate_connect() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    certify(&machine, &["server", "member"]);
    // A certificate of the same name, of another CA.
    let other = "mkdir other && mv ca.pem ca.key member.pem member.key other/";
    fs::copy(machine.directory().join("member.pem"), machine.directory().join("own.pem")).unwrap();
    fs::copy(machine.directory().join("member.key"), machine.directory().join("own.key")).unwrap();
    drop(machine.shell(other).exits(0));
    certify(&machine, &["stranger"]);
    drop(machine.shell("mv other/ca.pem ca.pem").exits(0));
    let ca = machine.directory().join("ca.pem");
    let gateway = Secured::start(&machine, "server", &["--tls-client-ca", ca.to_str().unwrap()]);
    assert!(gateway.chat(Some("own")).unwrap().starts_with("HTTP/1.1 200"));
    for stranger in [None, Some("stranger")] {
        let answer = gateway.chat(stranger);
        assert!(answer.as_ref().is_err(), "{stranger:?}: {answer:?}");
    }
    assert_eq!(upstream.asked().len(), 1);
}

#[test]
fn a_missing_handshake_times_out_and_does_not_delay_others() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    certify(&machine, &["server"]);
    let gateway = Secured::start(&machine, "server", &[]);
    let silent = || {
        let stream = TcpStream::connect(("127.0.0.1", gateway.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let mut first = silent();
    let mut last: Vec<TcpStream> = (0..256).map(|_| silent()).collect();
    // One too many: the oldest is closed at once.
    is_closed(&mut first);
    assert!(gateway.chat(None).unwrap().starts_with("HTTP/1.1 200"));
    // A begun one as well, when its time is over.
    let mut begun = last.pop().unwrap();
    begun.write_all(&[22, 3, 1, 1, 0]).unwrap();
    is_closed(&mut begun);
}

#[test]
fn the_error_names_an_invalid_certificate_or_key() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let machine = Machine::new().logged_in();
    certify(&machine, &["server", "next"]);
    drop(machine.shell("openssl pkey -in server.key -aes256 -passout pass:x -out locked.key").exits(0));
    write_private(&machine.directory().join("empty"), "");
    let run = |certificate: &str, key: &str| {
        let path = |name: &str| machine.directory().join(name);
        let words = ["gateway".into(), "--tls-cert".into(), path(certificate), "--tls-key".into(), path(key)];
        machine.run(words.map(PathBuf::into_os_string))
    };
    let pem = "use a PEM file";
    run("empty", "server.key").fails(1, "cannot use `{machine}/empty`: it contains no certificate", pem);
    run("server.pem", "empty").fails(1, "cannot use `{machine}/empty`: it contains no private key", pem);
    run("server.pem", "none").fails(1, "cannot use `{machine}/none`: it is missing", "");
    run("server.pem", "next.key").fails(
        1,
        "the private key in `{machine}/next.key` does not match the certificate in `{machine}/server.pem`",
        "put the server's own certificate first in the file",
    );
    run("server.pem", "locked.key").fails(
        1,
        "cannot use `{machine}/locked.key`: its key is encrypted",
        "decrypt it with `openssl pkey -in ENCRYPTED -out PLAIN`",
    );
    machine.run(["gateway", "--listen", "unix:q.sock", "--tls-cert", "a", "--tls-key", "b"]).fails(
        2,
        "`--listen unix:…` does not support TLS, because it is not reachable from other machines",
        "omit `--tls-cert` and `--tls-key`, or listen on an address",
    );
}

#[test]
fn an_expired_certificate_in_place_of_a_valid_one_is_warned_about() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    certify(&machine, &["server"]);
    let sign = "openssl x509 -in server.pem -signkey server.key";
    drop(machine.shell(&format!("{sign} -days 30 -out new.pem 2>&1 && mv new.pem server.pem")).any_stdout().exits(0));
    let gateway = Secured::start(&machine, "server", &[]);
    drop(machine.shell(&format!("{sign} -days -1 -out old.pem 2>&1 && mv old.pem server.pem")).any_stdout().exits(0));
    gateway.running.wait_for_stderr("/server.pem` has expired");
}

#[test]
fn an_expiring_or_expired_certificate_is_warned_about_at_the_start() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    certify(&machine, &["server"]);
    Secured::start(&machine, "server", &[]).running.wait_for_stderr("/server.pem` expires in 47 h");
    let sign = "openssl x509 -in server.pem -signkey server.key -days";
    drop(machine.shell(&format!("{sign} -1 -out old.pem 2>&1 && mv old.pem server.pem")).any_stdout().exits(0));
    Secured::start(&machine, "server", &[]).running.wait_for_stderr("/server.pem` has expired");
    drop(machine.shell(&format!("{sign} 30 -out new.pem 2>&1 && mv new.pem server.pem")).any_stdout().exits(0));
    let gateway = Secured::start(&machine, "server", &[]);
    gateway.running.signal(Signal::SIGTERM);
    let outcome = gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout().any_stderr();
    assert!(!outcome.stderr.contains("warning: the certificate"), "{outcome}");
}

#[test]
fn the_printed_url_is_the_public_url() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let machine = Machine::new().logged_in();
    certify(&machine, &["server"]);
    let path = |name: &str| machine.directory().join(name).to_str().unwrap().to_owned();
    let (certificate, key) = (path("server.pem"), path("server.key"));
    for (more, expected) in [
        (vec!["--public-url", "https://qwen.corp.example"], "https://qwen.corp.example/v1"),
        (vec!["--public-url", "https://corp.example/qwen/v1/"], "https://corp.example/qwen/v1"),
        (vec!["--listen", "0.0.0.0:0", "--tls-cert", &certificate, "--tls-key", &key], "https://gateway.test:"),
    ] {
        let running = machine.spawn([vec!["gateway"], more].concat());
        let line = &running.first_lines(1)[0];
        assert!(line.starts_with(expected), "{line}");
    }
}

/// A gateway at a socket of the machine's directory.
fn at_socket(machine: &Machine, socket: &Path) -> Running {
    let running = machine.spawn(["gateway", "--listen", &format!("unix:{}", socket.display())]);
    assert!(running.first_lines(1)[0].starts_with("unix:/"));
    running
}

fn health(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: any.name\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_unix_socket_is_private_and_removed_with_its_gateway() {
    let machine = Machine::new().logged_in();
    let socket = machine.directory().join("q.sock");
    let running = at_socket(&machine, &socket);
    assert_eq!(mode(&socket) & 0o777, 0o600);
    assert!(health(&socket).starts_with("HTTP/1.1 200"));
    let place = format!("unix:{}", socket.display());
    machine.run(["gateway", "--listen", &place]).fails(
        1,
        "cannot listen on `unix:{machine}/q.sock`: another program listens there",
        "end it, or name another path with `--listen`",
    );
    assert!(health(&socket).starts_with("HTTP/1.1 200"), "the refused one took the socket away");
    running.signal(Signal::SIGTERM);
    drop(running.finish().dies_by(Signal::SIGTERM).any_stdout());
    assert!(!socket.exists());
}

#[test]
fn the_socket_of_a_killed_gateway_is_replaced_and_no_other_file_is() {
    let machine = Machine::new().logged_in();
    let socket = machine.directory().join("q.sock");
    let killed = at_socket(&machine, &socket);
    killed.signal(Signal::SIGKILL);
    drop(killed.finish().dies_by(Signal::SIGKILL).any_stdout());
    assert!(fs::symlink_metadata(&socket).unwrap().file_type().is_socket());
    // Of several that start at once, one has it.
    let place = format!("unix:{}", socket.display());
    let all: Vec<Running> = (0..4).map(|_| machine.spawn(["gateway", "--listen", &place])).collect();
    let listening = all.iter().filter(|running| running.has_lines(1)).count();
    assert_eq!(listening, 1);
    assert!(health(&socket).starts_with("HTTP/1.1 200"));
    drop(all);
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "a letter").unwrap();
    machine.run(["gateway", "--listen", &place]).fails(
        1,
        "cannot listen on `unix:{machine}/q.sock`: another file already exists there",
        "move it away, or name another path with `--listen`",
    );
    assert_eq!(fs::read_to_string(&socket).unwrap(), "a letter");
    // One that was replaced while the gateway ran is another's, and stays.
    fs::remove_file(&socket).unwrap();
    let running = at_socket(&machine, &socket);
    fs::remove_file(&socket).unwrap();
    let _others = UnixListener::bind(&socket).unwrap();
    running.signal(Signal::SIGTERM);
    drop(running.finish().dies_by(Signal::SIGTERM).any_stdout());
    assert!(socket.exists());
}

#[test]
fn handshakes_that_fail_are_counted() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let machine = Machine::new().logged_in();
    certify(&machine, &["server"]);
    let metrics = free_address();
    let gateway = Secured::start(&machine, "server", &["--metrics-listen", &metrics]);
    for count in 1..=2 {
        let mut stream = TcpStream::connect(("127.0.0.1", gateway.port)).unwrap();
        stream.write_all(b"\x16\x03\x01\x00\x05hello").unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {metrics}\r\nConnection: close\r\n\r\n");
        let counted = || Client::send(&metrics, request.as_bytes()).got().text();
        let line = format!("qwenauth_tls_failed_handshakes_total {count}\n");
        until("the handshake is counted", || counted().contains(&line));
    }
}

#[test]
fn metrics_have_an_address_of_their_own_without_a_key() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let free = free_address();
    let gateway = Gateway::start(&machine, &["--metrics-listen", &free]);
    gateway.chat().is(200);
    let ask = |line: &str, host: &str| {
        let request = format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        Client::send(&free, request.as_bytes()).got()
    };
    let metrics = ask("GET /metrics", &free);
    assert!(metrics.is(200).text().contains("qwenauth_requests_total{profile=\"qwen\",model=\"coder-model\"} 1"));
    let served = "gen_ai_client_operation_duration_seconds_count{gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"qwen\",\
                  gen_ai_request_model=\"coder-model\",gen_ai_response_model=\"coder-model\",server_address=\"127.0.0.1\"} 1\n";
    assert!(metrics.text().contains(served), "{}", metrics.text());
    let output = "gen_ai_response_model=\"coder-model\",server_address=\"127.0.0.1\",gen_ai_token_type=\"output\"} 7\n";
    assert!(metrics.text().contains(output), "{}", metrics.text());
    assert!(metrics.text().contains("OpenTelemetry semantic conventions 1.41.0"));
    ask("GET /healthz", &free).is(200);
    ask("GET /readyz", &free).is(200);
    ask("GET /v1/models", &free).is(404);
    ask("POST /metrics", &free).is(405);
    assert_eq!(ask("GET /metrics", "rebound.example").is(403).code(), "host_not_allowed");
    // The clients' own address has them behind the key, and only where that is asked for.
    assert_eq!(gateway.send("GET /metrics", "", b"").got().status, 404);
    assert_eq!(upstream.asked().len(), 1);
}

#[test]
fn an_address_in_use_is_an_error_with_a_remedy() {
    let machine = Machine::new().logged_in();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for option in ["--listen", "--metrics-listen"] {
        machine.run(["gateway", option, &address]).fails(
            1,
            &format!("cannot listen on `{address}`: Address already in use (os error 98)"),
            "stop the program that uses this address, or use a free port with `--listen 127.0.0.1:0`",
        );
    }
}
