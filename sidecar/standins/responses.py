"""/v1/responses as Ollama speaks it: one JSON object, or named events without a [DONE]."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sidecar.standins.dialect import QUIET_EVENT_STREAM, ApiError, infer, json_body, sse, usage
from sidecar.standins.exchange import Answer, Exchange
from sidecar.standins.generation import Ask, Generation, Step, ToolCall
from sidecar.standins.gojson import Fields, GoJsonError, dumps, typed
from sidecar.standins.native import add_message
from sidecar.standins.openai_v1 import check_image, think_of

if TYPE_CHECKING:
    from sidecar.standins.ollama import StandInOllama

_GO_TYPE = "ResponsesRequest"


async def responses(server: StandInOllama, exchange: Exchange, _path: str) -> Answer:
    body = await json_body(exchange, "openai.ResponsesRequest", early=True)
    try:
        ask = _ask(body)
    except GoJsonError as error:
        raise ApiError(400, str(error), early=True) from error
    if any(_is_web_tool(tool) for tool in typed(body, _GO_TYPE, "tools", list, [])):
        server.reaches_cloud(exchange)
    number = exchange.request.index
    try:
        return await infer(server, exchange, ask, "chat", lambda run: ResponsesRenderer(run, body, number))
    except ApiError as error:
        error.headers = [("Cache-Control", "no-cache")] if ask.stream else []
        raise


def _is_web_tool(tool: Any) -> bool:
    kind = str(tool.field("type") or "") if isinstance(tool, Fields) else ""
    return kind.startswith(("web_search", "web_fetch"))


def _ask(body: Fields) -> Ask:
    reasoning = body.field("reasoning")
    text = body.field("text")
    wanted = text.field("format") if isinstance(text, Fields) else None
    schema = isinstance(wanted, Fields) and wanted.field("type") == "json_schema"
    ask = Ask(
        typed(body, _GO_TYPE, "model", str, ""),
        max_tokens=typed(body, _GO_TYPE, "max_output_tokens", int, 0),
        stream=typed(body, _GO_TYPE, "stream", bool, default=False),
        format=wanted.field("schema") if schema and isinstance(wanted, Fields) else None,
        think=think_of(reasoning.field("effort")) if isinstance(reasoning, Fields) else None,
        tools=[_tool(tool) for tool in typed(body, _GO_TYPE, "tools", list, []) if isinstance(tool, Fields)],
    )
    if instructions := typed(body, _GO_TYPE, "instructions", str, ""):
        add_message(ask, "system", instructions)
    given = body.field("input")
    if isinstance(given, str):
        add_message(ask, "user", given)
    elif isinstance(given, list):
        for index, item in enumerate(given):
            _add(ask, item, index)
    elif given is not None:
        raise GoJsonError("input must be a string or array")
    return ask


def _tool(tool: Fields) -> Fields:
    function = {name: tool.field(name) for name in ("name", "description", "parameters") if tool.field(name)}
    return Fields([("type", tool.field("type")), ("function", Fields(list(function.items())))])


def _add(ask: Ask, item: Any, index: int) -> None:
    if not isinstance(item, Fields):
        raise GoJsonError(f"input[{index}]: json: cannot unmarshal into Go value")
    kind = item.field("type") or ("message" if item.field("role") else "")
    if kind == "message":
        text, pictures = _content(item.field("content"), f"input[{index}]: content")
        add_message(ask, str(item.field("role") or ""), text, images=pictures)
    elif kind == "function_call":
        add_message(ask, "assistant", f"{item.field('name') or ''}{item.field('arguments') or ''}")
    elif kind == "function_call_output":
        text, pictures = _content(item.field("output"), f"input[{index}]: output")
        add_message(ask, "tool", text, images=pictures)
    elif kind == "reasoning":
        add_message(ask, "assistant", str(item.field("encrypted_content") or ""))
    elif kind:
        raise GoJsonError(f'input[{index}]: unknown input item type: "{kind}"')
    else:
        raise GoJsonError(f"input[{index}]: input item missing required 'type' field")


def _content(content: Any, where: str) -> tuple[str, int]:
    if content is None or isinstance(content, str):
        return content or "", 0
    if not isinstance(content, list):
        raise GoJsonError(f"{where} must be a string or array")
    texts, pictures = [], 0
    for number, part in enumerate(content):
        kind = part.field("type") if isinstance(part, Fields) else None
        if kind in ("input_text", "output_text"):
            texts.append(str(part.field("text") or ""))
        elif kind == "input_image":
            if url := part.field("image_url"):
                check_image(url)
                pictures += 1
        elif kind == "input_file":
            raise GoJsonError("file inputs are not currently supported")
        else:
            raise GoJsonError(f"{where}[{number}]: unknown content type: {kind or ''}")
    return "".join(texts), pictures


class ResponsesRenderer:
    """The object, and its stream: created, in_progress, per item added/delta/done, completed. Go writes the streamed
    ones from maps, so their keys are sorted; each event is a write of its own and has a `sequence_number`."""

    headers = QUIET_EVENT_STREAM

    def __init__(self, run: Generation, body: Fields, number: int) -> None:
        self._run = run
        self._body = body
        self._id = f"resp_{number % 999_999}"
        self._item = f"msg_{number % 999_999}"
        self._sequence = 0
        self._place = 0
        self._opened: str | None = None
        self._output: list[dict[str, Any]] = []

    def step(self, step: Step) -> list[bytes]:
        events = self._created()
        if step.thinking:
            return events + self._thought(step.thinking)
        if step.tool_calls:
            events += self._close()
            for call in step.tool_calls:
                events += self._called(call)
            return events
        return events + (self._said(step.text) if step.text else [])

    def final(self) -> list[bytes]:
        events = self._created() + self._close()
        done = self._object("completed", self._output, completed=True)
        return [*events, self._event("response.completed", {"response": done})]

    def whole(self) -> bytes:
        run = self._run
        output: list[dict[str, Any]] = []
        if run.thinking:
            output.append(self._reasoning(f"rs_{self._id}", run.thinking))
        for number, call in enumerate(run.tool_calls):
            output.append(self._call(f"fc_{self._id}_{number}", call, "completed"))
        if not run.tool_calls:
            output.append(self._message(run.text, "completed"))
        return dumps(self._object("completed", output, completed=True)) + b"\n"

    def _created(self) -> list[bytes]:
        if self._sequence:
            return []
        return [
            self._event(f"response.{name}", {"response": self._object("in_progress", [])})
            for name in ("created", "in_progress")
        ]

    def _event(self, name: str, data: dict[str, Any]) -> bytes:
        written = sse(data | {"type": name, "sequence_number": self._sequence}, name, sort=True)
        self._sequence += 1
        return written

    def _thought(self, text: str) -> list[bytes]:
        place = {"item_id": f"rs_{self._id}", "output_index": self._place, "summary_index": 0}
        events = []
        if self._opened is None:
            self._opened = "reasoning"
            item = {"id": f"rs_{self._id}", "type": "reasoning", "summary": []}
            events.append(self._event("response.output_item.added", {"output_index": self._place, "item": item}))
        return [*events, self._event("response.reasoning_summary_text.delta", place | {"delta": text})]

    def _said(self, text: str) -> list[bytes]:
        events = self._close() if self._opened == "reasoning" else []
        place = {"item_id": self._item, "output_index": self._place, "content_index": 0}
        if self._opened is None:
            self._opened = "message"
            item = self._message("", "in_progress") | {"content": []}
            events.append(self._event("response.output_item.added", {"output_index": self._place, "item": item}))
            events.append(self._event("response.content_part.added", place | {"part": _part("")}))
        return [*events, self._event("response.output_text.delta", place | {"delta": text, "logprobs": []})]

    def _called(self, call: ToolCall) -> list[bytes]:
        item = f"fc_{self._id}_{call.index}"
        place = {"item_id": item, "output_index": self._place}
        whole = self._call(item, call, "completed")
        opened = self._call(item, call, "in_progress") | {"arguments": ""}
        events = [
            self._event("response.output_item.added", {"output_index": self._place, "item": opened}),
            self._event("response.function_call_arguments.delta", place | {"delta": whole["arguments"]}),
            self._event("response.function_call_arguments.done", place | {"arguments": whole["arguments"]}),
            self._event("response.output_item.done", {"output_index": self._place, "item": whole}),
        ]
        self._output.append(whole)
        self._place += 1
        return events

    def _close(self) -> list[bytes]:
        """The events that end the open item."""
        run, place = self._run, {"output_index": self._place}
        if self._opened == "reasoning":
            item: dict[str, Any] = self._reasoning(f"rs_{self._id}", run.thinking)
            named = place | {"item_id": item["id"], "summary_index": 0, "text": run.thinking}
            events = [self._event("response.reasoning_summary_text.done", named)]
        elif self._opened == "message":
            item = self._message(run.text, "completed")
            named = place | {"item_id": self._item, "content_index": 0}
            events = [
                self._event("response.output_text.done", named | {"text": run.text, "logprobs": []}),
                self._event("response.content_part.done", named | {"part": _part(run.text)}),
            ]
        else:
            return []
        events.append(self._event("response.output_item.done", place | {"item": item}))
        self._output.append(item)
        self._opened = None
        self._place += 1
        return events

    def _message(self, text: str, status: str) -> dict[str, Any]:
        content = [_part(text)]
        return {"id": self._item, "type": "message", "status": status, "role": "assistant", "content": content}

    @staticmethod
    def _reasoning(identity: str, text: str) -> dict[str, Any]:
        summary = [{"type": "summary_text", "text": text}]
        return {"id": identity, "type": "reasoning", "summary": summary, "encrypted_content": text}

    @staticmethod
    def _call(identity: str, call: ToolCall, status: str) -> dict[str, Any]:
        return {
            "id": identity,
            "type": "function_call",
            "status": status,
            "call_id": call.id,
            "name": call.name,
            "arguments": dumps(call.arguments).decode(),
        }

    def _object(self, status: str, output: list[dict[str, Any]], *, completed: bool = False) -> dict[str, Any]:
        body, now = self._body, int(time.time())
        reasoning = body.field("reasoning")
        effort = reasoning.field("effort") if isinstance(reasoning, Fields) else None
        text = body.field("text")
        wanted = text.field("format") if isinstance(text, Fields) else None
        return {
            "id": self._id,
            "object": "response",
            "created_at": now,
            "completed_at": now if completed else None,
            "status": status,
            "incomplete_details": None,
            "model": self._run.ask.model,
            "previous_response_id": None,
            "instructions": body.field("instructions") or None,
            "output": output,
            "error": None,
            "tools": [
                {name: tool.field(name) for name in ("type", "name", "description", "strict", "parameters")}
                for tool in body.field("tools") or []
                if isinstance(tool, Fields)
            ],
            "tool_choice": "auto",
            "truncation": body.field("truncation") or "disabled",
            "parallel_tool_calls": True,
            "text": {"format": wanted or {"type": "text"}},
            "top_p": 1 if body.field("top_p") is None else body.field("top_p"),
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "temperature": 1 if body.field("temperature") is None else body.field("temperature"),
            "reasoning": {"effort": effort} if effort else None,
            "usage": self._usage() if completed else None,
            "max_output_tokens": body.field("max_output_tokens"),
            "max_tool_calls": None,
            "store": False,
            "background": bool(body.field("background")),
            "service_tier": "default",
            "metadata": {},
            "safety_identifier": None,
            "prompt_cache_key": None,
        }

    def _usage(self) -> dict[str, Any] | None:
        counted = usage(self._run.counts, ("input_tokens", "output_tokens", "total_tokens"))
        if not counted:
            return None
        details = {
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }
        return counted | details


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
