//! A credential in the environment: used before any stored one, for the provider named beside it and for no other.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::doctor::aged;
use crate::keys::{KEY, answers, by_stdin, knows_the_key, machine, models, refusal, refuses};
use crate::machine::{Machine, write_private};
use crate::server::Reply;

/// Another key than the stored one.
const GIVEN: &str = "granted-given-key";

/// A stored login at Groq, and a key of Groq in the environment.
fn given() -> Machine {
    let machine = knows_the_key(machine(), "/groq/v1/models");
    drop(machine.run_with_stdin(by_stdin("groq", &[]), KEY.as_bytes()).any_stderr());
    machine.variable("QWENAUTH_API_KEY", GIVEN).variable("QWENAUTH_PROVIDER", "groq")
}

/// The regions of `dashscope`, of which one knows the given key.
fn regions(home: &'static str) -> Machine {
    let machine = ["intl", "cn", "us", "hk"].iter().fold(machine(), |machine, region| {
        let knows = *region == home;
        answers(machine, &format!("/{region}/v1/models"), move |request| {
            if knows && request.bearer() == GIVEN { models() } else { refusal() }
        })
    });
    machine.variable("QWENAUTH_API_KEY", GIVEN).variable("QWENAUTH_PROVIDER", "dashscope")
}

#[test]
fn every_command_that_needs_a_credential_uses_the_key_of_the_environment_before_the_stored_one() {
    let machine = given();
    let before = machine.profile("groq");
    machine.run(["token"]).stdout("granted-given-key\n");
    machine.run(["token", "--format", "header"]).stdout("Authorization: Bearer granted-given-key\n");
    let mut outcome = machine.run(["token", "--format", "json"]);
    let expected = json!({"access_token": GIVEN, "token_type": "Bearer", "expires_at": null,
        "base_url": "{server}/groq/v1", "model": "qwen/qwen3.8-27b", "profile": "groq"});
    assert_eq!(outcome.json(), expected);
    let mut outcome = machine.run(["env", "--format", "json"]);
    assert_eq!(outcome.json()["OPENAI_API_KEY"], GIVEN);
    machine
        .shell("$QWENAUTH exec -- sh -c 'echo $OPENAI_API_KEY $OPENAI_BASE_URL'")
        .stdout("granted-given-key {server}/groq/v1\n");
    machine.run(["refresh"]).stderr("qwenauth: `groq` uses an API key; nothing to renew\n");
    let mut outcome = machine.run(["status", "--json"]);
    let status = outcome.json();
    let row = &status["profiles"][0];
    assert_eq!(
        (&row["variable"], &row["path"], &row["active"]),
        (&json!("QWENAUTH_API_KEY"), &json!(null), &json!(true))
    );
    assert!(!outcome.stdout.contains("granted-"), "{outcome}");
    let outcome = machine.run(["status"]).any_stdout();
    assert!(outcome.stdout.contains("`QWENAUTH_API_KEY` in the environment"), "{outcome}");
    assert_eq!(machine.profile("groq"), before);
    assert_eq!(machine.server.requests().len(), 1, "a provider without regions is not asked");
}

#[test]
fn nothing_needs_to_be_stored() {
    let machine = machine().variable("QWENAUTH_API_KEY", GIVEN).variable("QWENAUTH_PROFILE", "groq");
    machine.run(["token"]).stdout("granted-given-key\n");
    assert!(!machine.home().join(".local").exists() && !machine.config().with_extension("lock").exists());
}

#[test]
fn the_gateway_uses_the_key_and_the_child_does_not_see_it() {
    let machine = answers(given(), "/groq/v1/chat/completions", |request| {
        if request.bearer() == GIVEN { Reply::json(200, json!({"choices": []})) } else { refusal() }
    });
    let machine = machine.variable("GROQ_API_KEY", GIVEN).variable("MY_COPY", GIVEN);
    let mut child = machine.run(["exec", "--gateway", "--", "env"]).any_stderr().any_stdout();
    assert!(!child.stdout.contains(GIVEN), "{child}");
    for name in ["QWENAUTH_API_KEY=", "GROQ_API_KEY=", "MY_COPY="] {
        assert!(!child.stdout.contains(name), "{name}: {child}");
    }
    assert!(child.stdout.contains("OPENAI_API_KEY=sk-"), "{child}");
    let file = machine.directory().join("key");
    fs::write(&file, GIVEN).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let machine = machine.without_variable("QWENAUTH_API_KEY").variable("QWENAUTH_API_KEY_FILE", &file);
    child = machine.run(["exec", "--gateway", "--", "env"]).any_stderr().any_stdout();
    assert!(!child.stdout.contains("QWENAUTH_API_KEY_FILE="), "{child}");
}

#[test]
fn the_key_may_be_in_a_file_or_a_pipe() {
    let machine = given().without_variable("QWENAUTH_API_KEY");
    let file = machine.directory().join("key");
    fs::write(&file, format!("  {GIVEN}\r\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let machine = machine.variable("QWENAUTH_API_KEY_FILE", &file);
    machine.run(["token"]).stdout("granted-given-key\n");
    let machine = machine.variable("QWENAUTH_API_KEY_FILE", "/dev/stdin");
    // `exec` needs the key more than once, and a pipe has it once.
    machine
        .shell(&format!("printf {GIVEN} | $QWENAUTH exec -- sh -c 'echo $OPENAI_API_KEY'"))
        .stdout("granted-given-key\n");
    let machine = machine.variable("QWENAUTH_API_KEY_FILE", "/nowhere/key");
    machine.run(["token"]).fails(2, "`QWENAUTH_API_KEY_FILE`: cannot read `/nowhere/key`: it is missing", "");
    let machine = machine.variable("QWENAUTH_API_KEY", GIVEN);
    machine.run(["token"]).fails(2, "`QWENAUTH_API_KEY` and `QWENAUTH_API_KEY_FILE` are both set", "unset one of them");
}

#[test]
fn the_key_belongs_to_the_provider_that_is_named_and_to_no_other() {
    let machine = knows_the_key(machine(), "/groq/v1/models");
    drop(machine.run_with_stdin(by_stdin("groq", &[]), KEY.as_bytes()).any_stderr());
    let machine = machine.variable("QWENAUTH_API_KEY", GIVEN);
    // Neither the active profile of config.toml, a rule of it nor `--profile` says whose key it is.
    for arguments in [&["token"][..], &["token", "--profile", "groq"], &["exec", "--", "true"], &["status"]] {
        machine.run(arguments).fails(
            2,
            "`QWENAUTH_API_KEY` is set, but the provider of the key is not named",
            "set `QWENAUTH_PROVIDER`, for example to `dashscope`",
        );
    }
    let machine = machine.variable("QWENAUTH_PROFILE", "groq");
    machine.run(["token"]).stdout("granted-given-key\n");
    machine.run(["token", "--profile", "groq"]).stdout("granted-given-key\n");
    machine.run(["token", "--profile", "fireworks"]).fails(
        2,
        "`QWENAUTH_API_KEY` contains a key of `groq`, but `--profile` selects another provider",
        "`unset QWENAUTH_API_KEY` to use the stored profile",
    );
    let machine = machine.variable("QWENAUTH_PROVIDER", "fireworks");
    let mut outcome = machine.run(["token", "--format", "json"]);
    assert_eq!(outcome.json()["profile"], "fireworks", "the provider that is named goes first");
    drop(machine.variable("QWENAUTH_PROVIDER", "gruq").run(["token"]).exits(2).any_stderr());
}

#[test]
fn a_key_of_another_provider_is_rejected_by_its_beginning_before_anything_is_sent() {
    for (provider, key) in [
        ("groq", "sk-or-v1-granted"),
        ("dashscope", "gsk_granted"),
        ("dashscope", "sk-sp-granted"),
        ("openrouter", "hf_granted"),
        ("custom", "sk-or-v1-granted"),
        ("coding-plan", "ms-granted"),
    ] {
        let machine = machine().variable("QWENAUTH_API_KEY", key).variable("QWENAUTH_PROVIDER", provider);
        let machine = if provider == "custom" {
            let url = machine.server.url();
            machine.variable("QWENAUTH_BASE_URL", url)
        } else {
            machine
        };
        for command in [&["token"][..], &["env"], &["exec", "--", "true"]] {
            let outcome = machine.run(command).exits(2).any_stderr().any_stdout();
            assert!(
                outcome.stderr.contains("error: the key in `QWENAUTH_API_KEY` starts with "),
                "{provider}: {outcome}"
            );
            assert!(!outcome.stdout.contains("granted"), "{outcome}");
        }
        assert!(machine.server.requests().is_empty());
    }
    // A bare `sk-` tells nothing.
    let machine = machine().variable("QWENAUTH_API_KEY", "sk-granted").variable("QWENAUTH_PROVIDER", "siliconflow");
    machine.variable("QWENAUTH_REGION", "cn").run(["token"]).stdout("sk-granted\n");
    let machine = sandbox_of("qwen");
    drop(machine.run(["token"]).exits(2).any_stderr());
}

fn sandbox_of(provider: &str) -> Machine {
    machine().variable("QWENAUTH_API_KEY", GIVEN).variable("QWENAUTH_PROVIDER", provider)
}

#[test]
fn region_and_base_url_select_the_endpoint() {
    let base = |machine: &Machine| {
        let mut outcome = machine.run(["token", "--format", "json"]);
        outcome.json()["base_url"].clone()
    };
    for (region, path) in [("cn", "cn"), ("Beijing", "cn"), ("singapore", "intl")] {
        assert_eq!(
            base(&sandbox_of("dashscope").variable("QWENAUTH_REGION", region)),
            json!(format!("{{server}}/{path}/v1"))
        );
    }
    drop(sandbox_of("dashscope").variable("QWENAUTH_REGION", "nowhere").run(["token"]).exits(2).any_stderr());
    sandbox_of("groq").variable("QWENAUTH_REGION", "intl").run(["token"]).fails(
        2,
        "Groq has no regions, but `QWENAUTH_REGION` is set",
        "unset it",
    );
    let machine = sandbox_of("custom");
    machine.run(["token"]).fails(
        2,
        "provider `custom` needs `QWENAUTH_BASE_URL`",
        "for example `QWENAUTH_BASE_URL=http://127.0.0.1:8000/v1`",
    );
    assert_eq!(base(&machine.variable("QWENAUTH_BASE_URL", "https://own.example/v1/")), "https://own.example/v1");
    let machine = sandbox_of("groq").variable("QWENAUTH_BASE_URL", "https://groq.example/v1");
    drop(machine.run(["token"]).exits(2).any_stderr());
    let machine = machine.variable("QWENAUTH_REGION", "cn");
    drop(machine.run(["token"]).exits(2).any_stderr());
}

#[test]
fn the_region_is_found_once_and_kept_by_the_keys_hash() {
    let machine = regions("us");
    let mut outcome = machine.run(["status", "--json"]);
    assert_eq!(outcome.json()["profiles"][0]["variable"], "QWENAUTH_API_KEY");
    assert!(machine.server.requests().is_empty(), "status asks nobody");
    for _ in 0..2 {
        let mut outcome = machine.run(["env", "--format", "json"]);
        assert_eq!(outcome.json()["OPENAI_BASE_URL"], "{server}/us/v1");
    }
    let asked: Vec<String> = machine.server.requests().iter().map(|request| request.place().to_owned()).collect();
    assert_eq!(asked, ["/intl/v1/models", "/cn/v1/models", "/hk/v1/models", "/us/v1/models"]);
    let kept = machine.home().join(".local/state/qwenauth/regions");
    let kept: Vec<_> = fs::read_dir(kept).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(crate::machine::mode(&kept[0]), 0o600);
    assert_eq!(fs::read_to_string(&kept[0]).unwrap(), "us");
    assert_eq!(machine.profile("dashscope"), Value::Null);
    let machine = machine.variable("QWENAUTH_API_KEY", "granted-another");
    drop(machine.run(["token"]).exits(4).any_stderr());
}

#[test]
fn the_region_of_a_key_that_is_long_gone_is_forgotten() {
    let machine = regions("us");
    let directory = machine.home().join(".local/state/qwenauth/regions");
    let [old, known] = ["old", "known"].map(|name| directory.join(name));
    fs::create_dir_all(&directory).unwrap();
    for (path, days) in [(&old, 41), (&known, 39)] {
        fs::write(path, "cn").unwrap();
        aged(path, days * 86400);
    }
    drop(machine.run(["token"]).any_stdout());
    assert!(!old.exists() && known.exists());
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
}

#[test]
fn a_region_that_cannot_be_found_is_an_error_and_not_guessed() {
    let machine = regions("none");
    let outcome = machine.run(["token"]).exits(4).any_stderr();
    assert!(
        outcome.stderr.contains("rejected the key in `QWENAUTH_API_KEY` in regions intl, cn, hk, us: "),
        "{outcome}"
    );
    let machine = refuses(sandbox_of("dashscope"), "/intl/v1/models");
    for region in ["cn", "us", "hk"] {
        machine.server.serve(&format!("/{region}/v1/models"), |_| Reply::html(503));
    }
    let outcome = machine.run(["token"]).exits(3).any_stderr();
    assert!(outcome.stderr.contains("hint: set `QWENAUTH_REGION`, or retry later\n"), "{outcome}");
    assert!(!machine.home().join(".local/state/qwenauth/regions").exists());
}

#[test]
fn a_login_while_the_variable_is_set_is_stored_and_reported_as_not_used() {
    let machine = given();
    let outcome = machine.run_with_stdin(by_stdin("fireworks", &["--no-verify"]), KEY.as_bytes()).any_stderr();
    assert!(
        outcome.stderr.ends_with("qwenauth: the key in `QWENAUTH_API_KEY` is still used in this shell\n"),
        "{outcome}"
    );
    machine.run(["token"]).stdout("granted-given-key\n");
}

#[test]
fn a_logout_names_the_variable_and_removes_what_is_named() {
    let machine = given();
    let said = "qwenauth: the key in `QWENAUTH_API_KEY` is used in this shell until you `unset QWENAUTH_API_KEY`\n";
    machine.run(["logout"]).exits(0).stderr(said);
    assert_eq!(machine.profile("groq")["api_key"], KEY);
    let mut outcome = machine.run(["logout", "--json"]).stderr(said);
    assert_eq!(outcome.json()["removed"], false);
    drop(machine.run(["logout", "--profile", "groq"]).any_stderr());
    assert_eq!(machine.profile("groq"), Value::Null);
}

#[test]
fn a_setup_warns_that_the_tool_needs_the_variable_too() {
    let outcome = given().run(["setup", "opencode", "--print"]).any_stderr().any_stdout();
    assert!(outcome.stderr.contains("`qwenauth login groq --api-key-env QWENAUTH_API_KEY` stores it\n"), "{outcome}");
}

#[test]
fn the_line_that_stores_a_key_of_the_environment_stores_it_as_it_is_used() {
    for is_file in [false, true] {
        let mut machine = own_server(sandbox_of("custom"));
        let mut begin = "; `qwenauth login custom --base-url ";
        if is_file {
            let key = machine.directory().join("a key");
            write_private(&key, GIVEN);
            machine = machine.without_variable("QWENAUTH_API_KEY").variable("QWENAUTH_API_KEY_FILE", key);
            begin = "; `cat '{machine}/a key' | qwenauth login custom --base-url ";
        }
        let outcome = machine.run(["setup", "opencode", "--print", "--model", "m"]).any_stderr().any_stdout();
        let line = outcome.stderr.split('`').find(|line| line.contains("qwenauth login")).unwrap().to_owned();
        assert!(outcome.stderr.contains(begin), "{outcome}");
        let line =
            line.replace("{server}", &machine.server.url()).replace("{machine}", machine.directory().to_str().unwrap());
        drop(machine.shell(&line.replace("qwenauth login", "$QWENAUTH login")).exits(0).any_stderr());
        assert_eq!(machine.profile("custom")["api_key"], GIVEN);
    }
}

#[test]
fn an_empty_variable_is_not_set() {
    let machine = given().variable("QWENAUTH_API_KEY", "");
    machine.run(["token"]).stdout("granted-key-1\n");
}

/// A server of the user that knows the given key.
fn own_server(machine: Machine) -> Machine {
    let machine =
        answers(machine, "/own/v1/models", |request| if request.bearer() == GIVEN { models() } else { refusal() });
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    let url = format!("{}/own/v1", machine.server.url());
    machine.variable("QWENAUTH_BASE_URL", url)
}

#[test]
fn doctor_checks_the_key_of_the_environment_and_its_server() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key");
    fs::write(&key, GIVEN).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let by_provider = own_server(sandbox_of("custom"));
    let by_profile =
        own_server(sandbox_of("custom")).without_variable("QWENAUTH_PROVIDER").variable("QWENAUTH_PROFILE", "custom");
    let in_file =
        own_server(sandbox_of("custom")).without_variable("QWENAUTH_API_KEY").variable("QWENAUTH_API_KEY_FILE", &key);
    for (machine, variable) in
        [(by_provider, "QWENAUTH_API_KEY"), (by_profile, "QWENAUTH_API_KEY"), (in_file, "QWENAUTH_API_KEY_FILE")]
    {
        let doctor = machine.run(["doctor"]).exits(0).any_stdout();
        for line in [
            "ok    config       profile `custom` is active\n",
            &format!("ok    login        `custom` has the API key …, from `{variable}`\n"),
            &format!("ok    variables    the key in `{variable}` is used; no profile is stored\n"),
            "ok    API          accepts the login of `custom`\n",
        ] {
            assert!(doctor.stdout.contains(line), "{line}{doctor}");
        }
        assert!(!doctor.stdout.contains("`qwen`"), "{doctor}");
    }
    let rejected = own_server(sandbox_of("custom")).variable("QWENAUTH_API_KEY", "granted-another");
    let doctor = rejected.run(["doctor"]).exits(1).any_stdout();
    assert!(doctor.stdout.contains("fail  API          rejects the login of `custom`"), "{doctor}");
    let remedy = "→ replace the key in `QWENAUTH_API_KEY`, or `unset QWENAUTH_API_KEY`\n";
    assert!(doctor.stdout.contains(remedy), "{doctor}");
    let rejected = regions("intl").variable("QWENAUTH_REGION", "us");
    rejected.server.serve("/", |_| Reply::text(404, "{}"));
    let doctor = rejected.run(["doctor"]).exits(1).any_stdout();
    assert!(doctor.stdout.contains("or `unset QWENAUTH_API_KEY`; `QWENAUTH_REGION` selects its region\n"), "{doctor}");
}

#[test]
fn doctor_reports_a_key_of_the_environment_that_cannot_be_used_and_no_login_beside_it() {
    let doctor = machine().variable("QWENAUTH_API_KEY", GIVEN).run(["doctor"]).exits(1).any_stdout();
    let said = "fail  variables    `QWENAUTH_API_KEY` is set, but the provider of the key is not named\n";
    assert!(doctor.stdout.contains(said), "{doctor}");
    assert_eq!(doctor.stdout.matches("fail ").count(), 1, "{doctor}");
}

#[test]
fn doctor_reports_stored_profiles_beside_the_key_of_the_environment() {
    let machine = given();
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    machine.server.serve("/groq/v1/models", |request| if request.bearer() == GIVEN { models() } else { refusal() });
    let doctor = machine.run(["doctor"]).exits(0).any_stdout();
    for line in [", stored ", ", from `QWENAUTH_API_KEY`\n", "warn  variables    the key in `QWENAUTH_API_KEY` is used"]
    {
        assert_eq!(doctor.stdout.matches(line).count(), 1, "{line}: {doctor}");
    }
    let mut profiles = machine.run(["profiles", "--json"]);
    assert_eq!(profiles.json()["profiles"][0]["active"], false, "as `status` says");
}

#[test]
fn a_check_of_the_key_asks_the_region_that_knows_it() {
    let machine = regions("us");
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    let mut status = machine.run(["status", "--check", "--json"]).exits(0);
    assert_eq!(status.json()["profiles"][0]["checked"], "accepted");
    let machine = regions("none");
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    let doctor = machine.run(["doctor"]).exits(1).any_stdout();
    assert!(doctor.stdout.contains("rejected the key in `QWENAUTH_API_KEY` in regions intl, cn, hk, us: "), "{doctor}");
}

#[test]
fn what_is_not_used_for_the_key_of_the_environment_is_neither_named_nor_in_its_way() {
    let machine = Machine::new().variable("QWENAUTH_API_KEY", GIVEN).variable("QWENAUTH_PROVIDER", "groq");
    drop(machine.run_with_stdin(by_stdin("coding-plan", &["--no-verify"]), KEY.as_bytes()).any_stderr());
    machine.run(["exec", "--as", "claude", "--", "true"]).fails(
        1,
        "Claude Code cannot work with profile `groq`: it needs an Anthropic endpoint, which Groq does not have",
        "profile `coding-plan` can: `unset QWENAUTH_API_KEY`, then `qwenauth exec --as claude --profile coding-plan -- true`",
    );
    let fallback = "[fallback]\nprofiles = [\"qwen\"]\n[fallback.models.m]\nqwen = \"coder-model\"\n";
    let machine = machine.logged_in().configured(fallback);
    let outcome = machine.run(["exec", "--gateway", "--", "true"]).exits(0).any_stderr();
    assert!(outcome.stderr.contains("fallback to `qwen`"), "{outcome}");
    let machine = machine.variable("QWENAUTH_PROVIDER", "dashscope");
    let listed = machine.run(["__complete", "--", "exec", "--model", ""]).any_stdout();
    assert!(listed.stdout.contains("\nqwen3.8-"), "{listed}");
}

#[test]
fn a_service_is_not_installed_with_a_key_that_it_would_not_have() {
    let machine = own_server(sandbox_of("custom"));
    let login = "qwenauth login custom --base-url {server}/own/v1";
    let refused = |machine: &Machine, variable: &str, line: &str| {
        machine.run(["gateway", "--install"]).fails(
            2,
            &format!("a service cannot use `{variable}`, because it runs without this shell's variables"),
            &format!("store the key with `{line}`, then unset the variable"),
        );
    };
    refused(&machine, "QWENAUTH_API_KEY", &format!("{login} --api-key-env QWENAUTH_API_KEY"));
    let key = machine.directory().join("key");
    fs::write(&key, GIVEN).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let machine = machine.without_variable("QWENAUTH_API_KEY").variable("QWENAUTH_API_KEY_FILE", &key);
    refused(&machine, "QWENAUTH_API_KEY_FILE", &format!("cat {{machine}}/key | {login} --api-key-stdin"));
}

#[test]
fn a_provider_of_config_toml_whose_name_has_capital_letters_takes_a_key() {
    let machine = machine().configured("[providers.MyCorp]\nbase_url = \"{server}/v1\"\n");
    let machine = machine.variable("QWENAUTH_API_KEY", GIVEN).variable("QWENAUTH_PROVIDER", "MyCorp");
    let mut outcome = machine.run(["token", "--format", "json"]);
    let token = outcome.json();
    assert_eq!((&token["access_token"], &token["profile"]), (&json!(GIVEN), &json!("mycorp")));
    let outcome = machine.run(["setup", "opencode", "--print", "--model", "m"]).any_stderr().any_stdout();
    assert!(outcome.stderr.contains("`qwenauth login MyCorp --profile mycorp --api-key-env"), "{outcome}");
}
