"""Real tools beside a gateway, whose credential ends in the middle of their run: none of them sees anything of it."""

import json
import sys
from pathlib import Path

from opencode_tests import OFFLINE, opencode

RELAY = Path(__file__).resolve().parent / "relay.py"

# Two requests by one client.
PYTHON = """
import os
from openai import OpenAI
client, model = OpenAI(max_retries=0), os.environ["OPENAI_MODEL"]
messages = [{"role": "user", "content": "ping"}]
print(client.chat.completions.create(model=model, messages=messages).choices[0].message.content)
stream = client.chat.completions.create(model=model, messages=messages, stream=True)
print("".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))
"""
NODE = """
import OpenAI from 'openai';
const client = new OpenAI({ maxRetries: 0 });
const messages = [{ role: 'user', content: 'ping' }];
for (const _ of [1, 2]) {
  const reply = await client.chat.completions.create({ model: process.env.OPENAI_MODEL, messages });
  console.log(reply.choices[0].message.content);
}
"""
TWICE = '"$@" && "$@"'
ASK = "use a tool, then answer ping"


def run(machine, *command, served=2, **environment):
    """Runs a tool; the provider ends its access token while it answers the first request."""
    machine.login()
    first = machine.credential()["access_token"]
    machine.provider.before_next_answer = machine.provider.expire_access_tokens
    checks = len(machine.provider.of_kind("model"))  # by the login
    statuses = machine.root / "statuses"
    relayed = [sys.executable, RELAY, statuses, *command]
    done = machine.run("qwenauth", "exec", "--gateway", "--model", "coder-model", "--", *relayed, **environment)
    assert "ping" in done.stdout.partition("practice answer to:")[2], f"no answer in {done.stdout!r}\n{done.stderr}"
    seen = [status for status in statuses.read_text().split() if status != "100"]
    assert len(seen) >= served and set(seen) == {"200"}, f"the tool saw {seen}"
    requests = machine.provider.of_kind("model")[checks:]
    refused = [request for request in requests if request.status == 401]
    assert [request.token for request in refused] == [first], "the ended token was not refused just once"
    second = machine.credential()["access_token"]
    assert {request.token for request in requests if request.status == 200} == {first, second}
    machine.assert_refreshed_once_by("qwenauth/")
    return done


def openai_python(machine):
    done = run(machine, machine.package("python-clients") / "venv/bin/python", "-c", PYTHON)
    assert done.stdout.count("practice answer to: ping") == 2, done.stdout


def openai_node(machine):
    script = machine.package("openai-node") / "ask-twice.mjs"  # beside node_modules, where `import` looks
    script.write_text(NODE)
    done = run(machine, machine.package("node-22") / "node_modules/.bin/node", script)
    assert done.stdout.count("practice answer to: ping") == 2, done.stdout


def llm(machine):
    """Its base URL is in a file; the shell writes what it was given there."""
    folder = machine.home / ".config/io.datasette.llm"
    folder.mkdir(parents=True)
    model = {"model_id": "qwen", "model_name": "coder-model", "api_base": "BASE", "api_key_name": "not-stored"}
    template = json.dumps([model])  # JSON is YAML
    script = f"""printf %s '{template}' | sed "s|BASE|$OPENAI_BASE_URL|" >"$1"; shift; {TWICE}"""
    program = machine.package("python-clients") / "venv/bin/llm"
    file = folder / "extra-openai-models.yaml"
    run(machine, "sh", "-c", script, "sh", file, program, "--model", "qwen", "ping")


def aider(machine):
    program = machine.package("aider") / "venv/bin/aider"
    quiet = ["--no-git", "--no-check-update", "--analytics-disable", "--no-show-model-warnings", "--no-pretty"]
    quiet += ["--no-show-release-notes", "--no-gitignore", "--no-detect-urls"]
    ask = ["--model", "openai/coder-model", "--yes-always", "--message", "ping"]
    run(machine, "sh", "-c", TWICE, "sh", program, *quiet, *ask, LITELLM_LOCAL_MODEL_COST_MAP="True")


def opencode_agent(machine):
    run(machine, opencode(machine), "run", "--title", "a title", ASK, **OFFLINE)


def qwen_code(machine):
    settings = machine.home / ".qwen" / "settings.json"
    settings.parent.mkdir(mode=0o700)
    settings.write_text(json.dumps({"privacy": {"usageStatisticsEnabled": False}}))
    node = machine.package("node-22") / "node_modules/.bin"
    program = machine.package("qwen-code-0.24.4") / "node_modules/.bin/qwen"
    run(machine, program, "--auth-type", "openai", "-p", ASK, PATH=f"{node}:{machine.environment()['PATH']}")


def codex(machine):
    folder = machine.package("codex") / "node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin"
    fields = 'name="qwen",env_key="OPENAI_API_KEY",wire_api="responses"'
    provider = f"""'model_providers.qwen={{{fields},base_url="'$OPENAI_BASE_URL'"}}'"""
    script = f'exec "$0" exec --skip-git-repo-check -c model=coder-model -c model_provider=qwen -c {provider} "$1"'
    run(machine, "sh", "-c", script, folder / "codex", ASK, CODEX_HOME=str(machine.work))


TESTS = {
    f"gateway_{name}_sees_nothing_of_a_token_that_ends": (packages, test)
    for name, packages, test in (
        ("openai_python", ["python-clients"], openai_python),
        ("openai_node", ["openai-node", "node-22"], openai_node),
        ("llm", ["python-clients"], llm),
        ("aider", ["aider"], aider),
        ("opencode", ["opencode"], opencode_agent),
        ("qwen_code", ["qwen-code-0.24.4", "node-22"], qwen_code),
        ("codex", ["codex"], codex),
    )
}
