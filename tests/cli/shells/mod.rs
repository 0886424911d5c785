//! `env` read by real shells: what the credential holds arrives byte for byte, and a failure stops the script.
//!
//! bash and dash are everywhere; another shell that is not installed is skipped with a line on stderr, but not in CI.
#![expect(clippy::disallowed_methods, reason = "tests lay out their own files and look at CI")]

mod locales;
mod round_trip;
mod statements;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A home directory for each value, a directory of file names that look like the output, and `qwenauth` on the `PATH`.
struct Homes {
    root: TempDir,
    values: Vec<String>,
}

impl Homes {
    fn with(values: &[String]) -> Self {
        let homes = Self { root: TempDir::new().unwrap(), values: values.to_vec() };
        fs::create_dir(homes.path("bin")).unwrap();
        symlink(env!("CARGO_BIN_EXE_qwenauth"), homes.path("bin/qwenauth")).unwrap();
        fs::create_dir(homes.path("here")).unwrap();
        fs::create_dir(homes.path("empty")).unwrap();
        for (index, value) in values.iter().enumerate() {
            let directory = homes.path(&format!("{index}/.qwen"));
            fs::create_dir_all(&directory).unwrap();
            let file = directory.join("oauth_creds.json");
            fs::write(&file, credential(value)).unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        homes
    }

    fn with_one(value: &str) -> Self {
        Self::with(&[value.to_owned()])
    }

    /// Without any login.
    fn without() -> Self {
        Self::with(&[])
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// Runs the program once for each value, and puts what it prints into the file `out` of that home. Its output depends
    /// on neither the locale nor the settings of the shell that reads it.
    fn print_each(&self, arguments: &[&str]) {
        for index in 0..self.values.len() {
            let home = self.path(&index.to_string());
            let output = self.command("qwenauth", arguments).env("HOME", &home).output().unwrap();
            assert!(output.status.success() && !output.stdout.is_empty(), "{:?}: {output:?}", self.values[index]);
            fs::write(home.join("out"), output.stdout).unwrap();
        }
    }

    /// Prints each, and each word of the output becomes a file name: as it is, as a shell would read it, and as a pattern
    /// would match it.
    fn with_files_named_like_the_output(&self) {
        self.print_each(&["env"]);
        let mut names: BTreeSet<String> = ["(exit", "4);", "\\", "x"].map(str::to_owned).into();
        for index in 0..self.values.len() {
            let text = fs::read_to_string(self.path(&format!("{index}/out"))).unwrap();
            for word in text.lines().chain(text.split_whitespace()) {
                for name in [word.to_owned(), word.replace('\\', "")] {
                    names.insert(name.replace(['*', '?'], "x"));
                    names.insert(name);
                }
            }
        }
        for name in names.iter().filter(|name| name.len() < 250 && !name.contains('/')) {
            let _ = fs::write(self.path("here").join(name), "");
        }
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let program = if program == "qwenauth" { self.path("bin/qwenauth") } else { PathBuf::from(program) };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", self.path("bin").display()))
            .env("HOME", self.path("empty"))
            .env("ROOT", self.root.path())
            .env("LC_ALL", "C.UTF-8")
            .env("OPENAI_ORG_ID", "old")
            .current_dir(self.path("here"))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, shell: &Shell, script: &str) -> Output {
        self.run_in(shell, script, &[])
    }

    fn run_in(&self, shell: &Shell, script: &str, variables: &[(&str, &OsStr)]) -> Output {
        let mut command = self.command(shell.program, shell.arguments);
        command.envs(variables.iter().copied());
        let mut child = command.arg(script).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take();
        child.wait_with_output().unwrap()
    }

    /// The output of `script` is every value, each ended by a NUL, and nothing is said on stderr.
    fn come_through(&self, shell: &Shell, script: &str) -> Result<(), String> {
        self.come_through_in(shell, script, &[])
    }

    fn come_through_in(&self, shell: &Shell, script: &str, variables: &[(&str, &OsStr)]) -> Result<(), String> {
        let output = self.run_in(shell, script, variables);
        let stderr: String = String::from_utf8_lossy(&output.stderr).chars().take(500).collect();
        let read: Vec<_> = output.stdout.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
        let wrong =
            self.values.iter().enumerate().find(|(index, value)| read.get(*index).is_none_or(|read| read != *value));
        if let Some((index, value)) = wrong {
            let read = read.get(index);
            return Err(format!("{}: {value:?} came out as {read:?}; stderr: {stderr}\n{script}", shell.program));
        }
        if !output.status.success() || !stderr.is_empty() || read.len() != self.values.len() + 1 {
            return Err(format!("{}: {}; stderr: {stderr}\n{script}", shell.program, output.status));
        }
        Ok(())
    }
}

/// A function for scripts of the `sh` format whose `$i` is the number of a value. The first value comes from the program
/// itself, so that it runs in each locale and below each shell; the others are as [`Homes::print_each`] printed them.
const PRINTED: &str = "printed() { if [ \"$i\" = 0 ]; then exec qwenauth env; else exec cat \"$ROOT/$i/out\"; fi; }";

fn credential(access_token: &str) -> String {
    serde_json::json!({
        "access_token": access_token,
        "refresh_token": "refresh-1",
        "token_type": "Bearer",
        "resource_url": "portal.qwen.ai",
        "expiry_date": 4_102_444_800_000_u64, // 2100
    })
    .to_string()
}

struct Shell {
    program: &'static str,
    arguments: &'static [&'static str],
    /// Settings that change how an unquoted `$(…)` is read.
    settings: &'static [&'static str],
}

const BASH: Shell = Shell {
    program: "bash",
    arguments: &["--norc", "--noprofile", "-c"],
    settings: &[
        "",
        "set -eu -o pipefail",
        "shopt -s failglob",
        "shopt -s nullglob",
        "shopt -s extglob dotglob nocaseglob globstar; set -o posix",
        "set -B -H; shopt -s expand_aliases",
        "IFS=$'\\n\\t'",
        "IFS=; shopt -s failglob",
        "LC_ALL=C; shopt -s failglob",
    ],
};

const DASH: Shell =
    Shell { program: "dash", arguments: &["-c"], settings: &["", "set -eu", "IFS='\n\t'", "IFS=", "LC_ALL=C"] };

const ZSH: Shell = Shell {
    program: "zsh",
    arguments: &["-f", "-c"],
    settings: &[
        "",
        "set -eu",
        "setopt glob_subst",
        "setopt sh_word_split",
        "setopt glob_subst sh_word_split extended_glob ksh_glob",
        "setopt glob_subst null_glob",
        "setopt glob_subst glob_assign glob_star_short magic_equal_subst rc_expand_param; setopt interactive_comments",
        "emulate sh",
        "emulate ksh; setopt glob_subst",
        "IFS=$'\\n\\t'; setopt glob_subst",
        "IFS=; setopt glob_subst",
        "LC_ALL=C; setopt glob_subst",
    ],
};

// Not `--no-config`, which takes universal variables away.
const FISH: Shell = Shell { program: "fish", arguments: &["-c"], settings: &[] };
const ELVISH: Shell = Shell { program: "elvish", arguments: &["-norc", "-c"], settings: &[] };
const NUSHELL: Shell = Shell { program: "nu", arguments: &["--no-config-file", "-c"], settings: &[] };

/// Whether to go on: a shell that CI installs must be there in CI.
fn is_installed(shell: &Shell) -> bool {
    let found = ["/usr/local/bin", "/usr/bin", "/bin"]
        .iter()
        .any(|directory| Path::new(directory).join(shell.program).exists());
    if !found {
        let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!is_ci || shell.program == "nu", "{} is not installed, and CI=true", shell.program);
        let _ = writeln!(std::io::stderr(), "skipped: {} is not installed", shell.program);
    }
    found
}
