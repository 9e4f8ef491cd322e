"""The same bytes to the real server, once straight and once through the sidecar: the same answer, byte for byte."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
import zstandard

from real.worlds import CHATS, Real, call
from support.raw import Answer, Client, connect, request

pytestmark = pytest.mark.real

# What a proxy has to drop (RFC 9110, section 7.6.1).
_HOP_BY_HOP = (b"connection", b"keep-alive")
_TIMES = re.compile(
    rb'"(?:created_at|expires_at|modified_at|(?:request_)?id|created|completed_at|\w*_duration|item_id|call_id)":'
    rb'(?:"[^"]*"|-?\d+)'
)
Pair = tuple[Answer, Answer]


async def both(real: Real, data: bytes, method: str = "GET") -> Pair:
    """The answers to the same bytes: straight from the server, and through the sidecar."""
    answers = []
    for port in (real.local.port, real.port):
        async with connect(port) as client:
            await client.send(data)
            answers.append(await client.read(method))
    return answers[0], answers[1]


def same_head(straight: Answer, through: Answer) -> None:
    """The same status line and the same fields in order and case; behind them ours and nothing else."""
    assert through.status_line == straight.status_line
    expected = [(name, value) for name, value in straight.fields if name.lower() not in _HOP_BY_HOP]
    got = [(name, value) for name, value in through.fields if name.lower() not in _HOP_BY_HOP]
    ours = [name for name, _ in got[len(expected) :]]
    assert ours in ([b"X-Request-Id"], _INFERENCE_HEADERS, _NO_MODEL_HEADERS)
    for (name, value), (want_name, want_value) in zip(got, expected, strict=False):
        assert name == want_name
        if name not in (b"Date", b"Content-Length"):
            assert value == want_value


_INFERENCE_HEADERS = [
    *(b"X-Sidecar-Location", b"X-Sidecar-Model", b"X-Sidecar-Reason", b"X-Sidecar-Trace-Id"),
    b"X-Request-Id",
]
_NO_MODEL_HEADERS = [name for name in _INFERENCE_HEADERS if name != b"X-Sidecar-Model"]


def same(straight: Answer, through: Answer) -> None:
    """The same answer to its last byte, a stream's in the same chunks."""
    same_head(straight, through)
    assert through.get("content-length") == straight.get("content-length")
    assert through.body == straight.body
    if is_stream(straight):
        assert through.chunks == straight.chunks
    assert (through.complete, through.interim) == (True, straight.interim)


def timeless(body: bytes) -> bytes:
    """A body without the times and the random names in it."""
    return _TIMES.sub(b"", body)


def same_but_for_times(straight: Answer, through: Answer) -> None:
    same_head(straight, through)
    assert timeless(through.body) == timeless(straight.body)
    if is_stream(straight):
        assert [timeless(chunk) for chunk in through.chunks] == [timeless(chunk) for chunk in straight.chunks]
    assert through.complete


def is_stream(answer: Answer) -> bool:
    """Whether its chunks are records. Those of a long JSON text are where the server's buffer was full."""
    return (answer.get("content-type") or "").startswith(("application/x-ndjson", "text/event-stream"))


def post(target: str, body: Any, headers: Mapping[str, str] | None = None, **more: Any) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return request("POST", target, headers or {}, data, **more)


# Routes that answer the same each time.

GONE = f"sha256:{'0' * 64}"
TARGETS = [
    *(("GET", target) for target in ("/", "/api/version", "/api/status")),
    *(("HEAD", target) for target in ("/", "/api/version", "/api/tags", "/nothing", "/api/chat")),
    ("GET", "/api/ps"),
    ("GET", "/api/experimental/model-recommendations"),
    ("GET", "/v1/models/tiny"),
    ("GET", "/v1/models/tiny%3Alatest"),
    ("GET", "/v1/models/nothing"),
    ("HEAD", f"/api/blobs/{GONE}"),
    ("HEAD", "/api/blobs/nonsense"),
    # No such route, or not by this method.
    ("GET", "/nothing"),
    ("GET", "/api"),
    ("POST", "/nothing"),
    ("GET", "/api/chat"),
    ("GET", "/v1/chat/completions"),
    ("PUT", "/api/tags"),
    ("DELETE", "/api/tags"),
    ("PATCH", "/api/generate"),
    ("PROPFIND", "/"),
    # Other spellings of a path.
    ("GET", "//api/version"),
    ("GET", "/api//version"),
    ("GET", "/api/tags/"),
    ("GET", "/api/tags//"),
    ("GET", "/api/./version"),
    ("GET", "/api/x/../version"),
    ("GET", "/api/%76ersion"),
    ("GET", "/api%2Fversion"),
    ("GET", "/API/VERSION"),
    ("GET", "/api/version?x=1&y=%20%2F;z"),
    ("GET", "/api/version?"),
    ("GET", "/%F0%9F%A6%99"),
    ("POST", "/api//chat"),
    ("POST", "/api/chat/"),
    ("POST", "/API/CHAT"),
]


@pytest.mark.parametrize(("method", "target"), TARGETS, ids=lambda part: str(part).replace("/", "_"))
async def test_routes_that_answer_the_same_each_time(bare: Real, method: str, target: str) -> None:
    same(*await both(bare, request(method, target), method))


LISTS = ["/api/tags", "/v1/models", "/api/%74ags", "/api/tags?x=1"]


@pytest.mark.parametrize("target", LISTS)
async def test_lists(bare: Real, target: str) -> None:
    """The server lists models that are of one second in any order."""
    straight, through = await both(bare, request("GET", target))
    same_head(straight, through)
    assert through.get("content-length") == straight.get("content-length") == str(len(through.body))
    assert models(through) == models(straight)


def models(answer: Answer) -> list[str]:
    value = answer.json()
    return sorted(json.dumps(model) for model in value.get("models") or value["data"])


BODIES: list[tuple[str, Any]] = [
    ("/api/show", {"model": "tiny"}),
    ("/api/show", {"model": "tiny", "verbose": True}),
    ("/api/show", {"name": "llama3"}),
    ("/api/show", {"model": "nothing"}),
    ("/api/show", {}),
    ("/api/show", b"{"),
    ("/api/show", b"[]"),
    ("/api/show", b'{"model": 5}'),
    ("/api/show", b'{"model": "tiny"} and more'),
    ("/api/copy", {"source": "nothing", "destination": "other"}),
    ("/api/copy", {"source": "tiny", "destination": "not a name"}),
    ("/api/create", {"model": "new"}),
    ("/api/create", {"model": "new", "from": "nothing\n"}),
    ("/api/create", {"model": "new", "files": {"a.gguf": GONE}}),
    ("/api/create", b"{"),
    ("/api/pull", {"model": "nothing"}),
    ("/api/pull", {"model": "nothing", "stream": False}),
    ("/api/pull", {}),
    ("/api/push", {"model": "tiny", "stream": False}),
    # Inference that comes to no generation.
    ("/api/chat", {"model": "nothing", "messages": [{"role": "user", "content": "x"}]}),
    ("/api/generate", {"model": "nothing", "prompt": "x"}),
    ("/api/generate", {"prompt": "x"}),
    ("/api/chat", {"messages": [{"role": "user", "content": "x"}]}),
    ("/api/chat", {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "format": "nonsense"}),
    ("/api/chat", {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "think": True}),
    ("/api/generate", {"model": "tiny", "prompt": "x", "suffix": "y"}),
    ("/api/generate", b""),
    ("/api/chat", b""),
    ("/api/embed", {"model": "nothing", "input": "x"}),
    ("/api/embed", {"model": "tiny"}),
    ("/v1/chat/completions", {"model": "nothing", "messages": [{"role": "user", "content": "x"}]}),
    ("/v1/chat/completions", {"model": "tiny"}),
    ("/v1/completions", {"model": "nothing", "prompt": "x"}),
    ("/v1/embeddings", {"model": "tiny"}),
    ("/v1/responses", {"model": "nothing", "input": "x"}),
    ("/v1/messages", {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}),
    ("/v1/messages", {"model": "nothing", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}),
]


@pytest.mark.parametrize(
    ("target", "body"),
    BODIES,
    ids=[f"{target[1:].replace('/', '_')}-{index}" for index, (target, _) in enumerate(BODIES)],
)
async def test_calls_that_answer_the_same_each_time(bare: Real, target: str, body: Any) -> None:
    straight, through = await both(bare, post(target, body), "POST")
    if through.get("x-sidecar-location") is not None:
        assert through.get("x-sidecar-location") == "local"
    same_but_for_times(straight, through)


@pytest.mark.parametrize("headers", [{}, {"Connection": "close"}, {"Connection": "keep-alive"}, {"X-Other": "a, b"}])
async def test_request_headers_make_no_difference(bare: Real, headers: dict[str, str]) -> None:
    same(*await both(bare, request("GET", "/api/version", headers)))


# Who may ask: hosts and web pages.

ORIGINS = [
    *("http://localhost", "http://localhost:3000", "https://127.0.0.1:8443", "http://0.0.0.0", "app://obsidian.md"),
    *("vscode-webview://1", "https://evil.example", "null", "http://localhost.evil.example", "file://"),
]


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", "/api/version"), ("OPTIONS", "/api/chat"), ("OPTIONS", "/nothing"), ("GET", "/nothing")],
)
async def test_web_pages(bare: Real, origin: str, method: str, target: str) -> None:
    headers = {"Origin": origin}
    if method == "OPTIONS":
        headers |= {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    same(*await both(bare, request(method, target, headers), method))


@pytest.mark.parametrize("origin", ORIGINS)
async def test_web_pages_that_chat(bare: Real, origin: str) -> None:
    data = post("/api/chat", {"model": "nothing", "messages": []}, {"Origin": origin})
    straight, through = await both(bare, data, "POST")
    assert straight.status in (403, 404)
    same(straight, through)


@pytest.mark.parametrize("target", ["/api/chat", "/nothing", "*"])
async def test_options_without_an_origin(bare: Real, target: str) -> None:
    """Nobody's preflight. The server answers 204 to a Host that is a name; the sidecar always sends it an address."""
    same(*await both(bare, request("OPTIONS", target, host="127.0.0.1"), "OPTIONS"))


@pytest.mark.parametrize("host", ["10.1.2.3:8080", "app.local", "ollama.internal:80", "localhost:9"])
async def test_a_page_of_the_same_origin(bare: Real, host: str) -> None:
    """As behind a web server that passes Host and Origin on."""
    data = request("GET", "/api/version", {"Origin": f"http://{host}"}, host=host)
    same(*await both(bare, data))


HOSTS = [
    *("localhost", "localhost:11434", "127.0.0.1", "127.0.0.1:11434", "[::1]:11434", "10.1.2.3", "app.local:80"),
    *("x.localhost", "ollama.internal", "0.0.0.0:11434", "192.168.1.5"),
]


@pytest.mark.parametrize("host", HOSTS)
async def test_hosts(bare: Real, host: str) -> None:
    same(*await both(bare, request("GET", "/api/version", host=host)))


@pytest.mark.parametrize("host", ["evil.example", "evil.example:11434", "localhost.evil.example", "ollama"])
async def test_hosts_that_are_refused(bare: Real, host: str) -> None:
    """The status is the server's; the sidecar says why, where the server says nothing."""
    straight, through = await both(bare, request("GET", "/api/version", host=host))
    assert (straight.status, straight.body) == (403, b"")
    assert through.status == 403
    assert "listen.hosts" in through.json()["error"]


# What changes the server.


async def test_blobs(bare: Real) -> None:
    answers = []
    for port in (bare.local.port, bare.port):
        data = b"GGUF" + port.to_bytes(4, "big") * 100_000
        path = f"/api/blobs/sha256:{hashlib.sha256(data).hexdigest()}"
        async with connect(port) as client:
            steps = [
                ("HEAD", request("HEAD", path)),
                ("POST", request("POST", path, {"Content-Type": "application/octet-stream"}, data)),
                ("HEAD", request("HEAD", path)),
                ("POST", request("POST", path, {}, data, chunked=True)),
            ]
            got = []
            for method, step in steps:
                await client.send(step)
                got.append(await client.read(method))
            answers.append(got)
    assert [answer.status for answer in answers[0]] == [404, 201, 200, 200]
    for straight, through in zip(*answers, strict=True):
        same(straight, through)
    same(*await both(bare, request("POST", f"/api/blobs/{GONE}", {}, b"something else"), "POST"))


async def test_a_chunked_upload(bare: Real) -> None:
    for port, status in ((bare.port, 201), (bare.local.port, 200)):
        data = b"chunk" * 70_000
        async with connect(port) as client:
            path = f"/api/blobs/sha256:{hashlib.sha256(data).hexdigest()}"
            await client.send(request("POST", path, {"Transfer-Encoding": "chunked"}))
            for start in range(0, len(data), 10_000):
                piece = data[start : start + 10_000]
                await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await client.send(b"0\r\n\r\n")
            answer = await client.read("POST")
        assert (answer.status, answer.body) == (status, b"")


async def test_create_copy_and_delete(bare: Real) -> None:
    """Each step straight, then undone, then through the sidecar."""

    async def steps(port: int) -> list[Answer]:
        answers = []
        for method, target, body in (
            ("POST", "/api/create", {"model": "made", "from": "tiny", "system": "Be short.", "license": "none"}),
            ("POST", "/api/create", {"model": "made", "from": "tiny", "stream": False}),
            ("POST", "/api/copy", {"source": "made", "destination": "made-again"}),
            ("POST", "/api/show", {"model": "made-again"}),
            ("DELETE", "/api/delete", {"model": "made"}),
            ("DELETE", "/api/delete", {"name": "made-again"}),
            ("DELETE", "/api/delete", {"model": "made"}),
            ("POST", "/api/show", {"model": "made-again"}),
        ):
            async with connect(port) as client:
                await client.send(request(method, target, {}, json.dumps(body).encode()))
                answers.append(await client.read(method))
        return answers

    straight, through = await steps(bare.local.port), await steps(bare.port)
    assert [answer.status for answer in straight] == [200, 200, 200, 200, 200, 200, 404, 404]
    assert len(straight[0].lines()) > 2
    for one, other in zip(straight, through, strict=True):
        same_but_for_times(one, other)


# Connections.


async def test_http_1_0(bare: Real) -> None:
    for headers in ({}, {"Connection": "keep-alive"}):
        for target in ("/", "/api/version"):
            data = request("GET", target, headers, version="HTTP/1.0")
            straight, through = await both(bare, data)
            same(straight, through)
            assert straight.status_line.startswith(b"HTTP/1.0")
            assert through.get("connection") == straight.get("connection")
    data = post("/api/generate", call("generate", stream=True), version="HTTP/1.0", host="")
    straight, through = await both(bare, data, "POST")
    same_but_for_times(straight, through)
    assert through.lines()[-1]["done"] is True


async def test_pipelined_requests(bare: Real) -> None:
    targets = ("/api/version", "/nothing", "/api/status", "/")
    sent = b"".join(request("GET", target) for target in targets)
    answers: list[list[Answer]] = []
    for port in (bare.local.port, bare.port):
        async with connect(port) as client:
            await client.send(sent)
            answers.append([await client.read() for _ in targets])
    for straight, through in zip(*answers, strict=True):
        same(straight, through)


@pytest.mark.parametrize("target", ["/api/show", "/api/chat"])
async def test_a_client_that_waits_for_100_continue(bare: Real, target: str) -> None:
    body = json.dumps({"model": "nothing", "messages": [{"role": "user", "content": "x"}]}).encode()
    answers = []
    for port in (bare.local.port, bare.port):
        async with connect(port) as client:
            head = {"Expect": "100-continue", "Content-Length": str(len(body))}
            await client.send(request("POST", target, head))
            interim = await client.head()
            assert interim.raw == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(body)
            answers.append(await client.read("POST"))
    same(*answers)


async def test_a_client_that_ends_its_sending(bare: Real) -> None:
    async with connect(bare.port) as client:
        await client.send(request("GET", "/api/version"))
        client.writer.write_eof()
        assert (await client.read()).json() == {"version": "0.24.0"}


async def test_one_connection_for_many_requests(bare: Real) -> None:
    async with connect(bare.port) as client:
        for _ in range(5):
            await client.send(request("GET", "/api/tags"))
            assert (await client.read()).status == 200
            await client.send(post("/api/chat", call("chat", tokens=2)))
            assert (await client.read("POST")).json()["eval_count"] == 2


# Generations. With a seed and no temperature a text is the same each time.


def fixed(kind: str, *, stream: bool) -> dict[str, Any]:
    body = call(kind, stream=stream, tokens=16)
    if "options" in body:
        body["options"] = {"num_predict": 16, "temperature": 0, "seed": 1}
    else:
        body |= {"temperature": 0, "seed": 1}
    return body


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", CHATS)
async def test_the_same_text(bare: Real, kind: str, stream: bool) -> None:
    data = post(CHATS[kind], fixed(kind, stream=stream))
    await both(bare, data, "POST")  # the model is loaded, and the prompt is in its cache, for both
    straight, through = await both(bare, data, "POST")
    assert len(straight.body) > 100
    same_but_for_times(straight, through)
    assert bool(through.chunks) == stream
    if stream and CHATS[kind].startswith("/api/"):
        # One record is one chunk: some clients take one read for one record.
        assert [len(chunk.splitlines()) for chunk in through.chunks] == [1] * len(through.lines())


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/api/embed", {"model": "tiny", "input": ["a text", "another"]}),
        ("/api/embed", {"model": "tiny", "input": "a text", "truncate": True, "dimensions": 16}),
        ("/api/embeddings", {"model": "tiny", "prompt": "a text"}),
        ("/v1/embeddings", {"model": "tiny", "input": ["a text", "another"]}),
        ("/v1/embeddings", {"model": "tiny", "input": "a text", "encoding_format": "base64"}),
        ("/v1/completions", {"model": "tiny", "prompt": "Ulm", "max_tokens": 9, "temperature": 0, "seed": 1}),
        (
            "/v1/completions",
            {"model": "tiny", "prompt": "Ulm", "max_tokens": 9, "temperature": 0, "seed": 1, "stream": True},
        ),
    ],
    ids=lambda part: part.replace("/", "_") if isinstance(part, str) else "stream" if "stream" in part else "",
)
async def test_the_same_numbers(bare: Real, target: str, body: dict[str, Any]) -> None:
    data = post(target, body)
    await both(bare, data, "POST")
    straight, through = await both(bare, data, "POST")
    assert straight.status == 200
    same_but_for_times(straight, through)


SPELLINGS = [
    b'{"MODEL":"tiny","Prompt":"hi","STREAM":false,"Options":{"num_predict":4,"temperature":0,"seed":1}}',
    b'{"model":"nothing","model":"tiny","prompt":"hi","stream":false,"options":{"num_predict":4,"temperature":0}}',
    b' \r\n{"model":"tiny","prompt":"\\u0068i","stream":false,"options":{"num_predict":4,"temperature":0.0e0}} tail',
    b'{"model":"tiny","prompt":"hi","stream":false,"unknown":[{"a":1e3}],"options":{"num_predict":4,"temperature":0}}',
    b'{"model":" tiny ","prompt":"hi","stream":false,"options":{"num_predict":4,"temperature":0,"seed":1}}',
    b'{"model":"TINY","prompt":"hi","stream":false,"options":{"num_predict":4,"temperature":0,"seed":1}}',
    b'{"model":"registry.ollama.ai/library/tiny:latest","prompt":"hi","stream":false,"options":{"num_predict":4}}',
    b'{"model":"tiny","prompt":"\xff\xfe","stream":false,"options":{"num_predict":4,"temperature":0,"seed":1}}',
    b'{"model":"tiny","prompt":"","stream":false}',
]


@pytest.mark.parametrize("body", SPELLINGS, ids=range(len(SPELLINGS)))
async def test_bodies_that_go_reads_its_own_way(bare: Real, body: bytes) -> None:
    data = post("/api/generate", body, {"Content-Type": "text/plain"})
    await both(bare, data, "POST")
    straight, through = await both(bare, data, "POST")
    if b"temperature" in body:
        same_but_for_times(straight, through)
    else:
        same_head(straight, through)


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/api/chat", b'{"model": "tiny"'),
        ("/api/generate", b"nonsense"),
        ("/v1/chat/completions", b'{"model": "tiny", '),
        ("/v1/messages", b'{"model": "tiny", '),
    ],
    ids=["chat", "generate", "openai", "messages"],
)
async def test_bodies_that_nobody_can_read(bare: Real, target: str, body: bytes) -> None:
    """The sidecar refuses them itself: the same status, and an error of the same shape with another text."""
    straight, through = await both(bare, post(target, body), "POST")
    assert (straight.status, through.status) == (400, 400)
    # Ollama's error in Anthropic's dialect has an id of its own beside what that dialect asks for.
    assert shape(through.json()) == {
        name: inner for name, inner in shape(straight.json()).items() if name != "request_id"
    }
    assert through.get("x-sidecar-location") == "none"


def shape(value: Any) -> Any:
    return {key: shape(inner) for key, inner in value.items()} if isinstance(value, dict) else type(value is None)


@pytest.mark.parametrize("kind", ["openai", "responses", "messages"])
async def test_compressed_bodies(bare: Real, kind: str) -> None:
    body = zstandard.compress(json.dumps(fixed(kind, stream=False)).encode())
    data = post(CHATS[kind], body, {"Content-Encoding": "zstd"})
    await both(bare, data, "POST")
    straight, through = await both(bare, data, "POST")
    assert straight.status == 200
    same_but_for_times(straight, through)


async def test_a_model_is_loaded_and_unloaded(bare: Real) -> None:
    async def steps(port: int) -> list[Answer]:
        answers = []
        for target, body in (
            ("/api/generate", {"model": "tiny", "keep_alive": 0}),
            ("/api/generate", {"model": "tiny"}),
            ("/api/chat", {"model": "tiny", "messages": []}),
            ("/api/chat", {"model": "tiny", "messages": [], "keep_alive": 0}),
        ):
            async with connect(port) as client:
                await client.send(post(target, body))
                answers.append(await client.read("POST"))
        return answers

    straight, through = await steps(bare.local.port), await steps(bare.port)
    assert [answer.json()["done_reason"] for answer in straight] == ["unload", "load", "load", "unload"]
    for one, other in zip(straight, through, strict=True):
        same_but_for_times(one, other)


async def test_what_runs_is_listed(bare: Real) -> None:
    await bare.post("/api/generate", {"model": "tiny"})
    straight, through = await both(bare, request("GET", "/api/ps"))
    same(straight, through)
    assert "tiny:latest" in [model["name"] for model in through.json()["models"]]


async def test_many_at_once(bare: Real) -> None:
    """Calls side by side get their own answers."""

    async def ask_for(text: str, port: int) -> Answer:
        body = fixed("chat", stream=True)
        body["messages"][0]["content"] = text
        async with connect(port) as client:
            await client.send(post("/api/chat", body))
            return await client.read("POST")

    texts = [f"Town number {number}" for number in range(8)]
    await asyncio.gather(*(ask_for(text, bare.port) for text in texts))
    through = await asyncio.gather(*(ask_for(text, bare.port) for text in texts))
    for text, answer in zip(texts, through, strict=True):
        same_but_for_times(await ask_for(text, bare.local.port), answer)


__all__ = ["Awaitable", "Callable", "Client"]
