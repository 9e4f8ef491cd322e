"""The stand-in for a local Ollama on the wire: inference in every dialect, in the shapes of 0.24."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from standins_support import ask, chat

from sidecar.standins import StandInModel, StandInOllama

METRICS = [
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
]
SECRET = "Ruritania's harvest figures are 4711 bushels"


@pytest.fixture
async def server() -> AsyncIterator[StandInOllama]:
    models = [
        StandInModel("tiny", capabilities=("completion", "tools")),
        StandInModel("thinker", capabilities=("completion", "thinking")),
        StandInModel("embedder", capabilities=("embedding",)),
        StandInModel("painter", capabilities=("image",)),
        StandInModel("alias", remote_host="https://ollama.com:443", remote_model="gpt-oss:120b"),
    ]
    async with StandInOllama(models) as running:
        yield running
    assert running.errors == []


async def test_chat_streams_records_and_closes_with_figures(server: StandInOllama) -> None:
    answer = await ask(server.port, "POST", "/api/chat", chat())
    assert answer.header("Content-Type") == "application/x-ndjson"
    assert answer.header("Transfer-Encoding") == "chunked"
    assert all(chunk.endswith(b"}\n") and chunk.count(b"\n") == 1 for chunk in answer.chunks)
    *records, last = answer.lines()
    for record in records:
        assert list(record) == ["model", "created_at", "message", "done"]
        assert list(record["message"]) == ["role", "content"]
    assert list(last) == ["model", "created_at", "message", "done", "done_reason", *METRICS]
    assert last["done_reason"] == "stop"
    assert last["eval_count"] == len(records)
    assert "".join(record["message"]["content"] for record in records).startswith("This is a stand-in, not a model:")


async def test_generate_whole_is_the_stream_joined(server: StandInOllama) -> None:
    body = {"model": "tiny", "prompt": "hello"}
    streamed = (await ask(server.port, "POST", "/api/generate", body)).lines()
    whole = (await ask(server.port, "POST", "/api/generate", body | {"stream": False})).json()
    assert list(whole) == ["model", "created_at", "response", "done", "done_reason", "context", *METRICS]
    assert whole["response"] == "".join(record["response"] for record in streamed)
    assert len(whole["context"]) == whole["prompt_eval_count"] + whole["eval_count"]
    raw = (await ask(server.port, "POST", "/api/generate", body | {"stream": False, "raw": True})).json()
    assert "context" not in raw


@pytest.mark.parametrize("dialect", ["chat", "generate", "openai", "completions", "messages", "responses"])
async def test_the_token_limit_is_obeyed_in_every_dialect(server: StandInOllama, dialect: str) -> None:
    paths: dict[str, tuple[str, dict[str, Any]]] = {
        "chat": ("/api/chat", chat(options={"num_predict": 3}, stream=False)),
        "generate": (
            "/api/generate",
            {"model": "tiny", "prompt": "x", "options": {"num_predict": 3}, "stream": False},
        ),
        "openai": ("/v1/chat/completions", chat(max_tokens=3)),
        "completions": ("/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 3}),
        "messages": ("/v1/messages", chat(max_tokens=3)),
        "responses": ("/v1/responses", {"model": "tiny", "input": "x", "max_output_tokens": 3}),
    }
    answer = (await ask(server.port, "POST", *paths[dialect])).json()
    if dialect in ("chat", "generate"):
        assert (answer["eval_count"], answer["done_reason"]) == (3, "length")
    elif dialect in ("openai", "completions"):
        assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (3, "length")
    elif dialect == "messages":
        assert (answer["usage"]["output_tokens"], answer["stop_reason"]) == (3, "max_tokens")
    else:
        assert answer["usage"]["output_tokens"] == 3


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
async def test_nothing_of_the_prompt_comes_back(server: StandInOllama, path: str) -> None:
    first = await ask(server.port, "POST", path, chat(SECRET, max_tokens=40, stream=True))
    again = await ask(server.port, "POST", path, chat(SECRET, max_tokens=40, stream=True))
    other = await ask(server.port, "POST", path, chat(SECRET + "!", max_tokens=40, stream=True))
    for word in SECRET.replace("'", " ").split():
        if len(word) > 4:
            assert word.encode() not in first.body
    if path == "/api/chat":
        said = [[record["message"]["content"] for record in answer.lines()] for answer in (first, again, other)]
        assert said[0] == said[1] != said[2]


async def test_a_tool_is_called_when_the_prompt_asks_for_it(server: StandInOllama) -> None:
    parameters = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    tools = [{"type": "function", "function": {"name": name, "parameters": parameters}} for name in ("f", "g")]
    asked = chat("please use the tool g now", tools=tools, stream=False)
    message = (await ask(server.port, "POST", "/api/chat", asked)).json()["message"]
    assert message["content"] == ""
    assert message["tool_calls"][0]["function"] == {"index": 0, "name": "g", "arguments": {"x": 0}}
    assert message["tool_calls"][0]["id"].startswith("call_")
    plain = (await ask(server.port, "POST", "/api/chat", chat("hello", tools=tools, stream=False))).json()
    assert "tool_calls" not in plain["message"]
    asked["messages"] += [{"role": "assistant", "content": "", "tool_calls": []}, {"role": "tool", "content": "7"}]
    after = (await ask(server.port, "POST", "/api/chat", asked)).json()
    assert "tool_calls" not in after["message"]  # the tool has answered; now the model does


async def test_openai_tool_calls_end_with_their_own_reason(server: StandInOllama) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    answer = await ask(server.port, "POST", "/v1/chat/completions", chat("use the tool", tools=tools, stream=True))
    (_, first), (_, last), (_, done) = answer.events()
    call = first["choices"][0]["delta"]["tool_calls"][0]
    assert list(call) == ["id", "index", "type", "function"]
    assert call["function"] == {"name": "f", "arguments": "{}"}
    assert last["choices"][0]["finish_reason"] == "tool_calls"
    assert done == "[DONE]"


async def test_anthropic_tool_use_has_its_own_block(server: StandInOllama) -> None:
    tools = [{"name": "f", "input_schema": {"type": "object"}}]
    asked = chat("use the tool", tools=tools, stream=True, max_tokens=99)
    events = (await ask(server.port, "POST", "/v1/messages", asked)).events()
    assert [name for name, _ in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[1][1]["content_block"]["type"] == "tool_use"
    assert events[4][1]["delta"] == {"stop_reason": "tool_use"}


async def test_a_schema_is_satisfied(server: StandInOllama) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]}
    native = (await ask(server.port, "POST", "/api/chat", chat(format=schema, stream=False))).json()
    assert native["message"]["content"] == '{"n":3}'
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    openai = (await ask(server.port, "POST", "/v1/chat/completions", chat(response_format=wanted))).json()
    assert openai["choices"][0]["message"]["content"] == '{"n":3}'
    text = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
    made = (await ask(server.port, "POST", "/v1/responses", {"model": "tiny", "input": "x", "text": text})).json()
    assert made["output"][0]["content"][0]["text"] == '{"n":3}'
    assert made["text"] == text


async def test_a_thinking_model_thinks_unless_told_not_to(server: StandInOllama) -> None:
    asked = chat(stream=False) | {"model": "thinker"}
    thought = (await ask(server.port, "POST", "/api/chat", asked)).json()
    silent = (await ask(server.port, "POST", "/api/chat", asked | {"think": False})).json()
    assert thought["message"]["thinking"] == "Thinking as a stand-in does."
    assert "thinking" not in silent["message"]
    assert thought["eval_count"] == silent["eval_count"] + 5
    refused = await ask(server.port, "POST", "/api/chat", chat(think=True))
    assert (refused.status, refused.json()) == (400, {"error": '"tiny" does not support thinking'})
    reasoned = await ask(server.port, "POST", "/v1/responses", {"model": "thinker", "input": "x", "stream": True})
    names = [name for name, _ in reasoned.events()]
    assert names[2:4] == ["response.output_item.added", "response.reasoning_summary_text.delta"]


async def test_openai_streams_with_and_without_usage(server: StandInOllama) -> None:
    without = await ask(server.port, "POST", "/v1/chat/completions", chat(stream=True, max_tokens=2))
    assert b'"usage"' not in without.body
    assert [data for _, data in without.events()][-1] == "[DONE]"
    asked = chat(stream=True, max_tokens=2, stream_options={"include_usage": True})
    answer = await ask(server.port, "POST", "/v1/chat/completions", asked)
    *tokens, finish, usage, done = [data for _, data in answer.events()]
    assert len(tokens) == 2
    assert finish["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert finish["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 2
    assert done == "[DONE]"
    assert len(answer.chunks) == 3  # finish, usage and [DONE] are one write


async def test_completions_carry_zeros_until_the_end(server: StandInOllama) -> None:
    asked = {
        "model": "tiny",
        "prompt": "x",
        "max_tokens": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    first, finish, usage, done = [d for _, d in (await ask(server.port, "POST", "/v1/completions", asked)).events()]
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert first["usage"] == finish["usage"] == zeros
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 1
    assert done == "[DONE]"


async def test_messages_stream_named_events(server: StandInOllama) -> None:
    answer = await ask(server.port, "POST", "/v1/messages", chat(max_tokens=2, stream=True))
    events = answer.events()
    assert [name for name, _ in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert all(name == data["type"] for name, data in events)
    assert events[0][1]["message"]["usage"] == {"input_tokens": len("userhello there") // 4, "output_tokens": 0}
    assert events[5][1]["usage"]["output_tokens"] == 2
    assert len(answer.chunks) == len(events)


async def test_responses_stream_named_events_without_done(server: StandInOllama) -> None:
    answer = await ask(
        server.port, "POST", "/v1/responses", {"model": "tiny", "input": "x", "max_output_tokens": 2, "stream": True}
    )
    events = answer.events()
    assert [name for name, _ in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [data["sequence_number"] for _, data in events] == list(range(10))
    assert events[-1][1]["response"]["usage"]["output_tokens"] == 2
    assert events[0][1]["response"]["usage"] is None


async def test_embeddings_in_three_shapes(server: StandInOllama) -> None:
    two = (await ask(server.port, "POST", "/api/embed", {"model": "embedder", "input": ["a", "b"]})).json()
    assert list(two) == ["model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"]
    assert len(two["embeddings"][0]) == 64
    assert two["embeddings"][0] != two["embeddings"][1]
    assert sum(x * x for x in two["embeddings"][0]) == pytest.approx(1)
    short = (
        await ask(server.port, "POST", "/api/embed", {"model": "embedder", "input": "a", "dimensions": 4})
    ).json()
    assert len(short["embeddings"][0]) == 4
    assert (await ask(server.port, "POST", "/api/embed", {"model": "embedder"})).json()["embeddings"] == []
    old = (await ask(server.port, "POST", "/api/embeddings", {"model": "embedder", "prompt": "a"})).json()
    assert list(old) == ["embedding"]
    asked = {"model": "embedder", "input": "a", "encoding_format": "base64"}
    listed = (await ask(server.port, "POST", "/v1/embeddings", asked)).json()
    assert isinstance(listed["data"][0]["embedding"], str)
    assert listed["usage"] == {"prompt_tokens": 1, "total_tokens": 1}


async def test_an_empty_prompt_loads_and_unloads(server: StandInOllama) -> None:
    loaded = (await ask(server.port, "POST", "/api/generate", {"model": "tiny"})).json()
    assert list(loaded) == ["model", "created_at", "response", "done", "done_reason"]
    assert loaded["done_reason"] == "load"
    running = (await ask(server.port, "GET", "/api/ps")).json()["models"]
    assert [model["name"] for model in running] == ["tiny:latest"]
    assert list(running[0])[-3:] == ["expires_at", "size_vram", "context_length"]
    asked = {"model": "tiny", "messages": [], "keep_alive": 0}
    assert (await ask(server.port, "POST", "/api/chat", asked)).json()["done_reason"] == "unload"
    assert (await ask(server.port, "GET", "/api/ps")).json() == {"models": []}


async def test_unknown_models_in_each_dialect(server: StandInOllama) -> None:
    async def of(path: str, **body: Any) -> tuple[int, Any]:
        answer = await ask(server.port, "POST", path, {"model": "nope", **body})
        return answer.status, answer.json()

    said = [{"role": "user", "content": "x"}]
    assert await of("/api/chat", messages=said) == (404, {"error": "model 'nope' not found"})
    assert await of("/api/generate", prompt="x") == (404, {"error": "model 'nope' not found"})
    assert await of("/api/embed", input="x") == (404, {"error": 'model "nope" not found, try pulling it first'})
    openai = {"message": "model 'nope' not found", "type": "not_found_error", "param": None, "code": None}
    assert await of("/v1/chat/completions", messages=said) == (404, {"error": openai})
    assert await of("/v1/responses", input="x") == (404, {"error": openai})
    status, anthropic = await of("/v1/messages", messages=said, max_tokens=1)
    assert status == 404
    assert anthropic["error"] == {"type": "not_found_error", "message": "model 'nope' not found"}
    assert list(anthropic) == ["type", "error", "request_id"]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/api/chat", b"", "missing request body"),
        ("/api/chat", b"{bad", "invalid character 'b' looking for beginning of object key string"),
        ("/api/chat", b'{"model": "tiny"', "unexpected EOF"),
        ("/api/chat", b"[]", "json: cannot unmarshal array into Go value of type api.ChatRequest"),
        ("/api/chat", b'{"messages":[{}]}', "model is required"),
        (
            "/api/generate",
            b'{"prompt":5}',
            "json: cannot unmarshal number into Go struct field GenerateRequest.prompt of",
        ),
        ("/api/show", b"null", "model is required"),
        ("/v1/chat/completions", b"", "EOF"),
        ("/v1/chat/completions", b'{"model":"tiny","messages":[]}', "[] is too short - 'messages'"),
        ("/v1/messages", b'{"model":"tiny","messages":[{}]}', "max_tokens is required and must be positive"),
        ("/v1/responses", b'{"model":"tiny","input":[{"type":"z"}]}', 'input[0]: unknown input item type: "z"'),
    ],
)
async def test_bad_requests_are_worded_as_ollama_words_them(
    server: StandInOllama, path: str, body: bytes, message: str
) -> None:
    answer = await ask(server.port, "POST", path, body)
    assert answer.status == 400
    error = answer.json()["error"]
    assert (error if isinstance(error, str) else error["message"]).startswith(message)


async def test_json_is_read_as_go_reads_it(server: StandInOllama) -> None:
    for body in (b'{"MODEL":"nope"}', b'{"model":"tiny","Model":"nope"}', b'{"model":"nope"} trailing'):
        answer = await ask(server.port, "POST", "/api/show", body, (("Content-Type", "text/plain"),))
        assert answer.json() == {"error": "model 'nope' not found"}


async def test_a_prompt_that_may_not_be_cut_is_refused(server: StandInOllama) -> None:
    asked = {"model": "tiny", "prompt": "x" * 400, "options": {"num_ctx": 10}, "stream": False}
    assert (await ask(server.port, "POST", "/api/generate", asked)).json()["prompt_eval_count"] == 10
    refused = await ask(server.port, "POST", "/api/generate", asked | {"truncate": False})
    assert (refused.status, refused.json()) == (400, {"error": "the input length exceeds the context length"})
