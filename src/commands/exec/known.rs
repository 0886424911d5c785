//! A program that `exec` knows, prepared with the profile's host, key and model; or rejected before it starts.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Set;
use crate::cli::ExecArgs;
use crate::commands::tool_paths;
use crate::credentials::Stored;
use crate::environment::variable;
use crate::error::{Failed, Failure, note, printable};
use crate::platform::{processes, tools};
use crate::providers::{self, Provider};
use crate::secret::Secret;
use crate::session::{Endpoint, Session};
use crate::setup::known_programs::{self, KnownProgram, Launch, Located, Need, Surroundings, Values};

/// Maximum length of a command in a hint, in bytes: a prompt to a model is an argument too.
const MAX_COMMAND: usize = 200;

/// What a command is started with, in addition to the group.
#[derive(Default)]
pub(super) struct Prepared {
    pub(super) variables: Vec<Set>,
    /// Put before the argument of this index.
    pub(super) arguments: (usize, Vec<OsString>),
    /// A directory of ours that is only of use while this gateway runs.
    pub(super) support: Option<PathBuf>,
}

/// The group's own values.
pub(super) struct Group<'a> {
    pub(super) key: &'a Secret,
    pub(super) base_url: &'a str,
    pub(super) model: Option<&'a str>,
}

/// Nothing more than the group for a program that is not known.
pub(super) fn prepare(args: &ExecArgs, session: &Session, group: &Group) -> Result<Prepared> {
    let named = args.r#as.as_deref().map(known_programs::named).transpose()?;
    let located = known_programs::locate(&args.command, named)?;
    let Some(Located { child, arguments: own, lacks_separator }) = located else {
        if args.gateway && !known_programs::is_interpreter(&args.command[0]) && is_there(&args.command[0]) {
            let program = args.command[0].to_string_lossy();
            note(&format!(
                "`{program}` is not a known program: only its requests to `OPENAI_BASE_URL` go through the gateway (`--as NAME` treats \
                 it as a known one)"
            ));
        }
        return Ok(Prepared::default());
    };
    let mut launch = launch(args, session, group, &child, own)?;
    launch.notes.iter().for_each(|line| note(line));
    if lacks_separator && !launch.arguments.is_empty() {
        check_separator(&child, &args.command, own)?;
        launch.arguments.insert(0, "--".into());
    }
    Ok(Prepared {
        variables: launch.variables,
        arguments: (own, launch.arguments),
        support: launch.support.filter(|_| args.gateway && child.is_supported_by_address()),
    })
}

/// Errors: options behind the program, which what starts it takes for its own, and ours would follow.
fn check_separator(child: &KnownProgram, command: &[OsString], own: usize) -> Result<()> {
    if !command[own..].iter().any(|word| word.to_string_lossy().starts_with('-')) {
        return Ok(());
    }
    let (wrapper, program) = (command[0].to_string_lossy(), command[own - 1].to_string_lossy());
    let message = format!("`{wrapper}` would read the options of {} as its own", child.title);
    Failed::new(Failure::Usage, message).hint(format!("write `--` before the program: `-- {program} …`")).err()
}

fn is_there(program: &OsStr) -> bool {
    let has_path = Path::new(program).components().count() > 1;
    has_path || variable("PATH").is_some_and(|path| processes::find(program, &path).is_some())
}

fn launch(args: &ExecArgs, session: &Session, group: &Group, child: &KnownProgram, own: usize) -> Result<Launch> {
    let source = session.source()?;
    let credential = source.require()?;
    let provider = source.provider(&credential)?;
    let provider_url = Endpoint::of(&source, &credential, None)?.base_url;
    let anthropic = anthropic_base(&provider, &provider_url, group.base_url);
    let title = format!("{} (qwenauth)", provider.called(&provider_url));
    let values = Values {
        key: group.key,
        base_url: group.base_url,
        model: group.model,
        models: &provider.models,
        title: &title,
        anthropic: anthropic.as_deref(),
    };
    let own_arguments = &args.command[own..];
    if let Some(need) = child.lacks(&values, own_arguments, provider.has_responses(&provider_url)) {
        let place = (&provider, provider_url.as_str());
        return Err(refused(session, &source.profile, place, child, need, args.command.len()).into());
    }
    let around = Surroundings {
        tool_paths: &tool_paths(session)?,
        state: &session.config.paths.state,
        merged: child.merged_variable().and_then(variable),
        allow_files: args.allow_env_file,
    };
    child.launch(&values, &around, own_arguments)
}

/// The gateway serves the provider's Anthropic endpoint at its own root.
fn anthropic_base(provider: &Provider, provider_url: &str, base_url: &str) -> Option<String> {
    let direct = provider.anthropic(provider_url)?;
    if provider_url == base_url {
        return Some(direct);
    }
    Some(base_url.trim_end_matches("/v1").to_owned())
}

fn refused(
    session: &Session,
    profile: &str,
    (provider, base_url): (&Provider, &str),
    child: &KnownProgram,
    need: Need,
    own: usize,
) -> Failed {
    let typed = |options: &[&str]| typed_with(options, &std::env::args_os().skip(1).collect::<Vec<_>>(), own);
    let (what, serves): (_, fn(&Provider) -> bool) = match need {
        Need::Model => {
            return Failed::new(
                Failure::Other,
                format!("{} needs a model, and profile `{profile}` has no default", child.title),
            )
            .hint(format!("name one: `{}`", typed(&["--model", "ID"])));
        }
        Need::Anthropic if provider.is_own_server() && able_profile(session, need).is_none() => {
            return provider.unknown_anthropic(&child.title, profile);
        }
        Need::Anthropic => ("an Anthropic endpoint", Provider::has_anthropic),
        Need::Responses => ("`/responses`", Provider::is_known_for_responses),
    };
    let failed = Failed::new(
        Failure::Other,
        format!(
            "{} cannot work with profile `{profile}`: it needs {what}, which {} does not have",
            child.title,
            provider.called(base_url)
        ),
    );
    match able_profile(session, need) {
        Some(profile) => {
            let line = typed(&["--profile", &profile]);
            failed.hint(match session.credential_variable() {
                Some(variable) => format!("profile `{profile}` can: `unset {variable}`, then `{line}`"),
                None => format!("profile `{profile}` can: `{line}`"),
            })
        }
        None => failed.hint(providers::hint_to_log_in(serves)),
    }
}

/// The command line `words` with an option, `options`, in place of that of the same name. The program and its arguments,
/// the last `own` words, stay as they are; `…` stands for them if they do not fit into a hint.
fn typed_with(options: &[&str], words: &[OsString], own: usize) -> String {
    let (before, command) = words.split_at(words.len().saturating_sub(own));
    let mut before: Vec<String> = before.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    before.retain(|word| word != "--");
    if let Some(at) = before.iter().position(|word| word == options[0]) {
        before.drain(at..(at + 2).min(before.len()));
    }
    before.retain(|word| word.split_once('=').is_none_or(|(name, _)| name != options[0]));
    before.extend(options.iter().map(|&word| word.to_owned()));
    let before: Vec<String> = before.iter().map(|word| tools::quoted(word)).collect();
    let is_whole = command.iter().all(|word| word.to_str().is_some_and(|word| printable(word) == word));
    let command: Vec<String> = command.iter().map(|word| tools::quoted(&word.to_string_lossy())).collect();
    let command = Some(command.join(" ")).filter(|command| is_whole && command.len() <= MAX_COMMAND);
    format!("qwenauth {} -- {}", before.join(" "), command.as_deref().unwrap_or("…"))
}

/// A stored profile whose provider has what is required.
fn able_profile(session: &Session, need: Need) -> Option<String> {
    session.config.paths.profiles().ok()?.into_iter().find_map(|profile| {
        let source = session.source_of(&profile);
        let Ok(Stored::Present(credential)) = source.load_record() else { return None };
        let provider = source.provider(&credential).ok()?;
        let base_url = Endpoint::of(&source, &credential, None).ok()?.base_url;
        let is_able = match need {
            Need::Anthropic => provider.anthropic(&base_url).is_some(),
            // What anybody's server has is not known.
            Need::Responses => !provider.base_url.is_empty() && provider.has_responses(&base_url),
            Need::Model => true,
        };
        is_able.then(|| profile.to_string())
    })
}
