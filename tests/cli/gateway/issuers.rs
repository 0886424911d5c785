//! `[[team.issuers]]`: the token of a CI job as a key. The issuer is a strict fake whose tokens are really signed.

use std::fmt::Write;
use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use nix::sys::signal::Signal;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};

use super::team_keys::{chat, create, is_refused, printed, send, start};
use super::upstream::{Client, Gateway, Got, Upstream, fine, logged_in};
use crate::machine::{Machine, each_path, has_programs, now_ms, until, write_private};
use crate::server::Reply;

const AUDIENCE: &str = "https://qwen.corp.example";
const DISCOVERY: &str = "/.well-known/openid-configuration";
const KEYS: &str = "/jwks";

/// The rule of these tests.
fn rule(server: &str) -> String {
    format!(
        "[[team.issuers]]\nissuer = \"{server}\"\naudience = \"{AUDIENCE}\"\n\
         claims = {{ repository_owner = \"corp\", ref = \"refs/heads/main\" }}\nkey = \"ci\"\n"
    )
}

/// A key pair that signs tokens.
enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

struct Signer {
    id: &'static str,
    pair: Pair,
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    fn ec(id: &'static str) -> Self {
        let random = SystemRandom::new();
        let bytes = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes.as_ref(), &random).unwrap();
        Self { id, pair: Pair::Ec(pair) }
    }

    fn ed(id: &'static str) -> Self {
        let bytes = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self { id, pair: Pair::Ed(Ed25519KeyPair::from_pkcs8(bytes.as_ref()).unwrap()) }
    }

    /// `ring` makes none of this kind.
    fn rsa(id: &'static str) -> Self {
        let words = ["genpkey", "-algorithm", "RSA", "-outform", "DER", "-pkeyopt", "rsa_keygen_bits:2048"];
        let made = Command::new("openssl").args(words).output().unwrap();
        // Which of the two forms it prints depends on its version.
        let pair = RsaKeyPair::from_pkcs8(&made.stdout).or_else(|_| RsaKeyPair::from_der(&made.stdout));
        Self { id, pair: Pair::Rsa(pair.unwrap()) }
    }

    fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::Ec(_) => "ES256",
            Pair::Ed(_) => "EdDSA",
        }
    }

    /// The key as an issuer publishes it.
    fn published(&self) -> Value {
        let mut key = match &self.pair {
            Pair::Rsa(pair) => {
                let parts = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({ "kty": "RSA", "n": encoded(parts.n), "e": encoded(parts.e), "use": "sig" })
            }
            Pair::Ec(pair) => {
                let point = pair.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "x": encoded(&point[1..33]), "y": encoded(&point[33..]) })
            }
            Pair::Ed(pair) => json!({ "kty": "OKP", "crv": "Ed25519", "x": encoded(pair.public_key()) }),
        };
        (key["kid"], key["alg"]) = (json!(self.id), json!(self.algorithm()));
        key
    }

    fn token(&self, claims: &Value) -> String {
        self.signed(&json!({ "typ": "JWT", "alg": self.algorithm(), "kid": self.id }), claims)
    }

    /// A token with any head.
    fn signed(&self, head: &Value, claims: &Value) -> String {
        let text = format!("{}.{}", encoded(head.to_string()), encoded(claims.to_string()));
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut signature).unwrap();
                signature
            }
            Pair::Ec(pair) => pair.sign(&random, text.as_bytes()).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(text.as_bytes()).as_ref().to_vec(),
        };
        format!("{text}.{}", encoded(signature))
    }
}

/// The issuer's keys, made once for all tests.
fn signers() -> &'static [Signer; 3] {
    static SIGNERS: OnceLock<[Signer; 3]> = OnceLock::new();
    SIGNERS.get_or_init(|| [Signer::rsa("rsa-1"), Signer::ec("ec-1"), Signer::ed("ed-1")])
}

/// What a job of the main branch of `corp/api` says.
fn claims(server: &str) -> Value {
    let now = now_ms() / 1000;
    json!({
        "iss": server, "aud": AUDIENCE, "sub": "repo:corp/api:ref:refs/heads/main", "jti": format!("{:x}", rand::random::<u64>()),
        "iat": now, "nbf": now - 5, "exp": now + 300,
        "repository": "corp/api", "repository_owner": "corp", "ref": "refs/heads/main",
    })
}

/// A machine with a gateway's configuration, and an issuer that publishes `keys`.
pub(crate) struct Team {
    pub(crate) machine: Machine,
    keys: Arc<Mutex<Vec<Value>>>,
}

impl Team {
    pub(crate) fn new(upstream: &Upstream) -> Self {
        let machine = logged_in(upstream);
        let server = machine.server.url();
        let machine = machine.configured(&rule(&server));
        let document = json!({ "issuer": server, "jwks_uri": format!("{server}{KEYS}") });
        machine.server.serve(DISCOVERY, move |_| Reply::json(200, document.clone()));
        let keys = Arc::new(Mutex::new(signers().iter().map(Signer::published).collect::<Vec<_>>()));
        let served = Arc::clone(&keys);
        machine.server.serve(KEYS, move |_| Reply::json(200, json!({ "keys": *served.lock().unwrap() })));
        create(&machine, &["ci", "--rpm", "1000"]);
        Self { machine, keys }
    }

    /// A token of a job of the main branch.
    pub(crate) fn token(&self) -> String {
        signers()[0].token(&self.claims())
    }

    fn claims(&self) -> Value {
        claims(&self.machine.server.url())
    }

    /// How often the issuer was asked for its keys.
    fn looked_up(&self) -> usize {
        self.machine.server.at(KEYS).len()
    }
}

#[test]
fn the_token_of_a_job_is_a_key_and_is_not_stored_logged_or_forwarded() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let team = Team::new(&upstream);
    let machine = team.machine.variable("QWENAUTH_LOG", "trace");
    let log = machine.directory().join("requests.jsonl");
    let gateway = start(&machine, &["--log", log.to_str().unwrap()]);
    let tokens: Vec<String> = signers().iter().map(|signer| signer.token(&claims(&machine.server.url()))).collect();
    for token in &tokens {
        chat(&gateway, token).is(200);
        let head = format!(
            "GET /v1/models HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nx-api-key: {token}\r\n\r\n",
            gateway.address
        );
        Client::send(&gateway.address, head.as_bytes()).got().is(200);
    }
    let key = send(&gateway, &tokens[0], "GET /v1/key", b"").json()["data"].clone();
    assert_eq!((&key["label"], &key["owner"]), (&json!("ci"), &json!("corp/api")));
    assert_eq!(key["requests_per_minute"]["limit"], 1000);
    assert_eq!(machine.server.at(KEYS).len(), 1, "the keys are known after the first token");
    let used = printed(&machine, &["usage", "--team", "--by", "owner", "--json"]);
    assert!(used.contains("corp/api"), "{used}");
    gateway.running.signal(Signal::SIGTERM);
    let outcome = gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout().any_stderr();
    let mut texts = vec![format!("{outcome}"), format!("{:?}", upstream.asked())];
    each_path(machine.directory(), &mut |path| {
        if path.is_file() {
            texts.push(String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned());
        }
    });
    for (token, text) in tokens.iter().flat_map(|token| texts.iter().map(move |text| (token, text))) {
        let parts: Vec<&str> = token.split('.').collect();
        assert!(!text.contains(parts[1]) && !text.contains(parts[2]), "{text}");
    }
    let line: Value = serde_json::from_str(fs::read_to_string(&log).unwrap().lines().next().unwrap()).unwrap();
    assert_eq!(line["key"], key["id"]);
}

/// Tokens that no gateway may accept, and why.
fn bad_tokens(server: &str) -> Vec<(String, String)> {
    let [rsa, ec, ed] = signers();
    let good = claims(server);
    let mut bad = Vec::new();
    let mut is_bad = |why: &str, token: String| bad.push((why.to_owned(), token));
    let now = now_ms() / 1000;
    for (name, value) in [
        ("aud", json!("https://other.example")),
        ("aud", json!(["https://other.example"])),
        ("exp", json!(now - 61)),
        ("exp", json!(null)),
        ("nbf", json!(now + 120)),
        ("ref", json!("refs/heads/mainline")),
        ("ref", json!("refs/heads/main ")),
        ("repository_owner", json!("corp-evil")),
        ("repository_owner", json!(["corp"])),
        ("iss", json!("https://issuer.example")),
        ("iss", json!(null)),
    ] {
        let mut claims = good.clone();
        claims[name] = value.clone();
        is_bad(&format!("{name} {value}"), ec.token(&claims));
        let without = claims.as_object_mut().unwrap().shift_remove(name);
        if name != "nbf" {
            is_bad(&format!("no {name} ({without:?})"), ec.token(&claims));
        }
    }
    let parts = |head: Value| format!("{}.{}", encoded(head.to_string()), encoded(good.to_string()));
    for alg in ["none", "NONE", ""] {
        is_bad("unsigned", format!("{}.", parts(json!({ "alg": alg, "kid": "rsa-1" }))));
    }
    // The public key as the secret of an HMAC, in the forms that a careless library would take it.
    let Pair::Rsa(pair) = &rsa.pair else { panic!() };
    let public = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(pair.public());
    let published = rsa.published().to_string();
    for secret in [pair.public().as_ref(), &public.n, published.as_bytes(), b""] {
        let text = parts(json!({ "alg": "HS256", "kid": "rsa-1", "typ": "JWT" }));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text.as_bytes());
        is_bad("an HMAC", format!("{text}.{}", encoded(tag)));
    }
    for (signer, alg, kid) in [
        (rsa, "ES256", "rsa-1"),
        (rsa, "RS256", "ec-1"),
        (ec, "ES256", "ed-1"),
        (ec, "EdDSA", "ed-1"),
        (ec, "RS256", "ec-1"),
        (ed, "ES256", "ed-1"),
        (rsa, "PS256", "rsa-1"),
        (rsa, "RS256", "unknown"),
    ] {
        is_bad(&format!("{alg} by {kid}"), signer.signed(&json!({ "alg": alg, "kid": kid }), &good));
    }
    is_bad("no kid, a key of its own", Signer::ec("mine").signed(&json!({ "alg": "ES256" }), &good));
    is_bad("crit", rsa.signed(&json!({ "alg": "RS256", "kid": "rsa-1", "crit": ["exp"] }), &good));
    is_bad("a key of its own", Signer::ec("ec-1").token(&good));
    let own = Signer::ec("mine");
    is_bad("a key in the token", own.signed(&json!({ "alg": "ES256", "kid": "ec-1", "jwk": own.published() }), &good));
    let genuine = ec.token(&good);
    let (text, signature) = genuine.rsplit_once('.').unwrap();
    is_bad("another's claims", format!("{}.{signature}", parts(json!({ "alg": "ES256", "kid": "ec-1" }))));
    is_bad("a part more", format!("{genuine}.{signature}"));
    is_bad("no signature", format!("{text}."));
    let mut long = good.clone();
    long["padding"] = "x".repeat(16 * 1024).into();
    is_bad("oversized", rsa.token(&long));
    bad
}

#[test]
fn a_token_that_is_not_a_genuine_one_of_an_allowed_job_is_rejected() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let team = Team::new(&upstream);
    let gateway = start(&team.machine, &[]);
    for (why, token) in bad_tokens(&team.machine.server.url()) {
        let got = chat(&gateway, &token);
        assert_eq!(got.status, 401, "{why}: {}", got.text());
        let code = got.code();
        assert!(code == "invalid_token" || code == "invalid_api_key", "{why}: {}", got.text());
        let signature = token.rsplit('.').next().unwrap();
        assert!(signature.len() < 8 || !got.text().contains(signature), "{why}: {}", got.text());
        let exchanged = exchange(&gateway, &token);
        assert_eq!((exchanged.status, &exchanged.json()["error"]), (400, &json!("invalid_request")), "{why}");
    }
    assert!(upstream.asked().is_empty());
    // The same without anything wrong, also where no key is named.
    chat(&gateway, &signers()[1].token(&team.claims())).is(200);
    chat(&gateway, &signers()[0].signed(&json!({ "alg": "RS256" }), &team.claims())).is(200);
}

#[test]
fn a_weak_key_of_an_issuer_verifies_nothing() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let team = Team::new(&upstream);
    let text = format!("{}.{}", encoded(r#"{"alg":"RS256","kid":"rsa-1"}"#), encoded(team.claims().to_string()));
    write_private(&team.machine.directory().join("text"), &text);
    let script = "openssl genrsa -out weak.pem 1024 2>&1 && openssl dgst -sha256 -sign weak.pem -out signature text &&
        openssl dgst -sha256 -prverify weak.pem -signature signature text && openssl rsa -in weak.pem -noout -modulus 2>&1";
    let made = team.machine.shell(script).exits(0).any_stdout();
    assert!(made.stdout.contains("Verified OK"), "{made}");
    let digits = made.stdout.trim().rsplit_once("Modulus=").unwrap().1;
    let modulus: Vec<u8> =
        (0..digits.len() / 2).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()).collect();
    assert_eq!(modulus.len(), 128);
    team.keys.lock().unwrap()[0] = json!({ "kty": "RSA", "kid": "rsa-1", "n": encoded(&modulus), "e": "AQAB" });
    let token = format!("{text}.{}", encoded(fs::read(team.machine.directory().join("signature")).unwrap()));
    let gateway = start(&team.machine, &[]);
    is_refused(&chat(&gateway, &token), 401, "invalid_token");
    chat(&gateway, &signers()[2].token(&team.claims())).is(200);
}

#[test]
fn many_tokens_with_unknown_keys_cause_one_request_to_the_issuer() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let team = Team::new(&upstream);
    let gateway = start(&team.machine, &[]);
    let ids: Vec<&'static str> = (0..40).map(|number| &*format!("unknown-{number}").leak()).collect();
    let claims = team.claims();
    thread::scope(|scope| {
        for id in ids {
            let (gateway, claims) = (&gateway, &claims);
            scope.spawn(move || is_refused(&chat(gateway, &Signer::ec(id).token(claims)), 401, "invalid_token"));
        }
    });
    assert_eq!(team.looked_up(), 1);
    // Keys that are known are not in the way of anybody, and need no further look.
    chat(&gateway, &signers()[1].token(&claims)).is(200);
    assert_eq!((team.looked_up(), team.machine.server.at(DISCOVERY).len()), (1, 1));
}

#[test]
fn an_unreachable_issuer_is_retried_and_no_token_is_accepted_meanwhile() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let team = Team::new(&upstream);
    let keys = Arc::clone(&team.keys);
    let is_away = Arc::new(Mutex::new(true));
    let away = Arc::clone(&is_away);
    team.machine.server.serve(KEYS, move |_| {
        if *away.lock().unwrap() {
            Reply::html(502)
        } else {
            Reply::json(200, json!({ "keys": *keys.lock().unwrap() }))
        }
    });
    let gateway = start(&team.machine, &[]);
    let token = signers()[1].token(&team.claims());
    let got = chat(&gateway, &token);
    is_refused(&got, 503, "issuer_unavailable");
    assert_eq!(got.header("retry-after"), "5");
    let exchanged = exchange(&gateway, &token);
    assert_eq!((exchanged.status, exchanged.header("retry-after")), (503, "5"), "{}", exchanged.text());
    assert_eq!(team.looked_up(), 1, "a failure is not asked for again at once");
    *is_away.lock().unwrap() = false;
    until("the issuer is asked again", || chat(&gateway, &token).status == 200);
    assert!(upstream.asked().len() == 1 && team.looked_up() == 2);
}

#[test]
fn metadata_that_names_another_issuer_is_rejected() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let team = Team::new(&upstream);
    let server = team.machine.server.url();
    let document = json!({ "issuer": "https://issuer.example", "jwks_uri": format!("{server}{KEYS}") });
    team.machine.server.serve(DISCOVERY, move |_| Reply::json(200, document.clone()));
    let gateway = start(&team.machine, &[]);
    is_refused(&chat(&gateway, &signers()[1].token(&team.claims())), 503, "issuer_unavailable");
    assert_eq!(team.looked_up(), 0);
}

#[test]
fn a_rule_that_would_accept_every_job_is_rejected_at_the_start() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let config = machine.config();
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    let narrow = "claims = { repository_owner = \"corp\" }\n";
    let entry = |more: &str| format!("[[team.issuers]]\nissuer = \"https://issuer.example\"\n{more}");
    for (text, why) in [
        (entry("audience = \"a\"\nkey = \"ci\"\n"), "accepts every job of `https://issuer.example`"),
        (entry("audience = \"a\"\nkey = \"ci\"\nclaims = {}\n"), "accepts every job"),
        (entry("audience = \"a\"\nkey = \"ci\"\nclaims = { aud = \"a\", iss = \"x\" }\n"), "accepts every job"),
        (entry("audience = \"a\"\nkey = \"ci\"\nclaims = { sub = [\"a\"] }\n"), "is invalid"),
        (entry(&format!("key = \"ci\"\n{narrow}")), "has no `audience`"),
        (entry(&format!("audience = \"a\"\n{narrow}")), "has no `key`"),
        (entry(&format!("audience = 1\nkey = \"ci\"\n{narrow}")), "`team.issuers.audience`"),
        (
            entry(&format!("audience = \"a\"\nkey = \"ci\"\n{narrow}")).replace("https", "http"),
            "plain `http` is allowed for loopback only",
        ),
        ("[team]\nissuers = 5\n".to_owned(), "`team.issuers`"),
    ] {
        fs::write(&config, text).unwrap();
        let outcome = machine.run(["gateway", "--keys"]).exits(1).any_stderr();
        assert!(outcome.stderr.contains(why), "{why}: {outcome}");
    }
}

/// Posts a form to `/v1/token` without any key.
fn post(gateway: &Gateway, fields: &[(&str, &str)]) -> Got {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let head = format!(
        "POST /v1/token HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n",
        gateway.address,
        body.len()
    );
    Client::send(&gateway.address, (head + &body).as_bytes()).got()
}

const GRANT: (&str, &str) = ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange");
const JWT: (&str, &str) = ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt");

fn exchange(gateway: &Gateway, token: &str) -> Got {
    post(gateway, &[GRANT, JWT, ("subject_token", token)])
}

fn job_key(gateway: &Gateway, token: &str) -> String {
    let got = exchange(gateway, token);
    got.is(200);
    got.json()["access_token"].as_str().unwrap().to_owned()
}

#[test]
fn a_token_is_exchanged_for_a_key_of_an_hour_at_most() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let team = Team::new(&upstream);
    let gateway = start(&team.machine, &[]);
    let token = signers()[0].token(&team.claims());
    let got = exchange(&gateway, &token);
    got.is(200);
    let granted = got.json();
    assert_eq!((&granted["token_type"], got.header("cache-control")), (&json!("Bearer"), "no-store"));
    assert_eq!(granted["issued_token_type"], "urn:ietf:params:oauth:token-type:access_token");
    let lasts = granted["expires_in"].as_u64().unwrap();
    assert!((3590..=3600).contains(&lasts), "{granted}");
    let key = granted["access_token"].as_str().unwrap();
    assert!(key.starts_with("qj_"), "{key}");
    chat(&gateway, key).is(200);
    let data = send(&gateway, key, "GET /v1/key", b"").json()["data"].clone();
    assert_eq!((&data["label"], &data["owner"]), (&json!("ci"), &json!("corp/api")));
    // It buys no further one, and is no other text.
    assert_eq!(exchange(&gateway, key).json()["error"], "invalid_request");
    for text in [&key[..key.len() - 1], &format!("{key}A"), "qj_", "qj_AAAA", &key.replacen("qj_", "qa_", 1)] {
        is_refused(&chat(&gateway, text), 401, "invalid_api_key");
    }
    // It ends before the key whose limits apply does, and with it.
    drop(team.machine.run(["keys", "set", "ci", "--expires", "10m"]).any_stderr().any_stdout());
    assert!(exchange(&gateway, &token).json()["expires_in"].as_u64().unwrap() <= 600);
    drop(team.machine.run(["keys", "revoke", "ci", "--yes"]).any_stderr().any_stdout());
    for shown in [key, &token] {
        is_refused(&chat(&gateway, shown), 401, "invalid_api_key");
    }
    assert_eq!(exchange(&gateway, &token).json()["error"], "invalid_request");
    let files = {
        let mut text = String::new();
        each_path(team.machine.directory(), &mut |path| {
            if path.is_file() {
                let _ = write!(text, "{}", String::from_utf8_lossy(&fs::read(path).unwrap()));
            }
        });
        text
    };
    assert!(!files.contains(&key[3..]));
}

#[test]
fn a_token_exchange_follows_the_standard() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let team = Team::new(&upstream);
    let gateway = start(&team.machine, &[]);
    let token = signers()[1].token(&team.claims());
    let subject = ("subject_token", token.as_str());
    for (fields, error) in [
        (vec![], "unsupported_grant_type"),
        (vec![("grant_type", "client_credentials"), JWT, subject], "unsupported_grant_type"),
        (vec![GRANT, subject], "invalid_request"),
        (vec![GRANT, ("subject_token_type", "urn:ietf:params:oauth:token-type:saml2"), subject], "invalid_request"),
        (vec![GRANT, JWT], "invalid_request"),
        (vec![GRANT, JWT, ("subject_token", "qa_x")], "invalid_request"),
    ] {
        let got = post(&gateway, &fields);
        assert_eq!((got.status, &got.json()["error"]), (400, &json!(error)), "{fields:?}");
    }
    post(&gateway, &[GRANT, ("subject_token_type", "urn:ietf:params:oauth:token-type:id_token"), subject]).is(200);
    let long = "x".repeat(64 * 1024);
    let got = post(&gateway, &[GRANT, JWT, ("subject_token", &long)]);
    assert_eq!((got.status, &got.json()["error"]), (400, &json!("invalid_request")));
    assert!(upstream.asked().is_empty());
    // Without issuers it is a path of the provider's, which needs a key.
    fs::write(team.machine.config(), "").unwrap();
    let plain = start(&team.machine, &[]);
    is_refused(&post(&plain, &[GRANT, JWT, subject]), 401, "invalid_api_key");
    is_refused(&chat(&plain, &token), 401, "invalid_api_key");
}

#[test]
fn a_job_logs_in_to_the_gateway_and_its_key_is_renewed_automatically() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let team = Team::new(&upstream);
    let gateway = start(&team.machine, &[]);
    let job = Machine::new();
    let file = job.directory().join("id-token");
    write_private(&file, signers()[1].token(&team.claims()));
    let base_url = format!("http://{}/v1", gateway.address);
    let login = ["login", "team", "--base-url", &base_url, "--workload-identity", "--model", "coder-model"];
    let outcome = job.run([&login[..], &["--id-token-file", file.to_str().unwrap()]].concat()).any_stderr();
    assert!(outcome.stderr.contains("no secret is stored"), "{outcome}");
    let stored = job.profile("team").to_string();
    assert!(!stored.contains("qj_") && stored.contains("/v1/token"), "{stored}");
    let token = job.run(["token"]).any_stdout();
    assert!(token.stdout.starts_with("qj_"), "{token}");
    let ask = "curl -sS -o /dev/null -w '%{http_code}\\n' -H \"Authorization: Bearer $OPENAI_API_KEY\" \
               -H 'Content-Type: application/json' -d '{\"model\":\"coder-model\",\"messages\":[]}' \
               \"$OPENAI_BASE_URL/chat/completions\"";
    // The key behind the job's own is made anew in the middle: what the job had is refused, and it gets another.
    let (script, ready, go) =
        (job.directory().join("job.sh"), job.directory().join("ready"), job.directory().join("go"));
    let text =
        format!("{ask}; touch {}; while [ ! -e {} ]; do sleep 0.05; done; {ask}\n", ready.display(), go.display());
    write_private(&script, text);
    let running = job.spawn(["exec", "--gateway", "--", "sh", script.to_str().unwrap()]);
    until("the first request", || ready.exists());
    drop(team.machine.run(["keys", "revoke", "ci", "--yes"]).any_stderr().any_stdout());
    create(&team.machine, &["ci"]);
    write_private(&go, "");
    let outcome = running.finish().exits(0).any_stderr().any_stdout();
    assert_eq!(outcome.stdout, "200\n200\n", "{outcome}");
    let asked = upstream.asked();
    assert_eq!(asked.iter().filter(|asked| asked.line.contains("/chat/completions")).count(), 2);
    drop(job_key(&gateway, &signers()[1].token(&team.claims())));
}
