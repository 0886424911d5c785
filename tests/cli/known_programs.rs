//! `exec` with programs that it knows: what they are given, what is refused before they start, and how they are recognized.
//!
//! The programs here are stand-ins that print their arguments and environment; tests/clients runs the real ones.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::machine::{Machine, mode, write_private};
use crate::run::Outcome;

const HERE: &str = "{machine}";

impl Machine {
    /// Programs in `PATH` that print each argument on a line, then the environment.
    fn with_stand_ins(self, names: &[&str]) -> Self {
        let directory = self.directory().join("bin");
        fs::create_dir_all(&directory).unwrap();
        for name in names {
            let file = directory.join(name);
            fs::write(&file, "#!/bin/sh\nfor word; do printf 'argument: %s\\n' \"$word\"; done\nenv\n").unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
        }
        self.variable("PATH", format!("{}:/usr/bin:/bin", directory.display()))
    }

    /// A key of a provider, as `login` stores it.
    fn with_key(self, provider: &str, more: &[&str]) -> Self {
        let command = [&["login", provider, "--no-verify", "--api-key-stdin"], more].concat();
        self.run_with_stdin(command, b"granted-key").exits(0).any_stderr();
        self
    }

    fn written(self, file: &str, content: &str) -> Self {
        write_private(&self.directory().join(file), content);
        self
    }

    fn started(&self, command: &[&str]) -> Outcome {
        self.run([&["exec"], command].concat()).exits(0).any_stdout()
    }

    fn support(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        crate::machine::each_path(&self.home().join(".local/state/qwenauth/exec"), &mut |path| {
            if path.is_file() {
                files.push(path.to_owned());
            }
        });
        files.sort();
        files
    }
}

fn variable<'a>(outcome: &'a Outcome, name: &str) -> Option<&'a str> {
    outcome.stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

fn arguments(outcome: &Outcome) -> Vec<&str> {
    outcome.stdout.lines().filter_map(|line| line.strip_prefix("argument: ")).collect()
}

#[test]
fn each_program_is_given_what_it_reads() {
    let programs = ["goose", "aider", "qwen", "cn", "claude", "llm", "cline", "pi", "crush"];
    let machine = Machine::new().logged_in().with_stand_ins(&programs);
    for (program, name, value) in [
        ("goose", "GOOSE_PROVIDER", "openai"),
        ("goose", "OPENAI_HOST", "{server}"),
        ("goose", "OPENAI_BASE_PATH", "v1/chat/completions"),
        ("goose", "GOOSE_MODEL", "coder-model"),
        ("aider", "AIDER_MODEL", "openai/coder-model"),
        ("qwen", "OPENAI_MODEL", "coder-model"),
        ("cn", "QWENAUTH_ACCESS_TOKEN", "granted-access-1"),
        ("claude", "ANTHROPIC_BASE_URL", "{server}"),
        ("claude", "ANTHROPIC_AUTH_TOKEN", "granted-access-1"),
        ("claude", "ANTHROPIC_DEFAULT_OPUS_MODEL", "coder-model"),
        ("llm", "LLM_MODEL", "qwenauth/coder-model"),
    ] {
        let outcome = machine.started(&["--", program]);
        assert_eq!(variable(&outcome, name), Some(value), "{program}: {outcome}");
        assert_eq!(variable(&outcome, "OPENAI_BASE_URL"), Some("{server}/v1"), "{program}");
        assert!(arguments(&outcome).iter().all(|word| !word.contains("granted-")), "{program}: a key in its arguments");
    }
    for file in machine.support() {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn keys_hosts_and_models_of_other_services_do_not_reach_a_program() {
    let foreign = [
        ("claude", "ANTHROPIC_API_KEY"),
        ("claude", "CLAUDE_CODE_OAUTH_TOKEN"),
        ("claude", "ANTHROPIC_CUSTOM_HEADERS"),
        ("claude", "CLAUDE_CODE_USE_BEDROCK"),
        ("claude", "CLAUDE_CODE_USE_MANTLE"),
        ("claude", "ANTHROPIC_UNIX_SOCKET"),
        ("aider", "AIDER_OPENAI_API_KEY"),
        ("aider", "AIDER_OPENAI_API_BASE"),
        ("aider", "USE_LITELLM_PROXY"),
        ("aider", "LITELLM_PROXY_API_BASE"),
        ("llm", "OPENAI_CUSTOM_HEADERS"),
        ("codex", "CODEX_API_KEY"),
        ("goose", "GOOSE_LEAD_PROVIDER"),
        ("cline", "CLINE_API_KEY"),
    ];
    for (program, name) in foreign {
        let machine = Machine::new().logged_in().with_stand_ins(&[program]).variable(name, "foreign");
        let outcome = machine.started(&["--", program]).any_stderr();
        assert_eq!(variable(&outcome, name), None, "{program}");
        assert!(outcome.stderr.contains(&format!("qwenauth: replaced for `{program}`: {name}\n")), "{outcome}");
        assert!(!outcome.stdout.lines().any(|line| line.ends_with("=foreign")), "{outcome}");
    }
}

#[test]
fn opencode_gets_its_whole_configuration_from_an_empty_home() {
    let machine = Machine::new().logged_in().with_stand_ins(&["opencode"]);
    let outcome = machine.started(&["--", "opencode", "run", "hi"]);
    assert_eq!(arguments(&outcome), ["run", "hi"]);
    let content: Value = serde_json::from_str(variable(&outcome, "OPENCODE_CONFIG_CONTENT").unwrap()).unwrap();
    let models = json!({
        "coder-model": {
            "name": "Qwen Coder",
            "limit": {"context": 1_048_576, "output": 65_536},
            "modalities": {"input": ["text"], "output": ["text"]},
        },
        "vision-model": {
            "name": "Qwen Vision",
            "limit": {"context": 131_072, "output": 32_768},
            "modalities": {"input": ["text", "image"], "output": ["text"]},
            "attachment": true,
        },
    });
    let expected = json!({
        "$schema": "https://opencode.ai/config.json",
        "model": "qwenauth/coder-model",
        "small_model": "qwenauth/coder-model",
        "enabled_providers": ["qwenauth"],
        "disabled_providers": [],
        "agent": {"build": {"model": "qwenauth/coder-model"}, "plan": {"model": "qwenauth/coder-model"}},
        "provider": {"qwenauth": {
            "npm": "@ai-sdk/openai-compatible",
            "name": "Qwen OAuth (qwenauth)",
            "options": {"baseURL": "{env:OPENAI_BASE_URL}", "apiKey": "{env:OPENAI_API_KEY}"},
            "models": models,
        }},
    });
    assert_eq!(content, expected);
}

#[test]
fn configuration_in_opencodes_variable_is_merged() {
    let theirs = r#"{"theme": "x", "model": "own/best", "provider": {"own": {"npm": "y"}}, /* mine */ "enabled_providers": ["own"]}"#;
    let machine = Machine::new().logged_in().with_stand_ins(&["opencode"]).variable("OPENCODE_CONFIG_CONTENT", theirs);
    let outcome = machine.started(&["--", "opencode"]).any_stderr();
    let content: Value = serde_json::from_str(variable(&outcome, "OPENCODE_CONFIG_CONTENT").unwrap()).unwrap();
    assert_eq!((&content["theme"], &content["provider"]["own"]), (&json!("x"), &json!({"npm": "y"})));
    assert_eq!(
        (&content["model"], &content["enabled_providers"]),
        (&json!("qwenauth/coder-model"), &json!(["qwenauth"]))
    );
    let broken = machine.variable("OPENCODE_CONFIG_CONTENT", "{");
    let outcome = broken.run(["exec", "--", "opencode"]).exits(1).any_stderr();
    assert!(outcome.stderr.starts_with("qwenauth: error: `OPENCODE_CONFIG_CONTENT`, line 1"), "{outcome}");
}

#[test]
fn a_model_on_the_programs_own_command_line_is_the_users_with_one_line() {
    let machine = Machine::new().logged_in().with_stand_ins(&["opencode", "codex"]);
    let outcome = machine.started(&["--", "codex", "-m", "own"]).any_stderr();
    assert_eq!(outcome.stderr, "qwenauth: Codex uses the model of its own command line: `own`\n");
    for (named, model, enabled) in [
        ("qwenauth/new", json!("qwenauth/new"), json!(["qwenauth"])),
        ("anthropic/x", json!("qwenauth/coder-model"), Value::Null),
    ] {
        let outcome = machine.started(&["--", "opencode", "run", &format!("--model={named}")]).any_stderr();
        assert_eq!(outcome.stderr, format!("qwenauth: opencode uses the model of its own command line: `{named}`\n"));
        let content: Value = serde_json::from_str(variable(&outcome, "OPENCODE_CONFIG_CONTENT").unwrap()).unwrap();
        assert_eq!((&content["model"], &content["enabled_providers"]), (&model, &enabled), "{named}");
        let of_agent = if enabled.is_null() { &Value::Null } else { &model };
        assert_eq!(&content["agent"]["build"]["model"], of_agent, "{named}");
    }
}

#[test]
fn codex_and_claude_code_get_options_before_their_own() {
    let machine = Machine::new().logged_in().with_stand_ins(&["codex", "claude"]);
    let outcome = machine.started(&["--", "codex", "exec", "hi"]);
    let provider = r#"model_providers.qwenauth_exec={name="Qwen OAuth (qwenauth)",base_url="{server}/v1",env_key="QWENAUTH_ACCESS_TOKEN",wire_api="responses"}"#;
    let expected = [
        ["-c", r#"model="coder-model""#],
        ["-c", r#"model_provider="qwenauth_exec""#],
        ["-c", provider],
        ["-c", "features.shell_snapshot=false"],
        ["--config=model_context_window=1048576", "exec"],
    ];
    assert_eq!(arguments(&outcome), [expected.as_flattened(), &["hi"]].concat());
    assert_eq!(variable(&outcome, "QWENAUTH_ACCESS_TOKEN"), Some("granted-access-1"));
    let outcome = machine.started(&["--", "claude", "-p", "hi"]);
    let words = arguments(&outcome);
    assert_eq!((words[0], &words[2..]), ("--settings", &["-p", "hi"][..]));
    let settings: Value = serde_json::from_str(words[1]).unwrap();
    assert_eq!(settings["apiKeyHelper"], r#"printf %s "$QWENAUTH_ACCESS_TOKEN""#);
    assert_eq!(
        (&settings["env"]["ANTHROPIC_BASE_URL"], &settings["env"]["ANTHROPIC_API_KEY"]),
        (&json!("{server}"), &json!(""))
    );
}

#[test]
fn a_program_is_known_behind_what_starts_it_and_by_as() {
    let machine = Machine::new().logged_in().with_stand_ins(&["codex", "npx", "mine"]);
    for (command, before) in [
        (vec!["--", "env", "A=b", "codex", "exec"], 0),
        (vec!["--", "timeout", "60", "codex", "exec"], 0),
        (vec!["--", "nice", "-n", "5", "codex", "exec"], 0),
        (vec!["--", "npx", "-y", "@openai/codex@0.171.0", "exec"], 2),
        (vec!["--as", "codex", "--", "mine", "exec"], 0),
        (vec!["--as", "codex", "--", "timeout", "60", "mine", "exec"], 0),
        (vec!["--as", "codex", "--", "npx", "-y", "mine", "exec"], 2),
    ] {
        let outcome = machine.started(&command);
        let words = arguments(&outcome);
        assert_eq!((words[before], words.last()), ("-c", Some(&"exec")), "{command:?}");
    }
    let outcome = machine.started(&["--as", "claude-code", "--", "mine", "-p"]);
    assert_eq!(arguments(&outcome)[0], "--settings", "the name that `setup` has for it");
    machine.run(["exec", "--as", "nobody", "--", "mine"]).fails(
        2,
        "unknown program `nobody` after `--as`",
        "known programs: aider, claude, cline, cn, codex, crush, goose, llm, opencode, pi, qwen, zed",
    );
}

#[test]
fn npm_passes_on_what_follows_the_double_dash_and_reads_every_other_option_itself() {
    let machine = Machine::new().logged_in().with_stand_ins(&["npm"]);
    for (command, before) in [
        (vec!["--", "npm", "exec", "codex", "--", "exec", "-p"], vec!["exec", "codex", "--"]),
        (
            vec!["--", "npm", "x", "--yes", "codex", "--loglevel", "error", "--", "exec", "-p"],
            vec!["x", "--yes", "codex", "--loglevel", "error", "--"],
        ),
        (vec!["--", "npm", "exec", "codex", "exec", "ping"], vec!["exec", "codex", "--"]),
    ] {
        let outcome = machine.started(&command);
        let words = arguments(&outcome);
        assert_eq!((&words[..before.len()], words[before.len()]), (&before[..], "-c"), "{command:?}");
    }
    machine.run(["exec", "--", "npm", "exec", "codex", "exec", "-p"]).fails(
        2,
        "`npm` would read the options of Codex as its own",
        "write `--` before the program: `-- codex …`",
    );
}

#[test]
fn a_program_that_cannot_work_with_the_profile_is_rejected_and_one_that_can_is_named() {
    let machine =
        Machine::new().with_stand_ins(&["claude", "codex"]).with_key("groq", &[]).with_key("coding-plan", &[]);
    let machine = machine.with_key("custom", &["--base-url", "https://models.example/v1"]);
    machine.run(["exec", "--profile", "groq", "--", "claude"]).fails(
        1,
        "Claude Code cannot work with profile `groq`: it needs an Anthropic endpoint, which Groq does not have",
        "profile `coding-plan` can: `qwenauth exec --profile coding-plan -- claude`",
    );
    machine.run(["exec", "--gateway", "--profile", "coding-plan", "--", "codex"]).fails(
        1,
        "Codex cannot work with profile `coding-plan`: it needs `/responses`, which Alibaba Cloud Coding Plan does not have",
        "profile `groq` can: `qwenauth exec --gateway --profile groq -- codex`",
    );
    let started = ["--profile=groq", "exec", "--model", "m 1", "--", "timeout", "5", "claude", "-p", "it's"];
    machine.run(started).fails(
        1,
        "Claude Code cannot work with profile `groq`: it needs an Anthropic endpoint, which Groq does not have",
        r"profile `coding-plan` can: `qwenauth exec --model 'm 1' --profile coding-plan -- timeout 5 claude -p 'it'\''s'`",
    );
    for prompt in ["a\nb", &"long ".repeat(50)] {
        machine.run(["exec", "--profile", "groq", "--", "claude", "-p", prompt]).fails(
            1,
            "Claude Code cannot work with profile `groq`: it needs an Anthropic endpoint, which Groq does not have",
            "profile `coding-plan` can: `qwenauth exec --profile coding-plan -- …`",
        );
    }
    let alone = Machine::new().with_stand_ins(&["claude"]).with_key("groq", &[]);
    let hint = "log in to a provider that has it, such as `qwenauth login dashscope`: `dashscope`, `openrouter`, `modelscope`, \
                `siliconflow`, `fireworks`, `coding-plan`, `token-plan`, `ollama`, `vllm`, `lmstudio`";
    alone.run(["exec", "--profile", "groq", "--", "claude"]).fails(
        1,
        "Claude Code cannot work with profile `groq`: it needs an Anthropic endpoint, which Groq does not have",
        hint,
    );
    alone.run(["setup", "claude-code", "--profile", "groq"]).fails(
        1,
        "Groq has no Anthropic endpoint, which Claude Code needs",
        hint,
    );
    for program in ["codex", "claude"] {
        machine.run(["exec", "--profile", "custom", "--", program]).exits(1).any_stderr();
    }
    let own = Machine::new().with_stand_ins(&["claude"]);
    let own = own.with_key("custom", &["--base-url", "https://models.example/v1", "--profile", "team"]);
    for command in [&["exec", "--model", "m", "--", "claude"][..], &["setup", "claude-code", "--model", "m"]] {
        own.run([&["--profile", "team"], command].concat()).fails(
            1,
            "Claude Code needs an Anthropic endpoint, and none is known of the server of profile `team`",
            "if it has one, write `anthropic = \"/\"` under `[providers.custom]` in config.toml",
        );
    }
    let own = own.configured("[providers.custom]\nanthropic = \"/\"\n");
    let started = own.run(["--profile", "team", "exec", "--model", "m", "--", "claude"]).any_stdout().any_stderr();
    assert!(started.stdout.contains("ANTHROPIC_BASE_URL=https://models.example\n"), "{started}");
    machine.run(["exec", "--profile", "custom", "--", "codex"]).fails(
        1,
        "Codex needs a model, and profile `custom` has no default",
        "name one: `qwenauth exec --profile custom --model ID -- codex`",
    );
}

#[test]
fn an_env_file_that_aider_loads_is_overridden_and_named() {
    for (line, name) in [
        ("OPENAI_API_KEY=sk-personal", "OPENAI_API_KEY"),
        ("export OPENAI_BASE_URL = 'https://elsewhere.example/v1'", "OPENAI_BASE_URL"),
        ("OPENAI_API_BASE=https://elsewhere.example/v1", "OPENAI_API_BASE"),
        ("AIDER_OPENAI_API_BASE=https://elsewhere.example/v1", "AIDER_OPENAI_API_BASE"),
        ("AIDER_MODEL_SETTINGS_FILE=theirs.yml", "AIDER_MODEL_SETTINGS_FILE"),
        ("USE_LITELLM_PROXY=true", "USE_LITELLM_PROXY"),
        ("LITELLM_PROXY_API_BASE=https://elsewhere.example/v1", "LITELLM_PROXY_API_BASE"),
    ] {
        let machine =
            Machine::new().logged_in().with_stand_ins(&["aider"]).written(".env", &format!("# mine\n{line}\n"));
        let outcome = machine.started(&["--", "aider"]).any_stderr();
        assert_eq!(outcome.stderr, format!("qwenauth: `{HERE}/.env` sets `{name}`: overridden for aider\n"));
        let file =
            variable(&outcome, "AIDER_ENV_FILE").unwrap().replace("{home}", &machine.home().display().to_string());
        let text = fs::read_to_string(&file).unwrap().replace(machine.server.url().as_str(), "{server}");
        assert!(text.contains("OPENAI_API_KEY=${QWENAUTH_ACCESS_TOKEN}\n"), "{text}");
        assert!(text.contains("OPENAI_BASE_URL={server}/v1\n"), "{text}");
        assert!(text.lines().any(|line| line.starts_with(&format!("{name}="))), "{text}");
        let settings = PathBuf::from(file).with_file_name("settings.yml").display().to_string();
        assert!(text.contains(&format!("AIDER_MODEL_SETTINGS_FILE={settings}\n")), "{text}");
        assert_eq!(fs::read_to_string(settings).unwrap(), "[]\n");
    }
}

#[test]
fn what_cannot_be_overridden_is_rejected_unless_it_is_allowed() {
    let files = [
        (".env", "QWENAUTH_ACCESS_TOKEN=x", "QWENAUTH_ACCESS_TOKEN"),
        (".aider.model.settings.yml", "- name: m\n  extra_params: {'api_base': https://elsewhere.example}", "api_base"),
    ];
    for (file, text, name) in files {
        let machine = Machine::new().logged_in().with_stand_ins(&["aider"]).written(file, text);
        machine.run(["exec", "--", "aider"]).fails(
            1,
            &format!("`{HERE}/{file}` sets `{name}`, and aider would combine it with the profile's host or key"),
            "remove it there, or start it anyway with `qwenauth exec --allow-env-file -- …`",
        );
        let outcome = machine.started(&["--allow-env-file", "--", "aider"]).any_stderr();
        let warning =
            format!("qwenauth: warning: `{HERE}/{file}` sets `{name}`, which aider uses instead of the profile's\n");
        assert_eq!(outcome.stderr, warning);
    }
    let machine = Machine::new().logged_in().with_stand_ins(&["codex"]);
    let machine = machine.written("home/.codex/.env", "QWENAUTH_ACCESS_TOKEN=x");
    let outcome = machine.run(["exec", "--", "codex"]).exits(1).any_stderr();
    let error = "qwenauth: error: `{home}/.codex/.env` sets `QWENAUTH_ACCESS_TOKEN`, and Codex would";
    assert!(outcome.stderr.starts_with(error), "{outcome}");
    let machine = Machine::new().logged_in().with_stand_ins(&["aider", "claude", "cn", "cline", "codex"]);
    for (program, option) in [
        ("aider", "--openai-api-base=https://elsewhere.example"),
        ("aider", "--env-file"),
        ("aider", "--model-settings-file"),
        ("codex", "-c model_provider=\"f\""),
        ("claude", "--settings"),
        ("cn", "--config"),
        ("cline", "-k"),
    ] {
        let typed = [&["--", program], &option.split(' ').collect::<Vec<_>>()[..], &["x"]].concat();
        let outcome = machine.run([&["exec"], &typed[..]].concat()).exits(1).any_stderr();
        let name = option.split('=').next().unwrap();
        assert!(outcome.stderr.starts_with(&format!("qwenauth: error: `{name}` of ")), "{outcome}");
        machine.started(&[&["--allow-env-file"], &typed[..]].concat());
    }
}

#[test]
fn only_files_that_the_program_loads_are_looked_at() {
    let machine =
        Machine::new().logged_in().with_stand_ins(&["opencode", "aider"]).written(".env", "OPENAI_API_KEY=x\n");
    assert_eq!(machine.started(&["--", "opencode"]).stderr, "");
    let large = format!("OPENAI_API_KEY=x\n{}", "#".repeat(70_000));
    let machine = machine.written(".env", &large);
    assert_eq!(machine.started(&["--", "aider"]).stderr, "");
    fs::remove_file(machine.directory().join(".env")).unwrap();
    nix::unistd::mkfifo(&machine.directory().join(".env"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(machine.started(&["--", "aider"]).stderr, "");
}

#[test]
fn zed_is_started_only_where_its_file_names_the_same_host() {
    let place = ".config/zed/settings.json";
    let settings = |url: &str| json!({"language_models": {"openai_compatible": {"qwenauth_zed": {"api_url": url}}}});
    let machine = Machine::new().logged_in().with_stand_ins(&["zed"]);
    let refused = |machine: &Machine, option: &str, what: &str| {
        let command: Vec<&str> = ["exec", option, "--", "zed"].into_iter().filter(|word| !word.is_empty()).collect();
        machine.run(command).fails(
            1,
            &format!("Zed reads its host only from `{{home}}/{place}`, where `language_models.openai_compatible.qwenauth_zed.api_url` names {what}"),
            "`qwenauth setup zed` prints what belongs there and how to start it; for a gateway, `qwenauth setup zed --gateway`",
        );
    };
    refused(&machine, "", "no host");
    let own = settings(&format!("{}/v1", machine.server.url())).to_string();
    let machine = machine.written(&format!("home/{place}"), &own);
    let outcome = machine.started(&["--", "zed"]);
    assert_eq!(variable(&outcome, "QWENAUTH_ZED_API_KEY"), Some("granted-access-1"));
    refused(&machine, "--gateway", "another host than this run uses");
    let machine = machine.written(&format!("home/{place}"), &settings("https://elsewhere.example/v1").to_string());
    refused(&machine, "", "another host than this run uses");
}

#[test]
fn an_earlier_setup_does_not_bypass_the_gateway() {
    let machine = Machine::new().logged_in().with_stand_ins(&["opencode", "qwen", "codex", "claude"]);
    for (tool, program) in
        [("opencode", "opencode"), ("qwen-code", "qwen"), ("codex", "codex"), ("claude-code", "claude")]
    {
        machine.run(["setup", tool]).exits(0).any_stderr();
        let outcome = machine.started(&["--gateway", "--", program]);
        assert!(variable(&outcome, "OPENAI_BASE_URL").unwrap().starts_with("http://127.0.0.1:"), "{outcome}");
        assert!(!outcome.stdout.contains("granted-"), "{program} got the credential");
    }
}

#[test]
fn files_that_name_a_gateway_are_removed_with_it() {
    let machine = Machine::new().logged_in().with_stand_ins(&["cline", "llm"]);
    machine.started(&["--gateway", "--", "cline"]);
    assert_eq!(machine.support(), Vec::<PathBuf>::new());
    machine.started(&["--", "cline"]);
    machine.started(&["--", "cline"]);
    machine.started(&["--gateway", "--", "llm"]);
    let names: Vec<_> = machine.support().iter().map(|file| file.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["providers.json", "extra-openai-models.yaml"]);
}

#[test]
fn llm_keeps_its_history() {
    let machine =
        Machine::new().logged_in().with_stand_ins(&["llm"]).written("home/.config/io.datasette.llm/logs.db", "db");
    let machine = machine.written("home/.config/io.datasette.llm/keys.json", r#"{"openai": "sk-foreign"}"#);
    let outcome = machine.started(&["--", "llm"]);
    let folder = variable(&outcome, "LLM_USER_PATH").unwrap().replace("{home}", &machine.home().display().to_string());
    let folder = PathBuf::from(folder);
    assert_eq!(fs::read_to_string(folder.join("logs.db")).unwrap(), "db");
    assert!(!folder.join("keys.json").exists(), "a key of another host is in force");
}

/// What it writes is in its own directory, where it also is without `exec` and with another model.
#[test]
fn llms_history_begins_in_its_own_directory() {
    let machine = Machine::new().logged_in().with_stand_ins(&["llm"]);
    let outcome = machine.started(&["--", "llm"]);
    let folder = variable(&outcome, "LLM_USER_PATH").unwrap().replace("{home}", &machine.home().display().to_string());
    fs::write(PathBuf::from(folder).join("logs.db"), "new").unwrap();
    let theirs = machine.home().join(".config/io.datasette.llm/logs.db");
    assert_eq!(fs::read_to_string(theirs).unwrap(), "new");
}

#[test]
fn an_unknown_program_with_a_gateway_is_reported_in_one_line() {
    let machine = Machine::new().logged_in().with_stand_ins(&["mine"]);
    let line = "qwenauth: `mine` is not a known program: only its requests to `OPENAI_BASE_URL` go through the gateway (`--as NAME` treats it as a known one)\n";
    assert_eq!(machine.started(&["--gateway", "--", "mine"]).any_stderr().stderr, line);
    assert_eq!(machine.started(&["--", "mine"]).stderr, "");
    assert_eq!(machine.started(&["--gateway", "--", "sh", "-c", "mine"]).stderr, "");
}

#[test]
fn both_spellings_of_the_proxy_exceptions_keep_the_users() {
    const LOCAL: &str = "127.0.0.1,localhost,::1";
    for (upper, lower, expected_upper, expected_lower) in [
        ("*", "", "*,", "*,"),
        ("", "a.example", "a.example,", "a.example,"),
        ("b.example", "a.example", "b.example,", "a.example,"),
        ("", "", "", ""),
    ] {
        let machine = Machine::new().logged_in().variable("NO_PROXY", upper).variable("no_proxy", lower);
        let outcome = machine.run(["exec", "--gateway", "--", "env"]).exits(0).any_stdout();
        assert_eq!(variable(&outcome, "NO_PROXY"), Some(format!("{expected_upper}{LOCAL}").as_str()));
        assert_eq!(variable(&outcome, "no_proxy"), Some(format!("{expected_lower}{LOCAL}").as_str()));
    }
}

#[test]
fn certificates_that_are_trusted_here_are_passed_on() {
    let machine = Machine::new().logged_in();
    let file = machine.directory().join("ca.pem").display().to_string();
    let machine = machine.variable("QWENAUTH_CA_FILE", file).variable("SSL_CERT_FILE", "/own.pem");
    let outcome = machine.started(&["--", "env"]);
    assert_eq!(variable(&outcome, "NODE_EXTRA_CA_CERTS"), Some("{machine}/ca.pem"));
    assert_eq!(variable(&outcome, "SSL_CERT_FILE"), Some("/own.pem"));
}

/// Their configuration is written by whoever is first, and each finds it whole.
#[test]
fn programs_that_start_at_once_in_a_new_home_all_start() {
    for (program, files) in [("qwen", &["settings.json"][..]), ("aider", &["aider.env", "settings.yml"])] {
        let machine = Machine::new().with_key("custom", &["--base-url", "http://127.0.0.1:9/v1", "--model", "m"]);
        let machine = machine.with_stand_ins(&[program]);
        let started: Vec<_> = (0..8).map(|_| machine.spawn(["exec", "--", program])).collect();
        for running in started {
            drop(running.finish().exits(0).any_stdout());
        }
        let support = machine.support();
        let names: Vec<_> = support.iter().map(|file| file.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, files, "{support:?}");
    }
}
