"""From an empty home directory: log in, set the tool up, and the tool answers; then as before once it is removed."""

OFFLINE = {
    # Where there is a plugin, opencode first looks for its library in the npm registry, minutes long if it is not there.
    "npm_config_fetch_retries": "0",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "DISABLE_AUTOUPDATER": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}

# The sandbox keeps tools' files inside it; here they are to be in the home directory, which is the machine's own.
SCRIPT = """
unset CODEX_HOME CLAUDE_CONFIG_DIR OPENCODE_CONFIG_DIR
tool=$1; shift
qwenauth login --no-browser && qwenauth setup "$tool" && "$@" || exit
qwenauth setup "$tool" --remove
"""


def answers(machine, tool, *command, path=""):
    environment = dict(OFFLINE)
    if path:
        environment["PATH"] = f"{path}:{machine.environment()['PATH']}"
    done = machine.run("qwenauth", "sandbox", "--", "sh", "-c", SCRIPT, "sh", tool, *command, **environment)
    assert "You said:" in done.stdout and "ping" in done.stdout, f"no answer in {done.stdout[-2000:]!r}"
    assert "is as it was before" in done.stderr, done.stderr[-2000:]


def opencode_answers_once_it_is_set_up(machine):
    program = machine.package("opencode") / "node_modules/opencode-linux-x64/bin/opencode"
    answers(machine, "opencode", program, "run", "ping")
    assert not (machine.home / ".config/opencode/opencode.json").read_text().count("qwenauth")


def qwen_code_answers_once_it_is_set_up(machine):
    program = machine.package("qwen-code-0.24.4") / "node_modules/.bin/qwen"
    answers(machine, "qwen-code", program, "-p", "ping", path=machine.package("node-22") / "node_modules/.bin")


def codex_answers_once_it_is_set_up(machine):
    folder = machine.package("codex") / "node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin"
    answers(machine, "codex", folder / "codex", "exec", "--skip-git-repo-check", "ping")


def claude_code_answers_once_it_is_set_up(machine):
    program = machine.package("claude-code") / "node_modules/@anthropic-ai/claude-code-linux-x64/claude"
    answers(machine, "claude-code", program, "-p", "ping")
    assert not (machine.home / ".claude/settings.json").exists()


TESTS = {
    "setup_opencode": (["opencode"], opencode_answers_once_it_is_set_up),
    "setup_qwen_code": (["qwen-code-0.24.4", "node-22"], qwen_code_answers_once_it_is_set_up),
    "setup_codex": (["codex"], codex_answers_once_it_is_set_up),
    "setup_claude_code": (["claude-code"], claude_code_answers_once_it_is_set_up),
}
