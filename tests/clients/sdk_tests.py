"""Programs that read `OPENAI_*` by themselves and are told nothing else but what a docstring says."""

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


def assert_answers_through_exec(machine, *command, **environment):
    machine.login()
    done = machine.run("qwenauth", "exec", "--", *command, **environment)
    assert "ping" in done.stdout.partition("practice answer to:")[2], f"no answer in {done.stdout!r}"
    requests = machine.provider.of_kind("model")
    assert {request.token for request in requests} == {machine.credential()["access_token"]}, "another key was sent"
    assert {request.status for request in requests} == {200}, "the provider refused a request"


def openai_python_streams_through_exec(machine):
    python = machine.package("python-clients") / "venv/bin/python"
    assert_answers_through_exec(machine, python, "-c", PYTHON_STREAM)


def langchain_answers_through_exec(machine):
    python = machine.package("langchain") / "venv/bin/python"
    assert_answers_through_exec(machine, python, "-c", LANGCHAIN)


# Codex reads no base URL from its environment; the shell gives it what it was given.
CODEX = """exec "$0" exec --skip-git-repo-check -c model=coder-model -c model_provider=qwen \
-c 'model_providers.qwen={name="qwen",env_key="OPENAI_API_KEY",wire_api="responses",base_url="'"$OPENAI_BASE_URL"'"}' "$1"
"""


def codex_program(machine):
    return machine.package("codex") / "node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex"


TESTS = {
    test.__name__: (packages, test)
    for packages, test in (
        (["python-clients"], openai_python_streams_through_exec),
        (["langchain"], langchain_answers_through_exec),
    )
}
