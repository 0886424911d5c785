"""One machine for one test: an empty home directory, a provider of its own, `qwenauth` and the programs beside it.

Every process is bounded in time and ended, with its children, when the test is over. Outside loopback there is nothing:
the proxy variables name a closed port, so a client that wants the internet fails at once, and `qwenauth` must not use
them for the provider.
"""

import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

from processes import Process, empty_home
from provider import Provider

CLOSED_PORT = "http://127.0.0.1:9"


class Machine:
    def __init__(self, program, packages):
        self._program = program  # the `qwenauth` under test
        self._packages = packages  # name → folder where a client is installed
        self._processes = []
        self.root = Path(tempfile.mkdtemp(prefix="qwenauth-clients-"))
        self.home = self.root / "home"
        self.work = self.root / "work"
        self.home.mkdir(mode=0o700)
        self.work.mkdir()
        self.provider = Provider()
        self.credential_file = self.home / ".qwen" / "oauth_creds.json"
        self.lock_file = self.home / ".qwen" / "oauth_creds.lock"
        self._endings = []

    def close(self):
        for process in self._processes:
            process.end()
        self._end_daemons()
        self.provider.close()
        for ending in self._endings:
            ending()
        shutil.rmtree(self.root, ignore_errors=True)

    def daemons(self):
        """What runs with this home directory: process ids and command lines. Cline starts a hub that leaves its process group."""
        home = b"\0HOME=" + os.fsencode(self.home) + b"\0"
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                if home in b"\0" + (directory / "environ").read_bytes():
                    yield int(directory.name), (directory / "cmdline").read_bytes()
            except (FileNotFoundError, PermissionError, ProcessLookupError):
                continue  # it has ended, or is another user's

    def _end_daemons(self):
        for process, _ in self.daemons():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def at_end(self, ending):
        """Has `ending` called when the test is over and no program runs."""
        self._endings.append(ending)

    def package(self, name):
        return self._packages[name]

    def environment(self, **more):
        ours = {
            "QWENAUTH_QWEN_OAUTH_URL": self.provider.url,
            "HTTPS_PROXY": CLOSED_PORT,
            "HTTP_PROXY": CLOSED_PORT,
            "NO_PROXY": "127.0.0.1,localhost",
        }
        return empty_home(self.home, f"{self._program.parent}:{os.environ['PATH']}", **(ours | more))

    def start(self, *command, **environment):
        process = Process(command, self.environment(**environment), self.work)
        self._processes.append(process)
        return process

    def run(self, *command, **environment):
        """Runs a program to its end, which must be a good one."""
        return self.start(*command, **environment).succeed()

    def start_qwenauth(self, *arguments, **environment):
        return self.start(self._program, *arguments, **environment)

    def qwenauth(self, *arguments):
        return self.run(self._program, *arguments)

    def login(self):
        self.qwenauth("login", "--no-browser")
        assert self.credential_file.exists(), "`qwenauth login` wrote no credential file"

    def credential(self):
        return json.loads(self.credential_file.read_text())

    def expire(self):
        """Lets the access token's time run out, in the file and at the provider."""
        credential = self.credential() | {"expiry_date": int(time.time() * 1000) - 1000}
        aside = self.credential_file.with_suffix(".expired")
        aside.write_text(json.dumps(credential, indent=2))
        aside.chmod(0o600)
        aside.rename(self.credential_file)
        self.provider.expire_access_tokens()

    def assert_refreshed_once_by(self, user_agent):
        """One refresh, by that program; the file holds what the provider issued; no lock of Qwen Code's is left."""
        refreshes = self.provider.of_kind("refresh")
        agents = [request.user_agent for request in refreshes]
        assert len(refreshes) == 1, f"expected one refresh, the provider saw {agents}"
        assert agents[0].startswith(user_agent), f"expected a refresh by {user_agent}, the provider saw {agents}"
        credential = self.credential()
        assert self.provider.current_refresh_tokens() == [credential["refresh_token"]], "the file lost the login"
        assert self.provider.knows(credential["access_token"]), "the file's access token is not the provider's"
        assert not self.lock_file.exists(), "the lock was left behind"
