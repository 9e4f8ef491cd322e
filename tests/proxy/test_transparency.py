"""The same bytes sent to an Ollama, and to an Ollama with us before it: what differs is what we say that we add."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sidecar.standins import RecordedRequest, StandInModel, StandInOllama
from support.raw import Answer, Client, connect, request
from support.wire import ends, nothing_left_behind, probed
from support.world import World, world


@pytest.fixture(autouse=True)
async def _clean() -> AsyncIterator[None]:
    async with nothing_left_behind():
        yield


# What a hop keeps for itself (RFC 9110, section 7.6.1), and what the head says of the upstream's own address.
HOP = {
    *(b"connection", b"keep-alive", b"te", b"upgrade", b"http2-settings", b"proxy-connection"),
    *(b"proxy-authorization", b"host"),
}
OURS = {b"x-request-id"}
OURS_INFERENCE = OURS | {b"x-sidecar-location", b"x-sidecar-model", b"x-sidecar-reason", b"x-sidecar-trace-id"}
INFERENCE = re.compile(
    r"(?i)POST /+(api/(generate|chat|embed|embeddings)|v1/(chat/completions|completions|embeddings|responses|"
    r"messages|audio/transcriptions|images/generations|images/edits))/?(\?| |$)"
)
# What differs between any two answers of one server: times, durations and random ids.
_VARYING = [
    (re.compile(rb'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[^"]*"'), b'"TIME"'),
    (re.compile(rb'"(created|created_at|completed_at)":\d+'), rb'"\1":0'),
    (re.compile(rb'"([a-z_]*duration)":\d+'), rb'"\1":0'),
    (re.compile(rb'"(id|item_id|request_id|call_id)":"[^"]*"'), rb'"\1":"ID"'),
]
DIGEST = "sha256:" + hashlib.sha256(b"a layer").hexdigest()
MODELS = ("llama3:latest", "llava:latest", "nomic-embed-text:latest")


@dataclass(slots=True)
class Twins:
    """Two stand-ins of one make: `direct` is asked as it is, `world.local` through the sidecar."""

    direct: StandInOllama
    world: World

    @property
    def ports(self) -> tuple[int, int]:
        return self.direct.port, self.world.port


@asynccontextmanager
async def twins(folder: Path) -> AsyncIterator[Twins]:
    def one() -> StandInOllama:
        # Whose cloud is off: else a body that we cannot read would be refused by us, not by it.
        return StandInOllama(
            [StandInModel(name, modified_at="2025-01-01T00:00:00Z") for name in MODELS],
            cloud_disabled=True,
            answer_tokens=5,
        )

    async with one() as direct, world(folder, {"ollama_cloud": {"enabled": False}}, local=one()) as running:
        await probed(running)
        yield Twins(direct, running)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Twins]:
    async with twins(tmp_path) as running:
        yield running


def plain(data: bytes) -> bytes:
    for pattern, instead in _VARYING:
        data = pattern.sub(instead, data)
    return data


def seen(answer: Answer, *, ours: set[bytes]) -> dict[str, Any]:
    """An answer as it may be compared: without our additions, and without what no two answers share."""
    fields = [(name, value) for name, value in answer.fields if name.lower() not in ours]
    closes = any(name.lower() == b"connection" and b"close" in value.lower() for name, value in fields)
    shown = []
    for name, value in fields:
        lower = name.lower()
        if lower in (b"connection", b"date"):
            continue
        if lower == b"content-length" and answer.body:
            assert int(value) == len(answer.body)
            value = b"as the body"
        shown.append((name, value))
    return {
        "status line": answer.status_line,
        "header": shown,
        "has a date": answer.get("date") is not None,
        "says close": closes,
        "body": plain(answer.body),
        "chunks": [plain(chunk) for chunk in answer.chunks],
        "whole": answer.complete,
        "interim": answer.interim,
    }


def taken(one: RecordedRequest, *, inference: bool) -> dict[str, Any]:
    """What a server got, without what a hop keeps for itself."""
    lines = one.raw_head.lstrip(b"\r\n").split(b"\r\n")
    named = {
        token.strip().lower()
        for name, value in one.headers
        if name.lower() == b"connection"
        for token in value.split(b",")
    }
    drop = HOP | named - {b"content-length", b"host"}
    if inference:  # read as a whole, so framed by its length, and nothing is to be continued
        drop |= {b"expect", b"transfer-encoding", b"content-length"}
    return {
        "line": lines[0],
        "header": [line for line in lines[1:] if line.split(b":")[0].lower() not in drop],
        "body": one.body,
        "trailers": [] if inference else one.trailers,
    }


def differences(name: str, direct: Any, through: Any) -> list[str]:
    if direct == through:
        return []
    if isinstance(direct, dict):
        return [
            f"{name}: {key}\n   direct  {direct[key]!r}\n   through {through[key]!r}"
            for key in direct
            if direct[key] != through[key]
        ]
    return [f"{name}\n   direct  {direct!r}\n   through {through!r}"]


Play = Callable[[Client], Any]


async def compare(pair: Twins, name: str, play: Callable[[Client], Any], *, inference: bool) -> list[str]:
    """Plays the same on both sides; what differs in the answers and in what reached the servers."""
    views, reached = [], []
    for server, port in ((pair.direct, pair.direct.port), (pair.world.local, pair.world.port)):
        before = server.received
        async with connect(port) as client:
            answers = [await answer if asyncio.iscoroutine(answer) else answer for answer in await play(client)]
            closed = await ends(client)
        ours = OURS_INFERENCE if inference else OURS
        view = [seen(answer, ours=ours if port == pair.world.port else set()) for answer in answers]
        if port == pair.world.port:
            for answer in answers:
                missing = ours - {field.lower() for field, _ in answer.fields} - {b"x-sidecar-model"}
                assert not missing, (name, missing)
        views.append((view, closed))
        new = [one for one in server.requests if one.index >= before and one.header("x-case") == name]
        for one in new:
            await one.finished.wait()
        reached.append([taken(one, inference=inference) for one in new])
    found = differences(f"{name}: closed", views[0][1], views[1][1])
    found += differences(f"{name}: number of answers", len(views[0][0]), len(views[1][0]))
    for direct, through in zip(views[0][0], views[1][0], strict=False):
        found += differences(name, direct, through)
    found += differences(f"{name}: requests that arrived", len(reached[0]), len(reached[1]))
    assert reached[0], f"{name}: nothing arrived, so nothing was compared"
    for sent, came in zip(reached[0], reached[1], strict=False):
        found += differences(f"{name}: as it arrived", sent, came)
    return found


def one_request(data: bytes, method: str) -> Play:
    async def play(client: Client) -> list[Answer]:
        await client.send(data)
        return [await client.read(method)]

    return play


Case = tuple[str, bytes]


def case(
    name: str, method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: Any = b"", **how: Any
) -> Case:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return name, request(method, target, [("X-Case", name), *headers], data, **how)


JSON = [("Content-Type", "application/json")]
LOOKUPS: list[Case] = [
    case("root", "GET", "/"),
    case("root by HEAD", "HEAD", "/"),
    case("version", "GET", "/api/version"),
    case("version by HEAD", "HEAD", "/api/version"),
    case("tags", "GET", "/api/tags"),
    case("tags by HEAD", "HEAD", "/api/tags"),
    case("ps", "GET", "/api/ps"),
    case("status", "GET", "/api/status"),
    case("recommendations", "GET", "/api/experimental/model-recommendations"),
    case("v1 models", "GET", "/v1/models"),
    case("v1 model", "GET", "/v1/models/llama3"),
    case("v1 model unknown", "GET", "/v1/models/none"),
    case("me", "POST", "/api/me"),
    case("signout", "POST", "/api/signout"),
    case("forget a key", "DELETE", "/api/user/keys/c29tZQ=="),
    case("show", "POST", "/api/show", JSON, {"model": "llama3"}),
    case("show by its old name", "POST", "/api/show", JSON, {"name": "llama3"}),
    case("show unknown", "POST", "/api/show", JSON, {"model": "none"}),
    case("show nothing", "POST", "/api/show", JSON, {}),
    case("show no JSON", "POST", "/api/show", JSON, b'{"model": '),
    case("show without a body", "POST", "/api/show"),
    case("show with Content-Length 0", "POST", "/api/show", [("Content-Length", "0")]),
    case("show chunked", "POST", "/api/show", JSON, {"model": "llama3"}, chunked=True),
    case("show chunked and empty", "POST", "/api/show", JSON, b"", chunked=True),
    case("show as form", "POST", "/api/show", [("Content-Type", "text/plain")], {"model": "llama3"}),
]
CHANGES: list[Case] = [
    case("copy", "POST", "/api/copy", JSON, {"source": "llama3", "destination": "twin"}),
    case("copy unknown", "POST", "/api/copy", JSON, {"source": "none", "destination": "twin"}),
    case("delete", "DELETE", "/api/delete", JSON, {"model": "twin"}),
    case("delete again", "DELETE", "/api/delete", JSON, {"model": "twin"}),
    case("delete chunked", "DELETE", "/api/delete", JSON, {"model": "twin"}, chunked=True),
    case("delete without a body", "DELETE", "/api/delete"),
    case("pull", "POST", "/api/pull", JSON, {"model": "mistral"}),
    case("pull not streamed", "POST", "/api/pull", JSON, {"model": "mistral", "stream": False}),
    case("pull nonsense", "POST", "/api/pull", JSON, {"model": "//"}),
    case("push", "POST", "/api/push", JSON, {"model": "mistral"}),
    case("push unknown", "POST", "/api/push", JSON, {"model": "none"}),
    case("push not streamed", "POST", "/api/push", JSON, {"model": "none", "stream": False}),
    case("create", "POST", "/api/create", JSON, {"model": "mine", "from": "llama3"}),
    case("create not streamed", "POST", "/api/create", JSON, {"model": "mine", "from": "llama3", "stream": False}),
    case("create of nothing", "POST", "/api/create", JSON, {"model": "mine"}),
    case("blob missing", "HEAD", f"/api/blobs/{DIGEST}"),
    case("blob with a wrong name", "HEAD", "/api/blobs/sha256:xyz"),
    case("blob upload of other bytes", "POST", f"/api/blobs/{DIGEST}", [], b"another layer"),
    case("blob upload", "POST", f"/api/blobs/{DIGEST}", [], b"a layer"),
    case("blob there", "HEAD", f"/api/blobs/{DIGEST}"),
    case("blob upload again", "POST", f"/api/blobs/{DIGEST}", JSON, b"a layer", chunked=True),
    case("create of files", "POST", "/api/create", JSON, {"model": "filed", "files": {"a.gguf": DIGEST}}),
]
TARGETS = [
    *(
        "//api/tags",
        "/api//tags",
        "/./api/tags",
        "/api/../api/tags",
        "/api/./../api/tags",
        "/api/tags/",
        "/api/tags/.",
    ),
    *("/api/%74ags", "/api%2ftags", "/api%2Ftags", "/api/tags%3fx", "/%2e%2e/api/tags", "/api/%2E%2E/tags", "/%"),
    *(
        "/api/%zz",
        "/api/tags?",
        "/api/tags?a=b&a=c",
        "/api/tags?q=%e2%82%ac%E2%82%AC+x",
        "/api/tags?a;b",
        "/api/tags;x=1",
    ),
    *(
        "/api/tags?a?b",
        "/api/tags?a=/../b",
        "/api/tags&x",
        "/~user",
        "/a:b@c",
        "/api/tags'\"<>",
        "/api/\\tags",
        "/a|b^c`",
    ),
    *(
        "/API/TAGS",
        "/Api/tags",
        "/nowhere",
        "/api",
        "/api/",
        "/v1",
        "/v1/models/",
        "/v2/future?x=1",
        "/favicon.ico",
        "/#f",
    ),
    *("/caf\xc3\xa9", "/\xff\xfe", "/api/tags?\xc3\xa9", "/" + "long/" * 800, "/api/tags?" + "q=1&" * 2000),
]
METHODS = [
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "PROPFIND",
    "M-SEARCH",
    "get",
    "Post",
    "X",
    "FOO!#$%&'*+.^_`|~",
    "HEAD",
]
ORIGINS = [
    *("http://localhost", "http://localhost:3000", "https://127.0.0.1:8443", "app://obsidian.md", "file://x", "null"),
    *("http://evil.example", "https://localhost.evil.example", "tauri://localhost", "vscode-webview://abc"),
]


def spellings() -> list[Case]:
    cases = [case(f"target {number}", "GET", target) for number, target in enumerate(TARGETS)]
    cases += [
        case(f"POST {number}", "POST", target, JSON, {"model": "llama3"})
        for number, target in enumerate(["//api/show", "/api/show/", "/api/%73how", "/api/show?x=1", "/future/route"])
    ]
    # Ollama answers OPTIONS by the Host, and is asked through us by its own, which is an address.
    address = "127.0.0.1:11434"
    cases += [case(f"method {method}", method, "/api/tags", host=address) for method in METHODS]
    cases += [
        case(f"method {method} with a body", method, "/future", JSON, b"{}", host=address) for method in METHODS
    ]
    cases.append(case("options of the server", "OPTIONS", "*", host=address))
    for number, origin in enumerate(ORIGINS):
        asks = [("Origin", origin), ("Access-Control-Request-Method", "POST")]
        cases.append(case(f"preflight {number}", "OPTIONS", "/api/chat", asks))
        cases.append(case(f"preflight of nothing {number}", "OPTIONS", "/nowhere", asks))
        cases.append(case(f"origin {number}", "GET", "/api/tags", [("Origin", origin)]))
        cases.append(case(f"origin that posts {number}", "POST", "/api/show", [("Origin", origin)], b"{}"))
    return cases


HEADERS: dict[str, list[tuple[str, str]]] = {
    "repeated": [("X-Two", "1"), ("Accept", "*/*"), ("X-Two", "2"), ("x-two", "1"), ("X-TWO", "")],
    "odd case": [("uSER-aGENT", "x"), ("ACCEPT", "*/*"), ("content-TYPE", "text/plain")],
    "UTF-8": [("X-Name", "Zoë ☕".encode().decode("latin-1"))],
    "obs-text": [("X-Name", "\xff\xfe\x80\xa0")],
    "tabs and blanks": [("X-Blank", "\t a \t b  \t"), ("X-None", ""), ("X-Quote", '"a, b"; c=\\"d\\"')],
    "every name character": [("!#$%&'*+-.^_`|~09azAZ", "1")],
    "cookies": [("Cookie", "a=b; c=d"), ("Cookie", "e=f"), ("Authorization", "Bearer local-secret")],
    "large": [("X-Large", "v" * 30_000), ("X-Large", "w" * 20_000)],
    "many": [(f"X-Many-{number}", str(number)) for number in range(500)],
    "ours": [("X-Task-Type", "extraction"), ("X-Data-Classification", "pii"), ("X-Sidecar-Reason", "none")],
    "forwarded": [("Forwarded", "for=10.0.0.1"), ("X-Forwarded-For", "10.0.0.1"), ("Via", "1.1 mesh")],
    "conditional": [("If-None-Match", '"x"'), ("Range", "bytes=0-1"), ("Accept-Encoding", "gzip, br;q=0.1")],
    "h2c": [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")],
    "websocket": [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "x")],
    "named by Connection": [("X-Hop", "1"), ("Connection", "close, X-Hop"), ("X-Stays", "1")],
    "named in two lines": [("Connection", "x-hop"), ("Connection", "X-Other"), ("X-Hop", "1"), ("x-other", "1")],
    "names the framing": [("Connection", "keep-alive, Content-Length, Host")],
    "close": [("Connection", "close")],
    "Close": [("connection", "CLOSE")],
    "keep-alive": [("Connection", "Keep-Alive"), ("Keep-Alive", "timeout=5, max=100")],
    "TE": [("TE", "trailers, deflate;q=0.5"), ("Connection", "TE")],
    "proxy": [("Proxy-Connection", "keep-alive"), ("Proxy-Authorization", "Basic eDp5")],
    "its own id": [("X-Request-Id", "mine-1")],
    "a wrong id": [("X-Request-Id", "a b"), ("X-Request-Id", "c")],
    "a trace": [("traceparent", "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"), ("tracestate", "x=y")],
}


def header_cases() -> list[Case]:
    cases = []
    for name, pairs in HEADERS.items():
        cases.append(case(f"GET with {name}", "GET", "/api/version", pairs))
        cases.append(case(f"POST with {name}", "POST", "/api/show", pairs, {"model": "llama3"}))
    for number, host in enumerate(
        ("localhost", "127.0.0.1:11434", "[::1]:11434", "a.localhost", "my.local", "x.internal")
    ):
        cases.append(case(f"host {number}", "GET", "/api/version", host=host))
    cases.append(case("an empty host", "GET", "/api/version", [("Host", "")]))
    return cases


async def _all(pair: Twins, cases: Iterable[Case], *, inference: bool | None = None) -> None:
    found: list[str] = []
    names = set()
    for name, data in cases:
        assert name not in names, f"two cases are called {name}"
        names.add(name)
        line = data.split(b"\r\n", 1)[0].decode("latin-1")
        is_inference = INFERENCE.match(line) is not None if inference is None else inference
        play = one_request(data, line.split(" ")[0])
        found += await compare(pair, name, play, inference=is_inference)
    assert not found, f"{len(found)} differences\n" + "\n".join(found)


async def test_lookups_are_the_same(pair: Twins) -> None:
    await _all(pair, LOOKUPS)


async def test_changes_of_the_models_are_the_same(pair: Twins) -> None:
    await _all(pair, CHANGES)


async def test_every_spelling_of_a_target_and_every_method_is_passed_on(pair: Twins) -> None:
    await _all(pair, spellings())


async def test_header_lines_go_through_as_they_came(pair: Twins) -> None:
    await _all(pair, header_cases())


CHAT: dict[str, Any] = {"model": "llama3", "messages": [{"role": "user", "content": "Name a town."}]}
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nllama3\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
    b"Content-Type: audio/wav\r\n\r\nRIFF\r\n--b--\r\n"
)


def inference_cases() -> list[Case]:
    embed, input_ = {"model": "nomic-embed-text"}, {"input": ["a", "b"]}
    prompt = {"model": "llama3", "prompt": "Name a town."}
    anthropic = {**CHAT, "max_tokens": 8}
    calls: list[tuple[str, Any]] = [
        ("/api/chat", CHAT),
        ("/api/chat", CHAT | {"stream": False}),
        ("/api/chat", CHAT | {"format": "json", "options": {"num_predict": 3, "temperature": 0.10}}),
        ("/api/chat", {"model": "llama3", "messages": []}),
        ("/api/chat", {"model": "llama3", "messages": [], "keep_alive": 0}),
        ("/api/chat", {"model": "none", "messages": [{"role": "user", "content": "x"}]}),
        ("/api/chat", {"messages": []}),
        ("/api/generate", prompt),
        ("/api/generate", prompt | {"stream": False, "raw": True}),
        ("/api/generate", prompt | {"suffix": "x"}),
        ("/api/embed", embed | input_),
        ("/api/embed", embed),
        ("/api/embeddings", embed | {"prompt": "a"}),
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", CHAT | {"stream": True}),
        ("/v1/chat/completions", CHAT | {"stream": True, "stream_options": {"include_usage": True}}),
        ("/v1/chat/completions", CHAT | {"model": "none"}),
        ("/v1/completions", prompt),
        ("/v1/completions", prompt | {"stream": True}),
        ("/v1/embeddings", embed | {"input": "a"}),
        ("/v1/responses", {"model": "llama3", "input": "Name a town."}),
        ("/v1/responses", {"model": "llama3", "input": "Name a town.", "stream": True}),
        ("/v1/messages", anthropic),
        ("/v1/messages", anthropic | {"stream": True}),
        ("/v1/messages", CHAT),
        ("/v1/images/generations", {"model": "llama3", "prompt": "a town"}),
    ]
    cases = [case(f"call {number} {path}", "POST", path, JSON, body) for number, (path, body) in enumerate(calls)]
    text = json.dumps(CHAT).encode()
    compact = text.replace(b": ", b" :\t").replace(b", ", b"\r\n,")
    return [
        *cases,
        case("form", "POST", "/v1/audio/transcriptions", [("Content-Type", "multipart/form-data; boundary=b")], FORM),
        case("chunked", "POST", "/api/chat", JSON, CHAT, chunked=True),
        case("empty and chunked", "POST", "/api/chat", JSON, b"", chunked=True),
        case("empty", "POST", "/api/chat", JSON),
        case("blanks in the JSON", "POST", "/api/chat", JSON, compact),
        case(
            "escapes",
            "POST",
            "/api/chat",
            JSON,
            rb'{"model":"llama3","messages":[{"role":"user","content":"\u00e9\/"}]}',
        ),
        case(
            "float text", "POST", "/api/chat", JSON, text[:-1] + b', "options": {"temperature": 1.0e-1, "seed": -0}}'
        ),
        case("unknown fields", "POST", "/api/chat", JSON, text[:-1] + b', "future": {"a": [null, 1.50]}}'),
        case("data behind the JSON", "POST", "/api/chat", JSON, text + b"\n\n"),
        case("another type", "POST", "/api/chat", [("Content-Type", "text/plain; charset=x")], CHAT),
        case("no type", "POST", "/api/chat", [], CHAT),
        case("a query", "POST", "/api/chat?x=1&y=%7e", JSON, CHAT),
        case("no JSON", "POST", "/api/chat", JSON, b'{"model": "llama3", '),
        case("no UTF-8", "POST", "/api/chat", JSON, b'{"model": "llama3", "prompt": "\xff\xfe"}'),
        case("a list", "POST", "/api/chat", JSON, b"[1, 2]"),
        case(
            "compressed by zstd", "POST", "/v1/chat/completions", [*JSON, ("Content-Encoding", "zstd")], _zstd(text)
        ),
        case("compressed by gzip", "POST", "/api/chat", [*JSON, ("Content-Encoding", "gzip")], _gzip(text)),
        *(
            case(f"headers {name}", "POST", "/api/chat", [*JSON, *pairs], CHAT | {"stream": name < "m"})
            for name, pairs in HEADERS.items()
            if name != "ours"
        ),
    ]


def _gzip(data: bytes) -> bytes:
    import gzip

    return gzip.compress(data, mtime=0)


def _zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(data)


async def test_local_inference_is_the_same_but_for_our_headers(pair: Twins) -> None:
    await _all(pair, inference_cases(), inference=True)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:11434", "my-app.local"])
async def test_a_target_in_absolute_form_goes_on_in_origin_form(pair: Twins, host: str) -> None:
    for name, target in (("a path", "/api/tags?x=%41"), ("none", ""), ("a query", "?x=1")):
        head = request("GET", f"http://{host}{target}", [("X-Case", name), ("Host", "other.example")])
        answers = []
        for port in pair.ports:
            async with connect(port) as client:
                await client.send(head.replace(b"other.example", host.encode()) if port == pair.direct.port else head)
                answers.append(seen(await client.read(), ours=OURS))
        if name != "a query":
            assert not differences(name, answers[0], answers[1])
        arrived = [one for one in pair.world.local.requests if one.header("x-case") == name][-1]
        assert arrived.target == (target if target.startswith("/") else "/" + target)
        assert arrived.header_values("host") == [f"127.0.0.1:{pair.world.local.port}"]


# Several requests on one connection, and requests in pieces.

VERSION_REQUEST = case("version", "GET", "/api/version")[1]


def sequence(*parts: tuple[bytes, int, str]) -> Play:
    """Parts to send, each with how many answers to read behind it and the method that they answer."""

    async def play(client: Client) -> list[Answer]:
        answers = []
        for data, count, method in parts:
            await client.send(data)
            answers += [await client.read(method) for _ in range(count)]
        return answers

    return play


async def test_pipelined_requests_are_answered_in_order(pair: Twins) -> None:
    show = request("POST", "/api/show", [("X-Case", "pipeline")], b'{"model":"llama3"}')
    chunked = request("POST", "/api/show", [("X-Case", "pipeline")], b'{"model":"none"}', chunked=True)
    get = request("GET", "/api/tags", [("X-Case", "pipeline")])
    close = request("GET", "/api/ps", [("X-Case", "pipeline"), ("Connection", "close")])
    whole = show + get + chunked + b"\r\n" + show + get + chunked + get + close
    found = await compare(pair, "pipeline", sequence((whole, 8, "GET")), inference=False)
    assert not found, "\n".join(found)


async def test_nothing_behind_a_request_that_closes_is_answered(pair: Twins) -> None:
    close = request("GET", "/api/ps", [("X-Case", "last"), ("Connection", "close")])
    behind = request("GET", "/api/tags", [("X-Case", "last")])
    found = await compare(pair, "last", sequence((close + behind, 1, "GET")), inference=False)
    assert not found, "\n".join(found)


async def test_pipelined_calls_are_answered_in_order(pair: Twins) -> None:
    one = request("POST", "/api/chat", [("X-Case", "calls")], json.dumps(CHAT).encode())
    two = request("POST", "/v1/chat/completions", [("X-Case", "calls")], json.dumps(CHAT).encode(), chunked=True)
    found = await compare(pair, "calls", sequence((one + two + one + two, 4, "POST")), inference=True)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("inference", [False, True], ids=["passed through", "inference"])
async def test_a_request_may_come_byte_by_byte(pair: Twins, inference: bool) -> None:
    path = "/api/chat" if inference else "/api/show"
    body = json.dumps(CHAT if inference else {"model": "llama3"}).encode()
    counted = request("POST", path, [("X-Case", "split")], body)
    chunked = request("POST", path, [("X-Case", "split")], body, chunked=True)

    def bytewise(data: bytes, size: int) -> Play:
        async def play(client: Client) -> list[Answer]:
            for start in range(0, len(data), size):
                await client.send(data[start : start + size])
                await asyncio.sleep(0)
            return [await client.read("POST")]

        return play

    found: list[str] = []
    for data in (counted, chunked):
        for size in (1, 7):
            found += await compare(pair, "split", bytewise(data, size), inference=inference)
    assert not found, "\n".join(found)


async def test_a_request_may_be_cut_in_two_at_any_byte(pair: Twins) -> None:
    """On one connection, so that nothing of one request is left for the next."""
    body = b'{"model":"none"}'
    whole = [
        request("POST", "/api/show", [("X-Case", "cut")], body),
        request("POST", "/api/show", [("X-Case", "cut")], body, chunked=True)[:-2] + b"X-Trailer: 1\r\n\r\n",
    ]
    async with connect(pair.world.port) as client:
        for data in whole:
            for cut in range(1, len(data)):
                await client.send(data[:cut])
                await asyncio.sleep(0)
                await client.send(data[cut:])
                answer = await client.read("POST")
                assert (answer.status, answer.body) == (404, b'{"error":"model \'none\' not found"}'), cut
    arrived = [one for one in pair.world.local.requests if one.header("x-case") == "cut"]
    assert len(arrived) == sum(len(data) - 1 for data in whole)
    assert {one.body for one in arrived} == {body}


# HTTP/1.0.


@pytest.mark.parametrize("path", ["/api/tags", "/api/show", "/api/pull", "/nowhere"])
@pytest.mark.parametrize("keep", [False, True], ids=["plain", "keep-alive"])
async def test_an_http_1_0_client_is_served_as_before(pair: Twins, path: str, keep: bool) -> None:
    headers = [("X-Case", "old"), *([("Connection", "keep-alive")] if keep else [])]
    method = "GET" if path == "/api/tags" else "POST"
    body = b'{"model":"llama3"}' if method == "POST" else b""
    for host in ("localhost", ""):
        data = request(method, path, headers, body, version="HTTP/1.0", host=host)
        views = []
        for port in pair.ports:
            async with connect(port) as client:
                await client.send(data)
                answer = await client.read(method)
                view = seen(answer, ours=OURS)
                kept = answer.get("connection")
                # A server that speaks HTTP/1.1 to us may count or chunk where it did neither to an HTTP/1.0 client.
                view["header"] = [pair for pair in view["header"] if pair[0].lower() != b"content-length"]
                view["chunks"] = []
                views.append((view, kept, await ends(client)))
        if views[0][1] == "keep-alive" and views[1][1] is None:
            assert views[1][0]["body"] == views[0][0]["body"]  # chunked for us, so only the end can end it
            continue
        assert not differences("old", views[0][0], views[1][0])
        assert views[0][1:] == views[1][1:]


async def test_an_http_1_0_client_gets_a_stream_without_chunks(pair: Twins) -> None:
    data = request("POST", "/api/chat", [("X-Case", "old")], json.dumps(CHAT).encode(), version="HTTP/1.0")
    bodies = []
    for port in pair.ports:
        async with connect(port) as client:
            await client.send(data)
            answer = await client.read("POST")
            assert answer.status_line == b"HTTP/1.0 200 OK"
            assert answer.get("transfer-encoding") is None
            bodies.append(plain(answer.body))
    assert bodies[0] == bodies[1]


# Expect: 100-continue.

EXPECT = [("Expect", "100-continue")]


def expecting(name: str, target: str, body: bytes, *, chunked: bool = False) -> tuple[bytes, bytes]:
    whole = request("POST", target, [("X-Case", name), *EXPECT, *JSON], body, chunked=chunked)
    head, _, rest = whole.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest


@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
@pytest.mark.parametrize(
    ("target", "inference"), [("/api/show", False), ("/api/pull", False), ("/api/chat", True), ("/v1/messages", True)]
)
async def test_a_client_that_waits_for_100_gets_it_and_then_its_answer(
    pair: Twins, target: str, inference: bool, chunked: bool
) -> None:
    head, body = expecting("expect", target, json.dumps(CHAT | {"max_tokens": 4}).encode(), chunked=chunked)

    async def play(client: Client) -> list[Answer]:
        await client.send(head)
        interim = await client.head()
        assert (interim.status_line, interim.fields) == (b"HTTP/1.1 100 Continue", [])
        await client.send(body)
        return [await client.read("POST")]

    found = await compare(pair, "expect", play, inference=inference)
    assert not found, "\n".join(found)


async def test_a_client_that_says_expect_and_sends_its_body_at_once_gets_its_answer(pair: Twins) -> None:
    head, body = expecting("eager", "/api/show", b'{"model":"llama3"}')

    async def play(client: Client) -> list[Answer]:
        await client.send(head + body)
        answer = await client.read("POST")
        answer.interim = []  # whether a 100 comes that early is up to the time at which the body does
        return [answer]

    found = await compare(pair, "eager", play, inference=False)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("target", ["/api/blobs/sha256:wrong", "/nowhere", "/api/show"])
async def test_a_client_that_waits_for_100_may_get_a_final_answer_instead(pair: Twins, target: str) -> None:
    """With `Connection: close`, so that no reader takes the body that never comes for the next request."""
    origin = ("Origin", "http://evil.example")
    head = request("POST", target, [("X-Case", "refused"), *EXPECT, origin, ("Content-Length", "1000")])

    async def play(client: Client) -> list[Answer]:
        await client.send(head)
        return [await client.read("POST")]

    found = await compare(pair, "refused", play, inference=False)
    assert not found, "\n".join(found)


async def test_an_answer_that_comes_before_the_body_is_complete_reaches_the_client(pair: Twins) -> None:
    target = "/api/blobs/sha256:wrong"
    for chunked in (False, True):
        framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "100000000")
        head = request("POST", target, [("X-Case", "early"), framing])

        async def play(client: Client, head: bytes = head, chunked: bool = chunked) -> list[Answer]:
            await client.send(head + (b"400\r\n" + b"x" * 1024 + b"\r\n" if chunked else b"x" * 1024))
            return [await client.read("POST")]

        found = await compare(pair, "early", play, inference=False)
        assert not found, "\n".join(found)


async def test_trailers_of_a_request_go_through_and_are_never_headers(pair: Twins) -> None:
    body = b"12\r\n" + b'{"model":"llama3"}' + b"\r\n0\r\nX-Sum: 1\r\nx-data-classification: pii\r\nX-Sum: 2\r\n\r\n"
    fields = [("X-Case", "trailers"), ("Trailer", "X-Sum"), ("Transfer-Encoding", "chunked")]
    data = request("POST", "/api/show", fields, body)
    found = await compare(pair, "trailers", one_request(data, "POST"), inference=False)
    assert not found, "\n".join(found)


async def test_chunk_extensions_of_a_request_end_here_and_its_payload_goes_on(pair: Twins) -> None:
    body = b'9;a=b;c="d e"\r\n{"model":\r\n9;x\r\n"llama3"}\r\n0;last\r\n\r\n'
    for coding in ("chunked", "Chunked"):
        data = request("POST", "/api/show", [("X-Case", "extended"), ("Transfer-Encoding", coding)], body)
        found = await compare(pair, "extended", one_request(data, "POST"), inference=False)
        assert not found, "\n".join(found)
    arrived = [one for one in pair.world.local.requests if one.header("x-case") == "extended"]
    assert all(b";" not in one.raw_body for one in arrived)


async def test_a_connection_serves_one_request_after_the_other(pair: Twins) -> None:
    """Every kind of answer leaves the connection as the server itself would."""
    parts = []
    for name, data in (*LOOKUPS, *CHANGES):
        _, _, rest = data.partition(b"X-Case: ")
        parts.append((data.replace(b"X-Case: " + name.encode(), b"X-Case: one"), 1, data.split(b" ")[0].decode()))
        assert rest
    found = await compare(pair, "one", sequence(*parts), inference=False)
    assert not found, "\n".join(found)
    assert len({one.connection for one in pair.world.local.requests}) <= 2
