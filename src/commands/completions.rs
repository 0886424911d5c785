//! `qwenauth completions SHELL`: print the completion script of a shell; the scripts query `qwenauth __complete`.
//!
//! The generators do not support values that change, such as the names of profiles. In bash, zsh and fish a call of
//! this program provides such values.

use anyhow::Result;
use clap::{Arg, Command, CommandFactory, ValueEnum, ValueHint};
use clap_complete::{Shell as ClapShell, generate};
use clap_complete_nushell::Nushell;

use super::print;
use crate::cli::{Cli, CompletionsArgs, Names, Shell};
use crate::providers;
use crate::session::Session;
use crate::setup::TOOLS;

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
    let script = String::from_utf8(script)?;
    print(&match args.shell {
        Shell::Bash => bash(&script),
        Shell::Zsh => zsh(&script),
        Shell::Fish => fish(&script),
        Shell::Powershell | Shell::Elvish | Shell::Nushell => script,
    })
}

/// Commands whose argument is a name that only the program knows, and the kind of name.
const NAMED: [(&str, Names); 4] =
    [("login", Names::Providers), ("providers", Names::Providers), ("use", Names::Profiles), ("setup", Names::Tools)];

/// Prints the names of one kind, one per line. On an error there are none: a message would appear in the middle of the
/// line being typed.
pub(crate) fn complete(names: Names, session: impl FnOnce() -> Result<Session>) -> Result<()> {
    let found = match names {
        Names::Tools => TOOLS.iter().map(|tool| tool.name.to_owned()).collect(),
        Names::Providers => session().map(|session| providers::names(&session.config.overrides)).unwrap_or_default(),
        Names::Profiles => session()
            .and_then(|session| session.profiles())
            .map(|profiles| profiles.iter().map(ToString::to_string).collect())
            .unwrap_or_default(),
    };
    print(&found.iter().filter(|name| is_plain(name)).map(|name| format!("{name}\n")).collect::<String>())
}

/// Hazard: bash expands the words it is offered (`compgen -W`), and a name of config.toml may be a command. Rule: whatever
/// needs no quotes in any shell is offered, and nothing else.
fn is_plain(name: &str) -> bool {
    !name.starts_with('-') && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn question(names: Names) -> String {
    let name = names.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    format!("qwenauth __complete {name} 2>/dev/null")
}

fn bash(script: &str) -> String {
    let mut names = None;
    let mut lines = Vec::new();
    // From the label to the end of its branch: the generator would have the user type the space after the name.
    let mut is_profile = false;
    for line in script.lines() {
        let word = line.trim();
        if let Some(label) = word.strip_suffix(')').filter(|label| label.starts_with("qwenauth__")) {
            let is_help = label.contains("__help__");
            names = NAMED.into_iter().find(|(command, _)| !is_help && label.ends_with(&format!("__{command}")));
        }
        let mut line = line.to_owned();
        if let (Some((_, names)), Some(opened)) = (names, line.strip_suffix('"'))
            && word.starts_with("opts=")
        {
            line = format!("{opened} $({})\"", question(names));
        } else if word == "--profile)" {
            let ask = question(Names::Profiles);
            line += &format!("\n                    COMPREPLY=($(compgen -W \"$({ask})\" -- \"${{cur}}\"))");
            is_profile = true;
        } else if is_profile {
            is_profile = word != "return 0";
            if is_profile {
                continue;
            }
        }
        lines.push(line);
    }
    lines.join("\n") + "\n"
}

fn zsh(script: &str) -> String {
    let ask = |names| format!(":{{compadd -- ${{(f)\"$({})\"}}}}'", question(names));
    let mut names = None;
    let mut lines = Vec::new();
    for line in script.lines() {
        if let Some(label) = line.trim().strip_prefix('(').and_then(|line| line.strip_suffix(')')) {
            names = NAMED.into_iter().find(|(command, _)| *command == label);
        }
        lines.push(match (line.strip_suffix(":NAME:' \\"), line.strip_suffix(":_default' \\"), names) {
            (Some(option), ..) if option.starts_with("'--profile=") => {
                format!("{option}:NAME{} \\", ask(Names::Profiles))
            }
            (_, Some(argument), Some((_, names))) if argument.starts_with("':") => {
                // zsh would run text between backticks in a description.
                format!("{}{} \\", argument.replace('`', "\\`"), ask(names))
            }
            _ => line.to_owned(),
        });
    }
    lines.join("\n") + "\n"
}

fn fish(script: &str) -> String {
    let with_profiles = |line: &str| {
        let is_profile = line.contains(" -l profile ") && line.ends_with(" -r -f");
        let names = if is_profile { format!(" -a \"({})\"", question(Names::Profiles)) } else { String::new() };
        format!("{line}{names}\n")
    };
    let offer = |command: &str, words: &str| {
        format!("complete -c qwenauth -n \"__fish_qwenauth_using_subcommand {command}\" -f -a \"{words}\"\n")
    };
    // The generator leaves out the values of arguments.
    let values = |command: &Command| {
        let values = command.get_positionals().flat_map(Arg::get_possible_values);
        let names: Vec<String> = values.map(|value| value.get_name().to_owned()).collect();
        (!names.is_empty()).then(|| offer(command.get_name(), &names.join(" ")))
    };
    let names = NAMED.map(|(command, names)| offer(command, &format!("({})", question(names))));
    let values: Vec<String> = visible().get_subcommands().filter_map(values).collect();
    script.lines().map(with_profiles).chain(names).chain(values).collect()
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

/// For an option without a value hint, shells offer file names.
fn no_file_names(arg: Arg) -> Arg {
    let is_open = arg.get_action().takes_values() && !arg.is_positional() && arg.get_possible_values().is_empty();
    if is_open && arg.get_value_hint() == ValueHint::Unknown { arg.value_hint(ValueHint::Other) } else { arg }
}
