//! A login that was copied from another machine is noticed.

use serde_json::json;

use crate::sandbox::{Sandbox, credential, now_ms, possible, write_private};
use crate::server::Reply;

const WARNING: &str = "qwenauth: warning: the login of `corp` was made on another machine, and the copy and the original log each other out; run `qwenauth login corp`\n";

/// A login of the provider `corp`, written on this machine or on another.
fn login(machine: Option<&str>, seconds: i64) -> Sandbox {
    let config = "[providers.corp]\nclient_id = \"f0304373b74a44d2b584a3fb70ca9e56\"\n\
                  device_authorization_endpoint = \"{server}/device\"\ntoken_endpoint = \"{server}/api/v1/oauth2/token\"\n\
                  base_url = \"{server}/v1\"\ndefault_model = \"m\"\n";
    let sandbox = Sandbox::new().configured(config);
    let mut login = credential("1");
    login["provider"] = json!("corp");
    login["expiry_date"] = json!(now_ms() + seconds * 1000);
    login.as_object_mut().unwrap().remove("resource_url");
    if let Some(machine) = machine {
        login["machine"] = json!(machine);
    }
    write_private(&sandbox.profiles().join("corp.json"), login.to_string());
    sandbox
}

fn has_machine_id() -> bool {
    possible(
        std::fs::read_to_string("/etc/machine-id").is_ok_and(|id| !id.trim().is_empty()),
        "tell itself from others",
    )
}

#[test]
fn a_login_of_another_machine_is_warned_of_until_it_is_renewed_here() {
    if !has_machine_id() {
        return;
    }
    let sandbox = login(Some("00112233445566778899aabbccddeeff"), 3600);
    sandbox.run(["token", "--profile", "corp"]).stdout("granted-access-1\n").stderr(WARNING);
    let sandbox = sandbox.refresh(Reply::tokens("2"));
    drop(sandbox.run(["refresh", "--profile", "corp"]).any_stderr());
    sandbox.run(["token", "--profile", "corp"]).stdout("granted-access-2\n");
    let machine = sandbox.whole_profile("corp")["machine"].as_str().unwrap().to_owned();
    let id = std::fs::read_to_string("/etc/machine-id").unwrap();
    assert!(machine.len() == 32 && !id.contains(&machine), "a hash, no name: {machine}");
}

#[test]
fn a_login_that_says_nothing_is_not_warned_of() {
    let sandbox = login(None, 3600);
    sandbox.run(["token", "--profile", "corp"]).stdout("granted-access-1\n");
}

#[test]
fn a_copied_key_is_no_harm() {
    let sandbox = Sandbox::new();
    let url = format!("{}/v1", sandbox.server.url());
    let key = json!({"provider": "custom", "api_key": "granted-key-1", "base_url": url, "machine": "00"});
    write_private(&sandbox.profiles().join("custom.json"), key.to_string());
    sandbox.run(["token", "--profile", "custom"]).stdout("granted-key-1\n");
}

#[test]
fn qwen_codes_file_is_left_as_it_is() {
    let sandbox = Sandbox::expired().refresh(Reply::tokens("2"));
    sandbox.run(["token"]).stdout("granted-access-2\n");
    assert_eq!(sandbox.credential().get("machine"), None);
}
