//! opencode: a provider entry in `opencode.json`, and a plugin that fetches the key for each request.
//!
//! opencode reads `{env:…}` and `{file:…}` once, at its start. Its plugins may replace the `fetch` of a provider, which
//! lets a session outlive a token. But where there is any plugin, opencode starts only once npm has installed
//! opencode's own library into this directory or has given up, 70 s after the first attempt fails (measured on opencode
//! 1.18.33). Ours needs no library, so npm is configured to give up at once. With a gateway there is no plugin and no wait.

use std::ffi::OsStr;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Map, Value, json};
use url::Url;

use super::document::{ConfigDocument, KeyPath, Syntax};
use super::known_programs::{self, Values};
use super::readback::{Check, Rule};
use super::{Access, Companion, GatewayKey, NAME, Plan, ToolPaths};
use crate::platform::tools;
use crate::providers::Model;
use crate::secret::Secret;

const PLUGIN: &str = include_str!("opencode_plugin.js");
const NPM: &str = include_str!("opencode_npmrc");

/// The agents that answer by default, and the older name of such entries. The model of an agent wins over `model`.
const AGENTS: [[&str; 2]; 4] = [["agent", "build"], ["agent", "plan"], ["mode", "build"], ["mode", "plan"]];

/// opencode's own directory, and `OPENCODE_CONFIG_DIR`, which is read in addition.
fn directories(tool_paths: &ToolPaths) -> Vec<PathBuf> {
    let mut directories = vec![tool_paths.config.join("opencode")];
    directories.extend(tool_paths.opencode_directory.clone().filter(|directory| *directory != directories[0]));
    directories
}

/// The one that wins.
fn directory(tool_paths: &ToolPaths) -> PathBuf {
    tool_paths.opencode_directory.clone().unwrap_or_else(|| tool_paths.config.join("opencode"))
}

/// `OPENCODE_CONFIG`, else the one of the two names that exists, else the plain one.
pub(super) fn file(tool_paths: &ToolPaths) -> PathBuf {
    let directory = directory(tool_paths);
    let with_comments = directory.join("opencode.jsonc");
    match &tool_paths.opencode_config {
        Some(file) => file.clone(),
        None if with_comments.exists() => with_comments,
        None => directory.join("opencode.json"),
    }
}

pub(super) fn plan(access: &Access, tool_paths: &ToolPaths) -> Result<Plan> {
    let mut options = json!({"baseURL": access.base_url});
    let mut companions = Vec::new();
    if let Some(key) = &access.gateway_key {
        options["apiKey"] = match key {
            GatewayKey::File(file) => format!("{{file:{}}}", file.display()).into(),
            GatewayKey::Variable(name) => format!("{{env:{name}}}").into(),
        };
    } else {
        companions.push(Companion {
            file: directory(tool_paths).join("plugin").join(format!("{NAME}.js")),
            text: plugin(access)?,
            yields: false,
        });
        // Of each directory that opencode waits for.
        companions.extend(directories(tool_paths).into_iter().map(|directory| Companion {
            file: directory.join(".npmrc"),
            text: NPM.to_owned(),
            yields: true,
        }));
    }
    let models: Map<String, Value> = access.models().iter().map(|model| (model.id.clone(), entry(model))).collect();
    let provider = json!({
        "npm": "@ai-sdk/openai-compatible",
        "name": access.provider_title(),
        "options": options,
        "models": models,
    });
    let model = format!("{NAME}/{}", access.model);
    let note = access.gateway_key.is_none().then(|| {
        "requests go directly to the provider; `--gateway` adds retries and limits that all programs share".to_owned()
    });
    Ok(Plan {
        file: file(tool_paths),
        syntax: Syntax::Json,
        entries: vec![
            (KeyPath::key(&["provider", NAME]), provider),
            (KeyPath::key(&["model"]), json!(model)),
            // Without it opencode sends titles and summaries to a provider of its own choice.
            (KeyPath::key(&["small_model"]), json!(model)),
        ],
        over: AGENTS.map(|[kind, name]| (KeyPath::key(&[kind, name, "model"]), json!(model))).into(),
        checks: checks(tool_paths),
        companions,
        note,
    })
}

/// The plugin knows which host the key may be sent to and which headers the provider expects.
fn plugin(access: &Access) -> Result<String> {
    let origin = Url::parse(&access.base_url)?.origin().ascii_serialization();
    let values = [
        ("[/* command */]", serde_json::to_string(&access.key_command())?),
        ("\"/* origin */\"", serde_json::to_string(&origin)?),
        ("{/* headers */}", serde_json::to_string(&access.headers)?),
    ];
    Ok(values.iter().fold(PLUGIN.to_owned(), |text, (name, value)| text.replace(name, value)))
}

/// Every file that opencode merges may set which providers are enabled.
fn checks(tool_paths: &ToolPaths) -> Vec<Check> {
    let names = ["config.json", "opencode.json", "opencode.jsonc"];
    let mut files: Vec<PathBuf> =
        directories(tool_paths).iter().flat_map(|directory| names.map(|name| directory.join(name))).collect();
    files.extend(tool_paths.opencode_config.clone());
    files.push(tools::OPENCODE_MANAGED.into());
    let local = ["opencode.json", "opencode.jsonc"].map(|name| tool_paths.work.join(name));
    let all = files
        .iter()
        .map(|file| (file, false))
        .chain(local.iter().filter(|file| !files.contains(file)).map(|file| (file, true)));
    all.flat_map(|(file, is_local)| {
        [
            Check { is_local, ..Check::new(file, &["enabled_providers"], Rule::Lists(NAME)) },
            Check { is_local, ..Check::new(file, &["disabled_providers"], Rule::DoesNotList(NAME)) },
        ]
    })
    .collect()
}

/// The value of `OPENCODE_CONFIG_CONTENT`: merged over `theirs`, which is kept where it is about something else.
///
/// opencode reads it after the user's and the project's files, and merges it over them. Of all providers only ours is
/// enabled: opencode would choose a model of its own, and a project's file may name any host for another provider.
pub(super) fn content(values: &Values, named: Option<&str>, theirs: Option<&OsStr>) -> Result<Secret> {
    let mut config = match theirs {
        None => json!({}),
        Some(theirs) => {
            let theirs = ConfigDocument::of_variable(&theirs.to_string_lossy(), "OPENCODE_CONFIG_CONTENT")?;
            theirs.to_value().unwrap_or_else(|| json!({}))
        }
    };
    let own = named.and_then(|named| named.strip_prefix("qwenauth/"));
    let ids = values.model.into_iter().chain(own);
    let mut models: Map<String, Value> = values.models.iter().map(|model| (model.id.clone(), entry(model))).collect();
    for id in ids {
        models.entry(id).or_insert_with(|| json!({"name": id}));
    }
    let provider = json!({
        "npm": "@ai-sdk/openai-compatible",
        "name": values.title,
        "options": {"baseURL": "{env:OPENAI_BASE_URL}", "apiKey": "{env:OPENAI_API_KEY}"},
        "models": models,
    });
    // Without a schema some versions write a file that has one.
    let mut ours = json!({"$schema": "https://opencode.ai/config.json", "provider": {NAME: provider}});
    if let Some(model) = own.or(values.model) {
        ours["model"] = format!("{NAME}/{model}").into();
        ours["small_model"] = ours["model"].clone();
    }
    if named.is_none() || own.is_some() {
        ours["enabled_providers"] = json!([NAME]);
        ours["disabled_providers"] = json!([]);
        // A model that a file of the user's names for an agent wins over `model`, and its provider is not enabled.
        if !ours["model"].is_null() {
            ours["agent"] = json!({"build": {"model": ours["model"]}, "plan": {"model": ours["model"]}});
        }
    }
    known_programs::merge(&mut config, ours);
    Ok(Secret::new(config.to_string()))
}

/// opencode assumes nothing about a model it does not know: no limit, text only.
fn entry(model: &Model) -> Value {
    let mut entry = json!({"name": if model.name.is_empty() { &model.id } else { &model.name }});
    if let (Some(context), output) = (model.context, model.output) {
        // A limit requires both; a response is never longer than the context.
        entry["limit"] = json!({"context": context, "output": output.unwrap_or(context)});
    }
    if !model.input.is_empty() {
        entry["modalities"] = json!({"input": model.input, "output": ["text"]});
        if model.input.iter().any(|input| input != "text") {
            entry["attachment"] = json!(true);
        }
    }
    entry
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn files_of_the_project_are_local_and_no_file_is_looked_at_twice() {
        let local = |work: &str| {
            let checks = checks(&ToolPaths::of(Path::new("/home/ann"), Path::new(work)));
            (checks.len(), checks.iter().filter(|check| check.is_local).count())
        };
        assert_eq!((local("/work"), local("/home/ann/.config/opencode")), ((12, 4), (8, 0)));
    }
}
