#!/usr/bin/env python3
"""Runs a command with a relay between it and its `OPENAI_BASE_URL`: `relay.py FILE COMMAND…`.

The relay copies every byte both ways and notes in FILE the status of each answer, one per line, so that a test sees
what a client saw, also where the client would retry and say nothing.
"""

import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


def copy(source, target, seen):
    """Ends the other side as this side ended."""
    try:
        while data := source.recv(65536):
            seen += data
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def accept(listener, address, answers):
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(address)
        answers.append(bytearray())
        for ends in ((client, server, bytearray()), (server, client, answers[-1])):
            threading.Thread(target=copy, args=ends, daemon=True).start()


def main(file, *command):
    url = urlsplit(os.environ["OPENAI_BASE_URL"])
    listener = socket.create_server(("127.0.0.1", 0))
    answers = []
    address = (url.hostname, url.port)
    threading.Thread(target=accept, args=(listener, address, answers), daemon=True).start()
    relayed = urlunsplit(url._replace(netloc=f"127.0.0.1:{listener.getsockname()[1]}"))
    environment = {name: value.replace(url.geturl(), relayed) for name, value in os.environ.items()}
    code = subprocess.run(command, env=environment).returncode
    statuses = [status.decode() for answer in answers for status in STATUS_LINE.findall(answer)]
    Path(file).write_text("".join(f"{status}\n" for status in statuses))
    return code


sys.exit(main(*sys.argv[1:]))
