"""Real tools beside a gateway, whose credential ends in the middle of their run: none of them sees anything of it.

It ends in two ways: the provider refuses the token before its time, which the gateway learns from a 401; or its date in
the file passes, which the gateway sees by itself, so that the provider has nothing to refuse.
"""

import json
import sys
from functools import partial
from pathlib import Path

from opencode_tests import OFFLINE, opencode
from qwen_code_tests import reaching_loopback
from sdk_tests import CODEX, codex_program
from setup_tests import OFFLINE as QUIET

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
LANGCHAIN = """
import os
from langchain_openai import ChatOpenAI
chat = ChatOpenAI(model=os.environ["OPENAI_MODEL"], max_retries=0)
print(chat.invoke("ping").text)
print("".join(chunk.text for chunk in chat.stream("ping")))
"""
TWICE = '"$@" && "$@"'
ASK = "use a tool, then answer ping"


def run(machine, ending, *command, known_as=(), **environment):
    """Runs a tool; its access token ends while the provider answers the first request."""
    machine.login()
    first = machine.credential()["access_token"]
    machine.provider.before_next_answer = {
        "refused": machine.provider.expire_access_tokens,
        "expired": machine.expire,
    }[ending]
    checks = len(machine.provider.of_kind("model"))  # by the login
    statuses = machine.root / "statuses"
    relayed = [sys.executable, RELAY, statuses, *command]
    options = ["--gateway", "--model", "coder-model", *known_as]
    done = machine.run("qwenauth", "exec", *options, "--", *relayed, **environment)
    assert "ping" in done.stdout.partition("practice answer to:")[2], f"no answer in {done.stdout!r}\n{done.stderr}"
    seen = [status for status in statuses.read_text().split() if status != "100"]
    assert len(seen) >= 2 and set(seen) == {"200"}, f"the tool saw {seen}"
    requests = machine.provider.of_kind("model")[checks:]
    refused = [request for request in requests if request.status != 200]
    expected = [(401, first)] if ending == "refused" else []
    assert [(request.status, request.token) for request in refused] == expected, f"the provider refused {refused}"
    second = machine.credential()["access_token"]
    assert {request.token for request in requests if request.status == 200} == {first, second}
    machine.assert_refreshed_once_by("qwenauth/")
    return done


def openai_python(machine, ending):
    done = run(machine, ending, machine.package("python-clients") / "venv/bin/python", "-c", PYTHON)
    assert done.stdout.count("practice answer to: ping") == 2, done.stdout


def openai_node(machine, ending):
    (machine.work / "node_modules").symlink_to(machine.package("openai-node") / "node_modules")
    script = machine.work / "ask-twice.mjs"
    script.write_text(NODE)
    done = run(machine, ending, machine.package("node-22") / "node_modules/.bin/node", script)
    assert done.stdout.count("practice answer to: ping") == 2, done.stdout


def llm(machine, ending):
    """Its base URL is in a file; the shell writes what it was given there."""
    folder = machine.home / ".config/io.datasette.llm"
    folder.mkdir(parents=True)
    model = {"model_id": "qwen", "model_name": "coder-model", "api_base": "BASE", "api_key_name": "not-stored"}
    template = json.dumps([model])  # JSON is YAML
    script = f"""printf %s '{template}' | sed "s|BASE|$OPENAI_BASE_URL|" >"$1"; shift; {TWICE}"""
    program = machine.package("python-clients") / "venv/bin/llm"
    file = folder / "extra-openai-models.yaml"
    run(machine, ending, "sh", "-c", script, "sh", file, program, "--model", "qwen", "ping")


def aider(machine, ending):
    program = machine.package("aider") / "venv/bin/aider"
    quiet = ["--no-git", "--no-check-update", "--analytics-disable", "--no-show-model-warnings", "--no-pretty"]
    quiet += ["--no-show-release-notes", "--no-gitignore", "--no-detect-urls"]
    ask = ["--model", "openai/coder-model", "--yes-always", "--message", "ping"]
    run(machine, ending, "sh", "-c", TWICE, "sh", program, *quiet, *ask, LITELLM_LOCAL_MODEL_COST_MAP="True")


def opencode_agent(machine, ending):
    ask = [opencode(machine), "run", "--title", "a title", ASK]
    run(machine, ending, *ask, known_as=["--as", "opencode"], **OFFLINE)


def langchain(machine, ending):
    done = run(machine, ending, machine.package("langchain") / "venv/bin/python", "-c", LANGCHAIN)
    assert done.stdout.count("practice answer to: ping") == 2, done.stdout


def qwen_code(version, machine, ending):
    settings = machine.home / ".qwen" / "settings.json"
    settings.parent.mkdir(mode=0o700)
    settings.write_text(json.dumps({"privacy": {"usageStatisticsEnabled": False}}))
    node = machine.package("node-22") / "node_modules/.bin"
    program = machine.package(f"qwen-code-{version}") / "node_modules/.bin/qwen"
    environment = {"PATH": f"{node}:{machine.environment()['PATH']}"} | reaching_loopback(version)
    run(machine, ending, program, "--auth-type", "openai", "-p", ASK, **environment)


def codex(machine, ending):
    run(machine, ending, "sh", "-c", CODEX, codex_program(machine), ASK, CODEX_HOME=str(machine.work))


def claude_code(machine, ending):
    """Two runs of Claude Code beside one gateway; it speaks Anthropic's protocol, which the relay does not."""
    machine.login()
    first = machine.credential()["access_token"]
    machine.provider.before_next_answer = {
        "refused": machine.provider.expire_access_tokens,
        "expired": machine.expire,
    }[ending]
    checks = len(machine.provider.of_kind("model"))  # by the login
    program = machine.package("claude-code") / "node_modules/@anthropic-ai/claude-code-linux-x64/claude"
    twice = machine.work / "claude"
    twice.write_text(f"#!/bin/sh\n'{program}' \"$@\" && '{program}' \"$@\"\n")
    twice.chmod(0o755)
    done = machine.run("qwenauth", "exec", "--gateway", "--model", "coder-model", "--", twice, "-p", "ping", **QUIET)
    assert done.stdout.count("practice answer to: ") == 2, f"no two answers in {done.stdout!r}\n{done.stderr}"
    requests = machine.provider.of_kind("model")[checks:]
    ways = [dict((name.lower(), value) for name, value in request.headers.items()).get("via") for request in requests]
    assert set(ways) == {"1.1 qwenauth"}, "past the gateway"
    second = machine.credential()["access_token"]
    assert {request.token for request in requests if request.status == 200} == {first, second}
    machine.assert_refreshed_once_by("qwenauth/")


TESTS = {
    f"gateway_{name}_sees_nothing_of_a_token_that_{'is' if ending == 'refused' else 'has'}_{ending}": (
        packages,
        partial(test, ending=ending),
    )
    for name, packages, test in (
        ("openai_python", ["python-clients"], openai_python),
        ("openai_node", ["openai-node", "node-22"], openai_node),
        ("langchain", ["langchain"], langchain),
        ("llm", ["python-clients"], llm),
        ("aider", ["aider"], aider),
        ("opencode", ["opencode"], opencode_agent),
        ("qwen_code_0.12.0", ["qwen-code-0.12.0", "node-22"], partial(qwen_code, "0.12.0")),
        ("qwen_code_0.24.4", ["qwen-code-0.24.4", "node-22"], partial(qwen_code, "0.24.4")),
        ("codex", ["codex"], codex),
        ("claude_code", ["claude-code"], claude_code),
    )
    for ending in ("refused", "expired")
}
