//! `sandbox`: a program, a shell or the tour against the practice provider.

use std::io::{self, IsTerminal};
use std::time::Duration;

use crate::cli::SandboxArgs;
use crate::error::{Failed, Failure, note};
use crate::platform::supervisor::{Ended, Supervisor};
use crate::sandbox::{Inside, Options, Provider, shell, tour};

/// Ends with the code of the program inside.
pub(crate) fn run(args: &SandboxArgs) -> anyhow::Result<u8> {
    if args.expires_in < Duration::from_secs(1) {
        return Failed::new(Failure::Usage, "`--expires-in` must be at least one second").err();
    }
    let is_terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    let approve = args.tour || !is_terminal && !args.no_approve;
    // Before the provider's thread, which is to have the signals blocked as well.
    let supervisor = Supervisor::start()?;
    let provider = Provider::start(&Options { approve, token_lifetime: args.expires_in })?;
    let inside = Inside::new(provider.url())?;
    let ended = if args.tour {
        tour::run(&inside, &supervisor)
    } else {
        if is_terminal && args.command.is_empty() {
            greet(&provider);
        }
        run_inside(args, &inside, &supervisor)
    };
    drop(provider);
    inside.remove();
    let ended = ended?;
    Ok(if args.tour { supervisor.leave(ended) } else { supervisor.follow(ended) })
}

fn run_inside(args: &SandboxArgs, inside: &Inside, supervisor: &Supervisor) -> anyhow::Result<Ended> {
    let shell = shell();
    let (program, arguments) = args.command.split_first().unwrap_or((&shell, &[]));
    let child = supervisor.spawn(inside.command(program).args(arguments))?;
    supervisor.wait(child)
}

fn greet(provider: &Provider) {
    note(&format!("a practice provider runs at {}: no account, no network", provider.url()));
    note("inside this shell every `qwenauth …` uses it, and nothing of yours is touched");
    note("try `qwenauth login`, `qwenauth status`, `qwenauth exec -- env`; `exit` ends it and removes what it kept");
}
