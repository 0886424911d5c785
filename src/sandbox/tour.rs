//! The tour: every command of the main job against the practice provider, each shown with its real output.

use std::env;
use std::ffi::OsStr;
use std::io::{self, BufRead, PipeReader, Write};
use std::process::Stdio;

use anyhow::Context;

use super::Inside;
use crate::environment::variable;
use crate::error::note;
use crate::platform::processes;
use crate::platform::supervisor::{ProgramEnd, Supervisor};
use crate::say::{Screen, Style, columns};

struct Step {
    why: &'static str,
    /// What the command reads, as `printf` is shown to print it.
    stdin: Option<&'static str>,
    arguments: &'static [&'static str],
    needs: Needs,
}

/// Where a step is left out.
enum Needs {
    Nothing,
    /// Shells of Unix, and this program.
    Unix(&'static str),
    /// The shell of Windows.
    Cmd,
}

impl Needs {
    fn are_met(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Unix(program) => processes::IS_UNIX && is_there(program),
            Self::Cmd => !processes::IS_UNIX,
        }
    }
}

impl Step {
    const fn new(why: &'static str, arguments: &'static [&'static str]) -> Self {
        Self { why, stdin: None, arguments, needs: Needs::Nothing }
    }
}

/// Today's way first: an API key. Then the device flow, which Qwen OAuth and other issuers use.
const STEPS: [Step; 13] = [
    Step {
        stdin: Some("practice-key-of-the-tour"),
        ..Step::new(
            "Log in with an API key. In a sandbox any key that starts with `practice-` is valid.",
            &["login", "dashscope", "--api-key-stdin"],
        )
    },
    Step::new("See which credential is active.", &["status"]),
    Step {
        needs: Needs::Unix("sh"),
        ..Step::new(
            "Run any program with the credential in its environment.",
            &[
                "exec",
                "--",
                "sh",
                "-c",
                r#"
  echo "a key of ${#OPENAI_API_KEY} characters for" \
    "$OPENAI_BASE_URL"
"#,
            ],
        )
    },
    Step {
        needs: Needs::Unix("curl"),
        ..Step::new(
            "This works with any OpenAI-compatible client. The practice model repeats its input.",
            &[
                "exec",
                "--",
                "sh",
                "-c",
                r#"
  echo "Authorization: Bearer $OPENAI_API_KEY" |
  curl -sS -H @- -H "Content-Type: application/json" \
    -d "$0" "$OPENAI_BASE_URL/chat/completions"
"#,
                r#"{"messages":[{"role":"user","content":"Hello, model!"}],
  "model":"qwen3.8-flash"}"#,
            ],
        )
    },
    Step {
        needs: Needs::Cmd,
        ..Step::new(
            "Run any program with the credential in its environment.",
            &["exec", "--", "cmd", "/c", "set", "OPENAI_BASE_URL"],
        )
    },
    Step::new("Configure a tool permanently; `--print` shows what would be written.", &["setup", "codex", "--print"]),
    Step {
        needs: Needs::Unix("sh"),
        ..Step::new("Or set the variables in a shell: `eval $(qwenauth env)`.", &["env"])
    },
    Step {
        needs: Needs::Cmd,
        ..Step::new(
            "Or set the variables in a shell; PowerShell: `qwenauth env | Out-String | Invoke-Expression`.",
            &["env", "--format", "powershell"],
        )
    },
    Step::new(
        "Log in with the device flow. A real provider waits until you approve on any device; the practice provider approves immediately.",
        &["login", "qwen", "--no-browser", "--qr", "never"],
    ),
    Step::new("Renew now. `token`, `env` and `exec` renew automatically.", &["refresh"]),
    Step::new("Print the access token for a script. This token is valid only during the tour.", &["token"]),
    Step::new("Remove the credential.", &["logout"]),
    Step::new("The other profile is still stored.", &["profiles"]),
];

/// Shows all steps; ends with the code of the first that fails.
pub(crate) fn run(inside: &Inside, supervisor: &Supervisor) -> anyhow::Result<ProgramEnd> {
    let screen = Screen::stdout();
    let mut stdout = io::stdout();
    let begin = "A practice provider now runs on this machine: no account, no network, and your files and logins are not touched.";
    writeln!(stdout, "{}\n", remark(begin, 0, screen))?;
    for step in STEPS.iter().filter(|step| step.needs.are_met()) {
        let ended = show(step, inside, supervisor, screen, &mut stdout)?;
        if supervisor.is_interrupted() {
            return Ok(ended);
        }
        if ended != ProgramEnd::SUCCESS {
            note(&format!("the tour ends here: `{}` ended with code {}", command_line(step.arguments), ended.code()));
            return Ok(ended);
        }
    }
    let end = "That is the whole workflow. Try it yourself with `qwenauth sandbox`, or log in with `qwenauth login`.";
    writeln!(stdout, "{}", remark(&format!("# {end}"), 2, screen))?;
    Ok(ProgramEnd::SUCCESS)
}

fn show(
    step: &Step,
    inside: &Inside,
    supervisor: &Supervisor,
    screen: Screen,
    stdout: &mut io::Stdout,
) -> anyhow::Result<ProgramEnd> {
    writeln!(stdout, "{}", remark(&format!("# {}", step.why), 2, screen))?;
    let typed = match step.stdin {
        Some(text) if processes::IS_UNIX => format!("printf {text} | {}", command_line(step.arguments)),
        Some(text) => format!("echo {text}| {}", command_line(step.arguments)),
        None => command_line(step.arguments),
    };
    for (at, line) in typed.lines().enumerate() {
        let lead = if at == 0 { "$ " } else { "" };
        writeln!(stdout, "{}", screen.paint(Style::Bold, &format!("{lead}{line}")))?;
    }
    let program = env::current_exe().context("finding this program")?;
    // One pipe for both, so that the step's output stays in order.
    let (output, end) = io::pipe()?;
    let mut command = inside.command(program.as_os_str());
    let stdin = if step.stdin.is_some() { Stdio::piped() } else { Stdio::null() };
    command.args(step.arguments).stdin(stdin).stdout(end.try_clone()?).stderr(end);
    let mut child = supervisor.spawn(&mut command)?;
    // It holds the pipe's other end, which keeps the output from ending.
    drop(command);
    if let (Some(mut stdin), Some(text)) = (child.stdin.take(), step.stdin) {
        // A command that ends without reading reports the reason itself.
        let _ = stdin.write_all(text.as_bytes());
    }
    let copied = copy_lines(output, screen, stdout);
    let ended = supervisor.wait(child)?;
    copied?;
    writeln!(stdout)?;
    Ok(ended)
}

/// Copies line by line, each wrapped as its command would have wrapped it on this terminal.
fn copy_lines(output: PipeReader, screen: Screen, stdout: &mut io::Stdout) -> io::Result<()> {
    let mut output = io::BufReader::new(output);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        for line in fitted(text.trim_end(), screen) {
            writeln!(stdout, "{line}")?;
        }
        stdout.flush()?;
        line.clear();
    }
    Ok(())
}

/// Wrapped at words; JSON, which has hardly any, is broken behind commas.
fn fitted(text: &str, screen: Screen) -> Vec<String> {
    let Some(width) = screen.width().filter(|_| text.starts_with('{')) else {
        return screen.wrap(text, 0, text.len() - text.trim_start().len());
    };
    let mut lines = vec![String::new()];
    for part in text.split_inclusive(',') {
        match lines.last_mut() {
            Some(line) if columns(line) + columns(part) <= width => line.push_str(part),
            _ => lines.push(part.to_owned()),
        }
    }
    lines
}

/// The tour's own text.
fn remark(text: &str, indent: usize, screen: Screen) -> String {
    let lines: Vec<String> = screen.wrap(text, 0, indent).iter().map(|line| screen.paint(Style::Hint, line)).collect();
    lines.join("\n")
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
