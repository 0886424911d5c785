//! A new user's first minute: from an empty home directory to the answer of a tool, in the user's language, at a small
//! terminal and without one.

use unicode_width::UnicodeWidthStr;

use crate::machine::{Machine, possible};
use crate::pseudo_terminal::PseudoTerminal;

const SIZES: [(u16, u16); 2] = [(24, 80), (24, 60)];

/// A tool that asks the model with what it was given, and prints its answer.
pub(crate) const OPENCODE: &str = r#"#!/bin/bash
place=${OPENAI_BASE_URL#http://}
address=${place%%/*}
body='{"model":"'$OPENAI_MODEL'","messages":[{"role":"user","content":"hello"}]}'
exec 3<>"/dev/tcp/${address%:*}/${address#*:}"
printf 'POST /%s/chat/completions HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: close\r\n' \
    "${place#*/}" "$address" "$OPENAI_API_KEY" >&3
printf 'Content-Type: application/json\r\nContent-Length: %s\r\n\r\n%s' "${#body}" "$body" >&3
answer=$(cat <&3)
answer=${answer#*\"content\":\"}
echo "answer: ${answer%%\"*}"
"#;

pub(crate) const ANSWER: &str = "answer: You said: hello";

/// What the screens say on the way.
struct Words {
    locale: &'static str,
    /// The first line of the shell to try things in.
    welcome: &'static str,
    list: &'static str,
    key: &'static str,
    refused: &'static str,
    logged_in: &'static str,
    status: &'static str,
}

fn new_user() -> Option<Machine> {
    if !possible(std::path::Path::new("/bin/bash").exists(), "run bash") {
        return None;
    }
    let machine = Machine::new().with_programs(&[("opencode", OPENCODE)]).variable("SHELL", "/bin/bash");
    Some(machine.without_variable("QWENAUTH_QWEN_OAUTH_URL"))
}

/// Four commands: the shell to try things in, `login`, `status`, the tool. A wrong key on the way is no dead end.
#[track_caller]
fn walks(words: &Words) {
    for size in SIZES {
        let Some(machine) = new_user() else { return };
        let (mut terminal, near) = PseudoTerminal::open(size);
        let mut command = machine.command(["sandbox"]);
        command.env_remove("QWENAUTH_LOG").env("TERM", "xterm-256color").env("LANG", words.locale);
        near.controls(&mut command);
        let mut child = command.spawn().unwrap();
        // It holds the terminal's other end, which keeps the output from ending.
        drop(command);
        terminal.take_until(words.welcome);
        terminal.take_until("(sandbox) ");
        let mut logs_in = |key: &str, end: &str| {
            terminal.types("qwenauth login\n");
            terminal.take_until(words.list);
            // The last row: the list is drawn, and what is typed now is not discarded.
            terminal.take_until("  qwen  ");
            terminal.types("\r");
            terminal.take_until(words.key);
            terminal.wait_until_hidden();
            terminal.types(&format!("{key}\r"));
            terminal.take_until(end);
            terminal.take_until("(sandbox) ");
        };
        logs_in("sk-0123456789abcdef", words.refused);
        logs_in("practice-1", words.logged_in);
        terminal.types("qwenauth status\n");
        terminal.take_until(words.status);
        terminal.take_until("(sandbox) ");
        terminal.types("qwenauth exec -- opencode\n");
        terminal.take_until(ANSWER);
        terminal.take_until("(sandbox) ");
        terminal.types("exit\n");
        assert!(child.wait().unwrap().success());
        is_whole(&terminal.end(), size.1);
    }
}

/// No line was broken by the terminal, but for addresses and paths, which stand alone.
#[track_caller]
pub(crate) fn is_whole(seen: &str, columns: u16) {
    let mut parser = vt100::Parser::new(300, columns, 0);
    parser.process(seen.as_bytes());
    let screen = parser.screen();
    let lines = (0..300).map(|row| (row, screen.contents_between(row, 0, row, columns)));
    for (row, line) in lines {
        assert!(line.width() <= usize::from(columns));
        let is_one_word = !line.trim().contains(' ') && line.contains('/');
        let is_prompt = line.contains("(sandbox) ");
        assert!(!screen.row_wrapped(row) || is_one_word || is_prompt, "the terminal had to break `{line}`");
    }
}

#[test]
fn a_new_user_gets_an_answer_in_english() {
    walks(&Words {
        locale: "C.UTF-8",
        welcome: "a practice provider runs at",
        list: "? Log in to",
        key: "API key (hidden)",
        refused: "hint:",
        logged_in: " logged in to Alibaba Cloud Model Studio",
        status: "dashscope (active) · Alibaba Cloud Model Studio",
    });
}

#[test]
fn a_new_user_gets_an_answer_in_chinese() {
    walks(&Words {
        locale: "zh_CN.UTF-8",
        welcome: "练习服务商运行在",
        list: "? 登录到",
        key: "API Key（不显示）",
        refused: "提示:",
        logged_in: " 已登录 阿里云百炼",
        status: "dashscope（当前） · 阿里云百炼",
    });
}

#[test]
fn a_new_user_gets_an_answer_in_russian() {
    walks(&Words {
        locale: "ru_RU.UTF-8",
        welcome: "учебный провайдер",
        list: "? Войти в",
        key: "Ключ API",
        refused: "подсказка:",
        logged_in: " вход выполнен: Alibaba Cloud Model Studio",
        status: "dashscope (активный) · Alibaba Cloud Model Studio",
    });
}

/// Without a terminal nobody is asked anything: two commands, and the message is one line of English.
#[test]
fn a_new_user_gets_an_answer_without_a_terminal() {
    for locale in ["C", "zh_CN.UTF-8", "ru_RU.UTF-8"] {
        let Some(machine) = new_user() else { return };
        let script = "printf practice-1 | qwenauth login dashscope --api-key-stdin && qwenauth exec -- opencode";
        let machine = machine.variable("LANG", locale);
        let outcome = machine.run(["sandbox", "--", "sh", "-c", script]).any_stderr();
        assert_eq!(outcome.stdout, format!("{ANSWER}\n"), "{outcome}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
        assert!(outcome.stderr.contains("qwenauth: logged in to Alibaba Cloud Model Studio"), "{outcome}");
        outcome.any_stdout();
    }
}
