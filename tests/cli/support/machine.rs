//! The real program in a home directory of its own, with a server of its own on loopback.
//!
//! No secret may be left in a file other than the credential file. All tokens here start with `granted-`, so that this
//! is checked after every test.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::run::{Outcome, Running, log_level};
use super::server::{Ask, PATIENCE, Reply, Server};

/// A user without privileges, for tests that run as root.
pub(crate) const NOBODY: u32 = 65534;

pub(crate) struct Machine {
    pub(crate) server: Arc<Server>,
    directory: TempDir,
    environment: BTreeMap<OsString, OsString>,
    /// Runs as this user, when the tests run as root
    user: Option<u32>,
    /// Whether processes are killed here, which may leave files that the next renewal or `doctor` removes
    has_kills: bool,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self::at(Arc::new(Server::start()))
    }

    /// A home directory at this provider, which several may have.
    pub(crate) fn at(server: Arc<Server>) -> Self {
        thread::sleep(until_the_next_day(now_ms().cast_unsigned() / 1000));
        let directory = tempfile::Builder::new().prefix("qwenauth-test-").tempdir().unwrap();
        let home = directory.path().join("home");
        fs::DirBuilder::new().mode(0o700).create(&home).unwrap();
        let machine = Self { server, directory, environment: BTreeMap::new(), user: None, has_kills: false };
        let url = machine.server.url();
        machine.variable("HOME", home).variable("PATH", "/usr/bin:/bin").variable("QWENAUTH_QWEN_OAUTH_URL", url)
    }

    /// A login with an hour left, written as Qwen Code writes it.
    pub(crate) fn logged_in(self) -> Self {
        self.credential_is(credential("1"))
    }

    /// A login whose access token ended a minute ago.
    pub(crate) fn expired() -> Self {
        Self::new().logged_in().expires_in(-60)
    }

    pub(crate) fn expires_in(self, seconds: i64) -> Self {
        self.field("expiry_date", json!(now_ms() + seconds * 1000))
    }

    /// `null` removes the field.
    pub(crate) fn field(self, name: &str, value: Value) -> Self {
        let mut credential = self.credential();
        let fields = credential.as_object_mut().unwrap();
        if value.is_null() {
            fields.shift_remove(name);
        } else {
            fields.insert(name.to_owned(), value);
        }
        self.credential_is(credential)
    }

    /// What is remembered of a login that the machine's own server granted.
    pub(crate) fn granted_here(self) -> Self {
        let url = self.server.url();
        self.granted_by(&url)
    }

    pub(crate) fn granted_by(self, url: &str) -> Self {
        let token = self.credential()["refresh_token"].as_str().unwrap().to_owned();
        let origin = json!({"token_endpoint": format!("{url}/api/v1/oauth2/token")});
        let hash: String = Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect();
        write_private(&self.origins().join(hash), origin.to_string());
        self
    }

    pub(crate) fn origins(&self) -> PathBuf {
        self.home().join(".local/state/qwenauth/origins")
    }

    pub(crate) fn credential_is(self, mut credential: Value) -> Self {
        if credential["resource_url"] == "{server}" {
            credential["resource_url"] = json!(self.server.url());
        }
        self.file_is(serde_json::to_string_pretty(&credential).unwrap())
    }

    pub(crate) fn file_is(self, content: impl AsRef<[u8]>) -> Self {
        write_private(&self.file(), content);
        self
    }

    /// The credential file again, whatever a run made of it.
    pub(crate) fn file_written(&self, content: impl AsRef<[u8]>) {
        write_private(&self.file(), content);
    }

    /// A login whose API is at this host.
    pub(crate) fn field_of_host(self, host: &str) -> Self {
        self.logged_in().field("resource_url", json!(host))
    }

    pub(crate) fn variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    pub(crate) fn without_variable(mut self, name: &str) -> Self {
        self.environment.remove(OsStr::new(name));
        self
    }

    /// Where processes are killed, files may be left.
    pub(crate) fn with_kills(mut self) -> Self {
        self.has_kills = true;
        self
    }

    /// Runs as a user for whom modes and owners count; for root they do not.
    pub(crate) fn unprivileged(mut self) -> Self {
        if nix::unistd::geteuid().is_root() {
            self.user = Some(NOBODY);
            self.own_everything();
        }
        self
    }

    /// After changes made as root: all of it belongs to the unprivileged user again.
    pub(crate) fn own_everything(&self) {
        if let Some(user) = self.user {
            each_path(self.directory.path(), &mut |path| {
                std::os::unix::fs::lchown(path, Some(user), Some(user)).unwrap();
            });
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    pub(crate) fn qwen(&self) -> PathBuf {
        self.home().join(".qwen")
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.qwen().join("oauth_creds.json")
    }

    pub(crate) fn qwen_code_lock(&self) -> PathBuf {
        self.qwen().join("oauth_creds.lock")
    }

    pub(crate) fn kernel_lock(&self) -> PathBuf {
        self.qwen().join(".oauth_creds.qwenauth-lock")
    }

    pub(crate) fn content(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    /// Where the credentials of all profiles but `qwen` lie.
    pub(crate) fn profiles(&self) -> PathBuf {
        self.home().join(".local/share/qwenauth/credentials")
    }

    /// The credential of a profile; null where there is none.
    pub(crate) fn profile(&self, name: &str) -> Value {
        let mut stored = self.whole_profile(name);
        if let Some(stored) = stored.as_object_mut() {
            stored.shift_remove("machine");
        }
        stored
    }

    /// With the machine that it was stored on.
    pub(crate) fn whole_profile(&self, name: &str) -> Value {
        let bytes = fs::read(self.profiles().join(format!("{name}.json")));
        bytes.map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap())
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.home().join(".config/qwenauth/config.toml")
    }

    /// Writes config.toml, with the server's URL for `{server}`.
    pub(crate) fn configured(self, text: &str) -> Self {
        fs::create_dir_all(self.config().parent().unwrap()).unwrap();
        fs::write(self.config(), text.replace("{server}", &self.server.url())).unwrap();
        self
    }

    /// Runs with this on stdin.
    pub(crate) fn run_with_stdin<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I, stdin: &[u8]) -> Outcome {
        use std::io::{Seek, Write};
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(stdin).unwrap();
        file.rewind().unwrap();
        let mut command = self.command(arguments);
        command.stdin(file);
        self.start(command).finish()
    }

    #[track_caller]
    pub(crate) fn credential(&self) -> Value {
        serde_json::from_str(&self.content()).unwrap()
    }

    pub(crate) fn scripted(self, ask: Ask, reply: Reply) -> Self {
        self.server.script(ask, reply);
        self
    }

    pub(crate) fn refresh(self, reply: Reply) -> Self {
        self.scripted(Ask::Refresh, reply)
    }

    /// The program, by a path that any user can reach.
    pub(crate) fn program(&self) -> PathBuf {
        let built = assert_cmd::cargo::cargo_bin!("qwenauth").to_owned();
        if self.user.is_none() {
            return built;
        }
        // Laid out as a build: what lies in a temporary directory without being one is not set up for other programs.
        let reachable = self.directory.path().join("target/debug/qwenauth");
        if !reachable.exists() {
            fs::create_dir_all(reachable.parent().unwrap()).unwrap();
            fs::write(self.directory.path().join("Cargo.toml"), "").unwrap();
            fs::set_permissions(self.directory.path(), Permissions::from_mode(0o755)).unwrap();
            // Copied by another process: a child forked meanwhile would hold our copy open for writing, and it could not run.
            assert!(Command::new("cp").arg(built).arg(&reachable).status().unwrap().success());
        }
        reachable
    }

    /// The program, ready to run: nothing in its environment but what the machine gave it.
    pub(crate) fn command<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Command {
        let mut command = self.other(self.program());
        command.args(arguments);
        command
    }

    /// Another program in the machine's environment.
    pub(crate) fn other(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .envs(log_level().map(|level| ("QWENAUTH_LOG", level)))
            .envs(&self.environment)
            .env("QWENAUTH", self.program())
            .current_dir(self.directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// A shell script, `$QWENAUTH` being the program.
    pub(crate) fn shell(&self, script: &str) -> Outcome {
        let mut shell = self.other("sh");
        shell.args(["-c", script]);
        self.start(shell).finish()
    }

    pub(crate) fn run<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Outcome {
        self.spawn(arguments).finish()
    }

    pub(crate) fn spawn<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Running {
        self.start(self.command(arguments))
    }

    pub(crate) fn start(&self, command: Command) -> Running {
        let names = [
            (self.server.url(), "{server}"),
            (self.server.address().to_owned(), "{address}"),
            (self.home().display().to_string(), "{home}"),
            (self.directory.path().display().to_string(), "{machine}"),
        ];
        let hides_log = log_level().is_some() && !self.environment.contains_key(OsStr::new("QWENAUTH_LOG"));
        Running::start(command, names, hides_log)
    }

    /// Names of all that lies beside the credential file, sorted.
    pub(crate) fn beside(&self) -> Vec<String> {
        let names = fs::read_dir(self.qwen()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

impl Drop for Machine {
    /// No secret in a stray file, no lock or temporary file left behind.
    fn drop(&mut self) {
        if thread::panicking() || self.has_kills {
            return;
        }
        let credential = fs::canonicalize(self.file()).unwrap_or_else(|_| self.file());
        each_path(&self.home(), &mut |path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            assert!(!name.contains("tmp"), "{} was left", path.display());
            let is_read = path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() <= 4 << 20);
            let content = if is_read { fs::read(path).unwrap_or_default() } else { Vec::new() };
            let secret = content.windows(8).any(|bytes| bytes == b"granted-");
            if path.parent() == Some(&self.profiles()) && path.extension() == Some(OsStr::new("json")) {
                assert_eq!(mode(path), 0o600, "{}", path.display());
                return;
            }
            assert!(!secret || fs::canonicalize(path).unwrap() == credential, "a secret in {}", path.display());
        });
    }
}

pub(crate) fn each_path(path: &Path, act: &mut impl FnMut(&Path)) {
    act(path);
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            each_path(&entry.unwrap().path(), act);
        }
    }
}

/// The numbered credential, with an hour left, whose API is the machine's server.
pub(crate) fn credential(number: &str) -> Value {
    json!({
        "access_token": format!("granted-access-{number}"),
        "refresh_token": format!("granted-refresh-{number}"),
        "token_type": "Bearer",
        "resource_url": "{server}",
        "expiry_date": now_ms() + 3_600_000,
    })
}

pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// As another program puts a credential there: whole, by a rename.
pub(crate) fn write_private(path: &Path, content: impl AsRef<[u8]>) {
    let directory = path.parent().unwrap();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).unwrap();
    let temporary = directory.join("another-program.tmp");
    fs::write(&temporary, content).unwrap();
    fs::set_permissions(&temporary, Permissions::from_mode(0o600)).unwrap();
    fs::rename(temporary, path).unwrap();
}

pub(crate) fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// How long a test is to wait that may count the requests of a day, `now` seconds after 1970: nothing, unless one ends
/// within a minute. Days end at 00:00 UTC; those of `qwen` and `modelscope` at 16:00.
fn until_the_next_day(now: u64) -> Duration {
    const HOUR: u64 = 3600;
    let left = [24, 16].map(|ends| (ends * HOUR + 24 * HOUR - now % (24 * HOUR)) % (24 * HOUR));
    Duration::from_secs(left.into_iter().filter(|left| *left <= 60).max().unwrap_or(0))
}

/// Waits for what cannot be waited for as an event: the state of another process or a file it changes.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Holds the times of a server's log against `limit` requests in each `window` since `start`, before which none was sent. A
/// busy machine may let requests arrive late, never early; that no window at all holds more is shown without a clock, where
/// the decision is made: in src/limits/window.rs and src/limits/together.
#[track_caller]
pub(crate) fn keeps_the_limit(
    times: impl IntoIterator<Item = Instant>,
    start: Instant,
    limit: usize,
    window: Duration,
) {
    let mut times: Vec<Instant> = times.into_iter().collect();
    times.sort();
    for (windows, first) in (0..).zip(times.iter().step_by(limit)) {
        let after = first.checked_duration_since(start).expect("none was sent before");
        assert!(after >= window * windows, "the first after {windows} windows came after {after:?}");
    }
}

/// For what this machine may not allow: says so and skips, but never where a skipped test would go unnoticed.
pub(crate) fn possible(holds: bool, what: &str) -> bool {
    let strict = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(holds || !strict, "this machine cannot {what}, and CI must");
    if !holds {
        println!("skipped: this machine cannot {what}");
    }
    holds
}

/// Whether these programs of a machine's system are there; a test that needs one is skipped where it is not.
pub(crate) fn has_programs(names: &[&str]) -> bool {
    names.iter().all(|name| possible(Path::new("/usr/bin").join(name).exists(), &format!("run {name}")))
}
