//! What other processes of the user can see of this one: nothing in its memory, no secret among its arguments.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::gateway::upstream::{Gateway, Upstream, fine, logged_in};
use crate::machine::{Machine, possible, until};
use crate::server::{Ask, Gate, Reply};

/// The files of a process that keeps others out belong to root (`proc_pid_environ(5)`, `PR_SET_DUMPABLE`).
fn belongs_to_root(process: u32) -> bool {
    fs::metadata(format!("/proc/{process}/environ")).unwrap().uid() == 0
}

#[test]
fn other_processes_cannot_read_our_memory_and_the_program_of_exec_is_an_ordinary_one() {
    let gate = Gate::default();
    let machine = Machine::expired().unprivileged().refresh(Reply::tokens("2").after(&gate));
    let running = machine.spawn(["exec", "--", "sh", "-c", "echo started; read line < fifo"]);
    let made = machine.other("mkfifo").arg("fifo").status().unwrap();
    assert!(made.success());
    machine.server.wait_for(Ask::Refresh, 1);
    assert!(belongs_to_root(running.id()));
    gate.open();
    running.wait_for_stdout("started");
    assert!(!belongs_to_root(running.id()), "the program is not kept from its user");
    fs::write(machine.directory().join("fifo"), "\n").unwrap();
    drop(running.finish().stdout("started\n"));
}

#[test]
fn a_certificate_file_may_be_a_descriptor() {
    let machine = Machine::expired().unprivileged();
    let script = "exec 7< /dev/null; QWENAUTH_QWEN_OAUTH_URL=https://localhost:1 QWENAUTH_CA_FILE=/dev/fd/7 exec $QWENAUTH token";
    machine.shell(script).fails(
        1,
        "cannot use the certificates of `QWENAUTH_CA_FILE`, `/dev/fd/7`",
        "set it to a readable PEM file",
    );
}

/// All commands that handle a secret, with each program they start, under strace: no argument may hold one.
#[test]
fn no_secret_is_an_argument_of_any_process() {
    let machine = crate::login::polls([]).granted().credential_is(crate::machine::credential("old"));
    let browser = machine.directory().join("browser");
    fs::write(&browser, "#!/bin/sh\necho \"$@\" > opened\n").unwrap();
    fs::set_permissions(&browser, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let machine = machine.variable("BROWSER", &browser).refresh(Reply::tokens("2"));
    let script = "for command in 'login --force' refresh token status 'exec -- env' 'env --format dotenv' logout; do
        strace -f -qq -s 100000 -e trace=execve -o trace.$! $QWENAUTH $command; cat trace.* >> all; done > /dev/null 2> said
        grep -c qwenauth all";
    if !possible(std::path::Path::new("/usr/bin/strace").exists(), "run strace") {
        return;
    }
    drop(machine.shell(script).any_stdout());
    until("the browser was told", || machine.directory().join("opened").exists());
    let calls = fs::read_to_string(machine.directory().join("all")).unwrap();
    assert!(calls.lines().filter(|line| line.contains("execve(")).count() >= 9, "{calls}");
    assert!(!calls.contains("granted-"), "{calls}");
}

/// A gateway runs for weeks and renews every few hours. Buffers of HTTP keep some tokens for a while; before they were kept
/// for the environment of hooks, all of them.
#[test]
fn a_gateway_keeps_few_tokens_of_the_past() {
    const RENEWALS: usize = 20;
    const FIRST: usize = 101;
    let upstream = Upstream::always(fine());
    let mut machine = logged_in(&upstream);
    let number = AtomicUsize::new(FIRST);
    machine.server.always(Ask::Refresh, move || Reply::tokens(&number.fetch_add(1, Ordering::SeqCst).to_string()));
    let gateway = Gateway::start(&machine, &[]);
    gateway.chat().is(200);
    for _ in 0..RENEWALS {
        machine = machine.expires_in(-60);
        gateway.chat().is(200);
    }
    assert_eq!(machine.server.asked(Ask::Refresh).len(), RENEWALS);
    let process = gateway.running.id();
    let Ok(memory) = File::open(format!("/proc/{process}/mem")) else {
        println!("skipped: only root can read the memory of a process that keeps others out");
        return;
    };
    let mut found = BTreeSet::new();
    for line in fs::read_to_string(format!("/proc/{process}/maps")).unwrap().lines() {
        let (range, more) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
        if !more.starts_with("rw") {
            continue;
        }
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        for (page, at) in bytes.chunks_mut(4096).zip((from..).step_by(4096)) {
            // Not every page can be read.
            let _ = memory.read_exact_at(page, at);
        }
        let text = String::from_utf8_lossy(&bytes);
        for rest in text.split("granted-access-").skip(1) {
            let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
            found.extend(number.parse::<usize>().ok().filter(|number| (FIRST..FIRST + RENEWALS - 1).contains(number)));
        }
    }
    assert!(found.len() <= RENEWALS * 2 / 5, "{} of {RENEWALS} old tokens: {found:?}", found.len());
}
