//! Help: topics beside the commands, and what users of other tools type first.

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
    ] {
        let outcome = Machine::new().run(words).exits(2).any_stderr().stderr.clone();
        let word = words[usize::from(words[0] == "keys")];
        let expected = format!("qwenauth: error: unrecognized subcommand `{word}`\nqwenauth: hint: {hint}\n");
        assert_eq!(outcome, expected);
    }
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
