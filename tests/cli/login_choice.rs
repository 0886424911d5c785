//! `login` without a provider: the one that a key in the environment means is named, never guessed.

use crate::login::polls;
use crate::machine::Machine;

/// Key variables of providers that serve nothing but Qwen models.
const QWEN_KEYS: [(&str, &str); 7] = [
    ("DASHSCOPE_API_KEY", "dashscope"),
    ("QWENCLOUD_API_KEY", "dashscope"),
    ("QWEN_API_KEY", "dashscope"),
    ("BAILIAN_CODING_PLAN_API_KEY", "coding-plan"),
    ("ALIBABA_CODING_PLAN_API_KEY", "coding-plan"),
    ("BAILIAN_TOKEN_PLAN_API_KEY", "token-plan"),
    ("ALIBABA_TOKEN_PLAN_API_KEY", "token-plan"),
];

#[test]
fn a_key_for_qwen_models_in_the_environment_ends_with_the_line_to_type() {
    for (name, provider) in QWEN_KEYS {
        for more in [&[][..], &["--no-verify"], &["--force"]] {
            let machine = Machine::new().variable(name, "granted-key");
            machine.run([&["login"], more].concat()).fails(
                2,
                &format!("`{name}` is set, and `login` without a provider would not use it"),
                &format!("run `qwenauth login {provider} --api-key-env {name}`, or `qwenauth login qwen`"),
            );
            assert!(machine.server.requests().is_empty());
        }
    }
}

#[test]
fn options_of_a_script_and_other_keys_do_not_change_the_default() {
    for (name, more) in [
        ("DASHSCOPE_API_KEY", &["--json"][..]),
        ("DASHSCOPE_API_KEY", &["--no-wait"]),
        ("DASHSCOPE_API_KEY", &["--profile", "qwen"]),
        ("OPENROUTER_API_KEY", &[]),
        ("GEMINI_API_KEY", &[]),
        ("HF_TOKEN", &[]),
        ("GROQ_API_KEY", &[]),
    ] {
        let machine = polls([]).granted().variable(name, "granted-key");
        drop(machine.run([&["login"], more].concat()).any_stderr().any_stdout());
        if more.contains(&"--no-wait") {
            drop(machine.run(["login", "--resume"]).any_stderr());
        }
        machine.holds_the_grant();
    }
    let machine = Machine::new().variable("DASHSCOPE_API_KEY", "granted-key");
    machine.run(["login", "--resume"]).fails(4, "no login of `qwen` is pending", "run `qwenauth login`");
}

#[test]
fn a_command_that_finds_no_login_names_the_key_in_the_environment() {
    let machine = Machine::new().variable("DASHSCOPE_API_KEY", "granted-key");
    for command in [&["token"][..], &["exec", "--", "true"]] {
        machine.run(command).fails(
            4,
            "not logged in: there is no credential for `qwen`",
            "run `qwenauth login dashscope --api-key-env DASHSCOPE_API_KEY`, or `qwenauth login qwen`",
        );
    }
}

#[test]
fn an_unknown_provider_may_be_a_server_of_ones_own() {
    Machine::new().run(["login", "team"]).fails(
        2,
        "unknown provider `team`",
        "run `qwenauth providers` to list them; for a server of your own add `--base-url URL`",
    );
    let machine = Machine::new();
    let login = "qwenauth login custom --profile ollama2 --base-url 'http://127.0.0.1:9/v1;x'";
    machine.run(["login", "ollama2", "--base-url", "http://127.0.0.1:9/v1;x", "--no-verify"]).fails(
        2,
        "unknown provider `ollama2`",
        &format!("did you mean `ollama`? for a server of your own: `{login}`"),
    );
    drop(machine.shell(&format!("{} --no-verify", login.replacen("qwenauth", "$QWENAUTH", 1))).any_stderr());
    assert_eq!(machine.profile("ollama2")["base_url"], "http://127.0.0.1:9/v1;x");
}
