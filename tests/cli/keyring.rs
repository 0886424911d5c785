//! The secret in the keyring: GNOME Keyring on a session bus of its own, read with `secret-tool`, locked, stopped, killed.

use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::documents::{commands, page};
use crate::issuer::{issuer, tokens};
use crate::keys::{KEY, knows_the_key, machine};
use crate::machine::{Machine, now_ms, possible, until, write_private};
use crate::server::Server;
use crate::terminal::{LARGE, Terminal};

const LOGIN: [&str; 6] = ["login", "groq", "--api-key-stdin", "--no-verify", "--store", "keyring"];
const LOCKED: &str = "cannot read the keyring (the Secret Service): it is locked";
const NEEDED: [&str; 4] = ["dbus-daemon", "dbus-send", "gnome-keyring-daemon", "secret-tool"];

fn elsewhere(login: &str) -> String {
    format!(
        "without a desktop, run `qwenauth login {login} --api-key-command COMMAND`, or set `QWENAUTH_API_KEY_FILE` to a key file"
    )
}

/// A session bus with a keyring that is unlocked.
struct Keyring {
    directory: tempfile::TempDir,
    bus: Child,
    service: Mutex<Child>,
}

impl Keyring {
    /// `None`: this machine has not what is needed, and may do without.
    fn start() -> Option<Arc<Self>> {
        let has = |program: &&str| Path::new("/usr/bin").join(program).exists();
        if !possible(NEEDED.iter().all(has), "run a keyring (gnome-keyring, dbus-daemon, libsecret-tools)") {
            return None;
        }
        let directory = tempfile::Builder::new().prefix("qwenauth-keyring-").tempdir().unwrap();
        for name in ["home", "run"] {
            DirBuilder::new().mode(0o700).create(directory.path().join(name)).unwrap();
        }
        let socket = directory.path().join("bus");
        let configuration = format!(
            "<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth><policy context=\"default\">\
             <allow send_destination=\"*\"/><allow receive_sender=\"*\"/><allow own=\"*\"/></policy></busconfig>",
            socket.display()
        );
        fs::write(directory.path().join("bus.conf"), configuration).unwrap();
        let mut bus = Command::new("dbus-daemon");
        bus.arg(format!("--config-file={}", directory.path().join("bus.conf").display()));
        bus.args(["--nofork", "--nopidfile"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let bus = bus.spawn().unwrap();
        until("the bus listens", || fs::metadata(&socket).is_ok_and(|metadata| metadata.file_type().is_socket()));
        let service = Mutex::new(served(directory.path()));
        let keyring = Self { directory, bus, service };
        keyring.wait_until_unlocked();
        Some(Arc::new(keyring))
    }

    fn wait_until_unlocked(&self) {
        until("the keyring is unlocked", || self.call("ReadAlias", &["string:default"]).contains("collection/"));
    }

    fn address(&self) -> String {
        format!("unix:path={}", self.directory.path().join("bus").display())
    }

    fn other(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("DBUS_SESSION_BUS_ADDRESS", self.address());
        command
    }

    /// Calls a method of the service.
    fn call(&self, method: &str, arguments: &[&str]) -> String {
        let mut command = self.other("dbus-send");
        command.args(["--session", "--print-reply", "--dest=org.freedesktop.secrets", "/org/freedesktop/secrets"]);
        let output = command.arg(format!("org.freedesktop.Secret.Service.{method}")).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn lock(&self) {
        let locked = self.call("Lock", &["array:objpath:/org/freedesktop/secrets/collection/login"]);
        assert!(locked.contains("collection/login"), "{locked}");
    }

    /// As after a new login to the session: the service is started with the password.
    fn unlock(&self) {
        let mut service = self.service.lock().unwrap();
        service.kill().unwrap();
        service.wait().unwrap();
        until("the bus knows that it has ended", || self.call("ReadAlias", &["string:default"]).is_empty());
        *service = served(self.directory.path());
        self.wait_until_unlocked();
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.service.lock().unwrap().id().try_into().unwrap()), signal).unwrap();
    }

    /// What `secret-tool` finds for a profile.
    fn lookup(&self, profile: &str) -> String {
        let output =
            self.other("secret-tool").args(["lookup", "service", "qwenauth", "profile", profile]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// How many secrets of ours there are.
    fn count(&self) -> usize {
        let output = self.other("secret-tool").args(["search", "--all", "service", "qwenauth"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).matches("secret = ").count()
    }
}

/// The service of the bus in `directory`, unlocked with its password.
fn served(directory: &Path) -> Child {
    let mut service = Command::new("gnome-keyring-daemon");
    service.args(["--unlock", "--foreground", "--components=secrets"]).env_clear().env("PATH", "/usr/bin:/bin");
    service.env("HOME", directory.join("home")).env("XDG_RUNTIME_DIR", directory.join("run"));
    service.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", directory.join("bus").display()));
    service.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut service = service.spawn().unwrap();
    service.stdin.take().unwrap().write_all(b"password").unwrap();
    service
}

impl Drop for Keyring {
    fn drop(&mut self) {
        self.signal(Signal::SIGCONT);
        let service = self.service.get_mut().unwrap();
        for child in [service, &mut self.bus] {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn on(machine: Machine, keyring: &Keyring) -> Machine {
    machine.variable("DBUS_SESSION_BUS_ADDRESS", keyring.address())
}

/// With the key of `groq` in the keyring.
fn with_key(keyring: &Keyring) -> Machine {
    let machine = on(machine(), keyring);
    drop(machine.run_with_stdin(LOGIN, KEY.as_bytes()).any_stderr());
    machine
}

fn file_of(machine: &Machine, profile: &str) -> PathBuf {
    machine.profiles().join(format!("{profile}.json"))
}

/// With a login at an issuer, whose access token has expired, in the keyring.
fn with_expired_login(keyring: &Keyring) -> Machine {
    let machine = on(issuer(json!({})), keyring);
    drop(machine.run(["login", "corp", "--no-verify", "--store", "keyring"]).any_stderr());
    expire(&machine);
    machine
}

fn expire(machine: &Machine) {
    let mut record = machine.profile("corp");
    record["expiry_date"] = json!(now_ms() - 1000);
    write_private(&file_of(machine, "corp"), record.to_string());
}

fn spent(server: &Server) -> Vec<String> {
    let refreshed = server.at("/token");
    let tokens = refreshed.iter().map(|request| request.field("refresh_token").to_owned());
    tokens.filter(|token| !token.is_empty()).collect()
}

#[test]
fn the_lines_of_the_page_on_stores_move_a_key_into_the_keyring_and_find_it() {
    let Some(keyring) = Keyring::start() else { return };
    let text = page("docs/stores.md");
    let [login, lookup, _] = commands(&text)[..] else { panic!("the page has other commands now") };
    let machine = on(knows_the_key(machine().with_programs(&[]), "/intl/v1/models"), &keyring);
    drop(machine.run_with_stdin(["login", "dashscope", "--api-key-stdin"], KEY.as_bytes()).any_stderr());
    drop(machine.shell(login).any_stderr());
    assert_eq!(machine.profile("dashscope")["store"], "keyring");
    machine.shell(lookup).stdout(KEY);
}

const LISTED: &str = "  PROFILE  PROVIDER  CREDENTIAL\n* groq     groq      API key in the keyring\n";

#[test]
fn a_key_is_in_the_keyring_and_not_in_the_file() {
    let Some(keyring) = Keyring::start() else { return };
    let machine = with_key(&keyring);
    let record = machine.profile("groq");
    assert_eq!((&record["store"], &record["api_key"]), (&json!("keyring"), &Value::Null));
    assert!(!fs::read_to_string(file_of(&machine, "groq")).unwrap().contains("granted-"));
    assert_eq!(keyring.lookup("groq"), KEY);
    machine.run(["token"]).stdout(&format!("{KEY}\n"));
    assert_eq!(machine.run(["status", "--json"]).json()["profiles"][0]["store"], "keyring");
    machine.run(["profiles"]).stdout(LISTED);
}

#[test]
fn what_another_program_stores_under_its_name_is_read() {
    let Some(keyring) = Keyring::start() else { return };
    let machine = with_key(&keyring);
    let entry = machine.profile("groq")["entry"].as_str().unwrap().to_owned();
    let mut store = keyring.other("secret-tool");
    store.args(["store", "--label=mine", "service", "qwenauth", "profile", "groq", "entry", &entry]);
    let mut store = store.stdin(Stdio::piped()).spawn().unwrap();
    store.stdin.take().unwrap().write_all(b"granted-key-2").unwrap();
    assert!(store.wait().unwrap().success());
    machine.run(["token"]).stdout("granted-key-2\n");
}

#[test]
fn a_secret_moves_into_the_keyring_and_back_and_one_copy_is_left() {
    let Some(keyring) = Keyring::start() else { return };
    let machine = on(machine(), &keyring);
    drop(machine.run_with_stdin(&LOGIN[..4], KEY.as_bytes()).any_stderr());
    assert_eq!((machine.profile("groq")["api_key"].as_str(), keyring.count()), (Some(KEY), 0));
    for _ in 0..2 {
        machine
            .run(["login", "groq", "--store", "keyring"])
            .stderr("qwenauth: the secret of `groq` is now in the keyring\n");
        assert_eq!((&machine.profile("groq")["api_key"], keyring.count()), (&Value::Null, 1));
        machine.run(["token"]).stdout(&format!("{KEY}\n"));
        machine.run(["login", "groq", "--store", "file"]).stderr("qwenauth: the secret of `groq` is now in a file\n");
        assert_eq!((machine.profile("groq")["api_key"].as_str(), keyring.count()), (Some(KEY), 0));
    }
}

#[test]
fn a_move_that_is_killed_anywhere_loses_nothing() {
    let Some(keyring) = Keyring::start() else { return };
    let machine = on(machine(), &keyring);
    drop(machine.run_with_stdin(&LOGIN[..4], KEY.as_bytes()).any_stderr());
    for number in 0..40u64 {
        let place = if machine.profile("groq")["store"] == "keyring" { "file" } else { "keyring" };
        let running = machine.spawn(["login", "groq", "--store", place]);
        std::thread::sleep(Duration::from_millis(number * 3 % 97));
        running.signal(Signal::SIGKILL);
        running.finish().any_stdout().any_stderr().any_end();
        machine.run(["token"]).stdout(&format!("{KEY}\n"));
    }
    drop(machine.run(["login", "groq", "--store", "keyring"]).any_stderr());
    drop(machine.run(["login", "groq", "--store", "file"]).any_stderr());
    assert_eq!((machine.profile("groq")["api_key"].as_str(), keyring.count()), (Some(KEY), 0));
    drop(machine.run(["login", "groq", "--store", "keyring"]).any_stderr());
    assert_eq!(keyring.count(), 1);
}

#[test]
fn config_toml_may_make_the_keyring_the_default_but_not_for_the_file_that_qwen_code_shares() {
    let Some(keyring) = Keyring::start() else { return };
    let machine = on(machine(), &keyring);
    let text = fs::read_to_string(machine.config()).unwrap();
    fs::write(machine.config(), format!("store = \"keyring\"\n{text}")).unwrap();
    drop(machine.run_with_stdin(&LOGIN[..4], KEY.as_bytes()).any_stderr());
    assert_eq!(keyring.lookup("groq"), KEY);
    machine.run(["login", "qwen", "--store", "keyring"]).fails(
        2,
        "the login of `qwen` is always stored in a file, which it shares with Qwen Code",
        "omit `--store`",
    );
    fs::write(machine.config(), "store = \"vault\"\n").unwrap();
    machine.run(["token"]).fails(
        1,
        "`store` in `{home}/.config/qwenauth/config.toml` is neither `file` nor `keyring`",
        "write `store = \"keyring\"`",
    );
    fs::write(machine.config(), "store = \"command\"\n").unwrap();
    machine.run(["token"]).fails(
        1,
        "`store` in `{home}/.config/qwenauth/config.toml` is neither `file` nor `keyring`",
        "remove it, and name the command of a key with `qwenauth login PROVIDER --api-key-command COMMAND`",
    );
}

#[test]
fn a_locked_keyring_opens_no_dialog_for_a_script_and_is_never_replaced_by_a_file() {
    let Some(keyring) = Keyring::start() else { return };
    let machine = with_key(&keyring);
    keyring.lock();
    let hint = format!("unlock it; {}", elsewhere("--profile groq"));
    machine.run(["token"]).fails(4, LOCKED, &hint);
    machine.run(["exec", "--", "true"]).fails(4, LOCKED, &hint);
    let message = "cannot log out: cannot clear the keyring (the Secret Service): it is locked";
    machine.run(["logout"]).fails(4, message, &hint);
    let mut status = machine.run(["status", "--json"]).exits(4);
    assert_eq!(status.json()["profiles"][0]["problems"], json!([format!("{LOCKED}; {hint}")]));
    let status = machine.run(["status"]).exits(4).any_stdout();
    assert!(status.stdout.contains("credential  in the keyring, which cannot be read\n"), "{status}");
    machine.run(["profiles"]).stdout(LISTED);
    let mut other = LOGIN;
    other[1] = "openrouter";
    let message = "cannot write to the keyring (the Secret Service): it is locked";
    let hint = format!("unlock it; {}", elsewhere("openrouter"));
    machine.run_with_stdin(other, KEY.as_bytes()).fails(4, message, &hint);
    assert_eq!(machine.profile("openrouter"), Value::Null);
    keyring.unlock();
    machine.run(["token"]).stdout(&format!("{KEY}\n"));
}

#[test]
fn a_key_in_a_locked_keyring_can_be_replaced() {
    let Some(keyring) = Keyring::start() else { return };
    let machine = with_key(&keyring);
    keyring.lock();
    let words = ["login", "--profile", "groq", "--api-key-command", "echo granted-key-3", "--no-verify"];
    drop(machine.run(words).any_stderr());
    machine.run(["token"]).stdout("granted-key-3\n");
    keyring.unlock();
    assert_eq!(keyring.count(), 1);
    drop(machine.run_with_stdin(&LOGIN[..4], KEY.as_bytes()).any_stderr());
    // What could not be removed when it was locked is gone with the next change.
    assert_eq!(keyring.count(), 0);
}

#[test]
fn on_a_terminal_a_locked_keyring_prompts_to_unlock() {
    let Some(keyring) = Keyring::start() else { return };
    let machine = with_key(&keyring);
    keyring.lock();
    let mut terminal = Terminal::run(&machine, &["token"], LARGE);
    terminal.wait_for("the keyring is locked; unlock it in its dialog within 60 s");
    // There is no program here that could show it.
    let screen = terminal.exits(4);
    assert!(screen.contains("its dialog was dismissed"), "{screen}");
}

#[test]
fn a_keyring_that_does_not_respond_times_out_after_three_seconds() {
    let Some(keyring) = Keyring::start() else { return };
    let machine = with_key(&keyring);
    keyring.signal(Signal::SIGSTOP);
    let started = Instant::now();
    machine.run(["token"]).fails(
        3,
        "cannot read the keyring (the Secret Service): it did not answer within 3 s",
        "retry; if it still does not respond, restart the keyring or your desktop session",
    );
    assert!(started.elapsed() >= Duration::from_secs(3));
    keyring.signal(Signal::SIGCONT);
    machine.run(["token"]).stdout(&format!("{KEY}\n"));
}

#[test]
fn without_a_service_or_a_bus_it_fails_at_once() {
    let Some(keyring) = Keyring::start() else { return };
    let machine = with_key(&keyring);
    let hint = format!("run this in your desktop session; {}", elsewhere("--profile groq"));
    let cannot = |why: &str| format!("cannot read the keyring (the Secret Service): {why}");
    keyring.signal(Signal::SIGKILL);
    let started = Instant::now();
    until("the bus knows it", || keyring.call("ReadAlias", &["string:default"]).is_empty());
    machine.run(["token"]).fails(4, &cannot("no Secret Service runs on the session bus"), &hint);
    let machine = machine.variable("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere/bus");
    machine.run(["token"]).fails(4, &cannot("the session bus does not answer at its address"), &hint);
    let machine = machine.without_variable("DBUS_SESSION_BUS_ADDRESS");
    machine.run(["token"]).fails(4, &cannot("there is no session bus"), &hint);
    assert!(started.elapsed() < Duration::from_secs(3) * 3);
}

#[test]
fn a_profile_in_a_file_does_not_connect_to_the_bus() {
    let machine = machine();
    let bus = machine.directory().join("bus");
    let listener = UnixListener::bind(&bus).unwrap();
    listener.set_nonblocking(true).unwrap();
    let machine = machine.variable("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", bus.display()));
    drop(machine.run_with_stdin(&LOGIN[..4], KEY.as_bytes()).any_stderr());
    machine.run(["token"]).stdout(&format!("{KEY}\n"));
    drop(machine.run(["status"]).any_stdout());
    drop(machine.run(["logout"]).any_stderr());
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_logout_removes_the_secret_from_the_keyring() {
    let Some(keyring) = Keyring::start() else { return };
    let machine = with_key(&keyring);
    drop(machine.run(["logout"]).any_stderr());
    assert_eq!((machine.profile("groq"), keyring.count()), (Value::Null, 0));
}

#[test]
fn a_login_in_the_keyring_is_renewed_once_for_all_processes() {
    let Some(keyring) = Keyring::start() else { return };
    let machine = with_expired_login(&keyring);
    let running: Vec<_> = (0..6).map(|_| machine.spawn(["token"])).collect();
    for running in running {
        running.finish().stdout("granted-access-2\n").any_stderr();
    }
    assert_eq!(spent(&machine.server), ["granted-refresh-1"]);
    assert!(!fs::read_to_string(file_of(&machine, "corp")).unwrap().contains("granted-"));
    assert_eq!(keyring.count(), 1);
    expire(&machine);
    drop(machine.run(["token"]).stdout("granted-access-2\n"));
    assert_eq!(spent(&machine.server), ["granted-refresh-1", "granted-refresh-2"]);
}

#[test]
fn a_reader_that_finds_the_secret_removed_reads_the_file_again_behind_the_writer() {
    let Some(keyring) = Keyring::start() else { return };
    let machine = with_key(&keyring);
    let whole = machine.whole_profile("groq");
    let mut outdated = whole.clone();
    outdated["entry"] = json!("0000");
    let file = file_of(&machine, "groq");
    fs::write(&file, outdated.to_string()).unwrap();
    let lock = machine.profiles().join(".groq.qwenauth-lock");
    let held = fs::File::create(&lock).unwrap();
    fs2::FileExt::lock_exclusive(&held).unwrap();
    let running = machine.spawn(["token", "--profile", "groq"]);
    running.wait_until_open(&lock);
    fs::write(&file, whole.to_string()).unwrap();
    fs2::FileExt::unlock(&held).unwrap();
    running.finish().stdout(&format!("{KEY}\n"));
}

#[test]
fn before_a_token_is_spent_room_is_taken_for_the_next() {
    let Some(keyring) = Keyring::start() else { return };
    let machine = with_expired_login(&keyring);
    let seen = Arc::clone(&keyring);
    machine.server.serve("/token", move |_| {
        assert_eq!(seen.count(), 2);
        tokens("2")
    });
    machine.run(["token"]).stdout("granted-access-2\n");
    assert_eq!(keyring.count(), 1);
}

/// The keyring stops working between the question and the answer.
fn renewed_without_keyring(keyring: &Arc<Keyring>, act: fn(&Keyring)) -> Machine {
    let machine = with_expired_login(keyring);
    let stopped = Arc::clone(keyring);
    machine.server.serve("/token", move |request| {
        assert_eq!(request.field("refresh_token"), "granted-refresh-1", "a token is spent twice");
        act(&stopped);
        tokens("2")
    });
    machine
}

#[test]
fn a_token_that_the_keyring_does_not_take_is_completed_by_the_next_process() {
    let Some(keyring) = Keyring::start() else { return };
    let machine = renewed_without_keyring(&keyring, Keyring::lock);
    machine.run(["token"]).fails(
        4,
        "the token was renewed, but could not be saved: it is kept for the next command: cannot write to the keyring (the Secret Service): it is locked",
        "nothing was lost: fix that, and the next command completes it",
    );
    each_file_is_sealed(&machine);
    keyring.unlock();
    machine.run(["token"]).stdout("granted-access-2\n");
    assert_eq!((spent(&machine.server).len(), keyring.count()), (1, 1));
}

#[test]
fn a_renewal_that_is_killed_before_the_keyring_has_its_token_is_completed() {
    let Some(keyring) = Keyring::start() else { return };
    let machine = renewed_without_keyring(&keyring, |keyring| keyring.signal(Signal::SIGSTOP));
    let running = machine.spawn(["token"]);
    until("the draft is there", || drafts(&machine).iter().any(|text| text.contains("\"sealed\"")));
    running.signal(Signal::SIGKILL);
    running.finish().any_stderr().any_stdout().any_end();
    each_file_is_sealed(&machine);
    keyring.signal(Signal::SIGCONT);
    machine.run(["token"]).stdout("granted-access-2\n");
    assert_eq!((spent(&machine.server).len(), keyring.count()), (1, 1));
}

fn drafts(machine: &Machine) -> Vec<String> {
    let entries = fs::read_dir(machine.profiles()).unwrap().map(|entry| entry.unwrap().path());
    let drafts = entries.filter(|path| path.extension().is_some_and(|extension| extension == "tmp"));
    drafts.map(|path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()).collect()
}

#[track_caller]
fn each_file_is_sealed(machine: &Machine) {
    let drafts = drafts(machine);
    assert!(drafts.iter().any(|text| text.contains("\"sealed\"")), "{drafts:?}");
    assert!(!drafts.iter().any(|text| text.contains("granted-")), "{drafts:?}");
}

#[test]
fn without_a_keyring_the_hint_is_the_line_that_was_typed_with_a_command_for_the_key() {
    let login = ["login", "custom", "--store", "keyring", "--profile", "c", "--base-url"];
    let machine = machine().variable("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere");
    let url = format!("{}/v1", machine.server.url());
    let arguments = [&login[..], &[url.as_str(), "--api-key-stdin"]].concat();
    let outcome = machine.run_with_stdin(arguments, KEY.as_bytes()).exits(4).any_stderr();
    let line = "run `qwenauth login custom --profile c --base-url {server}/v1 --api-key-command COMMAND`, or";
    assert!(outcome.stderr.contains(line), "{outcome}");
}
