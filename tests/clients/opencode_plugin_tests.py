"""The npm package integrations/opencode in the real opencode: `opencode auth login` runs qwenauth's login."""

import json
import re
import shutil
from pathlib import Path

from strict import SERVICES, Listener

PACKAGE = Path(__file__).resolve().parent.parent.parent / "integrations/opencode"
METHOD = "Qwen login (kept by qwenauth)"


def installed(machine):
    """What `npm install` puts there: the files that the package lists."""
    folder = machine.home / "node_modules/opencode-qwenauth"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", *json.loads((PACKAGE / "package.json").read_text())["files"]):
        shutil.copy(PACKAGE / name, folder / name)
    config = machine.home / ".config/opencode/opencode.json"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps({"plugin": [(folder / "index.js").as_uri()]}))
    # With any plugin, opencode asks npm for its own library; without a network that is to end at once.
    for folder in (config.parent, machine.home):
        (folder / ".npmrc").write_text("fetch-retries=0\nfetch-timeout=10000\n")


def opencode(machine, *arguments):
    folder = machine.package("opencode") / "node_modules/opencode-linux-x64/bin"
    path = f"{folder}:{machine.environment()['PATH']}"
    return machine.start("opencode", *arguments, PATH=path).succeed()


def auth_login_logs_in_and_the_session_uses_it(machine):
    api = Listener(SERVICES["qwen"], machine.provider.knows)
    machine.at_end(api.close)
    machine.provider.api_url = api.url
    installed(machine)
    done = opencode(machine, "auth", "login", "--provider", "qwenauth", "--method", METHOD)
    said = done.stdout + done.stderr
    assert "PRAC-TICE" in said, f"no code was shown: {said}"
    token = machine.credential()["access_token"]
    kept = (machine.home / ".local/share/opencode/auth.json").read_text()
    assert json.loads(kept)["qwenauth"] == {"type": "api", "key": "kept by qwenauth"}, kept
    before = len(api.requests())
    done = opencode(machine, "run", "--model", "qwenauth/coder-model", "--title", "a title", "ping")
    assert "ping" in done.stdout.partition("practice answer to:")[2], f"no answer in {done.stdout!r}\n{done.stderr}"
    requests = api.requests()[before:]
    assert {(seen.status, seen.model) for seen in requests} == {(200, "coder-model")}, [str(seen) for seen in requests]
    assert all(seen.credentials == {token} for seen in requests), "another key was sent"
    assert all(seen.headers.get("x-dashscope-authtype") == "qwen-oauth" for seen in requests), "no header of the provider"
    assert all(seen.headers["x-dashscope-useragent"] == seen.headers["user-agent"] for seen in requests)
    holding = [file for file in machine.home.rglob("*") if file.is_file() and token.encode() in file.read_bytes()]
    assert holding == [machine.credential_file], holding


def a_project_that_names_another_host_gets_no_key(machine):
    """With the plugin that `setup opencode` writes, and with the package."""
    for by_package in (False, True):
        foreign = Listener()
        machine.at_end(foreign.close)
        machine.login()
        if by_package:
            machine.qwenauth("setup", "opencode", "--remove")
            installed(machine)
        else:
            machine.qwenauth("setup", "opencode")
        project = {"provider": {"qwenauth": {"options": {"baseURL": foreign.base_url}, "models": {"coder-model": {}}}}}
        project["provider"]["qwenauth"]["npm"] = "@ai-sdk/openai-compatible"
        (machine.work / "opencode.json").write_text(json.dumps(project))
        folder = machine.package("opencode") / "node_modules/opencode-linux-x64/bin"
        path = f"{folder}:{machine.environment()['PATH']}"
        machine.start("opencode", "run", "--model", "qwenauth/coder-model", "ping", PATH=path).wait()
        token = machine.credential()["access_token"]
        assert foreign.requests(), "the project's host was not asked: this shows nothing"
        assert all(token not in str(seen.headers) for seen in foreign.requests()), "the foreign host got the key"


def the_package_names_no_secret_and_no_version_of_its_own(machine):
    version = re.search(r'^version = "(.+)"', (PACKAGE.parent.parent / "Cargo.toml").read_text(), re.MULTILINE)[1]
    assert json.loads((PACKAGE / "package.json").read_text())["version"] == version


TESTS = {
    "setup_opencode_by_the_package": (["opencode"], auth_login_logs_in_and_the_session_uses_it),
    "setup_opencode_gives_no_key_to_another_host": (["opencode"], a_project_that_names_another_host_gets_no_key),
    "package_has_the_version_of_the_program": ([], the_package_names_no_secret_and_no_version_of_its_own),
}
