"""An interactive shell under `exec --gateway`, itself started by a shell with job control, on a terminal."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time

program = sys.argv[1]
child, terminal = pty.fork()
if child == 0:
    os.environ.update(PS1="outer> ", TERM="dumb")
    os.execvp("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"])


def resize(rows, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


seen = ""


def wait_for(pattern):
    """Reads until the pattern has come, and takes what was read up to its end."""
    global seen
    deadline = time.monotonic() + 20
    while True:
        found = re.search(pattern, seen)
        if found:
            seen = seen[found.end():]
            return found
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            sys.exit(f"{pattern!r} did not come: {seen!r}")
        try:
            seen += os.read(terminal, 4096).decode(errors="replace")
        except OSError:
            sys.exit(f"ended before {pattern!r}: {seen!r}")


def wait_until_in_front(name):
    """The shell hands the terminal over after the echo; until then a control character is the shell's."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with open(f"/proc/{os.tcgetpgrp(terminal)}/comm", encoding="utf-8") as comm:
                if comm.read().strip() == name:
                    return
        except OSError:
            pass  # between two groups
        if time.monotonic() > deadline:
            sys.exit(f"`{name}` did not come to the foreground")
        time.sleep(0.01)


def type_in(text):
    os.write(terminal, text.encode())


resize(40, 100)
wait_for("outer> ")
type_in(f"PS1='inner> ' {program} exec --gateway -- bash --norc --noprofile --noediting -i\n")
wait_for("inner> $")
type_in("stty size\n")
print("size", wait_for(r"\n(\d+ \d+)\r").group(1))
wait_for("inner> ")
resize(50, 120)
type_in("stty size\n")
print("resized", wait_for(r"\n(\d+ \d+)\r").group(1))
wait_for("inner> ")
type_in("sleep 60\n")
wait_for("sleep 60\r\n")
wait_until_in_front("sleep")
type_in("\x03")
wait_for("inner> ")
type_in("echo code=$?\n")
print("interrupted", wait_for(r"code=(\d+)\r").group(1))
wait_for("inner> ")
type_in("sleep 61\n")
wait_for("sleep 61\r\n")
wait_until_in_front("sleep")
type_in("\x1a")
wait_for("Stopped.*sleep 61")
wait_for("inner> ")
# `exit` refuses while a stopped job is left. (The quotes keep the typed line from being taken for its output.)
type_in("kill -9 %1; until [ -z \"$(jobs -s)\" ]; do :; done; echo fin''ished\n")
wait_for("finished\r")
print("stopped and continued")
wait_for("inner> ")
type_in("exit 3\n")
wait_for("outer> ")
# A program without job control of its own: Ctrl-Z is for the outer shell. It starts no process, because one that is
# stopped between vfork and exec keeps its parent from stopping.
type_in(f"{program} exec --gateway -- sh -c 'echo begun; read line; exit 7'\n")
wait_for("begun\r\n")
type_in("\x1a")
wait_for("Stopped")
wait_for("outer> ")
type_in("fg\n")
wait_for(r"read line; exit 7.*\n")
type_in("\n")
wait_for("outer> ")
print("suspended and continued")
type_in("echo code=$?\n")
print("code", wait_for(r"code=(\d+)\r").group(1))
type_in("exit\n")
os.kill(child, signal.SIGHUP)
