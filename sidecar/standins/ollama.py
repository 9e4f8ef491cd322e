"""A stand-in for a local Ollama: its routes, its shapes, its framing, and no model behind them."""

from __future__ import annotations

import ipaddress
import posixpath
import re
import socket
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from sidecar.standins import anthropic_v1, management, native, openai_v1, responses
from sidecar.standins.dialect import ApiError, error_answer
from sidecar.standins.exchange import Answer, Exchange
from sidecar.standins.faults import Fault
from sidecar.standins.generation import Ask, Generation, Step, count_tokens
from sidecar.standins.http import StandInServer
from sidecar.standins.models import (
    LOCAL_MODELS,
    ModelTable,
    StandInModel,
    display,
    is_valid,
    qualified,
    split_source,
)
from sidecar.standins.wire import BadBodyError, BadRequestError, RecordedRequest

Handler = Callable[["StandInOllama", Exchange, str], Awaitable[Answer]]
Choice = Fault | Sequence[Fault] | None
Misbehave = deque[Choice] | list[Choice] | Callable[[RecordedRequest], Choice]
"""Which fault the next request meets. A queue gives one entry to each request that does work (generation, embeddings,
web search), None for a request that is answered as it should be; a function is asked for every request, once its body
is there. Several faults in one entry act in their order."""

_INFERENCE: dict[str, Handler] = {
    "/api/chat": native.chat,
    "/api/generate": native.generate,
    "/api/embed": native.embed,
    "/api/embeddings": native.embeddings,
    "/v1/chat/completions": openai_v1.chat_completions,
    "/v1/completions": openai_v1.completions,
    "/v1/embeddings": openai_v1.embeddings,
    "/v1/responses": responses.responses,
    "/v1/messages": anthropic_v1.messages,
    "/v1/images/generations": openai_v1.images,
    "/v1/images/edits": openai_v1.images,
    "/v1/audio/transcriptions": openai_v1.transcriptions,
}
ROUTES: dict[str, dict[str, Handler]] = {
    "HEAD": {
        "/": management.root,
        "/api/version": management.version,
        "/api/tags": management.tags,
        "/api/blobs/:": management.head_blob,
    },
    "GET": {
        "/": management.root,
        "/api/version": management.version,
        "/api/tags": management.tags,
        "/api/status": management.status,
        "/api/ps": management.ps,
        "/api/experimental/model-recommendations": management.recommendations,
        "/v1/models": openai_v1.models,
        "/v1/models/:": openai_v1.model,
    },
    "POST": {
        "/api/pull": management.pull,
        "/api/push": management.push,
        "/api/show": management.show,
        "/api/me": management.whoami,
        "/api/signout": management.signout,
        "/api/create": management.create,
        "/api/blobs/:": management.create_blob,
        "/api/copy": management.copy,
        "/api/experimental/web_search": management.web,
        "/api/experimental/web_fetch": management.web,
        **_INFERENCE,
    },
    "DELETE": {"/api/delete": management.delete, "/api/user/keys/:": management.signout},
}
_WORK = frozenset({*_INFERENCE, "/api/web_search", "/api/web_fetch"})
_PLAIN = [("Content-Type", "text/plain")]
_LOCAL_ORIGIN = re.compile(
    r"https?://(localhost|127\.0\.0\.1|0\.0\.0\.0)(:.*)?|(app|file|tauri|vscode-webview|vscode-file)://.*"
)
_CORS_HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,"
    "X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,"
    "X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,"
    "X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout"
)
_PREFLIGHT = [
    ("Access-Control-Allow-Headers", _CORS_HEADERS),
    ("Access-Control-Allow-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    ("Access-Control-Max-Age", "43200"),
    ("Vary", "Origin"),
    ("Vary", "Access-Control-Request-Method"),
    ("Vary", "Access-Control-Request-Headers"),
]
_OPERATIONS = {"show": "remote model details are unavailable"}


def split_target(target: str) -> tuple[str, str]:
    """The decoded path and the query of a request target, in origin form or absolute form."""
    whole, _, query = target.partition("?")
    if not whole.startswith("/"):
        whole = urlsplit(whole).path or "/"
    return unquote(whole), query


class StandInOllama(StandInServer):
    """A stand-in for a local Ollama server (version 0.24's shapes); not the real thing, no model runs.

    `models`: what it has (names or `StandInModel`s). `answer_tokens`: how long its prose is when no limit ends it
    (None: 16 to 47 by the prompt's hash). `tokenizer`: text to input tokens. `cloud_disabled`: as with
    OLLAMA_NO_CLOUD=1. `cloud_calls` collects every request that a real server would have taken to its cloud by
    itself; the stand-in answers those like a server that is not signed in. Further settings see `StandInServer`.
    """

    label = "local"
    routes = ROUTES

    def __init__(
        self,
        models: Iterable[StandInModel | str] = LOCAL_MODELS,
        *,
        version: str = "0.24.0",
        cloud_disabled: bool = False,
        answer_tokens: int | None = None,
        tokenizer: Callable[[str], int] = count_tokens,
        misbehave: Misbehave | None = None,
        **server_settings: Any,
    ) -> None:
        super().__init__(**server_settings)
        self.models = ModelTable(models)
        self.version = version
        self.cloud_disabled = cloud_disabled
        self.cloud_disabled_source = "env"
        self.answer_tokens = answer_tokens
        self.tokenizer = tokenizer
        self.misbehave = misbehave
        self.cloud_calls: list[RecordedRequest] = []
        self.loaded: dict[str, int] = {}
        """Models in memory: name to the time they leave it, in nanoseconds since the epoch."""
        self.blobs: dict[str, int] = {}
        """Digest (`sha256:…`) to size in bytes; contents are not kept."""
        self.unpullable: set[str] = set()
        """Names that a pull does not find."""

    # -- routing

    async def answer(self, exchange: Exchange) -> Answer:
        path, query = split_target(exchange.request.target)
        try:
            answer = await self._answer(exchange, path, query)
        except (ApiError, BadBodyError) as error:
            api_error = error if isinstance(error, ApiError) else ApiError(400, str(error), early=True)
            answer = error_answer(path, api_error)
        origin = exchange.request.header("origin")
        if origin and answer.status != 403 and not self._same_origin(exchange, origin):
            answer.headers.append(("Access-Control-Allow-Origin", origin))
            if ("Vary", "Origin") not in answer.headers:
                answer.headers.append(("Vary", "Origin"))
        for fault in exchange.faults:
            answer = await fault.after(exchange, answer)
        return answer

    async def _answer(self, exchange: Exchange, path: str, query: str) -> Answer:
        clean = re.sub("/+", "/", posixpath.normpath(path))
        if path.endswith("/") and clean != "/":
            clean += "/"
        if clean != path and path.startswith("/"):
            return self._redirect(exchange, 307, clean, query)
        refused = self._refuse(exchange, path)
        if refused is not None:
            return refused
        pattern, parameter = self._pattern(path)
        handler = self.routes.get(exchange.request.method, {}).get(pattern)
        if handler is None:
            return await self._unknown(exchange, path, query)
        self.authorize(exchange)
        if (instead := await self._misbehave(exchange, pattern)) is not None:
            return instead
        return await handler(self, exchange, parameter)

    def _pattern(self, path: str) -> tuple[str, str]:
        """The route of a path and its last part, where that is a parameter."""
        if any(path in routes for routes in self.routes.values()):
            return path, ""
        parent, _, last = path.rpartition("/")
        return f"{parent}/:", last

    def _allowed_methods(self, path: str) -> str:
        pattern, _ = self._pattern(path)
        return ", ".join(method for method, routes in self.routes.items() if pattern in routes)

    async def _unknown(self, exchange: Exchange, path: str, query: str) -> Answer:
        """No handler: another spelling of a route, another method of one, or nothing that is known."""
        if not exchange.head.expects_continue:
            await exchange.read_body()
        other = path.rstrip("/") or "/"
        if other != path and self._pattern(other)[0] in self.routes.get(exchange.request.method, {}):
            return self._redirect(exchange, 301 if exchange.request.method == "GET" else 307, other, query)
        if allowed := self._allowed_methods(path):
            return Answer(405, [*_PLAIN, ("Allow", allowed)], b"405 method not allowed")
        return Answer(404, list(_PLAIN), b"404 page not found")

    @staticmethod
    def _redirect(exchange: Exchange, status: int, path: str, query: str) -> Answer:
        target = quote(path) + (f"?{query}" if query else "")
        if exchange.request.method not in ("GET", "HEAD"):
            return Answer(status, [("Location", target)])
        reason = "Moved Permanently" if status == 301 else "Temporary Redirect"
        headers = [("Content-Type", "text/html; charset=utf-8"), ("Location", target)]
        return Answer(status, headers, f'<a href="{target}">{reason}</a>.\n\n'.encode())

    # -- who may ask

    def _refuse(self, exchange: Exchange, path: str) -> Answer | None:
        """What Ollama's CORS and host checks answer instead of a route; None when they let the request pass."""
        request = exchange.request
        hosts = request.header_values("host")
        if len(hosts) > 1 or (not hosts and request.version != "HTTP/1.0"):
            raise BadRequestError("400 Bad Request" if hosts else "400 Bad Request: missing required Host header")
        origin = request.header("origin")
        if origin and not self._same_origin(exchange, origin):
            allow = self._allowed_methods(path)
            named = [("Allow", allow)] if request.method == "OPTIONS" and allow else []
            if not _LOCAL_ORIGIN.fullmatch(origin):
                return Answer(403, named)
            if request.method == "OPTIONS":
                return Answer(204, [*_PREFLIGHT, *named])
        return self._refuse_host(request, (hosts or [""])[0], path)

    def _refuse_host(self, request: RecordedRequest, host: str, path: str) -> Answer | None:
        name = urlsplit(f"//{host}").hostname or ""
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            known = name in ("", "localhost", socket.gethostname().lower())
            if not known and not name.endswith((".localhost", ".local", ".internal")):
                return Answer(403)
            if request.method == "OPTIONS":
                allow = self._allowed_methods(path)
                return Answer(204, [("Allow", allow)] if allow else [])
            return None
        return None if address.is_loopback or address.is_private or address.is_unspecified else Answer(403)

    @staticmethod
    def _same_origin(exchange: Exchange, origin: str) -> bool:
        host = exchange.request.header("host")
        return origin in (f"http://{host}", f"https://{host}")

    def authorize(self, exchange: Exchange) -> None:
        """Raises an `ApiError` for a request without the right key; a local server asks for none."""

    # -- faults

    async def _misbehave(self, exchange: Exchange, pattern: str) -> Answer | None:
        choice: Choice = None
        queue = self.misbehave
        if queue and not callable(queue) and pattern in _WORK:
            choice = queue[0]
            del queue[0]
        early = isinstance(choice, Fault) and choice.before_body
        if not early and not pattern.startswith("/api/blobs/"):
            await exchange.read_body()
        if callable(queue):
            choice = queue(exchange.request)
        exchange.faults = (choice,) if isinstance(choice, Fault) else tuple(choice or ())
        for fault in exchange.faults:
            if (instead := await fault.before(exchange)) is not None:
                return instead
        return None

    # -- work

    def model_for(self, exchange: Exchange, name: str, operation: str) -> StandInModel:
        """The model that a request names, or the error that Ollama answers without one."""
        base, source = split_source(name)
        unavailable = _OPERATIONS.get(operation, "remote model is unavailable")
        if source == "cloud":
            error = self.to_cloud(exchange, unavailable)
            error.native = True  # the pass-through to the cloud stands before every dialect
            raise error
        if not base and operation != "embed":
            raise ApiError(400, "model is required")
        if base and not is_valid(base):
            raise ApiError(400, "invalid model name")
        model = self.models.find(base)
        if model is None and operation == "embed":
            raise ApiError(404, f'model "{base}" not found, try pulling it first')
        if model is None or (model.remote and source == "local"):
            raise ApiError(404, f"model '{name if source else base}' not found")
        if model.remote and (operation != "show" or self.cloud_disabled):
            raise self.to_cloud(exchange, unavailable)
        return model

    def to_cloud(self, exchange: Exchange, unavailable: str) -> ApiError:
        """Notes that this request would go to the cloud; returns what a server that is not signed in answers."""
        if self.cloud_disabled:
            return ApiError(403, f"ollama cloud is disabled: {unavailable}")
        self.reaches_cloud(exchange)
        url = "https://ollama.com/connect?name=stand-in&key=stand-in"
        return ApiError(401, "unauthorized", signin_url=url)

    def reaches_cloud(self, exchange: Exchange) -> None:
        if not self.cloud_disabled:
            self.cloud_calls.append(exchange.request)

    @staticmethod
    def check_capabilities(model: StandInModel, ask: Ask, operation: str) -> None:
        if ask.think and "thinking" not in model.capabilities and not ask.relax_thinking:
            raise ApiError(400, f'"{ask.model}" does not support thinking')
        if "completion" not in model.capabilities:
            raise ApiError(400, f'"{ask.model}" does not support {operation}')
        for capability, wanted in (("tools", bool(ask.tools)), ("insert", ask.inserts)):
            if wanted and capability not in model.capabilities:
                raise ApiError(400, f"{qualified(model.name)} does not support {capability}")

    def keep(self, name: str, keep_alive: Any) -> bool:
        """Notes how long a model stays in memory; True when it is to leave it now."""
        seconds = management.keep_seconds(keep_alive)
        if not seconds:
            self.loaded.pop(display(name), None)
            return True
        self.loaded[display(name)] = management.expiry(seconds)
        return False

    def begin(self, exchange: Exchange, generation: Generation) -> None:
        """From here on the request costs: whatever ends it, its input has been read."""
        exchange.generation = generation
        for fault in exchange.faults:
            fault.generation(generation)
        exchange.abort_when_peer_leaves()

    async def work(self, exchange: Exchange, generation: Generation) -> None:
        """Work without output: embeddings."""
        self.begin(exchange, generation)
        await self.pace(exchange, 0)
        generation.complete = True

    async def steps(self, exchange: Exchange, generation: Generation) -> AsyncGenerator[Step, None]:
        """The generation's steps, each as soon as it may come."""
        await self.pace(exchange, 0)
        for number, step in enumerate(generation.steps, 1):
            await self.pace(exchange, number)
            generation.tokens_out += step.tokens
            yield step
        await self.pace(exchange, len(generation.steps) + 1)
        generation.complete = True
