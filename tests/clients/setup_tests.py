"""From an empty home directory: log in, set the tool up, and it answers; `done` runs these and nothing else."""

import re
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from qwen_code_tests import reaching_loopback

OFFLINE = {
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "DISABLE_AUTOUPDATER": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}

# Of the sandbox only its provider is used: what it would keep inside itself is to be in the home directory.
EMPTY_HOME = """
unset CODEX_HOME CLAUDE_CONFIG_DIR OPENCODE_CONFIG_DIR QWEN_HOME QWENAUTH_HOME QWENAUTH_SANDBOX
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


def answers(machine, script, *arguments, path, **more):
    environment = OFFLINE | {"PATH": f"{':'.join(map(str, path))}:{machine.environment()['PATH']}"} | more
    done = machine.run("qwenauth", "sandbox", "--", "sh", "-c", EMPTY_HOME + script, "sh", *arguments, **environment)
    assert re.search(r"You said:.*\bhi\b", done.stdout, re.DOTALL), f"no answer in {done.stdout[-2000:]!r}"
    return done


def answers_once_set_up(machine, tool, *command, path, **more):
    done = answers(machine, SET_UP, tool, *command, path=path, **more)
    assert "is not on `PATH`" not in done.stderr, "`setup` did not find the tool"
    assert "is restored" in done.stderr, done.stderr[-2000:]


class Refusing(BaseHTTPRequestHandler):
    """A proxy that leads nowhere."""

    def do_CONNECT(self):
        self.server.asked_for.append(self.path)
        self.send_error(502)

    def log_message(self, *_):
        pass


def opencode_answers_once_it_is_set_up(machine):
    """At once: where there is a plugin, opencode waits for npm, whose three tries take over a minute."""
    folder = machine.package("opencode") / "node_modules/opencode-linux-x64/bin"
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as proxy:
        proxy.asked_for = []
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{proxy.server_address[1]}"
        answers_once_set_up(machine, "opencode", "opencode", "run", "hi", path=[folder], HTTPS_PROXY=url)
        proxy.shutdown()
    assert len([asked for asked in proxy.asked_for if "npm" in asked]) == 1, proxy.asked_for
    assert not (machine.home / ".config/opencode/opencode.json").read_text().count("qwenauth")


def opencode_session_outlives_its_token(machine):
    """Nothing but the plugin can bring the key of the second request: opencode reads its configuration once."""
    machine.login()
    machine.qwenauth("setup", "opencode")
    first = machine.credential()["access_token"]
    checks = len(machine.provider.of_kind("model"))
    machine.provider.before_next_answer = machine.expire
    folder = machine.package("opencode") / "node_modules/opencode-linux-x64/bin"
    path = f"{folder}:{machine.environment()['PATH']}"
    done = machine.run("opencode", "run", "--title", "a title", "use a tool, then answer ping", PATH=path, **OFFLINE)
    assert "ping" in done.stdout.partition("practice answer to:")[2], f"no answer in {done.stdout!r}"
    requests = machine.provider.of_kind("model")[checks:]
    assert {request.status for request in requests} == {200}, "a key that had ended was sent"
    assert {request.token for request in requests} == {first, machine.credential()["access_token"]}
    machine.assert_refreshed_once_by("qwenauth/")


def qwen_code_answers_once_it_is_set_up(version, machine):
    path = [machine.package(name) / "node_modules/.bin" for name in (f"qwen-code-{version}", "node-22")]
    answers_once_set_up(machine, "qwen-code", "qwen", "-p", "hi", path=path, **reaching_loopback(version))


def codex_answers_once_it_is_set_up(machine):
    folder = machine.package("codex") / "node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin"
    answers_once_set_up(machine, "codex", "codex", "exec", "--skip-git-repo-check", "hi", path=[folder])


def claude_code_answers_once_it_is_set_up(machine):
    folder = machine.package("claude-code") / "node_modules/@anthropic-ai/claude-code-linux-x64"
    answers_once_set_up(machine, "claude-code", "claude", "-p", "hi", path=[folder])
    assert not (machine.home / ".claude/settings.json").exists()


def claude_code_answers_through_exec(machine):
    folder = machine.package("claude-code") / "node_modules/@anthropic-ai/claude-code-linux-x64"
    done = answers(machine, "qwenauth exec -v -- claude -p hi", path=[folder])
    assert "ANTHROPIC_BASE_URL, ANTHROPIC_" in done.stderr, done.stderr[-2000:]


def claude_code_beside_a_gateway(machine):
    """The credential ends between two runs, while the gateway goes on: Claude Code sees nothing of it."""
    machine.login()
    key = machine.home / ".local/share/qwenauth/gateway-key"
    gateway = machine.start("qwenauth", "gateway", "--json", "--listen", "127.0.0.1:0", "--api-key-file", key)
    gateway.wait_for(lambda: gateway.stdout.endswith("\n"), "said its address")
    address = re.search(r"127\.0\.0\.1:\d+", gateway.stdout)[0]
    machine.qwenauth("setup", "claude-code", f"--gateway={address}")
    folder = machine.package("claude-code") / "node_modules/@anthropic-ai/claude-code-linux-x64"
    path = f"{folder}:{machine.environment()['PATH']}"
    first = machine.credential()["access_token"]
    before = len(machine.provider.of_kind("model"))
    # Another service's key in the shell, which would otherwise be sent along.
    foreign = {"ANTHROPIC_API_KEY": "sk-foreign", "ANTHROPIC_AUTH_TOKEN": "sk-foreign", "ANTHROPIC_MODEL": "foreign"}
    for _ in range(2):
        done = machine.run("claude", "-p", "ping", PATH=path, **foreign, **OFFLINE)
        assert "practice answer to: " in done.stdout and "ping" in done.stdout, f"no answer in {done.stdout!r}"
        machine.provider.expire_access_tokens()
    requests = machine.provider.of_kind("model")[before:]
    assert "sk-foreign" not in str([request.headers for request in requests]), "a foreign key was sent"
    ways = [dict((name.lower(), value) for name, value in request.headers.items()).get("via") for request in requests]
    assert set(ways) == {"1.1 qwenauth"}, "past the gateway"
    answered = [request.token for request in requests if request.status == 200]
    assert len(set(answered)) == 2 and answered[0] == first, "the credential was not renewed"


def openai_python_answers_from_an_empty_home(machine):
    (machine.work / "client.py").write_text(CLIENT)
    path = [machine.package("python-clients") / "venv/bin"]
    answers(machine, "qwenauth exec -- python client.py", path=path)


TESTS = {
    "setup_opencode": (["opencode"], opencode_answers_once_it_is_set_up),
    "setup_opencode_outlives_its_token": (["opencode"], opencode_session_outlives_its_token),
    **{
        f"setup_qwen_code_{version}": (
            [f"qwen-code-{version}", "node-22"],
            partial(qwen_code_answers_once_it_is_set_up, version),
        )
        for version in ("0.12.0", "0.24.4")
    },
    "setup_codex": (["codex"], codex_answers_once_it_is_set_up),
    "setup_claude_code": (["claude-code"], claude_code_answers_once_it_is_set_up),
    "claude_code_answers_through_exec": (["claude-code"], claude_code_answers_through_exec),
    "setup_claude_code_beside_a_gateway": (["claude-code"], claude_code_beside_a_gateway),
    "openai_python_answers_through_exec_from_an_empty_home": (
        ["python-clients"],
        openai_python_answers_from_an_empty_home,
    ),
}
