//! The credential file and its directory in every state they can be found in: one clear message, nothing lost.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use serde_json::json;

use crate::machine::{Machine, NOBODY, each_path, mode, possible, write_private};
use crate::refresh::holds_the_renewal;
use crate::server::{Ask, Reply};

const DENIED: &str = "check the owner and mode of the file and its directory, or run `qwenauth doctor`";

const FULL: &str = "free space on that disk, then retry";

const READ_ONLY: &str =
    "that file system is read-only: mount it writable, or set `QWEN_HOME` or `QWENAUTH_HOME` to another";

/// Whatever a damaged file holds: it is reported by every command that needs it, and stays as it is.
#[track_caller]
fn is_damaged(content: impl AsRef<[u8]>, what: &str) {
    let machine = Machine::new().file_is(&content);
    let hint = "run `qwenauth login`";
    for command in ["token", "refresh", "env"] {
        let mut outcome = machine.run([command]);
        // Where in the file it is wrong is for a person; what is wrong is the rule here.
        if let (Some(from), Some(to)) = (outcome.stderr.find(" (line "), outcome.stderr.find(")\n")) {
            outcome.stderr.replace_range(from..=to, "");
        }
        let stdout = if command == "env" { "(exit 4);\n" } else { "" };
        outcome.stdout(stdout).fails(
            4,
            &format!("the credential file `{{home}}/.qwen/oauth_creds.json` is damaged: {what}"),
            hint,
        );
    }
    let mut status = machine.run(["status", "--json"]).exits(4);
    let profile = status.json()["profiles"][0].clone();
    assert_eq!((&profile["state"], profile["problems"].as_array().unwrap().len()), (&json!("damaged"), 1), "{profile}");
    assert_eq!(fs::read(machine.file()).unwrap(), content.as_ref());
}

/// A number or text of another program that only its own reader takes: to write the rest without it would lose it.
#[test]
fn a_file_that_cannot_be_kept_whole_is_not_renewed() {
    for foreign in ["1e999", "\"\\ud800\""] {
        let machine = Machine::expired();
        let text = machine.content().replacen('{', &format!("{{\"other\": {foreign},"), 1);
        let machine = machine.file_is(&text);
        let outcome = machine.run(["token"]).exits(4).any_stderr();
        assert!(outcome.stderr.contains("is damaged: it is not valid JSON"), "{}", outcome.stderr);
        assert_eq!(machine.content(), text);
        assert!(machine.server.requests().is_empty());
    }
}

#[test]
fn an_empty_file_is_damaged() {
    is_damaged("", "it is empty");
}

#[test]
fn a_truncated_file_is_damaged() {
    is_damaged("{\n  \"access_token\": \"granted-access-1\",\n  \"refresh_to", "it is truncated");
}

#[test]
fn a_file_that_is_not_json_is_damaged() {
    is_damaged("access_token=granted-access-1\n", "it is not valid JSON");
}

#[test]
fn a_file_that_is_not_text_is_damaged() {
    is_damaged([0xff, 0xfe, 0x00, 0x7b], "it is not valid JSON");
}

#[test]
fn json_that_is_not_an_object_is_damaged() {
    for content in ["null", "[]", "\"granted-access-1\"", "5"] {
        is_damaged(content, "a field has the wrong type");
    }
}

#[test]
fn wrong_types_are_damage() {
    for (field, value) in [
        ("expiry_date", json!("1790000000000")),
        ("expiry_date", json!({})),
        ("access_token", json!(5)),
        ("refresh_token", json!([])),
        ("resource_url", json!(true)),
    ] {
        let machine = Machine::new().logged_in().field(field, value);
        is_damaged(machine.content(), "a field has the wrong type");
    }
}

#[test]
fn a_file_without_access_token_is_damaged() {
    for absent in [json!(null), json!("")] {
        let machine = Machine::new().logged_in().field("access_token", absent);
        is_damaged(machine.content(), "it has no access token");
    }
}

#[test]
fn a_token_of_unknown_expiry_is_renewed() {
    // Qwen Code writes `null` when a reply told no lifetime.
    let mut credential = crate::machine::credential("1");
    credential["expiry_date"] = json!(null);
    for machine in [
        Machine::new().credential_is(credential),
        Machine::new().logged_in().field("expiry_date", json!(null)),
        Machine::new().logged_in().field("expiry_date", json!(0)),
    ] {
        let machine = machine.refresh(Reply::tokens("2"));
        machine.run(["token"]).stdout("granted-access-2\n");
        holds_the_renewal(&machine, "granted-refresh-2");
    }
}

#[test]
fn a_deeply_nested_file_is_damaged() {
    is_damaged("[".repeat(200_000), "a field has the wrong type");
}

#[test]
fn a_huge_file_is_damaged_and_not_read() {
    let machine = Machine::new().logged_in();
    File::options().write(true).open(machine.file()).unwrap().set_len(100 << 20).unwrap();
    machine.run(["token"]).fails(4, "the credential file `{home}/.qwen/oauth_creds.json` is damaged: it has 104857600 bytes, more than a credential file may have", "run `qwenauth login`");
    assert_eq!(fs::metadata(machine.file()).unwrap().len(), 100 << 20);
}

#[test]
fn a_directory_in_place_of_the_file_is_not_a_credential() {
    let machine = Machine::new();
    fs::create_dir_all(machine.file()).unwrap();
    machine.run(["token"]).fails(
        4,
        "the credential file `{home}/.qwen/oauth_creds.json` is damaged: it is a directory",
        "run `qwenauth login`",
    );
    assert!(machine.file().is_dir());
}

#[test]
fn a_completed_login_renames_a_file_that_is_not_a_credential() {
    let machine = crate::login::polls([]).granted();
    fs::create_dir_all(machine.file().join("something")).unwrap();
    drop(machine.run(["login"]).exits(0).any_stderr());
    machine.holds_the_grant();
    assert!(machine.qwen().join("oauth_creds.json.damaged-1/something").is_dir());
}

#[test]
fn everything_that_is_made_is_private_whatever_the_umask() {
    let machine = crate::login::polls([]).granted();
    let refusal = Reply::error(400, "invalid_grant");
    drop(machine.shell("umask 000; exec $QWENAUTH login").any_stderr());
    let machine = machine.refresh(refusal);
    drop(machine.shell("umask 000; exec $QWENAUTH refresh").exits(4).any_stderr());
    let mut seen = Vec::new();
    each_path(&machine.home(), &mut |path| {
        let wanted = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(path), wanted, "{}", path.display());
        seen.push(path.to_owned());
    });
    assert!(seen.iter().any(|path| path.starts_with(machine.home().join(".local/state/qwenauth"))), "{seen:?}");
}

#[test]
fn a_pipe_in_place_of_the_file_does_not_block() {
    let machine = Machine::new();
    fs::create_dir(machine.qwen()).unwrap();
    assert!(Command::new("mkfifo").arg(machine.file()).status().unwrap().success());
    machine.run(["token"]).fails(
        4,
        "the credential file `{home}/.qwen/oauth_creds.json` is damaged: it is not a regular file",
        "run `qwenauth login`",
    );
    fs::remove_file(machine.file()).unwrap();
}

#[test]
fn a_missing_file_is_not_a_login() {
    Machine::new().run(["token"]).fails(4, "not logged in: there is no credential for `qwen`", "run `qwenauth login`");
}

#[test]
fn a_file_in_place_of_the_directory_is_not_a_login_and_none_can_be_stored() {
    let machine = Machine::new();
    fs::write(machine.qwen(), "").unwrap();
    machine.run(["token"]).fails(4, "not logged in: there is no credential for `qwen`", "run `qwenauth login`");
    machine.run(["login"]).fails(1, "`{home}/.qwen` is not a directory", "");
}

#[test]
fn an_unreadable_file_is_not_taken_for_a_missing_one() {
    let machine = Machine::expired().unprivileged();
    fs::set_permissions(machine.file(), Permissions::from_mode(0o000)).unwrap();
    machine.run(["token"]).fails(
        1,
        "cannot read `{home}/.qwen/oauth_creds.json`: Permission denied (os error 13)",
        DENIED,
    );
    fs::set_permissions(machine.file(), Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn an_unreadable_directory_is_not_taken_for_a_missing_login() {
    let machine = Machine::expired().unprivileged();
    fs::set_permissions(machine.qwen(), Permissions::from_mode(0o000)).unwrap();
    machine.run(["token"]).fails(
        1,
        "cannot read `{home}/.qwen/oauth_creds.json`: Permission denied (os error 13)",
        DENIED,
    );
    fs::set_permissions(machine.qwen(), Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn in_a_read_only_directory_nothing_is_sent() {
    let machine = Machine::expired().unprivileged();
    fs::set_permissions(machine.qwen(), Permissions::from_mode(0o500)).unwrap();
    let before = machine.content();
    machine.run(["token"]).fails(
        1,
        "cannot open `{home}/.qwen/.oauth_creds.qwenauth-lock`: Permission denied (os error 13)",
        DENIED,
    );
    assert_eq!(machine.content(), before);
    fs::set_permissions(machine.qwen(), Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_valid_login_in_a_read_only_directory_is_used() {
    let machine = Machine::new().logged_in().unprivileged();
    fs::set_permissions(machine.qwen(), Permissions::from_mode(0o500)).unwrap();
    machine.run(["token"]).stdout("granted-access-1\n");
    fs::set_permissions(machine.qwen(), Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_login_into_a_read_only_home_fails_before_it_asks_for_a_code() {
    let machine = Machine::new().unprivileged();
    fs::set_permissions(machine.home(), Permissions::from_mode(0o500)).unwrap();
    machine.run(["login"]).fails(1, "cannot write in `{home}`: Permission denied (os error 13)", DENIED);
    fs::set_permissions(machine.home(), Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_file_of_another_owner_is_rejected() {
    let machine = Machine::expired().unprivileged();
    let (path, owner) = if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(machine.file(), Some(1), Some(1)).unwrap();
        fs::set_permissions(machine.file(), Permissions::from_mode(0o644)).unwrap();
        ("{home}/.qwen/oauth_creds.json", 1)
    } else {
        // Who cannot give files away finds one that is root's.
        fs::remove_file(machine.file()).unwrap();
        symlink("/etc/passwd", machine.file()).unwrap();
        ("/etc/passwd", 0)
    };
    machine.run(["token"]).fails(
        1,
        &format!("`{path}` belongs to another user (uid {owner}) and is not used"),
        "check who should own it; if it is yours, `chown` it to yourself",
    );
    assert_eq!((fs::metadata(machine.file()).unwrap().uid(), mode(&machine.file())), (owner, 0o644));
}

#[test]
fn root_keeps_owner_and_mode_of_anothers_file() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can give a file to another user");
        return;
    }
    let machine = Machine::expired().refresh(Reply::tokens("2"));
    fs::set_permissions(machine.file(), Permissions::from_mode(0o400)).unwrap();
    std::os::unix::fs::chown(machine.file(), Some(NOBODY), Some(NOBODY)).unwrap();
    machine.run(["token"]).stdout("granted-access-2\n");
    holds_the_renewal(&machine, "granted-refresh-2");
    let file = fs::metadata(machine.file()).unwrap();
    assert_eq!((file.uid(), file.gid(), mode(&machine.file())), (NOBODY, NOBODY, 0o400));
}

#[test]
fn a_looser_file_is_tightened_with_one_line() {
    let machine = Machine::new().logged_in();
    fs::set_permissions(machine.file(), Permissions::from_mode(0o644)).unwrap();
    machine
        .run(["token"])
        .stdout("granted-access-1\n")
        .stderr("qwenauth: tightened the mode of `{home}/.qwen/oauth_creds.json` from 0644 to 0600\n");
    assert_eq!(mode(&machine.file()), 0o600);
    machine.run(["token"]).stdout("granted-access-1\n");
}

#[test]
fn a_dangling_symlink_is_not_a_login_and_a_login_creates_its_target() {
    let machine = crate::login::polls([]).granted();
    fs::create_dir(machine.qwen()).unwrap();
    let elsewhere = machine.home().join("elsewhere.json");
    symlink(&elsewhere, machine.file()).unwrap();
    machine.run(["token"]).fails(4, "not logged in: there is no credential for `qwen`", "run `qwenauth login`");
    drop(machine.run(["login"]).exits(0).any_stderr());
    assert!(machine.file().is_symlink());
    assert_eq!(mode(&elsewhere), 0o600);
    machine.holds_the_grant();
}

#[test]
fn a_symlink_stays_one_and_its_target_is_renewed() {
    let machine = Machine::expired().refresh(Reply::tokens("2"));
    let elsewhere = machine.home().join("dotfiles/qwen.json");
    fs::create_dir(elsewhere.parent().unwrap()).unwrap();
    fs::rename(machine.file(), &elsewhere).unwrap();
    symlink("../dotfiles/qwen.json", machine.file()).unwrap();
    machine.run(["token"]).stdout("granted-access-2\n");
    assert!(machine.file().is_symlink());
    assert!(elsewhere.is_file() && !elsewhere.is_symlink());
    holds_the_renewal(&machine, "granted-refresh-2");
}

#[test]
fn a_loop_of_symlinks_is_reported() {
    let machine = Machine::new();
    fs::create_dir(machine.qwen()).unwrap();
    symlink(machine.file(), machine.file()).unwrap();
    machine.run(["token"]).fails(1, "`{home}/.qwen/oauth_creds.json` has too many levels of symlinks", "");
}

#[test]
fn a_bind_mounted_file_is_rewritten_in_place() {
    if !possible(can_mount(), "mount") {
        return;
    }
    let machine = Machine::expired().refresh(Reply::tokens("2"));
    fs::copy(machine.file(), machine.home().join("outside.json")).unwrap();
    let script = "mount --bind $HOME/outside.json $HOME/.qwen/oauth_creds.json && exec $QWENAUTH token";
    in_namespace(&machine, script).stdout("granted-access-2\n");
    fs::rename(machine.home().join("outside.json"), machine.file()).unwrap();
    holds_the_renewal(&machine, "granted-refresh-2");
    assert_eq!(mode(&machine.file()), 0o600);
}

#[test]
fn a_bind_mounted_file_is_emptied_by_a_logout() {
    if !possible(can_mount(), "mount") {
        return;
    }
    let machine = Machine::new().logged_in();
    let outside = machine.home().join("outside.json");
    fs::copy(machine.file(), &outside).unwrap();
    let script = "mount --bind $HOME/outside.json $HOME/.qwen/oauth_creds.json && exec $QWENAUTH logout";
    in_namespace(&machine, script).stderr("qwenauth: logged out of `qwen`\n");
    assert_eq!(fs::read_to_string(outside).unwrap(), "{}");
}

/// As `docker -v` mounts a file that somebody made with `touch`.
#[test]
fn a_login_is_saved_in_a_bind_mounted_file_that_is_empty_or_damaged() {
    if !possible(can_mount(), "mount") {
        return;
    }
    for content in ["", "{\"access"] {
        let machine = Machine::new();
        let (outside, file) = (machine.home().join("outside.json"), machine.profiles().join("groq.json"));
        fs::create_dir_all(machine.profiles()).unwrap();
        for path in [&outside, &file] {
            write_private(path, content);
        }
        let script = format!(
            "mount --bind $HOME/outside.json {} && printf granted-key | exec $QWENAUTH login groq --api-key-stdin --no-verify",
            file.display()
        );
        drop(in_namespace(&machine, &script).exits(0).any_stderr());
        let stored: serde_json::Value = serde_json::from_slice(&fs::read(&outside).unwrap()).unwrap();
        fs::remove_file(outside).unwrap();
        assert_eq!(stored["api_key"], "granted-key", "{content}");
        let aside = fs::read_to_string(machine.profiles().join("groq.json.damaged-1")).unwrap();
        assert_eq!(aside, content);
    }
}

/// A disk of that many kilobytes, filled to the last or left as it is with the credential on it: nothing is sent, and
/// the credential stays.
#[track_caller]
fn is_too_full(kilobytes: u32, fill: bool, error: &str) {
    let machine = Machine::expired();
    let kept = machine.directory().join("kept");
    fs::copy(machine.file(), &kept).unwrap();
    let machine = machine.variable("KEPT", kept);
    let fill = if fill { "while head -c 4096 /dev/zero >> filler; do :; done 2> /dev/null" } else { ":" };
    let script = format!(
        "mount -t tmpfs -o size={kilobytes}k,mode=700 none $HOME/.qwen/ && cd $HOME/.qwen || exit 98
        cp $KEPT oauth_creds.json; chmod 600 oauth_creds.json; : > .oauth_creds.qwenauth-lock; {fill}
        $QWENAUTH token; code=$?; cmp $KEPT oauth_creds.json || exit 97
        test ! -e oauth_creds.lock || exit 96; ls -A | grep tmp && exit 95; exit $code"
    );
    in_namespace(&machine, &script).fails(1, error, FULL);
    assert!(machine.server.asked(Ask::Refresh).is_empty());
}

#[test]
fn on_a_full_disk_nothing_is_sent() {
    if possible(can_mount(), "mount") {
        let lock = "cannot create the lock `{home}/.qwen/oauth_creds.lock`: No space left on device (os error 28)";
        is_too_full(16, true, lock);
    }
}

#[test]
fn on_a_disk_with_too_little_space_for_new_tokens_nothing_is_sent() {
    if possible(can_mount(), "mount") {
        let room =
            "cannot prepare a new version of `{home}/.qwen/oauth_creds.json`: No space left on device (os error 28)";
        is_too_full(40, false, room);
    }
}

#[test]
fn a_read_only_file_system_still_serves_a_valid_login() {
    if !possible(can_mount(), "mount") {
        return;
    }
    let machine = Machine::new().logged_in();
    let script = "mount --bind $HOME $HOME && mount -o remount,ro,bind $HOME && exec $QWENAUTH ";
    in_namespace(&machine, &format!("{script} token")).stdout("granted-access-1\n");
    let machine = machine.expires_in(-60);
    in_namespace(&machine, &format!("{script} token")).fails(
        1,
        "cannot open `{home}/.qwen/.oauth_creds.qwenauth-lock`: Read-only file system (os error 30)",
        READ_ONLY,
    );
}

fn can_mount() -> bool {
    let test = "mount -t tmpfs none /mnt";
    Command::new("unshare").args(["-rm", "sh", "-c", test]).output().is_ok_and(|output| output.status.success())
}

/// Runs a script as root of a mount namespace of its own.
fn in_namespace(machine: &Machine, script: &str) -> crate::run::Outcome {
    let mut unshare = machine.other("unshare");
    unshare.args(["-rm", "sh", "-c", script]);
    machine.start(unshare).finish()
}
