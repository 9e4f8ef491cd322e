"""Anthropic's dialect: /v1/messages."""

from __future__ import annotations

from typing import Any

import orjson

from sidecar.core.call import Facts, Usage
from sidecar.dialects.base import (
    Gathering,
    Observer,
    Route,
    bound,
    count,
    is_web_tool,
    member,
    parse,
    several,
    text_of,
)
from sidecar.dialects.framing import Events, WholeObserver, event_data, event_name

_TEXT_BLOCKS = {"text": "text", "thinking": "thinking"}
_NESTED_BLOCKS = frozenset(("tool_result", "search_result"))
# A server writes the JSON of these anew; their keys are a tool's own.
_CALL_BLOCKS = frozenset(("tool_use", "server_tool_use", "web_search_tool_result"))


class AnthropicDialect:
    """Streams only when told to; named SSE events; errors are `{"type": "error", "error": {type, message}}`."""

    name = "anthropic"

    def facts(self, route: Route, value: dict[str, Any]) -> Facts:
        gathering = Gathering()
        system = value.get("system")
        if system:
            gathering.message("system", _content(gathering, system))
        for message in several(value.get("messages")):
            if type(message) is dict:
                gathering.message(message.get("role"), _content(gathering, message.get("content")))
            else:
                gathering.message(None, gathering.text(message))
        forced = member(value.get("tool_choice"), "type") == "tool"
        formats = [value.get("output_format"), member(value.get("output_config"), "format")]
        schema = any(member(form, "type") == "json_schema" for form in formats)
        facts = gathering.facts(tools=value.get("tools"), structured=forced or schema)
        facts.stream = value.get("stream") is True
        facts.output_cap = bound(value.get("max_tokens"))
        facts.reruns = formats != [None, None]
        facts.thinks = member(value.get("thinking"), "type") in ("enabled", "adaptive")
        facts.web_tools = any(is_web_tool(member(tool, "type")) for tool in several(value.get("tools")))
        facts.usage_asked = True
        for name in ("container", "mcp_servers"):
            if value.get(name):
                facts.cloud_blocker = facts.cloud_blocker or f"{name} stands for data that is not in the call"
        return facts

    def cap_path(self, value: dict[str, Any]) -> list[tuple[str, ...]]:
        return [("max_tokens",)]

    def observer(self, route: Route, stream: bool, *, drops_usage: bool = False) -> Observer:
        return MessageStreamObserver() if stream else MessageObserver()

    def begins_with_error(self, piece: bytes) -> bool:
        return piece.startswith((b"event: error", b"event:error"))

    def error(self, status: int, message: str, code: str) -> bytes:
        kinds = {
            400: "invalid_request_error",
            401: "authentication_error",
            403: "permission_error",
            404: "not_found_error",
            413: "request_too_large",
            429: "rate_limit_error",
            503: "overloaded_error",
        }
        kind = kinds.get(status, "invalid_request_error" if status < 500 else "api_error")
        return orjson.dumps({"type": "error", "error": {"type": kind, "message": message}})

    def stream_error(self, route: Route, message: str, code: str) -> bytes:
        return b"event: error\ndata: " + self.error(502, message, code) + b"\n\n"


def _content(gathering: Gathering, content: Any) -> str:
    """The text of a content, of one string or of blocks."""
    if type(content) is str:
        return content
    return gathering.joint(_blocks(gathering, content))


def _blocks(gathering: Gathering, content: Any) -> list[str]:
    """The texts of a content: a string, or blocks; results of tools and searches hold blocks of their own."""
    if type(content) is not list and type(content) is not dict:
        return [gathering.text(content)]
    texts = []
    for block in several(content):
        kind = text_of(member(block, "type"))
        if kind in _TEXT_BLOCKS:
            texts.append(gathering.text(block.get(_TEXT_BLOCKS[kind])))
        elif kind in _NESTED_BLOCKS:
            texts += _blocks(gathering, block.get("content"))
        elif kind == "image":
            _image(gathering, block.get("source"))
        elif type(block) is str:
            texts.append(block)
        elif kind in _CALL_BLOCKS:
            gathering.calls.append(block)
        else:
            gathering.opaque = gathering.opaque or "a content block is neither text nor an image"
    return texts


def _image(gathering: Gathering, source: Any) -> None:
    if member(source, "type") == "url":
        gathering.images += 1
        gathering.blocker = gathering.blocker or "the cloud would fetch a URL"
    elif member(source, "type") == "base64":
        gathering.image(member(source, "data"))
    else:
        gathering.images += 1
        gathering.opaque = gathering.opaque or "an image stands for a file that is not in the call"


class MessageObserver(WholeObserver):
    """One JSON answer."""

    __slots__ = ()

    def _learn(self, record: dict[str, Any]) -> None:
        usage = self.usage
        usage.error = record.get("type") == "error"
        usage.complete = not usage.error
        _read(usage, record.get("usage"))
        usage.finish = _finish(record.get("stop_reason"))


class MessageStreamObserver:
    """A streamed answer: `message_start` estimates the input, `message_delta` tells the usage."""

    __slots__ = ("_events", "usage")

    def __init__(self) -> None:
        self._events = Events(self._take)
        self.usage = Usage()

    def feed(self, pieces: list[bytes]) -> list[bytes]:
        return self._events.feed(pieces)

    def close(self) -> list[bytes]:
        return self._events.close()

    def _take(self, event: bytes) -> None:
        name = event_name(event)
        if name.startswith(b"content_block"):
            if self.usage.tokens_out is not None:
                self.usage.forget()  # what was told before these words does not count them
        elif name == b"message_delta":
            record = parse(event_data(event))
            if record is not None:
                _read(self.usage, record.get("usage"))
                self.usage.finish = _finish(member(record.get("delta"), "stop_reason"))
        elif name == b"message_stop":
            self.usage.complete = parse(event_data(event)) is not None  # not where it was cut within
        elif name == b"error":
            self.usage.error = True


def _read(usage: Usage, told: Any) -> None:
    if type(told) is not dict:
        return
    parts = [told.get("input_tokens")]
    parts += [told[name] for name in ("cache_creation_input_tokens", "cache_read_input_tokens") if told.get(name)]
    counts = [count(part) for part in parts]
    usage.tokens_in = None if None in counts else sum(part for part in counts if part is not None)
    usage.tokens_out = count(told.get("output_tokens"))


def _finish(reason: Any) -> str:
    return "length" if reason == "max_tokens" else text_of(reason)


ANTHROPIC = AnthropicDialect()
ROUTES = (Route("/v1/messages", ANTHROPIC, "chat", cloud_path="/v1/messages", web_tools=True),)
