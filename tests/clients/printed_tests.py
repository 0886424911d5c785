"""What `setup TOOL` prints for tools that it does not write: pasted where it says, the tool answers, and keeps no key.

Programs that cannot be had as a package are not tried; their texts are parsed and held against the tools' documentation.
"""

import json
import re
import shlex

AIDER = """--no-git --no-check-update --analytics-disable --no-show-model-warnings --no-pretty --no-show-release-notes
--no-gitignore --no-detect-urls --yes-always --message ping"""


def printed(machine, tool, *arguments):
    """The text, where it goes, and the command that starts the tool then."""
    done = machine.qwenauth("setup", tool, "--print", *arguments)
    place = re.search(r"^qwenauth: for (.+):$", done.stderr, re.MULTILINE)[1]
    start = re.search(r"^qwenauth: then start it with `(.+)`$", done.stderr, re.MULTILINE)
    assert machine.credential()["access_token"] not in done.stdout + done.stderr, "a key was printed"
    return done.stdout, place.strip("`"), start and start[1]


def pasted(machine, tool, *arguments):
    """Returns the file and the command that starts the tool."""
    machine.login()
    text, place, start = printed(machine, tool, *arguments)
    file = machine.home / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file, start


def assert_answers(machine, command, *path, **environment):
    checks = len(machine.provider.of_kind("model"))
    path = ":".join([*map(str, path), machine.environment()["PATH"]])
    done = machine.run("bash", "-O", "expand_aliases", "-c", command, PATH=path, **environment)
    assert "ping" in done.stdout.partition("practice answer to:")[2], f"no answer in {done.stdout!r}\n{done.stderr}"
    requests = machine.provider.of_kind("model")[checks:]
    token = machine.credential()["access_token"]
    assert {(request.status, request.token) for request in requests} == {(200, token)}, "another key was sent"


def assert_keeps_no_key(machine, folder):
    token = machine.credential()["access_token"].encode()
    holding = [file for file in folder.rglob("*") if file.is_file() and token in file.read_bytes()]
    assert not holding, f"the key is in {holding}"


def aider(machine):
    machine.login()
    text, place, _ = printed(machine, "aider")
    assert place == "the start-up file of your shell", place
    command = f"{text}\naider {' '.join(AIDER.split())}"
    assert_answers(machine, command, machine.package("aider") / "venv/bin", LITELLM_LOCAL_MODEL_COST_MAP="True")


def llm(machine):
    """Beside a key of the user's own, which must not be sent."""
    file, start = pasted(machine, "llm")
    path = machine.package("python-clients") / "venv/bin"
    assert_answers(machine, f"{start} ping", path, OPENAI_API_KEY="key-for-another-host")
    assert_keeps_no_key(machine, file.parent)


def continue_cli(machine):
    file, start = pasted(machine, "continue")
    path = [machine.package(name) / "node_modules/.bin" for name in ("continue", "node-22")]
    assert_answers(machine, f"{start} -p ping", *path)
    assert_keeps_no_key(machine, file.parent)


def continue_in_an_editor(machine):
    """The extension reads the same files: the command in the text's comment writes the key into the one for secrets."""
    file, _ = pasted(machine, "continue")
    command = next(line.removeprefix("#   ") for line in file.read_text().splitlines() if "umask" in line)
    path = [machine.package(name) / "node_modules/.bin" for name in ("continue", "node-22")]
    assert_answers(machine, f"{command}\ncn -p ping", *path)
    assert (file.parent / ".env").stat().st_mode & 0o777 == 0o600


def cline(machine):
    file, start = pasted(machine, "cline")
    path = machine.package("cline") / "node_modules/@cline/cli-linux-x64/bin"
    assert_answers(machine, f"{start} 'answer ping'", path, OPENAI_API_KEY="key-for-another-host")
    assert_keeps_no_key(machine, file.parent.parent.parent)


def beside_a_gateway(machine, tool, arguments, *path):
    """A gateway at a fixed address, as the last line says to start it, but for the port; its key is in a file and in no text."""
    file, start = pasted(machine, tool, "--gateway=127.0.0.1:7936")
    said = machine.qwenauth("setup", tool, "--print", "--gateway=127.0.0.1:7936").stderr
    line = re.search(r"start the gateway with `(.+)`", said)[1]
    gateway = machine.start(*shlex.split(line.replace("--listen 127.0.0.1:7936", "--listen 127.0.0.1:0")))
    gateway.wait_for(lambda: gateway.stdout.count("\n") >= 1, "said its address")
    file.write_text(file.read_text().replace("http://127.0.0.1:7936/v1", gateway.stdout.split()[0]))
    assert_answers(machine, f"{start} {arguments}", *path)
    token = machine.credential()["access_token"]
    assert token not in start + file.read_text()


def llm_beside_a_gateway(machine):
    beside_a_gateway(machine, "llm", "ping", machine.package("python-clients") / "venv/bin")


def continue_beside_a_gateway(machine):
    path = [machine.package(name) / "node_modules/.bin" for name in ("continue", "node-22")]
    beside_a_gateway(machine, "continue", "-p ping", *path)


def cline_beside_a_gateway(machine):
    path = machine.package("cline") / "node_modules/@cline/cli-linux-x64/bin"
    beside_a_gateway(machine, "cline", "'answer ping'", path)


def crush_text(machine):
    """Names from Crush's own JSON schema, which allows no others."""
    machine.login()
    config = json.loads(printed(machine, "crush")[0])
    provider = config["providers"]["qwenauth"]
    assert config.keys() <= {"providers", "models"}
    assert provider.keys() <= {"type", "name", "base_url", "api_key", "models"} and provider["type"] == "openai-compat"
    for model in provider["models"]:
        assert {"id", "name"} <= model.keys() <= {"id", "name", "context_window", "default_max_tokens"}, model
    for chosen in config["models"].values():
        assert chosen == {"model": "coder-model", "provider": "qwenauth"}, chosen
    # Crush puts the command's output in its place.
    command = re.fullmatch(r"\$\((.+)\)", provider["api_key"])[1]
    assert machine.run("sh", "-c", command).stdout.strip() == machine.credential()["access_token"]


def zed_text(machine):
    """Names from Zed's documentation, which derives the key's variable from the provider's name."""
    file, start = pasted(machine, "zed")
    text = file.read_text()
    ((name, provider),) = json.loads(text)["language_models"]["openai_compatible"].items()
    assert provider.keys() == {"api_url", "available_models"}
    for model in provider["available_models"]:
        assert {"name", "max_tokens"} <= model.keys() <= {"name", "display_name", "max_tokens", "max_output_tokens"}
    environment = started(machine, "zed", start)
    assert environment[f"{name.upper()}_API_KEY"] == machine.credential()["access_token"]


def goose_text(machine):
    """Names from goose's documentation."""
    machine.login()
    environment = started(machine, "goose", f"{printed(machine, 'goose')[0]}\ngoose")
    wanted = {
        "GOOSE_PROVIDER": "openai",
        "GOOSE_MODEL": "coder-model",
        "OPENAI_HOST": machine.provider.url,
        "OPENAI_BASE_PATH": "v1/chat/completions",
        "OPENAI_API_KEY": machine.credential()["access_token"],
    }
    assert {name: environment.get(name) for name in wanted} == wanted


def started(machine, program, command):
    """The environment that a stand-in for a program gets."""
    folder = machine.root / "stand-ins"
    folder.mkdir()
    (folder / program).symlink_to("/usr/bin/env")
    path = f"{folder}:{machine.environment()['PATH']}"
    lines = machine.run("bash", "-O", "expand_aliases", "-c", command, PATH=path).stdout.splitlines()
    return dict(line.partition("=")[::2] for line in lines)


TESTS = {
    "setup_aider_by_the_printed_text": (["aider"], aider),
    "setup_llm_by_the_printed_text": (["python-clients"], llm),
    "setup_llm_beside_a_gateway": (["python-clients"], llm_beside_a_gateway),
    "setup_continue_by_the_printed_text": (["continue", "node-22"], continue_cli),
    "setup_continue_in_an_editor": (["continue", "node-22"], continue_in_an_editor),
    "setup_continue_beside_a_gateway": (["continue", "node-22"], continue_beside_a_gateway),
    "setup_cline_by_the_printed_text": (["cline"], cline),
    "setup_cline_beside_a_gateway": (["cline"], cline_beside_a_gateway),
    "setup_crush_text_parses": ([], crush_text),
    "setup_goose_text_parses": ([], goose_text),
    "setup_zed_text_parses": ([], zed_text),
}
