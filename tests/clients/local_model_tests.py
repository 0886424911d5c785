"""A model server nobody here wrote, llama.cpp's own, and a client that is told nothing but `OPENAI_*`."""

import json

KEY = "key-of-the-local-server"

ASK = """
from openai import OpenAI
reply = OpenAI().chat.completions.create(
    model=__import__("os").environ["OPENAI_MODEL"], max_tokens=4, messages=[{"role": "user", "content": "hi"}]
)
print(reply.model, reply.usage.completion_tokens)
"""


def serve(machine):
    folder = machine.package("llama-server")
    server = machine.start(folder / "venv/bin/python", folder / "serve.py", machine.root / "tiny.gguf", KEY)
    server.wait_for(lambda: "/v1\n" in server.stdout, "accepted")
    return server.stdout.strip()


def log_in(machine, base_url, key):
    script = f'printf %s "$KEY" | qwenauth login custom --base-url {base_url} --api-key-stdin'
    return machine.start("sh", "-c", script, KEY=key)


def local_model_answers_through_login_custom_and_exec(machine):
    base_url = serve(machine)
    said = log_in(machine, base_url, KEY).succeed().stderr
    assert "using model `tiny`, the only one that the server lists" in said and "logged in to" in said, said
    python = machine.package("python-clients") / "venv/bin/python"
    done = machine.run("qwenauth", "exec", "--", python, "-c", ASK)
    assert done.stdout.split() == ["tiny", "4"], done.stdout
    status = json.loads(machine.qwenauth("status", "--check", "--json").stdout)["profiles"][0]
    assert status["kind"] == "api_key" and status["checked"] == "accepted", status


def local_model_refuses_a_wrong_key_and_nothing_is_stored(machine):
    base_url = serve(machine)
    refused = log_in(machine, base_url, "another-key")
    assert refused.wait() == 4, refused.stderr
    assert "nothing was stored" in refused.stderr and "another-key" not in refused.stderr, refused.stderr
    assert not (machine.home / ".local/share/qwenauth/credentials/custom.json").exists()


TESTS = {
    function.__name__: (["llama-server", "python-clients"], function)
    for function in (
        local_model_answers_through_login_custom_and_exec,
        local_model_refuses_a_wrong_key_and_nothing_is_stored,
    )
}
