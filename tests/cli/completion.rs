//! Completions in real shells: a line is typed on a terminal, TAB is pressed, and the shell prints the words it has then.
#![expect(clippy::disallowed_methods, reason = "tests lay out their own files and find shells by the machine's PATH")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};

use tempfile::TempDir;

use crate::machine::{possible, write_private};
use crate::pseudo_terminal::PseudoTerminal;

const PROMPT: &str = "prompt> ";

/// A shell at a terminal that completes with what is in `completions/`, in a home with two profiles.
struct Shell {
    child: Child,
    terminal: PseudoTerminal,
    /// Removed when the shell has ended.
    _home: TempDir,
}

impl Shell {
    /// `load`: what a user types once. Returns `None` where the shell is not installed, which is an error in CI.
    fn start(shell: &str, arguments: &[&str], load: &str) -> Option<Self> {
        if !possible(Command::new(shell).arg("--version").output().is_ok(), &format!("run {shell}")) {
            return None;
        }
        let home = TempDir::new().unwrap();
        let credentials = home.path().join(".local/share/qwenauth/credentials");
        fs::create_dir_all(&credentials).unwrap();
        for (profile, content) in [("work", r#"{"provider": "dashscope", "api_key": "sk-1"}"#), ("workshop", "{}")] {
            write_private(&credentials.join(format!("{profile}.json")), content);
        }
        let bin = home.path().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("practice-tool"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(bin.join("practice-tool"), Permissions::from_mode(0o755)).unwrap();
        let bin = bin.display();
        let program = Path::new(env!("CARGO_BIN_EXE_qwenauth")).parent().unwrap().display();
        let (mut terminal, near) = PseudoTerminal::open((40, 200));
        let mut command = Command::new(shell);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", format!("{program}:{bin}:/usr/local/bin:/usr/bin:/bin"))
            .env("HOME", home.path())
            .env("TERM", "xterm")
            .env("PS1", PROMPT)
            .current_dir(home.path());
        near.controls(&mut command);
        let child = command.spawn().unwrap();
        terminal.take_until(PROMPT);
        let completions = concat!(env!("CARGO_MANIFEST_DIR"), "/completions");
        // The quotes keep the typed line from being taken for its output.
        terminal.types(&format!("{}; echo load''ed\n", load.replace("{completions}", completions)));
        terminal.take_until("loaded\r\n");
        terminal.take_until(PROMPT);
        Some(Self { child, terminal, _home: home })
    }

    /// The words of the line once TAB was pressed behind `typed`.
    #[track_caller]
    fn tab(&mut self, typed: &str) -> String {
        // Ctrl-A and Ctrl-E: what runs in the end prints the line's words instead of running it.
        self.terminal.types(&format!("{typed}\t\u{1}printf '<%s>' \u{5}; echo en''d\n"));
        let shown = self.terminal.take_until("end\r\n");
        self.terminal.take_until(PROMPT);
        let words = shown.rfind("<qwenauth>").unwrap_or_else(|| panic!("no words in {shown:?}"));
        shown[words..].replace("><", " ").replace(['<', '>'], "")
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Commands, options, values, and names that only the program knows: providers, profiles, tools.
#[track_caller]
fn completes(mut shell: Shell) {
    for (typed, words) in [
        ("qwenauth stat", "qwenauth status"),
        ("qwenauth exec --pre", "qwenauth exec --preserve-env"),
        ("qwenauth env --format fi", "qwenauth env --format fish"),
        ("qwenauth completions nu", "qwenauth completions nushell"),
        ("qwenauth login dash", "qwenauth login dashscope"),
        ("qwenauth use works", "qwenauth use workshop"),
        ("qwenauth token --profile works", "qwenauth token --profile workshop"),
        ("qwenauth setup cla", "qwenauth setup claude-code"),
        ("qwenauth providers gro", "qwenauth providers groq"),
        ("qwenauth login dashscope --region i", "qwenauth login dashscope --region intl"),
        ("qwenauth login --region h", "qwenauth login --region hk"),
        ("qwenauth login groq --region i", "qwenauth login groq --region i"),
        ("qwenauth login dashscope --model qwen3.8-f", "qwenauth login dashscope --model qwen3.8-flash"),
        ("qwenauth env --profile work --model qwen3.8-m", "qwenauth env --profile work --model qwen3.8-max"),
        ("qwenauth exec -- practice-t", "qwenauth exec -- practice-tool"),
        ("qwenauth providers --mark", "qwenauth providers --mark"),
        ("qwenauth status --prof", "qwenauth status --profile"),
        // An option that means nothing there.
        ("qwenauth use --prof", "qwenauth use --prof"),
        ("qwenauth sandbox --prof", "qwenauth sandbox --prof"),
        // A hidden command, and what nobody knows without a login.
        ("qwenauth ma", "qwenauth ma"),
        ("qwenauth env --model ", "qwenauth env --model"),
    ] {
        assert_eq!(shell.tab(typed), words, "`{typed}` and TAB");
    }
}

#[test]
fn bash_completes_at_a_tab() {
    let arguments = ["--norc", "--noprofile", "-i"];
    if let Some(shell) = Shell::start("bash", &arguments, "source '{completions}/qwenauth.bash'") {
        completes(shell);
    }
}

#[test]
fn zsh_completes_at_a_tab() {
    let load = "fpath=('{completions}' $fpath); autoload -Uz compinit; compinit -u -D";
    if let Some(shell) = Shell::start("zsh", &["-f", "-i"], load) {
        completes(shell);
    }
}

#[test]
fn fish_completes_at_a_tab() {
    let prompt = format!("function fish_prompt; echo -n '{PROMPT}'; end");
    let arguments = ["--no-config", "--init-command", &prompt, "-i"];
    if let Some(shell) = Shell::start("fish", &arguments, "source '{completions}/qwenauth.fish'") {
        completes(shell);
    }
}
