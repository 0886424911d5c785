//! The messages of src/say/messages.toml and those of the source: none is without its translation, none is left over, and a
//! translation has the same values and the same literals.
//!
//! What stays English is written down here: logs, answers of servers, `doctor`, help, text in files, and what is for
//! programs rather than people.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::machine::Machine;
use crate::screens::screen;
use crate::server::Reply;

const LANGUAGES: [&str; 2] = ["zh", "ru"];

/// Files whose text stays English: what they answer to clients and write into files, help, logs of a server, `doctor`, the
/// practice provider, tables of reference, tests.
const ENGLISH: [&str; 24] = [
    "cli/credential.rs",
    "commands/completions.rs",
    "commands/doctor",
    "commands/man.rs",
    "commands/providers.rs",
    "commands/usage",
    "commands/usage.rs",
    "compression.rs",
    "credentials/store/traces.rs",
    "gateway",
    "hooks.rs",
    "installation.rs",
    "internals",
    "keys/issuer.rs",
    "limits",
    "oauth/jwt.rs",
    "platform/unix/service.rs",
    "platform/windows",
    "providers/error",
    "sandbox",
    "say",
    "setup/snippets.rs",
    "shell.rs",
    "usage",
];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// One string literal of the source.
struct Literal {
    /// Its file, below `src`.
    file: String,
    line: usize,
    text: String,
    /// The code before it, back to the end of the last statement.
    before: String,
}

/// The string literals of a file, without those in comments and unit tests.
fn literals(file: &str, code: &str) -> Vec<Literal> {
    let code = code.split("#[cfg(test)]\nmod tests").next().unwrap();
    let characters: Vec<char> = code.chars().collect();
    let mut found = Vec::new();
    let (mut at, mut line, mut statement) = (0, 1, 0);
    while at < characters.len() {
        match characters[at] {
            '\n' => line += 1,
            ';' | '}' => statement = at,
            '/' if characters.get(at + 1) == Some(&'/') => {
                while characters.get(at + 1).is_some_and(|next| *next != '\n') {
                    at += 1;
                }
            }
            // A character, which a quote may be.
            '\'' if characters.get(at + 2) == Some(&'\'') && characters[at + 1] != '\\' => at += 2,
            '\'' if characters.get(at + 1) == Some(&'\\') && characters.get(at + 3) == Some(&'\'') => at += 3,
            '"' => {
                let first = line;
                let is_raw = characters[..at].iter().rev().find(|character| **character != '#') == Some(&'r')
                    && !characters[..at.saturating_sub(1)].last().is_some_and(|before| before.is_alphanumeric());
                let hashes = characters[..at].iter().rev().take_while(|character| **character == '#').count();
                let mut text = String::new();
                at += 1;
                while characters[at] != '"'
                    || is_raw && (1..=hashes).any(|hash| characters.get(at + hash) != Some(&'#'))
                {
                    line += usize::from(characters[at] == '\n');
                    if characters[at] != '\\' || is_raw {
                        text.push(characters[at]);
                        at += 1;
                        continue;
                    }
                    match characters[at + 1] {
                        'n' => text.push('\n'),
                        '\n' => {
                            line += 1;
                            while characters[at + 2].is_whitespace() {
                                line += usize::from(characters[at + 2] == '\n');
                                at += 1;
                            }
                        }
                        'u' | 'x' | 't' | 'r' | '0' => text.push('\u{fffd}'),
                        other => text.push(other),
                    }
                    at += 2;
                }
                let before = characters[statement..at].iter().collect();
                found.push(Literal { file: file.to_owned(), line: first, text, before });
            }
            _ => {}
        }
        at += 1;
    }
    found
}

fn source() -> Vec<Literal> {
    let mut found = Vec::new();
    let mut waiting = vec![src()];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(src()).unwrap().to_str().unwrap().replace('\\', "/");
            found.extend(literals(&name, &fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(found.len() > 1000);
    found
}

/// The lines of a text as the table has them.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.trim().trim_start_matches("warning: "))
}

fn table() -> BTreeMap<String, BTreeMap<String, String>> {
    toml::from_str(&fs::read_to_string(src().join("say/messages.toml")).unwrap()).unwrap()
}

/// What people read of the built-in providers.
fn of_providers() -> BTreeSet<String> {
    let table: toml::Table = fs::read_to_string(src().join("providers/built_in.toml")).unwrap().parse().unwrap();
    let text = |provider: &toml::Value, key: &str| Some(provider.get(key)?.as_str()?.to_owned());
    let shown = ["title", "label", "cost", "note", "instead"];
    let countries = table.values().filter_map(|provider| provider.get("regions")?.as_table().cloned());
    let countries =
        countries.flat_map(|regions| regions.into_iter().filter_map(move |(_, region)| text(&region, "country")));
    let own = table.values().flat_map(|provider| shown.iter().filter_map(move |key| text(provider, key)));
    own.chain(countries).collect()
}

#[test]
fn a_row_of_the_table_is_a_message_of_the_source() {
    let mut known = of_providers();
    known.extend(source().iter().flat_map(|literal| lines(&literal.text).map(str::to_owned).collect::<Vec<_>>()));
    for (english, row) in table() {
        assert!(row.contains_key("from") || known.contains(english.trim()), "`{english}` is no message any more");
        assert_eq!(english, english.trim());
    }
}

/// A text with its places numbered: `{}` as the next without a name, as in a format string.
fn numbered(text: &str, names: &[String]) -> String {
    let mut unnamed = (0..names.len()).filter(|&place| names[place].is_empty());
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, from)) = rest.split_once('{') {
        shown += before;
        if let Some(escaped) = from.strip_prefix('{') {
            shown += "{{";
            rest = escaped;
            continue;
        }
        let (inside, after) = from.split_once('}').unwrap();
        let name = inside.split(':').next().unwrap();
        let place = match name.parse() {
            Ok(number) => Some(number),
            Err(_) if name.is_empty() => unnamed.next(),
            Err(_) => names.iter().position(|known| known == name),
        };
        shown += &format!("{{{}}}", place.unwrap_or_else(|| panic!("`{text}` has no place `{name}`")));
        rest = after;
    }
    shown + rest
}

fn places(text: &str) -> Vec<String> {
    let inside = |piece: &str| Some(piece.split_once('}')?.0.split(':').next()?.to_owned());
    text.replace("{{", "").split('{').skip(1).filter_map(inside).collect()
}

/// What can be typed, and which value is where.
fn parts(text: &str) -> (Vec<String>, BTreeSet<String>) {
    let mut literals: Vec<String> = text.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    literals.sort();
    (literals, places(text).into_iter().collect())
}

#[test]
fn a_translation_has_the_same_values_and_literals() {
    for (english, row) in table() {
        let names = places(&english);
        // The same name twice is the same value.
        let expected = parts(&numbered(&english, &names));
        for language in LANGUAGES {
            let translated = row.get(language).unwrap_or_else(|| panic!("`{english}` has no `{language}`"));
            assert_eq!(parts(&numbered(translated, &names)), expected, "{language}: `{english}`: `{translated}`");
            assert!(!translated.ends_with('.') || english.ends_with('.'), "{language}: `{translated}`");
        }
        assert_ne!(row["zh"], english, "is not in Chinese");
        let cyrillic =
            |text: &str| text.chars().any(|character| ('а'..='я').contains(&character.to_lowercase().next().unwrap()));
        let is_name = row.get("from").is_some_and(|from| from == "a name");
        assert!(is_name || cyrillic(&row["ru"]), "`{english}` in Russian: {}", row["ru"]);
    }
}

/// The texts between two places.
fn between(text: &str) -> Vec<String> {
    let after = text.split('}').skip(1).filter_map(|piece| Some(piece.split_once('{')?.0.to_owned()));
    after.collect()
}

#[test]
fn a_row_says_something_of_its_own() {
    for english in table().keys() {
        let names = places(english);
        let own = numberless(english).chars().filter(|character| !character.is_whitespace()).count();
        assert!(names.is_empty() || own >= 4, "`{english}` fits almost every text");
        // Which value ends where, no reader of such a text can tell: the first space or nothing would part them.
        assert!(
            !between(english).iter().any(|text| text.trim().is_empty()),
            "`{english}`: two values next to each other"
        );
    }
}

/// Whether a literal is a sentence or a part of one.
fn is_message(literal: &Literal, line: &str) -> bool {
    let outside: String = numberless(line).split('`').step_by(2).collect::<Vec<_>>().join(" ");
    let words = outside.split(|character: char| !character.is_alphabetic()).filter(|word| word.len() > 1).count();
    let is_log =
        ["log::", "reason =", "expect(", "json!", "after_help", "after_long_help", "next_help_heading", "=> {\n"];
    (words > 1 || words == 1 && line.contains('`'))
        && line.contains(' ')
        && !line.contains("://")
        && !is_log.iter().any(|before| literal.before.contains(before))
}

fn numberless(line: &str) -> String {
    let mut shown = String::new();
    let mut depth = 0;
    for character in line.chars() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ if depth == 0 => shown.push(character),
            _ => {}
        }
    }
    shown
}

#[test]
fn a_message_that_people_see_has_a_row() {
    let english = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/english.txt")).unwrap();
    let english: BTreeSet<&str> = english.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    let table = table();
    let (mut missing, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for literal in source() {
        if ENGLISH.iter().any(|part| literal.file == *part || literal.file.starts_with(&format!("{part}/"))) {
            continue;
        }
        for line in lines(&literal.text) {
            if !is_message(&literal, line) || table.contains_key(line) {
                continue;
            }
            match english.get(line) {
                Some(known) => drop(seen.insert(*known)),
                None => drop(missing.insert(format!("src/{}:{}: {line}", literal.file, literal.line))),
            }
        }
    }
    let missing: Vec<String> = missing.into_iter().collect();
    assert!(missing.is_empty(), "give these a row in src/say/messages.toml:\n{}", missing.join("\n"));
    assert_eq!(seen, english, "tests/cli/english.txt has lines that are nowhere");
    for part in ENGLISH {
        assert!(src().join(part).exists(), "`ENGLISH` names `src/{part}`, which is not there");
    }
}

/// `token` without a login, on a terminal or in a pipe, with one variable more.
#[track_caller]
fn says(name: &str, value: &str, on_terminal: bool, expected: &str) {
    let machine = Machine::new().variable(name, value);
    let shown = if on_terminal {
        screen(&machine, &["token"], 120, None).0.screen().contents()
    } else {
        machine.run(["token"]).exits(4).any_stderr().stderr.clone()
    };
    assert!(shown.contains(expected), "{name}={value}: {shown}");
}

const ENGLISH_SENTENCE: &str = "error: not logged in: there is no credential for";
const CHINESE_SENTENCE: &str = "错误: 未登录：没有";
const RUSSIAN_SENTENCE: &str = "ошибка: вход не выполнен: нет учётных данных";

#[test]
fn a_terminal_gets_the_language_of_the_locale_and_a_pipe_english() {
    for (name, value, expected) in [
        ("LANG", "zh_CN.UTF-8", CHINESE_SENTENCE),
        ("LANG", "ru_RU.utf8", RUSSIAN_SENTENCE),
        ("LC_MESSAGES", "ru_RU.UTF-8", ENGLISH_SENTENCE),
        ("LC_ALL", "ru_RU.UTF-8", RUSSIAN_SENTENCE),
        ("LANG", "zh_CN.GB18030", ENGLISH_SENTENCE),
        ("LANG", "zh_TW.UTF-8", ENGLISH_SENTENCE),
        ("QWENAUTH_LANG", "ru", RUSSIAN_SENTENCE),
    ] {
        says(name, value, true, expected);
        let in_a_pipe = if name == "QWENAUTH_LANG" { expected } else { ENGLISH_SENTENCE };
        says(name, value, false, in_a_pipe);
    }
}

#[test]
fn the_first_variable_that_is_set_decides() {
    let machine = Machine::new().variable("LANG", "zh_CN.UTF-8").variable("LC_MESSAGES", "ru_RU.UTF-8");
    let shown = |machine: &Machine| screen(machine, &["token"], 120, None).0.screen().contents();
    assert!(shown(&machine).contains(RUSSIAN_SENTENCE));
    let machine = machine.variable("LC_ALL", "zh_CN.UTF-8");
    assert!(shown(&machine).contains(CHINESE_SENTENCE));
    let machine = machine.variable("QWENAUTH_LANG", "en");
    assert!(shown(&machine).contains(ENGLISH_SENTENCE));
}

#[test]
fn json_doctor_and_logs_are_english_in_every_language() {
    let machine = Machine::new().variable("QWENAUTH_LANG", "ru");
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    let mut outcome = machine.run(["login", "groq", "--api-key-stdin", "--json"]).exits(2).any_stderr();
    assert_eq!(outcome.json()["message"], "stdin is empty");
    assert!(outcome.stderr.contains("stdin пуст"), "{}", outcome.stderr);
    let is_english = |text: &str| !text.chars().any(|character| ('а'..='я').contains(&character));
    assert!(is_english(&machine.run(["doctor"]).exits(1).any_stderr().any_stdout().stdout));
    let mut status = machine.run(["status", "--json"]).exits(4);
    assert!(is_english(&status.json().to_string()));
    let logged = machine.variable("QWENAUTH_LOG", "debug").run(["token"]).exits(4).any_stderr();
    let logs: Vec<&str> = logged.stderr.lines().filter(|line| line.starts_with('[')).collect();
    assert!(!logs.is_empty() && is_english(&logs.concat()), "{logs:?}");
}
