//! Limits that hold over four gateways with homes of their own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::machine::{Gateway, Home, Redis, has_redis};
use super::provider::Provider;
use crate::cli::support::machine::{keeps_the_limit, until};

/// A minute's window at a thirtieth of its length.
const SCALED: &str =
    "[providers.custom.limits]\nrequests_per_minute = 60\nwindow = \"2s\"\n[team]\ntimeout = \"10s\"\n";
/// Longer than a busy machine takes: here nothing is lost.
const PATIENT: &str = "[team]\ntimeout = \"10s\"\n";
const WINDOW: Duration = Duration::from_secs(2);

pub(crate) fn gateways(provider: &Provider, config: &str, url: &str, arguments: &[&str]) -> Vec<Gateway> {
    let start = || Gateway::start(Home::new(provider, config, Some(url)), &[&["--shared"], arguments].concat());
    (0..4).map(|_| start()).collect()
}

/// `clients` of each gateway ask one request after the other for `time`. How many were answered by client.
fn hammer(gateways: &[Gateway], clients: usize, time: Duration) -> Vec<usize> {
    let since = Instant::now();
    let answered: Vec<AtomicUsize> = (0..gateways.len() * clients).map(|_| AtomicUsize::new(0)).collect();
    thread::scope(|scope| {
        for (index, counter) in answered.iter().enumerate() {
            let mut client = gateways[index % gateways.len()].client();
            scope.spawn(move || {
                while since.elapsed() < time {
                    let got = client.chat();
                    assert_eq!(got.status, 200, "{got:?}");
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    answered.into_iter().map(AtomicUsize::into_inner).collect()
}

#[test]
fn four_gateways_with_64_clients_each_keep_one_limit_over_six_windows_and_serve_every_client() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let gateways = gateways(&provider, SCALED, &redis.url(), &[]);
    let start = Instant::now();
    let answered = hammer(&gateways, 64, WINDOW * 6);
    let asked = provider.asked();
    assert_eq!(asked.len(), answered.iter().sum::<usize>());
    keeps_the_limit(asked.iter().map(|asked| asked.at), start, 60, WINDOW);
    // 2.54 s a window of 60, and a queue of 256 at the end: nine windows of 60, of which a busy machine may miss some.
    assert!(asked.len() >= 60 * 7, "{} requests only", asked.len());
    assert!(answered.iter().all(|count| *count >= 1), "somebody was never served: {answered:?}");
    let key = "Bearer sk-provider-0123456789";
    assert!(asked.iter().all(|asked| asked.header("Authorization") == key && asked.path == "/v1/chat/completions"));
}

/// As it is in the world: `cargo test --test team -- --ignored unscaled`.
#[test]
#[ignore = "takes ten minutes"]
fn unscaled_no_60_seconds_of_ten_minutes_see_more_than_60_requests() {
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let config = SCALED.replace("2s", "60s");
    let gateways = gateways(&provider, &config, &redis.url(), &[]);
    hammer(&gateways, 64, Duration::from_secs(600));
    let most = provider.most_within(Duration::from_secs(60));
    assert!(most <= 60, "{most} requests within one minute");
    assert!(provider.asked().len() >= 60 * 9);
}

#[test]
fn a_daily_limit_applies_across_all_gateways_and_states_when_it_ends() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let gateways = gateways(&provider, PATIENT, &redis.url(), &["--rpd", "50"]);
    thread::scope(|scope| {
        for gateway in &gateways {
            scope.spawn(|| (0..20).for_each(|_| drop(gateway.chat())));
        }
    });
    assert_eq!(provider.asked().len(), 50);
    let got = gateways[0].chat();
    assert_eq!((got.status, got.body.contains("daily_limit_reached")), (429, true), "{got:?}");
    assert!(got.header("retry-after").unwrap().parse::<u64>().unwrap() <= 86_400);
}

/// The user's own figures of a plan: of 5 hours, and of a week that begins anew on Mondays.
#[test]
fn plan_quotas_apply_across_all_gateways_and_state_when_they_end() {
    if !has_redis() {
        return;
    }
    for (figure, longest) in [
        ("requests_per_5h = 50", 6 * 3600),
        ("requests_per_week = 50\nweek_resets = \"Mon 00:00 Asia/Shanghai\"", 7 * 86_400),
        ("requests_per_month = 50", 32 * 86_400),
    ] {
        let (redis, provider) = (Redis::start(&[]), Provider::start());
        let config = format!("[providers.custom.limits]\n{figure}\n{PATIENT}");
        let gateways = gateways(&provider, &config, &redis.url(), &[]);
        thread::scope(|scope| {
            for gateway in &gateways {
                scope.spawn(|| (0..20).for_each(|_| drop(gateway.chat())));
            }
        });
        assert_eq!(provider.asked().len(), 50, "{figure}");
        let got = gateways[0].chat();
        assert_eq!((got.status, got.body.contains("insufficient_quota")), (429, true), "{got:?}");
        // `usage` has what all of them counted, at each of them.
        let usage = gateways[1].home.run(&["usage", "--json"]);
        let usage: serde_json::Value = serde_json::from_str(&usage.stdout).unwrap();
        let limits = usage["limits"].as_array().unwrap().iter();
        let quota = limits.clone().find(|limit| limit["name"].as_str().unwrap().starts_with("quota")).unwrap();
        assert_eq!((&quota["used"], &quota["reached"]), (&50.into(), &true.into()), "{usage}");
        assert!(quota["resets_at"].is_string(), "{usage}");
        let wait = got.header("retry-after").unwrap().parse::<u64>().unwrap();
        assert!((1..=longest).contains(&wait), "{figure}: {wait} s");
        // Restarted empty, the server gets back what all counted.
        assert!(redis.command(&["FLUSHALL"]).contains("OK"));
        for gateway in &gateways {
            gateway.wait_for("are available again");
        }
        assert_eq!(gateways[3].chat().status, 429);
        assert_eq!(provider.asked().len(), 50, "{figure}");
    }
}

#[test]
fn a_client_that_disconnects_in_the_queue_releases_its_slot_at_all_gateways() {
    if !has_redis() {
        return;
    }
    let (redis, provider) = (Redis::start(&[]), Provider::start());
    let gateways = gateways(&provider, PATIENT, &redis.url(), &["--rpm", "2", "--rpd", "1000"]);
    gateways[0].chat();
    gateways[1].chat();
    let day = || redis.command(&["--scan", "--pattern", "*:day:*"]).trim().to_owned();
    let count = || redis.command(&["GET", &day()]).trim().to_owned();
    assert_eq!(count(), "2");
    let waiting: Vec<_> = gateways.iter().map(|gateway| gateway.client().ask_about("nothing")).collect();
    let both = (2 + gateways.len()).to_string();
    until("they wait", || count() == both);
    drop(waiting);
    until("the turns are given back", || count() == "2");
    assert_eq!(provider.asked().len(), 2);
}

/// Nothing listens there.
#[test]
fn an_attempt_that_finds_no_provider_counts_against_no_limit_of_the_team() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start(&[]);
    let home = Home::empty("", Some(&redis.url()));
    home.log_in("custom", "http://127.0.0.1:1/v1", "sk-provider-0123456789");
    let gateway = Gateway::start(home, &["--shared", "--rpm", "9", "--rpd", "9"]);
    assert_eq!(gateway.chat().status, 502);
    let named = |part: &str| redis.command(&["--scan", "--pattern", &format!("*:{part}:*")]).trim().to_owned();
    until("all are given back", || redis.command(&["GET", &named("day")]).trim() == "0");
    assert_eq!(named("window"), "");
}

#[test]
fn an_unusable_server_is_rejected_at_the_start_by_name() {
    if !has_redis() {
        return;
    }
    let provider = Provider::start();
    let redis = Redis::start(&["--maxmemory-policy", "allkeys-lru"]);
    let said = |home: &Home| {
        let output = home.run(&["gateway", "--shared"]);
        assert!(output.stdout.is_empty());
        (output.code().unwrap(), output.stderr.clone())
    };
    let (code, text) = said(&Home::new(&provider, "", Some(&redis.url())));
    assert!(code == 1 && text.contains("maxmemory-policy allkeys-lru") && text.contains("noeviction"), "{text}");
    let (code, text) = said(&Home::new(&provider, "", Some("redis+sentinel://:hunter22@127.0.0.1:1")));
    assert!(code == 1 && text.contains("Sentinel") && !text.contains("hunter22"), "{text}");
    // On another machine, and nothing would encrypt it.
    let (code, text) = said(&Home::new(&provider, "", Some("redis://:hunter22@192.0.2.1")));
    assert!(code == 2 && text.contains("`rediss://`") && text.contains("plain_redis"), "{text}");
    assert!(!text.contains("hunter22"), "{text}");
    let (code, text) = said(&Home::new(&provider, "", None));
    assert!(code == 2 && text.contains("QWENAUTH_SHARED_URL"), "{text}");
}
