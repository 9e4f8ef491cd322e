"""Ollama's own dialect: /api/generate, /api/chat, /api/embed, /api/embeddings, and its web search routes."""

from __future__ import annotations

from typing import Any

import orjson

from sidecar.core.call import Facts, Usage
from sidecar.dialects.base import Gathering, Observer, Route, bound, count, member, parse, several, text_of
from sidecar.dialects.framing import LastLine, Whole


class OllamaDialect:
    """Streams unless told not to; NDJSON; errors are `{"error": text}`, also as a stream's last line."""

    name = "ollama"

    def facts(self, route: Route, value: dict[str, Any]) -> Facts:
        if route.web:
            return _search(value)
        read = _READERS.get(route.path, _embed)
        facts = read(value)
        facts.stream = value.get("stream") is not False and read is not _embed
        if "options" in value:
            options = value["options"]
            facts.output_cap = bound(member(options, "num_predict"))
            facts.context_tokens = bound(member(options, "num_ctx"))
        facts.thinks = value.get("think") not in (None, False)
        # Even a null is a format to Ollama. It runs a model again that thought before it wrote, and some models think
        # although they are told not to.
        facts.reruns = "format" in value
        if value.get("template"):
            facts.cloud_blocker = facts.cloud_blocker or "its template may repeat the prompt without bound"
        return facts

    def cap_path(self, value: dict[str, Any]) -> list[tuple[str, ...]]:
        return [("options", "num_predict")]

    def observer(self, route: Route, stream: bool, *, drops_usage: bool = False) -> Observer:
        return OllamaObserver(LastLine() if stream else Whole())

    def begins_with_error(self, piece: bytes) -> bool:
        return piece.lstrip().startswith(b'{"error"')

    def error(self, status: int, message: str, code: str) -> bytes:
        return orjson.dumps({"error": message})

    def stream_error(self, route: Route, message: str, code: str) -> bytes:
        return orjson.dumps({"error": message}) + b"\n"


def _chat(value: dict[str, Any]) -> Facts:
    gathering = Gathering()
    messages = several(value.get("messages"))
    for message in messages:
        if type(message) is not dict:  # a null is an empty message to Ollama
            gathering.message(None, gathering.text(message))
            continue
        if "images" in message:
            _images(gathering, message["images"])
        if "tool_calls" in message:
            gathering.calls += several(message["tool_calls"])
        gathering.message(message.get("role"), gathering.text(message.get("content")))
    facts = gathering.facts(tools=value.get("tools"), structured=type(value.get("format")) is dict)
    facts.load_only = not messages
    return facts


def _generate(value: dict[str, Any]) -> Facts:
    gathering = Gathering()
    if "images" in value:
        _images(gathering, value["images"])
    if value.get("system"):
        gathering.message("system", gathering.text(value["system"]))
    prompt = gathering.text(value.get("prompt"))
    gathering.message("user", prompt)
    facts = gathering.facts(structured=type(value.get("format")) is dict)
    facts.load_only = not prompt and not facts.images
    return facts


def _images(gathering: Gathering, images: Any) -> None:
    if images is None:
        return
    for image in images if type(images) is list else [images]:
        gathering.image(image)


def _embed(value: dict[str, Any]) -> Facts:
    gathering = Gathering()
    inputs = value.get("input", value.get("prompt"))
    for text in inputs if type(inputs) is list else [inputs]:
        gathering.message("user", text_of(text))
    return gathering.facts(embeds=True)


def _search(value: dict[str, Any]) -> Facts:
    gathering = Gathering()
    gathering.message("user", gathering.text(value.get("query")) or gathering.text(value.get("url")))
    facts = gathering.facts()
    facts.web_tools = True
    return facts


_READERS = {"/api/chat": _chat, "/api/generate": _generate}


class OllamaObserver:
    """Learns the usage from the record with `done`: a stream's last line, or the whole answer."""

    __slots__ = ("_last", "usage")

    def __init__(self, last: LastLine | Whole) -> None:
        self._last = last
        self.usage = Usage()

    def feed(self, pieces: list[bytes]) -> list[bytes]:
        for piece in pieces:
            self._last.feed(piece)
        return pieces

    def close(self) -> list[bytes]:
        record = parse(self._last.value)
        if record is None:
            return []
        usage = self.usage
        usage.error = "error" in record
        if record.get("done") is True or "embeddings" in record or "embedding" in record:
            usage.complete = True
            # Ollama leaves out a count that is 0, e.g. when it only loaded the model.
            usage.tokens_in = count(record.get("prompt_eval_count", 0))
            usage.tokens_out = count(record.get("eval_count", 0))
            usage.finish = text_of(record.get("done_reason"))
        return []


OLLAMA = OllamaDialect()
ROUTES = (
    Route("/api/generate", OLLAMA, "text_completion", cloud_path="/api/generate"),
    Route("/api/chat", OLLAMA, "chat", cloud_path="/api/chat"),
    Route("/api/embed", OLLAMA, "embeddings"),
    Route("/api/embeddings", OLLAMA, "embeddings"),
    Route("/api/experimental/web_search", OLLAMA, "execute_tool", cloud_path="/api/web_search", web=True),
    Route("/api/experimental/web_fetch", OLLAMA, "execute_tool", cloud_path="/api/web_fetch", web=True),
    Route("/api/web_search", OLLAMA, "execute_tool", cloud_path="/api/web_search", web=True),
    Route("/api/web_fetch", OLLAMA, "execute_tool", cloud_path="/api/web_fetch", web=True),
)
