//! Any value comes through any shell as it was.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::{BASH, DASH, ELVISH, FISH, Homes, NUSHELL, PRINTED, Shell, ZSH, is_installed};

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

/// `eval` as it stands in the README: unquoted under every setting; quoted, where most of them do nothing, under two.
fn sh_round_trip(shell: &Shell) {
    if !is_installed(shell) {
        return;
    }
    let unquoted = shell.settings.iter().map(|setting| (setting, "$(printed)"));
    let quoted = shell.settings[..2].iter().map(|setting| (setting, "\"$(printed)\""));
    let runs: Vec<_> = unquoted.chain(quoted).collect();
    for_values(|homes| {
        homes.with_files_named_like_the_output();
        let count = homes.values.len();
        for (setting, output) in &runs {
            let script = format!(
                "{setting}
                {PRINTED}
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
fn bash_reads_any_value_unchanged() {
    sh_round_trip(&BASH);
}

#[test]
fn dash_reads_any_value_unchanged() {
    sh_round_trip(&DASH);
}

#[test]
fn zsh_reads_any_value_unchanged() {
    sh_round_trip(&ZSH);
}

#[test]
fn fish_reads_any_value_unchanged() {
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
fn elvish_reads_any_value_unchanged() {
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
fn nushell_reads_any_value_unchanged() {
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
