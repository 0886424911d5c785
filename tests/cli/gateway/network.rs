//! The way to the provider: TLS, proxies, names that do not exist, and a disk that is full beside it.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use nix::sys::signal::Signal;
use serde_json::json;

use super::upstream::{Gateway, Upstream, configured, fine, logged_in};
use crate::machine::{Machine, has_programs, possible};
use crate::run::Running;

/// A name that only a proxy can know.
const NAME: &str = "api.nowhere.invalid";

/// A provider's API behind TLS, with a certificate of a CA of its own, which lasts for so many days from now.
struct Secured {
    running: Running,
    port: u16,
    ca: PathBuf,
}

impl Secured {
    fn start(machine: &Machine, days: i32) -> Self {
        let script = format!(
            "exec 2>&1 && set -e && curve='ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes' &&
            openssl req -x509 -newkey $curve -keyout ca.key -out ca.pem -subj /CN=ca -days 2 &&
            openssl req -newkey $curve -keyout key.pem -out request.pem -subj /CN=api \
                -addext subjectAltName=DNS:{NAME},IP:127.0.0.1 -addext basicConstraints=CA:FALSE &&
            openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -copy_extensions copy \
                -days {days} -out certificate.pem"
        );
        drop(machine.shell(&script).any_stdout().exits(0));
        let server = machine.directory().join("tls.py");
        fs::write(&server, include_bytes!("tls.py")).unwrap();
        let mut python = machine.other("python3");
        python.arg(server);
        let running = machine.start(python);
        let port = running.first_lines(1)[0].parse().unwrap();
        Self { running, port, ca: machine.directory().join("ca.pem") }
    }

    /// Whether it was asked; ends it.
    fn was_asked(self) -> bool {
        self.running.signal(Signal::SIGTERM);
        let outcome = self.running.finish().dies_by(Signal::SIGTERM).any_stdout().any_stderr();
        outcome.stdout.contains("Bearer granted-access-1")
    }
}

/// A login whose API is at `url`.
fn logged_in_to(url: &str) -> Machine {
    let text = "[providers.qwen]\nresource_hosts = [\"nowhere.invalid\", \"api.nowhere.invalid\"]\n";
    configured(Machine::new().logged_in().field("resource_url", json!(url)), text)
}

/// Stands before the API of `secured`; the machine of the one is the directory of the other.
fn before(secured: &Secured, machine: Machine) -> Machine {
    let url = format!("https://127.0.0.1:{}", secured.port);
    machine.field("resource_url", json!(url))
}

#[test]
fn a_server_is_trusted_only_by_the_ca_the_user_configured() {
    if !has_programs(&["openssl", "python3"]) {
        return;
    }
    let machine = Machine::new().logged_in();
    let secured = Secured::start(&machine, 1);
    let machine = before(&secured, machine);
    let got = Gateway::start(&machine, &[]).chat();
    assert_eq!(got.is(502).code(), "upstream_unreachable");
    assert!(got.text().contains("certificate"), "{}", got.text());
    let machine = machine.variable("QWENAUTH_CA_FILE", &secured.ca);
    assert_eq!(Gateway::start(&machine, &[]).chat().is(200).json()["over"], "tls");
    assert!(secured.was_asked());
}

#[test]
fn an_expired_certificate_of_the_provider_is_a_502_that_names_it() {
    if !has_programs(&["openssl", "python3"]) {
        return;
    }
    let machine = Machine::new().logged_in();
    let secured = Secured::start(&machine, -1);
    let machine = before(&secured, machine).variable("QWENAUTH_CA_FILE", &secured.ca);
    let got = Gateway::start(&machine, &[]).chat();
    assert_eq!(got.is(502).code(), "upstream_unreachable");
    assert!(got.text().to_lowercase().contains("expired"), "{}", got.text());
    assert!(!secured.was_asked(), "the credential was sent to it");
}

/// A proxy that leads every name to one port of this machine, and notes what it was asked for.
struct Proxy {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(port: u16, greet: fn(&mut TcpStream) -> io::Result<String>, agreed: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        thread::spawn({
            let asked = asked.clone();
            move || {
                for client in listener.incoming() {
                    let (Ok(mut client), asked) = (client, asked.clone()) else { return };
                    thread::spawn(move || {
                        let target = greet(&mut client)?;
                        asked.lock().unwrap().push(target);
                        let server = TcpStream::connect(("127.0.0.1", port))?;
                        client.write_all(agreed)?;
                        let (up, down) = ((client.try_clone()?, server.try_clone()?), (server, client));
                        for (mut from, mut to) in [up, down] {
                            thread::spawn(move || {
                                let _ = io::copy(&mut from, &mut to);
                                let _ = to.shutdown(Shutdown::Write);
                            });
                        }
                        io::Result::Ok(())
                    });
                }
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// `CONNECT name:port` (RFC 9110 §9.3.6).
fn connect(client: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned())
}

/// SOCKS 5 without a password, by name (RFC 1928 §3 and §4).
fn socks(client: &mut TcpStream) -> io::Result<String> {
    let mut methods = [0; 2];
    client.read_exact(&mut methods)?;
    client.read_exact(&mut vec![0; methods[1].into()])?;
    client.write_all(&[5, 0])?;
    let mut head = [0; 5];
    client.read_exact(&mut head)?;
    let mut rest = vec![0; usize::from(head[4]) + 2];
    client.read_exact(&mut rest)?;
    let (name, port) = rest.split_at(head[4].into());
    Ok(format!("{}:{}", String::from_utf8_lossy(name), u16::from_be_bytes([port[0], port[1]])))
}

#[test]
fn requests_to_other_hosts_use_the_proxy_of_the_environment() {
    if !has_programs(&["openssl", "python3"]) {
        return;
    }
    for variable in ["HTTPS_PROXY", "ALL_PROXY"] {
        let machine = logged_in_to(&format!("https://{NAME}"));
        let secured = Secured::start(&machine, 1);
        let proxy = Proxy::start(secured.port, connect, b"HTTP/1.1 200 Connected\r\n\r\n");
        let machine = machine.variable("QWENAUTH_CA_FILE", &secured.ca);
        let machine = machine.variable(variable, format!("http://{}", proxy.address));
        assert_eq!(Gateway::start(&machine, &[]).chat().is(200).json()["over"], "tls");
        assert_eq!(proxy.asked(), [format!("CONNECT {NAME}:443 HTTP/1.1")]);
        assert!(secured.was_asked());
    }
}

#[test]
fn a_socks_proxy_resolves_the_names_of_other_hosts() {
    if !has_programs(&["openssl", "python3"]) {
        return;
    }
    let machine = logged_in_to(&format!("https://{NAME}"));
    let secured = Secured::start(&machine, 1);
    let proxy = Proxy::start(secured.port, socks, &[5, 0, 0, 1, 127, 0, 0, 1, 0, 0]);
    let machine = machine.variable("QWENAUTH_CA_FILE", &secured.ca);
    let machine = machine.variable("ALL_PROXY", format!("socks5h://{}", proxy.address));
    assert_eq!(Gateway::start(&machine, &[]).chat().is(200).json()["over"], "tls");
    assert_eq!(proxy.asked(), [format!("{NAME}:443")]);
    assert!(secured.was_asked());
}

#[test]
fn requests_to_loopback_never_use_a_proxy() {
    let upstream = Upstream::always(fine());
    let proxy = Upstream::always(fine());
    let url = format!("http://{}", proxy.address);
    let machine = ["http_proxy", "HTTPS_PROXY", "ALL_PROXY"]
        .into_iter()
        .fold(logged_in(&upstream), |machine, name| machine.variable(name, &url));
    Gateway::start(&machine, &[]).chat().is(200);
    assert_eq!((upstream.asked().len(), proxy.asked().len()), (1, 0));
}

#[test]
fn the_error_names_a_host_that_does_not_resolve() {
    let machine = logged_in_to("https://nowhere.invalid");
    let got = Gateway::start(&machine, &[]).chat();
    assert_eq!(got.is(502).code(), "upstream_unreachable");
    assert!(got.text().contains("failed to lookup address"), "{}", got.text());
}

#[test]
fn requests_pass_while_the_disk_is_full() {
    if !has_programs(&["curl"]) {
        return;
    }
    let can_mount = Command::new("unshare").args(["-rm", "sh", "-c", "mount -t tmpfs none /mnt"]).output();
    if !possible(can_mount.is_ok_and(|output| output.status.success()), "mount") {
        return;
    }
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    fs::create_dir_all(machine.home().join(".local/state")).unwrap();
    let ask = r#"curl -sf -o /dev/null -H "Authorization: Bearer $OPENAI_API_KEY" "$OPENAI_BASE_URL/models""#;
    let script = format!(
        "mount -t tmpfs -o size=64k none $HOME/.local/state || exit 98
        mkdir -m 700 $HOME/.local/state/qwenauth
        while head -c 4096 /dev/zero >> $HOME/.local/state/filler; do :; done 2> /dev/null
        $QWENAUTH exec --gateway -- sh -c '{ask} && {ask} && {ask}' || exit 97
        rm $HOME/.local/state/filler
        $QWENAUTH exec --gateway -- sh -c '{ask}' || exit 96
        $QWENAUTH usage --json"
    );
    let mut unshare = machine.other("unshare");
    unshare.args(["-rm", "sh", "-c", &script]);
    let mut outcome = machine.start(unshare).finish().any_stderr();
    assert_eq!(outcome.json()["usage"][0]["requests"], 1);
    assert_eq!(upstream.asked().len(), 4);
}

#[test]
fn usage_shows_what_openrouter_says_a_key_has_left() {
    let config = "[providers.openrouter]\nbase_url = \"{server}/api/v1\"\n";
    let machine = Machine::new().configured(config);
    machine.server.serve("/api/v1/key", |request| {
        assert_eq!(request.bearer(), "granted-key-1");
        let free = json!({"limit": 50, "remaining": 40});
        let data = json!({"limit": 5.0, "limit_remaining": 1.25, "free_model_daily_requests": free});
        crate::server::Reply::json(200, json!({ "data": data }))
    });
    let login = crate::keys::by_stdin("openrouter", &[]);
    drop(machine.run_with_stdin(login, b"granted-key-1\n").exits(0).any_stderr());
    let unasked = machine.run(["usage", "--json"]).json()["limits"].clone();
    assert!(!unasked.to_string().contains("cents"), "{unasked}");
    let limits = machine.run(["usage", "--check", "--json"]).json()["limits"].clone();
    let left = |name: &str| {
        let stated = limits.as_array().unwrap().iter().find(|limit| limit["name"] == name).unwrap();
        (stated["limit"].clone(), stated["remaining"].clone(), stated["source"].clone())
    };
    assert_eq!(left("credits of the key, in cents"), (500.into(), 125.into(), "provider".into()));
    assert_eq!(left("requests per day, free models"), (50.into(), 40.into(), "provider".into()));
    // A key that a command prints, while the active profile is broken.
    let by_command = ["login", "openrouter", "--force", "--no-verify", "--api-key-command", "echo granted-key-1"];
    drop(machine.run(by_command).any_stderr());
    let machine = machine.variable("QWENAUTH_API_KEY", " ");
    assert_eq!(machine.run(["usage", "--check", "--json"]).json()["limits"], limits);
}
