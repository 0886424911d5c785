//! Help: topics beside the commands, and what users of other tools type first.

use std::fs;
use std::path::{Path, PathBuf};

use crate::machine::Machine;

#[test]
fn help_topics_can_be_printed_alone() {
    let whole = Machine::new().run(["--help"]).any_stdout().stdout.clone();
    for (topic, first) in [("environment", "Environment:\n"), ("exit-codes", "Exit codes:\n")] {
        let shown = Machine::new().run(["help", topic]).any_stdout().stdout.clone();
        assert!(shown.starts_with(first), "{shown}");
        assert!(whole.contains(shown.trim_end()), "{topic} is part of `--help`");
    }
}

/// Variables that a system, a session or a terminal sets, or qwenauth for its children, and nobody for qwenauth.
const SET_BY_OTHERS: [&str; 12] = [
    "DBUS_SESSION_BUS_ADDRESS",
    "GITLAB_CI",
    "MSYSTEM",
    "PATH",
    "QWENAUTH_ACCESS_TOKEN",
    "QWENAUTH_KEY_COMMAND_OF",
    "QWENAUTH_ZED_API_KEY",
    "REQUEST_METHOD",
    "SHELL",
    "TERM",
    "XDG_RUNTIME_DIR",
    "ZDOTDIR",
];

#[test]
fn the_topic_on_the_environment_has_every_variable_that_the_source_reads() {
    let topic = Machine::new().run(["help", "environment"]).any_stdout().stdout.clone();
    let listed: Vec<&str> =
        topic.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_')).collect();
    let mut count = 0;
    for file in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let calls = ["variable(\"", "variable_or_empty(\"", "\"QWENAUTH_", "\"XDG_"];
        for (call, rest) in calls.iter().flat_map(|call| code.split(call).skip(1).map(move |rest| (call, rest))) {
            let prefix = call.rsplit_once('"').unwrap().1;
            let Some((name, _)) = rest.split_once('"') else { continue };
            let name = format!("{prefix}{name}");
            let is_name = name.chars().all(|character| character.is_ascii_uppercase() || character == '_');
            if !is_name
                || name.ends_with('_')
                || name.starts_with("QWENAUTH_BUILD_")
                || SET_BY_OTHERS.contains(&name.as_str())
            {
                continue;
            }
            assert!(listed.contains(&name.as_str()), "{}: {name}", file.display());
            count += 1;
        }
    }
    assert!(count > 30, "{count}");
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .collect()
}

#[test]
fn help_and_version_that_cannot_be_written_are_an_error() {
    for arguments in ["--help", "-h", "--version", "--version -v", "help", "help login", "help environment", "login -h"]
    {
        Machine::new().shell(&format!("exec $QWENAUTH {arguments} > /dev/full")).fails(
            1,
            "cannot write to stdout: No space left on device (os error 28)",
            "free space on that disk, then retry",
        );
    }
}

#[test]
fn commands_of_other_tools_get_a_hint() {
    for (words, hint) in [
        (&["whoami"][..], "run `qwenauth status`"),
        (&["run", "--", "opencode"], "run `qwenauth exec -- COMMAND`"),
        (&["list"], "run `qwenauth profiles`, or `qwenauth providers` to see what you can log in to"),
        (&["switch", "work"], "run `qwenauth use NAME`"),
        (&["auth", "login"], "run it without `auth`: `qwenauth login`, `qwenauth status`, `qwenauth token`"),
        (&["models"], "run `qwenauth providers NAME`: it lists the models of one provider"),
        (&["opencode"], "run `qwenauth exec -- opencode`, or `qwenauth setup` to configure it permanently"),
        (&["keys", "delete", "ann"], "run `qwenauth keys revoke NAME`"),
        (&["keys", "add", "ann"], "run `qwenauth keys create NAME`"),
        (&["keys", "ls"], "run `qwenauth keys list`"),
        (&["keys", "revok"], "did you mean `revoke`?"),
        (&["version"], "run `qwenauth --version`"),
    ] {
        let outcome = Machine::new().run(words).exits(2).any_stderr().stderr.clone();
        let word = words[usize::from(words[0] == "keys")];
        let expected = format!("qwenauth: error: unrecognized subcommand `{word}`\nqwenauth: hint: {hint}\n");
        assert_eq!(outcome, expected);
    }
}

#[test]
fn what_is_no_topic_of_help_names_those_that_are() {
    Machine::new().run(["help", "topics"]).fails(
        2,
        "unrecognized subcommand `topics`",
        "`qwenauth help` lists the commands; there are also `qwenauth help environment`, `qwenauth help exit-codes`",
    );
    let shown = Machine::new().run(["-h"]).any_stdout().stdout.clone();
    assert!(shown.ends_with("\nMore: `qwenauth help environment`, `qwenauth help exit-codes`.\n"), "{shown}");
}

#[test]
fn a_mistyped_command_gets_the_nearest_as_a_hint() {
    let outcome = Machine::new().run(["lgoin"]).exits(2).any_stderr().stderr.clone();
    assert!(outcome.contains("`login`"), "{outcome}");
}

#[test]
fn the_long_version_says_how_it_was_built() {
    let plain = format!("qwenauth {}\n", env!("CARGO_PKG_VERSION"));
    Machine::new().run(["--version"]).stdout(&plain);
    for option in ["-v", "--verbose"] {
        let told = Machine::new().run(["--version", option]).any_stdout().stdout.clone();
        let rest = told.strip_prefix(&plain).expect("the version comes first");
        let names: Vec<&str> = rest.lines().map(|line| line.split_once(": ").expect("a name and a value").0).collect();
        assert_eq!(names, ["profile", "target", "features"], "{told}");
        assert!(rest.contains("profile: debug\n") != cfg!(not(debug_assertions)), "{told}");
    }
}

#[test]
fn a_mistyped_topic_gets_the_nearest_as_a_hint() {
    for (typed, topic) in [("exit-code", "exit-codes"), ("enviroment", "environment"), ("lgoin", "login")] {
        let outcome = Machine::new().run(["help", typed]).exits(2).any_stderr().stderr.clone();
        assert!(outcome.ends_with(&format!("qwenauth: hint: did you mean `{topic}`?\n")), "{outcome}");
    }
    let outcome = Machine::new().run(["exit-code"]).exits(2).any_stderr().stderr.clone();
    assert!(!outcome.contains("exit-codes"), "it is no command: {outcome}");
}

/// A command that uses no profile does not say that it takes one, and bears it.
#[test]
fn commands_without_a_profile_do_not_accept_profile() {
    let machine = Machine::new();
    let keys = ["create", "list", "set", "rotate", "reset", "revoke", "secret"].map(|command| vec!["keys", command]);
    let others = ["use", "providers", "profiles", "sandbox", "completions", "keys"].map(|command| vec![command]);
    for mut command in others.into_iter().chain(keys) {
        command.push("--help");
        let help = machine.run(&command).any_stdout();
        assert!(!help.stdout.contains("--profile "), "{command:?}: {help}");
    }
    assert!(machine.run(["status", "--help"]).any_stdout().stdout.contains("--profile <NAME>"));
    drop(machine.run(["completions", "bash", "--profile", "work"]).any_stdout());
}
