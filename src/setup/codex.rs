//! Codex: a model provider whose `auth.command` is this program (measured on 0.171.0: run at the start and every 5 minutes).

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::document::{KeyPath, Syntax};
use super::readback::{Check, Rule};
use super::{Access, NAME, Plan, ToolPaths};
use crate::platform::tools;

pub(super) fn file(tool_paths: &ToolPaths) -> PathBuf {
    tool_paths.codex_directory().join("config.toml")
}

#[expect(clippy::unnecessary_wraps, reason = "other tools cannot have every access")]
pub(super) fn plan(access: &Access, tool_paths: &ToolPaths) -> Result<Plan> {
    let command = access.key_command();
    let (program, arguments) = command.split_first().unwrap_or((&access.program, &[]));
    let provider = json!({
        "name": access.provider_title(),
        "base_url": access.base_url,
        // The only protocol that Codex still supports.
        "wire_api": "responses",
        // A renewal may take 25 s, and Codex waits 5 s by default.
        "auth": {"command": program, "args": arguments, "timeout_ms": 30_000},
    });
    let mut entries =
        vec![(KeyPath::key(&["model"]), json!(access.model)), (KeyPath::key(&["model_provider"]), json!(NAME))];
    if let Some(context) = access.models().first().and_then(|model| model.context) {
        entries.push((KeyPath::key(&["model_context_window"]), json!(context)));
    }
    entries.push((KeyPath::key(&["model_providers", NAME]), provider));
    Ok(Plan {
        file: file(tool_paths),
        syntax: Syntax::Toml,
        entries,
        over: Vec::new(),
        checks: checks(tool_paths),
        companions: Vec::new(),
        note: (!access.has_responses).then(|| {
            format!("warning: Codex supports only the Responses API, and {} does not have `/responses`", access.title)
        }),
    })
}

/// An administrator's file wins everywhere, a project's in its directory.
fn checks(tool_paths: &ToolPaths) -> Vec<Check> {
    let own = file(tool_paths);
    let managed = (tools::codex_managed(&own), false);
    let local = (tool_paths.work.join(".codex/config.toml"), true);
    let files = [managed, local].into_iter().filter(|(file, _)| *file != own);
    files
        .map(|(file, is_local)| Check { is_local, ..Check::new(&file, &["model_provider"], Rule::Is(json!(NAME))) })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_file_of_an_administrator_and_one_of_the_project_are_looked_at_beside_the_users_own() {
        let local = |work: &str| {
            let checks = checks(&ToolPaths::of(Path::new("/home/ann"), Path::new(work)));
            checks.iter().map(|check| check.is_local).collect::<Vec<_>>()
        };
        assert_eq!((local("/work"), local("/home/ann")), (vec![false, true], vec![false]));
    }

    #[test]
    fn a_provider_without_the_responses_api_is_warned_about() {
        let home = Path::new("/home/ann");
        let note = |has_responses: bool| {
            let access = Access { has_responses, ..Access::of_a_profile() };
            plan(&access, &ToolPaths::of(home, home)).unwrap().note
        };
        assert!(note(true).is_none() && note(false).unwrap().contains("T does not have `/responses`"));
    }
}
