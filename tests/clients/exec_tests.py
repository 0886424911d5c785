"""From an empty home directory, with a login and nothing set up, `qwenauth exec -- PROGRAM` runs the profile's model.

Each program is the installed one. It gets no argument that names a model or a provider, none of its variables and none
of its files. Every request that it sends is read at two hosts: the profile's, which is as strict as the real one, and a
foreign one, which answers 200.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from qwen_code_tests import reaching_loopback
from strict import SERVICES, Listener

KEYS = {"dashscope": "sk-" + "d" * 32, "openrouter": "sk-or-v1-" + "0" * 64, "custom": "sk-custom-own-account-key"}
PROFILES = ("qwen", *KEYS)
VIA = "1.1 qwenauth"

OPENAI_PYTHON = """
import os
from openai import OpenAI
messages = [{"role": "user", "content": "ping"}]
reply = OpenAI().chat.completions.create(model=os.environ["OPENAI_MODEL"], messages=messages)
print(reply.choices[0].message.content)
"""
OPENAI_NODE = """
import OpenAI from 'openai';
const messages = [{ role: 'user', content: 'ping' }];
const reply = await new OpenAI().chat.completions.create({ model: process.env.OPENAI_MODEL, messages });
console.log(reply.choices[0].message.content);
"""
AIDER = """--no-git --no-check-update --analytics-disable --no-show-model-warnings --no-pretty --no-show-release-notes
--no-gitignore --no-detect-urls --yes-always --message ping"""


@dataclass(frozen=True)
class Program:
    """How a program is asked one question, and which API it speaks."""

    packages: tuple
    folders: tuple  # put on PATH, each a package and a path in it
    command: tuple
    protocol: str = "chat"
    tool: str | None = None  # its name for `setup`
    environment: dict = field(default_factory=dict)


def node_program(package, *command, **more):
    folders = ((package, "node_modules/.bin"), ("node-22", "node_modules/.bin"))
    return Program((package, "node-22"), folders, command, **more)


PROGRAMS = {
    "opencode": Program(
        ("opencode",),
        (("opencode", "node_modules/opencode-linux-x64/bin"),),
        ("opencode", "run", "ping"),
        tool="opencode",
    ),
    "qwen_code": node_program("qwen-code-0.24.4", "qwen", "-p", "ping", tool="qwen-code"),
    "qwen_code_0.12.0": node_program(
        "qwen-code-0.12.0", "qwen", "-p", "ping", environment=reaching_loopback("0.12.0")
    ),
    "codex": Program(
        ("codex",),
        (("codex", "node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin"),),
        ("codex", "exec", "--skip-git-repo-check", "ping"),
        protocol="responses",
        tool="codex",
    ),
    "claude_code": Program(
        ("claude-code",),
        (("claude-code", "node_modules/@anthropic-ai/claude-code-linux-x64"),),
        ("claude", "-p", "ping"),
        protocol="anthropic",
        tool="claude-code",
    ),
    "aider": Program(
        ("aider",),
        (("aider", "venv/bin"),),
        ("aider", *AIDER.split()),
        tool="aider",
        # Its dependency litellm fetches prices at every start and waits for them.
        environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    ),
    "llm": Program(("python-clients",), (("python-clients", "venv/bin"),), ("llm", "ping"), tool="llm"),
    "continue": node_program("continue", "cn", "-p", "ping", tool="continue"),
    "cline": Program(
        ("cline",),
        (("cline", "node_modules/@cline/cli-linux-x64/bin"),),
        ("cline", "answer ping"),
        tool="cline",
    ),
    "pi": node_program("pi", "pi", "-p", "ping"),
    "openai_python": Program(
        ("python-clients",), (("python-clients", "venv/bin"),), ("python", "-c", OPENAI_PYTHON)
    ),
    "openai_node": node_program("openai-node", "node", "ask-once.mjs"),
}


class Run:
    """One profile at its own strict host, a foreign host beside it, and what a program did there."""

    def __init__(self, machine, profile, program):
        self.machine, self.profile, self.program = machine, profile, program
        self.service = SERVICES[profile]
        self.own = Listener(self.service, self.is_own_key)
        self.foreign = Listener()
        machine.at_end(self.own.close)
        machine.at_end(self.foreign.close)
        self.model = self.service.models[0]
        self.keys = set()  # every key that the account had
        self.log_in()

    def is_own_key(self, key):
        return key == KEYS[self.profile] if self.profile in KEYS else self.machine.provider.knows(key)

    def log_in(self):
        if self.profile in KEYS:
            place = ["--base-url", self.own.base_url]
            model = ["--model", self.model] if self.profile == "custom" else []
            command = ["login", self.profile, "--api-key-env", "KEY", *place, *model]
            self.machine.run("qwenauth", *command, KEY=KEYS[self.profile])
        else:
            self.machine.provider.api_url = self.own.url
            self.machine.login()
        self.before = len(self.own.requests())

    def key(self):
        return KEYS.get(self.profile) or self.machine.credential()["access_token"]

    def environment(self, **more):
        folders = [str(self.machine.package(package) / path) for package, path in self.program.folders]
        path = ":".join([*folders, self.machine.environment()["PATH"]])
        return {"PATH": path} | self.program.environment | more

    def start(self, *options, command=None, **environment):
        if "ask-once.mjs" in self.program.command:
            self.give_script()
        command = command or self.program.command
        return self.machine.start("qwenauth", "exec", *options, "--", *command, **self.environment(**environment))

    def give_script(self):
        """`import` looks for packages beside the script."""
        (self.machine.work / "ask-once.mjs").write_text(OPENAI_NODE)
        (self.machine.work / "node_modules").symlink_to(self.machine.package("openai-node") / "node_modules")

    def asked(self):
        """The requests since the login."""
        return self.own.requests()[self.before :]

    def assert_answered(self, process, by_gateway):
        process.succeed()
        answer = process.stdout.partition("practice answer to:")[2]
        assert "ping" in answer, f"no answer in {process.stdout!r}\n{process.stderr}"
        requests = self.asked()
        assert any(request.method == "POST" for request in requests), "it sent no question to the profile's host"
        for request in requests:
            assert request.status == 200, f"the provider refused {request}"
            assert request.model in (None, self.model), f"another model: {request}"
            assert request.via == (VIA if by_gateway else None), f"another way: {request}"
        self.assert_no_stranger()

    def assert_no_stranger(self):
        """No key of ours at the foreign host, no foreign key at ours, and none of ours in a file of the program's."""
        assert not self.foreign.requests(), f"the foreign host saw {[str(seen) for seen in self.foreign.requests()]}"
        strange = [str(seen) for seen in self.asked() if seen.credentials != {self.key()}]
        assert not strange, f"another key, or none, at the profile's host: {strange}"
        self.assert_key_in_no_file()

    def assert_key_in_no_file(self):
        key = self.key().encode()
        own = (self.machine.home / ".qwen/oauth_creds.json", self.machine.home / ".local/share/qwenauth/credentials")
        for file in Path(self.machine.root).rglob("*"):
            if file.is_file() and not file.is_symlink() and not any(file.is_relative_to(place) for place in own):
                assert key not in file.read_bytes(), f"the key is in {file}"


def can_work(program, profile):
    service = SERVICES[profile]
    if program.protocol == "anthropic":
        return service.anthropic is not None
    return program.protocol != "responses" or service.has_responses


def answers_from_an_empty_home(name, profile, by_gateway, machine):
    program = PROGRAMS[name]
    run = Run(machine, profile, program)
    process = run.start(*["--gateway"] * by_gateway)
    run.assert_answered(process, by_gateway)
    # Its hub would serve the next run with the host and the key of this one.
    hubs = [line for _, line in machine.daemons() if b"hub" in line]
    assert not hubs, f"left running: {hubs}"


def pairs(names, profiles):
    """Tests of programs with profiles, direct and by the gateway."""
    return {
        f"{'gateway_' * by_gateway}{name}_exec_with_{profile}": (
            PROGRAMS[name].packages,
            partial(answers_from_an_empty_home, name, profile, by_gateway),
        )
        for name in names
        for profile in profiles
        if can_work(PROGRAMS[name], profile)
        for by_gateway in (False, True)
    }


def llm_history_is_its_own(machine):
    """What was asked under `exec` is in the history without it."""
    run = Run(machine, "dashscope", PROGRAMS["llm"])
    run.assert_answered(run.start(), by_gateway=False)
    logs = machine.start("llm", "logs", "-n", "1", **run.environment()).succeed()
    assert "practice answer to:" in logs.stdout, f"no history: {logs.stdout!r} {logs.stderr}"


TESTS = pairs(PROGRAMS, ["dashscope"]) | {"llm_exec_history": (["python-clients"], llm_history_is_its_own)}
# All other pairs: `run --all`, in `.ci/long`.
LONG = {name: test for name, test in pairs(PROGRAMS, PROFILES).items() if name not in TESTS}
