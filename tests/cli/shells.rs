//! `env` read by real shells: what the credential holds arrives byte for byte, and a failure stops the script.
//!
//! bash and dash are everywhere; another shell that is not installed is skipped with a line on stderr, but not in CI.
#![expect(clippy::disallowed_methods, reason = "tests lay out their own files and look at CI")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tempfile::TempDir;

/// What breaks a shell word, each for a reason of its own: splitting, globbing, expansion of any kind, comments,
/// assignments, options, history, other languages, bytes that dash and fish use internally.
const VALUES: &[&str] = &[
    "sk-plain_./:@%+,-09AZ",
    "a  b",
    "   ",
    " lead",
    "trail ",
    "trail   ",
    "a \\ b",
    "\\",
    "\\\\",
    "a\\",
    "\\ ",
    "'",
    "\"",
    "''",
    "it's",
    "\"q\"",
    "'\"'\"'",
    "$",
    "$HOME",
    "${HOME}",
    "$(id)",
    "$((1))",
    "$'x'",
    "`id`",
    "*",
    "**",
    "?",
    "[",
    "]",
    "[a-z]",
    "[!a]",
    "a*b?c[d]",
    "{a,b}",
    "{1..3}",
    "x{a,b}y",
    "~",
    "~root",
    "~/x",
    "a:~b",
    "=",
    "=ls",
    "a=b",
    "==",
    "-",
    "-n",
    "-e x",
    "--",
    "#",
    "# c",
    "a #b",
    "!",
    "!!",
    "!x",
    "^a^b",
    "%1",
    ";",
    ";;",
    "; id",
    "a;b",
    "&",
    "&&",
    "| id",
    "||",
    "<",
    "<x",
    "> x",
    ">>",
    "<(id)",
    "(",
    ")",
    "(id)",
    "@(a|b)",
    "+(a)",
    "a~b",
    "a^b",
    "(#i)x",
    "*(.)",
    "x(e:id:)",
    "é",
    "ü ü",
    "漢字",
    "🦀",
    "a\u{a0}b",
    "\u{2003}",
    "\u{2028}",
    "‘’‚‛",
    "“”",
    "\u{feff}",
    "\u{fdd0}",
    "\u{f600}\u{f6ff}",
    "\u{e000}",
    "ā\u{101}",
    "\u{1041}",
    "\u{10ffff}",
    "export X=1;",
    "unset PATH;",
    "(exit 0);",
    "OPENAI_API_KEY=x",
    "a  *  b  ?",
    " * ",
    "\\*",
    "\\ \\ ",
    "\\\\ *",
    "%",
    "%%",
    "%PATH%",
    "1",
];

/// Values as above, and their parts put together at random.
fn values() -> impl Strategy<Value = Vec<String>> {
    let part = prop_oneof![
        3 => proptest::sample::select(VALUES).prop_map(str::to_owned),
        2 => proptest::sample::select(" '\"$`*?[]{},~=-#!\\;&|<>()%^".chars().collect::<Vec<_>>()).prop_map(String::from),
        1 => any::<char>().prop_filter("a control character is refused", |character| !character.is_control()).prop_map(String::from),
    ];
    vec(vec(part, 1..6).prop_map(|parts| parts.concat()), 24)
}

/// Runs `check` on [`VALUES`] and on values made at random.
fn for_values(check: impl Fn(&Homes) -> Result<(), String>) {
    let fixed: Vec<String> = VALUES.iter().map(|&value| value.to_owned()).collect();
    check(&Homes::with(&fixed)).unwrap();
    // One case of many values: a shell reads them all in one run.
    let config = Config { cases: 1, max_shrink_iters: 200, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(&values(), |values| check(&Homes::with(&values)).map_err(TestCaseError::fail)).unwrap();
}

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

    /// Each word of the output becomes a file name: as it is, as a shell would read it, and as a pattern would match it.
    fn with_files_named_like_the_output(&self) {
        let mut names: BTreeSet<String> = ["(exit", "4);", "\\", "x"].map(str::to_owned).into();
        for index in 0..self.values.len() {
            let output =
                self.command("qwenauth", &["env"]).env("HOME", self.path(&index.to_string())).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
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
        let mut command = self.command(shell.program, shell.arguments);
        let mut child = command.arg(script).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take();
        child.wait_with_output().unwrap()
    }

    /// The output of `script` is every value, each ended by a NUL, and nothing is said on stderr.
    fn come_through(&self, shell: &Shell, script: &str) -> Result<(), String> {
        let output = self.run(shell, script);
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

/// `eval` as it stands in the README: unquoted under every setting; quoted, where most of them do nothing, under two.
fn sh_round_trip(shell: &Shell) {
    if !is_installed(shell) {
        return;
    }
    let unquoted = shell.settings.iter().map(|setting| (setting, "$(qwenauth env)"));
    let quoted = shell.settings[..2].iter().map(|setting| (setting, "\"$(qwenauth env)\""));
    let runs: Vec<_> = unquoted.chain(quoted).collect();
    for_values(|homes| {
        homes.with_files_named_like_the_output();
        let count = homes.values.len();
        for (setting, output) in &runs {
            let script = format!(
                "{setting}
                i=0
                while [ \"$i\" -lt {count} ]; do
                    export HOME=\"$ROOT/$i\"
                    eval {output}
                    printf '%s\\0' \"$OPENAI_API_KEY\"
                    [ \"$OPENAI_BASE_URL|$OPENAI_API_BASE|$OPENAI_MODEL\" = \\
                        'https://portal.qwen.ai/v1|https://portal.qwen.ai/v1|coder-model' ] || exit 7
                    [ -z \"${{OPENAI_ORG_ID+set}}${{OPENAI_PROJECT+set}}\" ] || exit 8
                    i=$((i + 1))
                done"
            );
            homes.come_through(shell, &script)?;
        }
        Ok(())
    });
}

#[test]
fn bash_reads_any_value_as_it_was() {
    sh_round_trip(&BASH);
}

#[test]
fn dash_reads_any_value_as_it_was() {
    sh_round_trip(&DASH);
}

#[test]
fn zsh_reads_any_value_as_it_was() {
    sh_round_trip(&ZSH);
}

#[test]
fn fish_reads_any_value_as_it_was() {
    if !is_installed(&FISH) {
        return;
    }
    for_values(|homes| {
        let last = homes.values.len() - 1;
        homes.come_through(
            &FISH,
            &format!(
                "for i in (seq 0 {last})
                    set -gx HOME $ROOT/$i
                    qwenauth env --format fish | source; or exit 9
                    set -q OPENAI_ORG_ID; and exit 8
                    printf '%s\\0' $OPENAI_API_KEY
                end"
            ),
        )
    });
}

#[test]
fn elvish_reads_any_value_as_it_was() {
    if !is_installed(&ELVISH) {
        return;
    }
    for_values(|homes| {
        let count = homes.values.len();
        homes.come_through(
            &ELVISH,
            &format!(
                "for i [(range {count})] {{
                    set-env HOME $E:ROOT/$i
                    eval (qwenauth env --format elvish | slurp)
                    if (has-env OPENAI_ORG_ID) {{ fail set }}
                    print $E:OPENAI_API_KEY\"\\x00\"
                }}"
            ),
        )
    });
}

#[test]
fn nushell_reads_any_value_as_it_was() {
    if !is_installed(&NUSHELL) {
        return;
    }
    for_values(|homes| {
        let last = homes.values.len() - 1;
        homes.come_through(
            &NUSHELL,
            &format!(
                "for i in 0..{last} {{
                    $env.HOME = $\"($env.ROOT)/($i)\"
                    qwenauth env --format nushell | from json | load-env
                    ^sh -c 'test -z \"${{OPENAI_ORG_ID+set}}\" && printf \"%s\\0\" \"$OPENAI_API_KEY\"'
                }}"
            ),
        )
    });
}

/// Every shell of the `sh` format with each of its settings, unquoted and quoted.
fn for_sh_shells(check: impl Fn(&Shell, &str, &dyn Fn(&str) -> String)) {
    for shell in [BASH, DASH, ZSH].iter().filter(|shell| is_installed(shell)) {
        for setting in shell.settings {
            check(shell, setting, &|command| format!("eval $({command})"));
            check(shell, setting, &|command| format!("eval \"$({command})\""));
        }
    }
}

#[test]
fn a_failing_env_stops_a_set_e_script() {
    let homes = Homes::without();
    homes.with_files_named_like_the_output();
    for_sh_shells(|shell, setting, eval| {
        let script = format!("{setting}\nset -e\n{}\necho survived", eval("qwenauth env"));
        let output = homes.run(shell, &script);
        assert!(!output.status.success(), "{}: {script}", shell.program);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{}: {script}", shell.program);
    });
}

#[test]
fn the_exit_code_of_env_is_that_of_eval() {
    let homes = Homes::without();
    for_sh_shells(|shell, setting, eval| {
        // zsh takes `(exit` for a broken pattern then, and ends the script with its own code.
        if setting.contains("glob_subst") && !eval("").contains('"') {
            return;
        }
        let script = format!("{setting}\n{} || echo \"failed: $?\"", eval("qwenauth env"));
        let output = homes.run(shell, &script);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "failed: 4\n", "{}: {script}", shell.program);
    });
}

#[test]
fn a_mistyped_env_fails_in_eval_too() {
    let homes = Homes::with_one("sk-1");
    for (arguments, stdout) in [
        (&["env", "--mni-ttl", "1h"] as &[&str], "(exit 2);\n"),
        (&["--profile", "work", "env", "x"], "(exit 2);\n"),
        (&["env", "--format", "fihs"], "(exit 2);\n"),
        (&["env", "--format=fish", "--nope"], "false;\n"),
        (&["env", "--nope", "--format", "fish"], "false;\n"),
        (&["env", "--format", "json", "--nope"], ""),
        (&["token", "--nope"], ""),
        (&["exec", "--nope", "env"], ""),
    ] {
        let output = homes.command("qwenauth", arguments).output().unwrap();
        assert_eq!(
            (output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()),
            (Some(2), stdout),
            "{arguments:?}"
        );
    }
    let help = homes.command("qwenauth", &["env", "--help"]).output().unwrap();
    assert!(help.status.success() && !String::from_utf8_lossy(&help.stdout).contains("(exit"));
}

#[test]
fn a_failing_env_fails_in_fish() {
    if !is_installed(&FISH) {
        return;
    }
    let output = Homes::without().run(&FISH, "qwenauth env --format fish | source; or echo failed");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "failed\n");
}

#[test]
fn unset_removes_the_group_even_where_nothing_is_set() {
    let homes = Homes::with_one("sk a  b");
    homes.with_files_named_like_the_output();
    let names = "OPENAI_API_KEY OPENAI_BASE_URL OPENAI_API_BASE OPENAI_MODEL OPENAI_ORG_ID OPENAI_PROJECT";
    for_sh_shells(|shell, setting, eval| {
        let left = names.split(' ').map(|name| format!("${{{name}+{name}}}")).collect::<Vec<_>>().concat();
        let (set, unset) = (eval("qwenauth env"), eval("qwenauth env --unset"));
        let script = format!("HOME=$ROOT/0\n{setting}\nset -eu\n{set}\n{unset}\n{unset}\nprintf %s \"left:{left}\"");
        let output = homes.run(shell, &script);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "left:", "{}: {script}: {output:?}", shell.program);
    });
    if is_installed(&FISH) {
        let script = format!(
            "set -x HOME $ROOT/0; qwenauth env --format fish | source
            qwenauth env --format fish --unset | source; or exit 7
            qwenauth env --format fish --unset | source; or exit 8
            for name in {names}; set -q $name; and echo $name; end; echo left"
        );
        assert_eq!(String::from_utf8_lossy(&homes.run(&FISH, &script).stdout), "left\n");
    }
}

#[test]
fn a_universal_variable_of_fish_is_covered_but_kept() {
    if !is_installed(&FISH) {
        return;
    }
    let homes = Homes::with_one("sk-1");
    let script = "set -x HOME $ROOT/0; set -e OPENAI_ORG_ID; set -Ux OPENAI_ORG_ID mine
        qwenauth env --format fish | source
        sh -c 'echo \"[$OPENAI_ORG_ID]\"'; set -eg OPENAI_ORG_ID; echo $OPENAI_ORG_ID";
    let output = homes.run(&FISH, script);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "[]\nmine\n", "{output:?}");
}

/// Exit code, stdout and stderr of `qwenauth env`.
fn env(homes: &Homes, arguments: &[&str]) -> (Option<i32>, String, String) {
    env_with(homes, arguments, "GITHUB_ACTIONS", "")
}

fn env_with(homes: &Homes, arguments: &[&str], name: &str, value: &str) -> (Option<i32>, String, String) {
    let output = homes
        .command("qwenauth", &["env"])
        .args(arguments)
        .env("HOME", homes.path("0"))
        .env(name, value)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_control_character_is_refused_and_not_repeated() {
    let homes = Homes::with_one("sk-1");
    let error = "qwenauth: error: the value of OPENAI_MODEL contains a control character\n".to_owned();
    for (format, stdout) in [("sh", "(exit 1);\n"), ("fish", "false;\n"), ("json", ""), ("dotenv", "")] {
        let arguments = ["--model", "hunter2\nhunter2", "--format", format];
        assert_eq!(env(&homes, &arguments), (Some(1), stdout.into(), error.clone()));
    }
}

#[test]
fn github_masks_the_key_before_it_is_printed() {
    let homes = Homes::with_one("sk%25 1");
    let stdout = "OPENAI_API_KEY=sk%25 1\nOPENAI_BASE_URL=https://portal.qwen.ai/v1\n\
                  OPENAI_API_BASE=https://portal.qwen.ai/v1\nOPENAI_MODEL=coder-model\nOPENAI_ORG_ID=\n";
    assert_eq!(
        env_with(&homes, &["--format", "github"], "GITHUB_ACTIONS", "true"),
        (Some(0), stdout.into(), "::add-mask::sk%2525 1\n".into())
    );
}

#[test]
fn github_is_refused_outside_a_job() {
    let homes = Homes::with_one("sk-1");
    let stderr = "qwenauth: error: `--format github` works only in a GitHub Actions job\n\
                  qwenauth: hint: `GITHUB_ACTIONS` is not `true` here: choose another format\n";
    assert_eq!(env(&homes, &["--format", "github"]), (Some(2), String::new(), stderr.into()));
}

#[test]
fn json_says_what_to_set_and_what_to_remove() {
    let homes = Homes::with_one("sk-1");
    assert_eq!(
        env(&homes, &["--format", "json", "--model", "m 1"]).1,
        "{\"OPENAI_API_KEY\":\"sk-1\",\"OPENAI_BASE_URL\":\"https://portal.qwen.ai/v1\",\
         \"OPENAI_API_BASE\":\"https://portal.qwen.ai/v1\",\"OPENAI_MODEL\":\"m 1\",\"OPENAI_ORG_ID\":null,\"OPENAI_PROJECT\":null}\n"
    );
}

#[test]
fn dotenv_hints_when_git_would_commit_the_file() {
    let homes = Homes::with_one("sk-1");
    let git = |arguments: &[&str]| homes.command("git", arguments).stdout(Stdio::null()).status();
    if git(&["init", "--quiet"]).is_err() {
        let _ = writeln!(std::io::stderr(), "skipped: git is not installed");
        return;
    }
    let write = |name: &str| {
        let file = fs::File::create(homes.path("here").join(name)).unwrap();
        let mut command = homes.command("qwenauth", &["env", "--format", "dotenv"]);
        let output = command.env("HOME", homes.path("0")).stdout(file).output().unwrap();
        assert!(output.status.success());
        assert!(fs::read_to_string(homes.path("here").join(name)).unwrap().starts_with("OPENAI_API_KEY=sk-1\n"));
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(
        write(".env"),
        "qwenauth: hint: git does not ignore `.env`, which holds a secret: add it to `.gitignore`\n"
    );
    fs::write(homes.path("here/.gitignore"), ".env\n").unwrap();
    assert_eq!(write(".env"), "");
    assert_eq!(write("../outside"), "");
}
