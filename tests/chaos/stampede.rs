//! Many processes on one expired credential: one request serves all, a failing server is asked three times, a holder
//! that dies or stops is survived.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::machine::{Ended, Machine, Process, at_lock};
use crate::server::{Mood, PATIENCE};

const COMMANDS: [&[&str]; 3] = [&["token"], &["refresh"], &["exec", "--", "true"]];

/// Starts `count` processes of all kinds; returns once one asks and all others wait for it.
fn gather(machine: &Machine, count: usize) -> Vec<Process> {
    machine.store(&machine.server.issue(), -60);
    machine.server.forget();
    machine.server.close_gate();
    let processes: Vec<Process> = (0..count).map(|number| machine.start(COMMANDS[number % COMMANDS.len()])).collect();
    machine.server.wait_for_refreshes(1);
    let deadline = Instant::now() + PATIENCE;
    while at_lock(&processes).1.len() < count - 1 {
        assert!(Instant::now() < deadline, "not all of {count} processes came to the lock");
        thread::sleep(Duration::from_millis(10));
    }
    processes
}

fn all(processes: Vec<Process>, code: i32) -> Vec<Ended> {
    let ended: Vec<Ended> = processes.into_iter().map(Process::end).collect();
    for one in &ended {
        assert_eq!(one.code(), Some(code), "{}{}", one.stdout, one.stderr);
    }
    ended
}

pub(crate) fn one_request(counts: &[usize]) {
    println!("| processes | started and waiting after | all done after the reply | requests | succeeded |");
    println!("|---:|---:|---:|---:|---:|");
    for &count in counts {
        let machine = Machine::new();
        let started = Instant::now();
        let processes = gather(&machine, count);
        let (waiting, open) = (started.elapsed(), Instant::now());
        machine.server.open_gate();
        let ended = all(processes, 0);
        let took = open.elapsed();
        let refreshes = machine.server.refreshes();
        assert_eq!(refreshes.len(), 1, "one request serves all");
        assert_eq!(machine.refresh_token().unwrap(), refreshes[0].granted, "the file holds what was granted");
        assert_eq!(machine.leftovers(), [""; 0]);
        println!("| {count} | {} ms | {} ms | 1 | {} |", waiting.as_millis(), took.as_millis(), ended.len());
    }
}

pub(crate) fn failing_server(counts: &[usize]) {
    println!("| processes, server says 503 | all ended after the first reply | requests | ended with 3 |");
    println!("|---:|---:|---:|---:|");
    for &count in counts {
        let machine = Machine::new();
        machine.server.mood(Mood::Fail);
        let processes = gather(&machine, count);
        let before = machine.refresh_token();
        let open = Instant::now();
        machine.server.open_gate();
        let ended = all(processes, 3);
        let (took, asked) = (open.elapsed(), machine.server.refreshes().len());
        assert!(asked <= 3, "{asked} requests to a failing server");
        assert_eq!(machine.refresh_token(), before, "a temporary failure costs no login");
        println!("| {count} | {} ms | {asked} | {} |", took.as_millis(), ended.len());
    }
}

/// The first to ask is killed. The next must ask again: only the server knows whether the token was spent. One does.
pub(crate) fn killed_holder(count: usize) {
    println!("| holder killed, {count} waiting; the server | further requests | others ended with |");
    println!("|---|---:|---|");
    for (mood, name, code) in [(Mood::KeepOld, "keeps the old token", 0), (Mood::Rotate, "had spent the token", 4)] {
        let machine = Machine::new();
        machine.server.mood(mood);
        let mut processes = gather(&machine, count + 1);
        let holder = holder(&processes);
        let holder = processes.remove(holder);
        holder.signal(Signal::SIGKILL);
        assert!(holder.end().died_by(Signal::SIGKILL));
        machine.server.open_gate();
        all(processes, code);
        let asked = machine.server.refreshes().len() - 1;
        assert_eq!(asked, 1, "one further request");
        println!("| {name} | {asked} | {code} |");
    }
}

fn holder(processes: &[Process]) -> usize {
    let (holding, _) = at_lock(processes);
    processes.iter().position(|process| holding.contains(&process.id())).expect("one holds the lock")
}

/// The holder stops for longer than anybody waits, as after Ctrl-Z; then it goes on and saves what it was granted.
pub(crate) fn stopped_holder(count: usize) {
    let machine = Machine::new();
    let started = Instant::now();
    let mut processes = gather(&machine, count + 1);
    let holder = holder(&processes);
    let holder = processes.remove(holder);
    holder.signal(Signal::SIGSTOP);
    machine.server.open_gate();
    let ended = all(processes, 3);
    let longest = ended.iter().map(|one| one.after).max().unwrap_or_default();
    assert!(started.elapsed() < Duration::from_secs(90) && longest < Duration::from_secs(75), "{longest:?}");
    assert_eq!(machine.server.refreshes().len(), 1, "nobody asks a second time");
    holder.signal(Signal::SIGCONT);
    let holder = holder.end();
    assert_eq!(holder.code(), Some(0), "{}", holder.stderr);
    let refreshes = machine.server.refreshes();
    assert_eq!(machine.refresh_token().unwrap(), refreshes[0].granted, "what was granted is saved");
    println!(
        "| holder stopped, {count} waiting | longest wait | requests | others ended with | the holder, when it goes on |"
    );
    println!("|---|---:|---:|---|---|");
    println!("| | {:.1} s | 1 | 3 | saves the grant, ends with 0 |", longest.as_secs_f64());
}
