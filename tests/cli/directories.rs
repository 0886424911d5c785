//! `[directories]` of the user's own config.toml: the profile of the longest path above the working directory.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::run::Outcome;
use crate::sandbox::{Sandbox, write_private};

/// Stored profiles `home`, `work` and `acme`, and directories below the home directory.
fn sandbox(rules: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    for profile in ["home", "work", "acme"] {
        let stored = json!({
            "provider": "groq",
            "api_key": format!("granted-{profile}"),
            "base_url": "https://api.groq.com/openai/v1",
        });
        write_private(&sandbox.profiles().join(format!("{profile}.json")), stored.to_string());
    }
    for directory in ["work/acme/src/deep", "workshop", "Work"] {
        fs::create_dir_all(sandbox.home().join(directory)).unwrap();
    }
    let home = sandbox.home().display().to_string();
    sandbox.configured(&format!("profile = \"home\"\n[directories]\n{}", rules.replace("{home}", &home)))
}

const RULES: &str = "\"~/work\" = \"work\"\n\"{home}/work/acme/\" = \"acme\"\n";

fn in_directory(sandbox: &Sandbox, directory: &Path, arguments: &[&str]) -> Outcome {
    let mut command = sandbox.command(arguments);
    command.current_dir(directory);
    sandbox.start(command).finish()
}

#[test]
fn the_longest_path_above_the_working_directory_selects_the_profile() {
    let sandbox = sandbox(RULES);
    for (directory, profile) in [
        ("", "home"),
        ("work", "work"),
        ("work/acme", "acme"),
        ("work/acme/src/deep", "acme"),
        ("workshop", "home"),
        ("Work", "home"),
    ] {
        let directory = sandbox.home().join(directory);
        in_directory(&sandbox, &directory, &["token"]).stdout(&format!("granted-{profile}\n"));
        let mut outcome = in_directory(&sandbox, &directory, &["status", "--json"]);
        assert_eq!(outcome.json()["profiles"][0]["profile"], profile);
        let mut outcome = in_directory(&sandbox, &directory, &["env", "--format", "json"]);
        assert_eq!(outcome.json()["OPENAI_API_KEY"], format!("granted-{profile}"));
        in_directory(&sandbox, &directory, &["exec", "--", "sh", "-c", "echo $OPENAI_API_KEY"])
            .stdout(&format!("granted-{profile}\n"));
    }
}

#[test]
fn option_and_variable_go_before_a_rule() {
    let sandbox = sandbox(RULES);
    let directory = sandbox.home().join("work");
    in_directory(&sandbox, &directory, &["token", "--profile", "home"]).stdout("granted-home\n");
    let sandbox = sandbox.variable("QWENAUTH_PROFILE", "acme");
    in_directory(&sandbox, &directory, &["token"]).stdout("granted-acme\n");
}

#[test]
fn a_symlink_is_the_directory_it_leads_to() {
    let sandbox = sandbox("\"~/link\" = \"work\"\n");
    symlink(sandbox.home().join("workshop"), sandbox.home().join("link")).unwrap();
    for directory in ["link", "workshop"] {
        in_directory(&sandbox, &sandbox.home().join(directory), &["token"]).stdout("granted-work\n");
    }
    in_directory(&sandbox, &sandbox.home().join("work"), &["token"]).stdout("granted-home\n");
}

#[test]
fn a_rule_for_a_profile_that_is_not_stored_ends_every_command_that_needs_a_credential() {
    let sandbox = sandbox("\"~/work\" = \"gone\"\n");
    let directory = sandbox.home().join("work");
    let message = "`[directories]` of config.toml selects profile `gone` below `~/work`, which is not stored";
    for arguments in [&["token"][..], &["refresh"], &["exec", "--", "true"], &["setup", "opencode", "--print"]] {
        in_directory(&sandbox, &directory, arguments).fails(4, message, "run `qwenauth login PROVIDER --profile gone`");
    }
    let mut outcome = in_directory(&sandbox, &directory, &["status", "--json"]).exits(4);
    assert_eq!(outcome.json()["profiles"][0]["problems"], json!([message]));
    // Elsewhere it is no obstacle, and a login there is what ends it.
    in_directory(&sandbox, &sandbox.home(), &["token"]).stdout("granted-home\n");
    let login = ["login", "groq", "--profile", "gone", "--api-key-env", "KEY", "--no-verify"];
    let sandbox = sandbox.variable("KEY", "granted-gone");
    drop(in_directory(&sandbox, &directory, &login).any_stderr());
    in_directory(&sandbox, &directory, &["token"]).stdout("granted-gone\n");
}

#[test]
fn nothing_in_a_working_directory_selects_anything() {
    let sandbox = sandbox("");
    let directory = sandbox.home().join("work");
    for file in ["config.toml", ".qwenauth.toml", "qwenauth.toml", ".qwenauth/config.toml", ".env", ".qwenauth-profile"]
    {
        let file = directory.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "profile = \"work\"\nQWENAUTH_PROFILE=work\n").unwrap();
    }
    in_directory(&sandbox, &directory, &["token"]).stdout("granted-home\n");
}

#[test]
fn a_rule_that_means_nothing_everywhere_is_an_error() {
    for (rules, error) in [
        ("\"work\" = \"work\"\n", "`work` is not an absolute path"),
        ("\"./work\" = \"work\"\n", "`./work` is not an absolute path"),
        ("\"~other/work\" = \"work\"\n", "`~other/work` is not an absolute path"),
        ("\"~/work\" = 3\n", "the profile of `~/work` must be a string"),
        ("\"~/work\" = \"../x\"\n", "`../x` cannot be the name of a profile"),
    ] {
        let outcome = sandbox(rules).run(["token"]).any_stderr();
        assert!(matches!(outcome.code(), Some(1 | 2)), "{outcome}");
        let expected = format!("error: `directories` in `{{home}}/.config/qwenauth/config.toml`: {error}\n");
        assert!(outcome.stderr.contains(&expected), "{outcome}");
        let code = outcome.code().unwrap();
        drop(outcome.exits(code));
    }
}

#[test]
fn a_removed_working_directory_has_no_rule() {
    let sandbox = sandbox(RULES);
    let directory = sandbox.home().join("work/gone");
    fs::create_dir(&directory).unwrap();
    let script = format!("cd {d} && rmdir {d} && exec $QWENAUTH token", d = directory.display());
    sandbox.shell(&script).stdout("granted-home\n");
}

#[test]
fn use_of_another_profile_keeps_the_rules() {
    let sandbox = sandbox("\"~/work\" = \"work\" # mine\n");
    drop(sandbox.run(["use", "acme"]).any_stderr());
    let config = fs::read_to_string(sandbox.config()).unwrap();
    assert!(config.ends_with("[directories]\n\"~/work\" = \"work\" # mine\n"), "{config}");
    let table: toml::Table = toml::from_str(&config).unwrap();
    assert_eq!(table["profile"].as_str(), Some("acme"));
    assert_eq!(sandbox.profile("none"), Value::Null);
}
