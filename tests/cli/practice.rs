//! `sandbox`: what runs inside sees the practice provider alone, and nothing is left when it ends, however it ends.
#![expect(clippy::disallowed_methods, reason = "tests find the programs they run by the machine's PATH")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::machine::possible;
use crate::pseudo_terminal::PseudoTerminal;
use crate::walk;

const PROGRAM: &str = env!("CARGO_BIN_EXE_qwenauth");
/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A home and a directory for temporary files, both empty at first and to be empty in the end.
struct Place {
    home: TempDir,
    temporary: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { home: TempDir::new().unwrap(), temporary: TempDir::new().unwrap() }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.home.path())
            .env("TMPDIR", self.temporary.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn machine(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(PROGRAM);
        command.arg("sandbox").args(arguments);
        command
    }

    fn is_untouched(&self) -> bool {
        let is_empty = |path: &Path| fs::read_dir(path).unwrap().next().is_none();
        is_empty(self.home.path()) && is_empty(self.temporary.path())
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn stdout(output: &Output) -> &str {
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    text(&output.stdout)
}

/// The standard library cannot wait for an end with a time limit.
fn wait(child: &mut Child) -> ExitStatus {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    panic!("not ended within {PATIENCE:?}");
}

/// Waits for the line with which the program inside says that it runs.
fn is_up(output: impl Read) -> BufReader<impl Read> {
    let mut output = BufReader::new(output);
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), "up");
    output
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

#[test]
fn the_tour_shows_every_command_with_its_output() {
    let place = Place::new();
    let output = place.machine(&["--tour"]).output().unwrap();
    let shown = stdout(&output);
    let mut rest = shown;
    for (command, output) in [
        (
            "login dashscope --api-key-stdin\n",
            "logged in to Alibaba Cloud Model Studio (intl), profile `dashscope` (active)",
        ),
        ("status\n", "dashscope (active)"),
        ("exec -- sh -c ", "a key of 24 characters for http://127.0.0.1:"),
        ("setup codex --print\n", "[model_providers.qwenauth]"),
        ("env\n", "export OPENAI_API_KEY=practice-key-of-the-tour"),
        ("login qwen --no-browser --qr never\n", "logged in to Qwen OAuth, profile `qwen` (active)"),
        ("refresh\n", ""),
        ("token\n", "practice-access-"),
        ("logout\n", "logged out of `qwen`"),
        ("profiles\n", "dashscope"),
    ] {
        let command = format!("qwenauth {command}");
        let (_, after) = rest.split_once(&command).unwrap_or_else(|| panic!("no {command} in {rest}"));
        let (result, _) = after.split_once("\n\n#").unwrap_or((after, ""));
        assert!(shown.contains(output) && (command.contains("exec") || after.contains(output)), "{command}{result}");
        rest = after;
    }
    assert!(place.is_untouched());
}

#[test]
fn a_practice_key_belongs_to_the_requested_region() {
    let place = Place::new();
    for region in ["us", "intl", "cn"] {
        let commands = format!(
            "echo practice-key | qwenauth login dashscope --region {region} --api-key-stdin && qwenauth status && \
             qwenauth exec -- sh -c 'curl -sf -H \"Authorization: Bearer $OPENAI_API_KEY\" $OPENAI_BASE_URL/models >&2'"
        );
        let output = place.machine(&["--", "sh", "-c", &commands]).output().unwrap();
        let (shown, said) = (text(&output.stdout), text(&output.stderr));
        assert!(said.contains(&format!("Model Studio ({region})")), "{said}");
        assert!(shown.contains(region), "{shown}");
        assert!(said.contains("owned_by"), "{said}");
    }
}

#[test]
fn the_tour_ends_with_the_code_of_the_step_that_fails() {
    let (place, programs) = (Place::new(), TempDir::new().unwrap());
    let curl = programs.path().join("curl");
    fs::write(&curl, "#!/bin/sh\necho no network >&2\nexit 9\n").unwrap();
    fs::set_permissions(&curl, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap());
    let output = place.machine(&["--tour"]).env("PATH", path).output().unwrap();
    assert_eq!(output.status.code(), Some(9));
    assert!(text(&output.stdout).ends_with("\"model\":\"qwen3.8-flash\"}'\nno network\n\n"), "{output:?}");
    let errors = text(&output.stderr);
    assert!(errors.starts_with("qwenauth: the tour ends here: `qwenauth exec -- sh -c "), "{errors}");
    assert!(errors.ends_with("` ended with code 9\n"), "{errors}");
    assert!(place.is_untouched());
}

#[cfg(target_os = "linux")]
#[test]
fn the_tour_fits_an_ordinary_terminal() {
    let place = Place::new();
    let (terminal, near) = PseudoTerminal::open((24, 80));
    let mut command = place.machine(&["--tour"]);
    near.controls(&mut command);
    let mut child = command.spawn().unwrap();
    // It holds the terminal's other end, which keeps the output from ending.
    drop(command);
    let seen = terminal.end();
    assert_eq!(wait(&mut child).code(), Some(0), "{seen}");
    // What is broken behind commas is the whole answer.
    let answer = seen.replace("\r\n", "");
    assert!(answer.contains("\"content\":\"You said: Hello, model!\"},\"logprobs\":null"), "{seen}");
    walk::is_whole(&seen, 80);
}

#[test]
fn a_tour_whose_reader_closes_the_pipe_is_not_a_failure() {
    let place = Place::new();
    let mut child = place.machine(&["--tour"]).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(wait(&mut child).code(), Some(0));
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
    assert!(place.is_untouched());
}

#[test]
fn the_program_inside_sees_the_practice_provider_and_no_variable_of_the_user() {
    let place = Place::new();
    let mut command = place.machine(&["--", "env"]);
    let foreign = ["OPENAI_API_KEY", "OPENAI_ANYTHING", "ANTHROPIC_AUTH_TOKEN", "DASHSCOPE_API_KEY", "GROQ_API_KEY"];
    for name in foreign.into_iter().chain(["QWENAUTH_PROFILE", "QWENAUTH_API_KEY", "QWEN_HOME"]) {
        command.env(name, "the user's");
    }
    let output = command.env("NO_PROXY", "example.com").output().unwrap();
    let environment = stdout(&output);
    assert!(!environment.contains("OPENAI_"), "{environment}");
    assert!(!environment.contains("QWENAUTH_API_KEY") && !environment.contains("_API_KEY="), "{environment}");
    assert!(!environment.contains("QWENAUTH_PROFILE") && !environment.contains("the user's"), "{environment}");
    let value = |name: &str| {
        let line = environment.lines().find(|line| line.starts_with(&format!("{name}=")));
        line.unwrap_or_else(|| panic!("no {name} in {environment}"))[name.len() + 1..].to_owned()
    };
    assert!(value("QWENAUTH_QWEN_OAUTH_URL").starts_with("http://127.0.0.1:"));
    for name in ["QWEN_HOME", "QWENAUTH_HOME"] {
        assert!(Path::new(&value(name)).starts_with(place.temporary.path()), "{environment}");
    }
    assert_eq!(value("NO_PROXY"), "example.com,127.0.0.1,localhost,::1");
    assert_eq!(value("no_proxy"), "example.com,127.0.0.1,localhost,::1");
    assert!(Path::new(PROGRAM).starts_with(value("PATH").split(':').next().unwrap()));
    assert!(place.is_untouched());
}

#[test]
fn the_directories_are_private_and_removed_at_the_end() {
    let place = Place::new();
    let script = "umask 000; qwenauth login --no-browser 2>/dev/null
        for path in $QWEN_HOME/.. $QWEN_HOME $QWENAUTH_HOME $QWEN_HOME/oauth_creds.json; do ls -ld $path | cut -c1-10; done";
    let output = place.machine(&["--", "sh", "-c", script]).output().unwrap();
    assert_eq!(stdout(&output), "drwx------\ndrwx------\ndrwx------\n-rw-------\n");
    assert!(place.is_untouched());
}

#[test]
fn tokens_are_valid_for_the_requested_time() {
    let place = Place::new();
    let script = "qwenauth login --no-browser 2>/dev/null && qwenauth status";
    let output = place.machine(&["--expires-in", "90m", "--", "sh", "-c", script]).output().unwrap();
    assert!(stdout(&output).contains("1 h 29 min left"), "{output:?}");
    let refused = place.machine(&["--expires-in", "0", "--", "true"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(text(&refused.stderr), "qwenauth: error: `--expires-in` must be at least one second\n");
}

#[test]
fn the_exit_code_of_the_program_inside_is_returned() {
    let place = Place::new();
    let file = place.home.path().join("not-executable");
    File::create(&file).unwrap().write_all(b"#!/bin/sh\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let file = file.to_str().unwrap();
    for (command, code) in [
        (&["sh", "-c", "exit 7"][..], 7),
        (&["sh", "-c", "kill -KILL $$"], 137),
        (&["no-such-program"], 127),
        (&[file], 126),
    ] {
        let output = place.machine(&[&["--"], command].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{command:?}");
        let errors = text(&output.stderr);
        assert_eq!(errors.starts_with("qwenauth: error: `"), matches!(code, 126 | 127), "{errors}");
    }
    fs::remove_file(file).unwrap();
    assert!(place.is_untouched());
}

#[test]
fn a_signal_ends_program_and_sandbox_and_leaves_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        let place = Place::new();
        let mut child = place.machine(&["--", "sh", "-c", "echo up; exec sleep 600"]).spawn().unwrap();
        let mut output = is_up(child.stdout.take().unwrap());
        send(&child, signal);
        assert_eq!(wait(&mut child).signal(), Some(signal as i32));
        // The pipe ends with the last process that holds it.
        assert_eq!(output.read_to_end(&mut Vec::new()).unwrap(), 0);
        assert!(place.is_untouched(), "{signal}");
    }
}

#[test]
fn the_sandbox_waits_until_the_program_has_dealt_with_a_signal() {
    let place = Place::new();
    let script = "trap 'test -d $QWEN_HOME && echo dealt; exit 5' TERM; echo up; while :; do sleep 0.01; done";
    let mut child = place.machine(&["--", "sh", "-c", script]).spawn().unwrap();
    let mut output = is_up(child.stdout.take().unwrap());
    send(&child, Signal::SIGTERM);
    assert_eq!(wait(&mut child).signal(), Some(Signal::SIGTERM as i32));
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "dealt\n");
    assert!(place.is_untouched());
}

#[cfg(target_os = "linux")]
#[test]
fn the_program_inside_inherits_the_signal_dispositions() {
    let place = Place::new();
    let blocked = |command: &mut Command| {
        let output = command.args(["grep", "SigBlk", "/proc/self/status"]).output().unwrap();
        stdout(&output).to_owned()
    };
    assert_eq!(blocked(&mut place.machine(&["--"])), blocked(&mut place.command("env")));
    // And one that is blocked from the start stays so.
    let usr1 = SigSet::from(Signal::SIGUSR1);
    usr1.thread_block().unwrap();
    let inside = blocked(&mut place.machine(&["--"]));
    usr1.thread_unblock().unwrap();
    assert!(inside.trim_end().ends_with("200"), "{inside}");
}

/// A sandbox on a new terminal.
fn on_a_terminal(place: &Place, arguments: &[&str]) -> (Child, PseudoTerminal) {
    let (terminal, near) = PseudoTerminal::open((40, 120));
    let mut command = place.machine(arguments);
    near.controls(&mut command);
    (command.spawn().unwrap(), terminal)
}

#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_that_ends_the_program_ends_the_sandbox_and_leaves_nothing() {
    let place = Place::new();
    let (mut child, mut terminal) = on_a_terminal(&place, &["--", "sh", "-c", "echo up; exec sleep 600"]);
    terminal.wait_for("up");
    terminal.types("\x03");
    assert_eq!(wait(&mut child).signal(), Some(Signal::SIGINT as i32));
    assert!(place.is_untouched());
}

#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_that_the_program_outlives_reaches_it_once() {
    let place = Place::new();
    let script = "trap 'echo caught' INT; echo up; until read line; do :; done; exit 6";
    let (mut child, mut terminal) = on_a_terminal(&place, &["--", "sh", "-c", script]);
    terminal.wait_for("up");
    terminal.types("\x03");
    terminal.wait_for("caught");
    terminal.types("\n");
    let status = wait(&mut child);
    let shown = terminal.end();
    assert_eq!(status.code(), Some(6));
    assert_eq!(shown.matches("caught").count(), 1, "{shown}");
    assert!(place.is_untouched());
}

#[cfg(target_os = "linux")]
#[test]
fn program_and_sandbox_end_when_their_terminal_is_closed() {
    let place = Place::new();
    let (mut child, mut terminal) = on_a_terminal(&place, &["--", "sh", "-c", "echo up; exec sleep 600"]);
    terminal.wait_for("up");
    drop(terminal);
    assert_eq!(wait(&mut child).signal(), Some(Signal::SIGHUP as i32));
    assert!(place.is_untouched());
}

/// In a sandbox a login to any provider ends at the practice provider, whatever is typed: the system calls show each
/// connection.
#[cfg(target_os = "linux")]
#[test]
fn no_request_of_a_sandbox_leaves_the_machine() {
    if Command::new("strace").arg("-V").output().is_err() {
        println!("skipped: strace is not installed");
        return;
    }
    let place = Place::new();
    let script = r#"
        for name in $(qwenauth providers --json | tr ',' '\n' | sed -n 's/.*"provider": *"\([a-z-]*\)".*/\1/p'); do
            set -- login "$name" --api-key-stdin
            case $name in qwen) set -- login qwen --no-browser ;; custom) set -- "$@" --base-url https://example.com/v1 ;; esac
            printf practice-1 | qwenauth "$@" >/dev/null 2>&1; echo "$name $?"
            printf sk-real-key-0123456789 | qwenauth "$@" --profile other --force >/dev/null 2>&1
            qwenauth status --check --profile "$name" >/dev/null 2>&1
            qwenauth doctor --profile "$name" >/dev/null 2>&1
        done
        DASHSCOPE_API_KEY=sk-real-key-0123456789 qwenauth login dashscope --profile third --api-key-env DASHSCOPE_API_KEY 2>&1
        qwenauth keys secret >/dev/null
        for shared in rediss://192.0.2.77:6379/0 redis://cache.example.com; do
            QWENAUTH_SHARED_URL=$shared timeout 10 qwenauth gateway --shared --listen 127.0.0.1:0 2>&1
            QWENAUTH_SHARED_URL=$shared qwenauth keys list 2>&1
        done"#;
    let log = place.temporary.path().join("connections");
    let mut command = place.command("strace");
    command.args(["-f", "-qq", "-s", "256", "-e", "trace=connect,sendto", "-o"]).arg(&log);
    command.args([PROGRAM, "sandbox", "--", "sh", "-c", script]);
    let output = command.output().unwrap();
    let shown = text(&output.stdout);
    let ended: Vec<(&str, &str)> = shown.lines().filter_map(|line| line.split_once(' ')).take(17).collect();
    assert_eq!(ended.len(), 17, "{output:?}");
    for (name, code) in ended {
        // `https://example.com` is refused before anything is sent.
        assert_eq!(code, if name == "custom" { "2" } else { "0" }, "{name} in {shown}");
    }
    assert!(shown.contains("accepts keys that start with `practice-`"), "{shown}");
    let refused = "rejected: connections from the sandbox must not leave this machine";
    assert_eq!(shown.matches(refused).count(), 4, "{shown}");
    let connections = fs::read_to_string(&log).unwrap();
    assert!(connections.contains("127.0.0.1"), "{connections}");
    for line in connections.lines().filter(|line| line.contains("AF_INET")) {
        assert!(line.contains("\"127.0.0.1\""), "{line}");
    }
    fs::remove_file(log).unwrap();
    assert!(place.is_untouched());
}

/// The switch is a file that is valid only while the process that wrote it runs.
#[test]
fn leftovers_of_a_sandbox_redirect_no_login() {
    let place = Place::new();
    let state = place.temporary.path().join("copy/state");
    fs::create_dir_all(&state).unwrap();
    let script = format!("cp \"$QWENAUTH_HOME/state/sandbox.json\" {}", state.display());
    stdout(&place.machine(&["--", "sh", "-c", &script]).output().unwrap());
    let mut command = place.command(PROGRAM);
    command.args(["providers", "dashscope"]).env("QWENAUTH_HOME", place.temporary.path().join("copy"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(
        text(&output.stderr),
        "qwenauth: error: `QWENAUTH_HOME` belongs to a sandbox that has ended\n\
         qwenauth: hint: unset `QWENAUTH_HOME`, `QWEN_HOME` and `QWENAUTH_SANDBOX`, or start a new one with `qwenauth sandbox`\n"
    );
    // Neither does what has lost even that file.
    let mut command = place.command(PROGRAM);
    command.args(["providers", "dashscope"]).env("QWENAUTH_SANDBOX", place.temporary.path().join("gone"));
    assert_eq!(command.output().unwrap().stderr, output.stderr);
    fs::remove_dir_all(place.temporary.path().join("copy")).unwrap();
}

/// A start-up file of a shell, direnv and others may set again what the sandbox has set.
#[test]
fn no_variable_that_is_set_inside_leads_to_the_users_files() {
    let place = Place::new();
    let script = "unset OPENCODE_CONFIG_DIR; export QWENAUTH_HOME=$HOME/q QWEN_HOME=$HOME/w CODEX_HOME=$HOME/c
        export CLAUDE_CONFIG_DIR=$HOME/l OPENCODE_CONFIG=$HOME/o XDG_CONFIG_HOME=$HOME/x
        printf practice-abcdefghijkl | qwenauth login dashscope --api-key-stdin || exit 1
        for tool in codex claude-code opencode; do qwenauth setup $tool || exit 1; done
        qwenauth status --json >/dev/null || exit 1
        for option in --install --uninstall; do qwenauth gateway $option && exit 1; done
        qwenauth logout";
    let output = place.machine(&["--", "sh", "-c", script]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let refused = "the sandbox does not change services of this machine";
    assert_eq!(text(&output.stderr).matches(refused).count(), 2, "{output:?}");
    assert!(place.is_untouched());
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_shell_reads_at_its_start_does_not_undo_the_sandbox() {
    let set = "export QWENAUTH_HOME=$HOME/real CODEX_HOME=$HOME/real DASHSCOPE_API_KEY=mine OPENAI_API_KEY=mine
        export QWENAUTH_LOG=error OTHER=kept PATH=/usr/bin:/bin\n";
    for (shell, file) in [("bash", ".bashrc"), ("zsh", ".zshrc")] {
        let is_there = Command::new(shell).args(["-c", "exit"]).status().is_ok_and(|status| status.success());
        if !possible(is_there, shell) {
            continue;
        }
        let place = Place::new();
        fs::write(place.home.path().join(file), set).unwrap();
        let (mut terminal, near) = PseudoTerminal::open((40, 200));
        let mut command = place.machine(&[]);
        near.controls(command.env("SHELL", shell));
        let mut child = command.spawn().unwrap();
        drop(command);
        terminal.wait_for("(sandbox) ");
        let names = "$DASHSCOPE_API_KEY-$OPENAI_API_KEY-$QWENAUTH_LOG-$OTHER";
        terminal.types(&format!("echo \"$QWENAUTH_HOME-$CODEX_HOME-{names}\"; command -v qwenauth; exit 0\n"));
        assert_eq!(wait(&mut child).code(), Some(0));
        let shown = terminal.end();
        assert!(shown.contains("qwenauth-/") && shown.contains("codex---error-kept"), "{shown}");
        assert!(shown.contains(PROGRAM) && !shown.contains("/real"), "{shown}");
    }
}

#[test]
fn a_key_of_a_provider_of_the_users_own_is_not_visible() {
    let place = Place::new();
    let config = place.home.path().join(".config/qwenauth");
    fs::create_dir_all(&config).unwrap();
    let corp = "[providers.corp]\nbase_url = \"http://127.0.0.1:9/v1\"\nclient_secret_env = \"CORP_SECRET\"\n\
                key = { variables = [\"CORP_KEY\"] }\n";
    fs::write(config.join("config.toml"), corp).unwrap();
    let mut command = place.machine(&["--", "env"]);
    let output = command.env("CORP_KEY", "mine").env("CORP_SECRET", "mine").output().unwrap();
    assert!(!stdout(&output).contains("CORP_"), "{output:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_shell_on_a_terminal_shows_where_it_is_and_a_key_press_approves() {
    let place = Place::new();
    let (mut child, mut terminal) = on_a_terminal(&place, &[]);
    terminal.wait_for("(sandbox) ");
    terminal.types("qwenauth login qwen --no-browser; echo code-$?; exit 0\n");
    terminal.wait_for("Approve it here");
    terminal.types("y\n");
    terminal.wait_for("code-0");
    assert_eq!(wait(&mut child).code(), Some(0));
    assert!(place.is_untouched());
}

#[cfg(target_os = "linux")]
#[test]
fn a_shell_on_a_terminal_shows_where_it_is_and_a_login_can_be_denied() {
    let place = Place::new();
    let (mut child, mut terminal) = on_a_terminal(&place, &[]);
    terminal.wait_for("deletes");
    terminal.types("qwenauth login qwen --no-browser; echo code-$?; exit 0\n");
    terminal.wait_for("Approve it here");
    terminal.types("n\n");
    terminal.wait_for("code-4");
    assert_eq!(wait(&mut child).code(), Some(0));
    assert!(place.is_untouched());
}
