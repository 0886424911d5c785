"""A provider as strict as a real one, and another company's host: what programs ask of either is recorded.

The provider serves exactly the paths, models and forms of authentication that its real counterpart documents, and 404
or 401 otherwise. The foreign host answers everything with 200, so that a request that goes astray looks like success to
the program that sent it.
"""

import json
import threading
from dataclasses import dataclass, field

from provider import Answering, Loopback

CREDENTIAL_HEADERS = ("Authorization", "x-api-key", "api-key", "x-goog-api-key")


@dataclass(frozen=True)
class Service:
    """What one provider serves; `anthropic` is the base path of its Anthropic endpoint, if it has one."""

    base: str
    models: tuple
    has_responses: bool = False
    anthropic: str | None = None
    counts_tokens: bool = False
    check: str | None = None  # a path that only tells whether a key is valid

    def route(self, method, path):
        """The name of the answering method, or nothing where this provider has no such path."""
        routes = {
            ("GET", f"{self.base}/models"): "list_models",
            ("POST", f"{self.base}/chat/completions"): "chat",
        }
        if self.check:
            routes["GET", f"{self.base}/{self.check}"] = "tell_about_key"
        if self.has_responses:
            routes["POST", f"{self.base}/responses"] = "response"
        if self.anthropic:
            routes["POST", f"{self.anthropic}/v1/messages"] = "message"
        if self.anthropic and self.counts_tokens:
            routes["POST", f"{self.anthropic}/v1/messages/count_tokens"] = "count_tokens"
        return routes.get((method, path))


SERVICES = {
    "qwen": Service("/v1", ("coder-model", "vision-model")),
    "dashscope": Service(
        "/compatible-mode/v1",
        ("qwen3.8-flash", "qwen3.8-max", "qwen3.7-max", "qwen3.7-plus", "qwen3.6-flash"),
        has_responses=True,
        anthropic="/apps/anthropic",
        counts_tokens=True,
    ),
    "openrouter": Service(
        "/api/v1",
        ("qwen/qwen3.8-flash", "qwen/qwen3-coder-next", "qwen/qwen3.7-max", "qwen/qwen3.8-27b:free"),
        has_responses=True,
        anthropic="/api",
        check="key",
    ),
    "custom": Service("/v1", ("my-model",), has_responses=True),
}


@dataclass(frozen=True)
class Seen:
    """One request, with every credential that it carried."""

    method: str
    path: str
    status: int
    model: str | None
    credentials: frozenset
    via: str | None
    headers: dict = field(default_factory=dict, compare=False)  # by lower-case name

    def __str__(self):
        return f"{self.method} {self.path} {self.model} → {self.status} via {self.via}"


class Listener(Loopback):
    """Serves on loopback and records; `accepts(key)` says whether a key is the account's."""

    def __init__(self, service=None, accepts=None):
        self.service, self.accepts = service, accepts
        self._requests = []
        self._lock = threading.Lock()
        super().__init__(self._handler())
        self.base_url = f"{self.url}{service.base if service else '/v1'}"

    def requests(self):
        with self._lock:
            return list(self._requests)

    def _handler(listener):
        class Handler(Answering):
            def do_GET(self):
                self.serve()

            def do_POST(self):
                self.serve()

            def do_HEAD(self):
                self.serve()

            def serve(self):
                self.asked = self.question()
                self.path = self.path.partition("?")[0]
                if listener.service:
                    self.serve_strictly()
                else:
                    self.serve_anything()

            def question(self):
                try:
                    asked = json.loads(self.body())
                except ValueError:
                    asked = {}
                return asked if isinstance(asked, dict) else {}

            def serve_strictly(self):
                service, route = listener.service, listener.service.route(self.command, self.path)
                keys = self.credentials()
                if not keys or not all(listener.accepts(key) for key in keys):
                    self.fail(401, "invalid_api_key", "Incorrect API key provided.")
                elif route is None:
                    self.fail(404, "not_found", f"nothing at {self.path}")
                elif self.command == "POST" and self.asked.get("model") not in service.models:
                    self.fail(404, "model_not_found", f"The model `{self.asked.get('model')}` does not exist.")
                else:
                    self.answer(route)

            def serve_anything(self):
                routes = {"messages": "message", "responses": "response", "completions": "chat"}
                self.answer(routes.get(self.path.rpartition("/")[2], "list_models"))

            def credentials(self):
                found = [self.headers.get(name) for name in CREDENTIAL_HEADERS]
                return frozenset(value.removeprefix("Bearer ") for value in found if value)

            def answer(self, route):
                self.record(200)
                getattr(self, route)(self.asked)

            def fail(self, status, code, message):
                self.record(status)
                self.reply(status, {"error": {"message": message, "type": "invalid_request_error", "code": code}})

            def record(self, status):
                seen = Seen(
                    self.command,
                    self.path,
                    status,
                    self.asked.get("model"),
                    self.credentials(),
                    self.headers.get("Via"),
                    {name.lower(): value for name, value in self.headers.items()},
                )
                with listener._lock:
                    listener._requests.append(seen)

            def list_models(self, _):
                models = listener.service.models if listener.service else ("foreign-model",)
                entries = [{"id": model, "object": "model"} for model in models]
                self.reply(200, {"object": "list", "data": entries})

            def tell_about_key(self, _):
                self.reply(200, {"data": {"label": "key"}})

            def count_tokens(self, _):
                self.reply(200, {"input_tokens": 3})

        return Handler
