//! Tools whose configuration is printed, to be pasted: the texts, and where each belongs.
//!
//! Hazard: llm and Cline fall back to the user's own `OPENAI_API_KEY` and send it to the base URL; Zed and Continue
//! read a key only from their environment, a keychain or a file of theirs. Rule: no key is in a text or on a command
//! line; each tool is started by a command that sets the right one.

use anyhow::{Result, bail};
use serde_json::json;

use super::known_programs::{ACCESS_TOKEN, ASSUMED_CONTEXT, ZED_KEY};
use super::{Access, NAME, SetUp, ToolPaths};
use crate::error::quoted_for_terminal;
use crate::platform::tools::{self, quoted};
use crate::providers::Model;

pub(super) fn text(tool: &str, access: &Access, tool_paths: &ToolPaths) -> Result<SetUp> {
    let (place, text) = match tool {
        "aider" | "goose" => alias(access, tool),
        "llm" => llm(access, tool_paths),
        "crush" => crush(access, tool_paths),
        "continue" => continue_dev(access, tool_paths),
        "zed" => zed(access, tool_paths),
        "cline" => cline(access, tool_paths),
        _ => bail!("no text for `{tool}`"),
    };
    let start = match tool {
        "llm" => Some(start(access, &llm_command(access), "OPENAI_API_KEY")),
        "continue" => Some(start(access, "cn", ACCESS_TOKEN)),
        "zed" => Some(start(access, "zed", ZED_KEY)),
        "cline" => Some(start(access, "cline", "OPENAI_API_KEY")),
        _ => None,
    };
    Ok(SetUp::Text { place, text, start })
}

/// The file, and the text.
type Text = (String, String);

/// The command that starts a program which has the base URL in its file and takes the key from `variable`.
fn start(access: &Access, program: &str, variable: &str) -> String {
    match access.gateway_key {
        None => format!("{} exec --profile {} -- {program}", tools::typed(&access.program), access.profile),
        Some(_) => tools::start_with(variable, &access.key_command_line(), program),
    }
}

/// A tool that takes everything from its environment. A gateway of its own needs no fixed address.
fn alias(access: &Access, tool: &str) -> Text {
    let gateway = if access.gateway_key.is_some() { " --gateway" } else { "" };
    let command = format!("{} exec{gateway} --profile {} -- {tool}", quoted(&access.program), access.profile);
    let alias = tools::alias(tool, &command);
    let text = format!("# {tool} reads key, base URL and model from its environment, which this sets:\n{alias}\n");
    ("the start-up file of your shell".into(), text)
}

fn llm_command(access: &Access) -> String {
    format!("llm -m {}", quoted(&format!("{NAME}/{}", access.model)))
}

fn llm(access: &Access, tool_paths: &ToolPaths) -> Text {
    let models = access.models().into_iter().map(|model| {
        format!(
            "- model_id: {}\n  model_name: {}\n  api_base: {}\n  api_key_name: {NAME}\n",
            quoted_for_terminal(&format!("{NAME}/{}", model.id)),
            quoted_for_terminal(&model.id),
            quoted_for_terminal(&access.base_url)
        )
    });
    let text = format!(
        "# llm stores no key for these models. Start it like this; otherwise it sends your own OPENAI_API_KEY to this base \
         URL:\n#   {} 'hello'\n{}",
        start(access, &llm_command(access), "OPENAI_API_KEY"),
        models.collect::<String>()
    );
    (tool_paths.places.llm.join("extra-openai-models.yaml").display().to_string(), text)
}

fn crush(access: &Access, tool_paths: &ToolPaths) -> Text {
    let models: Vec<_> = access
        .models()
        .iter()
        .map(|model| {
            let mut entry = json!({"id": model.id, "name": shown(model)});
            if let Some(context) = model.context {
                entry["context_window"] = json!(context);
            }
            if let Some(output) = model.output {
                entry["default_max_tokens"] = json!(output);
            }
            entry
        })
        .collect();
    // Without a choice of its own, Crush looks for keys of providers that it knows.
    let chosen = json!({"model": access.model, "provider": NAME});
    let value = json!({"models": {"large": chosen, "small": chosen}, "providers": {NAME: {
        "type": "openai-compat",
        "name": access.provider_title(),
        "base_url": access.base_url,
        "api_key": format!("$({})", access.key_command_for_sh()),
        "models": models,
    }}});
    (tool_paths.places.crush.join("crush.json").display().to_string(), pretty(&value))
}

fn continue_dev(access: &Access, tool_paths: &ToolPaths) -> Text {
    let models = access.models().into_iter().map(|model| {
        format!(
            "  - name: {}\n    provider: openai\n    model: {}\n    apiBase: {}\n    apiKey: ${{{{ secrets.{ACCESS_TOKEN} }}}}\n",
            quoted_for_terminal(shown(&model)),
            quoted_for_terminal(&model.id),
            quoted_for_terminal(&access.base_url)
        )
    });
    let text = format!(
        "# In an editor, Continue reads the key from `~/.continue/.env`; update it when the key expires:\n\
         #   {}\nname: {NAME}\nversion: 0.0.1\nschema: v1\nmodels:\n{}",
        tools::write_variable(ACCESS_TOKEN, &access.key_command_line(), ".continue", ".env"),
        models.collect::<String>()
    );
    (tool_paths.home.join(".continue/config.yaml").display().to_string(), text)
}

/// Zed derives [`ZED_KEY`] from it. Not the name of this program: `QWENAUTH_API_KEY` is a variable of its own.
const ZED_NAME: &str = "qwenauth_zed";

fn zed(access: &Access, tool_paths: &ToolPaths) -> Text {
    let models: Vec<_> = access
        .models()
        .iter()
        .map(|model| {
            let context = model.context.unwrap_or(ASSUMED_CONTEXT);
            let mut entry = json!({"name": model.id, "display_name": shown(model), "max_tokens": context});
            if let Some(output) = model.output {
                entry["max_output_tokens"] = json!(output);
            }
            entry
        })
        .collect();
    let value = json!({"language_models": {"openai_compatible": {ZED_NAME: {
        "api_url": access.base_url,
        "available_models": models,
    }}}});
    (tool_paths.places.zed.join("settings.json").display().to_string(), pretty(&value))
}

/// As `cline auth` writes it (measured on Cline 3.0.65), except for the key: without one there, Cline uses
/// `OPENAI_API_KEY`.
fn cline(access: &Access, tool_paths: &ToolPaths) -> Text {
    let provider = "openai-compatible";
    let settings = json!({"provider": provider, "model": access.model, "baseUrl": access.base_url});
    let value = json!({
        "version": 1,
        "lastUsedProvider": provider,
        "modes": {},
        "providers": {provider: {
            "settings": settings,
            "updatedAt": "2026-01-01T00:00:00.000Z",
            "tokenSource": "manual",
        }},
    });
    (tool_paths.home.join(".cline/data/settings/providers.json").display().to_string(), pretty(&value))
}

/// What a model is called.
fn shown(model: &Model) -> &str {
    let is_plain = !model.name.is_empty() && !model.name.chars().any(char::is_control);
    if is_plain { &model.name } else { &model.id }
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_called_by_its_name_unless_that_is_empty_or_controls_a_terminal() {
        for (name, called) in [("Best", "Best"), ("", "id"), ("\u{1b}[2J", "id")] {
            let model = Model { id: "id".into(), name: name.into(), context: None, output: None, input: Vec::new() };
            assert_eq!(shown(&model), called);
        }
    }

    #[test]
    fn a_program_that_reads_its_key_from_a_variable_is_started_by_exec() {
        let home = std::path::Path::new("/home/ann");
        let access = Access::of_a_profile();
        let start = |tool: &str| match text(tool, &access, &ToolPaths::of(home, home)).unwrap() {
            SetUp::Text { start, .. } => start,
            SetUp::Plan(_) => panic!("{tool} has a file"),
        };
        for (tool, command) in [
            ("llm", Some("llm -m qwenauth/m")),
            ("continue", Some("cn")),
            ("zed", Some("zed")),
            ("cline", Some("cline")),
            ("aider", None),
        ] {
            let command = command.map(|command| format!("qwenauth exec --profile qwen -- {command}"));
            assert_eq!(start(tool), command, "{tool}");
        }
    }
}
