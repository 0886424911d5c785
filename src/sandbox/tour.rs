//! The tour: every command of the main job against the practice provider, each shown with its real output.

use std::env;
use std::ffi::OsStr;
use std::io::{self, ErrorKind, IsTerminal, PipeReader, Read, Write};
use std::process::Stdio;

use anyhow::Context;

use super::Inside;
use crate::cli::variable;
use crate::error::note;
use crate::platform::supervisor::{Ended, Supervisor};

struct Step {
    why: &'static str,
    arguments: &'static [&'static str],
    /// A program without which the step is left out.
    needs: Option<&'static str>,
}

const STEPS: [Step; 8] = [
    Step {
        why: "Log in. Qwen would wait for you to approve this in a browser; the practice provider approves at once.",
        arguments: &["login", "--no-browser", "--qr", "never"],
        needs: None,
    },
    Step { why: "Where does the login stand?", arguments: &["status"], needs: None },
    Step {
        why: "Run any program with the credential in its environment.",
        arguments: &["exec", "--", "sh", "-c", r#"echo "a key of ${#OPENAI_API_KEY} characters for $OPENAI_BASE_URL""#],
        needs: Some("sh"),
    },
    Step {
        why: "So any OpenAI-compatible client works. The practice model says back what it was told.",
        arguments: &[
            "exec",
            "--",
            "sh",
            "-c",
            r#"
    echo "Authorization: Bearer $OPENAI_API_KEY" |
    curl -sS -H @- -H "Content-Type: application/json" -d "$0" "$OPENAI_BASE_URL/chat/completions"
  "#,
            r#"{"model":"coder-model","messages":[{"role":"user","content":"Hello, model!"}]}"#,
        ],
        needs: Some("curl"),
    },
    Step {
        why: "Renew now; silence means it worked. `token`, `env` and `exec` renew by themselves when it is time.",
        arguments: &["refresh"],
        needs: None,
    },
    Step {
        why: "Hand the access token to a script. This one is only for practice and ends with the tour.",
        arguments: &["token"],
        needs: None,
    },
    Step {
        why: "Or put the whole group of variables into a shell: `eval $(qwenauth env)`.",
        arguments: &["env"],
        needs: None,
    },
    Step { why: "Forget the credential.", arguments: &["logout"], needs: None },
];

/// Shows all steps; ends with the code of the first that fails.
pub(crate) fn run(inside: &Inside, supervisor: &Supervisor) -> anyhow::Result<Ended> {
    let style = Style::of_stdout();
    let mut stdout = io::stdout();
    writeln!(
        stdout,
        "{}A practice provider runs on this machine now: no account, no network, nothing of yours is touched.{}\n",
        style.soft, style.plain
    )?;
    for step in STEPS.iter().filter(|step| step.needs.is_none_or(is_there)) {
        let ended = show(step, inside, supervisor, &style, &mut stdout)?;
        if supervisor.is_interrupted() {
            return Ok(ended);
        }
        if ended != Ended::SUCCESS {
            note(&format!("the tour ends here: `{}` ended with code {}", command_line(step.arguments), ended.code()));
            return Ok(ended);
        }
    }
    writeln!(
        stdout,
        "{}# That was the main job. Practise on your own with `qwenauth sandbox`, or begin for real with `qwenauth login`.{}",
        style.soft, style.plain
    )?;
    Ok(Ended::SUCCESS)
}

fn show(
    step: &Step,
    inside: &Inside,
    supervisor: &Supervisor,
    style: &Style,
    stdout: &mut io::Stdout,
) -> anyhow::Result<Ended> {
    writeln!(stdout, "{}# {}{}", style.soft, step.why, style.plain)?;
    writeln!(stdout, "{}$ {}{}", style.strong, command_line(step.arguments), style.plain)?;
    let program = env::current_exe().context("finding this program")?;
    // One pipe for both, so that what the step says stays in order.
    let (output, end) = io::pipe()?;
    let mut command = inside.command(program.as_os_str());
    command.args(step.arguments).stdin(Stdio::null()).stdout(end.try_clone()?).stderr(end);
    let child = supervisor.spawn(&mut command)?;
    // It holds the pipe's other end, which keeps the output from ending.
    drop(command);
    let copied = copy_lines(output, stdout);
    let ended = supervisor.wait(child)?;
    copied?;
    writeln!(stdout)?;
    Ok(ended)
}

/// Copies as it comes, and ends the last line if the program did not.
fn copy_lines(mut output: PipeReader, stdout: &mut io::Stdout) -> io::Result<()> {
    let (mut buffer, mut last) = ([0; 4096], b'\n');
    loop {
        let length = match output.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        stdout.write_all(&buffer[..length])?;
        stdout.flush()?;
        last = buffer[length - 1];
    }
    if last != b'\n' {
        writeln!(stdout)?;
    }
    Ok(())
}

/// The command as one would type it.
fn command_line(arguments: &[&str]) -> String {
    let is_plain =
        |argument: &str| argument.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./=".contains(&byte));
    let quote = |argument: &&str| {
        if is_plain(argument) { (*argument).to_owned() } else { format!("'{}'", argument.replace('\'', r"'\''")) }
    };
    let words: Vec<_> = arguments.iter().map(quote).collect();
    format!("qwenauth {}", words.join(" "))
}

fn is_there(program: &'static str) -> bool {
    let path = variable("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(OsStr::new(program)).is_file())
}

/// How explanations and commands are set apart from output, where stdout shows colour.
struct Style {
    soft: &'static str,
    strong: &'static str,
    plain: &'static str,
}

impl Style {
    fn of_stdout() -> Self {
        let wanted = io::stdout().is_terminal() && variable("NO_COLOR").is_none();
        if wanted || variable("CLICOLOR_FORCE").is_some() {
            Self { soft: "\x1b[36m", strong: "\x1b[1m", plain: "\x1b[0m" }
        } else {
            Self { soft: "", strong: "", plain: "" }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_shown_as_it_could_be_typed() {
        assert_eq!(command_line(&["status", "--all"]), "qwenauth status --all");
        assert_eq!(
            command_line(&["exec", "--", "sh", "-c", "echo \"$A\" 'b'"]),
            r#"qwenauth exec -- sh -c 'echo "$A" '\''b'\'''"#
        );
    }
}
