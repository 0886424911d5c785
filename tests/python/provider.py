"""A practice provider that records every request: Qwen's device flow and token endpoint, and a model that echoes.

Refresh tokens are single use, and presenting a used one ends the login, as strict servers do; that is how a test sees
a refresh that was sent twice. Replies can be held back, so that a test decides what happens while a request is open.
"""

import base64
import hashlib
import json
import secrets
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

ACCESS_TOKEN_SECONDS = 6 * 3600
HOLD_SECONDS = 30  # no reply is held longer, so that a failing test ends


@dataclass
class Request:
    """One request as the provider saw it; `kind` is `device`, `poll`, `refresh` or `model`."""

    kind: str
    user_agent: str
    token: str = ""  # the refresh token or bearer that was presented
    status: int = 0
    headers: dict = field(default_factory=dict)


class Gate:
    """Lets requests through until it is closed; then they wait until it is opened again."""

    def __init__(self):
        self._open = threading.Event()
        self._open.set()
        self._reached = threading.Event()

    def close(self):
        self._reached.clear()
        self._open.clear()

    def open(self):
        self._open.set()

    def holds_a_request(self):
        return self._reached.is_set()

    def pass_through(self):
        if not self._open.is_set():
            self._reached.set()
            self._open.wait(HOLD_SECONDS)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512  # a stampede is not to be slowed by refused connections

    def handle_error(self, _request, _address):
        """A client that leaves in the middle is no fault; anything else is worth its traceback."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            traceback.print_exc()


class Loopback:
    """A server on loopback. `with` stops it."""

    def __init__(self, handler):
        self._server = Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        # The end of a test waits for the next look at whether to go on.
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class Answering(BaseHTTPRequestHandler):
    """Answers as a model does, in the OpenAI and Anthropic protocols, whole or as events."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def chat(self, asked):
        call = tool_call(asked)
        answer = f"practice answer to: {last_user_text(asked)}"
        if asked.get("stream"):
            self.stream(asked, answer, call)
        else:
            message = {"role": "assistant", "content": answer}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.reply(200, envelope(asked, "chat.completion", [choice]) | {"usage": USAGE})

    def response(self, asked):
        """As events, which is all that Codex asks for."""
        if call := tool_call(asked):
            name, arguments = call
            item = {"type": "function_call", "call_id": "call_1", "name": name, "arguments": arguments}
        else:
            text = f"practice answer to: {last_user_text(asked)}"
            item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
        response = {"id": f"resp-{secrets.token_hex(8)}", "object": "response", "model": asked["model"]}
        usage = {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8}
        self.events(
            {"type": "response.created", "response": response | {"status": "in_progress"}},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": response | {"status": "completed", "usage": usage}},
        )

    def message(self, asked):
        """Anthropic's protocol."""
        text = f"practice answer to: {last_user_text(asked)}"
        usage = {"input_tokens": 3, "output_tokens": 5}
        message = {"id": f"msg-{secrets.token_hex(8)}", "type": "message", "role": "assistant", "model": asked["model"]}
        ending = {"stop_reason": "end_turn", "stop_sequence": None}
        if not asked.get("stream"):
            self.reply(200, message | {"content": [{"type": "text", "text": text}], "usage": usage} | ending)
            return
        begun = message | {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        self.events(
            {"type": "message_start", "message": begun},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": ending, "usage": usage},
            {"type": "message_stop"},
            named=True,
        )

    def stream(self, asked, answer, call):
        def chunk(delta, finish=None, **more):
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            return envelope(asked, "chat.completion.chunk", [choice]) | more

        events = [chunk({"role": "assistant", "content": ""})]
        if call:
            function = dict(zip(("name", "arguments"), call))
            call = {"index": 0, "id": "call_1", "type": "function", "function": function}
            events += [chunk({"tool_calls": [call]})]
        else:
            events += [chunk({"content": word + " "}) for word in answer.split()]
        events += [chunk({}, "tool_calls" if call else "stop", usage=USAGE)]
        self.events(*events, after="data: [DONE]\n\n")

    def events(self, *events, after="", named=False):
        """`named`: each with its type as the event's name, as Anthropic's clients expect."""
        names = [f"event: {event['type']}\n" if named else "" for event in events]
        lines = [f"{name}data: {json.dumps(event)}\n\n" for name, event in zip(names, events)] + [after]
        self.send(200, "text/event-stream", "".join(lines).encode())

    def reply(self, status, value):
        self.send(status, "application/json", json.dumps(value).encode())

    def send(self, status, content_type, body):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Provider(Loopback):
    def __init__(self):
        self.requests: list[Request] = []
        self.refresh_gate = Gate()
        self.model_gate = Gate()
        self._lock = threading.Lock()
        self._device_codes: dict[str, dict] = {}
        self._access_tokens: set[str] = set()
        self._refresh_tokens: dict[str, bool] = {}  # token → still good
        self.reuse_seen = False
        self.before_next_answer = None  # done once, when the model has let a request in
        self.api_url = None  # where the models are, if not here
        super().__init__(self._handler())

    def close(self):
        self.refresh_gate.open()
        self.model_gate.open()
        super().close()

    def of_kind(self, kind):
        with self._lock:
            return [request for request in self.requests if request.kind == kind]

    def expire_access_tokens(self):
        with self._lock:
            self._access_tokens.clear()

    def current_refresh_tokens(self):
        with self._lock:
            return [token for token, good in self._refresh_tokens.items() if good]

    def _issue(self):
        access, refresh = f"access-{secrets.token_hex(16)}", f"refresh-{secrets.token_hex(16)}"
        self._access_tokens.add(access)
        self._refresh_tokens[refresh] = True
        return {
            "access_token": access,
            "refresh_token": refresh,
            "token_type": "Bearer",
            "expires_in": ACCESS_TOKEN_SECONDS,
            "resource_url": self.api_url or self.url,
            "scope": "openid profile email model.completion",
        }

    def grant(self):
        """A login, as if it had been approved."""
        with self._lock:
            return self._issue()

    def log_in(self, home, seconds=ACCESS_TOKEN_SECONDS, **fields):
        """A login below `home` as Qwen Code writes it, that lasts so long; what was granted."""
        granted = self.grant()
        stored = {name: granted[name] for name in ("access_token", "refresh_token", "token_type", "resource_url")}
        file = home / ".qwen" / "oauth_creds.json"
        file.parent.mkdir(mode=0o700, exist_ok=True)
        file.write_text(json.dumps(stored | {"expiry_date": int((time.time() + seconds) * 1000)} | fields))
        file.chmod(0o600)
        return granted

    def device_code(self, form):
        code = secrets.token_hex(16)
        with self._lock:
            self._device_codes[code] = {"challenge": form.get("code_challenge"), "polls": 0}
        page = f"{self.url}/authorize?user_code=PRAC-TICE"
        return 200, {
            "device_code": code,
            "user_code": "PRAC-TICE",
            "verification_uri": f"{self.url}/authorize",
            "verification_uri_complete": page,
            "expires_in": 900,
            "interval": 0,
        }

    def poll(self, form):
        """Pending once, then approved; the PKCE verifier has to fit the challenge."""
        with self._lock:
            login = self._device_codes.get(form.get("device_code"))
            if login is None:
                return 401, {"error": "invalid_grant", "error_description": "unknown device code"}
            digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != login["challenge"]:
                return 400, {"error": "invalid_grant", "error_description": "the code verifier does not fit"}
            login["polls"] += 1
            if login["polls"] == 1:
                return 200, {"status": "pending"}
            del self._device_codes[form["device_code"]]
            return 200, self._issue()

    def refresh(self, form):
        token = form.get("refresh_token", "")
        with self._lock:
            good = self._refresh_tokens.get(token)
            if good:
                self._refresh_tokens[token] = False
                reply = 200, self._issue()
            else:
                if good is False:  # used before: the whole login ends
                    self.reuse_seen = True
                    self._refresh_tokens = dict.fromkeys(self._refresh_tokens, False)
                    self._access_tokens.clear()
                reply = 400, {"error": "invalid_request", "error_description": "Invalid refresh token or client_id"}
        self.refresh_gate.pass_through()
        return reply

    def knows(self, bearer):
        with self._lock:
            return bearer in self._access_tokens

    def meet_answer(self):
        with self._lock:
            due, self.before_next_answer = self.before_next_answer, None
        if due:
            due()

    def record(self, request):
        with self._lock:
            self.requests.append(request)

    def _handler(provider):
        class Handler(Answering):
            def do_GET(self):
                if self.path.rstrip("/").endswith("/models"):
                    self.reply(200, {"object": "list", "data": [{"id": "coder-model", "object": "model"}]})
                else:
                    self.reply(404, {"error": {"message": f"nothing at {self.path}"}})

            def do_POST(self):
                body = self.body()
                if self.path == "/api/v1/oauth2/device/code":
                    self.oauth("device", body, provider.device_code)
                elif self.path == "/api/v1/oauth2/token":
                    form = parse_qs(body.decode())
                    if form.get("grant_type") == ["refresh_token"]:
                        self.oauth("refresh", body, provider.refresh)
                    else:
                        self.oauth("poll", body, provider.poll)
                elif self.path == "/v1/chat/completions":
                    self.model(json.loads(body), self.chat)
                elif self.path == "/v1/responses":
                    self.model(json.loads(body), self.response)
                elif self.path.partition("?")[0] == "/v1/messages":
                    self.model(json.loads(body), self.message)
                else:
                    self.reply(404, {"error": {"message": f"nothing at {self.path}"}})

            def oauth(self, kind, body, answer):
                form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
                request = Request(kind, self.headers.get("User-Agent", ""), form.get("refresh_token", ""))
                provider.record(request)
                request.status, reply = answer(form)
                self.reply(request.status, reply)

            def model(self, asked, answer):
                bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
                request = Request("model", self.headers.get("User-Agent", ""), bearer, headers=dict(self.headers))
                provider.record(request)
                if not provider.knows(bearer):
                    request.status = 401
                    error = {"code": "invalid_api_key", "message": "invalid access token or token expired"}
                    self.reply(401, {"error": {**error, "param": None, "type": "invalid_request_error"}})
                    return
                provider.model_gate.pass_through()
                request.status = 200
                provider.meet_answer()
                answer(asked)

        return Handler


ECHOED_WORDS = 20
USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


def envelope(asked, kind, choices):
    return {
        "id": f"chatcmpl-{secrets.token_hex(8)}",
        "object": kind,
        "created": int(time.time()),
        "model": asked.get("model", "coder-model"),
        "choices": choices,
    }


# Tools of agents that the model knows how to use, each of which lists a directory or says a word.
TOOLS = {
    "bash": {"command": "echo said-by-a-tool", "description": "says a word"},
    "exec_command": {"cmd": "echo said-by-a-tool"},
    "shell": {"command": ["echo", "said-by-a-tool"]},
    "shell_command": {"command": "echo said-by-a-tool"},
    "list_directory": {"path": "."},
}
CALL_TOOL = "use a tool"


def tool_call(asked):
    """Name and arguments of a tool, where the user asks for one and none has been used yet."""
    said = asked.get("messages") or asked["input"]
    was_used = any(part.get("role") == "tool" or part.get("type") == "function_call_output" for part in said)
    if was_used or CALL_TOOL not in json.dumps(said):
        return None
    offered = [tool.get("name") or tool.get("function", {}).get("name") for tool in asked.get("tools", [])]
    name = next((name for name in offered if name in TOOLS), None)
    return (name, json.dumps(TOOLS[name])) if name else None


def last_user_text(asked):
    """Both ends of the last user message, on one line: clients put their own remarks before or after the question."""
    messages = asked.get("messages") or asked["input"]
    said = next(message["content"] for message in reversed(messages) if message.get("role") == "user")
    if isinstance(said, list):
        said = " ".join(part.get("text", "") for part in said)
    words = said.split()
    return " ".join(words if len(words) <= 2 * ECHOED_WORDS else [*words[:ECHOED_WORDS], "…", *words[-ECHOED_WORDS:]])
