"""Machines of their own for one test: network namespaces on one switch, each with a home directory and files of its own.

Nothing of them reaches the network of this machine, nor it them. Needs root and `ip`; every process is bounded in time and
ended, with its children, when the test is over.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from processes import Process, empty_home, run


class Host:
    def __init__(self, network, name, address):
        self.network, self.name, self.address = network, name, address
        self.namespace = f"{network.prefix}{name}"
        self.root = network.root / name
        self.home = self.root / "home"
        self.home.mkdir(parents=True, mode=0o700)

    def environment(self, **more):
        path = f"{self.network.programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return empty_home(self.home, path, **more)

    def start(self, *command, stdin="", **environment):
        # A mount namespace as well, where its names of hosts are.
        mount = f"mount --bind {self.network.hosts_file} /etc/hosts && exec \"$@\""
        inside = ["ip", "netns", "exec", self.namespace, "sh", "-c", mount, "sh", *map(str, command)]
        running = Process(inside, self.environment(**environment), self.home, stdin)
        self.network.running.append(running)
        return running

    def run(self, *command, stdin="", **environment):
        """Runs a program to its end, which must be a good one."""
        return self.start(*command, stdin=stdin, **environment).succeed()

    def file(self, name, text, mode=0o600):
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text(text)
        path.chmod(mode)
        return path


class Network:
    """Hosts on one switch; `with` takes them away again. Each is known to all by its name."""

    def __init__(self, programs, *names):
        self.programs = programs
        self.prefix = f"qwenauth-{os.getpid()}-"
        self.root = Path(tempfile.mkdtemp(prefix="qwenauth-team-"))
        self.running = []
        self.hosts = {name: Host(self, name, f"10.213.7.{number}") for number, name in enumerate(names, 1)}
        self.hosts_file = self.root / "hosts"
        known = [f"{host.address} {name}.test {name}" for name, host in self.hosts.items()]
        self.hosts_file.write_text("\n".join(["127.0.0.1 localhost", *known]) + "\n")

    def __getitem__(self, name):
        return self.hosts[name]

    def __enter__(self):
        try:
            # The switch is in a namespace as well, so that this machine has none of it.
            self.ip("netns", "add", f"{self.prefix}switch")
            self.on_switch("link", "add", "bridge", "type", "bridge")
            self.on_switch("link", "set", "bridge", "up")
            for name, host in self.hosts.items():
                self.ip("netns", "add", host.namespace)
                self.on_switch("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
                self.on_switch("link", "set", name, "master", "bridge", "up")
                for words in (
                    ["link", "set", "lo", "up"],
                    ["address", "add", f"{host.address}/24", "dev", "eth0"],
                    ["link", "set", "eth0", "up"],
                    ["route", "add", "default", "dev", "eth0"],
                ):
                    self.ip("-n", host.namespace, *words)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for running in reversed(self.running):
            running.end()
        for name in [*self.hosts, "switch"]:
            subprocess.run(["ip", "netns", "delete", f"{self.prefix}{name}"], stderr=subprocess.DEVNULL)
        shutil.rmtree(self.root, ignore_errors=True)

    def ip(self, *words):
        run(["ip", *words]).ok()

    def on_switch(self, *words):
        self.ip("-n", f"{self.prefix}switch", *words)


def certify(directory, *names):
    """A CA, `ca.pem`, and for each host a certificate of it, `NAME.pem` and `NAME.key`."""
    script = "curve='ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'; set -e\n"
    script += "openssl req -x509 -newkey $curve -keyout ca.key -out ca.pem -subj /CN=ca -days 2\n"
    for name in names:
        script += (
            f"openssl req -newkey $curve -keyout {name}.key -out request.pem -subj /CN={name} "
            f"-addext subjectAltName=DNS:{name}.test -addext basicConstraints=CA:FALSE\n"
            f"openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -copy_extensions copy "
            f"-days 2 -out {name}.pem\n"
        )
    directory.mkdir(parents=True, exist_ok=True)
    run(["sh", "-c", script], directory=directory).ok()
