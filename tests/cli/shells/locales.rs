//! `env` read in locales whose characters end in bytes of ASCII: no byte of a value joins a byte of the quoting.
//!
//! A GBK, GB18030, Big5 or Shift-JIS shell takes a byte from 0x81 on and the backslash after it for one character. The
//! byte behind the backslash is then active: `文|./p` ran `./p`.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tempfile::TempDir;

use super::{BASH, DASH, FISH, Homes, PRINTED, Shell, ZSH, is_installed};
use crate::machine::possible;

/// Language, charset.
const LOCALES: [(&str, &str); 5] =
    [("zh_CN", "GBK"), ("zh_CN", "GB18030"), ("zh_TW", "BIG5"), ("zh_HK", "BIG5-HKSCS"), ("ja_JP", "SHIFT_JIS")];

/// What each text of UTF-8 ends in, in these charsets: a whole character, or the first byte of one.
const BEFORE: [&str; 9] = ["文", "é", "ü文", "漢字", "€", "\u{2028}", "🦀", "\u{fdd0}", "\u{93223}\u{fdd0}ü文🦀"];

const ACTIVE: [&str; 14] = [
    "|./p",
    ";./p;",
    "&./p&",
    "`./p`",
    "$(./p)",
    "\\",
    "'",
    "\"",
    "'; ./p; '",
    " ./p ",
    "*",
    ">ran",
    "{a,b}",
    "\\'\\|./p",
];

/// The locales that this machine can compile: those of its charsets and languages that are installed.
struct Locales {
    directory: TempDir,
    names: Vec<String>,
}

impl Locales {
    /// One compilation for all tests that need it at the same time: GB18030 alone takes many seconds.
    fn compiled() -> Arc<Self> {
        static COMPILED: Mutex<Weak<Locales>> = Mutex::new(Weak::new());
        let mut compiled = COMPILED.lock().unwrap();
        compiled.upgrade().unwrap_or_else(|| {
            let locales = Arc::new(Self::compile());
            *compiled = Arc::downgrade(&locales);
            locales
        })
    }

    fn compile() -> Self {
        let directory = TempDir::new().unwrap();
        let compile = |(language, charset): (&str, &str)| {
            let name = format!("{language}.{charset}");
            let mut localedef = Command::new("localedef");
            localedef.args(["-c", "-i", language, "-f", charset]).arg(directory.path().join(&name));
            (name, localedef.stderr(Stdio::null()).spawn())
        };
        let is_compiled = |(name, localedef): (String, io::Result<Child>)| {
            // The charset lacks some characters of the language, which costs a warning and a status of 1.
            let _ = localedef.and_then(|mut localedef| localedef.wait());
            directory.path().join(&name).join("LC_CTYPE").exists().then_some(name)
        };
        let names = LOCALES.map(compile).into_iter().filter_map(is_compiled).collect();
        Self { directory, names }
    }
}

/// Reads `values` in each locale, in a directory whose program `p` leaves a trace.
fn read_in(locales: &Path, names: &[String], shell: &Shell, values: &[String]) -> Result<(), String> {
    let homes = Homes::with(values);
    let trap = homes.path("here/p");
    fs::write(&trap, "#!/bin/sh\ntouch ran\n").unwrap();
    fs::set_permissions(trap, fs::Permissions::from_mode(0o755)).unwrap();
    let last = values.len() - 1;
    let scripts = if shell.program == "fish" {
        homes.print_each(&["env", "--format", "fish"]);
        vec![format!(
            "for i in (seq 0 {last})
                set -gx HOME $ROOT/$i
                if test $i = 0; qwenauth env --format fish; else; cat $HOME/out; end | source; or exit 9
                printf '%s\\0' $OPENAI_API_KEY
            end"
        )]
    } else {
        homes.print_each(&["env"]);
        let script = |output: &str| {
            format!(
                "{PRINTED}
                i=0
                while [ \"$i\" -le {last} ]; do
                    export HOME=\"$ROOT/$i\"
                    eval {output}
                    printf '%s\\0' \"$OPENAI_API_KEY\"
                    i=$((i + 1))
                done"
            )
        };
        vec![script("$(printed)"), script("\"$(printed)\"")]
    };
    for name in names {
        for script in &scripts {
            homes.come_through_in(shell, script, &[("LC_ALL", name.as_ref()), ("LOCPATH", locales.as_os_str())])?;
            if homes.path("here/ran").exists() {
                return Err(format!("{} ran a value in {name}", shell.program));
            }
        }
    }
    Ok(())
}

/// In a Big5-HKSCS locale glibc decodes `Ê` and `ê` only with what follows them, or with an accent as two characters: zsh 5.9
/// never ends splitting such a text, whoever prints it, and fish 3.6 loses the accent.
fn survives(shell: &Shell, value: &str) -> bool {
    let has_pair = value.as_bytes().windows(2).any(|pair| matches!(pair, [0x88, 0xa3 | 0xa5 | 0xa7]));
    !has_pair || !["zsh", "fish"].contains(&shell.program)
}

fn every_locale(shell: &Shell) {
    if !is_installed(shell) {
        return;
    }
    let locales = Locales::compiled();
    let (directory, names) = (locales.directory.path(), &locales.names);
    if !possible(names.len() == LOCALES.len(), "compile the locales of GBK, GB18030, Big5 and Shift_JIS (localedef)") {
        let _ = writeln!(io::stderr(), "compiled: {names:?}");
        return;
    }
    let fixed = BEFORE.iter().flat_map(|before| ACTIVE.iter().map(move |active| format!("x{before}{active}")));
    let fixed: Vec<String> = fixed.filter(|value| survives(shell, value)).collect();
    read_in(directory, names, shell, &fixed).unwrap();
    let part = prop_oneof![
        3 => proptest::sample::select(&ACTIVE[..]).prop_map(str::to_owned),
        2 => proptest::sample::select(&BEFORE[..]).prop_map(str::to_owned),
        2 => any::<char>().prop_filter("not a control", |character| !character.is_control()).prop_map(String::from),
    ];
    let value = vec(part, 1..6).prop_map(|parts| parts.concat());
    let values = vec(value.prop_filter("the shell cannot read it", |value| survives(shell, value)), 24);
    let config = Config { cases: 1, max_shrink_iters: 50, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&values, |values| read_in(directory, names, shell, &values).map_err(TestCaseError::fail))
        .unwrap();
}

#[test]
fn bash_runs_nothing_of_a_value_in_any_locale() {
    every_locale(&BASH);
}

#[test]
fn dash_runs_nothing_of_a_value_in_any_locale() {
    every_locale(&DASH);
}

#[test]
fn zsh_runs_nothing_of_a_value_in_any_locale() {
    every_locale(&ZSH);
}

#[test]
fn fish_runs_nothing_of_a_value_in_any_locale() {
    every_locale(&FISH);
}
