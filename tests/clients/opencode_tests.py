"""opencode reads key and base URL from the environment that `qwenauth exec` gives it."""

import json

MODEL = "qwen/coder-model"
CONFIG = {
    "$schema": "https://opencode.ai/config.json",
    "autoupdate": False,
    "share": "disabled",
    "model": MODEL,
    "small_model": MODEL,
    "provider": {
        "qwen": {
            "npm": "@ai-sdk/openai-compatible",
            "name": "Qwen",
            "options": {"baseURL": "{env:OPENAI_BASE_URL}", "apiKey": "{env:OPENAI_API_KEY}"},
            "models": {"coder-model": {"name": "Qwen Coder"}},
        }
    },
}
OFFLINE = {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"}


def opencode(machine):
    (machine.work / "opencode.json").write_text(json.dumps(CONFIG))
    return machine.package("opencode") / "node_modules/opencode-linux-x64/bin/opencode"


def opencode_answers_through_exec(machine):
    machine.login()
    done = machine.run("qwenauth", "exec", "--", opencode(machine), "run", "ping", **OFFLINE)
    assert "ping" in done.stdout.partition("practice answer to:")[2], f"no answer in {done.stdout!r}"
    bearers = {request.token for request in machine.provider.of_kind("model")}
    assert bearers == {machine.credential()["access_token"]}, "opencode sent another key"


def opencode_gets_a_renewed_token_from_exec(machine):
    machine.login()
    machine.expire()
    machine.run("qwenauth", "exec", "--", opencode(machine), "run", "ping", **OFFLINE)
    machine.assert_refreshed_once_by("qwenauth/")


def opencode_answers_in_the_sandbox(machine):
    script = 'qwenauth login --no-browser && exec qwenauth exec -- "$0" run ping'
    done = machine.run("qwenauth", "sandbox", "--", "sh", "-c", script, opencode(machine), **OFFLINE)
    assert "You said: ping" in done.stdout, f"no answer in {done.stdout!r}"
    assert not machine.credential_file.exists(), "the sandbox wrote into the home directory"


TESTS = {
    test.__name__: (["opencode"], test)
    for test in (
        opencode_answers_through_exec,
        opencode_gets_a_renewed_token_from_exec,
        opencode_answers_in_the_sandbox,
    )
}
