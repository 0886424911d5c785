//! A prompt that ends or stops by a signal leaves the terminal as it found it.

use nix::sys::signal::Signal;

use crate::machine::Machine;
use crate::pseudo_terminal::PseudoTerminal;
use crate::terminal::{LARGE, Terminal, with_groq};

#[test]
fn a_signal_at_a_prompt_leaves_the_terminal_as_it_was() {
    let prompts: [(Machine, &[&str], &str); 4] = [
        (with_groq(), &["login", "groq"], "API key (hidden)"),
        (Machine::new(), &["login", "openrouter", "--no-browser"], "Code (valid for 10 minutes) or API key"),
        (Machine::new(), &["login"], "qwen "),
        (Machine::new().logged_in(), &["login", "qwen"], "Replace it? [y/N]"),
    ];
    for (machine, arguments, prompt) in prompts {
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
            let before = PseudoTerminal::open(LARGE).0.settings();
            let mut terminal = Terminal::run(&machine, arguments, LARGE);
            terminal.wait_for(prompt);
            terminal.wait_until_hidden();
            terminal.running.signal(signal);
            drop(terminal.running.finish().dies_by(signal));
            assert_eq!(terminal.terminal.settings(), before, "{signal} at `{prompt}`");
        }
    }
}

#[test]
fn a_prompt_that_is_wider_than_the_terminal_breaks_at_words() {
    let machine = with_groq().variable("GROQ_API_KEY", "granted-found").variable("QWENAUTH_LANG", "ru");
    let mut terminal = Terminal::run(&machine, &["login", "groq"], (60, 24));
    terminal.wait_for("Использовать ключ из\r\n`GROQ_API_KEY`? [y/N]");
    terminal.types("n\r");
    terminal.wait_for("`GROQ_API_KEY`? нет");
    terminal.wait_for("Ключ API (не\r\nотображается):");
    terminal.running.signal(Signal::SIGTERM);
    drop(terminal.running.finish().dies_by(Signal::SIGTERM));
}

/// A run of the shell on a terminal of its own. `same` prints its argument if the terminal is as it was at the start.
fn in_shell(machine: &Machine, script: &str) -> Terminal {
    let (terminal, near) = PseudoTerminal::open(LARGE);
    let mut command = machine.other("sh");
    let same = "found=$(stty -g); same() { [ \"$(stty -g)\" = \"$found\" ] && echo \"same $1\"; }";
    command.args(["-c", &format!("{same}; {script}")]).env_remove("QWENAUTH_LOG");
    near.controls(&mut command);
    Terminal { running: machine.start(command), terminal }
}

#[test]
fn ctrl_c_at_a_hidden_prompt_leaves_the_echo_on() {
    let machine = with_groq();
    let mut terminal = in_shell(&machine, "trap : INT; $QWENAUTH login groq; same $?");
    terminal.wait_for("API key (hidden)");
    terminal.wait_until_hidden();
    terminal.types("\x03");
    terminal.wait_for("same 130");
    terminal.exits(0);
}

#[test]
fn ctrl_z_at_a_hidden_prompt_leaves_the_echo_on_until_it_continues() {
    let machine = with_groq();
    let mut terminal = in_shell(&machine, "set -m; $QWENAUTH login groq; same stopped; fg; same $?");
    terminal.wait_for("API key (hidden)");
    terminal.wait_until_hidden();
    terminal.types("\x1a");
    terminal.wait_for("same stopped");
    terminal.wait_until_hidden();
    terminal.types("granted-typed\r");
    terminal.wait_for("same 0");
    terminal.exits(0);
    assert_eq!(machine.profile("groq")["api_key"], "granted-typed");
}
