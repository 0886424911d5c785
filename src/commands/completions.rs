//! `qwenauth completions SHELL`: print the completion script of a shell.

use anyhow::Result;
use clap::{Arg, Command, CommandFactory, ValueHint};
use clap_complete::{Shell as ClapShell, generate};
use clap_complete_nushell::Nushell;

use super::print;
use crate::cli::{Cli, CompletionsArgs, Shell};

pub(crate) fn run(args: &CompletionsArgs) -> Result<()> {
    let mut command = visible();
    let mut script = Vec::new();
    let mut write = |shell: ClapShell| generate(shell, &mut command, "qwenauth", &mut script);
    match args.shell {
        Shell::Bash => write(ClapShell::Bash),
        Shell::Zsh => write(ClapShell::Zsh),
        Shell::Fish => write(ClapShell::Fish),
        Shell::Powershell => write(ClapShell::PowerShell),
        Shell::Elvish => write(ClapShell::Elvish),
        Shell::Nushell => generate(Nushell, &mut command, "qwenauth", &mut script),
    }
    print(&String::from_utf8(script)?)
}

/// The command line without its hidden commands, which the generators would offer.
fn visible() -> Command {
    let full = Cli::command();
    Command::new("qwenauth")
        .version(env!("CARGO_PKG_VERSION"))
        .about(full.get_about().cloned().unwrap_or_default())
        .args(full.get_arguments().cloned())
        .subcommands(full.get_subcommands().filter(|command| !command.is_hide_set()).cloned())
        .mut_args(no_file_names)
        .mut_subcommands(|command| command.mut_args(no_file_names))
}

/// Where nothing is said about the value of an option, a shell offers the names of files.
fn no_file_names(arg: Arg) -> Arg {
    let is_open = arg.get_action().takes_values() && !arg.is_positional() && arg.get_possible_values().is_empty();
    if is_open && arg.get_value_hint() == ValueHint::Unknown { arg.value_hint(ValueHint::Other) } else { arg }
}
