//! `env`: the variables as one group, and a failure that stops a script.

use serde_json::json;

use crate::machine::Machine;
use crate::server::Reply;

#[test]
fn the_group_is_exported_for_a_shell() {
    Machine::new().logged_in().field("resource_url", json!("portal.qwen.ai")).run(["env"]).stdout(
        "export OPENAI_API_KEY=granted-access-1;\n\
         export OPENAI_BASE_URL=https://portal.qwen.ai/v1;\n\
         export OPENAI_API_BASE=https://portal.qwen.ai/v1;\n\
         export OPENAI_MODEL=coder-model;\n\
         unset OPENAI_ORG_ID;\n\
         unset OPENAI_PROJECT;\n\
         unset OPENAI_PROJECT_ID;\n\
         unset OPENAI_CUSTOM_HEADERS;\n",
    );
}

#[test]
fn eval_works_unquoted() {
    let machine = Machine::new().logged_in().field("access_token", json!("granted a  b'\"$`*?[{a,b}~=#!\\;&|<é"));
    let script = "OPENAI_ORG_ID=x; export OPENAI_ORG_ID; set -eu; eval $($QWENAUTH env --model 'a  *'); env | grep ^OPENAI_ | sort";
    machine.shell(script).stdout(
        "OPENAI_API_BASE={server}/v1\n\
         OPENAI_API_KEY=granted a  b'\"$`*?[{a,b}~=#!\\;&|<é\n\
         OPENAI_BASE_URL={server}/v1\n\
         OPENAI_MODEL=a  *\n",
    );
}

#[test]
fn a_failing_env_stops_the_script_that_evaluates_it() {
    let machine = Machine::new();
    let script = "set -e; eval $($QWENAUTH env); echo went on";
    machine.shell(script).fails(4, "not logged in: there is no credential for `qwen`", "run `qwenauth login`");
    machine.run(["env", "--format", "fish"]).stdout("false;\n").fails(
        4,
        "not logged in: there is no credential for `qwen`",
        "run `qwenauth login`",
    );
    for format in ["dotenv", "json", "powershell", "nushell", "elvish", "cmd"] {
        machine.run(["env", "--format", format]).fails(
            4,
            "not logged in: there is no credential for `qwen`",
            "run `qwenauth login`",
        );
    }
}

#[test]
fn a_temporary_failure_has_its_own_code_in_a_script() {
    let machine = Machine::expired().refresh(Reply::html(200));
    let outcome = machine.run(["env"]).exits(3).stdout("(exit 3);\n").any_stderr();
    assert!(outcome.stderr.starts_with("qwenauth: error: "), "{outcome}");
}

#[test]
fn unset_removes_the_group_without_a_login() {
    let outcome = Machine::new().run(["env", "--unset"]).any_stdout();
    for name in ["API_KEY", "BASE_URL", "API_BASE", "MODEL", "ORG_ID", "PROJECT", "PROJECT_ID", "CUSTOM_HEADERS"] {
        assert!(outcome.stdout.contains(&format!("OPENAI_{name};")), "{outcome}");
    }
}

#[test]
fn json_holds_the_group() {
    let mut outcome = Machine::new().logged_in().run(["env", "--format", "json"]);
    let expected = json!({
        "OPENAI_API_KEY": "granted-access-1",
        "OPENAI_BASE_URL": "{server}/v1",
        "OPENAI_API_BASE": "{server}/v1",
        "OPENAI_MODEL": "coder-model",
        "OPENAI_ORG_ID": null,
        "OPENAI_PROJECT": null,
        "OPENAI_PROJECT_ID": null,
        "OPENAI_CUSTOM_HEADERS": null,
    });
    assert_eq!(outcome.json(), expected);
}

#[test]
fn github_works_only_there() {
    let machine = Machine::new().logged_in();
    machine.run(["env", "--format", "github"]).fails(
        2,
        "`--format github` works only in a GitHub Actions job",
        "choose another format; `GITHUB_ACTIONS` is not `true` here",
    );
}

#[test]
fn a_value_with_a_control_character_is_an_error() {
    let machine = Machine::new().logged_in().field("access_token", json!("granted-access-1\nexport X=1"));
    let outcome = machine.run(["env"]).any_stderr();
    assert!(!outcome.stdout.contains("granted"), "{outcome}");
    let code = outcome.code().unwrap();
    assert_ne!(code, 0);
    outcome.exits(code).stdout(&format!("(exit {code});\n"));
}

#[test]
fn a_token_of_less_than_ten_minutes_is_used_unless_min_ttl_is_given() {
    let machine = Machine::new().logged_in().expires_in(300).refresh(Reply::tokens("2"));
    drop(machine.run(["env"]).any_stdout());
    let machine = Machine::new().logged_in().expires_in(300).refresh(Reply::html(200));
    let outcome = machine.run(["env"]).exits(0).any_stderr().any_stdout();
    assert!(outcome.stdout.contains("granted-access-1"), "{outcome}");
    let machine = Machine::new().logged_in().expires_in(300).refresh(Reply::html(200));
    drop(machine.run(["env", "--min-ttl", "10m"]).exits(3).any_stderr().any_stdout());
}

#[test]
fn an_empty_model_is_none() {
    let outcome = Machine::new().logged_in().run(["env", "--model", ""]).any_stdout();
    assert!(outcome.stdout.contains("unset OPENAI_MODEL;\n"), "{outcome}");
}

/// A repository may name any program that fetches objects which it lacks.
#[test]
fn git_fetches_nothing_to_tell_whether_a_file_is_ignored() {
    let git = "#!/bin/sh\necho \"$GIT_NO_LAZY_FETCH $GIT_ALLOW_PROTOCOL\" >\"$HOME/git\"\n";
    let machine = Machine::new().logged_in().with_programs(&[("git", git)]);
    drop(machine.shell("$QWENAUTH env --format dotenv >\"$HOME/.env\"; rm \"$HOME/.env\""));
    assert_eq!(std::fs::read_to_string(machine.home().join("git")).unwrap(), "1 none\n");
}
