//! A new user's first minute over a real SSH connection: the server is OpenSSH's, with keys of its own on loopback.
#![cfg(target_os = "linux")]

use std::fs::OpenOptions;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

use nix::libc;
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::{User, geteuid};

use crate::machine::{Machine, possible, until};
use crate::pseudo_terminal::PseudoTerminal;
use crate::terminal::read_off;
use crate::walk::{ANSWER, OPENCODE, is_whole};

const SSHD: &str = "/usr/sbin/sshd";

const SIZE: (u16, u16) = (24, 80);

/// A server for one connection, as inetd starts it: the listening socket is this test's, so its port is nobody else's.
struct Sshd {
    place: PathBuf,
    port: u16,
    user: String,
    serving: JoinHandle<Child>,
}

impl Sshd {
    /// `variables`: the environment of whoever logs in.
    fn start(machine: &Machine, variables: &[(&str, &str)]) -> Self {
        let place = machine.directory().join("ssh");
        std::fs::create_dir(&place).unwrap();
        for name in ["host", "key"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(place.join(name));
            assert!(keygen.status().unwrap().success());
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let host = std::fs::read_to_string(place.join("host.pub")).unwrap();
        std::fs::write(place.join("known"), format!("[127.0.0.1]:{port} {host}")).unwrap();
        let set: String = variables.iter().map(|(name, value)| format!(" \"{name}={value}\"")).collect();
        let (host, key) = (place.join("host"), place.join("key.pub"));
        let settings = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nAuthenticationMethods publickey\nPermitRootLogin yes\nStrictModes no\n\
             UsePAM no\nPrintMotd no\nPrintLastLog no\nSetEnv{set}\n",
            host.display(),
            key.display()
        );
        std::fs::write(place.join("config"), settings).unwrap();
        let mut command = sshd();
        command.args(["-i", "-e", "-f"]).arg(place.join("config"));
        command.stderr(std::fs::File::create(place.join("log")).unwrap());
        let serving = thread::spawn(move || {
            let connection = OwnedFd::from(listener.accept().unwrap().0);
            command.stdin(connection.try_clone().unwrap()).stdout(connection).spawn().unwrap()
        });
        let user = User::from_uid(geteuid()).unwrap().unwrap().name;
        Self { place, port, user, serving }
    }

    /// What a person types to run `command` there.
    fn client(&self, command: &str) -> Command {
        let mut client = Command::new("ssh");
        client.args(["-tt", "-F", "none", "-o", "IdentityAgent=none", "-o", "IdentitiesOnly=yes", "-o"]);
        client.arg(format!("UserKnownHostsFile={}", self.place.join("known").display()));
        client.args(["-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-i"]).arg(self.place.join("key"));
        client.arg("-p").arg(self.port.to_string()).arg("-l").arg(&self.user).args(["127.0.0.1", command]);
        client.env_clear().env("TERM", "xterm-256color").env("HOME", &self.place);
        client
    }

    fn ends(self) {
        let mut server = self.serving.join().unwrap();
        server.wait().unwrap();
    }
}

/// Started by root it wants a directory that only a running service has made; then it gets one in a place of its own.
fn sshd() -> Command {
    if !geteuid().is_root() || Path::new("/run/sshd").exists() {
        return Command::new(SSHD);
    }
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs -o mode=755 none /run && mkdir -m 755 /run/sshd && exec \"$0\" \"$@\"";
    command.args(["-m", "sh", "-c", script, SSHD]);
    command
}

fn can_serve() -> bool {
    let has = |path: &str| Path::new(path).exists();
    if ![SSHD, "/usr/bin/ssh", "/usr/bin/ssh-keygen", "/bin/bash"].into_iter().all(has) {
        return possible(false, "run OpenSSH's server, its client and bash");
    }
    let mut version = sshd();
    version.arg("-V").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    possible(version.status().is_ok_and(|status| status.success()), "run OpenSSH's server as this user")
}

/// Four commands, as without SSH. A browser would open on the wrong machine, so the code is for a camera, and what is
/// copied goes to the clipboard of the terminal's own machine.
#[test]
fn a_new_user_gets_an_answer_over_ssh() {
    if !can_serve() {
        return;
    }
    let browser = "#!/bin/sh\ntouch \"$HOME/a-browser-was-opened\"\n";
    let machine = Machine::new().with_programs(&[("opencode", OPENCODE), ("browser", browser)]);
    let bin = machine.directory().join("bin");
    let own = machine.program().parent().unwrap().to_owned();
    let path = format!("{}:{}:/usr/bin:/bin", bin.display(), own.display());
    let home = machine.home();
    let server = Sshd::start(
        &machine,
        &[
            ("HOME", home.to_str().unwrap()),
            ("PATH", &path),
            ("SHELL", "/bin/bash"),
            ("LANG", "C.UTF-8"),
            ("HISTFILE", "/dev/null"),
            ("DISPLAY", ":0"),
            ("BROWSER", bin.join("browser").to_str().unwrap()),
        ],
    );
    let (mut terminal, near) = PseudoTerminal::open(SIZE);
    let mut client = server.client("qwenauth sandbox");
    near.controls(&mut client);
    let mut child = client.spawn().unwrap();
    // It holds the terminal's other end, which keeps the output from ending.
    drop(client);

    terminal.take_until("(sandbox) ");
    terminal.types("tty\n");
    terminal.take_until("/dev/pts/");
    let far_end = Path::new("/dev/pts").join(terminal.take_until("\r"));
    terminal.take_until("(sandbox) ");
    terminal.types("clear; qwenauth login qwen --clipboard\n");
    terminal.take_until("Approve it here");
    shows_the_way(&terminal.seen);
    terminal.take_until("[y/N");
    terminal.types("y\n");
    terminal.take_until("logged in to ");
    terminal.take_until("(sandbox) ");
    terminal.types("qwenauth exec -- opencode\n");
    terminal.take_until(ANSWER);
    terminal.take_until("(sandbox) ");

    terminal.types("qwenauth login dashscope\n");
    terminal.take_until("API key (hidden)");
    // The near end echoes nothing at all while ssh has it.
    let far_end = OpenOptions::new().read(true).custom_flags(libc::O_NOCTTY).open(far_end).unwrap();
    until("the echo is off", || !tcgetattr(&far_end).unwrap().local_flags.contains(LocalFlags::ECHO));
    terminal.types("practice-1\r");
    terminal.take_until("logged in to Alibaba Cloud Model Studio");
    terminal.take_until("(sandbox) ");
    terminal.types("qwenauth exec -- opencode\n");
    terminal.take_until(ANSWER);
    terminal.take_until("(sandbox) ");
    terminal.types("exit\n");
    assert!(child.wait().unwrap().success());
    server.ends();
    is_whole(&terminal.end(), SIZE.1);
    assert!(!home.join("a-browser-was-opened").exists());
    assert_eq!(std::fs::read_dir(&home).unwrap().count(), 0, "something was left in the home directory");
}

/// The address, its code whole, and the user code in the clipboard.
#[track_caller]
fn shows_the_way(seen: &str) {
    let (rows, columns) = SIZE;
    let mut parser = vt100::Parser::new(rows, columns, 0);
    parser.process(seen.as_bytes());
    let screen = parser.screen();
    let text = screen.contents();
    let address = text.lines().find(|line| line.starts_with("http://127.0.0.1:")).unwrap_or_else(|| panic!("{text}"));
    assert_eq!(read_off(screen, true), [address.trim_end()], "{text}");
    assert!(seen.contains("\u{1b}]52;c;"), "nothing was copied: {seen:?}");
}
