//! Which word of a command is the program: also behind `npx`, `uvx`, `env`, `timeout` and their kind.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use anyhow::Result;

use super::{KnownProgram, going_by};

/// A known program in a command.
pub(crate) struct Located {
    pub(crate) child: KnownProgram,
    /// Where its own arguments begin.
    pub(crate) arguments: usize,
    /// Whether what starts it reads every option as its own, because no `--` is among the words.
    pub(crate) lacks_separator: bool,
}

/// A program that starts another one.
struct Wrapper {
    names: &'static [&'static str],
    /// Words one of which has to follow: `pnpm dlx`.
    verbs: &'static [&'static str],
    /// Options whose value is the next word.
    valued: &'static [&'static str],
    /// Words before the program that are not options.
    leading: usize,
    /// Whether `NAME=value` words come before the program.
    assigns: bool,
    /// Whether options are its own up to a `--`, also those behind the program.
    reads_all: bool,
}

const PLAIN: Wrapper = Wrapper { names: &[], verbs: &[], valued: &[], leading: 0, assigns: false, reads_all: false };
const PACKAGE: &[&str] = &["-p", "--package", "-w", "--workspace", "--registry", "--cache", "--prefix"];
const PYTHON_PACKAGE: &[&str] = &[
    "--from",
    "--with",
    "--with-editable",
    "--with-requirements",
    "-p",
    "--python",
    "--index-url",
    "-i",
    "--extra-index-url",
    "--index",
    "--default-index",
    "-c",
    "--constraints",
    "--spec",
    "--pip-args",
    "--directory",
];

const WRAPPERS: [Wrapper; 18] = [
    Wrapper { names: &["npx", "bunx", "pnpx"], valued: PACKAGE, ..PLAIN },
    Wrapper { names: &["npm"], verbs: &["exec", "x"], valued: PACKAGE, reads_all: true, ..PLAIN },
    Wrapper { names: &["pnpm", "yarn"], verbs: &["dlx", "exec"], valued: PACKAGE, ..PLAIN },
    Wrapper { names: &["bun"], verbs: &["x", "run"], valued: PACKAGE, ..PLAIN },
    Wrapper { names: &["uvx"], valued: PYTHON_PACKAGE, ..PLAIN },
    Wrapper { names: &["uv"], verbs: &["tool", "run"], valued: PYTHON_PACKAGE, ..PLAIN },
    Wrapper { names: &["pipx"], verbs: &["run"], valued: PYTHON_PACKAGE, ..PLAIN },
    Wrapper { names: &["env"], valued: &["-u", "--unset", "-C", "--chdir"], assigns: true, ..PLAIN },
    Wrapper { names: &["timeout", "gtimeout"], valued: &["-k", "--kill-after", "-s", "--signal"], leading: 1, ..PLAIN },
    Wrapper { names: &["nice"], valued: &["-n", "--adjustment"], ..PLAIN },
    Wrapper { names: &["ionice"], valued: &["-c", "--class", "-n", "--classdata"], ..PLAIN },
    Wrapper { names: &["nohup", "setsid", "command", "exec"], ..PLAIN },
    Wrapper { names: &["stdbuf"], valued: &["-i", "--input", "-o", "--output", "-e", "--error"], ..PLAIN },
    Wrapper { names: &["time"], valued: &["-f", "--format", "-o", "--output"], ..PLAIN },
    Wrapper { names: &["caffeinate"], valued: &["-t", "-w"], ..PLAIN },
    Wrapper { names: &["node", "deno"], valued: &["-r", "--require", "--import"], ..PLAIN },
    Wrapper { names: &["python", "python3"], verbs: &["-m"], ..PLAIN },
    Wrapper { names: &["mise", "asdf"], verbs: &["exec", "x"], ..PLAIN },
];

/// Programs whose script decides what is read; they are not expected to be known.
const INTERPRETERS: [&str; 22] = [
    "sh",
    "bash",
    "dash",
    "zsh",
    "fish",
    "ksh",
    "mksh",
    "busybox",
    "env",
    "python",
    "python3",
    "node",
    "deno",
    "bun",
    "ruby",
    "perl",
    "php",
    "pwsh",
    "powershell",
    "cmd",
    "curl",
    "make",
];

pub(crate) fn is_interpreter(program: &OsStr) -> bool {
    INTERPRETERS.contains(&name_of(program).as_str())
}

/// The known program in `command`, if there is one. `named`: what the program in it is, whatever it is called.
pub(crate) fn locate(command: &[OsString], named: Option<KnownProgram>) -> Result<Option<Located>> {
    let mut index = 0;
    let mut reads_all = false;
    while let Some(word) = command.get(index) {
        let name = name_of(word);
        let known = going_by(&name).transpose()?;
        if known.is_none() {
            let wrapper = WRAPPERS.iter().find(|wrapper| wrapper.names.contains(&name.as_str()));
            if let Some((wrapper, next)) =
                wrapper.and_then(|wrapper| Some((wrapper, program_behind(wrapper, command, index)?)))
            {
                reads_all |= wrapper.reads_all && !command[index..next].iter().any(|word| word == "--");
                index = next;
                continue;
            }
            if named.is_some() && is_interpreter(word) && has_script(command, index) {
                index += 1;
                continue;
            }
        }
        let Some(child) = named.or(known) else { return Ok(None) };
        let own = index + 1;
        let separator = command[own..].iter().position(|word| word == "--").filter(|_| reads_all);
        let arguments = separator.map_or(own, |at| own + at + 1);
        return Ok(Some(Located { child, arguments, lacks_separator: reads_all && separator.is_none() }));
    }
    Ok(None)
}

/// Whether the interpreter at `index` runs the file behind it: its options may name a script of another kind.
fn has_script(command: &[OsString], index: usize) -> bool {
    command.get(index + 1).is_some_and(|word| !word.to_string_lossy().starts_with('-'))
}

/// The index of the word that the wrapper at `index` starts.
fn program_behind(wrapper: &Wrapper, command: &[OsString], index: usize) -> Option<usize> {
    let mut at = index + 1;
    let mut leading = wrapper.leading;
    let mut is_run = wrapper.verbs.is_empty();
    loop {
        let word = command.get(at)?.to_str()?;
        let is_assignment = wrapper.assigns && word.contains('=');
        if wrapper.verbs.contains(&word) {
            is_run = true;
        } else if wrapper.valued.contains(&word) {
            at += 1;
        } else if !word.starts_with('-') && !is_assignment {
            if !is_run {
                return None;
            }
            if leading == 0 {
                return Some(at);
            }
            leading -= 1;
        }
        at += 1;
    }
}

/// What a program is called: its file's name, or its package's without a version.
fn name_of(word: &OsStr) -> String {
    let Some(word) = word.to_str() else { return String::new() };
    if word.starts_with('@') {
        let (scope, rest) = word.split_once('/').unwrap_or((word, ""));
        return format!("{scope}/{}", rest.split('@').next().unwrap_or_default());
    }
    let name = Path::new(word).file_name().and_then(OsStr::to_str).unwrap_or_default();
    let name = name.split(['@', '[']).next().unwrap_or_default();
    let name = name.split("==").next().unwrap_or_default();
    let without = |name: &str, ending: &str| {
        let at = name.len().checked_sub(ending.len())?;
        (name.get(at..)?.eq_ignore_ascii_case(ending)).then(|| name[..at].to_owned())
    };
    let endings = [".exe", ".cmd", ".bat", ".ps1", ".mjs", ".cjs", ".js"];
    endings.iter().find_map(|ending| without(name, ending)).unwrap_or_else(|| name.to_owned())
}

/// The value of the first of `options` in `arguments`, as `--option value` or `--option=value`.
pub(super) fn value_of(options: &[String], arguments: &[OsString]) -> Option<String> {
    let words = own_words(arguments);
    words.iter().enumerate().find_map(|(index, word)| {
        let option = options.iter().find(|option| is_option(word, option))?;
        match word.strip_prefix(option.as_str())?.strip_prefix('=') {
            Some(value) => Some(value.to_owned()),
            None => words.get(index + 1).map(|word| (*word).to_owned()),
        }
    })
}

/// The first of `options` that is in `arguments`. Words behind an option are what its value begins with.
pub(super) fn first_of(options: &[String], arguments: &[OsString]) -> Option<String> {
    let words = own_words(arguments);
    words.iter().enumerate().find_map(|(index, word)| {
        options.iter().find_map(|option| {
            let Some((name, starts)) = option.split_once(' ') else {
                return is_option(word, option).then(|| option.clone());
            };
            let value = value_in(word, name, words.get(index + 1).copied())?.trim_start();
            let start = starts.split(' ').find(|start| value.starts_with(start))?;
            Some(format!("{name} {start}"))
        })
    })
}

/// The value of `option` in `word`, or the word `next` behind it.
fn value_in<'a>(word: &'a str, option: &str, next: Option<&'a str>) -> Option<&'a str> {
    let rest = word.strip_prefix(option)?;
    match rest.strip_prefix('=') {
        Some(value) => Some(value),
        None if rest.is_empty() => next,
        None => (!option.starts_with("--")).then_some(rest),
    }
}

fn is_option(word: &str, option: &str) -> bool {
    word.strip_prefix(option).is_some_and(|rest| rest.is_empty() || (option.starts_with("--") && rest.starts_with('=')))
}

/// The words before a `--`.
fn own_words(arguments: &[OsString]) -> Vec<&str> {
    arguments.iter().take_while(|word| *word != "--").map(|word| word.to_str().unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_program_is_found_by_its_file_name_and_behind_what_starts_it() {
        for (line, title, at) in [
            ("/usr/bin/goose session", "goose", 0),
            ("C:/x/opencode.EXE", "opencode", 0),
            ("opencode.cmd run", "opencode", 0),
            ("node /x/claude.js -p hi", "Claude Code", 1),
            ("npx opencode-ai@latest run hi", "opencode", 1),
            ("npx -y @qwen-code/qwen-code@0.24.4 -p hi", "Qwen Code", 2),
            ("npx --yes --package @openai/codex codex exec", "Codex", 4),
            ("npm exec -- @openai/codex exec", "Codex", 3),
            ("pnpm dlx @anthropic-ai/claude-code", "Claude Code", 2),
            ("bunx --bun opencode-ai", "opencode", 2),
            ("bun x @continuedev/cli -p hi", "Continue", 2),
            ("uvx --from aider-chat aider", "aider", 3),
            ("uvx --python 3.12 aider-chat==0.86.2", "aider", 3),
            ("uvx llm[extra] hi", "llm", 1),
            ("uv tool run aider-chat", "aider", 3),
            ("pipx run --spec aider-chat aider", "aider", 4),
            ("env -u X A=b C=d aider", "aider", 5),
            ("timeout -k 5 --signal=INT 60 claude -p hi", "Claude Code", 5),
            ("nice -n 5 env A=b timeout 9 npx -y opencode-ai", "opencode", 9),
            ("nice -5 qwen", "Qwen Code", 2),
            ("nohup stdbuf -o L codex", "Codex", 4),
            ("python3 -m aider --message hi", "aider", 2),
        ] {
            let located = locate(&words(line), None).unwrap();
            let located = located.unwrap_or_else(|| panic!("{line}: nothing was found"));
            let found = (located.child.title.as_str(), located.arguments, located.lacks_separator);
            assert_eq!(found, (title, at + 1, false), "{line}");
        }
    }

    #[test]
    fn npm_reads_every_option_up_to_a_double_dash() {
        for (line, arguments, lacks_separator) in [
            ("npm exec claude -- -p hi", 4, false),
            ("npm x --yes @openai/codex --loglevel error -- exec", 7, false),
            ("npm exec claude", 3, true),
            ("npm exec claude hi", 3, true),
            ("npm exec -- claude -p -- hi", 4, false),
            ("npx claude -p -- hi", 2, false),
            ("env A=b npm exec claude -- -p", 6, false),
        ] {
            let located = locate(&words(line), None).unwrap().unwrap();
            assert_eq!((located.arguments, located.lacks_separator), (arguments, lacks_separator), "{line}");
        }
    }

    #[test]
    fn what_only_looks_like_one_is_not() {
        for line in [
            "python client.py",
            "sh -c opencode",
            "npm install opencode-ai",
            "env",
            "npx",
            "opencode-helper",
            "timeout 5",
            "pnpm opencode",
            "make codex",
        ] {
            assert!(locate(&words(line), None).unwrap().is_none(), "{line}");
        }
    }

    #[test]
    fn options_of_the_program_are_read_in_both_forms_and_not_behind_the_double_dash() {
        let options = ["-m".to_owned(), "--model".to_owned()];
        let value = |line: &str| value_of(&options, &words(line));
        assert_eq!(value("run -m a/b hi").unwrap(), "a/b");
        assert_eq!(value("--model=x").unwrap(), "x");
        assert_eq!(value("--models x -n"), None);
        assert_eq!(value("exec -- --model x"), None);
        assert_eq!(first_of(&options, &words("a --model=x")).unwrap(), "--model");
    }

    #[test]
    fn an_option_with_a_value_is_found_however_both_are_written() {
        let options = ["-c host key".to_owned(), "--config host".to_owned()];
        let found = |line: &str| first_of(&options, &words(line));
        for line in ["run -c host=x", "-chost=x", "-c=host=x", "-c a=b -c hosts.f.url=x"] {
            assert_eq!(found(line).as_deref(), Some("-c host"), "{line}");
        }
        assert_eq!(found("-c key=x").as_deref(), Some("-c key"));
        assert_eq!(found("--config=host=x").as_deref(), Some("--config host"));
        for line in ["-c a=host", "-c", "host=x", "--configure host", "exec -- -c host=x"] {
            assert_eq!(found(line), None, "{line}");
        }
    }

    #[test]
    fn a_named_program_is_behind_what_starts_it_too() {
        for (line, arguments) in [
            ("./mine -p", 1),
            ("timeout 5 ./mine -p", 3),
            ("env A=b nice ./mine", 4),
            ("node ./cli.mjs -p", 2),
            ("npx -y mine@1 -p", 3),
            ("uvx --from mine mine", 4),
            ("python -m mine", 3),
            ("python3 mine.py", 2),
            ("sh ./mine -p", 2),
            ("claude -p", 1),
            ("sh -c mine", 1),
        ] {
            let located = locate(&words(line), Some(super::super::named("codex").unwrap())).unwrap().unwrap();
            assert_eq!((located.child.title.as_str(), located.arguments), ("Codex", arguments), "{line}");
        }
    }
}
