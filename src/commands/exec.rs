//! `exec`: become a program that has the credential in its environment, or with `--gateway` run one next to a gateway.

mod known;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use self::known::{Group, Prepared};
use super::{group, native_group, native_names, warn_of_refusal};
use crate::cli::ExecArgs;
use crate::credentials::{Lifetime, MARGIN, fresh};
use crate::environment::{names_holding, variable};
use crate::error::{Failed, Failure, note};
use crate::gateway::{self, Background, Listener, Served};
use crate::platform::supervisor::Supervisor;
use crate::platform::{processes, signals};
use crate::say::Quiet;
use crate::secret::Secret;
use crate::session::{Endpoint, Session};
use crate::shell::{self, Variable};

/// A variable and its value, or `None` if it is to be unset.
type Set = (String, Option<Secret>);

/// Without `--gateway` this returns only if the program could not be started.
pub(crate) fn run(args: &ExecArgs, session: &Session) -> Result<u8> {
    let Some(program) = args.command.first() else {
        return Failed::new(Failure::Usage, "no program to run").err();
    };
    let is_left_alone = args.preserve_env && has_own_group(args, session);
    let mut command = if is_left_alone {
        if args.verbose {
            note("keeping the key and base URL that are already set (`--preserve-env`)");
        }
        command_of(&args.command, (0, Vec::new()))?
    } else if args.gateway {
        return run_beside_gateway(args, session);
    } else {
        let group = group(session, args.min_ttl, args.model.clone(), args.short_lived, true, args.native)?;
        with_group(args, session, group)?.0
    };
    pass_certificates_on(session, &mut command);
    match processes::become_program(&mut command) {
        Err(error) => Err(processes::cannot_start(program, &error).into()),
        Ok(never) => match never {},
    }
}

/// Whether a key or base URL of any family is set, which the child would find next to one of ours.
fn has_own_group(args: &ExecArgs, session: &Session) -> bool {
    const FAMILIES: [&str; 6] = [
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "OPENAI_API_BASE",
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "ANTHROPIC_BASE_URL",
    ];
    let own = if args.native { native_names(Ok(session.clone())) } else { Vec::new() };
    FAMILIES.into_iter().chain(own.iter().map(String::as_str)).any(|name| variable(name).is_some())
}

/// Starts the gateway, then the program, and ends as the program does.
fn run_beside_gateway(args: &ExecArgs, session: &Session) -> Result<u8> {
    if args.gateway_options.log.as_deref() == Some(Path::new("-")) {
        return Failed::new(Failure::Usage, "`--log -` would mix log lines into the output of the program")
            .hint("name a file, such as `--log gateway.jsonl`")
            .err();
    }
    let fallback = session.fallback(&args.gateway_options)?;
    let source = session.source()?;
    let credential = fresh(&source, Lifetime::new(args.min_ttl, MARGIN))?;
    warn_of_refusal(&source, &credential, true);
    let model = Endpoint::of(&source, &credential, args.model.clone())?.model;
    let (listener, address) = Listener::on_loopback()?;
    let key = gateway::gateway_key::new();
    let base_url = format!("http://{address}/v1");
    let mut group = shell::openai(&key, &base_url, model.as_deref()).to_vec();
    if args.native {
        group.extend(native_group(&source.provider(&credential)?, &key, &base_url, true)?);
    }
    let (mut command, support) = with_group(args, session, group)?;
    let mut withheld = session.withheld(&source, &fallback, false);
    // A key that a command prints is known only now.
    withheld.extend(names_holding(&credential.access_token));
    withhold(&withheld, &mut command);
    pass_certificates_on(session, &mut command);
    set_proxy_exceptions(&mut command);
    signals::allow_many_files(Some(&mut command));
    signals::bind_to_this_process(&mut command);
    // Before any thread: all of them have the signals blocked then.
    let supervisor = Supervisor::stand_in()?;
    let mut options = session.gateway_options(&args.gateway_options);
    options.withheld = withheld;
    let gateway = Background::start(
        listener,
        key,
        Served {
            source,
            lookup: None,
            key_file: None,
            fallback,
            metrics: None,
            keyed: None,
            members: None,
            config_check: None,
        },
        options,
    )?;
    // A program that has the terminal may have its own picture on it.
    let quiet = std::io::stderr().is_terminal().then(Quiet::new);
    let ended = supervisor
        .try_spawn(&mut command)
        .map_err(|error| anyhow::Error::from(processes::cannot_start(&args.command[0], &error)))
        .and_then(|mut child| supervisor.wait_as_one_job(&mut child));
    drop(quiet);
    // From here on the exit code is that of the program.
    if let Err(error) = gateway.stop() {
        note(&format!("warning: the gateway has failed: {error:#}"));
    }
    drop(support);
    Ok(supervisor.end_as(ended?))
}

/// No proxy for this machine, in addition to what the user excepts. Programs read either spelling first, so each starts
/// from whichever was set.
fn set_proxy_exceptions(command: &mut Command) {
    const LOOPBACK: &str = "127.0.0.1,localhost,::1";
    let (upper, lower) = (variable("NO_PROXY"), variable("no_proxy"));
    for (name, before) in
        [("NO_PROXY", upper.as_ref().or(lower.as_ref())), ("no_proxy", lower.as_ref().or(upper.as_ref()))]
    {
        let mut hosts = before.map_or_else(OsString::new, |before| {
            let mut before = before.clone();
            before.push(",");
            before
        });
        hosts.push(LOOPBACK);
        command.env(name, hosts);
    }
}

/// Unsets these variables for the child, except those that are set for it.
fn withhold(names: &BTreeSet<OsString>, command: &mut Command) {
    let set: Vec<OsString> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
    for name in names.iter().filter(|name| !set.contains(name)) {
        command.env_remove(name);
    }
}

/// What this program trusts, the child trusts, unless it was given certificates of its own.
fn pass_certificates_on(session: &Session, command: &mut Command) {
    let Some(file) = &session.environment.ca_file else { return };
    for name in ["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"] {
        if variable(name).is_none() {
            command.env(name, file);
        }
    }
}

/// The command, with arguments of ours before the word of that index, and with the signals as they were found.
fn command_of(words: &[OsString], (index, arguments): (usize, Vec<OsString>)) -> Result<Command> {
    let mut command = processes::command(&words[0], variable("PATH").as_deref())
        .map_err(|error| processes::cannot_start(&words[0], &error))?;
    let index = index.clamp(1, words.len());
    command.args(&words[1..index]).args(arguments).args(&words[index..]);
    signals::restore_in(&mut command);
    Ok(command)
}

/// Removes a directory of ours when the program that needed it has ended.
struct Temporary(Option<PathBuf>);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(directory) = &self.0
            && let Err(error) = std::fs::remove_dir_all(directory)
        {
            log::debug!("`{}` was not removed: {error}", directory.display());
        }
    }
}

/// The command with the group, and with what a known program needs besides.
fn with_group(args: &ExecArgs, session: &Session, group: Vec<Variable>) -> Result<(Command, Temporary)> {
    let mut own = group.into_iter().map(|Variable { name, value }| (name.into_owned(), value)).collect::<Vec<Set>>();
    let value = |name: &str| own.iter().find(|(known, _)| known == name).and_then(|(_, value)| value.as_ref());
    let prepared = match (value("OPENAI_API_KEY"), value("OPENAI_BASE_URL")) {
        (Some(key), Some(base_url)) => {
            let group = Group { key, base_url: base_url.expose(), model: value("OPENAI_MODEL").map(Secret::expose) };
            known::prepare(args, session, &group)?
        }
        _ => Prepared::default(),
    };
    own.extend(prepared.variables);
    let mut command = command_of(&args.command, prepared.arguments)?;
    set_variables(args, &own, &mut command);
    Ok((command, Temporary(prepared.support)))
}

fn set_variables(args: &ExecArgs, own: &[Set], command: &mut Command) {
    let mut replaced = Vec::new();
    for (name, value) in own {
        let value = value.as_ref().map(|value| OsStr::new(value.expose()));
        if variable(name).is_some_and(|found| Some(found.as_os_str()) != value) {
            replaced.push(name.as_str());
        }
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let program = args.command[0].to_string_lossy();
    if args.verbose {
        let named = |set: bool| {
            let names: Vec<&str> =
                own.iter().filter(|(_, value)| value.is_some() == set).map(|(name, _)| name.as_str()).collect();
            names.join(", ")
        };
        note(&format!("set for `{program}`: {}; removed: {}", named(true), named(false)));
    }
    if !replaced.is_empty() {
        note(&format!("replaced for `{program}`: {}", replaced.join(", ")));
    }
}
