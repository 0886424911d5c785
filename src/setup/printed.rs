//! Tools whose configuration is printed, to be pasted: the texts, and where each goes.
//!
//! Hazard: llm falls back to the user's own `OPENAI_API_KEY` and sends it to the base URL; Zed and Continue read a key
//! only from a file or keychain of theirs. Rule: each text says how the key gets there without standing in the file.

use anyhow::{Result, bail};
use serde_json::json;

use super::{Access, NAME, Places, SetUp, quoted};

pub(super) fn text(tool: &str, access: &Access, places: &Places) -> Result<SetUp> {
    let (place, text) = match tool {
        "aider" => aider(access),
        "llm" => llm(access, places),
        "crush" => crush(access, places),
        "goose" => goose(access, places),
        "continue" => continue_dev(access, places),
        "zed" => zed(access, places),
        "cline" => cline(access),
        _ => bail!("no text for `{tool}`"),
    };
    Ok(SetUp::Text { place, text })
}

/// Where it goes, and the text.
type Text = (String, String);

fn start(access: &Access, program: &str) -> String {
    format!("{} exec --profile {} -- {program}", quoted(&access.program), access.profile)
}

fn aider(access: &Access) -> Text {
    let text = format!(
        "# aider reads key, base URL and model from its environment, which this sets:\nalias aider={}\n",
        quoted(&start(access, "aider"))
    );
    ("the start-up file of your shell".into(), text)
}

fn llm(access: &Access, places: &Places) -> Text {
    let models = access.models().into_iter().map(|model| {
        format!(
            "- model_id: {NAME}/{}\n  model_name: {}\n  api_base: {}\n  api_key_name: {NAME}\n",
            yaml(&model.id).trim_matches('"'),
            yaml(&model.id),
            yaml(&access.base_url)
        )
    });
    let text = format!(
        "# llm stores no key for this: give it with each run, or it sends your own OPENAI_API_KEY to this base URL:\n#   llm -m {NAME}/{} --key \"$({})\" 'hello'\n{}",
        access.model,
        access.key_command_line(),
        models.collect::<String>()
    );
    (places.config.join("io.datasette.llm/extra-openai-models.yaml").display().to_string(), text)
}

fn crush(access: &Access, places: &Places) -> Text {
    let models: Vec<_> = access
        .models()
        .iter()
        .map(|model| {
            let name = if model.name.is_empty() { &model.id } else { &model.name };
            let mut entry = json!({"id": model.id, "name": name});
            if let Some(context) = model.context {
                entry["context_window"] = json!(context);
            }
            if let Some(output) = model.output {
                entry["default_max_tokens"] = json!(output);
            }
            entry
        })
        .collect();
    let value = json!({"providers": {NAME: {
        "type": "openai-compat",
        "name": access.provider_title(),
        "base_url": access.base_url,
        "api_key": format!("$({})", access.key_command_line()),
        "models": models,
    }}});
    (places.config.join("crush/crush.json").display().to_string(), pretty(&value))
}

fn goose(access: &Access, places: &Places) -> Text {
    let models: Vec<_> = access
        .models()
        .iter()
        .map(|model| json!({"name": model.id, "context_limit": model.context.unwrap_or(128_000)}))
        .collect();
    let value = json!({
        "name": NAME,
        "engine": "openai",
        "display_name": access.provider_title(),
        "description": format!("started with: {}", start(access, "goose")),
        "api_key_env": "OPENAI_API_KEY",
        "base_url": format!("{}/chat/completions", access.base_url),
        "models": models,
        "supports_streaming": true,
    });
    (places.config.join(format!("goose/custom_providers/{NAME}.json")).display().to_string(), pretty(&value))
}

fn continue_dev(access: &Access, places: &Places) -> Text {
    let models = access.models().into_iter().map(|model| {
        let name = if model.name.is_empty() { &model.id } else { &model.name };
        format!(
            "  - name: {}\n    provider: openai\n    model: {}\n    apiBase: {}\n    apiKey: ${{{{ secrets.QWENAUTH_ACCESS_TOKEN }}}}\n",
            yaml(name),
            yaml(&model.id),
            yaml(&access.base_url)
        )
    });
    let text = format!(
        "# Continue takes the key from `~/.continue/.env`, mode 0600; write it anew when it has run out:\n#   (umask 077; printf 'QWENAUTH_ACCESS_TOKEN=%s\\n' \"$({})\" > ~/.continue/.env)\nmodels:\n{}",
        access.key_command_line(),
        models.collect::<String>()
    );
    (places.home.join(".continue/config.yaml").display().to_string(), text)
}

fn zed(access: &Access, places: &Places) -> Text {
    let models: Vec<_> = access
        .models()
        .iter()
        .map(|model| {
            let name = if model.name.is_empty() { &model.id } else { &model.name };
            let mut entry =
                json!({"name": model.id, "display_name": name, "max_tokens": model.context.unwrap_or(128_000)});
            if let Some(output) = model.output {
                entry["max_output_tokens"] = json!(output);
            }
            entry
        })
        .collect();
    let value = json!({"language_models": {"openai_compatible": {NAME: {
        "api_url": access.base_url,
        "available_models": models,
    }}}});
    let text = format!(
        "// Zed reads the key from QWENAUTH_API_KEY when it starts:\n//   QWENAUTH_API_KEY=\"$({})\" zed\n{}",
        access.key_command_line(),
        pretty(&value)
    );
    (places.config.join("zed/settings.json").display().to_string(), text)
}

fn cline(access: &Access) -> Text {
    let text = format!(
        "# Cline stores the key itself: do this again when it has run out.\ncline auth -p openai-compatible -k \"$({})\" -m {} -b {}\n",
        access.key_command_line(),
        quoted(&access.model),
        quoted(&access.base_url)
    );
    ("your shell".into(), text)
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

/// A JSON string is a YAML one.
fn yaml(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
