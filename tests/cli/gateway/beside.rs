//! `exec --gateway`: a program with a gateway beside it, as if it had been started alone.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;

use nix::sys::signal::Signal;

use super::upstream::{Upstream, fine, logged_in};
use crate::machine::{Machine, has_programs, possible, until};
use crate::pseudo_terminal::PseudoTerminal;

const ASK: &str = r#"curl -sf -o /dev/null -H "Authorization: Bearer $OPENAI_API_KEY" "$OPENAI_BASE_URL/models""#;

#[test]
fn the_program_uses_the_gateway_and_its_exit_code_is_returned() {
    if !has_programs(&["curl"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    machine.run(["exec", "--gateway", "--", "sh", "-c", &format!("{ASK} && exit 7")]).exits(7);
    assert_eq!(upstream.asked()[0].header("authorization"), "Bearer granted-access-1");
}

#[test]
fn no_child_process_has_the_credential_in_its_environment() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let script = "tr '\\0' '\\n' </proc/$$/environ; sh -c 'cat /proc/self/environ' | tr '\\0' '\\n'; tr '\\0' '\\n' </proc/$PPID/cmdline";
    let outcome = machine.run(["exec", "--gateway", "--", "sh", "-c", script]).any_stdout();
    assert!(!outcome.stdout.contains("granted-"), "{outcome}");
    assert_eq!(outcome.stdout.matches("OPENAI_API_KEY=sk-").count(), 2, "{outcome}");
    assert!(outcome.stdout.contains("OPENAI_BASE_URL=http://127.0.0.1:"), "{outcome}");
}

#[test]
fn the_programs_requests_to_the_gateway_bypass_its_proxy() {
    if !has_programs(&["curl"]) {
        return;
    }
    let upstream = Upstream::always(fine());
    let proxy = Upstream::always(fine());
    let url = format!("http://{}", proxy.address);
    let machine = logged_in(&upstream);
    let machine = ["http_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
        .into_iter()
        .fold(machine, |machine, name| machine.variable(name, &url))
        .variable("NO_PROXY", "example.com");
    let script = format!("{ASK} && echo $NO_PROXY && curl -sf -o /dev/null http://elsewhere.invalid/");
    let outcome = machine.run(["exec", "--gateway", "--", "sh", "-c", &script]);
    outcome.stdout("example.com,127.0.0.1,localhost,::1\n");
    assert_eq!(upstream.asked().len(), 1);
    let proxied = proxy.asked();
    assert_eq!(proxied.len(), 1, "the proxy works, and only the foreign request went there");
    assert_eq!(proxied[0].line, "GET http://elsewhere.invalid/ HTTP/1.1");
}

#[test]
fn nothing_is_started_without_a_login_or_a_program() {
    let outcome = Machine::new().run(["exec", "--gateway", "--", "echo", "started"]);
    outcome.fails(4, "not logged in: there is no credential for `qwen`", "run `qwenauth login`");
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    machine.run(["exec", "--gateway", "--", "no-such-program"]).fails(
        127,
        "`no-such-program` was not found",
        "check its name and `PATH`",
    );
    machine.run(["exec", "--gateway", "--", "/etc/passwd"]).exits(126).any_stderr();
}

#[test]
fn nothing_is_started_without_a_gateway() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let run = ["exec", "--gateway", "--log", "/nonexistent/gateway.jsonl", "--", "echo", "started"];
    let outcome = machine.run(run).exits(1).any_stderr();
    assert!(outcome.stderr.contains("cannot open `/nonexistent/gateway.jsonl`"), "{outcome}");
    let outcome = machine.shell("ulimit -n 10; $QWENAUTH exec --gateway -- echo started").exits(1).any_stderr();
    assert!(outcome.stderr.contains("cannot start the gateway"), "{outcome}");
}

#[test]
fn a_signal_to_the_supervisor_is_forwarded_to_the_program() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let script = "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let running = machine.spawn(["exec", "--gateway", "--", "sh", "-c", script]);
    running.wait_for_stdout("ready");
    running.signal(Signal::SIGTERM);
    running.finish().exits(5).stdout("ready\ngot\n");

    let running = machine.spawn(["exec", "--gateway", "--", "sh", "-c", "echo ready; exec sleep 60"]);
    running.wait_for_stdout("ready");
    running.signal(Signal::SIGINT);
    running.finish().dies_by(Signal::SIGINT).stdout("ready\n");
    machine.run(["exec", "--gateway", "--", "sh", "-c", "kill -9 $$"]).exits(137);
}

#[test]
fn every_signal_that_a_process_sends_is_forwarded() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let signals = [Signal::SIGALRM, Signal::SIGVTALRM, Signal::SIGPROF, Signal::SIGIO, Signal::SIGPIPE];
    let traps: String = signals.map(|signal| format!("trap 'echo got {0}.' {0}; ", signal as i32)).concat();
    let script = format!("{traps} trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done");
    let running = machine.spawn(["exec", "--gateway", "--", "sh", "-c", &script]);
    running.wait_for_stdout("ready");
    for signal in signals {
        running.signal(signal);
        running.wait_for_stdout(&format!("got {}.", signal as i32));
    }
    running.signal(Signal::SIGTERM);
    drop(running.finish().exits(5).any_stdout());
}

#[test]
fn the_exit_code_is_known_although_the_parent_ignores_its_children() {
    if !possible(Path::new("/bin/bash").exists(), "run bash") {
        return;
    }
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let run = |program: &[&str]| {
        let mut command = machine.other("bash");
        command.args(["-c", "trap '' CHLD; exec $QWENAUTH exec --gateway -- \"$@\"", "bash"]).args(program);
        machine.start(command).finish()
    };
    run(&["sh", "-c", "exit 6"]).exits(6);
    // A shell would set it to its default.
    let outcome = run(&["grep", "SigIgn", "/proc/self/status"]).exits(0).any_stdout().any_stderr();
    let ignored = outcome.stdout.trim().rsplit('\t').next().unwrap();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    assert_eq!(ignored >> (Signal::SIGCHLD as i32 - 1) & 1, 1, "the program has its signals as they were found");
}

#[test]
fn the_program_ends_when_its_supervisor_is_killed() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let running = machine.spawn(["exec", "--gateway", "--", "sh", "-c", "echo $$; exec sleep 60"]);
    let program = running.first_lines(1).remove(0);
    running.signal(Signal::SIGKILL);
    until("the program is gone", || {
        let status = fs::read_to_string(format!("/proc/{program}/stat")).unwrap_or_default();
        status.is_empty() || status.contains(") Z ")
    });
    drop(running.finish().dies_by(Signal::SIGKILL).any_stdout());
}

fn state_of(process: &str) -> String {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().unwrap_or_default().chars().take(1).collect()
}

#[test]
fn program_and_supervisor_stop_and_continue_together() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let mut command = machine.command(["exec", "--gateway", "--", "sh", "-c", "echo $$; while :; do sleep 0.05; done"]);
    // In a process group of its own, as a shell would start it: a group that nobody outside looks after cannot be stopped.
    command.process_group(0);
    let running = machine.start(command);
    let program = running.first_lines(1).remove(0);
    let supervisor = running.id().to_string();
    for _ in 0..2 {
        running.signal(Signal::SIGTSTP);
        until("both have stopped", || state_of(&program) == "T" && state_of(&supervisor) == "T");
        running.signal(Signal::SIGCONT);
        until("both go on", || state_of(&program) != "T" && state_of(&supervisor) != "T");
    }
    running.signal(Signal::SIGTERM);
    drop(running.finish().dies_by(Signal::SIGTERM).any_stdout());
}

#[test]
fn the_program_keeps_the_original_limits_of_open_files() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let outcome = machine.shell("ulimit -Sn 300; $QWENAUTH exec --gateway -- sh -c 'ulimit -Sn'");
    outcome.stdout("300\n");
}

#[cfg(target_os = "linux")]
#[test]
fn an_interactive_shell_has_job_control_and_the_terminals_size() {
    if !possible(Path::new("/bin/bash").exists(), "run bash") {
        return;
    }
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let (mut terminal, near) = PseudoTerminal::open((40, 100));
    let shell = "bash --norc --noprofile --noediting -i";
    let mut command = machine.other("bash");
    command.args(shell.split(' ').skip(1)).env("PS1", "outer> ").env("TERM", "dumb").env_remove("QWENAUTH_LOG");
    near.controls(&mut command);
    let running = machine.start(command);
    terminal.take_until("outer> ");
    terminal.types(&format!("PS1='inner> ' $QWENAUTH exec --gateway -- {shell}\n"));
    terminal.take_until("-i\r\n");
    terminal.take_until("inner> ");
    terminal.types("stty size\n");
    terminal.take_until("stty size\r\n");
    assert_eq!(terminal.take_until("\r\ninner> "), "40 100");
    terminal.resize(50, 120);
    terminal.types("stty size\n");
    terminal.take_until("stty size\r\n");
    assert_eq!(terminal.take_until("\r\ninner> "), "50 120");
    terminal.types("sleep 60\n");
    terminal.take_until("sleep 60\r\n");
    terminal.wait_until_in_front("sleep");
    terminal.types("\x03");
    terminal.take_until("inner> ");
    terminal.types("echo code=$?\n");
    terminal.take_until("code=130\r\n");
    terminal.types("sleep 61\n");
    terminal.take_until("sleep 61\r\n");
    terminal.wait_until_in_front("sleep");
    terminal.types("\x1a");
    terminal.take_until("Stopped");
    terminal.take_until("sleep 61");
    terminal.take_until("inner> ");
    // `exit` refuses while a stopped job is left. (The quotes keep the typed line from being taken for its output.)
    terminal.types("kill -9 %1; until [ -z \"$(jobs -s)\" ]; do :; done; echo fin''ished\n");
    terminal.take_until("finished\r\n");
    terminal.take_until("inner> ");
    terminal.types("exit 3\n");
    terminal.take_until("outer> ");
    // A program without job control of its own: Ctrl-Z is for the outer shell. It starts no process, because one that is
    // stopped between vfork and exec keeps its parent from stopping.
    terminal.types("$QWENAUTH exec --gateway -- sh -c 'echo begun; read line; exit 7'\n");
    terminal.take_until("begun\r\n");
    terminal.types("\x1a");
    terminal.take_until("Stopped");
    terminal.take_until("outer> ");
    terminal.types("fg\n");
    terminal.take_until("read line; exit 7");
    terminal.take_until("\n");
    terminal.types("\n");
    terminal.take_until("outer> ");
    terminal.types("echo code=$?\n");
    terminal.take_until("code=7\r\n");
    terminal.types("exit\n");
    drop(running.finish());
}
