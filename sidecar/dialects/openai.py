"""OpenAI's dialect: /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses, images and audio."""

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
    items,
    member,
    parse,
    several,
    text_of,
)
from sidecar.dialects.framing import Events, WholeObserver, event_data, event_name

_TEXT_PARTS = frozenset(("text", "input_text", "output_text", "refusal", "summary_text", "reasoning_text"))
_IMAGE_PARTS = frozenset(("image_url", "input_image"))
# Items of /v1/responses that are text through and through. Others (files, computer calls, stored references) hold
# what cannot be scanned here.
_TEXT_ITEMS = frozenset(("message", "function_call", "function_call_output", "reasoning"))


class OpenAIDialect:
    """Streams only when told to; SSE; errors are `{"error": {message, type, param, code}}`."""

    name = "openai"

    def facts(self, route: Route, value: dict[str, Any]) -> Facts:
        read = _READERS.get(route.path, _other)
        facts = read(value)
        facts.stream = value.get("stream") is True
        choices = value.get("n", 1)
        facts.choices = choices if type(choices) is int and 1 <= choices <= 128 else 1
        if choices is not None and facts.choices != choices:
            facts.cloud_blocker = facts.cloud_blocker or "n is no number of answers"
        return facts

    def cap_path(self, value: dict[str, Any]) -> list[tuple[str, ...]]:
        # /v1/responses has an `input`. A body with `messages` beside it gets the bounds of both routes.
        responses: list[tuple[str, ...]] = [("max_output_tokens",)] if "input" in value else []
        if responses and "messages" not in value:
            return responses
        # Ollama knows max_tokens alone and ignores the newer name: the bound that was paid for has to stand there.
        newer = [("max_completion_tokens",)] if value.get("max_completion_tokens") is not None else []
        return [*responses, ("max_tokens",), *newer]

    def observer(self, route: Route, stream: bool, *, drops_usage: bool = False) -> Observer:
        if not stream:
            return OpenAIObserver()
        if route.path == "/v1/responses":
            return ResponsesStreamObserver()
        return ChatStreamObserver(drops_usage=drops_usage)

    def begins_with_error(self, piece: bytes) -> bool:
        return event_data(piece).startswith(b'{"error"') or piece.startswith(b"event: error")

    def error(self, status: int, message: str, code: str) -> bytes:
        return orjson.dumps({"error": _error(status, message, code)})

    def stream_error(self, route: Route, message: str, code: str) -> bytes:
        if route.path == "/v1/responses":
            event = {"type": "error", "code": code, "message": message, "param": None}
            return b"event: error\ndata: " + orjson.dumps(event) + b"\n\n"
        return b"data: " + orjson.dumps({"error": _error(502, message, code)}) + b"\n\n"


def _error(status: int, message: str, code: str) -> dict[str, str | None]:
    kinds = {400: "invalid_request_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"message": message, "type": kind, "param": None, "code": code or None}


def _chat(value: dict[str, Any]) -> Facts:
    gathering = Gathering()
    messages = several(value.get("messages"))
    for message in messages:
        if type(message) is not dict:
            gathering.message(None, gathering.text(message))
            continue
        if "tool_calls" in message:
            gathering.calls += several(message["tool_calls"])
        gathering.message(message.get("role"), _content(gathering, message.get("content")))
    schema = member(value.get("response_format"), "type") == "json_schema"
    facts = gathering.facts(tools=value.get("tools"), structured=schema or _forces(value.get("tool_choice")))
    facts.load_only = not messages
    facts.reruns = value.get("response_format") is not None
    cap, newer = bound(value.get("max_tokens")), bound(value.get("max_completion_tokens"))
    facts.output_cap = newer if cap is None else cap if newer is None else min(cap, newer)
    facts.thinks = value.get("reasoning_effort") not in (None, "none") or _reasons(value)
    facts.usage_asked = member(value.get("stream_options"), "include_usage") is True
    return facts


def _reasons(value: dict[str, Any]) -> bool:
    return member(value.get("reasoning"), "effort") not in (None, "", "none")


def _forces(choice: Any) -> bool:
    return bool(member(choice, "type") == "function")


def _content(gathering: Gathering, content: Any) -> str:
    """The text of a message's content, of one string or of parts."""
    if type(content) is str:
        return content
    return gathering.joint(_parts(gathering, content))


def _parts(gathering: Gathering, content: Any) -> list[str]:
    """The texts of a content; images and what cannot be scanned go to the gathering."""
    if type(content) is not list and type(content) is not dict:
        return [gathering.text(content)]
    texts = []
    for part in several(content):
        kind = text_of(member(part, "type"))
        if kind in _TEXT_PARTS:
            texts.append(gathering.text(part.get("text")))
            if "refusal" in part:
                texts.append(gathering.text(part["refusal"]))
        elif kind in _IMAGE_PARTS:
            image = part.get("image_url")
            gathering.image(member(image, "url") if type(image) is dict else image)
        elif type(part) is str:
            texts.append(part)
        else:
            gathering.opaque = gathering.opaque or "a part of a message is neither text nor an image"
    return texts


def _responses(value: dict[str, Any]) -> Facts:
    gathering = Gathering()
    if value.get("instructions"):
        _items(gathering, value["instructions"], "system")
    given = value.get("input")
    _items(gathering, given, "user")
    for name in ("previous_response_id", "conversation", "prompt"):
        if value.get(name) is not None:
            gathering.opaque = gathering.opaque or f"{name} stands for text that is not in the call"
    form = member(value.get("text"), "format")
    schema = member(form, "type") == "json_schema"
    facts = gathering.facts(tools=value.get("tools"), structured=schema or _forces(value.get("tool_choice")))
    facts.load_only = not given
    facts.reruns = form is not None
    facts.output_cap = bound(value.get("max_output_tokens"))
    facts.thinks = _reasons(value)
    facts.web_tools = any(is_web_tool(member(tool, "type")) for tool in several(value.get("tools")))
    facts.usage_asked = True  # a stream of this route tells its usage without being asked
    return facts


def _items(gathering: Gathering, given: Any, role: str) -> None:
    """What an `input` holds, or `instructions`: a text of this role, or items."""
    if type(given) is not list and type(given) is not dict:
        if given is not None:
            gathering.message(role, gathering.text(given))
        return
    for item in several(given):
        kind = text_of(member(item, "type") or "message")
        if type(item) is not dict or kind not in _TEXT_ITEMS:
            gathering.opaque = gathering.opaque or "an input item is neither text nor an image"
        elif kind == "message":
            gathering.message(item.get("role", role), _content(gathering, item.get("content")))
        elif kind == "reasoning":
            texts = [*_parts(gathering, item.get("summary")), *_parts(gathering, item.get("content"))]
            gathering.message("tool", gathering.joint([text for text in texts if text]))
        elif kind == "function_call":
            gathering.calls.append(item)
            gathering.message("tool", gathering.text(item.get("arguments")))
        else:
            gathering.message("tool", _content(gathering, item.get("output")))


def _completions(value: dict[str, Any]) -> Facts:
    gathering = Gathering()
    prompt = value.get("prompt")
    for text in prompt if type(prompt) is list else [prompt]:
        gathering.message("user", text_of(text))
    facts = gathering.facts()
    facts.output_cap = bound(value.get("max_tokens"))
    return facts


def _embeddings(value: dict[str, Any]) -> Facts:
    gathering = Gathering()
    given = value.get("input")
    for text in given if type(given) is list else [given]:
        gathering.message("user", text_of(text))
    return gathering.facts(embeds=True)


def _other(value: dict[str, Any]) -> Facts:
    gathering = Gathering()
    gathering.message("user", text_of(value.get("prompt")))
    if value.get("image") is not None:
        gathering.image(value.get("image"))
    return gathering.facts()


_READERS = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completions,
    "/v1/embeddings": _embeddings,
    "/v1/responses": _responses,
}


def _read_usage(usage: Usage, told: Any) -> None:
    """Both spellings: chat's prompt/completion tokens and responses' input/output tokens."""
    if type(told) is not dict:
        return
    usage.tokens_in = count(told.get("prompt_tokens", told.get("input_tokens")))
    usage.tokens_out = count(told.get("completion_tokens", told.get("output_tokens")))


class OpenAIObserver(WholeObserver):
    """One JSON answer."""

    __slots__ = ()

    def _learn(self, record: dict[str, Any]) -> None:
        usage = self.usage
        usage.error = record.get("error") is not None
        usage.complete = not usage.error
        _read_usage(usage, record.get("usage"))
        if record.get("object") == "list" and usage.tokens_out is None:
            usage.tokens_out = 0  # embeddings
        choices = items(record.get("choices"))
        usage.finish = text_of(member(choices[0], "finish_reason")) if choices else ""
        if member(record.get("incomplete_details"), "reason") == "max_output_tokens":
            usage.finish = "length"


class ChatStreamObserver:
    """A streamed chat: the usage comes in a chunk of its own, which is dropped where we asked for it ourselves."""

    __slots__ = ("_drops_usage", "_events", "usage")

    def __init__(self, *, drops_usage: bool) -> None:
        self._events = Events(self._take, self._is_usage_alone if drops_usage else None)
        self.usage = Usage()

    def feed(self, pieces: list[bytes]) -> list[bytes]:
        return self._events.feed(pieces)

    def close(self) -> list[bytes]:
        return self._events.close()

    def _take(self, event: bytes) -> None:
        usage = self.usage
        if b"[DONE]" in event and event_data(event) == b"[DONE]":
            usage.complete = True
        elif usage.tokens_out is not None or b'"usage"' in event or b'"error"' in event or _finishes(event):
            record = parse(event_data(event))
            if record is None:
                return
            if record.get("error") is not None:
                usage.error = True
            if record.get("choices"):
                usage.forget()  # what was told before these words does not count them
            _read_usage(usage, record.get("usage"))
            for choice in items(record.get("choices")):
                usage.finish = text_of(member(choice, "finish_reason")) or usage.finish

    @staticmethod
    def _is_usage_alone(event: bytes) -> bool:
        if b'"usage"' not in event:
            return False
        record = parse(event_data(event))
        return record is not None and record.get("choices") == [] and type(record.get("usage")) is dict


def _finishes(event: bytes) -> bool:
    # Every chunk has the field, and all but the last say null: those need no parsing.
    return b'"finish_reason"' in event and b'"finish_reason":null' not in event


class ResponsesStreamObserver:
    """A streamed response: its last event holds the whole of it."""

    __slots__ = ("_events", "usage")
    _LAST = (b"response.completed", b"response.incomplete", b"response.failed")

    def __init__(self) -> None:
        self._events = Events(self._take)
        self.usage = Usage()

    def feed(self, pieces: list[bytes]) -> list[bytes]:
        return self._events.feed(pieces)

    def close(self) -> list[bytes]:
        return self._events.close()

    def _take(self, event: bytes) -> None:
        name = event_name(event)
        if name == b"error":
            self.usage.error = True
        elif name not in self._LAST:
            if self.usage.complete and name:  # so that was not the end
                self.usage.forget()
        else:
            record = parse(event_data(event))
            if record is None:
                return  # cut within: it is not the end that it names
            response = member(record, "response")
            self.usage.complete = True
            self.usage.error = name == b"response.failed"
            _read_usage(self.usage, member(response, "usage"))
            if name == b"response.incomplete":
                self.usage.finish = "length"


OPENAI = OpenAIDialect()
ROUTES = (
    Route("/v1/chat/completions", OPENAI, "chat", cloud_path="/v1/chat/completions"),
    Route("/v1/completions", OPENAI, "text_completion"),
    Route("/v1/embeddings", OPENAI, "embeddings"),
    Route("/v1/responses", OPENAI, "chat", cloud_path="/v1/responses", web_tools=True),
    Route("/v1/images/generations", OPENAI, "generate_content"),
    Route("/v1/images/edits", OPENAI, "generate_content"),
    Route("/v1/audio/transcriptions", OPENAI, "generate_content", multipart=True),
)
