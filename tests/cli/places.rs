//! Where files are looked for, and which hosts a credential may be sent to.

use std::fs;
use std::os::unix::process::CommandExt;

use serde_json::json;

use crate::machine::Machine;

#[track_caller]
fn path_of(machine: &Machine) -> String {
    let mut outcome = machine.run(["status", "--json"]).exits(4);
    outcome.json()["profiles"][0]["path"].as_str().unwrap().to_owned()
}

#[test]
fn the_credential_is_stored_where_qwen_code_stores_it() {
    assert_eq!(path_of(&Machine::new()), "{home}/.qwen/oauth_creds.json");
}

#[test]
fn qwen_home_moves_the_credential() {
    let machine = Machine::new();
    let directory = machine.directory().join("elsewhere");
    assert_eq!(path_of(&machine.variable("QWEN_HOME", directory)), "{machine}/elsewhere/oauth_creds.json");
}

#[test]
fn a_tilde_in_qwen_home_is_expanded() {
    assert_eq!(path_of(&Machine::new().variable("QWEN_HOME", "~")), "{home}/oauth_creds.json");
    assert_eq!(path_of(&Machine::new().variable("QWEN_HOME", "~/q")), "{home}/q/oauth_creds.json");
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let machine =
        Machine::new().variable("QWEN_HOME", "").variable("QWENAUTH_HOME", "").variable("QWENAUTH_PROFILE", "");
    assert_eq!(path_of(&machine), "{home}/.qwen/oauth_creds.json");
}

#[test]
fn qwenauth_home_does_not_move_the_file_shared_with_qwen_code() {
    let machine = Machine::new();
    let directory = machine.directory().join("own");
    assert_eq!(path_of(&machine.variable("QWENAUTH_HOME", directory)), "{home}/.qwen/oauth_creds.json");
}

#[test]
fn without_home_the_passwd_entry_is_used() {
    let machine = Machine::new().without_variable("HOME");
    let state = machine.directory().join("own");
    let machine = machine.variable("QWENAUTH_HOME", state);
    let outcome = machine.run(["status", "--json"]).any_stdout().any_stderr();
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap();
    let path = user.dir.join(".qwen/oauth_creds.json").display().to_string();
    // In the status, or in the error where that directory cannot be read.
    assert!(outcome.stdout.contains(&path) || outcome.stderr.contains(&path), "{outcome}");
    let code = outcome.code().unwrap();
    drop(outcome.exits(code));
}

#[test]
fn without_home_and_passwd_entry_nothing_is_guessed() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can run as a user who is not in passwd");
        return;
    }
    let machine = Machine::new().unprivileged().without_variable("HOME");
    let mut command = machine.command(["token"]);
    command.uid(54321).gid(54321);
    machine.start(command).finish().fails(
        1,
        "there is no home directory: `HOME` is not set and the user has no passwd entry",
        "set `HOME`, or both `QWENAUTH_HOME` and `QWEN_HOME`",
    );
}

#[test]
fn config_is_read_from_the_xdg_directory() {
    let machine = Machine::new();
    let xdg = machine.directory().join("xdg");
    fs::create_dir_all(xdg.join("qwenauth")).unwrap();
    fs::write(xdg.join("qwenauth/config.toml"), "profil = \"qwen\"\n").unwrap();
    let machine = machine.logged_in().variable("XDG_CONFIG_HOME", xdg);
    machine
        .run(["token"])
        .stdout("granted-access-1\n")
        .stderr("qwenauth: unknown key `profil` in `{machine}/xdg/qwenauth/config.toml`; did you mean `profile`?\n");
}

#[test]
fn a_relative_xdg_directory_is_ignored() {
    let machine = Machine::new();
    fs::create_dir_all(machine.directory().join("xdg/qwenauth")).unwrap();
    fs::write(machine.directory().join("xdg/qwenauth/config.toml"), "not toml").unwrap();
    machine.logged_in().variable("XDG_CONFIG_HOME", "xdg").run(["token"]).stdout("granted-access-1\n");
}

#[test]
fn config_and_state_are_below_qwenauth_home() {
    let machine = Machine::new();
    let own = machine.directory().join("own");
    fs::create_dir_all(own.join("config")).unwrap();
    fs::write(own.join("config/config.toml"), "profil = \"qwen\"\n").unwrap();
    let machine = machine.logged_in().variable("QWENAUTH_HOME", own);
    machine
        .run(["token"])
        .stdout("granted-access-1\n")
        .stderr("qwenauth: unknown key `profil` in `{machine}/own/config/config.toml`; did you mean `profile`?\n");
}

#[test]
fn a_config_that_does_not_parse_names_line_and_column() {
    let machine = Machine::new().logged_in();
    let config = machine.home().join(".config/qwenauth");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("config.toml"), "profile = \"qwen\"\n[providers\n").unwrap();
    machine.run(["token"]).fails(
        1,
        "`{home}/.config/qwenauth/config.toml`, line 2, column 11: unclosed table, expected `]`",
        "fix that line, or move the file away",
    );
}

#[track_caller]
fn base_url(resource_url: &str) -> String {
    let machine = Machine::new().logged_in().field("resource_url", json!(resource_url));
    let mut outcome = machine.run(["token", "--format", "json"]);
    outcome.json()["base_url"].as_str().unwrap().to_owned()
}

#[test]
fn a_resource_url_becomes_a_base_url() {
    for (resource_url, expected) in [
        ("portal.qwen.ai", "https://portal.qwen.ai/v1"),
        ("portal.qwen.ai/", "https://portal.qwen.ai/v1"),
        ("portal.qwen.ai/v1", "https://portal.qwen.ai/v1"),
        ("https://portal.qwen.ai", "https://portal.qwen.ai/v1"),
        ("https://portal.qwen.ai/v1", "https://portal.qwen.ai/v1"),
        ("https://portal.qwen.ai/v1///", "https://portal.qwen.ai/v1"),
        ("HTTPS://Portal.Qwen.AI", "https://portal.qwen.ai/v1"),
        ("qwen.ai", "https://qwen.ai/v1"),
        ("portal.qwen.ai:8443", "https://portal.qwen.ai:8443/v1"),
        ("dashscope.aliyuncs.com/compatible-mode", "https://dashscope.aliyuncs.com/compatible-mode/v1"),
        ("https://dashscope.aliyuncs.com/compatible-mode/v1/", "https://dashscope.aliyuncs.com/compatible-mode/v1"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
        ("http://localhost:8080/v1", "http://localhost:8080/v1"),
        ("http://[::1]:8080", "http://[::1]:8080/v1"),
    ] {
        assert_eq!(base_url(resource_url), expected, "{resource_url}");
    }
}

#[test]
fn without_a_resource_url_the_portal_is_used() {
    for absent in [json!(null), json!("")] {
        let mut outcome = Machine::new().logged_in().field("resource_url", absent).run(["token", "--format", "json"]);
        assert_eq!(outcome.json()["base_url"], "https://portal.qwen.ai/v1");
    }
}

#[test]
fn a_credential_is_not_sent_or_printed_for_a_foreign_host() {
    for resource_url in [
        "attacker.example",
        "https://qwen.ai.attacker.example",
        "https://notqwen.ai",
        "https://portal.qwen.ai@attacker.example",
        "https://user@portal.qwen.ai",
        "https://user:password@portal.qwen.ai",
        "https://attacker.example\\.qwen.ai",
        "https://attacker.example#.qwen.ai",
        "https://attacker.example?.qwen.ai",
        "http://portal.qwen.ai",
        "http://192.0.2.1",
        "http://127.0.0.1.attacker.example",
        "ftp://portal.qwen.ai",
        "file:///etc/passwd",
        "https://",
        "not a host",
    ] {
        let machine = Machine::new().logged_in().field("resource_url", json!(resource_url));
        for command in [&["token"][..], &["token", "--format", "json"], &["env"], &["exec", "--", "echo", "started"]] {
            let outcome = machine.run(command).exits(1).any_stderr();
            let stdout = if command == ["env"] { "(exit 1);\n" } else { "" };
            let outcome = outcome.stdout(stdout);
            assert_eq!(outcome.stderr.matches("qwenauth: error:").count(), 1, "{outcome}");
        }
    }
}

#[test]
fn an_api_on_loopback_needs_a_token_endpoint_on_loopback() {
    let machine = Machine::new().logged_in().without_variable("QWENAUTH_QWEN_OAUTH_URL");
    machine.run(["token"]).fails(
        1,
        "the login's `resource_url` names `127.0.0.1`, which is not a host of Qwen OAuth",
        "if you trust it, add `resource_hosts = [\"127.0.0.1\"]` under `[providers.qwen]` in config.toml",
    );
    // The hint leads on.
    let machine = machine.configured("[providers.qwen]\nresource_hosts = [\"127.0.0.1\"]\n");
    machine.run(["token"]).stdout("granted-access-1\n");
}

#[test]
fn a_host_named_in_config_is_allowed() {
    let machine = Machine::new().logged_in().field("resource_url", json!("https://qwen.example.com"));
    drop(machine.run(["token"]).exits(1).any_stderr());
    let config = machine.home().join(".config/qwenauth");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("config.toml"), "[providers.qwen]\nresource_hosts = [\"qwen.example.com\"]\n").unwrap();
    machine.run(["token"]).stdout("granted-access-1\n");
}
