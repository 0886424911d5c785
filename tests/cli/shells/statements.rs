//! What `env` prints beside the values: failing statements, removals, masks, and what each format says.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use super::{BASH, DASH, FISH, Homes, Shell, ZSH, is_installed};

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
    let names = "OPENAI_API_KEY OPENAI_BASE_URL OPENAI_API_BASE OPENAI_MODEL OPENAI_ORG_ID OPENAI_PROJECT \
                 OPENAI_PROJECT_ID OPENAI_CUSTOM_HEADERS";
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
fn a_control_character_is_rejected_and_not_repeated() {
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
fn format_github_is_rejected_outside_a_job() {
    let homes = Homes::with_one("sk-1");
    let stderr = "qwenauth: error: `--format github` works only in a GitHub Actions job\n\
                  qwenauth: hint: choose another format; `GITHUB_ACTIONS` is not `true` here\n";
    assert_eq!(env(&homes, &["--format", "github"]), (Some(2), String::new(), stderr.into()));
}

#[test]
fn json_says_what_to_set_and_what_to_remove() {
    let homes = Homes::with_one("sk-1");
    assert_eq!(
        env(&homes, &["--format", "json", "--model", "m 1"]).1,
        "{\"OPENAI_API_KEY\":\"sk-1\",\"OPENAI_BASE_URL\":\"https://portal.qwen.ai/v1\",\
         \"OPENAI_API_BASE\":\"https://portal.qwen.ai/v1\",\"OPENAI_MODEL\":\"m 1\",\"OPENAI_ORG_ID\":null,\"OPENAI_PROJECT\":null,\
         \"OPENAI_PROJECT_ID\":null,\"OPENAI_CUSTOM_HEADERS\":null}\n"
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
        "qwenauth: hint: git does not ignore `.env`, which contains a secret: add it to `.gitignore`\n"
    );
    fs::write(homes.path("here/.gitignore"), ".env\n").unwrap();
    assert_eq!(write(".env"), "");
    assert_eq!(write("../outside"), "");
}
