"""docs/team.md as it stands: two gateways on two machines, their server on a third, a member and a job on two more."""

import json
import os
import re
import shlex
import signal

from gateway_tests import ASK, KEY, MODEL, Team
from processes import REPOSITORY, until

# What stands in for the network between two homes.
SCP = """#!/bin/sh
[ "$1" = -p ] || exit 2
machine=${3%%.*} path=${3#*:}
cp -p "$2" "$HOME/../../$machine/home/$path"
"""


def steps():
    """The blocks of the section, in its order: the machines, the kind of the block, and its text."""
    page = (REPOSITORY / "docs/team.md").read_text().replace(".example.com", ".test").replace("ann@example.com", "ann@example.com")
    section = page.split("## From nothing to two gateways\n")[1].split("\n## ")[0]
    found = re.findall(r"^(On `[^:]*):\n\n```(\w+)\n(.*?)^```$", section, re.M | re.S)
    machines = lambda text: [name for name in re.findall(r"`(\w+)`", text)]  # noqa: E731
    return [(machines(text), kind, block) for text, kind, block in found]


class Walk:
    """Does what the section says, each command on its machine."""

    def __init__(self, team):
        self.team, self.printed, self.commands, self.running = team, {}, [], []

    def environment(self, host):
        more = {"QWENAUTH_CA_FILE": f"{host.home}/tls/ca.pem", "CURL_CA_BUNDLE": f"{host.home}/tls/ca.pem"}
        if host.name == "ci":
            more["TEAM_KEY"] = self.printed["ci"]
        return more

    def do(self, name, command):
        host = self.team.network[name]
        self.commands.append(command)
        stdin = self.printed["ann"] if "--api-key-stdin" in command else ""
        started = host.start("sh", "-c", f"exec {command}", stdin=stdin, **self.environment(host))
        if command.startswith("redis-server"):
            started.wait_for_stdout("Ready to accept connections")
        elif command.startswith("qwenauth gateway"):
            started.wait_for_stdout("\n")
            self.running.append(started)
        else:
            assert started.wait() == 0, (str(started), *map(str, self.running))
        if command.startswith("qwenauth keys create"):
            self.printed[shlex.split(command)[3]] = started.stdout.strip()
        return started


def every_command_of_the_page_for_two_gateways_runs(program):
    with Team(program, "cloud", "cache", "one", "two", "laptop", "ci") as team:
        network = team.network
        network.root.chmod(0o755)
        programs = network.root / "programs"
        programs.mkdir()
        (programs / "scp").write_text(SCP)
        (programs / "scp").chmod(0o755)
        (programs / "qwenauth").symlink_to(program)
        network.programs = programs
        for name in ("cache", "one", "two", "laptop", "ci"):
            host = network[name]
            for file in ("ca.pem", f"{name}.pem", f"{name}.key"):
                if (team.ca / file).exists():
                    host.file(f"tls/{file}", (team.ca / file).read_text())
        walk = Walk(team)
        password = None
        for machines, kind, block in steps():
            if kind == "text":
                password = re.search(r"^requirepass (.*)$", block, re.M)[1]
                network[machines[0]].file("redis.conf", block)
            elif kind == "toml":
                for name in ("one", "two"):
                    config = block.replace('default_region = "intl"', 'base_url = "https://cloud.test/v1"')
                    assert config != block
                    network[name].file(".config/qwenauth/config.toml", config)
                    network[name].file("secrets/dashscope", f"{KEY}\n")
                    network[name].file("secrets/redis", f"{password}\n")
                    (network[name].home / "secrets").chmod(0o700)
            else:
                if machines[0] == "laptop":
                    network["laptop"].file("ask.py", ASK)
                if machines[0] == "ci":
                    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
                    network["ci"].file("request.json", json.dumps(body))
                if machines[0] == "two":
                    # Whoever does not trust the certificate of the server sends it no password.
                    listed = network["two"].start("qwenauth", "keys", "list")
                    assert listed.wait() == 0 and "invalid peer certificate" in listed.stderr, listed
                for command in re.findall(r"^\$ (.*)$", block, re.M):
                    done = walk.do(machines[0], command)
        assert len(walk.commands) == 10, walk.commands
        # The last one is the job's, the one before it Ann's program.
        assert "practice answer to: hi" in done.stdout, done
        assert [line["from"] for line in team.asked() if line["path"].endswith("/chat/completions")] == [
            network["one"].address,
            network["two"].address,
        ], team.asked()
        assert {line["authorization"] for line in team.asked()} == {f"Bearer {KEY}"}

        def used():
            two = network["two"]
            answer = two.run("qwenauth", "usage", "--team", "--json", **walk.environment(two)).stdout
            return {row["name"]: row["requests"] for row in json.loads(answer)["usage"]}

        until(lambda: used().get("ann") and used().get("ci") == 1, "what both gateways counted")
        one, laptop = network["one"], network["laptop"]
        one.run("qwenauth", "keys", "revoke", "ann", "--yes", **walk.environment(one))
        refused = laptop.start("qwenauth", "exec", "--", "python3", "ask.py", **walk.environment(laptop))
        assert refused.wait() != 0 and "401" in refused.stderr, refused
        for gateway in walk.running:
            gateway.signal(signal.SIGTERM)
            gateway.wait()
            printed = gateway.stdout + gateway.stderr
            for secret in (KEY, password, walk.printed["ann"], walk.printed["ci"]):
                assert secret not in printed, gateway
        dump = b"".join(path.read_bytes() for path in network["cache"].home.rglob("*.aof") if os.path.isfile(path))
        assert b"ann" in dump
        for secret in (KEY, walk.printed["ann"][11:54], walk.printed["ci"][11:54]):
            assert secret.encode() not in dump, "a secret is on the server"


TESTS = {
    test.__name__: (needs, test)
    for needs, test in ((["redis-server", "curl"], every_command_of_the_page_for_two_gateways_runs),)
}
