"""/api/chat, /api/generate, /api/embed and /api/embeddings, in the shapes of Ollama's own API."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from sidecar.standins.dialect import JSON_UTF8, ApiError, infer, json_body
from sidecar.standins.exchange import Answer, Exchange
from sidecar.standins.generation import Ask, Generation, Step, ToolCall, context_ids, embedding
from sidecar.standins.gojson import Fields, GoJsonError, dumps, kind, typed
from sidecar.standins.models import rfc3339

if TYPE_CHECKING:
    from sidecar.standins.ollama import StandInOllama

_NDJSON = [("Content-Type", "application/x-ndjson")]
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
"""A PNG of one pixel: the picture that a stand-in with the capability `image` makes."""


async def chat(server: StandInOllama, exchange: Exchange, _path: str) -> Answer:
    body = await json_body(exchange, "api.ChatRequest")
    try:
        ask = chat_ask(body)
        keep_alive = body.field("keep_alive")
    except GoJsonError as error:
        raise ApiError(400, str(error)) from error
    if not ask.model:
        raise ApiError(400, "model is required")
    if not body.field("messages"):
        message = {"role": "assistant", "content": ""}
        return load_or_unload(server, exchange, ask, keep_alive, "chat", {"message": message})
    answer = await infer(server, exchange, ask, "chat", ChatRenderer)
    server.keep(ask.model, keep_alive)
    return answer


async def generate(server: StandInOllama, exchange: Exchange, _path: str) -> Answer:
    body = await json_body(exchange, "api.GenerateRequest")
    try:
        ask = generate_ask(body)
        raw = typed(body, "GenerateRequest", "raw", bool, default=False)
        keep_alive = body.field("keep_alive")
    except GoJsonError as error:
        raise ApiError(400, str(error)) from error
    if not ask.model:
        raise ApiError(404, "model '' not found")
    if not ask.last_user:
        return load_or_unload(server, exchange, ask, keep_alive, "generate", {"response": ""})
    model = server.model_for(exchange, ask.model, "generate")
    if "image" in model.capabilities:
        return await make_picture(server, exchange, ask)
    answer = await infer(
        server, exchange, ask, "generate", lambda generation: GenerateRenderer(generation, with_context=not raw)
    )
    server.keep(ask.model, keep_alive)
    return answer


def load_or_unload(
    server: StandInOllama, exchange: Exchange, ask: Ask, keep_alive: Any, operation: str, content: dict[str, Any]
) -> Answer:
    """An empty prompt loads the model; with a keep_alive of 0 it unloads. Never streamed, costs nothing."""
    model = server.model_for(exchange, ask.model, operation)
    server.check_capabilities(model, ask, operation)
    unloads = server.keep(ask.model, keep_alive)
    reason = "unload" if unloads else "load"
    record = {"model": ask.model, "created_at": rfc3339(), **content, "done": True, "done_reason": reason}
    return Answer(200, list(JSON_UTF8), dumps(record))


async def make_picture(server: StandInOllama, exchange: Exchange, ask: Ask) -> Answer:
    """A model that makes pictures: progress records, then one with the picture."""
    first = {"model": ask.model, "created_at": rfc3339(), "response": "", "done": False, "completed": 1, "total": 1}
    last = {
        "model": ask.model,
        "created_at": rfc3339(),
        "response": "",
        "done": True,
        "done_reason": "stop",
        "total_duration": 1_000_000,
        "load_duration": 1_000_000,
        "image": _PIXEL,
    }
    if ask.stream:
        return Answer(200, list(_NDJSON), pieces=server.paced(exchange, [dumps(r) + b"\n" for r in (first, last)]))
    return Answer(200, list(JSON_UTF8), dumps(last))


async def embed(server: StandInOllama, exchange: Exchange, _path: str) -> Answer:
    body = await json_body(exchange, "api.EmbedRequest")
    name, texts, dimensions = embed_ask(body, early=False)
    model = server.model_for(exchange, name, "embed")
    tokens = sum(max(1, server.tokenizer(text)) for text in texts)
    server.keep(name, body.field("keep_alive"))
    answer: dict[str, Any] = {"model": name, "embeddings": [embedding(text, dimensions) for text in texts]}
    if texts:
        await server.work(exchange, Generation(Ask(name, texts), model, tokens, [], "stop"))
        answer |= {"total_duration": 2_000_000, "load_duration": 1_000_000, "prompt_eval_count": tokens}
    return Answer(200, list(JSON_UTF8), dumps(answer))


async def embeddings(server: StandInOllama, exchange: Exchange, _path: str) -> Answer:
    body = await json_body(exchange, "api.EmbeddingRequest")
    try:
        name = typed(body, "EmbeddingRequest", "model", str, "")
        prompt = typed(body, "EmbeddingRequest", "prompt", str, "")
    except GoJsonError as error:
        raise ApiError(400, str(error)) from error
    if not name:
        raise ApiError(400, "model is required")
    model = server.model_for(exchange, name, "embed")
    server.keep(name, body.field("keep_alive"))
    if prompt:
        await server.work(exchange, Generation(Ask(name, [prompt]), model, server.tokenizer(prompt), [], "stop"))
    values = [round(8 * value, 7) for value in embedding(prompt)] if prompt else []
    return Answer(200, list(JSON_UTF8), dumps({"embedding": values}))


def embed_ask(body: Fields, *, early: bool) -> tuple[str, list[str], int]:
    """Model, texts and dimensions of an embedding request (also of /v1's)."""
    try:
        name = typed(body, "EmbedRequest", "model", str, "")
        dimensions = typed(body, "EmbedRequest", "dimensions", int, 0)
    except GoJsonError as error:
        raise ApiError(400, str(error), early=early) from error
    value = body.field("input")
    if isinstance(value, str):
        return name, [value] if value else [], dimensions
    if value is None:
        return name, [], dimensions
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ApiError(400, "invalid input type")
    return name, list(value), dimensions


def chat_ask(body: Fields) -> Ask:
    """The ask of a body in /api/chat's shape."""
    ask = _ask(body, "ChatRequest")
    for message in typed(body, "ChatRequest", "messages", list, []):
        if not isinstance(message, Fields):
            raise GoJsonError(
                f"json: cannot unmarshal {kind(message)} into Go struct field ChatRequest.messages of type api.Alias"
            )
        add_message(
            ask,
            typed(message, "Alias", "role", str, "").lower(),
            typed(message, "Alias", "content", str, ""),
            images=_images(typed(message, "Alias", "images", list, [])),
            calls=typed(message, "Alias", "tool_calls", list, []),
        )
    ask.tools = typed(body, "ChatRequest", "tools", list, [])
    return ask


def add_message(ask: Ask, role: str, content: str, *, images: int = 0, calls: Any = ()) -> None:
    ask.texts.append(content + (dumps(calls).decode() if calls else ""))
    ask.images += images
    ask.last_user = content if role == "user" else ""


def generate_ask(body: Fields) -> Ask:
    ask = _ask(body, "GenerateRequest")
    for name in ("system", "template", "prompt", "suffix"):
        if text := typed(body, "GenerateRequest", name, str, ""):
            ask.texts.append(text)
    if carried := typed(body, "GenerateRequest", "context", list, []):
        ask.texts.append("\0" * (4 * len(carried)))  # token ids of an earlier call cost a token each
    ask.inserts = bool(body.field("suffix"))
    ask.images = _images(typed(body, "GenerateRequest", "images", list, []))
    ask.last_user = typed(body, "GenerateRequest", "prompt", str, "")
    return ask


def _ask(body: Fields, go_type: str) -> Ask:
    options = typed(body, go_type, "options", dict, {})
    think = body.field("think")
    if isinstance(think, str) and think not in ("high", "medium", "low", "max"):
        raise GoJsonError(f'invalid think value: "{think}" (must be "high", "medium", "low", "max", true, or false)')
    return Ask(
        model=typed(body, go_type, "model", str, ""),
        format=body.field("format"),
        max_tokens=_option(options, "num_predict"),
        context=_option(options, "num_ctx"),
        think=None if think is None else bool(think),
        stream=typed(body, go_type, "stream", bool, default=True),
        logprobs=typed(body, go_type, "logprobs", bool, default=False),
        top_logprobs=typed(body, go_type, "top_logprobs", int, 0),
        truncate=typed(body, go_type, "truncate", bool, default=True),
    )


def _option(options: dict[str, Any], name: str) -> int | None:
    value = options.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ApiError(500, f'option "{name}" must be of type integer')
    return int(value)


def _images(images: list[Any]) -> int:
    for image in images:
        try:
            base64.b64decode(image, validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise GoJsonError("illegal base64 data at input byte 0") from error
    return len(images)


def logprobs(ask: Ask, step: Step) -> list[dict[str, Any]]:
    """Invented log probabilities for a step's text."""
    if not ask.logprobs or not step.text:
        return []
    token = {"token": step.text, "logprob": -0.5, "bytes": list(step.text.encode())}
    if ask.top_logprobs:
        token |= {"top_logprobs": [dict(token) for _ in range(ask.top_logprobs)]}
    return [token]


def tool_calls(calls: tuple[ToolCall, ...] | list[ToolCall]) -> list[dict[str, Any]]:
    return [
        {"id": call.id, "function": {"index": call.index, "name": call.name, "arguments": call.arguments}}
        for call in calls
    ]


class ChatRenderer:
    """{"model","created_at","message":{"role","content",…},"done",…}: one line per step, a last one with figures."""

    headers = _NDJSON

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def step(self, step: Step) -> list[bytes]:
        record = self._record(step.text, step.thinking, tool_calls(step.tool_calls)) | {"done": False}
        if probable := logprobs(self._generation.ask, step):
            record["logprobs"] = probable
        return [dumps(record) + b"\n"]

    def final(self) -> list[bytes]:
        return [dumps(self._closed(self._record("", "", []), [])) + b"\n"]

    def whole(self) -> bytes:
        run = self._generation
        probable = [one for step in run.steps for one in logprobs(run.ask, step)]
        return dumps(self._closed(self._record(run.text, run.thinking, tool_calls(run.tool_calls)), probable))

    def _record(self, text: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        message |= {"thinking": thinking} if thinking else {}
        message |= {"tool_calls": calls} if calls else {}
        return {"model": self._generation.ask.model, "created_at": rfc3339(), "message": message}

    def _closed(self, record: dict[str, Any], probable: list[dict[str, Any]]) -> dict[str, Any]:
        record |= {"done": True, "done_reason": self._generation.done_reason}
        record |= {"logprobs": probable} if probable else {}
        return record | self._generation.metrics()


class GenerateRenderer:
    """{"model","created_at","response","done",…}; the last one carries `context` unless the prompt was raw."""

    headers = _NDJSON

    def __init__(self, generation: Generation, *, with_context: bool) -> None:
        self._generation = generation
        self._with_context = with_context

    def step(self, step: Step) -> list[bytes]:
        record = self._record(step.text, step.thinking) | {"done": False}
        if probable := logprobs(self._generation.ask, step):
            record["logprobs"] = probable
        return [dumps(record) + b"\n"]

    def final(self) -> list[bytes]:
        return [dumps(self._closed(self._record("", ""))) + b"\n"]

    def whole(self) -> bytes:
        run = self._generation
        record = self._closed(self._record(run.text, run.thinking))
        probable = [one for step in run.steps for one in logprobs(run.ask, step)]
        return dumps(record | ({"logprobs": probable} if probable else {}))

    def _record(self, text: str, thinking: str) -> dict[str, Any]:
        record = {"model": self._generation.ask.model, "created_at": rfc3339(), "response": text}
        return record | ({"thinking": thinking} if thinking else {})

    def _closed(self, record: dict[str, Any]) -> dict[str, Any]:
        record |= {"done": True, "done_reason": self._generation.done_reason}
        if self._with_context:
            record["context"] = context_ids(self._generation)
        return record | self._generation.metrics()
