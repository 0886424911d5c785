//! `setup` and tools' files as they are in the wild: empty, from Windows, with equal keys, with settings that win over
//! ours, and with another service's key, host or model.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::machine::{Machine, mode, write_private};
use crate::run::Outcome;
use crate::server::Reply;

const TOOLS: [(&str, &str); 4] = [
    ("opencode", ".config/opencode/opencode.json"),
    ("qwen-code", ".qwen/settings.json"),
    ("codex", ".codex/config.toml"),
    ("claude-code", ".claude/settings.json"),
];

impl Machine {
    fn holding(self, file: &str, content: &str) -> Self {
        write_private(&self.home().join(file), content);
        self
    }

    fn content_of(&self, file: &str) -> String {
        fs::read_to_string(self.home().join(file)).unwrap()
    }

    fn set_up(&self, command: &[&str]) -> Outcome {
        self.run([&["setup"], command].concat()).exits(0).any_stderr()
    }

    fn undone(&self, tool: &str) {
        self.run(["setup", tool, "--remove"]).exits(0).any_stderr();
    }
}

fn logged_in_at_home() -> Machine {
    let machine = Machine::new();
    let program = machine.program().parent().unwrap().display().to_string();
    machine.logged_in().variable("PATH", format!("{program}:/usr/bin:/bin"))
}

#[test]
fn an_empty_file_is_an_empty_configuration_and_is_empty_again() {
    for (tool, file) in TOOLS {
        for content in ["", " \n\n", "\u{feff}"] {
            let machine = logged_in_at_home().holding(file, content);
            machine.set_up(&[tool]);
            assert!(machine.content_of(file).contains("coder-model"), "{tool}");
            machine.undone(tool);
            assert_eq!(machine.content_of(file), content, "{tool}");
        }
    }
}

#[test]
fn line_ends_and_byte_order_marks_are_kept() {
    for (tool, file) in TOOLS {
        let text = if tool == "codex" {
            "\u{feff}# mine\r\n[tui]\r\nnotifications = true\r\n"
        } else {
            "\u{feff}{\r\n  // mine\r\n  \"theme\": \"dark\"\r\n}\r\n"
        };
        let machine = logged_in_at_home().holding(file, text);
        machine.set_up(&[tool]);
        let written = machine.content_of(file);
        assert_eq!(written.matches('\n').count(), written.matches("\r\n").count(), "{tool}: {written:?}");
        assert_eq!(written.matches('\u{feff}').count(), 1, "{tool}");
        assert!(written.starts_with('\u{feff}') && written.contains("mine\r\n"), "{tool}: {written:?}");
        // Edited since, so that the version before cannot simply be put back.
        let edited = written.replace("mine", "edited");
        let machine = machine.holding(file, &edited);
        machine.undone(tool);
        let left = machine.content_of(file);
        assert!(left.starts_with('\u{feff}') && left.contains("edited\r\n"), "{tool}: {left:?}");
        assert_eq!(left.matches('\n').count(), left.matches("\r\n").count(), "{tool}: {left:?}");
    }
}

#[test]
fn qwen_codes_file_names_host_and_models_of_a_key_and_not_the_key() {
    let machine = Machine::new().holding(".qwen/settings.json", r#"{"modelProviders":{"openai":[{"envKey":"OWN"}]}}"#);
    let program = machine.program().parent().unwrap().display().to_string();
    let machine = machine.variable("PATH", format!("{program}:/usr/bin:/bin"));
    let login = ["login", "groq", "--no-verify", "--api-key-stdin"];
    drop(machine.run_with_stdin(login, b"granted-key-1\n").exits(0).any_stderr());
    let outcome = machine.set_up(&["qwen-code"]);
    assert!(outcome.stderr.contains("exec --profile groq -- qwen"), "{outcome}");
    let text = machine.content_of(".qwen/settings.json");
    assert!(!text.contains("granted-key"), "{text}");
    let settings: Value = serde_json::from_str(&text).unwrap();
    let models = settings["modelProviders"]["openai"].as_array().unwrap();
    assert!(models.len() > 1 && models.iter().any(|model| model["envKey"] == "OWN"), "{text}");
    let ours = models.iter().find(|model| model["envKey"] != "OWN").unwrap();
    assert_eq!((&ours["baseUrl"], &ours["id"]), (&json!("https://api.groq.com/openai/v1"), &settings["model"]["name"]));
    machine.undone("qwen-code");
    let settings: Value = serde_json::from_str(&machine.content_of(".qwen/settings.json")).unwrap();
    assert_eq!(settings, json!({"modelProviders": {"openai": [{"envKey": "OWN"}]}}));
}

#[test]
fn of_equal_keys_the_one_that_the_tool_reads_is_changed() {
    for (tool, file, text, place) in [
        ("opencode", TOOLS[0].1, r#"{"model": "a", "model": "b"}"#, "/model"),
        (
            "opencode",
            TOOLS[0].1,
            r#"{"provider": {}, "provider": {"qwenauth": {"npm": "x"}}}"#,
            "/provider/qwenauth/npm",
        ),
        ("qwen-code", TOOLS[1].1, r#"{"model": {"name": "a"}, "model": {"name": "b"}}"#, "/model/name"),
        (
            "claude-code",
            TOOLS[3].1,
            r#"{"env": {"ANTHROPIC_MODEL": "a", "ANTHROPIC_MODEL": "b"}}"#,
            "/env/ANTHROPIC_MODEL",
        ),
    ] {
        let machine = logged_in_at_home().holding(file, text);
        machine.set_up(&[tool]);
        let read: Value = serde_json::from_str(&machine.content_of(file)).unwrap();
        let found = read.pointer(place).unwrap().as_str().unwrap();
        assert!(!["a", "b", "x"].contains(&found), "{tool}: {read}");
        machine.undone(tool);
        assert_eq!(machine.content_of(file), text, "{tool}");
    }
}

#[test]
fn a_set_up_that_the_tool_would_ignore_is_an_error_and_changes_nothing() {
    for (tool, file, text, error) in [
        (
            "opencode",
            ".config/opencode/opencode.json",
            r#"{"enabled_providers": ["own"]}"#,
            "`enabled_providers` in `{home}/.config/opencode/opencode.json` does not list `qwenauth`",
        ),
        (
            "opencode",
            ".config/opencode/config.json",
            r#"{"enabled_providers": []}"#,
            "`enabled_providers` in `{home}/.config/opencode/config.json` does not list `qwenauth`",
        ),
        (
            "opencode",
            ".config/opencode/opencode.jsonc",
            r#"{"disabled_providers": ["a", "qwenauth"]} // x"#,
            "`disabled_providers` in `{home}/.config/opencode/opencode.jsonc` lists `qwenauth`",
        ),
        (
            "qwen-code",
            ".qwen/settings.json",
            r#"{"security": {"auth": {"enforcedType": "openai"}}}"#,
            "`security.auth.enforcedType` in `{home}/.qwen/settings.json` is `openai`",
        ),
    ] {
        let machine = logged_in_at_home().holding(file, text);
        let outcome = machine.run(["setup", tool]).exits(1).any_stderr();
        let expected = format!("qwenauth: error: {error}: the configuration would be ignored; nothing was changed\n");
        assert!(outcome.stderr.starts_with(&expected), "{outcome}");
        assert_eq!(machine.content_of(file), text, "{tool}");
        assert!(!machine.home().join(".config/opencode/plugin").exists());
    }
    for (tool, file, text) in [
        (
            "opencode",
            ".config/opencode/opencode.json",
            r#"{"enabled_providers": ["own", "qwenauth"], "disabled_providers": ["x"]}"#,
        ),
        ("qwen-code", ".qwen/settings.json", r#"{"security": {"auth": {"enforcedType": "qwen-oauth"}}}"#),
    ] {
        logged_in_at_home().holding(file, text).set_up(&[tool]);
    }
}

#[test]
fn another_hosts_key_and_model_are_moved_aside_and_restored() {
    let theirs = json!({"env": {
        "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-secret",
        "ANTHROPIC_AUTH_TOKEN": "sk-foreign-bearer",
        "ANTHROPIC_API_KEY": "sk-foreign-key",
        "ANTHROPIC_CUSTOM_HEADERS": "x-api-key: sk-foreign-header",
        "ANTHROPIC_DEFAULT_OPUS_MODEL": "glm-9",
        "ANTHROPIC_DEFAULT_SONNET_MODEL": "glm-8",
        "CLAUDE_CODE_USE_BEDROCK": "1",
        "OWN": "kept",
    }, "apiKeyHelper": "cat ~/sk-foreign"});
    let (text, file) = (format!("{theirs:#}\n"), ".claude/settings.json");
    let machine = logged_in_at_home().holding(file, &text);
    let outcome = machine.set_up(&["claude-code"]);
    let written = machine.content_of(file);
    for gone in ["secret", "sk-foreign", "glm-"] {
        assert!(!written.contains(gone), "{written}");
        assert!(!outcome.stderr.contains(gone), "{outcome}");
    }
    assert!(written.contains("\"OWN\": \"kept\""), "{written}");
    let line = "qwenauth: moved aside; `qwenauth setup claude-code --remove` restores it: `apiKeyHelper`, `env.ANTHROPIC_DEFAULT_SONNET_MODEL`, `env.ANTHROPIC_DEFAULT_OPUS_MODEL`, `env.ANTHROPIC_API_KEY`, `env.ANTHROPIC_AUTH_TOKEN`, `env.ANTHROPIC_CUSTOM_HEADERS`, `env.CLAUDE_CODE_OAUTH_TOKEN`, `env.CLAUDE_CODE_USE_BEDROCK`\n";
    assert!(outcome.stderr.contains(line), "{outcome}");
    let mut holding = Vec::new();
    crate::machine::each_path(&machine.home(), &mut |path| {
        if path.is_file() && fs::read_to_string(path).is_ok_and(|text| text.contains("sk-ant-oat01-secret")) {
            assert_eq!(mode(path), 0o600, "{}", path.display());
            holding.push(path.strip_prefix(machine.home()).unwrap().to_owned());
        }
    });
    holding.sort();
    assert_eq!(
        holding,
        [Path::new(".claude/settings.json.qwenauth-backup"), Path::new(".local/state/qwenauth/setup/claude-code.json")]
    );
    machine.undone("claude-code");
    assert_eq!(machine.content_of(file), text);
}

/// The model of an agent wins over the one that `setup` writes.
#[test]
fn another_hosts_model_of_an_agent_of_opencode_is_moved_aside_and_restored() {
    let file = ".config/opencode/opencode.json";
    let theirs = json!({
        "model": "corp/big",
        "agent": {"build": {"model": "corp/big", "color": "red"}, "plan": {"color": "blue"}, "own": {"model": "corp/big"}},
        "mode": {"plan": {"model": "corp/big"}},
    });
    let text = format!("{theirs:#}\n");
    let machine = logged_in_at_home().holding(file, &text);
    for _ in 0..2 {
        let outcome = machine.run(["setup", "opencode"]).exits(0).any_stderr();
        let line =
            "moved aside; `qwenauth setup opencode --remove` restores it: `agent.build.model`, `mode.plan.model`";
        assert!(outcome.stderr.contains(line) || outcome.stderr.contains("already"), "{outcome}");
        let written: Value = serde_json::from_str(&machine.content_of(file)).unwrap();
        let ours = &written["model"];
        assert!(ours.as_str().unwrap().starts_with("qwenauth/"), "{written}");
        assert_eq!((&written["agent"]["build"]["model"], &written["mode"]["plan"]["model"]), (ours, ours));
        assert_eq!(written["agent"]["plan"], json!({"color": "blue"}));
        assert_eq!(written["agent"]["own"]["model"], "corp/big");
    }
    machine.undone("opencode");
    assert_eq!(machine.content_of(file), text);
}

#[test]
fn values_moved_aside_are_restored_although_the_file_was_edited_since() {
    let file = ".claude/settings.json";
    let machine = logged_in_at_home().holding(file, "{\"env\": {\"ANTHROPIC_API_KEY\": \"sk-foreign\"}}\n");
    machine.set_up(&["claude-code"]);
    let edited = machine.content_of(file).replacen('{', "{\n  \"theme\": \"dark\",", 1);
    let machine = machine.holding(file, &edited);
    machine.undone("claude-code");
    let left: Value = serde_json::from_str(&machine.content_of(file)).unwrap();
    assert_eq!(left, json!({"theme": "dark", "env": {"ANTHROPIC_API_KEY": "sk-foreign"}}));
}

#[test]
fn a_key_of_another_host_in_the_environment_is_named() {
    let machine = logged_in_at_home().variable("ANTHROPIC_API_KEY", "sk-foreign").variable("ANTHROPIC_MODEL", "glm");
    let outcome = machine.set_up(&["claude-code"]);
    let line = "qwenauth: set in the environment, but not used by Claude Code while qwenauth configures it: `ANTHROPIC_API_KEY`, `ANTHROPIC_MODEL`\n";
    assert!(outcome.stderr.contains(line), "{outcome}");
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    machine.server.serve("/v1/chat/completions", |_| Reply::json(200, json!({"choices": []})));
    let doctor = machine.run(["doctor"]).exits(0).any_stdout().any_stderr();
    let said = doctor.stdout.clone() + &doctor.stderr;
    let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let line =
        "`ANTHROPIC_API_KEY`, `ANTHROPIC_MODEL` are set, but not used by Claude Code while qwenauth configures it";
    assert!(words.contains(line) && !words.contains("sk-foreign"), "{doctor}");
}

#[test]
fn settings_of_a_directory_that_win_there_are_named() {
    let machine = logged_in_at_home();
    write_private(
        &machine.directory().join(".claude/settings.local.json"),
        r#"{"env": {"ANTHROPIC_AUTH_TOKEN": "sk-foreign"}}"#,
    );
    let outcome = machine.set_up(&["claude-code"]);
    let line = "qwenauth: warning: in this directory the tool ignores the configuration: `env.ANTHROPIC_AUTH_TOKEN` in `{machine}/.claude/settings.local.json` is set and takes precedence\n";
    assert!(outcome.stderr.contains(line), "{outcome}");
}

#[test]
fn every_file_that_a_set_up_with_a_gateway_refers_to_is_there() {
    let key = ".local/share/qwenauth/gateway-key";
    for tool in ["opencode", "codex", "claude-code"] {
        let machine = logged_in_at_home();
        machine.set_up(&[tool, "--gateway=127.0.0.1:7999"]);
        let file = machine.home().join(key);
        assert_eq!(mode(&file), 0o600, "{tool}");
        let made = machine.content_of(key);
        assert!(made.trim().len() >= 16 && made.starts_with("sk-"), "{tool}");
        machine.set_up(&[tool, "--gateway=127.0.0.1:8000"]);
        assert_eq!(machine.content_of(key), made, "{tool}: a running gateway would not know another key");
        let (_, tools_file) = TOOLS.into_iter().find(|(name, _)| *name == tool).unwrap();
        let text = machine.content_of(tools_file);
        assert!(text.contains("gateway-key") && text.contains("127.0.0.1:8000"), "{text}");
        assert!(!text.contains(made.trim()), "{tool}");
    }
}

#[test]
fn claude_code_with_a_gateway_uses_the_gateway() {
    let machine = logged_in_at_home();
    machine.set_up(&["claude-code", "--gateway=127.0.0.1:7999"]);
    let settings: Value = serde_json::from_str(&machine.content_of(".claude/settings.json")).unwrap();
    let helper = format!("cat {}/.local/share/qwenauth/gateway-key", machine.home().display());
    assert_eq!(
        (&settings["env"]["ANTHROPIC_BASE_URL"], &settings["apiKeyHelper"]),
        (&json!("http://127.0.0.1:7999"), &json!(helper))
    );
}

#[test]
fn the_line_that_updates_the_key_of_continue_changes_nothing_else_in_its_file() {
    let machine = logged_in_at_home();
    let shown = machine.run(["setup", "continue", "--print"]).any_stderr().any_stdout().stdout.clone();
    let line =
        shown.lines().find_map(|line| line.strip_prefix("#   ")).unwrap().replace("qwenauth token", "$QWENAUTH token");
    let file = machine.home().join(".continue/.env");
    for before in ["MINE=1\nQWENAUTH_ACCESS_TOKEN=old\nOTHER=2", "OTHER=2\nMINE=1\n"] {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, before).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        drop(machine.shell(&line).exits(0));
        let after = fs::read_to_string(&file).unwrap();
        let mut lines: Vec<&str> = after.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["MINE=1", "OTHER=2", "QWENAUTH_ACCESS_TOKEN=granted-access-1"]);
        assert_eq!(mode(&file) & 0o777, 0o600);
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }
    let before = fs::read_to_string(&file).unwrap();
    drop(machine.run(["logout"]).any_stderr());
    drop(machine.shell(&line).exits(4).any_stderr());
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
    fs::remove_file(file).unwrap();
}

#[test]
fn lines_to_be_pasted_are_quoted_and_harmless() {
    let machine = logged_in_at_home();
    for tool in ["llm", "aider", "crush", "continue", "cline", "zed", "goose"] {
        let outcome =
            machine.run(["setup", tool, "--print", "--model", "m$(id)`id`'\"x y"]).exits(0).any_stdout().any_stderr();
        let shown = outcome.stdout.clone() + &outcome.stderr;
        let lines = shown.lines().filter(|line| line.contains("-m qwenauth/") || line.contains("-m 'qwenauth/"));
        for line in lines {
            assert!(line.contains(r#"-m 'qwenauth/m$(id)`id`'\''"x y'"#), "{tool}: {line}");
        }
        let outcome = machine.run(["setup", tool, "--model", "m\u{1b}[7mX"]).exits(2).any_stderr();
        assert!(!outcome.stderr.contains('\u{1b}'), "{outcome}");
    }
}

#[test]
fn names_from_elsewhere_do_not_control_the_terminal() {
    let models = r#"[providers.own]
title = "Own\u001b[31m\u0007"
base_url = "https://models.example/v1"
default_model = "m"
models = [{ id = "m", name = "M\u001b[7m" }, { id = "x\u0007" }]
key = { variables = ["OWN"] }
"#;
    let machine = logged_in_at_home().configured(models);
    machine.run_with_stdin(["login", "own", "--no-verify", "--api-key-stdin"], b"granted-key").exits(0).any_stderr();
    for tool in ["llm", "aider", "crush", "continue", "cline", "zed", "goose", "opencode", "codex", "qwen-code"] {
        let outcome = machine.run(["setup", tool, "--print", "--profile", "own"]).exits(0).any_stdout().any_stderr();
        let shown = outcome.stdout.clone() + &outcome.stderr;
        assert!(!shown.contains(['\u{1b}', '\u{7}']), "{tool}: {shown:?}");
    }
}

#[test]
fn opencodes_plugin_knows_the_profiles_origin_and_the_providers_headers() {
    let machine = logged_in_at_home();
    let outcome = machine.set_up(&["opencode"]);
    assert!(outcome.stderr.ends_with(
        "requests go directly to the provider; `--gateway` adds retries and limits that all programs share\n"
    ));
    let plugin = machine.content_of(".config/opencode/plugin/qwenauth.js");
    assert!(plugin.contains(&format!("const origin = \"{}\"\n", machine.server.url())), "{plugin}");
    let headers = r#"const headers = {"X-DashScope-AuthType":"qwen-oauth","X-DashScope-CacheControl":"enable","X-DashScope-UserAgent":"{user-agent}"}"#;
    assert!(plugin.contains(headers), "{plugin}");
    assert!(!plugin.contains("/* "), "{plugin}");
}

#[test]
fn a_shim_is_written_as_the_name_that_finds_it() {
    let machine = logged_in_at_home();
    let shims = machine.directory().join("mise/shims");
    fs::create_dir_all(&shims).unwrap();
    let shim = shims.join("qwenauth");
    fs::write(&shim, format!("#!/bin/sh\nexec {} \"$@\"\n", machine.program().display())).unwrap();
    fs::set_permissions(&shim, PermissionsExt::from_mode(0o755)).unwrap();
    let machine = machine.variable("PATH", format!("{}:/usr/bin:/bin", shims.display()));
    let outcome = machine.shell("qwenauth setup codex --print").any_stderr().any_stdout();
    assert!(outcome.stdout.contains("command = \"qwenauth\"\n"), "{outcome}");
}
