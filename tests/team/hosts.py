"""Machines of their own for one test: network namespaces on one switch, each with a home directory and files of its own.

Nothing of them reaches the network of this machine, nor it them. Needs root and `ip`; every process is bounded in time and
ended, with its children, when the test is over.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
RUN_SECONDS = 120  # many times what any run takes on a quiet machine


class Running:
    """A program that runs on a host, and what it has printed so far."""

    def __init__(self, command, environment, directory, stdin=None):
        self.command = " ".join(map(str, command))
        self.process = subprocess.Popen(
            [str(part) for part in command],
            env=environment,
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.texts = {"stdout": b"", "stderr": b""}
        self.changed = threading.Condition()
        self.readers = [threading.Thread(target=self._read, args=(name,), daemon=True) for name in self.texts]
        for reader in self.readers:
            reader.start()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write((stdin or "").encode())
            self.process.stdin.close()

    def _read(self, name):
        for line in getattr(self.process, name):
            with self.changed:
                self.texts[name] += line
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    @property
    def stdout(self):
        return self.texts["stdout"].decode(errors="replace")

    @property
    def stderr(self):
        return self.texts["stderr"].decode(errors="replace")

    def __str__(self):
        code = self.process.poll()
        return f"`{self.command}` ({code})\n--- stdout\n{self.stdout[-3000:]}\n--- stderr\n{self.stderr[-3000:]}"

    def wait(self):
        try:
            self.process.wait(RUN_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {RUN_SECONDS} s: {self}") from None
        for reader in self.readers:
            reader.join(5)
        return self.process.returncode

    def ok(self):
        assert self.wait() == 0, self
        return self

    def wait_for(self, name, text):
        """Waits until it has printed `text`."""
        with self.changed:
            lives = lambda: any(reader.is_alive() for reader in self.readers)  # noqa: E731
            found = self.changed.wait_for(lambda: text in self.texts[name].decode() or not lives(), RUN_SECONDS)
            assert found and text in self.texts[name].decode(), f"{text!r} awaited: {self}"
        return self

    def signal(self, number):
        os.killpg(self.process.pid, number)

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Host:
    def __init__(self, network, name, address):
        self.network, self.name, self.address = network, name, address
        self.namespace = f"{network.prefix}{name}"
        self.root = network.root / name
        self.home = self.root / "home"
        self.home.mkdir(parents=True, mode=0o700)

    def environment(self, **more):
        return {
            "HOME": str(self.home),
            "PATH": f"{self.network.programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            **more,
        }

    def start(self, *command, stdin=None, **environment):
        # A mount namespace as well, where its names of hosts are.
        mount = f"mount --bind {self.network.hosts_file} /etc/hosts && exec \"$@\""
        inside = ["ip", "netns", "exec", self.namespace, "sh", "-c", mount, "sh", *map(str, command)]
        running = Running(inside, self.environment(**environment), self.home, stdin)
        self.network.running.append(running)
        return running

    def run(self, *command, stdin=None, **environment):
        """Runs a program to its end, which must be a good one."""
        return self.start(*command, stdin=stdin, **environment).ok()

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
        done = subprocess.run(["ip", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=RUN_SECONDS)
        assert done.returncode == 0, (words, done.stdout.decode())

    def on_switch(self, *words):
        self.ip("-n", f"{self.prefix}switch", *words)


def until(condition, what, seconds=RUN_SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


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
    done = subprocess.run(["sh", "-c", script], cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode()
