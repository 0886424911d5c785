//! What a person at a terminal sees: questions, the QR code, the time left. Elsewhere nobody is asked anything.

use std::process::Command;

use serde_json::json;

use crate::login::device_code;
use crate::machine::{Machine, credential};
use crate::pseudo_terminal::PseudoTerminal;
use crate::qr;
use crate::run::Running;
use crate::server::{Ask, Reply};

pub(crate) const LARGE: (u16, u16) = (60, 120);

/// A terminal that is stdin and stderr of a run.
pub(crate) struct Terminal {
    pub(crate) running: Running,
    pub(crate) terminal: PseudoTerminal,
}

impl Terminal {
    pub(crate) fn run(machine: &Machine, arguments: &[&str], size: (u16, u16)) -> Self {
        Self::run_command(machine, machine.command(arguments), size)
    }

    /// On a terminal that only prints.
    fn run_on_dumb(machine: &Machine, arguments: &[&str]) -> Self {
        Self::run_as("dumb", machine, machine.command(arguments), LARGE)
    }

    fn run_command(machine: &Machine, command: Command, size: (u16, u16)) -> Self {
        Self::run_as("xterm-256color", machine, command, size)
    }

    fn run_as(kind: &str, machine: &Machine, mut command: Command, size: (u16, u16)) -> Self {
        let (terminal, near) = PseudoTerminal::open(size);
        // A person sees no log, whatever the tests are run with.
        command.env_remove("QWENAUTH_LOG");
        command.env("TERM", kind).env("LANG", "C.UTF-8");
        command.stdin(near.stdio()).stderr(near.stdio());
        Self { running: machine.start(command), terminal }
    }

    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) {
        self.terminal.wait_for(text);
    }

    pub(crate) fn wait_until_hidden(&self) {
        self.terminal.wait_until_hidden();
    }

    pub(crate) fn types(&mut self, text: &str) {
        self.terminal.types(text);
    }

    /// The end of the run: its exit code as expected, nothing on stdout; all that was on the screen.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> String {
        drop(self.running.finish().exits(code));
        let seen = self.terminal.end();
        assert!(!seen.contains("granted-"), "a secret on the screen: {seen}");
        seen
    }
}

fn denied() -> Machine {
    let machine = Machine::new().scripted(Ask::DeviceCode, device_code(json!({})));
    machine.scripted(Ask::Poll, Reply::error(400, "access_denied"))
}

#[test]
fn a_valid_login_is_kept_when_the_person_says_no() {
    let machine = Machine::new().logged_in();
    let before = machine.content();
    let mut terminal = Terminal::run(&machine, &["login", "qwen"], LARGE);
    terminal.wait_for("Replace it? [y/N]");
    terminal.types("n\r");
    terminal.exits(0);
    assert_eq!(machine.content(), before);
}

#[test]
fn a_valid_login_is_replaced_when_the_person_says_yes() {
    let machine = crate::login::polls([]).granted().credential_is(credential("old"));
    let mut terminal = Terminal::run(&machine, &["login", "qwen"], LARGE);
    terminal.wait_for("Replace it? [y/N]");
    terminal.types("y\r");
    terminal.exits(0);
    machine.holds_the_grant();
}

#[test]
fn a_large_terminal_shows_a_qr_code_that_any_camera_reads() {
    let screen = Terminal::run(&denied(), &["login", "qwen"], LARGE).exits(4);
    let text = screen.replace('\r', "");
    let code: Vec<&str> = text.lines().filter(|line| line.contains(['█', '▀', '▄'])).collect();
    qr::leads_to_the_page(&code.join("\n"));
}

/// What a terminal of that size shows while the login waits, and its text.
fn while_waiting(machine: &Machine, arguments: &[&str], (rows, columns): (u16, u16)) -> vt100::Parser {
    let mut terminal = Terminal::run(machine, arguments, (rows, columns));
    terminal.wait_for("Waiting for your approval (");
    let mut parser = vt100::Parser::new(rows, columns, 0);
    parser.process(terminal.terminal.seen.as_bytes());
    terminal.running.signal(nix::sys::signal::Signal::SIGTERM);
    drop(terminal.running.finish().dies_by(nix::sys::signal::Signal::SIGTERM));
    parser
}

/// The codes that a camera reads off a terminal of those colors.
pub(crate) fn read_off(screen: &vt100::Screen, is_dark: bool) -> Vec<String> {
    let (rows, columns) = screen.size();
    let light = |color: vt100::Color, default: bool| match color {
        vt100::Color::Default => default,
        vt100::Color::Idx(index) => index % 8 != 0,
        vt100::Color::Rgb(red, _, _) => red > 127,
    };
    let mut pixels = vec![vec![0_u8; usize::from(columns) * 8]; usize::from(rows) * 16];
    for row in 0..rows {
        for column in 0..columns {
            let Some(cell) = screen.cell(row, column) else { continue };
            let (front, back) = (light(cell.fgcolor(), is_dark), light(cell.bgcolor(), !is_dark));
            let (upper, lower) = match cell.contents().chars().next() {
                Some('█') => (front, front),
                Some('▀') => (front, back),
                Some('▄') => (back, front),
                _ => (back, back),
            };
            for y in 0..16 {
                for x in 0..8 {
                    let is_light = if y < 8 { upper } else { lower };
                    pixels[usize::from(row) * 16 + y][usize::from(column) * 8 + x] = if is_light { 255 } else { 0 };
                }
            }
        }
    }
    let mut picture =
        rqrr::PreparedImage::prepare_from_greyscale(usize::from(columns) * 8, pixels.len(), |x, y| pixels[y][x]);
    picture.detect_grids().iter().filter_map(|grid| grid.decode().ok()).map(|(_, content)| content).collect()
}

fn waits_at(url: &str) -> Machine {
    Machine::new().scripted(Ask::DeviceCode, device_code(json!({"interval": 60, "verification_uri_complete": url})))
}

const QWENS_OWN: &str = "https://chat.qwen.ai/authorize?user_code=K3Q9ZL7P&client=qwen-code";

/// A code is on the screen whole, with every line around it, or not at all.
#[test]
fn a_qr_code_is_whole_with_all_its_lines_or_not_there() {
    let mut drawn = Vec::new();
    for (columns, url) in [(80, QWENS_OWN), (60, QWENS_OWN), (120, QWENS_OWN), (80, "https://a.example/d?c=1")] {
        for rows in 20..=40 {
            let machine = waits_at(url);
            let parser = while_waiting(&machine, &["login", "qwen"], (rows, columns));
            let screen = parser.screen();
            let text = screen.contents();
            let flat: String = text.split_whitespace().collect::<Vec<_>>().join("");
            assert!(flat.contains("K3Q9ZL7P") || url != QWENS_OWN, "{rows}x{columns}: {text}");
            assert!(text.contains("Code: "), "{rows}x{columns}: {text}");
            let Some(first) = screen.rows(0, columns).position(|line| line.contains(['█', '▀', '▄'])) else {
                assert!(text.contains("`--qr always`"), "{rows}x{columns}: {text}");
                continue;
            };
            assert!(flat.contains(url), "{rows}x{columns}: the address is not on the screen: {text}");
            for whole in ["asks", "Waiting for your approval"] {
                assert!(text.contains(whole), "{rows}x{columns}: {whole} in {text}");
            }
            assert!(first >= 1, "{text}");
            for is_dark in [true, false] {
                assert_eq!(read_off(screen, is_dark), [url], "{rows}x{columns}: {text}");
            }
            drawn.push((rows, columns, url));
        }
    }
    assert!(drawn.contains(&(24, 80, QWENS_OWN)), "an ordinary terminal shows it: {drawn:?}");
    assert!(!drawn.contains(&(20, 80, QWENS_OWN)));
    assert!(drawn.contains(&(40, 60, QWENS_OWN)));
}

#[test]
fn text_pasted_before_the_prompt_answers_nothing_and_reaches_no_shell() {
    let machine = Machine::new().logged_in();
    let before = machine.content();
    let mut shell = machine.other("sh");
    shell.args([
        "-c",
        "$QWENAUTH login qwen; stty -icanon -echo min 0 time 3; dd bs=4096 count=1 2>/dev/null; echo END",
    ]);
    let mut terminal = Terminal::run_command(&machine, shell, (24, 80));
    terminal.wait_for("Replace it? [y/N]");
    terminal.types("sk-n0000y0000\r\nsecond line of what was pasted\r\n");
    // What a shell would read next.
    drop(terminal.running.finish().stdout("END\n"));
    assert_eq!(machine.content(), before);
}

#[test]
fn a_row_of_the_list_fits_and_one_line_stays_of_it() {
    for columns in [60, 80, 120] {
        let machine = denied();
        let mut terminal = Terminal::run(&machine, &["login"], (24, columns));
        terminal.wait_for("[arrows to move, Enter to choose, ");
        terminal.wait_for("qwen ");
        // What is typed while the list is drawn would be echoed into it.
        terminal.wait_until_hidden();
        let mut parser = vt100::Parser::new(24, columns, 0);
        parser.process(terminal.terminal.seen.as_bytes());
        let rows: Vec<String> = parser.screen().rows(0, columns).collect();
        // The price is of more use than the end of a long title.
        let first = if columns < 78 {
            "> dashscope    Alibaba Cloud Mod… "
        } else {
            "> dashscope    Alibaba Cloud Model Studio 百炼"
        };
        for name in [first, "  openrouter   OpenRouter", "  qwen         Qwen OAuth"] {
            assert!(rows.iter().any(|row| row.starts_with(name)), "{name} in {rows:?}");
        }
        assert!(rows[1].contains("API key") && !rows.iter().any(|row| row.trim() == "type to filter]"), "{rows:?}");
        terminal.types("oauth\r");
        let screen = terminal.exits(4);
        let mut parser = vt100::Parser::new(24, columns, 0);
        parser.process(screen.as_bytes());
        let text = parser.screen().contents();
        assert!(text.starts_with("? Log in to  Qwen OAuth (qwen)\n"), "{text}");
        assert!(!text.contains("dashscope  "), "{text}");
    }
}

#[test]
fn the_list_is_filtered_by_name_title_and_alias() {
    for (typed, chosen) in
        [("bailian", "dashscope"), ("hugging", "huggingface"), ("groq", "groq"), ("OpenR", "openrouter")]
    {
        let machine = Machine::new();
        let mut terminal = Terminal::run(&machine, &["login"], (24, 80));
        terminal.wait_for("qwen ");
        terminal.wait_until_hidden();
        terminal.types(typed);
        terminal.types("\r");
        terminal.wait_for(&format!(" ({chosen})"));
        terminal.running.signal(nix::sys::signal::Signal::SIGTERM);
        drop(terminal.running.finish().any_stderr().any_stdout().dies_by(nix::sys::signal::Signal::SIGTERM));
    }
}

#[test]
fn the_code_is_copied_only_on_request() {
    // base64 of `WDJB-MJHT`
    const COPIED: &str = "\u{1b}]52;c;V0RKQi1NSkhU\u{7}";
    let screen = Terminal::run(&denied(), &["login", "qwen", "--clipboard"], LARGE).exits(4);
    assert!(screen.contains(COPIED) && screen.contains("(copied to the clipboard)"), "{screen:?}");
    let machine = denied().variable("TMUX", "/tmp/tmux,1,0");
    let screen = Terminal::run(&machine, &["login", "qwen", "--clipboard"], LARGE).exits(4);
    assert!(screen.contains("\u{1b}Ptmux;\u{1b}\u{1b}]52;c;V0RKQi1NSkhU\u{7}\u{1b}\\"), "{screen:?}");
    let screen = Terminal::run(&denied(), &["login", "qwen"], LARGE).exits(4);
    assert!(!screen.contains("]52;"), "{screen:?}");
    Machine::new().run(["login", "qwen", "--clipboard"]).fails(
        2,
        "`--clipboard` requires a terminal, and stderr is not one",
        "omit `--clipboard`",
    );
}

#[test]
fn a_dumb_terminal_gets_no_escape_sequence() {
    let code = Terminal::run_on_dumb(&denied(), &["login", "qwen"]).exits(4);
    assert!(code.contains('█') && !code.contains("Waiting for your approval"), "{code}");
    let questions: [(Machine, &[&str], &str, &str, i32); 3] = [
        (denied(), &["login"], "qwen ", "oauth\r", 4),
        (Machine::new().logged_in(), &["login", "qwen"], "Replace it? [y/N]", "yo\x7fn\r", 0),
        (with_groq(), &["login", "groq"], "API key (hidden)", "granted-typed\r", 0),
    ];
    let mut screens = vec![code];
    for (machine, arguments, question, answer, code) in questions {
        let mut terminal = Terminal::run_on_dumb(&machine, arguments);
        terminal.wait_for(question);
        terminal.wait_until_hidden();
        terminal.types(answer);
        screens.push(terminal.exits(code));
    }
    for screen in screens {
        assert!(!screen.contains('\x1b'), "{screen:?}");
    }
}

#[test]
fn a_waiting_login_shows_the_time_left() {
    let machine = Machine::new().scripted(Ask::DeviceCode, device_code(json!({"interval": 60, "expires_in": 600})));
    let mut terminal = Terminal::run(&machine, &["login", "qwen"], LARGE);
    terminal.wait_for("9:5");
    terminal.running.signal(nix::sys::signal::Signal::SIGTERM);
    drop(terminal.running.finish().dies_by(nix::sys::signal::Signal::SIGTERM));
}

#[test]
fn the_url_is_on_a_line_of_its_own() {
    let screen = Terminal::run(&denied(), &["login", "qwen", "--qr", "never"], LARGE).exits(4);
    assert!(screen.lines().any(|line| line.trim_end_matches('\r') == qr::URL), "{screen}");
}

#[test]
fn token_never_prompts() {
    for command in [&["token"][..], &["refresh"], &["exec", "--", "true"]] {
        let screen = Terminal::run(&Machine::new(), command, LARGE).exits(4);
        let expected = "qwenauth: \x1b[31;1merror:\x1b[0m not logged in: there is no credential for `\x1b[1mqwen\x1b[0m`\r\n\
                        qwenauth: \x1b[36mhint:\x1b[0m run `\x1b[1mqwenauth login\x1b[0m`\r\n";
        assert_eq!(screen, expected);
    }
}

#[test]
fn a_logout_of_all_asks_first() {
    let machine = Machine::new().logged_in();
    let mut terminal = Terminal::run(&machine, &["logout", "--all"], LARGE);
    terminal.wait_for("[y/N]");
    terminal.types("n\r");
    terminal.exits(0);
    assert!(machine.file().exists());
}

#[test]
fn a_login_without_a_provider_lets_one_be_chosen() {
    let machine = denied();
    let mut terminal = Terminal::run(&machine, &["login"], LARGE);
    terminal.wait_for("> dashscope ");
    terminal.wait_for("  qwen ");
    terminal.types("\x1b[A\r");
    let screen = terminal.exits(4);
    assert!(screen.contains("the login was denied"), "{screen}");
}

/// Only what a person approves elsewhere can be left pending.
#[test]
fn a_login_that_does_not_wait_is_chosen_from_those_that_are_approved_in_a_browser() {
    let machine = Machine::new().scripted(Ask::DeviceCode, device_code(json!({})));
    let mut terminal = Terminal::run(&machine, &["login", "--no-wait"], LARGE);
    terminal.wait_for("> openrouter ");
    terminal.wait_for("  qwen ");
    terminal.types("\x1b[A\r");
    let screen = terminal.exits(0);
    assert!(screen.contains("qwenauth login --resume"), "{screen}");
    assert!(!screen.contains("dashscope"), "{screen}");
    std::fs::remove_file(machine.home().join(".local/state/qwenauth/pending/qwen.json")).unwrap();
}

#[test]
fn escape_from_the_list_logs_in_to_nothing() {
    let machine = Machine::new();
    let mut terminal = Terminal::run(&machine, &["login"], LARGE);
    terminal.wait_for("huggingface");
    terminal.types("\x1b");
    let screen = terminal.exits(2);
    assert!(screen.contains("no provider was chosen"), "{screen}");
}

/// A provider with a key at the machine's server.
pub(crate) fn with_groq() -> Machine {
    let machine = Machine::new().configured("[providers.groq]\nbase_url = \"{server}/groq/v1\"\n");
    machine.server.serve("/groq/v1/models", |request| match request.bearer() {
        "granted-typed" | "granted-found" => Reply::json(200, json!({"data": []})),
        _ => Reply::error(401, "no"),
    });
    machine
}

#[test]
fn a_gateway_says_on_a_terminal_what_its_lines_are() {
    for (more, lines) in [
        (&[][..], "above are the base URL and the key for clients"),
        (&["--api-key-file", "own-key"], "above is the base URL for clients"),
    ] {
        let machine = Machine::new().logged_in();
        let (mut terminal, near) = PseudoTerminal::open(LARGE);
        let mut command = machine.command([&["gateway", "--listen", "127.0.0.1:0"], more].concat());
        command.env_remove("QWENAUTH_LOG").env("TERM", "xterm-256color").current_dir(machine.home());
        command.stdin(near.stdio()).stdout(near.stdio()).stderr(near.stdio());
        let running = machine.start(command);
        terminal.wait_for(&format!(" until Ctrl-C; {lines}"));
        running.signal(nix::sys::signal::Signal::SIGTERM);
        drop(running.finish().dies_by(nix::sys::signal::Signal::SIGTERM));
    }
}

#[test]
fn a_typed_key_is_not_shown() {
    let machine = with_groq();
    let mut terminal = Terminal::run(&machine, &["login", "groq"], LARGE);
    terminal.wait_for("Create a key at https://console.groq.com/keys");
    terminal.wait_for("API key (hidden)");
    terminal.wait_until_hidden();
    terminal.types("granted-typed\r");
    drop(terminal.exits(0));
    assert_eq!(machine.profile("groq")["api_key"], "granted-typed");
}

#[test]
fn a_key_for_stdin_that_is_a_terminal_is_asked_for_and_not_shown() {
    let machine = with_groq();
    let mut terminal = Terminal::run(&machine, &["login", "groq", "--api-key-stdin"], LARGE);
    terminal.wait_for("API key (hidden)");
    terminal.wait_until_hidden();
    terminal.types("granted-typed\r");
    assert!(!terminal.exits(0).contains("granted-typed"));
    assert_eq!(machine.profile("groq")["api_key"], "granted-typed");
}

#[test]
fn a_key_found_in_a_variable_is_offered() {
    let machine = with_groq().variable("GROQ_API_KEY", "granted-found");
    let mut terminal = Terminal::run(&machine, &["login", "groq"], LARGE);
    terminal.wait_for("Use the key in `GROQ_API_KEY`? [y/N]");
    terminal.types("y\r");
    drop(terminal.exits(0));
    assert_eq!(machine.profile("groq")["api_key"], "granted-found");
}
