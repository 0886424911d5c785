//! `exec`: the program becomes the child, as if it had been started directly, with the credential in its environment.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::machine::Machine;
use crate::run::Outcome;
use crate::server::Reply;

const REPLACED: &str = "qwenauth: replaced for `env`: OPENAI_API_KEY, OPENAI_ORG_ID\n";

#[test]
fn the_group_is_set_for_the_child() {
    let machine = Machine::new().logged_in();
    machine.shell("$QWENAUTH exec -- env | grep -i openai | sort").stdout(
        "OPENAI_API_BASE={server}/v1\n\
         OPENAI_API_KEY=granted-access-1\n\
         OPENAI_BASE_URL={server}/v1\n\
         OPENAI_MODEL=coder-model\n",
    );
}

#[test]
fn other_variables_are_unchanged() {
    let machine = Machine::new().logged_in().variable("A", "b").variable("EMPTY", "");
    let without = "grep -v -e ^OPENAI_ -e ^_= -e ^SHLVL= | sort";
    let direct = machine.shell(&format!("env | {without}")).any_stdout();
    machine.shell(&format!("$QWENAUTH exec -- env | {without}")).stdout(&direct.stdout);
}

#[test]
fn other_values_are_replaced_as_one_group_with_one_line() {
    let machine = Machine::new().logged_in().variable("OPENAI_API_KEY", "sk-own").variable("OPENAI_ORG_ID", "org-own");
    machine.shell("$QWENAUTH exec -- env | grep -i openai | sort").stderr(REPLACED).stdout(
        "OPENAI_API_BASE={server}/v1\n\
         OPENAI_API_KEY=granted-access-1\n\
         OPENAI_BASE_URL={server}/v1\n\
         OPENAI_MODEL=coder-model\n",
    );
}

#[test]
fn preserve_env_leaves_a_group_that_is_set_alone() {
    for name in ["OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE"] {
        let machine = Machine::new().logged_in().variable(name, "own");
        let left = format!("{name}=own\n");
        machine.shell("$QWENAUTH exec --preserve-env -- env | grep -i openai").stdout(&left);
        machine
            .shell("$QWENAUTH exec -v --preserve-env -- env | grep -i openai")
            .stdout(&left)
            .stderr("qwenauth: keeping the key and base URL that are already set (`--preserve-env`)\n");
    }
    let machine = Machine::new().logged_in().variable("OPENAI_MODEL", "own");
    let outcome = machine.shell("$QWENAUTH exec --preserve-env -- env | grep API_KEY").any_stderr();
    outcome.stdout("OPENAI_API_KEY=granted-access-1\n");
}

#[test]
fn model_names_the_model() {
    let machine = Machine::new().logged_in();
    machine.run(["exec", "--model", "vision-model", "--", "sh", "-c", "echo $OPENAI_MODEL"]).stdout("vision-model\n");
}

#[test]
fn the_child_has_the_same_process_id() {
    let machine = Machine::new().logged_in();
    let running = machine.spawn(["exec", "--", "sh", "-c", "echo $$"]);
    let id = running.id();
    running.finish().stdout(&format!("{id}\n"));
}

#[test]
fn the_exit_code_is_the_childs_own() {
    let machine = Machine::new().logged_in();
    for code in [0, 1, 2, 3, 4, 5, 77, 255] {
        machine.run(["exec", "--", "sh", "-c", &format!("exit {code}")]).exits(code);
    }
}

#[test]
fn a_child_killed_by_a_signal_is_reported_as_killed() {
    Machine::new().logged_in().run(["exec", "--", "sh", "-c", "kill -TERM $$"]).dies_by(Signal::SIGTERM);
}

#[test]
fn a_program_that_is_not_there_is_127() {
    Machine::new().logged_in().run(["exec", "--", "no-such-program"]).fails(
        127,
        "`no-such-program` was not found",
        "check its name and `PATH`",
    );
    Machine::new().logged_in().run(["exec", "--", "/no/such/program"]).fails(
        127,
        "`/no/such/program` was not found",
        "check its name and `PATH`",
    );
}

#[test]
fn a_program_that_cannot_run_is_126() {
    let machine = Machine::new().logged_in();
    let plain = machine.home().join("plain.txt");
    fs::write(&plain, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&plain, Permissions::from_mode(0o644)).unwrap();
    machine.run(["exec".as_ref(), "--".as_ref(), plain.as_os_str()]).fails(
        126,
        "cannot run `{home}/plain.txt`: Permission denied (os error 13)",
        "",
    );
    machine.run(["exec".as_ref(), "--".as_ref(), machine.home().as_os_str()]).fails(
        126,
        "cannot run `{home}`: Permission denied (os error 13)",
        "",
    );
}

#[test]
fn without_a_login_nothing_is_started() {
    let machine = Machine::new();
    machine.run(["exec", "--", "sh", "-c", "echo started"]).fails(
        4,
        "not logged in: there is no credential for `qwen`",
        "run `qwenauth login`",
    );
}

#[test]
fn without_a_program_it_is_a_usage_error() {
    drop(Machine::new().logged_in().run(["exec"]).exits(2).any_stderr());
}

#[test]
fn options_after_the_program_are_passed_to_it() {
    let machine = Machine::new().logged_in();
    machine.run(["exec", "--", "echo", "--model", "x", "--", "-h"]).stdout("--model x -- -h\n");
    machine.run(["exec", "printf", "%s\\n", "--help"]).stdout("--help\n");
}

#[test]
fn arguments_that_are_not_utf_8_pass() {
    use std::os::unix::ffi::OsStrExt;
    let bytes = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    let machine = Machine::new().logged_in();
    let arguments = [
        "exec".as_ref(),
        "--".as_ref(),
        "sh".as_ref(),
        "-c".as_ref(),
        "printf %s \"$1\" | od -An -tx1".as_ref(),
        "sh".as_ref(),
        bytes,
    ];
    machine.run(arguments).stdout(" ff fe\n");
}

/// What the child sees of its signals, its descriptors and its stdin must be what it sees when started directly.
#[track_caller]
fn as_if_started_directly(before: &str, look: &str) {
    let machine = Machine::new().logged_in();
    let direct = machine.shell(&format!("{before} {look}")).any_stdout();
    assert!(!direct.stdout.is_empty());
    machine.shell(&format!("{before} $QWENAUTH exec -- {look}")).stdout(&direct.stdout);
}

#[test]
fn exec_restores_the_signal_dispositions() {
    for before in [
        "exec",
        "trap '' PIPE; exec",
        "trap '' XFSZ; exec",
        "trap '' HUP INT QUIT TERM CHLD USR1; exec",
        "exec env --default-signal=PIPE",
        "exec env --ignore-signal=PIPE",
        "exec env --block-signal=USR1 --block-signal=TERM --block-signal=PIPE",
    ] {
        as_if_started_directly(before, "grep -e ^SigBlk -e ^SigIgn -e ^SigCgt /proc/self/status");
    }
}

#[test]
fn exec_restores_the_signal_dispositions_after_a_renewal() {
    let machine = Machine::new().logged_in();
    let direct = machine.shell("exec grep -e ^SigBlk -e ^SigIgn -e ^SigCgt /proc/self/status").any_stdout();
    let machine = machine.expires_in(-60).refresh(Reply::tokens("2"));
    machine
        .shell("exec $QWENAUTH exec -- grep -e ^SigBlk -e ^SigIgn -e ^SigCgt /proc/self/status")
        .stdout(&direct.stdout);
}

#[test]
fn inherited_descriptors_reach_the_child_and_none_of_ours_do() {
    let look =
        "sh -c 'ls -l /proc/self/fd | sed -e s/.*[0-9]:[0-9][0-9]// -e s/[0-9]*\\]// | grep -v -e proc -e total'";
    as_if_started_directly("exec 7</dev/null 8>>/dev/zero; exec", look);
    let machine = Machine::expired().refresh(Reply::tokens("2"));
    let direct = machine.shell(&format!("exec {look}")).any_stdout();
    machine.shell(&format!("exec $QWENAUTH exec -- {look}")).stdout(&direct.stdout);
}

#[test]
fn the_child_inherits_limits_umask_and_directory() {
    as_if_started_directly("umask 037; ulimit -n 333; cd /usr; exec", "sh -c 'umask; ulimit -a; pwd'");
}

#[test]
fn the_child_reads_stdin() {
    Machine::new().logged_in().shell("echo for the child | $QWENAUTH exec -- cat").stdout("for the child\n");
}

#[test]
fn the_program_is_looked_for_in_the_path() {
    let machine = Machine::new().logged_in();
    let bin = machine.home().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("own-tool"), "#!/bin/sh\necho own tool\n").unwrap();
    fs::set_permissions(bin.join("own-tool"), Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    machine.variable("PATH", path).run(["exec", "own-tool"]).stdout("own tool\n");
}

#[test]
fn a_token_of_less_than_ten_minutes_is_used_unless_min_ttl_is_given() {
    let show = ["exec", "--", "sh", "-c", "echo $OPENAI_API_KEY"];
    let machine = Machine::new().logged_in().expires_in(300).refresh(Reply::tokens("2"));
    machine.run(show).stdout("granted-access-2\n");
    let machine = Machine::new()
        .logged_in()
        .expires_in(300)
        .refresh(Reply::html(503))
        .refresh(Reply::html(503))
        .refresh(Reply::html(503));
    let outcome: Outcome = machine.run(show).stdout("granted-access-1\n").any_stderr();
    assert!(outcome.stderr.starts_with("qwenauth: "), "{outcome}");
}

#[test]
fn a_given_min_ttl_is_required() {
    let mut short = crate::server::tokens("2");
    short["expires_in"] = json!(300);
    let machine = Machine::new().logged_in().expires_in(300).refresh(Reply::json(200, short));
    machine.run(["exec", "--min-ttl", "10m", "--", "echo", "started"]).exits(5).stderr(
        "qwenauth: error: a new token is valid for 4 min, less than the requested 10 min\n\
         qwenauth: hint: use a smaller `--min-ttl`\n",
    );
}
