"""/v1/messages as Ollama speaks Anthropic: one message, or named events."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from sidecar.standins.dialect import QUIET_EVENT_STREAM, ApiError, infer, json_body, sse, usage
from sidecar.standins.exchange import Answer, Exchange
from sidecar.standins.generation import Ask, Generation, Step
from sidecar.standins.gojson import Fields, GoJsonError, dumps, typed
from sidecar.standins.native import add_message

if TYPE_CHECKING:
    from sidecar.standins.ollama import StandInOllama

_GO_TYPE = "MessagesRequest"
_USAGE = ("input_tokens", "output_tokens")
_SEARCH = {"type": "object", "required": ["query"], "properties": {"query": {"type": "string"}}}


async def messages(server: StandInOllama, exchange: Exchange, _path: str) -> Answer:
    body = await json_body(exchange, "anthropic.MessagesRequest", early=True)
    try:
        ask, estimate = _ask(body)
    except GoJsonError as error:
        raise ApiError(400, str(error), early=True) from error
    if any(str(tool.field("type") or "").startswith(("web_search", "web_fetch")) for tool in _tools(body)):
        server.reaches_cloud(exchange)
    try:
        return await infer(server, exchange, ask, "chat", lambda run: MessagesRenderer(run, estimate))
    except ApiError as error:
        error.headers = [("Cache-Control", "no-cache")] if ask.stream else []
        raise


def _tools(body: Fields) -> list[Fields]:
    return [tool for tool in typed(body, _GO_TYPE, "tools", list, []) if isinstance(tool, Fields)]


def _ask(body: Fields) -> tuple[Ask, int]:
    """The ask, and Ollama's estimate of the input tokens (a quarter of the text's length)."""
    ask = Ask(
        typed(body, _GO_TYPE, "model", str, ""),
        max_tokens=typed(body, _GO_TYPE, "max_tokens", int, 0),
        stream=typed(body, _GO_TYPE, "stream", bool, default=False),
        tools=[_tool(tool) for tool in _tools(body)],
        relax_thinking=True,
    )
    given = typed(body, _GO_TYPE, "messages", list, [])
    if not ask.model:
        raise GoJsonError("model is required")
    if not ask.max_tokens or ask.max_tokens <= 0:
        raise GoJsonError("max_tokens is required and must be positive")
    if not given:
        raise GoJsonError("messages is required")
    thinking = body.field("thinking")
    if isinstance(thinking, Fields) and thinking.field("type") in ("enabled", "disabled"):
        ask.think = thinking.field("type") == "enabled"
    system = body.field("system")
    if isinstance(system, list):
        system = "".join(str(block.field("text") or "") for block in system if isinstance(block, Fields))
    if system:
        add_message(ask, "system", str(system))
    length = len(str(system or "").encode())
    for message in given:
        length += _add(ask, message)
    for tool in _tools(body):
        length += len(str(tool.field("name") or "") + str(tool.field("description") or ""))
        length += len(dumps(tool.field("input_schema"))) if tool.field("input_schema") else 0
    return ask, max(1, length // 4)


def _tool(tool: Fields) -> Fields:
    searches = str(tool.field("type") or "").startswith("web_search")
    function = {
        "name": "web_search" if searches else tool.field("name"),
        "description": tool.field("description") or "",
        "parameters": _SEARCH if searches else tool.field("input_schema") or {},
    }
    return Fields([("type", "function"), ("function", Fields(list(function.items())))])


def _add(ask: Ask, message: Any) -> int:
    """Adds a message; returns the length of its text in bytes."""
    if not isinstance(message, Fields):
        raise GoJsonError("json: cannot unmarshal into Go struct field MessagesRequest.messages")
    role = str(message.field("role") or "").lower()
    content = message.field("content")
    if isinstance(content, str):
        add_message(ask, role, content)
        return len(role) + len(content.encode("utf-8", "replace"))
    length, said, pictures, results = len(role), [], 0, False
    for block in content if isinstance(content, list) else []:
        kind = block.field("type") if isinstance(block, Fields) else None
        if kind in ("text", "thinking"):
            said.append(str(block.field(str(kind)) or ""))
        elif kind == "image":
            source = block.field("source")
            if not isinstance(source, Fields):
                raise GoJsonError("invalid image source")
            if source.field("type") != "base64":
                raise GoJsonError(
                    f"invalid image source type: {source.field('type')}. Only base64 images are supported."
                )
            pictures += 1
        elif kind == "tool_use":
            for name in ("id", "name"):
                if not block.field(name):
                    raise GoJsonError(f"tool_use block missing required '{name}' field")
            said.append(f"{block.field('name')}{dumps(block.field('input')).decode()}")
        elif kind in ("tool_result", "web_search_tool_result"):
            results = True
            inner = block.field("content")
            said.append(inner if isinstance(inner, str) else dumps(inner).decode())
    text = "".join(said)
    add_message(ask, "tool" if results else role, text, images=pictures)
    return length + len(text.encode("utf-8", "replace"))


def _stop_reason(run: Generation) -> str:
    if run.tool_calls:
        return "tool_use"
    return {"stop": "end_turn", "length": "max_tokens"}.get(run.done_reason, "stop_sequence")


class MessagesRenderer:
    """message_start (with the estimated input), content blocks, message_delta (with the counts), message_stop; each
    event is a write of its own."""

    headers = QUIET_EVENT_STREAM

    def __init__(self, run: Generation, estimate: int) -> None:
        self._run = run
        self._estimate = estimate
        self._id = f"msg_{secrets.token_hex(12)}"
        self._started = False
        self._index = 0
        self._open = ""

    def step(self, step: Step) -> list[bytes]:
        events = self._start()
        if step.thinking:
            return [*events, *self._block("thinking"), self._delta("thinking_delta", "thinking", step.thinking)]
        if step.text:
            return [*events, *self._block("text"), self._delta("text_delta", "text", step.text)]
        for call in step.tool_calls:
            block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            events += self._close()
            events += [
                self._event("content_block_start", index=self._index, content_block=block),
                self._delta("input_json_delta", "partial_json", dumps(call.arguments).decode()),
                self._event("content_block_stop", index=self._index),
            ]
            self._index += 1
        return events

    def final(self) -> list[bytes]:
        counted = usage(self._run.counts, _USAGE)
        delta: dict[str, Any] = {"delta": {"stop_reason": _stop_reason(self._run)}}
        delta |= {"usage": counted} if counted else {}
        return [
            *self._start(),
            *self._close(),
            self._event("message_delta", **delta),
            self._event("message_stop"),
        ]

    def whole(self) -> bytes:
        run = self._run
        content: list[dict[str, Any]] = []
        content += [{"type": "thinking", "thinking": run.thinking}] if run.thinking else []
        content += [{"type": "text", "text": run.text}] if run.text else []
        content += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments} for call in run.tool_calls
        ]
        message = self._message(content or None) | {"stop_reason": _stop_reason(run)}
        if counted := usage(run.counts, _USAGE):
            message["usage"] = counted
        return dumps(message) + b"\n"

    def _message(self, content: list[dict[str, Any]] | None) -> dict[str, Any]:
        model = self._run.ask.model
        return {"id": self._id, "type": "message", "role": "assistant", "model": model, "content": content}

    def _start(self) -> list[bytes]:
        if self._started:
            return []
        self._started = True
        message = self._message([]) | {"usage": {"input_tokens": self._estimate, "output_tokens": 0}}
        return [self._event("message_start", message=message)]

    def _block(self, kind: str) -> list[bytes]:
        """Opens a block of this kind, unless it is the one that is open."""
        if self._open == kind:
            return []
        events = self._close()
        self._open = kind
        return [
            *events,
            self._event("content_block_start", index=self._index, content_block={"type": kind, kind: ""}),
        ]

    def _close(self) -> list[bytes]:
        if not self._open:
            return []
        self._open = ""
        self._index += 1
        return [self._event("content_block_stop", index=self._index - 1)]

    def _delta(self, kind: str, name: str, value: str) -> bytes:
        return self._event("content_block_delta", index=self._index, delta={"type": kind, name: value})

    @staticmethod
    def _event(name: str, **data: Any) -> bytes:
        return sse({"type": name, **data}, name)
