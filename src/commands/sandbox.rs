//! `sandbox`: a program, a shell or the tour against the practice provider.

use std::io::{self, IsTerminal};
use std::time::Duration;

use crate::cli::SandboxArgs;
use crate::config::Config;
use crate::environment::Environment;
use crate::error::{Failed, Failure, note};
use crate::platform::processes;
use crate::platform::supervisor::{ProgramEnd, Supervisor};
use crate::sandbox::{Inside, PracticeProvider, SandboxOptions, tour};

/// Ends with the code of the program inside.
pub(crate) fn run(args: &SandboxArgs) -> anyhow::Result<u8> {
    if args.expires_in < Duration::from_secs(1) {
        return Failed::new(Failure::Usage, "`--expires-in` must be at least one second").err();
    }
    let is_terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    let approve = args.tour || !is_terminal && !args.no_approve;
    // Before the provider's thread, which is to have the signals blocked as well.
    let supervisor = Supervisor::start()?;
    let provider = PracticeProvider::start(&SandboxOptions { approve, token_lifetime: args.expires_in })?;
    // A configuration that cannot be read names no variables.
    let overrides = Config::load(&Environment::read()).map(|config| config.overrides).unwrap_or_default();
    let inside = Inside::new(&provider, overrides)?;
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

fn run_inside(args: &SandboxArgs, inside: &Inside, supervisor: &Supervisor) -> anyhow::Result<ProgramEnd> {
    let mut command = match args.command.split_first() {
        Some((program, arguments)) => {
            let mut command = inside.command(program);
            command.args(arguments);
            command
        }
        None => inside.shell()?,
    };
    let child = supervisor.spawn(&mut command)?;
    supervisor.wait(child)
}

fn greet(provider: &PracticeProvider) {
    note(&format!("a practice provider runs at {}: no account, no network", provider.url()));
    note(
        "this shell uses it in place of every provider: your files and logins are not touched, and no request leaves this machine",
    );
    note(&format!(
        "try `qwenauth login dashscope` with any key that starts with `practice-`, then `qwenauth status` and `qwenauth exec -- {}`",
        processes::SHOW_VARIABLES
    ));
    note("`exit` ends the sandbox and deletes its files");
}
