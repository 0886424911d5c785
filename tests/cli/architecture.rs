//! The house as the picture in src/main.rs shows it: its rooms, the arrows between them, each outside crate in its home.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each part of the program may use besides `error` and `secret`, which all may.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli", "commands"]),
    ("credentials", &["lock", "oauth", "files", "providers"]),
    ("config", &["providers", "files"]),
    ("oauth", &["http"]),
    ("gateway", &["credentials", "usage"]),
    ("cli", &[]),
    ("lock", &[]),
    ("shell", &[]),
    ("terminal", &[]),
    ("secret", &[]),
    ("error", &[]),
];

const USED_BY_ALL: [&str; 2] = ["error", "secret"];

/// Where a crate, or what else has one home, may be named.
const HOMES: &[(&str, &[&str])] = &[
    ("reqwest::", &["http", "gateway"]),
    ("tokio::", &["gateway", "sandbox"]),
    ("hyper::", &["gateway", "sandbox"]),
    ("hyper_util::", &["gateway", "sandbox"]),
    ("async ", &["gateway", "sandbox"]),
    (".await", &["gateway", "sandbox"]),
    ("dialoguer::", &["terminal"]),
    ("indicatif::", &["terminal"]),
    ("qr2term::", &["terminal"]),
    ("fs2::", &["lock"]),
    ("clap::", &["cli"]),
    ("fs::write", &["files"]),
    ("File::create", &["files"]),
    ("NamedTempFile", &["files"]),
];

struct Source {
    /// `credentials` for `credentials/mod.rs`
    part: String,
    path: PathBuf,
    /// Without comments and tests
    code: String,
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    let mut waiting = vec![src()];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let path = path.strip_prefix(src()).unwrap().to_owned();
            let first = Path::new(path.components().next().unwrap().as_os_str());
            let part = first.file_stem().unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(src().join(&path)).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let code = text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
            sources.push(Source { part, path, code });
        }
    }
    assert!(sources.len() > 10);
    sources
}

/// The names that follow `start` in `code`: one, or those of a group in braces.
fn names_after(code: &str, start: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(start) {
        let rest = &code[at + start.len()..];
        let group = rest.strip_prefix('{');
        let mut depth = 0;
        for item in group.unwrap_or(rest).split_inclusive([',', '{', '}']) {
            if depth == 0 {
                let name: String = item.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                names.extend((!name.is_empty()).then_some(name));
            }
            match item.chars().last() {
                Some('{') => depth += 1,
                Some('}') => depth -= 1,
                _ => {}
            }
            if group.is_none() || depth < 0 {
                break;
            }
        }
    }
    names
}

/// Which parts each part uses.
fn uses() -> BTreeMap<String, BTreeSet<String>> {
    let sources = sources();
    let parts: BTreeSet<String> = sources.iter().map(|source| source.part.clone()).collect();
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources {
        let mut named = names_after(&source.code, "crate::");
        if source.part == "main" {
            named.extend(parts.iter().filter(|part| source.code.contains(&format!("{part}::"))).cloned());
        }
        named.retain(|name| parts.contains(name) && *name != source.part);
        uses.entry(source.part).or_default().extend(named);
    }
    uses
}

#[test]
fn the_arrows_between_the_parts_are_those_of_the_picture() {
    for (part, used) in uses() {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == part) else { continue };
        for name in used {
            let name = name.as_str();
            assert!(allowed.contains(&name) || USED_BY_ALL.contains(&name), "`{part}` must not use `{name}`");
        }
    }
}

#[test]
fn nothing_but_main_uses_the_commands_and_no_arrow_runs_in_a_circle() {
    let uses = uses();
    for (part, used) in &uses {
        assert!(part == "main" || !used.contains("commands"), "`{part}` uses `commands`");
        assert!(!used.contains("main"), "`{part}` uses `main`");
        for private in ["gateway", "usage", "setup", "sandbox"] {
            let commands = part == "commands" || (part == "gateway" && private == "usage");
            assert!(commands || !used.contains(private), "`{part}` uses `{private}`, which is for its command");
        }
        let mut reached = BTreeSet::new();
        let mut waiting: Vec<&String> = used.iter().collect();
        while let Some(next) = waiting.pop() {
            if reached.insert(next) {
                waiting.extend(&uses[next]);
            }
        }
        assert!(!reached.contains(part), "`{part}` uses itself by way of others");
    }
}

#[test]
fn no_command_uses_another_command() {
    let commands: Vec<Source> = sources().into_iter().filter(|source| source.part == "commands").collect();
    let names: BTreeSet<String> =
        commands.iter().map(|source| source.path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    for command in &commands {
        let own = command.path.file_stem().unwrap().to_str().unwrap();
        let mut used = names_after(&command.code, "super::");
        used.extend(names_after(&command.code, "commands::"));
        used.retain(|name| names.contains(name) && name != own);
        assert!(own == "mod" || used.is_empty(), "`{own}` uses {used:?}");
    }
}

#[test]
fn what_has_one_home_stays_there() {
    for source in sources() {
        for (named, homes) in HOMES {
            let elsewhere = source.code.match_indices(named).any(|(at, _)| {
                let before = source.code[..at].chars().last().unwrap_or(' ');
                !before.is_alphanumeric() && before != '_'
            });
            let home = homes.contains(&source.part.as_str());
            assert!(home || !elsewhere, "`{named}` in {}", source.path.display());
        }
    }
}

#[test]
fn the_picture_shows_what_src_holds() {
    let text = fs::read_to_string(src().join("main.rs")).unwrap();
    let shown: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("//!")?.split_whitespace().next())
        .filter(|word| word.ends_with(".rs") || word.ends_with('/'))
        .collect();
    let there: BTreeSet<String> = fs::read_dir(src())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.is_dir(), path.file_name().unwrap().to_str().unwrap().to_owned()))
        .filter(|(directory, name)| {
            *directory || Path::new(name).extension().is_some_and(|extension| extension == "rs")
        })
        .map(|(directory, name)| if directory { name + "/" } else { name })
        .collect();
    assert_eq!(shown, there.iter().map(String::as_str).collect());
}

#[test]
fn every_file_opens_with_one_line_that_says_what_it_is() {
    for source in sources() {
        let text = fs::read_to_string(src().join(&source.path)).unwrap();
        let first = text.lines().next().unwrap_or_default();
        assert!(first.starts_with("//! ") && first.len() > 10, "{}: {first}", source.path.display());
    }
}
