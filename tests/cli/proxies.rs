//! `doctor` and the proxies' variables: which one is in force, and which one broke; held against where requests really go.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::faults::preloaded;
use crate::machine::{Machine, possible, until, write_private};
use crate::server::Reply;

/// A TLS server that answers every request with a page.
struct Tls {
    child: Child,
    port: u16,
}

impl Tls {
    fn start(machine: &Machine) -> Self {
        let script = "openssl req -x509 -newkey rsa:2048 -nodes -keyout api.key -out api.pem -days 2 -subj /CN=api.example \
                      -addext subjectAltName=DNS:api.example -addext basicConstraints=critical,CA:FALSE";
        let made = Command::new("sh").args(["-c", script]).current_dir(machine.directory()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("openssl")
            .args(["s_server", "-quiet", "-www", "-cert", "api.pem", "-key", "api.key"])
            .args(["-accept", &format!("127.0.0.1:{port}")])
            .current_dir(machine.directory())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("the TLS server listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { child, port }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A key for `https://api.example`, which is on this machine and trusted, but not called so: proxies count.
fn with_an_api() -> Option<(Machine, Tls)> {
    if !possible(Command::new("openssl").arg("version").output().is_ok(), "run openssl") {
        return None;
    }
    let machine = preloaded(Machine::new(), "HOSTS", ".example")?;
    let server = Tls::start(&machine);
    let certificate = machine.directory().join("api.pem");
    let key = json!({
        "provider": "custom", "api_key": "granted-key-1", "model": "m",
        "base_url": format!("https://api.example:{}/v1", server.port),
    });
    write_private(&machine.profiles().join("custom.json"), key.to_string());
    Some((machine.variable("QWENAUTH_PROFILE", "custom").variable("QWENAUTH_CA_FILE", certificate), server))
}

/// A proxy that answers so, or, with nothing to answer, leads to the port that is asked for on this machine.
struct Proxy {
    port: u16,
    asked: Arc<AtomicUsize>,
}

impl Proxy {
    fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        // It ends with the tests.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || drop(serve(&stream, answer)));
            }
        });
        Self { port, asked }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn was_asked(&self) -> bool {
        self.asked.swap(0, Ordering::SeqCst) > 0
    }
}

fn serve(mut stream: &TcpStream, answer: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::from(" ");
    while !line.trim().is_empty() {
        line.clear();
        reader.read_line(&mut line)?;
    }
    if !answer.is_empty() {
        return stream.write_all(answer.as_bytes());
    }
    let port: u16 = first.split([' ', ':']).nth(2).and_then(|port| port.parse().ok()).unwrap_or_default();
    let target = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    thread::scope(|scope| {
        scope.spawn(|| pour(stream, &target));
        pour(&target, stream);
    });
    Ok(())
}

fn pour(mut from: &TcpStream, mut into: &TcpStream) {
    let mut part = [0; 4096];
    while let Ok(count) = from.read(&mut part)
        && count > 0
        && into.write_all(&part[..count]).is_ok()
    {}
    drop(into.shutdown(std::net::Shutdown::Write));
}

/// The checks of these names: status, message, remedy.
#[track_caller]
fn checks(machine: &Machine, names: &[&str]) -> Vec<(String, String, String)> {
    let mut outcome = machine.run(["doctor", "--json"]).any_stderr();
    let report = outcome.json();
    let all = report["checks"].as_array().unwrap();
    drop(outcome.exits(i32::from(all.iter().any(|check| check["status"] == "fail"))));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of_name = all.iter().filter(|check| names.iter().any(|name| check["name"] == *name));
    of_name.map(|check| (text(&check["status"]), text(&check["message"]), text(&check["remedy"]))).collect()
}

fn with(machine: Machine, variables: &[(&str, &str)]) -> Machine {
    variables.iter().fold(machine, |machine, (name, value)| machine.variable(*name, *value))
}

const VARIABLES: [&str; 9] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "REQUEST_METHOD",
];

/// Each variable's proxy is one of its own: where a request really arrives is what `doctor` must have named.
#[test]
fn the_variable_in_force_is_the_one_whose_proxy_is_asked() {
    let Some((mut machine, _server)) = with_an_api() else { return };
    let proxies = [const { "HTTP/1.1 502 No\r\n\r\n" }; 6].map(Proxy::start);
    let names = &VARIABLES[..6];
    let own = "own";
    for (variables, in_force) in [
        (&[("HTTPS_PROXY", own), ("https_proxy", own), ("ALL_PROXY", own)][..], "HTTPS_PROXY"),
        (&[("https_proxy", own), ("ALL_PROXY", own), ("HTTP_PROXY", own)], "https_proxy"),
        (&[("ALL_PROXY", own), ("all_proxy", own)], "ALL_PROXY"),
        (&[("all_proxy", own)], "all_proxy"),
        (&[("HTTP_PROXY", own), ("http_proxy", own)], ""),
        (&[("HTTPS_PROXY", "http://[::bad"), ("https_proxy", own), ("ALL_PROXY", own)], "ALL_PROXY"),
        (&[("HTTPS_PROXY", "ftp://127.0.0.1"), ("https_proxy", own)], ""),
        (&[("HTTPS_PROXY", ""), ("https_proxy", own), ("all_proxy", own)], "all_proxy"),
        (&[("HTTPS_PROXY", own), ("NO_PROXY", "")], "HTTPS_PROXY"),
        (&[("HTTPS_PROXY", own), ("NO_PROXY", ""), ("no_proxy", "api.example")], "HTTPS_PROXY"),
        (&[("HTTPS_PROXY", own), ("NO_PROXY", "other.example, example")], "NO_PROXY"),
        (&[("HTTPS_PROXY", own), ("no_proxy", "*")], "no_proxy"),
        (&[("HTTPS_PROXY", own), ("REQUEST_METHOD", "GET")], ""),
        (&[], ""),
    ] {
        machine = VARIABLES.iter().fold(machine, |machine, name| machine.without_variable(name));
        for (name, value) in variables {
            let index = names.iter().position(|known| known == name).unwrap_or_default();
            let value = if *value == own { proxies[index].url() } else { (*value).to_owned() };
            machine = machine.variable(*name, value);
        }
        let told: Vec<String> = checks(&machine, &["proxy"]).into_iter().map(|check| check.1).collect();
        let through = told
            .iter()
            .find_map(|told| told.strip_prefix("`api.example` is reached through `"))
            .or_else(|| told.iter().find_map(|told| told.strip_prefix("`api.example` is reached directly, because `")));
        let named = through.map_or("", |told| told.split('`').next().unwrap());
        assert_eq!(named, in_force, "{variables:?}: {told:?}");
        for proxy in &proxies {
            proxy.was_asked();
        }
        drop(machine.run(["status", "--check"]).any_stdout().any_stderr());
        let asked: Vec<&str> =
            names.iter().zip(&proxies).filter(|(_, proxy)| proxy.was_asked()).map(|(name, _)| *name).collect();
        let expected: Vec<&str> = names.iter().copied().filter(|name| *name == in_force).collect();
        assert_eq!(asked, expected, "{variables:?}");
    }
}

#[test]
fn the_other_variables_are_named_as_not_used_and_no_password_is_shown() {
    let Some((machine, _server)) = with_an_api() else { return };
    let proxy = Proxy::start("");
    let address = format!("http://me:hunter2@127.0.0.1:{}", proxy.port);
    let machine = with(machine, &[("HTTPS_PROXY", &address), ("ALL_PROXY", &address), ("all_proxy", &address)]);
    let told = format!(
        "`api.example` is reached through `HTTPS_PROXY`, `http://127.0.0.1:{}`; not used: `ALL_PROXY`, `all_proxy`",
        proxy.port
    );
    assert_eq!(checks(&machine, &["proxy"]), [("ok".into(), told, String::new())]);
    let outcome = machine.run(["doctor"]).any_stdout().any_stderr();
    assert!(!outcome.stdout.contains("hunter2"), "{outcome}");
}

/// Each way a proxy can break is told, and that the way without it works; both remedies do what they say.
#[test]
fn a_broken_proxy_is_distinguished_from_a_broken_network() {
    let Some((machine, _server)) = with_an_api() else { return };
    let [wants, refuses, speaks] = [
        "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
    ]
    .map(Proxy::start);
    let mut machine = machine;
    for (variable, value, why) in [
        ("HTTPS_PROXY", "http://127.0.0.1:9".to_owned(), "refused the connection"),
        ("https_proxy", "http://nowhere.invalid:3128".to_owned(), "has a host name that does not resolve"),
        ("ALL_PROXY", "socks5h://127.0.0.1:9".to_owned(), "refused the connection"),
        ("all_proxy", wants.url(), "requires a user name and password (407)"),
        ("HTTPS_PROXY", refuses.url(), "refused to connect (403 Forbidden)"),
        ("HTTPS_PROXY", speaks.url(), "does not respond like a proxy"),
    ] {
        machine = machine.variable(variable, &value);
        let broken: Vec<_> = checks(&machine, &["proxy", "network"]).into_iter().filter(|it| it.0 != "ok").collect();
        assert_eq!(broken.len(), 1, "{broken:?}");
        let (status, message, remedy) = &broken[0];
        let told = format!("the proxy of `{variable}`, `{value}`, {why}; `api.example` responds directly in ");
        assert!(status == "fail" && message.starts_with(&told), "{broken:?}");
        let remedy_told = format!("`unset {variable}`, or add `api.example` to `NO_PROXY`; ");
        assert!(remedy.starts_with(&remedy_told), "{remedy}");
        machine = machine.variable("NO_PROXY", "api.example");
        let except = checks(&machine, &["proxy", "network"]);
        assert!(except.iter().all(|check| check.0 == "ok"), "{except:?}");
        machine = machine.without_variable("NO_PROXY").without_variable(variable);
        let unset = checks(&machine, &["proxy", "network"]);
        assert!(unset.len() == 1 && unset[0].0 == "ok", "{unset:?}");
    }
}

#[test]
fn the_password_that_a_proxy_wants_is_the_remedy() {
    let Some((machine, server)) = with_an_api() else { return };
    let proxy = Proxy::start("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
    let broken = checks(&machine.variable("HTTPS_PROXY", proxy.url()), &["proxy"]);
    let remedy = &broken.last().unwrap().2;
    let told = format!("`export HTTPS_PROXY=http://USER:PASSWORD@127.0.0.1:{}`", proxy.port);
    assert!(remedy.contains(&told), "{remedy}");
    drop(server);
}

#[test]
fn a_server_unreachable_with_and_without_the_proxy_is_not_blamed_on_the_proxy() {
    let Some((machine, server)) = with_an_api() else { return };
    drop(server);
    let broken = checks(&machine.variable("HTTPS_PROXY", "http://127.0.0.1:9"), &["proxy"]);
    let told = "the proxy of `HTTPS_PROXY`, `http://127.0.0.1:9`, refused the connection; `api.example` cannot be reached directly either";
    assert_eq!(broken.last().unwrap().1, told);
}

#[test]
fn a_working_proxy_is_not_blamed_for_a_failing_server() {
    let Some((machine, server)) = with_an_api() else { return };
    let proxy = Proxy::start("");
    let machine = machine.variable("HTTPS_PROXY", proxy.url());
    let all = checks(&machine, &["proxy", "network"]);
    assert!(all.len() == 2 && all.iter().all(|check| check.0 == "ok"), "{all:?}");
    // The proxy leads there, and what is there is not trusted.
    let machine = machine.without_variable("QWENAUTH_CA_FILE");
    let broken = checks(&machine, &["proxy"]);
    let (_, message, remedy) = broken.last().unwrap();
    assert!(message.starts_with("no usable response from `api.example`: its certificate"), "{message}");
    assert!(remedy.contains("`QWENAUTH_CA_FILE`"), "{remedy}");
    drop(server);
}

#[test]
fn an_invalid_proxy_address_and_differing_variables_are_reported_with_their_remedy() {
    let Some((machine, _server)) = with_an_api() else { return };
    for (variables, message) in [
        (&[("HTTPS_PROXY", "http://[::bad")][..], "`HTTPS_PROXY` is not a valid proxy address and is ignored"),
        (&[("all_proxy", "ftp://proxy")], "`all_proxy` is not a valid proxy address and is ignored"),
        (
            &[("no_proxy", "a.example"), ("NO_PROXY", "b.example")],
            "`NO_PROXY` and `no_proxy` differ: qwenauth uses the first, curl and Python the second",
        ),
        (
            &[("REQUEST_METHOD", "GET"), ("HTTP_PROXY", "http://127.0.0.1:9")],
            "`REQUEST_METHOD` is set, as for a CGI program, so proxy variables are ignored",
        ),
    ] {
        let machine = with(with_an_api().unwrap().0, variables);
        let told = checks(&machine, &["proxy"]);
        assert!(told.iter().any(|check| check.1 == message && check.0 != "ok"), "{told:?}");
        // The remedy is a command for a shell, or what to write instead.
        let remedy = told.iter().find(|check| check.1 == message).unwrap().2.clone();
        let command = remedy.split('`').find(|part| part.starts_with("unset ") || part.starts_with("export ")).unwrap();
        let mut outcome = machine.shell(&format!("{command}; exec $QWENAUTH doctor --json")).any_stderr();
        let after = outcome.json().to_string();
        drop(outcome.any_stdout().exits(i32::from(after.contains(r#""status":"fail""#))));
        assert!(!after.contains(message), "{command}: {after}");
    }
    drop(machine);
}

/// What `exec` starts has rules of its own: most programs send even this machine's requests through `HTTP_PROXY`.
#[test]
fn a_local_server_that_programs_would_reach_through_a_proxy_is_reported() {
    let machine = Machine::new().logged_in().field("resource_url", json!("{server}"));
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    machine.server.serve("/v1/chat/completions", |_| Reply::json(200, json!({"choices": []})));
    let machine = machine.variable("HTTP_PROXY", "http://127.0.0.1:9");
    let told = checks(&machine, &["proxy", "network"]);
    let what = "other programs reach `127.0.0.1` through the proxy in `HTTP_PROXY`; qwenauth does not";
    assert_eq!((told[0].0.as_str(), told[0].1.as_str()), ("warn", what), "{told:?}");
    assert_eq!(told[1].0, "ok", "{told:?}");
    let command = told[0].2.split('`').nth(1).unwrap();
    machine.shell(&format!("{command}; $QWENAUTH doctor | grep -c '^warn'")).exits(1).stdout("0\n");
}

/// A connection is for one host: proxies, certificates and what counts as this machine differ between two.
#[test]
fn a_login_polls_another_host_by_the_proxy_of_that_host() {
    let Some(machine) = preloaded(Machine::new(), "HOSTS", ".example") else { return };
    let proxy = Proxy::start("HTTP/1.1 502 No\r\n\r\n");
    let machine = machine
        .variable("HTTPS_PROXY", proxy.url())
        .configured("[providers.corp]\nissuer = \"{server}\"\nclient_id = \"us\"\nbase_url = \"{server}/v1\"\n");
    let url = machine.server.url();
    let document = json!({
        "issuer": url, "device_authorization_endpoint": format!("{url}/device"), "token_endpoint": "https://token.example/t",
    });
    machine.server.serve("/.well-known/openid-configuration", move |_| Reply::json(200, document.clone()));
    let code = json!({
        "device_code": "granted-device", "user_code": "AB", "verification_uri": "https://corp.example/device", "interval": 0,
    });
    machine.server.serve("/device", move |_| Reply::json(200, code.clone()));
    let running = machine.spawn(["login", "corp"]);
    until("a poll goes through the proxy", || proxy.asked.load(Ordering::SeqCst) > 0);
    running.signal(Signal::SIGINT);
    drop(running.finish().dies_by(Signal::SIGINT).any_stderr());
}
