"""What is no valid request, or could be read in two ways, ends here: a clear answer, a closed connection, and nothing
of it reaches an upstream, a log or the answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.standins import StandInModel, StandInOllama
from support.raw import Answer, ask, connect, request
from support.wire import (
    RawPeer,
    before_peer,
    clients,
    local_counts,
    nothing_left_behind,
    probed,
    send_and_read,
    until,
)
from support.world import World, world


@pytest.fixture(autouse=True)
async def _clean() -> AsyncIterator[None]:
    async with nothing_left_behind():
        yield


C = "canary-5f1b0c"
"""Stands in whatever is wrong; nobody may ever see it."""
PATHS = {"ollama": "/api/show", "openai": "/v1/models/x", "anthropic": "/v1/messages/count_tokens"}
INFERENCE = {"ollama": "/api/chat", "openai": "/v1/chat/completions", "anthropic": "/v1/messages"}


def request_lines(path: str) -> list[str]:
    return [
        *(f"GET {path}", f"GET {path} ", f"GET  {path} HTTP/1.1", f"GET {path}  HTTP/1.1", f"GET {path} HTTP/1.1 "),
        *(f"GET {path} HTTP/1.1 {C}", f" GET {path} HTTP/1.1", f"GET\t{path}\tHTTP/1.1", f"GET {path}\tHTTP/1.1"),
        *(f"GET {path} HTTP/1.2", f"GET {path} HTTP/2.0", f"GET {path} HTTP/0.9", f"GET {path} http/1.1"),
        *(f"GET {path} HTTP/1.1{C}", f"GET {path} HTTP/1", f"GET {path} HTTP/11", f"GET {path} HTTP/01.1"),
        *(f"GET {path} HTTPS/1.1", f"GET {path} HTTP\\1.1", f"GET {path} ICY/1.1", f"GET {path} HTTP/1.1\x0b"),
        *(f"G({C} {path} HTTP/1.1", f"G\xc9T {path} HTTP/1.1", f"GET: {path} HTTP/1.1", f"G\x00T {path} HTTP/1.1"),
        *(f"CONNECT {path} HTTP/1.1", f"TRACE {path} HTTP/1.1", f"GET {path}\x01{C} HTTP/1.1"),
        *(f"GET {path}\x7f HTTP/1.1", f"GET {path} {C} HTTP/1.1", f"GET {path}\x0c HTTP/1.1"),
    ]


# Without a path to tell the dialect by.
BARE_LINES = [
    *(C, "GET", f"GET {C} HTTP/1.1", "GET * HTTP/1.1", f"GET ftp://{C}/x HTTP/1.1", "GET http:// HTTP/1.1"),
    *(f"GET http://user:{C}@localhost/ HTTP/1.1", f"GET //{C} HTTP/3.0", f"GET javascript:{C} HTTP/1.1"),
    *("PRI * HTTP/2.0", "GET / HTTP/1.1\rX: y", f"\x16\x03\x01{C}", "{}", f"<{C}>", "\x00", f"GET ?{C} HTTP/1.1"),
]
FIELDS = [
    *(f"X-{C} : 1", f" X-{C}: 1", f"\tX: {C}", f"X: 1\r\n {C}", f"X: 1\r\n\t{C}", f"X: 1\r\n \r\nY: {C}", C),
    *(f": {C}", f"X {C}: 1", f"X({C}): 1", f"X\xe9{C}: 1", f"X;{C}: 1", f"X@{C}: 1", f'"X": {C}', f"X\x00{C}: 1"),
    *(f"X: {C}\x00", f"X: {C}\x01", f"X: {C}\x08", f"X: {C}\x0b", f"X: {C}\x0c", f"X: {C}\x1b", f"X: {C}\x7f"),
    *(f"X: {C}\rY: 1", f"X: {C}\nY: 1", f"X: {C}\n", f"X: {C}\r", f"X: {C}\r\r", f"\rX: {C}", f"\nX: {C}"),
    *(f"Host: {C}", "Host: localhost", f"HOST: {C}", f"Host : {C}"),
]
LENGTHS = [
    *("Content-Length: 2\r\nContent-Length: 2", "Content-Length: 2\r\nContent-Length: 3", "Content-Length: 2, 2"),
    *(
        "Content-Length: +2",
        "Content-Length: -2",
        "Content-Length: 0x2",
        "Content-Length: 2.0",
        "Content-Length: 2e0",
    ),
    *(
        "Content-Length:",
        "Content-Length: ,2",
        "Content-Length: 2 2",
        f"Content-Length: 2{C}",
        "Content-Length: \xb2",
    ),
    *("Content-Length: 99999999999999999999", "Content-Length : 2", "Content-Length: 2\r\ncontent-length: 2"),
    *("Content-Length: 2\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 2"),
    *("Transfer-Encoding: chunked\r\nContent-Length: 0", "Content-Length: x\r\nTransfer-Encoding: chunked"),
    *("Transfer-Encoding: gzip", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked, chunked"),
    *(
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked;q=1",
        f"Transfer-Encoding: {C}",
        "Transfer-Encoding:",
    ),
    *("Transfer-Encoding: chunked\x0b", "Transfer-Encoding: ,chunked", "Transfer-Encoding: chunked,"),
    *("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "Transfer-Encoding : chunked"),
    *("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", 'Transfer-Encoding: "chunked"'),
    *("Transfer-Encoding:\r\n chunked", "Transfer-Encoding: chunked\nX: 1", "Transfer\xadEncoding: chunked"),
]
CHUNKS = [
    *(f"zz{C}\r\n", "-1\r\nx\r\n", "+2\r\n{}\r\n0\r\n\r\n", "0x2\r\n{}\r\n0\r\n\r\n", " 2\r\n{}\r\n0\r\n\r\n"),
    *("2 \r\n{}\r\n0\r\n\r\n", "2\t\r\n{}\r\n0\r\n\r\n", "2\n{}\n0\n\n", "2\r\n{}\n0\r\n\r\n", "2\r\n{}0\r\n\r\n"),
    *(f"2\r\n{{}}{C}\r\n0\r\n\r\n", "\r\n{}\r\n", ";a\r\n{}\r\n", "ffffffffffffffff\r\n{}", "0000000000000002\r\n{}"),
    *(f"2;{C}\x00\r\n{{}}\r\n", f"2;a\n{C}\r\n{{}}\r\n", f"2;a\r{C}\r\n{{}}\r\n", f"2;{C * 40}\r\n{{}}\r\n"),
    *(
        "2" * 400,
        f"0\r\n{C}\r\n\r\n",
        f"0\r\n X: {C}\r\n\r\n",
        f"0\r\nX: a\r\n {C}\r\n\r\n",
        f"0\r\nX: {C}\x00\r\n\r\n",
    ),
    *(
        f"0\r\nX: {C}\n\r\n",
        f"0\r\n: {C}\r\n\r\n",
        f"0\r\n\n{C}\r\n",
        "2,2\r\n{}\r\n",
        "2\x0b\r\n{}\r\n",
        "\xb2\r\n{}\r\n",
    ),
]


def malformed(path: str) -> list[bytes]:
    """One request each, whole: what is wrong is in its head, or in the first bytes of its body."""
    texts = [f"{line}\r\nHost: localhost\r\n\r\n" for line in request_lines(path)]
    texts += [f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{field}\r\n\r\n" for field in FIELDS]
    texts += [f"GET {path} HTTP/1.1\r\n{field}\r\nHost: localhost\r\n\r\n" for field in FIELDS[:-4]]
    texts += [f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{field}\r\n\r\n{{}}" for field in LENGTHS]
    chunked = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    texts += [chunked + chunk for chunk in CHUNKS]
    texts += [
        f"GET {path} HTTP/1.1\r\n\r\n",
        f"GET {path} HTTP/1.1\r\nX: {C}\r\n\r\n",
        f"POST {path} HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n",
        f"GET {path} HTTP/1.1\nHost: localhost\n\n",
        f"GET {path} HTTP/1.1\r\nHost: localhost\n\n",
        f"GET {path} HTTP/1.1\rHost: localhost\r\r\n\r\n",
        f"GET {path} HTTP/1.1\nHost: localhost\r\n\r\n",
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX: {C}\n\r\n\r\n",
    ]
    return [text.encode("latin-1") for text in texts]


def check_refusal(answer: Answer, dialect: str, data: bytes, *, closes: bool = True) -> None:
    assert 400 <= answer.status < 600, data
    assert answer.get("connection") == "close" or not closes, data
    assert answer.get("content-type") == "application/json", data
    assert C.encode() not in answer.raw, data
    error = answer.json()
    if dialect == "anthropic":
        assert (error["type"], sorted(error["error"])) == ("error", ["message", "type"]), data
    elif dialect == "openai":
        assert {"message", "type", "param", "code"} <= error["error"].keys(), data
    else:
        assert isinstance(error["error"], str), data


def test_there_are_enough_malformed_requests() -> None:
    assert len(malformed("/")) + len(BARE_LINES) >= 100


@pytest.mark.parametrize("inference", [False, True], ids=["passed through", "inference"])
@pytest.mark.parametrize("dialect", ["ollama", "openai", "anthropic"])
async def test_a_malformed_request_is_refused_and_reaches_nobody(
    tmp_path: Path, dialect: str, inference: bool
) -> None:
    path = (INFERENCE if inference else PATHS)[dialect]
    async with world(tmp_path) as here:
        await probed(here)
        before = (*local_counts(here.local), here.local.accepted, here.cloud.accepted)
        tried = malformed(path)
        for data in tried:
            answer, closed = await send_and_read(here.port, data)
            check_refusal(answer, dialect, data)
            assert closed, data
            after = (*local_counts(here.local), here.local.accepted, here.cloud.accepted)
            assert after == before, data
        page = await ask(here.admin, "GET", "/metrics")
        assert C.encode() not in page.body
    assert C not in (tmp_path / "sidecar.log").read_text()
    assert not any("exception" in line for line in here.log())


@pytest.mark.parametrize("line", BARE_LINES)
async def test_bytes_without_a_path_are_refused_too(here: World, line: str) -> None:
    await probed(here)
    before = local_counts(here.local)
    data = line.encode("latin-1") + b"\r\nHost: localhost\r\n\r\n"
    answer, closed = await send_and_read(here.port, data)
    check_refusal(answer, "ollama", data)
    assert closed
    assert local_counts(here.local) == before


async def test_a_target_in_absolute_form_that_is_refused_is_answered_in_its_dialect(here: World) -> None:
    for dialect, path in PATHS.items():
        data = f"GET http://localhost{path} HTTP/1.1\r\nHost: localhost\r\nX: {C}\x00\r\n\r\n".encode()
        answer, closed = await send_and_read(here.port, data)
        check_refusal(answer, dialect, data)
        assert closed


@pytest.mark.parametrize("dialect", ["ollama", "openai", "anthropic"])
@pytest.mark.parametrize("inference", [False, True], ids=["passed through", "inference"])
async def test_a_body_that_breaks_later_is_refused_and_its_request_never_completes(
    here: World, dialect: str, inference: bool
) -> None:
    path = (INFERENCE if inference else PATHS)[dialect]
    for chunk in CHUNKS:
        async with connect(here.port) as client:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[[\r\n"
            await client.send(head.encode())
            await until(lambda: any(one.exchange is not None for one in clients(here)), "the request's exchange")
            data = chunk.encode("latin-1")
            await client.send(data)
            answer = await client.read("POST")
            check_refusal(answer, dialect, data)
            assert await client.closed(), data
    assert not [one for one in here.local.requests if one.target == path and one.outcome == "complete"]
    assert not [one for one in here.local.requests if one.target == path and one.body_read.is_set()]


async def test_what_no_client_sends_is_told_before_the_header_timeout(here: World) -> None:
    """A TLS handshake, another protocol: such a peer would wait for ten seconds to hear that this is HTTP."""
    for data in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x00\x00\x00\x08", b"\x05\x01\x00"):
        answer, closed = await send_and_read(here.port, data)
        assert (answer.status, closed) == (400, True)


# Smuggling.

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\nX: "


def valid() -> list[bytes]:
    body = b'{"model":"none"}'
    return [
        request("GET", "/api/tags"),
        request("HEAD", "/"),
        request("DELETE", "/api/delete", [], body),
        request("POST", "/api/show", [], body),
        request("POST", "/api/show", [("Content-Length", "0")]),
        request("POST", "/api/show", [], body, chunked=True),
        request("POST", "/api/show", [], b"", chunked=True),
        request("POST", "/api/chat", [], body),
        request("POST", "/api/chat", [], body, chunked=True),
        request("GET", "/api/tags", [("Connection", "keep-alive, Content-Length, Transfer-Encoding")]),
        request("POST", "/api/show", [("Connection", "Content-Length")], body),
        request("POST", "/api/show", [("Connection", "Transfer-Encoding")], body, chunked=True),
        request("POST", "/api/show", [("Content_Length", "3"), ("X-Content-Length", "3")], body),
        request("POST", "/api/show", [], b"0\r\n\r\n" + SMUGGLED + b"\r\n\r\n"),
        request("POST", "/api/show", [], SMUGGLED + b"\r\n\r\n", chunked=True),
        request("POST", "/api/show", [], body, chunked=True)[:-2] + b"Content-Length: 50\r\nHost: x\r\n\r\n",
        request("POST", "/api/show", [("Upgrade", "h2c"), ("Connection", "Upgrade")], body),
        request("GET", "/api/tags", version="HTTP/1.0"),
    ]


GARBAGE = [
    *(b"x", b"0\r\n\r\n", b"garbage\r\n\r\n", b"\x00\x00", SMUGGLED, b"GET /smuggled\r\n\r\n"),
    *(b"\r\n\r\n\r\n" + SMUGGLED,),
    *(b"GET /smuggled HTTP/1.1\nHost: localhost\n\n", b" GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    *(b"GET /smuggled HTTP/1.1\r\n\r\n", SMUGGLED + b"\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
    *(b"POST /smuggled HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",),
]  # fmt: skip


async def test_nothing_behind_a_request_becomes_another_one_that_we_did_not_read(here: World) -> None:
    await probed(here)
    sent = 0
    for data in valid():
        for garbage in GARBAGE:
            async with connect(here.port) as client:
                await client.send(data + garbage)
                await client.read(data.split(b" ")[0].decode())
                sent += 1
                client.writer.write_eof()
                await client.reader.read()
    seen = [one for one in here.local.requests if one.header("x-sidecar-probe") is None]
    ours = [
        one for one in seen if one.target in ("/api/show", "/api/tags") and one.header("accept") == "application/json"
    ]
    assert len(seen) - len(ours) == sent
    assert {one.target for one in seen} <= {"/", "/api/tags", "/api/show", "/api/delete", "/api/chat"}
    assert not here.local.unreadable
    # What was counted is what was read there, to the byte.
    bodies = {one.body for one in seen if one.target == "/api/show" and one not in ours}
    assert bodies == {b'{"model":"none"}', b"", b"0\r\n\r\n" + SMUGGLED + b"\r\n\r\n", SMUGGLED + b"\r\n\r\n"}


# Limits.

FAST = {"listen": {"header_timeout_seconds": 0.2}}


@pytest.mark.parametrize("dialect", ["ollama", "openai", "anthropic"])
async def test_a_header_that_does_not_end_in_time_is_408(tmp_path: Path, dialect: str) -> None:
    async with world(tmp_path, FAST) as here:
        await probed(here)
        before = local_counts(here.local)
        async with connect(here.port) as client:
            await client.send(f"GET {PATHS[dialect]} HTTP/1.1\r\nHost: localhost\r\nX: {C}".encode())
            answer = await client.read()
            check_refusal(answer, dialect, b"")
            assert answer.status == 408
            assert await client.closed()
        assert local_counts(here.local) == before


async def test_one_byte_at_a_time_does_not_hold_a_connection(tmp_path: Path) -> None:
    async with world(tmp_path, FAST) as here, connect(here.port) as client:

        async def drip() -> None:
            await client.send(b"GET / HTTP/1.1\r\n")
            while True:
                await client.send(b"X: y\r\n")
                await asyncio.sleep(0.01)

        slow = asyncio.create_task(drip())
        try:
            answer = await client.read()
        finally:
            slow.cancel()
            await asyncio.gather(slow, return_exceptions=True)
        assert answer.status == 408
        await until(lambda: not clients(here), "the end of the connection")


async def test_an_idle_connection_is_kept_and_the_time_runs_from_a_requests_first_byte(tmp_path: Path) -> None:
    async with world(tmp_path, FAST) as here, connect(here.port) as client:
        for _ in range(2):
            await client.send(request("GET", "/"))
            assert (await client.read()).status == 200
            await asyncio.sleep(0.3)  # longer than the header timeout, which is what this is about
        await client.send(b"\r\n")  # a stray line end starts no request
        await asyncio.sleep(0.3)
        await client.send(request("GET", "/"))
        assert (await client.read()).status == 200


async def test_a_header_of_just_the_limit_passes_and_one_byte_more_does_not(here: World) -> None:
    await probed(here)
    limit = 64 * 1024
    for size, status in ((limit, 200), (limit + 1, 431)):
        data = request("GET", "/api/tags", [("X", "")])
        data = data.replace(b"X: ", b"X: " + b"v" * (size - len(data)))
        assert len(data) == size
        before = local_counts(here.local)
        answer, _ = await send_and_read(here.port, data)
        assert answer.status == status
        assert (local_counts(here.local) == before) == (status == 431)


@pytest.mark.parametrize("dialect", ["ollama", "openai", "anthropic"])
async def test_a_header_that_is_too_large_is_431(here: World, dialect: str) -> None:
    await probed(here)
    path = PATHS[dialect]
    lines = b"".join(b"X-%d: %s\r\n" % (number, C.encode()) for number in range(4000))
    for data in (
        f"GET {path} HTTP/1.1\r\nX: ".encode() + C.encode() * 8000,
        f"GET {path}?".encode() + C.encode() * 8000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        f"GET {path} HTTP/1.1\r\n".encode() + lines + b"Host: localhost\r\n\r\n",
    ):
        before = local_counts(here.local)
        answer, closed = await send_and_read(here.port, data)
        check_refusal(answer, dialect, data[:50])
        assert (answer.status, closed) == (431, True)
        assert local_counts(here.local) == before


async def test_one_connection_too_many_is_told_so_and_a_place_is_free_again_later(tmp_path: Path) -> None:
    async with world(tmp_path, {"listen": {"max_connections": 2}}) as here:
        async with connect(here.port) as first, connect(here.port) as second:
            for client in (first, second):
                await client.send(request("GET", "/"))
                assert (await client.read()).status == 200
            async with connect(here.port) as third:
                answer = await third.read()
                check_refusal(answer, "ollama", b"")
                assert answer.status == 503
                assert await third.closed()
            await first.send(request("GET", "/"))
            assert (await first.read()).status == 200
        await until(lambda: not clients(here), "the end of the connections")
        assert (await ask(here.port, "GET", "/")).status == 200


MB = 1024 * 1024


@pytest.mark.parametrize("dialect", ["ollama", "openai", "anthropic"])
async def test_an_inference_body_over_the_limit_is_413(tmp_path: Path, dialect: str) -> None:
    path = INFERENCE[dialect]
    async with world(tmp_path, {"listen": {"max_inference_body_mb": 1}}) as here:
        await probed(here)
        before = local_counts(here.local)
        for size in (MB + 1, 40 * MB):
            counted = request("POST", path, [("Content-Length", str(size))])
            async with connect(here.port) as client:  # told before the body comes, and without a 100
                await client.send(counted.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
                answer = await client.read("POST")
                check_refusal(answer, dialect, counted)
                assert (answer.status, answer.interim) == (413, [])
                assert await client.closed()
        for data in (
            request("POST", path, [], b"x" * (MB + 1)),
            request("POST", path, [], b"x" * (8 * MB)),
            request("POST", path, [], b"x" * (MB + 1), chunked=True),
            request("POST", path, [("Transfer-Encoding", "chunked")], b"2\r\nxx\r\n" * (MB // 2 + 1) + b"0\r\n\r\n"),
        ):
            async with connect(here.port) as client:  # a client that first sends all of it still hears why
                await client.send(data)
                answer = await client.read("POST")
                check_refusal(answer, dialect, data[:80], closes=False)
                assert answer.status == 413
        assert local_counts(here.local) == before


async def test_an_inference_body_of_just_the_limit_passes(tmp_path: Path) -> None:
    async with world(tmp_path, {"listen": {"max_inference_body_mb": 1}}) as here:
        body = json.dumps({"model": "llama3", "prompt": "x", "stream": False}).encode()
        body += b" " * (MB - len(body))
        for chunked in (False, True):
            answer, _ = await send_and_read(
                here.port, request("POST", "/api/generate", [], body, chunked=chunked), "POST"
            )
            assert answer.status == 200


async def test_many_small_chunks_cost_no_more_memory_than_they_hold(here: World) -> None:
    """Two bytes to a chunk must not become an object each."""
    async with connect(here.port) as client:
        head = request("POST", "/api/chat", [("Transfer-Encoding", "chunked")])
        await client.send(head + b"2\r\nxx\r\n" * 100_000)
        exchange = None

        def read() -> bool:
            nonlocal exchange
            exchange = next((one.exchange for one in clients(here) if one.exchange is not None), None)
            return exchange is not None and exchange._size >= 200_000

        await until(read, "the body")
        assert exchange is not None
        assert len(exchange._pieces) < 1000


# The Host check.

GOOD_HOSTS = [
    *("localhost", "LOCALHOST:11434", "localhost.", "a.localhost", "printer.local", "Svc.Internal", "127.0.0.1"),
    *("10.1.2.3:80",),
    *("8.8.8.8", "[::1]", "[::1]:11434", "[fe80::1%25eth0]:1", "::1", "", "a.b.c.local:1", "allowed.example"),
    *("ALLOWED.example:5",),
]  # fmt: skip
BAD_HOSTS = [
    *("evil.example", "evil.example:11434", "localhost.evil.example", "127.0.0.1.evil.example", "local"),
    *("xlocalhost", "internal"),
    *("notlocal", "evil.example.", "127.0.0.1x", "2130706433", "0x7f.1", "127.1", "[::1].evil.example", "[::1]x"),
    *("[evil.example]",),
    *("[::1", "evil.example#.local", "evil.example/.local", "evil.example?.local", "evil.example@x.local"),
    *("user@localhost",),
    *("evil.example\\.local", "evil.example%00.local", "a b.local", "evil.example:80:local", "x.allowed.example"),
    *("\xe9.local",),
    *("localhost:evil", "localhost:11434x", "evil.example,x.local", "127.0.0.1, evil.example"),
]  # fmt: skip
OWN = {"listen": {"hosts": ["allowed.example"]}}


async def test_hosts_that_a_page_could_not_have_brought_pass(tmp_path: Path) -> None:
    import socket

    async with world(tmp_path, OWN) as here:
        for host in (*GOOD_HOSTS, socket.gethostname()):
            answer, _ = await send_and_read(here.port, request("GET", "/", [("Host", host)]))
            assert answer.status == 200, host


@pytest.mark.parametrize("dialect", ["ollama", "openai", "anthropic"])
async def test_other_hosts_get_403_in_the_clients_dialect(tmp_path: Path, dialect: str) -> None:
    async with world(tmp_path, OWN) as here:
        for host in BAD_HOSTS:
            for method, path, body in (
                ("GET", PATHS[dialect], b""),
                ("POST", INFERENCE[dialect], b'{"model":"llama3"}'),
            ):
                data = request(method, path, [("Host", host)], body)
                answer, _ = await send_and_read(here.port, data, method)
                assert answer.status == 403, host
                assert host.encode("latin-1") not in answer.body or host in ("local", "internal"), host
                error = answer.json()
                assert isinstance(error["error"], str if dialect == "ollama" else dict)
                assert ("type" in error) == (dialect == "anthropic")
                assert answer.get("x-request-id")
        # The target's own authority counts, whatever Host says.
        answer, _ = await send_and_read(here.port, request("GET", "http://evil.example/", [("Host", "localhost")]))
        assert answer.status == 403
        answer, _ = await send_and_read(here.port, request("GET", "http://localhost/", [("Host", "evil.example")]))
        assert answer.status == 200
        assert {one.target for one in here.local.requests} == {"/api/version", "/"}
        assert not here.cloud.requests


async def test_a_refused_host_keeps_its_connection_where_the_request_was_whole(here: World) -> None:
    async with connect(here.port) as client:
        for _ in range(2):
            await client.send(request("POST", "/api/chat", [("Host", "evil.example")], b'{"a":1}'))
            answer = await client.read("POST")
            assert (answer.status, answer.get("connection")) in ((403, None), (403, "close"))
            if answer.get("connection") == "close":
                assert await client.closed()
                return


async def test_malformed_requests_are_counted(here: World) -> None:
    before = await here.metrics()
    await send_and_read(here.port, b"GET / HTTP/9.9\r\n\r\n")
    await send_and_read(here.port, b"nonsense\r\n\r\n")
    after = await here.metrics()
    grown = {name: after[name] - before.get(name, 0) for name in after if "protocol_errors" in name}
    assert {value for name, value in grown.items() if 'status="505"' in name or '"505"' in name} == {1.0}
    assert {value for name, value in grown.items() if '"400"' in name} == {1.0}


async def test_a_flood_of_line_ends_is_no_request_and_holds_nothing(here: World) -> None:
    async with connect(here.port) as client:
        for _ in range(50):
            await client.send(b"\r\n" * 10_000)
        await client.send(request("GET", "/"))
        assert (await client.read()).status == 200
        assert all(not one._pending for one in clients(here))


async def test_the_local_server_is_asked_for_nothing_by_a_raw_peer_that_says_nothing(tmp_path: Path) -> None:
    async with (
        RawPeer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as peer,
        before_peer(tmp_path, peer) as running,
    ):
        async with connect(running.port) as client:
            await client.send(b"G")
            client.leave()
        await until(lambda: not clients(running), "the end of the connection")
        assert not peer.heard


def test_the_stand_in_would_see_what_gets_through() -> None:
    assert local_counts(StandInOllama([StandInModel("x")])) == (0, 0)
