//! A CI job's token at the gateways of several machines: one key, one limit, and a job key that each of them knows.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use crate::edges::{SECRET, code, private};
use crate::machine::{Gateway, Home, Redis, has_redis, until};
use crate::provider::Provider;

/// A service that runs jobs: it publishes one key and signs with it.
struct Service {
    url: String,
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
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let point = pair.public_key().as_ref();
        let key =
            json!({ "kty": "EC", "crv": "P-256", "kid": "1", "x": encoded(&point[1..33]), "y": encoded(&point[33..]) });
        let document = json!({ "issuer": url, "jwks_uri": format!("{url}/jwks") });
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut line = String::new();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                reader.read_line(&mut line).unwrap();
                let mut header = String::new();
                while reader.read_line(&mut header).is_ok_and(|length| length > 2) {
                    header.clear();
                }
                let text = if line.contains("/jwks") { json!({ "keys": [key] }) } else { document.clone() }.to_string();
                let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", text.len());
                let _ = stream.write_all((head + &text).as_bytes());
            }
        });
        Self { url, pair }
    }

    fn token(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims = json!({
            "iss": self.url, "aud": "https://qwen.corp.example", "exp": now + 300, "sub": "repo:corp/api",
            "repository": "corp/api", "repository_owner": "corp",
        });
        let text = format!("{}.{}", encoded(r#"{"alg":"ES256","kid":"1"}"#), encoded(claims.to_string()));
        let signature = self.pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", encoded(signature))
    }

    /// A machine with a gateway that trusts this service.
    fn machine(&self, provider: &Provider, redis: &Redis) -> Home {
        let config = format!(
            "[team]\ntimeout = \"3s\"\n[[team.issuers]]\nissuer = \"{}\"\naudience = \"https://qwen.corp.example\"\n\
             claims = {{ repository_owner = \"corp\" }}\nkey = \"ci\"\n",
            self.url
        );
        let home = Home::new(provider, &config, Some(&redis.url()));
        private(&home.path().join("data/team/secret"), SECRET);
        home
    }
}

#[test]
fn one_key_limits_the_jobs_at_all_gateways_and_each_of_them_knows_its_job_keys() {
    if !has_redis() {
        return;
    }
    let (redis, provider, service) = (Redis::start(&[]), Provider::start(), Service::start());
    let maker = service.machine(&provider, &redis);
    assert!(maker.run(&["keys", "create", "ci", "--rpd", "6"]).status.success());
    let one = Gateway::start_keyed(maker.clone(), &[]);
    let two = Gateway::start_keyed(service.machine(&provider, &redis), &[]);
    let token = service.token();
    let chat = |gateway: &Gateway, key: &str| gateway.client_of(key).chat();
    until("the second gateway knows the key", || chat(&two, &token).status == 200);
    let form = format!(
        "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token_type=urn:ietf:params:oauth:token-type:jwt\
         &subject_token={token}"
    );
    let granted = one.client_of("").send("POST", "/v1/token", &form);
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
    assert!(maker.run(&["keys", "revoke", "ci", "--yes"]).status.success());
    for (gateway, key) in [(&one, job), (&two, job), (&two, &*token)] {
        assert_eq!(chat(gateway, key).status, 401);
    }
}
