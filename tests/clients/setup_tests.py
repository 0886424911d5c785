"""From an empty home directory: log in, set the tool up, and it answers; `done` runs these and nothing else."""

import re

OFFLINE = {
    # Where there is a plugin, opencode first asks the npm registry for its library: over a minute if nobody answers.
    "npm_config_fetch_retries": "0",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "DISABLE_AUTOUPDATER": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}

# Of the sandbox only its provider is used: what it would keep inside itself is to be in the home directory.
EMPTY_HOME = """
unset CODEX_HOME CLAUDE_CONFIG_DIR OPENCODE_CONFIG_DIR QWEN_HOME QWENAUTH_HOME
test -z "$(ls -A "$HOME")" || { echo "the home directory is not empty"; exit 1; }
qwenauth login --no-browser || exit
test -f "$HOME/.qwen/oauth_creds.json" || { echo "the login is not in the home directory"; exit 1; }
"""
SET_UP = """
tool=$1; shift
qwenauth setup "$tool" && "$@" || exit
qwenauth setup "$tool" --remove
"""
CLIENT = """
from openai import OpenAI
reply = OpenAI().chat.completions.create(model="coder-model", messages=[{"role": "user", "content": "hi"}])
print(reply.choices[0].message.content)
"""


def answers(machine, script, *arguments, path):
    environment = OFFLINE | {"PATH": f"{':'.join(map(str, path))}:{machine.environment()['PATH']}"}
    done = machine.run("qwenauth", "sandbox", "--", "sh", "-c", EMPTY_HOME + script, "sh", *arguments, **environment)
    assert re.search(r"You said:.*\bhi\b", done.stdout, re.DOTALL), f"no answer in {done.stdout[-2000:]!r}"
    return done


def answers_once_set_up(machine, tool, *command, path):
    done = answers(machine, SET_UP, tool, *command, path=path)
    assert "is not on `PATH`" not in done.stderr, "`setup` did not find the tool"
    assert "is as it was before" in done.stderr, done.stderr[-2000:]


def opencode_answers_once_it_is_set_up(machine):
    folder = machine.package("opencode") / "node_modules/opencode-linux-x64/bin"
    answers_once_set_up(machine, "opencode", "opencode", "run", "hi", path=[folder])
    assert not (machine.home / ".config/opencode/opencode.json").read_text().count("qwenauth")


def qwen_code_answers_once_it_is_set_up(machine):
    path = [machine.package(name) / "node_modules/.bin" for name in ("qwen-code-0.24.4", "node-22")]
    answers_once_set_up(machine, "qwen-code", "qwen", "-p", "hi", path=path)


def codex_answers_once_it_is_set_up(machine):
    folder = machine.package("codex") / "node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin"
    answers_once_set_up(machine, "codex", "codex", "exec", "--skip-git-repo-check", "hi", path=[folder])


def claude_code_answers_once_it_is_set_up(machine):
    folder = machine.package("claude-code") / "node_modules/@anthropic-ai/claude-code-linux-x64"
    answers_once_set_up(machine, "claude-code", "claude", "-p", "hi", path=[folder])
    assert not (machine.home / ".claude/settings.json").exists()


def openai_python_answers_from_an_empty_home(machine):
    (machine.work / "client.py").write_text(CLIENT)
    path = [machine.package("python-clients") / "venv/bin"]
    answers(machine, "qwenauth exec -- python client.py", path=path)


TESTS = {
    "setup_opencode": (["opencode"], opencode_answers_once_it_is_set_up),
    "setup_qwen_code": (["qwen-code-0.24.4", "node-22"], qwen_code_answers_once_it_is_set_up),
    "setup_codex": (["codex"], codex_answers_once_it_is_set_up),
    "setup_claude_code": (["claude-code"], claude_code_answers_once_it_is_set_up),
    "openai_python_answers_through_exec_from_an_empty_home": (
        ["python-clients"],
        openai_python_answers_from_an_empty_home,
    ),
}
