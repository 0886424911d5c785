//! `--native`: the provider's own variables as one group with their base URLs, for a shell, a child, and behind a gateway.

use serde_json::{Value, json};

use crate::keys::{KEY, by_stdin};
use crate::machine::Machine;

fn logged_in(provider: &str, more: &[&str]) -> Machine {
    let machine = Machine::new();
    let arguments = by_stdin(provider, &[&["--no-verify"], more].concat());
    drop(machine.run_with_stdin(arguments, KEY.as_bytes()).any_stderr());
    machine
}

const CHINA: &str = "https://dashscope.aliyuncs.com/compatible-mode/v1";

#[test]
fn the_providers_own_names_join_the_group_with_their_base_url() {
    let machine = logged_in("dashscope", &["--region", "cn"]);
    let mut outcome = machine.run(["env", "--native", "--format", "json"]);
    let group = outcome.json();
    for name in ["OPENAI_API_KEY", "DASHSCOPE_API_KEY", "QWENCLOUD_API_KEY", "QWEN_API_KEY"] {
        assert_eq!(group[name], KEY, "{name}");
    }
    for name in ["OPENAI_BASE_URL", "DASHSCOPE_API_BASE"] {
        assert_eq!(group[name], CHINA, "{name}");
    }
    machine
        .shell("eval $($QWENAUTH env --native); echo $DASHSCOPE_API_KEY $DASHSCOPE_API_BASE")
        .stdout(&format!("{KEY} {CHINA}\n"));
    machine
        .shell("$QWENAUTH exec --native -- sh -c 'echo $DASHSCOPE_API_KEY $DASHSCOPE_API_BASE'")
        .stdout(&format!("{KEY} {CHINA}\n"));
    let mut outcome = machine.run(["env", "--format", "json"]);
    assert_eq!(outcome.json()["DASHSCOPE_API_KEY"], Value::Null, "only where it is asked for");
}

/// Every provider of the data that names variables, here and in a child.
#[test]
fn each_provider_sets_all_of_its_names() {
    let listed: Value = serde_json::from_str(&Machine::new().run(["providers", "--json"]).any_stdout().stdout).unwrap();
    let mut tried = 0;
    for provider in listed["providers"].as_array().unwrap() {
        let name = provider["provider"].as_str().unwrap();
        let Some(variables) = provider["key"]["variables"].as_array().filter(|names| !names.is_empty()) else {
            continue;
        };
        let machine = logged_in(name, &[]);
        let mut outcome = machine.run(["env", "--native", "--format", "json"]);
        let group = outcome.json();
        for variable in variables {
            assert_eq!(group[variable.as_str().unwrap()], KEY, "{name}");
        }
        for partners in provider["key"]["base_url_variables"].as_object().unwrap().values() {
            for partner in partners.as_array().unwrap() {
                assert_eq!(group[partner.as_str().unwrap()], group["OPENAI_BASE_URL"], "{name}");
            }
        }
        tried += 1;
    }
    assert_eq!(tried, 15);
}

#[test]
fn with_a_gateway_a_native_variable_names_the_gateway_or_is_rejected() {
    let machine = logged_in("dashscope", &["--region", "cn"]).variable("QWENCLOUD_API_KEY", "granted-own");
    let outcome = machine.run(["exec", "--gateway", "--native", "--", "env"]).any_stderr().any_stdout();
    let value = |name: &str| {
        outcome.stdout.lines().find_map(|line| line.strip_prefix(&format!("{name}="))).unwrap_or_default().to_owned()
    };
    assert!(value("DASHSCOPE_API_KEY").starts_with("sk-") && value("DASHSCOPE_API_KEY") == value("OPENAI_API_KEY"));
    assert!(value("DASHSCOPE_API_BASE").starts_with("http://127.0.0.1:"), "{outcome}");
    assert_eq!(value("DASHSCOPE_API_BASE"), value("OPENAI_BASE_URL"));
    assert!(!outcome.stdout.contains("granted-") && !outcome.stdout.contains("QWENCLOUD_API_KEY"), "{outcome}");
    for (provider, name) in
        [("gemini", "GEMINI_API_KEY"), ("huggingface", "HF_TOKEN"), ("coding-plan", "BAILIAN_CODING_PLAN_API_KEY")]
    {
        logged_in(provider, &["--model", "m"]).run(["exec", "--gateway", "--native", "--", "true"]).fails(
            2,
            &format!("programs that read `{name}` have no variable for the base URL, so they would bypass the gateway"),
            "omit `--native` or `--gateway`",
        );
    }
}

#[test]
fn a_provider_without_variables_of_its_own_is_a_usage_error() {
    let machine = Machine::new().logged_in();
    for command in [&["env", "--native"][..], &["exec", "--native", "--", "true"]] {
        let outcome = machine.run(command).any_stdout();
        outcome.fails(2, "Qwen OAuth has no variables of its own", "omit `--native`");
    }
}

#[test]
fn unset_removes_the_providers_names_and_needs_no_login() {
    let removed = |machine: &Machine| {
        let mut outcome = machine.run(["env", "--unset", "--native", "--format", "json"]);
        let group = outcome.json();
        assert!(group.as_object().unwrap().values().all(Value::is_null), "{group}");
        group.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    let machine = logged_in("dashscope", &["--region", "cn"]);
    let names = removed(&machine);
    for name in ["OPENAI_API_KEY", "DASHSCOPE_API_KEY", "DASHSCOPE_API_BASE", "QWENCLOUD_API_KEY"] {
        assert!(names.iter().any(|known| known == name), "{name}");
    }
    assert!(!names.iter().any(|name| name == "GROQ_API_KEY"), "another provider's");
    drop(machine.run(["logout"]).any_stderr());
    assert_eq!(removed(&machine), names);
    // Where the provider is not known, all of them; a broken config is no reason to leave a key behind.
    for machine in [Machine::new().variable("QWENAUTH_PROFILE", "gone"), Machine::new().configured("profile = [\n")] {
        let names = removed(&machine);
        for name in ["DASHSCOPE_API_KEY", "GROQ_API_KEY", "GROQ_API_BASE", "GEMINI_API_KEY"] {
            assert!(names.iter().any(|known| known == name), "{name}");
        }
    }
    machine.shell("DASHSCOPE_API_KEY=x; eval $($QWENAUTH env --unset --native --profile dashscope); echo ${DASHSCOPE_API_KEY-gone}").stdout("gone\n");
}

#[test]
fn preserve_env_looks_at_every_family() {
    for (name, more) in [
        ("OPENAI_API_KEY", &[][..]),
        ("OPENAI_API_BASE", &[]),
        ("ANTHROPIC_API_KEY", &[]),
        ("ANTHROPIC_AUTH_TOKEN", &[]),
        ("ANTHROPIC_BASE_URL", &[]),
        ("DASHSCOPE_API_KEY", &["--native"]),
        ("DASHSCOPE_API_BASE", &["--native"]),
        ("QWEN_API_KEY", &["--native"]),
    ] {
        let machine = logged_in("dashscope", &["--region", "cn"]).variable(name, "own");
        let arguments = [&["exec", "--preserve-env"], more, &["--", "env"]].concat();
        let outcome = machine.run(arguments).any_stdout();
        assert!(
            outcome.stdout.contains(&format!("{name}=own\n")) && !outcome.stdout.contains(KEY),
            "{name}: {outcome}"
        );
    }
    let machine = logged_in("dashscope", &["--region", "cn"]).variable("DASHSCOPE_API_KEY", "own");
    let outcome = machine.run(["exec", "--preserve-env", "--", "env"]).any_stdout();
    assert!(outcome.stdout.contains(&format!("OPENAI_API_KEY={KEY}\n")), "not a name that would be set: {outcome}");
    assert_eq!(json!(outcome.code()), json!(0));
}
