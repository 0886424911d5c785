//! Profiles: which one is in force, several accounts, and config.toml, which names one.

use std::fs;

use serde_json::{Value, json};

use crate::login::polls;
use crate::machine::{Machine, credential, write_private};
use crate::server::{Ask, Reply, tokens};

fn key_of(machine: Machine, profile: &str) -> Machine {
    let stored = json!({
        "provider": "groq",
        "api_key": format!("granted-key-of-{profile}"),
        "base_url": "https://api.groq.com/openai/v1",
    });
    write_private(&machine.profiles().join(format!("{profile}.json")), stored.to_string());
    machine
}

fn both() -> Machine {
    key_of(key_of(Machine::new().logged_in(), "home"), "work")
}

#[test]
fn the_option_goes_before_the_variable_before_the_config_before_qwen() {
    let machine = both();
    machine.run(["token"]).stdout("granted-access-1\n");
    let machine = machine.configured("profile = \"home\"\n");
    machine.run(["token"]).stdout("granted-key-of-home\n");
    let machine = machine.variable("QWENAUTH_PROFILE", "work");
    machine.run(["token"]).stdout("granted-key-of-work\n");
    machine.run(["token", "--profile", "home"]).stdout("granted-key-of-home\n");
    machine.run(["token", "--profile", "qwen"]).stdout("granted-access-1\n");
}

/// The link stays, for the next login.
#[test]
fn a_credential_that_is_a_symlink_counts_as_stored_until_it_is_logged_out() {
    let machine = key_of(Machine::new(), "work").configured("profile = \"work\"\n");
    let (link, target) = (machine.profiles().join("work.json"), machine.directory().join("work.json"));
    fs::rename(&link, &target).unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    machine.run(["profiles"]).stdout("  PROFILE  PROVIDER  CREDENTIAL\n* work     groq      API key …\n");
    let outcome = machine.run(["logout"]).exits(0).any_stderr();
    assert!(!target.exists() && !outcome.stderr.contains("still the active profile"), "{outcome}");
    machine.run(["logout", "--all"]).exits(0).stderr("qwenauth: already logged out: there is no stored profile\n");
    machine.run(["status", "--all"]).exits(4).stdout("no stored profile; log in with `qwenauth login`\n");
    machine.run(["status"]).exits(4).any_stdout();
    fs::remove_file(link).unwrap();
}

#[test]
fn use_makes_a_profile_active_and_keeps_the_rest_of_the_config() {
    let machine =
        both().configured("# mine\nprofile = \"home\" # now\n\n[providers.x]\nbase_url = \"https://x.example\"\n");
    machine.run(["use", "work"]).stderr("qwenauth: switched from `home` to `work`\n");
    machine.run(["token"]).stdout("granted-key-of-work\n");
    let config = fs::read_to_string(machine.config()).unwrap();
    assert!(
        config.starts_with("# mine\nprofile = \"work\" # now\n")
            && config.ends_with("base_url = \"https://x.example\"\n"),
        "{config}"
    );
    machine.run(["use", "work"]).stderr("qwenauth: `work` is already active\n");
}

#[test]
fn use_of_an_unknown_profile_names_the_nearest() {
    both().run(["use", "wrok"]).fails(4, "there is no stored profile `wrok`", "did you mean `work`?");
    let machine =
        Machine::new().configured("[providers.corp]\nbase_url = \"https://corp.example/v1\"\nkey_file = \"/k\"\n");
    machine.run(["use", "crop"]).fails(4, "there is no stored profile `crop`", "did you mean `corp`?");
    both().run(["use", "groq"]).fails(4, "there is no stored profile `groq`", "run `qwenauth login groq`");
}

#[test]
fn every_command_names_the_profile_that_was_meant() {
    let machine = both();
    for command in [&["token"][..], &["env"], &["refresh"], &["usage"], &["setup", "opencode"], &["login", "--resume"]]
    {
        let outcome = machine.run([command, &["--profile", "wrok"]].concat());
        let outcome = outcome.exits(4).any_stdout().any_stderr();
        assert!(outcome.stderr.ends_with("qwenauth: hint: did you mean `work`?\n"), "{command:?}: {outcome}");
    }
    let outcome = machine.run(["status", "--profile", "wrok"]).exits(4).any_stdout();
    assert!(outcome.stdout.contains("not logged in; did you mean `work`?\n"), "{outcome}");
    machine
        .run(["logout", "--profile", "wrok"])
        .exits(0)
        .stderr("qwenauth: there is no stored profile `wrok`; did you mean `work`?\n");
    // Nobody is meant who is unlike, and what names a provider is no mistake.
    machine.run(["logout", "--profile", "other"]).exits(0).stderr("qwenauth: already logged out of `other`\n");
    machine.run(["logout", "--profile", "groq"]).exits(0).stderr("qwenauth: already logged out of `groq`\n");
}

#[test]
fn a_profile_name_cannot_leave_its_directory() {
    for name in ["../x", "a/b", ".hidden", "A", "", "x\n"] {
        drop(Machine::new().run(["login", "groq", "--no-verify", "--profile", name]).exits(2).any_stderr());
        drop(Machine::new().run(["use", name]).exits(2).any_stderr());
        if !name.is_empty() {
            drop(Machine::new().variable("QWENAUTH_PROFILE", name).run(["token"]).exits(2).any_stderr());
            let config = format!("profile = {name:?}\n");
            drop(Machine::new().configured(&config).run(["token"]).exits(1).any_stderr());
        }
    }
}

#[test]
fn the_profile_qwen_belongs_to_qwen() {
    Machine::new().run(["login", "groq", "--profile", "qwen"]).fails(
        2,
        "the profile `qwen` belongs to the provider `qwen`, not to `groq`",
        "omit `--profile`, or choose another name",
    );
}

#[test]
fn a_second_qwen_account_has_a_file_of_its_own() {
    let machine = polls([Reply::json(200, tokens("2"))]).credential_is(credential("1"));
    drop(machine.run(["login", "qwen", "--profile", "work", "--no-verify"]).any_stderr());
    assert_eq!(machine.credential()["access_token"], "granted-access-1");
    assert_eq!(machine.profile("work")["access_token"], "granted-access-2");
    assert_eq!(machine.profile("work")["provider"], "qwen");
    machine.run(["token"]).stdout("granted-access-2\n");
    let mut expired = machine.profile("work");
    expired["expiry_date"] = json!(1);
    write_private(&machine.profiles().join("work.json"), expired.to_string());
    machine.server.script(Ask::Refresh, Reply::tokens("3"));
    machine.run(["token"]).stdout("granted-access-3\n");
    assert!(!machine.qwen_code_lock().exists());
    assert_eq!(machine.profile("work")["provider"], "qwen");
}

#[test]
fn a_login_without_a_provider_renews_the_named_profile() {
    let machine = key_of(Machine::new(), "work");
    machine
        .run(["login", "--profile", "work"])
        .stderr("qwenauth: already logged in to Groq as profile `work`; `--force` logs in again\n");
    machine.run(["token"]).stdout("granted-key-of-work\n");
}

#[test]
fn login_qwen_finds_the_login_of_qwen_code_and_makes_it_active() {
    let machine = both().configured("profile = \"home\"\n");
    machine.run(["login", "qwen"]).stderr(
        "qwenauth: already logged in to Qwen OAuth as profile `qwen`, the login Qwen Code uses too; `--force` logs in again\n\
         qwenauth: the active profile was `home`; `qwenauth use home` switches back to it\n",
    );
}

/// A login is never lost to a config that cannot be written.
#[test]
fn a_login_that_cannot_be_made_active_is_stored_and_says_how_to_use_it() {
    let machine = Machine::new().configured("# mine\n").unprivileged();
    let directory = machine.config().parent().unwrap().to_owned();
    fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o500)).unwrap();
    let arguments = ["login", "groq", "--api-key-stdin", "--no-verify"];
    let outcome = machine.run_with_stdin(arguments, b"granted-key").exits(0).any_stderr();
    assert!(
        outcome.stderr.contains("qwenauth: warning: the login is stored, but its profile cannot be made active: "),
        "{outcome}"
    );
    assert!(outcome.stderr.ends_with("qwenauth: use it with `--profile groq`\n"), "{outcome}");
    machine.run(["token", "--profile", "groq"]).stdout("granted-key\n");
    fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
}

#[test]
fn a_login_says_what_still_selects_another_profile() {
    let machine = both().configured("[directories]\n\"/\" = \"home\"\n");
    let arguments = ["login", "groq", "--api-key-stdin", "--no-verify"];
    let outcome = machine.run_with_stdin(arguments, b"granted-key").any_stderr();
    assert!(
        outcome.stderr.ends_with(
            "qwenauth: logged in to Groq, not verified, profile `groq`\n\
             qwenauth: the active profile was `qwen`; `qwenauth use qwen` switches back to it\n\
             qwenauth: `[directories]` of config.toml still selects `home` below `/`\n"
        ),
        "{outcome}"
    );
    machine.run(["use", "work"]).stderr(
        "qwenauth: switched from `groq` to `work`\n\
         qwenauth: `[directories]` of config.toml still selects `home` below `/`\n",
    );
    let machine = machine.variable("QWENAUTH_PROFILE", "qwen");
    let outcome = machine.run_with_stdin(arguments, b"granted-key-2").any_stderr();
    assert!(outcome.stderr.ends_with("qwenauth: `QWENAUTH_PROFILE` still selects `qwen` in this shell\n"), "{outcome}");
}

#[test]
fn profiles_lists_what_is_stored_and_no_secret() {
    let machine = both().configured("profile = \"work\"\n");
    let outcome = machine.run(["profiles", "--json"]).any_stdout();
    let listed: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let rows: Vec<_> = listed["profiles"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            (
                row["profile"].as_str().unwrap(),
                row["provider"].as_str().unwrap(),
                row["kind"].as_str().unwrap(),
                row["active"] == true,
            )
        })
        .collect();
    assert_eq!(
        rows,
        [("qwen", "qwen", "oauth", false), ("home", "groq", "api_key", false), ("work", "groq", "api_key", true)]
    );
    machine.run(["profiles"]).stdout(
        "  PROFILE  PROVIDER  CREDENTIAL\n  qwen     qwen      access token\n  home     groq      API key …\n* work     groq      API key …\n",
    );
    Machine::new().run(["profiles"]).stdout("no stored profile; log in with `qwenauth login`\n");
    let in_russian = Machine::new().variable("QWENAUTH_LANG", "ru");
    in_russian.run(["profiles"]).stdout("нет сохранённых профилей; войдите через `qwenauth login`\n");
}

#[test]
fn status_of_all_shows_what_is_wrong_with_each() {
    let machine = both();
    write_private(&machine.profiles().join("broken.json"), "{\"api_key\":\"grant");
    write_private(
        &machine.profiles().join("lost.json"),
        r#"{"provider":"gone","api_key":"granted-1","base_url":"https://gone.example"}"#,
    );
    let outcome = machine.run(["status", "--all", "--json"]).exits(4).any_stdout();
    let status: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let states: Vec<_> = status["profiles"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            (
                row["profile"].as_str().unwrap(),
                row["state"].as_str().unwrap(),
                row["problems"].as_array().unwrap().len(),
            )
        })
        .collect();
    assert_eq!(
        states,
        [
            ("qwen", "valid", 0),
            ("broken", "damaged", 1),
            ("home", "valid", 0),
            ("lost", "valid", 1),
            ("work", "valid", 0)
        ]
    );
    assert!(outcome.stdout.contains("unknown provider `gone`"), "{}", outcome.stdout);
}

#[test]
fn logout_of_all_removes_every_profile() {
    let machine = both();
    drop(machine.run(["logout", "--all"]).any_stderr());
    machine.run(["profiles"]).stdout("no stored profile; log in with `qwenauth login`\n");
}

#[test]
fn two_commands_that_edit_the_config_at_once_lose_nothing() {
    let machine = (0..8).fold(Machine::new(), |machine, number| key_of(machine, &format!("p{number}")));
    let machine = machine.configured("# kept\n[providers.x]\nbase_url = \"https://x.example\"\n");
    let running: Vec<_> = (0..8).map(|number| machine.spawn(["use", &format!("p{number}")])).collect();
    for run in running {
        drop(run.finish().any_stderr());
    }
    let config = fs::read_to_string(machine.config()).unwrap();
    assert!(config.contains("# kept\n") && config.contains("[providers.x]"), "{config}");
    assert_eq!(config.matches("profile =").count(), 1, "{config}");
}

#[test]
fn unknown_keys_under_a_provider_name_the_nearest() {
    Machine::new()
        .logged_in()
        .configured("[providers.corp]\nisuer = \"https://x.example\"\n[providers.qwen.limits]\nrequests_per_minut = 3\n[providers.dashscope.regions.cn]\nbase_ulr = \"x\"\n")
        .run(["token"])
        .stdout("granted-access-1\n")
        .stderr(
            "qwenauth: unknown key `isuer` under `[providers.corp]` in `{home}/.config/qwenauth/config.toml`; did you mean `issuer`?\n\
             qwenauth: unknown key `base_ulr` under `[providers.dashscope.regions.cn]` in `{home}/.config/qwenauth/config.toml`; did you mean `base_url`?\n\
             qwenauth: unknown key `requests_per_minut` under `[providers.qwen.limits]` in `{home}/.config/qwenauth/config.toml`; did you mean `requests_per_minute`?\n",
        );
}

#[test]
fn the_example_of_a_config_is_understood() {
    let example = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/config.example.toml")).unwrap();
    let machine = Machine::new().configured(&example);
    for provider in ["qwen", "openrouter", "desk", "corp", "plain", "huggingface", "custom", "company"] {
        drop(machine.run(["providers", provider, "--json"]).any_stdout());
    }
    let outcome = machine.run(["providers", "openrouter"]).any_stdout();
    assert!(outcome.stdout.contains("qwen/qwen3.8-27b:free, 262144 tokens of context (default)"), "{}", outcome.stdout);
}

/// A program tells by it whether it knows the document.
#[test]
fn every_document_says_its_schema() {
    let machine = Machine::new().logged_in().field("resource_url", json!("{server}"));
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    machine.server.serve("/v1/chat/completions", |_| Reply::json(200, json!({"choices": []})));
    for command in ["profiles", "providers", "setup", "status", "usage", "doctor"] {
        assert_eq!(machine.run([command, "--json"]).json()["schema"], 1, "{command}");
    }
}

#[test]
fn a_profile_in_the_config_that_is_no_name_is_in_the_way_of_what_needs_it_alone() {
    for (line, before) in [("\"Bad\"", "Bad"), ("7", "7")] {
        let machine = both().configured(&format!("# mine\nprofile = {line} # now\n"));
        let outcome = machine.run(["token"]).exits(1).any_stderr();
        assert!(outcome.stderr.ends_with("hint: run `qwenauth use NAME` with a stored profile\n"), "{outcome}");
        machine.run(["token", "--profile", "work"]).stdout("granted-key-of-work\n");
        machine.run(["use", "qwen"]).stderr(&format!("qwenauth: switched from `{before}` to `qwen`\n"));
        assert_eq!(fs::read_to_string(machine.config()).unwrap(), "# mine\nprofile = \"qwen\" # now\n");
    }
}
