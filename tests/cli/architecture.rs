//! `src/` is what the module overview in src/lib.rs says: its modules, the arrows between them, one home for each outside crate;
//! and nothing unknown lies beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine::has_programs;

/// What lies at the top of the repository.
const TOP: &str = ".cargo .ci .github .gitignore CHANGELOG.md CONTRIBUTING.md Cargo.lock Cargo.toml LICENSE README.md \
                   README.ru.md README.zh-CN.md RELEASING.md SECURITY.md STYLE.md action.yml benches build.rs clippy.toml \
                   completions contrib deny.toml docs fuzz integrations justfile man packaging rustfmt.toml src tests";

const USED_BY_ALL: [&str; 4] = ["epoch", "error", "secret", "sha256"];

/// Where a crate, or what else has one home, may be named.
const HOMES: &[(&str, &[&str])] = &[
    ("reqwest::", &["http", "gateway", "names"]),
    ("tokio::", &["gateway", "limits", "sandbox", "platform"]),
    ("hyper::", &["gateway", "sandbox"]),
    ("httparse::", &["gateway"]),
    // `commands` for doctor, which asks what the HTTP clients ask of the proxies' variables
    ("hyper_util::", &["gateway", "sandbox", "commands", "http", "names", "proxies"]),
    ("redis::", &["limits"]),
    // What is left out by a feature ends at the boundary of one module.
    ("feature = \"team\"", &["limits", "lib"]),
    ("rustls::", &["tls", "http", "gateway", "limits"]),
    ("tokio_rustls::", &["gateway", "limits"]),
    ("ring::hmac", &["keys"]),
    ("ring::signature", &["oauth"]),
    ("crc32fast::", &["keys", "limits"]),
    // `platform` for what ends a server
    ("async ", &["gateway", "limits", "sandbox", "platform"]),
    (".await", &["gateway", "limits", "sandbox", "platform"]),
    // `main` for what runs before Rust's runtime
    ("cfg(unix", &["platform", "main"]),
    ("cfg(windows", &["platform"]),
    ("cfg(target_os", &["platform"]),
    ("cfg!(unix", &["platform"]),
    ("cfg!(windows", &["platform"]),
    ("cfg!(target_os", &["platform"]),
    ("cfg(not(unix", &["platform"]),
    ("cfg(not(windows", &["platform"]),
    ("cfg(not(target_os", &["platform"]),
    // `lib` and `gateway` for what properties reach
    ("cfg(any(", &["platform", "lib", "gateway"]),
    ("cfg(all(", &["platform", "main"]),
    ("target_os =", &["platform", "main"]),
    ("nix::", &["platform"]),
    ("dlmalloc::", &["platform"]),
    ("rustix::", &["platform"]),
    ("windows_sys::", &["platform"]),
    ("std::os::", &["platform"]),
    ("os::unix", &["platform"]),
    ("os::windows", &["platform"]),
    ("os::fd", &["platform"]),
    ("signal::unix", &["platform"]),
    ("signal::windows", &["platform"]),
    ("\"/proc/", &["platform"]),
    ("\"/dev/", &["platform"]),
    ("dialoguer::", &["terminal"]),
    ("indicatif::", &["terminal"]),
    ("qr2term::", &["terminal"]),
    ("fs2::", &["platform"]),
    ("ring::aead", &["credentials", "keys"]),
    ("shell_words::", &["credentials"]),
    ("security_framework::", &["platform"]),
    ("clap::", &["cli", "lib", "commands"]),
    ("fs::write", &["platform"]),
    ("File::create", &["platform"]),
    ("NamedTempFile", &["platform"]),
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
            if path.starts_with("internals") {
                // Tests: they see everything.
                continue;
            }
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

fn with_roots_marked(code: &str, parts: &BTreeSet<String>) -> String {
    parts.iter().fold(code.to_owned(), |code, part| {
        [" ", "(", "{"]
            .iter()
            .fold(code, |code, before| code.replace(&format!("{before}{part}::"), &format!("{before}crate::{part}::")))
    })
}

/// Which parts each part uses.
fn uses() -> BTreeMap<String, BTreeSet<String>> {
    let sources = sources();
    let parts: BTreeSet<String> = sources.iter().map(|source| source.part.clone()).collect();
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources {
        // A path in lib.rs begins at the root, with or without `crate::`.
        let code = if source.part == "lib" { with_roots_marked(&source.code, &parts) } else { source.code };
        let mut named = names_after(&code, "crate::");
        if source.part == "main" && code.contains("qwenauth::") {
            named.insert("lib".to_owned());
        }
        named.retain(|name| parts.contains(name) && *name != source.part);
        uses.entry(source.part).or_default().extend(named);
    }
    uses
}

/// The picture: the text at the top of lib.rs, between its fences.
fn picture() -> String {
    let text = fs::read_to_string(src().join("lib.rs")).unwrap();
    let lines = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let inside = lines.skip_while(|line| *line != "```text").skip(1).take_while(|line| *line != "```");
    inside.collect::<Vec<_>>().join("\n")
}

/// What each part may use, as the picture draws it: `a → b, c`, clauses apart by ` · `.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let picture = picture();
    let clauses = picture.lines().flat_map(|line| line.split(" · "));
    let arrows = clauses.filter_map(|clause| clause.split_once(" → "));
    let names = |to: &str| to.split(", ").filter(|name| !name.starts_with("used by ")).map(str::to_owned).collect();
    let arrows = arrows.map(|(from, to)| (from.to_owned(), names(to)));
    let arrows: BTreeMap<String, BTreeSet<String>> = arrows.collect();
    assert!(arrows.len() > 5, "{arrows:?}");
    arrows
}

#[test]
fn the_dependencies_between_modules_are_those_of_the_overview() {
    let arrows = arrows();
    for (part, used) in uses() {
        let allowed = arrows.get(&part).cloned().unwrap_or_default();
        let everything = part == "commands" && allowed.contains("everything below");
        for name in &used {
            let by_all = USED_BY_ALL.contains(&name.as_str());
            assert!(everything || by_all || allowed.contains(name), "`{part}` must not use `{name}`");
        }
        let drawn = allowed.iter().find(|name| !everything && !used.contains(*name));
        assert_eq!(drawn, None, "the picture shows an arrow from `{part}` that is not there");
    }
}

#[test]
fn only_main_uses_the_commands_and_no_modules_depend_on_each_other_in_a_cycle() {
    let uses = uses();
    for (part, used) in &uses {
        assert!(part == "lib" || !used.contains("commands"), "`{part}` uses `commands`");
        assert!(!used.contains("main"), "`{part}` uses `main`");
        for private in ["gateway", "limits", "usage", "setup", "sandbox"] {
            let commands = part == "commands"
                || (part == "gateway" && ["limits", "usage"].contains(&private))
                || (part == "hooks" && private == "usage");
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
    // `commands/login/key.rs` is part of the command `login`.
    let name_of = |source: &Source| {
        let command = Path::new(source.path.components().nth(1).unwrap().as_os_str());
        command.file_stem().unwrap().to_str().unwrap().to_owned()
    };
    let names: BTreeSet<String> = commands.iter().map(name_of).collect();
    for command in &commands {
        let own = name_of(command);
        let mut used = names_after(&command.code, "commands::");
        if command.path.components().count() == 2 {
            used.extend(names_after(&command.code, "super::"));
        }
        used.retain(|name| names.contains(name) && *name != own);
        assert!(own == "mod" || used.is_empty(), "`{own}` uses {used:?}");
    }
}

#[test]
fn each_crate_is_used_only_in_its_modules() {
    let all = sources();
    for (named, homes) in HOMES.iter().filter(|(named, _)| named.ends_with("::")) {
        let is_used = |source: &Source| homes.contains(&source.part.as_str()) && source.code.contains(named);
        assert!(all.iter().any(is_used), "`{named}` is used nowhere: its row guards nothing");
    }
    for source in all {
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

/// Code with nothing between its quotes: no brace or semicolon of a text ends a statement.
fn without_texts(code: &str) -> String {
    let code = code.replace("'\"'", "' '").replace("\\\\", "").replace("\\\"", "");
    code.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

#[test]
fn no_secret_leaves_its_type_as_an_ordinary_string() {
    let makes =
        ["format!(", "String::from(", ".to_owned()", ".to_string()", ".to_vec()", ".into()", ".replace(", "push_str("];
    // What is wiped when it is dropped is as good. An argument of a known program is a template with names of variables, and
    // a placeholder is no secret.
    let wiped = [
        "Zeroizing::new(",
        "Secret::new(",
        "launch.arguments",
        "short_sha256(token.expose(), 16)",
        "Err(format!(\"\", access_token.expose()))",
        "ct_eq(",
        "Sha256::digest(",
    ];
    let mut shown = 0;
    for source in sources() {
        for statement in without_texts(&source.code).split([';', '{', '}']) {
            let Some(at) = statement.find(".expose()") else { continue };
            shown += 1;
            // A text made before the secret is looked at, as in a chain that begins with it, is made of it.
            let made = makes.iter().any(|make| {
                if make.starts_with('.') { statement[at..].contains(make) } else { statement[..at].contains(make) }
            });
            let is_fine = wiped.iter().any(|wiped| statement.contains(wiped));
            assert!(is_fine || !made, "{}: {}", source.path.display(), statement.trim());
        }
    }
    assert!(shown > 20, "secrets are looked at {shown} times only");
}

#[test]
fn no_unknown_file_lies_at_the_top_of_the_repository() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // A package has no history, and not all of the files.
    if !root.join(".git").exists() || !has_programs(&["git"]) {
        return;
    }
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let files = String::from_utf8(listed.stdout).unwrap();
    let there: BTreeSet<&str> =
        files.split_terminator('\0').map(|file| file.split_once('/').map_or(file, |(folder, _)| folder)).collect();
    assert_eq!(there, TOP.split_whitespace().collect());
}

fn is_rust(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "rs")
}

#[test]
fn the_overview_lists_the_modules_of_src() {
    let picture = picture();
    let shown: BTreeSet<&str> = picture
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|word| is_rust(word) || word.ends_with('/'))
        .collect();
    let there: BTreeSet<String> = fs::read_dir(src())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.is_dir(), path.file_name().unwrap().to_str().unwrap().to_owned()))
        .filter(|(directory, name)| *directory || is_rust(name))
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
