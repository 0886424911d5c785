//! Qwen Code: the login it shares with this program, or a provider entry whose key `exec` sets.
//!
//! Measured on 0.24.4: it has no hook for a key command; `useExternal` makes it use the shared file again, its refresh
//! included; a `modelProviders` entry takes precedence over flags and `OPENAI_*`; and every rewrite of `settings.json`
//! makes it 0644, so no secret may be in it.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};

use super::document::{KeyPath, Syntax};
use super::known_programs::ACCESS_TOKEN;
use super::readback::{Check, Rule};
use super::{Access, Plan, ToolPaths};
use crate::error::{Failed, Failure};
use crate::platform::tools;
use crate::providers::Model;

pub(super) fn file(tool_paths: &ToolPaths) -> PathBuf {
    tool_paths.qwen.join("settings.json")
}

pub(super) fn plan(access: &Access, tool_paths: &ToolPaths) -> Result<Plan> {
    if access.gateway_key.is_some() {
        return Failed::new(
            Failure::Usage,
            "Qwen Code reads its key from the environment, not from the gateway's key file",
        )
        .hint("run it with `qwenauth exec --gateway -- qwen`")
        .err();
    }
    let (entries, note) = if access.shared_with_qwen_code { shared(access) } else { provider(access) };
    let selected = if access.shared_with_qwen_code { "qwen-oauth" } else { "openai" };
    let checks = checks(tool_paths, selected);
    Ok(Plan {
        file: file(tool_paths),
        syntax: Syntax::Json,
        entries,
        over: Vec::new(),
        checks,
        companions: Vec::new(),
        note,
    })
}

/// The type that the settings enforce has to be the one that is selected; the system's settings win over the user's.
fn checks(tool_paths: &ToolPaths, selected: &str) -> Vec<Check> {
    let system = PathBuf::from(tools::QWEN_CODE_SYSTEM);
    let local = tool_paths.work.join(".qwen/settings.json");
    let own = file(tool_paths);
    let enforced = |file: &PathBuf| Check::new(file, &["security", "auth", "enforcedType"], Rule::Is(json!(selected)));
    let chosen = |file: &PathBuf| Check::new(file, &["security", "auth", "selectedType"], Rule::Is(json!(selected)));
    let mut checks = vec![enforced(&own), enforced(&system), chosen(&system)];
    if local != own {
        checks.extend([enforced(&local), chosen(&local)].map(|check| Check { is_local: true, ..check }));
    }
    checks
}

fn shared(access: &Access) -> (Vec<(KeyPath, Value)>, Option<String>) {
    let entries = vec![
        (KeyPath::key(&["security", "auth", "selectedType"]), json!("qwen-oauth")),
        // Without it 0.15.6 and later reject the type in headless runs.
        (KeyPath::key(&["security", "auth", "useExternal"]), json!(true)),
        (KeyPath::key(&["model", "name"]), json!(access.model)),
    ];
    (entries, None)
}

fn provider(access: &Access) -> (Vec<(KeyPath, Value)>, Option<String>) {
    let entry = |model: &Model| {
        let name = if model.name.is_empty() { &model.id } else { &model.name };
        let mut entry = json!({
            "id": model.id,
            "name": format!("[{}] {name}", access.provider_title()),
            "baseUrl": access.base_url,
            "envKey": ACCESS_TOKEN,
        });
        if let Some(context) = model.context {
            entry["generationConfig"] = json!({"contextWindowSize": context});
        }
        entry
    };
    let models: Value = access.models().iter().map(entry).collect();
    let entries = vec![
        (KeyPath::elements(&["modelProviders", "openai"], "envKey", ACCESS_TOKEN), models),
        (KeyPath::key(&["security", "auth", "selectedType"]), json!("openai")),
        (KeyPath::key(&["model", "name"]), json!(access.model)),
    ];
    let note = format!(
        "Qwen Code reads its key only from the environment: start it with `{} exec --profile {} -- qwen`",
        tools::typed(&access.program),
        access.profile
    );
    (entries, Some(note))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_settings_of_a_project_count_there_only_and_once() {
        let local = |work: &str| {
            let checks = checks(&ToolPaths::of(Path::new("/home/ann"), Path::new(work)), "openai");
            (checks.len(), checks.iter().filter(|check| check.is_local).count())
        };
        assert_eq!((local("/work"), local("/home/ann")), ((5, 2), (3, 0)));
    }
}
