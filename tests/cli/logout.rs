//! `logout`: the credential goes, and only the credential.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::sandbox::{Sandbox, write_private};

#[test]
fn logout_removes_the_credential_and_leaves_qwen_codes_settings() {
    let sandbox = Sandbox::new().logged_in();
    fs::write(sandbox.qwen().join("settings.json"), "{}").unwrap();
    sandbox.run(["logout"]).stderr("qwenauth: logged out of `qwen`\n");
    assert_eq!(sandbox.beside(), [".oauth_creds.qwenauth-lock", "settings.json"]);
}

#[test]
fn logout_without_a_login_says_so_and_makes_nothing() {
    let sandbox = Sandbox::new();
    sandbox.run(["logout"]).exits(0).stderr("qwenauth: already logged out of `qwen`\n");
    assert!(!sandbox.qwen().exists());
}

#[test]
fn logout_tells_a_script() {
    let sandbox = Sandbox::new().logged_in();
    let mut outcome = sandbox.run(["logout", "--json"]).any_stderr();
    assert_eq!(outcome.json(), json!({"profile": "qwen", "removed": true, "revoked": false}));
}

#[test]
fn logout_local_asks_nobody() {
    let sandbox = Sandbox::new().logged_in();
    drop(sandbox.run(["logout", "--local"]).any_stderr());
    assert!(!sandbox.file().exists());
}

#[test]
fn logout_removes_a_damaged_credential_too() {
    let sandbox = Sandbox::new().file_is("{");
    drop(sandbox.run(["logout"]).any_stderr());
    assert!(!sandbox.file().exists());
}

#[test]
fn logout_through_a_symlink_removes_the_secret_itself() {
    let sandbox = Sandbox::new().logged_in();
    let elsewhere = sandbox.home().join("qwen.json");
    fs::rename(sandbox.file(), &elsewhere).unwrap();
    symlink(&elsewhere, sandbox.file()).unwrap();
    drop(sandbox.run(["logout"]).any_stderr());
    assert!(!elsewhere.exists());
}

#[test]
fn logout_of_all_needs_no_terminal() {
    let sandbox = Sandbox::new().logged_in();
    drop(sandbox.run(["logout", "--all"]).any_stderr());
    assert!(!sandbox.file().exists());
}

/// What goes on asking for the login is named with what ends that.
#[test]
fn what_is_still_set_up_to_use_the_profile_is_named() {
    let sandbox = Sandbox::new().logged_in().field("resource_url", json!("portal.qwen.ai"));
    write_private(&sandbox.profiles().join("work.json"), r#"{"provider": "dashscope", "api_key": "sk-1"}"#);
    drop(sandbox.run(["setup", "codex"]).any_stderr());
    drop(sandbox.run(["setup", "opencode", "--profile", "work"]).any_stderr());
    let told = sandbox.run(["logout", "--local"]).any_stderr().stderr.clone();
    let expected = "qwenauth: logged out of `qwen`\n\
                    qwenauth: Codex is still set up to use `qwen`; `qwenauth setup codex --remove` undoes it\n\
                    qwenauth: `qwen` is still the active profile; `qwenauth use work` chooses another\n";
    assert_eq!(told, expected);
    let again = sandbox.run(["logout", "--local"]).any_stderr().stderr.clone();
    assert_eq!(again, "qwenauth: already logged out of `qwen`\n");
}
