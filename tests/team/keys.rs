//! Keys of people and jobs over several gateways: one of them is beside keys.json, the others know it from the server.

use std::collections::BTreeMap;
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

use super::lost::Moving;
use super::machine::{Client, Gateway, Home, Redis, has_redis};
use super::provider::{COMPLETION_TOKENS, HELD, PROMPT_TOKENS, Provider};
use crate::cli::support::machine::{keeps_the_limit, until};
use crate::cli::support::server::Request;

/// Far longer than a busy machine takes.
const PATIENT: &str = "timeout = \"10s\"\n";

/// As a key looks.
const UNKNOWN: &str = "qa_k7Qw2mXp0123456789abcdefghijklmnopqrstuvwxyzABCDEFG45b3QB";

/// A thousand dollars for a million tokens: a chat costs a cent.
const PRICES: &str = "[prices.m]\ninput = 1000.0\noutput = 1000.0\n";

/// A team on one server: the machine where keys are made, and what all machines have in common.
pub(crate) struct Team<'test> {
    provider: &'test Provider,
    url: String,
    secret: TempDir,
    config: String,
    pub(crate) maker: Home,
}

impl<'test> Team<'test> {
    pub(crate) fn new(provider: &'test Provider, url: &str, more: &str) -> Self {
        let secret = tempfile::tempdir().unwrap();
        let file = secret.path().join("secret");
        let config = format!("{PRICES}[team]\nsecret_file = \"{}\"\n{more}", file.display());
        let maker = Home::new(provider, &config, Some(url));
        let team = Self { provider, url: url.to_owned(), secret, config, maker };
        team.keys(&["secret"]);
        assert!(team.secret.path().join("secret").exists());
        team
    }

    pub(crate) fn home(&self) -> Home {
        Home::new(self.provider, &self.config, Some(&self.url))
    }

    /// A gateway that knows the keys from the server.
    pub(crate) fn gateway(&self) -> Gateway {
        Gateway::start_keyed(self.home(), &[])
    }

    fn gateways(&self, count: usize) -> Vec<Gateway> {
        (0..count).map(|_| self.gateway()).collect()
    }

    #[track_caller]
    pub(crate) fn keys(&self, arguments: &[&str]) -> String {
        let output = self.maker.run(&[&["keys"], arguments].concat());
        assert!(output.code() == Some(0), "{}", output.stderr);
        output.stdout.trim().to_owned()
    }

    /// The machine where keys are made, once more: for a gateway there.
    fn maker_again(&self) -> Home {
        self.maker.clone()
    }

    fn usage(&self) -> BTreeMap<String, Value> {
        let output = self.maker.run(&["usage", "--team", "--json"]);
        let document: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(document["counted"], "all gateways", "{}", output.stderr);
        let rows = document["usage"].as_array().unwrap().iter();
        rows.map(|row| (row["name"].as_str().unwrap_or_default().to_owned(), row.clone())).collect()
    }
}

/// Each gateway is asked `count` times by a client with `key`, all at once. How many were served.
fn ask(gateways: &[Gateway], key: &str, count: usize) -> usize {
    thread::scope(|scope| {
        let asking: Vec<_> = gateways
            .iter()
            .map(|gateway| {
                let mut client = gateway.client_of(key);
                scope.spawn(move || (0..count).filter(|_| client.chat().status == 200).count())
            })
            .collect();
        asking.into_iter().map(|asked| asked.join().unwrap()).sum()
    })
}

#[track_caller]
fn all_back<'gateway>(gateways: impl IntoIterator<Item = &'gateway Gateway>) {
    for gateway in gateways {
        gateway.wait_for("are available again");
    }
}

#[track_caller]
fn code(client: &mut Client) -> (u16, String) {
    let got = client.chat();
    let error: Value = serde_json::from_str(&got.body).unwrap_or_default();
    (got.status, error["error"]["code"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_limit_of_a_key_applies_across_four_gateways() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let team = Team::new(&provider, &redis.url(), PATIENT);
    let key = team.keys(&["create", "ann", "--rpd", "50"]);
    let gateways = team.gateways(4);
    assert_eq!(ask(&gateways, &key, 20), 50);
    assert_eq!(provider.asked().len(), 50);
    let got = gateways[0].client_of(&key).chat();
    assert_eq!((got.status, got.body.contains("key_day_over")), (429, true), "{got:?}");
    // All see the same counts, `keys list` too.
    let mine = gateways[1].client_of(&key).send("GET", "/v1/key", "");
    let mine: Value = serde_json::from_str(&mine.body).unwrap();
    assert_eq!(mine["data"]["requests_per_day"]["remaining"], 0, "{mine}");
    let listed: Value = serde_json::from_str(&team.keys(&["list", "--json"])).unwrap();
    assert_eq!(listed["keys"][0]["used"]["requests_today"], 50, "{listed}");
    assert!(listed["keys"][0]["last_used_at"].is_string(), "{listed}");
}

#[test]
fn a_limit_per_minute_of_a_key_applies_across_two_gateways_together_with_the_accounts() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let team = Team::new(&provider, &redis.url(), PATIENT);
    let (ann, ci) = (team.keys(&["create", "ann", "--rpm", "5"]), team.keys(&["create", "ci"]));
    let start = || Gateway::start_keyed(team.home(), &["--rpm", "8", "--no-pacing"]);
    let gateways = [start(), start()];
    // Nothing waits: what has no place at once is refused.
    assert_eq!(ask(&gateways, &ann, 6), 5);
    let (status, reason) = code(&mut gateways[1].client_of(&ann));
    assert_eq!((status, reason.as_str()), (429, "key_rate_limited"));
    let got = gateways[0].client_of(&ci).chat();
    assert_eq!(got.status, 200, "the account has room: {got:?}");
}

/// A key's minute at a thirtieth of its length, over six of them: nobody sends more, and nobody is left out.
#[test]
fn a_limit_of_a_key_applies_across_four_gateways_and_six_windows() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let team = Team::new(&provider, &redis.url(), PATIENT);
    let (key, other) = (team.keys(&["create", "ann", "--rpm", "60"]), team.keys(&["create", "bob", "--rpm", "60"]));
    // Windows of keys are minutes, and shorter ones are for tests.
    let file = team.maker.path().join("data/team/keys.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"requests_per_minute\":60", "\"requests_per_minute\":60,\"window\":2"))
        .unwrap();
    team.keys(&["set", "ann", "--owner", "ann"]);
    let (gateways, window) = (team.gateways(4), std::time::Duration::from_secs(2));
    let since = std::time::Instant::now();
    let served: Vec<usize> = thread::scope(|scope| {
        let asking: Vec<_> = [&key, &other]
            .into_iter()
            .zip(["ann", "bob"])
            .flat_map(|(key, name)| (0..64).map(move |number| (key, name, number)))
            .map(|(key, name, number)| {
                let mut client = gateways[number % 4].client_of(key);
                scope.spawn(move || {
                    let mut count = 0;
                    while since.elapsed() < window * 6 {
                        let got = client.chat_about(name);
                        assert_eq!(got.status, 200, "{got:?}");
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        asking.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    for name in ["ann", "bob"] {
        let ending = format!("?about={name}");
        let asked: Vec<Request> = provider.asked().into_iter().filter(|asked| asked.path.ends_with(&ending)).collect();
        keeps_the_limit(asked.iter().map(|asked| asked.at), since, 60, window);
        // A window is kept 2.54 s: with the queue at the end, six windows of 60, of which a busy machine may miss some.
        assert!(asked.len() >= 60 * 6 * 8 / 10, "{name}: {} requests only", asked.len());
    }
    assert!(served.iter().all(|count| *count >= 1), "somebody was never served: {served:?}");
}

#[test]
fn a_gateway_with_another_team_secret_is_reported_by_log_readiness_and_doctor() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let team = Team::new(&provider, &redis.url(), PATIENT);
    let other = tempfile::tempdir().unwrap();
    let file = other.path().join("secret");
    let config = format!("{PRICES}[team]\nsecret_file = \"{}\"\n{PATIENT}", file.display());
    let home = Home::new(&provider, &config, Some(&redis.url()));
    assert!(home.run(&["keys", "secret"]).code() == Some(0));
    // It starts before there are keys, and learns of them.
    let gateway = Gateway::start_keyed(home.clone(), &[]);
    let key = team.keys(&["create", "ann"]);
    gateway.wait_for("another team secret");
    assert_eq!(code(&mut gateway.client_of(&key)), (503, "secret_mismatch".into()));
    let ready = gateway.client_of("").send("GET", "/readyz", "");
    assert_eq!((ready.status, ready.body.contains("\"keys\":\"secret_mismatch\"")), (503, true), "{ready:?}");
    assert_eq!(gateway.said().matches("another team secret").count(), 1, "{}", gateway.said());
    // Once there are keys it does not start, and the other one does.
    let refused = home.run(&["gateway", "--keys", "--shared"]);
    assert_eq!((refused.code(), refused.stdout.is_empty()), (Some(1), true), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("another team secret") && refused.stderr.contains("secret_file"),
        "{}",
        refused.stderr
    );
    assert_eq!(team.gateway().client_of(&key).chat().status, 200);
    // A member's doctor says it as well.
    let member = Home::empty("", None);
    let url = format!("http://127.0.0.1:{}/v1", gateway.port);
    member.log_in("team", &url, &key);
    let output = member.run(&["doctor", "--team"]);
    assert!(output.stdout.contains("keys: secret_mismatch"), "{}", output.stdout);
    // What it says nothing about is the secret.
    let dump = redis.dump();
    let secret = std::fs::read(team.secret.path().join("secret")).unwrap();
    assert!(!dump.windows(20).any(|part| part == &secret[..20]), "the secret is on the server");
}

#[test]
fn slots_in_flight_are_counted_across_gateways_and_those_of_a_killed_one_expire() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let team = Team::new(&provider, &redis.url(), PATIENT);
    let key = team.keys(&["create", "ann", "--parallel", "1", "--budget", "10 USD/day"]);
    let start = || Gateway::start_keyed(team.home(), &["--no-pacing"]);
    let (mut one, two) = (start(), start());
    let held = one.client_of(&key);
    thread::spawn(move || {
        let mut held = held;
        // The gateway is killed before there is an answer.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| held.chat_about(HELD)));
    });
    until("the request arrives", || provider.asked_about(HELD) == 1);
    let (status, reason) = code(&mut two.client_of(&key));
    assert_eq!((status, reason.as_str()), (429, "key_rate_limited"), "one is in flight");
    one.kill();
    let name = |pattern: &str| redis.command(&["--scan", "--pattern", pattern]).trim().to_owned();
    let (places, money) = (name("*:parallel"), name("*:spent/*:held"));
    let time = redis.command(&["TIME"]);
    let now: u64 = time.lines().next().unwrap().parse().unwrap();
    let (id, until) = (redis.command(&["ZRANGE", &places, "0", "-1"]), redis.command(&["HVALS", &money]));
    let ends: u64 = until.trim().split(':').next().unwrap().parse::<u64>().unwrap() / 1000;
    assert!((now + 840..=now + 901).contains(&ends), "it ends in {} s", ends - now);
    let score = redis.command(&["ZSCORE", &places, id.trim()]).trim().parse::<u64>().unwrap() / 1000;
    assert!((now + 840..=now + 901).contains(&score), "it ends in {} s", score - now);
    // The 15 minutes pass.
    redis.command(&["ZADD", &places, "1", id.trim()]);
    redis.command(&["HSET", &money, id.trim(), &until.trim().replacen(char::is_numeric, "0", 1)]);
    assert_eq!(two.client_of(&key).chat().status, 200);
    let left = two.client_of(&key).send("GET", "/v1/key", "");
    let left: Value = serde_json::from_str(&left.body).unwrap();
    assert_eq!(left["data"]["limit_remaining"], 9.99, "{left}");
}

#[test]
fn a_client_that_leaves_is_charged_the_estimate_for_what_was_sent_and_nothing_while_the_server_decides() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let name = Moving::to(redis.port);
    let team = Team::new(&provider, &format!("redis://127.0.0.1:{}", name.port), PATIENT);
    let key = team.keys(&["create", "ann", "--parallel", "1", "--budget", "10 USD/day"]);
    let log = team.maker.path().join("log");
    let gateway = Gateway::start_keyed(team.home(), &["--log", log.to_str().unwrap()]);
    let stored = |command: &[&str], pattern: &str| {
        let name = redis.command(&["--scan", "--pattern", pattern]);
        redis.command(&[&[command[0], name.trim()], &command[1..]].concat()).trim().to_owned()
    };
    let requests = || stored(&["GET"], "*:key:*:day/*");
    // What is in flight or reserved is gone once nothing of it is left.
    let is_settled = || {
        redis.command(&["--scan", "--pattern", "*:parallel"]).trim().is_empty()
            && redis.command(&["--scan", "--pattern", "*:spent/*:held"]).trim().is_empty()
    };
    // In cents of ten million nanodollars: a chat costs one.
    let cents = || stored(&["HGET", "used"], "*:spent/*/0").parse::<f64>().unwrap() / 1e7;
    assert_eq!(gateway.client_of(&key).chat().status, 200);
    until("it is settled", is_settled);
    // The server has counted the request, and the gateway does not know yet.
    name.holds_answers(true);
    let client = gateway.client_of(&key).ask_about("nothing");
    until("it is counted", || requests() == "2");
    drop(client);
    until("the gateway notices", || std::fs::read_to_string(&log).unwrap().contains("\"status\":null"));
    name.holds_answers(false);
    until("it is given back", || requests() == "1" && is_settled());
    assert_eq!((provider.asked_about("nothing"), cents()), (0, 1.0));
    // The provider has the request.
    let client = gateway.client_of(&key).ask_about(HELD);
    until("it arrives", || provider.asked_about(HELD) == 1);
    drop(client);
    until("it is settled", is_settled);
    assert_eq!((requests(), cents()), ("2".to_owned(), 2.4));
}

#[test]
fn a_client_that_leaves_the_queue_of_its_key_releases_its_slot_at_all_gateways() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let team = Team::new(&provider, &redis.url(), PATIENT);
    let key = team.keys(&["create", "ann", "--rpm", "1", "--rpd", "9"]);
    let gateways = team.gateways(2);
    assert_eq!(gateways[0].client_of(&key).chat().status, 200);
    let counted = || redis.command(&["GET", redis.command(&["--scan", "--pattern", "*:key:*:day/*"]).trim()]);
    let waiting = gateways[1].client_of(&key).ask_about("nothing");
    until("it waits", || counted().trim() == "2");
    drop(waiting);
    until("its slot is given back", || counted().trim() == "1");
    assert_eq!(provider.asked().len(), 1);
}

#[test]
fn metrics_have_a_line_for_each_key_that_a_gateway_knows() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let team = Team::new(&provider, &redis.url(), PATIENT);
    let ann = team.keys(&["create", "ann", "--budget", "1 USD/day"]);
    team.keys(&["create", "bob", "--budget", "1 USD/day"]);
    let named = |gateway: &Gateway| {
        let own = std::fs::read_to_string(gateway.home.path().join("own")).unwrap();
        let metrics = gateway.client_of(own.trim()).send("GET", "/metrics", "").body;
        let named = |name: &&str| metrics.contains(&format!("name=\"{name}\""));
        ["ann", "bob"].into_iter().filter(named).collect::<Vec<_>>()
    };
    let start = |home: Home| {
        let own = home.path().join("own");
        let options = ["--metrics", "--metrics-keys", "--api-key-file", own.to_str().unwrap()];
        Gateway::start_keyed(home, &options)
    };
    // Beside keys.json it knows all, and elsewhere those that were shown to it.
    assert_eq!(named(&start(team.maker_again())), ["ann", "bob"]);
    let other = start(team.home());
    assert_eq!(named(&other), [""; 0]);
    assert_eq!(other.client_of(&ann).chat().status, 200);
    assert_eq!(named(&other), ["ann"]);
}

#[test]
fn a_budget_is_spent_once_across_four_gateways_and_reset_restores_it() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let team = Team::new(&provider, &redis.url(), PATIENT);
    let key = team.keys(&["create", "ann", "--budget", "0.25 USD/month"]);
    let gateways = team.gateways(4);
    let spent = || {
        let listed: Value = serde_json::from_str(&team.keys(&["list", "--json"])).unwrap();
        listed["keys"][0]["used"]["spent_usd"].as_f64().unwrap() * 100.0
    };
    // What others reserve is given back once it is settled: a gateway that is refused asks again then.
    let spend = |mut served: usize, gateways: &[Gateway]| loop {
        #[expect(clippy::cast_precision_loss, reason = "some cents")]
        until("all is settled", || (spent() - served as f64).abs() < 1e-6);
        let more: usize = gateways.iter().map(|gateway| until_over(gateway, &key)).sum();
        if more == 0 {
            return served;
        }
        served += more;
    };
    let served = spend(ask(&gateways, &key, 20), &gateways);
    assert!((25..=25 + 4).contains(&served), "{served} of 25 cents");
    team.keys(&["reset", "ann"]);
    assert_eq!(gateways[2].client_of(&key).chat().status, 200);
    assert_eq!(spend(1, &gateways[3..]), 25);
}

#[test]
fn tokens_per_day_and_minute_are_counted_across_gateways_by_actual_use() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let team = Team::new(&provider, &redis.url(), PATIENT);
    let (day, minute) = (
        team.keys(&["create", "day", "--tpd", "100"]),
        team.keys(&["create", "minute", "--tpm", "100", "--tpd", "9000"]),
    );
    let start = || Gateway::start_keyed(team.home(), &["--no-pacing"]);
    let gateways = [start(), start()];
    let used = |name: &str| {
        let listed: Value = serde_json::from_str(&team.keys(&["list", "--json"])).unwrap();
        let keys = listed["keys"].as_array().unwrap();
        keys.iter().find(|key| key["name"] == name).unwrap()["used"]["tokens_today"].as_u64().unwrap()
    };
    // A chat is taken for 14 tokens and uses 10, which is told once it has ended: the last one that fits takes what is left.
    for (key, name, reason, served) in [(&day, "day", "key_day_over", 10), (&minute, "minute", "key_rate_limited", 9)] {
        let mut clients: Vec<Client> = gateways.iter().map(|gateway| gateway.client_of(key)).collect();
        let mut count = 0;
        while clients[count % 2].chat().status == 200 {
            count += 1;
            until("what was used is counted", || used(name) == 10 * u64::try_from(count).unwrap());
        }
        assert_eq!(count, served, "{reason}");
        assert_eq!(code(&mut clients[0]), (429, reason.to_owned()));
    }
}

fn until_over(gateway: &Gateway, key: &str) -> usize {
    let mut client = gateway.client_of(key);
    let served = (0..100).take_while(|_| client.chat().status == 200).count();
    until("the last one is settled", || code(&mut client) == (429, "key_budget_exceeded".to_owned()));
    served
}

#[test]
fn every_change_of_a_key_applies_from_the_next_request_at_gateways_without_its_file() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let team = Team::new(&provider, &redis.url(), PATIENT);
    let gateway = team.gateway();
    assert_eq!(code(&mut gateway.client_of("qa_none")), (401, "invalid_api_key".into()));
    let first = team.keys(&["create", "ann"]);
    let mut client = gateway.client_of(&first);
    assert_eq!(client.chat().status, 200);
    team.keys(&["set", "ann", "--models", "other"]);
    assert_eq!(code(&mut client), (403, "model_not_allowed".into()));
    team.keys(&["set", "ann", "--models", "none"]);
    assert_eq!(client.chat().status, 200);
    let second = team.keys(&["rotate", "ann"]);
    assert_eq!(code(&mut client), (401, "invalid_api_key".into()));
    let mut client = gateway.client_of(&second);
    assert_eq!(client.chat().status, 200);
    // What forbade the request ends, and so does the key that was shown.
    team.keys(&["set", "ann", "--models", "other"]);
    assert_eq!(code(&mut client), (403, "model_not_allowed".into()));
    let second = team.keys(&["rotate", "ann"]);
    team.keys(&["set", "ann", "--models", "none"]);
    assert_eq!(code(&mut client), (403, "model_not_allowed".into()));
    let mut client = gateway.client_of(&second);
    assert_eq!(client.chat().status, 200);
    let third = team.keys(&["rotate", "ann", "--overlap", "1h"]);
    assert_eq!((client.chat().status, gateway.client_of(&third).chat().status), (200, 200));
    let revoked = team.maker.on_a_terminal(&["keys", "revoke", "ann", "--yes"]);
    assert!(revoked.contains("cannot reach the shared server") && revoked.contains("up to 15 min"), "{revoked}");
    assert_eq!(code(&mut client), (401, "invalid_api_key".into()));
    assert_eq!(code(&mut gateway.client_of(&third)), (401, "invalid_api_key".into()));
    // Each change has its line, and no key is on the server.
    let lines = redis.command(&["XRANGE", "{qa:default}:audit", "-", "+"]);
    let verbs: Vec<&str> = ["create", "set", "set", "rotate", "rotate", "revoke"]
        .into_iter()
        .filter(|verb| lines.contains(verb))
        .collect();
    assert_eq!(verbs.len(), 6, "{lines}");
    assert_eq!(lines.matches("\"who\"").count(), 9, "{lines}");
    let dump = redis.dump();
    for key in [&first, &second, &third] {
        assert!(!dump.windows(20).any(|part| part == &key.as_bytes()[11..31]), "a key is on the server");
    }
}

#[test]
fn keys_of_a_team_are_created_on_one_machine_and_require_its_secret() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let team = Team::new(&provider, &redis.url(), PATIENT);
    team.keys(&["create", "ann"]);
    let other = team.home();
    let refused = other.run(&["keys", "create", "bob"]);
    assert_eq!(refused.code(), Some(1));
    assert!(refused.stderr.contains("the keys of this team are managed on"), "{}", refused.stderr);
    let elsewhere = other.run(&["keys", "list"]);
    let managed = "there are no keys on this machine; the keys of this team are managed on `";
    assert!(elsewhere.code() == Some(0) && elsewhere.stdout.contains(managed), "{}", elsewhere.stdout);
    let left_alone = other.without_server().run(&["keys", "list"]);
    assert!(left_alone.stdout.contains("there are no keys"), "{}", left_alone.stdout);
    std::fs::remove_file(team.secret.path().join("secret")).unwrap();
    let refused = other.run(&["gateway", "--keys", "--shared"]);
    assert_eq!(refused.code(), Some(1));
    assert!(refused.stderr.contains("is missing") && refused.stdout.is_empty(), "{}", refused.stderr);
}

#[test]
fn an_emptied_server_gets_keys_and_the_largest_counts_back_before_it_serves() {
    if !has_redis() {
        return;
    }
    let (mut redis, provider) = (Redis::start(&[]), Provider::start());
    let team = Team::new(&provider, &redis.url(), PATIENT);
    let key = team.keys(&["create", "ann", "--rpd", "40", "--budget", "0.40 USD/day"]);
    let gateways = [team.gateway(), team.gateway()];
    // Beside keys.json.
    let third = Gateway::start_keyed(team.maker_again(), &[]);
    assert_eq!(ask(&gateways, &key, 15), 30);
    assert_eq!(third.client_of(&key).chat().status, 200);
    redis.kill();
    redis.start_again();
    all_back(gateways.iter().chain([&third]));
    assert_eq!(ask(&gateways, &key, 10), 9);
    assert_eq!(provider.asked().len(), 40);
    let unknown = gateways[0].client_of(&team.keys(&["create", "bob"])).chat();
    assert_eq!(unknown.status, 200, "{unknown:?}");
}

#[test]
fn without_the_server_each_gateway_serves_its_share_and_the_keys_it_has_seen() {
    if !has_redis() {
        return;
    }
    let (mut redis, provider) = (Redis::start(&[]), Provider::start());
    let team = Team::new(&provider, &redis.url(), PATIENT);
    let key = team.keys(&["create", "ann", "--rpd", "40"]);
    let unseen = team.keys(&["create", "bob"]);
    let gateways = team.gateways(2);
    assert_eq!(ask(&gateways, &key, 10), 20);
    redis.hear_of_each_other(2);
    redis.kill();
    // Half of what was left for each, and for a key that nobody saw nothing.
    assert_eq!(ask(&gateways, &key, 14), 20);
    let got = gateways[0].client_of(&key).chat();
    assert_eq!((got.status, got.header("retry-after")), (503, Some("5")), "{got:?}");
    assert!(got.body.contains("shared_state_unavailable"), "{got:?}");
    assert_eq!(code(&mut gateways[1].client_of(&unseen)), (503, "shared_state_unavailable".into()));
    let gone = team.maker.run(&["keys", "revoke", "bob", "--yes"]);
    assert!(gone.code() == Some(0) && gone.stderr.contains("do not know about this change yet"), "{}", gone.stderr);
    redis.start_again();
    all_back(&gateways);
    team.keys(&["list"]);
    assert_eq!(ask(&gateways, &key, 2), 0);
    assert_eq!(provider.asked().len(), 40);
    assert_eq!(code(&mut gateways[1].client_of(&unseen)), (401, "invalid_api_key".into()));
}

/// Half of a budget of 40 cents is spent by two gateways that know of each other.
fn half_a_budget(team: &Team, redis: &Redis) -> (Vec<Gateway>, String) {
    let key = team.keys(&["create", "ann", "--budget", "0.40 USD/month", "--parallel", "8"]);
    let gateways = team.gateways(2);
    for gateway in &gateways {
        let mut client = gateway.client_of(&key);
        assert!((0..10).all(|_| client.chat().status == 200));
    }
    redis.hear_of_each_other(2);
    (gateways, key)
}

/// Each gateway asks until it is refused. How many were served.
fn until_refused(gateways: &[Gateway], key: &str) -> Vec<usize> {
    let served = |gateway: &Gateway| {
        let mut client = gateway.client_of(key);
        (0..50).take_while(|_| client.chat().status == 200).count()
    };
    gateways.iter().map(served).collect()
}

#[test]
fn without_the_server_each_gateway_has_its_share_of_a_budget() {
    if !has_redis() {
        return;
    }
    let ways: [(&[&str], &[&str]); 2] = [
        (&["REPLICAOF", "127.0.0.1", "1"], &["REPLICAOF", "NO", "ONE"]),
        (&["CONFIG", "SET", "maxmemory", "1"], &["CONFIG", "SET", "maxmemory", "0"]),
    ];
    for (lose, find) in ways {
        let (redis, provider) = (Redis::start(&[]), Provider::start());
        let team = Team::new(&provider, &redis.url(), PATIENT);
        let (gateways, key) = half_a_budget(&team, &redis);
        redis.command(lose);
        let served = until_refused(&gateways, &key);
        // The first request may still be decided by the server, and what it reserves is no part of the others' rest.
        assert!(served.iter().all(|served| (9..=11).contains(served)), "{lose:?}: {served:?}");
        assert_eq!(code(&mut gateways[0].client_of(&key)), (503, "shared_state_unavailable".into()), "{lose:?}");
        redis.command(find);
        all_back(&gateways);
        until_over(&gateways[1], &key);
        let spent = provider.asked().len();
        assert!((40..=40 + 2).contains(&spent), "{lose:?}: {spent} of 40 cents");
    }
}

#[test]
fn a_promoted_replica_has_the_keys_and_what_they_spent() {
    if !has_redis() {
        return;
    }
    let (mut primary, provider) = (Redis::start(&[]), Provider::start());
    let replica = primary.replica();
    let name = Moving::to(primary.port);
    let team = Team::new(&provider, &format!("redis://127.0.0.1:{}", name.port), PATIENT);
    let (gateways, key) = half_a_budget(&team, &primary);
    primary.command(&["WAIT", "1", "10000"]);
    primary.kill();
    name.moves(replica.port);
    replica.command(&["REPLICAOF", "NO", "ONE"]);
    all_back(&gateways);
    let fresh = team.gateway();
    until("a gateway that knows nothing is ready", || fresh.client_of(&key).send("GET", "/readyz", "").status == 200);
    let served: usize = until_refused(&gateways, &key).into_iter().sum();
    assert_eq!(served, 20);
    until("the last one is settled", || code(&mut fresh.client_of(&key)) == (429, "key_budget_exceeded".into()));
    team.keys(&["revoke", "ann", "--yes"]);
    assert_eq!(code(&mut fresh.client_of(&key)), (401, "invalid_api_key".into()));
}

#[test]
fn without_the_server_refuse_serves_no_key_and_open_serves_without_limits() {
    if !has_redis() {
        return;
    }
    for (word, served) in [("refuse", 0), ("open", 50)] {
        let (mut redis, provider) = (Redis::start(&[]), Provider::start());
        let team = Team::new(&provider, &redis.url(), &format!("{PATIENT}on_loss = \"{word}\"\n"));
        let key = team.keys(&["create", "ann", "--rpd", "3"]);
        let gateways = team.gateways(1);
        assert_eq!(ask(&gateways, &key, 1), 1);
        redis.kill();
        gateways[0].client_of(&key).chat();
        gateways[0].wait_for("lost the shared limits");
        assert_eq!(until_refused(&gateways, &key), [served], "{word}");
        // A key that nobody knows gets in in no case.
        assert_eq!(code(&mut gateways[0].client_of(UNKNOWN)), (503, "shared_state_unavailable".into()), "{word}");
    }
}

#[test]
fn a_key_that_nobody_has_costs_the_server_one_question() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let team = Team::new(&provider, &redis.url(), PATIENT);
    drop(team.keys(&["create", "ann"]));
    let gateway = team.gateway();
    let before = redis.calls("hmget");
    for _ in 0..20 {
        assert_eq!(code(&mut gateway.client_of(UNKNOWN)), (401, "invalid_api_key".into()));
    }
    assert_eq!(redis.calls("hmget") - before, 20);
}

#[test]
fn a_paused_server_is_waited_for_once_and_for_the_timeout_at_most() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    // What does not wait is far from taking as long, also on a busy machine.
    let timeout = std::time::Duration::from_secs(2);
    let team = Team::new(&provider, &redis.url(), "timeout = \"2s\"\n");
    let key = team.keys(&["create", "ann", "--rpd", "1000"]);
    let gateways = team.gateways(2);
    assert_eq!(ask(&gateways, &key, 1), 2);
    redis.pause();
    let took: Vec<_> = gateways
        .iter()
        .flat_map(|gateway| {
            let mut client = gateway.client_of(&key);
            (0..20).map(move |_| client.chat())
        })
        .map(|got| {
            assert_eq!(got.status, 200, "{got:?}");
            got.took
        })
        .collect();
    redis.go_on();
    assert_eq!(took.iter().filter(|took| **took >= timeout).count(), gateways.len(), "{took:?}");
    assert!(took.iter().all(|took| *took < 2 * timeout), "{took:?}");
    assert!(gateways.iter().all(|gateway| gateway.said().matches("lost the shared limits").count() == 1));
}

#[test]
fn a_key_revoked_while_the_server_is_unreachable_is_rejected_at_once_where_its_file_is() {
    if !has_redis() {
        return;
    }
    let (mut redis, provider) = (Redis::start(&[]), Provider::start());
    let team = Team::new(&provider, &redis.url(), PATIENT);
    let key = team.keys(&["create", "ann"]);
    let (far, near) = (team.gateway(), Gateway::start_keyed(team.maker_again(), &[]));
    let gateways = [far, near];
    assert_eq!(ask(&gateways, &key, 1), 2);
    redis.kill();
    assert_eq!(ask(&gateways, &key, 1), 2);
    assert!(team.maker.run(&["keys", "revoke", "ann", "--yes"]).code() == Some(0));
    assert_eq!(code(&mut gateways[1].client_of(&key)), (401, "invalid_api_key".into()));
    assert_eq!(gateways[0].client_of(&key).chat().status, 200, "cut off, it may");
    redis.start_again();
    // The gateway beside keys.json tells the server, and nobody else has to.
    all_back(&gateways);
    until("the other gateway knows", || gateways[0].client_of(&key).chat().status == 401);
}

const KEYS: usize = 20;
const EACH: usize = 100;

#[test]
fn usage_by_key_across_four_gateways_equals_the_providers_log() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let team = Team::new(&provider, &redis.url(), PATIENT);
    let names: Vec<String> = (0..KEYS).map(|number| format!("key{number:02}")).collect();
    let keys: Vec<String> = names.iter().map(|name| team.keys(&["create", name])).collect();
    let gateways = team.gateways(4);
    let half = |gateways: &[Gateway]| {
        thread::scope(|scope| {
            for (name, key) in names.iter().zip(&keys) {
                scope.spawn(move || {
                    let mut clients: Vec<Client> = gateways.iter().map(|gateway| gateway.client_of(key)).collect();
                    for number in 0..EACH / 2 {
                        let got = clients[number % 4].chat_about(name);
                        assert_eq!(got.status, 200, "{got:?}");
                    }
                });
            }
        });
    };
    half(&gateways);
    // What is counted while the server takes nothing is told when it does again.
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
    for gateway in &gateways {
        gateway.wait_for("lost the shared limits");
    }
    half(&gateways);
    redis.command(&["REPLICAOF", "NO", "ONE"]);
    all_back(&gateways);
    gateways.into_iter().for_each(Gateway::stop);
    let usage = team.usage();
    for name in &names {
        let (asked, row) = (provider.asked_about(name), &usage[name]);
        assert_eq!(asked, EACH);
        let counted = |what: &str| row[what].as_u64().unwrap();
        assert_eq!(counted("requests"), asked as u64, "{name}: {row}");
        assert_eq!(counted("prompt_tokens"), asked as u64 * PROMPT_TOKENS);
        assert_eq!(counted("completion_tokens"), asked as u64 * COMPLETION_TOKENS);
    }
    assert_eq!(usage.len(), KEYS);
}
