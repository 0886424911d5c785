//! `providers`: the comparison, and the committed table of it.

use std::fs;

use serde_json::{Value, json};

use crate::machine::Machine;

fn listed(machine: &Machine) -> Vec<Value> {
    let outcome = machine.run(["providers", "--json"]).any_stdout();
    let list: Value = serde_json::from_str(&outcome.stdout).unwrap();
    list["providers"].as_array().unwrap().clone()
}

fn verdict(machine: &Machine, name: &str) -> String {
    let list = listed(machine);
    list.iter().find(|row| row["provider"] == name).unwrap()["here"].as_str().unwrap().to_owned()
}

#[test]
fn all_providers_are_listed_with_what_a_newcomer_compares() {
    let list = listed(&Machine::new());
    let names: Vec<_> = list.iter().map(|row| row["provider"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "dashscope",
            "openrouter",
            "modelscope",
            "groq",
            "cerebras",
            "siliconflow",
            "fireworks",
            "together",
            "huggingface",
            "gemini",
            "coding-plan",
            "token-plan",
            "ollama",
            "vllm",
            "lmstudio",
            "custom",
            "qwen",
        ]
    );
    for row in &list {
        assert!(row["price"].as_str().is_some_and(|price| !price.is_empty()), "{row}");
        assert!(["allowed", "forbidden", "unclear"].contains(&row["ci"].as_str().unwrap()), "{row}");
        assert!(!row["login"].as_array().unwrap().is_empty(), "{row}");
    }
    assert_eq!(
        list[16]["models"][1],
        json!({"id": "vision-model", "name": "Qwen Vision", "context": 131_072, "output": 32768, "input": ["text", "image"]})
    );
}

/// Windows opens the address there, by its own browser.
#[test]
fn wsl_counts_as_a_graphical_session() {
    let note = |machine: Machine| machine.run(["providers"]).any_stdout().stdout.clone();
    let counted = "here: a graphical session";
    assert!(!note(Machine::new()).contains(counted));
    assert!(note(Machine::new().variable("WSL_INTEROP", "/run/WSL/8_interop")).contains(counted));
}

#[test]
fn the_table_shows_every_provider() {
    let outcome = Machine::new().run(["providers"]).any_stdout();
    for row in listed(&Machine::new()) {
        let name = row["provider"].as_str().unwrap();
        assert!(outcome.stdout.lines().any(|line| line.starts_with(name)), "{name}");
    }
}

#[test]
fn what_works_here_depends_on_this_machine() {
    let plain = Machine::new();
    assert_eq!(verdict(&plain, "openrouter"), "paste a code");
    assert_eq!(verdict(&plain, "groq"), "with a key");
    assert_eq!(verdict(&plain, "custom"), "with `--base-url`");
    let graphical = plain.variable("DISPLAY", ":0");
    assert_eq!(verdict(&graphical, "openrouter"), "in the browser");
    let remote = graphical.variable("SSH_TTY", "/dev/pts/1");
    assert_eq!(verdict(&remote, "openrouter"), "paste a code");
    let ci = remote.variable("CI", "true").variable("GROQ_API_KEY", "granted-x");
    assert_eq!(verdict(&ci, "openrouter"), "with a key");
    assert_eq!(verdict(&ci, "coding-plan"), "not in CI: its terms forbid it");
    assert_eq!(verdict(&ci, "groq"), "yes: `GROQ_API_KEY` is set");
}

#[test]
fn one_provider_is_shown_in_full() {
    let outcome = Machine::new().run(["providers", "dashscope"]).any_stdout();
    for part in [
        "intl  https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
        "DASHSCOPE_API_KEY",
        "qwen3.8-flash",
        "--short-lived",
    ] {
        assert!(outcome.stdout.contains(part), "{part}: {}", outcome.stdout);
    }
}

/// The rows of `providers NAME` with this label.
fn rows(name: &str, label: &str) -> Vec<String> {
    let outcome = Machine::new().run(["providers", name]).any_stdout();
    let label = format!("  {label:<10} ");
    outcome.stdout.lines().filter_map(|line| line.strip_prefix(&label)).map(str::to_owned).collect()
}

#[test]
fn the_page_for_a_key_is_named_for_each_region() {
    assert_eq!(
        rows("dashscope", "key page"),
        [
            "https://bailian.console.aliyun.com/?tab=api#/api (cn)",
            "https://modelstudio.console.alibabacloud.com/cn-hongkong (hk)",
            "https://home.qwencloud.com/api-keys (intl)",
            "https://modelstudio.console.alibabacloud.com/us-east-1 (us)",
        ]
    );
    assert_eq!(rows("groq", "key page"), ["https://console.groq.com/keys"]);
    for name in ["dashscope", "groq", "qwen"] {
        assert!(rows(name, "delete key").is_empty(), "{name}");
    }
    assert_eq!(rows("openrouter", "delete key"), ["https://openrouter.ai/keys/{sha256}"]);
}

#[test]
fn a_provider_says_which_tools_its_endpoints_are_for() {
    let endpoints = |name: &str| [rows(name, "Anthropic"), rows(name, "Responses")].concat();
    let own = "https://dashscope-intl.aliyuncs.com/apps/anthropic (for Claude Code)";
    assert_eq!(endpoints("dashscope"), [own, "yes (for Codex)"]);
    assert_eq!(endpoints("groq"), ["no (not for Claude Code)", "yes (for Codex)"]);
    assert_eq!(endpoints("gemini"), ["no (not for Claude Code)", "no (not for Codex)"]);
    let list = listed(&Machine::new());
    let groq = list.iter().find(|row| row["provider"] == "groq").unwrap();
    assert_eq!((&groq["anthropic_base_url"], &groq["responses"]), (&Value::Null, &json!(true)));
}

#[test]
fn an_unknown_provider_names_the_nearest() {
    Machine::new().run(["providers", "dashscop"]).fails(2, "unknown provider `dashscop`", "did you mean `dashscope`?");
    Machine::new().run(["login", "openruter"]).fails(2, "unknown provider `openruter`", "did you mean `openrouter`?");
}

#[test]
fn the_committed_table_is_what_the_program_knows() {
    let table = Machine::new().run(["providers", "--markdown"]).any_stdout().stdout.clone();
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/providers.md")).unwrap();
    let block = page.split("<!-- providers -->\n").nth(1).unwrap().split("<!-- /providers -->").next().unwrap();
    assert_eq!(block, table, "write it anew with `qwenauth providers --markdown`");
}
