//! `logout`: the credential goes, and only the credential.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::machine::{Machine, write_private};

#[test]
fn logout_removes_the_credential_and_leaves_qwen_codes_settings() {
    let machine = Machine::new().logged_in();
    fs::write(machine.qwen().join("settings.json"), "{}").unwrap();
    machine.run(["logout"]).stderr("qwenauth: logged out of `qwen`\n");
    assert_eq!(machine.beside(), [".oauth_creds.qwenauth-lock", "settings.json"]);
}

#[test]
fn logout_without_a_login_says_so_and_makes_nothing() {
    let machine = Machine::new();
    machine.run(["logout"]).exits(0).stderr("qwenauth: already logged out of `qwen`\n");
    assert!(!machine.qwen().exists());
}

#[test]
fn logout_prints_json_for_a_script() {
    let machine = Machine::new().logged_in();
    let mut outcome = machine.run(["logout", "--json"]).any_stderr();
    assert_eq!(outcome.json(), json!({"profile": "qwen", "removed": true, "revoked": false}));
}

#[test]
fn logout_local_sends_no_request() {
    let machine = Machine::new().logged_in();
    drop(machine.run(["logout", "--local"]).any_stderr());
    assert!(!machine.file().exists());
}

#[test]
fn logout_removes_a_damaged_credential_too() {
    let machine = Machine::new().file_is("{");
    drop(machine.run(["logout"]).any_stderr());
    assert!(!machine.file().exists());
}

#[test]
fn logout_through_a_symlink_removes_the_secret_itself() {
    let machine = Machine::new().logged_in();
    let elsewhere = machine.home().join("qwen.json");
    fs::rename(machine.file(), &elsewhere).unwrap();
    symlink(&elsewhere, machine.file()).unwrap();
    drop(machine.run(["logout"]).any_stderr());
    assert!(!elsewhere.exists());
}

#[test]
fn logout_of_all_needs_no_terminal() {
    let machine = Machine::new().logged_in();
    drop(machine.run(["logout", "--all"]).any_stderr());
    assert!(!machine.file().exists());
}

/// What goes on asking for the login is named with what ends that.
#[test]
fn what_is_still_set_up_to_use_the_profile_is_named() {
    let machine = Machine::new().logged_in().field("resource_url", json!("portal.qwen.ai"));
    write_private(&machine.profiles().join("work.json"), r#"{"provider": "dashscope", "api_key": "sk-1"}"#);
    drop(machine.run(["setup", "codex"]).any_stderr());
    drop(machine.run(["setup", "opencode", "--profile", "work"]).any_stderr());
    let told = machine.run(["logout", "--local"]).any_stderr().stderr.clone();
    let expected = "qwenauth: logged out of `qwen`\n\
                    qwenauth: Codex is still set up to use `qwen`; `qwenauth setup codex --remove` undoes it\n\
                    qwenauth: `qwen` is still the active profile; `qwenauth use work` chooses another\n";
    assert_eq!(told, expected);
    let again = machine.run(["logout", "--local"]).any_stderr().stderr.clone();
    assert_eq!(again, "qwenauth: already logged out of `qwen`\n");
}

/// `--profile` and `QWENAUTH_PROFILE` name a profile for one command or shell.
#[test]
fn a_profile_that_config_toml_does_not_name_is_not_said_to_be_active() {
    let machine = Machine::new().configured("profile = \"three\"\n");
    for name in ["one", "two", "three", "four"] {
        write_private(&machine.profiles().join(format!("{name}.json")), r#"{"provider": "vllm", "api_key": "no-key"}"#);
    }
    machine.run(["logout", "--profile", "one"]).stderr("qwenauth: logged out of `one`\n");
    let machine = machine.variable("QWENAUTH_PROFILE", "two");
    machine.run(["logout"]).stderr("qwenauth: logged out of `two`\n");
    machine.run(["logout", "--profile", "three"]).stderr(
        "qwenauth: logged out of `three`\n\
         qwenauth: `three` is still the active profile; `qwenauth use four` chooses another\n",
    );
}

#[test]
fn logout_prints_json_where_nothing_is_stored_and_names_a_variable_that_holds_a_key() {
    let mut outcome = Machine::new().run(["logout", "--all", "--json"]).exits(0).any_stderr();
    assert_eq!(outcome.json(), json!({"profile": null, "removed": false, "revoked": false}));
    let machine = Machine::new().logged_in().variable("QWENAUTH_API_KEY", "granted-key");
    let mut outcome = machine.run(["logout", "--profile", "qwen", "--json"]).exits(0).any_stderr();
    let expected = json!({"profile": "qwen", "removed": true, "revoked": false, "variable": "QWENAUTH_API_KEY"});
    assert_eq!(outcome.json(), expected);
}
