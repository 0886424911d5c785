//! One machine has the login, the others use its access tokens: a real Redis server, and a token server whose refresh tokens
//! work once.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use serde_json::{Value, json};

use super::machine::{Gateway, Home, Redis, has_redis};
use crate::cli::support::machine::{now_ms, until, write_private};
use crate::cli::support::server::{Reply, Request, Server};

/// The team secret, and another one.
pub(crate) const SECRET: &str = "c2VjcmV0IG9mIHRoZSB0ZWFtLCAzMiBieXRlcyBsb24";
const OTHER: &str = "YW5vdGhlciBzZWNyZXQsIDMyIGJ5dGVzIGxvbmcsIG8";

/// What the server of the login knows.
#[derive(Default)]
struct State {
    /// The refresh token that works, for each login.
    refresh: BTreeSet<String>,
    access: BTreeSet<String>,
    renewals: usize,
    /// Refresh tokens that were sent again.
    reused: usize,
    chats: Vec<(String, u16)>,
    /// How long the tokens of renewals are valid, in seconds.
    life: u64,
    /// Whether answers to renewals are held back.
    holds: bool,
}

/// Token server and API in one.
struct Issuer {
    server: Server,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Issuer {
    fn start() -> Self {
        let state = Arc::new((Mutex::new(State { life: 3600, ..State::default() }), Condvar::new()));
        let server = Server::start();
        let (token, api) = (state.clone(), state.clone());
        server.serve("/token", move |request| renew(request, &token));
        server.serve("/v1/chat/completions", move |request| chat(request, &api.0));
        Self { server, state }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state.0.lock().unwrap());
        self.state.1.notify_all();
        changed
    }

    fn renewals(&self) -> usize {
        self.change(|state| {
            assert_eq!(state.reused, 0, "a refresh token was sent twice");
            state.renewals
        })
    }

    /// No access token that was ever granted is accepted from now on.
    fn refuse_all(&self) {
        self.change(|state| state.access.clear());
    }

    /// A machine of the team, with `secret` as its team secret.
    fn machine(&self, redis: &Redis, secret: &str) -> Home {
        let url = self.server.url();
        let config = format!(
            "profile = \"corp\"\n[providers.corp]\nclient_id = \"c\"\nbase_url = \"{url}/v1\"\n\
             device_authorization_endpoint = \"{url}/device\"\ntoken_endpoint = \"{url}/token\"\n\
             default_model = \"m\"\n[team]\ntimeout = \"3s\"\n"
        );
        let home = Home::empty(&config, Some(&redis.url()));
        write_private(&home.path().join("data/team/secret"), secret);
        home
    }

    /// The same where somebody logs in whose token lasts `seconds`.
    fn logged_in(&self, redis: &Redis, name: &str, seconds: i64) -> Home {
        let home = self.machine(redis, SECRET);
        write_private(&home.path().join("data/credentials/corp.json"), self.login(name, seconds).to_string());
        home
    }

    /// What a login stores.
    fn login(&self, name: &str, seconds: i64) -> Value {
        let (access, refresh) = (format!("access-{name}"), format!("refresh-{name}"));
        self.change(|state| {
            state.access.insert(access.clone());
            state.refresh.insert(refresh.clone());
        });
        json!({
            "provider": "corp", "access_token": access, "refresh_token": refresh, "token_type": "Bearer",
            "expiry_date": now_ms() + seconds * 1000, "base_url": format!("{}/v1", self.server.url()),
        })
    }
}

fn renew(request: &Request, shared: &Arc<(Mutex<State>, Condvar)>) -> Reply {
    let mut state = shared.0.lock().unwrap();
    state.renewals += 1;
    if !state.refresh.remove(request.field("refresh_token")) {
        state.reused += 1;
        return Reply::error(400, "invalid_grant");
    }
    let (access, refresh) = (format!("access-{}", state.renewals), format!("refresh-{}", state.renewals));
    state.access.insert(access.clone());
    state.refresh.insert(refresh.clone());
    let life = state.life;
    let shared = shared.clone();
    let reply = json!({ "access_token": access, "refresh_token": refresh, "token_type": "Bearer", "expires_in": life });
    Reply::json(200, reply).meanwhile(move || drop(shared.1.wait_while(shared.0.lock().unwrap(), |state| state.holds)))
}

fn chat(request: &Request, state: &Mutex<State>) -> Reply {
    let mut state = state.lock().unwrap();
    let status = if state.access.contains(request.bearer()) { 200 } else { 401 };
    state.chats.push((request.bearer().to_owned(), status));
    let body = match status {
        200 => json!({ "object": "chat.completion", "model": "m", "choices": [{ "message": { "content": "hi" } }] }),
        _ => json!({ "error": { "message": "expired", "code": "invalid_token" } }),
    };
    Reply::json(status, body)
}

fn start(home: Home) -> Gateway {
    Gateway::start(home, &["--shared", "--no-pacing"])
}

/// An edge that has a token.
fn edge(issuer: &Issuer, redis: &Redis) -> Gateway {
    let edge = start(issuer.machine(redis, SECRET));
    until("the edge is ready", || edge.get("/readyz").status == 200);
    edge
}

fn ready(gateway: &Gateway) -> (u16, Value) {
    let got = gateway.get("/readyz");
    (got.status, serde_json::from_str::<Value>(&got.body).unwrap()["credential"].clone())
}

pub(crate) fn code(body: &str) -> Value {
    serde_json::from_str::<Value>(body).unwrap()["error"]["code"].clone()
}

/// The generation that the server shows.
fn shown(redis: &Redis) -> u64 {
    redis.command(&["HGET", "{qa:default}:tok:corp", "generation"]).trim().parse().unwrap_or_default()
}

#[test]
fn sixteen_edges_that_saw_a_401_together_cost_one_renewal_and_an_emptied_server_none() {
    if !has_redis() {
        return;
    }
    let (redis, issuer) = (Redis::start(&["--rdbcompression", "no"]), Issuer::start());
    let _home = start(issuer.logged_in(&redis, "first", 3600));
    let edges: Vec<Gateway> = (0..16).map(|_| edge(&issuer, &redis)).collect();
    let all_serve = || {
        thread::scope(|scope| {
            let asked: Vec<_> = edges.iter().map(|edge| scope.spawn(|| edge.chat())).collect();
            for got in asked.into_iter().map(|asked| asked.join().unwrap()) {
                assert_eq!(got.status, 200, "{}", got.body);
            }
        });
    };
    all_serve();
    assert_eq!(issuer.renewals(), 0);
    issuer.refuse_all();
    all_serve();
    assert_eq!(issuer.renewals(), 1);
    let refused = issuer.change(|state| state.chats.iter().filter(|(_, status)| *status == 401).count());
    assert_eq!(refused, 16, "each of them saw a 401");
    // Whoever reads the server has neither token.
    redis.command(&["SAVE"]);
    let dump = fs::read(redis.directory().join("dump.rdb")).unwrap();
    let holds = |text: &str| dump.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("tok:corp") && holds("sealed"));
    assert!(!holds("refresh-") && !holds("access-"));
    // Emptied in the middle: everybody serves on, the home publishes again, and nobody renews.
    let before = shown(&redis);
    redis.command(&["FLUSHALL"]);
    all_serve();
    until("the home has published again", || shown(&redis) >= before);
    drop(edge(&issuer, &redis));
    assert_eq!(issuer.renewals(), 1);
}

#[test]
fn an_edge_without_a_home_says_so_and_is_ready_once_there_is_one() {
    if !has_redis() {
        return;
    }
    let (redis, issuer) = (Redis::start(&[]), Issuer::start());
    let edge = start(issuer.machine(&redis, SECRET));
    edge.wait_for("`corp` is not logged in here");
    let got = edge.get("/readyz");
    assert_eq!((got.status, got.header("retry-after")), (503, Some("5")), "{}", got.body);
    // Whoever asks costs the server nothing.
    let before = redis.calls("evalsha");
    (0..50).for_each(|_| assert_eq!(ready(&edge), (503, json!("no_home"))));
    assert!(redis.calls("evalsha") < before + 50);
    let got = edge.chat();
    assert_eq!((got.status, got.header("retry-after"), code(&got.body)), (503, Some("5"), json!("no_home")));
    let _home = start(issuer.logged_in(&redis, "first", 3600));
    until("the edge is ready", || ready(&edge) == (200, json!("valid")));
    assert_eq!(edge.chat().status, 200);
}

#[test]
fn a_token_encrypted_with_another_secret_is_reported_and_not_used() {
    if !has_redis() {
        return;
    }
    let (redis, issuer) = (Redis::start(&[]), Issuer::start());
    let _home = start(issuer.logged_in(&redis, "first", 3600));
    until("the home has published", || shown(&redis) > 0);
    let edge = start(issuer.machine(&redis, OTHER));
    until("the edge has looked", || ready(&edge).1 != json!("no_home"));
    assert_eq!(ready(&edge), (503, json!("secret_mismatch")));
    let got = edge.chat();
    assert_eq!((got.status, code(&got.body)), (503, json!("secret_mismatch")), "{}", got.body);
    assert!(got.body.contains("encrypted with another team secret"), "{}", got.body);
    assert!(issuer.change(|state| state.chats.is_empty()));
}

#[test]
fn a_logout_at_home_ends_the_edges_and_a_login_brings_them_back() {
    if !has_redis() {
        return;
    }
    let (redis, issuer) = (Redis::start(&[]), Issuer::start());
    let home = start(issuer.logged_in(&redis, "first", 3600));
    let edge = edge(&issuer, &redis);
    assert!(home.home.run(&["logout", "--local"]).code() == Some(0));
    until("the edge knows", || ready(&edge) == (503, json!("login_required")));
    let got = edge.chat();
    assert_eq!((got.status, code(&got.body)), (503, json!("login_required")), "{}", got.body);
    assert!(got.body.contains("logged out at its home"), "{}", got.body);
    write_private(&home.home.path().join("data/credentials/corp.json"), issuer.login("second", 3600).to_string());
    until("the edge serves again", || edge.chat().status == 200);
    assert_eq!(issuer.renewals(), 0);
}

/// As a logout leaves it where the file is mounted.
#[test]
fn a_file_that_is_emptied_at_home_ends_the_edges_and_a_login_brings_them_back() {
    if !has_redis() {
        return;
    }
    let (redis, issuer) = (Redis::start(&[]), Issuer::start());
    let home = start(issuer.logged_in(&redis, "first", 3600));
    let edge = edge(&issuer, &redis);
    let file = home.home.path().join("data/credentials/corp.json");
    write_private(&file, "{}");
    until("the edge knows", || ready(&edge) == (503, json!("login_required")));
    write_private(&file, issuer.login("second", 3600).to_string());
    until("the edge serves again", || edge.chat().status == 200);
}

/// Waits until a home has looked at the server so many times.
fn looked(redis: &Redis, times: usize) {
    for _ in 0..times {
        let at = || redis.command(&["HGET", "{qa:default}:home:corp", "at"]);
        let before = at();
        until("a home has looked", || at() != before);
    }
}

#[test]
fn a_login_moves_to_another_machine_while_the_gateway_that_had_it_runs_on() {
    if !has_redis() {
        return;
    }
    let (redis, issuer) = (Redis::start(&[]), Issuer::start());
    // What a home published whose clock is an hour ahead.
    let publish_ahead = || {
        let ahead = (now_ms() + 3_600_000).max(i64::try_from(shown(&redis)).unwrap() + 3_600_000).to_string();
        redis.command(&["HSET", "{qa:default}:tok:corp", "generation", &ahead, "sealed", "x", "ends", &ahead]);
        shown(&redis)
    };
    let ahead = publish_ahead();
    let former = start(issuer.logged_in(&redis, "first", 3600));
    until("the home has published", || shown(&redis) > ahead);
    let edge = edge(&issuer, &redis);
    assert_eq!(edge.chat().status, 200);
    // The token of another home stays.
    let ahead = publish_ahead();
    looked(&redis, 2);
    assert_eq!(shown(&redis), ahead);
    assert!(former.home.run(&["logout", "--local"]).code() == Some(0));
    until("the edge knows", || ready(&edge) == (503, json!("login_required")));
    let gone = shown(&redis);
    assert!(gone > ahead);
    let home = start(issuer.logged_in(&redis, "second", 3600));
    until("the edge serves again", || edge.chat().status == 200);
    // The former home neither takes that back nor counts as a second one.
    let newest = shown(&redis);
    looked(&redis, 3);
    assert_eq!((shown(&redis), ready(&edge).0, issuer.renewals()), (newest, 200, 0));
    for gateway in [&former, &home] {
        assert!(!gateway.said().contains("also renewed"), "{}", gateway.said());
    }
}

#[test]
fn for_edges_a_home_renews_at_most_once_in_ten_seconds() {
    if !has_redis() {
        return;
    }
    let (redis, issuer) = (Redis::start(&[]), Issuer::start());
    let _home = start(issuer.logged_in(&redis, "first", 3600));
    let edge = edge(&issuer, &redis);
    issuer.refuse_all();
    assert_eq!((edge.chat().status, issuer.renewals()), (200, 1));
    // That one is rejected as well.
    let rejected = shown(&redis);
    redis.command(&["SET", "{qa:default}:want:corp", &rejected.to_string()]);
    looked(&redis, 2);
    assert_eq!((issuer.renewals(), shown(&redis)), (1, rejected));
}

#[test]
fn a_home_killed_in_a_renewal_leaves_the_edges_their_token_until_it_ends() {
    if !has_redis() {
        return;
    }
    let (redis, issuer) = (Redis::start(&[]), Issuer::start());
    issuer.change(|state| state.holds = true);
    let mut home = start(issuer.logged_in(&redis, "first", 3600));
    until("the home has published", || shown(&redis) > 0);
    // What the edge gets lasts 5 s by the clock of the server, whatever other clocks say.
    let time = redis.command(&["TIME"]);
    let ends = (time.lines().next().unwrap().parse::<u64>().unwrap() + 5) * 1000;
    redis.command(&["HSET", "{qa:default}:tok:corp", "ends", &ends.to_string()]);
    let edge = edge(&issuer, &redis);
    redis.command(&["SET", "{qa:default}:want:corp", &shown(&redis).to_string()]);
    until("the home renews", || issuer.renewals() == 1);
    home.kill();
    assert_eq!(edge.chat().status, 200);
    until("the token has ended", || edge.chat().status == 503);
    let (status, why) = ready(&edge);
    assert!(status == 503 && (why == "token_expired" || why == "home_silent"), "{why}");
    until("the home is missed", || ready(&edge) == (503, json!("home_silent")));
    let got = edge.chat();
    assert_eq!((got.status, code(&got.body)), (503, json!("home_silent")));
    assert!(got.body.contains("has not responded for"), "{}", got.body);
    // That machine is gone for good: somebody logs in on another one.
    issuer.change(|state| state.holds = false);
    let _other = start(issuer.logged_in(&redis, "second", 3600));
    until("the edge serves again", || edge.chat().status == 200);
    assert_eq!(issuer.change(|state| state.chats.last().unwrap().0.clone()), "access-second");
}

#[test]
fn a_home_that_runs_and_cannot_renew_leaves_the_edges_their_token_until_it_ends() {
    if !has_redis() {
        return;
    }
    let (redis, issuer) = (Redis::start(&[]), Issuer::start());
    issuer.change(|state| state.holds = true);
    let _home = start(issuer.logged_in(&redis, "first", 3600));
    until("the home has published", || shown(&redis) > 0);
    let time = redis.command(&["TIME"]);
    let ends = (time.lines().next().unwrap().parse::<u64>().unwrap() + 5) * 1000;
    redis.command(&["HSET", "{qa:default}:tok:corp", "ends", &ends.to_string()]);
    let edge = edge(&issuer, &redis);
    redis.command(&["SET", "{qa:default}:want:corp", &shown(&redis).to_string()]);
    until("the home renews", || issuer.renewals() == 1);
    assert_eq!(edge.chat().status, 200);
    until("the token has ended", || ready(&edge) == (503, json!("token_expired")));
    let got = edge.chat();
    assert_eq!((got.status, code(&got.body)), (503, json!("token_expired")), "{}", got.body);
    assert!(got.body.contains("has expired, and its home"), "{}", got.body);
}

#[test]
fn a_home_renews_long_before_the_end_by_itself() {
    if !has_redis() {
        return;
    }
    let (mut redis, issuer) = (Redis::start(&[]), Issuer::start());
    // Of 92 s a quarter is used; by itself a request would renew only 30 s before the end.
    let _home = start(issuer.logged_in(&redis, "first", 92));
    let edge = edge(&issuer, &redis);
    redis.kill();
    until("the home renews", || issuer.renewals() == 1);
    assert_eq!(edge.chat().status, 200);
    assert_eq!(issuer.change(|state| state.chats.pop().unwrap().0), "access-first");
    redis.start_again();
    let newest = || edge.chat().status == 200 && issuer.change(|state| state.chats.pop().unwrap().0) == "access-1";
    until("the edge has the new token", newest);
    assert_eq!(issuer.renewals(), 1);
}

#[test]
fn while_the_server_is_unreachable_the_home_renews_and_the_edges_serve_from_memory() {
    if !has_redis() {
        return;
    }
    let (mut redis, issuer) = (Redis::start(&[]), Issuer::start());
    let home = start(issuer.logged_in(&redis, "first", 3600));
    let edge = edge(&issuer, &redis);
    redis.kill();
    assert_eq!(edge.chat().status, 200);
    // The home's own request sees a 401, and renews without the server.
    issuer.refuse_all();
    assert_eq!((home.chat().status, issuer.renewals()), (200, 1));
    // The edge can ask nobody, and says so at once.
    let got = edge.chat();
    assert!(got.status == 503 && got.body.contains("is unreachable"), "{} {}", got.status, got.body);
    redis.start_again();
    until("the edge has the new token", || edge.chat().status == 200);
    assert_eq!(issuer.renewals(), 1);
}

#[test]
fn an_older_token_on_the_server_costs_no_renewal() {
    if !has_redis() {
        return;
    }
    let (redis, issuer) = (Redis::start(&[]), Issuer::start());
    let home = start(issuer.logged_in(&redis, "first", 3600));
    let old_edge = edge(&issuer, &redis);
    let key = "{qa:default}:tok:corp";
    let fields = ["generation", "sealed", "ends"];
    let values: Vec<String> =
        fields.iter().map(|field| redis.command(&["HGET", key, field]).trim().to_owned()).collect();
    issuer.refuse_all();
    assert_eq!((old_edge.chat().status, issuer.renewals()), (200, 1));
    let newest = shown(&redis);
    // As after a failover that lost the newest, or a backup: the home is stopped, so that an edge sees the older one.
    home.pause();
    for (field, value) in fields.iter().zip(&values) {
        redis.command(&["HSET", key, field, value]);
    }
    assert!(shown(&redis) < newest);
    let new_edge = edge(&issuer, &redis);
    // The edge that had the newest goes on with it.
    assert_eq!(old_edge.chat().status, 200);
    let asked = thread::scope(|scope| {
        let asked = scope.spawn(|| new_edge.chat());
        let wanted = || redis.command(&["GET", "{qa:default}:want:corp"]).trim() == values[0];
        until("the new edge wants another", wanted);
        home.go_on();
        asked.join().unwrap()
    });
    assert_eq!((asked.status, issuer.renewals()), (200, 1), "{}", asked.body);
    assert!(shown(&redis) >= newest);
}

#[test]
fn a_second_home_by_a_copied_file_is_warned_about_and_a_restarted_one_is_not() {
    if !has_redis() {
        return;
    }
    let (redis, issuer) = (Redis::start(&[]), Issuer::start());
    let mut home = start(issuer.logged_in(&redis, "first", 3600));
    until("the home has published", || shown(&redis) > 0);
    home.kill();
    let copied = home.home.path().join("data/credentials/corp.json");
    let first = start(home.home.clone());
    let edge = edge(&issuer, &redis);
    let generation = shown(&redis);
    assert!(!first.said().contains("also renewed"), "{}", first.said());
    let machine = issuer.machine(&redis, SECRET);
    write_private(&machine.path().join("data/credentials/corp.json"), fs::read_to_string(copied).unwrap());
    let second = start(machine);
    for home in [&first, &second] {
        home.wait_for("the login of `corp` is also renewed on");
        assert_eq!(home.said().matches("also renewed").count(), 1, "{}", home.said());
    }
    assert_eq!(edge.chat().status, 200);
    // The same token has the same generation, whoever publishes it.
    assert_eq!((shown(&redis), issuer.renewals()), (generation, 0));
    // One of them renews: the other does not put its old token in the place of the new one.
    issuer.refuse_all();
    assert_eq!((first.chat().status, issuer.renewals()), (200, 1));
    until("the new token is there", || shown(&redis) > generation);
    let newest = shown(&redis);
    until("the edge has it", || edge.chat().status == 200);
    looked(&redis, 2);
    assert_eq!(shown(&redis), newest);
    drop(second);
}

#[test]
fn a_key_needs_no_home() {
    if !has_redis() {
        return;
    }
    let (redis, issuer) = (Redis::start(&[]), Issuer::start());
    issuer.change(|state| state.access.insert("sk-of-the-provider-0123456789".into()));
    let machine = |role: &[&str]| {
        let home = issuer.machine(&redis, SECRET);
        let key = home.path().join("key");
        write_private(&key, "sk-of-the-provider-0123456789\n");
        let url = format!("{}/v1", issuer.server.url());
        let config = home.path().join("config/config.toml");
        let text = fs::read_to_string(&config).unwrap().replace("profile = \"corp\"", "profile = \"team\"");
        let provider = format!("[providers.team]\nbase_url = \"{url}\"\nkey_file = \"{}\"\n", key.display());
        fs::write(config, text + &provider).unwrap();
        Gateway::start(home, &[&["--shared"], role].concat())
    };
    for gateway in [machine(&[]), machine(&["--serve", "edge"]), machine(&["--serve", "home"])] {
        assert_eq!((gateway.chat().status, ready(&gateway)), (200, (200, json!("valid"))));
    }
    assert_eq!(redis.command(&["KEYS", "*tok*"]).trim(), "");
}

#[test]
fn an_edge_sets_members_up_as_its_home_does() {
    if !has_redis() {
        return;
    }
    let (redis, issuer) = (Redis::start(&[]), Issuer::start());
    let pages = [issuer.logged_in(&redis, "first", 3600), issuer.machine(&redis, SECRET)].map(|home| {
        let gateway = Gateway::start_keyed(home, &[]);
        let got = gateway.get("/.well-known/opencode");
        assert_eq!(got.status, 200, "{}", got.body);
        got.body.replace(&gateway.port.to_string(), "PORT")
    });
    assert_eq!(pages[0], pages[1]);
    assert!(pages[0].contains("team/m"), "{}", pages[0]);
}

#[test]
fn a_role_without_a_team_secret_is_rejected() {
    if !has_redis() {
        return;
    }
    let (redis, issuer) = (Redis::start(&[]), Issuer::start());
    let home = issuer.machine(&redis, SECRET);
    fs::remove_file(home.path().join("data/team/secret")).unwrap();
    let refused = home.run(&["gateway", "--shared", "--serve", "edge"]);
    let stderr = &refused.stderr;
    assert!(refused.code() == Some(1) && stderr.contains("the team secret"), "{stderr}");
    // Without a role it is what it was before: nobody is logged in.
    assert_eq!(home.run(&["gateway", "--shared"]).code(), Some(4));
    assert_eq!(home.run(&["gateway", "--serve", "home"]).code(), Some(2));
}
