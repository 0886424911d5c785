//! Killed at a system call: a renewal dies at its first, second, … call of each kind, moments that chance hits rarely.

use super::machine::Machine;
use super::random::Random;

/// What a renewal does to files, locks and the connection.
const CALLS: [&str; 20] = [
    "openat",
    "write",
    "fallocate",
    "fsync",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "unlink",
    "flock",
    "statx",
    "fchmod",
    "ftruncate",
    "lseek",
    "read",
    "close",
    "utimensat",
    "sendto",
    "recvfrom",
    "getdents64",
];

/// With so many of the kinds that a renewal has.
pub(crate) fn at_each_call(mut kinds: usize, seed: u64) {
    if !std::path::Path::new("/usr/bin/strace").exists() {
        println!("skipped: there is no strace");
        return;
    }
    let machine = Machine::new();
    let (mut killed, mut completed, mut lost) = (0, 0, 0);
    let from = usize::try_from(Random::new(seed).below(CALLS.len() as u64)).unwrap();
    for kind in CALLS.iter().cycle().skip(from).take(CALLS.len()) {
        if kinds == 0 {
            break;
        }
        let before_this_kind = killed;
        for number in 1.. {
            let told = format!("killed at `{kind}` number {number}: ");
            machine.server.forget();
            machine.log_in();
            machine.expire();
            let before = machine.refresh_token().unwrap().unwrap();
            let ended = machine.start_killed_at(kind, number, &["token"]).end();
            machine.server.settle();
            let token = machine.refresh_token().unwrap_or_else(|error| panic!("{told}the file is not whole: {error}"));
            let token = token.unwrap_or_else(|| panic!("{told}the credential is gone"));
            if ended.outcome.code() == Some(0) {
                break;
            }
            killed += 1;
            if machine.server.is_good(&token) {
                machine.goes_on(&told);
            } else {
                assert_eq!(token, before, "{told}");
                if machine.completes(&told) { completed += 1 } else { lost += 1 }
            }
        }
        kinds -= usize::from(killed > before_this_kind);
    }
    assert!(killed > 0, "strace killed nothing");
    println!(
        "| killed at a system call | granted, not in place: completed by the next | granted, not written: lost | else: file whole, token good, next renewal at once |"
    );
    println!("|---:|---:|---:|---:|");
    println!("| {killed} | {completed} | {lost} | {} |", killed - completed - lost);
}
