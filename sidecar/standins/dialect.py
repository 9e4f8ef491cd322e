"""What the dialects share: errors in each one's shape, and how a generation becomes an answer."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol

from sidecar.standins.exchange import Answer, Exchange, Piece
from sidecar.standins.generation import Ask, ContextExceededError, Generation, Step, plan
from sidecar.standins.gojson import Fields, GoJsonError, dumps, loads, struct

if TYPE_CHECKING:
    from sidecar.standins.ollama import StandInOllama

JSON_UTF8 = [("Content-Type", "application/json; charset=utf-8")]
"""What gin's c.JSON sets; the /v1 routes write plain `application/json` and a newline at the end."""
JSON_PLAIN = [("Content-Type", "application/json")]
EVENT_STREAM = [("Content-Type", "text/event-stream")]
QUIET_EVENT_STREAM = [*EVENT_STREAM, ("Cache-Control", "no-cache"), ("Connection", "keep-alive")]

_OPENAI_TYPES = {400: "invalid_request_error", 404: "not_found_error"}
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


class ApiError(Exception):
    """An error answer. `early`: found before the handler proper ran (the /v1 routes then answer in gin's own way);
    `native`: in Ollama's shape whatever the route; `extra`: further fields of that shape."""

    def __init__(self, status: int, message: str, *, early: bool = False, native: bool = False, **extra: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.early = early
        self.native = native
        self.extra = extra
        self.headers: list[tuple[str, str]] = []


def of_path(path: str) -> str:
    """The dialect that a path speaks: "anthropic", "openai" or "ollama"."""
    if path.startswith("/v1/messages"):
        return "anthropic"
    return "openai" if path.startswith("/v1/") else "ollama"


def error_object(dialect: str, status: int, message: str) -> dict[str, Any]:
    """The JSON of an error in a dialect's shape."""
    if dialect == "anthropic":
        kind = _ANTHROPIC_TYPES.get(status, "api_error")
        return {
            "type": "error",
            "error": {"type": kind, "message": message},
            "request_id": f"req_{secrets.token_hex(12)}",
        }
    if dialect == "openai":
        kind = _OPENAI_TYPES.get(status, "api_error")
        return {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return {"error": message}


def error_answer(path: str, error: ApiError) -> Answer:
    dialect = "ollama" if error.native else of_path(path)
    body = dumps(error_object(dialect, error.status, error.message) | (error.extra if dialect == "ollama" else {}))
    if dialect == "ollama" or error.early:
        return Answer(error.status, [*JSON_UTF8, *error.headers], body)
    return Answer(error.status, [*JSON_PLAIN, *error.headers], body + b"\n")


def error_record(path: str, message: str) -> bytes:
    """An error in the middle of a stream. Ollama's own routes send a last line of this shape; for the others it is
    what those APIs document (Ollama 0.24 itself sends an empty chunk there)."""
    dialect = of_path(path)
    if dialect == "ollama":
        return dumps({"error": message}) + b"\n"
    if dialect == "anthropic":
        return sse({"type": "error", "error": {"type": "api_error", "message": message}}, "error")
    if path == "/v1/responses":
        return sse({"type": "error", "code": "server_error", "message": message, "param": None}, "error")
    return sse(error_object("openai", 500, message))


def sse(data: Any, event: str = "", *, sort: bool = False) -> bytes:
    name = f"event: {event}\n".encode() if event else b""
    return name + b"data: " + dumps(data, sort=sort) + b"\n\n"


async def json_body(exchange: Exchange, go_type: str, *, early: bool = False) -> Fields:
    """The request's body as a struct; errors as Ollama words them."""
    data = await exchange.read_body()
    try:
        return struct(loads(data), go_type)
    except GoJsonError as error:
        native = not exchange.request.target.startswith("/v1/")
        empty = native and str(error) == "EOF"
        raise ApiError(400, "missing request body" if empty else str(error), early=early) from error


class Renderer(Protocol):
    """Writes one generation in one dialect. `headers` are those of a stream."""

    headers: list[tuple[str, str]]

    def step(self, step: Step) -> list[bytes]:
        """What goes out for one step: a list of separately flushed writes."""

    def final(self) -> list[bytes]:
        """What closes the stream."""

    def whole(self) -> bytes:
        """The answer of a call that is not streamed."""


async def infer(
    server: StandInOllama,
    exchange: Exchange,
    ask: Ask,
    operation: str,
    make: Callable[[Generation], Renderer],
    *,
    loads: bool = False,
) -> Answer:
    """Runs a model for an ask and renders what it says. `operation` is Ollama's word for the call in an error;
    `loads` says that the prompt is empty, which only loads the model."""
    model = server.model_for(exchange, ask.model, operation)
    server.check_capabilities(model, ask, operation)
    try:
        generation = (
            Generation(ask, model, 0, [], "load")
            if loads
            else plan(ask, model, length=server.answer_tokens, tokenizer=server.tokenizer)
        )
    except ContextExceededError:
        # Found by the runner, when a stream is already on: hence no Content-Length there.
        error = dumps({"error": "the input length exceeds the context length"})
        if ask.stream:
            return Answer(400, list(JSON_PLAIN), pieces=server.paced(exchange, [error]))
        return Answer(400, list(JSON_UTF8), error)
    server.begin(exchange, generation)
    renderer = make(generation)
    if ask.stream:
        return Answer(200, list(renderer.headers), pieces=_stream(server, exchange, generation, renderer))
    async with aclosing(server.steps(exchange, generation)) as steps:
        async for _ in steps:
            pass
    plain = of_path(exchange.request.target) != "ollama"
    return Answer(200, list(JSON_PLAIN if plain else JSON_UTF8), renderer.whole())


async def _stream(
    server: StandInOllama, exchange: Exchange, generation: Generation, renderer: Renderer
) -> AsyncIterator[Piece]:
    async with aclosing(server.steps(exchange, generation)) as steps:
        async for step in steps:
            for data in renderer.step(step):
                yield Piece(data)
    for data in renderer.final():
        yield Piece(data, final=True)


def usage(counts: tuple[Any, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Token counts under a dialect's names: input, output and, with a third name, their sum. A count of None is left
    out."""
    tokens_in, tokens_out = counts
    figures = dict(zip(names, (tokens_in, tokens_out), strict=False))
    if len(names) > 2 and tokens_in is not None and tokens_out is not None:
        figures[names[2]] = tokens_in + tokens_out
    return {name: figure for name, figure in figures.items() if figure is not None}
