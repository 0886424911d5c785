//! Claude Code: `apiKeyHelper` is this program, and the base URL that of the provider's Anthropic endpoint.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::document::{KeyPath, Syntax};
use super::readback::{Check, Rule};
use super::{Access, Plan, ToolPaths};
use crate::error::{Failed, Failure};
use crate::platform::tools;
use crate::providers::{self, Provider};

/// Milliseconds between two runs of the helper: well below the 10 minutes that a printed token is meant to last.
const HELPER_TTL: &str = "300000";

pub(super) fn file(tool_paths: &ToolPaths) -> PathBuf {
    tool_paths.claude_config.clone().unwrap_or_else(|| tool_paths.home.join(".claude")).join("settings.json")
}

/// Variables that would bring another host, another key or another model. An empty value in the settings also wins over
/// one that is exported in the shell (measured on 2.1.332).
pub(super) const OTHERS: [&str; 10] = [
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_CUSTOM_HEADERS",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_USE_ANTHROPIC_AWS",
    "CLAUDE_CODE_USE_ANTHROPIC_GOOGLE_CLOUD",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_USE_MANTLE",
    "CLAUDE_CODE_USE_VERTEX",
];

/// Every name under which Claude Code looks for a model, titles and summaries included.
pub(super) const MODELS: [&str; 7] = [
    "ANTHROPIC_MODEL",
    "ANTHROPIC_SMALL_FAST_MODEL",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    "ANTHROPIC_DEFAULT_SONNET_MODEL",
    "ANTHROPIC_DEFAULT_OPUS_MODEL",
    "ANTHROPIC_DEFAULT_FABLE_MODEL",
    "CLAUDE_CODE_SUBAGENT_MODEL",
];

/// The variables that the settings replace where the shell exports them.
pub(super) fn replaced_variables() -> impl Iterator<Item = &'static str> {
    OTHERS.into_iter().chain(["ANTHROPIC_BASE_URL"]).chain(MODELS)
}

pub(super) fn plan(access: &Access, tool_paths: &ToolPaths) -> Result<Plan> {
    let Some(base) = &access.anthropic else {
        return Failed::new(
            Failure::Other,
            format!("{} has no Anthropic endpoint, which Claude Code needs", access.title),
        )
        .hint(providers::hint_to_log_in(Provider::has_anthropic))
        .err();
    };
    let mut entries = vec![(KeyPath::key(&["apiKeyHelper"]), json!(access.key_command_line()))];
    let mut set = |name: &str, value: &str| entries.push((KeyPath::key(&["env", name]), json!(value)));
    set("ANTHROPIC_BASE_URL", base);
    for name in MODELS {
        set(name, &access.model);
    }
    for name in OTHERS {
        set(name, "");
    }
    set("CLAUDE_CODE_API_KEY_HELPER_TTL_MS", HELPER_TTL);
    // Otherwise it assumes a million for models that are not Anthropic's, and makes room too late.
    if let Some(context) = access.models().first().and_then(|model| model.context) {
        set("CLAUDE_CODE_MAX_CONTEXT_TOKENS", &context.to_string());
    }
    Ok(Plan {
        file: file(tool_paths),
        syntax: Syntax::Json,
        entries,
        over: Vec::new(),
        checks: checks(tool_paths),
        companions: Vec::new(),
        note: None,
    })
}

/// An administrator's settings win everywhere, those of a project in its directory.
fn checks(tool_paths: &ToolPaths) -> Vec<Check> {
    let managed = [(PathBuf::from(tools::CLAUDE_CODE_MANAGED), false)];
    let local = ["settings.json", "settings.local.json"].map(|name| (tool_paths.work.join(".claude").join(name), true));
    let own = file(tool_paths);
    let files = managed.into_iter().chain(local).filter(|(file, _)| *file != own);
    files
        .flat_map(|(file, is_local)| {
            let variables = OTHERS.into_iter().chain(["ANTHROPIC_BASE_URL"]);
            let keys = std::iter::once(vec!["apiKeyHelper"]).chain(variables.map(|name| vec!["env", name]));
            let check = move |path: Vec<&str>| Check { is_local, ..Check::new(&file, &path, Rule::Unset) };
            keys.map(check)
        })
        .collect()
}
