//! `gateway --install`: a service of the user, under a real `systemd --user` where one can be had.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::upstream::{Upstream, fine, logged_in};
use crate::machine::{Machine, has_programs, possible};

/// Runs a script in which a `systemd --user` runs, in namespaces of its own; nothing of it is left afterwards.
fn with_systemd(machine: &Machine, script: &str) -> crate::run::Outcome {
    let whole = format!(
        "mount -t tmpfs none /run && mkdir -p -m 700 /run/systemd/system /run/user/0 || exit 98
        export XDG_RUNTIME_DIR=/run/user/0
        env -u QWENAUTH_LOG /lib/systemd/systemd --user >$HOME/systemd.log 2>&1 &
        for try in $(seq 200); do
            systemctl --user is-system-running --quiet 2>/dev/null && break
            sleep 0.1
        done
        unit=$HOME/.config/systemd/user/qwenauth-gateway.service
        {script}
        systemctl --user exit 2>/dev/null; wait"
    );
    let mut unshare = machine.other("unshare");
    unshare.args(["-mpfC", "--mount-proc", "bash", "-c", &whole]);
    machine.start(unshare).finish()
}

fn has_systemd() -> bool {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can start a systemd of its own");
        return false;
    }
    let has = Path::new("/lib/systemd/systemd").exists() && Path::new("/usr/bin/systemctl").exists();
    let can = has
        && Command::new("unshare")
            .args(["-mpfC", "--mount-proc", "sh", "-c", "mount -t tmpfs none /run"])
            .output()
            .is_ok_and(|output| output.status.success());
    possible(can, "run a systemd of the user")
}

/// A free port of loopback.
fn free() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_service_is_installed_runs_at_once_and_is_removed() {
    if !has_programs(&["curl"]) {
        return;
    }
    if !has_systemd() {
        return;
    }
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    machine.server.serve("/", |_| crate::server::Reply::text(404, "{}"));
    let listen = format!("127.0.0.1:{}", free());
    let script = format!(
        r#"set -e
        install() {{ $QWENAUTH gateway --install --listen {listen} --rpm 1000 --metrics "$@"; }}
        ask() {{ curl -sf -o /dev/null -H "Authorization: Bearer $(cat $HOME/.local/share/qwenauth/gateway-key)" http://{listen}/v1/models; }}
        install; ask; echo asked
        systemd-analyze --user verify $unit; echo verified
        systemctl --user is-enabled qwenauth-gateway
        first=$(systemctl --user show -p MainPID --value qwenauth-gateway)
        install; test $first = $(systemctl --user show -p MainPID --value qwenauth-gateway); echo same
        $QWENAUTH doctor --json | grep -c 'runs as a service' || true
        systemctl --user stop qwenauth-gateway
        $QWENAUTH doctor --json | grep -c 'does not run' || true
        install; ask; echo started again
        $QWENAUTH gateway --uninstall
        ! test -e $unit; ! ask; ls $HOME/.local/share/qwenauth/gateway-key
        $QWENAUTH gateway --uninstall
        set +e"#
    );
    let outcome = with_systemd(&machine, &script).exits(0).any_stderr();
    let base = format!("http://{listen}/v1\n");
    let key = "{home}/.local/share/qwenauth/gateway-key\n";
    let expected = format!("{base}asked\nverified\nenabled\n{base}same\n1\n1\n{base}started again\n{key}");
    let outcome = outcome.stdout(&expected);
    for text in [
        "qwenauth: the gateway runs now and after each login: `{home}/.config/systemd/user/qwenauth-gateway.service`\n",
        "qwenauth: the gateway is already installed and runs: `",
        "its messages: `journalctl --user -u qwenauth-gateway`\n",
        "`loginctl enable-linger root` keeps it running\n",
        "qwenauth: the gateway is no longer a service; removed `{home}/.config/systemd/user/qwenauth-gateway.service`\n",
        "qwenauth: its key remains in `{home}/.local/share/qwenauth/gateway-key`",
        "qwenauth: the gateway is not installed as a service; nothing was changed\n",
    ] {
        assert!(outcome.stderr.contains(text), "{text} in {outcome}");
    }
}

#[test]
fn the_service_unit_has_absolute_paths_and_no_secret() {
    if !has_systemd() {
        return;
    }
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream)
        .variable("HTTPS_PROXY", "http://me:granted-password@proxy.example:3128")
        .variable("NO_PROXY", "127.0.0.1")
        .variable("QWEN_HOME", "~/.qwen");
    let listen = format!("127.0.0.1:{}", free());
    let script = format!(
        "cd $HOME; $QWENAUTH gateway --install --listen={listen} --log requests.jsonl --api-key-file 'a key' --json
        cat $unit; stat -c %a $unit"
    );
    let outcome = with_systemd(&machine, &script).any_stdout().any_stderr();
    let lines: Vec<_> = outcome.stdout.lines().collect();
    let printed: serde_json::Value = serde_json::from_str(lines[0]).unwrap_or_else(|_| panic!("{outcome}"));
    assert_eq!((&printed["event"], &printed["changed"]), (&"installed".into(), &true.into()));
    assert_eq!(printed["api_key_file"], "{home}/a key");
    let program = machine.program();
    for line in [
        format!(
            "ExecStart=\"{}\" \"gateway\" \"--profile\" \"qwen\" \"--listen\" \"{listen}\" \"--api-key-file\" \
             \"{{home}}/a key\" \"--log\" \"{{home}}/requests.jsonl\"",
            fs::canonicalize(program).unwrap().display()
        ),
        "Environment=\"NO_PROXY=127.0.0.1\"".to_owned(),
        "Restart=on-failure".to_owned(),
        "600".to_owned(),
    ] {
        assert!(lines.contains(&line.as_str()), "{line} in {outcome}");
    }
    assert!(!outcome.stdout.contains("granted-password"), "{outcome}");
    assert!(outcome.stderr.contains("warning: `HTTPS_PROXY` contains a password"), "{outcome}");
    drop(outcome.exits(0));
}

#[test]
fn without_a_service_manager_no_file_is_written() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream).variable("XDG_RUNTIME_DIR", "/nowhere");
    let listen = format!("127.0.0.1:{}", free());
    let outcome = machine.run(["gateway", "--install", "--listen", &listen]).exits(1).any_stderr();
    assert!(outcome.stderr.contains("user services cannot run here"), "{outcome}");
    assert!(!machine.home().join(".config/systemd").exists());
    machine
        .run(["gateway", "--uninstall"])
        .stderr("qwenauth: the gateway is not installed as a service; nothing was changed\n");
}

#[test]
fn an_address_in_use_and_a_temporary_program_path_are_rejected() {
    let upstream = Upstream::always(fine());
    let machine = logged_in(&upstream);
    let outcome = machine.run(["gateway", "--install", "--listen", &upstream.address]).exits(1).any_stderr();
    assert!(outcome.stderr.contains(&format!("cannot listen on `{}`", upstream.address)), "{outcome}");
    // A copy in a directory for temporary files.
    let copy = machine.directory().join("qwenauth");
    fs::copy(machine.program(), &copy).unwrap();
    let mut command = machine.other(&copy);
    command.args(["gateway", "--install"]);
    let outcome = machine.start(command).finish().exits(1).any_stderr();
    assert!(outcome.stderr.contains("so a service could not start it later"), "{outcome}");
    machine.run(["gateway", "--install", "--uninstall"]).exits(2).any_stderr();
}
