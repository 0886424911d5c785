//! `qwenauth completions SHELL`: print the completion script of a shell.
//!
//! The scripts of bash, zsh and fish are fixed: they pass the words of the line to `qwenauth __complete`, which knows the
//! command line and the names of profiles, providers, regions, models and tools. The other scripts are generated and know
//! the command line only. (`CompleteEnv` of `clap_complete` does the same, but needs the feature `unstable-dynamic`, which
//! any release may change.)

mod line;

use std::collections::BTreeSet;
use std::fmt::Write;

use anyhow::Result;
use clap::{Arg, Command, CommandFactory, ValueHint};
use clap_complete::{Generator, Shell as ClapShell, generate};
use clap_complete_nushell::Nushell;

use self::line::{Fit, Names, fit};
use super::print;
use crate::cli::{Cli, CompletionsArgs, Shell};
use crate::credentials::Stored;
use crate::profile::ProfileName;
use crate::providers::{self, Provider};
use crate::session::Session;
use crate::setup::TOOLS;

pub(crate) fn run(args: &CompletionsArgs) -> Result<()> {
    match args.shell {
        Shell::Bash => print(include_str!("completions/bash.sh")),
        Shell::Zsh => print(include_str!("completions/zsh.zsh")),
        Shell::Fish => print(include_str!("completions/fish.fish")),
        Shell::Powershell => print(&generated(ClapShell::PowerShell)?),
        Shell::Elvish => print(&generated(ClapShell::Elvish)?),
        Shell::Nushell => print(&generated(Nushell)?),
    }
}

fn generated(shell: impl Generator) -> Result<String> {
    let mut script = Vec::new();
    generate(shell, &mut visible(), "qwenauth", &mut script);
    Ok(String::from_utf8(script)?)
}

/// Prints the values that can complete a line: a kind, then one value per line, after a tab its description. `words`: those
/// of the line, without the program; the last one is being typed. On an error there are no names: a message would appear
/// in the middle of the line.
pub(crate) fn complete(words: &[String], session: impl FnOnce() -> Result<Session>) -> Result<()> {
    let mut root = Cli::command();
    root.build();
    let (current, before) = words.split_last().map_or(("", words), |(current, before)| (current.as_str(), before));
    // bash makes the equals sign a word.
    let current = if current == "=" { "" } else { current };
    let words: Vec<&str> = before.iter().map(String::as_str).filter(|word| *word != "=").collect();
    let session = std::cell::LazyCell::new(|| session().ok());
    let names = |names| match &*session {
        _ if names == Names::Tools => TOOLS.iter().map(|tool| tool.name.to_owned()).collect(),
        Some(session) => known(names, &words, session).into_iter().filter(|name| is_plain(name)).collect(),
        None => Vec::new(),
    };
    match fit(&root, &words, current, names) {
        Fit::Files => print("files\n"),
        Fit::Commands => print("commands\n"),
        Fit::Values(values) => {
            let mut text = "values\n".to_owned();
            for (value, about) in values {
                let tab = if about.is_empty() { "" } else { "\t" };
                writeln!(text, "{value}{tab}{about}")?;
            }
            print(&text)
        }
    }
}

fn known(names: Names, words: &[&str], session: &Session) -> Vec<String> {
    match names {
        Names::Providers => providers::names(&session.config.overrides),
        Names::Profiles => {
            session.profiles().map(|profiles| profiles.iter().map(ToString::to_string).collect()).unwrap_or_default()
        }
        Names::Regions => regions(words, session),
        Names::Models => models(words, session),
        Names::Tools => Vec::new(),
    }
}

/// The regions of the provider on the line, else of every provider.
fn regions(words: &[&str], session: &Session) -> Vec<String> {
    let overrides = &session.config.overrides;
    let named = provider_of_login(words, session).map(|provider| vec![provider]);
    let all = || providers::names(overrides).iter().filter_map(|name| providers::find(name, overrides).ok()).collect();
    let found: BTreeSet<String> =
        named.unwrap_or_else(all).into_iter().flat_map(|provider| provider.regions.into_keys()).collect();
    found.into_iter().collect()
}

/// The models of the provider on the line, else of the profile that the command would use.
fn models(words: &[&str], session: &Session) -> Vec<String> {
    let provider = provider_of_login(words, session).or_else(|| {
        let profile = match profile_of(words) {
            Some(name) => ProfileName::parse(&name).ok()?,
            // The key itself may be in a pipe, which can be read once.
            None if session.credential_variable().is_some() => return session.provider(),
            None => session.profile.clone(),
        };
        let source = session.source_of(&profile);
        match source.load_record() {
            Ok(Stored::Present(credential)) => source.provider(&credential).ok(),
            _ => None,
        }
    });
    provider.into_iter().flat_map(|provider| provider.models).map(|model| model.id).collect()
}

/// What `login` is about to log in to.
fn provider_of_login(words: &[&str], session: &Session) -> Option<Provider> {
    let behind = words.iter().skip_while(|word| **word != "login").skip(1).filter(|word| !word.starts_with('-'));
    let mut found = behind.filter_map(|word| providers::find_by_any_name(word, &session.config.overrides).ok());
    found.next()
}

/// The value of `--profile`.
fn profile_of(words: &[&str]) -> Option<String> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.strip_prefix("--profile") {
            Some("") => return words.next().map(|name| (*name).to_owned()),
            Some(value) => return value.strip_prefix('=').map(str::to_owned),
            None => {}
        }
    }
    None
}

/// Hazard: a name of config.toml may be a command, which a shell that expands what it is offered would run. Rule: only
/// names that need no quotes in any shell are offered.
fn is_plain(name: &str) -> bool {
    !name.starts_with('-') && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// The command line without its hidden commands and options, which the generators would offer.
fn visible() -> Command {
    shown(&Cli::command(), &[]).version(env!("CARGO_PKG_VERSION"))
}

/// `inherited`: the global options of the commands above. A hidden option of the same name replaces them.
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
