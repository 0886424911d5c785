//! A login that was copied from another machine is noticed.

use serde_json::json;

use crate::machine::{Machine, credential, now_ms, possible, write_private};
use crate::server::Reply;

const WARNING: &str = "qwenauth: warning: the login of `corp` was copied from another machine, and the copy and the original log each other out; run `qwenauth login corp`\n";

/// A login of the provider `corp`, written on this machine or on another.
fn login(maker: Option<&str>, seconds: i64) -> Machine {
    let config = "[providers.corp]\nclient_id = \"f0304373b74a44d2b584a3fb70ca9e56\"\n\
                  device_authorization_endpoint = \"{server}/device\"\ntoken_endpoint = \"{server}/api/v1/oauth2/token\"\n\
                  base_url = \"{server}/v1\"\ndefault_model = \"m\"\n";
    let machine = Machine::new().configured(config);
    let mut login = credential("1");
    login["provider"] = json!("corp");
    login["expiry_date"] = json!(now_ms() + seconds * 1000);
    login.as_object_mut().unwrap().remove("resource_url");
    if let Some(maker) = maker {
        login["machine"] = json!(maker);
    }
    write_private(&machine.profiles().join("corp.json"), login.to_string());
    machine
}

fn has_machine_id() -> bool {
    possible(
        std::fs::read_to_string("/etc/machine-id").is_ok_and(|id| !id.trim().is_empty()),
        "tell itself from others",
    )
}

#[test]
fn a_login_copied_from_another_machine_is_warned_about_until_it_is_renewed_here() {
    if !has_machine_id() {
        return;
    }
    let machine = login(Some("00112233445566778899aabbccddeeff"), 3600);
    machine.run(["token", "--profile", "corp"]).stdout("granted-access-1\n").stderr(WARNING);
    let machine = machine.refresh(Reply::tokens("2"));
    drop(machine.run(["refresh", "--profile", "corp"]).any_stderr());
    machine.run(["token", "--profile", "corp"]).stdout("granted-access-2\n");
    let maker = machine.whole_profile("corp")["machine"].as_str().unwrap().to_owned();
    let id = std::fs::read_to_string("/etc/machine-id").unwrap();
    assert!(maker.len() == 32 && !id.contains(&maker), "a hash, no name: {maker}");
}

#[test]
fn a_login_without_a_machine_id_is_not_warned_about() {
    let machine = login(None, 3600);
    machine.run(["token", "--profile", "corp"]).stdout("granted-access-1\n");
}

#[test]
fn a_copied_key_causes_no_warning() {
    let machine = Machine::new();
    let url = format!("{}/v1", machine.server.url());
    let key = json!({"provider": "custom", "api_key": "granted-key-1", "base_url": url, "machine": "00"});
    write_private(&machine.profiles().join("custom.json"), key.to_string());
    machine.run(["token", "--profile", "custom"]).stdout("granted-key-1\n");
}

#[test]
fn qwen_codes_file_is_not_changed() {
    let machine = Machine::expired().refresh(Reply::tokens("2"));
    machine.run(["token"]).stdout("granted-access-2\n");
    assert_eq!(machine.credential().get("machine"), None);
}
