//! Screens as a terminal of 60, 80 or 120 columns shows them: each is a text file beside this one, made again and compared.
//!
//! `QWENAUTH_TEST_WRITE=1 cargo test --test cli screens` writes the files anew. Below a line with color stands one that
//! begins with `~` and names the style of each cell: r red, y yellow, g green, c cyan, d dim, b bold.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

use nix::pty::{Winsize, openpty};
use serde_json::json;
use unicode_width::UnicodeWidthStr;

use crate::keys::{KEY, knows_the_key};
use crate::machine::{Machine, now_ms, write_private};
use crate::server::Reply;

const COLUMNS: [u16; 3] = [60, 80, 120];

/// Rows of the emulated terminal; more than any of these commands prints.
const ROWS: u16 = 220;

/// Runs a command on a terminal of its own; what the terminal shows when it has ended, and its exit code. `locale`: `LANG`;
/// `None` leaves it to the machine.
pub(crate) fn screen(
    machine: &Machine,
    arguments: &[&str],
    columns: u16,
    locale: Option<&str>,
) -> (vt100::Parser, i32) {
    let size = Winsize { ws_row: ROWS, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(&size, None).unwrap();
    let mut command = machine.command(arguments);
    // A person sees no log, whatever the tests are run with.
    command.env_remove("QWENAUTH_LOG");
    command.env("TERM", "xterm-256color").envs(locale.map(|locale| ("LANG", locale)));
    command
        .stdin(terminal.slave.try_clone().unwrap())
        .stdout(terminal.slave.try_clone().unwrap())
        .stderr(terminal.slave);
    let mut child = command.spawn().unwrap();
    // It holds the terminal's other end, which keeps the output from ending.
    drop(command);
    let mut output = Vec::new();
    let mut master = File::from(terminal.master);
    let mut buffer = [0; 4096];
    // The end is an error, EIO, once nobody has the other side open.
    while let Ok(count @ 1..) = master.read(&mut buffer) {
        output.extend_from_slice(&buffer[..count]);
    }
    let code = child.wait().unwrap().code().unwrap();
    let mut parser = vt100::Parser::new(ROWS, columns, 0);
    parser.process(&output);
    (parser, code)
}

fn style_of(cell: &vt100::Cell) -> char {
    match cell.fgcolor() {
        vt100::Color::Idx(1) => 'r',
        vt100::Color::Idx(2) => 'g',
        vt100::Color::Idx(3) => 'y',
        vt100::Color::Idx(6) => 'c',
        vt100::Color::Default if cell.bold() => 'b',
        vt100::Color::Default if cell.dim() => 'd',
        vt100::Color::Default => ' ',
        _ => '?',
    }
}

fn text(parser: &vt100::Parser, columns: u16) -> String {
    let screen = parser.screen();
    let mut text = String::new();
    for row in 0..ROWS {
        let line = screen.contents_between(row, 0, row, columns);
        let styles: String = (0..columns).map(|column| screen.cell(row, column).map_or(' ', style_of)).collect();
        text += line.trim_end();
        text.push('\n');
        if !styles.trim_end().is_empty() {
            text += &format!("~{}\n", styles.trim_end());
        }
    }
    text.trim_end().to_owned() + "\n"
}

fn file(name: &str, columns: u16) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/cli/screens/{name}-{columns}.txt"))
}

/// The command's screen at each width is that of its file, no line of it is broken by the terminal, and the cursor is at
/// the beginning of a line.
#[track_caller]
fn shows(machine: &Machine, name: &str, arguments: &[&str], expected_code: i32) {
    shows_in("C.UTF-8", machine, name, arguments, expected_code);
}

/// The same in Chinese and Russian as well.
#[track_caller]
fn shows_in_each_language(machine: &Machine, name: &str, arguments: &[&str], expected_code: i32) {
    shows(machine, name, arguments, expected_code);
    shows_in("zh_CN.UTF-8", machine, &format!("{name}-zh"), arguments, expected_code);
    shows_in("ru_RU.UTF-8", machine, &format!("{name}-ru"), arguments, expected_code);
}

#[track_caller]
fn shows_in(locale: &str, machine: &Machine, name: &str, arguments: &[&str], expected_code: i32) {
    shows_with(locale, machine, name, arguments, expected_code, str::to_owned);
}

/// `settled`: what differs from run to run replaced by what is as wide.
#[track_caller]
fn shows_with(
    locale: &str,
    machine: &Machine,
    name: &str,
    arguments: &[&str],
    expected_code: i32,
    settled: impl Fn(&str) -> String,
) {
    for columns in COLUMNS {
        let (parser, code) = screen(machine, arguments, columns, Some(locale));
        assert_eq!(code, expected_code, "{name} at {columns}: {}", parser.screen().contents());
        assert_eq!(parser.screen().cursor_position().1, 0, "{name} at {columns}");
        for row in 0..ROWS {
            let line = parser.screen().contents_between(row, 0, row, columns);
            let is_url = !line.trim().contains(' ') && line.contains("://");
            let wrapped = parser.screen().row_wrapped(row);
            assert!(!wrapped || is_url, "{name} at {columns}: the terminal had to break `{line}`");
            assert!(line.trim_end().width() <= usize::from(columns));
        }
        let shown = settled(&text(&parser, columns));
        let path = file(name, columns);
        if std::env::var_os("QWENAUTH_TEST_WRITE").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &shown).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(shown, kept, "{}", path.display());
    }
}

#[test]
fn providers() {
    shows_in_each_language(&Machine::new().variable("container", "test"), "providers", &["providers"], 0);
}

#[test]
fn one_provider() {
    shows(&Machine::new().variable("container", "test"), "provider-dashscope", &["providers", "dashscope"], 0);
}

#[test]
fn what_was_used_and_what_is_left() {
    let machine = Machine::new();
    let day = machine.home().join(".local/state/qwenauth/usage/2026-11-28.jsonl");
    let used = |profile: &str, model: &str, figures: [u64; 6]| {
        let [requests, tries, prompt_tokens, completion_tokens, rate_limited, wait_ms] = figures;
        json!({
            "profile": profile, "provider": profile, "model": model, "requests": requests, "tries": tries,
            "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
            "rate_limited": rate_limited, "wait_ms": wait_ms,
        })
    };
    let now = u64::try_from(now_ms()).unwrap() / 1000;
    let limit = |name: &str, limit: u64, remaining: u64, resets_at: Option<u64>| {
        json!({
            "profile": "openrouter", "provider": "openrouter",
            "limits": [{"name": name, "limit": limit, "remaining": remaining, "resets_at": resets_at, "at": now}],
        })
    };
    let write = |resets_at: Option<u64>| {
        let lines = [
            used("dashscope", "qwen3.8-flash", [128, 131, 1_234_567, 84_321, 3, 11_200]),
            used("openrouter", "qwen/qwen3-coder-480b-a35b-instruct:free", [40, 40, 96_111, 11_042, 0, 0]),
            limit("requests per day", 50, 10, resets_at),
            limit("requests per minute", 20, 20, None),
            limit("tokens per day", 1_000_000, 0, None),
        ];
        write_private(&day, lines.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    };
    write(None);
    let arguments = ["usage", "--days", "3660"];
    shows_in_each_language(&machine, "usage", &arguments, 0);
    write(Some(4_102_444_800));
    // A pipe has every figure whole, and nothing that a terminal draws.
    let piped = machine.run(arguments).any_stdout();
    for whole in ["1234567", "qwen/qwen3-coder-480b-a35b-instruct:free", "40 of 50 used, resets 2100-01-01T00:00:00Z"] {
        assert!(piped.stdout.contains(whole), "{piped}");
    }
    assert!(!piped.stdout.contains(['█', '\u{1b}']), "{piped}");
    // One that has reset is not shown.
    write(Some(now - 1));
    assert!(!machine.run(arguments).any_stdout().stdout.contains("of 50"));
    // A reset to come is so far away on a terminal.
    let soon = now + 2 * 86_400 + 7 * 3600 + 60;
    write_private(&day, limit("requests per day", 50, 10, Some(soon)).to_string());
    let shown = screen(&machine, &arguments, 80, None).0.screen().contents();
    assert!(shown.contains("40 of 50 used, resets in 2 d 7 h"), "{shown}");
    let stored = json!({"provider": "openrouter", "api_key": KEY});
    write_private(&machine.profiles().join("openrouter.json"), stored.to_string());
    let today =
        machine.home().join(format!(".local/state/qwenauth/usage/{}.jsonl", &jiff::Timestamp::now().to_string()[..10]));
    fs::rename(&day, today).unwrap();
    let shown = screen(&machine, &["status", "--profile", "openrouter"], 80, None).0.screen().contents();
    assert!(shown.contains("limit       10 of 50 left: requests per day, resets in 2 d 7 h"), "{shown}");
}

#[test]
fn nothing_was_used() {
    shows_in_each_language(&Machine::new(), "usage-nothing", &["usage"], 0);
}

#[test]
fn tools_and_how_they_are_set_up() {
    let machine = with_a_key().with_programs(&[("opencode", "#!/bin/sh\n"), ("codex", "#!/bin/sh\n")]);
    let bin = machine.directory().join("bin");
    let machine = machine.variable("PATH", bin);
    drop(machine.run(["setup", "opencode"]).any_stderr());
    shows_in_each_language(&machine, "setup", &["setup"], 0);
}

/// The digits of ports and of milliseconds are those of this run.
fn without_ports_and_times(text: &str) -> String {
    let mut words = Vec::new();
    for word in text.split(' ') {
        let (host, port) = word.split_once("127.0.0.1:").unwrap_or((word, ""));
        let digits = port.chars().take_while(char::is_ascii_digit).count();
        words.push(match digits {
            5 => format!("{host}127.0.0.1:00000{}", &port[5..]),
            _ => word.to_owned(),
        });
    }
    for at in 1..words.len() {
        if words[at].starts_with("ms") && words[at - 1].bytes().all(|byte| byte.is_ascii_digit()) {
            "5".clone_into(&mut words[at - 1]);
        }
    }
    words.join(" ")
}

/// Without the line that says where this build of the program is.
fn without_installation(text: &str) -> String {
    let mut is_it = false;
    let keeps = |line: &&str| {
        is_it = if line.starts_with(['✓', '!', '✗']) { line.contains(" installed ") } else { is_it };
        !is_it
    };
    text.lines().filter(keeps).map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_doctor_finds_nothing_or_names_what_helps() {
    let shows = |machine: &Machine, name: &str, code: i32| {
        shows_with("C.UTF-8", machine, name, &["doctor"], code, |text| {
            without_ports_and_times(&without_installation(text))
        });
    };
    let healthy = || {
        let machine = knows_the_key(Machine::new(), "/v1/models").configured("profile = \"custom\"\n");
        machine.server.serve("/", |_| Reply::text(404, "{}"));
        let base_url = format!("{}/v1", machine.server.url());
        let stored = json!({"provider": "custom", "api_key": KEY, "base_url": base_url});
        write_private(&machine.profiles().join("custom.json"), stored.to_string());
        machine
    };
    shows(&healthy(), "doctor-healthy", 0);
    let machine = healthy().variable("OPENAI_API_KEY", "sk-own");
    machine.server.serve("/v1/models", |_| Reply::json(400, json!({"code": "Arrearage", "message": "x"})));
    shows(&machine, "doctor-unpaid", 1);
}

#[test]
fn nobody_is_logged_in() {
    shows_in_each_language(&Machine::new(), "status-nobody", &["status"], 4);
}

/// A key that is stored, at a host that does not change from run to run, on a day long past.
fn with_a_key() -> Machine {
    let machine = Machine::new().configured("profile = \"dashscope\"\n");
    let stored = json!({
        "provider": "dashscope",
        "api_key": "sk-0123456789abcdef0123456789ab3f9a",
        "base_url": "https://dashscope.aliyuncs.com/compatible-mode/v1",
        "region": "cn",
    });
    write_private(&machine.profiles().join("dashscope.json"), stored.to_string());
    machine
}

#[test]
fn a_key_is_stored() {
    shows_in_each_language(&with_a_key(), "status-key", &["status"], 0);
}

#[test]
fn a_variable_is_used_instead_of_the_key() {
    let machine = with_a_key().variable("OPENAI_API_KEY", "sk-own");
    shows_in_each_language(&machine, "status-overridden", &["status"], 0);
}

#[test]
fn a_token_has_expired() {
    let machine = Machine::expired().field("resource_url", json!("portal.qwen.ai"));
    shows_in_each_language(&machine, "status-expired", &["status"], 0);
}

#[test]
fn errors_and_hints() {
    let machine = Machine::new();
    shows_in_each_language(&machine, "error-not-logged-in", &["token"], 4);
    shows_in_each_language(&machine, "error-usage", &["login", "dashscope", "--region", "nowhere"], 2);
    shows_in_each_language(&machine, "error-command", &["lgoin"], 2);
}

#[test]
fn a_program_cannot_work_with_the_provider() {
    let machine = with_a_key();
    shows_in_each_language(&machine, "error-setup", &["setup", "opencode", "--model", "a\u{7}b"], 2);
}

#[test]
fn what_the_program_shows_alone_fits_a_small_terminal() {
    let machine = Machine::new();
    shows_in_each_language(&machine, "alone", &[], 2);
    for language in ["", "-zh", "-ru"] {
        let shown = fs::read_to_string(file(&format!("alone{language}"), 80)).unwrap();
        let rows = shown.lines().filter(|line| !line.starts_with('~')).count();
        assert!(rows < 24, "{rows} rows{language}");
    }
}

#[test]
fn a_login_ends() {
    let machine = Machine::new().variable("MY_KEY", "sk-0123456789abcdef0123456789ab3f9a");
    let login = ["login", "dashscope", "--region", "cn", "--api-key-env", "MY_KEY", "--no-verify", "--force"];
    shows_in_each_language(&machine, "login-key", &login, 0);
}

#[test]
fn the_list_of_profiles() {
    let machine = with_a_key();
    shows_in_each_language(&machine, "profiles", &["profiles"], 0);
    let empty = Machine::new();
    shows_in_each_language(&empty, "keys-none", &["keys", "list"], 0);
}

#[test]
fn keys_of_a_team() {
    let machine = Machine::new().configured("[prices.\"*\"]\ninput = 1.0\noutput = 5.0\n");
    for arguments in [
        &["ann", "--owner", "ann@example.com", "--rpm", "60", "--budget", "20 USD/month", "--expires", "2099-12-31"][..],
        &["ci", "--models", "qwen3-coder*", "--models", "text-embedding-v4", "--parallel", "4", "--rpd", "5000"],
        &["report"],
        &["former"],
    ] {
        drop(machine.run([&["keys", "create"], arguments].concat()).any_stdout());
    }
    drop(machine.run(["keys", "rotate", "ci", "--overlap", "24h"]).any_stdout());
    drop(machine.run(["keys", "revoke", "former", "--yes"]));
    shows_in_each_language(&machine, "keys-list", &["keys", "list"], 0);
}
