"""Programs that read `OPENAI_*` by themselves and are told nothing else but what a docstring says."""

import json
from functools import partial

from qwen_code_tests import reaching_loopback

PYTHON = """
from openai import OpenAI
reply = OpenAI().chat.completions.create(model="coder-model", messages=[{"role": "user", "content": "ping"}])
print(reply.choices[0].message.content)
"""
PYTHON_STREAM = """
import os
from openai import OpenAI
stream = OpenAI().chat.completions.create(
    model=os.environ["OPENAI_MODEL"], messages=[{"role": "user", "content": "ping"}], stream=True
)
print("".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))
"""
LANGCHAIN = """
import os
from langchain_openai import ChatOpenAI
chat = ChatOpenAI(model=os.environ["OPENAI_MODEL"])
print("".join(chunk.text for chunk in chat.stream("ping")))
"""
NODE = """
import OpenAI from 'openai';
const messages = [{ role: 'user', content: 'ping' }];
const reply = await new OpenAI().chat.completions.create({ model: process.env.OPENAI_MODEL, messages });
console.log(reply.choices[0].message.content);
"""


def assert_answers_through_exec(machine, *command, **environment):
    machine.login()
    done = machine.run("qwenauth", "exec", "--", *command, **environment)
    assert "ping" in done.stdout.partition("practice answer to:")[2], f"no answer in {done.stdout!r}"
    requests = machine.provider.of_kind("model")
    assert {request.token for request in requests} == {machine.credential()["access_token"]}, "another key was sent"
    assert {request.status for request in requests} == {200}, "the provider refused a request"


def openai_python_answers_through_exec(machine):
    python = machine.package("python-clients") / "venv/bin/python"
    assert_answers_through_exec(machine, python, "-c", PYTHON)


def openai_python_streams_through_exec(machine):
    python = machine.package("python-clients") / "venv/bin/python"
    assert_answers_through_exec(machine, python, "-c", PYTHON_STREAM)


def openai_node_answers_through_exec(machine):
    node = machine.package("node-22") / "node_modules/.bin/node"
    script = machine.package("openai-node") / "ask.mjs"  # beside node_modules, where `import` looks
    script.write_text(NODE)
    assert_answers_through_exec(machine, node, script)


def langchain_answers_through_exec(machine):
    python = machine.package("langchain") / "venv/bin/python"
    assert_answers_through_exec(machine, python, "-c", LANGCHAIN)


def llm_answers_through_exec(machine):
    """`llm` knows no base URL variable; for a key name that it has not stored it takes `OPENAI_API_KEY`."""
    llm = machine.package("python-clients") / "venv/bin/llm"
    folder = machine.home / ".config/io.datasette.llm"
    folder.mkdir(parents=True)
    base_url = f"{machine.provider.url}/v1"
    model = {"model_id": "qwen", "model_name": "coder-model", "api_base": base_url, "api_key_name": "not-stored"}
    (folder / "extra-openai-models.yaml").write_text(json.dumps([model]))  # JSON is YAML
    assert_answers_through_exec(machine, llm, "--model", "qwen", "ping")


def aider_answers_through_exec(machine):
    aider = machine.package("aider") / "venv/bin/aider"
    quiet = ["--no-git", "--no-check-update", "--analytics-disable", "--no-show-model-warnings", "--no-pretty"]
    quiet += ["--no-show-release-notes", "--no-gitignore", "--no-detect-urls"]
    ask = ["--model", "openai/coder-model", "--yes-always", "--message", "ping"]
    assert_answers_through_exec(machine, aider, *quiet, *ask, LITELLM_LOCAL_MODEL_COST_MAP="True")


def qwen_code_answers_through_exec(version, machine):
    """It takes the three variables once `--auth-type` says so."""
    node = machine.package("node-22") / "node_modules/.bin"
    program = machine.package(f"qwen-code-{version}") / "node_modules/.bin/qwen"
    environment = {"PATH": f"{node}:{machine.environment()['PATH']}"} | reaching_loopback(version)
    assert_answers_through_exec(machine, program, "--auth-type", "openai", "-p", "ping", **environment)


# Codex reads no base URL from its environment; the shell gives it what it was given.
CODEX = """exec "$0" exec --skip-git-repo-check -c model=coder-model -c model_provider=qwen \
-c 'model_providers.qwen={name="qwen",env_key="OPENAI_API_KEY",wire_api="responses",base_url="'"$OPENAI_BASE_URL"'"}' "$1"
"""


def codex_program(machine):
    return machine.package("codex") / "node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex"


def codex_answers_through_exec(machine):
    """Told by `-c` which of the variables is which."""
    assert_answers_through_exec(machine, "sh", "-c", CODEX, codex_program(machine), "ping")


TESTS = {
    f"qwen_code_{version}_answers_through_exec": (
        [f"qwen-code-{version}", "node-22"],
        partial(qwen_code_answers_through_exec, version),
    )
    for version in ("0.12.0", "0.24.4")
} | {
    test.__name__: (packages, test)
    for packages, test in (
        (["python-clients"], openai_python_answers_through_exec),
        (["python-clients"], openai_python_streams_through_exec),
        (["openai-node", "node-22"], openai_node_answers_through_exec),
        (["langchain"], langchain_answers_through_exec),
        (["python-clients"], llm_answers_through_exec),
        (["aider"], aider_answers_through_exec),
        (["codex"], codex_answers_through_exec),
    )
}
