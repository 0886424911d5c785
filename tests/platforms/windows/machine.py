"""Two homes for one test: one of the program for Windows, one of the program for Unix, and a provider for both.

What both print, and the files they leave, is made comparable: paths, ports and tokens get names. The program for Windows
runs under wine, or as it is where this runs on Windows. There no program for Unix runs: its side is read from a directory
of records that a run on Unix has made (`WINDOWS_TEST_RECORD`).
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))
from provider import Provider  # noqa: E402

ON_WINDOWS = os.name == "nt"
PROGRAM = os.environ["WINDOWS_TEST_PROGRAM"]  # qwenauth.exe
HELPER = os.environ["WINDOWS_TEST_HELPER"]  # helper.exe
UNIX_PROGRAM = os.environ.get("WINDOWS_TEST_UNIX_PROGRAM", "")
UNIX_HELPER = os.environ.get("WINDOWS_TEST_UNIX_HELPER", "")
RECORD = os.environ.get("WINDOWS_TEST_RECORD", "")
WINE = os.environ.get("WINDOWS_TEST_WINE", "/usr/lib/wine/wine64")

PATIENCE = 60  # seconds a test waits for what must come


@dataclass
class Outcome:
    code: int
    stdout: str
    stderr: str


class Side:
    """One home, the program in it, and the directory `bin` of its `PATH`."""

    def __init__(self, provider, is_windows):
        self.provider = provider
        self.is_windows = is_windows
        self.home = Path(tempfile.mkdtemp(prefix="qwenauth-windows-")).resolve()
        self.bin = self.home / "bin"
        self.bin.mkdir()
        self.names = {}
        ending = ".exe" if is_windows else ""
        self.helper = self.bin / f"helper{ending}"
        shutil.copy(HELPER if is_windows else UNIX_HELPER, self.helper)
        self.program = self.bin / f"qwenauth{ending}"
        if not is_windows or ON_WINDOWS:
            shutil.copy(PROGRAM if is_windows else UNIX_PROGRAM, self.program)
        else:
            os.link(PROGRAM, self.program) if os.stat(PROGRAM).st_dev == self.bin.stat().st_dev else shutil.copy(
                PROGRAM, self.program
            )
        self.processes = []

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def path(self, path):
        """As the program has to be told it."""
        if self.is_windows and not ON_WINDOWS:
            return "Z:" + str(path).replace("/", "\\")
        return str(path)

    def variables(self, more):
        home = self.path(self.home)
        variables = {"QWENAUTH_HOME": self.path(self.home / "own"), "QWENAUTH_QWEN_OAUTH_URL": self.provider.url}
        if self.is_windows:
            variables |= {
                "USERPROFILE": home,
                "APPDATA": self.path(self.home / "AppData" / "Roaming"),
                "LOCALAPPDATA": self.path(self.home / "AppData" / "Local"),
                "PATH": self.path(self.bin) + ";C:\\windows\\system32;C:\\windows",
                "SSL_CERT_FILE": "",
                "SHELL": "",
                "MSYSTEM": "",
            }
        else:
            # Windows always has a desktop.
            variables |= {"DISPLAY": ":0", "HOME": home, "PATH": f"{self.bin}:/usr/bin:/bin"}
        return {name: value for name, value in (variables | more).items() if value is not None}

    def command_line(self, command, more):
        """The command with its variables: wine sets those of the user's profile itself, so a helper sets them again."""
        variables = self.variables(more)
        if not self.is_windows:
            return [str(word) for word in command], {name: value for name, value in variables.items() if value}
        words = [self.path(self.helper), "with", *(f"{name}={value}" for name, value in variables.items()), "--"]
        words += [self.path(word) if isinstance(word, Path) else str(word) for word in command]
        if ON_WINDOWS:
            return words, dict(os.environ)
        kept = ("HOME", "WINEPREFIX", "WINEDEBUG", "WINEDLLOVERRIDES", "USER", "LOGNAME")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        return [WINE, *words], environment | {"PATH": "/usr/bin:/bin"}

    def start(self, *command, variables=None, stdin=subprocess.DEVNULL, **more):
        line, environment = self.command_line(command, variables or {})
        process = subprocess.Popen(
            line, env=environment, cwd=self.home, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more
        )
        self.processes.append(process)
        return process

    def finish(self, process, stdin=None):
        stdout, stderr = process.communicate(stdin, timeout=PATIENCE + 60)
        lines = [text.decode().replace("\r\n", "\n") for text in (stdout, stderr)]
        return Outcome(process.returncode, *map(self.plain, lines))

    def run_program(self, *command, stdin=None, **more):
        process = self.start(*command, stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL, **more)
        return self.finish(process, stdin.encode() if stdin is not None else None)

    def run(self, *arguments, **more):
        return self.run_program(self.program, *arguments, **more)

    def started(self, *arguments, **more):
        return self.start(self.program, *arguments, **more)

    # What they print and leave.

    def plain(self, text):
        if self.is_windows:
            # What wine says of a thread that had not ended when its process did.
            text = re.sub(r"^wine client error:.*\n", "", text, flags=re.MULTILINE)
            for home in (self.path(self.home), self.path(self.home).replace("\\", "\\\\")):
                text = re.sub(re.escape(home) + r"([^\s`\"',;]*)", lambda at: "{home}" + at[1].replace("\\\\", "\\").replace("\\", "/"), text)
            text = text.replace("qwenauth.exe", "qwenauth").replace("helper.exe", "helper")
        else:
            text = text.replace(str(self.home), "{home}")
        text = text.replace(self.provider.url, "{provider}").replace(self.provider.url.removeprefix("http://"), "{host}")
        text = re.sub(r"http://127\.0\.0\.1:\d+", "http://127.0.0.1:{port}", text)
        text = re.sub(r"\b[0-9a-f]{64}\b", "{hash}", text)
        text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "{time}", text)
        # A second may pass on one side.
        text = re.sub(r"(stored|good for|valid for) \d+ s", r"\1 {seconds} s", text)
        return re.sub(r"(access|refresh)-[0-9a-f]{32}", self.named, text)

    def named(self, at):
        """Tokens by the order in which this side has met them."""
        kind = at[1]
        return self.names.setdefault(at[0], f"{kind}-{1 + sum(name.startswith(kind) for name in self.names.values())}")

    def files(self):
        """All files but the programs, with their contents; a lock only by its name, without the notes of one."""
        found = {}
        for path in sorted(self.home.rglob("*")):
            name = str(path.relative_to(self.home)).replace("\\", "/")
            if not path.is_file() or name.startswith("bin/") or name.endswith(".qwenauth-notes"):
                continue
            found[self.plain(name)] = "" if name.endswith("-lock") else self.stored(path)
        return found

    def stored(self, path):
        text = self.plain(path.read_bytes().decode(errors="replace"))
        # wine has another id for this machine.
        text = re.sub(r',\s*"machine": ?"[0-9a-f]*"', "", text)
        return re.sub(r'("(?:expiry_date|created_at|at|time)": ?)("[^"]*"|\d+)', r"\1{time}", text)

    # What a test begins with.

    def credential(self):
        return self.home / ".qwen" / "oauth_creds.json"

    def logged_in(self, seconds=6 * 3600, **fields):
        """A login as Qwen Code writes it, that lasts so long."""
        issued = self.provider.log_in(self.home, seconds, **fields)
        self.plain(json.dumps(issued))
        return issued

    def expired(self):
        return self.logged_in(seconds=-60)

    def content(self):
        return json.loads(self.credential().read_text())

    def beside(self):
        """The names in Qwen Code's directory."""
        return sorted(path.name for path in self.credential().parent.iterdir())


class Test(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.provider = Provider()
        self.addCleanup(self.provider.close)
        self.windows = self.side(is_windows=True)

    def side(self, is_windows):
        side = Side(self.provider, is_windows)
        self.addCleanup(side.close)
        return side

    def same(self, story):
        """`story` gives the same outcomes and leaves the same files on both systems."""
        outcome = self.told(story, self.windows)
        self.assertEqual(outcome, self.on_unix(story))
        return outcome

    def on_unix(self, story):
        record = Path(RECORD, f"{self.id()}.json") if RECORD else None
        if not UNIX_PROGRAM:
            return json.loads(record.read_text())
        outcome = self.told(story, self.side(is_windows=False))
        if record:
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(json.dumps(outcome, indent=1))
        return outcome

    @staticmethod
    def told(story, side):
        outcomes = story(side)
        outcomes = outcomes if isinstance(outcomes, list) else [outcomes]
        return {
            "outcomes": [[outcome.code, outcome.stdout, outcome.stderr] for outcome in outcomes],
            "files": side.files(),
        }

    def hold_renewal(self, *processes):
        """Waits until the provider holds the answer to a renewal of one of these, none of which may end before."""
        deadline = time.monotonic() + PATIENCE
        while not self.provider.refresh_gate.holds_a_request():
            if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
                for process in processes:
                    process.kill()
                self.fail(f"no renewal, but {[self.windows.finish(process) for process in processes]}")
            time.sleep(0.01)

    def moments(self, *words):
        """Milliseconds after which to kill a command: any moment of what it takes on this machine now, and a little more."""
        outcome = self.windows.run_program(self.windows.helper, "took", self.windows.program, *words)
        self.assertEqual(outcome.code, 0, outcome.stderr)
        took = int(outcome.stdout.rpartition("took ")[2])
        chance = random.Random(took)
        while True:
            yield str(chance.randrange(max(2, took * 11 // 10)))

    def whole(self, outcome, code=0, stdout="", stderr="", files=None):
        """Everything that can be seen of a run."""
        self.assertEqual((outcome.code, outcome.stdout, outcome.stderr), (code, stdout, stderr))
        if files is not None:
            self.assertEqual(sorted(self.windows.files()), sorted(files))


def first_line(process):
    """The next line of stdout, waited for no longer than a test may."""
    lines = []
    thread = threading.Thread(target=lambda: lines.append(process.stdout.readline()), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if not lines:
        raise AssertionError("nothing was printed in time")
    return lines[0].decode()
