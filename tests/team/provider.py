#!/usr/bin/env python3
"""A provider's API behind TLS: `provider.py CERTIFICATE KEY LOG API-KEY`. Each request is a line of JSON in LOG, which alone
tells what was sent and by whom; prints `ready` once it listens on port 443."""

import json
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

certificate, key_file, log, api_key = sys.argv[1:]
lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
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
            return self.send(401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}})
        if self.path.endswith("/models"):
            return self.send(200, {"object": "list", "data": [{"id": "qwen3-coder-plus", "object": "model"}]})
        asked = json.loads(body or b"{}")
        usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
        if not asked.get("stream"):
            message = {"role": "assistant", "content": "hello from the provider"}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            return self.send(200, {"id": "1", "object": "chat.completion", "model": asked.get("model"), "choices": choices, "usage": usage})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        base = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": asked.get("model")}
        for delta, reason in (({"role": "assistant", "content": "hello from the provider"}, None), ({}, "stop")):
            event = base | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], "usage": usage if reason else None}
            self.chunk(f"data: {json.dumps(event)}\n\n")
        self.chunk("data: [DONE]\n\n")
        self.chunk("")

    def chunk(self, text):
        self.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())

    def send(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key_file)
server = ThreadingHTTPServer(("0.0.0.0", 443), Handler)
server.daemon_threads = True
server.handle_error = lambda *_: None  # clients leave when they like
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print("ready", flush=True)
server.serve_forever()
