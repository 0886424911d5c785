//! The scripts and the engine against a real server.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::task::Poll;
use std::time::{Instant, SystemTime};

use serde_json::json;
use tempfile::TempDir;

use super::super::together::Unit;
use super::*;
use crate::epoch;
use crate::keys::{Directory, KeyLimits, KeyRecord, Money, Publication, TeamSecret};
use crate::limits::{AccountWindows, Demand, Grant, KeyDecision, Left, Quota, Rate, Refused, Rule, Used, Zone};
use crate::platform::files::{PendingFile, Privacy};
use crate::providers::Limits as Figures;
use crate::providers::error::Cause;

/// A server for one test; none if Redis is not installed.
struct Server {
    process: Child,
    port: u16,
    directory: TempDir,
}

/// A port below the ephemeral ones: no other process gets it before the server has it, or while the server is down.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 100).unwrap() * 100;
    let ports = std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed) % 100);
    ports.take(100).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

impl Server {
    fn start() -> Option<Self> {
        let port = free_port();
        let directory = tempfile::tempdir().unwrap();
        let process = Self::run(port, &directory)?;
        Some(Self { process, port, directory })
    }

    fn run(port: u16, directory: &TempDir) -> Option<Child> {
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]);
        command.arg(directory.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(process) = command.spawn() else {
            let _ = writeln!(std::io::stdout(), "skipped: redis-server is not installed");
            return None;
        };
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::yield_now();
        }
        Some(process)
    }

    fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    fn start_again(&mut self) {
        self.process = Self::run(self.port, &self.directory).unwrap();
    }

    fn gateway(&self, on_loss: OnLoss) -> Rc<Shared> {
        // Far longer than a busy machine takes.
        self.impatient_gateway(on_loss, Duration::from_secs(10))
    }

    fn impatient_gateway(&self, on_loss: OnLoss, timeout: Duration) -> Rc<Shared> {
        let address = Address::parse(&format!("redis://127.0.0.1:{}", self.port), None, timeout).unwrap();
        let place = Where { address, namespace: "test".into(), on_loss };
        Shared::new(place, tls())
    }
}

/// For servers without a password.
pub(super) fn tls() -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run<F: Future<Output = ()>>(test: impl FnOnce(Server) -> F) {
    let Some(server) = Server::start() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test(server));
}

fn window(limit: u64, window: u64) -> Limit {
    Limit { kind: Kind::Window { window }, most: limit, name: "w".into(), quota: None }
}

fn day(limit: u64) -> Limit {
    Limit { kind: Kind::Day { begins: 0, ends: 9_000_000_000_000 }, most: limit, name: "d".into(), quota: None }
}

fn spend(limit: u64, add: u64) -> Limit {
    let kind = Kind::Spend { unit: Unit::Nanodollars, add, begins: 0, ends: 9_000_000_000_000 };
    Limit { kind, most: limit, name: "s".into(), quota: None }
}

async fn ask(shared: &Rc<Shared>, limits: Vec<Limit>) -> SharedDecision {
    shared.admit(move |_| limits.clone(), Duration::from_secs(600)).await
}

async fn go(shared: &Rc<Shared>, limits: Vec<Limit>) -> (Duration, String, Vec<u64>) {
    match ask(shared, limits.clone()).await {
        SharedDecision::Go { wait, ticket } => {
            let (standing, now) = (shared.link.standing.borrow(), shared.now());
            let left = limits.iter().map(|limit| limit.most.saturating_sub(standing.used(limit, now).0));
            (wait, ticket, left.collect())
        }
        other => panic!("{other:?}"),
    }
}

/// In seconds, because time passes between the requests.
fn whole(wait: Duration) -> u64 {
    (wait + Duration::from_secs(10)).as_secs() / 20 * 20
}

async fn until(mut what: impl FnMut() -> bool) {
    while !what() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the reports on ended requests have arrived.
async fn settled(shared: &Rc<Shared>) {
    until(|| shared.admissions.tickets.under_way.get() == 0).await;
}

#[test]
fn no_window_is_exceeded_over_four_gateways_and_the_first_are_not_delayed() {
    run(|server| async move {
        let mut gateways = Vec::new();
        for _ in 0..4 {
            let gateway = server.gateway(OnLoss::Share);
            gateway.begin().await;
            gateways.push(gateway);
        }
        let mut at = Vec::new();
        for number in 0..200 {
            let gateway = &gateways[number % 4];
            let (wait, ..) = go(gateway, vec![window(20, 3000), day(1000)]).await;
            at.push((gateway.now() + epoch::whole_milliseconds(wait), wait));
        }
        assert!(at[..20].iter().all(|(_, wait)| wait.is_zero()), "{:?}", &at[..20]);
        // As far apart as the server placed them, except for the rounding of four gateways' clocks.
        let mut times: Vec<u64> = at.iter().map(|(at, _)| *at).collect();
        assert!(times.windows(21).all(|times| times[20] + 20 >= times[0] + 3000), "{times:?}");
        times.sort_unstable();
        assert!(times[199] <= times[19] + 9 * 3000 + 20, "nobody waits longer than needed: {times:?}");
    });
}

#[test]
fn a_slow_key_holds_up_nobody_else() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let slow = Limit { name: "slow".into(), ..window(1, 60_000) };
        for minutes in 0..3 {
            let (wait, ..) = go(&gateway, vec![slow.clone(), window(5, 60_000)]).await;
            assert_eq!(whole(wait), 60 * minutes, "{wait:?}");
        }
        // Four more fit into this minute of the account, the next two into the following one.
        for expected in [0, 0, 0, 0, 60, 60, 60, 60, 120] {
            let (wait, ..) = go(&gateway, vec![window(5, 60_000)]).await;
            assert_eq!(whole(wait), expected, "{wait:?}");
        }
    });
}

#[test]
fn a_turn_given_back_is_had_by_the_next_and_no_window_breaks() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let limits = || vec![window(2, 60_000), day(10)];
        go(&gateway, limits()).await;
        go(&gateway, limits()).await;
        let (wait, ticket, left) = go(&gateway, limits()).await;
        assert!(wait > Duration::from_secs(59));
        assert_eq!(left[1], 7);
        gateway.end(ticket, Settlement::GivenBack);
        settled(&gateway).await;
        let (again, _, left) = go(&gateway, limits()).await;
        // Not sooner: the first two still count.
        assert!(again > Duration::from_secs(59) && again <= wait, "{again:?}");
        assert_eq!(left[1], 7);
    });
}

#[test]
fn a_reservation_is_cut_to_what_is_left_and_settled_once() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let (_, first, left) = go(&gateway, vec![spend(100, 70)]).await;
        assert_eq!(left, [30]);
        let (_, second, left) = go(&gateway, vec![spend(100, 70)]).await;
        assert_eq!(left, [0]);
        assert!(matches!(ask(&gateway, vec![spend(100, 70)]).await, SharedDecision::Refused { limit: 0, .. }));
        gateway.end(first.clone(), Settlement::Used { tokens: 0, cost: 20 });
        gateway.end(first, Settlement::Used { tokens: 0, cost: 20 });
        gateway.end(second, Settlement::AsEstimated);
        settled(&gateway).await;
        let (_, _, left) = go(&gateway, vec![spend(100, 1)]).await;
        assert_eq!(left, [100 - 20 - 30 - 1]);
    });
}

#[test]
fn requests_in_flight_are_counted_until_they_end() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let limit = || vec![Limit { kind: Kind::Parallel, most: 2, name: "p".into(), quota: None }];
        let (_, first, _) = go(&gateway, limit()).await;
        go(&gateway, limit()).await;
        assert!(matches!(ask(&gateway, limit()).await, SharedDecision::Refused { limit: 0, .. }));
        gateway.end(first, Settlement::AsEstimated);
        settled(&gateway).await;
        go(&gateway, limit()).await;
    });
}

#[test]
fn tokens_of_a_minute_are_corrected_when_a_response_ends() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let limit =
            || vec![Limit { kind: Kind::Tokens { window: 60_000, add: 60 }, most: 100, name: "t".into(), quota: None }];
        let (_, first, _) = go(&gateway, limit()).await;
        let (wait, second, _) = go(&gateway, limit()).await;
        assert!(wait > Duration::from_secs(59), "{wait:?}");
        gateway.end(second, Settlement::GivenBack);
        gateway.end(first, Settlement::Used { tokens: 30, cost: 0 });
        settled(&gateway).await;
        let (wait, ..) = go(&gateway, limit()).await;
        assert_eq!(wait, Duration::ZERO);
    });
}

#[test]
fn another_period_is_asked_about_when_the_servers_clock_says_so() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let now = gateway.now();
        // A day that ended before the server's time, then the day after it.
        let limits = move |at: u64| {
            let (begins, ends) = if at == 0 { (0, now) } else { (now, now + 86_400_000) };
            vec![Limit { kind: Kind::Day { begins, ends }, most: 1, name: format!("d{begins}").into(), quota: None }]
        };
        gateway.link.clock.ahead.set(gateway.link.clock.ahead.get() - 1000);
        let first = gateway.now();
        let shifted = move |at: u64| limits(if at <= first + 100 { 0 } else { at });
        assert!(matches!(gateway.admit(shifted, Duration::ZERO).await, SharedDecision::Go { .. }));
    });
}

#[test]
fn an_emptied_server_gets_the_largest_counts_back_before_it_decides() {
    run(|mut server| async move {
        let (one, two) = (server.gateway(OnLoss::Share), server.gateway(OnLoss::Share));
        for gateway in [&one, &two] {
            gateway.begin().await;
        }
        for gateway in [&one, &two] {
            gateway.beat().await;
        }
        let limits = || vec![window(10, 60_000), day(10), spend(100, 10)];
        for _ in 0..4 {
            go(&one, limits()).await;
            go(&two, limits()).await;
        }
        one.beat().await;
        server.stop();
        server.start_again();
        for gateway in [&one, &two] {
            gateway.beat().await;
            assert_eq!(gateway.health(), Health::Degraded);
        }
        let (first, second) = tokio::join!(one.probe(), two.probe());
        first.and(second).unwrap();
        let (_, _, left) = go(&one, limits()).await;
        assert_eq!(left, [1, 1, 10]);
        let (_, _, left) = go(&two, limits()).await;
        assert_eq!(left, [0, 0, 0]);
        assert!(matches!(ask(&one, limits()).await, SharedDecision::Refused { .. }));
    });
}

#[test]
fn what_was_admitted_alone_is_added_to_a_server_that_is_back() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let limits = || vec![window(10, 60_000), day(10), spend(100, 10)];
        let (_, before, _) = go(&gateway, limits()).await;
        gateway.link.lose("a test says so");
        let (_, alone, _) = go(&gateway, limits()).await;
        gateway.end(alone, Settlement::Used { tokens: 0, cost: 4 });
        gateway.end(before, Settlement::Used { tokens: 0, cost: 7 });
        settled(&gateway).await;
        let (_, still, _) = go(&gateway, limits()).await;
        gateway.probe().await.unwrap();
        let (_, _, left) = go(&gateway, limits()).await;
        assert_eq!(left, [6, 6, 100 - 4 - 7 - 10 - 10]);
        gateway.end(still, Settlement::Used { tokens: 0, cost: 12 });
        settled(&gateway).await;
        let (_, _, left) = go(&gateway, limits()).await;
        assert_eq!(left[2], 100 - 4 - 7 - 12 - 10 - 10);
    });
}

fn parallel(limit: u64) -> Limit {
    Limit { kind: Kind::Parallel, most: limit, name: "p".into(), quota: None }
}

/// Another connection to the server, over which a gateway that decides alone catches up with it.
async fn catching_up(shared: &Rc<Shared>) -> catch_up::CatchUp<'_> {
    catch_up::CatchUp { shared, connection: shared.link.connect().await.unwrap() }
}

#[test]
fn what_ends_while_a_gateway_that_decides_alone_catches_up_is_settled() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let limits = || vec![parallel(5), spend(1000, 100), day(10), quota(10, 3_600_000), window(10, 60_000)];
        go(&gateway, limits()).await;
        gateway.link.lose("a test says so");
        let (_, used, _) = go(&gateway, limits()).await;
        let (_, given_back, _) = go(&gateway, limits()).await;
        catching_up(&gateway).await.rejoin().await.unwrap();
        // The server has counted both, and does not decide yet.
        gateway.end(used, Settlement::Used { tokens: 0, cost: 4 });
        gateway.end(given_back, Settlement::GivenBack);
        let (_, never_told, _) = go(&gateway, limits()).await;
        gateway.end(never_told, Settlement::GivenBack);
        settled(&gateway).await;
        gateway.probe().await.unwrap();
        let (_, _, left) = go(&gateway, limits()).await;
        assert_eq!(left[1..], [1000 - 100 - 4 - 100, 7, 7, 7]);
        let mut connection = gateway.link.connection.borrow().clone().unwrap();
        let in_flight: u64 =
            redis::cmd("ZCARD").arg(gateway.link.names.of("p")).query_async(&mut connection).await.unwrap();
        assert_eq!(in_flight, 2, "the first and the last");
    });
}

#[test]
fn a_share_is_no_larger_after_the_server_was_told_what_was_used_of_it() {
    run(|server| async move {
        let (one, two) = (server.gateway(OnLoss::Share), server.gateway(OnLoss::Share));
        one.begin().await;
        two.begin().await;
        for limit in [day(20), spend(20, 1), quota(20, 3_600_000)] {
            for gateway in [&one, &two] {
                go(gateway, vec![limit.clone()]).await;
                gateway.beat().await;
            }
            // Of the eighteen that are left each has nine.
            two.beat().await;
            one.beat().await;
            for gateway in [&one, &two] {
                gateway.link.lose("a test says so");
                for _ in 0..9 {
                    go(gateway, vec![limit.clone()]).await;
                    catching_up(gateway).await.rejoin().await.unwrap();
                }
                let decision = ask(gateway, vec![limit.clone()]).await;
                assert!(matches!(decision, SharedDecision::Unavailable), "{limit:?}: {decision:?}");
            }
            one.probe().await.unwrap();
            // What both counted alone is known, even if the server is lost again before the next request.
            one.link.lose("a test says so");
            let decision = ask(&one, vec![limit.clone()]).await;
            assert!(matches!(decision, SharedDecision::Unavailable), "{limit:?}: {decision:?}");
            one.probe().await.unwrap();
            two.probe().await.unwrap();
            assert!(matches!(ask(&two, vec![limit.clone()]).await, SharedDecision::Refused { .. }), "{limit:?}");
        }
    });
}

#[test]
fn a_server_that_is_emptied_again_gets_back_what_it_was_told_before() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let limits = || vec![spend(1000, 100), day(10), quota(10, 3_600_000)];
        go(&gateway, limits()).await;
        gateway.link.lose("a test says so");
        let (_, alone, _) = go(&gateway, limits()).await;
        let mut catching_up = catching_up(&gateway).await;
        catching_up.rejoin().await.unwrap();
        gateway.end(alone, Settlement::Used { tokens: 0, cost: 4 });
        settled(&gateway).await;
        redis::cmd("FLUSHALL").exec_async(&mut catching_up.connection).await.unwrap();
        gateway.probe().await.unwrap();
        let (_, _, left) = go(&gateway, limits()).await;
        assert_eq!(left, [1000 - 100 - 4 - 100, 7, 7]);
    });
}

#[test]
fn all_gateways_wait_for_the_others_until_the_same_time() {
    run(|mut server| async move {
        let (one, two) = (server.gateway(OnLoss::Share), server.gateway(OnLoss::Share));
        one.begin().await;
        two.begin().await;
        one.beat().await;
        two.beat().await;
        server.stop();
        server.start_again();
        one.beat().await;
        let restored = one.link.names.of("restored");
        let mut connection = one.link.connect().await.unwrap();
        let (probed, ()) = tokio::join!(one.probe(), async {
            let mut returned = 0;
            while returned == 0 {
                returned = redis::cmd("SCARD").arg(&restored).query_async(&mut connection).await.unwrap();
            }
            assert_eq!(one.health(), Health::Degraded);
            // The time is over.
            let restoring = one.link.names.of("restoring");
            let left: i64 = redis::cmd("PTTL").arg(&restoring).query_async(&mut connection).await.unwrap();
            assert!((20_000..=31_000).contains(&left), "{left}");
            redis::cmd("DEL").arg(&restoring).exec_async(&mut connection).await.unwrap();
        });
        probed.unwrap();
        assert_eq!(one.health(), Health::Up);
    });
}

#[test]
fn a_server_whose_memory_is_full_is_not_available_again() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let limits = || vec![Limit::of_key("ann", "window", Kind::Window { window: 60_000 }, 9)];
        go(&gateway, limits()).await;
        let mut connection = gateway.link.connection.borrow().clone().unwrap();
        let set = |most| redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(most).to_owned();
        set(1).exec_async(&mut connection).await.unwrap();
        go(&gateway, limits()).await;
        for _ in 0..2 {
            assert_eq!(gateway.probe().await.unwrap_err().to_string(), "its memory is full");
            assert_eq!(gateway.health(), Health::Degraded);
        }
        set(0).exec_async(&mut connection).await.unwrap();
        gateway.probe().await.unwrap();
        // What a returning server is told last begins with such a write as well.
        set(1).exec_async(&mut connection).await.unwrap();
        assert!(catching_up(&gateway).await.rejoin().await.is_err());
    });
}

#[test]
fn a_server_that_may_evict_counters_is_refused() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        let mut connection = gateway.link.connect().await.unwrap();
        for (policy, is_refused) in [("allkeys-lru", true), ("volatile-lru", true), ("noeviction", false)] {
            let mut command = redis::cmd("CONFIG");
            command.arg("SET").arg("maxmemory-policy").arg(policy);
            command.exec_async(&mut connection).await.unwrap();
            let checked = inspect::check(&gateway.link.address, &mut connection).await;
            assert_eq!(checked.is_err(), is_refused, "{policy}");
        }
    });
}

#[test]
fn a_stopped_server_is_waited_for_once() {
    run(|server| async move {
        let gateway = server.impatient_gateway(OnLoss::Share, Duration::from_millis(500));
        gateway.begin().await;
        go(&gateway, vec![day(1000)]).await;
        let id = server.process.id().to_string();
        assert!(Command::new("kill").args(["-STOP", &id]).status().unwrap().success());
        let since = Instant::now();
        go(&gateway, vec![day(1000)]).await;
        assert!(since.elapsed() >= Duration::from_millis(490), "{:?}", since.elapsed());
        for _ in 0..50 {
            let mut asking = Box::pin(ask(&gateway, vec![day(1000)]));
            let decided = std::future::poll_fn(|context| Poll::Ready(asking.as_mut().poll(context))).await;
            assert!(matches!(decided, Poll::Ready(SharedDecision::Go { .. })), "it waits: {}", decided.is_pending());
        }
        assert!(Command::new("kill").args(["-CONT", &id]).status().unwrap().success());
        let keeping = tokio::task::spawn_local(Rc::clone(&gateway).maintain());
        until(|| gateway.health() == Health::Up).await;
        keeping.abort();
    });
}

#[test]
fn the_answer_to_a_client_that_left_is_given_back() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let mut asking = Box::pin(ask(&gateway, vec![day(10)]));
        // Polled once: the request has been sent, and no task waits for the response.
        std::future::poll_fn(|context| Poll::Ready(asking.as_mut().poll(context).is_pending())).await;
        drop(asking);
        // Counted, then released.
        while gateway.count("d") != Some(0) {
            gateway.beat().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (_, _, left) = go(&gateway, vec![day(10)]).await;
        assert_eq!(left, [9]);
    });
}

#[test]
fn a_record_serves_without_the_server_for_15_minutes_after_it_was_seen_last() {
    run(|server| async move {
        let (gateway, secret) = (server.gateway(OnLoss::Share), TeamSecret::new());
        gateway.begin().await;
        let (record, _) = KeyRecord::create("ann", &secret, SystemTime::now());
        let published = record.published();
        let id = published.id.clone();
        let publication = Publication { source: "here".into(), revision: 1, records: vec![published] };
        let mut connection = gateway.link.connection.borrow().clone().unwrap();
        let outcome = published::publish(&mut connection, &gateway.link.names, &publication, None, &[]).await.unwrap();
        assert!(matches!(outcome, Outcome::Published), "{outcome:?}");
        assert!(gateway.keys.record(&id, false).await.unwrap().is_some());
        assert!(gateway.keys.record("none", false).await.unwrap().is_none());
        assert_eq!(gateway.keys.record_named("ann").await.unwrap().map(|key| key.record.id.clone()), Some(id.clone()));
        assert!(gateway.keys.record_named("bob").await.unwrap().is_none());
        gateway.link.lose("a test says so");
        assert!(gateway.keys.record(&id, false).await.unwrap().is_some());
        assert!(gateway.keys.record("none", false).await.is_err(), "nobody can say that it is none");
        gateway.keys.records.age(&id, 899_000);
        assert!(gateway.keys.record(&id, false).await.is_ok());
        gateway.keys.records.age(&id, 1_000);
        assert!(gateway.keys.record(&id, false).await.is_err());
    });
}

#[test]
fn older_keys_and_those_of_another_team_replace_none() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let mut connection = gateway.link.connection.borrow().clone().unwrap();
        let (record, _) = KeyRecord::create("ann", &TeamSecret::new(), SystemTime::now());
        let id = record.id.clone();
        for (source, revision, records, expected) in [
            ("here", 2, vec![record.published()], "published"),
            ("here", 1, vec![], "known"),
            ("here", 2, vec![], "known"),
            ("there", 3, vec![], "foreign"),
        ] {
            let publication = Publication { source: source.into(), revision, records };
            let lines = [(revision, format!("line {revision}"))];
            let outcome =
                published::publish(&mut connection, &gateway.link.names, &publication, None, &lines).await.unwrap();
            assert!(format!("{outcome:?}").to_lowercase().starts_with(expected), "{source} {revision}: {outcome:?}");
            assert!(gateway.keys.record(&id, true).await.unwrap().is_some());
        }
        let publication = Publication { source: "here".into(), revision: 4, records: vec![] };
        published::publish(&mut connection, &gateway.link.names, &publication, None, &[]).await.unwrap();
        assert!(gateway.keys.record(&id, true).await.unwrap().is_none(), "a later one without the key removes it");
        let lines: u64 = redis::cmd("XLEN").arg(gateway.link.names.audit()).query_async(&mut connection).await.unwrap();
        assert_eq!(lines, 1);
    });
}

#[test]
fn usage_that_is_told_twice_counts_once() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let text = || "x".to_owned();
        let row =
            Row { day: "2026-01-01".into(), profile: text(), provider: text(), model: text(), key: None, owner: None };
        gateway.enter(row.clone(), [("requests", 3), ("tries", 0)]);
        gateway.ledger.send().await;
        gateway.enter(row.clone(), [("requests", 4)]);
        // The response to this report is lost, and it is sent again.
        let again = gateway.ledger.unsent.borrow_mut().next_rows();
        gateway.ledger.send().await;
        gateway.ledger.unsent.borrow_mut().put_back(again);
        gateway.ledger.send().await;
        let mut connection = gateway.link.connection.borrow().clone().unwrap();
        let fields: Vec<(String, String)> = redis::cmd("HGETALL")
            .arg(gateway.link.names.usage("2026-01-01"))
            .query_async(&mut connection)
            .await
            .unwrap();
        let mut sums = BTreeMap::new();
        ledger::read_day("2026-01-01", fields, &mut sums);
        assert_eq!(sums[&row], BTreeMap::from([("requests".to_owned(), 7)]));
    });
}

#[test]
fn counts_no_double_can_hold_are_no_reason_to_lose_the_server() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let most = 1 << 52;
        let limits = || vec![spend(most, most - 1), Limit { name: "d".into(), ..day(most) }];
        let (_, ticket, left) = go(&gateway, limits()).await;
        assert_eq!(left, [1, most - 1]);
        gateway.end(ticket, Settlement::Used { tokens: 0, cost: most - 1 });
        settled(&gateway).await;
        let (_, _, left) = go(&gateway, limits()).await;
        assert_eq!(left, [0, most - 2]);
        assert_eq!(gateway.health(), Health::Up);
    });
}

#[test]
fn a_request_that_moves_gives_its_key_the_place_back_and_leaves_the_accounts() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let kind = Kind::Window { window: 60_000 };
        let of_key = Limit::of_key("ann", "window", kind, 1);
        let limits = || vec![of_key.clone(), window(1, 60_000)];
        let (_, moved, _) = go(&gateway, limits()).await;
        gateway.end(moved, Settlement::Moved);
        settled(&gateway).await;
        let (wait, ..) = go(&gateway, vec![of_key.clone()]).await;
        assert_eq!(wait, Duration::ZERO, "the key has room");
        let (wait, ..) = go(&gateway, vec![window(1, 60_000)]).await;
        assert!(wait > Duration::from_secs(59), "the account has none: {wait:?}");
    });
}

fn quota(limit: u64, window: u64) -> Limit {
    Limit { kind: Kind::Quota { window }, most: limit, name: "q".into(), quota: Some(Cause::FiveHours) }
}

#[test]
fn a_quota_holds_over_gateways_refuses_at_once_and_has_room_when_its_oldest_slice_has_left() {
    run(|server| async move {
        let (one, two) = (server.gateway(OnLoss::Share), server.gateway(OnLoss::Share));
        for gateway in [&one, &two] {
            gateway.begin().await;
        }
        // Slices of 100 ms.
        let (window, limits) = (12_800, || vec![quota(3, 12_800)]);
        let since = one.now();
        let (_, ticket, left) = go(&one, limits()).await;
        assert_eq!(left, [2]);
        go(&two, limits()).await;
        let (_, _, left) = go(&one, limits()).await;
        assert_eq!(left, [0]);
        let SharedDecision::Refused { limit: 0, wait } = ask(&two, limits()).await else { panic!("it is used up") };
        let ends = two.now() + epoch::whole_milliseconds(wait);
        assert!((since + window..=two.now() + window + 100).contains(&ends), "{ends}");
        // A request that is not sent gives its place back to all.
        one.end(ticket, Settlement::GivenBack);
        settled(&one).await;
        go(&two, limits()).await;
        assert!(matches!(ask(&one, limits()).await, SharedDecision::Refused { limit: 0, .. }));
        // What left the window counts no more.
        let mut connection = one.link.connection.borrow().clone().unwrap();
        let key = one.link.names.of("q");
        let _: u64 = redis::cmd("DEL").arg(&key).query_async(&mut connection).await.unwrap();
        let old = (one.now() - window) / 100 - 1;
        let _: u64 = redis::cmd("HSET").arg(&key).arg(old).arg(3).query_async(&mut connection).await.unwrap();
        one.beat().await;
        let (_, _, left) = go(&one, limits()).await;
        assert_eq!(left, [2]);
        // After a failover to a server whose clock is far behind, they count from now on.
        let later = (one.now() + 2 * 3_600_000) / 100;
        let _: u64 = redis::cmd("HSET").arg(&key).arg(later).arg(2).query_async(&mut connection).await.unwrap();
        let SharedDecision::Refused { limit: 0, wait } = ask(&one, limits()).await else { panic!("it is used up") };
        assert!(wait <= Duration::from_millis(window + 100), "{wait:?}");
    });
}

#[test]
fn a_quota_comes_back_to_an_emptied_server_and_alone_each_gateway_has_its_part() {
    run(|mut server| async move {
        let (one, two) = (server.gateway(OnLoss::Share), server.gateway(OnLoss::Share));
        for gateway in [&one, &two] {
            gateway.begin().await;
        }
        let limits = || vec![quota(20, 3_600_000)];
        for _ in 0..4 {
            go(&one, limits()).await;
            go(&two, limits()).await;
        }
        for gateway in [&one, &two] {
            gateway.beat().await;
        }
        server.stop();
        for gateway in [&one, &two] {
            gateway.beat().await;
            // Of the twelve that are left each has six.
            for _ in 0..6 {
                assert!(matches!(ask(gateway, limits()).await, SharedDecision::Go { .. }));
            }
            assert!(matches!(ask(gateway, limits()).await, SharedDecision::Unavailable));
        }
        server.start_again();
        let (first, second) = tokio::join!(one.probe(), two.probe());
        first.and(second).unwrap();
        assert!(matches!(ask(&one, limits()).await, SharedDecision::Refused { limit: 0, .. }));
        let mut connection = one.link.connection.borrow().clone().unwrap();
        let counts: Vec<u64> =
            redis::cmd("HVALS").arg(one.link.names.of("q")).query_async(&mut connection).await.unwrap();
        assert_eq!(counts.iter().sum::<u64>(), 20);
        // What came back is seen here, too.
        two.beat().await;
        assert_eq!(two.link.standing.borrow().used(&quota(20, 3_600_000), two.now()).0, 20);
    });
}

#[test]
fn tokens_of_a_minute_come_back_to_an_emptied_server() {
    run(|mut server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let limit =
            || vec![Limit { kind: Kind::Tokens { window: 60_000, add: 60 }, most: 100, name: "t".into(), quota: None }];
        go(&gateway, limit()).await;
        server.stop();
        server.start_again();
        gateway.beat().await;
        gateway.probe().await.unwrap();
        let (wait, ..) = go(&gateway, limit()).await;
        assert!(wait > Duration::from_secs(58), "{wait:?}");
    });
}

#[test]
fn what_a_request_in_flight_reserves_is_extended_while_its_gateway_lives() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let (_, ticket, _) = go(&gateway, vec![spend(100, 70)]).await;
        let held = gateway.link.names.of("s:held");
        let mut connection = gateway.link.connection.borrow().clone().unwrap();
        // A second later it would be free.
        let soon = format!("{}:70", gateway.now() + 1000);
        let _: u64 = redis::cmd("HSET").arg(&held).arg(&ticket).arg(soon).query_async(&mut connection).await.unwrap();
        gateway.beat().await;
        let entry: String = redis::cmd("HGET").arg(&held).arg(&ticket).query_async(&mut connection).await.unwrap();
        let until: u64 = entry.strip_suffix(":70").unwrap().parse().unwrap();
        assert!(until > gateway.now() + 899_000, "{entry}");
    });
}

#[test]
fn beside_an_older_copy_of_keys_json_the_servers_later_record_counts_until_the_file_is_later() {
    run(|server| async move {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("keys.json");
        let (record, _) = KeyRecord::create("ann", &TeamSecret::new(), SystemTime::now());
        let write = |revision: u64, record: &KeyRecord| {
            let text = json!({ "schema": 1, "revision": revision, "source": "here", "keys": [record] });
            PendingFile::reserve(&file, 0, Privacy::Private).unwrap().write(text.to_string().as_bytes()).unwrap();
        };
        write(0, &record);
        let gateway = server.gateway(OnLoss::Share);
        gateway.keys.records.begin_with(Directory::open(&file).unwrap());
        gateway.begin().await;
        let mut connection = gateway.link.connection.borrow().clone().unwrap();
        let mut later = record.clone();
        later.owner = Some("later".into());
        let text = format!("later {}", later.published().text);
        let _: u64 = redis::cmd("HSET")
            .arg(gateway.link.names.records())
            .arg(&record.id)
            .arg(text)
            .query_async(&mut connection)
            .await
            .unwrap();
        let known = gateway.keys.record(&record.id, false).await.unwrap().unwrap();
        let decision = gateway.admissions.admit(Some(known), |_| Vec::new(), Duration::ZERO).await;
        assert!(matches!(&decision, SharedDecision::Changed(Some(record)) if **record == later), "{decision:?}");
        let known = gateway.keys.record(&record.id, false).await.unwrap().unwrap();
        assert_eq!((known.record.owner.as_deref(), &*known.version), (Some("later"), "later"));
        // The file changes while the server is unreachable: the change applies here at once.
        gateway.link.lose("a test says so");
        let mut revoked = record.clone();
        revoked.revoked_at = Some(1);
        write(1, &revoked);
        let known = gateway.keys.record(&record.id, false).await.unwrap().unwrap();
        assert_eq!(known.record.revoked_at, Some(1));
    });
}

#[test]
fn a_changed_password_is_read_for_the_next_connection() {
    run(|server| async move {
        let file = server.directory.path().join("password");
        let write =
            |password: &[u8]| PendingFile::reserve(&file, 0, Privacy::Private).unwrap().write(password).unwrap();
        write(b"first\n");
        let url = format!("redis://127.0.0.1:{}", server.port);
        let address = Address::parse(&url, Some(file.clone()), Duration::from_secs(10)).unwrap();
        let without = Address::parse(&url, None, Duration::from_secs(10)).unwrap();
        let tls = Arc::new(tls());
        let mut connection = without.connect(&tls).await.unwrap();
        let set = |password| redis::cmd("CONFIG").arg("SET").arg("requirepass").arg(password).to_owned();
        set("first").exec_async(&mut connection).await.unwrap();
        let mut connection = address.connect(&tls).await.unwrap();
        set("second").exec_async(&mut connection).await.unwrap();
        let rejected = address.connect(&tls).await.err().unwrap();
        assert_eq!(rejected.to_string(), "it rejected the password");
        write(b"second\n");
        assert!(address.connect(&tls).await.is_ok());
    });
}

/// Runs what blocks beside the runtime of a test.
#[expect(clippy::disallowed_methods, reason = "a test may panic")]
fn aside<T: Send>(ask: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(ask).join().unwrap())
}

fn place_of(address: Address) -> Where {
    Where { address, namespace: "test".into(), on_loss: OnLoss::Share }
}

impl Server {
    fn place(&self) -> Where {
        place_of(Address::parse(&format!("redis://127.0.0.1:{}", self.port), None, Duration::from_secs(10)).unwrap())
    }
}

/// A server that gives one answer to everything.
fn answering(answer: String) -> Where {
    answering_many(answer, Arc::default())
}

/// The same; `connections` counts those to it.
#[expect(clippy::disallowed_methods, reason = "a test may panic")]
fn answering_many(answer: String, connections: Arc<AtomicU16>) -> Where {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            connections.fetch_add(1, Ordering::Relaxed);
            let mut buffer = [0; 4096];
            while stream.read(&mut buffer).is_ok_and(|count| count > 0) {
                if stream.write_all(answer.as_bytes()).is_err() {
                    break;
                }
            }
        }
    });
    place_of(Address::parse(&format!("redis://127.0.0.1:{port}"), None, Duration::from_secs(10)).unwrap())
}

#[test]
fn a_server_that_must_not_be_used_is_refused_and_one_that_is_away_is_not() {
    for (info, refused) in [
        ("redis_version:7.2.4\r\nredis_mode:sentinel", Some("is a Sentinel")),
        ("redis_version:7.2.4\r\ncluster_enabled:1", Some("is part of a cluster")),
        ("redis_version:6.1.9", Some("is Redis 6.1.9")),
        ("redis_version:5.9.0", Some("is Redis 5.9.0")),
        ("", Some("is Redis ")),
        ("redis_version:7.2.4\r\nmaxmemory_policy:allkeys-lfu", Some("`maxmemory-policy allkeys-lfu`")),
        ("redis_version:7.2.4\r\nmaxmemory_policy:volatile-lru", Some("`maxmemory-policy volatile-lru`")),
        ("redis_version:6.2.0\r\nmaxmemory_policy:noeviction", None),
        ("redis_version:7.0.0\r\ncluster_enabled:0\r\nredis_mode:standalone", None),
        ("redis_version:6.1.0\r\nvalkey_version:8.1.0", None),
    ] {
        let place = answering(format!("${}\r\n{info}\r\n", info.len()));
        let checked = place.check(tls(), None).err().map(|error| error.to_string());
        match refused {
            Some(words) => assert!(checked.as_ref().is_some_and(|text| text.contains(words)), "{info}: {checked:?}"),
            None => assert_eq!(checked, None, "{info}"),
        }
    }
    // It does not serve now, which a gateway waits for, and commands report.
    for (answer, words) in [
        ("READONLY no", "it is read-only, like a replica"),
        ("LOADING no", "it is still loading its data"),
        ("MASTERDOWN no", "it is a replica without its primary"),
        ("OOM no", "its memory is full"),
        ("NOAUTH no", "it rejected the password"),
        ("WRONGPASS no", "it rejected the password"),
        ("ERR Error running script: -READONLY no", "it is read-only, like a replica"),
        ("ERR Error running script: -OOM no", "its memory is full"),
        ("ERR out of patience", "out of patience"),
    ] {
        let place = answering(format!("-{answer}\r\n"));
        assert!(place.check(tls(), None).is_ok(), "{answer}");
        let error = place.foreign_host(tls(), None).unwrap_err().to_string();
        assert!(error.contains(words), "{answer}: {error}");
    }
}

#[test]
fn keys_are_those_of_one_keys_json_and_one_secret() {
    let Some(server) = Server::start() else { return };
    let place = server.place();
    let is_right = |check: &str, source: Option<&str>| {
        let keys = KeysHere { check: check.into(), source: source.map(str::to_owned) };
        place.check(tls(), Some(&keys)).is_ok()
    };
    let foreign = |source| place.foreign_host(tls(), source).unwrap();
    assert!(is_right("two", None) && foreign(None).is_none(), "there are no keys yet");
    let publication = Publication { source: "here".into(), revision: 1, records: Vec::new() };
    let outcome = place.publish(tls(), &publication, Some("one"), &[(1, "line".into())]).unwrap();
    assert!(matches!(outcome, Outcome::Published), "{outcome:?}");
    assert!(is_right("one", None) && is_right("one", Some("there")) && is_right("two", Some("here")));
    assert!(!is_right("two", None) && !is_right("two", Some("there")));
    place.check(tls(), None).unwrap();
    let host = crate::platform::system::host_name().unwrap_or_default();
    assert_eq!((foreign(Some("here")), foreign(Some("there")), foreign(None)), (None, Some(host.clone()), Some(host)));
}

#[test]
fn a_token_is_replaced_by_a_later_one_only_and_asked_for_by_edges() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let nothing = gateway.token_of("a").look(0).await.unwrap();
        assert_eq!((nothing.generation, nothing.sealed, nothing.home, nothing.silent), (0, None, None, 0));
        let publish = |profile: &'static str, generation: u64, sealed: &'static str| {
            let gateway = Rc::clone(&gateway);
            async move { gateway.token_of(profile).publish(generation, sealed, 90_000).await }
        };
        assert_eq!(publish("a", 7, "seven").await, Some(7));
        assert_eq!(publish("a", 6, "six").await, Some(7));
        assert_eq!(publish("b", 3, "three").await, Some(3));
        let watched = gateway.token_of("a").watch("one", "machine").await.unwrap();
        assert_eq!((watched.generation, watched.wanted, watched.other), (7, 0, None));
        assert_eq!((gateway.token_of("a").want(7).await, gateway.token_of("a").want(5).await), (Some(7), Some(7)));
        let watched = gateway.token_of("a").watch("two", "another").await.unwrap();
        assert_eq!((watched.generation, watched.wanted, watched.other.as_deref()), (7, 7, Some("machine")));
        for (known, sealed) in [(0, Some("seven")), (7, None)] {
            let looked = gateway.token_of("a").look(known).await.unwrap();
            assert_eq!((looked.generation, looked.sealed.as_deref()), (7, sealed));
            assert!((80_000..=90_000).contains(&looked.left), "{}", looked.left);
            assert_eq!(looked.home.as_deref(), Some("another"));
        }
        let looked = gateway.token_of("b").look(0).await.unwrap();
        assert_eq!((looked.generation, looked.sealed.as_deref(), looked.home), (3, Some("three"), None));
        gateway.link.lose("a test says so");
        assert!(gateway.token_of("a").look(0).await.is_none());
    });
}

/// A gateway with keys that the server has.
struct Keyed {
    gateway: Rc<Shared>,
    keys: SharedKeys,
    directory: TempDir,
}

/// A request of ten tokens that costs 40.
fn demand(key: &Rc<KeyRecord>) -> Demand {
    Demand { key: Rc::clone(key), tokens: 10, cost: Money(40), longest_wait: Duration::ZERO, repeats: false }
}

impl Keyed {
    async fn start(server: &Server) -> Self {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let directory = tempfile::tempdir().unwrap();
        let keys = SharedKeys::open(&gateway, &directory.path().join("keys.json"), &TeamSecret::new()).unwrap();
        Self { gateway, keys, directory }
    }

    /// Publishes these keys in the place of all others.
    async fn publish(&self, revision: u64, records: &[&KeyRecord]) {
        let records = records.iter().map(|record| record.published()).collect();
        let publication = Publication { source: "there".into(), revision, records };
        let mut connection = self.gateway.link.connection.borrow().clone().unwrap();
        let names = &self.gateway.link.names;
        let outcome = published::publish(&mut connection, names, &publication, None, &[]).await.unwrap();
        assert!(matches!(outcome, Outcome::Published), "{outcome:?}");
    }

    async fn go(&self, demand: &Demand, account: Option<&AccountWindows>) -> (Duration, Duration, Grant, Left) {
        match self.keys.admit(demand, account).await {
            KeyDecision::Go { wait, spread, grant, left } => (wait, spread, grant, left),
            KeyDecision::Refused { reason, .. } => panic!("{reason:?}"),
            KeyDecision::Changed(record) => panic!("{record:?}"),
        }
    }

    async fn refused(&self, demand: &Demand, account: Option<&AccountWindows>) -> (Refused, Left) {
        match self.keys.admit(demand, account).await {
            KeyDecision::Refused { reason, left } => (reason, left),
            KeyDecision::Go { .. } | KeyDecision::Changed(_) => panic!("it is not refused"),
        }
    }

    fn account(&self, name: &str, rule: Rule, quotas: Vec<Quota>) -> AccountWindows {
        let shared = Rc::new(SharedAccount::new(name.into(), rule.clone(), quotas));
        AccountWindows { rate: RefCell::new(Rate::open(self.directory.path(), "x", name, rule)), shared: Some(shared) }
    }
}

fn limited(change: impl FnOnce(&mut KeyLimits)) -> KeyRecord {
    let (mut record, _) = KeyRecord::create("ann", &TeamSecret::new(), SystemTime::now());
    change(&mut record.limits);
    record
}

fn changed(record: &KeyRecord, change: impl FnOnce(&mut KeyRecord)) -> KeyRecord {
    let mut record = record.clone();
    change(&mut record);
    record
}

fn seconds_until(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::now()).unwrap().as_secs()
}

#[test]
fn each_limit_of_a_key_refuses_by_its_name() {
    run(|server| async move {
        let keyed = Keyed::start(&server).await;
        let records = [
            limited(|limits| limits.requests_per_minute = Some(2)),
            limited(|limits| limits.tokens_per_minute = Some(20)),
            limited(|limits| limits.parallel = Some(2)),
            limited(|limits| limits.requests_per_day = Some(2)),
            limited(|limits| limits.tokens_per_day = Some(15)),
            limited(|limits| limits.budget = Some("0.000000060 USD/month".parse().unwrap())),
        ];
        keyed.publish(1, &records.each_ref()).await;
        let mut reasons = Vec::new();
        for record in records.map(Rc::new) {
            let demand = demand(&record);
            let (wait, spread, _, _) = keyed.go(&demand, None).await;
            assert_eq!((wait, spread), (Duration::ZERO, Duration::ZERO));
            keyed.go(&demand, None).await;
            reasons.push(keyed.refused(&demand, None).await.0);
            // What a request does not use it does not wait for.
            let is_of_use = record.limits.tokens_per_minute.or(record.limits.budget.map(|_| 0)).is_some();
            if is_of_use || record.limits.tokens_per_day.is_some() {
                keyed.go(&Demand { tokens: 0, cost: Money(0), ..demand }, None).await;
            }
        }
        let is_a_minute = |wait: &Duration| (59..=62).contains(&wait.as_secs());
        assert!(matches!(&reasons[0], Refused::KeyRate { wait } if is_a_minute(wait)), "{reasons:?}");
        assert!(matches!(&reasons[1], Refused::KeyRate { wait } if is_a_minute(wait)), "{reasons:?}");
        assert_eq!(reasons[2], Refused::KeyParallel);
        assert!(matches!(reasons[3], Refused::KeyDay { ends } if seconds_until(ends) <= 86_400), "{reasons:?}");
        assert_eq!(reasons[4..], [Refused::KeyReserved; 2]);
    });
}

#[test]
fn each_limit_of_an_account_refuses_a_key_by_its_name() {
    run(|server| async move {
        let keyed = Keyed::start(&server).await;
        let record = limited(|_| {});
        keyed.publish(1, &[&record]).await;
        let demand = demand(&Rc::new(record));
        let rule = |per_window: Option<u32>, per_day: Option<u32>| {
            let window = Duration::from_secs(60);
            Rule { per_window, burst: None, window, per_day, day_refuses: true, zone: Zone::utc(), waits: true }
        };
        let quotas = |of_5_hours: Option<u32>, of_week: Option<u32>| {
            let mut figures = Figures::default();
            (figures.requests_per_5h, figures.requests_per_week) = (of_5_hours, of_week);
            figures.week_resets = Some("Mon 00:00 UTC".into());
            Quota::of(&figures)
        };
        let accounts = [
            keyed.account("window", rule(Some(2), None), Vec::new()),
            keyed.account("day", rule(None, Some(2)), Vec::new()),
            keyed.account("5h", rule(None, None), quotas(Some(2), None)),
            keyed.account("week", rule(None, None), quotas(None, Some(2))),
        ];
        let mut reasons = Vec::new();
        for account in &accounts {
            keyed.go(&demand, Some(account)).await;
            keyed.go(&demand, Some(account)).await;
            reasons.push(keyed.refused(&demand, Some(account)).await.0);
        }
        assert!(matches!(&reasons[0], Refused::AccountRate { wait } if wait.as_secs() >= 59), "{reasons:?}");
        assert!(matches!(reasons[1], Refused::AccountDay { ends } if seconds_until(ends) <= 86_400), "{reasons:?}");
        let of = |reason: &Refused| match reason {
            Refused::AccountQuota(used_up) => Some((used_up.cause, seconds_until(used_up.ends))),
            _ => None,
        };
        assert!(matches!(of(&reasons[2]), Some((Cause::FiveHours, 17_990..=19_000))), "{reasons:?}");
        assert!(matches!(of(&reasons[3]), Some((Cause::Week, 0..=604_800))), "{reasons:?}");
        // What all counted, as commands read it.
        let place = server.place();
        let counted = aside(move || {
            let window = SharedAccount::new("window".into(), rule(Some(2), Some(9)), Vec::new());
            let of_5_hours = SharedAccount::new("5h".into(), rule(None, None), quotas(Some(2), Some(2)));
            let day = SharedAccount::new("day".into(), rule(None, Some(2)), Vec::new());
            let week = SharedAccount::new("week".into(), rule(None, None), quotas(Some(2), Some(2)));
            place.counted(tls(), &[window, of_5_hours, day, week]).unwrap()
        });
        assert_eq!((counted[0].lately, counted[0].today, counted[2].lately, counted[2].today), (2, 0, 0, 2));
        let used =
            |counted: &Counted| counted.quotas.iter().map(|(cause, used, _)| (*cause, *used)).collect::<Vec<_>>();
        assert_eq!(used(&counted[1]), [(Cause::FiveHours, 2), (Cause::Week, 0)]);
        assert_eq!(used(&counted[3]), [(Cause::FiveHours, 0), (Cause::Week, 2)]);
        let resets = [counted[1].quotas[0].2, counted[3].quotas[1].2].map(|resets| resets.as_secs());
        assert!((17_990..=19_000).contains(&resets[0]) && (1..=604_800).contains(&resets[1]), "{resets:?}");
    });
}

#[test]
fn what_a_key_has_left_is_said_with_each_answer_and_to_commands() {
    run(|server| async move {
        let keyed = Keyed::start(&server).await;
        let record = limited(|limits| {
            (limits.requests_per_minute, limits.requests_per_day) = (Some(9), Some(9));
            (limits.tokens_per_minute, limits.tokens_per_day) = (Some(90), Some(90));
            (limits.parallel, limits.budget) = (Some(9), Some("0.000000900 USD/day".parse().unwrap()));
        });
        keyed.publish(1, &[&record]).await;
        let record = Rc::new(record);
        let numbers = |left: &Left| {
            let minute = (left.requests_of_minute, left.tokens_of_minute);
            (minute, left.requests_of_day, left.tokens_of_day, left.parallel, left.spent.0 + left.reserved.0)
        };
        let (_, _, first, left) = keyed.go(&demand(&record), None).await;
        assert_eq!(numbers(&left), ((1, 10), 1, 10, 1, 40));
        assert!((59..=62).contains(&left.minute_resets_in.as_secs()), "{left:?}");
        let (_, _, second, left) = keyed.go(&demand(&record), None).await;
        assert_eq!(numbers(&left), ((2, 20), 2, 20, 2, 80));
        keyed.keys.settle(&first, Used { tokens: 4, cost: Money(7) });
        keyed.keys.give_back(&second, false);
        settled(&keyed.gateway).await;
        let left = keyed.keys.left(&record).await;
        assert_eq!(numbers(&left), ((1, 4), 1, 4, 0, 7));
        assert_eq!((left.spent, left.reserved), (Money(7), Money(0)));
        // A further attempt counts in the windows only, and nothing of it is settled; what was given back of the day is not
        // known here yet.
        let again = Demand { repeats: true, ..demand(&record) };
        let (_, _, third, left) = keyed.go(&again, None).await;
        assert_eq!((left.requests_of_minute, left.requests_of_day), (2, 2));
        keyed.keys.settle(&third, Used { tokens: 50, cost: Money(500) });
        let (_, _, fourth, _) = keyed.go(&demand(&record), None).await;
        settled(&keyed.gateway).await;
        let left = keyed.keys.left(&record).await;
        assert_eq!(numbers(&left), ((3, 14), 2, 14, 1, 47));
        assert_eq!((left.spent, left.reserved), (Money(7), Money(40)));
        let (place, key) = (server.place(), KeyRecord::clone(&record));
        let mut never = limited(|_| {});
        never.id = "another0".into();
        let standings = aside(move || place.standings(tls(), &[&key, &never]).unwrap());
        assert_eq!(numbers(&standings[0].left), ((3, 14), 2, 14, 1, 47));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert!((now - 30..=now).contains(&standings[0].used_at), "{}", standings[0].used_at);
        assert_eq!((standings[1].used_at, standings[1].left.requests_of_day), (0, 0));
        // Another account serves it under the key: nothing of it counts here any more.
        keyed.keys.give_back(&fourth, true);
        settled(&keyed.gateway).await;
        assert_eq!(numbers(&keyed.keys.left(&record).await), ((2, 4), 1, 4, 0, 7));
        // Without the server, as far as it is known here.
        keyed.gateway.link.lose("a test says so");
        assert_eq!(keyed.keys.left(&record).await.requests_of_day, 2);
    });
}

#[test]
fn a_key_is_decided_by_its_record_as_it_is_now() {
    run(|server| async move {
        let keyed = Keyed::start(&server).await;
        let first = limited(|limits| limits.requests_per_day = Some(9));
        keyed.publish(1, &[&first]).await;
        let known = keyed.keys.look_up(&first.id, false).await.unwrap().unwrap();
        assert_eq!((&*known, keyed.keys.records().len()), (&first, 1));
        keyed.go(&demand(&known), None).await;
        assert_eq!(keyed.keys.find("ann").await.unwrap().map(|found| found.id.clone()), Some(first.id.clone()));
        assert!(keyed.keys.find("bob").await.unwrap().is_none() && !keyed.keys.secret_differs());
        keyed.gateway.keys.compare_secret(Some("another"));
        assert!(keyed.keys.secret_differs());
        // It changes: as known here it is refused, and again as it is now.
        let second = changed(&first, |record| record.resets = 1);
        keyed.publish(2, &[&second]).await;
        for _ in 0..2 {
            let decided = keyed.keys.admit(&demand(&known), None).await;
            assert!(matches!(&decided, KeyDecision::Changed(record) if **record == second));
        }
        for (record, expected) in [
            (changed(&second, |record| record.expires_at = Some(1)), Refused::Expired),
            (changed(&second, |record| record.revoked_at = Some(1)), Refused::Unknown),
        ] {
            keyed.publish(3 + u64::from(record.revoked_at.is_some()), &[&record]).await;
            let now = keyed.keys.look_up(&record.id, true).await.unwrap().unwrap();
            assert_eq!(*now, record);
            assert_eq!(keyed.refused(&demand(&now), None).await.0, expected);
        }
        keyed.publish(5, &[&second]).await;
        let gone = demand(&keyed.keys.look_up(&second.id, true).await.unwrap().unwrap());
        keyed.publish(6, &[]).await;
        // As the decision says, and then as the record does.
        assert_eq!(keyed.refused(&gone, None).await.0, Refused::Unknown);
        assert_eq!(keyed.refused(&gone, None).await.0, Refused::Unknown);
        assert!(keyed.keys.look_up(&second.id, true).await.unwrap().is_none());
        keyed.gateway.link.lose("a test says so");
        assert_eq!(keyed.refused(&gone, None).await.0, Refused::Unavailable);
        assert!(keyed.keys.look_up(&second.id, false).await.is_err() && keyed.keys.find("ann").await.is_err());
    });
}

#[test]
fn a_request_that_waits_for_its_keys_place_in_flight_goes_when_another_ends() {
    run(|server| async move {
        let keyed = Keyed::start(&server).await;
        let record = limited(|limits| limits.parallel = Some(1));
        keyed.publish(1, &[&record]).await;
        let mut patient = demand(&Rc::new(record));
        let (_, _, first, _) = keyed.go(&patient, None).await;
        patient.longest_wait = Duration::from_secs(600);
        let mut waiting = Box::pin(keyed.go(&patient, None));
        let asked = std::future::poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending())).await;
        assert!(asked);
        keyed.keys.settle(&first, Used { tokens: 1, cost: Money(1) });
        let (wait, ..) = waiting.await;
        assert_eq!(wait, Duration::ZERO);
    });
}

#[test]
fn the_usage_of_a_team_is_read_with_the_names_of_its_keys() {
    run(|server| async move {
        let keyed = Keyed::start(&server).await;
        let record = limited(|_| {});
        keyed.publish(1, &[&record]).await;
        let text = || "x".to_owned();
        let row = |day: &str| {
            let key = Some(record.id.clone());
            Row { day: day.into(), profile: text(), provider: text(), model: text(), key, owner: None }
        };
        for day in ["2026-01-01", "2026-01-02", "2026-01-03"] {
            keyed.gateway.enter(row(day), [("requests", 3), ("tokens", u64::MAX), ("tries", 0)]);
            keyed.gateway.enter(row(day), [("requests", 1)]);
        }
        assert!(keyed.gateway.ledger.has_news());
        keyed.gateway.send_final_reports().await;
        assert!(!keyed.gateway.ledger.has_news());
        let place = server.place();
        let days = ["2026-01-01", "2026-01-02"].map(str::to_owned);
        let (sums, names) = aside(move || place.usage(tls(), &days).unwrap());
        let counted = BTreeMap::from([("requests".to_owned(), 4), ("tokens".to_owned(), 1 << 50)]);
        assert_eq!(sums, BTreeMap::from([(row("2026-01-01"), counted.clone()), (row("2026-01-02"), counted)]));
        assert_eq!(names, BTreeMap::from([(record.id, "ann".to_owned())]));
    });
}

#[test]
fn what_ends_while_the_gateway_stops_is_reported_with_the_rest() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let (_, ticket, _) = go(&gateway, vec![day(10)]).await;
        let (_, other, _) = go(&gateway, vec![day(10)]).await;
        gateway.end(other, Settlement::GivenBack);
        assert_eq!(gateway.admissions.tickets.under_way.get(), 1);
        tokio::time::timeout(Duration::from_secs(5), gateway.settle_all()).await.expect("as long as it needs");
        assert_eq!(gateway.admissions.tickets.under_way.get(), 0);
        gateway.end(ticket, Settlement::GivenBack);
        assert_eq!(gateway.admissions.tickets.under_way.get(), 0, "nothing runs that could report it");
        gateway.send_final_reports().await;
        let mut connection = gateway.link.connection.borrow().clone().unwrap();
        let key = gateway.link.names.of("d");
        let count: u64 = redis::cmd("GET").arg(key).query_async(&mut connection).await.unwrap();
        assert_eq!(count, 0);
    });
}

#[test]
fn without_the_server_a_gateway_refuses_serves_its_share_or_serves_all() {
    run(|server| async move {
        for (on_loss, health, served) in [
            (OnLoss::Share, Health::Degraded, 7),
            (OnLoss::Refuse, Health::Down, 0),
            (OnLoss::Open, Health::Degraded, 20),
        ] {
            let gateway = server.gateway(on_loss);
            assert_eq!(gateway.health(), Health::Down);
            assert!(matches!(ask(&gateway, vec![day(9)]).await, SharedDecision::Unavailable), "never reached");
            gateway.begin().await;
            assert_eq!(gateway.health(), Health::Up);
            let limit = || Limit { name: format!("{on_loss:?}").into(), ..day(9) };
            go(&gateway, vec![limit()]).await;
            go(&gateway, vec![limit()]).await;
            gateway.link.lose("a test says so");
            assert_eq!(gateway.health(), health);
            let mut count = 0;
            while count < 20 {
                let SharedDecision::Go { ticket, wait } = ask(&gateway, vec![limit()]).await else { break };
                assert_eq!(wait, Duration::ZERO);
                gateway.end(ticket, Settlement::AsEstimated);
                count += 1;
            }
            assert_eq!(count, served, "{on_loss:?}");
        }
    });
}

#[test]
fn while_the_keys_of_an_emptied_server_are_sent_those_that_were_seen_lately_are_served() {
    run(|server| async move {
        let keyed = Keyed::start(&server).await;
        let record = limited(|limits| limits.requests_per_day = Some(9));
        keyed.publish(1, &[&record]).await;
        let known = keyed.keys.look_up(&record.id, false).await.unwrap().unwrap();
        let mut connection = keyed.gateway.link.connection.borrow().clone().unwrap();
        let records = keyed.gateway.link.names.records();
        let _: u64 = redis::cmd("DEL").arg(&records).query_async(&mut connection).await.unwrap();
        keyed.go(&demand(&known), None).await;
        assert_eq!(keyed.gateway.health(), Health::Up);
        keyed.gateway.keys.records.age(&record.id, 900_000);
        assert_eq!(keyed.refused(&demand(&known), None).await.0, Refused::Unavailable);
        assert_eq!(keyed.gateway.health(), Health::Up);
    });
}

#[test]
fn the_end_of_a_request_in_flight_is_told_to_those_that_wait_for_its_place() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let limits = || vec![Limit { kind: Kind::Parallel, most: 2, name: "p".into(), quota: None }, day(9)];
        for is_lost in [false, true] {
            if is_lost {
                gateway.link.lose("a test says so");
            }
            let freed = gateway.admissions.tickets.freed.notified();
            let (_, ticket, _) = go(&gateway, limits()).await;
            gateway.end(ticket, Settlement::AsEstimated);
            tokio::time::timeout(Duration::from_secs(5), freed).await.expect("it is told");
        }
    });
}

#[test]
fn a_request_of_an_outage_is_settled_where_it_was_admitted() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        let limits = || vec![spend(200, 70)];
        let (_, before, _) = go(&gateway, limits()).await;
        gateway.link.lose("a test says so");
        let (_, alone, left) = go(&gateway, limits()).await;
        assert_eq!(left, [60]);
        gateway.end(alone, Settlement::Used { tokens: 0, cost: 10 });
        let (_, still, left) = go(&gateway, limits()).await;
        assert_eq!(left, [200 - 70 - 10 - 70], "what it did not use is free at once");
        gateway.end(before, Settlement::Used { tokens: 0, cost: 7 });
        gateway.probe().await.unwrap();
        gateway.end(still, Settlement::Used { tokens: 0, cost: 20 });
        settled(&gateway).await;
        let mut connection = gateway.link.connection.borrow().clone().unwrap();
        let (used, held) = (gateway.link.names.of("s"), gateway.link.names.of("s:held"));
        let used: u64 = redis::cmd("HGET").arg(used).arg("used").query_async(&mut connection).await.unwrap();
        let held: u64 = redis::cmd("HLEN").arg(held).query_async(&mut connection).await.unwrap();
        assert_eq!((used, held), (10 + 7 + 20, 0));
    });
}

#[test]
fn an_emptied_server_waits_for_the_counts_of_all_gateways() {
    run(|mut server| async move {
        let (one, two) = (server.gateway(OnLoss::Share), server.gateway(OnLoss::Share));
        for gateway in [&one, &two] {
            gateway.begin().await;
        }
        assert_eq!(two.link.alive.get(), 2, "it knows at once");
        one.beat().await;
        server.stop();
        server.start_again();
        one.beat().await;
        let probing = tokio::task::spawn_local({
            let one = Rc::clone(&one);
            async move { one.probe().await }
        });
        let place = server.place();
        let mut connection = place.address.connect(&Arc::new(tls())).await.unwrap();
        let given_back = one.link.names.of("restored");
        let count = async |connection: &mut _| -> u64 {
            redis::cmd("SCARD").arg(&given_back).query_async(connection).await.unwrap()
        };
        while count(&mut connection).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Long enough for all that follows, if it did not wait.
        for _ in 0..20 {
            assert_eq!(count(&mut connection).await, 1);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!probing.is_finished() && one.health() == Health::Degraded);
        two.beat().await;
        assert_eq!(two.health(), Health::Degraded, "it is another one");
        two.probe().await.unwrap();
        probing.await.unwrap().unwrap();
        assert_eq!(one.health(), Health::Up);
    });
}

#[test]
fn a_keys_json_of_another_team_is_disregarded() {
    run(|server| async move {
        let keyed = Keyed::start(&server).await;
        let record = limited(|_| {});
        keyed.publish(1, &[&record]).await;
        let file = keyed.directory.path().join("keys.json");
        let other = limited(|_| {});
        let text = json!({ "schema": 1, "revision": 5, "source": "here", "keys": [other] });
        PendingFile::reserve(&file, 0, Privacy::Private).unwrap().write(text.to_string().as_bytes()).unwrap();
        keyed.gateway.keys.records.begin_with(Directory::open(&file).unwrap());
        assert!(keyed.gateway.keys.records.own(&other.id).is_some());
        assert!(keyed.keys.look_up(&record.id, false).await.unwrap().is_some());
        assert!(keyed.gateway.keys.records.own(&other.id).is_none());
        assert!(keyed.keys.look_up(&other.id, true).await.unwrap().is_none());
    });
}

#[test]
fn a_server_that_was_never_reachable_is_asked_at_intervals() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let connections = Arc::default();
        let place = answering_many("-LOADING no\r\n".into(), Arc::clone(&connections));
        let shared = Shared::new(place, tls());
        shared.begin().await;
        assert_eq!((shared.health(), shared.said.borrow().as_str()), (Health::Down, "it is still loading its data"));
        // The first pause is a second.
        drop(tokio::time::timeout(Duration::from_millis(300), Rc::clone(&shared).maintain()).await);
        assert!(connections.load(Ordering::Relaxed) <= 2);
        // Nor is one that was lost asked at once.
        shared.link.state.set(link::State::Lost);
        let before = connections.load(Ordering::Relaxed);
        drop(tokio::time::timeout(Duration::from_millis(300), Rc::clone(&shared).maintain()).await);
        assert_eq!(connections.load(Ordering::Relaxed), before);
    });
}

#[test]
fn what_an_emptied_server_says_of_the_counts_is_not_believed() {
    run(|server| async move {
        let gateway = server.gateway(OnLoss::Share);
        gateway.begin().await;
        for _ in 0..3 {
            go(&gateway, vec![day(10)]).await;
        }
        let mut connection = gateway.link.connection.borrow().clone().unwrap();
        redis::cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
        // Another gateway may have been there first.
        for epoch in [None, Some("another")] {
            if let Some(epoch) = epoch {
                let key = gateway.link.names.epoch();
                redis::cmd("SET").arg(key).arg(epoch).exec_async(&mut connection).await.unwrap();
            }
            let exchange = catch_up::CatchUp { shared: &gateway, connection: connection.clone() }.beat().await;
            assert_eq!((exchange.unwrap().is_same, gateway.count("d")), (false, Some(3)), "{epoch:?}");
        }
        gateway.beat().await;
        assert_eq!((gateway.health(), gateway.count("d")), (Health::Degraded, Some(3)));
    });
}

#[test]
fn what_a_server_says_while_a_gateway_decides_alone_is_not_believed() {
    run(|server| async move {
        let (one, two) = (server.gateway(OnLoss::Share), server.gateway(OnLoss::Share));
        one.begin().await;
        two.begin().await;
        go(&one, vec![day(10)]).await;
        one.link.lose("a test says so");
        go(&two, vec![day(10)]).await;
        assert!(catching_up(&one).await.beat().await.unwrap().is_same);
        assert_eq!((one.health(), one.count("d")), (Health::Degraded, Some(1)));
        one.probe().await.unwrap();
        assert_eq!(one.count("d"), Some(2));
    });
}

#[test]
fn a_script_that_fails_is_not_run_again() {
    run(|server| async move {
        let mut connection = server.gateway(OnLoss::Share).link.connect().await.unwrap();
        let failing = redis::Script::new("redis.call('INCR', KEYS[1]) return redis.error_reply('ERR no')");
        let mut command = script::command(&failing, 1);
        command.arg("x");
        // The server gets it with the first call.
        for count in 1..=2 {
            let failed: redis::RedisResult<u64> = script::call(&mut connection, &failing, &command).await;
            assert!(failed.is_err());
            let counted: u64 = redis::cmd("GET").arg("x").query_async(&mut connection).await.unwrap();
            assert_eq!(counted, count);
        }
    });
}
