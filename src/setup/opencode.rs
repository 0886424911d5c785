//! opencode: a provider entry in `opencode.json`, and a plugin that fetches the key for each request.
//!
//! opencode reads `{env:…}` and `{file:…}` once, at its start. Its plugins may replace the `fetch` of a provider: that is
//! how a session outlives a token (measured on opencode 1.18.33).

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::document::{Place, Syntax};
use super::{Access, NAME, Places, Plan};
use crate::providers::Model;

const PLUGIN: &str = include_str!("opencode_plugin.js");

/// `OPENCODE_CONFIG_DIR`, else opencode's own directory.
fn directory(places: &Places) -> PathBuf {
    places.opencode_directory.clone().unwrap_or_else(|| places.config.join("opencode"))
}

/// `OPENCODE_CONFIG`, else the one of the two names that exists, else the plain one.
pub(super) fn file(places: &Places) -> PathBuf {
    let directory = directory(places);
    let with_comments = directory.join("opencode.jsonc");
    match &places.opencode_config {
        Some(file) => file.clone(),
        None if with_comments.exists() => with_comments,
        None => directory.join("opencode.json"),
    }
}

pub(super) fn plan(access: &Access, places: &Places) -> Result<Plan> {
    let mut options = json!({"baseURL": access.base_url});
    let mut companion = None;
    if let Some(key) = &access.gateway_key {
        options["apiKey"] = format!("{{file:{}}}", key.display()).into();
    } else {
        let command = serde_json::to_string(&access.key_command())?;
        let plugin = directory(places).join("plugin").join(format!("{NAME}.js"));
        companion = Some((plugin, PLUGIN.replace("[/* command */]", &command)));
    }
    let models: Map<String, Value> = access.models().iter().map(|model| (model.id.clone(), entry(model))).collect();
    let provider = json!({
        "npm": "@ai-sdk/openai-compatible",
        "name": access.provider_title(),
        "options": options,
        "models": models,
    });
    let model = format!("{NAME}/{}", access.model);
    Ok(Plan {
        file: file(places),
        syntax: Syntax::Json,
        entries: vec![
            (Place::key(&["provider", NAME]), provider),
            (Place::key(&["model"]), json!(model)),
            // Without it opencode sends titles and summaries to a provider of its own choice.
            (Place::key(&["small_model"]), json!(model)),
        ],
        companion,
        note: None,
    })
}

/// opencode assumes nothing about a model it does not know: no limit, text only.
fn entry(model: &Model) -> Value {
    let mut entry = json!({"name": if model.name.is_empty() { &model.id } else { &model.name }});
    if let (Some(context), output) = (model.context, model.output) {
        // A limit needs both; an answer is never longer than the context.
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
