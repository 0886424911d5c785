//! `completions/` and `man/` say what the command line says.
#![expect(clippy::disallowed_methods, reason = "tests lay out their own files and look at CI")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

const SHELLS: [(&str, &str); 6] = [
    ("bash", "qwenauth.bash"),
    ("zsh", "_qwenauth"),
    ("fish", "qwenauth.fish"),
    ("powershell", "_qwenauth.ps1"),
    ("elvish", "qwenauth.elv"),
    ("nushell", "qwenauth.nu"),
];

fn committed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn qwenauth(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_qwenauth")).args(arguments).env_clear().output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    output.stdout
}

fn files_in(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect()
}

/// Equal, or a message that names the files and the remedy, not their contents.
fn assert_same(made: &BTreeMap<String, Vec<u8>>, directory: &str) {
    let kept = files_in(&committed(directory));
    let names = made.keys().chain(kept.keys());
    let different: Vec<_> = names.filter(|name| made.get(*name) != kept.get(*name)).collect();
    assert!(different.is_empty(), "{directory}/ is not what the command line says: {different:?}; run `just generate`");
}

#[test]
fn committed_completions_are_what_the_command_line_says() {
    let made = SHELLS.map(|(shell, file)| (file.to_owned(), qwenauth(&["completions", shell])));
    assert_same(&made.into(), "completions");
}

#[test]
fn committed_manual_pages_are_what_the_command_line_says() {
    let directory = TempDir::new().unwrap();
    let made = directory.path().join("made/man");
    qwenauth(&["man", made.to_str().unwrap()]);
    assert_same(&files_in(&made), "man");
}

#[test]
fn every_command_has_a_manual_page_with_examples_and_references() {
    let commands = |arguments: &[&str]| -> Vec<String> {
        let help = String::from_utf8(qwenauth(arguments)).unwrap();
        let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        let named = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        let names = named.map(|line| line.split_whitespace().next().unwrap().to_owned());
        names.filter(|command| command != "help").collect()
    };
    let mut pages: Vec<String> = commands(&["--help"]).iter().map(|command| format!("qwenauth-{command}.1")).collect();
    pages.extend(commands(&["keys", "--help"]).iter().map(|command| format!("qwenauth-keys-{command}.1")));
    pages.push("qwenauth.1".to_owned());
    pages.sort();
    let kept = files_in(&committed("man"));
    assert_eq!(kept.keys().collect::<Vec<_>>(), pages.iter().collect::<Vec<_>>());
    for (name, page) in &kept {
        let page = std::str::from_utf8(page).unwrap();
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES", "\"SEE ALSO\""] {
            assert_eq!(page.matches(&format!(".SH {section}\n")).count(), 1, "{name}: {section}");
        }
    }
}

#[test]
fn the_main_page_has_the_environment_the_exit_codes_and_the_files() {
    let page = fs::read_to_string(committed("man/qwenauth.1")).unwrap();
    for entry in [
        ".SH ENVIRONMENT\n.TP\n\\fBQWENAUTH_PROFILE\\fR\n",
        ".TP\n\\fBNO_COLOR, CLICOLOR_FORCE\\fR\n",
        ".SH \"EXIT STATUS\"\n.TP\n\\fB0\\fR\ndone\n",
        ".SH FILES\n.TP\n\\fB$QWEN_HOME/oauth_creds.json\\fR\n",
    ] {
        assert!(page.contains(entry), "{entry}");
    }
}

#[test]
fn hidden_commands_are_not_completed() {
    for (shell, file) in SHELLS.into_iter().filter(|(shell, _)| !["bash", "zsh", "fish"].contains(shell)) {
        let script = String::from_utf8(qwenauth(&["completions", shell])).unwrap();
        assert!(!script.contains("manual pages"), "{file}");
        assert!(script.contains("preserve-env"), "{file}");
    }
    let commands = String::from_utf8(qwenauth(&["__complete", "--", ""])).unwrap();
    let names: Vec<&str> = commands.lines().filter_map(|line| line.split('\t').next()).collect();
    assert!(names.contains(&"exec") && !names.contains(&"man") && !names.contains(&"__complete"), "{commands}");
    let options = String::from_utf8(qwenauth(&["__complete", "--", "exec", "--p"])).unwrap();
    assert!(options.contains("--preserve-env\t"), "{options}");
}

/// In the middle of a line an error would be typed into it.
#[test]
fn completion_never_fails_with_an_error() {
    let home = TempDir::new().unwrap();
    let config = home.path().join(".config/qwenauth");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("config.toml"), "profile = \n").unwrap();
    for (named, some) in [("use", false), ("providers", false), ("setup", true)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qwenauth"));
        let output = command.args(["__complete", named, ""]).env_clear().env("HOME", home.path()).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{named}: {output:?}");
        assert_eq!(output.stdout != b"values\n", some, "{named}: {output:?}");
    }
}
