//! Claude Code: `apiKeyHelper` is this program, and the base URL that of the provider's Anthropic endpoint.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::document::{Place, Syntax};
use super::{Access, Places, Plan};
use crate::error::{Failed, Failure};

/// Milliseconds between two runs of the helper: well below the 10 minutes a token handed out is meant to last.
const HELPER_TTL: &str = "300000";

pub(super) fn file(places: &Places) -> PathBuf {
    places.claude_config.clone().unwrap_or_else(|| places.home.join(".claude")).join("settings.json")
}

pub(super) fn plan(access: &Access, places: &Places) -> Result<Plan> {
    if access.gateway_key.is_some() {
        return Failed::new(Failure::Usage, "Claude Code speaks Anthropic's protocol, and the gateway speaks OpenAI's")
            .hint("leave out `--gateway`: the helper brings a fresh key without it")
            .err();
    }
    let Some(base) = &access.anthropic else {
        return Failed::new(
            Failure::Other,
            format!("{} has no Anthropic endpoint, which Claude Code needs", access.title),
        )
        .hint("`dashscope`, `coding-plan`, `token-plan` and `openrouter` have one: `qwenauth login dashscope`")
        .err();
    };
    let variables = [
        ("ANTHROPIC_BASE_URL", base.as_str()),
        ("ANTHROPIC_MODEL", &access.model),
        // Titles and summaries, which would else be asked of a model the provider does not have.
        ("ANTHROPIC_SMALL_FAST_MODEL", &access.model),
        ("ANTHROPIC_DEFAULT_HAIKU_MODEL", &access.model),
        ("CLAUDE_CODE_API_KEY_HELPER_TTL_MS", HELPER_TTL),
    ];
    let mut entries = vec![(Place::key(&["apiKeyHelper"]), json!(access.key_command_line()))];
    entries.extend(variables.map(|(name, value)| (Place::key(&["env", name]), json!(value))));
    Ok(Plan { file: file(places), syntax: Syntax::Json, entries, companions: Vec::new(), note: None })
}
