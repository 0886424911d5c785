//! README.md and its translations: every command is run as printed, every link leads somewhere, and a translation is in step
//! with the English text.
//!
//! Each section of a translation carries the hash of its English section. After a change of the English text, bring the
//! translation up to date and then `QWENAUTH_TEST_WRITE=1 cargo test --test cli documents` writes the hashes.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::keys::{KEY, knows_the_key};
use crate::machine::{Machine, has_programs, mode, write_private};
use crate::run::Running;

const TRANSLATIONS: [&str; 2] = ["README.zh-CN.md", "README.ru.md"];

/// Sections that only a translation has: its glossary.
const GLOSSARIES: [&str; 2] = ["术语对照", "Термины"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// The sections of a page, the text before the first heading first; a glossary is left out.
fn sections(page: &str) -> Vec<String> {
    let glossary = |section: &&str| GLOSSARIES.iter().any(|title| section.starts_with(title));
    page.split("\n## ").filter(|section| !glossary(section)).map(str::to_owned).collect()
}

fn code_blocks(section: &str) -> Vec<&str> {
    section.split("```").skip(1).step_by(2).collect()
}

/// The targets of links, but for those to the other languages.
fn links(section: &str) -> Vec<&str> {
    let targets = section.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    targets.filter(|target| !target.starts_with("README")).collect()
}

/// Literals in backticks, outside code blocks.
fn literals(section: &str) -> BTreeSet<&str> {
    section.split("```").step_by(2).flat_map(|text| text.split('`').skip(1).step_by(2)).collect()
}

fn hash_of(section: &str) -> String {
    let digest = Sha256::digest(section.trim_end());
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

const MARK: &str = "<!-- english: ";

#[test]
fn a_translation_is_in_step_with_the_english_page() {
    let english = sections(&page("README.md"));
    for name in TRANSLATIONS {
        let text = page(name);
        let translated = sections(&text);
        assert_eq!(translated.len(), english.len(), "{name} has other sections");
        let mut written = text.clone();
        for (english, translated) in english.iter().zip(&translated) {
            let title = translated.lines().next().unwrap();
            assert_eq!(code_blocks(translated), code_blocks(english), "{name}: code of {title}");
            assert_eq!(links(translated), links(english), "{name}: links of {title}");
            let missing: Vec<_> = literals(english).difference(&literals(translated)).copied().collect();
            assert!(missing.is_empty(), "{name}: {title} lacks {missing:?}");
            let mark = format!("{MARK}{} -->", hash_of(english));
            let marked = translated.lines().find(|line| line.starts_with(MARK));
            if std::env::var_os("QWENAUTH_TEST_WRITE").is_some() {
                let heading = if title.starts_with("# ") { format!("{title}\n") } else { format!("\n## {title}\n") };
                let with_mark = format!("{heading}{mark}\n");
                written = match marked {
                    Some(old) => written.replacen(&format!("{heading}{old}\n"), &with_mark, 1),
                    None => written.replacen(&heading, &with_mark, 1),
                };
            } else {
                assert_eq!(marked, Some(mark.as_str()), "{name}: {title} is not in step with the English section");
            }
        }
        if written != text {
            fs::write(root().join(name), written).unwrap();
        }
    }
}

/// The names of all pages.
fn pages() -> Vec<String> {
    let mut pages = ["README.md", "CONTRIBUTING.md", "integrations/opencode/README.md"].map(str::to_owned).to_vec();
    pages.extend(TRANSLATIONS.map(str::to_owned));
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    pages.extend(
        docs.filter_map(|name| name.into_string().ok())
            .filter(|name| name.ends_with(".md"))
            .map(|name| format!("docs/{name}")),
    );
    pages
}

#[test]
fn every_link_of_a_page_has_a_target() {
    for name in pages() {
        let text = page(&name);
        let folder = Path::new(&name).parent().unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target) {
            if target.contains("://") || target.starts_with('#') {
                continue;
            }
            let file = target.split('#').next().unwrap();
            assert!(root().join(folder).join(file).exists(), "{name} links to {target}");
        }
    }
}

/// README.md is the index: what cannot be found from there is not read.
#[test]
fn every_page_is_in_the_index_under_one_heading() {
    let readme = page("README.md");
    let index = sections(&readme).into_iter().find(|section| section.starts_with("More\n")).unwrap();
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") || name.ends_with(".toml") {
            assert_eq!(index.matches(&format!("](docs/{name})")).count(), 1, "{name}");
        }
    }
    let kinds = ["- Guides: ", "- Concepts: ", "- Reference: "].map(|kind| index.find(kind).unwrap());
    assert!(kinds.is_sorted());
}

/// The commands of a page, in order.
pub(crate) fn commands(page: &str) -> Vec<&str> {
    typed_at(page, &["$ "])
}

fn typed_at<'p>(page: &'p str, prompts: &[&str]) -> Vec<&'p str> {
    let blocks = code_blocks(page).into_iter().filter_map(|block| block.strip_prefix("console\n"));
    let typed = |line: &'p str| prompts.iter().find_map(|prompt| line.strip_prefix(prompt));
    blocks.flat_map(|block| block.lines().filter_map(typed)).collect()
}

/// Whether an interactive zsh, which has no comments by default, would take a remark for words of this line.
fn has_remark(line: &str) -> bool {
    let (mut quote, mut before) = (None, ' ');
    for character in line.chars() {
        match quote {
            Some(open) if open == character => quote = None,
            None if matches!(character, '\'' | '"') => quote = Some(character),
            None if character == '#' && before.is_whitespace() => return true,
            _ => {}
        }
        before = character;
    }
    false
}

#[test]
fn no_command_of_a_page_has_a_remark_behind_it() {
    assert!(has_remark("a 'b' # c") && has_remark("# c") && !has_remark("a '# c' b#c"));
    for name in pages() {
        let text = page(&name);
        for (language, block) in code_blocks(&text).into_iter().filter_map(|block| block.split_once('\n')) {
            let prompts: &[&str] = match language.trim() {
                "console" => &["$ ", "# "],
                "sh" | "bash" | "zsh" | "shell" => &[""],
                _ => continue,
            };
            let typed = |line: &str| {
                prompts.iter().find_map(|prompt| line.trim_start().strip_prefix(prompt)).map(str::to_owned)
            };
            assert_eq!(block.lines().filter_map(typed).find(|line| has_remark(line)), None, "{name}");
        }
    }
}

/// Whether a secret is an argument of a program, which every user of the machine can read. `printf` is built into shells.
fn has_secret_argument(line: &str) -> bool {
    let is_secret = |name: &str| ["KEY", "TOKEN", "SECRET", "PASSWORD"].iter().any(|kind| name.contains(kind));
    let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let expands = |word: &str| {
        let names =
            word.split('$').skip(1).map(|rest| rest.trim_start_matches('{').split(|next| !is_name(next)).next());
        names.flatten().any(|name| is_secret(name) && !name.ends_with("_FILE"))
    };
    let assigns =
        |word: &str| word.split_once('=').is_some_and(|(name, _)| !name.is_empty() && name.chars().all(is_name));
    line.split(['|', ';', '&']).map(|command| command.trim_start_matches([' ', '{', '('])).any(|command| {
        let is_built_in = ["printf ", "echo ", "[", "export "].iter().any(|name| command.starts_with(name));
        let has_token = command.contains("$(qwenauth token");
        !is_built_in && (has_token || command.split(' ').any(|word| expands(word) && !assigns(word)))
    })
}

#[test]
fn no_command_of_a_page_has_a_secret_among_its_arguments() {
    for line in
        ["curl -H \"Authorization: Bearer $TEAM_KEY\" x", "a && curl -u x:${MY_PASSWORD}", "a \"$(qwenauth token)\""]
    {
        assert!(has_secret_argument(line), "{line}");
    }
    for line in ["printf '%s' \"$KEY\" | curl -H @- x", "QWENAUTH_API_KEY=\"$MY_KEY\" a", "a > \"$GITHUB_ENV\""] {
        assert!(!has_secret_argument(line), "{line}");
    }
    for name in pages() {
        let text = page(&name);
        let mut lines =
            code_blocks(&text).into_iter().flat_map(str::lines).map(|line| line.trim_start_matches(['$', '#', ' ']));
        assert_eq!(lines.find(|line| has_secret_argument(line)), None, "{name}");
    }
}

/// Runs commands in order, in one shell in an empty home directory inside a sandbox, and `then` at the end. Programs that
/// are not ours are stand-ins that show what they were given. Returns the sandbox and what stdout had.
fn run_as_printed(commands: &[&str], then: &str) -> (Machine, String) {
    let opencode = "#!/bin/sh\n[ -n \"$OPENAI_API_KEY\" ] && echo \"opencode at $OPENAI_BASE_URL\"\n";
    let ssh = "#!/bin/sh\nshift\nexec \"$@\"\n";
    let machine = Machine::new().with_programs(&[("opencode", opencode), ("ssh", ssh)]);
    let mut script = "set -e\ncd \"$HOME\"\nprintf practice-1 > key.txt\nprintf practice-3 > new-key.txt\n\
         export DASHSCOPE_API_KEY=practice-2\n"
        .to_owned();
    for command in commands {
        script += &format!("{command} || {{ echo \"failed: {command}\" >&2; exit 1; }}\n");
    }
    script += &format!("{then} && echo all-done\n");
    let file = machine.directory().join("page.sh");
    fs::write(&file, script).unwrap();
    let outcome = machine.run(["sandbox", "--", "bash", file.to_str().unwrap()]).any_stdout().any_stderr();
    assert!(outcome.stdout.ends_with("all-done\n"), "{}\n{}", outcome.stdout, outcome.stderr);
    let answers = outcome.stdout.matches("opencode at http://127.0.0.1:").count();
    assert_eq!(
        answers,
        commands.iter().filter(|command| command.ends_with("-- opencode")).count(),
        "{}",
        outcome.stdout
    );
    let stdout = outcome.stdout.clone();
    (machine, stdout)
}

#[test]
fn every_command_of_the_readme_runs_as_printed() {
    let readme = page("README.md");
    let commands = commands(&readme);
    assert!(commands.len() > 15, "{commands:?}");
    let (cargo, ours): (Vec<&str>, Vec<&str>) = commands.into_iter().partition(|command| command.starts_with("cargo "));
    for command in cargo {
        assert!(command.contains(" --locked"), "{command} resolves its dependencies again");
    }
    let (machine, _) = run_as_printed(&ours, "[ -n \"$OPENAI_API_KEY\" ]");
    let completion = machine.directory().join("home/.local/share/bash-completion/completions/qwenauth");
    assert!(fs::read_to_string(completion).unwrap().contains("qwenauth"));
}

#[test]
fn every_command_of_the_guide_to_keys_runs_as_printed() {
    let guide = page("docs/keys.md");
    let commands = commands(&guide);
    assert!(commands.len() > 7, "{commands:?}");
    let (_, shown) = run_as_printed(&commands, "! qwenauth token");
    assert!(shown.contains("accepted"), "the new key was not verified: {shown}");
    assert!(shown.contains("`QWENAUTH_API_KEY` in the environment"), "{shown}");
}

/// Starts a command of a page in the home directory.
fn started(machine: &Machine, command: &str) -> Running {
    let mut bash = machine.other("bash");
    bash.args(["-c", &format!("exec {command}")]).current_dir(machine.home());
    machine.start(bash)
}

/// A server that lasts is ended as its service manager does.
fn ended(running: Running) {
    running.signal(Signal::SIGTERM);
    drop(running.finish().dies_by(Signal::SIGTERM).any_stdout().any_stderr());
}

#[test]
fn every_command_of_the_page_on_the_gateway_runs_as_printed() {
    let text = page("docs/gateway.md");
    let [exec, gateway, secured, login, for_containers] = commands(&text)[..] else {
        panic!("the page has other commands now")
    };
    let opencode = "#!/bin/sh\n[ -n \"$OPENAI_API_KEY\" ] && echo \"opencode at $OPENAI_BASE_URL\"\n";
    let machine = knows_the_key(Machine::new().with_programs(&[("opencode", opencode)]), "/v1/models");
    let base_url = format!("{}/v1", machine.server.url());
    let stored = json!({"provider": "custom", "api_key": KEY, "base_url": base_url, "model": "m"});
    write_private(&machine.profiles().join("custom.json"), stored.to_string());
    let machine = machine.configured("profile = \"custom\"\n");
    let outcome = started(&machine, exec).finish().any_stdout().any_stderr();
    assert!(outcome.stdout.starts_with("opencode at http://127.0.0.1:"), "{outcome}");
    // The port of the page may be in use here.
    let running = started(&machine, &gateway.replace(":8399", ":0"));
    assert!(running.first_lines(1)[0].starts_with("http://127.0.0.1:"));
    assert_eq!(mode(&machine.home().join(".config/gateway-key")), 0o600);
    ended(running);
    let running = started(&machine, &for_containers.replace(":8399", ":0"));
    let url = running.first_lines(1)[0].clone();
    let port = url.trim_end_matches("/v1").rsplit_once(':').unwrap().1;
    for (host, status) in [("host.docker.internal", "401"), ("docker.internal", "403")] {
        let mut connection = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        write!(connection, "GET /v1/models HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {answer}");
    }
    ended(running);
    if !has_programs(&["openssl"]) {
        return;
    }
    let certificate = "cd \"$HOME\" && exec 2>&1 && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
         -keyout key.pem -out cert.pem -days 2 -subj /CN=gateway -addext subjectAltName=DNS:localhost";
    drop(machine.shell(certificate).any_stdout().exits(0));
    let running = started(&machine, &secured.replace("0.0.0.0:8443", "127.0.0.1:0"));
    let lines = running.first_lines(2);
    fs::write(machine.home().join("key.txt"), &lines[1]).unwrap();
    let authority = machine.home().join("cert.pem");
    let machine = machine.variable("QWENAUTH_CA_FILE", authority);
    let typed = login.replace("https://qwen.corp.example:8443/v1", &lines[0]);
    assert_ne!(typed, login);
    drop(started(&machine, &typed).finish().any_stderr());
    assert_eq!(machine.profile("team")["base_url"], lines[0].as_str());
    ended(running);
}

/// What needs a cluster, Docker or a running systemd is a stand-in that looks at the files it is given.
#[test]
fn every_command_of_the_page_on_deploying_runs_as_printed() {
    let text = page("docs/deploy.md");
    let commands = typed_at(&text, &["$ ", "# "]);
    assert!(commands.len() > 11, "{commands:?}");
    let kubectl = "#!/bin/sh\nfor word in \"$@\"; do case $word in --from-file=*) [ -s \"${word##*=}\" ] || exit 1;; \
         *.yaml) [ -s \"$word\" ] || exit 1;; esac; done\n";
    let systemctl = "#!/bin/sh\ncase \"$*\" in daemon-reload | 'enable --now qwenauth-gateway') ;; *) exit 1;; esac\n";
    let docker = "#!/bin/sh\n[ \"$1\" = compose ]\n";
    let programs =
        [("kubectl", kubectl), ("systemctl", systemctl), ("systemd-sysusers", "#!/bin/sh\n"), ("docker", docker)];
    let machine = Machine::new().with_programs(&programs);
    if !has_programs(&["openssl", "install"]) {
        return;
    }
    let root_directory = machine.directory().join("root");
    let work = machine.directory().join("work");
    for directory in ["etc/systemd/system", "usr/lib/sysusers.d", "var/lib"] {
        fs::create_dir_all(root_directory.join(directory)).unwrap();
    }
    fs::create_dir(&work).unwrap();
    std::os::unix::fs::symlink(root().join("contrib"), work.join("contrib")).unwrap();
    // What lies beside the files of `contrib/compose`.
    for name in ["key.txt", "dashscope.key", "tls.pem", "tls.key", "valkey.conf"] {
        fs::write(work.join(name), "x").unwrap();
    }
    let mut script = format!("set -e\ncd '{}'\n", work.display());
    for (number, command) in commands.iter().enumerate() {
        // Below a directory of the test instead of the machine's own, and owned by whoever runs the test.
        let below = ["/etc", "/usr", "/var"].iter().fold(command.replace(" -o qwenauth", ""), |command, place| {
            command.replace(&format!(" {place}/"), &format!(" {}{place}/", root_directory.display()))
        });
        script += &format!("{below} || {{ echo 'failed: line {number}' >&2; exit 1; }}\n");
    }
    drop(machine.shell(&script).exits(0));
    for secret in ["qwenauth/dashscope", "qwenauth/credentials/dashscope", "qwenauth/credentials/tls.key"] {
        assert_eq!(mode(&root_directory.join("etc").join(secret)), 0o600, "{secret}");
    }
    assert!(root_directory.join("etc/systemd/system/qwenauth-gateway.service").exists());
    assert_eq!(fs::read_to_string(work.join("gateway.txt")).unwrap().trim().len(), 64);
}

/// The command of a password manager is a stand-in; tests of the keyring run the lines that need one.
#[test]
fn the_command_of_the_page_on_stores_runs_as_printed() {
    let text = page("docs/stores.md");
    let commands = commands(&text);
    let [_, _, by_command] = commands[..] else { panic!("the page has other commands now") };
    let op = format!("#!/bin/sh\n[ \"$1 $2\" = 'read op://Private/Qwen/key' ] && echo {KEY}\n");
    let machine = knows_the_key(crate::keys::machine().with_programs(&[("op", &op)]), "/intl/v1/models");
    drop(started(&machine, by_command).finish().any_stderr());
    assert_eq!(machine.profile("dashscope")["store"], "command");
    machine.run(["token", "--profile", "dashscope"]).stdout(&format!("{KEY}\n"));
}
