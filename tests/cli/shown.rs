//! What is shown: no piece of a password in a URL, no line that a server wrote, no word that a shell runs, and a sentence
//! where descriptors or certificates are missing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::sys::signal::Signal;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::json;

use crate::login::device_code;
use crate::machine::{Machine, has_programs, possible, write_private};
use crate::server::{Ask, Reply};

/// Pieces of a password, none of which may be shown.
const PIECES: [&str; 4] = ["bobuser", "blueone", "greentwo", "redthree"];

/// Whatever a person may have left unencoded.
const SEPARATORS: [&str; 14] = ["@", "#", "/", "?", ":", "?#", "//", "@@", "\\", "%40", " ", "[", "]", "#/@"];

const PROXIES: [&str; 6] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

fn has_no_piece(what: &str, value: &str, text: &str) {
    for piece in PIECES {
        assert!(!text.contains(piece), "{what} with {value:?} shows {piece}: {text}");
    }
}

fn machine() -> Machine {
    let machine = Machine::new();
    machine.server.serve("/", |_| Reply::text(200, "{}"));
    machine
}

/// Every way a URL comes in, and a command that says something about it.
fn shows_nothing_of(user_info: &str, scheme: &str) {
    let value = format!("{scheme}{user_info}@127.0.0.1:9");
    let login = machine().logged_in();
    let show = |machine: &Machine, words: &[&str]| {
        for json in [false, true] {
            let words: Vec<&str> = words.iter().copied().chain(json.then_some("--json")).collect();
            let outcome = machine.run(&words).any_stdout().any_stderr();
            has_no_piece(&words.join(" "), &value, &outcome.stdout);
            has_no_piece(&words.join(" "), &value, &outcome.stderr);
            outcome.any_end();
        }
    };
    let mut proxied = machine().field_of_host("https://portal.qwen.invalid").variable("QWENAUTH_LOG", "trace");
    for name in PROXIES {
        proxied = proxied.variable(name, &value);
    }
    show(&proxied, &["doctor"]);
    let server = login.server.url();
    let login = login.variable("OPENAI_API_KEY", "sk-other").variable("OPENAI_API_BASE", &value);
    let endpoint = login.variable("QWENAUTH_QWEN_OAUTH_URL", &value).variable("QWENAUTH_LOG", "trace");
    for words in [&["status"][..], &["doctor"], &["login", "--force", "--timeout", "1s"]] {
        show(&endpoint, words);
    }
    let base = endpoint.variable("QWENAUTH_QWEN_OAUTH_URL", &server);
    let login = ["login", "custom", "--model", "m", "--no-verify", "--api-key-env", "KEY", "--base-url", &value];
    show(&base.variable("KEY", "granted-key"), &login);
    let quoted = value.replace('\\', "\\\\");
    let config = format!(
        "[providers.corp]\nclient_id = \"c\"\ntoken_endpoint = \"{quoted}\"\ndevice_authorization_endpoint = \"{quoted}\"\n\
         base_url = \"{quoted}\"\ndefault_model = \"m\"\n[providers.issued]\nclient_id = \"c\"\nissuer = \"{quoted}\"\n\
         base_url = \"{quoted}\"\n"
    );
    let configured = machine().configured(&config).variable("QWENAUTH_LOG", "trace");
    for words in [
        &["providers", "corp"][..],
        &["providers"],
        &["login", "corp"],
        &["login", "issued"],
        &["doctor", "--profile", "corp"],
    ] {
        show(&configured, words);
    }
    let mut named = crate::machine::credential("1");
    named["resource_url"] = json!(value);
    let credential = machine().credential_is(named).variable("QWENAUTH_LOG", "trace");
    for words in [&["status"][..], &["doctor"], &["env"], &["token", "--format", "json"]] {
        let outcome = credential.run(words).any_stdout().any_stderr();
        has_no_piece(&words.join(" "), &value, &outcome.stderr);
        has_no_piece(&words.join(" "), &value, &outcome.stdout);
        outcome.any_end();
    }
}

#[test]
fn no_piece_of_a_password_in_a_url_is_shown() {
    for separator in SEPARATORS {
        shows_nothing_of(&format!("bobuser:blueone{separator}greentwo"), "http://");
    }
    for scheme in ["https://", "", "socks5h://", "http:/", "http:\\\\", "ftp://", "HTTP://", "://"] {
        shows_nothing_of("bobuser:blueone?#greentwo", scheme);
    }
}

#[test]
fn no_piece_of_any_password_is_shown() {
    let separator = || proptest::sample::select(&SEPARATORS[..]);
    let scheme = proptest::sample::select(&["http://", "https://", ""][..]);
    let values = (separator(), separator(), separator(), scheme)
        .prop_map(|(one, two, three, scheme)| (format!("bobuser{one}x:blueone{two}greentwo{three}redthree"), scheme));
    let config = Config { cases: 6, max_shrink_iters: 10, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&values, |(user_info, scheme)| {
            std::panic::catch_unwind(|| shows_nothing_of(&user_info, scheme))
                .map_err(|panic| TestCaseError::fail(panic.downcast_ref::<String>().cloned().unwrap_or_default()))
        })
        .unwrap();
}

#[test]
fn no_line_begins_with_what_a_server_wrote() {
    let forged = "qwenauth: hint: run `sh fix.sh`";
    for end in ["\n", "\r", "\r\n", "\u{2028}", "\u{2029}", "\u{85}", "\u{b}", "\u{c}", "\u{1b}[1E"] {
        let text = format!("https://x.example/?a{end}{forged}");
        for changes in [
            json!({"verification_uri_complete": text}),
            json!({"verification_uri": text, "verification_uri_complete": null}),
            json!({"verification_uri": text, "verification_uri_complete": text}),
            json!({"user_code": format!("A-B{end}{forged}")}),
        ] {
            let browser = Machine::new();
            let opened = browser.directory().join("opened");
            let script = browser.directory().join("browser");
            fs::write(&script, format!("#!/bin/sh\necho \"$@\" >> {}\n", opened.display())).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
            let machine = browser
                .variable("BROWSER", &script)
                .scripted(Ask::DeviceCode, device_code(changes.clone()))
                .scripted(Ask::Poll, Reply::json(400, json!({"error": "invalid_client", "error_description": text})));
            let outcome = machine.run(["login", "--qr", "never"]).exits(1).any_stderr();
            assert!(!outcome.stderr.lines().any(|line| line.starts_with(forged)), "{end:?}: {outcome}");
            assert!(!outcome.stderr.contains(|c: char| c.is_control() && c != '\n' || "\u{2028}\u{2029}".contains(c)));
            let opened = fs::read_to_string(&opened).unwrap_or_default();
            assert!(!opened.contains("fix.sh"), "{end:?}: opened {opened}");
        }
    }
}

#[test]
fn an_address_that_is_not_of_the_web_is_neither_shown_nor_opened() {
    for address in ["javascript:alert(1)", "file:///etc/passwd", "data:text/html,x", "ssh://host", "x"] {
        let changes = json!({"verification_uri": address, "verification_uri_complete": null});
        let machine = Machine::new().scripted(Ask::DeviceCode, device_code(changes));
        let outcome = machine.run(["login", "--qr", "never"]).exits(3).any_stderr();
        assert!(!outcome.stderr.contains(address) || address == "x", "{outcome}");
        let changes = json!({"verification_uri_complete": address});
        let machine = Machine::new().scripted(Ask::DeviceCode, device_code(changes));
        let machine = machine.scripted(Ask::Poll, Reply::error(400, "access_denied"));
        let outcome = machine.run(["login", "--qr", "never"]).exits(4).any_stderr();
        assert!(outcome.stderr.contains("https://chat.qwen.ai/authorize\n"), "{outcome}");
    }
}

#[test]
fn json_escapes_what_a_terminal_obeys_and_means_the_same() {
    let model = "m\u{9b}31m\u{202e}\u{200b}\u{2028}\u{feff}é";
    let machine = Machine::new().variable("QWENAUTH_PROFILE", "work");
    let profile = json!({
        "provider": "custom", "api_key": "granted-key-1", "base_url": format!("{}/v1", machine.server.url()), "model": model,
    });
    write_private(&machine.profiles().join("work.json"), profile.to_string());
    machine.server.serve("/v1/models", |_| Reply::text(200, "{}"));
    machine.server.serve("/v1/chat/completions", |_| Reply::json(200, json!({"choices": []})));
    for words in [&["status", "--json"][..], &["token", "--format", "json"], &["doctor", "--json"]] {
        machine.server.serve("/", |_| Reply::text(200, "{}"));
        let mut outcome = machine.run(words).any_stdout().any_stderr();
        let obeyed = |c: char| c.is_control() && c != '\n' || "\u{202e}\u{200b}\u{2028}\u{feff}".contains(c);
        assert!(!outcome.stdout.contains(obeyed), "{words:?}: {outcome}");
        if words[0] == "status" {
            assert_eq!(outcome.json()["profiles"][0]["model"], model);
        }
        outcome.any_end();
    }
    // A variable may have no control character, so here it has none.
    let model = "m\u{202e}\u{200b}\u{2028}\u{feff}\u{e0041}é";
    let profile = json!({
        "provider": "custom", "api_key": "granted-key-1", "base_url": format!("{}/v1", machine.server.url()), "model": model,
    });
    write_private(&machine.profiles().join("work.json"), profile.to_string());
    let mut outcome = machine.run(["env", "--format", "json"]);
    assert_eq!(outcome.json()["OPENAI_MODEL"], model);
    assert!(outcome.stdout.trim().chars().all(|c| c.is_ascii() || c == 'é'), "{outcome}");
}

/// Lines to be pasted into a shell or a file, for a model that would run or steer something.
#[test]
fn what_is_printed_to_be_pasted_is_quoted_and_steers_nothing() {
    for (model, shown) in [("m$(id)", "'qwenauth/m$(id)'"), ("it's `id`", r"'qwenauth/it'\''s `id`'")] {
        let machine = Machine::new().variable("QWENAUTH_PROFILE", "work");
        let profile = json!({ "provider": "custom", "api_key": "granted-key-1", "base_url": "http://127.0.0.1:9/v1" });
        write_private(&machine.profiles().join("work.json"), profile.to_string());
        let outcome = machine.run(["setup", "llm", "--print", "--model", model]).any_stdout().any_stderr();
        assert!(outcome.stdout.contains(&format!("-- llm -m {shown}")), "{outcome}");
    }
    for tool in ["llm", "opencode", "qwen-code", "codex", "crush", "continue", "zed", "cline", "aider", "goose"] {
        let machine = Machine::new().variable("QWENAUTH_PROFILE", "work");
        let profile = json!({
            "provider": "custom", "api_key": "granted-key-1", "base_url": "http://127.0.0.1:9/v1",
            "model": "m\u{202e}\u{200b}\u{e0041}X",
        });
        write_private(&machine.profiles().join("work.json"), profile.to_string());
        let outcome = machine.run(["setup", tool, "--print"]).any_stdout().any_stderr();
        let is_plain = |c: char| c.is_ascii() && !c.is_control() || "\n\t".contains(c);
        assert!(
            outcome.stdout.chars().chain(outcome.stderr.chars()).all(is_plain),
            "{tool}: {outcome:?}",
            outcome = outcome.stdout
        );
    }
}

/// JSON escapes what is beyond U+FFFF as two halves, which TOML rejects and YAML reads as two characters.
#[test]
fn invisible_characters_of_a_model_are_escaped_as_toml_and_yaml_have_it() {
    for model in ["m\u{e0041}\u{202e}x", "m\u{e0041}\"\u{202e}x", "m\u{202e}\\x"] {
        let machine = Machine::new().variable("QWENAUTH_PROFILE", "work");
        let profile = json!({
            "provider": "custom", "api_key": "granted-key-1", "base_url": "http://127.0.0.1:9/v1", "model": model,
        });
        write_private(&machine.profiles().join("work.json"), profile.to_string());
        let codex = machine.run(["setup", "codex", "--print"]).any_stdout().any_stderr();
        let printed: toml::Table = codex.stdout.parse().unwrap_or_else(|error| panic!("{error}: {codex}"));
        assert_eq!(printed.get("model").and_then(toml::Value::as_str), Some(model), "{codex}");
        for tool in ["llm", "continue"] {
            let outcome = machine.run(["setup", tool, "--print"]).any_stdout().any_stderr();
            let escaped = json!(model).to_string().replace('\u{e0041}', "\\U000e0041").replace('\u{202e}', "\\u202e");
            assert!(outcome.stdout.contains(&escaped[1..]), "{outcome}");
        }
    }
}

/// A provider that a hostile config.toml calls like a command.
#[test]
fn a_shell_is_offered_plain_names_only_and_runs_none() {
    let names = ["`touch ran`", "$(touch ran)", "a;touch ran", "x y", "é", "-x", "a\u{1b}", "good-1.0_x"];
    let config: String = names
        .iter()
        .map(|name| format!("[providers.{}]\nbase_url = \"https://e.example/v1\"\n", json!(name)))
        .collect();
    let regions = names.iter().map(|name| format!("{} = {{ base_url = \"https://e.example/v1\" }}", json!(name)));
    let models = names.iter().map(|name| format!("{{ id = {} }}", json!(name)));
    let config = format!(
        "{config}regions = {{ {} }}\nmodels = [{}]\n",
        regions.collect::<Vec<_>>().join(", "),
        models.collect::<Vec<_>>().join(", ")
    );
    let machine = Machine::new().logged_in().configured(&config);
    for typed in [
        &["login"][..],
        &["use"],
        &["setup"],
        &["login", "good-1.0_x", "--region"],
        &["login", "good-1.0_x", "--model"],
    ] {
        let outcome = machine.run([&["__complete", "--"], typed, &[""]].concat()).any_stdout().any_stderr();
        let is_plain = |line: &str| line.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        assert!(outcome.stdout.starts_with("values\n") && outcome.stdout.lines().all(is_plain), "{outcome}");
        if !matches!(typed, ["use" | "setup"]) {
            assert!(outcome.stdout.lines().any(|line| line == "good-1.0_x"), "{outcome}");
        }
    }
    let directory = machine.directory().to_owned();
    std::os::unix::fs::symlink(machine.program(), directory.join("qwenauth")).unwrap();
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", directory.display());
    let bash = "eval \"$(qwenauth completions bash)\"
        for words in 'login ' 'providers ' 'use ' 'setup ' 'token --profile ' 'login good-1.0_x --region ' \
            'login good-1.0_x --model ' 'login `touch${IFS}ran` --region ' 'login $(touch${IFS}ran) --model '; do
            COMP_WORDS=(qwenauth $words ''); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMP_LINE=\"qwenauth $words\"
            _qwenauth qwenauth '' \"${COMP_WORDS[COMP_CWORD - 1]}\"; printf '%s\\n' \"${COMPREPLY[@]}\"
        done";
    let fish = "qwenauth completions fish | source
        for words in 'login ' 'providers ' 'use ' 'setup ' 'token --profile ' 'login good-1.0_x --region ' \
            'login good-1.0_x --model ' 'login (touch ran) --region '; complete -C \"qwenauth $words\"; end";
    for (shell, arguments, script) in [("bash", &["--norc", "-c"][..], bash), ("fish", &["-c"], fish)] {
        let is_there = Command::new(shell).arg("--version").output().is_ok();
        if !possible(is_there, &format!("run {shell}")) {
            continue;
        }
        let mut command = machine.other(shell);
        command.args(arguments).arg(script).env("PATH", &path);
        let outcome = machine.start(command).finish().any_stdout().any_stderr();
        assert!(outcome.stdout.contains("good-1.0_x"), "{shell}: {outcome}");
        assert!(!outcome.stdout.contains("touch"), "{shell}: {outcome}");
        outcome.any_end();
        assert!(!directory.join("ran").exists(), "{shell} ran a name");
    }
}

/// Whatever the limit of descriptors, a command ends with a code of its own and says why, and never aborts.
#[test]
fn a_low_limit_of_descriptors_is_an_error_and_never_a_crash() {
    let limits = std::sync::Mutex::new(3..=20);
    let next = || limits.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| std::iter::from_fn(next).for_each(runs_with));
        }
    });
}

/// Every command with this many descriptors, on a login that has to be renewed.
fn runs_with(limit: u32) {
    let machine = Machine::expired();
    machine.server.always(Ask::Refresh, || Reply::json(503, json!({})));
    machine.server.always(Ask::DeviceCode, || Reply::json(503, json!({})));
    machine.server.serve("/v1/chat/completions", |_| Reply::json(503, json!({})));
    machine.server.serve("/", |_| Reply::json(200, json!({})));
    let credential = machine.content();
    for command in [
        "token",
        "refresh",
        "status",
        "status --check",
        "doctor",
        "login --force",
        "logout --local",
        "env",
        "exec -- true",
        "exec --gateway -- true",
        "providers",
        "profiles",
        "usage",
        "gateway --listen 127.0.0.1:0",
        "setup llm --print",
        "completions bash",
        "use qwen",
        "sandbox -- true",
        "__complete providers ''",
    ] {
        let mut shell = machine.other("sh");
        shell.args(["-c", &format!("ulimit -n {limit}; exec $QWENAUTH {command}")]);
        let running = machine.start(shell);
        // A gateway that starts would run on.
        let serves = command.starts_with("gateway") && running.has_lines(2);
        if serves {
            running.signal(Signal::SIGTERM);
        }
        let outcome = running.finish().any_stdout().any_stderr();
        let said = format!("{command} with {limit}: {outcome}");
        let code = outcome.code();
        assert!(matches!(code, Some(0..=5 | 126 | 127)) || serves && outcome.died_by(Signal::SIGTERM), "{said}");
        assert!(!outcome.stderr.contains("panicked"), "{said}");
        if code == Some(1) && command != "doctor" {
            assert!(outcome.stderr.contains("ulimit") || outcome.stderr.contains("Too many open files"), "{said}");
        }
        outcome.any_end();
        machine.file_written(&credential);
    }
}

#[test]
fn without_ca_certificates_the_hint_names_a_remedy() {
    let machine = Machine::new()
        .logged_in()
        .expires_in(-60)
        .variable("QWENAUTH_QWEN_OAUTH_URL", "https://127.0.0.1:9")
        .variable("SSL_CERT_FILE", "/nonexistent")
        .variable("SSL_CERT_DIR", "/nonexistent");
    machine.server.serve("/", |_| Reply::text(200, "{}"));
    let outcome = machine.run(["refresh"]).exits(1).any_stderr();
    assert!(outcome.stderr.contains("no CA certificates were found"), "{outcome}");
    let hint = "hint: install `ca-certificates`, or name a file in `QWENAUTH_CA_FILE`\n";
    assert!(outcome.stderr.ends_with(hint), "{outcome}");
    let outcome = machine.run(["doctor"]).exits(1).any_stdout().any_stderr();
    assert!(outcome.stdout.contains("install `ca-certificates`"), "{outcome}");
    assert!(!outcome.stdout.contains("`qwenauth doctor`"), "{outcome}");
}

#[test]
fn a_broken_certificate_is_named_with_its_line_and_the_others_are_used() {
    let machine = Machine::new().logged_in().expires_in(-60).variable("QWENAUTH_QWEN_OAUTH_URL", "https://127.0.0.1:9");
    let file = machine.home().join("ca.pem");
    let good = include_str!("ca.pem");
    fs::write(&file, format!("{good}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n{good}")).unwrap();
    let machine = machine.variable("QWENAUTH_CA_FILE", &file);
    machine.server.serve("/", |_| Reply::text(200, "{}"));
    let line = good.lines().count() + 1;
    let outcome = machine.run(["refresh"]).exits(3).any_stderr();
    let warning = format!(
        "qwenauth: warning: the certificate at line {line} of `{{home}}/ca.pem` is not used: it is not an X.509 certificate\n"
    );
    assert!(outcome.stderr.starts_with(&warning), "{outcome}");
    let outcome = machine.run(["doctor"]).any_stdout().any_stderr();
    assert!(outcome.stdout.contains(&format!("the certificate at line {line} of `~/ca.pem`")), "{outcome}");
    outcome.any_end();
}

/// As the C library would, a name server is asked for nothing: the names of this machine are known.
#[test]
fn names_of_this_machine_are_never_looked_up() {
    if !has_programs(&["curl"]) {
        return;
    }
    let is_possible = Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success());
    if !possible(is_possible, "make a mount namespace") {
        return;
    }
    for name in ["lab.localhost", "LAB.LocalHost", "lab.localhost.", "localhost", "localhost."] {
        let machine = Machine::new();
        let port = machine.server.address().rsplit(':').next().unwrap().to_owned();
        machine.server.serve("/v1/models", |_| Reply::json(200, json!({"data": [{"id": "m"}]})));
        machine.server.serve("/v1/chat/completions", |_| Reply::json(200, json!({"choices": []})));
        let hosts = machine.directory().join("hosts");
        // Nothing listens there: a look-up that believes this file does not reach the server.
        fs::write(&hosts, "127.9.9.9 lab.localhost localhost localhost. lab.localhost.\n").unwrap();
        let script = format!(
            "mount --bind {} /etc/hosts && $QWENAUTH login custom --base-url http://{name}:{port}/v1 --model m --api-key-env KEY &&
             $QWENAUTH status --check >/dev/null && $QWENAUTH exec --gateway -- sh -c '
                 curl -sf -m 20 -A \"$AGENT\" -H \"Authorization: Bearer $OPENAI_API_KEY\" -d \"{{\\\"model\\\":\\\"m\\\"}}\" $OPENAI_BASE_URL/chat/completions'",
            hosts.display()
        );
        let mut command = machine.other("unshare");
        command.args(["-m", "sh", "-c", &script]).env("KEY", "granted-key-1");
        command.env("AGENT", concat!("qwenauth/", env!("CARGO_PKG_VERSION"), " (linux; test)"));
        let outcome = machine.start(command).finish().any_stdout().any_stderr();
        assert_eq!(outcome.code(), Some(0), "{name}: {outcome}");
        assert!(outcome.stdout.ends_with("{\"choices\":[]}"), "{name}: {outcome}");
        outcome.any_end();
    }
}

#[test]
fn a_customers_host_of_alibaba_is_not_the_api() {
    for host in [
        "some-customer.oss-eu-west-1.aliyuncs.com",
        "https://123.cn-hangzhou.fc.aliyuncs.com/v1",
        "aliyuncs.com",
        "dashscope.aliyuncs.com.evil.example",
        "evildashscope.aliyuncs.com",
        "dashscope-evil.aliyuncs.com",
    ] {
        let machine = Machine::new().logged_in().field("resource_url", json!(host));
        let outcome = machine.run(["env"]).exits(1).stdout("(exit 1);\n").any_stderr();
        assert!(outcome.stderr.contains("is not a host of"), "{outcome}");
    }
    for host in [
        "dashscope.aliyuncs.com",
        "dashscope-intl.aliyuncs.com",
        "dashscope-us.aliyuncs.com",
        "coding.dashscope.aliyuncs.com",
    ] {
        drop(Machine::new().logged_in().field("resource_url", json!(host)).run(["env"]).any_stdout());
    }
}
