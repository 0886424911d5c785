//! `[directories]` of the user's own config.toml: the profile of the longest path above the working directory.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::machine::{Machine, write_private};
use crate::run::Outcome;

/// Stored profiles `home`, `work` and `acme`, and directories below the home directory.
fn machine(rules: &str) -> Machine {
    let machine = Machine::new();
    for profile in ["home", "work", "acme"] {
        let stored = json!({
            "provider": "groq",
            "api_key": format!("granted-{profile}"),
            "base_url": "https://api.groq.com/openai/v1",
        });
        write_private(&machine.profiles().join(format!("{profile}.json")), stored.to_string());
    }
    for directory in ["work/acme/src/deep", "workshop", "Work"] {
        fs::create_dir_all(machine.home().join(directory)).unwrap();
    }
    let home = machine.home().display().to_string();
    machine.configured(&format!("profile = \"home\"\n[directories]\n{}", rules.replace("{home}", &home)))
}

const RULES: &str = "\"~/work\" = \"work\"\n\"{home}/work/acme/\" = \"acme\"\n";

fn in_directory(machine: &Machine, directory: &Path, arguments: &[&str]) -> Outcome {
    let mut command = machine.command(arguments);
    command.current_dir(directory);
    machine.start(command).finish()
}

#[test]
fn the_longest_path_above_the_working_directory_selects_the_profile() {
    let machine = machine(RULES);
    for (directory, profile) in [
        ("", "home"),
        ("work", "work"),
        ("work/acme", "acme"),
        ("work/acme/src/deep", "acme"),
        ("workshop", "home"),
        ("Work", "home"),
    ] {
        let directory = machine.home().join(directory);
        in_directory(&machine, &directory, &["token"]).stdout(&format!("granted-{profile}\n"));
        let mut outcome = in_directory(&machine, &directory, &["status", "--json"]);
        assert_eq!(outcome.json()["profiles"][0]["profile"], profile);
        let mut outcome = in_directory(&machine, &directory, &["env", "--format", "json"]);
        assert_eq!(outcome.json()["OPENAI_API_KEY"], format!("granted-{profile}"));
        in_directory(&machine, &directory, &["exec", "--", "sh", "-c", "echo $OPENAI_API_KEY"])
            .stdout(&format!("granted-{profile}\n"));
    }
}

#[test]
fn option_and_variable_go_before_a_rule() {
    let machine = machine(RULES);
    let directory = machine.home().join("work");
    in_directory(&machine, &directory, &["token", "--profile", "home"]).stdout("granted-home\n");
    let machine = machine.variable("QWENAUTH_PROFILE", "acme");
    in_directory(&machine, &directory, &["token"]).stdout("granted-acme\n");
}

#[test]
fn a_symlink_counts_as_the_directory_it_points_to() {
    let machine = machine("\"~/link\" = \"work\"\n");
    symlink(machine.home().join("workshop"), machine.home().join("link")).unwrap();
    for directory in ["link", "workshop"] {
        in_directory(&machine, &machine.home().join(directory), &["token"]).stdout("granted-work\n");
    }
    in_directory(&machine, &machine.home().join("work"), &["token"]).stdout("granted-home\n");
}

#[test]
fn a_rule_for_a_profile_that_is_not_stored_ends_every_command_that_needs_a_credential() {
    let machine = machine("\"~/work\" = \"gone\"\n");
    let directory = machine.home().join("work");
    let message = "`[directories]` of config.toml selects profile `gone` below `~/work`, which is not stored";
    for arguments in [&["token"][..], &["refresh"], &["exec", "--", "true"], &["setup", "opencode", "--print"]] {
        in_directory(&machine, &directory, arguments).fails(4, message, "run `qwenauth login PROVIDER --profile gone`");
    }
    let mut outcome = in_directory(&machine, &directory, &["status", "--json"]).exits(4);
    assert_eq!(outcome.json()["profiles"][0]["problems"], json!([message]));
    // Elsewhere it is no obstacle, and a login there is what ends it.
    in_directory(&machine, &machine.home(), &["token"]).stdout("granted-home\n");
    let login = ["login", "groq", "--profile", "gone", "--api-key-env", "KEY", "--no-verify"];
    let machine = machine.variable("KEY", "granted-gone");
    drop(in_directory(&machine, &directory, &login).any_stderr());
    in_directory(&machine, &directory, &["token"]).stdout("granted-gone\n");
}

#[test]
fn no_file_in_the_working_directory_selects_a_profile() {
    let machine = machine("");
    let directory = machine.home().join("work");
    for file in ["config.toml", ".qwenauth.toml", "qwenauth.toml", ".qwenauth/config.toml", ".env", ".qwenauth-profile"]
    {
        let file = directory.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "profile = \"work\"\nQWENAUTH_PROFILE=work\n").unwrap();
    }
    in_directory(&machine, &directory, &["token"]).stdout("granted-home\n");
}

#[test]
fn an_invalid_rule_is_an_error_in_every_directory() {
    for (rules, error) in [
        ("\"work\" = \"work\"\n", "`work` is not an absolute path"),
        ("\"./work\" = \"work\"\n", "`./work` is not an absolute path"),
        ("\"~other/work\" = \"work\"\n", "`~other/work` is not an absolute path"),
        ("\"~/work\" = 3\n", "the profile of `~/work` must be a string"),
        ("\"~/work\" = \"../x\"\n", "invalid profile name `../x`"),
    ] {
        let outcome = machine(rules).run(["token"]).any_stderr();
        assert!(matches!(outcome.code(), Some(1 | 2)), "{outcome}");
        let expected = format!("error: `directories` in `{{home}}/.config/qwenauth/config.toml`: {error}\n");
        assert!(outcome.stderr.contains(&expected), "{outcome}");
        let code = outcome.code().unwrap();
        drop(outcome.exits(code));
    }
}

#[test]
fn no_rule_applies_in_a_removed_working_directory() {
    let machine = machine(RULES);
    let directory = machine.home().join("work/gone");
    fs::create_dir(&directory).unwrap();
    let script = format!("cd {d} && rmdir {d} && exec $QWENAUTH token", d = directory.display());
    machine.shell(&script).stdout("granted-home\n");
}

#[test]
fn use_of_another_profile_keeps_the_rules() {
    let machine = machine("\"~/work\" = \"work\" # mine\n");
    drop(machine.run(["use", "acme"]).any_stderr());
    let config = fs::read_to_string(machine.config()).unwrap();
    assert!(config.ends_with("[directories]\n\"~/work\" = \"work\" # mine\n"), "{config}");
    let table: toml::Table = toml::from_str(&config).unwrap();
    assert_eq!(table["profile"].as_str(), Some("acme"));
    assert_eq!(machine.profile("none"), Value::Null);
}
