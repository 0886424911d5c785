//! Kill anywhere: after a signal at a random moment the file is whole and holds a token that the server takes.
//!
//! SIGKILL between "the server spent the token" and "the file holds the new one" loses it, whatever a program does; each
//! such round is counted, by whether the server's reply was out when the signal came. INT, TERM and HUP must lose nothing.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::machine::{Ended, Machine};
use crate::random::Random;

const COMMANDS: [&[&str]; 5] =
    [&["refresh"], &["token"], &["exec", "--", "true"], &["login", "--force", "--no-browser"], &["logout"]];

/// Longest wait before the signal, in microseconds for each command; a little more than a run takes.
const LONGEST: u64 = 45_000;

#[derive(Default)]
pub(crate) struct Count {
    rounds: u64,
    /// It ended by itself before the signal came.
    unhurt: u64,
    /// The server had rotated, and its reply was not out when the process was killed.
    reply_not_out: u64,
    /// The reply was out, and the process was killed before the file held it.
    reply_out: u64,
    /// Longest time from the reply to the kill, of the latter.
    longest: Duration,
    /// Rounds where the signal came while the server worked on a refresh.
    during_refresh: u64,
}

impl Count {
    fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.unhurt += other.unhurt;
        self.reply_not_out += other.reply_not_out;
        self.reply_out += other.reply_out;
        self.longest = self.longest.max(other.longest);
        self.during_refresh += other.during_refresh;
    }
}

pub(crate) fn run(rounds: u64, seed: u64) {
    println!(
        "| signal | rounds | ended before it | came during a refresh | lost: reply not out yet | lost: reply out, not saved yet | longest of these |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for (name, signals, share) in [
        ("KILL", [Signal::SIGKILL; 3], rounds),
        ("TERM, INT, HUP", [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP], rounds.div_ceil(2)),
    ] {
        let count = in_parallel(share, seed, signals);
        println!(
            "| {name} | {} | {} | {} | {} | {} | {:.1} ms |",
            count.rounds,
            count.unhurt,
            count.during_refresh,
            count.reply_not_out,
            count.reply_out,
            count.longest.as_secs_f64() * 1000.0
        );
        if !signals.contains(&Signal::SIGKILL) {
            assert_eq!((count.reply_not_out, count.reply_out), (0, 0), "a signal that can be caught lost a login");
        }
    }
}

/// What a renewal does to files, locks and the connection.
const CALLS: [&str; 20] = [
    "openat",
    "write",
    "fallocate",
    "fsync",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "unlink",
    "flock",
    "statx",
    "fchmod",
    "ftruncate",
    "lseek",
    "read",
    "close",
    "utimensat",
    "sendto",
    "recvfrom",
    "getdents64",
];

/// Kills a renewal at its first system call of a kind, at the second, and so on: the moments that chance hits rarely.
pub(crate) fn at_each_call(kinds: usize, seed: u64) {
    if !std::path::Path::new("/usr/bin/strace").exists() {
        println!("skipped: there is no strace");
        return;
    }
    let machine = Machine::new();
    let (mut killed, mut lost) = (0, 0);
    let from = usize::try_from(Random::new(seed).below(CALLS.len() as u64)).unwrap();
    for kind in CALLS.iter().cycle().skip(from).take(kinds) {
        for number in 1.. {
            let told = format!("killed at `{kind}` number {number}: ");
            machine.server.forget();
            let round = Round { machine: &machine, random: Random::new(seed), seed };
            let before = round.prepare();
            let ended = machine.start_killed_at(kind, number, &["token"]).end();
            machine.server.settle();
            let token = machine.refresh_token().unwrap_or_else(|error| panic!("{told}the file is not whole: {error}"));
            let token = token.unwrap_or_else(|| panic!("{told}the credential is gone"));
            if ended.code() == Some(0) {
                break;
            }
            killed += 1;
            if machine.server.is_good(&token) {
                round.goes_on(&told);
            } else {
                assert_eq!(token, before, "{told}");
                lost += 1;
            }
        }
    }
    println!(
        "| killed at a system call | between \"spent\" and \"saved\" | else: file whole, token good, next renewal at once |"
    );
    println!("|---:|---:|---:|");
    println!("| {killed} | {lost} | {} |", killed - lost);
}

fn in_parallel(rounds: u64, seed: u64, signals: [Signal; 3]) -> Count {
    let workers = thread::available_parallelism().map_or(2, |count| count.get() as u64);
    let parts = (0..workers).map(|worker| {
        let share = rounds / workers + u64::from(worker < rounds % workers);
        thread::spawn(move || many(share, seed ^ worker.wrapping_mul(0x0123_4567_89ab_cdef), signals))
    });
    let parts: Vec<_> = parts.collect();
    let mut all = Count::default();
    for part in parts {
        all.add(&part.join().expect("a worker failed"));
    }
    all
}

fn many(rounds: u64, seed: u64, signals: [Signal; 3]) -> Count {
    let machine = Machine::new();
    let mut count = Count::default();
    for number in 0..rounds {
        let seed = seed.wrapping_add(number.wrapping_mul(0x1000_0001));
        let round = Round { machine: &machine, random: Random::new(seed), seed };
        round.run(signals, &mut count);
    }
    count
}

struct Round<'a> {
    machine: &'a Machine,
    random: Random,
    seed: u64,
}

impl Round<'_> {
    fn run(mut self, signals: [Signal; 3], count: &mut Count) {
        let machine = self.machine;
        machine.server.forget();
        machine.server.delay(Duration::from_micros(self.random.below(4000)));
        let command = self.random.of(&COMMANDS);
        let signal = self.random.of(&signals);
        let before = self.prepare();
        let mut process = machine.start(command);
        // A second process at the same time, now and then: it must not suffer.
        let beside = (self.random.below(4) == 0).then(|| machine.start(&["token"]));
        thread::sleep(Duration::from_micros(self.random.below(LONGEST)));
        let unhurt = process.has_ended();
        let during = machine.server.refreshes().last().is_some_and(|refresh| refresh.replied.is_none());
        process.signal(signal);
        let killed = Instant::now();
        let ended = process.end();
        count.rounds += 1;
        count.unhurt += u64::from(unhurt);
        count.during_refresh += u64::from(during && !unhurt);
        if signal != Signal::SIGKILL {
            self.left_nothing(signal, &ended, beside.is_some());
        }
        if let Some(beside) = beside {
            let ended = beside.end();
            assert!(matches!(ended.code(), Some(0 | 4)), "{}the one beside it: {}", self.told(&command), ended.stderr);
        }
        // What a killed client had sent may still be on its way.
        machine.server.settle();
        self.judge(&command, signal, &before, killed, count);
    }

    /// A credential that the server takes, its access token over, so that every command has something to do.
    fn prepare(&self) -> String {
        let stored = self.machine.refresh_token().unwrap_or_else(|error| panic!("{error}"));
        let good = stored.as_deref().is_some_and(|token| self.machine.server.is_good(token));
        if !good {
            self.machine.store(&self.machine.server.issue(), 3600);
        }
        self.machine.expire();
        self.machine.refresh_token().unwrap().unwrap()
    }

    fn judge(mut self, command: &&[&str], signal: Signal, before: &str, killed: Instant, count: &mut Count) {
        let told = self.told(command);
        let machine = self.machine;
        let token = machine.refresh_token().unwrap_or_else(|error| panic!("{told}the file is not whole: {error}"));
        // A rotation whose tokens are not in the file.
        let refreshes = machine.server.refreshes();
        let lost = refreshes.iter().find(|refresh| {
            refresh
                .granted
                .as_ref()
                .is_some_and(|granted| token.as_ref() != Some(granted) && machine.server.is_good(granted))
                && token.as_ref().is_none_or(|token| !machine.server.is_good(token))
        });
        if let Some(lost) = lost.filter(|_| command[0] != "logout" || token.is_some()) {
            assert_eq!(lost.sent, before, "{told}");
            match lost.replied {
                Some(at) if at < killed => {
                    count.reply_out += 1;
                    count.longest = count.longest.max(killed - at);
                }
                _ => count.reply_not_out += 1,
            }
            assert_eq!(signal, Signal::SIGKILL, "{told}lost by a signal that can be caught");
            return;
        }
        assert!(!refreshes.iter().any(|refresh| refresh.reuse), "{told}a spent token was sent again: {refreshes:?}");
        let Some(token) = token else {
            assert_eq!(command[0], "logout", "{told}the credential is gone");
            return;
        };
        assert!(machine.server.is_good(&token), "{told}the file holds {token}, which is spent: {refreshes:?}");
        let credential = machine.credential().unwrap().unwrap();
        assert_eq!(credential["of_another_program"]["kept"][1], 2.5, "{told}a foreign field was lost");
        if self.random.below(2) == 0 {
            self.goes_on(&told);
        }
    }

    /// The next one renews at once, whatever locks and files a killed one left.
    fn goes_on(&self, told: &str) {
        let ended = self.machine.start(&["refresh"]).end();
        assert_eq!(ended.code(), Some(0), "{told}the next renewal failed: {}", ended.stderr);
        assert!(ended.after < Duration::from_secs(20), "{told}the next renewal took {:?}", ended.after);
        assert!(!ended.stderr.contains("waiting for"), "{told}the next renewal waited: {}", ended.stderr);
        assert_eq!(self.machine.leftovers(), [""; 0], "{told}left after the next renewal");
    }

    fn left_nothing(&self, signal: Signal, ended: &Ended, beside: bool) {
        assert!(
            ended.died_by(signal) || ended.code() == Some(0),
            "seed {:#x}: {} after {signal}: {}",
            self.seed,
            ended.status,
            ended.stderr
        );
        if !beside {
            assert_eq!(self.machine.leftovers(), [""; 0], "seed {:#x}: left after {signal}", self.seed);
        }
    }

    fn told(&self, command: &&[&str]) -> String {
        format!("seed {:#x}, `{}`: ", self.seed, command.join(" "))
    }
}
