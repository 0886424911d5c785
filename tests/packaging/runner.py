"""GitHub's runner, as far as shell steps go: runs the steps of a job or of a composite action in order.

Expressions are replaced as the runner does, in `env` and `run` alike; what `GITHUB_ENV`, `GITHUB_PATH` and `GITHUB_OUTPUT`
get is there for the next step. Steps that use other actions are handed to the caller.
"""

import json
import os
import re
import shlex
from pathlib import Path

from processes import run


def load(file):
    """YAML by Ruby's reader, which is the one at hand; `on` is true in YAML 1.1."""
    script = "require 'yaml'; require 'json'; puts JSON.dump(YAML.load(File.read(ARGV[0])))"
    return run(["ruby", "-e", script, file]).ok().json()


def load_text(text):
    script = "require 'yaml'; require 'json'; puts JSON.dump(YAML.load_stream(STDIN.read))"
    return json.loads(run(["ruby", "-e", script], text).ok().stdout)


class Runner:
    def __init__(self, directory, **variables):
        self.directory = Path(directory)
        self.temporary = self.directory / "runner-temp"
        self.temporary.mkdir(parents=True)
        self.workspace = self.directory / "workspace"
        self.workspace.mkdir(exist_ok=True)
        self.path = ["/usr/local/bin", "/usr/bin", "/bin"]
        self.log = ""
        self.exported = {}
        self.outputs = {}
        self.secrets = {}
        self.inputs = {}
        self.contexts = {"runner.temp": str(self.temporary), "runner.os": "Linux", "github.token": "ghs-token"}
        self.variables = {
            "HOME": str(self.directory / "home"),
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "RUNNER_OS": "Linux",
            "RUNNER_ARCH": "X64",
            "RUNNER_TEMP": str(self.temporary),
            "GITHUB_SERVER_URL": "https://example.invalid",
            "GITHUB_REPOSITORY": "owner/qwenauth",
            "GITHUB_WORKSPACE": str(self.workspace),
        } | variables
        Path(self.variables["HOME"]).mkdir(exist_ok=True)

    def value(self, expression):
        expression = expression.strip()
        kind, _, name = expression.partition(".")
        if kind == "secrets":
            return self.secrets.get(name, "")
        if kind == "inputs":
            return self.inputs[name]
        if kind == "steps":
            step, _, output = name.partition(".outputs.")
            return self.outputs[step][output]
        return self.contexts[expression]

    def text(self, text):
        return re.sub(r"\$\{\{(.*?)\}\}", lambda match: self.value(match[1]), str(text))

    def is_due(self, step):
        condition = step.get("if")
        if condition is None:
            return True
        left, sign, right = re.fullmatch(r"(\S+) (==|!=) '([^']*)'", str(condition)).groups()
        return (self.value(left) == right) == (sign == "==")

    def step(self, step, env=None):
        """Runs one `run` step and returns its outcome."""
        files = {}
        for name in ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_OUTPUT"):
            files[name] = self.temporary / f"_{name.lower()}"
            files[name].write_text("")
        variables = self.variables | self.exported | {name: str(file) for name, file in files.items()}
        variables |= {name: self.text(value) for name, value in ((env or {}) | step.get("env", {})).items()}
        variables["PATH"] = ":".join(self.path)
        script = self.temporary / "_step.sh"
        script.write_text(self.text(step["run"]))
        done = run(["bash", "--noprofile", "--norc", "-eo", "pipefail", script], "", variables, self.workspace, seconds=600)
        self.log += done.stdout + done.stderr
        for line in files["GITHUB_ENV"].read_text().splitlines():
            name, equals, value = line.partition("=")
            assert equals and "<<" not in name, f"not NAME=value: {line}"
            self.exported[name] = value
        self.path = files["GITHUB_PATH"].read_text().splitlines() + self.path
        if "id" in step:
            self.outputs[step["id"]] = dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())
        return done

    def shown(self):
        """The log as a person sees it: what was masked is gone, and so are the masks' own lines."""
        masks = re.findall(r"^::add-mask::(.*)$", self.log, re.M)
        shown = re.sub(r"^::add-mask::.*\n?", "", self.log, flags=re.M)
        for mask in sorted([*masks, *self.secrets.values()], key=len, reverse=True):
            shown = shown.replace(mask, "***") if mask else shown
        return shown

    def action(self, file, inputs, **env):
        """A composite action: its defaults, then its steps. Returns the first outcome that failed, or the last."""
        action = load(file)
        unknown = set(inputs) - set(action["inputs"])
        assert not unknown, f"the action has no input {unknown}"
        self.inputs = {name: str(given.get("default", "")) for name, given in action["inputs"].items()} | inputs
        self.variables["GITHUB_ACTION_PATH"] = str(Path(file).parent)
        for step in action["runs"]["steps"]:
            done = self.step(step, env)
            if done.code != 0:
                return done
        return done


def shims(directory, commands):
    """Programs that note how they were called, and do nothing; `commands` is {name: script that follows}."""
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "calls"
    log.touch()
    for name, script in commands.items():
        file = directory / name
        file.write_text(f'#!/bin/sh\nprintf "%s\\n" "{name} $*" >>{shlex.quote(str(log))}\n{script}\n')
        file.chmod(0o755)
    return log


def checkout(source, workspace):
    """The files that git knows, as they are now."""
    names = run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], directory=source).ok().stdout
    for name in names.split("\0"):
        file = Path(source, name)
        if name and file.is_file():
            target = Path(workspace, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
            target.chmod(file.stat().st_mode & 0o777)
    os.makedirs(workspace, exist_ok=True)
