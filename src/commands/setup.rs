//! `setup`: configure a tool to use a profile, show what would be written, undo it, or list the tools.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::{print, print_document, tool_paths};
use crate::cli::{SetupArgs, TEAM_KEY};
use crate::credentials::GivenKey;
use crate::environment::variable;
use crate::error::{Failed, Failure, json_for_terminal, note, printable};
use crate::gateway;
use crate::installation::Installation;
use crate::platform::{disk, processes, service, tools};
use crate::providers::{self, QWEN};
use crate::say::{Screen, Style, cell};
use crate::session::{Endpoint, Session};
use crate::setup::{self, Access, Applied, GatewayKey, Removed, SetUp, TOOLS, Tool, ToolPaths};
use crate::terminal;

/// Columns of the list: a tool's name, and whether it is installed.
const TOOL: usize = 12;
const INSTALLED: usize = 10;

pub(crate) fn run(args: &SetupArgs, session: &Session) -> Result<()> {
    let paths = tool_paths(session)?;
    let Some(name) = &args.tool else { return list(args, session, &paths) };
    let tool = setup::find(name)?;
    if args.remove {
        return remove(tool, args, session);
    }
    let access = access(args, session)?;
    match tool.set_up(&access, &paths)? {
        SetUp::Text { place, text, start } => {
            if args.print {
                note(&format!("for {}:", as_place(&place)));
            } else {
                note(&format!("{} must be configured manually: paste this into {}", tool.title, as_place(&place)));
            }
            if let Some(start) = start {
                note(&format!("then start it with `{start}`"));
            }
            print(&json_for_terminal(&text))?;
            // If the text does not contain the gateway's address, the tool is started with a gateway of its own.
            if text.contains(&access.base_url) {
                say_gateway(args, &access);
            }
            Ok(())
        }
        SetUp::Plan(plan) if args.print => {
            let (file, text) = plan.print()?;
            note(&format!("for `{}`:", file.display()));
            print(&json_for_terminal(&text))
        }
        SetUp::Plan(plan) => {
            if let (Some(GatewayKey::File(file)), None) = (&access.gateway_key, &args.gateway_url) {
                gateway::gateway_key::kept_in(file)?;
            }
            let applied = plan.apply(tool, &access, &session.config.paths.state)?;
            say_done(tool, args, &access, &paths, &applied);
            if let Some(text) = &plan.note {
                note(text);
            }
            say_gateway(args, &access);
            Ok(())
        }
    }
}

/// How to start the gateway that the tool expects.
fn say_gateway(args: &SetupArgs, access: &Access) {
    let Some(key) = &access.gateway_key else { return };
    let key = match key {
        GatewayKey::Variable(name) => {
            return note(&format!("the key is taken from `{name}` in the tool's environment"));
        }
        GatewayKey::File(file) if args.gateway_url.is_some() => {
            return note(&format!("the key is taken from `{}`", file.display()));
        }
        GatewayKey::File(file) => file,
    };
    let listen = access.base_url.trim_start_matches("http://").trim_end_matches("/v1");
    if service::IS_SUPPORTED {
        note("add `--install` to the next command to run the gateway as a service that starts with each session");
    }
    note(&format!(
        "start the gateway with `{} gateway --profile {} --listen {listen} --api-key-file {}`",
        tools::typed(&access.program),
        access.profile,
        tools::quoted(&key.display().to_string())
    ));
}

fn as_place(place: &str) -> String {
    if Path::new(place).is_absolute() { format!("`{place}`") } else { place.to_owned() }
}

fn say_done(tool: &Tool, args: &SetupArgs, access: &Access, paths: &ToolPaths, applied: &Applied) {
    let file = tool.file(paths).map(|file| file.display().to_string()).unwrap_or_default();
    if let Some((lines, kept)) = &applied.edits {
        terminal::say(&lines.join("\n"));
        note(&format!(
            "warning: your edits of what qwenauth writes were replaced (above: - as written, + as edited); `{}` keeps them",
            kept.display()
        ));
    }
    let (title, model) = (tool.title, &access.model);
    note(&match (&args.gateway_url, &access.base_url, &access.profile) {
        (Some(_), url, _) if applied.changed => {
            format!("{title} uses the gateway at `{url}`, model `{model}`: `{file}`")
        }
        (Some(_), url, _) => format!("{title} already uses the gateway at `{url}`, model `{model}`: `{file}`"),
        (None, _, name) if applied.changed => format!("{title} uses profile `{name}`, model `{model}`: `{file}`"),
        (None, _, name) => format!("{title} already uses profile `{name}`, model `{model}`: `{file}`"),
    });
    if !applied.aside.is_empty() && applied.changed {
        let places = applied.aside.join("`, `");
        note(&format!("moved aside; `qwenauth setup {} --remove` restores it: `{places}`", tool.name));
    }
    let exported: Vec<_> = tool.replaced_variables().into_iter().filter(|name| variable(name).is_some()).collect();
    if !exported.is_empty() {
        let names = exported.join("`, `");
        note(&format!(
            "set in the environment, but not used by {} while qwenauth configures it: `{names}`",
            tool.title
        ));
    }
    applied.notes.iter().for_each(|line| note(&format!("warning: {line}")));
    if applied.changed {
        note(&format!("`qwenauth setup {} --remove` restores the previous configuration of {}", tool.name, tool.title));
    }
    if installed(tool.program).is_none() {
        note(&format!("`{}` is not on `PATH`; the configuration applies once it is installed", tool.program));
    }
}

fn remove(tool: &Tool, args: &SetupArgs, session: &Session) -> Result<()> {
    match setup::remove(tool, &session.config.paths.state, args.force)? {
        Removed::Done(file) => note(&format!("{} is restored: `{}`", tool.title, file.display())),
        Removed::NotSetUp => note(&format!("{} is not configured by qwenauth; nothing was changed", tool.title)),
        Removed::Edited(file, lines) => {
            terminal::say(&lines.join("\n"));
            return Failed::new(
                Failure::Other,
                format!(
                    "`{}` has been edited where qwenauth wrote it (above: - as written, + as it is now)",
                    file.display()
                ),
            )
            .hint("use `--force` to remove it anyway")
            .err();
        }
    }
    Ok(())
}

/// What a tool of a member is given: the gateway of the team, and where its key is. No login is needed.
fn team_access(url: &str, args: &SetupArgs, session: &Session) -> Result<Access> {
    let base_url = providers::base_url(&format!("{url}/v1"))?;
    let known = args.tool.as_deref().and_then(|tool| Some((tool, setup::find(tool).ok()?)));
    if let Some((tool, known)) = known.filter(|(_, known)| known.reads_environment_only()) {
        let program = known.program;
        let message = format!("`{tool}` reads the key and base URL from its environment, which `setup` cannot change");
        let mut login = format!("qwenauth login team --base-url {}", tools::quoted(&base_url));
        if let Some(model) = &args.model {
            login += &format!(" --model {}", tools::quoted(model));
        }
        return Failed::new(Failure::Usage, message)
            .hint(format!("run `{login} --api-key-stdin`, then `qwenauth exec -- {program}`"))
            .err();
    }
    let Some(model) = args.model.clone().filter(|model| !model.chars().any(char::is_control)) else {
        return Failed::new(Failure::Usage, "`--gateway-url` requires a model")
            .hint("name one with `--model ID`; the gateway lists its models at `/v1/models`")
            .err();
    };
    let key = match &args.key_file {
        Some(file) => GatewayKey::File(std::path::absolute(file).context("`--key-file`")?),
        None => GatewayKey::Variable(args.key_env.clone().unwrap_or_else(|| TEAM_KEY.to_owned())),
    };
    Ok(Access {
        profile: "team".to_owned(),
        // It serves both protocols, as far as its provider does.
        anthropic: Some(url.to_owned()),
        has_responses: true,
        headers: BTreeMap::new(),
        title: "team".to_owned(),
        base_url,
        model,
        models: Vec::new(),
        shared_with_qwen_code: false,
        gateway_key: Some(key),
        program: own_name(session)?,
    })
}

/// The settings for the tool. Offline: no request, no renewal.
fn access(args: &SetupArgs, session: &Session) -> Result<Access> {
    if let Some(url) = &args.gateway_url {
        return team_access(url, args, session);
    }
    let source = session.source()?;
    let credential = source.require()?;
    let provider = source.provider(&credential)?;
    if let Some(variable) = source.given.as_ref().and_then(GivenKey::variable) {
        note(&format!(
            "warning: the key is only in `{variable}`, so the tool can use it only where that variable is set; `{}` stores it",
            session.line_to_store_given_key()
        ));
    }
    let Endpoint { base_url, model } = Endpoint::of(&source, &credential, args.model.clone())?;
    let Some(model) = model else {
        return Failed::new(Failure::Usage, format!("{} has no default model", provider.called(&base_url)))
            .hint("name one with `--model ID`")
            .err();
    };
    // Lines to be pasted, and the terminal, hold it as it is.
    if model.chars().chain(base_url.chars()).any(char::is_control) {
        return Failed::new(Failure::Usage, format!("the model `{}` has control characters", printable(&model)))
            .hint("name one with `--model ID`")
            .err();
    }
    let gateway_key = args.gateway.map(|_| GatewayKey::File(session.config.paths.gateway_key()));
    let anthropic = provider.anthropic(&base_url);
    let is_claude_code = args.tool.as_deref().is_some_and(|tool| matches!(tool, "claude-code" | "claude"));
    if anthropic.is_none() && is_claude_code && provider.is_own_server() {
        return Err(provider.unknown_anthropic("Claude Code", &source.profile).into());
    }
    Ok(Access {
        profile: source.profile.clone(),
        title: printable(&provider.called(&base_url)),
        // The gateway serves it at its own root.
        anthropic: anthropic.map(|base| args.gateway.map_or(base, |address| format!("http://{address}"))),
        has_responses: provider.has_responses(&base_url),
        headers: provider.header_templates().clone(),
        base_url: args.gateway.map_or(base_url, |address| format!("http://{address}/v1")),
        model,
        models: provider.models.into_iter().filter(|model| !model.id.chars().any(char::is_control)).collect(),
        shared_with_qwen_code: source.profile == QWEN,
        gateway_key,
        program: own_name(session)?,
    })
}

/// `qwenauth` where that is what `PATH` finds, else the path of this very program: never that of a launcher, which costs each
/// call the start of an interpreter, and never one in a temporary place.
fn own_name(session: &Session) -> Result<String> {
    let own = Installation::of_this_program().context("cannot determine where this program is")?;
    // A sandbox is temporary too, so a tour started by `npx` or `uvx` shows what an installed program does.
    if !own.stays() && session.config.overrides.practice.is_none() {
        let what = format!("qwenauth is {own}, so a tool that is configured to call it would not find it later");
        return Failed::new(Failure::Other, what).hint("install qwenauth first, then run `setup` again").err();
    }
    // The shim of a version manager starts whichever version is chosen then.
    let is_shim = |found: &Path| found.parent().is_some_and(|directory| directory.ends_with("shims"));
    let is_own = |found: &Path| disk::canonical(found).is_ok_and(|found| found == own.program);
    if installed("qwenauth").is_some_and(|found| is_own(&found) || is_shim(&found)) {
        return Ok("qwenauth".into());
    }
    Ok(own.lasting_path().display().to_string())
}

/// Where `PATH` finds a program.
fn installed(program: &str) -> Option<PathBuf> {
    processes::find(OsStr::new(program), &variable("PATH")?)
}

fn list(args: &SetupArgs, session: &Session, paths: &ToolPaths) -> Result<()> {
    let screen = Screen::stdout();
    let mut rows = Vec::new();
    let [tool, installed_head, set_up] = ["TOOL", "INSTALLED", "SET UP"].map(|head| screen.translate(head));
    let head = format!("{} {} {set_up}", cell(&tool, TOOL), cell(&installed_head, INSTALLED));
    let mut text = screen.paint(Style::Dim, &head) + "\n";
    for tool in &TOOLS {
        let record = setup::recorded(&session.config.paths.state, tool.name)?;
        let installed = installed(tool.program);
        let (set_up, shade) = match (&record, tool.is_written()) {
            (Some(record), _) => {
                let file = shortened(&record.file, &paths.home, screen);
                (format!("profile {}: {file}", record.profile), None)
            }
            (None, true) => ("no".into(), Some(Style::Dim)),
            (None, false) => ("manually".into(), Some(Style::Dim)),
        };
        let (here, mark) = if installed.is_some() { ("yes", Style::Success) } else { ("no", Style::Dim) };
        let lead = TOOL + 1 + INSTALLED + 1;
        let lines = screen.wrap(&screen.translate(&printable(&set_up)), lead, lead);
        let painted = lines.iter().map(|line| shade.map_or(line.clone(), |shade| screen.paint(shade, line)));
        text += &format!(
            "{} {} {}\n",
            screen.paint(Style::Bold, &cell(tool.name, TOOL)),
            screen.paint(mark, &cell(&screen.translate(here), INSTALLED)),
            painted.collect::<Vec<_>>().join("\n")
        );
        rows.push(json!({
            "name": tool.name,
            "title": tool.title,
            "installed": installed,
            "written": tool.is_written(),
            "file": tool.file(paths),
            "profile": record.as_ref().map(|record| &record.profile),
            "base_url": record.as_ref().map(|record| &record.base_url),
        }));
    }
    if args.json {
        return print_document(&json!({"schema": 1, "tools": rows}));
    }
    let remark = screen.translate(
        "`qwenauth setup TOOL` configures a tool, or prints what to paste if it must be configured manually",
    );
    let remark = screen.wrap(&remark, 0, 0);
    text += &format!("\n{}\n", remark.iter().map(|line| screen.paint(Style::Dim, line)).collect::<Vec<_>>().join("\n"));
    print(&text)
}

/// On a terminal a path below the home directory begins with `~`.
fn shortened(path: &Path, home: &Path, screen: Screen) -> String {
    let below = path.strip_prefix(home).ok().filter(|_| screen.width().is_some() && home.parent().is_some());
    below.map_or_else(|| path.display().to_string(), |below| format!("~/{}", below.display()))
}
