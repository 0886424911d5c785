//! A key in a file that config.toml or a variable names: used without a login, and read again when it changes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::gateway::upstream::{Gateway, Upstream, fine};
use crate::machine::{Machine, mode, write_private};

const FIRST: &str = "granted-file-key-1";
const SECOND: &str = "granted-file-key-2";

/// The file of the key, and a config.toml that names it for `groq` at that API.
fn with_key_file(address: &str) -> (Machine, PathBuf) {
    let machine = Machine::new();
    let file = machine.directory().join("secret");
    let text = format!(
        "profile = \"groq\"\n[providers.groq]\nbase_url = \"http://{address}/v1\"\nkey_file = \"{}\"\n",
        file.display()
    );
    (machine.configured(&text), file)
}

/// As Kubernetes lays a Secret out: the file is a symlink through a directory that is swapped as a whole.
struct Mounted(PathBuf);

impl Mounted {
    fn new(directory: &Path, file: &Path, key: &str) -> Self {
        let mounted = Self(directory.to_owned());
        mounted.swap(key);
        symlink("data/key", file).unwrap();
        mounted
    }

    fn swap(&self, key: &str) {
        let version = self.0.join(format!("of-{key}"));
        fs::create_dir(&version).unwrap();
        write_private(&version.join("key"), format!("{key}\n"));
        symlink(version.file_name().unwrap(), self.0.join("new")).unwrap();
        fs::rename(self.0.join("new"), self.0.join("data")).unwrap();
    }
}

#[test]
fn a_provider_whose_key_is_in_a_file_needs_no_login() {
    let (machine, file) = with_key_file("127.0.0.1:9");
    write_private(&file, format!("{FIRST}\n"));
    machine.run(["token"]).stdout(&format!("{FIRST}\n"));
    machine
        .run(["token", "--profile", "groq", "--format", "header"])
        .stdout(&format!("Authorization: Bearer {FIRST}\n"));
    let mut outcome = machine.run(["status", "--json"]);
    let row = &outcome.json()["profiles"][0];
    assert_eq!((&row["state"], &row["path"]), (&json!("valid"), &json!("{machine}/secret")));
    assert!(!outcome.stdout.contains("granted-"), "{outcome}");
    let listed = machine.run(["profiles"]).any_stdout();
    assert!(listed.stdout.contains("* groq"), "{listed}");
    machine.shell("$QWENAUTH exec -- sh -c 'echo $OPENAI_API_KEY'").stdout(&format!("{FIRST}\n"));
    assert!(!machine.profiles().exists(), "something was stored");
    // It is taken from others, as every file with a key is.
    drop(machine.shell(&format!("chmod 644 {}", file.display())).exits(0));
    let said = machine.run(["token"]).any_stdout().any_stderr();
    assert!(said.stderr.contains("tightened the mode"), "{said}");
    assert_eq!(mode(&file) & 0o777, 0o600);
}

#[test]
fn a_swapped_symlink_is_the_key_of_the_next_request() {
    let upstream = Upstream::always(fine());
    let (machine, file) = with_key_file(&upstream.address);
    let mounted = Mounted::new(machine.directory(), &file, FIRST);
    let gateway = Gateway::start(&machine, &[]);
    gateway.chat().is(200);
    mounted.swap(SECOND);
    gateway.chat().is(200);
    let bearers: Vec<String> = upstream.asked().iter().map(|asked| asked.header("authorization").to_owned()).collect();
    assert_eq!(bearers, [format!("Bearer {FIRST}"), format!("Bearer {SECOND}")]);
}

#[test]
fn the_file_of_the_variable_is_read_again_as_well() {
    let upstream = Upstream::always(fine());
    let (machine, file) = with_key_file(&upstream.address);
    let other = machine.directory().join("other");
    write_private(&file, "granted-unused");
    write_private(&other, FIRST);
    let machine = machine.variable("QWENAUTH_API_KEY_FILE", &other).variable("QWENAUTH_PROVIDER", "groq");
    let gateway = Gateway::start(&machine, &[]);
    gateway.chat().is(200);
    write_private(&machine.directory().join("part"), SECOND);
    fs::rename(machine.directory().join("part"), &other).unwrap();
    gateway.chat().is(200);
    let bearers: Vec<String> = upstream.asked().iter().map(|asked| asked.header("authorization").to_owned()).collect();
    assert_eq!(bearers, [format!("Bearer {FIRST}"), format!("Bearer {SECOND}")]);
}

#[test]
fn a_file_that_is_not_there_yet_is_not_a_login_and_is_found_when_it_comes() {
    let upstream = Upstream::always(fine());
    let (machine, file) = with_key_file(&upstream.address);
    machine.run(["token"]).fails(4, "`key_file`: cannot read `{machine}/secret`: it is missing", "");
    write_private(&file, FIRST);
    let gateway = Gateway::start(&machine, &[]);
    let ready = || gateway.send("GET /readyz", "", b"").got();
    ready().is(200);
    fs::remove_file(&file).unwrap();
    assert_eq!(ready().is(503).json(), json!({"ready": false, "credential": "login_required"}));
    assert_eq!(gateway.chat().is(503).code(), "login_required");
    write_private(&file, SECOND);
    ready().is(200);
    gateway.chat().is(200);
    assert_eq!(upstream.asked()[0].header("authorization"), format!("Bearer {SECOND}"));
    drop(gateway);
    write_private(&file, "");
    machine.run(["token"]).fails(4, "the key in `{machine}/secret` is empty", "");
}

#[test]
fn what_is_wrong_with_the_file_is_remedied_in_the_file() {
    let fallback = "[fallback]\nprofiles = [\"groq\"]\n[fallback.models.m]\ngroq = \"m\"\n";
    let (machine, file) = with_key_file("127.0.0.1:9");
    let text = fs::read_to_string(machine.config()).unwrap();
    let remedy = "put a valid key into `{machine}/secret`";
    let check = |content: &str, wrong: &str| {
        let status = machine.run(["status"]).exits(4).any_stdout();
        assert!(status.stdout.contains(&format!("problem     {wrong}; {remedy}\n")), "{status}");
        let doctor = machine.run(["doctor"]).exits(1).any_stdout();
        assert!(doctor.stdout.contains("→ put a valid key into `"), "{content}: {doctor}");
        assert!(!doctor.stdout.contains("qwenauth login"), "{content}: {doctor}");
    };
    check("none", "not logged in");
    write_private(&file, "");
    check("empty", "the key in `{machine}/secret` is empty");
    fs::remove_file(&file).unwrap();
    let machine = machine.configured(&(text.replace("profile = \"groq\"\n", "") + fallback)).logged_in();
    machine.run(["gateway"]).fails(
        4,
        "fallback names profile `groq`, which is not logged in",
        &format!("{remedy}, or omit it"),
    );
}

#[test]
fn a_key_of_another_provider_is_not_sent() {
    let (machine, file) = with_key_file("127.0.0.1:9");
    write_private(&file, "sk-or-v1-0123456789abcdef0123456789abcdef");
    machine.run(["token"]).fails(
        4,
        "the key in `{machine}/secret` starts with `sk-or-`, so it belongs to `openrouter`, not to `groq`",
        "write `key_file` under `[providers.openrouter]` in config.toml",
    );
}

#[test]
fn login_and_logout_say_that_the_key_is_in_a_file() {
    let (machine, file) = with_key_file("127.0.0.1:9");
    write_private(&file, FIRST);
    machine.run(["login", "groq", "--api-key-stdin"]).fails(
        2,
        "the key of profile `groq` is in `{machine}/secret`, which config.toml names",
        "replace the key in that file, or log in to another profile: `--profile groq-2`",
    );
    let said = machine.run(["logout"]).any_stdout().any_stderr();
    assert!(said.stderr.contains("is used as long as config.toml names it"), "{said}");
    machine.run(["token"]).stdout(&format!("{FIRST}\n"));
}

#[test]
fn logout_removes_a_stored_key_beside_one_in_a_file() {
    for is_there in [false, true] {
        let machine = Machine::new();
        drop(
            machine.run_with_stdin(["login", "groq", "--api-key-stdin", "--no-verify"], SECOND.as_bytes()).any_stderr(),
        );
        let file = machine.directory().join("secret");
        if is_there {
            write_private(&file, FIRST);
        }
        let machine = machine.configured(&format!("[providers.groq]\nkey_file = \"{}\"\n", file.display()));
        let outcome = machine.run(["logout", "--profile", "groq"]).any_stderr();
        assert!(outcome.stderr.ends_with("qwenauth: logged out of `groq`\n"), "{outcome}");
        assert_eq!(machine.profile("groq"), serde_json::Value::Null);
    }
}

#[test]
fn a_path_that_depends_on_the_working_directory_is_rejected() {
    let machine = Machine::new().configured("[providers.groq]\nkey_file = \"secret\"\n");
    machine.run(["token"]).fails(
        1,
        "`key_file` of `[providers.groq]` in `{home}/.config/qwenauth/config.toml` is not an absolute path",
        "start it with `/` or `~/`",
    );
}

#[test]
fn readiness_follows_a_logout_and_a_login() {
    let upstream = Upstream::always(fine());
    let machine = Machine::new();
    let base_url = format!("http://{}/v1", upstream.address);
    let login = || {
        let words = crate::keys::by_stdin("custom", &["--no-verify", "--base-url", &base_url, "--model", "m"]);
        drop(machine.run_with_stdin(words, FIRST.as_bytes()).exits(0).any_stderr());
    };
    login();
    let gateway = Gateway::start(&machine, &[]);
    let ready = || gateway.send("GET /readyz", "", b"").got().status;
    assert_eq!(ready(), 200);
    for _ in 0..3 {
        drop(machine.run(["logout"]).any_stdout().any_stderr());
        assert_eq!((ready(), ready()), (503, 503));
        login();
        assert_eq!(ready(), 200);
    }
    gateway.running.signal(Signal::SIGTERM);
    drop(gateway.running.finish().dies_by(Signal::SIGTERM).any_stdout());
}
