"""How the suites in Python run programs: in the background with output that can be awaited, or to their end.

Every run is bounded in time, and nobody waits for a time to pass: a program's output and end are events.
"""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
RUN_SECONDS = 120  # many times what any run takes on a quiet machine


def empty_home(home, path, **more):
    """The environment of a user who has nothing but a home directory."""
    return {"HOME": str(home), "PATH": str(path), "LANG": "C.UTF-8", "TERM": "dumb"} | more


class Process:
    """A running program, with the children in its group, and what it has printed so far."""

    def __init__(self, command, environment, directory, stdin=""):
        self.command = " ".join(map(str, command))
        self._process = subprocess.Popen(
            [str(part) for part in command],
            env=environment,
            cwd=directory,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._texts = {"stdout": b"", "stderr": b""}
        self._printed = threading.Condition()
        self.said_at = []  # (time, line) of stderr
        self._readers = [threading.Thread(target=self._read, args=(name,), daemon=True) for name in self._texts]
        for reader in self._readers:
            reader.start()
        if stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(stdin.encode())
                self._process.stdin.close()

    def _read(self, name):
        for line in getattr(self._process, name):
            with self._printed:
                self._texts[name] += line
                if name == "stderr":
                    self.said_at.append((time.monotonic(), line.decode(errors="replace").rstrip()))
                self._printed.notify_all()

    @property
    def stdout(self):
        return self._texts["stdout"].decode(errors="replace")

    @property
    def stderr(self):
        return self._texts["stderr"].decode(errors="replace")

    def __str__(self):
        code = self._process.poll()
        return f"`{self.command}` ({code})\n--- stdout\n{self.stdout[-3000:]}\n--- stderr\n{self.stderr[-3000:]}"

    def wait(self, seconds=RUN_SECONDS):
        """Waits for the end and returns the exit code; a signal's number comes back negative."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {seconds} s: {self}") from None
        for reader in self._readers:
            reader.join(5)
        return code

    def is_over(self):
        return self._process.poll() is not None

    def succeed(self, seconds=RUN_SECONDS):
        assert self.wait(seconds) == 0, self
        return self

    def wait_for(self, condition, what):
        """Waits for what the program does, outside our sight as well; it must not end before."""
        deadline = time.monotonic() + RUN_SECONDS
        with self._printed:
            while not condition() and not self.is_over():
                assert time.monotonic() < deadline, f"waited {RUN_SECONDS} s until it {what}: {self}"
                # Not all of it is printed.
                self._printed.wait(0.01)
        for reader in self._readers if self.is_over() else ():
            reader.join(5)
        assert condition(), f"ended before it {what}: {self}"
        return self

    def wait_for_stdout(self, text):
        return self.wait_for(lambda: text in self.stdout, f"printed {text!r}")

    def wait_for_stderr(self, text):
        return self.wait_for(lambda: text in self.stderr, f"said {text!r}")

    def wait_until_held(self, gate):
        return self.wait_for(gate.holds_a_request, "sent the request to be held")

    def signal(self, number):
        """To the whole group, as Ctrl-C on a terminal."""
        os.killpg(self._process.pid, number)

    def wait_for_all(self):
        """Waits for the program and the children that it left behind, whatever their exit codes."""
        self._process.wait(RUN_SECONDS)
        until(lambda: not self._group_lives(), f"the children of `{self.command}` to end")

    def _group_lives(self):
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def end(self):
        """Ends the program and the children that it left behind."""
        if self._group_lives():
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Outcome:
    """A run that has ended."""

    def __init__(self, command, code, stdout, stderr):
        self.command = " ".join(map(str, command))
        self.code, self.stdout, self.stderr = code, stdout, stderr

    def __str__(self):
        return f"`{self.command}` ended with {self.code}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"

    def ok(self):
        assert self.code == 0, self
        return self

    def fails(self, text, code=1):
        assert self.code == code and text in self.stderr, f"not {code} with {text!r}: {self}"
        return self

    def json(self):
        return json.loads(self.stdout)


def run(command, stdin="", environment=None, directory=None, seconds=RUN_SECONDS, **options):
    """Runs a program to its end."""
    command = [str(part) for part in command]
    done = subprocess.run(
        command,
        input=stdin.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ if environment is None else environment,
        cwd=directory,
        timeout=seconds,
        **options,
    )
    return Outcome(command, done.returncode, *(text.decode(errors="replace") for text in (done.stdout, done.stderr)))


def until(condition, what, seconds=RUN_SECONDS):
    """For what cannot be awaited as an event: a file, or a process that is not ours."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.01)
