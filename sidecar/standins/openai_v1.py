"""/v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models, pictures and speech, as Ollama speaks OpenAI."""

from __future__ import annotations

import base64
import calendar
import json
import re
import struct
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from sidecar.standins.dialect import (
    EVENT_STREAM,
    JSON_PLAIN,
    ApiError,
    infer,
    json_body,
    sse,
    usage,
)
from sidecar.standins.exchange import Answer, Exchange
from sidecar.standins.generation import Ask, Generation, Step, ToolCall, embedding
from sidecar.standins.gojson import Fields, GoJsonError, dumps, kind, typed
from sidecar.standins.models import StandInModel
from sidecar.standins.native import add_message, embed_ask, logprobs, make_picture

if TYPE_CHECKING:
    from sidecar.standins.ollama import StandInOllama

_DONE = b"data: [DONE]\n\n"
_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")
_DATA_URL = re.compile(r"data:(?:image/(?:jpeg|jpg|png|webp))?;base64,[A-Za-z0-9+/=]*")


async def chat_completions(server: StandInOllama, exchange: Exchange, _path: str) -> Answer:
    body = await json_body(exchange, "openai.ChatCompletionRequest", early=True)
    if not body.field("messages"):
        raise ApiError(400, "[] is too short - 'messages'", early=True)
    try:
        ask, with_usage = chat_ask(body)
    except GoJsonError as error:
        raise ApiError(400, str(error), early=True) from error
    number = exchange.request.index % 999
    return await infer(server, exchange, ask, "chat", lambda run: ChatRenderer(run, number, with_usage))


async def completions(server: StandInOllama, exchange: Exchange, _path: str) -> Answer:
    body = await json_body(exchange, "openai.CompletionRequest", early=True)
    try:
        prompt = typed(body, "CompletionRequest", "prompt", str, "")
        suffix = typed(body, "CompletionRequest", "suffix", str, "")
        ask = Ask(
            typed(body, "CompletionRequest", "model", str, ""),
            [text for text in (prompt, suffix) if text],
            prompt,
            max_tokens=typed(body, "CompletionRequest", "max_tokens", int, 0),
            stream=typed(body, "CompletionRequest", "stream", bool, default=False),
            inserts=bool(suffix),
        )
        with_usage = _include_usage(body, "CompletionRequest")
    except GoJsonError as error:
        raise ApiError(400, str(error), early=True) from error
    number = exchange.request.index % 999
    return await infer(
        server, exchange, ask, "generate", lambda run: CompletionRenderer(run, number, with_usage), loads=not prompt
    )


async def embeddings(server: StandInOllama, exchange: Exchange, _path: str) -> Answer:
    body = await json_body(exchange, "openai.EmbedRequest", early=True)
    encoding = str(body.field("encoding_format") or "float").lower()
    if encoding not in ("float", "base64"):
        text = f"Invalid value for 'encoding_format' = {encoding}. Supported values: ['float', 'base64']."
        raise ApiError(400, text, early=True)
    if body.field("input") in (None, []):
        raise ApiError(400, "invalid input", early=True)
    name, texts, dimensions = embed_ask(body, early=True)
    model = server.model_for(exchange, name, "embed")
    tokens = sum(max(1, server.tokenizer(text)) for text in texts)
    await server.work(exchange, Generation(Ask(name, texts), model, tokens, [], "stop"))
    data = []
    for index, text in enumerate(texts or [""]):
        vector: Any = embedding(text, dimensions)
        if encoding == "base64":
            vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "embedding": vector, "index": index})
    counted = {"prompt_tokens": tokens, "total_tokens": tokens}
    return _plain({"object": "list", "data": data, "model": name, "usage": counted})


async def models(server: StandInOllama, _exchange: Exchange, _path: str) -> Answer:
    listed = [_model(model, model.name) for model in server.models]
    return _plain({"object": "list", "data": listed or None})


async def model(server: StandInOllama, exchange: Exchange, path: str) -> Answer:
    return _plain(_model(server.model_for(exchange, path, "show"), path))


async def images(server: StandInOllama, exchange: Exchange, _path: str) -> Answer:
    body = await json_body(exchange, "openai.ImageGenerationRequest", early=True)
    wanted = ["prompt", "model", *(["image"] if exchange.request.target.endswith("/edits") else [])]
    for name in wanted:
        if not body.field(name):
            raise ApiError(400, f"{name} is required", early=True)
    if (picture := body.field("image")) and not _DATA_URL.fullmatch(str(picture)):
        raise ApiError(400, "invalid image: invalid image input", early=True)
    found = server.model_for(exchange, str(body.field("model")), "generate")
    ask = Ask(found.name, [str(body.field("prompt"))], stream=False)
    if "image" not in found.capabilities:
        # Ollama runs the model, finds no picture in what it says and sends nothing.
        return Answer(200, [("Content-Type", "application/x-ndjson")], pieces=server.paced(exchange, []))
    made = json.loads((await make_picture(server, exchange, ask)).body)
    return _plain({"created": int(time.time()), "data": [{"b64_json": made["image"]}]})


async def transcriptions(server: StandInOllama, exchange: Exchange, _path: str) -> Answer:
    content = await exchange.read_body()
    kind_of_body = exchange.request.header("content-type") or ""
    boundary = re.search(r'boundary="?([^";,]+)', kind_of_body)
    if not kind_of_body.startswith("multipart/form-data") or boundary is None:
        text = "failed to parse multipart form: request Content-Type isn't multipart/form-data"
        raise ApiError(400, text, early=True)
    form = _form(content, boundary.group(1).encode())
    # Go's FormValue: with a multipart body the query comes first.
    query = parse_qs(urlsplit(exchange.request.target).query)
    form |= {name: values[0].encode() for name, values in query.items()}
    if not form.get("model"):
        raise ApiError(400, "model is required", early=True)
    if "file" not in form:
        raise ApiError(400, "file is required: http: no such file", early=True)
    if not form["file"]:
        raise ApiError(400, "audio file is empty", early=True)
    ask = Ask(form["model"].decode("utf-8", "replace"), ["", "", form.get("prompt", b"").decode("utf-8", "replace")])
    ask.images = 1
    bare = form.get("response_format") == b"text"
    answer = await infer(server, exchange, ask, "chat", lambda run: SpeechRenderer(run, bare))
    answer.headers = [("Content-Type", "text/plain")] if bare else answer.headers
    return answer


def _form(content: bytes, boundary: bytes) -> dict[str, bytes]:
    """The fields of a multipart body, the first of each name."""
    fields: dict[str, bytes] = {}
    for part in content.split(b"--" + boundary)[1:]:
        head, blank, value = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        if blank and name:
            fields.setdefault(name.group(1).decode("utf-8", "replace"), value.removesuffix(b"\r\n"))
    return fields


def _plain(value: Any) -> Answer:
    return Answer(200, list(JSON_PLAIN), dumps(value) + b"\n")


def _model(model: StandInModel, name: str) -> dict[str, Any]:
    created = calendar.timegm(time.strptime(model.modified_at[:19], "%Y-%m-%dT%H:%M:%S"))
    owner = model.name.rpartition("/")[0].rpartition("/")[2] or "library"
    return {"id": name, "object": "model", "created": created, "owned_by": owner}


def chat_ask(body: Fields) -> tuple[Ask, bool]:
    """The ask of a chat completion, and whether a stream is to end with a usage chunk."""
    ask = Ask(
        typed(body, "ChatCompletionRequest", "model", str, ""),
        tools=typed(body, "ChatCompletionRequest", "tools", list, []),
        max_tokens=typed(body, "ChatCompletionRequest", "max_tokens", int, 0),
        stream=typed(body, "ChatCompletionRequest", "stream", bool, default=False),
        logprobs=typed(body, "ChatCompletionRequest", "logprobs", bool, default=False),
        top_logprobs=typed(body, "ChatCompletionRequest", "top_logprobs", int, 0),
    )
    for message in typed(body, "ChatCompletionRequest", "messages", list, []):
        if not isinstance(message, Fields):
            raise GoJsonError(f"json: cannot unmarshal {kind(message)} into Go value of type openai.Message")
        _add(ask, message)
    wanted = body.field("response_format")
    if isinstance(wanted, Fields):
        named = str(wanted.field("type") or "").strip().lower()
        schema = wanted.field("json_schema")
        if named == "json_object":
            ask.format = "json"
        elif named == "json_schema" and isinstance(schema, Fields):
            ask.format = schema.field("schema")
    reasoning = body.field("reasoning")
    effort = reasoning.field("effort") if isinstance(reasoning, Fields) else body.field("reasoning_effort")
    ask.think = think_of(effort)
    return ask, _include_usage(body, "ChatCompletionRequest")


def think_of(effort: Any) -> bool | None:
    if not effort:
        return None
    if effort not in ("high", "medium", "low", "max", "none"):
        levels = '"high", "medium", "low", "max", or "none"'
        raise GoJsonError(f"invalid reasoning value: '{effort}' (must be {levels})")
    return bool(effort != "none")


def _include_usage(body: Fields, go_type: str) -> bool:
    options = body.field("stream_options")
    return isinstance(options, Fields) and typed(options, go_type, "include_usage", bool, default=False)


def _add(ask: Ask, message: Fields) -> None:
    role = str(message.field("role") or "").lower()
    content = message.field("content")
    calls = message.field("tool_calls")
    if isinstance(content, str):
        add_message(ask, role, content, calls=calls or ())
    elif isinstance(content, list):
        for part in content:
            what = part.field("type") if isinstance(part, Fields) else None
            if what == "text" and isinstance(part.field("text"), str):
                add_message(ask, role, part.field("text"))
            elif what == "image_url":
                check_image(_image_url(part.field("image_url")))
                add_message(ask, role, ask.last_user, images=1)
            elif what == "input_audio":
                add_message(ask, role, ask.last_user, images=1)
            else:
                raise GoJsonError("invalid message format")
    elif calls is not None:
        add_message(ask, role, "", calls=calls)
    else:
        raise GoJsonError("invalid message content type: <nil>")


def _image_url(value: Any) -> Any:
    return value.field("url") if isinstance(value, Fields) else value


def check_image(url: Any) -> None:
    """Raises for a picture that Ollama does not take: one at an address, or in another form than base64."""
    if not isinstance(url, str):
        raise GoJsonError("invalid message format")
    if url.startswith(("http://", "https://")):
        raise GoJsonError("image URLs are not currently supported, please use base64 encoded data instead")
    if not _DATA_URL.fullmatch(url):
        raise GoJsonError("invalid image input")


def tool_calls(calls: tuple[ToolCall, ...] | list[ToolCall]) -> list[dict[str, Any]]:
    return [
        {
            "id": call.id,
            "index": call.index,
            "type": "function",
            "function": {"name": call.name, "arguments": dumps(call.arguments).decode()},
        }
        for call in calls
    ]


class ChatRenderer:
    """Chunks of one choice each; the finish chunk, the usage chunk (if asked for) and [DONE] leave in one write."""

    headers = EVENT_STREAM

    def __init__(self, run: Generation, number: int, with_usage: bool) -> None:
        self._run = run
        self._id = f"chatcmpl-{number}"
        self._with_usage = with_usage

    def step(self, step: Step) -> list[bytes]:
        return [sse(self._chunk([self._choice("delta", step, None)]))]

    def final(self) -> list[bytes]:
        data = sse(self._chunk([self._choice("delta", Step(), self._reason())]))
        if self._with_usage and (counted := usage(self._run.counts, _USAGE)):
            data += sse(self._chunk([]) | {"usage": counted})
        return [data + _DONE]

    def whole(self) -> bytes:
        run = self._run
        all_of_it = Step(run.text, run.thinking, tuple(run.tool_calls))
        choice = self._choice("message", all_of_it, self._reason())
        if probable := [one for step in run.steps for one in logprobs(run.ask, step)]:
            choice["logprobs"] = {"content": probable}
        answer = self._chunk([choice]) | {"object": "chat.completion"}
        if counted := usage(run.counts, _USAGE):
            answer["usage"] = counted
        return dumps(answer) + b"\n"

    def _reason(self) -> str:
        return "tool_calls" if self._run.tool_calls else self._run.done_reason

    def _choice(self, name: str, step: Step, reason: str | None) -> dict[str, Any]:
        said: dict[str, Any] = {"role": "assistant", "content": step.text}
        said |= {"reasoning": step.thinking} if step.thinking else {}
        said |= {"tool_calls": tool_calls(step.tool_calls)} if step.tool_calls else {}
        choice = {"index": 0, name: said, "finish_reason": reason}
        if name == "delta" and (probable := logprobs(self._run.ask, step)):
            choice["logprobs"] = {"content": probable}
        return choice

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": self._run.ask.model,
            "system_fingerprint": "fp_ollama",
            "choices": choices,
        }


class CompletionRenderer:
    """Like a chat's, but that with include_usage every chunk carries a usage of zeros."""

    headers = EVENT_STREAM

    def __init__(self, run: Generation, number: int, with_usage: bool) -> None:
        self._run = run
        self._id = f"cmpl-{number}"
        self._with_usage = with_usage

    def step(self, step: Step) -> list[bytes]:
        return [sse(self._chunk([self._choice(step.text, None)]) | self._zeros())]

    def final(self) -> list[bytes]:
        data = sse(self._chunk([self._choice("", self._run.done_reason)]) | self._zeros())
        if self._with_usage and (counted := usage(self._run.counts, _USAGE)):
            data += sse(self._chunk([]) | {"usage": counted})
        return [data + _DONE]

    def whole(self) -> bytes:
        chunk = self._chunk([])
        answer = {name: chunk[name] for name in ("id", "object", "created", "model", "system_fingerprint")}
        answer["choices"] = [self._choice(self._run.text, self._run.done_reason)]
        if counted := usage(self._run.counts, _USAGE):
            answer["usage"] = counted
        return dumps(answer) + b"\n"

    def _zeros(self) -> dict[str, Any]:
        return {"usage": dict.fromkeys(_USAGE, 0)} if self._with_usage else {}

    @staticmethod
    def _choice(text: str, reason: str | None) -> dict[str, Any]:
        return {"text": text, "index": 0, "finish_reason": reason}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": int(time.time()),
            "choices": choices,
            "model": self._run.ask.model,
            "system_fingerprint": "fp_ollama",
        }


class SpeechRenderer:
    """What a recording is said to say: {"text"}, or the bare text."""

    headers = EVENT_STREAM

    def __init__(self, run: Generation, bare: bool) -> None:
        self._run = run
        self._bare = bare

    def step(self, step: Step) -> list[bytes]:
        return [step.text.encode()]

    def final(self) -> list[bytes]:
        return []

    def whole(self) -> bytes:
        text = self._run.text.strip()
        return text.encode() if self._bare else dumps({"text": text}) + b"\n"
