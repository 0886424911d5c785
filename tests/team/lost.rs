//! The server of the shared limits is lost, in each way it can be.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::limits::gateways;
use super::machine::{Gateway, Home, Redis, has_redis};
use super::provider::Provider;
use crate::cli::support::machine::{keeps_the_limit, until};

/// Twelve times as long as by default, so that a busy machine alone is no loss.
const CONFIG: &str = "[team]\ntimeout = \"3s\"\n";
const TIMEOUT: Duration = Duration::from_secs(3);

/// Each gateway asks `count` times; how many of all were served. But for the first ones, none waits for the server: more
/// than half would have to be slow for another reason, and by so much.
fn ask(gateways: &[Gateway], count: usize) -> usize {
    let got = gateways.iter().flat_map(|gateway| {
        let mut client = gateway.client();
        (0..count).map(move |_| client.chat()).collect::<Vec<_>>()
    });
    let mut got: Vec<_> = got.collect();
    assert!(got.iter().all(|got| [200, 429, 503].contains(&got.status)), "{got:?}");
    got.sort_by_key(|got| got.took);
    assert!(got[got.len() / 2].took < TIMEOUT, "{got:?}");
    got.iter().filter(|got| got.status == 200).count()
}

/// Four gateways that know of each other and of half the day's limit of 40.
fn half_a_day(redis: &Redis, provider: &Provider, config: &str) -> Vec<Gateway> {
    let gateways = gateways(provider, config, &redis.url(), &["--rpd", "40"]);
    assert_eq!(ask(&gateways, 5), 20);
    redis.hear_of_each_other(4);
    gateways
}

fn ready(gateway: &Gateway) -> (u16, String) {
    let got = gateway.get("/readyz");
    (got.status, got.body.trim().to_owned())
}

#[track_caller]
fn all_back(gateways: &[Gateway]) {
    for gateway in gateways {
        gateway.wait_for("are available again");
        assert!(ready(gateway).1.contains("\"shared\":\"up\""));
    }
}

/// The share of each of four in the 20 that were left.
const SHARE: usize = 5;

#[test]
fn after_a_kill_of_the_server_each_gateway_serves_its_share_and_says_so_once() {
    if !has_redis() {
        return;
    }
    let (mut redis, provider) = (Redis::start(&[]), Provider::start());
    let gateways = half_a_day(&redis, &provider, CONFIG);
    redis.kill();
    assert_eq!(ask(&gateways[..2], 8), 2 * SHARE);
    let refused = gateways[0].chat();
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    assert!(refused.body.contains("shared_state_unavailable"), "{refused:?}");
    assert_eq!(ready(&gateways[0]), (200, r#"{"ready":true,"credential":"valid","shared":"degraded"}"#.into()));
    assert_eq!(gateways[0].said().matches("lost the shared limits").count(), 1, "{}", gateways[0].said());
    // Restarted empty: what all had counted is there before anything more is served.
    redis.start_again();
    all_back(&gateways);
    assert_eq!(ask(&gateways, 8), 10);
    assert_eq!(provider.asked().len(), 40);
}

#[test]
fn while_the_server_is_stopped_only_the_first_requests_wait_and_nothing_is_lost() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let gateways = half_a_day(&redis, &provider, CONFIG);
    redis.pause();
    assert_eq!(ask(&gateways, 8), 4 * SHARE);
    redis.go_on();
    all_back(&gateways);
    assert_eq!(ask(&gateways, 2), 0);
    assert_eq!(provider.asked().len(), 40);
}

#[test]
fn a_promoted_replica_continues_with_the_counts_of_the_primary() {
    if !has_redis() {
        return;
    }
    let (mut primary, provider) = (Redis::start(&[]), Provider::start());
    let replica = primary.replica();
    let name = Moving::to(primary.port);
    let start = || {
        let home = Home::new(&provider, CONFIG, Some(&format!("redis://127.0.0.1:{}", name.port)));
        Gateway::start(home, &["--shared", "--rpd", "40"])
    };
    let gateways: Vec<Gateway> = (0..4).map(|_| start()).collect();
    assert_eq!(ask(&gateways, 5), 20);
    primary.hear_of_each_other(4);
    primary.command(&["WAIT", "1", "10000"]);
    primary.kill();
    name.moves(replica.port);
    // Not promoted yet: it takes no writes, and all go on with their shares.
    assert_eq!(ask(&gateways[..2], 8), 2 * SHARE);
    replica.command(&["REPLICAOF", "NO", "ONE"]);
    all_back(&gateways);
    assert_eq!(ask(&gateways, 8), 10);
    assert_eq!(provider.asked().len(), 40);
}

#[test]
fn a_read_only_server_counts_as_lost_until_it_is_writable() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let gateways = half_a_day(&redis, &provider, CONFIG);
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
    assert_eq!(ask(&gateways, 8), 4 * SHARE);
    assert!(gateways[0].said().contains("read-only"), "{}", gateways[0].said());
    redis.command(&["REPLICAOF", "NO", "ONE"]);
    all_back(&gateways);
    assert_eq!(ask(&gateways, 2), 0);
    assert_eq!(provider.asked().len(), 40);
}

#[test]
fn a_server_out_of_memory_counts_as_lost_until_there_is_room() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let gateways = half_a_day(&redis, &provider, CONFIG);
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(ask(&gateways, 8), 4 * SHARE);
    assert!(gateways[0].said().contains("memory is full"), "{}", gateways[0].said());
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    all_back(&gateways);
    assert_eq!(ask(&gateways, 2), 0);
    assert_eq!(provider.asked().len(), 40);
}

#[test]
fn without_the_server_refuse_serves_no_request_and_open_serves_all() {
    if !has_redis() {
        return;
    }
    for (word, served, ready_status) in [("refuse", 0, 503), ("open", 32, 200)] {
        let (mut redis, provider) = (Redis::start(&[]), Provider::start());
        let gateways = half_a_day(&redis, &provider, &format!("{CONFIG}on_loss = \"{word}\"\n"));
        redis.kill();
        assert_eq!(ask(&gateways, 8), served, "{word}");
        assert_eq!(ready(&gateways[0]).0, ready_status, "{word}");
    }
}

#[test]
fn a_gateway_that_starts_without_the_server_is_not_ready_until_it_is_reachable() {
    if !has_redis() {
        return;
    }
    let (mut redis, provider) = (Redis::start(&[]), Provider::start());
    redis.kill();
    let gateway = Gateway::start(Home::new(&provider, CONFIG, Some(&redis.url())), &["--shared", "--rpd", "40"]);
    assert_eq!(ready(&gateway), (503, r#"{"ready":false,"credential":"valid","shared":"unreachable"}"#.into()));
    assert_eq!(gateway.chat().status, 503);
    redis.start_again();
    until("the gateway is ready", || ready(&gateway).0 == 200);
    assert_eq!(gateway.chat().status, 200);
    assert_eq!(gateway.said().matches("; retrying").count(), 1, "{}", gateway.said());
}

/// A window's limit of 40 in 2 s, kept 2.54 s: before the loss, through it and after it no 2 s see more.
#[test]
fn a_window_holds_through_a_loss_and_a_server_that_comes_back_empty() {
    if !has_redis() {
        return;
    }
    let config = "[providers.custom.limits]\nrequests_per_minute = 40\nwindow = \"2s\"\n[team]\ntimeout = \"3s\"\n";
    let (mut redis, provider) = (Redis::start(&[]), Provider::start());
    let gateways = gateways(&provider, config, &redis.url(), &[]);
    let start = Instant::now();
    let asking = AtomicBool::new(true);
    // More than one window holds, so what is served is not only what was admitted before.
    let more = |what: &str| {
        let asked = provider.asked().len();
        until(what, || provider.asked().len() > asked + 40);
    };
    thread::scope(|scope| {
        // Also where one of the waits below fails.
        let over = Over(&asking);
        for gateway in gateways.iter().flat_map(|gateway| std::iter::repeat_n(gateway, 8)) {
            let asking = &asking;
            scope.spawn(move || {
                let mut client = gateway.client();
                while asking.load(Ordering::Relaxed) {
                    assert_eq!(client.chat().status, 200);
                }
            });
        }
        more("the second window is used");
        redis.kill();
        more("the shares of two windows are used");
        redis.start_again();
        all_back(&gateways);
        more("a second window is used at the server that came back");
        drop(over);
    });
    keeps_the_limit(provider.asked().iter().map(|asked| asked.at), start, 40, Duration::from_secs(2));
}

/// Ends the clients of a test.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Of what nobody asked about before the loss nothing is known, so nothing of it is anybody's.
#[test]
fn a_limit_that_was_not_used_before_the_loss_leaves_nothing_until_the_server_is_back() {
    if !has_redis() {
        return;
    }
    for limit in ["--rpd", "--rpm"] {
        let (mut redis, provider) = (Redis::start(&[]), Provider::start());
        let gateways = gateways(&provider, CONFIG, &redis.url(), &[limit, "40"]);
        redis.hear_of_each_other(4);
        redis.kill();
        assert_eq!(ask(&gateways, 2), 0, "{limit}");
        redis.start_again();
        all_back(&gateways);
        assert_eq!(ask(&gateways, 1), 4, "{limit}");
        assert_eq!(provider.asked().len(), 4, "{limit}");
    }
}

/// Its answers come, but too late: a network that swallows everything looks the same.
#[test]
fn a_server_slower_than_the_timeout_counts_as_lost_until_it_is_fast() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let name = Moving::to(redis.port);
    let gateways = gateways(&provider, CONFIG, &format!("redis://127.0.0.1:{}", name.port), &["--rpd", "40"]);
    assert_eq!(ask(&gateways, 5), 20);
    redis.hear_of_each_other(4);
    name.holds_answers(true);
    assert_eq!(ask(&gateways, 8), 4 * SHARE);
    assert!(gateways[0].said().contains("did not respond within"), "{}", gateways[0].said());
    name.holds_answers(false);
    all_back(&gateways);
    assert_eq!(ask(&gateways, 2), 0);
    assert_eq!(provider.asked().len(), 40);
}

/// Restarted with its data, which it reads for as long as the test wants.
#[test]
fn a_server_that_loads_its_data_counts_as_lost_until_it_has_them() {
    if !has_redis() {
        return;
    }
    let (mut redis, provider) = (Redis::start(&[]), Provider::start());
    let gateways = half_a_day(&redis, &provider, CONFIG);
    let fill = "for i = 1, 1000 do redis.call('SET', 'other:' .. i, string.rep('x', 100)) end";
    redis.command(&["EVAL", fill, "0"]);
    redis.dump();
    redis.kill();
    redis.start_slowly();
    let fresh = Gateway::start(Home::new(&provider, CONFIG, Some(&redis.url())), &["--shared", "--rpd", "40"]);
    fresh.wait_for("it is still loading its data");
    assert_eq!(fresh.chat().status, 503);
    assert_eq!(ask(&gateways, 8), 4 * SHARE);
    redis.command(&["CONFIG", "SET", "key-load-delay", "0"]);
    all_back(&gateways);
    until("the new gateway is ready", || ready(&fresh).0 == 200);
    // What was served in the meantime was added to what it read.
    assert_eq!(ask(&gateways, 2), 0);
    assert_eq!(provider.asked().len(), 40);
}

/// An address that moves from one server to another, as the name of a primary does.
pub(crate) struct Moving {
    pub(crate) port: u16,
    target: Arc<Mutex<(u16, Vec<TcpStream>)>>,
    held: Arc<(Mutex<bool>, Condvar)>,
}

/// Passes on what `from` sends, but not while it is held back.
fn pass(mut from: TcpStream, mut to: TcpStream, held: Option<&(Mutex<bool>, Condvar)>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if let Some((held, changed)) = held {
            drop(changed.wait_while(held.lock().unwrap(), |held| *held).unwrap());
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

impl Moving {
    pub(crate) fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let target = Arc::new(Mutex::new((port, Vec::new())));
        let held = Arc::new((Mutex::new(false), Condvar::new()));
        let (shared, holds) = (Arc::clone(&target), Arc::clone(&held));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let mut state = shared.lock().unwrap();
                let Ok(server) = TcpStream::connect(("127.0.0.1", state.0)) else { continue };
                state.1.push(client.try_clone().unwrap());
                let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || pass(from_client, to_server, None));
                let holds = Arc::clone(&holds);
                thread::spawn(move || pass(server, client, Some(&holds)));
            }
        });
        Self { port: own, target, held }
    }

    /// From now on answers are held back, or no more.
    pub(crate) fn holds_answers(&self, holds: bool) {
        *self.held.0.lock().unwrap() = holds;
        self.held.1.notify_all();
    }

    pub(crate) fn moves(&self, port: u16) {
        let mut state = self.target.lock().unwrap();
        state.0 = port;
        for stream in state.1.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
