#!/usr/bin/env python3
"""A provider's API behind TLS: `provider.py CERTIFICATE KEY LOG API-KEY`. Each request is a line of JSON in LOG, which alone
tells what was sent and by whom; prints `ready` once it listens on port 443."""

import json
import ssl
import sys
import threading
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from provider import Answering, Server  # noqa: E402

certificate, key_file, log, api_key = sys.argv[1:]
lock = threading.Lock()


class Handler(Answering):
    def answer(self):
        body = self.body()
        line = {
            "at": time.time(),
            "from": self.client_address[0],
            "path": self.path,
            "authorization": self.headers.get("Authorization"),
            "body": body.decode(errors="replace"),
        }
        with lock, open(log, "a") as file:
            file.write(json.dumps(line) + "\n")
        if self.headers.get("Authorization") != f"Bearer {api_key}":
            self.reply(401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}})
        elif self.path.endswith("/models"):
            self.reply(200, {"object": "list", "data": [{"id": "qwen3-coder-plus", "object": "model"}]})
        else:
            self.chat(json.loads(body or b"{}"))

    do_GET = do_POST = answer


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key_file)
server = Server(("0.0.0.0", 443), Handler)
server.handle_error = lambda *_: None  # clients leave when they like
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print("ready", flush=True)
server.serve_forever()
