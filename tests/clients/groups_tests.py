"""Host, key and model are one group: no program sends the profile's key to another host, or another key to the profile's.

The user's own files, a repository's files and the environment name a foreign host, which answers 200, and foreign keys;
an earlier `setup` leads to the provider directly. Under `exec` the program still asks the profile's host alone.
"""

import json
from functools import partial

from exec_tests import PROGRAMS, Run

FOREIGN_KEY = "sk-foreign-key-of-another-service"


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


def foreign_environment(run):
    """As someone exports it who uses another service."""
    host = run.foreign.url
    return {
        "OPENAI_API_KEY": FOREIGN_KEY,
        "OPENAI_BASE_URL": f"{host}/v1",
        "OPENAI_API_BASE": f"{host}/v1",
        "OPENAI_MODEL": "foreign-model",
        "OPENAI_CUSTOM_HEADERS": f"Authorization: Bearer {FOREIGN_KEY}",
        "OPENAI_PROJECT_ID": "foreign",
        "USE_LITELLM_PROXY": "true",
        "LITELLM_PROXY_API_BASE": f"{host}/v1",
        "LITELLM_PROXY_API_KEY": FOREIGN_KEY,
        "ANTHROPIC_API_KEY": FOREIGN_KEY,
        "ANTHROPIC_AUTH_TOKEN": FOREIGN_KEY,
        "ANTHROPIC_BASE_URL": host,
        "ANTHROPIC_MODEL": "foreign-model",
        # Of the services that Claude Code can use, one each here and in its files.
        "CLAUDE_CODE_USE_ANTHROPIC_AWS": "1",
        "ANTHROPIC_AWS_API_KEY": FOREIGN_KEY,
        "ANTHROPIC_AWS_BASE_URL": host,
        "ANTHROPIC_AWS_WORKSPACE_ID": "foreign",
    }


def dotenv(run):
    names = ["OPENAI_API_KEY", "AIDER_OPENAI_API_KEY"]
    lines = [f"{name}={FOREIGN_KEY}" for name in names]
    lines += [f"{name}={run.foreign.base_url}" for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "AIDER_OPENAI_API_BASE")]
    return "\n".join([*lines, "OPENAI_MODEL=foreign-model", "AIDER_MODEL=openai/foreign-model", ""])


def litellm_proxy(run):
    return f"USE_LITELLM_PROXY=true\nLITELLM_PROXY_API_BASE={run.foreign.base_url}\nLITELLM_PROXY_API_KEY={FOREIGN_KEY}\n"


def opencode(run, home, work):
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": run.foreign.base_url, "apiKey": FOREIGN_KEY},
        "models": {"foreign-model": {}},
    }
    openai = {"options": {"baseURL": run.foreign.base_url}}
    providers = {"qwenauth": provider, "foreign": provider, "openai": openai}
    config = {"provider": providers, "model": "foreign/foreign-model", "small_model": "openai/gpt-5"}
    config["agent"] = {name: {"model": "foreign/foreign-model"} for name in ("build", "plan", "title")}
    write(home / ".config/opencode/opencode.json", config)
    write(work / "opencode.json", config | {"enabled_providers": ["foreign", "openai"]})
    keys = {name: {"type": "api", "key": FOREIGN_KEY} for name in ("openai", "qwenauth")}
    write(home / ".local/share/opencode/auth.json", keys)


def qwen_code(run, home, work):
    entry = {"id": run.model, "name": "f", "baseUrl": run.foreign.base_url, "envKey": "OPENAI_API_KEY"}
    settings = {
        "modelProviders": {"openai": [entry]},
        "security": {"auth": {"selectedType": "openai", "apiKey": FOREIGN_KEY, "baseUrl": run.foreign.base_url}},
        "model": {"name": "foreign-model"},
        "env": {"OPENAI_API_KEY": FOREIGN_KEY, "OPENAI_BASE_URL": run.foreign.base_url},
    }
    write(home / ".qwen/settings.json", settings)
    write(work / ".qwen/settings.json", settings)
    write(work / ".env", dotenv(run))


def codex(run, home, work):
    provider = f'name = "f"\nbase_url = "{run.foreign.base_url}"\nenv_key = "OPENAI_API_KEY"\nwire_api = "responses"\n'
    text = f'model = "foreign-model"\nmodel_provider = "f"\n[model_providers.f]\n{provider}[model_providers.qwenauth]\n{provider}'
    write(home / ".codex/config.toml", text)
    write(work / ".codex/config.toml", text)
    write(home / ".codex/auth.json", {"OPENAI_API_KEY": FOREIGN_KEY})
    # Loaded over the environment.
    write(home / ".codex/.env", f"OPENAI_API_KEY={FOREIGN_KEY}\nCODEX_API_KEY={FOREIGN_KEY}\n")


def claude_code(run, home, work):
    variables = {
        "ANTHROPIC_BASE_URL": run.foreign.url,
        "ANTHROPIC_AUTH_TOKEN": FOREIGN_KEY,
        "ANTHROPIC_API_KEY": FOREIGN_KEY,
        "ANTHROPIC_CUSTOM_HEADERS": f"api-key: {FOREIGN_KEY}",
        "ANTHROPIC_MODEL": "foreign-model",
        "ANTHROPIC_DEFAULT_SONNET_MODEL": "foreign-model",
        "CLAUDE_CODE_USE_MANTLE": "1",
        "CLAUDE_CODE_SKIP_MANTLE_AUTH": "1",
        "ANTHROPIC_BEDROCK_MANTLE_BASE_URL": run.foreign.url,
        "AWS_REGION": "us-east-1",
    }
    settings = {"env": variables, "apiKeyHelper": f"echo {FOREIGN_KEY}", "model": "opus"}
    write(home / ".claude/settings.json", settings)
    write(work / ".claude/settings.json", settings)
    write(work / ".claude/settings.local.json", settings)


def aider(run, home, work):
    write(home / ".env", dotenv(run))
    write(work / ".env", dotenv(run) + litellm_proxy(run) + "AIDER_MODEL_SETTINGS_FILE=ms.yml\n")
    write(work / "ms.yml", f"- name: openai/{run.model}\n  extra_params: {{api_base: {run.foreign.base_url}}}\n")
    settings = f"model-settings-file: ms.yml\nset-env:\n  - OPENAI_BASE_URL={run.foreign.base_url}\napi-key:\n  - openai={FOREIGN_KEY}\n"
    write(work / ".aider.conf.yml", settings + "model: openai/foreign-model\nweak-model: openai/foreign-model\n")


def llm(run, home, work):
    models = [{"model_id": f"qwenauth/{run.model}", "model_name": "foreign-model", "api_base": run.foreign.base_url}]
    folder = home / ".config/io.datasette.llm"
    write(folder / "extra-openai-models.yaml", models)
    write(folder / "keys.json", {"openai": FOREIGN_KEY})
    write(folder / "default_model.txt", f"qwenauth/{run.model}")


def continue_cli(run, home, work):
    model = f"{{name: f, provider: openai, model: foreign-model, apiBase: '{run.foreign.base_url}', apiKey: {FOREIGN_KEY}}}"
    write(home / ".continue/config.yaml", f"name: f\nversion: 0.0.1\nschema: v1\nmodels:\n  - {model}\n")
    write(home / ".continue/.env", dotenv(run) + f"QWENAUTH_ACCESS_TOKEN={FOREIGN_KEY}\n")
    write(work / ".env", dotenv(run) + f"QWENAUTH_ACCESS_TOKEN={FOREIGN_KEY}\n")


def cline(run, home, work):
    settings = {"provider": "openai-compatible", "model": "foreign-model", "baseUrl": run.foreign.base_url, "apiKey": FOREIGN_KEY}
    entry = {"settings": settings, "updatedAt": "2026-01-01T00:00:00.000Z", "tokenSource": "manual"}
    providers = {"version": 1, "lastUsedProvider": "openai-compatible", "modes": {}, "providers": {"openai-compatible": entry}}
    write(home / ".cline/data/settings/providers.json", providers)


def pi(run, home, work):
    provider = {"baseUrl": run.foreign.base_url, "apiKey": FOREIGN_KEY, "api": "openai-completions", "models": [{"id": run.model}]}
    write(home / ".pi/agent/models.json", {"providers": {"qwenauth": provider, "foreign": provider}})
    write(home / ".pi/agent/settings.json", {"defaultProvider": "foreign", "defaultModel": run.model})
    write(home / ".pi/agent/auth.json", {"qwenauth": {"type": "api_key", "key": FOREIGN_KEY}})


def nothing(run, home, work):
    """A library has no files."""


FILES = {
    "opencode": opencode,
    "qwen_code": qwen_code,
    "codex": codex,
    "claude_code": claude_code,
    "aider": aider,
    "llm": llm,
    "continue": continue_cli,
    "cline": cline,
    "pi": pi,
    "openai_python": nothing,
    "openai_node": nothing,
}


def asks_the_profiles_host_alone(name, by_gateway, machine):
    run = Run(machine, "dashscope", PROGRAMS[name])
    FILES[name](run, machine.home, machine.work)
    process = run.start(*["--gateway"] * by_gateway, **foreign_environment(run))
    run.assert_answered(process, by_gateway)
    assert "replaced for" in process.stderr, process.stderr


def goes_through_the_gateway_after_a_set_up(name, profile, machine):
    run = Run(machine, profile, PROGRAMS[name])
    machine.run("qwenauth", "setup", run.program.tool, **run.environment())
    run.assert_answered(run.start("--gateway"), by_gateway=True)


def aider_is_refused_by_what_it_would_prefer(machine):
    """The line of the error was tried: with the option the program starts, and then the foreign host is asked."""
    run = Run(machine, "dashscope", PROGRAMS["aider"])
    extra = f"- name: openai/{run.model}\n  extra_params: {{api_base: {run.foreign.base_url}}}\n"
    write(machine.work / ".aider.model.settings.yml", extra)
    process = run.start()
    assert process.wait() == 1, process.stderr
    assert ".aider.model.settings.yml" in process.stderr and "api_base" in process.stderr, process.stderr
    assert not run.asked() and not run.foreign.requests()
    process = run.start("--allow-env-file")
    process.wait()
    assert "warning: " in process.stderr, process.stderr
    assert run.foreign.requests(), "the file does not win: it need not be refused"


TESTS = {
    f"{name}_exec_sends_no_key_astray": (PROGRAMS[name].packages, partial(asks_the_profiles_host_alone, name, False))
    for name in FILES
} | {
    f"gateway_{name}_exec_after_its_set_up": (
        PROGRAMS[name].packages,
        partial(goes_through_the_gateway_after_a_set_up, name, profile),
    )
    for name, profile in (
        ("opencode", "qwen"),
        ("qwen_code", "qwen"),
        ("codex", "dashscope"),
        ("claude_code", "dashscope"),
    )
} | {"aider_exec_refused_by_its_own_file": (["aider"], aider_is_refused_by_what_it_would_prefer)}
LONG = {
    f"gateway_{name}_exec_sends_no_key_astray": (
        PROGRAMS[name].packages,
        partial(asks_the_profiles_host_alone, name, True),
    )
    for name in FILES
} | {
    "gateway_qwen_code_exec_after_its_set_up_with_a_key": (
        PROGRAMS["qwen_code"].packages,
        partial(goes_through_the_gateway_after_a_set_up, "qwen_code", "dashscope"),
    )
}
