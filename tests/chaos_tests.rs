//! Kills, stampedes and failing servers against the real program: `cargo test --test chaos -- --rounds 5000 --long`.
//!
//! A program of its own: its rounds are counted and its figures printed. Without arguments the rounds are few, so that it
//! fits into every `cargo test`. A failed round names its seed; `--seed` repeats its choices, though not the machine's timing.

#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a scenario fails where it stands, prints its figures, and plays the other programs that touch the files"
)]

mod chaos {
    pub(crate) mod calls;
    pub(crate) mod gateway;
    pub(crate) mod kill;
    pub(crate) mod machine;
    pub(crate) mod random;
    pub(crate) mod server;
    pub(crate) mod stampede;
}
mod cli {
    #[allow(dead_code, reason = "each test program uses its part of it")]
    pub(crate) mod support;
}

use std::time::{Instant, SystemTime};

use chaos::{calls, gateway, kill, machine, stampede};

struct Options {
    rounds: u64,
    seed: u64,
    /// Stampedes of 500, and the scenario that waits for a minute.
    long: bool,
    /// The scenario of this name, or all.
    only: String,
}

impl Options {
    /// What `cargo test` hands to every test program (filters, `--quiet` …) is no error.
    fn read() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
        let mut options = Self { rounds: 100, seed: u64::from(now), long: false, only: String::new() };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut number = || {
                let text = arguments.next().unwrap_or_default();
                let parsed = match text.strip_prefix("0x") {
                    Some(digits) => u64::from_str_radix(digits, 16),
                    None => text.parse(),
                };
                parsed.unwrap_or_else(|_| panic!("`{argument}` needs a number, not `{text}`"))
            };
            match argument.as_str() {
                "--rounds" => options.rounds = number(),
                "--seed" => options.seed = number(),
                "--long" => options.long = true,
                other if !other.starts_with('-') => other.clone_into(&mut options.only),
                _ => {}
            }
        }
        options
    }
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some(gateway::CLIENT) {
        return gateway::be_a_client();
    }
    machine::let_signals_come();
    let options = Options::read();
    let counts: &[usize] = if options.long { &[1, 10, 100, 500] } else { &[1, 10, 50] };
    let kinds = if options.long { 20 } else { 2 };
    let scenarios: [(&str, &dyn Fn(), bool); 7] = [
        ("system_calls", &|| calls::at_each_call(kinds, options.seed), true),
        ("killed", &|| kill::killed(options.rounds, options.seed), true),
        ("interrupted", &|| kill::interrupted((options.rounds * 2).div_ceil(5), options.seed), true),
        ("stampede", &|| stampede::one_request(counts), true),
        ("failing", &|| stampede::failing_server(counts), true),
        ("killed_holder", &|| stampede::killed_holder(10), true),
        ("stopped_holder", &|| stampede::stopped_holder(10), options.long),
    ];
    let watch = machine::Watch::start();
    for (name, run, chosen) in scenarios {
        if if options.only.is_empty() { chosen } else { options.only == name } {
            let started = Instant::now();
            println!("\n{name} (seed {:#x})\n", options.seed);
            run();
            println!("\n{name}: {:.1} s", started.elapsed().as_secs_f64());
        }
    }
    println!("\n{} command lines of qwenauth were read: no secret in any", watch.end());
}
