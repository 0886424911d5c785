//! `exec`: become a program that has the credential in its environment, or with `--gateway` run one beside a gateway.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::process::Command;

use anyhow::Result;

use super::{group, new_gateway_key, tool_places};
use crate::cli::{ExecArgs, variable};
use crate::credentials::{Lifetime, MARGIN};
use crate::error::{Failed, Failure, note};
use crate::gateway::{self, Background, Served};
use crate::platform::supervisor::Supervisor;
use crate::platform::{processes, signals};
use crate::secret::Secret;
use crate::session::{Endpoint, Session};
use crate::setup::children::{self, Child, Values};
use crate::shell::{self, Variable};

/// A variable and its value; `None`: it has to go.
type Set = (String, Option<Secret>);

/// Without `--gateway` this returns only if the program could not be started.
pub(crate) fn run(args: &ExecArgs, session: &Session) -> Result<u8> {
    let Some((program, arguments)) = args.command.split_first() else {
        return Failed::new(Failure::Usage, "no program to run").err();
    };
    let mut command = processes::command(program, variable("PATH").as_deref())
        .map_err(|error| processes::cannot_start(program, &error))?;
    command.args(arguments);
    let is_left_alone = args.preserve_env
        && ["OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE"].iter().any(|name| variable(name).is_some());
    signals::restore_in(&mut command);
    if is_left_alone {
        if args.verbose {
            note("the environment has a key or base URL already, and it is left alone (`--preserve-env`)");
        }
    } else if args.gateway {
        return run_beside_gateway(args, session, command);
    } else {
        let group = group(session, args.min_ttl, args.model.clone(), args.short_lived)?;
        set_group(args, session, group, &mut command)?;
    }
    match processes::become_program(&mut command) {
        Err(error) => Err(processes::cannot_start(program, &error).into()),
        Ok(never) => match never {},
    }
}

/// Starts the gateway, then the program, and ends as the program does.
fn run_beside_gateway(args: &ExecArgs, session: &Session, mut command: Command) -> Result<u8> {
    let account = session.account();
    let credential = account.fresh(Lifetime::new(args.min_ttl, MARGIN))?;
    let model = Endpoint::of(&account, &credential, args.model.clone())?.model;
    let listener = gateway::listen(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let key = new_gateway_key();
    let base_url = format!("http://{}/v1", listener.local_addr()?);
    set_group(args, session, shell::openai(&key, &base_url, model.as_deref()), &mut command)?;
    for name in ["NO_PROXY", "no_proxy"] {
        command.env(name, with_loopback(variable(name)));
    }
    signals::allow_many_files(Some(&mut command));
    signals::bind_to_this_process(&mut command);
    // Before any thread: all of them have the signals blocked then.
    let supervisor = Supervisor::stand_in()?;
    let options = session.gateway_options(&args.gateway_options);
    let gateway = Background::start(listener, key, Served { account, accounts: None }, options)?;
    let ended = supervisor
        .try_spawn(&mut command)
        .map_err(|error| anyhow::Error::from(processes::cannot_start(&args.command[0], &error)))
        .and_then(|mut child| supervisor.wait_as_one_job(&mut child));
    gateway.stop()?;
    Ok(supervisor.end_as(ended?))
}

/// No proxy for this machine, beside what the user excepts.
fn with_loopback(before: Option<OsString>) -> OsString {
    let mut hosts = before.map_or_else(OsString::new, |mut before| {
        before.push(",");
        before
    });
    hosts.push("127.0.0.1,localhost,::1");
    hosts
}

fn set_group(args: &ExecArgs, session: &Session, group: [Variable; 6], command: &mut Command) -> Result<()> {
    let mut own = group.map(|Variable { name, value }| (name.to_owned(), value)).to_vec();
    if let Some(child) = children::find(&args.command[0])? {
        own.extend(for_child(&child, &own, session)?);
    }
    let mut replaced = Vec::new();
    for (name, value) in &own {
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
    Ok(())
}

/// What a known program reads beside the group, with a warning where that will not do.
fn for_child(child: &Child, group: &[Set], session: &Session) -> Result<Vec<Set>> {
    let value = |name: &str| group.iter().find(|(known, _)| known == name).and_then(|(_, value)| value.as_ref());
    let (Some(key), Some(base_url)) = (value("OPENAI_API_KEY"), value("OPENAI_BASE_URL")) else {
        return Ok(Vec::new());
    };
    let account = session.account();
    let credential = account.require()?;
    let provider = account.provider(&credential)?;
    let provider_url = Endpoint::of(&account, &credential, None)?.base_url;
    // A gateway speaks it if the provider does, at an address of its own.
    let anthropic = provider.anthropic(&provider_url).map(|endpoint| {
        let base_url = base_url.expose();
        if base_url == provider_url { endpoint } else { base_url.trim_end_matches("/v1").to_owned() }
    });
    let values = Values {
        key,
        base_url: base_url.expose(),
        model: value("OPENAI_MODEL").map(Secret::expose),
        anthropic: anthropic.as_deref(),
    };
    for missing in child.missing(&values) {
        note(&format!("warning: {missing}"));
    }
    let profile = session.profile.as_str();
    if let Some(why) = child.outvoted(&tool_places(session)?, &session.config.paths.state, profile) {
        note(&format!("warning: {why}"));
    }
    let mut own: Vec<Set> = child.variables(&values).into_iter().map(|(name, value)| (name, Some(value))).collect();
    if !own.is_empty() {
        own.extend(child.remove.iter().map(|name| (name.clone(), None)));
    }
    Ok(own)
}
