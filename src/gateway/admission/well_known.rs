//! `/.well-known/opencode`: all that `opencode auth login URL` needs to set a member's opencode up for this gateway.
//!
//! Hazard: opencode runs the command of the page, and what it prints is the key. Rule: the command shows nothing of what is
//! typed, and the page contains no key, so anyone may read it.

use serde_json::{Map, Value, json};

use crate::providers::Model;

/// The name under which members' tools know the gateway.
const NAME: &str = "team";

/// The variable in which opencode keeps the key, for itself.
const VARIABLE: &str = "QWENAUTH_TEAM_KEY";

/// Asks for the key on the terminal, without an echo: opencode shows the command, and hands it no stdin.
const ASK: &str = r#"exec 3<>/dev/tty || exit
saved=$(stty -g <&3)
trap 'stty "$saved" <&3' EXIT
trap 'exit 130' HUP INT TERM
stty -echo <&3
printf 'Key: ' >&3
IFS= read -r key <&3
echo >&3
printf '%s\n' "$key""#;

/// What a member's opencode needs, except for a key. It is read at the start, so that a stranger's request reads no file.
#[derive(Debug)]
pub(crate) struct Members {
    pub(crate) base_url: String,
    /// The provider's name for people.
    pub(crate) title: String,
    /// The one that opencode begins with.
    pub(crate) model: Option<String>,
    pub(crate) models: Vec<Model>,
}

/// How a member's opencode gets the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Way {
    /// `sh` asks for it.
    Asked,
    /// From qwenauth, where the member is logged in to the gateway as profile `team`; on Windows as well.
    Qwenauth,
}

/// The way of the page at `path`.
pub(in crate::gateway) fn way(path: &str) -> Option<Way> {
    match path {
        "/.well-known/opencode" => Some(Way::Asked),
        "/qwenauth/.well-known/opencode" => Some(Way::Qwenauth),
        _ => None,
    }
}

/// `None` where no model is known to begin with.
pub(in crate::gateway) fn page(way: Way, members: &Members) -> Option<Value> {
    let Members { base_url, title, model, models } = members;
    let model = model.as_deref().or_else(|| models.first().map(|model| model.id.as_str()))?;
    let command = match way {
        Way::Asked => vec!["sh", "-c", ASK],
        Way::Qwenauth => vec!["qwenauth", "token", "--profile", NAME],
    };
    let mut entries: Map<String, Value> = models.iter().map(|model| (model.id.clone(), entry(model))).collect();
    entries.entry(model).or_insert_with(|| json!({ "name": model }));
    let first = format!("{NAME}/{model}");
    Some(json!({
        "auth": { "command": command, "env": VARIABLE },
        "config": {
            "$schema": "https://opencode.ai/config.json",
            "model": first,
            // Else opencode sends titles and summaries to a provider of its own choice.
            "small_model": first,
            "enabled_providers": [NAME],
            "provider": { NAME: {
                "npm": "@ai-sdk/openai-compatible",
                "name": title,
                "options": { "baseURL": base_url, "apiKey": format!("{{env:{VARIABLE}}}") },
                "models": entries,
            } },
        },
    }))
}

/// opencode assumes nothing about a model it does not know.
fn entry(model: &Model) -> Value {
    let mut entry = json!({ "name": if model.name.is_empty() { &model.id } else { &model.name } });
    if let Some(context) = model.context {
        entry["limit"] = json!({ "context": context, "output": model.output.unwrap_or(context) });
    }
    entry
}
