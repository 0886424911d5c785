//! A CI job's token at the gateways of several machines: one key, one limit, and a job key that each of them knows.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use super::edges::{SECRET, code};
use super::machine::{Client, Gateway, Home, Redis, has_redis};
use super::provider::Provider;
use crate::cli::support::machine::{until, write_private};
use crate::cli::support::server::{Reply, Server};

/// A service that runs jobs: it publishes one key and signs with it.
struct Service {
    server: Server,
    pair: EcdsaKeyPair,
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl Service {
    fn start() -> Self {
        let random = SystemRandom::new();
        let bytes = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes.as_ref(), &random).unwrap();
        let server = Server::start();
        let point = pair.public_key().as_ref();
        let key =
            json!({ "kty": "EC", "crv": "P-256", "kid": "1", "x": encoded(&point[1..33]), "y": encoded(&point[33..]) });
        let url = server.url();
        let document = json!({ "issuer": url, "jwks_uri": format!("{url}/jwks") });
        server.serve("/.well-known/openid-configuration", move |_| Reply::json(200, document.clone()));
        server.serve("/jwks", move |_| Reply::json(200, json!({ "keys": [key] })));
        Self { server, pair }
    }

    fn token(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims = json!({
            "iss": self.server.url(), "aud": "https://qwen.corp.example", "exp": now + 300, "sub": "repo:corp/api",
            "repository": "corp/api", "repository_owner": "corp",
        });
        let text = format!("{}.{}", encoded(r#"{"alg":"ES256","kid":"1"}"#), encoded(claims.to_string()));
        let signature = self.pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", encoded(signature))
    }

    /// A machine with a gateway that trusts this service.
    fn machine(&self, provider: &Provider, redis: &Redis) -> Home {
        let config = format!(
            "[prices.m]\ninput = 1000.0\noutput = 1000.0\n[team]\ntimeout = \"3s\"\n[[team.issuers]]\nissuer = \"{}\"\naudience = \"https://qwen.corp.example\"\n\
             claims = {{ repository_owner = \"corp\" }}\nkey = \"ci\"\n",
            self.server.url()
        );
        let home = Home::new(provider, &config, Some(&redis.url()));
        write_private(&home.path().join("data/team/secret"), SECRET);
        home
    }
}

fn exchange(token: &str) -> String {
    format!(
        "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token_type=urn:ietf:params:oauth:token-type:jwt\
         &subject_token={token}"
    )
}

#[test]
fn one_key_limits_the_jobs_at_all_gateways_and_each_of_them_knows_its_job_keys() {
    if !has_redis() {
        return;
    }
    let (redis, provider, service) = (Redis::start(&[]), Provider::start(), Service::start());
    let maker = service.machine(&provider, &redis);
    assert!(maker.run(&["keys", "create", "ci", "--rpd", "6"]).code() == Some(0));
    let one = Gateway::start_keyed(maker.clone(), &[]);
    let two = Gateway::start_keyed(service.machine(&provider, &redis), &[]);
    let token = service.token();
    let chat = |gateway: &Gateway, key: &str| gateway.client_of(key).chat();
    until("the second gateway knows the key", || chat(&two, &token).status == 200);
    let granted = one.client_of("").send("POST", "/v1/token", &exchange(&token));
    let job: Value = serde_json::from_str(&granted.body).unwrap();
    let job = job["access_token"].as_str().unwrap_or_else(|| panic!("{granted:?}"));
    let owner = two.client_of(job).send("GET", "/v1/key", "").body;
    assert!(owner.contains("\"owner\":\"corp/api\""), "{owner}");
    // Five are left of the day, wherever they go and whatever they show.
    for (gateway, key) in [(&one, job), (&two, job), (&one, &*token), (&two, &*token), (&two, job)] {
        let got = chat(gateway, key);
        assert_eq!(got.status, 200, "{}", got.body);
    }
    for gateway in [&one, &two] {
        let got = chat(gateway, job);
        assert_eq!((got.status, code(&got.body)), (429, json!("key_day_over")), "{}", got.body);
    }
    assert_eq!(provider.asked().iter().filter(|asked| asked.path.ends_with("/chat/completions")).count(), 6);
    // The key of the jobs expires, and with it what was exchanged for it; extended, both work again.
    let set = |expires: &str| {
        assert!(maker.run(&["keys", "set", "ci", "--rpd", "none", "--expires", expires]).code() == Some(0));
    };
    set("1s");
    for (gateway, key) in [(&one, job), (&two, job), (&two, &*token)] {
        until("the key has expired", || chat(gateway, key).status == 403);
    }
    set("1d");
    for (gateway, key) in [(&one, job), (&two, job), (&two, &*token)] {
        assert_eq!(chat(gateway, key).status, 200);
    }
    assert!(maker.run(&["keys", "revoke", "ci", "--yes"]).code() == Some(0));
    for (gateway, key) in [(&one, job), (&two, job), (&two, &*token)] {
        assert_eq!(chat(gateway, key).status, 401);
    }
    // Nor is a job key of another team, or one that was changed, known anywhere.
    let changed = format!("{}{}", &job[..job.len() - 1], if job.ends_with('A') { 'B' } else { 'A' });
    for gateway in [&one, &two] {
        assert_eq!(chat(gateway, &changed).status, 401);
    }
}

#[test]
fn a_budget_of_jobs_applies_across_gateways_whichever_key_they_use() {
    if !has_redis() {
        return;
    }
    let (redis, provider, service) = (Redis::start(&[]), Provider::start(), Service::start());
    let maker = service.machine(&provider, &redis);
    // A chat costs a cent.
    assert!(maker.run(&["keys", "create", "ci", "--budget", "0.10 USD/month"]).code() == Some(0));
    let one = Gateway::start_keyed(maker.clone(), &[]);
    let two = Gateway::start_keyed(service.machine(&provider, &redis), &[]);
    let token = service.token();
    let granted = two.client_of("").send("POST", "/v1/token", &exchange(&token));
    let job: Value = serde_json::from_str(&granted.body).unwrap();
    let job = job["access_token"].as_str().unwrap_or_else(|| panic!("{granted:?}"));
    let mut clients: Vec<Client> = [(&one, job), (&two, &*token), (&two, job), (&one, &*token)]
        .into_iter()
        .map(|(gateway, key)| gateway.client_of(key))
        .collect();
    let left = || {
        let said: Value = serde_json::from_str(&one.client_of(job).send("GET", "/v1/key", "").body).unwrap();
        said["data"]["usage"].as_f64().unwrap()
    };
    let mut served = 0_u32;
    while clients[served as usize % 4].chat().status == 200 {
        served += 1;
        until("it is settled", || (left() * 100.0 - f64::from(served)).abs() < 1e-6);
    }
    assert_eq!((served, provider.asked().len()), (10, 10));
    for client in &mut clients {
        let got = client.chat();
        assert_eq!((got.status, code(&got.body)), (429, json!("key_budget_exceeded")), "{}", got.body);
    }
}
