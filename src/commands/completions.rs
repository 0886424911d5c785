//! `qwenauth completions SHELL`: print the completion script of a shell; the scripts query `qwenauth __complete`.
//!
//! The generators do not support values that change, such as the names of profiles. In bash, zsh and fish a call of
//! this program provides such values.

use std::collections::BTreeSet;

use anyhow::Result;
use clap::{Arg, Command, CommandFactory, ValueEnum, ValueHint};
use clap_complete::{Shell as ClapShell, generate};
use clap_complete_nushell::Nushell;

use super::print;
use crate::cli::{Cli, CompletionsArgs, Names, Shell};
use crate::credentials::Stored;
use crate::profile::ProfileName;
use crate::providers::{self, Provider};
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

/// Options whose value is such a name.
const VALUED: [(&str, Names); 3] = [("profile", Names::Profiles), ("region", Names::Regions), ("model", Names::Models)];

/// Prints the names of one kind, one per line. `words`: the command line so far, as far as the shell knows it. On an error
/// there are no names: a message would appear in the middle of the line being typed.
pub(crate) fn complete(names: Names, words: &[String], session: impl FnOnce() -> Result<Session>) -> Result<()> {
    let found = match names {
        Names::Tools => TOOLS.iter().map(|tool| tool.name.to_owned()).collect(),
        Names::Providers => session().map(|session| providers::names(&session.config.overrides)).unwrap_or_default(),
        Names::Profiles => session()
            .and_then(|session| session.profiles())
            .map(|profiles| profiles.iter().map(ToString::to_string).collect())
            .unwrap_or_default(),
        Names::Regions => session().map(|session| regions(words, &session)).unwrap_or_default(),
        Names::Models => session().map(|session| models(words, &session)).unwrap_or_default(),
    };
    print(&found.iter().filter(|name| is_plain(name)).map(|name| format!("{name}\n")).collect::<String>())
}

/// The regions of the provider on the line, else of every provider.
fn regions(words: &[String], session: &Session) -> Vec<String> {
    let overrides = &session.config.overrides;
    let named = provider_of_login(words, session).map(|provider| vec![provider]);
    let all = || providers::names(overrides).iter().filter_map(|name| providers::find(name, overrides).ok()).collect();
    let found: BTreeSet<String> =
        named.unwrap_or_else(all).into_iter().flat_map(|provider| provider.regions.into_keys()).collect();
    found.into_iter().collect()
}

/// The models of the provider on the line, else of the profile that the command would use.
fn models(words: &[String], session: &Session) -> Vec<String> {
    let provider = provider_of_login(words, session).or_else(|| {
        let profile =
            profile_of(words).map_or_else(|| Ok(session.profile.clone()), |name| ProfileName::parse(&name)).ok()?;
        let account = session.account_of(&profile);
        match account.load_record() {
            Ok(Stored::Present(credential)) => account.provider(&credential).ok(),
            _ => None,
        }
    });
    provider.into_iter().flat_map(|provider| provider.models).map(|model| model.id).collect()
}

/// What `login` is about to log in to.
fn provider_of_login(words: &[String], session: &Session) -> Option<Provider> {
    let behind = words.iter().skip_while(|word| *word != "login").skip(1).filter(|word| !word.starts_with('-'));
    let mut found = behind.filter_map(|word| providers::find_by_any_name(word, &session.config.overrides).ok());
    found.next()
}

/// The value of `--profile`; bash makes a word of its own of the equals sign.
fn profile_of(words: &[String]) -> Option<String> {
    let mut words = words.iter().map(String::as_str).filter(|word| *word != "=");
    while let Some(word) = words.next() {
        match word.strip_prefix("--profile") {
            Some("") => return words.next().map(str::to_owned),
            Some(value) => return value.strip_prefix('=').map(str::to_owned),
            None => {}
        }
    }
    None
}

/// Hazard: bash expands the words it is offered (`compgen -W`), and a name of config.toml may be a command. Rule: whatever
/// needs no quotes in any shell is offered, and nothing else.
fn is_plain(name: &str) -> bool {
    !name.starts_with('-') && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// The call that prints the names. `line`: how the shell writes the words of the command line, where they matter.
fn question(names: Names, line: &str) -> String {
    let name = names.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    match names {
        Names::Models | Names::Regions => format!("qwenauth __complete {name} {line} 2>/dev/null"),
        Names::Profiles | Names::Providers | Names::Tools => format!("qwenauth __complete {name} 2>/dev/null"),
    }
}

const BASH_LINE: &str = r#""${COMP_WORDS[@]:1}""#;
/// `$words` lacks the options that were read before.
const ZSH_LINE: &str = r#""${(@z)LBUFFER}""#;
const FISH_LINE: &str = "(commandline -opc)[2..]";

/// Behind `--` stands another program, with its own arguments; bash-completion knows those of many.
const BASH_PROGRAM: &str = r#"
    local at
    for ((at = 2; at < COMP_CWORD; at++)); do
        [[ "${COMP_WORDS[at]}" == -- ]] || continue
        if declare -F _command_offset >/dev/null; then
            _command_offset $((at + 1))
        elif ((at + 1 == COMP_CWORD)); then
            COMPREPLY=($(compgen -c -- "${COMP_WORDS[COMP_CWORD]}"))
        else
            COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
        fi
        return 0
    done"#;

/// The same for fish.
const FISH_PROGRAM: &str = r#"function __fish_qwenauth_program
    set -l words (commandline -opc) (commandline -ct)
    set -l at (contains -i -- -- $words)
    or return
    set -l program $words[(math $at + 1)..-1]
    complete -C (string join -- ' ' (string escape -- $program[1..-2]) $program[-1])
end
complete -c qwenauth -n "contains -- -- (commandline -opc)" -f -a "(__fish_qwenauth_program)"
"#;

fn bash(script: &str) -> String {
    let mut names = None;
    let mut lines = Vec::new();
    // From the label to the end of its branch: the generator would have the user type the space after the name.
    let mut is_valued = false;
    for line in script.lines() {
        let word = line.trim();
        if let Some(label) = word.strip_suffix(')').filter(|label| label.starts_with("qwenauth__")) {
            let is_help = label.contains("__help__");
            names = NAMED.into_iter().find(|(command, _)| !is_help && label.ends_with(&format!("__{command}")));
        }
        let mut line = line.to_owned();
        if line == "_qwenauth() {" {
            line += BASH_PROGRAM;
        } else if let (Some((_, names)), Some(opened)) = (names, line.strip_suffix('"'))
            && word.starts_with("opts=")
        {
            line = format!("{opened} $({})\"", question(names, BASH_LINE));
        } else if let Some((_, names)) = VALUED.iter().find(|(option, _)| word == format!("--{option})")) {
            let ask = question(*names, BASH_LINE);
            line += &format!("\n                    COMPREPLY=($(compgen -W \"$({ask})\" -- \"${{cur}}\"))");
            is_valued = true;
        } else if is_valued {
            is_valued = word != "return 0";
            if is_valued {
                continue;
            }
        }
        lines.push(line);
    }
    lines.join("\n") + "\n"
}

fn zsh(script: &str) -> String {
    let ask = |names| format!(":{{compadd -- ${{(f)\"$({})\"}}}}'", question(names, ZSH_LINE));
    let valued = |line: &str| {
        let (option, metavar) = line.strip_suffix(":' \\")?.rsplit_once(':')?;
        let (_, names) = VALUED.iter().find(|(name, _)| option.contains(&format!("--{name}=[")))?;
        Some(format!("{option}:{metavar}{} \\", ask(*names)))
    };
    let mut names = None;
    let mut lines = Vec::new();
    for line in script.lines() {
        if let Some(label) = line.trim().strip_prefix('(').and_then(|line| line.strip_suffix(')')) {
            names = NAMED.into_iter().find(|(command, _)| *command == label);
        }
        lines.push(match (valued(line), line.strip_suffix(":_default' \\"), names) {
            (Some(line), ..) => line,
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
    let with_names = |line: &str| {
        let is_of = |option: &&(&str, Names)| line.contains(&format!(" -l {} ", option.0)) && line.ends_with(" -r -f");
        let names = VALUED.iter().find(is_of).map(|(_, names)| format!(" -a \"({})\"", question(*names, FISH_LINE)));
        format!("{line}{}\n", names.unwrap_or_default())
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
    let names = NAMED.map(|(command, names)| offer(command, &format!("({})", question(names, FISH_LINE))));
    let values: Vec<String> = visible().get_subcommands().filter_map(values).collect();
    script.lines().map(with_names).chain(names).chain(values).chain([FISH_PROGRAM.to_owned()]).collect()
}

/// The command line without its hidden commands and options, which the generators would offer.
fn visible() -> Command {
    shown(&Cli::command(), &[]).version(env!("CARGO_PKG_VERSION"))
}

/// `inherited`: the global options of the commands above. An option of the same name that is hidden takes their place.
fn shown(command: &Command, inherited: &[Arg]) -> Command {
    let is_own = |arg: &&Arg| command.get_arguments().any(|own| own.get_id() == arg.get_id());
    let inherited: Vec<Arg> = inherited.iter().filter(|arg| !is_own(arg)).cloned().collect();
    let own: Vec<Arg> = command.get_arguments().filter(|arg| !arg.is_hide_set()).cloned().collect();
    let (global, own): (Vec<_>, Vec<_>) = own.into_iter().partition(Arg::is_global_set);
    let here = [inherited, global.into_iter().map(|arg| arg.global(false)).collect()].concat();
    let below = command.get_subcommands().filter(|below| !below.is_hide_set()).map(|below| shown(below, &here));
    // clap takes names that live as long as the program.
    let name: &'static str = command.get_name().to_owned().leak();
    Command::new(name)
        .about(command.get_about().cloned().unwrap_or_default())
        .subcommands(below)
        .args(own.into_iter().chain(here.clone()).map(no_file_names))
}

/// For an option without a value hint, shells offer file names.
fn no_file_names(arg: Arg) -> Arg {
    let is_open = arg.get_action().takes_values() && !arg.is_positional() && arg.get_possible_values().is_empty();
    if is_open && arg.get_value_hint() == ValueHint::Unknown { arg.value_hint(ValueHint::Other) } else { arg }
}
