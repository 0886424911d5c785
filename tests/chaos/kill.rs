//! Kill anywhere: after a signal at a random moment the file is whole and holds a token that the server takes.
//!
//! SIGKILL between "the server spent the token" and "the file holds the new one" loses it, whatever a program does; each
//! such round is counted, by whether the server's reply was out when the signal came. INT, TERM and HUP must lose nothing.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::gateway::{Address, CLIENT, GATEWAY, Sent};
use super::machine::{Ended, Machine, Process};
use super::random::Random;
use crate::cli::support::run::Stream;
use crate::cli::support::server::PATIENCE;

/// What is killed, and why it renews.
#[derive(Clone, Copy)]
enum Victim {
    /// The access token has expired when it starts.
    Command(&'static [&'static str]),
    /// A request is sent through it; the access token expires or is refused by the API before.
    Gateway { refused: bool },
    /// A client beside it sends a request; the access token has expired when it starts, or is refused by the API.
    ExecGateway { refused: bool },
}

const VICTIMS: [Victim; 9] = [
    Victim::Command(&["refresh"]),
    Victim::Command(&["token"]),
    Victim::Command(&["exec", "--", "true"]),
    Victim::Command(&["login", "--force", "--no-browser"]),
    Victim::Command(&["logout"]),
    Victim::Gateway { refused: false },
    Victim::Gateway { refused: true },
    Victim::ExecGateway { refused: false },
    Victim::ExecGateway { refused: true },
];

impl Victim {
    fn name(self) -> String {
        let refused = |refused| if refused { ", after a 401" } else { "" };
        match self {
            Self::Command(arguments) => format!("`{}`", arguments.join(" ")),
            Self::Gateway { refused: is } => format!("`gateway`{}", refused(is)),
            Self::ExecGateway { refused: is } => format!("`exec --gateway`{}", refused(is)),
        }
    }

    fn is_logout(self) -> bool {
        matches!(self, Self::Command(["logout"]))
    }
}

/// Longest wait before the signal, in microseconds for each process; a little more than a run takes.
const LONGEST: u64 = 45_000;

/// The same from the arrival of a request for tokens until they are saved.
const LONGEST_AFTER: u64 = 12_000;

#[derive(Default, Clone, Copy)]
struct Count {
    rounds: u64,
    /// It ended by itself before the signal came.
    unhurt: u64,
    /// Rounds where the signal came while the server worked on a refresh.
    during_refresh: u64,
    /// The server had rotated, and its reply was not out when the process was killed.
    reply_not_out: u64,
    /// The process was killed before the file held what it had been granted, and the next renewal put it there.
    completed: u64,
    /// The reply was out, and the process was killed before it had written it anywhere.
    reply_out: u64,
    /// Longest time from the reply to the kill, of the latter.
    longest: Duration,
}

impl Count {
    fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.unhurt += other.unhurt;
        self.during_refresh += other.during_refresh;
        self.reply_not_out += other.reply_not_out;
        self.completed += other.completed;
        self.reply_out += other.reply_out;
        self.longest = self.longest.max(other.longest);
    }

    fn row(&self, name: &str) -> String {
        format!(
            "| {name} | {} | {} | {} | {} | {} | {} | {:.1} ms |",
            self.rounds,
            self.unhurt,
            self.during_refresh,
            self.reply_not_out,
            self.completed,
            self.reply_out,
            self.longest.as_secs_f64() * 1000.0
        )
    }
}

type Counts = [Count; VICTIMS.len()];

pub(crate) fn killed(rounds: u64, seed: u64) {
    table("KILL", rounds, seed, [Signal::SIGKILL; 3]);
}

/// By a signal that can be caught.
pub(crate) fn interrupted(rounds: u64, seed: u64) {
    let all = table("TERM, INT, HUP", rounds, seed, [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    assert_eq!(
        (all.reply_not_out, all.completed, all.reply_out),
        (0, 0, 0),
        "a signal that can be caught lost a login"
    );
}

fn table(name: &str, rounds: u64, seed: u64, signals: [Signal; 3]) -> Count {
    let counts = in_parallel(rounds, seed, signals);
    println!(
        "| {name} | rounds | ended before it | came during a refresh | lost: reply not out yet | reply out: completed by the next | reply out: lost | longest of these |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    let mut all = Count::default();
    for (victim, count) in VICTIMS.iter().zip(&counts) {
        println!("{}", count.row(&victim.name()));
        all.add(count);
    }
    println!("{}\n", all.row("all"));
    all
}

fn in_parallel(rounds: u64, seed: u64, signals: [Signal; 3]) -> Counts {
    let workers = thread::available_parallelism().map_or(2, |count| count.get() as u64);
    let parts = (0..workers).map(|worker| {
        let share = rounds / workers + u64::from(worker < rounds % workers);
        thread::spawn(move || many(share, seed ^ worker.wrapping_mul(0x0123_4567_89ab_cdef), signals))
    });
    let parts: Vec<_> = parts.collect();
    let mut all = Counts::default();
    for part in parts {
        for (count, more) in all.iter_mut().zip(part.join().expect("a worker failed")) {
            count.add(&more);
        }
    }
    all
}

fn many(rounds: u64, seed: u64, signals: [Signal; 3]) -> Counts {
    let machine = Machine::new();
    let mut counts = Counts::default();
    for number in 0..rounds {
        let seed = seed.wrapping_add(number.wrapping_mul(0x1000_0001));
        let mut random = Random::new(seed);
        let victim = usize::try_from(random.below(VICTIMS.len() as u64)).unwrap();
        let drawn = random.of(&signals);
        // A gateway without a terminal reads its keys again at HUP and goes on.
        let is_reload = matches!(VICTIMS[victim], Victim::Gateway { .. }) && drawn == Signal::SIGHUP;
        let signal = if is_reload { Signal::SIGTERM } else { drawn };
        let round = Round { machine: &machine, random, seed, victim: VICTIMS[victim], signal };
        round.run(&mut counts[victim]);
    }
    counts
}

struct Round<'a> {
    machine: &'a Machine,
    random: Random,
    seed: u64,
    victim: Victim,
    signal: Signal,
}

impl Round<'_> {
    fn run(mut self, count: &mut Count) {
        let machine = self.machine;
        machine.server.forget();
        machine.server.delay(Duration::from_micros(self.random.below(4000)));
        self.prepare();
        let before = machine.refresh_token().unwrap().unwrap();
        let client = std::env::current_exe().unwrap();
        let mut process = match self.victim {
            Victim::Command(arguments) => machine.start(arguments),
            Victim::Gateway { .. } => machine.start(GATEWAY),
            Victim::ExecGateway { .. } => {
                machine.start(&["exec", "--gateway", "--no-pacing", "--", client.to_str().unwrap(), CLIENT])
            }
        };
        // A second process at the same time, now and then: it must not suffer.
        let beside = (self.random.below(4) == 0).then(|| machine.start(&["token"]));
        let stdout = matches!(self.victim, Victim::Gateway { .. }).then(|| process.stdout());
        let (unhurt, during, killed, ended) = thread::scope(|scope| {
            scope.spawn(|| stdout.map(|stdout| self.ask(&stdout)));
            self.await_moment(&mut process);
            let unhurt = process.has_ended();
            let during = machine.server.refreshes().last().is_some_and(|refresh| refresh.replied.is_none());
            if !unhurt {
                process.signal(self.signal);
            }
            (unhurt, during && !unhurt, Instant::now(), process.end())
        });
        count.rounds += 1;
        count.unhurt += u64::from(unhurt);
        count.during_refresh += u64::from(during);
        if self.signal != Signal::SIGKILL {
            self.left_nothing(&ended, beside.is_some());
        }
        if let Some(beside) = beside {
            let ended = beside.end();
            assert!(matches!(ended.outcome.code(), Some(0 | 4)), "{}the one beside it: {}", self.told(), ended.outcome);
        }
        // What a killed client had sent may still be on its way.
        machine.server.settle();
        self.judge(&before, killed, count);
    }

    /// A credential that is good for nothing but a renewal, or will be so once a gateway runs.
    fn prepare(&self) {
        self.machine.log_in();
        match self.victim {
            Victim::Gateway { refused: true } | Victim::ExecGateway { refused: true } => self.machine.refuse(),
            Victim::Gateway { refused: false } => self.machine.last(),
            Victim::Command(_) | Victim::ExecGateway { refused: false } => self.machine.expire(),
        }
    }

    /// Once the gateway runs, if it comes so far: its credential expires, and a request comes.
    fn ask(&self, stdout: &Stream) {
        let Some(address) = Address::read(stdout) else { return };
        if matches!(self.victim, Victim::Gateway { refused: false }) {
            self.machine.expire();
        }
        // Whoever asks a killed gateway gets no answer.
        drop(address.send().and_then(Sent::status));
    }

    /// Any moment of the process's life, or of a request for tokens.
    fn await_moment(&self, process: &mut Process) {
        let mut random = Random::new(self.seed.rotate_left(17));
        if random.below(2) == 0 || self.victim.is_logout() {
            thread::sleep(Duration::from_micros(random.below(LONGEST)));
            return;
        }
        let started = Instant::now();
        while !self.machine.server.await_request() && !process.has_ended() && started.elapsed() < PATIENCE {}
        thread::sleep(Duration::from_micros(random.below(LONGEST_AFTER)));
    }

    fn judge(mut self, before: &str, killed: Instant, count: &mut Count) {
        let told = self.told();
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
        if let Some(lost) = lost.filter(|_| !self.victim.is_logout() || token.is_some()) {
            assert_eq!(lost.sent, before, "{told}");
            match lost.replied {
                Some(at) if at < killed && token.is_some() && machine.completes(&told) => count.completed += 1,
                Some(at) if at < killed => {
                    count.reply_out += 1;
                    count.longest = count.longest.max(killed - at);
                }
                _ => count.reply_not_out += 1,
            }
            assert_eq!(self.signal, Signal::SIGKILL, "{told}lost by a signal that can be caught");
            return;
        }
        assert!(!refreshes.iter().any(|refresh| refresh.reuse), "{told}a spent token was sent again: {refreshes:?}");
        let Some(token) = token else {
            assert!(self.victim.is_logout(), "{told}the credential is gone");
            return;
        };
        assert!(machine.server.is_good(&token), "{told}the file holds {token}, which is spent: {refreshes:?}");
        let credential = machine.credential().unwrap().unwrap();
        assert_eq!(credential["of_another_program"]["kept"][1], 2.5, "{told}a foreign field was lost");
        if self.random.below(2) == 0 {
            machine.goes_on(&told);
        }
    }

    fn left_nothing(&self, ended: &Ended, beside: bool) {
        let Self { seed, signal, .. } = self;
        assert!(
            ended.outcome.died_by(*signal) || ended.outcome.code() == Some(0),
            "seed {seed:#x}: after {signal}: {}",
            ended.outcome
        );
        if !beside {
            assert_eq!(self.machine.leftovers(), [""; 0], "seed {seed:#x}: left after {signal}");
        }
    }

    fn told(&self) -> String {
        format!("seed {:#x}, {}, {}: ", self.seed, self.victim.name(), self.signal)
    }
}
