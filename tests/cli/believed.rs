//! Whose files are believed: those of the user, and those of root that nobody else can write, in directories that nobody
//! else can write. Root in the home of another user changes nothing but credentials there.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::faults::preloaded;
use crate::gateway::upstream::Gateway;
use crate::machine::{Machine, NOBODY, credential, each_path, mode, write_private};
use crate::run::Outcome;
use crate::server::{Ask, Reply};

/// An ordinary user who is not the one under test.
const OTHER: u32 = 12345;

/// Only root can make files of several users.
fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        println!("skipped: only root can make files of several users");
    }
    is_root
}

fn give(path: &Path, owner: u32, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    chown(path, Some(owner), Some(owner)).unwrap();
}

/// The home of an ordinary user, in which root works.
fn home_of_another(machine: Machine) -> Machine {
    each_path(&machine.home(), &mut |path| lchown(path, Some(NOBODY), Some(NOBODY)).unwrap());
    machine
}

fn owner_and_mode(path: &Path) -> (u32, u32) {
    (fs::symlink_metadata(path).unwrap().uid(), mode(path))
}

/// A file that decides where a login goes or what it is: how it is made, and a command that reads it.
struct Believed {
    what: &'static str,
    path: fn(&Machine) -> PathBuf,
    content: &'static str,
    config: &'static str,
    command: &'static [&'static str],
}

const BELIEVED: [Believed; 5] = [
    Believed {
        what: "config.toml",
        path: Machine::config,
        content: "profile = \"qwen\"\n",
        config: "",
        command: &["token"],
    },
    Believed { what: "credential", path: Machine::file, content: "", config: "", command: &["token"] },
    Believed {
        what: "API key profile",
        path: |machine| machine.profiles().join("work.json"),
        content: "{\"provider\":\"groq\",\"api_key\":\"granted-key-1\",\"base_url\":\"https://api.groq.com/openai/v1\"}",
        config: "",
        command: &["token", "--profile", "work"],
    },
    Believed {
        what: "client secret",
        path: |machine| machine.home().join("secret"),
        content: "hush\n",
        config: "[providers.corp]\nclient_id = \"c\"\nclient_secret_file = \"{home}/secret\"\n\
                 device_authorization_endpoint = \"{server}/device\"\ntoken_endpoint = \"{server}/token\"\n\
                 base_url = \"{server}/v1\"\ndefault_model = \"m\"\n",
        command: &["login", "corp", "--no-verify", "--qr", "never", "--force"],
    },
    Believed {
        what: "gateway key",
        path: |machine| machine.home().join("gateway-key"),
        content: "0123456789abcdef0123456789abcdef\n",
        config: "",
        command: &["gateway", "--api-key-file", "{home}/gateway-key", "--listen", "127.0.0.1:0"],
    },
];

impl Believed {
    fn machine(&self) -> Machine {
        let machine = Machine::new();
        let home = machine.home().display().to_string();
        let config = self.config.replace("{home}", &home);
        let machine = machine.logged_in().configured(&config);
        machine.server.serve("/device", |_| {
            let body = json!({
                "device_code": "granted-device-code", "user_code": "A", "verification_uri": "http://127.0.0.1/v",
                "interval": 0, "expires_in": 30,
            });
            Reply::json(200, body)
        });
        machine
            .server
            .serve("/token", |_| Reply::json(200, json!({"access_token": "granted-access-1", "expires_in": 60})));
        let path = (self.path)(&machine);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if !self.content.is_empty() {
            fs::write(&path, self.content).unwrap();
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let machine = machine.unprivileged();
        // It makes its directory readable.
        machine.program();
        machine
    }

    /// Whether the file is read. A gateway that starts is ended.
    fn run(&self, machine: &Machine) -> Outcome {
        let home = machine.home().display().to_string();
        let command = self.command.iter().map(|word| word.replace("{home}", &home));
        let running = machine.spawn(command);
        if self.command[0] == "gateway" && running.has_lines(1) {
            running.signal(nix::sys::signal::Signal::SIGTERM);
        }
        running.finish().any_stdout().any_stderr()
    }

    fn is_read(&self, machine: &Machine, how: &str) {
        let outcome = self.run(machine);
        assert!(!outcome.stderr.contains("error:"), "{} {how}: {outcome}", self.what);
        outcome.any_end();
    }

    fn is_refused(&self, machine: &Machine, how: &str, why: &str) {
        let path = (self.path)(machine);
        let before = (owner_and_mode(&path), fs::read(&path).unwrap());
        let requests = machine.server.requests().len();
        let outcome = self.run(machine).exits(1);
        assert!(outcome.stderr.contains(why), "{} {how}: {outcome}", self.what);
        assert_eq!((owner_and_mode(&path), fs::read(&path).unwrap()), before, "{} {how}", self.what);
        assert_eq!(machine.server.requests().len(), requests, "{} {how}: something was sent", self.what);
    }
}

#[test]
fn a_file_of_another_user_is_rejected_by_name() {
    if !is_root() {
        return;
    }
    for believed in &BELIEVED {
        let machine = believed.machine();
        let path = (believed.path)(&machine);
        for (owner, mode) in [(OTHER, 0o644), (OTHER, 0o600 | 0o044), (1, 0o444), (0, 0o664), (0, 0o646)] {
            give(&path, owner, mode);
            let name = path.file_name().unwrap().to_str().unwrap();
            believed.is_refused(&machine, &format!("of {owner}, {mode:o}"), name);
        }
        give(&path, NOBODY, 0o600);
        believed.is_read(&machine, "of the user");
    }
}

#[test]
fn a_file_that_only_root_can_write_is_read_and_not_changed() {
    if !is_root() {
        return;
    }
    for believed in &BELIEVED {
        let machine = believed.machine();
        let path = (believed.path)(&machine);
        for mode in [0o444, 0o644, 0o440, 0o640] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            chown(&path, Some(0), Some(NOBODY)).unwrap();
            let outcome = believed.run(&machine);
            assert!(!outcome.stderr.contains("tightened") && !outcome.stderr.contains("error:"), "{mode:o}: {outcome}");
            outcome.any_end();
            assert_eq!(owner_and_mode(&path), (0, mode), "{}", believed.what);
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
}

/// As Kubernetes mounts a secret: `..data` leads to a directory of that day, all of it root's.
#[test]
fn a_secret_is_read_as_kubernetes_mounts_it() {
    if !is_root() {
        return;
    }
    for believed in &BELIEVED {
        let machine = believed.machine();
        let path = (believed.path)(&machine);
        let (mount, name) = (path.parent().unwrap().to_owned(), path.file_name().unwrap().to_owned());
        if mount == machine.home() {
            give(&mount, 0, 0o755);
        }
        let day = mount.join("..2026_11_28_10_00_00.1234567890");
        fs::create_dir(&day).unwrap();
        fs::rename(&path, day.join(&name)).unwrap();
        symlink("..2026_11_28_10_00_00.1234567890", mount.join("..data")).unwrap();
        symlink(Path::new("..data").join(&name), &path).unwrap();
        give(&day.join(&name), 0, 0o444);
        give(&day, 0, 0o755);
        // A memory file system of the kubelet: everybody may write, only the owner of an entry may remove it.
        give(&mount, 0, 0o1777);
        believed.is_read(&machine, "through ..data");
        assert_eq!(owner_and_mode(&day.join(&name)), (0, 0o444));
        fs::remove_file(&path).unwrap();
        fs::remove_file(day.join(&name)).unwrap();
    }
}

#[test]
fn files_in_a_directory_that_others_can_write_are_rejected() {
    if !is_root() {
        return;
    }
    for believed in &BELIEVED {
        for (owner, mode, why) in [
            (OTHER, 0o755, "belongs to another user (uid 12345)"),
            (OTHER, 0o1777, "belongs to another user (uid 12345)"),
            (NOBODY, 0o777, "is writable by everyone (mode 0777)"),
            (0, 0o777, "is writable by everyone (mode 0777)"),
        ] {
            for levels in [1, 2] {
                let machine = believed.machine();
                let path = (believed.path)(&machine);
                let directory = path.ancestors().nth(levels).unwrap();
                give(directory, owner, mode);
                believed.is_refused(&machine, &format!("below {} {mode:o} of {owner}", directory.display()), why);
            }
        }
        let machine = believed.machine();
        give((believed.path)(&machine).parent().unwrap(), 0, 0o1777);
        believed.is_read(&machine, "in a sticky directory of root");
    }
}

#[test]
fn a_symlink_of_another_user_is_not_followed() {
    if !is_root() {
        return;
    }
    for believed in &BELIEVED {
        // The file itself, and a directory above it.
        for levels in [0, 1] {
            let machine = believed.machine();
            let path = (believed.path)(&machine);
            let link = path.ancestors().nth(levels).unwrap();
            if link == machine.home() {
                continue;
            }
            let moved = machine.directory().join("moved");
            fs::rename(link, &moved).unwrap();
            symlink(&moved, link).unwrap();
            lchown(link, Some(NOBODY), Some(NOBODY)).unwrap();
            believed.is_read(&machine, "through a link of the user");
            lchown(link, Some(OTHER), Some(OTHER)).unwrap();
            believed.is_refused(&machine, "through a link of another", "is a symlink of another user");
            fs::remove_file(link).unwrap();
            fs::rename(moved, link).unwrap();
        }
    }
}

#[test]
fn a_configuration_that_others_can_change_is_reported_or_made_private() {
    let machine = Machine::new().logged_in().configured("profile = \"qwen\"\n");
    fs::set_permissions(machine.config(), Permissions::from_mode(0o664)).unwrap();
    machine.run(["token"]).stdout("granted-access-1\n").stderr(
        "qwenauth: warning: other members of its group can change `{home}/.config/qwenauth/config.toml`; run `chmod g-w {home}/.config/qwenauth/config.toml` if they should not\n",
    );
    assert_eq!(mode(&machine.config()), 0o664);
    for (loose, tight) in [(0o666, 0o644), (0o602, 0o600), (0o662, 0o640)] {
        fs::set_permissions(machine.config(), Permissions::from_mode(loose)).unwrap();
        machine.run(["token"]).stdout("granted-access-1\n").stderr(&format!(
            "qwenauth: tightened the mode of `{{home}}/.config/qwenauth/config.toml` from 0{loose:o} to 0{tight:o}\n"
        ));
        assert_eq!(mode(&machine.config()), tight);
        machine.run(["token"]).stdout("granted-access-1\n");
    }
}

#[test]
fn a_key_file_of_the_user_is_made_private() {
    let believed = &BELIEVED[4];
    let machine = believed.machine();
    let path = (believed.path)(&machine);
    for (loose, tight) in [(0o644, 0o600), (0o440, 0o400), (0o604, 0o600)] {
        fs::set_permissions(&path, Permissions::from_mode(loose)).unwrap();
        let outcome = believed.run(&machine);
        let line = format!("qwenauth: tightened the mode of `{{home}}/gateway-key` from 0{loose:o} to 0{tight:o}\n");
        assert!(outcome.stderr.contains(&line), "{outcome}");
        outcome.any_end();
        assert_eq!(mode(&path), tight);
    }
}

#[test]
fn root_does_not_change_the_target_of_a_link_in_another_users_home() {
    if !is_root() {
        return;
    }
    let system = |machine: &Machine| {
        let path = machine.directory().join("system.conf");
        fs::write(&path, "Listen 80\n").unwrap();
        give(&path, 0, 0o644);
        path
    };
    let commands: [&[&str]; 6] = [
        &["token"],
        &["status"],
        &["refresh"],
        &["logout", "--local"],
        &["login", "--force", "--no-verify", "--qr", "never"],
        &["doctor", "--fix"],
    ];
    // The credential itself, its directory, and directories of state and profiles.
    for linked in [".qwen/oauth_creds.json", ".qwen", ".config", ".local/state", ".local/share"] {
        for command in commands {
            let machine = Machine::new();
            machine.server.serve("/", |_| Reply::text(200, "{}"));
            machine.server.always(Ask::DeviceCode, || Reply::error(400, "invalid_client"));
            let target = system(&machine);
            let place = machine.home().join(linked);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            let outside = machine.directory().join("outside");
            if linked.ends_with(".json") {
                symlink(&target, &place).unwrap();
            } else {
                fs::create_dir_all(&outside).unwrap();
                give(&outside, 0, 0o755);
                symlink(&outside, &place).unwrap();
            }
            let machine = home_of_another(machine);
            let outcome = machine.run(command).any_stdout().any_stderr();
            if linked.starts_with(".qwen") {
                assert!(
                    outcome.stderr.contains(linked) || outcome.stdout.contains(linked),
                    "{linked} {command:?}: {outcome}"
                );
                if command[0] != "doctor" && command[0] != "status" {
                    assert_eq!(outcome.code(), Some(1), "{linked} {command:?}: {outcome}");
                }
            }
            outcome.any_end();
            assert_eq!(
                (owner_and_mode(&target), fs::read_to_string(&target).unwrap()),
                ((0, 0o644), "Listen 80\n".into())
            );
            assert!(place.is_symlink(), "{linked} {command:?}");
            if outside.exists() {
                assert_eq!(owner_and_mode(&outside), (0, 0o755), "{linked} {command:?}");
                assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{linked} {command:?}");
            }
        }
    }
}

#[test]
fn root_changes_nothing_but_credentials_in_anothers_home() {
    if !is_root() {
        return;
    }
    for content in ["Listen 80\n", "{\"name\": \"package\"}\n"] {
        for is_link in [true, false] {
            let machine = Machine::new();
            let place = machine.file();
            fs::create_dir(machine.qwen()).unwrap();
            let file = if is_link { machine.home().join("mine") } else { place.clone() };
            fs::write(&file, content).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
            if is_link {
                symlink(&file, &place).unwrap();
            }
            let machine = home_of_another(machine);
            machine.run(["token"]).any_stderr().exits(4);
            let outcome = machine.run(["logout", "--local"]).any_stderr().exits(1);
            assert!(outcome.stderr.contains("not a credential and was kept"), "{outcome}");
            assert_eq!((owner_and_mode(&file), fs::read_to_string(&file).unwrap()), ((NOBODY, 0o644), content.into()));
        }
    }
    let machine = home_of_another(Machine::expired().refresh(Reply::tokens("2")));
    fs::set_permissions(machine.file(), Permissions::from_mode(0o644)).unwrap();
    let outcome = machine.run(["token"]).stdout("granted-access-2\n").any_stderr();
    assert!(outcome.stderr.contains("tightened the mode"), "{outcome}");
    assert_eq!(owner_and_mode(&machine.file()), (NOBODY, 0o600));
    each_path(&machine.home(), &mut |path| assert_eq!(owner_and_mode(path).0, NOBODY, "{}", path.display()));
    drop(machine.run(["logout", "--local"]).any_stderr());
    assert!(!machine.file().exists());
}

#[test]
fn what_root_makes_for_a_team_belongs_to_the_owner_of_the_home() {
    if !is_root() {
        return;
    }
    let machine = home_of_another(Machine::new());
    drop(machine.run(["keys", "create", "ann"]).any_stdout().any_stderr());
    let secret = machine.home().join(".local/share/qwenauth/team/secret");
    assert_eq!(owner_and_mode(&secret), (NOBODY, 0o600));
    each_path(&machine.home(), &mut |path| assert_eq!(owner_and_mode(path).0, NOBODY, "{}", path.display()));
}

#[test]
fn root_leaves_a_hard_link_in_anothers_home_to_a_file_of_its_own() {
    if !is_root() {
        return;
    }
    for (place, command) in [
        (".qwen/.oauth_creds.qwenauth-lock", &["token"][..]),
        (".qwen/oauth_creds.json", &["token"]),
        (".config/qwenauth/config.toml", &["token"]),
        (".local/state/qwenauth/setup/.setup.qwenauth-lock", &["setup", "codex", "--remove"]),
    ] {
        let machine = home_of_another(Machine::expired());
        let target = machine.directory().join("system.conf");
        fs::write(&target, "Listen 80\n").unwrap();
        give(&target, 0, 0o644);
        let link = machine.home().join(place);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        drop(fs::remove_file(&link));
        fs::hard_link(&target, &link).unwrap();
        for directory in link.parent().unwrap().ancestors().take_while(|path| *path != machine.home()) {
            give(directory, NOBODY, 0o700);
        }
        let outcome = machine.run(command).exits(1).any_stdout().any_stderr();
        assert!(outcome.stderr.contains("is a hard link to a file of root and is not used"), "{place}: {outcome}");
        assert_eq!((owner_and_mode(&target), fs::read_to_string(&target).unwrap()), ((0, 0o644), "Listen 80\n".into()));
    }
}

#[test]
fn root_undoes_no_set_up_that_the_owner_of_the_home_made_up() {
    if !is_root() {
        return;
    }
    let machine = Machine::new().logged_in();
    let target = machine.directory().join("system.conf");
    fs::write(&target, "Listen 80\n").unwrap();
    give(&target, 0, 0o644);
    let directory = machine.directory().join("empty");
    fs::create_dir(&directory).unwrap();
    let hash: String = Sha256::digest("Listen 80\n").iter().map(|byte| format!("{byte:02x}")).collect();
    let own = machine.home().join("own.toml");
    fs::write(&own, "Listen 80\n").unwrap();
    let record = |file: &Path, companion: Option<&Path>, made: Option<&Path>| {
        json!({
            "file": file, "profile": "qwen", "base_url": "", "written": hash, "before": null, "clean": true, "entries": [],
            "companions": companion.map(|file| json!({"file": file, "written": hash})).into_iter().collect::<Vec<_>>(),
            "made": made.into_iter().collect::<Vec<_>>(),
        })
    };
    let machine = home_of_another(machine);
    let place = machine.home().join(".local/state/qwenauth/setup/codex.json");
    for (text, code) in [
        (record(&target, None, None), 1),
        (record(&own, Some(&target), None), 1),
        (record(&own, None, Some(&directory)), 1),
        (record(&own, None, None), 0),
    ] {
        for command in [&["setup", "codex", "--remove", "--force"][..], &["setup", "codex"]] {
            if code == 0 && command.len() == 2 {
                continue;
            }
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            write_private(&place, text.to_string());
            each_path(&machine.home(), &mut |path| lchown(path, Some(NOBODY), Some(NOBODY)).unwrap());
            let outcome = machine.run(command).any_stdout().any_stderr().exits(code);
            assert_eq!(
                outcome.stderr.contains("which that user does not own; nothing was changed"),
                code == 1,
                "{text}: {outcome}"
            );
            assert_eq!(
                (owner_and_mode(&target), fs::read_to_string(&target).unwrap()),
                ((0, 0o644), "Listen 80\n".into())
            );
            assert!(directory.is_dir());
        }
    }
    assert!(!own.exists() && !place.exists(), "what is the user's own is undone");
}

#[test]
fn root_removes_records_of_ours_in_anothers_home() {
    if !is_root() {
        return;
    }
    let refusal = Reply::json(401, json!({"error": {"message": "no access"}}));
    let machine = Machine::new().logged_in().scripted(Ask::Chat, refusal).scripted(Ask::Chat, crate::login::chat());
    let machine = home_of_another(machine.refresh(Reply::tokens("2")));
    let below = |name: &str| fs::read_dir(machine.home().join(".local/state/qwenauth").join(name)).unwrap().count();
    drop(machine.run(["status", "--check"]).any_stdout().any_stderr().exits(4));
    assert_eq!(below("refused-by-api"), 1);
    drop(machine.run(["status", "--check"]).any_stdout().any_stderr());
    assert_eq!(below("refused-by-api"), 0, "what the API accepted is no longer called refused");
    drop(machine.run(["refresh"]).any_stderr());
    assert_eq!(below("origins"), 1);
    drop(machine.run(["logout", "--local"]).any_stderr());
    assert_eq!(below("origins"), 0);
}

#[test]
fn a_login_through_a_link_keeps_what_is_not_a_credential() {
    let machine = crate::login::polls([]).granted();
    fs::create_dir(machine.qwen()).unwrap();
    let mine = machine.home().join("notes.txt");
    fs::write(&mine, "notes\n").unwrap();
    fs::set_permissions(&mine, Permissions::from_mode(0o644)).unwrap();
    symlink(&mine, machine.file()).unwrap();
    drop(machine.run(["login"]).exits(0).any_stderr());
    assert_eq!((fs::read_to_string(&mine).unwrap(), mode(&mine)), ("notes\n".into(), 0o644));
    assert_eq!(fs::read_link(machine.qwen().join("oauth_creds.json.damaged-1")).unwrap(), mine);
    machine.holds_the_grant();
}

#[test]
fn root_uses_key_files_of_its_own_and_of_the_owner_of_the_home() {
    if !is_root() {
        return;
    }
    let believed = &BELIEVED[4];
    for (home, key, is_read) in
        [(0, 0, true), (NOBODY, NOBODY, true), (NOBODY, 0, true), (0, OTHER, false), (NOBODY, OTHER, false)]
    {
        let machine = Machine::new().logged_in();
        let path = (believed.path)(&machine);
        fs::write(&path, believed.content).unwrap();
        each_path(&machine.home(), &mut |path| lchown(path, Some(home), Some(home)).unwrap());
        give(&path, key, 0o600);
        if is_read {
            believed.is_read(&machine, &format!("{home} {key}"));
        } else {
            believed.is_refused(&machine, &format!("{home} {key}"), "belongs to another user");
        }
    }
}

#[test]
fn root_runs_no_command_and_changes_no_file_that_the_owner_of_the_home_names() {
    if !is_root() {
        return;
    }
    let machine = Machine::new().logged_in();
    let (secret, ran) = (machine.directory().join("of-root"), machine.directory().join("ran"));
    fs::write(&secret, "granted-key-1\n").unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o644)).unwrap();
    let command = format!("touch {}", ran.display());
    let machine = machine.configured(&format!(
        "[hooks]\nlogin_required = [\"sh\", \"-c\", \"{command}\"]\n[providers.groq]\nkey_file = \"{}\"\n",
        secret.display()
    ));
    let record = json!({"provider": "custom", "api_key_command": format!("sh -c '{command}; echo granted-key-1'"),
        "store": "command", "base_url": "http://127.0.0.1:9/v1"});
    write_private(&machine.profiles().join("work.json"), record.to_string());
    let machine = home_of_another(machine);

    machine.run(["token", "--profile", "work"]).fails(
        1,
        &format!("`{{home}}/.local/share/qwenauth/credentials/work.json` belongs to another user (uid {NOBODY}), and root does not run commands from it"),
        "run this as that user, or set `QWENAUTH_HOME` to a directory of root's own",
    );
    machine.run(["token", "--profile", "groq"]).stdout("granted-key-1\n");
    assert_eq!(owner_and_mode(&secret), (0, 0o644));
    let gateway = Gateway::start(&machine, &[]);
    fs::remove_file(machine.file()).unwrap();
    gateway.chat().is(503);
    // It waits for hooks.
    gateway.running.signal(nix::sys::signal::Signal::SIGTERM);
    let outcome = gateway.running.finish().any_stdout().any_stderr();
    assert!(
        outcome.stderr.contains("warning: no hook runs: `{home}/.config/qwenauth/config.toml` belongs to another user"),
        "{outcome}"
    );
    outcome.any_end();
    assert!(!ran.exists());

    // Its own it runs there as well.
    for path in [machine.config(), machine.profiles().join("work.json")] {
        lchown(&path, Some(0), Some(0)).unwrap();
    }
    machine.run(["token", "--profile", "work"]).stdout("granted-key-1\n");
    assert!(ran.exists());
}

/// A file system where `chmod` succeeds and changes nothing, as WSL mounts the drives of Windows.
#[test]
fn a_mode_that_cannot_be_changed_is_reported_once() {
    let machine = Machine::new().logged_in().configured("profile = \"qwen\"\n");
    let library = machine.directory().join("nochmod.so");
    let source = "int chmod(const char*p,unsigned m){return 0;} int fchmod(int f,unsigned m){return 0;}\
                  int fchmodat(int d,const char*p,unsigned m,int f){return 0;}";
    let script = "echo \"$SOURCE\" | cc -shared -fPIC -x c - -o \"$LIBRARY\"";
    let mut compiler = machine.other("sh");
    compiler.args(["-c", script]).env("SOURCE", source).env("LIBRARY", &library);
    let is_compiled = machine.start(compiler).finish().any_stderr().any_stdout().code() == Some(0);
    if !crate::machine::possible(is_compiled, "compile C") {
        return;
    }
    fs::set_permissions(machine.file(), Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(machine.config(), Permissions::from_mode(0o666)).unwrap();
    let machine = machine.variable("LD_PRELOAD", library);
    machine.run(["token"]).stdout("granted-access-1\n").stderr(
        "qwenauth: `{home}/.config/qwenauth/config.toml` can be changed by others (mode 0666), and its mode cannot be \
         changed: its file system ignores `chmod`\n\
         qwenauth: `{home}/.qwen/oauth_creds.json` can be read by others (mode 0777), and its mode cannot be changed: its \
         file system ignores `chmod`\n",
    );
    for _ in 0..2 {
        machine.run(["token"]).stdout("granted-access-1\n");
    }
    assert_eq!((mode(&machine.file()), mode(&machine.config())), (0o777, 0o666));
}

#[test]
fn the_error_names_a_file_that_is_too_large() {
    let machine = Machine::new().logged_in().configured(&format!("# {}\n", "x".repeat(1_200_000)));
    machine.run(["token"]).fails(
        1,
        "cannot read `{home}/.config/qwenauth/config.toml`: it has 1200003 bytes, more than 1 MiB",
        "",
    );
}

#[test]
fn a_relative_directory_in_a_variable_is_an_error_and_nothing_is_read() {
    let machine = Machine::new();
    let evil = machine.directory().join(".q/config");
    fs::create_dir_all(&evil).unwrap();
    fs::write(evil.join("config.toml"), "[providers.evil]\nbase_url = \"https://e.example/v1\"\n").unwrap();
    write_private(&machine.directory().join(".q/oauth_creds.json"), credential("1").to_string());
    for variable in ["QWENAUTH_HOME", "QWEN_HOME", "HOME"] {
        for value in [".q", "./.q", "q/../.q", "..", "~x"] {
            for command in [&["providers", "evil"][..], &["token"], &["status"], &["login", "groq"], &["use", "evil"]] {
                let mut program = machine.command(command);
                program.env(variable, value);
                let hint = format!("set `{variable}` to an absolute path");
                let outcome = machine.start(program).finish();
                outcome.fails(1, &format!("`{variable}` is `{value}`, which is not an absolute path"), &hint);
            }
        }
    }
}

#[test]
fn without_a_home_directory_only_the_profile_qwen_needs_one() {
    if !is_root() {
        return;
    }
    let machine = Machine::new().unprivileged();
    machine.program();
    give(machine.directory(), 0, 0o755);
    let own = machine.directory().join("own");
    fs::create_dir(&own).unwrap();
    give(&own, 54321, 0o700);
    let machine = machine.without_variable("HOME").variable("QWENAUTH_HOME", own);
    let run = |words: &[&str]| {
        let mut command = machine.command(words);
        command.uid(54321).gid(54321).env("KEY", "granted-key-1");
        machine.start(command).finish()
    };
    let login =
        ["login", "custom", "--base-url", "http://127.0.0.1:9/v1", "--model", "m", "--no-verify", "--api-key-env"];
    drop(run(&[&login[..], &["KEY"]].concat()).exits(0).any_stderr().any_stdout());
    run(&["token"]).stdout("granted-key-1\n");
    // Nothing is read in a directory that is not there yet, whoever could make it.
    let open = machine.directory().join("open");
    fs::create_dir(&open).unwrap();
    give(&open, 0, 0o777);
    let mut command = machine.command([&login[..], &["KEY"]].concat());
    command.uid(54321).gid(54321).env("KEY", "granted-key-1").env("QWENAUTH_HOME", open.join("s"));
    drop(machine.start(command).finish().exits(0).any_stderr().any_stdout());
    for words in [
        &["status"][..],
        &["env"],
        &["exec", "--", "true"],
        &["providers"],
        &["profiles"],
        &["usage"],
        &["doctor"],
        &["__complete", "use", ""],
        &["logout"],
    ] {
        let outcome = run(words).any_stdout().any_stderr();
        assert!(
            !outcome.stderr.contains("home directory") && !outcome.stdout.contains("home directory"),
            "{words:?}: {outcome}"
        );
        outcome.any_end();
    }
    run(&["token", "--profile", "qwen"]).fails(
        1,
        "there is no home directory: `HOME` is not set and the user has no passwd entry",
        "set `HOME`, or both `QWENAUTH_HOME` and `QWEN_HOME`",
    );
}

/// A file of the working directory, which may be a cloned repository, is no secret of the user's.
#[test]
fn a_relative_path_in_the_configuration_is_an_error() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("secret"), "hush\n").unwrap();
    let run = |config: &str, words: &[&str]| {
        let machine = Machine::new().logged_in().configured(config);
        let mut command = machine.command(words);
        command.current_dir(place.path());
        let outcome = machine.start(command).finish().exits(1).any_stderr();
        assert_eq!(machine.server.requests().len(), 0, "{config}");
        outcome.stderr.lines().next().unwrap_or_default().to_owned()
    };
    let corp = "[providers.corp]\nclient_id = \"c\"\nclient_secret_file = \"secret\"\n\
                device_authorization_endpoint = \"{server}/device\"\ntoken_endpoint = \"{server}/token\"\n\
                base_url = \"{server}/v1\"\ndefault_model = \"m\"\n";
    assert_eq!(
        run(corp, &["login", "corp", "--no-verify"]),
        "qwenauth: error: the client secret of provider `corp` is missing: `client_secret_file` is not an absolute path"
    );
    let team = "[team]\npassword_file = \"secret\"\n";
    assert_eq!(
        run(team, &["gateway", "--shared"]),
        "qwenauth: error: `team.password_file` in `{home}/.config/qwenauth/config.toml` is invalid"
    );
}

/// What a variable can name, and the words of the error that names it.
const NAMED: [(&str, &str); 3] = [
    ("QWENAUTH_API_KEY_FILE", "`QWENAUTH_API_KEY_FILE`: "),
    ("QWENAUTH_CA_FILE", "cannot use the certificates of `QWENAUTH_CA_FILE`, `{pipe}`: "),
    ("SSL_CERT_FILE", "cannot use the certificates of `SSL_CERT_FILE`, `{pipe}`: "),
];

/// A home of an ordinary user with a FIFO `pipe` in a directory `place`, which `variable` names.
fn with_pipe(variable: &str) -> (Machine, PathBuf) {
    let machine = Machine::expired();
    let place = machine.home().join("place");
    fs::create_dir(&place).unwrap();
    let pipe = place.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    // Certificates are read where they are needed.
    let machine = machine.variable("QWENAUTH_QWEN_OAUTH_URL", "https://localhost:1").variable(variable, &pipe);
    let machine = machine.variable("QWENAUTH_PROVIDER", "groq").unprivileged();
    // It makes its directory readable.
    machine.program();
    machine.own_everything();
    (machine, pipe)
}

/// A pipe made unbelievable, and why it is.
type Spoiled = (&'static str, fn(&Path));

/// Nobody writes into the pipe: a program that opens it never ends.
#[test]
fn a_pipe_that_another_user_made_or_may_change_is_rejected_before_it_is_opened() {
    if !is_root() {
        return;
    }
    let changes: [Spoiled; 6] = [
        ("`{pipe}` belongs to another user (uid 12345) and is not used", |pipe| give(pipe, OTHER, 0o644)),
        ("`{pipe}` belongs to root but can be changed by others (mode 0666), and is not used", |pipe| {
            give(pipe, 0, 0o666);
        }),
        ("`{pipe}` is writable by others (mode 0622) and is not used", |pipe| give(pipe, NOBODY, 0o622)),
        ("`{place}` belongs to another user (uid 12345), so `{pipe}` is not used", |pipe| {
            give(pipe.parent().unwrap(), OTHER, 0o755);
        }),
        ("`{place}` is writable by everyone (mode 0777), so `{pipe}` is not used", |pipe| {
            give(pipe.parent().unwrap(), NOBODY, 0o777);
        }),
        ("`{pipe}` is a symlink of another user and is not followed", |pipe| {
            let moved = pipe.with_file_name("moved");
            fs::rename(pipe, &moved).unwrap();
            symlink(&moved, pipe).unwrap();
            lchown(pipe, Some(OTHER), Some(OTHER)).unwrap();
        }),
    ];
    for (variable, begins) in NAMED {
        for (why, change) in changes {
            let (machine, pipe) = with_pipe(variable);
            change(&pipe);
            let told = format!("{begins}{why}").replace("{pipe}", "{home}/place/pipe");
            let outcome = machine.run(["token"]).exits(1);
            let first = outcome.stderr.lines().next().unwrap_or_default();
            assert_eq!(first, format!("qwenauth: error: {}", told.replace("{place}", "{home}/place")), "{variable}");
            drop(outcome.any_stderr());
            assert_eq!(machine.server.requests().len(), 0, "{variable}: something was sent");
        }
    }
}

#[test]
fn a_pipe_of_the_user_is_read() {
    let (machine, pipe) = with_pipe("QWENAUTH_API_KEY_FILE");
    let script = format!("printf granted-given-key > {} & exec $QWENAUTH token", pipe.display());
    machine.shell(&script).stdout("granted-given-key\n");
}

/// The system's reader of certificates would wait for a writer at every connection; it opens no pipe in a directory.
#[test]
fn a_pipe_of_the_user_is_not_accepted_as_the_systems_certificates() {
    let (machine, pipe) = with_pipe("SSL_CERT_FILE");
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    let machine = machine.variable("SSL_CERT_DIR", pipe.parent().unwrap());
    machine.run(["token"]).fails(
        1,
        "cannot use the certificates of `SSL_CERT_FILE`, `{home}/place/pipe`: it is not a regular file",
        "set it to a regular file; only `QWENAUTH_CA_FILE` may be a pipe",
    );
    let told =
        "fail  certificates `SSL_CERT_FILE` names `~/place/pipe`, which cannot be read: it is not a regular file\n";
    machine.shell("$QWENAUTH doctor 2>&1 | grep '^fail  cert'").stdout(told);
    let machine = machine.variable("SSL_CERT_FILE", "");
    let outcome = machine.run(["token"]).exits(1).any_stderr();
    assert!(outcome.stderr.contains("no CA certificates were found"), "{outcome}");
}

/// A pipe has its content once, and each connection needs it.
#[test]
fn a_pipe_of_certificates_serves_every_connection() {
    let (machine, pipe) = with_pipe("QWENAUTH_CA_FILE");
    let machine = machine.field("resource_url", json!("https://localhost:2"));
    machine.own_everything();
    let ca = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/ca.pem");
    let script = format!(
        "cat {ca} > {} & $QWENAUTH doctor 2>&1 | grep -e pipe -e 'cannot reach' | cut -c -100; wait",
        pipe.display()
    );
    let outcome = machine.shell(&script).any_stdout();
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[0], "ok    certificates `QWENAUTH_CA_FILE` names the pipe `~/place/pipe`, which was not opened");
    assert_eq!(lines[1..].iter().filter(|line| line.starts_with("fail  network")).count(), 2, "{outcome}");
}

/// A descriptor was handed over by whoever started the program, whatever became of its file.
#[test]
fn a_descriptor_is_read_though_its_file_is_gone() {
    let machine = Machine::new().variable("QWENAUTH_API_KEY_FILE", "/dev/fd/3").variable("QWENAUTH_PROVIDER", "groq");
    let file = machine.directory().join("gone");
    fs::write(&file, "granted-given-key").unwrap();
    let script = format!("exec 3< {0}; rm {0}; exec $QWENAUTH token", file.display());
    machine.shell(&script).stdout("granted-given-key\n");
}

/// `doctor` looks at what the variables name as the program does, and waits for no pipe.
#[test]
fn doctor_names_a_pipe_of_another_user() {
    if !is_root() {
        return;
    }
    for variable in ["QWENAUTH_CA_FILE", "SSL_CERT_FILE"] {
        let (machine, pipe) = with_pipe(variable);
        // No TLS, for which the system's reader of certificates would open the pipe; and no name resolves.
        let url = machine.server.url();
        let machine = machine.variable("QWENAUTH_QWEN_OAUTH_URL", url);
        let Some(machine) = preloaded(machine, "HOSTS", ".nowhere") else { return };
        machine.own_everything();
        give(&pipe, OTHER, 0o644);
        machine.server.serve("/", |_| Reply::text(404, "{}"));
        let told = format!(
            "fail  certificates `{variable}` names `~/place/pipe`, which cannot be read: `~/place/pipe` belongs to another \
             user (uid 12345) and is not used\n"
        );
        machine.shell("$QWENAUTH doctor | grep '^fail  cert'").stdout(&told);
    }
}

#[test]
fn a_credential_that_may_not_be_read_hides_no_other_profile() {
    if !is_root() {
        return;
    }
    let machine = Machine::new().logged_in();
    let path = machine.profiles().join("work.json");
    write_private(
        &path,
        r#"{"provider":"groq","api_key":"granted-key-1","base_url":"https://api.groq.com/openai/v1"}"#,
    );
    let machine = machine.unprivileged();
    give(&path, OTHER, 0o644);
    let why = "work.json` belongs to another user (uid 12345)";
    let mut outcome = machine.run(["profiles", "--json"]).exits(0).any_stderr();
    let told = outcome.json();
    assert_eq!((&told["profiles"][0]["profile"], &told["profiles"][1]["kind"]), (&json!("qwen"), &json!("unreadable")));
    assert!(outcome.stderr.starts_with("qwenauth: warning: ") && outcome.stderr.contains(why), "{outcome}");
    let mut outcome = machine.run(["status", "--all", "--json"]).exits(4);
    let told = outcome.json();
    assert_eq!((&told["profiles"][0]["state"], &told["profiles"][1]["state"]), (&json!("valid"), &json!("damaged")));
    assert!(told["profiles"][1]["problems"][0].as_str().unwrap().contains(why), "{told}");
    let outcome = machine.run(["status", "--all"]).exits(4).any_stdout();
    assert!(outcome.stdout.contains("credential  cannot be read\n"), "{outcome}");
    drop(outcome);
    give(&path, NOBODY, 0o600);
}
