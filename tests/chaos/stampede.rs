//! Many processes and requests through gateways on one expired credential: one request to the server serves all, a
//! failing server is asked three times, a holder that dies or stops is survived.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::gateway::Gateway;
use super::machine::{Ended, Machine, Process, at_lock};
use super::server::Mood;
use crate::cli::support::machine::until;

/// One of those who want the credential.
#[derive(Clone, Copy)]
enum Kind {
    Process(&'static [&'static str]),
    Request,
}

/// Why it has to be renewed, and who notices: all of these, in turn.
#[derive(Clone, Copy)]
enum Reason {
    Expired,
    /// The API answers 401, which only a gateway sees; `refresh` renews anyway.
    Refused,
}

impl Reason {
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Expired => &[
                Kind::Process(&["token"]),
                Kind::Process(&["refresh"]),
                Kind::Process(&["exec", "--", "true"]),
                Kind::Request,
            ],
            Self::Refused => &[Kind::Request, Kind::Request, Kind::Process(&["refresh"])],
        }
    }
}

/// Who asks first: its number among the kinds of [`Reason::Expired`].
const TOKEN: usize = 0;
const GATEWAY: usize = 3;

/// The requests go through these in turn.
const GATEWAYS: usize = 2;

/// All who want one credential. They wait for the first of them, whom the server lets wait.
struct Crowd {
    processes: Vec<Process>,
    gateways: Vec<Gateway>,
    /// Waiting for their answers, each with the number of its gateway.
    requests: Vec<(usize, JoinHandle<Waited>)>,
}

/// The status a client got, or why none, and when.
struct Waited {
    status: Result<u16, String>,
    at: Instant,
}

impl Crowd {
    /// Returns once one asks and all others wait for it.
    fn gather(machine: &Machine, count: usize, reason: Reason, first: usize) -> Self {
        machine.store(&machine.server.issue(), 3600);
        let gateways = (0..GATEWAYS).map(|_| Gateway::start(machine)).collect();
        match reason {
            Reason::Expired => machine.expire(),
            Reason::Refused => machine.refuse(),
        }
        machine.server.forget();
        machine.server.close_gate();
        let mut crowd = Self { processes: Vec::new(), gateways, requests: Vec::new() };
        for kind in reason.kinds().iter().cycle().skip(first).take(count) {
            crowd.add(machine, *kind);
            machine.server.wait_for_refreshes(1);
        }
        let expected = crowd.processes.len() + crowd.requests.len().min(GATEWAYS) - 1;
        until(&format!("all of {expected} processes come to the lock"), || at_lock(&crowd.ids()).1.len() >= expected);
        crowd
    }

    fn add(&mut self, machine: &Machine, kind: Kind) {
        let Kind::Process(arguments) = kind else {
            let gateway = self.requests.len() % GATEWAYS;
            let sent = self.gateways[gateway].address.send().expect("the gateway takes a request");
            let wait = move || {
                let status = sent.status().map_err(|error| error.to_string());
                Waited { status, at: Instant::now() }
            };
            return self.requests.push((gateway, thread::spawn(wait)));
        };
        self.processes.push(machine.start(arguments));
    }

    fn ids(&self) -> Vec<u32> {
        self.processes.iter().chain(self.gateways.iter().map(|gateway| &gateway.process)).map(Process::id).collect()
    }

    /// Waits for all; processes end with `code`, requests with `status`. Gateways end when they are told to.
    fn end(self, code: i32, status: u16) -> Outcome {
        let mut outcome = Outcome::default();
        for process in self.processes {
            outcome.add(&process.end(), code);
        }
        for (_, request) in self.requests {
            let waited = request.join().expect("a client waits");
            assert_eq!(waited.status, Ok(status), "through a gateway");
            outcome.requests += 1;
            outcome.note(waited.at);
        }
        for gateway in self.gateways {
            gateway.process.signal(Signal::SIGTERM);
            let ended = gateway.process.end();
            assert!(ended.outcome.died_by(Signal::SIGTERM), "{}", ended.outcome);
        }
        outcome
    }

    /// Takes the first one out of the crowd, with what was asked through it.
    fn take_holder(&mut self) -> Process {
        let (holding, _) = at_lock(&self.ids());
        if let Some(at) = self.processes.iter().position(|process| holding.contains(&process.id())) {
            return self.processes.remove(at);
        }
        let is_holder = |gateway: &Gateway| holding.contains(&gateway.process.id());
        let at = self.gateways.iter().position(is_holder).expect("one holds the lock");
        self.requests.retain(|(gateway, _)| *gateway != at);
        for (gateway, _) in &mut self.requests {
            *gateway -= usize::from(*gateway > at);
        }
        self.gateways.remove(at).process
    }
}

#[derive(Default)]
struct Outcome {
    processes: usize,
    requests: usize,
    /// When the last of them had what it wanted, or knew that it would not get it.
    last: Option<Instant>,
    /// Of a process, from its start.
    longest: Duration,
}

impl Outcome {
    fn add(&mut self, ended: &Ended, code: i32) {
        assert_eq!(ended.outcome.code(), Some(code), "{}", ended.outcome);
        self.processes += 1;
        self.longest = self.longest.max(ended.after);
        self.note(ended.at);
    }

    fn note(&mut self, at: Instant) {
        self.last = self.last.max(Some(at));
    }

    fn after(&self, start: Instant) -> Duration {
        self.last.map_or(Duration::ZERO, |last| last - start)
    }
}

pub(crate) fn one_request(counts: &[usize]) {
    let title = "| of these through two gateways | started and waiting after | all done after the reply | requests to the server | succeeded |";
    for (reason, name) in [(Reason::Expired, "expired"), (Reason::Refused, "refused by the API")] {
        println!("| at once, the token {name} {title}\n|---:|---:|---:|---:|---:|---:|");
        for &count in counts {
            let machine = Machine::new();
            let started = Instant::now();
            let crowd = Crowd::gather(&machine, count, reason, TOKEN);
            let (waiting, open) = (started.elapsed(), Instant::now());
            machine.server.open_gate();
            let outcome = crowd.end(0, 200);
            let refreshes = machine.server.refreshes();
            assert_eq!(refreshes.len(), 1, "one request serves all");
            assert_eq!(machine.refresh_token().unwrap(), refreshes[0].granted, "the file holds what was granted");
            assert_eq!(machine.leftovers(), [""; 0]);
            println!(
                "| {count} | {} | {} ms | {} ms | 1 | {} |",
                outcome.requests,
                waiting.as_millis(),
                outcome.after(open).as_millis(),
                outcome.processes + outcome.requests
            );
        }
        println!();
    }
}

pub(crate) fn failing_server(counts: &[usize]) {
    println!(
        "| at once, the server says 503 | all ended after the first reply | requests to the server | ended with 3 | got a 503 through a gateway |"
    );
    println!("|---:|---:|---:|---:|---:|");
    for &count in counts {
        let machine = Machine::new();
        machine.server.mood(Mood::Fail);
        let crowd = Crowd::gather(&machine, count, Reason::Expired, TOKEN);
        let before = machine.refresh_token();
        let open = Instant::now();
        machine.server.open_gate();
        let outcome = crowd.end(3, 503);
        let asked = machine.server.refreshes().len();
        assert!(asked <= 3, "{asked} requests to a failing server");
        assert_eq!(machine.refresh_token(), before, "a temporary failure costs no login");
        println!(
            "| {count} | {} ms | {asked} | {} | {} |",
            outcome.after(open).as_millis(),
            outcome.processes,
            outcome.requests
        );
    }
}

/// The first to ask is killed. The next must ask again: only the server knows whether the token was spent. One does.
pub(crate) fn killed_holder(count: usize) {
    println!(
        "| holder killed, {count} waiting | the server | requests after its own | processes ended with | requests through a gateway got |"
    );
    println!("|---|---|---:|---:|---:|");
    for (holder, first) in [("`token`", TOKEN), ("`gateway`", GATEWAY)] {
        for (mood, name, code, status) in
            [(Mood::KeepOld, "keeps the old token", 0, 200), (Mood::Rotate, "had spent the token", 4, 503)]
        {
            let machine = Machine::new();
            machine.server.mood(mood);
            let mut crowd = Crowd::gather(&machine, count + 1, Reason::Expired, first);
            let killed = crowd.take_holder();
            killed.signal(Signal::SIGKILL);
            assert!(killed.end().outcome.died_by(Signal::SIGKILL));
            machine.server.open_gate();
            crowd.end(code, status);
            let asked = machine.server.refreshes().len() - 1;
            assert_eq!(asked, 1, "one further request");
            println!("| {holder} | {name} | {asked} | {code} | {status} |");
        }
    }
}

/// Nobody waits longer for a lock; a second more, to say so and end on a busy machine.
const LONGEST_WAIT: Duration = Duration::from_secs(60 + 1);

/// The holder stops for longer than anybody waits, as after Ctrl-Z; then it goes on and saves what it was granted.
pub(crate) fn stopped_holder(count: usize) {
    let machine = Machine::new();
    let mut crowd = Crowd::gather(&machine, count + 1, Reason::Expired, TOKEN);
    let holder = crowd.take_holder();
    holder.signal(Signal::SIGSTOP);
    let stopped = Instant::now();
    machine.server.open_gate();
    let outcome = crowd.end(3, 503);
    let last = outcome.after(stopped);
    assert!(last <= LONGEST_WAIT, "the last one waited for {last:?} after the holder had stopped");
    assert_eq!(machine.server.refreshes().len(), 1, "nobody asks a second time");
    holder.signal(Signal::SIGCONT);
    let holder = holder.end();
    assert_eq!(holder.outcome.code(), Some(0), "{}", holder.outcome);
    let refreshes = machine.server.refreshes();
    assert_eq!(machine.refresh_token().unwrap(), refreshes[0].granted, "what was granted is saved");
    println!(
        "| holder stopped | all others gave up after | longest life of a process | requests to the server | ended with 3 | got a 503 through a gateway | the holder, when it goes on |"
    );
    println!("|---|---:|---:|---:|---:|---:|---|");
    println!(
        "| {count} waiting | {:.1} s | {:.1} s | 1 | {} | {} | saves the grant, ends with 0 |",
        last.as_secs_f64(),
        outcome.longest.as_secs_f64(),
        outcome.processes,
        outcome.requests
    );
}
